"""The command killed outright at random moments, 200 times: what has a final name is whole, and nothing is lost.

    python benchmarks/watermark_kill.py [--times 200]

The main process and its workers get SIGKILL a random part of a second after the first picture, while they stamp into
the same folder again and again.
"""
import argparse, contextlib, io, os, random, subprocess, sys, tempfile, time
from pathlib import Path
import psutil
from PIL import Image
from sklearn.datasets import load_sample_images
from fastai_ext.vision.folder import stamp_folder
from fastai_ext.vision.mark import Mark

CLI = [sys.executable, '-c', 'import sys; from fastai_ext.vision.command import main; sys.exit(main())']
ENV = {**os.environ, 'PYTHONPATH': str(Path(__file__).resolve().parent.parent)}

def fill(src, n=300):
    src.mkdir()
    for i,im in enumerate(load_sample_images().images): Image.fromarray(im).save(src/f'{i:04}.jpg', quality=90)
    for i in range(2, n): (src/f'{i:04}.jpg').write_bytes((src/f'{i%2:04}.jpg').read_bytes())
    return src

def pictures(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith('.')} if folder.exists() else {}

def killed(src, dst, seconds):
    p = subprocess.Popen([*CLI, src, dst, '--text', '© me', '--quiet', '--n_workers', '2'], env=ENV,
                         stderr=subprocess.DEVNULL)
    before = len(pictures(dst))
    while len(pictures(dst)) <= before and p.poll() is None: time.sleep(.005)  # it has begun
    time.sleep(seconds)
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [psutil.Process(p.pid), *psutil.Process(p.pid).children(recursive=True)]
        for o in family:
            with contextlib.suppress(psutil.NoSuchProcess): o.kill()
        psutil.wait_procs(family)
    p.wait()

def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('--times', type=int, default=200)
    args = ap.parse_args()
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as d:
        src,dst,want = fill(Path(d)/'src'),Path(d)/'dst',Path(d)/'want'
        stamp_folder(src, want, Mark('© me'), n_workers=1)
        wanted,cut,unfinished,stamped = pictures(want),0,0,0
        for i in range(args.times):
            killed(src, dst, rng.uniform(0, .5))
            found = pictures(dst)
            for name,data in found.items():
                Image.open(io.BytesIO(data)).load()
                cut += data != wanted[name]
            unfinished += sum(1 for p in dst.glob('.*.part')) if dst.exists() else 0
            stamped += len(found)
            if dst.exists():
                for p in dst.glob('.*.part'): p.unlink()
            if len(found) > 250:  # begin anew
                for p in dst.iterdir(): p.unlink()
            if i%20 == 19:
                print(f'{i+1} times killed: {stamped:,} pictures looked at, {cut} not whole, {unfinished} hidden '
                      'leftovers', flush=True)
        run = stamp_folder(src, dst, Mark('© me'), n_workers=1, progress=False)
        same = pictures(dst) == wanted
        print(f'afterwards: {run!r}; all as without a kill: {same}; of unknown origin: {run.unknown}')

if __name__ == '__main__': main()
