"""Measure the effect of noise that differs by user and by item.

python -m benchmarks.noise                       # some minutes on one core
python -m benchmarks.noise --movielens DIR       # also an unpacked MovieLens folder
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

from benchmarks.variants import MODELS, report
from pyro_pmf import Posterior, Ratings, fit
from pyro_pmf.model.pmf import Noise


def variants(train: Ratings, test: Ratings) -> Iterator[tuple[str, str, Posterior]]:
    """Yield a fit of each model with each noise."""
    for name, model in MODELS.items():
        for noise in get_args(Noise):
            yield name, noise, fit(replace(model, noise=noise), train, progress=False)


if __name__ == "__main__":
    report("noise", __doc__, "Noise of users and of items", "noise", variants)
