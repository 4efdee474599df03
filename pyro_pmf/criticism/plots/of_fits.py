"""Figures of a fit: its progress, standard deviations and factors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_pmf.arguments import require_probability
from pyro_pmf.criticism.plots.style import (
    BLUE,
    CYCLE,
    GREEN,
    LEGEND_HEIGHT,
    VERMILLION,
    axes_or_new,
    legend_above,
    style_rows,
)
from pyro_pmf.errors import PMFError
from pyro_pmf.model.likelihoods import NegativeBinomialLog, NormalIdentity, likelihood_of
from pyro_pmf.model.terms import terms_of
from pyro_pmf.moments.gaussian import Uncertain
from pyro_pmf.posterior import Posterior
from pyro_pmf.random_state import isolated_random_state

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DRAWS = 2000
_LABELLED = 24  # most factors for which each bar has room for a label
# Colour, marker and name of the scale of a standard deviation.
_ON_UNIT = (VERMILLION, "s", "on the unit scale of the ratings")
_ON_MODEL = (VERMILLION, "s", "on the model scale of the ratings")
_OF_MEAN = (VERMILLION, "s", "as a share of the mean count")
_ON_LOGIT = (BLUE, "o", "on the logit scale")
_ON_LOG_COUNT = (BLUE, "o", "on the log scale of the counts")
_ON_LOG = (GREEN, "D", "of the log noise")


def plot_elbo(posterior: Posterior, ax: Axes | None = None) -> Axes:
    """Plot the progress of a fit: the ELBO of each step, or the traces of Markov chains.

    The view leaves out the first climb of the ELBO, which would flatten the rest. A trace is the
    log likelihood of each draw of a chain. Traces of mixed chains have the same level, and none
    drifts.

    Parameters
    ----------
    posterior : Posterior
        Result of a fit.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on; the default is a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The axes of the plot.

    Raises
    ------
    PMFError
        If matplotlib is not installed.
    """
    ax = axes_or_new(ax, (7.0, 3.8))
    if posterior.n_chains is not None:
        return _plot_traces(posterior, ax)
    step, elbo = posterior.steps["step"], posterior.steps["elbo"]
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
    chains = posterior.steps.groupby("chain")
    for k, (_, draws) in enumerate(chains):
        step, log_likelihood = np.arange(1, len(draws) + 1), draws["log_likelihood"].to_numpy()
        divergent = draws["divergent"].to_numpy(bool)
        colour = CYCLE[k % len(CYCLE)]
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
    ax.set_title(title, loc="left", pad=LEGEND_HEIGHT)
    legend_above(ax)
    return ax


def plot_scales(posterior: Posterior, interval: float = 0.9, ax: Axes | None = None) -> Axes:
    """Plot the standard deviations: a point for the median, a line for the interval.

    sigma is the noise of a rating on the model scale, the others are on the scale of the score, as
    the legend says. A standard deviation that the fit held has no line. Variational inference
    holds the scales of the factors, unless ``learn_scales="elbo"``.

    Parameters
    ----------
    posterior : Posterior
        Result of a fit.
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
        If the model has no latent standard deviation (a scalar site whose name starts with sigma),
        ``interval`` is not inside (0, 1), or matplotlib is not installed.
    """
    require_probability("interval", interval)
    draws = _scale_draws(posterior)
    if not draws:
        raise PMFError(
            "There is nothing to plot: the model has no scalar latent whose name starts with "
            "sigma."
        )
    tail = (1 - interval) / 2
    labels = _labels(posterior)
    order = [*labels, *draws]
    names = sorted(draws, key=order.index)
    units, on_score = _units(posterior)
    ax = axes_or_new(ax, (7.2, 1.5 + 0.36 * len(names)))
    for height, name in enumerate(reversed(names)):
        lower, median, upper = np.quantile(draws[name], [tail, 0.5, 1 - tail])
        colour, marker, unit = units.get(name, on_score)
        ax.hlines(height, lower, upper, color=colour, linewidth=9, alpha=0.35)
        ax.plot(median, height, marker, color=colour, markersize=4.5, label=unit)
        text = f"{median:.3f}" + (f"  [{lower:.3f}, {upper:.3f}]" if lower < upper else "")
        beside = ax.get_yaxis_transform()
        ax.text(1.02, height, text, transform=beside, va="center", fontsize="small")
    ax.set_yticks(range(len(names)), [labels.get(name, name) for name in reversed(names)])
    ax.set(
        xlim=(0, None),
        ylim=(-0.6, len(names) - 0.4),
        xlabel=f"Standard deviation (median and {interval:.0%} interval)",
    )
    style_rows(ax)
    legend_above(ax)
    ax.set_title("Standard deviations", loc="left", pad=LEGEND_HEIGHT)
    return ax


def plot_factor_norms(posterior: Posterior, ax: Axes | None = None) -> Axes:
    """Plot the contribution of each factor to the score, strongest first.

    A bar is a singular value of the posterior mean of U V^T, see `Posterior.factor_norms`. The
    text on it is the factor's share of the sum of their squares. A dead factor contributes nothing
    compared with the strongest and is hatched: fewer factors would do.

    Parameters
    ----------
    posterior : Posterior
        Result of a fit.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on; the default is a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The axes of the plot.

    Raises
    ------
    PMFError
        If the model has no factors, or matplotlib is not installed.
    """
    table = posterior.factor_norms()
    ax = axes_or_new(ax, (7.0, 3.8))
    rms, dead = table["rms"].to_numpy(), table["dead"].to_numpy(bool)
    place = np.arange(len(table))
    ax.bar(place[~dead], rms[~dead], color=BLUE, width=0.75)
    top = 1.0 if dead.all() else rms.max()
    mark = np.full(dead.sum(), 0.03 * top)  # a dead factor's own bar is too low to see
    style: dict[str, Any] = {"color": "none", "edgecolor": VERMILLION, "hatch": "////"}
    ax.bar(place[dead], mark, width=0.75, **style)
    if len(table) <= _LABELLED:
        for x, height, share in zip(place[~dead], rms[~dead], table["share"][~dead], strict=True):
            text = f"{share:.0%}" if share >= 0.005 else "<1%"
            ax.text(x, height, text, ha="center", va="bottom", fontsize="small")
        for x, height in zip(place[dead], mark, strict=True):
            ax.text(
                x, height, "dead", ha="center", va="bottom", fontsize="small", color=VERMILLION
            )
        ax.set_xticks(place, [str(factor) for factor in table.index])
        ax.tick_params(axis="x", length=0)
        ax.set_xlabel("Principal factor")
    else:
        ax.set_xlabel("Principal factors, from the strongest to the weakest")
    ax.set(
        xlim=(-0.6, max(len(table), 6) - 0.4),
        ylim=(0, 1.1 * top),
        ylabel="Root mean square of its part\n(on the scale of the score)",
    )
    dying = f"{dead.sum()} of {len(table)} factors dead" if dead.any() else "no factor is dead"
    ax.set_title(f"What each factor adds to the score: {dying}", loc="left")
    return ax


def _labels(posterior: Posterior) -> dict[str, str]:
    """Return the label of each standard deviation, by site."""
    of_terms = {
        term.scale: rf"{term.label}  $\sigma_{term.site}$" for term in terms_of(posterior.model)
    }
    return {"sigma": r"noise of a rating  $\sigma$"} | of_terms


def _units(
    posterior: Posterior,
) -> tuple[dict[str, tuple[str, str, str]], tuple[str, str, str]]:
    """Return the scales of sigma and of log noise, by site, and the scale of the score."""
    likelihood = likelihood_of(posterior.model)
    of_sigma = _ON_UNIT if posterior.ratings.transform.bounds else _ON_MODEL
    of_score = _ON_LOGIT
    if isinstance(likelihood, NormalIdentity):
        of_score = of_sigma
    elif isinstance(likelihood, NegativeBinomialLog):
        of_sigma, of_score = _OF_MEAN, _ON_LOG_COUNT
    of_noise = {term.scale: _ON_LOG for term in terms_of(posterior.model).noise}
    return {"sigma": of_sigma} | of_noise, of_score


def _scale_draws(posterior: Posterior) -> dict[str, np.ndarray]:
    """Return draws of the scalar sites that are standard deviations."""
    draws = {}
    with isolated_random_state(0):
        for name, value in posterior.latents.items():
            dims = 0 if posterior.n_draws is None else 1
            if not name.startswith("sigma") or len(value.shape) != dims:
                continue
            if isinstance(value, Uncertain):
                value = value.map(lambda x: x.expand(_DRAWS)).draw()
            draws[name] = value.reshape(-1).numpy()
    return draws
