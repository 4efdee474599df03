"""How the loss of a fit is minimised, over one vector that holds all parameters."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.optim.adam import adam

from pyro_pmf.schedule import JUDGED_EVERY, Schedule

_MEMORY = 10  # steps that L-BFGS estimates the curvature from
_WINDOW = 10  # steps that it judges the loss over
_MAX_TRIALS = 20  # of one line search

# Loss, and gradient of the shape of the parameters.
Evaluate = Callable[[], tuple[Tensor, Tensor]]


class Optimizer(Protocol):
    """Takes steps, until ``last_step``."""

    @property
    def last_step(self) -> int:
        """Where it will end, as far as is known."""

    @property
    def finished(self) -> bool:
        """Whether the loss has stopped falling."""

    def step(self) -> Tensor:
        """Change the parameters; return the loss at those it started from."""


class Adam:
    """Adam (Kingma & Ba, ICLR 2015), for losses that may be noisy.

    Parameters
    ----------
    evaluate : callable
        Returns the loss and its gradient at ``parameters``.
    parameters : Tensor, shape (n,)
        Changed in place.
    n_late : int
        The last so many parameters have a learning rate that rises from zero over the first
        ``warm_up`` steps.
    warm_up : int
    schedule : Schedule
    learning_rate : float
    """

    def __init__(
        self,
        evaluate: Evaluate,
        parameters: Tensor,
        n_late: int,
        warm_up: int,
        schedule: Schedule,
        learning_rate: float,
    ) -> None:
        self._evaluate, self._warm_up = evaluate, warm_up
        self._schedule, self._learning_rate = schedule, learning_rate
        self._sizes = len(parameters) - n_late, n_late
        self._parts = [
            (part, torch.zeros_like(part), torch.zeros_like(part), part.new_zeros(()))
            for part in parameters.split(self._sizes)
        ]
        self._step = 0
        self._unread: list[Tensor] = []

    @property
    def last_step(self) -> int:
        """Where the schedule ends."""
        return self._schedule.last_step

    @property
    def finished(self) -> bool:
        """Whether the loss has stopped falling."""
        return self._schedule.finished

    def step(self) -> Tensor:
        """Take one step; return the loss before it. Losses are read when they are judged."""
        self._step += 1
        loss, gradient = self._evaluate()
        rate = self._learning_rate * self._schedule.factor(self._step)
        late_rate = rate * min(1.0, self._step / max(1, self._warm_up))
        with torch.no_grad():
            for part, slope, part_rate in zip(
                self._parts, gradient.split(self._sizes), (rate, late_rate), strict=True
            ):
                self._update(*part, slope, part_rate)
        self._unread.append(loss.clone())
        if self._step % JUDGED_EVERY == 0:
            for value in torch.stack(self._unread).tolist():
                self._schedule.record(value)
            self._unread.clear()
        return loss

    @staticmethod
    def _update(
        parameters: Tensor, mean: Tensor, square: Tensor, steps: Tensor, slope: Tensor, rate: float
    ) -> None:
        # The class torch.optim.Adam loads torch's compiler, which takes longer than a fit by MAP.
        adam(
            [parameters],
            [slope],
            [mean],
            [square],
            [],
            [steps],
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=rate,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )


class LBFGS:
    """L-BFGS (Nocedal 1980) in a metric, for losses without noise.

    In the metric of the guide's Fisher information, the first step is along the natural gradient
    (Honkela et al., JMLR 2010), and entries that the ratings determine well and those that they
    hardly touch are on one scale. The line search is by bisection for the weak Wolfe conditions
    (Lewis & Overton 2013), which keep the curvature estimate positive.

    Parameters
    ----------
    evaluate : callable
        Returns the loss and its gradient at ``parameters``.
    parameters : Tensor, shape (n,)
        Changed in place.
    n_late : int
        The last so many parameters are held for the first ``warm_up`` steps.
    warm_up : int
    metric : callable
        Returns the inverse of the metric, which is diagonal, at ``parameters``: shape (n,).
    max_steps : int
    tolerance : float
        The loss has stopped falling when it drops by less than this in 25 steps, at the rate of
        the last 10.
    """

    def __init__(
        self,
        evaluate: Evaluate,
        parameters: Tensor,
        n_late: int,
        warm_up: int,
        metric: Callable[[], Tensor],
        max_steps: int,
        tolerance: float,
    ) -> None:
        self.last_step, self.finished = max_steps, False
        self._evaluate, self._parameters, self._metric = evaluate, parameters, metric
        self._n_late, self._warm_up = n_late, warm_up
        self._enough = tolerance * _WINDOW / 25
        self._losses: list[float] = []
        self._gradient = self._inverse = self._scale = torch.empty_like(parameters)
        # Steps, the changes of the gradient along them, and the products of both.
        self._pairs: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=_MEMORY)

    def step(self) -> Tensor:
        """Take one step; return the loss before it."""
        if not self._losses:
            loss, gradient = self._evaluate()
            self._losses, self._gradient = [float(loss)], gradient.clone()
            self._begin(self._n_late if self._warm_up else 0)
        elif len(self._losses) == self._warm_up + 1:
            self._begin(0)
        loss_before = self._losses[-1]
        moved = self._search(self._direction())
        if not moved and self._pairs:  # the curvature may be out of date
            self._pairs.clear()
            moved = self._search(self._direction())
        steps = len(self._losses) - 1
        if not moved and steps < self._warm_up:
            self._warm_up = steps
        elif not moved or steps >= self._warm_up + _WINDOW:
            drop = self._losses[-min(_WINDOW, steps) - 1] - self._losses[-1]
            if not moved or drop < self._enough:
                self.finished, self.last_step = True, max(1, steps)
        return torch.tensor(loss_before, dtype=torch.float64)

    def _begin(self, n_held: int) -> None:
        self._pairs.clear()
        self._inverse = self._metric()
        self._inverse[len(self._inverse) - n_held :] = 0.0

    def _direction(self) -> Tensor:
        """Minus the inverse Hessian times the gradient, by the two loops over the memory."""
        direction, factors = -self._gradient, []
        for s, y, sy in reversed(self._pairs):
            factors.append(torch.dot(s, direction) / sy)
            direction.addcmul_(y, factors[-1], value=-1)
        direction *= self._inverse
        if self._pairs:
            direction *= self._scale
        for (s, y, sy), factor in zip(self._pairs, reversed(factors), strict=True):
            direction.addcmul_(s, factor - torch.dot(y, direction) / sy)
        return direction

    def _search(self, direction: Tensor) -> bool:
        """Move along a direction as far as the weak Wolfe conditions ask; False if nowhere."""
        start, gradient, loss = self._parameters.clone(), self._gradient, self._losses[-1]
        slope = float(torch.dot(direction, gradient))
        rounding = torch.finfo(start.dtype).eps * abs(loss)
        near, far, length = 0.0, math.inf, 1.0
        if not self._pairs:  # no entry by more than a standard deviation
            length = 1 / max(1.0, float((self._inverse.sqrt() * gradient).abs().amax()))
        for _ in range(_MAX_TRIALS if slope < 0 else 0):
            torch.add(start, direction, alpha=length, out=self._parameters)
            new_loss, new_gradient = self._evaluate()
            value, new_slope = torch.stack([new_loss, direction @ new_gradient]).tolist()
            finite = math.isfinite(value) and math.isfinite(new_slope)
            if not finite or value > loss + 1e-4 * length * slope + rounding:
                far = length
            elif new_slope < 0.9 * slope:
                near = length
            else:
                s, y = direction.mul_(length), new_gradient - gradient
                self._pairs.append((s, y, s @ y))
                self._scale = s @ y / torch.dot(y * self._inverse, y)
                self._gradient = new_gradient.clone()
                self._losses.append(value)
                return True
            length = (near + far) / 2 if far < math.inf else 2 * near
        self._parameters.copy_(start)
        return False
