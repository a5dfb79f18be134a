"""Features of a coarse cloud carried to a finer one by inverse distance weights.

Sums of few rows go through `embedding_bag`, which gathers nothing and is the fastest form measured, also against
compiled loops. Its own backward pass is not: the gradient of the features is another such sum, over the inverse list,
in a fixed order and without atomics.

Three operators close under differentiation, which gives derivatives of every order: weighted sums of features,
their transpose (sums per feature row), and products of rows (one number per weight).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.nn.functional import embedding_bag

from rotaware.geo.checks import (
    require_floating,
    require_integer,
    require_same_device,
    require_same_dtype,
    require_shape,
)
from rotaware.geo.threads import run_in_pieces

from .batches import Backend, Lengths
from .inverse import inverse_neighbors
from .neighborhood import Neighborhood
from .neighbors import knn
from .operators import define_operator, sees_through
from .reference import gather_rows

# Keeps the weight of a source at distance zero finite; in the unit of the points.
DISTANCE_FLOOR = 1e-8
HALF = (torch.float16, torch.bfloat16)
# Below this many multiplications a piece of work is not worth a thread.
PRODUCTS_PER_PIECE = 1 << 20


class InterpolationWeights(NamedTuple):
    """Sources of each query and their shares."""

    index: Tensor  # type: ignore[assignment]  # (M, k) int32, packed rows of the sources, -1 where there is none
    weights: Tensor  # (M, k), summing to one, 0 where there is no source


def interpolation_weights(
    queries: Tensor,
    sources: Tensor,
    *,
    k: int = 3,
    lengths: Lengths | None = None,
    query_lengths: Lengths | None = None,
    tie_tolerance: float = 0.0,
    backend: Backend = "auto",
) -> InterpolationWeights:
    """Weights proportional to `1 / (distance + 1e-8)` over the k nearest sources.

    Args:
        queries: (M, 3) float32 or float64, where features are wanted.
        sources: (N, 3), same dtype and device, where they are known.
        k: sources per query.
        lengths: (B,) rows of each cloud in `sources`; None for one cloud.
        query_lengths: (B,) rows of each cloud in `queries`.
        tie_tolerance, backend: as in `knn`.
    Returns:
        A query on top of a source takes that source alone, up to rounding. A query without any source has weights 0.
        No gradient.
    Raises:
        TypeError, ValueError, RuntimeError: as in `knn`.
    Reference: Qi et al., PointNet++, NeurIPS 2017, equation 2, with the distance itself instead of its square.

    >>> sources = torch.tensor([[0.0, 0, 0], [4, 0, 0]])
    >>> interpolation_weights(torch.tensor([[1.0, 0, 0]]), sources).weights
    tensor([[0.7500, 0.2500, 0.0000]])
    """
    index, distance = knn(
        sources,
        k,
        queries=queries,
        lengths=lengths,
        query_lengths=query_lengths,
        tie_tolerance=tie_tolerance,
        backend=backend,
    )
    closeness = 1 / (distance + DISTANCE_FLOOR)
    total = closeness.sum(1, keepdim=True)
    return InterpolationWeights(index, torch.where(index >= 0, closeness / total, 0))


def interpolate(features: Tensor, index: Tensor | Neighborhood, weights: Tensor) -> Tensor:
    """Weighted sums of feature rows.

    Args:
        features: (N, C) floating point.
        index: (M, k) int32 or int64 rows of `features`, -1 for none; or a Neighborhood of M queries and N keys, which
            keeps the inverse list that the backward pass needs (90 000 slots take a tenth of a millisecond).
        weights: (M, k), dtype of `features`, or float32 beside half precision; ignored where the index is -1.
    Returns:
        (M, C), dtype of `features`; a query without any source gets zeros. Gradients, equal to the bit in every run,
        flow to `features` and `weights`, to any order. Under forward-mode differentiation and `torch.func` transforms
        (M, k, C) memory is needed.
    Raises:
        TypeError: `features` or `weights` not floating point, `index` not integer.
        ValueError: shapes, dtypes or devices that do not fit.
        RuntimeError: on the CPU, an index of N or more; elsewhere what happens then is not defined.

    >>> values = torch.tensor([[1.0], [5.0]])
    >>> interpolate(values, torch.tensor([[0, 1, -1]]), torch.tensor([[0.75, 0.25, 0]]))
    tensor([[2.]])
    """
    neighborhood = index if isinstance(index, Neighborhood) else None
    table = index.idx if isinstance(index, Neighborhood) else index
    require_floating("features", features)
    require_shape("features", features, "N" if neighborhood is None else neighborhood.num_keys, "C")
    require_integer("index", table)
    require_shape("index", table, "M", "k")
    require_floating("weights", weights)
    require_shape("weights", weights, *table.shape)
    if features.dtype not in HALF or weights.dtype != torch.float32:
        require_same_dtype({"features": features, "weights": weights})
    require_same_device({"features": features, "index": table, "weights": weights})
    if table.dtype not in (torch.int32, torch.int64):
        table = table.to(torch.int64)
    ptr = edge = None
    if neighborhood is not None and torch.is_grad_enabled() and features.requires_grad:
        ptr, edge = neighborhood.inverse()
    return _sums(features, table, weights, ptr, edge)


def _sums(features: Tensor, index: Tensor, weights: Tensor, ptr: Tensor | None, edge: Tensor | None) -> Tensor:
    """(M, C): sum_j weights[i, j] * features[index[i, j]]."""
    if not sees_through(features, weights):
        return _sums_operator(features, index, weights, ptr, edge)
    present = (index >= 0)[..., None]
    rows = torch.where(present, gather_rows(features, index.clamp(min=0).to(torch.int64)), 0)
    return (rows * torch.where(present, weights[..., None], 0)).sum(1).to(features.dtype)


def _transposed(
    rows: Tensor, index: Tensor, weights: Tensor, ptr: Tensor | None, edge: Tensor | None, count: int
) -> Tensor:
    """(N, C): sum over all (i, j) with index[i, j] == n of weights[i, j] * rows[i]."""
    if sees_through(rows, weights):
        present = (index >= 0)[..., None]
        terms = torch.where(present, rows[:, None] * weights[..., None], 0).to(rows.dtype)
        target = index.clamp(min=0).to(torch.int64)
        # One row more, for a table without any. Not `flatten`: the vmap behind `is_grads_batched` does not know it.
        return rows.new_zeros(count + 1, rows.shape[1]).index_add(
            0, target.reshape(-1), terms.reshape(-1, rows.shape[1])
        )[:count]
    if ptr is None or edge is None:
        ptr, edge = inverse_neighbors(index, count)
    return _transposed_operator(rows, index, weights, ptr, edge)


def _products(rows: Tensor, features: Tensor, index: Tensor, ptr: Tensor | None, edge: Tensor | None) -> Tensor:
    """(M, k): rows[i] . features[index[i, j]], zero where there is none; half precision gives float32."""
    if not sees_through(rows, features):
        return _products_operator(rows, features, index, ptr, edge)
    gathered = gather_rows(features, index.clamp(min=0).to(torch.int64))
    return torch.where(index >= 0, (_single(rows)[:, None] * _single(gathered)).sum(-1), 0)


def _single(tensor: Tensor) -> Tensor:
    """Half precision is storage only."""
    return tensor.to(torch.float32) if tensor.dtype in HALF else tensor


def _run_sums(features: Tensor, index: Tensor, weights: Tensor, ptr: Tensor | None, edge: Tensor | None) -> Tensor:
    """`_sums`, opaque to the compiler; ptr and edge are for the backward pass."""
    if not index.numel():
        return features.new_zeros(len(index), features.shape[1])
    table = features.to(torch.promote_types(features.dtype, weights.dtype))
    # Asking is free on the CPU only.
    if index.device.type != "cpu" or (index.numpy() < 0).any():
        present = index >= 0
        # Empty slots read a row of zeros: with any other, an infinite feature times weight 0 would be NaN.
        table = torch.cat([table, table.new_zeros(1, table.shape[1])])
        index = torch.where(present, index, len(features))
        weights = torch.where(present, weights, 0)
    return embedding_bag(
        index.contiguous(), table, per_sample_weights=weights.to(table.dtype).contiguous(), mode="sum"
    ).to(features.dtype)


def _fake_sums(features: Tensor, index: Tensor, weights: Tensor, ptr: Tensor | None, edge: Tensor | None) -> Tensor:
    return features.new_empty(index.shape[0], features.shape[1])


def _remember_sums(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, index, weights, ptr, edge = inputs
    ctx.count = features.shape[0]
    # Fixed weights, the usual case, do not keep the features in memory.
    ctx.save_for_backward(features if ctx.needs_input_grad[2] else None, index, weights, ptr, edge)


def _differentiate_sums(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    features, index, weights, ptr, edge = ctx.saved_tensors
    of_features, _, of_weights = ctx.needs_input_grad[:3]
    grad_features = _transposed(grad, index, weights, ptr, edge, ctx.count) if of_features else None
    grad_weights = _products(grad, features, index, ptr, edge).to(weights.dtype) if of_weights else None
    return grad_features, None, grad_weights, None, None


def _run_transposed(rows: Tensor, index: Tensor, weights: Tensor, ptr: Tensor, edge: Tensor) -> Tensor:
    """`_transposed`, opaque to the compiler."""
    count = ptr.shape[0] - 1
    if not index.numel():
        return rows.new_zeros(count, rows.shape[1])
    table = rows.to(torch.promote_types(rows.dtype, weights.dtype)).contiguous()
    shares, names = _along(edge, weights.to(table.dtype).reshape(-1), index.shape[1])
    # The last bag takes the empty slots.
    sums = embedding_bag(names, table, ptr.to(edge.dtype), per_sample_weights=shares, mode="sum")
    return sums[:count].to(rows.dtype)


def _along(edge: Tensor, weights: Tensor, slots: int) -> tuple[Tensor, Tensor]:
    """Weight and query of each edge."""
    if edge.device.type == "cpu" and weights.dtype not in HALF:
        # For these few numbers torch would start all its threads twice, and on a busy machine wait for them each time.
        places = edge.numpy()
        return torch.from_numpy(weights.numpy()[places]), torch.from_numpy(places // slots)
    return weights.index_select(0, edge), edge // slots


def _fake_transposed(rows: Tensor, index: Tensor, weights: Tensor, ptr: Tensor, edge: Tensor) -> Tensor:
    return rows.new_empty(ptr.shape[0] - 1, rows.shape[1])


def _remember_transposed(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate_transposed(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    rows, index, weights, ptr, edge = ctx.saved_tensors
    of_rows, _, of_weights = ctx.needs_input_grad[:3]
    grad_rows = _sums(grad, index, weights, ptr, edge).to(rows.dtype) if of_rows else None
    grad_weights = _products(rows, grad, index, ptr, edge).to(weights.dtype) if of_weights else None
    return grad_rows, None, grad_weights, None, None


def _run_products(rows: Tensor, features: Tensor, index: Tensor, ptr: Tensor | None, edge: Tensor | None) -> Tensor:
    """`_products`, opaque to the compiler; no (M, k, C) copy exists."""
    rows, features = _single(rows).contiguous(), _single(features)
    products = rows.new_zeros(index.shape)
    if not (len(features) and products.numel()):
        return products
    if rows.device.type == "cpu":
        arrays = rows.numpy(), features.contiguous().numpy(), index.numpy(), products.numpy()
        smallest = max(1, PRODUCTS_PER_PIECE // (index.shape[1] * max(1, rows.shape[1])))
        run_in_pieces(lambda start, stop: _fill_products(start, stop, *arrays), len(rows), smallest=smallest)
        return products
    names = index.clamp(min=0)
    for slot in range(index.shape[1]):
        products[:, slot] = (rows * features.index_select(0, names[:, slot])).sum(1)
    return products.masked_fill_(index < 0, 0)


# Sums of products may be taken in any order, the same in each run.
@njit(cache=True, nogil=True, fastmath={"contract", "nsz", "reassoc"})
def _fill_products(
    start: int, stop: int, rows: np.ndarray, features: np.ndarray, index: np.ndarray, products: np.ndarray
) -> None:
    """Fill rows `start` to `stop` of the (M, k) products, given as zeros; names of no feature row count as empty."""
    for row in range(start, stop):
        for slot in range(index.shape[1]):
            name = index[row, slot]
            if 0 <= name < features.shape[0]:
                total = products[row, slot]
                for column in range(rows.shape[1]):
                    total += rows[row, column] * features[name, column]
                products[row, slot] = total


def _fake_products(rows: Tensor, features: Tensor, index: Tensor, ptr: Tensor | None, edge: Tensor | None) -> Tensor:
    return rows.new_empty(index.shape, dtype=torch.float32 if rows.dtype in HALF else rows.dtype)


def _remember_products(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate_products(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    rows, features, index, ptr, edge = ctx.saved_tensors
    of_rows, of_features = ctx.needs_input_grad[:2]
    grad_rows = _sums(features, index, grad, ptr, edge).to(rows.dtype) if of_rows else None
    grad_features = None
    if of_features:
        grad_features = _transposed(rows, index, grad, ptr, edge, features.shape[0]).to(features.dtype)
    return grad_rows, grad_features, None, None, None


_sums_operator = define_operator(
    "interpolate",
    "(Tensor features, Tensor index, Tensor weights, Tensor? ptr, Tensor? edge) -> Tensor",
    run=_run_sums,
    fake=_fake_sums,
    backward=_differentiate_sums,
    setup_context=_remember_sums,
)
_transposed_operator = define_operator(
    "interpolate_transposed",
    "(Tensor rows, Tensor index, Tensor weights, Tensor ptr, Tensor edge) -> Tensor",
    run=_run_transposed,
    fake=_fake_transposed,
    backward=_differentiate_transposed,
    setup_context=_remember_transposed,
)
_products_operator = define_operator(
    "interpolate_products",
    "(Tensor rows, Tensor features, Tensor index, Tensor? ptr, Tensor? edge) -> Tensor",
    run=_run_products,
    fake=_fake_products,
    backward=_differentiate_products,
    setup_context=_remember_products,
)
