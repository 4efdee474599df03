"""Compare held with learnt standard deviations of the factors.

python -m benchmarks.scales                      # a quarter of an hour on one core
python -m benchmarks.scales --movielens DIR      # also an unpacked MovieLens folder
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from unittest import mock

from benchmarks.variants import MODELS, report
from pyro_pmf import PMF, VI, Fixed, Posterior, Priors, Ratings, fit
from pyro_pmf.inference import centring
from pyro_pmf.inference.scales import factor_scales

HELD = VI(learn_scales=None)
MULTIPLES = (0.5, 0.7, 1.4, 2.0)  # of the values that HELD holds
CENTRED = {"non-centred": math.inf, "centred": 0.0}  # ratings at which a row is half centred


def variants(train: Ratings, test: Ratings) -> Iterator[tuple[str, str, Posterior]]:
    """Yield a fit of each model with each choice of its standard deviations."""
    for name, model in MODELS.items():
        yield name, "held", fit(model, train, HELD, progress=False)
        for multiple in MULTIPLES:
            yield name, f"held, times {multiple}", fit_with(model, train, multiple)
        for how, label in (("held_out", "held-out density"), ("elbo", "the ELBO")):
            fitted = fit(model, train, VI(learn_scales=how), progress=False)
            yield name, f"learnt, by {label}", fitted
        if model.users == "hierarchical":
            for rows, half in CENTRED.items():
                with mock.patch.object(centring, "_HALF_CENTRED", half):
                    yield name, f"held, rows {rows}", fit(model, train, HELD, progress=False)


def fit_with(model: PMF, train: Ratings, multiple: float) -> Posterior:
    """Fit with this multiple of the standard deviations that HELD holds."""
    scales = {site: Fixed(multiple * x) for site, x in factor_scales(model).items()}
    priors = Priors(tau=Fixed(1.0), **scales)
    return fit(replace(model, priors=priors), train, HELD, progress=False)


if __name__ == "__main__":
    title = "Standard deviations of the factors, held or learnt"
    report("scales", __doc__, title, "standard deviations", variants)
