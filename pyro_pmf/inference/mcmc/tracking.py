"""Running moments of the predictions of given pairs, over all draws of a chain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from pyro_pmf.data.frames import IntoFrame
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.data.ratings import Ratings, as_frame
from pyro_pmf.errors import FitError
from pyro_pmf.model.running import run


class Tracker:
    """Sums of the predictive moments of some pairs, one draw after the other.

    Parameters
    ----------
    model : callable
        The Pyro model.
    ratings : Ratings
        The training ratings, on the device of the fit.
    history : Pairs or None
        All pairs with I_ij = 1; None if these are the training pairs.
    pairs : Ratings or pandas.DataFrame
        The pairs, by id.

    Raises
    ------
    FitError
        If a pair has a user or an item without training ratings.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        ratings: Ratings,
        history: Pairs | None,
        pairs: Ratings | IntoFrame,
    ) -> None:
        pairs = ratings.as_pairs(pairs)
        user, item = ratings.locate(pairs)
        if bool((user < 0).any()) or bool((item < 0).any()):
            raise FitError(
                "Some pairs of track have a user or an item without training ratings: leave these "
                "pairs out, and ask posterior.predict for them."
            )
        self.order = torch.argsort(user, stable=True)
        user, item = (x[self.order].to(ratings.device) for x in (user, item))
        self._pairs = Pairs(user, item, ratings.n_users, ratings.n_items, dtype=ratings.dtype)
        self._model, self._history = model, ratings if history is None else history
        self.ratings, self.pairs = ratings, pairs
        self.n_draws = 0
        self.first = torch.zeros(len(user), dtype=torch.float64, device=ratings.device)
        self.second = torch.zeros_like(self.first)

    def add(self, draw: Mapping[str, Tensor]) -> None:
        """Add one draw of the latents, by site."""
        fn = run(self._model, draw, self._pairs, self._history)["rating"]["fn"]
        transform = self.ratings.transform
        mean, var = transform.mean(fn).double(), transform.variance(fn).double()
        self.first += mean
        self.second += var + mean.square()
        self.n_draws += 1

    def present_state(self) -> dict[str, Any]:
        """Return the sums, which the next draw changes."""
        return {"n_draws": self.n_draws, "first": self.first, "second": self.second}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a result of `present_state` for the same pairs."""
        self.n_draws = state["n_draws"]
        self.first, self.second = state["first"].clone(), state["second"].clone()


def tracked(tracker: Tracker, sums: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return mean and sd of the rating of each pair, in rating units, over all chains.

    Parameters
    ----------
    tracker : Tracker
        A tracker of the pairs.
    sums : sequence of mapping
        The sums of each chain: results of `Tracker.present_state`.

    Returns
    -------
    pandas.DataFrame
        The columns user, item, mean and sd, with the index of the caller's table.
    """
    n_draws = sum(each["n_draws"] for each in sums)
    first = torch.stack([each["first"] for each in sums]).sum(0) / n_draws
    second = torch.stack([each["second"] for each in sums]).sum(0) / n_draws
    transform = tracker.ratings.transform
    columns = {
        "mean": transform.origin + transform.width * first,
        "sd": transform.width * (second - first.square()).clamp(min=0).sqrt(),
    }
    frame = as_frame(tracker.pairs)
    table = pd.DataFrame({"user": frame["user"], "item": frame["item"]}, index=frame.index)
    for name, values in columns.items():
        in_order = torch.empty_like(values, device="cpu")
        in_order[tracker.order] = values.cpu()
        table[name] = in_order.numpy()
    return table
