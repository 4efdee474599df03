"""Expected log densities, and mixtures, of distributions with random parameters."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from pyro.distributions.util import sum_rightmost
from torch import Tensor
from torch.distributions import Distribution, HalfNormal, Independent, Normal

from pyro_pmf.moments.gaussian import (
    LogGaussian,
    NoClosedForm,
    Transformed,
    Uncertain,
    Value,
    require_independent,
)
from pyro_pmf.moments.quadrature import N_NODES, Quadrature, sigmoid_square_distance

# Standard deviations of log sigma below which one node (steady) or three nodes (mild) give the
# same mixture of Normals as all nodes.
_STEADY, _MILD = 0.007, 0.3


def expected_log_prob(fn: Distribution, value: Value) -> Tensor:
    """Return E log p(value), over a random value and random parameters of the distribution.

    Parameters
    ----------
    fn : Distribution
        Its parameters are tensors or random quantities.
    value : Tensor or Uncertain
        The value, or the random latent, at which to take the log density.

    Returns
    -------
    Tensor, of the batch shape of ``fn``
        In closed form where one is known, as for Normal and HalfNormal, else by quadrature.

    Raises
    ------
    NoClosedForm
        If two random quantities share a latent site, or their combination is not supported.
    """
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
    if fn.event_shape:  # the nodes of a quadrature would move all entries of a vector together
        raise NoClosedForm(f"a {type(fn).__name__} of random parameters")
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
    """Undo the expansion of a known tensor, to compute with equal entries once."""
    if x.requires_grad:  # the gradient would cost more than is saved
        return x
    return x[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in x.stride())]


def mean_square_distance(a: Value, b: Value) -> Tensor:
    """Return E (a - b)^2 of two independent quantities.

    Parameters
    ----------
    a, b : Tensor or Uncertain
        At most one of them is `Transformed`. Shapes broadcast.

    Returns
    -------
    Tensor, of the broadcast shape
        Entry by entry.
    """
    if isinstance(a, Transformed):
        a, b = b, a
    if isinstance(a, Tensor) and isinstance(b, Transformed):
        vectors = a.shape == b.shape and a.dim() == 1
        if b.function is torch.sigmoid and vectors and not a.requires_grad:
            return sigmoid_square_distance(b.base.mean, b.base.var, a)
    if isinstance(b, Transformed):
        rule = b.quadrature()
        mean, var = (a.mean, a.var) if isinstance(a, Uncertain) else (a, 0.0)
        return rule.expectation((rule.nodes - mean) ** 2) + var
    x, y = torch.broadcast_tensors(*(v.mean if isinstance(v, Uncertain) else v for v in (a, b)))
    if y.requires_grad:
        x, y = y, x
    distance = F.mse_loss(x, y, reduction="none")  # one pass, and one more for the gradient in x
    for v in (a, b):
        if isinstance(v, Uncertain):
            distance = distance + v.var
    return distance


def expected_softplus(x: Value) -> Tensor:
    """Return E log(1 + exp(x)), entry by entry."""
    if isinstance(x, Tensor):
        return F.softplus(x)
    rule = x.quadrature()
    return rule.expectation(F.softplus(rule.nodes))


def components(fn: Distribution) -> list[tuple[float, Distribution]]:
    """Return a distribution with random parameters as a finite mixture.

    Each random parameter is replaced by the nodes of its quadrature; several random parameters
    are combined by the product rule.

    Parameters
    ----------
    fn : Distribution
        Its parameters are tensors or independent random quantities.

    Returns
    -------
    list of (float, Distribution)
        Weights, which sum to one, and components.

    Raises
    ------
    NoClosedForm
        If two parameters share a latent site.
    """
    parameters = parameters_of(fn)
    random = {name: x for name, x in parameters.items() if isinstance(x, Uncertain)}
    require_independent(*random.values())
    rules = [few_nodes(x) for x in random.values()]
    parts = []
    for choice in product(*(zip(rule.weights, rule.nodes, strict=True) for rule in rules)):
        weight = math.prod(float(w) for w, _ in choice)
        nodes = {name: node for name, (_, node) in zip(random, choice, strict=True)}
        parts.append((weight, type(fn)(**parameters | nodes, validate_args=False)))
    return parts


def parameters_of(fn: Distribution) -> dict[str, Any]:
    """Return the parameters that a distribution holds, by name."""
    return {name: fn.__dict__[name] for name in fn.arg_constraints if name in fn.__dict__}


def is_random(fn: Distribution) -> bool:
    """Return whether a parameter of a distribution is a random quantity."""
    return any(isinstance(fn.__dict__.get(name), Uncertain) for name in fn.arg_constraints)


def unwrapped(fn: Any) -> Any:
    """Return the distribution inside any `Independent` wrappers."""
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return fn


def few_nodes(parameter: Uncertain) -> Quadrature:
    """Return a quadrature, with fewer nodes for a quantity that hardly varies."""
    if not isinstance(parameter, LogGaussian):
        return parameter.quadrature()
    sd = float(parameter.log_var.detach().max().sqrt()) if parameter.log_var.numel() else 0.0
    if sd < _STEADY:
        mean = parameter.mean
        return Quadrature(mean[None], mean.new_ones(1))
    return parameter.quadrature(3 if sd < _MILD else N_NODES)
