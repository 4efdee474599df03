"""Where the latents of a fit begin."""

from __future__ import annotations

from typing import Any

import torch
from pyro.infer.autoguide.initialization import init_to_feasible
from torch import Tensor
from torch.distributions import constraints

_INITIAL_SPREAD = 0.1  # of real sites, on the scale of their values


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
    return unwrapped_support(support) is constraints.real


def is_positive(support: constraints.Constraint | None) -> bool:
    """Whether a support is the positive numbers, of any event dimension."""
    return unwrapped_support(support) in (constraints.positive, constraints.nonnegative)


def unwrapped_support(support: constraints.Constraint | None) -> constraints.Constraint | None:
    """Return the constraint inside wrappers that only add event dimensions."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support
