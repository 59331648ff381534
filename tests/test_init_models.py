"""Init('auto') on a sample of the models that benchmarks/init_models.py runs: every weight covered, none mistaken,
all finite"""
import sys, warnings
import pytest, torch
from conftest import root
sys.path.insert(0, str(root/'benchmarks'))
from init_models import rms
from zoo import fastai_zoo, hf_zoo, torchvision_zoo
from fastai_ext.init.auto import init_plan
from fastai_ext.model.provenance import provenance
from fastai_ext.model.weights import weights

sample = {'xresnet18', 'DynamicUnet', 'basic_generator', 'basic_critic', 'AWD_LSTM language model',
          'AWD_LSTM classifier', 'TabularModel', 'EmbeddingDotBias',
          'mobilenet_v3_small', 'squeezenet1_1', 'shufflenet_v2_x0_5', 'lraspp_mobilenet_v3_large',
          'ssdlite320_mobilenet_v3_large', 'swin_t', 'r3d_18',
          'BERT', 'GPT-2', 'ViT', 'T5', 'Llama', 'Mixtral', 'Wav2Vec2'}
sizes = {'test_vit':160, 'test_resnet':160, 'test_convnext':160, 'test_efficientnet':160, 'test_mambaout':160,
         'test_nfnet':160, 'test_byobnet':160}

def models():
    import timm
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for z in (fastai_zoo, torchvision_zoo, hf_zoo): yield from (m[1:] for m in z() if m[1] in sample)
        for n,s in sizes.items():
            if timm.list_models(n): yield n, (lambda n=n: timm.create_model(n)), (lambda s=s: torch.randn(2,3,s,s))

def much_held(model):
    "What is not shown to be fresh, if that is more than one number in a hundred and more than 64"
    known,ws = provenance(model),weights(model)
    held = {w.name: w.shape.numel() for w in ws if w.name in known}
    return {n: known[n] for n in held} if sum(held.values()) > max(64, .01*sum(w.shape.numel() for w in ws)) else {}

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('make,batch', [pytest.param(*m[1:], id=m[0]) for m in models()])
def test_every_weight_is_covered_or_named(make, batch):
    torch.manual_seed(0)
    model = make()
    before = {n: p.clone() for n,p in model.named_parameters()}
    assert not much_held(model), 'a fresh model is taken for a trained one'
    state = torch.get_rng_state()
    plan = init_plan(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, before[n]) for n,p in model.named_parameters()), 'a plan changes nothing'
    assert {id(p) for r in plan for p in r.weight.params} == {id(p) for p in model.parameters()}
    assert all(r.reason for r in plan)
    plan.apply(0)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    changed = {id(p) for r in plan.changed for p in r.weight.params}
    assert all(torch.equal(p, before[n]) for n,p in model.named_parameters() if id(p) not in changed)
    assert not much_held(model), 'its own start is taken for a trained one'
    out = rms(model, batch)
    assert out is None or 0 < out < 1e3

def test_what_from_pretrained_loads_is_kept(tmp_path):
    import transformers as t
    cfg = t.BertConfig(vocab_size=100, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64,
                       num_labels=3)
    t.BertModel(cfg).save_pretrained(tmp_path)  # random numbers: only the library knows that they were loaded
    model = t.BertForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
    plan = init_plan(model)
    assert {r.name for r in plan.changed} == {'classifier.weight','classifier.bias'}
    assert {r.reason for r in plan.kept} == {'loaded by from_pretrained'}
