"""Make the golden folders of the present format: python tests/golden/make.py FORMAT.

Folders of earlier formats are never made again: they are what earlier versions wrote.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import pandas as pd

from pyro_pmf import PMF, VI, Gibbs, NegativeBinomialLog, OrderedLogit, Posterior, Ratings, fit

HERE = Path(__file__).parent
FRAME = pd.DataFrame(
    {
        "user": ["ann", "ann", "bob", "bob", "cyd", "cyd", "cyd", "dan"],
        "item": [7, 9, 7, 8, 7, 8, 9, 9],
        "rating": [4.0, 1.0, 5.0, 3.0, 4.0, 2.0, 2.0, 1.0],
        "time": pd.date_range("2020-01-01", periods=8),
    }
)
HISTORY = pd.DataFrame({"user": ["dan", "eve"], "item": [8, 10]})
PAIRS = pd.DataFrame({"user": ["ann", "dan", "eve", "ann"], "item": [8, 7, 7, 10]})


def golden_fits() -> dict[str, Posterior]:
    """Return one fit in closed form, with times and a history, one of draws, one of counts."""
    ratings = Ratings.from_frame(FRAME, time="time", scale=(1, 5))
    model = PMF(1, users="hierarchical", noise="item")
    method = VI(max_steps=20, learn_scales=None)
    levels = PMF(1, noise="shared", likelihood=OrderedLogit(5))
    chains = Gibbs(n_draws=4, n_warmup=4, n_chains=2, thin=1)
    plain = Ratings.from_frame(FRAME, scale=(1, 5))
    numbers = Ratings.from_frame(FRAME, transform="count")
    counts = PMF(1, noise="shared", likelihood=NegativeBinomialLog())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fits as short as these have not converged
        return {
            "vi": fit(model, ratings, method, history=HISTORY, progress=False),
            "draws": fit(levels, plain, chains, progress=False),
            "counts": fit(counts, numbers, chains, progress=False),
        }


def predicted(posterior: Posterior) -> dict[str, list[float]]:
    """Return the numbers that a golden folder is compared with."""
    table = posterior.predict(PAIRS)
    return {name: table[name].tolist() for name in ("mean", "sd", "lower", "upper")}


def main(number: str) -> None:
    """Write the folders of a format, and the numbers that they predict."""
    for name, posterior in golden_fits().items():
        posterior.save(HERE / f"format-{number}-{name}")
        numbers = json.dumps(predicted(posterior), indent=1)
        (HERE / f"format-{number}-{name}.json").write_text(numbers + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
