"""Model criticism: leave-one-out beside exact answers, and figures, on ArviZ 0.x and 1."""

import sys
import warnings
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from matplotlib import pyplot

from pyro_pmf import (
    PMF,
    VI,
    BernoulliLogit,
    NegativeBinomialLog,
    Normal,
    NormalIdentity,
    OrderedLogit,
    PMFError,
    Posterior,
    Priors,
    Ratings,
    RatingsError,
    fit,
)
from pyro_pmf.criticism import compare, loo, plot_loo_pit, plot_ppc
from pyro_pmf.prediction import arviz_versions
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


def represented(model, ratings, **latents):
    """Return a posterior of exact draws."""
    draws = {name: torch.from_numpy(value) for name, value in latents.items()}
    return Posterior(model, ratings, draws, len(next(iter(draws.values()))), pd.DataFrame(), True)


def about_theta(ratings):
    theta = pyro.sample("theta", dist.Normal(torch.tensor(0.5).double(), 1.0))
    with pyro.plate("ratings", len(ratings)):
        return pyro.sample(
            "rating", dist.Normal(theta.expand(len(ratings)), SD), obs=ratings.value
        )


def tosses(ratings):
    p = pyro.sample("p", dist.Beta(torch.tensor(1.0).double(), 1.0))
    with pyro.plate("ratings", len(ratings)):
        return pyro.sample("rating", dist.Bernoulli(p.expand(len(ratings))), obs=ratings.value)


SD = 0.25


def draws_of(distribution, n):
    """Return draws as good as can be: a quantile of each of n equal parts, in random order."""
    return np.random.default_rng(0).permutation(distribution.ppf((np.arange(n) + 0.5) / n))


def normal_given(y):
    """Return mean and variance of theta given y."""
    variance = 1 / (1 + len(y) / SD**2)
    return variance * (0.5 + y.sum() / SD**2), variance


def exact_loo(y):
    """Return the log density of each rating given the others, for a scale of width 4."""
    moments = [normal_given(np.delete(y, k)) for k in range(len(y))]
    return np.array(
        [
            scipy.stats.norm.logpdf(x, mean, np.sqrt(var + SD**2)) - np.log(4)
            for x, (mean, var) in zip(y, moments, strict=True)
        ]
    )


def values(result, name):
    return getattr(result, f"{name}_loo" if hasattr(result, "elpd_loo") else name)


def pointwise(result):
    return (result.loo_i if hasattr(result, "loo_i") else result.elpd_i).to_numpy()


@pytest.fixture(scope="module")
def about():
    """Return the known posterior of a common mean of ratings, and these on the unit scale."""
    ratings = Ratings.from_frame(FRAME, scale=(1, 5), dtype=torch.float64)
    y = ratings.value.numpy()
    mean, variance = normal_given(y)
    theta = draws_of(scipy.stats.norm(mean, np.sqrt(variance)), 1500)
    return represented(about_theta, ratings, theta=theta), y


def far_from(learnt):
    """Return a posterior of the same draws, spread so widely that k is high."""
    return replace(learnt, latents={"theta": learnt.latents["theta"] * 30 - 10})


@pytest.fixture
def agg():
    backend = mpl.get_backend()
    pyplot.switch_backend("agg")
    yield
    pyplot.close("all")
    pyplot.switch_backend(backend)


class TestLOO:
    @pytest.mark.slow
    def test_of_a_normal_mean_is_exact(self, about):
        learnt, y = about
        pairs = learnt.ratings.to_frame()
        result = loo(learnt, pairs, n_draws=1500)
        np.testing.assert_allclose(pointwise(result), exact_loo(y), atol=0.004)
        assert values(result, "elpd") == pytest.approx(exact_loo(y).sum(), abs=0.02)
        assert result.pareto_k.max() < result.good_k
        some = pairs.iloc[[12, 3]]
        np.testing.assert_allclose(
            pointwise(loo(learnt, some, n_draws=1500)), exact_loo(y)[[12, 3]], atol=0.01
        )

    @pytest.mark.slow
    def test_of_tosses_is_exact(self):
        frame = FRAME.assign(rating=(FRAME["rating"] > 2).astype(float))
        ratings = Ratings.from_frame(frame, dtype=torch.float64)
        y = ratings.value.numpy()
        p = draws_of(scipy.stats.beta(1 + y.sum(), 1 + (1 - y).sum()), 1500)
        result = loo(represented(tosses, ratings, p=p), ratings, n_draws=1500)
        others = y.sum() - y
        heads = (1 + others) / (2 + len(y) - 1)
        expected = np.log(np.where(y == 1, heads, 1 - heads))
        np.testing.assert_allclose(pointwise(result), expected, atol=0.004)

    @pytest.mark.slow
    def test_of_chains(self, about):
        learnt, y = about
        chains = replace(learnt, n_chains=4)
        result = loo(chains, learnt.ratings, n_draws=1500)
        np.testing.assert_allclose(pointwise(result), exact_loo(y), atol=0.004)

    @pytest.mark.slow
    def test_says_once_how_many_k_are_high(self):
        frame = pd.DataFrame({"user": ["a", "b"], "item": ["x", "y"], "rating": [0.0, 1.0]})
        ratings = Ratings.from_frame(frame, dtype=torch.float64)
        mean, variance = normal_given(ratings.value.numpy() * 40)
        theta = draws_of(scipy.stats.norm(mean, np.sqrt(variance)), 1000)
        posterior = represented(about_theta, ratings, theta=theta)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            result = loo(posterior, ratings)
        assert (result.pareto_k > result.good_k).sum() == 2
        (only,) = said
        assert "above 0.67 for 2 of 2 ratings" in str(only.message)
        assert only.filename == __file__

    def test_refuses_what_was_not_trained_on(self, about):
        learnt, _ = about
        new = pd.DataFrame(
            {"user": ["ann", "eve"], "item": [3, 3], "rating": [FRAME.rating[0], 2]}
        )
        with pytest.raises(PMFError, match="1 of 2 pairs are not among") as error:
            loo(learnt, new)
        assert "eve" in str(error.value)
        with pytest.raises(PMFError, match=r"20 of 20 pairs .* another rating"):
            loo(learnt, FRAME.assign(rating=FRAME["rating"] + 0.5))
        with pytest.raises(RatingsError):
            loo(learnt, FRAME[["user", "item"]])
        with pytest.raises(PMFError, match="no pairs"):
            loo(learnt, FRAME.iloc[:0])

    def test_refuses_draws_without_a_tail(self, about):
        learnt, _ = about
        for ask in (loo, plot_loo_pit):
            with pytest.raises(PMFError, match="needs at least 25 draws, and has 24: raise n_dr"):
                ask(learnt, learnt.ratings, n_draws=24)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            loo(learnt, learnt.ratings, n_draws=25)
        assert any("has 25 effective draws" in str(each.message) for each in said)

    @pytest.mark.slow
    def test_refuses_a_point_estimate(self):
        point = fit(PMF(0, noise="shared"), Ratings.from_frame(FRAME), "map", progress=False)
        with pytest.raises(PMFError, match="point estimate"):
            loo(point, FRAME)

    @pytest.mark.long
    @pytest.mark.statistical
    def test_of_variational_inference_is_near_refits(self):
        """Learn biases from some ratings each, for which a mean-field posterior is good enough."""
        generator = np.random.default_rng(3)
        user, item = np.divmod(np.arange(96), 12)
        unit = 0.5 + 0.15 * generator.normal(size=8)[user] + 0.1 * generator.normal(size=12)[item]
        rating = np.clip(unit + 0.15 * generator.normal(size=96), 0, 1)
        frame = pd.DataFrame({"user": user, "item": item, "rating": rating})
        model = PMF(0, noise="shared", likelihood=NormalIdentity())

        def fitted(some):
            ratings = Ratings.from_frame(some, scale=(0, 1), dtype=torch.float64)
            return fit(model, ratings, progress=False)

        rows = [0, 17, 40, 66, 95]
        result = loo(fitted(frame), frame.iloc[rows], n_draws=4000)
        refits = [-fitted(frame.drop(k)).evaluate(frame.iloc[[k]])["nll"] for k in rows]
        np.testing.assert_allclose(pointwise(result), refits, atol=0.15)


ASKED_FOR_K = {
    "loo": lambda near, far, pairs: loo(far, pairs),
    "compare": lambda near, far, pairs: compare({"near": near, "far": far}, pairs),
    "plot_loo_pit": lambda near, far, pairs: plot_loo_pit(far, pairs),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ASKED_FOR_K)
def test_the_warning_of_high_k_blames_the_caller(about, agg, name):
    """Point to the line that asked, once, and to none of the package or of ArviZ."""
    near, _ = about
    far = far_from(near)
    ask = ASKED_FOR_K[name]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ask(near, far, near.ratings)
    (only,) = [each for each in said if each.category is UserWarning]
    assert str(only.message).startswith("Pareto k is above")
    assert only.filename == __file__
    assert only.lineno == ask.__code__.co_firstlineno


def error_of_sum(each: np.ndarray) -> float:
    """Return the standard error of the sum over the ratings of FRAME: four users are sampled."""
    return 2 * pd.Series(each).groupby(FRAME["user"]).sum().std(ddof=1)


class TestFewDraws:
    @pytest.mark.slow
    def test_are_told_with_their_number(self, about):
        learnt, _ = about
        with pytest.warns(UserWarning, match="has 60 effective draws, and needs 100"):
            loo(learnt, learnt.ratings, n_draws=60)
        with pytest.warns(UserWarning, match=r"has 60 \(one\), 60 \(two\) effective draws"):
            compare({"one": learnt, "two": learnt}, learnt.ratings, n_draws=60)

    @pytest.mark.slow
    def test_of_chains_count_by_what_is_effective(self, about):
        """1,500 draws in which each of 50 values comes 30 times in a row have about 50."""
        learnt, _ = about
        theta = torch.from_numpy(draws_of(scipy.stats.norm(0.5, 0.05), 50)).repeat_interleave(30)
        chains = replace(learnt, latents={"theta": theta}, n_chains=1)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            loo(chains, learnt.ratings, n_draws=1500)
        (few,) = [str(one.message) for one in said if "effective draws" in str(one.message)]
        assert 30 < float(few.split("has ")[1].split()[0]) < 80


class TestCompare:
    COLUMNS = ["rank", "elpd", "se", "p", "elpd_diff", "dse", "weight", "n_bad_k"]  # noqa: RUF012

    @pytest.mark.slow
    def test_of_two_known_models(self, about):
        learnt, y = about
        off = torch.from_numpy(draws_of(scipy.stats.norm(0.2, 0.1), 1500))
        wide = replace(learnt, latents={"theta": off})
        table = compare({"wrong": wide, "right": learnt}, learnt.ratings, n_draws=1500)
        assert list(table.columns) == self.COLUMNS
        assert list(table.index) == ["right", "wrong"]
        assert list(table["rank"]) == [0, 1]
        assert list(table["n_bad_k"]) == [0, 0]
        exact = exact_loo(y)
        right, wrong = table.loc["right"], table.loc["wrong"]
        assert right["elpd"] == pytest.approx(exact.sum(), abs=0.05)
        assert right["se"] == pytest.approx(error_of_sum(exact), rel=0.03)
        assert right["elpd_diff"] == right["dse"] == 0
        other = loo(wide, learnt.ratings, n_draws=1500)
        assert wrong["elpd_diff"] == pytest.approx(values(other, "elpd") - right["elpd"])
        difference = pointwise(other) - pointwise(loo(learnt, learnt.ratings, n_draws=1500))
        assert wrong["dse"] == pytest.approx(error_of_sum(difference))
        assert other.se == pytest.approx(error_of_sum(pointwise(other)))
        assert table["weight"].sum() == pytest.approx(1)
        assert right["weight"] > 0.5

    @pytest.mark.slow
    def test_counts_high_k_of_each(self, about):
        learnt, _ = about
        far = far_from(learnt)
        with pytest.warns(UserWarning, match=r"above 0.67 for \d+ of 20 \(far\) ratings"):
            table = compare({"near": learnt, "far": far}, learnt.ratings)
        assert table.loc["near", "n_bad_k"] == 0
        assert table.loc["far", "n_bad_k"] > 0

    @pytest.mark.slow
    def test_refuses_what_cannot_be_compared(self, about):
        learnt, _ = about
        with pytest.raises(PMFError, match="at least two"):
            compare({"one": learnt}, FRAME)
        levels = PMF(1, likelihood=OrderedLogit(5))
        ratings = Ratings.from_frame(FRAME, scale=(1, 5))
        ordinal = fit(levels, ratings, VI(max_steps=5, learn_scales=None), progress=False)
        with pytest.raises(PMFError, match=r"density.*probability"):
            compare({"normal": learnt, "ordinal": ordinal}, FRAME)


@pytest.fixture(scope="module")
def ordinal():
    frame = FRAME.assign(rating=FRAME["rating"] / 2)
    ratings = Ratings.from_frame(frame, scale=(0.5, 2.5))
    model = PMF(1, noise="shared", likelihood=OrderedLogit(5))
    return fit(model, ratings, VI(max_steps=30, learn_scales=None), progress=False)


@pytest.fixture(scope="module")
def tossed():
    frame = FRAME.assign(rating=(FRAME["rating"] > 2).astype(float))
    model = PMF(1, noise="shared", likelihood=BernoulliLogit())
    return fit(
        model, Ratings.from_frame(frame), VI(max_steps=30, learn_scales=None), progress=False
    )


@pytest.mark.usefixtures("agg")
class TestPlots:
    def axes(self, shown):
        axes = shown.get_viz("plot", "rating") if hasattr(shown, "get_viz") else shown
        axes.figure.canvas.draw()
        return axes

    @pytest.mark.slow
    def test_ppc_of_densities(self, posterior):
        axes = self.axes(plot_ppc(posterior, FRAME))
        assert axes.get_xlabel() == "Rating"
        assert len(axes.lines) > 100  # one a draw, and what was observed

    @pytest.mark.slow
    def test_ppc_of_levels(self, ordinal, tossed):
        axes = self.axes(plot_ppc(ordinal, ordinal.ratings))
        labels = [label.get_text() for label in axes.get_xticklabels()]
        assert labels == ["0.5", "1", "1.5", "2", "2.5"]
        axes = self.axes(plot_ppc(tossed, tossed.ratings, n_draws=20))
        assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1"]

    @pytest.mark.slow
    def test_ppc_of_counts(self):
        generator = np.random.default_rng(0)
        frame = FRAME.assign(rating=generator.poisson(60, 20).astype(float))
        ratings = Ratings.from_frame(frame, transform="count")
        model = PMF(
            0, priors=Priors(mu=Normal(4.0, 1.0)), likelihood=NegativeBinomialLog(), noise="shared"
        )
        counted = fit(model, ratings, VI(max_steps=30, learn_scales=None), progress=False)
        axes = self.axes(plot_ppc(counted, ratings, n_draws=10))
        assert axes.get_xlabel() == "Rating"
        assert len(axes.lines) >= 11  # distribution functions

    @pytest.mark.slow
    def test_prior_ppc(self, posterior, ordinal):
        """Continuous ratings by distribution functions, over one more range on either side."""
        axes = self.axes(plot_ppc(posterior, FRAME, n_draws=30, prior=True))
        assert axes.get_xlim() == (-3.0, 9.0)
        assert len(axes.lines) > 30
        axes = self.axes(plot_ppc(ordinal, ordinal.ratings, n_draws=30, prior=True))
        assert axes.get_xticklabels()[0].get_text() == "0.5"
        if axes.get_legend() is not None:  # of ArviZ 0.x
            assert "Prior predictive" in [x.get_text() for x in axes.get_legend().get_texts()]

    @pytest.mark.slow
    def test_prior_ppc_has_the_draws_of_the_prior(self, ordinal, monkeypatch):
        """Shares of levels are uniform over the simplex, so each level has a fifth on average.

        The biases and factors widen the score, which favours the outermost levels. By symmetry,
        the lowest and the highest have the same share: 400 draws, whose error is 0.02.
        """
        plot, shown = arviz_versions.plot_ppc, []

        def listening(data, *options):
            shown.append(data["posterior_predictive"]["rating"].to_numpy())
            return plot(data, *options)

        monkeypatch.setattr(arviz_versions, "plot_ppc", listening)
        plot_ppc(ordinal, ordinal.ratings, n_draws=400, prior=True)
        (drawn,) = shown
        assert drawn.shape == (1, 400, 20)
        share = np.bincount(drawn.ravel(), minlength=5) / drawn.size
        assert share[0] == pytest.approx(share[4], abs=0.08)
        assert (share > 0.1).all()

    def test_ppc_needs_ratings(self, posterior):
        with pytest.raises(RatingsError):
            plot_ppc(posterior, FRAME[["user", "item"]])

    @pytest.mark.slow
    def test_loo_pit_of_densities(self, about):
        learnt, _ = about
        assert self.axes(plot_loo_pit(learnt, FRAME)).get_xlabel() == "LOO-PIT"

    def test_need_matplotlib(self, about, monkeypatch):
        learnt, _ = about
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        for plot in (plot_ppc, plot_loo_pit):
            with pytest.raises(PMFError, match=r"pip install 'pyro-pmf\[plots\]'"):
                plot(learnt, FRAME)

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore:Pareto k is above")
    def test_loo_pit_of_levels_is_randomised(self, ordinal, monkeypatch):
        given = {}
        plot = arviz().plot_loo_pit

        def spy(data, **options):
            given["data"] = data
            return plot(data, **options)

        monkeypatch.setattr(arviz(), "plot_loo_pit", spy)
        plot_loo_pit(ordinal, ordinal.ratings)
        observed = given["data"]["observed_data"]["rating"].to_numpy()
        drawn = given["data"]["posterior_predictive"]["rating"].to_numpy()
        rating = ordinal.ratings.rating
        assert np.abs(observed - rating).max() <= 0.25
        assert len(np.unique(observed)) == len(rating)
        level = np.rint(2 * drawn) / 2
        assert set(level.ravel()) <= {0.5, 1, 1.5, 2, 2.5}
        assert scipy.stats.kstest((drawn - level).ravel(), "uniform", (-0.25, 0.5)).pvalue > 1e-3
        assert (ordinal.ratings.rating == rating).all()


def test_a_comparison_needs_names(posterior):
    with pytest.raises(PMFError, match=r"Give the posteriors by name.*not as a list"):
        compare([posterior, posterior], FRAME)


def test_a_plot_of_no_pairs(posterior):
    for plot in (plot_ppc, plot_loo_pit):
        with pytest.raises(PMFError, match="There are no pairs: give at least one"):
            plot(posterior, FRAME.iloc[:0])
    assert not pyplot.get_fignums()


def test_ratings_without_a_density_are_shown_by_distribution_functions(posterior):
    """A density of one value does not exist: each draw of it gave a warning."""
    for pairs in (FRAME.iloc[:1], FRAME[FRAME["rating"] == FRAME["rating"][0]]):
        assert arviz_versions.axes_of(plot_ppc(posterior, pairs, 5)).get_xlabel() == "Rating"
    pyplot.close("all")
