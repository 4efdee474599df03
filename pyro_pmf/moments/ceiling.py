"""A soft ceiling of the log of a mean."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function


def below_ceiling(score: Tensor, log_ceiling: float) -> Tensor:
    """Return log(exp(score) C / (C + exp(score))), with log C = ``log_ceiling``.

    This is the score itself far below log C, and log C far above.

    Parameters
    ----------
    score : Tensor, shape (...)
        Log of a mean that has no ceiling.
    log_ceiling : float
        Log of the ceiling C, finite.

    Returns
    -------
    Tensor, shape (...)
        A `Transformed` if the score is a `Gaussian`.

    Raises
    ------
    NoClosedForm
        If the score is random and not a `Gaussian`.
    """
    if has_torch_function((score,)):
        return handle_torch_function(below_ceiling, (score,), score, log_ceiling)
    log_least = torch.tensor(-log_ceiling, dtype=score.dtype, device=score.device)
    return -torch.logaddexp(-score, log_least)  # exact far above the ceiling, too


@dataclass(frozen=True)
class BelowCeiling:
    """The function `below_ceiling` with this ceiling.

    Parameters
    ----------
    log_ceiling : float
        Log of the ceiling.
    """

    log_ceiling: float

    def __call__(self, score: Tensor) -> Tensor:
        """Return `below_ceiling` of a score."""
        return below_ceiling(score, self.log_ceiling)


def score_of_log_mean(log_mean: Tensor, log_ceiling: float) -> Tensor:
    """Return the score that `below_ceiling` maps to this, and a large one for the ceiling itself.

    Parameters
    ----------
    log_mean : Tensor, shape (...)
        At most about ``log_ceiling``.
    log_ceiling : float
        As for `below_ceiling`.

    Returns
    -------
    Tensor, shape (...)
    """
    left = -torch.expm1(log_mean - log_ceiling)  # the share of the ceiling that is left
    return log_mean - left.clamp(min=torch.finfo(left.dtype).tiny).log()
