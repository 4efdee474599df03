"""The deterministic ELBO: Gaussian latents integrated out, not sampled."""

from __future__ import annotations

import math
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.distributions.util import scale_and_mask, sum_rightmost
from pyro.infer import ELBO
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor
from torch.distributions import Distribution, HalfNormal, Independent, LogNormal, Normal

from pyro_pmf.gaussian import (
    Gaussian,
    LogGaussian,
    NoClosedForm,
    Uncertain,
    Value,
    components,
    is_random,
    mean_square_distance,
    require_independent,
)


class GaussianELBO(ELBO):
    """ELBO of a mean-field guide, with its Normal and LogNormal sites in closed form.

    The model runs unchanged, replayed against a guide trace in which each Normal site holds a
    `Gaussian` and each LogNormal site a `LogGaussian` instead of a draw. Expected log densities of
    Normal sites are then exact in their value, mean and standard deviation. The one approximation:
    the score, a sum of products of Normals, enters the sigmoid as a Gaussian with the exact mean
    and variance, by Gauss-Hermite quadrature. Sites of other families are sampled once.

    Raises
    ------
    NoClosedForm
        While evaluating, if the model does something with its latents whose moments are not known.
    """

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the ELBO."""
        return -torch.stack(list(self.terms(model, guide, *args, **kwargs).values())).sum()

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Minus the ELBO, as a number."""
        with torch.no_grad():
            return float(self.differentiable_loss(model, guide, *args, **kwargs))

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Minus the ELBO, as a number, leaving its gradient in the parameters."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward()
        return loss.item()

    def terms(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The ELBO site by site: expected log density, plus the entropy of a latent's guide."""
        model_trace, guide_trace = self._get_trace(model, guide, args, kwargs)
        terms = {
            name: _total(site, expected_log_prob(site["fn"], site["value"]))
            for name, site in model_trace.nodes.items()
            if _is_random_site(site)
        }
        for name, site in guide_trace.nodes.items():
            if _is_random_site(site):
                if name not in terms:
                    raise NoClosedForm(f"the site {name!r} of the guide, not one of the model,")
                if not site["fn"].has_rsample:
                    raise NoClosedForm(f"the guide's site {name!r}, without path-wise gradients,")
                terms[name] = terms[name] + _total(site, _entropy(site))
        return terms

    def _get_trace(self, model: Any, guide: Any, args: tuple, kwargs: dict) -> tuple[Trace, Trace]:
        return integrated_traces(model, guide, *args, **kwargs)


class _Integrate(Messenger):
    """Gives Normal sites a `Gaussian` and LogNormal sites a `LogGaussian` in place of a draw."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["infer"].get("is_auxiliary"):
            raise NoClosedForm(f"the auxiliary site {msg['name']!r} of the guide")
        fn = msg["fn"].base_dist if isinstance(msg["fn"], Independent) else msg["fn"]
        if msg["is_observed"] or not isinstance(fn, Normal | LogNormal):
            return
        if is_random(fn.base_dist if isinstance(fn, LogNormal) else fn):
            raise NoClosedForm(f"guide site {msg['name']!r} depends on another")
        family = Gaussian if isinstance(fn, Normal) else LogGaussian
        msg["value"] = family(fn.loc, fn.scale**2, frozenset({msg["name"]}))
        msg["done"] = True


def integrated_traces(model: Any, guide: Any, *args: Any, **kwargs: Any) -> tuple[Trace, Trace]:
    """Trace model and guide with Normal and LogNormal sites as random quantities, not draws."""
    with pyro.validation_enabled(False):  # it compares parameters, random ones have no order
        with _Integrate():
            guide_trace = prune_subsample_sites(poutine.trace(guide).get_trace(*args, **kwargs))
        replayed = poutine.replay(model, trace=guide_trace)
        model_trace = prune_subsample_sites(poutine.trace(replayed).get_trace(*args, **kwargs))
    return model_trace, guide_trace


def expected_log_prob(fn: Distribution, value: Value) -> Tensor:
    """E log p(value), over what is random in the value and in the distribution's parameters."""
    if isinstance(fn, Independent):
        return sum_rightmost(expected_log_prob(fn.base_dist, value), fn.reinterpreted_batch_ndims)
    if isinstance(fn, Normal):
        return _expected_normal(value, fn.loc, fn.scale)
    if not isinstance(value, Uncertain) and not is_random(fn):
        return fn.log_prob(value)
    if isinstance(value, Tensor) and hasattr(fn, "expected_log_prob"):
        return fn.expected_log_prob(value)
    if isinstance(fn, HalfNormal) and isinstance(value, LogGaussian) and not is_random(fn):
        zero = torch.zeros_like(fn.scale)
        return (
            math.log(2)
            + Normal(zero, fn.scale).log_prob(zero)
            - value.mean_square / (2 * fn.scale**2)
        )
    if isinstance(value, Uncertain):
        if is_random(fn) or fn.event_shape:
            raise NoClosedForm(f"a latent with a {type(fn).__name__} of random parameters")
        rule = value.quadrature()
        return rule.expectation(fn.log_prob(rule.nodes))
    terms = [weight * part.log_prob(value) for weight, part in components(fn)]
    return torch.stack(terms).sum(0)


def _expected_normal(value: Value, loc: Value, scale: Value) -> Tensor:
    if isinstance(scale, LogGaussian):
        mean_log, mean_precision = scale.mean_log, scale.mean_precision
    elif isinstance(scale, Uncertain):
        raise NoClosedForm(f"a standard deviation that is a {type(scale).__name__}")
    else:
        scale = _one_of_equal(scale)
        mean_log, mean_precision = scale.log(), scale**-2
    require_independent(value, loc, scale)
    distance = mean_square_distance(value, loc)
    constant = -mean_log - 0.5 * math.log(2 * math.pi)
    return torch.addcmul(constant, distance, -0.5 * mean_precision)


def _one_of_equal(x: Tensor) -> Tensor:
    """Keep one row of those that expanding a known tensor made, to compute with it once."""
    if x.requires_grad:  # it would cost its gradient more than it saves
        return x
    return x[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in x.stride())]


def _entropy(site: dict[str, Any]) -> Tensor:
    fn = site["fn"].base_dist if isinstance(site["fn"], Independent) else site["fn"]
    if isinstance(fn, Delta):
        return -fn.log_density.sum()
    if isinstance(site["value"], Uncertain):
        return site["fn"].entropy()
    return -site["fn"].log_prob(site["value"])


def _total(site: dict[str, Any], term: Tensor) -> Tensor:
    return scale_and_mask(term, site["scale"], site["mask"]).sum()


def _is_random_site(site: dict[str, Any]) -> bool:
    if site["type"] != "sample" or site["infer"].get("_deterministic"):
        return False
    return getattr(site["fn"], "_mask", None) is not False  # as one that Pyro reparametrized
