"""Odd tables give sane predictions, or an error that says what to do."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.odd_tables import KINDS, one
from pyro_pmf import PMF


@pytest.mark.long
@given(
    kind=st.sampled_from(sorted(KINDS)),
    seed=st.integers(0, 10**6),
    model=st.sampled_from([PMF(2), PMF(2, likelihood="auto")]),
    method=st.sampled_from(["vi", "map"]),
)
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_predictions_are_sane_or_refused_with_a_remedy(kind, seed, model, method):
    result, reason = one(kind, seed, model, method)
    assert result != "wrong", reason
    assert result != "refused" or "ive " in reason or "vi" in reason, reason
