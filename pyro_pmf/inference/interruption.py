"""Ctrl-C during a fit: it ends after the present step, with what it has."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interruption:
    """Whether a fit was asked to end early.

    Attributes
    ----------
    requested : bool
        Whether it was.
    """

    def __init__(self) -> None:
        self.requested = False

    @contextmanager
    def noticed(self) -> Iterator[None]:
        """Take a `KeyboardInterrupt` of a callback as a request."""
        try:
            yield
        except KeyboardInterrupt:
            self.requested = True


@contextmanager
def interruption(allowed: bool = True) -> Iterator[Interruption]:
    """Take the first Ctrl-C inside the block as a request; a second one ends the block at once.

    A step is never cut in two, so the state after it is whole. Python handles signals in the main
    thread only; elsewhere, and under a handler of the caller's own, Ctrl-C does what it did.

    Parameters
    ----------
    allowed : bool
        Whether to take it as a request; otherwise Ctrl-C does what it did.

    Yields
    ------
    Interruption
        To be looked at after each step.
    """
    request, before = Interruption(), signal.getsignal(signal.SIGINT)

    def note(number: int, frame: Any) -> None:
        request.requested = True
        signal.signal(signal.SIGINT, before)

    is_main = threading.current_thread() is threading.main_thread()
    is_ours = allowed and is_main and before is signal.default_int_handler
    if is_ours:
        signal.signal(signal.SIGINT, note)
    try:
        yield request
    finally:
        if is_ours:
            signal.signal(signal.SIGINT, before)


@contextmanager
def out_of_reach() -> Iterator[None]:
    """Start processes inside the block that Ctrl-C does not end: it goes to a whole terminal.

    Such a process begins with the signals that its parent ignores. Threads other than the main
    one cannot change them, so that their processes are in reach until they ignore it themselves.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
