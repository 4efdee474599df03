"""Typical values of standard deviations under the posterior, by a short run of the sampler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.inference.mcmc.gibbs.kernel import is_known
from pyro_pmf.inference.mcmc.gibbs.sampler import Sampler
from pyro_pmf.inference.scales import Scales
from pyro_pmf.model.terms import TAU
from pyro_pmf.random_state import isolated_random_state

_WARMUP = 30  # sweeps; factors of a strong signal are found in about 20
_AVERAGED = 30  # sweeps


def typical_scales(
    model: Callable[..., Any], ratings: Pairs, seed: int, on_sweep: Callable[[], object]
) -> Scales:
    """Return geometric means of the scales and of tau over some sweeps of the blocked sampler.

    Parameters
    ----------
    model : callable
        The model.
    ratings : Pairs
        The training ratings, with values, on the device of the fit.
    seed : int
        Seed of the chain.
    on_sweep : callable
        Called after each sweep.

    Returns
    -------
    dict of str to float or list of float
        Values on the scale of the score, by site, for the scales that the priors do not fix; none
        for a model that the sampler does not know.
    """
    if not is_known(model):
        return {}
    logs: dict[str, list[np.ndarray]] = {}
    with isolated_random_state(seed):
        sampler = Sampler(model, ratings, ratings, np.random.default_rng(seed))
        for k in range(_WARMUP + _AVERAGED):
            sampler.sweep()
            on_sweep()
            if k < _WARMUP:
                continue
            for name, value in sampler.draw().items():
                if name == TAU or name.startswith("sigma"):
                    logs.setdefault(name, []).append(torch.log(value).double().cpu().numpy())
    return {name: np.exp(np.mean(draws, 0)).tolist() for name, draws in logs.items()}
