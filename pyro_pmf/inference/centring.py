"""Partly centred parametrizations of the rows of a model, for inference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.reparam.reparam import Reparam
from torch import Tensor

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.model.terms import terms_of
from pyro_pmf.moments.expectations import unwrapped

_HALF_CENTRED = 100.0  # at about this many ratings, a row's data weigh as much as its prior


class PartlyCentred(Reparam):
    """Reparametrize rows x ~ Normal(m, s^2 I) as x = y + (1 - c) m, y ~ Normal(c m, s^2 I).

    A mean-field guide assumes that y and m are independent. With c = 1 (centred), this suits a row
    that its ratings determine, for any prior mean m. With c = 0 (non-centred), it suits a row
    that follows m. In between, c = r / (r + 1 / s^2) is right for a row whose ratings are as
    informative as a Normal of precision r (Papaspiliopoulos, Roberts & Skold, A general framework
    for the parametrization of hierarchical models, Statistical Science 2007).

    Parameters
    ----------
    centredness : Tensor, shape (n_rows,)
        c of each row, from 0 to 1.
    scales : bool
        Whether to reparametrize s in the same way, for a sampler that treats s as a latent: x = m
        + s^(1 - c) (y - c m), y ~ Normal(c m, s^(2 c) I).
    """

    def __init__(self, centredness: Tensor, scales: bool = False) -> None:
        self.centredness, self.scales = centredness, scales

    def apply(self, msg: dict[str, Any]) -> dict[str, Any]:
        """Replace the site by a new one, its name followed by ``_shifted``.

        Parameters
        ----------
        msg : dict
            Pyro's message of a Normal site.

        Returns
        -------
        dict
            Distribution, value and status of the replaced site, which becomes deterministic.
        """
        normal, event_dim = unwrapped(msg["fn"]), msg["fn"].event_dim
        c = self.centredness[..., None] if event_dim else self.centredness
        initial = msg["value"]  # set only while a guide looks for initial values
        scale, stretch = normal.scale, None
        if self.scales:
            scale, stretch = scale**c, scale ** (1 - c)
        mean, shift = normal.loc * c, normal.loc * (1 - c)
        start = None
        if initial is not None:
            start = initial - shift if stretch is None else (initial - normal.loc) / stretch + mean
        y = pyro.sample(
            f"{msg['name']}_shifted",
            dist.Normal(mean, scale).to_event(event_dim),
            obs=start,
            infer={"is_observed": msg["is_observed"]},
        )
        value = initial
        if initial is None:
            value = y + shift if stretch is None else normal.loc + (y - mean) * stretch
        fn = dist.Delta(value, event_dim=event_dim).mask(False)
        return {"fn": fn, "value": value, "is_observed": True}


def centring(model: Callable[..., Any], ratings: Pairs) -> dict[str, Reparam]:
    """Return the reparametrization of each site with a prior mean, for a mean-field guide.

    Parameters
    ----------
    model : callable
        A `PMF`, or any Pyro model; none of its sites is reparametrized if it states no terms.
    ratings : Pairs
        The training ratings; only their pairs are used.

    Returns
    -------
    dict of str to Reparam
        Reparametrizations by site.
    """
    c = _centredness(ratings)
    return {term.site: PartlyCentred(c[term.plate]) for term in terms_of(model) if term.has_mean}


def centring_for_sampling(model: Callable[..., Any], ratings: Pairs) -> dict[str, Reparam]:
    """Return the reparametrization of each term of a model, for a sampler.

    Parameters
    ----------
    model : callable
        A `PMF`, or any Pyro model; none of its sites is reparametrized if it states no terms.
    ratings : Pairs
        The training ratings; only their pairs are used.

    Returns
    -------
    dict of str to Reparam
        Reparametrizations by site.
    """
    c = _centredness(ratings)
    return {
        term.site: PartlyCentred(
            c[term.plate] if term.has_ratings else torch.zeros_like(c[term.plate]), scales=True
        )
        for term in terms_of(model)
    }


def _centredness(ratings: Pairs) -> dict[str, Tensor]:
    """Return c of each user and of each item, by plate."""
    counts = {"users": ratings.user_counts, "items": ratings.item_counts}
    rows = {plate: n.to(ratings.dtype) for plate, n in counts.items()}
    return {plate: n / (n + _HALF_CENTRED) for plate, n in rows.items()}
