"""Seeds that leave the caller's random state alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyro
import torch
from pyro.util import get_rng_state, set_rng_state

from pyro_pmf.arguments import require_seed


@contextmanager
def isolated_random_state(seed: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's random states, and put them back afterwards."""
    require_seed(seed)
    state = get_rng_state()
    with torch.random.fork_rng():  # for the GPUs, which Pyro's state leaves out
        pyro.set_rng_seed(seed)
        try:
            yield
        finally:
            set_rng_state(state)
