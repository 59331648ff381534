"The command that shows it all: a page that stands alone, and nothing harmed"
import io, os, re, signal, subprocess, sys, threading
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import Browser, chromium
from conftest import root

run_main = 'import sys; from fastai_ext.demo.command import main; sys.exit(main())'
command = [sys.executable, '-W', 'ignore', '-c', run_main]
env = {**os.environ, 'PYTHONPATH': str(root), 'OMP_NUM_THREADS': '1'}

def demo(*args, cwd=None):
    return subprocess.run([*command, *map(str, args)], cwd=cwd, env=env, capture_output=True, text=True, timeout=300)

@pytest.fixture(scope='module')
def quick(tmp_path_factory):
    "One quick run: (its folder, what it printed)"
    folder = tmp_path_factory.mktemp('demo')/'deep'/'er'
    res = demo('--quick', '--out', folder, '--seed', 3)
    assert res.returncode == 0, res.stderr[-3000:]
    return folder,res

class Tags(HTMLParser):
    "Collects the tags of a page, and holds that they close in order"
    void = {'meta','link','img','hr','br','input'}
    def __init__(self, text):
        super().__init__()
        self.tags,self.open = [],[]
        self.feed(text)
        assert not self.open, self.open
    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void: self.open.append(tag)
    def handle_endtag(self, tag): assert self.open.pop() == tag
    def handle_startendtag(self, tag, attrs): self.tags.append((tag, dict(attrs)))

def test_the_page_stands_alone(quick):
    folder,_ = quick
    assert os.listdir(folder) == ['index.html']
    text = (folder/'index.html').read_text(encoding='utf-8')
    tags = Tags(text).tags
    for _,attrs in tags:
        for k in ('src','href','xlink:href'):
            if k in attrs: assert attrs[k].startswith(('data:','#')), attrs[k][:80]
    ids = [a['id'] for _,a in tags if 'id' in a]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'url\(#([^)]+)\)', text)) | {a['xlink:href'][1:] for _,a in tags if 'xlink:href' in a}
    assert used <= set(ids) and not re.search(r'url\((?!#)', text)
    assert all(a.get('alt') for t,a in tags if t == 'img')
    assert str(root) not in text and str(Path.home()) not in text

def test_the_page_shows_the_four_families(quick):
    text = (quick[0]/'index.html').read_text(encoding='utf-8')
    assert re.findall(r'<section id="(\w+)"', text) == ['start','sparse','table','marks']
    plain = re.sub(r'<[^>]+>', '', text)
    for o in ("Init('kaiming_normal', seed=seed)", 'L1(3e-4)', "learns['GroupLasso'].shrink()",
              "tree_learner(dls, 'rf', seed=seed)", 'ensemble(learn, forest, extra', "Mark('PROOF'",
              'Watermark(text='):
        assert o in plain.replace('&#x27;', "'"), o
    assert text.count('<svg') == 5 and text.count('<img ') == 12+6+6 and 'fastai-ext-demo --seed 3 --quick' in plain
    cells = r'<th scope="row">(ensemble|network)</th><td>([\d.]*)</td><td>([\d,]+)</td><td>([\d.]+)</td>'
    rows = re.findall(cells, text)
    before,after = (int(n.replace(',','')) for n in re.findall(r'(?:before|after)</th><td>([\d,]+)</td>', text))
    assert before > after  # by shrink()
    zeros = re.findall(r'>(no penalty|L1)</th>.*?<td>([\d.]+) %</td></tr>', text)
    assert [n for n,_ in zeros]==['no penalty','L1'] and float(zeros[0][1])==0 < float(zeros[1][1])
    assert len(rows) == 2 and all(abs(float(r[2].replace(',',''))**.5 - float(r[3])) < .2 for r in rows)
    crops = re.findall(r'alt="Training picture \d".*?base64,([^"]+)"', text)
    assert len(set(crops)) == 6  # each is marked elsewhere

def test_one_line_for_each_part(quick):
    lines = quick[1].stdout.splitlines()
    parts = ['A right start','Few weights','Trees beside a network','Marked photographs']
    assert [o.split('█')[0].strip() for o in lines if '█' in o] == parts
    assert lines[-1].startswith(str(quick[0]/'index.html')) and quick[1].stderr == ''

@pytest.mark.skipif(chromium() is None, reason='no Chromium here to look at the page')
def test_the_page_in_a_browser(quick):
    with Browser() as b:
        for width in (1280,390):
            for scheme in ('light','dark'):
                b.call('Emulation.setEmulatedMedia', features=[dict(name='prefers-color-scheme', value=scheme)])
                b.width(width)
                b.go((quick[0]/'index.html').as_uri())
                assert b.js('document.documentElement.scrollWidth') <= width
                paper,ink = (b.js(f"getComputedStyle(document.body).{o}") for o in ('backgroundColor','color'))
                light = lambda rgb: sum(map(int, re.findall(r'\d+', rgb)[:3])) > 380
                assert (light(paper),light(ink)) == ((True,False) if scheme=='light' else (False,True))
                fill = b.js("getComputedStyle(document.querySelector('figure svg text')).fill")
                assert re.match(r'rgb', fill) and light(fill) != light(paper)
        assert not b.errors and all(o.startswith(('data:','file:')) for o in b.requests)

def test_a_second_run_takes_the_place_of_the_first(quick):
    from fastai_ext.demo.command import check_out, page, write
    old = (quick[0]/'index.html').read_text(encoding='utf-8')
    try:
        check_out(quick[0])
        write(quick[0], page('Again', '', [], [], ''))
        check_out(quick[0])
        assert '<title>Again</title>' in (quick[0]/'index.html').read_text(encoding='utf-8')
        assert os.listdir(quick[0]) == ['index.html']
    finally: (quick[0]/'index.html').write_text(old, encoding='utf-8')

# --- what is in the way

def a_file(d): (d/'out').write_text('mine'); return d/'out'
def below_a_file(d): (d/'file').write_text('mine'); return d/'file'/'out'
def others_files(d): (d/'out').mkdir(); (d/'out'/'notes.txt').write_text('mine'); return d/'out'
def others_page(d): (d/'out').mkdir(); (d/'out'/'index.html').write_text('<title>mine</title>'); return d/'out'
def a_broken_link(d): (d/'out').symlink_to(d/'nowhere'); return d/'out'
def a_linked_page(d):
    (d/'out').mkdir()
    (d/'real.html').write_text('mine')
    (d/'out'/'index.html').symlink_to(d/'real.html')
    return d/'out'
def no_folder_to_be(d):
    if not Path('/proc/self').exists():
        pytest.skip('there is no /proc here, the one place where even root cannot write')
    return Path('/proc/fastai_ext_demo')

def content(p): return p.read_bytes() if p.is_file() else os.readlink(p) if p.is_symlink() else None
def tree(d): return {p.relative_to(d): content(p) for p in d.rglob('*')}

@pytest.mark.parametrize('make,match', [
    (a_file, 'is not a folder'), (below_a_file, 'cannot be written to'),
    (others_files, r'holds what a demo did not write \(notes.txt\)'), (others_page, r'did not write \(index.html\)'),
    (a_broken_link, 'is not a folder'), (a_linked_page, r'did not write \(index.html\)'),
    (no_folder_to_be, 'cannot be written to'),
], ids=lambda o: getattr(o, '__name__', ''))
def test_what_is_in_the_way_is_left_alone(make, match, tmp_path):
    out = make(tmp_path)
    before = tree(tmp_path)
    res = demo('--out', out)
    assert res.returncode == 2 and res.stdout == '' and len(res.stderr.splitlines()) == 1, res.stderr
    assert re.search(match, res.stderr), res.stderr
    assert tree(tmp_path) == before

def test_an_empty_folder_is_fine_and_a_check_leaves_nothing(tmp_path):
    from fastai_ext.demo.command import check_out
    check_out(tmp_path)
    check_out(tmp_path/'a'/'b')
    assert os.listdir(tmp_path) == []

@pytest.mark.parametrize('args', [['--seed','-1'], ['--seed','x'], ['--seed',str(2**32)], ['--out',''], ['--nonsense']],
                         ids=' '.join)
def test_arguments_that_do_not_fit(args, tmp_path):
    res = demo(*args, cwd=tmp_path)
    assert res.returncode == 2 and 'error:' in res.stderr and os.listdir(tmp_path) == []

def test_help_imports_nothing_heavy():
    code = ('import sys, fastai_ext.demo.command as d\n'
            'try: d.main(["--help"])\nexcept SystemExit as e: assert e.code == 0\n'
            'assert not {"torch","fastai","numpy","PIL"} & set(sys.modules)')
    res = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True, timeout=120)
    assert res.returncode == 0 and '--quick' in res.stdout, res.stderr

@pytest.mark.skipif(sys.platform == 'win32', reason='Windows sends Ctrl-C to a whole console, the tests with it')
def test_an_interrupt_leaves_nothing(tmp_path):
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen([*command, '--quick', '--out', str(tmp_path/'out')], env=env, **pipes) as p:
        late = threading.Timer(120, p.kill)
        late.start()
        for line in p.stdout:
            if '█' in line: break  # the first part is done, the second runs
        p.send_signal(signal.SIGINT)
        _,err = p.communicate(timeout=60)
        late.cancel()
    assert p.returncode == 130 and os.listdir(tmp_path) == []
    assert err.strip() == 'fastai-ext-demo: interrupted; no page was written'

@pytest.mark.skipif(sys.platform == 'win32', reason='Windows has no limit on the size of a file')
def test_a_failing_write_leaves_nothing(tmp_path):
    code = ("import resource, sys\nfrom pathlib import Path\nfrom fastai_ext.demo.page import write\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (1000,1000))\n"
            "try: write(Path(sys.argv[1])/'a'/'b', 'x'*10_000)\nexcept OSError as e: print(e.strerror)")
    plain = {k:v for k,v in env.items() if not k.startswith('COV')}  # the limit would be that of coverage's files too
    res = subprocess.run([sys.executable, '-B', '-c', code, str(tmp_path)], env=plain, capture_output=True, text=True,
                         timeout=120)
    assert res.stdout.strip() == 'File too large' and os.listdir(tmp_path) == [], res.stderr

def test_the_bar_on_a_terminal():
    from fastai_ext.demo.runs import Terminal
    class Tty(io.StringIO):
        def isatty(self): return True
    out = Tty()
    t = Terminal(out)
    with t.part('Halves', 2):
        t.show(.5)
        t.step()
    lines = [o for o in out.getvalue().replace('\n', '').split('\r') if o]
    assert [o.count('█') for o in lines] == [0,6,12,24] and all(o.startswith('  Halves ') for o in lines)

def test_a_terminal_of_old():
    from fastai_ext.demo.runs import Terminal
    out = io.TextIOWrapper(io.BytesIO(), encoding='cp1252')
    with Terminal(out).part('Old', 1): pass
    out.flush()
    assert b'#'*24 in out.buffer.getvalue()
