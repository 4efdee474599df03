"""myFM: Bayesian factorization machines by Gibbs sampling."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from myfm import MyFMGibbsRegressor, RelationBlock
from scipy import sparse
from scipy.special import logsumexp
from scipy.stats import norm

from benchmarks.data import Table
from benchmarks.predictor import Predictor, Stopwatch


class Features:
    """Encode pairs as the features that myFM reads.

    Without histories a row is [one-hot user, one-hot item]. With histories there are two relation
    blocks. A row of the first is [one-hot user, items that the user rated / sqrt(count)], a row
    of the second [one-hot item, users who rated it / sqrt(count)]; either history may be absent.
    The last row of a block has no entries and stands for every unknown id.
    """

    def __init__(self, train: Table, items_of_user: bool, users_of_item: bool) -> None:
        users, items = one_hot(train.user, train.n_users), one_hot(train.item, train.n_items)
        rated = (users.T @ items).tocsr()
        self.blocks: list[sparse.csr_matrix] = []
        if items_of_user or users_of_item:
            self.blocks = [block(rated, items_of_user), block(rated.T.tocsr(), users_of_item)]
        self.group_shapes = [train.n_users, train.n_items]
        if items_of_user:
            self.group_shapes.insert(1, train.n_items)
        if users_of_item:
            self.group_shapes.append(train.n_users)
        self.n_users, self.n_items = train.n_users, train.n_items

    def of(self, pairs: Table) -> tuple[sparse.csr_matrix, list[RelationBlock]]:
        """Return the main table and the relation blocks."""
        if not self.blocks:
            ids = one_hot(pairs.user, self.n_users), one_hot(pairs.item, self.n_items)
            return sparse.hstack(ids, format="csr"), []
        index = (
            np.where(pairs.user < 0, self.n_users, pairs.user),
            np.where(pairs.item < 0, self.n_items, pairs.item),
        )
        relations = [RelationBlock(i, b) for i, b in zip(index, self.blocks, strict=True)]
        return sparse.csr_matrix((len(pairs), 0)), relations


def one_hot(index: np.ndarray, n: int) -> sparse.csr_matrix:
    """Return a row for each index; the row of index -1 is empty."""
    known = np.flatnonzero(index >= 0)
    return sparse.csr_matrix(
        (np.ones(len(known)), (known, index[known])), shape=(len(index), n), dtype=np.float64
    )


def block(rated: sparse.csr_matrix, history: bool) -> sparse.csr_matrix:
    """Return a row for each row of the 0/1 matrix ``rated``, and an empty row at the end."""
    parts = [sparse.identity(rated.shape[0])]
    if history:
        count = np.asarray(rated.sum(axis=1)).ravel()
        parts.append(sparse.diags_array(1 / np.sqrt(np.maximum(count, 1))) @ rated)
    known = sparse.hstack(parts, format="csr")
    empty = sparse.csr_matrix((1, known.shape[1]))
    return sparse.csr_matrix(sparse.vstack([known, empty], format="csr"))


class OfSamples(Predictor):
    """The kept samples of a chain; each has its own noise precision."""

    def __init__(self, machine: MyFMGibbsRegressor, features: Features) -> None:
        self.machine, self.features = machine, features

    def mean(self, pairs: Table) -> np.ndarray:
        """Return the mean over the samples."""
        return np.asarray(self.machine.predict(*self.features.of(pairs)))

    def each(self, pairs: Table) -> np.ndarray:
        """Return the prediction of each sample, shape (n_samples, n)."""
        x = self.features.of(pairs)
        return np.stack([fm.predict_score(*x) for fm in self.machine.predictor_.samples])

    def log_density(self, pairs: Table) -> np.ndarray:
        """Return the log of the mean over the samples of Normal(rating; prediction, 1/alpha)."""
        each = self.each(pairs)
        alpha = np.array([h.alpha for h in self.machine.history_.hypers[-len(each) :]])
        log_densities = norm.logpdf(pairs.rating, each, 1 / np.sqrt(alpha)[:, None])
        return logsumexp(log_densities, axis=0) - np.log(len(each))


def fit(
    train: Table,
    seed: int,
    watch: Stopwatch,
    rank: int,
    n_iter: int,
    items_of_user: bool = False,
    users_of_item: bool = False,
) -> Predictor:
    """Sample ``n_iter`` times; myFM drops the first five samples.

    The curve is computed after the fit. At each iteration it has the prediction of the mean of
    the samples so far.
    """
    features = Features(train, items_of_user, users_of_item)
    x, relations = features.of(train)
    times: list[float] = []
    started = time.perf_counter()

    def note_time(*_: Any) -> tuple[bool, None]:
        times.append(time.perf_counter() - started)
        return False, None

    machine = MyFMGibbsRegressor(rank=rank, random_seed=seed)
    machine.fit(
        x,
        train.rating,
        X_rel=relations,
        n_iter=n_iter,
        group_shapes=features.group_shapes,
        callback=note_time,
    )
    before = watch.stop() - (time.perf_counter() - started)
    predictor = OfSamples(machine, features)
    if watch.recording:
        each = predictor.each(watch.test)
        means = np.cumsum(each, axis=0) / np.arange(1, len(each) + 1)[:, None]
        for seconds, mean in zip(times[-len(each) :], means, strict=True):
            watch.note(before + seconds, mean)
    return predictor
