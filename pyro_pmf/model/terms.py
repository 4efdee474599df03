"""The terms of a model. Each states its site, its scale, its plate and its part in the score.

A term is a Normal site with one row per user or item, x_i ~ Normal(m_i, sigma_x^2 I). Inference,
predictions and figures use the terms of a model instead of names of sites. A new term is stated
in three places: here, in `pmf`, which adds it to the score, and in `priors`, which has its scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.model.likelihoods import Likelihood
from pyro_pmf.model.priors import Priors
from pyro_pmf.moments.bilinear import dot

_OF_INDEPENDENT, _OF_HIERARCHICAL = 0.3, 0.25  # values of `vi_scale` of factors
TAU = "tau"  # site of the scale of each factor, which multiplies sigma_U and sigma_W
Plate = Literal["users", "items"]
Moments = tuple[Tensor, Tensor]  # mean and variance of each row


@dataclass(frozen=True)
class Term:
    """One term of a model: rows x_i ~ Normal(m_i, sigma_x^2 I) of a site x.

    Parameters
    ----------
    site : str
        Name of the latent site; its standard deviation is the site ``sigma_`` + ``site``.
    plate : {"users", "items"}
        Whether a row belongs to a user or to an item.
    label : str
        The term in words, for figures.
    vi_scale, map_scale : float, optional
        Value at which variational inference, or MAP, holds the standard deviation, in units of
        `unit`. Without a value, the standard deviation is learnt.
    has_mean : bool
        Whether the means m_i depend on other latents; otherwise they are 0.

    Attributes
    ----------
    is_vector : bool
        Whether a row has ``n_factors`` entries; otherwise it is one number.
    has_ratings : bool
        Whether the ratings of a user or item inform its row directly.
    in_score : bool
        Whether the term contributes to the score by itself.
    """

    site: str
    plate: Plate
    label: str
    vi_scale: float | None = None
    map_scale: float | None = None
    has_mean: bool = False

    is_vector: ClassVar[bool] = False
    has_ratings: ClassVar[bool] = True
    in_score: ClassVar[bool] = True

    @property
    def scale(self) -> str:
        """Name of the site of the standard deviation, ``sigma_`` + ``site``."""
        return f"sigma_{self.site}"

    def effect(self, latents: Mapping[str, Moments]) -> Moments:
        """Return the term's contribution to the score of each row, averaged over the other side.

        Parameters
        ----------
        latents : mapping of str to (Tensor, Tensor)
            Mean and variance of each latent site.

        Returns
        -------
        mean, variance : Tensor, shape (n_rows,)
            On the scale of the score.

        Raises
        ------
        NotImplementedError
            If the term does not contribute to the score by itself (`in_score`).
        """
        raise NotImplementedError(
            f"the term {self.site} does not contribute to the score by itself"
        )

    def unit(self, noise_sd: float) -> float:
        """Return the unit of ``vi_scale`` and ``map_scale``.

        The product of two factors is measured in units of the noise, and so each factor in units
        of its square root.

        Parameters
        ----------
        noise_sd : float
            Standard deviation of the noise, on the scale of the score (`Likelihood.noise_sd`).
        """
        return noise_sd**0.5


@dataclass(frozen=True)
class Bias(Term):
    """A bias b_i, which is added to the score."""

    def effect(self, latents: Mapping[str, Moments]) -> Moments:
        """Return mean and variance of the bias itself."""
        return latents[self.site]

    def unit(self, noise_sd: float) -> float:
        """Return the standard deviation of the noise itself."""
        return noise_sd


@dataclass(frozen=True)
class Factor(Term):
    """Factors of one side; their product with the other side's, U_i . V_j, is in the score.

    Parameters
    ----------
    site, plate, label, vi_scale, map_scale, has_mean
        See `Term`.
    partner : str
        Site of the factors of the other side.
    """

    partner: str = ""
    is_vector: ClassVar[bool] = True

    @property
    def mean(self) -> str:
        """Name of the site of the mean of all rows, ``mu_`` + ``site``."""
        return f"mu_{self.site}"

    def effect(self, latents: Mapping[str, Moments]) -> Moments:
        """Return mean and variance of U_i . mean_j(V_j).

        The mean of all V_j is treated as known: its variance is small beside that of one row U_i.
        """
        average = latents[self.partner][0].mean(0)
        mean, var = latents[self.site]
        return mean @ average, var @ average**2


@dataclass(frozen=True)
class SumOverSeen(Term):
    """Effects W_j whose sums are the prior means of factors: m_i = sum_j I_ij W_j / d(n_i).

    Parameters
    ----------
    site, plate, label, vi_scale, map_scale, has_mean
        See `Term`.
    factor : str
        Site of the factors with these means, which are on the other plate.
    """

    factor: str = ""
    is_vector: ClassVar[bool] = True
    has_ratings: ClassVar[bool] = False  # only sums of many W_j enter the score
    in_score: ClassVar[bool] = False


@dataclass(frozen=True)
class LogNoise(Term):
    """Log noise s_i of a user or item: it multiplies the noise of a rating by exp(s_i)."""

    in_score: ClassVar[bool] = False


class Terms(tuple[Term, ...]):
    """The terms of one model."""

    def of_site(self, site: str) -> Term | None:
        """Return the term with this site, or None if the model lacks it."""
        return next((term for term in self if term.site == site), None)

    @property
    def factors(self) -> tuple[Factor, Factor] | None:
        """The factors of users and of items, or None if the model lacks factors."""
        found = {term.plate: term for term in self if isinstance(term, Factor)}
        return (found["users"], found["items"]) if len(found) == 2 else None

    @property
    def noise(self) -> list[LogNoise]:
        """The terms of the log noise."""
        return [term for term in self if isinstance(term, LogNoise)]

    @property
    def factor_scales(self) -> dict[str, list[str]]:
        """Names of the scales of each side of the product U_i . V_j, by the site of its factors.

        Only products such as sigma_U sigma_V are identified: multiplying all scales of one side
        and dividing all scales of the other by the same number changes no score.
        """
        scales: dict[str, list[str]] = {}
        for term in self:
            if isinstance(term, Factor):
                scales.setdefault(term.site, []).insert(0, term.scale)
            elif isinstance(term, SumOverSeen):
                scales.setdefault(term.factor, []).append(term.scale)
        return scales

    @property
    def scale_groups(self) -> list[list[str]]:
        """Names of the scales that variational inference holds; a group is chosen together."""
        of_factors = [term.scale for term in self if isinstance(term, Factor)]
        others = [
            [term.scale]
            for term in self
            if term.vi_scale is not None and term.scale not in of_factors
        ]
        return [of_factors, *others] if of_factors else others


def user_factors(hierarchical: bool, means: bool = False) -> Factor:
    """Return the term U.

    Parameters
    ----------
    hierarchical : bool
        Whether the prior means of the factors depend on the rated items.
    means : bool
        Whether all rows have a mean that is learnt.
    """
    scale = _OF_HIERARCHICAL if hierarchical else _OF_INDEPENDENT
    return Factor("U", "users", "user factors", scale, 0.25, hierarchical or means, "V")


def item_factors(hierarchical: bool, means: bool = False) -> Factor:
    """Return the term V.

    Parameters
    ----------
    hierarchical : bool
        Whether the prior means of the factors depend on the users who rated the item.
    means : bool
        Whether all rows have a mean that is learnt.
    """
    scale = _OF_HIERARCHICAL if hierarchical else _OF_INDEPENDENT
    return Factor("V", "items", "item factors", scale, 0.25, hierarchical or means, "U")


HAVING_RATED = SumOverSeen("W", "items", "effect of having rated an item", 0.2, 0.15, factor="U")
BEING_RATED = SumOverSeen("Z", "users", "effect of being rated by a user", 0.2, 0.15, factor="V")
USER_BIAS = Bias("b", "users", "user biases", map_scale=0.5)
ITEM_BIAS = Bias("c", "items", "item biases", map_scale=0.5)
USER_NOISE = LogNoise("s", "users", "log noise of users")
ITEM_NOISE = LogNoise("t", "items", "log noise of items")


def terms_of(model: Any) -> Terms:
    """Return the terms of a model; no terms for a Pyro model without that attribute."""
    return getattr(model, "terms", Terms())


class TermSampler:
    """Sample the terms of the model that is running, each at its site and in its plate.

    Parameters
    ----------
    terms : Terms
        The terms of the model. Sites of other terms are not sampled.
    priors : Priors
        Priors of the scalar parameters.
    n_factors : int
        Number of entries of each row of factors.
    pairs : Pairs
        The pairs to score. They set the numbers of users and items, the type and the device.
    """

    def __init__(self, terms: Terms, priors: Priors, n_factors: int, pairs: Pairs) -> None:
        self._terms, self._priors, self._pairs = terms, priors, pairs
        self._n_factors = n_factors
        self.zero = torch.zeros((), dtype=pairs.dtype, device=pairs.device)
        self._origin = self.zero.expand(n_factors)
        self._sizes: dict[Plate, int] = {"users": pairs.n_users, "items": pairs.n_items}

    def scalar(self, name: str) -> Tensor:
        """Sample a scalar parameter at the site ``name``, from its prior."""
        return self._scalar(name, self.zero)

    def own(self, likelihood: Likelihood) -> dict[str, Tensor]:
        """Sample the latents that only the likelihood has."""
        return likelihood.latents(self.zero)

    def factor_scales(self) -> Tensor | None:
        """Sample tau, the scale of each factor, or return None if the model has no factors.

        Returns
        -------
        Tensor, shape (..., n_factors), or None
        """
        if self._terms.factors is None:
            return None
        return self._scalar(TAU, self._origin)

    def scale(self, site: str) -> Tensor | None:
        """Sample the standard deviation of a term, or return None if the model lacks the term."""
        term = self._terms.of_site(site)
        return None if term is None else self.scalar(term.scale)

    def rows(
        self,
        site: str,
        sd: Tensor | None,
        tau: Tensor | None = None,
        means: tuple[Tensor | None, ...] = (),
    ) -> Tensor | None:
        """Sample the rows of a term from Normal(sum of means, sd^2 T^2), T = diag(tau).

        Parameters
        ----------
        site : str
            Site of the term.
        sd : Tensor, or None
            Standard deviation of the rows.
        tau : Tensor, shape (..., n_factors), optional
            Scale of each factor; 1 by default.
        means : tuple of (Tensor or None)
            Parts of the mean of each row, of shapes that expand to all rows; None stands for 0.

        Returns
        -------
        Tensor, shape (..., n_rows, n_factors) or (..., n_rows), or None
            None if the model lacks the term, or ``sd`` is None.
        """
        term = self._terms.of_site(site)
        if term is None or sd is None:
            return None
        parts = [part for part in means if part is not None]
        origin = self._origin if term.is_vector else self.zero
        loc = sum(parts[1:], start=parts[0]) if parts else origin
        scale = _scale_of_factors(sd, tau) if term.is_vector else sd
        return self._row_values(term, self._normal(loc, scale))

    def mean(self, site: str, sd: Tensor | None, tau: Tensor | None = None) -> Tensor | None:
        """Sample the mean of all rows of factors from Normal(0, sd^2 T^2), T = diag(tau).

        Parameters
        ----------
        site : str
            Site of the factors.
        sd, tau : Tensor, or None
            As for `rows`.

        Returns
        -------
        Tensor, shape (..., n_factors), or None
            None if the model has no factors.
        """
        term = self._terms.of_site(site)
        if not isinstance(term, Factor) or sd is None:
            return None
        return self._mean_value(term, self._normal(self._origin, _scale_of_factors(sd, tau)))

    @cached_property
    def _plates(self) -> dict[Plate, Any]:
        return {name: pyro.plate(name, size, dim=-1) for name, size in self._sizes.items()}

    def _scalar(self, name: str, like: Tensor) -> Tensor:
        return self._priors.of(name, self._n_factors).draw(name, like)

    def _normal(self, loc: Tensor, scale: Tensor) -> dist.Normal:
        return dist.Normal(loc, scale)

    def _mean_value(self, term: Factor, prior: dist.Normal) -> Tensor:
        return pyro.sample(term.mean, prior.to_event(1))

    def _row_values(self, term: Term, prior: dist.Normal) -> Tensor:
        with self._plates[term.plate]:
            return pyro.sample(term.site, prior.to_event(1) if term.is_vector else prior)

    def at_pairs(
        self, U: Tensor | None, V: Tensor | None, b: Tensor | None, c: Tensor | None
    ) -> Tensor:
        """Return U_i . V_j + b_i + c_j at each pair, without the terms that are None.

        Parameters
        ----------
        U : Tensor, shape (..., n_users, n_factors), or None
            Factors of users.
        V : Tensor, shape (..., n_items, n_factors), or None
            Factors of items.
        b : Tensor, shape (..., n_users), or None
            Biases, or log noise, of users.
        c : Tensor, shape (..., n_items), or None
            Biases, or log noise, of items.

        Returns
        -------
        Tensor, shape (..., n_pairs)
        """
        pairs = self._pairs
        no_U, no_V = self.zero.expand(pairs.n_users, 0), self.zero.expand(pairs.n_items, 0)
        return dot(no_U if U is None else U, no_V if V is None else V, pairs.pattern, b, c)


def _scale_of_factors(sd: Tensor, tau: Tensor | None) -> Tensor:
    """Return the standard deviation of each entry of a row of factors."""
    return sd[..., None] if tau is None else sd[..., None] * tau
