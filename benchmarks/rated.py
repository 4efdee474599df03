"""Compare predictions of pairs that count as rated with predictions of pairs that do not.

python -m benchmarks.rated                       # five minutes on one core
python -m benchmarks.rated --data insteval --seeds 0
"""

from __future__ import annotations

import argparse
import datetime
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from benchmarks import machine
from benchmarks.data import DATA
from pyro_pmf import MAP, PMF, VI, Ratings, fit

MODEL = PMF(users="hierarchical", items="hierarchical")
METHODS = {"vi": VI(), "map": MAP()}
QUESTIONS = {False: "if they met", True: "rated"}  # by the value of ``rated``
ITEMS = {"0": (0, 0), "1-4": (1, 4), "all": (0, float("inf"))}  # by number of training ratings


def rows(data: str, seed: int, method: str) -> Iterator[dict[str, object]]:
    """Yield the scores of one fit, by question and by number of ratings of the item."""
    read, scale = DATA[data]
    train, test = Ratings.from_frame(read(), scale=scale).split(0.1, seed)
    posterior = fit(MODEL, train, METHODS[method], progress=False)
    for rated, question in QUESTIONS.items():
        scores = posterior.scores(test, rated=rated)
        for items, limits in ITEMS.items():
            here = scores[scores["n_item"].between(*limits)]
            yield {
                "data": data,
                "method": method,
                "items": items,
                "question": question,
                "n": len(here),
                "square": (here["error"] ** 2).sum(),
                "nll": here["nll"].sum(),
                "inside": here["covered"].sum(),
            }


def table(found: pd.DataFrame) -> Iterator[str]:
    """Yield the lines of a Markdown table of all splits together."""
    yield "| | method | training ratings of the item | pairs count as | n | RMSE | NLL | in 90% |"
    yield "|---|---|---|---|---|---|---|---|"
    keys = ["data", "method", "items", "question"]
    for names, part in found.groupby(keys, sort=False).sum().iterrows():
        n = max(part["n"], 1)
        yield (
            f"| {' | '.join(names)} | {part['n']:,.0f} | {(part['square'] / n) ** 0.5:.4f} "
            f"| {part['nll'] / n:.4f} | {part['inside'] / n:.1%} |"
        )


def main() -> None:
    """Fit each split, print the table, and save it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rated",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", nargs="+", choices=DATA, default=["movielens-small"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["vi"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of ArviZ and of fits on few ratings
    found = pd.DataFrame(
        row
        for data in options.data
        for method in options.methods
        for seed in options.seeds
        for row in rows(data, seed, method)
    )
    lines = [
        "# Pairs that count as rated, and pairs that may meet",
        "",
        f"`{' '.join(['python -m benchmarks.rated', *sys.argv[1:]])}`, "
        f"{datetime.date.today().isoformat()}",
        "",
        ", ".join(f"{k}: {v}" for k, v in machine.describe().items()) + ".",
        "",
        f"{MODEL}, one tenth held out; all splits together, seeds {options.seeds}.",
        "",
        *table(found),
        "",
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "rated.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
