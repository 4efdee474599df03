"""The steps of a fit: where they end, their batches, their state, and what makes them fail."""

from __future__ import annotations

import contextlib
import math
import pickle
from dataclasses import replace
from functools import cache

import pandas as pd
import pyro
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoNormal

from pyro_pmf import MAP, PMF, VI, FitError, Fixed, Priors, Ratings, fit
from pyro_pmf.datasets import simulate
from pyro_pmf.inference import progress as progress_module
from pyro_pmf.inference.conditions import Conditions
from pyro_pmf.inference.initialization import initial_value
from pyro_pmf.inference.variational.elbo import GaussianELBO
from pyro_pmf.inference.variational.guides import NormalGuide
from pyro_pmf.inference.variational.loop import Loop
from pyro_pmf.inference.variational.objective import pose
from pyro_pmf.inference.variational.optimizers import LBFGS, Adam
from pyro_pmf.random_state import isolated_random_state

# With scales under which MAP, too, finds factors in `tiny`.
WIDE = Priors(sigma=Fixed(0.1), tau=Fixed(1.0), sigma_U=Fixed(1.0), sigma_V=Fixed(1.0))
HIERARCHICAL = PMF(2, "hierarchical", "hierarchical", priors=WIDE)
ABOUT_BIASES = Priors(sigma=Fixed(0.1), sigma_b=Fixed(0.5), sigma_c=Fixed(0.5))
BIASES = PMF(0, noise="shared", priors=ABOUT_BIASES)
TRUE_SD = {
    "sigma": 0.05,
    "tau": 1.0,
    "sigma_U": 0.8,
    "sigma_V": 0.8,
    "sigma_b": 0.3,
    "sigma_c": 0.3,
}
KNOWN = Priors(mu=Fixed(0.2), **{name: Fixed(sd) for name, sd in TRUE_SD.items()})

each_method = pytest.mark.parametrize("method", [VI, MAP])


def quick(model, ratings, method=VI, *, seed=0, callback=None, progress=False, **options):
    """Fit in at most 50 steps with the usual scales, if nothing else is said."""
    chosen = method(**{"max_steps": 50, "learn_scales": None} | options)
    return fit(model, ratings, chosen, seed=seed, progress=progress, callback=callback)


def tensors(posterior) -> dict[str, torch.Tensor]:
    """Everything that was learnt, as named tensors."""
    found = {}
    for site, value in posterior.latents.items():
        parts = {"": value} if isinstance(value, torch.Tensor) else vars(value)
        found |= {f"{site}.{k}": v for k, v in parts.items() if isinstance(v, torch.Tensor)}
    return found


def assert_equal(a, b):
    a, b = tensors(a), tensors(b)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def tiny() -> Ratings:
    return few_ratings()


@cache
def few_ratings() -> Ratings:
    """Few ratings of strong factors: 12 users, 10 items, 1 to 5 stars and a little beyond."""
    strong = Priors(sigma=Fixed(0.05), tau=Fixed(1.0), sigma_U=Fixed(1.5), sigma_V=Fixed(1.5))
    model = PMF(2, noise="shared", priors=strong)
    return simulate(model, 12, 10, 100, seed=2, scale=(1.0, 5.0))[0]


@pytest.fixture(scope="module")
def simulated() -> Ratings:
    model = PMF(2, noise="shared", priors=KNOWN)
    return simulate(model, 80, 60, 3000, seed=5)[0].split(test_fraction=0.2, seed=0)[0]


# --- where it ends ---


@pytest.mark.parametrize(("method", "least", "most"), [("vi", 10, 150), ("map", 200, 2000)])
def test_steps_and_convergence(tiny, method, least, most):
    posterior = fit(BIASES, tiny, method, progress=False)
    steps = posterior.steps
    assert posterior.converged
    assert list(steps) == ["step", "elbo", "seconds"]
    assert steps["step"].tolist() == list(range(1, len(steps) + 1))
    assert least < len(steps) < most
    assert steps["elbo"].iloc[-5:].mean() > steps["elbo"].iloc[:5].mean() + 10
    assert steps["elbo"].iloc[-1] > steps["elbo"].max() - 0.1
    assert (steps["seconds"].diff().dropna() > 0).all()


def test_the_step_limit(tiny):
    posterior = quick(BIASES, tiny, max_steps=5)
    assert not posterior.converged
    assert len(posterior.steps) == 5


@pytest.mark.slow
def test_a_callback_that_draws_does_not_change_the_fit(tiny):
    def run(callback):
        options = {"guide": AutoNormal(BIASES), "max_steps": 4, "n_draws": 10}
        with pytest.warns(UserWarning, match="Trace_ELBO"):
            return quick(BIASES, tiny, callback=callback, **options)

    assert_equal(run(None), run(lambda progress: progress.posterior()))


def test_a_callback_that_uses_the_random_state_does_not_change_the_fit(tiny):
    def losses(callback):
        with pytest.warns(UserWarning, match="Trace_ELBO"):
            posterior = quick(
                BIASES, tiny, guide=AutoNormal(BIASES), max_steps=5, callback=callback
            )
        return posterior.steps["elbo"].tolist()

    assert losses(lambda state: torch.rand(1)) == losses(None)


def test_the_progress_bar(tiny, capsys, monkeypatch):
    monkeypatch.setattr(progress_module, "_is_watched", lambda: True)
    quick(BIASES, tiny, max_steps=5)
    assert capsys.readouterr() == ("", "")
    quick(BIASES, tiny, max_steps=5, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "5/5" in err
    assert "ELBO" in err


@each_method
def test_learnt_standard_deviations_wait_for_the_factors(simulated, method):
    """L-BFGS holds them at first; MAP, which is given all of them, has none to hold."""
    seen = {}

    def callback(progress):
        if progress.step in (1, 30, 60):
            sigma = progress.posterior().latents["sigma"]
            seen[progress.step] = float(sigma.mean if method is VI else sigma)

    quick(PMF(2), simulated, method, max_steps=60, tolerance=1e-9, callback=callback)
    assert seen[1] == seen[30]
    assert (seen[30] != seen[60]) == (method is VI)


# --- batches ---


@pytest.mark.long
@pytest.mark.parametrize("family", [NormalGuide, AutoDelta])
def test_batches_reach_nearly_the_elbo_of_all_ratings_at_once(simulated, family):
    """The guide is a module, and so can be asked for its ELBO after the fit."""
    model = PMF(2, "hierarchical", priors=KNOWN)

    def elbo(**options):
        own = family(model, init_loc_fn=initial_value)
        options = {"max_steps": 350, "learning_rate": 0.05} | options
        start = quick(model, simulated, guide=own, **options).steps["elbo"].iloc[0]
        return start, -GaussianELBO().loss(model, own, simulated)

    (start, best), (_, got) = elbo(), elbo(batches=4)
    assert best > start + 1000
    assert got > best - 0.01 * (best - start)


@pytest.mark.slow
@each_method
def test_a_seed_decides_a_fit_in_batches(tiny, method):
    first, again, other = (
        quick(HIERARCHICAL, tiny, method, seed=seed, batches=3, max_steps=12) for seed in (1, 1, 2)
    )
    assert_equal(first, again)
    assert first.steps["elbo"].tolist() == again.steps["elbo"].tolist()
    assert first.steps["elbo"].tolist() != other.steps["elbo"].tolist()


def test_each_step_of_a_fit_in_batches_looks_at_one_block(tiny):
    """Each block once, in an order drawn anew, until all were seen."""
    seen = []

    def model(ratings, history=None):
        seen.append((len(ratings), None if history is None else len(history)))
        return BIASES(ratings, history)

    steps = []
    quick(model, tiny, MAP, batches=3, max_steps=9, callback=lambda p: steps.append(len(seen)))
    sizes = [len(block) for block in tiny.user_blocks(3)]
    assert len(set(sizes)) == 3
    looked_at = [seen[n - 1] for n in steps]
    assert {history for _, history in looked_at} == {len(tiny)}
    for epoch in range(3):
        assert sorted(n for n, _ in looked_at[3 * epoch : 3 * epoch + 3]) == sorted(sizes)


def test_more_batches_than_users(tiny):
    posterior = quick(BIASES, tiny, MAP, batches=1000)
    assert posterior.steps["elbo"].map(math.isfinite).all()


def test_a_fit_in_batches_of_one_block_is_a_fit(tiny):
    """All ratings are of one user."""
    frame = tiny.to_frame().query("user == user.mode()[0]")
    one = Ratings.from_frame(frame, scale=(0.0, 6.0))
    assert_equal(quick(BIASES, one, batches=5), quick(BIASES, one))


# --- the state ---


STRONG = PMF(
    2, noise="shared", priors=Priors(tau=Fixed(1.0), sigma_U=Fixed(1.0), sigma_V=Fixed(1.0))
)
# A model, a method, the steps before the state is taken, the optimiser, and whether it finishes.
# L-BFGS lets standard deviations loose after 40 steps; Adam judges its losses every 25.
FITS = {
    "lbfgs-0": (STRONG, VI(), 0, LBFGS, True),
    "lbfgs-17": (STRONG, VI(), 17, LBFGS, True),
    "lbfgs-40": (STRONG, VI(), 40, LBFGS, True),
    "lbfgs-43": (STRONG, VI(), 43, LBFGS, True),
    "lbfgs-cut": (HIERARCHICAL, VI(max_steps=30), 12, LBFGS, False),
    "adam-0": (BIASES, MAP(), 0, Adam, True),
    "adam-31": (BIASES, MAP(), 31, Adam, True),
    "adam-225": (BIASES, MAP(), 225, Adam, True),
    "batches-4": (HIERARCHICAL, VI(batches=3, max_steps=30), 4, Adam, False),
    "batches-26": (BIASES, VI(batches=3, max_steps=60), 26, Adam, False),
    "batches-map": (BIASES, MAP(batches=3, max_steps=60), 26, Adam, False),
    "sampled-0": (BIASES, VI(guide=AutoNormal, max_steps=40), 0, Adam, False),
    "sampled-33": (BIASES, VI(guide=AutoNormal, max_steps=60), 33, Adam, False),
    "sampled-batches": (BIASES, VI(guide=AutoNormal, batches=3, max_steps=60), 28, Adam, False),
}
each_fit = pytest.mark.parametrize("name", FITS)
one_fit_each = pytest.mark.parametrize("name", ["lbfgs-43", "adam-31", "batches-26", "sampled-33"])
sampled = pytest.mark.filterwarnings("ignore:Falling back to Trace_ELBO")


def begin(model, ratings, method) -> Loop:
    conditions = Conditions(0, torch.device("cpu"), None, False)
    return Loop(pose(model, ratings, method), method, conditions, ratings)


def take_steps(loop, n) -> None:
    with pyro.validation_enabled(False):
        for _ in range(n):
            loop.step()


def finish(loop):
    """Return all that the fit ends with: parameters, steps but their seconds, and whether it is.

    The random state is told by what it gives next.
    """
    with pyro.validation_enabled(False):
        while not loop.is_at_its_end():
            loop.step()
    steps = [(row["step"], row["elbo"]) for row in loop.state.steps]
    parameters = loop.state.parameters.clone()
    return parameters, steps, loop.optimizer.finished, loop.optimizer.last_step, torch.rand(3)


def assert_same_end(got, wanted):
    for a, b in zip(got, wanted, strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def isolated(seed):
    """Begin with random numbers, and Pyro's parameters, of one's own."""
    stack = contextlib.ExitStack()
    stack.enter_context(isolated_random_state(seed))
    stack.enter_context(pyro.get_param_store().scope())
    return stack


@cache
def whole_fit(model, method):
    """Return what a fit ends with whose state nobody takes."""
    with isolated(1):
        return finish(begin(model, few_ratings(), method))


@pytest.mark.slow
@sampled
@each_fit
def test_a_fit_goes_on_from_its_state_to_the_last_bit(tiny, name):
    """In a loop that began elsewhere, from other random numbers."""
    model, method, n_before, optimizer, finishes = FITS[name]
    with isolated(1):
        loop = begin(model, tiny, method)
        assert isinstance(loop.optimizer, optimizer)
        take_steps(loop, n_before)
        state = loop.take_state()
        assert len(state.steps) == n_before
    wanted = whole_fit(model, method)
    assert len(wanted[1]) > n_before + 5
    assert wanted[2] == finishes
    with isolated(2):
        other = begin(model, tiny, method)
        other.restore(state)
        assert len(other.state.steps) == n_before
        assert_same_end(finish(other), wanted)


@pytest.mark.slow
@sampled
@one_fit_each
def test_a_loop_may_go_back(tiny, name):
    model, method, n_before, _, _ = FITS[name]
    with isolated(1):
        loop = begin(model, tiny, method)
        take_steps(loop, n_before)
        state = loop.take_state()
        finish(loop)
        loop.restore(state)
        assert len(loop.state.steps) == n_before
        assert not loop.is_at_its_end()
        assert_same_end(finish(loop), whole_fit(model, method))


@pytest.mark.slow
@sampled
@one_fit_each
def test_taking_a_state_changes_nothing(tiny, name):
    """Neither the fit that goes on, nor the state that was taken."""
    model, method, n_before, _, _ = FITS[name]
    with isolated(1):
        loop = begin(model, tiny, method)
        take_steps(loop, n_before)
        state = loop.take_state()
        before = pickle.dumps(state)
        assert_same_end(finish(loop), whole_fit(model, method))
        assert pickle.dumps(state) == before
        loop.restore(state)
        finish(loop)
        assert pickle.dumps(state) == before


@pytest.mark.slow
@sampled
@one_fit_each
def test_a_fit_is_a_loop_to_its_end(tiny, name):
    """What `fit` returns is what a loop in its random state has learnt, restored on the way."""
    model, method, n_before, _, _ = FITS[name]
    posterior = fit(model, tiny, replace(method, learn_scales=None), progress=False)
    with isolated(0):
        loop = begin(model, tiny, method)
        take_steps(loop, n_before)
        state = loop.take_state()
    with isolated(3):
        other = begin(model, tiny, method)
        other.restore(state)
        finish(other)
        learned = other.learned()
    assert_equal(learned, posterior)
    assert learned.converged == posterior.converged
    assert learned.n_draws == posterior.n_draws
    pd.testing.assert_frame_equal(
        learned.steps.drop(columns="seconds"), posterior.steps.drop(columns="seconds")
    )


# --- what makes it fail ---


def model_with_impossible_site(ratings):
    pyro.factor("impossible", torch.tensor(-math.inf))
    return BIASES(ratings)


def test_an_impossible_site_is_named(tiny):
    with pytest.raises(FitError, match="-inf at step 1, because of the sites impossible:"):
        quick(model_with_impossible_site, tiny)


@pytest.mark.parametrize("validate", [False, True])
@pytest.mark.parametrize(("method", "batches"), [(MAP, 1), (MAP, 3), (VI, 3)])
def test_a_diverging_fit_names_step_and_site(tiny, method, batches, validate):
    with (
        pyro.validation_enabled(validate),
        pytest.raises(FitError, match=r"at step 2, because of the sites .*U.*learning_rate"),
    ):
        quick(PMF(2), tiny, method, learning_rate=1e30, batches=batches)


@pytest.mark.parametrize("validate", [False, True])
@pytest.mark.parametrize(
    ("name", "site"), [("sigma_U", "mu_U, U"), ("sigma_c", "c"), ("sigma", "rating")]
)
def test_variational_inference_names_the_site_of_an_infinite_elbo(tiny, name, site, validate):
    """The square of 10^-30 is zero in single precision."""
    model = PMF(2, priors=Priors(**{name: Fixed(1e-30)}))
    with (
        pyro.validation_enabled(validate),
        pytest.raises(FitError, match=f"at step 1, because of the sites {site}: "),
    ):
        quick(model, tiny)


def test_a_last_step_into_nowhere_is_refused(tiny):
    with pytest.raises(FitError, match="at step 2"):
        quick(BIASES, tiny, MAP, max_steps=1, learning_rate=1e30)
