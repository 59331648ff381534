"`learn.init_find`: it ranks what is known to be good and bad, and leaves no trace"
import matplotlib.pyplot as plt
import pytest
import torch
from fastai.basics import Callback, CrossEntropyLossFlat, DataLoader, DataLoaders, Learner, accuracy, set_seed
from fastai.callback.tracker import EarlyStoppingCallback
from sklearn.datasets import load_digits
from torch import nn

from fastai_ext.init.callback import Init
from fastai_ext.init.find import Candidates, InitFind
from fastai_ext.init.lsuv import LSUV

x,y = load_digits(return_X_y=True)
data = list(zip(torch.tensor(x/16).float(), torch.tensor(y), strict=True))

def learner(depth=6, act=nn.ReLU, cbs=None, bn=False, **kw):
    set_seed(0)
    h = 32
    hidden = [o for _ in range(depth-2)
              for o in (nn.Linear(h,h), *([nn.BatchNorm1d(h)] if bn else []), act(), nn.Dropout(.1))]
    m = nn.Sequential(nn.Linear(64,h), act(), *hidden, nn.Linear(h,10))
    dls = DataLoaders(DataLoader(data[:600], bs=50, shuffle=True), DataLoader(data[600:900], bs=100))
    return Learner(dls, m, CrossEntropyLossFlat(), metrics=accuracy, cbs=cbs, **kw)

def find(learn, *args, **kw):
    with learn.no_bar(): return learn.init_find(*args, show_plot=False, **kw)

def tiny(m):
    "Everything at a millionth: nothing reaches the loss"
    for p in m.parameters(): p.data.mul_(1e-6)

def huge(m):
    for p in m.parameters(): p.data.mul_(1e30)

def test_ranks_what_is_known():
    found = find(learner(), {'zero': 'zeros', 'tiny': tiny, 'huge': huge, 'kaiming': 'kaiming_normal',
                             'measured': 'lsuv'}, num_it=40, lr=3e-3)
    assert (found.suggestion in ('kaiming','measured')
            and {c.start for c in found.candidates[:2]}=={'kaiming','measured'})
    last = found.candidates[-1]
    assert (last.start=='huge' and last.loss==float('inf') and last.note.startswith('diverged at step')
            and len(last.losses[0]) < 40)
    assert all(len(c.losses[0])==40 for c in found.candidates[:-1])

def test_the_score_is_the_mean_of_the_last_quarter_over_the_seeds():
    found = find(learner(), ['kaiming_normal'], num_it=8, seeds=3, seed=5)
    c = found.candidates[0]
    assert (c.loss==pytest.approx(sum(sum(l[-2:])/2 for l in c.losses)/3) and c.spread > 0
            and len({l[0] for l in c.losses})==3)

def state(learn):
    rec = vars(learn.recorder)
    return [[p.tolist() for p in learn.model.state_dict().values()],list(map(list, rec.get('values', []))),
            rec.get('losses'),torch.get_rng_state().tolist(),
            [c.__class__ for c in learn.cbs], sorted(vars(learn)), [o.training for o in learn.model.modules()]]

class Interrupts(Callback):
    def after_batch(self):
        if getattr(self.learn, 'stop_at', None) == self.train_iter: raise KeyboardInterrupt

@pytest.mark.parametrize('interrupt', [False,True])
def test_leaves_no_trace(interrupt):
    def run(visit):
        learn = learner(bn=True, cbs=[EarlyStoppingCallback(), Interrupts()])
        learn.recorder.add_time = False
        with learn.no_bar(), learn.no_logging():
            learn.fit(1, 1e-3)
            opt = id(learn.opt)
            if visit and interrupt:
                learn.stop_at = 7
                with pytest.raises(KeyboardInterrupt): find(learn, num_it=20, force=True)
                del learn.stop_at
            elif visit: find(learn, num_it=20, force=True)
            assert id(learn.opt)==opt
            learn.fit(1, 1e-3)
        return state(learn)
    assert run(True)==run(False)

def test_before_the_first_fit_there_is_still_no_optimizer_and_init_has_not_run():
    learn = learner(cbs=[Init(), LSUV()])
    before = state(learn)[0]
    found = find(learn, ['as it is','orthogonal'], num_it=4)
    assert learn.opt is None and not learn.init.done and not learn.lsuv.done and state(learn)[0]==before
    assert found.candidates[0].first != found.candidates[1].first  # the callbacks did not overwrite the candidates

def test_each_candidate_sees_the_same_batches():
    seen = []
    class Look(Callback):
        order = -100
        def before_batch(self): look.append(self.xb[0].sum().item())
    global look
    look = seen
    find(learner(cbs=Look()), ['as it is','xavier_normal'], num_it=15, seeds=2)
    runs = [seen[i:i+15] for i in range(0, 60, 15)]
    assert len(seen)==60 and runs[0]==runs[1] and runs[2]==runs[3] and runs[0]!=runs[2]

def test_apply_starts_as_the_probe_did():
    for n in 'orthogonal','lsuv orthogonal':
        learn = learner()
        found = find(learn, ['orthogonal','lsuv orthogonal'], num_it=3)
        found.apply(n)
        again = find(learn, ['as it is'], num_it=3, seed=found.seed)
        assert again.candidates[0].first==pytest.approx(next(c.first for c in found.candidates if c.start==n), rel=1e-5)

def test_it_shows_itself():
    found = find(learner(), num_it=4)
    assert isinstance(found, InitFind) and isinstance(found.candidates, Candidates) and len(found.candidates)==7
    found.plot()
    assert len(plt.gca().lines)==7 and any(found.suggestion in t.get_text() for t in plt.gca().texts)
    plt.close('all')
    assert repr(found).startswith(f'suggestion: {found.suggestion}') and '<b>' in found._repr_html_()

def test_bad_input():
    learn = learner()
    before = state(learn)
    for kw,words in ((dict(candidates=['kaimin']),'kaimin'), (dict(candidates=[]),'no candidates'),
                     (dict(num_it=0),'at least one step')):
        with pytest.raises(ValueError, match=words): find(learn, **kw)
    learn.dls.train.dataset[:] = []
    with pytest.raises(ValueError): find(learner(), ['nope'])
    assert state(learn)[0]==before[0]
    with pytest.raises(ValueError, match='was no candidate'): find(learner(), ['orthogonal'], num_it=1).apply('other')

def test_a_trained_network_needs_force():
    learn = learner()
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
    before = learn.model[0].weight.clone()
    with pytest.raises(ValueError, match=r'the weights are frozen, loaded or trained .*force=True'):
        find(learn, ['kaiming_normal'], num_it=2)
    assert find(learn, ['as it is'], num_it=2).suggestion == 'as it is'
    found = find(learn, ['auto','kaiming_normal'], num_it=2, force=True)
    assert len({c.first for c in found.candidates}) == 2 and torch.equal(learn.model[0].weight, before)
    found.apply('kaiming_normal')
    assert not torch.equal(learn.model[0].weight, before)

def test_where_nothing_can_be_initialized_force_is_not_advised():
    learn = learner()
    learn.model = nn.Sequential(nn.BatchNorm1d(64))
    with pytest.raises(ValueError, match='would change anything .*scale of a norm') as e:
        find(learn, ['kaiming_normal'], num_it=2)
    assert 'force' not in str(e.value)
    with pytest.raises(ValueError, match='irnn'): find(learner(), ['as it is','irnn'], num_it=2)

@pytest.mark.parametrize('cb', [Init, LSUV])
def test_a_callback_still_acts_after_a_search(cb):
    learn = learner(cbs=cb())
    find(learn, num_it=2)
    loaded = learn.model[0].weight
    with torch.no_grad(): loaded.add_(.001)  # this one is loaded
    before = loaded.clone()
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 0.)
    record = next(o for o in learn.cbs if type(o) is cb).record
    acted = {r['name'] if cb is Init else r.weight: bool(r['scheme'] if cb is Init else r.scale > 0) for r in record}
    assert any(acted.values()) and not acted.get('0.weight', False) and torch.equal(loaded, before)
