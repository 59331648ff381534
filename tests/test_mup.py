"MuP against Microsoft's mup, and through what a fastai user does: schedules, groups, checkpoints, interruptions"
import copy, pickle, warnings
from functools import partial

import mup, pytest, torch
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import SGD, Adam, Lamb, OptimWrapper, ranger
from torch import nn

from fastai_ext.init.callback import Init
from fastai_ext.init.mup import MuP, mup_base, mup_plan
from fastai_ext.init.mup_check import mup_check

def net(w, out=nn.Linear): return nn.Sequential(nn.Linear(20,w), nn.ReLU(), nn.Linear(w,w), nn.ReLU(), out(w,5))

def data(n=64, bs=16):
    g = torch.Generator().manual_seed(0)
    items = [(torch.randn(20, generator=g), torch.randint(5, (), generator=g)) for _ in range(n)]
    return DataLoaders(DataLoader(items, bs=bs), DataLoader(items, bs=bs))

def learner(m, *cbs, **kw):
    return Learner(data(), m, CrossEntropyLossFlat(), cbs=cbs, **{**dict(lr=.05), **kw}).remove_cb(ProgressCallback)
def made(w, seed=0): torch.manual_seed(seed); return net(w)
def quiet_fit(learn, n=1, *args, **kw):
    with learn.no_logging(), learn.no_bar(): learn.fit(n, *args, **kw)
    return learn

# beside Microsoft's package

@pytest.mark.parametrize('rule', ['sgd','adam'])
def test_the_same_as_microsofts(rule):
    """The same weights after training, to rounding: their readout divides its input by the width, ours has the
    smaller weights"""
    ours,theirs = made(128),net(128, mup.MuReadout)
    theirs.load_state_dict(ours.state_dict())
    mup.set_base_shapes(theirs, net(32, mup.MuReadout), delta=net(64, mup.MuReadout))
    eps = 1e-30  # theirs does not scale it
    opts = dict(sgd=(partial(SGD, mom=.9, wd=0.), partial(mup.MuSGD, lr=.05, momentum=.9)),
                adam=(partial(OptimWrapper, opt=partial(torch.optim.Adam, eps=eps)),
                      partial(mup.MuAdam, lr=.05, eps=eps)))[rule]
    learn = quiet_fit(learner(ours, MuP(net(32)), opt_func=opts[0], wd=0.), 2)
    opt = opts[1](theirs.parameters())
    for _ in range(2):
        for x,y in learn.dls.train:
            nn.functional.cross_entropy(theirs(x), y).backward()
            opt.step()
            opt.zero_grad()
    x = torch.randn(8, 20)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-3, atol=1e-4)
    for i in (0,2): torch.testing.assert_close(ours[i].weight, theirs[i].weight, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ours[4].weight*4, theirs[4].weight, rtol=1e-3, atol=1e-4)

def test_it_matters():
    assert not torch.allclose(quiet_fit(learner(made(128), MuP(net(32)))).model[2].weight,
                              quiet_fit(learner(made(128))).model[2].weight, atol=1e-4)

# the rules

def factors(plan): return {r.weight.name: (r.start, r.lr) for r in plan}

def test_rules_of_table_3():
    f = factors(mup_plan(net(128), net(32), 'adam'))
    assert f['0.weight']==(1,1) and f['2.weight']==(1,.25) and f['4.weight']==(.5,.25) and f['4.bias']==(2,1)
    f = factors(mup_plan(net(128), net(32), 'sgd'))
    assert (f['0.weight']==(1,4) and f['2.weight']==(1,1) and f['4.weight']==(.5,.25) and f['2.bias']==(2,4)
            and f['4.bias']==(2,1))

def test_a_fixed_start_is_seen():
    "A start of std .02 at every width, as Hugging Face's, must shrink where torch's does so by itself"
    def fixed(w):
        m = net(w)
        for p in m.parameters():
            if p.ndim > 1: nn.init.normal_(p, std=.02)
        return m
    f = factors(mup_plan(fixed(128), fixed(32)))
    assert f['0.weight'][0]==1 and f['2.weight'][0]==.5 and f['4.weight'][0]==.25

@pytest.mark.parametrize('make',
                         [lambda w: nn.LSTM(10, w), lambda w: nn.TransformerEncoderLayer(w, 4, 4*w),
                          lambda w: nn.Embedding(9, w),
                                  lambda w: nn.Sequential(nn.Conv2d(3,w,3), nn.BatchNorm2d(w),
                                                          nn.Conv2d(w,w,3,groups=w), nn.ConvTranspose2d(w,1,2))])
def test_at_the_base_width_nothing_changes(make):
    for rule in ('adam','sgd'): assert all(r.start==r.lr==r.eps==r.part==1 for r in mup_plan(make(32), make(32), rule))

def test_at_the_base_width_it_trains_as_without_it_to_the_bit():
    a,b = quiet_fit(learner(made(32))),quiet_fit(learner(made(32), MuP(net(32))))
    assert all(torch.equal(p, q) for p,q in zip(a.model.parameters(), b.model.parameters()))

def test_growing_heads_scale_the_query_alone():
    make = lambda w: nn.MultiheadAttention(w, 4)
    rows = {r.weight.name: r for r in mup_plan(make(128), make(32))}
    assert rows['in_proj_weight[q]'].part==.5 and rows['in_proj_weight[k]'].part==rows['in_proj_weight[v]'].part==1
    assert rows['in_proj_weight[q]'].start == pytest.approx(.5*rows['in_proj_weight[k]'].start)
    fixed = lambda w: nn.MultiheadAttention(w, w//8)
    assert all(r.part==1 for r in mup_plan(fixed(128), fixed(32)))

# what a user does

def test_schedules_and_groups_see_the_optimizers_own_rates():
    split = lambda m: [list(m[:2].parameters()), list(m[2:].parameters())]
    learn = learner(made(128), MuP(net(32)), splitter=split, opt_func=SGD, wd=0.)
    seen = []
    class See(Callback):
        order = 100
        def before_step(self): seen.append([h['lr'] for h in self.opt.hypers])
        def after_step(self): seen.append([h['lr'] for h in self.opt.hypers])
    with learn.no_logging(), learn.no_bar(): learn.fit_one_cycle(1, slice(.01,.1), cbs=See())
    assert all(len(o)==2 and o[1]==pytest.approx(10*o[0]) for o in seen) and len(learn.opt.param_lists)==2
    learn.freeze()
    frozen = learn.model[0].weight.detach().clone()
    quiet_fit(learn)
    assert torch.equal(frozen, learn.model[0].weight)
    learn.unfreeze()
    with learn.no_logging(), learn.no_bar(): learn.lr_find(num_it=8, show_plot=False, suggest_funcs=None)
    assert len(learn.opt.hypers)==2 and 'step' not in vars(learn.opt)

def test_resume_from_a_checkpoint(tmp_path):
    """Saved, loaded into a new Learner and trained on is the same as trained on, and the trained start is not scaled
    again"""
    a = quiet_fit(learner(made(128), MuP(net(32)), path=tmp_path))
    a.save('half')
    b = learner(made(128, 1), MuP(net(32)), path=tmp_path)
    b.create_opt()
    b.load('half')
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        quiet_fit(b)
    assert any('left alone' in str(w.message) for w in told)
    quiet_fit(a)
    for p,q in zip(a.model.parameters(), b.model.parameters()): torch.testing.assert_close(p, q)

def test_interrupted_and_taken_away():
    class Stop(Callback):
        order = 100
        def before_step(self): raise KeyboardInterrupt
    learn = learner(made(128), MuP(net(32)), opt_func=SGD)
    with pytest.raises(KeyboardInterrupt): quiet_fit(learn, cbs=Stop())
    learn.opt.zero_grad()
    learn.remove_cb(MuP)
    start = copy.deepcopy(learn.model)
    quiet_fit(learn)
    plain = quiet_fit(learner(start, opt_func=SGD))
    for p,q in zip(learn.model.parameters(), plain.model.parameters()): torch.testing.assert_close(p, q)

@pytest.mark.parametrize('opt', [partial(SGD, mom=.9), Adam, ranger, partial(OptimWrapper, opt=torch.optim.AdamW)],
                         ids=['SGD','Adam','ranger','AdamW'])
def test_optimizers(opt):
    learn = quiet_fit(learner(made(128), MuP(net(32)), opt_func=opt, lr=.01), 2)
    assert all(torch.isfinite(p).all() for p in learn.model.parameters()) and len(learn.opt.param_lists)==1

def test_after_init():
    "The start that `Init` gives follows the inputs, whatever the base started from"
    learn = learner(made(128), Init('kaiming_normal'), MuP(net(32)))
    quiet_fit(learn, 0)
    assert learn.model[4].weight.std().item() == pytest.approx((2/128)**.5/2, rel=.1)
    assert learn.model[2].weight.std().item() == pytest.approx((2/128)**.5, rel=.05)

def test_what_cannot_be_raises():
    with pytest.raises(TypeError, match='is no network'): MuP(64)
    with pytest.raises(ValueError, match='rule'): MuP(net(32), rule='lion')
    with pytest.raises(ValueError, match='is not in both'): mup_plan(net(64), nn.Linear(2,3))
    with pytest.raises(ValueError, match='neither proportional'):
        quiet_fit(learner(made(64), MuP(net(32)), opt_func=Lamb))

def test_the_base_may_be_a_function_and_is_kept_as_numbers():
    state = torch.get_rng_state()
    cb = MuP(partial(net, 32))
    assert torch.equal(state, torch.get_rng_state()) and len(pickle.dumps(cb)) < 5000
    with torch.device('meta'): base = net(32)
    assert factors(mup_plan(net(128), mup_base(base)))['2.weight'] == (1,.25)

def test_coordinates_are_flat():
    at = lambda cbs: lambda w: learner(net(w), *cbs(), opt_func=Adam, lr=1e-3)
    assert mup_check(at(lambda: []), (32,128,512), 3).steepest > .5
    assert abs(mup_check(at(lambda: [MuP(net(32))]), (32,128,512), 3).steepest) < .2
