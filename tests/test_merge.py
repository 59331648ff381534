"""What CONTRIBUTING says: its example is a regularizer that keeps the promises, and two branches that changed one cell
can be merged"""
import json, os, re, shutil, subprocess, sys

import pytest

from conftest import root

def blocks(language):
    "The code blocks of CONTRIBUTING.md in one language"
    return re.findall(rf'^```{language}\n(.*?)^```', (root/'CONTRIBUTING.md').read_text(encoding='utf-8'), re.M | re.S)

def test_the_example_is_a_regularizer(tmp_path, monkeypatch):
    module,its_test = blocks('python')
    (tmp_path/'huber.py').write_text(module, encoding='utf-8')
    monkeypatch.syspath_prepend(tmp_path)
    exec('from huber import *\n'+its_test, {})
    from huber import Huber
    from fastai_ext.contract.harness import contract_learner
    learn = contract_learner(cbs=Huber(.1, delta=.05))
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert 'huber' in learn.recorder.metric_names

# a real conflict, in a clone that has been set up with the one command

taken = ('.gitattributes', '.gitconfig', '.githooks/pre-commit', '.githooks/post-merge', 'settings.ini',
         'pyproject.toml', 'setup.py', 'README.md', 'fastai_ext/__init__.py', 'fastai_ext/_modidx.py',
         'fastai_ext/table.py', 'nbs/table.ipynb')

@pytest.fixture
def clone(tmp_path):
    "A repository with one notebook, its module and the hooks, and a function that runs git in it"
    bin_ = os.path.dirname(sys.executable)
    env = {**os.environ, 'PATH': bin_+os.pathsep+os.environ['PATH'], 'GIT_CONFIG_GLOBAL': os.devnull,
           'GIT_EDITOR': 'true'}
    for who in ('AUTHOR', 'COMMITTER'): env.update({f'GIT_{who}_NAME': 'a', f'GIT_{who}_EMAIL': 'a@example.org'})
    for f in taken:
        (tmp_path/f).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root/f, tmp_path/f)
    def git(*args, ok=True):
        res = subprocess.run(['git', *args], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100)
        assert (res.returncode==0) == ok, res.stdout + res.stderr
        return res.stdout + res.stderr
    git('init', '-q', '-b', 'main')
    git('add', '-A'), git('commit', '-qm', 'start')
    git('config', '--local', 'include.path', '../.gitconfig')
    git.folder,git.env = tmp_path,env
    return git

def cells(git): return json.loads((git.folder/'nbs/table.ipynb').read_text(encoding='utf-8'))

def write(git, nb):
    (git.folder/'nbs/table.ipynb').write_text(json.dumps(nb, indent=1, ensure_ascii=False)+'\n', encoding='utf-8')

def replace(git, old, new):
    "Put `new` in the place of `old` in the notebook, export and commit"
    nb = cells(git)
    cell, = (c for c in nb['cells'] if any(old in l for l in c['source']))
    cell['source'] = [l.replace(old, new) for l in cell['source']]
    write(git, nb)
    subprocess.run(['nbdev-export'], cwd=git.folder, env=git.env, check=True, timeout=100)
    git('add', '-A'), git('commit', '-qm', new)

def test_a_conflict_is_settled_as_contributing_says(clone):
    git = clone
    git('checkout', '-qb', 'theirs')
    replace(git, "title = ''   # A line above", "title = 'theirs'")
    git('checkout', '-q', 'main')
    replace(git, "title = ''   # A line above", "title = 'ours'")
    said = git('merge', 'theirs', ok=False)
    assert 'fastai_ext/table.py' not in said.partition('CONFLICT')[2], 'modules never conflict'
    nb = cells(git)  # it still opens
    marks = [i for i,c in enumerate(nb['cells']) if re.match(r'`(<<<<<<<|=======|>>>>>>>)', ''.join(c['source']))]
    assert len(marks)==3
    middle,end = marks[1:]
    upper,lower = (''.join(nb['cells'][i+1]['source']) for i in (marks[0], middle))
    assert "title = 'ours'" in upper and "title = 'theirs'" in lower
    nb['cells'] = [c for i,c in enumerate(nb['cells']) if not (marks[0] <= i <= middle or i==end)]  # the lower version
    write(git, nb)
    subprocess.run(['nbdev-export'], cwd=git.folder, env=git.env, check=True, timeout=100)
    git('add', '-A'), git('merge', '--continue')
    assert "title = 'theirs'" in (git.folder/'fastai_ext/table.py').read_text(encoding='utf-8') and git('status',
                                                                                                        '--short')==''

def test_a_commit_with_a_stale_module_is_refused(clone):
    nb = cells(clone)
    cell = next(c for c in nb['cells'] if any('class Table' in l for l in c['source']))
    cell['source'] = [l.replace("title = ''", "title = 'new'") for l in cell['source']]
    write(clone, nb)
    clone('add', '-A')
    said = clone('commit', '-qm', 'without export', ok=False)
    assert 'git add, commit again' in said
    clone('add', '-A'), clone('commit', '-qm', 'with export')
    assert "title = 'new'" in (clone.folder/'fastai_ext/table.py').read_text(encoding='utf-8')
