"""Mixtures of known parts, and the same from NumPy and SciPy."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import scipy.stats
import torch
from torch import Tensor
from torch.distributions import Distribution, Normal, constraints

from pyro_pmf.prediction.mixture import mixture
from pyro_pmf.prediction.predictive import PosteriorPredictive

SCALE = (0.5, 5.0)
WEIGHTS = [0.2, 0.5, 0.3]
LOCS = np.array([[0.2, 0.9], [0.5, 0.5], [0.6, 0.1]])
SDS = np.array([0.1, 0.2, 0.05])


def of_normals() -> PosteriorPredictive:
    """Return a mixture of Normals for two pairs."""
    parts = [
        (weight, Normal(torch.tensor(loc), torch.tensor(sd).expand(2)))
        for weight, loc, sd in zip(WEIGHTS, LOCS, SDS, strict=True)
    ]
    return mixture(parts, SCALE)


def dense(method, rating):
    """Return the mixture of `of_normals` in rating units, from SciPy."""
    parts = [
        getattr(scipy.stats.norm(0.5 + 4.5 * loc, 4.5 * sd), method)(rating)
        for loc, sd in zip(LOCS, SDS, strict=True)
    ]
    return np.einsum("k,kn->n", WEIGHTS, parts)


class Ordered(Distribution):
    """Put logits, shape (n, L), on the levels 0, 1 / (L - 1), ..., 1."""

    arg_constraints: ClassVar[dict] = {}
    support = constraints.integer_interval(0, 1)  # discrete; values are not validated

    def __init__(self, logits):
        self.logs = torch.log_softmax(logits, -1)
        self.n_levels = logits.shape[-1]
        self.spacing = 1 / (self.n_levels - 1)
        self.at = torch.arange(self.n_levels) * self.spacing
        super().__init__(logits.shape[:-1], validate_args=False)

    def _gather(self, table, x):
        index = (x / self.spacing).round().long().expand(self.batch_shape)
        return table.gather(-1, index[..., None]).squeeze(-1)

    def log_prob(self, x):
        return self._gather(self.logs, x)

    def cdf(self, x):
        return self._gather(self.logs.exp().cumsum(-1), x)

    @property
    def mean(self):
        return (self.logs.exp() * self.at).sum(-1)

    @property
    def variance(self):
        return (self.logs.exp() * self.at**2).sum(-1) - self.mean**2


STARS = np.arange(1, 11) / 2
LOGITS = np.random.default_rng(1).normal(size=(3, 4, 10))  # parts, pairs, levels
MASS = np.einsum("k,knl->nl", WEIGHTS, np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True))


def of_levels() -> PosteriorPredictive:
    """Return a mixture of distributions over STARS for four pairs, with probabilities MASS."""
    parts = [(w, Ordered(torch.tensor(x))) for w, x in zip(WEIGHTS, LOGITS, strict=True)]
    return mixture(parts, SCALE)


def double(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)
