"""Neighborhood attention on the CPU: no gathered copy of anything, forward or backward.

The compiled loops are in `numba_rows`; here tensors become flat arrays and rows are split over threads. The backward
pass leaves two numbers per edge and head, the weight `a_ij` and the gradient `e_ij` of the logit, from which every key
then sums its own gradients over the inverse list: in a fixed order, so that results are equal to the bit in every run
and for any number of threads.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rotaware.geo.threads import run_in_pieces

from . import numba_rows
from .numba_rows import Shape
from .simd import Width

LOG = logging.getLogger(__name__)
# Compiled code that lies on disk is loaded in a fraction of this time.
SECONDS_BEFORE_NOTICE = 0.7
# Products below which a piece is not worth a thread, about 2 ms: on a machine with few cores ours compete with those of
# PyTorch, which spin for a while after each of its own operations.
PRODUCTS_PER_PIECE = 1 << 24


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    idx: Tensor,
    u: Tensor | None,
    y: Tensor | None,
    bias: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """`rotaware.kernels.reference.attend`, same arguments and results."""
    queries, heads = q.shape[:2]
    dtype = _working_dtype(q)
    shape = _shape(q, v, idx, u)
    out = torch.empty(queries, heads, v.shape[2], dtype=dtype)
    z = torch.empty(queries, heads, shape.pairs, dtype=dtype)
    lse = torch.empty(queries, heads, dtype=dtype)
    tables = _tables(q, k, v, idx, u, y, bias, scale, dtype)
    results = [_flat(x, dtype) for x in (out, z, lse)]

    def run(start: int, stop: int) -> None:
        numba_rows.attend(start, stop, shape, *_widths(shape), *tables, *results)

    _prepare(run, "attend", shape, dtype)
    run_in_pieces(run, queries, smallest=_rows_per_piece(shape.products))
    return out.to(q.dtype), z.to(q.dtype), lse


def backward(
    grad_out: Tensor,
    grad_z: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    idx: Tensor,
    u: Tensor | None,
    y: Tensor | None,
    bias: Tensor | None,
    out: Tensor,
    z: Tensor,
    lse: Tensor,
    ptr: Tensor | None,
    edge: Tensor | None,
    scale: float,
    wanted: list[bool],
) -> list[Tensor]:
    """Gradients of q, k, v, u, y and bias; those not `wanted` are empty.

    `ptr` and `edge` are the inverse list: edge[ptr[n]:ptr[n + 1]] are the numbers i * K + j with idx[i, j] == n. They
    are needed for k and v only.
    """
    dtype = _working_dtype(q)
    shape = _shape(q, v, idx, u)
    inputs = (q, k, v, u, y, bias)
    grads = [
        torch.empty(like.shape if wish and like is not None else (0,), dtype=dtype)
        for wish, like in zip(wanted, inputs, strict=True)
    ]
    grad_q, grad_k, grad_v, *grad_pair = (_flat(grad, dtype) for grad in grads)
    of_keys = wanted[1] or wanted[2]
    terms = np.empty(2 * idx.numel() * shape.heads if of_keys else 0, grad_q.dtype)
    tables = _tables(q, k, v, idx, u, y, bias, scale, dtype)
    grad_rows = _flat(grad_out, dtype)
    given = grad_rows, _flat(grad_z, dtype), _flat(lse, dtype)

    def run_queries(start: int, stop: int) -> None:
        numba_rows.query_gradients(start, stop, shape, *_widths(shape), *tables, *given, grad_q, *grad_pair, terms)

    _prepare(run_queries, "query_gradients", shape, dtype)
    run_in_pieces(run_queries, len(q), smallest=_rows_per_piece(2 * shape.products))
    if of_keys:
        assert ptr is not None and edge is not None
        lists = ptr.numpy(), edge.numpy()
        key_widths, q_rows = _widths(shape)[:2], tables[0]

        def run_keys(start: int, stop: int) -> None:
            numba_rows.key_gradients(start, stop, shape, *key_widths, q_rows, grad_rows, *lists, terms, grad_k, grad_v)

        _prepare(run_keys, f"key_gradients {edge.dtype}", shape, dtype)
        run_in_pieces(run_keys, len(k), smallest=_rows_per_piece(shape.products * len(q) // max(1, len(k))))
    return [
        grad.to(like.dtype) if like is not None and wish else q.new_empty(0)
        for grad, like, wish in zip(grads, inputs, wanted, strict=True)
    ]


def _working_dtype(q: Tensor) -> torch.dtype:
    """Half precision is storage only."""
    return torch.float64 if q.dtype == torch.float64 else torch.float32


def _shape(q: Tensor, v: Tensor, idx: Tensor, u: Tensor | None) -> Shape:
    return Shape(q.shape[1], q.shape[2], v.shape[2], 0 if u is None else u.shape[2], idx.shape[1])


def _widths(shape: Shape) -> tuple[Width, Width, Width]:
    """Channels of keys, values and pair features, as compiled code knows them."""
    return Width(max(1, shape.d)), Width(max(1, shape.dv)), Width(max(1, shape.pairs))


def _tables(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    idx: Tensor,
    u: Tensor | None,
    y: Tensor | None,
    bias: Tensor | None,
    scale: float,
    dtype: torch.dtype,
) -> tuple[Any, ...]:
    """What the compiled loops read."""
    number = np.float64(scale) if dtype == torch.float64 else np.float32(scale)
    return *(_flat(x, dtype) for x in (q, k, v)), idx.numpy(), *(_flat(x, dtype) for x in (u, y, bias)), number


def _flat(tensor: Tensor | None, dtype: torch.dtype) -> np.ndarray:
    """All numbers in a row; none for no tensor."""
    if tensor is None:
        return np.empty(0, np.float64 if dtype == torch.float64 else np.float32)
    return tensor.detach().to(dtype).contiguous().view(-1).numpy()


def _rows_per_piece(products_per_row: int) -> int:
    return max(1, PRODUCTS_PER_PIECE // max(1, products_per_row))


_PREPARED: set[tuple[object, ...]] = set()


def _prepare(run: Callable[[int, int], None], name: str, shape: Shape, dtype: torch.dtype) -> None:
    """Compile a loop or load it from disk, on no rows; says so if it takes long, once in a process.

    Every width of heads is a version of its own: constant widths are what makes the loops fast.
    """
    key = (name, shape.d, shape.dv, shape.pairs, dtype)
    if key in _PREPARED:
        return
    notice = threading.Timer(SECONDS_BEFORE_NOTICE, _announce)
    notice.daemon = True
    notice.start()
    try:
        run(0, 0)
    finally:
        notice.cancel()
    _PREPARED.add(key)


@functools.cache
def _announce() -> None:
    LOG.warning(
        "compiling neighborhood attention: a few seconds for every width of heads, once on this machine; kept in %s",
        numba_rows.attend.stats.cache_path,
    )
