"""Low-rank tables of many kinds: the default fit, the sampler and myFM against the truth.

python -m benchmarks.simulated              # all tables, three seeds: an hour on one core
python -m benchmarks.simulated --seeds 0 --tables "strong" "weak, rank 2"

No option is given: every table is read as it is, and fitted as ``PMF(likelihood="auto")``. myFM
has its ids only, rank 8, 300 sweeps, and standardized ratings. Each table is drawn anew for each
seed, and 15% of its ratings are held out. Coverage is that of 90% intervals.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks import machine
from benchmarks.data import Table
from benchmarks.peers.myfm_gibbs import fit as fit_myfm
from benchmarks.predictor import Stopwatch
from pyro_pmf import PMF, Ratings, fit

RESULTS = Path(__file__).parent / "results" / "simulated.md"


@dataclass(frozen=True)
class Kind:
    """How a table is simulated: level + b_i + c_j + signal U_i . V_j / sqrt(rank) + noise.

    Attributes
    ----------
    n_users, n_items : int
    density : float
        Share of the cells that are seen.
    rank : int
    signal, noise : float
        Standard deviations, in rating units.
    levels : tuple of float, or None
        Lowest and highest level and their distance, to which ratings are rounded.
    biases : float
        Standard deviation of user and item biases, in rating units.
    level : float
        Mean rating.
    """

    n_users: int
    n_items: int
    density: float
    rank: int
    signal: float
    noise: float
    levels: tuple[float, float, float] | None = None
    biases: float = 0.0
    level: float = 3.0

    def draw(self, seed: int) -> pd.DataFrame:
        """Return a table with the columns user, item and rating."""
        rng = np.random.default_rng([seed, self.n_users, self.rank])
        U = rng.normal(size=(self.n_users, self.rank))
        V = rng.normal(size=(self.n_items, self.rank))
        score = self.level + self.signal * (U @ V.T) / np.sqrt(self.rank)
        score += self.biases * rng.normal(size=(self.n_users, 1))
        score += self.biases * rng.normal(size=(1, self.n_items))
        user, item = np.nonzero(rng.random(score.shape) < self.density)
        rating = score[user, item] + self.noise * rng.normal(size=len(user))
        if self.levels is not None:
            low, high, gap = self.levels
            rating = np.clip(low + gap * np.round((rating - low) / gap), low, high)
        return pd.DataFrame({"user": user, "item": item, "rating": rating})


STARS, HALVES = (1.0, 5.0, 1.0), (0.5, 5.0, 0.5)
KINDS = {
    "strong": Kind(200, 150, 0.2, 3, 1.0, 0.5, STARS),
    "strong, not rounded": Kind(200, 150, 0.2, 3, 1.0, 0.5),
    "very strong, rank 5": Kind(300, 200, 0.3, 5, 1.5, 0.3),
    "sparse, larger": Kind(1000, 800, 0.05, 4, 1.0, 0.5, STARS),
    "few ratings a user": Kind(4000, 150, 0.017, 3, 0.8, 0.6, HALVES, biases=0.3),
    "weak, rank 2": Kind(500, 300, 0.1, 2, 0.5, 1.0, STARS),
    "biases only": Kind(400, 250, 0.1, 1, 0.0, 0.8, HALVES, biases=0.5),
    "biases and rank 6": Kind(600, 200, 0.15, 6, 0.6, 0.6, HALVES, biases=0.4),
    "noise only": Kind(300, 200, 0.1, 1, 0.0, 1.0),
    "rank 12": Kind(500, 400, 0.2, 12, 1.0, 0.6),
    "rank 1, tall": Kind(3000, 40, 0.2, 1, 0.8, 0.8, STARS, biases=0.2),
    "rank 1, wide": Kind(40, 2000, 0.2, 1, 0.8, 0.8, biases=0.2),
    "tiny": Kind(40, 30, 0.3, 1, 1.0, 0.5),
    "large units": Kind(300, 200, 0.15, 3, 2e4, 1e4, level=1e5, biases=1e4),
    "like and dislike": Kind(400, 300, 0.15, 2, 1.5, 1.0, (0.0, 1.0, 1.0), level=0.6),
    "out of 100": Kind(300, 250, 0.1, 3, 15.0, 8.0, (0.0, 100.0, 1.0), biases=6.0, level=60.0),
}


def main() -> None:
    """Run the tables, print a row each, and write them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulated")
    parser.add_argument("--tables", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--write", action="store_true", help="write it to benchmarks/results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in options.tables:
        runs = pd.DataFrame([run(KINDS[name], seed) for seed in options.seeds])
        rows.append(runs.mean().rename(name))
        print(rows[-1].to_frame().T.round(4).to_string(header=len(rows) == 1), flush=True)
    report = render(pd.DataFrame(rows), options.seeds)
    print(report)
    if options.write:
        RESULTS.write_text(report)


def run(kind: Kind, seed: int) -> pd.Series:
    """Return RMSE and seconds of each method on one table."""
    train, test = Ratings.from_frame(kind.draw(seed)).split(0.15, seed)
    unit = test.rating.std()
    found = {"mean": _rmse(np.full(len(test), train.rating.mean()), test) / unit}
    for method in ("vi", "map", "gibbs"):
        started = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as: the factors have shrunk to zero
            try:
                posterior = fit(PMF(likelihood="auto"), train, method, seed=seed, progress=False)
            except Exception as error:  # the table shows a failure as such
                print(f"{method}: {error}")
                continue
        seconds = time.process_time() - started
        found[method] = _rmse(posterior.predict(test)["mean"].to_numpy(), test) / unit
        found[f"{method} s"] = seconds
        if method != "map":
            found[f"{method} coverage"] = posterior.evaluate(test)["coverage_90"]
    user, item = train.locate(test)
    mean, sd = train.rating.mean(), train.rating.std()
    tables = [
        Table(u.numpy(), i.numpy(), (r.rating - mean) / sd, train.n_users, train.n_items, (-9, 9))
        for u, i, r in ((train.user, train.item, train), (user, item, test))
    ]
    started = time.process_time()
    peer = fit_myfm(tables[0], seed, Stopwatch(tables[1], recording=False), rank=8, n_iter=300)
    found["myFM"] = _rmse(mean + sd * peer.mean(tables[1]), test) / unit
    found["myFM s"] = time.process_time() - started
    return pd.Series(found)


def render(table: pd.DataFrame, seeds: list[int]) -> str:
    """Return the report as Markdown."""
    columns = ["mean", "vi", "map", "gibbs", "myFM"]
    shown = table[columns].map("{:.4f}".format)
    shown["vi / myFM"] = (table["vi"] / table["myFM"]).map("{:.3f}".format)
    shown["gibbs / myFM"] = (table["gibbs"] / table["myFM"]).map("{:.3f}".format)
    for name in ("vi coverage", "gibbs coverage"):
        shown[name] = table[name].map("{:.3f}".format)
    seconds = [f"{name} s" for name in ("vi", "map", "gibbs", "myFM")]
    shown[seconds] = table[seconds].map("{:.1f}".format)
    lines = [
        "# Simulated tables",
        "",
        f"RMSE in units of the sd of the held-out ratings, mean of seeds {seeds}; one thread,",
        "seconds of CPU.",
        "; ".join(f"{name}: {value}" for name, value in machine.describe().items()) + ".",
        f"`python -m benchmarks.simulated --seeds {' '.join(map(str, seeds))} --write`",
        "",
        "| " + " | ".join(["table", *shown]) + " |",
        "|---" * (1 + len(shown.columns)) + "|",
        *("| " + " | ".join(row) + " |" for row in shown.reset_index().to_numpy()),
        "",
    ]
    return "\n".join(lines)


def _rmse(mean: np.ndarray, test: Ratings) -> float:
    assert test.rating is not None
    return float(np.sqrt(np.mean((mean - test.rating) ** 2)))


if __name__ == "__main__":
    main()
