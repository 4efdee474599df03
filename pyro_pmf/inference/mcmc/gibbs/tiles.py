"""Sums over the ratings of each row of a side, in tiles of columns that stay in the cache."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_pmf.data.pairs import Pattern
from pyro_pmf.data.scratch import Scratch
from pyro_pmf.moments import bilinear

_TILE = 1 << 14  # columns: their factors are 1 MB
_FEWEST = 16  # ratings of a row in a tile, on average; with fewer, adding up tiles takes longer


class Tiles:
    """The ratings of a side, row by row, in one tile of columns after the other.

    Where ratings of a row are far apart in a long matrix of columns, each is a miss of the cache.

    Parameters
    ----------
    pattern : Pattern
        The rated pairs, with a row for each row of the side.
    n_tiles : int, optional
        By default one for each 16,384 columns on a CPU, if rows have ratings enough.
    scratch : Scratch, optional
        Where the pattern is kept; in memory by default.

    Attributes
    ----------
    pattern : Pattern
        The pairs in the order of the tiles; it has a row for each row of each tile.
    n_rows : int
        Number of rows of the side.
    """

    def __init__(
        self, pattern: Pattern, n_tiles: int | None = None, scratch: Scratch | None = None
    ) -> None:
        self.n_rows = len(pattern.row_pointers) - 1
        self._n_columns = len(pattern.column_pointers) - 1
        if n_tiles is None:
            enough = len(pattern.columns) // (_FEWEST * max(self.n_rows, 1))
            n_tiles = min(-(-self._n_columns // _TILE), enough)
            n_tiles = max(n_tiles, 1) if pattern.columns.device.type == "cpu" else 1
        self._n_tiles = n_tiles
        self.pattern = pattern if n_tiles == 1 else pattern.tiled(n_tiles, scratch)

    def dot(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the product of row and column at each rating, shape (n_ratings,).

        Parameters
        ----------
        rows : Tensor, shape (n_rows, D)
        columns : Tensor, shape (n_columns, D)
        """
        if self._n_tiles > 1:
            rows = rows.repeat(self._n_tiles, 1)
        return bilinear.dot(rows, columns, self.pattern)

    def weighted_sum(self, weights: Tensor, columns: Tensor) -> Tensor:
        """Return the weighted sum of the columns of each row's ratings, shape (n_rows, D).

        Parameters
        ----------
        weights : Tensor, shape (n_ratings,)
        columns : Tensor, shape (n_columns, D)
        """
        return self._together(bilinear.weighted_sum(weights, columns, self.pattern))

    def gram(self, weights: Tensor, columns: Tensor) -> Tensor:
        """Return the lower triangles of the Gram matrices of each row; see `bilinear.gram`.

        Parameters
        ----------
        weights : Tensor, shape (n_ratings,)
        columns : Tensor, shape (n_columns, D)
        """
        return self._together(bilinear.gram(weights, columns, self.pattern))

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of the values of each row's ratings, float64, shape (n_rows,).

        Parameters
        ----------
        values : Tensor, shape (n_ratings,)
        """
        ones = values.new_ones(self._n_columns, 1, dtype=torch.float64)
        return self.weighted_sum(values.double(), ones)[:, 0]

    def _together(self, sums: Tensor) -> Tensor:
        if self._n_tiles == 1:
            return sums
        return sums.view(self._n_tiles, self.n_rows, -1).sum(0)
