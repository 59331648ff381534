"What the search finds: the words that people type (words.yml) lead to their page; code and outputs are not indexed"
from docutils import nodes

def entries(words):
    "MyST's index directives for the phrases `words`, which the search ranks first"
    return '\n'.join(f'```{{index}} !{w}\n```' for w in words)

def prose(doctree):
    "A copy of `doctree` without code and the outputs of cells"
    copy = doctree.deepcopy()
    for node in list(copy.findall(nodes.literal_block)): node.parent.remove(node)
    for node in list(copy.findall(nodes.container)):
        if 'cell_output' in node.get('classes', []) and node.parent is not None: node.parent.remove(node)
    return copy

def index_prose(app):
    "Let the builder index prose only"
    index = getattr(app.builder, 'index_page', None)
    if index: app.builder.index_page = lambda name, doctree, title: index(name, prose(doctree), title)

def setup(app):
    app.connect('builder-inited', index_prose)
    return dict(parallel_read_safe=True, parallel_write_safe=True)
