"""The part of one process in a fit that several share: the ratings and the rows of some users.

All processes hold the latents of the items, and the same values of them. Given these, users are
independent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from torch import Tensor

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.data.shards import Shard, shard_of, shard_of_part
from pyro_pmf.model.terms import Terms
from pyro_pmf.reducer import Reducer

T = TypeVar("T")


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
    first_rating : int
        Place of the first of its ratings among all, in the order of the users.
    """

    reducer: Reducer
    shard: Shard
    is_part: bool
    first_rating: int

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
            shard = shard_of_part(ratings, reducer)
        else:
            shard = shard_of(ratings, reducer.rank, reducer.size)
        first = sum(reducer.each(len(shard))[: reducer.rank])
        return cls(reducer, shard, is_part, first)

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

    def rows(self, latents: Mapping[str, T], terms: Terms) -> dict[str, T]:
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
        own = sites_of_users(terms)
        return {name: self._rows(x) if name in own else x for name, x in latents.items()}

    def draws(self, latents: Mapping[str, Tensor], terms: Terms) -> dict[str, Tensor]:
        """Return draws with the rows of the users of all processes; each of them calls this.

        Parameters
        ----------
        latents : mapping of str to Tensor, shape (n_draws, ...)
            Draws by site, with the rows that the posterior of this process has.
        terms : Terms
            Terms of the model.
        """
        own = sites_of_users(terms) if self.is_part else set()
        return {name: self.users(x, 1) if name in own else x for name, x in latents.items()}

    def own_draws(self, latents: Mapping[str, Tensor], terms: Terms) -> dict[str, Tensor]:
        """Return draws with the rows that the posterior of this process has; see `draws`."""
        own = sites_of_users(terms) if self.is_part else set()
        return {name: self.own_users(x, 1) if name in own else x for name, x in latents.items()}

    def users(self, x: Tensor, dim: int = 0) -> Tensor:
        """Return the rows of the users of all processes; each of them calls this.

        Parameters
        ----------
        x : Tensor
            Rows of the users of this process, along a dimension.
        dim : int
            The dimension.
        """
        return self._whole(x, self.shard.n_all_users, self.shard.first, dim)

    def own_users(self, x: Tensor, dim: int = 0) -> Tensor:
        """Return the rows of the users of this process, from a result of `users`."""
        return x.narrow(dim, self.shard.first, self.shard.n_users).clone()

    def ratings(self, x: Tensor) -> Tensor:
        """Return a number for each rating of all processes, from those of this one."""
        return self._whole(x, self.shard.n_all_pairs, self.first_rating, 0)

    def own_ratings(self, x: Tensor) -> Tensor:
        """Return a number for each rating of this process, from a result of `ratings`."""
        return x.narrow(0, self.first_rating, len(self.shard)).clone()

    def _rows(self, x: Any) -> Any:
        return self.users(x) if isinstance(x, Tensor) else x.map(self.users)

    def _whole(self, x: Tensor, n: int, first: int, dim: int) -> Tensor:
        shape = list(x.shape)
        shape[dim] = n
        whole = x.new_zeros(shape)
        whole.narrow(dim, first, x.shape[dim]).copy_(x)
        return self.reducer.sum(whole)


def sites_of_users(terms: Terms) -> set[str]:
    """Return the sites that have a row for each user."""
    return {term.site for term in terms if term.plate == "users"}
