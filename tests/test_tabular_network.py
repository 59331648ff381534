"Networks whose numbers are read in pieces: against rtdl_num_embeddings, through the safe file, the best epoch kept"
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.torch_core import set_seed
from sklearn.datasets import make_friedman1
from fastai_ext.tabular.auto import fit_tabular
from fastai_ext.tabular.dls import tabular_dls
from fastai_ext.tabular.embed import embed_features
from fastai_ext.tabular.files import load_tree_learner
from fastai_ext.tabular.network import InPieces, network_for, network_from_state, network_shape, network_state
from fastai_ext.tabular.pieces import PiecewiseLinear, piece_edges

def table(n=400, seed=0):
    x,y = make_friedman1(n, n_features=5, noise=.1, random_state=seed)
    df = pd.DataFrame(x, columns=list('abcde')).assign(kind=np.where(x[:,0] > .5, 'high', 'low'))
    df.loc[::9,'b'] = np.nan
    return df.assign(y=y, two=np.where(y > 14, 'yes', 'no'), l1=y > 12, l2=x[:,3] > .3)

targets = dict(value=['y'], several=['y','e'], two=['two'], labels=['l1','l2'])

def data(target, **kwargs):
    ys = targets[target]
    df = table()
    return tabular_dls(df.drop(columns=[n for n in ('y','two','l1','l2') if n not in ys]),
                       ys if len(ys) > 1 else ys[0], **dict(valid=range(300,400))|kwargs)

def test_pieces_are_those_of_rtdl():
    rtdl = pytest.importorskip('rtdl_num_embeddings')
    x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    x[:,2] = x[:,2].round()                       # few values, so fewer pieces than the others
    edges = rtdl.compute_bins(x, 12)
    ours = piece_edges(x.numpy(), 12)
    for a,b in zip(edges, ours, strict=True): assert np.allclose(a, b, atol=1e-6)
    pieces = PiecewiseLinear(ours, 4)
    full = rtdl.PiecewiseLinearEncoding([torch.as_tensor(e, dtype=torch.float32) for e in ours])(x)
    code = torch.cat([pieces.encode(x)[:,i,:len(e)-1] for i,e in enumerate(ours)], 1)
    assert torch.allclose(code, full, atol=1e-4)  # all of x lies between its outer edges

def test_what_lies_outside_goes_on_as_a_straight_line():
    pieces = PiecewiseLinear(piece_edges(np.random.RandomState(0).randn(99, 1), 8), 3)
    torch.nn.init.normal_(pieces.weight)
    out = pieces(torch.tensor([[10.],[11.],[12.]]))
    grows = torch.where(pieces.line[0]*10+pieces.bias[0] > 0, pieces.line[0], 0.)
    assert torch.allclose(out[1]-out[0], grows, atol=1e-5) and torch.allclose(out[2]-out[1], grows, atol=1e-5)

@pytest.mark.parametrize('target', list(targets))
def test_a_network_in_pieces_learns_and_comes_back_to_the_bit(target):
    set_seed(0, reproducible=True)
    dls = data(target)
    learn = network_for(dls)
    assert learn.dls is dls and InPieces in map(type, learn.model.modules())
    with learn.no_bar(): p,y = learn.get_preds()
    if target in ('value','several'):
        y = y.view(len(y), -1)[:,0]
        assert ((p[:,0]-y)**2).mean() < .3*y.var()
    elif target=='two': assert (p.argmax(1) == y.view(-1)).float().mean() > .75
    else: assert ((p > .5) == y).float().mean() > .75
    kind = dict(two='class', labels='label').get(target, 'value')
    again = network_from_state(*network_state(learn), dls, kind)
    with again.no_bar(): assert torch.equal(again.get_preds()[0], p)
    assert network_shape(learn.model)['pieces'][2] == 8

def test_the_best_epoch_is_kept():
    set_seed(0, reproducible=True)
    learn = network_for(data('two'), n_epoch=30, lr=.05)
    losses = [v[1] for v in learn.recorder.values]
    assert int(np.argmin(losses)) < 29                      # it went on past its best
    with learn.no_bar(): assert np.isclose(learn.validate()[0], min(losses), rtol=1e-5)

def test_a_network_without_validation_rows_or_numbers():
    set_seed(0, reproducible=True)
    assert torch.isfinite(next(network_for(data('value', valid=[])).model.parameters())).all()
    df = table()[['kind','two']]
    learn = network_for(tabular_dls(df, 'two', valid=range(300,400)))
    assert 'pieces' not in network_shape(learn.model)
    assert 'pieces' not in network_shape(network_for(data('value'), bins=0).model)

def test_batches_and_weights():
    learn = network_for(data('value', wgts=np.where(np.arange(400) < 150, 1., 0.)), n_epoch=1)
    assert learn.dls.train.bs == 64 and (learn.dls.train.wgts > 0).sum() == 150
    with pytest.raises(ValueError, match='bins=-1'): network_for(data('value'), bins=-1)

def test_its_embeddings_and_the_file_of_an_ensemble(tmp_path):
    set_seed(0, reproducible=True)
    assert embed_features(network_for(data('value'))).names[0] == 'kind'
    df = table().drop(columns=['two','l1','l2'])
    ens = fit_tabular(df, 'y', models=['network','rf'], folds=2, valid=range(350,400), verbose=False)
    ens.path = tmp_path
    loaded = load_tree_learner(ens.export('m.trees'))
    assert torch.equal(loaded.get_preds(dl=df[350:])[0], ens.get_preds(dl=df[350:])[0])
    odd = df[350:].assign(a=1e6)                            # far from all rows, but a number
    assert torch.isfinite(loaded.get_preds(dl=odd)[0]).all()
