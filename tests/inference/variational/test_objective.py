"""The loss that a fit minimises: all at once, in blocks, and recorded."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

from pyro_pmf import PMF, Ratings
from pyro_pmf.inference.variational.elbo import GaussianELBO
from pyro_pmf.inference.variational.objective import pose

MODELS = [PMF(2), PMF(0), PMF(2, "hierarchical"), PMF(2, "hierarchical", "hierarchical")]


def label(model):
    if not isinstance(model, PMF):
        return None
    return f"{model.n_factors}-{model.users[:3]}-{model.items[:3]}"


@pytest.fixture(scope="module")
def train() -> Ratings:
    """Users of one to 30 ratings, the busiest last, in double precision."""
    counts = [1, 2, 1, 3, 2, 1, 4, 2, 25, 30]
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "user": np.repeat(np.arange(len(counts)), counts),
            "item": np.concatenate([generator.permutation(30)[:n] for n in counts]),
            "rating": generator.uniform(size=sum(counts)),
        }
    )
    return Ratings.from_frame(frame, scale=(0, 1), dtype=torch.float64)


def posed(model, guide, train):
    """An objective away from its start."""
    objective = pose(model, guide, train)
    leaves = [leaf for _, leaf in objective.parameters()]
    with torch.no_grad():
        for leaf in leaves:
            leaf.add_(0.3 * torch.randn_like(leaf))
    return objective, leaves


# --- blocks ---


@pytest.mark.parametrize("n_blocks", [2, 4])
@pytest.mark.parametrize("guide", ["normal", "delta"])
@pytest.mark.parametrize("model", MODELS, ids=label)
def test_blocks_average_to_the_loss_of_all_ratings(model, guide, n_blocks, train):
    objective, leaves = posed(model, guide, train)
    blocks = train.user_blocks(n_blocks)
    sizes = [len(block) for block in blocks]
    assert len(blocks) > 1
    assert max(sizes) > 1.2 * min(sizes)
    parts = [objective.gradient(leaves, block, len(blocks)) for block in blocks]
    loss, gradient = objective.gradient(leaves)
    mean_loss = torch.stack([part[0] for part in parts]).mean()
    mean_gradient = torch.stack([part[1] for part in parts]).mean(0)
    torch.testing.assert_close(mean_loss, loss, rtol=1e-10, atol=0)
    torch.testing.assert_close(mean_gradient, gradient, rtol=1e-10, atol=1e-10 * gradient.norm())


def test_scaling_by_the_number_of_ratings_would_not(train):
    objective, leaves = posed(PMF(2), "normal", train)

    def gradient(ratings):
        terms = GaussianELBO().terms(objective.model, objective.guide, ratings, history=train)
        parts = torch.autograd.grad(terms["rating"], leaves, allow_unused=True)
        return torch.cat([part.flatten() for part in parts if part is not None])

    blocks = train.user_blocks(4)
    parts, whole = [gradient(block) for block in blocks], gradient(train)
    torch.testing.assert_close(sum(parts), whole)
    factors = [len(train) / len(block) / len(blocks) for block in blocks]
    by_size = sum(f * part for f, part in zip(factors, parts, strict=True))
    assert (by_size - whole).norm() > 0.03 * whole.norm()


def test_blocks_of_a_model_without_history_count_their_own_users(train):
    """A model that takes no history sees the block alone."""
    seen = []

    def model(ratings):
        seen.append(len(ratings))
        return PMF(0)(ratings)

    objective, _ = posed(model, "normal", train)
    blocks = train.user_blocks(3)
    seen.clear()
    losses = [objective.loss(block, len(blocks)) for block in blocks]
    assert seen == [len(block) for block in blocks]
    torch.testing.assert_close(torch.stack(losses).mean(), objective.loss())


@pytest.mark.statistical
def test_blocks_average_for_a_guide_that_is_sampled(train):
    """The difference of two Monte Carlo means, within five standard errors."""
    with pytest.warns(UserWarning, match="Trace_ELBO"):
        objective, _ = posed(PMF(0), AutoNormal(PMF(0), init_scale=0.01), train)
    blocks = train.user_blocks(3)
    with torch.no_grad():
        whole = torch.stack([objective.loss() for _ in range(150)])
        parts = torch.stack(
            [
                torch.stack([objective.loss(b, len(blocks)) for b in blocks]).mean()
                for _ in range(150)
            ]
        )
    error = ((whole.var() + parts.var()) / 150).sqrt()
    assert abs(whole.mean() - parts.mean()) < 5 * error


# --- recordings ---


@pytest.mark.parametrize("guide", ["normal", "delta"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("model", MODELS, ids=label)
def test_a_recorded_gradient_is_the_gradient_to_the_last_bit(model, guide, dtype, train):
    objective, leaves = posed(model, guide, train.to(dtype=dtype))
    with pyro.validation_enabled(False):
        recording = objective.recorded_gradient(leaves)
        for _ in range(3):
            got, wanted = recording(), objective.gradient(leaves)
            assert torch.equal(got[0], wanted[0])
            assert torch.equal(got[1], wanted[1])
            with torch.no_grad():
                for leaf in leaves:
                    leaf.add_(0.1 * torch.randn_like(leaf))


def observed(ratings, mean, sd=0.1):
    with pyro.plate("ratings", len(ratings)):
        return pyro.sample("rating", dist.Normal(mean, sd), obs=ratings.value)


def no_sites(ratings):
    """A guide for models with parameters and no latents."""


@pytest.mark.parametrize(
    "mean",
    [
        lambda mu: mu if mu.sum().item() > 0 else 0 * mu,
        lambda mu: mu * float(mu.detach().numpy().sum()),
        lambda mu: mu[mu > 0].mean(),
        lambda mu: mu + torch.rand(()).double(),
    ],
    ids=["a choice", "an array", "a shape", "a draw"],
)
def test_what_cannot_be_recorded_is_not(mean, train):
    def model(ratings):
        mu = pyro.param("mu", torch.full((len(ratings),), 0.3).double())
        return observed(ratings, mean(mu))

    objective = pose(model, no_sites, train)
    leaves = [leaf for _, leaf in objective.parameters()]
    assert objective.recorded_gradient(leaves) is None


def test_a_guide_that_is_sampled_is_not_recorded(train):
    with pytest.warns(UserWarning, match="Trace_ELBO"):
        objective, leaves = posed(PMF(0), AutoNormal(PMF(0)), train)
    assert objective.recorded_gradient(leaves) is None


# --- parameters ---


def test_parameters_are_leaves_of_which_the_loss_is_made(train):
    objective, _ = posed(PMF(2), "normal", train)
    names, leaves = zip(*objective.parameters(), strict=True)
    assert len(set(names)) == len(names)
    assert all(leaf.is_leaf and leaf.requires_grad for leaf in leaves)
    loss = objective.loss()
    assert all(part.any() for part in torch.autograd.grad(loss, leaves))
    again = [leaf for _, leaf in objective.parameters()]
    assert all(a is b for a, b in zip(leaves, again, strict=True))


@pytest.mark.parametrize("guide", ["normal", "delta"])
def test_parameters_of_standard_deviations_are_told_from_others(train, guide):
    def model(ratings):
        sigma = pyro.sample("net.sigma", dist.HalfNormal(torch.ones(()).double()))
        with pyro.plate("users", ratings.n_users):
            b = pyro.sample("b", dist.Normal(torch.zeros(()).double(), 1.0))
        return observed(ratings, b[..., ratings.user], sigma)

    objective, _ = posed(model, guide, train)
    of_scale = {name for name, _ in objective.parameters() if objective.is_of_scale(name)}
    assert of_scale == {name for name, _ in objective.parameters() if name.endswith("net.sigma")}
    assert of_scale
