"""Score variants of a fit on the same splits of each data set, and print a table."""

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
# From the training and the test side: the names of model and variant, and the fit.
Variants = Callable[[Ratings, Ratings], Iterator[tuple[str, str, Posterior]]]


def report(name: str, doc: str | None, title: str, column: str, variants: Variants) -> None:
    """Fit each variant to each split, print the mean scores, and save them.

    Parameters
    ----------
    name : str
        Name of the module that is run, and of its file of results.
    doc : str or None
        Docstring of the module.
    title : str
        Title of the table.
    column : str
        Title of the column that names the variant.
    variants : callable
        Yields the fits of one split.
    """
    options = parse_options(name, doc)
    warnings.simplefilter("ignore")  # of variants that find no factors
    means = mean_scores(options, variants)
    text = "\n".join(
        [
            f"# {title}",
            "",
            f"`{' '.join([f'python -m benchmarks.{name}', *sys.argv[1:]])}`, "
            f"{datetime.date.today().isoformat()}",
            "",
            ", ".join(f"{k}: {v}" for k, v in machine.describe().items()) + ".",
            "",
            f"Variational inference, default settings; means over splits, seeds {options.seeds}.",
            "",
            *table(means, column),
            "",
        ]
    )
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{name}.md").write_text(text)
    print(text)


def parse_options(name: str, doc: str | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--movielens", metavar="DIR", help="a MovieLens folder, 0.5 to 5 stars")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args()


def mean_scores(options: argparse.Namespace, variants: Variants) -> pd.DataFrame:
    """Score each variant on each split; return the means by data set, model and variant."""
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
    return rows.groupby(["data", "model", "variant"], sort=False).mean()


def scores(posterior: Posterior, test: Ratings) -> dict[str, float]:
    """Return the numbers of one fit that the table shows."""
    found = posterior.evaluate(test)
    return {
        "rmse": found["rmse"],
        "nll": found["nll"],
        "coverage": found["coverage_90"],
        "spearman": found["error_sd_spearman"],
        "elbo": posterior.steps["elbo"].iloc[-1],
        "seconds": posterior.steps["seconds"].iloc[-1],
    }


def table(means: pd.DataFrame, column: str) -> Iterator[str]:
    """Yield the lines of the Markdown table."""
    yield f"| | model | {column} | RMSE | NLL | in 90% interval | error and sd | ELBO | fit, s |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for (data, model, variant), row in means.iterrows():
        yield (
            f"| {data} | {model} | {variant} | {row.rmse:.4f} | {row.nll:.4f} "
            f"| {row.coverage:.1%} | {row.spearman:.3f} | {row.elbo:,.0f} | {row.seconds:.1f} |"
        )
