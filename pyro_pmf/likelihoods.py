"""How a score becomes a rating: one small class each."""

from __future__ import annotations

from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor


@dataclass(frozen=True)
class NormalSigmoid:
    """R_ij ~ Normal(sigmoid(score_ij), sigma^2), ratings on the unit scale [0, 1].

    Salakhutdinov & Mnih 2007, section 2: the logistic function bounds the range of predictions.
    """

    def __call__(self, score: Tensor, sigma: Tensor) -> dist.Distribution:
        """Return the distribution of the ratings, one a pair.

        Parameters
        ----------
        score : Tensor, shape (..., n_pairs)
            On the logit scale.
        sigma : Tensor, broadcastable to the shape of ``score``
            Standard deviation of a rating about its mean, unit scale.
        """
        return dist.Normal(torch.sigmoid(score), sigma)
