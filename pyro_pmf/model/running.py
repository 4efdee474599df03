"""Run a model: return its sites, or the distribution of ratings given its latents."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor
from torch.distributions import Distribution, Normal

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.errors import FitError
from pyro_pmf.model.likelihoods import Likelihood, likelihood_of
from pyro_pmf.moments.expectations import unwrapped
from pyro_pmf.moments.gaussian import Gaussian, LogGaussian, NoClosedForm, Uncertain, Value

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
    if likelihood is not None and (fault := likelihood.fault(ratings.value)):
        raise FitError(f"Some ratings {fault}: {likelihood} cannot produce them.")
    sites = sites_of(model, ratings)
    if "rating" not in sites or not sites["rating"].get("is_observed"):
        raise FitError(
            "The model needs a site 'rating' that is observed at the values of the ratings: "
            'pyro.sample("rating", ..., obs=ratings.value).'
        )
    return sites


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
    with _Given(latents), torch.no_grad(), pyro.validation_enabled(False):
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


def information(
    model: Callable[..., Any], latents: Mapping[str, Tensor], pairs: Pairs, history: Pairs
) -> tuple[Tensor, dict[str, dict[str, Any]]]:
    """Return the information that the rating of each pair has about its score.

    Parameters
    ----------
    model : callable
        A `PMF`, or another model with an attribute ``likelihood`` that it calls.
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
    sites : dict of str to dict
        Pyro's sites by name, see `run`.
    """
    (score, sigma, own), sites = heard(model, latents, pairs, history)
    likelihood = likelihood_of(model)
    assert likelihood is not None  # `heard` asked it
    with pyro.validation_enabled(False):
        found = likelihood.information(score, sigma, **own)
    return found.expand(score.shape), sites


def heard(
    model: Callable[..., Any], latents: Mapping[str, Value], pairs: Pairs, history: Pairs
) -> tuple[tuple[Any, Any, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Return the arguments that a model gives to its likelihood.

    Parameters
    ----------
    model : callable
        A `PMF`, or another model with an attribute ``likelihood`` that it calls.
    latents, pairs, history
        As for `run`.

    Returns
    -------
    arguments : tuple of (Value, Value, dict of str to Value)
        Score and sigma of each pair, and the likelihood's own latents.
    sites : dict of str to dict
        Pyro's sites by name, see `run`.
    """
    likelihood = likelihood_of(model)
    assert likelihood is not None  # the caller has a model with one
    listening = _Listening(likelihood)
    overheard = copy.copy(model)
    object.__setattr__(overheard, "likelihood", listening)  # models may be frozen
    sites = run(overheard, latents, pairs, history)
    return listening.heard, sites


class _Listening(Likelihood):
    """A likelihood that keeps the arguments of its last call."""

    def __init__(self, inner: Likelihood) -> None:
        self.inner = inner
        self.has_sigma, self.has_mu = inner.has_sigma, inner.has_mu  # type: ignore[misc]
        self.has_bounds = inner.has_bounds  # type: ignore[misc]
        self.heard: tuple[Tensor, Tensor, dict[str, Tensor]]

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
            msg["value"] = _with_unknown_rows(self.latents[msg["name"]], msg["fn"], msg["name"])
        else:
            return
        msg["done"] = True


def _with_unknown_rows(value: Value, prior: Distribution, site: str) -> Value:
    """Append rows from the prior for users or items without learnt rows."""
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
