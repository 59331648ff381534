"""Each engine against the same engine used well by hand, an ensemble against its best member, and what it costs.

    python benchmarks/trees.py --data FOLDER --out results.jsonl [--seeds 3] [--rows 6000] [--only adult] [--what costs]
    python benchmarks/trees.py --data FOLDER --what trials              whether short fits choose as full ones do
    python benchmarks/trees.py --data FOLDER --what networks --rows 10000       networks alone; needs `pip install tabm`

FOLDER holds the tables that `trees_tables.py` names; one that is not there is left out. Every figure is of the test
rows, which neither stopped an engine nor chose a weight. `by hand`: the library's own calls, with native categories and
early stopping on the same validation rows. Times are ratios of medians within one run. Each result is a line of JSON in
the file `--out`; what is there already is not run again, so a run that was stopped goes on where it was.
`trees_autogluon.py` fits AutoGluon on the same rows.
"""
import argparse, json, time, warnings
from pathlib import Path

import numpy as np
import pandas as pd
warnings.filterwarnings('ignore')
from fastai_ext.tabular.auto import fit_tabular
from fastai_ext.tabular.dls import tabular_dls
from fastai_ext.tabular.engines import engines
from fastai_ext.tabular.folds import fold_positions
from fastai_ext.tabular.rows import rows_dl
from fastai_ext.tabular.target import kind_of_target, n_outputs, tensors
from fastai_ext.tabular.trees import tree_learner
from fastai_ext.tabular.weights import loss_of_kind
from trees_tables import bike, score, split, tables

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
            max_iter=rounds, learning_rate=.06, early_stopping=True, n_iter_no_change=patience, scoring='loss', tol=0,
            random_state=seed,
            categorical_features=cats)
        m.fit(full(train), train[2], X_val=full(valid), y_val=valid[2])
    elif name=='xgb':
        import xgboost as xgb
        m = (xgb.XGBClassifier if is_class else xgb.XGBRegressor)(n_estimators=rounds, learning_rate=.06,
                                                                  early_stopping_rounds=patience, random_state=seed,
                                                                  feature_types=['c']*k+['q']*train[1].shape[1],
                                                                  enable_categorical=True)
        m.fit(full(train), train[2], eval_set=[(full(valid),valid[2])], verbose=False)
    elif name=='lgbm':
        import lightgbm as lgb
        m = (lgb.LGBMClassifier if is_class else lgb.LGBMRegressor)(n_estimators=rounds, learning_rate=.06,
                                                                    random_state=seed, verbose=-1)
        m.fit(full(train), train[2], eval_set=[(full(valid),valid[2])], categorical_feature=cats,
              callbacks=[lgb.early_stopping(patience, verbose=False)])
    elif name=='catboost':
        from catboost import CatBoostClassifier, CatBoostRegressor
        frame = lambda d: pd.concat([pd.DataFrame(d[0]), pd.DataFrame(d[1], columns=range(k, k+d[1].shape[1]))], axis=1)
        m = (CatBoostClassifier if is_class else CatBoostRegressor)(iterations=rounds, random_seed=seed, verbose=False,
                                                                    allow_writing_files=False,
                                                                    cat_features=cats)
        m.fit(frame(train), train[2], eval_set=(frame(valid),valid[2]), early_stopping_rounds=patience)
        full = frame
    else:
        from sklearn import ensemble
        m = getattr(ensemble,
                    dict(rf='RandomForest', extra='ExtraTrees')[name]+('Classifier' if is_class else 'Regressor'))(
            100, min_samples_leaf=5, max_features='sqrt' if is_class else dict(rf=.5, extra=1.)[name], n_jobs=-1,
            random_state=seed)
        full = lambda d: np.concatenate(d[:2], 1).astype('float32')
        m.fit(full(train), train[2])
    return m.predict_proba(full(test)) if is_class else m.predict(full(test)).reshape(-1,1)

def engine(args, make, seed, name):
    "The score of an engine here and by hand, and the rounds that it kept"
    df,held,test,y = split(make, args.data, seed, args.rows)
    dls = tabular_dls(df, y, valid=held, seed=seed)
    tl = tree_learner(dls, name, seed=seed, **({} if name in ('rf','extra') else dict(n_estimators=args.rounds)))
    with tl.no_bar(), tl.no_logging(): tl.fit()
    p,t = (o.numpy() for o in tl.get_preds(dl=test))
    is_class = tl.model.is_class
    parts = [arrays(dls, ds, is_class) for ds in (dls.train_ds, dls.valid_ds, tl.test_dl(test).dataset)]
    hand = by_hand(name, *parts, is_class, seed, args.rounds)
    return dict(ours=score(p, t.ravel()), by_hand=score(hand, t.ravel()), rounds=tl.model.engine.n_rounds)

def together(args, make, seed, _):
    "The scores of an ensemble, of its members and of their plain mean; of the book's mean of a network and a forest"
    df,held,test,y = split(make, args.data, seed, args.rows)
    start,used = time.perf_counter(),time.process_time()
    ens = fit_tabular(df, y, models=args.members, valid=0, folds=args.folds, time_limit=args.limit, seed=seed,
                      time=True if make is bike else None, verbose=False)
    seconds,used = time.perf_counter()-start,time.process_time()-used
    board = ens.scores(test)
    root = 1 if ens.model.is_class else .5
    xb,yb,_ = ens.rows_of(1, test)
    averaged = ens.measure(ens.model.mean(ens.model.each(*xb), ens.model.weights), yb)[0]**root
    scores = (board.loss**root).to_dict() | dict(averaged=averaged)
    res = dict(seconds=seconds, cpu=used, weights=ens.weights.round(3).to_dict(), how=ens.model.how, scores=scores)
    if {'network','rf'} <= set(ens.names):
        book = [(n in ('network','rf'))/2 for n in ens.names]
        res['book'] = ens.measure(ens.model.mean(ens.model.each(*xb), book), yb)[0]**root
    if ens.model.is_class:
        wrong = {n: float((p.argmax(1) != yb[0].numpy().ravel()).mean())
                 for n,p in zip(ens.names, ens.model.each(*xb), strict=True)}
        mixed = ens.model.combine(ens.model.each(*xb)).argmax(1)
        res['errors'] = wrong | dict(ensemble=float((mixed != yb[0].numpy().ravel()).mean()))
    return res

def alone(args, make, seed, name):
    "The score of one network, the processor's seconds of its fit"
    import torch
    from fastai.torch_core import set_seed
    from fastai_ext.tabular.network import network_for
    df,held,test,y = split(make, args.data, seed, args.rows)
    dls = tabular_dls(df, y, valid=held, seed=seed)
    set_seed(seed)
    used = time.process_time()
    if name=='fastai': learn = fastai_default(dls)
    elif name=='tabm': learn = tabm(dls)
    else: learn = network_for(dls, bins=48 if name=='pieces' else 0)
    used = time.process_time()-used
    (c,x),(t,) = tensors(rows_dl(dls, test).dataset, kind_of_target(dls.train_ds)=='class')
    with torch.no_grad(): out = learn.model.eval()(c, x)
    p = out.double().softmax(-1) if kind_of_target(dls.train_ds)=='class' else out.double()
    return dict(score=score(p.numpy(), t.numpy().ravel()), cpu=used)

def fastai_default(dls):
    "`tabular_learner` as it comes, as many epochs as `network_for`"
    from fastai.tabular.all import tabular_learner
    learn = tabular_learner(dls)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(20 if kind_of_target(dls.train_ds)=='value' else 5)
    return learn

def tabm(dls, k=8, width=256, bins=48):
    "TabM of 8 networks, its numbers in pieces too, with the batches, the epochs and the rate of `network_for`"
    from torch import nn
    from fastai.tabular.model import get_emb_sz
    from rtdl_num_embeddings import PiecewiseLinearEmbeddings, compute_bins
    from tabm import TabM
    from fastai_ext.tabular import network
    (c,x),(t,) = tensors(dls.train_ds, is_class := kind_of_target(dls.train_ds)=='class')
    mean,std = (0.,1.) if is_class else (t.mean().item(),t.std().item())
    class Model(nn.Module):
        def __init__(self, *_, **__):
            super().__init__()
            pieces = PiecewiseLinearEmbeddings(compute_bins(x, bins), 8, activation=False, version='B')
            self.net = TabM.make(n_num_features=x.shape[1], cat_cardinalities=[n for n,_ in get_emb_sz(dls.train_ds)],
                                 num_embeddings=pieces, d_out=n_outputs(dls), k=k, n_blocks=2, d_block=width)
        def forward(self, c, x):
            out = self.net(x, c if c.shape[1] else None)
            if self.training: return out
            return out.softmax(-1).mean(1).log() if is_class else out.mean(1)*std+mean
    class Loss:
        def __call__(self, p, y):
            if p.ndim==2: p = p[:,None] if is_class else (p[:,None]-mean)/std
            y = y.view(-1, 1).expand(p.shape[:2])
            if is_class: return nn.functional.cross_entropy(p.flatten(0, 1), y.flatten().long())
            return ((p[...,0]-(y-mean)/std)**2).mean()
    class Learner(network.Learner):
        def __init__(self, dls, model, loss_func): super().__init__(dls, Model(), loss_func=Loss())
    kept,network.Learner = network.Learner,Learner
    try: return network.network_for(dls)
    finally: network.Learner = kept

def median(f, n=7):
    f()
    times = []
    for _ in range(n):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter()-start)
    return float(np.median(times))

def cost(args, make, seed, name):
    "Ratios to the engine on the same arrays, and milliseconds for one row"
    df,held,test,y = split(make, args.data, seed, args.rows)
    dls = tabular_dls(df, y, valid=held)
    tl = tree_learner(dls, name, **({} if name=='rf' else dict(n_estimators=200)))
    with tl.no_bar(), tl.no_logging():
        tl.fit(patience=None)
        x,ty,*_ = tl.train_arrays()
        fresh = tl.model.engine.fresh
        fit = median(lambda: tl.fit(patience=None), 3)/median(lambda: fresh().fit(x, ty), 3)
        batch = tl.encode(test)[0]
        own = median(lambda: tl.model.engine.predict(batch))
        encode = median(lambda: tl.encode(test))
        whole = median(lambda: tl.get_preds(dl=test))
        row = test.iloc[0].to_dict()
        one = median(lambda: tl.predict(row), 20)
    return dict(fit_ratio=fit, batch_ratio=whole/own, rows=len(test), engine_ms=1000*own, encode_ms=1000*encode,
                batch_ms=1000*whole, one_row_ms=1000*one)

def trial(args, make, seed, name):
    """Whether short fits choose as full ones do: the loss of each on one fold, categories split natively and by their
    codes, and trees as large as usual and larger"""
    df,_,_,y = split(make, args.data, seed, args.rows)
    dls = tabular_dls(df, y, valid=0)
    kind = kind_of_target(dls.train_ds)
    targets = tensors(dls.train_ds, kind=='class')[1][0].numpy()
    a,b = fold_positions(targets, args.folds, kind, seed, make is bike)[-1]
    def loss(native, more):
        tl = tree_learner(dls, name, native=native, seed=seed, **more)
        x,t,*_ = tl.train_arrays()
        p = tl.model.engine.fit(x[a], t[a], (x[b],t[b]), patience=50).predict(x[b])
        return float(loss_of_kind(kind)(p, t[b].reshape(len(b), -1)))
    short,full = ({n: loss(n, more) for n in (True,False)} for more in (dict(n_estimators=100, lr=.2), {}))
    native,large = min(short, key=short.get),engines[name].large
    sizes = [loss(native, large | more) < usual[native] for more,usual in ((dict(n_estimators=100, lr=.2), short),
                                                                           ({}, full))]
    return dict(split_agrees=native==min(full, key=full.get), size_agrees=sizes[0]==sizes[1], native=native,
                large=sizes[0])

def jobs(args):
    "(table, what, engine, seed) of everything that is asked for"
    for name,(file,_) in tables.items():
        if args.only and name not in args.only or not (args.data/file).exists(): continue
        for seed in range(args.seeds):
            if 'engines' in args.what: yield from ((name, 'engines', e, seed) for e in args.engines)
            if 'ensemble' in args.what: yield name, 'ensemble', '', seed
            if 'trials' in args.what: yield from ((name, 'trials', e, seed) for e in args.engines if engines[e].large)
        if 'networks' in args.what:
            yield from ((name, 'networks', e, s) for s in range(args.seeds) for e in ('fastai','plain','pieces','tabm'))
        if 'costs' in args.what: yield from ((name, 'costs', e, 0) for e in args.engines if e != 'extra')

def show(lines):
    "The results as tables"
    for (table,what),group in pd.DataFrame(lines).groupby(['table','what'], sort=False):
        print(f'\n{table}, {what}: {group.seed.nunique()} seeds')
        if what=='ensemble':
            each = pd.DataFrame([o['scores'] | dict(book=o.get('book')) for o in group.result])
            print(pd.DataFrame(dict(mean=each.mean(), std=each.std())).round(4).to_string())
            print('seconds', group.result.map(lambda o: round(o['seconds'])).tolist())
        else:
            each = pd.DataFrame(list(group.result), index=group.engine)
            print(each.groupby(level=0, sort=False).agg(['mean','std']).round(4).to_string())

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', type=Path, required=True)
    p.add_argument('--out', type=Path, default=Path('trees.jsonl'), help='a line of JSON for each result')
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--rows', type=int, help='at most so many rows of each table')
    p.add_argument('--rounds', type=int, default=2000)
    p.add_argument('--folds', type=int, default=4)
    p.add_argument('--engines', nargs='+', default=['rf','extra','hist','xgb','lgbm','catboost'])
    p.add_argument('--members', nargs='+', help='of fit_tabular, in this order; all by default')
    p.add_argument('--limit', type=float, help='seconds for fit_tabular')
    p.add_argument('--only', nargs='+')
    p.add_argument('--what', nargs='+', default=['engines','ensemble','costs'])
    args = p.parse_args()
    lines = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    done = {(o['table'], o['what'], o['engine'], o['seed'], o['rows']) for o in lines}
    run = dict(engines=engine, ensemble=together, networks=alone, costs=cost, trials=trial)
    for table,what,name,seed in jobs(args):
        if (table, what, name, seed, args.rows) in done: continue
        result = run[what](args, tables[table][1], seed, name)
        lines.append(dict(table=table, what=what, engine=name, seed=seed, rows=args.rows, result=result))
        with args.out.open('a') as f: f.write(json.dumps(lines[-1])+'\n')
        print(*lines[-1].values(), flush=True)
    show(lines)

if __name__ == '__main__': main()
