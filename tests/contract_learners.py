"Ordinary learners on which `check_callback` must blame a callback for nothing that the learner does itself"
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader as TorchLoader
from fastai.callback.mixup import MixUp
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastai.callback.training import GradientAccumulation
from fastai.collab import CollabDataLoaders, collab_learner
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat, MSELossFlat
from fastai.metrics import accuracy, accuracy_multi, mae
from fastai.optimizer import OptimWrapper
from fastai.tabular.data import TabularDataLoaders
from fastai.tabular.core import Categorify, FillMissing, Normalize
from fastai.tabular.learner import tabular_learner
from fastai.text.models.awdlstm import AWD_LSTM
from fastai.text.models.core import get_text_classifier
from fastai.callback.rnn import ModelResetter, RNNCallback
from fastai.vision.augment import aug_transforms
from fastai.vision.core import PILImage
from fastai.data.block import CategoryBlock, DataBlock
from fastai.vision.data import ImageBlock
from fastai.vision.learner import vision_learner

from fastai_ext.contract.harness import SynthItems, body_and_head, contract_learner
from fastai_ext.contract.steps import CPUMixedPrecision

def two_parts(m): return [list(o.parameters()) for o in list(m.children())[:2]]

def torch_optimizer(): return contract_learner(opt_func=partial(OptimWrapper, opt=torch.optim.AdamW), lr=1e-2)

def torch_sgd(): return contract_learner(opt_func=partial(OptimWrapper, opt=partial(torch.optim.SGD, momentum=.9)))

def torch_loaders():
    learn = contract_learner()
    train,valid = TorchLoader(SynthItems(56), 16, shuffle=True),TorchLoader(SynthItems(24, seed=1), 16)
    return Learner(DataLoaders(train, valid), learn.model, CrossEntropyLossFlat(), splitter=body_and_head,
                   metrics=accuracy, lr=1e-2)

def empty_validation():
    learn = contract_learner()
    learn.dls.loaders[1] = DataLoader(SynthItems(0), bs=16)
    return learn

def with_mixup(): return contract_learner(cbs=MixUp())
def with_save_model(): return contract_learner(cbs=SaveModelCallback(monitor='valid_loss'))
def with_early_stopping(): return contract_learner(cbs=EarlyStoppingCallback(monitor='valid_loss', patience=3))
def with_accumulation(): return contract_learner(cbs=GradientAccumulation(32))
def mixed_precision(): return contract_learner(cbs=CPUMixedPrecision(cast=True))

def text():
    "A classifier of sequences of numbers, as `text_classifier_learner` makes it"
    gen = torch.Generator().manual_seed(0)
    x = torch.randint(1, 30, (48, 12), generator=gen)
    items = list(zip(x, (x[:, 0] > 15).long()))
    dls = DataLoaders(DataLoader(items[:32], bs=8, shuffle=True), DataLoader(items[32:], bs=8))
    config = dict(emb_sz=8, n_hid=12, n_layers=2, pad_token=0, bidir=False, output_p=.1, hidden_p=.1, input_p=.1,
                  embed_p=.0, weight_p=.1)
    model = get_text_classifier(AWD_LSTM, 30, 2, seq_len=8, config=config, max_len=24)
    return Learner(dls, model, CrossEntropyLossFlat(), metrics=accuracy, splitter=two_parts,
                   cbs=[ModelResetter(), RNNCallback()], lr=1e-2)

def tabular():
    rng = np.random.default_rng(0)
    df = pd.DataFrame(dict(kind=rng.choice(list('abc'), 80), size=rng.normal(size=80), age=rng.normal(size=80)))
    df.loc[::9, 'age'] = np.nan
    df['y'] = np.where(df['size'] + (df.kind=='a') > 0, 'yes', 'no')
    dls = TabularDataLoaders.from_df(df, procs=[Categorify, FillMissing, Normalize], cat_names=['kind'],
                                     cont_names=['size', 'age'],
                                     y_names='y', valid_idx=list(range(60, 80)), bs=16)
    return tabular_learner(dls, layers=[8, 4], metrics=accuracy)

class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.body,self.head = nn.Linear(6, 8),nn.Linear(8, 1)
    def forward(self, a, b): return self.head(torch.relu(self.body(torch.cat([a, b], 1))))

def several_inputs():
    a,b = torch.randn(2, 56, 3, generator=torch.Generator().manual_seed(0))
    items = list(zip(a, b, (a*b).sum(1, keepdim=True)))
    dls = DataLoaders(DataLoader(items[:40], bs=8, shuffle=True, n_inp=2), DataLoader(items[40:], bs=8, n_inp=2))
    return Learner(dls, TwoInputs(), MSELossFlat(), metrics=mae, splitter=two_parts)

def multi_label():
    x = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    items = list(zip(x, (x[:, :3] > 0).float()))
    dls = DataLoaders(DataLoader(items[:48], bs=8, shuffle=True), DataLoader(items[48:], bs=8))
    model = nn.Sequential(nn.Linear(5, 8), nn.Sequential(nn.ReLU(), nn.Dropout(.2), nn.Linear(8, 3)))
    return Learner(dls, model, BCEWithLogitsLossFlat(), metrics=accuracy_multi, splitter=two_parts)

def regression():
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    dl = DataLoader(list(zip(x, x.sum(1, keepdim=True))), bs=8)
    return Learner(DataLoaders(dl, dl), nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)), MSELossFlat())

def _picture(i): return PILImage.create(np.random.default_rng(i).integers(0, 255, (16, 16, 3), dtype=np.uint8))
def _label(i): return 'even' if i%2==0 else 'odd'

def _numbers(n): return list(range(n))
def _split(items): return list(range(16)),list(range(16, 24))

def small_net(pretrained=False):
    "A model of torchvision's make: a body and, behind it, a pool and a head"
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                         nn.Linear(8, 2))

def pictures():
    "A `DataBlock` with random augmentation and a model of torchvision, as `vision_learner` makes it"
    block = DataBlock((ImageBlock, CategoryBlock), get_items=_numbers, get_x=_picture, get_y=_label,
                      splitter=_split, batch_tfms=aug_transforms(size=16))
    dls = block.dataloaders(24, bs=4, num_workers=0)
    return vision_learner(dls, small_net, pretrained=False, normalize=False, n_out=2, metrics=accuracy, cut=-2,
                          concat_pool=False)

def collab():
    rng = np.random.default_rng(0)
    df = pd.DataFrame(dict(user=rng.integers(0, 9, 90), item=rng.integers(0, 9, 90),
                           rating=rng.integers(1, 6, 90).astype(float)))
    return collab_learner(CollabDataLoaders.from_df(df, bs=16, seed=0), n_factors=4, y_range=(0, 5.5))

ordinary = [torch_optimizer, torch_sgd, torch_loaders, empty_validation, with_mixup, with_save_model,
            with_early_stopping, with_accumulation, mixed_precision, text, tabular, several_inputs, multi_label,
            regression, pictures, collab]
