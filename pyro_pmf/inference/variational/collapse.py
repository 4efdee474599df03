"""Checks that a fit has not collapsed: to a scale of zero, or to factors that change no score."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pyro_pmf.errors import FitError
from pyro_pmf.inference.variational.objective import Objective
from pyro_pmf.model.learned import Learned
from pyro_pmf.model.running import run
from pyro_pmf.model.terms import terms_of
from pyro_pmf.moments.bilinear import dot

NO_FACTORS = "The factors have shrunk to zero"
_COLLAPSED_SCALE = 1e-3  # of a free standard deviation, on the unit or the logit scale
_COLLAPSED_SIGNAL = 1e-4  # logit scale; collapsed fits were at 1e-12, live ones above 1e-1


def refuse_collapse(learned: Learned, objective: Objective) -> None:
    """Refuse a point estimate whose scale or factors are zero.

    Parameters
    ----------
    learned : Learned
        The point estimate.
    objective : Objective
        Objective of its fit.

    Raises
    ------
    FitError
        If a free standard deviation is below 0.001, or the factors change no score.
    """
    if has_no_factors(learned):
        raise FitError(
            "The point estimate collapsed: U_i . V_j is zero for every pair, with "
            f"{_scales(learned)}. "
            'Integrate the factors out with method="vi", or hold larger sigma_U and sigma_V and a '
            "smaller sigma, by Priors(sigma_U=Fixed(...), sigma_V=Fixed(...), sigma=Fixed(...)). "
            "If the ratings hold no more than biases, give n_factors=0."
        )
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


def has_no_factors(learned: Learned) -> bool:
    """Return whether the expected U_i . V_j hardly varies over the training pairs.

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
    mean = score if isinstance(score, Tensor) else score.mean
    return float(mean.std(correction=0)) < _COLLAPSED_SIGNAL


def _scales(learned: Learned) -> str:
    factors = terms_of(learned.model).factors or ()
    names = ["sigma", *(factor.scale for factor in factors)]
    scales = {name: learned.latents.get(name) for name in names}
    shown = {name: x.flatten()[0] for name, x in scales.items() if isinstance(x, Tensor)}
    return ", ".join(f"{name} = {float(x):.2g}" for name, x in shown.items())
