"""LSUV against the lsuv package, in one run on one thread: python benchmarks/init.py

For each model: forward passes, and time in units of one training-mode forward pass of the same model and batch,
without and with orthogonal matrices first; the goal is 1.3 passes plus the orthogonalization, by torch's
`orthogonal_` or by our own. The proof that the weights are fresh, which `force=True` leaves out, has a column of its
own. Then `orthonormal` against torch's `orthogonal_` on the shapes that these models have.
Ratios are medians of interleaved runs, so that a busy machine slows both sides."""
import argparse, copy, statistics, time, warnings

import torch
from fastai_ext.init.lsuv import lsuv, orthonormal
from fastai_ext.model.provenance import provenance
from lsuv import lsuv_with_singlebatch
from torch import nn

def models():
    import timm, torchvision
    yield 'resnet18', torchvision.models.resnet18(num_classes=10)
    yield 'vgg11_bn', torchvision.models.vgg11_bn(num_classes=10)
    yield 'vit_tiny', timm.create_model('vit_tiny_patch16_224', img_size=32, patch_size=4, num_classes=10)

def seconds(f):
    "Of CPU, which other programs on the machine disturb least"
    start = time.process_time()
    f()
    return time.process_time()-start

def interleaved(fs, n, limit=180):
    """Seconds of each function by name, run in turns `n` times after one run to warm up; twice only, where that
    takes longer than `limit` seconds"""
    res,start = {k: [] for k in fs},time.perf_counter()
    for i in range(n+1):
        if i > 2 and time.perf_counter()-start > limit: break
        for k,f in fs.items():
            s = seconds(f)
            if i: res[k].append(s)
    return res

def ratio(res, a, b): return statistics.median(x/y for x,y in zip(res[a], res[b], strict=True))

def passes(model, f):
    calls = []
    h = model.register_forward_hook(lambda *a: calls.append(1))
    f()
    h.remove()
    return len(calls)

def orthogonal_torch(ps):
    for p in ps: nn.init.orthogonal_(p)

@torch.no_grad()
def orthogonal_ours(ps):
    for p in ps: p.copy_(orthonormal(p.shape))

def main():
    ap = argparse.ArgumentParser()
    ap.add_argument('--only', default='', help='part of the name of a model')
    ap.add_argument('-n', type=int, default=9, help='runs of each')
    args = ap.parse_args()
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.randn(16,3,32,32)
    print('batch 16, 32 px, one thread; time in training-mode forward passes')
    print(f"{'':10}{'passes':>15}{'time':>18}{'time, orthogonal':>22}{'orthogonalization':>20}"
          f"{'orthogonal / its goal':>24}{'proof':>9}")
    print(f"{'':10}{'ours':>8}{'lsuv':>7}{'ours':>11}{'lsuv':>7}{'ours':>15}{'lsuv':>7}{'ours/torch':>20}"
          f"{'torch':>15}{'our own':>9}{'':>9}")
    for name,m in models():
        if args.only not in name: continue
        theirs = lambda m=m, **kw: lsuv_with_singlebatch(m, x, verbose=False, **kw)
        ps = [o.weight for o in m.modules() if isinstance(o, (nn.Conv2d,nn.Linear))]
        a,b = copy.deepcopy(m),copy.deepcopy(m)
        n_ours = passes(a, lambda a=a: lsuv(a, x, force=True))
        n_theirs = passes(b, lambda b=b: lsuv_with_singlebatch(b, x, do_orthonorm=False, verbose=False))
        start = {k: v.clone() for k,v in m.state_dict().items()}
        def load(m=m, start=start): m.load_state_dict(start)
        fs = dict(load=load, fwd=lambda m=m: (m.train(), m(x)), ours=lambda m=m: lsuv(m, x, force=True),
                  theirs=lambda load=load, theirs=theirs: (load(), theirs(do_orthonorm=False)),
                  ours_orth=lambda m=m: lsuv(m, x, orthogonal=True, force=True),
                  theirs_orth=lambda load=load, theirs=theirs: (load(), theirs()),
                  proof=lambda load=load, m=m: (load(), provenance(m)),
                  orth=lambda ps=ps: orthogonal_ours(ps), orth_torch=lambda ps=ps: orthogonal_torch(ps))
        r = interleaved(fs, args.n)
        for k in ('theirs','theirs_orth','proof'): r[k] = [t-l for t,l in zip(r[k], r['load'], strict=True)]
        within = [statistics.median(t/(1.3*f+o) for t,f,o in zip(r['ours_orth'], r['fwd'], r[k], strict=True))
                  for k in ('orth_torch','orth')]
        times = f"{ratio(r,'ours','fwd'):11.2f}{ratio(r,'theirs','fwd'):7.1f}"
        times += f"{ratio(r,'ours_orth','fwd'):15.2f}{ratio(r,'theirs_orth','fwd'):7.1f}"
        print(f"{name:10}{n_ours:8}{n_theirs:7}{times}{ratio(r,'orth','orth_torch'):20.2f}"
              f"{within[0]:15.2f}{within[1]:9.2f}{ratio(r,'proof','fwd'):9.2f}", flush=True)
    print('\northonormal against torch.nn.init.orthogonal_, time ratio (below 1: ours is faster)')
    for shape in ((64,3,7,7),(64,64,3,3),(512,512,3,3),(192,192),(576,192),(1000,512),(768,192),(512,4608),(4096,512)):
        r = interleaved(dict(ours=lambda s=shape: orthonormal(s),
                             torch=lambda s=shape: nn.init.orthogonal_(torch.empty(s))), args.n)
        print(f"{'×'.join(map(str, shape)):15}{ratio(r,'ours','torch'):6.2f}")

if __name__ == '__main__': main()
