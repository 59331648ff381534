"Every regularizer survives a kill: resumed from `SaveModelCallback(every_epoch=True)`, it ends as if nothing had been"
import random
from functools import partial

import pytest, torch
import fastai.callback.progress  # noqa: F401  gives a learner `no_bar`
from fastai.callback.core import Callback
from fastai.callback.schedule import ParamScheduler, SchedLin
from fastai.callback.tracker import SaveModelCallback
from fastai.optimizer import OptimWrapper, SGD
from fastai.torch_core import set_seed

from fastai_ext.callbacks import callback_examples
from fastai_ext.contract.compare import weights_of
from fastai_ext.contract.harness import contract_learner
from fastai_ext.regularize.consistency import LossTerm
from fastai_ext.regularize.constraint import MaxNorm
from fastai_ext.regularize.sharpness import SAM
from fastai_ext.regularize.strength import Tunable

examples = {n: a for n,a in callback_examples.items() if a['cb']().__module__.startswith('fastai_ext.regularize')}
optimizers = {'native': partial(SGD, mom=.9), 'wrapped': partial(OptimWrapper, opt=torch.optim.AdamW)}

class Killed(Exception): pass
class Kill(Callback):
    "End the process, as far as the learner can tell: no event follows"
    order = 70
    def __call__(self, event_name):
        if event_name=='after_backward' and (self.learn.epoch,self.learn.iter)==(2,1): raise Killed

class Reseed(Callback):
    "What is random in an epoch depends on its number alone, so that a resumed fit can be compared"
    def before_epoch(self):
        set_seed(100+self.epoch)
        self.learn.dls.train.rng = random.Random(100+self.epoch)

def scheduled(cb):
    "A schedule for each strength"
    if isinstance(cb, Tunable): keys = [cb.key(h) for h in cb.hypers]
    else: keys = [cb.label] if isinstance(cb, LossTerm) else ['rho'] if isinstance(cb, SAM) else []
    sched = SchedLin(1., .3) if isinstance(cb, MaxNorm) else SchedLin(.01, .05)
    return [ParamScheduler({k: sched for k in keys})] if keys else []

def learner(name, opt, path, *cbs, seed=0):
    set_seed(seed)
    cb = examples[name]['cb']()
    make = examples[name].get('learner', contract_learner)
    learn = make(cbs=[Reseed(), cb, *scheduled(cb), *cbs], path=path, opt_func=optimizers[opt])
    learn.recorder.add_time = False
    return learn

def fit(learn, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit(3, .02, **kwargs)
    return weights_of(learn, buffers=True)

@pytest.mark.parametrize('opt', optimizers)
@pytest.mark.parametrize('name', examples)
def test_killed_and_resumed(name, opt, tmp_path):
    whole = fit(learner(name, opt, tmp_path))
    killed = learner(name, opt, tmp_path, SaveModelCallback(every_epoch=True, with_opt=True), Kill())
    with pytest.raises(Killed): fit(killed)
    resumed = fit(learner(name, opt, tmp_path, seed=5).load('model_1'), start_epoch=2)
    assert whole.keys()==resumed.keys() and [n for n in whole if not torch.equal(whole[n], resumed[n])]==[]
