"""The observed cells of the rating matrix, as tensors in row order and in column order."""

from __future__ import annotations

import copy
import itertools
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_pmf.data.scratch import Scratch

_SORTED = 1 << 22  # cells that are sorted at a time


class Pattern(NamedTuple):
    """The sparsity pattern of the rating matrix (I in the papers), in CSR and in CSC order.

    Indices are int32: the sparse kernels work with this type, and it halves the memory traffic of
    int64. A pattern has at most 2^31 - 1 cells.

    Attributes
    ----------
    row_pointers : Tensor, int32, shape (n_rows + 1,)
        In row order, the cells of row i are ``row_pointers[i]`` to ``row_pointers[i + 1] - 1``.
    columns : Tensor, int32, shape (n_cells,)
        The column of each cell, in row order.
    column_pointers : Tensor, int32, shape (n_columns + 1,)
        In column order, the cells of column j are ``column_pointers[j]`` to
        ``column_pointers[j + 1] - 1``.
    rows : Tensor, int32, shape (n_cells,)
        The row of each cell, in column order.
    to_column_order, to_row_order : Tensor, int32, shape (n_cells,)
        Inverse permutations: ``x[to_column_order]`` puts values in row order into column order.
    """

    row_pointers: Tensor
    columns: Tensor
    column_pointers: Tensor
    rows: Tensor
    to_column_order: Tensor
    to_row_order: Tensor

    @property
    def T(self) -> Pattern:
        """The pattern of the transposed matrix, without a copy."""
        return Pattern(
            self.column_pointers,
            self.rows,
            self.row_pointers,
            self.columns,
            self.to_row_order,
            self.to_column_order,
        )

    def tiled(self, n_tiles: int, scratch: Scratch | None = None) -> Pattern:
        """Cut the columns into tiles, and return the pattern with the rows of one after another.

        A sum over a row is then one of ``n_tiles`` sums, each over a range of columns that lie
        close together. Columns stay as they are.

        Parameters
        ----------
        n_tiles : int
            Number of tiles; ``n_tiles * n_rows`` rows come of them.
        scratch : Scratch, optional
            Where the pattern is kept; in memory by default.
        """
        n_rows, n_columns = len(self.row_pointers) - 1, len(self.column_pointers) - 1
        tile = self.columns.long() * n_tiles // n_columns
        row = torch.arange(n_rows, device=tile.device).repeat_interleave(self.row_pointers.diff())
        row.add_(tile, alpha=n_rows)
        order = torch.argsort(row, stable=True)
        keep = (scratch or Scratch()).keep
        return Pattern(
            _pointers(row, n_tiles * n_rows),
            keep(self.columns[order]),
            self.column_pointers,
            keep(row[self.to_column_order].int()),
            keep(_inverse(order)[self.to_column_order]),
            keep(self.to_row_order[order]),
        )


class CellBlocks(NamedTuple):
    """The cells of a matrix by blocks of users, which sums of many cells go through in turn.

    Attributes
    ----------
    users : tuple of slice
        The users of each block; together all users, in order.
    patterns : tuple of Pattern
        The cells of each block, with a row for each of its users.
    is_transposed : bool
        Whether the rows of the matrix are the items.
    """

    users: tuple[slice, ...]
    patterns: tuple[Pattern, ...]
    is_transposed: bool = False

    @property
    def T(self) -> CellBlocks:
        """The cells of the transposed matrix."""
        return self._replace(is_transposed=not self.is_transposed)


class Cells:
    """The observed cells of a rating matrix; their orders are computed once and cached.

    Parameters
    ----------
    user, item : Tensor, int64, shape (n,)
        Row and column of each cell; ``user`` must ascend.
    n_users, n_items : int
        Shape of the matrix.
    scratch : Scratch, optional
        Where the pattern is kept; in memory by default.
    """

    def __init__(
        self,
        user: Tensor,
        item: Tensor,
        n_users: int,
        n_items: int,
        scratch: Scratch | None = None,
    ) -> None:
        self.user, self.item = user, item
        self.n_users, self.n_items = n_users, n_items
        self.scratch = scratch or Scratch()

    @cached_property
    def pattern(self) -> Pattern:
        """The sparsity pattern of the cells.

        Cells are sorted some at a time, which takes the memory of some.
        """
        n, device = len(self.user), self.user.device
        columns, rows, to_column_order, to_row_order = (
            self.scratch.empty(n, torch.int32, device) for _ in range(4)
        )
        column_pointers = _pointers(self.item, self.n_items)
        next_place = column_pointers[:-1].long()
        for start in range(0, n, _SORTED):
            item = self.item[start : start + _SORTED]
            order = torch.argsort(item, stable=True)
            counts = torch.bincount(item, minlength=self.n_items)
            within = torch.arange(len(item), device=device)
            within -= (counts.cumsum(0) - counts).repeat_interleave(counts)
            place = next_place.repeat_interleave(counts).add_(within)
            next_place += counts
            columns[start : start + _SORTED] = item
            rows[place] = self.user[start : start + _SORTED][order].int()
            to_column_order[place] = (order + start).int()
            to_row_order[start : start + _SORTED][order] = place.int()
        return Pattern(
            _pointers(self.user, self.n_users),
            columns,
            column_pointers,
            rows,
            to_column_order,
            to_row_order,
        )

    @cached_property
    def user_counts(self) -> Tensor:
        """Number of cells in each row, int32, shape (n_users,)."""
        return _pointers(self.user, self.n_users).diff()  # without sorting for the pattern

    @cached_property
    def item_counts(self) -> Tensor:
        """Number of cells in each column, int32, shape (n_items,)."""
        return _pointers(self.item, self.n_items).diff()


class _WiderCells(Cells):
    """The same cells in a larger matrix; sorting them again takes as long as a step of a fit."""

    def __init__(self, cells: Cells, n_users: int, n_items: int) -> None:
        super().__init__(cells.user, cells.item, n_users, n_items, cells.scratch)
        self._cells = cells

    @cached_property
    def pattern(self) -> Pattern:
        """The sparsity pattern of the cells."""
        inner = self._cells
        return inner.pattern._replace(
            row_pointers=_padded(inner.pattern.row_pointers, self.n_users - inner.n_users),
            column_pointers=_padded(inner.pattern.column_pointers, self.n_items - inner.n_items),
        )


class Pairs:
    """Pairs (user, item) of the rating matrix, sorted by user, with or without values.

    This is all that a model needs of a table of ratings.

    Parameters
    ----------
    user, item : Tensor, int64, shape (n,)
        Indices: the row of U and the row of V of each pair; ``user`` must ascend.
    n_users, n_items : int
        Shape of the rating matrix.
    value : Tensor, float, shape (n,), optional
        Ratings on the model scale, such as [0, 1]. Without values, the site ``rating`` is not
        observed.
    dtype : torch.dtype, optional
        Floating-point type of all that a model computes. By default the type of ``value``, or
        float32 without values.
    scratch : Scratch, optional
        Where arrays with an entry for each pair are kept; in memory by default.
    """

    def __init__(
        self,
        user: Tensor,
        item: Tensor,
        n_users: int,
        n_items: int,
        value: Tensor | None = None,
        dtype: torch.dtype | None = None,
        scratch: Scratch | None = None,
    ) -> None:
        self.user, self.item, self.value = user, item, value
        self.n_users, self.n_items = n_users, n_items
        self.dtype = dtype or (torch.float32 if value is None else value.dtype)
        self._cells = Cells(user, item, n_users, n_items, scratch)
        self._blocks: CellBlocks | None = None

    def __len__(self) -> int:
        return len(self.user)

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.user.device

    @property
    def scratch(self) -> Scratch:
        """Where arrays with an entry for each pair are kept."""
        return self._cells.scratch

    @property
    def pattern(self) -> Pattern:
        """The sparsity pattern of the pairs."""
        return self._cells.pattern

    @property
    def cells(self) -> Pattern | CellBlocks:
        """The pattern, or that of each of some blocks; see `in_blocks`."""
        return self._blocks or self.pattern

    @property
    def user_counts(self) -> Tensor:
        """Number of pairs of each user, int32, shape (n_users,)."""
        return self._cells.user_counts

    @property
    def item_counts(self) -> Tensor:
        """Number of pairs of each item, int32, shape (n_items,)."""
        return self._cells.item_counts

    def user_blocks(self, n_blocks: int) -> list[Pairs]:
        """Cut the pairs into blocks of whole users, with about the same number of pairs each.

        Parameters
        ----------
        n_blocks : int
            Number of blocks. There are fewer where one user has more pairs than a block holds.

        Returns
        -------
        list of Pairs
            Consecutive blocks of the same matrix; together they are all pairs, in order.
        """
        ends = _pointers(self.user, self.n_users).cpu()
        wanted = torch.arange(1, n_blocks) * (len(self) / n_blocks)
        after = torch.searchsorted(ends, wanted.ceil().int()).clamp(1, len(ends) - 1)
        below, above = ends[after - 1], ends[after]
        cuts = torch.unique(torch.where(wanted - below < above - wanted, below, above)).tolist()
        bounds = [0, *(cut for cut in cuts if 0 < cut < len(self)), len(self)]
        return [self._between(*pair) for pair in itertools.pairwise(bounds)]

    def in_blocks(self, blocks: CellBlocks) -> Pairs:
        """Return the same pairs, whose sums go through blocks of users.

        Parameters
        ----------
        blocks : CellBlocks
            The same pairs.
        """
        again = copy.copy(self)  # a shard stays one
        again._blocks = blocks
        return again

    def first_pair(self) -> Pairs:
        """Return the first pair, in the same matrix."""
        return self._between(0, 1)

    def _between(self, start: int, end: int) -> Pairs:
        value = None if self.value is None else self.value[start:end]
        user, item = self.user[start:end], self.item[start:end]
        return Pairs(user, item, self.n_users, self.n_items, value, self.dtype)

    def within(self, n_users: int, n_items: int) -> Pairs:
        """Return the same pairs as cells of a larger matrix, without values.

        Parameters
        ----------
        n_users, n_items : int
            Shape of the larger matrix.
        """
        wider = Pairs(self.user, self.item, n_users, n_items, dtype=self.dtype)
        if (n_users, n_items) == (self.n_users, self.n_items):
            wider._cells = self._cells
        else:
            wider._cells = _WiderCells(self._cells, n_users, n_items)
        return wider

    def to(
        self, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Pairs:
        """Return the same pairs on another device or with another floating point type.

        Parameters
        ----------
        device : str or torch.device, optional
            By default the device does not change.
        dtype : torch.dtype, optional
            By default the type does not change.
        """
        dtype = dtype or self.dtype
        value = None if self.value is None else self.value.to(device, dtype)
        user, item = self.user.to(device), self.item.to(device)
        return Pairs(user, item, self.n_users, self.n_items, value, dtype)

    def without_values(self) -> Pairs:
        """Return the same pairs without values, so that the site ``rating`` is not observed."""
        return self.within(self.n_users, self.n_items)


def _pointers(sorted_or_not: Tensor, n: int) -> Tensor:
    """Return the offset of each index's cells in the order of that index, shape (n + 1,)."""
    counts = torch.bincount(sorted_or_not, minlength=n)
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0)).int()


def _inverse(order: Tensor) -> Tensor:
    """Return the inverse of a permutation, int32."""
    inverse = torch.empty_like(order, dtype=torch.int32)
    inverse[order] = torch.arange(len(order), dtype=torch.int32, device=order.device)
    return inverse


def _padded(pointers: Tensor, n: int) -> Tensor:
    """Append n rows without cells."""
    return torch.cat([pointers, pointers[-1:].expand(n)])
