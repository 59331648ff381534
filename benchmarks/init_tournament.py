"""A tournament of starts: is `Init()` ever worse than what torch does by itself?

    python benchmarks/init_tournament.py run results.jsonl [--half tune|report] [--tasks a,b] [--starts torch,auto]
    python benchmarks/init_tournament.py table results.jsonl [--half report] [--against torch]
    python benchmarks/init_tournament.py csv results.jsonl > benchmarks/init_tournament.csv
    python benchmarks/init_tournament.py again results.jsonl [--half report] > benchmarks/init_again.csv

Every start trains every task with SGD (momentum .9) and with Adam, at a constant rate after a warm-up of ten steps.
The loss on held-out data is read after a short and after a long training. The rate of each start is found by one
sweep, the same for all: four rates with one seed, then two beside the best; each length takes its own. At that rate
five other seeds give the figures. All starts of one seed see the same batches, so starts are compared in pairs: the
mean difference with the 95 % interval of Student's t. Half of the tasks tuned the policy of 'auto', half report
(`tournament_tasks.py`).

`again` asks whether that was luck: each pair of `init_tournament.csv` in which 'auto' is significantly worse, or was
under an earlier policy, is run once more with other seeds, three for the rate of each start and fifteen for the
figures.

Each training is a line of JSON in the results, so an interrupted run goes on where it was; `--redo auto` trains that
start again."""
import argparse, csv, json, math, statistics, sys, time, warnings
from pathlib import Path

import torch
from torch import nn
from tournament_tasks import tasks

from fastai_ext.init.auto import init_plan
from fastai_ext.init.lsuv import lsuv

steps = dict(short=30, long=120)
sweep_seed,seeds = 100,(1,2,3,4,5)
optimizers = dict(sgd=lambda ps, lr: torch.optim.SGD(ps, lr, momentum=.9), adam=lambda ps, lr: torch.optim.Adam(ps, lr))
coarse,fine = (.1, .32, 1., 3.2),1.78

# starts

def zero_biases(m):
    for n,p in m.named_parameters(recurse=False):
        if 'bias' in n: nn.init.zeros_(p)

def timm_(m):
    "Linear layers and embeddings as timm's ViT, Mixer and ConvNeXt, convolutions as its ResNet"
    if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.kaiming_normal_(m.weight, mode='fan_out', nonlinearity='relu')
    elif isinstance(m, (nn.Linear, nn.Embedding)): nn.init.trunc_normal_(m.weight, std=.02)
    elif isinstance(m, nn.MultiheadAttention): nn.init.trunc_normal_(m.in_proj_weight, std=.02)
    else: return
    zero_biases(m)

def keras_(m):
    "`glorot_uniform`, orthogonal recurrent matrices, forget biases of 1, embeddings within .05"
    if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)): nn.init.xavier_uniform_(m.weight)
    elif isinstance(m, nn.MultiheadAttention):
        for p in m.in_proj_weight.chunk(3): nn.init.xavier_uniform_(p)
    elif isinstance(m, nn.Embedding): nn.init.uniform_(m.weight, -.05, .05)
    elif isinstance(m, nn.RNNBase):
        h = m.hidden_size
        for n,p in m.named_parameters():
            if 'weight_ih' in n: nn.init.xavier_uniform_(p)
            elif 'weight_hh' in n: nn.init.orthogonal_(p)
        zero_biases(m)
        if m.mode == 'LSTM':
            for n,p in m.named_parameters():
                if 'bias_ih' in n: nn.init.ones_(p[h:2*h])
    else: return
    if not isinstance(m, nn.RNNBase): zero_biases(m)

def hugging_face_(m):
    "Normal with std .02 as BERT, GPT-2 and ViT there, convolutions as its ResNet"
    if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.kaiming_normal_(m.weight, mode='fan_out', nonlinearity='relu')
    elif isinstance(m, (nn.Linear, nn.Embedding)): nn.init.normal_(m.weight, std=.02)
    elif isinstance(m, nn.MultiheadAttention): nn.init.normal_(m.in_proj_weight, std=.02)
    else: return
    zero_biases(m)

def by_module(f):
    def start(model, xb, seed):
        with torch.no_grad(): model.apply(f)
    return start

starts = dict(torch=lambda model, xb, seed: None, auto=lambda model, xb, seed: init_plan(model).apply(seed),
              lsuv=lambda model, xb, seed: lsuv(model, xb, seed=seed),
              timm=by_module(timm_), keras=by_module(keras_), hf=by_module(hugging_face_))

# one training

def batches(n, bs, seed, count):
    g = torch.Generator().manual_seed(seed)
    order = torch.cat([torch.randperm(n, generator=g) for _ in range(count*bs//n + 1)])
    return order[:count*bs].reshape(count, bs)

def train(task, opt, start, rate, seed, count):
    """Held-out losses after the short training and, if `count` reaches so far, the long one; a loss above 1.5 times
    chance counts as that"""
    xt,yt,xv,yv = task.data()
    torch.manual_seed(seed)
    model = task.model()
    order = batches(len(xt), task.bs, seed, count)
    starts[start](model, xt[order[0]], seed)
    o = optimizers[opt](model.parameters(), rate)
    cap,res = 1.5*task.chance,{}
    for i,idx in enumerate(order, 1):
        for g in o.param_groups: g['lr'] = rate*min(1, i/10)
        loss = task.loss(model(xt[idx]), yt[idx])
        if not torch.isfinite(loss): break
        o.zero_grad()
        loss.backward()
        o.step()
        if i in steps.values():
            model.eval()
            with torch.no_grad(): v = task.loss(model(xv), yv).item()
            model.train()
            res[next(k for k,n in steps.items() if n==i)] = min(v, cap) if math.isfinite(v) else cap
    return {k: res.get(k, cap) for k,n in steps.items() if n <= count}

# the tournament

class Results:
    "Trainings by task, optimizer, start, rate and seed, kept in a file"
    def __init__(self, path, frozen=False):
        self.path,self.frozen = Path(path),frozen
        self._read()
    def _read(self):
        self.runs = {}
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            r = json.loads(line)
            self.runs.setdefault((r['task'],r['opt'],r['start'],r['rate'],r['seed']), {}).update(r['loss'])
    def forget(self, start, names):
        "Drop a start's trainings on these tasks"
        lines = [l for l in self.path.read_text().splitlines()
                 if not ((r := json.loads(l))['start']==start and r['task'] in names)]
        self.path.write_text(''.join(l+'\n' for l in lines))
        self._read()
    def losses(self, task, opt, start, rate, seed, length):
        """By length, at least up to `length`; trained if they are not known. Raises `KeyError` where nothing may be
        trained"""
        key = task.name,opt,start,float(f'{rate:.4g}'),seed
        if length not in self.runs.get(key, {}):
            if self.frozen: raise KeyError(key)
            loss = train(task, opt, start, key[3], seed, steps[length])
            self.runs.setdefault(key, {}).update(loss)
            row = dict(zip(('task','opt','start','rate','seed'), key, strict=True), loss=loss)
            with self.path.open('a') as f: f.write(json.dumps(row) + '\n')
        return self.runs[key]

def best_rate(res, task, opt, start, length):
    "Where the sweep ends"
    at = lambda m: res.losses(task, opt, start, task.lr[opt]*m, sweep_seed, 'long')[length]
    m = min(coarse, key=at)
    return task.lr[opt]*min((m, m/fine, m*fine), key=at)

def cell(res, task, opt, start, length):
    "(rate, losses of the five seeds)"
    rate = best_rate(res, task, opt, start, length)
    return rate,[res.losses(task, opt, start, rate, s, length)[length] for s in seeds]

def run(args, res):
    began = time.perf_counter()
    chosen = [t for t in tasks.values() if args.half in ('', t.half)
              and (not args.tasks or t.name in args.tasks.split(','))]
    if args.redo: res.forget(args.redo, {t.name for t in chosen})
    for start in args.starts.split(','):
        for t in chosen:
            for opt in optimizers:
                for length in ('long','short'): cell(res, t, opt, start, length)
            print(f'{time.perf_counter()-began:6.0f} s  {start:8} {t.name}', flush=True)

# the table

t975 = {2: 4.303, 3: 3.182, 4: 2.776, 14: 2.145}
def paired(a, b):
    "Mean of a - b and half of its 95 % interval"
    d = [x-y for x,y in zip(a, b, strict=True)]
    return statistics.mean(d),t975[len(d)-1]*statistics.stdev(d)/math.sqrt(len(d))

def known(res, task, opt, start, length):
    "The cell, None where trainings are missing"
    try: return cell(res, task, opt, start, length)
    except KeyError: return None

def compare(res, half='', against='torch', names=None):
    """One dict for each task, optimizer, length and start: mean loss, difference from `against`, half the interval,
    verdict"""
    out = []
    for t in tasks.values():
        if half not in ('', t.half) or names and t.name not in names: continue
        for opt in optimizers:
            for length in steps:
                base = known(res, t, opt, against, length)
                for start in starts:
                    c = known(res, t, opt, start, length)
                    if start == against or c is None or base is None: continue
                    diff,half_width = paired(c[1], base[1])
                    verdict = 'better' if diff < -half_width else 'worse' if diff > half_width else ''
                    out.append(dict(task=t.name, half=t.half, opt=opt, length=length, start=start, rate=c[0],
                                    base_rate=base[0], loss=statistics.mean(c[1]),
                                    base=statistics.mean(base[1]), diff=diff, ci=half_width, verdict=verdict))
    return out

def table(args, res):
    found = compare(res, args.half, args.against)
    for r in found:
        if r['start'] in args.starts.split(','):
            print(f"{r['start']:6} {r['task']:17} {r['opt']:5} {r['length']:6} rate {r['rate']:.2g} "
                  f"({r['base_rate']:.2g})  "
            f"{r['loss']:.3f} against {r['base']:.3f}  {r['diff']:+.3f} ± {r['ci']:.3f}  {r['verdict']}")
    print(f"\n{'against '+args.against:18}better  worse   even")
    for s in starts:
        v = [r['verdict'] for r in found if r['start']==s]
        if v: print(f"{s:18}{v.count('better'):6}{v.count('worse'):7}{v.count(''):7}")

def as_csv(args, res):
    "The comparison as a file, with four digits"
    rows = compare(res, args.half, args.against)
    out = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator='\n')
    out.writeheader()
    for r in rows: out.writerow({k: f'{v:.4g}' if isinstance(v, float) else v for k,v in r.items()})

# once more

once_worse = [('autoencoder_conv','sgd','long'), ('gru_words','sgd','short'), ('gru_words','adam','long'),
              ('gan','sgd','long')]  # under an earlier policy

def steady_rate(res, task, opt, start, length):
    "Where a sweep with three seeds ends"
    def at(m):
        return statistics.mean(res.losses(task, opt, start, task.lr[opt]*m, s, length)[length] for s in (201,202,203))
    m = min(coarse, key=at)
    return task.lr[opt]*min((m, m/fine, m*fine), key=at)

def again(args, res):
    "Repeat what is or once was significantly worse, and print it as a file"
    with (Path(__file__).parent/'init_tournament.csv').open() as f: rows = list(csv.DictReader(f))
    print('task,opt,length,rate,base_rate,loss,base,diff,ci,verdict')
    for r in rows:
        worse = r['verdict'] == 'worse' or (r['task'],r['opt'],r['length']) in once_worse
        if r['start'] != 'auto' or not worse or args.half not in ('', r['half']): continue
        if args.tasks and r['task'] not in args.tasks.split(','): continue
        k = tasks[r['task']],r['opt']
        rate = {s: steady_rate(res, *k, s, r['length']) for s in ('auto','torch')}
        ours,base = ([res.losses(*k, s, rate[s], seed, r['length'])[r['length']] for seed in range(301,316)]
                     for s in rate)
        diff,ci = paired(ours, base)
        verdict = 'better' if diff < -ci else 'worse' if diff > ci else ''
        figures = ','.join(f'{v:.4g}' for v in (*rate.values(), statistics.mean(ours), statistics.mean(base), diff, ci))
        print(f"{r['task']},{r['opt']},{r['length']},{figures},{verdict}", flush=True)

def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('what', choices=['run','table','csv','again'])
    ap.add_argument('results')
    ap.add_argument('--half', default='', choices=['','tune','report'])
    ap.add_argument('--tasks', default='', help='names, with commas')
    ap.add_argument('--starts', default=','.join(starts))
    ap.add_argument('--redo', default='', help='train this start again')
    ap.add_argument('--against', default='torch')
    args = ap.parse_args()
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    if args.what=='run': run(args, Results(args.results))
    elif args.what=='again': again(args, Results(args.results))
    elif args.what=='csv': as_csv(args, Results(args.results, frozen=True))
    else: table(args, Results(args.results, frozen=True))

if __name__ == '__main__': sys.exit(main())
