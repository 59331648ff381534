"Trees that grow outside the memory of one process: external memory and a Dask cluster, against the same trees here"
import warnings

import numpy as np
import pandas as pd
import pytest
from fastai_ext.tabular.dls import tabular_dls
from fastai_ext.tabular.files import load_tree_learner
from fastai_ext.tabular.trees import tree_learner

targets = ['value','two','three']

def table(n=2400, seed=0):
    rng = np.random.RandomState(seed)
    df = pd.DataFrame(dict(kind=rng.choice(list('abcdefg'), n), a=rng.randn(n), b=rng.rand(n)*1e3))
    df.loc[::9,'b'] = np.nan
    signal = df.a*2 + df.kind.map(dict(zip('abcdefg', [0,3,-2,1,-3,2,0], strict=True)))
    df['value'] = signal + rng.randn(n)*.3 + 100
    df['two'] = np.where(signal > 0, 'yes', 'no')
    df['three'] = np.select([signal < -1, signal < 1], ['low','mid'], 'high')
    return df

def frame(target): return table()[['kind','a','b',target]]

def grown(target, name, dls=None, **kwargs):
    dls = tabular_dls(frame(target), target, valid=range(2000,2400)) if dls is None else dls
    size = dict(n_estimators=20) if name=='rf' else dict(n_estimators=60, lr=.2)
    tl = tree_learner(dls, name, n_jobs=1, **size)
    with tl.no_bar(), tl.no_logging(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        tl.fit(patience=10, **kwargs)
    return tl

def close(a, b, share=.15):
    "Are the losses of two learners alike?"
    a,b = a.validate()[0],b.validate()[0]
    return abs(a-b) < share*max(b, .05)  # of losses near 0, the last digits are chance

# --- external memory

@pytest.mark.parametrize('target', targets)
def test_streamed_rows_give_what_rows_in_memory_give(target, tmp_path):
    df = frame(target)[:2000]
    for i in range(4): df[i::4].to_csv(tmp_path/f'{i}.csv', index=False)
    here = grown(target, 'xgb')
    streamed = grown(target, 'xgb', rows=[*map(str, sorted(tmp_path.glob('*.csv')))], cache=tmp_path)
    assert close(streamed, here)
    again = load_tree_learner(streamed.export(tmp_path/'s.trees'))
    new = frame(target)[2000:]
    assert np.array_equal(again.get_preds(dl=new)[0], streamed.get_preds(dl=new)[0])

def test_a_learner_of_few_rows_learns_many_more_than_it_holds():
    few = tabular_dls(frame('value').iloc[[*range(100), *range(2000,2400)]], 'value', valid=range(100,500))
    def parts(): return (frame('value')[i:i+250] for i in range(0, 2000, 250))
    many = grown('value', 'xgb', few, rows=parts)
    assert many.validate()[0] < .5*grown('value', 'xgb', few).validate()[0]

@pytest.mark.parametrize('name,rows,error,match', [
    ('rf', [frame('value')], ValueError, "'rf' does not learn with rows="),
    ('lgbm', [frame('value')], ValueError, "give one of 'xgb'"),
    ('xgb', iter([frame('value')]), TypeError, 'only once'), ('xgb', [3], TypeError, 'give frames'),
    ('xgb', ['rows.txt'], TypeError, r"'rows.txt'; give frames, or .csv"),
    ('xgb', [frame('value').drop(columns='value')], ValueError, 'lacks the targets'),
    ('xgb', [frame('value').drop(columns='a')], KeyError, "lack columns that training had: 'a'")])
def test_rows_that_cannot_be_streamed_leave_the_model(name, rows, error, match):
    tl = grown('value', name)
    before = tl.get_preds()[0]
    with pytest.raises(error, match=match), tl.no_bar(), tl.no_logging(): tl.fit(rows=rows)
    assert np.array_equal(before, tl.get_preds()[0])

# --- a cluster

@pytest.fixture(scope='module')
def client():
    pytest.importorskip('pyarrow', reason="dask's frames need it")
    distributed = pytest.importorskip('distributed')
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        with distributed.Client(cluster) as c: yield c

pairs = [('xgb','value'), ('xgb','three'), ('lgbm','value'), ('lgbm','two'), ('rf','two')]

@pytest.mark.parametrize('name,target', pairs)
def test_a_cluster_gives_what_one_machine_gives(client, name, target, tmp_path):
    here,there = grown(target, name),grown(target, name, client=client)
    assert close(there, here, 1e-9 if name=='rf' else .25)
    again = load_tree_learner(there.export(tmp_path/'c.trees'))
    new = frame(target)[2000:]
    assert np.array_equal(again.get_preds(dl=new)[0], there.get_preds(dl=new)[0])

@pytest.mark.parametrize('name', ['xgb','lgbm'])
def test_partitions_are_encoded_where_they_are(client, name):
    import dask.dataframe as dd
    few = tabular_dls(frame('value').iloc[[*range(200), *range(2000,2400)]], 'value', valid=range(200,600))
    parts = dd.from_pandas(frame('value')[:2000], npartitions=4)
    many = grown('value', name, few, client=client, rows=parts)
    assert close(many, grown('value', name), .25)

def test_what_a_cluster_cannot_do_is_refused(client):
    tl = tree_learner(tabular_dls(frame('value'), 'value'), 'hist')
    with pytest.raises(ValueError, match="'hist' does not learn with client="): tl.fit(client=client)
