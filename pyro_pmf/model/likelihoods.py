"""How a score becomes a rating: one small class each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_pmf.arguments import require_integer
from pyro_pmf.model.distributions import GammaPoisson, OrderedLogistic


class Likelihood(ABC):
    """The distribution of a rating given its score and its noise.

    Attributes
    ----------
    has_sigma : bool
        Whether the noise sigma is a latent. If not it is 1, which sets the unit of the score.
    has_mu : bool
        Whether the mean score mu is a latent. If not it is 0.
    has_bounds : bool
        Whether the mean of a rating lies between 0 and 1, the lowest and the highest there can be.
    """

    has_sigma: ClassVar[bool] = True
    has_mu: ClassVar[bool] = True
    has_bounds: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, score: Tensor, sigma: Tensor, **own: Tensor) -> dist.Distribution:
        """Return the distribution of the ratings on the model scale, one a pair.

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
        """Say why some ratings, on the model scale, cannot be; None if all can."""
        return None

    def noise_sd(self, value: Tensor | None = None) -> float:
        """How large the noise is on the scale of the score, roughly.

        It is what strong factors are measured against.

        Parameters
        ----------
        value : Tensor, shape (n,), optional
            The training ratings, on the model scale.
        """
        return 1.0

    def linearized(self, value: Tensor) -> Tensor:
        """Map ratings to a scale where the spread about their means is about sigma."""
        return value


def likelihood_of(model: Any) -> Likelihood | None:
    """Return the likelihood that a model states; None for a Pyro model that states none."""
    likelihood = getattr(model, "likelihood", None)
    return likelihood if isinstance(likelihood, Likelihood) else None


@dataclass(frozen=True)
class NormalSigmoid(Likelihood):
    """R_ij ~ Normal(sigmoid(score_ij), sigma_ij^2), ratings on the unit scale [0, 1].

    Salakhutdinov & Mnih 2007, section 2: the logistic function bounds the range of predictions.
    """

    has_bounds: ClassVar[bool] = True

    def __call__(self, score: Tensor, sigma: Tensor, **own: Tensor) -> dist.Distribution:
        return dist.Normal(torch.sigmoid(score), sigma)


@dataclass(frozen=True)
class NormalIdentity(Likelihood):
    """R_ij ~ Normal(score_ij, sigma_ij^2).

    Salakhutdinov & Mnih 2007, section 2, equation 1. For ratings without bounds, such as those of
    transform="standardize" or "log1p".
    """

    def __call__(self, score: Tensor, sigma: Tensor, **own: Tensor) -> dist.Distribution:
        return dist.Normal(score, sigma)

    def noise_sd(self, value: Tensor | None = None) -> float:
        return 0.2 if value is None else 0.8 * float(value.std())


@dataclass(frozen=True)
class OrderedLogit(Likelihood):
    """P(R_ij <= level k) = sigmoid((cutpoint_k - score_ij) / sigma_ij): ordered categories.

    McCullagh, Regression models for ordinal data, JRSS B 1980; for ratings, Koren & Sill, OrdRec,
    RecSys 2011. A user's bias shifts all of the user's cut points (``PMF(biases="item")`` has no
    such shift), and with noise of users sigma_ij stretches them. The cut points take the place of
    mu, and sigma is 1: both only set where the scale of the score begins, and its unit. The prior
    of the cut points is that the shares of the levels at a score of 0 are uniform over all that
    sum to one.

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

    def __post_init__(self) -> None:
        require_integer("n_levels", self.n_levels, least=2)

    def __call__(self, score: Tensor, sigma: Tensor, **own: Tensor) -> dist.Distribution:
        return OrderedLogistic(score, sigma, own["cutpoints"])

    def latents(self, zero: Tensor) -> dict[str, Tensor]:
        shares = pyro.sample("shares", dist.Dirichlet(zero.new_ones(self.n_levels)))
        # The log odds of a sum from either end, none of which rounds to one.
        below, above = shares.cumsum(-1)[..., :-1], shares.flip(-1).cumsum(-1).flip(-1)[..., 1:]
        cutpoints = below.log() - above.log()
        return {"cutpoints": pyro.deterministic("cutpoints", cutpoints, event_dim=1)}

    def noise_sd(self, value: Tensor | None = None) -> float:
        return 1.8  # of a logistic distribution

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

    def __call__(self, score: Tensor, sigma: Tensor, **own: Tensor) -> dist.Distribution:
        zero = torch.zeros(1, dtype=score.dtype, device=score.device)
        return OrderedLogistic(score, sigma, zero)  # whose expectations know what sigma is

    def noise_sd(self, value: Tensor | None = None) -> float:
        return 1.8  # of a logistic distribution

    def fault(self, value: Tensor) -> str | None:
        if bool(((value != 0) & (value != 1)).any()):
            return "are neither the lowest nor the highest, which stand for no and yes"
        return None


@dataclass(frozen=True)
class NegativeBinomialLog(Likelihood):
    """R_ij ~ Poisson(exp(score_ij) g), g ~ Gamma of mean 1 and standard deviation sigma_ij.

    That is, negative binomial of mean m = exp(score_ij) and variance m + (sigma_ij m)^2, for
    counts of transform="count". Effects on the score multiply the mean. Make the prior of mu hold
    the log of a typical count: ``Priors(mu=Normal(5.0, 2.0))``.

    Lawless, Negative binomial and mixed Poisson regression, Canadian Journal of Statistics 1987.
    """

    def __call__(self, score: Tensor, sigma: Tensor, **own: Tensor) -> dist.Distribution:
        return GammaPoisson(score, sigma)

    def fault(self, value: Tensor) -> str | None:
        if bool(((value < 0) | (value % 1 != 0)).any()):
            return 'are no counts, 0, 1, 2, ... (make the Ratings with transform="count")'
        return None

    def linearized(self, value: Tensor) -> Tensor:
        return torch.log1p(value)
