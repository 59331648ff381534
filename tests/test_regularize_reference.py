"Penalties and constraints reach the coefficients of scikit-learn, celer and closed forms, with the same zeros"
from functools import partial

import numpy as np
import pytest, torch
from fastai.callback.schedule import SchedCos
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import MSELossFlat
from fastai.optimizer import SGD, Adam, Lamb, Larc, OptimWrapper, QHAdam, RAdam, RMSProp
from celer import GroupLasso as CelerGroupLasso
from sklearn.datasets import load_diabetes
from sklearn.linear_model import ElasticNet as SkElasticNet, Lasso, Ridge
from torch import nn

from fastai_ext.regularize.anchor import L2SP
from fastai_ext.regularize.constraint import NonNeg
from fastai_ext.regularize.fused import FusedAdam
from fastai_ext.regularize.group import GroupLasso
from fastai_ext.regularize.penalty import L1, L2, ElasticNet

def standardized(x, y): return (x-x.mean(0))/x.std(0),(y-y.mean())/y.std()

def problem(n=60):
    "Ten features that are only a little alike, so that few steps suffice; three of them say nothing"
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(n,1))
    x = rng.normal(size=(n,10)) + .3*shared
    return standardized(x, x @ [0,.2,-.6,.5,0,.05,.4,-.3,.9,0] + rng.normal(size=n))

x,y = problem()
batch = (torch.tensor(x).float(), torch.tensor(y).float()[:,None])

def torchs(cls, **kwargs): return partial(OptimWrapper, opt=partial(cls, **kwargs))

adam = dict(mom=.8, sqr_mom=.9, eps=1e-2)
optimizers = {  # the optimizer, a learning rate and a number of steps
    'SGD':          (partial(SGD, mom=0.), .2, 60),
    'SGD momentum': (partial(SGD, mom=.8), .05, 90),
    'Adam':         (partial(Adam, wd=0., **adam), .04, 150),
    'torch SGD':          (torchs(torch.optim.SGD), .2, 60),
    'torch SGD momentum': (torchs(torch.optim.SGD, momentum=.8), .05, 90),
    'torch Adam':         (torchs(torch.optim.Adam, betas=(.8,.9), eps=1e-2), .04, 200),
}
others = {
    'FusedAdam': (partial(FusedAdam, wd=0., **adam), .04, 150),
    'RMSProp': (partial(RMSProp, sqr_mom=.9, wd=0.), .02, 200),
    'RMSProp momentum': (partial(RMSProp, mom=.8, sqr_mom=.9, wd=0.), .004, 200),
    'RAdam': (partial(RAdam, **adam), .04, 150),
    'QHAdam': (partial(QHAdam, **adam), .04, 150),
    'QHAdam nu': (partial(QHAdam, nu_2=.9, **adam), .04, 150),
    'Lamb': (partial(Lamb, mom=.8, sqr_mom=.9), .04, 300),
    'Larc': (partial(Larc, trust_coeff=.5), .04, 200),
    'SGD l2_reg': (partial(SGD, mom=.8, decouple_wd=False), .05, 120),
    'torch SGD nesterov': (torchs(torch.optim.SGD, momentum=.8, nesterov=True), .05, 120),
    'torch SGD dampening': (torchs(torch.optim.SGD, momentum=.8, dampening=.8), .2, 200),
    'torch AdamW': (torchs(torch.optim.AdamW, weight_decay=0., betas=(.8,.9), eps=1e-2), .04, 200),
    'torch Adam amsgrad': (torchs(torch.optim.Adam, amsgrad=True, betas=(.8,.9), eps=1e-2), .08, 250),
    'torch RAdam': (torchs(torch.optim.RAdam, betas=(.8,.9), eps=1e-2), .04, 200),
}
schedules = {'constant': lambda lr: {'lr': SchedCos(lr, lr)}, 'one_cycle': None}

def coefficients(cbs, opt, schedule='constant', init=None, data=batch, steps=None):
    "The weights after full batches, from zeros or from `init`"
    func,lr,n = {**optimizers,**others}[opt]
    n = steps or n
    model = nn.Linear(10, 1, bias=False)
    model.weight.data = torch.zeros(1, 10) if init is None else torch.tensor(init).float()[None]
    learn = Learner(DataLoaders([data]*n, [data]), model, MSELossFlat(), opt_func=func, cbs=cbs)
    with learn.no_bar(), learn.no_logging():
        if schedule == 'constant': learn.fit(1, lr)
        elif 'Adam' in opt or 'momentum' in opt: learn.fit_one_cycle(1, 2*lr, moms=(.8,.7,.8))
        else: learn.fit_one_cycle(1, 1.5*lr, moms=(0.,0.,0.))
    return model.weight.detach().numpy()[0]

blocks,start = [[0,1,2,3],[4,5],[6,7],[8,9]],np.linspace(-.5, .5, 10)
def ridge(alpha): return Ridge(alpha=alpha/2*len(x), fit_intercept=False).fit(x, y).coef_

def sk(cls, **kwargs): return cls(fit_intercept=False, tol=1e-12, **kwargs).fit(x, y).coef_
def celer():
    return CelerGroupLasso(blocks, alpha=.1, fit_intercept=False, tol=1e-10, weights=np.ones(4)).fit(x, y).coef_
def l2sp(a): return np.linalg.solve(2*x.T@x/len(x) + a*np.eye(10), 2*x.T@y/len(x) + a*start)

references = {
    'lasso': (lambda: L1(.1), sk(Lasso, alpha=.05)),
    'ridge': (lambda: L2(.1), ridge(.1)),
    'elastic net': (lambda: ElasticNet(.05, .05), sk(SkElasticNet, alpha=.05, l1_ratio=.5)),
    'group lasso': (lambda: GroupLasso(.2, groups=blocks), celer()),
    'non-negative lasso': (lambda: [L1(.1), NonNeg()], sk(Lasso, alpha=.05, positive=True)),
    'L2-SP': (lambda: L2SP(.1), l2sp(.1)),
    'ridge prox': (lambda: L2(.1, how='prox'), ridge(.1)),
}

@pytest.mark.parametrize('schedule', schedules)
@pytest.mark.parametrize('opt', optimizers)
@pytest.mark.parametrize('case', references)
def test_reference(case, opt, schedule):
    cb,want = references[case]
    got = coefficients(cb(), opt, schedule, start if case == 'L2-SP' else None)
    assert abs(got-want).max() < 1e-3
    assert ((got==0) == (want==0)).all()

@pytest.mark.parametrize('opt', others)
def test_lasso_of_every_known_optimizer(opt):
    got = coefficients(L1(.1), opt, init=[.1]*10 if opt == 'Larc' else None)  # Larc cannot leave zero
    want = references['lasso'][1]
    assert abs(got-want).max() < 1e-3
    assert ((got==0) == (want==0)).all()

def diabetes():
    x,y = standardized(*load_diabetes(return_X_y=True))
    return x,y,(torch.tensor(x).float(), torch.tensor(y).float()[:,None])

def test_lasso_of_diabetes():
    "Ten measurements that are much alike, four coefficients of 0"
    x,y,data = diabetes()
    got = coefficients(L1(.1), 'SGD', 'one_cycle', data=data, steps=800)
    want = Lasso(alpha=.05, fit_intercept=False, tol=1e-12).fit(x, y).coef_
    assert abs(got-want).max() < 1e-3 and (got==0).sum() == 4

def test_l1_max():
    "The least strength that makes every weight zero is the largest gradient at zero"
    x,y,data = diabetes()
    top = float(2*abs(x.T@y).max()/len(x))
    assert abs(top-1.1729) < 1e-4
    def _nonzero(l1): return (coefficients(L1(l1), 'SGD', data=data) != 0).sum()
    assert _nonzero(1.001*top) == 0 and _nonzero(.99*top) == 1
