"LSUV: one pass, unit variance, against the lsuv package, and acceptance 22 to 30"
import copy, os, subprocess, sys, textwrap, warnings

import pytest
import torch
from fastai.basics import DataLoader, DataLoaders, Learner, MSELossFlat, load_learner, set_seed
from fastai.data.block import DataBlock
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.schedule import lr_find  # noqa: F401  patches Learner
from hypothesis import given, settings, strategies as st
from lsuv import lsuv_with_singlebatch
from torch import nn
from torch.nn.utils import parametrizations

from fastai_ext.init.callback import Init
from fastai_ext.init.lsuv import LSUV, lsuv, unit_scale
from fastai_ext.init.schemes import orthonormal
from fastai_ext.keep.batch import forward


def stds(m, x, train=None):
    "Standard deviation of each layer's output at its first call, by execution order, measured with plain hooks"
    res = {}
    names = {o: n for n,o in m.named_modules()}
    def f(o, a, k, out):
        if o not in res: res[o] = float((out[0] if isinstance(out, tuple) else out).float().std())
    layers = [o for o in m.modules()
              if isinstance(o, (nn.Linear, nn.modules.conv._ConvNd, nn.Bilinear, nn.MultiheadAttention))]
    forward(m, x, {o: f for o in layers}, train=train)
    return {names[o]: s for o,s in res.items()}

def weights_of(m): return [p.detach().clone() for p in m.parameters()]
def same(a, b): return all(map(torch.equal, a, b))

def quiet(f, *args, **kw):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return f(*args, **kw)

def biased(m):
    "Biases that matter"
    for p in m.parameters():
        if p.dim()==1: nn.init.normal_(p, std=.3)
    return m

def convnet(act=nn.ReLU, inplace=False):
    a = (lambda: act(inplace=True)) if inplace else act
    return nn.Sequential(nn.Conv2d(3,8,3,padding=1), a(), nn.Conv2d(8,12,3,stride=2,groups=4), a(),
                         nn.ConvTranspose2d(12,6,4,stride=2), a(),
                         nn.Conv2d(6,6,3,groups=6), nn.BatchNorm2d(6), a(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
                         nn.Linear(24,10), a(), nn.Linear(10,5))

images = lambda n=16: torch.randn(n,3,12,12)

# The promise

@pytest.mark.parametrize('train', [None,True,False])
@pytest.mark.parametrize('bias', [False,True])
@pytest.mark.parametrize('act', [nn.ReLU,nn.SiLU,nn.Tanh])
def test_every_layer_has_unit_variance_after_one_pass(act, bias, train):
    set_seed(0)
    m,x = convnet(act),images()
    if bias: biased(m)
    r = lsuv(m, x, train=train, force=True)  # such biases look trained
    assert len(r)==6 and all(abs(s-1) < 1e-3 for s in stds(m, x, train).values())
    assert [o.weight for o in r]==[n+'.weight' for n in stds(m, x, train)]

@pytest.mark.parametrize('std', [.5,2.])
def test_another_target(std):
    set_seed(0)
    m,x = biased(convnet()),images()
    lsuv(m, x, std=std, force=True)
    assert all(abs(s/std-1) < 1e-3 for s in stds(m, x).values())

def test_deep_and_badly_started():
    set_seed(0)
    m,x = nn.Sequential(*[o for _ in range(100) for o in (nn.Linear(50,50), nn.ReLU())]),torch.randn(64,50)
    for o in m[::2]: nn.init.normal_(o.weight, std=1e-3); nn.init.zeros_(o.bias)
    lsuv(m, x)
    assert all(abs(s-1) < 1e-3 for s in stds(m, x).values())

@settings(max_examples=60, deadline=None)
@given(st.integers(2,6), st.integers(1,5), st.floats(.01,100), st.floats(0,.9), st.integers(0,1000))
def test_unit_scale_solves_the_equation(units, n, size, bias, seed):
    g = torch.Generator().manual_seed(seed)
    u,b = torch.randn(40*n, units, generator=g, dtype=torch.float64)*size + 1,torch.randn(units, generator=g,
        dtype=torch.float64)
    b = bias*b/max(1e-9, float(b.expand_as(u).std()))
    s = unit_scale(u, b)
    assert s > 0 and abs(float((s*u+b).std())-1) < 1e-6

def test_unit_scale_without_a_solution():
    assert not unit_scale(torch.zeros(9)) > 0 and not unit_scale(torch.full((9,), float('nan'))) > 0
    assert not unit_scale(torch.randn(8,2), torch.tensor([-5.,5.])) > 0

# The peer

def peer_nets():
    set_seed(1)
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(432,30), nn.Tanh(), nn.Linear(30,20), nn.SiLU(), nn.Linear(20,5))
    return {'convnet': (convnet(), 16), 'mlp': (mlp, 64), 'silu': (convnet(nn.SiLU), 32)}

@pytest.mark.parametrize('which', peer_nets())
def test_equal_to_the_lsuv_package_with_zero_biases(which):
    "In float64, so that its repeated corrections are not counted as ours; in float32 to one unit in the last place"
    m,n = peer_nets()[which]
    for o in m.modules():
        if getattr(o, 'bias', None) is not None: nn.init.zeros_(o.bias)
    for dtype,tol in ((torch.float64,3e-8), (torch.float32,2.4e-7)):
        m,x = copy.deepcopy(m).to(dtype),images(n).to(dtype)
        theirs = copy.deepcopy(m)
        lsuv_with_singlebatch(theirs, x, std_tol=1e-5, do_orthonorm=False, verbose=False)
        lsuv(m, x, train=False, force=True)
        for a,b in zip(m.parameters(), theirs.parameters(), strict=True): assert float((a-b).detach().abs().max()) < tol

def test_one_forward_pass():
    m,calls = convnet(),[]
    m.register_forward_hook(lambda *a: calls.append(1))
    lsuv(m, images())
    assert len(calls)==1

# Layers of every kind

class Attends(nn.Module):
    def __init__(self, **kw):
        super().__init__()
        self.a,self.b = nn.Linear(6,8),nn.MultiheadAttention(8, 2, batch_first=True, **kw)
    def forward(self, x): h = self.a(x); return self.b(h, h, h)[0]

@pytest.mark.parametrize('kw', [{},dict(kdim=8,vdim=8),dict(bias=False)])
def test_attention_block_by_block(kw):
    set_seed(0)
    m,x = Attends(**kw),torch.randn(8,5,6)
    r = {o.weight: o for o in lsuv(m, x)}
    got = {}
    def f(o, a, k):
        for i,c in enumerate('qkv'):
            w = o.in_proj_weight[i*8:(i+1)*8] if o.in_proj_weight is not None else getattr(o, f'{c}_proj_weight')
            got[c] = float(nn.functional.linear(a[0], w,
                                                None if o.in_proj_bias is None else o.in_proj_bias[i*8:(i+1)*8]).std())
    forward(m, x, {}, {m.b: f})
    assert all(abs(s-1) < 1e-3 for s in [*got.values(), *stds(m, x).values()])
    assert len(r)==5 and all(o.scale > 0 for o in r.values())

def test_transformer_layers_are_called_with_hooks():
    set_seed(0)
    m,x = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval(),torch.randn(4,5,8)
    fast = torch.backends.mha.get_fastpath_enabled()
    r = lsuv(m, x)
    assert len(r)==12 and all(o.scale > 0 for o in r) and torch.backends.mha.get_fastpath_enabled()==fast

@pytest.mark.parametrize('wrap', [parametrizations.weight_norm,nn.utils.weight_norm])
def test_weight_norm_through_its_parametrization(wrap):
    set_seed(0)
    m,x = nn.Sequential(wrap(nn.Linear(5,7)), nn.ReLU(), nn.Linear(7,3)),torch.randn(64,5)
    ids = [id(p) for p in m.parameters()]
    r = quiet(lsuv, m, x)
    assert all(o.scale > 0 for o in r) and [id(p) for p in m.parameters()]==ids
    assert abs(float(m[0](x).std())-1) < 1e-3

def test_what_has_no_scale_is_named():
    set_seed(0)
    m = nn.Sequential(parametrizations.spectral_norm(nn.Linear(5,7)), parametrizations.orthogonal(nn.Linear(7,7)),
                      nn.Linear(7,4))
    before = weights_of(m)
    r = lsuv(m, torch.randn(64,5)*3)
    assert 'does not follow' in r[0].note and 'does not follow' in r[1].note or 'cannot be written' in r[1].note
    assert r[2].scale > 0 and all(torch.equal(a, b) for a,b in zip(before[:-2], weights_of(m)[:-2], strict=True))

class Standardized(nn.Conv2d):
    "Weight standardization: the output does not depend on the weight's scale"
    def forward(self, x):
        w = self.weight
        return self._conv_forward(x, (w-w.mean())/w.std(), self.bias)

class Own(nn.Module):
    def __init__(self): super().__init__(); self.weight = nn.Parameter(torch.randn(6,4)*.01)
    def forward(self, x): return x @ self.weight.t()

def test_layers_of_unknown_classes_are_tried_and_taken_back():
    set_seed(0)
    m = nn.Sequential(Standardized(3,4,3), nn.Flatten(), nn.Linear(400,4), Own())
    before,x = m[0].weight.clone(),images()
    r = lsuv(m, x, force=True)
    assert (torch.equal(m[0].weight, before) and r[0].note=='its output does not follow its weight'
            and r[0].scale != r[0].scale)
    assert abs(float(m(x).std())-1) < 1e-3 and r[2].scale > 0

class LM(nn.Module):
    def __init__(self, tie=True):
        super().__init__()
        self.emb,self.rnn,self.out = nn.Embedding(20,6),nn.LSTM(6,6,batch_first=True),nn.Linear(6,20)
        if tie: self.out.weight = self.emb.weight
    def forward(self, x): return self.out(self.rnn(self.emb(x))[0])

def test_recurrent_and_tied_weights_are_left_and_named():
    m,x = LM(),torch.randint(0,20,(8,5))
    before = weights_of(m)
    r = {o.weight: o.note for o in quiet(lsuv, m, x)}
    assert same(before, weights_of(m)) and m.out.weight is m.emb.weight
    assert 'recurrent' in r['rnn.weight_ih_l0'] and 'tied' in r['emb.weight']
    m = LM(tie=False)
    assert {o.weight: o.scale > 0 for o in lsuv(m, x)}['out.weight'] and abs(float(m(x).std())-1) < 1e-3

def test_two_linear_layers_with_one_weight():
    set_seed(0)
    m,x = nn.Sequential(nn.Linear(6,6), nn.Tanh(), nn.Linear(6,6)),torch.randn(64,6)
    m[2].weight = m[0].weight
    y = {}
    r = lsuv(m, x)
    assert len(r)==1 and abs(float(m[0](x).std())-1) < 1e-3
    first = forward(m, x, {m[2]: lambda o,a,k,out: y.update(out=out)})
    assert torch.equal(first, m(x))

@pytest.mark.parametrize('dtype', [torch.bfloat16,torch.float16,torch.float64])
def test_other_precisions(dtype):
    set_seed(0)
    m,x = convnet().to(dtype),images(32)
    r = lsuv(m, x, force=True)
    assert all(o.scale > 0 for o in r) and {p.dtype for p in m.parameters()}=={dtype}
    assert all(abs(s-1) < (1e-3 if dtype is torch.float64 else 5e-3) for s in stds(m, x).values())

def test_channels_last_and_bilinear():
    set_seed(0)
    m,x = convnet().to(memory_format=torch.channels_last),images().to(memory_format=torch.channels_last)
    lsuv(m, x)
    assert m[0].weight.is_contiguous(memory_format=torch.channels_last) and abs(stds(m, x)['0']-1) < 1e-3
    class B(nn.Module):
        def __init__(self): super().__init__(); self.b = nn.Bilinear(3,4,5)
        def forward(self, a, b): return self.b(a, b)
    m,x = B(),(torch.randn(99,3),torch.randn(99,4))
    lsuv(m, x)
    assert abs(float(m(*x).std())-1) < 1e-3

# Selecting

def test_only_skip_frozen_force():
    set_seed(0)
    x = images()
    def scaled(**kw):
        m = convnet()
        m[0].weight.requires_grad_(False)
        return [r.weight for r in lsuv(m, x, **kw) if r.scale > 0]
    assert scaled()==['2.weight','4.weight','6.weight','11.weight','13.weight']
    assert scaled(force=True)[0]=='0.weight'
    assert scaled(only='1?.*')==['11.weight','13.weight'] and scaled(skip=nn.Linear)==['2.weight','4.weight','6.weight']
    with pytest.warns(UserWarning, match='matches nothing'): scaled(skip='nothing')

def test_20_frozen_parameter_by_parameter():
    set_seed(0)
    m = nn.Sequential(nn.Linear(4,4), nn.Linear(4,4))
    m[0].bias.requires_grad_(False)
    m[1].weight.requires_grad_(False)
    r = lsuv(m, torch.randn(9,4))
    assert r[0].scale > 0 and r[1].note=='frozen'

# Orthogonal

@pytest.mark.parametrize('shape,groups',
                         [((8,3,3,3),1), ((64,8,3,3),1), ((12,2,3,3),4), ((6,1,3,3),6), ((40,10),1), ((9,9),1),
                          ((300,290),1)])
def test_orthonormal(shape, groups):
    q = orthonormal(shape, groups).flatten(1).view(groups, shape[0]//groups, -1)
    q = q if q.shape[1] <= q.shape[2] else q.mT
    assert float((q @ q.mT - torch.eye(q.shape[1])).abs().max()) < 1e-5
    with torch.random.fork_rng():
        torch.manual_seed(3); a = orthonormal(shape, groups)
        torch.manual_seed(3); assert torch.equal(a, orthonormal(shape, groups))

@pytest.mark.parametrize('shape', [(8,3,3,3), (64,8,3,3), (40,10), (9,9), (300,290), (4,12)])
def test_orthonormal_is_torchs(shape):
    "The same numbers from the same generator, so as uniform as torch's"
    ours = orthonormal(shape, generator=torch.Generator().manual_seed(0))
    theirs = nn.init.orthogonal_(torch.empty(shape), generator=torch.Generator().manual_seed(0))
    assert float((ours-theirs).abs().max()) < 1e-5

def test_lsuv_orthogonal_keeps_the_shape_and_zeros():
    set_seed(0)
    m,x = convnet(),images()
    nn.init.zeros_(m[13].weight)
    lsuv(m, x, orthogonal=True, seed=1)
    w = m[11].weight
    assert torch.allclose(w @ w.t(), (w @ w.t())[0,0]*torch.eye(10), atol=1e-5) and not m[13].weight.any()
    w = m[2].weight.flatten(1).view(4,3,-1)
    assert torch.allclose(w @ w.mT, (w @ w.mT)[0,0,0]*torch.eye(3), atol=1e-5)

# Acceptance

def full(m):
    return [[p.clone(), p.grad] for p in m.parameters()],[b.clone() for b in m.buffers()],[o.training
        for o in m.modules()],torch.get_rng_state()

def equal(a, b): return str(a)==str(b)

def test_22_nothing_but_the_weights_changes():
    set_seed(0)
    m,x = nn.Sequential(nn.Conv2d(3,4,3), nn.BatchNorm2d(4), nn.Dropout(.5), nn.Flatten(), nn.Linear(400,2)),images()
    m(x).sum().backward(); m[1].eval()
    torch.set_printoptions(profile='full')
    before = full(m)
    lsuv(m, x, orthogonal=True)
    after = full(m)
    torch.set_printoptions(profile='default')
    assert (equal(before[1:], after[1:]) and equal([g for _,g in before[0]], [g for _,g in after[0]])
            and not equal(before[0], after[0]))

class Raises(nn.Module):
    def forward(self, x): raise RuntimeError('in the middle')

@pytest.mark.parametrize('orthogonal', [False,True])
def test_22_a_model_that_raises_keeps_its_weights(orthogonal):
    m = nn.Sequential(nn.Linear(6,8), Attends(), parametrizations.weight_norm(nn.Linear(8,6)), Own(), Raises())
    m[0] = nn.Linear(6,6); m[3] = nn.Linear(6,4)
    before = weights_of(m)
    with pytest.raises(RuntimeError, match='in the middle'): lsuv(m, torch.randn(8,5,6), orthogonal=orthogonal)
    assert same(before, weights_of(m)) and not any(o._forward_hooks or o._forward_pre_hooks for o in m.modules())

class Backwards(nn.Module):
    "Registered in another order than it runs, with one layer that runs twice"
    def __init__(self):
        super().__init__()
        self.last,self.twice,self.first = nn.Linear(6,2),nn.Linear(6,6),nn.Linear(3,6)
    def forward(self, x): return self.last(self.twice(self.twice(self.first(x)).relu()).relu())

def test_23_execution_order_and_a_shared_module_once():
    set_seed(0)
    m,x = Backwards(),torch.randn(99,3)
    before = m.twice.weight.clone()
    r = lsuv(m, x)
    assert [o.weight for o in r]==['first.weight','twice.weight','last.weight']
    assert torch.allclose(m.twice.weight, before*r[1].scale) and all(abs(s-1) < 1e-3 for s in stds(m, x).values())

def test_24_in_place_activations_make_no_difference():
    res = []
    for inplace in False,True:
        set_seed(0)
        m = convnet(inplace=inplace)
        lsuv(m, images())
        res.append(weights_of(m))
    assert same(*res)

@pytest.mark.parametrize('bias', [0.,3.])
def test_25_a_dead_layer_is_skipped_with_a_warning(bias):
    set_seed(0)
    m,x = nn.Sequential(nn.Linear(4,6), nn.ReLU(), nn.Linear(6,6), nn.ReLU(), nn.Linear(6,2)),torch.randn(64,4)
    nn.init.constant_(m[0].bias, -1e6); nn.init.constant_(m[2].bias, bias)
    before = m[2].weight.clone()
    with pytest.warns(UserWarning, match='dead.*2.weight'): r = lsuv(m, x)
    assert (torch.equal(m[2].weight, before) and r[1].note.startswith('dead')
            and all(p.isfinite().all() for p in m.parameters()))

class Residual(nn.Module):
    def __init__(self, h=6):
        super().__init__()
        self.a,self.b = nn.Linear(h,h),nn.Linear(h,h)
        nn.init.zeros_(self.b.weight)
        nn.init.zeros_(self.b.bias)
    def forward(self, x): return x + self.b(self.a(x).relu())

def test_26_zero_starts_are_not_rescued():
    set_seed(0)
    m = nn.Sequential(nn.Linear(4,6), Residual(), Residual(), nn.Linear(6,3))
    nn.init.zeros_(m[3].weight); nn.init.constant_(m[3].bias, -4.6)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        r = {o.weight: o for o in lsuv(m, torch.randn(64,4))}
    assert not m[1].b.weight.any() and not m[3].weight.any() and r['3.weight'].note=='zero-initialized, left at zero'
    assert r['2.a.weight'].scale > 0 and torch.equal(m(torch.randn(5,4)), torch.full((5,3), -4.6))

class Spare(nn.Module):
    def __init__(self): super().__init__(); self.used,self.spare = nn.Linear(3,20),nn.Linear(3,20)
    def forward(self, a, b=None): return {'out': (self.used(a),), 'b': b}

def test_27_never_called_modules_tuples_and_dicts():
    for xb in (torch.randn(9,3), (torch.randn(9,3),None), {'a': torch.randn(9,3), 'labels': None}):
        m = Spare()
        before = m.spare.weight.clone()
        with pytest.warns(UserWarning, match='not called.*spare.weight'): r = lsuv(m, xb)
        assert torch.equal(m.spare.weight, before) and r[0].scale > 0 and r[1].note.startswith('not called')

class TupleOut(nn.Linear):
    def forward(self, x): return super().forward(x),None

def test_27_a_layer_that_returns_a_tuple():
    class M(nn.Module):
        def __init__(self): super().__init__(); self.t = TupleOut(4,5)
        def forward(self, x): return self.t(x)
    set_seed(0)
    m,x = M(),torch.randn(99,4)
    assert lsuv(m, x)[0].scale > 0 and abs(float(m(x)[0].std())-1) < 1e-3

# The callback

def learner(m=None, bs=16, n=64, seed=0, **kw):
    set_seed(seed)
    xs = [(torch.randn(3,12,12), torch.randn(5)) for _ in range(n)]
    dls = DataLoaders(DataLoader(xs, bs=bs, shuffle=True), DataLoader(xs, bs=bs))
    learn = Learner(dls, m or convnet(), MSELossFlat(), **kw)
    learn.recorder.add_time = False
    return learn

def fit(learn, *args, **kw):
    with learn.no_bar(), learn.no_logging(): learn.fit(*args, **kw)
    return learn

def test_the_callback_runs_once_on_the_first_batch():
    plain = learner()
    x = next(iter(plain.dls.train))[0]
    learn = learner(cbs=LSUV())
    fit(learn, 1, 0.)
    assert all(abs(s-1) < 1e-3 for s in stds(learn.model, x).values())
    before = weights_of(learn.model)
    fit(learn, 1, 0.)
    assert same(before, weights_of(learn.model)) and len(learn.lsuv.record)==6

def get_x(i): return torch.linspace(-1, 1, 4)*i
def get_y(i): return torch.tensor([float(i)])

def exportable(cbs, path):
    set_seed(0)
    dls = DataBlock(get_x=get_x, get_y=get_y).dataloaders(list(range(40)), bs=8, num_workers=0)
    return Learner(dls, nn.Sequential(nn.Linear(4,8), nn.Tanh(), nn.Linear(8,1)), MSELossFlat(), cbs=cbs, path=path)

def test_17_the_flag_survives_export(tmp_path):
    learn = fit(exportable(LSUV(), tmp_path), 1)
    learn.export()
    back = load_learner(tmp_path/'export.pkl')
    assert back.lsuv.done and str(back.lsuv.record)==str(learn.lsuv.record)
    back.dls = learn.dls
    before = weights_of(back.model)
    fit(back, 1, 0.)
    assert same(before, weights_of(back.model))

def test_15_16_loaded_weights_are_left_alone(tmp_path):
    fit(learner(path=tmp_path), 1).save('trained')
    learn = learner(cbs=LSUV(), path=tmp_path)
    learn.load('trained', with_opt=False)
    before = weights_of(learn.model)
    with pytest.warns(UserWarning, match='nothing was changed'): fit(learn, 1, 0.)
    assert (same(before, weights_of(learn.model))
            and all('loaded' in r.note or 'trained' in r.note for r in learn.lsuv.record))

def test_init_and_then_lsuv():
    "What `Init` writes is a start, not a loaded weight; LSUV comes after it"
    learn = learner(cbs=[LSUV(), Init('orthogonal', seed=1)])
    x = next(iter(learner().dls.train))[0]
    learn = learner(cbs=[LSUV(), Init('orthogonal', seed=1)])
    fit(learn, 1, 0.)
    assert all(abs(s-1) < 1e-3 for s in stds(learn.model, x).values())
    w = learn.model[11].weight
    assert torch.allclose(w @ w.t(), (w @ w.t())[0,0]*torch.eye(10), atol=1e-5)
    learn = learner(cbs=LSUV())
    learn.init_weights('orthogonal'); fit(learn, 1, 0.)
    assert all(r.scale > 0 for r in learn.lsuv.record)
    assert all(r.scale > 0 for r in learn.init_weights('lsuv', std=2., force=True))

def test_18_lr_find_first(tmp_path):
    learn = learner(cbs=LSUV(seed=3), path=tmp_path)
    with learn.no_bar(), learn.no_logging(): learn.lr_find(show_plot=False, num_it=6)
    found = weights_of(learn.model)
    other = learner(cbs=LSUV(seed=3))
    fit(other, 1, 0.)
    assert learn.lsuv.done and same(found, weights_of(other.model))

def test_a_trained_network_is_left_alone():
    learn = fit(learner(), 1)
    before = weights_of(learn.model)
    with pytest.warns(UserWarning, match='nothing was changed.*optimizer has taken steps'):
        fit(learn, 1, 0., cbs=LSUV())
    assert same(before, weights_of(learn.model))
    fit(learn, 1, 0., cbs=LSUV(force=True))
    assert not same(before, weights_of(learn.model))

def test_21_stale_moments_go_with_the_old_weights():
    learn = fit(learner(), 1)
    lsuv(learn, force=True)
    assert ('grad_avg' not in learn.opt.state[learn.model[0].weight]
            and 'grad_avg' in learn.opt.state[learn.model[0].bias])

def test_28_mixed_precision_measures_in_full():
    res = []
    for cbs in ([],[MixedPrecision()]):
        learn = learner(cbs=[LSUV(), *cbs])
        fit(learn, 1, 0.)
        res.append(weights_of(learn.model))
    assert same(*res)
    a,x = convnet(),images()
    b = copy.deepcopy(a)
    lsuv(a, x)
    with torch.autocast('cpu', dtype=torch.bfloat16): lsuv(b, x)
    assert same(weights_of(a), weights_of(b))

def test_29_ranks_agree(tmp_path):
    "Two processes with different seeds, batches and weights"
    code = '''
        import sys, torch, torch.distributed as dist, warnings
        warnings.simplefilter('ignore')
        from fastai.basics import *
        from fastai.callback.all import *
        from fastai_ext.init.callback import Init
        from fastai_ext.init.lsuv import LSUV, lsuv
        rank,path = int(sys.argv[1]),sys.argv[2]
        dist.init_process_group('gloo', init_method=f'file://{path}/meet', rank=rank, world_size=2)
        os.environ.update(RANK=str(rank), WORLD_SIZE='2')
        set_seed(rank)
        m = nn.Sequential(nn.Linear(4,8), nn.ReLU(), nn.Linear(8,1))
        xs = [(torch.randn(4), torch.randn(1)) for _ in range(32)]
        dls = DataLoaders(DataLoader(xs, bs=8, shuffle=True), DataLoader(xs, bs=8))
        learn = Learner(dls, m, MSELossFlat(), cbs=[Init('kaiming_normal'), LSUV()])
        with learn.no_bar(), learn.no_logging(): learn.fit(1, 0.)
        a = [p.detach().clone() for p in m.parameters()]
        torch.manual_seed(rank)
        m = nn.Sequential(nn.Linear(4,8), nn.ReLU(), nn.Linear(8,1))
        lsuv(m, torch.randn(16,4))
        try: lsuv(m, torch.full((4,4), float('nan') if rank==0 else 1.)); said = ''
        except ValueError as e: said = str(e)
        torch.save((a, list(m.parameters()), said, learn.init.record), f'{path}/{rank}.pt')
        dist.barrier()
        dist.destroy_process_group()  # an exit without it ends in std::terminate now and then
    '''
    (tmp_path/'run.py').write_text(textwrap.dedent(code))
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
    runs = [subprocess.Popen([sys.executable, tmp_path/'run.py', str(r), tmp_path], env=env, stderr=subprocess.PIPE,
                             text=True) for r in (0,1)]
    try: errors = [r.communicate(timeout=120)[1] for r in runs]
    finally:
        for r in runs: r.kill()
    assert not any(r.returncode for r in runs), errors
    (a,c,e0,ra),(b,d,e1,rb) = (torch.load(tmp_path/f'{r}.pt', weights_only=False) for r in (0,1))
    assert same(a, b) and same(c, d) and 'NaN' in e0 and e0==e1 and ra==rb

@pytest.mark.parametrize('orthogonal', [False,True])
def test_30_same_seed_same_weights(orthogonal):
    res = []
    for global_seed in 1,2:
        learn = learner(cbs=LSUV(orthogonal=orthogonal, seed=7))
        start = learn.model
        set_seed(global_seed)
        state = torch.get_rng_state()
        lsuv(learn, orthogonal=orthogonal, seed=7)
        assert torch.equal(state, torch.get_rng_state())
        res.append(weights_of(start))
    assert same(*res)

# Bad input

def test_bad_input_changes_nothing():
    m = convnet()
    before = weights_of(m)
    x = images()
    x[0,0,0,0] = float('nan')
    for f,words in ((lambda: lsuv(m, x), '1 of the 6912 numbers'), (lambda: lsuv(m), 'a model alone has no data'),
                    (lambda: lsuv(m, images(), std=-1), 'give a number > 0'),
                    (lambda: lsuv(nn.ReLU(), images()), 'has no weights'),
                    (lambda: lsuv(nn.LazyLinear(3), images()), 'is lazy')):
        with pytest.raises(ValueError, match=words): f()
    assert same(before, weights_of(m))
    with pytest.raises(ValueError, match='is empty'): lsuv(learner(n=0))
    learn = learner()
    learn.dls.train.dataset[:] = [(torch.full((3,12,12), float('inf')), torch.zeros(5))]*64
    with pytest.raises(ValueError, match='NaN or infinite'): fit(learn, 1, cbs=LSUV())

def test_the_record():
    r = lsuv(convnet(), images())
    assert (list(r.df())==['weight','layer','std','scale','note'] and 'Conv2d' in repr(r)
            and '<table>' in r._repr_html_() and len(repr(r[:2]).splitlines())==3)
    assert repr(LSUV(std=2., skip='a'))=="LSUV(std=2.0, skip='a')"

# Packed and stacked weights

class Packed(nn.Module):
    "Attention with one layer for query, key and value"
    def __init__(self):
        super().__init__()
        self.attn = nn.Module()
        self.attn.__class__ = type('Attention', (nn.Module,), {})
        self.attn.qkv,self.attn.proj = nn.Linear(16,48),nn.Linear(16,16)
    def forward(self, x): return self.attn.proj(self.attn.qkv(x)[...,:16])

@pytest.mark.parametrize('kw', [dict(only='attn.qkv.weight[q]'), dict(skip='attn.qkv.weight[v]')])
def test_a_part_of_a_packed_weight(kw):
    torch.manual_seed(0)
    m = Packed()
    before = m.attn.qkv.weight.detach().clone()
    rows = lsuv(m, torch.randn(64,16), orthogonal=True, seed=0, **kw)
    assert rows[0].scale > 0
    q,_,v = m.attn.qkv.weight.detach().chunk(3)
    assert torch.allclose(q @ q.t(), (q @ q.t())[0,0]*torch.eye(16), atol=1e-5)
    # scaled with its layer, not drawn anew
    assert torch.allclose(v/v.norm(), before.chunk(3)[2]/before.chunk(3)[2].norm())

def test_weights_stay_where_they_are_in_memory():
    m = convnet()
    where,versions = [p.data_ptr() for p in m.parameters()],[p._version for p in m.parameters()]
    assert any(r.scale > 0 for r in lsuv(m, images(), orthogonal=True, seed=0))
    assert where == [p.data_ptr() for p in m.parameters()] and versions != [p._version for p in m.parameters()]

def test_experts():
    import transformers as t
    small = dict(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24)
    m = t.MixtralForCausalLM(t.MixtralConfig(num_key_value_heads=2, num_local_experts=2, **small))
    rows = {r.weight.rpartition('.')[2]: r for r in lsuv(m, dict(input_ids=torch.randint(0,50,(4,16))), seed=0)}
    assert rows['down_proj'].scale > 0 and 'inside a mixture of experts' in rows['gate_up_proj'].note
