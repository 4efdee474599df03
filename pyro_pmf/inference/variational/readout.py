"""Read the result of a fit off its guide: the distribution of each latent."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pyro import poutine
from pyro.distributions import Delta
from torch import Tensor

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.errors import FitError
from pyro_pmf.inference.initialization import is_real
from pyro_pmf.inference.variational.blocks import BlockedELBO
from pyro_pmf.inference.variational.elbo import GaussianELBO, integrated_traces
from pyro_pmf.inference.variational.objective import Objective, shown_by
from pyro_pmf.model.running import run, runs_in_parts
from pyro_pmf.moments.expectations import unwrapped
from pyro_pmf.moments.gaussian import Gaussian, NoClosedForm, Uncertain, Value


def read_latents(objective: Objective, n_draws: int) -> tuple[dict[str, Value], bool]:
    """Return the distribution of each latent site, on the CPU.

    Parameters
    ----------
    objective : Objective
        Objective of the fit, at its final parameters.
    n_draws : int
        Number of draws, if there is no closed form.

    Returns
    -------
    latents : dict of str to Gaussian, LogGaussian or Tensor
        Distributions or point estimates by site; or draws, shape (n_draws, ...).
    are_draws : bool
        Whether ``latents`` are draws.
    """
    with torch.no_grad():
        closed = _closed_form(objective) if isinstance(objective.elbo, GaussianELBO) else None
        if closed is not None and _can_predict_from(objective, closed):
            return {name: _to_cpu(value) for name, value in closed.items()}, False
        draws = _draws(objective, n_draws)
        return {name: _to_cpu(value) for name, value in draws.items()}, True


def check_prediction(objective: Objective) -> None:
    """Refuse a model that runs on the training ratings but not on other pairs.

    Parameters
    ----------
    objective : Objective
        Objective of the fit.

    Raises
    ------
    FitError
        If the model fails on new pairs; the message has the model's own error.
    """
    draw = {name: value[0] for name, value in _draws(objective, 1).items()}
    try:
        _predict_from(objective, draw)
    except Exception as error:
        raise FitError(
            "The model runs on the training ratings but not on new pairs. There ratings.value is "
            "None, and n_users and n_items may be larger. No latent may be in the plate of the "
            f"ratings. The model raised {type(error).__name__}: {error}"
        ) from error


def _closed_form(objective: Objective) -> dict[str, Value] | None:
    """Return the latents as random quantities or point estimates, or None if some are neither.

    For sites that the fit has reparametrized, these are the marginals.
    """
    of_one = isinstance(objective.elbo, BlockedELBO)  # then the guide takes a history, too
    pairs, history = (
        shown_by(objective.model, objective.stated, objective.ratings)
        if of_one
        else (objective.ratings, {})
    )
    model, guide = integrated_traces(objective.model, objective.guide, pairs, **history)
    values: dict[str, Value] = dict(objective.held)
    for name, prior in objective.stated_sites.items():
        value = model.nodes[name]["value"]
        if isinstance(value, Tensor):
            if name in guide.nodes and not isinstance(unwrapped(guide.nodes[name]["fn"]), Delta):
                return None
            if is_real(prior.support):
                value = Gaussian(value, torch.zeros_like(value))
        if isinstance(value, Gaussian):
            value = Gaussian(value.mean, value.var, frozenset({name}))
        values[name] = value
    return values


def _can_predict_from(objective: Objective, values: Mapping[str, Value]) -> bool:
    try:
        _predict_from(objective, values)
    except NoClosedForm:
        return False
    return True


def _predict_from(objective: Objective, values: Mapping[str, Value]) -> None:
    """Run the model on three pairs: ids known, user unknown, item unknown."""
    train = objective.ratings
    n, m = train.n_users, train.n_items
    user, item = torch.tensor([[0, 0, n], [0, m, 0]], device=train.device)
    pairs = Pairs(user, item, n + 1, m + 1, dtype=train.dtype)
    # in a PMF, one pair has the same operations as all
    seen = train.first_pair() if runs_in_parts(objective.stated) else train
    run(objective.stated, values, pairs, seen.within(n + 1, m + 1))


def _draws(objective: Objective, n_draws: int) -> dict[str, Tensor]:
    traces = []
    for _ in range(n_draws):
        guide = poutine.trace(objective.guide).get_trace(objective.ratings)
        replayed = poutine.replay(objective.model, guide)
        traces.append(poutine.trace(replayed).get_trace(objective.ratings))
    held = {name: value.expand(n_draws, *value.shape) for name, value in objective.held.items()}
    return held | {
        name: torch.stack([trace.nodes[name]["value"] for trace in traces])
        for name in objective.stated_sites
    }


def _to_cpu(value: Value) -> Value:
    if isinstance(value, Uncertain):
        return value.map(lambda tensor: tensor.detach().clone().cpu())
    return value.detach().clone().cpu()
