"""Fit a guide to a model step by step: variational inference, or MAP."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pandas as pd
import pyro
import torch
from torch import Tensor

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.data.ratings import Ratings
from pyro_pmf.errors import FitError, warn
from pyro_pmf.inference.conditions import Conditions
from pyro_pmf.inference.interruption import interruption
from pyro_pmf.inference.memory import freed_memory_kept
from pyro_pmf.inference.methods import MAP, VI
from pyro_pmf.inference.packing import filled
from pyro_pmf.inference.progress import progress_bar
from pyro_pmf.inference.scales import Scales
from pyro_pmf.inference.sharing import Sharing
from pyro_pmf.inference.variational.collapse import refuse_collapse, warn_without_factors
from pyro_pmf.inference.variational.guides import NormalGuide
from pyro_pmf.inference.variational.objective import Objective, pose, usual_scales
from pyro_pmf.inference.variational.optimizers import LBFGS, Adam, Optimizer
from pyro_pmf.inference.variational.readout import check_prediction, read_latents
from pyro_pmf.inference.variational.schedule import JUDGED_EVERY, Schedule
from pyro_pmf.inference.variational.space import SharedSpace, Space
from pyro_pmf.inference.variational.warm_start import Start
from pyro_pmf.model.learned import Converged, Learned
from pyro_pmf.model.pmf import for_point_estimate
from pyro_pmf.model.terms import terms_of
from pyro_pmf.random_state import (
    isolated_random_state,
    restore_random_state,
    take_random_state,
)

# Scales that are learnt from the start shrink factors that have not formed yet. So L-BFGS holds
# them for its first steps. Adam, whose steps are shorter, raises their learning rate over more.
_DELAY_OF_LBFGS = 40
_DELAY_OF_ADAM = 100


@dataclass
class FitState:
    """Everything that a fit needs to continue after a step.

    Attributes
    ----------
    parameters : Tensor, shape (n,)
        All parameters, unconstrained, in one vector.
    optimizer : AdamState or LBFGSState
        State of the optimizer, its schedule included.
    steps : list of dict
        One row per step: step (from 1), elbo (nats), seconds.
    blocks_left : list of int
        Blocks of users that the current pass over the ratings has not visited, the next one last.
    random_state : dict, optional
        Random state of Python, NumPy and torch; only `Loop.present_state` sets it.
    """

    parameters: Tensor
    optimizer: Any
    steps: list[dict[str, Any]] = field(default_factory=list)
    blocks_left: list[int] = field(default_factory=list)
    random_state: dict[str, Any] | None = None


class Loop:
    """Steps of a fit; only ``state`` changes from one step to the next.

    A loop runs inside an isolated random state and a scope of Pyro's parameter store.

    Parameters
    ----------
    objective : Objective
        Loss to minimize.
    method : MAP or VI
        Options of the fit.
    run : Conditions
        Conditions of the fit.
    ratings : Ratings
        The training ratings that the fit was given.

    Attributes
    ----------
    state : FitState
        Everything that the fit needs to continue.
    optimizer : Optimizer
        L-BFGS or Adam.

    Raises
    ------
    FitError
        If neither the model nor the guide has a parameter.
    """

    def __init__(
        self, objective: Objective, method: MAP | VI, run: Conditions, ratings: Ratings
    ) -> None:
        self.objective, self.method, self.run, self.ratings = objective, method, run, ratings
        train = objective.ratings
        self._blocks: list[Pairs | None] = [None]
        if method.batches > 1:
            self._blocks = [*train.user_blocks(method.batches)]
        named = sorted(objective.parameters(), key=lambda pair: self._place(pair[0]))
        names, self._leaves = zip(*named, strict=True)
        self._space = self._space_of(names)
        parameters = _in_one_vector(self._leaves)
        self.optimizer = self._choose_optimizer(names, parameters)
        self.state = FitState(parameters, self.optimizer.state)
        self._launched: list[tuple[Tensor, float]] = []  # losses that a GPU may still be computing

    def step(self) -> bool:
        """Take a step; return whether its row, and all before it, are in ``state.steps``.

        Raises
        ------
        FitError
            If the ELBO is not finite.
        """
        loss = self.optimizer.step()
        self._launched.append((-loss, self.run.seconds))
        n_steps = len(self.state.steps) + len(self._launched)
        waits = self.objective.ratings.device.type == "cuda" and self.run.on_step is None
        if waits and n_steps < self.optimizer.last_step and n_steps % JUDGED_EVERY:
            return False  # reading a loss waits for the GPU
        self._read()
        return True

    def is_at_its_end(self) -> bool:
        """Return whether no step is left to take."""
        return len(self.state.steps) + len(self._launched) >= self.optimizer.last_step

    def present_state(self) -> FitState:
        """Return everything that the fit needs to continue; the next step changes it.

        If processes share the fit, each calls this, and gets the parameters of all.
        """
        self._read()
        state = FitState(**vars(self.state) | {"random_state": take_random_state()})
        return self._space.whole(state)

    def take_state(self) -> FitState:
        """Return a copy of everything that the fit needs to continue."""
        return copy.deepcopy(self.present_state())

    def restore(self, state: FitState) -> None:
        """Continue from a state that a loop of the same fit returned.

        Parameters
        ----------
        state : FitState
            Result of `take_state`.
        """
        self._launched.clear()
        parameters = self.state.parameters
        self.state = self._space.part(copy.deepcopy(state))
        with torch.no_grad():
            parameters.copy_(self.state.parameters)
        self.state.parameters = parameters  # model and guide share the memory of this one
        self.optimizer.state = self.state.optimizer
        if state.random_state is not None:
            restore_random_state(state.random_state)

    def check_end(self) -> None:
        """Refuse a loss that is not finite at the last parameters.

        Raises
        ------
        FitError
            If the ELBO is not finite.
        """
        with torch.no_grad():
            n = len(self._blocks)
            losses = [self.objective.loss(block, n) for block in self._blocks]
            total = self.run.reducer.sum(torch.stack(losses).sum())
            self._require_finite(-float(total), len(self.state.steps) + 1)

    def learned(self) -> Learned:
        """Return the distribution of the latents at the current parameters."""
        with isolated_random_state(self.run.seed):
            latents, drawn = read_latents(self.objective, self.method.n_draws)
        if self.objective.sharing:
            latents = self.objective.sharing.rows(latents, terms_of(self.objective.stated))
        return Learned(
            model=self.objective.stated,
            ratings=self.ratings.to("cpu"),
            latents=latents,
            n_draws=self.method.n_draws if drawn else None,
            steps=pd.DataFrame(self.state.steps),
            converged=Converged(self.optimizer.finished, self.optimizer.finished),
            history=self.run.history,
            part=(self.run.reducer.rank, self.run.reducer.size) if self.run.is_part else None,
        )

    def _place(self, name: str) -> int:
        """Return the place of a parameter in the vector: of users, others, standard deviations."""
        if self.objective.is_of_scale(name):
            return 2
        return 0 if self.objective.is_of_users(name) else 1

    def _space_of(self, names: Sequence[str]) -> Space:
        sharing = self.objective.sharing
        if sharing is None:
            return Space()
        n_own = sum(self._place(name) == 0 for name in names)
        n_shared = sum(leaf.numel() for leaf in self._leaves[n_own:])
        return SharedSpace(sharing.reducer, sharing.shard, self._leaves[:n_own], n_shared)

    def _read(self) -> None:
        for elbo, seconds in self._launched:
            step = len(self.state.steps) + 1
            self._require_finite(float(elbo), step)
            self.state.steps.append({"step": step, "elbo": float(elbo), "seconds": seconds})
        self._launched.clear()

    def _require_finite(self, elbo: float, step: int) -> None:
        if not math.isfinite(elbo):
            raise FitError(
                f"The ELBO is {elbo} at step {step}, because of the sites "
                f"{self.objective.why_not_finite()}: check their priors and values. If Adam "
                f"optimizes, lower learning_rate={self.method.learning_rate}."
            )

    def _choose_optimizer(self, names: Sequence[str], parameters: Tensor) -> Optimizer:
        """Choose L-BFGS if the loss has no noise and the guide has a metric, else Adam."""
        objective, method = self.objective, self.method
        sharing = objective.sharing
        tolerance = method.tolerance * (
            len(self.ratings) if sharing is None else sharing.shard.n_all_pairs
        )
        n_late = sum(
            leaf.numel()
            for name, leaf in zip(names, self._leaves, strict=True)
            if objective.is_of_scale(name)
        )
        recording, guide = None, objective.guide
        if len(self._blocks) == 1:
            with pyro.validation_enabled(False):
                recording = objective.recorded_gradient(self._leaves)
        leaves = dict(zip(names, self._leaves, strict=True))
        if recording is not None and isinstance(guide, NormalGuide) and guide.owns(names):

            def inverse_fisher() -> Tensor:
                return torch.cat([guide.inverse_fisher(name).flatten() for name in names])

            return LBFGS(
                self._space.total(recording),
                parameters,
                n_late,
                _DELAY_OF_LBFGS,
                inverse_fisher,
                method.max_steps,
                tolerance,
                self._space,
                # not a method: without a cycle, all memory of the steps is free at their end
                partial(_recentre, guide, leaves, objective, self._space),
            )
        schedule = Schedule(method.max_steps, tolerance, min_steps=2 * _DELAY_OF_ADAM)
        evaluate = self._space.total(recording or self._gradient_of_next_block)
        return Adam(evaluate, parameters, n_late, _DELAY_OF_ADAM, schedule, method.learning_rate)

    def _gradient_of_next_block(self) -> tuple[Tensor, Tensor]:
        """Return loss and gradient of the next block; each pass has a new order of blocks."""
        left = self.state.blocks_left
        if not left:
            n = len(self._blocks)
            left.extend(reversed(torch.randperm(n).tolist()) if n > 1 else [0])
        return self.objective.gradient(self._leaves, self._blocks[left.pop()], len(self._blocks))


def _recentre(
    guide: NormalGuide, leaves: dict[str, Tensor], objective: Objective, space: Space
) -> bool:
    """Move the mean of the log noise of users or items into log sigma; return if there was one.

    This changes no rating's noise, but the prior of the log noise is about zero. While sigma is
    held, the log noise takes its place.
    """
    sigma = leaves.get(guide.parameter_name("locs", "sigma"))
    if sigma is None:
        return False
    moved = False
    for term in terms_of(objective.stated).noise:
        name = guide.parameter_name("locs", term.site)
        if (s := leaves.get(name)) is not None:
            with torch.no_grad():
                mean = space.mean(s, objective.is_of_users(name))
                s -= mean
                sigma += mean
            moved = True
    return moved


def fit_guide(
    model: Callable[..., Any],
    ratings: Ratings,
    method: MAP | VI,
    run: Conditions,
    scales: Scales | None = None,
    start: Start | None = None,
) -> Learned:
    """Fit a guide to a model.

    Parameters
    ----------
    model : callable
        The Pyro model.
    ratings : Ratings
        The training ratings.
    method : MAP or VI
        Options of the fit.
    run : Conditions
        Conditions of the fit.
    scales : dict, optional
        Values at which standard deviations are held, see `pose`.
    start : Start, optional
        Where the fit begins.

    Returns
    -------
    Learned
        Distribution of the latents, or the point estimate.

    Raises
    ------
    FitError
        If `pose` refuses the model, the model does not run on new pairs, the ELBO is not finite,
        or a point estimate collapses.

    Warns
    -----
    UserWarning
        If the deterministic ELBO does not apply, variational inference shrinks all factors to
        zero, or Ctrl-C ends the fit early. In the last case, it returns its present parameters.
    """
    train = ratings.to(run.device, run.dtype)
    scope = pyro.get_param_store().scope()
    with isolated_random_state(run.seed), scope, freed_memory_kept(len(train)):
        objective = _pose(model, train, method, run, scales, start)
        loop = Loop(objective, method, run, train)
        if not terms_of(objective.stated):
            check_prediction(objective)
        if run.checkpoint is not None and (saved := run.checkpoint.take_state()) is not None:
            loop.restore(filled(loop.state, saved))
        is_whole = _take_steps(loop)
        # before the check, which may draw
        state = None if run.checkpoint is None else loop.present_state()
        with pyro.validation_enabled(False):  # `_require_finite` reports a diverging step
            loop.check_end()
        if run.checkpoint is not None:
            run.checkpoint.write(state, finished=is_whole)
        learned = loop.learned()
        if not is_whole:
            warn(
                f"This fit was interrupted after step {len(learned.steps)}, so it has not "
                f"converged: fit again{', with resume=True' if run.checkpoint else ''}."
            )
            return replace(learned, converged=Converged(False, False))
        if objective.is_point_estimate():
            refuse_collapse(learned, objective)
        if learned.converged:
            warn_without_factors(learned)
    return learned


def _pose(
    model: Callable[..., Any],
    ratings: Ratings,
    method: MAP | VI,
    run: Conditions,
    scales: Scales | None,
    start: Start | None,
) -> Objective:
    """Return the objective of all ratings, or of the part of this process."""
    if run.reducer.size == 1:
        return pose(model, ratings, method, scales, run.history, start)
    if scales is None:
        stated = for_point_estimate(model) if isinstance(method, MAP) else model
        scales = run.reducer.first(lambda: usual_scales(stated, ratings, method))
    sharing = Sharing.of(ratings, run.reducer, run.is_part)
    seen = None if run.history is None else run.history.to(run.device, run.dtype)
    history = sharing.history(seen, ratings)
    if start is not None and not run.is_part:
        start = start.of_users(sharing.shard.first, sharing.shard.last)
    return pose(model, sharing.shard, method, scales, history, start, sharing)


def _take_steps(loop: Loop) -> bool:
    """Take steps until the fit has ended, or is interrupted; return whether it has ended."""
    run = loop.run
    with (
        pyro.validation_enabled(False),
        interruption(run.interruptible) as request,
        progress_bar("fit", run.progress, loop.method.max_steps) as bar,
    ):
        while not (loop.is_at_its_end() or run.reducer.any(request.requested)):
            if loop.step():
                row = loop.state.steps[-1]
                bar.set_postfix_str(f"ELBO {row['elbo']:,.1f}", refresh=False)
                bar.update(row["step"] - bar.n)
                if run.on_step is not None:
                    # its draws do not change the fit
                    with request.noticed(), isolated_random_state(run.seed):
                        run.on_step(row, loop.learned)
                bar.total = loop.optimizer.last_step
            if run.checkpoint is not None and run.checkpoint.is_due():
                run.checkpoint.write(loop.present_state())
    return loop.is_at_its_end()


def _in_one_vector(leaves: Sequence[Tensor]) -> Tensor:
    """Move tensors into the memory of one vector, and return the vector."""
    vector = torch.cat([leaf.detach().flatten() for leaf in leaves])
    for leaf, part in zip(leaves, vector.split([leaf.numel() for leaf in leaves]), strict=True):
        leaf.data = part.view(leaf.shape)
    return vector
