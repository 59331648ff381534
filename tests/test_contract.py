"Every public callback keeps the promises of fastai_ext.contract.check; the battery itself is fair, and says what it sees"
import pytest, torch
from torch import nn
from fastai.callback.core import Callback
from fastai.callback.mixup import MixUp
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.callback.schedule import ParamScheduler, SchedCos
from fastai.callback.tracker import EarlyStoppingCallback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner, Recorder
from fastai.losses import MSELossFlat
from fastai.torch_core import set_seed

from fastai_ext.callbacks import callback_examples, callback_order, check_all, dropout_learner, public_callbacks
from fastai_ext.contract.check import ContractError, check_callback, check_callbacks
from fastai_ext.contract.harness import Broken, NotOwed, SynthItems, contract_learner, promise, promises

groups = dict(
    made    = 'repr construct pickle events'.split(),
    fitted  = 'fit_twice fine_tune freeze strength0 rng'.split(),
    detours = 'lr_find validate get_preds'.split(),
    saved   = 'save_load export'.split(),
    ended   = 'nothing_left cancelled interrupted'.split(),
    steps   = 'accumulation accumulation_exact clipping mixed_precision cancelled_step losses'.split(),
)

def test_every_promise_is_in_a_group(): assert sorted(sum(groups.values(), ['ddp'])) == sorted(promises)

def test_every_public_callback_is_registered():
    assert {c.__name__ for c in public_callbacks()} == {type(a['cb']()).__name__ for a in callback_examples.values()}, 'add it to nbs/callbacks.ipynb'

@pytest.mark.parametrize('group', groups)
@pytest.mark.parametrize('name', callback_examples)
def test_promises(name, group): check_callbacks({name: callback_examples[name]}, only=groups[group])

def test_two_processes(): check_all(only='ddp', on_fail='raise')

def test_strengths_are_judged():
    "A registered strength makes the promises about it owed, so none of them is passed over"
    for n,a in callback_examples.items():
        if 'strength' not in a: continue
        owed = ['strength0','accumulation_exact','losses']
        if 'learner' in a or 'skip' in a: owed = ['strength0','losses']  # masks make four small batches another thing than a large one
        report = check_callbacks({n: a}, only=owed, on_fail='report')[n]
        assert report.kept == owed, report

# what fastai's own callbacks are known to keep and to break

@pytest.mark.parametrize('cb', [GradientClip, lambda: ParamScheduler({'lr': SchedCos(.05, .01)})], ids=['GradientClip', 'ParamScheduler'])
def test_no_false_alarm(cb): assert check_callback(cb, skip=['ddp','construct']).ok

def test_known_faults_of_fastai_are_found():
    assert 'get_preds differs' in check_callback(MixUp, only='interrupted', on_fail='report')['interrupted'].why
    assert 'was frozen but changed' in check_callback(GradientAccumulation, only='freeze', on_fail='report')['freeze'].why
    assert 'list index out of range' in check_callback(EarlyStoppingCallback(patience=9), only='cancelled', on_fail='report')['cancelled'].why

# the callback may come as an instance, a class or a function, with a learner of its own

class Shrink(Callback):
    "Multiply gradients by `1-rate` where they are trained"
    order = 10.5
    def __init__(self, rate=.1): self.rate = rate
    def before_step(self):
        for p in self.opt.all_params().itemgot(0):
            if p.requires_grad and p.grad is not None: p.grad.mul_(1-self.rate)

def regression():
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    dl = DataLoader(list(zip(x, x.sum(1, keepdim=True))), bs=8)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    return Learner(DataLoaders(dl, dl), model, MSELossFlat(), splitter=lambda m: [list(o.parameters()) for o in m])

ways = {'class': Shrink, 'instance': Shrink(.2), 'function': lambda rate=.3: Shrink(rate), 'list': lambda: [GradientClip(), Shrink()]}

@pytest.mark.parametrize('cb', ways.values(), ids=ways)
def test_ways_to_give_a_callback(cb):
    report = check_callback(cb, only=['construct','fit_twice','strength0','freeze'], strength='rate')
    assert report.title=='Shrink' and len(report.kept)==4

def test_own_learner():
    report = check_callback(Shrink, learner=regression, skip=['ddp'], on_fail='report')
    assert report.ok and {'export'} <= set(report.not_owed)  # a list of items has no `new_empty`
    assert 'cannot be exported' in report['export'].why

def test_the_callback_given_is_left_alone():
    cb,learn = Shrink(.2),regression()
    learn.add_cb(cb)
    before = dict(vars(cb))
    check_callback(cb, only=['fit_twice','pickle'])
    assert dict(vars(cb))==before and cb.learn is learn

def test_global_generators_are_left_alone():
    set_seed(3)
    want = torch.rand(3)
    set_seed(3)
    check_callback(Shrink, only=['repr','fit_twice','get_preds'])
    assert torch.equal(torch.rand(3), want)

# the report

def test_report_and_error():
    class Odd(Callback):
        def __repr__(self): return ''
    report = check_callback(Odd, only=['repr','construct'], on_fail='report')
    assert report.broken==['repr'] and report.kept==['construct'] and not report.ok
    assert 'broken' in repr(report) and '<table' in report._repr_html_() and 'repr before' in report['repr'].why
    with pytest.raises(ContractError, match='Odd breaks 1 of 2 promises:\n- repr: ') as e: check_callback(Odd, only=['repr','construct'])
    assert e.value.report.broken==['repr']
    with pytest.raises(ContractError): check_callbacks([GradientClip, Odd], only='repr')
    both = check_callbacks({'a': GradientClip, 'b': Odd}, only='repr', on_fail='report')
    assert both.broken=={'b': ['repr']} and not both.ok and 'a: 1 kept' in repr(both) and '<code>repr</code>' in both._repr_html_()

def test_an_error_in_a_promise_is_reported():
    class Bad(Callback):
        def before_fit(self): raise ValueError('no\nfit')
    why = check_callback(Bad, only='fit_twice', on_fail='report')['fit_twice'].why
    assert why.startswith('raised ValueError') and 'no fit' in why

def test_skipping():
    report = check_callback(Shrink, only=['repr','construct'], skip={'construct': 'made by a factory'})
    assert report.not_owed==['construct'] and report['construct'].why=='made by a factory'
    assert [r.name for r in check_callback(Shrink, only=['repr','construct'], skip='construct').rows]==['repr']

def test_wrong_arguments():
    with pytest.raises(ValueError, match="no promise 'reprr'"): check_callback(Shrink, only='reprr')
    with pytest.raises(ValueError, match='on_fail'): check_callback(Shrink, on_fail='ignore')
    with pytest.raises(TypeError, match='not a fastai Callback'): check_callback(int)

def test_own_promise():
    @promise("It has a doc")
    def documented_(s):
        if s.last is None: raise NotOwed('nothing')
        if not s.cls.__doc__: raise Broken(f"{s.cls.__name__} has no docstring")
    try:
        class Mute(Callback): pass
        assert check_callback(Shrink, only='documented').kept==['documented']
        assert check_callback(Mute, only='documented', on_fail='report')['documented'].why=='Mute has no docstring'
    finally: del promises['documented']

# the order page

def test_order_is_that_of_a_learner():
    from fastai_ext.callbacks import events
    def _has(cb, e): return callable(getattr(type(cb), e, None))
    learn = dropout_learner(cbs=[a['cb']() for a in callback_examples.values()] + [GradientClip(), GradientAccumulation()])
    mine = {type(cb).__name__ for cb in learn.cbs}
    order = callback_order()
    for e in events:
        got = [(cb.order, type(cb).__name__) for cb in learn.ordered_cbs(e) if _has(cb, e)]
        want = [(o,n) for o,n in order[e] if n in mine]
        assert sorted(got)==sorted(want) and [o for o,_ in got]==[o for o,_ in want]
    assert '<b>L1</b>' in order._repr_html_() and 'before_step' in repr(order)
    assert not any(n=='L1' for _,n in callback_order(ours=False)['before_step'])

# what is spawned is picklable

def test_trains_with_spawned_workers():
    "As on Windows and macOS: workers are started afresh and get the data by pickle"
    from torch.utils.data import DataLoader as TorchLoader
    learn = dropout_learner()
    learn.dls = DataLoaders(TorchLoader(SynthItems(48), batch_size=16, num_workers=2, multiprocessing_context='spawn'), learn.dls.valid)
    rivals = ('SWA','ASAM')  # of EMA and SAM, which refuse company
    learn.add_cbs([a['cb']() for n,a in callback_examples.items() if n not in rivals])
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert len(learn.recorder.losses)==3 and learn.recorder.values[-1][0] > 0
    assert isinstance(learn.recorder, Recorder)
