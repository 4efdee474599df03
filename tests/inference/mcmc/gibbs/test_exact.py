"""Where the posterior is Gaussian, draws have its mean and covariance, by dense float64 algebra.

A test compares the mean of every coordinate, and all variances and covariances, after whitening
by the exact ones. It fails in one of 1,000 random seeds if the draws are right. Its power is
stated by its number of effective draws n: a variance wrong by 5 sqrt(2 / n) is found with
probability 0.8 or more.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from joint import Joint
from whitened import whiten, worst_z

from pyro_pmf import PMF, Fixed, Gibbs, Normal, NormalIdentity, Priors, Ratings, fit
from pyro_pmf.data.blocks import blocks_of
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.datasets import simulate
from pyro_pmf.inference.mcmc.gibbs import sums
from pyro_pmf.inference.mcmc.gibbs.block import Grouped
from pyro_pmf.inference.mcmc.gibbs.rows import RowUpdate
from pyro_pmf.inference.mcmc.gibbs.sums import SumsUpdate

SD = {"sigma": 0.2, "sigma_b": 0.5, "sigma_c": 0.3}
LINEAR = PMF(
    0,
    noise="shared",
    likelihood=NormalIdentity(rounding=0.0),
    priors=Priors(mu=Normal(0.3, 1.0), **{name: Fixed(sd) for name, sd in SD.items()}),
)


def exact(ratings: Ratings) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of mu, b and c under LINEAR."""
    n, m = ratings.n_users, ratings.n_items
    design = np.zeros((len(ratings), 1 + n + m))
    rows = np.arange(len(ratings))
    design[:, 0] = 1
    design[rows, 1 + ratings.user.numpy()] = 1
    design[rows, 1 + n + ratings.item.numpy()] = 1
    sd = np.r_[1.0, np.full(n, SD["sigma_b"]), np.full(m, SD["sigma_c"])]
    prior_mean = np.r_[0.3, np.zeros(n + m)]
    covariance = np.linalg.inv(np.diag(sd**-2) + design.T @ design / SD["sigma"] ** 2)
    value = ratings.value.numpy()
    mean = covariance @ (prior_mean / sd**2 + design.T @ value / SD["sigma"] ** 2)
    return mean, covariance


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_posterior_of_mu_and_biases(dtype):
    """About 400 effective draws."""
    ratings = simulate(LINEAR, 5, 4, 12, seed=3)[0].to("cpu", dtype)
    method = Gibbs(n_draws=400, n_warmup=40, n_chains=1, thin=1)
    latents = fit(LINEAR, ratings, method, seed=1, progress=False).latents
    draws = torch.cat([latents[name].reshape(400, -1) for name in ("mu", "b", "c")], 1)
    worst, limit = worst_z(whiten(draws.double().numpy(), *exact(ratings)), is_chain=True)
    assert worst < limit


def exact_row(joint: Joint, k: int, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of (F_i, b_i) of one side given all else, for an identity link."""
    state = joint.sampler.state
    side, other = state.sides[k]
    pairs = joint.ratings
    ours, theirs = (pairs.user, pairs.item) if k == 0 else (pairs.item, pairs.user)
    here = (ours == i).nonzero()[:, 0]
    columns = theirs[here]
    design = np.c_[other.F[columns].numpy(), np.ones(len(here))]
    weight = np.exp(-2 * state.of_ratings("log_noise")[here].numpy())
    target = state.likelihood.value[here].numpy() - state.mu - other.b[columns].numpy()
    names = ("sigma_U", "sigma_b") if k == 0 else ("sigma_V", "sigma_c")
    sd = np.r_[state.scales[names[0]] * side.tau.numpy(), state.scales[names[1]]]
    prior_mean = np.r_[side.M[i].numpy(), 0.0]
    covariance = np.linalg.inv(np.diag(sd**-2) + design.T @ (weight[:, None] * design))
    return covariance @ (prior_mean / sd**2 + design.T @ (weight * target)), covariance


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize("k", [0, 1], ids=["users", "items"])
def test_rows_given_the_other_side(k):
    """400 draws of all rows together, each turned away from the one before."""
    model = PMF(
        2, "hierarchical", "hierarchical", likelihood=NormalIdentity(rounding=0.0), noise="user"
    )
    joint = Joint(model)
    torch.manual_seed(4)
    joint.put(joint.draw())
    state = joint.sampler.state
    side, other = state.sides[k]
    drawn = []
    for _ in range(400):
        RowUpdate(state, side, other)(safe=False, adapt=False)
        drawn.append(torch.cat([side.F, side.b[:, None]], 1).numpy())
    draws = np.array(drawn)
    whitened = [whiten(draws[:, i], *exact_row(joint, k, i)) for i in range(side.rows.n)]
    worst, limit = worst_z(np.concatenate(whitened, 1), is_chain=True)
    assert worst < limit


# --- effects given factors ---

N_DRAWS = 4000
VARIANCE, EFFECT_VARIANCE = 0.3, 0.7


def matrix(
    n_rows: int, n_columns: int, dtype: torch.dtype = torch.float64
) -> tuple[SumsUpdate, np.ndarray]:
    """Return sums over a random pattern with an empty row and an empty column, and A."""
    generator = np.random.default_rng(2)
    seen = generator.random((n_rows, n_columns)) < 0.4
    seen[-1], seen[:, 1] = False, False
    user, item = (torch.from_numpy(x) for x in seen.nonzero())
    pairs = Pairs(user, item, n_rows, n_columns)
    blocks = blocks_of(pairs, 3)
    weights = torch.from_numpy(generator.uniform(0.2, 1.0, n_rows)).to(dtype)
    groups = [[group(block) for block in blocks] for group in (Grouped.by_users, Grouped.by_items)]
    return SumsUpdate(*groups, weights), seen * weights.double().numpy()[:, None]


@pytest.fixture(params=["dense", "conjugate gradients"])
def solver(request, monkeypatch) -> str:
    """Each way to solve the linear system."""
    if request.param != "dense":
        monkeypatch.setattr(sums, "_DENSE", 0)
        monkeypatch.setattr(sums, "_DEFLATED", 3)
    return request.param


@pytest.mark.statistical
@pytest.mark.parametrize("shape", [(9, 14), (14, 9)], ids=["wide", "tall"])
def test_effects_given_factors(shape, solver):
    """4000 independent draws of all effects, one in each column of the factors."""
    update, A = matrix(*shape)
    assert update._is_dense == (solver == "dense")
    factors = torch.from_numpy(np.random.default_rng(3).normal(size=shape[0]))
    many = factors[:, None].expand(-1, N_DRAWS).contiguous()
    draws = update.draw(many, VARIANCE, EFFECT_VARIANCE).numpy().T
    precision = A.T @ A / VARIANCE + np.eye(shape[1]) / EFFECT_VARIANCE
    covariance = np.linalg.inv(precision)
    mean = covariance @ (A.T @ factors.numpy()) / VARIANCE
    worst, limit = worst_z(whiten(draws, mean, covariance), is_chain=False)
    assert worst < limit


@pytest.mark.parametrize("shape", [(60, 140), (140, 60)], ids=["wide", "tall"])
@pytest.mark.parametrize("variances", [(1e-4, 1.0), (1.0, 1e-4), (0.3, 0.7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_conditional_means_of_effects(shape, variances, dtype, solver):
    update, A = matrix(*shape, dtype)
    factors = np.random.default_rng(3).normal(size=(shape[0], 2))
    found = update.regress(torch.from_numpy(factors).to(dtype), *variances)
    ridge = variances[0] / variances[1]
    expected = np.linalg.solve(A.T @ A + ridge * np.eye(shape[1]), A.T @ factors)
    error = np.abs(found.double().numpy() - expected).max() / np.abs(expected).max()
    assert error < (5e-3 if dtype == torch.float32 else 1e-6)


def test_sums_and_their_transpose():
    update, A = matrix(9, 14)
    W, F = (torch.from_numpy(np.random.default_rng(0).normal(size=(n, 3))) for n in (14, 9))
    np.testing.assert_allclose(update.forward(W).numpy(), A @ W.numpy(), atol=1e-12)
    np.testing.assert_allclose(update.backward(F).numpy(), A.T @ F.numpy(), atol=1e-12)
