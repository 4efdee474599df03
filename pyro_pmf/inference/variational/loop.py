"""Fitting a guide to a model step by step: variational inference, or MAP."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import pyro
import torch
from pyro.util import get_rng_state, set_rng_state
from torch import Tensor
from tqdm.auto import tqdm

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.data.ratings import Ratings
from pyro_pmf.errors import FitError, warn
from pyro_pmf.inference.methods import MAP, VI
from pyro_pmf.inference.run import Run
from pyro_pmf.inference.variational.collapse import NO_FACTORS, has_no_factors, refuse_collapse
from pyro_pmf.inference.variational.guides import NormalGuide
from pyro_pmf.inference.variational.objective import Objective, pose
from pyro_pmf.inference.variational.optimizers import LBFGS, Adam, Optimizer
from pyro_pmf.inference.variational.readout import check_prediction, read_latents
from pyro_pmf.inference.variational.schedule import JUDGED_EVERY, Schedule
from pyro_pmf.model.learned import Learned
from pyro_pmf.model.terms import terms_of
from pyro_pmf.random_state import isolated_random_state

# Scales learnt from the start shrink factors that have not formed yet. So L-BFGS holds them for
# its first steps, and Adam lets them loose over more of its own, shorter ones.
_DELAY_OF_LBFGS = 40
_DELAY_OF_ADAM = 100


@dataclass
class FitState:
    """All that a fit needs to go on from a step.

    Attributes
    ----------
    parameters : Tensor, shape (n,)
        Every parameter, unconstrained, in one vector.
    optimizer : AdamState or LBFGSState
        What the optimiser remembers, its schedule included.
    steps : list of dict
        One row a step: step (from 1), elbo (nats), seconds.
    blocks_left : list of int
        The blocks of users that this round over the ratings has yet to visit, the next one last.
    random_state : dict, optional
        Of Python, NumPy and torch, of a state that was taken out of its loop.
    """

    parameters: Tensor
    optimizer: Any
    steps: list[dict[str, Any]] = field(default_factory=list)
    blocks_left: list[int] = field(default_factory=list)
    random_state: dict[str, Any] | None = None


class Loop:
    """The steps of a fit; ``state`` is all that changes from one to the next.

    Runs inside an isolated random state and a scope of Pyro's parameter store.

    Parameters
    ----------
    objective : Objective
    method : MAP or VI
    run : Run

    Attributes
    ----------
    state : FitState
    optimizer : Optimizer
    """

    def __init__(self, objective: Objective, method: MAP | VI, run: Run) -> None:
        self.objective, self.method, self.run = objective, method, run
        train = objective.ratings
        self._blocks: list[Pairs | None] = [None]
        if method.batches > 1:
            self._blocks = [*train.user_blocks(method.batches)]
        named = sorted(objective.parameters(), key=lambda pair: objective.is_of_scale(pair[0]))
        names, self._leaves = zip(*named, strict=True)
        parameters = _in_one_vector(self._leaves)
        self.optimizer = self._choose_optimizer(names, parameters)
        self.state = FitState(parameters, self.optimizer.state)
        self._launched: list[
            tuple[Tensor, float]
        ] = []  # losses that a GPU may still be at work on

    def step(self) -> bool:
        """Take a step; return whether its row, and those before it, are in ``state.steps``."""
        loss = self.optimizer.step()
        self._launched.append((-loss, self.run.seconds))
        n_steps = len(self.state.steps) + len(self._launched)
        waits = self.objective.ratings.device.type == "cuda" and self.run.on_step is None
        if waits and n_steps < self.optimizer.last_step and n_steps % JUDGED_EVERY:
            return False  # reading a loss would wait for the GPU
        self._read()
        return True

    def is_at_its_end(self) -> bool:
        """Whether there is no step left to take."""
        return len(self.state.steps) + len(self._launched) >= self.optimizer.last_step

    def take_state(self) -> FitState:
        """Return a copy of all that the fit needs to go on from here."""
        self._read()
        return copy.deepcopy(FitState(**vars(self.state) | {"random_state": get_rng_state()}))

    def restore(self, state: FitState) -> None:
        """Go on from a state that a loop of the same fit returned."""
        parameters = self.state.parameters
        self.state = copy.deepcopy(state)
        with torch.no_grad():
            parameters.copy_(self.state.parameters)
        self.state.parameters = parameters  # the one whose memory the model and the guide share
        self.optimizer.state = self.state.optimizer
        if state.random_state is not None:
            set_rng_state(state.random_state)

    def check_end(self) -> None:
        """Raise `FitError` if the loss at the last parameters is not finite."""
        with torch.no_grad():
            n = len(self._blocks)
            losses = [self.objective.loss(block, n).item() for block in self._blocks]
            self._require_finite(-sum(losses), len(self.state.steps) + 1)

    def learned(self) -> Learned:
        """Return what is known of the latents at the present parameters."""
        with isolated_random_state(self.run.seed):
            latents, drawn = read_latents(self.objective, self.method.n_draws)
        train = self.objective.ratings
        return Learned(
            model=self.objective.stated,
            ratings=train.to("cpu"),
            latents=latents,
            n_draws=self.method.n_draws if drawn else None,
            steps=pd.DataFrame(self.state.steps),
            converged=self.optimizer.finished,
        )

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
                f"{self.objective.why_not_finite()}: look at the priors and the values of these "
                f"sites, or lower learning_rate={self.method.learning_rate} where Adam uses it."
            )

    def _choose_optimizer(self, names: Sequence[str], parameters: Tensor) -> Optimizer:
        """L-BFGS where the loss has no noise and the guide a metric, Adam elsewhere."""
        objective, method = self.objective, self.method
        tolerance = method.tolerance * len(objective.ratings)
        n_late = sum(
            leaf.numel()
            for name, leaf in zip(names, self._leaves, strict=True)
            if objective.is_of_scale(name)
        )
        recording, guide = None, objective.guide
        if len(self._blocks) == 1:
            with pyro.validation_enabled(False):
                recording = objective.recorded_gradient(self._leaves)
        if recording is not None and isinstance(guide, NormalGuide) and guide.owns(names):

            def inverse_fisher() -> Tensor:
                return torch.cat([guide.inverse_fisher(name).flatten() for name in names])

            return LBFGS(
                recording,
                parameters,
                n_late,
                _DELAY_OF_LBFGS,
                inverse_fisher,
                method.max_steps,
                tolerance,
            )
        schedule = Schedule(method.max_steps, tolerance, min_steps=2 * _DELAY_OF_ADAM)
        evaluate = recording or self._gradient_of_next_block
        return Adam(evaluate, parameters, n_late, _DELAY_OF_ADAM, schedule, method.learning_rate)

    def _gradient_of_next_block(self) -> tuple[Tensor, Tensor]:
        """Loss and gradient of the next block; the blocks come in a new order each round."""
        left = self.state.blocks_left
        if not left:
            n = len(self._blocks)
            left.extend(reversed(torch.randperm(n).tolist()) if n > 1 else [0])
        return self.objective.gradient(self._leaves, self._blocks[left.pop()], len(self._blocks))


def fit_guide(
    model: Callable[..., Any],
    ratings: Ratings,
    method: MAP | VI,
    run: Run,
    scales: Mapping[str, float] | None = None,
) -> Learned:
    """Fit a guide to a model.

    Parameters
    ----------
    model : callable
    ratings : Ratings
        The training ratings.
    method : MAP or VI
    run : Run
    scales : mapping of str to float, optional
        See `pose`.

    Raises
    ------
    FitError
        See `pyro_pmf.fit`.
    """
    train = ratings.to(run.device, run.dtype)
    with isolated_random_state(run.seed), pyro.get_param_store().scope():
        objective = pose(model, train, method, scales)
        loop = Loop(objective, method, run)
        if not terms_of(objective.stated):
            check_prediction(objective)
        with (
            pyro.validation_enabled(False),  # a step that diverges is reported here, by site
            tqdm(total=method.max_steps, desc="fit", unit="step", disable=not run.progress) as bar,
        ):
            while not loop.is_at_its_end():
                if not loop.step():
                    continue
                row = loop.state.steps[-1]
                bar.update(row["step"] - bar.n)
                if run.on_step is not None:
                    with isolated_random_state(run.seed):  # what it draws does not change the fit
                        run.on_step(row, loop.learned)
                bar.set_postfix_str(f"ELBO {row['elbo']:,.1f}", refresh=False)
                bar.total = loop.optimizer.last_step
            loop.check_end()
        learned = loop.learned()
        if objective.is_point_estimate():
            refuse_collapse(learned, objective)
        elif learned.converged and has_no_factors(learned):
            warn(
                f"{NO_FACTORS}: by the ELBO, these ratings hold no more than biases. Try fewer "
                "n_factors, or n_factors=0."
            )
    return learned


def _in_one_vector(leaves: Sequence[Tensor]) -> Tensor:
    """Move tensors into the memory of one vector, and return it."""
    vector = torch.cat([leaf.detach().flatten() for leaf in leaves])
    for leaf, part in zip(leaves, vector.split([leaf.numel() for leaf in leaves]), strict=True):
        leaf.data = part.view(leaf.shape)
    return vector
