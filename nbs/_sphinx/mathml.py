"Formulas as MathML, which browsers draw by themselves: no script, no request to elsewhere"
import html, re
from xml.etree import ElementTree

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

log = logging.getLogger(__name__)
token = r'\s*(\\[A-Za-z]+|[^\s{\\])'  # an argument of TeX without its braces
same = [(r'\\([bB]igg?)(?![A-Za-z])(?=\s*(?:[)\]>]|\\[}]|\\r))', r'\\\1r'), (r'\\([bB]igg?)(?![A-Za-z])', r'\\\1l'),
        (r'\\dots\b', r'\\ldots'), (r'\\texttt\b', r'\\mathtt'), (r'(?<!^)(?<!\{)\\(text|display)style\b', ''),
        (r'(\\[dt]?frac)'+token, r'\1{\2}'), (r'(\\[dt]?frac\s*\{[^{}]*\})'+token, r'\1{\2}')]
children = dict(mfrac=2, msub=2, msup=2, munder=2, mover=2, mroot=2, msubsup=3, munderover=3)

def plain(tex):
    "TeX that docutils does not know, in words that it knows"
    for a,b in same: tex = re.sub(a, b, tex)
    return tex

def check(tex, mathml):
    """Raises `ValueError` where a fraction, index or root lacks a part, or a bracket got lost: the browser would show
    an error, or another formula"""
    tree = ElementTree.fromstring(re.sub(r'&(?!lt;|gt;|amp;)\w+;', lambda m: html.unescape(m[0]), mathml))
    for e in tree.iter():
        name = e.tag.rpartition('}')[2]
        if len(e) != children.get(name, len(e)):
            raise ValueError(f"<{name}> has {len(e)} parts in place of {children[name]}")
    text = ''.join(tree.itertext())
    if lost := [o for o in '()' if tex.count(o) != text.count(o)]: raise ValueError(f"brackets {lost} got lost")

def convert(self, node, block):
    tex = node.astext()
    try:
        res = tex2mathml(plain(tex), as_block=block)
        check(tex, res)
        return res
    except Exception as e:
        log.warning("formula %r: %s", tex, e, location=node)
        return self.encode(tex)

def inline(self, node):
    self.body.append(convert(self, node, False))
    raise nodes.SkipNode

def block(self, node):
    number = f'<span class="eqno">({get_node_equation_number(self, node)})</span>' if node['number'] else ''
    self.body.append(f'<div class="math">{number}{convert(self, node, True)}</div>\n')
    raise nodes.SkipNode

def setup(app):
    app.add_html_math_renderer('mathml', (inline, None), (block, None))
    return dict(parallel_read_safe=True, parallel_write_safe=True)
