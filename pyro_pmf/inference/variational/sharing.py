"""One fit in several processes: each holds the ratings and the latents of some users.

All processes hold the latents of the items, and the same values of them. Given these, users are
independent, so the loss is a sum over processes, and so is its gradient with respect to what all
hold: one sum of (n_items x (K + 2) + some) numbers per step. DDP and FSDP of torch share other
things: copies of a model, or pieces of its tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self, cast

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.data.shards import Shard, shard_of, shard_of_part
from pyro_pmf.inference.variational.warm_start import Initial
from pyro_pmf.model.pmf import PMF
from pyro_pmf.model.terms import Plate, Terms
from pyro_pmf.moments.expectations import unwrapped
from pyro_pmf.moments.gaussian import Gaussian, Value
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


@dataclass(frozen=True)
class Sharing:
    """The part of one process in a fit.

    Attributes
    ----------
    reducer : Reducer
        Sums over the processes.
    shard : Shard
        The ratings of this process.
    is_part : bool
        Whether the posterior of this process is of its own users only.
    """

    reducer: Reducer
    shard: Shard
    is_part: bool

    @classmethod
    def of(cls, ratings: Pairs, reducer: Reducer, is_part: bool) -> Self:
        """Return the part of this process.

        Parameters
        ----------
        ratings : Pairs
            The training ratings that this process was given, on the device of the fit.
        reducer : Reducer
            Sums over the processes.
        is_part : bool
            Whether they are those of its own users, and not all.
        """
        if is_part:
            return cls(reducer, shard_of_part(ratings, reducer), is_part)
        return cls(reducer, shard_of(ratings, reducer.rank, reducer.size), is_part)

    def model(self, model: Callable[..., Any]) -> PMF:
        """Return a `PMF` that runs on the shard."""
        stated = {f.name: getattr(model, f.name) for f in fields(PMF)}
        return _SharedPMF(**stated, reducer=self.reducer)

    def history(self, history: Pairs | None, ratings: Pairs) -> Shard | None:
        """Return the pairs with I_ij = 1 of the users of the shard.

        Parameters
        ----------
        history : Pairs or None
            All pairs with I_ij = 1, on the device of the fit.
        ratings : Pairs
            All training ratings.
        """
        if history is None:
            return None
        return shard_of(history, self.reducer.rank, self.reducer.size, of=ratings)

    def initial(self, initial: Initial) -> Initial:
        """Return initial values of the shard: those that one process would give to its users.

        Parameters
        ----------
        initial : callable
            Returns the initial value of a site.
        """
        first, last, n = self.shard.first, self.shard.last, self.shard.n_all_users

        def value(site: dict[str, Any]) -> Tensor:
            if not is_own(site):
                return initial(site)
            normal = unwrapped(site["fn"])  # rows of users are Normal
            mean = normal.loc.new_zeros(n, *site["fn"].event_shape)
            mean[first:last] = normal.loc
            whole = dist.Normal(mean, 1.0).to_event(len(site["fn"].event_shape))
            return initial({**site, "fn": whole})[first:last]

        return value

    def rows(self, latents: Mapping[str, Value], terms: Terms) -> dict[str, Value]:
        """Return the latents of all users, or of those whose ratings this process was given.

        Parameters
        ----------
        latents : mapping of str to Tensor, Gaussian or LogGaussian
            Latents of this process by site, on the CPU.
        terms : Terms
            Terms of the model, which say what has a row for each user.
        """
        if self.is_part:
            return dict(latents)
        own = {term.site for term in terms if term.plate == "users"}
        return {name: self._rows(x) if name in own else x for name, x in latents.items()}

    def _rows(self, x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x.map(self._rows)
        whole = x.new_zeros(self.shard.n_all_users, *x.shape[1:])
        whole[self.shard.first : self.shard.last] = x
        return self.reducer.sum(whole)
