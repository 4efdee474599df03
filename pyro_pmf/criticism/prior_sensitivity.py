"""Sensitivity of predictions and parameters to priors and likelihood, by power scaling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyro_pmf.arguments import require_integer
from pyro_pmf.errors import PMFError, warn
from pyro_pmf.model.identified import quantities, sampled_pairs
from pyro_pmf.model.learned import Learned
from pyro_pmf.model.running import Site, is_latent, run
from pyro_pmf.prediction import arviz_versions
from pyro_pmf.prediction.inference_data import run_at_first
from pyro_pmf.prediction.located import LocatedPairs
from pyro_pmf.random_state import isolated_random_state

_THRESHOLD = 0.05  # of Kallioinen et al.: a mean moves by about 0.3 sd if the power is doubled
_POWERS = 1.25, 1.1, 1.04, 1.016, 1.006  # the sensitivity is per doubling, whatever the power


def prior_sensitivity(
    learned: Learned,
    n_pairs: int = 50,
    priors: Sequence[str] | None = None,
    n_draws: int = 500,
    seed: int = 0,
) -> pd.DataFrame:
    """Say how much predictions and parameters depend on the priors, and on the ratings.

    The priors of the scalar parameters, or the likelihood, are raised to the powers 0.8 and 1.25.
    Pareto-smoothed importance sampling reweights the draws, without a refit, and the distance of
    the two distributions of a quantity is its sensitivity (Kallioinen, Paananen, Bürkner &
    Vehtari, Statistics and Computing 2024). The Normal priors of rows are part of the model and
    stay.

    With many ratings, the power 1.25 changes the posterior too much for importance sampling. The
    largest of the powers 1.25, 1.1, 1.04, 1.016 and 1.006 whose weights are reliable is taken. It
    is in ``attrs["powers"]``. The sensitivity is per doubling of the power, so that it means the
    same for each.

    Parameters
    ----------
    learned : Posterior
        Result of a fit.
    n_pairs : int
        Number of training pairs, and of random pairs, whose mean ratings are looked at.
    priors : sequence of str, optional
        Sites whose priors are scaled, such as ``["sigma_b"]``; by default all scalar parameters.
    n_draws : int
        Number of draws of a posterior in closed form. Markov chains use all of theirs.
    seed : int
        Seed of the draws and of the choice of pairs.

    Returns
    -------
    pandas.DataFrame
        One row per quantity that varies: mean ratings of pairs given the latents, and the
        parameters of `Posterior.diagnostics`. Columns: quantity; prior and likelihood, the
        cumulative Jensen-Shannon distance per doubling of the power; diagnosis.
        "prior-data conflict": both are above 0.05, so prior and ratings pull. "strong prior / weak
        likelihood": only the prior is. "-": neither.

    Raises
    ------
    PMFError
        If an argument is not valid, a site of ``priors`` has no prior, or the posterior is a point
        estimate, whose equal draws cannot be reweighted.

    Warns
    -----
    UserWarning
        If no power gives reliable weights.

    Examples
    --------
    >>> from pyro_pmf import PMF, Gibbs, fit
    >>> from pyro_pmf.datasets import simulate
    >>> model = PMF(0, noise="shared")
    >>> ratings, _ = simulate(model, n_users=8, n_items=6, n_ratings=40)
    >>> posterior = fit(model, ratings, Gibbs(n_draws=50), progress=False)
    >>> table = prior_sensitivity(posterior, n_pairs=3)
    >>> list(table)
    ['quantity', 'prior', 'likelihood', 'diagnosis']
    """
    require_integer("n_pairs", n_pairs)
    require_integer("n_draws", n_draws)
    with isolated_random_state(seed):
        given = None if learned.n_draws is not None else n_draws
        draws = list(learned.draws(given))
    values, log_prior = _means_and_priors(learned, draws, n_pairs, priors, seed)
    stacked = {site: torch.stack([draw[site] for draw in draws]) for site in draws[0]}
    found = quantities(learned.model, learned.ratings, stacked, 1, seed, learned.seen)
    values = pd.concat([found["parameter"], values], axis=1)
    values = values.loc[:, values.std() > 1e-9 * values.abs().mean()]
    if values.empty:
        raise PMFError(
            "Sensitivity needs draws from a posterior, and this is a point estimate: fit with "
            'method="vi" or with a sampler.'
        )
    n_chains = learned.n_chains or 1
    by_chain = values.to_numpy(float).reshape(n_chains, -1, values.shape[1])
    table = pd.DataFrame({"quantity": values.columns})
    powers = {}
    components = {"prior": log_prior, "likelihood": _log_likelihood(learned, draws)}
    for name, log_component in components.items():
        powers[name] = _power(log_component, name)
        log_by_chain = log_component.reshape(n_chains, -1)
        table[name] = arviz_versions.power_scaling(by_chain, log_by_chain, powers[name])
    table["diagnosis"] = _diagnosis(table["prior"], table["likelihood"])
    table.attrs["powers"] = powers
    return table


def _means_and_priors(
    learned: Learned,
    draws: list[dict[str, Tensor]],
    n_pairs: int,
    priors: Sequence[str] | None,
    seed: int,
) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the mean ratings of some pairs and the log prior density given each draw."""
    train = learned.ratings
    user, item = sampled_pairs(train, n_pairs, np.random.default_rng(seed))
    where = LocatedPairs(learned, user, item)
    means, log_prior = np.empty((len(draws), len(user))), np.empty(len(draws))
    ((rows, pairs),) = where.chunks(max(1, len(user)))
    known: set[str] = set()
    for k, draw in enumerate(draws):
        fn = where.rating_distribution(draw, pairs)
        of = train.transform
        means[k, rows] = of.origin + of.width * of.mean(fn).double().numpy()
        sites = run_at_first(learned, draw)
        scalars = {name: site for name, site in sites.items() if _is_scalar(name, site)}
        for name in getattr(learned.model, "mean_sites", ()):
            scalars.pop(name, None)  # the prior of a mean has the scales of the rows
        known |= scalars.keys()
        log_prior[k] = sum(
            float(site["fn"].log_prob(site["value"]).sum())
            for name, site in scalars.items()
            if priors is None or name in priors
        )
    if missing := set(priors or ()) - known:
        raise PMFError(
            f"The model has no prior of a scalar parameter {sorted(missing)}: give some of "
            f"{sorted(known)}."
        )
    ids = zip(train.user_ids[user.numpy()], train.item_ids[item.numpy()], strict=True)
    names = [f"mean rating of {u}, {i}" for u, i in ids]
    return pd.DataFrame(means, columns=names), log_prior


def _is_scalar(name: str, site: Site) -> bool:
    """Return whether a site is a parameter, and not rows of users or items."""
    return is_latent(site) and name != "rating" and not site["cond_indep_stack"]


def _log_likelihood(learned: Learned, draws: list[dict[str, Tensor]]) -> np.ndarray:
    """Return the log likelihood of the training ratings given each draw."""
    if learned.n_chains is not None and learned.ratings.rating is None:
        return learned.steps["log_likelihood"].to_numpy(float)  # of the fit
    learned.require_training_ratings("prior_sensitivity")
    train = learned.ratings
    fns = (run(learned.model, draw, train, learned.seen)["rating"]["fn"] for draw in draws)
    return np.array([float(fn.log_prob(train.value).double().sum()) for fn in fns])


def _power(log_component: np.ndarray, name: str) -> float:
    """Return the largest power, up to 1.25, whose importance weights are reliable."""
    if np.ptp(log_component) == 0:
        return _POWERS[0]
    reliable = min(1 - 1 / np.log10(max(len(log_component), 11)), 0.7)
    for power in _POWERS:
        exponents = power - 1, 1 / power - 1
        k = max(arviz_versions.pareto_k(x * log_component) for x in exponents)
        if k <= reliable:
            return power
    warn(
        f"Importance weights of the {name} are unreliable even at the power {power}: Pareto k is "
        f"{k:.2f}. Fit with more draws, or give n_draws, before you read this column."
    )
    return power


def _diagnosis(prior: pd.Series, likelihood: pd.Series) -> np.ndarray:
    by_prior, by_likelihood = prior >= _THRESHOLD, likelihood >= _THRESHOLD
    return np.select(
        [by_prior & by_likelihood, by_prior],
        ["prior-data conflict", "strong prior / weak likelihood"],
        "-",
    )
