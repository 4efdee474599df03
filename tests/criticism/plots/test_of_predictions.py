"""Figures of predictions: the numbers that they show, and whether their texts fit in."""

from __future__ import annotations

import numpy as np
import pytest
from figures import inside_the_figure, texts
from matplotlib import pyplot
from matplotlib.colors import to_hex
from scipy.stats import binom

from pyro_pmf import PMFError, RatingsError
from pyro_pmf.criticism.plots import plot_calibration, plot_error_by_sd, plot_pit, plot_user
from pyro_pmf.prediction.metrics import calibration, pit_histogram


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
        """Compare with the bootstrap over users, whose ratings stay together."""
        ax = plot_error_by_sd(posterior, split[1], n_bins=1)
        (segment,) = ax.collections[0].get_segments()
        square = posterior.scores(split[1])["error"] ** 2
        of_users = square.groupby(split[1].user.numpy()).agg(["sum", "count"]).to_numpy()
        generator = np.random.default_rng(0)
        again = of_users[generator.integers(len(of_users), size=(4000, len(of_users)))].sum(1)
        spread = np.sqrt(again[:, 0] / again[:, 1]).std()
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


@pytest.mark.parametrize("plot", [plot_calibration, plot_pit, plot_error_by_sd])
def test_no_ratings_are_refused_before_a_figure_is_made(posterior, split, plot):
    with pytest.raises(RatingsError, match="There are no ratings to plot: give at least one"):
        plot(posterior, split[1].to_frame().iloc[:0])
    assert not pyplot.get_fignums()


@pytest.mark.parametrize("plot", [plot_calibration, plot_pit, plot_error_by_sd])
def test_one_rating_gives_no_warnings(posterior, split, plot):
    assert plot(posterior, split[1].to_frame().iloc[:1]).get_title("left")
