"EMA and SWA against torch's AveragedModel; killed and resumed, interrupted, swapped, saved and exported"
import warnings
from functools import partial

import pytest, torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
import fastai.callback.progress  # noqa: F401  gives a learner `no_bar`
from fastai.callback.core import Callback, CancelFitException, CancelStepException
from fastai.callback.tracker import SaveModelCallback
from fastai.callback.training import GradientAccumulation
from fastai.data.core import DataLoaders
from fastai.learner import Learner, SkipToEpoch, load_learner
from fastai.losses import MSELossFlat
from fastai.optimizer import Adam, OptimWrapper, SGD
from fastai.torch_core import set_seed

from fastai_ext.contract.compare import weights_of
from fastai_ext.contract.harness import contract_learner, fit as fit_
from fastai_ext.contract.steps import CPUMixedPrecision, Overflow
from fastai_ext.keep.checkpoint import in_fit, resumes
from fastai_ext.regularize.average import Averages, EMA, SWA
from fastai_ext.regularize.constraint import MaxNorm

optimizers = {'SGD': partial(SGD, mom=.9), 'Adam': Adam, 'torch AdamW': partial(OptimWrapper, opt=torch.optim.AdamW)}

def learner(*cbs, path, seed=0, **kwargs):
    set_seed(seed)
    learn = contract_learner(cbs=cbs, path=path, **kwargs)
    learn.recorder.add_time = False
    return learn

def fit(learn, *args, **kwargs):
    with learn.no_bar(), learn.no_logging(): fit_(learn, *args, **kwargs)
    return learn

def same(a, b): return a.keys()==b.keys() and all(torch.equal(a[k], b[k]) for k in a)

class Mirror(Callback):
    "torch's average, fed in the same steps"
    order = 40
    def __init__(self, each_epoch=False, **how): self.how,self.each_epoch = how,each_epoch
    def before_fit(self):
        if not self.learn.lock.locked(): self.twin = AveragedModel(self.learn.model, use_buffers=True, **self.how)
    def after_step(self):
        if not self.each_epoch: self.twin.update_parameters(self.learn.model)
    def after_train(self):
        if self.each_epoch: self.twin.update_parameters(self.learn.model)

def close_to_twin(learn):
    twin = dict(learn.mirror.twin.module.state_dict())
    for n,t in learn.model.state_dict().items():
        if t.is_floating_point(): torch.testing.assert_close(t, twin[n], rtol=1e-5, atol=1e-6)

@pytest.mark.parametrize('opt', optimizers)
def test_ema_is_torchs(opt, tmp_path):
    mirror = Mirror(multi_avg_fn=get_ema_multi_avg_fn(.9))
    learn = fit(learner(EMA(.9, warmup=False), mirror, path=tmp_path, opt_func=optimizers[opt]), 2)
    close_to_twin(learn)
    raw = fit(learner(path=tmp_path, opt_func=optimizers[opt]), 2)
    assert not torch.allclose(raw.model[0][1].running_mean, learn.model[0][1].running_mean)  # BatchNorm is averaged,
    assert torch.equal(raw.model[0][1].num_batches_tracked, learn.model[0][1].num_batches_tracked)  # its counter is not
    assert raw.recorder.losses == learn.recorder.losses

def test_swa_is_torchs(tmp_path):
    learn = fit(learner(SWA(start=.5, update_bn=False), path=tmp_path), 4)
    twin = learner(Mirror(each_epoch=True, avg_fn=lambda a, w, n: a + (w-a)/(n+1)), path=tmp_path)
    twin.mirror.after_train = lambda: twin.epoch >= 1 and twin.mirror.twin.update_parameters(twin.model)
    fit(twin, 4)
    learn.mirror = twin.mirror
    assert int(twin.mirror.twin.n_averaged)==3
    close_to_twin(learn)

def test_swa_measures_batchnorm_as_torch_does(tmp_path):
    learn = learner(SWA(start=.5), path=tmp_path)
    learn.model[1].insert(2, torch.nn.BatchNorm1d(96, track_running_stats=False))  # has none to measure
    learn.dls.loaders[0] = learn.dls.train.new(shuffle=False)
    fit(learn, 3)
    got,n = {k: v.clone() for k,v in learn.model.state_dict().items()},learn.model[0][1].num_batches_tracked.clone()
    update_bn(learn.dls.train, learn.model)
    for k,v in learn.model.state_dict().items():
        if v.is_floating_point(): torch.testing.assert_close(got[k], v)
    assert int(n)==3*len(learn.dls.train) and not any(m.training for m in learn.model.modules())

def test_swa_measures_a_model_of_two_inputs():
    "Batches are split as fastai splits them: the last part is the target"
    class Sum(torch.nn.Module):
        def __init__(self): super().__init__(); self.bn,self.lin = torch.nn.BatchNorm1d(3),torch.nn.Linear(3,1)
        def forward(self, a, b): return self.lin(self.bn(a+b))
    set_seed(0)
    batches = [(torch.randn(8,3), torch.randn(8,3), torch.randn(8,1)) for _ in range(2)]
    learn = Learner(DataLoaders(batches, batches), Sum(), MSELossFlat(), opt_func=SGD, cbs=SWA(0.))
    fit(learn, 2)
    want = torch.stack([(a+b).mean(0) for a,b,_ in batches]).mean(0)
    torch.testing.assert_close(learn.model.bn.running_mean, want)

def test_warmup_start_and_every(tmp_path):
    class See(Callback):
        order = 48
        def before_fit(self): self.seen = []
        def after_step(self): self.seen.append(self.learn.model[1][3].weight.detach().clone())
    for start,every in ((0.,1), (.5,1), (0.,3)):
        learn = fit(learner(EMA(.99, every, start), See(), path=tmp_path), 2)
        n,avg = len(learn.see.seen),None
        used = [w for i,w in enumerate(learn.see.seen) if i/n >= start-1e-9 and (i+1)%every==0]
        for i,w in enumerate(used): avg = w if i==0 else avg + (1-min(.99, (1+i)/(10+i)))*(w-avg)
        torch.testing.assert_close(learn.model[1][3].weight.detach(), avg)

# killed and resumed

class Killed(Exception): pass
class Kill(Callback):
    "End the process, as far as the learner can tell: no event follows"
    order = 70
    def __init__(self, epoch, at): self.when,self.at = epoch,at
    def __call__(self, event_name):
        if event_name==self.at and self.learn.epoch==self.when: raise Killed

class Reseed(Callback):
    "Let each epoch see the data in an order that depends on the epoch alone, so that a resumed fit can be compared"
    def before_epoch(self):
        set_seed(100+self.epoch)
        import random
        self.learn.dls.train.rng = random.Random(100+self.epoch)

averages = {'EMA': partial(EMA, .9), 'EMA late, every 3': partial(EMA, .9, 3, .3),
            'SWA': partial(SWA, .25), 'SWA by steps': partial(SWA, .2, 3, False)}

@pytest.mark.parametrize('opt,with_opt', [*((o, True) for o in optimizers), ('plain SGD', False)])
@pytest.mark.parametrize('avg', averages)
def test_killed_and_resumed(avg, opt, with_opt, tmp_path):
    opt_func = SGD if opt=='plain SGD' else optimizers[opt]
    make = lambda *cbs, **kw: learner(Reseed(), *cbs, path=tmp_path, opt_func=opt_func, **kw)
    whole = fit(make(averages[avg]()), 4)
    broken = make(averages[avg](), SaveModelCallback(every_epoch=True, with_opt=with_opt), Kill(2, 'after_backward'))
    with pytest.raises(Killed): fit(broken, 4)
    resumed = make(seed=5).load('model_1', with_opt=with_opt)  # another process, that starts from other weights
    fit(resumed, 4, cbs=averages[avg](), start_epoch=2)
    assert same(weights_of(whole, buffers=True), weights_of(resumed, buffers=True))
    shown = lambda learn: [r[1:] for r in learn.recorder.values][-2:]  # the first is smoothed, and starts anew
    assert shown(whole)==shown(resumed)

def test_resuming_without_an_average_says_so(tmp_path):
    learn = learner(path=tmp_path)
    fit(learn, 1).save('plain')
    other = learner(EMA(), path=tmp_path).load('plain')
    with pytest.warns(UserWarning, match='averaging starts anew'): fit(other, 2, start_epoch=1)
    fit(learner(EMA(), SaveModelCallback(every_epoch=True), path=tmp_path), 1)
    wider = learner(EMA(), path=tmp_path)
    wider.model.append(torch.nn.Linear(3, 3))
    wider.load('model_0', strict=False)
    with pytest.warns(UserWarning, match='holds averages of another model'): fit(wider, 2, start_epoch=1)

def test_what_a_file_holds_is_taken_once_and_only_from_the_last_file(tmp_path):
    fit(learner(EMA(), SaveModelCallback(every_epoch=True), path=tmp_path), 1)
    fit(learner(path=tmp_path), 1).save('plain')
    learn = learner(EMA(), path=tmp_path).load('model_0')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        fit(learn, 1, cbs=SkipToEpoch(0))  # skips nothing: a fit of its own
    with pytest.warns(UserWarning, match='no average'): fit(learn, 2, start_epoch=1)
    learn = learner(EMA(), path=tmp_path).load('model_0').load('plain')
    with pytest.warns(UserWarning, match='no average'): fit(learn, 2, start_epoch=1)

def test_a_model_in_a_wrapper_goes_on_too(tmp_path):
    def make(*cbs):
        learn = learner(EMA(), *cbs, path=tmp_path)
        learn.model,learn.splitter = torch.nn.DataParallel(learn.model),lambda m: learn_splitter(m.module)
        return learn
    learn_splitter = learner(path=tmp_path).splitter
    fit(make(SaveModelCallback(every_epoch=True)), 1)
    learn = make().load('model_0')
    with warnings.catch_warnings():
        warnings.filterwarnings('error', '.*averaging starts anew')
        fit(learn, 2, start_epoch=1)

def test_saving_and_loading_leave_nothing_in_the_model(tmp_path, monkeypatch):
    "Nor does a device get lost on the way to fastai's `load`"
    class Saves(Callback):
        def after_epoch(self):
            self.learn.save('now')
            self.there = 'fastai_ext.callbacks' in str(self.learn.model.state_dict()._metadata)
    learn = fit(learner(EMA(), Saves(), path=tmp_path), 1)
    assert not learn.saves.there and len(learn.load('now').model._load_state_dict_pre_hooks)==0
    devices = []
    monkeypatch.setattr(Learner, '_orig_load', lambda self, file, device=None, **kwargs: devices.append(device))
    learn.load('now', device='cpu')
    assert devices==['cpu']

def test_a_fit_that_skips_no_epoch_is_its_own(tmp_path):
    learn = learner(path=tmp_path)
    for n in (0,2):
        with learn.added_cbs(SkipToEpoch(n)): assert resumes(learn)==(n > 0)

def test_whose_fit_it_is(tmp_path):
    other,seen = learner(path=tmp_path),[]
    class Asks(Callback):
        def after_pred(self): seen.append((in_fit(self.learn), in_fit(other)))
    learn = fit(learner(Asks(), path=tmp_path), 1)
    assert set(seen)=={(True,False)}
    seen.clear()
    with learn.no_bar(): learn.validate()
    assert set(seen)=={(False,False)}

def test_a_checkpoint_is_the_average_for_everybody_else(tmp_path):
    learn = fit(learner(EMA(.9), SaveModelCallback(every_epoch=True), path=tmp_path), 2)
    plain = learner(path=tmp_path).load('model_1', with_opt=False)
    assert same(weights_of(learn, buffers=True), weights_of(plain, buffers=True))
    fit(plain, 1, cbs=EMA(.9))  # a new fit starts from it
    best = fit(learner(EMA(.9), SaveModelCallback(), path=tmp_path), 3)
    loss = min(r[1] for r in best.recorder.values)
    with best.no_bar(): assert abs(best.validate()[0]-loss) < 1e-6  # what it loads at the end is what was validated

# interrupted

@pytest.mark.parametrize('how', ['in the learner', 'for the fit'])
@pytest.mark.parametrize('at,valid', [('after_pred', False), ('before_step', False), ('after_pred', True)])
def test_ctrl_c_ends_with_the_average(how, at, valid, tmp_path):
    class CtrlC(Callback):
        order = 80
        def __call__(self, event_name):
            if event_name==at and self.learn.epoch==1 and self.learn.training != valid: raise KeyboardInterrupt
    class Keep(Callback):
        "The average, as it was at the last step"
        order = 79
        def after_step(self):
            self.want = {n: a.clone() for n,a in self.learn.ema._kept.average.items()}
    for use in ('validate', 'save', 'export', 'fit'):
        ema = EMA(.9)
        learn = learner(*([ema] if how=='in the learner' else []), Keep(), path=tmp_path)
        with pytest.raises(KeyboardInterrupt): fit(learn, 2, cbs=[CtrlC()] + ([ema] if how=='for the fit' else []))
        want = learn.keep.want
        if use=='fit': learn.remove_cb(Keep); fit(learn, 0)
        elif use=='validate':
            with learn.no_bar(): learn.validate()
        elif use=='save':
            learn.save('stopped')
            learn = learner(path=tmp_path).load('stopped')
        else:
            learn.remove_cbs([Keep])
            learn.export('stopped.pkl')
            learn = load_learner(tmp_path/'stopped.pkl')
        got = weights_of(learn, buffers=True)
        assert all(torch.equal(got[n], want[n]) for n in want), use

def test_a_cancelled_fit_ends_with_the_average(tmp_path):
    class Stop(Callback):
        order = 79
        def after_step(self):
            self.want = {n: a.clone() for n,a in self.learn.ema._kept.average.items()}
            if self.epoch==1: raise CancelFitException
    learn = fit(learner(EMA(.9), Stop(), path=tmp_path), 2)
    got = weights_of(learn, buffers=True)
    assert all(torch.equal(got[n], t) for n,t in learn.stop.want.items()) and learn.ema._kept is None

def test_the_best_saved_wins_over_the_latest_average(tmp_path):
    class Stop(Callback):
        order = 79
        def after_step(self):
            if self.epoch==2: raise CancelFitException
    learn = fit(learner(EMA(.9), SaveModelCallback(), Stop(), path=tmp_path), 3)
    best = learner(path=tmp_path).load('model', with_opt=False)
    assert same(weights_of(learn, buffers=True), weights_of(best, buffers=True))

def test_what_is_skipped_is_not_averaged(tmp_path):
    class Count(Callback):
        order = 48
        def before_fit(self): self.n = 0
        def after_epoch(self): self.n = self.learn.ema._kept.n
    learn = fit(learner(EMA(.9), Count(), path=tmp_path), cbs=[CPUMixedPrecision(), Overflow(1)])
    assert learn.count.n==3  # of four batches, one overflows
    learn = fit(learner(EMA(.9), Count(), path=tmp_path), cbs=GradientAccumulation(32))
    assert learn.count.n==1  # 16+16, and 16+8 wait

def test_what_was_skipped_before_an_interruption_is_no_skip_of_the_next_fit(tmp_path):
    class Stop(Callback):
        order = 80
        def before_step(self): raise CancelStepException
        def after_cancel_step(self): raise KeyboardInterrupt
    learn = learner(EMA(.9), path=tmp_path)
    with pytest.raises(KeyboardInterrupt): fit(learn, cbs=Stop())
    steps = []
    learn.ema.on_step = steps.append
    fit(learn)
    assert steps==[1,2,3,4]

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_weights_have_a_fine_average(dtype):
    m = torch.nn.Linear(1, 1, bias=False).to(dtype)
    a = Averages.of(m)
    for i in range(2000):
        m.weight.data.fill_(1. if i else 0.)
        a.add(1e-3)
    assert abs(a.average['weight'].item() - (1-.999**1999)) < 1e-3
    fine = a.average['weight'].clone()
    a.show()
    again = Averages.unpacked(m, a.packed())  # from a checkpoint with the average in the model
    assert torch.equal(again.average['weight'], fine) and m.weight==1

def test_complex_weights_are_averaged_and_unsaved_buffers_are_not():
    "As torch averages them; a buffer that no file holds is the model's own affair"
    class Turns(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.turn = torch.nn.Parameter(torch.ones(3, dtype=torch.complex64))
            self.register_buffer('cache', torch.zeros(2), persistent=False)
    m,torchs = Turns(),get_ema_multi_avg_fn(.9)
    a,want = Averages.of(m),m.turn.detach().clone()
    a.add(.1)
    for _ in range(3):
        m.turn.data.mul_(torch.tensor(.5+.5j))
        m.cache.add_(1.)
        a.add(.1)
        torchs([want], [m.turn.detach()], None)
    a.show()
    torch.testing.assert_close(m.turn.detach(), want)
    assert m.cache.tolist()==[3.,3.]

class Noise(Callback):
    "Data that are drawn anew in each batch, as augmented pictures are"
    def before_fit(self):
        self.learn.dls.train.after_batch = lambda b: (b[0]+.1*torch.rand_like(b[0]), b[1])

def test_training_itself_is_unchanged(tmp_path):
    a,b = (fit(learner(*cbs, Noise(), path=tmp_path), 3) for cbs in ([SWA(0.)], []))
    assert a.recorder.losses==b.recorder.losses
    assert not same(weights_of(a), weights_of(b))

class Looks(Callback):
    "Validates in the middle of an epoch and after its last batch"
    order = 80
    def after_batch(self):
        learn = self.learn
        if not learn.training or learn.iter not in (1,3): return
        place = learn.dl,learn.n_iter
        learn._do_epoch_validate()
        learn.dl,learn.n_iter = place
        learn.model.train()
        learn.training = True

@pytest.mark.parametrize('avg', [partial(EMA, .9), partial(SWA, 0., update_bn=False), partial(SWA, 0., 1, False)])
def test_who_validates_in_an_epoch_changes_nothing(avg, tmp_path):
    a,b = (fit(learner(avg(), *cbs, path=tmp_path), 2) for cbs in ([Looks()], []))
    assert same(weights_of(a, buffers=True), weights_of(b, buffers=True))

@pytest.mark.parametrize('bad,words', [
    (lambda: EMA(1.), 'decay=1.0'), (lambda: EMA(float('nan')), 'decay=nan'), (lambda: EMA(-.1), 'decay=-0.1'),
    (lambda: EMA(every=0), 'every=0'), (lambda: SWA(1.), 'start=1.0'), (lambda: SWA(every=1.5), 'every=1.5')])
def test_bad_input(bad, words):
    with pytest.raises(ValueError, match=words): bad()

class Exports(Callback):
    def after_epoch(self): self.learn.export('now.pkl')

def test_a_file_exported_in_the_middle_of_a_fit_holds_no_average(tmp_path):
    fit(learner(EMA(.9), Exports(), path=tmp_path), 1)
    loaded = load_learner(tmp_path/'now.pkl')
    assert loaded.ema._kept is None and loaded.ema.decay==.9

def test_two_averages(tmp_path):
    with pytest.raises(ValueError, match='EMA and SWA both average'): fit(learner(EMA(), SWA(), path=tmp_path))

def test_a_callback_that_saves_before_the_fit_ends_nothing(tmp_path):
    class SaveFirst(Callback):
        order = 70
        def before_fit(self): self.learn.save('first')
    a,b = (fit(learner(EMA(.9), *cbs, path=tmp_path), 1) for cbs in ([SaveFirst()], []))
    assert same(weights_of(a, buffers=True), weights_of(b, buffers=True))
    raw = fit(learner(path=tmp_path), 1)
    assert not same(weights_of(a), weights_of(raw))

def test_swa_by_steps_is_the_mean_of_the_late_ones(tmp_path):
    class See(Callback):
        order = 48
        def before_fit(self): self.seen = []
        def after_step(self): self.seen.append(self.learn.model[1][3].weight.detach().clone())
    learn = fit(learner(SWA(.5, 3, False), See(), path=tmp_path), 3)
    n = len(learn.see.seen)
    used = [w for i,w in enumerate(learn.see.seen) if i/n >= .5-1e-9 and (i+1)%3==0]
    assert 1 < len(used) < n//3
    torch.testing.assert_close(learn.model[1][3].weight.detach(), torch.stack(used).mean(0))

def test_the_average_is_of_what_the_constraints_leave(tmp_path):
    class See(Callback):
        order = 90
        def after_step(self): self.seen = self.learn.model[1][3].weight.detach().clone()
    learn = fit(learner(EMA(0., warmup=False), MaxNorm(.01), See(), path=tmp_path), 1)
    assert torch.equal(learn.model[1][3].weight, learn.see.seen)
    assert learn.model[1][3].weight.norm(dim=1).max() <= .01*(1+1e-5)

def test_measuring_batchnorm_leaves_nothing_behind(tmp_path):
    "Its momentum is the model's again, and dropout is silent while it is measured"
    modes = []
    learn = learner(SWA(start=.5), path=tmp_path)
    first,norm = learn.model[0][0],learn.model[0][1]
    first.register_forward_hook(lambda m,i,o: modes.append((m.training, norm.training, norm.momentum)))
    before = norm.momentum
    fit(learn, 2)
    assert norm.momentum==before and not any(m.training for m in learn.model.modules())
    measured = [o for o in modes if o[2] is None]
    assert len(measured)==2*len(learn.dls.train) and set(measured)=={(False,True,None)}  # after each epoch

def test_after_ctrl_c_batchnorm_is_measured_without_dropout(tmp_path):
    modes = []
    class CtrlC(Callback):
        order = 80
        def after_pred(self):
            if self.training and self.epoch==2: raise KeyboardInterrupt
    learn = learner(SWA(start=.1), path=tmp_path)
    learn.model[0][0].register_forward_hook(lambda m,i,o: modes.append((m.training, learn.model[0][1].momentum)))
    with pytest.raises(KeyboardInterrupt): fit(learn, 3, cbs=CtrlC())
    n = len(modes)
    with learn.no_bar(): learn.validate()
    assert [o for o in modes[n:] if o[1] is None]==[(False,None)]*len(learn.dls.train)
