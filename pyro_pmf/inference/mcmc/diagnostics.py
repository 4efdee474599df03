"""Diagnostics of Markov chains: whether they have mixed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.data.ratings import Ratings
from pyro_pmf.model.identified import quantities
from pyro_pmf.model.learned import Converged
from pyro_pmf.moments.chains import ess_bulk, r_hat

_LARGEST_R_HAT = 1.05
_FEWEST = 100  # effective draws: the error of a mean is then a tenth of the standard deviation
_FEWEST_OF_SCORES = 50
_WORST = 0.05  # share of many quantities that may lie beyond: among hundreds, some do by chance


def convergence(
    model: Callable[..., Any],
    ratings: Ratings,
    latents: Mapping[str, Tensor],
    steps: pd.DataFrame,
    n_chains: int,
    history: Pairs | None = None,
) -> Converged:
    """Judge chains by the quantities that ratings identify.

    Parameters
    ----------
    model : callable
        The Pyro model.
    ratings : Ratings
        The training ratings.
    latents : mapping of str to Tensor, shape (n_chains * n_draws, ...)
        Draws by site, chain by chain.
    steps : pandas.DataFrame
        One row per draw, with the columns log_likelihood and, where the sampler has divergent
        draws, divergent.
    n_chains : int
        Number of chains.
    history : Pairs, optional
        All pairs with I_ij = 1; by default those of the ratings.

    Returns
    -------
    Converged
        See `have_mixed`.
    """
    return have_mixed(quantities(model, ratings, latents, history=history), steps, n_chains)


def have_mixed(draws: pd.DataFrame, steps: pd.DataFrame, n_chains: int) -> Converged:
    """Return whether no draw diverged, R-hat is below 1.05 and enough draws are effective.

    R-hat is rank-normalized and split, and the effective sample size is that of the bulk (Vehtari,
    Gelman, Simpson, Carpenter & Bürkner 2021). 100 effective draws of a parameter, of all chains
    together, keep the Monte Carlo error of a mean below a tenth of its standard deviation. Scores
    need 50: the error then adds 1% to the standard deviation of a score, and less to the standard
    deviation of a rating, which has noise, too. (The article asks for 50 in each half of a chain,
    to estimate R-hat and effective size themselves well.)

    Parameters
    ----------
    draws : pandas.DataFrame
        Draws of `quantities`, chain by chain.
    steps : pandas.DataFrame
        One row per draw, with the columns log_likelihood and, where the sampler has divergent
        draws, divergent.
    n_chains : int
        Number of chains.

    Returns
    -------
    Converged
        ``predictions`` judges the scores, ``parameters`` the parameters, the log likelihood and
        the effects. Every parameter must pass; of scores and of effects, 95 in 100 must. Both are
        False if a draw diverged, a chain has fewer than 4 draws, or draws are not finite.
    """
    if len(steps) and "divergent" in steps and steps["divergent"].any():
        return Converged(False, False)
    by_kind = {
        kind: draws[kind].to_numpy(float) for kind in draws.columns.get_level_values(0).unique()
    }
    likelihood = steps["log_likelihood"].to_numpy(float)[:, None]
    parameters = by_kind.get("parameter", likelihood[:, :0])
    return Converged(
        predictions=_mixed(by_kind.get("score", likelihood), n_chains, _FEWEST_OF_SCORES, _WORST),
        parameters=_mixed(np.hstack([parameters, likelihood]), n_chains, _FEWEST)
        and _mixed(by_kind.get("effect", likelihood), n_chains, _FEWEST, _WORST),
    )


def _mixed(draws: np.ndarray, n_chains: int, fewest: int, worst: float = 0.0) -> bool:
    """Return whether all but a share of the quantities have mixed."""
    by_chain = draws.reshape(n_chains, -1, draws.shape[1])
    well = (r_hat(by_chain) < _LARGEST_R_HAT) & (ess_bulk(by_chain) >= fewest)
    return bool((~well).mean() <= worst)
