"""Diagnostics of Markov chains, by the quantities that ratings identify."""

from __future__ import annotations

import numpy as np
import pandas as pd
from torch import Tensor

from pyro_pmf.arguments import require_integer, require_seed
from pyro_pmf.errors import PMFError
from pyro_pmf.model.identified import N_EACH, quantities
from pyro_pmf.model.learned import Learned
from pyro_pmf.moments import chains


def diagnostics(learned: Learned, n_each: int = N_EACH, seed: int = 0) -> pd.DataFrame:
    """Return convergence diagnostics, see `Posterior.diagnostics`.

    Parameters
    ----------
    learned : Learned
        Result of a fit.
    n_each, seed
        As for `Posterior.diagnostics`.

    Returns
    -------
    pandas.DataFrame
        The table of `Posterior.diagnostics`.

    Raises
    ------
    PMFError
        As for `Posterior.diagnostics`.
    """
    require_integer("n_each", n_each)
    require_seed(seed)
    n_chains = require_chains(learned, "Diagnostics")
    latents = {site: x for site, x in learned.latents.items() if isinstance(x, Tensor)}
    found = quantities(learned.model, learned.ratings, latents, n_each, seed, learned.seen)
    found["parameter", "log_likelihood"] = learned.steps["log_likelihood"].to_numpy(float)
    draws = found.to_numpy(float).reshape(n_chains, -1, found.shape[1])
    table = found.columns.to_frame(index=False)
    table["mean"] = draws.mean((0, 1))
    table["sd"] = draws.std((0, 1), ddof=1) if draws[..., 0].size > 1 else np.nan
    table["r_hat"] = chains.r_hat(draws)
    table["ess_bulk"], table["ess_tail"] = chains.ess_bulk(draws), chains.ess_tail(draws)
    table["mcse_mean"] = chains.mcse_mean(draws)
    return table


def require_chains(learned: Learned, what: str) -> int:
    """Return the number of chains; refuse a fit without chains.

    Parameters
    ----------
    learned : Learned
        Result of a fit.
    what : str
        The beginning of the message: what needs chains.

    Raises
    ------
    PMFError
        If the posterior does not consist of draws of Markov chains.
    """
    if learned.n_chains is None:
        raise PMFError(
            f"{what} need draws of Markov chains, and this fit has none: fit with "
            'method="gibbs", or with "nuts" for a model of your own.'
        )
    return learned.n_chains
