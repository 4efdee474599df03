"""The sum over blocks of users is the sum over all ratings, in less memory."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_pmf import (
    MAP,
    PMF,
    VI,
    BernoulliLogit,
    NegativeBinomialLog,
    NormalIdentity,
    NormalSigmoid,
    OrderedLogit,
    Ratings,
    fit,
)
from pyro_pmf.data import blocks
from pyro_pmf.datasets import simulate
from pyro_pmf.inference.variational import loop
from pyro_pmf.inference.variational.blocks import BlockedELBO
from pyro_pmf.inference.variational.objective import pose
from pyro_pmf.random_state import isolated_random_state

LIKELIHOODS = [
    NormalSigmoid(),
    NormalSigmoid(rounding=0.1),
    NormalIdentity(),
    OrderedLogit(5),
    BernoulliLogit(),
    NegativeBinomialLog(),
]
SHAPES = {
    "all terms": {"n_factors": 3, "users": "hierarchical", "items": "hierarchical"},
    "biases": {"n_factors": 0, "noise": "shared"},
    "few terms": {"n_factors": 2, "means": False, "biases": "item", "noise": "user"},
}
each_method = pytest.mark.parametrize("method", [VI(), MAP()], ids=["vi", "map"])


@pytest.fixture(params=LIKELIHOODS, ids=lambda likelihood: type(likelihood).__name__)
def likelihood(request):
    return request.param


def drawn(model: PMF) -> Ratings:
    """Ratings of 30 users, in double precision; the first, one in the middle and the last few."""
    ratings = simulate(model, 30, 20, 300, seed=0)[0].to("cpu", torch.float64)
    n = ratings.n_users
    return ratings.keep(~np.isin(ratings.user.numpy(), [0, 13, n - 2, n - 1]))


def in_blocks(monkeypatch, size: int = 70) -> None:
    monkeypatch.setattr(blocks, "_IN_A_BLOCK", size)


def posed(model, method, ratings, history=None):
    """An objective at parameters away from its start, the same in each call."""
    pyro.clear_param_store()
    with isolated_random_state(0):
        found = pose(model, ratings, method, history=history)
        leaves = [leaf for _, leaf in sorted(found.parameters(), key=lambda pair: pair[0])]
        with torch.no_grad():
            for leaf in leaves:
                leaf.add_(0.1 * torch.randn_like(leaf))
    return found, leaves


def gradient_of(posed_objective):
    """Loss and gradient; sites of other families are drawn alike in each call."""
    found, leaves = posed_objective
    with isolated_random_state(1):
        return found.gradient(leaves)


@each_method
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_loss_and_gradient_are_those_of_all_ratings(likelihood, shape, method, monkeypatch):
    model = PMF(**shape, likelihood=likelihood)
    ratings = drawn(model)
    loss, gradient = gradient_of(posed(model, method, ratings))
    in_blocks(monkeypatch)
    blocked = posed(model, method, ratings)
    assert isinstance(blocked[0].elbo, BlockedELBO)
    found = gradient_of(blocked)
    torch.testing.assert_close(found[0], loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(found[1], gradient, rtol=0, atol=1e-11 * gradient.norm())
    with isolated_random_state(1):
        alone = blocked[0].elbo.loss(blocked[0].model, blocked[0].guide, blocked[0].ratings)
    assert alone == pytest.approx(float(loss), rel=1e-12)


@each_method
def test_prior_means_are_those_of_all_pairs_that_were_rated(method, monkeypatch):
    model = PMF(2, "hierarchical", "hierarchical", noise="shared")
    history = drawn(model)
    ratings = history.keep(np.arange(len(history)) % 3 > 0)
    loss, gradient = gradient_of(posed(model, method, ratings, history))
    in_blocks(monkeypatch)
    found = gradient_of(posed(model, method, ratings, history))
    torch.testing.assert_close(found[0], loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(found[1], gradient, rtol=0, atol=1e-11 * gradient.norm())


@each_method
def test_a_fit_in_blocks_is_the_same_fit(method, monkeypatch):
    model = PMF(2, users="hierarchical")
    ratings = drawn(model)
    short = replace(method, learn_scales=None, max_steps=30)
    whole = fit(model, ratings, short, dtype=torch.float64, progress=False)
    in_blocks(monkeypatch)
    blocked = fit(model, ratings, short, dtype=torch.float64, progress=False)
    pairs = ratings.to_frame()[["user", "item"]]
    pd.testing.assert_frame_equal(blocked.predict(pairs), whole.predict(pairs), rtol=1e-4)
    first = slice(0, 15)  # later, rounding has grown
    np.testing.assert_allclose(
        blocked.steps["elbo"].to_numpy()[first], whole.steps["elbo"].to_numpy()[first], rtol=1e-9
    )


class Largest(TorchDispatchMode):
    """Notes the largest tensor that an operation makes, views and answers left out."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else [result]:
            if isinstance(x, torch.Tensor) and not any(
                isinstance(a, torch.Tensor) and a.data_ptr() == x.data_ptr() for a in args
            ):
                self.numel = max(self.numel, x.numel())
        return result


@pytest.mark.parametrize("users", ["independent", "hierarchical"])
@each_method
def test_a_step_makes_no_tensor_as_large_as_the_table(users, method, monkeypatch):
    model = PMF(1, users=users, likelihood=NormalSigmoid())
    ratings = simulate(model, 30, 200, 4000, seed=0)[0]
    n_parameters = 2 * (ratings.n_users + 2 * ratings.n_items) * 3
    largest = {}
    for name, size in {"blocks": 500, "whole": 1 << 20}.items():
        in_blocks(monkeypatch, size)
        found, leaves = posed(model, method, ratings)
        recording = found.recorded_gradient(leaves)
        with Largest() as watch:
            recording()
        largest[name] = watch.numel
        assert ("pattern" in vars(ratings._cells)) == (name == "whole")  # blocks have their own
    assert largest["whole"] >= len(ratings)
    assert largest["blocks"] <= max(700, n_parameters) < len(ratings) / 1.5


@pytest.mark.filterwarnings("ignore:Falling back")
@pytest.mark.parametrize(
    ("model", "method"),
    [
        (PMF(1), VI(batches=2)),
        (PMF(1), MAP(batches=2)),
        (PMF(1), VI(guide=AutoNormal)),
        (lambda ratings: PMF(1)(ratings), VI()),
    ],
    ids=["batches of VI", "batches of MAP", "a guide", "a model of one's own"],
)
def test_what_is_not_cut(model, method, monkeypatch):
    in_blocks(monkeypatch)
    found, _ = posed(model, method, drawn(PMF(1)))
    assert not isinstance(found.elbo, BlockedELBO)


@each_method
def test_the_memory_of_steps_is_free_when_a_fit_ends(method, monkeypatch):
    """Without the garbage collector: nothing may hold on to a `Loop`, not even itself."""
    loops = []
    make = loop.Loop.__init__

    def made(self, *args):
        loops.append(weakref.ref(self))
        make(self, *args)

    monkeypatch.setattr(loop.Loop, "__init__", made)
    was_on = gc.isenabled()
    gc.disable()
    try:
        short = replace(method, learn_scales=None, max_steps=30)
        fit(PMF(1), drawn(PMF(1)), short, progress=False)
        assert loops
        assert not any(each() for each in loops)
    finally:
        if was_on:
            gc.enable()
