"""Initial values of a guide from an earlier fit, or from a draw."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self, cast

import torch
from torch import Tensor

from pyro_pmf.data.ratings import Ratings
from pyro_pmf.inference.initialization import is_positive
from pyro_pmf.inference.variational.guides import NormalGuide
from pyro_pmf.model.learned import Learned
from pyro_pmf.model.terms import Terms
from pyro_pmf.moments.gaussian import Gaussian, LogGaussian, Value

_LEAST = 0.01  # of a usual initial scale; a draw of a scale may be zero in single precision

Initial = Callable[[dict[str, Any]], Tensor]


@dataclass(frozen=True)
class Start:
    """Latents at which a fit begins.

    Attributes
    ----------
    latents : mapping of str to Gaussian, LogGaussian or Tensor
        By site.
    users, items : Tensor, shapes (n_users,) and (n_items,)
        The row in ``latents`` of each user and of each item of the fit, or -1.
    """

    latents: Mapping[str, Value]
    users: Tensor
    items: Tensor

    @classmethod
    def at(cls, latents: Mapping[str, Value], of: Ratings, ratings: Ratings) -> Self:
        """Return the start at latents of other ratings; users and items are found by their ids.

        Parameters
        ----------
        latents : mapping of str to Gaussian, LogGaussian or Tensor
            By site.
        of : Ratings
            The ratings whose users and items have rows in ``latents``.
        ratings : Ratings
            The ratings of the fit that begins.
        """
        users, items = (
            torch.from_numpy(before.get_indexer(now).copy())
            for before, now in (
                (of.user_ids, ratings.user_ids),
                (of.item_ids, ratings.item_ids),
            )
        )
        return cls(latents, users, items)

    @classmethod
    def after(cls, learned: Learned, ratings: Ratings) -> Self:
        """Return the start at the result of an earlier fit.

        Of draws, it is the last one: an average over draws whose factors are rotated means
        nothing.

        Parameters
        ----------
        learned : Learned
            Result of the earlier fit.
        ratings : Ratings
            The ratings of the fit that begins.
        """
        latents = learned.latents
        if learned.n_draws is not None:
            latents = {name: x[-1] for name, x in latents.items() if isinstance(x, Tensor)}
        return cls.at(latents, learned.ratings, ratings)

    def with_tau(self, terms: Terms, held: Tensor, typical: Tensor) -> Self:
        """Return the start with its factors made weaker, in all rows, where tau is to be smaller.

        Parameters
        ----------
        terms : Terms
            Terms of the model.
        held : Tensor, shape (n_factors,)
            The values of tau that the fit holds.
        typical : Tensor, shape (n_factors,)
            Those that the latents come from; they may be zero.
        """
        share = (held / typical).nan_to_num(1.0).clamp(max=1.0)
        sites = {term.site for term in terms if term.is_vector}
        sites |= {factor.mean for factor in terms.factors or ()}
        weaker = {
            name: cast(Tensor, self.latents[name]) * share for name in sites & {*self.latents}
        }
        return replace(self, latents={**self.latents, **weaker})

    def of_one_side(self) -> Self:
        """Return the start of the items, or of the users if these are fewer.

        The fewer rows have more ratings each. A row of the other side follows from them.
        """
        if len(self.users) < len(self.items):
            return replace(self, items=torch.full_like(self.items, -1))
        return self.of_strangers(len(self.users))

    def of_users(self, first: int, last: int) -> Self:
        """Return the start of the users from ``first`` on, before ``last``."""
        return replace(self, users=self.users[first:last])

    def of_strangers(self, n_users: int) -> Self:
        """Return the start of so many users, none of whom has a row in ``latents``."""
        return replace(self, users=torch.full((n_users,), -1))


class WarmStart:
    """Initial values and standard deviations of the sites of a guide, from a `Start`.

    Rows that the start lacks, and sites that it lacks or has in another shape, begin as they do
    without it.

    Parameters
    ----------
    start : Start
        Where the fit begins.
    terms : Terms
        Terms of the model, which say what has rows of users and of items.
    otherwise : callable
        Initial value of a site without an earlier one.
    """

    def __init__(self, start: Start, terms: Terms, otherwise: Initial) -> None:
        self._otherwise, self._latents = otherwise, start.latents
        place = {"users": start.users, "items": start.items}
        self._place = {term.site: place[term.plate] for term in terms}

    def value(self, site: dict[str, Any]) -> Tensor:
        """Return the initial value of a site.

        Parameters
        ----------
        site : dict
            Pyro's site, with its prior under "fn".
        """
        initial = self._otherwise(site)
        value = self._latents.get(site["name"])
        if value is None:
            return initial
        start = self._rows(site["name"], _centre(value), initial)
        return start.maximum(_LEAST * initial) if is_positive(site["fn"].support) else start

    def set_scales(self, guide: NormalGuide) -> None:
        """Set the standard deviations of a guide, in unconstrained space.

        Parameters
        ----------
        guide : NormalGuide
            The guide, whose parameters exist.
        """
        for name, _ in guide.sites():
            site = name.removesuffix("_shifted")  # of a site that was reparametrized
            value = self._latents.get(site)
            var = value.var if isinstance(value, Gaussian) else None
            if isinstance(value, LogGaussian):
                var = value.log_var
            if var is None or not bool((var > 0).all()):
                continue
            old = guide.loc_and_scale(name)[1].detach()
            guide.set_scale(name, self._rows(site, var.sqrt(), old), guide.scale_constraint)

    def _rows(self, site: str, earlier: Tensor, initial: Tensor) -> Tensor:
        """Return rows of an earlier value where there are any, else initial ones."""
        earlier = earlier.to(initial)
        place = self._place.get(site)
        if place is None:
            return earlier if earlier.shape == initial.shape else initial
        if earlier.shape[1:] != initial.shape[1:]:
            return initial
        place = place.to(initial.device)
        known = (place >= 0).view(-1, *[1] * (initial.dim() - 1))
        return torch.where(known, earlier[place.clamp(min=0)], initial)


def _centre(value: Value) -> Tensor:
    if isinstance(value, LogGaussian):
        return value.log_mean.exp()
    return value if isinstance(value, Tensor) else value.mean
