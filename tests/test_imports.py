"What imports what: arrows point one way, and a bare `import fastai_ext` costs nothing"
import ast, graphlib, importlib, subprocess, sys

import pytest

from conftest import root, tracked

modules = {str(f.with_suffix('')).replace('/', '.').removesuffix('.__init__'): f
           for f in tracked('fastai_ext/*.py', 'fastai_ext/**/*.py') if f.name != '_modidx.py'}

def imported(name):
    "The package's modules that `name` imports anywhere, in functions too"
    path = root/modules[name]
    return ours(name, ast.walk(ast.parse(path.read_text(encoding='utf-8'))))

def ours(name, nodes):
    "The package's modules that the import statements among `nodes` of the module `name` bring"
    package = (name if modules[name].name == '__init__.py' else name.rpartition('.')[0]).split('.')
    res = set()
    for n in nodes:
        if isinstance(n, ast.Import): res |= {a.name for a in n.names}
        elif isinstance(n, ast.ImportFrom):
            base = '.'.join([*(package[:len(package)-n.level+1] if n.level else []), *([n.module] if n.module else [])])
            res |= {base, *(f'{base}.{a.name}' for a in n.names)}
    return {m for m in res if m in modules and m != name}

def family(name):
    "`fastai_ext.init.lsuv` is in `init`; a module at the top is its own family"
    return name.removeprefix('fastai_ext').strip('.').split('.')[0]

ground = {'fastai_ext.keep.state'}  # knows nothing of the package, so that everybody may know it

def families(name): return {family(m) for m in imported(name) - ground} - {'', family(name)}

allowed = {  # the house: a family may know those below it
    'table': set(), 'plots': set(), 'model': {'table'}, 'keep': {'model', 'table'},
    **dict.fromkeys(('init', 'regularize', 'losses'), {'model', 'keep', 'table', 'plots'}),
    **dict.fromkeys(('tabular', 'vision'), {'table', 'plots'}), 'contract': {'table'},
}
free = {'callbacks', 'demo', 'guide', 'all', ''}  # those may know everybody

def test_imports_are_read():
    "The registry imports in every way that there is, so a reader that sees nothing would show"
    seen = imported('fastai_ext.callbacks')
    assert {'fastai_ext', 'fastai_ext.contract.check', 'fastai_ext.init.callback',
            'fastai_ext.regularize.penalty'} <= seen
    assert families('fastai_ext.callbacks') >= {'contract', 'init', 'regularize'}

@pytest.mark.parametrize('name', [m for m in modules if family(m) not in free])
def test_arrows_point_one_way(name):
    assert family(name) in allowed, f'say in tests/test_imports.py what {name} may know'
    assert families(name) <= allowed[family(name)]

def test_weights_know_torch_only():
    for name in ('fastai_ext.model.weights', 'fastai_ext.model.roles', 'fastai_ext.model.effective',
                 'fastai_ext.table'):
        tree = ast.parse((root/modules[name]).read_text(encoding='utf-8'))
        tops = [n for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom)) and not getattr(n, 'level', 0)]
        names = {(a.name if isinstance(n, ast.Import) else n.module).split('.')[0] for n in tops for a in n.names}
        assert not {o for o in names if o in ('fastai', 'sklearn', 'pandas', 'torchvision')}, name

@pytest.mark.parametrize('name', sorted(ground))
def test_the_ground_knows_nobody(name): assert imported(name) == set()

@pytest.mark.parametrize('name', modules)
def test_nobody_imports_all(name): assert 'fastai_ext.all' not in imported(name)

def test_no_circles():
    try: graphlib.TopologicalSorter({m: top_level(m) for m in modules}).prepare()
    except graphlib.CycleError as e: pytest.fail(' -> '.join(reversed(e.args[1])))

def top_level(name):
    "What `name` imports when it is imported itself"
    path = root/modules[name]
    tree = ast.parse(path.read_text(encoding='utf-8'))
    inner = {id(n) for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.Lambda)) for n in ast.walk(f)}
    return ours(name, (n for n in ast.walk(tree) if id(n) not in inner)) - {'fastai_ext'}

def run(code):
    res = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], cwd=root, capture_output=True, text=True)
    assert res.returncode == 0, res.stderr[-3000:]
    return res.stdout.split()

def test_the_package_itself_is_light():
    heavy = 'torch fastai fastcore numpy pandas sklearn matplotlib PIL'.split()
    assert run(f"import sys, fastai_ext\nprint(*[m for m in {heavy} if m in sys.modules])") == []

def test_all_brings_no_more_than_fastai_does():
    "Boosters, plots of trees and the like are loaded when they are called, not before"
    heavy = ('xgboost lightgbm catboost shap dtreeviz torch_pruning dask ray timm transformers sklearn.ensemble '
             'nbdev pytest').split()
    code = f"""
import sys
from fastai.vision.all import *
from fastai.tabular.all import *
before = set(sys.modules)
import fastai_ext.all
print(*[m for m in {heavy} if m in sys.modules and m not in before])"""
    assert run(code) == []

def names_of(module): return getattr(importlib.import_module(module), '__all__', [])  # a folder's __init__ has none

@pytest.mark.parametrize('name', modules)
def test_public_names_exist(name):
    assert [n for n in names_of(name) if not hasattr(importlib.import_module(name), n)] == []

engines = {  # called by other modules of the package; a user who needs one imports it by its path
    'fastai_ext.demo.command', 'fastai_ext.demo.page', 'fastai_ext.demo.runs', 'fastai_ext.demo.show',
    'fastai_ext.model.effective', 'fastai_ext.model.roles', 'fastai_ext.table',
    'fastai_ext.keep.batch', 'fastai_ext.keep.state', 'fastai_ext.keep.learner', 'fastai_ext.keep.checkpoint',
    'fastai_ext.regularize.held', 'fastai_ext.regularize.rows',
    'fastai_ext.regularize.again',
    'fastai_ext.regularize.base', 'fastai_ext.regularize.steps', 'fastai_ext.regularize.strength',
    'fastai_ext.regularize.proximal',
    'fastai_ext.init.rates',
    'fastai_ext.init.recipes', 'fastai_ext.init.modern', 'fastai_ext.init.plan', 'fastai_ext.init.once',
    'fastai_ext.init.meant', 'fastai_ext.model.lattice', 'fastai_ext.model.usual',
    'fastai_ext.init.schemes',  # `ones`, `normal` and the like are common names; `scheme` and `schemes` are in `all`
    'fastai_ext.regularize.units', 'fastai_ext.regularize.chains', 'fastai_ext.regularize.coupled',
    'fastai_ext.regularize.remove',
    'fastai_ext.vision.chance', 'fastai_ext.vision.command', 'fastai_ext.vision.fields', 'fastai_ext.vision.mark',
    'fastai_ext.vision.placement', 'fastai_ext.vision.patch', 'fastai_ext.vision.letters', 'fastai_ext.vision.spec',
    'fastai_ext.vision.tally',
    'fastai_ext.vision.workers',
    'fastai_ext.tabular.engine', 'fastai_ext.tabular.boost', 'fastai_ext.tabular.encode',
    'fastai_ext.vision.files.whole', 'fastai_ext.vision.files.record', 'fastai_ext.vision.files.stamping',
    'fastai_ext.vision.files.metadata',
    'fastai_ext.vision.files.tags', 'fastai_ext.vision.files.png', 'fastai_ext.vision.files.tiff',
    'fastai_ext.vision.files.tiff_page',
    'fastai_ext.vision.files.tiff_blend',
    'fastai_ext.vision.files.jp2',
    'fastai_ext.tabular.engines',
    'fastai_ext.tabular.several',
    'fastai_ext.tabular.forest',
    'fastai_ext.tabular.nodes',
    'fastai_ext.tabular.hist',
    'fastai_ext.tabular.xgb',
    'fastai_ext.tabular.lgbm',
    'fastai_ext.tabular.catboost',
    'fastai_ext.tabular.estimator',
    'fastai_ext.tabular.steps',
    'fastai_ext.tabular.columns',
    'fastai_ext.tabular.archive',
    'fastai_ext.tabular.target',
    'fastai_ext.tabular.learner',
    'fastai_ext.tabular.folds',
}

@pytest.mark.parametrize('name', [m for m in modules if m not in engines])
def test_every_public_name_is_in_all(name):
    everything = importlib.import_module('fastai_ext.all')
    lost = [n for n in names_of(name) if getattr(everything, n, None) is not getattr(importlib.import_module(name), n)]
    assert lost == [], f'add {name} to nbs/all.ipynb, or to `engines` here if users do not need it'

def test_all_only_passes_on():
    tree = ast.parse((root/'fastai_ext/all.py').read_text(encoding='utf-8'))
    assert {type(n) for n in tree.body[1:]} <= {ast.ImportFrom, ast.Assign}  # the assignments are to __all__
    assert {t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets} == {'__all__'}
