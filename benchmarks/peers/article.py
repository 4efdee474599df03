"""The PyTorch tutorial's PMF: MAP over the dense matrix of all users and all items."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from benchmarks.data import Table
from benchmarks.predictor import Predictor, Stopwatch


def objective(
    R: Tensor, observed: Tensor, U: Tensor, V: Tensor, lambda_U: float, lambda_V: float
) -> Tensor:
    """Return minus the log joint density times 2 sigma^2, up to a constant.

    Parameters
    ----------
    R : Tensor, shape (n_users, n_items)
        Ratings on the unit scale; cells without a rating may hold any number.
    observed : Tensor, shape (n_users, n_items)
        1 at cells with a rating, 0 elsewhere.
    U, V : Tensor, shape (n_users, n_factors), (n_items, n_factors)
    lambda_U, lambda_V : float
        sigma^2 / sigma_U^2 and sigma^2 / sigma_V^2.
    """
    error = (observed * (R - torch.sigmoid(U @ V.T)) ** 2).sum()
    return error + lambda_U * (U**2).sum() + lambda_V * (V**2).sum()


class OfFactors(Predictor):
    """U and V; unknown ids get the global mean."""

    def __init__(self, U: Tensor, V: Tensor, train: Table) -> None:
        self.U, self.V, self.train = U.detach(), V.detach(), train

    def mean(self, pairs: Table) -> np.ndarray:
        """Return the predicted ratings."""
        unit = torch.sigmoid((self.U[pairs.user] * self.V[pairs.item]).sum(-1)).numpy()
        low, high = pairs.scale
        known = (pairs.user >= 0) & (pairs.item >= 0)
        return np.where(known, low + (high - low) * unit, self.train.rating.mean())


def fit(
    train: Table,
    seed: int,
    watch: Stopwatch,
    n_factors: int,
    epochs: int,
    learning_rate: float,
    sigma: float,
    sigma_U: float,
    sigma_V: float,
) -> Predictor:
    """Take full-batch Adam steps."""
    torch.manual_seed(seed)
    low, high = train.scale
    R, observed = torch.zeros(2, train.n_users, train.n_items)
    R[train.user, train.item] = torch.from_numpy((train.rating - low) / (high - low)).float()
    observed[train.user, train.item] = 1
    U = (0.1 * torch.randn(train.n_users, n_factors)).requires_grad_()
    V = (0.1 * torch.randn(train.n_items, n_factors)).requires_grad_()
    optimizer = torch.optim.Adam([U, V], lr=learning_rate)
    penalties = (sigma / sigma_U) ** 2, (sigma / sigma_V) ** 2
    for epoch in range(1, epochs + 1):
        optimizer.zero_grad()
        objective(R, observed, U, V, *penalties).backward()
        optimizer.step()
        if epoch % 10 == 0:
            watch.look(OfFactors(U, V, train))
    return OfFactors(U, V, train)
