"What pip gets: an sdist that builds, and a wheel from it with every requirement, extra, entry point and subpackage"
import configparser, json, re, subprocess, sys, tarfile, zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

from conftest import root, tracked

def listed():
    "settings.ini read without setup.py's code: extra (None for the package itself) → requirements"
    ini = configparser.ConfigParser()
    ini.read(root/'settings.ini')
    res = {}
    for k,v in ini['DEFAULT'].items():
        if not k.endswith('requirements'): continue
        res[k.removesuffix('requirements').rstrip('_') or None] = sorted(v.split())
    return res

@pytest.fixture(scope='module')
def built(tmp_path_factory):
    "The sdist, and the wheel built from that sdist alone"
    src,out = tmp_path_factory.mktemp('src'),tmp_path_factory.mktemp('dist')
    for f in tracked():
        (src/f).parent.mkdir(parents=True, exist_ok=True)
        (src/f).write_bytes((root/f).read_bytes())
    subprocess.run([sys.executable, '-m', 'build', '--no-isolation', '--outdir', out, src], cwd=out, check=True,
                   capture_output=True)
    return next(out.glob('*.tar.gz')),next(out.glob('*.whl'))

@pytest.fixture(scope='module')
def wheel(built):
    with zipfile.ZipFile(built[1]) as z: return {n: z.read(n) for n in z.namelist()}

def inside(wheel, name):
    return next(v for k,v in wheel.items() if re.fullmatch(rf'fastai_ext-[\w.]+\.dist-info/{name}', k))

def test_sdist_holds_what_the_build_reads(built):
    with tarfile.open(built[0]) as t: names = {Path(*Path(n).parts[1:]).as_posix() for n in t.getnames()}
    assert {'settings.ini', 'setup.py', 'pyproject.toml', 'README.md', 'LICENSE', 'CHANGELOG.md'} <= names

def test_requirements_and_extras(wheel):
    meta = message_from_bytes(inside(wheel, 'METADATA'))
    got = {}
    for r in meta.get_all('Requires-Dist'):
        req,_,marker = r.partition(';')
        extra = re.search(r'extra == "([\w-]+)"', marker)
        got.setdefault(extra and extra[1], []).append(req.replace(' ', ''))
    want = listed()
    assert len(want[None]) > 3, 'the list itself is not empty'
    assert {k: sorted(v) for k,v in got.items()} == want
    assert set(meta.get_all('Provides-Extra')) == set(want) - {None}

def test_who_it_is(wheel):
    import fastai_ext
    meta = message_from_bytes(inside(wheel, 'METADATA'))
    assert meta['Name'] == 'fastai_ext' and meta['Version'] == fastai_ext.__version__
    assert meta['License-Expression'] == 'Apache-2.0' and b'Apache License' in inside(wheel, 'licenses/LICENSE')
    assert meta.get_payload().startswith('# fastai_ext')

def test_every_module_is_inside(wheel):
    assert {n for n in wheel if n.startswith('fastai_ext/')} == {f.as_posix() for f in tracked('fastai_ext')}

def test_entry_points(wheel):
    scripts = configparser.ConfigParser()
    scripts.read_string(inside(wheel, 'entry_points.txt').decode())
    assert 'fastai-ext-demo' in scripts['console_scripts']
    for target in scripts['console_scripts'].values():
        module,_,attr = target.partition(':')
        code = f'import importlib; assert callable(importlib.import_module({module!r}).{attr})'
        subprocess.run([sys.executable, '-c', code], cwd=root, check=True)

def test_missing_settings_stops_the_build(tmp_path):
    "A build without the list of requirements fails, rather than make a package that requires nothing"
    for f in ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE', 'fastai_ext/__init__.py'):
        (tmp_path/f).parent.mkdir(exist_ok=True)
        (tmp_path/f).write_bytes((root/f).read_bytes())
    res = subprocess.run([sys.executable, 'setup.py', '--quiet', '--version'], cwd=tmp_path, capture_output=True,
                         text=True)
    assert res.returncode != 0 and 'settings.ini' in res.stderr

def test_the_install_page_prints_the_extras_of_today():
    cells = json.loads((root/'nbs/guide/install.ipynb').read_text(encoding='utf-8'))['cells']
    printed = [l for c in cells for o in c.get('outputs', ()) for l in o.get('text', ())]
    for extra,reqs in listed().items():
        if extra is None: continue
        line, = (l for l in printed if l.startswith(f'pip install -e ".[{extra}]"'))
        printed_reqs = sorted(line.partition(']"')[2].strip().split(', '))
        assert printed_reqs == reqs, 'run python nbs/_tools/nb.py run nbs/guide/install.ipynb'

def test_benchmarks_that_pages_name_exist():
    named = {m for nb in tracked('nbs/*.ipynb', 'nbs/**/*.ipynb')
             for m in re.findall(r'benchmarks/\w+\.\w+', (root/nb).read_text(encoding='utf-8'))}
    assert len(named) > 8 and [o for o in sorted(named) if not (root/o).exists()] == []
