"""Markov chains that draw from the exact posterior, by Gibbs sampling or by NUTS."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyro
import torch
from torch import Size, Tensor
from tqdm.auto import tqdm

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.data.ratings import Ratings
from pyro_pmf.errors import warn
from pyro_pmf.inference.conditions import Conditions
from pyro_pmf.inference.interruption import interruption
from pyro_pmf.inference.mcmc.diagnostics import convergence
from pyro_pmf.inference.mcmc.gathering import Begun, Chain, Gathered
from pyro_pmf.inference.mcmc.gibbs.kernel import GibbsKernel
from pyro_pmf.inference.mcmc.nuts import NUTSKernel
from pyro_pmf.inference.mcmc.tracking import Tracker, tracked
from pyro_pmf.inference.memory import draws_memory, require_memory
from pyro_pmf.inference.methods import NUTS, Gibbs
from pyro_pmf.model.learned import Converged, Learned
from pyro_pmf.model.running import is_latent, require_possible, with_history
from pyro_pmf.random_state import isolated_random_state, restore_random_state, take_random_state


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


class RunningChain:
    """Steps of one chain. It lives inside an isolated random state and a scope of parameters.

    Parameters
    ----------
    task : ChainTask
        Work of the chain.

    Attributes
    ----------
    number : int
        Number of the chain, from 0.
    n_steps : int
        Number of steps taken, those of the warm-up included.
    """

    def __init__(self, task: ChainTask) -> None:
        self.number, self.n_steps = task.number, 0
        self._task, self._method, self._kernel = task, task.method, _kernel(task)
        self._latents = {
            name: torch.empty(task.method.n_draws, *shape, dtype=task.ratings.dtype)
            for name, shape in self._kernel.sites.items()
        }
        self._rows: list[dict[str, Any]] = []
        self._tracker = _tracker(task)

    def step(self) -> None:
        """Take a step, and keep the draw if it is one to keep."""
        self._kernel.step()
        self.n_steps += 1
        n_past = self.n_steps - self._method.n_warmup
        if n_past > 0 and self._tracker is not None:
            self._tracker.add(self._kernel.draw()[0])
        if n_past > 0 and n_past % self._method.thin == 0:
            draw, row = self._drawn()
            for name, value in draw.items():
                self._latents[name][len(self._rows)] = value
            self._rows.append(row)

    def is_at_its_end(self) -> bool:
        """Return whether all draws are taken."""
        return len(self._rows) == self._method.n_draws

    def so_far(self) -> Chain:
        """Return the draws so far; none during the warm-up."""
        latents = {name: draws[: len(self._rows)] for name, draws in self._latents.items()}
        return Chain(latents, self._rows, self._tracker)

    def at_present(self) -> Chain:
        """Return the draws so far; the present state alone during the warm-up."""
        if self._rows:
            return self.so_far()
        now, row = self._drawn()
        return Chain({name: value[None] for name, value in now.items()}, [row])

    def present_state(self) -> dict[str, Any] | None:
        """Return everything that the chain needs to continue, beside its draws.

        Returns
        -------
        dict or None
            None for `NUTS`: the state of Pyro's adaptation cannot be written.
        """
        if not isinstance(self._kernel, GibbsKernel):
            return None
        return {
            "n_steps": self.n_steps,
            "kernel": self._kernel.present_state(),
            "tracker": None if self._tracker is None else self._tracker.present_state(),
            "random_state": take_random_state(),
        }

    def restore(self, drawn: Chain, state: dict[str, Any]) -> None:
        """Continue from draws and a state that a chain of the same task had.

        Parameters
        ----------
        drawn : Chain
            Result of `so_far`.
        state : dict
            Result of `present_state`.
        """
        assert isinstance(self._kernel, GibbsKernel)
        self._kernel.restore(state["kernel"])
        if self._tracker is not None:
            self._tracker.restore(state["tracker"])
        for name, draws in drawn.latents.items():
            self._latents[name][: len(draws)] = draws
        self._rows, self.n_steps = list(drawn.steps), state["n_steps"]
        restore_random_state(state["random_state"])

    def _drawn(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the present draw, on the CPU, and its row of `Learned.steps`."""
        draw, log_likelihood = self._kernel.draw()
        row = {
            "chain": self.number,
            "log_likelihood": log_likelihood,
            "divergent": self._kernel.has_diverged(),
            "seconds": time.perf_counter() - self._task.started,
        }
        return {name: value.cpu() for name, value in draw.items()}, row


# Called after each step of a chain; returns whether the chain shall end early.
OnChainStep = Callable[[RunningChain], bool]


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
    KeyboardInterrupt
        If Ctrl-C ends the fit before a chain has a few draws.

    Warns
    -----
    UserWarning
        If Ctrl-C ends the fit early. It returns the draws so far, as many of each chain.
    """
    gathered = Gathered(method.n_chains, method.n_draws, run.checkpoint)
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
    with (
        tqdm(
            total=method.n_chains * n_steps, desc="sample", unit="draw", disable=not run.progress
        ) as bar,
        interruption(run.interruptible) as request,
    ):

        def on_step(chain: RunningChain) -> bool:
            step = chain.number * n_steps + chain.n_steps
            bar.update(step - bar.n)
            if run.on_step is not None:
                row = {"step": step, "elbo": None, "seconds": run.seconds}
                with request.noticed():
                    run.on_step(row, lambda: learned(chain.at_present()))
            is_due = request.requested or (run.checkpoint is not None and run.checkpoint.is_due())
            if is_due and not chain.is_at_its_end():  # then `gathered` writes it
                gathered.write(chain)
            return request.requested

        for task in plan_chains(model, ratings, method, run):
            gathered.add(_chain(task, gathered, on_step))
            if request.requested:
                break
    drawn, trackers, n_chains = gathered.equal_chains()
    all_draws = replace(learned(drawn, n_chains), tracked=tracked(trackers))
    if not gathered.is_whole():
        _warn_of_interruption(n_chains, all_draws, run)
        return all_draws
    with isolated_random_state(run.seed), pyro.get_param_store().scope():
        judged = convergence(
            model, home, drawn.latents, all_draws.steps, n_chains, history=run.history
        )
    return replace(all_draws, converged=judged)


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


def run_chain(
    task: ChainTask,
    on_step: OnChainStep = lambda chain: False,
    begun: Begun | None = None,
) -> Chain:
    """Run one chain, with its own stream of random numbers.

    Parameters
    ----------
    task : ChainTask
        Work of the chain.
    on_step : callable
        Called after each step, warm-up included; see `OnChainStep`.
    begun : Begun, optional
        Where the chain continues.

    Returns
    -------
    Chain
        Draws of the chain.
    """
    with isolated_random_state(task.seed), pyro.get_param_store().scope():
        chain = RunningChain(task)
        if begun is not None and begun.state is not None:
            chain.restore(begun.drawn, begun.state)
        while not chain.is_at_its_end():
            chain.step()
            if on_step(chain):
                break
    return chain.so_far()


def _tracker(task: ChainTask) -> Tracker | None:
    """Return a new tracker for a chain; None if no pairs are tracked.

    Parameters
    ----------
    task : ChainTask
        Work of the chain.
    """
    method = task.method
    if not isinstance(method, Gibbs) or method.track is None:
        return None
    return Tracker(task.model, task.ratings, task.history, method.track)


def _chain(task: ChainTask, gathered: Gathered, on_step: OnChainStep) -> Chain:
    """Return a chain: a complete one from the checkpoint, or else run it to its end."""
    begun = gathered.begun(task.number)
    if begun is None or begun.state is not None:
        return run_chain(task, on_step, begun)
    return replace(begun.drawn, tracker=gathered.restore_tracker(task.number, _tracker(task)))


def _warn_of_interruption(n_chains: int, drawn: Learned, run: Conditions) -> None:
    n_draws = len(drawn.steps) // n_chains
    warn(
        f"This fit was interrupted, so it has {n_draws} draws of {n_chains} chain(s) and has not "
        f"converged: fit again{', with resume=True' if run.checkpoint else ''}."
    )


def _kernel(task: ChainTask) -> Kernel:
    if isinstance(task.method, NUTS):
        model = with_history(task.model, task.history)
        return NUTSKernel(model, task.ratings, task.method.n_warmup)
    return GibbsKernel(task.model, task.ratings, task.history, task.seed)
