"""Everything geometric that a U-Net over points needs, computed once: neighbors, samples, pair features, weights.

It depends on coordinates and normals only, so a data loader's worker can compute it beside the network. Every choice
is made on the points as given; only then are the rows of each level reordered along a space-filling curve, which makes
the gathers of a network faster and changes no result but by rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from rotaware.geo import point_pair_features
from rotaware.geo.checks import require_floating, require_same_device, require_same_dtype, require_shape
from rotaware.geo.threads import run_in_pieces

from . import numba_pairs
from .batches import Backend, Lengths, borders, require_points, runs_numba
from .interpolation import interpolate, interpolation_weights
from .neighborhood import Neighborhood
from .neighbors import knn
from .sampling import farthest_point_sampling, morton_order

# Those whose pair features are compiled.
COMPILED_DTYPES = (torch.float32, torch.float64)
# Half a millisecond of pair features.
QUERIES_PER_PIECE = 2048
PairFeatures = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False, repr=False)
class Level:
    """One level; "the finer one" is the level before it, for the first level the input.

    Attributes:
        points: (N, 3).
        normals: (N, 3), or None.
        lengths: rows of each cloud, as numbers.
        ptr: (B + 1,) int64 borders of the clouds, as `rotaware.kernels.segment_mean` takes them.
        order: (N,) int32: row i was row order[i] before reordering; None if nothing was reordered.
        neighborhood: the k nearest points of the level to each of its points, without itself.
        pair_features: (N, k, 4) of each point and its neighbors, 0 in empty slots; None without normals.
        rows: (N,) int32, ascending in each cloud if reordered: rows of the points in the finer level; None where the
            level has the finer one's points (stride 1).
        down: the k nearest points of the finer level to each point, without itself; `neighborhood` itself for stride 1.
        down_pair_features: (N, k, 4), as `pair_features`.
        up: for each point of the finer level the nearest points of this one; None for stride 1.
        up_weights: their inverse distance weights, for `interpolate`.

    >>> Pyramid.build(torch.rand(64, 3), strides=(1, 4), ks=(8, 8)).levels[1].down
    Neighborhood(num_queries=16, k=8, num_keys=64, device=cpu)
    """

    points: Tensor
    normals: Tensor | None
    lengths: tuple[int, ...]
    ptr: Tensor
    order: Tensor | None
    neighborhood: Neighborhood
    pair_features: Tensor | None
    rows: Tensor | None
    down: Neighborhood
    down_pair_features: Tensor | None
    up: Neighborhood | None
    up_weights: Tensor | None

    def upsample(self, features: Tensor) -> Tensor:
        """Features of this level's points (N, C) carried to the points of the finer one.

        Raises:
            TypeError, ValueError: as `interpolate`.

        >>> level = Pyramid.build(torch.rand(64, 3), strides=(4,), ks=(8,)).levels[0]
        >>> level.upsample(torch.ones(16, 5)).shape
        torch.Size([64, 5])
        """
        if self.up is None or self.up_weights is None:
            return features
        dtype = torch.promote_types(features.dtype, torch.float32)
        return interpolate(features, self.up, self.up_weights.to(dtype))


@dataclass(frozen=True, eq=False, repr=False)
class Pyramid:
    """The levels of a packed batch of clouds, fine to coarse, and the way between its order of rows and the input's.

    Attributes:
        points: (N, 3), all input points in the order of the network.
        normals: (N, 3), or None.
        lengths: rows of each cloud, as numbers.
        order: (N,) int32: row i of the network is row order[i] of the input; None if nothing was reordered.
        levels: fine to coarse.

    >>> pyramid = Pyramid.build(torch.rand(64, 3), strides=(1, 4), ks=(8, 8))
    >>> pyramid
    Pyramid(64 points, levels of 64, 16)
    >>> torch.equal(pyramid.restore(pyramid.arrange(torch.arange(64.0))), torch.arange(64.0))
    True
    """

    points: Tensor
    normals: Tensor | None
    lengths: tuple[int, ...]
    order: Tensor | None
    levels: tuple[Level, ...]

    @classmethod
    def build(
        cls,
        points: Tensor,
        normals: Tensor | None = None,
        *,
        strides: Sequence[int],
        ks: Sequence[int],
        lengths: Lengths | None = None,
        order: bool = True,
        drop_first: bool = False,
        sources: int = 3,
        inverse: bool = True,
        pair_features: PairFeatures = point_pair_features,
        tie_tolerance: float = 0.0,
        backend: Backend = "auto",
    ) -> Pyramid:
        """Compute all levels. RoITr's are `strides=(1, 4, 4, 4), ks=(8, 16, 16, 16)`.

        Args:
            points: (N, 3) float32 or float64, any unit. Clouds of a batch are packed.
            normals: (N, 3), same dtype and device; None for no pair features.
            strides: for each level the ratio of the finer level's points to its own, at least 1. A cloud of n points
                keeps n // stride, one at least: farthest points, from its first row on, of equally far ones the lowest
                row.
            ks: for each level the neighbors of a point, in the level and in the finer one.
            lengths: (B,) rows of each cloud; None for one cloud.
            order: whether to reorder the rows of each level along the Morton curve of the input.
            drop_first: what "without itself" means. False leaves out the point's own row. True leaves out the nearest
                of k + 1, as the published RoITr does: with duplicates at the same place that may be another row, and
                the point is then its own neighbor. The two agree wherever no two points coincide, nor lie within a few
                times the tolerance.
            sources: nearest points that a finer point interpolates.
            inverse: whether to build the inverse lists now, which backward passes need; else each is built when first
                needed.
            pair_features: function of anchor points, anchor normals, neighbor points and neighbor normals, such as
                `rotaware.geo.signed_point_pair_features`.
            tie_tolerance: distances that differ by no more are ties, which go to the lower row of the level as given,
                as in `knn` and `farthest_point_sampling`; in the unit of the points. A cloud whose coordinates lie on
                a lattice then has the same tables in every pose: 2e-6 for metres, a lattice of 2 mm, float32, and
                points up to 8 m from the origin. Rounding to float32 grows with the coordinates, up to 2.4e-7 of the
                largest distance from the origin: a cloud that lies far from it needs float64, or must be centred
                before it is rounded.
            backend: "numba" on the CPU, "torch" anywhere; "auto" takes numba for CPU tensors.
        Returns:
            Tables of int32, -1 where a cloud has too few points. No gradient to points or normals.
        Raises:
            TypeError: not floating point tensors.
            ValueError: a shape, dtype, device or length that does not fit; no level; not as many ks as strides; a
                stride, k or number of sources below 1.
            RuntimeError: backend "numba" and the tensors are not on the CPU.
        Source: Yu et al., RoITr, CVPR 2023, section 3.1 and its released code.

        >>> Pyramid.build(torch.rand(64, 3), torch.rand(64, 3), strides=(4,), ks=(8,)).levels[0].pair_features.shape
        torch.Size([16, 8, 4])
        """
        require_points("points", points)
        if normals is not None:
            require_floating("normals", normals)
            require_shape("normals", normals, len(points), 3)
            require_same_dtype({"points": points, "normals": normals})
            require_same_device({"points": points, "normals": normals})
        if not strides or len(ks) != len(strides):
            raise ValueError(f"ks: expected one number per stride, at least one, got {len(ks)} for {len(strides)}")
        for name, numbers in (("strides", strides), ("ks", ks), ("sources", [sources])):
            if min(numbers) < 1:
                raise ValueError(f"{name}: expected at least 1, got {min(numbers)}")
        sizes = tuple(stop - start for start, stop in pairwise(borders("lengths", lengths, len(points))))
        with torch.no_grad():
            curve = morton_order(points.detach(), sizes, backend=backend).to(torch.int32) if order else None
            cloud = finest = _Cloud(points.detach(), None if normals is None else normals.detach(), sizes, curve)
            levels = []
            for stride, k in zip(strides, ks, strict=True):
                finer = cloud
                rows, cloud = _sampled(finer, stride, tie_tolerance, backend)
                levels.append(_level(finer, cloud, rows, k, sources, drop_first, pair_features, tie_tolerance, backend))
            if inverse:
                for level in levels:
                    for table in (level.neighborhood, level.down, level.up):
                        if table is not None:
                            table.inverse()
            return cls(*finest.reordered, sizes, curve, tuple(levels))

    def arrange(self, rows: Tensor) -> Tensor:
        """Rows of the input (N, ...) in the order of the network.

        Raises:
            ValueError: another number of rows.
        """
        require_shape("rows", rows, len(self.points), *rows.shape[1:])
        return rows if self.order is None else rows.index_select(0, self.order)

    def restore(self, rows: Tensor, level: int | None = None) -> Tensor:
        """Rows in the order of the network back in that of the input; differentiable.

        Args:
            rows: (N, ...) for all input points.
            level: number of a level, for (N, ...) rows of its points; their order is then that of sampling.
        Raises:
            ValueError: another number of rows.
        """
        points = self.points if level is None else self.levels[level].points
        order = self.order if level is None else self.levels[level].order
        require_shape("rows", rows, len(points), *rows.shape[1:])
        return rows if order is None else rows.index_select(0, _inverted(order))

    def single(self) -> Pyramid:
        """All numbers in single precision; the tables stay those of the precision in which they were found.

        >>> Pyramid.build(torch.rand(64, 3, dtype=torch.float64), strides=(1,), ks=(8,)).single().points.dtype
        torch.float32
        """

        def narrow(part: Any) -> Any:
            return part.float() if isinstance(part, Tensor) and part.is_floating_point() else part

        return _moved(self, narrow, {})

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Pyramid:
        """On another device."""
        return _moved(self, lambda part: part.to(device, non_blocking=non_blocking), {})

    def pin_memory(self) -> Pyramid:
        """In page-locked memory, from which `to(device, non_blocking=True)` need not wait; a data loader calls it."""
        return _moved(self, lambda part: part.pin_memory(), {})

    def __repr__(self) -> str:
        sizes = ", ".join(str(len(level.points)) for level in self.levels)
        return f"Pyramid({len(self.points)} points, levels of {sizes})"


class _Cloud:
    """Points in the given order, and the order they will get."""

    def __init__(self, points: Tensor, normals: Tensor | None, sizes: tuple[int, ...], order: Tensor | None) -> None:
        self.points, self.normals, self.sizes, self.order = points, normals, sizes, order

    @cached_property
    def reordered(self) -> tuple[Tensor, Tensor | None]:
        """Points and normals in the order of the network."""
        if self.order is None:
            return self.points, self.normals
        return self.points[self.order], None if self.normals is None else self.normals[self.order]


def _inverted(order: Tensor) -> Tensor:
    """The place of each row in an order."""
    places = torch.arange(len(order), dtype=order.dtype, device=order.device)
    return torch.empty_like(order).scatter_(0, order.to(torch.int64), places)


def _sampled(finer: _Cloud, stride: int, ties: float, backend: Backend) -> tuple[Tensor | None, _Cloud]:
    """Given rows of the samples, None if all points are, and the cloud of them."""
    if stride == 1:
        return None, finer
    sizes = tuple(max(1, size // stride) if size else 0 for size in finer.sizes)
    rows = farthest_point_sampling(finer.points, sizes, lengths=finer.sizes, tie_tolerance=ties, backend=backend)
    order = None
    if finer.order is not None:
        # The order of the finer level, which keeps clouds together as well.
        order = _inverted(finer.order)[rows].argsort().to(torch.int32)
    return rows, _Cloud(finer.points[rows], None if finer.normals is None else finer.normals[rows], sizes, order)


def _level(
    finer: _Cloud,
    cloud: _Cloud,
    rows: Tensor | None,
    k: int,
    sources: int,
    drop_first: bool,
    pair_features: PairFeatures,
    ties: float,
    backend: Backend,
) -> Level:
    """Tables of one level, found in the given order and then reordered."""
    points, normals = cloud.reordered
    own = torch.arange(len(points), device=points.device)
    neighborhood = _others(cloud, cloud, own, k, drop_first, ties, backend)
    around = _pairs(neighborhood, points, normals, points, normals, pair_features, backend)
    sizes = torch.tensor([0, *accumulate(cloud.sizes)], device=points.device)
    if rows is None:
        shared = None, neighborhood, around, None, None
        return Level(points, normals, cloud.sizes, sizes, cloud.order, neighborhood, around, *shared)
    down = _others(cloud, finer, rows, k, drop_first, ties, backend)
    found = interpolation_weights(
        finer.points,
        cloud.points,
        k=sources,
        lengths=cloud.sizes,
        query_lengths=finer.sizes,
        tie_tolerance=ties,
        backend=backend,
    )
    up, weights = Neighborhood.from_index(found.index, len(points)), found.weights
    if finer.order is not None and cloud.order is not None:
        up, weights = up.permute(finer.order, cloud.order), weights[finer.order]
        rows = _inverted(finer.order)[rows][cloud.order]
    return Level(
        points,
        normals,
        cloud.sizes,
        sizes,
        cloud.order,
        neighborhood,
        around,
        rows.to(torch.int32),
        down,
        _pairs(down, points, normals, *finer.reordered, pair_features, backend),
        up,
        weights,
    )


def _others(
    queries: _Cloud, keys: _Cloud, own: Tensor, k: int, drop_first: bool, ties: float, backend: Backend
) -> Neighborhood:
    """The k nearest keys of each query without itself, which is the given row `own` of the keys; reordered."""
    lengths, query_lengths = keys.sizes, queries.sizes
    if queries is keys and not drop_first:
        index = knn(keys.points, k, lengths=lengths, exclude_self=True, tie_tolerance=ties, backend=backend).index
    else:
        index = knn(
            keys.points,
            k + 1,
            queries=queries.points,
            lengths=lengths,
            query_lengths=query_lengths,
            tie_tolerance=ties,
            backend=backend,
        ).index
        if drop_first:
            index = index[:, 1:]
        else:
            # The query's own row is left out where it was found, else (more duplicates than k) the last one.
            itself = index == own[:, None]
            passed = itself.cumsum(1, dtype=torch.int32) > 0
            index = torch.where(passed[:, :-1], index[:, 1:], index[:, :-1])
    table = Neighborhood.from_index(index, len(keys.points))
    if queries.order is None or keys.order is None:
        return table
    return table.permute(queries.order, keys.order)


def _pairs(
    table: Neighborhood,
    points: Tensor,
    normals: Tensor | None,
    key_points: Tensor,
    key_normals: Tensor | None,
    pair_features: PairFeatures,
    backend: Backend,
) -> Tensor | None:
    """Pair features of each query and its neighbors."""
    if normals is None or key_normals is None:
        return None
    if pair_features is point_pair_features and runs_numba(backend, points) and points.dtype in COMPILED_DTYPES:
        features = points.new_empty(*table.idx.shape, 4)
        arrays = [rows.contiguous().numpy() for rows in (table.idx, points, normals, key_points, key_normals)]

        def run(start: int, stop: int) -> None:
            numba_pairs.pair_features(start, stop, *arrays, features.numpy())

        run_in_pieces(run, len(features), smallest=QUERIES_PER_PIECE)
        return features
    names = table.idx.clamp(min=0)
    features = pair_features(points[:, None], normals[:, None], key_points[names], key_normals[names])
    return features.masked_fill((table.idx < 0)[..., None], 0)


def _moved(value: Any, move: Callable[[Any], Any], known: dict[int, Any]) -> Any:
    """A copy with every tensor moved; what was shared is shared again."""
    if id(value) in known:
        return known[id(value)]
    if isinstance(value, (Tensor, Neighborhood)):
        result = move(value)
    elif isinstance(value, (Pyramid, Level)):
        parts = {field.name: _moved(getattr(value, field.name), move, known) for field in fields(value)}
        result = type(value)(**parts)
    elif isinstance(value, tuple):
        result = tuple(_moved(part, move, known) for part in value)
    else:
        return value
    known[id(value)] = result
    return result
