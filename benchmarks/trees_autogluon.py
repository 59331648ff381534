"""AutoGluon on the rows and in the time of `trees.py --what ensemble`, in an environment of its own.

    pip install 'autogluon.tabular[lightgbm,catboost,xgboost,fastai]'
    python benchmarks/trees_autogluon.py --data FOLDER --out autogluon.jsonl [--limit 60] [--seeds 3] [--only adult]

It is given all rows but those of the test, as `fit_tabular` is. Each result is a line of JSON in the file `--out`; what
is there already is not run again. Scores: log loss of classes, root of the squared error of values.
"""
import argparse, json, shutil, tempfile, time
from pathlib import Path

import pandas as pd
from autogluon.tabular import TabularPredictor
from trees_tables import score, split, tables

def fitted(args, make, seed, preset):
    "The score on the test rows, and the seconds of the fit"
    df,_,test,y = split(make, args.data, seed, args.rows)
    folder = tempfile.mkdtemp()
    start,used = time.perf_counter(),time.process_time()
    is_class = not pd.api.types.is_numeric_dtype(df[y])
    predictor = TabularPredictor(y, path=folder, verbosity=0, eval_metric='log_loss' if is_class else 'rmse')
    predictor.fit(df, presets=preset, time_limit=args.limit)
    seconds,used = time.perf_counter()-start,time.process_time()-used
    if is_class:
        p = predictor.predict_proba(test.drop(columns=y))
        res = score(p.to_numpy(), p.columns.get_indexer(test[y]))
        error = float((predictor.predict(test.drop(columns=y)) != test[y]).mean())
    else: res,error = score(predictor.predict(test.drop(columns=y)).to_numpy()[:,None], test[y].to_numpy()),None
    best = predictor.model_best
    shutil.rmtree(folder)
    return dict(score=res, error=error, seconds=seconds, cpu=used, best=best)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', type=Path, required=True)
    p.add_argument('--out', type=Path, default=Path('autogluon.jsonl'), help='a line of JSON for each result')
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--rows', type=int, help='at most so many rows of each table')
    p.add_argument('--limit', type=float, default=60, help='seconds')
    p.add_argument('--only', nargs='+')
    p.add_argument('--presets', nargs='+', default=['medium_quality','good_quality'])
    args = p.parse_args()
    lines = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    done = {(o['table'], o['preset'], o['seed'], o['limit'], o['rows']) for o in lines}
    for seed in range(args.seeds):
        for name,(file,make) in tables.items():
            if args.only and name not in args.only or not (args.data/file).exists(): continue
            for preset in args.presets:
                if (name, preset, seed, args.limit, args.rows) in done: continue
                res = fitted(args, make, seed, preset)
                told = dict(table=name, preset=preset, seed=seed, limit=args.limit, rows=args.rows)
                lines.append(told | dict(result=res))
                with args.out.open('a') as f: f.write(json.dumps(lines[-1])+'\n')
                print(*lines[-1].values(), flush=True)
    each = pd.DataFrame([dict(table=o['table'], preset=o['preset'], **o['result']) for o in lines])
    print(each.groupby(['table','preset'])[['score','error','seconds','cpu']].agg(['mean','std']).round(4).to_string())

if __name__ == '__main__': main()
