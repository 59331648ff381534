"How the package's own code is written: lines of 120 columns, and every public name explained"
import ast, importlib, inspect, io, json, re, tokenize

import pytest

from conftest import root, tracked

modules = [f for f in tracked('fastai_ext/*.py', 'fastai_ext/**/*.py') if f.name != '_modidx.py']
events = re.compile('(before|after)_')  # a callback's events are explained by its own docstring

def test_lines_of_120_columns():
    files = [f for f in tracked('*.py', '**/*.py') if f.name != '_modidx.py']
    wide = [f'{f}:{i}' for f in files for i,l in enumerate((root/f).read_text(encoding='utf-8').splitlines(), 1)
            if len(l) > 120 and not l.startswith('__all__ = [')]  # that line is nbdev's
    assert wide == []

@pytest.mark.parametrize('nb', tracked('nbs/*.ipynb', 'nbs/**/*.ipynb'), ids=str)
def test_code_on_pages_fits(nb):
    "118 columns are as wide as a page at 1280 pixels; `#| fig-alt:` and the like are not shown"
    cells = json.loads((root/nb).read_text(encoding='utf-8'))['cells']
    shown = [''.join(c['source']) for c in cells if c['cell_type'] == 'code']
    shown = [s for s in shown if not re.search(r'^#\s*\| *(export|hide)', s, re.M)]
    assert [l for s in shown for l in s.splitlines() if len(l) > 118 and not re.match(r'#\s*\|', l)] == []

def public(source, helpers=False):
    """(name, node, whether a method) of each function, class and method that a module's `__all__` passes on; `helpers`:
    of those which other modules of the package may take besides, by a name without an underscore"""
    tree = ast.parse(source)
    given = [ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign)
             and getattr(n.targets[0], 'id', '') == '__all__' and isinstance(n.value, ast.List)]
    for n in tree.body:
        if not isinstance(n, ast.FunctionDef|ast.ClassDef): continue
        names = [getattr(d, 'id', getattr(getattr(d, 'func', None), 'id', '')) for d in n.decorator_list]
        patched = 'patch' in names
        passed_on = patched or bool(given) and n.name in given[0]
        if n.name.startswith('_') or passed_on == helpers: continue
        yield n.name,n,patched
        if not isinstance(n, ast.ClassDef): continue
        for m in n.body:
            if not isinstance(m, ast.FunctionDef) or m.name != '__init__' and m.name.startswith('_'): continue
            if not events.match(m.name): yield f'{n.name}.{m.name}',m,True

def comments(source):
    "Line → its comment"
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string for t in tokens if t.type == tokenize.COMMENT}

def inherited(name):
    "The methods of the classes of module `name` that stand in for one of a base, which explains them"
    classes = [o for o in vars(importlib.import_module(name)).values() if inspect.isclass(o) and o.__module__ == name]
    return {f'{c.__name__}.{m}' for c in classes for m in vars(c) if any(m in vars(b) for b in c.__mro__[1:-1])}

def unexplained(source, passed=(), helpers=False):
    """What lacks a docstring, and the parameters without a comment beside them, but for the names `passed` over.

    Of `helpers` a sentence says enough where there is one parameter; a promise is its own sentence."""
    said = comments(source)
    for name,node,method in public(source, helpers):
        if name in passed and not name.endswith('__init__'): continue
        made_by = [getattr(getattr(d, 'func', None), 'id', '') for d in node.decorator_list]
        if not ast.get_docstring(node) and not name.endswith('__init__') and 'promise' not in made_by: yield name
        if isinstance(node, ast.ClassDef): continue
        args = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs][method:]
        args = [a for a in args if a.arg != 'self']  # of a function that a decorator makes a method
        if helpers and len(args) < 2: continue
        # a type whose name begins with _ carries its explanation with it
        once = lambda a: isinstance(a.annotation, ast.Name) and a.annotation.id.startswith('_')
        yield from (f'{name}({a.arg})' for a in args if a.lineno not in said and not once(a))

def test_what_is_unexplained_is_seen():
    bad = ("__all__ = ['f','C']\ndef f(x,\n  y, # the other\n): pass\nclass C:\n  'Yes'\n  def m(self, z): 'Also'\n"
           "  def _p(self, q): pass\n")
    assert list(unexplained(bad)) == ['f', 'f(x)', 'C.m(z)']
    assert list(unexplained("def f(x): pass\ndef g(x,\n  y, # the other\n): 'Yes'", helpers=True)) == ['f', 'g(x)']

@pytest.mark.parametrize('module', modules, ids=str)
def test_every_public_name_is_explained(module):
    name = '.'.join(module.with_suffix('').parts).removesuffix('.__init__')
    assert list(unexplained((root/module).read_text(encoding='utf-8'), inherited(name))) == []

@pytest.mark.parametrize('module', modules, ids=str)
def test_every_helper_of_other_modules_is_explained(module):
    name = '.'.join(module.with_suffix('').parts).removesuffix('.__init__')
    assert list(unexplained((root/module).read_text(encoding='utf-8'), inherited(name), helpers=True)) == []
