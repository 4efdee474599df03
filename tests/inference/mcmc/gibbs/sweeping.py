"""Sweeps of one chain: by one process, or shared by threads in the place of processes.

Each thread draws the random numbers of all users and keeps those of its own users, so that all of
them together take the sweep that one process takes, up to sums in another order.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyro_pmf import PMF
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.data.shards import shard_of
from pyro_pmf.inference.mcmc.gibbs.axis import Axis
from pyro_pmf.inference.mcmc.gibbs.sampler import Sampler
from pyro_pmf.inference.mcmc.gibbs.state import State
from pyro_pmf.reducer import Reducer

# Some are without correction, some hold the scales, some adapt, and the last do nothing of these.
SWEEPS = (0, 1, 8, 14, 15, 16, 17, 18, 40, 41, 42)
SIZE = 3  # threads


class Threads(Reducer):
    """Sums over threads; see `Reducer`."""

    def __init__(self, rank: int, told: list, barrier: threading.Barrier) -> None:
        self.rank, self.size = rank, len(told)
        self._told, self._barrier = told, barrier

    def each(self, value):
        self._told[self.rank] = value
        self._barrier.wait(60)
        told = list(self._told)
        self._barrier.wait(60)
        return told

    def sum(self, x):
        return torch.stack(self.each(x)).sum(0)

    def first(self, compute):
        return self.each(compute())[0]


@dataclass(frozen=True)
class SameNumbers(Axis):
    """Users from ``start`` to ``stop``, who are dealt the random numbers of all users."""

    start: int = 0
    stop: int = 0

    def normal_like(self, x: Tensor) -> Tensor:
        return super().normal_like(x.new_empty(self.n, *x.shape[1:]))[self.start : self.stop]

    def uniform_like(self, x: Tensor) -> Tensor:
        return super().uniform_like(x.new_empty(self.n, *x.shape[1:]))[self.start : self.stop]


def swept(model: PMF, ratings: Pairs, history: Pairs, reducer: Reducer, sweeps) -> State:
    """Return the state of one of the threads after some sweeps."""
    own = shard_of(ratings, reducer.rank, reducer.size)
    seen = shard_of(history, reducer.rank, reducer.size, of=ratings)
    streams = [torch.Generator().manual_seed(k) for k in (5, 6)]
    users = SameNumbers(ratings.n_users, reducer, streams[0], own.first, own.last)
    items = Axis(ratings.n_items, generator=streams[1])
    sampler = Sampler(model, own, seen, np.random.default_rng(1), (users, items))
    for sampler.n_sweeps in sweeps:
        sampler.sweep()
    return sampler.state


def swept_by_threads(*data, sweeps=SWEEPS) -> list[State]:
    """Return the states of the threads that share a chain."""
    told, barrier = [None] * SIZE, threading.Barrier(SIZE)

    def run(rank: int) -> State:
        try:
            return swept(*data, Threads(rank, told, barrier), sweeps)
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(SIZE) as pool:
        return [future.result() for future in [pool.submit(run, k) for k in range(SIZE)]]


def held(state: State) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return what a process has of its own users, and what all have."""
    u, v = state.users, state.items
    own = {"U": u.F, "b": u.b, "s": u.s, "mean of U": u.M, "Z": v.W, "steps of U": u.step}
    own |= {name: state.of_ratings(name) for name in ("score", "log_noise", "log_prob", "centre")}
    shared = {"V": v.F, "c": v.b, "t": v.s, "mean of V": v.M, "W": u.W, "steps of V": v.step}
    shared |= {"tau": u.tau, "numbers": torch.tensor([state.mu, state.log_sigma])}
    shared |= {"scales": torch.tensor([*state.scales.values()], dtype=torch.float64)}
    shared |= {"steps": torch.tensor([*state.steps.values()], dtype=torch.float64)}
    return own, shared | {"cuts": getattr(state.likelihood, "cutpoints", torch.zeros(0))}


def require_same(parts: list[State], whole: State) -> None:
    """Require that parts of a chain are a chain, up to rounding, and agree, to the last bit."""
    owns, shareds = zip(*map(held, parts), strict=True)
    own, shared = held(whole)
    for name, value in shared.items():
        np.testing.assert_allclose(shareds[0][name], value, rtol=1e-6, atol=1e-7, err_msg=name)
        assert all(torch.equal(other[name], shareds[0][name]) for other in shareds), name
    for name, value in own.items():
        found = torch.cat([part[name] for part in owns])
        np.testing.assert_allclose(found, value, rtol=1e-6, atol=1e-7, err_msg=name)
