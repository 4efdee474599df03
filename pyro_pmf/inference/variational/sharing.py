"""One fit in several processes: each has the part of the loss that its users and ratings make.

The loss is a sum over processes, and so is its gradient with respect to what all hold: one sum of
(n_items x (K + 2) + some) numbers per step. DDP and FSDP of torch share other things: copies of a
model, or pieces of its tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, cast

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.inference.sharing import Sharing
from pyro_pmf.inference.variational.warm_start import Initial
from pyro_pmf.model.pmf import PMF
from pyro_pmf.model.terms import Plate
from pyro_pmf.moments.expectations import unwrapped
from pyro_pmf.moments.gaussian import Gaussian
from pyro_pmf.reducer import Reducer


class CountedOnce(Messenger):
    """Count the sites that all processes hold as a part of one in each of them."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._part = 1.0 / size

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if not is_own(msg):
            msg["scale"] = msg["scale"] * self._part


def is_own(site: dict[str, Any]) -> bool:
    """Return whether a site is of users or their ratings, which one process has.

    Parameters
    ----------
    site : dict
        Pyro's site.
    """
    return any(frame.name in ("users", "ratings") for frame in site["cond_indep_stack"])


@dataclass(frozen=True)
class _SharedPMF(PMF):
    """A `PMF` whose sums over users are sums over processes."""

    reducer: Reducer = field(default_factory=Reducer, kw_only=True)

    def sum_over_seen(self, W: Tensor | None, seen: Pairs, plate: Plate) -> Tensor | None:
        total: Any = super().sum_over_seen(W, seen, plate)
        if total is None or plate == "users":
            return total
        if isinstance(total, Gaussian):
            mean, var = self.reducer.sum(torch.stack([total.mean, total.var])).unbind()
            return cast(Tensor, replace(total, mean=mean, var=var))
        return self.reducer.sum(total)


def shared_model(model: Callable[..., Any], sharing: Sharing) -> PMF:
    """Return a `PMF` that runs on the shard of a process.

    Parameters
    ----------
    model : PMF
        The model of all ratings.
    sharing : Sharing
        The part of the process.
    """
    stated = {f.name: getattr(model, f.name) for f in fields(PMF)}
    return _SharedPMF(**stated, reducer=sharing.reducer)


def shared_initial(initial: Initial, sharing: Sharing) -> Initial:
    """Return initial values of the shard: those that one process would give to its users.

    Parameters
    ----------
    initial : callable
        Returns the initial value of a site.
    sharing : Sharing
        The part of the process.
    """
    first, last, n = sharing.shard.first, sharing.shard.last, sharing.shard.n_all_users

    def value(site: dict[str, Any]) -> Tensor:
        if not is_own(site):
            return initial(site)
        normal = unwrapped(site["fn"])  # rows of users are Normal
        mean = normal.loc.new_zeros(n, *site["fn"].event_shape)
        mean[first:last] = normal.loc
        scale = normal.scale[:1] if len(normal.scale) else 1.0  # alike in all rows
        whole = dist.Normal(mean, scale).to_event(len(site["fn"].event_shape))
        return initial({**site, "fn": whole})[first:last]

    return value
