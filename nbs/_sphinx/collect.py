"Two pages made of all the others: all suggested settings, and a picture of each page"
import posixpath, re
from base64 import b64decode
from io import BytesIO

from PIL import Image
from dialect import Markdown, cell

relative = re.compile(r'(\]\()(?![a-z]+:|#|/)([^)\s]+)')

def section(cells, title):
    "The Markdown under the heading of the second level that begins with `title`"
    found,inside = [],False
    for c in cells:
        if c.cell_type != 'markdown': continue
        for line in c.source.splitlines():
            if line.startswith('## '): inside = line[3:].startswith(title)
            elif inside: found.append(line)
    return found

def advice(lines):
    "What is advised in `lines`: the tables where there are some, or the list, or else all the words"
    tables = [l for l in lines if l.startswith('|')]
    if tables: return '\n'.join(tables)
    goes_on = lambda i: lines[i].startswith('  ') and i and lines[i-1].startswith(('- ', '  '))
    items = [l for i,l in enumerate(lines) if l.startswith('- ') or goes_on(i)]
    return '\n'.join(items or [l for l in lines if not l.startswith('#')]).strip()

def at_top(text, page):
    "`text` of `page` with its relative links as seen from the top of the site"
    def one(m):
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page), m[2]))
        return m[1] + (m[2] if path.startswith('..') else '/'+path)
    return relative.sub(one, text)

def settings(pages, order, links):
    "The cell with all suggested settings, page by page in the `order` of the sidebar"
    out = []
    for p in order:
        rows = advice(section(pages[p].cells, 'Suggested settings'))
        title = pages[p].frontmatter_['title']
        if rows: out.append(f"## [{title}](/{p}.ipynb)\n\n{Markdown(links)(at_top(rows, p))}\n")
    return cell('markdown', '\n'.join(out))

def first_picture(nb):
    "The first picture that the page `nb` shows, as an image, and its words; None without one"
    for c in nb['cells']:
        if 'remove-output' in c['metadata'].get('tags', []): continue
        for o in c.get('outputs', []):
            data = o.get('data', {})
            raw = data.get('image/png') or data.get('image/jpeg')
            if raw: return Image.open(BytesIO(b64decode(''.join(raw)))),c['metadata']['mystnb']['image']
    return None

def gallery(pages, made, order, src, width=360):
    "The cell with the first picture of each page, `width` pixels wide and laid in `src`, as a link to it"
    folder = src/'gallery'
    folder.mkdir(parents=True)
    items = []
    for p in order:
        found = first_picture(made[p])
        if not found: continue
        picture,look = found
        picture = picture.convert('RGBA')
        paper = Image.new('RGBA', picture.size, 'white')
        small = Image.alpha_composite(paper, picture).convert('RGB')
        small.thumbnail((width, width), Image.Resampling.LANCZOS)
        name = p.replace('/', '_') + '.jpg'
        small.save(folder/name, quality=80)
        alt = re.sub(r'[\[\]"]', '', look['alt'])
        title = pages[p].frontmatter_['title']
        items.append(f"- [![{alt}](/gallery/{name}){{.{look['classes']}}} {title}](/{p}.ipynb)")
    return cell('markdown', '{.gallery}\n' + '\n'.join(items))
