"""`Posterior`: what can be asked of what was learnt."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pyro_pmf import inference_data, prediction, recommendation, storage
from pyro_pmf.learned import Learned
from pyro_pmf.metrics import summarize
from pyro_pmf.ratings import Ratings


class Posterior(Learned):
    """The distribution of a model's latents given its training ratings, as approximated by `fit`.

    Its attributes, model, ratings, latents, num_draws, history and converged, are those of
    `Learned`.
    """

    def predict(self, pairs: Ratings | pd.DataFrame, interval: float = 0.9) -> pd.DataFrame:
        """Predict ratings.

        Parameters
        ----------
        pairs : Ratings or pandas.DataFrame
            Matched by id; a frame has the columns ``user`` and ``item``. An id that the training
            ratings do not have gets its factors and bias from the prior.
        interval : float
            Probability of the central interval.

        Returns
        -------
        pandas.DataFrame
            One row a pair, in their order: user, item; mean, sd, lower and upper of the *rating*,
            noise included, in rating units (lower and upper clipped to the scale); known_user,
            known_item.

        Raises
        ------
        RatingsError
            If a column is missing, or no id is known because all are of another type.
        PMFError
            If ``interval`` is not inside (0, 1).
        """
        return prediction.predict(self, pairs, interval)

    def scores(self, pairs: Ratings | pd.DataFrame, interval: float = 0.9) -> pd.DataFrame:
        """Score the prediction of each rating: see `metrics.score_each`.

        Raises
        ------
        RatingsError
            As `predict`, and if the pairs have no ratings.
        """
        return prediction.scores(self, pairs, interval)

    def evaluate(self, pairs: Ratings | pd.DataFrame, interval: float = 0.9) -> pd.Series:
        """Say how good predictions of ratings are.

        Parameters
        ----------
        pairs : Ratings or pandas.DataFrame
            As for `predict`, with the ratings; a frame's are in the column ``rating``.
        interval : float
            Probability of the central interval.

        Returns
        -------
        pandas.Series
            n, rmse, mae, nll, crps, coverage, width, error_sd_spearman: see `metrics.summarize`.

        Raises
        ------
        RatingsError
            As `predict`, and if the pairs have no ratings.
        """
        return summarize(self.scores(pairs, interval))

    def sample(
        self, pairs: Ratings | pd.DataFrame, num_samples: int = 100, seed: int = 0
    ) -> np.ndarray:
        """Draw ratings from the joint posterior predictive distribution.

        Parameters
        ----------
        pairs : Ratings or pandas.DataFrame
            As for `predict`.
        num_samples : int
        seed : int
            The caller's random state is left as it was.

        Returns
        -------
        ndarray, shape (num_samples, n_pairs)
            In rating units. Draws of the model's likelihood: they may lie outside the scale.
        """
        return prediction.sample(self, pairs, num_samples, seed)

    def recommend(
        self,
        users: Hashable | Iterable[Hashable],
        n: int = 10,
        exclude_seen: bool = True,
    ) -> pd.DataFrame:
        """Recommend the items with the highest expected rating.

        Parameters
        ----------
        users : id or iterable of ids
            Unknown users get what suits the prior user.
        n : int
            Items for each user.
        exclude_seen : bool
            Whether to leave out the items that a user has rated in training.

        Returns
        -------
        pandas.DataFrame
            user, rank (from 1), item; mean and sd of the rating, in rating units.
        """
        return recommendation.recommend(self, users, n, exclude_seen)

    def to_arviz(
        self,
        pairs: Ratings | pd.DataFrame | None = None,
        sites: Sequence[str] | None = None,
        num_samples: int | None = None,
        seed: int = 0,
    ) -> Any:
        """Return draws as ArviZ data: InferenceData with ArviZ 0.x, a DataTree with ArviZ 1.

        Parameters
        ----------
        pairs : Ratings or pandas.DataFrame, optional
            Adds the groups posterior_predictive, log_likelihood and observed_data (the last two
            where the pairs have ratings), in rating units, for these pairs. Every pair costs
            ``num_samples`` numbers twice: give those that you will look at.
        sites : sequence of str, optional
            Of the group posterior, deterministic ones such as U and V included. By default the
            scalar ones.
        num_samples : int, optional
            1000 if left out; where draws represent the posterior, those, each once.
        seed : int

        Raises
        ------
        PMFError
            If the model has no such site.
        """
        return inference_data.to_arviz(self, pairs, sites, num_samples, seed)

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Save to a folder: JSON, safetensors and Parquet, no pickle. `load` reads it.

        Parameters
        ----------
        path : path-like
            The folder to make. It appears when it is complete, or not at all.
        overwrite : bool
            Whether to replace a posterior that is already there.

        Raises
        ------
        StorageError
            If something is in the way.
        """
        storage.save(self, path, overwrite)


def load(path: str | os.PathLike[str], model: Callable[..., Any] | None = None) -> Posterior:
    """Load what `Posterior.save` saved.

    Parameters
    ----------
    path : path-like
    model : callable, optional
        The Pyro model that was fitted, where it was not a `PMF`: code is not saved.

    Raises
    ------
    StorageError
        If there is no posterior, a file of it is missing or damaged, it was written in a later
        format, or its model is needed.
    """
    return Posterior(**storage.read(path, model))
