"Penalties and constraints count once, act on what they should, resume, and refuse what cannot work"
import pickle
from functools import partial

import numpy as np
import pytest, torch
from fastai.callback.core import Callback, CancelStepException
from fastai.callback.schedule import ParamScheduler, SchedCos, SchedLin
from fastai.callback.tracker import SaveModelCallback
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import MSELossFlat
from fastai.optimizer import SGD, Adam, OptimWrapper, Optimizer, ranger
from fastai.torch_core import set_seed
from hypothesis import given, settings, strategies as st
from torch import nn

from fastai_ext.init.mup import MuP
from fastai_ext.model.weights import weights
from fastai_ext.regularize import steps
from fastai_ext.regularize.activation import ActivationL1, ActivationL2
from fastai_ext.regularize.anchor import L2SP
from fastai_ext.regularize.constraint import MaxNorm, NonNeg, UnitNorm
from fastai_ext.regularize.fused import FusedAdam
from fastai_ext.regularize import rows
from fastai_ext.regularize.rows import joined
from fastai_ext.regularize.group import GroupLasso
from fastai_ext.regularize.orthogonal import Orthogonal
from fastai_ext.regularize.penalty import L1, L2, ElasticNet
from fastai_ext.regularize.proximal import grad_group, prox_elastic_net_, prox_group, prox_group_, prox_l1, prox_l2

torch_adam = partial(OptimWrapper, opt=torch.optim.Adam)
torch_sgd = partial(OptimWrapper, opt=torch.optim.SGD)
torch_nadam = partial(OptimWrapper, opt=torch.optim.NAdam)
momentum = partial(SGD, mom=.9)

def net(): return nn.Sequential(nn.Linear(4,6), nn.Tanh(), nn.Linear(6,1))
def two(m): return [list(m[:2].parameters()), list(m[2:].parameters())]

def learner(*cbs, model=None, n=4, size=8, seed=0, **kwargs):
    "`n` fixed batches of `size` rows"
    set_seed(seed)
    model = net() if model is None else model
    rows = list(zip(torch.randn(size*n,4), torch.randn(size*n,1), strict=True))
    dls = DataLoaders(DataLoader(rows, bs=size), DataLoader(rows[:size], bs=size))
    return Learner(dls, model, kwargs.pop('loss', MSELossFlat()), cbs=list(cbs), **kwargs)

def fit(learn, *args, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit(*args, **kwargs)
    return learn

def state(learn): return torch.cat([p.detach().flatten() for p in learn.model.parameters()])

class Given(Callback):
    "What the optimizer was given in each step"
    order = 90
    def before_fit(self): self.seen = []
    def before_step(self):
        self.seen.append({n: p.grad.clone() for n,p in self.model.named_parameters() if p.grad is not None})

# 1, 2: the multiplier is 1, and the clip sees the penalty

norms = {'L1': lambda w: .3*w.abs().sum(), 'L2': lambda w: .15*w.square().sum(),
         'ElasticNet': lambda w: .3*w.abs().sum() + .1*w.square().sum(),
         'GroupLasso': lambda w: .3*w.norm(dim=1).sum(),
         'Orthogonal': lambda w: .3*(torch.eye(min(w.shape)) - (w@w.T if len(w) <= w.shape[1] else w.T@w)).norm()**2}
makes = {'L1': partial(L1, .3, how='grad'), 'L2': partial(L2, .3),
         'ElasticNet': partial(ElasticNet, .3, .2, how='grad'),
         'GroupLasso': partial(GroupLasso, .3, how='grad'), 'Orthogonal': partial(Orthogonal, .3)}

@pytest.mark.parametrize('accumulated', [0, 4, 3])
@pytest.mark.parametrize('name', makes)
def test_the_multiplier_is_one(name, accumulated):
    "Alone, with gradients of four batches accumulated, and with a partial last step"
    def _seen(*cbs):
        acc = [GradientAccumulation(8*accumulated)] if accumulated else []
        return fit(learner(Given(), *acc, *cbs, opt_func=SGD), 1, 0.).given.seen
    model = learner().model
    ws = model[0].weight,model[2].weight
    want = torch.autograd.grad(sum(norms[name](w) for w in ws), ws)
    for a,b in zip(_seen(makes[name]()), _seen(), strict=True):
        for n,g in zip(('0.weight','2.weight'), want, strict=True):
            torch.testing.assert_close(a[n]-b[n], g, atol=2e-5, rtol=1e-4)
        for n in ('0.bias','2.bias'): assert (a[n] == b[n]).all()

@pytest.mark.parametrize('name', makes)
def test_the_clip_sees_the_penalty(name):
    seen = fit(learner(Given(), GradientClip(.1), makes[name](), opt_func=SGD), 1, 0.).given.seen
    assert all(abs(torch.cat([g.flatten() for g in s.values()]).norm()-.1) < 1e-4 for s in seen)

# 3: a cancelled step changes nothing

class CancelSecond(Callback):
    order,run_valid = 50,False
    def before_fit(self): self.states = []
    def before_step(self):
        if self.train_iter == 1: raise CancelStepException
    def before_batch(self):
        self.states.append([p.detach().clone() for p in self.model.parameters()])

@pytest.mark.parametrize('opt', [SGD, momentum, Adam, torch_adam])
@pytest.mark.parametrize('make', [partial(L1, .3), partial(GroupLasso, .3), partial(MaxNorm, .1), NonNeg])
def test_a_cancelled_step_changes_nothing(make, opt):
    states = fit(learner(CancelSecond(), make(), opt_func=opt), 1, .01).cancel_second.states
    same = [all((a == b).all() for a,b in zip(s, t, strict=True)) for s,t in zip(states, states[1:], strict=False)]
    assert same == [False, True, False]

# 4, 18: losses are those of the data; strength 0 is no callback

def every(strength):
    return {'L1': L1(strength), 'L1 grad': L1(strength, how='grad'), 'L2': L2(strength),
            'L2 prox': L2(strength, how='prox'), 'ElasticNet': ElasticNet(strength, strength),
            'GroupLasso': GroupLasso(strength), 'GroupLasso grad': GroupLasso(strength, how='grad'),
            'L2SP': L2SP(strength, strength), 'Orthogonal': Orthogonal(strength),
            'ActivationL1': ActivationL1(strength), 'ActivationL2': ActivationL2(strength)}

@pytest.mark.parametrize('name', every(0.))
def test_losses_are_those_of_the_data(name):
    a,b = fit(learner(every(.5)[name]), 2, 0.),fit(learner(), 2, 0.)
    assert [r[:2] for r in a.recorder.values] == [r[:2] for r in b.recorder.values] and len(a.recorder.values[0]) == 3
    with a.no_bar(), b.no_bar():
        assert a.validate() == b.validate()
        assert (a.get_preds(with_loss=True)[2] == b.get_preds(with_loss=True)[2]).all()

@pytest.mark.parametrize('opt', [momentum, Adam, FusedAdam, torch_adam])
@pytest.mark.parametrize('name', every(0.))
def test_strength_0_is_no_callback(name, opt):
    cbs = [],[every(0.)[name]],[every(.05)[name]]
    plain,zero,some = (state(fit(learner(*c, opt_func=opt), 2, .01)) for c in cbs)
    assert (zero == plain).all() and (some != plain).any()

# 5, 6: what is frozen, and what is no matrix, is left alone

@pytest.mark.parametrize('opt', [momentum, Adam, torch_sgd, torch_adam])
@pytest.mark.parametrize('name', list(every(0.))[:9])
def test_frozen_weights_stay_to_the_bit(name, opt):
    learn = fit(learner(every(.1)[name], opt_func=partial(opt, wd=0.) if opt is Adam else opt, splitter=two), 1, .01)
    learn.freeze()
    before = [p.detach().clone() for p in learn.model[0].parameters()]
    fit(learn, 1, .01)
    assert all((p == q).all() for p,q in zip(learn.model[0].parameters(), before, strict=True))

class Everything(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb,self.lstm = nn.Embedding(7, 4, padding_idx=0),nn.LSTM(4, 4)
        self.att,self.up = nn.MultiheadAttention(4, 2),nn.ConvTranspose1d(4, 4, 3, padding=1)
        self.bn,self.gn,self.ln,self.rms = nn.BatchNorm1d(4),nn.GroupNorm(2, 4),nn.LayerNorm(4),nn.RMSNorm(4)
        self.out = nn.Linear(4, 1)
    def forward(self, x):
        h = self.emb((x[:,:3].abs()*3).long() % 7)
        h = self.lstm(h)[0]
        h = self.att(h, h, h)[0]
        h = self.up(h.transpose(1,2))
        return self.out(self.rms(self.ln(self.gn(self.bn(h)).transpose(1,2)))).mean(1)

matrices = {'emb.weight','lstm.weight_ih_l0','lstm.weight_hh_l0','att.in_proj_weight','att.out_proj.weight','up.weight',
            'out.weight'}
alone = {c.__name__: c for c in (L1, L2, ElasticNet, GroupLasso, MaxNorm, UnitNorm, NonNeg, L2SP, Orthogonal)}

@pytest.mark.parametrize('opt', [SGD, torch_sgd])
@pytest.mark.parametrize('name', alone)
def test_biases_and_norm_layers_are_left_alone(name, opt):
    "After one step, matrices differ from those of a fit without it, and nothing else does"
    strong = {'MaxNorm': (1e-3,), 'UnitNorm': (), 'NonNeg': (), 'ElasticNet': (5.,5.), 'L2SP': (5.,5.)}.get(name, (5.,))
    def _trained(*cbs):
        set_seed(2)
        return dict(fit(learner(*cbs, model=Everything(), n=1, opt_func=opt), 1, 1e-3).model.named_parameters())
    cb = alone[name](*strong)
    a,b = _trained(cb),_trained()
    if name == 'L2SP': changed = {h.weight.full_name for h in cb._held}  # at the start it does nothing yet
    else: changed = {n for n,p in a.items() if (p != b[n]).any()}
    assert changed == (matrices - {'emb.weight'} if name == 'Orthogonal' else matrices)

# 8: group lasso, by a plain computation

def plain_groups(model, kind):
    "Views of the weights that live or die together, written out by hand"
    if kind == 'rows': return [[model.out.weight[i]] for i in range(1)]
    if kind == 'embedding': return [[model.emb.weight[i]] for i in range(7)]
    w,o = model.att.in_proj_weight,model.att.out_proj.weight
    return [[w[2*h:2*h+2], w[4+2*h:6+2*h], w[8+2*h:10+2*h], o[:,2*h:2*h+2]] for h in (0,1)]

@pytest.mark.parametrize('kind,only', [('heads',None), ('embedding',None), ('rows','out.weight')])
def test_group_lasso_by_a_plain_computation(kind, only):
    "Plain SGD: each group is shortened by rate times strength; the packed weights of attention included"
    def _model():
        set_seed(4)
        return Everything()
    a,b = _model(),_model()
    cb = GroupLasso(.5, groups=kind, only=only)
    for m,cbs in ((a,[cb]), (b,[])): fit(learner(*cbs, model=m, n=1, opt_func=SGD), 1, .3)
    for got,want in zip(plain_groups(a, kind), plain_groups(b, kind), strict=True):
        flat = torch.cat([t.flatten() for t in want])
        shorter = max(0., 1 - .15/max(flat.norm().item(), 1e-9))
        torch.testing.assert_close(torch.cat([t.flatten() for t in got]), flat*shorter, atol=1e-6, rtol=1e-5)
    groups = plain_groups(a, kind)
    assert cb.zero_groups() == (sum(all((t == 0).all() for t in g) for g in groups), len(groups))
    value = .5*sum(torch.cat([t.flatten() for t in g]).norm().item() for g in groups)
    assert abs(cb.value()-value) < 1e-5

@pytest.mark.parametrize('opt', [Adam, FusedAdam, torch_adam])
def test_lstm_rows_and_filters_under_adam(opt):
    "Rows of the packed weight of an LSTM and filters of a transposed convolution, by the steps of each number"
    def _model():
        set_seed(5)
        return Everything()
    a,b = _model(),_model()
    only = ['lstm.weight_ih_l0','up.weight']
    for m,cbs in ((a,[GroupLasso(.7, only=only)]), (b,[])):
        learn = fit(learner(*cbs, model=m, n=1, opt_func=opt), 1, .1)
    for name,rowed in (('lstm.weight_ih_l0', lambda t: t), ('up.weight', lambda t: t.transpose(0,1).flatten(1))):
        p = dict(b.named_parameters())[name]
        hyper = learn.opt.hypers[0]
        step = steps.step_size(learn.opt, p, hyper)
        want = prox_group(rowed(p.detach()).double(), .7*rowed(step).double())
        got = rowed(dict(a.named_parameters())[name].detach()).double()
        torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-4)

def test_group_penalty_is_not_l1_and_survives_zero():
    w = torch.randn(5,3)
    assert abs(w.norm(dim=1).sum() - w.abs().sum()) > .1
    w[1] = 0
    assert torch.isfinite(grad_group(w)).all() and (grad_group(w)[1] == 0).all()
    learn = learner(GroupLasso(.1, how='grad'))
    learn.model[0].weight.data[2] = 0
    assert torch.isfinite(state(fit(learn, 1, .01))).all()

def test_custom_groups_and_sizes():
    "Columns that belong together, of two sizes: the strength of each times the root of its size"
    a,b = net(),net()
    b.load_state_dict(a.state_dict())
    for m,cbs in ((a,[GroupLasso(.2, groups=[[0,2],[1],[3]], only='0', by_size=True)]), (b,[])):
        fit(learner(*cbs, model=m, n=1, opt_func=SGD), 1, .5)
    for cols in ([0,2],[1],[3]):
        w = b[0].weight.detach()[:,cols]
        shorter = max(0., 1 - .1*np.sqrt(w.numel())/w.norm().item())
        torch.testing.assert_close(a[0].weight.detach()[:,cols], w*shorter, atol=1e-6, rtol=1e-5)

# the mathematics in place are those written plainly, to the last digits, whatever the sizes

@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1,5), st.integers(1,7), st.floats(-5,1), st.floats(-4,0))
def test_in_place_is_the_same(seed, rows, columns, scale, strength):
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(rows, columns, generator=g)*10**(torch.rand(rows, 1, generator=g)*4-3)
    square = 10**(torch.rand(rows, columns, generator=g)*8-8)
    square[torch.rand(rows, columns, generator=g) < .2] = 0
    w[torch.rand(rows, columns, generator=g) < .2] = 0
    step,strength = steps.Adaptive(square, 10**scale, 1e-5),10**strength
    t = 10**scale/(square.double().sqrt()+1e-5)
    a = w.clone()
    prox_elastic_net_(a, step, strength, .3)
    torch.testing.assert_close(a.double(), prox_l2(prox_l1(w.double(), t*strength), t*.3), atol=1e-7, rtol=2e-5)
    b = w.clone()
    prox_group_(b, step, strength)
    want = prox_group(w.double(), t*strength)
    assert ((b.double()-want).norm(dim=1) <= 2e-5*w.double().norm(dim=1)).all()
    assert ((b == 0).all(1) == (want == 0).all(1)).all()

@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.floats(-45,12), st.floats(-45,0), st.floats(-30,5), st.floats(-30,3))
def test_no_size_makes_it_nan(seed, size, square, scale, strength):
    "Numbers whose squares no float holds, as those of units that died, come nearer to 0 and stay numbers"
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(6, 5, generator=g)*10**(size*torch.rand(6, 1, generator=g))
    w[0],w[1,2:] = 0,0
    step = steps.Adaptive(10**(square*torch.rand(6, 5, generator=g)), 10**scale, 1e-5)
    for name,f in (('group', lambda w: prox_group_(w, step, 10**strength)),
                   ('group, plainly', lambda w: w.copy_(prox_group(w, step.tensor()*10**strength))),
                   ('group, one step', lambda w: prox_group_(w, 10**scale, 10**strength)),
                   ('elastic net', lambda w: prox_elastic_net_(w, step, 10**strength, .3))):
        got = w.clone()
        f(got)
        assert got.isfinite().all(), name
        assert (got.abs() <= w.abs()*(1+1e-5) + 1e-37).all(), name

@pytest.mark.parametrize('make', [lambda: L1(1e-3), lambda: ElasticNet(1e-3, 1e-3), lambda: GroupLasso(3e-3),
    lambda: GroupLasso(3e-3, how='grad'), lambda: Orthogonal(1e-2), lambda: MaxNorm(1.), UnitNorm, lambda: L2(1e-2),
    lambda: L2SP(1e-2, 1e-2)], ids='L1 ElasticNet GroupLasso group-grad Orthogonal MaxNorm UnitNorm L2 L2SP'.split())
@pytest.mark.parametrize('opt', [Adam, FusedAdam])
def test_units_that_die_harm_nothing(make, opt):
    "Weights of units that no longer answer shrink to sizes whose squares are 0: what is left trains on"
    set_seed(0, reproducible=True)
    model = nn.Sequential(nn.Linear(4,32), nn.ReLU(), nn.Linear(32,32), nn.ReLU(), nn.Linear(32,1))
    with torch.no_grad():
        model[0].bias[8:] = -50
        model[0].weight[8:16] *= 1e-21
        model[2].weight[:8] *= 1e-30
        model[2].bias[:8] = 0
    learn = learner(make(), model=model, opt_func=opt)
    with learn.no_bar(), learn.no_logging(): learn.fit_flat_cos(20, 1e-2)
    assert torch.isfinite(state(learn)).all() and np.isfinite(float(learn.recorder.losses[-1]))

def test_large_weights_in_parts():
    "A weight that is worked on in parts ends where it would in one, inside Adam and behind it"
    def _big(opt, cb, part=None):
        set_seed(6)
        model = nn.Sequential(nn.Linear(4,6), nn.Tanh(), nn.Linear(6,1))
        old,steps._piece = steps._piece,part or steps._piece
        try: return state(fit(learner(cb(), model=model, opt_func=opt), 2, .02))
        finally: steps._piece = old
    for cb in (partial(ElasticNet, .1, .1), partial(GroupLasso, .1), partial(L1, .1, how='grad'), NonNeg):
        for opt in (Adam, FusedAdam, momentum):
            torch.testing.assert_close(_big(opt, cb, part=8), _big(opt, cb), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(_big(Adam, partial(L1, .1)), _big(FusedAdam, partial(L1, .1)), atol=2e-5, rtol=1e-3)

def test_nothing_stays_in_the_optimizer():
    "What joins Adam for a step is gone after the fit, also after one that was interrupted"
    learn = fit(learner(L1(.1), GroupLasso(.1), opt_func=Adam), 1, .01)
    assert type(learn.opt) is Optimizer and joined(learn.opt) is None
    class Stop(Callback):
        def after_batch(self): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): fit(learn, 1, .01, cbs=Stop(), reset_opt=False)
    assert joined(learn.opt) == {}
    learn.remove_cbs([L1, GroupLasso])
    a = state(fit(learn, 1, 1e-2, reset_opt=False))
    assert (a != 0).all()

@pytest.mark.parametrize('lr,eps', [(2.,5.), (1.,5.), (2.,1.)])
def test_rates_and_epsilons_of_each_weight(lr, eps):
    "As `MuP` gives them: the proximal step is that of Adam with these"
    class Rates(Callback):
        def step_factors(self, w): return lr,eps
    cb = L1(1e-3, only='0.weight')
    learn = fit(learner(cb, Rates(), opt_func=partial(Adam, eps=1e-2)), 1, .01)
    p,h = learn.model[0].weight,learn.opt.hypers[0]
    state = learn.opt.state[p]
    want = lr*.01/((state['sqr_avg']/(1-h['sqr_mom']**state['step'])).sqrt() + eps*1e-2)
    torch.testing.assert_close(steps.known(cb._held[0].step(learn.opt, learn.opt.hypers)), want)
    learn = fit(learner(cb, Rates(), opt_func=SGD), 1, .01)  # has no epsilon
    assert cb._held[0].step(learn.opt, learn.opt.hypers)==pytest.approx(lr*.01)

def test_the_step_is_that_of_the_group():
    cb = L1(1e-3)
    learn = fit(learner(cb, opt_func=SGD, splitter=two), 1, slice(.01, .1))
    assert [h.step(learn.opt, learn.opt.hypers) for h in cb._held]==pytest.approx([.01, .1])

def test_blocks_of_one_parameter_with_rates_of_their_own():
    "Queries, keys and values lie in one parameter: with one rate it is taken whole, with several each keeps its own"
    class Rates(Callback):
        def __init__(self, of_q): self.of_q = of_q
        def step_factors(self, w): return (self.of_q if w.block=='q' else 1.),1.
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.att,self.out = nn.MultiheadAttention(4, 2, bias=False, batch_first=True),nn.Linear(4,1)
        def forward(self, x): return self.out(self.att(x[:,None], x[:,None], x[:,None])[0][:,0])
    for of_q,n in ((1.,1), (3.,3)):
        cb = L1(.1, only=lambda w: w.block in ('q','k','v'))
        fit(learner(cb, Rates(of_q), model=Attends(), opt_func=Adam), 1, .01)
        assert [h.lr for h in cb._held]==[of_q,1.,1.][:n]

def test_several_join_in_one_step():
    "Each has the denominator as Adam left it; what is not done in a step is not done twice in the next"
    both = partial(ElasticNet, .1, 3.),partial(GroupLasso, .1),partial(L1, .3, only='*.bias', label='biases')
    a,b = (state(fit(learner(*(o() for o in both), opt_func=opt), 2, .02)) for opt in (Adam, FusedAdam))
    torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-3)
    class See(Callback):
        order = 90
        def before_step(self): self.most = max(map(len, joined(self.learn.opt).values()))
    learn = fit(learner(L1(.1, only='*.bias'), See(), opt_func=Adam), 2, .01)
    assert learn.see.most==1

@pytest.mark.parametrize('opt', [SGD, momentum, partial(SGD, mom=.9, decouple_wd=False), Adam])
@pytest.mark.parametrize('cb', [partial(L1, .1), partial(ElasticNet, .1, 3.), partial(GroupLasso, .1)])
def test_inside_the_step_as_behind_it(opt, cb, monkeypatch):
    "With momentum and a rate that change from step to step, in parts"
    monkeypatch.setattr(steps, '_piece', 8)
    class See(Callback):
        order = 90
        def before_step(self): self.todo = len(joined(self.learn.opt))
    def _ended(n):
        set_seed(6)
        model = nn.Sequential(nn.Linear(4,6), nn.Tanh(), nn.Unflatten(1, (1,6)), nn.Conv1d(1, 3, 4), nn.Flatten(),
                              nn.Linear(9,1))
        learn = learner(cb(), See(), model=model, opt_func=opt)
        with learn.no_bar(): learn.fit_one_cycle(3, .05)
        assert learn.see.todo==n
        return state(learn)
    inside = _ended(3)
    monkeypatch.setattr(rows, '_tell', ())
    torch.testing.assert_close(inside, _ended(0), atol=1e-7, rtol=1e-6)

# 7: optimizers, their moving rates, and rates of each weight's own

def lasso(x, y, l1):
    from sklearn.linear_model import Lasso
    return Lasso(alpha=l1/2, fit_intercept=False, tol=1e-12).fit(x, y).coef_

@pytest.mark.parametrize('opt', [momentum, partial(Adam, wd=0., mom=.8, sqr_mom=.9, eps=1e-2),
                                 partial(OptimWrapper, opt=partial(torch.optim.Adam, betas=(.8,.9), eps=1e-2))])
def test_lasso_under_mup(opt, lr=.05, n=200):
    "MuP gives weights rates of their own inside the step; the proximal step is as long as that"
    x = np.random.default_rng(0).normal(size=(50,6))
    y = x @ [0,.5,-.6,0,.05,.9] + .3*np.random.default_rng(1).normal(size=50)
    data = torch.tensor(x).float(),torch.tensor(y).float()[:,None]
    model,base = nn.Linear(6, 1, bias=False),nn.Linear(3, 1, bias=False)
    nn.init.zeros_(model.weight)
    cbs = [L1(.2), MuP(base, start=False)]
    learn = Learner(DataLoaders([data]*n, [data]), model, MSELossFlat(), opt_func=opt, cbs=cbs)
    fit(learn, 1, lr)
    assert learn.mup.step_factors(weights(model)[0]) != (1.,1.)
    got,want = model.weight.detach().numpy()[0],lasso(x, y, .2)
    assert abs(got-want).max() < 1e-3 and ((got==0) == (want==0)).all() and 0 < (want==0).sum() < 6

# 16, 17: lr_find, export

@pytest.mark.parametrize('name', ['L1','GroupLasso','L2SP','Orthogonal','ActivationL1'])
def test_lr_find_leaves_it_as_it_was(name, tmp_path):
    "Nor does a pickle carry the weights"
    def _made():
        return {'L1': L1(SchedCos(0,.1)), 'GroupLasso': GroupLasso(.1), 'L2SP': L2SP(.1), 'Orthogonal': Orthogonal(.1),
                'ActivationL1': ActivationL1(.1)}[name]
    a,b = learner(_made(), path=tmp_path),learner(_made(), path=tmp_path)
    with a.no_bar(), a.no_logging(): a.lr_find(num_it=12, show_plot=False)
    assert a.metrics == b.metrics and (state(a) == state(b)).all()
    assert (state(fit(a, 2, .01)) == state(fit(b, 2, .01))).all()
    cb = next(cb for cb in a.cbs if type(cb).__name__ == name)
    a.remove_cb(cb)
    assert len(pickle.dumps(cb)) < 2000  # no weights, no hooks

# kill and resume

class Kill(Callback):
    def after_backward(self):
        if self.epoch == 2 and self.iter == 1: raise RuntimeError('killed')

schedule = SchedCos(0., .1)
resumable = {'L2SP': lambda: L2SP(schedule, .05), 'Orthogonal': lambda: Orthogonal(schedule, every=3),
             'L1': lambda: L1(schedule), 'ElasticNet': lambda: ElasticNet(schedule, SchedLin(.1, 0.)),
             'GroupLasso': lambda: GroupLasso(SchedLin(0.,.2))}

@pytest.mark.parametrize('opt', [momentum, Adam, torch_sgd, torch_adam])
@pytest.mark.parametrize('name', resumable)
def test_killed_and_resumed(name, opt, tmp_path):
    "From the file of the second epoch, bit-equal to a fit that nothing interrupted"
    make = partial(learner, opt_func=opt, splitter=two, path=tmp_path)
    whole = fit(make(resumable[name]()), 4, .02)
    with pytest.raises(RuntimeError, match='killed'):
        fit(make(resumable[name](), SaveModelCallback(every_epoch=True, with_opt=True), Kill()), 4, .02)
    resumed = make(resumable[name](), seed=0)
    resumed.load('model_1')
    fit(resumed, 4, .02, start_epoch=2)
    assert (state(whole) == state(resumed)).all()

# bad input, before the first step

class NeverSteps(Callback):
    def before_step(self): raise AssertionError('a step was made')

bad_fits = {
    'schedule': (lambda: [L1(SchedLin(0.,-1.))], {}, 'must stay >= 0'),
    'user schedule': (lambda: [L1(.1), ParamScheduler({'l1': SchedLin(0.,-1.)})], {}, 'must stay >= 0'),
    'too many': (lambda: [L2([.1,.1,.1])], {}, 'parameter groups'),
    'overlap': (lambda: [GroupLasso(groups=[[0,1],[1,2,3]], only='0')], {}, 'overlap'),
    'not covered': (lambda: [GroupLasso(groups=[[0,1]], only='0')], {}, 'left out'),
    'beyond': (lambda: [GroupLasso(groups=[[0,1],[2,3,4]], only='0')], {}, 'give numbers from 0 to 3'),
    'negative label': (lambda: [GroupLasso(groups=lambda w: torch.full(w.shape, -1), only='0')], {}, 'below 0'),
    'wrong shape': (lambda: [GroupLasso(groups=lambda w: torch.zeros(7,7), only='0')], {}, 'returns the shape'),
    'no heads': (lambda: [GroupLasso(groups='heads', only='0')], {}, 'how many heads'),
    'unknown optimizer': (lambda: [L1()], dict(opt_func=ranger), 'Known are fastai'),
    'unknown of torch': (lambda: [GroupLasso()], dict(opt_func=torch_nadam), "how='grad'"),
    'unknown to elastic net': (lambda: [ElasticNet()], dict(opt_func=ranger), 'is not known'),
    'nothing matched': (lambda: [L2(only='9.*')], {}, 'leave no weight'),
    'everything skipped': (lambda: [MaxNorm(skip='*')], {}, 'leave no weight'),
    'no kind': (lambda: [GroupLasso(groups='filters')], {}, 'leave no weight'),
    'no layer': (lambda: [ActivationL1(only='9')], {}, 'chooses no layer'),
    'two of a name': (lambda: [L1(), L1(only='0')], {}, 'another label'),
    'taken': (lambda: [L1(label='eps')], dict(opt_func=Adam), 'a hyper-parameter of the optimizer'),
}

@pytest.mark.filterwarnings('ignore:weights')
@pytest.mark.parametrize('name', bad_fits)
def test_bad_fits(name):
    cbs,kwargs,says = bad_fits[name]
    with pytest.raises(ValueError, match=says): fit(learner(NeverSteps(), *cbs(), **kwargs), 1)

@pytest.mark.parametrize('bad', [-1., float('nan'), float('inf'), '1', True, None, []])
@pytest.mark.parametrize('cls', [L1, L2, ElasticNet, GroupLasso, L2SP, Orthogonal, MaxNorm, ActivationL1, ActivationL2])
def test_bad_strengths(cls, bad):
    with pytest.raises(ValueError, match=cls.__name__): cls(bad)
    if cls in (ElasticNet, L2SP):
        with pytest.raises(ValueError, match=cls.__name__): cls(.1, bad)

def test_other_bad_arguments():
    for f,says in ((lambda: MaxNorm(0), '> 0'), (lambda: Orthogonal(every=0), '1 or more'),
                   (lambda: Orthogonal(every=True), '1 or more'), (lambda: GroupLasso(groups='row'), "'rows'"),
                   (lambda: L1(how='proximal'), "'prox' or 'grad'"), (lambda: L1(label='a b'), 'cannot name')):
        with pytest.raises(ValueError, match=says): f()
    with pytest.raises(RuntimeError, match='call `fit` first'): L1().value()
    with pytest.raises(RuntimeError, match='call `fit` first'): GroupLasso().zero_groups()
    with pytest.raises(RuntimeError, match='call `fit` first'): L2SP().value()
