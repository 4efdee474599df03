"""Initial values of a guide that an earlier fit has learnt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_pmf.data.ratings import Ratings
from pyro_pmf.inference.variational.guides import NormalGuide
from pyro_pmf.model.learned import Learned
from pyro_pmf.model.terms import terms_of
from pyro_pmf.moments.gaussian import Gaussian, LogGaussian, Value

Initial = Callable[[dict[str, Any]], Tensor]


class WarmStart:
    """Initial values and standard deviations of the sites of a guide, from an earlier fit.

    Rows are found by the ids of their users and items. Rows that the earlier fit lacks, and sites
    that it lacks or has in another shape, begin as they do without it. Of draws, the last one is
    taken: an average over draws whose factors are rotated means nothing.

    Parameters
    ----------
    learned : Learned
        Result of the earlier fit.
    ratings : Ratings
        The ratings of the fit that begins.
    otherwise : callable
        Initial value of a site without an earlier one.
    """

    def __init__(self, learned: Learned, ratings: Ratings, otherwise: Initial) -> None:
        self._otherwise, self._like = otherwise, ratings
        before = learned.ratings
        place = {
            "users": torch.from_numpy(before.user_ids.get_indexer(ratings.user_ids).copy()),
            "items": torch.from_numpy(before.item_ids.get_indexer(ratings.item_ids).copy()),
        }
        self._place = {term.site: place[term.plate] for term in terms_of(learned.model)}
        self._latents = dict(learned.latents)
        if learned.n_draws is not None:
            self._latents = {
                name: draws[-1]
                for name, draws in learned.latents.items()
                if isinstance(draws, Tensor)
            }

    def value(self, site: dict[str, Any]) -> Tensor:
        """Return the initial value of a site.

        Parameters
        ----------
        site : dict
            Pyro's site, with its prior under "fn".
        """
        initial = self._otherwise(site)
        value = self._latents.get(site["name"])
        return initial if value is None else self._rows(site["name"], _centre(value), initial)

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
