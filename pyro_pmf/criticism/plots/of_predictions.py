"""Figures of predictions beside held-out ratings."""

from __future__ import annotations

import textwrap
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import binom

from pyro_pmf.arguments import require_integer
from pyro_pmf.criticism.plots.style import (
    BLUE,
    CYCLE,
    GREY,
    LEGEND_HEIGHT,
    MARKERS,
    VERMILLION,
    axes_or_new,
    legend_above,
    style_rows,
)
from pyro_pmf.data.frames import IntoFrame
from pyro_pmf.data.ratings import Ratings, as_frame, observed
from pyro_pmf.errors import RatingsError
from pyro_pmf.posterior import Posterior
from pyro_pmf.prediction.metrics import calibration, clustered_error, pit_histogram

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TITLE_WIDTH = 34  # most characters of an item's title


def plot_calibration(
    posteriors: Posterior | Mapping[str, Posterior],
    ratings: Ratings | IntoFrame,
    ax: Axes | None = None,
) -> Axes:
    """Plot the share of held-out ratings inside central intervals against their probability.

    Parameters
    ----------
    posteriors : Posterior or mapping of str to Posterior
        One posterior, or several by name with one line each.
    ratings : Ratings or pandas.DataFrame
        Held-out ratings: the columns ``user``, ``item`` and ``rating``.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on; the default is a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        Its first line is the diagonal, followed by a line for each posterior, in their order.

    Raises
    ------
    RatingsError
        If the pairs have no ratings.
    PMFError
        If matplotlib is not installed.
    """
    held_out = _as_pairs(posteriors, ratings)
    ax = axes_or_new(ax, (5.6, 5.4))
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    named = _named(posteriors)
    for k, (name, posterior) in enumerate(named.items()):
        table = calibration(posterior.scores(held_out)["pit"].to_numpy())
        ax.plot(
            table["probability"],
            table["coverage"],
            color=CYCLE[k % len(CYCLE)],
            marker=MARKERS[k % len(MARKERS)],
            markersize=5,
            linewidth=1.6,
            label=name,
        )
    note: dict[str, Any] = {"color": GREY, "fontsize": "small", "fontstyle": "italic"}
    ax.text(0.03, 0.965, "above: intervals too wide", va="top", **note)
    ax.text(0.97, 0.035, "below: intervals too narrow", ha="right", **note)
    if "" not in named:
        ax.legend(loc="lower right", bbox_to_anchor=(1.0, 0.07), frameon=False)
    ax.set(
        xlim=(0, 1),
        ylim=(0, 1),
        aspect="equal",
        xlabel="Probability of the central interval",
        ylabel="Share of held-out ratings inside",
    )
    ax.set_title(f"Calibration on {len(held_out):,} held-out ratings", loc="left")
    return ax


def plot_pit(
    posteriors: Posterior | Mapping[str, Posterior],
    ratings: Ratings | IntoFrame,
    n_bins: int = 20,
    ax: Axes | None = None,
) -> Axes:
    """Plot a histogram of the probability integral transforms (PIT) of held-out ratings.

    The histogram is flat for calibrated predictions. It has a U shape if they are too certain, a
    hump if they are not certain enough, and a slope if they are too low or too high (Gneiting,
    Balabdaoui & Raftery 2007). For levels the PIT is randomized. The band contains 99% of bins by
    chance, if ratings are independent.

    Parameters
    ----------
    posteriors : Posterior or mapping of str to Posterior
        One posterior, or several by name with one histogram each.
    ratings : Ratings or pandas.DataFrame
        Held-out ratings: the columns ``user``, ``item`` and ``rating``.
    n_bins : int
        Number of bins.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on; the default is a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The axes of the plot.

    Raises
    ------
    PMFError
        If ``n_bins`` is not a positive integer, or matplotlib is not installed.
    RatingsError
        If the pairs have no ratings.
    """
    require_integer("n_bins", n_bins)
    held_out = _as_pairs(posteriors, ratings)
    ax = axes_or_new(ax, (6.4, 4.2))
    n = len(held_out)
    low, high = binom.ppf([0.005, 0.995], n, 1 / n_bins) / n
    ax.axhspan(low, high, color="0.9", zorder=0, label="99% of bins by chance")
    ax.axhline(1 / n_bins, color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    named = _named(posteriors)
    top = high
    for k, (name, posterior) in enumerate(named.items()):
        table = pit_histogram(posterior.scores(held_out)["pit"].to_numpy(), n_bins)
        share = (table["count"] / n).to_numpy()
        top = max(top, share.max())
        edges = np.append(table["low"], table["high"].iloc[-1])
        colour, label = CYCLE[k % len(CYCLE)], name or "held-out ratings"
        if len(named) == 1:
            ax.stairs(share, edges, fill=True, color=colour, alpha=0.35)
            ax.stairs(share, edges, baseline=None, color=colour, linewidth=1.4, label=label)
        else:
            ax.stairs(share, edges, baseline=None, color=colour, linewidth=1.2, alpha=0.6)
            middle = (edges[1:] + edges[:-1]) / 2
            marker = MARKERS[k % len(MARKERS)]
            ax.plot(middle, share, marker, color=colour, markersize=4.5, label=label)
    ax.set(
        xlim=(0, 1),
        ylim=(0, 1.06 * top),
        xlabel="Probability integral transform",
        ylabel="Share of held-out ratings",
    )
    ax.yaxis.set_major_formatter(_percent())
    ax.set_title(f"PIT of {n:,} held-out ratings in {n_bins} bins", loc="left")
    ax.legend(loc="lower center", ncols=1 if len(named) == 1 else 2, fontsize="small")
    return ax


def plot_error_by_sd(
    posteriors: Posterior | Mapping[str, Posterior],
    ratings: Ratings | IntoFrame,
    n_bins: int = 10,
    ax: Axes | None = None,
) -> Axes:
    """Plot the size of errors against the predicted standard deviation.

    Held-out ratings are sorted by predicted standard deviation and cut into bins of nearly equal
    number. A point is the root mean square error (RMSE) of a bin at its root mean square predicted
    standard deviation. Calibrated standard deviations lie on the diagonal. A bar is one standard
    error of the RMSE, clustered by user.

    Parameters
    ----------
    posteriors : Posterior or mapping of str to Posterior
        One posterior, or several by name with one line each.
    ratings : Ratings or pandas.DataFrame
        Held-out ratings: the columns ``user``, ``item`` and ``rating``.
    n_bins : int
        Number of bins.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on; the default is a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        Its first line is the diagonal, followed by a line for each posterior, in their order.

    Raises
    ------
    PMFError
        If ``n_bins`` is not a positive integer, or matplotlib is not installed.
    RatingsError
        If the pairs have no ratings.
    """
    require_integer("n_bins", n_bins)
    held_out = _as_pairs(posteriors, ratings)
    ax = axes_or_new(ax, (5.6, 5.4))
    tables = {
        name: _error_by_sd(
            posterior.scores(held_out),
            as_frame(posterior.ratings.as_pairs(ratings))["user"],
            n_bins,
        )
        for name, posterior in _named(posteriors).items()
    }
    ends = np.concatenate(
        [[t["sd"], t["rmse"] - t["error"], t["rmse"] + t["error"]] for t in tables.values()]
    )
    low, high = max(0.0, ends.min()), ends.max()
    margin = 0.06 * (high - low) or 0.5
    limits = max(0.0, low - margin), high + margin
    ax.plot(limits, limits, color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for k, (name, table) in enumerate(tables.items()):
        ax.errorbar(
            table["sd"],
            table["rmse"],
            table["error"],
            color=CYCLE[k % len(CYCLE)],
            marker=MARKERS[k % len(MARKERS)],
            markersize=5,
            linewidth=1.2,
            elinewidth=1,
            capsize=2,
            label=name,
        )
    note: dict[str, Any] = {"color": GREY, "fontsize": "small", "fontstyle": "italic"}
    note |= {"transform": ax.transAxes}
    ax.text(0.03, 0.965, "above: errors larger than predicted", va="top", **note)
    ax.text(0.97, 0.035, "below: smaller", ha="right", **note)
    if "" not in tables:
        ax.legend(loc="lower right", bbox_to_anchor=(1.0, 0.07), frameon=False)
    ax.set(
        xlim=limits,
        ylim=limits,
        aspect="equal",
        xlabel="Predicted standard deviation (rating units)",
        ylabel="RMSE (rating units)",
    )
    ax.set_title(f"Errors of {len(held_out):,} held-out ratings", loc="left")
    return ax


def _error_by_sd(scores: pd.DataFrame, user: pd.Series, n_bins: int) -> pd.DataFrame:
    """Return root mean square sd, RMSE and its standard error (delta method) of each bin.

    The standard error is clustered by user, see `metrics.clustered_error`; it is 0 for one user.
    """
    rows = []
    order = np.argsort(scores["sd"].to_numpy(), kind="stable")
    for chosen in np.array_split(order, min(n_bins, len(order))):
        square = scores["error"].to_numpy()[chosen] ** 2
        rmse = np.sqrt(square.mean())
        error = clustered_error(square, user.to_numpy()[chosen]) / (2 * rmse) if rmse else 0.0
        sd = np.sqrt(np.mean(scores["sd"].to_numpy()[chosen] ** 2))
        rows.append({"sd": sd, "rmse": rmse, "error": np.nan_to_num(error)})
    return pd.DataFrame(rows)


def plot_user(
    posterior: Posterior,
    ratings: Ratings | IntoFrame,
    user: Hashable,
    titles: Mapping[Hashable, str] | pd.Series | None = None,
    n: int = 20,
    interval: float = 0.9,
    ax: Axes | None = None,
) -> Axes:
    """Plot one user's held-out ratings beside their predictions, the highest at the top.

    Parameters
    ----------
    posterior : Posterior
        Result of a fit.
    ratings : Ratings or pandas.DataFrame
        Held-out ratings of this user; ratings of other users are left out.
    user : id
        The user.
    titles : mapping of id to str, or pandas.Series, optional
        Names of the items; the default is their ids. Long titles are cut.
    n : int
        Largest number of ratings shown. If there are more, the shown ones are evenly spaced from
        the highest to the lowest prediction.
    interval : float
        Probability of the central interval.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on; the default is a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The axes of the plot.

    Raises
    ------
    PMFError
        If ``n`` is not a positive integer, ``interval`` is not inside (0, 1), or matplotlib is not
        installed.
    RatingsError
        If ``ratings`` has none of this user.
    """
    require_integer("n", n)
    shown = _predictions_of_user(posterior, ratings, user, n, interval)
    n_shown = len(shown)
    ax = axes_or_new(ax, (7.6, 1.5 + 0.26 * n_shown))
    height = np.arange(n_shown)
    ax.hlines(
        height,
        shown["lower"],
        shown["upper"],
        color=BLUE,
        alpha=0.3,
        linewidth=7,
        label=f"{interval:.0%} interval",
    )
    ax.plot(shown["mean"], height, "|", color=BLUE, ms=9, mew=2.2, label="mean")
    _mark_ratings(ax, shown)
    names = dict(titles) if titles is not None else {}
    ax.set_yticks(height, [_short(names.get(item, item), item) for item in shown["item"]])
    bounds = posterior.ratings.transform.bounds
    ends = shown[["lower", "upper", "rating"]].to_numpy(float)
    low, high = bounds or (ends.min(), ends.max())
    margin = 0.04 * (high - low)
    ax.set(
        xlim=(low - margin, high + margin),
        ylim=(-0.7, n_shown - 0.3),
        xlabel=f"Rating ({low:g} to {high:g})" if bounds else "Rating",
    )
    style_rows(ax)
    title = f"User {user}: {shown['inside'].sum()} of {n_shown} held-out ratings inside"
    ax.set_title(title, loc="left", pad=LEGEND_HEIGHT)
    legend_above(ax)
    return ax


def _predictions_of_user(
    posterior: Posterior,
    ratings: Ratings | IntoFrame,
    user: Hashable,
    n: int,
    interval: float,
) -> pd.DataFrame:
    """Predict the ratings of a user, the lowest first; of more than n, n evenly spaced ones."""
    frame = as_frame(posterior.ratings.as_pairs(ratings))
    theirs = frame[frame["user"] == user]
    if theirs.empty:
        raise RatingsError(f"User {user!r} has none of these ratings.")
    scores = posterior.scores(theirs, interval)
    predicted = posterior.predict(theirs, interval).assign(
        rating=observed(theirs), inside=scores["covered"].to_numpy()
    )
    predicted = predicted.sort_values(["mean", "item"], ignore_index=True)
    chosen = np.linspace(0, len(predicted) - 1, min(n, len(predicted))).round().astype(int)
    return predicted.iloc[chosen]


def _mark_ratings(ax: Axes, shown: pd.DataFrame) -> None:
    """Draw the ratings, those outside their intervals by a mark of their own."""
    height, inside = np.arange(len(shown)), shown["inside"].to_numpy(bool)
    for among, marker, colour, label in (
        (inside, "o", "black", "rating inside"),
        (~inside, "X", VERMILLION, "outside"),
    ):
        if among.any():
            ax.plot(
                shown["rating"].to_numpy()[among],
                height[among],
                marker,
                color=colour,
                markersize=7.5,
                markeredgecolor="white",
                markeredgewidth=0.8,
                label=label,
                clip_on=False,
                zorder=3,
            )


def _named(posteriors: Posterior | Mapping[str, Posterior]) -> Mapping[str, Posterior]:
    return {"": posteriors} if isinstance(posteriors, Posterior) else posteriors


def _as_pairs(
    posteriors: Posterior | Mapping[str, Posterior], ratings: Ratings | IntoFrame
) -> Ratings | pd.DataFrame:
    """Return a caller's ratings as the first posterior reads them; refuse a table without rows."""
    pairs = next(iter(_named(posteriors).values())).ratings.as_pairs(ratings)
    if not len(pairs):
        raise RatingsError("There are no ratings to plot: give at least one.")
    return pairs


def _percent() -> Any:
    from matplotlib.ticker import PercentFormatter  # optional

    return PercentFormatter(1)


def _short(title: object, item: Hashable) -> str:
    """Cut a title between words; a missing title becomes the id."""
    return textwrap.shorten(str(item if title != title else title), _TITLE_WIDTH, placeholder=" …")
