"Marks in fastai's pipeline: acceptance tests 2, 13, 14 (training and test data), 15, 16"
import pickle, random, subprocess, sys, warnings, zlib
import numpy as np, pytest, torch
from fastai.data.block import CategoryBlock, DataBlock, MultiCategoryBlock
from fastai.data.core import TfmdDL
from fastai.data.transforms import IntToFloatTensor, Normalize, RandomSplitter, ToTensor, get_image_files
from fastai.torch_core import TensorImage, TensorMask, set_seed
from fastai.vision.augment import Resize, aug_transforms
from fastai.vision.core import PILImage, PILImageBW, PILMask, TensorBBox, TensorPoint, image2tensor
from fastai.vision.data import BBoxBlock, BBoxLblBlock, ImageBlock, MaskBlock, PointBlock
from fastai.callback.progress import ProgressCallback  # noqa: F401, gives Learner its no_bar
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastcore.basics import fastuple
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import nn
from fastai_ext.vision.augment import Watermark, WatermarkBatch, picture_key, stamp_batch
from fastai_ext.vision.mark import Mark
from fastai_ext.vision.sampler import MarkSampler
from fastai_ext.vision.stamp import stamp

china = Image.fromarray(load_sample_image('china.jpg'))
wild = dict(text='© Ágj', pos='random', size=(.2,.9), rotate=(-40,40), opacity=(.2,1))
speckled = Image.frombytes('RGBA', (30,20), np.random.default_rng(0).integers(0, 256, 2400, dtype=np.uint8).tobytes())
arr = np.asarray

def crops(n=12, side=64, cls=PILImage): return [cls(china.crop((13*i,7*i,13*i+side,7*i+side))) for i in range(n)]
def batch(ims): return TensorImage(torch.stack([image2tensor(o) for o in ims]))

@pytest.fixture
def folder(tmp_path):
    for i,o in enumerate(crops(22)): o.save(tmp_path/f'{"ab"[i%2]}_{i}.png')
    return tmp_path

def loaders(path, item=(), after=(), num_workers=0, blocks=(ImageBlock,CategoryBlock), get_y=lambda o: o.name[0],
            size=48, **kwargs):
    block = DataBlock(blocks, get_items=get_image_files, get_y=get_y, splitter=RandomSplitter(seed=1),
                      item_tfms=[Resize(size),*item], batch_tfms=[*after])
    return block.dataloaders(path, bs=4, num_workers=num_workers, drop_last=False, **kwargs)

def epoch(dl):
    "What one pass over `dl` shows, whatever its order"
    return sorted(o.cpu().numpy().tobytes() for b in dl for o in b[0])

MARKS = [dict(text='© me'), wild, dict(logo=speckled, pos='tile', size=.2, opacity=.5),
         dict(logo=speckled, size=1.4, fit='clip', pos='random'),
         dict(text='hi', pos=(-.1,.5), opacity=1, color='red', stroke=.1)]

@pytest.mark.parametrize('kw', MARKS, ids=range(5))
@pytest.mark.parametrize('cls', (PILImage,PILImageBW))
def test_02_batch_equals_pillow(kw, cls):
    ims = crops(8, cls=PILImage) if cls is PILImage else [PILImageBW(o.convert('L')) for o in crops(8)]
    want = batch([Watermark(**kw)(o) for o in ims])
    x = batch(ims).float().div_(255)
    before = x.clone()
    out = WatermarkBatch(**kw)(x)
    assert type(out) is TensorImage and out.dtype == torch.float32 and torch.equal(x, before)
    assert torch.equal((out*255).round(), want.float()) and not torch.equal(want.float(), batch(ims).float())
    for dtype,worst in ((torch.float64,0), (torch.float16,1), (torch.bfloat16,1), (torch.uint8,0)):
        y = WatermarkBatch(**kw)(batch(ims) if dtype is torch.uint8 else x.to(dtype))
        assert y.dtype == dtype
        err = ((y.double()*(1 if dtype is torch.uint8 else 255)).round()-want.double()).abs()
        # outside the mark: as it came
        same = (y.double() - (batch(ims) if dtype is torch.uint8 else x.to(dtype)).double()) == 0
        assert err[~same].max() <= worst

def test_02_every_level_of_every_opacity():
    "All 256 x 256 pairs of background and opacity, for some colours"
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None].repeat(256, 0))
    for fg in (0,1,77,128,254,255):
        logo = Image.new('LA', (256,256), (fg,0))
        logo.putalpha(ramp.transpose(Image.Transpose.TRANSPOSE))
        m = Mark(logo=logo, size=1, margin=0, opacity=1)
        p = m.place((256,256))
        want = torch.from_numpy(arr(stamp(ramp, m)).copy()).float()
        got = stamp_batch(torch.from_numpy(arr(ramp).copy())[None,None].float()/255, [p])[0,0]
        assert torch.equal((got*255).round(), want)

def test_02_odd_layouts_and_inplace():
    x = batch(crops(4)).float()/255
    ps = [Mark(**wild).place((64,64), i) for i in range(3)]+[None]
    want = stamp_batch(x, ps)
    assert torch.equal(want[3], x[3])
    assert torch.equal(stamp_batch(x.contiguous(memory_format=torch.channels_last), ps), want)
    wide = torch.zeros(4,3,64,128)
    wide[...,::2] = x
    assert torch.equal(stamp_batch(wide[...,::2], ps), want)
    y = x.clone()
    out = stamp_batch(y, ps, inplace=True)
    assert out.data_ptr() == y.data_ptr() and torch.equal(y, want)
    assert torch.equal(stamp_batch(x, [None]*4), x)
    with pytest.raises(ValueError, match='give n x c x h x w'): stamp_batch(torch.rand(4,4,8,8), [None]*4)

def test_02_a_loader_writes_into_its_own_batches_only(folder):
    t = WatermarkBatch(**wild)
    dls = loaders(folder, after=[t])
    b = dls.train.one_batch()
    assert t.fresh
    x = batch(crops(4)).float()/255
    kept = x.clone()
    t(x)
    t((x,torch.zeros(4)))
    assert torch.equal(x, kept)
    # batches that live on in a data set: not ours to write into
    stored = [(TensorImage(x.clone()),torch.zeros(4)) for _ in range(2)]
    dl = TfmdDL(stored, bs=None, num_workers=0, after_batch=[t])
    marked = [o[0] for o in dl]
    assert not t.fresh and all(torch.equal(o[0], kept) for o in stored) and not torch.equal(marked[0], kept)
    assert b[0].shape == (4,3,48,48)

def test_13_everything_but_the_pictures_is_the_same_object():
    im,mask,bw = PILImage(china),PILMask(china.convert('L')),PILImageBW(china.convert('L'))
    points,boxes = TensorPoint(torch.rand(3,2)),TensorBBox(torch.rand(2,4))
    t = Watermark(text='© me')
    out = t((im,mask,points,boxes,torch.tensor(1)))
    assert type(out) is tuple and type(out[0]) is PILImage and out[0].tobytes() != im.tobytes()
    assert all(a is b for a,b in zip(out[1:], (mask,points,boxes,torch.tensor(1))) if not torch.is_tensor(a)
               or a.ndim) and out[4] == 1
    for o in (mask,points,boxes,torch.tensor(3),'a name',7): assert t(o) is o
    assert type(t(bw)) is PILImageBW and t(bw).mode == 'L' and t(bw).tobytes() != bw.tobytes()
    x,m = batch(crops(2)).float()/255,TensorMask(torch.ones(2,64,64).long())
    b = WatermarkBatch(text='© me')((x,m,boxes))
    assert b[1] is m and b[2] is boxes and not torch.equal(b[0], x)
    two = t((im,PILImage(china)))  # picture to picture: the target stays clean
    assert two[0].tobytes() != china.tobytes() and two[1].tobytes() == china.tobytes()
    pair = t((fastuple(im,im),torch.tensor(0)))  # a pair of inputs, as siamese networks have
    assert type(pair[0]) is fastuple and all(o.tobytes() != china.tobytes() for o in pair[0])

def test_13_blocks_of_every_kind(folder):
    tfms = [Watermark(text='© me', size=.9, opacity=1)]
    mask = lambda o: arr(PILImage.create(o).convert('L'))//86
    for blocks,get_y in (((ImageBlock,MaskBlock), mask), ((ImageBlock,PointBlock), lambda o: [[3,4],[10,20]]),
                         ((ImageBlock,MultiCategoryBlock), lambda o: [o.name[0]])):
        plain,marked = (loaders(folder, item, blocks=blocks, get_y=get_y, size=64).valid for item in ([],tfms))
        a,b = plain.one_batch(),marked.one_batch()
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) and type(a[1]) is type(b[1])
        set_seed(1)
        a = loaders(folder, [], blocks=blocks, get_y=get_y, size=64).train
        set_seed(1)
        b = loaders(folder, tfms, blocks=blocks, get_y=get_y, size=64).train
        (x,y),(u,v) = a.one_batch(),b.one_batch()
        assert torch.equal(y, v) and not torch.equal(x, u) and type(x) is type(u)

def test_13_boxes_and_labels(folder):
    get = [lambda o: o, lambda o: [[2,2,30,30]], lambda o: ['thing']]
    def make(*item):
        block = DataBlock((ImageBlock,BBoxBlock,BBoxLblBlock), n_inp=1, get_items=get_image_files, getters=get,
                          splitter=RandomSplitter(seed=1),
                          item_tfms=[*item])
        set_seed(1)
        return block.dataloaders(folder, bs=4, num_workers=0)
    a,b = make().train.one_batch(),make(Watermark(text='© me', size=.9)).train.one_batch()
    assert all(torch.equal(p, q) for p,q in zip(a[1:], b[1:])) and not torch.equal(a[0], b[0])
    assert type(b[1]) is type(a[1])

def test_14_training_only_unless_asked(folder):
    for cls,where in ((Watermark,'item'), (WatermarkBatch,'after')):
        plain = loaders(folder)
        train = loaders(folder, **{where:[cls(text='© me', size=.8)]})
        both = loaders(folder, **{where:[cls(text='© me', size=.8, valid=True)]})
        assert epoch(train.valid) == epoch(plain.valid) != epoch(both.valid) == epoch(both.valid)
        assert epoch(train.train) != epoch(plain.train)
        files = get_image_files(folder)[:4]
        for dls in (train,both): assert epoch(dls.test_dl(files)) == epoch(plain.test_dl(files))
        assert epoch(both.test_dl(files, with_labels=True)) != epoch(plain.test_dl(files, with_labels=True))
        direct = both.valid.new(both.valid_ds)
        assert epoch(direct) == epoch(both.valid)

def test_14_sampler_logos_of_training_and_validation(folder):
    logos = [Image.new('RGBA', (16,16), (i*25,255-i*25,0,255)) for i in range(10)]
    s = MarkSampler(logos=logos, size=.5, margin=0, pos='c', opacity=1)
    dls = loaders(folder, [Watermark(s, valid=True)])
    seen = [{tuple((o[:,24,24]*255).round().int().tolist()) for _ in range(6 if not i else 1) for b in dls[i]
             for o in b[0]} for i in (0,1)]
    colours = [{l.rgba.getpixel((0,0))[:3] for l in ls} for ls in s.logos]
    assert seen[0] <= colours[0] and seen[1] <= colours[1] and len(seen[0]) > 4

@pytest.mark.parametrize('where', ('item','after'))
def test_15_workers_and_order_do_not_matter(folder, where):
    make = lambda n, seed=0: loaders(folder, **{where:[(Watermark if where=='item'
                                                        else WatermarkBatch)(**wild, p=.8, seed=seed, valid=True)]},
                                                        num_workers=n)
    set_seed(0)
    a = make(0)
    set_seed(1)  # another order
    b = make(2)
    first,second = [epoch(a.train),epoch(b.train)],[epoch(a.train),epoch(b.train)]
    assert first[0] == first[1] and second[0] == second[1] and first[0] != second[0]
    assert epoch(a.valid) == epoch(b.valid) == epoch(a.valid)
    assert epoch(make(0, seed=1).train) != first[0]
    assert epoch(a.train.new()) == first[0]  # a new loader starts with its first epoch

SPAWN = '''
import sys, zlib
from pathlib import Path
import torch.multiprocessing as mp
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import RandomSplitter, get_image_files
from fastai.vision.augment import Resize
from fastai.vision.data import ImageBlock
from fastai_ext.vision.augment import Watermark

def label(o): return o.name[0]

if __name__ == '__main__':
    mp.set_start_method('spawn')
    t = Watermark(text='hi', pos='random', size=(.2,.9), rotate=(-40,40), opacity=(.2,1), p=.8)
    block = DataBlock((ImageBlock,CategoryBlock), get_items=get_image_files, get_y=label,
                      splitter=RandomSplitter(seed=1), item_tfms=[Resize(48),t])
    dls = block.dataloaders(Path(sys.argv[1]), bs=4, num_workers=2, drop_last=False)
    print(sorted(zlib.crc32(o.numpy().tobytes()) for b in dls.train for o in b[0]))
'''

def test_15_spawned_workers(folder, tmp_path_factory):
    script = tmp_path_factory.mktemp('spawn')/'run.py'
    script.write_text(SPAWN)
    out = subprocess.run([sys.executable, '-W', 'ignore', str(script), str(folder)], capture_output=True, text=True,
                         check=True, timeout=120).stdout
    here = loaders(folder, [Watermark(text='hi', pos='random', size=(.2,.9), rotate=(-40,40), opacity=(.2,1),
                                      p=.8)]).train
    assert out.strip() == str(sorted(map(zlib.crc32, epoch(here))))

def test_15_global_generators_stay_where_they_are():
    state = lambda: (random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes())
    before = state()
    t,b = Watermark(**wild, p=.5),WatermarkBatch(MarkSampler(texts=9, logos=[speckled, china], pos='random'), p=.5)
    for o in crops(6): t(o)
    b(batch(crops(6)).float()/255)
    stamp(china, Mark(**wild), 3)
    assert state() == before

def test_15_pickle_and_export_round_trip(folder, tmp_path):
    t = Watermark(**wild)
    again = pickle.loads(pickle.dumps(t))
    assert [o.tobytes() for o in map(t, crops(5))] == [o.tobytes() for o in map(again, crops(5))]
    block = DataBlock((ImageBlock,CategoryBlock), get_items=get_image_files, get_y=_first,
                      splitter=RandomSplitter(seed=1),
                      item_tfms=[Resize(48),Watermark(logo=speckled)], batch_tfms=[WatermarkBatch(**wild)])
    dls = block.dataloaders(folder, bs=4, num_workers=0)
    learn = Learner(dls, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3,2)),
                    loss_func=CrossEntropyLossFlat(), path=tmp_path)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    learn.export('m.pkl')
    back = load_learner(tmp_path/'m.pkl')
    f = get_image_files(folder)[0]
    with learn.no_bar(), back.no_bar(): assert torch.equal(learn.predict(f)[2], back.predict(f)[2])

def _first(o): return o.name[0]

def test_16_half_of_a_thousand(p=.5):
    ims = [PILImage(china.crop((i%100,i//100,i%100+48,i//100+48))) for i in range(1000)]
    t = Watermark(text='x', size=.4, pos='random', p=p)
    hit = [i for i,o in enumerate(ims) if t(o).tobytes() != o.tobytes()]
    assert abs(len(hit)-500) <= 80
    again = [i for i,o in enumerate(ims) if t(o).tobytes() != o.tobytes()]  # a second visit is drawn anew
    assert abs(len(again)-500) <= 80 and 150 < len(set(hit)&set(again)) < 350
    one = ims[0]
    seen = {t(one).tobytes() for _ in range(1000)}
    assert len(seen) > 100 and one.tobytes() in seen
    x = batch([PILImage(o) for o in ims]).float()/255
    b = WatermarkBatch(text='x', size=.4, pos='random', p=p)(x)
    marked = (b != x).flatten(1).any(1)
    assert set(marked.nonzero().flatten().tolist()) == set(hit)
    boxes = {tuple((b[i]!=x[i]).any(0).nonzero().min(0).values.tolist()) for i in hit[:100]}
    assert len(boxes) > 80

def test_key_is_the_same_for_picture_and_tensor():
    for size in ((64,64), (97,33), (5,9)):
        ims = [PILImage(china.crop((i,i,i+size[0],i+size[1]))) for i in range(3)]
        floats = batch(ims).float()/255
        keys = [picture_key(o) for o in ims]
        assert keys == picture_key(batch(ims)) == picture_key(floats) == picture_key(floats.half())
        grey = [PILImageBW(o.convert('L')) for o in ims]
        assert [picture_key(o) for o in grey] == picture_key(batch(grey))
    assert len({picture_key(o) for o in crops(12)}) == 12

def test_orders_lie_where_they_must():
    assert Resize(8).order < Watermark(text='a').order < ToTensor.order
    assert max(o.order for o in aug_transforms()) < WatermarkBatch(text='a').order < Normalize.order
    assert IntToFloatTensor.order < WatermarkBatch.order

def test_show_batch_and_a_learner(folder):
    import matplotlib.pyplot as plt
    for kw in (dict(item=[Watermark(**wild)]), dict(after=[WatermarkBatch(**wild),
                                                           Normalize.from_stats([.5]*3, [.2]*3)])):
        dls = loaders(folder, **kw)
        dls.show_batch(max_n=4)
        assert len(plt.gcf().axes) >= 4
        plt.close('all')
    with pytest.raises(ValueError, match='but not both'): Watermark(Mark('a'), text='b')
    with pytest.raises(ValueError, match='but not both'): WatermarkBatch()
    with pytest.raises(ValueError, match='p=1.5 is not a probability'): Watermark(text='a', p=1.5)
    assert "text='a'" in repr(Watermark(text='a', p=.5)) and "'p': 0.5" in repr(Watermark(text='a', p=.5))

def test_no_other_loader_changes():
    "Importing this leaves fastai's loader as it is; only a loader with a mark becomes a `MarkedDL`"
    code = ("from fastai.data.core import TfmdDL\nbefore = TfmdDL.before_iter\nimport fastai_ext.all\nassert "
            "TfmdDL.before_iter is before")
    subprocess.run([sys.executable, '-W', 'ignore', '-c', code], check=True, timeout=120)

def test_mirrored_text_is_said():
    from fastai.vision.all import DataBlock, ImageBlock, aug_transforms
    pictures = [PILImage.create(np.full((32,32,3), i, np.uint8)) for i in range(8)]
    def dls(item, batch):
        return DataBlock((ImageBlock, ImageBlock), get_items=lambda _: range(8), get_x=lambda i: pictures[i],
                         get_y=lambda i: pictures[i],
                                           item_tfms=item, batch_tfms=batch).dataloaders('', bs=2, num_workers=0)
    with pytest.warns(UserWarning, match='mirrors pictures'):
        dls([Watermark(text='a')], aug_transforms()).train.one_batch()
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        dls([Watermark(text='a')], aug_transforms(do_flip=False)).train.one_batch()
        dls([], [*aug_transforms(), WatermarkBatch(text='a')]).train.one_batch()

def test_one_picture_is_no_batch():
    with pytest.raises(ValueError, match='no batch'):
        WatermarkBatch(text='a')(TensorImage(torch.rand(3,32,32)), split_idx=0)

def test_auto_colour_and_quiet_place_in_a_batch():
    "A batch on the device takes the place and colour that each picture takes by itself"
    rng = np.random.default_rng(0)
    a = np.stack([rng.integers(0, 255, (60,90,3), dtype=np.uint8)//(1 if i else 4) for i in range(2)])
    a[:, 40:, :40] = np.array([30,220], np.uint8)[:, None, None, None]
    mark = Mark('x', pos='quiet', color='auto', size=.2, opacity=1.)
    x = TensorImage(torch.from_numpy(a).permute(0,3,1,2).float()/255)
    out = WatermarkBatch(mark)(x, split_idx=0)
    for o,im in zip(out, a, strict=True):
        want = torch.from_numpy(np.asarray(stamp(Image.fromarray(im), mark)).copy()).permute(2,0,1)/255
        assert (o - want).abs().max() < 1/250

def test_tensors_in_the_wrong_place_are_refused_by_name():
    one = TensorImage(torch.rand(3, 20, 20))
    with pytest.raises(ValueError, match=r'shape \(3, 20, 20\) is no batch.*x\[None\]'): WatermarkBatch(text='me')(one)
    with pytest.raises(ValueError, match='a tensor already; give Watermark in item_tfms'): Watermark(text='me')(one)
    with pytest.raises(ValueError, match='TensorImage is no picture; open it first'): stamp(one, Mark('me'))
    with pytest.raises(ValueError, match='n x c x h x w'): stamp_batch(one, [None])

def test_a_loader_of_another_class_keeps_it_and_tells_its_marks_each_epoch(folder):
    "Two epochs have different marks, two loaders of one seed equal ones"
    class Own(TfmdDL): pass
    def epochs(dl_type):
        set_seed(0)
        tfm = WatermarkBatch(**wild, seed=3)
        dls = loaders(folder, after=[tfm], dl_type=dl_type, shuffle=False)
        return dls.train,[torch.cat([b[0] for b in dls.train]) for _ in range(2)]
    (own,mine),(_,usual) = epochs(Own),epochs(TfmdDL)
    assert type(own) is Own and own.mark_epoch == 1
    assert (mine[0] != mine[1]).any() and all(torch.equal(a, b) for a,b in zip(mine, usual))
