"""Where a name in back-ticks leads: our own page, or the documentation of fastai, fastcore, PyTorch, numpy, pandas,
scikit-learn"""
import re
from importlib import import_module

from nbdev.doclinks import NbdevLookup

# as everybody imports them
short = {'nn':'torch.nn', 'F':'torch.nn.functional', 'optim':'torch.optim', 'np':'numpy', 'pd':'pandas'}
sk_modules = ('ensemble tree metrics datasets inspection model_selection linear_model preprocessing decomposition '
              'neighbors pipeline').split()
words = re.compile(r'(`+)(?!`)(.+?)(?<!`)\1(?!`)')
paper = re.compile(r'(?<![\[/\w.])(?:arXiv[: ](\d{4}\.\d{4,5})|doi:(10\.\d{4,9}/[^\s)\]]+[\w]))(?!\w|\])')
name_re = re.compile(r'[A-Za-z_][\w.]*(?:\(\))?')

def _sklearn():
    "Map sklearn's public names, bare and dotted, to their pages"
    res = {}
    for m in sk_modules:
        mod = import_module(f'sklearn.{m}')
        for k in mod.__all__:
            url = f'https://scikit-learn.org/stable/modules/generated/sklearn.{m}.{k}.html'
            res[f'sklearn.{m}.{k}'] = url
            if k[0].isupper() or '_' in k: res.setdefault(k, url)
    return res

def cited(m):
    "A link to the paper that arXiv or a DOI knows by the number in the match `m`"
    return f'[arXiv {m[1]}](https://arxiv.org/abs/{m[1]})' if m[1] else f'[doi:{m[2]}](https://doi.org/{m[2]})'

class Links:
    "Our own shown objects by every name a page may use for them, then those of others"
    def __init__(self, pages):
        self.own,self.modules,self.params = {},{},set()
        for page,nb in pages.items():
            if nb.module:
                for k in (nb.module, nb.module.removeprefix('fastai_ext.')): self.modules[k] = page
            for c in nb.cells:
                if getattr(c, 'show', None): self._add(c.show)
        self.others,self.sk = NbdevLookup(strip_libs='fastai fastcore'),_sklearn()

    def _add(self, rec):
        full = f'{rec.module}.{rec.name}'
        for k in (rec.name, full, full.removeprefix('fastai_ext.')): self.own.setdefault(k, full)
        self.params |= {p.name for p in rec.params}
        for m in rec.members: self._add(m)

    def find(self, name):
        "Return the MyST link to `name`, or None"
        bare = name.removesuffix('()')
        if bare in self.own: return f'{{py:obj}}`{name} <{self.own[bare]}>`'
        if '.' in bare and bare in self.modules: return f'[`{name}`](/{self.modules[bare]}.ipynb)'
        if bare in self.params or len(bare) < 2 and bare != 'L': return None
        head,_,rest = bare.partition('.')
        full = f'{short[head]}.{rest}' if rest and head in short else bare
        url = self.others.doc(full) or self.sk.get(full)
        if not url or not (rest or bare[0].isupper() or '_' in bare): return None  # a lone small word is seldom a name
        return f'[`{name}`]({url})'

    def line(self, text):
        "Link the names in back-ticks in one line of Markdown, but not those that already stand in a link"
        def one(m):
            if len(m[1]) > 1 or not name_re.fullmatch(m[2]): return m[0]
            before,after = text[:m.start()],text[m.end():]
            if before.endswith(('[','}')) or after.startswith('](') or before.count('[') > before.count(']'):
                return m[0]
            return self.find(m[2]) or m[0]
        return paper.sub(cited, words.sub(one, text))

    def code(self, name):
        "`name` in code style, linked where it is known"
        return self.find(name) or f'`{name}`'
