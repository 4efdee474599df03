"""Diagnostics of Markov chains: whether they have mixed."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pandas as pd
import torch
from pyro.ops.stats import split_gelman_rubin
from torch import Tensor

from pyro_pmf.model.terms import Terms

_LARGEST_R_HAT = 1.05
_FEWEST_DRAWS = 4  # of a chain: each half needs a variance


def identified(terms: Terms, latents: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace the standard deviations of the factors by the products that ratings identify.

    U V^T is the same for U a and V / a. Only products of a scale of one side and a scale of the
    other, such as sigma_U sigma_V or sigma_W sigma_V, are identified, so each product replaces
    both scales. If the priors fix one of the scales, it sets the unit of the others, and all are
    identified.

    Parameters
    ----------
    terms : Terms
        Terms of the model.
    latents : mapping of str to Tensor, shape (n_chains * n_draws, ...)
        Draws by site.

    Returns
    -------
    dict of str to Tensor
        Draws of the identified quantities by name; a product is named "sigma_U sigma_V".
    """
    sides = list(terms.factor_scales.values())
    scales = {scale for side in sides for scale in side}
    if len(sides) != 2 or not latents.keys() >= scales:
        return dict(latents)
    others = {name: x for name, x in latents.items() if name not in scales}
    pairs = itertools.product(*sides)
    return others | {f"{ours} {theirs}": latents[ours] * latents[theirs] for ours, theirs in pairs}


def have_mixed(quantities: Mapping[str, Tensor], steps: pd.DataFrame, n_chains: int) -> bool:
    """Return whether no draw diverged and split R-hat is below 1.05.

    Split R-hat (Gelman et al., Bayesian Data Analysis, 3rd edition, section 11.4) is computed for
    the log likelihood and for every scalar quantity. Predictions mix long before the standard
    deviations do.

    Parameters
    ----------
    quantities : mapping of str to Tensor, shape (n_chains * n_draws, ...)
        Draws, chain by chain.
    steps : pandas.DataFrame
        One row per draw, with the columns log_likelihood and divergent.
    n_chains : int
        Number of chains.

    Returns
    -------
    bool
        False also if a chain has fewer than 4 draws.
    """
    scalars = [value.double() for value in quantities.values() if value.dim() == 1]
    scalars.append(torch.tensor(steps["log_likelihood"].to_numpy(copy=True)))
    by_chain = torch.stack(scalars, -1).unflatten(0, (n_chains, -1))
    if by_chain.shape[1] < _FEWEST_DRAWS or steps["divergent"].any():
        return False
    r_hat = split_gelman_rubin(by_chain, chain_dim=0, sample_dim=1)
    return bool((r_hat < _LARGEST_R_HAT).all())
