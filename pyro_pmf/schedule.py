"""When to lower the learning rate, and when to stop."""

from __future__ import annotations

import math

import numpy as np

JUDGED_EVERY = 25  # steps between two looks at the loss; the shortest window
_LOWEST_LEVEL = 1 / 16  # of the learning rate, below which a rising loss is taken as it is


class Schedule:
    """A constant learning rate until the loss has stopped falling, then a cosine decay to zero.

    The loss is averaged over windows of steps before it is judged, each as long as it takes for
    the noise of the comparison to be below the tolerance: a noisy loss neither stops a fit by
    chance nor keeps it from stopping. Where the loss rises, the steps are too large: the rate is
    halved, and the search goes on.

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
    last_step : int
        Where the fit will end, as far as is known.
    finished : bool
        Whether the loss stopped falling before ``max_steps``.
    """

    def __init__(self, max_steps: int, tolerance: float, min_steps: int = 0) -> None:
        self.last_step = max_steps
        self.finished = False
        self._tolerance = tolerance
        self._min_steps = min_steps
        self._decay = max(1, max_steps // 3)
        self._level = 1.0
        self._judged = 0
        self._losses: list[float] = []

    def factor(self, step: int) -> float:
        """What the learning rate of this step, counted from 1, is multiplied by."""
        left = min(1.0, (self.last_step - step + 1) / self._decay)
        return self._level * 0.5 * (1 - math.cos(math.pi * left))

    def record(self, loss: float) -> None:
        """Take note of a step's loss."""
        self._losses.append(loss)
        step = len(self._losses)
        decaying = step >= self.last_step - self._decay
        if step % JUDGED_EVERY or step < self._min_steps or decaying:
            return
        window = self._window()
        if step < self._judged + 2 * window:
            return
        earlier, later = np.mean(np.reshape(self._losses[-2 * window :], (2, window)), axis=1)
        enough = self._tolerance * window / JUDGED_EVERY
        if later - earlier > enough and self._level > _LOWEST_LEVEL:
            self._level /= 2
            self._judged = step
        elif earlier - later < enough:
            self.finished = True
            self._decay = min(self._decay, max(JUDGED_EVERY, step // 2))
            self.last_step = step + self._decay

    def _window(self) -> int:
        """Steps to average over, for a standard error of the drop below the tolerance."""
        # Second differences are blind to a trend; of white noise, they have 6 times its variance.
        noise = np.std(np.diff(self._losses[-2 * JUDGED_EVERY :], n=2)) / math.sqrt(6)
        length = (math.sqrt(2) * noise * JUDGED_EVERY / self._tolerance) ** (2 / 3)
        return max(JUDGED_EVERY, math.ceil(length))
