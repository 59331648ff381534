"The site builds without a warning, and stands in a browser as it lies on the disk: search, console, width, requests"
import filecmp, json, os, re, shutil, subprocess, sys

import pytest, yaml
from filelock import FileLock

from conftest import notebooks, root

browser = pytest.importorskip('browser', reason="websockets is not installed: pip install -e '.[dev]'")
build = [sys.executable, root/'nbs/_sphinx/build.py']
slow = 900  # seconds that a build of the site may take on a busy machine of two cores

@pytest.fixture(scope='module')
def site(tmp_path_factory, worker_id):
    "One build for all workers: whoever comes first builds, the others wait for it"
    base = tmp_path_factory.getbasetemp()
    out = (base if worker_id == 'master' else base.parent)/'site'
    with FileLock(f'{out}.lock', timeout=slow+60):
        if not out.exists():
            res = subprocess.run([*build, '--out', out], cwd=root, capture_output=True, text=True, timeout=slow)
            assert res.returncode == 0, res.stdout + res.stderr[-8000:]
    return out

@pytest.fixture(scope='module')
def tab(site):
    if not browser.chromium(): pytest.skip("no chromium, chromium-browser or google-chrome on the path")
    with browser.Browser() as b: yield b

def pages(site): return sorted(p.relative_to(site).as_posix() for p in site.rglob('*.html'))

def test_every_notebook_has_its_page(site):
    for nb in notebooks(): assert (site/nb.relative_to('nbs').with_suffix('.html')).exists(), nb
    assert '%%' not in (site/'index.html').read_text(encoding='utf-8'), 'a comment became a heading of the sidebar'

def test_a_search_finds_a_public_name(site, tab):
    tab.width(1280)
    tab.go((site/'search.html').as_uri() + '?q=weights')
    links = "[...document.querySelectorAll('#search-results li a')].map(o => o.href)"  # they come one after the other
    name = 'model/weights.html#fastai_ext.model.weights.weights'
    def found(): return any(h.endswith(name) for h in tab.js(links))
    browser.until(found, what='the result of the search')

def searched():
    "Every phrase of words.yml with the page that must come first"
    listed = yaml.safe_load((root/'nbs/_sphinx/words.yml').read_text(encoding='utf-8'))
    return [(str(w), page) for page,words in listed.items() for w in words]

def test_what_people_type_leads_to_its_page(site, tab):
    "At least eleven of twelve first, all among the first three"
    tab.width(1280)
    tab.go((site/'search.html').as_uri())
    browser.until(lambda: tab.js("typeof Search !== 'undefined' && Search.hasIndex()"), what='the search index')
    places = {}
    for words,page in searched():
        code = f"""(() => {{ const [q, ...terms] = Search._parseQuery({words!r});
                  return Search._performSearch(q, ...terms).reverse().map(r => r[0]); }})()"""
        found = list(dict.fromkeys(tab.js(code)))  # pages in order, each once
        places[words] = found.index(page) if page in found else None
    assert len(places) >= 60
    late = {w: p for w,p in places.items() if p is None or p > 2}
    assert late == {}
    assert sum(p == 0 for p in places.values()) >= len(places)*11/12, {w: p for w,p in places.items() if p}

def test_code_is_not_searched(site):
    index = (site/'searchindex.js').read_text(encoding='utf-8')
    terms = index[index.index('"terms":'):]
    assert '"xgboost"' in index and '"def":' not in terms and '"noqa":' not in terms

def test_pages_are_quiet_and_fit_every_window(site, tab):
    "No console error, no request beyond the disk, no sideways scrolling on a phone and in windows of all sizes"
    wide = {}
    for p in pages(site):
        tab.width(390)
        tab.go((site/p).as_uri())
        for px in (390, 700, 1100, 1400):
            tab.width(px)
            if (w := tab.js('document.documentElement.scrollWidth')) > px: wide[p,px] = (w, tab.js(widest))
    assert wide == {}
    assert tab.errors == []
    assert [r for r in tab.requests if not re.match('file:|data:|about:', r)] == []

# the innermost element that stands out to the right, for the message
widest = """[...document.querySelectorAll('article *')].filter(o => o.getBoundingClientRect().right > innerWidth+1)
            .map(o => o.outerHTML.slice(0, 120)).at(-1)"""

def axe_core(folder):
    "The script of axe-core, fetched by npm into `folder`; skips where npm or its registry is not at hand"
    if not shutil.which('npm'): pytest.skip('no npm to fetch axe-core with')
    command = 'npm install --silent --fetch-retries=0 --fetch-timeout=20000 axe-core --prefix'.split()
    try: res = subprocess.run([*command, folder], capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired: pytest.skip('npm could not fetch axe-core within 60 s')
    if res.returncode: pytest.skip(f'npm could not fetch axe-core: {res.stderr[-200:]}')
    return folder/'node_modules/axe-core/axe.min.js'

@pytest.mark.timeout(1500)  # some 150 pages, 2 s each, on a slow machine more
def test_pages_can_be_read_by_everybody(site, tab, tmp_path_factory):
    """axe-core finds no serious fault on any page, and none weighs more than a megabyte with its pictures.

    Colours come from one style sheet, and to compare them takes two fifths of the time: one page of each folder is
    enough."""
    axe = axe_core(tmp_path_factory.mktemp('axe')).read_text(encoding='utf-8') + ';0'
    ask = """axe.run(document, {resultTypes:['violations'], rules:{'color-contrast':{enabled:%s}}})
             .then(r => r.violations.filter(v => ['serious','critical'].includes(v.impact))
             .map(v => [v.id, v.nodes[0].html.slice(0,100)]))"""
    tab.width(1280)
    faults,heavy,folders = {},{},set()
    for p in pages(site):
        tab.go((site/p).as_uri())
        tab.js(axe)
        first = os.path.dirname(p) not in folders
        folders.add(os.path.dirname(p))
        if found := tab.js(ask % ('true' if first or p=='index.html' else 'false')): faults[p] = found
        pictures = {o.split('?')[0] for o in tab.js("[...document.images].map(o => o.getAttribute('src'))")}
        files = [site/p, *((site/p).parent/o for o in pictures if o and not o.startswith('data:'))]
        weight = sum(f.stat().st_size for f in files)
        if weight > 2**20: heavy[p] = weight
    assert faults == {} and heavy == {}

def test_every_picture_says_what_is_seen(site):
    "Words for those who do not see it, and more than a title"
    silent = {}
    for p in pages(site):
        article = (site/p).read_text(encoding='utf-8').partition('<article')[2]
        for img in re.findall(r'<img[^>]*>', article):
            alt = re.search(r'alt="([^"]*)"', img)
            says = alt and len(alt[1].split()) >= 6
            if not says and p != 'py-modindex.html': silent.setdefault(p, []).append(img[:150])
    assert silent == {}

def test_every_figure_of_a_page_has_words_of_its_own():
    "Written for it, not taken from the sentence before it"
    silent = [(str(f),i) for f in notebooks() for i,c in enumerate(json.loads(f.read_text(encoding='utf-8'))['cells'])
              if any('image/png' in o.get('data', {}) for o in c.get('outputs', ()))
              and not re.search(r'^#\| fig-(alt|cap):.{40}', ''.join(c['source']), re.M)]
    assert silent == []

def test_cheat_sheet_and_gallery_are_made_of_the_pages(site):
    sheet,gallery = ((site/f'guide/{p}.html').read_text(encoding='utf-8') for p in ('settings','gallery'))
    given = [nb for nb in notebooks() if re.search(r'"## Suggested settings', nb.read_text(encoding='utf-8'))]
    assert len(given) > 20
    for nb in given:
        page = os.path.relpath(nb.with_suffix('.html'), 'nbs/guide').replace(os.sep, '/')
        assert f'href="{page}"' in sheet, f'{nb}: its section "Suggested settings" is empty'
    shown = re.findall(r'<a[^>]*href="([^"]+)"[^>]*>(?:<span[^>]*>)?<img', gallery)
    assert len(shown) > 30 and all((site/'guide'/o).exists() for o in shown)

def test_our_names_can_be_linked_to_from_elsewhere(site):
    from sphinx.util.inventory import InventoryFile
    with (site/'objects.inv').open('rb') as f:
        names = InventoryFile.load(f, 'https://example.org', lambda *o: '/'.join(o))
    assert 'fastai_ext.model.weights.weights' in names['py:function']
    assert 'fastai_ext.model.weights' in names['py:module']
    html = (site/'model/weights.html').read_text(encoding='utf-8')
    assert 'id="fastai_ext.model.weights.weights"' in html and 'id="weights"' in html  # Sphinx's anchor and nbdev's

def test_names_link_to_their_documentation(site):
    html = (site/'contract/check.html').read_text(encoding='utf-8')
    assert 'https://docs.fast.ai/' in html

def test_readme_is_in_step(tmp_path):
    "README.md and its pictures are what nbs/index.ipynb gives"
    subprocess.run([*build, '--readme', '--out', tmp_path], check=True, capture_output=True, timeout=300)
    for made in (p for p in tmp_path.rglob('*') if p.is_file()):
        there = root/made.relative_to(tmp_path)
        same = there.exists() and filecmp.cmp(made, there, shallow=False)
        assert same, f"{there.name}: run python nbs/_sphinx/build.py --readme"

def test_links_of_the_readme_lead_somewhere():
    text = (root/'README.md').read_text(encoding='utf-8')
    for target in re.findall(r'\]\((?![a-z]+:|#)([^)#\s]+)', text): assert (root/target).exists(), target

@pytest.mark.parametrize('toc,says', [
    ('- A: [nowhere]', 'no such notebook'), ('- A: []', 'does not list'),
    ('- A: [model/weights, model/weights]', 'twice')])
def test_a_page_missing_from_the_contents_stops_the_build(tmp_path, toc, says):
    (tmp_path/'toc.yml').write_text(toc)
    code = f"""import sys; sys.path.insert(0, {str(root/'nbs/_sphinx')!r})
import build; build.read_toc(build.Path({str(tmp_path/'toc.yml')!r}))"""
    res = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120)
    assert res.returncode == 1 and says in res.stderr

def test_a_committed_error_stops_the_build():
    sys.path.insert(0, str(root/'nbs/_sphinx'))
    try: from dialect import outputs
    finally: sys.path.pop(0)
    with pytest.raises(RuntimeError, match='x.ipynb.*ZeroDivisionError'):
        outputs([dict(output_type='error', ename='ZeroDivisionError', evalue='division by zero')], 'x.ipynb')
