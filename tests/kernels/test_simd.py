"""The SIMD loops against NumPy, for widths that fill vectors and widths that do not."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from rotaware.kernels.numba_rows import exponential
from rotaware.kernels.simd import BATCH, Width, largest_of_batches, row_dots, row_sums

DTYPES = [np.float32, np.float64]
# One channel, less than a vector, vectors of every length, a masked last vector, more accumulators than at once.
WIDTHS = [1, 3, 4, 8, 13, 16, 24, 48, 100, 144]


@njit
def dots(width, x, x_start, table, columns, column, rows, first, out, out_start):  # type: ignore[no-untyped-def]
    row_dots(width, x, x_start, table, columns, column, rows, first, out, out_start)


@njit
def sums(width, heads, weights, start, places, stride, table, columns, head_columns, rows, count, out, out_start):  # type: ignore[no-untyped-def]
    row_sums(width, heads, weights, start, places, stride, table, columns, head_columns, rows, count, out, out_start)


@njit
def largest(values, start, stop):  # type: ignore[no-untyped-def]
    return largest_of_batches(values, start, stop)


@njit
def exponentials(values):  # type: ignore[no-untyped-def]
    for place in range(len(values)):
        values[place] = exponential(values[place])


def poisoned(random: np.random.Generator, shape: tuple[int, ...], dtype: type, rows: np.ndarray) -> np.ndarray:
    """Normal numbers in the rows that may be read, NaN in the others."""
    table = np.full(shape, np.nan, dtype)
    table[np.unique(rows)] = random.standard_normal((len(np.unique(rows)), *shape[1:]))
    return table


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_row_dots(width: int, dtype: type) -> None:
    random = np.random.default_rng(width)
    heads, head, first = 3, 1, 16
    rows = random.integers(0, 40, 2 * BATCH).astype(np.int32)
    # What lies beside the head, and rows that are not named, must not be looked at.
    table = np.full((50, heads, width), np.nan, dtype)
    table[:, head] = poisoned(random, (50, width), dtype, rows[first:])
    x = np.full(width + 10, np.nan, dtype)
    x[5 : 5 + width] = random.standard_normal(width)
    out = np.full(3 * BATCH, 7, dtype)
    dots(Width(width), x, 5, table.reshape(-1), heads * width, head * width, rows, first, out, BATCH)
    expected = table[rows[first:], head].astype(np.float64) @ x[5 : 5 + width].astype(np.float64)
    np.testing.assert_allclose(out[BATCH : 2 * BATCH], expected, rtol=0, atol=width * 10 * np.finfo(dtype).eps)
    assert (out[:BATCH] == 7).all()
    assert (out[2 * BATCH :] == 7).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", [1, 2, 5])
@pytest.mark.parametrize("width", WIDTHS)
def test_row_sums(width: int, heads: int, dtype: type) -> None:
    random = np.random.default_rng(width)
    for count in (0, 1, 3, 4, 11):
        rows = random.integers(0, 20, count).astype(np.int32)
        table = poisoned(random, (20, heads, width), dtype, rows)
        weights = random.standard_normal((heads, 30)).astype(dtype)
        places = random.integers(0, 28, count)
        out = np.full(heads * width + 4, 7, dtype)
        sums(
            Width(width), heads, weights.reshape(-1), 2, places, 30, table.reshape(-1), heads * width, width, rows,
            count, out, 2,
        )  # fmt: skip
        expected = np.einsum("hj,jhc->hc", weights[:, places + 2].astype(np.float64), table[rows].astype(np.float64))
        limit = 30 * np.finfo(dtype).eps
        np.testing.assert_allclose(out[2:-2].reshape(heads, width), expected, rtol=0, atol=limit)
        assert (out[[0, 1, -2, -1]] == 7).all()


def test_row_sums_of_rows_that_heads_share() -> None:
    random = np.random.default_rng(0)
    table, weights = random.standard_normal((6, 5)), random.standard_normal((3, 6))
    out = np.zeros(15)
    rows, places = np.arange(6), np.arange(6)
    sums(Width(5), 3, weights.reshape(-1), 0, places, 6, table.reshape(-1), 5, 0, rows, 6, out, 0)
    np.testing.assert_allclose(out.reshape(3, 5), weights @ table, rtol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
def test_largest_is_the_maximum(dtype: type) -> None:
    random = np.random.default_rng(0)
    values = random.standard_normal(4 * BATCH).astype(dtype)
    for start in range(0, 4 * BATCH, BATCH):
        for place in range(BATCH):
            trial = values.copy()
            trial[start + place] = 9
            assert largest(trial, start, 4 * BATCH) == 9
            assert largest(trial, 0, 4 * BATCH) == trial.max()
    assert largest(np.full(BATCH, -np.inf, dtype), 0, BATCH) == -np.inf


@pytest.mark.parametrize(("dtype", "error"), [(np.float32, 2e-7), (np.float64, 1e-15)])
def test_exponential(dtype: type, error: float) -> None:
    values = np.concatenate([np.linspace(-87, 1, 20001), -np.logspace(-9, 1.9, 500), [0.0]]).astype(dtype)
    found = values.copy()
    exponentials(found)
    np.testing.assert_allclose(found, np.exp(values.astype(np.float64)), rtol=error)
    special = np.array([-np.inf, -1e30, np.nan], dtype)
    exponentials(special)
    assert special[0] == special[1] == 0
    assert np.isnan(special[2])
