"""Checks of arguments that many functions share."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

from pyro_pmf.errors import PMFError

_MOST = 2**32 - 1  # NumPy's largest seed


def require_seed(value: Any, error: type[PMFError] = PMFError) -> None:
    """Raise an error of a class unless a value is a seed: an integer from 0 to 2^32 - 1."""
    require_integer("seed", value, least=0, error=error)
    if int(value) > _MOST:
        raise error(f"seed must be at most {_MOST}, not {value!r}")


def require_integer(
    name: str, value: Any, least: int = 1, error: type[PMFError] = PMFError
) -> None:
    """Raise unless a value is an integer with a lower bound.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    value : Any
        The argument; a bool is not an integer here.
    least : int
        The lower bound.
    error : type
        Class of the error.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        known = ", ".join(str(least + k) for k in range(3))
        raise error(f"{name} must be {known}, ..., not {value!r}")


def require_probability(name: str, value: Any) -> None:
    """Raise `PMFError` unless a value is a number inside (0, 1).

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    value : Any
        The argument.
    """
    if not isinstance(value, Real) or not 0 < float(value) < 1:
        raise PMFError(f"{name} must lie strictly between 0 and 1, not {value!r}")
