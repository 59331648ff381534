"Files keep what they carry: acceptance tests 8 (files), 9, 11, 17 (one picture) and 18 (one file)"
import os, shutil, struct, warnings, zlib
import numpy as np, pytest
from PIL import Image, ImageDraw, ImageOps, ImageSequence, JpegImagePlugin
from PIL.PngImagePlugin import PngInfo
from sklearn.datasets import load_sample_image
from fastai_ext.vision.mark import Mark
from fastai_ext.vision.files.jpeg import jpeg_tables
from fastai_ext.vision.files.gif import gif_palette
from fastai_ext.vision.save import save_stamped
from fastai_ext.vision.stamp import blend_, stamp, stampable

arr = np.asarray
china = Image.fromarray(load_sample_image('china.jpg'))
mark = Mark('© me', size=.3)
ICC = b'profile '*40

def exif(orientation=1, gps=False):
    e = Image.Exif()
    e[0x0112],e[0x8298],e[0x010f] = orientation,'me','a camera'
    if gps: e[0x8825] = {1:'N', 2:(52.,30.,0.)}
    return e

def outside(im, p, ring=0):
    res = np.ones((im.height,im.width), bool)
    for (l,t,r,b),_ in p.pieces(): res[max(t-ring,0):b+ring,max(l-ring,0):r+ring] = False
    return res

def psnr(a, b, where):
    err = ((arr(a).astype(float)-arr(b))[where]**2).mean()
    return 10*np.log10(255**2/err) if err else np.inf

@pytest.mark.parametrize('o', (1,3,6,8))
@pytest.mark.parametrize('suffix', ('jpg','png','webp','tif'))
def test_08_files_keep_orientation_profile_and_resolution(tmp_path, suffix, o):
    a,b = tmp_path/f'a.{suffix}',tmp_path/f'b.{suffix}'
    china.resize((120,80)).save(a, exif=exif(o), icc_profile=ICC, dpi=(300,300),
                                **{'jpg':{'quality':95}, 'webp':{'lossless':True}}.get(suffix, {}))
    p = save_stamped(a, b, mark)
    x,y = Image.open(a),Image.open(b)
    x.load(); y.load()  # Pillow itself turns TIFF upright here
    assert y.info['icc_profile'] == ICC and x.size == y.size
    assert suffix == 'webp' or tuple(map(round, y.info['dpi'])) == (300,300)
    before,after = x.getexif(),y.getexif()
    assert after.get(0x0112, 1) == before.get(0x0112, 1) and after[0x8298] == 'me' and after[0x010f] == 'a camera'
    want,got = stamp(ImageOps.exif_transpose(x), mark),ImageOps.exif_transpose(y)
    if suffix == 'jpg': assert psnr(want, got, np.ones(arr(want).shape[:2], bool)) > 35
    else: assert np.array_equal(arr(want), arr(got))
    assert p.size == (120,80)  # stored pixels

@pytest.mark.parametrize('kw', [dict(subsampling=0), dict(subsampling=1), dict(subsampling=2, progressive=True),
                                dict(subsampling=2, quality=35),
                                dict(qtables=[list(range(1,65)), [7]*64]), dict(qtables=[[9]*64])], ids=str)
def test_09_tables_and_subsampling_are_the_inputs(tmp_path, kw):
    a,b = tmp_path/'a.jpg',tmp_path/'b.jpg'
    china.save(a, **{'quality':90, **kw})
    p = save_stamped(a, b, mark)
    x,y = Image.open(a),Image.open(b)
    assert y.quantization == x.quantization and JpegImagePlugin.get_sampling(y) == JpegImagePlugin.get_sampling(x)
    assert bool(y.info.get('progressive')) == bool(x.info.get('progressive'))
    far = psnr(x, y, outside(x, p, 16))
    assert far >= 45
    stamp(x, mark).save(tmp_path/'c.jpg')
    assert far > psnr(x, Image.open(tmp_path/'c.jpg'), outside(x, p, 16))+3

def test_09_grey_cmyk_rgb_and_iptc_jpeg(tmp_path):
    a,b = tmp_path/'a.jpg',tmp_path/'b.jpg'
    for mode,kw in (('L',{}), ('CMYK',{}), ('RGB',dict(keep_rgb=True))):
        im = china.convert(mode)
        iptc = b'\xff\xed\x00\x12Photoshop 3.0\x00\x01\x02'
        im.save(a, quality=92, extra=iptc, **kw)
        p = save_stamped(a, b, mark, overwrite=True)
        x,y = Image.open(a),Image.open(b)
        assert y.mode == mode and y.quantization == x.quantization and y.layer == x.layer
        assert psnr(x, y, outside(x, p, 16)) >= 45
        assert y.info.get('adobe_transform') == x.info.get('adobe_transform')
        assert [d for m,d in y.applist if m=='APP13'] == [b'Photoshop 3.0\x00\x01\x02']

needs_jpegtran = pytest.mark.skipif(shutil.which('jpegtran') is None, reason='lossless JPEG needs the program jpegtran')

@needs_jpegtran
@pytest.mark.parametrize('pos', ('br','tl','c'))
@pytest.mark.parametrize('kw', [dict(subsampling=0), dict(subsampling=1), dict(subsampling=2),
                                dict(subsampling=2, progressive=True), dict(mode='L')], ids=str)
def test_09_lossless_changes_nothing_outside_the_blocks(tmp_path, kw, pos):
    kw = dict(kw)
    a,b = tmp_path/'a.jpg',tmp_path/'b.jpg'
    china.convert(kw.pop('mode', 'RGB')).save(a, quality=80, exif=exif(6), icc_profile=ICC, dpi=(240,240),
                                              comment=b'hello', **kw)
    m = mark.new(pos=pos, margin=.037)
    p = save_stamped(a, b, m, lossless=True)
    x,y = Image.open(a),Image.open(b)
    assert y.quantization == x.quantization and y.layer == x.layer
    for k in ('exif','icc_profile','dpi','comment','progressive'): assert y.info.get(k) == x.info.get(k), k
    boxes = [q for q,_ in p.pieces()]
    (l,t),(r,bt) = np.min(boxes, 0)[:2],np.max(boxes, 0)[2:]
    u = 8*max(q[1] for q in x.layer) if x.mode=='RGB' else 8
    v = 8*max(q[2] for q in x.layer) if x.mode=='RGB' else 8
    ring = np.ones((x.height,x.width), bool)
    ring[max(t//v*v-1,0):-(-bt//v)*v+1, max(l//u*u-1,0):-(-r//u)*u+1] = False
    assert np.array_equal(arr(x)[ring], arr(y)[ring]) and ring.mean() > .5
    want = stamp(x, m)
    assert psnr(want, y, ~outside(x, p)) > 30

@needs_jpegtran
def test_09_lossless_says_what_it_cannot_do(tmp_path, monkeypatch):
    a,b = tmp_path/'a.jpg',tmp_path/'b.jpg'
    china.convert('CMYK').save(a)
    with pytest.raises(ValueError, match='lossless=True knows RGB and grey JPEG'):
        save_stamped(a, b, mark, lossless=True)
    china.save(a)
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(ValueError, match='needs the program jpegtran.*libjpeg-turbo-progs'):
        save_stamped(a, b, mark, lossless=True)
    assert not b.exists() and os.listdir(tmp_path) == ['a.jpg']

def moving(mode, n=5, size=(120,90)):
    res = []
    for i in range(n):
        f = china.resize(size).quantize(60).convert(mode)
        ImageDraw.Draw(f).ellipse((10+8*i,10,40+8*i,40), fill=(250,30*i%255,0,255)[:len(mode)])
        if mode == 'RGBA': f.paste((0,0,0,0), (40+5*i,50,80,90))
        res.append(f)
    return res

@pytest.mark.parametrize('mode', ('RGB','RGBA'))
@pytest.mark.parametrize('suffix,kw', [('gif',{}), ('webp',dict(lossless=True)), ('png',{}),
                                       ('png',dict(default_image=True)),
                                       ('tif',dict(compression='tiff_lzw'))], ids=str)
def test_11_every_frame_is_stamped(tmp_path, suffix, kw, mode):
    a,b,fs = tmp_path/f'a.{suffix}',tmp_path/f'b.{suffix}',moving(mode)
    times = [50,70,90,110,130][1 if kw.get('default_image') else 0:]
    if suffix == 'gif' and mode == 'RGBA': kw = dict(disposal=2)
    fs[0].save(a, save_all=True, append_images=fs[1:], **({} if suffix=='tif' else dict(duration=times, loop=3)), **kw)
    p = save_stamped(a, b, Mark('© me', size=.5, pos='random', color='gold'), seed=4)
    x,y = Image.open(a),Image.open(b)
    assert x.n_frames == y.n_frames == 5 and x.info.get('loop') == y.info.get('loop')
    for f,g in zip(ImageSequence.Iterator(x), ImageSequence.Iterator(y)):
        f.load(); g.load()
        assert f.info.get('duration') == g.info.get('duration')
        want,got = arr(blend_(stampable(f).convert('RGBA'), p)).astype(int),arr(g.convert('RGBA')).astype(int)
        if suffix != 'gif':
            assert np.abs(want-got)[want[...,3]>0].max() == 0
            continue
        seen = want[...,3] >= 128
        # on a transparent ground the letters are opaque: a GIF has no half tones there
        letters = arr(p.alpha()) >= 128*p.patch.opacity-1
        assert np.array_equal(seen[~letters], (got[...,3]>0)[~letters]) and (got[...,3]>0)[letters].mean() > .9
        err = np.abs(want-got)[...,:3].max(-1)*seen
        assert err[outside(f, p)].max() == 0 and err.max() <= 24 and err.mean() < .5

def test_11_gif_palette_keeps_what_it_can():
    few = moving('RGB')[0]
    assert np.array_equal(arr(gif_palette(few).convert('RGB')), arr(few))
    box = [(60,60,120,90)]
    full = china.resize((120,90)).quantize(256).convert('RGB')
    p = Mark('© me', size=.5).place(full.size)
    marked = stamp(full, p)
    err = np.abs(arr(gif_palette(marked, [b for b,_ in p.pieces()]).convert('RGB')).astype(int)-arr(marked))
    whole = np.abs(arr(marked.quantize(256, dither=Image.Dither.NONE).convert('RGB')).astype(int)-arr(marked))
    far = outside(full, p)
    assert err[far].mean() < whole[far].mean()/4
    photo = gif_palette(china.resize((120,90)), box)
    assert len(photo.getcolors()) <= 256

def test_single_pictures_of_other_kinds(tmp_path):
    for name,im in (('a.png',china.convert('P')), ('b.gif',china.convert('P')), ('c.bmp',china),
                    ('d.png',china.convert('1')), ('e.tif',china.convert('1')),
                    ('f.png',Image.fromarray(np.arange(10000, dtype=np.uint16).reshape(100,100)*6)), ('g.webp',china),
                    ('h.tif',china.convert('CMYK'))):
        im.save(tmp_path/name, **(dict(compression='group4') if name=='e.tif' else {}))
        p = save_stamped(tmp_path/name, tmp_path/f'out_{name}', mark)
        x,y = Image.open(tmp_path/name),Image.open(tmp_path/f'out_{name}')
        assert x.format == y.format and x.size == y.size
        if name == 'e.tif':  # a fax page stays one: the mark is dithered
            assert y.mode == '1' and np.array_equal(arr(x)[outside(x, p)],
                                                    arr(y)[outside(x, p)]) and (arr(x) != arr(y)).any()
            # grey would be six times as much
            assert y.info['compression'] == 'group4'
            assert (tmp_path/f'out_{name}').stat().st_size < 2.1*(tmp_path/name).stat().st_size
        elif name not in ('g.webp','b.gif'): assert np.array_equal(arr(blend_(stampable(x).copy(), p)), arr(y)), name

def test_png_texts_and_gamma_stay(tmp_path):
    info = PngInfo()
    info.add_text('Author', 'me')
    info.add_itxt('Titel', 'Grüße', 'de', 'Title')
    info.add_itxt('XML:com.adobe.xmp', '<x:xmpmeta/>')
    china.save(tmp_path/'a.png', pnginfo=info)
    save_stamped(tmp_path/'a.png', tmp_path/'b.png', mark)
    y = Image.open(tmp_path/'b.png')
    assert y.text['Author'] == 'me' and y.text['Titel'] == 'Grüße' and y.text['Titel'].lang == 'de'
    assert b'xmpmeta' in bytes(y.info['xmp'])

def test_another_suffix_another_format(tmp_path):
    china.convert('RGBA').save(tmp_path/'a.png')
    save_stamped(tmp_path/'a.png', tmp_path/'a.webp', mark)
    assert np.array_equal(arr(Image.open(tmp_path/'a.webp').convert('RGB')), arr(stamp(china, mark)))
    words = 'JPEG cannot hold a picture of mode RGBA; give a.jpg another suffix'
    with pytest.raises(ValueError, match=words): save_stamped(tmp_path/'a.png', tmp_path/'a.jpg', mark)
    with pytest.raises(ValueError, match='no kind of picture that Pillow writes'):
        save_stamped(tmp_path/'a.png', tmp_path/'a.xyz', mark)
    china.save(tmp_path/'really.png', format='JPEG')  # a wrong suffix stays what it is
    save_stamped(tmp_path/'really.png', tmp_path/'too.png', mark)
    assert Image.open(tmp_path/'too.png').format == 'JPEG'

def test_gps_is_left_out_on_request(tmp_path):
    xmp = (b'<x:xmpmeta><rdf:Description exif:GPSLatitude="52,30N" dc:title="t"><exif:GPSAltitude>34</exif:GPSAltitude>'
           b'</rdf:Description></x:xmpmeta>')
    info = PngInfo()
    info.add_itxt('XML:com.adobe.xmp', xmp.decode())
    for suffix in ('jpg','png','webp','tif'):
        china.save(tmp_path/f'a.{suffix}', exif=exif(gps=True).tobytes(),
                   **{'tif':{}, 'png':dict(pnginfo=info)}.get(suffix, dict(xmp=xmp)))
        assert Image.open(tmp_path/f'a.{suffix}').getexif().get_ifd(0x8825)
        for strip in (False,True):
            save_stamped(tmp_path/f'a.{suffix}', tmp_path/f'b.{suffix}', mark, strip_gps=strip, overwrite=True)
            y = Image.open(tmp_path/f'b.{suffix}')
            assert bool(y.getexif().get_ifd(0x8825)) != strip and y.getexif()[0x8298] == 'me', suffix
            if suffix != 'tif': assert (b'GPS' in bytes(y.info['xmp'])) != strip and b'dc:title' in bytes(y.info['xmp'])

def big_png(path, w, h, body=b''):
    chunk = lambda k,d: struct.pack('>I', len(d))+k+d+struct.pack('>I', zlib.crc32(k+d))
    path.write_bytes(b'\x89PNG\r\n\x1a\n'+chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, 1, 0, 0, 0,
                                                                     0))+chunk(b'IDAT', body)+chunk(b'IEND', b''))

def test_17_a_huge_picture_warns_and_a_bomb_raises(tmp_path):
    w,h = 9500,9500
    big_png(tmp_path/'a.png', w, h, zlib.compress(b'\0'*((w+7)//8+1)*h, 1))
    with pytest.warns(Image.DecompressionBombWarning):
        save_stamped(tmp_path/'a.png', tmp_path/'b.png', Mark('© me', size=.1, color='white', opacity=1))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with Image.open(tmp_path/'b.png') as y:
            assert y.size == (w,h) and y.crop((8000,9000,w,h)).getextrema() == (0,255)
    big_png(tmp_path/'bomb.png', 20000, 20000)
    with pytest.raises(Image.DecompressionBombError): save_stamped(tmp_path/'bomb.png', tmp_path/'c.png', mark)
    assert not (tmp_path/'c.png').exists()

def test_17_bad_files_give_one_line(tmp_path):
    china.save(tmp_path/'whole.jpg')
    china.save(tmp_path/'whole.png')
    (tmp_path/'cut.jpg').write_bytes((tmp_path/'whole.jpg').read_bytes()[:9000])
    (tmp_path/'cut.png').write_bytes((tmp_path/'whole.png').read_bytes()[:9000])
    (tmp_path/'empty.jpg').write_bytes(b'')
    (tmp_path/'text.jpg').write_text('no picture')
    for n in ('cut.jpg','cut.png','empty.jpg','text.jpg','none.jpg'):
        with pytest.raises(OSError, match=n) as e: save_stamped(tmp_path/n, tmp_path/f'out_{n}', mark)
        assert '\n' not in str(e.value) and not (tmp_path/f'out_{n}').exists()
    with pytest.raises(ValueError, match="quality='best'"):
        save_stamped(tmp_path/'whole.jpg', tmp_path/'x.jpg', mark, quality='best')
    assert not [f for f in os.listdir(tmp_path) if f.endswith('.part')]

def test_a_reader_that_refuses_a_file_in_its_own_way_is_one_kind_of_error_too(tmp_path):
    "Pillow's reader of PPM raises ValueError; in a folder it must count as a bad file, not as a wrong argument"
    (tmp_path/'a.ppm').write_bytes(b'P6\n'+b'1'*20)
    with pytest.raises(OSError, match=r'a\.ppm: not a picture that Pillow reads \(.*oken too long'):
        save_stamped(tmp_path/'a.ppm', tmp_path/'b.ppm', mark)

def test_18_nothing_is_overwritten_and_nothing_half_written(tmp_path):
    a,b = tmp_path/'a.jpg',tmp_path/'b.jpg'
    china.save(a, quality=88)
    b.write_bytes(b'mine')
    with pytest.raises(FileExistsError, match='overwrite=True'): save_stamped(a, b, mark)
    assert b.read_bytes() == b'mine'
    save_stamped(a, b, mark, overwrite=True)
    save_stamped(a, a, mark, overwrite=True)
    assert a.read_bytes() == b.read_bytes()
    assert (os.stat(b).st_mode & 0o777) == 0o666 & ~_umask()
    whole = b.read_bytes()
    class Stop(Mark):
        def place(self, *args): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): save_stamped(a, b, Stop('x'), overwrite=True)
    assert b.read_bytes() == whole and sorted(os.listdir(tmp_path)) == ['a.jpg','b.jpg']

def _umask():
    now = os.umask(0)
    os.umask(now)
    return now

def test_a_skipped_picture_is_copied_byte_for_byte(tmp_path):
    china.save(tmp_path/'a.jpg')
    assert not save_stamped(tmp_path/'a.jpg', tmp_path/'b.jpg', mark.new(size=2., fit='skip'))
    assert (tmp_path/'b.jpg').read_bytes() == (tmp_path/'a.jpg').read_bytes()

def test_equal_seeds_and_names_give_equal_files(tmp_path):
    m = Mark('© me', pos='random', size=(.1,.5), rotate=(-90,90), opacity=(.2,.9))
    china.save(tmp_path/'a.jpg')
    out = [tmp_path/f'{i}.jpg' for i in range(4)]
    for o,kw in zip(out, (dict(seed=1), dict(seed=1), dict(seed=2), dict(seed=1, key='other'))):
        save_stamped(tmp_path/'a.jpg', o, m, **kw)
    same = [o.read_bytes() == out[0].read_bytes() for o in out]
    assert same == [True,True,False,False]

def test_jpeg_tables_of_three_components(tmp_path):
    china.save(tmp_path/'a.jpg', qtables=[[3]*64, [5]*64, [9]*64], subsampling=1)
    x = Image.open(tmp_path/'a.jpg')
    x.load()
    stamp(x, mark).save(tmp_path/'b.jpg', **jpeg_tables(x))
    y = Image.open(tmp_path/'b.jpg')
    assert [y.quantization[l[3]][0] for l in y.layer] == [x.quantization[l[3]][0] for l in x.layer]
