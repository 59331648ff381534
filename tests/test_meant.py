"What an author meant stays: starts that no general scheme gives, one by one, under 'auto' and under a named scheme"
import math

import pytest, torch
from torch import nn
from fastai_ext.init.auto import init_plan
from fastai_ext.model.provenance import provenance
from fastai_ext.model.weights import weights

def changed(m, scheme='auto', **kw):
    "Names of the parameters that a start changes"
    before = {n: p.detach().clone() for n,p in m.named_parameters()}
    init_plan(m, scheme, **kw).apply(0)
    return {n for n,p in m.named_parameters() if not torch.equal(p, before[n])}

def net(*layers): return nn.Sequential(nn.Linear(8,32), nn.ReLU(), *layers)

def spatial_transformer():
    m = net(nn.Linear(32,6))
    nn.init.zeros_(m[2].weight)
    m[2].bias.data = torch.tensor([1.,0,0,0,1,0])
    return m,{'2.weight','2.bias'}
def forget_biases():
    m = net(nn.Linear(32,8))
    nn.init.zeros_(m[2].weight)
    m[2].bias.data = torch.linspace(3, 6, 8)
    return m,{'2.weight','2.bias'}
def forget_biases_beside_weights():
    m = net(nn.Linear(32,8))
    m[2].bias.data = torch.linspace(3, 6, 8)
    return m,{'2.bias'}
def offset_grid():
    "Each head of deformable attention looks in a direction of its own, each point one step further (Zhu et al. 2021)"
    m = net(nn.Linear(32, 8*2*4*2))
    turn = torch.arange(8)*2*math.pi/8
    grid = torch.stack([turn.cos(), turn.sin()], -1)
    grid = (grid/grid.abs().max(-1, keepdim=True)[0]).view(8,1,1,2).repeat(1,2,4,1)*torch.arange(1,5).view(1,1,4,1)
    nn.init.zeros_(m[2].weight)
    m[2].bias.data = grid.flatten()
    return m,{'2.weight','2.bias'}
def siren():
    m = nn.Sequential(nn.Linear(2,256), nn.Linear(256,256), nn.Linear(256,1))
    m[0].weight.data.uniform_(-1/2, 1/2)
    for l in m[1:]: l.weight.data.uniform_(-math.sqrt(6/256)/30, math.sqrt(6/256)/30)
    return m,{'0.weight','1.weight','2.weight'}
def fourier_features():
    m = nn.Sequential(nn.Linear(2,256,bias=False), nn.Linear(256,3))
    nn.init.normal_(m[0].weight, std=10)
    return m,{'0.weight'}
def sobel():
    m = nn.Sequential(nn.Conv2d(1,2,3,bias=False), nn.ReLU(), nn.Conv2d(2,8,3))
    x = torch.tensor([[1.,0,-1],[2,0,-2],[1,0,-1]])
    m[0].weight.data = torch.stack([x, x.T])[:,None]
    return m,{'0.weight'}
def bilinear_upsampling():
    m = nn.Sequential(nn.Conv2d(3,4,3), nn.ReLU(), nn.ConvTranspose2d(4,4,4,2,1,groups=4,bias=False))
    one = 1 - (torch.arange(4)/2 - .75).abs()
    m[2].weight.data = (one[:,None]*one).repeat(4,1,1,1)
    return m,{'2.weight'}
def identity():
    m = net(nn.Linear(32,32), nn.ReLU(), nn.Linear(32,2))
    nn.init.eye_(m[2].weight)
    return m,{'2.weight'}
def dirac():
    m = nn.Sequential(nn.Conv2d(3,8,3), nn.ReLU(), nn.Conv2d(8,8,3))
    nn.init.dirac_(m[2].weight)
    return m,{'2.weight'}
def complex_weight():
    m = net(nn.Linear(32,3))
    m.spectrum = nn.Parameter(torch.randn(8,8,dtype=torch.cfloat))
    return m,{'spectrum'}
def zero_adapter():
    m = net(nn.Linear(32,4,bias=False), nn.Linear(4,32,bias=False), nn.Linear(32,2))
    nn.init.zeros_(m[3].weight)
    return m,{'3.weight'}
def rare_classes():
    m = net(nn.Linear(32,5))
    nn.init.constant_(m[2].bias, -4.6)
    return m,{'2.weight','2.bias'}
def icnr():
    m = nn.Sequential(nn.Conv2d(3,8,3), nn.ReLU(), nn.Conv2d(8,16,1), nn.PixelShuffle(2))
    m[2].weight.data = nn.init.kaiming_normal_(torch.empty(4,8,1,1)).repeat_interleave(4, 0)
    return m,{'2.weight'}
def masked():
    "Made with holes, by whatever rule"
    m = net(nn.Linear(32,32), nn.ReLU(), nn.Linear(32,2))
    m[2].weight.data *= torch.rand(32,32) > .5
    return m,{'2.weight'}
def state_space():
    import transformers as t
    m = t.MambaModel(t.MambaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, state_size=8))
    return m,{n for n,_ in m.named_parameters() if 'dt_proj' in n or n.endswith(('A_log','.D'))}
def rwkv():
    import transformers as t
    m = t.RwkvModel(t.RwkvConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, attention_hidden_size=32))
    m.embeddings.weight.data.uniform_(-1e-4, 1e-4)  # as its author starts it; the library does not
    return m,{n for n,_ in m.named_parameters() if 'time_' in n} | {'embeddings.weight'}
def depth_scaled():
    import transformers as t
    m = t.GPT2Model(t.GPT2Config(vocab_size=50, n_embd=32, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0))
    return m,{n for n,_ in m.named_parameters() if n.endswith('c_proj.weight')}

meant = [spatial_transformer, forget_biases, forget_biases_beside_weights, offset_grid, siren, fourier_features, sobel,
         bilinear_upsampling, identity, dirac, complex_weight, zero_adapter, rare_classes, icnr, masked, state_space,
         rwkv, depth_scaled]

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('make', meant, ids=lambda f: f.__name__)
def test_auto_keeps_what_was_meant(make):
    torch.manual_seed(0)
    m,own = make()
    done = changed(m)
    assert not done & own
    assert done or make is siren  # the rest of the network is started

@pytest.mark.parametrize('make', [spatial_transformer, forget_biases, offset_grid, sobel, identity, dirac,
                                  complex_weight, zero_adapter, rare_classes, icnr, masked], ids=lambda f: f.__name__)
def test_a_named_scheme_keeps_it_too_until_it_is_named(make):
    torch.manual_seed(0)
    m,own = make()
    assert not changed(m, 'kaiming_normal') & own
    if make is zero_adapter: assert changed(m, 'kaiming_normal', only='3.weight') == {'3.weight'}

def own_formula():
    "Models of which a few parameters follow a formula: those are named, the rest counts as fresh"
    import transformers as t
    text = dict(vocab_size=100, hidden_size=64, num_hidden_layers=2)
    ids = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2)
    yield 'mamba', lambda: t.MambaModel(t.MambaConfig(**text, state_size=8)), 'dt_proj.'
    yield 'rwkv', lambda: t.RwkvModel(t.RwkvConfig(**text, attention_hidden_size=64)), 'time_'
    whisper = dict(vocab_size=100, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
                   decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, decoder_start_token_id=1)
    yield 'whisper', lambda: t.WhisperModel(t.WhisperConfig(**whisper, **ids)), 'embed_positions'
    bert = dict(vocab_size=200, hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
                cls_token_id=3, sep_token_id=4)
    yield 'modernbert', lambda: t.ModernBertModel(t.ModernBertConfig(**bert, **ids)), 'nothing'

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('make,formula', [pytest.param(*o[1:], id=o[0]) for o in own_formula()])
def test_a_formula_here_and_there_does_not_make_a_model_trained(make, formula):
    torch.manual_seed(0)
    m = make()
    held = {n: why for n,why in provenance(m).items() if formula not in n and 'A_log' not in n}
    n = sum(w.shape.numel() for w in weights(m) if w.name in held)
    assert n <= .01*sum(p.numel() for p in m.parameters()), held
    for p in m.parameters(): p.data += 1e-6*torch.rand_like(p).sqrt()
    assert len(provenance(m)) == len(weights(m))
