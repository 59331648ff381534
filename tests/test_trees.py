"Trees on fastai's tables against scikit-learn itself, and against what goes silently wrong elsewhere"
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.block import CategoryBlock, RegressionBlock
from fastai.metrics import RocAucBinary, accuracy, rmse
from fastai.tabular.core import Categorify, FillMissing, Normalize, TabularPandas
from fastai.tabular.data import TabularDataLoaders
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.ensemble import (ExtraTreesClassifier, GradientBoostingRegressor, HistGradientBoostingClassifier,
                              HistGradientBoostingRegressor,
                              RandomForestClassifier, RandomForestRegressor)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, mean_squared_error, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder
from sklearn.tree import DecisionTreeRegressor
from fastai_ext.tabular.rows import rows_dl
from fastai_ext.tabular.trees import tree_learner

procs = [Categorify, FillMissing, Normalize]
valid = list(range(300, 442))

def diabetes():
    df = load_diabetes(as_frame=True, scaled=False).frame
    df['sex'] = df.sex.map({1:'f', 2:'m'})
    return df

def diabetes_dls(df=None, cats=('sex',), conts=('age','bmi','bp','s5'), procs=procs, valid_idx=valid, **kwargs):
    return TabularDataLoaders.from_df(diabetes() if df is None else df, procs=list(procs), cat_names=list(cats),
                                      cont_names=list(conts), y_names='target',
                                      y_block=RegressionBlock(), valid_idx=valid_idx, **kwargs)

def cancer_dls():
    df = load_breast_cancer(as_frame=True).frame
    df['target'] = df.target.map({0:'malignant', 1:'benign'})
    return TabularDataLoaders.from_df(df, procs=[Normalize], cont_names=list(df.columns[:10]), y_names='target',
                                      y_block=CategoryBlock(),
                                      valid_idx=range(0,569,3))

def fitted(dls, model='rf', *args, n_epoch=1, patience=50, **kwargs):
    tl = tree_learner(dls, model, *args,
                      **({} if not isinstance(model, str) or model=='dt' else dict(n_estimators=20)) | kwargs)
    with tl.no_bar(), tl.no_logging(): tl.fit(n_epoch, patience)
    return tl

def quiet(f, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return f(*args, **kwargs)

# --- the same numbers as scikit-learn alone

def test_same_predictions_as_a_pipeline_written_by_hand():
    df = diabetes()
    conts = ['age','bmi','bp','s5']
    est = RandomForestRegressor(30, min_samples_leaf=3, random_state=1)
    pipe = make_pipeline(ColumnTransformer([('cat', OrdinalEncoder(), ['sex'])], remainder='passthrough'), est)
    pipe.fit(df.loc[:299, ['sex',*conts]], df.target[:300])
    tl = fitted(diabetes_dls(df, procs=[Categorify]), est)
    assert np.allclose(tl.get_preds()[0].numpy().ravel(), pipe.predict(df.loc[300:, ['sex',*conts]]), rtol=0, atol=1e-9)

@pytest.mark.parametrize('name,cls', [('rf', RandomForestClassifier), ('extra', ExtraTreesClassifier),
                                      ('hist', HistGradientBoostingClassifier)])
def test_metrics_are_those_of_sklearn_on_the_same_rows(name, cls):
    dls = cancer_dls()
    tl = fitted(dls, name, metrics=[accuracy, RocAucBinary()], patience=None)
    x = lambda to: to.conts.to_numpy('float32')
    est = cls(**tl.model.est.get_params()).fit(x(dls.train_ds), dls.train_ds.items.target)
    p,y = est.predict_proba(x(dls.valid_ds)),dls.valid_ds.items.target
    assert np.allclose(tl.get_preds()[0], p, rtol=0, atol=1e-12)
    assert np.allclose(tl.validate(), [log_loss(y, p), (p.argmax(1)==y).mean(), roc_auc_score(y, p[:,1])], atol=1e-6)

@pytest.mark.parametrize('model', ['rf', 'extra', 'hist', 'xgb', 'lgbm', 'catboost'])
def test_the_same_model_in_parts_or_at_once(model):
    dls = diabetes_dls()
    once,parts = fitted(dls, model),fitted(dls, model, n_epoch=4)
    assert torch.equal(once.get_preds()[0], parts.get_preds()[0])
    assert len(parts.recorder.values) == 4
    assert np.allclose(parts.recorder.values[-1][:2],
                       [mean_squared_error(*(o.numpy() for o in once.get_preds(i))) for i in (0,1)], rtol=1e-5)

@pytest.mark.parametrize('model', [DecisionTreeRegressor(max_depth=3), Ridge(), 'dt',
                                   GradientBoostingRegressor(n_estimators=20)], ids=str)
def test_any_estimator(model):
    tl = fitted(diabetes_dls(), model)
    assert tl.validate()[0] < float(diabetes().target.var())
    with pytest.raises(ValueError, match='give n_epoch=1'): tl.fit(2)

def test_fitting_twice_starts_anew_and_the_given_estimator_stays_as_it_was():
    est = RandomForestRegressor(10, random_state=0)
    tl = fitted(diabetes_dls(), est)
    first = tl.get_preds()[0]
    with tl.no_bar(), tl.no_logging(): tl.fit()
    assert torch.equal(first, tl.get_preds()[0])
    assert not hasattr(est, 'estimators_')
    assert len(tl.model.est.estimators_)==10

def test_loss_and_decoded_as_a_learner_gives_them():
    tl = fitted(cancer_dls())
    p,y,dec,loss = tl.get_preds(with_loss=True, with_decoded=True)
    assert torch.equal(dec, p.argmax(1)) and np.isclose(loss.mean(), tl.validate()[0]) and y.shape == (len(p),1)
    x,*_ = tl.get_preds(with_input=True)
    assert [tuple(o.shape) for o in x] == [(len(p),0), (len(p),10)]

def test_weights_of_a_weighted_dataloader_count():
    df = diabetes()
    to = TabularPandas(df, procs, ['sex'], ['bmi','bp'], 'target', RegressionBlock(), splits=[list(range(300)),valid])
    w = np.where(np.arange(300) < 150, 0., 1.)
    tl = fitted(to.dataloaders(wgts=w), DecisionTreeRegressor(max_depth=3, random_state=0))
    x = np.concatenate([to.train.cats, to.train.conts], axis=1).astype('float32')
    half = DecisionTreeRegressor(max_depth=3, random_state=0).fit(x[150:], df.target[150:300])
    assert np.allclose(tl.get_preds(0)[0].numpy().ravel(), half.predict(x))

def test_callbacks_see_a_fit_and_may_stop_it():
    from fastai.callback.core import Callback, CancelFitException
    seen = []
    class Stop(Callback):
        def before_fit(self): seen.append('fit')
        def after_epoch(self):
            seen.append(self.epoch)
            if self.epoch == 1: raise CancelFitException
    tl = tree_learner(diabetes_dls(), n_estimators=20)
    with tl.no_bar(), tl.no_logging(): tl.fit(4, cbs=Stop())
    assert seen == ['fit',0,1] and len(tl.model.est.estimators_) == 10 and np.isfinite(tl.validate()[0])

def test_what_needs_gradients_says_so():
    tl = tree_learner(diabetes_dls())
    for f in (tl.lr_find, tl.fine_tune, tl.fit_one_cycle, tl.freeze):
        with pytest.raises(NotImplementedError, match='call fit'): f(1)
    with pytest.raises(ValueError, match='not fitted; call fit'): tl.save('x')

def test_interpretation_of_fastai_works():
    from fastai.interpret import ClassificationInterpretation
    tl = fitted(cancer_dls(), metrics=accuracy)
    cm = ClassificationInterpretation.from_learner(tl).confusion_matrix()
    assert np.isclose(cm.trace()/cm.sum(), tl.validate()[1])

# --- the acceptance tests of the family, by their numbers

@pytest.mark.parametrize('model', ['rf', 'extra', 'hist', 'dt'])
def test_01_shuffled_and_further_columns_change_nothing(model):
    df = diabetes()
    tl = fitted(diabetes_dls(df), model)
    rng = np.random.RandomState(0)
    for _ in range(3):
        new = df[300:].assign(more=1, other='x')
        assert torch.equal(tl.get_preds(dl=new[rng.permutation(new.columns)])[0], tl.get_preds()[0])

def test_02_the_same_values_as_text_category_or_object():
    df = diabetes().assign(grade=lambda d: pd.qcut(d.bmi, 5, labels=list('abcde')).astype(str))
    dls = diabetes_dls(df, cats=['sex','grade'])
    new = df[300:][lambda d: d.grade.isin(['b','d'])]
    want = rows_dl(dls, new).dataset.cats
    for kind in (object, 'str', pd.CategoricalDtype(['b','d']), pd.CategoricalDtype(['d','c','b','z']),
                 pd.StringDtype()):
        pd.testing.assert_frame_equal(rows_dl(dls, new.assign(grade=new.grade.astype(kind))).dataset.cats, want)
    assert set(want.grade) == {2,4}

def test_03_unseen_levels_are_counted():
    df = diabetes()
    tl = fitted(diabetes_dls(df))
    new = df[300:304].assign(sex=['x','f','y',None])
    with pytest.warns(UserWarning, match=r"2 of 4 values of column 'sex' were not seen.*'x', 'y'"): dl = tl.test_dl(new)
    assert dl.dataset.items.sex.tolist()[0] == 0 == dl.dataset.items.sex.tolist()[2]

def test_03_numbers_given_as_text_say_so():
    df = diabetes().assign(grade=lambda d: (d.bmi//5).astype(int))
    dls = diabetes_dls(df, cats=['grade'], conts=['bp'])
    with pytest.warns(UserWarning, match='as text; the training levels are not text'):
        rows_dl(dls, df[:3].assign(grade=df.grade[:3].astype(str)))

def test_04_a_number_missing_where_training_had_none():
    df = diabetes()
    tl = fitted(diabetes_dls(df))
    med = df.bmi[:300].median()
    with pytest.warns(UserWarning, match=f"1 of 2 values of column 'bmi'.*median, {med:.4g}"):
        a = tl.get_preds(dl=df[300:302].assign(bmi=[np.nan,30.]))[0]
    b = tl.get_preds(dl=df[300:302].assign(bmi=[med,30.]))[0]
    assert torch.equal(a, b)

def test_04_missing_where_training_had_some_is_the_same_as_fastai():
    df = diabetes()
    df.loc[::7,'bmi'] = np.nan
    dls = diabetes_dls(df)
    new = df[301:]
    a,b = rows_dl(dls, new).dataset.items,dls.test_dl(new).dataset.items
    names = list(dls.train_ds.x_names)
    assert np.allclose(a[names].astype(float), b[names].astype(float), atol=1e-5) and 'bmi_na' in names

def test_05_a_level_that_only_validation_has_is_no_level():
    df = diabetes()
    df.loc[420:,'sex'] = 'only in validation'
    dls = diabetes_dls(df.assign(sex=df.sex.astype('category')))
    assert 'only in validation' in list(dls.classes['sex'])  # fastai takes the categories of the whole frame
    tl = fitted(dls)
    rows = df[300:].assign(sex=lambda d: d.sex.where(d.sex!='only in validation', None))
    assert torch.equal(quiet(tl.get_preds, dl=rows)[0], tl.get_preds()[0])
    with pytest.warns(UserWarning, match='not seen in training'): tl.test_dl(df[430:432])

def test_07_y_tfm_and_exact_targets():
    df = diabetes()
    df['target'] = df.target*1e6 + 123456789
    to = lambda df: TabularPandas(df, procs, ['sex'], ['bmi','bp'], 'target', RegressionBlock(),
                                  splits=[list(range(300)),valid], reduce_memory=False)
    tl = fitted(to(df).dataloaders(), metrics=rmse, y_tfm=(np.log, np.exp))
    p,y = (o.numpy() for o in tl.get_preds())
    assert y.dtype == 'float64' and (y.ravel() == df.target[300:]).all()
    loss,metric = tl.validate()
    assert np.isclose(loss, ((np.log(p)-np.log(y))**2).mean(), rtol=1e-5)
    assert np.isclose(metric, np.sqrt(((p-y)**2).mean()), rtol=1e-5)
    logged = fitted(to(df.assign(target=np.log(df.target))).dataloaders())
    assert np.allclose(np.log(p), logged.get_preds()[0], rtol=1e-12)
    assert torch.equal(tl.get_preds(dl=df[300:])[1], torch.from_numpy(y))

def test_08_probability_columns_follow_the_vocabulary():
    df = load_wine(as_frame=True).frame
    df['target'] = df.target.map({0:'z', 1:'m', 2:'a'})
    block = CategoryBlock(vocab=['never','z','a','m'], sort=False)
    splits = [list(range(0,178,2)),list(range(1,178,2))]
    to = TabularPandas(df, [Normalize], [], list(df.columns[:-1]), 'target', block, splits=splits, reduce_memory=False)
    tl = fitted(to.dataloaders(), 'extra', metrics=accuracy)
    p,y = tl.get_preds()
    assert list(tl.dls.vocab) == ['never','z','a','m'] and p.shape == (89,4) and p[:,0].max() < 1e-12
    names = np.array(list(tl.dls.vocab))
    assert (names[p.argmax(1)] == df.target[1::2]).mean() > .9 and (names[y[:,0]] == df.target[1::2]).all()

def test_09_one_row_in_any_form_equals_the_batch():
    df = diabetes()
    tl = fitted(diabetes_dls(df))
    batch = tl.get_preds()[0]
    for i in (0,7):
        row = df.iloc[300+i]
        for form in (row, row.drop('target'), row.to_dict(), df.iloc[300+i:301+i],
                     df.iloc[300+i:301+i].drop(columns='target')):
            shown,dec,pred = tl.predict(form)
            assert torch.equal(pred, batch[i]) and torch.equal(dec, batch[i])
        assert shown.decode().items.sex.iloc[0] == row.sex
    with pytest.raises(ValueError, match='give one'): tl.predict(df[:2])

def test_10_a_category_of_sixty_thousand_levels():
    n = 60_000
    df = pd.DataFrame(dict(id=[f'k{i}' for i in range(n)], x=np.arange(n)/n, target=np.arange(n)/n))
    tl = fitted(diabetes_dls(df, cats=['id'], conts=['x'], valid_idx=range(0,n,100)), 'dt')
    assert tl.validate()[0] < .01 and quiet(tl.test_dl, df[:5]).dataset.items.id.nunique() == 5

@pytest.mark.parametrize('bad,match', [(np.inf, "infinite values in 'bmi'"), (np.nan, "no value at all in 'bmi'")])
def test_11_columns_that_cannot_be_learned_are_named(bad, match):
    df = diabetes()
    df['bmi'] = bad
    with pytest.raises(ValueError, match=match): tree_learner(diabetes_dls(df, procs=[Categorify])).fit()

def test_11_missing_values_go_to_those_that_take_them():
    df = diabetes()
    df.loc[::5,'bmi'] = np.nan
    dls = diabetes_dls(df, procs=[Categorify])
    assert np.isfinite(fitted(dls, 'hist').validate()[0])
    with pytest.raises(ValueError, match="missing values in 'bmi', which Ridge does not take; add FillMissing"):
        tree_learner(dls, Ridge()).fit()

def test_11_a_constant_column_is_harmless():
    assert np.isfinite(fitted(diabetes_dls(diabetes().assign(bmi=1.), procs=[Categorify])).validate()[0])

def test_12_no_validation_rows():
    dls = TabularPandas(diabetes(), procs, ['sex'], ['bmi'], 'target', RegressionBlock(),
                        splits=[list(range(442)),[]]).dataloaders()
    tl = fitted(dls, metrics=rmse)
    assert tl.recorder.values[0][1] is None and np.isfinite(tl.recorder.values[0][0])

def test_13_pandas_own_types():
    df = diabetes()
    df.loc[::7,'bmi'] = np.nan
    df['old'] = df.age > 50
    dls = diabetes_dls(df, cats=['sex','old'])
    want = rows_dl(dls, df[300:]).dataset
    got = rows_dl(dls, df[300:].astype({'age':int}).astype({'age':'Int64', 'bmi':'Float64', 'sex':'string',
                                                            'old':'boolean'})).dataset
    pd.testing.assert_frame_equal(got.xs, want.xs)

def test_13_types_of_pyarrow():
    pytest.importorskip('pyarrow', reason='pyarrow is not installed; pandas makes no such columns')
    df = diabetes()
    dls = diabetes_dls(df)
    got = rows_dl(dls, df[300:].astype({'age':int}).astype({'age':'int64[pyarrow]', 'bmi':'double[pyarrow]',
                                                            'sex':'string[pyarrow]'})).dataset
    pd.testing.assert_frame_equal(got.xs, rows_dl(dls, df[300:]).dataset.xs)

def test_14_columns_named_like_attributes():
    df = diabetes().assign(c=lambda d: d.sex, n_inp=lambda d: np.where(d.bmi>25, 'a', 'b'), loss=1.)
    tl = fitted(diabetes_dls(df, cats=['c','n_inp'], conts=['bmi','loss']), metrics=rmse)
    assert np.isclose(tl.validate()[1]**2, tl.validate()[0], rtol=1e-4)
    assert torch.equal(tl.predict(df.iloc[300])[2], tl.get_preds()[0][0])

def test_17_several_targets():
    df = diabetes()
    for model in ('rf','hist'):
        dls = TabularDataLoaders.from_df(df, procs=procs, cat_names=['sex'], cont_names=['age','bp'],
                                         y_names=['bmi','target'], valid_idx=valid,
                                         y_block=RegressionBlock(n_out=2))
        p,y = fitted(dls, model).get_preds()
        assert p.shape == y.shape == (142,2) and np.allclose(y, df.loc[300:, ['bmi','target']])

def test_17_mixed_classes_are_refused():
    df = diabetes().assign(a=lambda d: np.where(d.bmi>25,'x','y'), b=lambda d: d.sex)
    dls = TabularDataLoaders.from_df(df, procs=procs, cont_names=['age'], y_names=['a','b'], y_block=CategoryBlock(),
                                     valid_idx=valid)
    with pytest.raises(ValueError, match=r"2 categorical targets \['a', 'b'\] share one vocabulary"): tree_learner(dls)

def test_22_the_frame_and_the_data_are_left_alone():
    df = diabetes()
    dls = diabetes_dls(df)
    before,items = df.copy(),[dls.train_ds.items.copy(),dls.valid_ds.items.copy()]
    names = list(dls.train_ds.cat_names)
    tl = fitted(dls, metrics=rmse)
    tl.validate(); tl.predict(df.iloc[300]); tl.get_preds(dl=df[300:]); tl.get_preds(0); tl.show_results(max_n=2)
    quiet(tl.test_dl, df[:3].assign(sex='new', bmi=np.nan))
    pd.testing.assert_frame_equal(df, before)
    for a,b in zip((dls.train_ds.items,dls.valid_ds.items), items, strict=True): pd.testing.assert_frame_equal(a, b)
    assert list(dls.train_ds.cat_names) == names

# --- what is refused, in words

def bad_target(value):
    df = diabetes()
    df.loc[5,'target'] = value
    return diabetes_dls(df)

def unseen_class():
    df = diabetes()
    df['target'] = np.where(df.bmi>25, 'high', 'low')
    df.loc[400:,'target'] = 'only in validation'
    return TabularDataLoaders.from_df(df, procs=procs, cont_names=['age'], y_names='target', y_block=CategoryBlock(),
                                      valid_idx=valid)

@pytest.mark.parametrize('make,match', [
    (lambda: diabetes_dls().new_empty(), 'no training rows'),  # as in an exported learner
    (lambda: diabetes_dls(cats=[], conts=[]), 'no columns to learn from'),
    (lambda: bad_target(np.nan), '1 training rows have a missing or infinite target'),
    (unseen_class, "'target' of 42 validation rows is missing or a class that no training row has"),
])
def test_data_that_cannot_be_learned(make, match):
    with pytest.raises(ValueError, match=match): tree_learner(make())

@pytest.mark.parametrize('model,error,match', [
    ('forest', ValueError, "'dt', 'rf', 'extra', 'hist', 'xgb', 'lgbm', 'catboost'"),
    (object, TypeError, 'no estimator'),
    (3, TypeError, 'not a scikit-learn estimator'),
    (RandomForestClassifier(), ValueError, 'for a continuous target; give a regressor'),
])
def test_models_that_do_not_fit(model, error, match):
    with pytest.raises(error, match=match): tree_learner(diabetes_dls(), model)

def test_arguments_that_do_not_fit():
    with pytest.raises(TypeError, match=r'give them to Ridge\('): tree_learner(diabetes_dls(), Ridge(), alpha=3)
    with pytest.raises(ValueError, match='classifier with predict_proba'):
        tree_learner(cancer_dls(), HistGradientBoostingRegressor())
    with pytest.raises(ValueError, match='y_tfm'): tree_learner(cancer_dls(), y_tfm=(np.log,np.exp))
    with pytest.raises(TypeError, match='give TabularDataLoaders'): tree_learner(object())
    assert np.isfinite(fitted(cancer_dls(), LogisticRegression(max_iter=500)).validate()[0])

@pytest.mark.parametrize('rows,error,match', [
    (lambda df: df.drop(columns=['bp','sex']), KeyError, "'sex', 'bp'"),
    (lambda df: df.assign(bmi='heavy'), ValueError, "'bmi' must be numbers"),
    (lambda df: df.assign(bp=-np.inf), ValueError, "'bp' has infinite values"),
    (lambda df: 3, TypeError, 'give a DataFrame'),
    (lambda df: df.assign(target='?'), ValueError, "'target' must be numbers"),
])
def test_rows_that_cannot_be_encoded(rows, error, match):
    df = diabetes()
    dls = diabetes_dls(df)
    with pytest.raises(error, match=match): rows_dl(dls, rows(df[300:303]))

def test_unknown_target_classes_in_new_rows_are_named():
    dls = cancer_dls()
    rows = load_breast_cancer(as_frame=True).frame[:3].assign(target=['benign','odd','benign'])
    with pytest.raises(ValueError, match="'odd'; correct them, or drop the column"): rows_dl(dls, rows)
    assert len(rows_dl(dls, rows, with_y=False).dataset) == 3

# --- importance

def test_19_a_column_and_its_gaps_are_shuffled_together():
    import fastai_ext.tabular.explain  # noqa: F401  adds importance
    df = diabetes()
    gone = np.random.RandomState(0).rand(len(df)) < .5
    df['bmi'] = df.bmi.where(~gone)
    df['target'] = gone*100.
    tl = fitted(diabetes_dls(df))
    imp = tl.importance(n=3)
    assert sorted(imp.index) == ['age','bmi','bp','s5','sex']
    assert imp.index[0] == 'bmi'
    assert imp.importance.iloc[0] > 3000 > 100 > imp.importance.iloc[1]
    before = tl.get_preds()[0]
    assert torch.equal(before, tl.get_preds()[0]) and (tl.importance(n=3) == imp).all().all()

def test_importance_of_an_ensemble_and_of_a_function_of_the_target():
    import fastai_ext.tabular.explain  # noqa: F401  adds importance
    from fastai_ext.tabular.ensemble import ensemble
    dls = diabetes_dls()
    tl = fitted(dls, y_tfm=(np.log, np.exp))
    imp = ensemble(tl, fitted(dls, 'extra'), weights='mean').importance(n=2)
    assert imp.index[0] in ('bmi','s5') and tl.importance(n=2).importance.max() < 1 < imp.importance.max()
    ax = tl.plot_importance(n=1, max_n=3)
    assert len(ax.patches) == 3
    with pytest.raises(ValueError, match='give 1 or more'): tl.importance(n=0)
    with pytest.raises(ValueError, match='no rows with targets'):
        tl.importance(dl=diabetes()[:3].drop(columns='target'))

def test_many_rows_are_shared_out_and_give_the_same_without_a_warning():
    df = pd.concat([diabetes()]*20, ignore_index=True)
    tl = fitted(diabetes_dls(df, valid_idx=range(442, len(df))))
    with warnings.catch_warnings():
        warnings.filterwarnings('error', module='sklearn')
        many = tl.get_preds()[0]
    assert len(many) > 8000 and torch.equal(many[:300], tl.get_preds(dl=df[442:742])[0]) and tl.model.est.n_jobs == -1

@pytest.mark.parametrize('wgts', [None, 'w'])
def test_training_rows_are_validated_once_each(wgts):
    "Not drawn at random as for the training of a network"
    from fastai_ext.tabular.dls import tabular_dls
    df = load_diabetes(as_frame=True).frame.iloc[:203].assign(w=np.arange(203.))
    learn = fitted(tabular_dls(df, 'target', valid=.2, wgts=wgts), 'dt', metrics=rmse)
    p,t = (o.numpy() for o in learn.get_preds(0))
    assert len(p)==len(learn.dls.train_ds)
    assert np.allclose([learn.validate(0), learn.validate(0)], [mean_squared_error(t, p), mean_squared_error(t, p)**.5])
    assert np.allclose(learn.validate(1), learn.validate())
