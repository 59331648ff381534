"Penalties and constraints reach the coefficients of scikit-learn, celer and closed forms, with the same zeros, whatever the optimizer"
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

x,y = load_diabetes(return_X_y=True)
x,y = (x-x.mean(0))/x.std(0),(y-y.mean())/y.std()
batch = (torch.tensor(x).float(), torch.tensor(y).float()[:,None])

def torchs(cls, **kwargs): return partial(OptimWrapper, opt=partial(cls, **kwargs))

optimizers = {
    'SGD':          (partial(SGD, mom=0.), .2, 800),
    'SGD momentum': (partial(SGD, mom=.9), .1, 600),
    'Adam':         (partial(Adam, wd=0.), .02, 1000),
    'torch SGD':          (torchs(torch.optim.SGD), .2, 800),
    'torch SGD momentum': (torchs(torch.optim.SGD, momentum=.9), .1, 600),
    'torch Adam':         (torchs(torch.optim.Adam), .02, 1000),
}
others = {
    'FusedAdam': (partial(FusedAdam, wd=0.), .02, 1000),
    'RMSProp': (partial(RMSProp, wd=0.), .01, 1500),
    'RMSProp momentum': (partial(RMSProp, mom=.9, wd=0.), .001, 2000),
    'RAdam': (RAdam, .02, 1500),
    'QHAdam': (partial(QHAdam, mom=.9, sqr_mom=.99), .02, 1500),
    'QHAdam nu': (partial(QHAdam, mom=.9, sqr_mom=.99, nu_2=.9), .02, 1500),
    'Lamb': (Lamb, .02, 1500),
    'Larc': (partial(Larc, trust_coeff=.5), .02, 1500),
    'SGD l2_reg': (partial(SGD, mom=.9, decouple_wd=False), .02, 1000),
    'torch SGD nesterov': (torchs(torch.optim.SGD, momentum=.9, nesterov=True), .02, 1000),
    'torch SGD dampening': (torchs(torch.optim.SGD, momentum=.9, dampening=.9), .1, 1500),
    'torch AdamW': (torchs(torch.optim.AdamW, weight_decay=0.), .02, 1200),
    'torch Adam amsgrad': (torchs(torch.optim.Adam, amsgrad=True), .02, 2000),
    'torch RAdam': (torchs(torch.optim.RAdam), .02, 1500),
}
schedules = {'constant': lambda lr: {'lr': SchedCos(lr, lr)}, 'one_cycle': None}

def coefficients(cbs, opt, schedule='constant', init=None):
    "The weights after full batches, from zeros or from `init`"
    func,lr,n = {**optimizers,**others}[opt]
    model = nn.Linear(10, 1, bias=False)
    model.weight.data = torch.zeros(1, 10) if init is None else torch.tensor(init).float()[None]
    learn = Learner(DataLoaders([batch]*n, [batch]), model, MSELossFlat(), opt_func=func, cbs=cbs)
    with learn.no_bar(), learn.no_logging():
        if schedule == 'constant': learn.fit(1, lr)
        elif 'Adam' in opt or 'momentum' in opt: learn.fit_one_cycle(1, 2*lr)
        else: learn.fit_one_cycle(1, lr, moms=(0.,0.,0.))
    return model.weight.detach().numpy()[0]

blocks,start = [[0,1,2,3],[4,5],[6,7],[8,9]],np.linspace(-.5, .5, 10)
def ridge(alpha): return Ridge(alpha=alpha/2*len(x), fit_intercept=False).fit(x, y).coef_

references = {
    'lasso': (lambda: L1(.1), Lasso(alpha=.05, fit_intercept=False, tol=1e-12).fit(x, y).coef_),
    'ridge': (lambda: L2(.1), ridge(.1)),
    'elastic net': (lambda: ElasticNet(.05, .05), SkElasticNet(alpha=.05, l1_ratio=.5, fit_intercept=False, tol=1e-12).fit(x, y).coef_),
    'group lasso': (lambda: GroupLasso(.2, groups=blocks), CelerGroupLasso(groups=blocks, alpha=.1, fit_intercept=False, tol=1e-10, weights=np.ones(4)).fit(x, y).coef_),
    'non-negative lasso': (lambda: [L1(.1), NonNeg()], Lasso(alpha=.05, fit_intercept=False, tol=1e-12, positive=True).fit(x, y).coef_),
    'L2-SP': (lambda: L2SP(.1), np.linalg.solve(2*x.T@x/len(x) + .1*np.eye(10), 2*x.T@y/len(x) + .1*start)),
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
    got,want = coefficients(L1(.1), opt, init=[.1]*10 if opt == 'Larc' else None),references['lasso'][1]  # Larc cannot leave zero
    assert abs(got-want).max() < 1e-3
    assert ((got==0) == (want==0)).all()

def test_l1_max():
    "The least strength that makes every weight zero is the largest gradient at zero"
    top = float(2*abs(x.T@y).max()/len(x))
    assert abs(top-1.1729) < 1e-4
    assert (coefficients(L1(1.001*top), 'Adam') == 0).all() and (coefficients(L1(.99*top), 'Adam') != 0).sum() == 1
