"""Generated tables, files and questions: a right answer or a `PMFError`, and nothing else."""

import collections

import pytest
from generated_tables import attempt, inputs, posterior
from hypothesis import HealthCheck, given, settings

ENDS = collections.Counter()
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@settings(max_examples=100, suppress_health_check=QUIET)
@given(inputs)
def test_each_input_is_answered_or_refused(drawn):
    posterior(int), posterior(str)
    ENDS[attempt(*drawn)] += 1


@pytest.mark.slow
def test_inputs_of_each_kind_end_both_ways():
    if not ENDS:
        pytest.skip("the other test has not run here")
    for kind in ("table", "file", "question"):
        assert ENDS[f"{kind}: answered"]
        assert any(end.startswith(f"{kind}: refused") for end in ENDS)
