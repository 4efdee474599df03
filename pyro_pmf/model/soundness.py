"""Whether a fit is sound: its latents suit its model and its ratings, number by number.

`storage` asks before it writes a fit and after it has read one, so that what can be saved can be
loaded, and what was altered on the disk is told where it can be told.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_pmf.data.ids import kind
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.data.ratings import Ratings
from pyro_pmf.data.transforms import Affine, Log1p
from pyro_pmf.model.header import is_known
from pyro_pmf.model.learned import Learned
from pyro_pmf.model.likelihoods import fault_of, likelihood_of
from pyro_pmf.model.pmf import PMF
from pyro_pmf.model.priors import Fixed
from pyro_pmf.model.running import is_latent, sites_of, takes_history
from pyro_pmf.model.terms import TAU
from pyro_pmf.moments.gaussian import Gaussian, LogGaussian, Value
from pyro_pmf.random_state import isolated_random_state

_ROUNDOFF = 1e-6  # of a distance of levels
_SUM = 1e-3  # by which shares in single precision may miss 1
# Columns of the steps, and the kind of number that each holds.
_OF_STEPS = {"step": "i", "elbo": "f", "seconds": "f"}
_OF_DRAWS = {"step": "i", "chain": "i", "log_likelihood": "f", "divergent": "b", "seconds": "f"}


class Latent(NamedTuple):
    """Where the values of a latent site lie.

    Attributes
    ----------
    support : Constraint
        Of the site.
    shape : tuple of int
        Of one value.
    """

    support: Constraint
    shape: tuple[int, ...]


def require_sound(learned: Learned) -> None:
    """Check a fit.

    Parameters
    ----------
    learned : Learned
        The fit.

    Raises
    ------
    ValueError
        If its parts do not suit each other, or a number is impossible. The message completes
        "The fit is not sound: ...".
    """
    train = learned.ratings
    _check_ids(train.user_ids, "user")
    _check_ids(train.item_ids, "item")
    _check_scale(train)
    _check_pairs(train, "training ratings")
    _check_values(learned)
    if learned.history is not None:
        _check_history(learned.history, train)
    _check_draws(learned)
    _check_latents(learned)


def latents_of(model: Callable[..., Any], pairs: Pairs) -> dict[str, Latent]:
    """Return the latent sites of a model.

    Parameters
    ----------
    model : callable
        A `PMF` or another Pyro model.
    pairs : Pairs
        Some pairs of the training matrix, at least one.

    Returns
    -------
    dict of str to Latent
        Those of a `PMF` of this package are told without running it.
    """
    if isinstance(model, PMF) and is_known(model):
        return _latents_of_pmf(model, pairs.n_users, pairs.n_items)
    first = Pairs(pairs.user[:1], pairs.item[:1], pairs.n_users, pairs.n_items, dtype=pairs.dtype)
    given = {"history": first} if takes_history(model) else {}
    with isolated_random_state(0), torch.no_grad():
        sites = sites_of(model, first, **given)
    return {
        name: Latent(site["fn"].support, tuple(site["value"].shape))
        for name, site in sites.items()
        if is_latent(site) and name != "rating"
    }


def _latents_of_pmf(model: PMF, n_users: int, n_items: int) -> dict[str, Latent]:
    positive, terms = constraints.positive, model.terms
    found = {term.scale: Latent(positive, ()) for term in terms}
    if terms.factors is not None:
        found[TAU] = Latent(positive, (model.n_factors,))
    if model.likelihood.has_sigma:
        found["sigma"] = Latent(positive, ())
    if model.likelihood.has_mu:
        found["mu"] = Latent(constraints.real, ())
    learnt = {
        name: latent
        for name, latent in found.items()
        if not isinstance(model.priors.of(name, model.n_factors), Fixed)
    }
    for term in terms:
        n_rows = n_users if term.plate == "users" else n_items
        shape = (n_rows, model.n_factors) if term.is_vector else (n_rows,)
        learnt[term.site] = Latent(constraints.real, shape)
    factors = Latent(constraints.real, (model.n_factors,))
    learnt |= dict.fromkeys(model.mean_sites, factors)
    own = model.likelihood.own_latents
    return learnt | {name: Latent(*latent) for name, latent in own.items()}


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _check_ids(ids: pd.Index, side: str) -> None:
    _require(kind(ids) in ("integer", "string"), f"{side} ids are neither all int nor all str")
    _require(
        ids.is_monotonic_increasing and ids.is_unique, f"{side} ids are not sorted and unique"
    )


def _check_scale(train: Ratings) -> None:
    (low, high), transform = train.scale, train.transform
    _require(low < high and math.isfinite(high - low), f"the scale is {train.scale}")
    if isinstance(transform, Affine):
        _require(transform.width > 0, "the transform does not ascend")
        of_scale = Affine.of_scale(*train.scale)
        _require(
            transform.bounds is None or transform == of_scale,
            f"the transform {transform} does not suit the scale {train.scale}",
        )
    elif isinstance(transform, Log1p):
        _require(transform.log_sd > 0, "the transform does not ascend")
    else:
        raise ValueError(f"{transform} is not a transform of this package")
    gap = train.recorded.gap
    ends = np.append(train.scale, () if train.rating is None else train.rating)
    range_ = float(np.ptp(ends))
    _require(gap is None or 0 < gap <= range_ * (1 + _ROUNDOFF), f"levels are {gap} apart")


def _check_pairs(pairs: Pairs, what: str) -> None:
    user, item = pairs.user, pairs.item
    _require(len(pairs) > 0, f"there are no {what}")
    _require(user.shape == item.shape, f"users and items of the {what} differ in number")
    inside = (user >= 0) & (user < pairs.n_users) & (item >= 0) & (item < pairs.n_items)
    _require(bool(inside.all()), f"the {what} have a user or an item that does not exist")
    cells = _cells(pairs)
    _require(
        bool((cells.diff() > 0).all()), f"the {what} are not sorted, or have a pair more than once"
    )


def _cells(pairs: Pairs) -> Tensor:
    return pairs.user * pairs.n_items + pairs.item


def _check_values(learned: Learned) -> None:
    """Check training ratings and their times."""
    train, likelihood = learned.ratings, likelihood_of(learned.model)
    if likelihood is not None and likelihood.has_bounds:
        _require(train.transform.bounds is not None, f"{likelihood} needs ratings with bounds")
    if train.rating is not None:
        _require(len(train.rating) == len(train), "a pair has no rating, or a rating no pair")
        _require(bool(np.isfinite(train.rating).all()), "a training rating is not finite")
        assert train.value is not None  # as there are ratings
        _require(bool(train.value.isfinite().all()), "a training rating cannot be transformed")
        fault = None if likelihood is None else fault_of(likelihood, train.value)
        _require(fault is None, f"some training ratings {fault}")
    if train.time is not None:
        _require(len(train.time) == len(train), "a pair has no time, or a time no pair")
        _require(train.time.dtype.kind in "iufM", "times are neither numbers nor datetimes")
        is_number = train.time.dtype.kind != "M"
        known = np.isfinite(train.time) if is_number else train.time.notna()
        _require(bool(known.all()), "a time is missing or infinite")


def _check_history(history: Pairs, train: Ratings) -> None:
    shape = history.n_users, history.n_items
    _require(shape == (train.n_users, train.n_items), "the history is of another matrix")
    _check_pairs(history, "pairs of the history")
    _require(
        bool(torch.isin(_cells(train), _cells(history)).all()),
        "the history lacks a training pair",
    )


def _check_draws(learned: Learned) -> None:
    """Check the numbers of draws and chains, and the course of the fit."""
    n_draws, n_chains, steps = learned.n_draws, learned.n_chains, learned.steps
    if n_chains is not None:
        _require(n_draws is not None and n_draws % n_chains == 0, "chains differ in length")
        _require(len(steps) == n_draws, f"{n_draws} draws have {len(steps)} steps")
    if not len(steps):
        return
    columns = {name: dtype.kind for name, dtype in steps.dtypes.items()}
    _require(
        columns == (_OF_STEPS if n_chains is None else _OF_DRAWS),
        f"the steps have the columns {columns}",
    )
    _require(bool(np.isfinite(steps.to_numpy(float)).all()), "a step is not finite")
    _require(np.array_equal(steps["step"], np.arange(1, len(steps) + 1)), "a step is missing")
    _require(bool((steps["seconds"] >= 0).all()), "a step took negative time")
    if n_chains is not None:
        chain = np.arange(n_chains).repeat(len(steps) // n_chains)
        _require(np.array_equal(steps["chain"], chain), "the steps are of other chains")


def _check_latents(learned: Learned) -> None:
    stated, train = latents_of(learned.model, learned.ratings), learned.ratings
    if stated.keys() != learned.latents.keys():
        lacks = sorted(stated.keys() - learned.latents.keys()) or "none"
        more = sorted(learned.latents.keys() - stated.keys()) or "none"
        raise ValueError(f"of the model's latents it lacks {lacks}; latents of others: {more}")
    known = is_known(learned.model)
    drawn = () if learned.n_draws is None else (learned.n_draws,)
    for site, latent in stated.items():
        value, shape = learned.latents[site], drawn + latent.shape
        _require(
            tuple(value.shape) == shape,
            f"{site} has the shape {tuple(value.shape)} in the place of {shape}",
        )
        _require(
            value.dtype == train.dtype or (not known and value.dtype.is_floating_point),
            f"{site} has the type {value.dtype}",
        )
        _require(not drawn or isinstance(value, Tensor), f"{site} is not made of draws")
        fault = _fault(value, latent.support)
        _require(fault is None, f"{site} {fault}")
        _require(not known or _is_moderate(value), f"{site} is too large to compute with")


def _fault(value: Value, support: Constraint) -> str | None:
    """Return what is wrong with the values of a latent; it completes "U ..."."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if isinstance(value, LogGaussian):
        if support not in (constraints.positive, constraints.nonnegative):
            return "is not positive, so it is not log-normal"
        return _fault_of_moments(value.log_mean, value.log_var)
    if isinstance(value, Gaussian):
        if support is not constraints.real:
            return "is not any real number, so it is not Normal"
        return _fault_of_moments(value.mean, value.var)
    assert isinstance(value, Tensor)
    if not bool(value.isfinite().all()):
        return "is not finite"
    if support is constraints.simplex:
        sums_to_one = (value.sum(-1) - 1).abs() < _SUM
        within = bool((value >= 0).all() and sums_to_one.all())
    else:
        within = bool(support.check(value).all())
    return None if within else f"lies outside its support, {support}"


def _fault_of_moments(mean: Tensor, var: Tensor) -> str | None:
    if mean.shape != var.shape or mean.dtype != var.dtype:
        return "has means and variances of different shapes or types"
    if not bool((mean.isfinite() & var.isfinite()).all()):
        return "is not finite"
    return None if bool((var >= 0).all()) else "has a negative variance"


def _is_moderate(value: Value) -> bool:
    """Return whether variances of products of two such values are finite."""
    parts = [value] if isinstance(value, Tensor) else [value.mean, value.var.sqrt()]
    return all(bool(part.pow(4).isfinite().all()) for part in parts)
