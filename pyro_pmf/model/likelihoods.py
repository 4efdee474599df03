"""Likelihoods: the distribution of a rating given its score, one small class each."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, ClassVar, Literal, Self

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_pmf.arguments import require_integer
from pyro_pmf.data.ratings import Ratings
from pyro_pmf.errors import PMFError
from pyro_pmf.model.distributions import GammaPoisson, OrderedLogistic
from pyro_pmf.moments.ceiling import below_ceiling

_AT_ONCE = 1 << 20  # ratings that are checked at once
_HEADROOM = 10.0  # of the mean of a count over the largest one of the table
_LEAST_NOISE = 0.3  # sigma of a point estimate, in spreads of ratings that rounding may explain


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
    sites : frozenset of str
        Names of the sites that `latents` samples.

    Examples
    --------
    A likelihood of one's own is a frozen dataclass. This one has heavy tails, so that a few odd
    ratings change little:

    >>> from dataclasses import dataclass
    >>> import pyro.distributions as dist
    >>> from pyro_pmf import MAP, PMF, Likelihood, fit
    >>> from pyro_pmf.datasets import simulate
    >>> @dataclass(frozen=True)
    ... class StudentT(Likelihood):
    ...     df: float = 4.0
    ...
    ...     def __call__(self, score, sigma, **own):
    ...         return dist.StudentT(self.df, score, sigma)
    >>> ratings, _ = simulate(PMF(1), n_users=30, n_items=20, n_ratings=300)
    >>> model = PMF(1, noise="shared", likelihood=StudentT())
    >>> posterior = fit(model, ratings, MAP(max_steps=20), progress=False)
    >>> list(posterior.predict(ratings))[2:6]
    ['mean', 'sd', 'lower', 'upper']
    >>> bool(posterior.evaluate(ratings)["coverage_90"] > 0.85)
    True
    """

    has_sigma: ClassVar[bool] = True
    has_mu: ClassVar[bool] = True
    has_bounds: ClassVar[bool] = False
    sites: ClassVar[frozenset[str]] = frozenset()

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

    @property
    def own_latents(self) -> dict[str, tuple[Constraint, tuple[int, ...]]]:
        """Support and shape of each site that `latents` samples; none by default."""
        return {}

    def given(self, latents: Mapping[str, Any]) -> dict[str, Any]:
        """Return what `latents` returns, from known values of the sites that it samples.

        Parameters
        ----------
        latents : mapping of str to Tensor
            Values by site; other sites may be among them.
        """
        return {}

    def for_ratings(self, ratings: Ratings) -> Likelihood:
        """Return the likelihood with all that the table tells, such as the spacing of its levels.

        Parameters
        ----------
        ratings : Ratings
            The training ratings.

        Returns
        -------
        Likelihood
            By default this one.
        """
        return self

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

    def information(self, score: Tensor, sigma: Tensor, **own: Tensor) -> Tensor:
        """Return the information that a rating has about its score, before it is seen.

        This is (d mean / d score)^2 / variance of the rating. It is the Fisher information of the
        Normal, Bernoulli and negative binomial distributions, and a lower bound of any other.

        Parameters
        ----------
        score, sigma, **own
            As for a call; known numbers.

        Returns
        -------
        Tensor, shape (..., n_pairs)
            Expected curvature of minus the log density: the precision of a Normal likelihood that
            would say as much about the score.
        """
        with torch.enable_grad():
            leaf = score.detach().requires_grad_()
            rating = self(leaf, sigma, **own)
            (slope,) = torch.autograd.grad(rating.mean.sum(), leaf)
            variance = rating.variance.detach()
            return slope**2 / variance.clamp(min=torch.finfo(variance.dtype).tiny)

    def sigma_for(self, spread: float) -> float:
        """Return the sigma with which ratings spread this much about their means.

        Parameters
        ----------
        spread : float
            Standard deviation on the scale of `linearized`, positive.
        """
        return spread

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


@dataclass(frozen=True, repr=False)
class Auto(Likelihood):
    """A likelihood that is yet to be chosen by the ratings: ``PMF(likelihood="auto")``."""

    def __repr__(self) -> str:
        return "'auto'"

    def __call__(self, score: Tensor, sigma: Tensor, **own: Tensor) -> dist.Distribution:
        raise PMFError(
            'A model with likelihood="auto" does not run by itself, since ratings choose its '
            "likelihood. fit(model, ratings) chooses it, and so does model, ratings = "
            "model.for_ratings(ratings). Otherwise give one, as in "
            "PMF(likelihood=NormalSigmoid())."
        )


class LikelihoodField:
    """The field of a model that takes a likelihood, or "auto" for `Auto`."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, model: object | None, owner: type) -> Likelihood:
        return NormalSigmoid() if model is None else model.__dict__[self._name]

    def __set__(self, model: object, value: Likelihood | Literal["auto"]) -> None:
        is_auto = isinstance(value, str) and value == "auto"
        model.__dict__[self._name] = Auto() if is_auto else value


def fault_of(likelihood: Likelihood, value: Tensor) -> str | None:
    """Return `Likelihood.fault` of many ratings, in the memory of some."""
    faults = (likelihood.fault(some) for some in value.split(_AT_ONCE))
    return next((fault for fault in faults if fault), None)


def likelihood_of(model: Any) -> Likelihood | None:
    """Return the likelihood of a model, or None for a Pyro model without that attribute."""
    likelihood = getattr(model, "likelihood", None)
    return likelihood if isinstance(likelihood, Likelihood) else None


@dataclass(frozen=True)
class _Normal(Likelihood):
    """A Normal distribution of recorded ratings, with the variance of their rounding.

    A rating recorded to the nearest multiple of d misses the rating that was meant by up to d / 2
    either way, with variance d^2 / 12. Without this part of the variance, the density of levels is
    unbounded: the noise of a user who always gives the same level would go to zero.
    """

    rounding: float | None = None

    def __post_init__(self) -> None:
        known = self.rounding is None or isinstance(self.rounding, Real)
        if not (known and 0 <= float(self.rounding or 0.0) < math.inf):
            raise PMFError(
                "rounding is the spacing of recorded ratings on the model scale: give a number of "
                f"at least 0, or None to find it, not {self.rounding!r}."
            )

    def for_ratings(self, ratings: Ratings) -> Self:
        if self.rounding is not None:
            return self
        return replace(self, rounding=float(f"{ratings.spacing:.6g}"))  # to be read

    def sigma_for(self, spread: float) -> float:
        rest = spread**2 - self._rounding_sd**2
        return math.sqrt(max(rest, (_LEAST_NOISE * spread) ** 2))

    @property
    def _rounding_sd(self) -> float:
        return (self.rounding or 0.0) / math.sqrt(12)

    def _with_rounding(self, sigma: Tensor) -> Tensor:
        """Return sqrt(sigma^2 + rounding^2 / 12)."""
        sd = self._rounding_sd
        if not sd:
            return sigma
        return torch.hypot(sigma, torch.tensor(sd, dtype=sigma.dtype, device=sigma.device))


@dataclass(frozen=True)
class NormalSigmoid(_Normal):
    """R_ij ~ Normal(sigmoid(score_ij), sigma_ij^2 + rounding^2 / 12), for ratings on [0, 1].

    Salakhutdinov & Mnih 2007, section 2: the logistic function bounds the range of predictions.

    Parameters
    ----------
    rounding : float, optional
        Spacing of the recorded ratings on the model scale, such as 0.25 for stars from 1 to 5. By
        default `fit` finds it in the ratings, and a model that runs by itself has none. With 0,
        levels are taken for exact numbers, whose density is unbounded.

    Raises
    ------
    PMFError
        If ``rounding`` is negative or not finite.

    Examples
    --------
    >>> import torch
    >>> ratings = NormalSigmoid()(score=torch.tensor([0.0, 2.0]), sigma=torch.tensor(0.1))
    >>> ratings.mean
    tensor([0.5000, 0.8808])
    """

    has_bounds: ClassVar[bool] = True

    def __call__(self, score: Tensor, sigma: Tensor, **own: Tensor) -> dist.Distribution:
        return dist.Normal(torch.sigmoid(score), self._with_rounding(sigma), validate_args=False)


@dataclass(frozen=True)
class NormalIdentity(_Normal):
    """R_ij ~ Normal(score_ij, sigma_ij^2 + rounding^2 / 12).

    Salakhutdinov & Mnih 2007, section 2, equation 1. For ratings without bounds, such as ratings
    with transform="standardize" or "log1p".

    Parameters
    ----------
    rounding : float, optional
        As for `NormalSigmoid`.

    Raises
    ------
    PMFError
        If ``rounding`` is negative or not finite.

    Examples
    --------
    >>> import torch
    >>> ratings = NormalIdentity()(score=torch.tensor([0.0, 2.0]), sigma=torch.tensor(0.5))
    >>> ratings.stddev
    tensor([0.5000, 0.5000])
    """

    def __call__(self, score: Tensor, sigma: Tensor, **own: Tensor) -> dist.Distribution:
        return dist.Normal(score, self._with_rounding(sigma), validate_args=False)

    def noise_sd(self, value: Tensor | None = None) -> float:
        return 0.2 if value is None or len(value) < 2 else 0.8 * float(value.std())


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
    sites: ClassVar[frozenset[str]] = frozenset({"shares"})

    def __post_init__(self) -> None:
        require_integer("n_levels", self.n_levels, least=2)

    def __call__(self, score: Tensor, sigma: Tensor, **own: Tensor) -> dist.Distribution:
        return OrderedLogistic(score, sigma, own["cutpoints"], validate_args=False)

    def latents(self, zero: Tensor) -> dict[str, Tensor]:
        shares = pyro.sample("shares", dist.Dirichlet(zero.new_ones(self.n_levels)))
        cutpoints = self.given({"shares": shares})["cutpoints"]
        return {"cutpoints": pyro.deterministic("cutpoints", cutpoints, event_dim=1)}

    def given(self, latents: Mapping[str, Any]) -> dict[str, Any]:
        return {"cutpoints": cutpoints_of(latents["shares"])}

    @property
    def own_latents(self) -> dict[str, tuple[Constraint, tuple[int, ...]]]:
        return {"shares": (constraints.simplex, (self.n_levels,))}

    def information(self, score: Tensor, sigma: Tensor, **own: Tensor) -> Tensor:
        below = torch.sigmoid((own["cutpoints"] - score[..., None]) / sigma[..., None])
        slope = torch.diff(F.pad(below * (1 - below) / sigma[..., None], (1, 1)))
        share = torch.diff(F.pad(F.pad(below, (1, 0), value=0.0), (0, 1), value=1.0))
        return (slope**2 / share.clamp(min=torch.finfo(share.dtype).tiny)).sum(-1)

    def noise_sd(self, value: Tensor | None = None) -> float:
        return 1.8  # sd of a logistic distribution

    def fault(self, value: Tensor) -> str | None:
        steps = value.double() * (self.n_levels - 1)
        inside = (steps > -1e-3) & (steps < self.n_levels - 1 + 1e-3)
        if not bool((inside & ((steps - steps.round()).abs() <= 1e-3)).all()):
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
        # takes a random sigma in expectations
        return OrderedLogistic(score, sigma, zero, validate_args=False)

    def noise_sd(self, value: Tensor | None = None) -> float:
        return 1.8  # sd of a logistic distribution

    def fault(self, value: Tensor) -> str | None:
        if bool(((value != 0) & (value != 1)).any()):
            return "are neither the lowest nor the highest, which stand for no and yes"
        return None


@dataclass(frozen=True)
class NegativeBinomialLog(Likelihood):
    """R_ij ~ Poisson(m_ij g), g ~ Gamma with mean 1 and standard deviation sigma_ij.

    This is the negative binomial distribution with mean m and variance m + (sigma_ij m)^2, for
    counts with transform="count". A sigma_ij below 1e-5 counts as
    1e-5, which is as good as Poisson. The mean m = exp(score_ij) C / (C + exp(score_ij)) is the
    exponential of the score up to a soft ceiling C: a table says nothing about means far above all
    its counts, and the exponential of a product of factors has no finite mean. Far below C,
    effects on the score multiply the mean. Choose a prior of mu that covers the log of a typical
    count: ``Priors(mu=Normal(5.0, 2.0))``.

    Lawless, Negative binomial and mixed Poisson regression, Canadian Journal of Statistics 1987.

    Parameters
    ----------
    ceiling : float, optional
        The ceiling C, a count. By default `fit` takes 10 times the largest count, and at least 10,
        so that m is at most a tenth below exp(score) for means up to the largest count; a model
        that runs by itself has none. With ``math.inf`` there is none: m = exp(score_ij).

    Raises
    ------
    PMFError
        If ``ceiling`` is not positive.

    Examples
    --------
    >>> import torch
    >>> plays = NegativeBinomialLog()(score=torch.tensor([0.0]), sigma=torch.tensor([0.5]))
    >>> plays.mean, plays.variance
    (tensor([1.]), tensor([1.2500]))
    """

    ceiling: float | None = None

    def __post_init__(self) -> None:
        known = self.ceiling is None or isinstance(self.ceiling, Real)
        if not (known and (self.ceiling is None or float(self.ceiling) > 0)):
            raise PMFError(
                "ceiling is the most that the mean of a count can be: give a positive number, "
                f"math.inf for no ceiling, or None to find it, not {self.ceiling!r}."
            )

    def __call__(self, score: Tensor, sigma: Tensor, **own: Tensor) -> dist.Distribution:
        log_mean = score if self.log_ceiling is None else below_ceiling(score, self.log_ceiling)
        return GammaPoisson(log_mean, sigma, validate_args=False)

    @property
    def log_ceiling(self) -> float | None:
        """Log of the ceiling, or None if there is none."""
        return None if self.ceiling in (None, math.inf) else math.log(float(self.ceiling))

    def for_ratings(self, ratings: Ratings) -> Self:
        if self.ceiling is not None or ratings.value is None or not len(ratings):
            return self
        largest = max(float(ratings.value.max()), 1.0)
        return replace(self, ceiling=float(f"{_HEADROOM * largest:.6g}"))  # to be read

    def fault(self, value: Tensor) -> str | None:
        if bool(((value < 0) | (value % 1 != 0)).any()):
            return 'are not counts 0, 1, 2, ... (make the Ratings with transform="count")'
        return None

    def linearized(self, value: Tensor) -> Tensor:
        return torch.log1p(value)


def cutpoints_of(shares: Any) -> Any:
    """Return cut points from the probabilities of the levels at a score of 0.

    Parameters
    ----------
    shares : Tensor or Uncertain, shape (..., n_levels)
        Positive, and of sum one.

    Returns
    -------
    Tensor or Uncertain, shape (..., n_levels - 1)
        Log odds of a level or a lower one, from sums at both ends, so that no sum rounds to one.
    """
    below, above = shares.cumsum(-1)[..., :-1], shares.flip(-1).cumsum(-1).flip(-1)[..., 1:]
    return below.log() - above.log()


# Of these, the arguments are checked nowhere else than in the ratings: random quantities take the
# place of numbers, and torch's switch for checks belongs to the whole process.
OURS = NormalSigmoid, NormalIdentity, OrderedLogit, BernoulliLogit, NegativeBinomialLog
