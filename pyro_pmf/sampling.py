"""Markov chains: Pyro's Hamiltonian Monte Carlo and No-U-Turn sampler, for any model."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from pyro.infer import HMC, NUTS
from pyro.ops.stats import split_gelman_rubin
from torch import Tensor
from tqdm.auto import tqdm

from pyro_pmf.coordinates import Coordinates
from pyro_pmf.learned import Learned
from pyro_pmf.memory import draws_memory, require_memory
from pyro_pmf.models import PMF
from pyro_pmf.ratings import Ratings

_ACCEPTANCE = 0.9  # more than the usual 0.8: the scales of few ratings make narrow necks
_ACCEPTANCE_OF_HMC = 0.7  # 0.65 is best for independent coordinates (Beskos et al. 2013)
_LENGTH = 1.5  # of a trajectory, in standard deviations: a quarter turn of a Normal is pi / 2
_MOST_STEPS = 64  # of a trajectory, while the step is being found
_R_HAT = 1.05


@dataclass(frozen=True)
class Chains:
    """What Markov chains have drawn.

    Attributes
    ----------
    latents : dict of str to Tensor
        Draws of each latent site of the model, chain by chain, (num_chains * num_draws, ...).
    history : pandas.DataFrame
        One row a draw: step (from 1), chain, log_likelihood of the training ratings (nats),
        divergent, seconds.
    converged : bool
        Whether no draw diverged and split R-hat (Gelman et al., Bayesian Data Analysis, 3rd
        edition, section 11.4) is below 1.05 for the log likelihood and every site of one number.
        Ratings tell of the standard deviations of a `PMF`'s factors only the products sigma_U
        sigma_V, sigma_W sigma_V and so on, as U V^T is that of a U and V / a: these are looked
        at. Predictions mix long before them.
    """

    latents: dict[str, Tensor]
    history: pd.DataFrame
    converged: bool


def sample_chains(
    model: Callable[..., Any],
    ratings: Ratings,
    num_draws: int,
    warm_up: int,
    num_chains: int,
    progress: bool,
    approximation: Learned | None,
    started: float,
) -> Chains:
    """Draw from the exact posterior, from torch's random state.

    Parameters
    ----------
    model : callable
    ratings : Ratings
        On the CPU.
    num_draws, warm_up, num_chains : int
        Draws of each chain, and before those others that only tune it.
    progress : bool
    approximation : Learned or None
        Of the same posterior. Where it is given, each chain starts from a draw of it, and
        Hamiltonian Monte Carlo measures each coordinate in its standard deviations. Without, the
        No-U-Turn sampler finds all that itself.
    started : float
        What `time.perf_counter` said when the fit began.

    Raises
    ------
    FitError
        If the draws would not fit into memory, or the model has discrete latents.
    """
    coordinates = Coordinates(model, ratings)
    n_latents = sum(shape.numel() for shape in coordinates.sites.values())
    require_memory(
        draws_memory(n_latents, num_draws, num_chains, ratings.dtype),
        ratings.device,
        "Take fewer num_draws",
    )
    if approximation is not None:
        coordinates.whiten(approximation)
        starts = (coordinates.of(draw) for draw in approximation.draws(num_chains))
    else:
        starts = (coordinates.first() for _ in range(num_chains))
    latents = {
        name: torch.empty(num_chains * num_draws, *shape, dtype=ratings.dtype)
        for name, shape in coordinates.sites.items()
    }
    history: list[dict[str, Any]] = []
    total = num_chains * (warm_up + num_draws)
    with tqdm(total=total, desc="sample", unit="draw", disable=not progress) as bar:
        for chain, z in enumerate(starts):
            kernel = _nuts(coordinates) if approximation is None else _JitteredHMC(coordinates)
            kernel.initial_params = params = {"z": z}
            kernel.setup(warm_up)
            for k in range(-warm_up, num_draws):
                params = kernel.sample(params)
                bar.update()
                if k < 0:
                    continue
                draw, log_likelihood = coordinates.draw(params["z"])
                for name, value in draw.items():
                    latents[name][len(history)] = value
                history.append(
                    {
                        "step": len(history) + 1,
                        "chain": chain,
                        "log_likelihood": log_likelihood,
                        "divergent": k in kernel.diagnostics()["divergences"],
                        "seconds": time.perf_counter() - started,
                    }
                )
            kernel.cleanup()
    table = pd.DataFrame(history)
    quantities = _identified(model, latents) if isinstance(model, PMF) else latents
    return Chains(latents, table, _mixed(quantities, table, num_chains))


def _nuts(coordinates: Coordinates) -> NUTS:
    kernel = NUTS(
        potential_fn=lambda at: coordinates.potential(at["z"]), target_accept_prob=_ACCEPTANCE
    )
    adapter = kernel._adapter  # Stan's windows keep to unit masses for 100 draws
    adapter._adapt_start_buffer = adapter._adapt_initial_window = 10
    adapter._adapt_end_buffer = 30
    return kernel


class _JitteredHMC(HMC):
    """Trajectories of random lengths, so that none comes round to where it began (Neal 2011)."""

    def __init__(self, coordinates: Coordinates) -> None:
        super().__init__(
            potential_fn=lambda at: coordinates.potential(at["z"]),
            adapt_mass_matrix=False,  # coordinates are measured in standard deviations already
            target_accept_prob=_ACCEPTANCE_OF_HMC,
        )

    def sample(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """Draw once, by a trajectory of half to one and a half times the usual length."""
        self.trajectory_length = _LENGTH * float(torch.rand(()) + 0.5)
        if self._t < self._warmup_steps:
            longest = _MOST_STEPS * self.step_size
            self.trajectory_length = min(self.trajectory_length, longest)
        return super().sample(params)


def _identified(model: PMF, latents: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Draws of what ratings can tell: of the factors' standard deviations, products."""
    of_users = ["sigma_U"] + ["sigma_W"] * (model.users == "hierarchical")
    of_items = ["sigma_V"] + ["sigma_Z"] * (model.items == "hierarchical")
    if not latents.keys() >= {*of_users, *of_items}:
        return dict(latents)  # a known one sets the unit of the others
    others = {name: x for name, x in latents.items() if name not in (*of_users, *of_items)}
    pairs = itertools.product(of_users, of_items)
    return others | {f"{ours} {theirs}": latents[ours] * latents[theirs] for ours, theirs in pairs}


def _mixed(quantities: Mapping[str, Tensor], history: pd.DataFrame, num_chains: int) -> bool:
    scalars = [value.double() for value in quantities.values() if value.dim() == 1]
    scalars.append(torch.tensor(history["log_likelihood"].to_numpy(copy=True)))
    by_chain = torch.stack(scalars, -1).unflatten(0, (num_chains, -1))
    if by_chain.shape[1] < 4 or history["divergent"].any():
        return False
    return bool((split_gelman_rubin(by_chain, chain_dim=0, sample_dim=1) < _R_HAT).all())
