"""`fit`: from a model and ratings to a posterior."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pyro
import torch

from pyro_pmf.arguments import require_integer
from pyro_pmf.errors import FitError
from pyro_pmf.likelihoods import NormalIdentity, NormalSigmoid
from pyro_pmf.models import PMF
from pyro_pmf.objective import require_possible
from pyro_pmf.posterior import Posterior
from pyro_pmf.priors import Fixed
from pyro_pmf.random_state import isolated_random_state
from pyro_pmf.ratings import Ratings
from pyro_pmf.sampling import sample_chains
from pyro_pmf.scales import learnt_scales
from pyro_pmf.svi import NO_FACTORS, Progress, fit_guide

_CHAINS = {"hmc": (150, 100), "nuts": (500, 500)}  # draws, and before those of warm-up
_ROUGHER = 10.0  # tolerance while scales are learnt: fits from other starts differ by more
_MOST_LEVELS = 100  # of ratings that are a choice, and no measurement


def fit(
    model: Callable[..., Any],
    ratings: Ratings,
    guide: str | Callable[..., Any] = "normal",
    *,
    inference: str = "svi",
    max_steps: int = 2000,
    learning_rate: float = 0.03,
    tolerance: float = 3e-4,
    learn_scales: str | None = None,
    batches: int = 1,
    seed: int = 0,
    device: str | torch.device = "auto",
    dtype: torch.dtype | None = None,
    num_draws: int | None = None,
    warm_up: int | None = None,
    num_chains: int = 2,
    progress: bool = True,
    callback: Callable[[Progress], None] | None = None,
) -> Posterior:
    """Fit a model to ratings: by MAP, by variational inference, or by drawing from the posterior.

    The deterministic ELBO of ``guide="normal"`` is maximised by L-BFGS in the metric of the
    guide's Fisher information, all other objectives by Adam, with a learning rate that is constant
    until the smoothed ELBO has stopped rising, and then decays (see `optimizers`, `Schedule`).

    Parameters
    ----------
    model : callable
        A `PMF`, or a Pyro model ``model(ratings)`` or ``model(ratings, history=None)`` with a
        site ``rating`` observed at ``ratings.value``.
    ratings : Ratings
        The training ratings.
    guide : {"normal", "delta"} or callable
        "normal" is variational inference: an independent Normal for every latent entry, LogNormal
        for standard deviations, by the deterministic ELBO where the model allows it and by Pyro's
        `Trace_ELBO` where not. "delta" is MAP, with the standard deviations of a `PMF` held at
        `scales.map_scales` unless its priors fix them, and with noise that all ratings share: the
        joint density grows without bound as the noise of one user goes to zero. Or any Pyro guide;
        one that is a module, such as Pyro's autoguides, keeps its parameters, and a further fit
        goes on from them.
    inference : {"svi", "hmc", "nuts"}
        "svi" fits the guide. The others draw from the exact posterior, all standard deviations
        learnt, on the CPU. "hmc" starts from the guide "normal", and Hamiltonian Monte Carlo
        moves each latent in steps of its standard deviation: it predicts best, and takes minutes
        for 100,000 ratings. "nuts", the No-U-Turn sampler, starts from nothing and takes minutes
        for a few hundred: it is there to check the faster methods by.
    max_steps : int
    learning_rate : float
        Adam's step size until the decay. L-BFGS needs none.
    tolerance : float
        The ELBO has stopped rising when it gains less than this, in nats per rating, in 25 steps.
    learn_scales : {"held_out", "elbo"}, optional
        How guide "normal" learns the standard deviations of a `PMF`'s factors that the priors do
        not fix; if left out, it holds them at `scales.factor_scales`. "held_out" maximises their
        prior times the density of a tenth of the ratings given the others, by a search of quicker
        fits, three or more with independent rows and about a dozen with hierarchical ones
        (`scales.learnt_scales`), and holds the values that it finds. "elbo" makes them latents
        like all others, with a posterior; but the ELBO is no good judge of them: where factors
        are weak it prefers none.
    batches : int
        Blocks of users that the ratings are cut into, of which a step looks at one, by Adam. That
        saves memory; where memory suffices, all ratings at once reach the same ELBO sooner.
    seed : int
        The same seed gives the same result, on the CPU. The caller's random state is left as it
        was. It also says which tenth is held out to learn scales.
    device : {"auto", "cpu", "cuda"} or torch.device
        "auto" takes a GPU if there is one. The posterior comes back on the CPU.
    dtype : torch.dtype, optional
        That of ``ratings`` if left out.
    num_draws : int, optional
        Draws that represent a posterior that has no closed form here, 100 if left out; of each
        chain, 150 of "hmc" and 500 of "nuts".
    warm_up : int, optional
        Draws of each chain that only tune it: if left out, 100 of "hmc" and 500 of "nuts".
    num_chains : int
        Of "hmc" and "nuts".
    progress : bool
        Whether to show a progress bar, with the ELBO and the time left at most.
    callback : callable, optional
        Called with a `Progress` after each step; with "hmc", of the fit that it starts from, and
        with ``learn_scales="held_out"`` of the last one.

    Returns
    -------
    Posterior
        ``posterior.converged`` tells whether the ELBO stopped rising before ``max_steps``, or the
        chains have mixed (see `sampling.Chains`).

    Raises
    ------
    FitError
        If an argument is not valid, memory would not suffice, the ELBO stops being finite, or a
        point estimate collapses. Or if draws are to be of a continuous likelihood whose noise
        differs by user or item, by a spread that is learnt, and the ratings have few levels: the
        density has no bound where the ratings of some users or items are met exactly.

    Warns
    -----
    UserWarning
        If the deterministic ELBO does not apply, or variational inference found no factors.
    """
    started = time.perf_counter()
    if inference not in ("svi", *_CHAINS):
        raise FitError(f'inference must be "svi", "hmc" or "nuts", not {inference!r}.')
    usual_draws, usual_warm_up = _CHAINS.get(inference, (100, 1))
    num_draws = usual_draws if num_draws is None else num_draws
    warm_up = usual_warm_up if warm_up is None else warm_up
    counts = {"max_steps": max_steps, "batches": batches, "num_draws": num_draws}
    counts |= {"warm_up": warm_up, "num_chains": num_chains, "seed": seed}
    _check_arguments(ratings, counts, learning_rate, tolerance, dtype)
    _require_bounds(model, ratings)
    if learn_scales is not None:
        _check_learning(learn_scales, model, guide, inference)
    fit_to = partial(
        fit_guide,
        model,
        guide=guide,
        max_steps=max_steps,
        learning_rate=learning_rate,
        batches=batches,
        seed=seed,
        device=device,
        dtype=dtype,
        num_draws=num_draws,
    )
    if inference != "svi":
        if guide != "normal" or batches != 1:
            raise FitError(f"inference={inference!r} takes no guide and no batches.")
        if inference == "nuts" and callback is not None:
            raise FitError('inference="nuts" has no steps and takes no callback.')
        require_integer("num_draws", num_draws, least=4, error=FitError)
        _refuse_unbounded(model, ratings)
        approximation = None
        if inference == "hmc":
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", NO_FACTORS)  # draws may find some yet
                approximation = fit_to(
                    ratings,
                    tolerance=tolerance,
                    progress=progress,
                    callback=callback,
                    started=started,
                )
        size = num_draws, warm_up, num_chains
        return _sample(model, ratings, size, seed, dtype, progress, approximation, started)
    scales: Mapping[str, float] | None = {} if learn_scales == "elbo" else None
    if learn_scales == "held_out":
        assert isinstance(model, PMF)  # it has been checked
        rough = partial(fit_to, tolerance=_ROUGHER * tolerance, progress=False)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", NO_FACTORS)  # with other values they may be found
            scales = learnt_scales(model, ratings, rough, seed, progress)
    return fit_to(
        ratings,
        scales,
        tolerance=tolerance,
        progress=progress,
        callback=callback,
        started=started,
    )


def _sample(
    model: Callable[..., Any],
    ratings: Ratings,
    size: tuple[int, int, int],
    seed: int,
    dtype: torch.dtype | None,
    progress: bool,
    approximation: Posterior | None,
    started: float,
) -> Posterior:
    """Draw from the posterior, on the CPU."""
    if approximation is None:
        train = ratings.to("cpu", dtype or torch.float64)  # of few ratings: it costs nothing
    else:
        train = approximation.ratings
    with isolated_random_state(seed), pyro.get_param_store().scope():
        require_possible(model, train)
        chains = sample_chains(model, train, *size, progress, approximation, started)
    num_draws, _, num_chains = size
    return Posterior(
        model=model,
        ratings=train,
        latents=chains.latents,
        num_draws=num_chains * num_draws,
        history=chains.history,
        converged=chains.converged,
        num_chains=num_chains,
    )


def _check_learning(
    learn_scales: str, model: Callable[..., Any], guide: str | Callable[..., Any], inference: str
) -> None:
    if learn_scales not in ("held_out", "elbo"):
        raise FitError(f'learn_scales must be "held_out", "elbo" or None, not {learn_scales!r}.')
    if inference != "svi":
        raise FitError(f"inference={inference!r} learns all scales: leave learn_scales out.")
    if guide != "normal" or not isinstance(model, PMF):
        raise FitError(f'{learn_scales=} is for guide="normal" and a PMF.')


def _require_bounds(model: Callable[..., Any], ratings: Ratings) -> None:
    """Raise where a likelihood keeps to bounds that the ratings do not have."""
    if isinstance(model, PMF) and model.likelihood.has_bounds and not ratings.transform.bounds:
        raise FitError(
            f"These ratings have no lowest and no highest value, and {model.likelihood} keeps to "
            "such bounds. Give PMF(likelihood=NormalIdentity()), or a likelihood of counts."
        )


def _refuse_unbounded(model: Callable[..., Any], ratings: Ratings) -> None:
    """Raise where the density of levels, taken for exact numbers, would be what is sampled."""
    if not isinstance(model, PMF) or model.noise == "shared":
        return
    if not isinstance(model.likelihood, NormalSigmoid | NormalIdentity):
        return
    spreads = {"user": model.priors.sigma_s, "item": model.priors.sigma_t}
    if all(isinstance(x, Fixed) for side, x in spreads.items() if side in model.noise):
        return  # a known spread of noise keeps it from zero
    assert ratings.value is not None
    n_levels = len(ratings.value.unique())
    if n_levels <= _MOST_LEVELS and 2 * n_levels < len(ratings):
        raise FitError(
            f"These ratings have {n_levels} levels. A continuous likelihood whose noise differs "
            f"by {model.noise.replace('_', ' ')} can meet those of some exactly, at a noise near "
            "zero, and the wider the spread of noise, the higher the density, without bound: "
            "draws from the posterior end there. Give PMF(likelihood=OrderedLogit(n_levels)) if "
            'the levels are evenly spaced, or noise="shared".'
        )


def _check_arguments(
    ratings: Ratings,
    counts: dict[str, int],
    learning_rate: float,
    tolerance: float,
    dtype: torch.dtype | None,
) -> None:
    if not isinstance(ratings, Ratings) or ratings.value is None:
        raise FitError("Give Ratings with values: Ratings.from_frame(frame, ...).")
    if len(ratings) < 2 or ratings.value.min() == ratings.value.max():
        raise FitError("These ratings do not differ: there is nothing to learn from them.")
    if (dtype or ratings.dtype) not in (torch.float32, torch.float64):
        raise FitError(f"dtype must be torch.float32 or torch.float64, not {dtype!r}.")
    for name, value in counts.items():
        require_integer(name, value, least=0 if name == "seed" else 1, error=FitError)
    for name, number in (("learning_rate", learning_rate), ("tolerance", tolerance)):
        if not isinstance(number, int | float) or not 0 < number < math.inf:
            raise FitError(f"{name} must be a positive number, not {number!r}.")
