"""Fitting a guide to a model, which is variational inference, or MAP if the guide is a point."""

from __future__ import annotations

import itertools
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyro
import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyro_pmf.bilinear import dot
from pyro_pmf.errors import FitError
from pyro_pmf.guides import NormalGuide
from pyro_pmf.models import PMF
from pyro_pmf.objective import Objective, pose
from pyro_pmf.optimizers import LBFGS, Adam, Optimizer
from pyro_pmf.pairs import Pairs
from pyro_pmf.posterior import Posterior
from pyro_pmf.prediction import run
from pyro_pmf.random_state import isolated_random_state
from pyro_pmf.ratings import Ratings
from pyro_pmf.schedule import JUDGED_EVERY, Schedule

# Standard deviations learnt from the start shrink the factors before these have formed: L-BFGS
# holds them for its first steps, and Adam lets them loose over more of its own, shorter ones.
_HELD = 40
_WARM_UP = 100
NO_FACTORS = "The factors have shrunk to zero"
_COLLAPSED_SCALE = 1e-3  # of a free standard deviation; on the unit or the logit scale
_COLLAPSED_SIGNAL = 1e-4  # logit scale; collapsed ones were at 1e-12, live ones above 1e-1


@dataclass(frozen=True)
class Progress:
    """What a callback is given after each step.

    Attributes
    ----------
    step : int
        Counted from 1.
    elbo : float
        Of the parameters before the step, in nats.
    seconds : float
        Since `fit` was called.
    posterior : callable
        ``posterior()`` is the `Posterior` as it stands.
    """

    step: int
    elbo: float
    seconds: float
    posterior: Callable[[], Posterior]


def fit_guide(
    model: Callable[..., Any],
    ratings: Ratings,
    scales: Mapping[str, float] | None = None,
    *,
    guide: str | Callable[..., Any],
    max_steps: int,
    learning_rate: float,
    tolerance: float,
    batches: int,
    seed: int,
    device: str | torch.device,
    dtype: torch.dtype | None,
    num_draws: int,
    progress: bool,
    callback: Callable[[Progress], None] | None = None,
    started: float | None = None,
) -> Posterior:
    """Fit a guide, with these standard deviations held (see `pose`); the rest as of `fit`."""
    started = time.perf_counter() if started is None else started
    train = ratings.to(_device(device), dtype)
    history: list[dict[str, Any]] = []
    with isolated_random_state(seed), pyro.get_param_store().scope():
        on_gpu = train.device.type == "cuda"
        objective = pose(model, guide, train, batches, scales)
        blocks: list[Pairs | None] = [*train.user_blocks(batches)] if batches > 1 else [None]
        optimizer = _choose_optimizer(
            objective, blocks, max_steps, learning_rate, tolerance * len(train)
        )
        model = objective.stated
        if not isinstance(model, PMF):
            objective.check_prediction()

        def posterior() -> Posterior:
            with isolated_random_state(seed):
                latents, drawn = objective.latents(num_draws)
            return Posterior(
                model=model,
                ratings=ratings.to("cpu", train.dtype),
                latents=latents,
                num_draws=num_draws if drawn else None,
                history=pd.DataFrame(history),
                converged=optimizer.finished,
            )

        with (
            pyro.validation_enabled(False),  # a step that diverges is reported here, by site
            tqdm(total=max_steps, desc="fit", unit="step", disable=not progress) as bar,
        ):
            launched: list[tuple[Tensor, float]] = []
            for step in itertools.count(1):
                launched.append((-optimizer.step(), time.perf_counter() - started))
                last = step >= optimizer.last_step
                if on_gpu and callback is None and not last and step % JUDGED_EVERY:
                    continue  # reading a loss would wait for the GPU
                for elbo, seconds in launched:
                    done = len(history) + 1
                    _require_finite(float(elbo), objective, done, learning_rate)
                    history.append({"step": done, "elbo": float(elbo), "seconds": seconds})
                bar.update(len(launched))
                launched.clear()
                if callback is not None:
                    with isolated_random_state(seed):  # what it draws does not change the fit
                        callback(Progress(**history[-1], posterior=posterior))
                bar.set_postfix_str(f"ELBO {history[-1]['elbo']:,.1f}", refresh=False)
                bar.total = optimizer.last_step
                if last:
                    break
            with torch.no_grad():
                losses = [objective.loss(block, len(blocks)).item() for block in blocks]
                _require_finite(-sum(losses), objective, step + 1, learning_rate)
        fitted = posterior()
        if objective.is_point_estimate():
            _refuse_collapse(fitted, objective)
        elif fitted.converged and _has_no_factors(fitted):
            warnings.warn(
                f"{NO_FACTORS}: by the ELBO, these ratings hold no more than biases. Try fewer "
                "n_factors, or n_factors=0.",
                stacklevel=3,
            )
    return fitted


def _choose_optimizer(
    objective: Objective,
    blocks: list[Pairs | None],
    max_steps: int,
    learning_rate: float,
    tolerance: float,
) -> Optimizer:
    """L-BFGS where the loss has no noise and the guide a metric, Adam elsewhere."""
    named = sorted(objective.parameters(), key=lambda pair: objective.is_of_scale(pair[0]))
    names, leaves = zip(*named, strict=True)
    n_late = sum(leaf.numel() for name, leaf in named if objective.is_of_scale(name))
    parameters = _in_one_vector(leaves)
    recording, guide = None, objective.guide
    if len(blocks) == 1:
        with pyro.validation_enabled(False):
            recording = objective.recorded_gradient(leaves)
    if recording is not None and isinstance(guide, NormalGuide) and guide.owns(names):

        def inverse_fisher() -> Tensor:
            return torch.cat([guide.inverse_fisher(name).flatten() for name in names])

        return LBFGS(recording, parameters, n_late, _HELD, inverse_fisher, max_steps, tolerance)

    def of_next_block() -> tuple[Tensor, Tensor]:
        return objective.gradient(leaves, next(order), len(blocks))

    order = _shuffled(blocks)
    schedule = Schedule(max_steps, tolerance, min_steps=2 * _WARM_UP)
    evaluate = recording or of_next_block
    return Adam(evaluate, parameters, n_late, _WARM_UP, schedule, learning_rate)


def _shuffled(blocks: list[Pairs | None]) -> Iterator[Pairs | None]:
    """Each block once, in an order drawn anew, again and again."""
    while True:
        for number in torch.randperm(len(blocks)).tolist() if len(blocks) > 1 else [0]:
            yield blocks[number]


def _in_one_vector(leaves: Sequence[Tensor]) -> Tensor:
    """Move tensors into the memory of one vector, and return it."""
    vector = torch.cat([leaf.detach().flatten() for leaf in leaves])
    for leaf, part in zip(leaves, vector.split([leaf.numel() for leaf in leaves]), strict=True):
        leaf.data = part.view(leaf.shape)
    return vector


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise FitError(f'device must be "auto", "cpu" or "cuda", not {device!r}.') from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise FitError(f"device={str(device)!r} was asked for and torch finds no GPU.")
    return chosen


def _require_finite(elbo: float, objective: Objective, step: int, learning_rate: float) -> None:
    if not math.isfinite(elbo):
        raise FitError(
            f"The ELBO is {elbo} at step {step}, because of the sites "
            f"{objective.why_not_finite()}: look at the priors and the values of these sites, or "
            f"lower {learning_rate=} where Adam uses it."
        )


def _refuse_collapse(posterior: Posterior, objective: Objective) -> None:
    """Raise where a point estimate is at a standard deviation of zero, or its factors are."""
    if _has_no_factors(posterior):
        raise FitError(
            "The point estimate collapsed: U_i . V_j is zero for every pair, with "
            f"{_scales(posterior)}. "
            "Where the factors are strong, sigma_U and sigma_V are larger, and sigma is smaller: "
            "give Priors(sigma_U=Fixed(...), sigma_V=Fixed(...), sigma=Fixed(...)), or learn them "
            'with guide="normal". Or the ratings hold no more than biases: n_factors=0 fits those.'
        )
    for name in objective.scalar_scales:
        value: Any = posterior.latents[name]
        scale = float(value if posterior.num_draws is None else value[0])
        if scale < _COLLAPSED_SCALE:
            raise FitError(
                f"The point estimate collapsed: {name} is {scale:.1e}. The joint density of "
                "latents and a free standard deviation grows without bound as both shrink, or as "
                "noise goes to zero where the ratings can be interpolated. Fix it, as with "
                f'Priors({name}=Fixed(...)), or integrate the latents out with guide="normal".'
            )


def _has_no_factors(posterior: Posterior) -> bool:
    """Whether the expected U_i . V_j of a `PMF` hardly varies over the training pairs."""
    model, train = posterior.model, posterior.ratings
    if not isinstance(model, PMF) or not model.n_factors:
        return False
    latents = posterior.latents if posterior.num_draws is None else next(posterior.draws())
    sites = run(model, latents, train, train)
    score: Any = dot(sites["U"]["value"], sites["V"]["value"], train.pattern)
    mean = score if isinstance(score, Tensor) else score.mean
    return float(mean.std(correction=0)) < _COLLAPSED_SIGNAL


def _scales(posterior: Posterior) -> str:
    scales = {name: posterior.latents.get(name) for name in ("sigma", "sigma_U", "sigma_V")}
    shown = {name: x.flatten()[0] for name, x in scales.items() if isinstance(x, Tensor)}
    return ", ".join(f"{name} = {float(x):.2g}" for name, x in shown.items())
