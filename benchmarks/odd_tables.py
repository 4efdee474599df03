"""Fit odd tables at random, and count the fits that are neither sane nor refused with a remedy.

python -m benchmarks.odd_tables                    # 50 tables, ten minutes on one core
python -m benchmarks.odd_tables --n 1000 --methods vi gibbs --jobs 2
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pandas as pd
import torch
from loky import get_reusable_executor

from pyro_pmf import MAP, PMF, VI, FitError, Gibbs, NegativeBinomialLog, Posterior, Ratings, fit

# A kind of table: from a generator, users and items to ratings, and the scale that is given.
Made = tuple[np.ndarray, tuple[float, float] | None]
Kind = Callable[[np.random.Generator, np.ndarray, np.ndarray], Made]
METHODS = {"vi": VI(), "map": MAP(), "gibbs": Gibbs(n_draws=60, n_warmup=30, n_chains=2)}
WAYS = ["sane", "warned", "refused", "wrong"]
SHOWN = 20  # tables after which the counts are printed
WORSE = 1.05  # times the error of the mean, plus what few ratings allow


def top_heavy(rng: np.random.Generator, user: np.ndarray, item: np.ndarray) -> Made:
    """Return stars of which most are the highest."""
    n_levels, share = rng.integers(3, 12), rng.uniform(0.5, 0.99)
    low = rng.integers(1, n_levels, len(user))
    return np.where(rng.random(len(user)) < share, n_levels, low), None


def zero_inflated_counts(rng: np.random.Generator, user: np.ndarray, item: np.ndarray) -> Made:
    """Return counts of which many are 0."""
    counts = rng.negative_binomial(0.5, rng.uniform(0.001, 0.1), len(user))
    return np.where(rng.random(len(user)) < rng.uniform(0.2, 0.95), 0, counts), None


def zero_inflated_amounts(rng: np.random.Generator, user: np.ndarray, item: np.ndarray) -> Made:
    """Return positive numbers of which many are 0."""
    amounts = rng.lognormal(0, rng.uniform(0.2, 2), len(user))
    return np.where(rng.random(len(user)) < rng.uniform(0.2, 0.95), 0, amounts), None


def one_value_users(rng: np.random.Generator, user: np.ndarray, item: np.ndarray) -> Made:
    """Return stars where some users always give the same."""
    stars, own = rng.integers(1, 6, len(user)), rng.integers(1, 6, user.max() + 1)
    always = rng.random(user.max() + 1) < rng.uniform(0.3, 0.9)
    return np.where(always[user], own[user], stars), None


def constant_by_user(rng: np.random.Generator, user: np.ndarray, item: np.ndarray) -> Made:
    """Return one number for each user: stars, or exact."""
    own = rng.normal(size=user.max() + 1)
    return (own if rng.random() < 0.5 else np.rint(2 * own))[user], None


def binary(rng: np.random.Generator, user: np.ndarray, item: np.ndarray) -> Made:
    """Return two values, one of them rare or not."""
    low, high = [(0, 1), (1, 5), (-1, 1), (0, 100)][rng.integers(4)]
    return np.where(rng.random(len(user)) < rng.uniform(0.02, 0.98), high, low), None


def few_levels(rng: np.random.Generator, user: np.ndarray, item: np.ndarray) -> Made:
    """Return some levels of a lattice, with or without the scale."""
    n_levels = rng.integers(3, 25)
    used = rng.choice(n_levels, rng.integers(2, min(n_levels, 5)), replace=False)
    step = [0.1, 0.5, 1.0, 7.0][rng.integers(4)]
    scale = (0.0, step * (n_levels - 1)) if rng.random() < 0.5 else None
    return step * rng.choice(used, len(user)), scale


def heavy_tails(rng: np.random.Generator, user: np.ndarray, item: np.ndarray) -> Made:
    """Return numbers of which a few are enormous."""
    return rng.standard_t(rng.uniform(0.7, 2), len(user)), None


def counts(rng: np.random.Generator, user: np.ndarray, item: np.ndarray) -> Made:
    """Return counts of any size."""
    mean = np.exp(rng.uniform(-1, 10) + rng.normal(size=user.max() + 1)[user])
    return rng.negative_binomial(1, 1 / (1 + mean)), None


def low_rank(rng: np.random.Generator, user: np.ndarray, item: np.ndarray) -> Made:
    """Return a product of factors, with much noise, little, or none."""
    U, V = rng.normal(size=(user.max() + 1, 2)), rng.normal(size=(item.max() + 1, 2))
    noise = [0.0, 0.1, 1.0][rng.integers(3)]
    rating = (U[user] * V[item]).sum(1) + noise * rng.normal(size=len(user))
    return rating, (-1e3, 1e3) if rng.random() < 0.2 else None


KINDS: dict[str, Kind] = {
    kind.__name__: kind
    for kind in (
        top_heavy,
        zero_inflated_counts,
        zero_inflated_amounts,
        one_value_users,
        constant_by_user,
        binary,
        few_levels,
        heavy_tails,
        counts,
        low_rank,
    )
}


def table(kind: Kind, rng: np.random.Generator) -> tuple[pd.DataFrame, tuple | None]:
    """Return a table of a kind, of any shape, unit and number of ratings, and its scale."""
    n_users, n_items = (int(np.exp(rng.uniform(0, 4.5))) for _ in range(2))
    n_cells = n_users * n_items
    n = n_cells if n_cells < 4 else rng.integers(2, min(n_cells, 1500) + 1)
    cells = rng.choice(n_cells, n, replace=False)
    user, item = cells // n_items, cells % n_items
    rating, scale = kind(rng, user, item)
    unit = [1.0, 1.0, 1.0, 1e-6, 1e6][rng.integers(5)]
    if kind in (zero_inflated_counts, counts):
        unit = 1.0
    frame = pd.DataFrame({"user": user, "item": item, "rating": unit * rating})
    return frame, None if scale is None else (unit * scale[0], unit * scale[1])


def faults(posterior: Posterior, ratings: Ratings) -> list[str]:
    """Return what is wrong with the predictions of a fit."""
    assert ratings.rating is not None
    frame = ratings.to_frame()
    users, items = frame["user"].unique()[:5], frame["item"].unique()[:5]
    strangers = pd.DataFrame(
        {"user": [*users, *[-1] * len(items), -1], "item": [-1] * len(users) + [*items, -1]}
    )
    found = []
    spread, width = ratings.rating.std(), np.ptp(ratings.rating)
    for name, pairs in (("training", frame[["user", "item"]]), ("unknown", strangers)):
        told = posterior.predict(pairs)
        numbers = told[["mean", "sd", "lower", "upper"]].to_numpy()
        if not np.isfinite(numbers).all():
            found.append(f"{name}: not finite")
        elif told["sd"].max() > 10 * width:
            found.append(f"{name}: sd / range {told['sd'].max() / width:.1g}")
        elif told["sd"].min() < 1e-6 * spread and "Normal" in repr(posterior.model.likelihood):
            found.append(f"{name}: sd / sd of ratings {told['sd'].min() / spread:.1g}")
    scores = posterior.evaluate(frame)
    if not np.isfinite(scores[["rmse", "nll", "crps"]].to_numpy(float)).all():
        found.append("scores: not finite")
    error = scores["rmse"] / spread
    if isinstance(posterior.model.likelihood, NegativeBinomialLog):  # on the scale of their logs
        log, level = np.log1p(ratings.rating), np.log1p(ratings.rating.mean())
        predicted = np.log1p(posterior.predict(frame[["user", "item"]])["mean"])
        error = np.hypot.reduce(log - predicted) / np.hypot.reduce(log - level)
    if error > WORSE + len(frame) ** -0.5:
        found.append("worse than the mean")
    return found


def one(kind: str, seed: int, model: PMF, method: str | MAP | VI | Gibbs) -> tuple[str, str]:
    """Fit a table; return how it went ("sane", "warned", "refused", "wrong"), and the reason."""
    frame, scale = table(KINDS[kind], np.random.default_rng([seed, list(KINDS).index(kind)]))
    if frame["rating"].nunique() < 2:
        return "sane", "nothing to learn"
    ratings = Ratings.from_frame(frame, scale=scale)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            posterior = fit(model, ratings, method, seed=seed % 2**32, progress=False)
            wrong = faults(posterior, ratings)
        except FitError as error:
            return "refused", str(error)
        except Exception as error:
            return "wrong", f"{type(error).__name__}: {error}"
    told = any(
        words in str(w.message) for w in said for words in ("as badly as", "times the range of")
    )
    likelihood = str(posterior.model.likelihood)
    if wrong and not posterior.converged and (told or wrong == ["worse than the mean"]):
        return "warned", f"{likelihood}: {'; '.join(wrong)}"
    if wrong:
        return "wrong", f"{likelihood}: {'; '.join(wrong)}"
    return "sane", likelihood


def of_table(number: int, options: argparse.Namespace) -> list[tuple[str, str, str, str]]:
    """Fit one table by every model and method; return model, method, how it went, and why."""
    if options.jobs > 1:
        torch.set_num_threads(1)
    kind = options.kinds[number % len(options.kinds)]
    k = options.n_factors
    models = {"PMF()": PMF(k), 'PMF(likelihood="auto")': PMF(k, likelihood="auto")}
    return [
        (name, method, *one(kind, options.seed + number, model, METHODS[method]))
        for name, model in models.items()
        for method in options.methods
    ]


def results_of(options: argparse.Namespace) -> Iterator[list[tuple[str, str, str, str]]]:
    """Yield the results of each table, in order."""
    of_one = partial(of_table, options=options)
    if options.jobs == 1:
        yield from map(of_one, range(options.n))
    else:
        yield from get_reusable_executor(options.jobs).map(of_one, range(options.n))


def rows_of(counted: dict[tuple[str, str], Counter[str]]) -> pd.DataFrame:
    """Return how often each model and method went each way."""
    table = pd.DataFrame(counted).T.reindex(columns=WAYS).fillna(0).astype(int)
    return table.rename_axis(["model", "method"]).reset_index()


def main() -> None:
    """Fit the tables, and print the counts and each fault."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=50, help="number of tables")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=["vi", "map"])
    parser.add_argument("--n-factors", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--verbose", action="store_true", help="print refusals, too")
    options = parser.parse_args()
    shown = ("wrong", "refused", "warned") if options.verbose else ("wrong",)
    counted: dict[tuple[str, str], Counter[str]] = {}
    start = time.perf_counter()
    for done, results in enumerate(results_of(options), 1):
        kind, seed = options.kinds[(done - 1) % len(options.kinds)], options.seed + done - 1
        for name, method, result, reason in results:
            counted.setdefault((name, method), Counter())[result] += 1
            if result in shown:
                print(f"{kind} {seed} {name} {method} {result}: {reason}", flush=True)
        if done % SHOWN == 0 and done < options.n:
            total = sum(counted.values(), Counter())
            so_far = ", ".join(f"{total[way]} {way}" for way in WAYS)
            print(f"{done} tables in {time.perf_counter() - start:.0f} s: {so_far}", flush=True)
    print(f"{options.n} tables in {time.perf_counter() - start:.0f} s")
    print(rows_of(counted).to_string(index=False))


if __name__ == "__main__":
    main()
