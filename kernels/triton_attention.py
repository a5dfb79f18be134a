"""Fused neighborhood attention in Triton; imports triton, so import it lazily.

Nothing of size M x K x C is ever stored: each kernel gathers rows of keys and values into registers. The backward pass
recomputes the weights from `lse`, and has one kernel that owns queries (gradients of q, u, y and bias) and one that
owns keys (k and v) and walks through the inverse list. There are no atomics: equal inputs give equal bits.

The forward kernel has the two variants of the specification. With as many slots per step as a row has it is variant T:
one tile, one softmax. With fewer it is variant S: steps of slots with an online softmax, in which keys and values of a
slot are fetched together.

Tiles are (slots, rows, width), slots first. Triton spreads a tile over threads beginning with the last axis, so that a
few threads read one row in wide loads, the rest of the warps lie along the rows, and the slots of a row stay within a
thread: the softmax and the sums over slots need no exchange between threads.

Rows are numbered in 64 bits before anything is multiplied by a row length: N * C and M * K * P may exceed 2^31.

Source: `specs` of the project, 3.1 and 5; recomputation from the logarithm of the sum, and the online softmax, Dao,
FlashAttention-2 (2023), section 3.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_launch import Problem, Tile, choose_tile, padded, product_rows

# exp2 and log2 are single instructions, exp and log are not: logits are kept in units of log 2.
LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit(do_not_specialize=["M"])
def forward_kernel(
    q: tl.tensor, k: tl.tensor, v: tl.tensor, idx: tl.tensor, u: tl.tensor, y: tl.tensor, bias: tl.tensor,
    out: tl.tensor, z: tl.tensor, lse: tl.tensor, M: tl.tensor, scale_high: tl.tensor, scale_low: tl.tensor,
    H: tl.constexpr, K: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, P: tl.constexpr, WIDE: tl.constexpr,
    WIDE_V: tl.constexpr, WIDE_P: tl.constexpr, HAS_PAIR: tl.constexpr, HAS_BIAS: tl.constexpr, REAL: tl.constexpr,
    ROWS: tl.constexpr, SLOTS: tl.constexpr, HEADS: tl.constexpr,
) -> None:  # fmt: skip
    """out, z and lse of ROWS queries and HEADS heads, SLOTS neighbors at a time."""
    groups: tl.constexpr = (H + HEADS - 1) // HEADS
    program = tl.program_id(0)
    first = (program % groups) * HEADS
    rows = (program // groups).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = rows < M
    c = tl.arange(0, WIDE)
    cv = tl.arange(0, WIDE_V)
    p = tl.arange(0, WIDE_P)
    scale = (tl.full((), scale_high, REAL) + scale_low) * LOG2_E
    for h in range(first, tl.minimum(first + HEADS, H)):
        own = rows * H + h
        query = tl.load(q + (own * D)[:, None] + c, mask=inside[:, None] & (c < D), other=0).to(REAL)
        top = tl.full((ROWS,), -float("inf"), REAL)
        total = tl.full((ROWS,), 0.0, REAL)
        result = tl.full((ROWS, WIDE_V), 0.0, REAL)
        if HAS_PAIR:
            pair_query = tl.load(u + (own * P)[:, None] + p, mask=inside[:, None] & (p < P), other=0).to(REAL)
            pair_result = tl.full((ROWS, WIDE_P), 0.0, REAL)
        for start in range(0, K, SLOTS):
            slot = start + tl.arange(0, SLOTS)
            pair = rows * K + slot[:, None]
            near = tl.load(idx + pair, mask=inside & (slot < K)[:, None], other=-1)
            present = near >= 0
            # Rows behind -1 are not read: NaN may be there.
            other = near.to(tl.int64) * H + h
            if HAS_PAIR:
                feature = tl.load(y + (pair * P)[:, :, None] + p, mask=present[:, :, None] & (p < P), other=0).to(REAL)
            keys = tl.load(k + (other * D)[:, :, None] + c, mask=present[:, :, None] & (c < D), other=0).to(REAL)
            values = tl.load(v + (other * DV)[:, :, None] + cv, mask=present[:, :, None] & (cv < DV), other=0)
            logit = tl.sum(keys * query, 2)
            if HAS_PAIR:
                logit += tl.sum(feature * pair_query, 2)
            logit *= scale
            if HAS_BIAS:
                logit += tl.load(bias + pair * H + h, mask=present, other=0).to(REAL) * LOG2_E
            logit = tl.where(present, logit, -float("inf"))
            highest = tl.maximum(top, tl.max(logit, 0))
            # A row that has seen no neighbor yet: exponentials of -inf - 0, not of -inf + inf.
            level = tl.where(highest == -float("inf"), 0.0, highest)
            weight = tl.exp2(logit - level)
            fade = tl.exp2(top - level)
            total = total * fade + tl.sum(weight, 0)
            result = result * fade[:, None] + tl.sum(weight[:, :, None] * values.to(REAL), 0)
            if HAS_PAIR:
                pair_result = pair_result * fade[:, None] + tl.sum(weight[:, :, None] * feature, 0)
            top = highest
        empty = top == -float("inf")
        total = tl.where(empty, 1.0, total)
        top = tl.where(empty, 0.0, top)
        share = (1.0 / total)[:, None]
        tl.store(out + (own * DV)[:, None] + cv, result * share, mask=inside[:, None] & (cv < DV))
        tl.store(lse + own, (top + tl.log2(total)) * LN_2, mask=inside)
        if HAS_PAIR:
            tl.store(z + (own * P)[:, None] + p, pair_result * share, mask=inside[:, None] & (p < P))


@triton.jit(do_not_specialize=["R"])
def product_kernel(
    grad_out: tl.tensor, out: tl.tensor, grad_z: tl.tensor, z: tl.tensor, delta: tl.tensor, R: tl.tensor,
    DV: tl.constexpr, P: tl.constexpr, WIDE_V: tl.constexpr, WIDE_P: tl.constexpr, HAS_PAIR: tl.constexpr,
    REAL: tl.constexpr, ROWS: tl.constexpr,
) -> None:  # fmt: skip
    """delta = sum grad_out * out + sum grad_z * z, for ROWS of the R = M * H rows."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = rows < R
    cv = tl.arange(0, WIDE_V)
    at = (rows * DV)[:, None] + cv
    mask = inside[:, None] & (cv < DV)
    result = tl.load(out + at, mask=mask, other=0).to(REAL)
    total = tl.sum(tl.load(grad_out + at, mask=mask, other=0).to(REAL) * result, 1)
    if HAS_PAIR:
        p = tl.arange(0, WIDE_P)
        at = (rows * P)[:, None] + p
        mask = inside[:, None] & (p < P)
        pair_result = tl.load(z + at, mask=mask, other=0).to(REAL)
        total += tl.sum(tl.load(grad_z + at, mask=mask, other=0).to(REAL) * pair_result, 1)
    tl.store(delta + rows, total, mask=inside)


@triton.jit(do_not_specialize=["M"])
def query_kernel(
    q: tl.tensor, k: tl.tensor, v: tl.tensor, idx: tl.tensor, u: tl.tensor, y: tl.tensor, bias: tl.tensor,
    lse: tl.tensor, delta: tl.tensor, grad_out: tl.tensor, grad_z: tl.tensor, grad_q: tl.tensor, grad_u: tl.tensor,
    grad_y: tl.tensor, grad_bias: tl.tensor, M: tl.tensor, scale_high: tl.tensor, scale_low: tl.tensor,
    H: tl.constexpr, K: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, P: tl.constexpr, WIDE: tl.constexpr,
    WIDE_V: tl.constexpr, WIDE_P: tl.constexpr, HAS_PAIR: tl.constexpr, HAS_BIAS: tl.constexpr, WANT_Q: tl.constexpr,
    WANT_U: tl.constexpr, WANT_Y: tl.constexpr, WANT_BIAS: tl.constexpr, REAL: tl.constexpr, ROWS: tl.constexpr,
    SLOTS: tl.constexpr, HEADS: tl.constexpr,
) -> None:  # fmt: skip
    """Gradients of q, u, y and bias for ROWS queries.

    The gradient of y is a sum over heads. It is kept in registers, so that then one program must do all heads
    (HEADS = H) and all slots at once (SLOTS >= K).
    """
    groups: tl.constexpr = (H + HEADS - 1) // HEADS
    program = tl.program_id(0)
    first = (program % groups) * HEADS
    rows = (program // groups).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = rows < M
    c = tl.arange(0, WIDE)
    cv = tl.arange(0, WIDE_V)
    p = tl.arange(0, WIDE_P)
    scale = tl.full((), scale_high, REAL) + scale_low
    if WANT_Y:
        slope_y = tl.full((SLOTS, ROWS, WIDE_P), 0.0, REAL)
    for h in range(first, tl.minimum(first + HEADS, H)):
        own = rows * H + h
        query = tl.load(q + (own * D)[:, None] + c, mask=inside[:, None] & (c < D), other=0).to(REAL)
        slope = tl.load(grad_out + (own * DV)[:, None] + cv, mask=inside[:, None] & (cv < DV), other=0).to(REAL)
        level = tl.load(lse + own, mask=inside, other=0) * LOG2_E
        mean = tl.load(delta + own, mask=inside, other=0)
        slope_q = tl.full((ROWS, WIDE), 0.0, REAL)
        if HAS_PAIR:
            small = inside[:, None] & (p < P)
            pair_query = tl.load(u + (own * P)[:, None] + p, mask=small, other=0).to(REAL)
            pair_slope = tl.load(grad_z + (own * P)[:, None] + p, mask=small, other=0).to(REAL)
            slope_u = tl.full((ROWS, WIDE_P), 0.0, REAL)
        for start in range(0, K, SLOTS):
            slot = start + tl.arange(0, SLOTS)
            pair = rows * K + slot[:, None]
            real = inside & (slot < K)[:, None]
            near = tl.load(idx + pair, mask=real, other=-1)
            present = near >= 0
            other = near.to(tl.int64) * H + h
            if HAS_PAIR:
                feature = tl.load(y + (pair * P)[:, :, None] + p, mask=present[:, :, None] & (p < P), other=0).to(REAL)
            values = tl.load(v + (other * DV)[:, :, None] + cv, mask=present[:, :, None] & (cv < DV), other=0)
            gain = tl.sum(values.to(REAL) * slope, 2)
            keys = tl.load(k + (other * D)[:, :, None] + c, mask=present[:, :, None] & (c < D), other=0).to(REAL)
            logit = tl.sum(keys * query, 2)
            if HAS_PAIR:
                logit += tl.sum(feature * pair_query, 2)
                gain += tl.sum(feature * pair_slope, 2)
            logit *= scale * LOG2_E
            if HAS_BIAS:
                logit += tl.load(bias + pair * H + h, mask=present, other=0).to(REAL) * LOG2_E
            weight = tl.where(present, tl.exp2(logit - level), 0.0)
            steep = tl.where(present, weight * (gain - mean), 0.0)
            if WANT_BIAS:
                tl.store(grad_bias + pair * H + h, steep, mask=real)
            steep *= scale
            if WANT_Q:
                slope_q += tl.sum(steep[:, :, None] * keys, 0)
            if WANT_U:
                slope_u += tl.sum(steep[:, :, None] * feature, 0)
            if WANT_Y:
                slope_y += steep[:, :, None] * pair_query + weight[:, :, None] * pair_slope
        if WANT_Q:
            tl.store(grad_q + (own * D)[:, None] + c, slope_q, mask=inside[:, None] & (c < D))
        if WANT_U:
            tl.store(grad_u + (own * P)[:, None] + p, slope_u, mask=inside[:, None] & (p < P))
    if WANT_Y:
        slot = tl.arange(0, SLOTS)
        pair = rows * K + slot[:, None]
        real = inside & (slot < K)[:, None]
        present = tl.load(idx + pair, mask=real, other=-1) >= 0
        # A query without neighbors may be NaN itself: zero times that is not zero.
        slope_y = tl.where(present[:, :, None], slope_y, 0.0)
        tl.store(grad_y + (pair * P)[:, :, None] + p, slope_y, mask=real[:, :, None] & (p < P))


@triton.jit(do_not_specialize=["N"])
def key_kernel(
    q: tl.tensor, k: tl.tensor, v: tl.tensor, u: tl.tensor, y: tl.tensor, bias: tl.tensor, lse: tl.tensor,
    delta: tl.tensor, grad_out: tl.tensor, grad_z: tl.tensor, ptr: tl.tensor, edge: tl.tensor, grad_k: tl.tensor,
    grad_v: tl.tensor, N: tl.tensor, scale_high: tl.tensor, scale_low: tl.tensor,
    H: tl.constexpr, K: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, P: tl.constexpr, WIDE: tl.constexpr,
    WIDE_V: tl.constexpr, WIDE_P: tl.constexpr, HAS_PAIR: tl.constexpr, HAS_BIAS: tl.constexpr, WANT_K: tl.constexpr,
    WANT_V: tl.constexpr, REAL: tl.constexpr, ROWS: tl.constexpr, SLOTS: tl.constexpr, HEADS: tl.constexpr,
) -> None:  # fmt: skip
    """Gradients of k and v for ROWS keys and HEADS heads, SLOTS entries of their inverse lists at a time."""
    groups: tl.constexpr = (H + HEADS - 1) // HEADS
    program = tl.program_id(0)
    first = (program % groups) * HEADS
    rows = (program // groups).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = rows < N
    begin = tl.load(ptr + rows, mask=inside, other=0)
    end = tl.load(ptr + rows + 1, mask=inside, other=0)
    longest = tl.max(end - begin, 0)
    c = tl.arange(0, WIDE)
    cv = tl.arange(0, WIDE_V)
    p = tl.arange(0, WIDE_P)
    scale = tl.full((), scale_high, REAL) + scale_low
    for h in range(first, tl.minimum(first + HEADS, H)):
        own = rows * H + h
        # A key that nobody names may be NaN; it meets no query below.
        named = inside & (begin < end)
        key = tl.load(k + (own * D)[:, None] + c, mask=named[:, None] & (c < D), other=0).to(REAL)
        slope_k = tl.full((ROWS, WIDE), 0.0, REAL)
        slope_v = tl.full((ROWS, WIDE_V), 0.0, REAL)
        if WANT_K:
            value = tl.load(v + (own * DV)[:, None] + cv, mask=named[:, None] & (cv < DV), other=0).to(REAL)
        for start in range(0, longest, SLOTS):
            place = begin + start + tl.arange(0, SLOTS)[:, None]
            present = place < end
            pair = tl.load(edge + place, mask=present, other=0)
            other = (pair // K).to(tl.int64) * H + h
            pair = pair.to(tl.int64)
            # Pair features come first: from the last tile that is loaded, Triton takes the order of threads for the
            # weights, and converts all tiles that have another.
            if HAS_PAIR:
                small = present[:, :, None] & (p < P)
                feature = tl.load(y + (pair * P)[:, :, None] + p, mask=small, other=0).to(REAL)
                pair_query = tl.load(u + (other * P)[:, :, None] + p, mask=small, other=0).to(REAL)
                pair_logit = tl.sum(feature * pair_query, 2)
                if WANT_K:
                    pair_slope = tl.load(grad_z + (other * P)[:, :, None] + p, mask=small, other=0).to(REAL)
                    pair_gain = tl.sum(feature * pair_slope, 2)
            query = tl.load(q + (other * D)[:, :, None] + c, mask=present[:, :, None] & (c < D), other=0).to(REAL)
            slope = tl.load(grad_out + (other * DV)[:, :, None] + cv, mask=present[:, :, None] & (cv < DV), other=0).to(
                REAL
            )
            logit = tl.sum(query * key, 2)
            if HAS_PAIR:
                logit += pair_logit
            logit *= scale * LOG2_E
            if HAS_BIAS:
                logit += tl.load(bias + pair * H + h, mask=present, other=0).to(REAL) * LOG2_E
            level = tl.load(lse + other, mask=present, other=0) * LOG2_E
            weight = tl.where(present, tl.exp2(logit - level), 0.0)
            if WANT_V:
                slope_v += tl.sum(weight[:, :, None] * slope, 0)
            if WANT_K:
                gain = tl.sum(slope * value, 2)
                if HAS_PAIR:
                    gain += pair_gain
                steep = weight * (gain - tl.load(delta + other, mask=present, other=0)) * scale
                slope_k += tl.sum(steep[:, :, None] * query, 0)
        if WANT_K:
            tl.store(grad_k + (own * D)[:, None] + c, slope_k, mask=inside[:, None] & (c < D))
        if WANT_V:
            tl.store(grad_v + (own * DV)[:, None] + cv, slope_v, mask=inside[:, None] & (cv < DV))


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
    """`reference.attend` for contiguous tensors, without gradients; shapes as there.

    Returns:
        out (M, H, dv) and z (M, H, P) in the dtype of `q`, lse (M, H) in float32 (float64 for float64).

    >>> forward(*[torch.empty(0, 1, 4)] * 3, torch.empty(0, 2, dtype=torch.int32), None, None, None, 0.5)[0].shape
    torch.Size([0, 1, 4])
    """
    (m, heads, _), pairs = q.shape, _pairs(u)
    out, z = q.new_empty(m, heads, v.shape[2]), q.new_empty(m, heads, pairs)
    lse = q.new_empty(m, heads, dtype=_accurate(q))
    if m == 0 or heads == 0 or len(k) == 0 or idx.shape[1] == 0:
        return out.zero_(), z.zero_(), lse.zero_()
    sizes, problem = constants(q, v, idx.shape[1], u, bias), _problem("forward", q, v, idx, u)

    def run(tile: Tile) -> None:
        grid = (triton.cdiv(m, tile.rows) * triton.cdiv(heads, tile.heads),)
        forward_kernel[grid](
            q, k, v, idx, *_or(q, u, y, bias), out, z, lse, m, *_halves(scale), **sizes, **options(tile)
        )  # fmt: skip

    with _on(q):
        run(choose_tile(problem, run))
    return out, z, lse


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
    ptr: Tensor,
    edge: Tensor,
    scale: float,
    wanted: list[bool],
) -> list[Tensor]:
    """Gradients of `forward` with respect to q, k, v, u, y and bias.

    Args:
        grad_out: (M, H, dv).
        grad_z: (M, H, P).
        q, k, v, idx, u, y, bias, scale: as `forward` had them.
        out, z, lse: what it returned.
        ptr: (N + 1,) int64, where the inverse list of each key begins.
        edge: (M * K,) numbers i * K + j of the pairs, sorted by the key they name.
        wanted: which of the six gradients to compute.
    Returns:
        Six tensors, empty for gradients that are not wanted and for inputs that are not there.

    >>> rows, idx = torch.empty(0, 1, 4), torch.empty(0, 2, dtype=torch.int32)
    >>> inputs, outputs = (rows, rows, rows, idx, None, None, None), (rows, rows[..., :0], rows[..., 0])
    >>> gradients = backward(rows, rows[..., :0], *inputs, *outputs, idx[0:0, 0], idx[0:0, 0], 0.5, [True] * 6)
    >>> [tuple(gradient.shape) for gradient in gradients]
    [(0, 1, 4), (0, 1, 4), (0, 1, 4), (0,), (0,), (0,)]
    """
    inputs = (q, k, v, u, y, bias)
    gradients = [
        x.new_empty(x.shape) if x is not None and wish else q.new_empty(0)
        for x, wish in zip(inputs, wanted, strict=True)
    ]
    grad_q, grad_k, grad_v, grad_u, grad_y, grad_bias = gradients
    (m, heads, _), n, slots = q.shape, len(k), idx.shape[1]
    if m == 0 or n == 0 or heads == 0 or slots == 0:
        return [gradient.zero_() for gradient in gradients]
    grad_out, grad_z = grad_out.contiguous(), grad_z.contiguous()
    wish_q, wish_k, wish_v = wanted[:3]
    wish_u, wish_y = (wish and _pairs(u) > 0 for wish in wanted[3:5])
    wish_bias = wanted[5] and bias is not None
    sizes, spare = constants(q, v, slots, u, bias), _or(q, u, y, bias)
    delta = torch.empty_like(lse)

    def run_query(tile: Tile) -> None:
        grid = (triton.cdiv(m, tile.rows) * triton.cdiv(heads, tile.heads),)
        query_kernel[grid](
            q, k, v, idx, *spare, lse, delta, grad_out, grad_z, grad_q, grad_u, grad_y, grad_bias, m, *_halves(scale),
            WANT_Q=wish_q, WANT_U=wish_u, WANT_Y=wish_y, WANT_BIAS=wish_bias, **sizes, **options(tile),
        )  # fmt: skip

    def run_key(tile: Tile) -> None:
        grid = (triton.cdiv(n, tile.rows) * triton.cdiv(heads, tile.heads),)
        key_kernel[grid](
            q, k, v, *spare, lse, delta, grad_out, grad_z, ptr, edge, grad_k, grad_v, n, *_halves(scale),
            WANT_K=wish_k, WANT_V=wish_v, **sizes, **options(tile),
        )  # fmt: skip

    with _on(q):
        _products(grad_out, out, grad_z, z, delta)
        if wish_q or wish_u or wish_y or wish_bias:
            run_query(choose_tile(_problem("query", q, v, idx, u, whole=wish_y), run_query))
        if wish_k or wish_v:
            run_key(choose_tile(_problem("key", q, v, idx, u, rows=n), run_key))
    return gradients


def _products(grad_out: Tensor, out: Tensor, grad_z: Tensor, z: Tensor, delta: Tensor) -> None:
    """Fill `delta` (M, H): what the gradient of each logit has in common with the others of its row."""
    width, pairs = padded(out.shape[2]), padded(z.shape[2])
    rows = product_rows(max(width, pairs), out.device)
    product_kernel[(triton.cdiv(delta.numel(), rows),)](
        grad_out, out, grad_z, z, delta, delta.numel(),
        DV=out.shape[2], P=z.shape[2], WIDE_V=width, WIDE_P=pairs, HAS_PAIR=z.shape[2] > 0,
        REAL=_real(out), ROWS=rows, num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip


def constants(q: Tensor, v: Tensor, slots: int, u: Tensor | None, bias: Tensor | None) -> dict[str, Any]:
    """Arguments that every kernel takes and that are compiled into it.

    >>> constants(torch.empty(5, 2, 24), torch.empty(7, 2, 40), 16, None, None)["WIDE_V"]
    64
    """
    d, dv, pairs = q.shape[2], v.shape[2], _pairs(u)
    return {
        **{"H": q.shape[1], "K": slots, "D": d, "DV": dv, "P": pairs},
        **{"WIDE": padded(d), "WIDE_V": padded(dv), "WIDE_P": padded(pairs)},
        **{"HAS_PAIR": pairs > 0, "HAS_BIAS": bias is not None, "REAL": _real(q)},
    }


def options(tile: Tile) -> dict[str, Any]:
    """Arguments of a launch that follow from the tile.

    A product and a sum become one instruction with one rounding; said here because Triton is about to change its
    default, and warns.

    >>> options(Tile(16, 8, 4, 1))["num_warps"]
    4
    """
    cut = {"ROWS": tile.rows, "SLOTS": tile.slots, "HEADS": tile.heads}
    return {**cut, "num_warps": tile.warps, "enable_fp_fusion": True}


def _problem(
    kernel: str, q: Tensor, v: Tensor, idx: Tensor, u: Tensor | None, *, whole: bool = False, rows: int | None = None
) -> Problem:
    """What the tile of a kernel is chosen by; `rows` is M unless given."""
    (m, heads, d), pairs = q.shape, _pairs(u)
    return Problem(
        kernel=kernel,
        width=padded(max(d, v.shape[2])),
        pair_width=padded(pairs) if pairs else 0,
        slots=padded(idx.shape[1]),
        heads=heads,
        itemsize=q.element_size(),
        whole=whole,
        rows=m if rows is None else rows,
        device=q.device,
    )


def _pairs(u: Tensor | None) -> int:
    """P."""
    return 0 if u is None else u.shape[2]


def _or(default: Tensor, *options: Tensor | None) -> list[Tensor]:
    """The options, with a tensor in place of each that is absent: a pointer that the kernel never follows."""
    return [default if option is None else option for option in options]


def _halves(scale: float) -> tuple[float, float]:
    """Two numbers that are exact in float32 and add up to `scale`: Triton passes no float64."""
    high = float(np.float32(scale))
    return high, scale - high


def _accurate(x: Tensor) -> torch.dtype:
    """The dtype of all arithmetic."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _real(x: Tensor) -> Any:
    """The same for Triton."""
    return tl.float64 if x.dtype == torch.float64 else tl.float32


def _on(x: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device, which need not be that of the tensors."""
    return torch.cuda.device(x.device) if x.device.type == "cuda" else nullcontext()
