"""`Posterior`: what can be asked of what was learnt."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pyro_pmf.data.ratings import Ratings
from pyro_pmf.errors import PMFError
from pyro_pmf.model import storage
from pyro_pmf.model.learned import Learned
from pyro_pmf.prediction import effects, inference_data, recommendation, tables
from pyro_pmf.prediction.metrics import summarize, summarize_by


class Posterior(Learned):
    """The distribution of a model's latents given its training ratings, as approximated by `fit`.

    `Learned` has its attributes: model, ratings, latents, n_draws, steps, converged and n_chains.
    """

    def predict(
        self,
        pairs: Ratings | pd.DataFrame,
        interval: float = 0.9,
        at_least: float | None = None,
    ) -> pd.DataFrame:
        """Predict ratings.

        Parameters
        ----------
        pairs : Ratings or pandas.DataFrame
            Matched by id; a frame has the columns ``user`` and ``item``. An id that the training
            ratings do not have gets its factors and bias from the prior.
        interval : float
            Probability of the central interval.
        at_least : float, optional
            A rating, for the column p_at_least: the probability of one at least as high.

        Returns
        -------
        pandas.DataFrame
            One row a pair, in their order: user, item; mean, sd, lower and upper of the *rating*,
            noise included, in rating units (lower and upper clipped to the scale); p_at_least if
            asked for; known_user, known_item.

        Raises
        ------
        RatingsError
            If a column is missing, or no id is known because all are of another type.
        PMFError
            If ``interval`` is not inside (0, 1), or ``at_least`` is no number.
        """
        return tables.predict(self, pairs, interval, at_least)

    def predict_levels(
        self, pairs: Ratings | pd.DataFrame, levels: Sequence[float] | None = None
    ) -> pd.DataFrame:
        """Predict the probability of each rating that there can be.

        Parameters
        ----------
        pairs : Ratings or pandas.DataFrame
            As for `predict`.
        levels : sequence of float, optional
            Ratings, ascending. By default those of the likelihood; required where this has none,
            and a rating then counts for the level nearest to it.

        Returns
        -------
        pandas.DataFrame
            One row a pair, in their order: user, item, and a column for each level. A row's
            probabilities sum to one, unless a likelihood of levels has others too.

        Raises
        ------
        RatingsError, PMFError
            As `predict`, and if there are no levels.
        """
        return tables.predict_levels(self, pairs, levels)

    def scores(
        self,
        pairs: Ratings | pd.DataFrame,
        interval: float = 0.9,
        levels: Sequence[float] | None = None,
    ) -> pd.DataFrame:
        """Score the prediction of each rating: see `metrics.score_each`.

        Returns
        -------
        pandas.DataFrame
            One row a rating, in their order, with the columns of `metrics.score_each`, and n_user
            and n_item, the number of training ratings of its user and of its item.

        Raises
        ------
        RatingsError
            As `predict`, and if the pairs have no ratings.
        """
        return tables.scores(self, pairs, interval, levels)

    def evaluate(
        self,
        pairs: Ratings | pd.DataFrame,
        interval: float = 0.9,
        by: str | None = None,
        levels: Sequence[float] | None = None,
    ) -> Any:
        """Say how good predictions of ratings are.

        Parameters
        ----------
        pairs : Ratings or pandas.DataFrame
            As for `predict`, with the ratings; a frame's are in the column ``rating``.
        interval : float
            Probability of the central interval.
        by : {"user", "item"}, optional
            Score the ratings of users, or of items, with few and with many training ratings apart.
        levels : sequence of float, optional
            The ratings that there can be, for the log loss over them of a likelihood that has no
            levels of its own.

        Returns
        -------
        pandas.Series, or with ``by`` pandas.DataFrame
            n, rmse, mae, nll, log_loss (where there are levels), crps, coverage, width,
            coverage_50, coverage_80, coverage_90, coverage_95, pit_distance, sharpness,
            error_sd_spearman, error_sd_pearson, rpi: see `metrics.summarize`. With ``by`` one row
            for each range of training ratings.

        Raises
        ------
        RatingsError
            As `predict`, and if the pairs have no ratings.
        PMFError
            If ``by`` is something else.
        """
        scores = self.scores(pairs, interval, levels)
        if by is None:
            return summarize(scores)
        if by not in ("user", "item"):
            raise PMFError(f'by must be "user" or "item", not {by!r}')
        return summarize_by(scores, scores[f"n_{by}"])

    def sample(
        self, pairs: Ratings | pd.DataFrame, n_draws: int = 100, seed: int = 0
    ) -> np.ndarray:
        """Draw ratings from the joint posterior predictive distribution.

        Parameters
        ----------
        pairs : Ratings or pandas.DataFrame
            As for `predict`.
        n_draws : int
        seed : int
            The caller's random state is left as it was.

        Returns
        -------
        ndarray, shape (n_draws, n_pairs)
            In rating units. Draws of the model's likelihood: they may lie outside the scale.
        """
        return tables.sample(self, pairs, n_draws, seed)

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

    def user_effects(self, interval: float = 0.9) -> pd.DataFrame:
        """How each user's scores lie above or below those of others, the highest first.

        Parameters
        ----------
        interval : float
            Probability of the central interval.

        Returns
        -------
        pandas.DataFrame
            user; mean, sd, lower and upper of b_i + U_i . V, with V the mean of all items'
            factors, on the scale of the score: a user's bias, wherever the model has put it;
            n_ratings, how many training ratings it is learnt from.

        Raises
        ------
        PMFError
            If the model has no such biases and no factors, or ``interval`` is not inside (0, 1).
        """
        return effects.effects(self, "user", interval)

    def item_effects(self, interval: float = 0.9) -> pd.DataFrame:
        """How well each item is liked by the average user: as `user_effects`, with c_j + U . V_j.

        That is not c_j alone: who rated an item says how good it is, so that the factors of
        hierarchical items may take over from the biases.
        """
        return effects.effects(self, "item", interval)

    def factor_norms(self) -> pd.DataFrame:
        """How much each factor matters, the strongest first.

        U and V are known up to a rotation, under which U V^T stays what it is. So these are the
        principal factors of its posterior mean, and no columns of U and V. What all users have
        alike, which hierarchical rows take over from the item biases, counts as any other part.

        Returns
        -------
        pandas.DataFrame
            By factor, from 0: rms, the singular value of E[U V^T] with rows and columns weighted
            by their ratings, that is the root mean square of what the factor adds to the score of
            a user and an item drawn each by their number of ratings; share of the sum of squares;
            dead, whether rms is below a hundredth of the strongest's, or below 0.001.

        Raises
        ------
        PMFError
            If the model has no factors.
        """
        return effects.factor_norms(self)

    def summary(self, n_draws: int | None = None, seed: int = 0) -> pd.DataFrame:
        """Summarize the scalar parameters: mean, standard deviation, 90% interval.

        Parameters
        ----------
        n_draws : int, optional
            As for `to_arviz`.
        seed : int

        Returns
        -------
        pandas.DataFrame
            ArviZ's summary, one row a site; sigma on the model scale of the ratings, the others on
            the scale of the score. Of Markov chains also R-hat, effective sample sizes and Monte
            Carlo standard errors.
        """
        return inference_data.summary(self, n_draws, seed)

    def to_arviz(
        self,
        pairs: Ratings | pd.DataFrame | None = None,
        sites: Sequence[str] | None = None,
        n_draws: int | None = None,
        seed: int = 0,
        prior: bool = False,
    ) -> Any:
        """Return draws as ArviZ data: InferenceData with ArviZ 0.x, a DataTree with ArviZ 1.

        Parameters
        ----------
        pairs : Ratings or pandas.DataFrame, optional
            Adds the groups posterior_predictive, log_likelihood and observed_data (the last two
            where the pairs have ratings), in rating units, for these pairs. The likelihood is a
            density per rating unit, or the mass of a level. Every pair costs ``n_draws``
            numbers twice: give those that you will look at.
        sites : sequence of str, optional
            Of the group posterior, deterministic ones such as U and V included. By default the
            scalar ones.
        n_draws : int, optional
            1000 if left out. Where draws represent the posterior, at most those, each once; of
            Markov chains as many of each, evenly spaced, and the first axis is the chain.
        seed : int
        prior : bool
            Adds the group prior, with draws of the scalar sites from the model's own prior, and,
            if there are pairs, prior_predictive, with their ratings, in rating units. Of the
            training ratings only which pairs they are of is given. Standard deviations that the
            fit held are random here.

        Raises
        ------
        PMFError
            If the model has no such site.
        """
        return inference_data.to_arviz(self, pairs, sites, n_draws, seed, prior)

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
