"""Under which conditions a fit runs, whatever its method."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from pyro_pmf.errors import FitError
from pyro_pmf.model.learned import Learned

# Called after each step with its row of `Learned.steps`, and with what returns the `Learned` that
# the fit would end with there.
OnStep = Callable[[dict[str, Any], Callable[[], Learned]], None]


@dataclass(frozen=True)
class Run:
    """The conditions of one fit.

    Attributes
    ----------
    seed : int
        Decides every random number of the fit.
    device : torch.device
        Where the fit computes. What it has learnt comes back on the CPU.
    dtype : torch.dtype or None
        Floating point type; None for that of the ratings.
    progress : bool
        Whether to show a progress bar.
    on_step : callable or None
        See `OnStep`.
    started : float
        What `time.perf_counter` said when the fit began.
    """

    seed: int
    device: torch.device
    dtype: torch.dtype | None
    progress: bool
    on_step: OnStep | None = None
    started: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Seconds since the fit began."""
        return time.perf_counter() - self.started


def as_device(device: str | torch.device) -> torch.device:
    """Return a device that is there; "auto" takes a GPU if there is one.

    Raises
    ------
    FitError
        If there is no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise FitError(f'device must be "auto", "cpu" or "cuda", not {device!r}.') from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise FitError(f"device={str(device)!r} was asked for and torch finds no GPU.")
    return chosen
