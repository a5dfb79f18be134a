"""Grid neighborhood attention in Triton, one tile of queries at a time; imports triton, so import it lazily.

A program owns one head of a box of queries. Together the box sees one larger box of keys, its halo: the program walks
through the halo in chunks, computes dense scores with `tl.dot`, and masks what lies outside of each query's own window.
No neighbor list is read: windows follow in closed form from coordinates, by the rules of `rotaware.kernels.grid`.
Source: `specs` of the project, 2.4 and 5.6; tiles and halos, Hassani et al., Faster Neighborhood Attention (2024);
recomputation from the logarithm of the sum, Dao, FlashAttention-2 (2023).

Dilation cuts an axis into independent residue grids, whose positions are `dilation` cells apart. A tile lies in one of
them, so that its halo is compact. Inside a kernel three axes always exist; those that a grid lacks come first, with one
cell. A change of shape, window, dilation, stride or causality compiles nothing anew.

Dense products touch every key of the halo: a value that is not finite in `k` or `v` (or in a gradient) may turn into
NaN the whole tile around those who see it, where the reference confines it to these.
"""

# The arguments of kernels and of their parts have no types in Python.
# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .grid import GridWindow

WIDEST = 256
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Tiling(NamedTuple):
    """How one kernel is cut."""

    lanes: int  # queries (forward, query side) or keys (key side) of a program
    chunk: int  # rows of the other side that one round of the inner loop reads
    warps: int
    stages: int  # rounds in flight


# The box of a program's lanes for grids of one, two and three axes: as close to a cube as powers of two allow, which
# makes the halo smallest.
TILES = {
    64: ((1, 1, 64), (1, 8, 8), (4, 4, 4)),
    32: ((1, 1, 32), (1, 4, 8), (2, 4, 4)),
    16: ((1, 1, 16), (1, 4, 4), (2, 2, 4)),
}

# Forward, query side and key side, by bytes of a number and by the padded width of keys or values, whichever is wider.
# Chosen from the reports of ptxas for compute capabilities 8.0 and 9.0: with two and three axes and widths 32, 64 and
# 128 no register spills (otherwise less than 100 bytes do), and shared memory stays within the 99 KiB of capabilities
# 8.6 and 8.9. Never timed: no GPU was at hand.
TILINGS = {
    (4, 16): (Tiling(64, 32, 4, 2), Tiling(64, 32, 4, 2), Tiling(64, 16, 4, 2)),
    (4, 32): (Tiling(64, 16, 4, 2), Tiling(64, 16, 4, 2), Tiling(64, 16, 4, 2)),
    (4, 64): (Tiling(64, 32, 8, 2), Tiling(64, 32, 8, 2), Tiling(64, 16, 8, 2)),
    (4, 128): (Tiling(32, 16, 8, 1), Tiling(32, 32, 8, 1), Tiling(32, 16, 8, 1)),
    (4, 256): (Tiling(16, 16, 8, 1), Tiling(16, 16, 8, 1), Tiling(32, 16, 8, 1)),
    (2, 16): (Tiling(64, 64, 4, 2), Tiling(64, 64, 4, 2), Tiling(64, 32, 4, 2)),
    (2, 32): (Tiling(64, 64, 4, 2), Tiling(64, 64, 4, 2), Tiling(64, 32, 4, 2)),
    (2, 64): (Tiling(64, 64, 4, 2), Tiling(64, 32, 4, 2), Tiling(64, 32, 4, 2)),
    (2, 128): (Tiling(64, 64, 8, 2), Tiling(64, 32, 8, 2), Tiling(64, 32, 8, 2)),
    (2, 256): (Tiling(64, 32, 8, 1), Tiling(32, 32, 8, 1), Tiling(32, 32, 8, 1)),
}

# A change of these numbers must not compile a kernel again.
RUNTIME = [f"{name}{axis}" for name in ("shape", "window", "dilation", "stride", "causal", "step") for axis in range(3)]

LOG2_E = tl.constexpr(math.log2(math.e))
LN_2 = tl.constexpr(math.log(2.0))


@triton.jit
def _borders(position, length, window, stride, causal):
    """First and last position that the query at `position` of an axis of a residue grid sees."""
    group = position // stride * stride
    left = window // 2
    right = window - left - 1
    center = tl.minimum(group + stride // 2, length - 1)
    center = tl.maximum(tl.minimum(center, length - 1 - right), left)
    leader = tl.minimum(group + stride - 1, length - 1)
    first = tl.where(causal != 0, tl.maximum(leader - window + 1, 0), center - left)
    last = tl.where(causal != 0, position, center + right)
    return first, last


@triton.jit
def _halo(position, corner, step, length, window, stride, causal):
    """Borders of the windows of queries, and first position and number of all positions that a tile sees of an axis.

    The tile holds `step` queries from `corner` on. Both borders of a window grow with the query.
    """
    first, last = _borders(position, length, window, stride, causal)
    low, _ = _borders(corner, length, window, stride, causal)
    _, high = _borders(tl.minimum(corner + step, length) - 1, length, window, stride, causal)
    return first, last, low, tl.where(corner < length, high - low + 1, 0)


@triton.jit
def _viewers(corner, step, length, window, stride, causal):
    """First position and number of the queries of an axis whose windows may reach `step` keys from `corner` on.

    Both borders of a window grow with the query. So the first is that query whose right border is the first to reach
    the first key, and the last is that query whose left border is the last to reach the last key. No dividend is
    negative, because a stride is at most its window.
    """
    left = window // 2
    right = window - left - 1
    # A leader stands `lead` into its group. A left border is a leader, at most `highest`, minus the same number.
    lead = tl.where(causal != 0, stride - 1, stride // 2)
    highest = length - 1 - tl.where(causal != 0, 0, right)
    reach = tl.minimum(corner + step, length) - 1 + tl.where(causal != 0, window - 1, left)
    last = (tl.maximum(reach, lead) - lead) // stride * stride + stride - 1
    last = tl.minimum(tl.where(highest <= reach, length - 1, last), length - 1)
    first = (tl.maximum(corner - right, lead) - lead + stride - 1) // stride * stride
    first = tl.where(corner - right <= left, 0, first)
    first = tl.where(causal != 0, corner, first)
    return first, tl.where(corner < length, tl.maximum(last - first + 1, 0), 0)


@triton.jit
def _place(shape0, shape1, shape2, dilation0, dilation1, dilation2, step0, step1, step2, HEADS: tl.constexpr):
    """Head, corner of the tile of this program, lengths and first row of its residue grid, rows from place to place.

    All these numbers, and all rows, fit into 32 bits: a `GridWindow` has fewer than 2^31 tokens.
    """
    rest = tl.program_id(0)
    head, rest = rest % HEADS, rest // HEADS
    tiles0 = tl.cdiv(tl.cdiv(shape0, dilation0), step0)
    tiles1 = tl.cdiv(tl.cdiv(shape1, dilation1), step1)
    tiles2 = tl.cdiv(tl.cdiv(shape2, dilation2), step2)
    corner2, rest = rest % tiles2 * step2, rest // tiles2
    corner1, rest = rest % tiles1 * step1, rest // tiles1
    corner0, rest = rest % tiles0 * step0, rest // tiles0
    residue2, rest = rest % dilation2, rest // dilation2
    residue1, rest = rest % dilation1, rest // dilation1
    residue0, batch = rest % dilation0, rest // dilation0
    length0 = tl.cdiv(shape0 - residue0, dilation0)
    length1 = tl.cdiv(shape1 - residue1, dilation1)
    length2 = tl.cdiv(shape2 - residue2, dilation2)
    origin = ((batch * shape0 + residue0) * shape1 + residue1) * shape2 + residue2
    pitch0 = dilation0 * shape1 * shape2
    pitch1 = dilation1 * shape2
    return head, corner0, corner1, corner2, length0, length1, length2, origin, pitch0, pitch1, dilation2


@triton.jit
def _unravel(flat, extent1, extent2, AXES: tl.constexpr):
    """Coordinates in a box of numbers that count along its last axis first."""
    position0 = tl.zeros_like(flat)
    position1 = tl.zeros_like(flat)
    position2 = flat
    if AXES >= 2:
        position2 = flat % extent2
        position1 = flat // extent2
    if AXES == 3:
        position0 = position1 // extent1
        position1 = position1 % extent1
    return position0, position1, position2


@triton.jit
def _tile(
    corner0, corner1, corner2, step0, step1, step2, length0, length1, length2,
    AXES: tl.constexpr, LANES: tl.constexpr, TILE1: tl.constexpr, TILE2: tl.constexpr,
):  # fmt: skip
    """Positions in a tile, and which of them this program answers for."""
    lane0, lane1, lane2 = _unravel(tl.arange(0, LANES), TILE1, TILE2, AXES)
    position0, position1, position2 = corner0 + lane0, corner1 + lane1, corner2 + lane2
    present = (lane0 < step0) & (lane1 < step1) & (lane2 < step2)
    present = present & (position0 < length0) & (position1 < length1) & (position2 < length2)
    return position0, position1, position2, present


@triton.jit
def _load(table, rows, present, head, HEADS: tl.constexpr, WIDTH: tl.constexpr, PAD: tl.constexpr, WIDEN: tl.constexpr):
    """Rows of one head as a (rows, PAD) block, zero where absent and beyond WIDTH."""
    column = tl.arange(0, PAD)
    place = rows.to(tl.int64)[:, None] * (HEADS * WIDTH) + (head * WIDTH + column)[None, :]
    block = tl.load(table + place, mask=present[:, None] & (column < WIDTH)[None, :], other=0.0)
    # The interpreter multiplies the bit patterns of bfloat16.
    return block.to(tl.float32) if WIDEN else block


@triton.jit
def _store(table, block, rows, present, head, HEADS: tl.constexpr, WIDTH: tl.constexpr, PAD: tl.constexpr):
    """Write what `_load` would read."""
    column = tl.arange(0, PAD)
    place = rows.to(tl.int64)[:, None] * (HEADS * WIDTH) + (head * WIDTH + column)[None, :]
    tl.store(table + place, block.to(table.dtype.element_ty), mask=present[:, None] & (column < WIDTH)[None, :])


@triton.jit
def _inside(key0, key1, key2, first0, first1, first2, last0, last1, last2, AXES: tl.constexpr):
    """Which keys lie in which windows. The arguments broadcast: (1, keys) and (queries, 1), or the other way round."""
    inside = (key2 >= first2) & (key2 <= last2)
    if AXES >= 2:
        inside = inside & (key1 >= first1) & (key1 <= last1)
    if AXES == 3:
        inside = inside & (key0 >= first0) & (key0 <= last0)
    return inside


@triton.jit(do_not_specialize=RUNTIME)
def forward_kernel(
    query, key, value, out, lse, scale,
    shape0, shape1, shape2, window0, window1, window2, dilation0, dilation1, dilation2,
    stride0, stride1, stride2, causal0, causal1, causal2, step0, step1, step2,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, PAD: tl.constexpr, VALUE_WIDTH: tl.constexpr, VALUE_PAD: tl.constexpr,
    AXES: tl.constexpr, LANES: tl.constexpr, TILE1: tl.constexpr, TILE2: tl.constexpr, CHUNK: tl.constexpr,
    WIDEN: tl.constexpr,
):  # fmt: skip
    """Output and logarithm of the sum of a tile of queries."""
    head, corner0, corner1, corner2, length0, length1, length2, origin, pitch0, pitch1, pitch2 = _place(
        shape0, shape1, shape2, dilation0, dilation1, dilation2, step0, step1, step2, HEADS
    )
    query0, query1, query2, present = _tile(
        corner0, corner1, corner2, step0, step1, step2, length0, length1, length2, AXES, LANES, TILE1, TILE2
    )
    rows = origin + query0 * pitch0 + query1 * pitch1 + query2 * pitch2
    first0, last0, low0, extent0 = _halo(query0, corner0, step0, length0, window0, stride0, causal0)
    first1, last1, low1, extent1 = _halo(query1, corner1, step1, length1, window1, stride1, causal1)
    first2, last2, low2, extent2 = _halo(query2, corner2, step2, length2, window2, stride2, causal2)
    total = extent0 * extent1 * extent2

    q = _load(query, rows, present, head, HEADS, WIDTH, PAD, WIDEN)
    highest = tl.full((LANES,), float("-inf"), tl.float32)
    mass = tl.zeros((LANES,), tl.float32)
    sums = tl.zeros((LANES, VALUE_PAD), tl.float32)
    for start in range(0, total, CHUNK):
        # Beyond the end of the halo the first coordinate lies beyond all windows.
        flat = start + tl.arange(0, CHUNK)
        real = flat < total
        key0, key1, key2 = _unravel(flat, extent1, extent2, AXES)
        key0, key1, key2 = low0 + key0, low1 + key1, low2 + key2
        key_rows = origin + key0 * pitch0 + key1 * pitch1 + key2 * pitch2
        k = _load(key, key_rows, real, head, HEADS, WIDTH, PAD, WIDEN)
        v = _load(value, key_rows, real, head, HEADS, VALUE_WIDTH, VALUE_PAD, WIDEN)
        inside = _inside(
            key0[None, :], key1[None, :], key2[None, :],
            first0[:, None], first1[:, None], first2[:, None], last0[:, None], last1[:, None], last2[:, None], AXES,
        )  # fmt: skip
        logits = tl.dot(q, tl.trans(k), input_precision="ieee") * (scale * LOG2_E)
        logits = tl.where(inside, logits, float("-inf"))
        higher = tl.maximum(highest, tl.max(logits, 1))
        # A query may see nothing of the chunks so far; then the difference of two infinities must not be formed.
        shift = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp2(logits - shift[:, None])
        shrink = tl.exp2(highest - shift)
        mass = mass * shrink + tl.sum(weights, 1)
        sums = tl.dot(weights.to(v.dtype), v, sums * shrink[:, None], input_precision="ieee")
        highest = higher
    empty = mass == 0.0
    mass = tl.where(empty, 1.0, mass)
    _store(out, sums / mass[:, None], rows, present, head, HEADS, VALUE_WIDTH, VALUE_PAD)
    logarithm = tl.where(empty, 0.0, (highest + tl.log2(mass)) * LN_2)
    tl.store(lse + rows.to(tl.int64) * HEADS + head, logarithm, mask=present)


@triton.jit(do_not_specialize=RUNTIME)
def query_kernel(
    query, key, value, grad_out, lse, delta, grad_query, scale,
    shape0, shape1, shape2, window0, window1, window2, dilation0, dilation1, dilation2,
    stride0, stride1, stride2, causal0, causal1, causal2, step0, step1, step2,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, PAD: tl.constexpr, VALUE_WIDTH: tl.constexpr, VALUE_PAD: tl.constexpr,
    AXES: tl.constexpr, LANES: tl.constexpr, TILE1: tl.constexpr, TILE2: tl.constexpr, CHUNK: tl.constexpr,
    WIDEN: tl.constexpr,
):  # fmt: skip
    """Gradient of a tile of queries, with the weights recomputed over the halo."""
    head, corner0, corner1, corner2, length0, length1, length2, origin, pitch0, pitch1, pitch2 = _place(
        shape0, shape1, shape2, dilation0, dilation1, dilation2, step0, step1, step2, HEADS
    )
    query0, query1, query2, present = _tile(
        corner0, corner1, corner2, step0, step1, step2, length0, length1, length2, AXES, LANES, TILE1, TILE2
    )
    rows = origin + query0 * pitch0 + query1 * pitch1 + query2 * pitch2
    first0, last0, low0, extent0 = _halo(query0, corner0, step0, length0, window0, stride0, causal0)
    first1, last1, low1, extent1 = _halo(query1, corner1, step1, length1, window1, stride1, causal1)
    first2, last2, low2, extent2 = _halo(query2, corner2, step2, length2, window2, stride2, causal2)
    total = extent0 * extent1 * extent2

    q = _load(query, rows, present, head, HEADS, WIDTH, PAD, WIDEN)
    go = _load(grad_out, rows, present, head, HEADS, VALUE_WIDTH, VALUE_PAD, WIDEN)
    logarithm = tl.load(lse + rows.to(tl.int64) * HEADS + head, mask=present, other=0.0) * LOG2_E
    mean = tl.load(delta + rows.to(tl.int64) * HEADS + head, mask=present, other=0.0)
    sums = tl.zeros((LANES, PAD), tl.float32)
    for start in range(0, total, CHUNK):
        # Beyond the end of the halo the first coordinate lies beyond all windows.
        flat = start + tl.arange(0, CHUNK)
        real = flat < total
        key0, key1, key2 = _unravel(flat, extent1, extent2, AXES)
        key0, key1, key2 = low0 + key0, low1 + key1, low2 + key2
        key_rows = origin + key0 * pitch0 + key1 * pitch1 + key2 * pitch2
        k = _load(key, key_rows, real, head, HEADS, WIDTH, PAD, WIDEN)
        v = _load(value, key_rows, real, head, HEADS, VALUE_WIDTH, VALUE_PAD, WIDEN)
        inside = _inside(
            key0[None, :], key1[None, :], key2[None, :],
            first0[:, None], first1[:, None], first2[:, None], last0[:, None], last1[:, None], last2[:, None], AXES,
        )  # fmt: skip
        logits = tl.dot(q, tl.trans(k), input_precision="ieee") * (scale * LOG2_E)
        weights = tl.exp2(tl.where(inside, logits - logarithm[:, None], float("-inf")))
        slopes = weights * (tl.dot(go, tl.trans(v), input_precision="ieee") - mean[:, None])
        sums = tl.dot(slopes.to(k.dtype), k, sums, input_precision="ieee")
    _store(grad_query, sums * scale, rows, present, head, HEADS, WIDTH, PAD)


@triton.jit(do_not_specialize=RUNTIME)
def key_kernel(
    query, key, value, grad_out, lse, delta, grad_key, grad_value, scale,
    shape0, shape1, shape2, window0, window1, window2, dilation0, dilation1, dilation2,
    stride0, stride1, stride2, causal0, causal1, causal2, step0, step1, step2,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, PAD: tl.constexpr, VALUE_WIDTH: tl.constexpr, VALUE_PAD: tl.constexpr,
    AXES: tl.constexpr, LANES: tl.constexpr, TILE1: tl.constexpr, TILE2: tl.constexpr, CHUNK: tl.constexpr,
    WIDEN: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile of keys and values, over all queries whose windows reach it."""
    head, corner0, corner1, corner2, length0, length1, length2, origin, pitch0, pitch1, pitch2 = _place(
        shape0, shape1, shape2, dilation0, dilation1, dilation2, step0, step1, step2, HEADS
    )
    key0, key1, key2, present = _tile(
        corner0, corner1, corner2, step0, step1, step2, length0, length1, length2, AXES, LANES, TILE1, TILE2
    )
    rows = origin + key0 * pitch0 + key1 * pitch1 + key2 * pitch2
    low0, extent0 = _viewers(corner0, step0, length0, window0, stride0, causal0)
    low1, extent1 = _viewers(corner1, step1, length1, window1, stride1, causal1)
    low2, extent2 = _viewers(corner2, step2, length2, window2, stride2, causal2)
    total = extent0 * extent1 * extent2

    k = _load(key, rows, present, head, HEADS, WIDTH, PAD, WIDEN)
    v = _load(value, rows, present, head, HEADS, VALUE_WIDTH, VALUE_PAD, WIDEN)
    key_sums = tl.zeros((LANES, PAD), tl.float32)
    value_sums = tl.zeros((LANES, VALUE_PAD), tl.float32)
    for start in range(0, total, CHUNK):
        # Beyond the end queries and gradients are zeros, which add nothing, whatever window they seem to have.
        flat = start + tl.arange(0, CHUNK)
        real = flat < total
        query0, query1, query2 = _unravel(flat, extent1, extent2, AXES)
        query0, query1, query2 = low0 + query0, low1 + query1, low2 + query2
        query_rows = origin + query0 * pitch0 + query1 * pitch1 + query2 * pitch2
        q = _load(query, query_rows, real, head, HEADS, WIDTH, PAD, WIDEN)
        go = _load(grad_out, query_rows, real, head, HEADS, VALUE_WIDTH, VALUE_PAD, WIDEN)
        logarithm = tl.load(lse + query_rows.to(tl.int64) * HEADS + head, mask=real, other=0.0) * LOG2_E
        mean = tl.load(delta + query_rows.to(tl.int64) * HEADS + head, mask=real, other=0.0)
        first0, last0 = _borders(query0, length0, window0, stride0, causal0)
        first1, last1 = _borders(query1, length1, window1, stride1, causal1)
        first2, last2 = _borders(query2, length2, window2, stride2, causal2)
        inside = _inside(
            key0[:, None], key1[:, None], key2[:, None],
            first0[None, :], first1[None, :], first2[None, :], last0[None, :], last1[None, :], last2[None, :], AXES,
        )  # fmt: skip
        logits = tl.dot(k, tl.trans(q), input_precision="ieee") * (scale * LOG2_E)
        weights = tl.exp2(tl.where(inside, logits - logarithm[None, :], float("-inf")))
        value_sums = tl.dot(weights.to(go.dtype), go, value_sums, input_precision="ieee")
        slopes = weights * (tl.dot(v, tl.trans(go), input_precision="ieee") - mean[None, :])
        key_sums = tl.dot(slopes.to(q.dtype), q, key_sums, input_precision="ieee")
    _store(grad_key, key_sums * scale, rows, present, head, HEADS, WIDTH, PAD)
    _store(grad_value, value_sums, rows, present, head, HEADS, VALUE_WIDTH, VALUE_PAD)


# Under TRITON_INTERPRET=1 the decorator makes something else.
INTERPRETED = not isinstance(forward_kernel, triton.JITFunction)


def constants(axes: int, heads: int, d: int, dv: int, tiling: Tiling) -> dict[str, Any]:
    """The arguments of a kernel that are compiled into it.

    >>> constants(2, 8, 24, 64, TILINGS[4, 64][0])["PAD"]
    32
    """
    widths = {"WIDTH": d, "PAD": _padded(d), "VALUE_WIDTH": dv, "VALUE_PAD": _padded(dv)}
    _, tile1, tile2 = TILES[tiling.lanes][axes - 1]
    cut = {"AXES": axes, "LANES": tiling.lanes, "TILE1": tile1, "TILE2": tile2, "CHUNK": tiling.chunk}
    return {"HEADS": heads, **widths, **cut, "WIDEN": INTERPRETED}


def supports(window: GridWindow, d: int, dv: int, dtype: torch.dtype) -> str | None:
    """Why these kernels cannot run a case, or None if they can.

    Args:
        window: the grid.
        d: head width of queries and keys.
        dv: head width of values.
        dtype: of q, k and v.

    >>> from rotaware.kernels.grid import grid_window
    >>> supports(grid_window((8, 8), 3), 300, 32, torch.float32)
    'head widths: expected from 1 to 256, got 300 and 32'
    """
    if not 1 <= len(window.shape) <= 3:
        return f"grid: expected from 1 to 3 axes, got {len(window.shape)}"
    if dtype not in DTYPES:
        return f"dtype: expected float32, float16 or bfloat16, got {dtype}"
    if not (1 <= d <= WIDEST and 1 <= dv <= WIDEST):
        return f"head widths: expected from 1 to {WIDEST}, got {d} and {dv}"
    return None


def forward(q: Tensor, k: Tensor, v: Tensor, window: GridWindow, scale: float) -> tuple[Tensor, Tensor]:
    """Attention of every token over its window; arguments are not checked.

    Args:
        q: (M, H, d), contiguous, M the tokens of all grids in row-major order.
        k: (M, H, d), contiguous.
        v: (M, H, dv), contiguous.
        window: a case that `supports` allows.
        scale: factor of the products.
    Returns:
        out (M, H, dv) in the dtype of q, and the natural logarithm of the sum of exponentials (M, H), float32.
    Source: Hassani et al., Faster Neighborhood Attention (2024).

    >>> from rotaware.kernels.grid import grid_window
    >>> forward(*[torch.empty(0, 1, 4)] * 3, grid_window(8, 3, batch=0), 0.5)[0].shape
    torch.Size([0, 1, 4])
    """
    out = torch.empty_like(v)
    lse = q.new_empty(q.shape[:2], dtype=torch.float32)
    _launch(forward_kernel, 0, (q, k, v, out, lse), window, scale)
    return out, lse


def backward(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: GridWindow,
    out: Tensor,
    lse: Tensor,
    scale: float,
    wanted: list[bool],
) -> list[Tensor]:
    """Gradients of `forward` with respect to q, k and v; each number is written once, in a fixed order of sums.

    Args:
        grad_out: (M, H, dv), the gradient of the output.
        q, k, v, window, scale: as in `forward`.
        out, lse: what `forward` returned.
        wanted: whether the gradients of q, k and v are needed.
    Returns:
        Three tensors like q, k and v; empty ones of shape (0,) where not wanted.
    Source: `specs` of the project, 3.1.

    >>> from rotaware.kernels.grid import grid_window
    >>> rows = torch.empty(0, 1, 4)
    >>> [grad.shape for grad in backward(*[rows] * 4, grid_window(8, 3, batch=0), rows, rows[..., 0], 0.5, [True] * 3)]
    [torch.Size([0, 1, 4]), torch.Size([0, 1, 4]), torch.Size([0, 1, 4])]
    """
    grads = [q.new_empty(0)] * 3
    grad_out = grad_out.contiguous()
    delta = (grad_out.float() * out).sum(-1)
    if wanted[0]:
        grads[0] = torch.empty_like(q)
        _launch(query_kernel, 1, (q, k, v, grad_out, lse, delta, grads[0]), window, scale)
    if wanted[1] or wanted[2]:
        both = [torch.empty_like(k), torch.empty_like(v)]
        _launch(key_kernel, 2, (q, k, v, grad_out, lse, delta, *both), window, scale)
        grads[1:] = [grad if want else grad.new_empty(0) for grad, want in zip(both, wanted[1:], strict=True)]
    return grads


def _launch(kernel: Any, which: int, tensors: tuple[Tensor, ...], window: GridWindow, scale: float) -> None:
    """Run one program per head, tile, residue grid and batch; `which` is the column of TILINGS."""
    q, _, v = tensors[:3]
    if not q.numel():
        return
    axes = len(window.shape)
    tiling = TILINGS[q.element_size(), max(_padded(q.shape[2]), _padded(v.shape[2]))][which]
    # An axis that the grid lacks has one token, which sees itself.
    absent = 3 - axes
    shape, keys, dilation, stride = ((1,) * absent + sizes for sizes in window[:4])
    causal = (0,) * absent + tuple(map(int, window.causal))
    steps = tuple(map(_step, TILES[tiling.lanes][axes - 1], keys, stride))
    sizes = zip(shape, dilation, steps, strict=True)
    tiles = (gap * triton.cdiv(triton.cdiv(length, gap), step) for length, gap, step in sizes)
    # Left to its default, fusion brings a warning of Triton.
    options = {"num_warps": tiling.warps, "num_stages": tiling.stages, "enable_fp_fusion": True}
    with torch.cuda.device_of(q):
        kernel[(q.shape[1] * window.batch * math.prod(tiles),)](
            *(*tensors, scale, *shape, *keys, *dilation, *stride, *causal, *steps),
            **constants(axes, q.shape[1], q.shape[2], v.shape[2], tiling),
            **options,
        )


def _padded(width: int) -> int:
    """A width that `tl.dot` takes."""
    return max(16, triton.next_power_of_2(width))


def _step(tile: int, window: int, stride: int) -> int:
    """How many of the `tile` queries along an axis a program takes.

    Queries of a stride share their window, so it can pay to end a tile where a stride ends: `step` queries see
    window + step - gcd(stride, step) keys on average. The fewest keys per query win.
    """
    return min(range(tile, 0, -1), key=lambda step: (window + step - math.gcd(stride, step)) / step)
