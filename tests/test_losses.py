"The losses beside PyTorch's, over random shapes and options, and in everything that fastai does with a loss"
import numpy as np, pytest, torch
from fastai.vision.all import (
    CategoryBlock, CrossEntropyLossFlat, DataBlock, DataLoader, DataLoaders, ImageBlock, Learner, MixUp,
    MultiCategoryBlock, PILImageBW, accuracy, accuracy_multi, load_learner, set_seed)
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from fastai_ext.all import (
    BinaryCrossEntropy, BinaryFocal, CrossEntropy, Focal, GeneralizedCE, Poly1, SymmetricCE, class_weights,
    explain_loss)
from fastai_ext.losses.core import ClassLoss

class BySum(ClassLoss):
    "Cross-entropy by the sum that the other losses share"
    def phi(self, logp): return -logp

@st.composite
def cases(draw):
    "Scores (N, C, *rest), targets, and the options of cross-entropy"
    n,c,rest = draw(st.integers(1, 5)),draw(st.integers(2, 6)),draw(st.sampled_from([(), (3,), (2,3)]))
    g = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    scores = torch.randn(n, c, *rest, generator=g)*draw(st.sampled_from([.1, 1., 30.]))
    soft = draw(st.booleans())
    targs = torch.rand(n, c, *rest, generator=g).softmax(1) if soft else torch.randint(c, (n, *rest), generator=g)
    kw = dict(weight=torch.rand(c, generator=g)+.1 if draw(st.booleans()) else None,
              label_smoothing=draw(st.sampled_from([0., .1, 1.])),
              reduction=draw(st.sampled_from(['mean','sum','none'])))
    if not soft: kw['ignore_index'] = draw(st.sampled_from([-100, 0]))
    return scores,targs,kw

@pytest.mark.parametrize('loss', [CrossEntropy, BySum])
@settings(max_examples=80, deadline=None)
@given(case=cases(), last=st.booleans())
def test_cross_entropy_is_torchs(loss, case, last):
    scores,targs,kw = case
    want = F.cross_entropy(scores, targs, **kw)
    if last:  # the classes on the last axis, as in text
        scores = scores.movedim(1, -1)
        targs = targs.movedim(1, -1) if targs.is_floating_point() else targs
    got = loss(axis=-1 if last else 1, **kw)(scores, targs)
    torch.testing.assert_close(got, want, rtol=2e-5, atol=2e-5, equal_nan=True)

@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), shape=st.sampled_from([(4,), (4,1), (3,5), (2,3,4)]), weighted=st.booleans(),
       reduction=st.sampled_from(['mean','sum','none']))
def test_binary_is_torchs(seed, shape, weighted, reduction):
    g = torch.Generator().manual_seed(seed)
    z,t = torch.randn(shape, generator=g)*5,torch.rand(shape, generator=g)
    w = torch.rand(shape[-1], generator=g)+.1 if weighted else None
    want = F.binary_cross_entropy_with_logits(z, t, pos_weight=w, reduction=reduction)
    torch.testing.assert_close(BinaryCrossEntropy(w, reduction=reduction)(z, t), want, rtol=1e-4, atol=1e-5)
    focal = sigmoid_focal_loss(z, t.round(), alpha=-1, gamma=1.5, reduction=reduction)
    torch.testing.assert_close(BinaryFocal(1.5, reduction=reduction)(z, t.round()), focal, rtol=1e-4, atol=1e-5)

losses = [CrossEntropy(), CrossEntropy(label_smoothing=.1), Focal(2), Poly1(1), GeneralizedCE(.7), SymmetricCE()]
@pytest.mark.parametrize('loss', losses, ids=repr)
def test_gradients(loss):
    z = torch.randn(6, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: loss(s.float(), torch.arange(6) % 4).double(), z, eps=1e-2, atol=1e-2)
    extreme = torch.tensor([[100., -100.], [-100., 100.]], requires_grad=True)
    loss(extreme, torch.tensor([0, 0])).backward()
    assert extreme.grad.isfinite().all()

@pytest.fixture(scope='module')
def files(tmp_path_factory):
    "24 pictures of noise in three classes"
    from PIL import Image
    path,g = tmp_path_factory.mktemp('pictures'),np.random.default_rng(0)
    for i in range(24): Image.fromarray(g.integers(0, 255, (8,8), dtype=np.uint8)).save(path/f'{"abc"[i%3]}_{i}.png')
    return sorted(path.iterdir(), key=lambda f: int(f.stem[2:]))

def picture_learner(files, loss, many=False, **kw):
    set_seed(0)
    block = MultiCategoryBlock if many else CategoryBlock
    label = (lambda f: [f.name[0], 'any']) if many else (lambda f: f.name[0])
    dls = DataBlock((ImageBlock(PILImageBW), block), get_items=lambda _: files, get_y=label,
                    splitter=lambda o: (range(16), range(16,24))).dataloaders('', bs=8)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4 if many else 3))
    return Learner(dls, model, loss, metrics=accuracy_multi if many else accuracy, **kw)

def quiet(learn, f, *args, **kw):
    with learn.no_bar(), learn.no_logging(): return f(*args, **kw)

@pytest.mark.parametrize('loss', losses, ids=repr)
def test_in_a_learner(files, loss, tmp_path):
    "MixUp, with_loss, decoded predictions, show_results, export, explanation"
    learn = picture_learner(files, loss, cbs=MixUp(), path=tmp_path)
    quiet(learn, learn.fit, 2, 1e-2)
    assert learn.loss_func is loss
    learn.remove_cb(MixUp)
    probs,targs,decoded,each = quiet(learn, learn.get_preds, with_decoded=True, with_loss=True)
    torch.testing.assert_close(probs.sum(1), torch.ones(8))
    assert each.shape == (8,) and loss.reduction == 'mean'
    assert torch.equal(torch.as_tensor(decoded), probs.argmax(1))
    torch.testing.assert_close(each.mean().item(), quiet(learn, learn.validate)[0], rtol=1e-5, atol=1e-5)
    quiet(learn, learn.show_results, max_n=2)
    assert len(explain_loss(learn)) == 8 and explain_loss(learn)[0].target in 'abc'
    torch.save(learn.loss_func, tmp_path/'loss.pt')
    assert repr(torch.load(tmp_path/'loss.pt', weights_only=False)) == repr(loss)

def test_mixup_mixes_the_losses():
    z,a,b,lam = torch.randn(8, 5),torch.randint(5, (8,)),torch.randint(5, (8,)),torch.rand(8)
    each = CrossEntropy(reduction='none')
    mixed = CrossEntropy(reduction='none')(z, lam[:,None]*F.one_hot(a, 5) + (1-lam[:,None])*F.one_hot(b, 5))
    torch.testing.assert_close(torch.lerp(each(z, b), each(z, a), lam), mixed)

@pytest.mark.parametrize('loss', [BinaryCrossEntropy(), BinaryFocal(2)], ids=repr)
def test_many_labels(files, loss):
    learn = picture_learner(files, loss, many=True)
    quiet(learn, learn.fit, 1)
    probs,targs,decoded,each = quiet(learn, learn.get_preds, with_decoded=True, with_loss=True)
    assert each.shape == (8,) and torch.equal(decoded, probs > .5)
    quiet(learn, learn.show_results, max_n=2)
    assert {r.label for r in explain_loss(learn, n=32)} == {'a','any','b','c'}

def get_letter(f): return f.name[0]

def test_export_keeps_loss_and_temperature(files, tmp_path):
    from fastai.vision.all import get_image_files
    block = DataBlock((ImageBlock(PILImageBW), CategoryBlock), get_items=get_image_files, get_y=get_letter)
    dls = block.dataloaders(files[0].parent, bs=8)
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(64,3)), CrossEntropy([1,2,3]), path=tmp_path)
    quiet(learn, learn.fit, 1)
    assert quiet(learn, learn.calibrate).temperature == learn.loss_func.temperature != 1
    learn.export('m.pkl')
    again = load_learner(tmp_path/'m.pkl')
    assert again.loss_func.temperature == learn.loss_func.temperature and again.loss_func.weight.tolist() == [1,2,3]
    torch.testing.assert_close(quiet(again, again.predict, files[0])[2], quiet(learn, learn.predict, files[0])[2])

def test_weights_from_data(files):
    learn = picture_learner(files, CrossEntropy())
    torch.testing.assert_close(class_weights(learn.dls), 16/(3*torch.tensor([6.,5.,5.])))
    import pandas as pd
    from fastai.tabular.all import CategoryBlock as Cat, Normalize, TabularDataLoaders
    df = pd.DataFrame({'x': np.arange(12.), 'y': list('aab')*4})
    table = TabularDataLoaders.from_df(df, procs=[Normalize], cont_names='x', y_names='y', y_block=Cat(),
                                       valid_idx=[0,1,2], bs=3)
    torch.testing.assert_close(class_weights(table), torch.tensor([.75, 1.5]))
    rows = [(torch.zeros(2), torch.tensor(i % 4 == 0).long()) for i in range(16)]
    tuples = DataLoaders(DataLoader(rows, bs=4), DataLoader([], bs=4))
    torch.testing.assert_close(class_weights(tuples), torch.tensor([16/24, 2.]))

def test_the_loss_follows_its_weights_dtype_and_mixed_precision():
    z,t = torch.randn(4, 3).bfloat16(),torch.tensor([0,1,2,0])
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert CrossEntropy([1,2,3])(z, t).isfinite() and Focal(2, [1,2,3])(z, t).isfinite()

def test_fastai_differs_where_the_page_says_so():
    from fastai.vision.all import FocalLoss, LabelSmoothingCrossEntropyFlat
    z,t,w = torch.randn(8, 3),torch.arange(8) % 3,torch.tensor([1.,2.,5.])
    assert abs(LabelSmoothingCrossEntropyFlat(weight=w)(z, t) - F.cross_entropy(z, t, w, label_smoothing=.1)) > 1e-4
    p = z.softmax(1)[range(8), t]
    assert abs(FocalLoss(gamma=2., weight=w)(z, t) - (w[t]*(1-p)**2*-p.log()).mean()) > 1e-4
    with pytest.raises(ValueError): CrossEntropyLossFlat()(z, z.softmax(1))
