"""Draws of some rows given draws of all other latents."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.data.ratings import Ratings
from pyro_pmf.inference.mcmc.gibbs.initial import initial_state
from pyro_pmf.inference.mcmc.gibbs.noise import draw_log_noise
from pyro_pmf.inference.mcmc.gibbs.rows import RowUpdate
from pyro_pmf.inference.mcmc.gibbs.state import Side, State
from pyro_pmf.model.learned import Learned
from pyro_pmf.model.pmf import PMF
from pyro_pmf.model.terms import Bias, Factor, LogNoise, Plate, SumOverSeen
from pyro_pmf.random_state import isolated_random_state

_SAFE = 6  # first updates, which find the rows from anywhere
_ADAPTED = 8  # further ones, in which steps adapt
_EACH = 3  # updates for each draw; a row is hardly correlated after one
_MEMORY = 30  # updates that the running mean of the scores remembers


def draw_rows(
    learned: Learned, ratings: Ratings, seen: Pairs, plate: Plate, seed: int
) -> dict[str, Tensor]:
    """Return one draw of the rows of one side for each draw of the rest.

    The rows of a side are independent given the rest, so a few updates of the blocked sampler
    suffice. Draws of the rest may come from chains whose factors are rotated in different ways.
    Each draw therefore begins with rows from a Gaussian approximation at the scores, which no
    rotation changes, and three updates correct it. What they leave is small (a distance of 0.01 of
    distribution functions), but where a row is far from Gaussian: 0.06 for two ratings at the end
    of the scale of a wide prior.

    Parameters
    ----------
    learned : Learned
        Draws from the posterior of a `PMF` that the sampler knows, with the rows of ``ratings``.
    ratings : Ratings
        Ratings of the rows to draw.
    seen : Pairs
        The pairs with I_ij = 1, in the matrix of ``ratings``.
    plate : {"users", "items"}
        The side of the rows.
    seed : int
        Seed of all random numbers.

    Returns
    -------
    dict of str to Tensor, shape (n_draws, n_rows, ...)
        By site: factors, biases and log noise of this side.
    """
    model = cast(PMF, learned.model)
    with isolated_random_state(seed):
        return _draw_rows(learned, model, ratings, seen, plate, seed)


def _draw_rows(
    learned: Learned, model: PMF, ratings: Ratings, seen: Pairs, plate: Plate, seed: int
) -> dict[str, Tensor]:
    state = initial_state(model, ratings, np.random.default_rng(seed))
    side, other = state.sides[0 if plate == "users" else 1]
    kept: dict[str, list[Tensor]] = {
        side.site(kind): [] for kind in (Factor, Bias, LogNoise) if side.has(kind)
    }
    rows = side.F, side.b, side.s
    for k, draw in enumerate(learned.draws()):
        state.take(draw)
        side.M = torch.zeros_like(side.F)
        if side.has(SumOverSeen):
            side.M = cast(Tensor, model.sum_over_seen(side.W, seen, plate))
        if side.mean is not None:
            side.M = side.M + side.mean
        side.F, side.b, side.s = (side.M, side.b * 0, side.s * 0) if k == 0 else rows
        state.compute_log_noise()
        state.compute_scores()
        if k == 0:
            _find(state, side, other)
        RowUpdate(state, side, other).begin_anew(_EACH)
        if side.has(LogNoise):
            draw_log_noise(state, side)
        state.move_centre(1 / _MEMORY)
        rows = side.F, side.b, side.s
        for kind, value in zip((Factor, Bias, LogNoise), rows, strict=True):
            if side.has(kind):
                kept[side.site(kind)].append(value)
    return {site: torch.stack(values) for site, values in kept.items()}


def _find(state: State, side: Side, other: Side) -> None:
    """Bring the rows to where they belong from their prior means."""
    for _ in range(_SAFE):
        RowUpdate(state, side, other)(safe=True, adapt=False)
        state.move_centre(1.0)
    for _ in range(_ADAPTED):
        RowUpdate(state, side, other)(safe=False, adapt=True)
        if side.has(LogNoise):
            draw_log_noise(state, side)
        state.move_centre(1 / _MEMORY)
