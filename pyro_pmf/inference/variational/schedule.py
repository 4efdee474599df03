"""Schedule of the learning rate: when to lower it, and when to stop."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

JUDGED_EVERY = 25  # steps between two checks of the loss; the shortest window
_LOWEST_LEVEL = 1 / 16  # of the learning rate; at this level a rising loss halves it no more


@dataclass
class ScheduleState:
    """State of a schedule.

    Attributes
    ----------
    last_step : int
        Expected last step of the fit.
    decay : int
        Number of steps of the cosine decay.
    level : float
        Factor on the learning rate before the decay.
    judged : int
        Last step at which the level was lowered.
    finished : bool
        Whether the loss stopped falling before the step limit.
    losses : list of float
        Loss of each step.
    """

    last_step: int
    decay: int
    level: float = 1.0
    judged: int = 0
    finished: bool = False
    losses: list[float] = field(default_factory=list)


class Schedule:
    """Constant learning rate until the loss has stopped falling, then a cosine decay to zero.

    The loss is averaged over windows of steps before it is judged. A window is long enough for the
    noise of the comparison to be below the tolerance, so a noisy loss neither stops a fit by
    chance nor keeps it from stopping. A rising loss means that the steps are too large: the rate
    is halved, and the search continues.

    Parameters
    ----------
    max_steps : int
        Last step of the decay if the loss has not stopped falling before.
    tolerance : float
        The loss has stopped falling when its average drops by less than this in 25 steps, in nats.
    min_steps : int
        First step at which the loss may be judged.

    Attributes
    ----------
    state : ScheduleState
        Everything that changes from step to step.
    """

    def __init__(self, max_steps: int, tolerance: float, min_steps: int = 0) -> None:
        self._tolerance, self._min_steps = tolerance, min_steps
        self.state = ScheduleState(last_step=max_steps, decay=max(1, max_steps // 3))

    def factor(self, step: int) -> float:
        """Return the factor on the learning rate of a step.

        Parameters
        ----------
        step : int
            Number of the step, from 1.

        Returns
        -------
        float
            From 0 to 1.
        """
        left = min(1.0, (self.state.last_step - step + 1) / self.state.decay)
        return self.state.level * 0.5 * (1 - math.cos(math.pi * left))

    def record(self, loss: float) -> None:
        """Record the loss of a step.

        Parameters
        ----------
        loss : float
            Loss of the next step, in nats.
        """
        state = self.state
        state.losses.append(loss)
        step = len(state.losses)
        decaying = step >= state.last_step - state.decay
        if step % JUDGED_EVERY or step < self._min_steps or decaying:
            return
        window = self._window()
        if step < state.judged + 2 * window:
            return
        earlier, later = np.mean(np.reshape(state.losses[-2 * window :], (2, window)), axis=1)
        enough = self._tolerance * window / JUDGED_EVERY
        if later - earlier > enough and state.level > _LOWEST_LEVEL:
            state.level /= 2
            state.judged = step
        elif earlier - later < enough:
            state.finished = True
            state.decay = min(state.decay, max(JUDGED_EVERY, step // 2))
            state.last_step = step + state.decay

    def _window(self) -> int:
        """Return the number of steps to average over for a standard error below the tolerance."""
        # Second differences remove a trend; for white noise they have 6 times its variance.
        latest = self.state.losses[-2 * JUDGED_EVERY :]
        noise = np.std(np.diff(latest, n=2)) / math.sqrt(6)
        length = (math.sqrt(2) * noise * JUDGED_EVERY / self._tolerance) ** (2 / 3)
        return max(JUDGED_EVERY, math.ceil(length))
