"""The joint distribution of latents and ratings is unchanged by the sampler; see `joint`.

The mean change of every quantity, of its square, too, must be zero. All quantities of a test
together raise one false alarm in 1,000 random seeds. The seeds here are fixed.

Power: a test finds a mean change of 4.4 / sqrt(n) standard deviations of the change with
probability 1/2, of 6 / sqrt(n) with probability 0.95: 0.6 standard deviations in 100
replications, 0.15 in 1,500. `test_mutations` says which mistakes in the code that finds.
"""

from __future__ import annotations

import pytest
from configurations import MODELS
from joint import Joint, failures, table

FALSE_ALARM = 1e-3
each_model = pytest.mark.parametrize("name", MODELS)


def joint_of(name: str) -> Joint:
    """Return the model of this name, with a history beyond the ratings if the name says so."""
    return Joint(MODELS[name], table(share=0.8) if "history" in name else None)


@each_model
@pytest.mark.slow
@pytest.mark.statistical
def test_sweeps_leave_the_joint_distribution_alone(name):
    joint = joint_of(name)
    assert not failures(joint.z_scores(joint.sweeps(2), 100), FALSE_ALARM)


@each_model
@pytest.mark.long
@pytest.mark.statistical
def test_many_sweeps_leave_the_joint_distribution_alone(name):
    joint = joint_of(name)
    assert not failures(joint.z_scores(joint.sweeps(4), 1500, seed=1), FALSE_ALARM)


@each_model
@pytest.mark.long
@pytest.mark.statistical
def test_each_block_leaves_the_joint_distribution_alone(name):
    joint = joint_of(name)
    assert not failures(joint.z_scores(joint.blocks(), 1000, seed=2), FALSE_ALARM)


@pytest.mark.slow
@pytest.mark.statistical
def test_each_block_of_levels_leaves_the_joint_distribution_alone():
    joint = joint_of("ordered")
    assert not failures(joint.z_scores(joint.blocks(), 60, seed=3), FALSE_ALARM)
