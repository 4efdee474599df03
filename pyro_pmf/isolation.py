"""What a process has once: Pyro's handlers, torch's modes. Whoever needs them waits for others.

Pyro keeps its handlers and its allocation of plates in lists that all threads share, and random
states belong to the process. What uses them runs in `alone`, one thread at a time. Predictions of
a `PMF` use none of them, and do not wait.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from pyro_pmf.internals import without_handlers

_LOCK = threading.RLock()


@contextmanager
def alone() -> Iterator[None]:
    """Run a block in one thread at a time, without Pyro's handlers that are around it.

    A thread may enter again. A handler of the caller, such as ``poutine.condition`` or a plate,
    is back after the block.
    """
    with _LOCK, without_handlers():
        yield


@contextmanager
def usual_torch(gradients: bool = False) -> Iterator[None]:
    """Run a block with torch's modes as they are by default, whatever the caller has set.

    Inference mode is off: its tensors would be kept, and refused by a later gradient. New tensors
    are on the CPU unless told otherwise.

    Parameters
    ----------
    gradients : bool
        Whether gradients are recorded.
    """
    with ExitStack() as modes:
        if torch.is_inference_mode_enabled():
            modes.enter_context(torch.inference_mode(False))
        modes.enter_context(torch.set_grad_enabled(gradients))
        if torch.get_default_device().type != "cpu":  # the mode slows every call of torch
            modes.enter_context(torch.device("cpu"))
        yield
