"""Run one notebook against the installed module: its exported cells are replaced by an import of the module they made.

    python tests/run_notebook.py nbs/weights.ipynb

So a missing export, import or `__all__` entry shows, and coverage counts the package itself. Cells marked
`#| eval: false` or with one of nbdev's `tst_flags` are left out. Exits with 1 and the cell that failed.
"""
import json, re, sys, traceback
from pathlib import Path

from execnb.shell import CaptureShell

def directives(source):
    "The words of every `#| …` line of a cell, for example `[['export'], ['eval:', 'false']]`"
    return [line[2:].split() for line in source.splitlines() if re.match(r'#\s*\|', line)]

def as_run(cells, skip_flags=('slow',)):
    "The sources to run: exported cells become one import of their module, cells not meant for tests are left out"
    module = next((d[1] for c in cells for d in directives(c) if d[:1] == ['default_exp']), None)
    taken = (f'import fastai_ext.{module} as _m; '
             'globals().update({k:v for k,v in vars(_m).items() if not k.startswith("__")})')
    for c in cells:
        marks = directives(c)
        words = {d[0].rstrip(':') for d in marks if d}
        if ['eval:', 'false'] in marks or words & set(skip_flags): continue
        if words & {'export', 'exports', 'exporti'}:
            if module is None: raise ValueError("exported cells, but no `#| default_exp`")
            yield taken
        else: yield c

def run(path, skip_flags=('slow',)):
    "Run the notebook `path`; returns the sources that ran, raises what a cell raised"
    cells = json.loads(Path(path).read_text(encoding='utf-8'))['cells']
    sources = list(as_run([''.join(c['source']) for c in cells if c['cell_type'] == 'code'], skip_flags))
    shell = CaptureShell()
    for src in sources:
        outputs = shell.run(src)
        if shell.exc:
            print(f'\n--- {path}, in the cell\n{src}\n', *[''.join(o.get('traceback', o.get('text', [])))
                                                           for o in outputs], file=sys.stderr)
            raise shell.exc
    return sources

if __name__ == '__main__':
    try: run(sys.argv[1])
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
