"Sphinx: how the pages written by build.py become the site"
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import fastai_ext
from nbdev.config import get_config

project = 'fastai_ext'
author = copyright = 'the fastai_ext developers'
version = release = fastai_ext.__version__
root_doc = 'index'
extensions = ['myst_nb', 'sphinx_copybutton', 'mathml', 'search']
exclude_patterns = ['**/.ipynb_checkpoints']

nb_execution_mode = 'off'      # the committed outputs are shown
nb_merge_streams = True
nb_code_prompt_show = nb_code_prompt_hide = 'Code'
myst_enable_extensions = ['amsmath', 'attrs_block', 'attrs_inline', 'colon_fence', 'deflist', 'dollarmath']
myst_heading_anchors = 4
myst_heading_slug_func = 'slug.slug'
html_math_renderer = 'mathml'

html_theme = 'furo'
pygments_dark_style = 'github-dark'
html_title = f'fastai_ext {release}'
html_static_path = ['static']
html_css_files = ['style.css']
html_js_files = [('page.js', {'priority': 300})]
html_copy_source = html_show_sourcelink = False
html_show_sphinx = False
html_theme_options = dict(
    light_css_variables={'color-brand-primary':'#0b6e6e', 'color-brand-content':'#0b6e6e',
                         'color-brand-visited':'#3d6486'},
    dark_css_variables={'color-brand-primary':'#5fd0c5', 'color-brand-content':'#5fd0c5',
                        'color-brand-visited':'#9cc3dd', 'color-code-background':'#1c1f22'},
)
# [project.urls] in pyproject.toml: then pages link to their notebooks
if repository := get_config(Path(__file__).parent).get('git_url'):
    html_theme_options.update(source_repository=repository, source_branch='main', source_directory='nbs/')
python_display_short_literal_types = True
add_module_names = False
toc_object_entries = False
copybutton_prompt_text = '$ '
