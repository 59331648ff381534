"Acceptance tests 1-21 and 28-30 of weight initialization: classic bugs, one by one"
from pathlib import Path

import numpy as np
import pandas as pd
import pytest, torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from fastai.basics import DataLoaders, DataLoader, Learner, CrossEntropyLossFlat, L, params, load_learner
from fastai.data.block import CategoryBlock
from fastai.data.core import Datasets, TfmdDL
from fastai.data.transforms import Categorize
from fastai.tabular.data import TabularDataLoaders
from fastai.vision.all import MixedPrecision
from fastai_ext.init.callback import Init
from fastai_ext.init.auto import init_plan
from fastai_ext.init.head import HeadPrior, class_counts, head_prior
from fastai_ext.init.schemes import sparse

def start(m, scheme='auto', seed=0, **kw): init_plan(m, scheme, **kw).apply(seed); return m
def std(m, *shape):
    with torch.no_grad(): return m(torch.randn(*shape, generator=torch.Generator().manual_seed(0))).std().item()
def flat(m): return torch.cat([p.detach().flatten() for p in m.parameters()])

# ------------------------------------------------------------------ fans and packing
def test_01_grouped_conv():
    m = start(nn.Conv2d(64, 64, 3, groups=64, bias=False, padding=1, padding_mode='circular'))
    assert abs(std(m, 16, 64, 32, 32) - 1) < .05
    m = start(nn.Conv2d(64, 64, 3, groups=64, bias=False), 'kaiming_normal', mode='fan_out', gain=1.)
    assert abs(m.weight.std().item()*3 - 1) < .1

@pytest.mark.parametrize('cin', [64, 16])
def test_02_transposed_conv(cin):
    m = start(nn.ConvTranspose2d(cin, 64, 4, 2, bias=False), 'kaiming_normal', gain=1.)
    with torch.no_grad(): out = m(torch.randn(16, cin, 32, 32))[..., 4:-4, 4:-4]
    assert abs(out.std().item() - 1) < .05

def test_03_packed_qkv():
    packed,unpacked = nn.MultiheadAttention(256, 4),nn.MultiheadAttention(256, 4, kdim=257, vdim=257)
    for m in (packed,unpacked): m.out_proj.weight.data.zero_(); start(m, 'xavier_uniform', only='*')
    assert abs(packed.in_proj_weight[:256].var().item()/unpacked.q_proj_weight.var().item() - 1) < .05
    assert packed.out_proj.weight.std() > 0
    start(packed, 'orthogonal', only='*')
    for b in packed.in_proj_weight.detach().chunk(3): assert torch.dist(b@b.T, torch.eye(256)) < 1e-3

@pytest.mark.parametrize('make', [nn.LSTM, nn.GRU])
def test_04_rnn_gates(make):
    m = start(make(8, 16, 2, bidirectional=True))
    for n,p in m.named_parameters():
        if 'weight_hh' in n:
            for b in p.detach().split(16): assert (b@b.T - torch.eye(16)).norm() < 1e-5
    for s in ('l0','l1','l0_reverse','l1_reverse'):
        total = (getattr(m, f'bias_ih_{s}') + getattr(m, f'bias_hh_{s}')).detach()
        want = torch.zeros_like(total)
        if make is nn.LSTM: want[16:32] = 1  # the order is i f g o; GRU's is r z n and has no forget gate
        assert torch.equal(total, want)

# what 'auto' draws from its own distribution, since the tournament found no better one
def own(m):
    """Names of the matrices that are drawn anew from the distribution that they have. Three numbers of a bias may show
    too little: one time in eight all lie below half their bound, and one time in eight they may have been trained"""
    bounds = {n: p.abs().max().item() for n,p in m.named_parameters() if p.ndim > 1}
    plan = [(r,bounds[r.weight.full_name]) for r in init_plan(m) if r.weight.full_name in bounds]
    return {r.name for r,b in plan if r.scheme == 'uniform' and b <= r.kw['high'] < 2*b}

def test_transposed_convs_and_what_feeds_them():
    m = nn.Sequential(nn.Conv2d(1,16,3,2,1), nn.ReLU(), nn.Flatten(), nn.Linear(256,12), nn.Linear(12,256), nn.ReLU(),
                      nn.Unflatten(1,(16,4,4)), nn.ConvTranspose2d(16,16,4,2,1), nn.ReLU(), nn.Conv2d(16,1,1))
    assert own(m) == {'4.weight','7.weight'}
    assert {r.name for r in init_plan(m) if r.scheme == 'kaiming_normal'} == {'0.weight','3.weight','9.weight'}

class Reader(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.rnn,self.head = cell(16, 32, batch_first=True),nn.Linear(32, 3)
    def forward(self, x): return self.head(self.rnn(x)[0][:,-1])

def test_gru_keeps_its_inputs_and_its_output_but_an_lstm_does_not():
    assert own(Reader(nn.GRU)) == {f'rnn.weight_ih_l0[{g}]' for g in 'rzn'} | {'head.weight'}
    assert not own(Reader(nn.LSTM)) and not own(Reader(nn.RNN))

def dense(*sizes):
    return nn.Sequential(*(l for i,o in zip(sizes[:-2], sizes[1:-1]) for l in (nn.Linear(i,o), nn.LeakyReLU())),
                         nn.Linear(*sizes[-2:]))

def test_a_game_of_two_networks_keeps_its_distributions():
    from fastai.vision.gan import GANModule, basic_critic, basic_generator
    game = GANModule(dense(8,64,64,20), dense(20,64,64,1))
    assert own(game) >= {n for n,p in game.named_parameters() if p.ndim > 1} and not own(dense(20,64,64,1))
    for pictures in (GANModule(basic_generator(16, 3, in_sz=20), basic_critic(16, 3)),
                     GANModule(basic_critic(16, 3), basic_generator(16, 3, in_sz=20))):  # whatever their order
        plan = init_plan(pictures)
        assert all('game of two networks' in r.reason for r in plan if r.weight.is_matrix)
    chain = nn.Sequential(dense(8,64,64,20), dense(20,64,64,1))  # the first goes into the second, and nothing else does
    body = nn.ModuleDict(dict(body=nn.Sequential(*dense(8,64,20), nn.ReLU()), head=dense(20,64,1)))
    assert not own(chain) and not own(body)

def test_05_grouped_orthogonal():
    m = start(nn.Conv2d(12, 12, 1, groups=3), 'orthogonal')
    for b in m.weight.detach().flatten(1).chunk(3): assert torch.dist(b@b.T, torch.eye(4)) < 1e-5

def test_06_sparse():
    make = lambda seed: sparse(torch.empty(50, 80), .75, generator=torch.Generator().manual_seed(seed))
    assert (((make(0) != 0).sum(1) == 20).all() and torch.equal(make(0), make(0))
            and not torch.equal(make(0) != 0, make(1) != 0))

# ------------------------------------------------------------------ parameters that are not plain weights
@pytest.mark.parametrize('scheme', ['auto', 'normal'])
def test_07_padding_row_stays_zero(scheme):
    m = nn.Sequential(nn.Embedding(20, 8, padding_idx=3), nn.Linear(8, 2))
    m[0].weight.data.normal_()
    start(m, scheme)
    assert m[0].weight[3].abs().sum() == 0 and m[0].weight.std() > 0

def test_08_tied_weights():
    m = nn.ModuleList([nn.Linear(16, 50), nn.Embedding(50, 16)])
    m[0].weight = m[1].weight
    plan = init_plan(m)
    assert [r.scheme for r in plan if r.weight.kind == 'embedding'] == ['trunc_normal'] and len(plan) == 2
    plan.apply()
    assert m[0].weight is m[1].weight and abs(m[0].weight.std().item() - .0088) < .001

@pytest.mark.parametrize('wrap',
                         [parametrizations.weight_norm, nn.utils.weight_norm, parametrizations.spectral_norm,
                          nn.utils.spectral_norm,
                                  parametrizations.orthogonal])
def test_09_the_effective_weight_changes(wrap):
    m = wrap(nn.Linear(40, 30))
    m.eval()
    ids,before = [id(p) for p in m.parameters()],m(torch.eye(40)).detach()
    plan = start(m, 'xavier_normal')
    after = plan(torch.eye(40)).detach() - m.bias.detach()
    assert torch.dist(after, before) > 1 and [id(p) for p in m.parameters()] == ids
    same = start(nn.Linear(40, 30), 'xavier_normal').weight.detach().T
    if wrap in (parametrizations.weight_norm, nn.utils.weight_norm): torch.testing.assert_close(after, same)
    if 'spectral' in wrap.__name__:
        torch.testing.assert_close(after, same/torch.linalg.matrix_norm(same, 2), rtol=.05, atol=.02)

def test_10_norms_and_slopes_never_get_fans():
    m = nn.Sequential(nn.Conv2d(3,8,3), nn.GroupNorm(2,8), nn.PReLU(8), nn.Flatten(1), nn.RMSNorm(8), nn.LayerNorm(8),
                      nn.BatchNorm1d(8), nn.Linear(8,2))
    before = {n: p.clone() for n,p in m.named_parameters()}
    for scheme in ('auto', 'kaiming_normal', 'normal'):
        start(m, scheme)
        for n,p in m.named_parameters():
            if n[0] in '12456': assert torch.equal(p, before[n]), n

def test_11_lazy_and_meta():
    m = nn.Sequential(nn.Linear(2,3), nn.LazyLinear(3))
    before = m[0].weight.clone()
    with pytest.raises(ValueError, match='lazy'): start(m)
    m = nn.Sequential(nn.Linear(2,3), nn.Linear(3,3,device='meta'))
    keep = m[0].weight.clone()
    with pytest.raises(ValueError, match='meta device'): start(m)
    assert torch.equal(m[0].weight, keep) and before.shape == (3,2)

def test_12_cloned_layers_differ():
    m = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2), 3)
    assert torch.equal(m.layers[0].linear1.weight, m.layers[1].linear1.weight)
    start(m)
    for n in ('linear1.weight','linear2.weight','self_attn.in_proj_weight','self_attn.out_proj.weight'):
        ps = [l.get_parameter(n) for l in m.layers]
        assert not torch.equal(ps[0], ps[1]) and not torch.equal(ps[1], ps[2])

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_13_half_precision_and_channels_last(dtype):
    plain = start(nn.Conv2d(3, 8, 3))
    half = start(nn.Conv2d(3, 8, 3).to(dtype), force=True)
    last = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
    strides = last.weight.stride()
    assert torch.equal(half.weight, plain.weight.to(dtype)) and half.weight.dtype == dtype
    assert torch.equal(start(last).weight, plain.weight) and last.weight.stride() == strides
    assert torch.isfinite(start(nn.Linear(64, 64).to(dtype), 'orthogonal', force=True).weight).all()

class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc,self.layer_scale,self.alpha,self.pos_embed = nn.Linear(4,
            4),nn.Parameter(torch.full((4,), 1e-5)),nn.Parameter(torch.zeros(1)),\
            nn.Parameter(torch.randn(1,6,4))
    def forward(self, x): return x + self.layer_scale*self.alpha*self.fc(x + self.pos_embed)

def test_14_gates_and_positions_only_when_named():
    m = Gated()
    before = {n: p.clone() for n,p in m.named_parameters()}
    for scheme in ('auto','normal'):
        start(m, scheme)
        for n in ('layer_scale','alpha','pos_embed'): assert torch.equal(m.get_parameter(n), before[n])
    start(m, only='pos_embed')
    assert not torch.equal(m.pos_embed, before['pos_embed']) and torch.equal(m.alpha, before['alpha'])

# ------------------------------------------------------------------ transfer and the life cycle
class Small(nn.Sequential):
    "A body that `create_body` can cut, trained or not"
    def __init__(self):
        super().__init__(nn.Conv2d(3,16,3,2,1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16,32,3,2,1),
                         nn.BatchNorm2d(32), nn.ReLU(),
                                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32,10))

def images(n=64):
    from sklearn.datasets import load_digits
    x,y = load_digits(return_X_y=True)
    return F.interpolate(torch.tensor(x[:n]).float().view(-1,1,8,8)/16, size=16).repeat(1,3,1,1),torch.tensor(y[:n])

@pytest.fixture(scope='module')
def trained():
    "The state of a `Small` after some training"
    torch.manual_seed(0)
    m,(x,y) = Small(),images(400)
    opt = torch.optim.Adam(m.parameters(), 1e-2)
    for _ in range(30):
        opt.zero_grad()
        F.cross_entropy(m(x), y).backward()
        opt.step()
    return m.state_dict()

def arch(state):
    def small(pretrained=False, **kw):
        m = Small()
        if pretrained: m.load_state_dict(state)
        return m
    return small

def vision_dls(tmp):
    from PIL import Image
    from fastai.vision.all import ImageDataLoaders
    x,y = images(24)
    for i in range(24):
        Image.fromarray((x[i].permute(1,2,0)*255).byte().numpy()).save(Path(tmp)/f'{y[i].item() % 2}_{i}.png')
    return ImageDataLoaders.from_name_func(tmp, sorted(Path(tmp).glob('*.png')), lambda n: Path(n).name[0],
                                           valid_pct=.25, seed=0, bs=8, num_workers=0)

def small_learner(cbs=None, model=None, tmp='.', **kw):
    x,y = images(64)
    ds = list(zip(x,y))
    return Learner(DataLoaders(DataLoader(ds, bs=16), DataLoader(ds, bs=16)), model or Small(),
                   loss_func=CrossEntropyLossFlat(), cbs=cbs, path=tmp, **kw)

def fit(learn, n=1, lr=0., **kw):
    with learn.no_logging(), learn.no_bar(): learn.fit(n, lr, wd=0., **kw)
    return learn

@pytest.mark.parametrize('unfreeze', [False, True])
@pytest.mark.parametrize('when', ['created', 'fit'])
def test_15_vision_learner_body_is_kept(trained, tmp_path, unfreeze, when):
    from fastai.vision.all import vision_learner
    learn = vision_learner(vision_dls(tmp_path), arch(trained), normalize=False,
                           cbs=Init() if when=='created' else None)
    if unfreeze: learn.unfreeze()
    body,head = (learn.model[0][0].weight.clone(),learn.model[0][3].weight.clone()),learn.model[1][4].weight.clone()
    fit(learn, cbs=Init() if when=='fit' else None)
    assert torch.equal(learn.model[0][0].weight, body[0]) and torch.equal(learn.model[0][3].weight, body[1])
    assert not torch.equal(learn.model[1][4].weight, head)
    if when == 'created':
        assert {r['reason'] for r in learn.init.record if r['name'].startswith('0.')} == {'pretrained body'}

def test_15_unpretrained_body_is_initialized_and_force_overrides(trained, tmp_path):
    from fastai.vision.all import vision_learner
    learn = vision_learner(vision_dls(tmp_path), arch(trained), normalize=False, pretrained=False, cbs=Init())
    before = learn.model[0][0].weight.clone()
    assert not torch.equal(fit(learn).model[0][0].weight, before)
    learn = vision_learner(vision_dls(tmp_path), arch(trained), normalize=False, cbs=Init(force=True))
    before = learn.model[0][0].weight.clone()
    fit(learn)
    assert not torch.equal(learn.model[0][0].weight, before) and (learn.model[0][1].weight == 1).all()

def test_15_unet_learner_body_is_kept(tmp_path):
    from fastai.vision.all import unet_learner
    from torchvision.models import resnet18
    def net(pretrained=False, **kw):
        torch.manual_seed(1)
        return resnet18()
    dls = vision_dls(tmp_path)
    learn = unet_learner(dls, net, n_out=2, normalize=False, loss_func=CrossEntropyLossFlat(), cut=-2,
                         splitter=lambda m: L(m[0], m[1:]).map(params))
    learn.unfreeze()
    plan = learn.init_weights()
    assert all(r.reason == 'pretrained body' for r in plan if r.name.startswith('layers.0.') and not r.scheme)
    assert not [r.name for r in plan.changed if r.name.startswith('layers.0.')] and plan.changed

def test_15_text_encoder_is_kept(tmp_path):
    import pandas as pd
    from fastai.text.all import (AWD_LSTM, TextDataLoaders, awd_lstm_clas_config, awd_lstm_lm_config,
                                 language_model_learner, text_classifier_learner)
    words = 'a good film with a slow start and a fine end'.split()
    df = pd.DataFrame(dict(text=[' '.join(words[i % 5:]*3) for i in range(24)], label=['no','yes']*12))
    small = dict(emb_sz=16, n_hid=24, n_layers=1)
    lm_dls = TextDataLoaders.from_df(df, tmp_path, text_col='text', is_lm=True, bs=4, seq_len=8, seed=0)
    dls = TextDataLoaders.from_df(df, tmp_path, text_col='text', label_col='label', text_vocab=lm_dls.vocab, bs=4,
                                  seed=0)
    lm = language_model_learner(lm_dls, AWD_LSTM, pretrained=False, path=tmp_path,
                                config={**awd_lstm_lm_config, **small})
    lm.save_encoder('encoder')  # random like a fresh one: only the load itself tells
    learn = text_classifier_learner(dls, AWD_LSTM, pretrained=False, path=tmp_path,
                                    config={**awd_lstm_clas_config, **small}, cbs=Init())
    learn.load_encoder('encoder')
    encoder = {n: p.clone() for n,p in learn.model[0].named_parameters()}
    head = learn.model[1].layers[0][2].weight.clone()
    learn.unfreeze()
    fit(learn)
    assert all(torch.equal(p, encoder[n]) for n,p in learn.model[0].named_parameters())
    assert not torch.equal(learn.model[1].layers[0][2].weight, head)
    assert {r['reason'] for r in learn.init.record
            if r['name'].startswith('0.')} == {'loaded or changed after the Learner was made'}

def test_16_loads_are_seen(tmp_path):
    other = small_learner(tmp=tmp_path)
    other.save('w')
    learn = small_learner(Init(), tmp=tmp_path)
    learn.load('w')
    with pytest.warns(UserWarning, match='nothing was changed.*loaded or changed after'): fit(learn)
    assert torch.equal(learn.model[0].weight, other.model[0].weight)

def test_16_values_of_a_trained_model_are_seen(trained):
    m = Small()
    m.load_state_dict(trained)
    m[-1] = nn.Linear(32, 10)
    assert {r.name for r in init_plan(m).changed} == {'8.weight','8.bias'}

def test_17_once_and_through_export(tmp_path):
    dls = vision_dls(tmp_path)
    learn = fit(Learner(dls, Small(), loss_func=CrossEntropyLossFlat(), cbs=Init(seed=1)), lr=.1)
    before = learn.model[0].weight.clone()
    fit(learn)
    with learn.no_logging(): learn.fine_tune(1, 0.)
    assert torch.equal(learn.model[0].weight, before)
    learn.export('e.pkl')
    back = load_learner(tmp_path/'e.pkl')
    assert back.init.done and back.init.record == learn.init.record
    back.dls = dls
    assert torch.equal(fit(back).model[0].weight, before)

def test_18_lr_find_first(tmp_path):
    plain = start(Small(), seed=1)
    learn = small_learner(Init(seed=1), tmp=tmp_path)
    with learn.no_logging(), learn.no_mbar(): learn.lr_find(num_it=6, show_plot=False)
    assert learn.init.done and torch.equal(flat(learn.model), flat(plain))
    assert Init.order > -10 and Init.order < 11

def test_19_a_custom_head_is_kept(trained, tmp_path):
    from fastai.vision.all import vision_learner
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 2))
    learn = vision_learner(vision_dls(tmp_path), arch(trained), normalize=False, custom_head=head, init=None,
                           cbs=Init())
    before = head[2].weight.clone()
    with pytest.warns(UserWarning, match='nothing was changed'): fit(learn)
    assert torch.equal(head[2].weight, before)
    assert {r['reason'] for r in learn.init.record if r['name'].startswith('1.')} == {'head that you supplied'}

def test_20_frozen_by_parameter():
    m = nn.Linear(4, 3)
    m.weight.requires_grad_(False)
    before = m.weight.clone()
    start(m)
    assert torch.equal(m.weight, before) and (m.bias == 0).all()
    start(m, force=True)
    assert not torch.equal(m.weight, before)

def test_21_in_place_and_no_stale_optimizer_state():
    learn = fit(small_learner(), lr=.01)
    ids,opt = [id(p) for p in learn.model.parameters()],learn.opt
    learn.init_weights(force=True)
    assert [id(p) for p in learn.model.parameters()] == ids and learn.opt is opt
    assert not any(set(opt.state[p]) - {'do_wd','force_train'} for p in (learn.model[0].weight, learn.model[8].weight))
    fit(learn, lr=.01)

# ------------------------------------------------------------------ probing
def test_28_the_same_under_autocast_and_amp():
    plain = start(Small(), seed=1)
    with torch.autocast('cpu', torch.bfloat16): cast = start(Small(), seed=1)
    assert torch.equal(flat(plain), flat(cast)) and cast[0].weight.dtype == torch.float32
    learn = small_learner([Init(seed=1), MixedPrecision()])
    fit(learn)
    assert torch.equal(learn.model[0].weight, plain[0].weight)

def test_30_same_seed_same_weights_same_rng():
    import random
    states = lambda: (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())
    before = states()
    a,b = (small_learner().init_weights(seed=5) and None for _ in range(2))
    assert a is b is None and torch.get_rng_state().tolist() != before[0]  # making the model used it
    m,state = Small(),states()
    start(m, seed=5), start(m, nn.init.kaiming_uniform_, seed=5)
    assert states() == state
    torch.manual_seed(3)
    one,two = small_learner(),small_learner()
    torch.manual_seed(4); one.init_weights(); torch.manual_seed(4); two.init_weights()
    assert torch.equal(flat(one.model), flat(two.model))
    torch.manual_seed(5); two.init_weights()
    assert not torch.equal(flat(one.model), flat(two.model))

# ------------------------------------------------------------------ the prior of the head
def classifier(dls, head, loss=None, **kw):
    return Learner(dls, nn.Sequential(nn.Linear(4, 5), nn.ReLU(), head), loss or CrossEntropyLossFlat(), **kw)

def test_class_shares_are_counted_without_their_inputs():
    "Labels that are kept apart, as those of files, are read alone"
    read = []
    def note(i): read.append(i); return i
    labels = ['a']*6+['b']*3+['c']
    dsets = Datasets(range(10), tfms=[[note], [lambda i: labels[i], Categorize(vocab=['a','b','c'])]])
    dls = DataLoaders(TfmdDL(dsets, bs=4), TfmdDL(dsets, bs=4))
    read.clear()
    counts,total = class_counts(dls, 3, 'softmax')
    assert counts.tolist() == [6,3,1] and total == 10 and not read

def test_class_shares_of_a_table_and_of_batches():
    df = pd.DataFrame(dict(x=np.arange(10.), y=['a']*6+['b']*3+['c']))
    table = TabularDataLoaders.from_df(df, y_names='y', cont_names=['x'], procs=[], valid_idx=[0,9], bs=4,
                                       y_block=CategoryBlock())
    assert class_counts(table, 3, 'softmax')[0].tolist() == [5,3,0]
    soft = torch.eye(3)[[0,0,1]]
    ignored = torch.tensor([0,2,-100])
    for y,want in ((soft, [2,1,0]), (ignored, [1,0,1])):
        rows = list(zip(torch.randn(3, 4), y, strict=True))
        dls = DataLoaders(DataLoader(rows, bs=2), DataLoader(rows, bs=2))
        assert class_counts(dls, 3, 'softmax')[0].tolist() == want

def test_a_prior_that_does_not_fit_the_head():
    torch.manual_seed(0)
    rows = list(zip(torch.randn(8, 4), torch.arange(8)%3, strict=True))
    dls = DataLoaders(DataLoader(rows, bs=4), DataLoader(rows, bs=4))
    with pytest.raises(ValueError, match='a label is 2, but the head has 2 outputs'):
        head_prior(classifier(dls, nn.Linear(5, 2)), force=True)
    with pytest.raises(ValueError, match='the last layer 2.weight has 3 outputs, not 2'):
        head_prior(classifier(dls, nn.Linear(5, 3)), shares=[1,2], force=True)
    with pytest.raises(ValueError, match='2.weight has no bias to hold the prior'):
        head_prior(classifier(dls, nn.Linear(5, 3, bias=False)), force=True)
    with pytest.raises(ValueError, match='Identity has no linear or convolutional layer'):
        head_prior(Learner(dls, nn.Identity(), CrossEntropyLossFlat()))
    with pytest.raises(ValueError, match='std=-1 is not a standard deviation'): HeadPrior(std=-1)
    nobody = [(torch.randn(4), torch.tensor(-100))]*4
    with pytest.raises(ValueError, match='no training labels; give shares='):
        dls = DataLoaders(DataLoader(nobody, bs=2), DataLoader(nobody, bs=2))
        head_prior(classifier(dls, nn.Linear(5, 3)), force=True)

def test_a_head_that_was_trained_is_left_alone_and_said():
    rows = list(zip(torch.randn(8, 4), torch.arange(8)%3, strict=True))
    learn = classifier(DataLoaders(DataLoader(rows, bs=4), DataLoader(rows, bs=4)), nn.Linear(5, 3), lr=.1)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    before = flat(learn.model)
    with pytest.warns(UserWarning, match='the head 2.weight is left alone.*force=True overrides it'):
        assert not head_prior(learn)['done']
    assert torch.equal(flat(learn.model), before)
    assert head_prior(learn, force=True)['done'] and not torch.equal(flat(learn.model), before)
