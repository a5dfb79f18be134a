"""Reductions over segments of rows in core torch: sums, means, maxima, minima, softmax, and their repetition.

The segments are runs of consecutive rows, given by their borders `ptr`, or any groups of rows, given by an `Inverse`:
`group_rows` makes one from the number of each row's segment, `Neighborhood.inverse` is one as well. Nothing is sorted
or copied for it: rows are added through the list, in a fixed order, so results are equal to the bit in every run, on
every device. Gradients are of any order; empty segments give 0.

What replaces the functions of torch-scatter:

| torch-scatter | here |
|---|---|
| `segment_csr(x, ptr, reduce="sum")`, also mean, max, min | `segment_sum(x, ptr)`, `segment_mean`, ... |
| `gather_csr(x, ptr)` | `segment_repeat(x, ptr)` |
| `scatter(x, index, 0, dim_size=n, reduce="sum")`, also mean, max, min | `segment_sum(x, group_rows(index, n))`, ... |
| `scatter_max(x, index, 0)[1]` | `segment_argmax(x, group_rows(index, n))`, with -1 where that has the row count |
| `scatter_softmax(x, index, 0)` | `segment_softmax(x, group_rows(index, n))` |
| `segment_coo` (sorted `index`) | as `scatter` |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.nn.functional import embedding_bag

from rotaware.geo.checks import require_floating, require_integer, require_same_device, require_shape
from rotaware.geo.threads import run_in_pieces

from .inverse import Inverse, inverse_neighbors
from .numba_rows import exponential
from .operators import define_operator, sees_through

Segments = Tensor | Inverse
# Below this many numbers a piece of work is not worth a thread.
NUMBERS_PER_PIECE = 1 << 18


def group_rows(index: Tensor, num_segments: int) -> Inverse:
    """The rows of each segment, from the segment of each row.

    Args:
        index: (E,) integers from 0 to S - 1, in any order; a negative one leaves its row out.
        num_segments: S.
    Raises:
        TypeError: not integers.
        ValueError: a wrong shape; on the CPU, a segment of S or more.

    >>> group_rows(torch.tensor([1, 0, 1]), 2)
    Inverse(ptr=tensor([0, 1, 3]), edge=tensor([1, 0, 2], dtype=torch.int32))
    """
    require_integer("index", index)
    require_shape("index", index, "E")
    return inverse_neighbors(index[:, None], num_segments)


def segment_sum(values: Tensor, segments: Segments) -> Tensor:
    """Sum of the rows of each segment.

    Args:
        values: (E, ...) floating point.
        segments: (S + 1,) integers that ascend from 0, the borders of runs of consecutive rows; rows from the last
            border on belong to no segment. Or an Inverse of S segments over E rows. Not checked on an accelerator.
    Returns:
        (S, ...), 0 for an empty segment. Half precision is added in float32.
    Raises:
        TypeError: values that are not floating point, segments that are not integers.
        ValueError: shapes or devices that do not fit; on the CPU, borders that do not ascend from 0 to at most E.

    >>> segment_sum(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 2, 2, 3]))
    tensor([3., 0., 4.])
    """
    ptr, edge = _checked(values, segments)
    return _sum(values, ptr, edge)


def segment_mean(values: Tensor, segments: Segments) -> Tensor:
    """Mean of the rows of each segment; arguments, errors and empty segments as for `segment_sum`.

    >>> segment_mean(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 2, 3]))
    tensor([1.5000, 4.0000])
    """
    ptr, edge = _checked(values, segments)
    # A sum may be too large for half precision where the mean is not.
    wide = values.to(torch.promote_types(values.dtype, torch.float32))
    counts = ptr.diff().clamp(min=1).to(wide.dtype)
    return (_sum(wide, ptr, edge) / counts.view(-1, *[1] * (values.ndim - 1))).to(values.dtype)


def segment_argmax(values: Tensor, segments: Segments) -> Tensor:
    """Row of the largest number of each segment, for every column.

    Args:
        values, segments: as for `segment_sum`.
    Returns:
        (S, ...) int64 rows of `values`, the lowest of equals, NaN the largest of all; -1 for an empty segment.
    Raises:
        TypeError, ValueError: as `segment_sum`.

    >>> segment_argmax(torch.tensor([3.0, 5.0, 5.0]), torch.tensor([0, 3, 3]))
    tensor([ 1, -1])
    """
    ptr, edge = _checked(values, segments)
    return _argmax(values.detach(), ptr, edge)


def segment_max(values: Tensor, segments: Segments, *, fill: float = 0) -> Tensor:
    """Maximum of each segment, for every column.

    Args:
        values, segments: as for `segment_sum`.
        fill: result for an empty segment.
    Returns:
        (S, ...); NaN where a row has one. The gradient goes to the row of `segment_argmax` alone.
    Raises:
        TypeError, ValueError: as `segment_sum`.

    >>> segment_max(torch.tensor([3.0, 5.0, 4.0]), torch.tensor([0, 2, 2, 3]))
    tensor([5., 0., 4.])
    """
    return _extreme(values, segments, 1, fill)


def segment_min(values: Tensor, segments: Segments, *, fill: float = 0) -> Tensor:
    """Minimum of each segment, for every column; as `segment_max`, NaN included.

    >>> segment_min(torch.tensor([3.0, 5.0, 4.0]), torch.tensor([0, 2, 2, 3]))
    tensor([3., 0., 4.])
    """
    return _extreme(values, segments, -1, fill)


def segment_softmax(values: Tensor, segments: Segments) -> Tensor:
    """Softmax over the rows of each segment, for every column.

    Args:
        values, segments: as for `segment_sum`.
    Returns:
        (E, ...), in the order of `values`; 0 for a row of no segment, and where all of a segment is minus infinity.
    Raises:
        TypeError, ValueError: as `segment_sum`.

    >>> segment_softmax(torch.tensor([0.0, 0.0, 7.0]), torch.tensor([0, 2, 3]))
    tensor([0.5000, 0.5000, 1.0000])
    """
    ptr, edge = _checked(values, segments)
    return _softmax_plain(values, ptr, edge) if sees_through(values) else _softmax_operator(values, ptr, edge)


def segment_repeat(values: Tensor, segments: Segments, *, num_rows: int | None = None) -> Tensor:
    """Each row's copy of what its segment has: the transpose of `segment_sum`.

    Args:
        values: (S, ...) floating point.
        segments: as for `segment_sum`.
        num_rows: E; None takes all rows of an Inverse, or the last border, which synchronises an accelerator.
    Returns:
        (E, ...), 0 for a row of no segment.
    Raises:
        TypeError: values that are not floating point, segments that are not integers.
        ValueError: shapes or devices that do not fit; on the CPU, borders that do not ascend from 0 to at most E.

    >>> segment_repeat(torch.tensor([3.0, 7.0]), torch.tensor([0, 2, 3]))
    tensor([3., 3., 7.])
    """
    ptr, edge = _parts(segments)
    require_floating("values", values)
    require_shape("values", values, len(ptr) - 1, *values.shape[1:])
    require_same_device({"values": values, "segments": ptr})
    if num_rows is None:
        num_rows = int(ptr[-1]) if edge is None else len(edge)
    return _repeat(values, ptr, edge, num_rows)


def _parts(segments: Segments) -> tuple[Tensor, Tensor | None]:
    """ptr and edge."""
    ptr, edge = segments if isinstance(segments, Inverse) else (segments, None)
    require_integer("segments", ptr)
    require_shape("segments", ptr, "S + 1")
    if not len(ptr):
        raise ValueError("segments: expected at least one border, got none")
    return ptr.to(torch.int64), edge


def _checked(values: Tensor, segments: Segments) -> tuple[Tensor, Tensor | None]:
    """ptr and edge of segments that fit the values."""
    ptr, edge = _parts(segments)
    require_floating("values", values)
    if not values.ndim:
        raise ValueError("values: expected shape (E, ...), got ()")
    if edge is not None:
        require_shape("segments.edge", edge, len(values))
    require_same_device({"values": values, "segments": ptr})
    return ptr, edge


def _extreme(values: Tensor, segments: Segments, sign: int, fill: float) -> Tensor:
    """Maximum for sign 1, minimum for sign -1."""
    ptr, edge = _checked(values, segments)
    if not len(values):
        # The empty sum keeps the result in the graph.
        return values.sum(0).expand(len(ptr) - 1, *values.shape[1:]) + fill
    rows = _argmax(values.detach() if sign > 0 else -values.detach(), ptr, edge)
    return torch.where(rows >= 0, values.gather(0, rows.clamp(min=0)), fill)


def _owners(ptr: Tensor, edge: Tensor | None, rows: int) -> Tensor:
    """(E,) int64: the segment of each row, S for none."""
    ends = torch.cat([ptr, ptr.new_full((1,), rows)])
    owners = torch.repeat_interleave(ends.diff(), output_size=rows)
    return owners if edge is None else torch.empty_like(owners).scatter_(0, edge.to(torch.int64), owners)


def _require_borders(ptr: Tensor, rows: int) -> None:
    """Raise if borders do not ascend from 0 to at most `rows`; on the CPU, where looking costs little."""
    if ptr.device.type != "cpu":
        return
    ends = ptr.numpy()
    if ends[0] != 0 or ends[-1] > rows or (np.diff(ends) < 0).any():
        raise ValueError(f"segments: expected borders that ascend from 0 to at most {rows} (the rows), got {ptr}")


def _sum(values: Tensor, ptr: Tensor, edge: Tensor | None) -> Tensor:
    """Sum of each segment."""
    if not sees_through(values):
        return _sum_operator(values, ptr, edge)
    owners = _owners(ptr, edge, values.shape[0])
    segments = ptr.shape[0] - 1
    return values.new_zeros(segments + 1, *values.shape[1:]).index_add(0, owners, values)[:segments]


def _repeat(values: Tensor, ptr: Tensor, edge: Tensor | None, rows: int) -> Tensor:
    """The transpose of `_sum`."""
    if not sees_through(values):
        return _repeat_operator(values, ptr, edge, rows)
    return (
        torch.cat([values, torch.zeros_like(values[:1])])[_owners(ptr, edge, rows)]
        if len(values)
        else (values.new_zeros(rows, *values.shape[1:]))
    )


def _argmax(values: Tensor, ptr: Tensor, edge: Tensor | None) -> Tensor:
    """Row of the largest of each segment."""
    return _argmax_plain(values, ptr, edge) if sees_through(values) else _argmax_operator(values, ptr, edge)


def _run_sum(values: Tensor, ptr: Tensor, edge: Tensor | None) -> Tensor:
    """`_sum`, opaque to the compiler. `embedding_bag` copies no rows and was the fastest of core torch."""
    _require_borders(ptr, len(values))
    segments, tail = len(ptr) - 1, values.shape[1:]
    if not values.numel():
        return values.new_zeros(segments, *tail)
    rows = torch.arange(len(values), device=values.device) if edge is None else edge
    # The last bag takes the rows of no segment.
    sums = embedding_bag(rows, values.reshape(len(values), -1), ptr.to(rows.dtype), mode="sum")
    return sums[:segments].view(segments, *tail)


def _fake_sum(values: Tensor, ptr: Tensor, edge: Tensor | None) -> Tensor:
    return values.new_empty(ptr.shape[0] - 1, *values.shape[1:])


def _remember_sum(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, ptr, edge = inputs
    ctx.rows = values.shape[0]
    ctx.save_for_backward(ptr, edge)


def _differentiate_sum(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    ptr, edge = ctx.saved_tensors
    return _repeat(grad, ptr, edge, ctx.rows), None, None


def _run_repeat(values: Tensor, ptr: Tensor, edge: Tensor | None, rows: int) -> Tensor:
    """`_repeat`, opaque to the compiler."""
    _require_borders(ptr, rows)
    return torch.cat([values, values.new_zeros(1, *values.shape[1:])]).index_select(0, _owners(ptr, edge, rows))


def _fake_repeat(values: Tensor, ptr: Tensor, edge: Tensor | None, rows: int) -> Tensor:
    return values.new_empty(rows, *values.shape[1:])


def _remember_repeat(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:3])


def _differentiate_repeat(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _sum(grad, *ctx.saved_tensors), None, None, None


def _run_argmax(values: Tensor, ptr: Tensor, edge: Tensor | None) -> Tensor:
    """`_argmax`, opaque to the compiler; compiled on the CPU, where every torch form is several times slower."""
    if values.device.type != "cpu":
        return _argmax_plain(values, ptr, edge)
    _require_borders(ptr, len(values))
    result = torch.empty(len(ptr) - 1, *values.shape[1:], dtype=torch.int64)
    if not values.numel():
        return result.fill_(-1)
    _run(_fill_argmax, values, ptr, edge, result)
    return result


def _fake_argmax(values: Tensor, ptr: Tensor, edge: Tensor | None) -> Tensor:
    return values.new_empty(ptr.shape[0] - 1, *values.shape[1:], dtype=torch.int64)


def _argmax_plain(values: Tensor, ptr: Tensor, edge: Tensor | None) -> Tensor:
    """`_argmax` on any device: the largest, then the lowest row that has it; no order of rows changes either."""
    rows = values.shape[0]
    segments = ptr.shape[0] - 1
    owners = _owners(ptr, edge, rows).view(-1, *[1] * (values.ndim - 1)).expand(values.shape)
    largest = values.new_zeros(segments + 1, *values.shape[1:]).scatter_reduce(
        0, owners, values, "amax", include_self=False
    )
    largest = largest.gather(0, owners)
    number = torch.arange(rows, device=values.device).view(-1, *[1] * (values.ndim - 1))
    number = torch.where((values == largest) | values.isnan(), number, rows)
    first = torch.full_like(largest[:1], rows, dtype=torch.int64).expand(segments + 1, *values.shape[1:])
    first = first.scatter_reduce(0, owners, number, "amin")[:segments]
    return torch.where(first < rows, first, -1)


def _run_softmax(values: Tensor, ptr: Tensor, edge: Tensor | None) -> Tensor:
    """`segment_softmax`, opaque to the compiler; one compiled pass on the CPU."""
    if values.device.type != "cpu":
        return _softmax_plain(values, ptr, edge)
    _require_borders(ptr, len(values))
    result = torch.zeros(values.shape, dtype=_working_dtype(values))
    if values.numel():
        _run(_fill_softmax, values, ptr, edge, result)
    return result.to(values.dtype)


def _fake_softmax(values: Tensor, ptr: Tensor, edge: Tensor | None) -> Tensor:
    return values.new_empty(values.shape)


def _remember_softmax(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:], output)


def _differentiate_softmax(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    ptr, edge, shares = ctx.saved_tensors
    mean = _repeat(_sum(shares * grad, ptr, edge), ptr, edge, grad.shape[0])
    return shares * (grad - mean), None, None


def _softmax_plain(values: Tensor, ptr: Tensor, edge: Tensor | None) -> Tensor:
    """`segment_softmax` from the other reductions."""
    rows = values.shape[0]
    if not rows:
        return values.clone()
    winners = _argmax(values.detach(), ptr, edge)
    largest = torch.where(winners >= 0, values.detach().gather(0, winners.clamp(min=0)), 0)
    largest = torch.where(largest == -torch.inf, 0, largest)
    terms = torch.exp(values - _repeat(largest, ptr, edge, rows))
    total = _sum(terms, ptr, edge)
    # The reciprocal, not the sum itself, is repeated: rows of no segment get zero.
    shares = torch.where(total == 0, 0, 1 / torch.where(total == 0, 1, total))
    return terms * _repeat(shares, ptr, edge, rows)


def _working_dtype(values: Tensor) -> torch.dtype:
    """Half precision is storage only."""
    return torch.float64 if values.dtype == torch.float64 else torch.float32


def _run(fill: Callable[..., None], values: Tensor, ptr: Tensor, edge: Tensor | None, result: Tensor) -> None:
    """Fill a result with a compiled loop over the segments of a CPU tensor."""
    table = values.to(_working_dtype(values)).reshape(len(values), -1).contiguous().numpy()
    places = np.empty(0, np.int32) if edge is None else edge.numpy()
    arrays = table, ptr.numpy(), places, result.view(len(result), table.shape[1]).numpy()
    segments = len(ptr) - 1
    smallest = max(1, NUMBERS_PER_PIECE * segments // values.numel())
    run_in_pieces(lambda start, stop: fill(start, stop, *arrays), segments, smallest=smallest)


@njit(cache=True, nogil=True)
def _fill_argmax(
    start: int, stop: int, values: np.ndarray, ptr: np.ndarray, edge: np.ndarray, result: np.ndarray
) -> None:
    """Fill segments `start` to `stop` of the result; edge may be empty for runs of consecutive rows."""
    columns = values.shape[1]
    best = np.empty(columns, values.dtype)
    for segment in range(start, stop):
        winners = result[segment]
        winners[:] = -1
        for place in range(ptr[segment], ptr[segment + 1]):
            row = edge[place] if edge.size else place
            if place == ptr[segment]:
                best[:] = values[row]
                winners[:] = row
                continue
            for column in range(columns):
                value = values[row, column]
                # True for a NaN as well, until there is one. No `and`, which would be a branch.
                larger = (not value <= best[column]) & (best[column] == best[column])
                best[column] = value if larger else best[column]
                winners[column] = row if larger else winners[column]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
def _fill_softmax(
    start: int, stop: int, values: np.ndarray, ptr: np.ndarray, edge: np.ndarray, result: np.ndarray
) -> None:
    """Fill the rows of segments `start` to `stop` of the result; edge as above."""
    columns = values.shape[1]
    best, total = np.empty(columns, values.dtype), np.empty(columns, values.dtype)
    for segment in range(start, stop):
        best[:] = -np.inf
        total[:] = 0
        for place in range(ptr[segment], ptr[segment + 1]):
            row = edge[place] if edge.size else place
            for column in range(columns):
                value = values[row, column]
                # A NaN shows up in the sum.
                best[column] = value if value > best[column] else best[column]
        for column in range(columns):
            best[column] = best[column] if best[column] > -np.inf else 0
        for place in range(ptr[segment], ptr[segment + 1]):
            row = edge[place] if edge.size else place
            for column in range(columns):
                term = exponential(values[row, column] - best[column])
                result[row, column] = term
                total[column] += term
        for column in range(columns):
            total[column] = 1 / total[column] if total[column] != 0 else 0
        for place in range(ptr[segment], ptr[segment + 1]):
            row = edge[place] if edge.size else place
            for column in range(columns):
                result[row, column] *= total[column]


_sum_operator = define_operator(
    "segment_sum",
    "(Tensor values, Tensor ptr, Tensor? edge) -> Tensor",
    run=_run_sum,
    fake=_fake_sum,
    backward=_differentiate_sum,
    setup_context=_remember_sum,
)
_repeat_operator = define_operator(
    "segment_repeat",
    "(Tensor values, Tensor ptr, Tensor? edge, SymInt rows) -> Tensor",
    run=_run_repeat,
    fake=_fake_repeat,
    backward=_differentiate_repeat,
    setup_context=_remember_repeat,
)
_argmax_operator = define_operator(
    "segment_argmax",
    "(Tensor values, Tensor ptr, Tensor? edge) -> Tensor",
    run=_run_argmax,
    fake=_fake_argmax,
)
_softmax_operator = define_operator(
    "segment_softmax",
    "(Tensor values, Tensor ptr, Tensor? edge) -> Tensor",
    run=_run_softmax,
    fake=_fake_softmax,
    backward=_differentiate_softmax,
    setup_context=_remember_softmax,
)
