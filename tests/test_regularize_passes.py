"""SAM, ASAM, R-Drop, the Jacobian and confidence penalties, Mixout and WeightDecay against formulas written apart, and
at the places where they usually break"""
import copy, math, random
from functools import partial

import numpy as np
import pytest, torch
from torch import nn
import fastai.callback.progress  # noqa: F401  gives a learner `no_bar`
from fastai.callback.core import Callback, CancelBackwardException
from fastai.callback.fp16 import NonNativeMixedPrecision
from fastai.callback.mixup import MixUp
from fastai.callback.schedule import ParamScheduler, SchedLin, combined_cos
from fastai.callback.tracker import SaveModelCallback
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.data.core import DataLoaders
from fastai.learner import Learner, load_learner
from fastai.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat, MSELossFlat
from fastai.optimizer import Adam, OptimWrapper, Optimizer, SGD, average_sqr_grad, ranger, rms_prop_step
from fastai.torch_core import set_seed

from fastai_ext.contract.compare import weights_of
from fastai_ext.contract.harness import contract_learner
from fastai_ext.contract.steps import CPUMixedPrecision, Overflow
from fastai_ext.model.weights import weights
from fastai_ext.regularize.again import batch_kept, predict_again
from fastai_ext.regularize.activation import ActivationL1, ActivationL2
from fastai_ext.regularize.consistency import (ConfidencePenalty, JacobianPenalty, RDrop, class_axis, entropy,
                                              jacobian_norm2, symmetric_kl)
from fastai_ext.regularize.decay import WeightDecay
from fastai_ext.regularize.dropout import set_dropout
from fastai_ext.regularize.mixout import Mixout
from fastai_ext.regularize.penalty import L2
from fastai_ext.regularize.sharpness import ASAM, SAM

def fit(learn, *args, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit(*args, **kwargs)
    return learn

def data(n=16, y=None, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=g)
    return x,torch.randint(3, (n,), generator=g) if y is None else y

def net(p=0., bn=False):
    norm = [nn.BatchNorm1d(8)] if bn else []
    return nn.Sequential(nn.Linear(4,8), *norm, nn.Tanh(), nn.Dropout(p), nn.Linear(8,3))
def body_and_head(m): return [list(m[0].parameters()), list(m[-1].parameters())]

def learner(*cbs, model=None, batches=None, opt_func=SGD, loss=None, seed=0, **kwargs):
    set_seed(seed)
    model,batches = net() if model is None else model,[data()] if batches is None else batches
    dls = DataLoaders(batches, batches)
    return Learner(dls, model, loss or CrossEntropyLossFlat(), opt_func=opt_func, cbs=cbs, **kwargs)

def seeded(make, seed=3):
    set_seed(seed)
    return make()

class Grads(Callback):
    "What the optimizer is given"
    order = 95
    def before_fit(self): self.seen = []
    def before_step(self): self.seen.append([p.grad.clone() for p in self.learn.model.parameters()])

def given(*cbs, **kwargs):
    learn = learner(*cbs, Grads(), **kwargs)
    return fit(learn, 1, 0.).grads.seen

def close(a, b, tol=1e-5):
    for x,y in zip(a, b, strict=True): torch.testing.assert_close(x, y, rtol=tol, atol=tol*.1)

# SAM: the algorithm of Foret et al., written with autograd alone

def sam_gradient(model, batches, rho, eta=None, l2=0.):
    "Mean gradient over `batches` at the worst place within `rho`"
    model = copy.deepcopy(model)
    ps = list(model.parameters())
    def grad():
        gs = [torch.autograd.grad(nn.functional.cross_entropy(model(x), y), ps) for x,y in batches]
        return [sum(g)/len(gs) for g in zip(*gs)]
    g,w = grad(),[p.detach().clone() for p in ps]
    T = [torch.ones_like(p) if eta is None or 'bias' in n else p.detach().abs()+eta
         for n,p in model.named_parameters()]
    norm = math.sqrt(sum((t*o).square().sum().item() for t,o in zip(T, g)))
    for p,t,o in zip(ps, T, g): p.data += rho*t**2*o/norm
    res = grad()
    return [r + (l2*o if o.ndim > 1 else 0) for r,o in zip(res, w)]

four = [data(8, seed=i) for i in range(4)]
fp16 = {'plain': [], 'scaler': [CPUMixedPrecision]}

@pytest.mark.parametrize('precision', fp16)
@pytest.mark.parametrize('cb,kw', [(SAM(.3), dict(rho=.3)), (ASAM(1.), dict(rho=1., eta=.01)),
                                   (ASAM(1., 0.), dict(rho=1., eta=0.))], ids=['SAM', 'ASAM', 'ASAM eta 0'])
def test_sam_gradient(cb, kw, precision):
    extra = [o() for o in fp16[precision]]
    learn = learner(cb, Grads(), *extra)
    want = sam_gradient(learn.model, [data()], **kw)
    close(fit(learn, 1, 0.).grads.seen[0], want)
    learn = learner(copy.deepcopy(cb), Grads(), GradientAccumulation(32), *[o() for o in fp16[precision]], batches=four)
    want = sam_gradient(learn.model, four, **kw)  # one direction for all four
    close(fit(learn, 1, 0.).grads.seen[0], want)
    learn = learner(copy.deepcopy(cb), Grads(), *[o() for o in fp16[precision]], model=net(bn=True))
    nn.init.normal_(learn.model[1].weight)  # a norm's weight has a size, as in the code of the paper's authors
    want = sam_gradient(learn.model, [data()], **kw)
    close(fit(learn, 1, 0.).grads.seen[0], want)

def test_sam_takes_again_what_was_passed_backward_since_the_last_step():
    "Not a batch whose backward pass was cancelled, nor those of a step that mixed precision has cancelled"
    class Skips(Callback):
        order = 90
        def before_backward(self):
            if self.iter==1: raise CancelBackwardException
    learn = learner(SAM(.3), Skips(), Grads(), GradientAccumulation(16), batches=four[:2])
    want = [g/2 for g in sam_gradient(learn.model, four[:1], .3)]
    close(fit(learn, 1, 0.).grads.seen[0], want)
    learn = learner(SAM(.3), Grads(), CPUMixedPrecision(), Overflow(0), batches=four[:2])
    want = sam_gradient(learn.model, four[1:2], .3)
    close(fit(learn, 1, 0.).grads.seen[-1], want)

def test_penalties_and_clipping_see_the_new_gradient():
    learn = learner(SAM(.3), L2(.5), Grads())
    want = sam_gradient(learn.model, [data()], .3, l2=.5)
    close(fit(learn, 1, 0.).grads.seen[0], want)
    clipped = given(SAM(.3), L2(50.), GradientClip(.1))[0]
    assert torch.cat([g.flatten() for g in clipped]).norm().item()==pytest.approx(.1, rel=1e-3)

def test_rho_by_group_and_schedule():
    seen = []
    class Rho(Callback):
        def after_batch(self): seen.append([h['rho'] for h in self.opt.hypers])
    for opt in (SGD, partial(OptimWrapper, opt=torch.optim.SGD)):
        seen.clear()
        split = lambda m: [list(m[0].parameters()), list(m[-1].parameters())]
        learn = learner(SAM([0., .3]), Grads(), splitter=split, opt_func=opt)
        body = copy.deepcopy(learn.model)
        fit(learn, 1, 0.)
        g0 = torch.autograd.grad(nn.CrossEntropyLoss()(body(data()[0]), data()[1]), list(body.parameters()))
        norm = torch.cat([g.flatten() for g in g0]).norm()
        for p,g in list(zip(body.parameters(), g0))[2:]: p.data += .3*g/norm
        x,y = data()
        close(learn.grads.seen[0], torch.autograd.grad(nn.CrossEntropyLoss()(body(x), y), list(body.parameters())))
        seen.clear()
        fit(learner(SAM(.1), Rho(), batches=four*2, opt_func=opt), 1, 0., cbs=ParamScheduler({'rho': SchedLin(0., .8)}))
        trained = seen[:8]
        assert [r[0] for r in trained]==pytest.approx([.1*i for i in range(8)])

class Watch(nn.Module):
    "Notes how often, and with which mask, it is passed"
    def __init__(self, draw=torch.rand): super().__init__(); self.masks,self.draw = [],draw
    def forward(self, x):
        if not self.training: return x
        m = torch.as_tensor(self.draw(x.shape))
        self.masks.append(m)
        return x*(m > .3)

@pytest.mark.parametrize('draw', [torch.rand, np.random.random_sample,
                                  lambda size: [[random.random() for _ in range(size[1])] for _ in range(size[0])]],
                         ids=['torch', 'numpy', 'python'])
def test_sam_one_mask_and_one_count(draw):
    watch = Watch(draw)
    model = nn.Sequential(nn.Linear(4,8), nn.BatchNorm1d(8), watch, nn.Linear(8,3))
    rng = []
    class Rng(Callback):
        order = 99
        def after_batch(self): rng.append(torch.get_rng_state())
    learn = fit(learner(SAM(.5), Rng(), model=model, batches=four), 1, 0.)
    model = nn.Sequential(nn.Linear(4,8), nn.BatchNorm1d(8), Watch(draw), nn.Linear(8,3))
    plain = fit(learner(Rng(), model=model, batches=four), 1, 0.)
    assert len(watch.masks)==8 and all(torch.equal(a, b) for a,b in zip(watch.masks[::2], watch.masks[1::2]))
    assert not torch.equal(watch.masks[0], watch.masks[2]) and len(plain.model[2].masks)==4
    assert int(learn.model[1].num_batches_tracked)==4
    assert all(torch.equal(a, b) for a,b in zip(rng[:len(rng)//2], rng[len(rng)//2:]))

def test_sam_starts_from_the_same_hidden_state():
    "A model that carries its state from batch to batch: both passes begin where the batch began"
    class Carries(nn.Module):
        def __init__(self): super().__init__(); self.lin,self.hidden,self.began = nn.Linear(4,3),torch.zeros(3),[]
        def forward(self, x):
            self.began.append(self.hidden.clone())
            out = self.lin(x) + self.hidden
            self.hidden = out.detach().mean(0)
            return out
    a,b = (fit(learner(*cbs, model=seeded(Carries), batches=four[:2]), 1, 0.) for cbs in ([SAM(.5)], []))
    twice = a.model.began[:4]
    assert torch.equal(twice[0], twice[1]) and torch.equal(twice[2], twice[3])
    close(twice[::2], b.model.began[:2])

def test_sam_statistics_are_those_of_one_pass():
    a,b = (fit(learner(*cbs, model=seeded(lambda: net(bn=True)), batches=four), 1, 0.) for cbs in ([SAM(.5)], []))
    for (n,x),(_,y) in zip(a.model.named_buffers(), b.model.named_buffers()): assert torch.equal(x, y), n

@pytest.mark.parametrize('opt', [Adam, partial(OptimWrapper, opt=torch.optim.AdamW)], ids=['Adam', 'AdamW'])
@pytest.mark.parametrize('zero', [lambda: SAM([0.]), *(partial(o, 0.) for o in (SAM, ASAM, RDrop, JacobianPenalty,
                                                                               ConfidencePenalty, Mixout))])
def test_strength_0_is_the_base(zero, opt):
    a,b = (fit(learner(*cbs, model=None, batches=four, opt_func=opt), 2, .01) for cbs in ([zero()], []))
    assert all(torch.equal(x, y) for x,y in zip(a.model.parameters(), b.model.parameters()))

@pytest.mark.parametrize('exc', [KeyboardInterrupt, RuntimeError])
def test_weights_come_back_after_an_error_in_the_second_pass(exc):
    class Fail(nn.Module):
        n = 0
        def forward(self, x):
            self.n += 1
            if self.n==2: raise exc('made for the test')
            return x
    model = nn.Sequential(nn.Linear(4,8), nn.BatchNorm1d(8), Fail(), nn.Linear(8,3))
    learn = learner(SAM(5.), model=model)
    before = {n: p.detach().clone() for n,p in model.named_parameters()}
    with pytest.raises(exc): fit(learn, 1, .1)
    assert all(torch.equal(p, before[n]) for n,p in model.named_parameters()) and int(model[1].num_batches_tracked)==1

def test_an_overflow_in_the_second_pass_cancels_the_step():
    class Steep(nn.Module):
        n = 0
        def forward(self, x):
            if self.training: self.n += 1
            return x*(1e38 if self.n==2 else 1.)
    learn = learner(SAM(.1), CPUMixedPrecision(), model=nn.Sequential(nn.Linear(4,3), Steep()), batches=four)
    scales = []
    class Scale(Callback):
        order = 90
        def after_batch(self):
            if not self.training: return
            scales.append((self.learn.scaler.get_scale(), self.learn.model[0].weight.detach().clone()))
    w = learn.model[0].weight.detach().clone()
    fit(learn, 1, .1, cbs=Scale())
    assert scales[0][0]==65536/2 and torch.equal(scales[0][1], w) and not torch.equal(scales[1][1], w)

def test_sam_under_mixup_takes_the_same_mixture():
    class Losses(Callback):
        order = 5.5
        def before_fit(self): self.seen = []
        def after_loss(self):
            if self.training: self.seen.append(self.learn.loss_grad.item())
    batches = [data(8, seed=i) for i in range(2)]
    learn = fit(learner(SAM(1e-7), MixUp(), Losses(), GradientAccumulation(16), batches=batches), 1, 0.)
    first,second = learn.losses.seen[:2],learn.losses.seen[2:4]
    assert first==pytest.approx(second, rel=1e-4)

def test_sam_with_everything(tmp_path):
    "Other terms in the loss are asked again; the losses recorded are those of the first pass at the present weights"
    cbs = [SAM(.1), RDrop(1.), JacobianPenalty(.1), ConfidencePenalty(.1), Mixout(.2), WeightDecay(.1)]
    learn = fit(learner(*cbs, model=net(.3, bn=True), batches=four), 2, .05)
    assert all(p.isfinite().all() for p in learn.model.parameters()) and int(learn.model[1].num_batches_tracked)==8

@pytest.mark.parametrize('extra', [[], [partial(GradientAccumulation, 16)]], ids=['each batch', 'accumulated'])
def test_mixout_is_the_same_in_both_passes(extra):
    seen,model = [],net()
    def note(m, args, out):
        if m.training: seen.append((args[0], m.weight.detach().clone()))
    model[0].register_forward_hook(note)
    class Shift(Callback):
        def before_train(self): self.learn.model[0].weight.data.add_(1.)
    fit(learner(SAM(1e-9), Mixout(.4), *[o() for o in extra], model=model, batches=four), 1, 0., cbs=Shift())
    for x,_ in four:
        a,b = (w for i,w in seen if torch.equal(i, x))
        torch.testing.assert_close(a, b)

def test_an_exported_sam_holds_no_batch(tmp_path):
    class CtrlC(Callback):
        def after_batch(self): raise KeyboardInterrupt
    learn = contract_learner(cbs=[SAM(.1), GradientAccumulation(64)], path=tmp_path)
    with pytest.raises(KeyboardInterrupt): fit(learn, 1, cbs=CtrlC())
    assert len(learn.sam._batches)==1
    learn.export('small.pkl')
    loaded = load_learner(tmp_path/'small.pkl')
    assert not loaded.sam._batches and loaded.sam.rho==.1

def test_sam_refuses():
    learn = learner(SAM(), NonNativeMixedPrecision())
    learn.create_opt()
    with pytest.raises(ValueError, match='to_fp16'): learn.sam.before_fit()
    with pytest.raises(ValueError, match='remove one'): fit(learner(SAM(), ASAM()), 1)
    emb = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Flatten(), nn.Linear(12,3))
    ids = [(torch.randint(5,(8,4)), torch.randint(3,(8,)))]
    with pytest.raises(ValueError, match='sparse=False'): fit(learner(SAM(), model=emb, batches=ids), 1)

# terms

class Terms(Callback):
    "The loss minimized, unscaled, and the one shown"
    order = 5.5
    def before_fit(self): self.seen = []
    def after_loss(self):
        learn = self.learn
        if self.training: self.seen.append((learn.loss_grad.item(), learn.loss.item(), learn.pred.detach().clone()))

def test_confidence_and_jacobian_terms():
    x,y = data()
    def humble(m, z): return -.7*torch.distributions.Categorical(logits=z).entropy().mean()
    def smooth(m, z): return .35*torch.func.vmap(torch.func.jacrev(m))(x).square().sum((1,2)).mean()
    for cb,term in ((ConfidencePenalty(.7), humble), (JacobianPenalty(.7, n_proj=3), smooth)):
        learn = learner(cb, Grads(), Terms())
        m = copy.deepcopy(learn.model)
        z = m(x)
        base = nn.CrossEntropyLoss()(z, y)
        want = base + term(m.eval(), z)
        fit(learn, 1, 0.)
        got,shown,_ = learn.terms.seen[0]
        assert got==pytest.approx(want.item(), rel=1e-5) and shown==pytest.approx(base.item(), rel=1e-6)
        gs = torch.autograd.grad(want, list(m.parameters()), allow_unused=True)
        close(learn.grads.seen[0], [torch.zeros_like(p) if g is None else g for p,g in zip(m.parameters(), gs)], 1e-4)

def test_the_jacobian_is_by_all_inputs_that_are_numbers():
    class Two(nn.Module):
        def __init__(self): super().__init__(); self.a,self.b,self.emb = nn.Linear(4,3),nn.Linear(2,3),nn.Embedding(5,3)
        def forward(self, x, i, z): return self.a(x).tanh() + self.emb(i) + self.b(z)
    g = torch.Generator().manual_seed(0)
    x,z,i,y = torch.randn(8,4,generator=g),torch.randn(8,2,generator=g),torch.arange(8)%5,torch.arange(8)%3
    learn = learner(JacobianPenalty(.7, n_proj=3), Terms(), model=seeded(Two), batches=[(x,i,z,y)])
    m = copy.deepcopy(learn.model)
    jac = torch.func.vmap(torch.func.jacrev(m, argnums=(0,2)))(x, i, z)
    want = nn.CrossEntropyLoss()(m(x,i,z), y) + .35*sum(j.square().sum((1,2)).mean() for j in jac)
    assert fit(learn, 1, 0.).terms.seen[0][0]==pytest.approx(want.item(), rel=1e-5)

@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
@pytest.mark.parametrize('axis,law', [(-1, torch.distributions.Categorical), (None, torch.distributions.Bernoulli)])
def test_divergence_and_entropy_are_torchs(axis, law, dtype):
    "With their gradients, of classes and of independent answers; in half precision they are computed in full"
    g = torch.Generator().manual_seed(0)
    p,q = (3*torch.randn(6, 4, generator=g).to(dtype) for _ in range(2))
    def both(f, h):
        x,y = p.clone().requires_grad_(),q.clone().requires_grad_()
        res = f(x, y),h(x)
        return *res,*torch.autograd.grad(sum(o.sum() for o in res), (x,y))
    def kl(x, y):
        a,b = law(logits=x.float()),law(logits=y.float())
        return (torch.distributions.kl_divergence(a, b) + torch.distributions.kl_divergence(b, a))/2
    want = both(kl, lambda x: law(logits=x.float()).entropy())
    got = both(partial(symmetric_kl, axis=axis), partial(entropy, axis=axis))
    for a,b in zip(got, want, strict=True): torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)

def test_rdrop_term():
    "Against the loss of the paper for the two masks that were drawn"
    class Masks(nn.Module):
        def __init__(self): super().__init__(); self.seen = []
        def forward(self, x):
            if not self.training: return x
            m = (torch.rand(x.shape) > .5).float()*2
            self.seen.append(m)
            return x*m
    masks = Masks()
    model = nn.Sequential(nn.Linear(4,8), nn.BatchNorm1d(8), masks, nn.Linear(8,3))
    learn = learner(RDrop(.8), Grads(), Terms(), model=model)
    m,(x,y) = copy.deepcopy(model),data()
    fit(learn, 1, 0.)
    assert len(masks.seen)==2 and not torch.equal(*masks.seen) and int(model[1].num_batches_tracked)==1
    z = [m[3](m[1](m[0](x))*k) for k in masks.seen]
    ce = [nn.CrossEntropyLoss()(o, y) for o in z]
    p,q = (o.log_softmax(1) for o in z)
    kl = lambda a,b: nn.functional.kl_div(b, a, reduction='batchmean', log_target=True)
    want = (ce[0]+ce[1])/2 + .8*(kl(p,q)+kl(q,p))/2
    assert learn.terms.seen[0][0]==pytest.approx(want.item(), rel=1e-5)
    close(learn.grads.seen[0], torch.autograd.grad(want, list(m.parameters())), 1e-4)

@pytest.mark.parametrize('term', [lambda: ConfidencePenalty(.5), lambda: JacobianPenalty(.5, n_proj=3),
                                  lambda: ActivationL1(.5), lambda: ActivationL2(.5)],
                         ids=['confidence', 'jacobian', 'activation 1', 'activation 2'])
@pytest.mark.parametrize('precision', fp16)
def test_a_term_counts_once(term, precision):
    "Under accumulation, a loss scale, both, and with a last batch that is smaller"
    mk = lambda *cbs, batches: given(*cbs, *[o() for o in fp16[precision]], batches=batches)
    a,b = mk(term(), batches=[data(32)]),mk(batches=[data(32)])
    x,y = data(32)
    for sizes in ([8]*4, [12,12,8]):
        parts = list(zip(x.split(sizes), y.split(sizes)))
        c,d = mk(term(), GradientAccumulation(32), batches=parts),mk(GradientAccumulation(32), batches=parts)
        for p,q,r,s in zip(a[0], b[0], c[0], d[0]): torch.testing.assert_close(p-q, r-s, rtol=1e-4, atol=1e-6)

def test_rdrop_passes_over_ignored_targets():
    class Token(nn.Module):
        def __init__(self): super().__init__(); self.lin = nn.Linear(4,3); self.drop = nn.Dropout(.5)
        def forward(self, x): return self.lin(self.drop(x))
    set_seed(0)
    x,y = torch.randn(6,5,4),torch.randint(3,(6,5))
    y[:,2:] = -100
    def term(x):
        loss = CrossEntropyLossFlat(ignore_index=-100)
        learn = learner(RDrop(3.), Grads(), model=seeded(Token), batches=[(x,y)], loss=loss)
        return fit(learn, 1, 0.).grads.seen[0]
    z = x.clone(); z[:,2:] = 0  # what is at ignored places has no say
    keep = term(x)
    for p,q in zip(keep, term(z)): torch.testing.assert_close(p, q)

def numbers(): return [(data()[0], torch.randn(16,3))]  # targets that are no classes

def test_class_axis():
    from fastai.losses import DiceLoss, FocalLossFlat, LabelSmoothingCrossEntropyFlat
    known = (CrossEntropyLossFlat(), CrossEntropyLossFlat(axis=1), nn.CrossEntropyLoss(), nn.functional.cross_entropy,
             nn.NLLLoss(), FocalLossFlat(), DiceLoss(), partial(nn.functional.cross_entropy, label_smoothing=.1),
             LabelSmoothingCrossEntropyFlat(), BCEWithLogitsLossFlat(), nn.BCEWithLogitsLoss())
    assert [class_axis(o) for o in known]==[-1, 1, 1, 1, 1, -1, 1, 1, -1, None, None]
    with pytest.raises(ValueError, match='axis='): class_axis(MSELossFlat())
    learn = fit(learner(RDrop(1., axis='binary'), model=net(.5), loss=MSELossFlat(), batches=numbers()), 1)
    assert all(p.isfinite().all() for p in learn.model.parameters())

bad = {'sam': lambda: SAM(-1.), 'sam nan': lambda: SAM(float('nan')), 'sam text': lambda: SAM('a lot'),
       'sam slice': lambda: SAM(slice(-1,1)), 'sam none': lambda: SAM([None,.1]), 'sam inf': lambda: SAM(math.inf),
       'asam': lambda: ASAM(.5, -1), 'rdrop': lambda: RDrop(-1),
       'rdrop inf': lambda: RDrop(math.inf), 'jacobian': lambda: JacobianPenalty(-1),
       'n_proj': lambda: JacobianPenalty(n_proj=0),
       'confidence': lambda: ConfidencePenalty(True),
       'mixout': lambda: Mixout(1.), 'decay': lambda: WeightDecay(-.1), 'decay how': lambda: WeightDecay(how='both')}
@pytest.mark.parametrize('name', bad)
def test_bad_input(name):
    with pytest.raises(ValueError, match='give'): bad[name]()

def test_a_head_of_zeros_is_no_lack_of_dropout():
    "Before the first step its predictions are equal whatever was dropped before it"
    model = net(.5)
    nn.init.zeros_(model[-1].weight), nn.init.zeros_(model[-1].bias)
    learn = fit(learner(RDrop(), model=model), 2)
    assert model[-1].weight.abs().max() > 0 and torch.isfinite(torch.tensor(learn.recorder.values)).all()

def test_rdrop_looks_once_in_each_fit_whether_anything_is_random():
    learn = fit(learner(RDrop(), model=net(.5)), 1)
    set_dropout(learn, 0.)
    with pytest.raises(ValueError, match='nothing in the model is random'): fit(learn, 1)
    class First(nn.Module):
        "Random in the first batch, and by chance the same in both passes of the second"
        n = 0
        def forward(self, x):
            self.n += self.training
            return x + (torch.rand(1) if self.training and self.n < 3 else 0.)
    fit(learner(RDrop(), model=nn.Sequential(First(), nn.Linear(4,3)), batches=[data()]*2), 1)

def test_bad_fits():
    for cb in (RDrop(), ConfidencePenalty()):
        with pytest.raises(ValueError, match='axis='):
            fit(learner(cb, loss=MSELossFlat(), model=net(.5), batches=numbers()), 1)
    with pytest.raises(ValueError, match='nothing in the model is random'): fit(learner(RDrop()), 1)
    ids = [(torch.randint(5,(8,4)), torch.randint(3,(8,)))]
    reader = nn.Sequential(nn.Embedding(5,3), nn.Flatten(), nn.Linear(12,3))
    with pytest.raises(ValueError, match='no input is a floating'):
        fit(learner(JacobianPenalty(), model=reader, batches=ids), 1)
    fit(learner(JacobianPenalty(0.), model=reader, batches=ids), 1)  # 0 is no callback
    with pytest.raises(ValueError, match='leave no weight to mix'): fit(learner(Mixout(skip='*')), 1)
    with pytest.raises(ValueError, match='leave no weight to decay'): fit(learner(WeightDecay(skip='*')), 1)
    with pytest.raises(ValueError, match='has no hyper-parameter wd'):
        fit(learner(WeightDecay(.1), opt_func=partial(OptimWrapper, opt=torch.optim.Rprop)), 1)

@pytest.mark.parametrize('cb', [partial(RDrop, 2.), partial(JacobianPenalty, .5), partial(ConfidencePenalty, .5),
                                partial(SAM, .5)],
                         ids=['rdrop', 'jacobian', 'confidence', 'sam'])
def test_losses_are_those_of_the_data(cb):
    make = partial(seeded, lambda: nn.Sequential(nn.Linear(4,3), nn.Dropout(.2)))
    a,b = (fit(learner(*cbs, model=make(), batches=four), 2, 0.) for cbs in ([cb()], []))
    assert [r[1] for r in a.recorder.values]==[r[1] for r in b.recorder.values]
    assert a.recorder.losses==b.recorder.losses

# Mixout

def test_mixout_mixes_and_leaves_weights_alone():
    model = net()
    seen = []
    biases = []
    def note(m, i, o): seen.append((m.training, m.weight.detach().clone())); biases.append(m.bias.detach().clone())
    model[0].register_forward_hook(note)
    learn = learner(Mixout(.4), model=model, batches=four)
    start,bias = (p.detach().clone() for p in model[0].parameters())
    class Shift(Callback):
        def before_train(self):
            for p in self.learn.model[0].parameters(): p.data.add_(1.)
    fit(learn, 1, 0., cbs=Shift())
    assert all(torch.equal(b, bias+1) for b in biases)  # vectors are left alone
    train,valid = [w for t,w in seen if t],[w for t,w in seen if not t]
    assert len(train)==4 and all(torch.equal(w, start+1) for w in valid) and torch.equal(model[0].weight, start+1)
    for w in train:
        back,away = torch.isclose(w, start),torch.isclose(w, start + 1/.6)
        assert (back | away).all() and back.any() and away.any()
    assert not torch.equal(train[0], train[1])
    close([torch.stack(train).mean()], [(start+1).mean()], .3)

def test_mixout_killed_and_resumed(tmp_path):
    class Killed(Exception): pass
    class Kill(Callback):
        order = 80
        def after_backward(self):
            if self.epoch==2: raise Killed('made for the test')
    mk = lambda *cbs, seed=0: learner(*cbs, batches=four, path=tmp_path, opt_func=partial(SGD, mom=.9), seed=seed)
    whole = fit(mk(Mixout(.5)), 4, .1)
    with pytest.raises(Killed): fit(mk(Mixout(.5), SaveModelCallback(every_epoch=True, with_opt=True), Kill()), 4, .1)
    resumed = fit(mk(seed=4).load('model_1'), 4, .1, cbs=Mixout(.5), start_epoch=2)
    for a,b in zip(whole.model.parameters(), resumed.model.parameters()): assert torch.equal(a, b)
    anew = mk(Mixout(.5), seed=4).load('model_1')  # without start_epoch it starts from what was loaded
    start = anew.model[0].weight.detach().clone()
    fit(anew, 1, .1)
    assert torch.equal(anew.mixout._anchors['0.weight'], start)

def test_mixout_freezes_nothing_and_moves_nothing_frozen():
    learn = learner(Mixout(.5), batches=four, splitter=body_and_head)
    learn.freeze()
    w = learn.model[0].weight.detach().clone()
    fit(learn, 2, .1)
    assert torch.equal(learn.model[0].weight, w) and 'forward' not in vars(learn.model)

def test_mixout_draws_other_masks_in_the_second_pass_of_rdrop():
    ws,model = [],net()
    model[0].register_forward_hook(lambda m,i,o: ws.append(m.weight.detach().clone()) if m.training else None)
    class Shift(Callback):
        def before_train(self): self.learn.model[0].weight.data.add_(1.)
    fit(learner(RDrop(), Mixout(.5), model=model, batches=four[:1]), 1, 0., cbs=Shift())
    assert len(ws)==2 and not torch.equal(*ws)

def test_mixout_starts_a_head_of_another_width_anew(tmp_path):
    learn = fit(learner(Mixout(.5)), 1)
    learn.model[-1] = nn.Linear(8,5)
    start = learn.model[-1].weight.detach().clone()
    fit(learn, 1)
    assert torch.equal(learn.mixout._anchors['3.weight'], start)
    learn.save(tmp_path/'after', with_opt=False)
    learner(model=learn.model).save(tmp_path/'plain', with_opt=False)
    after,plain = (torch.load(tmp_path/f'{n}.pth') for n in ('after','plain'))
    assert after._metadata==plain._metadata  # the start is of the fit, not of the file

def test_an_exported_mixout_starts_from_its_own_weights(tmp_path):
    "Also where Ctrl-C has ended the fit; and the callback of an interrupted fit leaves nothing in the model"
    class CtrlC(Callback):
        def after_pred(self):
            if self.training: raise KeyboardInterrupt
    learn = contract_learner(cbs=Mixout(.5), path=tmp_path)
    with pytest.raises(KeyboardInterrupt): fit(learn, 1, cbs=CtrlC())
    learn.export('mixed.pkl')
    loaded = load_learner(tmp_path/'mixed.pkl')
    assert 'forward' not in vars(loaded.model) and not hasattr(loaded.mixout, '_anchors')
    loaded.dls = learn.dls
    loaded.model[0][0].weight.data.add_(1.)
    start = loaded.model[0][0].weight.detach().clone()
    fit(loaded, 1)
    assert torch.equal(loaded.mixout._anchors['0.0.weight'], start)
    learn = contract_learner(path=tmp_path)
    with pytest.raises(KeyboardInterrupt): fit(learn, 1, cbs=[Mixout(.5), CtrlC()])
    assert 'forward' not in vars(learn.model)

# weight decay

class Everything(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb,self.lstm = nn.Embedding(7,4),nn.LSTM(4,6,batch_first=True)
        self.gn,self.ln = nn.GroupNorm(2,6),nn.LayerNorm(6)
        self.rms,self.bn,self.out = nn.RMSNorm(6),nn.BatchNorm1d(6),nn.Linear(6,3)
    def forward(self, x): return self.out(self.bn(self.rms(self.ln(self.gn(self.lstm(self.emb(x))[0][:,-1])))))

tokens = [(torch.randint(7,(8,5), generator=torch.Generator().manual_seed(i)), torch.arange(8)%3) for i in range(3)]
optimizers = {'Adam': Adam, 'SGD': partial(SGD, mom=.9),
              'AdamW': partial(OptimWrapper, opt=torch.optim.AdamW),
              'torch SGD': partial(OptimWrapper, opt=torch.optim.SGD),
              'decoupled': partial(OptimWrapper, opt=partial(torch.optim.Adam, decoupled_weight_decay=True))}

def everything(*cbs, opt, **kwargs):
    return learner(*cbs, model=Everything(), batches=tokens, opt_func=optimizers[opt], **kwargs)

class NoGrad(Callback):
    "Gradients of zero, so that decay alone moves the weights"
    order = 12
    def before_step(self):
        for p in self.learn.model.parameters():
            if p.grad is not None: p.grad.zero_()

@pytest.mark.parametrize('opt', optimizers)
@pytest.mark.parametrize('right', [False, True], ids=['as it is', 'WeightDecay'])
def test_the_report_is_what_happens(opt, right):
    set_seed(0)
    cbs = [WeightDecay(how='decoupled' if opt=='torch SGD' else None)] if right else []
    learn = everything(*cbs, NoGrad(), opt=opt, wd=.3)
    for p in learn.model.parameters(): p.data.fill_(1.)
    sched = ParamScheduler({'lr': combined_cos(.3, .01, .1, .001)})
    fit(learn, 2, .1, cbs=sched)
    report = learn.decay_report()
    for w,r in zip(weights(learn), report, strict=True):
        left = w.data.mean().item()
        assert left==pytest.approx((1-r.per_epoch)**2, rel=1e-4), (r.name, left)
        assert r.decays==(left < 1)
        if right: assert r.decays==r.usual, r.name
    odd = {r.name.split('.')[0] for r in report if r.decays != r.usual}
    unknown = {'lstm','gn','rms'} | ({'ln','bn','out'} if opt in ('AdamW','torch SGD','decoupled') else set())
    if not right: assert odd==unknown

def test_the_report_of_groups_with_rates_of_their_own():
    learn = learner(NoGrad(), splitter=body_and_head, opt_func=Adam, wd=.5)
    for p in learn.model.parameters(): p.data.fill_(1.)
    fit(learn, 2, slice(.01, .2))
    report = learn.decay_report()
    for w,r in zip(weights(learn), report, strict=True):
        assert w.data.mean()==pytest.approx((1-r.per_epoch)**2, rel=1e-4)
    assert report[2].per_epoch > 10*report[0].per_epoch > 0

def test_the_report_in_words():
    report = lambda *args, **kw: learner(*args, **{'opt_func': Adam, 'wd': .1, **kw}).decay_report()
    assert report(opt_func=ranger).title.startswith('Lookahead: decoupled decay; 2 of 4')
    assert {r.wd for r in report(WeightDecay(.3))}=={.3}
    assert {r.why for r in report(wd_bn_bias=True) if not r.usual}=={'bias: wd_bn_bias=True'}
    part = report(splitter=lambda m: list(m[0].parameters()))
    assert [(r.decays, r.why) for r in part][2:]==[(False, 'the optimizer does not have it')]*2
    none = learner(opt_func=Adam, wd_bn_bias=True).decay_report(wd=0.)
    assert 'not as meant' not in none.title and not any(r.decays for r in none)
    assert learner(opt_func=Adam).decay_report(lr=2., wd=.5)[0].per_epoch==1.

class Attends(nn.Module):
    def __init__(self): super().__init__(); self.att,self.out = nn.MultiheadAttention(4, 2),nn.Linear(4,3)
    def forward(self, x): return self.out(self.att(x, x, x)[0])

@pytest.mark.parametrize('how', ['decoupled', 'coupled'])
def test_a_block_of_a_weight_decays_alone(how):
    "The queries, and nothing while they are frozen"
    model = Attends()
    model.att.in_proj_weight.data.fill_(1.)
    make = lambda: learner(WeightDecay(.3, only=lambda w: w.block=='q', how=how), NoGrad(), model=model)
    fit(make(), 1, .1)
    q,k,v = model.att.in_proj_weight.detach().clone().split(4)
    assert torch.allclose(q, torch.tensor(1-.1*.3)) and (k==1).all() and (v==1).all()
    learn = make()
    class Freezes(Callback):
        "After the backward pass: a gradient alone is no reason to decay"
        def after_backward(self): model.att.in_proj_weight.requires_grad_(False)
    fit(learn, 1, .1, cbs=Freezes())
    assert torch.equal(model.att.in_proj_weight.detach(), torch.cat([q,k,v]))

def test_vectors_that_are_asked_for_and_groups_without_decay():
    learn = learner(WeightDecay(only='*.bias'), NoGrad(), splitter=body_and_head, batches=[data()])
    for p in learn.model.parameters(): p.data.fill_(1.)
    fit(learn, 1, .1, wd=[0.,.3])
    w,b,v,c = (p.detach().mean().item() for p in learn.model.parameters())
    assert (w,b,v)==(1.,1.,1.) and c==pytest.approx(1-.1*.3)

def test_an_optimizer_that_knows_no_way_decays_decoupled():
    def opt(params, lr, wd=0.):
        return Optimizer(params, [average_sqr_grad, rms_prop_step], lr=lr, wd=wd, sqr_mom=.9, eps=1e-3)
    learn = learner(WeightDecay(.3), NoGrad(), opt_func=opt)
    learn.model[0].weight.data.fill_(1.)
    fit(learn, 1, .1)
    torch.testing.assert_close(learn.model[0].weight.detach(), torch.full((8,4), 1-.1*.3))

def test_frozen_weights_that_go_on_decaying():
    def run(*cbs):
        learn = learner(*cbs, batches=four, opt_func=Adam, wd=.5, splitter=body_and_head)
        fit(learn, 1, .1)
        learn.freeze()
        w = learn.model[0].weight.detach().clone()
        row = learn.decay_report()[0]
        fit(learn, 1, .1)
        return torch.equal(w, learn.model[0].weight),row
    still,row = run()
    assert not still and row.decays and 'goes on decaying' in row.why
    still,row = run(WeightDecay())
    assert still and not row.decays and row.why=='frozen'

def test_report_changes_nothing_and_needs_no_fit():
    learn = everything(opt='Adam', wd=.1)
    assert len(learn.decay_report(lr=.1)) and learn.opt is None
    fit(learn, 1, .1)
    lrs = [dict(h) for h in learn.opt.hypers]
    learn.decay_report(lr=slice(1e-3, 1e-2))
    assert [dict(h) for h in learn.opt.hypers]==lrs
    assert learn.decay_report(wd=0.).title.startswith('Optimizer: decoupled decay; 0 of')
    coupled = everything(opt='Adam', wd=.1)
    coupled.opt_func = partial(Adam, decouple_wd=False)
    report = coupled.decay_report()
    assert {r.per_epoch for r in report if r.decays}=={None} and 'depends' in repr(report)

def test_wd_stays_a_hyper_parameter():
    seen = []
    class See(Callback):
        order = 100
        def before_step(self): seen.append(self.opt.hypers[0]['wd'])
        def after_batch(self):
            if self.training: seen.append(self.opt.hypers[0]['wd'])
    for opt in ('Adam','AdamW'):
        seen.clear()
        learn = fit(everything(WeightDecay(), See(), opt=opt), 1, .01, cbs=ParamScheduler({'wd': SchedLin(.3, .0)}))
        assert seen[::2]==[0.]*3 and seen[1::2]==pytest.approx([.3, .2, .1])
        fit(learn, 1, .01, wd=.7)
        assert learn.opt.hypers[0]['wd']==.7

def test_wd_after_an_error_in_the_step():
    learn = everything(WeightDecay(.2), opt='Adam')
    class Fail(Callback):
        order = 100
        def before_step(self): raise RuntimeError('made for the test')
    with pytest.raises(RuntimeError): fit(learn, 1, .01, cbs=Fail())
    with learn.no_bar(): learn.validate()
    assert learn.opt.hypers[0]['wd']==.01  # the optimizer's own again, as after any fit

@pytest.mark.parametrize('opt', ['Adam', 'AdamW'])
@pytest.mark.parametrize('how', ['new', 'loaded', 'other groups', 'scheduled', 'validates'])
def test_a_decay_follows_the_optimizer(opt, how, tmp_path):
    "Where a callback makes it anew within the fit, loads what was saved before, or validates"
    seen,sched = [],ParamScheduler({'wd': SchedLin(.4, .1)})
    class Again(Callback):
        order = 85
        def before_batch(self):
            if self.train_iter != 1: return
            lr = self.opt.hypers[-1]['lr']
            if how=='loaded': self.learn.load('before')
            elif how=='other groups': self.learn.splitter = body_and_head
            if how not in ('loaded', 'validates'): self.learn.create_opt()
            self.opt.set_hyper('lr', lr)
            if how=='scheduled': self.learn.param_scheduler.before_batch()
    class Validates(Callback):
        order = -20  # before the model is put into training
        def before_train(self):
            if how=='validates':
                self.learn.validate()
                assert self.opt.hypers[0]['wd']==.4
    class See(Callback):
        order = 89
        def before_step(self):
            seen.append(self.opt.hypers[0]['wd'])
            self.was = self.model[0].weight.detach().clone()
    class Moved(Callback):
        order = 91
        def before_step(self):
            w = self.model[0].weight.detach()
            torch.testing.assert_close(w, self.learn.see.was*(1 - self.opt.hypers[0]['lr']*seen[-1]))
    learn = learner(WeightDecay(.4), Again(), Validates(), See(), Moved(), batches=[data()]*3,
                    opt_func=optimizers[opt], wd=.01, path=tmp_path)
    learn.create_opt()
    learn.save('before')
    own = learn.opt.hypers[0]['wd']
    fit(learn, 1, .01, cbs=[sched] if how=='scheduled' else [])
    assert seen==pytest.approx([.4, .3, .2] if how=='scheduled' else [.4]*3)
    if how != 'scheduled': assert {h['wd'] for h in learn.opt.hypers}=={.01 if how=='validates' else own}
    assert not any('wd_before' in h for h in learn.opt.hypers)

def test_wd_of_a_fit_after_an_error_in_the_step():
    "The fit's own, not that of the fit that has failed"
    class Fail(Callback):
        order = 100
        def before_step(self): raise RuntimeError('made for the test')
    learn = everything(WeightDecay(), opt='Adam')
    with pytest.raises(RuntimeError): fit(learn, 1, .01, wd=.2, cbs=Fail())
    assert fit(learn, 1, .01, wd=.7).opt.hypers[0]['wd']==.7

def test_contract_learner_trains_as_before_without_strength():
    a,b = (fit(contract_learner(cbs=cbs), 1) for cbs in ([WeightDecay(.5)], []))
    assert any(not torch.equal(x, y) for x,y in zip(weights_of(a).values(), weights_of(b).values()))

def test_report_of_a_coupled_decay_with_momentum():
    learn = learner(NoGrad(), batches=four*25, opt_func=partial(SGD, mom=.9, decouple_wd=False), wd=.05)
    learn.model[0].weight.data.fill_(1.)
    fit(learn, 1, .01)
    row = learn.decay_report()[0]
    went = 1-learn.model[0].weight.mean().item()
    assert went==pytest.approx(row.per_epoch, rel=.12)  # the first steps have less momentum

def test_mixout_after_ctrl_c_and_when_frozen():
    model = net()
    start = model[0].weight.detach().clone()
    learn = learner(Mixout(.4), model=model, batches=four, splitter=body_and_head)
    class CtrlC(Callback):
        def after_pred(self):
            if self.training: raise KeyboardInterrupt
    class Shift(Callback):
        def before_train(self): self.learn.model[0].weight.data.add_(1.)
    with pytest.raises(KeyboardInterrupt): fit(learn, 1, 0., cbs=[Shift(), CtrlC()])
    model.eval()
    x = data()[0]
    assert torch.equal(model(x), nn.Sequential(*model)(x))  # in evaluation mode the layers see the weights as they are
    seen = []
    model[0].register_forward_pre_hook(lambda m,i: seen.append(m.weight.detach().clone()))
    learn.freeze()
    fit(learn, 1, 0.)
    assert all(torch.equal(w, start+1) for w in seen) and len(seen)==8

class Wrapped:
    "A loss of one's own around one of torch"
    func = nn.CrossEntropyLoss(ignore_index=-7)
    def __call__(self, *args): return self.func(*args)

@pytest.mark.parametrize('loss', [CrossEntropyLossFlat(ignore_index=-7), nn.CrossEntropyLoss(ignore_index=-7),
                                  Wrapped()])
def test_rdrop_means_over_what_counts(loss):
    learn = learner(cb := RDrop(), loss=loss)
    y = torch.randint(3, (6,5))
    y[:,3:] = -7
    cb.prepare()
    learn.yb,kl = (y,),torch.rand(6, 5)
    torch.testing.assert_close(cb._mean(kl), kl[:,:3].mean())
    learn.yb = (y.fill_(-7),)
    assert cb._mean(kl)==0

def test_a_norm_of_two_axes_does_not_decay():
    learn = learner(model=nn.Sequential(nn.Linear(4,6), nn.Unflatten(1, (2,3)), nn.LayerNorm((2,3)), nn.Flatten(),
                                        nn.Linear(6,3)))
    assert [w.name for w in WeightDecay().choose(learn)]==['0.weight','4.weight']

def test_the_strength_of_a_term_is_scheduled():
    seen = []
    class See(Callback):
        def after_batch(self):
            if self.training: seen.append(self.learn.confidence_penalty.now)
    sched = ParamScheduler({'confidence': SchedLin(0., .8)})
    fit(learner(ConfidencePenalty(.5), See(), batches=four), 2, 0., cbs=sched)
    assert seen==pytest.approx([.1*i for i in range(8)])

def test_every_batch_of_every_epoch_draws_anew():
    seeds,ws,model = [],[],net(.5)
    class See(Callback):
        def after_pred(self):
            if self.training: seeds.append(self.learn.r_drop.seed_now)
    fit(learner(RDrop(), See(), model=model, batches=four), 2, 0.)
    assert len(set(seeds))==8
    model = net()
    model[0].register_forward_hook(lambda m,i,o: ws.append(m.weight.detach().clone()) if m.training else None)
    class Shift(Callback):
        def before_fit(self): self.learn.model[0].weight.data.add_(1.)
    cb = Mixout(.5)
    shift = Shift()
    shift.order = cb.order + 1
    fit(learner(cb, shift, model=model, batches=four), 2, 0.)
    assert len(ws)==8 and len({tuple(w.flatten().tolist()) for w in ws})==8

@pytest.mark.parametrize('cb', [RDrop, partial(JacobianPenalty, 1.), partial(Mixout, .5)],
                         ids=['rdrop', 'jacobian', 'mixout'])
def test_a_seed_decides_what_is_drawn(cb):
    "Whatever stands in the global generators; in each batch anew"
    class Shift(Callback):
        def before_train(self): self.learn.model[-1].weight.data.add_(1.)
    def run(seed, start):
        learn = learner(cb(seed=seed), Grads(), Shift(), model=seeded(Draws), batches=[data()]*2)
        set_seed(start)
        return fit(learn, 1, 0.).grads.seen
    class Draws(nn.Sequential):
        "Its first mask is the same in each fit, so that only the second differs"
        def __init__(self): super().__init__(nn.Linear(4,8), Numbered(), nn.Linear(8,3))
    class Numbered(nn.Module):
        n = 0
        def forward(self, x):
            if not self.training or isinstance(cb, partial): return x
            self.n += 1
            first = torch.Generator().manual_seed(0)
            return x*(torch.rand(x.shape, generator=first if self.n % 2 else None) > .5)
    a,b,c = run(0, 1),run(0, 2),run(1, 1)
    same = lambda p,q: all(map(torch.equal, p, q))
    assert same(a[0], b[0]) and not same(a[0], c[0]) and not same(a[0], a[1])

def test_directions_of_the_jacobian():
    "One random direction, and two, are right in the mean, and leave the global generator alone"
    g = torch.Generator().manual_seed(0)
    w,x = torch.randn(3, 4, generator=g),torch.randn(64, 4, generator=g, requires_grad=True)
    for n in (1,2):
        got = [jacobian_norm2(x @ w.T, x, n, g).item() for _ in range(60)]
        assert sum(got)/60==pytest.approx(w.square().sum().item(), rel=.05)
    states = []
    for cbs in ([JacobianPenalty(.1, n_proj=1)], []):
        fit(learner(*cbs), 1, 0.)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)

def test_an_activation_counts_once_whoever_runs_the_model():
    "A second pass through the model, by another callback, is not penalized too"
    class Again(Callback):
        order = 60
        def after_pred(self):
            if self.training: self.learn.model(*self.learn.xb)
    close(given(ActivationL1(.5), Again())[0], given(ActivationL1(.5))[0])

def test_the_column_of_an_activation_penalty_is_the_mean_of_its_epoch():
    sched = ParamScheduler({'activationl2': SchedLin(.1, .9)})
    learn = fit(learner(ActivationL2(.5), batches=[data()]*4), 2, 0., cbs=sched)
    first,second = (r[-1] for r in learn.recorder.values)
    strengths = [.1 + .1*i for i in range(8)]  # the schedule goes from .1 to .9 in eight steps
    assert second/first==pytest.approx(sum(strengths[4:])/sum(strengths[:4]), rel=1e-4)

def test_no_way_up_is_no_step_of_sam():
    "A loss without a gradient leaves the weights as they are, and numbers"
    def flat(pred, y): return pred.sum()*0
    learn = learner(SAM(.5), loss=flat)
    before = [p.detach().clone() for p in learn.model.parameters()]
    fit(learn, 2, .1, wd=0.)
    assert all(torch.equal(p, q) for p,q in zip(learn.model.parameters(), before, strict=True))

@pytest.mark.parametrize('cb', [partial(SAM, .05), partial(RDrop, 1.)], ids=['sam', 'rdrop'])
def test_the_second_pass_has_the_precision_of_the_first(cb):
    inside,outside,model = [],[],net(.5)
    model[0].register_forward_hook(lambda m,i,o: inside.append(o.dtype) if m.training else None)
    class See(Callback):
        order = 90  # after mixed precision has made the prediction a float again
        def after_pred(self):
            if self.training: outside.append(self.learn.pred.dtype)
    fit(learner(cb(), See(), CPUMixedPrecision(cast=True), model=model), 1, .01)
    assert inside==[torch.bfloat16]*2 and outside==[torch.float32]*2 and not torch.is_autocast_enabled('cpu')

def test_other_callbacks_have_their_say_in_the_second_pass():
    "In their order, however they listen; the one that asks is not called"
    class Twice(Callback):
        order = 20
        def after_pred(self): self.learn.pred = self.pred*2
    class Adds(Callback):
        order = 21
        def __call__(self, event_name):
            if event_name=='after_pred': self.learn.pred = self.learn.pred + 1.
    thrice = Callback()
    thrice.order,thrice.after_pred = 22,lambda: setattr(thrice.learn, 'pred', thrice.pred*3)
    class Asks(Callback):
        order = 60
        def __init__(self): self.pairs = []
        def after_pred(self):
            if not self.training: return
            with batch_kept(self.learn): self.pairs.append((self.pred, predict_again(self.learn, but=self)))
    learn = fit(learner(thrice, Adds(), Twice(), Asks(), batches=four), 1, 0.)
    assert len(learn.asks.pairs)==4
    for a,b in learn.asks.pairs: torch.testing.assert_close(a, b)

def test_a_coupled_decay_goes_through_the_learning_rate():
    model = net()
    model[0].weight.data.fill_(1.)
    fit(learner(WeightDecay(.3, how='coupled'), NoGrad(), model=model, batches=[data()]*4), 1, .1)
    torch.testing.assert_close(model[0].weight, torch.full((8,4), (1-.1*.3)**4))

def test_gradients_that_overflow_are_not_taken_again():
    passes,model = [],net()
    model[0].register_forward_hook(lambda m,i,o: passes.append(m.training))
    class Overflow(Callback):
        def before_backward(self):
            if self.train_iter==2: self.learn.loss_grad = self.loss_grad*math.inf
    fit(learner(SAM(.05), Overflow(), model=model, batches=[data()]*3), 1, 0.)
    assert passes.count(True)==3+2

@pytest.mark.parametrize('opt', [Adam, partial(OptimWrapper, opt=torch.optim.AdamW)])
@pytest.mark.parametrize('cb', [RDrop(.7), ConfidencePenalty(.7), JacobianPenalty(.7)])
def test_a_term_follows_the_optimizer(opt, cb):
    "Where a callback makes it anew within the fit: not a silent 0"
    class Again(Callback):
        def before_batch(self): self.learn.create_opt()
    class See(Callback):
        order = 90
        def before_step(self): self.changed = bool(self.learn.loss_grad != self.learn.loss)
    net = nn.Sequential(nn.Linear(4,8), nn.Dropout(.5), nn.Linear(8,3))
    batch = torch.randn(6,4),torch.randint(3, (6,))
    learn = Learner(DataLoaders([batch], [batch]), net, CrossEntropyLossFlat(), opt_func=opt, cbs=[Again(), See(), cb])
    with learn.no_bar(), learn.no_logging(): learn.fit(1, .01)
    assert cb.now==.7 and learn.see.changed
