"Formulas as MathML, which browsers draw by themselves: no script, no request to elsewhere"
from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

log = logging.getLogger(__name__)

def convert(self, node, block):
    tex = node.astext()
    try: return tex2mathml(tex, as_block=block)
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
