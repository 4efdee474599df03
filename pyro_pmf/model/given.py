"""The generative statement of a `PMF` run on latents that are known: without Pyro.

`PMF.state` says the model once. A `TermSampler` runs it as a Pyro model; `GivenSampler` runs the
same lines with a value, or a distribution, in place of each site. It reads nothing that threads
share, and takes a tenth of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution, Normal

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.model.likelihoods import OURS, Likelihood
from pyro_pmf.model.pmf import PMF
from pyro_pmf.model.priors import Fixed
from pyro_pmf.model.terms import TAU, Factor, SumOverSeen, Term, Terms, TermSampler
from pyro_pmf.moments.expectations import unwrapped
from pyro_pmf.moments.gaussian import Gaussian, LogGaussian, NoClosedForm, Uncertain, Value


@dataclass(frozen=True)
class Given:
    """A model run on given latents.

    Attributes
    ----------
    rating : Distribution
        Distribution of the ratings, of batch shape (..., n_pairs), on the model scale. It has
        random parameters if latents are random.
    values : dict of str to Tensor, Gaussian or LogGaussian
        The latents by site, with rows for unknown users and items.
    priors : dict of str to Normal
        Prior of each term's rows by site, if asked for.
    arguments : tuple of (Value, Value, dict of str to Value), or None
        What the likelihood was called with: score, sigma and its own latents. None if the model
        is not a `PMF`.
    """

    rating: Distribution
    values: dict[str, Value]
    priors: dict[str, Normal]
    arguments: tuple[Any, Any, dict[str, Any]] | None


class GivenSampler(TermSampler):
    """Give the terms of a model the values that are known of them.

    Parameters
    ----------
    model : PMF
        The model.
    latents : mapping of str to Tensor, Gaussian or LogGaussian
        Each latent site. The rows of terms may have leading dimensions; see `in_one_batch`.
    pairs : Pairs
        The pairs to score.
    with_priors : bool
        Whether to compute the priors of rows, from which unknown rows are drawn. Without them,
        each user and item of ``pairs`` needs its row.

    Attributes
    ----------
    values, priors
        See `Given`.
    """

    def __init__(
        self, model: PMF, latents: Mapping[str, Value], pairs: Pairs, with_priors: bool
    ) -> None:
        super().__init__(model.terms, model.priors, model.n_factors, pairs)
        self._latents, self._with_priors = latents, with_priors
        self.values: dict[str, Value] = {}
        self.priors: dict[str, Normal] = {}

    def own(self, likelihood: Likelihood) -> dict[str, Any]:
        """Return the likelihood's own latents."""
        self.values |= {name: self._latents[name] for name in likelihood.sites}
        return likelihood.given(self._latents)

    def rows(self, site: str, sd: Any, tau: Any = None, means: tuple[Any, ...] = ()) -> Any:
        """Return the rows of a term, or None if the model lacks the term, or none needs them."""
        term = self._terms.of_site(site)
        if self._with_priors or term is None:
            return super().rows(site, sd, tau, means)
        self.values[site] = self._latents[site]
        return None if isinstance(term, SumOverSeen) else self._latents[site]

    def _scalar(self, name: str, like: Tensor) -> Any:
        prior = self._priors.of(name, self._n_factors)
        if isinstance(prior, Fixed):
            value: Value = like.new_tensor(prior.value).expand(like.shape)
        else:
            value = self._latents[name]
        self.values[name] = value
        return value

    def _normal(self, loc: Any, scale: Any) -> Any:
        return dist.Normal(loc, scale, validate_args=False)  # they may be random quantities

    def _mean_value(self, term: Factor, prior: Normal) -> Any:
        value = self.values[term.mean] = self._latents[term.mean]
        return value

    def _row_values(self, term: Term, prior: Normal) -> Any:
        known = self._latents[term.site]
        shape = (self._sizes[term.plate], *((self._n_factors,) if term.is_vector else ()))
        lead = known.shape[: len(known.shape) - len(shape)]
        prior = prior.expand(torch.Size((*lead, *shape)))
        value = with_unknown_rows(known, prior, term.site)
        self.priors[term.site], self.values[term.site] = prior, value
        return value


def given_latents(
    model: PMF,
    latents: Mapping[str, Value],
    pairs: Pairs,
    history: Pairs,
    with_priors: bool = False,
) -> Given:
    """Run the statement of a `PMF` on given latents, without Pyro.

    Parameters
    ----------
    model, latents, pairs, history
        As for `running.given`; a model that `is_plain`.
    with_priors : bool
        Whether to return the priors of rows.

    Returns
    -------
    Given
    """
    values: dict[str, Value] = dict(latents)
    terms = model.terms
    if not with_priors:
        if lacks_rows(terms, latents, pairs):
            # the rows of strangers are drawn for the whole matrix, whichever pairs are asked
            values |= given_latents(model, latents, pairs, history, True).values
        values, pairs = rows_of_pairs(terms, values, pairs)
        history = pairs
    sample = GivenSampler(model, values, pairs, with_priors)
    with torch.no_grad():
        score, sigma, own = model.state(sample, history)
        rating = model.likelihood(score, sigma, **own)
    return Given(rating, sample.values, sample.priors, (score, sigma, own))


def is_plain(model: Callable[..., Any], latents: Mapping[str, Value]) -> TypeGuard[PMF]:
    """Return whether a model is a `PMF` with a likelihood of this package, and all is given."""
    if type(model) is not PMF or type(model.likelihood) not in OURS:
        return False
    likelihood, terms = model.likelihood, model.terms
    needed = {term.site for term in terms} | likelihood.sites | set(model.mean_sites)
    scalars = {term.scale for term in terms}
    scalars |= {TAU} if terms.factors else set()
    scalars |= {"sigma"} if likelihood.has_sigma else set()
    scalars |= {"mu"} if likelihood.has_mu else set()
    missing = scalars - latents.keys()
    return needed <= latents.keys() and all(
        isinstance(model.priors.of(name, model.n_factors), Fixed) for name in missing
    )


def in_one_batch(terms: Terms, draws: Mapping[str, Tensor]) -> dict[str, Value]:
    """Return draws in the shapes in which a model runs on all of them at once.

    Parameters
    ----------
    terms : Terms
        The terms of the model.
    draws : mapping of str to Tensor, shape (n_draws, ...)
        Draws of each latent site.

    Returns
    -------
    dict of str to Tensor
        Scalars have shape (n_draws, 1), rows of factors (n_draws, n_rows, n_factors).
    """
    return {
        site: x[:, None] if terms.of_site(site) is None else x
        for site, x in draws.items()
        if isinstance(x, Tensor)
    }


def lacks_rows(terms: Terms, latents: Mapping[str, Value], pairs: Pairs) -> bool:
    """Return whether a user or item of the matrix of some pairs has no row."""
    sizes = {"users": pairs.n_users, "items": pairs.n_items}
    return any(
        latents[term.site].shape[-2 if term.is_vector else -1] != sizes[term.plate]
        for term in terms
    )


def rows_of_pairs(
    terms: Terms, latents: Mapping[str, Value], pairs: Pairs
) -> tuple[dict[str, Value], Pairs]:
    """Return the latents of the users and items of some pairs, and the pairs among these.

    Parameters
    ----------
    terms : Terms
        The terms of the model.
    latents : mapping of str to Tensor, Gaussian or LogGaussian
        With a row for each user and item of the matrix of ``pairs``.
    pairs : Pairs
        Some pairs, by user.
    """
    users, user = pairs.user.unique(return_inverse=True)
    items, item = pairs.item.unique(return_inverse=True)
    index = {"users": users, "items": items}
    chosen = dict(latents)
    for term in terms:
        axis = -2 if term.is_vector else -1
        chosen[term.site] = _select(latents[term.site], axis, index[term.plate])
    return chosen, Pairs(user, item, len(users), len(items), dtype=pairs.dtype)


def _select(value: Value, axis: int, index: Tensor) -> Value:
    if isinstance(value, Uncertain):
        return value.map(lambda x: x.index_select(axis, index))
    return value.index_select(axis, index)


def with_unknown_rows(value: Value, prior: Distribution, site: str) -> Value:
    """Append rows from the prior for users or items without learnt rows.

    Parameters
    ----------
    value : Tensor, Gaussian or LogGaussian
        The rows that are known; tensors get rows that are drawn from torch's random state.
    prior : Distribution
        Prior of all rows.
    site : str
        Name of the site, for messages.

    Raises
    ------
    NoClosedForm
        If rows are missing, the others are random, and the prior is not Normal.
    """
    wanted = prior.batch_shape + prior.event_shape
    if value.shape == wanted:
        return value
    axis = next(d for d, (n, m) in enumerate(zip(value.shape, wanted, strict=True)) if n != m)
    n_known, n_unknown = value.shape[axis], wanted[axis] - value.shape[axis]

    def append(known: Tensor, new: Tensor) -> Tensor:
        return torch.cat([known, new.expand(wanted).narrow(axis, n_known, n_unknown)], axis)

    if isinstance(value, Tensor):
        return append(value, prior.sample())
    base = unwrapped(prior)
    if not (isinstance(value, Gaussian) and isinstance(base, Normal)):
        raise NoClosedForm(f"the prior of site {site!r} for an unknown user or item")
    mean, var = _prior_moments(base)
    return Gaussian(append(value.mean, mean), append(value.var, var), value.sites)


def _prior_moments(prior: Normal) -> tuple[Tensor, Tensor]:
    """Return mean and variance of a Normal, over its random parameters."""
    loc, scale = prior.loc, prior.scale
    var = scale.mean_square if isinstance(scale, LogGaussian) else scale**2
    if isinstance(loc, Uncertain):
        return loc.mean, var + loc.var
    return loc, var
