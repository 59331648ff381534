"""The tasks of the tournament of starts: small data and models, each trained in a second. Half of them tuned the
policy, half report.

A `Task` makes its data once and its model afresh, in torch's default start. `half` is fixed here, before any result:
'tune' tasks may be looked at while the policy is changed, 'report' tasks may not."""
import functools, math
from dataclasses import dataclass, field
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

@dataclass
class Task:
    "What is trained on what"
    name:str
    half:str                 # 'tune' or 'report'
    model:Callable           # () -> nn.Module
    data:Callable            # () -> (train inputs, train targets, valid inputs, valid targets)
    loss:Callable = F.cross_entropy
    chance:float = math.log(10)  # The loss of a prediction that knows nothing
    bs:int = 32
    lr:dict = field(default_factory=lambda: dict(sgd=.05, adam=3e-3))  # Middle of the sweep

tasks = {}
def task(half, data, **kw):
    def register(f):
        tasks[f.__name__] = Task(f.__name__, half, f, data, **kw)
        return f
    return register

# data

def halved(x, y, n_valid):
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(42))
    x,y = x[order],y[order]
    return x[n_valid:],y[n_valid:],x[:n_valid],y[:n_valid]

@functools.cache
def digits(shape=(64,)):
    from sklearn.datasets import load_digits
    d = load_digits()
    x = (torch.tensor(d.data).float()-4.88)/6.02
    return halved(x.reshape(-1, *shape), torch.tensor(d.target), 500)

@functools.cache
def text(length=24):
    "Letters of the descriptions that scikit-learn has of its data sets; the target is the next letter"
    import sklearn.datasets as ds
    s = '\n'.join(getattr(ds, f'load_{n}')().DESCR
                  for n in 'iris wine digits diabetes breast_cancer linnerud'.split()).lower()
    letters = [c for c in sorted(set(s)) if s.count(c) > 20]
    at = {c: i for i,c in enumerate(letters)}
    ids = torch.tensor([at[c] for c in s if c in at])
    n = (len(ids)-1)//length*length
    return halved(ids[:n].reshape(-1, length), ids[1:n+1].reshape(-1, length), 200)

vocab = 64  # at least the number of letters
def per_letter(p, y): return F.cross_entropy(p.flatten(0, 1), y.flatten())
letters = dict(data=text, loss=per_letter, chance=3.)  # of letter frequencies alone: about 3

@functools.cache
def long_memory(length=40):
    "The adding problem (Hochreiter and Schmidhuber 1997): the sum of the two numbers that are marked"
    g = torch.Generator().manual_seed(1)
    v,marks = torch.rand(4000, length, generator=g)*2-1,torch.zeros(4000, length)
    where = torch.stack([torch.randint(length//2, (4000,), generator=g),
                         torch.randint(length//2, length, (4000,), generator=g)], 1)
    marks.scatter_(1, where, 1.)
    return halved(torch.stack([v, marks], -1), (v*marks).sum(1, keepdim=True)*1.22, 500)

@functools.cache
def sines(length=30):
    "Sums of two sines with noise; the target is the next value"
    g = torch.Generator().manual_seed(2)
    t,u = torch.arange(length+1)[None],torch.rand(4, 3000, 1, generator=g)
    x = torch.sin(t*(.1+.5*u[0])+6.3*u[1]) + torch.sin(t*(.1+.9*u[2])+6.3*u[3]) + .1*torch.randn(3000, length+1,
        generator=g)
    return halved(x[:,:-1,None], x[:,1:,None], 500)

@functools.cache
def waves():
    "Sums of two sines with noise, to be given back"
    a,_,b,_ = sines(32)
    a,b = a.transpose(1, 2),b.transpose(1, 2)
    return a,a,b,b

@functools.cache
def reverse(length=10):
    "Digits, to be given back in reverse order"
    x = torch.randint(10, (4000, length), generator=torch.Generator().manual_seed(3))
    return halved(x, x.flip(1), 500)

@functools.cache
def flowers(n=3000):
    "Points in 8 dimensions with a smooth and wavy target"
    g = torch.Generator().manual_seed(4)
    x = torch.randn(n, 8, generator=g)
    y = torch.sin(2*x[:,:1])*x[:,1:2] + x[:,2:3].abs() + .5*x[:,3:4]*x[:,4:5]
    return halved(x, (y-y.mean())/y.std(), 500)

@functools.cache
def shop(n=4000):
    "A made table: four categories, three numbers, a noisy yes or no from their interactions"
    g = torch.Generator().manual_seed(5)
    c,z = torch.stack([torch.randint(k, (n,), generator=g) for k in (30,12,7,3)], 1),torch.randn(n, 3, generator=g)
    effect = torch.randn(4, 30, 3, generator=g)
    score = sum((effect[i][c[:,i]]*z).sum(1) for i in range(4))/2 + effect[0][c[:,0]][:,0]*effect[1][c[:,1]][:,0]
    y = (torch.sigmoid(2*score) > torch.rand(n, generator=g)).long()
    return halved(torch.cat([c.float(), z], 1), y, 800)

@functools.cache
def ratings(n=8000):
    "Users and items of rank 4 with noise"
    g = torch.Generator().manual_seed(6)
    u,i = torch.randint(150, (n,), generator=g),torch.randint(80, (n,), generator=g)
    a,b = torch.randn(150, 4, generator=g),torch.randn(80, 4, generator=g)
    y = (a[u]*b[i]).sum(1)/2 + .3*torch.randn(n, generator=g)
    return halved(torch.stack([u, i], 1), (y/y.std())[:,None], 1000)

@functools.cache
def words():
    "Bags in a row: which of two sets of words comes more often, in a row of 20 words"
    g = torch.Generator().manual_seed(7)
    x = torch.randint(200, (4000, 20), generator=g)
    weight = torch.randn(200, generator=g)
    return halved(x, (weight[x].sum(1) + weight[x[:,:-1]].mul(weight[x[:,1:]]).sum(1) > 0).long(), 800)

@functools.cache
def ring():
    "Points in eight heaps on a circle"
    g = torch.Generator().manual_seed(9)
    a = torch.randint(8, (3000,), generator=g)*math.pi/4
    x = torch.stack([a.cos(), a.sin()], 1) + .1*torch.randn(3000, 2, generator=g)
    return halved(x, x, 500)

@functools.cache
def moons():
    "Points on two half circles that reach into each other"
    from sklearn.datasets import make_moons
    x = torch.tensor(make_moons(3000, noise=.08, random_state=10)[0]).float()
    x = (x-x.mean(0))/x.std(0)
    return halved(x, x, 500)

@functools.cache
def pictures():
    "Digits as points, and no label"
    a,_,b,_ = digits()
    return a,a,b,b

@functools.cache
def patches(size=16):
    "Grey pieces of the two photographs that scikit-learn has, to be given back"
    from sklearn.datasets import load_sample_images
    g,res = torch.Generator().manual_seed(11),[]
    for photo in load_sample_images().images:
        x = torch.tensor(photo).float().mean(2)
        corners = zip(*(torch.randint(n-size, (1000,), generator=g).tolist() for n in x.shape), strict=True)
        res += [x[i:i+size,j:j+size] for i,j in corners]
    x = torch.stack(res)[:,None]
    x = (x-x.mean())/x.std()
    return halved(x, x, 300)

@functools.cache
def pairs():
    "Rows of 12 words; which of three sums over the words and their neighbours is largest"
    g = torch.Generator().manual_seed(12)
    x = torch.randint(120, (4000, 12), generator=g)
    a,b,c = torch.randn(3, 120, 3, generator=g)
    return halved(x, (a[x].sum(1) + (b[x[:,:-1]]*c[x[:,1:]]).sum(1)).argmax(1), 800)

def same_as_input(shape):
    a,_,b,_ = digits(shape)
    return a,a,b,b

@functools.cache
def noisy_digits():
    a,_,b,_ = digits((1,8,8))
    g = torch.Generator().manual_seed(8)
    return a+torch.randn(a.shape, generator=g),a,b+torch.randn(b.shape, generator=g),b

pixels = dict(loss=F.mse_loss, chance=1.)
numbers = dict(loss=F.mse_loss, chance=1.)
yes_no = dict(chance=math.log(2))
grey = functools.partial(digits, (1,8,8))
rows = functools.partial(digits, (8,8))
every_pixel = functools.partial(digits, (64,1))

# parts

class Residual(nn.Module):
    def __init__(self, *layers, after=None):
        super().__init__()
        self.branch,self.after = nn.Sequential(*layers),after or nn.Identity()
    def forward(self, x): return self.after(x + self.branch(x))

class Last(nn.Module):
    "A recurrent layer whose last state goes to a linear layer"
    def __init__(self, rnn, n_out, embed=None):
        super().__init__()
        self.embed,self.rnn,self.head = embed or nn.Identity(),rnn,nn.Linear(rnn.hidden_size, n_out)
    def forward(self, x): return self.head(self.rnn(self.embed(x))[0][:,-1])

class Each(Last):
    "The same for every step"
    def forward(self, x): return self.head(self.rnn(self.embed(x))[0])

class Transformer(nn.Module):
    def __init__(self, n_in, n_out, length, norm_first, causal=False, d=32, depth=2, each=True):
        super().__init__()
        self.embed = nn.Embedding(n_in, d) if n_in > 9 else nn.Linear(n_in, d)
        self.position = nn.Parameter(torch.randn(length, d)*.02)
        layer = nn.TransformerEncoderLayer(d, 4, 2*d, 0., batch_first=True, norm_first=norm_first)
        self.body = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        for l in self.body.layers: l.apply(lambda m: m.reset_parameters() if hasattr(m, 'reset_parameters') else
                                           m._reset_parameters() if hasattr(m, '_reset_parameters') else None)
        self.norm = nn.LayerNorm(d) if norm_first else nn.Identity()
        self.head,self.each = nn.Linear(d, n_out),each
        self.mask = nn.Transformer.generate_square_subsequent_mask(length) if causal else None
    def forward(self, x):
        h = self.norm(self.body(self.embed(x) + self.position, mask=self.mask))
        return self.head(h if self.each else h.mean(1))

class Attention(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.heads,self.qkv,self.proj = heads,nn.Linear(d, 3*d),nn.Linear(d, d)
    def forward(self, x):
        q,k,v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2,0,3,1,4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

class Tabular(nn.Module):
    def __init__(self, act, norm):
        super().__init__()
        self.embeds = nn.ModuleList(nn.Embedding(k, d) for k,d in ((30,10),(12,6),(7,4),(3,3)))
        mid = lambda i,o: [nn.Linear(i, o), act(), *([nn.BatchNorm1d(o)] if norm else [])]
        self.layers = nn.Sequential(*mid(26, 64), *mid(64, 32), nn.Linear(32, 2))
    def forward(self, x):
        return self.layers(torch.cat([e(x[:,i].long()) for i,e in enumerate(self.embeds)] + [x[:,4:]], 1))

class Dot(nn.Module):
    "fastai's `EmbeddingDotBias`, with torch's default start"
    def __init__(self):
        super().__init__()
        self.u,self.i,self.ub,self.ib = nn.Embedding(150, 8),nn.Embedding(80, 8),nn.Embedding(150, 1),nn.Embedding(80,
            1)
    def forward(self, x):
        return (self.u(x[:,0])*self.i(x[:,1])).sum(1, keepdim=True) + self.ub(x[:,0]) + self.ib(x[:,1])

class TwoTowers(nn.Module):
    def __init__(self):
        super().__init__()
        self.u,self.i = nn.Embedding(150, 8),nn.Embedding(80, 8)
        self.layers = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))
    def forward(self, x): return self.layers(torch.cat([self.u(x[:,0]), self.i(x[:,1])], 1))

class UNet(nn.Module):
    def __init__(self, norm):
        super().__init__()
        def conv(i, o):
            return nn.Sequential(nn.Conv2d(i, o, 3, 1, 1), nn.BatchNorm2d(o) if norm else nn.Identity(), nn.ReLU())
        self.a,self.b,self.c = conv(1, 12),conv(12, 24),conv(24, 32)
        self.up1,self.up2 = nn.ConvTranspose2d(32, 24, 2, 2),nn.ConvTranspose2d(24, 12, 2, 2)
        self.d,self.e,self.out = conv(48, 24),conv(24, 12),nn.Conv2d(12, 1, 1)
    def forward(self, x):
        a = self.a(x); b = self.b(F.max_pool2d(a, 2)); c = self.c(F.max_pool2d(b, 2))
        d = self.d(torch.cat([self.up1(c), b], 1))
        return self.out(self.e(torch.cat([self.up2(d), a], 1)))

class Flip(nn.Module):
    def forward(self, x): return x.transpose(1, 2)

class Tokens(nn.Module):
    "Patches of 2 x 2 as tokens, with a learned position"
    def __init__(self, d, position):
        super().__init__()
        self.patch,self.position = nn.Conv2d(1, d, 2, 2),nn.Parameter(torch.randn(16, d)*.02) if position else 0.
    def forward(self, x): return self.patch(x).flatten(2).transpose(1, 2) + self.position

class Mean(nn.Module):
    def forward(self, x): return x.mean(1)

class ChannelsLast(nn.Module):
    def forward(self, x): return x.permute(0,2,3,1)
class ChannelsFirst(nn.Module):
    def forward(self, x): return x.permute(0,3,1,2)

def mlp(sizes, act):
    layers = [l for i,o in zip(sizes, sizes[1:-1]) for l in (nn.Linear(i, o), act())]
    return nn.Sequential(*layers, nn.Linear(*sizes[-2:]))

def convs(n, width, act, norm=False):
    layers = [l for i in range(n)
              for l in (nn.Conv2d(1 if i==0 else width, width, 3, 2 if i==2 else 1, 1),
                        *([nn.BatchNorm2d(width)] if norm else []), act())]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))

class GAN(nn.Module):
    """While training it gives the critic's opinion of real points, of made ones, and of made ones once more for
    their maker; otherwise made points"""
    def __init__(self, make, judge):
        super().__init__()
        self.make,self.judge,self.n_in = make,judge,make[0].in_features
    def forward(self, x):
        made = self.make(torch.randn(500 if not self.training else len(x), self.n_in))
        if not self.training: return made
        fixed = {k: p.detach() for k,p in self.judge.named_parameters()}
        return self.judge(x),self.judge(made.detach()),torch.func.functional_call(self.judge, fixed, made)

def game(p, y):
    """The losses of both sides (Goodfellow et al. 2014, not saturating); of made points the energy distance to real
    ones (Székely and Rizzo 2013)"""
    if isinstance(p, tuple): return F.softplus(-p[0]).mean() + F.softplus(p[1]).mean() + F.softplus(-p[2]).mean()
    return 2*torch.cdist(p, y).mean() - torch.cdist(p, p).mean() - torch.cdist(y, y).mean()

# plain nets

@task('tune', digits)
def mlp_relu_12(): return mlp([64]*12+[10], nn.ReLU)
@task('report', flowers, **numbers)
def mlp_gelu_5(): return mlp([8]+[64]*4+[1], nn.GELU)
@task('report', digits)
def mlp_tanh_8(): return mlp([64]*8+[10], nn.Tanh)
@task('tune', grey)
def convnet_10(): return convs(10, 16, nn.ReLU)
@task('report', grey)
def convnet_silu_6(): return convs(6, 16, nn.SiLU)
@task('tune', grey)
def convnet_norm_5(): return convs(5, 16, nn.ReLU, norm=True)

# residual

def resnet(pre):
    def block():
        c,n,r = lambda: nn.Conv2d(16, 16, 3, 1, 1, bias=False),lambda: nn.BatchNorm2d(16),nn.ReLU
        return Residual(n(), r(), c(), n(), r(), c()) if pre else Residual(c(), n(), r(), c(), n(), after=r())
    return nn.Sequential(nn.Conv2d(1, 16, 3, 1, 1), *([] if pre else [nn.BatchNorm2d(16), nn.ReLU()]), block(),
                         nn.MaxPool2d(2), block(), block(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
@task('tune', grey)
def resnet_post(): return resnet(False)
@task('report', grey)
def resnet_pre(): return resnet(True)
@task('tune', digits)
def residual_mlp_20():
    return nn.Sequential(*(Residual(nn.Linear(64,64), nn.ReLU(), nn.Linear(64,64)) for _ in range(20)),
                         nn.Linear(64, 10))
@task('report', grey)
def residual_conv_8():
    blocks = [Residual(nn.ReLU(), nn.Conv2d(16,16,3,1,1), nn.ReLU(), nn.Conv2d(16,16,3,1,1)) for _ in range(8)]
    return nn.Sequential(nn.Conv2d(1,16,3,2,1), *blocks, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(16, 10))

# pictures to pictures

@task('report', noisy_digits, **pixels)
def unet(): return UNet(False)
@task('tune', noisy_digits, **pixels)
def unet_norm(): return UNet(True)
@task('tune', functools.partial(same_as_input, (64,)), **pixels)
def autoencoder(): return mlp([64,48,24,8,24,48,64], nn.ReLU)
@task('report', functools.partial(same_as_input, (1,8,8)), **pixels)
def autoencoder_conv():
    return nn.Sequential(nn.Conv2d(1,16,3,2,1), nn.ReLU(), nn.Conv2d(16,16,3,2,1), nn.ReLU(), nn.Flatten(),
                         nn.Linear(64,12), nn.Linear(12,64), nn.ReLU(),
                         nn.Unflatten(1,(16,2,2)), nn.ConvTranspose2d(16,16,4,2,1), nn.ReLU(),
                         nn.ConvTranspose2d(16,1,4,2,1))
@task('tune', patches, **pixels)
def autoencoder_patches():
    return nn.Sequential(nn.Conv2d(1,12,4,2,1), nn.ReLU(), nn.Conv2d(12,24,4,2,1), nn.ReLU(), nn.Flatten(),
                         nn.Linear(384,24), nn.Linear(24,384), nn.ReLU(),
                         nn.Unflatten(1,(24,4,4)), nn.ConvTranspose2d(24,12,4,2,1), nn.ReLU(),
                         nn.ConvTranspose2d(12,1,4,2,1))
@task('tune', waves, **pixels)
def autoencoder_waves():
    return nn.Sequential(nn.Conv1d(1,16,4,2,1), nn.ReLU(), nn.Conv1d(16,16,4,2,1), nn.ReLU(), nn.Flatten(),
                         nn.Linear(128,10), nn.Linear(10,128), nn.ReLU(),
                         nn.Unflatten(1,(16,8)), nn.ConvTranspose1d(16,16,4,2,1), nn.ReLU(),
                         nn.ConvTranspose1d(16,1,4,2,1))

# recurrent

@task('tune', **letters)
def rnn_letters(): return Each(nn.RNN(24, 48, batch_first=True), vocab, nn.Embedding(vocab, 24))
@task('report', rows)
def rnn_rows(): return Last(nn.RNN(8, 48, batch_first=True), 10)
@task('tune', **letters)
def lstm_letters(): return Each(nn.LSTM(24, 48, batch_first=True), vocab, nn.Embedding(vocab, 24))
@task('report', long_memory, **numbers)
def lstm_adding(): return Last(nn.LSTM(2, 32, batch_first=True), 1)
@task('report', rows)
def lstm_rows(): return Last(nn.LSTM(8, 32, batch_first=True), 10)
@task('tune', sines, **numbers)
def gru_sines(): return Each(nn.GRU(1, 32, batch_first=True), 1)
@task('report', words, **yes_no)
def gru_words(): return Last(nn.GRU(16, 32, batch_first=True), 2, nn.Embedding(200, 16))
@task('tune', pairs, chance=math.log(3))
def gru_pairs(): return Last(nn.GRU(12, 24, batch_first=True), 3, nn.Embedding(120, 12))
@task('tune', pairs, chance=math.log(3))
def lstm_pairs(): return Last(nn.LSTM(12, 24, batch_first=True), 3, nn.Embedding(120, 12))
@task('tune', **letters)
def gru_letters(): return Each(nn.GRU(24, 48, batch_first=True), vocab, nn.Embedding(vocab, 24))
@task('tune', every_pixel)
def lstm_pixels(): return Last(nn.LSTM(1, 32, batch_first=True), 10)

# attention and mixing

@task('tune', **letters)
def pre_ln_letters(): return Transformer(vocab, vocab, 24, True, causal=True)
@task('report', rows)
def pre_ln_rows(): return Transformer(8, 10, 8, True, depth=3, each=False)
@task('tune', reverse, loss=per_letter)
def post_ln_reverse(): return Transformer(10, 10, 10, False)
@task('report', **letters)
def post_ln_letters(): return Transformer(vocab, vocab, 24, False, causal=True, depth=3)
@task('report', grey)
def vit():
    ff = lambda: Residual(nn.LayerNorm(32), nn.Linear(32,64), nn.GELU(), nn.Linear(64,32))
    return nn.Sequential(Tokens(32, True),
                         *(l for _ in range(3) for l in (Residual(nn.LayerNorm(32), Attention(32, 4)), ff())),
                         nn.LayerNorm(32), Mean(), nn.Linear(32, 10))
@task('tune', grey)
def mixer():
    ff = lambda n,h: [nn.Linear(n,h), nn.GELU(), nn.Linear(h,n)]
    return nn.Sequential(Tokens(32, False),
                         *(l for _ in range(3) for l in (Residual(nn.LayerNorm(32), Flip(), *ff(16,32), Flip()),
                         Residual(nn.LayerNorm(32), *ff(32,64)))), nn.LayerNorm(32), Mean(), nn.Linear(32, 10))
@task('report', grey)
def convnext():
    block = lambda: Residual(nn.Conv2d(24,24,3,1,1,groups=24), ChannelsLast(), nn.LayerNorm(24), nn.Linear(24,72),
                             nn.GELU(), nn.Linear(72,24), ChannelsFirst())
    return nn.Sequential(nn.Conv2d(1,24,2,2), block(), block(), block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.LayerNorm(24), nn.Linear(24,10))

# tables and embeddings

@task('tune', shop, **yes_no)
def tabular_norm(): return Tabular(nn.ReLU, True)
@task('report', shop, **yes_no)
def tabular_plain(): return Tabular(nn.SiLU, False)
@task('tune', ratings, bs=128, **numbers)
def collab_dot(): return Dot()
@task('report', ratings, bs=128, **numbers)
def collab_net(): return TwoTowers()

# a game

@task('report', ring, bs=64, loss=game, chance=1., lr=dict(sgd=.01, adam=1e-3))
def gan(): return GAN(mlp([8,64,64,2], nn.ReLU), mlp([2,64,64,1], nn.LeakyReLU))
@task('tune', moons, bs=64, loss=game, chance=1., lr=dict(sgd=.01, adam=1e-3))
def gan_moons(): return GAN(mlp([4,48,48,2], nn.LeakyReLU), mlp([2,48,48,1], nn.LeakyReLU))
@task('tune', pictures, bs=64, loss=game, chance=8., lr=dict(sgd=.01, adam=1e-3))
def gan_digits(): return GAN(mlp([16,96,96,64], nn.ReLU), mlp([64,96,96,1], nn.LeakyReLU))
