"""Markov chains that draw from the exact posterior, by Gibbs sampling or by NUTS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pyro
import torch

from pyro_pmf.data.blocks import number_of_blocks
from pyro_pmf.data.ratings import Ratings
from pyro_pmf.errors import FitError, warn
from pyro_pmf.inference.conditions import Conditions
from pyro_pmf.inference.interruption import Interruption, interruption
from pyro_pmf.inference.mcmc.diagnostics import convergence
from pyro_pmf.inference.mcmc.gathering import Chain, Gathered
from pyro_pmf.inference.mcmc.processes import News, n_processes, processes_memory, run_apart
from pyro_pmf.inference.mcmc.running import ChainTask, RunningChain, run_chain, tracker_of
from pyro_pmf.inference.mcmc.tracking import tracked
from pyro_pmf.inference.memory import draws_memory, require_memory, sweep_memory
from pyro_pmf.inference.methods import NUTS, Gibbs
from pyro_pmf.inference.progress import Bar, progress_bar
from pyro_pmf.inference.sharing import Sharing
from pyro_pmf.model.learned import Converged, Learned
from pyro_pmf.model.running import is_latent, require_possible
from pyro_pmf.model.terms import terms_of
from pyro_pmf.random_state import isolated_random_state


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
        model has discrete latents or no observed site ``rating``, `Gibbs` does not know it, or a
        chain in a process of its own fails.
    KeyboardInterrupt
        If Ctrl-C ends the fit before a chain has a few draws.

    Warns
    -----
    UserWarning
        If Ctrl-C ends the fit early. It returns the draws so far, as many of each chain.
    """
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
            part=(run.reducer.rank, run.reducer.size) if run.is_part else None,
        )

    tasks = plan_chains(model, ratings, method, run)
    gathered = Gathered(
        *(method.n_chains, method.n_draws, run.checkpoint), tasks[0].sharing, terms_of(model)
    )
    left = [task for task in tasks if not gathered.is_complete(task.number)]
    of_one = tasks[0].n_warmup + method.n_draws * tasks[0].thin
    n_steps = [of_one * gathered.is_complete(task.number) for task in tasks]
    total = of_one * method.n_chains
    with (
        progress_bar("sample", run.progress, total, "draw") as bar,
        interruption(run.interruptible) as request,
    ):
        course = _Course(gathered, run, learned, n_steps, bar, request)
        if (n := n_processes(method, ratings.device, len(left))) > 1:
            every = None if run.checkpoint is None else run.checkpoint.every
            run_apart(left, n, gathered, course.on_news, request, every)
        else:
            for task in left:
                begun = gathered.begun(task.number)
                gathered.add_rest(task.number, run_chain(task, course.on_step, begun))
                if run.reducer.any(request.requested):
                    break
    drawn, sums, n_chains = gathered.equal_chains()
    all_draws = learned(drawn, n_chains)
    if sums and (tracker := tracker_of(tasks[0])) is not None:
        all_draws = replace(all_draws, tracked=tracked(tracker, sums))
    if not gathered.is_whole():
        _warn_of_interruption(n_chains, all_draws, run)
        return all_draws
    with isolated_random_state(run.seed), pyro.get_param_store().scope():
        judged = convergence(
            model, home, drawn.latents, all_draws.steps, n_chains, history=run.history
        )
    return replace(all_draws, converged=judged)


@dataclass(frozen=True)
class _Course:
    """What happens after the steps of chains: progress, callback and checkpoint.

    Attributes
    ----------
    gathered : Gathered
        Draws of all chains.
    run : Conditions
        Conditions of the fit.
    learned : callable
        Returns the `Learned` of a chain.
    n_steps : list of int
        Number of steps of each chain.
    bar : Bar
        The progress bar.
    request : Interruption
        Whether the fit was asked to end early.
    """

    gathered: Gathered
    run: Conditions
    learned: Callable[[Chain], Learned]
    n_steps: list[int]
    bar: Bar
    request: Interruption

    def on_step(self, chain: RunningChain) -> bool:
        """Go on after a step of the only chain that runs; return whether it shall end early."""
        self._move_on(chain.number, chain.n_steps, chain.at_present)
        requested = self.request.requested = self.run.reducer.any(self.request.requested)
        is_due = (requested or self._is_due()) and not chain.is_at_its_end()  # it is written then
        if is_due and (state := chain.present_state()) is not None:
            self.gathered.add_rest(chain.number, chain.so_far(), state)
            self.gathered.write()
        return requested

    def on_news(self, number: int, news: News) -> None:
        """Go on after some steps of one of the chains, whose draws were added."""
        drawn = self.gathered.begun(number).drawn
        self._move_on(number, news.n_steps, (lambda: drawn) if news.new.steps else None)
        if self._is_due():
            self.gathered.write()

    def _move_on(self, number: int, n_steps: int, present: Callable[[], Chain] | None) -> None:
        """Show progress, and call the callback where there are draws to show."""
        self.n_steps[number] = n_steps
        step = sum(self.n_steps)
        self.bar.update(step - self.bar.n)
        if self.run.on_step is not None and present is not None:
            row = {"step": step, "elbo": None, "seconds": self.run.seconds}
            # its draws do not change the chain
            with self.request.noticed(), isolated_random_state(self.run.seed):
                self.run.on_step(row, lambda: self.learned(present()))

    def _is_due(self) -> bool:
        return self.run.checkpoint is not None and self.run.checkpoint.is_due()


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
    n = n_processes(method, ratings.device, method.n_chains)
    needed = draws_memory(n_latents, method.n_draws, method.n_chains + n, ratings.dtype)
    needed += processes_memory(n, ratings)
    remedy = "Reduce n_draws" if n == 1 else "Reduce n_draws or n_jobs"
    if isinstance(method, Gibbs) and n == 1:
        n_kept = len(ratings) // (1 if run.is_part else run.reducer.size)
        n_blocks = number_of_blocks(ratings) if ratings.scratch.is_mapped else 1
        needed += sweep_memory(n_kept // n_blocks, ratings.dtype)
        remedy += ", keep ratings in files (Ratings.read_parts)"
    require_memory(needed, torch.device("cpu"), remedy)
    history = None
    if run.history is not None:
        history = run.history.to(ratings.device, ratings.dtype)
    sharing = _sharing(ratings, run)
    n_ratings, n_users = len(ratings), ratings.n_users
    if sharing is not None:
        n_ratings, n_users = sharing.shard.n_all_pairs, sharing.shard.n_all_users
    n_warmup = method.warmup_of(n_ratings, max(n_users, ratings.n_items))
    plan = (model, ratings, history, method, n_warmup, method.thin_of(n_ratings), run.started)
    seeds = np.random.SeedSequence(run.seed).generate_state(method.n_chains)
    return [ChainTask(number, int(seed), *plan, sharing) for number, seed in enumerate(seeds)]


def _sharing(ratings: Ratings, run: Conditions) -> Sharing | None:
    """Return the part of this process; None if there is no other process."""
    if run.reducer.size == 1:
        return None
    sharing = Sharing.of(ratings, run.reducer, run.is_part)
    if run.reducer.any(not len(sharing.shard)):
        raise FitError(
            f"Each of {run.reducer.size} processes needs a user with ratings: run fewer processes."
        )
    return sharing


def _warn_of_interruption(n_chains: int, drawn: Learned, run: Conditions) -> None:
    n_draws = len(drawn.steps) // n_chains
    warn(
        f"This fit was interrupted, so it has {n_draws} draws of {n_chains} chain(s) and has not "
        f"converged: fit again{', with resume=True' if run.checkpoint else ''}."
    )
