"""Are fresh models taken for fresh? python benchmarks/init_fresh.py [--only NAME] [--timm REGEX]

Prints for each model of the zoo how many numbers its weights have, what share of them is taken for trained as the
model is made, and the largest share after something was done to it that does not train: float64, `channels_last`, a
deep copy, a pickle, one forward pass in training mode. A share above 1 % is a fault, and so is a trained model,
after one SGD step with rate 1e-6, of which any weight that moved counts as fresh. The last column is the seconds
that `provenance` took."""
import copy, pickle, time

import torch
from fastai_ext.model.provenance import provenance
from fastai_ext.model.weights import weights
from zoo import sweep

def taken(model):
    "Share of the numbers that are taken for trained"
    known,ws = provenance(model),list(weights(model))
    return sum(w.shape.numel() for w in ws if w.name in known)/sum(w.shape.numel() for w in ws),known

def forward(model, batch):
    x = batch()
    model.train()
    with torch.no_grad():
        if isinstance(x, dict): model(**x)
        else: model(*x) if isinstance(x, tuple) else model(x)
    return model

def stepped(model):
    "The model after one step, with made gradients"
    opt = torch.optim.SGD(model.parameters(), 1e-6)
    for p in model.parameters(): p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    opt.step()
    return model

def lost(before, after):
    "Names of the weights that moved and yet count as fresh; single numbers and what rounding kept do not count"
    known = provenance(after)
    pairs = zip(weights(before), weights(after), strict=True)
    return [b.name for a,b in pairs if b.name not in known and b.shape.numel() > 1 and not torch.equal(a.data, b.data)]

def one(name, make, batch):
    torch.manual_seed(0)
    model = make()
    n = sum(p.numel() for p in model.parameters())
    start = time.perf_counter()
    share,known = taken(model)
    seconds = time.perf_counter()-start
    def again():
        torch.manual_seed(0)
        return make()
    moves = dict(double=lambda: again().double(), copy=lambda: copy.deepcopy(model),
                 last=lambda: again().to(memory_format=torch.channels_last),
                 pickle=lambda: pickle.loads(pickle.dumps(model)))
    if n > 2e7: moves.clear()  # a forward pass has to do for the largest
    if any(p.ndim == 5 for p in model.parameters()): moves.pop('last', None)
    found = {}
    for k,f in moves.items():
        try: found[k] = taken(f())[0]
        # the model itself cannot be copied or pickled
        except (RuntimeError, AttributeError, TypeError, pickle.PicklingError): pass
    gone = lost(model, stepped(again()))
    if batch is not None: found['forward'] = taken(forward(model, batch))[0]
    found = found or dict(copy=share)
    worst = max(found, key=found.get)
    line = f"{n/1e6:8.2f}M{100*share:9.2f}%{100*found[worst]:9.2f}% {worst:8}{seconds:6.2f}"
    faults = [f'TAKEN FOR TRAINED {list(known.items())[:2]}']*(max(share, found[worst]) > .01)
    return line, faults + [f'LOST {gone[:3]}']*bool(gone)

if __name__ == '__main__': sweep(__doc__, f"{'params':>9}{'as made':>10}{'worst after':>18}{'s':>6}", one)
