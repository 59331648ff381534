"""What a watermark costs: one run of ours beside the plain recipe, AugLy, AlbumentationsX, libvips and ImageMagick.

    pip install augly albumentationsx opencv-python-headless "pyvips[binary]"    # what is missing is skipped, and said
    python benchmarks/watermark.py [--rounds 9] [--only memory batch size jpeg]

Every round runs all variants side by side on the same pictures; CPU seconds count, so that a busy machine disturbs
less; medians over rounds are printed.
The plain recipe draws the mark on a transparent picture of full size, composites the two and converts back.
"""
# ruff: noqa: B023  (what is defined in a loop is called in the same round)
import argparse, os, shutil, statistics, subprocess, tempfile, time
from pathlib import Path
os.environ.setdefault('VIPS_CONCURRENCY', '1')
os.environ.setdefault('OMP_NUM_THREADS', '1')
import numpy as np, torch
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_sample_image
from fastai.torch_core import TensorImage
from fastai_ext.vision.augment import WatermarkBatch, stamp_batch
from fastai_ext.vision.mark import Mark
from fastai_ext.vision.letters import font_file
from fastai_ext.vision.files.jpeg import jpeg_tables
from fastai_ext.vision.save import save_stamped
from fastai_ext.vision.stamp import blend_, stamp

PHOTO = Image.fromarray(load_sample_image('china.jpg'))
TEXT,SIZE,OPACITY = '© me 2026',.25,.4

def make_logo():
    "A soft disc on a transparent ground"
    y,x = np.mgrid[-1:1:400j,-1:1:600j]
    a = (255*np.clip(4*(1-np.hypot(x,y)), 0, 1)).astype(np.uint8)
    return Image.fromarray(np.dstack([np.full_like(a, 230), np.full_like(a, 120), np.full_like(a, 20), a]))

LOGO = make_logo()

def recipe(im, kind):
    "The plain recipe"
    layer = Image.new('RGBA', im.size, (0,0,0,0))
    w = int(im.width*SIZE)
    if kind == 'text':
        font = ImageFont.truetype(font_file(), w/5)
        ImageDraw.Draw(layer).text((im.width-w-20, im.height-w//4-20), TEXT, font=font,
                                   fill=(255,255,255,int(255*OPACITY)))
    else:
        logo = LOGO.resize((w, w*2//3))
        logo.putalpha(logo.getchannel('A').point(lambda v: int(v*OPACITY)))
        layer.paste(logo, (im.width-w-20, im.height-w*2//3-20))
    return Image.alpha_composite(im.convert('RGBA'), layer).convert('RGB')

def ours(kind):
    return Mark(TEXT, size=SIZE, opacity=OPACITY) if kind=='text' else Mark(logo=LOGO, size=SIZE, opacity=OPACITY)

def augly_variant(kind):
    import augly.image as aug
    if kind == 'text':
        return lambda im: aug.overlay_text(im, text=[1,2,3,4,5], font_size=.06, opacity=OPACITY, x_pos=.7, y_pos=.9)
    return lambda im: aug.overlay_image(im, LOGO, opacity=OPACITY, overlay_size=.25, x_pos=.7, y_pos=.7)

def albumentations_variant(kind):
    import albumentations as A
    if kind == 'text': return None  # version 2 draws no text
    t = A.Compose([A.OverlayElements(p=1)])
    def run(im):
        w,h = int(im.width*SIZE),int(im.width*SIZE)*2//3
        logo = LOGO.resize((w,h))
        meta = {'image': np.asarray(logo.convert('RGB')), 'mask': np.asarray(logo.getchannel('A')),
                'bbox': (.7,.7,.7+w/im.width,.7+h/im.height)}
        return t(image=np.asarray(im), overlay_metadata=meta)['image']
    return run

def vips_variant(kind):
    import pyvips
    if kind == 'text': return None
    logo = pyvips.Image.new_from_array(np.asarray(LOGO)).copy(interpretation='srgb')
    def run(im):
        bg = pyvips.Image.new_from_array(np.asarray(im)).copy(interpretation='srgb')
        top = logo.resize(im.width*SIZE/logo.width)*[1,1,1,OPACITY]
        return bg.composite2(top.cast('uchar'), 'over', x=im.width-top.width-20,
                             y=im.height-top.height-20).extract_band(0, n=3).write_to_memory()
    return run

PEERS = {'AugLy': augly_variant, 'AlbumentationsX': albumentations_variant, 'libvips': vips_variant}

_said = set()

def peers(kind):
    "The peers that are installed; one line for each that is not"
    res = {}
    for name,make in PEERS.items():
        try: run = make(kind)
        except ImportError as e:
            if name not in _said: print(f'  {name} skipped: {str(e).splitlines()[0]}')
            _said.add(name)
            continue
        if run: res[name] = run
    return res

def cpu(f, n):
    "CPU seconds of one of `n` calls"
    t = time.process_time()
    for _ in range(n): f()
    return (time.process_time()-t)/n

def side_by_side(variants, rounds, reps, base):
    "{name: (median seconds, median ratio base/it)}: above 1 is faster than `base`"
    for f in variants.values(): f()
    rs = [{k:cpu(f, reps.get(k, 1)) for k,f in variants.items()} for _ in range(rounds)]
    return {k:(statistics.median(r[k] for r in rs), statistics.median(r[base]/r[k] for r in rs)) for k in variants}

def memory(rounds):
    print('In memory, RGB to RGB: pictures per CPU second (times the plain recipe)')
    for w,h in ((512,384),(1920,1080),(4000,3000)):
        im = PHOTO.resize((w,h))
        for kind in ('text','logo'):
            mark,work = ours(kind),im.copy()
            p = mark.place(im.size)
            vs = {'plain recipe': lambda im=im, kind=kind: recipe(im, kind),
                  'stamp': lambda im=im, mark=mark: stamp(im, mark),
                  'blend_ in place': lambda work=work, p=p: blend_(work, p),
                  **{k:(lambda f=f, im=im: f(im)) for k,f in peers(kind).items()}}
            reps = {'stamp': max(5, 40_000_000//(w*h)), 'blend_ in place': max(20, 100_000_000//(w*h)),
                    'plain recipe': max(1, 4_000_000//(w*h))}
            out = side_by_side(vs, rounds, reps, 'plain recipe')
            print(f'  {w}x{h} {kind}: ' + ', '.join(f'{k} {1/s:,.0f} ({r:.1f})' for k,(s,r) in out.items()))
            copies = [over_copy(im, mark, reps['stamp']) for _ in range(rounds)]
            print(f'    stamp over a plain copy of the picture: {statistics.median(copies):.2f} '
                  f'({min(copies):.2f}-{max(copies):.2f})', flush=True)

def over_copy(im, mark, n):
    "The median CPU time of `stamp` over that of a plain copy, call by call in turns, each going first as often"
    times = [],[]
    for i in range(2*n):
        for k in (0,1) if i%2 else (1,0):
            start = time.process_time_ns()
            _ = stamp(im, mark) if k else im.copy()
            times[k].append(time.process_time_ns()-start)
    return statistics.median(times[1])/statistics.median(times[0])

def batch(rounds):
    print('\nA batch of 32 x 3 x 224 x 224 floats on the CPU, one thread')
    torch.set_num_threads(1)
    x = TensorImage(torch.rand(32,3,224,224))
    y = torch.zeros(32)
    fixed,wild = dict(text=TEXT),dict(text=TEXT, size=(.2,.5), pos='random', rotate=(-30,30), opacity=(.3,.7))
    def full_frame(x):
        "Every mark as a picture of full size, blended over the whole batch"
        ps = [mark.place((224,224), key=i) for i in range(len(x))]
        a = torch.stack([torch.from_numpy(np.asarray(p.alpha()).copy()) for p in ps])[:,None].float()/255
        fg = torch.stack([torch.from_numpy(np.asarray(p.foreground()).copy()).permute(2,0,1) for p in ps]).float()/255
        return torch.lerp(x, fg, a)
    mark,kinds = Mark(**wild),{'fixed mark':fixed, 'random place, size, angle, opacity':wild}
    ts = {k:WatermarkBatch(**kw) for k,kw in kinds.items()}
    for t in ts.values(): t.start(0, 1, fresh=True)  # as a TfmdDL does
    for _ in range(40): ts['random place, size, angle, opacity']((x,y), split_idx=0)  # the cache fills as in an epoch
    ps = [Mark(**fixed).place((224,224)) for _ in range(32)]
    vs = {'a copy of the batch': lambda: x.clone(), **{f'{k}, in a loader':(lambda t=t: t((x,y), split_idx=0)) for k,
                                                       t in ts.items()},
          'fixed mark, on a copy': lambda: ts['fixed mark'](x),
          'fixed mark, the blend alone': lambda: stamp_batch(x, ps, inplace=True), 'full frames': lambda: full_frame(x)}
    for k,(s,r) in side_by_side(vs, rounds, {k:5 for k in vs}, 'full frames').items():
        print(f'  {k}: {1000*s:.1f} ms ({r:.1f} times as fast as full frames)')

def size(rounds):
    print('\nFrom 2 to 90 megapixels: CPU nanoseconds per pixel of a stamped picture, in place and as a copy, and the '
          'copy over Image.copy alone')
    mark = ours('logo')
    for w,h in ((1633,1225),(3266,2450),(6532,4900),(10954,8216)):
        im = PHOTO.resize((w,h), Image.Resampling.NEAREST)
        stamp(im, mark)
        p = mark.place(im.size)
        vs = {'in place': lambda: blend_(im, p), 'stamp': lambda: stamp(im, mark), 'copy': lambda: im.copy()}
        out = side_by_side(vs, rounds, {'in place': 5}, 'copy')
        print(f'  {w*h/1e6:5.1f} megapixels: in place {1e9*out["in place"][0]/(w*h):.3f} ns, copied '
              f'{1e9*out["stamp"][0]/(w*h):.2f} ns, '
              f'{1/out["stamp"][1]:.2f} of a bare copy')

def jpeg(rounds):
    print('\nA JPEG file: CPU seconds, processes started included, over decoding and encoding alone')
    tools = {t:shutil.which(t) for t in ('convert','magick','composite')}
    def children(): return sum(os.times()[2:4])
    with tempfile.TemporaryDirectory() as d:
        src,dst,wm = Path(d)/'a.jpg',Path(d)/'b.jpg',Path(d)/'logo.png'
        for w,h in ((512,384),(1920,1080),(4000,3000)):
            PHOTO.resize((w,h), Image.Resampling.LANCZOS).save(src, quality=88)
            LOGO.resize((int(w*SIZE), int(w*SIZE)*2//3)).save(wm)
            mark = ours('logo')
            def plain():
                with Image.open(src) as im:
                    im.load()
                    im.save(dst, **jpeg_tables(im))
            def by_recipe():
                with Image.open(src) as im: recipe(im, 'logo').save(dst, quality=88)
            def imagemagick():
                subprocess.run([tools['composite'], '-dissolve', '40', '-gravity', 'southeast', str(wm), str(src),
                                str(dst)], check=True)
            vs = {'decode and encode': plain, 'save_stamped': lambda: save_stamped(src, dst, mark, overwrite=True),
                  'plain recipe': by_recipe}
            if tools['composite']: vs['ImageMagick'] = imagemagick
            elif w == 512: print('  ImageMagick skipped: no program composite on the PATH')
            for f in vs.values(): f()
            def cost(f, n):
                t,c = time.process_time(),children()
                for _ in range(n): f()
                return (time.process_time()-t+children()-c)/n
            n = max(1, 2_000_000//(w*h))
            rs = [{k:cost(f, n) for k,f in vs.items()} for _ in range(rounds)]
            print(f'  {w}x{h}: ' + ', '.join(f"{k} {statistics.median(r[k]/r['decode and encode'] for r in rs):.2f}"
                                             for k in vs))

def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('--rounds', type=int, default=9)
    parts = dict(memory=memory, batch=batch, size=size, jpeg=jpeg)
    ap.add_argument('--only', nargs='+', choices=parts, default=list(parts))
    args = ap.parse_args()
    for name in args.only: parts[name](args.rounds)

if __name__ == '__main__': main()
