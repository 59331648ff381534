"""What importing fastai_ext costs, over fastai: medians of fresh processes, each kind in turn, in processor time.

    python benchmarks/imports.py [rounds]
"""
import statistics, subprocess, sys

theirs = 'from fastai.vision.all import *\nfrom fastai.tabular.all import *\n'
kinds = {'nothing': '', 'import fastai_ext': 'import fastai_ext\n', 'fastai.vision.all + fastai.tabular.all': theirs,
         'the same + fastai_ext.all': theirs + 'from fastai_ext.all import *\n'}

def seconds(code):
    "Processor time of the imports in a fresh process: other work on the machine does not count"
    run = f'from time import process_time as _now\n_t = _now()\n{code}print(_now()-_t)'
    return float(subprocess.run([sys.executable, '-W', 'ignore', '-c', run], check=True, capture_output=True,
                                text=True).stdout.split()[-1])

def main(rounds=7):
    for code in kinds.values(): seconds(code)  # warm the disk
    times = {k: [] for k in kinds}
    for _ in range(rounds):
        for k,code in kinds.items(): times[k].append(seconds(code))
    med = {k: statistics.median(v) for k,v in times.items()}
    for k,v in times.items(): print(f'{k:<40} {med[k]:7.3f} s   ({min(v):.3f} – {max(v):.3f})')
    a,b = list(kinds)[2:]
    over = statistics.median(y-x for x,y in zip(times[a], times[b], strict=True))
    print(f'fastai_ext.all over fastai: {over:.3f} s, {100*over/med[a]:.1f} % (median of paired differences over '
          f'{rounds} rounds)')

if __name__ == '__main__': main(*map(int, sys.argv[1:]))
