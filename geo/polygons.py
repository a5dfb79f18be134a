"""Polygons in the plane of an image: areas, hulls, smallest rectangles, and how much quads overlap.

Coordinates are continuous pixels, x to the right and y down; corners of a quad are in screen-clockwise order, which
gives positive areas. Quads need not be convex, nor clockwise, but must not cross themselves: `order_quads` untangles.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .checks import require_choice, require_floating, require_same_device, require_same_dtype, require_shape
from .numba_polygons import quad_overlaps_cpu

Mode = Literal["iou", "iof"]
# Areas below are nothing: relative to the square of a side of one pixel.
EMPTY = 1e-14
# Pairs whose overlap is calculated at once, where no compiled loop does it.
PAIRS = 200_000
# Edges, and the diagonals that the hull of a quad with a reflex corner has for an edge.
_DIRECTIONS = ((0, 1), (1, 2), (2, 3), (3, 0), (0, 2), (1, 3))


def polygon_area(polygons: Tensor) -> Tensor:
    """Signed areas (...) of polygons (..., V, 2), positive for screen-clockwise corners.

    >>> polygon_area(torch.tensor([[0.0, 0.0], [2.0, 0.0], [2.0, 1.0], [0.0, 1.0]])).item()
    2.0
    """
    require_floating("polygons", polygons)
    require_shape("polygons", polygons, ..., "V", 2)
    # About a corner, so that far from the origin no digit is lost.
    x, y = (polygons - polygons[..., :1, :]).unbind(-1)
    return 0.5 * (x * y.roll(-1, dims=-1) - x.roll(-1, dims=-1) * y).sum(dim=-1)


def convex_hull(points: Tensor) -> Tensor:
    """Corners (H, 2) of the convex hull of points (N, 2), screen-clockwise.

    Raises:
        ValueError: all points lie on one line.

    >>> convex_hull(torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 0.5], [2.0, 2.0], [0.0, 2.0]])).shape
    torch.Size([4, 2])
    """
    require_floating("points", points)
    require_shape("points", points, "N", 2)
    # Slow to import, and needed by few.
    from scipy.spatial import ConvexHull, QhullError

    array = points.detach().double().cpu().numpy()
    try:
        corners = ConvexHull(array).vertices
    except (QhullError, ValueError) as error:
        raise ValueError(f"points: expected three that are not on one line, got {len(points)} points") from error
    # Counter-clockwise in a frame with y up is clockwise on a screen.
    return points[torch.from_numpy(corners.astype(np.int64)).to(points.device)]


def min_area_rectangle(points: Tensor) -> Tensor:
    """Corners (4, 2) of the smallest rectangle around points (N, 2), screen-clockwise.

    It shares a direction with an edge of the hull (Freeman and Shapira, 1975), so there are only that many to try.

    Raises:
        ValueError: all points lie on one line.

    >>> square = torch.tensor([[1.0, 0.0], [2.0, 1.0], [1.0, 2.0], [0.0, 1.0]])
    >>> round(polygon_area(min_area_rectangle(square)).item(), 6)
    2.0
    """
    hull = convex_hull(points)
    return _smallest_rectangle(hull[None], hull.roll(-1, dims=0)[None] - hull[None])[0]


def min_area_rectangles_of_quads(quads: Tensor) -> Tensor:
    """The same (..., 4, 2) for many quads (..., 4, 2) at once; of one without area, a rectangle without area.

    The first corner is the one that comes next clockwise to the width direction of the smallest rectangle: it is not
    the first corner of the quad.
    """
    require_floating("quads", quads)
    require_shape("quads", quads, ..., 4, 2)
    edges = torch.stack([quads[..., b, :] - quads[..., a, :] for a, b in _DIRECTIONS], dim=-2)
    return _smallest_rectangle(quads.reshape(-1, 4, 2), edges.reshape(-1, len(_DIRECTIONS), 2)).view(quads.shape)


def _smallest_rectangle(points: Tensor, directions: Tensor) -> Tensor:
    """(P, 4, 2): the smallest of the rectangles around (P, V, 2) along one of (P, D, 2)."""
    origin = points[:, :1]
    length = directions.norm(dim=-1, keepdim=True)
    # Points that coincide give no direction; any will do.
    along = torch.where(length > 0, directions / length.clamp_min(1e-300 if points.dtype == torch.float64 else 1e-37),
                        directions.new_tensor([1.0, 0.0]))  # fmt: skip
    axes = torch.stack([along, torch.stack([-along[..., 1], along[..., 0]], dim=-1)], dim=-2)  # (P, D, 2, 2)
    placed = torch.einsum("pdak,pvk->pdva", axes, points - origin)
    low, high = placed.amin(dim=2), placed.amax(dim=2)  # (P, D, 2)
    best = (high - low).prod(dim=-1).argmin(dim=1)
    rows = torch.arange(len(points), device=points.device)
    (low, high), axes = (each[rows, best] for each in (low, high)), axes[rows, best]
    corners = torch.stack(
        [low, torch.stack([high[:, 0], low[:, 1]], -1), high, torch.stack([low[:, 0], high[:, 1]], -1)], dim=1
    )
    return torch.einsum("pca,pak->pck", corners, axes) + origin


def order_quads(quads: Tensor) -> Tensor:
    """Corners (..., 4, 2) in screen-clockwise order from the first one, by their angle about the mean corner.

    Untangles quads that cross themselves; one with a reflex corner may come out as another quad of the same corners.

    >>> order_quads(torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])).tolist()
    [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]
    """
    require_floating("quads", quads)
    require_shape("quads", quads, ..., 4, 2)
    arms = quads - quads.mean(dim=-2, keepdim=True)
    angles = torch.atan2(arms[..., 1], arms[..., 0])
    turned = (angles - angles[..., :1]) % (2 * torch.pi)
    order = turned.argsort(dim=-1, stable=True)
    return quads.gather(-2, order[..., None].expand_as(quads))


def crosses_itself(quads: Tensor) -> Tensor:
    """(...) bool: whether two opposite edges of a quad (..., 4, 2) cross.

    >>> crosses_itself(torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])).item()
    True
    """
    require_floating("quads", quads)
    require_shape("quads", quads, ..., 4, 2)
    a, b, c, d = quads.unbind(-2)
    return _segments_cross(a, b, c, d) | _segments_cross(b, c, d, a)


def _segments_cross(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    def side(start: Tensor, end: Tensor, point: Tensor) -> Tensor:
        return _cross(end - start, point - start)

    return (side(a, b, c) * side(a, b, d) < 0) & (side(c, d, a) * side(c, d, b) < 0)


def quad_iou(a: Tensor, b: Tensor, *, mode: Mode = "iou", aligned: bool = False) -> Tensor:
    """How much quads overlap: intersection over union, or over the area of the first ("iof").

    Exact for convex and other simple quads in either order of corners: signed intersections of two triangles each, the
    method of the DOTA devkit. No gradient (see `differentiable_box_iou`). float64 inside on a CPU.

    Args:
        a: (N, 4, 2).
        b: (M, 4, 2), or (N, 4, 2) if `aligned`.
        mode: what the intersection is divided by.
        aligned: only pairs of the same row.
    Returns:
        (N, M), or (N,) if `aligned`, in [0, 1]; 0 where a quad has no area or a coordinate that is not finite.

    >>> a = torch.tensor([[[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]]])
    >>> quad_iou(a, a + 1.0).item()
    0.1428571492433548
    """
    require_pair("a", a, "b", b, (4, 2), mode, aligned)
    return overlaps(a.detach(), b.detach(), mode, aligned, a.dtype)


def overlaps(a: Tensor, b: Tensor, mode: Mode, aligned: bool, dtype: torch.dtype) -> Tensor:
    """`quad_iou` without its checks, in another precision than that of the quads."""
    if a.device.type == "cpu":
        first, second = (each.double().contiguous().numpy() for each in (a, b))
        # Half precision is not numpy's to fill.
        wide = np.dtype(np.float64 if dtype == torch.float64 else np.float32)
        return torch.from_numpy(quad_overlaps_cpu(first, second, mode == "iof", aligned, wide)).to(dtype)
    if aligned:
        return _pair_overlaps(a, b, mode).to(dtype)
    found = a.new_zeros(len(a), len(b))
    low, high = a.amin(dim=1), a.amax(dim=1)
    other_low, other_high = b.amin(dim=1), b.amax(dim=1)
    rows_at_once = max(1, PAIRS // max(1, len(b)))
    for start in range(0, len(a), rows_at_once):
        rows = slice(start, start + rows_at_once)
        near = ((low[rows, None] < other_high) & (other_low < high[rows, None])).all(dim=-1)
        i, j = near.nonzero(as_tuple=True)
        found[start + i, j] = _pair_overlaps(a[start + i], b[j], mode)
    return found.to(dtype)


def _pair_overlaps(a: Tensor, b: Tensor, mode: Mode) -> Tensor:
    """The definition, in plain torch: (P,) of (P, 4, 2) and (P, 4, 2)."""
    origin = (a.mean(dim=1, keepdim=True) + b.mean(dim=1, keepdim=True)) / 2
    a, b = a - origin, b - origin
    areas = [polygon_area(each).abs() for each in (a, b)]
    total = a.new_zeros(len(a))
    for first in triangles_of(a):
        for second in triangles_of(b):
            signs = [polygon_area(each).sign() for each in (first, second)]
            common = intersection_area(oriented(first), oriented(second))
            total = total + signs[0] * signs[1] * common
    # Both quads are turned the same way round.
    total = total * polygon_area(a).sign() * polygon_area(b).sign()
    return ratio_of(total, areas[0], areas[1], mode)


def triangles_of(quads: Tensor) -> tuple[Tensor, Tensor]:
    """Two triangles (P, 3, 2) each whose signed areas add up to the quad's, reflex corners or not."""
    return quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]


def oriented(polygons: Tensor) -> Tensor:
    """(P, V, 2) with corners in the order that gives a positive area."""
    return torch.where((polygon_area(polygons) < 0)[:, None, None], polygons.flip(1), polygons)


def ratio_of(common: Tensor, first: Tensor, second: Tensor, mode: Mode) -> Tensor:
    """Overlap in [0, 1] from three areas."""
    whole = first if mode == "iof" else first + second - common
    usable = (first > EMPTY) & (second > EMPTY) & torch.isfinite(whole)
    safe = torch.where(usable, whole, torch.ones_like(whole))
    return torch.where(usable, (common / safe).clamp(0.0, 1.0), torch.zeros_like(common))


def intersection_area(a: Tensor, b: Tensor) -> Tensor:
    """(P,) common area of convex polygons (P, V, 2) and (P, W, 2) with positive areas.

    Sutherland and Hodgman's clipping (1974) of all pairs at once, differentiable: which corners are kept is taken as
    constant, their coordinates are not.
    """
    clipped, count = a, torch.full((len(a),), a.shape[1], device=a.device)
    for k in range(b.shape[1]):
        clipped, count = _clipped(clipped, count, b[:, k], b[:, (k + 1) % b.shape[1]])
    return polygon_area(clipped).clamp_min(0.0)


def _clipped(polygons: Tensor, count: Tensor, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """The parts right of the line from `start` to `end` on the screen: inside, for clockwise corners.

    A polygon has its first `count` corners; those behind repeat the last one and add no area.
    """
    size = polygons.shape[1]
    place = torch.arange(size, device=polygons.device)
    following = torch.where(place + 1 < count[:, None], place + 1, 0)
    ahead = polygons.gather(1, following[..., None].expand(-1, -1, 2))
    depth = _cross((end - start)[:, None], polygons - start[:, None])
    depth_ahead = depth.gather(1, following)
    used = place < count[:, None]
    keeps = used & (depth >= 0)
    crosses = used & ((depth >= 0) != (depth_ahead >= 0))
    change = torch.where(crosses, depth - depth_ahead, torch.ones_like(depth))
    share = torch.where(crosses, depth / change, torch.zeros_like(depth))
    meeting = polygons + share[..., None] * (ahead - polygons)
    # In order: a corner that is kept, then the point where its edge crosses the line.
    candidates = torch.stack([polygons, meeting], dim=2).flatten(1, 2)
    wanted = torch.stack([keeps, crosses], dim=2).flatten(1, 2)
    order = (~wanted).to(torch.int8).argsort(dim=1, stable=True)[:, : size + 1]
    number = wanted.sum(dim=1)
    last = (number - 1).clamp_min(0)
    order = order.gather(1, torch.minimum(torch.arange(size + 1, device=order.device), last[:, None]))
    return candidates.gather(1, order[..., None].expand(-1, -1, 2)), number


def _cross(u: Tensor, v: Tensor) -> Tensor:
    return u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]


def require_pair(
    first: str, a: Tensor, second: str, b: Tensor, shape: tuple[int, ...], mode: str, aligned: bool
) -> None:
    for name, value in ((first, a), (second, b)):
        require_floating(name, value)
        require_shape(name, value, "N" if name == first or aligned else "M", *shape)
    require_same_dtype({first: a, second: b})
    require_same_device({first: a, second: b})
    require_choice("mode", mode, ("iou", "iof"))
    if aligned and len(a) != len(b):
        raise ValueError(f"{second}: expected as many rows as {first}, {len(a)}, got {len(b)}")
