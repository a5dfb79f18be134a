"""Distances and angles among the superpoints of a cloud, and their embedding in the global transformer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from rotaware.geo.checks import require_shape
from rotaware.geo.threads import run_in_pieces
from rotaware.kernels import knn

from .numba_curves import read, scatter

# Grid of the tables, in units of the embedded number. Sines of frequency 1 between two grid points are then linear to
# 1e-5, finer than what float32 leaves of a descriptor.
TABLE_STEP = 1 / 128
# Numbers beyond are embedded as this: 51 m or 3800 degrees at the published scales. Angles end at 180 degrees.
TABLE_END = 256.0


@dataclass(frozen=True, eq=False)
class NodeGeometry:
    """One cloud's superpoints as the global transformer sees them: unchanged by any rotation or translation.

    >>> geometry = NodeGeometry.of(torch.eye(3))
    >>> geometry.distance.shape, geometry.angle.shape
    (torch.Size([3, 3]), torch.Size([3, 3, 2]))
    """

    distance: Tensor  # (S, S), between superpoints i and j, in the unit of the points
    angle: Tensor  # (S, S, A), radians at superpoint i between its m-th nearest superpoint and j; 0 for j = i

    @classmethod
    def of(cls, nodes: Tensor, *, neighbors: int = 3, tie_tolerance: float = 0.0) -> NodeGeometry:
        """Distances and angles of superpoints (S, 3); with fewer than `neighbors` + 1 of them, fewer angles.

        Source: Qin et al., GeoTransformer, CVPR 2022, section 3.2, as in the released code of RoITr.
        """
        require_shape("nodes", nodes, "S", 3)
        nodes = nodes.detach()
        offset = nodes[None] - nodes[:, None]
        distance = offset.norm(dim=-1)
        count = min(neighbors, max(len(nodes) - 1, 0))
        if count == 0:
            return cls(distance, distance.new_zeros(len(nodes), len(nodes), 0))
        nearest = knn(nodes, count, exclude_self=True, tie_tolerance=tie_tolerance).index.long()
        sides = (nodes[nearest] - nodes[:, None])[:, None]  # (S, 1, A, 3)
        offset = offset[:, :, None].expand(-1, -1, count, -1)
        across = torch.linalg.cross(sides.expand_as(offset), offset, dim=-1).norm(dim=-1)
        return cls(distance, torch.atan2(across, (sides * offset).sum(-1)))

    def single(self) -> NodeGeometry:
        """In single precision."""
        return NodeGeometry(self.distance.float(), self.angle.float())

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> NodeGeometry:
        """On another device."""
        return NodeGeometry(
            self.distance.to(device, non_blocking=non_blocking), self.angle.to(device, non_blocking=non_blocking)
        )

    def pin_memory(self) -> NodeGeometry:
        """In page-locked memory."""
        return NodeGeometry(self.distance.pin_memory(), self.angle.pin_memory())


def sinusoids(numbers: Tensor, channels: int) -> Tensor:
    """Sines and cosines of falling frequency, (..., channels), interleaved.

    Raises:
        ValueError: an odd number of channels.
    Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.5.

    >>> sinusoids(torch.zeros(1), 4)
    tensor([[0., 1., 0., 1.]])
    """
    if channels % 2:
        raise ValueError(f"channels: expected an even number, got {channels}")
    exponent = torch.arange(0, channels, 2, device=numbers.device, dtype=torch.float32) / channels
    phase = numbers[..., None] * torch.exp(exponent * -math.log(10_000.0))
    return torch.stack([phase.sin(), phase.cos()], dim=-1).flatten(-2)


class GeometricEmbedding(nn.Module):
    """A vector for each pair of superpoints: embedded distance plus the largest, per channel, of the embedded angles.

    A linear map of sinusoids of one number is a curve. `tabulated` reads that curve from a table of points 1/128 apart,
    with linear interpolation between them (error below 1e-5 of the curve's size), which takes a small part of the
    arithmetic and holds nothing of shape (S, S, A, channels).

    >>> GeometricEmbedding(64)(NodeGeometry.of(torch.rand(10, 3))).shape
    torch.Size([10, 10, 64])
    """

    def __init__(
        self, channels: int, *, distance_scale: float = 0.2, angle_scale: float = 15.0, tabulated: bool = True
    ) -> None:
        super().__init__()
        self.channels, self.tabulated = channels, tabulated
        self.distance_scale, self.angle_scale = distance_scale, angle_scale
        self.proj_d = nn.Linear(channels, channels)
        self.proj_a = nn.Linear(channels, channels)

    def forward(self, geometry: NodeGeometry) -> Tensor:
        """(S, S, channels)."""
        distance = geometry.distance / self.distance_scale
        angle = geometry.angle * (180.0 / math.pi / self.angle_scale)
        if not self.tabulated:
            embedded = self.proj_d(sinusoids(distance, self.channels))
            if not angle.shape[2]:
                return embedded
            return embedded + self.proj_a(sinusoids(angle, self.channels)).amax(2)
        places = [(numbers.float() / TABLE_STEP).clamp(max=TABLE_END / TABLE_STEP) for numbers in (distance, angle)]
        tables = [self._table(proj, place) for proj, place in zip((self.proj_d, self.proj_a), places, strict=True)]
        if distance.device.type == "cpu" and tables[0].dtype == torch.float32 and not torch.compiler.is_compiling():
            return ReadTables.apply(*places, *tables)
        return read_tables(*places, *tables)

    def _table(self, proj: nn.Linear, places: Tensor) -> Tensor:
        """Points of a curve, as far as any place goes and one further."""
        rows = int(places.max()) + 2 if places.numel() else 2
        grid = torch.arange(rows, device=places.device, dtype=torch.float32) * TABLE_STEP
        return proj(sinusoids(grid, self.channels))


def read_tables(distance: Tensor, angle: Tensor, distance_table: Tensor, angle_table: Tensor) -> Tensor:
    """The definition of the reading. Places are in steps of the tables; (S, S) and (S, S, A) to (S, S, channels)."""
    embedded = _interpolated(distance, distance_table)
    if not angle.shape[2]:
        return embedded
    largest = _interpolated(angle[..., 0], angle_table)
    for m in range(1, angle.shape[2]):
        largest = torch.maximum(largest, _interpolated(angle[..., m], angle_table))
    return embedded + largest


def _interpolated(places: Tensor, table: Tensor) -> Tensor:
    flat = places.flatten()
    lower = flat.floor()
    share = (flat - lower)[:, None]
    rows = lower.long()[:, None] + torch.arange(2, device=flat.device)
    weights = torch.cat([1 - share, share], dim=1).to(table.dtype)
    return embedding_bag(rows, table, per_sample_weights=weights, mode="sum").unflatten(0, places.shape)


class ReadTables(torch.autograd.Function):
    """`read_tables`, compiled. Torch would take several passes over (S, S, channels), and more of them backward."""

    @staticmethod
    def forward(ctx: Any, distance: Tensor, angle: Tensor, distance_table: Tensor, angle_table: Tensor) -> Tensor:
        embedded = distance_table.new_empty(*distance.shape, distance_table.shape[1])
        winner = torch.empty(embedded.shape, dtype=torch.uint8)
        distances, angles = distance.contiguous().view(-1), angle.contiguous().flatten(0, 1)
        places = distances.numpy(), angles.numpy()
        tables = [each.detach().contiguous().numpy() for each in (distance_table, angle_table)]
        rows, winners = embedded.flatten(0, 1).numpy(), winner.flatten(0, 1).numpy()

        def run(start: int, stop: int) -> None:
            read(start, stop, places[0], places[1], tables[0], tables[1], rows, winners)

        run_in_pieces(run, len(distances), smallest=2048)
        ctx.save_for_backward(distances, angles, winner)
        ctx.rows = len(distance_table), len(angle_table)
        return embedded

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        distances, angles, winner = ctx.saved_tensors
        grad = grad.contiguous().flatten(0, 1)
        of_tables = [grad.new_zeros(rows, grad.shape[1]) for rows in ctx.rows]
        rows = grad.numpy(), winner.flatten(0, 1).numpy()
        jobs = [(distances[:, None].numpy(), of_tables[0]), (angles.numpy(), of_tables[1])]

        def run(start: int, stop: int) -> None:
            for places, table in jobs[start:stop]:
                scatter(places, *rows, table.view(-1).numpy())

        # One thread per table, each in the order of the pairs: the same sum on any number of threads.
        run_in_pieces(run, len(jobs), smallest=1)
        return None, None, *of_tables
