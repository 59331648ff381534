"""What a penalty costs in a training step: the callbacks against the sum added to the loss, over a plain fastai step.

    python benchmarks/penalty.py [--rounds 15]

Each round times every variant on the same batches, so a ratio compares runs side by side; the median over rounds is printed.
"""
import argparse, statistics, time
import torch
from torch import nn
from torchvision.models import resnet18
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai_ext.regularize.penalty import L1, L2

class InLoss(Callback):
    "The customary way: the penalty's sum joins the loss, and autograd finds its gradient"
    run_valid = False
    def __init__(self, norm): self.norm = norm
    def after_loss(self): self.learn.loss_grad = self.loss_grad + 1e-4*sum(self.norm(p) for p in self.model.parameters() if p.ndim > 1)

def mlp(): return nn.Sequential(nn.Flatten(), nn.Linear(1024,1024), nn.ReLU(), nn.Linear(1024,1024), nn.ReLU(), nn.Linear(1024,10))

cases = {'resnet18, 16 x 3 x 64 x 64': (lambda: resnet18(num_classes=10), (16,3,64,64)),
         'MLP 3 x 1024, 64 rows':     (mlp, (64,1024))}
variants = {'plain': lambda: None, 'L1': lambda: L1(1e-4), 'L2': lambda: L2(1e-4),
            'L1 in the loss': lambda: InLoss(lambda p: p.abs().sum()), 'L2 in the loss': lambda: InLoss(lambda p: p.square().sum()/2)}

def learner(model, shape, cb, steps):
    batch = (torch.randn(shape), torch.randint(10, shape[:1]))
    dl = [batch]*steps
    return Learner(DataLoaders(dl, [batch]), model(), CrossEntropyLossFlat(), cbs=cb).remove_cb(ProgressCallback)

def seconds(learn):
    "One training epoch, without the validation and what a fit does around it"
    t = time.perf_counter()
    learn._do_epoch_train()
    return time.perf_counter() - t

def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('--rounds', type=int, default=15)
    ap.add_argument('--steps', type=int, default=8)
    ap.add_argument('--threads', type=int, default=1, help='of torch; one is steadier on a busy machine')
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    for case,(model,shape) in cases.items():
        learners = {k: learner(model, shape, f(), args.steps) for k,f in variants.items()}
        for learn in learners.values():  # one fit makes the optimizer and lets every callback prepare itself
            with learn.no_logging(): learn.fit(1)
            learn('before_fit')
            learn('before_epoch')
        rounds = [{k: seconds(learn) for k,learn in learners.items()} for _ in range(args.rounds)]
        print(f'\n{case}: time of a step over a plain step, median of {args.rounds} rounds')
        for k in list(variants)[1:]: print(f"  {k:15} {statistics.median(r[k]/r['plain'] for r in rounds):.3f}")

if __name__ == '__main__': main()
