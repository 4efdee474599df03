"""Sweeps that processes share are those of one process, given the same random numbers.

A sum over processes that is missing, or is there twice, a count of the users of one process in the
place of all, or a random number that processes do not have in common: each moves the state far
beyond rounding. Threads take the place of processes.
"""

from __future__ import annotations

import pytest
from configurations import MODELS
from sweeping import SWEEPS, require_same, swept, swept_by_threads

from pyro_pmf.inference.mcmc.gibbs import sums
from pyro_pmf.reducer import Reducer


@pytest.mark.parametrize("data", MODELS, indirect=True)
def test_processes_that_share_a_chain_take_the_sweeps_of_one(data):
    require_same(swept_by_threads(*data), swept(*data, Reducer(), SWEEPS))


@pytest.mark.parametrize("data", ["ordered", "identity", "counts"], indirect=True)
def test_large_systems_of_effects_are_solved_by_all(data, monkeypatch):
    monkeypatch.setattr(sums, "_DENSE", 0)
    monkeypatch.setattr(sums, "_DEFLATED", 2)
    monkeypatch.setattr(sums, "_TOLERANCE", 1e-7)
    sweeps = SWEEPS[:3]
    require_same(swept_by_threads(*data, sweeps=sweeps), swept(*data, Reducer(), sweeps))
