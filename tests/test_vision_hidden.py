"Previews and places in the rarer corners of a file: each is marked, taken out or named, and the file stays readable"
import base64, hashlib, html, io, re, shutil, struct, subprocess, zlib
import numpy as np, pytest
from PIL import Image
from sklearn.datasets import load_sample_image
from fastai_ext.vision.files.jp2 import jp2_boxes, jp2_bytes
from fastai_ext.vision.files.png import png_bytes, png_chunks
from fastai_ext.vision.mark import Mark
from fastai_ext.vision.save import save_stamped

needs_exiftool = pytest.mark.skipif(shutil.which('exiftool') is None,
                                    reason='the judge is exiftool (Debian: libimage-exiftool-perl)')
needs_jpegtran = pytest.mark.skipif(shutil.which('jpegtran') is None, reason='jpegtran: libjpeg-turbo-progs')
china = Image.fromarray(load_sample_image('china.jpg')).resize((320,213))
mark = Mark('© me', size=.5, opacity=.8)
arr = np.asarray

def jpeg(im=china, **how):
    out = io.BytesIO()
    im.save(out, 'JPEG', **{'quality':90, **how})
    return out.getvalue()

small = jpeg(china.resize((160,106)), quality=85)

def segment(kind, body): return b'\xff'+bytes([kind])+(len(body)+2).to_bytes(2, 'big')+body

def saved(tmp_path, data, suffix='jpg', **how):
    "(the stamped bytes, the notes) of the file `data`"
    a,b = tmp_path/f'a.{suffix}',tmp_path/f'b.{suffix}'
    a.write_bytes(data)
    notes = save_stamped(a, b, mark, overwrite=True, **how).notes
    with Image.open(b) as im: im.load()
    return b.read_bytes(),notes

def with_segments(*segments, picture=None):
    "A JPEG with `segments` before its own"
    data = picture or jpeg()
    return data[:2]+b''.join(segments)+data[2:]

def is_marked(before, after):
    "Whether the mark, and little else, tells the picture `after` from `before`"
    x,y = (arr(o.convert('RGB')).astype(int) for o in (before,after))
    hit = arr(mark.place(before.size).alpha()) > 0
    off = np.abs(x-y).mean(-1)
    return x.shape == y.shape and off[hit].mean() > 20 and off[~hit].mean() < 12

def opened(data): return Image.open(io.BytesIO(data))

# ---- JPEG

def test_junk_and_filler_between_the_segments_of_a_jpeg(tmp_path):
    "Decoders pass over both; the segments behind them travel all the same"
    own = segment(0xe3, b'Meta\0\0kodak')
    data = with_segments(own, b'\0junk', own, b'\xff\xff\xff')
    new,notes = saved(tmp_path, data)
    assert new.count(own) == 2 and notes == () and b'junk' not in new and is_marked(china, opened(new))

@needs_jpegtran
def test_lossless_gives_what_jpegtran_says_where_it_refuses(tmp_path):
    with pytest.raises(ValueError, match=r'jpegtran could not stamp .*a\.jpg: .*xtraneous.*leave lossless off'):
        saved(tmp_path, with_segments(segment(0xfe, b'hello'), b'\0junk'), lossless=True)
    assert not (tmp_path/'b.jpg').exists()

@needs_jpegtran
def test_a_rare_subsampling_is_named(tmp_path):
    "A picture of 4:2:2 that was turned has half the rows of colour, which Pillow cannot write"
    turned = subprocess.run(['jpegtran','-transpose'], input=jpeg(subsampling=1), capture_output=True,
                            check=True).stdout
    new,notes = saved(tmp_path, turned)
    assert notes == ('a rare subsampling → none',)
    assert is_marked(china.transpose(Image.Transpose.TRANSPOSE), opened(new))
    with pytest.raises(ValueError, match='subsampled in a way that Pillow cannot write; leave lossless off'):
        saved(tmp_path, turned, lossless=True)

@needs_jpegtran
def test_another_kind_of_coding_is_named_behind_junk_too(tmp_path):
    "Pillow writes Huffman codes alone"
    data = subprocess.run(['jpegtran','-arithmetic'], input=jpeg(), capture_output=True, check=True).stdout
    for source in (data, with_segments(segment(0xfe, b'hello'), b'junk', picture=data)):
        new,notes = saved(tmp_path, source)
        assert notes == ('arithmetic → Huffman coding',) and is_marked(china, opened(new))

def test_the_thumbnail_of_a_jfif_segment(tmp_path):
    "Marked, or gone where it is cut: no unmarked picture stays"
    size = 160,106
    before = china.resize(size)
    def with_thumbnail(pixels):
        data = jpeg()
        return data[:2]+segment(0xe0, data[6:18]+bytes(size)+pixels)+data[20:]
    new,notes = saved(tmp_path, with_thumbnail(before.tobytes()))
    at = new.index(b'JFIF\0')
    assert notes == () and tuple(new[at+12:at+14]) == size
    assert is_marked(before, Image.frombytes('RGB', size, new[at+14:at+14+3*size[0]*size[1]]))
    cut,notes = saved(tmp_path, with_thumbnail(before.tobytes()[:-9]))
    at = cut.index(b'JFIF\0')
    assert notes == ('the JFIF thumbnail dropped',) and cut[at-2:at] == b'\0\x10' and cut[at+12:at+14] == b'\0\0'

def test_the_thumbnails_of_a_jfxx_segment(tmp_path):
    "Of its three kinds, JPEG and RGB are marked; one with a palette is dropped, and said"
    before = china.resize((120,80))
    new,notes = saved(tmp_path, with_segments(segment(0xe0, b'JFXX\0\x13'+bytes(before.size)+before.tobytes())))
    at = new.index(b'JFXX\0')+8
    assert notes == () and is_marked(before, Image.frombytes('RGB', before.size, new[at:at+3*120*80]))
    palette = segment(0xe0, b'JFXX\0\x11'+bytes((40,30))+bytes(range(256))*3+bytes(1200))
    new,notes = saved(tmp_path, with_segments(palette))
    assert b'JFXX' not in new and notes == ('the JFXX thumbnail dropped',)
    new,notes = saved(tmp_path, with_segments(segment(0xe0, b'JFXX\0\x10'+small[:-2])))
    assert small[600:700] not in new, 'a JPEG that does not end is not left as it was'

def test_a_preview_that_goes_on_in_the_next_segments_is_dropped(tmp_path):
    big = jpeg(china.resize((1600,1065)), quality=97)
    pieces = [segment(0xe7, big[i:i+60_000]) for i in range(0, len(big), 60_000)]
    assert len(pieces) > 2
    new,notes = saved(tmp_path, with_segments(*pieces))
    assert notes == ('a preview in APP7 dropped',) and not any(p[len(p)//2:][:60] in new for p in pieces)

def test_content_credentials_of_a_jpeg_and_a_png_are_for_the_picture_without_the_mark(tmp_path):
    said = ('content credentials (C2PA) dropped: they are for the picture without the mark',)
    new,notes = saved(tmp_path, with_segments(segment(0xeb, b'JP\0\0\0\0\0\x01jumb c2pa')))
    assert notes == said and b'c2pa' not in new
    new,notes = saved(tmp_path, with_chunks((b'caBX', b'jumb c2pa')), 'png')
    assert notes == said and b'c2pa' not in new

def two_pictures():
    out = io.BytesIO()
    china.save(out, 'MPO', save_all=True, append_images=[china.rotate(180)])
    return bytearray(out.getvalue())

@pytest.mark.parametrize('fault', ('elsewhere','broken','index'))
def test_a_second_picture_that_cannot_be_read_does_not_stay(tmp_path, fault):
    "Its position is wrong, its pixels are broken, or the index itself: the first picture is stamped, and the loss said"
    data = two_pictures()
    second = data.index(b'\xff\xd8\xff', 100)
    inside = bytes(data[second+3000:second+3060])
    base = data.index(b'MPF\0')+4
    if fault == 'elsewhere':
        order = '<' if data[base:base+2] == b'II' else '>'
        where = struct.pack(order+'L', second-base)
        at = data.index(where, base)
        data[at:at+4] = struct.pack(order+'L', second-base+7)
    elif fault == 'broken': data[second+4:second+900] = bytes(896)
    else: data[base:base+2] = b'??'
    new,notes = saved(tmp_path, bytes(data))
    assert inside not in new and is_marked(china, opened(new))
    said = 'bytes after the picture dropped' if fault == 'index' else 'second picture dropped'
    assert any(said in n for n in notes)
    assert b'MPF\0' not in new or fault == 'index'

# ---- XMP

def base64_lines(data, by='&#xA;'):
    text = base64.b64encode(data).decode()
    return by.join(text[i:i+76] for i in range(0, len(text), 76))

XMP = b'http://ns.adobe.com/xap/1.0/\0'

def packet(preview, more='', attributes=''):
    "An XMP packet with a preview as Adobe's programs write it"
    return (f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
            f'<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
            f'xmlns:xmpNote="http://ns.adobe.com/xmp/note/" '
            f'xmlns:xmpGImg="http://ns.adobe.com/xap/1.0/g/img/" {attributes}>{more}<xmp:Thumbnails><rdf:Alt>'
            f'<rdf:li rdf:parseType="Resource"><xmpGImg:image>{preview}</xmpGImg:image></rdf:li></rdf:Alt>'
            f'</xmp:Thumbnails></rdf:Description></rdf:RDF></x:xmpmeta>').encode()

GPS = (b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
       b'<r:Description xmlns:xmpNote="http://ns.adobe.com/xmp/note/" exif:GPSLatitude="52,30N" dc:title="kept"/>'
       b'</r:RDF></x:xmpmeta>')

def preview_of(xmp):
    return base64.b64decode(html.unescape(re.search(rb'<xmpGImg:image>(.*?)</xmpGImg', xmp, re.S)[1].decode()))

@pytest.mark.parametrize('by', ('','&#xA;','\n'))
@pytest.mark.parametrize('suffix', ('jpg','webp','png','tif'))
def test_a_preview_in_xmp_is_marked_wherever_xmp_is(tmp_path, suffix, by):
    "In base64, in lines or not; the packet stays as long as it was"
    xmp,out = packet(base64_lines(small, by)),io.BytesIO()
    if suffix == 'png':
        data = with_chunks((b'iTXt', b'XML:com.adobe.xmp\0\0\0\0\0'+xmp))
    else:
        how = dict(tiffinfo={700:xmp}) if suffix == 'tif' else dict(xmp=xmp)
        china.save(out, dict(jpg='JPEG', webp='WEBP', tif='TIFF')[suffix], **how)
        data = out.getvalue()
    assert xmp in data
    new,notes = saved(tmp_path, data, suffix)
    at = new.index(b'<x:xmpmeta')
    left = new[at:at+len(xmp)]
    assert notes == () and left.endswith(b'</x:xmpmeta>') and is_marked(opened(small), opened(preview_of(left)))

def test_base64_in_xmp_that_is_no_picture_does_not_stay(tmp_path):
    xmp = packet('/9j/'+'B'*97)  # one letter too many for base64
    new,_ = saved(tmp_path, with_segments(segment(0xe1, XMP+xmp)))
    assert b'B'*90 not in new and b'A'*90 in new

@needs_exiftool
def test_a_preview_in_the_long_part_of_xmp(tmp_path):
    "XMP of more than 64 KB goes on in further segments; exiftool puts them together and takes the preview out"
    whole = packet(base64_lines(jpeg(china.resize((640,426)), quality=97)))
    guid = hashlib.md5(whole).hexdigest().upper().encode()
    main = GPS.replace(b'exif:GPSLatitude="52,30N"', b'xmpNote:HasExtendedXMP="'+guid+b'"')
    extended = [segment(0xe1, b'http://ns.adobe.com/xmp/extension/\0'+guid+struct.pack('>LL', len(whole), i)
                        +whole[i:i+60_000]) for i in range(0, len(whole), 60_000)]
    assert len(extended) > 1
    data = with_segments(segment(0xe1, XMP+main), *extended)
    def preview(name):
        res = subprocess.run(['exiftool','-b','-XMP:ThumbnailImage', tmp_path/name], capture_output=True, check=True)
        assert res.stderr == b''
        return res.stdout.strip()
    new,notes = saved(tmp_path, data)
    assert notes == () and is_marked(opened(preview('a.jpg')), opened(preview('b.jpg')))
    name = re.search(rb'HasExtendedXMP="(\w+)"', new)[1]
    parts = re.findall(rb'xmp/extension/\0(.{32})', new, re.S)
    assert name != guid and parts == [name]*len(extended), 'the name is the sum of what it names'
    plain = jpeg()
    new,notes = saved(tmp_path, with_segments(segment(0xe1, XMP+main), *extended, picture=plain), strip_gps=True)
    assert notes == ('the long part of XMP dropped: it may hold the place',)
    assert guid not in new and b'xmp/extension' not in new
    text = whole.replace(b'/9j/', b'none')
    same = [segment(0xe1, b'http://ns.adobe.com/xmp/extension/\0'+guid+struct.pack('>LL', len(text), 0)+text[:60_000])]
    assert same[0] in saved(tmp_path, with_segments(segment(0xe1, XMP+main), *same))[0], 'as it was without a preview'

def test_xmp_that_cannot_be_read_goes_where_it_names_a_place(tmp_path):
    data = with_segments(segment(0xe1, XMP+b'<x:xmpmeta><exif:GPSLatitude>52,30N'))
    new,notes = saved(tmp_path, data, strip_gps=True)
    assert notes == ('XMP that cannot be read dropped',) and b'52,30N' not in new
    assert b'52,30N' in saved(tmp_path, data)[0], 'only if it was asked for'

# ---- EXIF

def exif_with_raw_thumbnail(im, kind=2, cut=0):
    "EXIF whose second directory holds the pixels of `im` as they are, as cameras of the nineties wrote them"
    pixels = im.tobytes()[cut:]
    def entries(*all): return struct.pack('<H', len(all))+b''.join(struct.pack('<HHLL', t, k, n, v) for t,k,n,v in all)
    first = entries((315,2,4,int.from_bytes(b'Ann\0', 'little')))+struct.pack('<L', 26)
    at = 26+2+8*12+4
    second = entries((256,4,1,im.width), (257,4,1,im.height), (258,3,1,8), (259,3,1,1), (262,3,1,kind), (273,4,1,at),
                     (277,3,1,3), (279,4,1,len(pixels)))+bytes(4)
    return b'II*\0'+struct.pack('<L', 8)+first+second+pixels

@pytest.mark.parametrize('kind,cut', ((2,0),(6,0),(2,30)))
def test_a_thumbnail_of_raw_pixels_in_exif(tmp_path, kind, cut):
    "RGB is marked; what is another kind, or cut, is blanked and said"
    before = china.resize((120,80))
    exif = exif_with_raw_thumbnail(before, kind, cut)
    new,notes = saved(tmp_path, with_segments(segment(0xe1, b'Exif\0\0'+exif)))
    at = new.index(b'Exif\0\0')+6
    left = new[at:at+len(exif)]
    pixels = left[-120*80*3+cut:]
    assert left[:100] == exif[:100]
    if (kind,cut) == (2,0): assert notes == () and is_marked(before, Image.frombytes('RGB', before.size, pixels))
    else: assert notes == ('a preview inside the metadata dropped',) and not any(pixels)

def test_exif_that_cannot_be_read(tmp_path):
    "Its preview is marked; the whole goes where the place must go"
    broken = segment(0xe1, b'Exif\0\0'+b'??*\0'+bytes(20)+b'GPS 52.5 N'+small)
    new,notes = saved(tmp_path, with_segments(broken))
    at = new.index(b'GPS 52.5 N')+10
    assert notes == () and is_marked(opened(small), opened(new[at:at+len(small)]))
    new,notes = saved(tmp_path, with_segments(broken), strip_gps=True)
    assert notes == ('EXIF that cannot be read dropped',) and b'52.5 N' not in new

@pytest.mark.parametrize('text', (False,True))
def test_a_png_whose_exif_cannot_be_read_is_stamped(tmp_path, text):
    "Pillow raises when it is asked for the orientation; the picture itself is whole"
    bad = (b'tEXt',b'Raw profile type exif\0\nexif\n      10\nno digits\n') if text else (b'eXIf',b'no EXIF')
    new,notes = saved(tmp_path, with_chunks(bad), 'png')
    assert bad in png_chunks(new) and notes == () and is_marked(china, opened(new))
    assert bad not in png_chunks(saved(tmp_path, with_chunks(bad), 'png', strip_gps=True)[0])

def test_a_place_in_the_description(tmp_path):
    e = Image.Exif()
    e[270],e[315] = 'GPS Latitude: 52.5 N','Ann'
    new,_ = saved(tmp_path, jpeg(exif=e), strip_gps=True)
    left = opened(new).getexif()
    assert b'52.5' not in new and left[315] == 'Ann' and not left.get(270, '').strip('\0')

def test_a_preview_too_small_to_hold_the_mark_is_blanked(tmp_path):
    "As many bytes, so that nothing behind it moves; never the unmarked picture"
    tiny = jpeg(Image.new('L', (160,106), 99), quality=1, optimize=True)
    body = b'maker'+tiny+b'behind\xd8\xff\xd8\xff\0'
    new,notes = saved(tmp_path, with_segments(segment(0xe5, body)))
    assert notes == ('a preview inside the metadata dropped',) and b'maker'+bytes(len(tiny))+b'behind\xd8\xff' in new

def test_a_preview_that_the_mark_does_not_fit_is_blanked(tmp_path):
    "A picture that was cropped may carry a preview larger than itself, on which the tiles would be too many"
    wide = jpeg(china.resize((640,450)), quality=50)
    (tmp_path/'a.jpg').write_bytes(with_segments(segment(0xe5, wide), picture=jpeg(china.resize((60,40)))))
    notes = save_stamped(tmp_path/'a.jpg', tmp_path/'b.jpg', Mark('x', size=.002, pos='tile', gap=0, jitter=0)).notes
    assert notes == ('a preview inside the metadata dropped',) and bytes(len(wide)) in (tmp_path/'b.jpg').read_bytes()

# ---- IPTC and Photoshop

def resource(kind, body):
    return b'8BIM'+kind.to_bytes(2, 'big')+b'\0\0'+len(body).to_bytes(4, 'big')+body+bytes(len(body)%2)

def field(kind, body, wide=False):
    size = (0x8004).to_bytes(2, 'big')+len(body).to_bytes(4, 'big') if wide else len(body).to_bytes(2, 'big')
    return b'\x1c\2'+bytes([kind])+size+body

def test_fields_of_iptc_with_a_long_length(tmp_path):
    "Both kinds of length are followed: the city goes, the fields around it stay"
    iptc = field(105, b'headline'*3, True)+field(90, b'Berlin', True)+field(25, b'keyword')
    data = with_segments(segment(0xed, b'Photoshop 3.0\0'+resource(0x0404, iptc)))
    new,_ = saved(tmp_path, data, strip_gps=True)
    assert b'Berlin' not in new and field(105, b'headline'*3, True)+field(25, b'keyword') in new

def test_photoshop_data_that_cannot_be_read(tmp_path):
    data = with_segments(segment(0xed, b'Photoshop 3.0\0'+b'????Berlin'))
    new,notes = saved(tmp_path, data, strip_gps=True)
    assert notes == ('Photoshop data that cannot be read dropped',) and b'Berlin' not in new
    assert b'????Berlin' in saved(tmp_path, data)[0]

# ---- GIF, WebP, JPEG 2000

def test_credentials_and_previews_that_a_program_keeps_in_a_gif_are_dropped(tmp_path):
    out = io.BytesIO()
    china.save(out, 'GIF')
    data = bytearray(out.getvalue())
    data[4:6] = b'9a'
    at = 13+3*2**((data[10]&7)+1)
    own = [b'\x21\xff\x0bC2PA_GIF\1\0\0\4jumb\0', b'\x21\xff\x0bPREVIEW 1.0\6ab\xff\xd8\xff\xe0\0']
    new,notes = saved(tmp_path, bytes(data[:at]+b''.join(own)+data[at:]), 'gif')
    assert b'C2PA' not in new and b'PREVIEW' not in new
    assert len(notes) == 2 and notes[0].startswith('C2PA') and notes[1] == 'PREVIEW 1.0 dropped'

def test_credentials_of_a_webp_are_dropped(tmp_path):
    out = io.BytesIO()
    china.save(out, 'WEBP', lossless=True, xmp=b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>')
    data = out.getvalue()+b'C2PA\x04\0\0\0jumb'
    data = data[:4]+struct.pack('<L', len(data)-8)+data[8:]
    new,notes = saved(tmp_path, data, 'webp')
    assert b'C2PA' not in new and b'xmpmeta' in new
    assert notes == ('content credentials (C2PA) dropped: they are for the picture without the mark',)

def test_boxes_of_a_jpeg2000_that_nobody_knows(tmp_path):
    "A preview in one is marked, and all go where the place must go"
    out = io.BytesIO()
    china.save(out, 'JPEG2000')
    data = jp2_bytes([*jp2_boxes(out.getvalue()), (b'uuid',b'of a maker here.'+small)])
    new,notes = saved(tmp_path, data, 'jp2')
    body = dict(jp2_boxes(new))[b'uuid']
    assert notes == () and body[:16] == b'of a maker here.' and is_marked(opened(small), opened(body[16:]))
    new,notes = saved(tmp_path, data, 'jp2', strip_gps=True)
    assert b'uuid' not in dict(jp2_boxes(new)) and notes == ('uuid dropped: it may hold the place',)

# ---- PNG

def with_chunks(*chunks, im=china):
    "A PNG with `chunks` before its pixels"
    out = io.BytesIO()
    im.save(out, 'PNG')
    own = png_chunks(out.getvalue())
    at = [k for k,_ in own].index(b'IDAT')
    return png_bytes([*own[:at], *chunks, *own[at:]])

def names(data): return [k for k,_ in png_chunks(data)]

def test_chunks_that_are_about_other_colours_or_another_program(tmp_path):
    palette = china.convert('P')
    new,notes = saved(tmp_path, with_chunks((b'bKGD', b'\3'), im=palette), 'png')
    assert b'bKGD' not in names(new) and 'bKGD dropped: it was about other colours' in notes
    new,notes = saved(tmp_path, with_chunks((b'prIV', b'own'), (b'piVt', b'copy')), 'png')
    assert notes == ('prIV dropped: only the program that made it may keep it',)
    assert (b'piVt',b'copy') in png_chunks(new)
    new,notes = saved(tmp_path, with_chunks((b'piVt', b'copy')), 'png', strip_gps=True)
    assert notes == ('piVt dropped: it may hold the place',) and b'piVt' not in names(new)

def test_a_text_of_a_png_that_cannot_be_unpacked(tmp_path):
    data = with_chunks((b'zTXt', b'Comment\0\0no zlib'))
    assert (b'zTXt',b'Comment\0\0no zlib') in png_chunks(saved(tmp_path, data, 'png')[0])
    new,notes = saved(tmp_path, data, 'png', strip_gps=True)
    assert notes == ('text that cannot be read dropped',) and b'zTXt' not in names(new)

def raw_profile(kind, data):
    "A text as ImageMagick writes it"
    text = f'\n{kind.decode()}\n{len(data):8}\n{data.hex()}\n'
    return b'zTXt',b'Raw profile type '+kind+b'\0\0'+zlib.compress(text.encode())

IPTC = field(90, b'Berlin')+field(25, b'kept')

@pytest.mark.parametrize('kind,data', ((b'xmp',GPS), (b'APP1',XMP+GPS), (b'iptc',resource(0x0404, IPTC)),
                                       (b'iptc',IPTC), (b'8bim',b'Photoshop 3.0\0'+resource(0x0404, IPTC))))
def test_places_in_the_profiles_that_imagemagick_writes_as_text(tmp_path, kind, data):
    "XMP, IPTC and Photoshop's blocks, each without the place and otherwise as they were"
    chunk = raw_profile(kind, data)
    assert chunk in png_chunks(saved(tmp_path, with_chunks(chunk), 'png')[0]), 'as it was'
    new,_ = saved(tmp_path, with_chunks(chunk), 'png', strip_gps=True)
    left = opened(new).text['Raw profile type '+kind.decode()]
    head,length,digits = left.strip().split(None, 2)
    profile = bytes.fromhex(digits)
    assert head == kind.decode() and int(length) == len(profile)
    assert b'52,30N' not in profile and b'Berlin' not in profile and b'kept' in profile

def test_a_profile_in_text_that_is_no_profile(tmp_path):
    data = with_chunks((b'tEXt', b'Raw profile type exif\0\nexif\n      10\nno digits\n'),
                       raw_profile(b'app12', b'quality 60'))
    assert png_chunks(data)[1:3] == png_chunks(saved(tmp_path, data, 'png')[0])[1:3]
    new,_ = saved(tmp_path, data, 'png', strip_gps=True)
    assert set(opened(new).text) == {'Raw profile type app12'}

def test_a_colour_that_a_png_says_is_transparent_becomes_alpha(tmp_path):
    im = Image.new('RGB', (80,60), (9,9,9))
    im.paste((200,30,30), (0,0,40,60))
    out = io.BytesIO()
    im.save(out, 'PNG', transparency=(9,9,9))
    new,notes = saved(tmp_path, out.getvalue(), 'png')
    after = opened(new)
    assert notes == ('one transparent colour → alpha',) and after.mode == 'RGBA'
    assert after.getpixel((70,3))[3] == 0 and after.getpixel((3,3)) == (200,30,30,255)
