"""Build the docs site from the notebooks: `python nbs/_sphinx/build.py` writes `_docs`; any warning is an error.

    notebooks → nbdev's directives → (shown objects, pages.py, show.py) → MyST (dialect.py, links.py)
              → Sphinx (conf.py) → _docs

`--out DIR` writes elsewhere, `--readme` writes README.md from nbs/index.ipynb instead.
The pages and their order stand in toc.yml: a page missing there, or listed but absent, stops the build.
"""
import argparse, json, shutil, sys, warnings
from pathlib import Path

here = Path(__file__).resolve().parent
nbs,root = here.parent,here.parents[1]
sys.path[:0] = [str(root), str(here)]  # the checkout's own package, and the modules beside this file

def stop(msg): sys.exit(f"site: {msg}")

def read_toc(path=here/'toc.yml'):
    "Return the sections `[(title, [page])]`; stop when they and the notebooks on disk are not the same pages"
    import yaml
    parts = yaml.safe_load(path.read_text(encoding='utf-8'))
    sections = [(title,pages or []) for o in parts for title,pages in o.items()]
    listed = [p for _,pages in sections for p in pages]
    there = {p.relative_to(nbs).with_suffix('').as_posix() for p in nbs.rglob('*.ipynb')
             if not any(o[0] in '_.' for o in p.relative_to(nbs).parts)} - {'index'}
    texts = {p for p in listed if p.endswith('.md')}
    for p in texts:
        if not (root/p).exists(): stop(f"toc.yml lists {p}, which is not in the repository")
    if twice := {p for p in listed if listed.count(p) > 1}: stop(f"toc.yml lists {', '.join(sorted(twice))} twice")
    if absent := set(listed)-texts-there:
        stop(f"toc.yml lists {', '.join(sorted(absent))}, but there is no such notebook in nbs/")
    if missing := there-set(listed):
        stop(f"toc.yml does not list {', '.join(sorted(missing))}; add each where a reader should meet it")
    return sections

def read_words(pages, path=here/'words.yml'):
    "Return what people search for, by page; stop where a page does not exist"
    import yaml
    words = yaml.safe_load(path.read_text(encoding='utf-8'))
    if absent := set(words)-set(pages):
        stop(f"words.yml names {', '.join(sorted(absent))}, but there is no such notebook in nbs/")
    return words

def write_llms(out, pages, sections):
    "Write llms.txt: every page with its one line, for programs that read"
    lines = ['# fastai_ext', '', f"> {pages['index'].frontmatter_.get('description', '')}"]
    for title,names in sections:
        lines += ['', f'## {title}', '']
        for p in names:
            if p not in pages: continue
            front = pages[p].frontmatter_
            lines.append(f"- [{front['title']}]({p}.html): {front.get('description', '')}")
    (out/'llms.txt').write_text('\n'.join(lines)+'\n', encoding='utf-8')

def write_sources(src, sections):
    "Write the MyST notebooks of all pages to the folder `src`; returns the pages as read"
    from collect import gallery, settings
    from dialect import fold, folded, names, read_on, to_myst, toctrees
    from links import Links
    from pages import read_page
    from search import entries
    if src.exists(): shutil.rmtree(src)
    listed = ['index', *(p for _,ps in sections for p in ps if not p.endswith('.md'))]
    pages = {p: read_page(nbs/f'{p}.ipynb', root) for p in listed}
    links,words,related = Links(pages),read_words(pages),read_on(pages)
    made = {name: to_myst(page, name, links) for name,page in pages.items()}
    order = [p for _,ps in sections for p in ps if p in pages]
    made['guide/settings']['cells'].append(settings(pages, order, links))
    made['guide/gallery']['cells'].append(gallery(pages, made, order, src))
    for name,nb in made.items():
        if name in words: nb['cells'].insert(1, dict(cell_type='markdown', metadata={}, source=entries(words[name])))
        if name in related: nb['cells'].append(related[name])
        if name == 'all': nb['cells'].append(names(pages, sections, links))
        if name == 'index': nb['cells'].append(toctrees(sections))
        dest = src/f'{name}.ipynb'
        dest.parent.mkdir(parents=True, exist_ok=True)
        dest.write_text(json.dumps(nb), encoding='utf-8')
    for p in (p for _,ps in sections for p in ps if p.endswith('.md')):
        (src/p.lower()).write_text((root/p).read_text(encoding='utf-8').replace('<!-- do not remove -->\n', ''),
                                   encoding='utf-8')
    for title,names_ in sections:
        if title in folded: (src/f'{folded[title]}.md').write_text(fold(title, names_, pages), encoding='utf-8')
    for d in nbs.rglob('images'):
        if not any(o[0] in '_.' for o in d.relative_to(nbs).parts): shutil.copytree(d, src/d.relative_to(nbs))
    return pages

def for_screen_readers(html):
    "Mend what theme and extensions leave to be guessed: the level of the sidebar's headings, the name of a fold"
    for page in html.rglob('*.html'):
        text = page.read_text(encoding='utf-8')
        text = text.replace('<p class="caption" role="heading">', '<p class="caption" role="heading" aria-level="2">')
        page.write_text(text.replace('<summary aria-label="Toggle hidden content">', '<summary>'), encoding='utf-8')

def build(out):
    "Build the site; `out` is replaced only by a build without faults. Returns Sphinx's exit code"
    from sphinx.cmd.build import main as sphinx
    warnings.filterwarnings('ignore', category=FutureWarning)  # of the libraries that are imported
    work = root/'_proc'/'sphinx'
    src,html = work/'src',work/'html'
    sections = read_toc()
    pages = write_sources(src, sections)
    if html.exists(): shutil.rmtree(html)
    rc = sphinx(['-n', '-W', '--keep-going', '-q', '-j', 'auto', '-c', str(here), '-d', str(work/'doctrees'), str(src),
                 str(html)])
    if rc: return rc
    write_llms(html, pages, sections)
    for_screen_readers(html)
    if out.exists(): shutil.rmtree(out)
    shutil.move(html, out)
    return 0

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, help="the folder to write, replaced if there (default: _docs; for --readme "
                                                 "the repository, which is kept)")
    parser.add_argument('--readme', action='store_true', help="write README.md from nbs/index.ipynb instead")
    args = parser.parse_args()
    if args.readme:
        from readme import write_readme
        return write_readme(root, args.out)
    out = (args.out or root/'_docs').resolve()
    if build(out): stop("Sphinx found the faults above")
    print(f"The site is in {out}; open {out/'index.html'}")

if __name__ == '__main__': main()
