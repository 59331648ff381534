"""Does the best learning rate travel from a narrow network to wide ones? With `MuP`, and without it.

    python benchmarks/mup_widths.py run results.jsonl [--nets mlp,conv,transformer] [--opts adam,sgd] [--seeds 3]
    python benchmarks/mup_widths.py table results.jsonl
    python benchmarks/mup_widths.py csv results.jsonl > benchmarks/mup_widths.csv

For each width a grid of learning rates, each twice as large as the one before, is trained from torch's start for the
same steps on the same batches. The figure is the mean loss of the last quarter of the steps, on batches never seen
before, averaged over the seeds. Rows of the table: the best rate at each width, and how much the loss at the rate
that is best at the base width lies above the best. Each training is a line of JSON in the results, so an interrupted
run goes on where it was."""
import argparse, collections, functools, itertools, json, math, statistics, time, warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from fastai.callback.core import Callback, CancelFitException, CancelValidException
from fastai.callback.progress import ProgressCallback
from fastai.callback.schedule import ParamScheduler, SchedLin, SchedNo, combine_scheds
from fastai.data.core import DataLoaders
from fastai.learner import Learner, Recorder
from fastai.optimizer import Adam, SGD
from torch import nn
from tournament_tasks import digits, text

from fastai_ext.init.mup import MuP

widths = (64,128,256,512,1024)
warm = .2  # share of the steps in which the rate rises

# data: as many batches as wanted, none twice

@functools.cache
def stream(length):
    x,_,_,_ = text(24)
    return x.flatten(), int(x.max())+1

def letters(n, bs, seed, length=8):
    "The letters before, as one-hot vectors, and the next one"
    s,k = stream(length)
    g = torch.Generator().manual_seed(seed)
    for _ in range(n):
        i = torch.randint(len(s)-length, (bs,1), generator=g) + torch.arange(length)
        yield F.one_hot(s[i], k).flatten(1).float(), s[i[:,-1]+1]

def pictures(n, bs, seed):
    "Digits under noise"
    x,y,_,_ = digits((1,8,8))
    g = torch.Generator().manual_seed(seed)
    for _ in range(n):
        i = torch.randint(len(x), (bs,), generator=g)
        yield x[i] + .7*torch.randn(bs, 1, 8, 8, generator=g), y[i]

def phrases(n, bs, seed, length=16):
    "Letters, and those that follow each of them"
    s,_ = stream(length)
    g = torch.Generator().manual_seed(seed)
    for _ in range(n):
        i = torch.randint(len(s)-length-1, (bs,1), generator=g) + torch.arange(length)
        yield s[i], s[i+1]

# networks

def mlp(w):
    n = 8*stream(8)[1]
    return nn.Sequential(nn.Linear(n,w), nn.ReLU(), nn.Linear(w,w), nn.ReLU(), nn.Linear(w,w), nn.ReLU(),
                         nn.Linear(w,stream(8)[1]))

def conv(w):
    return nn.Sequential(nn.Conv2d(1,w,3,2,1), nn.ReLU(), nn.Conv2d(w,w,2,2), nn.ReLU(), nn.Conv2d(w,w,2,2), nn.ReLU(),
                         nn.Flatten(), nn.Linear(w,10))

class Transformer(nn.Module):
    "Letters to letters; four heads at every width, so that the heads grow"
    def __init__(self, w):
        super().__init__()
        k = stream(8)[1]
        self.embed,self.position = nn.Embedding(k, w),nn.Parameter(torch.randn(16, w)*.1)
        self.layer = nn.TransformerEncoderLayer(w, 4, w, 0., batch_first=True, norm_first=True)
        self.norm,self.head = nn.LayerNorm(w),nn.Linear(w, k)
        self.register_buffer('mask', nn.Transformer.generate_square_subsequent_mask(16), persistent=False)
    def forward(self, x):
        return self.head(self.norm(self.layer(self.embed(x) + self.position, src_mask=self.mask, is_causal=True)))

def per_letter(p, y): return F.cross_entropy(p.flatten(0, 1), y.flatten())

nets = dict(mlp=(mlp, letters, F.cross_entropy, 32), conv=(conv, pictures, F.cross_entropy, 16),
            transformer=(Transformer, phrases, per_letter, 4))
# SGD needs longer until the best rate is more than a matter of luck
steps = dict(mlp=dict(adam=80, sgd=80), conv=dict(adam=40, sgd=120), transformer=dict(adam=60, sgd=180))
optimizers = dict(adam=functools.partial(Adam, wd=0.), sgd=functools.partial(SGD, mom=.9))
# powers of two
grids = dict(mlp=dict(adam=(-11,-5), sgd=(-5,1)), conv=dict(adam=(-11,-5), sgd=(-7,-3)),
             transformer=dict(adam=(-11,-5), sgd=(-6,-2)))

class Batches:
    def __init__(self, make, n): self.make,self.n = make,n
    def __len__(self): return self.n
    def __iter__(self): return iter(self.make())

class Losses(Callback):
    "Keep the loss of every batch; no validation"
    order = ParamScheduler.order
    def __init__(self): self.found = []
    def after_batch(self):
        self.found.append(self.loss.item())
        if not math.isfinite(self.found[-1]): raise CancelFitException
    def before_validate(self): raise CancelValidException

def train(net, opt, how, width, lr, seed):
    "Mean loss of the last quarter of the steps; infinite if it diverges"
    (model,data,loss,bs),n = nets[net],steps[net][opt]
    torch.manual_seed(seed)
    dl = Batches(lambda: data(n, bs, seed), n)
    keep,warm_up = Losses(),ParamScheduler({'lr': combine_scheds([warm, 1-warm],
        [SchedLin(lr/10, lr), SchedNo(lr, lr)])})
    learn = Learner(DataLoaders(dl, dl), model(width), loss, opt_func=optimizers[opt], lr=lr,
                    cbs=[keep, warm_up]).remove_cbs([ProgressCallback, Recorder])
    if how == 'mup': learn.add_cb(MuP(functools.partial(model, widths[0])))
    with learn.no_logging(): learn.fit(1, lr)
    last = keep.found[-n//4:]
    return statistics.mean(last) if len(keep.found)==n and math.isfinite(sum(last)) else math.inf

# the sweep

def read(path): return [json.loads(l) for l in Path(path).read_text().splitlines()] if Path(path).exists() else []
key = ('net','opt','how','width','power','seed')

def run(args):
    done,began = {tuple(r[k] for k in key) for r in read(args.results)},time.perf_counter()
    for width in map(int, args.widths.split(',')):
        for net,opt in itertools.product(args.nets.split(','), args.opts.split(',')):
            low,high = map(int, args.powers.split(',')) if args.powers else grids[net][opt]
            # at the base width they are the same
            hows = args.hows.split(',') if width > widths[0] else ('torch',)
            for k in itertools.product((net,), (opt,), hows, (width,), range(low, high+1), range(args.seeds)):
                if k in done: continue
                row = dict(zip(key, k, strict=True), loss=train(net, opt, k[2], width, 2.**k[4], k[5]))
                with open(args.results, 'a') as f: f.write(json.dumps(row) + '\n')
            print(f'{time.perf_counter()-began:6.0f} s  {net} {opt} {width}', flush=True)

def curves(rows):
    "(net, opt, how) to width to power of two to the mean loss"
    res = {}
    for r in rows:
        for how in ('mup','torch') if r['width']==widths[0] else (r['how'],):
            res.setdefault((r['net'],r['opt'],how), {}).setdefault(r['width'], {}).setdefault(r['power'],
                []).append(r['loss'])
    return {k: {w: {p: statistics.mean(ls) for p,ls in sorted(ps.items())} for w,ps in sorted(ws.items())}
            for k,ws in res.items()}

def table(args):
    print(f"{'':34}best rate, as a power of two{'':12}loss at the base's rate over the best")
    print(f"{'':28}" + ''.join(f'{w:>7}' for w in widths) + '     ' + ''.join(f'{w:>8}' for w in widths))
    for (net,opt,how),ws in curves(read(args.results)).items():
        best = {w: min(ps, key=ps.get) for w,ps in ws.items()}
        cost = {w: ps.get(best[widths[0]], math.inf)/ps[best[w]]-1 for w,ps in ws.items()}
        print(f'{net:12} {opt:5} {how:9}' + ''.join(f'{best[w]:7}' for w in ws) + '     '
              + ''.join(f'{100*cost[w]:7.1f}%' for w in ws))

def as_csv(args):
    "The mean losses as a file, with four digits"
    print('net,opt,how,width,power,loss,seeds')
    rows = read(args.results)
    seeds = collections.Counter((*(r[k] for k in key[:5]),) for r in rows)
    for (net,opt,how),ws in curves(rows).items():
        for w,ps in ws.items():
            for p,loss in ps.items():
                n = seeds[net, opt, 'torch' if w==widths[0] else how, w, p]
                print(f'{net},{opt},{how},{w},{p},{loss:.4g},{n}')

def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('what', choices=['run','table','csv'])
    ap.add_argument('results')
    ap.add_argument('--nets', default='mlp,conv,transformer')
    ap.add_argument('--opts', default='adam,sgd')
    ap.add_argument('--seeds', type=int, default=3)
    ap.add_argument('--widths', default=','.join(map(str, widths)))
    ap.add_argument('--hows', default='mup,torch')
    ap.add_argument('--powers', default='', help='lowest and highest power of two; --powers=-9,-5')
    args = ap.parse_args()
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    dict(run=run, table=table, csv=as_csv)[args.what](args)

if __name__ == '__main__': main()
