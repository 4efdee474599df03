"""Seed a block of code and restore the caller's random state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyro
import torch
from pyro.util import get_rng_state, set_rng_state

from pyro_pmf.arguments import require_seed


@contextmanager
def isolated_random_state(seed: int) -> Iterator[None]:
    """Seed the random states of Python, NumPy and torch, and restore them afterwards.

    Parameters
    ----------
    seed : int
        From 0 to 2^32 - 1.

    Raises
    ------
    PMFError
        If ``seed`` is not valid.
    """
    require_seed(seed)
    state = get_rng_state()
    with torch.random.fork_rng():  # for GPUs, which Pyro's state lacks
        pyro.set_rng_seed(seed)
        try:
            yield
        finally:
            set_rng_state(state)
