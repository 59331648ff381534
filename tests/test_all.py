"`from fastai_ext.all import *` gives what the pages promise, and takes nothing of fastai's away"
import subprocess, sys

from conftest import root

def run(code):
    res = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], cwd=root, capture_output=True, text=True)
    assert res.returncode == 0, res.stderr[-3000:]
    return res.stdout.split()

def test_the_names_of_the_four_families_are_there():
    run("from fastai_ext.all import *\nInit, L1, tree_learner, ensemble, Mark, Watermark, stamp, check_callback")

def test_no_name_of_fastai_is_taken():
    star = "from fastai.vision.all import *\nfrom fastai.tabular.all import *\nfrom fastai.text.all import *\n"
    code = (f"a = {{}}\nexec({star!r}, a)\nimport fastai_ext.all as m\n"
            "print(*[o for o in m.__all__ if o in a and a[o] is not getattr(m, o)])")
    # the HTML element <mark> of fastcore, which fastai's star passes on; nobody means it
    assert set(run(code)) <= {'Mark'}
