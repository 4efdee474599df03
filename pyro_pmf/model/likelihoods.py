"""Likelihoods: the distribution of a rating given its score, one small class each."""

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
        Whether the noise sigma is a latent. Otherwise it is 1, which sets the unit of the score.
    has_mu : bool
        Whether the mean score mu is a latent. Otherwise it is 0.
    has_bounds : bool
        Whether the mean rating is bounded to [0, 1], so that the transform must have bounds.
    """

    has_sigma: ClassVar[bool] = True
    has_mu: ClassVar[bool] = True
    has_bounds: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, score: Tensor, sigma: Tensor, **own: Tensor) -> dist.Distribution:
        """Return the distribution of the rating of each pair, on the model scale.

        Parameters
        ----------
        score : Tensor, shape (..., n_pairs)
            The score of each pair.
        sigma : Tensor, broadcastable to the shape of ``score``
            The noise of each pair; each class defines the quantity that it scales.
        **own : Tensor
            The latents that `latents` returned.

        Returns
        -------
        Distribution, batch shape (..., n_pairs)
        """

    def latents(self, zero: Tensor) -> dict[str, Tensor]:
        """Sample the latents that only this likelihood has, in the model that is running.

        Parameters
        ----------
        zero : Tensor, shape ()
            A number of the type and on the device of the model.

        Returns
        -------
        dict of str to Tensor
            Keyword arguments of the likelihood; none by default.
        """
        return {}

    def fault(self, value: Tensor) -> str | None:
        """Return why this likelihood cannot produce some ratings, or None if it can produce all.

        Parameters
        ----------
        value : Tensor, shape (n,)
            The training ratings, on the model scale.

        Returns
        -------
        str or None
            It completes the sentence "Some ratings ...".
        """
        return None

    def noise_sd(self, value: Tensor | None = None) -> float:
        """Return the approximate standard deviation of the noise, on the scale of the score.

        `Term.unit` measures the scales of factors and biases against it.

        Parameters
        ----------
        value : Tensor, shape (n,), optional
            The training ratings, on the model scale.
        """
        return 1.0

    def linearized(self, value: Tensor) -> Tensor:
        """Map ratings to a scale on which their spread about their means is about sigma.

        Parameters
        ----------
        value : Tensor, shape (n,)
            Ratings on the model scale.

        Returns
        -------
        Tensor, shape (n,)
        """
        return value


def likelihood_of(model: Any) -> Likelihood | None:
    """Return the likelihood of a model, or None for a Pyro model without that attribute."""
    likelihood = getattr(model, "likelihood", None)
    return likelihood if isinstance(likelihood, Likelihood) else None


@dataclass(frozen=True)
class NormalSigmoid(Likelihood):
    """R_ij ~ Normal(sigmoid(score_ij), sigma_ij^2), for ratings on the unit scale [0, 1].

    Salakhutdinov & Mnih 2007, section 2: the logistic function bounds the range of predictions.

    Examples
    --------
    >>> import torch
    >>> ratings = NormalSigmoid()(score=torch.tensor([0.0, 2.0]), sigma=torch.tensor(0.1))
    >>> ratings.mean
    tensor([0.5000, 0.8808])
    """

    has_bounds: ClassVar[bool] = True

    def __call__(self, score: Tensor, sigma: Tensor, **own: Tensor) -> dist.Distribution:
        return dist.Normal(torch.sigmoid(score), sigma)


@dataclass(frozen=True)
class NormalIdentity(Likelihood):
    """R_ij ~ Normal(score_ij, sigma_ij^2).

    Salakhutdinov & Mnih 2007, section 2, equation 1. For ratings without bounds, such as ratings
    with transform="standardize" or "log1p".

    Examples
    --------
    >>> import torch
    >>> ratings = NormalIdentity()(score=torch.tensor([0.0, 2.0]), sigma=torch.tensor(0.5))
    >>> ratings.stddev
    tensor([0.5000, 0.5000])
    """

    def __call__(self, score: Tensor, sigma: Tensor, **own: Tensor) -> dist.Distribution:
        return dist.Normal(score, sigma)

    def noise_sd(self, value: Tensor | None = None) -> float:
        return 0.2 if value is None else 0.8 * float(value.std())


@dataclass(frozen=True)
class OrderedLogit(Likelihood):
    """P(R_ij <= level k) = sigmoid((cutpoint_k - score_ij) / sigma_ij): ordered categories.

    McCullagh, Regression models for ordinal data, JRSS B 1980; for ratings, Koren & Sill, OrdRec,
    RecSys 2011. A user's bias shifts all cut points of the user (``PMF(biases="item")`` has no
    such shift); noise of users, in sigma_ij, stretches them. The cut points replace mu, and sigma
    is 1: mu and sigma would only set the origin and the unit of the score. The prior is on the
    probabilities of the levels at a score of 0, the site ``shares``: Dirichlet(1, ..., 1), which
    is uniform over the simplex. The site ``cutpoints`` is computed from them.

    Parameters
    ----------
    n_levels : int
        Number of possible ratings, evenly spaced from the lowest to the highest.

    Raises
    ------
    PMFError
        If ``n_levels`` is not an integer of at least 2.

    Examples
    --------
    >>> import torch
    >>> one_to_three = OrderedLogit(n_levels=3)
    >>> ratings = one_to_three(
    ...     score=torch.tensor([0.0, 2.0]),
    ...     sigma=torch.tensor([1.0, 1.0]),
    ...     cutpoints=torch.tensor([-1.0, 1.0]),
    ... )
    >>> ratings.probs
    tensor([[0.2689, 0.4621, 0.2689],
            [0.0474, 0.2215, 0.7311]])
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
        # Log odds from sums at both ends, so that no sum rounds to one.
        below, above = shares.cumsum(-1)[..., :-1], shares.flip(-1).cumsum(-1).flip(-1)[..., 1:]
        cutpoints = below.log() - above.log()
        return {"cutpoints": pyro.deterministic("cutpoints", cutpoints, event_dim=1)}

    def noise_sd(self, value: Tensor | None = None) -> float:
        return 1.8  # sd of a logistic distribution

    def fault(self, value: Tensor) -> str | None:
        steps = value.double() * (self.n_levels - 1)
        if bool(((steps - steps.round()).abs() > 1e-3).any()):
            return (
                f"are not among the {self.n_levels} evenly spaced levels from the lowest to the "
                "highest rating (check n_levels, and the scale of the Ratings)"
            )
        return None


@dataclass(frozen=True)
class BernoulliLogit(Likelihood):
    """R_ij ~ Bernoulli(sigmoid(score_ij / sigma_ij)): liked or not, bought or not.

    sigma is 1, which sets the unit of the score. With noise of users or items, the slope
    1 / sigma_ij differs by user or item: the discrimination of an item in Birnbaum 1968.

    Examples
    --------
    >>> import torch
    >>> bought = BernoulliLogit()(score=torch.tensor([0.0, 2.0]), sigma=torch.tensor([1.0, 1.0]))
    >>> bought.mean
    tensor([0.5000, 0.8808])
    """

    has_sigma: ClassVar[bool] = False

    def __call__(self, score: Tensor, sigma: Tensor, **own: Tensor) -> dist.Distribution:
        zero = torch.zeros(1, dtype=score.dtype, device=score.device)
        return OrderedLogistic(score, sigma, zero)  # takes a random sigma in expectations

    def noise_sd(self, value: Tensor | None = None) -> float:
        return 1.8  # sd of a logistic distribution

    def fault(self, value: Tensor) -> str | None:
        if bool(((value != 0) & (value != 1)).any()):
            return "are neither the lowest nor the highest, which stand for no and yes"
        return None


@dataclass(frozen=True)
class NegativeBinomialLog(Likelihood):
    """R_ij ~ Poisson(exp(score_ij) g), g ~ Gamma with mean 1 and standard deviation sigma_ij.

    This is the negative binomial distribution with mean m = exp(score_ij) and variance
    m + (sigma_ij m)^2, for counts with transform="count". Effects on the score multiply the mean.
    Choose a prior of mu that covers the log of a typical count: ``Priors(mu=Normal(5.0, 2.0))``.

    Lawless, Negative binomial and mixed Poisson regression, Canadian Journal of Statistics 1987.

    Examples
    --------
    >>> import torch
    >>> plays = NegativeBinomialLog()(score=torch.tensor([0.0]), sigma=torch.tensor([0.5]))
    >>> plays.mean, plays.variance
    (tensor([1.]), tensor([1.2500]))
    """

    def __call__(self, score: Tensor, sigma: Tensor, **own: Tensor) -> dist.Distribution:
        return GammaPoisson(score, sigma)

    def fault(self, value: Tensor) -> str | None:
        if bool(((value < 0) | (value % 1 != 0)).any()):
            return 'are not counts 0, 1, 2, ... (make the Ratings with transform="count")'
        return None

    def linearized(self, value: Tensor) -> Tensor:
        return torch.log1p(value)
