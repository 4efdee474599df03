"""Everything that depends on the version of ArviZ, which is imported when it is first used."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

Groups = dict[str, dict[str, np.ndarray]]


@cache
def arviz() -> Any:
    """Import ArviZ, without the announcement of ArviZ 1 that 0.23 makes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "\\s*ArviZ is undergoing", FutureWarning)
        import arviz as imported
    return imported


def is_arviz_1() -> bool:
    """Whether ArviZ is of version 1 or later."""
    return int(arviz().__version__.split(".")[0]) >= 1


def from_dict(groups: Groups, **described: Any) -> Any:
    """Return ArviZ data of these groups: InferenceData with ArviZ 0.x, a DataTree with ArviZ 1.

    Parameters
    ----------
    groups : dict of str to dict of str to ndarray
        Variables by group.
    **described
        ArviZ's ``coords`` and ``dims``.
    """
    if is_arviz_1():
        return arviz().from_dict(groups, **described)
    return arviz().from_dict(**groups, **described)


def summary(data: Any, kind: str) -> pd.DataFrame:
    """Return ArviZ's summary with 90% highest-density intervals; ``kind`` is "stats" or "all"."""
    if is_arviz_1():
        return arviz().summary(data, kind=kind, ci_prob=0.9, ci_kind="hdi", round_to=4)
    return arviz().summary(data, kind=kind, hdi_prob=0.9, round_to=4)


def loo(data: Any, efficiency: float | None) -> Any:
    """Return ArviZ's PSIS-LOO with pointwise values.

    Parameters
    ----------
    data : InferenceData or DataTree
    efficiency : float or None
        Effective draws as a share of all draws; None lets ArviZ estimate it from chains.
    """
    with quiet("Estimated shape parameter of Pareto", "The point-wise LOO is the same"):
        return arviz().loo(data, pointwise=True, reff=efficiency)


def compare(results: Mapping[str, Any]) -> pd.DataFrame:
    """Return ArviZ's comparison of LOO results, with the column names of ArviZ 1."""
    with quiet():
        options = {"round_to": "none"} if is_arviz_1() else {}
        table = arviz().compare(results, **options)
    return table.rename(columns={"elpd_loo": "elpd", "p_loo": "p"})


def plot_ppc(data: Any, discrete: bool, many_levels: bool, n_draws: int) -> Any:
    """Draw ArviZ's plot of draws from the predictive distribution beside what was observed.

    Parameters
    ----------
    data : InferenceData or DataTree
        With the groups posterior_predictive and observed_data.
    discrete : bool
        Whether the ratings are levels, given by number.
    many_levels : bool
        Whether there are too many to show each by itself.
    n_draws : int
    """
    # ArviZ 1 advises another plot where there are two levels, which this one shows as well, and
    # takes the levels for chains where they outnumber their summaries.
    with quiet(".*look binary", "Found chain dimension"):
        if not is_arviz_1():
            return arviz().plot_ppc(data, kind="cumulative" if many_levels else "kde")
        if discrete and not many_levels:
            return arviz().plot_ppc_rootogram(data)
        kind = "ecdf" if many_levels else "kde"
        return arviz().plot_ppc_dist(data, kind=kind, num_samples=n_draws)


def plot_loo_pit(data: Any) -> Any:
    """Draw ArviZ's plot of leave-one-out probability integral transforms."""
    options = {} if is_arviz_1() else {"y": "rating", "ecdf": True}
    with quiet():
        return arviz().plot_loo_pit(data, **options)


def axes_of(shown: Any) -> Any:
    """Return the Axes of a plot of ArviZ."""
    return shown.get_viz("plot", "rating") if is_arviz_1() else shown


def level_positions(levels: np.ndarray) -> np.ndarray:
    """Return where `plot_ppc` puts the levels of these numbers."""
    return levels if is_arviz_1() else levels + 0.5


@contextmanager
def quiet(*messages: str) -> Iterator[None]:
    """Suppress UserWarnings that start with these texts, and DeprecationWarnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for message in messages:
            warnings.filterwarnings("ignore", message, UserWarning)
        yield
