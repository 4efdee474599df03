"""Markov chains: Pyro's Hamiltonian Monte Carlo and No-U-Turn sampler, for any model."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from pyro.infer import HMC, MCMC, NUTS
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
_SIDES = ("sigma_U", "sigma_W"), ("sigma_V", "sigma_Z")


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
        Whether no draw diverged and split R-hat (Vehtari et al., Bayesian Analysis 2021) is below
        1.05 for the log likelihood and every scalar site. Ratings tell of the standard deviations
        of a `PMF`'s factors only the products sigma_U sigma_V, sigma_W sigma_V and so on, as U V^T
        is that of a U and V / a: these products are looked at. Predictions mix long before them.
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
    approximation: Learned | None = None,
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
    approximation : Learned, optional
        Of the same posterior. Where it is given, each chain starts from a draw of it, and
        Hamiltonian Monte Carlo with trajectories of one length takes its variances for masses.
        Without, the No-U-Turn sampler finds all that itself.
    """
    started = time.perf_counter()
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
    rows_of_history: list[dict[str, Any]] = []
    total = num_chains * (warm_up + num_draws)
    with tqdm(total=total, desc="sample", unit="draw", disable=not progress) as bar:
        for chain, start in enumerate(starts):
            kernel = _nuts(coordinates) if approximation is None else _JitteredHMC(coordinates)
            chains = MCMC(
                kernel,
                num_samples=num_draws,
                warmup_steps=warm_up,
                initial_params={"z": start},
                disable_progbar=True,
                hook_fn=lambda *_: bar.update(),
            )
            chains.run()
            divergent = set(chains.diagnostics()["divergences"]["chain 0"])
            for k, z in enumerate(chains.get_samples()["z"]):
                draw, log_likelihood = coordinates.draw(z)
                for name, value in draw.items():
                    latents[name][len(rows_of_history)] = value
                rows_of_history.append(
                    {
                        "step": len(rows_of_history) + 1,
                        "chain": chain,
                        "log_likelihood": log_likelihood,
                        "divergent": k in divergent,
                        "seconds": time.perf_counter() - started,
                    }
                )
    history = pd.DataFrame(rows_of_history)
    quantities = _identified(latents) if isinstance(model, PMF) else latents
    return Chains(latents, history, _mixed(quantities, history, num_chains))


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
        length = _LENGTH * float(torch.rand(()) + 0.5)
        self.trajectory_length = min(length, _MOST_STEPS * self.step_size)
        return super().sample(params)


def _identified(latents: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Draws of what ratings can tell: standard deviations of factors only as products."""
    found = dict(latents)
    of_users, of_items = (
        {name: latents[name] for name in names if name in latents} for names in _SIDES
    )
    if of_users and of_items:
        for ours, theirs in itertools.product(of_users, of_items):
            found[f"{ours} {theirs}"] = of_users[ours] * of_items[theirs]
        for name in (*of_users, *of_items):
            del found[name]
    return found


def _mixed(quantities: Mapping[str, Tensor], history: pd.DataFrame, num_chains: int) -> bool:
    scalars = [value.double() for value in quantities.values() if value.dim() == 1]
    scalars.append(torch.tensor(history["log_likelihood"].to_numpy(copy=True)))
    by_chain = torch.stack(scalars, -1).unflatten(0, (num_chains, -1))
    if by_chain.shape[1] < 4 or history["divergent"].any():
        return False
    return bool((split_gelman_rubin(by_chain, chain_dim=0, sample_dim=1) < _R_HAT).all())
