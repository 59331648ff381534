"Hands the requirements in settings.ini to the build; everything else stands in pyproject.toml."
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

path = Path(__file__).resolve().parent/'settings.ini'
config = ConfigParser(inline_comment_prefixes=('#',))
with path.open(encoding='utf-8') as f: config.read_file(f)  # a missing file is an error, never an empty list
settings = config['DEFAULT']
suffix = '_requirements'

setup(
    install_requires=settings['requirements'].split('\n')[1:],
    extras_require={k.removesuffix(suffix): v.split('\n')[1:] for k,v in settings.items() if k.endswith(suffix)},
)
