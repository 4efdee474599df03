"""Coordinates for sampling: the stated density, in other numbers."""

from __future__ import annotations

import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import NUTS
from pyro.ops.integrator import potential_grad

from pyro_pmf import (
    PMF,
    BernoulliLogit,
    NormalIdentity,
    NormalSigmoid,
    OrderedLogit,
    Ratings,
)
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.inference.centring import centring_for_sampling
from pyro_pmf.inference.initialization import initial_value
from pyro_pmf.inference.mcmc.coordinates import Coordinates, interruptions_as_they_are
from pyro_pmf.moments import bilinear

BOTH = {"n_factors": 2, "users": "hierarchical", "items": "hierarchical"}
OPTIONS = [{"n_factors": 0}, {"n_factors": 2, "users": "hierarchical"}, BOTH]
LIKELIHOODS = [NormalSigmoid(), NormalIdentity(), OrderedLogit(5), BernoulliLogit()]

every_likelihood = pytest.mark.parametrize(
    "likelihood", LIKELIHOODS, ids=lambda x: type(x).__name__
)
all_options = pytest.mark.parametrize("options", OPTIONS, ids=["biases", "users", "both"])


def ratings_for(likelihood) -> Ratings:
    """12 ratings of 5 users and 4 items."""
    frame = pd.DataFrame(
        {
            "user": [0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4],
            "item": [0, 1, 2, 3, 0, 1, 3, 0, 2, 0, 1, 0],
            "rating": [1.0, 5, 3, 4, 4, 2, 5, 5, 1, 3, 4, 2],
        }
    )
    if not isinstance(likelihood, BernoulliLogit):
        return Ratings.from_frame(frame, scale=(1.0, 5.0), dtype=torch.float64)
    liked = frame.assign(rating=(frame["rating"] > 3).astype(float))
    return Ratings.from_frame(liked, scale=(0.0, 1.0), dtype=torch.float64)


def point(coordinates, seed) -> torch.Tensor:
    """Away from where a search begins, so that nothing is small."""
    z = coordinates.first()
    return z + 0.3 * torch.randn(
        z.shape, generator=torch.Generator().manual_seed(seed), dtype=z.dtype
    )


def gradient(coordinates, z) -> torch.Tensor:
    leaf = z.clone().requires_grad_()
    return torch.autograd.grad(coordinates.potential(leaf), leaf)[0]


@pytest.mark.slow
@every_likelihood
@all_options
def test_potential_is_that_of_pyro(options, likelihood):
    model, ratings = PMF(**options, likelihood=likelihood), ratings_for(likelihood)
    coordinates = Coordinates(model, ratings)
    stated = poutine.reparam(model, centring_for_sampling(model, ratings))
    kernel = NUTS(stated, init_strategy=initial_value)
    kernel.setup(10, ratings)
    for seed in (1, 2):
        z = point(coordinates, seed)
        slopes, value = potential_grad(kernel.potential_fn, coordinates._unpacked(z.clone()))
        flat = torch.cat([slopes[name].reshape(-1) for name in coordinates._shapes])
        torch.testing.assert_close(coordinates.potential(z), value)
        torch.testing.assert_close(gradient(coordinates, z), flat)


@pytest.mark.slow
@all_options
def test_potential_is_the_density_of_the_stated_model(options):
    """But for the change of variables: x = m + s^(1 - c) (y - c m) has s^(1 - c) of y's volume."""
    model, ratings = PMF(**options), ratings_for(NormalSigmoid())
    coordinates = Coordinates(model, ratings)
    z = point(coordinates, 0)
    latents, log_likelihood = coordinates.draw(z)
    trace = poutine.trace(poutine.condition(model, data=latents)).get_trace(ratings)
    log_joint = trace.log_prob_sum()
    assert log_likelihood == pytest.approx(float(trace.nodes["rating"]["log_prob_sum"]))
    volume = z.new_zeros(())
    for name, reparam in centring_for_sampling(model, ratings).items():
        if name in latents:
            rows = latents[name].reshape(len(latents[name]), -1)
            away = (1 - reparam.centredness).sum()
            tau = latents["tau"] if name in ("U", "W") else z.new_ones(rows.shape[1])
            volume += away * (latents[f"sigma_{name}"] * tau).log().sum()
    for name, x in latents.items():
        if name == "tau" or name.startswith("sigma"):
            volume += x.log().sum()  # of x = exp(z)
    torch.testing.assert_close(coordinates.potential(z), -(log_joint + volume))


def test_rows_with_more_ratings_are_more_centred():
    ratings = ratings_for(NormalSigmoid())
    config = centring_for_sampling(PMF(**BOTH), ratings)
    n = ratings.user_counts.double()
    torch.testing.assert_close(config["U"].centredness, n / (n + 100))
    assert (config["W"].centredness == 0).all()
    assert "Z" not in centring_for_sampling(PMF(users="hierarchical"), ratings)


@pytest.mark.slow
def test_latents_are_counted_as_they_are_stated():
    """2 x 5 + 2 x 4 of U and V, as many of Z and W, 2 x 2 of means, b, c, mu, tau, 7 scales."""
    model = PMF(**BOTH, noise="shared")
    coordinates = Coordinates(model, ratings_for(NormalSigmoid()))
    assert coordinates.n_latents == 2 * 2 * (5 + 4) + 4 + 5 + 4 + 1 + 2 + 7
    assert coordinates.n_latents == len(coordinates.first())


# --- any model ---


def test_a_model_of_ones_own_is_sampled_as_it_is_stated():
    ratings = ratings_for(NormalSigmoid())

    def model(ratings):
        sd = pyro.sample("sd", dist.HalfNormal(torch.tensor(1.0, dtype=ratings.dtype)))
        with pyro.plate("users", ratings.n_users):
            b = pyro.sample("b", dist.Normal(torch.zeros((), dtype=ratings.dtype), sd))
        with pyro.plate("ratings", len(ratings)):
            return pyro.sample("rating", dist.Normal(b[ratings.user], 0.3), obs=ratings.value)

    coordinates = Coordinates(model, ratings)
    assert coordinates._shapes.keys() == {"sd", "b"}
    z = point(coordinates, 0)
    latents, _ = coordinates.draw(z)
    log_joint = poutine.trace(poutine.condition(model, latents)).get_trace(ratings).log_prob_sum()
    torch.testing.assert_close(coordinates.potential(z), -(log_joint + latents["sd"].log()))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_an_interruption_inside_a_recorded_density_is_one(monkeypatch):
    """torch's interpreter makes a RuntimeError of what is raised in a kernel in Python."""
    cells, U = Pairs(torch.tensor([0, 1]), torch.tensor([0, 1]), 2, 2).pattern, torch.ones(2, 3)
    played = torch.jit.trace(lambda U: bilinear.dot(U, U, cells), (U,), check_trace=False)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bilinear, "_sampled_product", interrupted)
    with pytest.raises(RuntimeError):
        played(U)
    with pytest.raises(KeyboardInterrupt), interruptions_as_they_are():
        played(U)
    with pytest.raises(RuntimeError, match="another"), interruptions_as_they_are():
        raise RuntimeError("another")
