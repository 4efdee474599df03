"""Replay recommendations on simulated ratings: what exploring buys over the highest mean.

python examples/replay.py                      # seven minutes on one core
python examples/replay.py --replications 5 --rounds 10

A model is drawn from its prior, and each user begins with a few ratings of random items. In each
round every user is recommended one item, rates it, and all is fitted again. A strategy that only
takes the highest mean learns little of items that few have rated. The regret of a recommendation
is the expected rating of the user's best item that is left, less that of the item recommended;
both are known here. All strategies see the same users, items and noise.

By default, "ucb" saved 0.144 of a regret of 1.809 (90% interval 0.087 to 0.201), "thompson" -0.032
(-0.102 to 0.038), and in the second half 0.062 (-0.037 to 0.162). This size was chosen among few
others, the smaller of which showed no difference, and 6 of its 20 replications were seen before.
With 40 users, 200 items and 15 rounds, in 3 replications, "ucb" saved 0.075 (0.022 to 0.127) and
"thompson" -0.337 (-0.698 to 0.024).
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
import torch

from pyro_pmf import PMF, VI, Fixed, NormalIdentity, Posterior, Priors, Ratings, fit

SIGMA = 0.5  # of a rating
SCALES = {"U": 0.7, "V": 0.7, "b": 0.3, "c": 0.5}
STRATEGIES: dict[str, dict[str, Any]] = {
    "mean": {"strategy": "mean"},
    "ucb": {"strategy": "ucb", "n_sd": 1.0},
    "thompson": {"strategy": "thompson"},
}


def main() -> None:
    """Replay each strategy, and print the table."""
    options = parse_options()
    warnings.simplefilter("ignore", UserWarning)  # of the first fits, on a few ratings
    regrets = pd.DataFrame(
        row for seed in range(options.replications) for row in replication(seed, options)
    )
    print(
        f"{options.users} users, {options.items} items, {options.rounds} rounds, "
        f"{options.replications} replications, simulated.\n"
    )
    print_table(regrets)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=10)
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--first", type=int, default=1, help="ratings of a user at the beginning")
    parser.add_argument("--factors", type=int, default=2)
    parser.add_argument("--replications", type=int, default=20)
    parser.add_argument("--max-steps", type=int, default=60)
    return parser.parse_args()


class World:
    """Users and items whose expected ratings are known, and the ratings that they would give."""

    def __init__(self, seed: int, options: argparse.Namespace) -> None:
        rng = np.random.default_rng(seed)
        n, m, k = options.users, options.items, options.factors
        U, V = SCALES["U"] * rng.normal(size=(n, k)), SCALES["V"] * rng.normal(size=(m, k))
        b, c = SCALES["b"] * rng.normal(size=(n, 1)), SCALES["c"] * rng.normal(size=m)
        self.expected = U @ V.T + b + c
        self.rating = self.expected + SIGMA * rng.normal(size=(n, m))
        first = rng.permuted(np.tile(np.arange(m), (n, 1)), axis=1)[:, : options.first]
        self.first = np.zeros((n, m), dtype=bool)
        np.put_along_axis(self.first, first, True, axis=1)

    def ratings(self, seen: np.ndarray) -> Ratings:
        """Return the ratings of the pairs that were seen; every item is known."""
        user, item = (torch.from_numpy(index) for index in np.nonzero(seen))
        ids = (pd.RangeIndex(n) for n in seen.shape)
        rating = self.rating[seen]
        plain = Ratings(user, item, *ids, (rating.min(), rating.max()), rating)
        return plain.with_transform("standardize")


def replication(seed: int, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the regret of each round and strategy, averaged over users."""
    world = World(seed, options)
    users = np.arange(options.users)
    for name, strategy in STRATEGIES.items():
        seen = world.first.copy()
        for step in range(options.rounds):
            posterior = learn(world.ratings(seen), options)
            listed = posterior.recommend(users, n=1, seed=1000 * seed + step, **strategy)
            item = listed["item"].to_numpy()
            left = np.where(seen, -np.inf, world.expected)
            regret = left.max(1) - world.expected[users, item]
            yield {"seed": seed, "strategy": name, "round": step, "regret": regret.mean()}
            seen[users, item] = True


def learn(ratings: Ratings, options: argparse.Namespace) -> Posterior:
    """Fit the model that made the ratings; its scales are known, in units of the ratings' sd."""
    sd = ratings.transform.width
    known = {
        f"sigma_{site}": Fixed(scale / (sd if site in "bc" else sd**0.5))
        for site, scale in SCALES.items()
    }
    model = PMF(
        options.factors,
        noise="shared",
        likelihood=NormalIdentity(0.0),
        priors=Priors(sigma=Fixed(SIGMA / sd), tau=Fixed(1.0), **known),
    )
    method = VI(max_steps=options.max_steps, learn_scales=None)
    return fit(model, ratings, method, progress=False)


def print_table(regrets: pd.DataFrame) -> None:
    """Print mean regrets, and how much less than that of "mean", with 90% intervals."""
    last = regrets["round"].max()
    half = regrets["round"] >= (last + 1) // 2
    by = ["seed", "strategy"]
    each = {
        "all rounds": regrets.groupby(by)["regret"].mean().unstack(),
        "second half": regrets[half].groupby(by)["regret"].mean().unstack(),
    }
    print(
        f"{'regret of a recommendation':<28}{'strategy':<12}{'mean':>7}{'saved, 90% interval':>26}"
    )
    for when, table in each.items():
        for name in STRATEGIES:
            saved = table["mean"] - table[name]
            interval = "" if name == "mean" else of_interval(saved.to_numpy())
            print(f"{when:<28}{name:<12}{table[name].mean():>7.3f}{interval:>26}")


def of_interval(x: np.ndarray) -> str:
    """Return the mean and its 90% interval over replications, by Student's t."""
    if len(x) < 2:
        return f"{x.mean():.3f}"
    half = scipy.stats.t.ppf(0.95, len(x) - 1) * x.std(ddof=1) / len(x) ** 0.5
    return f"{x.mean():.3f} ({x.mean() - half:.3f} to {x.mean() + half:.3f})"


if __name__ == "__main__":
    main()
