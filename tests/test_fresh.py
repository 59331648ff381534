"Nothing trained is lost: 57 ways to come by a trained network, and what is fresh is shown to be fresh"
import copy, io, pickle, warnings
from functools import partial

import pytest, torch
from fastai.callback.progress import ProgressCallback  # noqa: F401 `no_bar`
from fastai.basics import CrossEntropyLossFlat, DataLoader, DataLoaders, Learner, OptimWrapper, SGD
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune
from fastai_ext.init.auto import init_plan
from fastai_ext.init.callback import Init
from fastai_ext.init.head import HeadPrior
from fastai_ext.init.lsuv import LSUV
from fastai_ext.model.lattice import draw
from fastai_ext.model.provenance import provenance

def net(): return nn.Sequential(nn.Linear(8,16), nn.ReLU(), nn.Linear(16,3))

def data(n=64):
    g = torch.Generator().manual_seed(0)
    return list(zip(torch.randn(n, 8, generator=g), torch.randint(3, (n,), generator=g)))

def get_learner(model=None, loss=None, **kw):
    dls = DataLoaders(DataLoader(data(), bs=16), DataLoader(data(), bs=16))
    return Learner(dls, model or net(), loss_func=loss or CrossEntropyLossFlat(), **kw)

def fit(learn, n=1, lr=1e-3, **kw):
    with learn.no_bar(), learn.no_logging(): learn.fit(n, lr, **kw)
    return learn

def state(m): return [p.detach().clone() for p in m.parameters()]
def trained(model=None, lr=1e-3, **kw): return fit(get_learner(model, **kw), lr=lr)

# each gives a Learner with trained weights, to be started as somebody might
def second(tmp): return get_learner(trained().model)
def loaded(tmp):
    m = net(); m.load_state_dict(trained().model.state_dict()); return get_learner(m)
def assigned(tmp):
    learn = get_learner(); learn.model.load_state_dict(trained().model.state_dict(), assign=True); return learn
def by_data(tmp):
    learn,other = get_learner(cbs=Init()),trained().model
    for p,q in zip(learn.model.parameters(), other.parameters(), strict=True): p.data = q.data.clone()
    return learn
def by_copy(tmp):
    learn,other = get_learner(cbs=Init()),trained().model
    for p,q in zip(learn.model.parameters(), other.parameters(), strict=True): p.data.copy_(q.data)
    return learn
def new_model(tmp):
    learn = get_learner(cbs=Init()); learn.model = trained().model; return learn
def unpickled(tmp): return get_learner(pickle.loads(pickle.dumps(trained().model)))
def saved_whole(tmp):
    b = io.BytesIO(); torch.save(trained().model, b); b.seek(0)
    return get_learner(torch.load(b, weights_only=False))
def copied(tmp): return get_learner(copy.deepcopy(trained().model))
def learner_load(tmp):
    trained(path=tmp).save('a'); learn = get_learner(path=tmp); learn.load('a'); return learn
def learner_load_no_opt(tmp):
    trained(path=tmp).save('a'); learn = get_learner(path=tmp); learn.load('a', with_opt=False); return learn
def load_then_callback(tmp):
    trained(path=tmp).save('a')
    learn = get_learner(path=tmp, cbs=Init())
    learn.load('a', with_opt=False)
    return learn
def same_learner(tmp): return trained()
def new_optimizer(tmp): learn = trained(); learn.create_opt(); return learn
def sgd(tmp): return trained(opt_func=lambda ps, **kw: SGD(ps, mom=0., **kw))
def sgd_second(tmp): return get_learner(trained(opt_func=lambda ps, **kw: SGD(ps, mom=0., **kw)).model)
def tiny_rate(tmp): return get_learner(trained(lr=1e-7).model)
def plain_torch(tmp):
    m = net(); opt = torch.optim.SGD(m.parameters(), 1e-3)
    x,y = map(torch.stack, zip(*data(), strict=True)); F.cross_entropy(m(x), y).backward(); opt.step()
    return get_learner(m)
def started(scheme, **kw):
    def f(tmp): return get_learner(fit(get_learner(), cbs=Init(scheme, **kw), n=2).model)
    f.__name__ = f'started_{scheme}'; return f
def lsuv_trained(tmp): return get_learner(fit(get_learner(), cbs=LSUV(orthogonal=True), n=2).model)
def prior_trained(tmp): return get_learner(fit(get_learner(), cbs=HeadPrior(), n=2).model)
def few_weights(tmp): return get_learner(trained(nn.Sequential(nn.Linear(8,2), nn.Tanh(), nn.Linear(2,3))).model)
def wide(tmp): return get_learner(trained(nn.Sequential(nn.Linear(8,256), nn.ReLU(), nn.Linear(256,3))).model)
def normed(tmp):
    return get_learner(trained(nn.Sequential(nn.Linear(8,16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16,3))).model)
def weight_normed(tmp):
    return get_learner(trained(nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8,16)), nn.ReLU(),
                                             nn.Linear(16,3))).model)
def half_and_back(tmp): return get_learner(trained().model.half().float())
def bf16_and_back(tmp): return get_learner(trained().model.bfloat16().float())
def doubled(tmp): return get_learner(copy.deepcopy(trained().model).double().float())
def head_only(tmp):
    m = net()
    for p in m[0].parameters(): p.requires_grad_(False)
    trained(m)
    for p in m.parameters(): p.requires_grad_(True)
    return get_learner(m)  # the first layer is fresh, and the second was trained on what it puts out
def averaged(tmp):
    a,b = trained().model,trained().model
    m = net()
    for p,q,r in zip(m.parameters(), a.parameters(), b.parameters(), strict=True): p.data = (q.data + r.data)/2
    return get_learner(m)
def decayed(tmp): return get_learner(trained(wd=.1).model)


# other architectures, and other ways of training
def stepped(model, *xs, lr=1e-5, params=None):
    "After one small step of plain torch, also away from zeros"
    opt = torch.optim.SGD(list(params or model.parameters()), lr)
    for p in opt.param_groups[0]['params']: p.grad = torch.randn_like(p)
    opt.step()
    return model
class Reads(nn.Module):
    "A recurrent net over eight steps of one number"
    def __init__(self, rnn): super().__init__(); self.rnn,self.head = rnn(1, 12, 2, batch_first=True),nn.Linear(12,3)
    def forward(self, x): return self.head(self.rnn(x[...,None])[0][:,-1])
class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.up,self.head = nn.Linear(1,16),nn.Linear(16,3)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    def forward(self, x): return self.head(self.layer(self.up(x[...,None])).mean(1))
def lstm(tmp): return get_learner(stepped(Reads(nn.LSTM)))
def lstm_trained(tmp): return get_learner(trained(Reads(nn.LSTM), cbs=Init()).model)
def gru(tmp): return get_learner(stepped(Reads(nn.GRU)))
def transformer(tmp): return get_learner(stepped(Attends()))
def transformer_trained(tmp): return get_learner(trained(Attends(), cbs=Init()).model)
class Additive(nn.Module):
    "A small net for each input (Agarwal et al. 2021)"
    def __init__(self):
        super().__init__()
        self.nets = nn.ModuleList(nn.Sequential(nn.Linear(1,2), nn.Tanh(), nn.Linear(2,3)) for _ in range(8))
    def forward(self, x): return sum(n(x[:,[i]]) for i,n in enumerate(self.nets))
def additive(tmp): return get_learner(stepped(Additive(), lr=1e-2))
def one_weight(tmp):
    return get_learner(stepped(nn.Sequential(nn.Linear(8,1), nn.Linear(1,1,bias=False), nn.Linear(1,3))))
def moving_average(tmp):
    m,other = net(),net()
    for p,q in zip(m.parameters(), other.parameters(), strict=True): p.data.lerp_(q.data, .001)
    return get_learner(m)
def pruned(tmp):
    learn = trained()
    prune.l1_unstructured(learn.model[0], 'weight', .5)
    prune.remove(learn.model[0], 'weight')
    return get_learner(learn.model)
def pruned_by_hooks(tmp):
    learn = trained()
    prune.l1_unstructured(learn.model[0], 'weight', .5)
    return get_learner(learn.model)
def lottery_ticket(tmp):
    "The mask is what was learned (Frankle and Carbin 2019); the biases are zero as they were"
    m = net()
    for l in (m[0],m[2]): nn.init.zeros_(l.bias)
    start = copy.deepcopy(m.state_dict())
    large = {k: v.abs() > v.abs().median() for k,v in trained(m).model.state_dict().items()}
    m.load_state_dict({k: torch.where(large[k], v, 0.) for k,v in start.items()})
    return get_learner(m)
def clipped(tmp):
    m = trained(lr=1e-2).model
    for p in m.parameters(): p.data.clamp_(-.05, .05)
    return get_learner(m)
def eight_bits(tmp):
    m = trained().model
    for p in m.parameters():
        size = p.data.abs().max()/127
        p.data = (p.data/size).round()*size
    return get_learner(m)
def norms_only(tmp):
    "All random weights as they were, the norms trained around them (Frankle et al. 2021)"
    m = nn.Sequential(nn.Linear(8,16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16,3))
    return get_learner(stepped(m, params=m[1].parameters()))
def biases_only(tmp): m = net(); return get_learner(stepped(m, params=[m[0].bias, m[2].bias]))
def small_head_over_features(tmp):
    m = nn.Sequential(nn.Linear(8,64), nn.ReLU(), nn.Linear(64,3,bias=False))
    return get_learner(stepped(m, params=m[2].parameters()))
class LoRA(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base = base
        self.lora_A,self.lora_B = nn.Linear(base.in_features,4,bias=False),nn.Linear(4,base.out_features,bias=False)
        nn.init.zeros_(self.lora_B.weight)
    def forward(self, x): return self.base(x) + self.lora_B(self.lora_A(x))
def adapted(tmp):
    "Adapters trained on a random network"
    m = net()
    m[0] = LoRA(m[0])
    return get_learner(stepped(m, params=[m[0].lora_A.weight, m[0].lora_B.weight]))
def adapters_put_on(tmp): m = trained().model; m[0] = LoRA(m[0]); return get_learner(m)
def kept_orthogonal(tmp):
    wrap = nn.utils.parametrizations.orthogonal
    m = nn.Sequential(wrap(nn.Linear(8,8,bias=False)), nn.ReLU(), wrap(nn.Linear(8,3,bias=False)))
    stepped(m, lr=.1)
    for l in (m[0],m[2]): nn.utils.parametrize.remove_parametrizations(l, 'weight')
    return get_learner(m)
def spectral_normed(tmp):
    return get_learner(trained(nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(8,16)), nn.ReLU(),
                                             nn.Linear(16,3))).model)
def compiled(tmp): m = trained().model; m[0] = torch.compile(m[0], backend='eager'); return get_learner(m)
def parallel(tmp): return get_learner(nn.DataParallel(trained().model))
def scripted(tmp): return get_learner(torch.jit.script(trained().model))

ways = [lstm, lstm_trained, gru, transformer, transformer_trained, additive, one_weight, moving_average, pruned,
        pruned_by_hooks, lottery_ticket, clipped, eight_bits, norms_only, biases_only, small_head_over_features,
        adapted, adapters_put_on, kept_orthogonal, spectral_normed, compiled, parallel, scripted,
        second, loaded, assigned, by_data, by_copy, new_model, unpickled, saved_whole, copied, learner_load,
        learner_load_no_opt, load_then_callback,
        same_learner, new_optimizer, sgd, sgd_second, tiny_rate, plain_torch, started('kaiming_normal'),
        started('xavier_uniform'), started('orthogonal'),
        started('auto'), lsuv_trained, prior_trained, few_weights, wide, normed, weight_normed, half_and_back,
        bf16_and_back, doubled, head_only, averaged, decayed]

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('way', ways, ids=lambda f: f.__name__)
def test_nothing_trained_is_lost(way, tmp_path):
    torch.manual_seed(0)
    learn = way(tmp_path)
    before = state(learn.model)
    for scheme in ('auto', 'kaiming_normal', 'lsuv'): learn.init_weights(scheme)
    last = [m for m in learn.model.modules() if isinstance(m, nn.Linear)][-1:]
    heads = [HeadPrior()] if last and last[0].bias is not None else []
    if heads: learn.init_head()
    fit(learn, lr=0., cbs=[Init('xavier_normal'), LSUV(), *heads])
    now = [(n, p) for n,p in learn.model.named_parameters()]
    assert [n for (n,p),q in zip(now, before, strict=True) if not torch.equal(p, q)] == []

@pytest.mark.filterwarnings('ignore')
def test_trained_embeddings_are_kept():
    class Dot(nn.Module):
        def __init__(self): super().__init__(); self.u,self.i = nn.Embedding(40,8),nn.Embedding(30,8)
        def forward(self, x): return (self.u(x[:,0])*self.i(x[:,1])).sum(1)
    torch.manual_seed(0)
    m = Dot()
    opt = torch.optim.SGD(m.parameters(), .1)
    F.mse_loss(m(torch.randint(30, (16,2))), torch.randn(16)).backward()
    opt.step()
    before = state(m)
    init_plan(m).apply(), init_plan(m, 'normal', std=.1).apply()
    assert all(torch.equal(p, q) for p,q in zip(m.parameters(), before, strict=True))
    vectors = nn.Sequential(nn.Embedding.from_pretrained(torch.randn(50,16)*1.8 + 1e-3, freeze=False), nn.Flatten(),
                            nn.Linear(16,2))
    before = vectors[0].weight.clone()
    plan = init_plan(vectors)
    assert torch.equal(plan.apply() and vectors[0].weight, before) and plan.changed

@pytest.mark.parametrize('opt_func', [SGD, partial(OptimWrapper, opt=partial(torch.optim.SGD, momentum=.9))])
def test_a_bias_before_a_norm_is_kept(opt_func):
    "No step moves it, but the running mean of the norm has taken it in"
    model = nn.Sequential(nn.Linear(8,64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64,3))
    learn = trained(model, opt_func=opt_func, cbs=Init())
    learn.remove_cb(Init)
    for again in learn,get_learner(learn.model),get_learner(copy.deepcopy(learn.model)):
        before = state(again.model)
        again.add_cb(Init())
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            fit(again, lr=0.)
        assert all(map(torch.equal, before, state(again.model)))

def test_what_is_left_alone_is_said_once():
    torch.manual_seed(0)
    m = net()
    m[0].weight.data.add_(1e-3)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        get_learner(m).init_weights('xavier_normal')
    ours = [str(w.message) for w in said if 'left alone' in str(w.message)]
    assert len(ours) == 1 and '0.weight' in ours[0] and 'force=True' in ours[0] and 'not shown to be fresh' in ours[0]

fresh = dict(mlp=net, wide=lambda: nn.Linear(300,200), conv=lambda: nn.Conv2d(3,16,3),
             depthwise=lambda: nn.Conv2d(32,32,3,groups=32),
             transposed=lambda: nn.ConvTranspose2d(8,16,4), lstm=lambda: nn.LSTM(8,16,2,bidirectional=True),
             gru=lambda: nn.GRU(8,16),
             attention=lambda: nn.MultiheadAttention(32,4), encoder=lambda: nn.TransformerEncoderLayer(32,4,64),
             bilinear=lambda: nn.Bilinear(4,5,6),
             embedding=lambda: nn.Embedding(30,7,padding_idx=0))
moves = dict(as_made=lambda m: m, double=lambda m: m.double(), copy=copy.deepcopy,
             pickle=lambda m: pickle.loads(pickle.dumps(m)),
             last=lambda m: m.to(memory_format=torch.channels_last))

@pytest.mark.parametrize('make', fresh.values(), ids=list(fresh))
@pytest.mark.parametrize('move', moves.values(), ids=list(moves))
def test_fresh_layers_are_fresh(make, move):
    torch.manual_seed(0)
    assert provenance(move(make())) == {}

def test_zeros_that_chance_makes_and_zeros_that_somebody_chose():
    "A generator makes a zero once in 2²⁴ numbers; a padding row is usual; anything else is a mask"
    torch.manual_seed(0)
    for make in (lambda: torch.randn(256,256), lambda: torch.rand(256,256)*2-1):
        t = make()
        assert draw(t).random
        t[0,0] = t[0,8] = 0
        assert draw(t).random
        t[3] = 0
        assert not draw(t).random
        t[3] = make()[3]
        t[:,:20] = 0
        assert not draw(t).random
    assert draw(nn.Embedding(30,8,padding_idx=1).weight).random
    small = torch.randn(16,16)
    small[3,3] = 0
    assert not draw(small).random

@pytest.mark.parametrize('cut', [2,3,100])
def test_truncated_normals_are_fresh_and_a_trained_row_or_column_is_not(cut):
    torch.manual_seed(0)
    for shape in ((64,64),(64,48),(300,200)) if cut > 2 else ((300,200),):
        t = nn.init.trunc_normal_(torch.empty(shape), std=.02, a=-cut*.02, b=cut*.02)
        assert draw(t).random
        for k in range(0, 32, 3):
            for part in (lambda w, k=k: w[k], lambda w, k=k: w[:,k]):
                one = t.clone()
                part(one).mul_(1 + 1e-5*torch.randn(len(part(one))))
                assert not draw(one).random

def test_single_numbers_and_odd_shapes_are_looked_at_without_harm():
    m = nn.Sequential(nn.Linear(8,64), nn.Linear(64,3))
    m.temperature,m.empty = nn.Parameter(torch.tensor(2.6592)),nn.Parameter(torch.empty(0))
    m.deep = nn.Parameter(torch.ones(1,1,1,1,1))
    assert provenance(m) == {'empty': provenance(m)['empty']}
    assert {r.name for r in init_plan(m).changed} == {'0.weight','0.bias','1.weight','1.bias'}

def test_half_precision_is_left_alone_and_said():
    why = set(provenance(net().half()).values())
    assert why and all('float16' in o for o in why)

def test_a_wrong_lattice_is_no_proof():
    "What lies on a coarser lattice was stored in half precision, quantized or set by hand"
    t = nn.Linear(64,64).weight.detach()  # its bound is a power of two, as are the steps of half precision
    assert draw(t).random
    for coarse in (t.half().float(), t.bfloat16().float(), (t*127/.125).round()/127*.125, (t*1024).round()/1024):
        assert not draw(coarse).random

@pytest.mark.parametrize('said,meant',
                         [('he_normal','kaiming_normal'), ('xavier','xavier_uniform'), ('kaiming','kaiming_normal'),
                          ('glorot_uniform','xavier_uniform'),
                                        ('kaiming_normal_','kaiming_normal'), ('He Normal','kaiming_normal'),
                                        ('lsuv','lsuv')])
def test_what_people_type_first(said, meant): assert Init(said).scheme == meant

def test_wrong_arguments_fail_at_once():
    for bad in (lambda: Init('normal', sdt=1), lambda: Init(std=.1), lambda: Init('chrono', tmax=3),
                lambda: Init('lsuv', gain=2), lambda: Init('zeros', std=1)):
        with pytest.raises(ValueError, match='takes no argument'): bad()

def test_again_is_another_start():
    learn = get_learner()
    learn.init_weights('kaiming_normal'); a = state(learn.model)
    learn.init_weights('kaiming_normal'); b = state(learn.model)
    assert not torch.equal(a[0], b[0])
    learn.init_undo()
    assert provenance(learn) == {} and not torch.equal(state(learn.model)[0], a[0])

@pytest.mark.parametrize('make',
                         [lambda: nn.Linear(600,300).weight, lambda: nn.init.kaiming_normal_(torch.empty(400,64,3,3)),
                                  lambda: nn.Embedding(3000,24).weight], ids=['uniform','normal','embedding'])
def test_one_trained_row_or_column_of_a_large_weight_is_seen(make):
    "Of a large weight only a sample is looked at; it meets every row and every column"
    torch.manual_seed(0)
    t = make().detach()
    assert draw(t).random
    for k in torch.randint(len(t), (20,)).tolist():
        one = t.clone()
        one[k] += 1e-5*torch.randn_like(one[k]).sign()
        assert not draw(one).kind
    for k in torch.randint(t.shape[1], (20,)).tolist():
        one = t.clone()
        one[:,k] += 1e-5*torch.randn_like(one[:,k]).sign()
        assert not draw(one).kind

def test_small_tensors_are_fresh_in_company_and_only_there():
    """Nothing looks trained, and a later layer shows that no step was taken; but a small head over fresh features
    may be trained"""
    def tabular():
        from fastai.tabular.all import TabularModel
        return TabularModel([(10,4),(7,3)], 3, 2, [20,10])
    for seed in range(4):
        torch.manual_seed(seed)
        assert provenance(tabular()) == {}
    torch.manual_seed(0)
    m = nn.Sequential(nn.Linear(8,64), nn.ReLU(), nn.Linear(64,1))
    with torch.no_grad():
        m[2].weight += 1e-4*torch.randn(1,64)
        m[2].bias += 1e-4
    assert {'0.weight','2.weight','2.bias'} <= set(provenance(m))
    m = nn.Sequential(nn.Linear(8,64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64,4))
    nn.init.normal_(m[3].bias, 0, .01)  # four numbers of a normal show nothing by themselves
    assert provenance(m) == {}
    m[1].bias.data += 1e-3*torch.randn(64).abs().sqrt()
    assert '3.bias' in provenance(m)

def test_distributions_that_stay_are_drawn_anew():
    """A weight before a norm, or in a post-norm Transformer, keeps its distribution, not its numbers; layers that
    were cloned differ"""
    torch.manual_seed(0)
    m = nn.TransformerEncoder(nn.TransformerEncoderLayer(32,4,64), 2)
    a,b = m.layers
    assert torch.equal(a.linear1.weight, b.linear1.weight)
    before = a.linear1.weight.detach().clone()
    init_plan(m).apply()
    assert not torch.equal(a.linear1.weight, b.linear1.weight) and not torch.equal(a.linear1.weight, before)
    assert (abs(a.linear1.weight.abs().max()/before.abs().max() - 1) < .01
            and abs(a.linear1.weight.std()/before.std() - 1) < .05)
    conv = nn.Sequential(nn.Conv2d(3,16,3,bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16,2))
    start = conv[0].weight.detach().clone()
    init_plan(conv).apply()
    assert not torch.equal(conv[0].weight, start) and conv[0].weight.abs().max() <= 1/27**.5 + 1e-6
    dot = nn.ModuleList([nn.Embedding(300,16), nn.Embedding(200,16)])
    init_plan(dot).apply()
    assert abs(dot[0].weight.std() - .25) < .02

@pytest.mark.parametrize('shape', [(64,128), (384,1152), (1000,1000)])
@pytest.mark.parametrize('far', [2., -2.])
def test_a_number_at_the_cut_of_timm(shape, far):
    "Once in 2²⁴ numbers its `trunc_normal_` draws an infinity, and cuts it: that must not hide the rest"
    pytest.importorskip('timm')
    from timm.layers import trunc_normal_
    torch.manual_seed(1)
    layer = nn.Linear(*shape[::-1])
    trunc_normal_(layer.weight, std=.02)
    nn.init.zeros_(layer.bias)
    with torch.no_grad(): layer.weight[3,5] = far
    assert provenance(nn.Sequential(layer)) == {}
    with torch.no_grad(): layer.weight.add_(1e-6*torch.randn(shape))
    assert '0.weight' in provenance(nn.Sequential(layer))
