"""How far a fit has come: a bar where somebody watches, lines of a log where nobody does."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, Self

from tqdm.auto import tqdm

_logger = logging.getLogger("pyro_pmf")
_EVERY = 5.0  # seconds between the lines of a log


class Bar(Protocol):
    """What is done with a progress bar; the part of tqdm that fits use."""

    n: int
    total: int | None

    def update(self, n: int = 1) -> object:
        """Count n more steps."""

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> object:
        """Set what is said beside the count."""


def progress_bar(
    desc: str, shown: bool, total: int | None = None, unit: str = "step"
) -> AbstractContextManager[Bar]:
    """Return a progress bar on a terminal or in a notebook, and else a log of the same.

    The log has a line of level INFO every few seconds, and one at the end, by the logger
    "pyro_pmf". Python shows them only if the caller has configured logging.

    Parameters
    ----------
    desc : str
        What makes progress.
    shown : bool
        Whether to show it at all.
    total : int, optional
        Largest number of steps.
    unit : str
        One step, in the singular.
    """
    if shown and not _is_watched():
        return LoggedProgress(desc, total, unit)
    return tqdm(total=total, desc=desc, unit=unit, disable=not shown)


def _is_watched() -> bool:
    """Return whether stderr is a terminal or the output of a notebook's cell."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    in_notebook = shell is not None and "IPKernelApp" in shell.config
    return in_notebook or (sys.stderr is not None and sys.stderr.isatty())


class LoggedProgress:
    """A progress bar that writes lines to a log.

    Parameters
    ----------
    desc, total, unit
        As for `progress_bar`.
    """

    def __init__(self, desc: str, total: int | None, unit: str) -> None:
        self.n, self.total = 0, total
        self._desc, self._unit, self._postfix = desc, unit, ""
        self._started = self._last = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:  # which says more than a line here
            self._say(f"ended after {self.n:,} {self._unit}{'s' * (self.n != 1)}")

    def update(self, n: int = 1) -> None:
        """Count n more steps, and write a line if the last one is some seconds old."""
        self.n += n
        if time.monotonic() - self._last >= _EVERY:
            limit = "" if self.total is None else f" of at most {self.total:,}"
            self._say(f"{self._unit} {self.n:,}{limit}")
            self._last = time.monotonic()

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        """Set what is said beside the count."""
        self._postfix = s

    def _say(self, state: str) -> None:
        beside = f", {self._postfix}" if self._postfix else ""
        seconds = time.monotonic() - self._started
        _logger.info("%s: %s, %.0f s%s", self._desc, state, seconds, beside)
