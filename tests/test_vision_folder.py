"Folders of pictures: bad files, interrupts, resuming, many processes (acceptance tests 15, 17 and 18)"
import contextlib, errno, inspect, io, json, os, pickle, random, re, runpy, shlex, shutil, signal, struct, subprocess
import sys, time, types, zlib
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np, psutil, pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from conftest import root
from fastai_ext.vision.command import main, watermark_parser
from fastai_ext.vision.files.find import walk_pictures
from fastai_ext.vision import workers
from fastai_ext.vision.files.options import stamp_options
from fastai_ext.vision.files.record import RECORD, Record
from fastai_ext.vision.folder import FolderRun, stamp_folder
from fastai_ext.vision.files import whole as whole_module
from fastai_ext.vision.mark import Mark
from fastai_ext.vision.save import save_stamped
from fastai_ext.vision.stamp import stamp

MARK = Mark('© me', pos='random', size=(.2,.5), opacity=(.3,.9), rotate=(-30,30))
ENV = {**os.environ, 'PYTHONPATH': str(root)}
CLI = [sys.executable, '-c', 'import sys; from fastai_ext.vision.command import main; sys.exit(main())']

def command(*args, **kw):
    return subprocess.run([*CLI, *map(str, args)], env=ENV, capture_output=True, text=True, timeout=300, **kw)

@pytest.fixture(scope='session')
def jpegs():
    res = []
    for im in load_sample_images().images:
        b = io.BytesIO()
        Image.fromarray(im).save(b, 'JPEG', quality=90)
        res.append(b.getvalue())
    return res

def fill(folder, jpegs, n):
    for i in range(n):
        p = folder/f'd{i%3}'/f'{i:04}.jpg'
        p.parent.mkdir(parents=True, exist_ok=True)
        p.write_bytes(jpegs[i%2])
    return folder

@pytest.fixture
def src(tmp_path, jpegs): return fill(tmp_path/'src', jpegs, 6)

def contents(folder):
    "All files of a folder but the note of what was made of which picture"
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob('*') if p.is_file()
            and p.name != RECORD}

def png(width, height):
    "The head of a PNG that says it is `width` x `height`"
    def block(kind, data): return struct.pack('>I', len(data))+kind+data+struct.pack('>I', zlib.crc32(kind+data))
    return b'\x89PNG\r\n\x1a\n'+block(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0,
                                                           0))+block(b'IDAT', zlib.compress(b'\0'*10)) \
        +block(b'IEND', b'')

def add_bad(src, jpegs):
    (src/'zero.jpg').write_bytes(b'')
    (src/'cut.jpg').write_bytes(jpegs[0][:3000])
    (src/'words.png').write_text('not a picture')
    (src/'bomb.png').write_bytes(png(20_000, 20_000))
    (src/'nowhere.jpg').symlink_to(src/'gone.jpg')
    (src/'loop.jpg').symlink_to('loop.jpg')
    return {'zero.jpg':'an empty file', 'cut.jpg':'not a whole picture', 'words.png':'not a picture that Pillow reads',
            'bomb.png':'decompression bomb',
            'nowhere.jpg':'No such file', 'loop.jpg':'Too many levels of symbolic links'}

# ---- what comes out

def test_18_the_tree_comes_out_stamped_and_the_source_is_untouched(src, tmp_path):
    (src/'notes.txt').write_text('x')
    (src/'._hidden.jpg').write_text('x')
    before = contents(src)
    run = stamp_folder(src, tmp_path/'dst', MARK, seed=3, n_workers=1)
    assert (run.stamped, run.other, run.failed) == (6, 2, []) and bool(run)
    assert ('._hidden.jpg','hidden: its name begins with a dot') in run.left_out
    assert contents(src) == before
    assert set(contents(tmp_path/'dst')) == {p for p in before if p.endswith('.jpg') and '._' not in p}
    for rel in ('d0/0000.jpg','d1/0001.jpg'):
        want = io.BytesIO()
        im = Image.open(src/rel)
        stamp(im, MARK, seed=3, key=rel).save(want, 'JPEG', qtables=im.quantization, subsampling='4:2:0')
        assert Image.open(want).tobytes() == Image.open(tmp_path/'dst'/rel).tobytes()

def test_15_equal_pixels_for_any_number_of_workers_and_executor(src, tmp_path):
    runs = dict(one=dict(n_workers=1), two=dict(n_workers=2))
    for n,kw in runs.items(): assert stamp_folder(src, tmp_path/n, MARK, **kw).stamped == 6
    with ThreadPoolExecutor(3) as ex:
        assert stamp_folder(src, tmp_path/'threads', MARK, executor=ex).stamped == 6
        assert ex.submit(int).result() == 0, 'the executor stays open'
    with ProcessPoolExecutor(1) as ex: assert stamp_folder(src, tmp_path/'processes', MARK, executor=ex).stamped == 6
    want = contents(tmp_path/'one')
    assert len(set(want.values())) == 6, 'each picture has a mark of its own'
    for n in ('two','threads','processes'): assert contents(tmp_path/n) == want
    shutil.move(src, tmp_path/'moved')
    stamp_folder(tmp_path/'moved', tmp_path/'again', MARK, n_workers=1)
    assert contents(tmp_path/'again') == want, 'the key is the place below the folder, not the folder'
    stamp_folder(tmp_path/'moved', tmp_path/'other', MARK, n_workers=1, seed=1)
    assert not set(contents(tmp_path/'other').values()) & set(want.values())

def test_15_the_global_generator_is_left_alone(src, tmp_path):
    state = random.getstate()
    stamp_folder(src, tmp_path/'dst', MARK, n_workers=1)
    assert random.getstate() == state

def test_15_dask(src, tmp_path):
    distributed = pytest.importorskip('distributed', reason='Dask is optional: pip install distributed')
    stamp_folder(src, tmp_path/'one', MARK, n_workers=1)
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1,
                                  dashboard_address=None) as cluster, distributed.Client(cluster) as client:
        assert stamp_folder(src, tmp_path/'dask', MARK, executor=client.get_executor()).stamped == 6
    assert contents(tmp_path/'dask') == contents(tmp_path/'one')

def test_odd_names(tmp_path, jpegs):
    src = tmp_path/'src'
    src.mkdir()
    names = [b'a b.jpg', 'ünï 水.JPG'.encode(), b'new\nline.jpg', b'raw\xff.jpg', b"it's.jpeg"]
    for n in names: Path(os.fsdecode(os.path.join(os.fsencode(src), n))).write_bytes(jpegs[0])
    Path(os.fsdecode(os.path.join(os.fsencode(src), b'bad\xfe\n.jpg'))).write_bytes(b'')
    res = command(src, tmp_path/'dst', '--text', 'me', '--pos', 'random', '--n_workers', 2)
    assert res.returncode == 1 and res.stderr == 'bad\\udcfe\\n.jpg: an empty file\n'
    assert sorted(map(os.fsencode, contents(tmp_path/'dst'))) == sorted(names)

def test_options_reach_the_files(src, tmp_path):
    exif = Image.Exif()
    exif.get_ifd(0x8825).update({1:'N', 2:(1.,2.,3.)})
    exif[0x8825] = exif.get_ifd(0x8825)
    exif[0x010f] = 'maker'
    Image.open(src/'d0/0000.jpg').save(src/'d0/0000.jpg', exif=exif)
    kept,gone,lossless = tmp_path/'kept',tmp_path/'gone',tmp_path/'lossless'
    stamp_folder(src, kept, MARK, n_workers=1)
    stamp_folder(src, gone, MARK, n_workers=1, strip_gps=True, quality=50)
    gps = lambda d: bool(Image.open(d/'d0/0000.jpg').getexif().get_ifd(0x8825))
    assert gps(src) and gps(kept) and not gps(gone) and Image.open(gone/'d0/0000.jpg').getexif()[0x010f] == 'maker'
    q = lambda d: Image.open(d/'d1/0001.jpg').quantization
    assert q(src) == q(kept) != q(gone)
    shutil.copy(src/'d0/0000.jpg', src/'top.jpg')
    stamp_folder(src, tmp_path/'flat', MARK, recursive=False, n_workers=1)
    assert set(contents(tmp_path/'flat')) == {'top.jpg'}
    flat = stamp_folder(src, tmp_path/'flat', MARK, recursive=False, n_workers=1)
    assert ('d0','a folder, which was not to be entered') in flat.left_out and flat.other == 3
    if shutil.which('jpegtran'):
        stamp_folder(src, lossless, MARK, n_workers=1, lossless=True)
        a,b = (Image.open(d/'d1/0001.jpg').convert('RGB') for d in (src,lossless))
        assert 0 < (np.asarray(a) != np.asarray(b)).any(-1).mean() < .5

def test_names_that_differ_in_case_only(tmp_path, jpegs, monkeypatch):
    "A drive that does not tell a.jpg from A.jpg would keep one of them"
    src,dst = tmp_path/'src',tmp_path/'dst'
    for rel in ('a.jpg','A.jpg','b.jpg','d/x.jpg','D/X.JPG','e\u0301.jpg','\u00e9.jpg'):
        (src/rel).parent.mkdir(parents=True, exist_ok=True)
        (src/rel).write_bytes(jpegs[0])
    assert stamp_folder(src, dst, MARK, n_workers=1).stamped == 7, 'this drive does'
    run = FolderRun(src, tmp_path/'other', MARK, n_workers=1)
    was = run._open_dst
    def opened():
        was()
        assert not run.one_case
        run.one_case = True
    monkeypatch.setattr(run, '_open_dst', opened)
    run.run()
    assert run.stamped == 4 and not run and {p for p,_ in run.failed} == {'a.jpg','d/x.jpg','\u00e9.jpg'}
    assert 'does not tell this name from A.jpg; rename one of them' in dict(run.failed)['a.jpg']

# ---- bad files

def test_17_goes_on_past_bad_files_and_names_them(src, tmp_path, jpegs, capfd):
    bad = add_bad(src, jpegs)
    for n_workers in (1,2):
        run = stamp_folder(src, tmp_path/f'dst{n_workers}', MARK, n_workers=n_workers)
        assert run.stamped == 6 and not run and {p for p,_ in run.failed} == set(bad)
        for p,reason in run.failed: assert bad[p] in reason and '\n' not in reason
        assert set(contents(tmp_path/f'dst{n_workers}')) == {f'd{i%3}/{i:04}.jpg' for i in range(6)}
        err = capfd.readouterr().err.splitlines()
        assert sorted(line.split(':')[0] for line in err) == sorted(bad), 'one line for each, and nothing else'
        assert '6 failed' in repr(run) and run.other == 0

def test_17_exit_status(src, tmp_path, jpegs):
    assert command(src, tmp_path/'dst', '--text', 'me').returncode == 0
    bad = add_bad(src, jpegs)
    res = command(src, tmp_path/'dst', '--text', 'me')
    assert res.returncode == 1 and '6 already there' in res.stdout and '6 failed' in res.stdout
    for p in bad: assert res.stderr.count(p) == 1 and p not in res.stdout, 'a failure is told once'

@pytest.mark.parametrize('n_workers', (1,2))
def test_17_ninety_megapixels_are_told_and_stamped(tmp_path, n_workers):
    (tmp_path/'src').mkdir()
    Image.new('L', (9500,9500), 90).save(tmp_path/'src/large.jpg', quality=20)
    Image.new('L', (40,40)).save(tmp_path/'src/small.jpg')
    res = command(tmp_path/'src', tmp_path/'dst', '--text', 'me', '--n_workers', n_workers)
    assert res.returncode == 0 and res.stdout.startswith('2 stamped')
    assert res.stderr == 'large.jpg: stamped, though its 90 megapixels are more than Pillow thinks safe\n'

def test_an_unreadable_folder_is_named(src, tmp_path):
    if os.geteuid()==0: pytest.skip('root may read everything')
    (src/'d1').chmod(0)
    run = stamp_folder(src, tmp_path/'dst', MARK, n_workers=1)
    (src/'d1').chmod(0o755)
    assert run.stamped == 4 and run.failed == [('d1','Permission denied')]

# ---- never overwrites, whole or not at all

def test_18_never_overwrites_by_default(src, tmp_path):
    dst = tmp_path/'dst'
    (dst/'d0').mkdir(parents=True)
    (dst/'d0/0000.jpg').write_text('mine')
    run = stamp_folder(src, dst, MARK, n_workers=1)
    assert (run.stamped, run.there) == (5,1) and (dst/'d0/0000.jpg').read_text() == 'mine'
    again = stamp_folder(src, dst, MARK, n_workers=2)
    assert (again.stamped, again.there) == (0,6) and (dst/'d0/0000.jpg').read_text() == 'mine'
    run = stamp_folder(src, dst, MARK, n_workers=1, overwrite=True)
    assert (run.stamped, run.there) == (6,0)
    assert Image.open(dst/'d0/0000.jpg').size == Image.open(src/'d0/0000.jpg').size

def test_18_a_link_back_to_the_source_is_not_followed(src, tmp_path):
    dst,before = tmp_path/'dst',contents(src)
    dst.mkdir()
    (dst/'d0').symlink_to(src/'d0')
    run = stamp_folder(src, dst, MARK, n_workers=1, overwrite=True)
    assert [p for p,_ in run.failed] and {Path(p).parent.name for p,
                                          _ in run.failed} == {'d0'} and contents(src) == before

def whole(folder, src):
    "Every file of `folder` is a whole picture; how many"
    files = contents(folder) if folder.exists() else {}
    for rel,data in files.items():
        assert not rel.endswith('.part'), rel
        im = Image.open(io.BytesIO(data))
        im.load()
        assert im.size == Image.open(src/rel).size
    return len(files)

def midway(dst, process, n=8):
    "Wait until `n` pictures are there"
    for _ in range(6000):
        if sum(1 for _ in dst.rglob('*.jpg')) >= n: return
        assert process.poll() is None, process.communicate()
        time.sleep(.01)
    raise AssertionError('nothing happened')

@pytest.fixture(scope='session')
def many(tmp_path_factory, jpegs):
    src = fill(tmp_path_factory.mktemp('many')/'src', jpegs, 200)
    dst = src.parent/'want'
    stamp_folder(src, dst, MARK, n_workers=1)
    return src,contents(dst)

ARGS = '--text', '© me', '--pos', 'random', '--size', '.2:.5', '--opacity', '.3:.9', '--rotate', '-30:30'

@pytest.mark.parametrize('sig,n_workers,group', [(signal.SIGINT,2,True), (signal.SIGTERM,2,False),
                                                 (signal.SIGINT,1,True)])
def test_18_interrupted_then_resumed(many, tmp_path, sig, n_workers, group):
    "Ctrl-C goes to all processes of a terminal's group; `kill` to one"
    src,want = many
    dst = tmp_path/'dst'
    p = subprocess.Popen([*CLI, str(src), str(dst), *ARGS, '--n_workers', str(n_workers)], env=ENV,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         text=True, start_new_session=True)
    midway(dst, p)
    (os.killpg if group else os.kill)(p.pid, sig)
    out,err = p.communicate(timeout=60)
    assert p.returncode == 130 and out == ''
    assert re.fullmatch(r'fastai-ext-watermark: interrupted after \d+ pictures; run it again to go on\n', err), err
    n = whole(dst, src)
    assert 8 <= n < 200
    res = command(src, dst, *ARGS, '--n_workers', 2)
    assert res.returncode == 0 and f'{200-n} stamped' in res.stdout and f'{n} already there' in res.stdout
    assert contents(dst) == want

def test_18_killed_outright(many, tmp_path):
    "SIGKILL leaves the main process no time; its workers finish their pictures and go"
    src,want = many
    dst = tmp_path/'dst'
    p = subprocess.Popen([*CLI, str(src), str(dst), *ARGS, '--n_workers', '2'], env=ENV, stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL)
    midway(dst, p)
    workers = psutil.Process(p.pid).children(recursive=True)
    p.kill()
    p.wait()
    _,alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
    assert 8 <= whole(dst, src) < 200
    stamp_folder(src, dst, MARK, n_workers=1)
    assert contents(dst) == want

def test_18_a_worker_that_dies_costs_nothing(many, tmp_path):
    src,want = many
    dst = tmp_path/'dst'
    p = subprocess.Popen([*CLI, str(src), str(dst), *ARGS, '--n_workers', '2'], env=ENV, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True)
    midway(dst, p)
    workers = [o for o in psutil.Process(p.pid).children(recursive=True) if 'serve()' in ' '.join(o.cmdline())]
    assert len(workers) == 2
    workers[0].kill()
    out,err = p.communicate(timeout=120)
    assert p.returncode == 0 and err == '' and {n:b for n,b in contents(dst).items() if not n.endswith('.part')} == want

def test_18_what_a_power_cut_left_is_swept(src, tmp_path, monkeypatch):
    (tmp_path/'dst/d0').mkdir(parents=True)
    old,new,mine = (tmp_path/'dst/d0'/n for n in ('.0000.jpg.123-456.part','.0003.jpg.123-456.part','.notes.part'))
    for p in (old,new,mine): p.write_bytes(b'half')
    os.utime(old, (0,0))  # a file on its way has the time of its source already, which may be long ago
    stamp_folder(src, tmp_path/'dst', MARK, n_workers=1)
    assert old.exists() and new.exists() and mine.exists()
    now = time.time
    monkeypatch.setattr(time, 'time', lambda: now()+7200)
    stamp_folder(src, tmp_path/'dst', MARK, n_workers=1)
    assert not old.exists() and not new.exists() and mine.exists()

DIES = '''
import os
from fastai_ext.vision.mark import Mark
class DiesOn(Mark):
    "A mark that kills the process on pictures of one size, as too little memory does"
    def place(self, size, *args):
        if size==(13,13): os._exit(9)
        return super().place(size, *args)
'''

def test_a_picture_that_kills_its_worker_is_named(src, tmp_path, monkeypatch):
    (tmp_path/'dies_on.py').write_text(DIES)
    monkeypatch.syspath_prepend(tmp_path)
    from dies_on import DiesOn
    for p in list(src.rglob('*.jpg'))[2:]: p.unlink()
    Image.new('RGB', (13,13)).save(src/'killer.png')
    run = stamp_folder(src, tmp_path/'dst', DiesOn('me'), n_workers=2)
    assert run.stamped == 2 and run.failed == [('killer.png','the process that worked on it died (too little memory?)')]

# ---- nothing can be done: one clear line

@pytest.mark.parametrize('args,says', [
    (('{src}','{src}'), 'is, or lies inside, the source'), (('{src}','{src}/d0/out'), 'is, or lies inside, the source'),
    (('{src}/d0','{src}'), 'lies inside the destination'),
    (('{src}','{tmp}/link/out'), 'is, or lies inside, the source'), (('{tmp}/gone','{tmp}/dst'), 'there is no folder'),
    (('{src}/d0/0000.jpg','{tmp}/dst'), 'is not a folder'),
    (('{tmp}/empty','{tmp}/dst'), 'there are no pictures in'), (('{src}','{src}/d0/0000.jpg/x'), 'is, or lies inside'),
    (('{src}','{tmp}/file/x'), 'cannot write into'),
    (('{src}','{tmp}/dst','--opacity','1.5'), 'opacity=1.5'), (('{src}','{tmp}/dst','--quality','200'), 'quality=200'),
    (('{src}','{tmp}/dst','--n_workers','0'), 'n_workers=0'),
    (('{src}','{tmp}/dst','--text','日本'), 'no glyph'),
    (('{src}','{tmp}/dst','--lossless','--quality','80'), "leave quality='keep'"),
    (('{src}','{tmp}/dst','--font','No Such Font'), 'no font is called'),
    (('{src}','{tmp}/dst','--report','{src}/d0/0000.jpg'), 'is the name of a picture'),
])
def test_one_clear_line(src, tmp_path, capfd, args, says):
    (tmp_path/'empty').mkdir()
    (tmp_path/'empty/notes.txt').write_text('x')
    (tmp_path/'file').write_text('x')
    (tmp_path/'link').symlink_to(src)
    before = contents(tmp_path)
    args = [a.format(src=src, tmp=tmp_path) for a in args]
    assert main([*args, *(() if '--text' in args else ('--text','me'))]) == 2
    out,err = capfd.readouterr()
    assert says in err and err.count('\n') == 1 and out == '' and contents(tmp_path) == before

@pytest.mark.parametrize('logo,says', [('gone.png','there is no logo file'), ('broken.png','not a picture'),
                                       ('cut.jpg','cannot be read')])
def test_a_bad_logo(src, tmp_path, jpegs, capfd, logo, says):
    (tmp_path/'broken.png').write_text('x')
    (tmp_path/'cut.jpg').write_bytes(jpegs[0][:3000])
    assert main([str(src), str(tmp_path/'dst'), '--logo', str(tmp_path/logo)]) == 2
    err = capfd.readouterr().err
    assert says in err and err.count('\n') == 1 and not (tmp_path/'dst').exists()

@pytest.mark.parametrize('args,says', [
    ((), 'required'), (('a','b'), 'one of the arguments --text --logo is required'),
    (('a','b','--text','x','--logo','y'), 'not allowed with'),
    (('a','b','--text','x','--size','big'), "invalid number or LOW:HIGH value: 'big'"),
    (('a','b','--text','x','--fit','bend'), 'invalid choice'),
    (('a','b','--text','x','--n_workers','two'), 'invalid int value'),
])
def test_argument_errors(args, says, capfd):
    with pytest.raises(SystemExit, match='2'): main(list(args))
    assert says in capfd.readouterr().err

def in_namespace(script):
    "Run a shell script where mounting is allowed and concerns nobody else"
    probe = shutil.which('unshare') and subprocess.run(['unshare','-rm','mount','-t','tmpfs','tmpfs','/mnt'],
                                                       capture_output=True, timeout=120)
    if not probe or probe.returncode: pytest.skip('mounting in a namespace is not allowed here')
    return subprocess.run(['unshare','-rm','sh','-c',script], env=ENV, capture_output=True, text=True, timeout=120)

def shell(*args): return shlex.join(map(str, args))

def test_18_a_read_only_destination(src, tmp_path):
    (tmp_path/'dst').mkdir()
    run = shell(*CLI, src, tmp_path/'dst', '--text', 'me')
    res = in_namespace(f'mount -t tmpfs -o ro tmpfs {tmp_path}/dst && {run}')
    assert res.returncode == 2
    says = f'stamp_folder: cannot write into {tmp_path}/dst: Read-only file system'
    assert res.stderr == f'fastai-ext-watermark: {says}\n'

@pytest.mark.parametrize('n_workers', (1,2))
def test_18_a_full_disk_stops_the_run(src, tmp_path, n_workers):
    (tmp_path/'dst').mkdir()
    run = shell(*CLI, src, tmp_path/'dst', '--text', 'me', '--n_workers', n_workers)
    res = in_namespace(f"mount -t tmpfs -o size=400k tmpfs {tmp_path}/dst && {run}; code=$?; ls -AR {tmp_path}/dst; "
                       "exit $code")
    assert res.returncode == 2 and 'No space left on device' in res.stderr and res.stderr.count('\n') == 1
    assert '.part' not in res.stdout

def test_18_a_disk_of_two_megabytes_holds_whole_pictures_only(tmp_path):
    "Forty pictures of 170 kB: the disk is full in the middle of one"
    src = tmp_path/'src'
    src.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (300,400,3), dtype=np.uint8)
    for i in range(40): Image.fromarray(np.roll(noise, i, 0)).save(src/f'{i:02}.jpg', quality=97)
    assert 150_000 < (src/'00.jpg').stat().st_size < 260_000
    (tmp_path/'dst').mkdir()
    run = shell(*CLI, src, tmp_path/'dst', '--text', 'x', '--n_workers', 2)
    res = in_namespace(f"mount -t tmpfs -o size=2m none {tmp_path}/dst && {run}; cp -a {tmp_path}/dst {tmp_path}/kept; "
                       f"{run}; cp -a {tmp_path}/dst {tmp_path}/again")
    assert res.stderr.count('No space left on device') == 2, res.stderr
    assert whole(tmp_path/'kept', src) >= 3 and whole(tmp_path/'again', src) >= 3

@pytest.mark.parametrize('n', (1, 4096, 20_000))
def test_18_a_quota_leaves_nothing_cut(src, tmp_path, n):
    "A limit on file sizes is a real short write: the system takes a part and refuses the rest"
    code = ("import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
            f"resource.setrlimit(resource.RLIMIT_FSIZE, ({n},{n})); "
            "from fastai_ext.vision.command import main; sys.exit(main())")
    res = subprocess.run([sys.executable, '-c', code, src, tmp_path/'dst', '--text', 'me', '--n_workers', '1'], env=ENV,
                         capture_output=True, text=True, timeout=120)
    assert res.returncode in (1,2) and 'File too large' in res.stderr, res.stderr
    assert whole(tmp_path/'dst', src) == 0

CALLS = 'open','fstat','stat','fsync','link','utime','chmod'

@pytest.mark.parametrize('call', CALLS)
@pytest.mark.parametrize('error', (errno.EIO, errno.ENOSPC, errno.EDQUOT))
def test_18_an_error_at_any_call_leaves_the_old_file_or_the_whole_new_one(src, tmp_path, monkeypatch, call, error):
    """A network drive may fail at any of them.

    Those for what the system need not allow (links, times, modes) may fail without harm."""
    a,b = src/'d0/0000.jpg',tmp_path/'b.jpg'
    want = tmp_path/'want.jpg'
    save_stamped(a, want, MARK)
    for overwrite in (False,True):
        b.unlink(missing_ok=True)
        if overwrite: b.write_bytes(b'old')
        with monkeypatch.context() as m:
            def fails(*args, **kw): raise OSError(error, os.strerror(error))
            if call == 'open': m.setattr(whole_module, 'open', fails, raising=False)
            else: m.setattr(whole_module, 'os', Patched(call, fails))
            try: save_stamped(a, b, MARK, overwrite=overwrite)
            except OSError as e: assert e.errno == error and (not b.exists() or b.read_bytes() == b'old')
            else: assert call in ('link','utime','chmod','fstat') and b.read_bytes() == want.read_bytes()
        assert not [p for p in tmp_path.iterdir() if p.suffix == '.part']

class Patched:
    "The module `os` with one function replaced"
    def __init__(self, name, f): self.__dict__[name] = f
    def __getattr__(self, n): return getattr(os, n)

class Late(io.FileIO):
    "A file on a drive that reports at the end what it could not store, or stores less than it says"
    how = ''
    def write(self, data):
        if self.how == 'less': return super().write(data[:len(data)//2]) and len(data)
        return super().write(data[:1000]) if self.how == 'short' else super().write(data)
    def close(self):
        failing = self.how == 'close' and not self.closed
        super().close()
        if failing: raise OSError(errno.EDQUOT, 'Disk quota exceeded')

@pytest.mark.parametrize('how,says', [('close','quota'), ('less','bytes were stored'), ('short','')])
def test_18_a_drive_that_fails_late(src, tmp_path, monkeypatch, how, says):
    monkeypatch.setattr(Late, 'how', how)
    monkeypatch.setattr(whole_module, 'open', lambda path, mode, buffering: Late(path, mode), raising=False)
    if says:
        with pytest.raises(OSError, match=says): save_stamped(src/'d0/0000.jpg', tmp_path/'b.jpg', MARK)
        assert not (tmp_path/'b.jpg').exists()
    else:
        save_stamped(src/'d0/0000.jpg', tmp_path/'b.jpg', MARK)
        Image.open(tmp_path/'b.jpg').load()
    assert sorted(p.name for p in tmp_path.iterdir()) == (['src'] if says else ['b.jpg','src'])

def test_18_killed_at_random_moments(many, tmp_path):
    "Here a few times; benchmarks/watermark_kill.py does it two hundred times"
    src,want = many
    rng,dst = random.Random(0),tmp_path/'dst'
    for _ in range(3):
        kill_after(rng.uniform(0, .3), src, dst)
        assert whole(dst, src) > 0
    stamp_folder(src, dst, MARK, n_workers=1)
    assert {n:b for n,b in contents(dst).items() if not n.endswith('.part')} == want

def kill_after(seconds, src, dst):
    "Kill a run and its workers outright; what is under a final name afterwards is whole"
    p = subprocess.Popen([*CLI, str(src), str(dst), *ARGS, '--n_workers', '2', '--quiet'], env=ENV,
                         stderr=subprocess.DEVNULL)
    before = len(list(dst.rglob('*.jpg')))
    while len(list(dst.rglob('*.jpg'))) <= before and p.poll() is None: time.sleep(.005)  # it has begun
    time.sleep(seconds)
    for o in [psutil.Process(p.pid), *psutil.Process(p.pid).children(recursive=True)]:
        with contextlib.suppress(psutil.Error): o.kill()
    p.wait(30)
    for part in dst.rglob('*.part') if dst.exists() else (): part.unlink()

# ---- what a second run knows

def test_13_a_second_run_knows_of_which_picture_and_which_mark(src, tmp_path, capfd):
    dst = tmp_path/'dst'
    def command(*args):
        code = main([*map(str, args), '--n_workers', '1'])
        return subprocess.CompletedProcess(args, code, *capfd.readouterr())
    assert command(src, dst, '--text', 'one').returncode == 0
    again = command(src, dst, '--text', 'one')
    assert again.returncode == 0 and again.stdout == '0 stamped, 6 already there\n'
    other = command(src, dst, '--text', 'two')
    assert other.returncode == 1 and '6 of those already there have another mark' in other.stdout
    assert '--update' in other.stdout
    before = contents(dst)
    Image.open(src/'d0/0000.jpg').rotate(180).save(src/'d0/0000.jpg', quality=90)
    edited = command(src, dst, '--text', 'one')
    assert edited.returncode == 1 and '1 of those already there are of a picture that was edited' in edited.stdout
    assert contents(dst) == before
    updated = command(src, dst, '--text', 'one', '--update')
    assert updated.returncode == 0 and updated.stdout == '1 stamped, 5 already there\n'
    assert {n for n,b in contents(dst).items() if b != before[n]} == {'d0/0000.jpg'}
    assert command(src, dst, '--text', 'two', '--update').stdout == '6 stamped\n'
    (dst/'d1/0001.jpg').write_bytes(b'of the user')
    mine = command(src, dst, '--text', 'three', '--update')
    assert '5 stamped' in mine.stdout and '1 of those already there were made by no run' in mine.stdout
    assert (dst/'d1/0001.jpg').read_bytes() == b'of the user', '--update replaces only what a run made'

def test_13_settings_count_and_the_order_of_workers_does_not(src, tmp_path):
    run = stamp_folder(src, tmp_path/'dst', MARK, n_workers=2)
    assert run.behind == stamp_folder(src, tmp_path/'dst', MARK, n_workers=1).behind == 0
    assert len(stamp_folder(src, tmp_path/'dst', MARK, n_workers=1, seed=1).outdated) == 6
    assert len(stamp_folder(src, tmp_path/'dst', MARK.new(opacity=.5), n_workers=1).outdated) == 6
    (tmp_path/'dst'/RECORD).unlink()
    assert stamp_folder(src, tmp_path/'dst', MARK, n_workers=1).unknown == 6

def test_15_16_long_names_and_what_the_system_knows_of_a_file(tmp_path, jpegs):
    src = tmp_path/'src'
    src.mkdir()
    names = ['x'*n+'.jpg' for n in (230, 236, 240, 244, 251)]
    for n in names:
        (src/n).write_bytes(jpegs[0])
        (src/n).chmod(0o600)
        os.utime(src/n, ns=(10**18+7, 10**18+123_456_789))
    if os.geteuid() == 0: os.chown(src/names[0], 1234, 4321)
    run = stamp_folder(src, tmp_path/'dst', MARK, n_workers=1)
    assert run.stamped == 5 and run.failed == []
    for n in names:
        a,b = (src/n).stat(),(tmp_path/'dst'/n).stat()
        assert (a.st_mode, a.st_mtime_ns, a.st_uid, a.st_gid) == (b.st_mode, b.st_mtime_ns, b.st_uid, b.st_gid)

# ---- every file is accounted for

def test_17_every_file_is_named_with_its_reason(src, tmp_path):
    for n in ('notes.txt','b.psd','c.nef','d.svg','e.jxl'): (src/n).write_bytes(b'x')
    shutil.copy(src/'d0/0000.jpg', src/'no_suffix')
    (src/'link').symlink_to(src/'d1')
    report,dst = tmp_path/'report.jsonl',tmp_path/'dst'
    plan = command(src, dst, '--text', 'me', '--dry_run', '--report', report)
    assert plan.returncode == 0 and not dst.exists() and '6 to stamp of 13 files; nothing was written' in plan.stdout
    for n,why in (('b.psd','convert it first'), ('c.nef','raw file'), ('no_suffix','a picture of kind JPEG'),
                  ('link','link to a folder'), ('d0/0000.jpg','')):
        assert any(n in line and why.removeprefix('a picture of kind ') in line for line in plan.stdout.splitlines()), n
    run = command(src, dst, '--text', 'me', '--report', report)
    lines = [json.loads(o) for o in report.read_text().splitlines()]
    assert len(lines) == 13 and sum(o['what'] == 'stamped' for o in lines) == 6
    assert sum(o['what'] == 'left out' for o in lines) == 7
    assert all(o['why'] for o in lines if o['what'] == 'left out') and '7 other files left out' in run.stdout
    assert 'c.nef: a raw file' in run.stdout

def test_17_a_folder_of_unknown_formats_says_which(tmp_path):
    (tmp_path/'src').mkdir()
    (tmp_path/'src/a.psd').write_bytes(b'x')
    res = command(tmp_path/'src', tmp_path/'dst', '--text', 'me')
    assert res.returncode == 2 and 'there are no pictures' in res.stderr
    assert 'a.psd: Pillow does not write PSD' in res.stderr

@pytest.mark.parametrize('n_workers', (1,2))
def test_18_warnings_name_their_picture(src, tmp_path, n_workers):
    data = (src/'d0/0000.jpg').read_bytes()
    (src/'odd.jpg').write_bytes(data[:2]+b'\xff\xe1\x00\x1aExif\0\0II*\0\xff\xff\xff\xff'+b'\0'*10+data[2:])
    res = command(src, tmp_path/'dst', '--text', 'me', '--n_workers', n_workers)
    assert res.returncode == 0 and all(line.startswith('odd.jpg: ') for line in res.stderr.splitlines()), res.stderr

# ---- light, bounded

def test_workers_import_nothing_heavy_and_never_run_the_script_again(src, tmp_path):
    (tmp_path/'spy.py').write_text(f"""
import sys
from fastai_ext.vision.mark import Mark
class Spy(Mark):
    def place(self, *args):
        res = super().place(*args)
        heavy = 'torch','fastai','fastcore','matplotlib','numpy'
        with open({str(tmp_path/'log')!r}, 'a') as f: print([m for m in heavy if m in sys.modules], file=f)
        return res
""")
    script = tmp_path/'script.py'  # without `if __name__ == '__main__'`
    script.write_text("import sys, torch\nprint('ran')\nfrom spy import Spy\nfrom fastai_ext.vision.folder import "
                      "stamp_folder\n"
                      "print(stamp_folder(sys.argv[1], sys.argv[2], Spy('me'), n_workers=2))\nassert __file__ and "
                      "'__spec__' in globals()\n")
    env = {**ENV, 'PYTHONPATH': f'{root}{os.pathsep}{tmp_path}'}
    res = subprocess.run([sys.executable, script, src, tmp_path/'dst'], env=env, capture_output=True, text=True,
                         timeout=120)
    assert res.returncode == 0 and res.stdout.startswith('ran\n6 stamped') and res.stdout.count('ran') == 1, res.stderr
    assert (tmp_path/'log').read_text() == '[]\n'*6

def test_help_and_argument_errors_come_before_heavy_imports():
    for args,code in ((['--help'],0), (['a'],2)):
        res = subprocess.run([sys.executable, '-X', 'importtime', *CLI[1:], *args], env=ENV, capture_output=True,
                             text=True, timeout=120)
        assert res.returncode == code and not re.search(r'\| +(PIL|numpy|torch|fastai|matplotlib)\b', res.stderr)

def test_every_argument_of_a_mark_has_an_option():
    ours = {a.dest:a.default for a in watermark_parser()._actions}
    for n,p in inspect.signature(Mark.__init__).parameters.items():
        if n=='self': continue
        assert ours[n] == p.default, n
    ours = set(ours)
    for n in inspect.signature(stamp_folder).parameters:
        assert n in ours or n in ('mark','options','executor','progress','orient','recursive','split'), n
    assert {'no_orient','flat','quiet'} <= ours

def test_values_on_the_command_line(src, tmp_path):
    a,b = tmp_path/'a',tmp_path/'b'
    main([str(src), str(a), '--text', r'two\nlines', '--pos', '.1:.9,1', '--rotate', '-20:-10', '--color', '10,200,30',
          '--stroke-color', '#102030',
            '--stroke', '.05',
          '--n-workers', '1', '--seed', '7', '--opacity=.5', '--quiet'])
    stamp_folder(src, b, Mark('two\nlines', pos=((.1,.9),1), rotate=(-20,-10), color=(10,200,30),
                              stroke_color='#102030', stroke=.05, opacity=.5),
            n_workers=1, seed=7)
    assert contents(a) == contents(b) and len(contents(a)) == 6
    main([str(src), str(tmp_path/'c'), '--text', 'me', '--pos', 'tl,br', '--n_workers', '1'])
    stamp_folder(src, tmp_path/'d', Mark('me', pos=['tl','br']), n_workers=1)
    assert contents(tmp_path/'c') == contents(tmp_path/'d')

class Counting(Executor):
    "A thread pool that notes how many tasks are handed out and not yet done"
    def __init__(self): self.pool,self.now,self.most = ThreadPoolExecutor(2),0,0
    def submit(self, *args) -> Future:
        self.now += 1
        self.most = max(self.most, self.now)
        f = self.pool.submit(*args)
        f.add_done_callback(lambda _: setattr(self, 'now', self.now-1))
        return f

def test_few_tasks_are_under_way_at_once(many, tmp_path):
    ex = Counting()
    assert stamp_folder(many[0], tmp_path/'dst', MARK, executor=ex, n_workers=1).stamped == 200
    assert 1 < ex.most <= 4

def test_the_tree_is_walked_and_not_listed(src):
    found = walk_pictures(src)
    assert next(found)[0] == 'picture'
    (src/'d0/late.jpg').write_bytes(b'')
    (src/'late').mkdir()
    assert len(list(found)) >= 5

def test_stop_from_a_thread(many, tmp_path):
    run = FolderRun(many[0], tmp_path/'dst', MARK, n_workers=2)
    with ThreadPoolExecutor(1) as ex:
        f = ex.submit(run.run)
        while run.stamped < 5: time.sleep(.01)
        run.stop()
        f.result(60)
    assert 5 <= run.stamped < 200 and whole(tmp_path/'dst', many[0]) == run.stamped

def test_a_bar_in_a_terminal(src, tmp_path, capfd):
    run = stamp_folder(src, tmp_path/'dst', MARK, n_workers=1, progress=True)
    err = capfd.readouterr().err
    assert run.total == 6 and re.search(r'\r\d/6  \d+%  [\d.]+ pictures/s  \d:\d\d left', err) and err.endswith('\r')

def test_what_is_not_there_is_named_in_the_walk(tmp_path):
    "A folder that another program takes away while a run begins"
    (kind,rel,error),= walk_pictures(tmp_path/'gone')
    assert (kind,rel) == ('failed','') and isinstance(error, FileNotFoundError)

def test_without_its_extra_a_heic_is_left_out_by_name(tmp_path, monkeypatch):
    from fastai_ext.vision.files import find
    monkeypatch.setitem(sys.modules, 'pillow_heif', None)
    monkeypatch.setattr(find, 'has_heif', find.has_heif.__wrapped__)
    assert find.left_out(tmp_path/'a.HEIC') == "HEIC needs pillow-heif: pip install 'fastai_ext[heif]'"

def test_what_a_record_says_of_a_source_that_is_gone(src, tmp_path):
    run = stamp_folder(src, tmp_path/'dst', MARK, n_workers=1)
    record,rel = Record(tmp_path/'dst'),os.path.join('d0', '0000.jpg')
    def says(): return record.state(rel, src/rel, tmp_path/'dst'/rel, run.digest)
    assert says() == 'same'
    (src/rel).unlink()
    assert says() == 'unknown'

def test_a_mark_of_a_class_that_other_processes_cannot_import(src, tmp_path):
    "Typed in an interpreter, for example"
    code = ('import sys; from fastai_ext.vision.folder import stamp_folder; from fastai_ext.vision.mark import Mark\n'
            'class Mine(Mark): pass\n'
            'stamp_folder(sys.argv[1], sys.argv[2], Mine("me"), n_workers=2)')
    res = subprocess.run([sys.executable, '-c', code, src, tmp_path/'dst'], env=ENV, capture_output=True, text=True)
    assert 'ValueError: stamp_folder: other processes cannot import Mine from here' in res.stderr
    assert not (tmp_path/'dst').exists()

# ---- what a worker does, step by step

def job_for(src, dst, mark=MARK):
    return pickle.dumps(workers.Job(str(src), str(dst), mark, stamp_options('here'), 'ab'))

def test_a_worker_reads_its_job_and_runs_the_script_first(src, tmp_path):
    "The class of a mark may be defined in the script that asked for workers, which must not start over"
    script = tmp_path/'own.py'
    script.write_text('from fastai_ext.vision.mark import Mark\n'
                      'class Mine(Mark): pass\n'
                      'if __name__ == "__main__": raise SystemExit("runs again")')
    mains = sys.modules['__main__'],sys.modules.get('__mp_main__')
    try:
        module = runpy.run_path(str(script), run_name='__mp_main__')
        sys.modules['__mp_main__'] = types.SimpleNamespace(**module)
        sent = job_for(src, tmp_path/'dst', module['Mine']('me'))
        read = workers._job_of(io.BytesIO(pickle.dumps((str(script), sent))))
        assert type(read.mark).__name__ == 'Mine' and read.mark.text == 'me' and read.src == str(src)
        del sys.modules['__mp_main__']
        bad = workers._job_of(io.BytesIO(pickle.dumps((None, sent))))
    finally:
        sys.modules['__main__'] = mains[0]
        sys.modules.pop('__mp_main__', None)
        if mains[1] is not None: sys.modules['__mp_main__'] = mains[1]
    assert isinstance(bad, ValueError) and 'a worker could not load the mark' in str(bad) and 'n_workers=1' in str(bad)

def test_a_pool_that_is_told_to_stop_ends_what_it_began(src, tmp_path):
    "Task by task: those not begun are cancelled, none is left half done"
    pool = workers.Pool(1, job_for(src, tmp_path/'dst'))
    names = sorted(p.relative_to(src).as_posix() for p in src.rglob('*.jpg'))
    tasks = [pool.submit([(name, False, i)]) for i,name in enumerate(names, 1)]
    first, = tasks[0].result()
    pool.stop()
    pool.close()
    done = [t for t in tasks if not t.cancelled()]
    assert first.kind == 'stamped' and len(done) < len(tasks) and all(t.result()[0].kind == 'stamped' for t in done)
    assert sorted(contents(tmp_path/'dst')) == names[:len(done)]
