"""Recommendations: the best items of a user, by one of several aims.

Only what is listed is computed in full. The aim is first interpolated for every item (`dense`),
which gives each user a list that is somewhat too long. The aim of its items is then computed
exactly. The errors of the interpolation are seen there, and items that were left out are computed
as well unless their errors would have to be unusual for them to be better. Other models than a
`PMF` compute every item exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Literal, cast, get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_pmf.arguments import require_integer, require_rating, require_seed
from pyro_pmf.data.frames import IntoFrame, is_frame
from pyro_pmf.data.ids import positions
from pyro_pmf.data.ratings import Ratings, as_frame
from pyro_pmf.errors import PMFError
from pyro_pmf.model.learned import Learned
from pyro_pmf.model.pmf import PMF
from pyro_pmf.moments.stacking import mixture_of
from pyro_pmf.prediction.choosing import ids_of, located, rows_of
from pyro_pmf.prediction.dense import DrawnScores, Interpolated, Scores
from pyro_pmf.prediction.located import LocatedPairs
from pyro_pmf.prediction.mixture import predictive_of
from pyro_pmf.prediction.predictive import PosteriorPredictive
from pyro_pmf.prediction.rated import completed
from pyro_pmf.random_state import isolated_random_state

Strategy = Literal["mean", "ucb", "lcb", "thompson", "probability"]
_Pairs = tuple[Tensor, Tensor, Tensor]  # positions of users and of items, and scores
Aim = Callable[[PosteriorPredictive], Tensor]  # of each pair, the higher the better
_CELLS = 1 << 22  # pairs whose moments are held at a time
_MORE = 20  # items of a list beyond twice those that are wanted
_N_SD = 3.0  # by which the error of an item left out may differ from those of the user's others
_INTERVAL = 0.9
_LOWEST = torch.finfo(torch.float64).min


def recommend(
    learned: Learned,
    users: Hashable | Iterable[Hashable],
    n: int = 10,
    strategy: Strategy = "mean",
    items: Hashable | Iterable[Hashable] | None = None,
    exclude: Hashable | Iterable[Hashable] | Ratings | IntoFrame | None = None,
    exclude_seen: bool | Literal["positive"] = True,
    at_least: float | None = None,
    n_sd: float = 1.0,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the best items of each user.

    Parameters
    ----------
    learned : Learned
        Result of a fit.
    users, n, strategy, items, exclude, exclude_seen, at_least, n_sd, seed
        As for `Posterior.recommend`.

    Returns
    -------
    pandas.DataFrame
        The table of `Posterior.recommend`.

    Raises
    ------
    RatingsError, PMFError
        As for `Posterior.recommend`.
    """
    require_integer("n", n)
    require_seed(seed)
    if not isinstance(exclude_seen, bool | np.bool_ | str) or (
        isinstance(exclude_seen, str) and exclude_seen != "positive"
    ):
        raise PMFError(f'exclude_seen must be True, False or "positive", not {exclude_seen!r}.')
    aim = _aim(strategy, at_least, n_sd)
    choice = _Choice.of(learned, users, items, exclude, exclude_seen)
    judged, seed = (_one_draw(learned, seed), seed) if strategy == "thompson" else (learned, 0)
    lists = _Lists(judged, choice, aim, n, seed)
    found = [lists.of(rows) for rows in choice.blocks()]
    row, column, score = (torch.cat(parts) for parts in zip(*found, strict=True))
    return _table(learned, choice, row, column, score)


@dataclass(frozen=True)
class _Choice:
    """Who may be recommended what.

    Attributes
    ----------
    ids : pandas.Index
        The users, each once.
    user : Tensor, int64, shape (n_users,)
        Their indices; unknown ones are numbered from the number of training users on.
    item : Tensor, int64, shape (n_candidates,)
        Indices of the items that may be recommended to some user, in the order of ties.
    barred : tuple of Tensor, int64, shape (n_barred,)
        Positions of the user and of the item of pairs that may not be recommended, by user.
    n_rows : int
        Number of users of the training ratings and unknown ones.
    """

    ids: pd.Index
    user: Tensor
    item: Tensor
    barred: tuple[Tensor, Tensor]
    n_rows: int

    @classmethod
    def of(
        cls,
        learned: Learned,
        users: Any,
        items: Any,
        exclude: Any,
        exclude_seen: bool | Literal["positive"],
    ) -> _Choice:
        train = learned.ratings
        ids = ids_of(users, "user")
        user = located(train.user_ids, ids, "user")
        if isinstance(exclude, Ratings) or is_frame(exclude):
            exclude = as_frame(train.as_pairs(exclude))
        unknown = user < 0
        user[unknown] = train.n_users + torch.arange(int(unknown.sum()))
        item = _candidates(learned, items, exclude)
        n_rows = train.n_users + int(unknown.sum())
        position = torch.full((train.n_items,), -1, dtype=torch.int64)
        position[item] = torch.arange(len(item))
        row = torch.full((n_rows,), -1, dtype=torch.int64)
        row[user] = torch.arange(len(user))
        barred = []
        if exclude_seen:
            seen = _seen(learned, exclude_seen == "positive")
            barred.append((row[seen[0]], position[seen[1]]))
        if isinstance(exclude, pd.DataFrame):
            _, there = train.locate(exclude)
            whose = torch.from_numpy(positions(ids.astype(object), exclude["user"].astype(object)))
            barred.append((whose, torch.where(there < 0, -1, position[there])))
        pairs = [torch.stack(pair) for pair in barred]
        both = torch.cat(pairs, 1) if pairs else torch.empty(2, 0, dtype=torch.int64)
        both = both[:, (both >= 0).all(0)]
        both = both[:, torch.argsort(both[0], stable=True)]
        return cls(ids, user, item, (both[0], both[1]), n_rows)

    def blocks(self) -> Iterator[Tensor]:
        """Iterate over positions of users, some at a time; once without users."""
        yield from torch.arange(len(self.user)).split(max(1, _CELLS // max(1, len(self.item))))

    def bar(self, guess: Tensor, rows: Tensor) -> None:
        """Set pairs that may not be recommended to minus infinity; ``rows`` are consecutive."""
        if len(rows):
            ends = torch.tensor([int(rows[0]), int(rows[-1]) + 1])
            first, last = torch.searchsorted(self.barred[0], ends).tolist()
            user, item = (x[first:last] for x in self.barred)
            guess[user - int(rows[0]), item] = -torch.inf


class _Lists:
    """The best items of some users, by an aim.

    Parameters
    ----------
    learned : Learned
        Whose predictions to judge by.
    choice : _Choice
        Who may be recommended what.
    aim : callable
        The higher the better.
    n : int
        Length of a list.
    seed : int
        Seed of rows that are drawn from the prior.
    """

    def __init__(self, learned: Learned, choice: _Choice, aim: Aim, n: int, seed: int) -> None:
        self._learned, self._choice, self._aim = learned, choice, aim
        self._n, self._seed = n, seed
        self._dense = _Guess(learned, choice, aim, seed) if type(learned.model) is PMF else None

    def of(self, rows: Tensor) -> _Pairs:
        """Return the lists of some users.

        Parameters
        ----------
        rows : Tensor, int64
            Consecutive positions of users.

        Returns
        -------
        row, column : Tensor, int64, shape (n_listed,)
            Positions of users and of items; by user, the best first.
        score : Tensor, float64, shape (n_listed,)
        """
        n_candidates = len(self._choice.item)
        if self._dense is None:
            guess, length = torch.zeros(len(rows), n_candidates), n_candidates
        else:
            guess, length = self._dense.of(rows), min(2 * self._n + _MORE, n_candidates)
        self._choice.bar(guess, rows)
        none = torch.empty(0, dtype=torch.int64)
        best, errors = (none, none, none.double()), _Errors(len(rows))
        bound = torch.full((len(rows),), _LOWEST, dtype=torch.float64)
        row, column = _highest(guess, bound, length)
        while len(row):
            score = self._exact(rows[row], column)
            errors.add(row, score - guess[row, column])
            guess[row, column] = -torch.inf  # computed
            best, least = _best(_joined(best, (row, column, score)), self._n, len(rows))
            bound = (least - errors.largest()).nan_to_num(nan=_LOWEST)  # above minus infinity
            length = min(4 * length, n_candidates)
            row, column = _highest(guess, bound, length)
        return rows[best[0]], best[1], best[2]

    def _exact(self, row: Tensor, column: Tensor) -> Tensor:
        """Return the aim of some pairs as `LocatedPairs` has it, float64."""
        user, item = self._choice.user[row], self._choice.item[column]
        where = LocatedPairs(self._learned, user, item, n_users=self._choice.n_rows)
        score = torch.empty(len(where), dtype=torch.float64)
        for rows, predictive in where.predictives(self._seed):
            score[torch.from_numpy(rows)] = self._aim(predictive).double()
        return score


class _Guess:
    """The aim for every item, interpolated; parameters as for `_Lists`."""

    def __init__(self, learned: Learned, choice: _Choice, aim: Aim, seed: int) -> None:
        model = cast(PMF, learned.model)
        self._choice = choice
        history = learned.seen.within(choice.n_rows, learned.ratings.n_items)
        full = replace(learned, latents=completed(learned, history, seed))
        self._scores: Scores | DrawnScores
        if full.n_draws is None:
            self._scores = Scores(model, full.latents, history)
        else:
            drawn = {site: x for site, x in full.latents.items() if isinstance(x, Tensor)}
            self._scores = DrawnScores(model, drawn, history)

        def function(fn: Distribution) -> Tensor:
            return aim(predictive_of(learned, mixture_of(fn)))

        self._table = Interpolated(model, self._scores.own, function, history.dtype)

    def of(self, rows: Tensor) -> Tensor:
        """Return the aim of each of some users with each item, shape (n_rows, n_candidates)."""
        if not len(self._choice.item) or not len(rows):
            return torch.empty(len(rows), len(self._choice.item))
        return self._table.at(self._scores.dense(self._choice.user[rows], self._choice.item))


class _Errors:
    """How far the guesses of some users' items were too low, where they were computed."""

    def __init__(self, n_rows: int) -> None:
        self._n, self._sum, self._squares = torch.zeros(3, n_rows, dtype=torch.float64)

    def add(self, row: Tensor, error: Tensor) -> None:
        self._n.index_add_(0, row, torch.ones_like(error))
        self._sum.index_add_(0, row, error)
        self._squares.index_add_(0, row, error**2)

    def largest(self) -> Tensor:
        """Return how far the guess of an item that was left out may be too low, shape (n_rows,).

        It is the user's mean error and `_N_SD` standard deviations of it. Over draws, the errors
        are mostly noise of their number: to rule out every item would take nearly all of them.
        """
        mean = self._sum / self._n
        return mean + _N_SD * (self._squares / self._n - mean**2).clamp(min=0).sqrt()


def _highest(guess: Tensor, bound: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return row and column of the guesses that reach their row's bound, at most n of a row."""
    near = guess >= bound[:, None]
    crowded = (near.sum(1) > n).nonzero().flatten()
    if len(crowded):
        top = guess[crowded].topk(n, 1).indices
        near[crowded] = False
        near[crowded[:, None], top] = True
    row, column = near.nonzero(as_tuple=True)
    return row, column


def _joined(first: _Pairs, second: _Pairs) -> _Pairs:
    row, column, score = (torch.cat(pair) for pair in zip(first, second, strict=True))
    return row, column, score


def _best(pairs: _Pairs, n: int, n_rows: int) -> tuple[_Pairs, Tensor]:
    """Return the best columns of each row.

    Parameters
    ----------
    pairs : tuple of Tensor, shape (n_pairs,)
        Rows, columns and scores; equal scores are in the order of their columns.
    n : int
        Largest number of columns of a row.
    n_rows : int
        Number of rows.

    Returns
    -------
    best : tuple of Tensor, shape (n_listed,)
        Rows, columns and scores, by row, the best first.
    least : Tensor, float64, shape (n_rows,)
        Score of the n-th column of each row; minus infinity if it has fewer.
    """
    row, column, score = pairs
    order = torch.from_numpy(np.lexsort((column.numpy(), -score.numpy(), row.numpy())))
    row, column, score = row[order], column[order], score[order]
    sizes = torch.bincount(row, minlength=n_rows)
    place = torch.arange(len(row)) - (sizes.cumsum(0) - sizes)[row]
    least = torch.full((n_rows,), -torch.inf, dtype=torch.float64)
    least[row[place == n - 1]] = score[place == n - 1]
    kept = place < n
    return (row[kept], column[kept], score[kept]), least


def _table(
    learned: Learned, choice: _Choice, row: Tensor, column: Tensor, score: Tensor
) -> pd.DataFrame:
    user, item = choice.user[row], choice.item[column]
    where = LocatedPairs(learned, user, item, n_users=choice.n_rows)
    columns = {name: np.empty(len(where)) for name in ("mean", "sd", "lower", "upper")}
    for rows, predictive in where.predictives():
        ends = predictive.interval(_INTERVAL)
        for name, value in zip(columns, (predictive.mean, predictive.sd, *ends), strict=True):
            columns[name][rows] = value.numpy()
    sizes = torch.bincount(row, minlength=len(choice.user))
    first = (sizes.cumsum(0) - sizes)[row]
    table = pd.DataFrame(
        {
            "user": choice.ids.take(row.numpy()),
            "item": learned.ratings.item_ids.take(item.numpy()),
            "rank": (torch.arange(len(row)) - first + 1).numpy(),
            "score": score.numpy(),
            **columns,
            "known_user": where.known_user,
        }
    )
    table.attrs["rated"] = False
    return table


def _aim(strategy: Strategy, at_least: float | None, n_sd: float) -> Aim:
    """Return what a strategy maximizes."""
    if strategy not in get_args(Strategy):
        raise PMFError(f"strategy must be one of {get_args(Strategy)}, not {strategy!r}.")
    if (strategy == "probability") != (at_least is not None):
        raise PMFError(
            'strategy="probability" ranks by the probability of a rating of at_least or more, and '
            f"only it uses at_least: give both or neither, not {strategy!r} and {at_least!r}."
        )
    if at_least is not None:
        require_rating("at_least", at_least)
    if not _is_finite(n_sd) or n_sd < 0:
        raise PMFError(f"n_sd must be a finite number of at least 0, not {n_sd!r}.")
    if at_least is not None:
        return lambda predictive: predictive.probability_at_least(at_least)
    if strategy in ("ucb", "lcb"):
        times = n_sd if strategy == "ucb" else -n_sd
        return lambda predictive: predictive.bound_of_mean(times)
    return lambda predictive: predictive.mean


def _seen(learned: Learned, only_positive: bool) -> tuple[Tensor, Tensor]:
    """Return indices of the pairs that were rated; without training ratings of 0 or less."""
    seen, train = learned.seen, learned.ratings
    if not only_positive:
        return seen.user, seen.item
    learned.require_training_ratings('exclude_seen="positive"')
    low = torch.as_tensor(np.asarray(train.rating) <= 0)
    n = train.n_items
    cells = (train.user * n + train.item)[low]
    kept = ~torch.isin(seen.user * n + seen.item, cells)
    return seen.user[kept], seen.item[kept]


def _is_finite(value: Any) -> bool:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    return is_number and bool(np.isfinite(float(value)))


def _one_draw(learned: Learned, seed: int) -> Learned:
    """Return a fit whose posterior is one joint draw of all latents."""
    if learned.n_draws is None:
        with isolated_random_state(seed):
            draw = next(learned.draws(1))
    else:
        k = int(np.random.default_rng(seed).integers(learned.n_draws))
        draw = {site: x[k] for site, x in learned.latents.items() if isinstance(x, Tensor)}
    latents = {site: value[None] for site, value in draw.items()}
    return replace(learned, latents=latents, n_draws=1, n_chains=None)


def _candidates(learned: Learned, items: Any, exclude: Any) -> Tensor:
    """Return the indices of the items that may be recommended, in the order given."""
    train = learned.ratings
    chosen = torch.arange(train.n_items)
    if items is not None:
        chosen = rows_of(train.item_ids, items, "item")
    if exclude is not None and not isinstance(exclude, pd.DataFrame):
        ids = ids_of(exclude, "item", "exclude")
        chosen = chosen[~torch.isin(chosen, located(train.item_ids, ids, "item"))]
    return chosen
