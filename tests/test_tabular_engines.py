"Every engine behind a Learner: against its library used by hand, and against what a user may do to it"
import copy, itertools, json, os, re, subprocess, sys, warnings, zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.progress import CSVLogger
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastai.interpret import ClassificationInterpretation
from fastai.metrics import accuracy, rmse
from fastai.tabular.core import Categorify, FillMissing, Normalize, TabularPandas, TabularProc
from fastai.tabular.learner import tabular_learner
from hypothesis import HealthCheck, given, settings, strategies as st
from sklearn.ensemble import (BaggingClassifier, ExtraTreesRegressor, HistGradientBoostingRegressor,
                              RandomForestClassifier, RandomForestRegressor)
from sklearn.linear_model import Ridge
from sklearn.naive_bayes import GaussianNB
from fastai_ext.tabular.engines import engines
from fastai_ext.tabular.dls import tabular_dls
from fastai_ext.tabular.embed import embed_features
from fastai_ext.tabular.engine import Task
from fastai_ext.tabular.files import load_tree_learner
from fastai_ext.tabular.hist import Hist
from fastai_ext.tabular import drop, shapley  # noqa: F401  give learners `drop_search` and `shap`
from fastai_ext.tabular.related import drift
from fastai_ext.tabular.rows import rows_dl
from fastai_ext.tabular.target import tensors
from fastai_ext.tabular.trees import tree_learner
from conftest import root

names = list(engines)
boosters = ['hist','xgb','lgbm','catboost']

def table(n=400, seed=0):
    rng = np.random.RandomState(seed)
    df = pd.DataFrame(dict(kind=rng.choice(list('abcdefg'), n), size=rng.choice(['s','m','l'], n), a=rng.randn(n),
                           b=rng.rand(n)*1e3, c=rng.randn(n)))
    signal = df.a + df.kind.map(dict(zip('abcdefg', [0,3,-2,1,-3,2,0], strict=True)))*.5 + (df['size']=='m')
    df['value'] = signal*10+200 + rng.randn(n)
    df['other'] = df.b/100 - signal
    df['two'] = np.where(signal + .3*rng.randn(n) > .3, 'yes', 'no')
    df['three'] = np.select([signal < 0, signal < 1], ['low','mid'], 'high')
    df['l1'],df['l2'] = signal > 0,df.b > 400
    df.loc[::9,'b'] = np.nan
    return df

targets = dict(value='value', several=['value','other'], two='two', three='three', labels=['l1','l2'])
every = [n for o in targets.values() for n in (o if isinstance(o, list) else [o])]

def data(target='value', df=None, **kwargs):
    df = table() if df is None else df
    y = targets[target]
    return tabular_dls(df.drop(columns=[n for n in every if n not in (y if isinstance(y, list) else [y])]), y,
                       valid=range(300,400), **kwargs)

def small(name): return {} if name=='dt' else dict(n_estimators=25)

def grown(name, dls=None, metrics=None, n_epoch=1, patience=10, **kwargs):
    tl = tree_learner(data() if dls is None else dls, name, metrics,
                      **(small(name) if isinstance(name, str) else {})|kwargs)
    with tl.no_bar(), tl.no_logging(): tl.fit(n_epoch, patience)
    return tl

@pytest.fixture(scope='module')
def fitted():
    "Each engine on each target, fitted when first asked for"
    made = {}
    def get(name, target='value'):
        if (name,target) not in made: made[name,target] = grown(name, data(target))
        return made[name,target]
    return get

# --- every engine, every kind of target

@pytest.mark.parametrize('target', list(targets))
@pytest.mark.parametrize('name', names)
def test_learns_rows_in_any_form_and_the_file(fitted, name, target, tmp_path):
    tl,df = fitted(name, target),table()
    p,y = tl.get_preds()
    if target in ('value','several'): assert ((p-y)**2).mean() < .6*y.var()
    elif target=='labels': assert ((p > .5) == y).float().mean() > .7
    else:
        assert (p.argmax(1) == y[:,0]).float().mean() > .6 and torch.allclose(p.sum(1), torch.ones(100, dtype=p.dtype))
    new = df[300:].assign(more=1)
    shuffled = new[np.random.RandomState(0).permutation(new.columns)]
    def same(a, b): return torch.allclose(a, b, rtol=0, atol=1e-14)  # the last bit, by how many rows
    assert same(tl.get_preds(dl=shuffled)[0], p), 'columns in any order, further ones'
    assert same(tl.get_preds(dl=tl.test_dl(new))[0], p), 'the slow way'
    for i in (0,9):
        row = df.iloc[300+i]
        for form in (row, row.to_dict(), df.iloc[300+i:301+i], row.drop(every)):
            assert same(tl.predict(form)[2], p[i])
    assert np.allclose(tl.validate(), tl.validate(dl=new), rtol=1e-6)
    tl.path = tmp_path
    loaded = load_tree_learner(tl.export('m.trees'))
    assert torch.equal(loaded.get_preds(dl=new)[0], tl.get_preds(dl=new)[0])
    assert torch.equal(loaded.predict(df.iloc[305])[2], tl.predict(df.iloc[305])[2])
    assert same(loaded.get_preds(dl=loaded.test_dl(new))[0], p)
    assert np.allclose(loaded.validate(dl=new), tl.validate())

@pytest.mark.parametrize('name', names)
def test_probability_columns_follow_the_given_order(name):
    for order in (['yes','no'],['no','yes']):
        dls = data('two', classes=order)
        tl = grown(name, dls, accuracy)
        assert list(dls.vocab) == order and tl.validate()[1] > .75
        p = tl.get_preds()[0]
        assert (np.array(order)[p.argmax(1)] == table().two[300:]).mean() > .75
        assert np.isclose(tl.validate(dl=table()[300:])[1], tl.validate()[1])
        assert tl.predict(table().iloc[300])[0].decode().items.two.iloc[0] == order[int(p[0].argmax())]

@pytest.mark.parametrize('name', names)
def test_contributions_sum_to_the_prediction(fitted, name):
    tl = fitted(name)
    x,_ = tl.encode(table()[300:])
    assert np.allclose(tl.model.engine.contributions(x).sum(1), tl.get_preds()[0], atol=1e-3, rtol=1e-5)

@pytest.mark.parametrize('target', ['value','two','three'])
def test_contributions_of_hist_sum_to_what_scikit_learn_computes(target, tmp_path):
    rng = np.random.RandomState(0)
    x = np.column_stack([rng.randint(0, 5, 600), rng.randint(0, 40, 600), rng.randn(600, 2)]).astype('float32')
    x[::7,2] = np.nan                                      # and codes of 0 are missing categories
    y = (x[:,1] % 3) + x[:,3] + np.isnan(x[:,2]) + (x[:,0]==2)
    if target != 'value': y = np.digitize(y, [1.5] if target=='two' else [1, 2.5]).astype('float64')
    task = Task('value' if target=='value' else 'class', len(set(y)) if target != 'value' else 1, list('abcd'), [5,40])
    hist = Hist(task, n_estimators=30).fit(x, y)
    parts,est = hist.contributions(x),hist.est
    theirs = est.predict(hist.seen(x)) if target=='value' else est.decision_function(hist.seen(x))
    assert parts.shape == (600, 5, 3 if target=='three' else 1)
    assert np.abs(parts.sum(1) - theirs.reshape(600, -1)).max() < 1e-6
    assert np.abs(parts.sum(1).mean(0) - parts[0,-1]).max() < 1e-6   # the base is the mean of the rows it was fitted on
    again = hist.fresh()
    again.restore(*hist.state())
    assert np.array_equal(again.contributions(x), parts)
    alone = np.where(np.arange(4)==3, x, 1).astype('float32')   # a column that no tree asks adds nothing
    only = Hist(task, n_estimators=5).fit(alone, y).contributions(alone)
    assert not only[:,:3].any() and only[:,3].any()

def test_contributions_of_hist_know_a_class_that_no_row_has():
    x,y = np.random.RandomState(0).randn(90, 2).astype('float32'),np.arange(90.)%2*2   # of three classes 0 and 2
    hist = Hist(Task('class', 3, ['a','b'], []), n_estimators=5).fit(x, y)
    scores = hist.contributions(x).sum(1)
    assert np.allclose(np.exp(scores)/np.exp(scores).sum(1, keepdims=True), hist.predict(x))

@pytest.mark.parametrize('name', names)
def test_a_column_may_be_held_monotone(name):
    tl = grown(name, monotone=dict(a=1))
    rows = pd.concat([table()[300:301]]*60).assign(a=np.linspace(-3, 3, 60))
    assert (np.diff(tl.get_preds(dl=rows)[0].ravel()) >= -1e-6).all()
    with pytest.raises(ValueError, match="'size'.*not among the continuous"):
        tree_learner(data(), name, monotone=dict(size=1))

@pytest.mark.parametrize('name', names)
def test_a_column_is_held_monotone_for_each_level(name):
    "Against what the rows say; CatBoost joins categories with numbers, whose means would rise"
    rng = np.random.RandomState(0)
    df = pd.DataFrame(dict(x=rng.randn(240), k=rng.choice(list('abc'), 240), j=rng.choice(list('pqrst'), 240)))
    how = {} if name=='dt' else dict(n_estimators=200)
    tl = tree_learner(tabular_dls(df.assign(y=3*df.x+.2*rng.randn(240)), 'y'), name, monotone=dict(x=-1), **how)
    with tl.no_bar(), tl.no_logging(): tl.fit(patience=None)
    for k,j in itertools.product('abc', 'pqrst'):
        p = tl.get_preds(dl=pd.DataFrame(dict(x=np.linspace(-3, 3, 50), k=k, j=j)))[0].ravel()
        assert (np.diff(p) <= 1e-6).all()

@pytest.mark.parametrize('name', names)
def test_weights_count(name):
    df = table()
    df['w'] = np.where(np.arange(400) < 150, 1e-9, 1.)
    half,whole = grown(name, data(df=df, wgts='w')),grown(name, data(df=df.drop(columns='w')))
    assert 'w' not in half.dls.cont_names and not torch.equal(half.get_preds()[0], whole.get_preds()[0])
    again = tree_learner(data(df=df.drop(columns='w')), name, **small(name))
    with again.no_bar(), again.no_logging(): again.fit(1, 10, wgts=half.dls.train.wgts*300)
    assert torch.allclose(again.get_preds()[0], half.get_preds()[0], rtol=1e-4)
    with pytest.raises(ValueError, match='300 numbers >= 0'): again.fit(wgts=[1,2])

@pytest.mark.parametrize('name', names)
def test_missing_values_as_they_are(name):
    df = table()
    dls = TabularPandas(df, [Categorify], ['kind','size'], ['a','b'], 'value',
                        splits=[list(range(300)),list(range(300,400))]).dataloaders()
    assert np.isnan(dls.train_ds.items.b).any() and np.isfinite(grown(name, dls).validate()[0])

@pytest.mark.parametrize('name', names)
def test_large_targets_keep_their_digits(name):
    df = table()
    df['value'] = df.value + 2e8
    tl = grown(name, data(df=df))
    p,y = tl.get_preds()
    assert (y.ravel().numpy() == df.value[300:]).all() and ((p-y)**2).mean() < .6*y.var()

# --- the same as the library used by hand

def arrays(dls): return [(tl_x(ds), ds.items.value.to_numpy()) for ds in (dls.train_ds, dls.valid_ds)]

def tl_x(ds):
    (c,x),_ = tensors(ds, False)
    c = c.numpy().astype('float32')
    c[c==0] = np.nan
    return np.concatenate([c, x.numpy()], axis=1)

def test_hist_stops_as_scikit_learn_does():
    dls = data()
    tl = grown('hist', dls, n_estimators=500, lr=.2, patience=5)
    (x,y),(vx,vy) = arrays(dls)
    est = HistGradientBoostingRegressor(max_iter=500, learning_rate=.2, early_stopping=True, n_iter_no_change=5, tol=0,
                                        scoring='loss', random_state=0,
                                        categorical_features=[0,1,2]).fit(x, y, X_val=vx, y_val=vy)
    best = int(np.argmax(est.validation_score_))
    assert tl.model.engine.n_rounds == best < est.n_iter_ < 500
    assert np.allclose(tl.get_preds()[0].ravel(), list(est.staged_predict(vx))[best-1])

def test_xgb_as_by_hand():
    import xgboost as xgb
    dls = data()
    tl = grown('xgb', dls, n_estimators=500, lr=.3, patience=5)
    (x,y),(vx,vy) = arrays(dls)
    types = ['c']*3+['q']*3
    m = xgb.XGBRegressor(n_estimators=500, learning_rate=.3, early_stopping_rounds=5, feature_types=types,
                         enable_categorical=True, random_state=0)
    m.fit(x, y, eval_set=[(vx,vy)], verbose=False)
    assert tl.model.engine.n_rounds == m.best_iteration+1 < 500
    assert np.allclose(tl.get_preds()[0].ravel(), m.predict(vx), rtol=1e-5)

def test_lgbm_as_by_hand():
    import lightgbm as lgb
    dls = data()
    tl = grown('lgbm', dls, n_estimators=500, lr=.2, patience=5)
    (x,y),(vx,vy) = arrays(dls)
    m = lgb.LGBMRegressor(n_estimators=500, learning_rate=.2, random_state=0, verbose=-1, deterministic=True,
                          force_row_wise=True, min_child_weight=1e-3)
    m.fit(x, y, eval_set=[(vx,vy)], categorical_feature=[0,1,2], callbacks=[lgb.early_stopping(5, verbose=False)])
    assert tl.model.engine.n_rounds == m.best_iteration_ < 500
    assert np.allclose(tl.get_preds()[0].ravel(), m.predict(vx), rtol=1e-4)

def test_catboost_as_by_hand():
    from catboost import CatBoostRegressor
    dls = data()
    tl = grown('catboost', dls, n_estimators=300, lr=.2, patience=5)
    frame = lambda ds: pd.concat([ds.items[list(ds.cont_names)].astype('float32'),
                                  ds.items[list(ds.cat_names)].astype(int)], axis=1)
    m = CatBoostRegressor(iterations=300, learning_rate=.2, random_seed=0, verbose=False, allow_writing_files=False,
                          cat_features=list(dls.cat_names))
    m.fit(frame(dls.train_ds), dls.train_ds.items.value, eval_set=(frame(dls.valid_ds), dls.valid_ds.items.value),
          early_stopping_rounds=5)
    assert tl.model.engine.n_rounds == m.tree_count_ < 300
    assert np.allclose(tl.get_preds()[0].ravel(), m.predict(frame(dls.valid_ds)), rtol=1e-4)

def test_out_of_bag_as_scikit_learn_has_it():
    tl = grown('rf', n_estimators=40)
    (c,x),(y,) = tensors(tl.dls.train_ds, False)
    est = RandomForestRegressor(**tl.model.est.get_params()|dict(oob_score=True))
    est.fit(tl.model.x(c, x), y.numpy().ravel())
    assert np.allclose(tl.oob_preds()[0].ravel(), est.oob_prediction_)
    assert np.isclose(tl.oob()[0], ((est.oob_prediction_-y.numpy().ravel())**2).mean())
    with pytest.raises(ValueError, match='bootstrap=True'): grown('extra').oob()
    with pytest.raises(NotImplementedError, match="'hist' has no independent trees"): grown('hist').oob()
    cl = grown('rf', data('three'), accuracy)
    assert cl.oob()[1] > .5 and cl.oob_preds()[0].shape[1] == 3

def test_spread_is_that_of_the_trees():
    tl = grown('rf')
    x,_ = tl.encode(table()[300:])
    each = np.stack([t.predict(x) for t in tl.model.est.estimators_])
    s = tl.spread()
    assert np.allclose(s.spread, each.std(0))
    assert np.allclose(s.prediction, tl.get_preds()[0].ravel())
    assert list(s.index) == list(range(300,400))
    assert np.allclose(tl.spread(dl=table()[300:]), s)
    assert (grown('extra', data('three')).spread().prediction <= 1).all()

# --- estimators and arguments

def test_the_same_argument_means_the_same_thing():
    for name in boosters: assert grown(name, n_estimators=7, lr=.3, max_depth=3).model.engine.n_rounds <= 7
    forest = grown('rf', n_estimators=7, max_depth=2, min_child=3, subsample=.5)
    assert forest.model.est.get_params()['max_samples'] == .5
    assert grown('extra', n_estimators=7, subsample=.5).model.est.bootstrap
    with pytest.raises(ValueError, match="'rf' has no lr"): tree_learner(data(), 'rf', lr=.1)
    with pytest.raises(ValueError, match="given twice"): tree_learner(data(), 'hist', lr=.1, learning_rate=.2)
    with pytest.raises(ValueError, match="grow_policy"): tree_learner(data(), 'catboost', min_child=3)
    with pytest.raises(TypeError, match="num_leafs"): tree_learner(data(), 'lgbm', num_leafs=3)
    with pytest.raises(TypeError, match="max_dept"): tree_learner(data(), 'xgb', max_dept=3)

@pytest.mark.parametrize('make,name', [
    ('xgboost.XGBRegressor','xgb'), ('lightgbm.LGBMRegressor','lgbm'), ('catboost.CatBoostRegressor','catboost'),
    ('sklearn.ensemble.RandomForestRegressor','rf'),
    ('sklearn.ensemble.HistGradientBoostingRegressor','hist'), ('sklearn.tree.DecisionTreeRegressor','dt'),
    ('sklearn.linear_model.Ridge','Ridge')])
def test_an_estimator_or_its_class(make, name):
    module,cls = make.rsplit('.', 1)
    cls = getattr(__import__(module, fromlist=[cls]), cls)
    for model,kw in ((cls,{}),(cls(),{})):
        if name in ('catboost',): kw = {}
        tl = grown(model,
                   TabularPandas(table(), [Categorify,FillMissing,Normalize], ['kind','size'], ['a','b'], 'value',
                                        splits=[list(range(300)),list(range(300,400))]), patience=5, **kw)
        assert tl.model.engine.name == name and np.isfinite(tl.validate()[0])

def test_a_tabular_pandas_will_do():
    to = TabularPandas(table(), [Categorify,FillMissing], ['kind'], ['a','b'], 'value',
                       splits=[list(range(300)),list(range(300,400))])
    assert grown('rf', to).get_preds()[0].shape == (100,1)

def test_a_missing_package_gives_the_line_to_install_it(monkeypatch):
    dls = data()
    for name,package in dict(xgb='xgboost', lgbm='lightgbm', catboost='catboost').items():
        monkeypatch.setitem(sys.modules, package, None)  # an import of it fails
        with pytest.raises(ImportError, match=re.escape(f"pip install 'fastai_ext[{name}]'")): tree_learner(dls, name)

# --- what is there stays there

@pytest.mark.parametrize('name', ['rf','xgb'])
def test_a_refused_failed_or_interrupted_fit_leaves_the_model(name):
    tl = grown(name)
    before = tl.get_preds()[0]
    for bad in (dict(n_epoch=0), dict(wgts=[1]), dict(patience=0)):
        with pytest.raises(ValueError): tl.fit(**bad)
        assert torch.equal(tl.get_preds()[0], before)
    class Stop(Callback):
        def after_batch(self):
            if self.training: raise KeyboardInterrupt
    class Early(Callback):
        def before_fit(self): raise CancelFitException
    with tl.no_bar(), tl.no_logging():
        with pytest.raises(KeyboardInterrupt): tl.fit(cbs=Stop())
        assert torch.equal(tl.get_preds()[0], before)
        tl.fit(cbs=Early())
        assert torch.equal(tl.get_preds()[0], before)
        tl.model.engine.given['max_depth'] = 'deep'
        with pytest.raises(Exception, match='max_depth'): tl.fit()  # the engine itself refuses
        assert torch.equal(tl.get_preds()[0], before)

def test_a_fit_in_parts_that_fails_on_the_way_leaves_the_model_whole():
    class Stop(Callback):
        def after_epoch(self): raise KeyboardInterrupt
    tl = grown('rf', n_epoch=1)
    before = tl.get_preds()[0]
    with tl.no_bar(), tl.no_logging(), pytest.raises(KeyboardInterrupt): tl.fit(4, cbs=Stop())
    assert torch.equal(tl.get_preds()[0], before) and tl.model.engine.n_rounds == 25
    new = tree_learner(data(), 'rf', n_estimators=25)
    with new.no_bar(), new.no_logging(), pytest.raises(KeyboardInterrupt): new.fit(4, cbs=Stop())
    assert torch.equal(new.get_preds()[0], before)  # nothing was there, and the forest had grown

def test_saved_trees_are_taken_where_their_codes_mean_the_same(tmp_path):
    df = table()[['kind','a','two']]
    def make(df=df, **kwargs):
        dls = tabular_dls(df, 'two', **dict(valid=range(300,400)) | kwargs)
        return tree_learner(dls, 'rf', path=tmp_path, n_estimators=9)
    tl = make()
    with tl.no_bar(), tl.no_logging(): tl.fit()
    tl.save('m')
    assert torch.equal(make().load('m').get_preds()[0], tl.get_preds()[0])
    for other in (make(classes=['yes','no']), make(valid=range(100)), make(df.assign(kind=df.kind.str.upper()))):
        with pytest.raises(ValueError, match='know other codes of categories or classes, or other means'):
            other.load('m')

def half(y): return y/2
def twice(y): return y*2

def test_save_model_takes_trees_of_a_function_of_ones_own(tmp_path):
    def make(y_tfm): return tree_learner(data(), 'rf', path=tmp_path, n_estimators=9, y_tfm=y_tfm)
    tl = make((half,twice))
    with tl.no_bar(), tl.no_logging(): tl.fit(cbs=SaveModelCallback(fname='m'))
    assert torch.equal(make((half,twice)).load('m').get_preds()[0], tl.get_preds()[0])
    for other in (None, (np.log,np.exp)):
        with pytest.raises(ValueError, match=r"m was fitted with y_tfm=\['half', 'twice'\], this learner with"):
            make(other).load('m')

def test_no_validation_rows_are_no_obstacle_and_are_said():
    df = table().drop(columns=[n for n in every if n != 'value'])
    dls = tabular_dls(df, 'value', valid=0)
    for name in boosters:
        tl = tree_learner(dls, name, n_estimators=12)
        with pytest.warns(UserWarning, match='no validation rows to stop on'), tl.no_bar(), tl.no_logging(): tl.fit()
        assert tl.model.engine.n_rounds == 12
        with pytest.raises(ValueError, match='no rows to show'): tl.show_results()

def test_callbacks_of_fastai(tmp_path, capsys):
    dls = data('two')
    dls.path = tmp_path
    for name in ('lgbm','rf'):
        tl = tree_learner(dls, name, accuracy, path=tmp_path, n_estimators=40)
        with tl.no_bar(), tl.no_logging():
            tl.fit(8, None, cbs=[SaveModelCallback(fname='best'), CSVLogger(fname=f'{name}.csv')])
        log = pd.read_csv(tmp_path/f'{name}.csv')
        assert len(log) == 8
        assert np.isclose(log.valid_loss.min(), tl.validate()[0], rtol=1e-4)
        assert (tmp_path/'models/best.trees').exists()
        with tl.no_bar(), tl.no_logging(): tl.fit(8, None, cbs=EarlyStoppingCallback(monitor='accuracy', patience=1))
        assert tl.model.engine.n_rounds <= 40 and len(tl.recorder.values) <= 8
        cm = ClassificationInterpretation.from_learner(tl).confusion_matrix()
        assert np.isclose(cm.trace()/cm.sum(), tl.validate()[1])

def test_the_bar_moves_and_a_callback_stops_the_growth():
    seen = []
    class Look(Callback):
        def after_batch(self):
            if self.training and self.n_iter > 1: seen.append(float(getattr(self.learn, 'smooth_loss', 0)))
            if len(seen) == 5: raise CancelFitException
    for name in ('xgb','lgbm','catboost'):
        seen.clear()
        tl = tree_learner(data(), name, n_estimators=100)
        with tl.no_bar(), tl.no_logging(): tl.fit(cbs=Look(), blocks=20)
        assert len(seen) == 5 and seen[0] > seen[-1] and 20 <= tl.model.engine.n_rounds < 60

@pytest.mark.parametrize('name', boosters)
def test_a_callback_stops_the_growth_in_its_first_round(name):
    class Stop(Callback):
        def after_batch(self):
            if self.training and self.n_iter > 1: raise CancelFitException
    tl = tree_learner(data(), name, n_estimators=100)
    with tl.no_bar(), tl.no_logging(): tl.fit(cbs=Stop(), blocks=100)
    assert tl.model.engine.n_rounds <= 2 or name=='hist'  # which tells nobody before it is done
    assert tl.get_preds()[0].isfinite().all()

def test_clone_summary_and_a_second_fit(fitted):
    for name in names:
        tl = fitted(name)
        new = tl.clone()
        assert not new.fitted and 'not fitted' in new.summary() and name in repr(new)
        with new.no_bar(), new.no_logging(): new.fit(1, 10)
        assert torch.equal(new.get_preds()[0], tl.get_preds()[0]) and '300 training rows' in new.summary()
        assert isinstance(copy.deepcopy(tl).get_preds()[0], torch.Tensor)

# --- files

def test_18_exact_in_a_fresh_process(fitted, tmp_path):
    df = table()[300:]
    df.to_pickle(tmp_path/'rows.pkl')
    kinds = [(n,t) for n in names for t in ('value','three')]
    for n,t in kinds:
        tl = fitted(n, t)
        tl.path = tmp_path
        tl.export(f'{n}-{t}.trees')
    code = ("import warnings; warnings.simplefilter('ignore')\nimport pandas as pd, torch\nfrom pathlib import Path\n"
            "from fastai_ext.tabular.files import load_tree_learner\n"
            "df = pd.read_pickle('rows.pkl')\n"
            "torch.save({f.stem: load_tree_learner(f).get_preds(dl=df)[0] for f in Path('.').glob('*.trees')}, "
            "'preds.pt')\n")
    subprocess.run([sys.executable, '-c', code], cwd=tmp_path, env={**os.environ, 'PYTHONPATH': str(root)}, check=True)
    got = torch.load(tmp_path/'preds.pt')
    assert set(got) == {f'{n}-{t}' for n,t in kinds}
    for n,t in kinds: assert torch.equal(got[f'{n}-{t}'], fitted(n, t).get_preds(dl=df)[0]), (n,t)

def rewritten(path, new, **changes):
    "A copy of the archive with other entries"
    with zipfile.ZipFile(path) as z: parts = {n: z.read(n) for n in z.namelist()}
    with zipfile.ZipFile(new, 'w') as z:
        for n,b in parts.items(): z.writestr(n, changes.get(n, b))
    return new

def test_files_that_are_not_ours_whole_or_new(fitted, tmp_path):
    tl = fitted('rf')
    tl.path = tmp_path
    path = tl.export('good.trees')
    head = json.loads(zipfile.ZipFile(path).read('head.json'))
    newer = rewritten(path, tmp_path/'newer', **{'head.json': json.dumps(head|dict(version=99))})
    with pytest.raises(ValueError, match='newer fastai_ext.*pip install -U'): load_tree_learner(newer)
    odd = rewritten(path, tmp_path/'odd', **{'values.npy': zipfile.ZipFile(path).read('values.npy')[:-8]+b'12345678'})
    with pytest.raises(ValueError, match='damaged'): load_tree_learner(odd)
    meta = rewritten(path, tmp_path/'meta', **{'meta.json': b'{}'})
    with pytest.raises(ValueError, match='damaged'): load_tree_learner(meta)
    (tmp_path/'cut').write_bytes(path.read_bytes()[:-500])
    (tmp_path/'pickle').write_bytes(b'\x80\x04K\x01.')
    for name in ('cut','pickle'):
        with pytest.raises(ValueError, match='no file of trees'): load_tree_learner(tmp_path/name)
    torch.save(dict(a=torch.ones(2)), tmp_path/'network.pth')
    with pytest.raises(ValueError, match='another kind of file'): load_tree_learner(tmp_path/'network.pth')
    with pytest.raises(FileNotFoundError): load_tree_learner(tmp_path/'nowhere')

@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(field=st.sampled_from(['left_child','right_child','feature','count','values','node/left','node/feature_idx',
                              'node/bitset_idx','places']),
       at=st.integers(0, 10**6), value=st.sampled_from([-5,0,7,10**6]))
def test_15_nodes_that_lead_nowhere_raise_and_never_crash(fitted, field, at, value):
    "As an attacker would write them, with sound checksums"
    for name in ('rf','hist'):
        engine = fitted(name).model.engine
        meta,blobs = engine.state()
        if field not in blobs: continue
        blobs = {k:v.copy() for k,v in blobs.items()}
        if field=='values': blobs[field] = blobs[field][:-1]
        else: blobs[field].flat[at % blobs[field].size] = np.asarray(value).astype(blobs[field].dtype)
        fresh = engine.fresh()
        try: fresh.restore(meta, blobs)
        except ValueError as e:
            assert 'damaged' in str(e)
            continue
        fresh.predict(fitted(name).encode(table()[:50])[0])

def test_nothing_is_overwritten_by_what_cannot_be_written(tmp_path):
    tl = grown('rf', path=tmp_path)
    good = tl.export('m.trees').read_bytes()
    with pytest.raises(ValueError, match='not fitted'): tree_learner(data(), path=tmp_path).export('m.trees')
    with pytest.raises(ValueError, match='y_tfm can be written'):
        grown('rf', path=tmp_path, y_tfm=(lambda y: y/2, lambda y: y*2)).export('m.trees')
    class Mine(TabularProc):
        def encodes(self, to): pass
    dls = TabularPandas(table(), [Categorify,FillMissing,Mine], ['kind'], ['a','b'], 'value',
                        splits=[list(range(300)),list(range(300,400))]).dataloaders()
    own = grown('rf', dls, path=tmp_path)
    assert torch.equal(own.get_preds(dl=table()[300:])[0], own.get_preds()[0])
    assert torch.equal(own.predict(table().iloc[300])[2], own.get_preds()[0][0])
    with pytest.raises(ValueError, match='processing step'): own.export('m.trees')
    assert (tmp_path/'m.trees').read_bytes() == good and list(tmp_path.glob('*.part')) == []
    loaded = load_tree_learner(tmp_path/'m.trees')
    with pytest.raises(ValueError, match='loaded learner has none'): loaded.fit()
    assert torch.equal(loaded.get_preds(dl=table()[300:])[0], tl.get_preds()[0])
    again = load_tree_learner(loaded.export(tmp_path/'n.trees'))
    assert torch.equal(again.get_preds(dl=table()[300:])[0], tl.get_preds()[0])

def test_functions_of_the_target_go_into_the_file_by_name(tmp_path):
    tl = grown('lgbm', y_tfm=(np.log, np.exp), path=tmp_path)
    loaded = load_tree_learner(tl.export(), metrics=rmse)
    assert torch.equal(loaded.get_preds(dl=table()[300:])[0], tl.get_preds()[0])
    p,y = tl.get_preds()
    assert np.allclose(loaded.validate(dl=table()[300:]), [((p.log()-y.log())**2).mean(), ((p-y)**2).mean()**.5],
                       rtol=1e-5)

# --- the encoder: the same bits as fastai's own steps

@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.booleans(), st.booleans())
def test_the_encoder_gives_what_fastai_gives(seed, shrink, normal, gaps):
    rng = np.random.RandomState(seed)
    df = table(200, seed)
    df['whole'] = rng.randint(0, 50, 200)
    df['single'] = rng.rand(200).astype('float32')
    if not gaps: df['b'] = df.b.fillna(1.)
    procs = [Categorify,FillMissing] + ([Normalize] if normal else [])
    conts = list(rng.permutation(['a','b','whole','single'])[:rng.randint(1, 5)])
    to = TabularPandas(df[[*df.columns.drop(conts), *conts]], procs, ['kind','size'], conts, 'value',
                       splits=[list(range(150)),list(range(150,200))],
                       reduce_memory=shrink)
    tl = grown('dt', to.dataloaders())
    new = df[150:].reset_index(drop=True)
    for n in ('kind','size'): new[n] = new[n].astype(rng.choice(['object','category','string']))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        new.loc[3,'size'] = None
        new.loc[5,conts[0]] = np.nan
        x,y = tl.encode(new)
        (c,n),(t,) = tensors(rows_dl(tl.dls, new, levels=tl.seen_levels()).dataset, False)
        assert np.array_equal(x, tl.model.x(c, n), equal_nan=True) and np.array_equal(y, t.numpy())
        whole = tensors(tl.dls.valid_ds, False)[0]
        rows = [i for i in range(50) if i not in (3,5)]
        assert np.array_equal(x[rows], tl.model.x(*whole)[rows]), 'new rows get the bits of their twins'
        for i in (0,3,5,7): assert np.array_equal(tl.encode(new.iloc[i])[0], x[i:i+1], equal_nan=True)

def test_instances_of_forests_are_scikit_learn_s(fitted):
    for est in (RandomForestRegressor(20, random_state=3), ExtraTreesRegressor(20, random_state=3)):
        tl = grown(est)
        (c,x),(y,) = tensors(tl.dls.train_ds, False)
        by_hand = type(est)(20, random_state=3).fit(tl.model.x(c, x), y.numpy().ravel())
        assert np.allclose(by_hand.predict(tl.encode(table()[300:])[0]), tl.get_preds()[0].ravel())
    with pytest.raises(ValueError, match='give a regressor'): tree_learner(data(), RandomForestClassifier())
    with pytest.raises(ValueError, match='for the engines by name'): tree_learner(data(), Ridge(), monotone=dict(a=1))

# SHAP values

@pytest.mark.parametrize('name', ('dt','rf','extra'))
@pytest.mark.parametrize('target', ('value','three'))
def test_shap_values_of_trees_and_forests_are_those_of_the_package(name, target):
    "For a class its probability; what was made of a column, as whether it is missing, counts as that column"
    shap = pytest.importorskip('shap')
    df = table(160)
    dls = tabular_dls(df.drop(columns=[n for n in every if n != target]), target, valid=range(120,160))
    tl = tree_learner(dls, name, **({} if name == 'dt' else dict(n_estimators=4)))
    with tl.no_bar(), tl.no_logging(): tl.fit()
    rows = df[120:130]
    e = tl.shap(rows, **({} if target == 'value' else dict(target='mid')))
    x,_ = tl.encode(rows)
    told = tl.get_preds(dl=rows)[0][:,0 if target == 'value' else list(dls.vocab).index('mid')].numpy()
    assert np.allclose(e.values.sum(1)+e.base_values, told, atol=1e-4)
    ref = shap.TreeExplainer(tl.model.est).shap_values(x, check_additivity=False)
    if target == 'three': ref = ref[...,list(dls.vocab).index('mid')]
    columns = tl.model.engine.task.columns
    for j,n in enumerate(e.feature_names):
        parts = [i for i,c in enumerate(columns) if c == n or c == f'{n}_na']
        assert parts and np.allclose(e.values[:,j], ref[:,parts].sum(1), atol=1e-5), n
    assert sorted(e.feature_names) == ['a','b','c','kind','size']

# the embeddings of a network in the place of categories

def network(dls, **kwargs): return tabular_learner(dls, layers=[4], **kwargs)

def test_boosted_trees_on_embeddings_are_those_on_their_numbers():
    "With the rounds that validation kept, and the first few of them; trees do not mind that `wide` is scaled"
    df = table().drop(columns=['b', *(n for n in every if n != 'value')])
    torch.manual_seed(0)
    dls = tabular_dls(df, 'value', valid=range(300,400))
    net = network(dls)
    embed = embed_features(net)
    made = embed(df)
    wide = tabular_dls(made[[*embed.columns, 'a','c','value']], 'value', valid=range(300,400))
    how = dict(n_epoch=40, patience=3, n_jobs=1)
    mine,plain = grown('lgbm', dls, embed=net, **how),grown('lgbm', wide, **how)
    x,_ = mine.encode(df[300:])
    y,_ = plain.encode(made[300:])
    assert plain.model.engine.task.columns == [*embed.columns, 'a','c']
    ours,theirs = mine.model.engine,plain.model.engine
    assert ours.n_rounds == theirs.n_rounds > 3 and np.allclose(ours.predict(x), theirs.predict(y))
    assert np.allclose(ours.first(3).predict(x), theirs.first(3).predict(y))
    assert not np.allclose(ours.first(3).predict(x), ours.predict(x))

def test_networks_that_have_no_embeddings_to_give():
    df = table()[['a','c','value']]
    with pytest.raises(ValueError, match='no categories, so it has no embeddings'):
        embed_features(network(tabular_dls(df, 'value', valid=range(300,400))))
    class Twice(TabularProc):
        def encodes(self, to): to.conts = to.conts*2
    to = TabularPandas(table(), [Categorify,Twice], ['kind'], ['a'], 'value',
                       splits=[list(range(300)),list(range(300,400))])
    with pytest.raises(ValueError, match="processing step of these data is not one of fastai's; make them by"):
        embed_features(network(to.dataloaders(bs=64)))

# what cannot be told, and what to do instead

def test_rows_that_are_asked_about():
    "Rows of validation where none are given; a date that lost its whole is asked for"
    tl = grown('dt', tabular_dls(table()[['a','c','value']], 'value', valid=[]))
    with pytest.raises(ValueError, match='partial: there are no validation rows; give rows=frame'): tl.partial('a')
    assert len(tl.partial('a', table()[:9], n=4)) == 4
    with pytest.raises(ValueError, match="partial: there is no column 'b'; the rows have a, c"):
        tl.partial('b', table()[['a','c']])
    with pytest.raises(ValueError, match='partial: n=1 values; give 2 or more'): tl.partial('a', n=1)
    with pytest.raises(ValueError, match=r'contributions: 2 rows; give one'): tl.contributions(table()[:2])

def test_validation_rows_that_are_asked_about_keep_their_gaps():
    df = table()[['kind','a','b','value']].assign(value=lambda o: o.a+9*o.b.isna())
    df['kind'] = np.where(df.index==350, 'new', df.kind)
    steps = [Categorify,FillMissing,Normalize]
    raw = TabularPandas(df, steps, ['kind'], ['a','b'], 'value', splits=[list(range(300)),list(range(300,400))])
    for dls in (tabular_dls(df, 'value', valid=range(300,400)), raw):
        tl = grown('rf', dls)
        assert np.allclose([e.prediction for e in tl.partial('a')], [e.prediction for e in tl.partial('a', df[300:])])
        with warnings.catch_warnings():
            warnings.filterwarnings('error', message=".*become '#na#': '#na#'")
            e = tl.shap()
        assert np.allclose(e.values.sum(1)+e.base_values, tl.get_preds()[0][:,0], atol=1e-5)

def test_a_loaded_learner_is_asked_with_rows(tmp_path):
    "It has none of its own; SHAP values against the rows that are explained would be others, of one row all 0"
    df = table()[['kind','a','b','value']]
    tl = grown('hist', tabular_dls(df, 'value', valid=range(300,400)))
    loaded = load_tree_learner(tl.export(tmp_path/'m.trees'))
    train = df[:300]
    told = tl.shap(df[300:301], background=train)
    assert np.allclose(loaded.shap(df[300:301], background=train).values, told.values)
    assert np.allclose(told.base_values, tl.get_preds(dl=train)[0].mean(), atol=.05) and abs(told.values).max() > 1
    with pytest.raises(ValueError, match='no training rows to compare with.*background=frame'): loaded.shap(df[300:301])
    for f in (loaded.redundant, loaded.plot_redundant, lambda: drift(loaded.dls, df)):
        with pytest.raises(ValueError, match=r'no training rows \(a loaded learner has none\)'): f()
    forest = load_tree_learner(grown('rf', tl.dls).export(tmp_path/'f.trees'))
    for f in (loaded.validate, loaded.get_preds, forest.spread):
        with pytest.raises(ValueError, match='no validation rows .* give dl=frame'): f()
    with pytest.raises(ValueError, match=r"validate: the rows lack the targets \['value'\]"):
        loaded.validate(dl=df.drop(columns='value'))

def test_a_partial_of_what_the_model_does_not_see_is_no_flat_line():
    df = table()[['a','c','kind','value']].assign(one=1.)
    df['sold'] = pd.date_range('2020-01-01', periods=len(df))
    tl = grown('dt', tabular_dls(df, 'value', valid=range(300,400)))
    for n in ('value','one','more'):
        with pytest.raises(ValueError, match=f"the model does not see '{n}', it sees kind, sold, a, c"):
            tl.partial(n, df.assign(more=1))
    with pytest.raises(ValueError, match="the model does not see 'soldDay'"): tl.partial('soldDay')
    for f in (lambda o: tl.partial('a', o), tl.shap):
        with pytest.raises(ValueError, match='there are no rows; give a frame of one or more'): f(df[:0])
    assert tl.partial('a', df.iloc[0])[0].value == df.a[0]

@pytest.mark.parametrize('name', [*names, Ridge()])
def test_a_clone_on_other_data_is_a_learner_of_those(name):
    "With more levels, more classes and another column"
    rng = np.random.RandomState(0)
    few,many = (pd.DataFrame(dict(a=rng.randn(300), k=rng.choice(list(o), 300))) for o in ('abc','abcdefghijk'))
    few['y'],many['y'] = few.a,many.a+many.k.map(ord)
    small_,large = tabular_dls(few, 'y'),tabular_dls(many.assign(more=rng.randn(300)), 'y')
    again,new = grown(name, small_).clone(large),grown(name, large)
    with again.no_bar(), again.no_logging(): again.fit(patience=10)
    assert torch.equal(again.get_preds()[0], new.get_preds()[0])
    classes = tabular_dls(many.assign(y=many.k.isin(list('ab'))), 'y')
    with pytest.raises(ValueError, match='the target of these data is a class, that of this learner a value'):
        new.clone(classes)
    if isinstance(name, str):
        with pytest.raises(ValueError, match="these data have no 'more', which this learner holds monotone"):
            tree_learner(large, name, monotone=dict(more=1)).clone(small_)
        two = grown(name, classes).clone(tabular_dls(many.assign(y=many.k.where(many.k < 'c', 'z')), 'y'))
        with two.no_bar(), two.no_logging(): two.fit(patience=10)
        assert two.get_preds()[0].shape[1] == 3

def test_seed_and_threads_reach_an_estimator_that_leaves_them_open():
    def made(est, **kwargs): return grown(est, data('two'), **kwargs).model.est
    assert made(BaggingClassifier(n_estimators=3), seed=5, n_jobs=1).get_params(False)['random_state'] == 5
    own = made(BaggingClassifier(n_estimators=3, random_state=1, n_jobs=1), seed=5, n_jobs=2)
    assert (own.random_state, own.n_jobs) == (1,1)
    with pytest.raises(ValueError, match='GaussianNB has no n_jobs'): tree_learner(data('two'), GaussianNB(), n_jobs=2)

def test_levels_of_two_types_come_as_they_are():
    df = table()[['a','value']].assign(mixed=[1,'x']*200)
    tl = grown('dt', tabular_dls(df, 'value', valid=range(300,400)))
    assert {str(e.value) for e in tl.partial('mixed', df[:40])} == {'1','x'}

def test_a_waterfall_of_many_columns_puts_the_rest_together():
    df = table()[['a','b','c','kind','size','value']]
    tl = grown('dt', tabular_dls(df, 'value', valid=range(300,400)))
    parts = tl.contributions(df.iloc[0])
    ax = parts.plot(most=2)
    labels = [t.get_text() for t in ax.get_yticklabels()]
    assert labels[:2] == [f'{s.column} = {s.value}' for s in parts[:2]] and labels[2] == f'{len(parts)-2} others'
    ends = [b.get_x()+b.get_width() for b in ax.patches]
    assert np.isclose(ends[-1], parts.prediction) and np.isclose(parts.prediction, tl.get_preds(dl=df[:1])[0].item())

def test_an_estimator_of_ones_own_says_what_it_cannot():
    to = TabularPandas(table(), [Categorify,FillMissing,Normalize], ['kind','size'], ['a','b'], 'value',
                       splits=[list(range(300)),list(range(300,400))])
    tl = grown(Ridge(), to)
    with pytest.raises(NotImplementedError, match="'Ridge' cannot say what each column contributes"):
        tl.contributions(table().iloc[0])
    with pytest.raises(NotImplementedError, match="'Ridge' does not grow in rounds"): tl.model.engine.first(2)
    assert tl.model.engine.n_rounds == 1

def test_one_function_of_the_target_is_no_pair():
    with pytest.raises(ValueError, match='y_tfm is a pair'): tree_learner(data(), 'rf', y_tfm=np.log)

def test_a_search_that_leaves_one_column_counts_it():
    df = table()[['a','c','value']]
    search = grown('rf', tabular_dls(df.assign(value=df.a), 'value', valid=range(300,400))).drop_search()
    assert search.kept == ['a'] and search.title.startswith('1 of 2 columns kept')

def test_constraints_that_make_no_sense():
    with pytest.raises(ValueError, match='monotone constraints are for numbers or two classes'):
        tree_learner(data('three'), 'lgbm', monotone=dict(a=1))
    with pytest.raises(ValueError, match=r"monotone={'a': 2}; give 1 \(rising\), -1 \(falling\) or 0"):
        tree_learner(data(), 'lgbm', monotone=dict(a=2))
    with pytest.raises(ValueError, match="'learning_rate' is given twice, under two names"):
        tree_learner(data(), 'lgbm', lr=.1, learning_rate=.1)
