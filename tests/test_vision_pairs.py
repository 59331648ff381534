"Pairs to train a remover: exact, marked in validation, unmarked in tests, stable (acceptance tests 14 and 15)"
import os, pickle, random, subprocess, sys, zlib

import numpy as np, pytest, torch
from fastai.callback import progress  # noqa: F401 (no_bar, no_logging)
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import Normalize, RandomSplitter, get_image_files
from fastai.learner import Learner, load_learner
from fastai.torch_core import TensorMask
from fastai.vision.augment import RandomResizedCrop, Resize, aug_transforms
from fastai.vision.core import PILImage, PILImageBW, PILMask, TensorImage
from fastai.vision.data import ImageBlock
from hypothesis import given, settings, strategies as st
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import nn

from conftest import root
from fastai_ext.vision.augment import picture_key
from fastai_ext.vision.mark import Mark
from fastai_ext.vision.sampler import MarkSampler
from fastai_ext.vision.pairs import WatermarkPair

PHOTOS = [Image.fromarray(o) for o in load_sample_images().images]
WILD = dict(text='© me', size=(.3,.9), pos='random', rotate=(-40,40), opacity=(.3,.9))

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    d = tmp_path_factory.mktemp('photos')
    for i in range(12): PHOTOS[i%2].crop((40*i,20*i,40*i+160,20*i+160)).save(d/f'{i:02}.png')
    return d

def files(d): return sorted(get_image_files(d))

def loaders(folder, tfm, item=(), batch=None, blocks=(ImageBlock,ImageBlock), **kw):
    return DataBlock(blocks, get_items=files, splitter=RandomSplitter(.34, seed=1), item_tfms=[*item,tfm],
                     batch_tfms=batch
                    ).dataloaders(folder, **{**dict(bs=4, num_workers=0, drop_last=False), **kw})

def epoch(dl):
    "(target bytes, input bytes) of one epoch, in an order that shuffling does not change"
    return sorted((y.numpy().tobytes(), x.numpy().tobytes()) for b in dl for x,
                  y in zip(b[0].as_subclass(torch.Tensor), b[1].as_subclass(torch.Tensor)))

# ---- exact

@settings(max_examples=40, deadline=None)
@given(size=st.floats(.05,2), opacity=st.floats(0,1), rotate=st.floats(-90,90),
       pos=st.sampled_from(['br','c','random','tile']), seed=st.integers(0,999),
       w=st.integers(1,90), h=st.integers(1,90), colour=st.tuples(*[st.integers(0,255)]*3))
def test_14_the_input_recomputes_from_target_alpha_and_foreground(size, opacity, rotate, pos, seed, w, h, colour):
    im = PILImage(PHOTOS[seed%2].crop((seed%50,seed%40,seed%50+w,seed%40+h)))
    before = im.tobytes()
    tfm = WatermarkPair(Mark('g©', size=max(size,.3) if pos=='tile' else size, opacity=opacity, rotate=rotate, pos=pos,
                             color=colour), seed=seed, alpha=True)
    x,y,a = tfm((im,im), split_idx=1)
    assert y is im and y.tobytes() == before and isinstance(x, PILImage) and isinstance(a, PILMask)
    p = tfm.mark.place(im.size, seed, f'{picture_key(im)}/valid', 1)
    m,f,bg = (np.asarray(o).astype(int) for o in (a, p.foreground(), y))
    m = m[...,None]
    assert (np.asarray(x) == np.floor(bg*(1-m/255)+f*m/255+.5)).all()

def test_14_only_the_mark_differs(folder):
    dls = loaders(folder, WatermarkPair(logo=Image.new('RGB', (30,20), 'red'), size=.3, pos='random', opacity=.7,
                                        alpha=True))
    for dl in dls:
        for x,y,a in dl:
            assert (type(x),type(y),type(a)) == (TensorImage,TensorImage,
                                                 TensorMask) and x.shape == y.shape and a.shape == (len(x),160,160)
            x,y,a = (o.as_subclass(torch.Tensor) for o in (x,y,a))
            changed = (x != y).any(1)
            assert a.unique().tolist() == [0,179] and not (changed & (a==0)).any() and changed.any((1,2)).all()

def test_14_grey_pictures(folder):
    x,y = loaders(folder, WatermarkPair(**WILD), blocks=(ImageBlock(PILImageBW),ImageBlock(PILImageBW))).one_batch()
    assert x.shape[1] == 1 and (x!=y).any((1,2,3)).all()

def test_14_augmentations_treat_both_alike(folder):
    "With an invisible mark nothing differs, whatever else happens to the pictures; the opacity moves with them"
    batch = [*aug_transforms(size=64, max_warp=.3), Normalize.from_stats([.5]*3, [.2]*3)]
    x,y,a = loaders(folder, WatermarkPair(text='me', opacity=0., alpha=True), [RandomResizedCrop(96)],
                    batch).one_batch()
    assert torch.equal(x, y) and not a.any()
    dark = Image.new('RGB', (160,160))
    d = folder.parent/'dark'
    d.mkdir(exist_ok=True)
    for i in range(8): Image.fromarray(np.full((160,160,3), i, np.uint8)).save(d/f'{i}.png')
    shown = loaders(d, WatermarkPair(logo=dark.point(lambda _: 255), size=.5, opacity=1., alpha=True), [Resize(160)],
                    aug_transforms(max_lighting=0))
    x,y,a = shown.one_batch()
    got = (x-y).as_subclass(torch.Tensor).mean(1) > .5
    assert (got == (a.as_subclass(torch.Tensor) > 127)).float().mean() > .98

# ---- which pictures are marked

def test_14_validation_is_marked_and_stays_as_it_is(folder):
    dls = loaders(folder, WatermarkPair(**WILD))
    first = epoch(dls.valid)
    assert len(first) == 4 and all(x != y for y,x in first)
    epoch(dls.train)
    assert epoch(dls.valid) == first == epoch(loaders(folder, WatermarkPair(**WILD), num_workers=2).valid)
    assert epoch(loaders(folder, WatermarkPair(**WILD, seed=1)).valid) != first

def test_14_training_changes_with_the_epoch(folder):
    dl = loaders(folder, WatermarkPair(**WILD)).train
    one,two = epoch(dl),epoch(dl)
    assert [y for y,_ in one] == [y for y,_ in two] and not {x for _,x in one} & {x for _,x in two}

def test_14_test_inputs_are_unmarked(folder):
    dls = loaders(folder, WatermarkPair(**WILD))
    b = dls.test_dl(files(folder)).one_batch()
    assert len(b) == 1
    clean = [np.asarray(Image.open(f)) for f in files(folder)[:4]]
    assert (b[0].permute(0,2,3,1).mul(255).round().numpy() == np.stack(clean)).all()
    x,y = dls.test_dl(files(folder), with_labels=True).one_batch()
    assert (x!=y).any((1,2,3)).all(), 'with its target a picture can be marked'

def test_14_training_and_validation_logos_are_disjoint(folder):
    colours = [(r,g,b) for r in (0,255) for g in (0,255) for b in (0,255)]
    sampler = MarkSampler(logos=[Image.new('RGB', (8,8), c) for c in colours], valid_pct=.4, size=.5, opacity=1.,
                          pos='c')
    dls = loaders(folder, WatermarkPair(sampler))
    def seen(dl, n):
        return {tuple(x[:,80,80].mul(255).round().int().tolist()) for _ in range(n) for b in dl
                for x in b[0].as_subclass(torch.Tensor)}
    train,valid = seen(dls.train, 8),seen(dls.valid, 1)
    assert train and valid and not train & valid and train | valid <= set(colours) and len(train) > 2

def test_14_some_pairs_without_a_mark(folder):
    t = WatermarkPair(**WILD, p=.5, alpha=True)
    im = PILImage(PHOTOS[0].resize((32,32)))
    got = [t((im,im), split_idx=0) for _ in range(400)]
    marked = sum(bool(np.asarray(a).any()) for *_,a in got)
    assert 160 < marked < 240 and all((x is y) == (not np.asarray(a).any()) for x,y,a in got)

@pytest.mark.parametrize('item,says', [((PHOTOS[0].copy(),), r'\(Image\)'),
                                       ((PILImage(PHOTOS[0].copy()),), r'\(PILImage\) and not two pictures; give'),
                                       ((PILImage(PHOTOS[0].copy()),3), r'\(PILImage, int\)'),
                                       (PILImage(PHOTOS[0].copy()), 'PILImage'),
                                       ((PILImage(PHOTOS[0].copy()),PILImage(PHOTOS[0].resize((9,9)))), r'\(9, 9\)')])
def test_what_is_no_pair_is_refused(item, says):
    with pytest.raises(ValueError, match=says): WatermarkPair(text='me')(item, split_idx=0)

def test_one_block_is_refused(folder):
    with pytest.raises(ValueError, match=r'give blocks=\(ImageBlock, ImageBlock\)'):
        block = DataBlock((ImageBlock,), get_items=files, item_tfms=WatermarkPair(text='me'))
        block.dataloaders(folder, bs=2, num_workers=0).one_batch()
    with pytest.raises(ValueError, match=r'\(PILImage, TensorCategory\)'):
        DataBlock((ImageBlock,CategoryBlock), get_items=files, get_y=lambda o: o.name[0],
                  item_tfms=WatermarkPair(text='me')
                 ).dataloaders(folder, bs=2, num_workers=0).one_batch()

def test_arguments():
    with pytest.raises(ValueError, match='WatermarkPair: p=2'): WatermarkPair(text='me', p=2)
    with pytest.raises(ValueError, match='WatermarkPair: give a mark'): WatermarkPair()
    with pytest.raises(ValueError, match='opacity=3'): WatermarkPair(text='me', opacity=3)

# ---- equal seeds, equal pixels

def test_15_workers_and_order_change_nothing(folder):
    torch.manual_seed(0)
    a = epoch(loaders(folder, WatermarkPair(**WILD)).train)
    torch.manual_seed(1)
    assert a == epoch(loaders(folder, WatermarkPair(**WILD), num_workers=2).train)
    assert a == epoch(loaders(folder, WatermarkPair(**WILD), shuffle=False, bs=1).train)

SPAWN = '''
import sys, zlib, torch.multiprocessing as mp
from fastai.data.block import DataBlock
from fastai.data.transforms import RandomSplitter, get_image_files
from fastai.vision.data import ImageBlock
from fastai_ext.vision.pairs import WatermarkPair

if __name__ == '__main__':
    mp.set_start_method('spawn')
    t = WatermarkPair(text='© me', size=(.3,.9), pos='random', rotate=(-40,40), opacity=(.3,.9))
    block = DataBlock((ImageBlock,ImageBlock), get_items=lambda d: sorted(get_image_files(d)),
                      splitter=RandomSplitter(.34, seed=1), item_tfms=t)
    dl = block.dataloaders(sys.argv[1], bs=4, num_workers=1).valid
    print(sorted(zlib.crc32(o.numpy().tobytes()) for b in dl for o in b[0]))
'''

def test_15_spawned_workers(folder, tmp_path):
    (tmp_path/'run.py').write_text(SPAWN)
    env = {**os.environ, 'PYTHONPATH': str(root)}
    res = subprocess.run([sys.executable, '-W', 'ignore', tmp_path/'run.py', folder], capture_output=True, text=True,
                         env=env, timeout=120)
    assert res.returncode == 0, res.stderr
    assert res.stdout.strip() == str(sorted(zlib.crc32(x) for _,
                                            x in epoch(loaders(folder, WatermarkPair(**WILD)).valid)))

def test_15_global_generators_are_left_alone():
    im = PILImage(PHOTOS[0].copy())
    state = random.getstate(),np.random.get_state()[1].tobytes(),torch.get_rng_state().tolist()
    WatermarkPair(**WILD, p=.5)((im,im))
    assert state == (random.getstate(),np.random.get_state()[1].tobytes(),torch.get_rng_state().tolist())

class Remover(nn.Module):
    "A few weights that give a picture"
    def __init__(self): super().__init__(); self.conv = nn.Conv2d(3, 3, 3, padding=1)
    def forward(self, x): return self.conv(x)

def masked_loss(pred, clean, alpha):
    return ((pred-clean).abs().as_subclass(torch.Tensor)*(1+alpha.as_subclass(torch.Tensor)[:,None]/255)).mean()
def plain_loss(pred, clean): return (pred-clean).abs().mean()

def test_15_trains_pickles_and_exports(folder, tmp_path):
    t = WatermarkPair(**WILD)
    im = PILImage(PHOTOS[0].resize((64,64)))
    a,b = (o((im,im), split_idx=1)[0].tobytes() for o in (t, pickle.loads(pickle.dumps(t))))
    assert a == b
    for tfm,loss in ((WatermarkPair(**WILD), plain_loss), (WatermarkPair(**WILD, alpha=True), masked_loss)):
        dls = loaders(folder, tfm)
        learn = Learner(dls, Remover(), loss_func=loss, path=tmp_path)
        with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-2)
        preds = learn.get_preds(dl=dls.test_dl(files(folder)))[0]
        learn.export('remover.pkl')
        again = load_learner(tmp_path/'remover.pkl')
        with again.no_bar(): back = again.get_preds(dl=again.dls.test_dl(files(folder), num_workers=0))[0]
        assert torch.equal(preds, back)
        with learn.no_bar(): shown,raw,_ = learn.predict(files(folder)[0])
        assert torch.allclose(raw, preds[0], atol=1e-5), 'predict sees the picture as it is'

# ---- shown

@pytest.mark.parametrize('alpha,columns', [(False,2), (True,3)])
def test_show_batch(folder, alpha, columns):
    import matplotlib.pyplot as plt
    dl = loaders(folder, WatermarkPair(**WILD, alpha=alpha)).valid
    b = dl.one_batch()
    dl.show_batch(b, max_n=2)
    got = [ax.images[0].get_array() for ax in plt.gcf().axes if ax.images]
    assert len(got) == 2*columns
    for i in range(2):
        for j in range(2):
            assert (np.asarray(got[i*columns+j]) == b[j][i].mul(255).round().byte().permute(1,2,0).numpy()).all()
        if alpha: assert (np.asarray(got[i*3+2]) == b[2][i].numpy()).all()
    plt.close('all')

def test_boxes_with_labels_are_shown_as_before():
    "A tuple of other targets is none of our business"
    import matplotlib.pyplot as plt
    from fastai.vision.data import BBoxBlock, BBoxLblBlock
    d = DataBlock((ImageBlock,BBoxBlock,BBoxLblBlock), get_x=lambda _: np.asarray(PHOTOS[0]),
                  get_y=[lambda _: [[10,10,50,60]], lambda _: ['a']], n_inp=1,
                  splitter=RandomSplitter(.5, seed=0), item_tfms=Resize(64, 'squish'))
    dls = d.dataloaders(range(4), bs=2, num_workers=0)
    dls.show_batch(max_n=2)
    assert [len(ax.images) for ax in plt.gcf().axes] == [1,1] and all(ax.patches for ax in plt.gcf().axes)
    plt.close('all')
