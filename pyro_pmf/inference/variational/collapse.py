"""Checks of a fit that has ended: for a scale of zero, and for factors that change no score."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from pyro_pmf.errors import FitError, warn
from pyro_pmf.inference.variational.objective import Objective
from pyro_pmf.model.learned import Learned
from pyro_pmf.model.running import run
from pyro_pmf.model.terms import terms_of
from pyro_pmf.moments.bilinear import dot

NO_FACTORS = "The factors have shrunk to zero"
_COLLAPSED_SCALE = 1e-3  # of a free standard deviation, on the unit or the logit scale
_COLLAPSED_SIGNAL = 1e-4  # on the scale of the score; collapsed point estimates were at 1e-12
_DROWNED_SIGNAL = 0.05  # times its own standard deviation: a four-hundredth of the variance


def refuse_collapse(learned: Learned, objective: Objective) -> None:
    """Refuse a point estimate with a scale of zero.

    Parameters
    ----------
    learned : Learned
        The point estimate.
    objective : Objective
        Objective of its fit.

    Raises
    ------
    FitError
        If a free standard deviation is below 0.001.
    """
    for name in objective.scalar_scales:
        value: Any = learned.latents[name]
        scale = float(value if learned.n_draws is None else value[0])
        if scale < _COLLAPSED_SCALE:
            raise FitError(
                f"The point estimate collapsed: {name} is {scale:.1e}. The joint density grows "
                "without bound as latents and their standard deviation shrink, or as noise goes "
                f"to zero on interpolated ratings. Fix {name} in the model (in a PMF by "
                f'Priors({name}=Fixed(...))), or integrate the latents out with method="vi".'
            )


def warn_without_factors(learned: Learned) -> None:
    """Warn if the factors of a fit change no score: it predicts by biases alone.

    Parameters
    ----------
    learned : Learned
        Result of a fit.

    Warns
    -----
    UserWarning
        If they do not.
    """
    if has_no_factors(learned):
        warn(
            f"{NO_FACTORS}: by the objective of this fit, these ratings hold no more than biases. "
            'Give method="gibbs", which sees weaker factors, or n_factors=0.'
        )


def has_no_factors(learned: Learned) -> bool:
    """Return whether the expected U_i . V_j hardly varies over the training pairs.

    Variational inference may leave a trace of factors that drown in their own uncertainty.

    Parameters
    ----------
    learned : Learned
        Result of a fit.

    Returns
    -------
    bool
        False also if the model states no factors.
    """
    factors = terms_of(learned.model).factors
    if factors is None:
        return False
    latents = learned.latents if learned.n_draws is None else next(learned.draws())
    sites = run(learned.model, latents, learned.ratings, learned.ratings)
    U, V = (sites[factor.site]["value"] for factor in factors)
    score: Any = dot(U, V, learned.ratings.pattern)
    mean, var = (score, score * 0) if isinstance(score, Tensor) else (score.mean, score.var)
    least = max(_COLLAPSED_SIGNAL, _DROWNED_SIGNAL * math.sqrt(float(var.mean())))
    return float(mean.std(correction=0)) < least
