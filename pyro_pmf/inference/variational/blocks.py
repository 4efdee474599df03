"""The ELBO of many ratings, a block of users at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_pmf.data.blocks import Block
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.inference.variational.elbo import GaussianELBO, elbo_by_site, integrated_traces
from pyro_pmf.model.given import GivenSampler
from pyro_pmf.model.pmf import PMF
from pyro_pmf.model.running import takes_history
from pyro_pmf.moments.expectations import expected_log_prob
from pyro_pmf.moments.gaussian import Uncertain, Value


class BlockedELBO(GaussianELBO):
    """The ELBO of a `PMF`, whose expected log likelihood is summed block by block.

    The numbers are those of `GaussianELBO`, added up in another order. The model runs on one
    rating, which gives the moments of all latents. Given these, the statement of the model runs on
    one block of users after another, and the gradient of a block is taken before the next one
    begins. So intermediate results take the memory of a block, not that of a table.

    Parameters
    ----------
    stated : PMF
        The model, with a likelihood of this package.
    ratings : Pairs
        The training ratings. `terms` takes these and no others.
    blocks : list of Block
        The same ratings, as `blocks_of` cuts them.
    """

    def __init__(self, stated: PMF, ratings: Pairs, blocks: list[Block]) -> None:
        super().__init__()
        self._stated, self._ratings, self._blocks = stated, ratings, blocks
        self._of_users = {term.site for term in stated.terms if term.plate == "users"}

    def terms(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return the ELBO by site: expected log density, plus the entropy of a latent's guide."""
        assert args == (self._ratings,)
        history = {"history": self._ratings} if takes_history(model) else {}
        traces = integrated_traces(model, guide, self._ratings.first_pair(), **history)
        latents = {
            name: site["value"]
            for name, site in traces[0].nodes.items()
            if site["type"] == "sample" and name != "rating"
        }
        return elbo_by_site(*traces) | {"rating": self._expected_log_likelihood(latents)}

    def _expected_log_likelihood(self, latents: Mapping[str, Value]) -> Tensor:
        """Return the sum over all blocks, with its gradient in the moments of the latents."""
        moments = [(name, x) for name, value in latents.items() for x in _moments(value)]
        # what is held has no gradient, and is computed with once if all its entries are equal
        varying = [k for k, (_, x) in enumerate(moments) if x.requires_grad]
        values, gradients = [], {k: list[Tensor]() for k in varying}
        for users, pairs in self._blocks:
            leaves = [
                x.detach()[users] if name in self._of_users else x.detach() for name, x in moments
            ]
            for k in varying:
                leaves[k].requires_grad_()
            value = _expected_log_likelihood(self._stated, _with(latents, leaves), pairs)
            values.append(value.detach())
            if value.requires_grad:
                parts = torch.autograd.grad(value, [leaves[k] for k in varying], allow_unused=True)
                for k, part in zip(varying, parts, strict=True):
                    if part is not None and moments[k][0] in self._of_users:
                        gradients[k].append(part)
                    elif part is not None:
                        gradients[k] = [sum(gradients[k], start=part)]
        slopes = {k: torch.cat(g) if len(g) > 1 else g[0] for k, g in gradients.items() if g}
        tensors = [moments[k][1] for k in slopes]
        return _WithGradient.apply(torch.stack(values).sum(), [*slopes.values()], *tensors)


class _WithGradient(torch.autograd.Function):
    """A number whose gradient in some tensors is known."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, slopes: list[Tensor], *_: Tensor) -> Tensor:
        ctx.slopes = slopes
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(grads[0] * slope for slope in ctx.slopes)


def _expected_log_likelihood(model: PMF, latents: Mapping[str, Value], pairs: Pairs) -> Tensor:
    """Return the expected log likelihood of some ratings, given the moments of the latents."""
    assert pairs.value is not None
    sample = GivenSampler(model, latents, pairs, with_priors=False)
    score, sigma, own = model.state(sample, pairs)
    return expected_log_prob(model.likelihood(score, sigma, **own), pairs.value).sum()


def _moments(value: Value) -> list[Tensor]:
    """Return the tensors that a latent consists of: itself, or its mean and variance."""
    if isinstance(value, Tensor):
        return [value]
    found: list[Tensor] = []
    value.map(lambda x: found.append(x) or x)  # type: ignore[func-returns-value]
    return found


def _with(latents: Mapping[str, Value], tensors: list[Tensor]) -> dict[str, Value]:
    """Return latents that consist of other tensors, in the order of `_moments`."""
    left = iter(tensors)
    return {
        name: value.map(lambda _: next(left)) if isinstance(value, Uncertain) else next(left)
        for name, value in latents.items()
    }
