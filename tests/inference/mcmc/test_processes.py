"""Chains in processes: the numbers of chains one after the other, and nothing lost in silence."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace

import numpy as np
import psutil
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_pmf import NUTS, PMF, Checkpoint, FitError, Fixed, Gibbs, Priors, fit
from pyro_pmf.datasets import simulate
from pyro_pmf.inference.checkpoint import fingerprint_of
from pyro_pmf.inference.mcmc import processes
from pyro_pmf.inference.mcmc.gathering import Chain, Gathered
from pyro_pmf.inference.mcmc.processes import n_processes

MODEL = PMF(2, "hierarchical", priors=Priors(tau=Fixed(1.0)))
RATINGS = simulate(MODEL, 12, 10, 100, seed=2)[0]
TRACKED = RATINGS.to_frame()[["user", "item"]].head(7)
SEEDS = [int(seed) for seed in np.random.SeedSequence(0).generate_state(2)]
needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")


def quick(method, model=MODEL, **options):
    return fit(model, RATINGS, method, progress=False, **options)


def assert_same(posterior, other):
    """To the last bit, in all but the seconds."""
    assert posterior.latents.keys() == other.latents.keys()
    for site, draws in posterior.latents.items():
        assert torch.equal(draws, other.latents[site])
    ours, theirs = (x.steps.drop(columns="seconds") for x in (posterior, other))
    assert ours.equals(theirs)
    assert posterior.converged == other.converged
    if posterior.tracked is not None:
        assert posterior.tracked.equals(other.tracked)


def workers() -> list[psutil.Process]:
    """Return the processes of chains that this one has started."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # it has just ended
            if any("popen_loky" in part for part in child.cmdline()):
                found.append(child)
    return found


def model_that_calls(what):
    """Return a model of one's own, which calls a function first."""

    def model(ratings):
        what()
        with pyro.plate("users", ratings.n_users):
            b = pyro.sample("b", dist.Normal(torch.zeros(()), 1.0).expand([ratings.n_users]))
        with pyro.plate("ratings", len(ratings)):
            return pyro.sample("rating", dist.Normal(b[ratings.user], 0.3), obs=ratings.value)

    return model


# --- the same numbers ---


@pytest.mark.slow
def test_chains_at_once_draw_what_they_draw_one_after_the_other():
    """Three chains in two processes; the callback sees the draws, and steps of all chains."""
    method = Gibbs(n_draws=12, n_warmup=8, n_chains=3, thin=1, track=TRACKED)
    seen = []

    def callback(progress):
        seen.append((progress.step, progress.posterior().n_draws, progress.elbo))

    assert_same(quick(replace(method, n_jobs=2), callback=callback), quick(method))
    steps, n_draws, elbos = zip(*seen, strict=True)
    assert sorted(steps) == [*steps]
    assert steps[-1] == 3 * 20
    assert n_draws.count(12) == 3
    assert set(elbos) == {None}
    assert not workers()


@pytest.mark.long
@needs_signals
def test_a_chain_that_is_killed_goes_on_after_ctrl_c(tmp_path):
    """In processes, in processes again until Ctrl-C, and one after the other at last."""
    method = Gibbs(n_draws=150, n_warmup=20, n_chains=2, track=TRACKED, thin=1)
    options = {"checkpoint": Checkpoint(tmp_path, 0.1), "resume": True}

    killed = []

    def kill(progress):
        if not killed:
            killed.append(workers()[0])
            killed[0].kill()

    message = r"Chain [01] failed: its process was ended by SIGKILL.*fit again, with resume=True"
    with pytest.raises(FitError, match=message):
        quick(replace(method, n_jobs=2), callback=kill, **options)
    assert not workers()

    def press(progress):
        if progress.step > 100:
            signal.raise_signal(signal.SIGINT)

    with pytest.warns(UserWarning, match="was interrupted, so it has"):
        part = quick(replace(method, n_jobs=2), callback=press, **options)
    assert part.tracked is not None
    assert not workers()
    steps = []
    end = quick(method, callback=lambda progress: steps.append(progress.step), **options)
    whole = quick(method)
    assert_same(end, whole)
    assert len(steps) < 2 * 170 - 100
    kept = whole.steps["chain"].isin(part.steps["chain"].unique()).tolist()
    for site, draws in part.latents.items():
        chains = whole.latents[site][kept].unflatten(0, (part.n_chains, -1))
        assert torch.equal(draws, chains[:, : part.n_draws // part.n_chains].flatten(0, 1))


# --- failures ---


@pytest.mark.slow
@needs_signals
def test_each_chain_that_fails_is_named_with_its_reason():
    """One raises an error, one is killed; a model of one's own reaches the processes."""

    def fail():
        if torch.initial_seed() == SEEDS[0]:
            raise LookupError("no such thing")
        if torch.initial_seed() == SEEDS[1]:
            os.kill(os.getpid(), signal.SIGKILL)

    started = time.perf_counter()
    with pytest.raises(FitError) as caught:
        quick(NUTS(4, 4, n_jobs=2), model_that_calls(fail))
    assert time.perf_counter() - started < 60
    assert "Chain 0 failed: LookupError: no such thing." in str(caught.value)
    assert "Chain 1 failed: its process was ended by SIGKILL" in str(caught.value)
    assert "with checkpoint=PATH, a fit can continue" in str(caught.value)
    assert "in fail" in caught.value.__notes__[0]
    assert not workers()


def test_a_model_that_cannot_be_sent_is_refused():
    lock = threading.Lock()
    with pytest.raises(FitError, match=r"cannot be sent to another process: .*lock.* n_jobs=1"):
        quick(NUTS(4, 4, n_jobs=2), model_that_calls(lambda: lock))
    assert not workers()


@pytest.mark.parametrize(
    ("code", "message"),
    [(3, "exit code 3"), (-15, "by SIGTERM$"), (-9, "SIGKILL, .*memory"), (-99, "signal 99")],
)
def test_causes_of_death(code, message):
    assert re.search(message, processes._cause_of_death(code))


# --- options and draws ---


def test_how_many_run_at_once():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert n_processes(Gibbs(n_jobs=3), cpu, 4) == 3
    assert n_processes(Gibbs(n_jobs=3), cpu, 2) == 2
    assert n_processes(Gibbs(n_jobs=3), gpu, 4) == 1
    assert 1 <= n_processes(NUTS(n_jobs=-1), cpu, 1000) <= os.cpu_count()


def test_processes_count_as_memory(monkeypatch):
    monkeypatch.setattr(processes, "_PROCESS", 10**15)
    with pytest.raises(FitError, match=r"2000000.* GB.*Reduce n_draws or n_jobs"):
        quick(Gibbs(n_jobs=2))


def test_a_checkpoint_does_not_depend_on_the_number_of_processes():
    def fingerprint(method):
        return fingerprint_of(MODEL, RATINGS, method, 0, torch.device("cpu"), None, None)

    assert fingerprint(Gibbs(n_jobs=2)) == fingerprint(Gibbs())


@pytest.mark.parametrize(
    ("lengths", "numbers", "n"),
    [
        ((10, 10, 10), [0, 1, 2], 10),
        ((10, 6, 0), [0, 1], 6),
        ((10, 4, 0), [0], 10),
        ((5, 10, 5), [0, 1, 2], 5),
        ((3, 4, 9), [2], 9),
        ((0, 7, 7), [1, 2], 7),
    ],
)
def test_as_many_draws_of_each_chain_as_possible(lengths, numbers, n):
    gathered = Gathered(3, 10, None)
    for number, length in enumerate(lengths):
        draws = 100.0 * number + torch.arange(length)
        steps = [{"chain": number} for _ in range(length)]
        half = length // 2
        gathered.add(number, Chain({"mu": draws[:half]}, steps[:half]))
        gathered.add_rest(number, Chain({"mu": draws}, steps, {"n_draws": length}))
    chain, sums, n_chains = gathered.equal_chains()
    assert chain.latents["mu"].tolist() == [100.0 * k + i for k in numbers for i in range(n)]
    assert [row["chain"] for row in chain.steps] == [k for k in numbers for _ in range(n)]
    assert [each["n_draws"] for each in sums] == [lengths[k] for k in numbers]
    assert n_chains == len(numbers)
