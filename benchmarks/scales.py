"""Compare held with learnt standard deviations of the factors.

python -m benchmarks.scales                      # half an hour on one core
python -m benchmarks.scales --movielens DIR      # also an unpacked MovieLens folder
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from unittest import mock

from benchmarks.variants import MODELS, report
from pyro_pmf import PMF, VI, Fixed, Posterior, Priors, Ratings, fit
from pyro_pmf.inference import centring
from pyro_pmf.inference.scales import factor_scales, search

MULTIPLES = (0.7, 1.4)  # of the values that `fit` holds
CENTRED = {"non-centred": math.inf, "centred": 0.0}  # ratings at which a row is half centred
WORTH = 1e-4  # the gain in RMSE on the test side that a step has to exceed


def variants(train: Ratings, test: Ratings) -> Iterator[tuple[str, str, Posterior]]:
    """Yield a fit of each model with each choice of its standard deviations."""
    for name, model in MODELS.items():
        yield name, "held", fit(model, train, progress=False)
        for multiple in MULTIPLES:
            scaled = {site: multiple * x for site, x in factor_scales(model).items()}
            yield name, f"held, times {multiple}", fit_with(model, train, scaled)
        yield name, "held, best on the test side", best_on(test, model, train)
        for how, label in (("held_out", "held-out density"), ("elbo", "the ELBO")):
            fitted = fit(model, train, VI(learn_scales=how), progress=False)
            yield name, f"learnt, by {label}", fitted
        if model.users == "hierarchical":
            for rows, half in CENTRED.items():
                with mock.patch.object(centring, "_HALF_CENTRED", half):
                    yield name, f"held, rows {rows}", fit(model, train, progress=False)


def fit_with(model: PMF, train: Ratings, scales: Mapping[str, float]) -> Posterior:
    """Fit with these standard deviations."""
    priors = Priors(**{site: Fixed(x) for site, x in scales.items()})
    return fit(replace(model, priors=priors), train, progress=False)


def best_on(test: Ratings, model: PMF, train: Ratings) -> Posterior:
    """Fit with the standard deviations that predict the test side best.

    No method could know them. The search is the one of `scales.learnt_scales`.
    """

    def rmse(scales: Mapping[str, float]) -> float:
        return float(fit_with(model, train, scales).evaluate(test)["rmse"])

    def is_gain(new: float, old: float) -> bool:
        return new < old - WORTH

    best = search(factor_scales(model), model.terms.scale_groups, rmse, is_gain)
    return fit_with(model, train, best)


if __name__ == "__main__":
    title = "Standard deviations of the factors, held or learnt"
    report("scales", __doc__, title, "standard deviations", variants)
