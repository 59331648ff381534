"""Networks, trees and their ensembles on real tables: metrics on held-out rows and seconds to fit.

    python benchmarks/trees.py --data FOLDER [--seeds 3] [--only adult]

FOLDER holds `adult.data` (UCI Adult, no header) and `bike_hour.csv` (UCI Bike Sharing, dates dd/mm/yy); a table that is not there is left out.
Adult is split 70/15/15 at random for each seed, bike by time. Weights are chosen on the validation rows; every figure is of the test rows.
"""
import argparse, time, warnings
from pathlib import Path

import numpy as np
import pandas as pd
warnings.filterwarnings('ignore', message='The given NumPy array is not writable')
from fastai.tabular.all import (Categorify, CategoryBlock, FillMissing, IndexSplitter, Normalize, RegressionBlock, RocAucBinary, TabularPandas, accuracy,
                                rmse, set_seed, tabular_learner)
from fastai_ext.tabular.ensemble import ensemble
from fastai_ext.tabular.trees import tree_learner

ADULT = 'age workclass fnlwgt education education-num marital-status occupation relationship race sex capital-gain capital-loss hours-per-week country salary'

def adult(folder, seed):
    df = pd.read_csv(folder/'adult.data', header=None, names=ADULT.split(), skipinitialspace=True)
    perm = np.random.RandomState(seed).permutation(len(df))
    cats = [c for c in df.columns[:-1] if not pd.api.types.is_numeric_dtype(df[c])]
    return df.iloc[perm].reset_index(drop=True), cats, [c for c in df.columns[:-1] if c not in cats], 'salary', CategoryBlock(), [accuracy, RocAucBinary()]

def bike(folder, seed):
    df = pd.read_csv(folder/'bike_hour.csv')
    df['cnt'] = np.log1p(df.cnt)
    cats = ['season','yr','mnth','hr','holiday','weekday','workingday','weathersit']
    return df, cats, ['temp','atemp','hum','windspeed'], 'cnt', RegressionBlock(), [rmse]

def data(make, folder, seed):
    df,cats,conts,y,block,metrics = make(folder, seed)
    a,b = int(.7*len(df)),int(.85*len(df))
    to = TabularPandas(df[:b], [Categorify,FillMissing,Normalize], cats, conts, y, y_block=block, splits=IndexSplitter(range(a,b))(df[:b]), reduce_memory=False)
    return to.dataloaders(bs=512), df[b:], metrics

def one(make, folder, seed):
    dls,test,metrics = data(make, folder, seed)
    set_seed(seed)
    learn = tabular_learner(dls, metrics=metrics)
    models,secs = {'NN, 5 epochs': (learn, lambda: learn.fit_one_cycle(5, 1e-2))},{}
    for nm,label in dict(dt='decision tree', rf='random forest', extra='extra trees', hist='histogram boosting').items():
        tl = tree_learner(dls, nm, metrics=metrics, seed=seed)
        models[label] = tl,tl.fit
    for nm,(m,fit) in models.items():
        with m.no_bar(), m.no_logging(): start = time.perf_counter(); fit(); secs[nm] = time.perf_counter()-start
    get = {nm:m for nm,(m,_) in models.items()}
    groups = {'NN + forest': ['NN, 5 epochs','random forest'], 'all five': list(get)}
    rows = {}
    for label,names in groups.items():
        for how in ('mean','auto'):
            start = time.perf_counter()
            nm = f"{label}, {'weighted' if how=='auto' else how}"
            rows[nm] = ens = ensemble(*(get[n] for n in names), weights=how, names=names, on=.99)  # the report is of the test rows
            secs[nm] = time.perf_counter()-start
    first = ensemble(*get.values(), weights='mean')
    test_dl,out = first.test_dl(test),{}
    for nm,m in (get|rows).items(): out[nm] = [float(v) for v in m.validate(dl=test_dl)[1:]] + [secs[nm]]
    return pd.DataFrame.from_dict(out, orient='index', columns=[m.name.lstrip('_') for m in learn.metrics]+['seconds']), ens.weights

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', type=Path, required=True)
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--only')
    args = p.parse_args()
    for name,make,file in (('adult',adult,'adult.data'), ('bike',bike,'bike_hour.csv')):
        if args.only not in (None,name) or not (args.data/file).exists(): continue
        runs = [one(make, args.data, s) for s in range(args.seeds)]
        print(f"\n{name}: mean of {args.seeds} seeds, test rows\n{(sum(r for r,_ in runs)/len(runs)).round(4)}")
        print(f"\nweights: {dict((sum(w for _,w in runs)/len(runs)).round(3))}", flush=True)

if __name__ == '__main__': main()
