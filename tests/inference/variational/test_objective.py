"""The loss that a fit minimises: all at once, in blocks, and recorded."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal

from pyro_pmf import MAP, PMF, VI, Ratings
from pyro_pmf.inference.variational.elbo import GaussianELBO
from pyro_pmf.inference.variational.objective import pose

MODELS = [PMF(2), PMF(0), PMF(2, "hierarchical"), PMF(2, "hierarchical", "hierarchical")]


each_method = pytest.mark.parametrize("method", [VI(), MAP()], ids=["vi", "map"])


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


def posed(model, method, train):
    """An objective away from its start."""
    objective = pose(model, train, method)
    leaves = [leaf for _, leaf in objective.parameters()]
    with torch.no_grad():
        for leaf in leaves:
            leaf.add_(0.3 * torch.randn_like(leaf))
    return objective, leaves


# --- blocks ---


@pytest.mark.parametrize("n_blocks", [2, 4])
@each_method
@pytest.mark.parametrize("model", MODELS, ids=label)
def test_blocks_average_to_the_loss_of_all_ratings(model, method, n_blocks, train):
    objective, leaves = posed(model, method, train)
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
    objective, leaves = posed(PMF(2), VI(), train)

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

    objective, _ = posed(model, VI(), train)
    blocks = train.user_blocks(3)
    seen.clear()
    losses = [objective.loss(block, len(blocks)) for block in blocks]
    assert seen == [len(block) for block in blocks]
    torch.testing.assert_close(torch.stack(losses).mean(), objective.loss())


@pytest.mark.long
@pytest.mark.statistical
def test_blocks_average_for_a_guide_that_is_sampled(train):
    """The difference of two Monte Carlo means, within five standard errors."""
    with pytest.warns(UserWarning, match="Trace_ELBO"):
        objective, _ = posed(PMF(0), VI(guide=AutoNormal(PMF(0), init_scale=0.01)), train)
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


@each_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("model", MODELS, ids=label)
def test_a_recorded_gradient_is_the_gradient_to_the_last_bit(model, method, dtype, train):
    objective, leaves = posed(model, method, train.to(dtype=dtype))
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

    objective = pose(model, train, VI(guide=no_sites))
    leaves = [leaf for _, leaf in objective.parameters()]
    assert objective.recorded_gradient(leaves) is None


def test_a_guide_that_is_sampled_is_not_recorded(train):
    with pytest.warns(UserWarning, match="Trace_ELBO"):
        objective, leaves = posed(PMF(0), VI(guide=AutoNormal(PMF(0))), train)
    assert objective.recorded_gradient(leaves) is None


# --- the choice of an ELBO ---


def first_is_zero(b):
    b = b * 1.0
    b[..., 0] = 0.0
    return b


def shown(b):
    assert f"{b[0]:.2f}"
    return b


def as_a_key(b):
    return {b: b}[b]


NEEDS_DRAWS = {
    "a function": torch.tanh,
    "a method": lambda b: b.tanh(),
    "a choice": lambda b: torch.where(b > 0, b, 0.1 * b),
    "a difference": lambda b: b - 0.1,
    "a number": lambda b: b * float(b[0].detach()),
    "an attribute": lambda b: b * b.ndim,
    "NumPy": lambda b: b * torch.as_tensor(np.exp(b.detach().numpy())),
    "mean": lambda b: b + b.mean(),
    "mean of a dimension": lambda b: b + b.mean(-1, keepdim=True),
    "var": lambda b: b * b.var(),
    "assignment": first_is_zero,
    "format": shown,
    "hash": as_a_key,
}


@pytest.mark.parametrize("operation", NEEDS_DRAWS.values(), ids=NEEDS_DRAWS)
def test_a_model_that_needs_draws_gets_them(operation, train):
    """Whatever it does with a latent that can be done with a tensor."""

    def model(ratings):
        with pyro.plate("users", ratings.n_users):
            b = pyro.sample("b", dist.Normal(torch.zeros((), dtype=ratings.dtype), 1.0))
        return observed(ratings, operation(b)[..., ratings.user])

    with pytest.warns(UserWarning, match="Falling back to Trace_ELBO"):
        objective = pose(model, train, VI())
    assert isinstance(objective.elbo, Trace_ELBO)
    assert objective.loss().isfinite()


@pytest.mark.filterwarnings("ignore:Falling back to Trace_ELBO")
@pytest.mark.parametrize(
    "size", [lambda b: b.shape[-1], lambda b: b.size()[-1], lambda b: b.size(-1), lambda b: len(b)]
)
def test_a_model_may_ask_for_the_shape_of_a_latent(size, train):
    """Whether that is known in closed form or not."""

    def model(ratings):
        with pyro.plate("users", ratings.n_users):
            b = pyro.sample("b", dist.Normal(torch.zeros((), dtype=ratings.dtype), 1.0))
        return observed(ratings, (b * size(b))[..., ratings.user])

    assert pose(model, train, VI()).loss().isfinite()


@pytest.mark.parametrize("error", [TypeError, AttributeError, ValueError])
def test_an_error_of_the_model_is_no_reason_to_draw(error, train):
    def model(ratings):
        mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=ratings.dtype), 1.0))
        if not isinstance(mu, torch.Tensor):
            raise error("mine")
        return observed(ratings, mu)

    with pytest.raises(error, match="mine"):
        pose(model, train, VI())


# --- parameters ---


def test_parameters_are_leaves_of_which_the_loss_is_made(train):
    objective, _ = posed(PMF(2), VI(), train)
    names, leaves = zip(*objective.parameters(), strict=True)
    assert len(set(names)) == len(names)
    assert all(leaf.is_leaf and leaf.requires_grad for leaf in leaves)
    loss = objective.loss()
    assert all(part.any() for part in torch.autograd.grad(loss, leaves))
    again = [leaf for _, leaf in objective.parameters()]
    assert all(a is b for a, b in zip(leaves, again, strict=True))


@each_method
def test_parameters_of_standard_deviations_are_told_from_others(train, method):
    def model(ratings):
        sigma = pyro.sample("net.sigma", dist.HalfNormal(torch.ones(()).double()))
        with pyro.plate("users", ratings.n_users):
            b = pyro.sample("b", dist.Normal(torch.zeros(()).double(), 1.0))
        return observed(ratings, b[..., ratings.user], sigma)

    objective, _ = posed(model, method, train)
    of_scale = {name for name, _ in objective.parameters() if objective.is_of_scale(name)}
    assert of_scale == {name for name, _ in objective.parameters() if name.endswith("net.sigma")}
    assert of_scale
