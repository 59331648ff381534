"The blend on every kind of Pillow picture: acceptance tests 1, 3, 4, 8, 10"
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_image
from fastai_ext.vision.mark import Mark
from fastai_ext.vision.placement import Placement
from fastai_ext.vision.stamp import blend_, stamp, stampable

arr = np.asarray
china = Image.fromarray(load_sample_image('china.jpg'))

def noise(size, mode='RGB', seed=0):
    n = {'L':1, 'LA':2, 'RGB':3, 'RGBA':4, 'CMYK':4}[mode]
    values = np.random.default_rng(seed).integers(0, 256, size[0]*size[1]*n, dtype=np.uint8)
    return Image.frombytes(mode, size, values.tobytes())

def rule(bg, fg, m, full=255):
    "The blend in exact arithmetic: floor(bg(1-a) + fg a + 1/2) with a = m/full"
    bg,fg,m = (arr(o).astype(object) for o in (bg,fg,m))
    if bg.ndim>m.ndim: m = m[...,None]
    return ((2*(bg*(full-m)+fg*m)+full)//(2*full)).astype(np.int64)

speckled = noise((30,20), 'RGBA')
marks = st.sampled_from([Mark('© Ágjpqy', size=.5), Mark('two\nlines', size=.4, rotate=20, stroke=.1, color='gold',
                                                         opacity=.73),
                         Mark('x', pos='tile', size=.1), Mark(logo=speckled, size=.4, pos='random', opacity=.5),
                         Mark(logo=speckled, size=1.7, fit='clip', opacity=1)])

@given(mark=marks, w=st.integers(1,120), h=st.integers(1,120), seed=st.integers(0,99))
@settings(max_examples=80, deadline=None)
def test_01_rgb_follows_the_rule(mark, w, h, seed):
    im = noise((w,h), seed=seed)
    before,p = im.tobytes(),mark.place((w,h), seed)
    out = stamp(im, mark, seed)
    assert out.mode == 'RGB' and im.tobytes() == before and out is not im
    assert np.array_equal(arr(out), rule(im, p.foreground(), p.alpha()))
    layer = p.foreground()
    layer.putalpha(p.alpha())
    assert np.array_equal(arr(out), arr(Image.alpha_composite(im.convert('RGBA'), layer).convert('RGB')))
    outside = np.ones((h,w), bool)
    for (l,t,r,b),_ in p.pieces(): outside[t:b,l:r] = False
    assert np.array_equal(arr(out)[outside], arr(im)[outside])

def test_03_known_values():
    red,base = Image.new('RGBA', (4,4), (255,0,0,255)),Image.new('RGB', (4,4), (100,)*3)
    on = lambda opacity, logo=red: stamp(base, Mark(logo=logo, size=1, margin=0, opacity=opacity)).getpixel((1,1))
    assert on(.5) == (178,50,50) and on(0) == (100,)*3 and on(1) == (255,0,0)
    assert on(.5, Image.new('RGBA', (4,4), (255,0,0,128))) == (139,75,75)
    assert not Mark('a', opacity=0).place((50,50))

@given(mark=marks, seed=st.integers(0,99), mode=st.sampled_from(['RGBA','LA']))
@settings(max_examples=40, deadline=None)
def test_04_alpha_of_the_base_is_composited(mark, seed, mode):
    im = noise((70,50), mode, seed)
    p,out = mark.place(im.size, seed),stamp(im, mark, seed)
    af,ab = arr(p.alpha())/255,arr(im.getchannel('A'))/255
    ao = af+ab*(1-af)
    assert out.mode == mode and np.abs(arr(out.getchannel('A'))/255-ao).max() <= 1/255
    if mode == 'RGBA':
        fg,bg,af,ab = arr(p.foreground())/255,arr(im)[...,:3]/255,af[...,None],ab[...,None]
        want = (fg*af+bg*ab*(1-af))/np.maximum(ao[...,None], 1e-9)
        assert (np.abs(arr(out)[...,:3]/255-want)*(ao[...,None]>.05)).max() <= 1.5/255
    opaque = im.copy()
    opaque.putalpha(255)
    assert arr(stamp(opaque, mark, seed).getchannel('A')).min() == 255

@pytest.mark.parametrize('o', range(1,9))
@pytest.mark.parametrize('mark', [Mark('© me', rotate=15), Mark(logo=noise((31,17), 'RGBA'), pos=(.21,.83), size=.37),
                                  Mark('ab', pos='tile', size=.13),
                                  Mark('long', pos='random', size=1.3, rel='height', fit='clip')],
                                  ids=lambda m: repr(m)[:20])
def test_08_the_mark_is_turned_not_the_picture(o, mark):
    im = noise((83,57))
    exif = im.getexif()
    exif[0x0112] = o
    im.info['exif'] = exif.tobytes()
    out = stamp(im, mark)
    assert out.size == im.size and out.getexif()[0x0112] == o
    upright = lambda x: ImageOps.exif_transpose(x)
    assert np.array_equal(arr(upright(out)), arr(stamp(upright(im), mark)))
    flat = stamp(im, mark, orient=False)
    assert np.array_equal(arr(flat), arr(stamp(Image.fromarray(arr(im)), mark)))

def test_08_a_tiff_that_is_not_read_yet(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    noise((83,57)).save(tmp_path/'a.tif', exif=exif)
    mark = Mark('© me', size=.5)
    with Image.open(tmp_path/'a.tif') as im, Image.open(tmp_path/'a.tif') as again:
        out = stamp(im, mark)
        again.load()
        assert out.size == again.size and np.array_equal(arr(out), arr(stamp(Image.fromarray(arr(again)), mark)))

def test_10_sixteen_bits_by_the_same_rule():
    px = np.random.default_rng(0).integers(0, 65536, (60,90)).astype(np.uint16)
    logo = noise((40,25), 'RGBA')
    mark = Mark(logo=logo, size=.5, opacity=.37)
    p = mark.place((90,60))
    (l,t,r,b),_ = next(p.pieces())
    fg,a = arr(p.patch.fg.convert('L')).astype(int)*257,arr(p.patch.a).astype(int)*257
    want = px.astype(int)
    want[t:b,l:r] = rule(px[t:b,l:r], fg, np.floor(a*.37+.5).astype(int), 65535)
    for mode in ('I;16','I;16B','I'):
        dtype = {'I;16':'<u2', 'I;16B':'>u2', 'I':np.int32}[mode]
        im = Image.frombytes(mode, (90,60), px.astype(dtype).tobytes())
        out = stamp(im, mark)
        assert out.mode == mode
        got = np.frombuffer(out.tobytes(), dtype).reshape(60,90)
        assert np.array_equal(got, want), mode
    full = stamp(Image.fromarray(px), Mark(logo=Image.new('L', (5,5), 255), size=.3, opacity=1))
    assert (arr(full) == 65535).sum() >= 27*27

def test_10_modes_stay_or_become_what_can_hold_the_mark():
    want = {'1':'L', 'P':'RGB', 'PA':'RGBA', 'La':'LA', 'RGBa':'RGBA', 'HSV':'RGB', 'RGBX':'RGB'}
    through = {'PA':'P', 'La':'LA', 'RGBa':'RGBA'}
    for mode in ('1','L','LA','P','PA','La','RGB','RGBA','RGBa','RGBX','CMYK','YCbCr','HSV','I','F'):
        im = china.resize((64,48))
        im = im.convert(through.get(mode, mode)).convert(mode)
        before = im.tobytes()
        out = stamp(im, Mark('© me', size=.5, color='red'))
        assert out.mode == want.get(mode, mode) and im.tobytes() == before and out.tobytes() != stampable(im).tobytes()

def test_10_grey_cmyk_and_float_values():
    mark = Mark(logo=noise((20,20), 'RGBA'), size=.5, opacity=.6)
    p = mark.place((40,40))
    for mode in ('L','CMYK'):
        im = noise((40,40), mode)
        assert np.array_equal(arr(stamp(im, mark)), np.where(arr(p.alpha())[...,None] if mode=='CMYK'
                                                             else arr(p.alpha()),
                                                             rule(im, p.foreground().convert(mode), p.alpha()),
                                                             arr(im)))
    f = Image.fromarray(np.random.default_rng(0).random((40,40), dtype=np.float32)*255)
    err = np.abs(arr(stamp(f, mark))-arr(stamp(Image.fromarray(arr(f).round().astype(np.uint8)), mark)).astype(float))
    assert err.max() <= 1.6

def test_10_colour_key_transparency_becomes_alpha():
    im = Image.new('P', (40,40), 0)
    im.putpalette([10,20,30, 200,0,0])
    im.paste(1, (0,0,20,40))
    im.info['transparency'] = 0
    out = stamp(im, Mark('a', pos='tl', size=.2))
    assert out.mode == 'RGBA' and out.getpixel((39,39))[3] == 0 and out.getpixel((5,39)) == (200,0,0,255)
    rgb = Image.new('RGB', (40,40), (1,2,3))
    rgb.info['transparency'] = (1,2,3)
    assert stamp(rgb, Mark('a', size=.2)).getchannel('A').getextrema()[0] == 0

def test_a_placement_is_blended_as_it_is():
    p = Mark('© me', pos='random').place(china.size, 5, 'k')
    assert stamp(china, p).tobytes() == stamp(china, Mark('© me', pos='random'), 5, 'k').tobytes()
    assert stamp(china, Placement(china.size, None)).tobytes() == china.tobytes()
    with pytest.raises(ValueError, match='placement is for 640x427 pixels and the picture has 5x5'):
        stamp(Image.new('RGB', (5,5)), p)
    with pytest.raises(ValueError, match="mode 'LAB' cannot be stamped; convert first"):
        stamp(Image.new('LAB', (50,50)), Mark('a'))
    im = china.copy()
    assert blend_(im, p) is im and im.tobytes() == stamp(china, p).tobytes()
