"The translation of notebooks to the site's Markdown and to the README, piece by piece"
import pytest
from fastcore.nbio import NbCell

from conftest import root

@pytest.fixture(autouse=True)
def glue(monkeypatch): monkeypatch.syspath_prepend(str(root/'nbs/_sphinx'))

class NoLinks:
    "In place of the names of other libraries: only `known` has a page"
    def line(self, text): return text.replace('`known`', '[`known`](url)')
    def find(self, name): return None
    def code(self, name): return f'`{name}`'

def md(text):
    from dialect import Markdown
    return Markdown(NoLinks())(text)

def cells(*sources):
    res = []
    for s in sources:
        c = NbCell(0, dict(cell_type='code' if s.startswith('show ') else 'markdown', metadata={}, source=s))
        if s.startswith('show '): c.show = s
        res.append(c)
    return res

def test_code_is_left_alone():
    src = '```python\n# `known` %\n% x\n## no heading\n```'
    assert md(src) == src

def test_callouts():
    assert md('::: {.callout-warning}\nx\n:::') == ':::{warning}\nx\n:::'
    assert md('::: {.callout-note title="Mind"}\nx\n:::') == ':::{admonition} Mind\n:class: note\nx\n:::'

def test_headings_go_one_deeper_at_most():
    assert md('#### deep').startswith('## ') and md('## a\n\n### b') == '## a\n\n### b'

def test_a_percent_sign_opens_no_comment(): assert md('% of rows') == '\\% of rows'
def test_a_displayed_formula_stands_alone(): assert md('so $$a=b$$ and') == 'so\n\n$$a=b$$\n\nand'
def test_links_to_pages_and_texts():
    links = md('[a](x.html#y) [b](../CHANGELOG.md) [c](../LICENSE) [d](../CITATION.cff)')
    assert links == '[a](x.ipynb#y) [b](/changelog.md) c d'

def test_use_comes_before_the_reference_and_tests_after():
    from dialect import in_order, split
    got = [c.source for c in in_order(list(split(cells('intro', 'show A', '## Use\n\nhow\n\n## Tests\n\nt'))))]
    assert got == ['intro', '## Use\n\nhow\n', '## Reference', 'show A', '## Tests\n\nt']

def test_objects_stay_under_the_heading_that_explains_them():
    from dialect import in_order
    src = '## How it works', 'show A', '## Tests'
    assert [c.source for c in in_order(cells(*src))] == list(src)

@pytest.mark.parametrize('tex', [r'\big(x\Big)', r'\tfrac12', r'\frac12', r'a \textstyle\sum_i x', r'1,\dots,n'])
def test_formulas_that_docutils_does_not_know(tex):
    from mathml import plain
    from docutils.utils.math.latex2mathml import MathError, tex2mathml
    with pytest.raises(MathError): tex2mathml(tex)
    assert '<math' in tex2mathml(plain(tex))

def test_a_record_of_a_callback():
    from show import record
    from fastai_ext.regularize.penalty import L1
    rec = record(L1, 'L1')
    assert rec.kind == 'class' and rec.call.startswith('(l1=0.0001, only=None, skip=None')
    l1 = next(p for p in rec.params if p.name == 'l1')
    # a type is shown where it is written, not guessed from the default
    assert l1.anno == '' and l1.default == '0.0001' and 'Strength' in l1.doc
    from fastai_ext.init.callback import Init
    assert 'int' in next(p for p in record(Init, 'Init').params if p.name == 'seed').anno
    assert 'class L1(' in rec.source and not any(m.name.endswith('.before_fit') for m in rec.members)

def test_tables_of_the_readme():
    from readme import table
    html = '<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>x|y</td></tr></table>'
    assert table(html) == '| a | b |\n|---|---|\n| 1 | x\\|y |'
    assert table('<p>no table</p>') == ''

def test_names_are_shown_in_the_order_of_the_source():
    from pages import read_page
    shown = [c.show.name for c in read_page(root/'nbs/init/schemes.ipynb', root).cells if getattr(c, 'show', None)]
    names = ['zeros','ones','constant','uniform','normal','trunc_normal']
    assert [n for n in shown if n in names] == names

def test_folds_in_a_row_become_one():
    from dialect import cell, joined
    def code(source, *tags, outputs=()): return {**cell('code', source, tags=list(tags)), 'outputs':list(outputs)}
    imports,model = code('import a', 'hide-input'),code('m = a.m', 'hide-input', outputs=['plot'])
    shown,more = code('m.run()'),code('n = 1', 'hide-input')
    assert [c['source'] for c in joined([cell('markdown', '# A'), imports, model, shown, more])] == [
        '# A', 'import a\n\nm = a.m', 'm.run()', 'n = 1']
    assert joined([imports, model])[0]['outputs'] == ['plot']
    assert len(joined([model, more])) == 2  # what the first one shows stands between them
