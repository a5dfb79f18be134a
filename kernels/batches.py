"""Packed batches: clouds of different sizes as one block of rows, with the number of rows of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rotaware.geo.checks import require_choice, require_floating, require_integer, require_same_device, require_shape

Backend = Literal["auto", "numba", "torch"]
Lengths = Tensor | Sequence[int]


def require_points(name: str, points: Tensor) -> None:
    """Raise unless `points` is a floating point tensor of shape (N, 3).

    >>> require_points("points", torch.zeros(5, 3))
    """
    require_floating(name, points)
    require_shape(name, points, "N", 3)


def require_tie_tolerance(tolerance: float) -> None:
    """Raise unless `tolerance` is a length.

    >>> require_tie_tolerance(0.0)
    """
    if not 0 <= tolerance < float("inf"):
        raise ValueError(f"tie_tolerance: expected a length of at least 0, got {tolerance}")


def borders(name: str, lengths: Lengths | None, rows: int) -> list[int]:
    """Where each cloud of a packed batch starts, and the end.

    Args:
        name: how the caller knows `lengths`.
        lengths: (B,) integers, or None for one cloud. A tensor on an accelerator costs one synchronisation.
        rows: number of packed rows.
    Returns:
        B + 1 numbers from 0 to `rows`.
    Raises:
        ValueError: a negative length, or a sum that is not `rows`.

    >>> borders("lengths", [2, 3], 5)
    [0, 2, 5]
    """
    if lengths is None:
        return [0, rows]
    if isinstance(lengths, Tensor):
        require_integer(name, lengths)
        require_shape(name, lengths, "B")
        lengths = lengths.tolist()
    edges = [0]
    for length in lengths:
        if length < 0:
            raise ValueError(f"{name}: expected numbers of rows, got {length}")
        edges.append(edges[-1] + int(length))
    if edges[-1] != rows:
        raise ValueError(f"{name}: expected a sum of {rows} (the number of rows), got {edges[-1]}")
    return edges


def paired_clouds(
    lengths: Lengths | None, rows: int, other_name: str, other_lengths: Lengths | None, other_rows: int
) -> Iterator[tuple[slice, slice]]:
    """Row ranges of each cloud in two packed blocks that belong together (points and queries, points and nodes).

    Raises:
        ValueError: the blocks do not hold the same number of clouds.

    >>> list(paired_clouds([1, 2], 3, "query_lengths", [4, 0], 4))
    [(slice(0, 1, None), slice(0, 4, None)), (slice(1, 3, None), slice(4, 4, None))]
    """
    ours = borders("lengths", lengths, rows)
    theirs = borders(other_name, other_lengths, other_rows)
    if len(ours) != len(theirs):
        raise ValueError(f"{other_name}: expected {len(ours) - 1} clouds as in lengths, got {len(theirs) - 1}")
    for cloud in range(len(ours) - 1):
        yield slice(ours[cloud], ours[cloud + 1]), slice(theirs[cloud], theirs[cloud + 1])


def runs_numba(backend: Backend, points: Tensor, other: Tensor | None = None) -> bool:
    """Whether the compiled CPU code answers, else plain torch; checks that `other` is on the same device.

    Raises:
        ValueError: an unknown backend, or tensors on different devices.
        RuntimeError: `backend` is "numba" and the tensors are not on the CPU.

    >>> runs_numba("auto", torch.zeros(5, 3))
    True
    """
    require_choice("backend", backend, ("auto", "numba", "torch"))
    require_same_device({"points": points, "queries": other})
    on_cpu = points.device.type == "cpu"
    if backend == "numba" and not on_cpu:
        raise RuntimeError(f"backend: expected tensors on the CPU for 'numba', got {points.device}")
    return backend != "torch" and on_cpu


def exact(points: Tensor) -> Tensor:
    """Contiguous float64 copy (or view) without gradient: distances of float32 input are exact to one rounding.

    A device without float64 (Apple's) keeps float32.

    >>> exact(torch.zeros(5, 3)).dtype
    torch.float64
    """
    if points.device.type == "cpu" and points.dtype == torch.float32:
        # For this copy torch would start all its threads, and on a busy machine wait for the slowest to wake.
        return torch.from_numpy(points.detach().numpy().astype(np.float64, order="C"))
    widest = torch.float32 if points.device.type == "mps" else torch.float64
    return points.detach().to(widest).contiguous()
