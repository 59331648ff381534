"""The tables of `trees.py` and their rows for each seed; needs numpy, pandas and scikit-learn only.

`adult.data` (UCI Adult, no header), `bike_hour.csv` (UCI Bike Sharing), `penguins.csv` (Palmer penguins) and
`nyc_weather.csv` (hourly weather of New York) lie in one folder. Rows are split 70/15/15 at random for each seed, bike
by time.
"""
import numpy as np
import pandas as pd
from sklearn.metrics import log_loss, mean_squared_error

ADULT = ('age workclass fnlwgt education education-num marital-status occupation relationship race sex capital-gain '
         'capital-loss hours-per-week country salary')

def adult(folder):
    return pd.read_csv(folder/'adult.data', header=None, names=ADULT.split(), skipinitialspace=True), 'salary', False

def bike(folder):
    df = pd.read_csv(folder/'bike_hour.csv')
    df['cnt'] = np.log1p(df.cnt)
    return df[['season','yr','mnth','hr','holiday','weekday','workingday','weathersit','temp','atemp','hum',
               'windspeed','cnt']], 'cnt', True

def penguins(folder):
    return pd.read_csv(folder/'penguins.csv').dropna(subset=['sex']).drop(columns='rowid',
                                                                          errors='ignore'), 'species', False

def weather(folder):
    df = pd.read_csv(folder/'nyc_weather.csv').dropna(subset=['temp'])
    return df[['origin','month','hour','humid','wind_dir','wind_speed','pressure','visib','temp']], 'temp', False

tables = dict(adult=('adult.data',adult), bike=('bike_hour.csv',bike), penguins=('penguins.csv',penguins),
              weather=('nyc_weather.csv',weather))

def split(make, folder, seed, rows=None):
    df,y,by_time = make(folder)
    if rows and len(df) > rows: df = df.iloc[np.sort(np.random.RandomState(seed).permutation(len(df))[:rows])]
    if not by_time: df = df.sample(frac=1, random_state=seed)
    df = df.reset_index(drop=True)
    a,b = int(.7*len(df)),int(.85*len(df))
    return df[:b], range(a, b), df[b:], y

def score(p, y): return log_loss(y, p, labels=range(p.shape[1])) if p.shape[1] > 1 else mean_squared_error(y, p)**.5
