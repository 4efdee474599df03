"""Noise of ratings that were rounded: moments of the noise and of the rounding together."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pyro_pmf.moments.quadrature import gauss_hermite

_N_NODES = (
    5  # error of log E t^-2: 3e-4 where log sigma has a standard deviation of 0.5, 2e-2 at 1
)
_CHUNK = 1 << 15  # entries per chunk on a CPU, whose nodes fit its cache
_LARGEST = 80.0  # of log(sigma^2 / sd^2), so that its exponential is a float32


def rounded(log_mean: Tensor, log_var: Tensor, sd: float) -> tuple[Tensor, Tensor]:
    """Return mean and variance of a Normal log t that stands for t = sqrt(sigma^2 + sd^2).

    They give E log t and E t^-2 exactly, but for the quadrature. These two are what the expected
    log density of a Normal needs. The variance is that of log t to first order in ``log_var``.

    Parameters
    ----------
    log_mean, log_var : Tensor, one shape
        Mean and variance of log sigma, which is Normal.
    sd : float
        Positive, in the unit of sigma.

    Returns
    -------
    log_mean, log_var : Tensor, of the shape of the arguments
        Differentiable once. The variance is at least 0.
    """
    shape = log_mean.shape
    mean, var, *_ = _rounded(log_mean.reshape(-1), log_var.reshape(-1), sd)
    return mean.reshape(shape), var.reshape(shape)


torch.library.define(
    "pyro_pmf::rounded",
    "(Tensor log_mean, Tensor log_var, float sd)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
_rounded = torch.ops.pyro_pmf.rounded.default


@torch.library.impl("pyro_pmf::rounded", "default")
def _moments_and_slopes(log_mean: Tensor, log_var: Tensor, sd: float) -> tuple[Tensor, ...]:
    """Return mean and variance, and the derivatives of both in ``log_mean`` and ``log_var``."""
    nodes, weights = gauss_hermite(log_mean.dtype, log_mean.device, _N_NODES)
    both = torch.stack([weights, weights * nodes])
    log_sd = math.log(sd)
    results = tuple(torch.empty_like(log_mean) for _ in range(6))
    size = _CHUNK if log_mean.device.type == "cpu" else max(1, len(log_mean))
    for m, v, mean, var, mean_by_m, mean_by_v, var_by_m, var_by_v in zip(
        *(x.split(size) for x in (log_mean, log_var, *results)), strict=True
    ):
        root = v.sqrt()
        # q = sd^2 / t^2 at the nodes: log t = log sd - log(q) / 2, and t^-2 = q / sd^2.
        log_ratio = torch.addcmul(2 * (m - log_sd), 2 * nodes[:, None], root).clamp_(max=_LARGEST)
        q = log_ratio.neg_().sigmoid_()
        mean_log_q = torch.mv(q.log().T, weights)
        mean_q, mean_q_node = both @ q
        slope, slope_node = (both @ q.addcmul_(q, q, value=-1)).div_(mean_q)
        torch.add(log_sd, mean_log_q, alpha=-0.5, out=mean)
        torch.sub(mean_q.log(), mean_log_q, out=var).mul_(0.5).clamp_(min=0.0)
        torch.sub(1.0, mean_q, out=mean_by_m)
        torch.sub(mean_by_m, slope, out=var_by_m)
        by_root = (-0.5 / root).masked_fill_(root == 0, 0.0)
        torch.mul(mean_q_node, by_root, out=mean_by_v)
        torch.mul(mean_q_node.add_(slope_node), by_root, out=var_by_v)
    return results


@torch.library.register_fake("pyro_pmf::rounded")
def _(log_mean: Tensor, log_var: Tensor, sd: float) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(log_mean) for _ in range(6))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*output[2:])
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any, of_mean: Tensor | None, of_var: Tensor | None, *_: Tensor | None
) -> tuple[Tensor | None, Tensor | None, None]:
    if torch.is_grad_enabled():
        raise NotImplementedError("rounded has no second derivatives")
    mean_by_m, mean_by_v, var_by_m, var_by_v = ctx.saved_tensors
    if of_mean is None or of_var is None:
        of_one, by_m, by_v = (
            (of_var, var_by_m, var_by_v) if of_mean is None else (of_mean, mean_by_m, mean_by_v)
        )
        if of_one is None:
            return None, None, None
        return of_one * by_m, of_one * by_v, None
    return (
        torch.addcmul(of_mean * mean_by_m, of_var, var_by_m),
        torch.addcmul(of_mean * mean_by_v, of_var, var_by_v),
        None,
    )


torch.library.register_autograd("pyro_pmf::rounded", _backward, setup_context=_save)
