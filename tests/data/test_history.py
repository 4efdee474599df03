"""The pairs of a history, by id, against sets of pairs."""

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_pmf import Ratings, RatingsError
from pyro_pmf.data.history import with_history

FRAME = pd.DataFrame({"user": [4, 4, 9], "item": ["b", "d", "d"], "rating": [1.0, 5.0, 3.0]})
KNOWN = pd.DataFrame({"user": [9, 1, 4, 9, 9], "item": ["a", "d", "d", "a", "c"]})


def ratings(dtype=torch.float64):
    return Ratings.from_frame(FRAME, dtype=dtype)


def pairs_of(pairs, ratings):
    ids = ratings.user_ids[pairs.user.numpy()], ratings.item_ids[pairs.item.numpy()]
    return list(zip(*ids, strict=True))


@pytest.mark.parametrize("as_ratings", [True, False])
def test_pairs_are_the_union_in_order(as_ratings):
    given = KNOWN
    if as_ratings:
        given = Ratings.from_frame(KNOWN.drop_duplicates().assign(rating=[1.0, 2, 3, 4]))
    larger, seen = with_history(ratings(), given)
    assert larger.user_ids.tolist() == [1, 4, 9]
    assert larger.item_ids.tolist() == ["a", "b", "c", "d"]
    expected = {*KNOWN.itertuples(index=False, name=None), (4, "b"), (4, "d"), (9, "d")}
    assert pairs_of(seen, larger) == sorted(expected)
    assert (seen.n_users, seen.n_items, seen.dtype, seen.value) == (3, 4, torch.float64, None)


def test_the_ratings_stay_as_they_are():
    before = ratings()
    larger, _ = with_history(before, KNOWN)
    pd.testing.assert_frame_equal(larger.to_frame(), before.to_frame())
    assert larger.transform == before.transform
    assert larger.scale == before.scale
    torch.testing.assert_close(larger.value, before.value)
    np.testing.assert_array_equal(larger.item_counts, [0, 1, 0, 2])


@pytest.mark.parametrize("history", [None, KNOWN[:0]])
def test_without_pairs_nothing_changes(history):
    before = ratings()
    after, seen = with_history(before, history)
    assert after is before
    assert seen is None


@pytest.mark.parametrize(
    ("history", "message"),
    [
        (pd.DataFrame({"user": [4]}), "item"),
        (pd.DataFrame({"user": ["4"], "item": ["b"]}), "int"),
        (pd.DataFrame({"user": [4.0, np.nan], "item": ["b", "b"]}), "user"),
    ],
)
def test_bad_pairs_are_refused(history, message):
    with pytest.raises(RatingsError, match=message):
        with_history(ratings(), history)
