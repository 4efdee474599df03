"""A table of variants of a fit, on the same splits of each data set."""

from __future__ import annotations

import argparse
import datetime
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pandas as pd

from benchmarks import machine
from benchmarks.data import DATA
from pyro_pmf import PMF, Posterior, Ratings
from pyro_pmf.datasets import movielens

MODELS = {
    "independent": PMF(),
    "hierarchical on both sides": PMF(users="hierarchical", items="hierarchical"),
}
# Of the training and the test side: a model's name, a variant's, and what was fitted.
Variants = Callable[[Ratings, Ratings], Iterator[tuple[str, str, Posterior]]]


def report(name: str, doc: str | None, title: str, what: str, variants: Variants) -> None:
    """Fit each variant to each split, print the mean scores, and save them.

    Parameters
    ----------
    name : str
        Of the module that is run, and of the file of results.
    doc : str or None
        What the module does.
    title : str
        Of the table.
    what : str
        What varies.
    variants : callable
        Yields the fits of one split.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--movielens", metavar="DIR", help="a MovieLens folder, 0.5 to 5 stars")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # where a variant finds no factors
    sets = {data: DATA[data] for data in options.data}
    if options.movielens:
        folder = Path(options.movielens)
        sets[folder.name] = partial(movielens, folder), (0.5, 5.0)
    rows = pd.DataFrame(
        {"data": data, "model": model, "variant": variant} | scores(posterior, test)
        for data, (read, scale) in sets.items()
        for seed in options.seeds
        for train, test in [Ratings.from_frame(read(), scale=scale).split(0.1, seed)]
        for model, variant, posterior in variants(train, test)
    )
    means = rows.groupby(["data", "model", "variant"], sort=False).mean()
    lines = [
        f"# {title}",
        "",
        f"`{' '.join([f'python -m benchmarks.{name}', *sys.argv[1:]])}`, "
        f"{datetime.date.today().isoformat()}",
        "",
        ", ".join(f"{k}: {v}" for k, v in machine.describe().items()) + ".",
        "",
        f"Variational inference, default settings; means over splits with seeds {options.seeds}.",
        "",
        f"| | model | {what} | RMSE | NLL | in 90% interval | error and sd | ELBO | fit, s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (data, model, variant), row in means.iterrows():
        lines.append(
            f"| {data} | {model} | {variant} | {row.rmse:.4f} | {row.nll:.4f} "
            f"| {row.coverage:.1%} | {row.spearman:.3f} | {row.elbo:,.0f} | {row.seconds:.1f} |"
        )
    text = "\n".join(lines) + "\n"
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{name}.md").write_text(text)
    print(text)


def scores(posterior: Posterior, test: Ratings) -> dict[str, float]:
    """Return what the table says of one fit."""
    found = posterior.evaluate(test)
    return {
        "rmse": found["rmse"],
        "nll": found["nll"],
        "coverage": found["coverage_90"],
        "spearman": found["error_sd_spearman"],
        "elbo": posterior.history["elbo"].iloc[-1],
        "seconds": posterior.history["seconds"].iloc[-1],
    }
