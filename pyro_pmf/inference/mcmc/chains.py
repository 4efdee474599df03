"""Markov chains: Pyro's Hamiltonian Monte Carlo and No-U-Turn sampler, for any model."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyro
import torch
from pyro.infer.mcmc import HMC as PyroHMC
from pyro.infer.mcmc import NUTS as PyroNUTS
from torch import Tensor
from tqdm.auto import tqdm

from pyro_pmf.data.ratings import Ratings
from pyro_pmf.inference.conditions import Conditions
from pyro_pmf.inference.mcmc.coordinates import Coordinates, Whitening
from pyro_pmf.inference.mcmc.diagnostics import have_mixed, identified
from pyro_pmf.inference.memory import draws_memory, require_memory
from pyro_pmf.inference.methods import HMC, NUTS
from pyro_pmf.internals import is_warming_up, shorten_adaptation
from pyro_pmf.model.learned import Learned
from pyro_pmf.model.running import require_possible
from pyro_pmf.model.terms import terms_of
from pyro_pmf.random_state import isolated_random_state

_ACCEPTANCE = 0.9  # above the usual 0.8: with few ratings, scales make the posterior a funnel
_ACCEPTANCE_OF_HMC = 0.7  # 0.65 is best for independent coordinates (Beskos et al. 2013)
_LENGTH = 1.5  # of a trajectory, in standard deviations: a quarter turn of a Normal is pi / 2
_MOST_STEPS = 64  # of a trajectory during warm-up, while the step size adapts


@dataclass(frozen=True)
class ChainTask:
    """Everything that one chain needs, as plain data that can be sent to another process.

    Attributes
    ----------
    number : int
        Number of the chain, from 0.
    seed : int
        Seed of the chain's own stream of random numbers.
    model : callable
        The Pyro model.
    ratings : Ratings
        The training ratings, on the CPU.
    method : HMC or NUTS
        Options of the sampler.
    whitening : Whitening or None
        Units of the coordinates, for `HMC`; `NUTS` finds them during warm-up.
    start : Tensor, shape (n,), or None
        Initial coordinates. The default is the initial values of `initialization`.
    started : float
        `time.perf_counter` at the start of the fit.
    """

    number: int
    seed: int
    model: Callable[..., Any]
    ratings: Ratings
    method: HMC | NUTS
    whitening: Whitening | None
    start: Tensor | None
    started: float


@dataclass(frozen=True)
class Chain:
    """Draws of one chain.

    Attributes
    ----------
    latents : dict of str to Tensor, shape (n_draws, ...)
        Draws of each latent site of the model.
    steps : list of dict
        One row per draw, see `Learned.steps`.
    """

    latents: dict[str, Tensor]
    steps: list[dict[str, Any]]


def sample_chains(
    model: Callable[..., Any],
    ratings: Ratings,
    method: HMC | NUTS,
    run: Conditions,
    approximation: Learned | None,
) -> Learned:
    """Draw from the exact posterior.

    Parameters
    ----------
    model : callable
        The Pyro model.
    ratings : Ratings
        The training ratings, on the CPU.
    method : HMC or NUTS
        Options of the sampler.
    run : Conditions
        Conditions of the fit.
    approximation : Learned or None
        An approximation of the same posterior, for `HMC`. Each chain starts from a draw of it and
        measures each coordinate in its standard deviations. `NUTS` takes None.

    Returns
    -------
    Learned
        Draws of all chains, one chain after the other. ``converged`` says whether they have mixed,
        see `diagnostics.have_mixed`.

    Raises
    ------
    FitError
        If the draws need more memory than is free, the model has discrete latents or no observed
        site ``rating``, or its likelihood cannot produce some ratings.
    """
    tasks = plan_chains(model, ratings, method, run, approximation)
    latents: dict[str, Tensor] = {}
    rows: list[dict[str, Any]] = []
    n_steps = method.n_chains * (method.n_warmup + method.n_draws)
    with tqdm(total=n_steps, desc="sample", unit="draw", disable=not run.progress) as bar:
        for task in tasks:
            chain = run_chain(task, bar.update)
            here = slice(len(rows), len(rows) + method.n_draws)
            rows += chain.steps
            for name, draws in chain.latents.items():
                if name not in latents:
                    shape = method.n_chains * method.n_draws, *draws.shape[1:]
                    latents[name] = draws.new_empty(shape)
                latents[name][here] = draws
            del chain, draws  # or two chains are held while the next one runs
    steps = pd.DataFrame(rows)
    steps.insert(0, "step", np.arange(1, len(steps) + 1))
    quantities = identified(terms_of(model), latents)
    return Learned(
        model=model,
        ratings=ratings,
        latents=latents,
        n_draws=method.n_chains * method.n_draws,
        steps=steps,
        converged=have_mixed(quantities, steps, method.n_chains),
        n_chains=method.n_chains,
    )


def plan_chains(
    model: Callable[..., Any],
    ratings: Ratings,
    method: HMC | NUTS,
    run: Conditions,
    approximation: Learned | None,
) -> list[ChainTask]:
    """Plan the work of each chain; parameters and errors are those of `sample_chains`.

    Returns
    -------
    list of ChainTask
        One task per chain.
    """
    starts: list[Tensor | None] = [None] * method.n_chains
    whitening = None
    with isolated_random_state(run.seed), pyro.get_param_store().scope():
        require_possible(model, ratings)
        coordinates = Coordinates(model, ratings)
        require_memory(
            draws_memory(
                coordinates.n_latents, method.n_draws, method.n_chains + 1, ratings.dtype
            ),
            ratings.device,
            "Reduce n_draws",
        )
        if approximation is not None:
            whitening = coordinates.whiten(approximation)
            starts = [coordinates.of(draw) for draw in approximation.draws(method.n_chains)]
    seeds = np.random.SeedSequence(run.seed).generate_state(method.n_chains)
    return [
        ChainTask(k, int(seed), model, ratings, method, whitening, start, run.started)
        for k, (seed, start) in enumerate(zip(seeds, starts, strict=True))
    ]


def run_chain(task: ChainTask, on_step: Callable[[], object] = lambda: None) -> Chain:
    """Run one chain, with its own stream of random numbers.

    Parameters
    ----------
    task : ChainTask
        Work of the chain.
    on_step : callable
        Function of no arguments, called after each step, warm-up included.

    Returns
    -------
    Chain
        Draws of the chain.
    """
    method = task.method
    with isolated_random_state(task.seed), pyro.get_param_store().scope():
        coordinates = Coordinates(task.model, task.ratings, task.whitening)
        kernel = _JitteredHMC(coordinates) if isinstance(method, HMC) else _nuts(coordinates)
        z = coordinates.first() if task.start is None else task.start
        kernel.initial_params = params = {"z": z}
        kernel.setup(method.n_warmup)
        latents = {
            name: torch.empty(method.n_draws, *shape, dtype=task.ratings.dtype)
            for name, shape in coordinates.sites.items()
        }
        steps: list[dict[str, Any]] = []
        for k in range(-method.n_warmup, method.n_draws):
            params = kernel.sample(params)
            on_step()
            if k < 0:
                continue
            draw, log_likelihood = coordinates.draw(params["z"])
            for name, value in draw.items():
                latents[name][k] = value
            steps.append(
                {
                    "chain": task.number,
                    "log_likelihood": log_likelihood,
                    "divergent": k in kernel.diagnostics()["divergences"],
                    "seconds": time.perf_counter() - task.started,
                }
            )
        kernel.cleanup()
    return Chain(latents, steps)


def _nuts(coordinates: Coordinates) -> PyroNUTS:
    kernel = PyroNUTS(potential_fn=coordinates.potential_of_site, target_accept_prob=_ACCEPTANCE)
    shorten_adaptation(kernel, 10, 10, 30)  # Stan's windows keep unit masses for 100 draws
    return kernel


class _JitteredHMC(PyroHMC):
    """HMC with trajectories of random length, so that none returns to its start (Neal 2011)."""

    def __init__(self, coordinates: Coordinates) -> None:
        super().__init__(
            potential_fn=coordinates.potential_of_site,
            adapt_mass_matrix=False,  # coordinates are already in units of standard deviations
            target_accept_prob=_ACCEPTANCE_OF_HMC,
        )

    def sample(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """Draw once, with a trajectory of half to one and a half times the usual length."""
        self.trajectory_length = _LENGTH * float(torch.rand(()) + 0.5)
        if is_warming_up(self):
            longest = _MOST_STEPS * self.step_size
            self.trajectory_length = min(self.trajectory_length, longest)
        return super().sample(params)
