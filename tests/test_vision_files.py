"Nothing else of a file changes, and nothing of the unmarked picture or its place travels along: exiftool judges"
import io, json, os, re, shutil, struct, subprocess, sys, zlib
import numpy as np, pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from PIL.MpoImagePlugin import MpoImageFile
from PIL.PngImagePlugin import PngInfo
from sklearn.datasets import load_sample_image
from conftest import root
from fastai_ext.vision.files.jp2 import jp2_boxes, jp2_bytes
from fastai_ext.vision.files.plain import depth_of
from fastai_ext.vision.files.png import deep_pixels, deep_png, png_bytes
from fastai_ext.vision.mark import Mark
from fastai_ext.vision.save import save_stamped
from fastai_ext.vision.stamp import stamp
sys.path.insert(0, str(root/'benchmarks'))
from watermark_tags import differing, make as make_pictures, tags as all_tags

needs_exiftool = pytest.mark.skipif(shutil.which('exiftool') is None,
                                    reason='the judge is exiftool (Debian: libimage-exiftool-perl)')
china = Image.fromarray(load_sample_image('china.jpg')).resize((320,213))
# the second goes all the way and changes no pixel
mark,nothing = Mark('© me', size=.5, opacity=.8),Mark('© me', size=.5, opacity=1e-9)
arr = np.asarray

def tags(path):
    "All tags but those of the file system and of how the pixels are stored"
    out = subprocess.run(['exiftool','-j','-a','-G1','-n', path], capture_output=True, text=True, check=True,
                         timeout=120).stdout
    gone = ('IFD0:PreviewImage','System:','File:','Composite:','ExifTool:','SourceFile','IFD0:Strip','MPImage',
            'IFD1:ThumbnailOffset')
    return {k:v for k,v in json.loads(out)[0].items() if not k.startswith(gone)}

def thumbnail():
    out = io.BytesIO()
    china.resize((160,106)).save(out, 'JPEG', quality=85)
    return out.getvalue()

WRITE = ['-GPSLatitude=52.5','-GPSLatitudeRef=N','-GPSLongitude=13.4','-GPSLongitudeRef=E','-XMP-exif:GPSLatitude=52.5',
         '-XMP-exif:GPSLongitude=13.4',
         '-XMP-drone-dji:GpsLatitude=52.5','-XMP-photoshop:City=Berlin','-XMP-dc:Title=Grüße','-Artist=Jörg Müller',
         '-Copyright=© Müller']

def heif():
    "Makes Pillow know HEIC, or skips"
    pytest.importorskip('pillow_heif', reason="HEIC is an extra: pip install 'fastai_ext[heif]'").register_heif_opener()

def described(path, suffix, **how):
    "A picture with coordinates in every place that exiftool can write"
    first = dict(jpg=dict(quality=90), webp=dict(lossless=True),
                 mpo=dict(format='MPO', save_all=True, append_images=[china.rotate(180)]))
    china.save(path, **first.get(suffix, {}), **how)
    more = ['-IPTC:City=Berlin','-IPTC:Keywords=one'] if suffix in ('jpg','tif') else []
    if suffix == 'jpg':
        (path.parent/'thumb.jpg').write_bytes(thumbnail())
        more += [f"-ThumbnailImage<={path.parent/'thumb.jpg'}"]
    done = subprocess.run(['exiftool','-overwrite_original','-charset','iptc=utf8', *WRITE, *more, path],
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return path

@needs_exiftool
@pytest.mark.parametrize('suffix', ('jpg','png','webp','tif','avif','jp2','gif','heic','mpo'))
def test_02_no_place_is_left_anywhere(tmp_path, suffix):
    if suffix == 'heic': heif()
    a,b = described(tmp_path/f'a.{suffix}', suffix),tmp_path/f'b.{suffix}'
    assert any('gps' in k.lower() for k in tags(a))
    save_stamped(a, b, mark, strip_gps=True)
    left = tags(b)
    assert not [k for k in left if 'gps' in k.lower() or 'city' in k.lower()], left
    raw = b.read_bytes()
    assert b'GpsLat' not in raw and b'Berlin' not in raw
    if suffix != 'jp2': assert left['XMP-dc:Title'] == 'Grüße'
    if suffix not in ('jp2','gif'): assert left['IFD0:Artist'] == 'Jörg Müller'
    Image.open(b).load()
    if shutil.which('identify') and suffix in ('jpg','png','tif'):
        seen = subprocess.run(['identify','-verbose', b], capture_output=True, text=True, timeout=120).stdout
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

@pytest.mark.parametrize('field', ('dwc:locality','dwc:verbatimSRS','dwc:footprintWKT','dwc:county',
                                   'dwc:higherGeography','Iptc4xmpExt:City','photoshop:State','GPano:PoseHeadingGPS',
                                   'lr:locationName'))
def test_02_places_in_xmp_of_any_kind(tmp_path, field):
    xmp = (f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF><r:Description {field}="secret" dc:title="kept"><{field}>'
           f'<r:Bag><r:li>secret</r:li></r:Bag></{field}></r:Description></r:RDF></x:xmpmeta>').encode()
    china.save(tmp_path/'a.jpg', xmp=xmp)
    save_stamped(tmp_path/'a.jpg', tmp_path/'b.jpg', mark, strip_gps=True)
    new = (tmp_path/'b.jpg').read_bytes()
    assert b'secret' not in new and b'kept' in new

@pytest.mark.parametrize('suffix', ('tif','jpg'))
def test_02_what_an_editor_left_in_bytes_that_no_tag_points_to(tmp_path, suffix):
    a,b = tmp_path/f'a.{suffix}',tmp_path/f'b.{suffix}'
    e = Image.Exif()
    e[315] = 'Ann'
    old = b'<exif:GPSLatitude>52,30.5N</exif:GPSLatitude>'*3
    china.save(a, exif=e.tobytes()+(old if suffix == 'jpg' else b''))
    if suffix == 'tif': a.write_bytes(a.read_bytes()+old)
    assert b'52,30.5N' in a.read_bytes()
    save_stamped(a, b, mark)
    assert b'52,30.5N' in b.read_bytes(), 'only if it was asked for'
    save_stamped(a, b, mark, strip_gps=True, overwrite=True)
    assert b'52,30.5N' not in b.read_bytes() and Image.open(b).getexif()[315] == 'Ann'
    Image.open(b).load()

@needs_exiftool
@pytest.mark.parametrize('suffix', ('jpg','png','webp','tif'))
def test_04_every_tag_is_as_it_was(tmp_path, suffix):
    a,b = described(tmp_path/f'a.{suffix}', suffix),tmp_path/f'b.{suffix}'
    p = save_stamped(a, b, mark)
    assert tags(a) == tags(b) and p.notes == ()
    before,after = (subprocess.run(['exiftool','-b','-ThumbnailImage', f], capture_output=True,
                                   timeout=120).stdout for f in (a,b))
    if suffix == 'jpg':
        x,y = (arr(Image.open(io.BytesIO(d)).convert('RGB')).astype(int) for d in (before,after))
        placed = mark.place((160,106))
        hit = arr(placed.alpha())>0
        assert len(before) == len(after)
        assert np.abs(x-y)[hit].mean() > 20 and np.abs(x-y)[~hit].mean() < 8, 'the preview has the mark'

@needs_exiftool
@pytest.mark.parametrize('compression', ('tiff_lzw','tiff_adobe_deflate','packbits','jpeg','lzma'))
def test_04_a_compressed_tiff_keeps_its_exif(tmp_path, compression):
    "Pillow cannot write EXIF into one"
    a,b = described(tmp_path/'a.tif', 'tif', compression=compression),tmp_path/'b.tif'
    assert save_stamped(a, b, mark).notes == () and tags(a) == tags(b) and 'GPS:GPSLatitude' in tags(b)
    assert Image.open(b).info['compression'] == Image.open(a).info['compression'] == compression

def segment(kind, body): return b'\xff'+bytes([kind])+(len(body)+2).to_bytes(2, 'big')+body

def test_04_every_segment_of_a_jpeg_travels(tmp_path):
    out = io.BytesIO()
    china.save(out, 'JPEG', quality=90)
    own = [segment(0xec, b'Ducky\0\1\0\4\0\0\0\x3c'), segment(0xe3, b'Meta\0\0kodak'),
           segment(0xfe, 'Grüße'.encode('latin1')), segment(0xe9, b'maker'*100)]
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
    assert small not in new and small[1500:1560] not in new and b'JFXX' in new
    assert any('after the picture dropped' in n for n in p.notes)
    with pytest.raises(ValueError, match='strict.*after the picture'):
        save_stamped(tmp_path/'a.jpg', tmp_path/'c.jpg', mark, strict=True)
    assert not (tmp_path/'c.jpg').exists()

def test_06_both_pictures_of_an_mpo_are_stamped(tmp_path):
    frames = [china,china.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    frames[0].save(tmp_path/'a.mpo', 'MPO', save_all=True, append_images=frames[1:], quality=92)
    shutil.copy(tmp_path/'a.mpo', tmp_path/'a.jpg')
    for name,lossless in (('mpo',False), ('jpg',False), *([('jpg',True)] if shutil.which('jpegtran') else [])):
        p = save_stamped(tmp_path/f'a.{name}', tmp_path/f'b.{name}', mark, lossless=lossless, overwrite=True)
        x,y = (Image.open(tmp_path/f'{n}.{name}') for n in 'ab')
        assert y.n_frames == 2 and p.notes == ()
        for i in range(2):
            x.seek(i); y.seek(i)
            diff = np.abs(arr(x.convert('RGB')).astype(int)-arr(y.convert('RGB'))).max(-1)
            assert diff[arr(p.alpha())>0].mean() > 30 > diff[arr(p.alpha())==0].mean()

@pytest.mark.parametrize('lossless', (False, *([True] if shutil.which('jpegtran') else [])))
def test_06_a_gain_map_is_stamped_and_found_where_it_is_said_to_be(tmp_path, lossless):
    "Ultra HDR: the first picture says in XMP how long the second is, and in its index where"
    gain = china.convert('L').resize((160,106)).convert('RGB')
    xmp = (b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description hdrgm:Version="1.0"><Container:Directory>'
           b'<rdf:li Item:Semantic="Primary" Item:Mime="image/jpeg"/><rdf:li Item:Semantic="GainMap" '
           b'Item:Mime="image/jpeg" Item:Length="%d"/></Container:Directory></rdf:Description></rdf:RDF></x:xmpmeta>')
    length = 0
    for _ in range(3):
        china.save(tmp_path/'a.jpg', 'MPO', save_all=True, append_images=[gain], xmp=xmp % length)
        with MpoImageFile(tmp_path/'a.jpg') as im: length = im.mpinfo[0xb002][1]['Size']
    p = save_stamped(tmp_path/'a.jpg', tmp_path/'b.jpg', mark, lossless=lossless)
    new = (tmp_path/'b.jpg').read_bytes()
    with MpoImageFile(tmp_path/'b.jpg') as y:  # `Image.open` sees the first picture alone
        said = int(re.search(rb'Item:Length="(\d+)"', new)[1])
        assert y.n_frames == 2 and p.notes == () and said == y.mpinfo[0xb002][1]['Size']
        second = Image.open(io.BytesIO(new[-said:]))
        y.seek(1)
        assert second.size == y.size == gain.size and second.tobytes() == y.tobytes()
        hit = arr(mark.place(gain.size).alpha()) > 128
        assert np.abs(arr(second).astype(int)-arr(gain))[hit].mean() > 20

@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(channels=st.sampled_from((2,3,4)), w=st.integers(1,40), h=st.integers(1,40), seed=st.integers(0,99))
def test_05_sixteen_bits_of_a_png_stay(tmp_path, channels, w, h, seed):
    pixels = np.random.default_rng(seed).integers(0, 65536, (h,w,channels), dtype=np.uint16)
    (tmp_path/'a.png').write_bytes(png_bytes(deep_png(pixels)))
    p = save_stamped(tmp_path/'a.png', tmp_path/'b.png', nothing, overwrite=True)
    assert np.array_equal(deep_pixels((tmp_path/'b.png').read_bytes()), pixels) and p.notes == ()

def tiff_of(pixels, order='<', extra=()):
    "A plain TIFF of the (height, width, channels) `pixels` of whole numbers, in two strips"
    h,w,channels = pixels.shape
    data,deep = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes(),pixels.dtype.itemsize*8
    rows = -(-h//2)
    first = rows*w*channels*deep//8
    tags = [(256,4,[w]), (257,4,[h]), (258,3,[deep]*channels), (259,3,[1]), (262,3,[2]), (273,4,[8,8+first]),
            (277,3,[channels]), (278,4,[rows]), (279,4,[first,len(data)-first]), *extra]
    at,entries,more = 8+len(data),b'',b''
    behind = at+2+12*len(tags)+4
    for tag,kind,values in tags:
        body = struct.pack(f"{order}{len(values)}{'HL'[kind-3]}", *values)
        if len(body) > 4: body,more = struct.pack(order+'L', behind+len(more)),more+body
        entries += struct.pack(order+'HHL', tag, kind, len(values))+body.ljust(4, b'\0')
    return ((b'II*\0' if order == '<' else b'MM\0*')+struct.pack(order+'L', at)+data
            +struct.pack(order+'H', len(tags))+entries+bytes(4)+more)

@pytest.mark.parametrize('channels', (3,4))
@pytest.mark.parametrize('order', '<>')
def test_05_sixteen_bits_of_a_tiff_stay(tmp_path, channels, order):
    pixels = np.random.default_rng(0).integers(0, 65000, (60,80,channels), dtype=np.uint16)
    if channels == 4: pixels[...,3] = 65535
    a,b = tmp_path/'a.tif',tmp_path/'b.tif'
    a.write_bytes(tiff_of(pixels, order, [(338,3,[2])]*(channels == 4)))
    assert Image.open(a).size == (80,60)
    assert save_stamped(a, b, nothing).notes == () and b.read_bytes() == a.read_bytes()
    p = save_stamped(a, b, Mark('X', size=.9, opacity=1, color='red'), overwrite=True)
    got = np.frombuffer(b.read_bytes()[8:8+pixels.nbytes], order+'u2').reshape(pixels.shape)
    solid,clear = arr(p.alpha()) == 255,arr(p.alpha()) == 0
    assert solid.sum() > 100 and (got[solid][:,:3] == (65535,0,0)).all() and (got[clear] == pixels[clear]).all()

def packed_tiff(pixels, n, more=b'', compression=8, predictor=1,
                pack=lambda rows: zlib.compress(rows.tobytes())):
    "A TIFF of `n` strips that are compressed, whose places and lengths are numbers of 16 bits; `more` lies behind"
    h,w,channels = pixels.shape
    rows = -(-h//n)
    strips = [pack(pixels[i:i+rows]) for i in range(0, h, rows)]
    starts = [8+sum(map(len, strips[:i])) for i in range(n)]
    at = 8+sum(map(len, strips))
    deep,kind = 8*pixels.dtype.itemsize,3 if pixels.dtype.kind == 'f' else 1
    tags = [(256,3,[w]), (257,3,[h]), (258,3,[deep]*channels), (259,3,[compression]),
            (262,3,[2 if channels > 1 else 1]), (273,3,starts), (277,3,[channels]), (278,3,[rows]),
            (279,3,[len(s) for s in strips]), (317,3,[predictor]), (339,3,[kind]*channels)]
    entries,behind = b'',b''
    for tag,_,values in tags:
        body = struct.pack(f'<{len(values)}H', *values)
        if len(body) > 4: body,behind = struct.pack('<L', at+2+12*len(tags)+4+len(behind)),behind+body
        entries += struct.pack('<HHL', tag, 3, len(values))+body.ljust(4, b'\0')
    return (b'II*\0'+struct.pack('<L', at)+b''.join(strips)+struct.pack('<H', len(tags))+entries+bytes(4)
            +behind+more)

@pytest.mark.parametrize('n', (1,3))
def test_strips_that_outgrow_numbers_of_sixteen_bits(tmp_path, n):
    "A mark that hardly compresses on a picture that does: lengths and places are then stored as longer numbers"
    gradient = np.broadcast_to(np.arange(320, dtype=np.uint8)[None,:,None]//2, (300,320,3))
    a,b = tmp_path/'a.tif',tmp_path/'b.tif'
    a.write_bytes(packed_tiff(gradient, n, bytes(range(256))*300))
    before = Image.open(a)
    assert np.array_equal(arr(before), gradient) and before.tag_v2.tagtype[273] == before.tag_v2.tagtype[279] == 3
    logo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (290,310,3), dtype=np.uint8))
    p = save_stamped(a, b, Mark(logo=logo, size=.97, opacity=1, pos='c', margin=0))
    after = Image.open(b)
    assert after.tag_v2.tagtype[273] == after.tag_v2.tagtype[279] == 4 and max(after.tag_v2[273]) > 65535
    assert np.array_equal(arr(after), arr(stamp(before, p))) and after.info['compression'] == 'tiff_adobe_deflate'
    assert p.notes == ('the file grows: strips with the mark need more room',)

@pytest.mark.parametrize('compression', (1,32773))
def test_a_predictor_that_readers_pass_over(tmp_path, compression):
    "Where strips are not packed by LZW, deflate and the like, the tag says nothing"
    def packbits(rows): return b''.join(b'\x3f'+o.tobytes() for o in rows.reshape(-1, 64))  # 64 bytes as they are
    pixels = np.random.default_rng(0).integers(0, 256, (40,64,3), dtype=np.uint8)
    data = packed_tiff(pixels, 2, compression=compression, predictor=2, pack=bytes if compression == 1 else packbits)
    (tmp_path/'a.tif').write_bytes(data)
    with Image.open(tmp_path/'a.tif') as im: assert np.array_equal(arr(im), pixels)
    p = save_stamped(tmp_path/'a.tif', tmp_path/'b.tif', mark)
    with Image.open(tmp_path/'a.tif') as x, Image.open(tmp_path/'b.tif') as y:
        assert p.notes == () and np.array_equal(arr(y), arr(stamp(x, p)))

def test_a_tiff_with_the_predictor_of_floats_is_written_anew(tmp_path):
    "Bytes of equal weight side by side, then their differences: Pillow reads it and the values stay"
    def pack(rows):
        planes = rows[...,0].astype('>f4').view(np.uint8).reshape(*rows.shape[:2], 4).transpose(0,2,1)
        return zlib.compress(np.diff(planes.reshape(len(rows), -1), axis=1, prepend=np.uint8(0)).tobytes())
    pixels = np.random.default_rng(0).random((40,60,1), dtype=np.float32)
    (tmp_path/'a.tif').write_bytes(packed_tiff(pixels, 2, predictor=3, pack=pack))
    notes = save_stamped(tmp_path/'a.tif', tmp_path/'b.tif', nothing).notes
    assert notes[0] == 'TIFF written anew (predictor 3): tags and compression may differ'
    assert np.allclose(arr(Image.open(tmp_path/'b.tif')), pixels[...,0], atol=1e-6)

def test_a_tiff_of_twelve_bits_is_written_anew(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 4096, (40,60,1), dtype=np.uint16)
    def pack(rows):
        x,y = rows.reshape(-1, 2).T
        return np.stack([x>>4, (x&15)<<4|y>>8, y&255], 1).astype(np.uint8).tobytes()
    data = bytearray(packed_tiff(pixels, 1, compression=1, pack=pack))
    at = data.index(struct.pack('<HHLH', 258, 3, 1, 16))
    data[at+8] = 12
    (tmp_path/'a.tif').write_bytes(data)
    assert np.array_equal(arr(Image.open(tmp_path/'a.tif')), pixels[...,0])
    notes = save_stamped(tmp_path/'a.tif', tmp_path/'b.tif', nothing).notes
    assert notes[0] == 'TIFF written anew (12 bits of format 1): tags and compression may differ'
    assert np.array_equal(arr(Image.open(tmp_path/'b.tif')), pixels[...,0])

def test_07_another_quality_for_jpegs_leaves_a_tiff_alone(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 65000, (60,80,3), dtype=np.uint16)
    (tmp_path/'a.tif').write_bytes(tiff_of(pixels))
    assert save_stamped(tmp_path/'a.tif', tmp_path/'b.tif', nothing, quality=50).notes == ()
    assert (tmp_path/'b.tif').read_bytes() == (tmp_path/'a.tif').read_bytes()
    china.save(tmp_path/'c.tif', compression='jpeg')
    notes = save_stamped(tmp_path/'c.tif', tmp_path/'d.tif', mark, quality=50, strict=True).notes
    assert 'the JPEG inside keeps its own quality' in notes

def visible(a, b, p, mode='RGBA'):
    "Only the mark differs, and it does"
    x,y = (arr(Image.open(o).convert(mode) if mode else Image.open(o)).astype(int) for o in (a,b))
    letters = arr(p.alpha()) > 0
    return (x != y)[letters].any(-1).mean() > .5 and (x == y)[~letters].all()

@pytest.mark.parametrize('upright', (False,True))
@pytest.mark.parametrize('size', (56,108,124))
def test_09_alpha_of_a_bmp_stays(tmp_path, size, upright):
    pixels = np.random.default_rng(0).integers(0, 200, (60,80,4), dtype=np.uint8)
    masks = 0xff0000,0xff00,0xff,0xff000000
    head = struct.pack('<LllHHLLllLL4L', size, 80, -60 if upright else 60, 1, 32, 3, 80*60*4, 2835, 2835, 0, 0, *masks)
    head = head.ljust(size, b'\0')
    rows = (pixels if upright else pixels[::-1])[...,(2,1,0,3)].tobytes()
    body = b'BM'+struct.pack('<LLL', 14+size+len(rows), 0, 14+size)+head+rows
    (tmp_path/'a.bmp').write_bytes(body)
    assert Image.open(tmp_path/'a.bmp').mode == 'RGBA'
    assert save_stamped(tmp_path/'a.bmp', tmp_path/'b.bmp', nothing).notes == ()
    assert (tmp_path/'b.bmp').read_bytes() == body
    p = save_stamped(tmp_path/'a.bmp', tmp_path/'b.bmp', mark, overwrite=True)
    assert visible(tmp_path/'a.bmp', tmp_path/'b.bmp', p)
    assert (tmp_path/'b.bmp').read_bytes()[:14+size] == body[:14+size]

MASKS = dict(abgr=(0xff000000,0xff0000,0xff00,0xff), rgba=(0xff,0xff00,0xff0000,0xff000000),
             bgra=(0xff0000,0xff00,0xff,0xff000000), bgx=(0xff0000,0xff00,0xff))

@pytest.mark.parametrize('order', MASKS)
def test_09_wherever_a_bmp_has_its_channels(tmp_path, order):
    "What is in bytes of no channel stays too"
    raw,masks = np.random.default_rng(1).integers(0, 200, (60,80,4), dtype=np.uint8),MASKS[order]
    size = 40+4*len(masks) if len(masks) == 4 else 40
    head = struct.pack('<LllHHLLllLL', size, 80, 60, 1, 32, 3 if order != 'bgx' else 0, raw.size, 2835, 2835, 0, 0)
    head += struct.pack(f'<{len(masks)}L', *masks) if order != 'bgx' else b''
    (tmp_path/'a.bmp').write_bytes(b'BM'+struct.pack('<LLL', 14+len(head)+raw.size, 0, 14+len(head))+head+raw.tobytes())
    p = save_stamped(tmp_path/'a.bmp', tmp_path/'b.bmp', mark)
    a,b = (np.frombuffer((tmp_path/f'{n}.bmp').read_bytes()[-raw.size:], np.uint8).reshape(60,80,4) for n in 'ab')
    letters = arr(p.alpha())[::-1] > 0
    assert p.notes == () and (a[~letters] == b[~letters]).all() and (a[letters] != b[letters]).any(-1).mean() > .5
    assert visible(tmp_path/'a.bmp', tmp_path/'b.bmp', p)
    if order == 'bgx': assert (a[...,3] == b[...,3]).all()

@pytest.mark.parametrize('mode', ('RGB','RGBA'))
@pytest.mark.parametrize('n', (1,3))
def test_11_lossless_webp_with_a_large_profile_stays_lossless(tmp_path, mode, n):
    a,b = tmp_path/'a.webp',tmp_path/'b.webp'
    frames = [china.rotate(9*i).convert(mode) for i in range(n)]
    profile = np.random.default_rng(0).bytes(6001)
    frames[0].save(a, lossless=True, exact=True, icc_profile=profile, save_all=n>1, append_images=frames[1:])
    p = save_stamped(a, b, mark)
    y = Image.open(b)
    assert p.notes == () and y.info['icc_profile'] == profile and y.n_frames == n
    assert b'VP8L' in b.read_bytes() and b'VP8 ' not in b.read_bytes()
    assert visible(a, b, p)

COLOURS = {b'gAMA':struct.pack('>L', 45455), b'sRGB':b'\1', b'cICP':b'\x0c\x0d\0\1', b'sBIT':b'',
           b'cHRM':struct.pack('>8L', 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)}

@pytest.mark.parametrize('mode', ('1','L','LA','P','RGB','RGBA','I;16','deep','moving'))
def test_12_what_a_png_says_of_its_colours_stays(tmp_path, mode):
    im = china.resize((64,48))
    how = dict(save_all=True, append_images=[im.rotate(90)]) if mode == 'moving' else {}
    if mode in ('1','L','LA','P','RGBA'): im = im.convert(mode)
    if mode == 'I;16': im = Image.fromarray(arr(im.convert('L')).astype(np.uint16)*257)
    out = io.BytesIO()
    im.save(out, 'PNG', **how)
    data = png_bytes(deep_png(arr(im).astype(np.uint16)*257)) if mode == 'deep' else out.getvalue()
    own = [struct.pack('>L', len(v))+k+v+struct.pack('>L', zlib.crc32(k+v)) for k,v in COLOURS.items() if v]
    (tmp_path/'a.png').write_bytes(data[:33]+b''.join(own)+data[33:])
    save_stamped(tmp_path/'a.png', tmp_path/'b.png', mark)
    new = (tmp_path/'b.png').read_bytes()
    pixels = min(new.index(k) for k in (b'IDAT',b'PLTE') if k in new)
    assert all(o in new[:pixels] for o in own)

def test_19_lab(tmp_path):
    from PIL import ImageCms
    srgb,lab = ImageCms.createProfile('sRGB'),ImageCms.createProfile('LAB')
    im = ImageCms.profileToProfile(china, srgb, lab, outputMode='LAB')
    im.save(tmp_path/'a.tif')
    assert Image.open(tmp_path/'a.tif').mode == 'LAB'
    p = save_stamped(tmp_path/'a.tif', tmp_path/'b.tif', Mark('© me', size=.5, opacity=1, color='red'))
    assert p.notes == () and visible(tmp_path/'a.tif', tmp_path/'b.tif', p, None)
    shown = arr(ImageCms.profileToProfile(Image.open(tmp_path/'b.tif'), lab, srgb, outputMode='RGB')).astype(int)
    assert np.abs(shown[arr(p.alpha()) == 255]-(255,0,0)).max() < 12

def test_19_a_gif_without_colours(tmp_path):
    out = io.BytesIO()
    china.convert('L').save(out, 'GIF')
    data = bytearray(out.getvalue())
    table = 3*2**((data[10]&7)+1)
    assert data[10]&0x80
    data[10] &= 0x7f
    (tmp_path/'a.gif').write_bytes(data[:13]+data[13+table:])
    p = save_stamped(tmp_path/'a.gif', tmp_path/'b.gif', Mark('© me', size=.5, opacity=1, color='black'))
    x,y = arr(china.convert('L')),arr(Image.open(tmp_path/'b.gif').convert('L'))
    a = arr(p.alpha())
    assert (y[a == 255] == 0).all() and (y[a == 0] == x[a == 0]).all()

@pytest.mark.parametrize('where', ('whole','parts'))
def test_19_a_tiff_with_jpeg_of_the_old_kind(tmp_path, where):
    "Its JPEG is a file inside, which a tag points at"
    out = io.BytesIO()
    china.save(out, 'JPEG', quality=95, subsampling=0)
    jpeg = out.getvalue()
    strip = 8 if where == 'whole' else 8+jpeg.index(b'\xff\xda')+2+int.from_bytes(jpeg[jpeg.index(b'\xff\xda')+2:][:2],
                                                                                 'big')
    n = 8+len(jpeg)-strip
    tags = [(256,4,320), (257,4,213), (258,3,8), (259,3,6), (262,3,6), (273,4,strip), (277,3,3), (278,4,213), (279,4,n),
            (513,4,8), (514,4,len(jpeg))]
    pad = bytes(len(jpeg)%2)
    data = (b'II*\0'+struct.pack('<L', 8+len(jpeg+pad))+jpeg+pad+struct.pack('<H', len(tags))
            +b''.join(struct.pack('<HHLL', t, k, 1, v) for t,k,v in tags)+bytes(4))
    (tmp_path/'a.tif').write_bytes(data)
    x = arr(Image.open(tmp_path/'a.tif').convert('RGB')).astype(int)
    p = save_stamped(tmp_path/'a.tif', tmp_path/'b.tif', Mark('© me', size=.5, opacity=1, color='red'))
    assert p.notes
    y = arr(Image.open(tmp_path/'b.tif').convert('RGB')).astype(int)
    a = arr(p.alpha())
    assert np.abs(y-x)[a == 0].max() < 20 and np.abs(y[a == 255]-(255,0,0)).max() < 60

@pytest.mark.parametrize('n', (1,2))
def test_what_a_gif_has_beside_its_pictures_stays(tmp_path, n):
    "The profile, comments before and after, what a program keeps, the shape of a pixel"
    im,out = china.resize((64,48)),io.BytesIO()
    im.save(out, 'GIF', **(dict(save_all=True, append_images=[im.rotate(90)], loop=3, duration=70) if n > 1 else {}))
    data = bytearray(out.getvalue())
    data[4:6],data[12] = b'9a',49
    def blocks(body): return b''.join(bytes([len(c)])+c for i in range(0, len(body), 255) if (c := body[i:i+255]))+b'\0'
    early = [b'\x21\xff\x0bICCRGBG1012'+blocks(b'profile '*60), b'\x21\xfe'+blocks('Grüße'.encode('latin1')*70),
             b'\x21\xff\x0bMAGPIXIM1.0'+blocks(b'own')]
    late = b'\x21\xfe'+blocks(b'the end')
    at = 13+3*2**((data[10]&7)+1)+(19 if n > 1 else 0)
    (tmp_path/'a.gif').write_bytes(data[:at]+b''.join(early)+data[at:-1]+late+data[-1:])
    assert Image.open(tmp_path/'a.gif').info['comment'] == 'Grüße'.encode('latin1')*70
    p = save_stamped(tmp_path/'a.gif', tmp_path/'b.gif', mark)
    new,y = (tmp_path/'b.gif').read_bytes(),Image.open(tmp_path/'b.gif')
    assert p.notes == () and all(o in new for o in (*early,late)) and new[12] == 49
    assert y.n_frames == n and y.info['comment'] == 'Grüße'.encode('latin1')*70
    if n > 1: assert y.info['loop'] == 3 and y.info['duration'] == 70
    left = save_stamped(tmp_path/'a.gif', tmp_path/'c.gif', mark, strip_gps=True).notes
    assert left == ('MAGPIXIM1.0 dropped: it may hold the place',)

def test_the_brand_of_a_jpeg2000_stays(tmp_path):
    china.save(tmp_path/'plain.jp2')
    old = jp2_boxes((tmp_path/'plain.jp2').read_bytes())
    own = [(b'ftyp',b'jpx \0\0\0\0jpx jp2 jpxb'), (b'rreq',b'\1\x80\x80\0\1\0\5\x80\0\0')]
    (tmp_path/'a.jpf').write_bytes(jp2_bytes([old[0], *own, *old[2:]]))
    save_stamped(tmp_path/'a.jpf', tmp_path/'b.jpf', mark)
    assert jp2_boxes((tmp_path/'b.jpf').read_bytes())[1:3] == own

@pytest.mark.parametrize('sampling', ('4:4:4','4:2:2','4:2:0','4:0:0'))
def test_an_avif_keeps_its_sampling_and_the_meaning_of_its_colours(tmp_path, sampling):
    im = china.copy()
    im.putalpha(Image.linear_gradient('L').resize(im.size))
    im.save(tmp_path/'a.avif', subsampling=sampling)
    data = bytearray((tmp_path/'a.avif').read_bytes())
    at = data.index(b'colrnclx')
    data[at+8:at+12] = b'\0\x09\0\x10'  # BT.2020 and PQ
    (tmp_path/'a.avif').write_bytes(data)
    save_stamped(tmp_path/'a.avif', tmp_path/'b.avif', mark)
    new = (tmp_path/'b.avif').read_bytes()
    assert b'colrnclx\0\x09\0\x10' in new and b'colrnclx\0\1' not in new
    def flags(o): return sorted({o[m.end()+2] & 0x1c for m in re.finditer(b'av1C', o)})
    assert flags(new) == flags(data)
    x,y = (Image.open(tmp_path/f'{n}.avif').mode for n in 'ab')
    assert x == y and x[-1] == 'A'

def test_a_heic_keeps_its_sampling_its_colours_and_which_picture_is_shown(tmp_path):
    heif()
    nclx = dict(color_primaries=9, transfer_characteristics=16, matrix_coefficients=9, full_range_flag=1)
    second = china.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((200,150))
    china.save(tmp_path/'a.heic', save_all=True, append_images=[second], primary_index=1, chroma=444, nclx_profile=nclx,
               thumbnails=[64])
    save_stamped(tmp_path/'a.heic', tmp_path/'b.heic', mark)
    x,y = (Image.open(tmp_path/f'{n}.heic') for n in 'ab')
    assert x.size == y.size == (200,150) and y.n_frames == 2
    assert (y.info['chroma'],y.info['nclx_profile']) == (x.info['chroma'],x.info['nclx_profile'])
    assert y.info['thumbnails'] == x.info['thumbnails'] == [64]
    assert y.info['chroma'] == 444 and y.info['nclx_profile']['color_primaries'] == 9

def test_an_icon_of_macos_keeps_its_sizes(tmp_path):
    png = io.BytesIO()
    china.resize((128,128)).convert('RGBA').save(png, 'PNG')
    body = b''.join(k+(png.tell()+8).to_bytes(4, 'big')+png.getvalue() for k in (b'ic07',))
    (tmp_path/'a.icns').write_bytes(b'icns'+(len(body)+8).to_bytes(4, 'big')+body)
    p = save_stamped(tmp_path/'a.icns', tmp_path/'b.icns', mark)
    x,y = (Image.open(tmp_path/f'{n}.icns') for n in 'ab')
    assert y.info['sizes'] == x.info['sizes'] == [(128,128,1)] and y.size == (128,128)
    assert visible(tmp_path/'a.icns', tmp_path/'b.icns', p)
    china.resize((512,512)).convert('RGBA').save(tmp_path/'c.icns')
    save_stamped(tmp_path/'c.icns', tmp_path/'d.icns', mark)
    x,y = (Image.open(tmp_path/f'{n}.icns') for n in 'cd')
    assert sorted(x.info['sizes']) == sorted(y.info['sizes'])
    for size in x.info['sizes']: assert x.icns.getimage(size).size == y.icns.getimage(size).size

def test_a_picture_of_macos_in_a_size_of_old_is_dropped_and_said(tmp_path):
    "48×48 has no place in today's icons"
    png = io.BytesIO()
    china.resize((128,128)).convert('RGBA').save(png, 'PNG')
    old = arr(china.resize((48,48)))
    entries = (b'ic07',png.getvalue()),(b'ih32',old.transpose(2,0,1).tobytes()),(b'h8mk',bytes([255])*48*48)
    body = b''.join(k+(len(b)+8).to_bytes(4, 'big')+b for k,b in entries)
    (tmp_path/'a.icns').write_bytes(b'icns'+(len(body)+8).to_bytes(4, 'big')+body)
    p = save_stamped(tmp_path/'a.icns', tmp_path/'b.icns', mark)
    assert p.notes == ('the picture of 48×48 dropped',)
    assert Image.open(tmp_path/'b.icns').info['sizes'] == [(128,128,1)]

def test_smaller_copies_in_a_dds_are_dropped_and_said(tmp_path):
    china.resize((64,64)).save(tmp_path/'a.dds')
    data = bytearray((tmp_path/'a.dds').read_bytes())
    data[28] = 2
    small = bytes(arr(china.resize((32,32))))
    (tmp_path/'a.dds').write_bytes(data+small)
    p = save_stamped(tmp_path/'a.dds', tmp_path/'b.dds', mark)
    assert p.notes == ('smaller copies (mipmaps) dropped',) and small[:99] not in (tmp_path/'b.dds').read_bytes()
    assert visible(tmp_path/'a.dds', tmp_path/'b.dds', p)

def test_the_program_that_an_avif_names_is_told_to_be_gone(tmp_path):
    "Nothing is lost that is about the picture: strict=True allows it"
    china.save(tmp_path/'a.avif')
    data = bytearray((tmp_path/'a.avif').read_bytes())
    def more(at): data[at:at+4] = (int.from_bytes(data[at:at+4], 'big')+5).to_bytes(4, 'big')
    for at in (data.index(b'meta')-4, data.index(b'hdlr')-4): more(at)  # their sizes
    more(data.index(b'iloc')+18)  # where the pixels are
    at = data.index(b'hdlr')+28
    data[at:at] = b'maker'
    (tmp_path/'a.avif').write_bytes(data)
    p = save_stamped(tmp_path/'a.avif', tmp_path/'b.avif', mark, strict=True)
    assert p.notes == ('the name of the program that wrote it dropped',)

def test_a_palette_becomes_rgb_where_the_mark_needs_it(tmp_path):
    china.convert('P').save(tmp_path/'a.pcx')
    p = save_stamped(tmp_path/'a.pcx', tmp_path/'b.pcx', mark)
    assert p.notes == ('palette → RGB',) and visible(tmp_path/'a.pcx', tmp_path/'b.pcx', p)

def test_a_pdf_can_be_written_though_pillow_reads_none(tmp_path):
    china.save(tmp_path/'a.png')
    save_stamped(tmp_path/'a.png', tmp_path/'b.pdf', mark)
    assert (tmp_path/'b.pdf').read_bytes()[:5] == b'%PDF-'

def test_xmp_of_a_jpeg_goes_over_to_a_png(tmp_path):
    xmp = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><a dc:title="Grüße" exif:GPSLatitude="52,30N"/></x:xmpmeta>'
    china.save(tmp_path/'a.jpg', xmp=xmp.encode())
    assert save_stamped(tmp_path/'a.jpg', tmp_path/'b.png', mark).notes == ()
    assert Image.open(tmp_path/'b.png').text['XML:com.adobe.xmp'] == xmp
    save_stamped(tmp_path/'a.jpg', tmp_path/'c.png', mark, strip_gps=True)
    left = Image.open(tmp_path/'c.png').text['XML:com.adobe.xmp']
    assert 'Grüße' in left and '52,30N' not in left

@pytest.mark.parametrize('code', ('DXT1','DXT3','DXT5'))
def test_blocks_of_a_dds_that_lie_under_no_mark_stay(tmp_path, code):
    im = china.resize((162,107))
    if code != 'DXT1': im.putalpha(Image.linear_gradient('L').resize(im.size))
    im.save(tmp_path/'a.dds', pixel_format=code)
    p = save_stamped(tmp_path/'a.dds', tmp_path/'b.dds', mark)
    x,y = (arr(Image.open(tmp_path/f'{n}.dds').convert('RGBA')).astype(int) for n in 'ab')
    touched = np.zeros(x.shape[:2], bool)
    for (l,t,r,b),_ in p.pieces(): touched[t//4*4:-(-b//4)*4,l//4*4:-(-r//4)*4] = True
    assert (x == y)[~touched].all() and (x != y)[arr(p.alpha()) > 0].any(-1).mean() > .5 and touched.mean() < .5

def test_a_palette_with_alpha_keeps_it(tmp_path):
    im = Image.new('P', (40,30))
    im.putpalette([255,0,0,255, 0,0,255,0]*2, 'RGBA')
    im.paste(1, (0,0,20,30))
    res = arr(stamp(im, nothing))
    assert (res[:,:20] == (0,0,255,0)).all() and (res[:,20:] == (255,0,0,255)).all()

MODES = dict(png=('1','L','P','RGB','RGBA','LA','I;16'), tif=('1','L','P','RGB','RGBA','CMYK','I;16','F'),
             bmp=('L','RGB'), webp=('RGB','RGBA'), gif=('P','L'),
             qoi=('RGB','RGBA'), tga=('L','RGB','RGBA'), ppm=('RGB',), jp2=('L','RGB'), dds=('RGB','RGBA'),
             pcx=('L','RGB'), sgi=('L','RGB'), ico=('RGBA',))

@pytest.mark.parametrize('suffix,mode', [(s,m) for s,ms in MODES.items() for m in ms])
def test_a_mark_that_cannot_be_seen_changes_no_pixel(tmp_path, suffix, mode):
    im = china.resize((64,64)).convert({'I;16':'L', 'F':'L', 'CMYK':'RGB'}.get(mode, mode)).convert(mode)
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
        before,after = ({k:v for k,v in o.tag_v2.items() if k not in where} for o in (x,y))
        assert before == after
        assert (arr(x) != arr(y)).any()

def test_08_a_transparent_gif_gets_a_visible_mark(tmp_path):
    im = Image.new('RGBA', (120,80), (0,0,0,0))
    im.paste((200,30,30,255), (0,0,20,20))
    im.save(tmp_path/'a.gif', comment=b'hello')
    save_stamped(tmp_path/'a.gif', tmp_path/'b.gif', Mark('© me', size=.8))
    y = Image.open(tmp_path/'b.gif')
    assert y.info['comment'] == b'hello' and arr(y.convert('RGBA'))[25:,:,3].any()

def test_heic(tmp_path):
    heif()
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

# ---- nothing is lost in silence

@needs_exiftool
def test_21_no_tag_of_a_camera_is_lost(tmp_path):
    "A few makers here; benchmarks/watermark_tags.py has fourteen"
    files,dst = make_pictures(tmp_path/'before', ('Canon','NIKON CORPORATION','Apple')),tmp_path/'after'
    dst.mkdir()
    notes = {p.name: save_stamped(p, dst/p.name, mark).notes for p in files}
    before = all_tags(tmp_path/'before')
    assert len(files) > 35 and sum(map(len, before.values())) > 1000
    lost = differing(before, all_tags(dst))
    assert {name for name in lost if not notes[name]} == set() and len(lost) <= 2, lost

INFO = dict(jpg=('dpi','comment','icc_profile','exif','xmp'), png=('dpi','icc_profile','exif'),
            webp=('icc_profile','exif','xmp'), tif=('dpi','icc_profile'),
            avif=('icc_profile','exif','xmp'), gif=('comment',), jp2=('comment',), bmp=('dpi',))
EXIF = Image.Exif()
EXIF[315] = 'Jörg'.encode()
VALUES = dict(dpi=(144,144), comment='Grüße'.encode(), icc_profile=b'profile '*30, exif=EXIF.tobytes(),
              xmp=b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>')

def of_mode(im, mode):
    "`im` in `mode`, with numbers that 8 bits do not hold where the mode can"
    if mode == 'F': return Image.fromarray(arr(im.convert('L')).astype(np.float32)*257.3)
    if mode == 'I;16': return Image.fromarray(arr(im.convert('L')).astype(np.uint16)*251+7)
    return im.convert('RGB' if mode == 'CMYK' else mode).convert(mode)

@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_the_writer_lists_is_as_it_was(tmp_path, data):
    "Any mode, format and metadata: a mark that cannot be seen changes no pixel and nothing that Pillow reads"
    suffix = data.draw(st.sampled_from(sorted(INFO)), 'format')
    mode = data.draw(st.sampled_from(MODES.get(suffix, ('L','RGB'))), 'mode')
    names = data.draw(st.sets(st.sampled_from(INFO[suffix])), 'metadata')
    im = of_mode(china.resize((40,28)), mode)
    a,b = tmp_path/f'a.{suffix}',tmp_path/f'b.{suffix}'
    how = dict(webp=dict(lossless=True, exact=True), jpg=dict(quality=92)).get(suffix, {})
    im.save(a, **how, **{n:VALUES[n] for n in names})
    p = save_stamped(a, b, nothing, overwrite=True, strict=mode not in ('P','1'))
    with Image.open(a) as x, Image.open(b) as y:
        assert x.format == y.format and (x.mode == y.mode or mode in ('P','1') and p.notes)
        for n in names & x.info.keys(): assert y.info.get(n) == x.info[n], (n, p.notes)
        x,y = (arr(o if mode in ('F','I;16') else o.convert('RGBA')).astype(float) for o in (x,y))
        assert np.abs(x-y).max() <= (0 if suffix not in ('jpg','avif') else 12)

def test_jpeg2000_keeps_its_boxes_and_says_its_bits(tmp_path):
    china.save(tmp_path/'plain.jp2')
    boxes = jp2_boxes((tmp_path/'plain.jp2').read_bytes())
    dpi = jp2_bytes([(b'resc', (11811).to_bytes(2, 'big')+b'\0\1'+(11811).to_bytes(2, 'big')+b'\0\1\0\0')])
    old = [(k, b+jp2_bytes([(b'res ',dpi)]) if k == b'jp2h' else b) for k,b in boxes]
    old.append((b'xml ', b'<me GPSLatitude="1"/>'))
    (tmp_path/'a.jp2').write_bytes(jp2_bytes(old))
    p = save_stamped(tmp_path/'a.jp2', tmp_path/'b.jp2', mark)
    new = dict(jp2_boxes((tmp_path/'b.jp2').read_bytes()))
    assert p.notes == () and new[b'xml '] == b'<me GPSLatitude="1"/>' and (b'res ',dpi) in jp2_boxes(new[b'jp2h'])
    assert round(Image.open(tmp_path/'b.jp2').info['dpi'][0]) == 300
    save_stamped(tmp_path/'a.jp2', tmp_path/'c.jp2', mark, strip_gps=True)
    assert b'GPSLatitude' not in (tmp_path/'c.jp2').read_bytes()
    assert depth_of(b'\xff\x4f\xff\x51'+bytes(36)+b'\0\3'+b'\x0b\1\1'*3, 'JPEG2000') == 12
    assert (depth_of(b'P6\n# x\n4 5\n65535\n', 'PPM'), depth_of(b'P5 4 5 255\n', 'PPM')) == (16, 8)

def test_sixteen_bits_that_pillow_cannot_keep_are_said(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 65536, (20,30,3), dtype=np.uint16)
    (tmp_path/'a.ppm').write_bytes(b'P6\n30 20\n65535\n'+pixels.astype('>u2').tobytes())
    assert '16 → 8 bits' in save_stamped(tmp_path/'a.ppm', tmp_path/'b.ppm', mark).notes
    with pytest.raises(ValueError, match='strict: 16 → 8 bits'):
        save_stamped(tmp_path/'a.ppm', tmp_path/'c.ppm', mark, strict=True)

@pytest.mark.parametrize('white', (1,255,65535))
@pytest.mark.parametrize('suffix', ('pfm','tif'))
def test_10_white_is_the_white_of_a_picture_of_floats(tmp_path, suffix, white):
    im = Image.fromarray(np.linspace(.6*white, .9*white, 80*60, dtype=np.float32).reshape(60,80))
    im.save(tmp_path/f'a.{suffix}', **(dict(format='PPM') if suffix == 'pfm' else {}))
    save_stamped(tmp_path/f'a.{suffix}', tmp_path/f'b.{suffix}', Mark('X', size=.9, opacity=1))
    y = arr(Image.open(tmp_path/f'b.{suffix}'))
    assert y.max() == white and np.isclose(y.min(), .6*white)

def test_04_another_format_takes_exif_over_or_says_what_it_dropped(tmp_path):
    e = Image.Exif()
    e[315],e[0x8769] = 'Ann',{0x9003:'2024:05:17 12:34:56'}
    china.save(tmp_path/'a.jpg', exif=e, icc_profile=b'profile '*30)
    for suffix in ('tif','png','webp','avif'):
        assert save_stamped(tmp_path/'a.jpg', tmp_path/f'b.{suffix}', mark).notes == ()
        with Image.open(tmp_path/f'b.{suffix}') as y: assert y.getexif()[315] == 'Ann' and 'icc_profile' in y.info
    assert save_stamped(tmp_path/'a.jpg', tmp_path/'b.bmp', mark).notes == ('EXIF dropped','the colour profile dropped')
    with pytest.raises(ValueError, match='strict: EXIF dropped'):
        save_stamped(tmp_path/'a.jpg', tmp_path/'c.bmp', mark, strict=True)

def test_04_all_that_another_format_does_not_hold_is_said(tmp_path):
    info = PngInfo()
    info.add_text('Author', 'Ann')
    pixels = np.random.default_rng(0).integers(0, 65536, (20,30,3), dtype=np.uint16)
    (tmp_path/'deep.png').write_bytes(png_bytes(deep_png(pixels)))
    (tmp_path/'deep.tif').write_bytes(tiff_of(pixels))
    china.save(tmp_path/'text.png', pnginfo=info, dpi=(300,300))
    china.save(tmp_path/'comment.jpg', comment=b'hello', dpi=(300,300))
    china.save(tmp_path/'tags.tif', tiffinfo={315:'Ann'}, dpi=(300,300))
    for a,b,lost in (('deep.png','a.jpg',['16 → 8 bits']), ('deep.tif','b.png',['16 → 8 bits']),
                     ('text.png','c.jpg',['texts dropped']),
                     ('text.png','d.webp',['texts dropped','resolution dropped']),
                     ('comment.jpg','e.png',['comment dropped']), ('tags.tif','f.bmp',['EXIF dropped']),
                     ('tags.tif','g.jpg',[]), ('comment.jpg','h.gif',['resolution dropped','colours → P'])):
        assert list(save_stamped(tmp_path/a, tmp_path/b, mark).notes) == lost, b
        if lost:
            with pytest.raises(ValueError, match='strict: '):
                save_stamped(tmp_path/a, tmp_path/b, mark, strict=True, overwrite=True)

def test_alpha_on_a_background(tmp_path):
    im = Image.new('RGBA', (60,40), (255,0,0,0))
    im.paste((0,0,255,255), (0,0,30,40))
    im.save(tmp_path/'a.png')
    with pytest.raises(ValueError, match="background='white'"): save_stamped(tmp_path/'a.png', tmp_path/'a.jpg', mark)
    save_stamped(tmp_path/'a.png', tmp_path/'a.jpg', mark, background='white')
    y = Image.open(tmp_path/'a.jpg')
    assert y.mode == 'RGB' and min(y.getpixel((50,3))) > 245 and y.getpixel((5,3))[0] < 12
    with pytest.raises(ValueError, match="background='whit' is no colour"):
        save_stamped(tmp_path/'a.png', tmp_path/'b.jpg', mark, background='whit')

# ---- damaged files

def damaged(data, rng):
    "A copy that was cut, or in which some bytes changed, came in, came twice or became 0"
    data,end = bytearray(data),min(len(data), 700) if rng.random() < .7 else len(data)
    at = rng.randrange(2, end)
    match rng.choice(['cut', 'change', 'more', 'twice', 'zero']):
        case 'cut': del data[rng.randrange(4, len(data)):]
        case 'change':
            for _ in range(rng.randint(1, 6)): data[rng.randrange(2, end)] = rng.randrange(256)
        case 'more': data[at:at] = rng.randbytes(rng.randint(1, 9))
        case 'twice': data[at:at] = data[at:at+rng.randint(1, 60)]
        case 'zero': data[at:at+8] = bytes(8)
    return bytes(data)

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'TIFF', 'WEBP', 'GIF', 'BMP'])
def test_a_damaged_file_is_stamped_whole_or_refused(kind, tmp_path):
    "The result opens and has the source's pixels under a mark of opacity 0; what cannot be read leaves nothing behind"
    import random
    exif = Image.Exif()
    exif[0x13b] = 'Ada'
    exif.get_ifd(0x8825)[1] = 'N'
    how = dict(JPEG=dict(exif=exif, comment=b'hi'), PNG=dict(exif=exif), TIFF=dict(exif=exif, compression='tiff_lzw'),
               WEBP=dict(exif=exif, lossless=True), GIF=dict(comment=b'hi')).get(kind, {})
    picture,whole = Image.linear_gradient('L').resize((64,48)).convert('P' if kind == 'GIF' else 'RGB'),io.BytesIO()
    picture.save(whole, kind, **how)
    src,dst = tmp_path/f's.{kind.lower()}',tmp_path/f'd.{kind.lower()}'
    rng,unseen,stamped = random.Random(kind),Mark('x', size=.3, opacity=0.),0
    for _ in range(120):
        src.write_bytes(damaged(whole.getvalue(), rng))
        dst.unlink(missing_ok=True)
        try: save_stamped(src, dst, unseen, strip_gps=rng.random() < .5)
        except (OSError, ValueError, Image.DecompressionBombError):
            assert os.listdir(tmp_path) == [src.name]
            continue
        stamped += 1
        with Image.open(src) as a, Image.open(dst) as b:
            assert a.size == b.size and a.mode == b.mode
            if kind != 'JPEG': assert a.convert('RGBA').tobytes() == b.convert('RGBA').tobytes()
            else: b.load()
    assert stamped > 1

def test_a_bmp_that_does_not_say_where_its_pixels_are(tmp_path):
    "Readers take them to follow the header"
    whole = io.BytesIO()
    Image.linear_gradient('L').convert('RGB').save(whole, 'BMP')
    data = bytearray(whole.getvalue())
    data[10:14] = bytes(4)
    (tmp_path/'s.bmp').write_bytes(data)
    save_stamped(tmp_path/'s.bmp', tmp_path/'d.bmp', Mark('x', opacity=0.))
    with Image.open(tmp_path/'s.bmp') as a, Image.open(tmp_path/'d.bmp') as b: assert a.tobytes() == b.tobytes()
