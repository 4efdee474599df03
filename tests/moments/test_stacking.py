"""Distributions side by side: of one family as one, and of others apart."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Categorical, Distribution, Normal, StudentT, constraints

from pyro_pmf.moments.stacking import Apart, stacked


class Halves(Distribution):
    """Twice as many rows would be another distribution: it takes two dimensions, no options."""

    arg_constraints = {"probs": constraints.simplex}  # noqa: RUF012
    support = constraints.unit_interval

    def __init__(self, probs):
        assert probs.dim() == 2
        self.probs = probs
        super().__init__(probs.shape[:1], validate_args=False)

    @property
    def mean(self):
        return self.probs @ torch.linspace(0, 1, self.probs.shape[1])

    def log_prob(self, value):
        return self.probs.log().gather(1, (2 * value).long()[:, None])[:, 0]


def test_those_of_one_family_are_one():
    parts = [Normal(torch.tensor([0.0, 1.0]), 1.0), Normal(torch.tensor([2.0, 3.0]), 2.0)]
    both = stacked(parts)
    assert isinstance(both, Normal)
    assert both.batch_shape == (2, 2)
    torch.testing.assert_close(both.mean, torch.stack([part.mean for part in parts]))
    torch.testing.assert_close(both.stddev, torch.stack([part.stddev for part in parts]))


def test_rows_of_probabilities():
    parts = [Categorical(torch.tensor([[0.2, 0.8], [0.5, 0.5]])) for _ in range(3)]
    assert stacked(parts).batch_shape == (3, 2)


@pytest.mark.parametrize(
    "parts",
    [
        [Halves(torch.tensor([[0.2, 0.3, 0.5]])), Halves(torch.tensor([[0.6, 0.3, 0.1]]))],
        [Normal(torch.zeros(1), 1.0), StudentT(3.0, torch.ones(1), 2.0)],
    ],
    ids=["its own way to be made", "two families"],
)
def test_others_stay_apart(parts):
    both = stacked(parts)
    assert isinstance(both, Apart)
    assert both.batch_shape == (2, 1)
    torch.testing.assert_close(both.mean, torch.stack([part.mean for part in parts]))
    value = torch.full((2, 1), 0.5)
    wanted = torch.stack([part.log_prob(value[0]) for part in parts])
    torch.testing.assert_close(both.log_prob(value), wanted)
