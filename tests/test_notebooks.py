"Every notebook runs against the module, is clean, carries its outputs, and is what the modules were made from"
import filecmp, json, os, re, shutil, subprocess, sys

import pytest

from conftest import notebooks, root, tracked
from run_notebook import as_run

@pytest.mark.parametrize('nb', notebooks(), ids=str)
def test_runs_against_the_module(nb, tmp_path):
    env = {**os.environ, 'PYTHONPATH': str(root)}
    res = subprocess.run([sys.executable, root/'tests/run_notebook.py', root/nb], cwd=tmp_path, env=env,
                         capture_output=True, text=True, timeout=570)
    assert res.returncode == 0, res.stdout[-2000:] + res.stderr[-6000:]

def test_exported_cells_become_an_import():
    cells = ['#| default_exp a.b', '#| export\nx = 1', 'x + 1', '#| slow\nx', '#| eval: false\nx', '#| hide\ny']
    ran = list(as_run(cells))
    assert 'import fastai_ext.a.b' in ran[1] and 'x = 1' not in ''.join(ran)
    assert ran[2:] == ['x + 1', '#| hide\ny']

def test_a_failing_cell_fails_the_run(tmp_path):
    nb = dict(cells=[dict(cell_type='code', source='1/0')], metadata={}, nbformat=4, nbformat_minor=5)
    (tmp_path/'bad.ipynb').write_text(json.dumps(nb))
    res = subprocess.run([sys.executable, root/'tests/run_notebook.py', tmp_path/'bad.ipynb'],
                         capture_output=True, text=True)
    assert res.returncode == 1 and 'ZeroDivisionError' in res.stderr and '1/0' in res.stderr

@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    "A copy of the checkout, to export and clean without touching the working tree"
    dst = tmp_path_factory.mktemp('copy')
    for f in tracked():
        (dst/f).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root/f, dst/f)
    subprocess.run(['git', 'init', '-q'], cwd=dst, check=True)
    return dst

def differing(files, dst):
    "Those of the `files` that are others in the folder `dst`, or not there"
    return [str(f) for f in files if not (dst/f).exists() or not filecmp.cmp(root/f, dst/f, shallow=False)]

def nbdev(command, cwd):
    "Run a command of nbdev's"
    command = shutil.which(command, path=os.path.dirname(sys.executable)) or command
    subprocess.run([command], cwd=cwd, check=True, capture_output=True, timeout=300)

def test_modules_are_in_step(copy):
    modules = [f for f in tracked('fastai_ext/*.py', 'fastai_ext/**/*.py') if f.as_posix() != 'fastai_ext/__init__.py']
    for f in modules: (copy/f).unlink()
    nbdev('nbdev-export', copy)
    made = {f.relative_to(copy) for f in (copy/'fastai_ext').rglob('*.py')}
    assert differing(modules, copy) == [], 'run nbdev-export, or edit the notebook instead of the module'
    assert made == {*modules, *tracked('fastai_ext/__init__.py')}

def test_notebooks_are_clean(copy):
    nbdev('nbdev-clean', copy)
    assert differing(notebooks(), copy) == [], 'run nbdev-clean'

@pytest.mark.parametrize('nb', notebooks(), ids=str)
def test_outputs(nb):
    "Committed from a fresh kernel: no error, no path of somebody's machine, and something to see"
    cells = [c for c in json.loads((root/nb).read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code']
    text = json.dumps([c['outputs'] for c in cells])
    assert '"output_type": "error"' not in text
    assert not re.search(r'(?<![\w.])/(root|tmp|home|work|opt|Users)/[\w.-]+|site-packages/', text)
    reexports_only = nb.name == 'all.ipynb'
    shown = any(c['outputs'] for c in cells)
    assert not cells or reexports_only or shown, 'no outputs: run it with nbs/_tools/nb.py run'

@pytest.mark.parametrize('nb', notebooks(), ids=str)
def test_opens_with_a_title_and_one_line(nb):
    "nbdev makes the first cell the page's header and drops anything else in it"
    first = json.loads((root/nb).read_text(encoding='utf-8'))['cells'][0]
    title,*rest = [line for line in ''.join(first['source']).splitlines() if line.strip()]
    assert title.startswith('# ') and rest and all(line.startswith('>') for line in rest)
