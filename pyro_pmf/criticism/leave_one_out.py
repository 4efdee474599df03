"""Leave-one-out cross-validation and posterior predictive checks, by ArviZ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from pyro_pmf.arguments import require_bool, require_integer
from pyro_pmf.data.frames import IntoFrame
from pyro_pmf.data.ratings import Ratings, as_frame, observed
from pyro_pmf.errors import PMFError, warn
from pyro_pmf.model.learned import Learned
from pyro_pmf.moments.chains import ess_mean
from pyro_pmf.posterior import Posterior
from pyro_pmf.prediction import arviz_versions
from pyro_pmf.prediction.discrete import DiscretePredictive
from pyro_pmf.prediction.inference_data import (
    chosen_draws,
    predictions,
    prior_predictions,
    run_at_first,
    to_arviz,
)
from pyro_pmf.prediction.metrics import clustered_error
from pyro_pmf.prediction.mixture import predictive_of
from pyro_pmf.random_state import isolated_random_state

# With S draws, Pareto smoothing is reliable for k up to 1 - 1 / log10(S) (Vehtari, Simpson,
# Gelman, Yao & Gabry 2024). At 100 this is 0.5, where the weights just have a variance.
_FEWEST_DRAWS = 100
_FOR_A_TAIL = 25  # draws; of fewer, the highest fifth is too small for a Pareto distribution
_LEVELS = 20  # more levels are shown by their distribution function, not each by itself


def loo(learned: Learned, pairs: Ratings | IntoFrame, n_draws: int = 1000, seed: int = 0) -> Any:
    """Estimate how well each of some training ratings is predicted by all the others.

    Leave-one-out cross-validation needs no refits. The posterior given all other ratings is the
    posterior given all, weighted by one over the likelihood of the rating. A generalized Pareto
    distribution smooths the largest weights (PSIS-LOO; Vehtari, Gelman & Gabry 2017). Its shape k
    says whether the estimate is reliable.

    Because mean field is approximate, removing one rating may change the posterior too much or too
    little. On 1,000 ratings of MovieLens, elpd was 0.01 to 0.04 nats per rating below the elpd of
    a fit without them. With Normal likelihoods, k was high for 5 to 7 ratings in 100, more often
    for users and items with few ratings; with `OrderedLogit` for 1 in 100. Held-out ratings
    (`Posterior.evaluate`) do not have this problem.

    Parameters
    ----------
    learned : Posterior
        Result of a fit.
    pairs : Ratings or pandas.DataFrame
        Some of the training ratings, as given to `fit`: the columns ``user``, ``item`` and
        ``rating``. Each costs ``2 * n_draws`` numbers; of many ratings, give a random thousand.
    n_draws : int
        Number of draws. A posterior that consists of draws uses each at most once.
    seed : int
        Seed of the draws.

    Returns
    -------
    arviz.ELPDData
        ArviZ's result with pointwise values: elpd and elpd_i (elpd_loo and loo_i with ArviZ 0.x),
        log densities in rating units, or log masses of levels; se, clustered by user
        (`metrics.clustered_error`); p or p_loo, the effective number of parameters; pareto_k, and
        good_k, up to which k is harmless.

    Raises
    ------
    RatingsError
        If a column is missing, or a rating is not a finite number.
    PMFError
        If there are no pairs, a pair is not among the training ratings or has another rating
        there, there are fewer than 25 draws, or the posterior is a point estimate, whose equal
        draws cannot be reweighted.

    Warns
    -----
    UserWarning
        If some k are above good_k, or fewer than 100 draws are effective.
    """
    data = _for_loo(learned, pairs, n_draws, seed)
    result = _loo(data, learned)
    _warn_of_draws({"": _effective_draws(data, learned)})
    _warn_of_k({"": result})
    elpd = arviz_versions.pointwise(result)
    result.se = len(elpd) * clustered_error(
        elpd, as_frame(learned.ratings.as_pairs(pairs))["user"]
    )
    return result


def compare(
    posteriors: Mapping[str, Posterior],
    pairs: Ratings | IntoFrame,
    n_draws: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare fitted models by leave-one-out cross-validation, see `loo`.

    Parameters
    ----------
    posteriors : mapping of str to Posterior
        At least two posteriors by name, fitted to the same ratings.
    pairs, n_draws, seed
        As for `loo`.

    Returns
    -------
    pandas.DataFrame
        One row per model, the best first, with the same columns for every version of ArviZ: rank,
        from 0; elpd, the sum of the log predictive densities (nats), and se, its standard error;
        p, the effective number of parameters; elpd_diff, elpd minus the first row's elpd, and dse,
        its standard error (both clustered by user, see `metrics.clustered_error`); weight, of the
        model in the mixture that predicts best (stacking; Yao, Vehtari, Simpson & Gelman 2018);
        n_bad_k, the number of ratings whose Pareto k is above ArviZ's threshold.

    Raises
    ------
    RatingsError
        As for `loo`.
    PMFError
        As for `loo`, if the models have no names, if there is only one, or if some models have
        densities and others probabilities.

    Warns
    -----
    UserWarning
        If some k are above good_k: the more of them a model has, the less reliable its row is. If
        a model has fewer than 100 effective draws.
    """
    if not isinstance(posteriors, Mapping):
        raise PMFError(
            'Give the posteriors by name, as in {"flat": flat, "deep": deep}, not as a '
            f"{type(posteriors).__name__}."
        )
    if len(posteriors) < 2:
        raise PMFError(
            f"A comparison needs at least two posteriors by name, not {len(posteriors)}."
        )
    if len({_level_width(learned) is None for learned in posteriors.values()}) > 1:
        raise PMFError(
            "Some of these models have the density of a rating, others the probability of a "
            "level. These are not comparable: hold ratings out and compare the log_loss of "
            "posterior.evaluate(test, levels=...)."
        )
    results, effective = {}, {}
    for name, learned in posteriors.items():
        data = _for_loo(learned, pairs, n_draws, seed)
        results[name], effective[name] = _loo(data, learned), _effective_draws(data, learned)
    table = arviz_versions.compare(results)
    table["elpd_diff"] = table["elpd"] - table["elpd"].iloc[0]
    each = {name: arviz_versions.pointwise(results[name]) for name in table.index}
    train = next(iter(posteriors.values())).ratings
    best, user = each[table.index[0]], as_frame(train.as_pairs(pairs))["user"]
    table["se"] = [len(x) * clustered_error(x, user) for x in each.values()]
    table["dse"] = [len(x) * clustered_error(x - best, user) for x in each.values()]
    table["n_bad_k"] = [_bad_k(results[name]) for name in table.index]
    _warn_of_draws(effective)
    _warn_of_k(results)
    columns = ["rank", "elpd", "se", "p", "elpd_diff", "dse", "weight", "n_bad_k"]
    return table[columns].astype(float).astype({"rank": int, "n_bad_k": int})


def plot_ppc(
    learned: Learned,
    pairs: Ratings | IntoFrame,
    n_draws: int = 100,
    seed: int = 0,
    prior: bool = False,
) -> Any:
    """Plot the distribution of ratings beside draws from the posterior predictive distribution.

    With ``prior=True``, the draws are from the prior predictive distribution: the model is run
    with latents from their priors, and only the pairs of the training ratings are given. Priors
    suit if the ratings lie among these draws, and if most draws look like ratings. Continuous
    ratings are then shown by distribution functions, from one range of the ratings below them to
    one above.

    ArviZ draws the plot. Continuous ratings are shown by densities, or by distribution functions
    if they are all equal. Levels are shown by frequencies with ArviZ 0.x, and by a rootogram
    (Kleiber & Zeileis 2016), which summarizes the draws by intervals, with ArviZ 1. More than 20
    levels, such as counts, are shown by distribution functions.

    Parameters
    ----------
    learned : Posterior
        Result of a fit.
    pairs : Ratings or pandas.DataFrame
        Observed ratings, held out or not.
    n_draws : int
        Number of draws to show.
    seed : int
        Seed of the draws.
    prior : bool
        Whether the draws are from the prior predictive distribution.

    Returns
    -------
    matplotlib.axes.Axes or arviz_plots.PlotCollection
        Plot of ArviZ 0.x or of ArviZ 1.

    Raises
    ------
    RatingsError
        If the pairs have no ratings.
    PMFError
        If matplotlib is not installed, there are no pairs, ``n_draws`` is not a positive integer,
        or ``prior`` is neither True nor False.
    """
    _require_matplotlib()
    prior = require_bool("prior", prior)
    pairs = learned.ratings.as_pairs(pairs)
    rating = observed(pairs)
    frame = as_frame(pairs)
    if not len(frame):
        raise PMFError("There are no pairs: give at least one.")
    with isolated_random_state(seed):
        if prior:
            require_integer("n_draws", n_draws)
            drawn = prior_predictions(learned, n_draws, frame)["prior_predictive"]["rating"]
        else:
            draws = chosen_draws(learned, n_draws)
            groups = predictions(learned, draws, frame.drop(columns="rating"))
            drawn = groups["posterior_predictive"]["rating"]
    width = _level_width(learned)
    if width is not None:  # number the levels: ArviZ recognizes discrete data by integers
        low = learned.ratings.transform.origin
        rating, drawn = (np.rint((x - low) / width).astype(int) for x in (rating, drawn))
    level = np.unique(np.append(drawn, rating))
    many = width is not None and len(level) > _LEVELS
    # Densities of draws with long tails have no common scale; distribution functions have. One
    # rating has no density.
    cumulative = many or (width is None and (prior or not np.ptp(rating)))
    data = arviz_versions.from_dict(
        {"posterior_predictive": {"rating": drawn}, "observed_data": {"rating": rating}},
        dims={"rating": ["pair"]},
    )
    with isolated_random_state(seed):
        n_shown = drawn.shape[0] * drawn.shape[1]
        shown = arviz_versions.plot_ppc(data, width is not None, cumulative, n_shown, prior)
    axes = _labelled(shown, "Rating")
    if prior and cumulative:
        lowest, highest = rating.min(), rating.max()
        room = (highest - lowest) or 1
        axes.set_xlim(lowest - room, highest + room)  # a few draws lie far off
    if width is not None and not many:
        middle = arviz_versions.level_positions(level)
        axes.set_xticks(middle, [f"{low + width * k:g}" for k in level])
    return shown


def plot_loo_pit(
    learned: Learned, pairs: Ratings | IntoFrame, n_draws: int = 1000, seed: int = 0
) -> Any:
    """Plot leave-one-out probability integral transforms (PIT) against a uniform distribution.

    ArviZ 1 plots how far the distribution function of the PIT is above the uniform one; ArviZ 0.x
    plots how far below. For levels the PIT is randomized (Czado, Gneiting & Held 2009), by uniform
    noise of half a level either way, added to ratings and draws.

    Parameters
    ----------
    learned : Posterior
        Result of a fit.
    pairs, n_draws, seed
        As for `loo`.

    Returns
    -------
    matplotlib.axes.Axes or arviz_plots.PlotCollection
        Plot of ArviZ 0.x or of ArviZ 1.

    Raises
    ------
    RatingsError
        As for `loo`.
    PMFError
        As for `loo`, and if matplotlib is not installed.

    Warns
    -----
    UserWarning
        As for `loo`.
    """
    _require_matplotlib()
    data = _for_loo(learned, pairs, n_draws, seed)
    _warn_of_draws({"": _effective_draws(data, learned)})
    _warn_of_k({"": _loo(data, learned)})
    width = _level_width(learned)
    if width is not None:
        # ArviZ 0.x does not randomize the PIT: it interpolates between neighbouring rows.
        generator = np.random.default_rng(seed)
        for group in ("observed_data", "posterior_predictive"):
            rating = data[group]["rating"]
            rating += width * (generator.random(rating.shape) - 0.5)
    with isolated_random_state(seed):
        shown = arviz_versions.plot_loo_pit(data)
    _labelled(shown, "LOO-PIT")
    return shown


def _labelled(shown: Any, label: str) -> Any:
    """Return the axes of an ArviZ plot, with a label that ArviZ's own layout would cut off."""
    axes = arviz_versions.axes_of(shown)
    axes.set_xlabel(label)
    axes.figure.set_layout_engine("constrained")
    return axes


def _level_width(learned: Learned) -> float | None:
    """Return the distance between levels, in rating units; None for continuous ratings."""
    with isolated_random_state(0):
        fn = run_at_first(learned, next(iter(learned.draws(1))))["rating"]["fn"]
    predictive = predictive_of(learned, [(1.0, fn)])
    if not isinstance(predictive, DiscretePredictive):
        return None
    return predictive.spacing * predictive.width


def _for_loo(learned: Learned, pairs: Ratings | IntoFrame, n_draws: int, seed: int) -> Any:
    """Return ArviZ data of training ratings; refuse other pairs, and draws that are all equal."""
    learned.require_training_ratings("Leave-one-out")
    train = learned.ratings
    frame = as_frame(train.as_pairs(pairs))
    rating = observed(frame)
    user, item = train.locate(frame)
    trained = pd.Series(train.rating, (train.user * train.n_items + train.item).numpy())
    cells = torch.where((user < 0) | (item < 0), -1, user * train.n_items + item)
    same = trained.reindex(cells.numpy()).to_numpy()
    # A pair that is not in training is NaN, which is close to nothing.
    wrong = ~np.isclose(same, rating, rtol=0, atol=1e-6 * np.diff(train.scale).item())
    if wrong.any():
        raise PMFError(
            f"{wrong.sum()} of {len(frame)} pairs are not among the training ratings, or have "
            f"another rating there. Give only training ratings. The first wrong pairs:\n"
            f"{frame[wrong].head()}"
        )
    if not len(frame):
        raise PMFError("There are no pairs: give at least one.")
    data = to_arviz(learned, frame, n_draws=n_draws, seed=seed)
    if not np.ptp(data["log_likelihood"]["rating"].to_numpy(), (0, 1)).any():
        raise PMFError(
            "Leave-one-out needs draws from a posterior, and this is a point estimate: fit with "
            'method="vi", or hold ratings out.'
        )
    if (found := _n_draws(data)) < _FOR_A_TAIL:
        raise PMFError(
            f"Leave-one-out needs at least {_FOR_A_TAIL} draws, and has {found}: raise n_draws, "
            "or fit with more draws."
        )
    return data


def _loo(data: Any, learned: Learned) -> Any:
    return arviz_versions.loo(data, min(1.0, _effective_draws(data, learned) / _n_draws(data)))


def _n_draws(data: Any) -> int:
    return int(np.prod(data["log_likelihood"]["rating"].shape[:2]))


def _effective_draws(data: Any, learned: Learned) -> float:
    """Return the effective sample size of the mean likelihood, averaged over the ratings.

    ArviZ would take the parameters, which mix more slowly than the likelihoods that are weighted.
    Draws that do not come from a chain are independent.
    """
    log_prob = data["log_likelihood"]["rating"].to_numpy()
    if learned.n_chains is None:
        return float(_n_draws(data))
    found = ess_mean(np.exp(log_prob - log_prob.max((0, 1))))
    return float(np.nanmean(found)) if np.isfinite(found).any() else 1.0


def _warn_of_draws(effective: Mapping[str, float]) -> None:
    few = [f"{n:.0f}{name and f' ({name})'}" for name, n in effective.items() if n < _FEWEST_DRAWS]
    if few:
        warn(
            f"Leave-one-out has {', '.join(few)} effective draws, and needs {_FEWEST_DRAWS}: with "
            "fewer, even weights that have a variance are unreliable. Raise n_draws, or fit with "
            "more draws."
        )


def _bad_k(result: Any) -> int:
    return int((result.pareto_k.to_numpy() > result.good_k).sum())


def _warn_of_k(results: Mapping[str, Any]) -> None:
    """Warn of high Pareto k once, with numbers, in place of ArviZ's warnings."""
    said = [
        f"{n} of {result.n_data_points}{name and f' ({name})'}"
        for name, result in results.items()
        if (n := _bad_k(result))
    ]
    if said:
        threshold = max(result.good_k for result in results.values())
        warn(
            f"Pareto k is above {threshold:.2f} for {', '.join(said)} ratings. Without them the "
            "posterior changes too much for importance sampling, so their estimates are "
            "unreliable. Raise n_draws, which may help, or hold ratings out, which does."
        )


def _require_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401  # optional
    except ImportError as error:
        raise PMFError("Plots need matplotlib: pip install 'pyro-pmf[plots]'") from error
