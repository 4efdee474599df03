"""The posterior predictive distribution of ratings: the model, run on what was learnt."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from pyro_pmf.arguments import require_integer
from pyro_pmf.errors import PMFError, RatingsError
from pyro_pmf.gaussian import (
    Gaussian,
    LogGaussian,
    NoClosedForm,
    Uncertain,
    Value,
    components,
)
from pyro_pmf.learned import Learned
from pyro_pmf.metrics import score_each
from pyro_pmf.pairs import Pairs
from pyro_pmf.predictive import DiscretePredictive, PosteriorPredictive
from pyro_pmf.random_state import isolated_random_state
from pyro_pmf.ratings import Ratings

_CHUNK = 1 << 18  # pairs predicted at a time


def predict(
    learned: Learned,
    pairs: Ratings | pd.DataFrame,
    interval: float = 0.9,
    at_least: float | None = None,
) -> pd.DataFrame:
    """Implement `Posterior.predict`."""
    if at_least is not None and not (isinstance(at_least, Real) and np.isfinite(float(at_least))):
        raise PMFError(f"at_least must be a rating, not {at_least!r}")
    where = LocatedPairs.of(learned, pairs)
    names = ["mean", "sd", "lower", "upper"] + ["p_at_least"] * (at_least is not None)
    columns = {name: np.empty(len(where)) for name in names}
    for rows, predictive in where.predictives():
        lower, upper = predictive.interval(interval)
        values = {"mean": predictive.mean, "sd": predictive.sd, "lower": lower, "upper": upper}
        if at_least is not None:
            values["p_at_least"] = predictive.probability_at_least(at_least)
        for name, value in values.items():
            columns[name][rows] = value.numpy()
    known = {"known_user": where.known_user, "known_item": where.known_item}
    return _beside_ids(pairs, columns | known)


def predict_levels(
    learned: Learned, pairs: Ratings | pd.DataFrame, levels: Sequence[float] | None = None
) -> pd.DataFrame:
    """Implement `Posterior.predict_levels`."""
    where = LocatedPairs.of(learned, pairs)
    parts = []
    for rows, predictive in where.predictives():
        chosen = predictive.levels if levels is None else torch.tensor(levels, dtype=torch.float64)
        if chosen is None:
            raise PMFError(
                "These ratings have no levels of their own: say of which you want to know the "
                "probabilities, as levels=(1, 2, 3, 4, 5)."
            )
        chances = predictive.level_probabilities(chosen).numpy()
        parts.append(pd.DataFrame(chances, index=rows, columns=chosen.tolist()))
    if not parts:
        raise RatingsError("There are no pairs: give at least one.")
    table = pd.concat(parts).sort_index()
    return _beside_ids(pairs, {level: table[level].to_numpy() for level in table})


def _beside_ids(pairs: Ratings | pd.DataFrame, columns: Mapping[Any, np.ndarray]) -> pd.DataFrame:
    frame = pairs.to_frame() if isinstance(pairs, Ratings) else pairs
    ids = {"user": frame["user"], "item": frame["item"]}
    return pd.DataFrame(ids | dict(columns), index=frame.index)


def scores(
    learned: Learned,
    pairs: Ratings | pd.DataFrame,
    interval: float = 0.9,
    levels: Sequence[float] | None = None,
) -> pd.DataFrame:
    """Implement `Posterior.scores`."""
    rating = torch.from_numpy(observed(pairs))
    where = LocatedPairs.of(learned, pairs)
    generator = np.random.default_rng(0)
    parts = [
        score_each(predictive, rating[rows], interval, levels, generator).set_index(rows)
        for rows, predictive in where.predictives()
    ]
    if not parts:
        raise RatingsError("There are no ratings to score: give at least one.")
    table = pd.concat(parts).sort_index()
    table["n_user"] = where.history.user_counts[where.user].numpy()
    table["n_item"] = where.history.item_counts[where.item].numpy()
    return table


def log_prob(learned: Learned, pairs: Ratings | pd.DataFrame) -> np.ndarray:
    """Log density or mass of each rating, shape (n_pairs,), in their order."""
    rating = torch.from_numpy(observed(pairs))
    logs = np.empty(len(rating))
    for rows, predictive in LocatedPairs.of(learned, pairs).predictives():
        logs[rows] = predictive.log_prob(rating[rows]).numpy()
    return logs


def is_discrete(learned: Learned) -> bool:
    """Whether ratings have probabilities, as levels and counts do, and no density."""
    first = learned.ratings.to_frame().head(1)
    _, predictive = next(LocatedPairs.of(learned, first).predictives())
    return isinstance(predictive, DiscretePredictive)


def sample(
    learned: Learned, pairs: Ratings | pd.DataFrame, num_samples: int = 100, seed: int = 0
) -> np.ndarray:
    """Implement `Posterior.sample`."""
    require_integer("num_samples", num_samples)
    where = LocatedPairs.of(learned, pairs)
    samples = np.empty((num_samples, len(where)))
    every_pair = list(where.chunks(max(1, len(where))))
    with isolated_random_state(seed):
        for k, draw in enumerate(learned.draws(num_samples)):
            for rows, pairs_ in every_pair:
                rating = where.rating_distribution(draw, pairs_).sample()
                samples[k, rows] = learned.ratings.to_rating(rating.numpy())
    return samples


def observed(pairs: Ratings | pd.DataFrame) -> np.ndarray:
    """The ratings of a table, float64, in rating units.

    Raises
    ------
    RatingsError
        If it has none, or they are not finite numbers.
    """
    if isinstance(pairs, Ratings):
        rating = pairs.rating
    elif isinstance(pairs, pd.DataFrame) and "rating" in pairs:
        numbers = pd.to_numeric(pairs["rating"], errors="coerce")
        rating = numbers.to_numpy(float, na_value=np.nan, copy=True)
    else:
        rating = None
    if rating is None or not np.isfinite(rating).all():
        raise RatingsError(
            "Scores need Ratings, or a DataFrame with a finite number for each pair in the column "
            "'rating'."
        )
    return rating


class LocatedPairs:
    """Pairs in the training indices; unknown users and items have rows of their own at the end.

    Parameters
    ----------
    learned : Learned
    user, item : Tensor, int64, shape (n,)
        Indices, from ``n_users`` and ``n_items`` of the training ratings on for unknown ones.
    """

    def __init__(self, learned: Learned, user: Tensor, item: Tensor) -> None:
        train = learned.ratings
        self.learned, self.user, self.item = learned, user, item
        self.known_user = (user < train.n_users).numpy()
        self.known_item = (item < train.n_items).numpy()
        self.n_users = max(train.n_users, int(user.max()) + 1 if len(user) else 0)
        self.n_items = max(train.n_items, int(item.max()) + 1 if len(item) else 0)
        self.history = train.within(self.n_users, self.n_items)

    @classmethod
    def of(cls, learned: Learned, pairs: Ratings | pd.DataFrame) -> LocatedPairs:
        """Look a table's pairs up by id."""
        train = learned.ratings
        user, item = train.locate(pairs)
        users = pairs.user.cpu().numpy() if isinstance(pairs, Ratings) else pairs["user"]
        items = pairs.item.cpu().numpy() if isinstance(pairs, Ratings) else pairs["item"]
        return cls(
            learned,
            _number_unknown(user, users, train.n_users),
            _number_unknown(item, items, train.n_items),
        )

    def __len__(self) -> int:
        return len(self.user)

    def chunks(self, size: int = _CHUNK) -> Iterator[tuple[np.ndarray, Pairs]]:
        """Iterate over row numbers and their pairs, sorted by user as a model wants them."""
        for rows in torch.argsort(self.user, stable=True).split(size):
            if len(rows):
                yield rows.numpy(), self._pairs(rows)

    def predictives(self) -> Iterator[tuple[np.ndarray, PosteriorPredictive]]:
        """Iterate over row numbers and the distribution of their ratings."""
        learned = self.learned
        for rows, pairs in self.chunks():
            if learned.num_draws is None:
                parts = components(self.rating_distribution(learned.latents, pairs))
            else:
                weight = 1 / learned.num_draws
                with isolated_random_state(0):  # unknown users and items are drawn from the prior
                    parts = [
                        (weight, self.rating_distribution(draw, pairs)) for draw in learned.draws()
                    ]
            yield rows, PosteriorPredictive(parts, learned.ratings.transform)

    def rating_distribution(self, latents: Mapping[str, Value], pairs: Pairs) -> Distribution:
        """The distribution of the ratings of these pairs, given the latents."""
        return run(self.learned.model, latents, pairs, self.history)["rating"]["fn"]

    def _pairs(self, rows: Tensor) -> Pairs:
        shape = self.n_users, self.n_items
        return Pairs(self.user[rows], self.item[rows], *shape, dtype=self.history.dtype)


def _number_unknown(index: Tensor, ids: Any, n_known: int) -> Tensor:
    """Replace -1 by n_known, n_known + 1, ..., one number for each unknown id."""
    unknown = (index < 0).numpy()
    if unknown.any():
        codes, _ = pd.factorize(np.asarray(ids)[unknown], use_na_sentinel=False)
        index = index.clone()
        index[torch.from_numpy(unknown)] = torch.from_numpy(codes.astype(np.int64)) + n_known
    return index


def run(
    model: Callable[..., Any], latents: Mapping[str, Value], pairs: Pairs, history: Pairs
) -> dict[str, dict[str, Any]]:
    """Run a model on what is known of its latents.

    Parameters
    ----------
    model : callable
        A Pyro model with a site ``rating``.
    latents : mapping of str to Tensor, Gaussian or LogGaussian
        A value for every latent site, of the shape that the site had on the training ratings.
    pairs : Pairs
        Where to predict. Its matrix may have more users or items than the latents have rows:
        those past them are not known and come from the prior.
    history : Pairs
        The training ratings, for I_ij.

    Returns
    -------
    dict of str to dict
        Pyro's sites by name. The distribution of the site ``rating``, of batch shape (n_pairs,),
        has random parameters where the latents are random; its value means nothing.
    """
    given = {"history": history} if takes_history(model) else {}
    with _Given(latents), torch.no_grad(), pyro.validation_enabled(False):
        trace = poutine.trace(model).get_trace(pairs.without_values(), **given)
    return trace.nodes


def takes_history(model: Callable[..., Any]) -> bool:
    """Whether a model can be told the pairs that I_ij stands for."""
    return "history" in inspect.signature(model).parameters


class _Given(Messenger):
    """Gives each latent site its value, and keeps the site ``rating`` from being sampled."""

    def __init__(self, latents: Mapping[str, Value]) -> None:
        super().__init__()
        self.latents = latents

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] == "rating":
            msg["value"] = torch.zeros(msg["fn"].batch_shape)
        elif msg["name"] in self.latents and not msg["is_observed"]:
            msg["value"] = _with_unknown_rows(self.latents[msg["name"]], msg["fn"], msg["name"])
        else:
            return
        msg["done"] = True


def _with_unknown_rows(value: Value, prior: Distribution, site: str) -> Value:
    """Append rows from the prior where it has more of them than were learnt."""
    wanted = prior.batch_shape + prior.event_shape
    if value.shape == wanted:
        return value
    axis = next(d for d, (n, m) in enumerate(zip(value.shape, wanted, strict=True)) if n != m)
    n_known, n_unknown = value.shape[axis], wanted[axis] - value.shape[axis]

    def append(known: Tensor, new: Tensor) -> Tensor:
        return torch.cat([known, new.expand(wanted).narrow(axis, n_known, n_unknown)], axis)

    if isinstance(value, Tensor):
        return append(value, prior.sample())
    base = prior.base_dist if isinstance(prior, Independent) else prior
    if not (isinstance(value, Gaussian) and isinstance(base, Normal)):
        raise NoClosedForm(f"the prior of site {site!r} for an unknown user or item")
    mean, var = _prior_moments(base)
    return Gaussian(append(value.mean, mean), append(value.var, var), value.sites)


def _prior_moments(prior: Normal) -> tuple[Tensor, Tensor]:
    """Mean and variance of a Normal over what is random in its parameters."""
    loc, scale = prior.loc, prior.scale
    var = scale.mean_square if isinstance(scale, LogGaussian) else scale**2
    if isinstance(loc, Uncertain):
        return loc.mean, var + loc.var
    return loc, var
