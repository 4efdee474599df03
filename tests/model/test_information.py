"""The information of a rating about its score, against sums and integrals of squared slopes."""

import numpy as np
import pytest
import torch

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.model.likelihoods import (
    BernoulliLogit,
    NegativeBinomialLog,
    NormalIdentity,
    NormalSigmoid,
    OrderedLogit,
)
from pyro_pmf.model.pmf import PMF
from pyro_pmf.model.running import information, is_latent, sites_of

SCORE = torch.tensor([-1.5, 0.0, 0.7, 2.0], dtype=torch.float64)
SIGMA = torch.tensor([0.5, 0.8, 1.0, 0.3], dtype=torch.float64)
CUTPOINTS = torch.tensor([-1.0, 0.2, 0.9], dtype=torch.float64)
LIKELIHOODS = [
    NormalIdentity(),
    NormalIdentity(rounding=0.25),
    NormalSigmoid(),
    OrderedLogit(4),
    BernoulliLogit(),
    NegativeBinomialLog(),
    NegativeBinomialLog(ceiling=5.0),
]


def own_of(likelihood):
    return {"cutpoints": CUTPOINTS} if isinstance(likelihood, OrderedLogit) else {}


def values_and_weights(likelihood):
    if isinstance(likelihood, OrderedLogit | BernoulliLogit):
        return np.linspace(0, 1, getattr(likelihood, "n_levels", 2)), 1.0
    if isinstance(likelihood, NegativeBinomialLog):
        return np.arange(400.0), 1.0
    return np.linspace(-12, 12, 20_001), 24 / 20_000


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=str)
def test_information_is_the_expected_square_of_the_slope(likelihood):
    """E (d log p / d score)^2, summed over all levels, or over a fine grid."""
    values, weight = values_and_weights(likelihood)
    value = torch.tensor(values)[:, None]
    score = SCORE.expand(len(value), -1).clone().requires_grad_()
    log_prob = likelihood(score, SIGMA, **own_of(likelihood)).log_prob(value)
    (slope,) = torch.autograd.grad(log_prob.sum(), score)
    expected = (log_prob.exp() * weight * slope**2).sum(0)
    found = likelihood.information(SCORE, SIGMA, **own_of(likelihood))
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=str)
@pytest.mark.parametrize("score", [-90.0, 90.0])
def test_information_is_finite_where_ratings_are_certain(likelihood, score):
    found = likelihood.information(
        torch.tensor([min(score, 30.0)]),
        torch.tensor([1.0]),
        **{name: x.float() for name, x in own_of(likelihood).items()},
    )
    assert found.isfinite().all()
    assert (found >= 0).all()


@pytest.mark.parametrize("noise", ["shared", "user_and_item"])
def test_a_model_says_score_and_noise_of_each_pair(noise):
    """The model is frozen and stays as it was."""
    model = PMF(2, users="hierarchical", noise=noise, likelihood=NormalIdentity())
    pairs = Pairs(torch.tensor([0, 0, 1]), torch.tensor([0, 2, 2]), 2, 3, dtype=torch.float64)
    torch.manual_seed(0)
    sites = sites_of(model, pairs)
    latents = {name: site["value"] for name, site in sites.items() if is_latent(site)}
    found, again = information(model, latents, pairs, pairs)
    torch.testing.assert_close(found, sites["rating"]["fn"].scale.expand(3) ** -2.0)
    torch.testing.assert_close(again.priors["U"].mean, sites["U"]["fn"].mean)
    assert model.likelihood == NormalIdentity()
