"""What every test starts from."""

from __future__ import annotations

import os

import hypothesis
import pyro
import pytest
import torch

from pyro_pmf.random_state import restore_random_state, take_random_state

# The same inputs in every run; HYPOTHESIS_PROFILE=other tries new ones, to look for faults.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.register_profile("other", max_examples=2000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

torch.set_num_threads(1)  # most tests are so small that threads only wait for each other


@pytest.fixture(autouse=True)
def _seeded_and_validated():
    """Seed each test, validate all distributions, and leave no parameters behind."""
    before = take_random_state()
    pyro.set_rng_seed(0)
    with pyro.validation_enabled(True), pyro.get_param_store().scope():
        yield
    restore_random_state(before)
