"""Every public callback keeps the promises of fastai_ext.contract.check; the battery itself is fair, and says what it
sees"""
import random, subprocess, sys, threading, time
from functools import partial
from pathlib import Path

import numpy as np, pytest, torch
from torch import nn
from fastai.callback.core import Callback, FetchPredsCallback
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.callback.schedule import ParamScheduler, SchedCos
from fastai.callback.tracker import EarlyStoppingCallback
from fastai.data.core import DataLoaders
from fastai.learner import Learner, Recorder
from fastai.optimizer import OptimWrapper
from fastai.torch_core import set_seed

from contract_learners import ordinary, regression, two_parts
from fastai_ext.callbacks import callback_examples, callback_order, check_all, dropout_learner, public_callbacks
from fastai_ext.contract.check import ContractError, check_callback, check_callbacks, parametrize_with_checks
from fastai_ext.contract.compare import bytes_in, differ, state_of, unlike
from fastai_ext.contract.harness import NotOwed, SynthItems, contract_learner, promise, promises

def test_every_public_callback_is_registered():
    registered = {type(a['cb']()).__name__ for a in callback_examples.values()}
    assert {c.__name__ for c in public_callbacks()} == registered, 'add it to nbs/callbacks.ipynb'

def about_strength(example):
    "The promises that a registered strength makes owed, so that none of them may be passed over"
    if 'strength' not in example: return ()
    masked = 'learner' in example or 'skip' in example  # masks make four small batches another thing than a large one
    return ('strength0','losses') if masked else ('strength0','losses','accumulation_exact')

@parametrize_with_checks(callback_examples, skip='ddp')
def test_promises(callback, check):
    try: check(callback)
    except pytest.skip.Exception as e:
        assert check.name not in about_strength(callback_examples[callback.name]), e
        raise
    advice = 'nothing is seen of it: give the row in nbs/callbacks.ipynb arguments or a learner with which it acts'
    if check.name=='runs': assert callback.acted, advice

def wrapped_learner(**kwargs):
    "`contract_learner` with an optimizer of torch's"
    return contract_learner(opt_func=partial(OptimWrapper, opt=partial(torch.optim.SGD, momentum=.9)), **kwargs)

def wrapped_dropout_learner(**kwargs):
    "`dropout_learner` with an optimizer of torch's"
    return dropout_learner(opt_func=partial(OptimWrapper, opt=partial(torch.optim.SGD, momentum=.9)), **kwargs)

def wrapped(name, example):
    "The example on a learner with an optimizer of torch's"
    skip = dict(example.get('skip', {}))
    if name=='WeightDecay':
        skip['clipping'] = "torch's SGD decays behind the clipping, and it decays as the optimizer does"
    return {**example, 'learner': wrapped_dropout_learner if 'learner' in example else wrapped_learner, 'skip': skip}

at_the_optimizer = ('runs','freeze','strength0','optimizer','save_load','accumulation','clipping','mixed_precision',
                    'cancelled_step')

@parametrize_with_checks({n: wrapped(n, a) for n,a in callback_examples.items()}, only=at_the_optimizer)
def test_promises_with_an_optimizer_of_torch(callback, check): check(callback)

def test_two_processes(): check_all(only='ddp', on_fail='raise')

def test_what_two_processes_made_is_judged():
    "An error goes before another's waiting for it; weights, then the class of the model"
    from fastai_ext.contract.ddp import verdict
    def rank(weight, model='Sequential'): return dict(weights={'w': torch.tensor([weight])}, model=model)
    good = [rank(1.), rank(1.)]
    assert verdict(good, [rank(2.), rank(2.)]) is None
    waits,raised = 'RuntimeError: [gloo] timed out','ValueError: no such weight'
    assert str(verdict(good, [waits, raised])) == 'rank 1 raised ValueError: no such weight'
    alone = verdict([rank(1.), raised], good)
    assert isinstance(alone, NotOwed) and 'does not train on two processes without the callback' in str(alone)
    assert "end with different weights: 'w' differs by 1" in str(verdict(good, [rank(1.), rank(2.)]))
    left = str(verdict(good, [rank(1., 'Replica'), rank(1.)]))
    assert left == 'after the fit the model is a Replica instead of a Sequential'

def test_what_cannot_be_sent_to_another_process_is_not_owed():
    "A lock, for example; nothing is started for it"
    from fastai_ext.contract.ddp import run_ranks
    from fastai_ext.contract.subject import Subject
    lock = threading.Lock()
    def locked():
        assert not lock.locked()
        return Nothing()
    found = run_ranks({'locked': Subject(locked)})['locked']
    assert isinstance(found, NotOwed) and 'cannot be sent to another process: TypeError' in str(found)

def test_processes_that_say_nothing_are_not_waited_for(tmp_path):
    from fastai_ext.contract.ddp import _wait
    def start(code): return subprocess.Popen([sys.executable, '-S', '-c', code])
    silent = [start('import time; time.sleep(60)') for _ in range(2)]
    try: assert _wait(silent, tmp_path, .3)
    finally:
        for p in silent: p.kill(), p.wait()
    ranks = [start('import time; time.sleep(60)'), start('raise SystemExit(3)')]
    try: assert not _wait(ranks, tmp_path, 60), 'the other is not waited for where one has failed'
    finally:
        for p in ranks: p.kill(), p.wait()

# a callback that does nothing is blamed for nothing, whatever the learner does by itself

class Nothing(Callback): pass

by_request = {'strength0', 'rng', 'accumulation_exact', 'losses'}

def lstm_in_bfloat16():
    "Whether this processor has a recurrent layer in half precision: not all have"
    lstm = torch.nn.LSTM(8, 12, 2)
    try:
        with torch.autocast('cpu', dtype=torch.bfloat16): return bool(lstm(torch.randn(3,2,8))[0].isfinite().all())
    except RuntimeError: return False

own_faults = dict(  # what the learner itself does not keep, or what there is nothing to judge of
    torch_loaders={'get_preds', 'export'}, with_mixup={'interrupted'}, with_save_model={'cancelled'},
    with_early_stopping={'cancelled'},
    with_accumulation={'freeze', 'accumulation', 'lr_find', 'optimizer'},
    mixed_precision={'mixed_precision', 'cancelled_step', 'export', 'cancelled'}, tabular={'freeze'},
    text={'export'} | (set() if lstm_in_bfloat16() else {'mixed_precision'}),
    several_inputs={'export'}, multi_label={'export'}, regression={'export', 'freeze'}, collab={'freeze'},
)

@pytest.mark.parametrize('make', [contract_learner, *ordinary], ids=lambda f: f.__name__)
def test_nothing_is_blamed_for_nothing(make):
    report = check_callback(Nothing, learner=make, skip='ddp', on_fail='report')
    assert not report.broken and report.acted is False and 'did not act' in repr(report)
    assert set(report.not_owed) - by_request == own_faults.get(make.__name__, set()), report

class Frost(Callback):
    "Pulls every weight that has a gradient towards zero, frozen or not"
    order = 10.5
    def before_step(self):
        for p in self.opt.all_params().itemgot(0):
            if p.grad is not None: p.grad.add_(p.data, alpha=.1)

class Prox(Callback):
    def after_step(self):
        for p in self.model.parameters(): p.data.mul_(.99)

with_groups = [f for f in ordinary if 'freeze' not in own_faults.get(f.__name__, ())]

@pytest.mark.parametrize('make', with_groups, ids=lambda f: f.__name__)
def test_a_fault_is_found_on_every_learner(make):
    report = check_callback(Prox, learner=make, only='freeze', on_fail='report')
    assert report.broken==['freeze'] and 'was frozen but changed' in report['freeze'].why

@pytest.mark.parametrize('cb', [GradientClip(.1), lambda: ParamScheduler({'lr': SchedCos(.05, .01)})],
                         ids=['GradientClip', 'ParamScheduler'])
def test_no_false_alarm(cb):
    report = check_callback(cb, skip='ddp', on_fail='report')
    assert report.ok and report.acted, report

def test_a_learner_that_cannot_train_is_said_once():
    def only_training():
        learn = contract_learner()
        learn.dls = DataLoaders(learn.dls.train)
        return learn
    report = check_callback(Nothing, learner=only_training, on_fail='report')
    assert [r.name for r in report.rows]==['runs'] and not report.broken and not report.ok
    assert 'does not train without the callback: IndexError' in repr(report)
    with pytest.raises(ContractError, match='Nothing could not be judged: the learner does not train'):
        check_callback(Nothing, only_training)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    same = lambda: Learner(regression().dls, model, nn.MSELoss())
    assert 'the same model again' in check_callback(Nothing, same, on_fail='report').unfit

def test_a_callback_that_breaks_a_fit_is_said_once():
    class Bad(Callback):
        def before_fit(self): raise ValueError('no\nfit')
    report = check_callback(Bad, on_fail='report')
    assert [r.name for r in report.rows]==['runs'] and report.broken==['runs']
    assert report['runs'].why.startswith('raised ValueError') and 'no fit' in report['runs'].why

# seeded faults: each is found, in words that name its cause

class KeepsBatch(Callback):
    def after_batch(self): self.last = self.x
class Swallows(Callback):
    def before_fit(self):
        one_batch = self.learn._do_one_batch
        def careful():
            try: one_batch()
            except (RuntimeError, KeyboardInterrupt): pass
        self.learn._do_one_batch = careful
    def after_fit(self): del self.learn._do_one_batch
class KeepsGraphs(Callback):
    def before_fit(self): self.losses = []
    def after_loss(self): self.losses.append(self.loss)
    def after_fit(self): self.losses = []
class KeepsPreds(Callback):
    def before_fit(self): self.seen = []
    def after_pred(self): self.seen.append(self.x.numpy().copy())
    def after_fit(self): self.seen = []
class LeavesHyper(Callback):
    def before_fit(self):
        if self.opt: self.opt.set_hyper('mom', .5)
class UnknownHyper(Callback):
    def before_fit(self):
        if self.opt: self.opt.set_hyper('where', Path('here'))
class InPlace(Callback):
    def before_batch(self): self.x.mul_(.99)
class Remembers(Callback):
    def __init__(self): self.steps = 0
    def before_step(self):
        self.steps += 1
        for p in self.model.parameters(): p.grad.mul_(min(self.steps/5, 1))
class WritesHere(Callback):
    def after_epoch(self): Path('log.txt').write_text('done')
class TooEarly(Callback):
    def before_step(self):
        for p in self.model.parameters(): p.grad.add_(p.data, alpha=.1)
class BehindClip(Callback):
    order = 20
    def before_step(self):
        for p in self.model.parameters(): p.grad.add_(p.data)
class InLoss(Callback):
    order = 20
    def after_loss(self):
        if self.training:
            self.learn.loss_grad = self.loss_grad + .1*sum(p.square().sum() for p in self.model.parameters())
class InValid(Callback):
    def after_loss(self): self.learn.loss = self.loss + 1
class Hook(Callback):
    def before_fit(self): self.h = self.model[0].register_forward_hook(lambda m,i,o: o)
    def after_fit(self): self.h.remove()
class SwapsLoss(Callback):
    def before_epoch(self): self.old,self.learn.loss_func = self.learn.loss_func,nn.CrossEntropyLoss(label_smoothing=.1)
    def after_epoch(self): self.learn.loss_func = self.old
class Typo(Callback):
    def before_bacth(self): pass
class Hides(Callback):
    def before_fit(self): self.lr = 1.
class WithLambda(Callback):
    def __init__(self): self.f = lambda x: x
class AddsColumns(Callback):
    def before_fit(self): self.learn.metrics = self.learn.metrics + [lambda p,y: p.mean()]
class Draws(Callback):
    def before_batch(self): torch.rand(1)
class Anomaly(Callback):
    def before_fit(self): torch.autograd.set_detect_anomaly(True)
class AllGrads(Callback):
    def before_step(self): self.norm = sum(p.grad.norm().item() for p in self.learn.model.parameters())
class Steps(Callback):
    def after_backward(self): self.opt.step()
class AtLeast(Callback):
    def __init__(self, rate=.1): self.rate = rate
    def __repr__(self): return f'AtLeast({self.rate})'
    def before_step(self):
        for p in self.model.parameters(): p.grad.add_(p.data, alpha=max(self.rate, .01))

class CountsFits(Callback):
    def __init__(self): self.n = 0
    def before_fit(self): self.n += 1
class LateLoss(CountsFits):
    def after_epoch(self): self.recorder.losses[-1] += self.n
class ShrinksAfterFit(Callback):
    order = 1000
    def after_fit(self):
        for p in self.model.parameters(): p.data.mul_(.9)
class SetsHyperInValid(Callback):
    def after_validate(self):
        if self.opt: self.opt.set_hyper('mom', .5)
class FreezesInValid(Callback):
    def after_validate(self): self.model[0].requires_grad_(False)
class WiderPreds(Callback):
    def after_pred(self):
        if not self.training: self.learn.pred = torch.cat([self.pred, self.pred[:, :1]], 1)
class CountsValid(Callback):
    def __init__(self): self.k = 1
    def before_fit(self): self.k = 1
    def before_validate(self): self.k += 1
    def before_step(self):
        for p in self.model.parameters(): p.grad.mul_(1/self.k)
class Leaves(Callback):
    def after_fit(self): self.learn.remove_cb(self)
class PicklesLess(Callback):
    def __init__(self): self.begun = False
    def __getstate__(self): return {**vars(self), 'begun': False}
class StartsOver(PicklesLess):
    def before_train(self):
        if not self.begun:
            for p in self.model.parameters(): p.data.mul_(.5)
        self.begun = True
class PredictsOtherwise(PicklesLess):
    def before_train(self): self.begun = True
    def after_pred(self):
        if self.begun and not self.training: self.learn.pred = self.pred*2
class SameRepr(Callback):
    def __init__(self, rate=.1): self.rate = rate
class Summary(Callback): name = 'summary'
class OddOrder(Callback):
    order = True
class LeavesHooks(Callback):
    def before_fit(self): self.model[0].register_forward_hook(lambda m,i,o: o)
class Unfreezes(Callback):
    def before_fit(self): self.model.requires_grad_(True)
    def before_step(self):
        for p in self.model[0].parameters(): p.grad = None
class Inert(Callback):
    def __init__(self, rate=.1): self.rate = rate

seeded = [
    (CountsFits, 'lr_find', 'lr_find on a new learner: its own state is another after the next fit: n is 2'),
    (LateLoss, 'lr_find', 'lr_find on a new learner: the fit after it has other losses'),
    (ShrinksAfterFit, 'lr_find', 'lr_find on a new learner: '),
    (SetsHyperInValid, 'validate', 'with an optimizer: the optimizer'),
    (AddsColumns, 'lr_find', 'learn.metrics had 1 entries, now 2'),
    (WiderPreds, 'get_preds', 'output 0 has the shape (24, 4), without the callback (24, 3)'),
    (CountsValid, 'get_preds', 'a fit that fetches predictions after each epoch ends elsewhere'),
    (Leaves, 'export', 'the loaded learner has no such callback'),
    (PredictsOtherwise, 'export', 'the loaded learner predicts otherwise, by '),
    (StartsOver, 'export', 'a fit of the loaded learner with lr=0 changes weights, in the first learner not'),
    (dict(cb=SameRepr, strength='rate'), 'repr', 'whatever rate is: arguments that matter should show'),
    (Summary, 'events', "its name is 'summary': in a learner it replaces `learn.summary`"),
    (OddOrder, 'events', 'its order is True, not a number'),
    (LeavesHooks, 'fit_twice', '1 more hooks on the model after the second fit than after the first'),
    (LateLoss, 'second_fit', 'with a fresh callback the second fit records other losses'),
    (FreezesInValid, 'fine_tune', "after fine_tune '0.0.bias' requires no gradient, unlike without it"),
    (Unfreezes, 'freeze', "was frozen, after the fit it requires a gradient"),
    (dict(cb=Inert, strength='rate'), 'strength0', 'with rate=0.1 it trains as without it: nothing is applied'),
    (KeepsBatch, 'export', 'largest attribute is last'),
    (Swallows, 'errors_pass', 'Ctrl-C in after_pred of training is swallowed'),
    (KeepsGraphs, 'memory', 'keeps its graph alive, 16 in 8 batches: its attribute losses grows'),
    (KeepsPreds, 'memory', 'kB with every batch: its attribute seen grows'),
    (LeavesHyper, 'nothing_left', 'in the optimizer, mom of parameter group 0 is 0.5 instead of 0.9'),
    (LeavesHyper, 'optimizer', 'in the optimizer, mom of parameter group 0 is 0.5 instead of 0.9'),
    (UnknownHyper, 'save_load', "the optimizer's hyper-parameter where is "),
    (InPlace, 'batch', 'it writes into xb[0], the training data itself'),
    (Remembers, 'second_fit', 'from the first fit it keeps steps'),
    (WritesHere, 'folder', "it writes 'log.txt' into the working folder"),
    (Frost, 'freeze', 'was frozen but changed by'),
    (TooEarly, 'mixed_precision', 'with a loss scale of 65536'),
    (BehindClip, 'clipping', 'reach the optimizer behind GradientClip'),
    (dict(cb=InLoss, owes='accumulation_exact'), 'accumulation_exact', 'its share is multiplied or lost'),
    (InValid, 'validate', 'output 0 differs from that without the callback by 1'),
    (Hook, 'interrupted', 'hooks on the model is 1 instead of 0'),
    (SwapsLoss, 'cancelled', 'learn.loss_func is'),
    (Typo, 'events', '`before_bacth` is no event and is never called; there is `before_batch`'),
    (Hides, 'events', 'its attribute lr hides `learn.lr`'),
    (WithLambda, 'pickle', 'it cannot be pickled'),
    (AddsColumns, 'fit_twice', 'after the second fit they are'),
    (dict(cb=Draws, owes='rng'), 'rng', "torch's"),
    (Prox, 'cancelled_step', 'the step was cancelled, yet'),
    (Anomaly, 'nothing_left', "torch's anomaly mode is 'True' instead of 'False'"),
    (AllGrads, 'fine_tune', "'NoneType' object has no attribute 'norm'"),
    (Steps, 'accumulation', 'optimizer steps with GradientAccumulation(32), without the callback'),
    (dict(cb=AtLeast, strength='rate'), 'strength0', 'rate=0: '),
]

def _fault_id(o): return (o['cb'] if isinstance(o, dict) else o).__name__ if not isinstance(o, str) else None

@pytest.mark.parametrize('cb,name,words', seeded, ids=lambda o: _fault_id(o) or ('' if ' ' in o else o))
def test_seeded_fault_is_named(cb, name, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # for the one that writes into it
    report = check_callback(**(cb if isinstance(cb, dict) else dict(cb=cb)), only=name, on_fail='report')
    assert report.broken==[name] and words in report[name].why, report

def test_known_faults_of_fastai_are_found():
    def why(cb, name, limit=None): return check_callback(cb, only=name, on_fail='report', limit=limit)[name].why
    assert 'get_preds differs' in why(MixUp, 'interrupted')
    assert 'was frozen but changed' in why(GradientAccumulation, 'freeze')
    assert 'list index out of range' in why(EarlyStoppingCallback(patience=9), 'cancelled')
    assert 'writes into xb[0]' in why(CutMix, 'batch')
    assert why(FetchPredsCallback, 'validate', 4) == 'no end after 4 s'

def test_what_is_allowed_passes_and_the_rest_does_not():
    class Leaves(Callback):
        def after_fit(self): self.learn.first,self.learn.second = 1,2
    def _check(**kwargs): return check_callback(Leaves, only='nothing_left', on_fail='report', **kwargs)['nothing_left']
    assert 'learn.first' in _check().why
    one = _check(allow={'nothing_left': 'learn.first'})
    assert one.verdict=='broken' and 'learn.second' in one.why
    both = _check(allow={'nothing_left': ['learn.first', 'learn.second', 'learn.third']})
    assert both.verdict=='kept' and 'allowed: after a fit, learn.first' in both.why
    assert 'allowed, but not seen: learn.third' in both.why

def test_advice_is_no_fault():
    class Needy(Callback):
        def __init__(self, n): self.n = n
    report = check_callback(lambda: Needy(1), only='construct')
    assert report.ok and report.advice==['construct'] and 'needs n' in report['construct'].why

# the callback may come as an instance, a class or a function, with a learner of its own

class Dampen(Callback):
    "Multiply gradients by `1-rate` where they are trained"
    order = 10.5
    def __init__(self, rate=.1): self.rate = rate
    def before_step(self):
        for p in self.opt.all_params().itemgot(0):
            if p.requires_grad and p.grad is not None: p.grad.mul_(1-self.rate)

ways = {'class': Dampen, 'instance': Dampen(.2), 'function': lambda rate=.3: Dampen(rate),
        'list': lambda: [GradientClip(), Dampen()],
        'partial': partial(Dampen, .2)}

@pytest.mark.parametrize('cb', ways.values(), ids=ways)
def test_ways_to_give_a_callback(cb):
    report = check_callback(cb, only=['construct','fit_twice','strength0','freeze'], strength='rate')
    assert report.title=='Dampen' and len(report.kept)==4

def test_an_instance_keeps_its_other_arguments():
    "Made again with strength 0, all else is as it was"
    from fastai_ext.contract.subject import Subject
    cb = callback_examples['L1']['cb'].func(1e-3, only='1.*')
    again = Subject(cb, strength='l1').make(l1=0)[-1]
    assert again.only=='1.*' and again.l1==0

def test_a_callback_that_draws_when_made_is_seeded():
    class Random(Callback):
        def __init__(self): self.noise = torch.rand(3)
        def before_step(self): self.model[1][3].weight.grad[:, :3].add_(self.noise, alpha=.01)
    assert check_callback(Random, skip=['ddp','freeze','mixed_precision','pickle']).ok

def test_own_learner():
    def two_groups():
        learn = regression()
        learn.splitter = two_parts
        return learn
    report = check_callback(Dampen, learner=two_groups, skip='ddp', on_fail='report')
    assert report.ok, report.broken.map(lambda n: report[n])
    assert 'freeze' in report.kept and 'export' in report.not_owed  # a list of items has no `new_empty`
    assert 'does not keep it without the callback: raised AttributeError' in report['export'].why

def test_the_callback_given_is_left_alone():
    cb,learn = Dampen(.2),regression()
    learn.add_cb(cb)
    before = dict(vars(cb))
    check_callback(cb, only=['fit_twice','pickle'])
    assert dict(vars(cb))==before and cb.learn is learn

def test_the_process_is_left_alone():
    from fastai_ext.contract.quiet import torch_flags
    class Messy(Callback):
        def before_fit(self):
            torch.set_grad_enabled(True)
            torch.set_default_dtype(torch.float32)
            torch.autograd.set_detect_anomaly(True)
            torch.use_deterministic_algorithms(True)
            torch.set_num_threads(2)
    set_seed(3)
    want = torch.rand(3)
    set_seed(3)
    flags,folder = torch_flags(),Path.cwd()
    check_callback(Dampen, only=['repr','fit_twice','get_preds'])
    check_callback(Messy, only=['fit_twice','folder'])
    assert torch.equal(torch.rand(3), want) and torch_flags()==flags and Path.cwd()==folder

def test_a_check_that_hangs_is_ended():
    class Waits(Callback):
        def after_validate(self):
            if not getattr(self.learn, 'epoch', None) and not self.learn.recorder.losses: time.sleep(60)
    report = check_callback(Waits, only=['validate','repr'], on_fail='report', limit=4)
    assert report['validate'].why=='no end after 4 s' and report.kept==['repr']

# bad input: one clear line each

def test_wrong_arguments():
    with pytest.raises(ValueError, match="only= names no promise 'reprr'; did you mean 'repr'"):
        check_callback(Dampen, only='reprr')
    with pytest.raises(ValueError, match="owes= names no promise 'spelling'"): check_callback(Dampen, owes='spelling')
    with pytest.raises(ValueError, match="allow= names no promise 'freez'; did you mean 'freeze'"):
        check_callback(Dampen, allow={'freez': 'x'})
    with pytest.raises(ValueError, match='on_fail'): check_callback(Dampen, on_fail='ignore')
    with pytest.raises(ValueError, match=r"Dampen has no argument 'rat' \(`strength=`\); it takes rate"):
        check_callback(Dampen, strength='rat')
    with pytest.raises(TypeError, match='not a fastai Callback'): check_callback(int)
    with pytest.raises(TypeError, match='learner= is a Learner; give a function that makes a new Learner'):
        check_callback(Dampen, contract_learner())
    with pytest.raises(ValueError, match="two callbacks are called 'Dampen'; give a dict"):
        check_callbacks([lambda: Dampen(.1), lambda: Dampen(.2)])

def test_functions_are_called_by_what_they_make():
    assert list(check_callbacks([lambda: Dampen(), lambda: GradientClip()], only='repr'))==['Dampen', 'GradientClip']

# where two values differ, in words

def test_weights_that_differ_are_named():
    a,b = torch.ones(3),torch.zeros(3)
    def said(want, got, **kwargs): return differ(want, got, **kwargs)
    assert said(dict(a=a), dict(a=a.clone())) is None and said(dict(a=a), dict(a=a+1e-9), tol=1e-6) is None
    assert said(dict(a=a), dict(b=a)) == "the parameters are others: ['a', 'b']"
    assert said(dict(a=a, b=b), dict(b=b, a=a)) == 'the parameters are others: in another order'
    assert said(dict(a=a), dict(a=torch.ones(2))) == "'a' has the shape (2,) instead of (3,)"
    assert said(dict(a=a), dict(a=a*float('nan'))) == "'a' is not finite"
    assert said(dict(a=a, b=b), dict(a=a*1.5, b=b+1)) == "'b' differs by 1", 'the worst for its size'
    n = torch.tensor(1)
    assert said(dict(a=a, n=n), dict(a=a+.5, n=n+5)) == "'a' differs by 0.5", 'a counter comes last'

def test_values_of_any_kind_that_differ_are_named():
    nan,gen = float('nan'),torch.Generator().manual_seed(0)
    moved = torch.Generator().manual_seed(0)
    torch.rand(1, generator=moved)
    class Box:
        def __init__(self, o): self.o = o
    same = [(nan,nan), (torch.tensor([nan,1]),torch.tensor([nan,1])), ([1,(2,)],[1,(2,)]), (len,len),
            (nn.Linear(2,2),)*2, (Box({'k':1}),Box({'k':1})), (np.ones(2),np.ones(2)),
            (random.Random(1),random.Random(1))]
    for a,b in same: assert unlike(a, b, 'x') is None, a
    for a,b,said in ((1, '1', "x is '1' instead of 1"), (1., nan, 'x is nan instead of 1.0'),
                     (torch.tensor([1.]), torch.tensor([2.]), 'x differs (2.0 instead of 1.0)'),
                     (np.ones(2), np.zeros(2), 'x differs'), ([1,2], [1], 'x has 1 items instead of 2'),
                     ([1,[2]], [1,[3]], 'x[1][0] is 3 instead of 2'),
                     (dict(a=1), dict(b=1), "x has also ['b'] and no more ['a']"),
                     (gen, moved, 'x, a random generator, is at another place'),
                     (random.Random(1), random.Random(2), 'x, a random generator, is at another place'),
                     (nn.Linear(2,2), nn.Linear(2,2), 'x.weight differs'), (Box(1), Box(2), 'x.o is 2 instead of 1')):
        assert unlike(a, b, 'x') == said

def test_what_a_callback_holds_is_counted_and_copied_where_it_can_be():
    class Holds(Callback):
        _stateattrs = ('secret',)
        def __init__(self): self.file,self.secret,self.numbers = threading.Lock(),1,[torch.ones(3)]
    cb = Holds()
    state = state_of(cb)
    assert state['file'] is type(cb.file) and 'secret' not in state and 'learn' not in state
    cb.numbers[0] += 1
    assert state['numbers'][0].tolist() == [1,1,1]
    graph = torch.ones(4, requires_grad=True)*2
    assert bytes_in([graph, {'k':np.ones(2)}, {7}, 'text', cb]) == (16+16+8+12+8, 1)
    assert bytes_in([graph, graph]) == (16, 1), 'once'

# pytest's decorator

pytest_plugins = ['pytester']

def test_parametrize(pytester):
    pytester.makepyfile("""
        from fastai.callback.core import Callback
        from fastai_ext.contract.check import parametrize_with_checks
        class Bad(Callback):
            def __repr__(self): return ''
        class Worse(Callback):
            def before_fit(self): raise ValueError
        @parametrize_with_checks([Bad, Worse], only=['runs', 'repr', 'losses', 'events'])
        def test_callbacks(callback, check): check(callback)
        """)
    result = pytester.runpytest_inprocess('-rA', '-p', 'no:cacheprovider', '-p', 'no:cov')
    result.assert_outcomes(failed=2, passed=2, skipped=2)
    outcome = result.stdout.str()
    assert 'test_callbacks[Bad-repr]' in outcome and 'Bad breaks 1 of 1 promises' in outcome
    assert 'FAILED test_parametrize.py::test_callbacks[Worse-runs]' in outcome and '-losses]' not in outcome

# the report

def test_report_and_error():
    class Odd(Callback):
        def __repr__(self): return ''
    report = check_callback(Odd, only=['repr','construct'], on_fail='report')
    assert report.broken==['repr'] and report.kept==['construct'] and not report.ok
    assert 'broken' in repr(report) and '<table' in report._repr_html_() and 'repr before' in report['repr'].why
    with pytest.raises(ContractError, match='Odd breaks 1 of 2 promises:\n- repr: ') as e:
        check_callback(Odd, only=['repr','construct'])
    assert e.value.report.broken==['repr']
    with pytest.raises(ContractError): check_callbacks([GradientClip, Odd], only='repr')
    both = check_callbacks({'a': GradientClip, 'b': Odd}, only='repr', on_fail='report')
    assert both.broken=={'b': ['repr']} and not both.ok
    assert 'a: 1 kept' in repr(both) and '<td>repr</td>' in both._repr_html_()
    with pytest.raises(KeyError, match="'freeze' was not judged; the report has repr"): both['b']['freeze']

def test_skipping():
    report = check_callback(Dampen, only=['repr','construct'], skip={'construct': 'made by a factory'})
    assert report.not_owed==['construct'] and report['construct'].why=='made by a factory'
    assert [r.name for r in check_callback(Dampen, only=['repr','construct'], skip='construct').rows]==['repr']

def test_own_promise():
    @promise("It has a doc")
    def documented_(s):
        if not s.cls.__doc__: s.broken(f"{s.cls.__name__} has no docstring")
    try:
        class Mute(Callback): pass
        assert check_callback(Dampen, only='documented').kept==['documented']
        assert check_callback(Mute, only='documented', on_fail='report')['documented'].why=='Mute has no docstring'
    finally: del promises['documented']

# the order page

def test_order_is_that_of_a_learner():
    from fastai_ext.callbacks import events
    def _has(cb, e): return callable(getattr(type(cb), e, None))
    learn = dropout_learner(cbs=[a['cb']() for n,a in callback_examples.items()
                                 if not n.endswith('_grad')] + [GradientClip(), GradientAccumulation()])
    mine = {type(cb).__name__ for cb in learn.cbs}
    order = callback_order()
    for e in events:
        got = [(cb.order, type(cb).__name__) for cb in learn.ordered_cbs(e) if _has(cb, e)]
        want = [(o,n) for o,n in order[e] if n in mine]
        assert sorted(got)==sorted(want) and [o for o,_ in got]==[o for o,_ in want]
    assert '<b>L1</b>' in order._repr_html_() and 'before_step' in repr(order)
    assert not any(n=='L1' for _,n in callback_order(ours=False)['before_step'])

# what is spawned is picklable

def test_trains_with_a_spawned_worker():
    "As on Windows and macOS: a worker is started afresh and gets the data by pickle"
    from torch.utils.data import DataLoader as TorchLoader
    learn = dropout_learner()
    train = TorchLoader(SynthItems(48), batch_size=16, num_workers=1, multiprocessing_context='spawn', timeout=90)
    learn.dls = DataLoaders(train, learn.dls.valid)
    # EMA, SAM and two of one label refuse company; MuP wants a wider network
    rivals = ('SWA','ASAM','L1_grad','GroupLasso_grad','MuP')
    learn.add_cbs([a['cb']() for n,a in callback_examples.items() if n not in rivals])
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert len(learn.recorder.losses)==3 and learn.recorder.values[-1][0] > 0
    assert isinstance(learn.recorder, Recorder)
