"""How a score becomes a rating: one small class each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_pmf.distributions import OrderedLogistic
from pyro_pmf.errors import PMFError


class Likelihood(ABC):
    """The distribution of a rating given its score and its noise.

    Attributes
    ----------
    has_sigma : bool
        Whether the noise sigma is a latent. If not it is 1, which sets the unit of the score.
    has_mu : bool
        Whether the mean score mu is a latent. If not it is 0.
    noise_sd : float
        How large the noise of a rating is on the scale of the score, roughly: what strong factors
        are measured against.
    """

    has_sigma: ClassVar[bool] = True
    has_mu: ClassVar[bool] = True
    noise_sd: ClassVar[float] = 1.0

    @abstractmethod
    def __call__(self, score: Tensor, sigma: Tensor, **own: Tensor) -> dist.Distribution:
        """Return the distribution of the ratings on the unit scale, one a pair.

        Parameters
        ----------
        score : Tensor, shape (..., n_pairs)
        sigma : Tensor, broadcastable to the shape of ``score``
            Noise: what it is the scale of is said by each class.
        own : Tensor
            The likelihood's `latents`.
        """

    def latents(self, zero: Tensor) -> dict[str, Tensor]:
        """Sample the latents that only this likelihood has, of the type of ``zero``."""
        return {}

    def fault(self, value: Tensor) -> str | None:
        """Say why some ratings, on the unit scale, cannot be; None if all can."""
        return None


@dataclass(frozen=True)
class NormalSigmoid(Likelihood):
    """R_ij ~ Normal(sigmoid(score_ij), sigma_ij^2), ratings on the unit scale [0, 1].

    Salakhutdinov & Mnih 2007, section 2: the logistic function bounds the range of predictions.
    """

    def __call__(self, score: Tensor, sigma: Tensor, **own: Tensor) -> dist.Distribution:
        return dist.Normal(torch.sigmoid(score), sigma)


@dataclass(frozen=True)
class NormalIdentity(Likelihood):
    """R_ij ~ Normal(score_ij, sigma_ij^2), ratings on the unit scale.

    Salakhutdinov & Mnih 2007, section 2, equation 1.
    """

    noise_sd: ClassVar[float] = 0.2

    def __call__(self, score: Tensor, sigma: Tensor, **own: Tensor) -> dist.Distribution:
        return dist.Normal(score, sigma)


@dataclass(frozen=True)
class OrderedLogit(Likelihood):
    """P(R_ij <= level k) = sigmoid((cutpoint_k - score_ij) / sigma_ij): ordered categories.

    McCullagh, Regression models for ordinal data, JRSS B 1980; for ratings, Koren & Sill, OrdRec,
    RecSys 2011. A user's bias shifts all of the user's cut points, and with noise of users
    sigma_ij stretches them. The cut points take the place of mu, and sigma is 1: both only set
    where the scale of the score begins, and its unit. The prior of the cut points is that the
    shares of the levels at a score of 0 are uniform over all that sum to one.

    Parameters
    ----------
    n_levels : int
        The ratings that there can be, evenly spaced from the lowest to the highest.

    Raises
    ------
    PMFError
        If it is not an integer of at least 2.
    """

    n_levels: int
    has_sigma: ClassVar[bool] = False
    has_mu: ClassVar[bool] = False
    noise_sd: ClassVar[float] = 1.8

    def __post_init__(self) -> None:
        if isinstance(self.n_levels, bool) or not isinstance(self.n_levels, int):
            raise PMFError(f"n_levels must be 2, 3, 4, ..., not {self.n_levels!r}")
        if self.n_levels < 2:
            raise PMFError(f"n_levels must be 2, 3, 4, ..., not {self.n_levels!r}")

    def __call__(self, score: Tensor, sigma: Tensor, **own: Tensor) -> dist.Distribution:
        return OrderedLogistic(score, sigma, own["cutpoints"])

    def latents(self, zero: Tensor) -> dict[str, Tensor]:
        shares = pyro.sample("shares", dist.Dirichlet(zero.new_ones(self.n_levels)))
        cutpoints = shares.cumsum(-1)[..., :-1].logit()
        return {"cutpoints": pyro.deterministic("cutpoints", cutpoints, event_dim=1)}

    def fault(self, value: Tensor) -> str | None:
        steps = value.double() * (self.n_levels - 1)
        if bool(((steps - steps.round()).abs() > 1e-3).any()):
            return (
                f"are none of {self.n_levels} levels, evenly spaced from the lowest to the highest"
            )
        return None


@dataclass(frozen=True)
class BernoulliLogit(Likelihood):
    """R_ij ~ Bernoulli(sigmoid(score_ij / sigma_ij)): liked or not, bought or not.

    sigma is 1 and sets the unit of the score; noise of users or items makes it a model of items
    that tell users apart more or less sharply (Birnbaum 1968's discrimination).
    """

    has_sigma: ClassVar[bool] = False
    noise_sd: ClassVar[float] = 1.8

    def __call__(self, score: Tensor, sigma: Tensor, **own: Tensor) -> dist.Distribution:
        return dist.Bernoulli(logits=score / sigma)

    def fault(self, value: Tensor) -> str | None:
        if bool(((value != 0) & (value != 1)).any()):
            return "are neither the lowest nor the highest, which stand for no and yes"
        return None
