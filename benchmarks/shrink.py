"""What `learn.shrink()` makes of a network for digits that `GroupLasso` has emptied: parameters, accuracy and time.

    python benchmarks/shrink.py

Every network, the plain one too, has the same 60 epochs at one learning rate and then 10 more; the shrunk one makes
the last 10 without the penalty. Three seeds; the time is that of 256 pictures, old over new, measured in turns.
"""
import copy, statistics, time

import fastai.callback.progress  # noqa: F401  gives a learner `no_bar`
import fastai.callback.schedule  # noqa: F401  gives it `fit_one_cycle`
import fastai_ext.regularize.prune  # noqa: F401  gives it `shrink`
import torch
from fastai.basics import CrossEntropyLossFlat, DataLoader, DataLoaders, Learner, accuracy, set_seed
from sklearn.datasets import load_digits
from torch import nn

from fastai_ext.regularize.group import GroupLasso

pictures,labels = load_digits(return_X_y=True)
pictures,labels = torch.tensor(pictures/16).float(),torch.tensor(labels)
order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))  # the last are by other writers
rows = [(pictures[i], labels[i]) for i in order]

def learner(seed):
    set_seed(seed, reproducible=True)
    dls = DataLoaders(DataLoader(rows[:1400], bs=64, shuffle=True), DataLoader(rows[1400:], bs=400))
    net = nn.Sequential(nn.Linear(64,512), nn.ReLU(), nn.Linear(512,512), nn.ReLU(), nn.Linear(512,10))
    return Learner(dls, net, CrossEntropyLossFlat(), metrics=accuracy, wd=0.)

def times_faster(old, new, n=50):
    "Time of `old` over that of `new`, the shortest of runs in turns"
    batch,times = pictures[:256],([], [])
    with torch.no_grad():
        for _ in range(n):
            for net,spent in zip((old, new), times, strict=True):
                begun = time.perf_counter()
                net(batch)
                spent.append(time.perf_counter()-begun)
    return min(times[0])/min(times[1])

def run(strength, seed):
    "Train, shrink, train on. Returns accuracy at the end, how many times fewer parameters and faster, error of outputs"
    learn,penalty = learner(seed),GroupLasso(strength, skip='4.*')
    with learn.no_bar(), learn.no_logging():
        learn.fit_flat_cos(60, 3e-3, cbs=[penalty] if strength else None)
        big,before = copy.deepcopy(learn.model).eval(),learn.get_preds()[0]
        done = learn.shrink()
        error = float((learn.get_preds()[0]-before).abs().max())
        learn.fit_one_cycle(10, 1e-3)
        accuracy_ = 100*learn.validate()[1]
    return accuracy_,done.before/done.after,times_faster(big, learn.model.eval()),error

def main(strengths=(0., 3e-4, 1e-3, 3e-3), seeds=3):
    torch.set_num_threads(1)
    for strength in strengths:
        accuracies,fewer,faster,errors = zip(*(run(strength, seed) for seed in range(seeds)), strict=True)
        name = f'GroupLasso({strength:g})' if strength else 'plain'
        print(f'{name:18} accuracy {statistics.mean(accuracies):.1f} % (± {statistics.stdev(accuracies):.1f}); '
              f'{min(fewer):.1f} to {max(fewer):.1f} times fewer parameters; '
              f'{min(faster):.1f} to {max(faster):.1f} times faster; '
              f'outputs differ by at most {max(errors):.0e}', flush=True)

if __name__ == '__main__': main()
