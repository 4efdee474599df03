"""Measure the effect of a mean of the factors of users, and of items.

python -m benchmarks.means                       # half an hour on one core
python -m benchmarks.means --movielens DIR       # also an unpacked MovieLens folder
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.variants import MODELS, report
from pyro_pmf import Posterior, Ratings, fit

MEANS = {"0": False, "learnt": True}


def variants(train: Ratings, test: Ratings) -> Iterator[tuple[str, str, Posterior]]:
    """Yield a fit of each model without and with means."""
    for name, model in MODELS.items():
        for label, means in MEANS.items():
            yield name, label, fit(replace(model, means=means), train, progress=False)


if __name__ == "__main__":
    report("means", __doc__, "Mean of the factors of users and of items", "mean", variants)
