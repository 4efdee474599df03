"""Posterior effects of users, items and factors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd
import torch
from scipy.sparse.linalg import LinearOperator, svds
from scipy.special import ndtri
from torch import Tensor

from pyro_pmf.arguments import require_probability
from pyro_pmf.errors import PMFError
from pyro_pmf.model.learned import Learned
from pyro_pmf.model.terms import Moments, Term, terms_of
from pyro_pmf.moments.gaussian import Value

_DEAD = 0.01  # a factor below this share of the strongest one is dead
_NOTHING = 1e-3  # a factor below this changes no prediction; on the scale of the score


def effects(learned: Learned, of: Literal["user", "item"], interval: float = 0.9) -> pd.DataFrame:
    """Return mean, sd and interval of each user's or item's average score.

    See `Posterior.user_effects` and `Posterior.item_effects` for the table.

    Parameters
    ----------
    learned : Learned
        Result of a fit.
    of : {"user", "item"}
        Side of the effects.
    interval : float
        Probability of the central interval.

    Returns
    -------
    pandas.DataFrame
        One row per user or item, the highest mean first.

    Raises
    ------
    PMFError
        If the model has neither biases nor factors of this side, or ``interval`` is not inside (0,
        1).
    """
    require_probability("interval", interval)
    tail, train = [(1 - interval) / 2, (1 + interval) / 2], learned.ratings
    own = [term for term in terms_of(learned.model) if term.plate == f"{of}s" and term.in_score]
    if not own:
        raise PMFError(
            f"The model states no {of} biases and no factors: give a PMF that has either, or a "
            "model with terms as in PMF.terms."
        )
    if learned.n_draws is None:
        mean, var = _effect(own, learned.latents)
        sd = var.sqrt()
        lower, upper = (mean + q * sd for q in ndtri(tail))
    else:
        draws = torch.stack([_effect(own, draw)[0] for draw in learned.draws()])
        mean, sd = draws.mean(0), draws.std(0)
        lower, upper = draws.quantile(torch.tensor(tail, dtype=draws.dtype), 0)
    counts = train.user_counts if of == "user" else train.item_counts
    columns = {"mean": mean, "sd": sd, "lower": lower, "upper": upper, "n_ratings": counts}
    ids = train.user_ids if of == "user" else train.item_ids
    table = pd.DataFrame({name: x.numpy() for name, x in columns.items()})
    table.insert(0, of, ids)
    return table.sort_values("mean", ascending=False, ignore_index=True)


def _effect(terms: list[Term], latents: Mapping[str, Value]) -> Moments:
    """Sum the contributions of one side's terms to the score, averaged over the other side."""
    moments = {site: _moments(value) for site, value in latents.items()}
    means, variances = zip(*(term.effect(moments) for term in terms), strict=True)
    return torch.stack(means).sum(0), torch.stack(variances).sum(0)


def factor_norms(learned: Learned) -> pd.DataFrame:
    """Return the root mean square contribution of each factor, see `Posterior.factor_norms`.

    Parameters
    ----------
    learned : Learned
        Result of a fit.

    Returns
    -------
    pandas.DataFrame
        One row per factor, with the columns rms, share and dead.

    Raises
    ------
    PMFError
        If the model has no factors.
    """
    factors = terms_of(learned.model).factors
    if factors is None:
        raise PMFError("The model states no factors: give a PMF with n_factors of at least 1.")
    U, V = (_moments(learned.latents[factor.site])[0] for factor in factors)
    if learned.n_draws is None:
        U, V = U[None], V[None]
    train = learned.ratings
    by_user, by_item = (
        (counts.to(U.dtype) / len(train)).sqrt()
        for counts in (train.user_counts, train.item_counts)
    )
    rms = _singular_values(U, V, by_user, by_item)
    table = pd.DataFrame(
        {
            "rms": rms,
            "share": rms**2 / max(float((rms**2).sum()), np.finfo(float).tiny),
            "dead": rms < max(_NOTHING, _DEAD * float(rms.max())),
        }
    )
    return table.rename_axis("factor")


def _singular_values(U: Tensor, V: Tensor, by_row: Tensor, by_column: Tensor) -> np.ndarray:
    """Return the largest singular values of the weighted mean of U V^T over draws, descending.

    There are as many values as factors.
    """
    n_draws, n, k = U.shape
    m = V.shape[1]
    if k >= min(n, m):
        product = torch.einsum("snk,smk->nm", U, V) / n_draws * by_row[:, None] * by_column
        found = torch.linalg.svdvals(product).numpy()
        return np.pad(found, (0, k - len(found)))

    def times(A: Tensor, B: Tensor, by_a: Tensor, by_b: Tensor, x: np.ndarray) -> np.ndarray:
        inner = torch.einsum("smk,m->sk", B, torch.from_numpy(x.ravel()).to(by_b) * by_b)
        return (torch.einsum("snk,sk->n", A, inner) / n_draws * by_a).double().numpy()

    mean = LinearOperator(
        (n, m),
        matvec=lambda x: times(U, V, by_row, by_column, x),
        rmatvec=lambda x: times(V, U, by_column, by_row, x),
        dtype=float,
    )
    generator = np.random.default_rng(0)
    if not mean.matvec(generator.normal(size=m)).any():  # ARPACK fails on a matrix of zeros
        return np.zeros(k)
    start = generator.normal(size=min(n, m))
    return np.sort(svds(mean, k=k, v0=start, return_singular_vectors=False))[::-1]


def _moments(value: Value) -> tuple[Tensor, Tensor]:
    if isinstance(value, Tensor):
        return value, torch.zeros_like(value)
    return value.mean, value.var
