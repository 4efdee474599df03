"""Measure the calibration of predictions, beside myFM on the same ratings.

python -m benchmarks.uncertainty                               # three quarters of an hour
python -m benchmarks.uncertainty --movielens DIR               # also an unpacked MovieLens folder
python -m benchmarks.uncertainty --data insteval --seeds 0
"""

from __future__ import annotations

import argparse
import datetime
import os
import shlex
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import arviz
import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot
from torch.distributions import Distribution, Normal, constraints

os.environ.setdefault("TQDM_DISABLE", "1")  # nothing else turns off the bar of myFM

from benchmarks import machine
from benchmarks.compare import pool, rmse_difference
from benchmarks.data import DATA, as_tables
from benchmarks.sbc import scores_of
from pyro_pmf import PMF, OrderedLogit, Posterior, Ratings, fit
from pyro_pmf.datasets import movielens
from pyro_pmf.prediction.metrics import calibration, score_each, summarize, summarize_by
from pyro_pmf.prediction.mixture import mixture

LEVELS = {"movielens-small": 10, "insteval": 5, "movielens-100k": 5}
RANK, ITERATIONS = 10, 300  # of myFM
DRAWS, PEER = "ordinal, Gibbs", "myFM"
BY_COUNT = (DRAWS, "default")  # methods reported by the number of training ratings too
INTERVALS = (0.5, 0.8, 0.9, 0.95)
COLORS = {
    "default": "#D55E00",
    "shared noise": "#E69F00",
    "ordinal": "#CC79A7",
    DRAWS: "#009E73",
    "myFM": "#0072B2",
    "myFM, ordered probit": "#56B4E9",
}
NOTES = """
*default* is `fit(PMF(users="hierarchical", items="hierarchical"), train)` on every data set.
*shared noise* adds `noise="shared"`. *ordinal* adds `likelihood=OrderedLogit(n_levels)` instead.
*ordinal, Gibbs* is *ordinal* by `fit(..., "gibbs")`: draws from the posterior, all standard
deviations learnt. *myFM* is Gibbs sampling with both SVD++ blocks, rank 10, 300 iterations; *myFM,
ordered probit* has the same settings.

*Against myFM* is the RMSE minus the RMSE of myFM on the same held-out ratings: the mean over
splits, ± a standard error from the pairs of errors, clustered by user. Negative is better. NLL is
of the continuous density, per rating unit. Log loss is of the possible levels; continuous
predictions are rounded to the nearest level. CRPS is in rating units. Coverage is the share inside
central 90% intervals, by the probability integral transform; it is randomised for levels, so that
90% is right for them too. Spearman, Pearson and RPI measure how well the predicted standard
deviation tells large errors from small ones (see `metrics.summarize`).
"""


class Levels(Distribution):
    """Probabilities of evenly spaced levels from 0 to 1, shape (n, n_levels)."""

    arg_constraints = {"probs": constraints.simplex}  # noqa: RUF012

    def __init__(self, probs: torch.Tensor) -> None:
        self.probs, self.n_levels = probs, probs.shape[1]
        self.spacing = 1 / (self.n_levels - 1)
        super().__init__(probs.shape[:1], validate_args=False)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Any:
        """Discrete; it numbers the levels, whereas the values themselves are fractions."""
        return constraints.integer_interval(0, self.n_levels - 1)

    @property
    def mean(self) -> torch.Tensor:
        """Expected value."""
        return self.probs @ self._levels()

    @property
    def variance(self) -> torch.Tensor:
        """Variance of the value."""
        return self.probs @ self._levels() ** 2 - self.mean**2

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log probability of a level."""
        return self.probs.gather(1, self._index(value)[:, None])[:, 0].log()

    def cdf(self, value: torch.Tensor) -> torch.Tensor:
        """Probability of this level or a lower one."""
        return self.probs.cumsum(1).gather(1, self._index(value)[:, None])[:, 0]

    def _index(self, value: torch.Tensor) -> torch.Tensor:
        return (value / self.spacing).round().long().expand(len(self.probs))

    def _levels(self) -> torch.Tensor:
        return torch.linspace(0, 1, self.n_levels, dtype=self.probs.dtype)


def ours(
    train: Ratings,
    test: Ratings,
    seed: int,
    levels: np.ndarray,
    method: str = "vi",
    **options: Any,
) -> pd.DataFrame:
    """Score a model of this package."""
    model = PMF(users="hierarchical", items="hierarchical", **options)
    posterior = fit(model, train, method, progress=False)
    scores = posterior.scores(test, levels=levels)
    if method == "gibbs":
        scores.attrs["mixing"] = mixing(scores_by_chain(posterior))
    return scores


def some_of(train: Ratings) -> torch.Tensor:
    """Return the places of 200 training pairs."""
    return torch.linspace(0, len(train) - 1, 200).long()


def scores_by_chain(posterior: Posterior) -> np.ndarray:
    """Return the draws of scores of some training pairs, shape (n_chains, n_draws, n_pairs)."""
    train = posterior.ratings
    some = some_of(train)
    scores = scores_of(posterior.latents, train.user[some], train.item[some]).double().numpy()
    return scores.reshape(posterior.n_chains, -1, len(some))


def mixing(draws: np.ndarray) -> tuple[float, float, float]:
    """Return the median and 95% quantile of R-hat, and the median ESS, of (chain, draw, pair)."""
    rhat = [float(arviz.rhat(x)) for x in np.moveaxis(draws, 2, 0)]
    ess = [float(arviz.ess(x)) for x in np.moveaxis(draws, 2, 0)]
    return float(np.median(rhat)), float(np.quantile(rhat, 0.95)), float(np.median(ess))


def myfm(
    train: Ratings, test: Ratings, seed: int, levels: np.ndarray, ordinal: bool = False
) -> pd.DataFrame:
    """Score myFM with both SVD++ blocks."""
    from myfm import MyFMGibbsRegressor, MyFMOrderedProbit

    from benchmarks.peers.myfm_gibbs import Features, OfSamples

    table, held_out = as_tables(train, test)
    features = Features(table, items_of_user=True, users_of_item=True)
    x, relations = features.of(table)
    low, high = train.scale
    family = MyFMOrderedProbit if ordinal else MyFMGibbsRegressor
    sampler = family(rank=RANK, random_seed=seed)
    rating = np.searchsorted(levels, table.rating - 1e-6) if ordinal else table.rating
    sampler.fit(x, rating, X_rel=relations, n_iter=ITERATIONS, group_shapes=features.group_shapes)
    if ordinal:
        probs = sampler.predict_proba(*features.of(held_out))
        parts: list[tuple[float, Distribution]] = [(1.0, Levels(torch.from_numpy(probs)))]
    else:
        samples = OfSamples(sampler, features)
        chain = samples.each(table.part(some_of(train).numpy()))
        each = torch.from_numpy(samples.each(held_out))
        alpha = [h.alpha for h in sampler.history_.hypers[-len(each) :]]
        parts = [
            (1 / len(each), Normal((mean - low) / (high - low), a**-0.5 / (high - low)))
            for mean, a in zip(each, alpha, strict=True)
        ]
    predictive = mixture(parts, train.scale)
    rating = torch.from_numpy(held_out.rating)
    scores = score_each(predictive, rating, levels=levels)
    if not ordinal:
        half = len(chain) // 2  # R-hat needs two
        scores.attrs["mixing"] = mixing(np.stack([chain[:half], chain[half : 2 * half]]))
    scores["error"] = (rating - predictive.mean.clamp(low, high)).numpy()
    return scores.assign(
        n_user=counts(held_out.user, table.user), n_item=counts(held_out.item, table.item)
    )


def counts(index: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Count each index among the training indices; the count of -1, an unknown id, is 0."""
    return np.append(np.bincount(train), 0)[index]


Score = Callable[[Ratings, Ratings, int, np.ndarray], pd.DataFrame]


def methods(n_levels: int) -> dict[str, Score]:
    """Name the methods that are compared."""
    return {
        "default": ours,
        "shared noise": partial(ours, noise="shared"),
        "ordinal": partial(ours, likelihood=OrderedLogit(n_levels)),
        DRAWS: partial(ours, likelihood=OrderedLogit(n_levels), method="gibbs"),
        "myFM": myfm,
        "myFM, ordered probit": partial(myfm, ordinal=True),
    }


Found = dict[str, list[pd.DataFrame]]


def run(
    name: str, frame: pd.DataFrame, scale: tuple[float, float], n_levels: int, seeds: list[int]
) -> tuple[Found, dict[str, float]]:
    """Score every method on every split of a data set; return the scores and mean seconds."""
    found: Found = {}
    seconds: dict[str, list[float]] = {}
    levels = np.linspace(*scale, n_levels)
    for seed in seeds:
        train, test = Ratings.from_frame(frame, scale=scale).split(0.1, seed)
        for method, score in methods(n_levels).items():
            started = time.perf_counter()
            scores = score(train, test, seed, levels)
            seconds.setdefault(method, []).append(time.perf_counter() - started)
            found.setdefault(method, []).append(scores.assign(user=test.user.numpy()))
            line = f"{name}  seed {seed}  {method:22} RMSE {summarize(scores)['rmse']:.4f}"
            print(f"{line}  {seconds[method][-1]:.1f} s", file=sys.stderr, flush=True)
    return found, {method: float(np.mean(values)) for method, values in seconds.items()}


def against(found: Found, method: str) -> tuple[float, float]:
    """Return RMSE minus RMSE of myFM, pooled over splits, and the standard error."""
    pairs = []
    for peer, own in zip(found[PEER], found[method], strict=True):
        zero = np.zeros(len(own))
        errors = peer["error"].to_numpy(), own["error"].to_numpy()
        pairs.append(rmse_difference(zero, *errors, own["user"].to_numpy()))
    return pool(pairs)


def section(name: str, found: Found, seconds: dict[str, float]) -> list[str]:
    """Report one data set."""
    head = ["RMSE", "against myFM", "NLL", "log loss", "CRPS", "coverage", "Spearman", "Pearson"]
    lines = [f"## {name}", "", f"| | {' | '.join([*head, 'RPI', 's'])} |", "|---" * 11 + "|"]
    for method, parts in found.items():
        each = pd.DataFrame([summarize(part) for part in parts]).mean()
        behind, error = against(found, method)
        discrete = "ord" in method
        cells = [
            f"{each.rmse:.4f}",
            "" if method == PEER else f"{behind:+.4f} ± {error:.4f}",
            "" if discrete else f"{each.nll:.4f}",
            f"{each.log_loss:.4f}",
            f"{each.crps:.4f}",
            f"{each.coverage_90:.1%}",
            f"{each.error_sd_spearman:.3f}",
            f"{each.error_sd_pearson:.3f}",
            f"{each.rpi:.2f}",
            f"{seconds[method]:.1f}",
        ]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    lines.append("")
    for method in (DRAWS, PEER):
        rhat, high, ess = np.mean([part.attrs["mixing"] for part in found[method]], 0)
        lines.append(
            f"*{method}*: over the scores of 200 training pairs, the median split R-hat is "
            f"{rhat:.3f}, the 95% quantile {high:.3f}, and the median effective sample size "
            f"{ess:.0f}, {ess / seconds[method]:.1f} a second (means over splits).\n"
        )
    lines += ["", f"Coverage of central intervals, all {len(found[PEER])} splits together:", ""]
    lines += [
        f"| | {' | '.join(f'{p:.0%}' for p in INTERVALS)} |",
        "|---|" + "---|" * len(INTERVALS),
    ]
    for method, parts in found.items():
        table = calibration(pd.concat(parts)["pit"].to_numpy(), INTERVALS)
        inside = " | ".join(f"{share:.1%}" for share in table["coverage"])
        lines.append(f"| {method} | {inside} |")
    for method in BY_COUNT:
        for of in ("user", "item"):
            lines += ["", f"*{method}*, by the training ratings of the {of}:", ""]
            lines += by_count(pd.concat(found[method]), of)
    return [*lines, ""]


def by_count(scores: pd.DataFrame, of: str) -> list[str]:
    """Report ratings by the number of training ratings of their user or item."""
    table = summarize_by(scores, scores[f"n_{of}"])
    table.loc["< 20 together"] = summarize(scores[scores[f"n_{of}"] < 20])
    lines = ["| training ratings | n | RMSE | NLL | in 90% interval | mean sd | Spearman |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for label, row in table.iterrows():
        lines.append(
            f"| {label} | {row.n:,.0f} | {row.rmse:.4f} | {row.nll:.4f} | {row.coverage_90:.1%} "
            f"| {row.sharpness:.3f} | {row.error_sd_spearman:.3f} |"
        )
    return lines


def draw(every: dict[str, Found], path: Path) -> None:
    """Draw coverage minus nominal coverage, one panel for each data set."""
    figure, axes = pyplot.subplots(
        1,
        len(every),
        figsize=(3.4 * len(every), 3.9),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, (name, found) in zip(axes[0], every.items(), strict=True):
        axis.axhline(0, color="0.45", linewidth=1, linestyle=(0, (4, 3)))
        for method, parts in found.items():
            table = calibration(pd.concat(parts)["pit"].to_numpy())
            gap = 100 * (table["coverage"] - table["probability"])
            style = "--" if "myFM" in method else "-"
            axis.plot(100 * table["probability"], gap, style, color=COLORS[method], label=method)
        axis.set(title=name, xlabel="central interval (%)", xlim=(0, 100))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("coverage of held-out ratings\nminus nominal (percentage points)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    """Score all methods and write the report."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.uncertainty",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", nargs="*", choices=DATA, default=list(DATA))
    parser.add_argument("--movielens", metavar="DIR", help="a MovieLens folder, 0.5 to 5 stars")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--sample", type=int, help="take only N ratings, for a trial", metavar="N")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of myFM, about setuptools
    sets = {name: (*DATA[name], LEVELS[name]) for name in options.data}
    if options.movielens:
        folder = Path(options.movielens)
        sets[folder.name] = (partial(movielens, folder), (0.5, 5.0), 10)
    every: dict[str, Found] = {}
    body: list[str] = []
    for name, (read, scale, n_levels) in sets.items():
        frame = read() if options.sample is None else read().sample(options.sample, random_state=0)
        every[name], seconds = run(name, frame, scale, n_levels, options.seeds)
        body += section(name, every[name], seconds)
    given = [Path(word).name if Path(word).is_dir() else word for word in sys.argv[1:]]
    facts = [", ".join(f"{k}: {v}" for k, v in machine.describe().items()) + "."]
    lines = ["# Uncertainty, beside myFM", ""]
    lines += [f"`{shlex.join(['python', '-m', 'benchmarks.uncertainty', *given])}`, "]
    lines[-1] += datetime.date.today().isoformat()
    lines += ["", *facts, "", f"10% held out at random, seeds {options.seeds}.", NOTES, *body]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "uncertainty.md").write_text("\n".join(lines))
    draw(every, options.out / "uncertainty.png")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
