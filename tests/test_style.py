"How the package's own code is written: lines of 120 columns, and every public name explained"
import ast, io, re, tokenize

import pytest

from conftest import root, tracked

modules = [f for f in tracked('fastai_ext/*.py', 'fastai_ext/**/*.py') if f.name != '_modidx.py']
events = re.compile('(before|after)_')  # a callback's events are explained by its own docstring

def test_lines_of_120_columns():
    files = [f for f in tracked('*.py', '**/*.py') if f.name != '_modidx.py']
    wide = [f'{f}:{i}' for f in files for i,l in enumerate((root/f).read_text(encoding='utf-8').splitlines(), 1)
            if len(l) > 120 and not l.startswith('__all__ = [')]  # that line is nbdev's
    assert wide == []

def public(source):
    "(name, node, whether a method) of each function, class and method that a module's `__all__` passes on"
    tree = ast.parse(source)
    given = [ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign)
             and getattr(n.targets[0], 'id', '') == '__all__' and isinstance(n.value, ast.List)]
    for n in tree.body:
        if not isinstance(n, ast.FunctionDef|ast.ClassDef): continue
        patched = any(getattr(d, 'id', getattr(getattr(d, 'func', None), 'id', '')) == 'patch' for d in n.decorator_list)
        if n.name.startswith('_') or not (patched or given and n.name in given[0]): continue
        yield n.name,n,patched
        if not isinstance(n, ast.ClassDef): continue
        for m in n.body:
            if not isinstance(m, ast.FunctionDef) or m.name != '__init__' and m.name.startswith('_'): continue
            if not events.match(m.name): yield f'{n.name}.{m.name}',m,True

def comments(source):
    "Line → its comment"
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string for t in tokens if t.type == tokenize.COMMENT}

def unexplained(source):
    "What lacks a docstring, and the parameters without a comment beside them"
    said = comments(source)
    for name,node,method in public(source):
        if not ast.get_docstring(node) and not name.endswith('__init__'): yield name
        if isinstance(node, ast.ClassDef): continue
        args = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        yield from (f'{name}({a.arg})' for a in args[method:] if a.lineno not in said)

def test_what_is_unexplained_is_seen():
    bad = "__all__ = ['f','C']\ndef f(x,\n  y, # the other\n): pass\nclass C:\n  'Yes'\n  def m(self, z): 'Also'\n  def _p(self, q): pass\n"
    assert list(unexplained(bad)) == ['f', 'f(x)', 'C.m(z)']

@pytest.mark.parametrize('module', modules, ids=str)
def test_every_public_name_is_explained(module):
    assert list(unexplained((root/module).read_text(encoding='utf-8'))) == []
