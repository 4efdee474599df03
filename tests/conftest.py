"""What every test starts from."""

from __future__ import annotations

import pyro
import pytest
import torch

from pyro_pmf.random_state import isolated_random_state

torch.set_num_threads(1)  # most tests are so small that threads only wait for each other


@pytest.fixture(autouse=True)
def _seeded_and_validated():
    """Seed each test, validate all distributions, and leave no parameters behind."""
    with (
        isolated_random_state(0),
        pyro.validation_enabled(True),
        pyro.get_param_store().scope(),
    ):
        yield
