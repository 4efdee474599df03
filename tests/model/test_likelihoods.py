"""Likelihoods against SciPy, draws and Pyro's own ELBO; and what a posterior is used for."""

import warnings
from dataclasses import replace
from functools import cache
from itertools import product
from unittest import mock

import numpy as np
import pandas as pd
import pyro
import pytest
import scipy.stats
import torch
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO
from pyro.poutine.util import prune_subsample_sites
from scipy.special import expit

import pyro_pmf.inference.variational.loop
from pyro_pmf import (
    MAP,
    NUTS,
    PMF,
    VI,
    BernoulliLogit,
    FitError,
    Fixed,
    NormalIdentity,
    NormalSigmoid,
    OrderedLogit,
    PMFError,
    Priors,
    Ratings,
    fit,
    load,
)
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.inference.initialization import initial_value
from pyro_pmf.inference.variational.elbo import GaussianELBO
from pyro_pmf.inference.variational.guides import NormalGuide

NOISE = ["shared", "user", "item", "user_and_item"]
LIKELIHOODS = [NormalSigmoid(), NormalIdentity(), OrderedLogit(5), BernoulliLogit()]
CUTS = np.array([-2.0, -0.7, 0.6, 2.2])

every_likelihood = pytest.mark.parametrize(
    "likelihood", LIKELIHOODS, ids=lambda likelihood: type(likelihood).__name__
)


# The standard deviations of the factors that `of_known_scores` draws, on the scale of the score.
STRONG = Priors(tau=Fixed(1.0), sigma_U=Fixed(1.0), sigma_V=Fixed(1.0))
OF_IDENTITY = Priors(
    tau=Fixed(1.0), sigma_U=Fixed(0.2), sigma_V=Fixed(0.2)
)  # 1 over the root of 24


def strong(likelihood, noise="shared"):
    """A model that holds the scales of its factors where they are."""
    priors = OF_IDENTITY if isinstance(likelihood, NormalIdentity) else STRONG
    return PMF(2, noise=noise, likelihood=likelihood, priors=priors)


def double(x):
    return torch.as_tensor(x, dtype=torch.float64)


# Simulated ratings


def of_known_scores(likelihood, n_users=80, n_items=50, share=0.6, seed=0):
    """Ratings of a known score, b_i + c_j + U_i . V_j, and what is known of every pair.

    Returns
    -------
    ratings : Ratings
        Of some pairs.
    truth : pandas.DataFrame
        user, item and score of all pairs.
    """
    rng = np.random.default_rng(seed)
    b, c = 0.7 * rng.normal(size=n_users), rng.normal(size=n_items)
    U, V = rng.normal(size=(n_users, 2)), rng.normal(size=(n_items, 2))
    score = (b[:, None] + c + U @ V.T).ravel()
    user, item = np.divmod(np.arange(n_users * n_items), n_items)
    if isinstance(likelihood, NormalIdentity):
        rating, scale = score + 0.5 * rng.normal(size=len(score)), (-12.0, 12.0)
    elif isinstance(likelihood, NormalSigmoid):
        rating, scale = expit(score) + 0.1 * rng.normal(size=len(score)), (-0.5, 1.5)
    else:
        response = score + rng.logistic(size=len(score))
        cuts, scale = (CUTS, (1, 5)) if isinstance(likelihood, OrderedLogit) else ([0.0], (1, 2))
        rating = 1.0 + (response > np.asarray(cuts)[:, None]).sum(0)
    truth = pd.DataFrame({"user": user, "item": item, "score": score})
    seen = truth.assign(rating=rating)[rng.random(len(score)) < share]
    return Ratings.from_frame(seen, scale=scale), truth


# What a rating is given its score


SCORES, SIGMAS = np.array([-1.5, 0.0, 0.4, 2.5]), np.array([0.3, 1.0, 0.7, 1.6])


def test_normal_likelihoods_are_scipys():
    value = np.array([0.1, 0.5, 0.9, -0.2])
    for likelihood, loc in ((NormalSigmoid(), expit(SCORES)), (NormalIdentity(), SCORES)):
        fn = likelihood(double(SCORES), double(SIGMAS))
        expected = scipy.stats.norm(loc, SIGMAS)
        np.testing.assert_allclose(fn.log_prob(double(value)), expected.logpdf(value))
        np.testing.assert_allclose(fn.mean, expected.mean())
        assert likelihood.fault(double(value)) is None


def test_bernoulli_is_scipys():
    fn = BernoulliLogit()(double(SCORES), double(SIGMAS))
    expected = scipy.stats.bernoulli(expit(SCORES / SIGMAS))
    for value in (0.0, 1.0):
        got = fn.log_prob(torch.full((4,), value, dtype=torch.float64))
        np.testing.assert_allclose(got, expected.logpmf(value))


@pytest.mark.parametrize("n_levels", [2, 3, 10])
def test_ordered_levels_are_cut_from_scipys_logistic(n_levels):
    cuts = np.linspace(-2, 3, n_levels - 1)
    fn = OrderedLogit(n_levels)(double(SCORES), double(SIGMAS), cutpoints=double(cuts))
    response = scipy.stats.logistic(SCORES, SIGMAS)
    for k, level in enumerate(np.linspace(0, 1, n_levels)):
        at_most = response.cdf(cuts[k]) if k < n_levels - 1 else 1.0
        below = response.cdf(cuts[k - 1]) if k else 0.0
        got = fn.log_prob(torch.full((4,), level, dtype=torch.float64))
        np.testing.assert_allclose(got.exp(), at_most - below)


def test_two_levels_are_a_bernoulli():
    score, sigma = double(SCORES), double(SIGMAS)
    ordered = OrderedLogit(2)(score, sigma, cutpoints=double([0.0]))
    bernoulli = BernoulliLogit()(score, sigma)
    for value in (torch.zeros(4), torch.ones(4)):
        torch.testing.assert_close(
            ordered.log_prob(value), bernoulli.log_prob(value), check_dtype=False
        )


# The prior of the cut points


def test_levels_are_equally_likely_a_priori_whatever_their_number():
    """At a score of 0 the probabilities of the levels are the shares that were drawn."""
    for n_levels in (2, 5, 10):
        trace = poutine.trace(OrderedLogit(n_levels).latents).get_trace(double(0.0))
        shares, cutpoints = (trace.nodes[name]["value"] for name in ("shares", "cutpoints"))
        fn = OrderedLogit(n_levels)(double([0.0]), double([1.0]), cutpoints=cutpoints)
        torch.testing.assert_close(fn.probs[0], shares)
        assert cutpoints.shape == (n_levels - 1,)


def test_cut_points_of_rare_levels_in_single_precision():
    """A share of 10^-9, at either end, is lost in a sum that is nearly one."""
    shares = torch.tensor([1e-9, 0.3, 0.3, 0.4, 1e-8], requires_grad=True)
    given = poutine.condition(OrderedLogit(5).latents, {"shares": shares})
    with pyro.validation_enabled(False):
        cutpoints = given(torch.tensor(0.0))["cutpoints"]
    # The logits of 10^-9, 0.3, 0.6 and 1 - 10^-8.
    expected = [-20.7232658, -0.8472979, 0.4054651, 18.4206807]
    np.testing.assert_allclose(cutpoints.detach(), expected, rtol=1e-5)
    cutpoints.sum().backward()
    assert shares.grad.isfinite().all()


@pytest.mark.slow
@pytest.mark.statistical
def test_level_probabilities_at_score_0_are_uniform_over_the_simplex():
    """Each of five is Beta(1, 4), and so is each sum of two Beta(2, 3).

    Nine Kolmogorov tests of 4,000 draws, each of p-value 10^-7: a false alarm in 10^-6 at most.
    """
    model, pairs = PMF(1, likelihood=OrderedLogit(5)), tiny_pairs()
    cuts = Predictive(model, num_samples=4_000, parallel=True, return_sites=["cutpoints"])(pairs)
    below = np.pad(expit(cuts["cutpoints"].numpy().reshape(4_000, 4)), ((0, 0), (1, 1)))
    below[:, -1] = 1.0
    p = np.diff(below)
    for k in range(5):
        assert scipy.stats.kstest(p[:, k], scipy.stats.beta(1, 4).cdf).pvalue > 1e-7
    for k in range(4):
        assert scipy.stats.kstest(p[:, k] + p[:, k + 1], scipy.stats.beta(2, 3).cdf).pvalue > 1e-7


def tiny_pairs(value=None):
    user, item = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([0, 2, 1, 0, 1, 2])
    return Pairs(user, item, 3, 3, value, dtype=torch.float64)


# Faults


@pytest.mark.parametrize("n_levels", [1, 0, -3, 5.0, "5", None, True])
def test_a_number_of_levels_that_cannot_be(n_levels):
    with pytest.raises(PMFError, match="n_levels must be 2, 3, 4"):
        OrderedLogit(n_levels)


def small_ratings(rating, scale):
    user, item = np.divmod(np.arange(len(rating)), 3)
    frame = pd.DataFrame({"user": user, "item": item, "rating": rating})
    return Ratings.from_frame(frame, scale=scale)


@pytest.mark.parametrize("method", ["vi", "map", "gibbs", "nuts"])
@pytest.mark.parametrize(
    ("likelihood", "message"),
    [
        (OrderedLogit(5), r"not among the 5 evenly spaced levels .* OrderedLogit\(n_levels=5\)"),
        (BernoulliLogit(), r"neither the lowest nor the highest.* BernoulliLogit\(\)"),
    ],
)
def test_ratings_that_a_likelihood_cannot_have_made(likelihood, message, method):
    ratings = small_ratings([1, 2, 3, 4.5, 5, 5, 1, 1], (1, 5))
    with pytest.raises(FitError, match=message):
        fit(PMF(1, likelihood=likelihood), ratings, method, progress=False)


@pytest.mark.parametrize("method", ["vi", "map", "gibbs", "nuts"])
@pytest.mark.parametrize("transform", ["standardize", "log1p", "count"])
def test_ratings_without_bounds_are_none_for_a_sigmoid(transform, method):
    frame = small_ratings([1, 2, 3, 4, 5, 5, 1, 1], (1, 5)).to_frame()
    ratings = Ratings.from_frame(frame, transform=transform)
    with pytest.raises(FitError, match=r"no lowest and no highest.*NormalIdentity"):
        fit(PMF(1, noise="shared"), ratings, method, progress=False)


def test_ratings_that_are_levels_up_to_rounding():
    for n_levels in (2, 3, 7, 10, 100):
        levels = torch.linspace(0, 1, n_levels)
        assert OrderedLogit(n_levels).fault(levels) is None
        assert OrderedLogit(n_levels).fault(levels.double()) is None
        if n_levels > 2:
            assert "levels" in OrderedLogit(n_levels).fault(levels + 0.3 / n_levels)
    assert BernoulliLogit().fault(torch.tensor([0.0, 1.0])) is None
    assert "yes" in BernoulliLogit().fault(torch.tensor([0.0, 0.5, 1.0]))


# The ELBO


N_USERS, N_ITEMS, N_RATINGS = 30, 20, 250
MODELS = [
    PMF(2, users, noise=noise, likelihood=likelihood)
    for likelihood, noise in product(LIKELIHOODS[1:], NOISE)
    for users in (["hierarchical"] if noise == "user_and_item" else ["independent"])
]


def label(model):
    return f"{type(model.likelihood).__name__}-{model.noise}"


def random_ratings(likelihood):
    cells = torch.randperm(N_USERS * N_ITEMS)[:N_RATINGS].sort().values
    value = torch.rand(N_RATINGS, dtype=torch.float64)
    if isinstance(likelihood, OrderedLogit):
        value = (value * 4).round() / 4
    elif isinstance(likelihood, BernoulliLogit):
        value = value.round()
    return Pairs(cells // N_ITEMS, cells % N_ITEMS, N_USERS, N_ITEMS, value)


def perturbed_guide(model, ratings):
    """A `NormalGuide` away from its start, with standard deviations of about 0.1."""
    guide = NormalGuide(model, init_loc_fn=initial_value)
    guide(ratings)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return guide


def loss_and_gradient(elbo, model, guide, ratings):
    """The gradient is without parameters that the loss does not have: the spread of a point."""
    loss = elbo.differentiable_loss(model, guide, ratings)
    gradient = torch.autograd.grad(loss, list(guide.parameters()), allow_unused=True)
    return loss.item(), torch.cat([part.flatten() for part in gradient if part is not None])


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize("model", MODELS, ids=label)
def test_the_elbo_is_that_of_trace_elbo(model):
    """By t-tests on 30 batches of 8 particles, of the loss, each coordinate, and the length.

    Bonferroni's bound on a false alarm in any model and coordinate is 10^-3; the seed is fixed.
    What the quadratures are off by is less than the Monte Carlo error here.
    """
    ratings = random_ratings(model.likelihood)
    guide = perturbed_guide(model, ratings)
    loss, gradient = loss_and_gradient(GaussianELBO(), model, guide, ratings)
    monte_carlo = Trace_ELBO(8, max_plate_nesting=1, vectorize_particles=True)
    runs = [loss_and_gradient(monte_carlo, model, guide, ratings) for _ in range(30)]
    losses = torch.tensor([run[0] for run in runs], dtype=torch.float64)
    gradients = torch.stack([run[1] for run in runs])
    along = gradient / gradient.norm()
    errors = torch.cat(
        [
            (losses - loss)[:, None],
            ((gradients - gradient) @ along)[:, None],
            gradients - gradient,
        ],
        dim=1,
    )
    t = errors.mean(0) / (errors.std(0) / len(runs) ** 0.5)
    limit = scipy.stats.t(len(runs) - 1).isf(1e-3 / (2 * len(t) * len(MODELS)))
    assert t.abs().max() < limit
    assert torch.cosine_similarity(gradients.mean(0), gradient, dim=0) > 0.98


# Fits


@cache
def fitted_quietly(likelihood, noise="shared"):
    """A fit that fails where it would fall back to Adam or to sampling, and the scores."""

    def unwanted(*args, **kwargs):
        raise AssertionError("the loss was not recorded, or has no metric")

    ratings, truth = of_known_scores(likelihood)
    with (
        mock.patch.object(pyro_pmf.inference.variational.loop, "Adam", unwanted),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("error")
        model = strong(likelihood, noise)
        return fit(model, ratings, VI(learn_scales=None), progress=False), truth


@pytest.mark.slow
@every_likelihood
@pytest.mark.parametrize("noise", ["shared", "user_and_item"])
def test_a_fit_takes_the_recorded_path(likelihood, noise):
    """L-BFGS on a recorded loss, without notice of a fall-back."""
    posterior, truth = fitted_quietly(likelihood, noise)
    assert posterior.converged
    assert posterior.n_draws is None
    assert posterior.steps["elbo"].iloc[-1] > posterior.steps["elbo"].iloc[0]
    predicted = posterior.predict(truth)
    assert np.corrcoef(predicted["mean"], truth["score"])[0, 1] > 0.8


def root_mean_square(x):
    return float(np.sqrt(np.mean(np.square(x))))


def true_level_probabilities(score):
    below = expit(CUTS - np.asarray(score)[:, None])
    ends = np.zeros((len(below), 1))
    return np.diff(np.hstack([ends, below, ends + 1]))


def fitted(likelihood, method):
    """Return a fit of a model that holds the scales of its factors, and the scores."""
    if isinstance(method, VI):
        return fitted_quietly(likelihood)
    ratings, truth = of_known_scores(likelihood)
    return fit(strong(likelihood), ratings, method, progress=False), truth


QUICK = VI(learn_scales=None), MAP(learn_scales=None)
METHODS = pytest.mark.parametrize("method", QUICK, ids=["vi", "map"])


@pytest.mark.statistical
@METHODS
def test_ordered_logit_recovers_the_probabilities_of_levels(method):
    """Of all pairs, rated or not: on average, and most of how they differ from each other."""
    posterior, truth = fitted(OrderedLogit(5), method)
    got = posterior.predict_levels(truth)[[1.0, 2.0, 3.0, 4.0, 5.0]].to_numpy()
    expected = true_level_probabilities(truth["score"])
    np.testing.assert_allclose(got.mean(0), expected.mean(0), atol=0.02)
    assert root_mean_square(got - expected) < 0.6 * root_mean_square(expected - expected.mean(0))


@pytest.mark.statistical
@METHODS
def test_bernoulli_logit_recovers_the_probabilities(method):
    posterior, truth = fitted(BernoulliLogit(), method)
    got, expected = posterior.predict(truth)["mean"] - 1, expit(truth["score"])
    assert got.mean() == pytest.approx(expected.mean(), abs=0.02)
    assert root_mean_square(got - expected) < 0.6 * expected.std()


@pytest.mark.slow
@pytest.mark.statistical
@METHODS
def test_normal_identity_recovers_the_means_and_the_noise(method):
    """To less than half of the noise of one rating."""
    posterior, truth = fitted(NormalIdentity(), method)
    assert root_mean_square(posterior.predict(truth)["mean"] - truth["score"]) < 0.25
    if isinstance(method, VI):  # MAP is given it
        assert 24 * posterior.latents["sigma"].mean.item() == pytest.approx(0.5, rel=0.1)


@pytest.mark.statistical
def test_cut_points_where_they_are():
    """Biases only, so that nothing shrinks the score: to about four standard errors."""
    rng = np.random.default_rng(1)
    user, item = np.divmod(np.arange(150 * 60), 60)
    score = 0.8 * rng.normal(size=150)[user]
    rating = 1.0 + (score + rng.logistic(size=len(score)) > CUTS[:, None]).sum(0)
    frame = pd.DataFrame({"user": user, "item": item, "rating": rating})
    model = PMF(0, noise="shared", likelihood=OrderedLogit(5))
    posterior = fit(model, Ratings.from_frame(frame, scale=(1, 5)), progress=False)
    got = posterior.latents["shares"].cumsum(-1)[:-1].logit()
    # A quantile of 9,000 logistic draws is known to 0.03 here, the mean of 150 users to 0.07.
    np.testing.assert_allclose(got, CUTS, atol=0.3)
    np.testing.assert_allclose(got.diff(), np.diff(CUTS), atol=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("absent", [1, 3, 5])
def test_a_level_that_nobody_gave_is_rare_but_possible(absent):
    """By the prior about (0 + 1) / (n + 5), as the mean of a Dirichlet distribution."""
    ratings, truth = of_known_scores(OrderedLogit(5))
    frame = ratings.to_frame()
    frame = frame[frame["rating"] != absent]
    ratings = Ratings.from_frame(frame, scale=(1, 5))
    model = PMF(0, noise="shared", likelihood=OrderedLogit(5))
    posterior = fit(model, ratings, VI(tolerance=1e-6), progress=False)
    share = posterior.latents["shares"][absent - 1].item()
    assert 0.3 < share * (len(frame) + 5) < 3
    chance = posterior.predict_levels(truth)[float(absent)]
    assert 0 < chance.mean() < 5 / len(frame)


# What is done with a posterior


def few_ratings(likelihood):
    return of_known_scores(likelihood, n_users=8, n_items=6)


@every_likelihood
@METHODS
def test_load_gives_back_what_was_saved(tmp_path, likelihood, method):
    ratings, truth = few_ratings(likelihood)
    model = PMF(0, noise="item", likelihood=likelihood)
    saved = fit(model, ratings, replace(method, max_steps=5), progress=False)
    saved.save(tmp_path / "m.pmf")
    loaded = load(tmp_path / "m.pmf")
    assert loaded.model == saved.model
    pd.testing.assert_frame_equal(loaded.predict(truth), saved.predict(truth))
    np.testing.assert_array_equal(loaded.sample(truth, 3), saved.sample(truth, 3))
    pd.testing.assert_frame_equal(loaded.scores(ratings), saved.scores(ratings))


@pytest.mark.slow
@every_likelihood
def test_a_few_steps_of_nuts(likelihood):
    ratings, truth = few_ratings(likelihood)
    model = PMF(1, noise="user_and_item", likelihood=likelihood)
    few = NUTS(n_draws=4, n_warmup=4, n_chains=1)
    posterior = fit(model, ratings, few, progress=False)
    assert posterior.n_draws == 4
    assert all(draws.isfinite().all() for draws in posterior.latents.values())
    predicted = posterior.predict(truth)
    assert np.isfinite(predicted[["mean", "sd"]]).all(axis=None)
    scores = posterior.scores(ratings)
    assert np.isfinite(scores["nll"]).all()
    if isinstance(likelihood, OrderedLogit):
        torch.testing.assert_close(posterior.latents["shares"].sum(-1), torch.ones(4).double())


@every_likelihood
@pytest.mark.parametrize("parallel", [False, True])
def test_prior_predictive_draws(likelihood, parallel):
    model = PMF(2, "hierarchical", noise="user_and_item", likelihood=likelihood)
    draws = Predictive(model, num_samples=20, parallel=parallel)(tiny_pairs())
    assert draws["rating"].reshape(20, -1).shape == (20, 6)
    assert draws["rating"].isfinite().all()
    n_levels = {OrderedLogit: 5, BernoulliLogit: 2}.get(type(likelihood))
    if n_levels:
        steps = draws["rating"] * (n_levels - 1)
        torch.testing.assert_close(steps, steps.round().clamp(0, n_levels - 1))


@every_likelihood
@pytest.mark.parametrize("noise", NOISE)
def test_vectorized_particles_have_the_density_of_single_ones(likelihood, noise):
    pairs = random_ratings(likelihood)
    model = PMF(2, noise=noise, likelihood=likelihood)
    with pyro.plate("particles", 3, dim=-2):
        many = poutine.trace(model).get_trace(pairs)
    many.compute_log_prob()
    assert many.nodes["rating"]["log_prob"].shape == (3, N_RATINGS)
    sites = prune_subsample_sites(many).nodes
    for k in range(3):
        single = {}
        for name, site in sites.items():
            if site["type"] == "sample" and not site["is_observed"]:
                rows = site["value"][k]  # a site outside the plates has one row
                single[name] = rows[0] if rows.shape[0] == 1 else rows
        one = poutine.trace(poutine.condition(model, single)).get_trace(pairs)
        one.compute_log_prob()
        torch.testing.assert_close(
            one.nodes["rating"]["log_prob"], many.nodes["rating"]["log_prob"][k]
        )


def test_render_model_draws_the_cut_points():
    model = PMF(2, noise="item", likelihood=OrderedLogit(5))
    pairs = tiny_pairs(torch.tensor([0, 1, 2, 3, 4, 0]).double() / 4)
    graph = pyro.render_model(model, model_args=(pairs,), render_distributions=True)
    edges = {tuple(x.strip() for x in line.split("->")) for line in graph.body if "->" in line}
    assert ("shares", "cutpoints") in edges
    assert {parent for parent, of in edges if of == "rating"} >= {"b", "c", "U", "V", "t"}
    assert "shares ~ Dirichlet" in graph.source
    assert "rating ~ OrderedLogistic" in graph.source
    assert "sigma " not in graph.source
    assert "mu " not in graph.source


def test_levels_without_a_free_sigma_or_mean():
    """Both would only set the unit and the origin of the score."""
    sites = poutine.trace(PMF(2, likelihood=OrderedLogit(5))).get_trace(tiny_pairs()).nodes
    assert not {"sigma", "mu"} & sites.keys()
    assert {"shares", "cutpoints", "sigma_s", "sigma_t"} <= sites.keys()
    sites = poutine.trace(PMF(2, likelihood=BernoulliLogit())).get_trace(tiny_pairs()).nodes
    assert "sigma" not in sites
    assert "mu" in sites
