"""Expectations over the log of a mean count, in one pass that stores no nodes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_pmf.moments.quadrature import gauss_hermite

_CHUNK = 1 << 12  # entries per chunk on a CPU, whose nodes fit its cache


def expected_softpluses(
    mean: Tensor, var: Tensor, log_size: Tensor, log_ceiling: float | None
) -> tuple[Tensor, Tensor]:
    """Return E log(1 + size / m) and E log(1 + m / size), entry by entry.

    Here log m = `below_ceiling` (x), x ~ Normal(mean, var). The two are apart, so that neither is
    a difference of large numbers.

    Parameters
    ----------
    mean, var : Tensor, one shape
        Mean and variance of the scores x.
    log_size : Tensor, broadcastable to the shape of ``mean``
        Log of the size.
    log_ceiling : float or None
        Log of the ceiling of m; None for no ceiling.

    Returns
    -------
    tuple of two Tensors, of the shape of ``mean``
        Differentiable once.
    """
    flat = mean.reshape(-1), var.reshape(-1), log_size.expand(mean.shape).reshape(-1)
    below, above, *_ = _softpluses(*flat, log_ceiling)
    return below.reshape(mean.shape), above.reshape(mean.shape)


torch.library.define(
    "pyro_pmf::expected_softpluses",
    "(Tensor mean, Tensor var, Tensor log_size, float? log_ceiling)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
_softpluses = torch.ops.pyro_pmf.expected_softpluses.default


@torch.library.impl("pyro_pmf::expected_softpluses", "default")
def _values_and_slopes(
    mean: Tensor, var: Tensor, log_size: Tensor, log_ceiling: float | None
) -> tuple[Tensor, ...]:
    """Return both, their derivatives in mean and in variance, and that of the first in the log."""
    nodes, weights = gauss_hermite(mean.dtype, mean.device)
    slopes = torch.stack([weights, weights * nodes])
    results = tuple(torch.empty_like(mean) for _ in range(7))
    chunk = _CHUNK if mean.device.type == "cpu" else max(1, len(mean))
    for m, v, log, *found in zip(
        *(x.split(chunk) for x in (mean, var, log_size, *results)), strict=True
    ):
        sd = v.sqrt()
        odds = torch.addcmul(m, nodes[:, None], sd)
        chain = None
        if log_ceiling is not None:  # log mean is the lesser of score and ceiling, less a softplus
            less, chain = _softplus_and_sigmoid(odds - log_ceiling)
            odds = odds.clamp_(max=log_ceiling).sub_(less)
            chain = chain.neg_().add_(1)
        odds.sub_(log)
        softplus, share = _softplus_and_sigmoid(odds)
        torch.mv((softplus + odds.clamp(max=0).neg_()).T, weights, out=found[0])
        torch.mv(softplus.add_(odds.clamp_(min=0)).T, weights, out=found[1])
        torch.mv(share.T, weights, out=found[6]).neg_().add_(1)
        for k, slope in ((0, share - 1), (1, share)):
            by_mean, by_sd = slopes @ (slope if chain is None else slope.mul_(chain))
            found[2 + k].copy_(by_mean)
            torch.div(by_sd, 2 * sd, out=found[4 + k]).masked_fill_(sd == 0, 0.0)
    return results


def _softplus_and_sigmoid(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return log(1 + exp(-|x|)) and the sigmoid of x."""
    return x.abs().neg_().exp_().log1p_(), torch.sigmoid(x)


@torch.library.register_fake("pyro_pmf::expected_softpluses")
def _(
    mean: Tensor, var: Tensor, log_size: Tensor, log_ceiling: float | None
) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(mean) for _ in range(7))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*output[2:])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, a: Tensor | None, b: Tensor | None, *_: Tensor | None) -> Any:
    if torch.is_grad_enabled():
        raise NotImplementedError("expected_softpluses has no second derivatives")
    a_mean, b_mean, a_var, b_var, a_log = ctx.saved_tensors
    a, b = (torch.zeros_like(a_log) if grad is None else grad for grad in (a, b))
    by_log = torch.addcmul(-b, a + b, a_log)  # the second less the first is the log odds
    return a * a_mean + b * b_mean, a * a_var + b * b_var, by_log, None


torch.library.register_autograd("pyro_pmf::expected_softpluses", _backward, setup_context=_save)
