"""Guides: the families of distributions that a posterior is approximated by."""

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

_INITIAL_GLOBAL_SCALE = 0.01  # guide's standard deviation of sites outside all plates


class NormalGuide(OpenAutoNormal):
    """Mean-field Normal guide whose sites are the distributions themselves.

    A real site is Normal and a positive one LogNormal, independent of all others, with the
    parameters of Pyro's `AutoNormal`; shares that sum to one, which are few and which all ratings
    inform, are a point estimate. AutoNormal samples an auxiliary unconstrained site and makes
    the latent a Delta at its transform, which hides the family; here it can be read off the site,
    as the deterministic ELBO does. Standard deviations are optimised by their logarithms.
    """

    scale_constraint = constraints.positive

    def set_up(self, *args: Any, **kwargs: Any) -> None:
        """Make the parameters; sites outside all plates, which all data inform, begin narrow."""
        if self.prototype_trace is not None:
            return
        super().set_up(*args, **kwargs)
        for name, site in self.sites():
            if not site["cond_indep_stack"]:
                loc, _ = self.loc_and_scale(name)
                scale = torch.full_like(loc, _INITIAL_GLOBAL_SCALE)
                self.set_scale(name, scale, self.scale_constraint)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Sample every site; arguments as those of the model."""
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
        scale = self.loc_and_scale(site)[1].detach()
        return scale**2 if kind == "locs" else torch.full_like(scale, 0.5)

    def owns(self, parameters: Iterable[str]) -> bool:
        """Whether these parameters are all of this guide, and none of the model."""
        return self._own_parameters().keys() >= set(parameters)

    def _own_parameters(self) -> dict[str, tuple[str, str]]:
        """Kind and site of each parameter, by its name in Pyro's parameter store."""
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
            # By its density over unconstrained numbers: over shares, that of one which no rating
            # has grows without bound in its logarithm, and it would never stop shrinking.
            transform = biject_to(support)
            value = transform(loc)
            density = -transform.log_abs_det_jacobian(loc, value)
            return dist.Delta(value, density, event_dim=1)
        return dist.TransformedDistribution(normal, [biject_to(support)])
