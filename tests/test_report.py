"`learn.init_report`: numbers against hooks and autograd of our own, flags against networks broken on purpose"
import matplotlib.pyplot as plt
import pytest
import torch
from fastai.basics import (Callback, CrossEntropyLossFlat, DataBlock, DataLoader, DataLoaders, Learner, MSELossFlat,
                           load_learner, set_seed)
from fastai.callback.fp16 import MixedPrecision
from torch import nn
from torch.nn import init

import fastai_ext.init.report  # noqa: F401  patches Learner
from fastai_ext.keep.batch import train_batch
from fastai_ext.init.auto import init_plan
from fastai_ext.init.report import symmetric_share

def learner(m, n_in=6, n_out=3, n=64, loss=None, cbs=None, bs=32):
    set_seed(0)
    y = (lambda: torch.randint(n_out, ())) if loss is None else (lambda: torch.randn(n_out))
    xs = [(torch.randn(n_in) if isinstance(n_in, int) else torch.randn(n_in), y()) for _ in range(n)]
    return Learner(DataLoaders(DataLoader(xs, bs=bs, shuffle=True), DataLoader(xs, bs=bs)), m,
                   loss or CrossEntropyLossFlat(), cbs=cbs)

def test_numbers_are_those_of_hooks_and_autograd():
    set_seed(1)
    m = nn.Sequential(nn.Conv2d(3,4,3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(.5), nn.Flatten(),
                      nn.Linear(64,5), nn.Tanh(), nn.Linear(5,3))
    learn = learner(m, (3,6,6))
    rep = learn.init_report()
    (x,),(y,) = train_batch(learn)
    outs = {}
    h = x
    for n,o in m.named_children():
        o.train(not isinstance(o, nn.Dropout))
        h = nn.functional.relu(h) if isinstance(o, nn.ReLU) else o(h)
        h.retain_grad()
        outs[n] = h
    loss = nn.functional.cross_entropy(h, y)
    loss.backward()
    assert [r.name for r in rep.layers]==['0','5','7'] and rep.loss==pytest.approx(loss.item(), rel=1e-6) and rep.n==32
    for r in rep.layers:
        o = outs[r.name]
        assert (r.std==pytest.approx(o.std().item(), rel=1e-5)
                and r.mean==pytest.approx(o.mean().item(), rel=1e-4, abs=1e-7))
        assert r.grad==pytest.approx(o.grad.square().mean().sqrt().item(), rel=1e-4)
        assert r.reach==pytest.approx((o.grad.norm()/outs['7'].grad.norm()).item(), rel=1e-4)
    assert rep['5'].saturated==pytest.approx(((1-outs['6']**2) < .05).float().mean().item())

class Functional(nn.Module):
    def __init__(self): super().__init__(); self.a,self.b = nn.Linear(6,10),nn.Linear(10,3)
    def forward(self, x): return self.b(torch.relu(self.a(x)))

@pytest.mark.parametrize('m', [lambda: nn.Sequential(nn.Linear(6,10), nn.ReLU(), nn.Linear(10,3)),
                               lambda: nn.Sequential(nn.Linear(6,10), nn.ReLU(inplace=True), nn.Linear(10,3)),
                               Functional])
def test_dead_units_however_the_relu_is_written(m):
    m = m()
    a = m.a if isinstance(m, Functional) else m[0]
    with torch.no_grad(): a.bias[:6],a.bias[6:] = -1e3,5.
    rep = learner(m).init_report()
    assert rep.layers[0].dead==pytest.approx(.6) and f'layer {rep.layers[0].name}: 60 % dead units' in rep.flags

def test_flags():
    set_seed(0)
    def flags(f, depth=12, act=nn.Tanh):
        m = nn.Sequential(nn.Linear(6,16), act(), *[o for _ in range(depth-2) for o in (nn.Linear(16,16), act())],
                          nn.Linear(16,3))
        with torch.no_grad(): f(m)
        return ' '.join(learner(m).init_report().flags)
    def scale(s):
        def f(m):
            for o in m[::2]: init.xavier_normal_(o.weight, s); init.zeros_(o.bias)
        return f
    assert flags(scale(1.))==''
    assert 'layer 22: vanishing' in flags(scale(.3)) and 'gradient vanishing' in flags(scale(.3))
    assert ('exploding: its output' in flags(scale(9.), act=nn.ReLU)
            and 'gradient exploding' in flags(scale(9.), act=nn.ReLU))
    assert 'saturated' in flags(scale(30.))
    assert 'layer 2: 100 % symmetric units' in flags(lambda m: [init.constant_(o.weight, .1) for o in m[::2]]
        and [init.zeros_(o.bias) for o in m[::2]])
    assert 'no gradient reaches it' in flags(lambda m: init.zeros_(m[-1].weight))
    assert 'NaN' in flags(lambda m: init.constant_(m[4].weight, float('nan')))
    assert 'same output for every example' in flags(lambda m: init.zeros_(m[4].weight))

def test_symmetric_share():
    w = torch.randn(8,5)
    assert symmetric_share(w)==0
    w[3] = w[6]
    assert symmetric_share(w)==.25
    g = torch.randn(8,5)
    assert symmetric_share(w, g)==0   # their gradients part them
    g[3] = g[6]
    assert symmetric_share(w, g)==.25
    depthwise = torch.ones(4,9)
    assert symmetric_share(depthwise, groups=4)==0 and symmetric_share(depthwise)==1

@pytest.mark.parametrize('cbs', [[],[MixedPrecision()]])
def test_nothing_changes(cbs):
    def trained(report):
        set_seed(2)
        learn = learner(nn.Sequential(nn.Linear(6,8), nn.BatchNorm1d(8), nn.Dropout(.2), nn.Linear(8,3)), cbs=list(cbs))
        learn.recorder.add_time = False
        with learn.no_bar(), learn.no_logging():
            learn.fit(1)
            if report: learn.init_report(); learn.init_report(seed=3)
            learn.fit(1)
        now = [p.tolist() for p in learn.model.state_dict().values()]
        return now,learn.recorder.values,learn.recorder.losses,torch.get_rng_state().tolist()
    a,b = trained(True),trained(False)
    assert a[0]==b[0] and list(map(list, a[1]))==list(map(list, b[1])) and a[2]==b[2] and a[3]==b[3]

class TakesFirst(Callback):
    "As fastai's RNN callback: the prediction is a part of the output"
    def after_pred(self): self.learn.pred = self.pred[0]

class Pair(nn.Module):
    def __init__(self): super().__init__(); self.l = nn.Linear(6,3)
    def forward(self, x): return self.l(x),x

def test_callbacks_that_shape_the_loss_take_part():
    assert learner(Pair(), cbs=TakesFirst()).init_report()['l'].grad > 0

def test_frozen_layers_attention_and_recurrent():
    m = nn.Sequential(nn.Linear(6,8), nn.Linear(8,3))
    m[0].requires_grad_(False)
    r = learner(m).init_report()
    assert r['0'].grad != r['0'].grad and r['1'].grad > 0
    class Seq(nn.Module):
        def __init__(self):
            super().__init__()
            self.g,self.t,self.o = nn.GRU(4,8,batch_first=True),nn.TransformerEncoderLayer(8,2,16,
                batch_first=True),nn.Linear(8,3)
        def forward(self, x): return self.o(self.t(self.g(x)[0]).mean(1))
    assert {o.name for o in learner(Seq(), (5,4)).init_report().layers}=={'g','t.self_attn','t.linear1','t.linear2','o'}

def get_x(i): return torch.linspace(-1, 1, 4)*i
def get_y(i): return torch.tensor([float(i)])

def test_the_report_goes_with_the_export(tmp_path):
    dls = DataBlock(get_x=get_x, get_y=get_y).dataloaders(list(range(40)), bs=8, num_workers=0)
    learn = Learner(dls, nn.Sequential(nn.Linear(4,8), nn.ReLU(), nn.Linear(8,1)), MSELossFlat(), path=tmp_path)
    rep = learn.init_report()
    learn.fit(1); learn.export()
    assert repr(load_learner(tmp_path/'export.pkl').last_init_report)==repr(rep)

def test_it_shows_itself():
    rep = learner(nn.Sequential(nn.Linear(6,8), nn.ReLU(), nn.Linear(8,3))).init_report()
    rep.plot()
    assert len(plt.gcf().axes)==3 and plt.gcf().axes[0].get_yscale()=='log'
    plt.close('all')
    assert '2 layers, loss' in repr(rep) and '<table>' in rep._repr_html_() and list(rep.layers.df().name)==['0','2']

def test_bad_input():
    with pytest.raises(ValueError, match='is empty'): learner(nn.Linear(6,3), n=0).init_report()
    with pytest.raises(ValueError, match='has no weights'): learner(nn.ReLU()).init_report()
    learn = learner(nn.Linear(6,3))
    learn.dls.train.dataset[:] = [(torch.full((6,), float('nan')), torch.tensor(0))]*64
    with pytest.raises(ValueError, match='init_report: 192 of the 192'): learn.init_report()

def test_a_signal_that_all_examples_share_is_dead():
    "Thirty ReLU layers in torch's start: the biases keep the std up, but nothing tells one example from another"
    torch.manual_seed(0)
    net = nn.Sequential(*[l for _ in range(16) for l in (nn.Linear(64,64), nn.ReLU())], nn.Linear(64,2))
    xs = list(zip(torch.randn(32,64), torch.randint(2, (32,)), strict=True))
    learn = Learner(DataLoaders(DataLoader(xs, bs=32), DataLoader(xs, bs=32)), net, CrossEntropyLossFlat())
    last = learn.init_report()['32']
    x = torch.stack([x for x,_ in xs])
    assert last.between == pytest.approx(net(x).std(0).square().mean().sqrt().item(), rel=.01)
    assert last.std > .01 and last.between < 1e-3*last.std and any('examples look alike' in f for f in last.flags)
    init_plan(net).apply()
    assert not any('look alike' in f for f in learn.init_report().flags)
