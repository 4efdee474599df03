"""Sweeps through blocks of users are those through all ratings at once, in less memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from configurations import MODELS
from sweeping import SIZE, SWEEPS, SameNumbers, require_same, swept, swept_by_threads
from watching import Largest

from pyro_pmf import (
    PMF,
    BernoulliLogit,
    NegativeBinomialLog,
    NormalIdentity,
    NormalSigmoid,
    OrderedLogit,
)
from pyro_pmf.data import blocks
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.data.scratch import Scratch
from pyro_pmf.datasets import simulate
from pyro_pmf.inference.mcmc.gibbs import initial, sums
from pyro_pmf.inference.mcmc.gibbs.axis import Axis
from pyro_pmf.inference.mcmc.gibbs.sampler import Sampler
from pyro_pmf.reducer import Reducer


def in_files(pairs: Pairs, folder) -> Pairs:
    """Return the same pairs, whose numbers are kept in files."""
    shape = pairs.user, pairs.item, pairs.n_users, pairs.n_items
    return Pairs(*shape, pairs.value, pairs.dtype, Scratch(folder))


@pytest.mark.parametrize("is_in_files", [False, True], ids=["memory", "files"])
@pytest.mark.parametrize("data", MODELS, indirect=True)
def test_they_take_the_sweeps_of_all_ratings(data, is_in_files, monkeypatch, tmp_path):
    """Some sweeps adapt, some do not; see `SWEEPS`."""
    model, ratings, history = data
    whole = swept(*data, Reducer(), SWEEPS)
    assert len(whole.blocks) == 1
    monkeypatch.setattr(blocks, "_IN_A_BLOCK", 12)  # half of it, for a shard
    if is_in_files:
        mapped = in_files(ratings, tmp_path)
        history = mapped if history is ratings else in_files(history, tmp_path)
        ratings = mapped
    sampler = Sampler(model, ratings, history, np.random.default_rng(1), axes(ratings))
    for sampler.n_sweeps in SWEEPS:
        sampler.sweep()
    assert len(sampler.state.blocks) > 2
    require_same([sampler.state], whole)


def axes(ratings: Pairs) -> tuple[Axis, Axis]:
    """Return users and items with the random streams of `swept`."""
    streams = [torch.Generator().manual_seed(k) for k in (5, 6)]
    users = SameNumbers(ratings.n_users, Reducer(), streams[0], 0, ratings.n_users)
    return users, Axis(ratings.n_items, generator=streams[1])


@pytest.mark.parametrize("data", ["ordered", "counts", "ordered, history"], indirect=True)
def test_each_process_of_a_chain_has_blocks(data, monkeypatch):
    whole = swept(*data, Reducer(), SWEEPS)
    monkeypatch.setattr(blocks, "_IN_A_BLOCK", 8)
    parts = swept_by_threads(*data)
    assert len(parts) == SIZE
    assert any(len(part.blocks) > 1 for part in parts)
    require_same(parts, whole)


@pytest.mark.parametrize(
    "likelihood",
    [
        NormalIdentity(),
        NormalSigmoid(),
        OrderedLogit(5),
        BernoulliLogit(),
        NegativeBinomialLog(),
    ],
    ids=repr,
)
def test_ratings_in_files_are_never_all_in_memory(likelihood, monkeypatch, tmp_path):
    model = PMF(1, "hierarchical", "hierarchical", likelihood=likelihood)
    ratings = simulate(model, 600, 20, 9000, seed=0)[0]
    pairs = in_files(ratings, tmp_path)
    monkeypatch.setattr(blocks, "_IN_A_BLOCK", 400)
    monkeypatch.setattr("pyro_pmf.data.pairs._SORTED", 300)
    monkeypatch.setattr(initial, "_AT_ONCE", 300)
    monkeypatch.setattr(sums, "_DENSE", 0)  # a square of the users or the items
    monkeypatch.setattr(sums, "_DEFLATED", 2)
    n_bytes = {}
    for name, given in {"files": pairs, "memory": ratings}.items():
        if name == "memory":
            monkeypatch.setattr(blocks, "_IN_A_BLOCK", 1 << 20)
        with Largest() as watch:
            sampler = Sampler(model, given, given, np.random.default_rng(0))
            for sampler.n_sweeps in SWEEPS:
                sampler.sweep()
        n_bytes[name] = watch.nbytes
    assert n_bytes["memory"] >= 4 * len(ratings)
    assert n_bytes["files"] < 3 * len(ratings)
