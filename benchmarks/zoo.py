"""Small, randomly started models of every family: fastai, torchvision, timm, Hugging Face.

`zoo()` yields (library, name, function that makes the model, function that makes an input batch or None); `sweep`
runs something on each."""
import argparse, re, warnings
from functools import partial

import torch

def images(size, n=2, channels=3): return lambda: torch.randn(n, channels, size, size)

# the smallest member of each family that torchvision lists, and a size its forward pass accepts
_tv = dict(alexnet=64, convnext_tiny=64, densenet121=64, efficientnet_b0=64, efficientnet_v2_s=64, googlenet=96,
           inception_v3=299, maxvit_t=224,
           mnasnet0_5=64, mobilenet_v2=64, mobilenet_v3_small=64, regnet_y_400mf=64, regnet_x_400mf=64, resnet18=64,
           resnext50_32x4d=64,
           wide_resnet50_2=64, shufflenet_v2_x0_5=64, squeezenet1_1=64, swin_t=64, swin_v2_t=64, vgg11=64, vgg11_bn=64,
           vit_b_32=224)
_tv_dense = dict(fcn_resnet50=64, deeplabv3_mobilenet_v3_large=64, deeplabv3_resnet50=64, lraspp_mobilenet_v3_large=64)
_tv_detect = ('fasterrcnn_mobilenet_v3_large_320_fpn','fasterrcnn_resnet50_fpn','fasterrcnn_resnet50_fpn_v2',
              'maskrcnn_resnet50_fpn',
              'keypointrcnn_resnet50_fpn','retinanet_resnet50_fpn','retinanet_resnet50_fpn_v2','fcos_resnet50_fpn',
              'ssd300_vgg16','ssdlite320_mobilenet_v3_large')
_tv_video = ('r3d_18','mc3_18','r2plus1d_18','s3d','mvit_v1_b','swin3d_t')

def torchvision_zoo():
    from torchvision import models
    make = lambda n, **kw: partial(models.get_model, n, weights=None, **kw)
    for n,s in _tv.items():
        yield 'torchvision', n, make(n,
                                     **({'init_weights':True} if n in ('googlenet','inception_v3') else {})), images(s)
    for n,s in _tv_dense.items(): yield 'torchvision', n, make(n, weights_backbone=None), images(s)
    for n in _tv_detect: yield 'torchvision', n, make(n, weights_backbone=None), None
    for n in _tv_video:
        yield 'torchvision', n, make(n), (lambda s=(112 if n[0] in 'rm' and 'mvit' not in n else 224): torch.randn(2,3,
            16,s,s))
    yield 'torchvision', 'raft_small', make('raft_small'), None

def timm_zoo(pattern='.*'):
    "The smallest architecture of each of timm's modules, sizes counted on the meta device"
    import timm
    from timm.models import list_modules
    for mod in sorted(list_modules()):
        if not re.fullmatch(pattern, mod): continue
        best = None
        for n in timm.list_models(module=mod):
            with warnings.catch_warnings(), torch.device('meta'):
                warnings.simplefilter('ignore')
                try: size = sum(p.numel() for p in timm.create_model(n).parameters())
                except Exception: continue  # some architectures compute numbers while they are made
            if best is None or size < best[0]: best = size,n
            if size < 12e6: break
        n = best[1] if best else timm.list_models(module=mod)[0]
        cfg = timm.get_pretrained_cfg(n)
        shape = tuple(cfg.input_size) if cfg and cfg.input_size else (3,224,224)
        yield 'timm', n, partial(timm.create_model, n), (lambda shape=shape: torch.randn(2,*shape))

def hf_zoo():
    "Hugging Face models from small configurations"
    import transformers as t
    ids = lambda: dict(input_ids=torch.randint(0, 90, (2,12)))
    pixels = lambda s=32: dict(pixel_values=torch.randn(2,3,s,s))
    d = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
    text = dict(vocab_size=100, **d)
    image = dict(image_size=32, patch_size=8, **d)
    yield 'transformers', 'BERT', lambda: t.BertForSequenceClassification(t.BertConfig(**text)), ids
    yield 'transformers', 'RoBERTa', lambda: t.RobertaForMaskedLM(t.RobertaConfig(**text)), ids
    yield 'transformers', 'DistilBERT', lambda: t.DistilBertModel(t.DistilBertConfig(vocab_size=100, dim=32, n_layers=2,
        n_heads=4, hidden_dim=64)), ids
    yield 'transformers', 'ALBERT', lambda: t.AlbertModel(t.AlbertConfig(embedding_size=16, **text)), ids
    yield 'transformers', 'ELECTRA', lambda: t.ElectraModel(t.ElectraConfig(embedding_size=16, **text)), ids
    yield 'transformers', 'DeBERTa-v2', lambda: t.DebertaV2Model(t.DebertaV2Config(**text)), ids
    yield 'transformers', 'GPT-2', lambda: t.GPT2LMHeadModel(t.GPT2Config(vocab_size=100, n_embd=32, n_layer=2,
        n_head=4)), ids
    yield 'transformers', 'GPT-NeoX', lambda: t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**text)), ids
    yield 'transformers', 'Llama', lambda: t.LlamaForCausalLM(t.LlamaConfig(**text)), ids
    yield 'transformers', 'Mistral', lambda: t.MistralForCausalLM(t.MistralConfig(num_key_value_heads=2, **text)), ids
    yield 'transformers', 'Qwen2', lambda: t.Qwen2ForCausalLM(t.Qwen2Config(num_key_value_heads=2, **text)), ids
    yield 'transformers', 'Gemma', lambda: t.GemmaForCausalLM(t.GemmaConfig(num_key_value_heads=2, head_dim=8,
        **text)), ids
    yield 'transformers', 'Mixtral', lambda: t.MixtralForCausalLM(t.MixtralConfig(num_key_value_heads=2,
        num_local_experts=2, **text)), ids
    yield 'transformers', 'T5', lambda: t.T5ForConditionalGeneration(t.T5Config(vocab_size=100, d_model=32, d_kv=8,
        d_ff=64, num_layers=2, num_heads=4)), \
        lambda: dict(**ids(), decoder_input_ids=torch.randint(0, 90, (2,5)))
    yield 'transformers', 'BART', lambda: t.BartModel(t.BartConfig(vocab_size=100, d_model=32, encoder_layers=2,
        decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64)), ids
    yield 'transformers', 'ViT', lambda: t.ViTForImageClassification(t.ViTConfig(**image)), pixels
    yield 'transformers', 'DINOv2', lambda: t.Dinov2Model(t.Dinov2Config(**image)), pixels
    yield 'transformers', 'BEiT', lambda: t.BeitModel(t.BeitConfig(**image)), pixels
    swin = dict(image_size=32, patch_size=4, embed_dim=16, depths=[1,1], num_heads=[2,2], window_size=4)
    yield 'transformers', 'Swin', lambda: t.SwinModel(t.SwinConfig(**swin)), pixels
    yield 'transformers', 'ConvNeXt', lambda: t.ConvNextModel(t.ConvNextConfig(hidden_sizes=[8,16,24,32],
        depths=[1,1,1,1])), lambda: pixels(64)
    wav = dict(text, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2)
    yield 'transformers', 'Wav2Vec2', lambda: t.Wav2Vec2Model(t.Wav2Vec2Config(**wav)), \
        lambda: dict(input_values=torch.randn(2,4000))
    yield 'transformers', 'CLIP', lambda: t.CLIPModel(t.CLIPConfig(text_config=text,
        vision_config=image)), lambda: dict(**ids(), **pixels())

def fastai_zoo():
    from fastai.vision import models as v
    from fastai.vision.all import (DynamicUnet, create_body, create_head, resnet18, xresnet18, xresnet18_deep,
                                   xse_resnext18)
    from fastai.vision.gan import basic_critic, basic_generator
    from fastai.text.models import AWD_LSTM, get_language_model, get_text_classifier
    from fastai.tabular.all import TabularModel
    from fastai.collab import EmbeddingDotBias, EmbeddingNN
    from torch import nn
    x = images(64)
    tokens = lambda: torch.randint(2, 90, (2,12))
    for f in (xresnet18, xresnet18_deep, xse_resnext18): yield 'fastai', f.__name__, partial(f, n_out=10), x
    yield 'fastai', 'xresnet50 (mish, self attention)', lambda: v.xresnet.xresnet50(n_out=10, act_cls=nn.Mish,
        sa=True), x
    yield 'fastai', 'vision_learner model', lambda: nn.Sequential(create_body(resnet18(), 3, False),
        create_head(512, 10)), x
    unet = lambda **kw: DynamicUnet(create_body(resnet18(), 3, False), 5, (64,64), **kw)
    yield 'fastai', 'DynamicUnet', unet, x
    yield 'fastai', 'DynamicUnet (self attention)', partial(unet, self_attention=True), x
    yield 'fastai', 'basic_generator', partial(basic_generator, 64, 3), lambda: torch.randn(2,100)
    yield 'fastai', 'basic_critic', partial(basic_critic, 64, 3), x
    small = dict(emb_sz=16, n_hid=24, n_layers=2, pad_token=1, bidir=False, output_p=.1, hidden_p=.1, input_p=.1,
                 embed_p=.1, weight_p=.1)
    lm = dict(small, tie_weights=True, out_bias=True)
    yield 'fastai', 'AWD_LSTM language model', lambda: get_language_model(AWD_LSTM, 100, lm), tokens
    yield 'fastai', 'AWD_LSTM classifier', lambda: get_text_classifier(AWD_LSTM, 100, 2, config=dict(small)), tokens
    yield 'fastai', 'TabularModel', lambda: TabularModel([(10,4),(7,3)], 3, 2,
        [20,10]), lambda: (torch.randint(0,7,(4,2)), torch.randn(4,3))
    yield 'fastai', 'EmbeddingDotBias', lambda: EmbeddingDotBias(8, 20, 30), lambda: torch.randint(0,20,(4,2))
    yield 'fastai', 'EmbeddingNN', lambda: EmbeddingNN([(20,8),(30,8)], [16]), None

def zoo(timm='.*'):
    "Every model of the four libraries"
    yield from fastai_zoo()
    yield from torchvision_zoo()
    yield from hf_zoo()
    yield from timm_zoo(timm)

def sweep(doc, head, one):
    "Print `one(name, make, batch)`, a line and a list of faults, for each model that the command line asks for"
    ap = argparse.ArgumentParser(description=doc.splitlines()[0])
    ap.add_argument('--only', default='', help='part of a library or model name')
    ap.add_argument('--timm', default='.*', help="regular expression over timm's modules")
    args = ap.parse_args()
    warnings.simplefilter('ignore')
    bad = done = 0
    print(f"{'library':13}{'model':44}{head}")
    for lib,name,make,batch in zoo(args.timm):
        if args.only not in f'{lib} {name}': continue
        done += 1
        try: line,faults = one(name, make, batch)
        except Exception as e: line,faults = '',[f'FAILED {type(e).__name__}: {str(e)[:150]}']
        bad += bool(faults)
        print(f"{lib:13}{name[:43]:44}{line} {' '.join(faults)}", flush=True)
    print(f"{done} models, {bad} with faults")
