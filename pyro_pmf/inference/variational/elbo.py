"""The deterministic ELBO: Gaussian latents are integrated out, not sampled."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.distributions.util import scale_and_mask
from pyro.infer import ELBO
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import LogNormal, Normal

from pyro_pmf.internals import is_reparametrized
from pyro_pmf.model.running import trace_of
from pyro_pmf.moments.expectations import expected_log_prob, is_random, unwrapped
from pyro_pmf.moments.gaussian import Gaussian, LogGaussian, NoClosedForm, Uncertain


class GaussianELBO(ELBO):
    """ELBO of a mean-field guide, with its Normal and LogNormal sites in closed form.

    The model runs unchanged. It is replayed against a guide trace in which each Normal site holds
    a `Gaussian` and each LogNormal site a `LogGaussian` instead of a draw. Expected log densities
    of Normal sites are then exact in their value, mean and standard deviation. There is one
    approximation: the score, a sum of products of Normals, enters the sigmoid as a Gaussian with
    the exact mean and variance, by Gauss-Hermite quadrature. Sites of other families are sampled
    once.

    Every method takes ``model`` and ``guide`` (Pyro callables), and the arguments that both are
    called with.

    Raises
    ------
    NoClosedForm
        On evaluation, if the model applies an operation to its latents whose moments are unknown.
    """

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the ELBO, in nats, shape ()."""
        return -torch.stack(list(self.terms(model, guide, *args, **kwargs).values())).sum()

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Return minus the ELBO as a number, in nats."""
        with torch.no_grad():
            return float(self.differentiable_loss(model, guide, *args, **kwargs))

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Return minus the ELBO as a number, and add its gradient to the parameters."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward()
        return loss.item()

    def terms(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return the ELBO by site: expected log density, plus the entropy of a latent's guide."""
        return elbo_by_site(*self._get_trace(model, guide, args, kwargs))

    def _get_trace(self, model: Any, guide: Any, args: tuple, kwargs: dict) -> tuple[Trace, Trace]:
        return integrated_traces(model, guide, *args, **kwargs)


class _Integrate(Messenger):
    """Give Normal sites a `Gaussian` and LogNormal sites a `LogGaussian` in place of a draw."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["infer"].get("is_auxiliary"):
            raise NoClosedForm(f"the auxiliary site {msg['name']!r} of the guide")
        fn = unwrapped(msg["fn"])
        if msg["is_observed"] or not isinstance(fn, Normal | LogNormal):
            return
        if is_random(fn.base_dist if isinstance(fn, LogNormal) else fn):
            raise NoClosedForm(f"the guide's site {msg['name']!r}, which depends on another,")
        family = Gaussian if isinstance(fn, Normal) else LogGaussian
        msg["value"] = family(fn.loc, fn.scale**2, frozenset({msg["name"]}))
        msg["done"] = True


def integrated_traces(model: Any, guide: Any, *args: Any, **kwargs: Any) -> tuple[Trace, Trace]:
    """Trace model and guide with Normal and LogNormal sites as random quantities, not draws.

    Parameters
    ----------
    model, guide : callable
        A Pyro model and its guide.
    *args, **kwargs
        Arguments that both are called with.

    Returns
    -------
    model_trace, guide_trace : Trace
        Traces of both.

    Raises
    ------
    NoClosedForm
        If the model or the guide does not allow it.
    """
    with pyro.validation_enabled(False):  # it compares parameters, and random ones have no order
        with _Integrate():
            guide_trace = trace_of(guide, *args, **kwargs)
        replayed = poutine.replay(model, trace=guide_trace)
        try:
            model_trace = trace_of(replayed, *args, **kwargs)
        except TypeError as error:
            if str(error) == "'Tensor' object is not callable":  # these are moments, no methods
                raise NoClosedForm("mean() or var() of a random quantity") from error
            raise
    return model_trace, guide_trace


def elbo_by_site(model_trace: Trace, guide_trace: Trace) -> dict[str, Tensor]:
    """Return the parts of the ELBO; parameters and errors are those of `GaussianELBO.terms`."""
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


def _entropy(site: dict[str, Any]) -> Tensor:
    fn = unwrapped(site["fn"])
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
    return not is_reparametrized(site["fn"])
