"""The operations on random quantities whose moments are known in closed form."""

from __future__ import annotations

import numpy as np
import torch
from torch import Size, Tensor

from pyro_pmf.data.pairs import CellBlocks, Pattern
from pyro_pmf.moments.bilinear import cell_sum, dot, weighted_sum
from pyro_pmf.moments.ceiling import BelowCeiling, below_ceiling
from pyro_pmf.moments.gaussian import (
    RULES,
    Gaussian,
    LogGaussian,
    NoClosedForm,
    Transformed,
    Uncertain,
    Value,
    require_independent,
)
from pyro_pmf.moments.rounding import rounded


def _add(a: Value, b: Value) -> Uncertain:
    if not isinstance(a, Uncertain):
        a, b = b, a
    if not isinstance(a, Gaussian):
        raise NoClosedForm(f"the sum of a {type(a).__name__} and something else")
    if not isinstance(b, Uncertain):
        mean = a.mean + b
        same = mean.numel() == a.mean.numel()
        return Gaussian(mean, a.var.expand(mean.shape), a.sites, a.independent and same)
    if not isinstance(b, Gaussian):
        raise NoClosedForm(f"the sum of a Gaussian and a {type(b).__name__}")
    require_independent(a, b)
    mean = a.mean + b.mean
    same = mean.numel() == a.mean.numel() == b.mean.numel()
    independent = a.independent and b.independent and same
    return Gaussian(mean, a.var + b.var, a.sites | b.sites, independent)


def _dot(
    U: Value, V: Value, pattern: Pattern, b: Value | None = None, c: Value | None = None
) -> Gaussian:
    """Moments of U_i . V_j + b_i + c_j; a sum of many products is treated as Gaussian."""
    u, v = _as_gaussian(U), _as_gaussian(V)
    biases = [None if x is None else _as_gaussian(x) for x in (b, c)]
    parts = [u, v, *(x for x in biases if x is not None)]
    require_independent(*parts)
    mean = dot(u.mean, v.mean, pattern, *(None if x is None else x.mean for x in biases))
    left = torch.cat([u.var, u.mean**2], -1)
    right = torch.cat([v.mean**2 + v.var, v.var], -1)
    var = dot(left, right, pattern, *(None if x is None else x.var for x in biases))
    sites = frozenset().union(*(part.sites for part in parts))
    return Gaussian(mean, var, sites, independent=False)


def _weighted_sum(weights: Tensor, V: Value, pattern: Pattern) -> Gaussian:
    v = _as_gaussian(V)
    if isinstance(weights, Uncertain) or not v.independent:
        raise NoClosedForm("a sum with random weights, or of rows that depend on each other")
    mean, var = weighted_sum(weights, v.mean, pattern), weighted_sum(weights**2, v.var, pattern)
    return Gaussian(mean, var, v.sites, independent=False)


def _cell_sum(V: Value, cells: Pattern | CellBlocks) -> Gaussian:
    v = _as_gaussian(V)
    if not v.independent:
        raise NoClosedForm("a sum of rows that depend on each other")
    return Gaussian(cell_sum(v.mean, cells), cell_sum(v.var, cells), v.sites, independent=False)


def _as_gaussian(value: Value) -> Gaussian:
    if isinstance(value, Tensor):
        return Gaussian(value, torch.zeros_like(value))
    if isinstance(value, Gaussian):
        return value
    raise NoClosedForm(f"a factor matrix that is a {type(value).__name__}")


def _sigmoid(score: Gaussian) -> Transformed:
    if not isinstance(score, Gaussian):
        raise NoClosedForm(f"the sigmoid of a {type(score).__name__}")
    return Transformed(score, torch.sigmoid)


def _below_ceiling(score: Value, log_ceiling: float) -> Transformed:
    if not isinstance(score, Gaussian):
        raise NoClosedForm(f"the ceiling of a {type(score).__name__}")
    return Transformed(score, BelowCeiling(log_ceiling))


def _exp(x: Value) -> LogGaussian:
    if not isinstance(x, Gaussian):
        raise NoClosedForm(f"the exponential of a {type(x).__name__}")
    return LogGaussian(x.mean, x.var, x.sites)


def _multiply(a: Value, b: Value) -> Gaussian | LogGaussian:
    """Multiply a Gaussian by a tensor, or two independent positive quantities."""
    if isinstance(b, Gaussian):
        a, b = b, a
    if isinstance(a, Gaussian) and isinstance(b, Tensor | float):
        return _scale(a, b)
    if not isinstance(a, LogGaussian):
        a, b = b, a
    if isinstance(b, Tensor) and isinstance(a, LogGaussian):  # if not positive, its log is NaN
        b = LogGaussian(b.log(), torch.zeros_like(b))
    if not (isinstance(a, LogGaussian) and isinstance(b, LogGaussian)):
        raise NoClosedForm(f"the product of a {type(a).__name__} and a {type(b).__name__}")
    require_independent(a, b)
    shape = Size(np.broadcast_shapes(a.shape, b.shape))
    log_mean, log_var = a.log_mean + b.log_mean, a.log_var + b.log_var
    return LogGaussian(log_mean, log_var, a.sites | b.sites, shape)


def _scale(a: Gaussian, b: Tensor | float) -> Gaussian:
    mean = a.mean * b
    same = mean.numel() == a.mean.numel()
    return Gaussian(mean, a.var * b**2, a.sites, a.independent and same)


def _divide(a: Value, b: Value) -> Gaussian:
    if not (isinstance(a, Gaussian) and isinstance(b, Tensor)):
        raise NoClosedForm(f"a {type(a).__name__} divided by a {type(b).__name__}")
    return _scale(a, b.reciprocal())


def _hypot(a: Value, b: Value) -> LogGaussian:
    """Add the variance of rounding: sqrt(a^2 + b^2) of a positive quantity and one number."""
    if not isinstance(a, LogGaussian):
        a, b = b, a
    if not (isinstance(a, LogGaussian) and isinstance(b, Tensor) and not b.dim()):
        raise NoClosedForm(f"the hypotenuse of a {type(a).__name__} and a {type(b).__name__}")
    log_mean, log_var = rounded(a.log_mean, a.log_var, float(b))
    return LogGaussian(log_mean, log_var, a.sites, a.expanded)


def _broadcast(*values: Value) -> tuple[Value, ...]:
    shape = np.broadcast_shapes(*(value.shape for value in values))
    return tuple(value.expand(shape) for value in values)


RULES.update(
    {
        torch.add: _add,
        torch.Tensor.add: _add,
        torch.Tensor.__add__: _add,
        torch.Tensor.__radd__: _add,
        torch.sigmoid: _sigmoid,
        torch.exp: _exp,
        torch.mul: _multiply,
        torch.Tensor.mul: _multiply,
        torch.Tensor.__mul__: _multiply,
        torch.Tensor.__rmul__: _multiply,
        torch.div: _divide,
        torch.Tensor.__truediv__: _divide,
        torch.hypot: _hypot,
        torch.broadcast_tensors: _broadcast,
        dot: _dot,
        weighted_sum: _weighted_sum,
        cell_sum: _cell_sum,
        below_ceiling: _below_ceiling,
    }
)
