"""The model of `PMF()` in straightforward Pyro: gathers, AutoNormal, Trace_ELBO."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.optim import Adam
from torch import Tensor

from benchmarks.data import Table
from benchmarks.predictor import Predictor, Stopwatch

DRAWS = 30  # from the guide, for predictions


def model(
    user: Tensor, item: Tensor, rating: Tensor, n_users: int, n_items: int, n_factors: int
) -> None:
    """Sample independent users and items with biases, and ratings on the unit scale."""
    half_normal = dist.HalfNormal(torch.tensor(1.0))
    names = ("sigma", "sigma_U", "sigma_V", "sigma_b", "sigma_c")
    sigma, sigma_U, sigma_V, sigma_b, sigma_c = (pyro.sample(name, half_normal) for name in names)
    mu = pyro.sample("mu", dist.Normal(torch.tensor(0.0), 1.0))
    with pyro.plate("users", n_users):
        b = pyro.sample("b", dist.Normal(torch.tensor(0.0), sigma_b))
        U = pyro.sample("U", dist.Normal(torch.zeros(n_factors), sigma_U).to_event(1))
    with pyro.plate("items", n_items):
        c = pyro.sample("c", dist.Normal(torch.tensor(0.0), sigma_c))
        V = pyro.sample("V", dist.Normal(torch.zeros(n_factors), sigma_V).to_event(1))
    with pyro.plate("ratings", len(rating)):
        score = mu + b[user] + c[item] + (U[user] * V[item]).sum(-1)
        pyro.sample("rating", dist.Normal(torch.sigmoid(score), sigma), obs=rating)


class OfGuide(Predictor):
    """Draws from the guide; unknown ids get biases and factors of zero, the prior mean."""

    def __init__(self, guide: AutoNormal) -> None:
        with torch.no_grad():
            self.draws = [guide() for _ in range(DRAWS)]

    def each(self, pairs: Table) -> tuple[np.ndarray, np.ndarray]:
        """Return means, shape (DRAWS, n), and noise, shape (DRAWS, 1), in rating units."""
        low, high = pairs.scale
        means = [low + (high - low) * _unit_mean(draw, pairs).numpy() for draw in self.draws]
        noise = [(high - low) * float(draw["sigma"]) for draw in self.draws]
        return np.stack(means), np.array(noise)[:, None]

    def mean(self, pairs: Table) -> np.ndarray:
        """Return the mean over the draws."""
        return self.each(pairs)[0].mean(0)

    def log_density(self, pairs: Table) -> np.ndarray:
        """Return the log of the mean density over the draws."""
        mean, noise = (torch.from_numpy(x) for x in self.each(pairs))
        log_densities = dist.Normal(mean, noise).log_prob(torch.from_numpy(pairs.rating))
        return (log_densities.logsumexp(0) - np.log(DRAWS)).numpy()


def _unit_mean(draw: dict[str, Tensor], pairs: Table) -> Tensor:
    # Index -1 takes the last row, of zeros.
    b, c, U, V = (
        torch.cat([x, torch.zeros_like(x[:1])]) for x in map(draw.get, ("b", "c", "U", "V"))
    )
    bias = draw["mu"] + b[pairs.user] + c[pairs.item]
    return torch.sigmoid(bias + (U[pairs.user] * V[pairs.item]).sum(-1))


def fit(
    train: Table, seed: int, watch: Stopwatch, n_factors: int, steps: int, learning_rate: float
) -> Predictor:
    """Take full-batch Adam steps."""
    pyro.set_rng_seed(seed)
    low, high = train.scale
    rating = torch.from_numpy((train.rating - low) / (high - low)).float()
    data = torch.from_numpy(train.user), torch.from_numpy(train.item), rating
    arguments = *data, train.n_users, train.n_items, n_factors
    guide = AutoNormal(model)
    svi = SVI(model, guide, Adam({"lr": learning_rate}), Trace_ELBO())
    for step in range(1, steps + 1):
        svi.step(*arguments)
        if step % 25 == 0:
            watch.look(OfGuide(guide))
    return OfGuide(guide)
