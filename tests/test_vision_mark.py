"What a mark is and where it goes: acceptance tests 5, 6, 7, 12, the mark's part of 15, and bad input"
import re, pickle, subprocess, sys, warnings
from pathlib import Path
import matplotlib, numpy as np, pytest
from hypothesis import given, settings, strategies as st
from PIL import Image, ImageDraw, ImageFont, features
from fastai_ext.vision.mark import Mark
from fastai_ext.vision.sampler import MarkSampler, random_texts
from fastai_ext.vision.letters import missing_glyphs, text_masks, text_size
from fastai_ext.vision.patch import Logo, drawn
from fastai_ext.vision.stamp import stamp

FONTS = Path(matplotlib.get_data_path())/'fonts'/'ttf'
REGULAR,ITALIC = str(FONTS/'DejaVuSans.ttf'),str(FONTS/'DejaVuSerif-BoldItalic.ttf')
arr = np.asarray

def solid(colour=(255,0,0), size=(40,20), alpha=255): return Image.new('RGBA', size, (*colour,alpha))

def test_05_no_halo_from_colour_under_transparent_pixels():
    logo = Image.new('RGBA', (200,200), (0,0,0,0))
    logo.paste((255,255,255,255), (50,50,150,150))
    for kw in (dict(size=.31), dict(size=.5, rotate=33), dict(size=3., fit='clip')):
        out = stamp(Image.new('RGB', (120,90), 'white'), Mark(logo=logo, pos='c', opacity=1, **kw))
        assert out.getextrema() == ((255,255),)*3
    # hard edges, turned
    assert stamp(Image.new('RGB', (400,300), 'white'), Mark(logo=logo, size=.5, rotate=33,
                                                            opacity=1)).getextrema() == ((255,255),)*3
    for change in (lambda b: b.resize((37,37), Image.Resampling.BILINEAR),
                   lambda b: b.rotate(33, Image.Resampling.BICUBIC)):
        r,g,b,a = map(change, logo.split())  # plain alpha shows a grey rim
        assert Image.composite(Image.merge('RGB', (r,g,b)), Image.new('RGB', r.size, 'white'),
                               a).getextrema()[0][0] < 240

@pytest.mark.parametrize('text,font,stroke,align', [
    ('Ágjpqy', REGULAR, 0, 'left'), ('Ágjpqy', REGULAR, .08, 'left'), ('fjord, Ágjpqy f', ITALIC, 0, 'left'),
    ('fÅf', ITALIC, .1, 'left'),
    ('Ágjpqy\nsecond, longer line\nf', ITALIC, .05, 'center'), ('one\nfj', REGULAR, 0, 'right')])
def test_06_all_ink_is_there(text, font, stroke, align):
    for px in (150, 400):  # letters of 8 pixels and more: smaller ones are drawn at 16 and averaged
        fill,whole = text_masks(text, px, font=font, stroke=stroke, align=align)
        ours = whole if stroke else fill
        size = 100*px/text_size(text, font, stroke, align)[0]
        big = Image.new('L', (px*3+400, px*3+400))
        ImageDraw.Draw(big).multiline_text((px+200,px+200), text, fill=255, stroke_fill=255,
                                           font=ImageFont.truetype(font, size), stroke_width=stroke*size,
                                           spacing=.2*size, align=align)
        assert arr(ours).sum() == arr(big).sum() and ours.size == big.crop(big.getbbox()).size
        assert np.array_equal(arr(ours), arr(big.crop(big.getbbox())))

def test_06_turned_text_keeps_its_ink():
    flat,turned = (Mark('Ágjpqy', rotate=r).draw(200, float(r)).a for r in (0,37))
    assert abs(arr(turned).sum()/arr(flat).sum()-1) < .01

def test_07_missing_glyph_is_named_with_the_fix():
    with pytest.raises(ValueError, match=r"no glyph for '水' \(U\+6C34\), '印' \(U\+5370\); give"): Mark('© 水印 水')
    for ok in ('é – € Я Ω ©', 'naïve\nfaçade', 'e\u0301 a\u200db'): Mark(ok)
    with pytest.raises(ValueError, match=r"'é'|no glyph"): Mark('é', font=str(FONTS/'cmsy10.ttf'))

def test_07_glyphs_agree_with_fonttools():
    from fontTools.ttLib import TTFont
    cmap = TTFont(REGULAR).getBestCmap()
    chars = [chr(c) for c in range(0x21, 0x3100, 7) if chr(c).isprintable()]
    assert missing_glyphs(''.join(chars)) == [c for c in chars if ord(c) not in cmap]

def test_07_right_to_left_without_shaping_warns():
    with pytest.warns(UserWarning, match='right to left'): Mark('مرحبا', layout='basic')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        Mark('hello', layout='basic')
        if features.check('raqm'): Mark('مرحبا')
    if features.check('raqm'):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            assert Mark('سلام').draw(100).a.tobytes() != Mark('سلام', layout='basic').draw(100).a.tobytes()

BDF = """STARTFONT 2.1
FONT one
SIZE 8 75 75
FONTBOUNDINGBOX 8 8 0 0
STARTPROPERTIES 2
FONT_ASCENT 8
FONT_DESCENT 0
ENDPROPERTIES
CHARS 1
STARTCHAR A
ENCODING 65
SWIDTH 1000 0
DWIDTH 8 0
BBX 8 8 0 0
BITMAP
%s
ENDCHAR
ENDFONT
"""

def bitmap_font(path):
    "A font that, as colour emoji fonts do, holds pictures of one size and no outlines"
    path.write_text(BDF % '\n'.join(['7E']*8))
    return str(path)

def test_07_font_of_fixed_sizes_says_so(tmp_path):
    with pytest.raises(ValueError, match='pictures of fixed sizes .* give that as logo='):
        Mark('A', font=bitmap_font(tmp_path/'one.pcf'))

def test_12_logo_twice_the_picture_for_each_fit():
    base,logo = Image.new('RGB', (50,30), 'black'),solid((255,255,255), (100,60))
    kw = dict(logo=logo, size=2., opacity=1, margin=0)
    assert arr(stamp(base, Mark(**kw, fit='shrink'))).min() == 255
    assert arr(stamp(base, Mark(**kw, fit='clip'))).min() == 255
    assert arr(stamp(base, Mark(**kw, fit='skip'))).max() == 0
    assert not Mark(**kw, fit='skip').place(base.size)
    with pytest.raises(ValueError, match=r'100x60 pixels the mark does not fit into 50x30; give a smaller size'):
        stamp(base, Mark(**kw, fit='raise'))
    assert Mark(**{**kw, 'margin':.1}, fit='shrink').place(base.size).patch.size == (40,24)
    left = Image.new('RGBA', (100,60), 'red')
    left.paste('blue', (50,0,100,60))
    at = lambda pos: stamp(base, Mark(logo=left, size=2., opacity=1, margin=0, fit='clip', pos=pos)).getpixel((25,15))
    assert at('l') == (255,0,0) and at('r') == (0,0,255)

def test_12_one_pixel_and_positions_outside():
    for size in ((1,1), (1,50), (50,1)):
        for m in (Mark('© me'), Mark('© me', rotate=45, stroke=.1), Mark(logo=solid()), Mark('x', pos='tile'),
                  Mark('a\nb', rel='height', pos='random')):
            assert stamp(Image.new('RGB', size), m).size == size
    base = Image.new('RGB', (100,100), 'black')
    m = Mark(logo=solid((255,255,255), (10,10)), size=.2, margin=0, opacity=1, pos=(-.125,.5))
    assert m.place(base.size).xy == ((-10,40),)
    out = arr(stamp(base, m))[...,0]
    assert out.sum() == 10*20*255 and out[40:60,:10].min() == 255
    assert not m.new(fit='skip').place(base.size)
    with pytest.raises(ValueError, match='does not fit'): m.new(fit='raise').place(base.size)

NINE = {'tl':(0,0), 't':(.5,0), 'tr':(1,0), 'l':(0,.5), 'c':(.5,.5), 'r':(1,.5), 'bl':(0,1), 'b':(.5,1), 'br':(1,1)}

@given(w=st.integers(20,300), h=st.integers(20,300), pos=st.sampled_from(list(NINE)), size=st.floats(.05,.9),
       margin=st.floats(0,.2))
@settings(max_examples=60, deadline=None)
def test_12_nine_positions(w, h, pos, size, margin):
    p = Mark(logo=solid(size=(30,20)), pos=pos, size=size, margin=margin).place((w,h))
    mg = min(int(margin*min(w,h)+.5), (min(w,h)-1)//2)
    (x,y),(pw,ph),(fx,fy) = p.xy[0],p.patch.size,NINE[pos]
    assert pw <= max(w-2*mg, 1) and ph <= max(h-2*mg, 1)
    assert abs(x-(mg+fx*(w-2*mg-pw))) <= .5 and abs(y-(mg+fy*(h-2*mg-ph))) <= .5

@given(w=st.integers(1,200), h=st.integers(1,200), size=st.floats(.01,4), rotate=st.floats(-360,360),
       rel=st.sampled_from(['width','height','short']),
       text=st.booleans(), seed=st.integers(0,9))
@settings(max_examples=60, deadline=None)
def test_12_shrunk_marks_stay_inside(w, h, size, rotate, rel, text, seed):
    m = Mark(**(dict(text='Ágj') if text else dict(logo=solid())), size=size, rotate=rotate, rel=rel, pos='random',
             margin=0)
    p = m.place((w,h), seed)
    (x,y),(pw,ph) = p.xy[0],p.patch.size
    assert (0<=x and 0<=y and x+pw<=w and y+ph<=h) or min(w,h) < 8  # a turned pixel needs a few

def test_size_is_measured_against_rel():
    logo = solid(size=(60,20))
    for rel,want in (('width',(100,33)), ('height',(150,50)), ('short',(50,17))):
        assert Mark(logo=logo, size=.25 if rel!='width' else .25, rel=rel).place((400,200)).patch.size == want
    for px in (37,120,401):
        w,h = text_masks('© me and you', px)[0].size
        assert abs(w-px) <= max(2, .02*px)
    assert abs(text_masks('© me', 50, axis=1)[0].size[1]-50) <= 2

def test_tiles_cover_without_overlap():
    for jitter,rotate in ((0,0), (1,0), (1,30)):
        p = Mark(logo=solid(), size=.1, pos='tile', gap=.4, jitter=jitter, rotate=rotate).place((300,200), 3)
        count = np.zeros((200,300), int)
        for (l,t,r,b),_ in p.pieces(): count[t:b,l:r] += 1
        assert count.max() == 1 and len(p.xy) > 20
        assert all(count[y:y+100,x:x+100].any() for y in (0,100) for x in (0,100,200))
    with pytest.raises(ValueError, match='over 100,000'): Mark('x', size=1e-4, pos='tile', gap=0).place((3000,3000))

def test_ranges_are_drawn_inside_and_alike():
    m = Mark('© me', size=(.1,.3), pos='random', opacity=(.3,.7), rotate=(-30,30), margin=(0,.1))
    ps = [m.place((200,100), seed=1, key=i) for i in range(200)]
    assert len({p.xy for p in ps}) > 150 and len({p.patch.size for p in ps}) > 50
    ops = [p.patch.opacity for p in ps]
    assert .3-1/255 <= min(ops) < .35 and .65 < max(ops) <= .7+1/255
    corner = [Mark('a', pos=['tl','br'], margin=0).place((90,90), key=i).xy[0] for i in range(40)]
    assert len(set(corner)) == 2
    box = [Mark(logo=solid(size=(10,10)), size=.1, pos=((.2,.4),.5), margin=0).place((100,100), key=i).xy[0]
           for i in range(50)]
    assert {y for _,y in box} == {45} and min(x for x,_ in box) >= 18 and max(x for x,_ in box) <= 36

def test_15_placement_is_the_same_in_another_process_and_after_pickling():
    m = Mark('© me', size=(.1,.3), pos='random', opacity=(.3,.7), rotate=(-30,30))
    there = subprocess.run([sys.executable, '-c', 'import pickle,sys,zlib; m=pickle.load(sys.stdin.buffer); '
                                                  'p=m.place((300,200),7,"a.jpg"); '
        'print(p.xy, p.patch.opacity, zlib.crc32(p.alpha().tobytes()))'], input=pickle.dumps(m), capture_output=True,
        check=True, timeout=120).stdout.decode().strip()
    import zlib
    p = m.place((300,200), 7, 'a.jpg')
    assert there == f"{p.xy} {p.patch.opacity} {zlib.crc32(p.alpha().tobytes())}"
    for o in (m, Mark(logo=solid()), MarkSampler(texts=3, logos=[solid(), solid((0,255,0))])):
        back = pickle.loads(pickle.dumps(o))
        assert repr(back) == repr(o) and back.place((64,64), 3,
                                                    'k').alpha().tobytes() == o.place((64,64), 3, 'k').alpha().tobytes()

def test_equal_marks_are_equal_and_drawn_once(tmp_path):
    solid().save(tmp_path/'logo.png')
    a,b,c = Mark(logo=str(tmp_path/'logo.png')),Mark(logo=solid()),Mark(logo=solid((1,2,3)))
    assert a == b and hash(a) == hash(b) and a != c and len({a,b,c}) == 2
    assert Mark('x').new(size=.5) == Mark('x', size=.5) and Mark('x',
                                                                 pos=['tl','br']).new() == Mark('x', pos=['tl','br'])
    assert a.place((64,64)).patch is b.place((64,64)).patch
    with pytest.raises(AttributeError, match=r'mark.new\(size=.5\)|mark.new\(size=0.5\)'): a.size = .5
    drawn.clear()  # other tests may have filled it
    before = drawn.used
    for i in range(300): Mark('cache', size=(.2,.9), pos='random').place((2000,1500), i)
    assert before <= drawn.used <= drawn.limit

def test_repr_makes_the_mark_again():
    m = Mark('© me', pos=['tl','br'], size=(.1,.2), color='gold', rotate=(-3,3), fit='clip')
    assert eval(repr(m)) == m and repr(Mark('a')) == "Mark(text='a')"

@pytest.mark.parametrize('kw,words', [
    (dict(), 'give either text= or logo=, one of them'), (dict(text='a', logo='b.png'), 'not both'),
    (dict(text='  '), 'nothing to draw'),
    (dict(text='a', opacity=1.5), r'opacity=1.5 is not a number from 0 to 1'),
    (dict(text='a', opacity=(.7,.3)), 'low, high'),
    (dict(text='a', opacity='x'), 'opacity='), (dict(text='a', size=0), 'size=0'),
    (dict(text='a', size=float('nan')), 'size=nan'),
    (dict(text='a', rotate=400), 'of degrees'), (dict(text='a', margin=.6), 'margin'),
    (dict(text='a', pos='middle'), "pos='middle' is not a place"),
    (dict(text='a', pos=(.1,.2,.3)), 'pos='), (dict(text='a', pos=['tl','random']), 'pos='),
    (dict(text='a', rel='long'), 'rel='),
    (dict(text='a', fit='cut'), 'fit='), (dict(text='a', color='reddish'), 'is no colour'),
    (dict(text='a', color='#ffffff80'), 'opacity='),
    (dict(text='a', font='No Such Font'), 'no font is called'), (dict(text='a', font='nowhere/a.ttf'), 'no font file'),
    (dict(text='a', align='middle'), 'align='), (dict(text='a', layout='x'), 'layout='),
    (dict(text='a', stroke=(0,1)), 'cannot be a range'),
    (dict(text='a', gap=-1), 'gap='), (dict(text='a', direction='up'), 'direction='),
    (dict(logo='nowhere.png'), 'no logo file'),
    (dict(logo=7), 'neither a path nor'), (dict(logo=Image.new('RGBA', (5,5))), 'wholly transparent')])
def test_bad_arguments_say_what_and_how(kw, words):
    with pytest.raises(ValueError, match=words) as e: Mark(**kw)
    assert '\n' not in str(e.value)

def test_broken_logo_and_font_files(tmp_path):
    (tmp_path/'a.png').write_bytes(b'no picture')
    with pytest.raises(ValueError, match='not a picture that Pillow reads'): Mark(logo=tmp_path/'a.png')
    solid(size=(300,300)).save(tmp_path/'b.png')
    (tmp_path/'b.png').write_bytes((tmp_path/'b.png').read_bytes()[:60])
    with pytest.raises(ValueError, match='cannot be read'): Mark(logo=tmp_path/'b.png')
    (tmp_path/'c.ttf').write_bytes(b'no font')
    with pytest.raises(ValueError, match='font file .* cannot be read'): Mark('a', font=str(tmp_path/'c.ttf'))

def test_logos_of_every_mode():
    rgb = Image.new('RGB', (8,8), (10,200,30))
    for mode in ('1','L','LA','P','RGB','RGBA','CMYK','I;16','YCbCr'):
        im = rgb.convert(mode) if mode != 'I;16' else Image.fromarray(np.full((8,8), 40000, np.uint16))
        got = Logo(im).rgba.getpixel((4,4))
        assert got == ((156,)*3+(255,) if mode=='I;16' else im.convert('RGB').convert('RGBA').getpixel((4,4)))
    im = rgb.resize((8,4))
    im.getexif()[0x0112] = 6
    assert Logo(im).size == (4,8)

def test_14_sampler_keeps_training_and_validation_logos_apart(tmp_path):
    logos = [solid((i*20,0,0), (10+i,10)) for i in range(10)]
    for i,l in enumerate([*logos, logos[0], logos[3]]): l.save(tmp_path/f'{i}.png')  # two logos under two names each
    s = MarkSampler(texts=['one','two'], logos=tmp_path, colors=['red','gold'], pos='random', size=(.1,.4))
    train,valid = ({m.logo.digest for m in (s.choose(key=i, split=k) for i in range(400)) if m.logo} for k in (0,1))
    assert not train & valid and len(train) == 8 and len(valid) == 2
    assert {s.choose(key=i).text for i in range(100)} == {'one','two',None}
    assert repr(s.choose(key='a')) == repr(s.choose(key='a'))
    assert s.place((50,40), 1, 'a').xy == s.place((50,40), 1, 'a').xy
    assert MarkSampler(logos=[*logos]).logos == MarkSampler(logos=[*reversed(logos)]).logos
    one = MarkSampler(logos=logos[:1], valid_pct=0)
    assert one.choose(split=1) == one.choose(split=0)

def test_sampler_says_what_is_wrong(tmp_path):
    for kw,words in ((dict(), 'texts=, logos='), (dict(logos=[solid()]), 'cannot be split'),
                     (dict(texts=['水']), 'no glyph'),
                     (dict(texts=['a'], opacity=2), 'opacity'), (dict(texts=['a'], valid_pct=1.), 'valid_pct'),
                     (dict(logos=tmp_path/'none'), 'not a folder'),
                     (dict(texts=['a'], colors=['nope']), 'colour')):
        with pytest.raises(ValueError, match=words): MarkSampler(**kw)
    assert len(set(random_texts(500, 3))) == 500 and random_texts(5) == random_texts(5) != random_texts(5, 1)

def test_what_is_no_mark_is_said_at_once(tmp_path):
    from fastai.vision.core import PILImage
    from fastai_ext.vision.augment import Watermark, WatermarkBatch
    from fastai_ext.vision.folder import stamp_folder
    from fastai_ext.vision.save import save_stamped
    from fastai_ext.vision.stamp import stamp
    im = PILImage.create(np.zeros((8,8,3), np.uint8))
    for f in (lambda: Watermark('© me'), lambda: WatermarkBatch('© me'), lambda: stamp(im, '© me'),
              lambda: stamp_folder(tmp_path, tmp_path/'d', '© me'),
              lambda: save_stamped(tmp_path/'a.jpg', tmp_path/'b.jpg', '© me')):
        with pytest.raises(ValueError, match=r"mark='© me' is no mark; write Mark\('© me'\)"): f()
    for f,words in ((lambda: stamp(tmp_path/'a.jpg', Mark('x')), 'is no picture'),
                    (lambda: MarkSampler(texts='© me'), 'is one text'),
                    (lambda: MarkSampler(texts=['a'], color=['white','gold']), 'colors='),
                    (lambda: Mark('x', pos=('tl',.5)), r"\['tl','br'\]"),
                    (lambda: Mark('x', size=40), "give rel='pixels'")):
        with pytest.raises(ValueError, match=words): f()

def test_a_mark_imported_before_fastai_says_why():
    "`from fastai.vision.all import *` brings fastcore's HTML element of the same name"
    from fastcore.xml import Mark as html
    import fastai_ext.vision.augment  # noqa: F401  as fastai_ext.all does
    with pytest.raises(ValueError, match='import fastai_ext after fastai'): html.hard('© me')
    assert html('x').tag == 'mark'  # it is still the element
    from fastai_ext.vision.stamp import stamp
    with pytest.raises(ValueError, match='import fastai_ext after fastai'):
        stamp(Image.new('RGB', (9,9)), html('© Ada'))

def test_pixels_are_pixels():
    for w in (200, 900): assert abs(Mark('hello', size=60, rel='pixels').place((w,300)).patch.size[0] - 60) <= 1

def test_an_old_pickle_of_arguments_opens(tmp_path):
    m = Mark('© {name}', color='auto', pos=['tl','br'], size=(.1,.2))
    again = pickle.loads(pickle.dumps(m))
    assert again == m and hash(again) == hash(m) and eval(repr(m)) == m and again.looks and again.fields == ('name',)

CONTROL = {'a\tb':'U+0009', 'a\x07':'U+0007', 'a\rb':'U+000D', 'a\u2028b':'U+2028', 'a\ud800':'U+D800', '\0':'U+0000'}

@pytest.mark.parametrize('text', CONTROL, ids=repr)
def test_14_control_characters_are_refused_by_name(text):
    with pytest.raises(ValueError, match=f'cannot be drawn.*{re.escape(CONTROL[text])}.*take them out'): Mark(text)

def test_14_lines_of_windows_are_lines():
    assert Mark('two\r\nlines') == Mark('two\nlines')
    with pytest.raises(ValueError, match='text=3 is no text'): Mark(3)

def test_a_hard_mark_takes_other_arguments_in_place_of_its_own():
    m = Mark.hard('© me', opacity=.5)
    same = Mark('© me', size=(.3,.5), opacity=.5, pos='tile', rotate=(-40,40), jitter=1, gap=(.3,.6), stroke=.06)
    assert (m.pos,m.opacity,m.stroke) == ('tile',.5,.06) and m == same
    a,b = (m.place((400,300), seed=0, key=k) for k in 'ab')
    assert len(list(a.pieces())) > 3 and arr(a.alpha()).tobytes() != arr(b.alpha()).tobytes()

def test_a_text_without_ink_is_named():
    "A space of no width is a letter that the font has, and nothing is to be seen"
    with pytest.raises(ValueError, match=r"text='.u200b' has no ink in the font DejaVuSans.ttf; give another text"):
        Mark('\u200b').place((200,100))

def test_a_format_that_does_not_fit_what_a_picture_says(tmp_path):
    e = Image.Exif()
    e[315] = 'Ann'
    im = Image.new('RGB', (120,80))
    im.save(tmp_path/'a.jpg', exif=e)
    said = "format '%Y' does not fit the artist 'Ann'"
    with Image.open(tmp_path/'a.jpg') as im, pytest.raises(ValueError, match=said):
        stamp(im, Mark('© {artist:%Y}'))

def test_a_name_that_is_no_utf8_is_read_as_latin1(tmp_path):
    "As programs of the nineties wrote it"
    e = Image.Exif()
    e[315] = 'Jörg'.encode('latin1')
    Image.new('RGB', (120,80)).save(tmp_path/'a.jpg', exif=e)
    with Image.open(tmp_path/'a.jpg') as im:
        assert stamp(im, Mark('{artist}')).tobytes() == stamp(im, Mark('Jörg')).tobytes()
