"Dropout of every kind: found, set, scheduled, exchanged, and used to doubt predictions"

import math

import pytest, timm, torch, torchvision
from torch import nn
import fastai.callback.progress  # noqa: F401  gives a learner `no_bar`
from fastai.callback.core import Callback
from fastai.callback.preds import MCDropoutCallback
from fastai.callback.schedule import lr_find  # noqa: F401
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner, load_learner
from fastai.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat, MSELossFlat
from fastai.text.models.awdlstm import AWD_LSTM, WeightDropout
from fastai.torch_core import set_seed
from hypothesis import given, settings, strategies as st
from torchvision.ops import StochasticDepth

from fastai_ext.callbacks import dropout_learner
from fastai_ext.regularize.dropout import DropConnect, DropoutSchedule, dropouts, replace_dropout, set_dropout
from fastai_ext.regularize.montecarlo import mutual_information

class Net(nn.Module):
    "A body on (items, 6) whose output is summed to two classes"
    def __init__(self, body, ints=False): super().__init__(); self.body,self.ints = body,ints
    def forward(self, x):
        o = self.body(x.abs().mul(5).long().clamp(max=19) if self.ints else x)
        return o.flatten(1)[:,-2:] if o.shape[0]==len(x) else o.flatten()[:2*len(x)].view(-1,2)

class Seq(nn.Module):
    "A layer for sequences on (items, 6), as three steps of two numbers"
    def __init__(self, layer, attends=False): super().__init__(); self.layer,self.attends = layer,attends
    def forward(self, x):
        x = x.view(len(x), 3, 2)
        o = self.layer(x, x, x) if self.attends else self.layer(x)
        return o[0] if isinstance(o, tuple) else o

class Functional(nn.Module):
    def __init__(self): super().__init__(); self.lin = nn.Linear(6,2)
    def forward(self, x): return self.lin(nn.functional.dropout(x, .5, self.training))

def weight_dropout(): return WeightDropout(nn.LSTM(2, 4, batch_first=True), .5)

bodies = {
    'Dropout': lambda: nn.Sequential(nn.Dropout(.5), nn.Linear(6,2)),
    'AlphaDropout': lambda: nn.Sequential(nn.AlphaDropout(.5), nn.Linear(6,2)),
    'Dropout1d': lambda: nn.Sequential(nn.Unflatten(1, (3,2)), nn.Dropout1d(.5), nn.Flatten(), nn.Linear(6,2)),
    'DropPath': lambda: nn.Sequential(timm.layers.DropPath(.5), nn.Linear(6,2)),
    'StochasticDepth': lambda: nn.Sequential(StochasticDepth(.5, 'row'), nn.Linear(6,2)),
    'DropBlock2d': lambda: nn.Sequential(nn.Unflatten(1, (1,2,3)), nn.Upsample(scale_factor=4),
        torchvision.ops.DropBlock2d(.3, 3), nn.Flatten(), nn.Linear(96,2)),
    'MultiheadAttention': lambda: Seq(nn.MultiheadAttention(2, 1, dropout=.5, batch_first=True), attends=True),
    'LSTM': lambda: Seq(nn.LSTM(2, 4, num_layers=2, dropout=.5, batch_first=True)),
    'WeightDropout': lambda: Seq(weight_dropout()),
    'TransformerEncoderLayer': lambda: Seq(nn.TransformerEncoderLayer(2, 1, 8, dropout=.3, batch_first=True)),
    'DropConnect': lambda: (net := nn.Sequential(nn.Dropout(.5), nn.Linear(6,2)), replace_dropout(net, 'connect'))[0],
    'functional': Functional,
}
with_batchnorm = {**bodies, 'AWD_LSTM': lambda: AWD_LSTM(20, 4, 6, 2)}

def learner(body, ints=False, loss=None, n=12, classes=2):
    set_seed(0)
    x,y = torch.randn(n, 6),torch.arange(n)%classes
    dl = DataLoader(list(zip(x, y)), bs=5)
    net = nn.Sequential(nn.BatchNorm1d(6), Net(body, ints))
    return Learner(DataLoaders(dl, dl), net, loss or CrossEntropyLossFlat())

@pytest.mark.parametrize('name', with_batchnorm)
def test_mc_dropout_sees_every_kind(name):
    learn = learner(with_batchnorm[name](), ints=name=='AWD_LSTM')
    learn.model[0].running_mean.fill_(.3)
    learn.model.train()
    modes,rng = [m.training for m in learn.model.modules()],torch.get_rng_state()
    state = {k: v.clone() for k,v in learn.model.state_dict().items()}
    with learn.no_bar(): res = learn.mc_preds(8)
    assert (res.std > 0).any() and res.passes.shape==(8,12,2)
    assert [m.training for m in learn.model.modules()]==modes and torch.equal(torch.get_rng_state(), rng)
    for k,v in learn.model.state_dict().items(): assert torch.equal(v, state[k])  # BatchNorm stayed in evaluation mode
    torch.testing.assert_close(res.mean.sum(1), torch.ones(12))
    with learn.no_bar(): again = learn.mc_preds(8)
    assert torch.equal(again.passes, res.passes)

def test_fastais_is_deterministic_where_ours_is_not():
    "The reason for the method: the kinds that `MCDropoutCallback` passes over"
    blind = []
    for name in ('DropPath','StochasticDepth','MultiheadAttention','LSTM','functional'):
        learn = learner(bodies[name]())
        with learn.no_bar(): a,b = (learn.get_preds(cbs=MCDropoutCallback())[0] for _ in range(2))
        if torch.equal(a, b): blind.append(name)
    assert blind==['DropPath','StochasticDepth','MultiheadAttention','LSTM','functional']

def test_batchnorm_in_evaluation_mode_is_used():
    learn = learner(bodies['Dropout']())
    learn.model[0].running_mean.fill_(100.)
    learn.model[1].body[1].bias.data.zero_()
    with learn.no_bar(): preds = learn.mc_preds(2, act=lambda o: o).passes
    assert preds.abs().max() > 5  # the batch's own mean would have been taken away

@given(p=st.floats(.05, .8), seed=st.integers(0, 100))
@settings(max_examples=4, deadline=None)
def test_closed_form(p, seed):
    g = torch.Generator().manual_seed(seed)
    x,w = torch.randn(8, 6, generator=g),torch.randn(6, generator=g)
    model = nn.Sequential(nn.Dropout(p), nn.Linear(6, 1, bias=False))
    model[1].weight.data = w[None]
    dl = DataLoader(list(zip(x, torch.zeros(8,1))), bs=8)
    learn = Learner(DataLoaders(dl, dl), model, MSELossFlat())
    n = 4000
    with learn.no_bar(): res = learn.mc_preds(n, seed=seed)
    var = p/(1-p)*(x**2 @ w**2)
    assert ((res.mean[:,0]-x@w).abs() < 5*(var/n)**.5).all()
    assert ((res.std[:,0]**2/var - 1).abs() < .25).all() and abs((res.std[:,0]**2/var).mean()-1) < .08
    assert res.entropy is None and res.mutual_info is None

def test_information():
    certain,split = torch.tensor([[[1.,0.]]]*4),torch.tensor([[[1.,0.]]]*2 + [[[0.,1.]]]*2)
    even = torch.full((4,1,2), .5)
    for probs,total,shared in ((certain, 0., 0.), (split, 2., 2.), (even, 2., 0.)):
        t,s = mutual_information(probs)
        for got,want in ((t, total), (s, shared)): assert got.item()==pytest.approx(math.log(max(want, 1.)), abs=1e-6)
    other = mutual_information(torch.tensor([[[.5,.5]],[[1.,0.]]]))[1]  # passes that are not equally sure
    assert other.item()==pytest.approx(.5623-.3466, abs=1e-3)
    t,s = mutual_information(split[...,0], None)
    assert abs(t.item()-.6931) < 1e-3 and abs(s.item()-.6931) < 1e-3
    images = torch.rand(5,3,4,2,2).softmax(2)
    a,b = mutual_information(images, 1),mutual_information(images, -3)
    assert a[0].shape==(3,2,2) and torch.equal(a[1], b[1])

def test_every_pass_starts_from_the_same_hidden_state():
    began = []
    class Carries(nn.Module):
        def __init__(self): super().__init__(); self.lin,self.hidden = nn.Linear(6,2),0.
        def forward(self, x):
            if self.training: began.append(self.hidden)
            self.hidden = self.hidden + 1.
            return self.lin(nn.functional.dropout(x, .5, self.training)) + self.hidden
    learn = learner(Carries(), n=10)
    with learn.no_bar(): learn.mc_preds(4)
    last = began[-8:]  # four passes over each of two batches
    assert last==[last[0]]*4 + [last[4]]*4 and last[4] > last[0]

def test_mc_order_targets_and_other_losses():
    learn = learner(nn.Sequential(nn.Dropout(.2), nn.Linear(6,2)))
    train = learn.dls.train.new(shuffle=True)
    with learn.no_bar():
        a,b = learn.mc_preds(300, dl=train),learn.mc_preds(300)
    # in the order of the items, whatever the loader's
    assert torch.equal(a.targs, b.targs) and (a.mean-b.mean).abs().max() < .15
    learn.loss_func = BCEWithLogitsLossFlat()
    with learn.no_bar(): res = learn.mc_preds(4, dl=DataLoader([(o[0],) for o in learn.dls.valid_ds], bs=4))
    assert res.entropy.shape==(12,2) and (res.entropy <= .6932).all()

class Blind(nn.Module):
    "What it drops does not reach the outputs"
    def __init__(self): super().__init__(); self.drop,self.lin = nn.Dropout(.5),nn.Linear(6,2)
    def forward(self, x): return self.lin(x) + 0*self.drop(x).sum()

def spectral():
    return nn.Sequential(nn.Dropout(0.), nn.utils.parametrizations.spectral_norm(nn.Linear(6,2)))

@pytest.mark.parametrize('body,words', [(lambda: nn.Linear(6,2), 'it has no dropout'),
                                        (Blind, 'does not reach the outputs'), (spectral, 'have the rate 0'),
                                        (lambda: nn.Sequential(nn.Dropout(0.), nn.Linear(6,2)), 'have the rate 0')])
def test_nothing_random(body, words):
    learn = learner(body())
    with pytest.raises(ValueError, match=words), learn.no_bar(): learn.mc_preds(3)
    with pytest.raises(ValueError, match='2 or more'): learn.mc_preds(1)

def test_mc_of_a_model_with_more_outputs_in_training():
    "As those with auxiliary heads: only its dropout is in training mode"
    class Heads(nn.Module):
        def __init__(self): super().__init__(); self.drop,self.a,self.b = nn.Dropout(.5),nn.Linear(6,2),nn.Linear(6,2)
        def forward(self, x):
            x = self.drop(x)
            return (self.a(x),self.b(x)) if self.training else self.a(x)
    learn = learner(nn.Identity())
    learn.model = Heads()
    with learn.no_bar(): res = learn.mc_preds(4)
    assert res.passes.shape==(4,12,2) and (res.std > 0).any()

def test_mc_takes_every_item_and_one_batch_may_agree():
    "Also of a loader that drops the last; others see the first pass; the spread is that of torch"
    class First(nn.Module):
        def __init__(self): super().__init__(); self.drop,self.lin = nn.Dropout(.5),nn.Linear(6,2)
        def forward(self, x): return self.lin(self.drop(x) if len(x)==5 else x)
    class See(Callback):
        def before_fit(self): self.seen = []
        def after_batch(self): self.seen.append(self.pred)
    learn = learner(First())
    learn.add_cb(See())
    dl = DataLoader(list(learn.dls.train.dataset), bs=5, drop_last=True)
    with learn.no_bar(): res = learn.mc_preds(6, dl=dl, act=lambda o: o)
    assert res.passes.shape==(6,12,2) and (res.std[-2:]==0).all() and (res.std[:-2] > 0).any()
    assert torch.equal(res.std, res.passes.std(0)) and torch.equal(torch.cat(learn.see.seen), res.passes[0])

def test_mc_interrupted():
    class Stop(nn.Module):
        def forward(self, x):
            if self.training: raise KeyboardInterrupt
            return x
    learn = learner(nn.Sequential(nn.Dropout(.5), Stop(), nn.Linear(6,2)))
    learn.model.train()
    learn.model[1].body[1].eval()
    modes = [m.training for m in learn.model.modules()]
    with pytest.raises(KeyboardInterrupt), learn.no_bar(): learn.mc_preds(2)
    assert [m.training for m in learn.model.modules()]==modes

# setting and exchanging

def test_dropouts_of_known_models():
    awd = dropouts(AWD_LSTM(20, 4, 6, 2, hidden_p=.2, input_p=.6, embed_p=.1, weight_p=.5))
    assert {(s.kind, s.p) for s in awd}=={('embedding',.1), ('connect',.5), ('rnn',.6), ('rnn',.2)}
    vit = timm.create_model('vit_tiny_patch16_224', drop_path_rate=.2, drop_rate=.1)
    set_dropout(vit, .3, 'path')
    assert {m.drop_prob for m in vit.modules() if isinstance(m, timm.layers.DropPath)}=={.3}
    assert vit.head_drop.p==.1
    net = torchvision.models.efficientnet_b0(stochastic_depth_prob=.2)
    set_dropout(net, 0.)
    assert {m.p for m in net.modules() if isinstance(m, (nn.Dropout,StochasticDepth))}=={0.}
    enc = nn.TransformerEncoderLayer(8, 2, dropout=.1)
    set_dropout(enc, dict(attention=.4, dropout=.2))
    assert (enc.self_attn.dropout, enc.dropout1.p)==(.4,.2)
    assert not len(dropouts(nn.LSTM(2, 3, dropout=0.))) and len(dropouts(nn.LSTM(2, 3, num_layers=2)))

def test_kinds_of_torchs_layers_and_rates_that_are_not_set():
    kinds = {nn.Dropout: 'dropout', nn.AlphaDropout: 'dropout', nn.Dropout1d: 'spatial', nn.Dropout2d: 'spatial',
             nn.Dropout3d: 'spatial', nn.FeatureAlphaDropout: 'spatial'}
    for layer,kind in kinds.items(): assert dropouts(layer(.2))[0].kind==kind
    path = timm.layers.DropPath(None)
    assert dropouts(path).attrgot('p')==[0.]
    set_dropout(path, .2)
    assert path.drop_prob==.2

def test_dropout_of_somebody_else():
    class TokenDrop(nn.Module):
        def __init__(self): super().__init__(); self.rate = .3
    site, = dropouts(nn.Sequential(nn.Linear(1,1), TokenDrop()))
    assert (site.name, site.kind, site.p)==('1','dropout',.3)
    assert set_dropout(nn.Sequential(TokenDrop(), nn.Dropout(.1)), .2, 'dropout').attrgot('p')==[.2,.2]

@pytest.mark.parametrize('to,kind', [('spatial',nn.Dropout2d), ('block',torchvision.ops.DropBlock2d),
                                     ('path',StochasticDepth)])
def test_replace(to, kind):
    net = nn.Sequential(nn.Conv2d(1,4,3), nn.Dropout(.3), nn.Conv2d(4,4,3)).eval()
    x = torch.randn(2,1,12,12)
    want = net(x)
    sites = replace_dropout(net, to)
    assert type(net[1]) is kind and len(sites)==1 and sites[0].p==.3 and not net[1].training
    assert torch.equal(net(x), want)
    net.train()
    dropped = net[1](torch.ones(64,4,10,10))
    if to=='spatial': assert {len(c.unique()) for o in dropped for c in o}=={1}
    if to=='path': assert {len(o.unique()) for o in dropped}=={1}
    assert (dropped==0).any() and (dropped!=0).any()

def test_replace_some_and_as_asked():
    net = nn.Sequential(nn.Conv2d(1,4,3), nn.Dropout(.3), nn.Conv2d(4,4,3), nn.Dropout(.4), nn.Dropout2d(.1))
    old = net[1],net[4]
    sites = replace_dropout(net, 'block', only=lambda s: s.p==.4, block_size=5)
    assert sites.attrgot('name')==['3'] and net[3].block_size==5 and (net[1],net[4])==old
    spatial = net[4]
    assert replace_dropout(net, 'spatial', .2).attrgot('name')==['1','3'] and net[4] is spatial and spatial.p==.1
    replace_dropout(net, 'path', only=lambda s: s.name=='1')
    assert net[1].mode=='row' and net[1].p==.2

def test_drop_connect_drops_weights():
    net = nn.Sequential(nn.Dropout(.5), nn.Linear(100, 100))
    w = net[1].weight.detach().clone()
    replace_dropout(net, 'connect', .25)
    seen = net[1].weight
    assert abs((seen==0).float().mean()-.25) < .03
    torch.testing.assert_close(seen[seen!=0], (w/.75)[seen!=0])
    assert torch.equal(net.eval()[1].weight, w) and isinstance(net[0], nn.Identity)
    set_dropout(net, .5, 'connect')
    assert abs((net.train()[1].weight==0).float().mean()-.5) < .03

bad = {
    'rate': (lambda: set_dropout(nn.Dropout(.1), 1.), 'p=1.0'),
    'nan': (lambda: set_dropout(nn.Dropout(.1), float('nan')), 'p=nan'),
    'kind': (lambda: set_dropout(nn.Dropout(.1), .1, 'drop'), "kind 'drop' is unknown"),
    'none of it': (lambda: set_dropout(nn.Dropout(.1), .1, 'path'), 'only dropout'),
    'none': (lambda: set_dropout(nn.Linear(1,1), .1), 'the model has no dropout'),
    'to': (lambda: replace_dropout(nn.Dropout(.1), 'x'), "to='x'"),
    'how': (lambda: DropoutSchedule('sometimes'), "how='sometimes'"), 'p': (lambda: DropoutSchedule(p=-.1), 'p=-0.1'),
    'part': (lambda: DropoutSchedule(part=0), 'part=0'),
    'connect p': (lambda: DropConnect(2), 'p=2'),
    'end': (lambda: replace_dropout(nn.Sequential(nn.Linear(1,1), nn.Dropout(.1)), 'connect'), "behind '1'"),
}
@pytest.mark.parametrize('name', bad)
def test_bad_input(name):
    with pytest.raises(ValueError, match=bad[name][1]): bad[name][0]()

# schedules

class See(Callback):
    order = 50
    def before_fit(self): self.seen = []
    def before_batch(self):
        if self.training: self.seen.append(self.learn.model[1][1].p)

def fit(learn, *args, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit(*args, **kwargs)
    return learn

def test_schedules(tmp_path):
    factors = {'early': lambda t: max(0, 1-t/.5), 'late': lambda t: float(t >= .5),
               'curriculum': lambda t: 1-math.exp(-10*t)}
    for how,f in (*factors.items(), (lambda t: t**2, lambda t: t**2)):
        learn = fit(dropout_learner(cbs=[DropoutSchedule(how, .4, part=.5), See()]), 4)
        n = len(learn.see.seen)
        assert learn.see.seen==pytest.approx([.4*f(i/n) for i in range(n)], abs=1e-6) and learn.model[1][1].p==.2
    resumed = fit(dropout_learner(cbs=[DropoutSchedule('early', .4, part=.5), See()]), 4, start_epoch=2)
    assert resumed.see.seen==[0.]*len(resumed.see.seen)

def test_a_schedule_of_some_kinds_over_a_whole_fit():
    learn = dropout_learner(cbs=[DropoutSchedule('early', .4, part=1., kinds='dropout'), See()])
    learn.model[1].append(nn.Dropout1d(.1))
    class Spatial(Callback):
        def after_batch(self): assert self.learn.model[1][-1].p==.1
    fit(learn, 1, cbs=Spatial())
    n = len(learn.see.seen)
    assert learn.see.seen==pytest.approx([.4*(1-i/n) for i in range(n)])

def test_who_validates_between_epochs_ends_no_schedule():
    rates = []
    class Looks(Callback):
        def after_epoch(self):
            if not self.learn.lock.locked(): self.learn.validate()
        def after_pred(self):
            if self.training: rates.append(self.learn.model[1][1].p)
    learn = fit(dropout_learner(cbs=[DropoutSchedule('late', .4, part=.5), Looks()]), 4)
    n = len(rates)
    assert rates==[0.]*(n//2) + [.4]*(n//2) and learn.model[1][1].p==.2

def test_a_schedule_of_rate_0():
    learn = fit(dropout_learner(cbs=[DropoutSchedule('late', 0.), See()]), 1)
    assert set(learn.see.seen)=={0.} and learn.model[1][1].p==.2

class Exports(Callback):
    def after_epoch(self): self.learn.export('now.pkl')

def test_a_schedule_exported_in_the_middle_of_a_fit_holds_no_layer(tmp_path):
    fit(dropout_learner(cbs=[DropoutSchedule('early', .4), Exports()], path=tmp_path), 1)
    loaded = load_learner(tmp_path/'now.pkl')
    assert loaded.dropout_schedule._before is None and loaded.dropout_schedule.p==.4

class Never(Callback):
    def before_batch(self): raise AssertionError('a batch was taken')

def test_schedule_that_leaves_the_range():
    for how in (lambda t: 2*t, lambda t: -float(t >= .4), lambda t: 1.+float(t==1)):
        with pytest.raises(ValueError, match='from 0 to 1'):
            fit(dropout_learner(cbs=[DropoutSchedule(how), Never()]), 1)
    learn = dropout_learner(cbs=DropoutSchedule())
    set_dropout(learn, 0.)
    with pytest.raises(ValueError, match='has the rate 0'): fit(learn, 1)

@pytest.mark.parametrize('inside', [True, False])
def test_rate_after_ctrl_c(inside, tmp_path):
    class CtrlC(Callback):
        def after_pred(self):
            if self.training and self.train_iter==2: raise KeyboardInterrupt
    cb = DropoutSchedule('late', .5)
    learn = dropout_learner(cbs=cb if inside else None, path=tmp_path)
    with pytest.raises(KeyboardInterrupt): fit(learn, 1, cbs=[CtrlC()] + ([] if inside else [cb]))
    if inside:
        with learn.no_bar(): learn.validate()
    assert learn.model[1][1].p==.2

def test_lr_find_leaves_rates(tmp_path):
    learn = dropout_learner(cbs=[DropoutSchedule('late', .5), See()], path=tmp_path)
    with learn.no_bar(): learn.lr_find(num_it=6, show_plot=False, suggest_funcs=None)
    assert set(learn.see.seen)=={.2} and learn.model[1][1].p==.2

@pytest.mark.parametrize('how', ['early', 'late'])
def test_a_fit_after_one_that_was_interrupted(how, tmp_path):
    "It begins with the rates that the layers have, not with those of the moment"
    class CtrlC(Callback):
        def after_pred(self):
            if self.training and self.train_iter==2: raise KeyboardInterrupt
    learn = dropout_learner(cbs=DropoutSchedule(how, .5), path=tmp_path)
    with pytest.raises(KeyboardInterrupt): fit(learn, 1, cbs=CtrlC())
    fit(learn, 1)
    assert learn.model[1][1].p==.2
