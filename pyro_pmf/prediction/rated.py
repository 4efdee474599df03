"""Who is taken to have rated what when a rating is predicted: the pair itself, or one rater.

The prior mean of V_j in a hierarchical model is a sum over the users who rated item j, and the
prior mean of U_i one over the items that user i rated. In training, the pair of each rating is in
these sums. For a pair that is predicted, there are two questions:

- "This user did rate this item: how?" The pair is added to the sums (`OwnRows`).
- "What if this user met this item?" The sums stay as they are. The sum of an item that nobody has
  rated is empty. Whoever will rate it is not known, so its prior mean is the effect of one rater
  drawn in proportion to activity (`with_average_rater`).

A row follows its prior mean by less than the mean moves: given everything else, the posterior mean
of V_j is (P + G)^-1 (P m_j + ...), with P the precision of the prior and G the information of its
ratings. If m_j moves by d, V_j moves by (P + G)^-1 P d, and its covariance stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.errors import PMFError
from pyro_pmf.model.given import in_one_batch, lacks_rows
from pyro_pmf.model.learned import Learned
from pyro_pmf.model.likelihoods import likelihood_of
from pyro_pmf.model.pmf import PMF
from pyro_pmf.model.running import given, information, takes_history
from pyro_pmf.model.terms import Plate, SumOverSeen, Term, terms_of
from pyro_pmf.moments.bilinear import gram, unpacked, weighted_sum
from pyro_pmf.moments.gaussian import Gaussian, Uncertain, Value
from pyro_pmf.random_state import isolated_random_state

_BLOCK = 1 << 14  # rows whose K x K matrices are held at a time
_OTHER: dict[Plate, Plate] = {"users": "items", "items": "users"}
Moments = tuple[Tensor, Tensor | None]  # mean, and variance unless it is known to be zero


def require_rateable(model: Callable[..., Any]) -> None:
    """Refuse a model to whose I_ij a pair cannot be added.

    Parameters
    ----------
    model : callable
        A Pyro model.

    Raises
    ------
    PMFError
        If the model depends on I_ij in a way that only its code knows.
    """
    hierarchical = bool(sums_of(model))
    if hierarchical and isinstance(model, PMF) and likelihood_of(model) is not None:
        return
    if hierarchical or (takes_history(model) and not terms_of(model)):
        raise PMFError(
            "rated=True adds a pair to the sums of a PMF. This model takes a history in its own "
            "way: give rated=False, or fit with history= pairs that hold this one."
        )


def sums_of(model: Callable[..., Any]) -> dict[str, SumOverSeen]:
    """Return the terms whose sums are prior means of factors, by the site of these factors.

    Parameters
    ----------
    model : callable
        A Pyro model.
    """
    return {term.factor: term for term in terms_of(model) if isinstance(term, SumOverSeen)}


def with_average_rater(
    model: Callable[..., Any], latents: Mapping[str, Value], history: Pairs
) -> dict[str, Value]:
    """Return rows for all users and items; those without pairs have one rater, not known which.

    The prior mean of such a V_j is Z_i of a user i drawn in proportion to the number of pairs in
    the history: with tensors a draw of it, else its mean and variance over i. Likewise for U_i.

    Parameters
    ----------
    model : callable
        A model that states its terms.
    latents : mapping of str to Tensor, Gaussian or LogGaussian
        Latents in the shape that they have on the training ratings.
    history : Pairs
        The pairs with I_ij = 1, in a matrix that may have more users and items.

    Returns
    -------
    dict of str to Tensor, Gaussian or LogGaussian
        Latents with a row for each user and item of the history's matrix.
    """
    values = dict(latents)
    if lacks_rows(terms_of(model), latents, history):
        values, _ = complete(model, latents, history)
    for site, term in sums_of(model).items():
        own, others = _counts(history, _OTHER[term.plate]), _counts(history, term.plate)
        alone = (own == 0).nonzero().flatten()
        if not len(alone):
            continue
        effect, value = values[term.site], values[site]
        share = others.to(effect.dtype) / others.sum()
        if isinstance(value, Tensor):
            lead = value.shape[:-2]  # draws, if there are some
            rater = torch.multinomial(share, math.prod(lead) * len(alone), replacement=True)
            rater = rater.reshape(*lead, len(alone), 1)
            drawn = torch.take_along_dim(cast(Tensor, effect), rater, -2)
            values[site] = value.index_add(-2, alone, drawn)
            continue
        mean, var = _moments(effect)
        average = share @ mean
        spread = share @ (mean**2 + (0.0 if var is None else var)) - average**2
        values[site] = _added(value, alone, average, spread)
    return values


def complete(
    model: Callable[..., Any], latents: Mapping[str, Value], history: Pairs
) -> tuple[dict[str, Value], dict[str, Any]]:
    """Return the latents with a row for each user and item of a matrix, and the priors of rows.

    Parameters
    ----------
    model, latents, history
        As for `with_average_rater`.

    Returns
    -------
    latents : dict of str to Tensor, Gaussian or LogGaussian
        Rows that were not learnt come from the prior.
    priors : dict of str to Distribution
        Normal prior of each term's rows, by site.
    """
    at = given(model, latents, _first(history), history, with_priors=True)
    rows = {term.site: at.values[term.site] for term in terms_of(model)}
    return dict(latents) | rows, at.priors


def completed(learned: Learned, history: Pairs, seed: int = 0) -> Mapping[str, Value]:
    """Return the latents of a fit with a row for each user and item of a matrix.

    Where rows are draws, all unknown users have the same ones, and all unknown items: what is
    predicted for one does not depend on how many others are asked about. Their ratings together
    are not to be drawn from these rows.

    Parameters
    ----------
    learned : Learned
        Result of a fit of a model that states its terms; ``latents`` may be draws.
    history : Pairs
        The pairs with I_ij = 1, in a matrix that may have more users and items.
    seed : int
        Seed of rows that are drawn: those of unknown users and items, and the raters of items
        that nobody has rated.

    Returns
    -------
    mapping of str to Tensor, Gaussian or LogGaussian
        In the shapes of ``learned.latents``.
    """
    model, terms, latents = learned.model, terms_of(learned.model), learned.latents
    if not (sums_of(model) or lacks_rows(terms, latents, history)):
        return latents
    if learned.n_draws is not None:
        latents = in_one_batch(terms, cast(Mapping[str, Tensor], latents))
    draws_rows = any(isinstance(latents[term.site], Tensor) for term in terms)
    known = {"users": learned.ratings.n_users, "items": learned.ratings.n_items}
    wanted = {"users": history.n_users, "items": history.n_items}
    if draws_rows:
        history = learned.seen.within(*(min(wanted[plate], n + 1) for plate, n in known.items()))
    with isolated_random_state(seed) if draws_rows else nullcontext():
        if sums_of(model):
            values = with_average_rater(model, latents, history)
        else:
            values, _ = complete(model, latents, history)
    found = dict(learned.latents)
    for term in terms:
        value, n = values[term.site], known[term.plate]
        if draws_rows and wanted[term.plate] > n + 1:
            row = torch.arange(wanted[term.plate]).clamp(max=n)
            of_all = partial(torch.index_select, dim=int(learned.n_draws is not None), index=row)
            value = of_all(value) if isinstance(value, Tensor) else value.map(of_all)
        found[term.site] = value
    return found


class OwnRows:
    """Rows of each pair's own, as they are if the pair itself is among those rated.

    Parameters
    ----------
    learned : Learned
        Result of a fit of a `PMF`.
    pairs : Pairs
        The pairs to predict, in the matrix of ``history``.
    history : Pairs
        The pairs with I_ij = 1. A pair that is among them keeps its rows.

    Attributes
    ----------
    pairs : Pairs
        The same pairs, in the same order, as the diagonal cells of a matrix with a row and a
        column for each pair.
    history : Pairs
        No pairs, in that matrix.
    """

    def __init__(self, learned: Learned, pairs: Pairs, history: Pairs) -> None:
        n, n_items = len(pairs), history.n_items
        self._learned, self._history = learned, history
        self._index: dict[Plate, Tensor] = {"users": pairs.user, "items": pairs.item}
        known = history.user * n_items + history.item
        self._is_new = ~torch.isin(pairs.user * n_items + pairs.item, known)
        self._information = _RowInformation(learned, self._index)
        each = torch.arange(n)
        self.pairs = Pairs(each, each, n, n, dtype=history.dtype)
        self.history = Pairs(each[:0], each[:0], n, n, dtype=history.dtype)

    def of(self, latents: Mapping[str, Value]) -> dict[str, Value]:
        """Return latents with one row for each pair.

        Parameters
        ----------
        latents : mapping of str to Tensor, Gaussian or LogGaussian
            Latents in the shape that they have on the training ratings.

        Returns
        -------
        dict of str to Tensor, Gaussian or LogGaussian
            Rows of terms are those of the user or the item of each pair.
        """
        model = cast(PMF, self._learned.model)
        values, _ = complete(model, latents, self._history)
        rows = dict(values)
        for term in model.terms:
            rows[term.site] = _rows(values[term.site], self._index[term.plate])
        self._information.at(latents)
        for site, effect in sums_of(model).items():
            factor = cast(Term, model.terms.of_site(site))
            sums = model.sum_over_seen(
                cast(Tensor, values[effect.site]), self._history, factor.plate
            )
            present = _moments(_rows(cast(Value, sums), self._index[factor.plate]))
            shift = self._shift(factor.plate, present, _moments(rows[effect.site]))
            mean, var = self._information.followed(factor, shift)
            value = rows[site]
            if isinstance(value, Gaussian):
                more = value.var if var is None else value.var + var
                rows[site] = Gaussian(value.mean + mean, more, value.sites)
            else:
                rows[site] = cast(Tensor, value) + mean
        return rows

    def _shift(self, plate: Plate, sums: Moments, effect: Moments) -> Moments:
        """Return the moments of (S + W_j) / d(n + 1) - S / d(n); 0 for pairs of the history."""
        (mean, var), (w, w_var) = sums, effect
        n = _counts(self._history, plate)[self._index[plate]].to(mean.dtype)[:, None]
        divide_by = cast(PMF, self._learned.model).divide_by
        new, old = divide_by(n + 1), divide_by(n)
        less, is_new = old / new - 1, self._is_new[:, None]
        mean = torch.where(is_new, less * mean + w / new, 0.0)
        if var is None and w_var is None:
            return mean, None
        zero = torch.zeros_like(mean)
        var, w_var = zero if var is None else var, zero if w_var is None else w_var
        return mean, torch.where(is_new, less**2 * var + w_var / new**2, 0.0)


class _RowInformation:
    """How far rows of factors follow their prior means, given the ratings and everything else.

    Parameters
    ----------
    learned : Learned
        Result of a fit of a `PMF`.
    index : mapping of plate to Tensor, int64, shape (n_pairs,)
        Rows that are asked for; they may be beyond those of the training ratings.
    """

    def __init__(self, learned: Learned, index: Mapping[Plate, Tensor]) -> None:
        self._learned = learned
        train = learned.ratings
        asked, self._place = {}, {}
        for plate, rows in index.items():
            asked[plate], self._place[plate] = rows.unique(return_inverse=True)
        user, item = (
            torch.isin(of, rows)
            for of, rows in ((train.user, asked["users"]), (train.item, asked["items"]))
        )
        cells = (user | item).nonzero().flatten()
        if not len(cells):  # nothing is known of these rows; a model has to run on some pair
            cells = torch.zeros(1, dtype=torch.int64)
        shape = train.n_users, train.n_items
        self._cells = Pairs(train.user[cells], train.item[cells], *shape, dtype=train.dtype)
        self._of_rows = {
            "users": _CellsOfRows(asked["users"], self._cells.user, self._cells.item, shape[1]),
            "items": _CellsOfRows(asked["items"], self._cells.item, self._cells.user, shape[0]),
        }

    def at(self, latents: Mapping[str, Value]) -> None:
        """Take the information of ratings at the means of some latents."""
        learned = self._learned
        point = {site: _moments(value)[0] for site, value in latents.items()}
        self._latents = latents
        model = cast(PMF, learned.model)
        self._weights, self._given = information(model, point, self._cells, learned.seen)

    def followed(self, factor: Term, shift: Moments) -> Moments:
        """Return the moments of (P + G)^-1 P d, for the shift d of each pair's prior mean.

        With D = P^(-1/2), this is d - D (1 + D G D)^-1 D G d, which has no large numbers.
        """
        model = cast(PMF, self._learned.model)
        factors = model.terms.factors
        assert factors is not None  # a sum over pairs is a prior mean of factors
        partner = next(other for other in factors if other.site != factor.site)
        grams = self._of_rows[factor.plate].gram(
            self._weights, *_moments(self._latents[partner.site])
        )
        prior = self._given.priors[factor.site]
        sd = prior.scale.expand(prior.batch_shape).reshape(-1, grams.shape[-1])[0]  # of any row
        share = _share_of_prior(grams, sd.double())
        mean, var = shift
        place = self._place[factor.plate]
        return _times(share, place, mean), None if var is None else _times(share**2, place, var)


class _CellsOfRows:
    """Training cells of some rows of one side, with columns on the other side.

    Parameters
    ----------
    rows : Tensor, int64, shape (n_rows,)
        Ascending indices.
    row, column : Tensor, int64, shape (n_cells,)
        Training cells, those of other rows included.
    n_columns : int
        Number of columns.
    """

    def __init__(self, rows: Tensor, row: Tensor, column: Tensor, n_columns: int) -> None:
        place = torch.searchsorted(rows, row).clamp(max=len(rows) - 1)
        cells = (rows[place] == row).nonzero().flatten()
        self._cells = cells[torch.argsort(place[cells], stable=True)]
        there = place[self._cells], column[self._cells]
        self._pattern = Pairs(*there, len(rows), n_columns).pattern

    def gram(self, weights: Tensor, x: Tensor, var: Tensor | None) -> Tensor:
        """Return sum_j w_ij E[x_j x_j'] of each row i, float64, shape (n_rows, K, K)."""
        weights = weights[self._cells].contiguous()
        full = unpacked(gram(weights, x, self._pattern).double())
        if var is not None:
            full.diagonal(dim1=1, dim2=2).add_(weighted_sum(weights, var, self._pattern))
        return full


def _share_of_prior(gram: Tensor, sd: Tensor) -> Tensor:
    """Return (P + G)^-1 P of each row, (n_rows, K, K), for P = diag(sd)^-2."""
    parts = []
    one = torch.eye(len(sd), dtype=gram.dtype)
    for G in gram.split(_BLOCK):
        scaled = sd[:, None] * G
        inverse = torch.linalg.cholesky(one + scaled * sd)
        parts.append(one - sd[:, None] * torch.cholesky_solve(scaled, inverse))
    return torch.cat(parts)


def _times(matrices: Tensor, place: Tensor, vectors: Tensor) -> Tensor:
    """Return the product of each vector with the matrix of its row."""
    parts = [
        (matrices[rows] @ x.double()[..., None])[..., 0]
        for rows, x in zip(place.split(_BLOCK), vectors.split(_BLOCK), strict=True)
    ]
    return torch.cat(parts).to(vectors.dtype)


def _moments(value: Value) -> Moments:
    return (value.mean, value.var) if isinstance(value, Uncertain) else (value, None)


def _rows(value: Value, index: Tensor) -> Value:
    """Return the rows at an index, which may repeat: each stands for a user or item of its own."""
    if isinstance(value, Gaussian):
        return Gaussian(value.mean[index], value.var[index], value.sites)
    return cast(Tensor, value)[index]


def _added(value: Value, rows: Tensor, mean: Tensor, var: Tensor) -> Value:
    """Add an independent quantity to some rows of a Gaussian."""
    assert isinstance(value, Gaussian)  # rows of terms are Normal
    n = len(rows)
    return Gaussian(
        value.mean.index_add(0, rows, mean.expand(n, *mean.shape)),
        value.var.index_add(0, rows, var.expand(n, *var.shape)),
        value.sites,
    )


def _counts(history: Pairs, plate: Plate) -> Tensor:
    return history.user_counts if plate == "users" else history.item_counts


def _first(history: Pairs) -> Pairs:
    """Return one pair: rows of factors do not depend on which."""
    shape = history.n_users, history.n_items
    return Pairs(history.user[:1], history.item[:1], *shape, dtype=history.dtype)
