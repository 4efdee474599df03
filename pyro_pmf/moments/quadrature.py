"""Expectations under a Normal distribution, by Gauss-Hermite quadrature."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

N_NODES = 7  # error of a sigmoid's mean: 1e-5 at a score sd of 1, 2e-3 at 2
_CHUNK = 1 << 15  # entries per chunk on a CPU, whose nodes fit its cache


@dataclass(frozen=True, eq=False)
class Quadrature:
    """A quadrature rule: weighted averages over nodes approximate expectations.

    Parameters
    ----------
    nodes : Tensor, shape (n_nodes, ...)
        Values at which to evaluate a function, for each entry.
    weights : Tensor, shape (n_nodes,)
        They sum to one.
    """

    nodes: Tensor
    weights: Tensor

    @classmethod
    def normal(cls, mean: Tensor, var: Tensor, n_nodes: int = N_NODES) -> Quadrature:
        """Return the rule for E f(x), x ~ Normal(mean, var).

        It is exact for polynomials up to degree 2 n_nodes - 1.

        Parameters
        ----------
        mean, var : Tensor, shape (...)
            Mean and variance of each entry.
        n_nodes : int
            Number of nodes.
        """
        nodes, weights = gauss_hermite(mean.dtype, mean.device, n_nodes)
        varies = var > 0  # a square root's gradient is infinite at zero
        sd = torch.where(varies, var, 1.0).sqrt() * varies
        return cls(mean + nodes.reshape(-1, *(1,) * mean.dim()) * sd, weights)

    def expectation(self, values: Tensor) -> Tensor:
        """Return the weighted average of values at the nodes.

        Parameters
        ----------
        values : Tensor, shape (n_nodes, ...)
            A function of the nodes.

        Returns
        -------
        Tensor, shape (...)
        """
        return torch.tensordot(self.weights, values, dims=1)


@cache
def gauss_hermite(
    dtype: torch.dtype, device: torch.device, n_nodes: int = N_NODES
) -> tuple[Tensor, Tensor]:
    """Return nodes and weights for E f(x), x ~ Normal(0, 1).

    Parameters
    ----------
    dtype : torch.dtype
        Floating-point type of the result.
    device : torch.device
        Device of the result.
    n_nodes : int
        Number of nodes.

    Returns
    -------
    nodes, weights : Tensor, shape (n_nodes,)
        The weights sum to one.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(n_nodes)
    return (
        torch.tensor(nodes, dtype=dtype, device=device),
        torch.tensor(weights / weights.sum(), dtype=dtype, device=device),
    )


def sigmoid_square_distance(mean: Tensor, var: Tensor, value: Tensor) -> Tensor:
    """Return E (value - sigmoid(x))^2, x ~ Normal(mean, var), entry by entry.

    Result and gradient equal those of a `Quadrature`, but take one pass that stores no nodes:
    this is most of the arithmetic of a fit.

    Parameters
    ----------
    mean, var : Tensor, shape (n,)
        Mean and variance of the scores x.
    value : Tensor, shape (n,)
        Ratings on the unit scale; they receive no gradient.

    Returns
    -------
    Tensor, shape (n,)
        Differentiable once, in ``mean`` and ``var``.
    """
    return _sigmoid_square_distance(mean, var, value)[0]


torch.library.define(
    "pyro_pmf::sigmoid_square_distance",
    "(Tensor mean, Tensor var, Tensor value) -> (Tensor, Tensor, Tensor)",
)
_sigmoid_square_distance = torch.ops.pyro_pmf.sigmoid_square_distance.default


@torch.library.impl("pyro_pmf::sigmoid_square_distance", "default")
def _distance_and_slopes(
    mean: Tensor, var: Tensor, value: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the expected square and its derivatives in mean and variance."""
    nodes, weights = gauss_hermite(mean.dtype, mean.device)
    # y = sigmoid(mean + sd x): d/dmean = -2 E (value - y) y', d/dsd = -2 E (value - y) y' x
    slopes = torch.stack([-2 * weights, -2 * weights * nodes])
    results = torch.empty_like(mean), torch.empty_like(mean), torch.empty_like(mean)
    size = _CHUNK if mean.device.type == "cpu" else max(1, len(mean))
    for m, v, r, distance, by_mean, by_var in zip(
        *(x.split(size) for x in (mean, var, value, *results)), strict=True
    ):
        sd = v.sqrt()
        y = torch.addcmul(m, nodes[:, None], sd).sigmoid_()
        error = r - y
        torch.mv((error * error).T, weights, out=distance)
        slope, by_sd = slopes @ error.mul_(y.addcmul_(y, y, value=-1))
        by_mean.copy_(slope)
        torch.div(by_sd, 2 * sd, out=by_var).masked_fill_(sd == 0, 0.0)
    return results


@torch.library.register_fake("pyro_pmf::sigmoid_square_distance")
def _(mean: Tensor, var: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(mean), torch.empty_like(mean), torch.empty_like(mean)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():
        raise NotImplementedError("sigmoid_square_distance has no second derivatives")
    by_mean, by_var = ctx.saved_tensors
    return grad * by_mean, grad * by_var, None


torch.library.register_autograd(
    "pyro_pmf::sigmoid_square_distance", _backward, setup_context=_save
)
