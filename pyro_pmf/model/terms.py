"""The terms of a model, each said once: its site, its scale, its plate, its part in the score.

A term is a Normal site with one row a user or an item, x_i ~ Normal(m_i, sigma_x^2 I). Inference,
predictions and figures ask the terms of a model and know no site by name, so that a new term is
stated here, in `pmf`, which adds it to the score, and in `priors`, which has its scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.model.priors import Priors
from pyro_pmf.moments.bilinear import dot

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
        What a row belongs to.
    label : str
        The term in words, for figures.
    vi_scale, map_scale : float, optional
        Where variational inference, and MAP, hold the standard deviation, in the units of `unit`.
        A standard deviation without such a value is learnt.
    has_mean : bool
        Whether the means m_i are made of other latents; they are 0 otherwise.

    Attributes
    ----------
    is_vector : bool
        Whether a row has ``n_factors`` entries; it is one number otherwise.
    has_ratings : bool
        Whether the ratings of a row tell about this row by itself.
    in_score : bool
        Whether the term is a part of the score by itself.
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
        """Name of the site of the standard deviation."""
        return f"sigma_{self.site}"

    def effect(self, latents: Mapping[str, Moments]) -> Moments:
        """Return what the term adds to the score of each row, averaged over the other side.

        Only terms with ``in_score`` have it.

        Parameters
        ----------
        latents : mapping of str to (Tensor, Tensor)
            Mean and variance of each latent site.

        Returns
        -------
        (Tensor, Tensor)
            Mean and variance, each of shape (n_rows,), on the scale of the score.
        """
        raise NotImplementedError(f"{self.site} is no part of the score by itself")

    def unit(self, noise_sd: float) -> float:
        """Return the unit of ``vi_scale`` and ``map_scale``, from the noise on the score's scale.

        Products of two terms are measured in noise, so each is measured in its square root.
        """
        return noise_sd**0.5


@dataclass(frozen=True)
class Bias(Term):
    """A bias: the score has + b_i."""

    def effect(self, latents: Mapping[str, Moments]) -> Moments:
        """Return the moments of the bias itself."""
        return latents[self.site]

    def unit(self, noise_sd: float) -> float:
        """Return the noise itself."""
        return noise_sd


@dataclass(frozen=True)
class Factor(Term):
    """Factors of one side: the score has + U_i . V_j, with the factors of the other side.

    Parameters
    ----------
    partner : str
        Site of the other side's factors.
    """

    partner: str = ""
    is_vector: ClassVar[bool] = True

    def effect(self, latents: Mapping[str, Moments]) -> Moments:
        """Return the moments of U_i . mean_j(V_j).

        The mean of all V_j is taken as known, since it varies little beside one row's factors.
        """
        average = latents[self.partner][0].mean(0)
        mean, var = latents[self.site]
        return mean @ average, var @ average**2


@dataclass(frozen=True)
class SumOverSeen(Term):
    """Effects that sum up to the means of factors: m_i = sum_j I_ij W_j / d(n_i).

    Parameters
    ----------
    factor : str
        Site of the factors whose means these are. Its plate is the other one.
    """

    factor: str = ""
    is_vector: ClassVar[bool] = True
    has_ratings: ClassVar[bool] = False  # many of them make up one row, and none is known alone
    in_score: ClassVar[bool] = False


@dataclass(frozen=True)
class LogNoise(Term):
    """Noise of a row's own: the noise of a rating has the factor exp(s_i)."""

    in_score: ClassVar[bool] = False


class Terms(tuple[Term, ...]):
    """The terms of one model."""

    def of_site(self, site: str) -> Term | None:
        """Return the term of a site, or None if the model does not have it."""
        return next((term for term in self if term.site == site), None)

    @property
    def factors(self) -> tuple[Factor, Factor] | None:
        """The factors of both sides, users first, or None if the model has none."""
        found = {term.plate: term for term in self if isinstance(term, Factor)}
        return (found["users"], found["items"]) if len(found) == 2 else None

    @property
    def noise(self) -> list[LogNoise]:
        """The terms of the noise."""
        return [term for term in self if isinstance(term, LogNoise)]

    @property
    def factor_scales(self) -> dict[str, list[str]]:
        """Scales of both sides of the product U_i . V_j, by the site of the factors.

        Ratings identify only products of one scale of each side: multiplying all scales of one
        and dividing all of the other by a number changes no score.
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
        """Scales that variational inference holds, those that are chosen together in one list."""
        of_factors = [term.scale for term in self if isinstance(term, Factor)]
        others = [
            [term.scale]
            for term in self
            if term.vi_scale is not None and term.scale not in of_factors
        ]
        return [of_factors, *others] if of_factors else others


def user_factors(hierarchical: bool) -> Factor:
    """Return the term U."""
    return Factor(
        "U", "users", "user factors", 0.25 if hierarchical else 0.3, 0.25, hierarchical, "V"
    )


def item_factors(hierarchical: bool) -> Factor:
    """Return the term V."""
    return Factor(
        "V", "items", "item factors", 0.25 if hierarchical else 0.3, 0.25, hierarchical, "U"
    )


HAVING_RATED = SumOverSeen("W", "items", "effect of having rated an item", 0.2, 0.15, factor="U")
BEING_RATED = SumOverSeen("Z", "users", "effect of being rated by a user", 0.2, 0.15, factor="V")
USER_BIAS = Bias("b", "users", "user biases", map_scale=0.5)
ITEM_BIAS = Bias("c", "items", "item biases", map_scale=0.5)
USER_NOISE = LogNoise("s", "users", "log noise of users")
ITEM_NOISE = LogNoise("t", "items", "log noise of items")


def terms_of(model: Any) -> Terms:
    """Return the terms of a model; none for a Pyro model that does not state any."""
    return getattr(model, "terms", Terms())


class TermSampler:
    """Samples the terms of a model that is running, each at its site and in its plate.

    Parameters
    ----------
    terms : Terms
        Sites that are not among them are not sampled.
    priors : Priors
    n_factors : int
    pairs : Pairs
        Says how many users and items there are, and the type of all numbers.
    """

    def __init__(self, terms: Terms, priors: Priors, n_factors: int, pairs: Pairs) -> None:
        self._terms, self._priors, self._pairs = terms, priors, pairs
        self.zero = torch.zeros((), dtype=pairs.dtype, device=pairs.device)
        self._origin = self.zero.expand(n_factors)
        sizes: Iterable[tuple[Plate, int]] = ("users", pairs.n_users), ("items", pairs.n_items)
        self._plates = {name: pyro.plate(name, size, dim=-1) for name, size in sizes}

    def scalar(self, name: str) -> Tensor:
        """Sample a parameter that is one number."""
        return getattr(self._priors, name).draw(name, self.zero)

    def scale(self, site: str) -> Tensor | None:
        """Sample the standard deviation of a term, or return None if the model lacks the term."""
        term = self._terms.of_site(site)
        return None if term is None else self.scalar(term.scale)

    def rows(self, site: str, sd: Tensor | None, mean: Tensor | None = None) -> Tensor | None:
        """Sample Normal(mean, sd^2 I), one row a user or an item; None if the model lacks it."""
        term = self._terms.of_site(site)
        if term is None or sd is None:
            return None
        with self._plates[term.plate]:
            if not term.is_vector:
                return pyro.sample(site, dist.Normal(self.zero if mean is None else mean, sd))
            loc = self._origin if mean is None else mean
            return pyro.sample(site, dist.Normal(loc, sd[..., None]).to_event(1))

    def at_pairs(
        self, U: Tensor | None, V: Tensor | None, b: Tensor | None, c: Tensor | None
    ) -> Tensor:
        """Return U_i . V_j + b_i + c_j at each pair; what is None is left out."""
        pairs = self._pairs
        no_U, no_V = self.zero.expand(pairs.n_users, 0), self.zero.expand(pairs.n_items, 0)
        return dot(no_U if U is None else U, no_V if V is None else V, pairs.pattern, b, c)
