"""Each engine against the same engine used well by hand, an ensemble against its best member, and what it costs over the engine itself.

    python benchmarks/trees.py --data FOLDER [--seeds 3] [--only adult] [--rounds 2000] [--skip costs]

FOLDER holds `adult.data` (UCI Adult, no header), `bike_hour.csv` (UCI Bike Sharing, dates dd/mm/yy), `penguins.csv` (Palmer penguins) and `nyc_weather.csv`
(hourly weather of New York); a table that is not there is left out. Rows are split 70/15/15 at random for each seed, bike by time. Every figure is of the
test rows, which neither stopped an engine nor chose a weight. `by hand`: the library's own calls, with native categories and early stopping on the
same validation rows. Times are ratios of medians within one run.
"""
import argparse, time, warnings
from pathlib import Path

import numpy as np
import pandas as pd
warnings.filterwarnings('ignore')
from sklearn.metrics import log_loss, mean_squared_error
from fastai_ext.tabular.auto import fit_tabular
from fastai_ext.tabular.dls import tabular_dls
from fastai_ext.tabular.trees import tensors, tree_learner

ADULT = ('age workclass fnlwgt education education-num marital-status occupation relationship race sex capital-gain capital-loss hours-per-week '
         'country salary')

def adult(folder):
    return pd.read_csv(folder/'adult.data', header=None, names=ADULT.split(), skipinitialspace=True), 'salary', False

def bike(folder):
    df = pd.read_csv(folder/'bike_hour.csv')
    df['cnt'] = np.log1p(df.cnt)
    return df[['season','yr','mnth','hr','holiday','weekday','workingday','weathersit','temp','atemp','hum','windspeed','cnt']], 'cnt', True

def penguins(folder): return pd.read_csv(folder/'penguins.csv').dropna(subset=['sex']).drop(columns='rowid', errors='ignore'), 'species', False

def weather(folder):
    df = pd.read_csv(folder/'nyc_weather.csv').dropna(subset=['temp'])
    return df[['origin','month','hour','humid','wind_dir','wind_speed','pressure','visib','temp']], 'temp', False

tables = dict(adult=('adult.data',adult), bike=('bike_hour.csv',bike), penguins=('penguins.csv',penguins), weather=('nyc_weather.csv',weather))

def split(make, folder, seed):
    df,y,by_time = make(folder)
    if not by_time: df = df.sample(frac=1, random_state=seed)
    df = df.reset_index(drop=True)
    a,b = int(.7*len(df)),int(.85*len(df))
    return df[:b], range(a, b), df[b:], y

def score(p, y): return log_loss(y, p, labels=range(p.shape[1])) if p.shape[1] > 1 else mean_squared_error(y, p)**.5

def arrays(dls, ds, is_class):
    (c,x),(y,) = tensors(ds, is_class)
    return c.numpy(), x.numpy(), y.numpy().ravel()

def by_hand(name, train, valid, test, is_class, seed, rounds, patience=50):
    "Predictions of the library itself"
    def codes(c):
        c = c.astype('float32')
        c[c==0] = np.nan
        return c
    full = lambda d: np.concatenate([codes(d[0]), d[1]], 1)
    k,cats = train[0].shape[1],list(range(train[0].shape[1]))
    if name=='hist':
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
        m = (HistGradientBoostingClassifier if is_class else HistGradientBoostingRegressor)(
            max_iter=rounds, learning_rate=.06, early_stopping=True, n_iter_no_change=patience, scoring='loss', tol=0, random_state=seed,
            categorical_features=cats)
        m.fit(full(train), train[2], X_val=full(valid), y_val=valid[2])
    elif name=='xgb':
        import xgboost as xgb
        m = (xgb.XGBClassifier if is_class else xgb.XGBRegressor)(n_estimators=rounds, learning_rate=.06, early_stopping_rounds=patience, random_state=seed,
                                                                  feature_types=['c']*k+['q']*train[1].shape[1], enable_categorical=True)
        m.fit(full(train), train[2], eval_set=[(full(valid),valid[2])], verbose=False)
    elif name=='lgbm':
        import lightgbm as lgb
        m = (lgb.LGBMClassifier if is_class else lgb.LGBMRegressor)(n_estimators=rounds, learning_rate=.06, random_state=seed, verbose=-1)
        m.fit(full(train), train[2], eval_set=[(full(valid),valid[2])], categorical_feature=cats, callbacks=[lgb.early_stopping(patience, verbose=False)])
    elif name=='catboost':
        from catboost import CatBoostClassifier, CatBoostRegressor
        frame = lambda d: pd.concat([pd.DataFrame(d[0]), pd.DataFrame(d[1], columns=range(k, k+d[1].shape[1]))], axis=1)
        m = (CatBoostClassifier if is_class else CatBoostRegressor)(iterations=rounds, random_seed=seed, verbose=False, allow_writing_files=False,
                                                                    cat_features=cats)
        m.fit(frame(train), train[2], eval_set=(frame(valid),valid[2]), early_stopping_rounds=patience)
        full = frame
    else:
        from sklearn import ensemble
        m = getattr(ensemble, dict(rf='RandomForest', extra='ExtraTrees')[name]+('Classifier' if is_class else 'Regressor'))(
            100, min_samples_leaf=5, max_features='sqrt' if is_class else dict(rf=.5, extra=1.)[name], n_jobs=-1, random_state=seed)
        full = lambda d: np.concatenate(d[:2], 1).astype('float32')
        m.fit(full(train), train[2])
    return m.predict_proba(full(test)) if is_class else m.predict(full(test)).reshape(-1,1)

def one(make, folder, seed, rounds, names, members, limit):
    df,held,test,y = split(make, folder, seed)
    dls = tabular_dls(df, y, valid=held, seed=seed)
    is_class = hasattr(dls, 'vocab') and pd.api.types.is_string_dtype(df[y])
    rows = {}
    for name in names:
        tl = tree_learner(dls, name, seed=seed, **({} if name in ('rf','extra') else dict(n_estimators=rounds)))
        with tl.no_bar(), tl.no_logging(): tl.fit()
        p,t = (o.numpy() for o in tl.get_preds(dl=test))
        parts = [arrays(dls, ds, is_class) for ds in (dls.train_ds, dls.valid_ds, tl.test_dl(test).dataset)]
        hand = by_hand(name, *parts, is_class, seed, rounds)
        rows[f'{name}: ours'],rows[f'{name}: by hand'] = score(p, t.ravel()),score(hand, t.ravel())
    start = time.perf_counter()
    ens = fit_tabular(df, y, models=members, valid=0, folds=4, time_limit=limit, seed=seed, verbose=False)
    board = ens.scores(test).loss
    for n in board.index: rows[f'ensemble table: {n}'] = board[n] if is_class else board[n]**.5
    rows['ensemble seconds'] = time.perf_counter()-start
    return rows

def median(f, n=7):
    f()
    times = []
    for _ in range(n):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter()-start)
    return float(np.median(times))

def costs(make, folder, rounds=200):
    "Ratios to the engine on the same arrays, and milliseconds for one row"
    df,held,test,y = split(make, folder, 0)
    dls = tabular_dls(df, y, valid=held)
    out = {}
    for name in ('rf','hist','xgb','lgbm','catboost'):
        tl = tree_learner(dls, name, **({} if name=='rf' else dict(n_estimators=rounds)))
        with tl.no_bar(), tl.no_logging():
            tl.fit(patience=None)
            x,ty,*_ = tl.train_arrays()
            fit = median(lambda tl=tl: tl.fit(patience=None), 3)/median(lambda tl=tl, x=x, ty=ty: tl.model.engine.fresh().fit(x, ty), 3)
            batch = tl.encode(test)[0]
            pred = median(lambda tl=tl: tl.get_preds(dl=test))/median(lambda tl=tl, batch=batch: tl.model.engine.predict(batch))
            row = test.iloc[0].to_dict()
            out[name] = fit,pred,1000*median(lambda tl=tl, row=row: tl.predict(row), 20)
    return pd.DataFrame(out, index=['fit, ratio','batch from a frame, ratio','one row, ms']).T.round(2)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', type=Path, required=True)
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--rounds', type=int, default=2000)
    p.add_argument('--engines', nargs='+', default=['rf','extra','hist','xgb','lgbm','catboost'])
    p.add_argument('--members', nargs='+', default=['lgbm','hist','catboost','rf','extra','xgb','network'])
    p.add_argument('--limit', type=float, help='seconds for fit_tabular')
    p.add_argument('--only', nargs='+')
    p.add_argument('--skip', choices=['costs','scores'])
    args = p.parse_args()
    for name,(file,make) in tables.items():
        if args.only and name not in args.only or not (args.data/file).exists(): continue
        if args.skip != 'scores':
            runs = pd.DataFrame([one(make, args.data, s, args.rounds, args.engines, args.members, args.limit) for s in range(args.seeds)])
            print(f"\n{name}: log loss or RMSE on test rows, {args.seeds} seeds\n{pd.DataFrame(dict(mean=runs.mean(), std=runs.std())).round(4)}", flush=True)
        if args.skip != 'costs': print(f"\n{name}: cost over the engine\n{costs(make, args.data)}", flush=True)

if __name__ == '__main__': main()
