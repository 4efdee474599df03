"""Coordinates for sampling: the stated density, in other numbers, and what measures them."""

from __future__ import annotations

import pickle
import warnings

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
    Fixed,
    NormalIdentity,
    NormalSigmoid,
    OrderedLogit,
    Priors,
    Ratings,
    fit,
)
from pyro_pmf.inference.centring import centring_for_sampling
from pyro_pmf.inference.initialization import initial_value
from pyro_pmf.inference.mcmc.coordinates import Coordinates
from pyro_pmf.model.learned import Learned

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
        torch.testing.assert_close(coordinates.gradient(z), flat)


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
            away = (1 - reparam.centredness).sum() * rows.shape[1]
            volume += away * latents[f"sigma_{name}"].log()
    for name, x in latents.items():
        if x.dim() == 0 and name.startswith("sigma"):
            volume += x.log()  # of x = exp(z)
    torch.testing.assert_close(coordinates.potential(z), -(log_joint + volume))


@pytest.mark.slow
@every_likelihood
def test_a_draw_comes_back_from_its_coordinates(likelihood):
    model, ratings = PMF(**BOTH, likelihood=likelihood), ratings_for(likelihood)
    coordinates = Coordinates(model, ratings)
    z = point(coordinates, 3)
    latents, _ = coordinates.draw(z)
    assert set(latents) == set(coordinates.sites)
    torch.testing.assert_close(coordinates.of(latents), z)


def test_rows_with_more_ratings_are_more_centred():
    ratings = ratings_for(NormalSigmoid())
    config = centring_for_sampling(PMF(**BOTH), ratings)
    n = ratings.user_counts.double()
    torch.testing.assert_close(config["U"].centredness, n / (n + 100))
    assert (config["W"].centredness == 0).all()
    assert "Z" not in centring_for_sampling(PMF(users="hierarchical"), ratings)


# --- measured in standard deviations ---


@pytest.fixture(scope="module")
def fitted() -> Learned:
    model = PMF(**BOTH, noise="shared", priors=Priors(sigma_b=Fixed(0.5)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 12 ratings tell of no factors
        return fit(model, ratings_for(NormalSigmoid()), progress=False)


@pytest.fixture
def whitened(fitted) -> Coordinates:
    coordinates = Coordinates(fitted.model, fitted.ratings)
    torch.manual_seed(0)
    coordinates.whiten(fitted)
    return coordinates


@pytest.mark.slow
def test_draws_of_the_approximation_are_standardized(fitted, whitened):
    """To 4 standard errors of the sd of 50 draws: 1 for rows, 1/4 for what they share."""
    torch.manual_seed(1)
    z = torch.stack([whitened.of(draw) for draw in fitted.draws(2000)])
    free = z.std(0) > 1e-6
    assert free.sum() == len(free) - 4  # a fit holds sigma_U, sigma_V, sigma_W and sigma_Z
    names = [name for name, shape in whitened._shapes.items() for _ in range(shape.numel())]
    shared = torch.tensor([name == "mu" or name.startswith("sigma") for name in names])
    assert shared.sum() == 7
    for chosen, sd in ((free & shared, 0.25), (free & ~shared, 1.0)):
        assert ((z.std(0)[chosen] / sd - 1).abs() < 0.4).all()


def test_the_first_draw_is_the_origin(fitted, whitened):
    torch.manual_seed(0)
    origin, _ = whitened.draw(torch.zeros_like(whitened.first()))
    torch.manual_seed(0)
    first = next(fitted.draws(1))
    for name, value in origin.items():
        torch.testing.assert_close(value, first[name])


@pytest.mark.slow
def test_whitened_and_plain_potentials_are_one_density(fitted, whitened):
    plain = Coordinates(fitted.model, fitted.ratings)
    points = [point(whitened, seed) for seed in (1, 2)]
    ours, theirs = (
        [c.potential(c.of(whitened.draw(z)[0])) for z in points] for c in (whitened, plain)
    )
    torch.testing.assert_close(ours[0] - ours[1], theirs[0] - theirs[1])


def test_gradient_is_that_of_finite_differences(whitened):
    z = point(whitened, 4)
    slope = whitened.gradient(z)
    for index in torch.arange(len(z))[::7]:
        step = torch.zeros_like(z)
        step[index] = 1e-5
        difference = (whitened.potential(z + step) - whitened.potential(z - step)) / 2e-5
        torch.testing.assert_close(slope[index], difference, rtol=1e-5, atol=1e-6)


def test_what_the_approximation_holds_is_measured_by_the_curvature(whitened):
    """Four times as long as where the potential would be z^2 / 2, or flatter."""
    names = list(whitened._shapes)
    for name in ("sigma_U", "sigma_V", "sigma_W", "sigma_Z"):
        index = sum(whitened._shapes[before].numel() for before in names[: names.index(name)])
        step = torch.zeros_like(whitened.first())
        step[index] = 1e-3
        slopes = [whitened.gradient(z)[index] for z in (step, -step)]
        curvature = float(slopes[0] - slopes[1]) / 2e-3
        if whitened._whitening.scale[index] < 4:
            assert curvature == pytest.approx(16, rel=0.01)
        else:
            assert curvature <= 16.01


@pytest.mark.slow
def test_a_whitening_says_all_of_it(fitted, whitened):
    """To the last bit, from one that was pickled, without the approximation."""
    coordinates = Coordinates(fitted.model, fitted.ratings)
    torch.manual_seed(0)
    whitening = coordinates.whiten(fitted)
    again = Coordinates(
        fitted.model, fitted.ratings, whitening=pickle.loads(pickle.dumps(whitening))
    )
    z = point(whitened, 5)
    assert torch.equal(again.potential(z), whitened.potential(z))
    assert torch.equal(again.gradient(z), whitened.gradient(z))
    ours, theirs = again.draw(z), whitened.draw(z)
    assert ours[1] == theirs[1]
    assert all(torch.equal(ours[0][name], x) for name, x in theirs[0].items())
    assert torch.equal(again.of(ours[0]), whitened.of(ours[0]))


@pytest.mark.slow
def test_latents_are_counted_as_they_are_stated():
    """2 x 5 + 2 x 4 of U and V, as many of Z and W, b, c, mu and seven standard deviations."""
    model = PMF(**BOTH, noise="shared")
    coordinates = Coordinates(model, ratings_for(NormalSigmoid()))
    assert coordinates.n_latents == 2 * 2 * (5 + 4) + 5 + 4 + 1 + 7
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
