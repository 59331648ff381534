"Weights and their roles: every parameter once, read and written as its layer uses it"
import pytest, torch, warnings
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn.utils import parametrizations

from fastai_ext.model.roles import roles
from fastai_ext.model.weights import weights

layers = [nn.Linear(3,5), nn.Conv1d(4,6,3,groups=2), nn.Conv2d(3,5,3), nn.Conv3d(2,4,3),
          nn.ConvTranspose1d(4,6,3,groups=2), nn.ConvTranspose2d(4,6,4,2),
          nn.Bilinear(2,3,4), nn.Embedding(7,3), nn.EmbeddingBag(7,3), nn.LSTM(3,4,2,bidirectional=True,proj_size=2),
          nn.GRU(3,4,2), nn.RNN(3,4),
          nn.LSTMCell(3,4), nn.GRUCell(3,4), nn.RNNCell(3,4), nn.MultiheadAttention(8,2),
          nn.MultiheadAttention(8,2,kdim=3,vdim=5,add_bias_kv=True),
          nn.BatchNorm2d(3), nn.GroupNorm(2,4), nn.LayerNorm(4), nn.RMSNorm(4), nn.InstanceNorm2d(3,affine=True),
          nn.PReLU(3), nn.TransformerEncoderLayer(8,2),
          nn.TransformerDecoderLayer(8,2)]

@pytest.mark.parametrize('layer', layers, ids=lambda m: type(m).__name__)
def test_blocks_tile_every_parameter(layer):
    "Writing every view writes every number of every parameter exactly once"
    seen = {id(p): torch.zeros_like(p) for p in layer.parameters()}
    for w in weights(layer):
        assert w.data.shape == w.shape
        w.set(torch.ones(w.shape))
        seen[id(w.param)][w.role.index] += 1
    assert all((t == 1).all() for t in seen.values())
    assert all((p == 1).all() for p in layer.parameters())

@pytest.mark.parametrize('layer', layers, ids=lambda m: type(m).__name__)
def test_no_known_layer_is_other(layer): assert 'other' not in set(weights(layer).attrgot('kind'))

@given(st.integers(1,3), st.integers(1,3), st.integers(1,3), st.integers(1,3),
       st.sampled_from([nn.Conv2d, nn.ConvTranspose2d]))
@settings(max_examples=30, deadline=None)
def test_set_then_data(groups, cin, cout, k, conv):
    m = conv(groups*cin, groups*cout, k, groups=groups, bias=False)
    w, = weights(m)
    t = torch.randn(groups*cout, cin, k, k)
    w.set(t)
    assert torch.equal(w.data, t) and w.fan_in == cin*k*k and w.fan_out == cout*k*k

def test_value_has_gradient_and_blocks():
    m = parametrizations.weight_norm(nn.LSTM(3,4), 'weight_hh_l0')
    w = weights(m, only='weight_hh_l0[g]')[0]
    t = torch.randn(4,4)
    w.set(t)
    torch.testing.assert_close(w.data, t)
    torch.testing.assert_close(m.weight_hh_l0[8:12].detach(), t)
    w.value.sum().backward()
    assert all(p.grad is not None for p in w.params) and len(w.params) == 2

def test_tied_once_under_the_embedding():
    m = nn.ModuleDict(dict(decoder=nn.Linear(4,9), encoder=nn.Embedding(9,4)))
    m.decoder.weight = m.encoder.weight
    ws = weights(m)
    assert ([(w.name,w.kind) for w in ws] == [('encoder.weight','embedding'), ('decoder.bias','bias')]
            and ws[0].tied == ['decoder.weight'])
    assert len(weights(m, only='decoder.weight')) == 1  # either name selects it

def test_parametrized_padding_and_shared_modules():
    shared = nn.Linear(3,3)
    assert len(weights(nn.Sequential(shared, shared))) == 2
    emb = parametrizations.weight_norm(nn.Embedding(5,3,padding_idx=2))
    w = weights(emb)[0]
    w.set(torch.ones(5,3))
    assert emb.weight[2].abs().sum() == 0 and w.how == 'WeightNorm'

def test_fastai_weight_dropout_is_written_through():
    from fastai.text.models.awdlstm import WeightDropout
    m = WeightDropout(nn.LSTM(3,4), .5)
    w = weights(m, only='weight_hh_l0_raw[f]')[0]
    w.set(torch.full((4,4), 2.))
    m.eval()(torch.randn(1,1,3))
    assert (m.module.weight_hh_l0[4:8] == 2).all() and w.kind == 'rnn_hidden'

def test_foreign_layers():
    class Conv1D(nn.Module):  # as GPT-2 has it
        def __init__(self, nf, nx):
            super().__init__()
            self.nf,self.nx,self.weight,self.bias = nf,nx,nn.Parameter(torch.zeros(nx,nf)),nn.Parameter(torch.zeros(nf))
    class MyAttention(nn.Module):
        def __init__(self):
            super().__init__()
            self.c_attn,self.qkv,self.gamma,self.pos_embed,self.strange = Conv1D(12,4),nn.Linear(4,
                12),nn.Parameter(torch.ones(4)),\
                nn.Parameter(torch.zeros(1,5,4)),nn.Parameter(torch.zeros(3,3))
    ws = {w.name: w for w in weights(nn.Sequential(MyAttention()))}
    assert ws['0.c_attn.weight[k]'].shape == (4,4) and ws['0.c_attn.weight[k]'].role.layout == 'io'
    assert ws['0.qkv.bias[v]'].kind == 'bias' and ws['0.qkv.weight[q]'].fan_out == 4
    assert [ws[f'0.{n}'].kind for n in ('gamma','pos_embed','strange')] == ['scale','position','other']
    class T5LayerNorm(nn.Module): pass
    assert roles(T5LayerNorm(), 'weight', (4,))[0].kind == 'norm'

def test_selectors():
    m = nn.Sequential(nn.Linear(2,3), nn.BatchNorm1d(3), nn.Linear(3,1))
    assert weights(m, only='2').attrgot('name') == ['2.weight','2.bias']
    assert weights(m, only=[nn.Linear, '*.bias'], skip=lambda w: w.name=='0.weight').attrgot('name') == ['0.bias',
        '1.bias','2.weight','2.bias']
    with pytest.warns(UserWarning, match="skip='3.*' matches nothing"): weights(m, skip=['3.*','0.*'])
    with pytest.raises(ValueError, match='pass the Learner'): weights(m, only=1)
    with pytest.raises(TypeError, match='selects nothing'): weights(m, only=1.5)
    with pytest.raises(TypeError, match='neither'): weights([1])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert len(weights(m, only='*.weight')) == 3

def test_groups_of_a_learner():
    from fastai.basics import Learner, DataLoaders, L, params
    m = nn.Sequential(nn.Linear(2,3), nn.Linear(3,1))
    learn = Learner(DataLoaders([], []), m, loss_func=nn.MSELoss(), splitter=lambda m: L(m[0], m[1]).map(params))
    assert weights(learn, only=1).attrgot('name') == ['1.weight','1.bias']

def test_wrappers_tables_and_states():
    m = nn.Sequential(nn.Linear(2,3), nn.PReLU())
    m[0].bias.requires_grad_(False)
    ws = weights(nn.DataParallel(m))
    assert ws[0].name == '0.weight' and ws[1].frozen and not ws[0].frozen
    assert 'frozen' in repr(ws) and '<table>' in ws._repr_html_() and '3×2' in str(ws)
    assert repr(ws[0]) == "Weight('0.weight', linear, (3, 2), fan_in=2, fan_out=3)"
    assert ws.attrgot('name')._repr_html_() is None and '0.weight' in repr(ws.attrgot('name'))

def test_lazy_and_meta():
    with pytest.raises(ValueError, match='0.weight is lazy.*Run one batch'): weights(nn.Sequential(nn.LazyLinear(3)))
    w = weights(nn.Linear(2,3,device='meta'))[0]
    assert w.fan_in == 2
    with pytest.raises(ValueError, match='to_empty'): w.set(torch.zeros(3,2))
    with pytest.raises(ValueError, match='has shape'): weights(nn.Linear(2,3))[0].set(torch.zeros(2,3))
