"""Whether a fit has converged, apart for predictions and parameters."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from pyro_pmf.data.ratings import Ratings
from pyro_pmf.model.learned import Converged, Learned

FRAME = pd.DataFrame({"user": ["a", "b"], "item": [1, 2], "rating": [1.0, 2.0]})


def learned(converged) -> Learned:
    steps = pd.DataFrame({"step": [1, 2]})
    return Learned(print, Ratings.from_frame(FRAME), {}, None, steps, converged)


@pytest.mark.parametrize("both", [True, False])
def test_a_bool_stands_for_predictions_and_parameters(both):
    assert learned(both).converged == Converged(predictions=both, parameters=both)
    assert replace(learned(not both), converged=both).converged == Converged(both, both)
    assert bool(learned(both).converged) == both


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ((True, True), "converged in 2 steps"),
        ((False, False), "not converged after 2 steps"),
        ((True, False), "converged for predictions, not for parameters after 2 steps"),
        ((False, True), "converged for parameters, not for predictions after 2 steps"),
    ],
)
def test_the_text_says_both_where_they_differ(parts, said):
    found = learned(Converged(*parts))
    assert repr(found).splitlines()[-1].strip() == said
    assert bool(found.converged) == all(parts)
