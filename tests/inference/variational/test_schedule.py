"""When a fit slows down and stops, on losses whose course is known."""

import numpy as np
import pytest

from pyro_pmf.inference.variational.schedule import Schedule


def run(losses, tolerance=1.0, min_steps=0):
    """A schedule that has seen losses until it ended, its factors, and the steps taken."""
    schedule = Schedule(len(losses), tolerance, min_steps)
    factors = []
    for step, loss in enumerate(losses, start=1):
        factors.append(schedule.factor(step))
        schedule.record(loss)
        if step == schedule.state.last_step:
            break
    return schedule, np.array(factors), step


STEPS = np.arange(1, 1501)


def exponential(size, time):
    return size * np.exp(-STEPS / time)


def test_the_rate_is_constant_then_falls_to_almost_nothing():
    schedule, factors, step = run(exponential(1e4, 50))
    assert schedule.state.finished
    assert step == schedule.state.last_step < 1000
    decay = np.flatnonzero(factors < 1)[0]
    assert decay > 200
    assert (factors[:decay] == 1).all()
    assert (np.diff(factors[decay - 1 :]) < 0).all()
    assert 0 < factors[-1] < 1e-3


@pytest.mark.parametrize(("size", "time"), [(1e4, 20), (1e4, 50), (1e6, 50), (1e4, 100)])
def test_an_exponential_loss_is_judged_by_its_own_fall(size, time):
    """The decay begins at the first look at which two windows differ by less than tolerance."""
    schedule, factors, _ = run(exponential(size, time), tolerance=1.0)
    window = 25
    looks = np.arange(2 * window, 1500, window)
    drops = [
        exponential(size, time)[k - 50 : k - 25].mean()
        - exponential(size, time)[k - 25 : k].mean()
        for k in looks
    ]
    first = looks[np.argmax(np.array(drops) < 1.0)]
    assert schedule.state.finished
    start = np.flatnonzero(factors < 1)[0]
    assert first <= start <= first + 2 * window + 1


def test_it_never_stops_before_the_least_number_of_steps():
    schedule, factors, step = run(np.zeros(1500), min_steps=300)
    assert schedule.state.finished
    assert (factors[:300] == 1).all()
    assert 300 < step < 500


def test_a_steady_fall_is_followed_to_the_last_step():
    schedule, factors, step = run(-0.1 * STEPS, tolerance=1.0)  # 2.5 in 25 steps
    assert (schedule.state.finished, step) == (False, 1500)
    assert (factors[:1000] == 1).all()
    assert factors[-1] < 1e-3


def test_the_tolerance_is_the_fall_in_25_steps():
    assert not run(-1.1 / 25 * STEPS)[0].state.finished
    assert run(-0.9 / 25 * STEPS)[0].state.finished


@pytest.mark.statistical
@pytest.mark.parametrize("noise", [1.0, 10.0, 100.0])
def test_noise_alone_does_not_stop_a_falling_loss(noise):
    """A fall of ten times the tolerance: 9 standard errors of a comparison, in 200 fits.

    A false alarm of the *schedule* is then rarer than 10^-9; the seeds are fixed.
    """
    for seed in range(200):
        losses = -0.4 * STEPS + noise * np.random.default_rng(seed).normal(size=len(STEPS))
        assert not run(losses)[0].state.finished


@pytest.mark.statistical
@pytest.mark.parametrize("noise", [0.1, 1.0, 10.0])
def test_noise_does_not_keep_a_flat_loss_from_stopping(noise):
    """A look at a flat loss passes with probability 0.84, and there are at least four."""
    stopped = 0
    for seed in range(200):
        losses = noise * np.random.default_rng(seed).normal(size=len(STEPS))
        schedule, _, step = run(losses)
        stopped += schedule.state.finished and step < 1500
    assert stopped >= 198


@pytest.mark.parametrize("max_steps", [1, 2, 3, 10])
def test_few_steps(max_steps):
    schedule, factors, step = run(np.arange(max_steps, 0.0, -1.0))
    assert (schedule.state.finished, step) == (False, max_steps)
    assert factors[0] == 1.0
    assert (factors > 0).all()


def test_the_end_is_never_put_off():
    for last in (60, 75, 100, 1500):
        schedule, *_ = run(np.zeros(last))
        assert schedule.state.last_step <= last
