"From nbdev's (that is, Quarto's) Markdown and cell options to MyST's"
import html, re
from base64 import b64decode, b64encode
from io import BytesIO

from fastcore.nbio import NbCell
from PIL import Image

fence = re.compile(r'^\s*(```+|~~~+)')
callout = re.compile(r'^:::+\s*\{\.callout-(\w+)\s*(.*?)\}\s*$')
option = re.compile(r'^#\|\s*([\w-]+)\s*:\s*(.*?)\s*$', re.M)
heading = re.compile(r'^(#{1,6})\s+(.*?)\s*(?:\{#([\w.-]+)[^}]*\})?\s*$')
kinds = dict(note='note', tip='tip', warning='warning', important='important', caution='caution')

def cell(kind, source, **metadata):
    "A new cell of a notebook"
    res = dict(cell_type=kind, metadata=metadata, source=source)
    return res | (dict(outputs=[], execution_count=None) if kind == 'code' else {})

class Markdown:
    "Translates the Markdown of one page, minding code fences and the depth of headings from cell to cell"
    def __init__(self, links): self.links,self.depth,self.section,self.said = links,1,'',''

    def __call__(self, text):
        out,inside = [],None
        text = re.sub(r'(\]\((?![a-z]+:)[^)\s#]+)\.html(?=[#)])', r'\1.ipynb', text)  # a page, whatever a link calls it
        # a text of the repository is a page
        text = re.sub(r'\[([^]]*)\]\((?:\.\./)+([A-Z]+\.md)\)', lambda m: f'[{m[1]}](/{m[2].lower()})', text)
        # LICENSE and CITATION.cff are none
        text = re.sub(r'\[([^]]*)\]\((?:\.\./)+[A-Z]+(?:\.cff)?\)', r'\1', text)
        # a displayed formula within a paragraph
        text = re.sub(r'(?<=\S)\s*\$\$([^$]+)\$\$[ \t]*', r'\n\n$$\1$$\n\n', text)
        if sentences := re.findall(r'[A-Z][^.:!?$|#<>]{15,}(?=[.:!?])',
                                   re.sub(r'```.*?```|[`*_\[\]]|\([^)]*\)', '', text, flags=re.S)):
            self.said = ' '.join(sentences[-1].split())  # the words before a picture say what is to be seen in it
        for line in text.splitlines():
            if m := fence.match(line):
                if not inside: inside = m[1]
                elif line.strip().startswith(inside): inside = None
                out.append(line)
            elif inside or line.startswith('    '): out.append(line)
            else: out.append(self.line(line))
        return '\n'.join(out)

    def line(self, line):
        if m := callout.match(line): return self.callout(m[1], m[2])
        if line.startswith('%'): return '\\'+line  # MyST's mark of a comment
        if m := heading.match(line): return self.heading(len(m[1]), m[2], m[3])
        return self.links.line(line)

    def heading(self, level, text, anchor=None):
        "A heading at most one deeper than the one before it"
        self.depth = min(level, self.depth+1)
        self.section = re.sub(r'[`*_]', '', text)
        return (f'({anchor})=\n' if anchor else '') + '#'*self.depth + ' ' + text

    def callout(self, kind, attrs):
        title = re.search(r'title="([^"]*)"', attrs)
        cls = kinds.get(kind, 'note')
        return f':::{{admonition}} {title[1]}\n:class: {cls}' if title else f':::{{{cls}}}'

class Shown:
    "Writes what is to be said of an object as MyST: heading, Sphinx object, words, definition list, source"
    def __init__(self, md): self.md = md

    def __call__(self, rec):
        level = rec.level or (3 if self.md.depth > 1 else 2)
        head = self.md.heading(level, f'`{rec.name}`')
        return f'<span id="{rec.name.lower()}"></span>\n\n{head}\n\n{self.object(rec)}'

    def object(self, rec, colons=6):
        "The directive of Python's domain, with all that belongs to the object inside"
        body = [f':module: {rec.module}', ':no-contents-entry:', '']
        if rec.bases: body.append(f'Bases: {", ".join(self.md.links.code(o) for o in rec.bases.split(", "))}\n')
        if rec.doc: body.append(self.md(rec.doc)+'\n')
        if any(p.doc for p in rec.params): body.append(self.params(rec))
        if rec.returns: body.append(self.returns(rec.returns))
        if rec.source and colons == 6: body.append(self.source(rec))
        body += [self.object(o, colons-1) for o in rec.members]
        return f'{":"*colons}{{py:{rec.kind}}} {rec.name}{rec.call}\n' + '\n'.join(body) + f'\n{":"*colons}\n'

    def item(self, term, p):
        "One entry of a definition list: name, type and default, then the words"
        typ = f'`{p.anno}`{{.type}}' if p.anno else ''
        if p.anno and re.fullmatch(r'[\w.]+', p.anno) and (link := self.md.links.find(p.anno)): typ = link
        default = f' = `{p.default}`' if p.default else ''
        return [f'{term} {typ}{default}'.rstrip(), f': {self.md.links.line(" ".join(p.doc.split()))}', '']

    def params(self, rec):
        return '{.params}\n' + '\n'.join(l for p in rec.params if p.doc for l in self.item(f'**`{p.name}`**', p))

    def returns(self, p):
        if p.doc: return '{.params}\n' + '\n'.join(self.item('returns', p))
        return f'Returns {self.md.links.code(p.anno)}\n'

    def source(self, rec):
        code = f'```python\n{rec.source.rstrip()}\n```'
        return f'<details class="source"><summary>Source</summary>\n\n{code}\n\n</details>\n'

def outputs(outs, where):
    "The outputs of a cell without what has nothing to show; an error stops the build"
    res = []
    for o in outs:
        if o['output_type'] == 'error':
            raise RuntimeError(f"{where}: the notebook was committed with an error: {o['ename']}: {o['evalue']}")
        data = dict(o.get('data', {}))
        if 'text/html' in data:
            h = re.sub(r'<style>.*?</style>', '', ''.join(data['text/html']), flags=re.S)
            if not h.strip(): continue
            data['text/html'] = h
        res.append({**o, 'data':data} if data else dict(o))
    return res

def on_white(png):
    "Whether a picture has white or transparent corners, as plots have: in the dark they are laid on paper"
    if not png: return False
    im = Image.open(BytesIO(b64decode(''.join(png)))).convert('RGBA')
    w,h = im.size
    return all(a == 0 or min(r,g,b) > 250 for r,g,b,a in (im.getpixel(o) for o in ((0,0), (w-1,0), (0,h-1), (w-1,h-1))))

def has_small_words(png):
    "Whether the words in a plot would be too small to read on a phone, because it is wide"
    return bool(png) and Image.open(BytesIO(b64decode(''.join(png)))).width >= 850

def lighter(out):
    "The output `out` with a picture of over 200 kB as JPEG, where that halves it: photographs, not plots"
    png = out.get('data', {}).get('image/png')
    if not png or len(raw := b64decode(''.join(png))) < 200_000: return out
    im,small = Image.open(BytesIO(raw)).convert('RGBA'),BytesIO()
    paper = Image.new('RGBA', im.size, 'white')
    Image.alpha_composite(paper, im).convert('RGB').save(small, 'JPEG', quality=88)
    if small.tell() > len(raw)/2: return out
    data = {k: v for k,v in out['data'].items() if k != 'image/png'}
    data['image/jpeg'] = b64encode(small.getvalue()).decode()
    meta = dict(out.get('metadata', {}))
    if 'image/png' in meta: meta['image/jpeg'] = meta.pop('image/png')
    return {**out, 'data':data, 'metadata':meta}

def code(c, md, where):
    "A code cell with Quarto's options turned into MyST-NB's tags"
    opts = dict(option.findall(c.source))
    source = option.sub('', c.source).strip('\n')
    tags = []
    if opts.get('echo') == 'false': tags.append('remove-input')
    if opts.get('output') == 'false': tags.append('remove-output')
    if opts.get('include') == 'false': return None
    if opts.get('code-fold') == 'true': tags.append('hide-input')
    outs = outputs(c.get('outputs', []), where)
    alt = html.escape((opts.get('fig-alt') or opts.get('fig-cap') or f'{md.section}: {md.said}').strip('"'))
    pngs = [o.get('data', {}).get('image/png') for o in outs]
    kind = 'paper' if any(map(on_white, pngs)) else 'photo'
    image = {'alt':alt, 'classes':f'{kind} wide' if kind == 'paper' and any(map(has_small_words, pngs)) else kind}
    if w := next((m['width'] for o in outs for k,m in o.get('metadata', {}).items() if k == 'image/png'
                  and 'width' in m), None):
        image['width'] = f'{w}px'
    return {**cell('code', source), 'metadata':dict(tags=tags, mystnb=dict(image=image)),
            'outputs':[lighter(o) for o in outs], 'execution_count':c.get('execution_count')}

def joined(cells):
    "The cells with a folded one that shows nothing joined to the folded one behind it: one fold, not two in a row"
    res = []
    for c in cells:
        before = res[-1] if res else {}
        if folds(c) and folds(before) and not before['outputs']:
            res.pop()
            c = {**c, 'source':before['source'].rstrip() + '\n\n' + c['source']}
        res.append(c)
    return res

def folds(c): return 'hide-input' in c.get('metadata', {}).get('tags', ())

def title(nb):
    "The page's title, its one line, and its module"
    fm = nb.frontmatter_
    res = f"# {fm['title']}\n"
    if nb.module: res += f"\n```{{py:module}} {nb.module}\n```\n"
    if fm.get('description'): res += f"\n{{.lead}}\n{fm['description']}\n"
    if nb.module: res += f"\n{{.module}}\n`{nb.module}`\n"
    return res

def split(cells):
    "The cells with Markdown cells cut in front of each heading of the second level"
    for c in cells:
        if c.cell_type != 'markdown': yield c; continue
        parts,inside = [[]],False
        for l in c.source.splitlines():
            if fence.match(l): inside = not inside
            if l.startswith('## ') and not inside: parts.append([])
            parts[-1].append(l)
        yield from (NbCell(0, cell('markdown', '\n'.join(p))) for p in parts if any(l.strip() for l in p))

def in_order(cells):
    """A reader first meets the question and the use: objects shown at the top of a page or within its section on use
    move to a section of their own, in front of the tests; those shown under another heading stay where the page
    explains them."""
    def headed(c, words=r'.*'): return c.cell_type == 'markdown' and re.match(rf'## (?:{words})\b', c.source, re.I)
    kept,moved,early = [],[],True
    for c in cells:
        if headed(c): early = headed(c, 'use|usage|how to use it|how to use')
        (moved if early and getattr(c, 'show', None) else kept).append(c)
    if not moved or not any(headed(c) for c in kept): return cells
    end = next((i for i,c in enumerate(kept) if headed(c, 'tests|source')), len(kept))
    return kept[:end] + [NbCell(0, cell('markdown', '## Reference'))] + moved + kept[end:]

def to_myst(nb, name, links):
    "Return the processed notebook `nb` as a MyST notebook, a plain dict"
    md = Markdown(links)
    md.section,md.said = nb.frontmatter_['title'],nb.frontmatter_.get('description', '')
    shown,cells = Shown(md),[cell('markdown', title(nb))]
    for c in in_order(list(split(c for c in nb.cells if c.cell_type != 'raw'))):
        if getattr(c, 'show', None): new = cell('markdown', shown(c.show))
        elif c.cell_type == 'markdown': new = cell('markdown', md(c.source))
        else: new = code(c, md, f'nbs/{name}.ipynb')
        if new: cells.append(new)
    kernel = dict(name='python3', display_name='Python 3', language='python')
    return dict(cells=joined(cells), metadata=dict(kernelspec=kernel, language_info=dict(name='python')), nbformat=4,
                nbformat_minor=4)

def names(pages, sections, links):
    "Every shown name, page by page in the order of the sidebar, with the first sentence about it"
    md,out = Markdown(links),[]
    for p in (p for _,ps in sections for p in ps if p in pages):
        recs = [c.show for c in pages[p].cells if getattr(c, 'show', None)]
        if not recs: continue
        out.append(f"## [{pages[p].frontmatter_['title']}](/{p}.ipynb)\n")
        for r in recs:
            first = re.split(r'(?<=[.:;])\s|\n\n', r.doc)[0].rstrip('.:;')
            out.append(f'{{py:obj}}`{r.name} <{r.module}.{r.name}>`\n: {md(" ".join(first.split())) or "&nbsp;"}\n')
    return cell('markdown', '\n'.join(out))

# sections that the sidebar shows as one line, and the page they get
folded = {'For developers':'developers', 'The demo':'demo_pages', 'The project':'project'}

def contents(names, depth=''):
    return '\n'.join(['```{toctree}', ':hidden:', *([depth] if depth else []), '', *names, '```', ''])

def page_names(pages):
    "Texts of the repository such as CHANGELOG.md are pages in lower case"
    return [p.lower().removesuffix('.md') if p.endswith('.md') else p for p in pages]

def fold(title, listed, pages):
    "The page of a folded section: what it holds, each with its one line"
    def line(p):
        if p not in pages: return f"- [{p.removesuffix('.md').capitalize()}]({p.lower()})"
        fm = pages[p].frontmatter_
        return f"- [{fm['title']}]({p}.ipynb): {fm.get('description', '')}"
    return '\n'.join([f'# {title}', '', *map(line, listed), '', contents(page_names(listed))])

def toctrees(sections):
    "The hidden contents that make the sidebar"
    open_ = [contents(page_names(ps), f':caption: {t}') for t,ps in sections if ps and t not in folded]
    rest = [folded[t] for t,ps in sections if ps and t in folded]
    return cell('markdown', '\n'.join([*open_, *([contents(rest, ':caption: More')] if rest else [])]))

def read_on(pages):
    """The last cell of a page: a guide names the pages of what it uses, such a page the guides that use it.

    A guide uses a page when its code or words name a public object that the page shows."""
    shown = {c.show.name.rpartition('.')[2]: p for p,nb in pages.items() for c in nb.cells if getattr(c, 'show', None)
             and not p.startswith(('contract/','demo/'))}
    uses = {}
    for p,nb in pages.items():
        if not p.startswith('guide/'): continue
        code = [c.source for c in nb.cells if c.cell_type == 'code']
        quoted = [o for c in nb.cells if c.cell_type == 'markdown' for o in re.findall(r'`[^`]+`', c.source)]
        text = '\n'.join([*code, *quoted])
        found = set(re.findall(r'[A-Za-z_]\w+', text))
        uses[p] = sorted({shown[o] for o in found if o in shown}, key=list(pages).index)
    def listed(names): return ' · '.join(f"[{pages[o].frontmatter_['title']}](/{o}.ipynb)" for o in names)
    res = {p: cell('markdown', f'## Reference pages\n\n{listed(os)}') for p,os in uses.items() if os}
    for p in pages:
        if guides := [g for g,os in uses.items() if p in os]:
            res[p] = cell('markdown', f'## Guides\n\n{listed(guides)}')
    return res
