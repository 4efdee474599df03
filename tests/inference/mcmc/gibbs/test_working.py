"""Working likelihoods are the likelihoods of the model, and their derivatives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyro_pmf import (
    BernoulliLogit,
    NegativeBinomialLog,
    NormalIdentity,
    NormalSigmoid,
    OrderedLogit,
)
from pyro_pmf.inference.mcmc.gibbs import working as working_module
from pyro_pmf.inference.mcmc.gibbs.working import knows_likelihood, working_likelihood
from pyro_pmf.model.likelihoods import Likelihood

CUTPOINTS = torch.tensor([-1.3, -0.2, 0.9], dtype=torch.float64)
LIKELIHOODS = [
    NormalIdentity(0.0),
    NormalIdentity(0.3),
    NormalSigmoid(0.0),
    NormalSigmoid(0.3),
    OrderedLogit(4),
    BernoulliLogit(),
    NegativeBinomialLog(),
    NegativeBinomialLog(ceiling=3.0),
]
each_likelihood = pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=repr)


def case(likelihood: Likelihood, n: int = 200):
    """Return scores, log noise, ratings and the parameters of the likelihood."""
    generator = torch.Generator().manual_seed(0)
    score = 1.5 * torch.randn(n, generator=generator, dtype=torch.float64)
    log_noise = 0.5 * torch.randn(n, generator=generator, dtype=torch.float64) - 0.3
    own = {"cutpoints": CUTPOINTS} if isinstance(likelihood, OrderedLogit) else {}
    value = likelihood(score, log_noise.exp(), **own).sample().double()
    return score, log_noise, value, own


@each_likelihood
def test_log_densities_are_those_of_the_model(likelihood):
    score, log_noise, value, own = case(likelihood)
    working = working_likelihood(likelihood, value, own.get("cutpoints"))
    expected = likelihood(score, log_noise.exp(), **own).log_prob(value)
    np.testing.assert_allclose(working.log_prob(score, log_noise), expected, rtol=1e-7, atol=1e-9)


@each_likelihood
def test_slopes_are_derivatives(likelihood):
    score, log_noise, value, own = case(likelihood)
    leaf = score.clone().requires_grad_()
    density = likelihood(leaf, log_noise.exp(), **own).log_prob(value).sum()
    (expected,) = torch.autograd.grad(density, leaf)
    found = working_likelihood(likelihood, value, own.get("cutpoints")).slope(score, log_noise)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


@each_likelihood
@pytest.mark.parametrize("safe", [True, False])
def test_weights_are_positive_and_near_the_curvature(likelihood, safe):
    """Of a quadratic likelihood they are the curvature. A safe one is no less on average."""
    score, log_noise, value, own = case(likelihood)
    working = working_likelihood(likelihood, value, own.get("cutpoints"))
    weight = working.weight(score, log_noise, safe)
    assert (weight > 0).all()
    step = 1e-4
    ends = [working.slope(score + h, log_noise) for h in (-step, step)]
    curvature = (ends[0] - ends[1]) / (2 * step)
    if working.is_quadratic:
        np.testing.assert_allclose(weight, curvature, rtol=1e-5)
    share = float((weight.sum() / curvature.sum()).log())
    # The safe weight leaves out a convex part, which is large near the ceiling.
    most = 1.2 if getattr(likelihood, "ceiling", None) is None else 1.6
    assert -0.1 < share < most


@pytest.mark.parametrize(
    "likelihood",
    [OrderedLogit(4), BernoulliLogit(), NegativeBinomialLog(), NegativeBinomialLog(ceiling=3.0)],
    ids=repr,
)
def test_safe_steps_do_not_overshoot(likelihood):
    """From afar, too, a Newton step with the safe weight raises the log density."""
    score, log_noise, value, own = case(likelihood)
    working = working_likelihood(likelihood, value, own.get("cutpoints"))
    for far in (0.0, 4.0, -4.0):
        at = score + far
        new = at + working.slope(at, log_noise) / working.weight(at, log_noise, safe=True)
        gain = working.log_prob(new, log_noise) - working.log_prob(at, log_noise)
        assert (gain > -1e-9).all()


@pytest.mark.parametrize("log_noise", [-6.0, -11.0, -20.0, -90.0])
def test_counts_as_good_as_poisson(log_noise):
    count, mean = torch.tensor([[0.0, 3.0, 400.0], [0.5, 2.0, 420.0]], dtype=torch.float64)
    working, at = (
        working_likelihood(NegativeBinomialLog(), count),
        (mean.log(), mean.new_full((3,), log_noise)),
    )
    expected = torch.distributions.Poisson(mean).log_prob(count)
    np.testing.assert_allclose(working.log_prob(*at), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(working.slope(*at), count - mean, rtol=1e-2)
    np.testing.assert_allclose(working.weight(*at, safe=False), mean, rtol=1e-2)


@each_likelihood
def test_another_order_is_of_the_same_ratings(likelihood):
    score, log_noise, value, own = case(likelihood)
    working = working_likelihood(likelihood, value, own.get("cutpoints"))
    order = torch.randperm(len(value), dtype=torch.int32)
    other = working.changed(lambda x: x.index_select(0, order))
    for one, two in (
        (working.log_prob(score, log_noise), other.log_prob(score[order], log_noise[order])),
        (working.slope(score, log_noise), other.slope(score[order], log_noise[order])),
    ):
        np.testing.assert_allclose(one[order], two, rtol=1e-12)


@each_likelihood
def test_blocks_of_ratings_are_computed_as_the_whole(likelihood, monkeypatch):
    score, log_noise, value, own = case(likelihood)
    working = working_likelihood(likelihood, value, own.get("cutpoints"))

    def numbers():
        at = score, log_noise
        weights = [working.weight(*at, safe=safe) for safe in (False, True)]
        return torch.stack([working.log_prob(*at), working.slope(*at), *weights])

    whole = numbers()
    monkeypatch.setattr(working_module, "_BLOCK", 7)
    torch.testing.assert_close(numbers(), whole, rtol=1e-12, atol=0.0)


@each_likelihood
@pytest.mark.parametrize("score", [0.0, 30.0, -30.0, 1e4, -1e4])
@pytest.mark.parametrize("log_noise", [-3.0, 0.0, 3.0])
def test_numbers_at_their_ends(likelihood, score, log_noise):
    """In float32 all slopes and weights are numbers; log densities of counts may underflow."""
    _, _, value, own = case(likelihood, 20)
    cutpoints = own["cutpoints"].float() if own else None
    working = working_likelihood(likelihood, value.float(), cutpoints)
    scores, noise = torch.full((20,), score), torch.full((20,), log_noise)
    assert working.slope(scores, noise).isfinite().all()
    assert working.weight(scores, noise, safe=False).isfinite().all()
    assert not working.log_prob(scores, noise).isnan().any()


def test_likelihoods_of_ones_own_are_not_known():
    class Own(NormalIdentity):
        pass

    assert all(knows_likelihood(likelihood) for likelihood in LIKELIHOODS)
    assert not knows_likelihood(Own())
