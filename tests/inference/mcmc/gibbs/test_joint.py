"""The joint distribution of latents and ratings is unchanged by the sampler; see `joint`.

The mean change of every quantity, of its square, too, must be zero. All quantities of a test
together raise one false alarm in 1,000 random seeds. The seeds here are fixed. There are dozens of
such tests, so moves that fail are tested again, by four times as many replications: a mistake
that was found is then twice as many standard errors away, chance is not.

Power: a test finds a mean change of 4.4 / sqrt(n) standard deviations of the change with
probability 1/2, of 6 / sqrt(n) with probability 0.95: 0.6 standard deviations in 100
replications, 0.15 in 1,500. `test_mutations` says which mistakes in the code that finds.
"""

from __future__ import annotations

import pytest
from configurations import MODELS
from joint import Joint, Moves, failures, table

FALSE_ALARM = 1e-3
each_model = pytest.mark.parametrize("name", MODELS)


def joint_of(name: str) -> Joint:
    """Return the model of this name, with a history beyond the ratings if the name says so."""
    return Joint(MODELS[name], table(share=0.8) if "history" in name else None)


def lasting_failures(joint: Joint, moves: Moves, n: int, seed: int) -> dict[str, float]:
    """Return the quantities that a move changes, in fresh replications, too."""
    first = failures(joint.z_scores(moves, n, seed), FALSE_ALARM)
    again = {name: move for name, move in moves.items() if any(name in x for x in first)}
    return failures(joint.z_scores(again, 4 * n, seed + 100), FALSE_ALARM) if again else {}


@each_model
@pytest.mark.slow
@pytest.mark.statistical
def test_sweeps_leave_the_joint_distribution_alone(name):
    joint = joint_of(name)
    assert not lasting_failures(joint, joint.sweeps(2), 100, seed=0)


@each_model
@pytest.mark.long
@pytest.mark.statistical
def test_many_sweeps_leave_the_joint_distribution_alone(name):
    joint = joint_of(name)
    assert not lasting_failures(joint, joint.sweeps(4), 1500, seed=1)


@each_model
@pytest.mark.long
@pytest.mark.statistical
def test_each_block_leaves_the_joint_distribution_alone(name):
    joint = joint_of(name)
    assert not lasting_failures(joint, joint.blocks(), 1000, seed=2)


@pytest.mark.long
@pytest.mark.statistical
def test_each_block_of_levels_leaves_the_joint_distribution_alone():
    joint = joint_of("ordered")
    assert not lasting_failures(joint, joint.blocks(), 60, seed=3)
