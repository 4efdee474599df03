"""Figures of a fit and of its predictions. Needs matplotlib: ``pip install 'pyro-pmf[plots]'``.

Each function draws on ``ax``, or makes a figure of its own, and returns the Axes. Nothing global
is changed: no style, no backend, no pyplot default.
"""

from __future__ import annotations

import textwrap
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import binom

from pyro_pmf.errors import PMFError, RatingsError
from pyro_pmf.gaussian import Uncertain
from pyro_pmf.likelihoods import NegativeBinomialLog, NormalIdentity
from pyro_pmf.metrics import calibration, pit_histogram
from pyro_pmf.posterior import Posterior
from pyro_pmf.prediction import observed
from pyro_pmf.random_state import isolated_random_state
from pyro_pmf.ratings import Ratings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette: distinct to colour-blind readers, and in this order in grey as well.
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
)
_CYCLE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
_MARKERS = ("o", "s", "^", "D", "v", "P")
_GREY = "0.45"

_LEGEND_HEIGHT = 24  # points between axes and title
_TITLE_WIDTH = 34  # characters of an item's title
_DRAWS = 2000
_LABELLED = 24  # factors that have room for a label each
# Colour, marker and name of the scale that a standard deviation is on.
_ON_UNIT = (VERMILLION, "s", "on the unit scale of the ratings")
_ON_MODEL = (VERMILLION, "s", "on the model scale of the ratings")
_OF_MEAN = (VERMILLION, "s", "as a share of the mean count")
_ON_LOGIT = (BLUE, "o", "on the logit scale")
_ON_LOG_COUNT = (BLUE, "o", "on the log scale of the counts")
_ON_LOG = (GREEN, "D", "of the log noise")
_LABELS = {
    "sigma": r"noise of a rating  $\sigma$",
    "sigma_U": r"user factors  $\sigma_U$",
    "sigma_V": r"item factors  $\sigma_V$",
    "sigma_W": r"effect of having rated an item  $\sigma_W$",
    "sigma_Z": r"effect of being rated by a user  $\sigma_Z$",
    "sigma_b": r"user biases  $\sigma_b$",
    "sigma_c": r"item biases  $\sigma_c$",
    "sigma_s": r"log noise of users  $\sigma_s$",
    "sigma_t": r"log noise of items  $\sigma_t$",
}


def plot_elbo(posterior: Posterior, ax: Axes | None = None) -> Axes:
    """Plot the course of a fit: the ELBO of each step; of Markov chains, their traces.

    The view leaves out the first climb, which would flatten all that follows. A trace is the log
    joint density of each draw of a chain; chains that have mixed are about the same level, and
    none drifts.

    Parameters
    ----------
    posterior : Posterior
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
    """
    ax = _axes(ax, (7.0, 3.8))
    if posterior.num_chains is not None:
        return _plot_traces(posterior, ax)
    step, elbo = posterior.history["step"], posterior.history["elbo"]
    ax.plot(step, elbo, color=BLUE, linewidth=1.8)
    shown = elbo[step > len(step) // 5]
    if len(shown) > 1 and shown.min() < shown.max():
        margin = 0.06 * (shown.max() - shown.min())
        ax.set_ylim(shown.min() - margin, elbo.max() + margin)
    ax.set_xlim(0, step.iloc[-1])
    ax.yaxis.set_major_formatter("{x:,.0f}")
    state = "converged" if posterior.converged else "not converged"
    ax.set(xlabel="Step", ylabel="ELBO (nats)")
    ax.set_title(f"{state} after {len(step):,} steps".capitalize(), loc="left")
    return ax


def _plot_traces(posterior: Posterior, ax: Axes) -> Axes:
    chains = posterior.history.groupby("chain")
    for k, (_, draws) in enumerate(chains):
        step, log_likelihood = np.arange(1, len(draws) + 1), draws["log_likelihood"].to_numpy()
        divergent = draws["divergent"].to_numpy(bool)
        colour = _CYCLE[k % len(_CYCLE)]
        ax.plot(step, log_likelihood, color=colour, linewidth=0.9, label=f"chain {k + 1}")
        if divergent.any():
            style: dict[str, Any] = {"color": "black", "ms": 6, "mew": 1.5, "zorder": 3}
            ax.plot(step[divergent], log_likelihood[divergent], "x", label="divergent", **style)
    longest = int(chains.size().max())
    ax.set(xlim=(1, max(2, longest)), xlabel="Draw", ylabel="Log likelihood (nats)")
    ax.yaxis.set_major_formatter("{x:,.0f}")
    state = "Mixed" if posterior.converged else "Not mixed"
    plural = "s" if len(chains) > 1 else ""
    title = f"{state} after {len(chains)} chain{plural} of {longest:,} draws"
    ax.set_title(title, loc="left", pad=_LEGEND_HEIGHT)
    _legend_above(ax)
    return ax


def plot_calibration(
    posteriors: Posterior | Mapping[str, Posterior],
    ratings: Ratings | pd.DataFrame,
    ax: Axes | None = None,
) -> Axes:
    """Plot how many held-out ratings lie inside their central intervals, against how many should.

    Parameters
    ----------
    posteriors : Posterior or mapping of str to Posterior
        Several by name, for one line each.
    ratings : Ratings or pandas.DataFrame
        Held-out ratings: the columns ``user``, ``item`` and ``rating``.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
        Its first line is the diagonal, then comes a line for each posterior, in their order.

    Raises
    ------
    RatingsError
        If the pairs have no ratings.
    """
    ax = _axes(ax, (5.6, 5.4))
    ax.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    named = _named(posteriors)
    for k, (name, posterior) in enumerate(named.items()):
        table = calibration(posterior.scores(ratings)["pit"].to_numpy())
        ax.plot(
            table["probability"],
            table["coverage"],
            color=_CYCLE[k % len(_CYCLE)],
            marker=_MARKERS[k % len(_MARKERS)],
            markersize=5,
            linewidth=1.6,
            label=name,
        )
    note: dict[str, Any] = {"color": _GREY, "fontsize": "small", "fontstyle": "italic"}
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
    ax.set_title(f"Calibration on {len(ratings):,} held-out ratings", loc="left")
    return ax


def plot_pit(
    posteriors: Posterior | Mapping[str, Posterior],
    ratings: Ratings | pd.DataFrame,
    n_bins: int = 20,
    ax: Axes | None = None,
) -> Axes:
    """Plot a histogram of the probability integral transforms (PIT) of held-out ratings.

    It is flat where predictions are calibrated, shaped like a U where they are too sure, like a
    hump where not sure enough, and slopes where they are too low or too high (Gneiting,
    Balabdaoui & Raftery 2007). Of levels the PIT is randomised. The band is where 99% of bins lie
    by chance, if ratings are independent.

    Parameters
    ----------
    posteriors : Posterior or mapping of str to Posterior
        Several by name, for one histogram each.
    ratings : Ratings or pandas.DataFrame
        Held-out ratings: the columns ``user``, ``item`` and ``rating``.
    n_bins : int
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    PMFError
        If ``n_bins`` is not a positive integer.
    RatingsError
        If the pairs have no ratings.
    """
    _require_positive("n_bins", n_bins)
    ax = _axes(ax, (6.4, 4.2))
    n = len(ratings)
    low, high = binom.ppf([0.005, 0.995], n, 1 / n_bins) / n
    ax.axhspan(low, high, color="0.9", zorder=0, label="99% of bins by chance")
    ax.axhline(1 / n_bins, color=_GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    named = _named(posteriors)
    top = high
    for k, (name, posterior) in enumerate(named.items()):
        table = pit_histogram(posterior.scores(ratings)["pit"].to_numpy(), n_bins)
        share = (table["count"] / n).to_numpy()
        top = max(top, share.max())
        edges = np.append(table["low"], table["high"].iloc[-1])
        colour, label = _CYCLE[k % len(_CYCLE)], name or "held-out ratings"
        if len(named) == 1:
            ax.stairs(share, edges, fill=True, color=colour, alpha=0.35)
            ax.stairs(share, edges, baseline=None, color=colour, linewidth=1.4, label=label)
        else:
            ax.stairs(share, edges, baseline=None, color=colour, linewidth=1.2, alpha=0.6)
            middle = (edges[1:] + edges[:-1]) / 2
            marker = _MARKERS[k % len(_MARKERS)]
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
    ratings: Ratings | pd.DataFrame,
    n_bins: int = 10,
    ax: Axes | None = None,
) -> Axes:
    """Plot how large errors are against how large they were predicted to be.

    Held-out ratings are sorted by predicted standard deviation and cut into bins of as equal a
    number as that allows. A point is a bin's root mean square error (RMSE) at its root mean square
    predicted standard deviation: on the diagonal where the latter can be believed. Its bar is one
    standard error of the RMSE.

    Parameters
    ----------
    posteriors : Posterior or mapping of str to Posterior
        Several by name, for one line each.
    ratings : Ratings or pandas.DataFrame
        Held-out ratings: the columns ``user``, ``item`` and ``rating``.
    n_bins : int
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
        Its first line is the diagonal, then comes a line for each posterior, in their order.

    Raises
    ------
    PMFError
        If ``n_bins`` is not a positive integer.
    RatingsError
        If the pairs have no ratings.
    """
    _require_positive("n_bins", n_bins)
    ax = _axes(ax, (5.6, 5.4))
    tables = {
        name: _error_by_sd(posterior.scores(ratings), n_bins)
        for name, posterior in _named(posteriors).items()
    }
    ends = np.concatenate(
        [[t["sd"], t["rmse"] - t["error"], t["rmse"] + t["error"]] for t in tables.values()]
    )
    low, high = max(0.0, ends.min()), ends.max()
    margin = 0.06 * (high - low) or 0.5
    limits = max(0.0, low - margin), high + margin
    ax.plot(limits, limits, color=_GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for k, (name, table) in enumerate(tables.items()):
        ax.errorbar(
            table["sd"],
            table["rmse"],
            table["error"],
            color=_CYCLE[k % len(_CYCLE)],
            marker=_MARKERS[k % len(_MARKERS)],
            markersize=5,
            linewidth=1.2,
            elinewidth=1,
            capsize=2,
            label=name,
        )
    note: dict[str, Any] = {"color": _GREY, "fontsize": "small", "fontstyle": "italic"}
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
    ax.set_title(f"Errors of {len(ratings):,} held-out ratings", loc="left")
    return ax


def _error_by_sd(scores: pd.DataFrame, n_bins: int) -> pd.DataFrame:
    """Of each bin: root mean square sd, rmse, and its standard error (delta method)."""
    rows = []
    order = np.argsort(scores["sd"].to_numpy(), kind="stable")
    for chosen in np.array_split(order, min(n_bins, len(order))):
        square = scores["error"].to_numpy()[chosen] ** 2
        rmse = np.sqrt(square.mean())
        error = square.std(ddof=len(square) > 1) / np.sqrt(len(square)) / (2 * rmse) if rmse else 0
        sd = np.sqrt(np.mean(scores["sd"].to_numpy()[chosen] ** 2))
        rows.append({"sd": sd, "rmse": rmse, "error": error})
    return pd.DataFrame(rows)


def plot_user(
    posterior: Posterior,
    ratings: Ratings | pd.DataFrame,
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
    ratings : Ratings or pandas.DataFrame
        Held-out ratings, of this user and maybe others.
    user : id
    titles : mapping of id to str, or pandas.Series, optional
        What to call the items; by default their ids. Long titles are cut.
    n : int
        Of more ratings than this, n are shown, evenly spaced from the highest to the lowest
        prediction.
    interval : float
        Probability of the central interval.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    PMFError
        If ``n`` is not a positive integer.
    RatingsError
        If the user has no rating among these.
    """
    _require_positive("n", n)
    frame = ratings.to_frame() if isinstance(ratings, Ratings) else ratings
    theirs = frame[frame["user"] == user]
    if theirs.empty:
        raise RatingsError(f"User {user!r} has none of these ratings.")
    scores = posterior.scores(theirs, interval)
    predicted = posterior.predict(theirs, interval).assign(
        rating=observed(theirs), inside=scores["covered"].to_numpy()
    )
    predicted = predicted.sort_values(["mean", "item"], ignore_index=True)
    n_shown = min(n, len(predicted))
    shown = predicted.iloc[np.linspace(0, len(predicted) - 1, n_shown).round().astype(int)]
    inside = shown["inside"]

    ax = _axes(ax, (7.6, 1.5 + 0.26 * n_shown))
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
    for among, marker, colour, label in (
        (inside, "o", "black", "rating inside"),
        (~inside, "X", VERMILLION, "outside"),
    ):
        if among.any():
            ax.plot(
                shown["rating"][among],
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
    _rows(ax)
    ax.set_title(
        f"User {user}: {inside.sum()} of {n_shown} held-out ratings inside",
        loc="left",
        pad=_LEGEND_HEIGHT,
    )
    _legend_above(ax)
    return ax


def plot_scales(posterior: Posterior, interval: float = 0.9, ax: Axes | None = None) -> Axes:
    """Plot the standard deviations: a point for the median, a line for the interval.

    sigma is the noise of a rating on the model scale, the others are on the scale of the score,
    as the legend says. Standard deviations that a point
    estimate holds fixed have no line.

    Parameters
    ----------
    posterior : Posterior
    interval : float
        Probability of the central interval.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    PMFError
        If the model has no latent standard deviation: a scalar site whose name starts with sigma.
    """
    draws = _scale_draws(posterior)
    if not draws:
        raise PMFError("There is nothing to plot: no latent site is a scalar named sigma...")
    tail = (1 - interval) / 2
    order = [*_LABELS, *draws]
    names = sorted(draws, key=order.index)
    units, on_score = _units(posterior)
    ax = _axes(ax, (7.2, 1.5 + 0.36 * len(names)))
    for height, name in enumerate(reversed(names)):
        lower, median, upper = np.quantile(draws[name], [tail, 0.5, 1 - tail])
        colour, marker, unit = units.get(name, on_score)
        ax.hlines(height, lower, upper, color=colour, linewidth=9, alpha=0.35)
        ax.plot(median, height, marker, color=colour, markersize=4.5, label=unit)
        text = f"{median:.3f}" + (f"  [{lower:.3f}, {upper:.3f}]" if lower < upper else "")
        beside = ax.get_yaxis_transform()
        ax.text(1.02, height, text, transform=beside, va="center", fontsize="small")
    ax.set_yticks(range(len(names)), [_LABELS.get(name, name) for name in reversed(names)])
    ax.set(
        xlim=(0, None),
        ylim=(-0.6, len(names) - 0.4),
        xlabel=f"Standard deviation (median and {interval:.0%} interval)",
    )
    _rows(ax)
    _legend_above(ax)
    ax.set_title("Standard deviations", loc="left", pad=_LEGEND_HEIGHT)
    return ax


def plot_factor_norms(posterior: Posterior, ax: Axes | None = None) -> Axes:
    """Plot how much each factor moves the score, the strongest first.

    A bar is the standard deviation of U_ik V_jk over the training pairs, the text on it the
    factor's share of the variance of all. A dead factor, one that changes nothing beside the
    strongest, is hatched: fewer factors would do.

    Parameters
    ----------
    posterior : Posterior
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    PMFError
        If the model has no factors.
    """
    table = posterior.factor_norms()
    ax = _axes(ax, (7.0, 3.8))
    sd, dead = table["sd"].to_numpy(), table["dead"].to_numpy(bool)
    place = np.arange(len(table))
    ax.bar(place[~dead], sd[~dead], color=BLUE, width=0.75)
    top = 1.0 if dead.all() else sd.max()
    mark = np.full(dead.sum(), 0.03 * top)  # a dead factor's own bar is too low to see
    style: dict[str, Any] = {"color": "none", "edgecolor": VERMILLION, "hatch": "////"}
    ax.bar(place[dead], mark, width=0.75, **style)
    if len(table) <= _LABELLED:
        for x, height, share in zip(place[~dead], sd[~dead], table["share"][~dead], strict=True):
            ax.text(x, height, f"{share:.0%}", ha="center", va="bottom", fontsize="small")
        for x, height in zip(place[dead], mark, strict=True):
            ax.text(
                x, height, "dead", ha="center", va="bottom", fontsize="small", color=VERMILLION
            )
        ax.set_xticks(place, [str(factor) for factor in table.index])
        ax.tick_params(axis="x", length=0)
        ax.set_xlabel("Factor")
    else:
        ax.set_xlabel("Factors, from the strongest to the weakest")
    ax.set(
        xlim=(-0.6, max(len(table), 6) - 0.4),
        ylim=(0, 1.1 * top),
        ylabel=r"Standard deviation of $U_{ik} V_{jk}$" "\n(on the scale of the score)",
    )
    dying = f"{dead.sum()} of {len(table)} factors dead" if dead.any() else "no factor is dead"
    ax.set_title(f"What each factor adds to the score: {dying}", loc="left")
    return ax


def _named(posteriors: Posterior | Mapping[str, Posterior]) -> Mapping[str, Posterior]:
    return {"": posteriors} if isinstance(posteriors, Posterior) else posteriors


def _require_positive(name: str, value: object) -> None:
    if not isinstance(value, int) or value < 1:
        raise PMFError(f"{name} must be 1, 2, 3, ..., not {value!r}")


def _percent() -> Any:
    from matplotlib.ticker import PercentFormatter  # optional

    return PercentFormatter(1)


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """Return the axes, or those of a new figure of this size in inches, without a frame."""
    if ax is None:
        try:
            from matplotlib import pyplot  # optional
        except ImportError as error:
            raise PMFError("Plots need matplotlib: pip install 'pyro-pmf[plots]'") from error
        _, ax = pyplot.subplots(figsize=size, layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _rows(ax: Axes) -> None:
    """Style axes whose y axis names rows."""
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)


def _legend_above(ax: Axes) -> None:
    """Put a legend of one line between the axes and the title, each label once."""
    handles, labels = ax.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    ax.legend(
        list(once.values()),
        list(once),
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=len(once),
        frameon=False,
        fontsize="small",
        borderpad=0.2,
        borderaxespad=0.1,
        columnspacing=1.2,
        handlelength=1.2,
        handletextpad=0.4,
    )


def _short(title: object, item: Hashable) -> str:
    """Cut a title between words; where it is missing, the id."""
    return textwrap.shorten(str(item if title != title else title), _TITLE_WIDTH, placeholder=" …")


def _units(
    posterior: Posterior,
) -> tuple[dict[str, tuple[str, str, str]], tuple[str, str, str]]:
    """The scales of sigma and of log noise, by site, and that of the score."""
    likelihood = getattr(posterior.model, "likelihood", None)
    of_sigma = _ON_UNIT if posterior.ratings.transform.bounds else _ON_MODEL
    of_score = _ON_LOGIT
    if isinstance(likelihood, NormalIdentity):
        of_score = of_sigma
    elif isinstance(likelihood, NegativeBinomialLog):
        of_sigma, of_score = _OF_MEAN, _ON_LOG_COUNT
    return {"sigma": of_sigma, "sigma_s": _ON_LOG, "sigma_t": _ON_LOG}, of_score


def _scale_draws(posterior: Posterior) -> dict[str, np.ndarray]:
    """Draws of the scalar sites that are standard deviations."""
    draws = {}
    with isolated_random_state(0):
        for name, value in posterior.latents.items():
            dims = 0 if posterior.num_draws is None else 1
            if not name.startswith("sigma") or len(value.shape) != dims:
                continue
            if isinstance(value, Uncertain):
                value = value.map(lambda x: x.expand(_DRAWS)).draw()
            draws[name] = value.reshape(-1).numpy()
    return draws
