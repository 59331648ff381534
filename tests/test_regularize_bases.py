"Strengths come and go with the fit, regularizers act in their order, on what is alive, and show what they add"
import copy
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest, torch
from fastai.callback.core import Callback, CancelBatchException, CancelStepException
from fastai.callback.fp16 import NonNativeMixedPrecision, _copy_state, get_master
from fastai.callback.schedule import ParamScheduler, SchedCos, SchedLin
from fastai.callback.schedule import lr_find  # noqa: F401  gives a learner `lr_find`
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat, MSELossFlat
from fastai.optimizer import (Adam, Lamb, Larc, OptimWrapper, Optimizer, QHAdam, RAdam, RMSProp, SGD, average_grad,
                              momentum_step, ranger)
from fastai.torch_core import set_seed
from fastcore.foundation import L
from hypothesis import given, settings, strategies as st
from torch import nn

from fastai_ext.regularize import steps
from fastai_ext.regularize.activation import ActivationL1, ActivationL2
from fastai_ext.regularize.anchor import L2SP
from fastai_ext.regularize.base import Constraint, Penalty, Proximal
from fastai_ext.regularize.consistency import ConfidencePenalty, JacobianPenalty, RDrop
from fastai_ext.regularize.constraint import MaxNorm, NonNeg, UnitNorm
from fastai_ext.regularize.decay import WeightDecay
from fastai_ext.regularize.dropout import DropoutSchedule
from fastai_ext.regularize.fused import FusedAdam
from fastai_ext.regularize.rows import RowOptimizer, done, join, joined, leave
from fastai_ext.regularize.group import GroupLasso
from fastai_ext.regularize.mixout import Mixout
from fastai_ext.regularize.held import masters
from fastai_ext.regularize.orthogonal import Orthogonal, grad_orthogonal
from fastai_ext.regularize.penalty import L1, L2, ElasticNet
from fastai_ext.regularize.proximal import prox_elastic_net_, prox_group, prox_group_, prox_l1
from fastai_ext.regularize.report import Sparsity
from fastai_ext.regularize.sharpness import ASAM, SAM
from fastai_ext.regularize.strength import own_hypers

torch_adam = partial(OptimWrapper, opt=torch.optim.Adam)
torch_sgd = partial(OptimWrapper, opt=torch.optim.SGD)
momentum = partial(SGD, mom=.9)

def net(): return nn.Sequential(nn.Linear(4,6), nn.Tanh(), nn.Linear(6,1))
def two(m): return [list(m[:2].parameters()), list(m[2:].parameters())]

def learner(*cbs, model=None, n=3, **kwargs):
    set_seed(0)
    model = net() if model is None else model
    rows = list(zip(torch.randn(8*n,4), torch.randn(8*n,1), strict=True))
    dls = DataLoaders(DataLoader(rows, bs=8), DataLoader(rows[:8], bs=8))
    return Learner(dls, model, MSELossFlat(), cbs=list(cbs), **{'opt_func': SGD, **kwargs})

def fit(learn, *args, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit(*args, **kwargs)
    return learn

def weights(learn): return [p.detach().clone() for p in learn.model.parameters() if p.ndim > 1]

# what the column shows, and that the three functions of a penalty belong together

def gap(w): return (w@w.T if len(w) <= w.shape[1] else w.T@w) - torch.eye(min(w.shape))

by_hand = {  # of the two weights, with strengths .1 and .3
    'l1': (lambda: L1([.1,.3]), lambda v,w: .1*v.abs().sum() + .3*w.abs().sum()),
    'l2': (lambda: L2([.1,.3]), lambda v,w: .05*v.square().sum() + .15*w.square().sum()),
    'elasticnet': (lambda: ElasticNet([.1,.3], .2),
                   lambda v,w: .1*v.abs().sum() + .3*w.abs().sum() + .1*(v.square().sum()+w.square().sum())),
    'grouplasso': (lambda: GroupLasso([.1,.3], by_size=True),
                   lambda v,w: .1*2*v.norm(dim=1).sum() + .3*6**.5*w.norm(dim=1).sum()),
    'orthogonal': (lambda: Orthogonal([.1,.3]), lambda v,w: .1*gap(v).norm()**2 + .3*gap(w).norm()**2),
    'l2sp': (lambda: L2SP(.1, .3), lambda v,w: .15*w.square().sum()),
}

@pytest.mark.parametrize('name', by_hand)
def test_the_column_shows_the_penalty(name):
    make,value = by_hand[name]
    cb = make()
    learn = fit(learner(cb, splitter=two), 1, 0.)
    want = value(*weights(learn)).item()
    assert learn.recorder.metric_names[3]==name and learn.recorder.values[-1][2]==pytest.approx(want, rel=1e-5)
    assert cb.value()==pytest.approx(want, rel=1e-5)

def test_l2sp_shows_the_distance_from_the_start():
    cb = L2SP(.4, 0.)
    start = weights(learn := learner(cb, splitter=two))
    fit(learn, 1, .1)
    assert cb.value()==pytest.approx(.2*(weights(learn)[0]-start[0]).square().sum().item(), rel=1e-5)

@pytest.mark.parametrize('act,cls', [(lambda a: a.abs().sum(), ActivationL1),
                                     (lambda a: a.square().sum()/2, ActivationL2)])
def test_an_activation_penalty_shows_the_mean_of_its_epoch(act, cls):
    learn = fit(learner(cls(.3)), 2, 0.)
    m = learn.model
    outs = [act(m[:2](x))/len(x) for x,_ in learn.dls.train]
    want = .3*torch.stack(outs).mean().item()
    assert [r[2] for r in learn.recorder.values]==pytest.approx([want]*2, rel=1e-5)

@pytest.mark.parametrize('cb,strengths', [(L1(.1), dict(l1=.3)), (L2(.1), dict(l2=.3)),
                                          (ElasticNet(.1,.1), dict(l1=.3, l2=.2))])
def test_norm_gradient_and_step_belong_together(cb, strengths):
    "The gradient is that of the norm, and the step solves w + t*gradient(w) = v where w is not 0"
    w = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    cb.norm(w, **strengths).backward()
    torch.testing.assert_close(cb.grad(w.detach(), **strengths), w.grad)
    for t in (.5, torch.rand(5, 7, dtype=torch.float64)):
        v = torch.randn(5, 7, dtype=torch.float64)
        new,same = cb.prox(v, t, **strengths),v.clone()
        cb.prox_(same, t, **strengths)
        torch.testing.assert_close(new, same)
        on = new != 0
        torch.testing.assert_close((new + t*cb.grad(new, **strengths))[on], v[on])

def test_many_short_steps_are_exact():
    "The series for groups whose steps are short beside their norm, to nine digits"
    g = torch.Generator().manual_seed(0)
    w,square = (torch.randn(20, 30, generator=g, dtype=torch.float64) for _ in range(2))
    step = steps.Adaptive(square.square()+.1, 1., 0.)
    got = w.clone()
    prox_group_(got, step, 2e-3)
    want = prox_group(w, 2e-3*step.tensor())
    t = (2e-3*step.tensor()/w.norm(dim=1, keepdim=True))
    assert 1e-4 < t.mean() < 3e-3
    assert ((got-want).norm(dim=1)/w.norm(dim=1)).max() < 3e-8
    rough = w*(1 - (w.square()*t).sum(1, keepdim=True)/w.square().sum(1, keepdim=True))
    assert ((rough-want).norm(dim=1)/w.norm(dim=1)).min() > 1e-6  # one number for a group does not come near

@pytest.mark.parametrize('size', [0., 1e-30, 1e-12])
def test_rows_of_zero_and_tiny_rows_become_zero(size):
    "Also where the step is so long that it overflows beside them"
    w = torch.full((3,2), size)
    w[2] = 5.
    prox_group_(w, steps.Adaptive(torch.ones(3,2), 10., 1e-5), 1e-1)
    assert (w[:2]==0).all() and w[2].norm().item()==pytest.approx(50**.5-1, rel=1e-4)

def test_a_group_at_its_limit():
    "A group is 0 where the norm of w/t is at most 1, and the rest solves its equation"
    t = torch.tensor([[1.,2.,.5]]*3, dtype=torch.float64)
    for size,zero in ((.99, True), (1.01, False), (1.6, False)):
        w = t*size/3**.5
        new = prox_group(w, t)
        assert (new==0).all()==zero
        if not zero: torch.testing.assert_close(new + t*new/new.norm(dim=1, keepdim=True), w)
    assert prox_group(torch.tensor([[3.,4.]]), 6.).tolist()==[[0.,0.]]
    assert prox_group(torch.zeros(1,2), torch.tensor([[0.,1.]])).tolist()==[[0.,0.]]
    assert prox_group(torch.tensor([[0.,3.]]), torch.tensor([[0.,1.]])).tolist()==[[0.,2.]]  # a step of 0 for a 0

def test_at_learning_rate_0_not_even_rounding():
    w = torch.randn(50, 7)
    for prox in (partial(prox_elastic_net_, l1=.3, l2=.2), partial(prox_group_, strength=.3)):
        same = w.clone()
        prox(same, steps.Adaptive(torch.rand(50, 7), 0., 1e-5))
        assert torch.equal(same, w)

# strengths

@pytest.mark.parametrize('opt', [SGD, Adam, torch_sgd, torch_adam])
def test_strengths_come_and_go(opt):
    "They are the optimizer's while a fit runs, and nothing of them is left behind"
    seen = []
    class See(Callback):
        order = 60
        def before_step(self): seen.append([dict(h) for h in self.opt.hypers])
    learn = learner(L1([.1,.3]), ElasticNet(.2, .4), See(), opt_func=opt, splitter=two)
    learn.create_opt()
    def known():
        names = [sorted(m) for m in (learn.opt.fwd_map,learn.opt.bwd_map)] if hasattr(learn.opt, 'fwd_map') else []
        raw = [sorted(g) for g in learn.opt.opt.param_groups] if hasattr(learn.opt, 'opt') else []
        return names,raw,[sorted(h) for h in learn.opt.hypers]
    before = known()
    fit(learn, 1, .01)
    assert known()==before and len(seen)==3
    assert [h['l1'] for h in seen[0]]==[.1,.3] and [h['elasticnet_l2'] for h in seen[0]]==[.4,.4]
    assert learn.l1.strengths()==[{'l1': .1},{'l1': .3}]  # those of the end of the fit

def test_lr_find_takes_the_largest_of_a_schedule():
    seen = []
    class See(Callback):
        order = 60
        def before_step(self): seen.append(self.opt.hypers[0]['l1'])
    with (learn := learner(L1(SchedCos(0., .1)), See())).no_bar(): learn.lr_find(num_it=6, show_plot=False)
    assert len(set(seen))==1 and seen[0]==pytest.approx(.1)

@pytest.mark.parametrize('opt', [SGD, Adam, FusedAdam, torch_adam])
@pytest.mark.parametrize('make', [partial(L1, [0.,.3]), partial(L1, [0.,.3], how='grad'), partial(GroupLasso, [0.,.3])])
def test_a_group_of_strength_0_is_left_alone(make, opt):
    "One step: the first group moves as without it, the second does not"
    a,b = (weights(fit(learner(*cbs, n=1, splitter=two, opt_func=opt), 1, .1)) for cbs in ([make()], []))
    assert (a[0]==b[0]).all() and (a[1]!=b[1]).any()

def test_a_constraint_by_group():
    for p,top in zip(weights(fit(learner(MaxNorm([.2,.1]), splitter=two), 1, .1)), (.2,.1), strict=True):
        assert p.norm(dim=1).max().item()==pytest.approx(top, rel=1e-5)

def test_columns_of_training_and_validation():
    "With metrics of both, each penalty stands under its own name"
    learn = learner(NonNeg(), L1(.1), L2(.2), GroupLasso(.3), metrics=lambda p,y: (p-y).abs().mean())
    next(cb for cb in learn.cbs if isinstance(cb, NonNeg)).order = L1.order - .1  # it has no column
    learn.recorder.train_metrics = True
    fit(learn, 1, 0.)
    row = dict(zip(learn.recorder.metric_names[1:], learn.recorder.values[-1], strict=False))
    for cb in (learn.l1, learn.l2, learn.group_lasso):
        assert [v for k,v in row.items() if k.split('_')[-1]==cb.label]==pytest.approx([cb.value()]*2)

# who is meant, who is alive, and who comes last

class Odd(nn.Module):
    "Norms with more than one axis, a slope, a layer that is never used"
    def __init__(self):
        super().__init__()
        self.inn,self.norm,self.slope = nn.Linear(4,6),nn.LayerNorm((2,3)),nn.PReLU(6)
        self.out,self.unused = nn.Linear(6,1),nn.Linear(6,6)
    def forward(self, x): return self.out(self.slope(self.norm(self.inn(x).view(-1,2,3)).flatten(1)))

def test_matrices_are_meant_and_nothing_else():
    learn = fit(learner(cb := L1(.1), model=Odd()), 1, .01)
    assert [h.weight.full_name for h in cb._held]==['inn.weight','out.weight','unused.weight']
    report = learn.sparsity_report()
    assert isinstance(report, Sparsity) and [r.name for r in report]==['inn.weight','out.weight','unused.weight']

@pytest.mark.parametrize('opt', [momentum, Adam, FusedAdam, torch_adam])
@pytest.mark.parametrize('make', [partial(L1, .5), partial(L2, .5), partial(GroupLasso, .5), partial(MaxNorm, .01),
                                  UnitNorm, NonNeg, partial(Orthogonal, .5), partial(L2SP, .5, .5)])
def test_what_gets_no_gradient_stays(make, opt):
    model = Odd()
    before = model.unused.weight.detach().clone()
    fit(learner(make(), model=model, opt_func=opt), 1, .05)
    assert (model.unused.weight==before).all()

def test_a_projection_has_the_last_word():
    for p in weights(fit(learner(L1(.3), GroupLasso(.1), UnitNorm()), 1, .1)):
        r = p.norm(dim=1)
        torch.testing.assert_close(r[r > 0], torch.ones_like(r[r > 0]), atol=1e-6, rtol=0)

@pytest.mark.parametrize('opt,cbs', [(o, c) for o in (SGD, FusedAdam) for c in (0, 1)])
def test_sparse_group_lasso(opt, cbs):
    "Together `L1` and `GroupLasso` are the proximal step of both, in whatever order they are given"
    both = [L1(.3), GroupLasso(.4)]
    learn = fit(learner(*(both[::-1] if cbs else both), n=1, opt_func=opt), 1, .1)
    plain = fit(learner(n=1, opt_func=opt), 1, .1)
    for a,b in ((learn.model[i].weight, plain.model[i].weight) for i in (0,2)):
        t = steps.step_size(plain.opt, b, plain.opt.hypers[0])
        t = t.double() if torch.is_tensor(t) else t
        want = prox_group(prox_l1(b.detach().double(), t*.3), t*.4)
        torch.testing.assert_close(a.detach().double(), want, atol=1e-6, rtol=1e-4)
    assert (learn.model[0].weight==0).any() or opt is SGD

@pytest.mark.parametrize('opt', [SGD, Adam, FusedAdam, torch_adam])
def test_rows_by_their_size(opt):
    "The strength of a row is multiplied by the root of its length"
    a,b = (fit(learner(*cbs, n=1, opt_func=opt), 1, .1) for cbs in ([GroupLasso(.2, by_size=True)], []))
    for i,size in ((0,4), (2,6)):
        v = b.model[i].weight
        t = steps.step_size(b.opt, v, b.opt.hypers[0])
        t = t.double() if torch.is_tensor(t) else t
        want = prox_group(v.detach().double(), .2*size**.5*t)
        torch.testing.assert_close(a.model[i].weight.detach().double(), want, atol=1e-6, rtol=1e-4)

def test_rows_by_their_size_through_the_gradient():
    class Given(Callback):
        order = 90
        def before_step(self): self.seen = self.model[0].weight.grad.clone()
    a,b = (fit(learner(Given(), *cbs, n=1), 1, 0.) for cbs in ([GroupLasso(.2, by_size=True, how='grad')], []))
    w = a.model[0].weight.detach()
    torch.testing.assert_close(a.given.seen-b.given.seen, .2*2*w/w.norm(dim=1, keepdim=True))

def test_zero_groups_are_wholly_zero():
    learn = fit(learner(cb := GroupLasso(.1)), 1, 0.)
    with torch.no_grad():
        learn.model[0].weight[0] = 0
        learn.model[0].weight[1,1:] = 0
    assert cb.zero_groups()==(1, 7)

# the optimizer's own tensors, and fits that end in the middle

class OnCPU(NonNativeMixedPrecision):
    "As on a GPU, but the model stays in full precision"
    name = 'non_native_mixed_precision'
    def before_fit(self):
        self.model_pgs,self.master_pgs = get_master(self.opt)
        self.old_pgs = self.opt.param_lists
        _copy_state(self.opt, self.model_pgs, self.master_pgs)
    def before_batch(self): pass

@pytest.mark.parametrize('make', [partial(L1, .3), partial(GroupLasso, .3), partial(MaxNorm, .1), NonNeg,
                                  partial(L1, .3, how='grad')])
def test_masters_and_model_are_the_same(make):
    own = fit(learner(make(), OnCPU(dynamic=False, loss_scale=8), opt_func=momentum), 2, .05)
    plain = fit(learner(make(), opt_func=momentum), 2, .05)
    for a,b in zip(weights(own), weights(plain), strict=True): torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)

class Attends(nn.Module):
    "Queries, keys and values lie in one parameter"
    def __init__(self): super().__init__(); self.att,self.out = nn.MultiheadAttention(4, 2),nn.Linear(4,1)
    def forward(self, x): return self.out(self.att(x, x, x)[0])

@pytest.mark.parametrize('opt', [momentum, Larc, Lamb], ids=['momentum','Larc','Lamb'])
def test_a_part_of_a_parameter_and_its_master(opt):
    model = Attends()
    def _end(*cbs):
        cb = L1(.3, only=lambda w: w.block=='q')
        return weights(fit(learner(cb, *cbs, model=copy.deepcopy(model), opt_func=opt), 2, .05))
    for a,b in zip(_end(OnCPU(dynamic=False, loss_scale=8)), _end(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)

def test_masters_in_one_vector_are_refused_and_before_a_fit_there_are_none():
    assert masters(learner(OnCPU()))=={}
    with pytest.raises(ValueError, match='flat_master=True'): fit(learner(L1(.3), OnCPU(flat_master=True)), 1)

def test_interrupted_between_two_halves_of_a_step():
    "What was to be done inside the step that never came is not done in the next fit"
    class Stop(Callback):
        order = 80
        def before_step(self): raise KeyboardInterrupt
    def _ended(clean):
        learn = learner(L1(.3), opt_func=Adam, n=1)
        with pytest.raises(KeyboardInterrupt): fit(learn, 1, .05, cbs=Stop())
        if clean: leave(learn.opt)
        return weights(fit(learn, 1, .05, reset_opt=False))
    for a,b in zip(_ended(False), _ended(True), strict=True): assert (a==b).all()

# the step of each optimizer, by what it does with a steady gradient of one

def torchs(cls, **kwargs): return partial(OptimWrapper, opt=partial(cls, **kwargs))

known = {
    'SGD': partial(SGD, mom=0.), 'momentum': partial(SGD, mom=.9), 'coupled': partial(SGD, mom=.8, decouple_wd=False),
    'RMSProp': partial(RMSProp, wd=0.), 'RMSProp momentum': partial(RMSProp, mom=.9, wd=0.),
    'Adam': partial(Adam, wd=0.), 'FusedAdam': partial(FusedAdam, wd=0.), 'RAdam': partial(RAdam, wd=0., sqr_mom=.9),
    'RAdam beta': partial(RAdam, wd=0., sqr_mom=.9, beta=50., eps=.1), 'QHAdam': partial(QHAdam, wd=0., nu_2=.9),
    'Lamb': partial(Lamb, wd=0.), 'Larc': partial(Larc, wd=0., mom=.9),
    'torch SGD': torchs(torch.optim.SGD), 'torch momentum': torchs(torch.optim.SGD, momentum=.9),
    'torch dampening': torchs(torch.optim.SGD, momentum=.9, dampening=.5),
    'torch nesterov': torchs(torch.optim.SGD, momentum=.9, nesterov=True), 'torch Adam': torchs(torch.optim.Adam),
    'torch amsgrad': torchs(torch.optim.Adam, amsgrad=True), 'torch AdamW': torchs(torch.optim.AdamW, weight_decay=0.),
    'torch RAdam': torchs(torch.optim.RAdam, betas=(.9,.9), eps=.1),
}

@pytest.mark.parametrize('name', known)
def test_a_steady_gradient_moves_by_the_step(name):
    "Also while the momentum changes, however often it is asked"
    p = nn.Parameter(torch.full((3,), 2.))
    opt = known[name]([[p]], lr=.01)
    for i in range(12):
        if i==6 and 'momentum' in name: opt.set_hyper('mom', .7)
        p.grad = torch.full((3,), 2.) if name=='torch amsgrad' and i < 3 else torch.ones(3)
        before = p.detach().clone()
        for _ in range(2): steps.before_step(opt)
        opt.step()
        for _ in range(2): steps.after_step(opt)
        step = steps.step_size(opt, p, opt.hypers[0])
        if name=='torch amsgrad': want = .01/(opt.opt.state[p]['max_exp_avg_sq']/(1-.999**(i+1))).sqrt()
        else: want = before - p.detach()
        torch.testing.assert_close(torch.as_tensor(step).expand(3), want, rtol=2e-4, atol=1e-7)

@pytest.mark.parametrize('start', [0., 1e3])
def test_lamb_from_zero_and_from_afar(start):
    "Where its ratio is 1, or at its limit of 10"
    p = nn.Parameter(torch.full((3,), start, dtype=torch.float64))
    opt = Lamb([[p]], lr=.01, wd=0.)
    p.grad,before = torch.ones_like(p),p.detach().clone()
    opt.step()
    torch.testing.assert_close(steps.step_size(opt, p, opt.hypers[0]), before - p.detach(), rtol=1e-4, atol=0)

def test_lamb_without_a_gradient_has_a_step():
    p = nn.Parameter(torch.ones(3))
    opt = Lamb([[p]], lr=.01, wd=0.)
    p.grad = torch.zeros(3)
    opt.step()
    assert steps.step_size(opt, p, opt.hypers[0]).isfinite().all() and (p==1).all()

# both are fastai's Adam, to the last digits

@pytest.mark.parametrize('kwargs', [dict(wd=.3), dict(wd=.3, decouple_wd=False), dict(mom=.5, sqr_mom=.8, eps=1e-2)])
@pytest.mark.parametrize('cbs', [[], [partial(L1, 0.)], [partial(L1, 1e-9)]], ids=['plain', 'strength 0', 'joined'])
def test_adam_in_one_pass_and_in_parts(kwargs, cbs):
    "Groups, norms and biases that do not decay, layers that come later, other rates"
    def _trained(opt, *cbs):
        set_seed(1)
        model = nn.Sequential(nn.Linear(4,6), nn.Tanh(), nn.BatchNorm1d(6), nn.Linear(6,1))
        split = lambda m: [list(m[:1].parameters()), list(m[2:].parameters())]
        learn = learner(*cbs, model=model, splitter=split, opt_func=partial(opt, **kwargs), wd=None)
        learn.freeze()
        fit(learn, 1, .02)
        learn.unfreeze()
        return fit(learn, 1, slice(.01,.03))
    a = _trained(Adam)
    for b in (_trained(FusedAdam, *(c() for c in cbs)), _trained(Adam, *(c() for c in cbs))):
        for p,q in zip(a.model.parameters(), b.model.parameters(), strict=True):
            torch.testing.assert_close(p, q, atol=2e-6, rtol=1e-5)

# what is left

def test_gradients_of_l2sp():
    class Given(Callback):
        order = 90
        def before_step(self): self.seen = [p.grad.clone() for p in self.model.parameters() if p.ndim > 1]
    class Shift(Callback):
        def before_train(self): self.model[0].weight.data.add_(1.)
    for new in (None, '2'):
        a,b = (fit(learner(Given(), Shift(), *cbs, splitter=two, n=1), 1, 0.) for cbs in ([L2SP(.1, .3, new=new)], []))
        v,w = (p-q for p,q in zip(a.given.seen, b.given.seen, strict=True))
        torch.testing.assert_close(v, torch.full_like(v, .1), atol=1e-6, rtol=0)
        torch.testing.assert_close(w, .3*weights(a)[1], atol=1e-6, rtol=0)
    one = fit(learner(cb := L2SP(.1, .3)), 1, 0.)  # a single group: nothing in it is new
    assert cb._new==set() and one.recorder.values[-1][2]==0

def test_projections():
    w = torch.randn(4, 3, 2)
    w[1] = 0
    for cb,kw in ((MaxNorm(.5), dict(max_norm=.5)), (UnitNorm(), {}), (NonNeg(), {})):
        same = w.clone()
        cb.project_(same, **kw)
        assert torch.equal(cb.project(w, **kw), same) and same.isfinite().all() and (same[1]==0).all()
    r = w.flatten(1).norm(dim=1)
    torch.testing.assert_close(MaxNorm().project(w, max_norm=r[2].item()).flatten(1).norm(dim=1), r.clamp(max=r[2]))
    torch.testing.assert_close(NonNeg().project(w), torch.relu(w))

def test_computed_weights_in_groups():
    "A weight behind weight norm: the penalty goes through to its length, and shows"
    from torch.nn.utils.parametrizations import weight_norm
    model = nn.Sequential(weight_norm(nn.Linear(4,6)), nn.Tanh(), nn.Linear(6,1))
    for cb,norm in ((GroupLasso(.3, only='0*'), lambda w: .3*w.norm(dim=1).sum()),
                    (Orthogonal(.3, only='0*'), lambda w: .3*gap(w).norm()**2)):
        class Given(Callback):
            order = 90
            def before_step(self): self.seen = [p.grad.clone() for p in self.model[0].parameters()]
        with pytest.warns(UserWarning) if isinstance(cb, GroupLasso) else nullcontext():
            a = fit(learner(cb, Given(), model=model, n=1), 1, 0.)
        b = fit(learner(Given(), model=model, n=1), 1, 0.)
        ps = list(model[0].parameters())
        want = torch.autograd.grad(norm(model[0].weight), ps, allow_unused=True)
        for p,g,h,w in zip(ps, a.given.seen, b.given.seen, want, strict=True):
            torch.testing.assert_close(g-h, torch.zeros_like(p) if w is None else w, atol=1e-5, rtol=1e-4)
        assert cb.value()==pytest.approx(norm(model[0].weight).item(), rel=1e-5)

@pytest.mark.parametrize('cls', [L1, L2, ElasticNet, GroupLasso, Orthogonal, L2SP, MaxNorm, ActivationL1, ActivationL2])
def test_schedules_out_of_range(cls):
    "Their own and those of `ParamScheduler`, before the first step"
    with pytest.raises(ValueError, match='must stay >'): cls(SchedLin(.1, -.1))
    cb = cls(.1)
    for end in (-.1, 0.) if cls is MaxNorm else (-.1,):
        with pytest.raises(ValueError, match='must stay >'):
            fit(learner(cb, Never(), ParamScheduler({cb.key(cb.hypers[-1]): SchedLin(.1, end)})), 1)

@pytest.mark.parametrize('cls,key', [(RDrop,'rdrop'), (JacobianPenalty,'jacobian'), (ConfidencePenalty,'confidence'),
                                     (SAM,'rho'), (ASAM,'rho'), (WeightDecay,'wd')])
def test_schedules_of_the_others_out_of_range(cls, key):
    cbs = [Never(), ParamScheduler({key: SchedLin(.1, -.1)})]
    learn = learner(cls(), *cbs)
    learn.loss_func = CrossEntropyLossFlat()
    with pytest.raises(ValueError, match='must stay >= 0'): fit(learn, 1)

def test_max_norm_of_zero():
    for bad in (0, [1.,0.], slice(0.,1.), SchedLin(1.,0.)):
        with pytest.raises(ValueError, match='> 0'): MaxNorm(bad)

class Never(Callback):
    def before_step(self): raise AssertionError('a step was made')

@pytest.mark.parametrize('make', [partial(GroupLasso, 5.), partial(Orthogonal, 5.), partial(MaxNorm, 1e-3), UnitNorm])
def test_a_vector_has_no_rows(make):
    "Also where the user asks for everything"
    a,b = (fit(learner(*cbs, n=1), 1, .1).model for cbs in ([make(only='*')], []))
    for i in (0,2):
        assert (a[i].bias==b[i].bias).all() and (a[i].weight!=b[i].weight).any()

def test_orthogonal_takes_turns():
    "Each weight has its gradient computed in the first step of an epoch and then in every third, not all in the same"
    class Zero(Callback):
        order = Orthogonal.order - .1
        def before_step(self):
            for p in self.model.parameters(): p.grad.zero_()
    class Given(Callback):
        order = 90
        def before_fit(self): self.seen = []
        def before_step(self):
            self.seen.append([(p.detach().clone(), p.grad.clone()) for p in self.model.parameters() if p.ndim > 1])
    seen = fit(learner(Zero(), Given(), Orthogonal(.5, every=3), n=7), 2, .05).given.seen
    for epoch in (seen[:7], seen[7:]):
        for i in (0,1):
            at = 0
            for n,step in enumerate(epoch):
                if (n+i) % 3 == 0: at = n
                torch.testing.assert_close(step[i][1], .5*grad_orthogonal(epoch[at][i][0]))
    assert len(seen)==14 and not torch.equal(seen[0][0][1], seen[3][0][1])

# what users met

@pytest.mark.parametrize('opt', [SGD, Adam, FusedAdam, torch_adam])
def test_columns_of_a_single_input(opt):
    "The first layer of a grey picture: its only column is the whole weight, and lies as it does"
    model = nn.Sequential(nn.Unflatten(1, (1,2,2)), nn.Conv2d(1, 6, 2), nn.Flatten(), nn.Linear(6,1))
    a,b = (fit(learner(*cbs, model=copy.deepcopy(model), n=1, opt_func=opt), 1, .1)
           for cbs in ([GroupLasso(.3, groups='columns')], []))
    for i,flat in ((1, lambda w: w.detach().transpose(0,1).flatten(1)), (3, lambda w: w.detach().T)):
        t = steps.step_size(b.opt, b.model[i].weight, b.opt.hypers[0])
        t = flat(t).double() if torch.is_tensor(t) else t
        want = prox_group(flat(b.model[i].weight).double(), .3*t)
        torch.testing.assert_close(flat(a.model[i].weight).double(), want, atol=1e-6, rtol=1e-4)

def test_names_that_are_taken():
    "By the optimizer, of torch too, by another regularizer's label or by one of its strengths"
    for name,opt in (('mom', Adam), ('sqr_mom', torch_adam), ('amsgrad', torch_adam), ('weight_decay', torch_sgd)):
        with pytest.raises(ValueError, match='a hyper-parameter of the optimizer'):
            fit(learner(L1(.1, label=name), Never(), opt_func=opt), 1)
    for label in ('params','lr','wd'):
        with pytest.raises(ValueError, match='a hyper-parameter of the optimizer'): L1(.1, label=label)
    with pytest.raises(ValueError, match='single underscores'): L1(.1, label='a__b')
    for label,other in (('x', ElasticNet(.1, .1, label='x')), ('elasticnet_l1', ElasticNet(.1, .1))):
        with pytest.raises(ValueError, match='another label'): fit(learner(L1(.1, label=label), other, Never()), 1)

def test_strengths_after_the_fit_are_those_of_its_end():
    cb = L1(SchedLin(.3, .1))
    learn = fit(learner(cb, n=4), 1, .01)
    assert cb.strengths()==[{'l1': pytest.approx(.15)}]  # in the last of four steps
    assert all('l1' not in h for h in learn.opt.hypers)
    wrapped = fit(learner(L1(.1), opt_func=torch_adam), 1, .01).opt
    assert 'l1' not in wrapped.fwd_map and 'l1' not in wrapped.bwd_map

def test_validation_within_a_fit_takes_no_strength_away():
    class Validates(Callback):
        order = -20  # before the model is put into training
        def before_train(self):
            self.learn.validate()
            assert self.opt.hypers[0]['l1']==.1 and len(self.learn.metrics)==0
    learn = fit(learner(L1(.1), Validates()), 2, .01)
    with learn.no_bar(): learn.validate()
    assert len(learn.recorder.log)==3  # number, loss and time: no column of `L1`

def test_a_learner_without_a_recorder():
    learn = learner(L1(1e3))
    learn.remove_cb(learn.recorder)
    assert all((w==0).all() for w in weights(fit(learn, 1, .1)))

def test_all_strengths_of_a_subclass_are_asked_for_and_shown():
    class Mine(L1): hypers = ('one','two')
    for kwargs in (dict(one=.1), dict(one=.1, two=.2, three=.3)):
        with pytest.raises(TypeError, match='give one, two, not'): Penalty.__init__(Mine.__new__(Mine), **kwargs)
    assert repr(L1(.1, skip='head*'))=="L1(l1=0.1, only=None, skip='head*')"

def test_one_strength_in_a_list_is_for_all_groups():
    a,b = (weights(fit(learner(L1(s), splitter=two), 1, .1)) for s in ([.3], .3))
    assert all(map(torch.equal, a, b))

def test_numbers_of_numpy():
    a,b = (weights(fit(learner(L1(s)), 1, .1)) for s in (np.float32(.25), .25))
    assert all(torch.equal(p, q) for p,q in zip(a, b, strict=True))
    for bad in (torch.tensor(.1), np.array([.1,.2]), np.float32(-1)):
        with pytest.raises(ValueError, match='is not a strength'): L1(bad)

def test_mixout_of_a_compiled_model():
    learn = learner(Mixout(.5), model=torch.compile(net(), backend='eager'))
    with pytest.raises(ValueError, match='compile it afterwards'): fit(learn, 1)

def test_rdrop_while_dropout_waits():
    "A schedule may begin with rates of 0, where both passes are the same"
    model = nn.Sequential(nn.Linear(4,6), nn.Dropout(.5), nn.Linear(6,1))
    learn = learner(RDrop(1., axis='binary'), DropoutSchedule('late', part=.5), model=model, n=4)
    assert all(p.isfinite().all() for p in weights(fit(learn, 1, .1)))

@pytest.mark.parametrize('name,gain', [('momentum', 10.), ('torch momentum', 10.), ('torch dampening', 5.)])
def test_a_momentum_that_was_there_before(name, gain):
    "A penalty that joins a training on its way takes the momentum as grown up"
    p = nn.Parameter(torch.ones(3))
    opt = known[name]([[p]], lr=.01)
    p.grad = torch.ones(3)
    for _ in range(3): opt.step()
    steps.before_step(opt)
    assert steps.step_size(opt, p, opt.hypers[0])==pytest.approx(.01*gain, rel=1e-4)

def test_momentum_that_is_an_average_does_not_add_up():
    p = nn.Parameter(torch.ones(3))
    opt = Optimizer([[p]], [partial(average_grad, dampening=True), momentum_step], lr=.01, mom=.9)
    for _ in range(80):
        p.grad,before = torch.ones(3),p.detach().clone()
        steps.before_step(opt)
        opt.step()
        steps.after_step(opt)
    step = torch.full((3,), steps.step_size(opt, p, opt.hypers[0]))
    torch.testing.assert_close(before-p.detach(), step, rtol=1e-3, atol=0)

def test_a_start_that_nobody_has_kept():
    with pytest.raises(ValueError, match='are not known'): fit(learner(L2SP()), 2, start_epoch=1)

# a step in rows, and one that joins in

@pytest.mark.parametrize('opt', [SGD, momentum, partial(SGD, mom=.9, decouple_wd=False), RMSProp, Adam, RAdam, QHAdam])
@pytest.mark.parametrize('part', [None, 16])
def test_an_optimizer_in_rows_is_the_optimizer(opt, part, monkeypatch):
    "To rounding, with weight decay, what does not decay, frozen layers, and a state that is cleared and loaded"
    if part: monkeypatch.setattr(steps, '_piece', part)
    def _stepped(rows):
        set_seed(0)
        ps = [nn.Parameter(torch.randn(s)) for s in ((9,7), (7,), (), (5,3,3))]
        res = opt(ps, lr=.01, wd=.1)
        res.state[ps[1]]['do_wd'] = False
        if rows: join(res)
        for i in range(8):
            for p in ps: p.grad = torch.randn_like(p) if i or p.ndim != 3 else None
            if i==4: res.load_state_dict(res.state_dict())
            if i==6: res.clear_state()
            res.step()
        return ps,res
    (a,plain),(b,rows) = _stepped(False),_stepped(True)
    assert type(rows) is RowOptimizer and [set(plain.state[p]) for p in a]==[set(rows.state[p]) for p in b]
    for p,q in zip(a, b, strict=True): torch.testing.assert_close(p, q)
    leave(rows)
    assert type(rows) is Optimizer and vars(rows).keys()==vars(plain).keys()

def test_what_cannot_go_in_rows():
    "Step functions that see a whole layer or that nobody knows, other optimizers, sparse gradients, a closure"
    p = nn.Parameter(torch.randn(4,3))
    def mine(p, lr, **kwargs): p.data.add_(p.grad, alpha=-lr)
    for opt in (Lamb([p], .1), Larc([p], .1), Optimizer([p], [mine], lr=.1), torch_adam([p], lr=.1), ranger([p], .1)):
        kind = type(opt)
        assert join(opt) is None and joined(opt) is None and type(opt) is kind and not done(opt)
        leave(opt)
    opt = RMSProp([p], .1)
    assert join(opt) is None and joined(opt)=={}  # in rows, but it does not tell its step there
    opt = SGD([p], .1)
    assert join(opt)=={}
    p.grad = torch.sparse_coo_tensor([[1],[2]], [1.], (4,3))
    want = p.detach() - .1*p.grad.to_dense()
    opt.step()
    assert torch.equal(p.detach(), want)
    for o in (opt, FusedAdam([p], .1)):
        with pytest.raises(NotImplementedError, match='closure'): o.step(lambda: 1)

@pytest.mark.parametrize('opt', [Adam, FusedAdam])
def test_an_embedding_with_sparse_gradients_keeps_its_error(opt):
    "fastai's Adam cannot average them; the fused one leaves that to it"
    emb = nn.Embedding(5, 3, sparse=True)
    emb(torch.tensor([1])).sum().backward()
    o = opt(list(emb.parameters()), .1)
    with pytest.raises(Exception) as e: o.step()
    with pytest.raises(type(e.value)): Adam(list(emb.parameters()), .1).step()

def _lain_otherwise(kind):
    "A parameter of 13x7, or like a convolution's, and how its gradient lies in memory"
    t = torch.randn(13, 7)
    if kind=='gradient transposed': return t, lambda g: g.t().contiguous().t()
    if kind=='weight transposed': return torch.randn(7, 13).t(), lambda g: g
    if kind=='both transposed': return torch.randn(7, 13).t(), lambda g: g.t().contiguous().t()
    if kind=='part': return torch.randn(13, 14)[:,:7], lambda g: g
    last = torch.channels_last
    w = torch.randn(13, 7, 3, 2)
    if kind=='weight channels_last': return w.to(memory_format=last), lambda g: g
    return w if kind=='gradient channels_last' else w.to(memory_format=last), lambda g: g.to(memory_format=last)

@pytest.mark.parametrize('kind', ['gradient transposed', 'weight transposed', 'both transposed', 'part',
                                  'gradient channels_last', 'weight channels_last', 'both channels_last'])
@pytest.mark.parametrize('joins', [False, True])
def test_the_fused_adam_is_adam_wherever_numbers_lie(kind, joins, monkeypatch):
    "Its kernel takes the order of memory for granted"
    monkeypatch.setattr(steps, '_piece', 16)
    def _stepped(opt):
        set_seed(0)
        t,lay = _lain_otherwise(kind)
        p = nn.Parameter(t)
        o = opt([p], lr=.01, wd=.1)
        for _ in range(3):
            p.grad = lay(torch.randn(p.shape))
            after = join(o) if joins else None
            if after is not None: after[id(p)] = [lambda w,step: w.sub_(.01*steps.known(step))]
            o.step()
        return p.detach()
    torch.testing.assert_close(_stepped(FusedAdam), _stepped(Adam), atol=1e-6, rtol=1e-5)

def test_half_precision_is_stepped_to_the_bit(monkeypatch):
    "torch rounds the end of a piece otherwise than its inside"
    monkeypatch.setattr(steps, '_piece', 512)
    def _stepped(rows):
        set_seed(0)
        p = nn.Parameter(torch.randn(300, 71).half())
        o = SGD([p], lr=.01)
        if rows: join(o)
        for _ in range(3):
            p.grad = torch.randn(300, 71).half()
            o.step()
        return p.detach()
    assert torch.equal(_stepped(True), _stepped(False))

@pytest.mark.parametrize('dtype,tol', [(torch.float16,1e-3), (torch.bfloat16,8e-3)])
@pytest.mark.parametrize('apply', [lambda w,s: prox_elastic_net_(w, s, 1e-2, 1e-2),
                                   lambda w,s: prox_group_(w, s, 1e-2)])
def test_half_precision_holds_the_proximal_step(apply, dtype, tol):
    "A weight times Adam's denominator is none of its numbers, nor is a weight divided by it"
    w,square = torch.randn(20, 30)/10,1e-9*torch.rand(20, 30)
    got,want = w.to(dtype),w.to(dtype).double()
    apply(got, steps.Adaptive(square.to(dtype), 1e-5, 1e-5))
    apply(want, steps.Adaptive(square.to(dtype).double(), 1e-5, 1e-5))
    torch.testing.assert_close(got.double(), want, atol=tol/10, rtol=tol)

@pytest.mark.parametrize('label', ['w', 'todo', 'now'])
def test_a_label_is_not_mistaken_for_an_argument(label):
    a,b = (weights(fit(learner(L1(.1, **how), opt_func=Adam), 1, .05)) for how in ({}, dict(label=label)))
    assert all(map(torch.equal, a, b))

@pytest.mark.parametrize('opt', [Adam, momentum, FusedAdam])
def test_ctrl_c_leaves_nothing_to_be_done(opt):
    "What was to be done inside the step that never came is not done in the next fit, which has no regularizer"
    class CtrlC(Callback):
        order = 90
        def before_step(self): raise KeyboardInterrupt
    learn = learner(opt_func=opt)
    with pytest.raises(KeyboardInterrupt): fit(learn, 1, .05, cbs=[L1(1e3), CtrlC()])
    assert type(learn.opt) is not RowOptimizer and not joined(learn.opt) and not hasattr(learn.opt, 'gain_due')
    fit(learn, 1, .05)
    assert not any((w==0).any() for w in weights(learn))

@pytest.mark.parametrize('opt', [SGD, Adam, torch_adam])
@pytest.mark.parametrize('how', ['new', 'loaded'])
@pytest.mark.parametrize('strength', [1e3, SchedLin(1e3, 1e3)])
def test_a_strength_follows_the_optimizer(opt, how, strength, tmp_path):
    "Where a callback makes it anew within the fit, or loads what was saved before: not a silent 0"
    class Again(Callback):
        def before_epoch(self):
            if self.epoch != 1: return
            if how=='new': self.learn.create_opt()
            else: self.learn.load('before')
            self.opt.set_hyper('lr', .05)
            self.learn.model[0].weight.data.fill_(.1)
    class See(Callback):
        order = 90
        def before_step(self): self.rho = [h.get('rho') for h in self.opt.hypers]
    for cb in (L1(strength), MaxNorm(strength), SAM(.05)):
        learn = learner(See(), Again(), cb, opt_func=opt, path=tmp_path)
        learn.create_opt()
        learn.save('before')
        fit(learn, 2, .05)
        assert bool((learn.model[0].weight==0).all())==isinstance(cb, L1)
    assert learn.see.rho==[.05]

def test_a_step_function_that_comes_later_sees_the_whole_layer(monkeypatch):
    monkeypatch.setattr(steps, '_piece', 4)
    def whole(p, lr, **kwargs): p.grad.data.div_(p.grad.norm())
    class Add(Callback):
        order = 50
        def before_fit(self): self.learn.opt.cbs = L([whole]) + self.learn.opt.cbs
    a,b = (weights(fit(learner(*cbs, Add(), opt_func=momentum), 1, .05)) for cbs in ((), (L1(0.),)))
    assert all(map(torch.equal, a, b))

@pytest.mark.parametrize('cb', [L1(.1), L2(.1, how='prox'), ElasticNet(.1,.2), GroupLasso(.1)])
@pytest.mark.parametrize('scale', [1e-9, 1e-4, 1e-2, 1.])
def test_a_step_that_is_not_computed_before_it_is_wanted(cb, scale):
    "`Adaptive`, with and without its root, does what the same step as a tensor does"
    w,square = torch.randn(20, 30, dtype=torch.float64),torch.rand(20, 30, dtype=torch.float64)
    step = steps.Adaptive(square, scale, 1e-3)
    strengths = {h: 3*(i+1)*getattr(cb, h) for i,h in enumerate(cb.hypers)}
    def _done(step):
        v = w.clone()
        if isinstance(cb, GroupLasso): prox_group_(v, step, strengths['group'])
        else: cb.prox_(v, step, **strengths)
        return v
    torch.testing.assert_close(_done(step), _done(step.tensor()), rtol=1e-7, atol=1e-7)
    with_root = steps.Adaptive(square, scale, 1e-3, root=square.sqrt()+1e-3)
    for _ in range(2): torch.testing.assert_close(with_root.tensor(), step.tensor())
    assert torch.equal(_done(with_root), _done(step))

def test_parts_of_a_step_are_those_of_its_tensor(monkeypatch):
    monkeypatch.setattr(steps, '_piece', 8)
    w,square = torch.randn(5, 4),torch.rand(5, 4)
    for step in (steps.Adaptive(square, .1, 1e-3), steps.Adaptive(square, .1, 1e-3, root=square.sqrt()+1e-3)):
        parts = list(steps.pieces(w, step, 'as it is'))
        assert len(parts)==3 and {o for *_,o in parts}=={'as it is'}
        assert torch.equal(torch.cat([p for p,*_ in parts]), w)
        torch.testing.assert_close(torch.cat([s.tensor() for _,s,_ in parts]), step.tensor())

@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 3), st.floats(-6, 1), st.integers(1, 300))
def test_groups_of_any_steps_are_solved_to_seven_digits(seed, decades, size, n):
    "Steps of one group may differ by decades: to the norm of its group, the result is that of the equation"
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(6, n, generator=g, dtype=torch.float64)
    t = 10**(-decades*torch.rand(6, n, generator=g, dtype=torch.float64) + size)*w.norm(dim=1, keepdim=True)
    got = w.clone()
    prox_group_(got, steps.Adaptive((1/t).square(), 1., 0.))
    assert ((got-prox_group(w, t)).norm(dim=1)/w.norm(dim=1)).max() < 1e-7

def test_after_an_overflow_the_next_step_shortens_again():
    class Overflows(Callback):
        "As mixed precision does: the second step is cancelled"
        order = 60
        def before_step(self):
            if self.train_iter==1: raise CancelStepException
    class See(Callback):
        order = 90
        def before_fit(self): self.zeros = []
        def after_step(self): self.zeros.append(int((self.learn.model[0].weight==0).sum()))
    for opt in (SGD, Adam):
        model = net()
        learn = fit(learner(L1(1e3, only='0.*'), Overflows(), See(), model=model, opt_func=opt), 1, .01)
        assert learn.see.zeros==[24]*3
        nn.init.ones_(model[0].weight)
        learn = fit(learner(NonNeg(), Overflows(), model=model, opt_func=opt), 1, 0.)
        with torch.no_grad(): model[0].weight.fill_(-1.)
        class Down(Callback):
            order = 5
            def before_batch(self): self.learn.model[0].weight.data.fill_(-1.) if self.training else None
        fit(learner(NonNeg(), Overflows(), Down(), model=model, opt_func=opt), 1, 0.)
        assert (model[0].weight==0).all()

# what a subclass must give, and when it may be asked

@pytest.mark.parametrize('base,missing', ((Penalty,'grad'), (Proximal,'prox'), (Constraint,'project')))
def test_mathematics_that_a_subclass_lacks_are_asked_for(base, missing):
    "By name: fastai would make `tuple index out of range` of an error without words"
    class Mine(base): hypers,shows = ('mine',),False
    said = f'Mine has no `{missing}`; give it {missing}'
    with pytest.raises(NotImplementedError, match=said): fit(learner(Mine(mine=.1)), 1)
    if base is Penalty:
        with pytest.raises(NotImplementedError, match='Mine has no `norm`'): Mine(mine=.1).norm(torch.ones(2,2))

def test_the_value_before_the_first_fit():
    with pytest.raises(RuntimeError, match='L1: no weights chosen yet; call `fit` first'): L1(.1).value()

def test_strengths_before_the_first_fit_are_0():
    learn = learner(L1(.1))
    learn.create_opt()
    assert learn.l1.strengths()==[{'l1': 0.}]

def test_an_optimizer_without_steps_of_fastai_uses_what_it_has():
    assert own_hypers(SimpleNamespace(hypers=[{'lr': .1, 'mom': .9}, {'lr': .1}]))=={'lr', 'mom'}

def test_a_step_that_an_overflow_cancels_applies_no_proximal_step():
    "The weights are as they were, to the bit, though the optimizer would apply the step itself"
    from fastai_ext.contract.steps import CPUMixedPrecision
    class Overflow(Callback):
        def before_backward(self):
            self.was = weights(self.learn)
            self.learn.loss_grad = self.loss_grad*float('inf')
        def after_batch(self):
            if self.training: assert all(map(torch.equal, self.was, weights(self.learn)))
    for opt_func in (SGD, momentum, Adam):
        l1 = L1(.5)
        learn = learner(l1, CPUMixedPrecision(), Overflow(), opt_func=opt_func, lr=.1)
        start = weights(learn)
        fit(learn, 1)
        assert all(map(torch.equal, start, weights(learn))) and l1.value() > 0

@pytest.mark.parametrize('opt', [Adam, FusedAdam, momentum])
@pytest.mark.parametrize('cb', [partial(L1, .3), partial(GroupLasso, .3)], ids=['L1', 'GroupLasso'])
def test_a_step_of_a_cancelled_batch_is_not_made_up_for(cb, opt):
    "As callbacks do that skip a batch with NaN: what was to be done inside its step is not done twice in the next"
    class Skips(Callback):
        def __init__(self, at, order): self.at,self.order = at,order
        def __call__(self, event_name):
            if event_name==self.at and self.learn.training and self.learn.iter < 2:
                self.learn.opt.zero_grad()
                raise CancelBatchException
    a,b = (weights(fit(learner(cb(), Skips(*how), opt_func=opt), 1, .05)) for how in (('before_step',90),
                                                                                     ('before_batch',-50)))
    for p,q in zip(a, b, strict=True): torch.testing.assert_close(p, q)
