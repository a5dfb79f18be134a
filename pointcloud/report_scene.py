"""What both reports show: thinned clouds, poses with their residuals, a starting pose that fits on the screen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from .result import Registration, Status

# The residual colours end here: twice the distance at which verification still counts a point as overlapping.
_RESIDUAL_LIMIT_VOXELS = 3.0
# Above this the nearest-neighbour tree is built on an even share of the target, to bound time and memory.
_MAX_TREE_POINTS = 2_000_000
# "Before" is drawn as given while the clouds are at most this many radii apart; else side by side.
_MAX_GAP_RADII = 6.0

_REPORTED_LABELS: dict[Status, str] = {
    "registered": "Reported pose",
    "ambiguous": "Best of several",
    "not_registered": "Best guess, not accepted",
}
_UNIT_SYMBOLS = {"metre": "m", "meter": "m", "centimetre": "cm", "millimetre": "mm", "inch": "in", "foot": "ft"}


@dataclass(frozen=True)
class Pose:
    """A pose to look at. `matrix` (4, 4) float64, user units; residuals in the target's unit.

    `residual` (S,) holds the distances from the scene's source points to the target, `residual_target` (N,) those from
    its target points to the source. Well beyond the scene's limit they are infinite.
    """

    label: str
    matrix: np.ndarray
    rotation_deg: float
    translation: float
    score: float | None
    residual: np.ndarray
    residual_target: np.ndarray


@dataclass(frozen=True)
class SceneCloud:
    """Points (N, 3) float64 in the user's frame and unit, of `total` finite ones, and what they can be coloured by.

    `colors` (N, 3) uint8 or None; `confidence` (N,) in [0, 1], that of the nearest correspondence, NaN far from any;
    `spacing`: distance within which three of four points have four neighbours, never zero.
    """

    points: np.ndarray
    total: int
    colors: np.ndarray | None
    confidence: np.ndarray
    spacing: float


@dataclass(frozen=True)
class Scene:
    """Thinned clouds, in an order whose every prefix is an even sample."""

    source: SceneCloud
    target: SceneCloud
    start: np.ndarray  # (4, 4), where the source is drawn "before"
    start_shifted: bool
    poses: tuple[Pose, ...]  # the reported pose first
    residual_limit: float
    up: np.ndarray  # (3,) in the target's frame
    unit: str


def build_scene(
    registration: Registration,
    source_points: ArrayLike,
    target_points: ArrayLike,
    *,
    source_colors: ArrayLike | None = None,
    target_colors: ArrayLike | None = None,
    budget: int,
    max_poses: int,
) -> Scene:
    """Gathers what the reports draw.

    Args:
        registration: its poses may be missing.
        source_points: (N, 3), the rows given to `register`; rows that are not finite are left out.
        target_points: (M, 3), the same.
        source_colors: (N, 3) uint8 of the same rows, or None.
        target_colors: (M, 3), the same.
        budget: most points kept per cloud.
        max_poses: the reported pose and the first alternatives, at most so many.
    Raises:
        ValueError: an array is not (N, 3), or colours and points differ in number.
    """
    source_all = _points(source_points, "source_points")
    target_all = _points(target_points, "target_points")
    finite_source, finite_target = (points[np.isfinite(points).all(axis=1)] for points in (source_all, target_all))
    limit = _RESIDUAL_LIMIT_VOXELS * registration.voxel
    if not (np.isfinite(limit) and limit > 0):
        limit = 0.02 * max(radius(finite_target), 1e-9)
    matches = registration.correspondences
    source = _scene_cloud(
        source_all, source_colors, "source_colors", matches.source_index, matches.confidence, limit, budget
    )
    target = _scene_cloud(
        target_all, target_colors, "target_colors", matches.target_index, matches.confidence, limit, budget
    )
    start, shifted = _starting_pose(source.points, target.points)
    return Scene(
        source=source,
        target=target,
        start=start,
        start_shifted=shifted,
        poses=_poses(registration, source.points, target.points, finite_source, finite_target, max_poses, limit),
        residual_limit=limit,
        up=_guess_up(target.points),
        unit=unit_symbol(registration.target.unit),
    )


def transform(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """`points` (N, 3) moved by `matrix` (4, 4)."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def middle(points: np.ndarray) -> np.ndarray:
    """Median per axis, (3,)."""
    return np.median(points, axis=0) if len(points) else np.zeros(3)


def radius(points: np.ndarray) -> float:
    """Half the diagonal of the box that holds nearly all points."""
    if len(points) == 0:
        return 0.0
    low, high = np.percentile(points, (1.0, 99.0), axis=0)
    return float(np.linalg.norm(high - low)) / 2


def unit_symbol(unit: str) -> str:
    """Short form of a unit's name; empty when the unit is unknown."""
    return "" if unit in ("auto", "unknown", "none") else _UNIT_SYMBOLS.get(unit, unit)


def format_length(value: float, unit: str) -> str:
    """A length with three digits and its unit; metres below 0.1 m are shown in cm or mm, as on the command line.

    >>> format_length(0.01834, "m"), format_length(0.00745, "m"), format_length(1234.5, "mm")
    ('1.83 cm', '7.45 mm', '1234 mm')
    """
    if not np.isfinite(value):
        return "n/a"
    if unit == "m" and 0 < abs(value) < 0.1:
        value, unit = (100 * value, "cm") if abs(value) >= 0.01 else (1000 * value, "mm")
    digits = f"{value:.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"
    return f"{digits} {unit}".rstrip()


def verdict_title(registration: Registration) -> str:
    """The status as a title."""
    return registration.status.replace("_", " ").upper()


def reason_sentence(registration: Registration) -> str:
    """The reason, starting with a capital."""
    text = registration.reason.strip()
    return text[:1].upper() + text[1:] if text else "No reason given"


def headline(registration: Registration, scene: Scene) -> list[tuple[str, str]]:
    """The few numbers that belong beside the verdict, as (name, value with unit)."""
    rows = []
    if scene.poses:
        rows.append(("Rotation", f"{scene.poses[0].rotation_deg:.1f}°"))
        rows.append(("Translation", format_length(scene.poses[0].translation, scene.unit)))
        if abs(registration.scale - 1.0) > 1e-9:
            rows.append(("Scale", f"{registration.scale:.6g}"))
    if registration.metrics is not None:
        rows.append(("Overlap", f"{100 * registration.metrics.overlap_source:.0f} %"))
        rows.append(("Residual", format_length(registration.metrics.residual_median, scene.unit)))
    rows.append(("Confidence", f"{registration.confidence:.2f}"))
    return rows


def _points(points: ArrayLike, name: str) -> np.ndarray:
    array = np.asarray(points, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 3:
        raise ValueError(f"{name}: expected shape (N, 3), got {array.shape}")
    return array


def _scene_cloud(
    points: np.ndarray,
    colors: ArrayLike | None,
    colors_name: str,
    matched: np.ndarray,
    confidence: np.ndarray,
    reach: float,
    budget: int,
) -> SceneCloud:
    """At most `budget` finite rows in random order, the same on every run. Strides would alias with scan lines."""
    finite = np.flatnonzero(np.isfinite(points).all(axis=1))
    rows = finite[np.random.default_rng(0).permutation(len(finite))[:budget]]
    kept = points[rows]
    shades = None
    if colors is not None:
        shades = np.asarray(colors, dtype=np.uint8)
        if shades.shape != points.shape:
            raise ValueError(f"{colors_name}: expected shape {points.shape}, got {shades.shape}")
        shades = shades[rows]
    return SceneCloud(kept, len(finite), shades, _confidence(kept, points, matched, confidence, reach), _spacing(kept))


def _confidence(
    kept: np.ndarray, points: np.ndarray, matched: np.ndarray, confidence: np.ndarray, reach: float
) -> np.ndarray:
    """Confidence of the nearest correspondence within `reach` of each kept point; the best one where a row has many."""
    order = np.argsort(-confidence, kind="stable")
    rows, first = np.unique(matched[order], return_index=True)
    usable = np.isfinite(points[rows]).all(axis=1)
    if not usable.any() or len(kept) == 0:
        return np.full(len(kept), np.nan)
    values = np.append(confidence[order][first][usable], np.nan)
    return values[cKDTree(points[rows[usable]]).query(kept, distance_upper_bound=reach)[1]]


def _spacing(points: np.ndarray) -> float:
    # The fourth neighbour stands one step away on a grid and about as far, 1.13 steps, among random points.
    if len(points) < 5:
        return radius(points) or 1.0
    fourth = cKDTree(points).query(points[:2000], k=5)[0][:, 4]
    return float(np.percentile(fourth, 75.0)) or (radius(points) or 1.0) / 200


def _poses(
    registration: Registration,
    source: np.ndarray,
    target: np.ndarray,
    source_all: np.ndarray,
    target_all: np.ndarray,
    max_poses: int,
    limit: float,
) -> tuple[Pose, ...]:
    """The reported pose and alternatives; searched up to `limit`, as wrong poses would take seconds."""
    candidates: list[tuple[str, np.ndarray, float | None]] = []
    reported = registration.T_target_source
    if reported is not None:
        candidates.append((_REPORTED_LABELS[registration.status], reported, None))
    others = [
        hypothesis
        for hypothesis in registration.alternatives
        if reported is None or not np.allclose(hypothesis.T_target_source, reported, rtol=1e-9, atol=1e-12)
    ]
    candidates += [(f"Alternative {k}", other.T_target_source, other.score) for k, other in enumerate(others, start=1)]
    if not candidates or len(source) == 0 or len(target) == 0:
        return ()
    source_tree, target_tree = _tree(source_all), _tree(target_all)
    poses = []
    for label, given, score in candidates[:max_poses]:
        matrix = np.asarray(given, dtype=np.float64)
        scale = float(np.cbrt(np.linalg.det(matrix[:3, :3])))
        back = (target - matrix[:3, 3]) @ matrix[:3, :3] / scale**2
        residual = _distances(target_tree, transform(matrix, source), limit)
        residual_target = scale * _distances(source_tree, back, limit / scale)
        rotation_deg = float(np.degrees(Rotation.from_matrix(matrix[:3, :3]).magnitude()))
        shift = float(np.linalg.norm(matrix[:3, 3]))
        poses.append(Pose(label, matrix, rotation_deg, shift, score, residual, residual_target))
    return tuple(poses)


def _tree(points: np.ndarray) -> cKDTree:
    return cKDTree(points[:: 1 + (len(points) - 1) // _MAX_TREE_POINTS], balanced_tree=False)


def _distances(tree: cKDTree, points: np.ndarray, limit: float) -> np.ndarray:
    # Neighbours asked one after the other find their part of the tree in the cache: twice as fast.
    order = cKDTree(points, balanced_tree=False).indices
    distances = np.empty(len(points))
    distances[order] = tree.query(points[order], distance_upper_bound=1.01 * limit)[0]
    return distances


def _starting_pose(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, bool]:
    """Identity, or a shift that puts the source beside the target when the frames lie far apart (map coordinates)."""
    start = np.eye(4)
    gap = middle(target) - middle(source)
    reach = radius(source) + radius(target)
    if float(np.linalg.norm(gap)) <= _MAX_GAP_RADII * reach:
        return start, False
    start[:3, 3] = gap + np.array([1.1 * reach, 0.0, 0.0])
    return start, True


def _guess_up(target: np.ndarray) -> np.ndarray:
    """-y for points that fill the cone of a camera at the origin looking along +z, as RGB-D fragments do; else +z."""
    x, y, z = target.T
    in_cone = (z > 0) & (np.abs(x) < 1.2 * z) & (np.abs(y) < z)
    camera_frame = len(target) > 0 and in_cone.mean() > 0.95 and 0.1 < (x > 0).mean() < 0.9
    return np.array([0.0, -1.0, 0.0]) if camera_frame else np.array([0.0, 0.0, 1.0])
