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

from pyro_pmf.errors import PMFError, RatingsError
from pyro_pmf.gaussian import Uncertain
from pyro_pmf.metrics import calibration
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
# Colour, marker and name of the scale that a standard deviation is on.
_ON_UNIT = (VERMILLION, "s", "on the unit scale of the ratings")
_ON_LOGIT = (BLUE, "o", "on the logit scale")
_ON_LOG = (GREEN, "D", "of the log noise")
_UNITS = {"sigma": _ON_UNIT, "sigma_s": _ON_LOG, "sigma_t": _ON_LOG}
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
    """Plot the course of a fit: the ELBO of each step.

    The view leaves out the first climb, which would flatten all that follows.

    Parameters
    ----------
    posterior : Posterior
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
    """
    ax = _axes(ax, (7.0, 3.8))
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
    named = {"": posteriors} if isinstance(posteriors, Posterior) else posteriors
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
    if not isinstance(n, int) or n < 1:
        raise PMFError(f"n must be 1, 2, 3, ..., not {n!r}")
    frame = ratings.to_frame() if isinstance(ratings, Ratings) else ratings
    theirs = frame[frame["user"] == user]
    if theirs.empty:
        raise RatingsError(f"User {user!r} has none of these ratings.")
    predicted = posterior.predict(theirs, interval).assign(rating=observed(theirs))
    predicted = predicted.sort_values(["mean", "item"], ignore_index=True)
    n_shown = min(n, len(predicted))
    shown = predicted.iloc[np.linspace(0, len(predicted) - 1, n_shown).round().astype(int)]
    inside = shown["rating"].between(shown["lower"], shown["upper"])

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
    low, high = posterior.ratings.scale
    margin = 0.04 * (high - low)
    ax.set(
        xlim=(low - margin, high + margin),
        ylim=(-0.7, n_shown - 0.3),
        xlabel=f"Rating ({low:g} to {high:g})",
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

    sigma is the noise of a rating on the unit scale; the others are on the logit scale, where the
    score lives. Standard deviations that a point estimate holds fixed have no line.

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
    ax = _axes(ax, (7.2, 1.5 + 0.36 * len(names)))
    for height, name in enumerate(reversed(names)):
        lower, median, upper = np.quantile(draws[name], [tail, 0.5, 1 - tail])
        colour, marker, unit = _UNITS.get(name, _ON_LOGIT)
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
