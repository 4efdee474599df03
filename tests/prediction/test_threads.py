"""Threads and contexts of the caller change no number, and raise nothing."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from posteriors import LIKELIHOODS, posterior_of
from pyro import poutine

from pyro_pmf import MAP, NUTS, PMF, VI, Gibbs, Posterior, Ratings, fit
from pyro_pmf.datasets import simulate

BOTH_SIDES = {"users": "hierarchical", "items": "hierarchical"}
FRAME = simulate(PMF(2), n_users=30, n_items=20, n_ratings=200)[0].to_frame()
FRAME["rating"] = FRAME["rating"].clip(0, 1)
RATINGS = Ratings.from_frame(FRAME, scale=(0, 1))


class OwnPMF(PMF):
    """A model of one's own, which runs in Pyro."""


def questions(posterior: Posterior) -> list[Callable[[], Any]]:
    """What a service asks, of known and of unknown users."""
    frame = posterior.ratings.to_frame().head(20)
    frame.loc[20] = [99, "film03", frame["rating"][0]]
    users = [100, 103, 99]
    return [
        lambda: posterior.predict(frame),
        lambda: posterior.evaluate(frame),
        lambda: posterior.recommend(users, 3),
        lambda: posterior.recommend(users, 3, "thompson", seed=3),
        lambda: pd.DataFrame(posterior.sample(frame, 3, seed=1)),
    ]


def posteriors() -> list[Posterior]:
    every = [
        posterior_of(name, kind, **options)
        for name in LIKELIHOODS
        for kind in ("closed", "draws")
        for options in ({}, BOTH_SIDES)
    ]
    of_ones_own = posterior_of("NormalSigmoid", "draws", n_draws=3)
    model = OwnPMF(2, likelihood=of_ones_own.model.likelihood)
    own = Posterior(
        model,
        *(getattr(of_ones_own, n) for n in ("ratings", "latents")),
        3,
        of_ones_own.steps,
        True,
    )
    return [*every, own]


def ask_from_threads(asked: list[Callable[[], Any]], n_threads: int, n_calls: int) -> int:
    """Ask in random order from several threads at once; return how many answers were others."""
    chosen = [
        random.Random(seed).choices(range(len(asked)), k=n_calls) for seed in range(n_threads)
    ]
    wanted = {k: asked[k]() for k in set().union(*chosen)}
    together = threading.Barrier(n_threads)

    def work(own: list[int]) -> int:
        together.wait()
        return sum(not asked[k]().equals(wanted[k]) for k in own)

    with ThreadPoolExecutor(n_threads) as pool:
        return sum(pool.map(work, chosen))


@pytest.mark.slow
def test_threads_get_the_numbers_of_one_thread():
    """With Pyro's handlers in predictions, three calls of four raise, and some answer wrongly."""
    asked = [ask for posterior in posteriors() for ask in questions(posterior)]
    assert ask_from_threads(asked, n_threads=4, n_calls=15) == 0


@pytest.mark.parametrize(
    "n_calls", [pytest.param(3), pytest.param(200, marks=pytest.mark.long)], ids=str
)
@pytest.mark.parametrize("kind", ["closed", "draws"])
def test_each_thread_gets_every_answer_every_time(kind, n_calls):
    """Four threads, each with so many calls of predict, of evaluate and of recommend."""
    posterior = posterior_of("NormalSigmoid", kind)
    predict, evaluate, *_ = questions(posterior)
    for ask in (predict, evaluate, lambda: posterior.recommend(103, 3)):
        wanted = ask()
        together = threading.Barrier(4)

        def work(ask=ask, wanted=wanted, together=together) -> int:
            together.wait()
            return sum(not ask().equals(wanted) for _ in range(n_calls))

        with ThreadPoolExecutor(4) as pool:
            assert [each.result() for each in [pool.submit(work) for _ in range(4)]] == [0] * 4


@pytest.mark.slow
def test_predictions_and_fits_at_once():
    """Fits wait for each other; predictions go on, and neither changes the other."""
    posterior = posterior_of("OrderedLogit", "draws")

    def a_fit() -> pd.DataFrame:
        method = VI(max_steps=8, learn_scales=None)
        return fit(PMF(1), RATINGS, method, seed=4, progress=False).predict(RATINGS)

    asked = [a_fit, *questions(posterior)]
    assert ask_from_threads(asked, n_threads=4, n_calls=6) == 0


def test_predictions_do_not_wait_for_a_fit():
    posterior = posterior_of("NormalSigmoid", "draws")
    frame = posterior.ratings.to_frame()
    answers = []

    def callback(progress: Any) -> None:
        if not answers:
            thread = threading.Thread(target=lambda: answers.append(posterior.predict(frame)))
            thread.start()
            thread.join(timeout=60)

    fit(PMF(1), RATINGS, MAP(max_steps=3, learn_scales=None), callback=callback, progress=False)
    pd.testing.assert_frame_equal(answers[0], posterior.predict(frame))


@contextmanager
def float64_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def latents_of_a_caller() -> None:
    pyro.sample("sigma", dist.HalfNormal(1.0))


CONTEXTS: dict[str, Callable[[], Any]] = {
    "condition": lambda: poutine.condition(data={"mu": torch.tensor(3.0)}),
    "plate": lambda: pyro.plate("users", 3, dim=-1),
    "trace": poutine.trace,
    "replay": lambda: poutine.replay(trace=poutine.trace(latents_of_a_caller).get_trace()),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "default device": lambda: torch.device("meta"),
    "default dtype": float64_by_default,
}
METHODS = {
    "VI": VI(max_steps=4, learn_scales=None),
    "MAP": MAP(max_steps=4, learn_scales=None),
    "Gibbs": Gibbs(n_draws=6, n_warmup=4, thin=1),
    "NUTS": NUTS(n_draws=4, n_warmup=2),
}


def whole_story(method: str) -> list[pd.DataFrame]:
    """A table, a fit and its answers, all inside a context of the caller."""
    frame, ratings = FRAME.copy(), Ratings.from_frame(FRAME, scale=(0, 1))
    model = PMF(0, noise="shared") if method == "NUTS" else PMF(1, users="hierarchical")
    posterior = fit(model, ratings, METHODS[method], seed=2, progress=False)
    frame.loc[len(frame)] = [999, 3, 0.5]
    answers = [
        posterior.predict(frame),
        posterior.evaluate(frame).to_frame(),
        posterior.recommend([1, 2, 999], 3, "thompson"),
        pd.DataFrame(posterior.sample(frame, 2)),
        posterior.summary(n_draws=8),
    ]
    if method != "NUTS":
        new = pd.DataFrame({"user": 77, "item": [1, 2, 3], "rating": [0.2, 0.3, 0.4]})
        answers += [posterior.explain(1, 2), posterior.fold_in(new).predict(new)]
    return answers


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", [pytest.param(x, marks=[] if x == "VI" else pytest.mark.long) for x in METHODS]
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # fits of a few steps
def test_a_context_of_the_caller_changes_nothing(method):
    wanted = whole_story(method)
    for name, context in CONTEXTS.items():
        if method == "NUTS" and name not in ("condition", "inference_mode", "default dtype"):
            continue  # it takes seconds
        with context():
            found = whole_story(method)
        for a, b in zip(found, wanted, strict=True):
            pd.testing.assert_frame_equal(a, b, rtol=1e-9, obj=name)


def test_handlers_of_the_caller_are_back_afterwards():
    posterior = posterior_of(kind="draws")
    with poutine.trace() as trace, pyro.plate("users", 3, dim=-1):
        posterior.sample(posterior.ratings, 2)
        pyro.sample("mine", dist.Normal(torch.zeros(3), 1.0))
    assert trace.trace.nodes["mine"]["cond_indep_stack"][0].name == "users"
    assert "rating" not in trace.trace.nodes


def test_ratings_of_inference_mode_can_be_fitted():
    with torch.inference_mode():
        ratings = Ratings.from_frame(FRAME, scale=(0, 1)).split(0.2, seed=0)[0]
    posterior = fit(PMF(1), ratings, MAP(max_steps=3, learn_scales=None), progress=False)
    assert np.isfinite(posterior.predict(ratings)["mean"]).all()
