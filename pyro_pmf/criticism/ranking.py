"""How many held-out items a list of recommendations finds."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pyro_pmf.arguments import require_rating
from pyro_pmf.data.frames import IntoFrame
from pyro_pmf.data.ratings import Ratings, as_frame, observed
from pyro_pmf.errors import RatingsError
from pyro_pmf.posterior import Posterior
from pyro_pmf.prediction.located import LocatedPairs
from pyro_pmf.prediction.metrics import clustered_error, score_lists
from pyro_pmf.prediction.recommendation import Strategy


def evaluate_ranking(
    posterior: Posterior,
    test: Ratings | IntoFrame,
    n: int = 10,
    at_least: float | None = None,
    strategy: Strategy = "mean",
    seed: int = 0,
) -> pd.DataFrame:
    """Measure how many held-out items are among the n that each user is recommended.

    A list leaves out what the user is known to have rated: the training pairs and the history.
    Training ratings of 0 where all are 0 or 1, as of `data.with_sampled_negatives`, stand for
    pairs that were not observed, so they stay in the running. "popularity" recommends the items
    with the most such pairs, to all users the same but for what they have rated.

    Parameters
    ----------
    posterior : Posterior
        Result of a fit.
    test : Ratings or table
        Held-out pairs of users and items. Ratings are needed with ``at_least`` only.
    n : int
        Length of a list.
    at_least : float, optional
        Least rating, in rating units, of a pair that a list should find. By default every pair of
        ``test`` is one, except those rated 0 where all training ratings are 0 or 1.
    strategy : {"mean", "ucb", "lcb", "thompson", "probability"}
        What to rank by, see `Posterior.recommend`. "probability" is that of ``at_least``.
    seed : int
        Seed of "thompson".

    Returns
    -------
    pandas.DataFrame
        Rows model and popularity. Columns: n_users, the users with an item to find; recall, the
        share of a user's held-out items in the list; ndcg, its discounted cumulative gain over
        that of the best list (see `metrics.ranking_scores`); recall_se and ndcg_se, their standard
        errors; coverage, the share of all training items that are in somebody's list. recall and
        ndcg are means over users, so one value per user makes the errors clustered by user. Items
        without a training pair cannot be listed, and count as not found.

    Raises
    ------
    RatingsError
        If no pair is left to find; ``at_least`` is given and ``test`` has no ratings; or an id is
        missing or of another type than the training ids.
    PMFError
        As for `Posterior.recommend`.

    Examples
    --------
    >>> from pyro_pmf import PMF, VI, fit
    >>> from pyro_pmf.criticism import evaluate_ranking
    >>> from pyro_pmf.datasets import simulate
    >>> ratings, _ = simulate(PMF(1), n_users=30, n_items=20, n_ratings=300)
    >>> train, test = ratings.split(0.3)
    >>> method = VI(max_steps=20, learn_scales=None)
    >>> posterior = fit(PMF(1), train, method, progress=False)
    >>> table = evaluate_ranking(posterior, test, n=5)
    >>> table.index.tolist(), table.columns.tolist()  # doctest: +NORMALIZE_WHITESPACE
    (['model', 'popularity'],
     ['n_users', 'recall', 'recall_se', 'ndcg', 'ndcg_se', 'coverage'])
    """
    if at_least is not None:
        require_rating("at_least", at_least)
    posterior.require_training_ratings("evaluate_ranking")
    train, seen = posterior.ratings, _observed(posterior)
    found = _to_find(posterior, test, at_least, seen)
    user, known = pd.factorize(found["row"].to_numpy())
    ids = pd.Index(found["user"][~found["row"].duplicated()])
    table = posterior.recommend(
        ids,
        n,
        strategy,
        exclude=_with_ids(train, seen),
        exclude_seen=False,
        at_least=at_least if strategy == "probability" else None,
        seed=seed,
    )
    lists = {
        "model": (
            ids.get_indexer(pd.Index(table["user"])),
            train.item_ids.get_indexer(pd.Index(table["item"])),
            table["rank"].to_numpy() - 1,
        ),
        "popularity": _popular(seen, train.n_items, known, n),
    }
    n_items = max(train.n_items, int(found["column"].max()) + 1)
    wanted = user * n_items + found["column"].to_numpy()
    rows: dict[str, dict[str, float]] = {}
    for name, (row, column, rank) in lists.items():
        hit = np.zeros((len(ids), n), dtype=bool)
        hit[row, rank] = np.isin(row * n_items + column, wanted)
        scores = score_lists(hit, np.bincount(user))
        rows[name] = {"n_users": len(ids)}
        for measure in ("recall", "ndcg"):
            value = scores[measure].to_numpy()
            rows[name] |= {measure: value.mean(), f"{measure}_se": clustered_error(value, ids)}
        rows[name]["coverage"] = len(np.unique(column)) / train.n_items
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("predictor")


def _observed(posterior: Posterior) -> pd.DataFrame:
    """Return the indices of the pairs that were observed, row and column, by user."""
    train = posterior.ratings
    seen = pd.DataFrame({"row": posterior.seen.user, "column": posterior.seen.item})
    if _is_yes_or_no(train):
        negative = train.rating == 0
        cells = (seen["row"] * train.n_items + seen["column"]).to_numpy()
        no = (train.user * train.n_items + train.item).numpy()[negative]
        seen = seen[~np.isin(cells, no)]
    return seen.sort_values("row", kind="stable")


def _is_yes_or_no(train: Ratings) -> bool:
    return train.rating is not None and bool(np.isin(train.rating, (0, 1)).all())


def _with_ids(train: Ratings, pairs: pd.DataFrame) -> pd.DataFrame:
    row, column = (pairs[name].to_numpy() for name in ("row", "column"))
    return pd.DataFrame({"user": train.user_ids.take(row), "item": train.item_ids.take(column)})


def _to_find(
    posterior: Posterior, test: Ratings | IntoFrame, at_least: float | None, seen: pd.DataFrame
) -> pd.DataFrame:
    """Return the pairs that lists should find, each once: id of the user, row and column."""
    pairs = posterior.ratings.as_pairs(test)
    where, table = LocatedPairs.of(posterior, pairs), as_frame(pairs)
    if at_least is None and "rating" in table and _is_yes_or_no(posterior.ratings):
        at_least = 1
    found = pd.DataFrame(
        {"user": table["user"].to_numpy(), "row": where.user, "column": where.item}
    )
    if at_least is not None:
        found = found[observed(pairs) >= at_least]
    found = found.drop_duplicates(["row", "column"])
    known = found.merge(seen, "left", on=["row", "column"], indicator="where")["where"] == "both"
    found = found[~known.to_numpy()]
    if not len(found):
        raise RatingsError(
            "There is nothing to find: every pair is known from training, or rated too low. Give "
            "pairs that were held out, and an at_least that some of them reach."
        )
    return found


def _popular(
    seen: pd.DataFrame, n_items: int, users: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return row, column and rank of the most popular items that each user has not met."""
    row, column = seen["row"].to_numpy(), seen["column"].to_numpy()
    order = np.argsort(-np.bincount(column, minlength=n_items), kind="stable")
    first, last = np.searchsorted(row, users), np.searchsorted(row, users, "right")
    lists = []
    for start, end in zip(first, last, strict=True):
        met = column[start:end]
        near = order[: n + len(met)]
        lists.append(near[~np.isin(near, met)][:n])
    sizes = [len(each) for each in lists]
    ranks = [np.arange(size) for size in sizes]
    return np.repeat(np.arange(len(users)), sizes), np.concatenate(lists), np.concatenate(ranks)
