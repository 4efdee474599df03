"""What holding the standard deviations of the factors does, beside learning them.

python -m benchmarks.scales          # a minute or two
"""

from __future__ import annotations

import argparse
import datetime
import math
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pandas as pd

from benchmarks import machine
from benchmarks.data import DATA
from pyro_pmf import PMF, Priors, Ratings, centring, fit
from pyro_pmf.guides import factor_scales
from pyro_pmf.priors import Fixed
from pyro_pmf.selection import choose_scales

MODELS = {
    "independent": PMF(),
    "hierarchical on both sides": PMF(users="hierarchical", items="hierarchical"),
}
FACTORS = (0.7, 1.0, 1.4)  # of the values that `fit` holds
HALF_CENTRED = centring._HALF_CENTRED
CENTRED = {"non-centred": math.inf, "centred": 0.0}  # in place of the number of ratings for half
# The best for InstEval of all that were tried by hand, with both sides hierarchical.
INSTEVAL = {"sigma_U": 0.2, "sigma_V": 0.4, "sigma_W": 0.25, "sigma_Z": 0.4}


def main() -> None:
    """Fit each variant to each split, print the mean scores, and save them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scales", description=__doc__)
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # where learning finds no factors
    rows = pd.DataFrame(
        row for data in options.data for seed in options.seeds for row in scores(data, seed)
    )
    means = rows.groupby(["data", "model", "scales"], sort=False).mean().drop(columns="seed")
    facts = [", ".join(f"{k}: {v}" for k, v in machine.describe().items()) + "."]
    command = " ".join(["python -m benchmarks.scales", *sys.argv[1:]])
    lines = [
        "# Standard deviations of the factors, held or learnt",
        "",
        f"`{command}`, {datetime.date.today().isoformat()}",
        "",
        *facts,
        "",
        f"Variational inference, default settings; means over splits with seeds {options.seeds}.",
        "",
        "| | model | standard deviations | RMSE | NLL | in 90% interval | ELBO | fit, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (data, model, scales), row in means.iterrows():
        lines.append(
            f"| {data} | {model} | {scales} | {row.rmse:.4f} | {row.nll:.4f} "
            f"| {row.coverage:.1%} | {row.elbo:,.0f} | {row.seconds:.1f} |"
        )
    text = "\n".join(lines) + "\n"
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "scales.md").write_text(text)
    print(text)


def scores(data: str, seed: int) -> Iterator[dict[str, object]]:
    """Yield the scores of each variant on one split."""
    read, scale = DATA[data]
    train, test = Ratings.from_frame(read(), scale=scale).split(test_fraction=0.1, seed=seed)
    for name, model in MODELS.items():
        variants = {"learnt": (model, True)}
        for factor in FACTORS:
            held = {site: Fixed(factor * x) for site, x in factor_scales(model).items()}
            fixed = replace(model, priors=Priors(**held))
            variants["held" if factor == 1 else f"held, times {factor}"] = fixed, False
        if model.users == "hierarchical":
            by_hand = Priors(**{site: Fixed(x) for site, x in INSTEVAL.items()})
            variants["held, best for InstEval"] = replace(model, priors=by_hand), False
            variants["held, chosen by held-out density"] = (
                choose_scales(model, train, progress=False),
                False,
            )
            variants |= {f"held, rows {name}": (model, False) for name in CENTRED}
        for scales, (variant, learn) in variants.items():
            half = CENTRED.get(scales.removeprefix("held, rows "), HALF_CENTRED)
            with mock.patch.object(centring, "_HALF_CENTRED", half):
                posterior = fit(variant, train, learn_scales=learn, progress=False)
            found = posterior.evaluate(test)
            yield {
                "data": data,
                "model": name,
                "scales": scales,
                "seed": seed,
                "rmse": found["rmse"],
                "nll": found["nll"],
                "coverage": found["coverage"],
                "elbo": posterior.history["elbo"].iloc[-1],
                "seconds": posterior.history["seconds"].iloc[-1],
            }


if __name__ == "__main__":
    main()
