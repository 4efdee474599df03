"""What every test starts from."""

from __future__ import annotations

import pyro
import pytest

from pyro_pmf.random_state import isolated_random_state


@pytest.fixture(autouse=True)
def _seeded_and_validated():
    """Seed each test, validate all distributions, and leave no parameters behind."""
    with (
        isolated_random_state(0),
        pyro.validation_enabled(True),
        pyro.get_param_store().scope(),
    ):
        yield
