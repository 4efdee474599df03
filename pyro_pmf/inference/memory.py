"""How much memory a fit needs, told before it starts."""

from __future__ import annotations

import psutil
import torch

from pyro_pmf.errors import FitError

# Numbers held at the peak of a fit, each measured and rounded up; see benchmarks/steps.py.
_PER_RATING = 16  # weights of I_ij and patterns, whatever the batches
_PER_BATCH_RATING = 24  # means, variances and gradients of the scores that a step looks at
_PER_PARAMETER = 40  # ten pairs of vectors that L-BFGS remembers, gradients, intermediate results


def fit_memory(
    n_ratings: int, n_parameters: int, batches: int = 1, dtype: torch.dtype = torch.float32
) -> int:
    """Return about how many bytes a fit needs, besides the ratings themselves.

    Parameters
    ----------
    n_ratings : int
    n_parameters : int
        Entries of the latents, twice for a guide that has a mean and a standard deviation each.
    batches : int
        As in `fit`.
    dtype : torch.dtype
    """
    numbers = (
        _PER_RATING * n_ratings
        + _PER_BATCH_RATING * n_ratings // batches
        + _PER_PARAMETER * n_parameters
    )
    return numbers * dtype.itemsize


def draws_memory(n_latents: int, n_draws: int, n_chains: int, dtype: torch.dtype) -> int:
    """Return how many bytes the draws of Markov chains are.

    Parameters
    ----------
    n_latents : int
        Entries of the latents.
    n_draws, n_chains : int
    dtype : torch.dtype
    """
    return n_latents * n_draws * n_chains * dtype.itemsize


def require_memory(needed: int, device: torch.device, remedy: str = "Raise batches") -> None:
    """Raise where a fit would not fit.

    Raises
    ------
    FitError
        If more bytes are needed than are free on the device.
    """
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _free_ram()
    if needed > free:
        raise FitError(
            f"This fit needs about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free on "
            f"{device.type}. {remedy}, or take fewer n_factors or dtype=torch.float32."
        )


def _free_ram() -> int:
    return int(psutil.virtual_memory().available)
