"""README.md from nbs/index.ipynb: the same words, code and outputs, with links from the top of the repository.

Pictures are laid in nbs/images/index, tables become Markdown tables, what is hidden on the site is hidden here.
"""
import base64, html, re
from html.parser import HTMLParser
from pathlib import Path

from dialect import callout, option, outputs
from pages import read_page

link = re.compile(r'(\]\()(?![a-z]+:|#|/)([^)\s]+)')

class Table(HTMLParser):
    "The rows of an HTML table"
    def __init__(self, text):
        super().__init__()
        self.rows,self.text = [],None
        self.feed(text)
    def handle_starttag(self, tag, attrs):
        if tag == 'tr': self.rows.append([])
        if tag in ('td','th'): self.text = ''
    def handle_data(self, data):
        if self.text is not None: self.text += data
    def handle_endtag(self, tag):
        if tag in ('td','th') and self.text is not None:
            self.rows[-1].append(html.escape(self.text.strip()).replace('|', '\\|'))
            self.text = None

def table(text):
    "A Markdown table from an HTML one, or '' where there is none"
    rows = [r for r in Table(text).rows if r]
    if not rows: return ''
    width = max(map(len, rows))
    lines = ['| ' + ' | '.join(r + ['']*(width-len(r))) + ' |' for r in rows]
    return '\n'.join([lines[0], '|'+'---|'*width, *lines[1:]])

def fenced(text, lang=''): return f'```{lang}\n{text.rstrip()}\n```'

class Readme:
    "Collects the text of README.md and the pictures it shows"
    def __init__(self, nb, folder='nbs', images='nbs/images/index'):
        self.folder,self.images,self.files,self.section = folder,images,{},''
        parts = [p for c in nb.cells for p in self.cell(c)]
        fm = nb.frontmatter_
        self.text = '\n\n'.join([f"# {fm['title']}", fm.get('description', ''), *(p for p in parts if p)]) + '\n'

    def cell(self, c):
        if c.cell_type == 'markdown': return [self.markdown(c.source)]
        if c.cell_type != 'code': return []
        opts = dict(option.findall(c.source))
        if opts.get('include') == 'false': return []
        code = option.sub('', c.source).strip('\n')
        shown = [] if opts.get('echo') == 'false' else [fenced(code, 'python')]
        if opts.get('code-fold') == 'true': shown = [f'<details><summary>Code</summary>\n\n{shown[0]}\n\n</details>']
        if opts.get('output') == 'false': return shown
        self.alt = (opts.get('fig-alt') or self.section).strip('"')
        return shown + [self.output(o) for o in outputs(c.get('outputs', []), 'nbs/index.ipynb')]

    def markdown(self, text):
        for l in text.splitlines():
            if l.startswith('#'): self.section = l.strip('# `')
        text = re.sub(callout.pattern, r'', text, flags=re.M)
        text = re.sub(r'^:::+\s*$', '', text, flags=re.M)
        return link.sub(lambda m: m[1]+self.target(m[2]), text)

    def target(self, url): return f'{self.folder}/{url}' if not url.startswith('../') else url[3:]

    def output(self, o):
        if o['output_type'] == 'stream': return fenced(''.join(o['text']))
        data = o['data']
        for mime,ext in (('image/png','png'), ('image/jpeg','jpg')):
            if mime in data: return self.picture(base64.b64decode(''.join(data[mime])), ext)
        if 'text/html' in data and (t := table(''.join(data['text/html']))): return t
        if 'text/markdown' in data: return ''.join(data['text/markdown'])
        text = ''.join(data.get('text/plain', ''))
        return fenced(text) if text and not text.startswith('<') else ''

    def picture(self, data, ext):
        slug = re.sub(r'\W+', '-', self.section.lower()).strip('-') or 'index'
        n = sum(f.startswith(slug) for f in self.files) + 1
        name = f'{slug}{"" if n == 1 else f"-{n}"}.{ext}'
        self.files[name] = data
        return f'![{self.alt}]({self.images}/{name})'

def write_readme(root, out=None):
    "Write README.md and its pictures below `out` (by default the repository); pictures it no longer shows are removed"
    out = Path(out or root)
    readme = Readme(read_page(root/'nbs'/'index.ipynb', root))
    (out/'README.md').write_text(readme.text, encoding='utf-8')
    folder = out/readme.images
    folder.mkdir(parents=True, exist_ok=True)
    for f in folder.iterdir():
        if f.name not in readme.files: f.unlink()
    for name,data in readme.files.items(): (folder/name).write_bytes(data)
    return readme
