"""Errors of this package, each a ``ValueError``, and its warnings."""

from __future__ import annotations

import inspect
import warnings

_BETWEEN = {"pyro_pmf", "pyro", "torch", "contextlib"}  # packages whose stack frames are skipped


class PMFError(ValueError):
    """Raised when a request cannot be met; the message says why and what to do instead."""


class RatingsError(PMFError):
    """Raised when a table of ratings cannot be used as it stands."""


class FitError(PMFError):
    """Raised when a fit cannot start, or its result cannot be trusted."""


class StorageError(PMFError):
    """Raised when a saved posterior or a checkpoint cannot be written or read."""


def warn(message: str) -> None:
    """Issue a ``UserWarning`` that points to the caller's line, outside this package.

    Parameters
    ----------
    message : str
        Text of the warning.
    """
    depth, frame = 1, inspect.currentframe()
    while frame is not None and _package(frame.f_globals) in _BETWEEN:
        depth, frame = depth + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=depth)


def _package(module_globals: dict[str, object]) -> str:
    return str(module_globals.get("__name__", "")).partition(".")[0]
