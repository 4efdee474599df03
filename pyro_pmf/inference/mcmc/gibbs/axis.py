"""The users, or the items, of a chain: where their rows are, and the random numbers of the rows.

Processes that share a chain hold the rows of their own users, and all rows of the items. What is
summed over users is a sum over processes then, with the same bits in each of them. A process draws
rows of users from a random stream of its own, and all else from the stream of the items.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pyro_pmf.reducer import Reducer


@dataclass(frozen=True)
class Axis:
    """The users, or the items, of a chain.

    Attributes
    ----------
    n : int
        Number of rows in all processes.
    reducer : Reducer
        Sums over the processes that hold these rows, each some of them; the usual one where each
        process holds all.
    generator : torch.Generator or None
        Stream of random numbers of the rows; None for torch's random state. The stream of the
        items is the same in all processes, which draw all from it that they have in common.
    """

    n: int
    reducer: Reducer = field(default_factory=Reducer)
    generator: torch.Generator | None = None

    @property
    def is_spread(self) -> bool:
        """Whether other processes have other rows."""
        return self.reducer.size > 1

    def sum(self, x: Tensor) -> Tensor:
        """Return a sum over all rows.

        Parameters
        ----------
        x : Tensor, any shape
            The sum over the rows that this process has.

        Returns
        -------
        Tensor, of the shape of ``x``
        """
        return self.reducer.sum(x)

    def normal_like(self, x: Tensor) -> Tensor:
        """Return standard Normal numbers for these rows, of the shape and type of a tensor."""
        return torch.empty_like(x).normal_(generator=self.generator)

    def uniform_like(self, x: Tensor) -> Tensor:
        """Return uniform numbers for these rows, of the shape and type of a tensor."""
        return torch.empty_like(x).uniform_(generator=self.generator)


Axes = tuple[Axis, Axis]  # the users and the items
