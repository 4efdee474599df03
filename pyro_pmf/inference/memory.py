"""Memory that a fit needs, estimated before it starts, and kept while it runs."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pyarrow as pa
import torch

from pyro_pmf.errors import FitError

# Numbers held at the peak of a fit, each measured and rounded up; see benchmarks/steps.py.
_PER_RATING = 16  # weights of I_ij and sparsity patterns
_PER_RATING_AT_ONCE = 24  # means, variances and gradients of the scores
_PER_RATING_OF_CHAIN = 28  # patterns, scores and likelihoods, what a side's update computes with
_PER_PARAMETER = 40  # ten pairs of vectors that L-BFGS stores, gradients, intermediate results
# Of glibc's mallopt; see malloc.h. It maps arrays of 32 MB and more, and no number raises this.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_FEWEST = 1 << 20  # ratings, whose float64 arrays the system may get back
_USUAL_MAPS, _LARGEST_THRESHOLD, _LARGEST_INT = 65536, 1 << 25, (1 << 31) - 1


def fit_memory(
    n_kept: int, n_parameters: int, n_at_once: int, dtype: torch.dtype = torch.float32
) -> int:
    """Estimate the memory of a fit, besides the ratings themselves.

    Parameters
    ----------
    n_kept : int
        Number of training ratings whose numbers are in memory.
    n_parameters : int
        Number of parameters: the entries of the latents, twice if the guide has a mean and a
        standard deviation for each.
    n_at_once : int
        Number of ratings that a step takes at once.
    dtype : torch.dtype
        Floating point type of the fit.

    Returns
    -------
    int
        Bytes.
    """
    numbers = (
        _PER_RATING * n_kept + _PER_RATING_AT_ONCE * n_at_once + _PER_PARAMETER * n_parameters
    )
    return numbers * dtype.itemsize


def sweep_memory(n_kept: int, dtype: torch.dtype) -> int:
    """Estimate the memory of a chain of the blocked sampler, besides ratings and draws.

    Parameters
    ----------
    n_kept : int
        Number of training ratings whose numbers are in memory.
    dtype : torch.dtype
        Floating point type of the fit.

    Returns
    -------
    int
        Bytes.
    """
    return _PER_RATING_OF_CHAIN * n_kept * dtype.itemsize


def draws_memory(n_latents: int, n_draws: int, n_chains: int, dtype: torch.dtype) -> int:
    """Return the memory of the draws of Markov chains.

    Parameters
    ----------
    n_latents : int
        Number of entries of the latents.
    n_draws : int
        Number of draws of each chain.
    n_chains : int
        Number of chains.
    dtype : torch.dtype
        Floating point type of the draws.

    Returns
    -------
    int
        Bytes.
    """
    return n_latents * n_draws * n_chains * dtype.itemsize


def require_memory(
    needed: int, device: torch.device, remedy: str = "Raise batches (of VI or MAP)"
) -> None:
    """Refuse a fit that needs more memory than is free.

    Parameters
    ----------
    needed : int
        Bytes that the fit needs.
    device : torch.device
        Device of the fit.
    remedy : str
        First advice of the message, without a full stop.

    Raises
    ------
    FitError
        If ``needed`` is more than the free bytes of the device.
    """
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _free_ram()
    if needed > free:
        raise FitError(
            f"This fit needs about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free on "
            f"{device.type}. {remedy}, reduce n_factors, or give dtype=torch.float32."
        )


@contextmanager
def freed_memory_kept(n_ratings: int) -> Iterator[None]:
    """Use the memory of freed arrays again within a block, before the system gets it back.

    glibc returns an array of 32 MB or more as soon as it is freed, and the next one costs a page
    fault for every 4 KB: a quarter of a sweep over ten million ratings, and half of a step of MAP
    over thirty million. After the block, the process has the settings that freeing one large array
    brings about. Without glibc, or where arrays are smaller, nothing happens.

    Parameters
    ----------
    n_ratings : int
        Number of ratings, for each of which arrays have a number.
    """
    matters = n_ratings >= _FEWEST and sys.platform == "linux"
    libc = ctypes.CDLL(None) if matters else None
    if libc is None or not hasattr(libc, "gnu_get_libc_version"):
        yield
        return
    libc.malloc_trim(0)  # what reading a table took, which would lie between the arrays of the fit
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, _LARGEST_INT)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_MAX, _USUAL_MAPS)
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
        libc.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_THRESHOLD)
        libc.malloc_trim(0)


def _free_ram() -> int:
    pa.default_memory_pool().release_unused()  # else it keeps all that reading a table took
    return int(psutil.virtual_memory().available)
