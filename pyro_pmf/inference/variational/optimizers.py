"""Optimizers of the loss of a fit, over one vector of all parameters."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim.adam import adam

from pyro_pmf.inference.variational.schedule import JUDGED_EVERY, Schedule, ScheduleState
from pyro_pmf.inference.variational.space import Evaluate, Space

_MEMORY = 10  # steps from which L-BFGS estimates the curvature
_LINE = 16  # numbers: vectors that begin with a line of the cache are summed in one order
_WINDOW = 10  # steps over which L-BFGS judges the loss
_MAX_TRIALS = 20  # evaluations of one line search


class Optimizer(Protocol):
    """Protocol of optimizers; ``state`` is everything that they need to continue after a step."""

    state: Any

    @property
    def last_step(self) -> int:
        """Expected last step."""

    @property
    def finished(self) -> bool:
        """Whether the loss has stopped falling."""

    def step(self) -> Tensor:
        """Change the parameters; return the loss before the step."""


@dataclass
class AdamState:
    """State of Adam.

    Attributes
    ----------
    mean, square : Tensor, shape (n,)
        Running averages of the gradient and of its square.
    counts : list of Tensor
        Number of steps of early and of late parameters, in the form of torch's kernel.
    step : int
        Number of steps taken.
    unread : list of Tensor
        Losses that have not been judged yet.
    schedule : ScheduleState
        State of the learning rate.
    """

    mean: Tensor
    square: Tensor
    counts: list[Tensor]
    schedule: ScheduleState
    step: int = 0
    unread: list[Tensor] = field(default_factory=list)


class Adam:
    """Adam (Kingma & Ba, ICLR 2015), for losses that may be noisy.

    Parameters
    ----------
    evaluate : callable
        Function of no arguments that returns the loss and its gradient at ``parameters``.
    parameters : Tensor, shape (n,)
        Changed in place.
    n_late : int
        Number of late parameters, at the end of ``parameters``, whose learning rate rises from
        zero.
    delay : int
        Number of steps over which it rises.
    schedule : Schedule
        Factor on the learning rate, and the end of the fit.
    learning_rate : float
        Largest step size.

    Attributes
    ----------
    state : AdamState
        Everything that changes from step to step.
    """

    def __init__(
        self,
        evaluate: Evaluate,
        parameters: Tensor,
        n_late: int,
        delay: int,
        schedule: Schedule,
        learning_rate: float,
    ) -> None:
        self._evaluate, self._delay = evaluate, delay
        self._schedule, self._learning_rate = schedule, learning_rate
        self._parameters, self._sizes = parameters, (len(parameters) - n_late, n_late)
        self.state = AdamState(
            torch.zeros_like(parameters),
            torch.zeros_like(parameters),
            [parameters.new_zeros(()) for _ in self._sizes],
            schedule.state,
        )

    @property
    def last_step(self) -> int:
        """Last step of the schedule."""
        return self.state.schedule.last_step

    @property
    def finished(self) -> bool:
        """Whether the loss has stopped falling."""
        return self.state.schedule.finished

    def step(self) -> Tensor:
        """Take one step; return the loss before it. Losses are read only when they are judged."""
        state = self.state
        self._schedule.state = state.schedule
        state.step += 1
        loss, gradient = self._evaluate()
        rate = self._learning_rate * self._schedule.factor(state.step)
        late_rate = rate * min(1.0, state.step / max(1, self._delay))
        with torch.no_grad():
            vectors = self._parameters, state.mean, state.square, gradient
            for part, mean, square, slope, count, part_rate in zip(
                *(x.split(self._sizes) for x in vectors),
                state.counts,
                (rate, late_rate),
                strict=True,
            ):
                self._update(part, mean, square, slope, count, part_rate)
        state.unread.append(loss.clone())
        if state.step % JUDGED_EVERY == 0:
            for value in torch.stack(state.unread).tolist():
                self._schedule.record(value)
            state.unread.clear()
        return loss

    @staticmethod
    def _update(
        parameters: Tensor, mean: Tensor, square: Tensor, slope: Tensor, count: Tensor, rate: float
    ) -> None:
        # The class torch.optim.Adam loads torch's compiler, which takes longer than a MAP fit.
        adam(
            [parameters],
            [slope],
            [mean],
            [square],
            [],
            [count],
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=rate,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )


@dataclass
class LBFGSState:
    """State of L-BFGS.

    Attributes
    ----------
    gradient : Tensor, shape (n,)
        Gradient at the current parameters.
    inverse : Tensor, shape (n,)
        Inverse of the diagonal metric.
    scale : Tensor, shape ()
        Factor on ``inverse``, from the curvature along the last step.
    last_step : int
        Expected last step.
    delay : int
        Number of steps for which late parameters are held.
    finished : bool
        Whether the loss has stopped falling.
    renewed : int or None
        Number of steps after which the loss seemed to have stopped falling, and the metric was
        taken anew; None if it has fallen since then.
    losses : list of float
        Losses at the initial parameters and after each step.
    pairs : deque of (Tensor, Tensor, Tensor)
        Steps, changes of the gradient along them, and inner products of both.
    """

    gradient: Tensor
    inverse: Tensor
    scale: Tensor
    last_step: int
    delay: int
    finished: bool = False
    renewed: int | None = None
    losses: list[float] = field(default_factory=list)
    pairs: deque[tuple[Tensor, Tensor, Tensor]] = field(
        default_factory=lambda: deque(maxlen=_MEMORY)
    )


class LBFGS:
    """L-BFGS (Nocedal 1980) in a metric, for losses without noise.

    In the metric of the guide's Fisher information, the first step is along the natural gradient
    (Honkela et al., JMLR 2010). Entries that the ratings determine well and entries that they
    hardly touch are then on one scale. The line search bisects for the weak Wolfe conditions
    (Lewis & Overton 2013), which keep the curvature estimate positive.

    Parameters
    ----------
    evaluate : callable
        Function of no arguments that returns the loss and its gradient at ``parameters``.
    parameters : Tensor, shape (n,)
        Changed in place.
    n_late : int
        Number of late parameters, at the end of ``parameters``, that are held for the first steps.
    delay : int
        Number of steps for which they are held.
    metric : callable
        Function of no arguments that returns the inverse of the diagonal metric at ``parameters``:
        shape (n,).
    max_steps : int
        Largest number of steps.
    tolerance : float
        The loss has stopped falling when it drops by less than this in 25 steps, at the rate of
        the last 10, and does so again after the metric has been taken anew. In an outdated metric,
        the loss may hardly fall far above its minimum.
    space : Space
        Inner products of vectors of parameters.
    recentre : callable, optional
        Function of no arguments that moves the parameters along a direction which hardly changes
        the loss, and returns whether there is one; steps are slow along it.

    Attributes
    ----------
    state : LBFGSState
        Everything that changes from step to step.
    """

    def __init__(
        self,
        evaluate: Evaluate,
        parameters: Tensor,
        n_late: int,
        delay: int,
        metric: Callable[[], Tensor],
        max_steps: int,
        tolerance: float,
        space: Space | None = None,
        recentre: Callable[[], bool] = lambda: False,
    ) -> None:
        self._evaluate, self._parameters, self._metric = evaluate, parameters, metric
        self._n_late, self._space, self._recentre = n_late, space or Space(), recentre
        self._enough = tolerance * _WINDOW / 25
        empty = torch.empty_like(parameters)
        self.state = LBFGSState(empty, empty, empty, last_step=max_steps, delay=delay)
        # one block of memory: vectors made one by one would lie between those of the steps
        length = -(-len(parameters) // _LINE) * _LINE
        rooms = parameters.new_empty(_MEMORY, 2, length)[..., : len(parameters)]
        self._rooms = itertools.cycle(rooms)

    @property
    def last_step(self) -> int:
        """Expected last step."""
        return self.state.last_step

    @property
    def finished(self) -> bool:
        """Whether the loss has stopped falling."""
        return self.state.finished

    def step(self) -> Tensor:
        """Take one step; return the loss before it."""
        state = self.state
        if not state.losses:
            loss, gradient = self._evaluate()
            state.losses, state.gradient = [float(loss)], gradient.clone()
            self._begin(self._n_late if state.delay else 0)
        elif len(state.losses) == state.delay + 1 and not self._has_recentred():
            self._begin(0)
        loss_before = state.losses[-1]
        moved = self._search(self._direction())
        if not moved and state.pairs:  # the curvature estimate may be outdated
            state.pairs.clear()
            moved = self._search(self._direction())
        steps = len(state.losses) - 1
        if not moved and steps < state.delay:
            state.delay = steps
        elif not moved or steps >= max(state.delay, state.renewed or 0) + _WINDOW:
            self._judge(moved, steps)
        return torch.tensor(loss_before, dtype=torch.float64)

    def _judge(self, moved: bool, steps: int) -> None:
        """Finish if the loss has stopped falling, in a metric that is not outdated."""
        state = self.state
        drop = state.losses[-min(_WINDOW, steps) - 1] - state.losses[-1]
        if (moved and drop >= self._enough) or self._has_recentred():
            state.renewed = None
        elif state.renewed is None:
            state.renewed = steps
            self._begin(0)
        else:
            state.finished, state.last_step = True, max(1, steps)

    def _has_recentred(self) -> bool:
        """Recentre the parameters if that lowers the loss; return whether it did."""
        before, state = self._parameters.clone(), self.state
        if not self._recentre():
            return False
        loss, gradient = self._evaluate()
        if not float(loss) < state.losses[-1] - self._enough:
            self._parameters.copy_(before)
            return False
        state.losses[-1], state.gradient = float(loss), gradient.clone()
        self._begin(0)
        return True

    def _begin(self, n_held: int) -> None:
        self.state.pairs.clear()
        self.state.inverse = self._metric()
        self.state.inverse[len(self.state.inverse) - n_held :] = 0.0

    def _direction(self) -> Tensor:
        """Return minus the inverse Hessian times the gradient, by L-BFGS's two-loop recursion."""
        dot = self._space.dot
        direction, factors = -self.state.gradient, []
        for s, y, sy in reversed(self.state.pairs):
            factors.append(dot(s, direction) / sy)
            direction.addcmul_(y, factors[-1], value=-1)
        direction *= self.state.inverse
        if self.state.pairs:
            direction *= self.state.scale
        for (s, y, sy), factor in zip(self.state.pairs, reversed(factors), strict=True):
            direction.addcmul_(s, factor - dot(y, direction) / sy)
        return direction

    def _search(self, direction: Tensor) -> bool:
        """Move along a direction by the weak Wolfe conditions; return False if nothing moved."""
        state, dot = self.state, self._space.dot
        start, gradient, loss = self._parameters.clone(), state.gradient, state.losses[-1]
        slope = float(dot(direction, gradient))
        rounding = torch.finfo(start.dtype).eps * abs(loss)
        near, far, length = 0.0, math.inf, 1.0
        if not state.pairs:  # move no entry by more than a standard deviation
            length = 1 / max(
                1.0, float(self._space.largest((state.inverse.sqrt() * gradient).abs()))
            )
        for _ in range(_MAX_TRIALS if slope < 0 else 0):
            torch.add(start, direction, alpha=length, out=self._parameters)
            new_loss, new_gradient = self._evaluate()
            value, new_slope = torch.stack([new_loss, dot(direction, new_gradient)]).tolist()
            finite = math.isfinite(value) and math.isfinite(new_slope)
            if not finite or value > loss + 1e-4 * length * slope + rounding:
                far = length
            elif new_slope < 0.9 * slope:
                near = length
            else:
                s, y = next(self._rooms)  # of the oldest pair
                torch.mul(direction, length, out=s)
                torch.sub(new_gradient, gradient, out=y)
                sy = dot(s, y)
                state.pairs.append((s, y, sy))
                state.scale = sy / dot(y * state.inverse, y)
                state.gradient = new_gradient.clone()
                state.losses.append(value)
                return True
            length = (near + far) / 2 if far < math.inf else 2 * near
        self._parameters.copy_(start)
        return False
