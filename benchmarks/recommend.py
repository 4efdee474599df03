"""Time recommendations for 1,000 users out of 10,000 items, by likelihood and strategy.

python -m benchmarks.recommend                  # a minute on two cores
python -m benchmarks.recommend --draws 100      # of 100 draws, instead of a closed form
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from benchmarks import machine
from pyro_pmf import (
    PMF,
    BernoulliLogit,
    Likelihood,
    NegativeBinomialLog,
    NormalIdentity,
    NormalSigmoid,
    OrderedLogit,
    Posterior,
    Ratings,
)
from pyro_pmf.moments.gaussian import Gaussian, LogGaussian, Value

# By name: the likelihood, the range of the ratings, the transform, and a rating for "probability".
CASES: dict[str, tuple[Likelihood, tuple[int, int], str, float]] = {
    "OrderedLogit": (OrderedLogit(5), (1, 5), "unit", 4),
    "NormalSigmoid": (NormalSigmoid(0.25), (1, 5), "unit", 4),
    "NormalIdentity": (NormalIdentity(0.25), (1, 5), "standardize", 4),
    "BernoulliLogit": (BernoulliLogit(), (0, 1), "unit", 1),
    "NegativeBinomialLog": (NegativeBinomialLog(), (0, 9), "count", 4),
}
STRATEGIES = ("mean", "ucb", "lcb", "thompson", "probability")
RATED = 20  # ratings of a user, at least


def posterior_of(name: str, options: argparse.Namespace) -> Posterior:
    """Return a posterior of the size of a fit by VI, without fitting it."""
    likelihood, (low, high), transform, _ = CASES[name]
    rng = np.random.default_rng(0)
    n, m, k = options.users, options.items, options.factors
    rated = min(m, max(RATED, -(-m // n)))  # enough that every item is known
    user = np.arange(n).repeat(rated)
    item = np.concatenate([rng.choice(m, rated, replace=False) for _ in range(n)])
    item[:m] = np.arange(m)
    frame = pd.DataFrame({"user": user, "item": item})
    frame["rating"] = rng.integers(low, high + 1, len(frame)).astype(float)
    frame = frame.drop_duplicates(["user", "item"])
    scale = None if transform in ("count", "standardize") else (low, high)
    ratings = Ratings.from_frame(frame, scale=scale, transform=transform)
    model = PMF(k, users=options.rows, items=options.rows, likelihood=likelihood)
    shapes = {
        "U": (n, k),
        "V": (m, k),
        "b": (n,),
        "c": (m,),
        "s": (n,),
        "t": (m,),
        "mu_U": (k,),
        "mu_V": (k,),
    }
    if options.rows == "hierarchical":
        shapes |= {"W": (m, k), "Z": (n, k)}
    latents: dict[str, Value] = {
        site: Gaussian(
            _normal(rng, shape) * (0.5 if len(shape) == 2 else 0.3),
            0.01 + 0.03 * _normal(rng, shape).square(),
            frozenset({site}),
        )
        for site, shape in shapes.items()
    }
    if likelihood.has_mu:
        latents["mu"] = Gaussian(torch.tensor(0.3), torch.tensor(1e-3), frozenset({"mu"}))
    if likelihood.has_sigma:
        latents["sigma"] = LogGaussian(
            torch.tensor(-1.0), torch.tensor(1e-3), frozenset({"sigma"})
        )
    latents |= {f"sigma_{site}": torch.tensor(0.5) for site in shapes}
    latents["tau"] = torch.ones(k)
    if isinstance(likelihood, OrderedLogit):
        latents["shares"] = torch.full((5,), 0.2)
    steps = pd.DataFrame({"step": [1], "elbo": [0.0], "seconds": [0.0]})
    if not options.draws:
        return Posterior(model, ratings, latents, None, steps, True)
    drawn = {site: _draws(value, options.draws) for site, value in latents.items()}
    return Posterior(model, ratings, drawn, options.draws, steps, True)


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(rng.normal(size=shape)).float()


def _draws(value: Value, n: int) -> Tensor:
    parts = [value if isinstance(value, Tensor) else value.draw() for _ in range(n)]
    return torch.stack(parts)


def seconds(posterior: Posterior, n_users: int, **options: Any) -> float:
    """Return the seconds of one call."""
    started = time.perf_counter()
    posterior.recommend(range(n_users), **options)
    return time.perf_counter() - started


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recommend",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--factors", type=int, default=16)
    parser.add_argument("--draws", type=int, default=0)
    parser.add_argument("--rows", choices=["independent", "hierarchical"], default="independent")
    parser.add_argument("--likelihoods", nargs="+", choices=CASES, default=list(CASES))
    options = parser.parse_args()
    print(f"{options.users:,} users x {options.items:,} items, seconds of a call; ", end="")
    print(f"{machine.describe()['cores']} cores, {torch.get_num_threads()} threads\n")
    print(f"| likelihood | {' | '.join(STRATEGIES)} |\n|---|{'---|' * len(STRATEGIES)}")
    for name in options.likelihoods:
        posterior = posterior_of(name, options)
        posterior.recommend([0])  # torch's first calls
        cells = []
        for strategy in STRATEGIES:
            at_least = CASES[name][3] if strategy == "probability" else None
            took = seconds(posterior, options.users, strategy=strategy, at_least=at_least)
            cells.append(f"{took:.2f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
