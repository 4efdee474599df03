"""Devices and floating-point types that ratings can have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pyro_pmf.errors import RatingsError


def require_dtype(dtype: Any) -> None:
    """Raise `RatingsError` unless a model can compute with a type.

    Parameters
    ----------
    dtype : Any
        The argument: a floating-point type of torch.
    """
    if isinstance(dtype, Mapping):
        raise RatingsError(
            "dtype= is the type that a model computes with, torch.float32 or torch.float64, and "
            f"not the types of columns, {dict(dtype)}. With these, read a table first: "
            "Ratings.from_frame(pyro_pmf.data.read_table(path, dtype={...}))."
        )
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise RatingsError(
            f"dtype={dtype} cannot be computed with: give torch.float32 or float64."
        )


def require_device(device: Any) -> torch.device:
    """Return a device that exists; raise `RatingsError` for others.

    Parameters
    ----------
    device : Any
        The argument: a torch.device or its name.
    """
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError, ValueError) as error:
        raise RatingsError(f'device must be "cpu" or "cuda", not {device!r}.') from error
    try:
        torch.empty(0, device=chosen)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        raise RatingsError(
            f'device={str(chosen)!r} is not here for torch: give device="cpu".'
        ) from error
    return chosen
