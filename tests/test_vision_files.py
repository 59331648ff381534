"Nothing else of a file changes, and nothing of the unmarked picture or its place travels along: judged by exiftool and ImageMagick"
import io, json, shutil, subprocess
import numpy as np, pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from sklearn.datasets import load_sample_image
from fastai_ext.vision.files.png import deep_pixels, deep_png, png_bytes
from fastai_ext.vision.mark import Mark
from fastai_ext.vision.save import save_stamped

needs_exiftool = pytest.mark.skipif(shutil.which('exiftool') is None, reason='the judge is exiftool (Debian: libimage-exiftool-perl)')
china = Image.fromarray(load_sample_image('china.jpg')).resize((320,213))
mark,nothing = Mark('© me', size=.5, opacity=.8),Mark('© me', size=.5, opacity=1e-9)  # the second goes all the way and changes no pixel
arr = np.asarray

def tags(path):
    "All tags but those of the file system and of how the pixels are stored"
    out = subprocess.run(['exiftool','-j','-a','-G1','-n', path], capture_output=True, text=True, check=True).stdout
    gone = 'System:','File:','Composite:','ExifTool:','SourceFile','IFD0:Strip','MPImage','IFD1:ThumbnailOffset'
    return {k:v for k,v in json.loads(out)[0].items() if not k.startswith(gone)}

def thumbnail():
    out = io.BytesIO()
    china.resize((160,106)).save(out, 'JPEG', quality=85)
    return out.getvalue()

WRITE = ['-GPSLatitude=52.5','-GPSLatitudeRef=N','-GPSLongitude=13.4','-GPSLongitudeRef=E','-XMP-exif:GPSLatitude=52.5','-XMP-exif:GPSLongitude=13.4',
         '-XMP-drone-dji:GpsLatitude=52.5','-XMP-photoshop:City=Berlin','-XMP-dc:Title=Grüße','-Artist=Jörg Müller','-Copyright=© Müller']

def described(path, suffix):
    "A picture with coordinates in every place that exiftool can write"
    china.save(path, **{'jpg':dict(quality=90), 'webp':dict(lossless=True)}.get(suffix, {}))
    more = ['-IPTC:City=Berlin','-IPTC:Keywords=one'] if suffix in ('jpg','tif') else []
    if suffix == 'jpg':
        (path.parent/'thumb.jpg').write_bytes(thumbnail())
        more += [f"-ThumbnailImage<={path.parent/'thumb.jpg'}"]
    done = subprocess.run(['exiftool','-overwrite_original','-charset','iptc=utf8', *WRITE, *more, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return path

@needs_exiftool
@pytest.mark.parametrize('suffix', ('jpg','png','webp','tif','avif','jp2'))
def test_02_no_place_is_left_anywhere(tmp_path, suffix):
    a,b = described(tmp_path/f'a.{suffix}', suffix),tmp_path/f'b.{suffix}'
    assert any('gps' in k.lower() for k in tags(a))
    save_stamped(a, b, mark, strip_gps=True)
    left = tags(b)
    assert not [k for k in left if 'gps' in k.lower() or 'city' in k.lower()], left
    raw = b.read_bytes()
    assert b'GpsLat' not in raw and b'Berlin' not in raw
    if suffix != 'jp2': assert left['XMP-dc:Title'] == 'Grüße' and left['IFD0:Artist'] == 'Jörg Müller'
    Image.open(b).load()
    if shutil.which('identify') and suffix in ('jpg','png','tif'):
        seen = subprocess.run(['identify','-verbose', b], capture_output=True, text=True).stdout
        assert 'GPS' not in seen and 'Berlin' not in seen

def test_02_texts_that_a_converter_wrote_into_a_png(tmp_path):
    info = PngInfo()
    for k,v in (('exif:GPSLatitude','52/1'), ('Author','me'), ('Comment','GPSLatitude 52.5')): info.add_text(k, v)
    e = Image.Exif()
    e[0x8825] = {1:'N', 2:(52.,30.,0.)}
    data = e.tobytes()
    info.add_text('Raw profile type exif', f'\nexif\n{len(data):8}\n{data.hex()}\n', zip=True)
    china.save(tmp_path/'a.png', pnginfo=info)
    save_stamped(tmp_path/'a.png', tmp_path/'b.png', mark, strip_gps=True)
    left = Image.open(tmp_path/'b.png').text
    assert set(left) == {'Author','Raw profile type exif'}
    kept = Image.Exif()
    kept.load(bytes.fromhex(left['Raw profile type exif'].split(None, 2)[2]))
    assert 0x8825 not in kept

@needs_exiftool
@pytest.mark.parametrize('suffix', ('jpg','png','webp','tif'))
def test_04_every_tag_is_as_it_was(tmp_path, suffix):
    a,b = described(tmp_path/f'a.{suffix}', suffix),tmp_path/f'b.{suffix}'
    p = save_stamped(a, b, mark)
    assert tags(a) == tags(b) and p.notes == ()
    before,after = (subprocess.run(['exiftool','-b','-ThumbnailImage', f], capture_output=True).stdout for f in (a,b))
    if suffix == 'jpg':
        x,y = (arr(Image.open(io.BytesIO(d)).convert('RGB')).astype(int) for d in (before,after))
        placed = mark.place((160,106))
        hit = arr(placed.alpha())>0
        assert len(before) == len(after) and np.abs(x-y)[hit].mean() > 20 and np.abs(x-y)[~hit].mean() < 8, 'the preview has the mark'

def segment(kind, body): return b'\xff'+bytes([kind])+(len(body)+2).to_bytes(2, 'big')+body

def test_04_every_segment_of_a_jpeg_travels(tmp_path):
    out = io.BytesIO()
    china.save(out, 'JPEG', quality=90)
    own = [segment(0xec, b'Ducky\0\1\0\4\0\0\0\x3c'), segment(0xe3, b'Meta\0\0kodak'), segment(0xfe, 'Grüße'.encode('latin1')), segment(0xe9, b'maker'*100)]
    (tmp_path/'a.jpg').write_bytes(out.getvalue()[:2]+b''.join(own)+out.getvalue()[2:])
    save_stamped(tmp_path/'a.jpg', tmp_path/'b.jpg', mark)
    new = (tmp_path/'b.jpg').read_bytes()
    assert all(s in new for s in own)

def test_03_previews_wherever_a_maker_put_them(tmp_path):
    "In APP segments and behind the picture"
    out,small = io.BytesIO(),thumbnail()
    china.save(out, 'JPEG', quality=90)
    jfxx = segment(0xe0, b'JFXX\0\x10'+small)
    maker = segment(0xe5, b'maker'+small)
    (tmp_path/'a.jpg').write_bytes(out.getvalue()[:20]+jfxx+maker+out.getvalue()[20:]+b'\0\0'+small)
    p = save_stamped(tmp_path/'a.jpg', tmp_path/'b.jpg', mark)
    new = (tmp_path/'b.jpg').read_bytes()
    assert small not in new and small[1500:1560] not in new and b'JFXX' in new and any('after the picture dropped' in n for n in p.notes)
    with pytest.raises(ValueError, match='strict.*after the picture'): save_stamped(tmp_path/'a.jpg', tmp_path/'c.jpg', mark, strict=True)
    assert not (tmp_path/'c.jpg').exists()

def test_06_both_pictures_of_an_mpo_are_stamped(tmp_path):
    frames = [china,china.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    frames[0].save(tmp_path/'a.mpo', 'MPO', save_all=True, append_images=frames[1:], quality=92)
    shutil.copy(tmp_path/'a.mpo', tmp_path/'a.jpg')
    for name in ('mpo','jpg'):
        p = save_stamped(tmp_path/f'a.{name}', tmp_path/f'b.{name}', mark)
        x,y = (Image.open(tmp_path/f'{n}.{name}') for n in 'ab')
        assert y.n_frames == 2 and p.notes == ()
        for i in range(2):
            x.seek(i); y.seek(i)
            diff = np.abs(arr(x.convert('RGB')).astype(int)-arr(y.convert('RGB'))).max(-1)
            assert diff[arr(p.alpha())>0].mean() > 30 > diff[arr(p.alpha())==0].mean()

@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(channels=st.sampled_from((2,3,4)), w=st.integers(1,40), h=st.integers(1,40), seed=st.integers(0,99))
def test_05_sixteen_bits_of_a_png_stay(tmp_path, channels, w, h, seed):
    pixels = np.random.default_rng(seed).integers(0, 65536, (h,w,channels), dtype=np.uint16)
    (tmp_path/'a.png').write_bytes(png_bytes(deep_png(pixels)))
    p = save_stamped(tmp_path/'a.png', tmp_path/'b.png', nothing, overwrite=True)
    assert np.array_equal(deep_pixels((tmp_path/'b.png').read_bytes()), pixels) and p.notes == ()

MODES = dict(png=('1','L','P','RGB','RGBA','LA','I;16'), tif=('1','L','P','RGB','RGBA','CMYK','I;16','F'), bmp=('L','RGB'), webp=('RGB','RGBA'), gif=('P','L'),
             qoi=('RGB','RGBA'), tga=('L','RGB','RGBA'), ppm=('RGB',), jp2=('L','RGB'), dds=('RGB','RGBA'), pcx=('L','RGB'), sgi=('L','RGB'), ico=('RGBA',))

@pytest.mark.parametrize('suffix,mode', [(s,m) for s,ms in MODES.items() for m in ms])
def test_a_mark_that_cannot_be_seen_changes_no_pixel(tmp_path, suffix, mode):
    im = china.resize((64,64)).convert('L').convert(mode) if mode in ('I;16','F') else china.resize((64,64)).convert('RGB' if mode == 'CMYK' else mode).convert(mode)
    a,b = tmp_path/f'a.{suffix}',tmp_path/f'b.{suffix}'
    im.save(a, **({'webp':dict(lossless=True, exact=True)}.get(suffix, {})))
    save_stamped(a, b, nothing)
    x,y = Image.open(a),Image.open(b)
    to = 'F' if mode in ('F','I;16') else 'RGBA'
    assert x.format == y.format and np.allclose(arr(x.convert(to)), arr(y.convert(to)), atol=1e-4)
    save_stamped(a, b, mark, overwrite=True)
    assert not np.allclose(arr(x.convert(to)), arr(Image.open(b).convert(to)))

@pytest.mark.parametrize('compression', ('raw','tiff_lzw','tiff_adobe_deflate','packbits','jpeg'))
def test_07_pages_of_a_tiff_keep_their_own_tags(tmp_path, compression):
    from PIL.TiffImagePlugin import ImageFileDirectory_v2
    pages = [china,china.rotate(180)]
    info = ImageFileDirectory_v2()
    info[270],info[33550],info.tagtype[33550] = 'Grüße',(1.,2.,0.),12
    pages[0].save(tmp_path/'a.tif', compression=compression, tiffinfo=info, save_all=True, append_images=pages[1:])
    p = save_stamped(tmp_path/'a.tif', tmp_path/'b.tif', mark)
    x,y = Image.open(tmp_path/'a.tif'),Image.open(tmp_path/'b.tif')
    assert p.notes == () and y.n_frames == 2
    for i in range(2):
        x.seek(i); y.seek(i)
        where = {273,279}
        assert {k:v for k,v in x.tag_v2.items() if k not in where} == {k:v for k,v in y.tag_v2.items() if k not in where}
        assert (arr(x) != arr(y)).any()

def test_08_a_transparent_gif_gets_a_visible_mark(tmp_path):
    im = Image.new('RGBA', (120,80), (0,0,0,0))
    im.paste((200,30,30,255), (0,0,20,20))
    im.save(tmp_path/'a.gif', comment=b'hello')
    save_stamped(tmp_path/'a.gif', tmp_path/'b.gif', Mark('© me', size=.8))
    y = Image.open(tmp_path/'b.gif')
    assert y.info['comment'] == b'hello' and arr(y.convert('RGBA'))[25:,:,3].any()

def test_heic(tmp_path):
    pytest.importorskip('pillow_heif', reason="HEIC is an extra: pip install 'fastai_ext[heif]'").register_heif_opener()
    china.save(tmp_path/'a.heic', quality=90)
    save_stamped(tmp_path/'a.heic', tmp_path/'b.heic', mark)
    assert Image.open(tmp_path/'b.heic').size == china.size

def test_text_from_the_picture(tmp_path):
    e = Image.Exif()
    e[315] = 'Ann'
    china.save(tmp_path/'a.jpg', exif=e)
    save_stamped(tmp_path/'a.jpg', tmp_path/'b.jpg', Mark('© {artist}'))
    save_stamped(tmp_path/'a.jpg', tmp_path/'c.jpg', Mark('© Ann'))
    assert Image.open(tmp_path/'b.jpg').tobytes() == Image.open(tmp_path/'c.jpg').tobytes()
