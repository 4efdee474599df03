"""The joint distribution test finds mistakes in the sampler."""

from __future__ import annotations

import pytest
from joint import Joint, failures
from mutations import MUTATIONS
from test_joint import FALSE_ALARM, joint_of

MOST_REPLICATIONS = 3200
TIMES = 8  # that a block is drawn in each


def replications_to_find(joint: Joint, block: str) -> int | None:
    """Return the number of replications at which a test of one block fails, or None."""
    move, n = joint.blocks()[block], 100

    def often() -> None:
        for _ in range(TIMES):
            move()

    moves = {block: often}
    while n <= MOST_REPLICATIONS:
        if failures(joint.z_scores(moves, n, seed=n), FALSE_ALARM):
            return n
        n *= 2
    return None


@pytest.mark.parametrize("name", MUTATIONS)
def test_mistakes_can_be_made(name, monkeypatch):
    """In code of today; whether they are found takes long."""
    MUTATIONS[name].make(monkeypatch)


@pytest.mark.long
@pytest.mark.statistical
@pytest.mark.parametrize("name", MUTATIONS)
def test_mistakes_are_found(name, monkeypatch):
    mutation = MUTATIONS[name]
    joint = joint_of(mutation.model)
    mutation.make(monkeypatch)
    assert replications_to_find(joint, mutation.block)
