"""Compiled loops of optimal transport between small sets, each row of the batch by itself.

The scaling form of Sinkhorn's algorithm: with K = exp(scores - largest of the row), each iteration is two products of
K with a vector, in one pass over K. The backward pass runs all iterations again, keeps the scaling vectors of each, and
goes back through them exactly. Where they leave the range in which float64 loses nothing, the same steps are taken on
logarithms.

What is missing, and a slack that nothing can use, is left out from the start: all loops run over R rows and C columns
with mass, the slack last.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

# Score of a missing row or column, and what stands for it in the plan.
MISSING = -1e6
# Bounds of scaling vectors: a product of two that reaches 1e280 could lift an entry of K that was rounded to zero.
SMALLEST, LARGEST = 1e-140, 1e140

# A division by zero gives infinity, which `_sound` notices.
JIT: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}
# Sums may be taken in any order, the same in each run. NaN and infinity keep their meaning.
FAST: dict[str, Any] = {**JIT, "fastmath": {"contract", "nsz", "reassoc", "arcp"}}


@njit(**JIT)
def transport(
    start: int,
    stop: int,
    scores: np.ndarray,
    alpha: float,
    row_mask: np.ndarray,
    column_mask: np.ndarray,
    iterations: int,
    plan: np.ndarray,
) -> None:
    """Fill log plans `start` to `stop` of `plan` (B, R + 1, C + 1)."""
    height, width = plan.shape[1], plan.shape[2]
    padded, kernel, shift = np.empty((height, width)), np.empty((height, width)), np.empty(height)
    u, v = np.empty((iterations + 1, height)), np.empty((iterations + 1, width))
    for p in range(start, stop):
        rows, mu, columns, nu = _present(row_mask[p], column_mask[p])
        plan[p] = MISSING
        if len(rows) == 0:
            continue
        _pad(scores[p], alpha, rows, columns, padded)
        last_u, last_v = u[iterations], v[iterations]
        if scaling(padded, mu, nu, kernel, shift, u, v):
            for i in range(len(mu)):
                last_u[i] = np.log(last_u[i]) - shift[i]
            for j in range(len(nu)):
                last_v[j] = np.log(last_v[j])
        else:
            _iterate(padded, mu, nu, u, v)
        for i in range(len(mu)):
            for j in range(len(nu)):
                plan[p, rows[i], columns[j]] = padded[i, j] + last_u[i] + last_v[j]


@njit(**JIT)
def differentiate(
    start: int,
    stop: int,
    grad: np.ndarray,
    scores: np.ndarray,
    alpha: float,
    row_mask: np.ndarray,
    column_mask: np.ndarray,
    iterations: int,
    of_scores: np.ndarray,
    of_alpha: np.ndarray,
) -> None:
    """Gradients of the scores (B, R, C) and of alpha (B,), by `grad` (B, R + 1, C + 1), of plans `start` to `stop`."""
    height, width = grad.shape[1], grad.shape[2]
    padded, kernel, shift = np.empty((height, width)), np.empty((height, width)), np.empty(height)
    outer, total = np.empty((height, width)), np.empty((height, width))
    u, v = np.empty((iterations + 1, height)), np.empty((iterations + 1, width))
    for p in range(start, stop):
        rows, mu, columns, nu = _present(row_mask[p], column_mask[p])
        of_scores[p] = 0.0
        of_alpha[p] = 0.0
        if len(rows) == 0:
            continue
        _pad(scores[p], alpha, rows, columns, padded)
        grad_u, grad_v = np.zeros(len(mu)), np.zeros(len(nu))
        for i in range(len(mu)):
            for j in range(len(nu)):
                given = np.float64(grad[p, rows[i], columns[j]])
                total[i, j] = given
                grad_u[i] += given
                grad_v[j] += given
        if scaling(padded, mu, nu, kernel, shift, u, v):
            _sweep(kernel, mu, nu, u, v, grad_u, grad_v, outer, total)
        else:
            _iterate(padded, mu, nu, u, v)
            _sweep_logarithms(padded, mu, nu, u, v, grad_u, grad_v, total)
        for i in range(len(mu)):
            for j in range(len(nu)):
                if rows[i] < height - 1 and columns[j] < width - 1:
                    of_scores[p, rows[i], columns[j]] = total[i, j]
                else:
                    of_alpha[p] += total[i, j]


@njit(**JIT)
def _present(row_mask: np.ndarray, column_mask: np.ndarray) -> tuple[np.ndarray, ...]:
    """Rows with mass, their masses, and the same for columns; all masses relative to that of a valid row."""
    valid_rows, valid_columns = row_mask.nonzero()[0], column_mask.nonzero()[0]
    m, n = len(valid_rows), len(valid_columns)
    # The slack takes what the other side has: nothing, if there is nothing.
    rows, mu = np.empty(m + (n > 0), np.int64), np.ones(m + (n > 0))
    columns, nu = np.empty(n + (m > 0), np.int64), np.ones(n + (m > 0))
    rows[:m], columns[:n] = valid_rows, valid_columns
    if n > 0:
        rows[m], mu[m] = len(row_mask), n
    if m > 0:
        columns[n], nu[n] = len(column_mask), m
    return rows, mu, columns, nu


@njit(**JIT)
def _pad(scores: np.ndarray, alpha: float, rows: np.ndarray, columns: np.ndarray, padded: np.ndarray) -> None:
    """Scores of what is present, slack included."""
    for i in range(len(rows)):
        for j in range(len(columns)):
            inside = rows[i] < scores.shape[0] and columns[j] < scores.shape[1]
            padded[i, j] = scores[rows[i], columns[j]] if inside else alpha


@njit(**JIT)
def scaling(
    padded: np.ndarray,
    mu: np.ndarray,
    nu: np.ndarray,
    kernel: np.ndarray,
    shift: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
) -> bool:
    """K and the scaling vectors of all iterations; False if they cannot be trusted."""
    for i in range(len(mu)):
        shift[i] = padded[i, : len(nu)].max()
        for j in range(len(nu)):
            kernel[i, j] = np.exp(padded[i, j] - shift[i])
    _multiply(kernel, mu, nu, a, b)
    return _sound(a, len(mu)) and _sound(b, len(nu))


@njit(**FAST)
def _multiply(kernel: np.ndarray, mu: np.ndarray, nu: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """a[t] = mu / (K b[t - 1]) and b[t] = nu / (K^T a[t]), from b[0] = 1."""
    C = len(nu)
    b[0, :C] = 1.0
    for t in range(1, len(a)):
        before, after, scale = b[t - 1], b[t], a[t]
        after[:C] = 0.0
        for i in range(len(mu)):
            total = 0.0
            for j in range(C):
                total += kernel[i, j] * before[j]
            factor = mu[i] / total
            scale[i] = factor
            for j in range(C):
                after[j] += kernel[i, j] * factor
        for j in range(C):
            after[j] = nu[j] / after[j]


@njit(**JIT)
def _sound(vectors: np.ndarray, count: int) -> bool:
    """Whether all scaling vectors but the first, which is given, stayed in bounds; NaN did not."""
    for t in range(1, len(vectors)):
        for i in range(count):
            if not (SMALLEST < vectors[t, i] < LARGEST):
                return False
    return True


@njit(**FAST)
def _sweep(
    kernel: np.ndarray,
    mu: np.ndarray,
    nu: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    grad_u: np.ndarray,
    grad_v: np.ndarray,
    outer: np.ndarray,
    total: np.ndarray,
) -> None:
    """Back through all iterations; adds to `total`, which ends as the gradient of the padded scores.

    With u = log a and v = log b, a row's step u = log mu - LSE(S + v) has the softmax K a b / mu, and a column's
    likewise. `outer` collects what both leave for S, but for the factor K.
    """
    C = len(nu)
    y = np.empty(C)
    outer[:] = 0.0
    for t in range(len(a) - 1, 0, -1):
        scale, after, before = a[t], b[t], b[t - 1]
        for j in range(C):
            y[j] = grad_v[j] * after[j] / nu[j]
            grad_v[j] = 0.0
        for i in range(len(mu)):
            through = 0.0
            for j in range(C):
                through += kernel[i, j] * y[j]
            factor = scale[i]
            x = (grad_u[i] - factor * through) * factor / mu[i]
            # Only the last u stands in the plan itself.
            grad_u[i] = 0.0
            for j in range(C):
                outer[i, j] += factor * y[j] + x * before[j]
                grad_v[j] -= kernel[i, j] * x
        for j in range(C):
            grad_v[j] *= before[j]
    for i in range(len(mu)):
        for j in range(C):
            total[i, j] -= kernel[i, j] * outer[i, j]


@njit(**JIT)
def _iterate(padded: np.ndarray, mu: np.ndarray, nu: np.ndarray, u: np.ndarray, v: np.ndarray) -> None:
    """u[t] = log mu - LSE(S + v[t - 1]) and v[t] = log nu - LSE(S + u[t]), from v[0] = 0."""
    R, C = len(mu), len(nu)
    v[0, :C] = 0.0
    for t in range(1, len(u)):
        for i in range(R):
            u[t, i] = np.log(mu[i]) - _log_sum(padded[i, :C], v[t - 1])
        for j in range(C):
            v[t, j] = np.log(nu[j]) - _log_sum(padded[:R, j], u[t])


@njit(**JIT)
def _log_sum(line: np.ndarray, offsets: np.ndarray) -> float:
    """Logarithm of the sum of exponentials."""
    largest = -np.inf
    for k in range(len(line)):
        largest = max(largest, line[k] + offsets[k])
    total = 0.0
    for k in range(len(line)):
        total += np.exp(line[k] + offsets[k] - largest)
    return largest + np.log(total)


@njit(**JIT)
def _sweep_logarithms(
    padded: np.ndarray,
    mu: np.ndarray,
    nu: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
    grad_u: np.ndarray,
    grad_v: np.ndarray,
    total: np.ndarray,
) -> None:
    """`_sweep` on logarithms."""
    for t in range(len(u) - 1, 0, -1):
        for i in range(len(mu)):
            for j in range(len(nu)):
                part = grad_v[j] * np.exp(padded[i, j] + u[t, i] + v[t, j]) / nu[j]
                total[i, j] -= part
                grad_u[i] -= part
        grad_v[:] = 0.0
        for i in range(len(mu)):
            for j in range(len(nu)):
                part = grad_u[i] * np.exp(padded[i, j] + u[t, i] + v[t - 1, j]) / mu[i]
                total[i, j] -= part
                grad_v[j] -= part
            grad_u[i] = 0.0
