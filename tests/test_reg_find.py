"`learn.reg_find`, `learn.reg_path`, `l1_max`, `learn.sparsity_report`: right against others, and they leave no trace"
import random

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from fastai.basics import (BCEWithLogitsLossFlat, Callback, CrossEntropyLossFlat, DataLoader, DataLoaders, Learner,
                           accuracy, set_seed)
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn

from fastai.callback.schedule import ParamScheduler, SchedLin
from fastai_ext.regularize.consistency import LossTerm
from fastai_ext.regularize.find import PathPoint, Probe, RegFind, RegPath, l1_max
from fastai_ext.regularize.penalty import L1, L2
from fastai_ext.regularize.report import Sparsity

x,y = load_digits(return_X_y=True)
data = list(zip(torch.tensor(x/16).float(), torch.tensor(y), strict=True))

def learner(*cbs, **kw):
    set_seed(0)
    net = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(.1), nn.Linear(32, 10))
    dls = DataLoaders(DataLoader(data[:512], bs=64, shuffle=True), DataLoader(data[600:900], bs=100))
    return Learner(dls, net, CrossEntropyLossFlat(), metrics=accuracy, cbs=cbs, **kw)

def quiet(learn, f):
    with learn.no_bar(), learn.no_logging(): return f(learn)

@pytest.mark.parametrize('visit', [lambda l: l.reg_find(L1, start=1e-4, stop=1., num_it=10, show_plot=False),
                                   lambda l: l.reg_path(L2, [.1, .01], epochs=1, show_plot=False)], ids=['find','path'])
def test_no_trace(visit):
    def trained(visit):
        learn = learner(L1(1e-5))
        learn.recorder.add_time = False
        def go(l):
            l.fit(1)
            if visit: visit(l)
            l.fit(1)
        quiet(learn, go)
        draws = random.random(),torch.rand(3).tolist()
        values,names = [list(v) for v in learn.recorder.values],learn.cbs.attrgot('name')
        return list(learn.model.state_dict().values()),(values, draws, list(names))
    a,b = trained(visit),trained(None)
    assert all(map(torch.equal, a[0], b[0])) and a[1]==b[1]

def test_no_trace_when_interrupted():
    class Stop(Callback):
        def before_batch(self):
            if self.learn.train_iter > 3: raise KeyboardInterrupt
    learn = learner(Stop())
    was = [p.clone() for p in learn.model.parameters()]
    with pytest.raises(KeyboardInterrupt): quiet(learn, lambda l: l.reg_find(L1, show_plot=False))
    assert all(map(torch.equal, was, learn.model.parameters())) and learn.opt is None

def test_suggestion_is_harmless_and_the_strongest_is_not():
    found = quiet(learner(), lambda l: l.reg_find(L1, start=1e-4, num_it=60, lr=1e-2, show_plot=False))
    assert 1e-5 < found.suggestion < 1e-2 and found.knee==pytest.approx(10*found.suggestion)
    def loss(s):
        learn = learner(L1(s))
        quiet(learn, lambda l: l.fit(4, 1e-2))
        return learn.final_record[1]
    assert loss(found.suggestion) < 1.1*loss(0.) and loss(30*found.knee) > 2*loss(0.)
    assert 'heuristic' in repr(found) and found[-1].loss > found[0].loss
    found.plot()
    plt.close('all')

def test_knee_by_hand():
    "The first strength whose loss is a twentieth of what was learned above that without, or a quarter above it"
    def found(first, plain, losses):
        res = RegFind([Probe(10.**i, o) for i,o in enumerate(losses)])
        res.first,res.plain = first,plain
        return res
    res = found(10., 1., [1., 1.4, 1.5, 9.])
    assert (res.knee, res.suggestion)==(100., 10.)
    assert found(2., 1., [1., 1.2, 1.3, 9.]).knee==100.
    assert found(10., 1., [2., 2., 2.]).knee is None and found(10., 1., [1., 1., 1.4]).suggestion is None

def test_best_by_hand():
    points = [PathPoint(s, z, t, v) for s,z,t,v in ((1.,.9,.5,.6), (.1,.5,.3,.4), (.01,.1,.1,.5))]
    assert RegPath(points).best==.1

def test_no_suggestion_where_there_is_none():
    found = quiet(learner(), lambda l: l.reg_find(L1, start=1e-9, stop=1e-7, num_it=20, show_plot=False))
    assert found.suggestion is None and 'give a larger stop' in repr(found)
    assert [p.strength for p in found]==pytest.approx([10**(i/2-9) for i in range(5)])
    found = quiet(learner(), lambda l: l.reg_find(L1, start=3., stop=10., num_it=20, lr=1e-2, show_plot=False))
    assert found.suggestion is None and 'give a smaller start' in repr(found)

def test_path_of_a_network():
    path = quiet(learner(), lambda l: l.reg_path(L1, [1e-2, .1, 1e-4], epochs=2, lr=1e-2, show_plot=False))
    assert [p.strength for p in path]==[.1, 1e-2, 1e-4] and path[0].zeros >= path[1].zeros >= path[2].zeros
    assert list(path.df().columns)[:3]==['l1','zeros','train_loss']
    assert path.best==min(path, key=lambda p: p.valid_loss).strength
    path.plot()
    plt.close('all')

def test_l1_max_with_a_bias_is_that_of_scikit_learn():
    "Logistic regression: nothing is left just above it, something just below"
    x,y = load_breast_cancer(return_X_y=True)
    x = (x-x.mean(0))/x.std(0)
    rows = list(zip(torch.tensor(x).float(), torch.tensor(y).float()[:,None], strict=True))
    net = nn.Linear(30, 1)
    was = net.weight.clone()
    dls = DataLoaders(DataLoader(rows, bs=100, shuffle=True, drop_last=True), DataLoader(rows))
    learn = Learner(dls, net, BCEWithLogitsLossFlat())
    top = l1_max(learn)
    assert torch.equal(net.weight, was) and top==pytest.approx(abs((y-y.mean())@x).max()/len(x), rel=1e-4)
    turned = [(-a, b) for a,b in rows]  # the largest gradient may be below 0
    dls = DataLoaders(DataLoader(turned, bs=100), DataLoader(turned))
    other = Learner(dls, nn.Linear(30, 1), BCEWithLogitsLossFlat())
    assert l1_max(other)==pytest.approx(top, rel=1e-4)
    def fit(s):
        return LogisticRegression(l1_ratio=1, C=1/(len(x)*s), solver='saga', max_iter=5000, tol=1e-7,
                                  intercept_scaling=1e6).fit(x, y).coef_
    assert (fit(1.001*top)==0).all() and (fit(.97*top)!=0).sum() in (1, 2)

def test_l1_max_of_ten_classes():
    learn = learner()
    learn.model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    n,one = 512,torch.eye(10)[torch.tensor(y[:512])]
    want = ((one.mean(0)-one).T @ torch.tensor(x[:512]/16).float()/n).abs().max()
    assert l1_max(learn)==pytest.approx(float(want), rel=1e-3)

def test_bad_input():
    learn = learner()
    bad = {'num_it=3': lambda: learn.reg_find(num_it=3), 'start=0': lambda: learn.reg_find(start=0),
           'strengths': lambda: learn.reg_path(strengths=[-1]),
           'epochs=0': lambda: learn.reg_path(epochs=0), 'tol=nan': lambda: learn.sparsity_report(tol=float('nan')),
           'linear models only': lambda: l1_max(learn)}
    for what,f in bad.items():
        with pytest.raises(ValueError, match=what): f()
    with pytest.raises(TypeError, match='no regularizer'): learn.reg_find(3)

def test_sparsity_counts_as_numpy_does():
    learn = learner()
    w = learn.model[0].weight
    with torch.no_grad():
        w[:5] = 0
        w[torch.rand_like(w) < .3] = 0
        w[:,7] = 0
    rep = learn.sparsity_report()
    a = w.detach().numpy()
    r = rep[0]
    assert (r.zeros, r.units, r.zero_units, r.zero_inputs)==((a==0).sum(), 32, (a==0).all(1).sum(), (a==0).all(0).sum())
    assert isinstance(rep, Sparsity) and [o.name for o in rep]==['0.weight','4.weight']
    assert rep.share==pytest.approx((a==0).sum()/(a.size+320))
    assert learn.sparsity_report(only='4.weight', tol=10.).share==1. and len(learn.sparsity_report(skip='0.*'))==1
    assert learn.sparsity_report(only='4.weight', tol=10.)[0].zero_inputs==32
    rep.plot()
    plt.close('all')
    assert np.isclose(float(rep.cells(r)[3].rstrip('%')), 100*r.share, atol=.06)

def test_the_same_whatever_was_drawn_before():
    learn = learner()
    def losses(**kw):
        found = quiet(learn, lambda l: l.reg_find(L1, 1e-3, 1e-2, 10, show_plot=False, **kw))
        return [p.loss for p in found]
    first = losses()
    torch.rand(7)
    assert losses()==first and losses(seed=1) != first

def test_path_in_place_of_its_twin():
    path = quiet(learner(L1(1e-5)), lambda l: l.reg_path(L1, [10.], epochs=1, show_plot=False))
    assert path[0].zeros==1.

def test_path_of_one_layer():
    learn = learner()
    learn.model = nn.Sequential(nn.Linear(64, 10), nn.PReLU(10))  # a vector counts as little as a bias
    path = quiet(learn, lambda l: l.reg_path(L1, [.3, 1e-5], epochs=1, lr=1e-2, show_plot=False))
    assert path[0].zeros > .9 > path[1].zeros and all(p.weights.numel()==640 for p in path)
    assert path[1].train_loss != path[1].valid_loss
    learn = learner()
    path = quiet(learn, lambda l: l.reg_path(L1(only='0.*'), [1e-5], epochs=1, show_plot=False))
    assert path[0].weights.numel()==64*32+32

def test_the_sweep_ends_where_nothing_is_learned():
    res = quiet(learner(), lambda l: l.reg_find(L1, start=1e-3, stop=1e6, num_it=20, lr=1e-2, show_plot=False))
    full = 1 + round(2*np.log10(1e6/1e-3))
    assert len(res) < full and all(p.loss > res.plain + .9*(res.first-res.plain) for p in res[-2:])
    assert not all(p.loss > res.plain + .9*(res.first-res.plain) for p in res[-3:-1])

class Counts:
    "A loss that is 1 in the first step, 2 in the second; from step `bad` on, no number"
    def __init__(self, bad=99): self.n,self.bad = 0,bad
    def __call__(self, pred, y):
        self.n += 1
        return pred.sum()*0 + (self.n if self.n < self.bad else float('nan'))

def test_the_loss_of_a_probe_is_the_mean_of_its_last_quarter():
    learn = learner()
    learn.loss_func = Counts()
    found = quiet(learn, lambda l: l.reg_find(L1, 1e-3, 2e-3, 12, show_plot=False))
    assert (found.first, found.plain)==(1., 11.) and [p.loss for p in found]==[23., 35.]
    learn.loss_func = Counts(bad=20)
    found = quiet(learn, lambda l: l.reg_find(L1, 1e-3, 2e-3, 12, show_plot=False))
    assert found.plain==11. and [p.loss for p in found]==[float('inf')]*2

class Adds(LossTerm):
    "A term without a gradient"
    label,strength = 'adds',0.
    def term(self): return 100*self.now

def test_a_term_is_no_part_of_the_losses_found():
    found = quiet(learner(), lambda l: l.reg_find(Adds(), 1e-1, 10., 10, show_plot=False))
    assert {p.loss for p in found}=={found.plain}

def test_the_strength_swept_counts_and_the_regularizer_given_is_left_alone():
    "Whatever the learner's own schedule says"
    sched,cb = ParamScheduler({'l1': SchedLin(1., 1.)}),L1(1e-5)
    before = dict(vars(cb))
    a,b = (quiet(learner(*cbs), lambda l: l.reg_find(cb, 1e-4, 1e-3, 10, show_plot=False)) for cbs in ([sched], []))
    assert [p.loss for p in a]==[p.loss for p in b] and a.plain==b.plain and vars(cb)==before

def test_l1_max_of_a_frozen_model_with_dropout():
    def found(*mods, frozen=False):
        learn = learner()
        set_seed(1)
        learn.model = nn.Sequential(*mods, nn.Linear(64, 10)).requires_grad_(not frozen)
        res = l1_max(learn)
        assert all(p.requires_grad != frozen for p in learn.model.parameters())
        return res
    assert found(nn.Dropout(.5), frozen=True)==found()

def test_a_report_without_numbers():
    assert Sparsity([]).share==0 and Sparsity([]).title.startswith('0.0% of 0 weights')
    with pytest.raises(ValueError, match='no magnitude'): learner().sparsity_report(tol=float('inf'))
