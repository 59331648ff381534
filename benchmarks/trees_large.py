"""A table of millions of rows from frame to prediction, and exact contributions against shap, in processor time.

    python benchmarks/trees_large.py [--rows 3000000] [--what rows contributions]

`rows`: LightGBM, 50 rounds on one thread, over a made table of 11 numbers and 3 categories; ratios are over the same
engine on the arrays that it is given. `contributions`: a forest of 100 trees, 1,000 rows; `shap.TreeExplainer`
explains a tenth of them, times ten.
"""
import argparse, resource, time, warnings
import numpy as np
import pandas as pd
warnings.filterwarnings('ignore')
from sklearn.datasets import make_friedman1
from fastai_ext.tabular.dls import tabular_dls
from fastai_ext.tabular.trees import tree_learner

def seconds(f, *args, **kwargs):
    "(seconds of processor time, what `f` returns)"
    start = time.process_time()
    res = f(*args, **kwargs)
    return time.process_time()-start,res

def peak(): return f'peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20:.2f} GiB'

def made(n):
    "Numbers and categories, and a target of some of them"
    rng = np.random.RandomState(0)
    df = pd.DataFrame({f'n{i}': rng.randn(n).astype('float32') for i in range(11)})
    for i in range(3):
        levels = [f'l{j}' for j in range(20+i)]
        df[f'k{i}'] = pd.Categorical.from_codes(rng.randint(0, 20+i, n).astype('int8'), levels)
    return df.assign(y=df.n0 + df.n1*df.n2 + df.k0.cat.codes*.1)

def quietly(learn, *args):
    with learn.no_bar(), learn.no_logging(): learn.fit(*args)

def rows(n):
    df = made(n)
    print(f'{n:,} rows, the frame has {df.memory_usage().sum()/2**30:.2f} GiB; {peak()}', flush=True)
    before,dls = seconds(tabular_dls, df, 'y', valid=.02)
    trees = tree_learner(dls, 'lgbm', n_estimators=50, n_jobs=1)
    fit,_ = seconds(quietly, trees)
    print(f'tabular_dls {before:.1f} s, fit {fit:.1f} s; {peak()}', flush=True)
    new = df[:n//10]
    predict,_ = seconds(trees.get_preds, dl=new)
    x,_ = trees.encode(new)
    own_predict,_ = seconds(trees.model.engine.predict, x)
    x,y,*_ = trees.train_arrays()
    dls_valid = trees.encode(df.iloc[dls.valid_ds.items.index])
    own_fit,_ = seconds(trees.model.engine.fresh().fit, x, y, (dls_valid[0], dls_valid[1]), None, 50)
    print(f'over the engine on arrays: fit {fit/own_fit:.2f}, with tabular_dls {(fit+before)/own_fit:.2f}, '
          f'predictions of a frame {predict/own_predict:.2f}; {peak()}')

def contributions():
    import shap
    x,y = make_friedman1(5000, n_features=10, random_state=0)
    df = pd.DataFrame(x, columns=[f'c{i}' for i in range(10)]).assign(y=y)
    trees = tree_learner(tabular_dls(df, 'y'), 'rf', n_jobs=1)
    quietly(trees)
    x,_ = trees.encode(df[:1000])
    trees.model.engine.contributions(x[:10])
    ours,_ = seconds(trees.model.engine.contributions, x)
    explainer = shap.TreeExplainer(trees.model.est)
    theirs,_ = seconds(explainer.shap_values, x[:100], check_additivity=False)
    print(f'contributions of 1,000 rows {ours:.3f} s, TreeExplainer {10*theirs:.1f} s: {10*theirs/ours:.0f} times')

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--rows', type=int, default=3_000_000)
    p.add_argument('--what', nargs='+', default=['rows','contributions'], choices=['rows','contributions'])
    args = p.parse_args()
    if 'rows' in args.what: rows(args.rows)
    if 'contributions' in args.what: contributions()
