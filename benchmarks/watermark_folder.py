"""What a folder of pictures costs beside decoding and encoding alone, two workers beside one, memory, and the peers.

    python benchmarks/watermark_folder.py [--rounds 5] [--only whole confirmed cpu …] [--files 100000]

CPU seconds count where processes need not wait for each other, so that a busy machine disturbs less; `workers` needs
an idle machine with two cores and says how busy it was. Tools that are not installed are skipped, and said so.
"""
# ruff: noqa: B023  (what is defined in a loop is called in the same round)
import argparse, os, shutil, statistics, subprocess, sys, tempfile, time
from pathlib import Path
from PIL import Image, ImageFile
from sklearn.datasets import load_sample_images
from fastai_ext.vision.files.options import StampOptions
from fastai_ext.vision.files.record import Record
from fastai_ext.vision.folder import FolderRun, stamp_folder
from fastai_ext.vision.mark import Mark
from fastai_ext.vision.files.jpeg import jpeg_tables
from fastai_ext.vision.save import stamp_file
from fastai_ext.vision.workers import Job
PHOTOS = [Image.fromarray(o) for o in load_sample_images().images]
MARKS = dict(text=Mark('© me 2026', size=.25, pos='random'))

def fill(folder, n, size, quality=88):
    "`n` JPEGs of `size`, two photographs in turn"
    folder.mkdir(parents=True)
    for i,im in enumerate(PHOTOS):
        im.resize(size, Image.Resampling.LANCZOS).save(folder/f'{i:06}.jpg', quality=quality)
    for i in range(2, n): shutil.copyfile(folder/f'{i%2:06}.jpg', folder/f'{i:06}.jpg')
    return folder

def logo(folder):
    "A soft disc on a transparent ground"
    disc = Image.radial_gradient('L').resize((600,400)).point(lambda v: max(0, 255-2*v))
    im = Image.new('RGB', (600,400), (230,120,20))
    im.putalpha(disc)
    im.save(folder/'logo.png')
    return folder/'logo.png'

def used(f):
    "(CPU seconds with those of child processes, wall seconds) of `f`"
    kids = lambda: sum(os.times()[2:4])
    c,k,t = time.process_time(),kids(),time.perf_counter()
    f()
    return time.process_time()-c+kids()-k, time.perf_counter()-t

def fresh(dst):
    shutil.rmtree(dst, ignore_errors=True)
    return dst

def copy_one(p, dst):
    "The picture `p` opened, decoded and encoded again with its own tables: what no tool that keeps them can go below"
    with Image.open(p) as im:
        im.load()
        im.save(dst/p.name, **jpeg_tables(im))

def decode_encode(src, dst):
    dst.mkdir()
    for p in src.iterdir(): copy_one(p, dst)

def cpu(tmp, rounds, args):
    "Picture by picture in turns, in one process: whatever slows the machine slows both"
    print('A folder of JPEGs, one process: CPU over decoding and encoding alone (median of rounds, least and most)')
    marks = {**MARKS, 'logo':Mark(logo=logo(tmp), size=.25, pos='random')}
    for w,h in ((512,384),(1920,1080),(4000,3000)):
        n = max(6, 60_000_000//(w*h))
        src,plain = fill(tmp/f'{w}', n, (w,h)),tmp/'plain'
        for kind,mark in marks.items():
            rs = []
            for i in range(rounds+1):  # the first is to warm up
                fresh(plain).mkdir()
                run = FolderRun(src, fresh(tmp/'stamped'), mark, n_workers=1)
                run._open_dst()
                run.record = Record(run.dst)
                job = Job(run.src, run.dst, run.mark, run.options, run.digest)
                stamping,total = run._inline(job),[0.,0.]  # the generator that `run.run()` goes through
                for p in src.iterdir():
                    a = time.process_time()
                    copy_one(p, plain)
                    b = time.process_time()
                    for what in next(stamping): run._count(what)
                    total = [total[0]+b-a, total[1]+time.process_time()-b]
                stamping.close()
                if i: rs.append(total[1]/total[0])
            print(f'  {w}x{h} {kind}, {n} files: {statistics.median(rs):.3f} ({min(rs):.3f}-{max(rs):.3f})', flush=True)
    print('Memory is kept from picture to picture in both; beside decoding and encoding that does not keep it:')
    src = fill(tmp/'large', 6, (4000,3000))
    rs = [used(lambda: stamp_folder(src, fresh(tmp/'stamped'), MARKS['text'],
                                    n_workers=1))[0]/used(lambda: decode_encode(src, fresh(plain)))[0]
          for _ in range(rounds)]
    print(f'  4000x3000 text: {statistics.median(rs):.3f} ({min(rs):.3f}-{max(rs):.3f})', flush=True)

PLAIN = '''
import sys
from pathlib import Path
from PIL import Image
from fastai_ext.vision.files.jpeg import jpeg_tables
for p in Path(sys.argv[1]).iterdir():
    with Image.open(p) as im:
        im.load()
        im.save(Path(sys.argv[2])/p.name, **jpeg_tables(im))
'''
ENV = {**os.environ, 'OMP_NUM_THREADS':'1', 'PYTHONPATH':str(Path(__file__).resolve().parent.parent)}
COMMAND = [sys.executable, '-c', 'import sys; from fastai_ext.vision.command import main; sys.exit(main())']

def whole(tmp, rounds, args):
    "The command from its start to its end, beside a script that decodes and encodes the same pictures"
    n = args.pictures
    print(f'The command as a whole over {n:,} JPEGs of 1920x1080, a text, beside decoding and encoding alone in a '
          'process')
    src,dst,rs = fill(tmp/'src', n, (1920,1080)),tmp/'dst',{1:[], 2:[]}
    for _ in range(min(rounds, 3)):
        fresh(dst).mkdir()
        plain = used(lambda: subprocess.run([sys.executable, '-c', PLAIN, src, dst], env=ENV, check=True))
        for k,ratios in rs.items():
            run = [*COMMAND, src, fresh(dst), '--text', '© me 2026', '--n_workers', str(k), '--quiet']
            cost = used(lambda: subprocess.run(run, env=ENV, check=True))
            ratios.append((cost[0]/plain[0], cost[1]/plain[1]))
    for k,ratios in rs.items():
        cpus,walls = zip(*ratios)
        print(f'  {k} worker{"s"*(k>1)}: CPU {statistics.median(cpus):.3f} ({min(cpus):.3f}-{max(cpus):.3f}), '
              f'wall {statistics.median(walls):.2f} ({min(walls):.2f}-{max(walls):.2f})', flush=True)

def confirmed(tmp, rounds, args):
    "What it costs that the system confirms every file and its length is looked at, picture by picture"
    from fastai_ext.vision.files import whole as module
    print('\nEvery file is confirmed by the system, and its length looked at: over the same without')
    src,options,mark = fill(tmp/'few', 100, (1920,1080)),StampOptions(overwrite=True),MARKS['text']
    checked,rs = module._store,[]
    def unchecked(path, data):
        with open(path, 'wb', buffering=0) as f: f.write(data)
    for i in range(rounds+1):  # the first is to warm up
        total = [[0.,0.],[0.,0.]]
        for n,p in enumerate(sorted(src.iterdir())):
            for k in (0,1) if n%2 else (1,0):
                module._store = (checked,unchecked)[k]
                c,t = time.process_time(),time.perf_counter()
                stamp_file(str(p), str(tmp/f'{k}.jpg'), mark, p.name, options)
                total[k][0] += time.process_time()-c
                total[k][1] += time.perf_counter()-t
        module._store = checked
        if i: rs.append([a/b for a,b in zip(*total)])
    for k,what in enumerate(('CPU','wall')):
        r = [o[k] for o in rs]
        print(f'  1920x1080: {what} {statistics.median(r):.3f} ({min(r):.3f}-{max(r):.3f})', flush=True)

def workers(tmp, rounds, args):
    busy = os.getloadavg()[0]
    print(f'\nTwo workers beside one: wall seconds, processes started included; {os.cpu_count()} cores, {busy:.1f} '
          'processes wanted them before')
    src,dst = fill(tmp/'two', 600, (1920,1080)),tmp/'dst'
    rs = []
    for _ in range(rounds):
        one,two = (used(lambda: stamp_folder(src, fresh(dst), MARKS['text'], n_workers=n)) for n in (1,2))
        rs.append((one[1]/two[1], two[0]/one[0], one[0]/one[1]))
    ratio,more,had = (statistics.median(r[i] for r in rs) for i in range(3))
    print(f'  {ratio:.2f} times as fast ({min(r[0] for r in rs):.2f}-{max(r[0] for r in rs):.2f}), with {more:.2f} '
          'times the CPU;'
          f' one worker had {100*had:.0f} % of a core')
    if busy > .3 or had < .95: print('  the machine was not idle: what two workers can gain cannot be told from this')

RUN = '''
import re, sys
from pathlib import Path
from fastai_ext.vision.folder import stamp_folder
from fastai_ext.vision.mark import Mark
def peak():  # of this program, not of what started it
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])/1024
run = stamp_folder(sys.argv[1], sys.argv[2], Mark('me', size=.8), n_workers=2, progress=False)
print(f'{run.stamped:,} stamped: the main process took at most {peak():.1f} MB')
again = stamp_folder(sys.argv[1], sys.argv[2], Mark('me', size=.8), n_workers=2, progress=False)
print(f'second run, {again.there:,} already there: {peak():.1f} MB')
'''

def memory(tmp, rounds, args):
    print('\nMemory over many files (48x48 pixels)')
    first = fill(tmp/'first', 2, (48,48))
    for n in sorted({1000, 10_000, args.files}):
        src = tmp/f'm{n}'
        for i in range(n):
            if i%1000 == 0: (src/f'{i//1000:04}').mkdir(parents=True)
            os.link(first/f'{i%2:06}.jpg', src/f'{i//1000:04}'/f'{i:06}.jpg')
        env = {**os.environ, 'PYTHONPATH': str(Path(__file__).resolve().parent.parent)}
        out = subprocess.run([sys.executable, '-c', RUN, src, tmp/f'd{n}'], env=env, capture_output=True, text=True,
                             check=True).stdout
        print('  '+out.strip().replace('\n', '\n  '), flush=True)
        shutil.rmtree(src)
        shutil.rmtree(tmp/f'd{n}')

def size(tmp, rounds, args):
    print('\nFrom 2 to 90 megapixels: CPU nanoseconds per pixel, from file to file')
    ImageFile.MAXBLOCK = 2**20
    for i,(w,h) in enumerate(((1633,1225),(3266,2450),(6532,4900),(10922,8192))):
        src,dst = tmp/f's{i}',tmp/'dst'
        src.mkdir()
        PHOTOS[0].resize((w,h), Image.Resampling.BICUBIC).save(src/'a.jpg', quality=88)
        stamp_folder(src, fresh(dst), MARKS['text'], n_workers=1)
        s = statistics.median(used(lambda: stamp_folder(src, fresh(dst), MARKS['text'], n_workers=1))[0]
                              for _ in range(min(rounds, 3)))
        print(f'  {w*h/1e6:5.1f} megapixels: {1e9*s/(w*h):.1f} ns per pixel, {s:.2f} s', flush=True)

def tools(tmp, rounds, args):
    print('\nThe same folder by command-line tools, a logo, processes started included: CPU over decoding and encoding '
          'alone')
    env = {**os.environ, 'VIPS_CONCURRENCY':'1', 'OMP_NUM_THREADS':'1', 'MAGICK_THREAD_LIMIT':'1',
           'PYTHONPATH':str(Path(__file__).resolve().parent.parent)}
    wm,command = logo(tmp),[sys.executable, '-c', 'import sys; from fastai_ext.vision.command import main; '
                                                  'sys.exit(main())']
    def each(make):
        def go(src, dst):
            dst.mkdir()
            for p in sorted(src.iterdir()):
                for c in make(p, dst/p.name):
                    subprocess.run([str(o) for o in c], check=True, env=env, capture_output=True)
        return go
    for w,h in ((512,384),(1920,1080),(4000,3000)):
        lw,lh = w//4,w//6
        small,faint = tmp/f'logo{w}.png',tmp/f'faint{w}.png'
        Image.open(wm).resize((lw,lh)).save(small)
        im = Image.open(small)
        im.putalpha(im.getchannel('A').point(lambda v: int(v*.4)))
        im.save(faint)
        at = f'+{w-lw-20}+{h-lh-20}'
        ours = lambda src, dst: subprocess.run([*command, src, dst, '--logo', wm, '--n_workers', '1', '--quiet'],
                                               env=env, check=True)
        vs = {'decode and encode':decode_encode, 'fastai-ext-watermark':ours}
        def mogrify(src, dst):
            dst.mkdir()
            draw = f"image Over {at[1:].replace('+',',')} {lw},{lh} '{faint}'"
            subprocess.run(['mogrify','-path',dst,'-draw',draw,*sorted(src.iterdir())], check=True, env=env)
        if shutil.which('mogrify'): vs['ImageMagick mogrify'] = mogrify
        if shutil.which('composite'):
            vs['ImageMagick composite'] = each(lambda a, b: [['composite','-dissolve','40','-geometry',at,small,a,b]])
        if shutil.which('gm'):
            vs['GraphicsMagick composite'] = each(lambda a, b: [['gm','composite','-dissolve','40','-geometry',at,small,
                                                                 a,b]])
        if shutil.which('vips'):
            vs['vips composite2'] = each(lambda a, b: [['vips','composite2',a,faint,b,'over','--x',w-lw-20,'--y',
                                                        h-lh-20]])
        n = max(4, 30_000_000//(w*h))
        src = fill(tmp/f't{w}', n, (w,h))
        rs = []
        for _ in range(min(rounds, 3)): rs.append({k:used(lambda: f(src, fresh(tmp/'dst')))[0] for k,f in vs.items()})
        ratios = {k:statistics.median(r[k]/r['decode and encode'] for r in rs) for k in vs}
        print(f'  {w}x{h}, {n} files: ' + ', '.join(f'{k} {ratio:.2f}' for k,ratio in ratios.items()), flush=True)
    for name,tool in (('ImageMagick','composite'),('GraphicsMagick','gm'),('libvips','vips')):
        if not shutil.which(tool): print(f'  {name} skipped: no program {tool} on the PATH')

def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = dict(whole=whole, confirmed=confirmed, cpu=cpu, workers=workers, memory=memory, size=size, tools=tools)
    ap.add_argument('--rounds', type=int, default=5)
    ap.add_argument('--only', nargs='+', choices=parts, default=list(parts))
    ap.add_argument('--files', type=int, default=100_000, help='for memory')
    ap.add_argument('--pictures', type=int, default=1000, help='for whole')
    args = ap.parse_args()
    with tempfile.TemporaryDirectory() as d:
        for name in args.only:
            part = Path(d)/name
            part.mkdir()
            parts[name](part, args.rounds, args)

if __name__ == '__main__': main()
