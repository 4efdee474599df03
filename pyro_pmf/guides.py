"""Guides: the families of distributions that a posterior is approximated by."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.infer.autoguide.initialization import init_to_feasible
from pyro.infer.autoguide.utils import deep_setattr
from pyro.nn import PyroParam
from torch import Tensor
from torch.distributions import biject_to, constraints

_INITIAL_SPREAD = 0.1  # of real sites, on the scale of their values
_INITIAL_GLOBAL_SCALE = 0.01  # guide's standard deviation of sites outside all plates


class NormalGuide(AutoNormal):
    """Mean-field Normal guide whose sites are the distributions themselves.

    A real site is Normal and a positive one LogNormal, independent of all others, with the
    parameters of Pyro's `AutoNormal`; shares that sum to one, which are few and which all ratings
    inform, are a point estimate. AutoNormal samples an auxiliary unconstrained site and makes
    the latent a Delta at its transform, which hides the family; here it can be read off the site,
    as the deterministic ELBO does. Standard deviations are optimised by their logarithms.
    """

    scale_constraint = constraints.positive

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        for name, site in self.prototype_trace.iter_stochastic_nodes():
            if not site["cond_indep_stack"]:  # informed by all of the data
                loc, _ = self._get_loc_and_scale(name)
                scale = PyroParam(
                    torch.full_like(loc, _INITIAL_GLOBAL_SCALE),
                    self.scale_constraint,
                    self._event_dims[name],
                )
                deep_setattr(self.scales, name, scale)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Sample every site; arguments as those of the model."""
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        plates = self._create_plates(*args, **kwargs)
        values = {}
        for name, site in self.prototype_trace.iter_stochastic_nodes():
            with ExitStack() as stack:
                for frame in site["cond_indep_stack"]:
                    if frame.vectorized:
                        stack.enter_context(plates[frame.name])
                values[name] = pyro.sample(name, self._site(name, site["fn"].support))
        return values

    def inverse_fisher(self, parameter: str) -> Tensor:
        """Inverse of the Fisher information of a parameter, which is diagonal.

        Parameters
        ----------
        parameter : str
            Its name in Pyro's parameter store, of a mean or of a (log) standard deviation.

        Returns
        -------
        Tensor, of the parameter's shape

        Raises
        ------
        KeyError
            If it is not a parameter of this guide.
        """
        kind, site = self._own_parameters()[parameter]
        scale = self._get_loc_and_scale(site)[1].detach()
        return scale**2 if kind == "locs" else torch.full_like(scale, 0.5)

    def owns(self, parameters: Iterable[str]) -> bool:
        """Whether these parameters are all of this guide, and none of the model."""
        return self._own_parameters().keys() >= set(parameters)

    def _own_parameters(self) -> dict[str, tuple[str, str]]:
        """Kind and site of each parameter, by its name in Pyro's parameter store."""
        sites = [site for site, _ in self.prototype_trace.iter_stochastic_nodes()]
        return {
            f"{self._pyro_name}.{kind}.{site}": (kind, site)
            for kind in ("locs", "scales")
            for site in sites
        }

    def _site(self, name: str, support: constraints.Constraint) -> dist.Distribution:
        loc, scale = self._get_loc_and_scale(name)
        if is_positive(support):
            return dist.LogNormal(loc, scale).to_event(support.event_dim)
        normal = dist.Normal(loc, scale).to_event(self._event_dims[name])
        if is_real(support):
            return normal
        if _base(support) is constraints.simplex:
            # By its density over unconstrained numbers: over shares, that of one which no rating
            # has grows without bound in its logarithm, and it would never stop shrinking.
            transform = biject_to(support)
            value = transform(loc)
            density = -transform.log_abs_det_jacobian(loc, value)
            return dist.Delta(value, density, event_dim=1)
        return dist.TransformedDistribution(normal, [biject_to(support)])


def initial_value(site: dict[str, Any]) -> Tensor:
    """Where the search begins: standard deviations small, all else near the prior mean.

    Near it but not at it: U = V = 0 is a saddle of the ELBO with exactly zero gradient.
    """
    fn = site["fn"]
    if not (is_real(fn.support) or is_positive(fn.support)):
        return init_to_feasible(site)
    with torch.no_grad():
        mean = fn.mean.expand(fn.shape())
        if is_real(fn.support):
            return mean.nan_to_num(0.0, 0.0, 0.0) + _INITIAL_SPREAD * torch.randn_like(mean)
        return 0.4 * mean.nan_to_num(1.0, 1.0, 1.0)


def is_real(support: constraints.Constraint | None) -> bool:
    """Whether a support is all real numbers, of any event dimension."""
    return _base(support) is constraints.real


def is_positive(support: constraints.Constraint | None) -> bool:
    """Whether a support is the positive numbers, of any event dimension."""
    return _base(support) in (constraints.positive, constraints.nonnegative)


def _base(support: constraints.Constraint | None) -> constraints.Constraint | None:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support
