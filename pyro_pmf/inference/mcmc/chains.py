"""Markov chains that draw from the exact posterior, by Gibbs sampling or by NUTS."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyro
import torch
from torch import Size, Tensor
from tqdm.auto import tqdm

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.data.ratings import Ratings
from pyro_pmf.inference.conditions import Conditions
from pyro_pmf.inference.mcmc.diagnostics import convergence
from pyro_pmf.inference.mcmc.gibbs.kernel import GibbsKernel
from pyro_pmf.inference.mcmc.nuts import NUTSKernel
from pyro_pmf.inference.mcmc.tracking import Tracker, tracked
from pyro_pmf.inference.memory import draws_memory, require_memory
from pyro_pmf.inference.methods import NUTS, Gibbs
from pyro_pmf.model.learned import Converged, Learned
from pyro_pmf.model.running import is_latent, require_possible, with_history
from pyro_pmf.random_state import isolated_random_state


class Kernel(Protocol):
    """The state of one chain, and how it moves."""

    sites: dict[str, Size]

    def step(self) -> None:
        """Take one step of the chain."""

    def draw(self) -> tuple[dict[str, Tensor], float]:
        """Return the present values of the latents by site, and the log likelihood in nats."""

    def has_diverged(self) -> bool:
        """Return whether the last step diverged."""


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
        The training ratings, on the device of the fit.
    history : Pairs or None
        All pairs with I_ij = 1; None if these are the training pairs.
    method : Gibbs or NUTS
        Options of the sampler.
    started : float
        `time.perf_counter` at the start of the fit.
    """

    number: int
    seed: int
    model: Callable[..., Any]
    ratings: Ratings
    history: Pairs | None
    method: Gibbs | NUTS
    started: float


@dataclass(frozen=True)
class Chain:
    """Draws of one chain.

    Attributes
    ----------
    latents : dict of str to Tensor, shape (n_draws, ...)
        Draws of each latent site of the model, on the CPU.
    steps : list of dict
        One row per draw, see `Learned.steps`.
    tracker : Tracker or None
        Moments of the predictions of `Gibbs.track`.
    """

    latents: dict[str, Tensor]
    steps: list[dict[str, Any]]
    tracker: Tracker | None = None


# Called after each step of a chain with its number from 1, and a function that returns the chain
# as far as it has come: the present state alone during the warm-up.
OnChainStep = Callable[[int, Callable[[], Chain]], object]


def sample_chains(
    model: Callable[..., Any], ratings: Ratings, method: Gibbs | NUTS, run: Conditions
) -> Learned:
    """Draw from the exact posterior.

    Parameters
    ----------
    model : callable
        The Pyro model.
    ratings : Ratings
        The training ratings, on the device of the fit.
    method : Gibbs or NUTS
        Options of the sampler.
    run : Conditions
        Conditions of the fit.

    Returns
    -------
    Learned
        Draws of all chains, one chain after the other. ``converged`` says whether they have mixed,
        see `diagnostics.convergence`.

    Raises
    ------
    FitError
        If the draws need more memory than is free, the likelihood cannot produce some ratings, the
        model has discrete latents or no observed site ``rating``, or `Gibbs` does not know it.
    """
    latents: dict[str, Tensor] = {}
    rows: list[dict[str, Any]] = []
    trackers: list[Tracker] = []
    home = ratings.to("cpu")

    def learned(chain: Chain, n_chains: int = 1) -> Learned:
        steps = pd.DataFrame(chain.steps)
        steps.insert(0, "step", np.arange(1, len(steps) + 1))
        return Learned(
            model=model,
            ratings=home,
            latents=chain.latents,
            n_draws=len(steps),
            steps=steps,
            converged=Converged(False, False),
            n_chains=n_chains,
            history=run.history,
        )

    n_steps = method.n_warmup + method.n_draws * method.thin
    with tqdm(
        total=method.n_chains * n_steps, desc="sample", unit="draw", disable=not run.progress
    ) as bar:

        def on_step(before: int, number: int, so_far: Callable[[], Chain]) -> None:
            bar.update()
            if run.on_step is not None:
                row = {"step": before + number, "elbo": None, "seconds": run.seconds}
                run.on_step(row, lambda: learned(so_far()))

        for task in plan_chains(model, ratings, method, run):
            chain = run_chain(task, partial(on_step, task.number * n_steps))
            here = slice(len(rows), len(rows) + method.n_draws)
            rows += chain.steps
            if chain.tracker is not None:
                trackers.append(chain.tracker)
            for name, draws in chain.latents.items():
                if name not in latents:
                    shape = method.n_chains * method.n_draws, *draws.shape[1:]
                    latents[name] = draws.new_empty(shape)
                latents[name][here] = draws
            del chain, draws  # or two chains are held while the next one runs
    all_draws = learned(Chain(latents, rows), method.n_chains)
    with isolated_random_state(run.seed), pyro.get_param_store().scope():
        judged = convergence(
            model, home, latents, all_draws.steps, method.n_chains, history=run.history
        )
    return replace(all_draws, converged=judged, tracked=tracked(trackers))


def plan_chains(
    model: Callable[..., Any], ratings: Ratings, method: Gibbs | NUTS, run: Conditions
) -> list[ChainTask]:
    """Plan the work of each chain; parameters and errors are those of `sample_chains`.

    Returns
    -------
    list of ChainTask
        One task per chain.
    """
    with isolated_random_state(run.seed), pyro.get_param_store().scope():
        sites = require_possible(model, ratings)
    n_latents = sum(site["value"].numel() for site in sites.values() if is_latent(site))
    require_memory(
        draws_memory(n_latents, method.n_draws, method.n_chains + 1, ratings.dtype),
        torch.device("cpu"),
        "Reduce n_draws",
    )
    history = None
    if run.history is not None:
        history = run.history.to(ratings.device, ratings.dtype)
    seeds = np.random.SeedSequence(run.seed).generate_state(method.n_chains)
    return [
        ChainTask(k, int(seed), model, ratings, history, method, run.started)
        for k, seed in enumerate(seeds)
    ]


def run_chain(task: ChainTask, on_step: OnChainStep = lambda number, so_far: None) -> Chain:
    """Run one chain, with its own stream of random numbers.

    Parameters
    ----------
    task : ChainTask
        Work of the chain.
    on_step : callable
        Called after each step, warm-up included: ``on_step(number, so_far)``, see `OnChainStep`.

    Returns
    -------
    Chain
        Draws of the chain.
    """
    method = task.method
    with isolated_random_state(task.seed), pyro.get_param_store().scope():
        kernel = _kernel(task)
        latents = {
            name: torch.empty(method.n_draws, *shape, dtype=task.ratings.dtype)
            for name, shape in kernel.sites.items()
        }
        rows: list[dict[str, Any]] = []
        tracker = _tracker(task)

        def so_far() -> Chain:
            if rows:
                return Chain({name: x[: len(rows)] for name, x in latents.items()}, rows)
            now, row = _drawn(task, kernel)
            return Chain({name: value[None] for name, value in now.items()}, [row])

        for k in range(1 - method.n_warmup, method.n_draws * method.thin + 1):
            kernel.step()
            if k > 0 and tracker is not None:
                tracker.add(kernel.draw()[0])
            if k > 0 and k % method.thin == 0:
                draw, row = _drawn(task, kernel)
                for name, value in draw.items():
                    latents[name][len(rows)] = value
                rows.append(row)
            on_step(k + method.n_warmup, so_far)
    return Chain(latents, rows, tracker)


def _tracker(task: ChainTask) -> Tracker | None:
    method = task.method
    if not isinstance(method, Gibbs) or method.track is None:
        return None
    return Tracker(task.model, task.ratings, task.history, method.track)


def _kernel(task: ChainTask) -> Kernel:
    if isinstance(task.method, NUTS):
        model = with_history(task.model, task.history)
        return NUTSKernel(model, task.ratings, task.method.n_warmup)
    return GibbsKernel(task.model, task.ratings, task.history, task.seed)


def _drawn(task: ChainTask, kernel: Kernel) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the present draw of a chain, on the CPU, and its row of `Learned.steps`."""
    draw, log_likelihood = kernel.draw()
    row = {
        "chain": task.number,
        "log_likelihood": log_likelihood,
        "divergent": kernel.has_diverged(),
        "seconds": time.perf_counter() - task.started,
    }
    return {name: value.cpu() for name, value in draw.items()}, row
