"""Ratings that a likelihood cannot produce, refused before their predictions are scored."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from pyro_pmf.data.ratings import Ratings, as_frame, observed
from pyro_pmf.data.table import refuse
from pyro_pmf.model.learned import Learned
from pyro_pmf.model.likelihoods import fault_of, likelihood_of


def require_possible(learned: Learned, pairs: Ratings | pd.DataFrame) -> None:
    """Raise `RatingsError` if the likelihood of a fit cannot produce some ratings.

    Parameters
    ----------
    learned : Learned
        Result of a fit.
    pairs : Ratings or pandas.DataFrame
        Observed ratings.
    """
    likelihood = likelihood_of(learned.model)
    # Levels have bounds, and are compared with the levels that the caller may give.
    if likelihood is None or learned.ratings.transform.bounds:
        return
    rating = observed(pairs)
    different = np.unique(rating)
    values = torch.from_numpy(learned.ratings.to_value(different))
    if fault := fault_of(likelihood, values):
        odd = [likelihood.fault(value) is not None for value in values[:, None]]
        refuse(
            as_frame(pairs),
            np.flatnonzero(np.isin(rating, different[odd] if any(odd) else different)),
            f"a rating that {likelihood} cannot produce",
            f"Some {fault.partition(' (')[0]}: correct these rows, or drop them.",
        )
