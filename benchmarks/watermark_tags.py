"""Do all tags of a picture survive its watermark? exiftool reads camera-like pictures before and after.

    python benchmarks/watermark_tags.py [--keep FOLDER]

The pictures are made here: fourteen makers with maker notes of their own kind, and EXIF, XMP, IPTC, previews, second
pictures and odd segments, in every format that holds them. Each tag that differs is counted, and named by its format.
"""
import argparse, collections, io, json, shutil, struct, subprocess, tempfile
from pathlib import Path
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from sklearn.datasets import load_sample_image
from fastai_ext.vision.mark import Mark
from fastai_ext.vision.save import save_stamped

PHOTO = Image.fromarray(load_sample_image('china.jpg')).resize((320,213))
# of the file system, of how pixels are stored, and what exiftool works out from others
STORED = ('System:','File:','Composite:','ExifTool:','SourceFile','IFD0:Strip','IFD1:ThumbnailOffset','MPImage',
          'IFD1:ThumbnailLength','MPF0:MPImage','IFD0:Tile','QuickTime:MediaData','GIF:BitsPerPixel',
          'Minolta:PreviewImageStart')

def directory(order, *entries):
    "A directory of (tag, type, number) that all fit into their entries: 3 short, 4 long"
    res = struct.pack(order+'H', len(entries))
    for tag,kind,value in entries:
        field = struct.pack(order+{3:'HH', 4:'L'}[kind], *([value,0] if kind == 3 else [value]))
        res += struct.pack(order+'HHL', tag, kind, 1)+field
    return res+bytes(4)

def tiff(order, *entries):
    return {'<':b'II*\0', '>':b'MM\0*'}[order]+struct.pack(order+'L', 8)+directory(order, *entries)

MAKERS = {  # each with the head, the byte order and the place that its notes have
    'Canon': directory('<', (0x0008,4,1230012), (0x0010,4,0x80000281), (0x001e,4,0x1010100)),
    'NIKON CORPORATION': b'Nikon\0\x02\x10\0\0'+tiff('<', (0x0087,3,7), (0x00a7,4,4711)),
    'OLYMPUS CORPORATION': b'OLYMPUS\0II\x03\0'+directory('<', (0x0201,3,2), (0x0202,3,1)),
    'FUJIFILM': b'FUJIFILM\x0c\0\0\0'+directory('<', (0x1021,3,0), (0x1031,3,1)),
    'Panasonic': b'Panasonic\0\0\0'+directory('<', (0x0001,3,2), (0x000f,3,16)),
    'Apple': b'Apple iOS\0\0\x01MM'+directory('>', (0x0001,4,14), (0x0014,4,10)),
    'PENTAX': b'AOC\0II'+directory('<', (0x0005,4,0x12b9c), (0x0008,3,2)),
    'SONY': b'SONY DSC \0\0\0'+directory('<', (0xb001,3,0x0100), (0xb041,3,4)),
    'CASIO COMPUTER CO.,LTD.': b'QVC\0\0\0'+directory('>', (0x0008,3,2), (0x0019,3,1)),
    'RICOH': b'Ricoh\0\0\0'+directory('<', (0x1001,3,3), (0x1002,3,1)),
    'SIGMA': b'SIGMA\0\0\0\x01\0'+directory('<', (0x0011,3,1)),
    'SAMSUNG': directory('<', (0x0003,4,0x2000), (0x0021,4,1)),
    'LEICA CAMERA AG': b'LEICA\0\0\0'+directory('<', (0x0300,3,1)),
    'Minolta Co., Ltd.': directory('>', (0x0088,4,0), (0x0102,4,2)),
}

def exif_of(maker, turned):
    "EXIF as a camera writes it"
    e = Image.Exif()
    e[0x010f],e[0x0110],e[0x0131],e[0x0132] = maker,f'{maker[:5]} X100','firmware 1.2','2024:05:17 12:34:56'
    e[0x0112],e[0x013b],e[0x8298] = turned,'Ann','(c) Ann'
    e[0x8769] = {0x9003:'2024:05:17 12:34:56', 0x829a:(1,250), 0x829d:(28,10), 0x8827:100, 0x920a:(35,1),
                 0xa434:'lens 35 mm', 0x9286:b'ASCII\0\0\0a comment', 0x927c:MAKERS[maker]}
    e[0x8825] = {1:'N', 2:(52.,30.,0.), 3:'E', 4:(13.,24.,0.)}
    return e.tobytes()

def small():
    out = io.BytesIO()
    PHOTO.resize((160,106)).save(out, 'JPEG', quality=80)
    return out.getvalue()

def segment(kind, body): return b'\xff'+bytes([kind])+(len(body)+2).to_bytes(2, 'big')+body

SEGMENTS = {  # by what programs put into JPEGs beside EXIF
    'ducky': segment(0xec, b'Ducky\0\1\0\4\0\0\0\x3c\0\0'), 'comment': segment(0xfe, 'Grüße'.encode()),
    'pictureinfo': segment(0xec, b'[picture info]\x0d\x0aResolution=1\x0d\x0aQuality=3\x0d\x0a\0'),
    'jfxx': segment(0xe0, b'JFXX\0\x10'+small()), 'kodak': segment(0xe3, b'Meta\0\0'+tiff('<', (0xc352,4,1))),
    'unknown': segment(0xe9, b'maker'*40), 'ciff': segment(0xe0, b'II\x1a\0\0\0HEAPJPGM'+bytes(20)),
}
WRITE = ['-XMP-dc:Title=Grüße','-XMP-dc:Creator=Ann','-XMP-xmp:Rating=4','-XMP-photoshop:City=Berlin',
         '-XMP-xmpRights:Marked=1','-XMP-crs:Saturation=+10','-XMP-exif:GPSLatitude=52.5','-XMP-tiff:Make=maker']
FORMATS = dict(jpg=dict(quality=90), png={}, webp=dict(lossless=True), tif={}, avif={})

def make(folder, makers=MAKERS):
    "Write the pictures; returns them"
    folder.mkdir()
    for i,maker in enumerate(makers):
        name = maker.split()[0].lower()
        for suffix,how in FORMATS.items():
            exif = exif_of(maker, 1 if suffix == 'tif' else (1,6,3,8)[i%4])
            PHOTO.save(folder/f'{name}.{suffix}', exif=exif, **how)
        PHOTO.save(folder/f'{name}-two.mpo', 'MPO', save_all=True, append_images=[PHOTO.rotate(180)], quality=90)
        PHOTO.save(folder/f'{name}-grey.jpg', exif=exif_of(maker, 6), progressive=True, dpi=(300,300))
        PHOTO.convert('L').save(folder/f'{name}-l.jpg', exif=exif_of(maker, 1))
    for name,more in SEGMENTS.items():
        data = (folder/'canon.jpg').read_bytes()
        (folder/f'segment-{name}.jpg').write_bytes(data[:20]+more+data[20:])
    info = PngInfo()
    for k,v in (('Author','Ann'), ('Software','x'), ('Description','Grüße')): info.add_itxt(k, v)
    info.add(b'gAMA', struct.pack('>L', 45455))
    info.add(b'pHYs', struct.pack('>LLB', 11811, 11811, 1))
    for mode in ('1','L','P','LA','RGBA','I;16'):
        im = PHOTO.convert('L' if mode == 'I;16' else mode).convert(mode)
        im.save(folder/f'mode-{mode.replace(";","")}.png', pnginfo=info)
    for mode in ('1','L','P','RGBA','CMYK'): PHOTO.convert(mode).save(folder/f'mode-{mode}.tif', dpi=(300,300))
    PHOTO.convert('P').save(folder/'one.gif', comment=b'hello')
    PHOTO.save(folder/'frames.webp', save_all=True, append_images=[PHOTO.rotate(9)], lossless=True, duration=100)
    PHOTO.save(folder/'plain.jp2')
    PHOTO.convert('CMYK').save(folder/'cmyk.jpg', quality=90)
    thumb = folder.parent/'thumb.jpg'
    thumb.write_bytes(small())
    def write(args, files):
        subprocess.run(['exiftool','-q','-q','-overwrite_original','-m',*args,*files], capture_output=True, timeout=300)
    write(WRITE, [p for p in folder.iterdir() if p.suffix not in ('.mpo','.gif')])
    iptc = ['-IPTC:City=Berlin','-IPTC:Keywords=one','-IPTC:By-line=Ann']
    write([*iptc, f'-ThumbnailImage<={thumb}'], folder.glob('*.jpg'))
    return sorted(folder.iterdir())

def tags(folder):
    "{name of the file: {tag: value}}, but for those of how the pixels are stored"
    run = ['exiftool','-j','-a','-G1','-n','-r',folder]
    out = json.loads(subprocess.run(run, capture_output=True, text=True, timeout=300).stdout)
    return {Path(o['SourceFile']).name:{k:v for k,v in o.items() if not k.startswith(STORED)} for o in out}

def differing(before, after):
    "{file: [(tag, before, after)]} of those that differ"
    res = {}
    for name,was in before.items():
        now = after.get(name, {})
        diff = [(k, was.get(k), now.get(k)) for k in {**was, **now} if was.get(k) != now.get(k)]
        if diff: res[name] = diff
    return res

def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('--keep', help='a folder that stays, with the pictures before and after')
    args = ap.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        top = Path(args.keep or tmp)
        files,dst,notes = make(top/'before'),top/'after',{}
        dst.mkdir()
        for p in files: notes[p.name] = save_stamped(p, dst/p.name, Mark('© me', size=.5)).notes
        before = tags(top/'before')
        diff = differing(before, tags(dst))
        n = sum(map(len, before.values()))
        print(f'{len(files)} pictures with {n:,} tags: {len(diff)} differ')
        said = collections.Counter(f'{Path(name).suffix} {k}: {str(a)[:40]} → {str(b)[:40]}'
                                   for name,d in diff.items() for k,a,b in d)
        for line,times in said.most_common(): print(f'  {times:3} × {line}')
        print('of these with nothing said:', sorted(name for name in diff if not notes[name]) or 'none')
        lines = collections.Counter(f'{Path(name).suffix}: {line}' for name,ls in notes.items() for line in ls)
        for line,times in lines.most_common(): print(f'  said {times:3} × {line}')

if __name__ == '__main__':
    if not shutil.which('exiftool'): raise SystemExit('exiftool is not on the PATH (Debian: libimage-exiftool-perl)')
    main()
