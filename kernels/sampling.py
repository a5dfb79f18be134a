"""Choosing fewer points: farthest points, one per voxel; and an order that keeps neighbors together."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rotaware.geo.checks import require_choice
from rotaware.geo.threads import run_in_pieces

from . import numba_order, numba_sampling
from .batches import Backend, Lengths, borders, exact, require_points, require_tie_tolerance, runs_numba
from .numba_order import AXIS_CELLS, SPREAD
from .numba_tree import build_tree

# Points looked at to find the box of a cloud.
BOX_SAMPLE = 1024
VoxelRule = Literal["centroid", "first"]


class Voxels(NamedTuple):
    """One row per occupied voxel, in the order in which the voxels first occur."""

    points: Tensor  # (V, 3) in the unit and dtype of the input
    index: Tensor  # type: ignore[assignment]  # (V,) int64, the first input row of each voxel, ascending
    counts: Tensor  # (V,) int64, input rows in each voxel
    voxel_of_point: Tensor  # (N,) int64
    lengths: Tensor  # (B,) int64, voxels of each cloud


def voxel_downsample(
    points: Tensor,
    voxel_size: float,
    *,
    rule: VoxelRule = "centroid",
    lengths: Lengths | None = None,
    backend: Backend = "auto",
) -> Voxels:
    """One point per cube of a grid anchored at the coordinate origin.

    The cell of a point is `floor(xyz / voxel_size)` in float64, also for float32 points.

    Args:
        points: (N, 3) float32 or float64, any unit, any offset.
        voxel_size: edge of a voxel, in the unit of the points.
        rule: "first" keeps the first row of each voxel unchanged (with 0.025 m this reproduces the published 3DMatch
            clouds from their dense fragments, value for value); "centroid" takes the mean.
        lengths: (B,) rows of each cloud; None for one cloud.
        backend: "numba" on the CPU, "torch" anywhere; "auto" takes numba for CPU tensors.
    Returns:
        Voxels in the order of their first rows; no gradient.
    Raises:
        TypeError: not a floating point tensor.
        ValueError: a shape, length or rule that does not fit, a size that is not positive.
        RuntimeError: backend "numba" and the tensor is not on the CPU.

    >>> cloud = torch.tensor([[0.1, 0, 0], [1.5, 0, 0], [0.3, 0, 0]])
    >>> voxel_downsample(cloud, 1.0, rule="first").index
    tensor([0, 1])
    >>> voxel_downsample(cloud, 1.0).points[:, 0]
    tensor([0.2000, 1.5000])
    """
    require_points("points", points)
    require_choice("rule", rule, ("centroid", "first"))
    if not voxel_size > 0 or voxel_size == float("inf"):
        raise ValueError(f"voxel_size: expected a positive number, got {voxel_size}")
    edges = borders("lengths", lengths, len(points))
    values = exact(points)
    divide = _voxels_numba if runs_numba(backend, points) else _voxels_torch
    index, voxel_of_point, counts, means = divide(values, float(voxel_size), edges)
    kept = points.detach()[index] if rule == "first" else means.to(points.dtype)
    starts = torch.searchsorted(index, torch.tensor(edges, device=points.device))
    return Voxels(kept, index, counts, voxel_of_point, starts.diff())


def _voxels_numba(points: Tensor, voxel_size: float, edges: list[int]) -> tuple[Tensor, ...]:
    """First row of each voxel, voxel of each row, rows in each voxel, their mean."""
    return tuple(map(torch.from_numpy, numba_sampling.voxels(points.numpy(), voxel_size, np.array(edges))))


def _voxels_torch(points: Tensor, voxel_size: float, edges: list[int]) -> tuple[Tensor, ...]:
    """First row of each voxel, voxel of each row, rows in each voxel, their mean."""
    cells = torch.floor(points / voxel_size)
    sizes = torch.tensor(edges, device=points.device).diff()
    voxel = torch.repeat_interleave(torch.arange(len(sizes), device=points.device), sizes)
    # Axis by axis, so that the pair of two ranks fits an integer however far apart the cells are.
    for axis in range(3):
        rank = torch.unique(cells[:, axis], return_inverse=True)[1]
        voxel = torch.unique(voxel * len(points) + rank, return_inverse=True)[1]
    rows = torch.arange(len(points), device=points.device)
    first = torch.full((int(voxel.max()) + 1 if len(points) else 0,), len(points), device=points.device)
    first.scatter_reduce_(0, voxel, rows, "amin")
    index, order = first.sort()
    number = torch.empty_like(order)
    number[order] = torch.arange(len(order), device=points.device)
    voxel = number[voxel]
    counts = torch.bincount(voxel, minlength=len(index))
    # Means of the offsets from a voxel's first point: far from the origin no digit is lost.
    total = torch.zeros_like(points[index]).index_add_(0, voxel, points - points[index][voxel])
    return index, voxel, counts, points[index] + total / counts[:, None]


def farthest_point_sampling(
    points: Tensor,
    num_samples: int | Lengths,
    *,
    lengths: Lengths | None = None,
    start: int = 0,
    tie_tolerance: float = 0.0,
    backend: Backend = "auto",
) -> Tensor:
    """Each next sample is the point farthest from all samples before it, exactly.

    Args:
        points: (N, 3) float32 or float64, any unit.
        num_samples: how many of each cloud, or (B,) one number per cloud; no more than it has points.
        lengths: (B,) rows of each cloud; None for one cloud.
        start: first sample, counted within each cloud.
        tie_tolerance: points nearer than the farthest by no more than this count as equally far, in the unit of the
            points; see `knn`.
        backend: "numba" on the CPU, "torch" anywhere; "auto" takes numba for CPU tensors.
    Returns:
        (S,) int64 packed rows, in the order of sampling; no row twice. Among equally far points the lowest row.
    Raises:
        TypeError: not a floating point tensor.
        ValueError: a shape or length that does not fit, more samples than points, `start` outside a cloud.
        RuntimeError: backend "numba" and the tensor is not on the CPU.

    >>> farthest_point_sampling(torch.tensor([[0.0, 0, 0], [1, 0, 0], [4, 0, 0]]), 2)
    tensor([0, 2])
    """
    require_points("points", points)
    edges = borders("lengths", lengths, len(points))
    sizes = [stop - first for first, stop in pairwise(edges)]
    wanted = _samples_per_cloud(num_samples, sizes)
    if any(number and not 0 <= start < size for number, size in zip(wanted, sizes, strict=True)):
        raise ValueError(f"start: expected a row of every cloud (sizes {sizes}), got {start}")
    require_tie_tolerance(tie_tolerance)
    values = exact(points)
    samples = torch.empty(sum(wanted), dtype=torch.int64, device=points.device)
    compiled = runs_numba(backend, points)
    clouds, outputs = values.split(sizes), samples.split(wanted)

    def run(begin: int, end: int) -> None:
        for cloud in range(begin, end):
            (_farthest_numba if compiled else _farthest_torch)(clouds[cloud], start, tie_tolerance, outputs[cloud])

    # A thread of its own would not know the caller's CUDA stream.
    run_in_pieces(run, len(sizes), smallest=1 if compiled else len(sizes))
    for first, output in zip(edges[:-1], outputs, strict=True):
        output += first
    return samples


def _samples_per_cloud(num_samples: int | Lengths, sizes: list[int]) -> list[int]:
    """One number for each cloud, after the checks."""
    each = [num_samples] * len(sizes) if isinstance(num_samples, int) else num_samples
    wanted = [int(number) for number in each]
    if len(wanted) != len(sizes):
        raise ValueError(f"num_samples: expected {len(sizes)} numbers, one for each cloud, got {len(wanted)}")
    for number, size in zip(wanted, sizes, strict=True):
        if not 0 <= number <= size:
            raise ValueError(f"num_samples: expected at most the {size} points of a cloud, got {number}")
    return wanted


def _farthest_numba(points: Tensor, start: int, tie_tolerance: float, samples: Tensor) -> None:
    """Fill the samples of one cloud."""
    if len(samples):
        tree = build_tree(points.numpy(), hilbert_order(points))
        numba_sampling.farthest_points(points.numpy(), *tree, start, tie_tolerance, samples.numpy())


def _farthest_torch(points: Tensor, start: int, tie_tolerance: float, samples: Tensor) -> None:
    """Fill the samples of one cloud, one pass over all points per sample and no synchronisation."""
    distance = points.new_full((len(points),), float("inf"))
    current = torch.full((), start, device=points.device)
    for place in range(len(samples)):
        slot = samples[place : place + 1]
        slot.copy_(current)
        offset = (points - points.index_select(0, slot)).square_()
        distance = torch.fmin(distance, offset[:, 0] + offset[:, 1] + offset[:, 2])
        distance.index_fill_(0, slot, -1.0)
        current = distance.argmax()
        if tie_tolerance > 0:
            limit = (distance[current].clamp(min=0).sqrt() - tie_tolerance).clamp(min=0).square()
            # The first of the largest of 0 and 1.
            current = (distance >= limit).to(torch.uint8).argmax()


def morton_order(points: Tensor, lengths: Lengths | None = None, *, backend: Backend = "auto") -> Tensor:
    """Order in which points close in space are close in memory; gathers by neighbor index get faster.

    Args:
        points: (N, 3) float32 or float64, any unit.
        lengths: (B,) rows of each cloud; None for one cloud. Clouds stay in place.
        backend: "numba" on the CPU, "torch" anywhere; "auto" takes numba for CPU tensors.
    Returns:
        (N,) int64: row `i` of the ordered cloud is row `order[i]` of `points`. Equal codes keep their order.
    Raises:
        TypeError: not a floating point tensor.
        ValueError: a shape or length that does not fit.
        RuntimeError: backend "numba" and the tensor is not on the CPU.
    Reference: Z-order curve, 21 bits per axis over the box of all points but the outermost; those are clamped.

    >>> morton_order(torch.tensor([[9.0, 9, 9], [0, 0, 0], [9, 9, 8]]))
    tensor([1, 2, 0])
    """
    require_points("points", points)
    edges = borders("lengths", lengths, len(points))
    values, compiled = exact(points), runs_numba(backend, points)
    pieces = [_morton_order(values[a:b], compiled) + a for a, b in pairwise(edges)]
    return torch.cat(pieces) if pieces else torch.empty(0, dtype=torch.int64, device=points.device)


def _morton_order(points: Tensor, compiled: bool) -> Tensor:
    """Order of one cloud."""
    if len(points) < 2:
        return torch.arange(len(points), device=points.device)
    origin, edge = _main_box(points)
    scale = AXIS_CELLS / edge if edge > 0 else 0.0
    if compiled:
        return torch.from_numpy(numba_order.morton_order(points.numpy(), origin, scale)).to(torch.int64)
    cells = (
        ((points - torch.from_numpy(origin).to(points)) * scale)
        .nan_to_num(0.0)
        .clamp(0, AXIS_CELLS - 1)
        .to(torch.int64)
    )
    for shift, mask in SPREAD:
        cells = (cells | cells << shift) & mask
    return torch.sort(cells[:, 0] | cells[:, 1] << 1 | cells[:, 2] << 2, stable=True)[1]


def hilbert_order(points: Tensor) -> np.ndarray:
    """Stable order (N,) int32 of one cloud of float64 points on the CPU along the Hilbert curve.

    >>> hilbert_order(torch.tensor([[9.0, 9, 9], [0, 0, 0], [9, 9, 8]], dtype=torch.float64)).tolist()
    [1, 2, 0]
    """
    origin, edge = _main_box(points)
    return numba_order.hilbert_order(points.numpy(), origin, edge)


def _main_box(points: Tensor) -> tuple[np.ndarray, float]:
    """Lower corner and edge of a cube around nearly all points: far outliers would leave no bits for the rest."""
    sample = points[:: max(1, len(points) // BOX_SAMPLE)].cpu().numpy().astype(np.float64)
    sample = np.sort(sample[np.isfinite(sample).all(1)], axis=0)
    if not len(sample):
        return np.zeros(3), 0.0
    trim = len(sample) // 50
    for lower, upper in ((sample[trim], sample[-1 - trim]), (sample[0], sample[-1])):
        # Halves, so that no difference of two numbers overflows.
        edge = 4 * float((upper / 2 - lower / 2).max())
        if edge > 0:
            break
    return lower / 2 + upper / 2 - edge / 2, edge
