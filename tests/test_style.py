"How the package's own code is written: lines of 120 columns, and every public name explained"
import ast, builtins, importlib, inspect, io, json, re, tokenize

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

    Of `helpers` a type or a docstring that names the one parameter says enough; a promise is its own sentence."""
    said,docs = comments(source),{}
    for name,node,method in public(source, helpers):
        init = name.endswith('__init__')
        if name in passed and not init: continue
        made_by = [getattr(getattr(d, 'func', None), 'id', '') for d in node.decorator_list]
        if 'promise' in made_by: continue
        doc = docs[name] = docs.get(name.removesuffix('.__init__')) if init else ast.get_docstring(node)
        if not doc and not init: yield name
        if isinstance(node, ast.ClassDef): continue
        args = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs][method:]
        args += [a for a in (node.args.vararg, node.args.kwarg) if a]
        # `self` of a function that a decorator makes a method; `_` of what nobody reads
        args = [a for a in args if a.arg not in ('self','_')]
        if helpers and len(args) == 1 and (args[0].annotation or named(args[0].arg, doc)): continue
        # a type whose name begins with _ carries its explanation with it
        once = lambda a: isinstance(a.annotation, ast.Name) and a.annotation.id.startswith('_')
        yield from (f'{name}({a.arg})' for a in args if a.lineno not in said and not once(a))

def named(arg, doc):
    "Whether a docstring has the word `arg`, in the singular or the plural"
    return re.search(rf"\b{arg.rstrip('s')}s?\b", doc or '')

def test_what_is_unexplained_is_seen():
    bad = ("__all__ = ['f','C']\ndef f(x,\n  y, # the other\n): pass\nclass C:\n  'Yes'\n  def m(self, z): 'Also'\n"
           "  def _p(self, q): pass\n")
    assert list(unexplained(bad)) == ['f', 'f(x)', 'C.m(z)']
    helpers = ("def f(x): pass\ndef g(x,\n  y, # the other\n): 'Yes'\ndef h(z): 'Of each of `z`'\n"
               "def i(*_, **kw): 'Yes'\n")
    assert list(unexplained(helpers, helpers=True)) == ['f', 'f(x)', 'g(x)', 'i(kw)']

@pytest.mark.parametrize('module', modules, ids=str)
def test_every_public_name_is_explained(module):
    name = '.'.join(module.with_suffix('').parts).removesuffix('.__init__')
    assert list(unexplained((root/module).read_text(encoding='utf-8'), inherited(name))) == []

@pytest.mark.parametrize('module', modules, ids=str)
def test_every_helper_of_other_modules_is_explained(module):
    name = '.'.join(module.with_suffix('').parts).removesuffix('.__init__')
    assert list(unexplained((root/module).read_text(encoding='utf-8'), inherited(name), helpers=True)) == []

def functions(tree):
    "Name → node of each function and method of a module; `C.m` for a method"
    for n in tree.body:
        if isinstance(n, ast.FunctionDef): yield n.name,n
        elif isinstance(n, ast.ClassDef):
            yield from ((f'{n.name}.{m.name}',m) for m in n.body if isinstance(m, ast.FunctionDef))

def inside(node):
    "The nodes of a function's body, without functions in it and without what a `try` may catch"
    for n in ast.iter_child_nodes(node):
        if isinstance(n, ast.FunctionDef|ast.Lambda): continue
        yield n
        for part in (*n.handlers, *n.orelse, *n.finalbody) if isinstance(n, ast.Try) else (n,): yield from inside(part)

def raised(name, found, seen):
    "The built-in errors that a function of `found` raises, itself or through private ones which it calls"
    cls = name.rpartition('.')[0]
    for n in inside(found[name]):
        if isinstance(n, ast.Raise) and n.exc: yield ast.unparse(getattr(n.exc, 'func', n.exc))
        if not isinstance(n, ast.Call): continue
        called = ast.unparse(n.func).replace('self.', f'{cls}.')
        if called not in found or not called.rpartition('.')[2].startswith('_') or called in seen: continue
        seen.add(called)
        yield from raised(called, found, seen)

def unsaid(source, explained_by):
    """`name: error` of each public function that raises a built-in error which its docstring does not name, nor, of a
    method, that of its class or of a base (`explained_by`: name of the class → these docstrings). `for what?` where it
    names no more than the error"""
    found = dict(functions(ast.parse(source)))
    for name,node in found.items():
        made_by = [getattr(getattr(d, 'func', None), 'id', '') for d in node.decorator_list]
        cls,_,own = name.rpartition('.')
        if name.startswith('_') or own.startswith('_') and own != '__init__' or 'promise' in made_by: continue
        doc = ast.get_docstring(node) or ''
        if re.search(r'Raises:|[Rr]aises `\w+`( (or|and) `\w+`)?\.?$', doc): yield f'{name}: for what?'
        for error in sorted({*raised(name, found, set())}):
            kind = getattr(builtins, error, None)
            if kind in (None, NotImplementedError): continue  # one of our own, or a base that wants a method
            said = doc + explained_by.get(cls, '')
            if not any(k.__name__ in said for k in kind.__mro__[:-3]): yield f'{name}: {error}'

def class_docs(name):
    "Class of module `name` → its docstring and those of the bases within the package"
    classes = [o for o in vars(importlib.import_module(name)).values() if inspect.isclass(o) and o.__module__ == name]
    ours = lambda c: [b for b in c.__mro__ if b.__module__.startswith('fastai_ext')]
    return {c.__name__: ' '.join(b.__doc__ or '' for b in ours(c)) for c in classes}

def test_what_is_unsaid_is_seen():
    bad = ("def f(x):\n  'Yes'\n  _g(x)\ndef _g(x):\n  if x: raise ValueError(f'f: {x}')\n"
           "class C:\n  def m(self): raise KeyError\n"
           "  def n(self):\n    '`OSError` where there is no file'\n    raise FileNotFoundError\n")
    assert list(unsaid(bad, {})) == ['f: ValueError', 'C.m: KeyError']
    assert list(unsaid(bad, {'C': '`KeyError` for another name'})) == ['f: ValueError']
    assert list(unsaid("def f(x):\n  'Raises `ValueError`.'\n  if x: raise ValueError", {})) == ['f: for what?']

@pytest.mark.parametrize('module', modules, ids=str)
def test_every_error_is_named(module):
    name = '.'.join(module.with_suffix('').parts).removesuffix('.__init__')
    assert list(unsaid((root/module).read_text(encoding='utf-8'), class_docs(name))) == []
