"""LSUV on a sample of the models that benchmarks/lsuv_models.py runs: every matrix named, every scaled layer at 1 in
another pass"""
import sys, warnings

import pytest
import torch
from conftest import root

sys.path.insert(0, str(root/'benchmarks'))
from lsuv_models import measured
from zoo import fastai_zoo, hf_zoo, torchvision_zoo

# name: kinds of reasons for which weights may be left alone
sample = {'xresnet18': '', 'DynamicUnet (self attention)': 'does not follow', 'basic_critic': '',
          'AWD_LSTM language model': 'recurrent tied',
          'AWD_LSTM classifier': 'recurrent', 'TabularModel': '', 'EmbeddingNN': '',
          'mobilenet_v3_small': '', 'shufflenet_v2_x0_5': '', 'lraspp_mobilenet_v3_large': '',
          'ssdlite320_mobilenet_v3_large': '', 'swin_t': 'not called',
          'BERT': '', 'GPT-2': 'tied', 'ViT': '', 'T5': 'tied', 'Llama': '', 'Mixtral': 'experts', 'Wav2Vec2': ''}

def models():
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for z in (fastai_zoo, torchvision_zoo, hf_zoo): yield from (m[1:] for m in z() if m[1] in sample)
        import timm
        for n in ('test_vit','test_resnet','test_convnext','test_nfnet','test_byobnet','test_mambaout'):
            if timm.list_models(n): yield n, (lambda n=n: timm.create_model(n)), (lambda: torch.randn(2,3,160,160))

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name,make,batch', [pytest.param(*m, id=m[0]) for m in models()])
def test_every_matrix_is_scaled_or_named(name, make, batch):
    rows,missing,off,_,finite = measured(name, make, batch)
    assert not missing and finite and not off > 1e-3  # NaN where nothing was scaled
    assert all((r.scale > 0) != bool(r.note) for r in rows)
    may = {'recurrent':'recurrent', 'tied':'tied', 'not':'not called', 'does':'does not follow',
           'experts':'inside a mixture'}
    if name in sample:
        allowed = [may[w] for w in sample[name].split() if w in may]
        assert all(any(a in r.note for a in allowed) for r in rows if r.note), [r.note for r in rows if r.note]
    if 'language' not in name: assert sum(r.scale > 0 for r in rows) > 0
