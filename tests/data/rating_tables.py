"""Small tables of ratings, and random ones, for the tests of this folder."""

import numpy as np
import pandas as pd
from hypothesis import assume
from hypothesis import strategies as st

from pyro_pmf.data.ratings import Ratings

# A small table out of order; its index labels are unlike its positions.
USERS = [30, 10, 20, 10, 30]
ITEMS = ["b", "c", "a", "a", "a"]
STARS = [3.5, 0.5, 5.0, 2.0, 4.0]
DAYS = pd.to_datetime(["2020-01-05", "2020-01-01", "2020-01-04", "2020-01-02", "2020-01-03"])
LABELS = ["r0", "r1", "r2", "r3", "r4"]


def small_frame():
    """The small table."""
    columns = {"user": USERS, "item": ITEMS, "rating": STARS, "time": DAYS}
    return pd.DataFrame(columns, index=LABELS)


@st.composite
def tables(draw, min_size=2):
    """Tables of distinct pairs in any order, with ratings in quarters and integer times."""
    names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=3)
    ids = st.sampled_from([st.integers(-(2**62), 2**62), st.integers(0, 9), names])
    pairs = st.tuples(draw(ids), draw(ids))
    cells = draw(st.dictionaries(pairs, st.integers(-40, 40), min_size=min_size, max_size=40))
    assume(len(set(cells.values())) > 1)
    users, items = zip(*cells, strict=True)
    times = draw(st.lists(st.integers(0, 9), min_size=len(cells), max_size=len(cells)))
    stars = np.array(list(cells.values())) / 4
    return pd.DataFrame({"user": users, "item": items, "rating": stars, "time": times})


def rows(table):
    """The rows of a frame or of ratings as plain tuples, in order."""
    table = table.to_frame() if isinstance(table, Ratings) else table
    return list(table.itertuples(index=False, name=None))
