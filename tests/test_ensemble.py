"The weights of an ensemble: found where they are known, and never from the rows that are reported"
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.learner import Learner
from fastai.metrics import accuracy, rmse
from fastai.tabular.learner import tabular_learner
from fastai.torch_core import set_seed
from hypothesis import given, settings, strategies as st
from scipy import special
from sklearn.datasets import load_wine
from sklearn.metrics import log_loss, mean_squared_error
from fastai_ext.tabular import effects  # noqa: F401  gives learners `contributions`
from fastai_ext.tabular.dls import tabular_dls
from fastai_ext.tabular.ensemble import ensemble
from fastai_ext.tabular.files import load_tree_learner
from fastai_ext.tabular.trees import tree_learner
from fastai_ext.tabular.weights import choose, nnls_weights, pooled, select_weights, squared_error, stack_weights
from conftest import root
from test_trees import cancer_dls, diabetes, diabetes_dls, fitted

def network(dls, metrics=rmse, **kwargs):
    set_seed(0)
    learn = tabular_learner(dls, layers=[20], metrics=metrics, **kwargs)
    with learn.no_bar(), learn.no_logging(): learn.fit(3, 1e-2)
    return learn

@pytest.fixture(scope='module')
def members():
    dls = diabetes_dls(bs=32)
    return network(dls, y_range=(0,400)), fitted(dls, 'rf'), fitted(dls, 'extra')

def test_the_mean_of_what_the_members_predict(members):
    ens = ensemble(*members, weights=[2,1,1])
    preds,targs = ens.get_preds()
    each = [m.get_preds()[0].double() for m in members]
    assert torch.allclose(preds, .5*each[0]+.25*each[1]+.25*each[2], atol=1e-4) and len(preds) == 142
    assert np.isclose(ens.validate()[0], mean_squared_error(targs, preds), rtol=1e-5)
    assert torch.equal(ens.get_preds(dl=diabetes()[300:])[0], preds)
    assert torch.allclose(ens.predict(diabetes().iloc[305])[2], preds[5], atol=1e-4)

def test_what_is_no_learner(members):
    for odd in (list(members), 'rf'):
        with pytest.raises(TypeError, match='is no learner; give fitted ones'): ensemble(odd, members[0])

@pytest.mark.parametrize('names', [['a','a','b'], ['a','b','ensemble'], ['plain mean','a','b']])
def test_names_that_a_table_would_mix_up(members, names):
    with pytest.raises(ValueError, match='must differ from each other'): ensemble(*members, names=names, weights='mean')

def test_probabilities_are_averaged():
    dls = cancer_dls()
    members = network(dls, accuracy),fitted(dls, 'rf')
    ens = ensemble(*members, weights='mean')
    preds,targs,dec = ens.get_preds(with_decoded=True)
    assert torch.allclose(preds, sum(m.get_preds()[0].double() for m in members)/2, atol=1e-6)
    assert torch.equal(dec, preds.argmax(1))
    assert np.allclose(ens.validate(), [log_loss(targs[:,0], preds), (dec==targs[:,0]).double().mean()], atol=1e-5)

def test_scores_are_what_validate_says(members):
    ens = ensemble(*members)
    s = ens.scores()
    assert np.allclose(s.loc['ensemble', ['loss','rmse']].astype(float), ens.validate(), rtol=1e-5)
    for m,name in zip(members, ens.names, strict=True):
        alone = m.validate(dl=ens.dls.valid)
        assert np.allclose(s.loc[name, ['loss','rmse']].astype(float), [alone[0], alone[0]**.5], rtol=1e-4)
    assert np.isclose(ens.weights.sum(), 1) and (ens.weights >= 0).all()

def test_21_the_reported_rows_never_choose_the_weights(members):
    ens = ensemble(*members, seed=3)
    assert not set(ens.select_idx) & set(ens.report_idx) and len(ens.select_idx)+len(ens.report_idx) == 142
    valid = members[0].dls.valid_ds
    assert np.array_equal(ens.get_preds()[1].ravel(), valid.items.target.to_numpy()[ens.report_idx])
    assert len(ens.dls.valid_ds) == len(ens.report_idx)
    # whatever the targets of the reported rows are, the weights stay; those of the others change them
    col = valid.items.columns.get_loc('target')
    old = valid.items.target.to_numpy(copy=True)
    try:
        valid.items.iloc[ens.report_idx, col] = -1000.
        assert (ensemble(*members, seed=3).weights == ens.weights).all()
        forest = members[1].get_preds()[0].numpy().ravel().astype('float32')
        valid.items.iloc[ens.select_idx, col] = forest[ens.select_idx]
        assert np.isclose(ensemble(*members, seed=3).weights.iloc[1], 1)
    finally: valid.items['target'] = old

def test_further_rows_may_choose_and_all_are_reported(members):
    ens = ensemble(*members, on=diabetes()[:300])
    assert len(ens.get_preds()[0]) == 142 and len(ens.select_idx) == 0
    with pytest.raises(ValueError, match='lacks the targets'):
        ensemble(*members, on=diabetes()[:300].drop(columns='target'))

def test_a_loss_of_ones_own(members):
    seen = []
    def first(p, y): seen.append(p.shape); return abs((p-y).mean())
    ensemble(*members, loss=first, n=2)
    assert set(seen) == {(71,1)}

def test_the_members_stay_as_they_were(members):
    learn,forest,_ = members
    values,mode = list(learn.recorder.values),learn.model.training
    state = {k:v.clone() for k,v in learn.model.state_dict().items()}
    ens = ensemble(learn, forest)
    ens.validate(); ens.scores(); ens.get_preds(0)
    assert list(learn.recorder.values) == values and [type(c).__name__ for c in learn.cbs].count('Recorder') == 1
    assert all(torch.equal(v, state[k]) for k,v in learn.model.state_dict().items())
    assert learn.validate()[0] > 0 and isinstance(learn, Learner) and learn.model.training in (mode, False)

def test_whatever_reports_uses_the_reported_rows(members):
    from fastai.interpret import Interpretation
    import fastai_ext.tabular.explain  # noqa: F401  adds importance
    ens = ensemble(*members)
    assert len(Interpretation.from_learner(ens).top_losses()[0]) == len(ens.report_idx) == len(ens.get_preds()[0])
    assert ens.importance(n=1).index[0] in ('bmi','s5')
    with pytest.raises(ValueError, match='are validation rows, which are reported'):
        ensemble(*members, on=diabetes()[300:])

@pytest.mark.parametrize('weights', ['auto','mean','nnls','stack'])
def test_folds_choose_on_training_rows_and_report_all_the_others(weights, tmp_path):
    dls = diabetes_dls(bs=32)
    trees = [tree_learner(dls, n, rmse, n_estimators=20) for n in ('rf','hist')]
    ens = ensemble(*trees, folds=3, weights=weights)
    assert len(ens.get_preds()[0]) == 142 and not trees[0].fitted and ens.model.members[0].model.engine.name == 'rf'
    assert weights == 'stack' or np.isclose(ens.weights.sum(), 1) and (ens.weights >= 0).all()
    valid = dls.valid_ds.items
    kept = valid.target.copy()
    valid['target'] = np.random.RandomState(0).permutation(kept)
    assert np.allclose(ensemble(*trees, folds=3, weights=weights).weights, ens.weights), 'no validation row chose'
    valid['target'] = kept
    ens.path = tmp_path
    again = load_tree_learner(ens.export('e.trees'))
    assert torch.equal(again.get_preds(dl=diabetes()[300:])[0], ens.get_preds()[0])
    s = ens.leaderboard()
    assert s.loc['ensemble','rmse'] < s.loc[['rf','hist'],'rmse'].max()
    assert (s.loss.diff().dropna() >= 0).all()
    assert len(ens.plot_weights().patches) == 2

def test_folds_of_classes_labels_and_a_network():
    dls = cancer_dls()
    def make(dls):
        learn = tabular_learner(dls, layers=[20], metrics=accuracy)
        with learn.no_bar(), learn.no_logging(): learn.fit(3, 1e-2)
        return learn
    set_seed(0)
    net = make(dls)
    forest = tree_learner(dls, 'rf', accuracy, n_estimators=20)
    with pytest.raises(ValueError, match='give refit=function'): ensemble(net, forest, folds=3)
    for weights in ('auto','stack'):
        ens = ensemble(net, forest, folds=2, refit=make, weights=weights)
        assert ens.validate()[1] > .85 and np.allclose(ens.get_preds()[0].sum(1), 1)

def test_stacking_and_least_squares_find_what_is_there():
    rng = np.random.RandomState(0)
    a,b = rng.randn(500,1),rng.randn(500,1)
    assert np.allclose(nnls_weights([a,b], .3*a+.7*b), [.3,.7], atol=1e-3)
    assert np.allclose(stack_weights([a,b], 1.5*a-.5*b, l2=0), [1.5,-.5], atol=1e-2)
    y = (rng.rand(2000) < .3).astype(int)
    over = np.clip(np.where(y[:,None]==[0,1], .8, .2) + .15*rng.randn(2000,2), .01, .99)
    over /= over.sum(1, keepdims=True)
    w = stack_weights([over, np.full((2000,2), .5)], y, 'class')
    assert log_loss(y, pooled(w, [over, np.full((2000,2), .5)], 'class')) <= log_loss(y, over)

@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.integers(1, 4))
def test_a_pool_is_the_normed_geometric_mean(seed, k):
    rng = np.random.RandomState(seed)
    w,preds = rng.dirichlet(np.ones(k)),[rng.dirichlet(np.ones(3), 10) for _ in range(k)]
    assert np.allclose(pooled(w, preds, 'class'), special.softmax(np.tensordot(w, np.log(preds), 1), axis=1))
    assert np.allclose(pooled(w, preds, 'label'), special.expit(np.tensordot(w, special.logit(preds), 1)))
    assert np.allclose(pooled(w, preds, 'value', 3.), 3+np.tensordot(w, np.array(preds)-3, 1))

@pytest.mark.parametrize('kind', ('class','label'))
def test_probabilities_are_mixed_as_suits_them(kind):
    "Two halves of the evidence belong multiplied; two guesses of which one is right belong averaged"
    rng = np.random.RandomState(0)
    a,b,coin = rng.randn(4000),rng.randn(4000),rng.rand(4000) < .5
    def both(z): return np.column_stack([special.expit(-z), special.expit(z)])[:, 1 if kind=='label' else slice(None)]
    def mixed(truth):
        y = (rng.rand(4000) < truth).astype(int)
        preds = [both(o).reshape(4000, -1) for o in ((2*a,2*b) if truth is evidence else (4*a,4*b))]
        return choose('auto', preds, y[:,None] if kind=='label' else y, kind)[:2]
    evidence,guess = special.expit(a+b),np.where(coin, special.expit(4*a), special.expit(4*b))
    for truth,how in ((evidence,'pool'), (guess,'mean')):
        w,got = mixed(truth)
        assert got == how and np.allclose(w, .5, atol=.1) and np.isclose(w.sum(), 1)

def wine_dls(): return tabular_dls(load_wine(as_frame=True).frame, 'target', valid=.4, task='class')

@pytest.mark.parametrize('make', (cancer_dls, wine_dls))
def test_what_columns_add_to_a_pool_of_boosters_is_exact(make):
    dls = make()
    members = [fitted(dls, name, n_estimators=20) for name in ('hist','lgbm','xgb')]
    ens = ensemble(*members, weights='mean')
    row = ens.dls.valid_ds.new(ens.dls.valid_ds.all_cols.copy()).decode().items.iloc[3]
    with pytest.raises(NotImplementedError, match='call shap'): ens.contributions(row)
    ens.model.how,ens.model.weights = 'pool',np.array([.5,.2,.3])
    adds,p = [ens.contributions(row, target=c) for c in dls.vocab],ens.predict(row)[2].numpy()
    assert 'log-odds' in adds[0].what and 'mean of logarithms of probabilities' in ens.summary()
    scores = np.array([a.prediction for a in adds])
    assert all(np.isclose(a.base+sum(s.adds for s in a), a.prediction) for a in adds)
    assert np.allclose(scores, special.logit(p) if len(p)==2 else scores.mean()+np.log(p)-np.log(p).mean(), atol=1e-4)
    outer = ensemble(ens, fitted(dls, 'rf', n_estimators=5), weights='mean')  # log-odds and probabilities do not add
    with pytest.raises(NotImplementedError, match='call shap'): outer.contributions(row)

def test_members_from_a_file(members, tmp_path):
    forest = members[1]
    forest.path = tmp_path
    loaded = load_tree_learner(forest.export())
    with pytest.warns(UserWarning, match='nobody can tell which rows'): ens = ensemble(loaded, members[2])
    assert np.allclose(ens.get_preds()[0], ensemble(forest, members[2]).get_preds()[0])
    with pytest.raises(ValueError, match='give the data, dls='): ensemble(loaded, loaded)
    with pytest.warns(UserWarning, match='nobody can tell'):
        assert ensemble(loaded, loaded, dls=forest.dls).validate()[0] > 0
    with pytest.raises(ValueError, match='encodes its columns otherwise'):
        ensemble(loaded, fitted(diabetes_dls(diabetes().assign(sex='f'))))
    with pytest.raises(ValueError, match="'dt' is not fitted"): ensemble(forest, tree_learner(forest.dls, 'dt'))

class Wrapped(torch.nn.Module):
    def __init__(self, model): super().__init__(); self.model = model
    def forward(self, *xb): return self.model(*xb)

def test_a_network_goes_into_the_file_or_is_refused(members, tmp_path):
    ens = ensemble(*members)
    ens.path = tmp_path
    again = load_tree_learner(ens.export('m.trees'), metrics=rmse)
    df = diabetes()[300:]
    assert torch.equal(again.get_preds(dl=df)[0], ens.get_preds(dl=df)[0])
    assert torch.equal(again.predict(df.iloc[3])[2], ens.predict(df.iloc[3])[2])
    assert np.allclose(again.validate(dl=df), ens.validate(dl=df)) and 'rf' in again.summary()
    odd = ensemble(Learner(members[0].dls, Wrapped(members[0].model), loss_func=members[0].loss_func), members[1])
    odd.path = tmp_path
    with pytest.raises(ValueError, match='Wrapped cannot be written'): odd.export('m.trees')

# --- the selection itself

@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 30))
def test_on_its_own_rows_no_member_alone_is_better(seed, k, n):
    rng = np.random.RandomState(seed)
    preds,y = [rng.randn(20,1) for _ in range(k)],rng.randn(20,1)
    w = select_weights(preds, y, squared_error, n, bags=0)
    assert np.isclose(w.sum(), 1) and (w >= 0).all()
    whole = sum(a*p for a,p in zip(w, preds, strict=True))
    assert squared_error(whole, y) <= min(squared_error(p, y) for p in preds) + 1e-9

@settings(deadline=None, max_examples=8)
@given(st.floats(.1, .9), st.integers(0, 1000))
def test_known_weights_are_found(share, seed):
    rng = np.random.RandomState(seed)
    a,b = rng.randn(400,1),rng.randn(400,1)
    assert abs(select_weights([a,b], share*a+(1-share)*b, squared_error, 100)[0] - share) < .02

def test_more_samples_less_chance():
    rng = np.random.RandomState(0)
    def weight(bags):
        y = rng.randn(30,1)
        return select_weights([y+rng.randn(30,1), y+rng.randn(30,1)], y, squared_error, bags=bags)[0]
    assert np.std([weight(20) for _ in range(12)]) < np.std([weight(1) for _ in range(12)])

@pytest.mark.parametrize('args,match', [
    (dict(weights='best'), "'best' is not 'auto', 'mean', 'nnls' or 'stack'"),
    (dict(weights=[1]), 'give 3 numbers >= 0'), (dict(weights=[0,0,0]), 'not all 0'),
    (dict(weights=[1,np.nan,1]), 'give 3 numbers'), (dict(on=1.), 'between 0 and 1'),
    (dict(on=.001), 'cannot be split'), (dict(names=['a']), '1 names for 3'),
    (dict(n=0), 'give 1 or more'),
])
def test_arguments_that_do_not_fit(members, args, match):
    with pytest.raises(ValueError, match=match): ensemble(*members, **args)

def test_members_that_do_not_fit(members):
    with pytest.raises(ValueError, match='give two or more'): ensemble(members[0])
    with pytest.raises(ValueError, match='different dls'): ensemble(members[0], fitted(diabetes_dls(), 'dt'))
    with pytest.raises(NotImplementedError, match='fit the members'): ensemble(*members).fit()
    with pytest.raises(NotImplementedError, match='clone the members'): ensemble(*members).clone()
    with pytest.raises(NotImplementedError, match='a forest among the members'): ensemble(*members).oob()
    with pytest.raises(NotImplementedError, match='call export'): ensemble(*members).save('x')
    with pytest.raises(TypeError, match='does not hold a table'): ensemble(object_with_dls(), object_with_dls())
    with pytest.raises(ValueError, match='no predictions'): select_weights([], [1], squared_error)
    with pytest.raises(ValueError, match='every loss is NaN'):
        select_weights([np.full((3,1), np.nan)], np.ones((3,1)), squared_error)

def object_with_dls():
    from types import SimpleNamespace
    return SimpleNamespace(dls=SimpleNamespace())

def test_equal_names_are_told_apart(members):
    assert ensemble(members[1], members[1], weights='mean').names == ['rf 1','rf 2']
    assert repr(ensemble(members[1], members[2], weights=[1,3], names=['a','b'])) == 'EnsembleLearner(0.25 a, 0.75 b)'
    assert isinstance(ensemble(*members).weights, pd.Series) and tree_learner(members[0].dls) is not None

def test_18_a_reloaded_learner_predicts_exactly_in_a_fresh_process(members, tmp_path):
    "Trees and an ensemble with a network, exported without a row of the data"
    df = diabetes()[300:]
    df.to_pickle(tmp_path/'rows.pkl')
    learners = dict(trees=members[1], both=ensemble(*members, weights='mean'))
    for name,learn in learners.items():
        learn.path = tmp_path
        learn.export(f'{name}.pkl')
        assert learn.validate()[0] > 0 and len(learn.dls.train_ds) == 300, 'the learner itself goes on'
    code = ("import sys, warnings; warnings.simplefilter('ignore')\n"
            "import pandas as pd, torch\nfrom fastai.learner import load_learner\n"
            "df = pd.read_pickle('rows.pkl')\n"
            "for name in ('trees','both'):\n"
            "    learn = load_learner(name+'.pkl')\n"
            "    assert not len(learn.dls.train_ds)\n"
            "    assert not any(len(m.dls.train_ds) for m in getattr(learn.model, 'members', ()))\n"
            "    torch.save(learn.get_preds(dl=df)[0], name+'.pt')\n")
    subprocess.run([sys.executable, '-c', code], cwd=tmp_path, env={**os.environ, 'PYTHONPATH': str(root)}, check=True)
    for name,learn in learners.items():
        want,got = learn.get_preds(dl=df)[0],torch.load(tmp_path/f'{name}.pt')
        assert torch.equal(got, want), (name, (got-want).abs().max())
