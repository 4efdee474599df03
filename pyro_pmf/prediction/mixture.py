"""From the parts of a mixture to the predictive distribution that suits them."""

from __future__ import annotations

from collections.abc import Sequence

from torch.distributions import Distribution

from pyro_pmf.data.transforms import Affine, Transform
from pyro_pmf.prediction.continuous import ContinuousPredictive
from pyro_pmf.prediction.discrete import DiscretePredictive
from pyro_pmf.prediction.predictive import PosteriorPredictive


def mixture(
    parts: Sequence[tuple[float, Distribution]], transform: Transform | tuple[float, float]
) -> PosteriorPredictive:
    """Return the predictive distribution that is a mixture of these parts.

    Parameters
    ----------
    parts : sequence of (float, Distribution)
        Weights, which sum to one, and distributions on the model scale, of batch shape (n_pairs,).
    transform : Transform or tuple of float
        The transform of the training ratings. A tuple (lowest, highest) stands for the transform
        to the unit scale; (0, 1) also suits counts.

    Returns
    -------
    ContinuousPredictive or DiscretePredictive
        By the support of the first part.
    """
    if not isinstance(transform, Transform):
        transform = Affine.of_scale(*transform)
    is_discrete = getattr(parts[0][1].support, "is_discrete", False)
    return (DiscretePredictive if is_discrete else ContinuousPredictive)(parts, transform)
