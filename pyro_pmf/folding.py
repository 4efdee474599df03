"""Fold in ratings: learn the rows of their users and items again, given all other latents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyro_pmf.arguments import require_seed
from pyro_pmf.data.frames import IntoFrame
from pyro_pmf.data.merging import merged, rows_of
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.data.ratings import Ratings
from pyro_pmf.errors import PMFError
from pyro_pmf.inference.conditions import Conditions
from pyro_pmf.inference.mcmc.gibbs.given import draw_rows
from pyro_pmf.inference.mcmc.gibbs.kernel import is_known
from pyro_pmf.inference.variational.rows import learn_rows
from pyro_pmf.model.learned import Learned
from pyro_pmf.model.running import require_possible, run
from pyro_pmf.model.terms import Plate, SumOverSeen, terms_of
from pyro_pmf.moments.gaussian import Gaussian, Uncertain, Value
from pyro_pmf.random_state import isolated_random_state

_ROUNDS = 3  # over both sides, where rows of one depend on rows of the other
Rows = dict[Plate, Tensor]  # ascending indices of the rows to learn, by side


def fold_in(learned: Learned, new: Ratings | IntoFrame, seed: int = 0) -> Learned:
    """Return a fit that knows some more ratings, see `Posterior.fold_in`.

    Parameters
    ----------
    learned : Learned
        Result of a fit.
    new : Ratings or table
        New ratings.
    seed : int
        Seed of all random numbers.

    Returns
    -------
    Learned
        The same fit, but for the rows of users and items among the new ratings.

    Raises
    ------
    RatingsError, PMFError, FitError
        As for `Posterior.fold_in`.
    """
    wider = _widened(learned, new, seed)
    user, item = wider.ratings.locate(new)
    fresh_user = _is_new(wider.ratings.user_ids, learned.ratings.user_ids)[user]
    fresh_item = _is_new(wider.ratings.item_ids, learned.ratings.item_ids)[item]
    of_user = fresh_user | ~fresh_item  # a pair of old ids tells of its user
    rows: Rows = {"users": user[of_user].unique(), "items": item[fresh_item].unique()}
    depend = torch.isin(user, rows["users"]) & torch.isin(item, rows["items"])
    found = _learnt_again(wider, rows, _ROUNDS if bool(depend.any()) else 1, seed)
    return found if learned.ratings.rating is not None else found.without_training_ratings()


def update(
    learned: Learned, new: Ratings | IntoFrame, discount: float = 1.0, seed: int = 0
) -> Learned:
    """Return a fit that knows some more ratings, see `Posterior.update`.

    Parameters
    ----------
    learned : Learned
        Result of a fit.
    new : Ratings or table
        New ratings.
    discount : float
        Probability that an earlier rating is kept.
    seed : int
        Seed of all random numbers.

    Returns
    -------
    Learned
        The same fit, but for the rows of users and items among the new ratings.

    Raises
    ------
    RatingsError, PMFError, FitError
        As for `Posterior.update`.
    """
    learned.require_training_ratings("update")
    require_seed(seed)
    if not (isinstance(discount, int | float) and 0 < discount <= 1):
        raise PMFError(f"discount must be above 0 and at most 1, not {discount!r}.")
    if discount < 1:
        generator = np.random.default_rng(_seed_of(seed, learned.ratings))
        kept = generator.random(len(learned.ratings)) < discount
        learned = replace(learned, ratings=learned.ratings.keep(kept))
    wider = _widened(learned, new, seed)
    user, item = wider.ratings.locate(new)
    return _learnt_again(wider, {"users": user.unique(), "items": item.unique()}, _ROUNDS, seed)


def _widened(learned: Learned, new: Ratings | IntoFrame, seed: int) -> Learned:
    """Return the fit with the new ratings, and with rows of the prior for new ids."""
    require_seed(seed)
    if not terms_of(learned.model) or (learned.n_draws and not is_known(learned.model)):
        raise PMFError(
            "Rows of users and items can be learnt by themselves in a PMF with a likelihood of "
            f"this package, not in {learned.model}: fit all ratings again."
        )
    ratings = merged(learned.ratings, new)
    assert ratings.rating is not None  # those of the new ones are known
    with isolated_random_state(seed):
        require_possible(learned.model, ratings.keep(~np.isnan(ratings.rating)))
    history = learned.history
    if history is not None:
        old = learned.ratings
        place = [_place(ratings.user_ids, old.user_ids), _place(ratings.item_ids, old.item_ids)]
        cells = place[0][history.user] * ratings.n_items + place[1][history.item]
        cells = torch.cat([cells, ratings.user * ratings.n_items + ratings.item]).unique()
        shape = ratings.n_users, ratings.n_items
        history = Pairs(
            cells // ratings.n_items, cells % ratings.n_items, *shape, dtype=ratings.dtype
        )
    latents = _with_new_rows(learned, ratings, seed)
    return replace(learned, ratings=ratings, history=history, latents=latents, tracked=None)


def _with_new_rows(learned: Learned, ratings: Ratings, seed: int) -> dict[str, Value]:
    """Return the latents with rows of the prior for new users and items, in the order of ids."""
    old = learned.ratings
    order = {
        "users": _order(_place(old.user_ids, ratings.user_ids), old.n_users),
        "items": _order(_place(old.item_ids, ratings.item_ids), old.n_items),
    }
    plate = {term.site: term.plate for term in terms_of(learned.model)}
    seen = learned.seen.within(ratings.n_users, ratings.n_items)
    zero = torch.zeros(1, dtype=torch.int64)
    pair = Pairs(zero, zero, ratings.n_users, ratings.n_items, dtype=old.dtype)

    def widened(latents: Mapping[str, Value]) -> dict[str, Value]:
        sites = run(learned.model, latents, pair, seen)
        return {
            name: _rows(sites[name]["value"], order[plate[name]]) if name in plate else value
            for name, value in latents.items()
        }

    if learned.n_draws is None:
        return widened(learned.latents)
    with isolated_random_state(seed):
        draws = [widened(draw) for draw in learned.draws()]
    return {name: torch.stack([cast(Tensor, draw[name]) for draw in draws]) for name in draws[0]}


def _learnt_again(learned: Learned, rows: Rows, n_rounds: int, seed: int) -> Learned:
    """Return the fit with some rows learnt again, side after side."""
    for k in range(n_rounds):
        for plate, chosen in rows.items():
            if len(chosen):
                latents = _with_rows_of(learned, plate, chosen, seed + k)
                learned = replace(learned, latents=latents)
    return learned


def _with_rows_of(learned: Learned, plate: Plate, rows: Tensor, seed: int) -> dict[str, Value]:
    """Return the latents with rows of one side learnt given all others."""
    part, seen, others = rows_of(learned.ratings, learned.seen, plate, rows)
    assert part.rating is not None  # as those of `_widened`
    if np.isnan(part.rating).any():
        raise PMFError(
            f"The rows of {plate} are learnt from all their ratings, and those of training were "
            "left out when this posterior was saved: fold in ratings of new users or of new items "
            "only, or load a posterior that was saved with training_ratings=True."
        )
    index = {
        term.site: rows if term.plate == plate else others for term in terms_of(learned.model)
    }
    axis = 0 if learned.n_draws is None else 1
    given = replace(
        learned,
        ratings=part,
        history=None,
        latents={
            name: _rows(value, index[name], axis) if name in index else value
            for name, value in learned.latents.items()
        },
    )
    free = [
        term.site
        for term in terms_of(learned.model)
        if term.plate == plate and not isinstance(term, SumOverSeen)
    ]
    if learned.n_draws is None:
        run_ = Conditions(seed, torch.device("cpu"), None, progress=False)
        found = learn_rows(given, part, seen, free, run_)
    else:
        stream = _seed_of(seed, part)
        found = cast(dict[str, Value], draw_rows(given, part, seen, plate, stream))
    latents = dict(learned.latents)
    for name in free:
        latents[name] = _put(latents[name], found[name], rows, axis)
    return latents


def _seed_of(seed: int, ratings: Ratings) -> int:
    """Return a seed for these ratings, so that calls for others have other random numbers."""
    whose = len(ratings), int(ratings.user.sum()), int(ratings.item.sum())
    return int(np.random.SeedSequence((seed, *whose)).generate_state(1)[0])


def _is_new(ids: pd.Index, known: pd.Index) -> Tensor:
    return torch.from_numpy(~ids.isin(known))


def _place(ids: pd.Index, wanted: pd.Index) -> Tensor:
    return torch.from_numpy(ids.get_indexer(wanted).copy()).long()


def _order(place: Tensor, n_known: int) -> Tensor:
    """Number the new rows, -1, from n_known on."""
    return torch.where(place < 0, n_known + (place < 0).cumsum(0) - 1, place)


def _rows(value: Value, index: Tensor, axis: int = 0) -> Value:
    if isinstance(value, Uncertain):
        return value.map(lambda x: x.index_select(axis, index))
    return value.index_select(axis, index)


def _put(value: Value, new: Value, rows: Tensor, axis: int) -> Value:
    """Return a value with some of its rows replaced."""
    if isinstance(value, Gaussian) and isinstance(new, Gaussian):
        mean, var = (
            value.mean.index_copy(0, rows, new.mean),
            value.var.index_copy(0, rows, new.var),
        )
        return Gaussian(mean, var, value.sites)
    assert isinstance(value, Tensor)  # a draw, or a point estimate
    assert isinstance(new, Tensor)
    return value.index_copy(axis, rows, new.to(value))
