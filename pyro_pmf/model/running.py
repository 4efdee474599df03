"""Run a model: return its sites, or the distribution of ratings given its latents."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor
from torch.distributions import Distribution

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.errors import FitError
from pyro_pmf.isolation import alone
from pyro_pmf.model.given import Given, given_latents, is_plain, with_unknown_rows
from pyro_pmf.model.likelihoods import OURS, Likelihood, fault_of, likelihood_of
from pyro_pmf.model.pmf import PMF
from pyro_pmf.model.terms import terms_of
from pyro_pmf.moments.expectations import unwrapped
from pyro_pmf.moments.gaussian import Value

Site = dict[str, Any]


def trace_of(model: Callable[..., Any], *args: Any, **kwargs: Any) -> Trace:
    """Run a model or a guide; return its trace without the subsampling sites of plates.

    Parameters
    ----------
    model : callable
        A Pyro model or guide.
    *args, **kwargs
        Its arguments.
    """
    return prune_subsample_sites(poutine.trace(model).get_trace(*args, **kwargs))


def sites_of(model: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Site]:
    """Run a model or a guide; return its sites by name; parameters as for `trace_of`."""
    return trace_of(model, *args, **kwargs).nodes


def is_latent(site: Site) -> bool:
    """Return whether a site is sampled and not observed."""
    return site["type"] == "sample" and not site["is_observed"]


def require_possible(model: Callable[..., Any], ratings: Pairs) -> dict[str, Any]:
    """Run a model on ratings, and check that it can produce them.

    Parameters
    ----------
    model : callable
        A Pyro model.
    ratings : Pairs
        The training ratings, with values.

    Returns
    -------
    dict of str to dict
        Pyro's sites by name.

    Raises
    ------
    FitError
        If the likelihood cannot produce a rating, or no site ``rating`` is observed.
    """
    assert ratings.value is not None  # checked by `fit`
    likelihood = likelihood_of(model)
    if likelihood is not None and (fault := fault_of(likelihood, ratings.value)):
        raise FitError(f"Some ratings {fault}: {likelihood} cannot produce them.")
    # a PMF shows its latents on any rating; models of one's own may see all ratings at once
    given = {"history": ratings} if runs_in_parts(model) else {}
    sites = sites_of(model, ratings.first_pair() if given else ratings, **given)
    if "rating" not in sites or not sites["rating"].get("is_observed"):
        raise FitError(
            "The model needs a site 'rating' that is observed at the values of the ratings: "
            'pyro.sample("rating", ..., obs=ratings.value).'
        )
    return sites


def runs_in_parts(model: Callable[..., Any]) -> TypeGuard[PMF]:
    """Return whether a model is a `PMF` of this package: ratings are independent given latents."""
    return type(model) is PMF and type(model.likelihood) in OURS


def run(
    model: Callable[..., Any], latents: Mapping[str, Value], pairs: Pairs, history: Pairs
) -> dict[str, dict[str, Any]]:
    """Run a model with given values or distributions of its latents.

    Parameters
    ----------
    model : callable
        A Pyro model with a site ``rating``.
    latents : mapping of str to Tensor, Gaussian or LogGaussian
        Each latent site, in the shape that it has on the training ratings.
    pairs : Pairs
        The pairs to predict. Their matrix may have more users or items than the latents have
        rows; the rows of unknown users and items come from the prior.
    history : Pairs
        The training ratings, for I_ij.

    Returns
    -------
    dict of str to dict
        Pyro's sites by name. The distribution of the site ``rating``, of batch shape (n_pairs,),
        has random parameters if the latents are random. The value of this site is a placeholder.

    Raises
    ------
    NoClosedForm
        If the model applies an unsupported operation to a random latent, or the prior of an
        unknown row is not Normal.
    """
    given = {"history": history} if takes_history(model) else {}
    with alone(), _Given(latents), torch.no_grad(), pyro.validation_enabled(False):
        return sites_of(model, pairs.without_values(), **given)


def takes_history(model: Callable[..., Any]) -> bool:
    """Return whether a model takes the argument ``history``, the pairs with I_ij = 1."""
    return "history" in inspect.signature(model).parameters


def with_history(model: Callable[..., Any], history: Pairs | None) -> Callable[..., Any]:
    """Return a model whose I_ij stands for these pairs, whatever ratings it is run on.

    Parameters
    ----------
    model : callable
        A Pyro model that takes ``history``.
    history : Pairs or None
        All pairs with I_ij = 1, on the device of the fit; with None the model is unchanged.
    """
    return model if history is None else _WithHistory(model, history)


@dataclass(frozen=True)
class _WithHistory:
    """A model with a history of its own. Its attributes are those of the model inside."""

    inner: Callable[..., Any]
    seen: Pairs

    def __call__(self, ratings: Pairs, history: Pairs | None = None) -> Any:
        return self.inner(ratings, history=self.seen)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in ("inner", "seen"):  # not yet there while unpickling
            raise AttributeError(name)
        return getattr(self.inner, name)


def given(
    model: Callable[..., Any],
    latents: Mapping[str, Value],
    pairs: Pairs,
    history: Pairs,
    with_priors: bool = False,
) -> Given:
    """Return the distribution of ratings, and all that it depends on, given the latents.

    A `PMF` with a likelihood of this package runs without Pyro, which threads may do at once. For
    any other model, threads wait for each other.

    Parameters
    ----------
    model, latents, pairs, history
        As for `run`.
    with_priors : bool
        Whether to return the priors of the rows of terms.

    Returns
    -------
    Given

    Raises
    ------
    NoClosedForm
        As for `run`.
    """
    if is_plain(model, latents):
        return given_latents(model, latents, pairs, history, with_priors)
    arguments = None
    if isinstance(model, PMF):
        listening = _Listening(model.likelihood)
        overheard = copy.copy(model)
        object.__setattr__(overheard, "likelihood", listening)  # models are frozen
        sites = run(overheard, latents, pairs, history)
        arguments = listening.heard
    else:
        sites = run(model, latents, pairs, history)
    priors = {
        term.site: unwrapped(sites[term.site]["fn"])
        for term in (terms_of(model) if with_priors else ())
    }
    values = {name: site["value"] for name, site in sites.items() if site["type"] == "sample"}
    return Given(sites["rating"]["fn"], values, priors, arguments)


def information(
    model: PMF, latents: Mapping[str, Tensor], pairs: Pairs, history: Pairs
) -> tuple[Tensor, Given]:
    """Return the information that the rating of each pair has about its score.

    Parameters
    ----------
    model : PMF
        The model.
    latents : mapping of str to Tensor
        Value of each latent site.
    pairs : Pairs
        Some pairs of the training matrix.
    history : Pairs
        The pairs with I_ij = 1.

    Returns
    -------
    information : Tensor, shape (n_pairs,)
        See `Likelihood.information`.
    given : Given
        The model run on the latents, with priors.
    """
    at = given(model, latents, pairs, history, with_priors=True)
    assert at.arguments is not None  # a PMF calls its likelihood
    score, sigma, own = at.arguments
    if type(model.likelihood) in OURS:
        found = model.likelihood.information(score, sigma, **own)
    else:
        with alone(), pyro.validation_enabled(False):
            found = model.likelihood.information(score, sigma, **own)
    return found.expand(score.shape), at


def rating_of(model: PMF, score: Any, sigma: Any, own: Mapping[str, Any]) -> Distribution:
    """Return the distribution of ratings that the likelihood of a model gives to some scores.

    Parameters
    ----------
    model : PMF
        The model.
    score, sigma : Tensor or Uncertain, shape (n,)
        Score and noise.
    own : mapping of str to Tensor
        The likelihood's own latents.

    Returns
    -------
    Distribution
        On the model scale, of batch shape (n,), with random parameters if an argument is random.
    """
    if type(model.likelihood) in OURS:
        return model.likelihood(score, sigma, **own)
    with alone(), pyro.validation_enabled(False):
        return model.likelihood(score, sigma, **own)


class _Listening(Likelihood):
    """A likelihood that keeps the arguments of its last call."""

    def __init__(self, inner: Likelihood) -> None:
        self.inner = inner
        self.has_sigma, self.has_mu = inner.has_sigma, inner.has_mu  # type: ignore[misc]
        self.has_bounds = inner.has_bounds  # type: ignore[misc]
        self.heard: tuple[Tensor, Tensor, dict[str, Tensor]] | None = None

    def __call__(self, score: Tensor, sigma: Tensor, **own: Tensor) -> dist.Distribution:
        self.heard = score, sigma, own
        return self.inner(score, sigma, **own)

    def latents(self, zero: Tensor) -> dict[str, Tensor]:
        return self.inner.latents(zero)


class _Given(Messenger):
    """Set the value of each given latent site, and do not sample the site ``rating``."""

    def __init__(self, latents: Mapping[str, Value]) -> None:
        super().__init__()
        self.latents = latents

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] == "rating":
            msg["value"] = torch.zeros(msg["fn"].batch_shape)
        elif msg["name"] in self.latents and not msg["is_observed"]:
            msg["value"] = with_unknown_rows(self.latents[msg["name"]], msg["fn"], msg["name"])
        else:
            return
        msg["done"] = True
