"What there is to say of a documented object: its call, its words, its parameters, its public methods, its source"
import ast, inspect, re
from dataclasses import dataclass, field
from textwrap import dedent

from fastcore.docments import docments, empty
from fastai.callback.core import event

# a callback's reactions to training are not called by a reader
events = {o for o in dir(event) if not o.startswith('_')}

@dataclass
class Param:
    name: str
    anno: str = ''
    default: str = ''
    doc: str = ''

@dataclass
class Record:
    name: str                # as the page calls it: `L1`, `Learner.init_plan`
    kind: str                # py domain's directive: class, function, method, property, data
    module: str
    call: str                # its parameters without their types: `(model, l1=1e-4)`
    doc: str
    params: list = field(default_factory=list)
    returns: Param = None
    members: list = field(default_factory=list)
    source: str = ''
    bases: str = ''
    level: int = None

def _type(anno):
    "The annotation in short: `Learner` for `fastai.learner.Learner`, nothing for what a default of None says"
    if anno in (empty, type(None)): return ''
    if hasattr(anno, '__metadata__'): anno = anno.__origin__  # `Annotated`: its words are shown beside the name
    text = anno if isinstance(anno, str) else inspect.formatannotation(anno)
    return re.sub(r'\b(?:\w+\.)+(?=\w)', '', text).strip("'")

def _default(o):
    if o is empty: return ''
    if isinstance(o, float): return repr(o)
    s = getattr(o, '__name__', None) or repr(o)
    return re.sub(r' at 0x[0-9a-f]+', '', s)

def _call(obj):
    try: sig = inspect.signature(obj)
    except (TypeError, ValueError): return ''
    ps = [p for n,p in sig.parameters.items() if n != 'self']
    out,star = [],False
    for p in ps:
        if p.kind == p.KEYWORD_ONLY and not star: out.append('*'); star = True
        if p.kind == p.VAR_POSITIONAL: star = True
        pre = {p.VAR_POSITIONAL:'*', p.VAR_KEYWORD:'**'}.get(p.kind, '')
        out.append(pre+p.name + ('' if p.default is p.empty else f'={_default(p.default)}'))
    return f"({', '.join(out)})"

def _params(obj):
    dms = docments(obj, full=True, args_kwargs=True)
    # docments guesses a type from the default; a pair may do as well
    try: written = {k: p.annotation for k,p in inspect.signature(obj).parameters.items()}
    except (TypeError, ValueError): written = {}
    res = [Param(k, _type(written.get(k, empty)), _default(v.default), v.docment or '') for k,v in dms.items()
           if k not in ('self','cls','return')]
    r = dms.get('return')
    ret = Param('return', _type(r.anno), '', r.docment or '') if r and (r.docment or _type(r.anno)) else None
    return res,ret

def _source(obj):
    try: return dedent(inspect.getsource(inspect.unwrap(obj)))
    except (TypeError, OSError): return ''

def _doc(obj):
    """The object's own words; a class also says those of its `__init__`, which may be that of a private class that it
    stands on"""
    if not inspect.isclass(obj): docs = [obj.__doc__]
    else:
        owner = next(c for c in obj.__mro__ if '__init__' in vars(c))
        docs = [vars(obj).get('__doc__'), owner.__init__.__doc__ if owner is obj or owner.__name__.startswith('_')
                else None]
    return '\n\n'.join(inspect.cleandoc(o) for o in docs if o)

def _only_raises(f):
    "Whether `f` is there to refuse: a call that a reader cannot make"
    try: body = ast.parse(_source(f)).body[0].body
    except (SyntaxError, IndexError, AttributeError): return False
    return all(isinstance(o, ast.Raise) or isinstance(o, ast.Expr) and isinstance(o.value, ast.Constant) for o in body)

def _members(cls, name):
    "The methods and properties that a reader may call: public, of this class, and described"
    if not cls.__module__.startswith('fastai_ext'): return  # another library's, and documented there
    for k,o in vars(cls).items():
        f = getattr(o, 'fget', None) or getattr(o, '__func__', o)
        if k.startswith('_') or k in events or not inspect.isroutine(f) or not f.__doc__ or _only_raises(f): continue
        if getattr(f, '__module__', cls.__module__) != cls.__module__: continue  # another page shows it
        yield record(f, f'{name}.{k}', kind='property' if isinstance(o, property) else 'method')

def record(obj, name, level=None, kind=None):
    "Return the `Record` of `obj`, shown as `name`"
    cls = inspect.isclass(obj)
    if kind is None: kind = 'class' if cls else 'method' if '.' in name else 'function' if callable(obj) else 'data'
    params,ret = _params(obj) if kind != 'data' else ([],None)
    call = '' if kind in ('data','property') else _call(obj)
    doc = _doc(obj) if callable(obj) else ''
    members = list(_members(obj, name)) if cls else []
    bases = ', '.join(b.__name__ for b in obj.__bases__ if b is not object) if cls else ''
    return Record(name, kind, getattr(obj, '__module__', ''), call, doc, params, None if cls else ret, members,
                  _source(obj), bases, level)
