"""Conditions of a fit that do not depend on its method."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.errors import FitError
from pyro_pmf.inference.checkpoint import OpenCheckpoint
from pyro_pmf.model.learned import Learned
from pyro_pmf.reducer import Reducer

# Called after each step with its row of `Learned.steps` and a function that returns the `Learned`
# of the current parameters.
OnStep = Callable[[dict[str, Any], Callable[[], Learned]], None]


@dataclass(frozen=True)
class Conditions:
    """Conditions of one fit.

    Attributes
    ----------
    seed : int
        Seed of all random numbers of the fit.
    device : torch.device
        Device of the fit. Its result is on the CPU.
    dtype : torch.dtype or None
        Floating point type of the fit; None for the dtype of the ratings.
    progress : bool
        Whether to show a progress bar, see `progress_bar`.
    on_step : callable or None
        Callback of each step, see `OnStep`.
    history : Pairs or None
        All pairs with I_ij = 1, the training pairs among them; None if these are all.
    checkpoint : OpenCheckpoint or None
        Where the state of the fit is written, and read if it continues.
    reducer : Reducer
        Sums over the processes that share the fit.
    is_part : bool
        Whether this process was given the ratings of its own users only.
    interruptible : bool
        Whether Ctrl-C ends the fit early with a result; it is an error otherwise.
    started : float
        `time.perf_counter` at the start of the fit.
    """

    seed: int
    device: torch.device
    dtype: torch.dtype | None
    progress: bool
    on_step: OnStep | None = None
    history: Pairs | None = None
    checkpoint: OpenCheckpoint | None = None
    reducer: Reducer = field(default_factory=Reducer)
    is_part: bool = False
    interruptible: bool = True
    started: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Seconds since the fit began."""
        return time.perf_counter() - self.started


def as_device(device: str | torch.device) -> torch.device:
    """Return a device that exists; "auto" takes a GPU if there is one.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda"} or torch.device
        The requested device.

    Returns
    -------
    torch.device
        The device.

    Raises
    ------
    FitError
        If there is no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise FitError(f'device must be "auto", "cpu" or "cuda", not {device!r}.') from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise FitError(
            f'device={str(device)!r} needs a GPU, and torch finds none: give device="cpu".'
        )
    return chosen
