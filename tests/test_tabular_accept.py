"What a user may count on with every engine: gaps, functions of the target, rows in any form, nothing modified"
import warnings
import numpy as np
import pandas as pd
import pytest
from fastai.data.block import RegressionBlock
from fastai.metrics import accuracy, rmse
from fastai.tabular.core import Categorify, FillMissing, Normalize
from fastai.tabular.data import TabularDataLoaders
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier
from fastai_ext.tabular.auto import _tried, fit_tabular
from fastai_ext.tabular.dls import tabular_dls
from fastai_ext.tabular.ensemble import ensemble
from fastai_ext.tabular.engines import engines
from fastai_ext.tabular.files import load_tree_learner
from fastai_ext.tabular.folds import fold_positions
from fastai_ext.tabular.related import drift
from fastai_ext.tabular.trees import tree_learner
import fastai_ext.tabular.effects, fastai_ext.tabular.related, fastai_ext.tabular.shapley  # noqa: F401  add methods

names = list(engines)

def table(n=260, seed=0):
    rng = np.random.RandomState(seed)
    df = pd.DataFrame(dict(kind=rng.choice(list('abcd'), n), a=rng.randn(n), b=rng.rand(n)*1e3))
    df['y'] = np.exp(df.a*.3 + (df.kind=='b') + .05*rng.randn(n) + 3)
    return df

def grown(name, df=None, y_tfm=None, **kwargs):
    df = table() if df is None else df
    tl = tree_learner(tabular_dls(df, 'y', valid=range(200,260)), name, rmse, y_tfm, n_jobs=1,
                      **(kwargs if name=='dt' else dict(n_estimators=15)|kwargs))
    with tl.no_bar(), tl.no_logging(): tl.fit(patience=5)
    return tl

@pytest.fixture(scope='module')
def fitted():
    made = {}
    def get(name):
        if name not in made: made[name] = grown(name)
        return made[name]
    return get

@pytest.mark.parametrize('name', names)
def test_04_a_gap_where_training_had_none_is_the_training_median(fitted, name):
    tl,new = fitted(name),table()[200:]
    with pytest.warns(UserWarning, match="60 of 60 values of column 'a' are missing, where training had none"):
        gone = tl.get_preds(dl=new.assign(a=np.nan))[0]
    median = table().a[:200].median()
    assert np.allclose(gone, tl.get_preds(dl=new.assign(a=median))[0])

@pytest.mark.parametrize('name', names)
def test_07_metrics_in_both_units(name):
    tl = grown(name, y_tfm=(np.log, np.exp))
    p,y = (o.numpy() for o in tl.get_preds())
    loss,error = tl.validate()
    assert loss == pytest.approx(((np.log(p)-np.log(y))**2).mean(), rel=1e-5)
    assert error == pytest.approx(((p-y)**2).mean()**.5, rel=1e-5)
    assert np.array_equal(y[:,0], table().y[200:])   # to the last digit

@pytest.mark.parametrize('name', names)
def test_09_one_row_in_any_form_is_the_row_of_the_batch(fitted, name):
    tl,row = fitted(name),table().iloc[210]
    batch = tl.get_preds(dl=table()[200:])[0][10]
    rows = row, row.drop('y'), row.to_dict(), {k:v for k,v in row.items() if k != 'y'}, table().iloc[[210]]
    for o in rows: assert np.array_equal(tl.predict(o)[2], batch)

@pytest.mark.parametrize('name', names)
def test_16_contributions_sum_to_the_prediction(fitted, name):
    tl = fitted(name)
    for i in (200,233):
        why,p = tl.contributions(table().iloc[i]),tl.get_preds(dl=table().iloc[[i]])[0].item()
        assert abs(why.base+sum(s.adds for s in why)-p) < 1e-5*abs(p)

@pytest.mark.parametrize('name', names)
def test_22_nothing_that_is_given_is_modified(name):
    df = table()
    before = df.copy()
    tl = grown(name, df)
    items = tl.dls.train_ds.items.copy(),tl.dls.valid_ds.items.copy()
    new = df[200:]
    tl.get_preds(dl=new), tl.predict(new.iloc[0]), tl.validate(dl=new), tl.partial('a')
    assert df.equals(before) and tl.dls.train_ds.items.equals(items[0]) and tl.dls.valid_ds.items.equals(items[1])

def test_11_the_dendrogram_survives_constant_columns():
    df = table().assign(same=1., none=2.)
    dls = TabularDataLoaders.from_df(df, procs=[Categorify,FillMissing,Normalize], cat_names=['kind'], y_names='y',
                                     cont_names=['a','b','same','none'], y_block=RegressionBlock(),
                                     valid_idx=range(200,260))
    tl = tree_learner(dls, 'dt')
    assert not len(tl.redundant(.99))
    shown = [t.get_text() for t in tl.plot_redundant().get_yticklabels()]
    assert sorted(shown) == ['a','b','kind']

def test_native_categories_of_instances_are_split_as_such():
    from catboost import CatBoostRegressor
    from xgboost import XGBRegressor
    dls = tabular_dls(table(), 'y', valid=range(200,260))
    for model in (XGBRegressor(enable_categorical=True, n_estimators=5),
                  CatBoostRegressor(iterations=5, cat_features=['kind'])):
        tl = tree_learner(dls, model)
        with tl.no_bar(), tl.no_logging(): tl.fit()
        again = tl.clone()
        assert tl.model.engine.n_native == again.model.engine.n_native == 1
    assert tree_learner(dls, XGBRegressor()).model.engine.types() == ['c','q','q']

def test_refusals_say_what_to_do(fitted, tmp_path):
    tl,df = fitted('dt'),table()
    with pytest.raises(ValueError, match="duplicate columns: 'a'"): tl.get_preds(dl=pd.concat([df, df[['a']]], axis=1))
    with pytest.raises(TypeError, match=r'get_preds\(dl=frame\)'): tl.get_preds(df)
    loaded = load_tree_learner(tl.export(tmp_path/'t.trees'))
    with pytest.raises(ValueError, match='a loaded learner has none'): loaded.fit()
    with pytest.raises(ValueError, match='no rows to show'): loaded.show_results()
    assert '0 training rows' in str(loaded.summary())
    assert len(tl.get_preds(dl=df[:0])[0]) == 0

def test_a_loss_that_is_none_is_refused():
    dls = tabular_dls(table().assign(y=lambda d: np.where(d.y > 20, 'high', 'low')), 'y', valid=range(150,260))
    both = [tree_learner(dls, name, n_jobs=1) for name in ('dt','extra')]
    for tl in both:
        with tl.no_bar(), tl.no_logging(): tl.fit()
    def right(p, y): return (p.argmax(1) == y.ravel()).mean()
    with pytest.raises(ValueError, match='loss=accuracy does not take arrays'): ensemble(*both, loss=accuracy)
    with pytest.raises(ValueError, match='loss=right is larger for these predictions'): ensemble(*both, loss=right)
    assert ensemble(*both, loss=lambda p,y: 1-right(p, y)).weights.sum() == pytest.approx(1)

# --- the order of time

def test_folds_in_time_are_stretches_of_it():
    parts = fold_positions(np.zeros(10), 3, 'value', time=True)
    assert [b.tolist() for _,b in parts] == [[0,1,2,3], [4,5,6], [7,8,9]]
    assert all(sorted([*a, *b]) == list(range(10)) for a,b in parts)

def test_a_member_that_fails_does_not_take_the_others_with_it():
    def broken(dls): raise RuntimeError('no memory')
    how = dict(folds=2, valid=.2, verbose=False, network=broken)
    with pytest.warns(UserWarning, match=r"'network' failed and is left out \(RuntimeError: no memory\)"):
        ens = fit_tabular(table(), 'y', models=['dt','network','extra'], **how)
    assert ens.names == ['dt','extra'] and ens.validate()[0] > 0
    with pytest.warns(UserWarning, match='left out'), pytest.raises(RuntimeError, match='no memory'):
        fit_tabular(table(), 'y', models=['network'], **how)
    with pytest.raises(ValueError, match='y_tfm is a pair'):  # what is asked wrongly is no failure
        fit_tabular(table(), 'y', models=['dt','extra'], y_tfm=np.log, **how)

def test_a_loss_that_is_none_is_refused_after_the_first_member():
    fits = []
    def network(dls): fits.append(dls)
    with pytest.raises(ValueError, match='give a number'):
        fit_tabular(table(), 'y', models=['dt','network'], folds=2, verbose=False, network=network, loss=lambda p: p)
    assert not fits

def test_fit_tabular_keeps_later_rows_to_report():
    df = table().assign(day=np.random.RandomState(1).permutation(260)*1.)
    ens = fit_tabular(df, 'y', models=['dt','extra'], folds=3, valid=.1, time='day', verbose=False)
    norm = ens.dls.train_ds.procs.normalize
    days = [ds.items.day*norm.stds['day']+norm.means['day'] for ds in (ens.dls.train_ds, ens.dls.valid_ds)]
    assert days[0].round().is_monotonic_increasing and round(days[1].min()) == 234 and len(days[1]) == 26
    assert ens.importance(n=1, metric=rmse).index[0] in ('a','kind')
    with pytest.raises(NotImplementedError, match='call it on one of the trees'): ens.drop_search()
    with pytest.raises(KeyError, match="no column 'when'"): fit_tabular(df, 'y', time='when')
    with pytest.raises(ValueError, match='positions as valid would mean others'):
        fit_tabular(df, 'y', time='day', valid=range(10))
    with pytest.raises(ValueError, match='sort the rows before'): fit_tabular(ens.dls, time='day')
    with pytest.raises(TypeError, match='fit_tabular: wgts with dls, which are made already'):
        fit_tabular(ens.dls, wgts=np.ones(len(df)))
    gone = df.assign(day=pd.to_datetime(df.day, unit='D').where(df.index > 3))
    with pytest.raises(ValueError, match="4 of .* rows have no time 'day'; drop or fill them"):
        fit_tabular(gone, 'y', time='day')

def test_time_as_text_goes_by_its_format_and_weights_go_with_their_rows():
    rng = np.random.RandomState(0)
    day = pd.Timestamp('2020-01-01')+pd.to_timedelta(rng.permutation(200), 'D')
    df = pd.DataFrame(dict(day=day.strftime('%d/%m/%Y'), a=rng.randn(200)))
    df['y'] = np.where(df.a > 0, 5., -5.)+.1*rng.randn(200)
    def fit(**kwargs): return fit_tabular(df, 'y', models=['rf'], folds=2, time='day', verbose=False, **kwargs)
    with pytest.raises(ValueError, match="time='day' is text, whose order may be another than that of time"): fit()
    iso = fit_tabular(df.assign(day=day.strftime('%Y-%m-%d')), 'y', models=['dt'], folds=2, time='day', verbose=False)
    assert iso.dls.valid_ds.items.index.tolist() == list(range(180, 200))
    ens = fit(dates={'day':'%d/%m/%Y'}, wgts=(df.a > 0).to_numpy(float))  # rows of -5 weigh nothing
    assert set(ens.dls.valid_ds.items.day) == set(df.day[np.argsort(day)[-20:]])
    assert ens.get_preds(dl=df)[0].min() > 4

@pytest.mark.parametrize('name', ['lgbm','xgb','catboost','network'])
def test_fit_tabular_cuts_the_first_member_short_and_says_so(name):
    with pytest.warns(UserWarning, match=f"time_limit cut '{name}' short in 3 of 3 folds.* give more seconds"):
        ens = fit_tabular(table(), 'y', models=[name,'rf'], folds=3, valid=.3, time_limit=1e-3, verbose=False)
    assert ens.names == [name] and (name=='network' or ens.model.members[0].model.engine.n_rounds <= 3)
    assert np.isfinite(ens.leaderboard().loss).all()
    with warnings.catch_warnings():
        warnings.filterwarnings('error', 'fit_tabular')
        ens = fit_tabular(table(), 'y', models=[name,'rf'], folds=3, valid=.3, time_limit=600, verbose=False)
    assert ens.names == [name,'rf']

@pytest.mark.parametrize('name', ['lgbm','xgb','catboost','hist'])
def test_fit_tabular_tries_how_categories_are_split_and_how_large_trees_are(name):
    "A target that rises with the code, one that jumps from level to level, one with many small steps"
    rng = np.random.RandomState(0)
    df = pd.DataFrame(dict(a=rng.rand(2500), b=rng.rand(2500)))
    codes = rng.randint(0, 40, 2500)
    df['level'] = pd.Categorical(codes.astype(str), [str(i) for i in range(40)], ordered=True)
    rising,jumping = codes/4+.3*rng.randn(2500),rng.permutation(40)[codes]/4+.3*rng.randn(2500)
    steps = rng.randn(40, 40)[(df.a*40).astype(int),(df.b*40).astype(int)]
    chosen = []
    for y in (rising,jumping,steps):
        ens = fit_tabular(df.assign(y=y), 'y', models=[name], folds=3, valid=.2, verbose=False)
        bag,part = ens.model.members[0].model.engine,fold_positions(np.zeros(2000), 3, 'value')[0]
        losses = {(n,size): error(ens.dls, name, *part, native=n, n_estimators=100, lr=.2, **more)[0]
                  for n in (True,False) for size,more in (('usual',{}),('large',engines[name].large))}
        native = losses[True,'usual'] <= losses[False,'usual']
        large = losses[native,'large'] < losses[native,'usual']
        assert bag.native == native and (bag.given == engines[name].large) == large
        assert all(e.native == native and e.given == bag.given for e in bag.each)
        again = ens.model.members[0].clone().model.engine
        assert (again.native,again.given) == (bag.native,bag.given)
        chosen.append((native,large))
    assert len(set(chosen)) > 1

def error(dls, name, a, b, **kwargs):
    "(squared error on rows `b` of an engine fitted on rows `a`, predictions)"
    tl = tree_learner(dls, name, **kwargs)
    x,y,*_ = tl.train_arrays()
    p = tl.model.engine.fit(x[a], y[a], (x[b],y[b]), patience=50).predict(x[b])
    return ((p[:,0]-y[b])**2).mean(), p

@pytest.mark.parametrize('name', ['lgbm','xgb','catboost','hist'])
def test_a_trial_on_some_rows_knows_every_class_and_label(name):
    "One row in 300 has the last class, or the label"
    rng = np.random.RandomState(0)
    df = pd.DataFrame(dict(a=rng.randn(1500), k=rng.choice(list('xyz'), 1500), rare=np.arange(1500) % 300 == 7))
    df['kind'] = np.where(df.rare, 'z', np.where(df.a > 0, 'p', 'q'))
    for y,cols in (('kind',['a','k','kind']),(['rare','up'],['a','k','rare','up'])):
        dls = tabular_dls(df.assign(up=df.a > 0)[cols], y, valid=0)
        tried = _tried(tree_learner(dls, name), (np.arange(1000), np.arange(1000,1500)), most=40)
        assert tried.model.engine.name == name and not tried.fitted

@pytest.mark.parametrize('name', names)
def test_a_fold_whose_class_or_label_is_in_no_other_fold(name):
    "One row, or a stretch of rows, has it; the trees of that fold give it nearly nothing"
    rng = np.random.RandomState(0)
    df = pd.DataFrame(dict(a=rng.randn(120), k=rng.choice(list('xyz'), 120)))
    one,late = np.arange(120)==7,np.arange(120) >= 90
    for y in (np.where(one, 'z', 'p'), np.where(late, 'z', 'p'), np.where(one, 'z', np.where(late, 'q', 'p'))):
        ens = fit_tabular(df.assign(y=y), 'y', models=[name], folds=3, valid=0, time=True, verbose=False)
        assert np.isfinite(ens.get_preds(dl=df)[0].numpy()).all()
    ens = fit_tabular(df.assign(one=one, up=df.a > 0, all=True), ['one','up','all'], models=[name], folds=3, valid=0,
                      verbose=False)
    p = ens.get_preds(dl=df)[0].numpy()
    assert p.shape == (120,3) and p[:,0].max() < .9 and p[:,2].min() > .9 and p[df.a > .5,1].mean() > .5

@pytest.mark.parametrize('model', [KNeighborsClassifier(), MultiOutputClassifier(DecisionTreeClassifier()),
                                   OneVsRestClassifier(LogisticRegression())])
def test_labels_of_an_estimator_are_its_own(model):
    "Also one that no training row has, whose probability is 0, not 1"
    df = table().drop(columns=['y','kind']).assign(up=lambda o: o.a > 0, none=False, big=lambda o: o.b > 500)
    if not isinstance(model, KNeighborsClassifier): df['none'] = df.a > 1  # scikit-learn learns no constant label there
    tl = tree_learner(tabular_dls(df, ['up','none','big'], valid=range(200,260)), model)
    with tl.no_bar(), tl.no_logging(): tl.fit()
    p,y = (o.numpy() for o in tl.get_preds())
    assert p.shape == y.shape and ((p > .5) == y).mean(0).min() > .75

def test_drift_of_rows_as_text_and_as_categories_is_the_same():
    df = table()
    dls = TabularDataLoaders.from_df(df, procs=[Categorify,FillMissing,Normalize], cat_names=['kind'],
                                     cont_names=['a','b'], y_names='y', y_block=RegressionBlock(),
                                     valid_idx=range(200,260))
    later = df[df.kind != 'a'][100:]
    text,coded = drift(dls, later),drift(dls, later.assign(kind=later.kind.astype('category')))
    assert text.equals(coded) and text.attrs == coded.attrs

def test_with_time_the_latest_fold_is_the_first():
    ens = fit_tabular(table(), 'y', models=['hist'], folds=3, valid=.2, time=True, verbose=False)
    a,b = fold_positions(np.zeros(208), 3, 'value', time=True)[-1]
    bag = ens.model.members[0].model.engine
    p = error(ens.dls, 'hist', a, b, native=bag.native, **bag.given)[1]
    assert np.array_equal(bag.each[0].predict(ens.model.members[0].train_arrays()[0][b]), p)

@pytest.mark.parametrize('name', ['hist','lgbm','xgb','catboost'])
def test_contributions_of_the_first_of_two_classes(name):
    "Its log-odds are the opposite of those of the second"
    df = table().assign(y=lambda o: np.where(o.y > o.y.median(), 'high', 'low'))
    tl = tree_learner(tabular_dls(df, 'y', valid=range(200,260)), name, n_estimators=15)
    with tl.no_bar(), tl.no_logging(): tl.fit()
    for i in range(200, 206):
        p = dict(zip(tl.dls.vocab, tl.get_preds(dl=df.iloc[[i]])[0][0].tolist(), strict=True))
        for c in p:
            why,e = tl.contributions(df.iloc[i], target=c),tl.shap(df.iloc[[i]], target=c)
            odds = np.log(p[c]/(1-p[c]))
            assert np.isclose(why.prediction, odds, atol=1e-3)
            assert np.isclose(e.values.sum()+e.base_values[0], p[c] if name=='hist' else odds, atol=1e-3)

def test_a_partial_of_whole_numbers_that_are_categories_asks_about_levels_alone():
    rng = np.random.RandomState(0)
    df = pd.DataFrame(dict(k=rng.choice([1,2,5,7,12], 200), a=rng.randn(200)))
    df['y'] = df.k*3.+df.a
    tl = tree_learner(tabular_dls(df, 'y'), 'rf', n_estimators=5)
    with tl.no_bar(), tl.no_logging(): tl.fit()
    for rows in (df[:50], df[:50].astype({'k':'Int64'}), df[:50].assign(k=df.k[:50].astype(object))):
        with warnings.catch_warnings():
            warnings.simplefilter('error', UserWarning)
            assert [e.value for e in tl.partial('k', rows)] == [1,2,5,7,12]
    as_object = tl.partial('a', df.assign(a=df.a.astype(object)))
    assert [e.value for e in as_object] == [e.value for e in tl.partial('a', df)]

@pytest.mark.parametrize('name,loss', [('hist', dict(loss='poisson')), ('lgbm', dict(objective='poisson')),
                                       ('xgb', dict(objective='count:poisson')),
                                       ('catboost', dict(objective='Poisson')),
                                       ('catboost', dict(loss_function='Tweedie:variance_power=1.5'))])
def test_contributions_of_counts_are_those_of_their_logarithm(name, loss, tmp_path):
    "And no sum of them with those of a forest, which are counts"
    x = np.random.default_rng(0).normal(size=(300,3))
    df = pd.DataFrame(x, columns=list('abc')).assign(y=np.random.default_rng(1).poisson(np.exp(1+x[:,0])).astype(float))
    dls = tabular_dls(df, 'y', valid=.3, task='value')
    counts,forest = tree_learner(dls, name, n_estimators=60, lr=.2, **loss),tree_learner(dls, 'rf', n_estimators=5)
    for o in (counts,forest):
        with o.no_bar(), o.no_logging(): o.fit()
    p,y = (o.numpy().ravel() for o in counts.get_preds())
    assert p.min() > 0 and np.corrcoef(p, y)[0,1] > .5 and abs(np.log(p.mean()/y.mean())) < 1
    counts.export(tmp_path/'counts.trees')
    assert np.array_equal(load_tree_learner(tmp_path/'counts.trees').get_preds(dl=df[:9])[0],
                          counts.get_preds(dl=df[:9])[0])
    why = counts.contributions(df.iloc[0])
    assert 'link' in why.what and 'link' not in forest.contributions(df.iloc[0]).what
    assert np.isclose(np.exp(why.prediction), counts.get_preds(dl=df[:1])[0].item(), rtol=1e-4)
    with pytest.raises(NotImplementedError, match='shap'):
        ensemble(counts, forest, weights='mean').contributions(df.iloc[0])

def test_a_sum_near_zero_of_large_parts_has_no_link():
    "What single precision loses there is no logarithm"
    x = np.random.default_rng(0).normal(size=(200,4))
    df = pd.DataFrame(x, columns=list('abcd')).assign(y=1e6*(x[:,0]-x[:,1]+x[:,2]-x[:,3]))
    tl = tree_learner(tabular_dls(df, 'y', valid=.3), 'xgb', n_estimators=50)
    with tl.no_bar(), tl.no_logging(): tl.fit()
    new = pd.DataFrame(np.random.default_rng(1).normal(size=(20_000,4)), columns=list('abcd'))
    near = new.iloc[tl.get_preds(dl=new)[0].abs().ravel().argsort()[:10].tolist()]
    assert all(tl.contributions(near.iloc[i]).what == 'y' for i in range(len(near)))
