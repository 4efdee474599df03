"""Draws of the quantities that ratings identify: scores of pairs, effects, parameters."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Distribution

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.data.ratings import Ratings
from pyro_pmf.model.likelihoods import NegativeBinomialLog, NormalSigmoid, likelihood_of
from pyro_pmf.model.pmf import PMF
from pyro_pmf.model.running import Site, run, sites_of
from pyro_pmf.model.terms import TAU, Factor, Plate, Terms, terms_of
from pyro_pmf.moments.ceiling import score_of_log_mean
from pyro_pmf.moments.expectations import unwrapped

N_EACH = 200  # rated pairs, random pairs, users and items: enough to see one in twenty gone wrong


def quantities(
    model: Callable[..., Any],
    ratings: Ratings,
    latents: Mapping[str, Tensor],
    n_each: int = N_EACH,
    seed: int = 0,
    history: Pairs | None = None,
) -> pd.DataFrame:
    """Return draws of quantities that ratings identify.

    Adding a number to mu and subtracting it from all biases changes no score, and rotating the
    factors of both sides changes none. So the quantities are the same under both.

    Parameters
    ----------
    model : callable
        The Pyro model.
    ratings : Ratings
        The training ratings.
    latents : mapping of str to Tensor, shape (n_draws, ...)
        Draws by site.
    n_each : int
        Number of training pairs, of random pairs, of users and of items; there are fewer in a
        small table.
    seed : int
        Seed of the choice.
    history : Pairs, optional
        The pairs with I_ij = 1; the training ratings by default.

    Returns
    -------
    pandas.DataFrame
        One row per draw, one column per quantity, with the levels kind and quantity. "score": the
        score of a pair, minus the middle cut point of ordered levels; for a model other than a
        `PMF`, the mean of its rating where the distribution has no score. "effect": a user's or an
        item's average score over the other side, minus the same cut point. "parameter": see
        `identified`, and ``mean score``, the average of all effects of users.
    """
    generator = np.random.default_rng(seed)
    user, item = sampled_pairs(ratings, n_each, generator)
    rows = {
        "users": np.sort(generator.permutation(ratings.n_users)[:n_each]),
        "items": np.sort(generator.permutation(ratings.n_items)[:n_each]),
    }
    ids = {"users": ratings.user_ids, "items": ratings.item_ids}
    columns: dict[tuple[str, str], np.ndarray] = {}
    terms = terms_of(model)
    has_rows = latents.keys() >= {term.site for term in terms}
    if has_rows:
        seen = ratings if history is None else history
        scores = _scores(model, latents, seen, user, item).double().numpy()
        labels = zip(ids["users"][user.numpy()], ids["items"][item.numpy()], strict=True)
        columns |= {("score", f"{u}, {i}"): x for (u, i), x in zip(labels, scores.T, strict=True)}
    parameters = identified(terms, latents) if terms else dict(latents)
    if has_rows and terms:
        origin = _origin(model, latents)
        for plate, chosen in rows.items():
            effects = _effects(terms, latents, plate)
            if effects is None:
                continue
            effects = effects.double() + origin[:, None]
            if plate == "users" or "mean score" not in parameters:
                parameters["mean score"] = effects.mean(1)
            names = [f"{plate[:-1]} {x}" for x in ids[plate][chosen]]
            found = effects[:, chosen].numpy().T
            columns |= {("effect", name): x for name, x in zip(names, found, strict=True)}
    parameters |= _cutpoint_distances(model, latents)
    columns |= {
        ("parameter", name): x.double().numpy() for name, x in parameters.items() if x.dim() == 1
    }
    index = pd.MultiIndex.from_tuples(columns, names=["kind", "quantity"])
    return pd.DataFrame(np.stack(list(columns.values()), -1), columns=index)


def sampled_pairs(
    ratings: Ratings, n_each: int, generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Choose training pairs, and cells of the whole matrix.

    Parameters
    ----------
    ratings : Ratings
        The training ratings.
    n_each : int
        Largest number of either.
    generator : numpy.random.Generator
        Source of the choice.

    Returns
    -------
    user, item : Tensor, int64, shape (n_pairs,)
        Indices, sorted by user and then by item, each pair once.
    """
    kept = generator.permutation(len(ratings))[:n_each]
    cells = generator.integers((ratings.n_users, ratings.n_items), size=(n_each, 2))
    rated = torch.stack([ratings.user[kept], ratings.item[kept]], -1)
    user, item = torch.cat([rated, torch.from_numpy(cells)]).unique(dim=0).unbind(-1)
    return user.contiguous(), item.contiguous()


def identified(terms: Terms, latents: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace parameters that trade off by the combinations that ratings identify.

    U V^T is the same for U a and V / a. Only products of a scale of one side and a scale of the
    other, such as sigma_U sigma_V or sigma_W sigma_V, are identified, so each product replaces
    both scales. If the priors fix one of the scales, it sets the unit of the others, and all are
    identified. tau multiplies the scales of users; its root mean square over the factors, which
    does not depend on their order, is in each of these scales.

    The noise sigma exp(s_i + t_j) is the same for sigma a and s_i - log a, so sigma is multiplied
    by the geometric mean of the noise of all users and items.

    Parameters
    ----------
    terms : Terms
        Terms of the model.
    latents : mapping of str to Tensor, shape (n_draws, ...)
        Draws by site.

    Returns
    -------
    dict of str to Tensor
        Draws of the identified quantities by name, such as "sigma_U sigma_V tau" and
        "sigma exp(s) exp(t)".
    """
    found = dict(latents)
    if "mu" in found and any(term.in_score for term in terms):
        del found["mu"]  # the mean score has it
    noise = [term.site for term in terms.noise if term.site in found]
    if "sigma" in found and noise:
        shift = torch.stack([found[site].double().mean(1) for site in noise]).sum(0)
        name = " ".join(["sigma", *(f"exp({site})" for site in noise)])
        found[name] = found.pop("sigma") * shift.exp()
    sides = list(terms.factor_scales.values())
    if len(sides) != 2:
        return found
    for factor in terms.factors or ():  # a mean turns with the factors
        found.pop(factor.mean, None)
    tau = found.pop(TAU, None)
    spread = None if tau is None else tau.double().square().mean(-1).sqrt()
    ours, theirs = ([name for name in side if name in found] for side in sides)
    learnt = {name: found.pop(name) for name in (*ours, *theirs)}
    if spread is not None:  # tau gives the users' side a unit of its own
        learnt |= {name: learnt[name] * spread for name in ours}
        label = {name: f"{name} {TAU}" for name in ours}
        if len(ours) < len(sides[0]):  # a fixed scale times tau
            ours, learnt[TAU] = [*ours, TAU], spread
    else:
        label = {name: name for name in ours}
    free = len(theirs) == len(sides[1]) and (spread is not None or len(ours) == len(sides[0]))
    if not free:
        named = {label.get(name, name): x for name, x in learnt.items()}
        return found | named
    for one, other in itertools.product(ours, theirs):
        last = f" {TAU}" if spread is not None and one != TAU else ""
        found[f"{one} {other}{last}"] = learnt[one] * learnt[other]
    return found


def sites_of_draws(
    model: Callable[..., Any], latents: Mapping[str, Tensor], user: Tensor, item: Tensor
) -> dict[str, Site]:
    """Run a `PMF` once for all draws, at some pairs.

    Only the rows of the users and items of these pairs are used.

    Parameters
    ----------
    model : PMF
        The model.
    latents : mapping of str to Tensor, shape (n_draws, ...)
        Draws by site.
    user, item : Tensor, int64, shape (n_pairs,)
        Indices; ``user`` must ascend.

    Returns
    -------
    dict of str to dict
        Pyro's sites by name, in float64. Draws are the first axis of values and distributions:
        scalars have shape (n_draws, 1), the rating (n_draws, n_pairs).
    """
    users, user = user.unique(return_inverse=True)
    items, item = item.unique(return_inverse=True)
    rows = {"users": users, "items": items}
    terms = terms_of(model)
    data = {"rating": torch.zeros(len(user), dtype=torch.float64)}
    for site, value in latents.items():
        term = terms.of_site(site)
        chosen = value[:, None] if term is None else value[:, rows[term.plate]]
        data[site] = chosen.double()
    pairs = Pairs(user, item, len(users), len(items), dtype=torch.float64)
    with torch.no_grad(), pyro.validation_enabled(False):
        return sites_of(poutine.condition(model, data=data), pairs)


def _scores(
    model: Callable[..., Any],
    latents: Mapping[str, Tensor],
    history: Pairs,
    user: Tensor,
    item: Tensor,
) -> Tensor:
    """Return draws of the scores of some pairs, shape (n_draws, n_pairs)."""
    if type(model) is PMF:
        fn = sites_of_draws(model, latents, user, item)["rating"]["fn"]
        return _score(model, unwrapped(fn))
    pairs = Pairs(user, item, history.n_users, history.n_items, dtype=history.dtype)
    draws = zip(*latents.values(), strict=True)
    runs = (run(model, dict(zip(latents, draw, strict=True)), pairs, history) for draw in draws)
    return torch.stack([_score(model, unwrapped(sites["rating"]["fn"])) for sites in runs])


def _score(model: Callable[..., Any], fn: Distribution) -> Tensor:
    score, likelihood = getattr(fn, "score", None), likelihood_of(model)
    if isinstance(likelihood, NegativeBinomialLog) and score is not None:
        if likelihood.log_ceiling is not None:
            score = score_of_log_mean(score, likelihood.log_ceiling)
    elif score is None:
        score = getattr(fn, "loc", None)
        score = fn.mean if score is None else score
        if isinstance(likelihood, NormalSigmoid):
            edge = torch.finfo(score.dtype).tiny
            score = score.clamp_min(edge).log() - (1 - score).clamp_min(edge).log()
    cutpoints = getattr(fn, "cutpoints", None)
    return score if cutpoints is None else score - _middle(cutpoints)


def _middle(cutpoints: Tensor) -> Tensor:
    return cutpoints[..., cutpoints.shape[-1] // 2]


def _effects(terms: Terms, latents: Mapping[str, Tensor], plate: Plate | str) -> Tensor | None:
    """Return draws of the average score of each row without mu, shape (n_draws, n_rows).

    None if no term of this side is in the score.
    """
    in_score = [term for term in terms if term.in_score]
    own = [term for term in in_score if term.plate == plate]
    others = [t for t in in_score if t.plate != plate and not isinstance(t, Factor)]
    if not own:
        return None
    zeros = {site: torch.zeros_like(value[0]) for site, value in latents.items()}
    found = []
    for k in range(len(next(iter(latents.values())))):
        moments = {site: (value[k], zeros[site]) for site, value in latents.items()}
        total = torch.stack([term.effect(moments)[0] for term in own]).sum(0)
        found.append(total + sum(term.effect(moments)[0].mean() for term in others))
    return torch.stack(found)


def _cutpoints(model: Callable[..., Any], latents: Mapping[str, Tensor]) -> Tensor | None:
    """Return draws of the cut points, shape (n_draws, n_levels - 1); None without."""
    likelihood = likelihood_of(model)
    if likelihood is None:
        return None
    like = next(iter(latents.values()))
    with torch.no_grad(), pyro.validation_enabled(False), poutine.condition(data=dict(latents)):
        found = likelihood.latents(like.new_zeros(())).get("cutpoints")
    return found if found is not None and found.dim() == 2 else None


def _origin(model: Callable[..., Any], latents: Mapping[str, Tensor]) -> Tensor:
    """Return draws of mu minus the middle cut point, shape (n_draws,)."""
    like = next(iter(latents.values()))
    mu = latents.get("mu")
    origin = like.new_zeros(len(like)).double() if mu is None else mu.double()
    cutpoints = _cutpoints(model, latents)
    return origin if cutpoints is None else origin - _middle(cutpoints).double()


def _cutpoint_distances(
    model: Callable[..., Any], latents: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    cutpoints = _cutpoints(model, latents)
    if cutpoints is None:
        return {}
    gaps = cutpoints.diff(dim=-1)
    return {f"cutpoints[{k + 1}] - cutpoints[{k}]": gaps[:, k] for k in range(gaps.shape[-1])}
