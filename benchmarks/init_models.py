"""Init('auto') over models of every family: python benchmarks/init_models.py [--only NAME] [--timm REGEX]

Prints for each model the number of weights, how many the plan changes and how many it names as left alone, whether a
fresh model is mistaken for a trained one, whether the numbers stay finite in a forward pass before and after, and
the seconds of the plan."""
import time
from collections import Counter

import torch
from fastai_ext.init.auto import init_plan
from fastai_ext.keep.state import model_kept
from fastai_ext.model.provenance import provenance
from fastai_ext.model.roles import is_norm
from zoo import sweep

def rms(model, batch):
    "Root mean square of the first output tensor, None if the model needs more than a batch"
    if batch is None: return None
    torch.manual_seed(1)
    x = batch()
    for m in model.modules(): m.training = is_norm(m)  # norms as in training, no dropout
    with torch.no_grad(): out = model(**x) if isinstance(x, dict) else model(*x) if isinstance(x, tuple) else model(x)
    while not torch.is_tensor(out): out = out[0] if isinstance(out, (tuple,list)) else next(iter(out.values()))
    return out.float().pow(2).mean().sqrt().item()

def one(name, make, batch):
    torch.manual_seed(0)
    model = make()
    n = sum(p.numel() for p in model.parameters())
    mistaken = provenance(model)
    with model_kept(model): before = rms(model, batch)
    start = time.perf_counter()
    plan = init_plan(model)
    seconds = time.perf_counter()-start
    plan.apply(seed=0)
    covered = {id(p) for r in plan for p in r.weight.params}
    missing = [k for k,p in model.named_parameters() if id(p) not in covered]
    left = dict(Counter(r.weight.kind for r in plan.kept))
    num = lambda v: '      –' if v is None else f'{v:7.3g}'
    faults = [f"MISSING {missing[:3]}"]*bool(missing)
    faults += [f"MISTAKEN {len(mistaken)} {list(mistaken.items())[:2]}"]*bool(mistaken)
    sizes = f"{num(before)} {num(rms(model, batch))}"
    return f"{n/1e6:8.2f}M{len(plan):8}{len(plan.changed):8}{sizes} {seconds:6.2f}  {left}", faults

if __name__ == '__main__':
    sweep(__doc__, f"{'params':>9}{'weights':>8}{'changed':>8}  rms before, after   s   left alone", one)
