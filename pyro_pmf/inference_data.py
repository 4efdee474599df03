"""Draws as ArviZ data, and what ArviZ says of a fit; the only file that knows its versions."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyro_pmf.errors import PMFError
from pyro_pmf.learned import Learned
from pyro_pmf.pairs import Pairs
from pyro_pmf.prediction import LocatedPairs, observed, run
from pyro_pmf.predictive import DiscretePredictive, PosteriorPredictive
from pyro_pmf.random_state import isolated_random_state
from pyro_pmf.ratings import Ratings

if TYPE_CHECKING:
    from pyro_pmf.posterior import Posterior

with warnings.catch_warnings():
    # ArviZ 0.23 announces ArviZ 1 when it is imported; both work here.
    warnings.filterwarnings("ignore", "\\s*ArviZ is undergoing", FutureWarning)
    import arviz

_IS_ARVIZ_1 = int(arviz.__version__.split(".")[0]) >= 1
_DIMS = {"users": "user", "items": "item"}
_LEVELS = 20  # more are shown by their distribution function, not each by itself

Draws = Sequence[Mapping[str, Tensor]]
Groups = dict[str, dict[str, np.ndarray]]


def to_arviz(
    learned: Learned,
    pairs: Ratings | pd.DataFrame | None = None,
    sites: Sequence[str] | None = None,
    num_samples: int | None = None,
    seed: int = 0,
    prior: bool = False,
) -> Any:
    """Implement `Posterior.to_arviz`."""
    with isolated_random_state(seed):
        draws = _draws(learned, num_samples)
        values, dims = _posterior(learned, draws, sites)
        groups = {"posterior": values}
        if pairs is not None:
            groups |= _predictions(learned, draws, pairs)
            dims |= {name: ["pair"] for name in ("rating", "user_id", "item_id")}
        if prior:
            groups |= _prior(learned, len(draws), pairs)
    train = learned.ratings
    used = {dim for names in dims.values() for dim in names}
    ids = {"user": train.users, "item": train.items}
    coords = {name: index.to_numpy() for name, index in ids.items() if name in used}
    return _from_dict(groups, coords=coords, dims=dims)


def scale_summary(learned: Learned, num_samples: int | None = None, seed: int = 0) -> pd.DataFrame:
    """Mean, standard deviation and 90% highest-density interval of the scalar sites.

    Of Markov chains also ArviZ's diagnostics: r_hat, effective sample sizes, and Monte Carlo
    standard errors. They are for chains, and left out for what is none.

    Returns
    -------
    pandas.DataFrame
        ArviZ's summary, one row a site; sigma on the model scale of the ratings, the others on
        the scale of the score.
    """
    data = to_arviz(learned, num_samples=num_samples, seed=seed)
    kind = "stats" if learned.num_chains is None else "all"
    if _IS_ARVIZ_1:
        return arviz.summary(data, kind=kind, ci_prob=0.9, ci_kind="hdi", round_to=4)
    return arviz.summary(data, kind=kind, hdi_prob=0.9, round_to=4)


def loo(
    learned: Learned, pairs: Ratings | pd.DataFrame, num_samples: int = 1000, seed: int = 0
) -> Any:
    """Estimate how well each of some training ratings is predicted by all the others.

    Leave-one-out cross-validation without refits: the posterior given the others is that given
    all, weighted by one over the rating's likelihood, the largest weights smoothed by a
    generalised Pareto distribution (PSIS-LOO; Vehtari, Gelman & Gabry 2017). Its shape k says
    whether that can be relied on.

    The posterior is the fitted one, and mean-field inference an approximation, so that more or
    less may change without a rating than should. Of 1,000 ratings of MovieLens, elpd was 0.01 to
    0.04 nats a rating below that of a fit without them. With Normal likelihoods k was high for 5
    to 7 in 100, more often of users and items with few ratings; with `OrderedLogit` for one.
    Held-out ratings (`Posterior.evaluate`) are free of this.

    Parameters
    ----------
    learned : Posterior
    pairs : Ratings or pandas.DataFrame
        Some of the training ratings, as they were given to `fit`: the columns ``user``, ``item``
        and ``rating``. Each costs ``num_samples`` numbers twice: of many, a random thousand.
    num_samples : int
        Draws; at most as many as represent the posterior.
    seed : int

    Returns
    -------
    arviz.ELPDData
        Of ArviZ, with pointwise values: elpd and elpd_i (with ArviZ 0.x elpd_loo and loo_i), the
        log densities in rating units, or log masses of levels; se; p or p_loo, the effective
        number of parameters; pareto_k, and good_k, up to which k is harmless.

    Raises
    ------
    PMFError
        If a pair is not among the training ratings or has another rating there, or if the
        posterior is a point estimate, which says nothing of a rating left out.

    Warns
    -----
    UserWarning
        If some k are above good_k.
    """
    result = _loo(_for_loo(learned, pairs, num_samples, seed), learned)
    _warn_of_k({"": result})
    return result


def compare(
    posteriors: Mapping[str, Posterior],
    pairs: Ratings | pd.DataFrame,
    num_samples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare fitted models by leave-one-out cross-validation, see `loo`.

    Parameters
    ----------
    posteriors : mapping of str to Posterior
        At least two by name, fitted to the same ratings.
    pairs, num_samples, seed
        As for `loo`.

    Returns
    -------
    pandas.DataFrame
        One row a model, the best first, the same with every version of ArviZ: rank, from 0;
        elpd, the sum of the log predictive densities, and its standard error se; p, the effective
        number of parameters; elpd_diff, the elpd less that of the first, and its standard error
        dse; weight, of the model in a mixture that predicts best (stacking; Yao, Vehtari, Simpson
        & Gelman 2018); n_bad_k, how many of the ratings have a Pareto k above ArviZ's threshold.

    Raises
    ------
    PMFError
        As `loo`, if there is one model only, or if some give a rating a density and others a
        probability.

    Warns
    -----
    UserWarning
        If some k are above good_k. The more of them a model has, the less its row is worth.
    """
    if len(posteriors) < 2:
        raise PMFError(
            f"A comparison needs at least two posteriors by name, not {len(posteriors)}"
        )
    if len({_level_width(learned) is None for learned in posteriors.values()}) > 1:
        raise PMFError(
            "Some of these models give a rating a density, others a level a probability, and the "
            "two cannot be compared: hold ratings out and compare the log_loss of "
            "posterior.evaluate(test, levels=...)."
        )
    results = {
        name: _loo(_for_loo(learned, pairs, num_samples, seed), learned)
        for name, learned in posteriors.items()
    }
    with _without():
        table = arviz.compare(results, **({"round_to": "none"} if _IS_ARVIZ_1 else {}))
    table = table.rename(columns={"elpd_loo": "elpd", "p_loo": "p"})
    table["elpd_diff"] = table["elpd"] - table["elpd"].iloc[0]
    table["n_bad_k"] = [_bad_k(results[name]) for name in table.index]
    _warn_of_k(results)
    columns = ["rank", "elpd", "se", "p", "elpd_diff", "dse", "weight", "n_bad_k"]
    return table[columns].astype(float).astype({"rank": int, "n_bad_k": int})


def plot_ppc(
    learned: Learned, pairs: Ratings | pd.DataFrame, num_samples: int = 100, seed: int = 0
) -> Any:
    """Plot the distribution of ratings beside that of draws from the posterior predictive.

    ArviZ's plot: densities of continuous ratings; of levels with ArviZ 0.x their frequencies, with
    ArviZ 1 a rootogram (Kleiber & Zeileis 2016), whose draws are summed up by intervals; of more
    than 20 levels, such as counts, the distribution functions.

    Parameters
    ----------
    learned : Posterior
    pairs : Ratings or pandas.DataFrame
        With ratings, held-out ones or not.
    num_samples : int
        Draws to show.
    seed : int

    Returns
    -------
    matplotlib.axes.Axes or arviz_plots.PlotCollection
        What ArviZ 0.x returns, or ArviZ 1.

    Raises
    ------
    RatingsError
        If the pairs have no ratings.
    PMFError
        If matplotlib is not installed.
    """
    _require_matplotlib()
    rating = observed(pairs)
    frame = pairs.to_frame() if isinstance(pairs, Ratings) else pairs
    with isolated_random_state(seed):
        draws = _draws(learned, num_samples)
        groups = _predictions(learned, draws, frame.drop(columns="rating"))
    drawn = groups["posterior_predictive"]["rating"]
    width = _level_width(learned)
    if width is not None:  # levels go by number: ArviZ tells discrete data by integers
        low = learned.ratings.transform.origin
        rating, drawn = (np.rint((x - low) / width).astype(int) for x in (rating, drawn))
    level = np.unique(np.append(drawn, rating))
    many = width is not None and len(level) > _LEVELS
    data = _from_dict(
        {"posterior_predictive": {"rating": drawn}, "observed_data": {"rating": rating}},
        dims={"rating": ["pair"]},
    )
    # ArviZ 1 advises another plot where there are two levels, which this one shows as well, and
    # takes the levels for chains where they outnumber their summaries.
    with _without(".*look binary", "Found chain dimension"), isolated_random_state(seed):
        if not _IS_ARVIZ_1:
            shown = arviz.plot_ppc(data, kind="cumulative" if many else "kde")
        elif width is not None and not many:
            shown = arviz.plot_ppc_rootogram(data)
        else:
            kind = "ecdf" if many else "kde"
            shown = arviz.plot_ppc_dist(data, kind=kind, num_samples=len(draws))
    axes = _labelled(shown, "Rating")
    if width is not None and not many:
        middle = level if _IS_ARVIZ_1 else level + 0.5
        axes.set_xticks(middle, [f"{low + width * k:g}" for k in level])
    return shown


def plot_loo_pit(
    learned: Learned, pairs: Ratings | pd.DataFrame, num_samples: int = 1000, seed: int = 0
) -> Any:
    """Plot whether ratings fall evenly over their leave-one-out predictive distributions.

    ArviZ's plot of how far the distribution function of their probability integral transforms
    (PIT) is above that of a uniform one; with ArviZ 0.x, how far below. Of levels the PIT is
    randomised (Czado, Gneiting & Held 2009), by noise of half a level added to ratings and draws.

    Parameters
    ----------
    learned : Posterior
    pairs, num_samples, seed
        As for `loo`.

    Returns
    -------
    matplotlib.axes.Axes or arviz_plots.PlotCollection
        What ArviZ 0.x returns, or ArviZ 1.

    Raises
    ------
    PMFError
        As `loo`, and if matplotlib is not installed.

    Warns
    -----
    UserWarning
        As `loo`.
    """
    _require_matplotlib()
    data = _for_loo(learned, pairs, num_samples, seed)
    _warn_of_k({"": _loo(data, learned)})
    width = _level_width(learned)
    if width is not None:
        # ArviZ 0.x does not randomise: it interpolates between neighbouring rows.
        generator = np.random.default_rng(seed)
        for group in ("observed_data", "posterior_predictive"):
            rating = data[group]["rating"]
            rating += width * (generator.random(rating.shape) - 0.5)
    with _without(), isolated_random_state(seed):
        options = {} if _IS_ARVIZ_1 else {"y": "rating", "ecdf": True}
        shown = arviz.plot_loo_pit(data, **options)
    _labelled(shown, "LOO-PIT")
    return shown


def _labelled(shown: Any, label: str) -> Any:
    """The axes of a plot of ArviZ, with a label that its own layout would cut off."""
    axes = shown.get_viz("plot", "rating") if _IS_ARVIZ_1 else shown
    axes.set_xlabel(label)
    axes.figure.set_layout_engine("constrained")
    return axes


def _from_dict(groups: Groups, **described: Any) -> Any:
    if _IS_ARVIZ_1:
        return arviz.from_dict(groups, **described)
    return arviz.from_dict(**groups, **described)


def _draws(learned: Learned, num_samples: int | None) -> Draws:
    """Draws, chain by chain and as many of each; those that represent a posterior at most once."""
    if learned.num_draws is None:
        return list(learned.draws(num_samples or 1000))
    draws = list(learned.draws())
    chains = learned.num_chains or 1
    length = len(draws) // chains
    wanted = min(length, max(1, (num_samples or len(draws)) // chains))
    chosen = np.linspace(0, length - 1, wanted).round().astype(int)
    return [draws[chain * length + k] for chain in range(chains) for k in chosen]


def _posterior(
    learned: Learned, draws: Draws, names: Sequence[str] | None
) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Draws of sites, shape (n_chains, n_draws, ...), and the names of their other dimensions."""
    if names is None:
        names = [name for name, value in draws[0].items() if value.dim() == 0]
        return {name: _stack(learned, [draw[name] for draw in draws]) for name in names}, {}
    if isinstance(names, str):
        names = [names]
    runs = [_run(learned, draw) for draw in draws]
    known = [name for name, site in runs[0].items() if site["type"] == "sample"]
    if missing := set(names) - set(known) | {"rating"} & set(names):
        raise PMFError(f"The model has no latent site {sorted(missing)}; it has {known}.")
    dims = {}
    for name in names:
        site = runs[0][name]
        plates = sorted(site["cond_indep_stack"], key=lambda frame: frame.dim)
        event = [f"{name}_dim_{k}" for k in range(site["fn"].event_dim)]
        dims[name] = [_DIMS.get(frame.name, frame.name) for frame in plates]
        dims[name] += ["factor"] if plates and len(event) == 1 else event
    return {
        name: _stack(learned, [sites[name]["value"] for sites in runs]) for name in names
    }, dims


def _predictions(learned: Learned, draws: Draws, pairs: Ratings | pd.DataFrame) -> Groups:
    """The groups about ratings, in rating units."""
    train = learned.ratings
    where = LocatedPairs.of(learned, pairs)
    has_ratings = pairs.value is not None if isinstance(pairs, Ratings) else "rating" in pairs
    frame = pairs.to_frame() if isinstance(pairs, Ratings) else pairs
    rating = torch.from_numpy(observed(pairs)) if has_ratings else None
    predicted = torch.empty(len(draws), len(where), dtype=torch.float64)
    log_prob = torch.empty_like(predicted)
    for rows, chunk in where.chunks():
        for k, draw in enumerate(draws):
            fn = where.rating_distribution(draw, chunk)
            predicted[k, rows] = train.to_rating(fn.sample().double())
            if rating is not None:
                given = PosteriorPredictive([(1.0, fn)], train.transform)
                log_prob[k, rows] = given.log_prob(rating[rows]).double()
    groups: Groups = {
        "posterior_predictive": {"rating": _stack(learned, predicted)},
        "constant_data": {f"{name}_id": np.asarray(frame[name]) for name in ("user", "item")},
    }
    if rating is not None:
        groups["observed_data"] = {"rating": rating.numpy()}
        groups["log_likelihood"] = {"rating": _stack(learned, log_prob)}
    return groups


def _prior(learned: Learned, num_draws: int, pairs: Ratings | pd.DataFrame | None) -> Groups:
    """The groups of the model's prior, given only which pairs the training ratings are of."""
    train = learned.ratings
    first = train.user[:1], train.item[:1]
    where = LocatedPairs(learned, *first) if pairs is None else LocatedPairs.of(learned, pairs)
    rating = np.empty((1, num_draws, len(where)))
    scalars: dict[str, list[Tensor]] = {}
    for rows, chunk in where.chunks(max(1, len(where))):  # one, for all ratings are of a draw
        for k in range(num_draws):
            sites = run(learned.model, {}, chunk, where.history)
            rating[0, k, rows] = train.to_rating(sites["rating"]["fn"].sample().double().numpy())
            for name, site in sites.items():
                latent = site["type"] == "sample" and not site["is_observed"]
                if latent and name != "rating" and site["value"].dim() == 0:
                    scalars.setdefault(name, []).append(site["value"])
    groups = {"prior": {name: torch.stack(x).numpy()[None] for name, x in scalars.items()}}
    return groups if pairs is None else groups | {"prior_predictive": {"rating": rating}}


def _run(learned: Learned, latents: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Run the model at the first training pair, for the sites that are of no pair."""
    train = learned.ratings
    first = Pairs(train.user[:1], train.item[:1], train.n_users, train.n_items, dtype=train.dtype)
    return run(learned.model, latents, first, train)


def _stack(learned: Learned, draws: Sequence[Tensor] | Tensor) -> np.ndarray:
    """Draws that follow each other, as (n_chains, n_draws, ...)."""
    stacked = torch.stack(list(draws)) if not isinstance(draws, Tensor) else draws
    return stacked.unflatten(0, (learned.num_chains or 1, -1)).numpy()


def _level_width(learned: Learned) -> float | None:
    """From one level to the next, in rating units; None of continuous ratings."""
    with isolated_random_state(0):
        fn = _run(learned, next(iter(learned.draws(1))))["rating"]["fn"]
    predictive = PosteriorPredictive([(1.0, fn)], learned.ratings.transform)
    if not isinstance(predictive, DiscretePredictive):
        return None
    return predictive.spacing * predictive.width


def _for_loo(learned: Learned, pairs: Ratings | pd.DataFrame, num_samples: int, seed: int) -> Any:
    """ArviZ data of training ratings; an error if some are none, or the draws are all the same."""
    frame = pairs.to_frame() if isinstance(pairs, Ratings) else pairs
    rating, train = observed(frame), learned.ratings
    train.locate(frame)  # refuses a table without ids, or with ids of another type
    trained = train.to_frame().set_index(["user", "item"])["rating"]
    same = trained.reindex(pd.MultiIndex.from_frame(frame[["user", "item"]])).to_numpy()
    # A pair that is not there is NaN, and near nothing.
    wrong = ~np.isclose(same, rating, rtol=0, atol=1e-6 * np.diff(train.scale).item())
    if wrong.any():
        raise PMFError(
            f"{wrong.sum()} of {len(frame)} pairs are not among the training ratings, or have "
            f"another rating there; only those were there to leave out. The first:\n"
            f"{frame[wrong].head()}"
        )
    if not len(frame):
        raise PMFError("There are no pairs: give at least one.")
    data = to_arviz(learned, frame, num_samples=num_samples, seed=seed)
    if not np.ptp(data["log_likelihood"]["rating"].to_numpy(), (0, 1)).any():
        raise PMFError(
            "This is a point estimate, which says nothing of how it would be without a rating: "
            'fit with guide="normal", or hold ratings out.'
        )
    return data


def _loo(data: Any, learned: Learned) -> Any:
    # Draws that are of no chain are independent.
    efficiency = 1.0 if learned.num_chains is None else None
    with _without("Estimated shape parameter of Pareto", "The point-wise LOO is the same"):
        return arviz.loo(data, pointwise=True, reff=efficiency)


@contextmanager
def _without(*messages: str) -> Iterator[None]:
    """Leave out warnings of these beginnings, and those that ArviZ uses what others deprecate."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for message in messages:
            warnings.filterwarnings("ignore", message, UserWarning)
        yield


def _bad_k(result: Any) -> int:
    return int((result.pareto_k.to_numpy() > result.good_k).sum())


def _warn_of_k(results: Mapping[str, Any]) -> None:
    """Say what ArviZ says of high k, once and with numbers."""
    said = [
        f"{n} of {result.n_data_points}{name and f' ({name})'}"
        for name, result in results.items()
        if (n := _bad_k(result))
    ]
    if said:
        threshold = max(result.good_k for result in results.values())
        warnings.warn(
            f"Pareto k is above {threshold:.2f} for {', '.join(said)} ratings: the posterior "
            "changes too much without them for importance sampling, and their estimates are not "
            "to be relied on. More draws may help; held-out ratings do.",
            stacklevel=3,
        )


def _require_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401  # optional
    except ImportError as error:
        raise PMFError("Plots need matplotlib: pip install 'pyro-pmf[plots]'") from error
