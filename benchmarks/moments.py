"""What EMA, SAM and R-Drop cost in a training step, against references in plain torch or from other packages.

    python benchmarks/moments.py [--rounds 15] [--device cuda]

Each round times every variant on the same batches, so a ratio compares runs side by side; medians over rounds are
printed: over a plain fastai step, and, for ours, over the reference of the same method.
"""
import argparse, copy, statistics, time
import torch
from torch import nn
from torchvision.models import resnet18
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import Adam
from torch.nn.modules.batchnorm import _BatchNorm
from fastai_ext.regularize.average import EMA
from fastai_ext.regularize.consistency import RDrop
from fastai_ext.regularize.decay import WeightDecay
from fastai_ext.regularize.sharpness import SAM

class ReferenceSAM(Callback):
    "The algorithm of the usual two-step optimizer, in a training loop that takes care of BatchNorm as its readme asks"
    order,run_valid = 15,False
    def __init__(self, rho=.05): self.rho = rho
    def before_step(self):
        ps = [p for p in self.learn.model.parameters() if p.grad is not None]
        with torch.no_grad():
            norm = torch.norm(torch.stack([p.grad.norm(p=2) for p in ps]), p=2)
            old = []
            for p in ps:
                old.append(p.data.clone())
                p.add_(p.grad*(self.rho/(norm + 1e-12)))
            for p in ps: p.grad = None
        norms = [m for m in self.learn.model.modules() if isinstance(m, _BatchNorm)]
        kept = [m.momentum for m in norms]
        for m in norms: m.momentum = 0
        self.learn.loss_func(self.learn.model(*self.xb), *self.yb).backward()
        for m,v in zip(norms, kept): m.momentum = v
        for p,o in zip(ps, old): p.data = o

class ReferenceRDrop(Callback):
    "Two passes and two divergences, as in the authors' readme"
    order,run_valid = 5,False
    def after_loss(self):
        second = self.learn.model(*self.xb)
        p,q = self.pred.log_softmax(-1),second.log_softmax(-1)
        there,back = (nn.functional.kl_div(a, b.exp(), reduction='batchmean') for a,b in ((p,q), (q,p)))
        kl = (there+back)/2
        self.learn.loss_grad = .5*(self.loss_grad + self.learn.loss_func(second, *self.yb)) + kl

class ReferenceEMA(Callback):
    "timm's `ModelEmaV2`: a second model, updated tensor by tensor"
    run_valid = False
    def before_fit(self):
        if not hasattr(self, 'twin'): self.twin = copy.deepcopy(self.learn.model).eval()
    @torch.no_grad()
    def after_step(self):
        for a,b in zip(self.twin.state_dict().values(), self.learn.model.state_dict().values()):
            a.copy_(.999*a + .001*b if a.is_floating_point() else b)

class TorchEMA(Callback):
    "torch's `AveragedModel`"
    run_valid = False
    def before_fit(self):
        from torch.optim.swa_utils import AveragedModel,get_ema_multi_avg_fn
        if hasattr(self, 'twin'): return
        self.twin = AveragedModel(self.learn.model, multi_avg_fn=get_ema_multi_avg_fn(.999))
    def after_step(self): self.twin.update_parameters(self.learn.model)

def fastxtend_ema():
    from fastxtend.callback.ema import EMACallback
    return EMACallback(.999)

def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(1024,1024), nn.ReLU(), nn.Dropout(.2), nn.Linear(1024,1024), nn.ReLU(),
                         nn.Linear(1024,10))
def conv():
    net = resnet18(num_classes=10)
    net.fc = nn.Sequential(nn.Dropout(.2), net.fc)
    return net

cases = {'resnet18, 16 x 3 x 64 x 64': (conv, (16,3,64,64)), 'MLP 3 x 1024, 64 rows': (mlp, (64,1024))}
variants = {'plain': lambda: None,
            'EMA': EMA, 'EMA every 10': lambda: EMA(.99, 10), 'reference EMA (timm V2)': ReferenceEMA,
            'torch AveragedModel': TorchEMA, 'fastxtend EMA': fastxtend_ema,
            'SAM': SAM, 'reference SAM': ReferenceSAM,
            'R-Drop': RDrop, 'reference R-Drop': ReferenceRDrop,
            'WeightDecay': WeightDecay}
pairs = [('EMA','reference EMA (timm V2)'), ('EMA','torch AveragedModel'), ('EMA','fastxtend EMA'),
         ('SAM','reference SAM'), ('R-Drop','reference R-Drop')]

def learner(model, shape, cb, steps, device):
    torch.manual_seed(0)
    batch = (torch.randn(shape, device=device), torch.randint(10, shape[:1], device=device))
    dls = DataLoaders([batch]*steps, [batch])
    learn = Learner(dls, model().to(device), CrossEntropyLossFlat(), opt_func=Adam, cbs=cb)
    return learn.remove_cb(ProgressCallback)

def seconds(learn, device):
    "One training epoch, without the validation and what a fit does around it"
    if device=='cuda': torch.cuda.synchronize()
    t = time.perf_counter()
    learn._do_epoch_train()
    if device=='cuda': torch.cuda.synchronize()
    return time.perf_counter() - t

def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('--rounds', type=int, default=15)
    ap.add_argument('--steps', type=int, default=6)
    ap.add_argument('--threads', type=int, default=1, help='of torch; one is steadier on a busy machine')
    ap.add_argument('--device', default='cpu')
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    for case,(model,shape) in cases.items():
        learners = {}
        for k,f in variants.items():
            try: learners[k] = learner(model, shape, f(), args.steps, args.device)
            except ImportError: print(f'{k}: not installed')
        for learn in list(learners.values()):  # one fit makes the optimizer and lets every callback prepare itself
            with learn.no_logging(): learn.fit(1)
            learn('before_fit')
            learn('before_epoch')
        rounds = []
        for r in range(args.rounds):
            order = list(learners)[r % len(learners):] + list(learners)[:r % len(learners)]  # nobody is always first
            times = {k: seconds(learners[k], args.device) for k in order}
            rounds.append(times)
        print(f'\n{case}: time of a step over a plain step, median of {args.rounds} rounds')
        for k in list(learners)[1:]: print(f"  {k:26} {statistics.median(r[k]/r['plain'] for r in rounds):.3f}")
        print('  ours over the reference')
        for a,b in pairs:
            if b in learners: print(f"  {a+' / '+b:36} {statistics.median(r[a]/r[b] for r in rounds):.3f}")

if __name__ == '__main__': main()
