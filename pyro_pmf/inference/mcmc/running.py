"""One Markov chain: its task, its steps, and its state between two steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import pyro
import torch
from torch import Size, Tensor

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.data.ratings import Ratings
from pyro_pmf.inference.mcmc.gathering import Begun, Chain
from pyro_pmf.inference.mcmc.gibbs.kernel import GibbsKernel
from pyro_pmf.inference.mcmc.nuts import NUTSKernel
from pyro_pmf.inference.mcmc.tracking import Tracker
from pyro_pmf.inference.memory import freed_memory_kept
from pyro_pmf.inference.methods import NUTS, Gibbs
from pyro_pmf.inference.sharing import Sharing
from pyro_pmf.model.running import with_history
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
    n_warmup : int
        Number of steps before the draws.
    thin : int
        Number of steps for each draw.
    started : float
        `time.perf_counter` at the start of the fit.
    sharing : Sharing or None
        The part of this process, if several share each chain.
    """

    number: int
    seed: int
    model: Callable[..., Any]
    ratings: Ratings
    history: Pairs | None
    method: Gibbs | NUTS
    n_warmup: int
    thin: int
    started: float
    sharing: Sharing | None = None


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
        self._tracker = tracker_of(task)

    def step(self) -> None:
        """Take a step, and keep the draw if it is one to keep."""
        self._kernel.step()
        self.n_steps += 1
        n_past = self.n_steps - self._task.n_warmup
        if n_past > 0 and self._tracker is not None:
            self._tracker.add(self._kernel.draw()[0])
        if n_past > 0 and n_past % self._task.thin == 0:
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
        sums = None if self._tracker is None else self._tracker.present_state()
        return Chain(latents, self._rows, sums)

    def at_present(self) -> Chain:
        """Return the draws so far; the present state alone during the warm-up."""
        if self._rows:
            return self.so_far()
        now, row = self._drawn()
        return Chain({name: value[None] for name, value in now.items()}, [row])

    def present_state(self) -> dict[str, Any] | None:
        """Return everything that the chain needs to continue, beside the result of `so_far`.

        If processes share the chain, each calls this, and gets the state of all.

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
            "random_state": take_random_state(),
        }

    def restore(self, begun: Begun) -> None:
        """Continue from draws and a state that a chain of the same task had.

        Parameters
        ----------
        begun : Begun
            The results of `so_far` and `present_state`.
        """
        assert isinstance(self._kernel, GibbsKernel)
        assert begun.state is not None
        state = begun.state
        self._kernel.restore(state["kernel"])
        if self._tracker is not None:
            assert begun.drawn.sums is not None
            self._tracker.restore(begun.drawn.sums)
        for name, draws in begun.drawn.latents.items():
            self._latents[name][: len(draws)] = draws
        self._rows, self.n_steps = list(begun.drawn.steps), state["n_steps"]
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
    scope = pyro.get_param_store().scope()
    with isolated_random_state(task.seed), scope, freed_memory_kept(len(task.ratings)):
        chain = RunningChain(task)
        if begun is not None and begun.state is not None:
            chain.restore(begun)
        while not chain.is_at_its_end():
            chain.step()
            if on_step(chain):
                break
    return chain.so_far()


def tracker_of(task: ChainTask) -> Tracker | None:
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


def _kernel(task: ChainTask) -> Kernel:
    if isinstance(task.method, NUTS):
        model = with_history(task.model, task.history)
        return NUTSKernel(model, task.ratings, task.n_warmup)
    given = task.model, task.ratings, task.history, task.seed, task.n_warmup
    return GibbsKernel(*given, task.sharing)
