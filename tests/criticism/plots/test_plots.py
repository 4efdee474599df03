from __future__ import annotations

import sys
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot
from matplotlib.colors import to_hex
from pyro.infer.autoguide import AutoNormal
from scipy.stats import binom

from pyro_pmf import (
    PMF,
    BernoulliLogit,
    Fixed,
    NormalIdentity,
    OrderedLogit,
    PMFError,
    Priors,
    Ratings,
    RatingsError,
    fit,
)
from pyro_pmf.datasets import simulate
from pyro_pmf.moments.gaussian import Gaussian
from pyro_pmf.prediction.metrics import calibration, pit_histogram
from pyro_pmf.criticism.plots import (
    plot_calibration,
    plot_elbo,
    plot_error_by_sd,
    plot_factor_norms,
    plot_pit,
    plot_scales,
    plot_user,
)

FIXED = Priors(mu=Fixed(0.3), sigma=Fixed(0.1), sigma_U=Fixed(0.7), sigma_V=Fixed(0.7))


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


@pytest.fixture(scope="module")
def split():
    model = PMF(n_factors=2, noise="shared", priors=FIXED)
    ratings, _ = simulate(model, 30, 25, 500, scale=(1, 5))
    return ratings.split(0.2)


@pytest.fixture(scope="module")
def posterior(split):
    model = PMF(n_factors=2, noise="shared")
    return fit(model, split[0], max_steps=60, learn_scales="elbo", progress=False)


@pytest.fixture(scope="module")
def point(split):
    priors = Priors(sigma_U=Fixed(0.7), sigma_V=Fixed(0.7))
    return fit(PMF(n_factors=2, priors=priors), split[0], "delta", max_steps=60, progress=False)


@pytest.fixture(scope="module")
def drawn(split):
    """A posterior that draws represent, of scalars too."""
    model = PMF(n_factors=1, noise="shared")
    with pytest.warns(UserWarning, match="deterministic ELBO|Falling back|Trace_ELBO"):
        return fit(model, split[0], AutoNormal(model), max_steps=5, num_draws=7, progress=False)


@pytest.fixture(scope="module", params=["ordinal", "bernoulli"])
def discrete(split, request):
    """A posterior of levels, and held-out ratings that are levels."""
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
    return fit(model, ratings, max_steps=60, progress=False), test


@pytest.fixture(scope="module")
def user(split):
    return split[1].to_frame()["user"].value_counts().index[0]


def draw(ax):
    """Render, so that what only fails then fails here."""
    ax.figure.canvas.draw()
    return ax


def texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def inside_the_figure(ax):
    """Whether every text lies wholly on the canvas."""
    draw(ax)
    canvas = ax.figure.bbox
    low, high = sorted(ax.get_ylim())
    ticks = [tick for tick in ax.get_yticklabels() if low <= tick.get_position()[1] <= high]
    artists = [ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts, *ticks]
    boxes = [a.get_window_extent() for a in artists if a.get_text()]
    if ax.get_legend() is not None:
        boxes.append(ax.get_legend().get_window_extent())
    return all(
        canvas.x0 <= box.x0 + 1
        and box.x1 - 1 <= canvas.x1
        and canvas.y0 <= box.y0 + 1
        and box.y1 - 1 <= canvas.y1
        for box in boxes
    )


class TestELBO:
    def test_draws_the_history(self, posterior):
        ax = plot_elbo(posterior)
        step, elbo = ax.lines[0].get_data()
        np.testing.assert_array_equal(step, posterior.history["step"])
        np.testing.assert_array_equal(elbo, posterior.history["elbo"])
        assert ax.get_ylabel() == "ELBO (nats)"
        assert ax.get_title("left") == "Not converged after 60 steps"
        converged = plot_elbo(replace(posterior, converged=True))
        assert converged.get_title("left") == "Converged after 60 steps"
        assert inside_the_figure(ax)

    def test_shows_the_end_and_not_the_first_climb(self, posterior):
        elbo = posterior.history["elbo"]
        bottom, top = plot_elbo(posterior).get_ylim()
        assert elbo.iloc[0] < bottom < elbo.iloc[-1] <= elbo.max() < top

    @pytest.mark.parametrize("max_steps", [1, 2, 5])
    def test_of_a_few_steps(self, split, max_steps):
        short = fit(PMF(n_factors=0), split[0], max_steps=max_steps, progress=False)
        ax = draw(plot_elbo(short))
        assert ax.get_title("left").startswith(f"Not converged after {max_steps} step")


class TestTraces:
    @pytest.fixture
    def chains(self, posterior):
        generator = np.random.default_rng(0)
        history = pd.DataFrame(
            {
                "step": range(1, 41),
                "chain": np.repeat([0, 1], 20),
                "log_likelihood": generator.normal(-300, 5, 40),
                "divergent": np.arange(40) == 33,
            }
        )
        return replace(posterior, num_chains=2, history=history, converged=False)

    def test_draw_the_log_likelihood_of_each_chain(self, chains):
        ax = plot_elbo(chains)
        first, second, divergent = ax.lines
        for line, draws in ((first, slice(0, 20)), (second, slice(20, 40))):
            np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 21))
            shown = chains.history["log_likelihood"][draws]
            np.testing.assert_array_equal(line.get_ydata(), shown)
        np.testing.assert_array_equal(divergent.get_xdata(), [14])
        assert texts(ax) == ["chain 1", "chain 2", "divergent"]
        assert ax.get_ylabel() == "Log likelihood (nats)"
        assert ax.get_title("left") == "Not mixed after 2 chains of 20 draws"
        assert inside_the_figure(ax)

    def test_of_one_chain_that_has_mixed(self, chains):
        one = replace(chains, history=chains.history[:20], num_chains=1, converged=True)
        assert plot_elbo(one).get_title("left") == "Mixed after 1 chain of 20 draws"


class TestCalibration:
    def test_draws_the_calibration_of_each(self, posterior, point, split):
        ax = plot_calibration({"VI": posterior, "MAP": point}, split[1])
        diagonal, *lines = ax.lines
        np.testing.assert_array_equal(*diagonal.get_data())
        for line, fitted in zip(lines, (posterior, point), strict=True):
            expected = calibration(fitted.scores(split[1])["pit"].to_numpy())
            np.testing.assert_allclose(line.get_xdata(), expected["probability"])
            np.testing.assert_allclose(line.get_ydata(), expected["coverage"])
        assert texts(ax) == ["VI", "MAP"]
        assert inside_the_figure(ax)

    def test_tells_lines_apart_without_colour(self, posterior, split):
        named = {str(k): posterior for k in range(6)}
        lines = plot_calibration(named, split[1]).lines[1:]
        assert len({line.get_marker() for line in lines}) == 6
        assert len({to_hex(line.get_color()) for line in lines}) == 6

    def test_of_one_posterior_has_no_legend(self, posterior, split):
        ax = plot_calibration(posterior, split[1].to_frame())
        assert ax.get_legend() is None
        assert len(ax.lines) == 2
        assert "100 held-out ratings" in ax.get_title("left")

    def test_needs_ratings(self, posterior, split):
        pairs = split[1].to_frame().drop(columns="rating")
        with pytest.raises(RatingsError, match="rating"):
            plot_calibration(posterior, pairs)

    def test_of_levels(self, discrete):
        posterior, test = discrete
        line = plot_calibration(posterior, test).lines[1]
        expected = calibration(posterior.scores(test)["pit"].to_numpy())
        np.testing.assert_allclose(line.get_ydata(), expected["coverage"])


class TestPIT:
    def test_draws_shares_about_the_expected_one(self, posterior, split):
        ax = plot_pit(posterior, split[1], n_bins=5)
        expected = pit_histogram(posterior.scores(split[1])["pit"].to_numpy(), 5)["count"] / 100
        band, _, steps = ax.patches
        np.testing.assert_allclose(steps.get_data().values, expected)
        np.testing.assert_allclose(steps.get_data().edges, np.linspace(0, 1, 6))
        assert list(ax.lines[0].get_ydata()) == [0.2, 0.2]
        low, high = band.get_y(), band.get_y() + band.get_height()
        inside = binom.cdf(round(100 * high), 100, 0.2) - binom.cdf(round(100 * low) - 1, 100, 0.2)
        assert 0.99 <= inside < 0.995
        assert texts(ax) == ["99% of bins by chance", "held-out ratings"]
        assert inside_the_figure(ax)

    def test_tells_several_apart(self, posterior, point, split):
        ax = plot_pit({"VI": posterior, "MAP": point}, split[1])
        assert texts(ax) == ["99% of bins by chance", "VI", "MAP"]
        _, *markers = ax.lines
        for line, fitted in zip(markers, (posterior, point), strict=True):
            table = pit_histogram(fitted.scores(split[1])["pit"].to_numpy(), 20)
            np.testing.assert_allclose(line.get_ydata(), table["count"] / 100)
            np.testing.assert_allclose(line.get_xdata(), (table["low"] + table["high"]) / 2)
        assert inside_the_figure(ax)

    def test_of_levels(self, discrete):
        posterior, test = discrete
        ax = plot_pit(posterior, test)
        assert ax.patches[-1].get_data().values.sum() == pytest.approx(1)

    def test_says_what_is_wrong(self, posterior, split):
        with pytest.raises(PMFError, match="n_bins must be"):
            plot_pit(posterior, split[1], n_bins=0)
        with pytest.raises(RatingsError):
            plot_pit(posterior, split[1].to_frame().drop(columns="rating"))


class TestErrorBySD:
    def test_draws_rmse_against_predicted_sd(self, posterior, split):
        ax = plot_error_by_sd(posterior, split[1], n_bins=4)
        predicted = posterior.predict(split[1]).assign(rating=split[1].to_frame()["rating"])
        bins = [
            group for _, group in predicted.groupby(predicted["sd"].rank(method="first") // 25.1)
        ]
        rmse = [np.sqrt(np.mean((b["rating"] - b["mean"]) ** 2)) for b in bins]
        sd = [np.sqrt(np.mean(b["sd"] ** 2)) for b in bins]
        diagonal, line, *_ = ax.lines
        np.testing.assert_array_equal(*diagonal.get_data())
        np.testing.assert_allclose(line.get_xdata(orig=False), sd, rtol=1e-5)
        np.testing.assert_allclose(line.get_ydata(orig=False), rmse, rtol=1e-5)
        assert "rating units" in ax.get_xlabel()
        assert "rating units" in ax.get_ylabel()
        assert inside_the_figure(ax)

    def test_bars_are_a_standard_error(self, posterior, split):
        """Beside the bootstrap."""
        ax = plot_error_by_sd(posterior, split[1], n_bins=1)
        (segment,) = ax.collections[0].get_segments()
        error = posterior.scores(split[1])["error"].to_numpy()
        generator = np.random.default_rng(0)
        again = generator.choice(error, (4000, len(error)))
        spread = np.sqrt((again**2).mean(1)).std()
        assert np.ptp(segment[:, 1]) / 2 == pytest.approx(spread, rel=0.1)

    def test_names_several(self, posterior, point, split):
        ax = plot_error_by_sd({"VI": posterior, "MAP": point}, split[1])
        assert texts(ax) == ["VI", "MAP"]
        assert inside_the_figure(ax)

    def test_of_levels_and_of_few(self, discrete):
        posterior, test = discrete
        assert inside_the_figure(plot_error_by_sd(posterior, test))
        assert inside_the_figure(plot_error_by_sd(posterior, test[:1]))

    def test_says_what_is_wrong(self, posterior, split):
        with pytest.raises(PMFError, match="n_bins must be"):
            plot_error_by_sd(posterior, split[1], n_bins=2.5)
        with pytest.raises(RatingsError):
            plot_error_by_sd(posterior, split[1].to_frame().drop(columns="rating"))


class TestUser:
    def test_draws_ratings_means_and_intervals(self, posterior, split, user):
        ax = plot_user(posterior, split[1], user)
        theirs = split[1].to_frame().query("user == @user")
        expected = posterior.predict(theirs).assign(rating=theirs["rating"]).sort_values("mean")
        segments = np.array(ax.collections[0].get_segments())  # (n, 2 ends, x and y)
        np.testing.assert_allclose(segments[:, 0, 0], expected["lower"])
        np.testing.assert_allclose(segments[:, 1, 0], expected["upper"])
        means, *ratings = ax.lines
        np.testing.assert_allclose(means.get_xdata(), expected["mean"])
        points = sorted(
            point for line in ratings for point in zip(*line.get_data()[::-1], strict=True)
        )
        np.testing.assert_allclose([x for _, x in points], expected["rating"])
        inside = expected["rating"].between(expected["lower"], expected["upper"]).sum()
        assert f"{inside} of {len(expected)}" in ax.get_title("left")
        assert inside_the_figure(ax)

    def test_tells_those_inside_from_those_outside(self, posterior, split, user):
        ax = plot_user(posterior, split[1], user, interval=0.3)
        assert texts(ax) == ["30% interval", "mean", "rating inside", "outside"]
        theirs = split[1].to_frame().query("user == @user")
        predicted = posterior.predict(theirs, 0.3)
        out = ~theirs["rating"].between(predicted["lower"], predicted["upper"])
        assert sorted(ax.lines[-1].get_xdata()) == sorted(theirs["rating"][out])
        assert inside_the_figure(ax)

    def test_titles_long_and_missing(self, posterior, split, user):
        frame = split[1].to_frame().query("user == @user")
        first, second, third = frame["item"].iloc[:3]
        titles = {first: "A film with a title that goes on and on and on and on", second: np.nan}
        ax = plot_user(posterior, frame, user, titles)
        labels = [label.get_text() for label in ax.get_yticklabels()]
        assert {str(second), str(third)} <= set(labels)
        assert any(label.startswith("A film") and label.endswith(" …") for label in labels)
        assert max(map(len, labels)) <= 34
        assert inside_the_figure(ax)

    def test_shows_n_from_the_highest_to_the_lowest_prediction(self, posterior, split, user):
        theirs = split[1].to_frame().query("user == @user")
        mean = np.sort(posterior.predict(theirs)["mean"])
        shown = plot_user(posterior, theirs, user, n=3).lines[0].get_xdata()
        np.testing.assert_allclose(shown[[0, -1]], mean[[0, -1]])
        assert len(shown) == 3

    def test_of_levels(self, discrete, user):
        posterior, test = discrete
        ax = plot_user(posterior, test, user)
        theirs = test.query("user == @user")
        inside = int(posterior.scores(theirs)["covered"].sum())
        assert f"{inside} of {len(theirs)} " in ax.get_title("left")
        assert inside_the_figure(ax)

    def test_a_level_at_the_end_of_its_interval_is_inside(self, discrete, user):
        posterior, test = discrete
        theirs = test.query("user == @user")
        upper = posterior.predict(theirs)["upper"].to_numpy()
        title = plot_user(posterior, theirs.assign(rating=upper), user).get_title("left")
        assert f"{len(theirs)} of {len(theirs)} " in title

    def test_one_rating(self, posterior, split, user):
        one = split[1].to_frame().query("user == @user").iloc[:1]
        assert inside_the_figure(plot_user(posterior, one, user))

    def test_says_what_is_wrong(self, posterior, split, user):
        with pytest.raises(RatingsError, match="'nobody' has none"):
            plot_user(posterior, split[1], "nobody")
        with pytest.raises(PMFError, match="n must be"):
            plot_user(posterior, split[1], user, n=0)


class TestScales:
    def test_draws_median_and_interval_of_each(self, posterior):
        ax = plot_scales(posterior)
        labels = [label.get_text() for label in ax.get_yticklabels()]
        assert [label.split("$")[1] for label in labels] == [
            *(r"\sigma_c", r"\sigma_b", r"\sigma_V", r"\sigma_U", r"\sigma")
        ]
        sigma = posterior.latents["sigma"]
        assert ax.lines[-1].get_xdata()[0] == pytest.approx(float(sigma.log_mean.exp()), rel=0.02)
        (segment,) = ax.collections[-1].get_segments()
        spread = 1.645 * sigma.log_var.sqrt()
        expected = [float((sigma.log_mean + sign * spread).exp()) for sign in (-1, 1)]
        assert segment[:, 0] == pytest.approx(expected, rel=0.05)
        assert inside_the_figure(ax)

    def test_names_both_scales(self, posterior):
        assert sorted(texts(plot_scales(posterior))) == [
            "on the logit scale",
            "on the unit scale of the ratings",
        ]

    def test_of_a_point_estimate(self, point):
        numbers = [text.get_text() for text in plot_scales(point).texts]
        assert f"{float(point.latents['sigma']):.3f}" in numbers

    def test_of_draws(self, drawn):
        ax = plot_scales(drawn)
        assert len(ax.get_yticks()) == 5
        assert ax.lines[-1].get_xdata()[0] == pytest.approx(np.median(drawn.latents["sigma"]))

    def test_of_the_identity(self, split):
        model = PMF(n_factors=1, noise="shared", likelihood=NormalIdentity())
        fitted = fit(model, split[0], max_steps=5, progress=False)
        assert texts(plot_scales(fitted)) == ["on the unit scale of the ratings"]

    def test_of_levels(self, discrete):
        assert texts(plot_scales(discrete[0])) == ["on the logit scale"]

    def test_without_any(self, split):
        names = ("sigma", "sigma_b", "sigma_c")
        priors = Priors(**{name: Fixed(0.2) for name in names})
        held = PMF(n_factors=0, noise="shared", priors=priors)
        fitted = fit(held, split[0], max_steps=2, progress=False)
        with pytest.raises(PMFError, match="nothing to plot"):
            plot_scales(fitted)

    def test_leaves_the_random_state_alone(self, posterior):
        state = torch.get_rng_state()
        plot_scales(posterior)
        assert torch.equal(torch.get_rng_state(), state)


def with_random_rows(posterior, strengths=(1.0, 1.0)):
    generator = torch.Generator().manual_seed(0)
    rows = {
        name: replace(x, mean=torch.randn(x.mean.shape, generator=generator))
        for name, x in posterior.latents.items()
        if name in ("U", "V")
    }
    rows["U"] = replace(rows["U"], mean=rows["U"].mean * torch.tensor(strengths))
    return replace(posterior, latents={**posterior.latents, **rows})


class TestFactorNorms:
    def test_draws_each_from_the_strongest(self, posterior):
        alive = with_random_rows(posterior)
        ax, table = plot_factor_norms(alive), alive.factor_norms()
        np.testing.assert_allclose(
            [bar.get_height() for bar in ax.patches], table["rms"], rtol=1e-6
        )
        assert [label.get_text() for label in ax.get_xticklabels()] == [*map(str, table.index)]
        assert [text.get_text() for text in ax.texts] == [
            f"{share:.0%}" for share in table["share"]
        ]
        assert ax.get_title("left").endswith("no factor is dead")
        assert inside_the_figure(ax)

    def test_a_weak_factor_is_not_called_nothing(self, posterior):
        weak = with_random_rows(posterior, (1.0, 0.05))
        assert 0 < weak.factor_norms()["share"].iloc[-1] < 0.005
        assert [text.get_text() for text in plot_factor_norms(weak).texts] == ["100%", "<1%"]

    def test_marks_dead_ones(self, posterior):
        V = posterior.latents["V"]
        alive = torch.tensor([0.0, 1.0])
        dead = replace(
            posterior,
            latents={**posterior.latents, "V": Gaussian(V.mean * alive, V.var, V.sites)},
        )
        ax = plot_factor_norms(dead)
        assert [text.get_text() for text in ax.texts] == ["100%", "dead"]
        assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "1"]
        assert ax.patches[-1].get_hatch()
        assert ax.get_title("left").endswith("1 of 2 factors dead")
        assert inside_the_figure(ax)

    def test_all_dead(self, posterior):
        V = posterior.latents["V"]
        nothing = Gaussian(V.mean * 0.0, V.var, V.sites)
        ax = plot_factor_norms(replace(posterior, latents={**posterior.latents, "V": nothing}))
        assert [text.get_text() for text in ax.texts] == ["dead", "dead"]
        assert ax.get_ylim()[1] > 1
        assert inside_the_figure(ax)

    def test_of_many(self, split):
        many = fit(PMF(n_factors=40), split[0], max_steps=5, progress=False)
        ax = plot_factor_norms(many)
        assert len(ax.patches) == 40
        assert not ax.texts
        assert inside_the_figure(ax)

    def test_without_any(self, split):
        none = fit(PMF(n_factors=0), split[0], max_steps=2, progress=False)
        with pytest.raises(PMFError, match="no factors"):
            plot_factor_norms(none)


def test_all_draw_on_given_axes(posterior, split):
    figure, axes = pyplot.subplots(3, 3, layout="constrained", figsize=(20, 18))
    user = split[1].to_frame()["user"].iloc[0]
    elbo, calibrated, users, scales, pit, errors, factors, *_ = axes.flat
    assert plot_elbo(posterior, ax=elbo) is elbo
    assert plot_calibration({"VI": posterior}, split[1], ax=calibrated) is calibrated
    assert plot_user(posterior, split[1], user, ax=users) is users
    assert plot_scales(posterior, ax=scales) is scales
    assert plot_pit(posterior, split[1], ax=pit) is pit
    assert plot_error_by_sd(posterior, split[1], ax=errors) is errors
    assert plot_factor_norms(posterior, ax=factors) is factors
    assert pyplot.get_fignums() == [figure.number]
    figure.canvas.draw()


def test_change_no_defaults(posterior, split):
    before = dict(mpl.rcParams)
    plot_elbo(posterior)
    plot_calibration(posterior, split[1])
    plot_pit(posterior, split[1])
    plot_error_by_sd(posterior, split[1])
    plot_factor_norms(posterior)
    plot_scales(posterior)
    assert dict(mpl.rcParams) == before


def test_without_matplotlib(posterior, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PMFError, match=r"pip install 'pyro-pmf\[plots\]'"):
        plot_elbo(posterior)
