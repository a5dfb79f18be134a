"""The compiled loops of neighborhood attention on the CPU, one query or one key after another.

Arrays are flat: a table of N rows of H heads of d channels has channel c of head h of row n at `(n * H + h) * d + c`.
Arrays of no elements stand for what is not there or not wanted. Loops over a row of slots run over whole batches, with
weight zero behind the last neighbor, so that they vectorise.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numba.extending import overload

from .simd import BATCH, bits_of_float, float_of_bits, largest_of_batches, row_dots, row_sums


class Shape(NamedTuple):
    """What all rows share."""

    heads: int
    d: int
    dv: int
    pairs: int
    slots: int

    @property
    def products(self) -> int:
        """Multiplications of one query."""
        return self.slots * self.heads * (self.d + self.dv + 2 * self.pairs)


def exponential(value: float) -> float:
    """Exponential of a number that is at most a little above zero, in the precision of its type."""
    raise NotImplementedError("only for compiled code")


LOG2_E = np.float32(math.log2(math.e))
# ln 2 in two parts, the first exact in few bits, so that n times it is exact.
LN2_HIGH = np.float32(0.693359375)
LN2_LOW = np.float32(math.log(2) - 0.693359375)
# Adding it rounds a float32 to an integer, which then stands in the lowest bits.
ROUNDER = np.float32(1.5 * 2**23)
ONE = np.float32(1)
BIAS = np.int32(127)
MANTISSA_BITS = np.int32(23)
SMALLEST = np.float32(-87.0)
# Taylor coefficients of exp on |r| <= ln(2) / 2: the first left out is 1/8!, 5e-9 of the result.
C2, C3, C4, C5, C6, C7 = (np.float32(1 / math.factorial(n)) for n in range(2, 8))


@overload(exponential, inline="always")
def _exponential(value):
    # The library's exponential is a call for each number; this one becomes part of the vectorised loop.
    if value.bitwidth == 64:
        return lambda value: math.exp(value)

    def single(value):
        shifted = value * LOG2_E + ROUNDER
        whole = shifted - ROUNDER
        r = value - whole * LN2_HIGH - whole * LN2_LOW
        series = ONE + r * (ONE + r * (C2 + r * (C3 + r * (C4 + r * (C5 + r * (C6 + r * C7))))))
        power = float_of_bits((bits_of_float(shifted) + BIAS) << MANTISSA_BITS)
        return np.float32(0) if value < SMALLEST else series * power

    return single


# No reassociation: every order of additions is written down. NaN and infinity keep their meaning.
JIT: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz"}}


@njit(**JIT)
def _whole(count: int) -> int:
    """`count` rounded up to whole batches."""
    return (count + BATCH - 1) // BATCH * BATCH


@njit(**JIT)
def _named_rows(idx: np.ndarray, query: int, rows: np.ndarray, edges: np.ndarray) -> int:
    """Number of neighbors; fills their rows and edge numbers, the first of them repeated up to a whole batch."""
    count = 0
    for slot in range(idx.shape[1]):
        row = idx[query, slot]
        if row >= 0:
            rows[count] = row
            edges[count] = query * idx.shape[1] + slot
            count += 1
    for place in range(count, _whole(count)):
        rows[place] = rows[0]
        edges[place] = edges[0]
    return count


@njit(**JIT)
def _products(
    query, rows, edges, count, stride, heads, d, pairs, width, pair_width, x, table, pair_x, y, products, scratch
) -> None:
    """products[h * stride + j] = x . table[rows[j]] + pair_x . y[edges[j]] for head h of a query."""
    for first in range(0, count, BATCH):
        for head in range(heads):
            start, at = head * stride + first, query * heads + head
            row_dots(width, x, at * d, table, heads * d, head * d, rows, first, products, start)
            if pairs:
                row_dots(pair_width, pair_x, at * pairs, y, pairs, 0, edges, first, scratch, start)
    if pairs:
        for place in range(heads * stride):
            products[place] += scratch[place]


@njit(**JIT)
def _logits(
    query, rows, edges, count, stride, shape, width, pair_width, q, k, u, y, bias, scale, logits, scratch
) -> None:
    """logits[h * stride + j] of the neighbors of a query, -inf up to a whole batch."""
    heads = shape.heads
    _products(
        query, rows, edges, count, stride, heads, shape.d, shape.pairs, width, pair_width, q, k, u, y, logits, scratch
    )
    for place in range(heads * stride):
        logits[place] *= scale
    for head in range(heads):
        base = head * stride
        if bias.size:
            for place in range(count):
                logits[base + place] += bias[edges[place] * heads + head]
        for place in range(count, _whole(count)):
            logits[base + place] = -np.inf


# Sums of products may be taken in any order, the same in each run.
@njit(**JIT | {"fastmath": {"contract", "nsz", "reassoc"}})
def _sum(values: np.ndarray) -> float:
    """Sum of whole batches."""
    total = values.dtype.type(0)
    for batch in range(len(values) // BATCH):
        for lane in range(BATCH):
            total += values[batch * BATCH + lane]
    return total


@njit(**JIT | {"fastmath": {"contract", "nsz", "reassoc"}})
def _dot(left: np.ndarray, right: np.ndarray) -> float:
    """Sum of the products of whole batches."""
    total = left.dtype.type(0)
    for batch in range(len(left) // BATCH):
        for lane in range(BATCH):
            total += left[batch * BATCH + lane] * right[batch * BATCH + lane]
    return total


@njit(**JIT)
def _exponentials(values: np.ndarray, offset: float) -> None:
    """In place exp(values - offset) of whole batches."""
    for batch in range(len(values) // BATCH):
        for lane in range(BATCH):
            values[batch * BATCH + lane] = exponential(values[batch * BATCH + lane] - offset)


@njit(**JIT)
def attend(start, stop, shape, width, value_width, pair_width, q, k, v, idx, u, y, bias, scale, out, z, lse) -> None:
    """Fill rows `start` to `stop` of out, z and lse."""
    heads, dv, pairs, stride = shape.heads, shape.dv, shape.pairs, _whole(shape.slots)
    rows, edges, places = np.empty(stride, np.int32), np.empty(stride, np.int64), np.arange(stride)
    # Slots behind the last neighbor are computed with the others, and must be numbers.
    weights, scratch = np.zeros(heads * stride, q.dtype), np.zeros(heads * stride, q.dtype)
    for query in range(start, stop):
        count = _named_rows(idx, query, rows, edges)
        if count == 0:
            out[query * heads * dv : (query + 1) * heads * dv] = 0
            z[query * heads * pairs : (query + 1) * heads * pairs] = 0
            lse[query * heads : (query + 1) * heads] = 0
            continue
        _logits(query, rows, edges, count, stride, shape, width, pair_width, q, k, u, y, bias, scale, weights, scratch)
        for head in range(heads):
            row = weights[head * stride : head * stride + _whole(count)]
            largest = largest_of_batches(row, 0, len(row))
            _exponentials(row, largest)
            total = _sum(row)
            share = q.dtype.type(1) / total
            for place in range(len(row)):
                row[place] *= share
            lse[query * heads + head] = largest + math.log(total)
        at = query * heads
        row_sums(value_width, heads, weights, 0, places, stride, v, heads * dv, dv, rows, count, out, at * dv)
        if pairs:
            row_sums(pair_width, heads, weights, 0, places, stride, y, pairs, 0, edges, count, z, at * pairs)


@njit(**JIT)
def query_gradients(
    start, stop, shape, width, value_width, pair_width, q, k, v, idx, u, y, bias, scale, grad_out, grad_z, lse,
    grad_q, grad_u, grad_y, grad_bias, edge_terms,
) -> None:  # fmt: skip
    """Fill rows `start` to `stop` of the gradients that have room, and the (E, 2, H) terms a and scale * e of edges."""
    heads, d, dv, pairs, slots = shape
    stride = _whole(slots)
    rows, edges, places = np.empty(stride, np.int32), np.empty(stride, np.int64), np.arange(stride)
    # One block of both, so that a sum over both can be one call: gradients of logits, then weights.
    terms, scratch = np.zeros(2 * heads * stride, q.dtype), np.zeros(heads * stride, q.dtype)
    logit_grads, weights = terms[: heads * stride], terms[heads * stride :]
    head_places, head_rows = np.arange(2 * heads) * stride, np.arange(2 * heads)
    pair_rows = np.empty(2 * heads * pairs, q.dtype)
    if grad_y.size:
        grad_y[start * slots * pairs : stop * slots * pairs] = 0
    if grad_bias.size:
        grad_bias[start * slots * heads : stop * slots * heads] = 0
    for query in range(start, stop):
        at = query * heads
        count = _named_rows(idx, query, rows, edges)
        if count == 0:
            if grad_q.size:
                grad_q[at * d : (at + heads) * d] = 0
            if grad_u.size:
                grad_u[at * pairs : (at + heads) * pairs] = 0
            continue
        _logits(query, rows, edges, count, stride, shape, width, pair_width, q, k, u, y, bias, scale, weights, scratch)
        _products(
            query, rows, edges, count, stride, heads, dv, pairs, value_width, pair_width, grad_out, v, grad_z, y,
            logit_grads, scratch,
        )  # fmt: skip
        for head in range(heads):
            row = weights[head * stride : head * stride + _whole(count)]
            grads = logit_grads[head * stride : head * stride + _whole(count)]
            _exponentials(row, lse[at + head])
            # Equal to grad_out . out + grad_z . z.
            mean = _dot(row, grads)
            for place in range(len(row)):
                grads[place] = row[place] * (grads[place] - mean)
            if grad_bias.size:
                for place in range(count):
                    grad_bias[edges[place] * heads + head] = grads[place]
        for place in range(heads * stride):
            logit_grads[place] *= scale
        if grad_q.size:
            row_sums(width, heads, logit_grads, 0, places, stride, k, heads * d, d, rows, count, grad_q, at * d)
        if grad_u.size:
            row_sums(pair_width, heads, logit_grads, 0, places, stride, y, pairs, 0, edges, count, grad_u, at * pairs)
        if grad_y.size:
            pair_rows[: heads * pairs] = u[at * pairs : (at + heads) * pairs]
            pair_rows[heads * pairs :] = grad_z[at * pairs : (at + heads) * pairs]
            for place in range(count):
                row_sums(
                    pair_width, 1, terms, place, head_places, 0, pair_rows, pairs, 0, head_rows, 2 * heads,
                    grad_y, edges[place] * pairs,
                )  # fmt: skip
        if edge_terms.size:
            for place in range(count):
                term = edges[place] * 2 * heads
                for head in range(heads):
                    edge_terms[term + head] = weights[head * stride + place]
                    edge_terms[term + heads + head] = logit_grads[head * stride + place]


@njit(**JIT)
def key_gradients(start, stop, shape, width, value_width, q, grad_out, ptr, edge, edge_terms, grad_k, grad_v) -> None:
    """Fill rows `start` to `stop` of the gradients of keys and values: sums over the inverse list."""
    heads, d, dv, _, slots = shape
    longest, share = 0, 1.0 / max(1, slots)
    for key in range(start, stop):
        longest = max(longest, ptr[key + 1] - ptr[key])
    rows, places = np.empty(longest, np.int32), np.empty(longest, np.int64)
    for key in range(start, stop):
        count = ptr[key + 1] - ptr[key]
        for place in range(count):
            number = np.int64(edge[ptr[key] + place])
            # The quotient, without a division; half a slot further no rounding reaches the next integer.
            rows[place] = np.int32((number + 0.5) * share)
            places[place] = number * 2 * heads
        at = key * heads
        if grad_v.size:
            row_sums(
                value_width, heads, edge_terms, 0, places, 1, grad_out, heads * dv, dv, rows, count, grad_v, at * dv
            )
        if grad_k.size:
            row_sums(width, heads, edge_terms, heads, places, 1, q, heads * d, d, rows, count, grad_k, at * d)
