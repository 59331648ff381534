"The probing engine and the sandbox leave no trace, whatever is run in them (acceptance 22, 27, 28)"
import random

import numpy as np
import pytest
import torch
from fastai.basics import Callback, DataLoader, DataLoaders, Learner, MSELossFlat, set_seed
from fastai.callback.progress import CSVLogger
from fastai.callback.tracker import SaveModelCallback
from fastai.callback.training import GradientClip
from fastai.text.models.awdlstm import AWD_LSTM
from fastcore.foundation import L
from torch import nn
from torch.nn.utils import parametrizations

from fastai_ext.keep.state import loader_kept, model_kept, rng_kept

from fastai_ext.keep.batch import check_batch, check_ready, forward, peek_batch, train_batch
from fastai_ext.keep.learner import learner_kept

def frozen(o):
    "A comparable copy of a state"
    if isinstance(o, torch.Tensor):
        return o.dtype, tuple(o.shape), o.detach().cpu().contiguous().view(-1).numpy().tobytes() if o.numel() else b''
    if isinstance(o, np.ndarray): return o.tobytes()
    if isinstance(o, dict): return {str(k): frozen(v) for k,v in o.items()}
    if isinstance(o, (list,tuple,L)): return [frozen(v) for v in o]
    return o if isinstance(o, (int,float,str,bool,bytes,type(None))) else id(o)

def rngs(): return frozen([random.getstate(), np.random.get_state(), torch.get_rng_state()])

def state(m):
    "All that a run could change"
    return [[(n, id(p), p.requires_grad, p._version, id(p.grad), frozen(p.grad), frozen(p))
             for n,p in m.named_parameters()],
            [(n, id(b), frozen(b)) for n,b in m.named_buffers()],
            [(type(o), {k: frozen(v) for k,v in vars(o).items() if k not in ('_parameters','_buffers')})
             for o in m.modules()], rngs()]

class Draws(nn.Module):
    "Uses every generator, keeps attributes, and may raise"
    def __init__(self):
        super().__init__()
        self.calls,self.log,self.fail = 0,[],False
        self.register_buffer('loose', torch.zeros(2), persistent=False)
    def forward(self, x):
        self.calls += 1
        self.log.append(random.random())
        self.new = np.random.rand()
        self.loose = self.loose + torch.rand(2)
        if self.fail: raise RuntimeError('in the middle')
        return x + torch.rand(())

def nets():
    set_seed(0)
    bn = nn.Sequential(nn.Conv2d(3,4,3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(.5), Draws(),
                       nn.Flatten(), nn.Linear(4*36,2))
    sn = nn.Sequential(parametrizations.spectral_norm(nn.Linear(4,5)), parametrizations.weight_norm(nn.Linear(5,5)),
                       nn.LayerNorm(5), Draws())
    old = nn.Sequential(nn.utils.spectral_norm(nn.Linear(4,5)), nn.BatchNorm1d(5, momentum=None), Draws())
    lm = nn.Sequential(AWD_LSTM(20, 6, 8, 2), Draws())
    return {'bn': (bn, torch.randn(4,3,8,8)), 'parametrized': (sn, torch.randn(6,4)),
            'old norms': (old, torch.randn(6,4)),
            'lstm': (lm, torch.randint(0, 20, (3,7)))}

@pytest.mark.parametrize('grad', [False,True])
@pytest.mark.parametrize('train', [None,True,False])
@pytest.mark.parametrize('which', nets())
def test_22_a_probe_leaves_no_trace(which, train, grad):
    m,x = nets()[which]
    m(x).sum().backward()
    next(m.parameters()).requires_grad_(False)
    list(m.modules())[1].training = False
    seen,before = [],state(m)
    hooks = {o: lambda o,a,k,out: seen.append(o) for o in m.modules() if not list(o.children())}
    out = forward(m, x, hooks, train=train, grad=grad)
    assert seen and state(m)==before
    assert out.requires_grad==grad
    m[-1 if which!='bn' else 4].fail = True
    before = state(m)
    with pytest.raises(RuntimeError, match='in the middle'): forward(m, x, hooks, train=train, grad=grad)
    assert state(m)==before

def test_22_a_backward_inside_leaves_no_trace():
    m,x = nets()['bn']
    m(x).sum().backward()
    before = state(m)
    with model_kept(m), rng_kept():
        m.train()
        m(x).sum().backward()
        for p in m.parameters(): p.requires_grad_(False)
        m[0].register_forward_hook(lambda *a: None)
    assert state(m)==before

def test_22_weights_come_back_bit_for_bit():
    m,x = nets()['bn']
    values = frozen(list(m.state_dict().values()))
    opt = torch.optim.SGD(m.parameters(), .1)
    with model_kept(m, params=True), rng_kept():
        m(x).sum().backward(); opt.step()
    assert frozen(list(m.state_dict().values()))==values and all(p.grad is None for p in m.parameters())

def test_modes():
    m,x = nets()['bn']
    a,b = forward(m, x, {}),forward(m, x, {})
    assert torch.equal(a, b)  # no dropout, one seed
    modes = {}
    forward(m, x, {o: lambda o,*_: modes.__setitem__(type(o).__name__, o.training) for o in m})
    assert modes['BatchNorm2d'] and not modes['Dropout']

@pytest.mark.parametrize('dtype', [torch.float32,torch.bfloat16,torch.float64])
def test_28_outside_autocast_in_the_weights_own_precision(dtype):
    m = nn.Linear(4,3).to(dtype)
    with torch.autocast('cpu', dtype=torch.bfloat16): out = forward(m, torch.randn(5,4), {})
    assert out.dtype==dtype

class Named(nn.Module):
    def __init__(self): super().__init__(); self.l = nn.Linear(3,2)
    def forward(self, ids, mask=None): return {'logits': self.l(ids), 'hidden': (ids,)}

class Whole(nn.Module):
    def __init__(self): super().__init__(); self.l = nn.Linear(3,2)
    def forward(self, batch): return self.l(batch['a'])

class Pair(nn.Module):
    def __init__(self): super().__init__(); self.l = nn.Linear(3,2)
    def forward(self, a, b): return self.l(a), self.l(b)

def test_27_inputs_of_every_kind():
    x = torch.randn(4,3)
    # what `forward` does not name is left out
    assert forward(Named(), {'ids': x, 'mask': None, 'labels': x}, {})['logits'].shape==(4,2)
    assert forward(Named(), ({'ids': x},), {})['logits'].shape==(4,2)
    assert forward(Whole(), {'a': x}, {}).shape==(4,2)
    assert len(forward(Pair(), (x,x), {}))==2
    m = Whole(); m.forward = lambda images: m.l(torch.stack(images))
    assert forward(m, list(x), {}).shape==(4,2)  # a list is one argument, as detection models take it

# The training data

def dl_kinds():
    xs = [(torch.randn(3), torch.randn(1)) for _ in range(20)]
    g = torch.Generator().manual_seed(3)
    from torch.utils.data import DataLoader as TorchDL, WeightedRandomSampler
    return {'fastai': DataLoader(xs, bs=4, shuffle=True),
            'fastai workers': DataLoader(xs, bs=4, shuffle=True, num_workers=1),
            'torch': TorchDL(xs, 4, shuffle=True), 'torch generator': TorchDL(xs, 4, shuffle=True, generator=g),
            'torch sampler': TorchDL(xs, 4, sampler=WeightedRandomSampler([1.]*20, 20, generator=torch.Generator())),
            'torch workers': TorchDL(xs, 4, shuffle=True, num_workers=1, persistent_workers=True, timeout=30)}

@pytest.mark.parametrize('kind', dl_kinds())
def test_peek_is_what_training_begins_with_and_moves_nothing(kind):
    def epochs(peek):
        set_seed(1)
        dl = dl_kinds()[kind]
        a = [peek_batch(dl) for _ in range(2)] if peek else []
        r = rngs()
        if peek: peek_batch(dl, seed=4); assert rngs()==r
        return [b[0] for b in a],[b[0] for _ in range(2) for b in dl],rngs()
    (a,b),with_peek,r1 = epochs(True)
    _,without,r2 = epochs(False)
    assert all(map(torch.equal, with_peek, without)) and r1==r2
    assert torch.equal(a, b) and torch.equal(a, with_peek[0])

def test_a_language_model_loader_keeps_its_chunks():
    from fastai.text.data import LMDataLoader
    texts = [torch.arange(i, i+11) for i in range(0, 110, 11)]
    def batches(peek):
        set_seed(2)
        dl = LMDataLoader(texts, bs=2, seq_len=5, shuffle=True, num_workers=0)
        if peek: peek_batch(dl, seed=8); peek_batch(dl)
        return torch.cat([b[0].flatten() for b in dl])
    assert torch.equal(batches(True), batches(False))

def learner(dls=None, m=None, **kw):
    xs = [(torch.randn(3), torch.randn(1)) for _ in range(20)]
    dls = dls or DataLoaders(DataLoader(xs, bs=4, shuffle=True), DataLoader(xs, bs=4))
    return Learner(dls, m or nn.Linear(3,1), MSELossFlat(), **kw)

def test_bad_data_is_named_before_anything_runs():
    xs = [(torch.randn(3), torch.randn(1)) for _ in range(3)]
    with pytest.raises(ValueError, match='is empty .3 items, bs=4, drop_last=True'):
        train_batch(learner(DataLoaders(DataLoader(xs, bs=4, drop_last=True))))
    with pytest.raises(ValueError, match='is empty .0 items'): peek_batch(torch.utils.data.DataLoader([], 4))
    with pytest.raises(ValueError, match='one-shot iterator'): peek_batch(DataLoader(iter(xs), bs=2, indexed=False))
    with pytest.raises(ValueError, match='2 of the 6 numbers'):
        check_batch((torch.tensor([[1.,float('nan'),0],[0,0,float('inf')]]),))
    check_batch({'a': torch.tensor([1,2]), 'b': torch.ones(2)})
    with pytest.raises(ValueError, match='has no weights'): check_ready(nn.ReLU())
    with pytest.raises(ValueError, match='`0.weight` is lazy'): check_ready(nn.Sequential(nn.LazyLinear(3)))
    with pytest.raises(ValueError, match='`weight` is on the meta device'): check_ready(nn.Linear(2,2, device='meta'))

def test_loader_kept_after_an_exception():
    dl = dl_kinds()['torch generator']
    before = dl.generator.get_state()
    with pytest.raises(RuntimeError), loader_kept(dl): next(iter(dl)); raise RuntimeError
    assert torch.equal(dl.generator.get_state(), before)

# The sandbox

class Counts(Callback):
    def __init__(self): self.seen,self.file = [],None
    def before_fit(self): self.file = open(__file__)  # noqa: SIM115  cannot be copied once open
    def after_batch(self): self.seen.append(self.learn.loss.item())

def run(tmp_path, visit, opt_func=None):
    set_seed(3)
    m = nn.Sequential(nn.Linear(3,6), nn.BatchNorm1d(6), nn.Dropout(.3), nn.ReLU(), nn.Linear(6,1))
    kw = {} if opt_func is None else dict(opt_func=opt_func(m))
    learn = learner(m=m, cbs=[GradientClip(.1), Counts(), SaveModelCallback(), CSVLogger()], path=tmp_path, **kw)
    learn.recorder.add_time = False
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-2)
        learn.opt.freeze_to(0)
        if visit: visit(learn)
        csv = (tmp_path/'history.csv').read_bytes()
        learn.fit(1, 1e-2)
    opt = learn.opt.state_dict()
    return frozen([list(m.state_dict().values()), opt['state'],
                   opt['hypers'] if 'hypers' in opt else opt['param_groups'],
                   learn.recorder.values, learn.recorder.losses, learn.counts.seen, csv]), [type(c)
                       for c in learn.cbs], sorted(vars(learn)), rngs()

def interrupted(learn):
    class Stop(Callback):
        def after_batch(self): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), learner_kept(learn): learn.fit(3, cbs=Stop())

def visited(learn):
    with learner_kept(learn, seed=9):
        learn.fit(3, .5)
        learn.freeze_to(0); learn.model[0].weight.requires_grad_(False)

@pytest.mark.parametrize('visit', [visited,interrupted])
@pytest.mark.parametrize('opt', [None,'torch'])
def test_a_learner_after_a_visit_trains_as_one_without(tmp_path, visit, opt):
    from fastai.optimizer import OptimWrapper
    f = None if opt is None else lambda m: OptimWrapper(opt=torch.optim.Adam(m.parameters()))
    (tmp_path/'a').mkdir(); (tmp_path/'b').mkdir()
    assert run(tmp_path/'a', visit, f)==run(tmp_path/'b', None, f)
