"""A short run of the sampler: typical standard deviations, and latents at which fits begin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.inference.mcmc.gibbs.kernel import is_known
from pyro_pmf.inference.mcmc.gibbs.sampler import Sampler
from pyro_pmf.inference.scales import Scales
from pyro_pmf.model.terms import TAU, terms_of
from pyro_pmf.moments.bilinear import dot
from pyro_pmf.random_state import isolated_random_state

_WINDOW = 30  # sweeps; factors of a strong signal are found in about 20
_MOST_WINDOWS = 10
_LEAST = 1e-6  # of a scale; a smaller one does as little, and its square may be 0
_SETTLED = 1.1  # times the variance that factors had half a window before


@dataclass(frozen=True)
class ShortRun:
    """What a short run of the blocked sampler says of the posterior.

    Attributes
    ----------
    scales : dict of str to float or list of float
        Geometric means over the last 30 sweeps, on the scale of the score, by site, of the scales
        and of tau that the priors do not fix.
    last : dict of str to Tensor
        The last draw, by site.
    """

    scales: Scales = field(default_factory=dict)
    last: dict[str, Tensor] = field(default_factory=dict)


def short_run(
    model: Callable[..., Any], ratings: Pairs, seed: int, on_sweep: Callable[[], object]
) -> ShortRun:
    """Run the blocked sampler until its factors have formed.

    It takes at least 60 sweeps. Where users have few ratings, factors form one
    after the other over hundreds of sweeps, so sweeps go on while the factors grow.

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
    ShortRun
        Typical scales and the last draw; none for a model that the sampler does not know.
    """
    if not is_known(model):
        return ShortRun()
    factors = terms_of(model).factors
    with isolated_random_state(seed):
        sampler = Sampler(model, ratings, ratings, np.random.default_rng(seed))
        for number in range(_MOST_WINDOWS):
            logs: list[dict[str, np.ndarray]] = []
            variance: list[float] = []
            for _ in range(_WINDOW):
                sampler.sweep()
                on_sweep()
                draw = sampler.draw()
                logs.append(_log_scales(draw))
                if factors is not None:
                    U, V = (draw[factor.site] for factor in factors)
                    variance.append(float(dot(U, V, ratings.pattern).var(correction=0)))
            if number > 0 and not _grows(variance):
                break
    scales = {name: np.exp(np.mean([x[name] for x in logs], 0)).tolist() for name in logs[0]}
    return ShortRun(scales, draw)


def _log_scales(draw: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {
        name: torch.log(value.clamp(min=_LEAST)).double().cpu().numpy()
        for name, value in draw.items()
        if name == TAU or name.startswith("sigma")
    }


def _grows(values: list[float]) -> bool:
    """Return whether the second half of some values is larger than the first."""
    first, second = values[: len(values) // 2], values[len(values) // 2 :]
    return bool(np.mean(second) > _SETTLED * np.mean(first)) if values else False
