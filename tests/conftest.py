"What every test shares: where the checkout is, and a coverage floor for whole runs only"
import functools, os, random, subprocess, zlib
from pathlib import Path

import numpy as np
import pytest, torch

root = Path(__file__).resolve().parent.parent
os.environ.setdefault('MPLBACKEND', 'agg')
os.environ.pop('PYTHONWARNINGS', None)  # a caller's filter would hide the warnings that pages promise
os.environ.setdefault('OMP_NUM_THREADS', '1')  # two workers on two cores; equal sums on every machine

_run = subprocess.run

@functools.wraps(_run)
def run_with_limit(*args, timeout=110, **kwargs):
    "`subprocess.run` with a time limit where a test gives none: a child that hangs is killed, and the test says so"
    return _run(*args, timeout=timeout, **kwargs)

subprocess.run = run_with_limit

@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    "A part of the suite cannot reach the floor of the whole: hold the floor only where the whole is run"
    whole = config.args_source == pytest.Config.ArgsSource.TESTPATHS and not (config.option.keyword
                                                                              or config.option.markexpr)
    if not whole and hasattr(config.option, 'cov_fail_under'): config.option.cov_fail_under = 0

def _seed(key):
    "The random numbers of `key`, which are others under another `FASTAI_EXT_TEST_SEED`"
    n = zlib.crc32(f"{os.environ.get('FASTAI_EXT_TEST_SEED', '')}{key}".encode())
    random.seed(n); np.random.seed(n); torch.manual_seed(n)

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    "A test draws the same numbers in every run, whichever tests came before it"
    _seed(item.nodeid)

@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef, request):
    "So does what a module shares, whichever test asks for it first"
    shared = fixturedef.scope != 'function'
    if shared: _seed(f'{fixturedef.baseid}::{fixturedef.argname}')
    try: return (yield)
    finally:
        if shared: _seed(request._pyfuncitem.nodeid)

def tracked(*patterns):
    "Files of the checkout that git tracks, plus new ones that it does not ignore, relative to the root"
    out = subprocess.run(['git', 'ls-files', '--cached', '--others', '--exclude-standard', *patterns],
                         cwd=root, capture_output=True, text=True, check=True).stdout
    return sorted(Path(f) for f in out.splitlines() if (root/f).exists())

def notebooks():
    return [f for f in tracked('nbs/*.ipynb', 'nbs/**/*.ipynb') if not any(p.startswith(('_', '.')) for p in f.parts)]
