"Tables as they come: what is wrong before a model sees them, each with the answer that is right"
import warnings
from datetime import date
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from fastai.data.block import CategoryBlock, MultiCategoryBlock, RegressionBlock
from fastai.learner import load_learner
from fastai.metrics import accuracy
from fastai.tabular.core import Categorify, FillMissing, Normalize, TabularPandas
from fastai.tabular.data import TabularDataLoaders
from fastai.tabular.learner import tabular_learner
from fastai_ext.tabular.auto import fit_tabular
from fastai_ext.tabular.columns import codes_of, dates_of, kind_of, levels_of, numbers
from fastai_ext.tabular.dls import tabular_dls
from fastai_ext.tabular.tidy import Tidy, check_classes
from fastai_ext.tabular.files import load_tree_learner
from fastai_ext.tabular.trees import tree_learner
from fastai_ext.tabular import effects  # noqa: F401  gives learners `partial`

def table(n=200, seed=0):
    rng = np.random.RandomState(seed)
    df = pd.DataFrame(dict(c=rng.choice(list('xyz'), n), n_inp=rng.randint(0, 5, n), a=rng.randn(n),
                           whole=rng.randint(0, 99, n), day=rng.randint(0, 900, n)))
    df['day'] = pd.Timestamp('2021-03-04') + pd.to_timedelta(df.day, 'D')
    df['y'] = np.where(df.a + (df.c=='x') > .5, 'yes', 'no')
    return df

def quiet(f, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return f(*args, **kwargs)

def trees(dls, name='dt', **kwargs):
    tl = tree_learner(dls, name, **kwargs)
    with tl.no_bar(), tl.no_logging(): quiet(tl.fit)
    return tl

def test_classes_are_never_inverted():
    df = table()
    for shrink in (True, False):
        for order in (['yes','no'],['no','yes']):
            dls = TabularDataLoaders.from_df(df, procs=[Categorify,Normalize], cat_names=['c'], cont_names=['a'],
                                             y_names='y', valid_idx=range(150,200),
                                             y_block=CategoryBlock(vocab=order, sort=False))
            assert (np.array(order)[dls.valid_ds.items.y] == df.y[150:]).all(), shrink
            tl = trees(dls, metrics=accuracy)
            assert tl.validate()[1] > .75 and np.isclose(tl.validate()[1], tl.validate(dl=df[150:])[1])
            assert tl.predict(df.iloc[160])[0].decode().items.y.iloc[0] == df.y[160]
    order = TabularDataLoaders.from_df(df, procs=[Normalize], cont_names=['a'], y_names='y',
                                       y_block=CategoryBlock(vocab=['yes','no'], sort=False))
    step = next(p for p in order.train_ds.procs.fs if hasattr(p, 'by_value'))
    del step.by_value  # as in data that were made before the import
    with pytest.raises(ValueError, match='made before fastai_ext.tabular was imported'): check_classes(order.train_ds)

def test_a_network_and_trees_train_on_any_column_name():
    df = table()
    dls = tabular_dls(df, 'y', classes=['yes','no'])
    learn = tabular_learner(dls, layers=[20], metrics=accuracy)
    with learn.no_bar(), learn.no_logging(): learn.fit(4, 1e-2)
    valid = df.loc[dls.valid_ds.items.index]
    p = learn.get_preds(dl=dls.test_dl(valid.assign(c=valid.c.astype('category'))))[0]
    assert ((np.array(['yes','no'])[p.argmax(1)] == valid.y).mean() - learn.validate()[1]) < 1e-6
    assert trees(dls).validate()[0] < 3

@pytest.mark.parametrize('unit', ['s','ms','us','ns'])
def test_06_dates_in_any_unit_zone_or_text(unit):
    df = table()
    want = quiet(tabular_dls, df, 'y').train_ds.items
    for col in (df.day.astype(f'datetime64[{unit}]'), df.day.dt.tz_localize('UTC'), df.day.dt.strftime('%d/%m/%y')):
        dates = {'day':'%d/%m/%y'} if not pd.api.types.is_datetime64_any_dtype(col) else ()
        dls = quiet(tabular_dls, df.assign(day=col), 'y', dates=dates)
        assert (dls.train_ds.items.dayElapsed == want.dayElapsed).all()
        assert (dls.train_ds.items.dayMonth == want.dayMonth).all()
        tl = trees(dls)
        assert (tl.get_preds(dl=df.assign(day=col).loc[dls.valid_ds.items.index])[0] == tl.get_preds()[0]).all()
    assert (tl.predict(df.assign(day=col).iloc[3])[2] == tl.get_preds(dl=df.assign(day=col)[3:4])[0][0]).all()

@pytest.mark.parametrize('zone', [None,'Asia/Tokyo'])
def test_06_dates_of_new_rows_have_a_zone_where_training_had_one(zone, tmp_path):
    "Also text, and a learner from a file; the validation rows that are explained are as they were"
    df = table().assign(day=lambda o: (o.day+pd.to_timedelta(np.arange(200)%24, 'h')).dt.tz_localize(zone))
    tl = trees(quiet(tabular_dls, df, 'y'))
    other = df.assign(day=df.day.dt.tz_localize(None) if zone else df.day.dt.tz_localize('Asia/Tokyo'))
    text,p = df.assign(day=df.day.astype(str)),tl.get_preds(dl=df)[0]
    loaded = load_tree_learner(tl.export(tmp_path/'m.trees'))
    for learn in (tl,loaded):
        for same in (df, text): assert (learn.get_preds(dl=same)[0] == p).all()
        for f,rows in ((learn.encode,other), (learn.test_dl,other), (learn.predict,other.iloc[3])):
            with pytest.raises(ValueError, match="dates of column 'day' had .*col.dt.tz_localize"): f(rows)
        assert np.isfinite(quiet(learn.get_preds, dl=df.assign(day=pd.NaT))[0].numpy()).all()
    assert all((e.value.tz is None) == (zone is None) for e in tl.partial('day', n=3))

def test_06_numbers_are_no_dates_without_a_format():
    df = table().assign(whole=lambda o: o.day.dt.strftime('%Y%m%d').astype(int))
    with pytest.raises(ValueError, match="column 'whole' holds numbers.*give their format, dates={'whole': '%Y%m%d'}"):
        quiet(tabular_dls, df, 'y', dates='whole')
    want = quiet(tabular_dls, df, 'y').train_ds.items.dayElapsed
    assert (quiet(tabular_dls, df, 'y', dates={'whole':'%Y%m%d'}).train_ds.items.wholeElapsed == want).all()
    tl = trees(quiet(tabular_dls, df.drop(columns='whole'), 'y'))
    with pytest.raises(ValueError, match="column 'day' holds numbers"):  # seconds since 1970, which pandas takes for ns
        tl.get_preds(dl=df.assign(day=df.day.astype('datetime64[s]').astype('int64')))

def test_07_targets_keep_their_digits():
    df = table().assign(y=np.arange(200)+123456789.)
    dls = tabular_dls(df, 'y')
    assert (trees(dls).get_preds()[1].ravel().numpy() == df.y[dls.valid_ds.items.index]).all()

def test_05_levels_come_from_training_rows():
    df = table()
    df.loc[190:,'c'] = 'late'
    for col in (df.c, df.c.astype('category')):
        dls = tabular_dls(df.assign(c=col), 'y', valid=range(150,200))
        assert list(dls.classes['c']) == ['#na#','x','y','z'] and (dls.valid_ds.items.c[40:] == 0).all()
    ordered = pd.Categorical(df.c, ['z','late','y','x'], ordered=True)
    assert list(tabular_dls(df.assign(c=ordered), 'y', valid=range(150,200)).classes['c']) == ['#na#','z','y','x']

def test_13_types_of_pandas():
    df = table()
    df.loc[3,'a'],df.loc[4,'c'] = np.nan,None
    df['old'] = df.whole > 50
    want = tabular_dls(df, 'y').train_ds.xs
    for kinds in (dict(whole='Int64', a='Float64', c='string', old='boolean'), dict(whole='int8', c='category'),
                  dict(whole=object, a=object, old=object)):
        dls = tabular_dls(df.astype(kinds), 'y')
        pd.testing.assert_frame_equal(dls.train_ds.xs, want, check_dtype=False)
        assert (trees(dls).get_preds(dl=df)[0] == trees(dls).get_preds(dl=df.astype(kinds))[0]).all()

def test_11_infinities_constants_and_empty_columns():
    df = table().assign(k=1., nothing=np.nan, one='u')
    df.loc[5,'a'] = np.inf
    with pytest.warns(UserWarning, match="'one', 'k', 'nothing' are constant or empty") as said:
        dls = tabular_dls(df, 'y', valid=range(150,200))
    assert any("1 of 200 values of column 'a' are infinite" in str(w.message) for w in said)
    assert 'a' in dls.cont_names and 'a_na' in dls.cat_names and np.isfinite(dls.train_ds.items.a).all()
    with pytest.warns(UserWarning, match='infinite'): learn_rows = dls.test_dl(df[5:7])
    assert np.isfinite(learn_rows.dataset.items.a).all()

def test_04_a_gap_at_inference_for_network_and_trees():
    df = table()
    dls = tabular_dls(df, 'y')
    med = df.whole.loc[dls.train_ds.items.index].median()
    with pytest.warns(UserWarning, match=f"1 of 3 values of column 'whole' are missing.*median, {med:.4g}"):
        got = dls.test_dl(df[:3].astype({'whole':float}).assign(whole=[1,np.nan,2])).dataset.items.whole
    assert np.isclose(got.iloc[1], dls.test_dl(df[:1].assign(whole=med)).dataset.items.whole.iloc[0])

def test_wgts_valid_and_task():
    df = table().assign(w=np.arange(200.))
    dls = tabular_dls(df, 'y', wgts='w', valid=range(10))
    assert 'w' not in dls.cont_names
    assert np.allclose(dls.train.wgts*df.w[10:].sum(), df.w[10:])
    assert list(dls.valid_ds.items.index) == list(range(10))
    mask = np.arange(200) % 4 == 0
    for valid in (mask, np.flatnonzero(mask), lambda d: (np.flatnonzero(~mask), np.flatnonzero(mask))):
        assert list(tabular_dls(df, 'y', valid=valid).valid_ds.items.index) == list(np.flatnonzero(mask))
    with pytest.warns(UserWarning, match='taken as two classes'):
        assert list(tabular_dls(df.assign(y=df.y=='yes').astype({'y':int}), 'y').vocab) == [0,1]
    with pytest.warns(UserWarning, match="task='class' makes"): tabular_dls(df, 'n_inp')
    assert len(tabular_dls(df, 'n_inp', task='class').vocab) == 5

@pytest.mark.parametrize('change,args,error,match', [
    (lambda d: d[:0], {}, ValueError, 'no rows'), (lambda d: d, dict(y='z'), KeyError, "no column 'z'"),
    (lambda d: pd.concat([d, d[['a']]], axis=1), {}, ValueError, "duplicate columns 'a'"),
    (lambda d: d.assign(y=[None, *d.y[1:]]), {}, ValueError, 'dropna'),
    (lambda d: d.assign(y=['rare', *d.y[1:]]), dict(valid=[0]), ValueError,
     "classes 'rare', which no training row has"),
    (lambda d: d.assign(y='no'), {}, ValueError, 'nothing to learn'),
    (lambda d: d, dict(valid=1.5), ValueError, 'fraction'),
    (lambda d: d, dict(valid=[500]), ValueError, 'outside the 200 rows'),
    (lambda d: d, dict(wgts=[1]), ValueError, '200 numbers'),
    (lambda d: d, dict(y=['y','c']), ValueError, 'one model for each'),
    (lambda d: d.assign(a=[[1]]*200), {}, ValueError, "'a' holds lists"),
    (lambda d: d.assign(day='never'), dict(dates='day'), ValueError, "'day' holds no dates"),
    (lambda d: d, dict(valid=range(200)), ValueError, 'no training rows'),
    (lambda d: d[['y']], {}, ValueError, 'no columns to learn from'),
    (lambda d: d, dict(cats='a', conts='a'), ValueError, 'two of'),
])
def test_what_no_model_can_learn(change, args, error, match):
    with pytest.raises(error, match=match): quiet(tabular_dls, change(table()), **(dict(y='y')|args))

def test_rows_that_lack_columns_and_unknown_classes():
    dls = tabular_dls(table(), 'y')
    tl = trees(dls)
    for f in (dls.test_dl, lambda r: tl.get_preds(dl=r)):
        with pytest.raises(KeyError, match="'whole'"): f(table().drop(columns='whole'))
        with pytest.raises(ValueError, match="not in the vocabulary.*'maybe'"): f(table().assign(y='maybe'))
    with pytest.warns(UserWarning, match="1 of 1 values of column 'c' were not seen.*'new'"):
        tl.predict(table().assign(c='new').iloc[0])

def test_20_wide_rows_take_no_longer_for_each_column(tmp_path):
    "One row of 400 columns goes through tables and not through a frame for each column"
    rng = np.random.RandomState(0)
    df = pd.DataFrame(rng.randn(60, 400), columns=[f'x{i}' for i in range(400)]).assign(y=rng.randn(60))
    tl = trees(tabular_dls(df, 'y'), 'rf', n_estimators=3)
    row = df.iloc[0].to_dict()
    made = []
    frame = pd.DataFrame.__init__
    try:
        pd.DataFrame.__init__ = lambda self, *a, **k: (made.append(1), frame(self, *a, **k))[1]
        tl.predict(row)
    finally: pd.DataFrame.__init__ = frame
    assert len(made) < 10

def test_fit_tabular_in_one_line_and_one_file(tmp_path):
    df = table()
    ens = quiet(fit_tabular, df, 'y', models=['rf','hist','network'], folds=2, metrics=accuracy, valid=.2,
                path=tmp_path, verbose=False)
    board = ens.leaderboard()
    assert {'rf','hist','network','ensemble','plain mean'} == set(board.index)
    assert board.accuracy['ensemble'] > .8
    assert (board['fit seconds'].dropna() > 0).all()
    again = load_tree_learner(ens.export('all.trees'))
    assert np.array_equal(again.get_preds(dl=df)[0], ens.get_preds(dl=df)[0])
    assert np.array_equal(again.predict(df.iloc[3])[2], ens.predict(df.iloc[3])[2])
    short = quiet(fit_tabular, df, 'y', models=['rf','hist'], folds=2, time_limit=1e-3, verbose=False)
    assert short.names == ['rf'] and short.validate()[0] < 1
    with pytest.raises(ValueError, match='must be among'): fit_tabular(df, 'y', models=['svm'])

# columns of any type

@pytest.mark.parametrize('values,kind', (([Decimal('1.5'),None], 'number'), ([1,2.5], 'number'),
                                         ([True,False], 'level'), ([date(2021,3,4),None], 'date'),
                                         (['a',None], 'level'), ([1,'a'], 'level')))
def test_what_a_column_of_objects_holds(values, kind): assert kind_of(pd.Series(values, dtype=object)) == kind

def test_columns_that_are_neither_numbers_nor_levels_nor_dates():
    def refused(f, values, said, **kwargs):
        with pytest.raises(ValueError, match=said): f(pd.Series(values, name='c', **kwargs))
    refused(kind_of, [1+2j], "column 'c' holds complex numbers; give their parts as columns")
    refused(kind_of, [[1],[2]], "column 'c' holds lists, which are no levels; take it apart")
    refused(levels_of, [{1:2},{3:4}], "column 'c' holds dicts, which are no levels")
    refused(numbers, ['many'], "column 'c' must be numbers, as in training")
    refused(dates_of, ['soon'], "column 'c' holds no dates.*give its format")
    early = np.array(['1500-01-01'], dtype='datetime64[s]')
    refused(dates_of, early, "column 'c' holds dates before 1678 or after 2262")

def test_numbers_levels_and_dates_as_pandas_has_them():
    assert numbers(pd.Series(pd.to_timedelta(['90s',None]))).fillna(-1).tolist() == [90.,-1.]
    assert numbers(pd.Series([Decimal('1.5'),None], dtype=object)).fillna(-1).tolist() == [1.5,-1.]
    sizes = pd.Categorical(['l','s','l'], ['s','m','l'], ordered=True)
    assert levels_of(pd.Series(sizes)) == ['s','l'] and levels_of(pd.Series(sizes.as_unordered())) == ['l','s']
    assert levels_of(pd.Series(['b',2,'a',1], dtype=object)) == [1,2,'a','b'], 'numbers, then text'
    for col in (pd.Series(['a',None,'z','b']), pd.Series(pd.Categorical(['a',None,'z','b']))):
        assert codes_of(col, ['a','b']).tolist() == [0,-1,-2,1], 'missing and unseen'
    there = dates_of(pd.Series(pd.to_datetime(['2021-03-04 01:00']).tz_localize('Asia/Tokyo')))
    assert there[0] == pd.Timestamp('2021-03-03 16:00') and there.dtype == 'datetime64[ns]'
    assert dates_of(pd.Series(['04/03/21']), '%d/%m/%y')[0] == pd.Timestamp('2021-03-04')

def _of_all_kinds(n=300):
    rng = np.random.RandomState(0)
    df = table(n).assign(kind=pd.Categorical(rng.choice(list('pqr'), n), list('rqpz'), ordered=True),
                         b=rng.randn(n)*1e6+3e8,
                         many=pd.Categorical.from_codes(np.arange(n)%200, [f'm{i}' for i in range(200)]),
                         count=pd.array(rng.randint(0, 90, n), 'Int64'), one=rng.rand(n) > .5, two=rng.rand(n) > .5,
                         size=rng.randn(n).astype('float32'), value=rng.randn(n))
    df.loc[rng.choice(n, 20), ['a','count','c','day']] = None
    df.loc[[3,7,250], 'a'] = np.inf
    df.loc[[290,291], 'whole'],df.loc[295, 'c'] = 5000,'late'
    df['size'] = df['size'].where(df.index < 280)  # missing in validation rows alone
    return df

@pytest.mark.parametrize('ys,block', [(['value'],RegressionBlock(1)), (['y'],CategoryBlock(['yes','no'], sort=False)),
                                      (['one','two'],MultiCategoryBlock(True, ['one','two']))])
def test_the_data_are_those_of_fastais_own_set_up(ys, block):
    df,n = _of_all_kinds(),300
    df = df.drop(columns={'value','y','one','two'} - set(ys))
    splits,classes = (np.arange(270),np.arange(270, n)),['yes','no'] if ys==['y'] else None
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        np.random.seed(1)
        ours = tabular_dls(df, ys, classes=classes, valid=lambda _: splits)
        steps = [Tidy({'day': (None,False,False)}, classes), Categorify, FillMissing, Normalize]
        made = [o for o in ours.cat_names if not o.endswith('_na')]
        where,own = len(said),np.random.rand()
        np.random.seed(1)
        to = TabularPandas(df, steps, made, ours.cont_names, ys, block, splits=[o.tolist() for o in splits],
                           reduce_memory=False)
        theirs = to.dataloaders(bs=64)
    assert own == np.random.rand()
    infinite = [[str(o.message) for o in part if 'infinite' in str(o.message)] for part in (said[:where],said[where:])]
    assert infinite[0] == infinite[1] and len(infinite[0])==1
    for a,b in zip(ours.loaders, theirs.loaders, strict=True):
        pd.testing.assert_frame_equal(a.dataset.items, b.dataset.items, check_exact=True)
        assert (a.dataset.cat_names,a.dataset.cont_names) == (b.dataset.cat_names,b.dataset.cont_names)
    assert repr(ours.procs) == repr(theirs.procs)
    p,q = ours.procs,theirs.procs
    assert (p.normalize.means,p.normalize.stds,p.fill_missing.na_dict) == (
        q.normalize.means,q.normalize.stds,q.fill_missing.na_dict)
    assert {k:list(v) for k,v in p.categorify.classes.items()} == {k:list(v) for k,v in q.categorify.classes.items()}
    np.random.seed(2)
    ours = [[t.tolist() for t in b] for b in ours.train]
    np.random.seed(2)
    assert ours == [[t.tolist() for t in b] for b in theirs.train]

def test_names_that_two_columns_would_have():
    df = table().assign(dayYear=1.5)
    df.loc[0, 'dayYear'] = 2
    with pytest.raises(ValueError, match="'dayYear' have the names of parts of dates"): quiet(tabular_dls, df, 'y')
    with pytest.raises(ValueError, match="'dayYear' have the names of parts"): quiet(tabular_dls, df, 'dayYear')
    df = table().assign(a_na='u')
    df.loc[3:9, ['a','a_na']] = np.nan,'v'
    with pytest.raises(ValueError, match="'a_na' have the names of marks of gaps"): quiet(tabular_dls, df, 'y')

def test_a_part_of_a_date_never_replaces_a_column():
    "Not even where that part is constant in the training rows and no feature itself"
    df = table().assign(day=pd.Timestamp('2021-01-01')+pd.to_timedelta(np.arange(200), 'D'))
    for change in (dict(dayYear=df.a), dict(dayDate=pd.Timestamp('2021-01-01'))):
        with pytest.raises(ValueError, match="'dayYear'.* of parts of dates; rename or drop"):
            quiet(tabular_dls, df.assign(**change), 'y')

def test_masks_and_positions_of_validation_rows():
    df = table()
    mask = (df.a > .5).to_numpy()
    for held in (mask, pd.array(mask, 'boolean'), np.flatnonzero(mask)*1.):
        assert list(tabular_dls(df, 'y', valid=held).valid_ds.items.index) == list(np.flatnonzero(mask))
    dls = tabular_dls(df, 'y', valid=lambda d: (d.a <= .5, d.a > .5))
    assert list(dls.train_ds.items.index) == list(np.flatnonzero(~mask))
    assert list(dls.valid_ds.items.index) == list(np.flatnonzero(mask))
    for valid,said in (('held', r"give a mask, such as df\['held'\]"), ([.5,1.5], 'whole numbers'),
                       (['a'], 'whole numbers'), (lambda d: ([.5], [2]), 'whole numbers')):
        with pytest.raises(ValueError, match=said): tabular_dls(df, 'y', valid=valid)

def test_weights_and_names_that_cannot_be_meant():
    df = table().assign(v=np.arange(200.))
    with pytest.raises(ValueError, match='every training row has the weight 0'):
        tabular_dls(df, 'y', wgts=np.arange(200) < 50, valid=range(50))
    for names in (dict(y='y', cats=['c','c']), dict(y='y', conts=['a','a']), dict(y=['v','v'])):
        with pytest.raises(ValueError, match='is named twice'): tabular_dls(df, **names)
    with pytest.raises(ValueError, match="'k' holds tuples, which are no levels; take it apart"):
        tabular_dls(df.assign(k=[(1,2),(3,4)]*100), 'y')

def test_a_column_with_the_name_of_a_mark_is_not_in_its_way():
    df = table().assign(a_na='u')
    df.loc[3:9, 'a'] = np.nan
    dls = tabular_dls(df, 'y', cats=['c'], conts=['a'])
    want = dls.test_dl(df.drop(columns='a_na')).dataset.xs
    pd.testing.assert_frame_equal(dls.test_dl(df).dataset.xs, want)
    with pytest.raises(ValueError, match="'a_na' have the names of marks of gaps"):
        quiet(tabular_dls, df.assign(a_na=df.day), 'y')

def test_a_loaded_network_predicts_with_any_column_name(tmp_path):
    df = table()
    for y in ('y', ['a','whole']):
        dls = tabular_dls(df, y, path=tmp_path)
        learn = tabular_learner(dls, layers=[4])
        learn.export('net.pkl')
        again = load_learner(tmp_path/'net.pkl')
        assert again.dls.n_inp == 2 and again.dls.c == dls.c == 2
        with learn.no_bar(), again.no_bar():
            want = learn.get_preds(dl=dls.test_dl(df))[0]
            assert np.array_equal(again.get_preds(dl=again.dls.test_dl(df))[0], want)
