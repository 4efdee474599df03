"""The table of benchmarks.rated pools the splits by their sums."""

import pandas as pd

from benchmarks.rated import table


def test_splits_are_pooled():
    names = {"data": "films", "method": "vi", "items": "0", "question": "rated"}
    parts = [
        names | {"n": 1, "square": 9.0, "nll": 2.0, "inside": 0},
        names | {"n": 3, "square": 7.0, "nll": 4.0, "inside": 3},
    ]
    *_, row = table(pd.DataFrame(parts))
    assert row == "| films | vi | 0 | rated | 4 | 2.0000 | 1.5000 | 75.0% |"
