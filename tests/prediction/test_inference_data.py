"""ArviZ data: dimensions, coordinates and values, on ArviZ 0.x and 1."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from scipy.special import expit

from pyro_pmf import (
    PMF,
    VI,
    BernoulliLogit,
    Fixed,
    Gibbs,
    Normal,
    NormalIdentity,
    OrderedLogit,
    PMFError,
    Priors,
    Ratings,
    fit,
)
from pyro_pmf.prediction import inference_data
from pyro_pmf.prediction.arviz_versions import arviz

FRAME = pd.DataFrame(
    {
        "user": np.repeat(["ann", "bob", "cyd", "dan"], 5),
        "item": np.tile([3, 1, 4, 15, 9], 4),
        "rating": np.random.default_rng(0).integers(1, 6, 20).astype(float),
    }
)


@pytest.fixture(scope="module")
def posterior():
    ratings = Ratings.from_frame(FRAME)
    model = PMF(n_factors=2, users="hierarchical", noise="shared")
    return fit(model, ratings, VI(max_steps=10, learn_scales=None), progress=False)


def test_scalars_by_default(posterior):
    data = posterior.to_arviz(n_draws=400)
    scalars = {"sigma", "mu", "sigma_U", "sigma_V", "sigma_W", "sigma_b", "sigma_c"}
    assert set(data["posterior"].data_vars) == scalars
    assert dict(data["posterior"].sizes) == {"chain": 1, "draw": 400}
    q = posterior.latents["sigma"]
    draws = np.log(data["posterior"]["sigma"].to_numpy().ravel())
    # Standard errors of the mean and of the sd are sd / 20 and sd / 28: 5 of them.
    sd = q.log_var.sqrt().item()
    assert draws.mean() == pytest.approx(q.log_mean.item(), abs=sd / 4)
    assert draws.std() == pytest.approx(sd, rel=0.18)


@pytest.mark.slow
def test_sites_have_ids_as_coordinates(posterior):
    data = posterior.to_arviz(sites=["U", "W", "b", "sigma"], n_draws=300)["posterior"]
    assert data["U"].dims == ("chain", "draw", "user", "factor")
    assert data["W"].dims == ("chain", "draw", "item", "factor")
    assert data["b"].dims == ("chain", "draw", "user")
    assert data["sigma"].dims == ("chain", "draw")
    assert list(data["user"].to_numpy()) == ["ann", "bob", "cyd", "dan"]
    assert list(data["item"].to_numpy()) == [1, 3, 4, 9, 15]
    b = posterior.latents["b"]
    error = data["b"].sel(user="cyd").mean().item() - b.mean[2].item()
    assert abs(error) < 5 * b.var[2].sqrt().item() / np.sqrt(300)


@pytest.mark.slow
def test_groups_about_ratings(posterior):
    pairs = FRAME.iloc[[7, 0, 13]]
    data = posterior.to_arviz(pairs, n_draws=200)
    assert data["observed_data"]["rating"].to_numpy().tolist() == pairs["rating"].tolist()
    assert data["constant_data"]["user_id"].to_numpy().tolist() == ["bob", "ann", "cyd"]
    predicted = data["posterior_predictive"]["rating"]
    assert predicted.shape == (1, 200, 3)
    expected = posterior.predict(pairs)
    error = (predicted.mean(["chain", "draw"]) - expected["mean"].to_numpy()) / expected["sd"]
    assert np.abs(error).max() < 5 / np.sqrt(200)
    # log E exp(log likelihood) is the log predictive density, in rating units.
    pointwise = np.exp(data["log_likelihood"]["rating"].to_numpy()[0]).mean(0)
    normal = scipy.stats.norm.pdf(pairs["rating"], expected["mean"], expected["sd"])
    np.testing.assert_allclose(pointwise, normal, rtol=0.15)


def test_pairs_without_ratings_have_no_likelihood(posterior):
    data = posterior.to_arviz(FRAME[["user", "item"]], n_draws=5)
    assert {"posterior", "posterior_predictive"} <= groups_of(data)
    assert not {"observed_data", "log_likelihood"} & groups_of(data)


def test_unknown_site(posterior):
    with pytest.raises(PMFError, match="nonsense"):
        posterior.to_arviz(sites=["nonsense"], n_draws=2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto")
def test_loo_runs(posterior):
    data = posterior.to_arviz(FRAME, n_draws=500)
    loo = arviz().loo(data)
    elpd = loo.elpd_loo if hasattr(loo, "elpd_loo") else loo.elpd
    # The expected log density of 20 ratings on 1 to 5 is of this size, and p_loo costs something.
    in_sample = posterior.evaluate(FRAME)["nll"] * -20
    assert in_sample - 20 < elpd < in_sample


def test_summary_has_no_chain_diagnostics(posterior):
    summary = posterior.summary()
    assert "r_hat" not in summary.columns
    assert summary.loc["sigma", "mean"] == pytest.approx(
        posterior.latents["sigma"].mean.item(), rel=0.02
    )


def test_summary_is_of_as_many_draws_as_asked_for(posterior):
    few, other = posterior.summary(n_draws=50), posterior.summary(n_draws=50, seed=1)
    assert list(few.index) == list(posterior.to_arviz(n_draws=1)["posterior"].data_vars)
    pd.testing.assert_frame_equal(few, inference_data.summary(posterior, 50))
    draws = posterior.to_arviz(n_draws=50)["posterior"]["mu"].to_numpy()
    assert few.loc["mu", "mean"] == pytest.approx(draws.mean(), abs=1e-4)  # as it is rounded
    assert few.loc["mu", "mean"] != other.loc["mu", "mean"]


def groups_of(data):
    groups = data.groups() if callable(data.groups) else data.groups
    return {name.strip("/") for name in groups} - {""}


class TestLogLikelihood:
    """Compare with the scores of the same draws, written out."""

    def draws(self, model, frame, scale, pairs):
        ratings = Ratings.from_frame(frame, scale=scale)
        fitted = fit(model, ratings, VI(max_steps=10, learn_scales=None), progress=False)
        sites = [*fitted.latents, *(["cutpoints"] if "shares" in fitted.latents else [])]
        data = fitted.to_arviz(pairs, sites, n_draws=6)
        x = data["posterior"].sel(chain=0)
        row = [list(ratings.user_ids).index(user) for user in pairs["user"]]
        column = [list(ratings.item_ids).index(item) for item in pairs["item"]]
        score = (x["U"].to_numpy()[:, row] * x["V"].to_numpy()[:, column]).sum(-1)
        score += x["b"].to_numpy()[:, row] + x["c"].to_numpy()[:, column]
        log_likelihood = data["log_likelihood"]["rating"].to_numpy()[0]
        predicted = data["posterior_predictive"]["rating"].to_numpy()
        return score, x, row, log_likelihood, predicted

    def test_normal_is_a_density_per_rating_unit(self):
        pairs = FRAME.iloc[[3, 11, 6]]
        model = PMF(n_factors=2, noise="shared")
        score, x, _, log_likelihood, _ = self.draws(model, FRAME, (1, 5), pairs)
        mean = 1 + 4 * expit(score + x["mu"].to_numpy()[:, None])
        sd = np.sqrt((4 * x["sigma"].to_numpy()[:, None]) ** 2 + 1 / 12)  # rounded to whole stars
        expected = scipy.stats.norm.logpdf(pairs["rating"].to_numpy(), mean, sd)
        np.testing.assert_allclose(log_likelihood, expected, rtol=1e-4)

    def test_under_a_transform_too(self):
        frame = FRAME.assign(rating=FRAME["rating"] ** 3)
        ratings = Ratings.from_frame(frame, transform="log1p")
        model = PMF(0, noise="shared", likelihood=NormalIdentity())
        pairs = frame.iloc[[4, 9]]
        fitted = fit(model, ratings, VI(max_steps=10, learn_scales=None), progress=False)
        data = fitted.to_arviz(pairs, ["mu", "sigma", "b", "c"], n_draws=5)
        x = data["posterior"].sel(chain=0)
        score = x["mu"].to_numpy()[:, None] + np.stack(
            [x["b"].sel(user=u) + x["c"].sel(item=i) for u, i in pairs[["user", "item"]].values], 1
        )
        logs = np.log1p(frame["rating"])
        shift, spread = logs.mean(), logs.std(ddof=0)
        rounding = fitted.model.likelihood.rounding  # of five values that many ratings share
        assert rounding > 0
        sd = spread * np.sqrt(x["sigma"].to_numpy()[:, None] ** 2 + rounding**2 / 12)
        one_plus = scipy.stats.lognorm(sd, scale=np.exp(shift + spread * score))
        expected = one_plus.logpdf(1 + pairs["rating"].to_numpy())
        given = data["log_likelihood"]["rating"].to_numpy()[0]
        np.testing.assert_allclose(given, expected, rtol=1e-4)

    @pytest.mark.slow
    def test_ordered_levels_have_their_mass(self):
        frame = FRAME.assign(rating=FRAME["rating"] / 2)  # 0.5, 1, ..., 2.5
        pairs = frame.iloc[[3, 11, 6, 19, 0]]
        model = PMF(n_factors=2, noise="user", likelihood=OrderedLogit(5))
        score, x, row, log_likelihood, predicted = self.draws(model, frame, (0.5, 2.5), pairs)
        noise = np.exp(x["s"].to_numpy()[:, row])[..., None]
        below = expit((x["cutpoints"].to_numpy()[:, None] - score[..., None]) / noise)
        mass = np.diff(below, prepend=0, append=1)
        level = (2 * pairs["rating"] - 1).astype(int).to_numpy()
        expected = np.log(mass[:, np.arange(5), level])
        np.testing.assert_allclose(log_likelihood, expected, rtol=1e-4)
        assert set(predicted.ravel()) <= {0.5, 1, 1.5, 2, 2.5}

    def test_bernoulli_has_its_mass(self):
        frame = FRAME.assign(rating=np.where(FRAME["rating"] > 3, 10.0, 0.0))
        pairs = frame.iloc[[3, 11, 6, 19]]
        model = PMF(n_factors=2, noise="shared", likelihood=BernoulliLogit())
        score, x, _, log_likelihood, _ = self.draws(model, frame, (0, 10), pairs)
        score += x["mu"].to_numpy()[:, None]
        yes = pairs["rating"].to_numpy() == 10
        np.testing.assert_allclose(
            log_likelihood, np.log(expit(np.where(yes, score, -score))), 1e-4
        )


def as_chains(posterior, n_chains, length):
    """Return the same posterior, represented by draws in chains."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = list(posterior.draws(n_chains * length))
    latents = {name: torch.stack([draw[name] for draw in draws]) for name in draws[0]}
    return replace(posterior, latents=latents, n_draws=len(draws), n_chains=n_chains)


class TestChains:
    def test_are_the_first_axis(self, posterior):
        chains = as_chains(posterior, 3, 10)
        pairs = FRAME.iloc[:2]
        data = chains.to_arviz(pairs)
        sigma = data["posterior"]["sigma"].to_numpy()
        np.testing.assert_array_equal(sigma, chains.latents["sigma"].reshape(3, 10))
        assert data["posterior_predictive"]["rating"].shape == (3, 10, 2)
        # Density and draw belong together: those of the second chain, given alone, are the same.
        second = {name: value[10:20] for name, value in chains.latents.items()}
        alone = replace(chains, latents=second, n_draws=10, n_chains=None)
        expected = alone.to_arviz(pairs)["log_likelihood"]["rating"].to_numpy()[0]
        given = data["log_likelihood"]["rating"].to_numpy()
        assert given.shape == (3, 10, 2)
        np.testing.assert_allclose(given[1], expected)
        assert chains.to_arviz(sites=["U"])["posterior"]["U"].shape == (3, 10, 4, 2)

    def test_fewer_draws_are_as_many_of_each(self, posterior):
        chains = as_chains(posterior, 3, 10)
        sigma = chains.to_arviz(n_draws=11)["posterior"]["sigma"].to_numpy()
        expected = chains.latents["sigma"].reshape(3, 10)[:, [0, 4, 9]]
        np.testing.assert_array_equal(sigma, expected)

    def test_draws_are_not_repeated(self, posterior):
        drawn = replace(as_chains(posterior, 1, 10), n_chains=None)
        sigma = drawn.to_arviz(n_draws=400)["posterior"]["sigma"].to_numpy()
        np.testing.assert_array_equal(sigma[0], drawn.latents["sigma"])

    def test_are_diagnosed(self):
        model = PMF(n_factors=0, noise="shared")
        fitted = fit(
            model, Ratings.from_frame(FRAME), VI(max_steps=10, learn_scales=None), progress=False
        )
        chains = as_chains(fitted, 4, 100)
        summary = chains.summary()
        assert summary.loc["sigma", "r_hat"] == pytest.approx(1, abs=0.02)
        assert 200 < summary.loc["sigma", "ess_bulk"] < 600
        apart = chains.latents["sigma"].reshape(4, 100).clone()
        apart[2] *= 5
        moved = replace(chains, latents={**chains.latents, "sigma": apart.reshape(-1)})
        assert moved.summary().loc["sigma", "r_hat"] > 1.4


class TestPrior:
    PRIORS = Priors(
        mu=Normal(0.2, 0.3),
        sigma=Fixed(0.1),
        tau=Fixed(1.0),
        sigma_b=Fixed(0.4),
        sigma_c=Fixed(0.2),
        sigma_U=Fixed(0.3),
        sigma_V=Fixed(0.5),
        sigma_W=Fixed(0.6),
    )

    def prior(self, pairs, n, **options):
        model = PMF(noise="shared", likelihood=NormalIdentity(), priors=self.PRIORS, **options)
        ratings = Ratings.from_frame(FRAME, scale=(1, 5))
        fitted = fit(model, ratings, VI(max_steps=2, learn_scales=None), progress=False)
        return fitted.to_arviz(pairs, n_draws=n, prior=True)

    @pytest.mark.slow
    def test_moments_of_ratings(self):
        n = 600
        pairs = pd.DataFrame({"user": ["ann", "ann", "bob"], "item": [3, 9, 3]})
        data = self.prior(pairs, n, n_factors=0)
        assert set(data["prior"].data_vars) == {"mu"}
        assert groups_of(data) >= {"posterior", "posterior_predictive", "prior_predictive"}
        rating = data["prior_predictive"]["rating"].to_numpy()
        assert rating.shape == (1, n, 3)
        # mu, b_i, c_j and noise; the first two share a user, the first and the third an item.
        shared = {(0, 0): 0.3, (0, 1): 0.25, (0, 2): 0.13, (1, 2): 0.09}
        sd = 4 * np.sqrt(0.3)
        np.testing.assert_allclose(rating[0].mean(0), 1.8, atol=5 * sd / np.sqrt(n))
        covariance = np.cov(rating[0], rowvar=False)
        for cell, value in shared.items():
            assert covariance[cell] == pytest.approx(16 * value, abs=5 * sd**2 * np.sqrt(2 / n))
        mu = data["prior"]["mu"].to_numpy()
        assert mu.mean() == pytest.approx(0.2, abs=5 * 0.3 / np.sqrt(n))
        assert mu.std() == pytest.approx(0.3, rel=5 / np.sqrt(2 * n))

    @pytest.mark.long
    def test_knows_which_pairs_were_rated(self):
        # W reaches the factors of users with training ratings; a new user gets it of one item.
        # mu_U and mu_V vary as the rows of U and V do.
        pairs = pd.DataFrame({"user": ["ann", "new"], "item": [3, 3]})
        data = self.prior(pairs, 600, n_factors=8, biases=False, users="hierarchical")
        var = data["prior_predictive"]["rating"].to_numpy()[0].var(0) / 16
        expected = 8 * (2 * 0.5**2) * (2 * 0.3**2 + 0.6**2) + 0.3**2 + 0.1**2
        np.testing.assert_allclose(var, expected, rtol=0.3)

    def test_without_pairs(self, posterior):
        data = posterior.to_arviz(n_draws=5, prior=True)
        assert groups_of(data) == {"posterior", "prior"}
        assert set(data["prior"].data_vars) == set(data["posterior"].data_vars)
        alone = posterior.to_arviz(n_draws=5)["posterior"]["mu"].to_numpy()
        np.testing.assert_array_equal(data["posterior"]["mu"].to_numpy(), alone)


@pytest.mark.parametrize("plate", ["users", "items", "ratings"])
def test_a_plate_is_no_site_to_draw(posterior, plate):
    with pytest.raises(PMFError, match="no latent site") as refused:
        posterior.to_arviz(sites=[plate], n_draws=2)
    known = str(refused.value).partition("it has")[2]
    assert "'U'" in known
    assert "users" not in known


def test_too_few_draws_for_a_summary():
    ratings = Ratings.from_frame(FRAME)
    closed = fit(
        PMF(0, noise="shared"), ratings, VI(max_steps=3, learn_scales=None), progress=False
    )
    with pytest.raises(PMFError, match=r"n_draws=1 is too few for a standard deviation: .* 2"):
        closed.summary(n_draws=1)
    assert list(closed.summary(n_draws=2))[:2] == ["mean", "sd"]
    model = PMF(0, noise="shared")
    chains = fit(model, ratings, Gibbs(n_draws=4, n_warmup=2, n_chains=2), progress=False)
    with pytest.raises(PMFError, match=r"too few for R-hat, which needs 4 draws .* at least 8"):
        chains.summary(n_draws=7)
    assert chains.summary(n_draws=8)["r_hat"].notna().all()
