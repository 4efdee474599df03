"""`Posterior`: the result of a fit, and the questions that it answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from pyro_pmf import folding
from pyro_pmf.arguments import require_bool, require_levels
from pyro_pmf.data.frames import IntoFrame, as_native
from pyro_pmf.data.ratings import Ratings
from pyro_pmf.errors import PMFError
from pyro_pmf.isolation import alone, usual_torch
from pyro_pmf.model import storage
from pyro_pmf.model.learned import Learned
from pyro_pmf.prediction import (
    diagnostics,
    effects,
    explanation,
    inference_data,
    recommendation,
    similarity,
    tables,
)
from pyro_pmf.prediction.baselines import baseline_scores
from pyro_pmf.prediction.metrics import summarize, summarize_by
from pyro_pmf.prediction.possible import require_possible


class Posterior(Learned):
    """Distribution of a model's latents given the training ratings, as approximated by `fit`.

    See `Learned` for its attributes: model, ratings, latents, n_draws, steps, converged, n_chains.

    Pairs are `Ratings`, or a table of pandas, polars, pyarrow or what else narwhals reads. A table
    has the columns ``user`` and ``item``, and ``rating`` where ratings are needed, or the names
    that the columns of the training table had. Answers with a row per pair or per recommendation
    come in the kind of the caller's table, and keep the index of a pandas table.
    """

    @usual_torch()
    def predict(
        self,
        pairs: Ratings | IntoFrame,
        interval: float = 0.9,
        at_least: float | None = None,
        rated: bool = False,
        mcse: bool = False,
    ) -> pd.DataFrame:
        """Predict ratings.

        In a hierarchical model, the pairs that were rated are part of the model: who rated an item
        says something about it. ``rated=False`` asks "what if this user met this item?".
        ``rated=True`` asks "this user did rate this item: how?", and adds the pair itself, but no
        other of these pairs, to those that were rated. Held-out ratings are of the second kind;
        compare with other methods by the first, unless they are told the same. Other models answer
        both alike. The question is in ``attrs["rated"]`` of the table.

        Parameters
        ----------
        pairs : Ratings or table
            Pairs to predict, matched to the training ratings by id. Factors and bias of an unknown
            id come from the prior. The prior mean of hierarchical factors of an item that nobody
            has rated is the effect of one rater, drawn in proportion to activity; likewise for
            users.
        interval : float
            Probability of the central interval.
        at_least : float, optional
            A rating, in rating units. Adds the column p_at_least: the probability of this rating
            or a higher one. A recorded level stands for what is nearest to it, as in
            `predict_levels`.
        rated : bool
            Whether each pair counts as rated, by itself.
        mcse : bool
            Whether to add the column mcse, the Monte Carlo standard error of the mean: how much it
            would differ with other draws of the same Markov chains.

        Returns
        -------
        pandas.DataFrame
            One row per pair, in the order of ``pairs``. Columns: user, item; mean, sd, lower and
            upper of the *rating*, noise included, in rating units (lower and upper are clipped to
            the scale); p_at_least and mcse if requested; known_user, known_item.

        Raises
        ------
        RatingsError
            If a column or an id is missing, an id is of another type than the training ids, or an
            id is a floating-point number that may stand for several integers.
        PMFError
            If ``interval`` is not inside (0, 1), ``at_least`` is not a finite number, or ``rated``
            or ``mcse`` is neither True nor False. If ``rated`` is true and the model depends on
            the pairs that were rated in a way that only its code knows. If ``mcse`` is true and
            the posterior does not consist of draws of Markov chains.

        Examples
        --------
        >>> from pyro_pmf import PMF, VI, fit
        >>> from pyro_pmf.datasets import simulate
        >>> ratings, _ = simulate(PMF(1), n_users=30, n_items=20, n_ratings=300)
        >>> method = VI(max_steps=20, learn_scales=None)
        >>> posterior = fit(PMF(1), ratings, method, progress=False)
        >>> table = posterior.predict(ratings)
        >>> list(table)
        ['user', 'item', 'mean', 'sd', 'lower', 'upper', 'known_user', 'known_item']
        >>> len(table), bool((table["lower"] <= table["upper"]).all())
        (300, True)
        """
        rated, mcse = require_bool("rated", rated), require_bool("mcse", mcse)
        known = self.ratings.as_pairs(pairs)
        return as_native(tables.predict(self, known, interval, at_least, rated, mcse), pairs)

    @usual_torch()
    def predict_levels(
        self,
        pairs: Ratings | IntoFrame,
        levels: Sequence[float] | None = None,
        rated: bool = False,
    ) -> pd.DataFrame:
        """Predict the probability of each possible rating.

        Parameters
        ----------
        pairs : Ratings or table
            Pairs to predict, as for `predict`.
        levels : sequence of float, optional
            Possible ratings, ascending, in rating units. The default is the likelihood's own
            levels; required if it has none. A continuous rating counts for the nearest level.
        rated : bool
            Whether the user is known to have rated the item, see `predict`.

        Returns
        -------
        pandas.DataFrame
            One row per pair, in the order of ``pairs``. Columns: user, item, and one for each
            level. The probabilities of a row sum to one, unless a discrete likelihood has further
            levels.

        Raises
        ------
        RatingsError
            As for `predict`, or if there are no pairs.
        PMFError
            If no levels are known, they are not numbers that ascend, a discrete likelihood lacks
            one of them, or ``rated`` is refused as by `predict`.
        """
        rated = require_bool("rated", rated)
        known = self.ratings.as_pairs(pairs)
        return as_native(tables.predict_levels(self, known, levels, rated), pairs)

    @usual_torch()
    def scores(
        self,
        pairs: Ratings | IntoFrame,
        interval: float = 0.9,
        levels: Sequence[float] | None = None,
        rated: bool = False,
    ) -> pd.DataFrame:
        """Score the prediction of each rating, see `metrics.score_each`.

        Parameters
        ----------
        pairs : Ratings or table
            Observed ratings.
        interval : float
            Probability of the central interval.
        levels : sequence of float, optional
            Possible ratings, ascending, in rating units. With them, a likelihood without levels of
            its own also gets a log loss.
        rated : bool
            Whether the user is known to have rated the item, see `predict`.

        Returns
        -------
        pandas.DataFrame
            One row per rating, in the order of ``pairs``. The columns of `metrics.score_each`,
            then n_user and n_item: the numbers of training ratings of the user and of the item.

        Raises
        ------
        RatingsError
            As for `predict`, or if the pairs have no ratings, or ratings that are not finite
            numbers, far outside the scale of the training ratings, or none that the likelihood
            can produce, such as counts below 0.
        PMFError
            If ``interval`` is not inside (0, 1), a rating is none of the levels, or
            ``rated`` is refused as by `predict`.
        """
        rated = require_bool("rated", rated)
        known = self.ratings.as_pairs(pairs)
        require_possible(self, known)
        return as_native(tables.scores(self, known, interval, levels, rated), pairs)

    @usual_torch()
    def evaluate(
        self,
        pairs: Ratings | IntoFrame,
        interval: float = 0.9,
        by: str | None = None,
        levels: Sequence[float] | None = None,
        rated: bool = False,
        baselines: bool = False,
    ) -> Any:
        """Measure how good predictions of ratings are.

        Parameters
        ----------
        pairs : Ratings or table
            Observed ratings, held out of training.
        interval : float
            Probability of the central interval.
        by : {"user", "item"}, optional
            Group the ratings by the number of training ratings of their user, or of their item.
        levels : sequence of float, optional
            Possible ratings, ascending, in rating units. With them, a likelihood without levels of
            its own also gets a log loss.
        rated : bool
            Whether the user is known to have rated the item, see `predict`.
        baselines : bool
            Whether to score two simple predictors on the same pairs: "biases", shrunken biases of
            users and items in a Normal model, and "mean", one Normal with the mean and the
            standard deviation of the training ratings. A model that does not beat them has
            learnt nothing of users' tastes. See `baselines.baseline_scores`.

        Returns
        -------
        pandas.Series, or pandas.DataFrame with ``by`` or ``baselines``
            n, rmse, mae, nll, log_loss (if the levels are known), crps, coverage, width,
            coverage_50, coverage_80, coverage_90, coverage_95, pit_distance, sharpness,
            error_sd_spearman, error_sd_pearson, rpi: see `metrics.summarize`. With ``by``, one row
            for each range of the number of training ratings. With ``baselines``, the rows model,
            biases and mean; with both, the rows of each of the three.

        Raises
        ------
        RatingsError
            As for `scores`.
        PMFError
            As for `scores`, or if ``by`` or ``baselines`` has another value. With ``baselines``,
            if the posterior was saved without its training ratings.

        Examples
        --------
        >>> from pyro_pmf import PMF, VI, OrderedLogit, fit
        >>> from pyro_pmf.datasets import simulate
        >>> model = PMF(1, likelihood=OrderedLogit(5))
        >>> ratings, _ = simulate(model, n_users=30, n_items=20, n_ratings=300)
        >>> train, test = ratings.split()
        >>> method = VI(max_steps=20, learn_scales=None)
        >>> posterior = fit(model, train, method, progress=False)
        >>> posterior.evaluate(test, baselines=True).index.tolist()
        ['model', 'biases', 'mean']
        """
        if by not in (None, "user", "item"):
            raise PMFError(f'by must be "user" or "item", not {by!r}.')
        baselines, levels = require_bool("baselines", baselines), require_levels(levels)
        known = self.ratings.as_pairs(pairs)
        scores = self.scores(known, interval, levels, rated)

        def summary(of: pd.DataFrame) -> pd.Series | pd.DataFrame:
            return summarize(of) if by is None else summarize_by(of, scores[f"n_{by}"])

        if not baselines:
            return summary(scores)
        each = {"model": scores} | baseline_scores(self, known, interval, levels)
        found = {name: summary(of) for name, of in each.items()}
        table = pd.DataFrame(found).T if by is None else pd.concat(found)
        return table.rename_axis(["predictor", *table.index.names[1:]])

    @usual_torch()
    def sample(
        self,
        pairs: Ratings | IntoFrame,
        n_draws: int = 100,
        seed: int = 0,
        rated: bool = False,
    ) -> np.ndarray:
        """Draw ratings from the joint posterior predictive distribution.

        Parameters
        ----------
        pairs : Ratings or table
            Pairs to predict, as for `predict`.
        n_draws : int
            Number of draws.
        seed : int
            Seed of the draws. The caller's random state is left unchanged.
        rated : bool
            Whether the user is known to have rated the item, see `predict`.

        Returns
        -------
        ndarray, shape (n_draws, n_pairs)
            Draws in rating units. They follow the model's likelihood, so they may lie outside the
            scale.

        Raises
        ------
        RatingsError
            As for `predict`.
        PMFError
            If ``n_draws`` is not a positive integer, ``seed`` is not a seed, or ``rated`` is
            refused as by `predict`.
        """
        rated = require_bool("rated", rated)
        return tables.sample(self, self.ratings.as_pairs(pairs), n_draws, seed, rated)

    @usual_torch()
    def recommend(
        self,
        users: Hashable | Iterable[Hashable],
        n: int = 10,
        strategy: recommendation.Strategy = "mean",
        items: Hashable | Iterable[Hashable] | None = None,
        exclude: Hashable | Iterable[Hashable] | Ratings | IntoFrame | None = None,
        exclude_seen: bool | Literal["positive"] = True,
        at_least: float | None = None,
        n_sd: float = 1.0,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Recommend the best items for each user, if the user met them.

        All strategies rank by the rating that is expected given the latents, which are known only
        as far as the posterior knows them. "mean" ranks by its posterior mean. "ucb" adds
        ``n_sd`` posterior standard deviations, and so tries items that may be good; "lcb"
        subtracts them, and so avoids items that may disappoint. "thompson" takes it at one
        posterior draw, which tries each item about as often as it may be the best.
        "probability" ranks by P(rating >= ``at_least``), noise included.

        Parameters
        ----------
        users : id or iterable of ids
            Users to recommend items to. A user given twice is listed once. Factors and bias of an
            unknown user come from the prior.
        n : int
            Number of items for each user.
        strategy : {"mean", "ucb", "lcb", "thompson", "probability"}
            The quantity to rank by. Without posterior uncertainty, as after MAP, "ucb", "lcb" and
            "thompson" rank as "mean" does.
        items : id or iterable of ids, optional
            The items to choose from; all training items by default.
        exclude : id, iterable of ids, Ratings or table, optional
            Items that are never recommended, or pairs that are not. Ids that are not known exclude
            nothing.
        exclude_seen : bool or "positive"
            Whether to leave out the items that the user rated in training, or in the history.
            "positive" leaves out those rated above 0 and those of the history, as suits the
            negatives of `data.with_sampled_negatives`, which the user has not met.
        at_least : float, optional
            A rating, in rating units, for "probability" only.
        n_sd : float
            Posterior standard deviations that "ucb" adds and "lcb" subtracts.
        seed : int
            Seed of "thompson". The draw is one of all latents, and all users of a call share it:
            an item that is overrated in it is so for each of them. Give each user another seed to
            have independent draws.

        Returns
        -------
        pandas.DataFrame
            One row per user and item, in the order of ``users``, the best first. Columns: user;
            item; rank, from 1; score, the quantity ranked by; mean, sd, lower and upper of the
            *rating*, noise included, with the 90% interval, as by `predict`; known_user. All but
            the score of "probability" are in rating units. Items of equal score are in the order
            of ``items``, or of their ids. A user with fewer than ``n`` items left has fewer rows.

        Raises
        ------
        RatingsError
            If ``users``, ``items`` or ``exclude`` are bytes, a mapping, or hold a missing id;
            ``users`` or ``items`` are a table; an item of ``items`` is unknown; or a user, or an
            id of ``exclude``, is of another type than the training ids.
        PMFError
            If ``n`` is not a positive integer, ``strategy`` is unknown, ``at_least`` is missing
            for "probability" or given for another strategy, ``n_sd`` is negative or not finite,
            ``exclude_seen`` is something else, or is "positive" where the posterior was saved
            without training ratings, or ``seed`` is not a seed.

        Examples
        --------
        >>> from pyro_pmf import PMF, VI, fit
        >>> from pyro_pmf.datasets import simulate
        >>> ratings, _ = simulate(PMF(1), n_users=30, n_items=20, n_ratings=300)
        >>> method = VI(max_steps=20, learn_scales=None)
        >>> posterior = fit(PMF(1), ratings, method, progress=False)
        >>> best = posterior.recommend([3, 7], n=2, strategy="ucb", exclude_seen=False)
        >>> best[["user", "rank"]].to_numpy().tolist()
        [[3, 1], [3, 2], [7, 1], [7, 2]]
        >>> list(best)
        ['user', 'item', 'rank', 'score', 'mean', 'sd', 'lower', 'upper', 'known_user']
        >>> bool((best["score"] > best["mean"]).all())
        True
        """
        table = recommendation.recommend(
            self, users, n, strategy, items, exclude, exclude_seen, at_least, n_sd, seed
        )
        return as_native(table, users, exclude)

    @usual_torch()
    def similar_items(
        self,
        items: Hashable | Iterable[Hashable],
        n: int = 10,
        titles: similarity.Titles | None = None,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Find the items that the same users like, by what the factors say of all users.

        U A and V A^-T have the same U V^T for every invertible matrix A, so cosines of rows of V
        mean nothing. This is the cosine of U V_j and U V_k, the contributions of two items'
        factors to the scores of all users, weighted by their numbers of ratings. Biases are not
        in it.

        Parameters
        ----------
        items : id or iterable of ids
            Items to compare with all others. An item given twice is listed once.
        n : int
            Number of similar items for each.
        titles : mapping, pandas.Series or table, optional
            Titles by id; a table has the column ``title``, and the ids in the column ``item``, in
            that of the same name as in training, or in its index. Adds the column title.
        seed : int
            Seed of 200 draws of a posterior in closed form. Other posteriors use their own draws,
            and after MAP there is one.

        Returns
        -------
        pandas.DataFrame
            One row per item and similar item, the most similar first. Columns: item; rank, from 1;
            similar, the id; title if requested; cosine, from -1 to 1, and sd, its posterior mean
            and standard deviation; n_ratings, the number of training ratings of the similar item.

        Raises
        ------
        RatingsError
            If an item is unknown or missing, ``items`` is a table, bytes or a mapping, or
            ``titles`` has no titles by id.
        PMFError
            If the model has no factors, ``n`` is not a positive integer, or ``seed`` is not a
            seed.

        Examples
        --------
        >>> from pyro_pmf import PMF, VI, fit
        >>> from pyro_pmf.datasets import simulate
        >>> ratings, _ = simulate(PMF(2), n_users=30, n_items=20, n_ratings=300)
        >>> method = VI(max_steps=20, learn_scales=None)
        >>> posterior = fit(PMF(2), ratings, method, progress=False)
        >>> alike = posterior.similar_items(3, n=2, titles={k: f"film {k}" for k in range(20)})
        >>> list(alike)
        ['item', 'rank', 'similar', 'title', 'cosine', 'sd', 'n_ratings']
        >>> len(alike), bool(alike["cosine"].between(-1, 1).all())
        (2, True)
        """
        return as_native(similarity.similar(self, "item", items, n, titles, seed), items, titles)

    @usual_torch()
    def similar_users(
        self,
        users: Hashable | Iterable[Hashable],
        n: int = 10,
        titles: similarity.Titles | None = None,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Find the users who like the same items, by what the factors say of all items.

        Parameters
        ----------
        users : id or iterable of ids
            Users to compare with all others. A user given twice is listed once.
        n : int
            Number of similar users for each.
        titles : mapping, pandas.Series or table, optional
            Names by id, as for `similar_items`; a table may have the column ``user``.
        seed : int
            As for `similar_items`.

        Returns
        -------
        pandas.DataFrame
            The table of `similar_items` with the column user in place of item. cosine compares
            V U_i and V U_k, weighted by the items' numbers of ratings.

        Raises
        ------
        RatingsError, PMFError
            As for `similar_items`.
        """
        return as_native(similarity.similar(self, "user", users, n, titles, seed), users, titles)

    @usual_torch()
    def explain(self, user: Hashable, item: Hashable) -> pd.DataFrame:
        """Say which ratings of a user raised or lowered the prediction of an item.

        The change is the expected rating of ``predict``, less what it would be without one of the
        user's ratings, to first order: one Newton step of the user's factors and bias, with the
        factors of items, the noise and the scales held. In a hierarchical model, the item also
        leaves the sum that is the prior mean of the user's factors. The step is exact where the
        rating is Normal about the score; elsewhere it is the less exact, the more a rating
        changes. Changes do not add up, since ratings that say the same replace each other.

        Parameters
        ----------
        user, item : id
            The pair whose prediction to explain; the user may have rated the item.

        Returns
        -------
        pandas.DataFrame
            One row per training rating of the user, the largest change first. Columns: item and
            rating, of the user; change, in rating units, positive if the rating raised the
            prediction. A user without training ratings has no rows. For a posterior of draws, the
            change is averaged over at most 100 of them.

        Raises
        ------
        RatingsError
            If the user or the item is unknown.
        PMFError
            If the model is not a `PMF`, or the training ratings were left out by `save`.

        Examples
        --------
        >>> from pyro_pmf import PMF, VI, fit
        >>> from pyro_pmf.datasets import simulate
        >>> ratings, _ = simulate(PMF(1), n_users=30, n_items=20, n_ratings=300)
        >>> method = VI(max_steps=20, learn_scales=None)
        >>> posterior = fit(PMF(1), ratings, method, progress=False)
        >>> why = posterior.explain(3, 7)
        >>> list(why), len(why) == int(ratings.user_counts[3])
        (['item', 'rating', 'change'], True)
        """
        return explanation.explain(self, user, item)

    @usual_torch(gradients=True)
    @alone()
    def fold_in(self, ratings: Ratings | IntoFrame, seed: int = 0) -> Posterior:
        """Return a posterior that knows some more ratings, without fitting all ratings again.

        New users get factors, a bias and a noise level given all items; new items given all
        users; a pair of an old user and an old item tells of its user. All other latents stay. The
        rows of a user are learnt from all ratings of the user, old and new, and from the pairs
        that the user rated, in the same way as in the fit: by the ELBO, by the joint density for
        MAP, or by one draw of the row for each draw of the rest.

        Parameters
        ----------
        ratings : Ratings or table
            New ratings. Of a pair that occurs more than once the last rating counts; a new rating
            replaces an old one.
        seed : int
            Seed of all random numbers. The caller's random state is left unchanged.

        Returns
        -------
        Posterior
            Of the same kind, given all ratings; this one is unchanged.

        Raises
        ------
        RatingsError
            If a column or an id is missing, ids are of another type than the training ids, or a
            rating is not a finite number inside the scale of the training ratings.
        FitError
            If the likelihood cannot produce a rating, such as a level between two levels.
        PMFError
            If the model is not a `PMF`, or draws are not of a likelihood of this package; or if
            the training ratings were left out by `save`, and a rating is of a user and an item
            that are both known. The posterior that is returned then has no ratings either.

        Warns
        -----
        UserWarning
            If the rows have not converged.

        Examples
        --------
        >>> import pandas as pd
        >>> from pyro_pmf import PMF, VI, fit
        >>> from pyro_pmf.datasets import simulate
        >>> ratings, _ = simulate(PMF(1), n_users=30, n_items=20, n_ratings=300)
        >>> method = VI(max_steps=20, learn_scales=None)
        >>> posterior = fit(PMF(1), ratings, method, progress=False)
        >>> new = pd.DataFrame({"user": 77, "item": [3, 5, 8], "rating": [0.9, 0.8, 0.7]})
        >>> more = posterior.fold_in(new)
        >>> pair = pd.DataFrame({"user": [77], "item": [11]})
        >>> before, after = (x.predict(pair).loc[0] for x in (posterior, more))
        >>> bool(before["known_user"]), bool(after["known_user"])
        (False, True)
        >>> bool(after["sd"] < before["sd"])
        True
        """
        return Posterior(**vars(folding.fold_in(self, ratings, seed)))

    @usual_torch(gradients=True)
    @alone()
    def update(
        self, ratings: Ratings | IntoFrame, discount: float = 1.0, seed: int = 0
    ) -> Posterior:
        """Return a posterior that has moved with some more ratings: a step of a stream.

        The rows of all users and items among the new ratings are learnt again, users given items
        and items given users in turn, from all their ratings, old and new. Where `fold_in` takes
        old items as they are, they move here. All other rows, the standard deviations, the mean
        and the cut points stay: after many updates, fit again, with ``fit(..., start=posterior)``.

        Parameters
        ----------
        ratings : Ratings or table
            New ratings, as for `fold_in`.
        discount : float
            For data that drift: each earlier rating is kept with this probability, so that a
            rating still counts after k updates with probability ``discount ** k``. Forgotten
            ratings leave ``posterior.ratings``.
        seed : int
            Seed of all random numbers. The caller's random state is left unchanged.

        Returns
        -------
        Posterior
            Of the same kind, given all ratings that are kept; this one is unchanged.

        Raises
        ------
        RatingsError, FitError
            As for `fold_in`.
        PMFError
            As for `fold_in`, or if ``discount`` is not inside (0, 1], or the training ratings were
            left out by `save`.

        Warns
        -----
        UserWarning
            If the rows have not converged.
        """
        return Posterior(**vars(folding.update(self, ratings, discount, seed)))

    @usual_torch()
    def user_effects(self, interval: float = 0.9) -> pd.DataFrame:
        """Compare users by their average score over all items, highest first.

        Parameters
        ----------
        interval : float
            Probability of the central interval.

        Returns
        -------
        pandas.DataFrame
            Columns: user; mean, sd, lower and upper of b_i + U_i . V, on the scale of the score,
            with V the mean of all items' factors; n_ratings, the user's number of training
            ratings. The sum is the user's bias, whether the model expresses it by b or by U.

        Raises
        ------
        PMFError
            If the model has neither user biases nor factors, or ``interval`` is not inside (0, 1).
        """
        return effects.effects(self, "user", interval)

    @usual_torch()
    def item_effects(self, interval: float = 0.9) -> pd.DataFrame:
        """Compare items by their average score over all users, highest first.

        c_j alone does not show this. Who rated an item says how good it is, so the factors of
        hierarchical items may take over from the biases.

        Parameters
        ----------
        interval : float
            Probability of the central interval.

        Returns
        -------
        pandas.DataFrame
            Columns: item; mean, sd, lower and upper of c_j + U . V_j, on the scale of the score,
            with U the mean of all users' factors; n_ratings, the item's number of training
            ratings.

        Raises
        ------
        PMFError
            If the model has neither item biases nor factors, or ``interval`` is not inside (0, 1).
        """
        return effects.effects(self, "item", interval)

    @usual_torch()
    def factor_norms(self) -> pd.DataFrame:
        """Measure how much each factor matters, strongest first.

        U and V are identified up to a rotation, which leaves U V^T unchanged. The table therefore
        lists the principal factors of the posterior mean of U V^T, not the columns of U and V. A
        component shared by all users counts like any other; hierarchical rows may take it over
        from the item biases.

        Returns
        -------
        pandas.DataFrame
            One row per factor, from 0. Columns: rms, the singular value of E[U V^T] with rows and
            columns weighted by their numbers of ratings; share, of the sum of squares; dead,
            whether rms is below a hundredth of the largest, or below 0.001. rms is the root mean
            square contribution to the score, for a user and an item drawn independently in
            proportion to their numbers of ratings.

        Raises
        ------
        PMFError
            If the model has no factors.
        """
        return effects.factor_norms(self)

    @usual_torch()
    def summary(self, n_draws: int | None = None, seed: int = 0) -> pd.DataFrame:
        """Summarize the scalar parameters: mean, standard deviation, 90% highest-density interval.

        Parameters
        ----------
        n_draws : int, optional
            Number of draws, as for `to_arviz`: at least 2, or 4 of each Markov chain.
        seed : int
            Seed of the draws.

        Returns
        -------
        pandas.DataFrame
            ArviZ's summary, one row per site: sigma on the model scale of the ratings, the others
            on the scale of the score. For Markov chains also R-hat, effective sample sizes and
            Monte Carlo standard errors.

        Raises
        ------
        PMFError
            If ``n_draws`` is not an integer or too small, or ``seed`` is not a seed.
        """
        return inference_data.summary(self, n_draws, seed)

    @usual_torch()
    def diagnostics(self, n_each: int = 200, seed: int = 0) -> pd.DataFrame:
        """Say how well Markov chains have mixed, by quantities that ratings identify.

        U and V are identified up to a rotation, and mu and the biases up to a number that they
        exchange, so R-hat of these says nothing of predictions. The table has what stays the same.

        Parameters
        ----------
        n_each : int
            Number of training pairs, of random pairs, of users and of items in the table.
        seed : int
            Seed of their choice.

        Returns
        -------
        pandas.DataFrame
            One row per quantity. kind and quantity: "score", of a pair, less the middle cut point
            of ordered levels; "effect", the average score of a user over all items, or of an item
            over all users; "parameter", such as sigma and the product sigma_U sigma_V. mean and
            sd; r_hat (rank-normalized split R-hat, 1 if chains agree); ess_bulk and ess_tail,
            effective sample sizes; mcse_mean, the Monte Carlo standard error of the mean (Vehtari,
            Gelman, Simpson, Carpenter & Bürkner 2021; the numbers are ArviZ's).

        Raises
        ------
        PMFError
            If the posterior does not consist of draws of Markov chains, ``n_each`` is not a
            positive integer, or ``seed`` is not a seed.

        Examples
        --------
        >>> from pyro_pmf import NUTS, PMF, fit
        >>> from pyro_pmf.datasets import simulate
        >>> model = PMF(0, noise="shared")
        >>> ratings, _ = simulate(model, n_users=5, n_items=4, n_ratings=20)
        >>> posterior = fit(model, ratings, NUTS(n_draws=4, n_warmup=4), progress=False)
        >>> table = posterior.diagnostics()
        >>> table[table["kind"] == "parameter"]["quantity"].tolist()
        ['sigma', 'sigma_b', 'sigma_c', 'mean score', 'log_likelihood']
        """
        return diagnostics.diagnostics(self, n_each, seed)

    @usual_torch()
    def to_arviz(
        self,
        pairs: Ratings | IntoFrame | None = None,
        sites: Sequence[str] | None = None,
        n_draws: int | None = None,
        seed: int = 0,
        prior: bool = False,
    ) -> Any:
        """Return draws as ArviZ data: InferenceData with ArviZ 0.x, a DataTree with ArviZ 1.

        Parameters
        ----------
        pairs : Ratings or table, optional
            Adds the groups posterior_predictive, log_likelihood and observed_data for these pairs,
            in rating units (the last two if the pairs have ratings). The likelihood is a density
            per rating unit, or the mass of a level. Every pair costs ``2 * n_draws`` numbers, so
            give only pairs that you will look at.
        sites : sequence of str, optional
            Sites of the group posterior, deterministic ones such as U and V included. The default
            is the scalar sites.
        n_draws : int, optional
            Number of draws; the default is 1000 for a posterior in closed form. Other posteriors
            use each of their draws at most once, all by default. Markov chains contribute equally
            many draws each, evenly spaced; the first axis is the chain.
        seed : int
            Seed of the draws.
        prior : bool
            Adds the group prior: draws of the scalar sites from the model's prior. If there are
            pairs, also adds prior_predictive: their ratings, in rating units. The training ratings
            contribute their pairs only, not their values. Standard deviations that the fit held
            are random here.

        Returns
        -------
        arviz.InferenceData or xarray.DataTree
            The groups above, with dimensions user, item, factor and pair; coordinates are ids.

        Raises
        ------
        RatingsError
            As for `predict`, or if a column ``rating`` has values that are not finite numbers.
        PMFError
            If the model lacks one of the sites, ``n_draws`` is not a positive integer, or ``seed``
            is not a seed.
        """
        prior = require_bool("prior", prior)
        known = None if pairs is None else self.ratings.as_pairs(pairs)
        return inference_data.to_arviz(self, known, sites, n_draws, seed, prior)

    @usual_torch()
    def save(
        self,
        path: str | os.PathLike[str],
        overwrite: bool = False,
        training_ratings: bool = True,
    ) -> None:
        """Save to a folder: JSON, safetensors and Parquet, no pickle. `load` reads it.

        Parameters
        ----------
        path : path-like
            The folder to make. It appears complete or not at all: a process that is killed leaves
            what was there before.
        overwrite : bool
            Whether to replace a posterior that is already there. Only files that this package
            wrote are ever deleted.
        training_ratings : bool
            Whether to save the training ratings and their times. Without them the folder still
            says which pairs were rated, since predictions of hierarchical models, and
            ``recommend(exclude_seen=True)``, need to know. The posterior that is loaded then
            predicts the same numbers and folds in new users and items; what needs the ratings,
            such as `explain`, `update` and leave-one-out, raises an error.

        Raises
        ------
        StorageError
            If ``path`` exists, unless it is a whole posterior without other files and
            ``overwrite`` is true; if it cannot be written; if an id cannot be stored, such as an
            int of 2^64 or more; or if a number of the posterior is not finite.

        Notes
        -----
        Of processes that `torchrun` has started, which all have the whole posterior, the first
        one writes; the others do not wait for it.
        """
        overwrite = require_bool("overwrite", overwrite)
        training_ratings = require_bool("training_ratings", training_ratings)
        storage.save(self, path, overwrite, training_ratings)


@usual_torch()
def load(
    path: str | os.PathLike[str],
    model: Callable[..., Any] | None = None,
    device: str | torch.device = "cpu",
) -> Posterior:
    """Load a posterior that `Posterior.save` wrote. Nothing in the folder is executed.

    Checksums tell damage of every file. Then all parts are compared with each other: latents with
    the sites of the model, their shapes with ids and factors, indices, order, types, finite
    values, variances, scale and transform, numbers of draws and chains.

    Parameters
    ----------
    path : path-like
        The folder of the posterior.
    model : callable, optional
        The Pyro model that was fitted, if it was not a `PMF`, since code is not saved.
    device : str or torch.device
        Device of the latents and of the training ratings, whichever they were fitted on. Tables
        and scores are computed on the CPU; another device is for code of your own.

    Returns
    -------
    Posterior
        The saved posterior.

    Raises
    ------
    StorageError
        If ``path`` has no posterior; one of its files is missing, damaged, or altered so that it
        contradicts the others; it was written in another format; it needs ``model``, or has one of
        its own; or there is no such device.
    """
    return Posterior(**storage.read(path, model, device))
