"""Predictive distribution of a mixture, chosen by its parts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.distributions import Distribution

from pyro_pmf.data.transforms import Affine, Transform
from pyro_pmf.model.learned import Learned
from pyro_pmf.moments.stacking import Mixture, family, stacked
from pyro_pmf.prediction.continuous import ContinuousPredictive
from pyro_pmf.prediction.discrete import DiscretePredictive
from pyro_pmf.prediction.predictive import PosteriorPredictive


def mixture(
    parts: Mixture | Sequence[tuple[float, Distribution]],
    transform: Transform | tuple[float, float],
    gap: float | None = None,
) -> PosteriorPredictive:
    """Return the predictive distribution that is a mixture of some parts.

    Parameters
    ----------
    parts : Mixture or sequence of (float, Distribution)
        Weights, which sum to one, and distributions on the model scale, of batch shape (n_pairs,).
    transform : Transform or tuple of float
        The transform of the training ratings. A tuple (lowest, highest) stands for the transform
        to the unit scale; (0, 1) also suits counts.
    gap : float, optional
        Distance in rating units of the levels that ratings were recorded on; for continuous parts.

    Returns
    -------
    ContinuousPredictive or DiscretePredictive
        Chosen by the support of the first part.

    Raises
    ------
    PMFError
        If the parts are discrete and the transform does not leave their levels evenly spaced.

    Examples
    --------
    >>> import torch
    >>> from torch.distributions import Normal
    >>> from pyro_pmf.prediction.mixture import mixture
    >>> half = Normal(torch.tensor([0.5, 0.25]), 0.1)  # two pairs, ratings from 1 to 5
    >>> predictive = mixture([(0.5, half), (0.5, half)], (1, 5))
    >>> predictive.mean.tolist()
    [3.0, 2.0]
    >>> predictive.cdf(3.0).shape
    torch.Size([2])
    """
    if not isinstance(transform, Transform):
        transform = Affine.of_scale(*transform)
    if not isinstance(parts, Mixture):
        weights, each = zip(*parts, strict=True)
        parts = Mixture(torch.tensor(weights, dtype=torch.float64), stacked(each))
    is_discrete = getattr(family(parts.parts).support, "is_discrete", False)
    if is_discrete:
        return DiscretePredictive(*parts, transform)
    return ContinuousPredictive(*parts, transform, gap)


def predictive_of(
    learned: Learned, parts: Mixture | Sequence[tuple[float, Distribution]]
) -> PosteriorPredictive:
    """Return the mixture of some parts as a distribution of the ratings of a fit.

    Parameters
    ----------
    learned : Learned
        Result of a fit.
    parts : Mixture or sequence of (float, Distribution)
        As for `mixture`.
    """
    train = learned.ratings
    return mixture(parts, train.transform, train.recorded.gap)
