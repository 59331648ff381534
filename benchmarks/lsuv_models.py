"""LSUV over models of every family: python benchmarks/lsuv_models.py [--only NAME] [--timm REGEX]

Prints for each model how many weights LSUV scaled in its one pass, the largest distance of a scaled layer's std from
1 as plain hooks measure it in another pass, and why the others were left alone, named one by one in the record."""
import time
from collections import Counter

import torch
from fastai_ext.init.lsuv import lsuv
from fastai_ext.keep.batch import forward
from fastai_ext.model.weights import weights
from zoo import sweep

def inputs(name, batch):
    "One batch; for the models that the zoo has none for, pictures as they take them"
    torch.manual_seed(1)
    if batch is not None: return batch()
    if name == 'raft_small': return torch.randn(2,3,128,128), torch.randn(2,3,128,128)
    if name == 'EmbeddingNN': return torch.randint(0,20,(8,2)), torch.randn(8,0)
    return [torch.rand(3,160,160) for _ in range(2)]  # detection

def worst(model, x, rows):
    "The largest |std - 1| among the scaled layers at their first call"
    mods,seen = dict(model.named_modules()),{}
    def hook(m, args, kwargs, out): seen.setdefault(m, float((out[0] if isinstance(out, tuple) else out).float().std()))
    hooked = {mods[r.weight.rpartition('.')[0]] for r in rows if r.scale > 0 and '[' not in r.weight
              and r.layer != 'NonDynamicallyQuantizableLinear'}
    forward(model, x, dict.fromkeys(hooked, hook))
    return max((abs(s-1) for s in seen.values()), default=float('nan'))

def measured(name, make, batch):
    torch.manual_seed(0)
    model,x = make(),inputs(name, batch)
    # detection enlarges pictures otherwise
    if hasattr(model, 'transform'): model.transform.min_size,model.transform.max_size = (160,),200
    start = time.perf_counter()
    rows = lsuv(model, x, seed=0)
    seconds = time.perf_counter()-start
    named = {r.weight for r in rows}
    missing = [w.name for w in weights(model) if w.is_matrix and not {w.name, w.full_name, *w.tied} & named]
    return rows, missing, worst(model, x, rows), seconds, all(p.isfinite().all() for p in model.parameters())

def one(name, make, batch):
    rows,missing,off,seconds,finite = measured(name, make, batch)
    left = Counter(r.note.partition(':')[0] for r in rows if r.note)
    line = f"{len(rows):8}{sum(r.scale > 0 for r in rows):8}  {off:7.1e} {seconds:6.2f}   {dict(left) or ''}"
    return line, [f'MISSING {missing[:3]}']*bool(missing) + ['NOT FINITE']*(not finite) + ['OFF']*(off > 1e-3)

if __name__ == '__main__': sweep(__doc__, f"{'weights':>8}{'scaled':>8}  |std-1|      s   left alone", one)
