"A shrunk network is smaller and answers as before, whatever it is made of; what cannot be told is left alone"
import copy, warnings
from functools import partial

import pytest, timm, torch, torchvision
from fastai.basics import (Adam, Callback, CrossEntropyLossFlat, DataLoader, DataLoaders, Learner, MSELossFlat,
                           OptimWrapper, SGD, set_seed)
from fastai.layers import AdaptiveConcatPool2d, ConvLayer, Flatten, SigmoidRange, View
from fastai.tabular.all import Categorify, Normalize, RegressionBlock, TabularDataLoaders, load_learner, tabular_learner
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

import fastai_ext.regularize.prune as prune_module
from fastai_ext.regularize.prune import shrink_model
from fastai_ext.regularize.chains import chains
from fastai_ext.regularize.coupled import coupled
from fastai_ext.regularize.remove import remove_dead
from fastai_ext.regularize.units import oriented, zero_columns, zero_rows as zero_rows_of

layers = (nn.Linear, nn.modules.conv._ConvNd)

def zero_rows(m, share, gen):
    "Let a share of the units of a layer have no weight"
    turned = isinstance(m, nn.modules.conv._ConvTransposeNd) and m.groups==1
    rows = m.weight.data.transpose(0, 1) if turned else m.weight.data
    rows[torch.rand(len(rows), generator=gen) < share] = 0

def settle(net, x):
    "Batch norm with random scales and shifts, and statistics of its own"
    for m in net.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.affine:
            nn.init.normal_(m.bias)
            nn.init.normal_(m.weight)
    net.train()
    with torch.no_grad():
        for _ in range(2): net(x)
    return net.eval()

def check(net, x, fewer=True):
    "Shrink and compare, on another batch than the one it was checked with. Returns the table"
    was,n = copy.deepcopy(net),sum(p.numel() for p in net.parameters())
    other = torch.randn_like(x)
    dry = shrink_model(net, x, dry_run=True)
    assert all(torch.equal(a, b) for a,b in zip(was.state_dict().values(), net.state_dict().values(), strict=True))
    res = shrink_model(net, x)
    assert list(res)==list(dry) and res.done==fewer and not dry.done
    for i in (x, other):
        with torch.no_grad(): a,b = was(i),net(i)
        assert (a-b).abs().max() <= 1e-5*max(1, a.abs().max())
    assert sum(p.numel() for p in net.parameters())==res.after and (res.after < n)==fewer
    return res

@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_chain(data):
    seed = data.draw(st.integers(0, 10**6))
    set_seed(seed)
    gen = torch.Generator().manual_seed(seed)
    ch,mods = 2,[]
    for _ in range(data.draw(st.integers(1, 3))):
        out = data.draw(st.integers(2, 7))
        conv,bias = data.draw(st.sampled_from(['same','valid','reflect','transposed'])),data.draw(st.booleans())
        if conv=='transposed': mods.append(nn.ConvTranspose2d(ch, out, 3, stride=2, padding=1, bias=bias))
        else: mods.append(nn.Conv2d(ch, out, 3, padding=0 if conv=='valid' else 1, bias=bias,
                                    padding_mode='reflect' if conv=='reflect' else 'zeros'))
        if data.draw(st.booleans()): mods.append(nn.BatchNorm2d(out))
        mods.append(data.draw(st.sampled_from([nn.ReLU(), nn.GELU(), nn.Tanh(), nn.Sigmoid(), nn.Identity(),
                                               nn.PReLU(out), nn.LeakyReLU()])))
        if data.draw(st.booleans()): mods += [nn.Conv2d(out, out, 3, padding=1, groups=out), nn.BatchNorm2d(out)]
        mods.append(data.draw(st.sampled_from([nn.Identity(), nn.MaxPool2d(2, 1), nn.AvgPool2d(3, 1, padding=1),
                                               nn.Dropout(.5)])))
        ch = out
    pools = [(nn.AdaptiveAvgPool2d(2), 4), (AdaptiveConcatPool2d(1), 2), (nn.AdaptiveMaxPool2d(1), 1)]
    pool,wide = data.draw(st.sampled_from(pools))
    mods += [pool, data.draw(st.sampled_from([nn.Flatten(), Flatten()]))]
    mods += [nn.BatchNorm1d(wide*ch)]*data.draw(st.booleans())
    mods += [nn.Linear(wide*ch, 6, bias=data.draw(st.booleans())), nn.ReLU(), nn.Linear(6, 3)]
    net,x = nn.Sequential(*mods),torch.randn(6, 2, 9, 9)
    share = data.draw(st.sampled_from([.3, .7, 1.]))
    makers = [m for m in mods[:-1] if isinstance(m, layers)]
    for m in makers: zero_rows(m, share, gen)
    settle(net, x)
    n = sum(p.numel() for p in net.parameters())
    was = copy.deepcopy(net)
    res = shrink_model(net, x)
    with torch.no_grad(): a,b = was(x),net(x)
    assert (a-b).abs().max() <= 1e-5*max(1, a.abs().max()) and res.after <= n
    net.train()(x).sum().backward()

def test_dead_units_are_folded_into_the_bias():
    "By hand: two units, the first of which puts out tanh of its bias"
    net = nn.Sequential(nn.Linear(1, 2), nn.Tanh(), nn.Linear(2, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[0.],[2.]])); net[0].bias.copy_(torch.tensor([.5,0.]))
        net[2].weight.copy_(torch.tensor([[3.,4.]])); net[2].bias.fill_(1.)
    shrink_model(net.eval(), torch.randn(4, 1))
    assert net[0].weight.tolist()==[[2.]] and net[2].weight.tolist()==[[4.]]
    assert net[2].bias.item()==pytest.approx(1 + 3*torch.tanh(torch.tensor(.5)).item(), abs=1e-6)
    assert (net[0].out_features,net[2].in_features)==(1,1)

def test_what_is_handed_on_is_summed_in_double_precision_and_stays_frozen():
    net,x = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 1)).eval().requires_grad_(False),torch.randn(4, 1)
    net[0].weight.data[:3] = 0
    net[0].bias.data[:3] = torch.tensor([2.**26, 1., 2.**26])
    net[2].weight.data[:] = torch.tensor([[1., 1., -1., 1.]])
    net[2].bias.data.zero_()
    assert remove_dead(net, chains(net, x)[0], x)==(3, {}) and net[2].bias.item()==1.
    assert not any(p.requires_grad for p in net.parameters())

def test_units_that_nothing_reads_go_too():
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    net[4].weight.data[:,1:] = 0  # three units of the second layer are not read, nor what only they read
    net[2].weight.data[0,2:] = 0
    res = check(net, torch.randn(5, 3))
    assert [(r.units, r.left) for r in res]==[(8,2), (4,1), (2,2)]

@pytest.mark.parametrize('kwargs,left', [(dict(padding=1, padding_mode='reflect'), 3), (dict(padding='valid'), 3),
                                         (dict(padding=1), 4), (dict(padding='same'), 4), (dict(bias=False), 4)])
def test_constants_go_into_the_bias_where_every_position_sees_them(kwargs, left):
    "Past a border of zeros, or without a bias, one unit stays to carry them"
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 3, **kwargs)).eval()
    net[0].weight.data[:3] = 0
    net[0].bias.data[:3] = torch.tensor([1.,2.,3.])
    res = check(net, torch.randn(2, 1, 8, 8))
    assert res[0].left==left and (left==3 or 'carries what the removed ones put out' in res[0].note)

def test_a_unit_of_which_only_constants_are_read_goes():
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.BatchNorm1d(12), nn.Linear(12, 2)).eval()
    net[2].weight.data[:2] = 0     # two of the four columns of the first filter are constant
    nn.init.normal_(net[2].bias)
    net[3].weight.data[:,2:4] = 0  # the others are not read
    assert check(net, torch.randn(5, 1, 4, 4))[0].left==2

def test_all_units_dead_leaves_one():
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
    net[0].weight.data.zero_()
    assert check(net, torch.randn(4, 3))[0].left==1

def test_resnet18():
    set_seed(1)
    gen,net = torch.Generator().manual_seed(1),torchvision.models.resnet18(num_classes=10)
    for n,m in net.named_modules():
        if n.endswith('conv1') and n != 'conv1': zero_rows(m, .5, gen)
    for i in range(1, 5):
        stage = getattr(net, f'layer{i}')
        ends = [stage[0].conv2, stage[1].conv2, stage[0].downsample[0] if i>1 else net.conv1]
        for m in ends: m.weight.data[:len(m.weight)//4] = 0
    x = torch.randn(2, 3, 64, 64)
    res = {r.layer: r for r in check(settle(net, x), x)}
    assert res['layer3.0.conv1'].left < 150 and res['layer2.1.conv2'].left==97
    assert res['fc'].params_left < res['fc'].params

def test_vision_transformer():
    "Units of the perceptron and whole heads go; the stream, which layer norm looks at as a whole, stays"
    set_seed(2)
    net = timm.create_model('vit_tiny_patch16_224', img_size=32, patch_size=8, depth=2, num_classes=10).eval()
    for i,b in enumerate(net.blocks):
        nn.init.normal_(b.attn.qkv.bias); nn.init.normal_(b.mlp.fc1.bias)
        b.mlp.fc1.weight.data[::2] = 0
        b.attn.qkv.weight.data[384+64*i:384+64*i+64] = 0
    res = {r.layer: r for r in check(net, torch.randn(2, 3, 32, 32))}
    assert [b.attn.num_heads for b in net.blocks]==[2, 2]
    assert res['blocks.0.mlp.fc1'].left==384 and res['blocks.1.attn.proj'].left==192

def test_grouped_convolutions():
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3, groups=4), nn.ReLU(), nn.Conv2d(32, 8, 1),
                        nn.ReLU(), nn.Flatten(), nn.Linear(128, 2)).eval()
    for p in (net[0].weight, net[0].bias): p.data[[1,5,9,13]] = 0  # the same place in each group, and no constant
    net[0].weight.data[2] = 0                                      # in one group only: stays
    net[0].weight.data[[0,4,8,12]] = 0; net[0].bias.data[[0,4,8,12]] = 1.  # constants, which no group hands on: stay
    net[2].weight.data[[0,8,16,24]] = 0
    res = check(net, torch.randn(2, 3, 8, 8))
    assert [r.left for r in res]==[12, 28, 8, 2] and net[2].groups==4 and '5 zero rows stay' in res[0].note

@pytest.mark.parametrize('name,size', [('mobilenetv2_050', 64), ('convnext_atto', 64)])
def test_models_of_timm(name, size):
    set_seed(3)
    net,gen = timm.create_model(name, num_classes=5),torch.Generator().manual_seed(3)
    for m in [m for m in net.modules() if isinstance(m, layers)][:-1]: zero_rows(m, .3, gen)
    x = torch.randn(2, 3, size, size)
    check(settle(net, x), x)

class Skip(nn.Module):
    "The first layer's units are also an output"
    def __init__(self): super().__init__(); self.a,self.b = nn.Linear(4, 6),nn.Linear(6, 2)
    def forward(self, x): h = self.a(x).relu(); return self.b(h),h

class Shared(nn.Module):
    def __init__(self): super().__init__(); self.a,self.b,self.c = nn.Linear(4, 4),nn.Linear(4, 4),nn.Linear(4, 1)
    def forward(self, x): return self.c(self.b(self.b(self.a(x).relu()).relu()).relu())

class Mixing(nn.Module):
    def __init__(self): super().__init__(); self.a,self.b = nn.Linear(4, 6),nn.Linear(6, 2)
    def forward(self, x): return self.b(self.a(x).softmax(-1))

class Fixed(nn.Module):
    "Counts on six channels"
    def __init__(self): super().__init__(); self.a,self.b = nn.Conv2d(1, 6, 3),nn.Linear(6*4, 2)
    def forward(self, x): return self.b(self.a(x).reshape(-1, 24))

def tied():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    net[2].weight = net[0].weight
    return net

@pytest.mark.parametrize('net,x', [
    (Skip(), torch.randn(3, 4)), (Mixing(), torch.randn(3, 4)), (Fixed(), torch.randn(3, 1, 4, 4)),
    (tied(), torch.randn(3, 4)),
    (nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2)), torch.randn(3, 4)),
    (nn.Sequential(nn.Conv2d(1, 6, 3), nn.GroupNorm(2, 6), nn.Conv2d(6, 2, 1)), torch.randn(3, 1, 4, 4)),
    (nn.Sequential(weight_norm(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 2)), torch.randn(3, 4)),
    (nn.Sequential(nn.Linear(4, 6)), torch.randn(3, 4))],
    ids=lambda o: type(o).__name__ if isinstance(o, nn.Module) else '')
def test_left_alone(net, x):
    "What the layer's units mean to others cannot be told, or is all of them"
    net.eval()
    first = next(m for m in net.modules() if isinstance(m, layers))
    with torch.no_grad():
        if hasattr(first, 'parametrizations'): first.parametrizations.weight.original0[1:3] = 0
        else: first.weight[1:3] = 0
    was = copy.deepcopy(net.state_dict())
    with warnings.catch_warnings(record=True): res = shrink_model(net, x)
    assert not res.done and 'nothing to remove' in repr(res)
    assert all(torch.equal(was[k], v) for k,v in net.state_dict().items())

def test_a_shared_layer_stays_while_others_shrink():
    net = Shared().eval()
    for m,bias in ((net.a, 1.), (net.b, .5)):
        m.weight.data[1:3] = 0
        m.bias.data[1:3] = bias
    assert not check(net, torch.randn(3, 4), fewer=False).done

def test_wrong_answers_are_never_committed():
    "A network whose output knows how wide it is: equal shapes, other numbers"
    class Knows(nn.Module):
        def __init__(self): super().__init__(); self.a,self.b = nn.Linear(4, 6),nn.Linear(6, 2)
        def forward(self, x): return self.b(self.a(x).relu())*self.a.out_features
    net = Knows().eval()
    net.a.weight.data[:3] = 0
    with pytest.warns(UserWarning, match='the outputs would differ by'): res = shrink_model(net, torch.randn(3, 4))
    assert not res.done and net.a.out_features==6

def test_an_output_as_wide_as_a_layer_keeps_it():
    class Wide(nn.Module):
        def __init__(self): super().__init__(); self.a,self.b = nn.Linear(4, 6),nn.Linear(6, 2)
        def forward(self, x): return self.b(self.a(x).relu()),x.new_zeros(self.a.out_features)
    net = Wide().eval()
    net.a.weight.data[:3] = 0
    with pytest.warns(UserWarning, match='the outputs would differ by inf'): res = shrink_model(net, torch.randn(3, 4))
    assert not res.done and net.a.out_features==6

class Remembers(nn.Module):
    "Knows its width too, but shows it only on other inputs than those it remembers"
    def __init__(self, x): super().__init__(); self.a,self.b,self.x = nn.Linear(4, 6),nn.Linear(6, 2),x
    def forward(self, x): return self.b(self.a(x).relu()) + (x-self.x).abs().sum().clamp(max=1)*self.a.out_features

def test_outputs_are_compared_on_noise_too_and_as_closely_as_asked():
    x = torch.randn(3, 4)
    net = Remembers(x).eval()
    net.a.weight.data[:3] = 0
    with pytest.warns(UserWarning, match='the outputs would differ by'): assert not shrink_model(net, x).done
    assert shrink_model(net, x, tol=10.).done and net.a.out_features==3

def test_outputs_that_are_no_numbers_or_have_names():
    "Where nothing can be compared, nothing is removed"
    class Named(nn.Module):
        def __init__(self, end): super().__init__(); self.a,self.b,self.end = nn.Linear(4, 6),nn.Linear(6, 2),end
        def forward(self, x): return {'out': (self.end(self.b(self.a(x).relu())),)}
    for end,done in ((torch.tanh, True), (lambda t: torch.log(-t.abs()), False)):
        net = Named(end).eval()
        net.a.weight.data[:3] = 0
        with warnings.catch_warnings(record=True): assert shrink_model(net, torch.randn(3, 4)).done==done
        assert net.a.out_features==(3 if done else 6)

class Adds(nn.Module):
    "A sum of two convolutions"
    def __init__(self):
        super().__init__()
        self.a,self.b,self.c = nn.Conv2d(1, 6, 3, padding=1),nn.Conv2d(6, 6, 3, padding=1),nn.Conv2d(6, 2, 1)
    def forward(self, x):
        x = self.a(x).relu()
        return self.c((x + self.b(x)).relu())

def added():
    net = Adds().eval()
    for p in (*net.a.parameters(), *net.b.parameters()): p.data[:2] = 0
    return net

def test_sums_and_what_is_frozen_stays_frozen():
    net,x = added(),torch.randn(2, 1, 8, 8)
    net.a.requires_grad_(False)
    net.c.bias.requires_grad_(False)
    assert [r.left for r in check(net, x)]==[4, 4, 2]
    trains = {n for n,p in net.named_parameters() if p.requires_grad}
    assert trains=={'b.weight', 'b.bias', 'c.weight'}

def test_sums_and_heads_that_are_skipped():
    res = shrink_model(added(), torch.randn(2, 1, 8, 8), skip='a.*')
    assert not res.done and 'a is skipped' in res[0].note
    net = timm.create_model('vit_tiny_patch16_224', img_size=32, patch_size=8, depth=1, num_classes=3).eval()
    net.blocks[0].attn.qkv.weight.data[384:448] = 0
    net.blocks[0].attn.qkv.bias.data[384:448] = 0
    x = torch.randn(1, 3, 32, 32)
    for skip in ('blocks.0.attn.qkv.*', 'blocks.0.attn.proj.*'):
        assert not shrink_model(net, x, skip=skip).done and net.blocks[0].attn.num_heads==3
    assert shrink_model(net, x).done and net.blocks[0].attn.num_heads==2

@pytest.mark.parametrize('middle', [lambda h: h.softmax(1), nn.GroupNorm(2, 6)], ids=['softmax', 'group norm'])
def test_sums_that_are_mixed_stay(middle):
    class Mixes(Adds):
        def forward(self, x):
            x = self.a(x).relu()
            return self.c(middle(x + self.b(x)))
    net = Mixes().eval()
    net.load_state_dict(added().state_dict(), strict=False)
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # what mixes its units is known beforehand, not found out by other answers
        assert not shrink_model(net, torch.randn(2, 1, 8, 8)).done

def test_without_torch_pruning_and_where_it_fails(monkeypatch):
    "What chains alone can do is done, and the table says why the rest stays"
    def fails(*args): raise RuntimeError('made for the test')
    x = torch.randn(2, 1, 8, 8)
    for name,value,words in (('find_spec', lambda name: None, 'pip install "fastai_ext[prune]"'),
                             ('coupled', fails, 'torch-pruning cannot follow it (RuntimeError)')):
        with monkeypatch.context() as m:
            m.setattr(prune_module, name, value)
            res = shrink_model(added(), x)
        assert not res.done and words in res[0].note and '2 zero rows stay' in res[0].note

def test_a_model_that_cannot_be_copied():
    class Single(nn.Linear):
        def __deepcopy__(self, memo): raise TypeError('made for the test')
    net = nn.Sequential(Single(4, 2))
    with pytest.raises(ValueError, match='cannot be copied'): shrink_model(net, torch.randn(3, 4))

def test_layers_that_compute_in_their_own_way_stay():
    class Own(nn.Linear):
        def forward(self, x): return super().forward(x) + 1
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), Own(5, 4), nn.ReLU(), nn.Linear(4, 2))
    for i in (0,2,4): net[i].weight.data[:2] = 0
    res = check(net.eval(), torch.randn(3, 4))
    assert [r.left for r in res]==[4, 5, 4, 2]

def test_skip_and_bad_input():
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
    net[0].weight.data[:3] = 0; net[2].weight.data[:2] = 0
    res = shrink_model(net, torch.randn(3, 4), skip='0.*')
    assert [r.left for r in res]==[6, 3, 2] and 'skipped' in res[0].note
    with pytest.raises(ValueError, match='NaN'): shrink_model(net, torch.full((3, 4), float('nan')))
    with pytest.raises(ValueError, match='no weights'): shrink_model(nn.ReLU(), torch.randn(3, 4))

@pytest.mark.parametrize('opt_func', [Adam, partial(SGD, mom=.9), partial(OptimWrapper, opt=torch.optim.AdamW)],
                         ids=['Adam','SGD','AdamW'])
def test_learner_trains_on(opt_func):
    set_seed(0)
    data = list(zip(torch.randn(64, 8), torch.randint(3, (64,)), strict=True))
    net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    split = lambda m: [list(m[:2].parameters()), list(m[2:].parameters())]
    dls = DataLoaders(DataLoader(data, bs=16), DataLoader(data, bs=16))
    learn = Learner(dls, net, CrossEntropyLossFlat(), opt_func=opt_func, splitter=split)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-2)
        learn.freeze()
        net[0].weight.data[::2] = 0
        before = learn.get_preds()[0]
        net[0].weight.grad = torch.ones_like(net[0].weight)
        assert learn.shrink().after < 16*8 and (learn.get_preds()[0]-before).abs().max() < 1e-5
        params = {id(p) for ps in learn.opt.param_lists for p in ps}
        assert params=={id(p) for p in net.parameters()} and learn.opt.frozen_idx==1
        if not isinstance(learn.opt, OptimWrapper):
            decays = [learn.opt.state[p].get('do_wd', True) for p in net.parameters()]
            assert decays==[True,False,False,False,True,False]
        assert not net[0].weight.requires_grad and net[3].weight.requires_grad
        assert net[1].weight.requires_grad  # batch norm trains while frozen
        frozen,head = net[0].weight.clone(),net[3].weight.clone()
        learn.fit(1, 1e-2)
        assert torch.equal(frozen, net[0].weight) and not torch.equal(head, net[3].weight)
        learn.unfreeze()
        learn.fit_one_cycle(1, 1e-2)
        assert not torch.equal(frozen, net[0].weight)
        learn.freeze()
        assert net[1].weight.requires_grad  # as before

def test_not_in_the_middle_of_a_fit():
    "Averages, anchors and checkpoints of a running fit hold the weights as they are"
    data = list(zip(torch.randn(32, 4), torch.randn(32, 1), strict=True))
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    class Shrinks(Callback):
        def after_epoch(self):
            net[0].weight.data[:4] = 0
            self.seen = self.learn.shrink(dry_run=True)
            self.learn.shrink()
    learn = Learner(DataLoaders(DataLoader(data, bs=8), DataLoader(data, bs=8)), net, MSELossFlat(), cbs=Shrinks())
    with learn.no_bar(), learn.no_logging(), pytest.raises(ValueError, match='a fit is running'): learn.fit(1)
    assert learn.shrinks.seen.after < learn.shrinks.seen.before and len(net[0].weight)==8
    assert learn.shrink().done

def test_a_program_of_torch_jit():
    net = torch.jit.script(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval())
    with pytest.raises(ValueError, match='script or trace it again'): shrink_model(net, torch.randn(3, 4))

def test_a_torch_optimizer_of_the_user_goes_on():
    "It was built on the old weights and is used again in every fit"
    data = list(zip(torch.randn(32, 4), torch.randn(32, 1), strict=True))
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    opt = OptimWrapper(opt=torch.optim.Adam(net.parameters(), lr=1e-2))
    learn = Learner(DataLoaders(DataLoader(data, bs=8), DataLoader(data, bs=8)), net, MSELossFlat(), opt_func=opt)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        net[0].weight.data[:4] = 0
        learn.shrink()
        assert {id(p) for p in opt.opt.state} <= {id(p) for p in net.parameters()}  # nothing of weights that are gone
        was = net[0].weight.clone()
        learn.fit(1)
    assert not torch.equal(was, net[0].weight) and len(net[0].weight)==4

def test_a_torch_optimizer_of_the_user_that_has_not_begun():
    data = list(zip(torch.randn(16, 4), torch.randn(16, 1), strict=True))
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    opt = OptimWrapper(opt=torch.optim.Adam(net.parameters(), lr=1e-2))
    learn = Learner(DataLoaders(DataLoader(data, bs=8), DataLoader(data, bs=8)), net, MSELossFlat(), opt_func=opt)
    net[0].weight.data[:4] = 0
    learn.shrink()
    was = net[0].weight.clone()
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert not torch.equal(was, net[0].weight) and len(net[0].weight)==4

def test_tables_export_and_load(tmp_path):
    from sklearn.datasets import load_diabetes
    df = load_diabetes(as_frame=True, scaled=False).frame
    df['sex'] = df.sex.map({1:'f', 2:'m'})
    dls = TabularDataLoaders.from_df(df, procs=[Categorify, Normalize], cat_names='sex', y_names='target',
                                     cont_names=['age','bmi','bp'], y_block=RegressionBlock(), bs=64,
                                     valid_idx=range(250, 442))
    learn = tabular_learner(dls, layers=[40,20], y_range=(0,400), path=tmp_path)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        learn.model.layers[0][0].weight.data[::2] = 0
        before = learn.get_preds()[0]
        res = learn.shrink()
        assert res.done and (learn.get_preds()[0]-before).abs().max() < 4e-3  # of 400
        learn.export()
        loaded = load_learner(tmp_path/'export.pkl')
        with loaded.no_bar(): again = loaded.get_preds(dl=dls.valid)[0]
        assert torch.allclose(again, learn.get_preds()[0], atol=1e-4)
        learn.save('small'); learn.fit(1); learn.load('small')
        assert torch.allclose(learn.get_preds()[0], before, atol=4e-3)

def test_the_random_numbers_stay():
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    net[0].weight.data[:3] = 0
    set_seed(7); a = torch.rand(3)
    set_seed(7); shrink_model(net, torch.ones(3, 4)); assert torch.equal(torch.rand(3), a)

def test_conv_layers_of_fastai():
    set_seed(4)
    net = nn.Sequential(ConvLayer(1, 8), ConvLayer(8, 16, stride=2, act_cls=nn.GELU), nn.AdaptiveAvgPool2d(1),
                        nn.Flatten(), nn.Linear(16, 3))
    for m in (net[0][0], net[1][0]): zero_rows(m, .5, torch.Generator().manual_seed(4))
    x = torch.randn(8, 1, 8, 8)
    res = check(settle(net, x), x)
    assert res[0].left < 8 and res[1].left < 16

def test_chains_say_what_they_saw():
    found,left = chains(nn.Sequential(nn.Linear(4, 6), nn.Softmax(1), nn.Linear(6, 2)).eval(), torch.randn(2, 4))
    assert not found and left=={'0': 'Softmax 1 follows', '2': 'it is an output of the network'}
    found,left = chains(Shared().eval(), torch.randn(2, 4))
    assert not found and left['a']==left['b']=='b is used 2 times'
    assert oriented(nn.ConvTranspose1d(2, 5, 3)).shape==(5, 2, 3)
    assert oriented(nn.ConvTranspose1d(4, 6, 3, groups=2)).shape==(4, 3, 3)  # with groups torch's order says nothing
    part = nn.Linear(2, 2)
    part.weight.data = torch.tensor([[0.,1.],[0.,0.]])
    assert zero_rows_of(part).tolist()==[False, True]
    assert zero_columns(part, torch.arange(2)[:,None])[:,0].tolist()==[True, False]

class Functional(nn.Module):
    "Written with functions, as many networks are"
    def __init__(self, end):
        super().__init__()
        self.a,self.b,self.end = nn.Conv2d(1, 6, 3),nn.Conv2d(6, 5, 3),end
        self.c = nn.Linear(5*4 if end in ('view','flatten','method') else 5, 2)
    def forward(self, x):
        x = F.max_pool2d(F.relu(self.a(x)), 2)*2+1
        x = F.adaptive_avg_pool2d(self.b(x), 2)
        if self.end == 'mean': x = x.mean((2,3))
        elif self.end == 'amax': x = x.amax(dim=(-2,-1))
        elif self.end == 'view': x = x.view(x.size(0), -1)
        elif self.end == 'method': x = x.reshape(x.shape[0], -1)
        else: x = torch.flatten(x, 1)
        return self.c(x)

def influence(net, x, units, i):
    "How far the output moves with the weights of unit `i`, where its readers, as told, have no weight for it"
    net = copy.deepcopy(net)
    with torch.no_grad():
        for name,cols in units.readers.items(): net.get_submodule(name).weight[:, cols[i]] = 0
        was,maker = net(x),net.get_submodule(units.name)
        maker.weight[i] += 1
        maker.bias[i] += 1
        return (net(x)-was).abs().max().item()

class Ends(nn.Module):
    "A layer, something done to what it puts out, and a layer that reads the end"
    def __init__(self, f, n=6, conv=False):
        super().__init__()
        self.a,self.b,self.f = nn.Conv2d(1, 6, 3) if conv else nn.Linear(4, 6),nn.Linear(n, 2),f
    def forward(self, x): return self.f(self, self.a(x))

picture,row = torch.randn(3, 1, 12, 12),torch.randn(3, 4)
followed = [(Functional(o), picture) for o in ('mean','amax','view','method','flatten')] + [
    (nn.Sequential(nn.Conv2d(1, 6, 3), nn.PReLU(6), AdaptiveConcatPool2d(), Flatten(), nn.Linear(12, 2)), picture),
    (nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6, affine=False), nn.PReLU(), nn.AvgPool2d(2),
                   nn.Conv2d(6, 2, 1)), picture),
    (nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.GELU(), nn.Dropout(), nn.Linear(6, 2)), row),
    (nn.Sequential(nn.Linear(4, 6), SigmoidRange(0, 1), nn.Linear(6, 2)), row),
    (Ends(lambda m,h: m.b(F.lp_pool2d(h, 2, 10).flatten(1)), conv=True), picture)]

@pytest.mark.parametrize('net,x', followed)
def test_units_are_read_where_chains_say_and_nowhere_else(net, x):
    "Without its readers' weights a unit has no influence; with them it has"
    net.eval()
    found,left = chains(net, x)
    makers = [n for n,m in net.named_modules() if isinstance(m, layers)]
    assert [u.name for u in found] == makers[:-1] and left == {makers[-1]: 'it is an output of the network'}
    for u in found:
        assert not u.dead.any()
        for i in range(u.n): assert influence(net, x, u, i) < 1e-5
        net.get_submodule(u.name).weight.data[1] = 0
    blind = copy.deepcopy(found[0])
    blind.readers = {}
    assert influence(net, x, blind, 0) > 1e-3

class Branches(nn.Module):
    def __init__(self): super().__init__(); self.a,self.b = nn.Linear(4, 6),nn.Linear(6, 2)
    def forward(self, x):
        h = self.a(x)
        return self.b(h if h.sum() > 0 else -h)

class Direct(nn.Module):
    "The weight is used, the layer is not called"
    def __init__(self): super().__init__(); self.a,self.b = nn.Linear(4, 6),nn.Linear(6, 2)
    def forward(self, x): return self.b(F.linear(x, self.a.weight))

class Both(nn.Module):
    "A layer of two inputs"
    def __init__(self): super().__init__(); self.a,self.both = nn.Linear(4, 6),nn.Bilinear(6, 6, 2)
    def forward(self, x): h = self.a(x); return self.both(h, h.tanh())

class Turned(nn.Module):
    "The next layer reads positions, not units"
    def __init__(self): super().__init__(); self.a,self.b = nn.Conv1d(1, 6, 3),nn.Linear(10, 2)
    def forward(self, x): return self.b(self.a(x))

ends = [  # the reason first
    ('mean follows', partial(Ends, lambda m,h: m.b(h.mean((1,2))), 10, True), picture),
    ('size follows', partial(Ends, lambda m,h: m.b(h)/h.size(1)), row),
    ('getattr follows', partial(Ends, lambda m,h: m.b(h)/h.shape[1]), row),
    ('view follows', partial(Ends, lambda m,h: m.b(h.view(1, -1)), 18), row),
    ('clamp follows', partial(Ends, lambda m,h: m.b(h.clamp(max=m.b.bias.sum()))), row),
    ('avg_pool1d follows', partial(Ends, lambda m,h: m.b(F.avg_pool1d(h, 1))), torch.randn(3, 5, 4)),
    ('nothing reads it', partial(Ends, lambda m,h: m.b.bias), row),
    ('a shares a weight with another layer', partial(Ends, lambda m,h: m.b(h) + m.a.weight.sum()), row)]

@pytest.mark.parametrize('why,make,x', ends, ids=lambda o: o if isinstance(o, str) else '')
def test_what_looks_at_a_layer_keeps_it(why, make, x):
    found,left = chains(make().eval(), x)
    assert not found and left['a']==why

class Flat(nn.Module):
    "Units last, and flattened with the positions before them"
    def __init__(self): super().__init__(); self.a,self.b = nn.Linear(4, 6),nn.Linear(18, 2)
    def forward(self, x): return self.b(self.a(x).flatten(1))

class Gauge(nn.Linear):
    "A layer with a weight of its own kind"
    def __init__(self, *args): super().__init__(*args); self.scale = nn.Parameter(torch.ones(1))

def around(mid, n=6, conv=False):
    return nn.Sequential(nn.Conv2d(1, 6, 3) if conv else nn.Linear(4, 6), mid, nn.Linear(n, 2))

def norm_used_twice():
    norm = nn.BatchNorm1d(6)
    return nn.Sequential(nn.Linear(4, 6), norm, nn.Linear(6, 6), norm, nn.Linear(6, 2))

class Chooses(Branches):
    "Cannot be traced as far as its layers"
    def forward(self, x): return self.b(self.a(x if x.sum() > 0 else -x))

def used_within_a_block():
    block = Chooses()
    return nn.Sequential(nn.Linear(4, 4), block.a, nn.Linear(6, 4), block)

old_norm = nn.utils.weight_norm if hasattr(nn.utils, 'weight_norm') else weight_norm

@pytest.mark.filterwarnings('ignore:.*weight_norm')
@pytest.mark.parametrize('make,x,name,why', [
    (Branches, row, 'a', 'the network cannot be traced (TraceError)'),
    (Direct, row, 'a', 'it is not called as a layer'),
    (Both, row, 'a', 'both has several inputs'), (Turned, torch.randn(2, 1, 12), 'a', 'b reads another dimension'),
    (Flat, torch.randn(2, 3, 4), 'a', 'its units are flattened together with positions'),
    (lambda: nn.Sequential(Gauge(4, 6), nn.Linear(6, 2)), row, '0', '0 has weights of its own kind'),
    (lambda: nn.Sequential(old_norm(nn.Linear(4, 6)), nn.Linear(6, 2)), row, '0', '0 is parametrized'),
    (lambda: nn.Sequential(nn.Conv2d(1, 6, 3), nn.Flatten(2), nn.Conv1d(6, 2, 1)), picture, '0', 'Flatten 1 follows'),
    (lambda: nn.Sequential(nn.Conv2d(1, 6, 3), nn.Conv2d(6, 2, 1)), picture[0], '0', '0 runs without a batch'),
    (lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(5), nn.Linear(6, 2)), torch.randn(3, 5, 4), '0',
     'BatchNorm1d 1 follows'),
    (lambda: nn.Sequential(nn.Linear(4, 6), nn.MaxPool1d(1), nn.Linear(6, 2)), torch.randn(3, 5, 4), '0',
     'MaxPool1d 1 follows'),
    (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 8, 3, groups=4), nn.Conv2d(8, 2, 1)), picture, '0',
     'Conv2d 1 follows'),
    (Adds, picture, 'a', 'add follows'), (partial(around, nn.GLU(), 3), row, '0', 'GLU 1 follows'),
    (partial(around, nn.LogSoftmax(1)), row, '0', 'LogSoftmax 1 follows'),
    (partial(around, nn.Softmax2d(), 10, True), picture, '0', 'Softmax2d 1 follows'),
    (partial(around, View(-1, 3), 3), row, '0', 'View 1 follows'),
    (norm_used_twice, row, '0', '1 is used 2 times'), (used_within_a_block, row, '1', '1 is used 2 times'),
    (lambda: nn.Sequential(nn.Conv1d(1, 6, 3), nn.MaxPool2d(2), nn.Linear(5, 2)), torch.randn(2, 1, 12), '0',
     'MaxPool2d 1 follows'),
    (lambda: nn.Sequential(nn.Conv2d(2, 6, 3, groups=2), nn.Conv2d(6, 2, 1)), torch.randn(2, 2, 9, 9), '0',
     '0 is grouped')], ids=lambda o: o if isinstance(o, str) else '')
def test_why_a_layer_is_left_alone(make, x, name, why):
    found,left = chains(make().eval(), x)
    assert left[name] == why and name not in [u.name for u in found]

class Two(nn.Module):
    "Two layers read the first, one of them past a norm"
    def __init__(self):
        super().__init__()
        self.a,self.b,self.norm,self.c = nn.Linear(4, 5),nn.Linear(5, 2),nn.BatchNorm1d(5),nn.Linear(5, 2)
    def forward(self, x): h = self.a(x); return self.b(h),self.c(self.norm(h))

def test_units_of_chains_are_dead_for_all_that_read_them():
    net = Two().eval()
    net.b.weight.data[:,[0,1,3]] = 0
    net.c.weight.data[:,0] = 0
    net.norm.weight.data[2:4] = 0
    u, = chains(net, row)[0]
    assert u.unread.tolist()==[True]+[False]*4 and u.constant.tolist()==[False]*3+[True, False]
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.BatchNorm1d(12), nn.Linear(12, 2)).eval()
    net[2].weight.data[:6] = 0  # of the second filter, some positions only
    u, = chains(net, torch.randn(5, 1, 4, 4))[0]
    assert u.constant.tolist()==[True, False, False] and not u.unread.any()
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Conv2d(3, 3, 3, groups=3), AdaptiveConcatPool2d(2), nn.BatchNorm2d(6),
                        Flatten(), nn.Linear(24, 2)).eval()
    net[0].weight.data[0] = 0; net[1].weight.data[1] = 0
    net[3].weight.data[2] = 0; net[5].weight.data[:,20:] = 0  # the first half does not vary, the second is not read
    assert chains(net, picture)[0][0].constant.tolist()==[True]*3

def test_chains_look_at_a_network_in_evaluation():
    "One row is enough, and nothing is learnt from it"
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))
    was = copy.deepcopy(net.state_dict())
    assert [u.name for u in chains(net, row[:1])[0]]==['0'] and net.training
    assert all(torch.equal(was[k], v) for k,v in net.state_dict().items())

def test_a_block_that_cannot_be_traced_counts_as_a_layer():
    found,left = chains(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4), Branches()).eval(), row)
    assert [u.name for u in found]==['0'] and '2' in left

def test_units_of_sums_are_dead_where_all_agree():
    "Every layer that is added puts out nothing that varies, or no layer reads it"
    net = Adds().eval()
    net.a.weight.data[[0,1,4]] = 0
    net.b.weight.data[[0,4]] = 0
    net.b.weight.data[:,[2,4]] = 0
    net.c.weight.data[:,[2,3,4]] = 0
    u = next(u for u in coupled(net, torch.randn(2, 1, 8, 8))[0] if u.name in ('a','b'))
    assert {*u.makers}=={'a','b'} and {*u.readers}=={'b','c'}
    assert u.constant.tolist()==[True]+[False]*5 and u.unread.tolist()==[False,False,True,False,True,False]
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(12, 2)).eval()
    net[2].weight.data[:,:7] = 0  # of the second filter, three positions of four
    u = next(u for u in coupled(net, torch.randn(2, 1, 4, 4))[0] if u.name=='0')
    assert u.unread.tolist()==[True, False, False]

def test_a_place_of_grouped_convolutions_is_dead_in_all_groups():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.a,self.b,self.c = nn.Conv2d(1, 8, 3),nn.Conv2d(8, 4, 3, groups=2),nn.Conv2d(8, 2, 1)
        def forward(self, x): h = self.a(x).relu(); return self.b(h),self.c(h)
    net = Wide().eval()
    net.a.weight.data[[1,5,2]] = 0
    net.b.weight.data[:,[0,3]] = 0
    net.c.weight.data[:,[0,4,3]] = 0
    u = next(u for u in coupled(net, picture)[0] if u.name=='a')
    assert u.n==4 and u.constant.tolist()==[False,True,False,False] and u.unread.tolist()==[True,False,False,False]

def test_heads_are_dead_as_a_whole():
    net = timm.create_model('vit_tiny_patch16_224', img_size=32, patch_size=8, depth=1, num_classes=3).eval()
    att,x = net.blocks[0].attn,torch.randn(1, 3, 32, 32)
    att.qkv.weight.data[384:416] = 0  # half of the first head's values
    att.qkv.weight.data[448:] = 0
    att.proj.weight.data[:,32:128] = 0
    u = next(u for u in coupled(net, x)[0] if u.what=='heads')
    assert u.constant.tolist()==[False,False,True] and u.unread.tolist()==[False,True,False]
    assert 'blocks.0.attn.qkv' not in coupled(net, x)[1]  # told once
    assert coupled(net, x, ['blocks.0.attn'])[1]['blocks.0.attn.qkv']=='skipped'
    att.gate = nn.Identity()
    assert not any(u.what=='heads' for u in coupled(net, x)[0])

def test_what_a_shared_layer_is_given_by_all_its_uses():
    "The numbers of its last use are not those of its first: what is handed on there would be wrong elsewhere"
    net = Shared().eval()
    for m in (net.a, net.b): m.weight.data[1:3] = 0
    net.a.bias.data[1:3] = 1.; net.b.bias.data[1:3] = -1.
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # known beforehand, not found out by other answers
        assert not check(net, torch.randn(3, 4), fewer=False).done
    net.b.bias.data[1:3] = 1.
    check(net, torch.randn(3, 4))

class Tied(Adds):
    "Something is done to the sum before a layer reads it"
    def __init__(self, middle, n=6):
        super().__init__()
        self.middle,self.c = middle,nn.Conv2d(n, 2, 1)
    def forward(self, x):
        x = self.a(x).relu()
        return self.c(self.middle(x + self.b(x)))

class Over(nn.Module):
    "What `f` does with a layer and rows of a picture, (3, 36, 6)"
    def __init__(self, layer, f):
        super().__init__()
        self.layer,self.f = layer,f
    def forward(self, x): return self.f(self.layer, x.flatten(2).mT).mT[...,None]

def normed():
    net = Adds()
    net.b = weight_norm(net.b)
    return net

def transposed():
    net = Adds()
    net.c = nn.ConvTranspose2d(6, 4, 1, groups=2)
    return net

class Several(nn.Module):
    "Convolutions of different groups read one layer"
    def __init__(self):
        super().__init__()
        self.a,self.b,self.c = nn.Conv2d(1, 8, 3),nn.Conv2d(8, 8, 3, groups=2),nn.Conv2d(8, 8, 3, groups=4)
    def forward(self, x): h = self.a(x).relu(); return self.b(h) + self.c(h)

class Joined(nn.Module):
    "Three channels beside three others do not go into two groups"
    def __init__(self):
        super().__init__()
        self.a,self.b,self.c = nn.Conv2d(1, 3, 3),nn.Conv2d(1, 3, 3),nn.Conv2d(6, 4, 3, groups=2)
    def forward(self, x): return self.c(torch.cat([self.a(x), self.b(x)], 1))

reasons = [  # a part of the reason first
    ('Softmax mixes its units', partial(Tied, nn.Softmax(1))),
    ('middle is tied to it', partial(Tied, nn.GroupNorm(2, 6))),
    ('middle.layer is tied to it', lambda: Tied(Over(nn.LayerNorm(6), lambda m,h: m(h)))),
    ('middle.layer is tied to it', lambda: Tied(Over(nn.LSTM(6, 6), lambda m,h: m(h)[0]))),
    ('middle.layer is tied to it', lambda: Tied(Over(nn.MultiheadAttention(6, 1),
                                                     lambda m,h: h + m(*[torch.ones_like(h)]*3)[0]))),
    ('SplitOp', lambda: Tied(lambda h: h.split([2,4], 1)[1], 4)),
    ('SplitOp', lambda: Tied(lambda h: h.chunk(2, 1)[1], 3)),
    ('UnbindOp', lambda: Tied(lambda h: torch.stack(h.unbind(1), 1))), ('Slice', lambda: Tied(lambda h: h[:,2:], 4)),
    ('joined with some of themselves', lambda: Tied(lambda h: torch.cat([h,h[:,2:]], 1), 10)),  # which never ended
    ('b is no plain layer', normed), ('c is grouped and transposed', transposed),
    ('convolutions of different groups read it', Several),
    ('convolutions of different groups read it', Joined)]

@pytest.mark.parametrize('why,make', reasons, ids=lambda o: o if isinstance(o, str) else '')
def test_why_a_sum_is_left_alone(why, make):
    found,left = coupled(make().eval(), picture)
    assert why in left['a'] and not any('a' in u.makers for u in found)

class Attention(nn.Module):
    "Has layers with the names of timm's, whatever it computes"
    def __init__(self, heads=2, width=24):
        super().__init__()
        self.qkv,self.proj = nn.Linear(8, width),nn.Linear(8, 8)
        if heads: self.num_heads = heads
    def forward(self, x): return self.proj(self.qkv(x)[:,:8])

class Idle(nn.Module):
    "Never calls its attention"
    def __init__(self): super().__init__(); self.att,self.a,self.b = Attention(),nn.Linear(8, 6),nn.Linear(6, 2)
    def forward(self, x): return self.b(self.a(x).relu())

def test_heads_are_told_of_attention_as_timm_writes_it_only():
    x = torch.randn(3, 8)
    assert coupled(Attention(width=16), x)[1]['qkv']=='qkv is laid out in another way'
    for net in (Attention(heads=None), Idle()):
        assert not any(u.what=='heads' for u in coupled(net, x)[0])

class Scaled(Adds):
    "The second summand has a scale for each channel"
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, 6, 1, 1))
    def forward(self, x):
        x = self.a(x).relu()
        return self.c((x + self.b(x)*self.scale).relu())

def test_a_parameter_shrinks_with_its_sum():
    net = Scaled().eval()
    net.load_state_dict(added().state_dict(), strict=False)
    net.scale.data[:,:2] = 0
    assert [r.left for r in check(net, torch.randn(2, 1, 8, 8))]==[4, 4, 2] and net.scale.shape==(1, 4, 1, 1)

def test_a_convolution_that_joins_channels_in_groups_stops_nothing_else():
    total = added()
    total.a = nn.Conv2d(2, 6, 3, padding=1)
    net = nn.Sequential(nn.Conv2d(1, 6, 1), nn.Conv2d(6, 2, 1, groups=2), total).eval()
    for m,n in ((net[0], 3), (total.a, 2)):
        for p in m.parameters(): p.data[:n] = 0
    res = {r.layer: r for r in check(net, torch.randn(2, 1, 8, 8))}
    assert res['2.a'].left==4 and '1 joins channels in groups' in res['0'].note
