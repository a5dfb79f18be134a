"""Neighborhoods of tokens on a regular grid: shifted, dilated, strided and causal windows along every axis.

The windows are those of Generalized Neighborhood Attention (Hassani et al. 2025, arXiv 2504.16922), which hold
neighborhood attention (one query per window), blocked attention (stride = window) and what lies between. A window that
would leave the grid is shifted inwards, so that every query sees the same number of keys.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# Tokens are named by int32.
TOKEN_LIMIT = 1 << 31


class GridWindow(NamedTuple):
    """The windows of a grid of tokens, one entry per axis; built and checked by `grid_window`."""

    shape: tuple[int, ...]  # tokens along each axis
    window: tuple[int, ...]  # keys of a query along each axis
    dilation: tuple[int, ...]  # tokens from one key to the next
    stride: tuple[int, ...]  # consecutive queries (of one residue of the dilation) that share a window
    causal: tuple[bool, ...]  # whether a query sees no later token
    batch: int  # grids, packed one after another

    @property
    def tokens(self) -> int:
        """Tokens of all grids together."""
        return self.batch * math.prod(self.shape)

    @property
    def slots(self) -> int:
        """Keys of a query."""
        return math.prod(self.window)


def grid_window(
    shape: int | Sequence[int],
    window: int | Sequence[int],
    dilation: int | Sequence[int] = 1,
    stride: int | Sequence[int] = 1,
    causal: bool | Sequence[bool] = False,
    batch: int = 1,
) -> GridWindow:
    """Checked description of the windows of a grid.

    Args:
        shape: tokens along each axis, at least one axis; a number stands for one axis.
        window: keys along each axis; here and below a number holds for every axis.
        dilation: distance between keys, in tokens; window * dilation must fit into the axis.
        stride: how many consecutive queries share a window, at most `window`.
        causal: whether a query sees only itself and what lies before it along the axis.
        batch: number of equal grids.
    Raises:
        TypeError: something else than whole numbers.
        ValueError: no axis, a wrong number of entries, or a number out of its range.
    Source: Hassani et al. 2025 (arXiv 2504.16922), Generalized Neighborhood Attention.

    >>> grid_window((32, 48), 7, dilation=(1, 2)).window
    (7, 7)
    """
    lengths = _entries("shape", shape, 1 if isinstance(shape, int) else len(shape))
    axes = len(lengths)
    if not axes:
        raise ValueError("shape: expected at least one axis, got ()")
    windows = _entries("window", window, axes)
    dilations = _entries("dilation", dilation, axes)
    strides = _entries("stride", stride, axes)
    for name, values in (("shape", lengths), ("window", windows), ("dilation", dilations), ("stride", strides)):
        if min(values) < 1:
            raise ValueError(f"{name}: expected numbers of at least 1, got {values}")
    if any(keys * gap > length for keys, gap, length in zip(windows, dilations, lengths, strict=True)):
        raise ValueError(
            f"window: expected window * dilation of at most the shape {lengths}, got window {windows} and dilation "
            f"{dilations}"
        )
    if any(queries > keys for queries, keys in zip(strides, windows, strict=True)):
        raise ValueError(f"stride: expected at most the window {windows}, got {strides}")
    (grids,) = _entries("batch", batch, 1)
    if grids < 0 or grids * math.prod(lengths) >= TOKEN_LIMIT:
        raise ValueError(f"batch: expected from 0 to less than 2^31 tokens, got {grids} grids of {lengths}")
    flags = tuple(map(bool, _entries("causal", causal, axes)))
    return GridWindow(lengths, windows, dilations, strides, flags, grids)


def axis_neighbors(
    length: int,
    window: int,
    dilation: int = 1,
    stride: int = 1,
    causal: bool = False,
    device: torch.device | str | None = None,
) -> Tensor:
    """Coordinates of the keys of every query along one axis; arguments are those of a checked window.

    The axis falls into `dilation` residue groups that never see each other. Inside a group the queries of a stride
    share the window of their leader: the middle one, or the last one if causal.

    Args:
        length: tokens along the axis.
        window: keys of a query, with window * dilation at most `length`.
        dilation: distance between keys, in tokens.
        stride: consecutive queries of a group that share a window, at most `window`.
        causal: whether later tokens are left out.
        device: where the result goes.
    Returns:
        (length, window) int64, ascending; -1 where a causal query has no key.

    >>> axis_neighbors(5, 3).tolist()
    [[0, 1, 2], [0, 1, 2], [1, 2, 3], [2, 3, 4], [2, 3, 4]]
    >>> axis_neighbors(4, 2, causal=True).tolist()
    [[-1, 0], [0, 1], [1, 2], [2, 3]]
    """
    token = torch.arange(length, device=device)[:, None]
    offset = torch.arange(window, device=device)
    residue, place = token % dilation, token // dilation
    last = (length - 1 - residue) // dilation  # place of the group's last token
    chosen = stride - 1 if causal else stride // 2
    leader = torch.minimum(place // stride * stride + chosen, last)
    if causal:
        slot = leader - (window - 1) + offset
        return torch.where((slot >= 0) & (slot <= place), slot * dilation + residue, -1)
    first = torch.minimum((leader - window // 2).clamp(min=0), last - (window - 1))
    return (first + offset) * dilation + residue


def grid_index(window: GridWindow, device: torch.device | str | None = None) -> Tensor:
    """Names of the keys of every token: the product of the axes' windows.

    Args:
        window: from `grid_window`.
        device: where the result goes.
    Returns:
        (tokens, slots) int32. Tokens and slots are in row-major order (last axis fastest), the tokens of a grid after
        those of the one before it; -1 where a causal query has no key.

    >>> grid_index(grid_window((2, 3), 2, batch=2))[-1].tolist()
    [7, 8, 10, 11]
    """
    axes = len(window.shape)
    names = torch.zeros((1,) * (2 * axes), dtype=torch.int32, device=device)
    missing = torch.zeros((1,) * (2 * axes), dtype=torch.bool, device=device)
    for axis, options in enumerate(zip(*window[:5], strict=True)):
        near = axis_neighbors(*options, device=device).to(torch.int32)
        sizes = [1] * (2 * axes)
        sizes[axis], sizes[axes + axis] = near.shape
        near = near.view(sizes)
        names = names * window.shape[axis] + near
        missing = missing | (near < 0)
    names = names.masked_fill(missing, -1).view(-1, window.slots)
    first = torch.arange(window.batch, dtype=torch.int32, device=device)[:, None, None] * len(names)
    return torch.where(names < 0, names, names + first).view(window.tokens, window.slots)


def _entries(name: str, value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    """One whole number per axis."""
    entries = (value,) * axes if isinstance(value, int) else tuple(value) if isinstance(value, Sequence) else (value,)
    if not all(isinstance(entry, int) for entry in entries):
        raise TypeError(f"{name}: expected whole numbers, got {value!r}")
    if len(entries) != axes:
        raise ValueError(f"{name}: expected {axes} entries (one per axis), got {entries}")
    return entries
