"""Init('auto') over models of every family: python benchmarks/init_models.py [--only NAME] [--timm REGEX]

Prints for each model the number of weights, how many the plan changes and how many it names as left alone, whether a fresh
model is mistaken for a trained one, whether the numbers stay finite in a forward pass before and after, and the seconds of the plan."""
import argparse, copy, time, warnings
from collections import Counter

import torch
from fastai_ext.init.policy import init_plan
from fastai_ext.init.provenance import provenance
from fastai_ext.roles import is_norm
from zoo import zoo

def rms(model, batch):
    "Root mean square of the first output tensor, None if the model needs more than a batch"
    if batch is None: return None
    torch.manual_seed(1)
    x = batch()
    for m in model.modules(): m.training = is_norm(m)  # norms as in training, no dropout
    with torch.no_grad(): out = model(**x) if isinstance(x, dict) else model(*x) if isinstance(x, tuple) else model(x)
    while not torch.is_tensor(out): out = out[0] if isinstance(out, (tuple,list)) else next(iter(out.values()))
    return out.float().pow(2).mean().sqrt().item()

def one(make, batch):
    torch.manual_seed(0)
    model = make()
    n = sum(p.numel() for p in model.parameters())
    mistaken = provenance(model)
    before = rms(copy.deepcopy(model), batch)
    start = time.perf_counter()
    plan = init_plan(model)
    seconds = time.perf_counter()-start
    plan.apply(seed=0)
    covered = {id(p) for r in plan for p in r.weight.params}
    missing = [k for k,p in model.named_parameters() if id(p) not in covered]
    left = Counter(r.weight.kind for r in plan.kept)
    return n, len(plan), len(plan.changed), dict(left), missing, mistaken, before, rms(model, batch), seconds

def main():
    ap = argparse.ArgumentParser()
    ap.add_argument('--only', default='', help='part of a library or model name')
    ap.add_argument('--timm', default='.*', help="regular expression over timm's modules")
    args = ap.parse_args()
    warnings.simplefilter('ignore')
    bad = done = 0
    num = lambda v: '      –' if v is None else f'{v:7.3g}'
    print(f"{'library':13}{'model':44}{'params':>9}{'weights':>8}{'changed':>8}  rms before, after   s   left alone")
    for lib,name,make,batch in zoo(args.timm):
        if args.only not in f'{lib} {name}': continue
        done += 1
        try: n,rows,changed,left,missing,mistaken,before,after,s = one(make, batch)
        except Exception as e:
            bad += 1
            print(f"{lib:13}{name:44} FAILED {type(e).__name__}: {str(e)[:150]}", flush=True)
            continue
        faults = [f"MISSING {missing[:3]}"]*bool(missing) + [f"MISTAKEN {len(mistaken)} {list(mistaken.items())[:2]}"]*bool(mistaken)
        bad += bool(faults)
        print(f"{lib:13}{name[:43]:44}{n/1e6:8.2f}M{rows:8}{changed:8}{num(before)} {num(after)} {s:6.2f}  {left} {' '.join(faults)}", flush=True)
    print(f"{done} models, {bad} with faults")

if __name__ == '__main__': main()
