"""Latents and ratings from the model, moved by the sampler, are still from the model.

Gandy & Scott, Unit testing for MCMC and other Monte Carlo methods, 2020. Each replication draws
all latents and ratings by running the Pyro model, and then moves the latents given the ratings,
by whole sweeps or by one block of a sweep. The distribution of any quantity must be the same
before and after. Replications are independent, so the standard error of the mean change is exact,
however slowly a chain mixes. This is the joint distribution test of Geweke (Getting it right,
2004) without its chain.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor

from pyro_pmf import PMF
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.inference.mcmc.gibbs import invariances, level
from pyro_pmf.inference.mcmc.gibbs.block import Block
from pyro_pmf.inference.mcmc.gibbs.means import Compensation, draw_mean
from pyro_pmf.inference.mcmc.gibbs.noise import draw_noise
from pyro_pmf.inference.mcmc.gibbs.rows import RowUpdate
from pyro_pmf.inference.mcmc.gibbs.sampler import Sampler
from pyro_pmf.inference.mcmc.gibbs.scales import draw_factor_scales, draw_scales
from pyro_pmf.inference.mcmc.gibbs.state import Side, State
from pyro_pmf.inference.mcmc.gibbs.sums import SumsUpdate, draw_effects
from pyro_pmf.inference.mcmc.gibbs.working import working_likelihood
from pyro_pmf.model.running import sites_of
from pyro_pmf.model.terms import Bias, Factor, LogNoise, SumOverSeen

N_USERS, N_ITEMS = 8, 6
_CENTRE = 0.3  # where likelihoods are expanded; any number is right
_LARGEST = 1e70  # of a quantity; a mistake may lead anywhere
_FAR = 1e12  # sweeps after which the running mean of the scores stands still
Moves = dict[str, Callable[[], object]]


def table(share: float = 0.5, value: Tensor | None = None) -> Pairs:
    """Return some of the pairs of a small table, all of the first user and of the first item."""
    generator = torch.Generator().manual_seed(3)
    seen = torch.rand(N_USERS, N_ITEMS, generator=generator) < share
    seen[:, 0] = seen[0] = True
    user, item = seen.nonzero().T
    return Pairs(user, item, N_USERS, N_ITEMS, value, torch.float64)


class Joint:
    """A model, and a sampler whose state is put to draws from it.

    Parameters
    ----------
    model : PMF
        The model.
    history : Pairs, optional
        The pairs with I_ij = 1; those with ratings by default.
    """

    def __init__(self, model: PMF, history: Pairs | None = None) -> None:
        self._model, self._history = model, history
        self.ratings = ratings = table(value=self.draw()["rating"])
        self.sampler = Sampler(model, ratings, history or ratings, np.random.default_rng(1))
        self.sampler.n_sweeps = int(_FAR)
        for side, _ in self.sampler.state.sides:
            side.step.fill_(1.0)
        n_cuts = getattr(model.likelihood, "n_levels", 1) - 1
        self.sampler.state.steps = {f"cut {k}": 0.8 for k in range(n_cuts)} | {"stretch": 0.6}

    def draw(self) -> dict[str, Tensor]:
        """Draw all latents and ratings by running the Pyro model."""
        sites = sites_of(self._model, table(), history=self._history)
        values = {name: site.get("value") for name, site in sites.items()}
        return {k: x.double() for k, x in values.items() if isinstance(x, Tensor)}

    def put(self, sites: dict[str, Tensor]) -> None:
        """Make latents and ratings the state of the sampler."""
        state = self.sampler.state
        for (side, _), sums in zip(state.sides, self.sampler._sums, strict=True):
            for kind, name in ((Factor, "F"), (Bias, "b"), (LogNoise, "s"), (SumOverSeen, "W")):
                if side.has(kind):
                    setattr(side, name, sites[side.site(kind)])
            if side.mean is not None:
                side.mean = sites[side.mean_site]
            side.M = prior_means(side, sums)
        state.scales.update({name: float(sites[name]) for name in state.scales})
        state.users.tau = sites.get("tau", state.users.tau)
        state.mu = float(sites.get("mu", 0.0))
        state.log_sigma = math.log(float(sites.get("sigma", 1.0)))
        (block,) = state.blocks
        block.likelihood = working_likelihood(
            self._model.likelihood, sites["rating"], sites.get("cutpoints")
        )
        state.compute_log_noise()
        state.compute_scores()
        block.centre = torch.full_like(block.score, _CENTRE)

    def sweeps(self, n: int) -> Moves:
        """Return one move: some sweeps."""

        def move() -> None:
            for _ in range(n):
                self.sampler.sweep()

        return {f"{n} sweeps": move}

    def blocks(self) -> Moves:
        """Return the blocks of a sweep, each as a move of its own."""
        sampler, state = self.sampler, self.sampler.state
        found: Moves = {
            "noise": lambda: draw_noise(state),
            "level": lambda: level.draw_level(state, adapt=False),
        }
        if "cut 0" in state.steps:
            found |= {
                "cut points": lambda: level._draw_cutpoints(state, state.likelihood, adapt=False),
                "stretch": lambda: level._stretch(state, state.likelihood, adapt=False),
            }
        if state.n_factors:
            found |= {
                "tau": lambda: draw_factor_scales(state),
                "columns": lambda: invariances.exchange_columns(state),
                "factor scales": lambda: invariances.exchange_factor_scales(state),
                "all scales": lambda: invariances.exchange_scales(state),
                "tau and scales": lambda: invariances.exchange_tau(state),
            }
        each = zip(
            state.sides, sampler._sums, sampler._compensations, ("users", "items"), strict=True
        )
        for (side, other), sums, how, name in each:
            found |= {
                f"{move} {name}": partial(take, side, other)
                for move, take in _moves_of(state, sums, how).items()
            }
        return found

    def z_scores(self, moves: Moves, n_replications: int, seed: int = 0) -> dict[str, float]:
        """Return mean changes of the quantities by each move, in standard errors.

        A change is as likely as its opposite, so a sum of changes over the root of the sum of
        their squares has tails at most as heavy as a Normal's.
        """
        torch.manual_seed(seed)
        self.sampler.state.generator = np.random.default_rng(seed)
        changes: dict[str, list[np.ndarray]] = {name: [] for name in moves}
        names: list[str] = []
        for _ in range(n_replications):
            sites = self.draw()
            for k, (move, take) in enumerate(moves.items()):
                self.put(sites)
                if k == 0:
                    before = quantities(self.sampler)
                take()
                after = quantities(self.sampler)
                names = list(after)
                x, y = (np.array([*q.values()]).clip(-_LARGEST, _LARGEST) for q in (before, after))
                changes[move].append(np.concatenate([y - x, (y - x) * (y + x)]))
        names += [f"square of {name}" for name in names]
        found = {}
        for move, rows in changes.items():
            change = np.array(rows)
            spread = np.sqrt((change**2).sum(0))
            moved = ~(spread <= 1e-8 * math.sqrt(n_replications))
            z = change.sum(0) / np.where(moved, spread, 1.0)
            found |= {f"{move}: {names[j]}": float(z[j]) for j in np.flatnonzero(moved)}
        return found


def _moves_of(
    state: State, sums: SumsUpdate | None, how: Compensation
) -> dict[str, Callable[[Side, Side], object]]:
    """Return the blocks that take one side, and the other one."""
    found: dict[str, Callable[[Side, Side], object]] = {
        "rows of": lambda x, y: RowUpdate(state, x, y)(safe=False, adapt=False),
        "scales of": lambda x, y: draw_scales(state, x),
        "level and": lambda x, y: invariances.shift_level(state, x),
        "noise and": lambda x, y: invariances.exchange_noise(state, x),
        "mean of": lambda x, y: draw_mean(state, x, how),
    }
    if sums is not None:
        found["effects of"] = lambda x, y: draw_effects(state, x, sums)
    if state.n_factors:
        found["shift of"] = lambda x, y: invariances.shift_factors(state, x, y, how)
    return found


def prior_means(side: Side, sums: SumsUpdate | None) -> Tensor:
    """Return the prior means of factors, from the latents that they depend on."""
    of_sums = torch.zeros_like(side.F) if sums is None else sums.forward(side.W)
    return of_sums if side.mean is None else of_sums + side.mean


def quantities(sampler: Sampler) -> dict[str, float]:
    """Return numbers that a wrong move would change, with light tails."""
    state = sampler.state
    found = {f"log {name}": math.log(x) for name, x in state.scales.items()}
    for (side, _), sums in zip(state.sides, sampler._sums, strict=True):
        for kind, rows in (
            (Factor, side.F),
            (Bias, side.b),
            (LogNoise, side.s),
            (SumOverSeen, side.W),
        ):
            if not side.has(kind):
                continue
            name = side.site(kind)
            found[f"mean of {name}"] = float(torch.tanh(rows).mean())
            found[f"spread of {name}"] = float(torch.log1p(rows.square()).mean())
            if kind is Factor:
                rows = (rows - prior_means(side, sums)) / side.tau
            elif kind is SumOverSeen:
                rows = rows / side.tau
            sd = state.scales[side.terms[kind].scale]
            if kind is Factor and side.mean is not None:
                found[f"mean of all {name}"] = float(torch.tanh(side.mean).mean())
                own = (side.mean / side.tau / sd).square()
                found[f"standardized mean of all {name}"] = float(own.mean())
            found[f"standardized {name}"] = float((rows / sd).square().mean())
    for k, tau in enumerate(state.users.tau.tolist()):
        found[f"log tau {k}"] = math.log(tau)
    found["mu"], found["log sigma"] = state.mu, state.log_sigma
    found["size of mu"] = math.log(state.mu**2 + 0.01)
    cutpoints = getattr(state.likelihood, "cutpoints", torch.zeros(0))
    for k, below in enumerate(torch.sigmoid(cutpoints).tolist()):
        found[f"below {k}"] = below
    (block,) = state.blocks
    found["score"] = float(torch.tanh(block.score).mean())
    found["spread of score"] = float(torch.log1p(block.score.square()).mean())
    found["log likelihood"] = float(torch.tanh(block.log_prob / 4).mean())
    found["total log likelihood"] = float(block.log_prob.sum().clamp(-500, 500))
    return found | _slopes(block)


def _slopes(block: Block) -> dict[str, float]:
    """Return slopes of the log likelihood, whose means are 0; their squares are informations."""
    likelihood, n = block.likelihood, len(block.score)
    slope = likelihood.slope(block.score, block.log_noise) * block.log_noise.exp()
    of_noise = sum(
        sign * likelihood.log_prob(block.score, block.log_noise + sign * 1e-4) / 2e-4
        for sign in (1, -1)
    )
    by_score = torch.tanh(slope * torch.tanh(block.score)).mean()
    return {
        "slope": float(slope.sum().div(math.sqrt(n)).clamp(-4, 4)),
        "slope by score": float(by_score),
        "slope of noise": float(torch.as_tensor(of_noise).sum().div(math.sqrt(n)).clamp(-4, 4)),
    }


def failures(z: dict[str, float], false_alarm: float) -> dict[str, float]:
    """Return the z-scores too far from 0, with one false alarm at this rate among all of them."""
    limit = norm.isf(false_alarm / (2 * len(z)))
    return {name: round(x, 1) for name, x in z.items() if not abs(x) < limit}
