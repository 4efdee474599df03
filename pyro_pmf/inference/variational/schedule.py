"""When to lower the learning rate, and when to stop."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

JUDGED_EVERY = 25  # steps between two looks at the loss; the shortest window
_LOWEST_LEVEL = 1 / 16  # of the learning rate, below which a rising loss is taken as it is


@dataclass
class ScheduleState:
    """What a schedule has seen and decided.

    Attributes
    ----------
    last_step : int
        Where the fit will end, as far as is known.
    decay : int
        Steps that the cosine decay takes.
    level : float
        What the learning rate is multiplied by before the decay.
    judged : int
        The step at which the level was lowered last.
    finished : bool
        Whether the loss stopped falling before the step limit.
    losses : list of float
        One for each step.
    """

    last_step: int
    decay: int
    level: float = 1.0
    judged: int = 0
    finished: bool = False
    losses: list[float] = field(default_factory=list)


class Schedule:
    """A constant learning rate until the loss has stopped falling, then a cosine decay to zero.

    The loss is averaged over windows of steps before it is judged. A window is long enough for
    the noise of the comparison to be below the tolerance, so that a noisy loss neither stops a fit
    by chance nor keeps it from stopping. Where the loss rises, the steps are too large: the rate
    is halved, and the search goes on.

    Parameters
    ----------
    max_steps : int
        Where the decay ends if the loss has not stopped falling before.
    tolerance : float
        The loss has stopped falling when its average drops by less than this in 25 steps.
    min_steps : int
        Where the loss is first judged.

    Attributes
    ----------
    state : ScheduleState
    """

    def __init__(self, max_steps: int, tolerance: float, min_steps: int = 0) -> None:
        self._tolerance, self._min_steps = tolerance, min_steps
        self.state = ScheduleState(last_step=max_steps, decay=max(1, max_steps // 3))

    def factor(self, step: int) -> float:
        """Return what the learning rate of this step, counted from 1, is multiplied by."""
        left = min(1.0, (self.state.last_step - step + 1) / self.state.decay)
        return self.state.level * 0.5 * (1 - math.cos(math.pi * left))

    def record(self, loss: float) -> None:
        """Take note of a step's loss."""
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
        """Return how many steps to average over, for a standard error below the tolerance."""
        # Second differences are blind to a trend; of white noise, they have 6 times its variance.
        latest = self.state.losses[-2 * JUDGED_EVERY :]
        noise = np.std(np.diff(latest, n=2)) / math.sqrt(6)
        length = (math.sqrt(2) * noise * JUDGED_EVERY / self._tolerance) ** (2 / 3)
        return max(JUDGED_EVERY, math.ceil(length))
