"""`fit`: learn a model's latents from ratings by a chosen method, and return a posterior."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from pyro_pmf.arguments import require_seed
from pyro_pmf.data.ratings import Ratings
from pyro_pmf.errors import FitError
from pyro_pmf.inference.conditions import Conditions, as_device
from pyro_pmf.inference.mcmc.chains import sample_chains
from pyro_pmf.inference.methods import HMC, NUTS, VI, Method, as_method
from pyro_pmf.inference.scales import learnt_scales
from pyro_pmf.inference.variational.collapse import NO_FACTORS
from pyro_pmf.inference.variational.loop import fit_guide
from pyro_pmf.model.learned import Learned
from pyro_pmf.model.likelihoods import NormalIdentity, NormalSigmoid, likelihood_of
from pyro_pmf.model.priors import Fixed
from pyro_pmf.model.terms import terms_of
from pyro_pmf.posterior import Posterior
from pyro_pmf.prediction.tables import log_prob

# Factor on the tolerance while scales are learnt: fits from different starts differ by more.
_ROUGHER = 10.0
_MOST_LEVELS = 100  # more distinct values than this are measurements, not levels


@dataclass(frozen=True)
class Progress:
    """State of a fit after one step, passed to its callback.

    Attributes
    ----------
    step : int
        Number of the step, from 1.
    elbo : float
        ELBO at the parameters before the step, in nats.
    seconds : float
        Seconds since `fit` was called.
    posterior : callable
        ``posterior()`` returns the `Posterior` of the current parameters.
    """

    step: int
    elbo: float
    seconds: float
    posterior: Callable[[], Posterior]


def fit(
    model: Callable[..., Any],
    ratings: Ratings,
    method: str | Method = "vi",
    *,
    seed: int = 0,
    device: str | torch.device = "auto",
    dtype: torch.dtype | None = None,
    progress: bool = True,
    callback: Callable[[Progress], None] | None = None,
) -> Posterior:
    """Fit a model to ratings.

    Parameters
    ----------
    model : callable
        A `PMF`, or a Pyro model ``model(ratings)`` or ``model(ratings, history=None)`` with a
        site ``rating`` observed at ``ratings.value``.
    ratings : Ratings
        The training ratings.
    method : {"vi", "map", "nuts", "hmc"} or VI, MAP, NUTS, HMC
        Variational inference, a point estimate, or draws from the exact posterior. A name stands
        for the method with its default options.
    seed : int
        Seed of the fit. On the CPU, the same seed gives the same result. The caller's random state
        is left unchanged.
    device : {"auto", "cpu", "cuda"} or torch.device
        Device of the fit; "auto" takes a GPU if there is one. The posterior is on the CPU.
    dtype : torch.dtype, optional
        torch.float32 or torch.float64. The default is the dtype of ``ratings``; `NUTS` uses
        float64.
    progress : bool
        Whether to show a progress bar.
    callback : callable, optional
        Called with a `Progress` after each step of `MAP` and `VI`, and of the approximation from
        which `HMC` starts. While scales are learnt from held-out ratings, only the last fit calls
        it.

    Returns
    -------
    Posterior
        ``posterior.converged`` says whether the ELBO stopped rising before the step limit, or
        whether the chains have mixed. ``posterior.steps`` has one row per step or draw.

    Raises
    ------
    FitError
        If an argument is not valid or does not suit the model; if the model has no observed site
        ``rating`` or does not run on new pairs; if the likelihood cannot produce some ratings; if
        the fit needs more memory than is free; if the ELBO is not finite; if a point estimate
        collapses; or if chains would sample an unbounded density (a continuous likelihood with
        per-row noise, on ratings that have few levels).
    RatingsError
        If there are too few ratings to hold some out for ``learn_scales="held_out"``.

    Warns
    -----
    UserWarning
        If the deterministic ELBO does not apply, or variational inference shrinks all factors to
        zero.

    Examples
    --------
    >>> from pyro_pmf import PMF, fit
    >>> from pyro_pmf.datasets import simulate
    >>> ratings, _ = simulate(PMF(2), n_users=30, n_items=20, n_ratings=300)
    >>> posterior = fit(PMF(0), ratings, progress=False)
    >>> posterior.converged
    True
    """
    method = as_method(method)
    _check_arguments(model, ratings, seed, dtype)
    run = Conditions(seed, as_device(device), dtype, progress)
    if callback is not None:
        run = replace(run, on_step=_as_on_step(callback))
    if isinstance(method, HMC | NUTS):
        return _as_posterior(_draw(model, ratings, method, run))
    scales: Mapping[str, float] | None = None
    if isinstance(method, VI) and method.learn_scales is not None:
        scales = _learn_scales(model, ratings, method, run)
    return _as_posterior(fit_guide(model, ratings, method, run, scales))


def _as_posterior(learned: Learned) -> Posterior:
    return Posterior(**vars(learned))


def _as_on_step(callback: Callable[[Progress], None]) -> Callable[..., None]:
    """Wrap the user's callback for the loop, which does not know `Posterior`."""

    def on_step(row: dict[str, Any], learned: Callable[[], Learned]) -> None:
        callback(Progress(**row, posterior=lambda: _as_posterior(learned())))

    return on_step


def _draw(
    model: Callable[..., Any], ratings: Ratings, method: HMC | NUTS, run: Conditions
) -> Learned:
    """Draw from the posterior by Markov chains, on the CPU."""
    _refuse_unbounded(model, ratings)
    if isinstance(method, NUTS):
        if run.on_step is not None:
            raise FitError("NUTS maximizes no ELBO and takes no callback: leave callback out.")
        train = ratings.to("cpu", run.dtype or torch.float64)  # cheap for few ratings
        return sample_chains(model, train, method, run, None)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", NO_FACTORS)  # the chains may still find factors
        approximation = fit_guide(model, ratings, method.start, run)
    return sample_chains(model, approximation.ratings, method, run, approximation)


def _learn_scales(
    model: Any, ratings: Ratings, method: VI, run: Conditions
) -> Mapping[str, float]:
    """Return the standard deviations that the last fit holds; none if they are latents."""
    if not terms_of(model):
        raise FitError(
            f"learn_scales={method.learn_scales!r} needs a PMF: leave learn_scales out."
        )
    if method.learn_scales == "elbo":
        return {}
    quick = replace(method, tolerance=_ROUGHER * method.tolerance)
    quiet = replace(run, progress=False, on_step=None)

    def log_density(train: Ratings, test: Ratings, scales: Mapping[str, float]) -> np.ndarray:
        return log_prob(fit_guide(model, train, quick, quiet, scales), test)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", NO_FACTORS)  # other values may find factors
        return learnt_scales(model, ratings, log_density, run.seed, run.progress)


def _check_arguments(
    model: Callable[..., Any], ratings: Ratings, seed: int, dtype: torch.dtype | None
) -> None:
    if not isinstance(ratings, Ratings) or ratings.value is None:
        raise FitError(
            "Give Ratings with values: Ratings.from_frame(frame), with a column of ratings."
        )
    if len(ratings) < 2 or ratings.value.min() == ratings.value.max():
        raise FitError(
            "These ratings do not differ, so there is nothing to learn: give at least two values."
        )
    if (dtype or ratings.dtype) not in (torch.float32, torch.float64):
        raise FitError(
            f"dtype must be torch.float32 or torch.float64, not {dtype or ratings.dtype}."
        )
    require_seed(seed, error=FitError)
    likelihood = likelihood_of(model)
    if likelihood is not None and likelihood.has_bounds and not ratings.transform.bounds:
        raise FitError(
            f"These ratings have no lowest and no highest value, and {likelihood} needs both. "
            'Give PMF(likelihood=NormalIdentity()), or make the Ratings with transform="unit"; '
            'for counts, transform="count" with PMF(likelihood=NegativeBinomialLog()).'
        )


def _refuse_unbounded(model: Any, ratings: Ratings) -> None:
    """Refuse a continuous likelihood with per-row noise on ratings that have few levels.

    Its density is unbounded: where all ratings of a row are met exactly, its noise goes to zero.
    """
    noise = terms_of(model).noise
    if all(isinstance(getattr(model.priors, term.scale), Fixed) for term in noise):
        return  # no per-row noise, or a fixed spread, which keeps the noise from zero
    if not isinstance(likelihood_of(model), NormalSigmoid | NormalIdentity):
        return
    assert ratings.value is not None  # `_check_arguments` has run
    n_levels = len(ratings.value.unique())
    if n_levels <= _MOST_LEVELS and 2 * n_levels < len(ratings):
        sides = " and ".join(term.plate.removesuffix("s") for term in noise)
        raise FitError(
            f"These ratings have {n_levels} levels. A continuous likelihood with noise per "
            f"{sides} then has an unbounded density: some rows are met exactly with noise near "
            "zero, and chains get stuck there. If the levels are evenly spaced, give "
            "PMF(likelihood=OrderedLogit(n)), with n levels from the lowest to the highest "
            'rating; otherwise PMF(noise="shared").'
        )
