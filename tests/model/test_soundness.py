"""The latents of a model are told without running it; what cannot be loaded is not saved."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from fuzz.folders import GOLDEN

from pyro_pmf import (
    PMF,
    BernoulliLogit,
    Fixed,
    NegativeBinomialLog,
    NormalIdentity,
    NormalSigmoid,
    OrderedLogit,
    Priors,
    StorageError,
    load,
)
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.model.soundness import latents_of
from pyro_pmf.moments.gaussian import Gaussian, LogGaussian

ROUNDED = [
    PMF(2),
    PMF(0),
    PMF(0, biases="user", noise="item"),
    PMF(1, biases=False, noise="shared"),
    PMF(3, users="hierarchical", items="hierarchical", noise="user"),
    PMF(2, items="hierarchical", biases="item", likelihood=NormalIdentity()),
    PMF(2, likelihood=OrderedLogit(4)),
    PMF(2, users="hierarchical", likelihood=BernoulliLogit()),
    PMF(2, likelihood=NegativeBinomialLog()),
    PMF(2, priors=Priors(tau=Fixed(1.0), sigma_U=Fixed(0.3), mu=Fixed(0.0), sigma=Fixed(0.2))),
    PMF(2, likelihood=NormalSigmoid(0.25), priors=Priors(sigma_b=Fixed(1.0))),
]


@pytest.mark.parametrize("model", ROUNDED, ids=repr)
def test_the_latents_of_a_pmf_are_those_that_it_samples(model):
    """Of a model whose code is not of this package, the sites are looked up by running it."""

    class Other(PMF):
        pass

    pairs = Pairs(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 3]), n_users=3, n_items=4)
    other = Other(**{name: getattr(model, name) for name in vars(model)})
    told, looked_up = latents_of(model, pairs), latents_of(other, pairs)
    assert told.keys() == looked_up.keys()
    for site, (support, shape) in told.items():
        assert shape == looked_up[site].shape
        value = torch.tensor([-1.0, 0.5]) if site != "shares" else torch.tensor([-1.0, 2.0])
        holds = getattr(looked_up[site].support, "base_constraint", looked_up[site].support)
        assert torch.equal(support.check(value), holds.check(value)), site


def broken(name="vi", **parts):
    posterior = load(GOLDEN / f"format-5-{name}")
    latents = posterior.latents | parts.pop("latents", {})
    return replace(posterior, latents=latents, **parts)


MEAN = torch.zeros(5, 1)
UNSOUND = {
    "not finite": broken(latents={"U": Gaussian(MEAN / 0, MEAN)}),
    "negative variance": broken(latents={"U": Gaussian(MEAN, MEAN - 1)}),
    "too large": broken(latents={"U": Gaussian(MEAN + 1e20, MEAN)}),
    "the shape": broken(latents={"U": Gaussian(MEAN[1:], MEAN[1:])}),
    "not log-normal": broken(latents={"U": LogGaussian(MEAN, MEAN)}),
    "the type": broken(latents={"U": Gaussian(MEAN.double(), MEAN.double())}),
    "latents of others": broken(latents={"Q": MEAN}),
    "outside its support": broken(latents={"sigma_U": torch.tensor(-1.0)}),
    "not made of draws": broken(
        name="draws", latents={"U": Gaussian(torch.zeros(8, 4, 1), torch.ones(8, 4, 1))}
    ),
    "chains differ in length": broken(name="draws", n_chains=3),
    "a step is not finite": broken(
        steps=pd.DataFrame({"step": [1], "elbo": [np.nan], "seconds": [0.1]})
    ),
}


@pytest.mark.parametrize("why", UNSOUND)
def test_what_cannot_be_loaded_is_not_saved(tmp_path, why):
    with pytest.raises(StorageError, match=f"Nothing was saved.*{why}"):
        UNSOUND[why].save(tmp_path / "m.pmf")
    assert list(tmp_path.iterdir()) == []
