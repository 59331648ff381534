"""What a regularizer costs in a training step: a fastai step with it over a plain fastai step, beside peers.

    python benchmarks/regularize.py [--rounds 15] [--steps 8] [--cases mlp resnet] [--only L1 EMA] [--threads 1]

Each round times every variant in turn on the same batch, so a ratio compares runs side by side; the median over rounds
is printed, of the time of the processor and of the clock. One thread is the steadiest on a busy machine. What runs in a
plain loop of torch (SAM and R-Drop of others) is compared with the plain step of that loop. fasterai, Composer and
pytorch_optimizer are tried where they can be imported.
"""
import argparse, statistics, time
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet18
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import SGD, Adam
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from fastai_ext.regularize.activation import ActivationL1
from fastai_ext.regularize.anchor import L2SP
from fastai_ext.regularize.average import EMA
from fastai_ext.regularize.consistency import RDrop
from fastai_ext.regularize.constraint import MaxNorm, NonNeg
from fastai_ext.regularize.fused import FusedAdam
from fastai_ext.regularize.group import GroupLasso
from fastai_ext.regularize.orthogonal import Orthogonal
from fastai_ext.regularize.penalty import L1, L2, ElasticNet
from fastai_ext.regularize.sharpness import SAM


class InLoss(Callback):
    "The customary way: the penalty's sum joins the loss, and autograd finds its gradient"
    run_valid = False
    def __init__(self, norm): self.norm = norm
    def after_loss(self):
        total = sum(self.norm(p) for p in self.model.parameters() if p.ndim > 1)
        self.learn.loss_grad = self.loss_grad + 1e-4*total

def fasterai_l1(weight):
    "fasterai's penalty of single weights"
    from fasterai.core.criteria import large_final
    from fasterai.regularize.regularize_callback import RegularizeCallback
    return RegularizeCallback(large_final, 'weight', weight, [nn.Linear,nn.Conv2d])

class TorchEMA(Callback):
    "torch's own average of the same weights and buffers, updated after each step"
    run_valid = False
    def before_fit(self):
        average = get_ema_multi_avg_fn(.999)
        self.twin = AveragedModel(self.learn.model, multi_avg_fn=average, use_buffers=True)
    def after_step(self): self.twin.update_parameters(self.learn.model)

class Text(nn.Module):
    "A classifier of texts: embedding, two layers of LSTM, dropout, a linear layer"
    def __init__(self):
        super().__init__()
        self.embed,self.lstm = nn.Embedding(5000, 128),nn.LSTM(128, 256, 2, batch_first=True)
        self.drop,self.head = nn.Dropout(.3),nn.Linear(256, 10)
    def forward(self, x): return self.head(self.drop(self.lstm(self.embed(x))[0][:,-1]))

def resnet():
    "resnet18 with dropout before its last layer: R-Drop wants something random"
    model = resnet18(num_classes=10)
    model.fc = nn.Sequential(nn.Dropout(.3), model.fc)
    return model

def mlp(n_in, width):
    def _layer(n): return [nn.Linear(n, width), nn.ReLU(), nn.Dropout(.3)]
    return nn.Sequential(nn.Flatten(), *_layer(n_in), *_layer(width), nn.Linear(width, 10))

cases = {  # the model and its input
    'small':  ('MLP 784-256-256-10, 64 rows', lambda: mlp(784, 256), lambda: torch.randn(64, 784)),
    'mlp':    ('MLP 1024-1024-1024-10, 64 rows', lambda: mlp(1024, 1024), lambda: torch.randn(64, 1024)),
    'resnet': ('resnet18, 16 pictures 3 x 64 x 64', resnet, lambda: torch.randn(16,3,64,64)),
    'text':   ('LSTM 5000-128-256-256-10, 32 texts of 40 words', Text, lambda: torch.randint(5000, (32,40))),
}

momentum = partial(SGD, mom=.9)
penalties = {  # name: the callback, over which optimizer's plain step
    'L1 grad':         (lambda: L1(1e-4, how='grad'), Adam),
    'L2 grad':         (lambda: L2(1e-4), Adam),
    'ElasticNet grad': (lambda: ElasticNet(1e-4, 1e-4, how='grad'), Adam),
    'L2SP':            (lambda: L2SP(1e-4, 1e-4), Adam),
    'L1 of fasterai':  (lambda: fasterai_l1(1e-4), Adam),
    'L1 naive':        (lambda: InLoss(lambda p: p.abs().sum()), Adam),
    'L2 naive':        (lambda: InLoss(lambda p: p.square().sum()/2), Adam),
    'L1 prox, SGD momentum':         (lambda: L1(1e-4), momentum),
    'ElasticNet prox, SGD momentum': (lambda: ElasticNet(1e-4, 1e-4), momentum),
    'GroupLasso prox, SGD momentum': (lambda: GroupLasso(1e-4), momentum),
    'L1 prox, Adam':         (lambda: L1(1e-4), Adam),
    'ElasticNet prox, Adam': (lambda: ElasticNet(1e-4, 1e-4), Adam),
    'GroupLasso prox, Adam': (lambda: GroupLasso(1e-4), Adam),
    'MaxNorm':     (lambda: MaxNorm(3.), Adam),
    'NonNeg':      (lambda: NonNeg(), Adam),
    'Orthogonal':  (lambda: Orthogonal(1e-4), Adam),
    'ActivationL1': (lambda: ActivationL1(1e-4), Adam),
    'EMA':         (lambda: EMA(.999), Adam),
    'EMA by AveragedModel of torch': (TorchEMA, Adam),
    'an empty callback': (lambda: Callback(), Adam),
    'FusedAdam':           (lambda: None, FusedAdam),
    'L1 prox, FusedAdam':         (lambda: L1(1e-4), FusedAdam),
    'ElasticNet prox, FusedAdam': (lambda: ElasticNet(1e-4, 1e-4), FusedAdam),
    'GroupLasso prox, FusedAdam': (lambda: GroupLasso(1e-4), FusedAdam),
    'SAM':   (lambda: SAM(.05), Adam),
    'R-Drop': (lambda: RDrop(1.), Adam),
}

# reference implementations, in a plain loop of torch with its own Adam, as their papers and packages have them

def loop(model, xb, steps, make_step):
    "A function that trains `steps` times on one batch; `make_step(model, opt)` returns what one step does"
    yb,opt = torch.randint(10, xb.shape[:1]),torch.optim.AdamW(model.parameters(), 1e-4)
    model.train()
    step = make_step(model, opt)
    def _run():
        for _ in range(steps): step(xb, yb)
    return _run

def plain_step(model, opt):
    def _step(x, y):
        F.cross_entropy(model(x), y).backward()
        opt.step()
        opt.zero_grad()
    return _step

def sam_step(model, opt):
    "pytorch_optimizer's SAM (Foret et al. 2021)"
    from pytorch_optimizer import SAM as PeerSAM
    peer = PeerSAM(model.parameters(), torch.optim.AdamW, rho=.05, lr=1e-4)
    def _step(x, y):
        F.cross_entropy(model(x), y).backward()
        peer.first_step(zero_grad=True)
        F.cross_entropy(model(x), y).backward()
        peer.second_step(zero_grad=True)
    return _step

def composer_step(model, opt):
    "Composer's SAM, called as its trainer does"
    from composer.algorithms.sam.sam import SAMOptimizer
    sam = SAMOptimizer(opt, rho=.05)
    def _step(x, y):
        def _closure(**kwargs):
            opt.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss
        sam.step(_closure)
        opt.zero_grad()
    return _step

def rdrop_step(model, opt):
    "Two passes, both divergences (Liang et al. 2021), as its authors' code has them"
    def _kl(p, q): return F.kl_div(F.log_softmax(p, -1), F.softmax(q, -1), reduction='none').sum()
    def _step(x, y):
        p,q = model(x),model(x)
        loss = .5*(F.cross_entropy(p, y)+F.cross_entropy(q, y)) + .5*(_kl(p, q)+_kl(q, p))/len(x)
        loss.backward()
        opt.step()
        opt.zero_grad()
    return _step

plain_loop = 'torch, plain'
loops = {plain_loop: plain_step, 'SAM of pytorch_optimizer': sam_step, 'SAM of Composer': composer_step,
         'R-Drop of its authors': rdrop_step}

def learner(model, xb, cb, steps, opt_func=Adam):
    "A Learner whose every epoch is `steps` times the same batch"
    batch = (xb, torch.randint(10, xb.shape[:1]))
    dls = DataLoaders([batch]*steps, [batch])
    return Learner(dls, model, CrossEntropyLossFlat(), opt_func=opt_func, cbs=cb).remove_cb(ProgressCallback)

def ready(learn):
    "One fit makes the optimizer and lets every callback prepare itself; then as in the middle of a fit"
    with learn.no_logging(): learn.fit(1, 1e-4)
    learn('before_fit')
    learn('before_epoch')
    return learn

def seconds(f):
    "What `f()` takes, of the processor and of the clock"
    cpu,wall = time.process_time(),time.perf_counter()
    f()
    return time.process_time()-cpu, time.perf_counter()-wall

def median_ratios(rounds, over):
    "By name, the median over rounds of the time over that of `over[name]`: of the processor, of the clock"
    return {k: [statistics.median(r[k][i]/r[o][i] for r in rounds) for i in (0,1)] for k,o in over.items()}

def run(case, args):
    title,make,make_x = cases[case]
    print(f'\n{title}: time of a step over a plain step (processor, clock), median of {args.rounds} rounds')
    plains = {'Adam': Adam, 'SGD momentum': momentum}
    chosen = {k: v for k,v in penalties.items() if not args.only or any(o in k for o in args.only)}
    xb = make_x()
    runs = {k: ready(learner(make(), xb, None, args.steps, o))._do_epoch_train for k,o in plains.items()}
    over = {}
    for k,(cb,opt) in chosen.items():
        try: runs[k] = ready(learner(make(), xb, cb(), args.steps, opt))._do_epoch_train
        except (ImportError,ValueError) as e: print(f'  {k}: {str(e).splitlines()[-1].strip()}')
        else: over[k] = 'SGD momentum' if opt is momentum else 'Adam'
    wanted = [k for k in loops if not args.only or any(o in k for o in args.only)]
    for k in [plain_loop, *(k for k in wanted if k != plain_loop)] if wanted else ():
        try: runs[k] = loop(make(), xb, args.steps, loops[k])
        except ImportError as e: print(f'  {k}: {e}')
        else: over[k] = 'Adam' if k==plain_loop else plain_loop
    rounds = [{k: seconds(f) for k,f in runs.items()} for _ in range(args.rounds)]
    for k,(cpu,wall) in median_ratios(rounds, over).items(): print(f'  {k:32} {cpu:.3f} {wall:.3f}')
    for k in plains: print(f'  ({k}: {statistics.median(r[k][0] for r in rounds)/args.steps*1e3:.2f} ms)')

def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('--rounds', type=int, default=15)
    ap.add_argument('--steps', type=int, default=8)
    ap.add_argument('--threads', type=int, default=1, help='of torch; one is steadier on a busy machine')
    ap.add_argument('--cases', nargs='+', default=list(cases), choices=list(cases))
    ap.add_argument('--only', nargs='*', help='only the variants with this in their name')
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    for case in args.cases: run(case, args)

if __name__ == '__main__': main()
