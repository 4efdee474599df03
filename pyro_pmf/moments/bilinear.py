"""Operators over the observed cells; each appears in the gradient of another, or of itself.

`dot` maps two factor matrices to one number per cell (a sampled dense-dense product, SDDMM).
`weighted_sum` maps one number per cell and a factor matrix to rows (a sparse-dense product, SpMM),
and `cell_sum` does so with ones for the numbers.
Time and memory grow with the number of observed cells, not of all cells. Where torch has the
sparse kernels, no (n_cells, n_factors) intermediate is made.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from pyro_pmf.data.pairs import CellBlocks, Pattern

_NARROW = 8  # factors; fewer are padded with zeros
_CHUNK = 1 << 18  # cells per chunk without sparse kernels
_TOGETHER = 1 << 18  # rows, columns or cells of all draws that are multiplied in one call
_FEW = 64  # cells, for which calls take longer than products
_LINE = 16  # products of factors in one call: a line of the cache, so that a table of them fits


def dot(
    U: Tensor, V: Tensor, pattern: Pattern, b: Tensor | None = None, c: Tensor | None = None
) -> Tensor:
    """Return U_i . V_j + b_i + c_j at each observed cell (i, j).

    Parameters
    ----------
    U : Tensor, shape (..., n_rows, n_factors)
        Factors of the rows.
    V : Tensor, shape (..., n_columns, n_factors)
        Factors of the columns. Leading dimensions of all arguments broadcast.
    pattern : Pattern
        The observed cells.
    b : Tensor, shape (..., n_rows), optional
        Biases of the rows.
    c : Tensor, shape (..., n_columns), optional
        Biases of the columns.

    Returns
    -------
    Tensor, shape (..., n_cells)
        In row order. Differentiable any number of times. A `Gaussian` if an argument is random.

    Raises
    ------
    NoClosedForm
        If a random argument is not a `Gaussian`, or two arguments share a latent site.
    """
    operands = tuple(x for x in (U, V, b, c) if x is not None)
    if has_torch_function(operands):
        return handle_torch_function(dot, operands, U, V, pattern, b, c)
    if len(pattern.columns) <= _FEW and not torch.is_grad_enabled():
        return _few_products(U, V, pattern, b, c)
    # (U_i, b_i, 1) . (V_j, 1, c_j): one product; gathering b and c apart would double the cost
    left, right = [U], [V]
    if b is not None:
        left, right = [*left, b[..., None]], [*right, _ones(V)]
    if c is not None:
        left, right = [*left, _ones(U)], [*right, c[..., None]]
    return _sddmm(_columns(left), _columns(right), *pattern)


def weighted_sum(weights: Tensor, V: Tensor, pattern: Pattern) -> Tensor:
    """Return sum_j weights_ij V_j for each row i, over its observed cells.

    Parameters
    ----------
    weights : Tensor, shape (..., n_cells)
        One weight per cell, in row order.
    V : Tensor, shape (..., n_columns, n_factors)
        Factors of the columns. Leading dimensions of both arguments broadcast.
    pattern : Pattern
        The observed cells.

    Returns
    -------
    Tensor, shape (..., n_rows, n_factors)
        Zero in rows without cells. Differentiable any number of times. A `Gaussian` if ``V`` is.

    Raises
    ------
    NoClosedForm
        If ``weights`` are random, or ``V`` is random without being a `Gaussian` with independent
        entries.
    """
    if has_torch_function((weights, V)):
        return handle_torch_function(weighted_sum, (weights, V), weights, V, pattern)
    return _spmm(weights, V, *pattern)


def cell_sum(V: Tensor, cells: Pattern | CellBlocks) -> Tensor:
    """Return sum_j V_j for each row i, over its observed cells.

    Parameters
    ----------
    V : Tensor, shape (..., n_columns, n_factors)
        Factors of the columns.
    cells : Pattern or CellBlocks
        The observed cells. Blocks keep the rows that are gathered in a processor's cache.

    Returns
    -------
    Tensor, shape (..., n_rows, n_factors)
        As for `weighted_sum`.

    Raises
    ------
    NoClosedForm
        If ``V`` is random without being a `Gaussian` with independent entries.
    """
    if has_torch_function((V,)):
        return handle_torch_function(cell_sum, (V,), V, cells)
    if not isinstance(cells, CellBlocks):
        return _cell_sum(V, *cells)
    if not cells.is_transposed:
        return torch.cat([cell_sum(V, pattern) for pattern in cells.patterns], -2)
    parts = zip(cells.users, cells.patterns, strict=True)
    first, *others = (cell_sum(V[..., users, :], pattern.T) for users, pattern in parts)
    return sum(others, start=first)


def gram(weights: Tensor, V: Tensor, pattern: Pattern) -> Tensor:
    """Return the lower triangle of sum_j weights_ij V_j V_j^T for each row i.

    Parameters
    ----------
    weights : Tensor, shape (n_cells,)
        One weight per cell, in row order.
    V : Tensor, shape (n_columns, n_factors)
        Factors of the columns.
    pattern : Pattern
        The observed cells.

    Returns
    -------
    Tensor, shape (n_rows, n_factors (n_factors + 1) / 2)
        Entries in the order of ``torch.tril_indices(n_factors, n_factors)``.
    """
    entries = torch.tril_indices(V.shape[1], V.shape[1], device=V.device).split(_LINE, 1)
    # index_select is four times as fast as V[:, i]
    products = (V.index_select(1, i).mul_(V.index_select(1, j)) for i, j in entries)
    return torch.cat([weighted_sum(weights, x, pattern) for x in products], 1)


def unpacked(lower: Tensor) -> Tensor:
    """Return symmetric matrices from their lower triangles, as `gram` returns them.

    Parameters
    ----------
    lower : Tensor, shape (n, k (k + 1) / 2)
        Entries in the order of ``torch.tril_indices(k, k)``.

    Returns
    -------
    Tensor, shape (n, k, k)
    """
    k = (math.isqrt(8 * lower.shape[1] + 1) - 1) // 2
    i, j = torch.tril_indices(k, k, device=lower.device)
    place = i.new_empty(k, k)
    place[i, j] = place[j, i] = torch.arange(len(i), device=lower.device)
    return lower.index_select(1, place.flatten()).unflatten(1, (k, k))


def _few_products(
    U: Tensor, V: Tensor, pattern: Pattern, b: Tensor | None, c: Tensor | None
) -> Tensor:
    """Return `dot` for a few cells, without what the products of many need."""
    row, column = _rows(pattern.row_pointers), pattern.columns
    products = (U.index_select(-2, row) * V.index_select(-2, column)).sum(-1)
    for bias, index in ((b, row), (c, column)):
        if bias is not None:
            products = products + bias.index_select(-1, index)
    return products


def _ones(like: Tensor) -> Tensor:
    return like.new_ones(like.shape[-2], 1)


def _columns(parts: list[Tensor]) -> Tensor:
    """Concatenate matrices by columns, with broadcast leading dimensions."""
    if len(parts) == 1:
        return parts[0]
    lead = np.broadcast_shapes(*(part.shape[:-2] for part in parts))
    return torch.cat([part.expand(*lead, *part.shape[-2:]) for part in parts], -1)


def _has_sparse_kernels(device: torch.device) -> bool:
    """Return whether torch's CSR products run here: on a CPU they need a build with MKL."""
    return device.type != "cpu" or torch.backends.mkl.is_available()


def _csr(row_pointers: Tensor, columns: Tensor, values: Tensor, n_columns: int) -> Tensor:
    return torch.sparse_csr_tensor(
        row_pointers,
        columns,
        values,
        size=(len(row_pointers) - 1, n_columns),
        check_invariants=False,
    )


with warnings.catch_warnings():  # torch says once that they are in beta
    warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
    _csr(torch.zeros(2).int(), torch.zeros(0).int(), torch.zeros(0), 1)


def _sampled_product(U: Tensor, V: Tensor, row_pointers: Tensor, columns: Tensor) -> Tensor:
    # torch's kernel refuses more cells than the matrix has, as pairs that are repeated may be
    if _has_sparse_kernels(U.device) and len(columns) <= len(U) * len(V):
        if U.shape[-1] < _NARROW:  # torch's kernel for narrow matrices is slow
            U, V = (F.pad(x, (0, _NARROW - x.shape[-1])) for x in (U, V))
        values = U.new_zeros(len(columns))
        cells = _csr(row_pointers, columns, values, len(V))
        torch.sparse.sampled_addmm(cells, U, V.mT, beta=0.0, out=cells)  # writes into `values`
        return values
    rows = _rows(row_pointers)
    chunks = zip(rows.split(_CHUNK), columns.split(_CHUNK), strict=True)
    return torch.cat([(U[i] * V[j]).sum(-1) for i, j in chunks])


def _sparse_product(weights: Tensor, V: Tensor, row_pointers: Tensor, columns: Tensor) -> Tensor:
    if _has_sparse_kernels(V.device):
        return _csr(row_pointers, columns, weights, len(V)) @ V
    rows = _rows(row_pointers)
    total = V.new_zeros(len(row_pointers) - 1, V.shape[-1])
    chunks = zip(rows.split(_CHUNK), columns.split(_CHUNK), weights.split(_CHUNK), strict=True)
    for i, j, w in chunks:
        total.index_add_(0, i, w[:, None] * V[j])
    return total


def _rows(row_pointers: Tensor) -> Tensor:
    """Return the row of each cell, in row order."""
    n_rows = len(row_pointers) - 1
    return torch.arange(n_rows, device=row_pointers.device).repeat_interleave(row_pointers.diff())


def _block_diagonal(
    row_pointers: Tensor, columns: Tensor, n_columns: int, n_blocks: int
) -> tuple[Tensor, Tensor]:
    """Return the row pointers and columns of a matrix with the same cells in each block."""
    block = torch.arange(n_blocks, dtype=torch.int32, device=columns.device)[:, None]
    ends = (row_pointers[1:] + block * len(columns)).flatten()
    return torch.cat([row_pointers[:1], ends]), (columns + block * n_columns).flatten()


def _batched(
    kernel: Callable[[Tensor, Tensor], Tensor], a: Tensor, a_dims: int, b: Tensor, b_dims: int
) -> Tensor:
    """Apply a kernel over the broadcast leading dimensions of its two arguments."""
    # NumPy, because torch.broadcast_shapes imports SymPy: half a second at the first call
    lead = np.broadcast_shapes(a.shape[: a.dim() - a_dims], b.shape[: b.dim() - b_dims])
    if not lead:
        return kernel(a.contiguous(), b.contiguous())
    a = a.expand(*lead, *a.shape[a.dim() - a_dims :]).flatten(0, len(lead) - 1)
    b = b.expand(*lead, *b.shape[b.dim() - b_dims :]).flatten(0, len(lead) - 1)
    if math.prod(lead) == 0:
        one = kernel(a.new_zeros(a.shape[1:]), b.new_zeros(b.shape[1:]))
        return one.new_zeros((*lead, *one.shape))
    out = torch.stack([kernel(x.contiguous(), y.contiguous()) for x, y in zip(a, b, strict=True)])
    return out.unflatten(0, lead)


# Not torch.library.custom_op, which imports torch._dynamo at the first call: half a second.
_PATTERN = ", ".join(f"Tensor {name}" for name in Pattern._fields)
torch.library.define("pyro_pmf::sddmm", f"(Tensor U, Tensor V, {_PATTERN}) -> Tensor")
torch.library.define("pyro_pmf::spmm", f"(Tensor weights, Tensor V, {_PATTERN}) -> Tensor")
torch.library.define("pyro_pmf::cell_sum", f"(Tensor V, {_PATTERN}) -> Tensor")
_sddmm = torch.ops.pyro_pmf.sddmm.default
_spmm = torch.ops.pyro_pmf.spmm.default
_cell_sum = torch.ops.pyro_pmf.cell_sum.default


@torch.library.impl("pyro_pmf::sddmm", "default")
def _(U: Tensor, V: Tensor, row_pointers: Tensor, columns: Tensor, *_: Tensor) -> Tensor:
    """Return U_i . V_j at each cell."""
    lead = np.broadcast_shapes(U.shape[:-2], V.shape[:-2])
    n, n_columns = math.prod(lead), V.shape[-2]
    if lead and 0 < n * max(U.shape[-2], n_columns, len(columns)) <= _TOGETHER:
        # a call for each draw would take far longer than the products of a few cells
        u, v = (x.expand(*lead, *x.shape[-2:]).flatten(0, -2) for x in (U, V))
        cells = _block_diagonal(row_pointers, columns, n_columns, n)
        return _sampled_product(u, v, *cells).reshape(*lead, len(columns))
    return _batched(lambda u, v: _sampled_product(u, v, row_pointers, columns), U, 2, V, 2)


@torch.library.impl("pyro_pmf::spmm", "default")
def _(weights: Tensor, V: Tensor, row_pointers: Tensor, columns: Tensor, *_: Tensor) -> Tensor:
    """Return sum_j weights_ij V_j for each row i."""
    return _batched(lambda w, v: _sparse_product(w, v, row_pointers, columns), weights, 1, V, 2)


@torch.library.impl("pyro_pmf::cell_sum", "default")
def _(V: Tensor, row_pointers: Tensor, columns: Tensor, *_: Tensor) -> Tensor:
    """Return sum_j V_j for each row i."""
    ones = V.new_ones(len(columns))
    return _batched(lambda w, v: _sparse_product(w, v, row_pointers, columns), ones, 1, V, 2)


@torch.library.register_fake("pyro_pmf::sddmm")
def _(U: Tensor, V: Tensor, *pattern: Tensor) -> Tensor:
    lead = torch.broadcast_shapes(U.shape[:-2], V.shape[:-2])
    return U.new_empty((*lead, pattern[1].shape[0]))


@torch.library.register_fake("pyro_pmf::spmm")
def _(weights: Tensor, V: Tensor, *pattern: Tensor) -> Tensor:
    lead = torch.broadcast_shapes(weights.shape[:-1], V.shape[:-2])
    return V.new_empty((*lead, pattern[0].shape[0] - 1, V.shape[-1]))


@torch.library.register_fake("pyro_pmf::cell_sum")
def _(V: Tensor, *pattern: Tensor) -> Tensor:
    return V.new_empty((*V.shape[:-2], pattern[0].shape[0] - 1, V.shape[-1]))


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    a, b, *pattern = inputs
    ctx.save_for_backward(a, b)
    ctx.pattern = Pattern(*pattern)


def _sddmm_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    U, V = ctx.saved_tensors
    cells: Pattern = ctx.pattern
    dU = dV = None
    if ctx.needs_input_grad[0]:
        dU = _spmm(grad, V, *cells).sum_to_size(U.shape)
    if ctx.needs_input_grad[1]:
        dV = _spmm(_in_column_order(grad, cells), U, *cells.T).sum_to_size(V.shape)
    return dU, dV, *(None,) * len(cells)


def _spmm_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    weights, V = ctx.saved_tensors
    cells: Pattern = ctx.pattern
    dweights = dV = None
    if ctx.needs_input_grad[0]:
        dweights = _sddmm(grad, V, *cells).sum_to_size(weights.shape)
    if ctx.needs_input_grad[1]:
        dV = _spmm(_in_column_order(weights, cells), grad, *cells.T).sum_to_size(V.shape)
    return dweights, dV, *(None,) * len(cells)


def _save_pattern(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.pattern = Pattern(*inputs[1:])


def _cell_sum_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    cells: Pattern = ctx.pattern
    return _cell_sum(grad, *cells.T), *(None,) * len(cells)


def _in_column_order(values: Tensor, cells: Pattern) -> Tensor:
    return values.index_select(-1, cells.to_column_order)  # twice as fast as values[..., order]


torch.library.register_autograd("pyro_pmf::sddmm", _sddmm_backward, setup_context=_save)
torch.library.register_autograd("pyro_pmf::spmm", _spmm_backward, setup_context=_save)
torch.library.register_autograd(
    "pyro_pmf::cell_sum", _cell_sum_backward, setup_context=_save_pattern
)
