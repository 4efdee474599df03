"""The optimisers on losses whose minimum is known, and against those of torch and SciPy."""

from __future__ import annotations

import copy
import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import optimize

from pyro_pmf import PMF, VI, Fixed, HalfNormal, Priors, fit
from pyro_pmf.datasets import simulate
from pyro_pmf.inference.variational.objective import pose
from pyro_pmf.inference.variational.optimizers import LBFGS, Adam
from pyro_pmf.inference.variational.schedule import JUDGED_EVERY, Schedule
from pyro_pmf.random_state import isolated_random_state


def evaluation(loss, x):
    """Loss and gradient at x, as an optimiser asks for them."""

    def evaluate():
        leaf = x.detach().clone().requires_grad_()
        value = loss(leaf)
        (gradient,) = torch.autograd.grad(value, leaf)
        return value.detach(), gradient.contiguous()

    return evaluate


def lbfgs(loss, x, inverse=None, n_late=0, delay=0, max_steps=500, tolerance=1e-12):
    metric = (torch.ones_like(x) if inverse is None else inverse).clone
    return LBFGS(evaluation(loss, x), x, n_late, delay, metric, max_steps, tolerance)


def run(optimizer, watch=None):
    """Step until the end, as `fit` does; the loss before each step."""
    losses = []
    for step in itertools.count(1):
        losses.append(optimizer.step())
        if watch is not None:
            watch(step)
        if step >= optimizer.last_step:
            return losses


def assert_never_rises(losses):
    eps = torch.finfo(torch.float64).eps
    for before, after in itertools.pairwise(losses):
        assert after <= before + eps * abs(before)


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


# --- Adam ---


@pytest.mark.parametrize("delay", [1, 30])
@pytest.mark.parametrize("n_late", [0, 3, 8])
def test_adam_is_that_of_torch(n_late, delay):
    start = torch.randn(8, dtype=torch.float64)
    late = torch.arange(8) >= 8 - n_late
    x, mine, theirs = start.clone(), start[~late].clone(), start[late].clone()
    mine.requires_grad_()
    theirs.requires_grad_()
    groups = [{"params": [mine], "lr": 0.02}, {"params": [theirs], "lr": 0.02}]
    torchs = torch.optim.Adam(groups)
    constant = SimpleNamespace(factor=lambda step: 1.0, record=lambda loss: None, state=None)
    adam = Adam(evaluation(rosenbrock, x), x, n_late, delay, constant, 0.02)
    for step in range(1, 101):
        torchs.param_groups[1]["lr"] = 0.02 * min(1.0, step / delay)
        both = torch.zeros(8, dtype=torch.float64).index_put((~late,), mine)
        loss = rosenbrock(both.index_put((late,), theirs))
        torchs.zero_grad()
        loss.backward()
        torchs.step()
        assert adam.step() == pytest.approx(loss.item(), rel=1e-10)
        torch.testing.assert_close(x[~late], mine.detach(), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(x[late], theirs.detach(), rtol=1e-10, atol=1e-12)


def test_adam_follows_its_schedule():
    factors = [1.0, 0.5, *[0.0] * (JUDGED_EVERY - 2)]
    seen = []
    schedule = SimpleNamespace(
        factor=lambda step: factors[step - 1], record=seen.append, state=None
    )
    x = torch.ones(2, dtype=torch.float64)
    adam = Adam(evaluation(lambda x: 3 * x.sum(), x), x, 0, 1, schedule, 0.1)
    path = []
    for _ in factors:
        adam.step()
        path.append(x[0].item())
    np.testing.assert_allclose(path[:3], [0.9, 0.85, 0.85], rtol=1e-7)  # a constant gradient
    assert path[-1] == path[2]
    assert seen == pytest.approx([6.0, 5.4, *[5.1] * (JUDGED_EVERY - 2)])


def test_adam_reads_no_loss_before_it_is_judged():
    """Reading one waits for the GPU."""
    seen = []
    schedule = SimpleNamespace(factor=lambda step: 1.0, record=seen.append, state=None)
    x = torch.ones(2, dtype=torch.float64)
    adam = Adam(evaluation(lambda x: 3 * x.sum(), x), x, 0, 1, schedule, 0.1)
    for _ in range(JUDGED_EVERY - 1):
        adam.step()
    assert not seen
    adam.step()
    assert len(seen) == JUDGED_EVERY


def test_adam_ends_where_the_schedule_ends():
    x = torch.full((3,), 4.0, dtype=torch.float64)
    schedule = Schedule(2000, 1e-3, min_steps=100)
    adam = Adam(evaluation(lambda x: (x - 1).square().sum(), x), x, 0, 1, schedule, 0.05)
    losses = run(adam)
    assert adam.finished
    assert 100 < len(losses) == adam.last_step == schedule.state.last_step < 2000
    torch.testing.assert_close(x, torch.ones_like(x), atol=1e-3, rtol=0)


# --- L-BFGS on losses whose minimum is known ---


def test_a_quadratic_is_solved_in_its_own_metric():
    """Curvatures over twelve orders of magnitude, from a thousand standard deviations away."""
    curvature = torch.logspace(-6, 6, 13, dtype=torch.float64)
    best = torch.randn(13, dtype=torch.float64)
    sd = curvature.rsqrt()
    x = best + 1e3 * sd * torch.linspace(-1, 1, 13, dtype=torch.float64)
    optimizer = lbfgs(
        lambda x: (curvature * (x - best) ** 2).sum() / 2, x, 1 / curvature, tolerance=1e-9
    )
    losses = run(optimizer)
    assert optimizer.finished
    assert len(losses) < 40
    assert ((x - best) / sd).abs().max() < 1e-4
    assert_never_rises(losses)


def test_another_metric_does_not_change_the_minimum():
    curvature = torch.logspace(-2, 2, 13, dtype=torch.float64)
    x = torch.randn(13, dtype=torch.float64)
    losses = run(lbfgs(lambda x: (curvature * (x - 1) ** 2).sum() / 2, x))
    assert ((x - 1) * curvature.sqrt()).abs().max() < 1e-4
    assert_never_rises(losses)


@pytest.mark.parametrize("n", [2, 20])
def test_the_valley_of_rosenbrock(n):
    x = torch.full((n,), -1.0, dtype=torch.float64)
    x[1::2] = 1.3
    optimizer = lbfgs(rosenbrock, x)
    losses = run(optimizer)
    assert optimizer.finished
    assert rosenbrock(x) < losses[0] * 1e-8
    assert_never_rises(losses)
    if n == 2:
        torch.testing.assert_close(x, torch.ones_like(x), atol=1e-4, rtol=0)


@pytest.mark.parametrize("wall", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("best", [1.0, 5.0])
def test_it_never_ends_where_the_loss_is_not_finite(wall, best):
    """Beyond a radius of 2; the minimum lies inside, or on the boundary."""

    def loss(x):
        if x.norm() >= 2:
            return wall * x.square().sum()
        return (x - torch.tensor([best, 0.0, 0.0, 0.0])).square().sum()

    x = torch.tensor([-1.0, 0.5, 0.5, 0.5], dtype=torch.float64)
    start = loss(x).item()
    losses = run(lbfgs(loss, x))
    assert np.isfinite(losses).all()
    assert_never_rises([*losses, loss(x).item()])
    if best == 1.0:
        assert loss(x) < 1e-8
    else:
        assert loss(x) < 0.5 * start
        assert x.norm() < 2


def test_it_never_ends_where_the_gradient_is_not_finite():
    x = torch.tensor([0.1, 0.2], dtype=torch.float64)
    of_a_bowl = evaluation(lambda x: (x - 3).square().sum(), x)

    def evaluate():
        loss, gradient = of_a_bowl()
        return loss, gradient if x.norm() < 2 else gradient * math.nan

    losses = run(LBFGS(evaluate, x, 0, 0, lambda: torch.ones_like(x), 100, 1e-9))
    assert x.norm() < 2
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("delay", [0, 20])
def test_where_the_gradient_is_zero_there_is_nothing_to_do(delay):
    x = torch.ones(3, dtype=torch.float64)
    optimizer = lbfgs(lambda x: (x - 1).square().sum(), x, delay=delay, n_late=3)
    assert run(optimizer) == [0.0] * (3 if delay else 2)
    assert optimizer.finished
    assert torch.equal(x, torch.ones_like(x))


def test_a_loss_that_is_not_finite_at_the_start_is_returned():
    x = torch.ones(3, dtype=torch.float64)
    optimizer = lbfgs(lambda x: x.sum() * math.nan, x)
    assert math.isnan(optimizer.step())
    assert torch.equal(x, torch.ones_like(x))


# --- when it stops ---


def test_it_stops_at_the_step_limit():
    x = torch.full((20,), -1.0, dtype=torch.float64)
    optimizer = lbfgs(rosenbrock, x, max_steps=7)
    assert len(run(optimizer)) == 7
    assert not optimizer.finished


@pytest.mark.parametrize("tolerance", [1e-9, 1e-3, 1.0])
def test_it_stops_when_ten_steps_gain_less_than_the_tolerance_in_25(tolerance):
    x = torch.full((50,), -1.0, dtype=torch.float64)
    optimizer = lbfgs(rosenbrock, x, tolerance=tolerance, max_steps=2000)
    losses = [*run(optimizer), rosenbrock(x).item()]
    drops = np.array(losses[:-10]) - losses[10:]
    assert optimizer.finished
    assert (drops[:-11] >= 0.4 * tolerance).all()
    assert drops[-11] < 0.4 * tolerance  # the metric is taken anew
    assert drops[-1] < 0.4 * tolerance


def test_it_does_not_stop_in_an_outdated_metric():
    """Far from the minimum of a narrow valley, in the metric of its first point, nothing moves."""
    width = torch.logspace(0, 7, 300, dtype=torch.float64)
    first = torch.linspace(-1, 1, 300, dtype=torch.float64)

    def final_loss(*metrics):
        x, left = first.clone(), [*metrics]

        def metric():
            return (left.pop(0) if len(left) > 1 else left[0]).clone()

        def loss(x):
            return (width * x.square()).sum()

        optimizer = LBFGS(evaluation(loss, x), x, 0, 0, metric, 2000, 1.0)
        losses = run(optimizer)
        assert optimizer.finished
        assert_never_rises(losses)
        return loss(x).item()

    outdated = torch.ones_like(width)
    assert final_loss(outdated) > 10
    assert final_loss(outdated, 0.5 / width) < 1e-6


def test_each_step_returns_the_loss_before_it():
    x = torch.full((4,), -1.0, dtype=torch.float64)
    optimizer = lbfgs(rosenbrock, x)
    for _ in range(15):
        before = rosenbrock(x).item()
        assert optimizer.step() == pytest.approx(before, rel=1e-12)


# --- parameters that are held at first ---


@pytest.mark.parametrize("delay", [1, 5, 20])
def test_late_parameters_are_held_and_then_let_loose(delay):
    start = torch.full((10,), -1.0, dtype=torch.float64)
    x, late = start.clone(), torch.arange(10) >= 7
    path = []
    losses = run(lbfgs(rosenbrock, x, n_late=3, delay=delay), lambda _: path.append(x.clone()))
    for step, point in enumerate(path, start=1):
        if step <= delay:
            assert torch.equal(point[late], start[late])
            assert (point[~late] != start[~late]).any()
    assert (path[delay][late] != start[late]).all()
    assert_never_rises(losses)
    assert rosenbrock(x) < 1e-8


def test_what_is_solved_while_some_are_held_lets_them_loose_at_once():
    x = torch.tensor([3.0, 3.0], dtype=torch.float64)
    optimizer = lbfgs(lambda x: x.square().sum(), x, n_late=1, delay=300)
    losses = run(optimizer)
    assert optimizer.finished
    assert len(losses) < 50
    torch.testing.assert_close(x, torch.zeros_like(x))


def test_late_parameters_alone_are_no_reason_to_stop():
    x = torch.tensor([1.0, 3.0], dtype=torch.float64)
    optimizer = lbfgs(lambda x: (x - 1).square().sum(), x, n_late=1, delay=20)
    run(optimizer)
    torch.testing.assert_close(x, torch.ones_like(x))


def test_the_metric_is_taken_anew_when_they_are_let_loose():
    taken = []
    x = torch.full((4,), -1.0, dtype=torch.float64)

    def metric():
        taken.append(x.clone())
        return torch.ones_like(x)

    optimizer = LBFGS(evaluation(rosenbrock, x), x, 2, 3, metric, 100, 1e-9)
    for _ in range(6):
        optimizer.step()
    assert len(taken) == 2
    assert (taken[0] == -1).all()
    assert (taken[1][:2] != -1).all()
    assert (taken[1][2:] == -1).all()


def test_where_the_loss_bends_down_steps_grow_until_it_bends_up():
    """A bell upside down, from its flank: steps that only lower the loss estimate no curvature."""
    x = torch.full((1,), 3.0, dtype=torch.float64)
    loss = evaluation(lambda x: -torch.exp(-x.square() / 2).sum(), x)
    optimizer = LBFGS(loss, x, 0, 0, lambda: torch.ones_like(x), 12, 1e-9)
    run(optimizer)
    assert abs(x.item()) < 1e-3


# --- what they remember ---


def new_adam(x):
    return Adam(evaluation(rosenbrock, x), x, 3, 10, Schedule(200, 1.0, min_steps=20), 0.02)


def new_lbfgs(x):
    return lbfgs(rosenbrock, x, n_late=3, delay=5, max_steps=60)


@pytest.mark.parametrize("taken_after", [0, 3, 5, 12, 24, 25, 40])
@pytest.mark.parametrize("new", [new_adam, new_lbfgs])
def test_the_state_is_all_that_it_goes_on_from(new, taken_after):
    """To the last bit, in another optimizer, which has seen something else."""
    x = torch.linspace(-1.5, 1, 10, dtype=torch.float64)
    first, path = new(x), []
    for _ in range(taken_after):
        first.step()
    state, here = copy.deepcopy(first.state), x.clone()
    kept = copy.deepcopy(state)
    rest = run(SimpleNamespace(step=first.step, last_step=20), lambda _: path.append(x.clone()))

    y = torch.randn(10, dtype=torch.float64)
    second = new(y)
    for _ in range(7):
        second.step()
    y.copy_(here)
    second.state = copy.deepcopy(state)
    for point, loss in zip(path, rest, strict=True):
        assert torch.equal(second.step(), loss)
        assert torch.equal(y, point)
    assert (first.finished, first.last_step) == (second.finished, second.last_step)
    assert repr(state) == repr(kept)


# --- on the ELBO of a model ---

# Under narrower priors a search for scales ends where the factors are zero.
WIDE = Priors(tau=Fixed(1.0), **{f"sigma_{x}": HalfNormal(1.0) for x in "UVW"})


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        pytest.param(PMF(2, priors=WIDE), marks=pytest.mark.long),
        PMF(0),
        pytest.param(PMF(2, "hierarchical", priors=WIDE), marks=pytest.mark.long),
    ],
)
def test_a_fit_is_as_good_as_that_of_scipy(model):
    """From the same start, in the same parameters."""
    one = Fixed(1.0)
    strong = Priors(sigma=Fixed(0.1), tau=one, sigma_U=one, sigma_V=one)
    train = simulate(PMF(2, priors=strong), 30, 20, 400, seed=1)[0].to(dtype=torch.float64)
    with isolated_random_state(0):
        objective = pose(model, train, VI(), scales={})
        leaves = [leaf for _, leaf in objective.parameters()]
    vector = torch.cat([leaf.detach().flatten() for leaf in leaves])
    parts = vector.split([leaf.numel() for leaf in leaves])
    for leaf, part in zip(leaves, parts, strict=True):
        leaf.data = part.view(leaf.shape)

    def loss_and_gradient(x):
        vector.copy_(torch.tensor(x))
        loss, gradient = objective.gradient(leaves)
        return loss.item(), gradient.numpy()

    options = {"maxiter": 3000, "maxfun": 4000, "ftol": 1e-9}
    start = vector.numpy().copy()
    best = optimize.minimize(
        loss_and_gradient, start, jac=True, method="L-BFGS-B", options=options
    )
    fitted = fit(model, train, VI(tolerance=1e-4, learn_scales="elbo"), progress=False)
    assert fitted.converged
    elbo = fitted.steps["elbo"]
    assert elbo.iloc[0] == pytest.approx(-loss_and_gradient(start)[0])
    assert elbo.iloc[-1] > -best.fun - 0.1
