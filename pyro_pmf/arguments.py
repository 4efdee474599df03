"""Checks of arguments that many functions share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from numbers import Integral, Real
from typing import Any

import numpy as np

from pyro_pmf.errors import PMFError

_MOST = 2**32 - 1  # NumPy's largest seed


def require_seed(value: Any, error: type[PMFError] = PMFError) -> int:
    """Return a seed, an integer from 0 to 2^32 - 1, as int; raise an error for other values."""
    seed = require_integer("seed", value, least=0, error=error)
    if seed > _MOST:
        raise error(f"seed must be at most {_MOST}, not {value!r}")
    return seed


def require_integer(
    name: str, value: Any, least: int = 1, error: type[PMFError] = PMFError
) -> int:
    """Return an integer with a lower bound as int; raise for other values.

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
    return int(value)


def require_bool(name: str, value: Any, error: type[PMFError] = PMFError) -> bool:
    """Return True or False, of Python or of NumPy, as bool; raise an error for other values.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    value : Any
        The argument.
    error : type
        Class of the error.
    """
    if not isinstance(value, bool | np.bool_):
        raise error(f"{name} must be True or False, not {value!r}.")
    return bool(value)


def require_levels(levels: Any) -> Any:
    """Return levels; raise `PMFError` unless they are None, or ascending finite numbers.

    Parameters
    ----------
    levels : Any
        The argument: all possible ratings.

    Returns
    -------
    Any
        The argument, as a list if it can be iterated over only once.
    """
    if levels is None:
        return None
    if isinstance(levels, Iterator):
        levels = list(levels)
    try:
        numbers = [float(x) for x in levels]
    except (TypeError, ValueError, OverflowError):
        numbers = []
    ascend = all(a < b for a, b in pairwise(numbers))
    finite = all(math.isfinite(x) for x in numbers)
    if isinstance(levels, str | bytes) or not numbers or not (ascend and finite):
        raise PMFError(
            "levels must be all possible ratings, ascending, as in levels=(1, 2, 3, 4, 5), not "
            f"{levels!r}."
        )
    return levels


def require_rating(name: str, value: Any) -> None:
    """Raise `PMFError` unless a value is a finite number.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    value : Any
        The argument, in rating units; a bool is not a number here.
    """
    try:
        is_finite = isinstance(value, Real) and math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        is_finite = False
    if isinstance(value, bool) or not is_finite:
        raise PMFError(f"{name} must be a rating, a finite number, not {value!r}.")


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
