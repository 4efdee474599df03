"""The parameters of a fit as one vector, in one process or in several."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pyro_pmf.data.shards import Shard
from pyro_pmf.reducer import Reducer

# Returns the loss, and its gradient of the shape of the parameters.
Evaluate = Callable[[], tuple[Tensor, Tensor]]


class Space:
    """The parameters of a fit as one vector, all in this process."""

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the inner product of two vectors, shape ()."""
        return torch.dot(a, b)

    def largest(self, a: Tensor) -> Tensor:
        """Return the largest entry of a vector, shape ()."""
        return a.amax()

    def mean(self, rows: Tensor, is_own: bool) -> Tensor:
        """Return the mean of rows, shape (); ``is_own`` says if other processes have more."""
        return rows.mean()

    def total(self, evaluate: Evaluate) -> Evaluate:
        """Return a function of loss and gradient that sums them over all processes."""
        return evaluate

    def whole(self, state: Any) -> Any:
        """Return a state with the parameters of all processes, from that of this one."""
        return state

    def part(self, state: Any) -> Any:
        """Return a state with the parameters of this process, from a `whole` one."""
        return state


class SharedSpace(Space):
    """The parameters of a fit in several processes: each has its own, and all have the rest.

    A whole vector has the order that it has in one process.

    Parameters
    ----------
    reducer : Reducer
        Sums over the processes.
    shard : Shard
        The ratings of this process.
    own : sequence of Tensor
        Its own parameters, each with a row for each of its users.
    n_shared : int
        Number of all other parameters, which follow.
    """

    def __init__(
        self, reducer: Reducer, shard: Shard, own: Sequence[Tensor], n_shared: int
    ) -> None:
        self._reducer = reducer
        places, start = [], 0
        for leaf in own:
            width = math.prod(leaf.shape[1:])
            rows = torch.arange(shard.first * width, shard.last * width, device=leaf.device)
            places.append(start + rows)
            start += shard.n_all_users * width
        places.append(start + torch.arange(n_shared, device=shard.device))
        self._places, self._size = torch.cat(places), start + n_shared
        self._n_own = len(self._places) - n_shared

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the inner product of two vectors, shape ()."""
        n = self._n_own if self._reducer.rank else len(a)  # the first process counts the rest
        return self._reducer.sum(torch.dot(a[:n], b[:n]))

    def largest(self, a: Tensor) -> Tensor:
        """Return the largest entry of a vector, shape ()."""
        return self._reducer.largest(a.amax())

    def mean(self, rows: Tensor, is_own: bool) -> Tensor:
        """Return the mean of rows, shape (); ``is_own`` says if other processes have more."""
        if not is_own:
            return rows.mean()
        total, count = self._reducer.sum(torch.stack([rows.sum(), rows.new_tensor(len(rows))]))
        return total / count

    def total(self, evaluate: Evaluate) -> Evaluate:
        """Return a function of loss and gradient that sums what all processes have."""
        n = self._n_own

        def summed() -> tuple[Tensor, Tensor]:
            loss, gradient = evaluate()
            shared = self._reducer.sum(torch.cat([loss[None], gradient[n:]]))
            return shared[0], torch.cat([gradient[:n], shared[1:]])

        return summed

    def whole(self, state: Any) -> Any:
        """Return a state with the parameters of all processes; each of them calls this."""
        return _map_vectors(state, len(self._places), self._whole)

    def part(self, state: Any) -> Any:
        """Return a state with the parameters of this process, from a `whole` one."""
        return _map_vectors(state, self._size, lambda x: x[self._places])

    def _whole(self, x: Tensor) -> Tensor:
        n = self._n_own if self._reducer.rank else len(x)
        whole = x.new_zeros(self._size)
        whole[self._places[:n]] = x[:n]
        return self._reducer.sum(whole)


def _map_vectors(state: Any, size: int, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply a function to all vectors of a size in nested dataclasses, dicts and sequences."""

    def mapped(x: Any) -> Any:
        if isinstance(x, Tensor):
            return function(x) if x.shape == (size,) else x
        if is_dataclass(x) and not isinstance(x, type):
            return replace(x, **{f.name: mapped(getattr(x, f.name)) for f in fields(x)})
        if isinstance(x, dict):
            return {name: mapped(value) for name, value in x.items()}
        if isinstance(x, deque):
            return deque(map(mapped, x), x.maxlen)
        return type(x)(map(mapped, x)) if isinstance(x, list | tuple) else x

    return mapped(state)
