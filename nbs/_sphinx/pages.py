"Read a notebook as nbdev does: hide what is to be hidden, and say which objects it shows"
import ast
from importlib import import_module
from itertools import groupby

from nbdev import processors as P
from nbdev.process import NBProcessor, Processor
from nbdev.config import get_config
from fastcore.nbio import read_nb

from show import record

def show_call(source):
    "The `show_doc(…)` call that the cell `source` is, or None"
    try: body = ast.parse(source).body
    except SyntaxError: return None
    calls = [o.value for o in body if isinstance(o, ast.Expr) and isinstance(o.value, ast.Call)
             and getattr(o.value.func, 'id', '')=='show_doc']
    return calls[0] if calls else None

class show_in_order(P.add_show_docs):
    "nbdev shows the names that one cell exports from the last to the first; here they come as they are written"
    def begin(self):
        super().begin()
        cells = self.nb.cells
        cells[:] = [c for shown,run in groupby(cells, lambda c: bool(getattr(c, 'has_sd', False)))
                    for c in (reversed(list(run)) if shown else list(run))]

class show_records(Processor):
    "Instead of running `show_doc`, take the object from the package itself and note all that is to be said of it"
    def begin(self):
        exp = next((c.directives_['default_exp'] for c in self.nb.cells if 'default_exp' in c.directives_), None)
        self.module = f'fastai_ext.{exp}' if exp else None
        self.nb.module = self.module

    def cell(self, cell):
        if cell.cell_type != 'code' or 'show_doc' not in cell.source: return
        call = show_call(cell.source)
        if call is None: return
        name = ast.unparse(call.args[0])
        level = next((ast.literal_eval(k.value) for k in call.keywords if k.arg == 'title_level'), None)
        cell.show = record(self.find(name), name, level)
        cell.outputs = []

    def find(self, name):
        for mod in (self.module, 'fastai_ext.all'):
            if not mod: continue
            try: return eval(name, vars(import_module(mod)))
            except (NameError, AttributeError, ModuleNotFoundError): pass
        raise NameError(f"{self.nb.path_}: show_doc({name}): there is no such name in "
                        f"{self.module or 'fastai_ext.all'}; run nbdev-export")

class Page(P.FilterDefaults):
    "nbdev's processors, without Quarto's boxes and without running the notebook"
    def base_procs(self):
        return [P.FrontmatterProc, P.populate_language, show_in_order, P.strip_ansi, P.hide_line, P.filter_stream_,
                P.rm_header_dash, show_records, P.rm_export, P.ai_magics, P.clean_magics, P.hide_, P.mv_exports,
                P.strip_hidden_metadata]

def read_page(path, root):
    """Return the processed notebook at `path`, with its module in `.module` and what `show_doc` shows in each cell's
    `.show`"""
    get_config(root)
    nb = read_nb(path)
    NBProcessor(nb=nb, procs=Page().base_procs(), rm_directives='quarto').process()
    return nb
