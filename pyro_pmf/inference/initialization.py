"""Initial values of the latents of a fit."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from pyro.infer.autoguide.initialization import init_to_feasible
from torch import Tensor
from torch.distributions import constraints

_INITIAL_SPREAD = 0.1  # standard deviation of the initial values of real sites
_SMALL = 0.4  # initial standard deviations, in prior means


def initial_value(site: dict[str, Any]) -> Tensor:
    """Return an initial value: small for standard deviations, near the prior mean for other sites.

    Values lie near the prior mean but not at it, because U = V = 0 is a saddle of the ELBO with
    exactly zero gradient.

    Parameters
    ----------
    site : dict
        Pyro's site, with its prior under "fn".

    Returns
    -------
    Tensor
        Value of the shape of the site; random for real sites, from torch's random state.
    """
    fn = site["fn"]
    if not (is_real(fn.support) or is_positive(fn.support)):
        return init_to_feasible(site)
    with torch.no_grad():
        mean = fn.mean.expand(fn.shape())
        if is_real(fn.support):
            spread = _INITIAL_SPREAD * torch.randn_like(mean)
            # no farther than the prior, such as that of a factor that is switched off
            if site.get("cond_indep_stack"):
                widest = (fn.stddev.nan_to_num(1.0) / _INITIAL_SPREAD).clamp(max=1.0)
            else:
                widest = fn.stddev.nan_to_num(1.0).clamp(max=1.0)
            return mean.nan_to_num(0.0, 0.0, 0.0) + spread * widest
        return _SMALL * mean.nan_to_num(1.0, 1.0, 1.0)


def with_large(names: Collection[str]) -> Callable[[dict[str, Any]], Tensor]:
    """Return `initial_value`, but with some standard deviations at their prior means.

    From small scales, factors of any strength shrink to zero.

    Parameters
    ----------
    names : collection of str
        Sites of standard deviations.
    """

    def value(site: dict[str, Any]) -> Tensor:
        return initial_value(site) / (_SMALL if site["name"] in names else 1.0)

    return value


def is_real(support: constraints.Constraint | None) -> bool:
    """Return whether a support is all real numbers, of any event dimension.

    Parameters
    ----------
    support : Constraint or None
        Support of a distribution.

    Returns
    -------
    bool
        Whether it is.
    """
    return unwrapped_support(support) is constraints.real


def is_positive(support: constraints.Constraint | None) -> bool:
    """Return whether a support is the positive numbers, of any event dimension.

    Parameters
    ----------
    support : Constraint or None
        Support of a distribution.

    Returns
    -------
    bool
        Whether it is.
    """
    return unwrapped_support(support) in (constraints.positive, constraints.nonnegative)


def unwrapped_support(support: constraints.Constraint | None) -> constraints.Constraint | None:
    """Return the constraint inside wrappers that only add event dimensions.

    Parameters
    ----------
    support : Constraint or None
        Support of a distribution.

    Returns
    -------
    Constraint or None
        The constraint; None if there was none.
    """
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support
