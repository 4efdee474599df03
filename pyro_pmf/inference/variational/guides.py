"""Guides: families of distributions that approximate a posterior."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import biject_to, constraints

from pyro_pmf.inference.initialization import is_positive, is_real, unwrapped_support
from pyro_pmf.internals import OpenAutoNormal

_INITIAL_GLOBAL_SCALE = 0.01  # standard deviation of the guide for sites outside all plates
_OF_PRIOR = 0.1  # and at most this, in standard deviations of the prior
_LEAST = 1e-9  # standard deviation whose square is not zero in single precision


class NormalGuide(OpenAutoNormal):
    """Mean-field Normal guide whose sites have their distributions in closed form.

    Sites are independent: a real site is Normal and a positive site LogNormal, with the parameters
    of Pyro's `AutoNormal`. Shares on the simplex are a point estimate, since they are few and
    informed by all ratings. AutoNormal samples an auxiliary unconstrained site and makes the
    latent a Delta at its transform, which hides the family. Here the deterministic ELBO can read
    the family off the site. Standard deviations are optimized by their logarithms.
    """

    scale_constraint = constraints.positive

    def set_up(self, *args: Any, **kwargs: Any) -> None:
        """Make the parameters, on the first call; arguments are those of the model.

        Standard deviations begin no larger than those of the prior, and small for sites outside
        all plates, since all data inform them.
        """
        if self.prototype_trace is not None:
            return
        super().set_up(*args, **kwargs)
        for name, site in self.sites():
            loc, scale = (x.detach() for x in self.loc_and_scale(name))
            is_global = not site["cond_indep_stack"]
            if is_global:
                scale = torch.full_like(loc, _INITIAL_GLOBAL_SCALE)
            if is_real(site["fn"].support):
                prior_sd = site["fn"].stddev.detach().expand(loc.shape).nan_to_num(1.0)
                widest = (_OF_PRIOR if is_global else 1.0) * prior_sd.clamp(min=_LEAST)
                scale = torch.minimum(scale, widest)
            self.set_scale(name, scale, self.scale_constraint)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Sample every site; arguments are those of the model.

        Returns
        -------
        dict of str to Tensor
            Values by site.
        """
        self.set_up(*args, **kwargs)
        plates = self.make_plates(*args, **kwargs)
        values = {}
        for name, site in self.sites():
            with ExitStack() as stack:
                for frame in site["cond_indep_stack"]:
                    if frame.vectorized:
                        stack.enter_context(plates[frame.name])
                values[name] = pyro.sample(name, self._site(name, site["fn"].support))
        return values

    def inverse_fisher(self, parameter: str) -> Tensor:
        """Return the inverse of the Fisher information of a parameter, which is diagonal.

        Parameters
        ----------
        parameter : str
            Name in Pyro's parameter store of a mean or a (log) standard deviation.

        Returns
        -------
        Tensor, of the shape of the parameter
            Diagonal of the inverse.

        Raises
        ------
        KeyError
            If the guide has no such parameter.
        """
        kind, site = self._own_parameters()[parameter]
        scale = self.loc_and_scale(site)[1].detach()
        return scale**2 if kind == "locs" else torch.full_like(scale, 0.5)

    def owns(self, parameters: Iterable[str]) -> bool:
        """Return whether all of some parameters belong to this guide, and none to the model.

        Parameters
        ----------
        parameters : iterable of str
            Names in Pyro's parameter store.

        Returns
        -------
        bool
            Whether they do.
        """
        return self._own_parameters().keys() >= set(parameters)

    def _own_parameters(self) -> dict[str, tuple[str, str]]:
        """Return kind and site of each parameter, by its name in Pyro's parameter store."""
        return {
            self.parameter_name(kind, site): (kind, site)
            for kind in ("locs", "scales")
            for site, _ in self.sites()
        }

    def _site(self, name: str, support: constraints.Constraint) -> dist.Distribution:
        loc, scale = self.loc_and_scale(name)
        if is_positive(support):
            return dist.LogNormal(loc, scale).to_event(support.event_dim)
        normal = dist.Normal(loc, scale).to_event(self.event_dim(name))
        if is_real(support):
            return normal
        if unwrapped_support(support) is constraints.simplex:
            # Use the unconstrained density; on the simplex, the share of an unused level would
            # shrink forever.
            transform = biject_to(support)
            value = transform(loc)
            density = -transform.log_abs_det_jacobian(loc, value)
            return dist.Delta(value, density, event_dim=1)
        return dist.TransformedDistribution(normal, [biject_to(support)])
