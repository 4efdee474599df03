"""Items and users that are alike, by what ratings identify of their factors.

U A and V A^-T have the same U V^T for every invertible A, so a cosine of rows of V means nothing
by itself. The predicted contributions U V_j of an item to the scores of all users do not depend on
A. Their cosine is V_j' S V_k / sqrt(V_j' S V_j  V_k' S V_k), where S averages U_i U_i' over users,
weighted by their numbers of ratings.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyro_pmf.arguments import require_integer, require_seed
from pyro_pmf.data.frames import IntoFrame, column_names, is_frame, to_pandas
from pyro_pmf.data.ratings import Ratings
from pyro_pmf.errors import PMFError, RatingsError
from pyro_pmf.model.learned import Learned
from pyro_pmf.model.terms import terms_of
from pyro_pmf.moments.gaussian import Uncertain
from pyro_pmf.prediction.choosing import rows_of
from pyro_pmf.random_state import isolated_random_state

Titles = Mapping[Any, Any] | pd.Series | IntoFrame
_DRAWS = 200  # of a closed form; the error of a mean is a fourteenth of the sd


def similar(
    learned: Learned,
    of: Literal["user", "item"],
    ids: Hashable | Iterable[Hashable],
    n: int = 10,
    titles: Titles | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the users or items whose factors are most alike.

    Parameters
    ----------
    learned : Learned
        Result of a fit.
    of : {"user", "item"}
        Side that is compared.
    ids, n, titles, seed
        As for `Posterior.similar_items`.

    Returns
    -------
    pandas.DataFrame
        The table of `Posterior.similar_items`, with the column ``user`` or ``item``.

    Raises
    ------
    RatingsError, PMFError
        As for `Posterior.similar_items`.
    """
    require_integer("n", n)
    require_seed(seed)
    train = learned.ratings
    known = train.user_ids if of == "user" else train.item_ids
    counts = train.user_counts if of == "user" else train.item_counts
    index = rows_of(known, ids, of)
    names = None if titles is None else _titles(titles, of, learned.ratings)
    with isolated_random_state(seed):
        mean, sd = _cosines(learned, of, index)
    others = mean.clone()
    others[torch.arange(len(index)), index] = -torch.inf
    n = min(n, len(known) - 1)
    best = torch.argsort(others, dim=1, descending=True, stable=True)[:, :n]
    flat = best.flatten().numpy()
    columns: dict[str, Any] = {
        of: known.take(index.numpy()).repeat(n),
        "rank": np.tile(np.arange(1, n + 1), len(index)),
        "similar": known.take(flat),
    }
    if names is not None:
        columns["title"] = names.reindex(columns["similar"]).to_numpy()
    columns |= {
        "cosine": mean.gather(1, best).flatten().numpy(),
        "sd": sd.gather(1, best).flatten().numpy(),
        "n_ratings": counts.numpy()[flat],
    }
    return pd.DataFrame(columns)


def _cosines(learned: Learned, of: str, index: Tensor) -> tuple[Tensor, Tensor]:
    """Return posterior mean and sd of the cosine of some rows with all rows, float64.

    Both have shape (n_wanted, n_rows).
    """
    n, total, square = 0, torch.zeros(()), torch.zeros(())
    for ours, theirs, weights in _factors(learned, of):
        metric = torch.einsum("nk,n,nl->kl", theirs, weights, theirs)
        gram = (ours @ metric * ours).sum(1).clamp(min=0).sqrt()
        unit = ours / gram[:, None].clamp(min=torch.finfo(gram.dtype).tiny)
        cosine = (unit[index] @ metric @ unit.T).clamp(-1, 1)
        n, total, square = n + 1, total + cosine, square + cosine**2
    mean = total / n
    return mean, (square / n - mean**2).clamp(min=0).sqrt()


def _factors(learned: Learned, of: str) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Iterate over draws of this side's factors, the other side's, and the weights of the other's.

    Factors are float64, of shape (n_rows, n_factors).
    """
    factors = terms_of(learned.model).factors
    if factors is None:
        raise PMFError("The model states no factors: give a PMF with n_factors of at least 1.")
    user, item = (learned.latents[factor.site] for factor in factors)
    ours, theirs = (user, item) if of == "user" else (item, user)
    train = learned.ratings
    counts = (train.item_counts if of == "user" else train.user_counts).double()
    weights = counts / counts.sum()
    if learned.n_draws is not None:
        for one, other in zip(ours, theirs, strict=True):
            yield one.double(), other.double(), weights
        return
    known = all(isinstance(x, Tensor) or not bool(x.var.any()) for x in (ours, theirs))
    for _ in range(1 if known else _DRAWS):
        drawn = [x.draw() if isinstance(x, Uncertain) else x for x in (ours, theirs)]
        yield drawn[0].double(), drawn[1].double(), weights


def _titles(titles: Any, of: str, train: Ratings) -> pd.Series:
    """Return titles by id, each id once."""
    known, own = (train.item_ids if of == "item" else train.user_ids), getattr(train.columns, of)
    if is_frame(titles):
        names = dict.fromkeys((of, own, "title"))
        titles = to_pandas(titles, [x for x in names if x in column_names(titles)])
    if isinstance(titles, pd.DataFrame):
        if "title" not in titles:
            raise RatingsError(
                f"titles needs a column 'title', and a column {of!r} or the ids as its index; its "
                f"columns are {list(titles.columns)}: rename one."
            )
        ids = next((x for x in (of, own) if x in titles), None)
        titles = titles["title"] if ids is None else titles.set_index(ids)["title"]
    elif isinstance(titles, Mapping):
        titles = pd.Series(dict(titles), dtype=object)
    elif not isinstance(titles, pd.Series):
        raise RatingsError(
            f"titles must map ids to titles, not be a {type(titles).__name__}: give a dict, a "
            "Series whose index are ids, or a DataFrame."
        )
    is_numbered = isinstance(titles.index, pd.RangeIndex) and not known.isin(titles.index).all()
    if is_numbered or not titles.index.isin(known).any():
        raise RatingsError(
            f"titles must have the ids of {of}s, such as {known[0]!r}, in a column {own!r} or as "
            f"their index, and are by {titles.index[:3].tolist()}: give these ids."
        )
    return titles[~titles.index.duplicated()]
