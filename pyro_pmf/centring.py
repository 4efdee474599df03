"""Where the rows of a hierarchical model stand between centred and non-centred."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
from pyro.infer.reparam.reparam import Reparam
from torch import Tensor

from pyro_pmf.models import PMF
from pyro_pmf.pairs import Pairs

_HALF_CENTRED = 100.0  # ratings: those of a row weigh as much as its prior at about this many


class PartlyCentred(Reparam):
    """Reparametrize rows x ~ Normal(m, s^2) as x = y + (1 - c) m, y ~ Normal(c m, s^2).

    A mean-field guide holds y and m to be independent. For c = 1 (centred) that suits a row which
    its ratings determine, whatever its prior mean m; for c = 0 (non-centred) one that follows m.
    In between, c = r / (r + 1 / s^2) is right for a row of which the ratings say as much as a
    Normal of precision r (Papaspiliopoulos, Roberts & Skold, A general framework for the
    parametrization of hierarchical models, Statistical Science 2007).

    Parameters
    ----------
    centredness : Tensor, shape (n_rows,)
        c of each row, from 0 to 1.
    """

    def __init__(self, centredness: Tensor) -> None:
        self.centredness = centredness

    def apply(self, msg: dict[str, Any]) -> dict[str, Any]:
        """Replace the site by a new one, its name followed by ``_shifted``."""
        normal, event_dim = self._unwrap(msg["fn"])
        c = self.centredness[:, None]
        shift = normal.loc * (1 - c)
        initial = msg["value"]  # is there while a guide looks for where to begin
        y = pyro.sample(
            f"{msg['name']}_shifted",
            dist.Normal(normal.loc * c, normal.scale).to_event(event_dim),
            obs=None if initial is None else initial - shift,
            infer={"is_observed": msg["is_observed"]},
        )
        value = y + shift if initial is None else initial
        fn = dist.Delta(value, event_dim=event_dim).mask(False)
        return {"fn": fn, "value": value, "is_observed": True}


def centring(model: PMF, ratings: Pairs) -> dict[str, Reparam]:
    """Return how each hierarchical site of a model is best reparametrized, given its ratings."""
    config = {}
    for site, rows, counts in (
        ("U", model.users, ratings.user_counts),
        ("V", model.items, ratings.item_counts),
    ):
        if rows == "hierarchical" and model.n_factors:
            n = counts.to(ratings.dtype)
            config[site] = PartlyCentred(n / (n + _HALF_CENTRED))
    return config
