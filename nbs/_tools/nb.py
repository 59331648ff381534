"""Edit notebooks as text and run them in a fresh kernel.

    python nbs/_tools/nb.py text nbs/weights.ipynb    write nbs/weights.py, in the percent format, to edit
    python nbs/_tools/nb.py back nbs/weights.py       put the text back into the notebook; cell ids and outputs stay
    python nbs/_tools/nb.py run nbs/weights.ipynb …   export, run each in a fresh kernel, save its outputs, clean

`back` makes the notebook where there is none. The text files are not committed; the notebooks are.
"""
import os, re, subprocess, sys
from hashlib import sha1
from pathlib import Path
from tempfile import TemporaryDirectory

import jupytext, nbformat
from nbclient import NotebookClient

root = Path(__file__).resolve().parents[2]

def text(path):
    "Write the notebook `path` as a percent-format file beside it"
    nb = jupytext.read(path)
    nb.metadata.pop('jupytext', None)
    out = Path(path).with_suffix('.py')
    out.write_text(jupytext.writes(nb, fmt='py:percent'), encoding='utf-8')
    print(out)

def back(path):
    """Put the percent-format file `path` into the notebook beside it, keeping ids and outputs of cells that did not
    change"""
    path = Path(path)
    nb_path = path.with_suffix('.ipynb')
    if not nb_path.exists(): nbformat.write(nbformat.v4.new_notebook(), nb_path)
    subprocess.run([sys.executable, '-m', 'jupytext', '--quiet', '--update', '--to', 'ipynb', str(path)], check=True)
    split_title(nb_path)
    clean(nb_path)
    print(nb_path)

def split_title(path):
    """Move what follows the title and its one line to a cell of its own: nbdev makes the first cell the page's header
    and drops the rest"""
    nb = nbformat.read(path, as_version=4)
    if not nb.cells or nb.cells[0].cell_type != 'markdown': return
    first,lines = nb.cells[0],nb.cells[0].source.split('\n')
    head = next((i for i,l in enumerate(lines) if l.strip() and not l.startswith(('# ', '>'))), None)
    if head is None or not lines[0].startswith('# '): return
    rest = '\n'.join(lines[head:]).strip()
    first.source = '\n'.join(lines[:head]).strip()
    nb.cells.insert(1, nbformat.v4.new_markdown_cell(rest, id=sha1(rest.encode()).hexdigest()[:8]))
    nbformat.write(nb, path)

def clean(path): subprocess.run(['nbdev-clean', '--fname', str(path)], check=True, cwd=root)

def export(): subprocess.run(['nbdev-export'], check=True, cwd=root)

# a warning, with the place of the code that gave it
warned = re.compile(r'^\S*/\S+\.py:\d+: (\w*Warning: .*\n)(?:  .*\n)?', re.M)

def settled(outputs):
    """`outputs` without what depends on the machine: where a warning came from, tqdm's warning, where a slow cell's
    printing was cut in pieces"""
    res = []
    for o in outputs:
        if 'TqdmWarning' in o.get('text', ''): continue
        if o.output_type == 'stream': o.text = warned.sub(r'\1', o.text)
        if res and o.output_type == 'stream' == res[-1].output_type and o.name == res[-1].name: res[-1].text += o.text
        else: res.append(o)
    return res

def run(path, timeout=1800):
    "Run the notebook `path` in a fresh kernel and save it with its outputs, cleaned; on an error nothing is saved"
    path = Path(path).resolve()
    split_title(path)
    nb = nbformat.read(path, as_version=4)
    nb.cells = [c for c in nb.cells if c.source.strip()]
    # as the tests do: nothing is left beside the notebook, and a text file there hides no package of its name
    with TemporaryDirectory() as tmp:
        NotebookClient(nb, timeout=timeout, kernel_name='python3', resources={'metadata': {'path': tmp}}).execute()
    for c in nb.cells:
        if c.cell_type == 'code': c.outputs = settled(c.outputs)
    nbformat.write(nb, path)
    clean(path)
    print(path.relative_to(root))

def main(verb='', *paths):
    verbs = dict(text=text, back=back, run=run)
    if verb not in verbs or not paths: sys.exit(__doc__)
    # the checkout's own package, one thread: equal sums on every run, so that unchanged notebooks give unchanged
    # outputs
    # and without what fastai says at import and at its first batch of a table, with paths of this machine
    os.environ.update(PYTHONPATH=str(root), OMP_NUM_THREADS='1', PYTHONHASHSEED='0', PYDEVD_DISABLE_FILE_VALIDATION='1',
                      PYTHONWARNINGS='ignore::FutureWarning:torch.jit._script,ignore:The given NumPy array is not '
                                     'writable:UserWarning')
    os.environ.pop('MPLBACKEND', None)  # one that draws nowhere would drop the pictures without a word
    if verb == 'run': export()
    for p in paths: verbs[verb](p)

if __name__ == '__main__': main(*sys.argv[1:])
