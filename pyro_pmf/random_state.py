"""Seed a block of code and restore the caller's random state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.util import get_rng_state, set_rng_state

from pyro_pmf.arguments import require_seed
from pyro_pmf.isolation import alone


def take_random_state() -> dict[str, Any]:
    """Return the random states of Python, NumPy and torch, those of all GPUs included."""
    return get_rng_state() | {"cuda": torch.cuda.get_rng_state_all()}


def restore_random_state(state: dict[str, Any]) -> None:
    """Go back to a state that `take_random_state` returned."""
    set_rng_state({name: part for name, part in state.items() if name != "cuda"})
    torch.cuda.set_rng_state_all(state["cuda"])


@contextmanager
def isolated_random_state(seed: int) -> Iterator[None]:
    """Seed the random states of Python, NumPy and torch, and restore them afterwards.

    They belong to the process, so that blocks of several threads wait for each other.

    Parameters
    ----------
    seed : int
        From 0 to 2^32 - 1.

    Raises
    ------
    PMFError
        If ``seed`` is not valid.
    """
    seed = require_seed(seed)
    with alone(), torch.random.fork_rng():  # the latter for GPUs, which Pyro's state lacks
        state = get_rng_state()
        pyro.set_rng_seed(seed)
        try:
            yield
        finally:
            set_rng_state(state)
