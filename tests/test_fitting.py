"""`fit`: reproducible, isolated, open to any Pyro model, and honest about failure."""

from __future__ import annotations

import math
import random
import warnings
from itertools import pairwise

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoLowRankMultivariateNormal, AutoNormal

from pyro_pmf import MAP, PMF, VI, FitError, Fixed, Priors, Progress, Ratings, fit
from pyro_pmf.datasets import simulate
from pyro_pmf.inference.variational.guides import NormalGuide
from pyro_pmf.model.likelihoods import Likelihood
from pyro_pmf.moments.gaussian import Gaussian

# With scales under which MAP, too, finds factors in `tiny`.
WIDE = Priors(sigma=Fixed(0.1), tau=Fixed(1.0), sigma_U=Fixed(1.0), sigma_V=Fixed(1.0))
HIERARCHICAL = PMF(2, "hierarchical", "hierarchical", priors=WIDE)
ABOUT_BIASES = Priors(sigma=Fixed(0.1), sigma_b=Fixed(0.5), sigma_c=Fixed(0.5))
BIASES = PMF(0, noise="shared", priors=ABOUT_BIASES)

each_method = pytest.mark.parametrize("method", [VI, MAP])


def quick(model, ratings, method=VI, *, seed=0, dtype=None, callback=None, **options):
    """Fit in at most 50 steps with the usual scales, if nothing else is said."""
    chosen = method(**{"max_steps": 50, "learn_scales": None} | options)
    return fit(model, ratings, chosen, seed=seed, dtype=dtype, progress=False, callback=callback)


def tensors(posterior) -> dict[str, torch.Tensor]:
    """Everything that was learnt, as named tensors."""
    found = {}
    for site, value in posterior.latents.items():
        parts = {"": value} if isinstance(value, torch.Tensor) else vars(value)
        found |= {f"{site}.{k}": v for k, v in parts.items() if isinstance(v, torch.Tensor)}
    return found


def assert_equal(a, b):
    a, b = tensors(a), tensors(b)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def assert_same_steps(a, b):
    a, b = (posterior.steps.drop(columns="seconds") for posterior in (a, b))
    pd.testing.assert_frame_equal(a, b, check_exact=True)


@pytest.fixture(scope="module")
def tiny() -> Ratings:
    """Few ratings of strong factors: 12 users, 10 items, 1 to 5 stars and a little beyond."""
    strong = Priors(sigma=Fixed(0.05), tau=Fixed(1.0), sigma_U=Fixed(1.5), sigma_V=Fixed(1.5))
    model = PMF(2, noise="shared", priors=strong)
    return simulate(model, 12, 10, 100, seed=2, scale=(1.0, 5.0))[0]


@pytest.fixture(scope="module")
def noise() -> Ratings:
    user, item = np.divmod(np.arange(15 * 12), 12)
    rating = np.random.default_rng(0).uniform(size=15 * 12)
    frame = pd.DataFrame({"user": user, "item": item, "rating": rating})
    return Ratings.from_frame(frame, scale=(0.0, 1.0))


# --- the same again, and nothing else touched ---


@pytest.mark.slow
@each_method
def test_a_seed_decides_everything(tiny, method):
    first, again, other = (
        quick(HIERARCHICAL, tiny, method, seed=seed, max_steps=15) for seed in (1, 1, 2)
    )
    assert_equal(first, again)
    assert_same_steps(first, again)
    a, b = tensors(first), tensors(other)
    free = [name for name, value in a.items() if value.dim() and value.any()]
    assert free
    assert not any(torch.equal(a[name], b[name]) for name in free if name.endswith("mean"))


@pytest.mark.slow
def test_a_seed_decides_the_draws_of_a_sampled_posterior(tiny):
    def run(seed):
        guide = AutoNormal(PMF(1))
        with pytest.warns(UserWarning, match="Trace_ELBO"):
            return quick(PMF(1), tiny, guide=guide, seed=seed, n_draws=3, max_steps=10)

    first, other = run(1), run(2)
    assert_equal(first, run(1))
    assert not torch.equal(first.latents["U"], other.latents["U"])


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
def test_the_callers_state_is_untouched(tiny, fails):
    pyro.param("mine", torch.tensor([1.5, 2.5]))
    settings = pyro.settings.get()
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002

    def callback(progress):
        if fails and progress.step == 3:
            raise RuntimeError

    try:
        quick(HIERARCHICAL, tiny, callback=callback)
    except RuntimeError:
        assert fails
    assert torch.equal(states[0], torch.get_rng_state())
    np.testing.assert_array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002
    assert states[2] == random.getstate()
    assert set(pyro.get_param_store().keys()) == {"mine"}
    assert pyro.param("mine").tolist() == [1.5, 2.5]
    assert pyro.settings.get() == settings


@pytest.mark.slow
@each_method
def test_posteriors_do_not_disturb_each_other(tiny, noise, method):
    first = quick(HIERARCHICAL, tiny, method)
    before, learnt = first.predict(tiny), {k: v.clone() for k, v in tensors(first).items()}
    second = quick(PMF(3, priors=WIDE), noise, method)
    assert second.latents["U"].shape == (15, 3)
    pd.testing.assert_frame_equal(first.predict(tiny), before)
    assert all(torch.equal(value, learnt[name]) for name, value in tensors(first).items())


@pytest.mark.slow
def test_predictions_from_draws_leave_the_random_state_alone(tiny):
    with pytest.warns(UserWarning, match="Trace_ELBO"):
        posterior = quick(BIASES, tiny, guide=AutoNormal(BIASES), max_steps=5)
    unknown = pd.DataFrame({"user": [-1], "item": [-1]})
    state = torch.get_rng_state()
    first, second = posterior.predict(unknown), posterior.predict(unknown)
    pd.testing.assert_frame_equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow
def test_double_precision(tiny):
    single, double = (
        quick(HIERARCHICAL, tiny, max_steps=3, dtype=dtype) for dtype in (None, torch.float64)
    )
    assert {value.dtype for value in tensors(single).values()} == {torch.float32}
    assert {value.dtype for value in tensors(double).values()} == {torch.float64}
    a, b = (
        quick(BIASES, tiny, max_steps=600, dtype=d).predict(tiny) for d in (None, torch.float64)
    )
    np.testing.assert_allclose(a["mean"], b["mean"], atol=5e-3)
    np.testing.assert_allclose(a["sd"], b["sd"], atol=5e-3)


@pytest.mark.slow
def test_callback_sees_each_step(tiny):
    seen: list[Progress] = []
    predictions = []

    def callback(progress):
        seen.append(progress)
        torch.rand(1)
        predictions.append(progress.posterior().predict(tiny)["mean"])

    watched = quick(HIERARCHICAL, tiny, max_steps=6, callback=callback)
    assert [p.step for p in seen] == watched.steps["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert [p.elbo for p in seen] == watched.steps["elbo"].tolist()
    assert [p.seconds for p in seen] == watched.steps["seconds"].tolist()
    assert all((a != b).any() for a, b in pairwise(predictions))
    pd.testing.assert_series_equal(predictions[-1], watched.predict(tiny)["mean"])
    assert_equal(watched, quick(HIERARCHICAL, tiny, max_steps=6))


# --- guides ---


def function_guide(ratings):
    """Normal mu, b and c of BIASES."""

    def normal(name, *shape):
        loc = pyro.param(f"{name}_loc", torch.zeros(shape))
        scale = pyro.param(f"{name}_scale", torch.full(shape, 0.1), dist.constraints.positive)
        pyro.sample(name, dist.Normal(loc, scale))

    normal("mu")
    with pyro.plate("users", ratings.n_users):
        normal("b", ratings.n_users)
    with pyro.plate("items", ratings.n_items):
        normal("c", ratings.n_items)


@pytest.mark.parametrize(
    ("method", "options", "is_point"),
    [
        (VI, {}, False),
        (MAP, {}, True),
        (VI, {"guide": NormalGuide(BIASES)}, False),
        (VI, {"guide": NormalGuide}, False),
        (VI, {"guide": AutoDelta(BIASES)}, True),
        (VI, {"guide": AutoDelta}, True),
        (VI, {"guide": function_guide}, False),
    ],
    ids=["vi", "map", "normal", "normal class", "delta", "delta class", "function"],
)
def test_guides_in_closed_form(tiny, method, options, is_point):
    posterior = quick(BIASES, tiny, method, **options)
    assert posterior.n_draws is None
    for site, shape in {"mu": (), "b": (12,), "c": (10,)}.items():
        value = posterior.latents[site]
        assert isinstance(value, Gaussian)
        assert value.shape == shape
        assert (value.var == 0).all() if is_point else (value.var > 0).all()


def test_a_class_of_guides_is_called_with_the_model(tiny):
    by_class = quick(BIASES, tiny, guide=AutoDelta)
    by_hand = quick(BIASES, tiny, guide=AutoDelta(BIASES))
    assert_equal(by_class, by_hand)
    assert_same_steps(by_class, by_hand)


@pytest.mark.slow
def test_n_draws_of_a_closed_form_changes_nothing(tiny):
    few, more = (quick(HIERARCHICAL, tiny, n_draws=n, max_steps=5) for n in (3, 7))
    assert_equal(few, more)


@pytest.mark.slow
@pytest.mark.parametrize("autoguide", [AutoNormal, AutoLowRankMultivariateNormal])
def test_guides_that_are_sampled(tiny, autoguide):
    guide = autoguide(HIERARCHICAL)
    with pytest.warns(UserWarning, match="Trace_ELBO") as caught:
        posterior = quick(HIERARCHICAL, tiny, guide=guide, n_draws=6, max_steps=10)
    assert [warning.filename for warning in caught] == [__file__]
    assert posterior.n_draws == 6
    assert posterior.latents["W"].shape == (6, 10, 2)
    assert posterior.latents["sigma_b"].shape == (6,)
    assert len(posterior.latents["sigma_b"].unique()) == 6
    assert np.isfinite(posterior.predict(tiny).iloc[:, 2:6]).all(axis=None)


class Tanh(Likelihood):
    """A likelihood that needs tensors."""

    def __call__(self, score, sigma, **own):
        return dist.Normal(0.5 + 0.5 * score.tanh(), sigma)


def test_map_with_a_likelihood_that_needs_tensors(tiny):
    """Held scales and point estimates then are draws, all the same."""
    posterior = quick(PMF(0, likelihood=Tanh()), tiny, MAP, n_draws=3)
    assert posterior.n_draws == 3
    for name in ("sigma_b", "sigma_c"):
        assert posterior.latents[name].tolist() == pytest.approx([0.5] * 3)
    mu, b, c = (posterior.latents[name][0] for name in ("mu", "b", "c"))
    expected = 3 + 2 * torch.tanh(mu + b[tiny.user] + c[tiny.item])
    np.testing.assert_allclose(posterior.predict(tiny)["mean"], expected, rtol=1e-5)


# --- user models ---


def plain_model(ratings):
    one = torch.ones(2, dtype=ratings.dtype)
    with pyro.plate("users", ratings.n_users):
        U = pyro.sample("U", dist.Normal(0 * one, one).to_event(1))
    with pyro.plate("items", ratings.n_items):
        V = pyro.sample("V", dist.Normal(0 * one, one).to_event(1))
    score = (U[ratings.user] * V[ratings.item]).sum(-1)
    with pyro.plate("ratings", len(ratings)):
        return pyro.sample("rating", dist.Normal(score.sigmoid(), 0.1), obs=ratings.value)


def model_with_history(ratings, history=None):
    """b_i scaled by how often the user was seen in training: 0 for whom it was not."""
    seen = ratings if history is None else history
    zero = torch.zeros((), dtype=ratings.dtype)
    with pyro.plate("users", ratings.n_users):
        b = pyro.sample("b", dist.Normal(zero, 1 + zero))
    score = (b * seen.user_counts)[ratings.user]
    with pyro.plate("ratings", len(ratings)):
        return pyro.sample("rating", dist.Normal(score.sigmoid(), 0.1), obs=ratings.value)


def model_with_sites_in_modules(ratings):
    """Site names as those of a PyroModule."""
    zero = torch.zeros((), dtype=ratings.dtype)
    sigma = pyro.sample("noise.sigma", dist.HalfNormal(zero + 0.5))
    with pyro.plate("users", ratings.n_users):
        b = pyro.sample("net.b", dist.Normal(zero, zero + 1.0))
    with pyro.plate("ratings", len(ratings)):
        mean = torch.sigmoid(b[..., ratings.user])
        return pyro.sample("rating", dist.Normal(mean, sigma), obs=ratings.value)


def model_with_a_parameter(ratings):
    mu = pyro.param("mu", torch.zeros((), dtype=ratings.dtype))
    zero = torch.zeros((), dtype=ratings.dtype)
    with pyro.plate("users", ratings.n_users):
        b = pyro.sample("b", dist.Normal(zero, zero + 1.0))
    with pyro.plate("ratings", len(ratings)):
        mean = torch.sigmoid(mu + b[..., ratings.user])
        return pyro.sample("rating", dist.Normal(mean, 0.1), obs=ratings.value)


def model_without_rating(ratings):
    with pyro.plate("ratings", len(ratings)):
        return pyro.sample("stars", dist.Normal(torch.zeros(()), 1.0), obs=ratings.value)


def model_with_prior_only(ratings):
    with pyro.plate("ratings", len(ratings)):
        return pyro.sample("rating", dist.Normal(torch.zeros(()), 1.0))


@pytest.mark.slow
@each_method
@pytest.mark.parametrize("model", [plain_model, model_with_history])
def test_a_users_own_model(tiny, model, method):
    options = {"max_steps": 150, "n_draws": 20}
    if method is VI:
        with pytest.warns(UserWarning, match="Trace_ELBO"):
            posterior = quick(model, tiny, method, **options)
    else:
        posterior = quick(model, tiny, method, **options)
    assert posterior.n_draws == 20
    assert posterior.evaluate(tiny)["rmse"] < np.std(tiny.rating)
    unknown = pd.DataFrame({"user": [0, 99, 0, 98], "item": [0, 0, 77, 77]})
    prediction = posterior.predict(unknown)
    assert prediction["known_user"].tolist() == [True, False, True, False]
    assert prediction["known_item"].tolist() == [True, True, False, False]
    assert np.isfinite(prediction.iloc[:, 2:6]).all(axis=None)
    if model is model_with_history:  # a user without history is exactly average
        assert prediction["mean"][[1, 3]].tolist() == pytest.approx([3.0, 3.0])
        assert abs(prediction["mean"][0] - 3.0) > 0.01
    assert np.isfinite(posterior.evaluate(unknown.assign(rating=3.0))["nll"])


@pytest.mark.slow
@each_method
@pytest.mark.parametrize("model", [plain_model, model_with_history])
def test_batches_of_a_users_own_model(tiny, model, method):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Falling back to Trace_ELBO")
        posterior = quick(model, tiny, method, batches=3, max_steps=150, n_draws=20)
    assert posterior.evaluate(tiny)["rmse"] < np.std(tiny.rating)


@each_method
@pytest.mark.parametrize("model", [model_with_sites_in_modules, model_with_a_parameter])
def test_sites_and_parameters_of_a_users_own_model_may_have_any_name(tiny, model, method):
    elbo = quick(model, tiny, method).steps["elbo"]
    assert elbo.iloc[-1] > elbo.iloc[0]


# --- without a closed form ---


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.exp(),
        lambda x: 1 - x,
        lambda x: x**2,
        lambda x: torch.tensor(math.exp(x)),
        lambda x: torch.where(x > 0, x, 0.1 * x),
        lambda x: -x,
        lambda x: abs(x),
        lambda x: x.abs().log1p(),
        lambda x: 1 / (2 + x.sin()),
        lambda x: torch.tanh(x),
    ],
    ids=["exp", "minus", "power", "math", "choice", "negative", "abs", "log1p", "divide", "tanh"],
)
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar")
def test_an_operation_without_closed_form_is_sampled(tiny, function):
    def model(ratings):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        sigma = pyro.sample("sigma", dist.HalfNormal(0.5))
        with pyro.plate("ratings", len(ratings)):
            mean = function(mu).sigmoid()
            pyro.sample("rating", dist.Normal(mean, sigma), obs=ratings.value)

    with pytest.warns(UserWarning, match="Falling back to Trace_ELBO") as caught:
        posterior = quick(model, tiny, max_steps=3)
    assert len([w for w in caught if "Trace_ELBO" in str(w.message)]) == 1
    assert posterior.n_draws == 100
    assert np.isfinite(posterior.predict(tiny).iloc[:, 2:6]).all(axis=None)


def test_a_guide_without_path_wise_gradients_is_sampled(tiny):
    def model(ratings):
        high = pyro.sample("high", dist.Bernoulli(0.5))
        with pyro.plate("ratings", len(ratings)):
            pyro.sample("rating", dist.Normal(0.3 + 0.4 * high, 0.2), obs=ratings.value)

    def guide(ratings):
        q = pyro.param("q", torch.tensor(0.5), constraint=dist.constraints.unit_interval)
        pyro.sample("high", dist.Bernoulli(q))

    with pytest.warns(UserWarning, match="path-wise"):
        quick(model, tiny, guide=guide, max_steps=3)


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("error", [TypeError, AttributeError])
def test_an_error_of_a_users_own_model_is_not_taken_for_a_missing_closed_form(
    tiny, error, at_once
):
    """It is raised as it is, also where only random quantities in place of latents meet it."""

    def model(ratings):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        if at_once or not isinstance(mu, torch.Tensor):
            raise error("a mistake of mine")
        with pyro.plate("ratings", len(ratings)):
            pyro.sample("rating", dist.Normal(torch.sigmoid(mu), 0.2), obs=ratings.value)

    with pytest.raises(error, match="a mistake of mine") as raised:
        quick(model, tiny, max_steps=3)  # a warning, too, would be an error here
    assert raised.type is error


# --- warnings ---


def test_a_fallback_blames_the_callers_line(tiny):
    with pytest.warns(UserWarning, match="Falling back to Trace_ELBO") as caught:
        quick(BIASES, tiny, guide=AutoNormal, max_steps=3)
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.slow
def test_factors_of_zero_blame_the_callers_line(noise):
    with pytest.warns(UserWarning, match="shrunk to zero") as caught:
        quick(PMF(2), noise, max_steps=1000)
    assert [warning.filename for warning in caught] == [__file__]


# --- refusals ---


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"device": "gpu"}, "device"),
        ({"dtype": torch.float16}, "float32 or torch.float64"),
        pytest.param(
            {"device": "cuda"},
            "torch finds none",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_arguments_that_cannot_be_used(tiny, argument, message):
    with pytest.raises(FitError, match=message):
        fit(BIASES, tiny, progress=False, **argument)


@pytest.mark.parametrize("spoil", [Ratings.without_values, Ratings.to_frame])
def test_ratings_without_values(tiny, spoil):
    with pytest.raises(FitError, match=r"Give Ratings, not a|nothing to learn"):
        quick(BIASES, spoil(tiny))


@each_method
def test_ratings_that_do_not_differ_are_refused(method):
    frame = pd.DataFrame({"user": [1, 1, 2], "item": [1, 2, 1], "rating": [3.0, 3.0, 4.0]})
    ratings = Ratings.from_frame(frame, scale=(1, 5))
    constant = next(train for train, _ in ratings.k_fold(3) if len(set(train.rating)) == 1)
    with pytest.raises(FitError, match="do not differ"):
        fit(PMF(1), constant, method(), progress=False)


@pytest.mark.parametrize("model", [model_without_rating, model_with_prior_only])
def test_a_model_without_an_observed_rating(tiny, model):
    with pytest.raises(FitError, match="site 'rating'"):
        quick(model, tiny)


def test_a_model_that_cannot_predict_is_refused_before_the_fit(tiny):
    def model(ratings):
        mu = pyro.sample("mu", dist.Normal(ratings.value.mean(), 1.0))
        with pyro.plate("ratings", len(ratings)):
            pyro.sample("rating", dist.Normal(mu, 0.2), obs=ratings.value)

    steps = []
    with pytest.raises(FitError, match="new pairs"):
        fit(model, tiny, progress=False, callback=steps.append)
    assert not steps
