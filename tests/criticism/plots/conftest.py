"""Fits that the tests of figures share, and a backend that needs no screen."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot
from pyro.infer.autoguide import AutoNormal

from pyro_pmf import MAP, PMF, VI, BernoulliLogit, Fixed, OrderedLogit, Priors, Ratings, fit
from pyro_pmf.datasets import simulate

FIXED = Priors(
    mu=Fixed(0.3), sigma=Fixed(0.1), tau=Fixed(1.0), sigma_U=Fixed(0.7), sigma_V=Fixed(0.7)
)


@pytest.fixture(scope="module", autouse=True)
def _agg():
    backend = mpl.get_backend()
    pyplot.switch_backend("agg")
    yield
    pyplot.switch_backend(backend)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    pyplot.close("all")


@pytest.fixture(scope="session")
def split():
    model = PMF(n_factors=2, noise="shared", priors=FIXED)
    ratings, _ = simulate(model, 30, 25, 500, scale=(1, 5))
    return ratings.split(0.2)


@pytest.fixture(scope="session")
def posterior(split):
    model = PMF(n_factors=2, noise="shared")
    return fit(model, split[0], VI(max_steps=60, learn_scales="elbo"), progress=False)


@pytest.fixture(scope="session")
def point(split):
    priors = Priors(tau=Fixed(1.0), sigma_U=Fixed(0.7), sigma_V=Fixed(0.7))
    return fit(
        PMF(n_factors=2, priors=priors),
        split[0],
        MAP(max_steps=60, learn_scales=None),
        progress=False,
    )


@pytest.fixture(scope="session")
def drawn(split):
    """Return a posterior that draws represent, of scalars too."""
    model = PMF(n_factors=1, noise="shared")
    method = VI(max_steps=5, n_draws=7, guide=AutoNormal(model))
    with pytest.warns(UserWarning, match="deterministic ELBO|Falling back|Trace_ELBO"):
        return fit(model, split[0], method, progress=False)


@pytest.fixture(scope="session", params=["ordinal", "bernoulli"])
def discrete(split, request):
    """Return a posterior of levels, and held-out ratings that are levels."""
    if request.param == "ordinal":
        likelihood, scale = OrderedLogit(10), (0.5, 5)

        def level(x):
            return np.rint(2 * x.clip(0.5, 5)) / 2
    else:
        likelihood, scale = BernoulliLogit(), (0, 1)

        def level(x):
            return (x > 3).astype(float)

    train, test = (side.to_frame() for side in split)
    train, test = (side.assign(rating=level(side["rating"])) for side in (train, test))
    model = PMF(n_factors=2, noise="shared", likelihood=likelihood)
    ratings = Ratings.from_frame(train, scale=scale)
    return fit(model, ratings, VI(max_steps=60, learn_scales=None), progress=False), test


@pytest.fixture(scope="session")
def user(split):
    return split[1].to_frame()["user"].value_counts().index[0]
