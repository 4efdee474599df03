"""Everything that depends on the version of ArviZ, which is imported on first use."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd

Groups = dict[str, dict[str, np.ndarray]]


@cache
def arviz() -> Any:
    """Import ArviZ without the announcement of ArviZ 1 that 0.23 makes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "\\s*ArviZ is undergoing", FutureWarning)
        import arviz as imported
    return imported


def is_arviz_1() -> bool:
    """Return whether ArviZ has version 1 or later."""
    return int(arviz().__version__.split(".")[0]) >= 1


def from_dict(groups: Groups, **described: Any) -> Any:
    """Return ArviZ data of some groups: InferenceData with ArviZ 0.x, a DataTree with ArviZ 1.

    Parameters
    ----------
    groups : dict of str to dict of str to ndarray
        Variables by group, each of shape (n_chains, n_draws, ...).
    **described
        ArviZ's ``coords`` and ``dims``.

    Returns
    -------
    arviz.InferenceData or xarray.DataTree
        The groups.
    """
    if is_arviz_1():
        return arviz().from_dict(groups, **described)
    return arviz().from_dict(**groups, **described)


def summary(data: Any, kind: str) -> pd.DataFrame:
    """Return ArviZ's summary with 90% highest-density intervals.

    Parameters
    ----------
    data : InferenceData or DataTree
        With the group posterior.
    kind : {"stats", "all"}
        Whether to include diagnostics of Markov chains ("all") or not ("stats").

    Returns
    -------
    pandas.DataFrame
        One row per entry of each site, rounded to four digits.
    """
    if is_arviz_1():
        return arviz().summary(data, kind=kind, ci_prob=0.9, ci_kind="hdi", round_to=4)
    return arviz().summary(data, kind=kind, hdi_prob=0.9, round_to=4)


def loo(data: Any, efficiency: float | None) -> Any:
    """Return ArviZ's PSIS-LOO with pointwise values.

    Parameters
    ----------
    data : InferenceData or DataTree
        With the groups posterior and log_likelihood.
    efficiency : float or None
        Effective draws as a share of all draws; None lets ArviZ estimate it from chains.

    Returns
    -------
    arviz.ELPDData
        Result of ArviZ.
    """
    with quiet("Estimated shape parameter of Pareto", "The point-wise LOO is the same"):
        return arviz().loo(data, pointwise=True, reff=efficiency)


def compare(results: Mapping[str, Any]) -> pd.DataFrame:
    """Return ArviZ's comparison of LOO results, with the column names of ArviZ 1.

    Parameters
    ----------
    results : mapping of str to ELPDData
        Results of `loo` by name.

    Returns
    -------
    pandas.DataFrame
        One row per result, the best first.
    """
    with quiet():
        options = {"round_to": "none"} if is_arviz_1() else {}
        table = arviz().compare(results, **options)
    return table.rename(columns={"elpd_loo": "elpd", "p_loo": "p"})


def pointwise(result: Any) -> np.ndarray:
    """Return the log predictive density of each rating from a result of `loo`, shape (n_pairs,).

    Parameters
    ----------
    result : ELPDData
        Result of `loo`.
    """
    return (result.elpd_i if is_arviz_1() else result.loo_i).to_numpy()


def power_scaling(quantities: np.ndarray, log_component: np.ndarray, power: float) -> np.ndarray:
    """Return the power-scaling sensitivity of quantities to a prior or to the likelihood.

    Parameters
    ----------
    quantities : ndarray, shape (n_chains, n_draws, n)
        Draws of quantities.
    log_component : ndarray, shape (n_chains, n_draws)
        Log prior or log likelihood of each draw.
    power : float
        Above 1: the component is raised to it, and to one over it.

    Returns
    -------
    ndarray, shape (n,)
        Cumulative Jensen-Shannon distance per doubling of the power.
    """
    # Scaled priors have the weights of scaled likelihoods, and ArviZ 0.x makes no group log_prior.
    groups = {
        "posterior": {"x": np.asarray(quantities, dtype=float)},
        "log_likelihood": {"component": np.asarray(log_component, dtype=float)[..., None]},
    }
    data = from_dict(groups)
    with quiet():
        if is_arviz_1():
            found = arviz().psense(data, group="likelihood", alphas=(1 / power, power))
        else:
            found = arviz().psens(data, component="likelihood", delta=power - 1)
    return np.atleast_1d(found["x"].to_numpy())


def pareto_k(log_weights: np.ndarray) -> float:
    """Return the shape of the generalized Pareto distribution of the largest weights.

    Parameters
    ----------
    log_weights : ndarray, shape (n_draws,)
        Logarithms of importance weights.

    Returns
    -------
    float
        Above about 0.7, the weights are unreliable.
    """
    has_it = import_module("arviz_stats.base").array_stats if is_arviz_1() else arviz()
    with quiet("Estimated shape parameter of Pareto"):
        return float(has_it.psislw(log_weights)[1])


def plot_ppc(
    data: Any, discrete: bool, many_levels: bool, n_draws: int, prior: bool = False
) -> Any:
    """Plot predictive draws beside the observed ratings, by ArviZ.

    Parameters
    ----------
    data : InferenceData or DataTree
        With the groups posterior_predictive and observed_data.
    discrete : bool
        Whether the ratings are levels, given by number.
    many_levels : bool
        Whether to show distribution functions, such as of too many levels to show each by itself.
    n_draws : int
        Number of draws to show.
    prior : bool
        Whether the draws are of the prior predictive distribution. They are in the group
        posterior_predictive all the same, beside which ArviZ shows the observed ratings.

    Returns
    -------
    matplotlib.axes.Axes or arviz_plots.PlotCollection
        Plot of ArviZ 0.x or of ArviZ 1.
    """
    # ArviZ 1 recommends another plot for two levels, but this one shows them too. It also mistakes
    # levels for chains if they outnumber their summaries.
    with quiet(".*look binary", "Found chain dimension"):
        if not is_arviz_1():
            axes = arviz().plot_ppc(data, kind="cumulative" if many_levels else "kde")
            if prior:
                for text in axes.get_legend().get_texts():
                    text.set_text(text.get_text().replace("Posterior", "Prior"))
            return axes
        if discrete and not many_levels:
            return arviz().plot_ppc_rootogram(data)
        kind = "ecdf" if many_levels else "kde"
        return arviz().plot_ppc_dist(data, kind=kind, num_samples=n_draws)


def plot_loo_pit(data: Any) -> Any:
    """Plot leave-one-out probability integral transforms, by ArviZ.

    Parameters
    ----------
    data : InferenceData or DataTree
        With the groups posterior_predictive, log_likelihood and observed_data.

    Returns
    -------
    matplotlib.axes.Axes or arviz_plots.PlotCollection
        Plot of ArviZ 0.x or of ArviZ 1.
    """
    options = {} if is_arviz_1() else {"y": "rating", "ecdf": True}
    with quiet():
        return arviz().plot_loo_pit(data, **options)


def axes_of(shown: Any) -> Any:
    """Return the Axes of an ArviZ plot.

    Parameters
    ----------
    shown : matplotlib.axes.Axes or arviz_plots.PlotCollection
        Result of `plot_ppc` or `plot_loo_pit`.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.
    """
    return shown.get_viz("plot", "rating") if is_arviz_1() else shown


def level_positions(levels: np.ndarray) -> np.ndarray:
    """Return the x coordinates at which `plot_ppc` draws levels.

    Parameters
    ----------
    levels : ndarray of int
        Numbers of the levels.

    Returns
    -------
    ndarray
        Coordinates of the same shape.
    """
    return levels if is_arviz_1() else levels + 0.5


@contextmanager
def quiet(*messages: str) -> Iterator[None]:
    """Suppress UserWarnings that start with some texts, and all DeprecationWarnings.

    Parameters
    ----------
    *messages : str
        Regular expressions of the texts.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for message in messages:
            warnings.filterwarnings("ignore", message, UserWarning)
        yield
