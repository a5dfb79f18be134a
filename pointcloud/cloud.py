"""A point cloud in memory: coordinates, attributes, and what a writer needs to give the file back as it came."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

NORMAL_NAMES = (("nx", "ny", "nz"), ("normal_x", "normal_y", "normal_z"), ("normalx", "normaly", "normalz"))
COLOR_NAMES = (("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue"))

# A rounding step below this share of the extent cannot matter: scanners resolve about 1e-4 of their range.
NEGLIGIBLE_STEP = 1e-6


@dataclass(frozen=True)
class Layout:
    """How the cloud lay in its file; every field has a neutral default for clouds that came from arrays.

    `fields` names all columns in file order, the three `coordinates` among them. `coordinate_step` is the rounding
    step of the stored coordinates where they are largest, in the file's unit. `details` belongs to the format.
    """

    format: str = ""
    variant: str = ""
    fields: tuple[str, ...] = ("x", "y", "z")
    coordinates: tuple[str, str, str] = ("x", "y", "z")
    coordinate_dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.float64))
    coordinate_step: float = 0.0
    count: int = -1
    comments: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class PointCloud:
    """Points with everything that came along with them, rows in file order, NaN rows included.

    Attributes:
        points: (N, 3) float64, in the file's unit and frame.
        attributes: name -> (N, ...), in file order, with the file's names and dtypes (native byte order).
        viewpoint: (3,) float64 sensor position in the frame of the points, or None when the file states none. The
            default of PCD files, `0 0 0 1 0 0 0`, counts as "none": writers put it there when they know nothing.
        path: where it was read, or None.
        layout: what `write_point_cloud` needs to keep the file's form.

    >>> cloud = PointCloud(np.eye(3), attributes={"label": np.array([1, 2, 3])})
    >>> len(cloud), cloud.normals is None
    (3, True)
    """

    points: np.ndarray
    attributes: Mapping[str, np.ndarray] = field(default_factory=dict)
    viewpoint: np.ndarray | None = None
    path: Path | None = None
    layout: Layout = field(default_factory=Layout)

    def __post_init__(self) -> None:
        points = np.asarray(self.points)
        if points.ndim != 2 or points.shape[1] != 3 or points.dtype.kind not in "iuf":
            raise ValueError(f"points: expected real numbers of shape (N, 3), got {points.dtype} {points.shape}")
        object.__setattr__(self, "points", points.astype(np.float64, copy=False))
        for name, values in self.attributes.items():
            if np.shape(values)[:1] != (len(points),):
                raise ValueError(f"attributes[{name!r}]: expected {len(points)} rows, got shape {np.shape(values)}")
        object.__setattr__(self, "attributes", MappingProxyType(dict(self.attributes)))
        if self.viewpoint is not None:
            viewpoint = np.asarray(self.viewpoint, dtype=np.float64)
            if viewpoint.shape != (3,):
                raise ValueError(f"viewpoint: expected shape (3,), got {viewpoint.shape}")
            object.__setattr__(self, "viewpoint", viewpoint)

    def __len__(self) -> int:
        return len(self.points)

    # A mapping proxy cannot be pickled, and clouds must reach worker processes.
    def __reduce__(self) -> tuple[Any, ...]:
        layout = replace(self.layout, details=dict(self.layout.details))
        return PointCloud, (self.points, dict(self.attributes), self.viewpoint, self.path, layout)

    @property
    def normals(self) -> np.ndarray | None:
        """(N, 3) float64 copy of the file's normals, or None. Names: nx, normal_x, normalx, or an (N, 3) column."""
        names = normal_columns(self.attributes)
        if names is None:
            return None
        return _stack(self.attributes, names).astype(np.float64)

    @property
    def colors(self) -> np.ndarray | None:
        """(N, 3) uint8 red, green, blue in 0..255, or None. Floats up to 1 count as shares of 255."""
        names = triple(self.attributes, COLOR_NAMES, ("colors", "color", "rgb"))
        if names is not None:
            values = _stack(self.attributes, names)
        elif (packed := packed_color(self.attributes)) is not None:
            values = np.stack([packed[1] >> shift & 255 for shift in (16, 8, 0)], axis=1)
        else:
            return None
        if values.dtype.kind == "f" and np.nanmax(values, initial=0.0) <= 1.0:
            values = values * 255.0
        elif values.dtype == np.uint16:
            values = values >> 8
        return np.clip(np.rint(np.nan_to_num(values)), 0, 255).astype(np.uint8)

    def transformed(self, T: np.ndarray) -> PointCloud:
        """The cloud moved by `T`: points, normals and viewpoint; every other attribute stays untouched.

        Args:
            T: (4, 4). Rigid, or a similarity: the scale acts on points and viewpoint, never on normals.
        Returns:
            A new cloud that remembers the file's layout. Normals keep their dtype and length.
        Raises:
            ValueError: `T` is not a finite rigid or similarity transform.

        >>> T = np.eye(4); T[:3, 3] = [1.0, 2.0, 3.0]
        >>> PointCloud(np.zeros((1, 3))).transformed(T).points
        array([[1., 2., 3.]])
        """
        T = np.asarray(T, dtype=np.float64)
        rotation = _rotation_of(T)
        linear, shift = T[:3, :3], T[:3, 3]
        attributes = dict(self.attributes)
        names = normal_columns(attributes)
        # Rows with infinities are kept, so their products must not warn.
        with np.errstate(invalid="ignore", over="ignore"):
            points = self.points @ linear.T + shift
            rotated = None if names is None else _stack(attributes, names).astype(np.float64) @ rotation.T
        if names is not None and rotated is not None:
            if isinstance(names, str):
                attributes[names] = rotated.astype(attributes[names].dtype)
            else:
                for axis, name in enumerate(names):
                    attributes[name] = rotated[:, axis].astype(attributes[name].dtype)
        viewpoint = None if self.viewpoint is None else linear @ self.viewpoint + shift
        details = dict(self.layout.details)
        if "viewpoint_quaternion" in details:
            details["viewpoint_quaternion"] = _rotated_quaternion(rotation, details["viewpoint_quaternion"])
        layout = replace(self.layout, details=details)
        return replace(self, points=points, attributes=attributes, viewpoint=viewpoint, layout=layout)


def cloud_from_columns(
    columns: Mapping[str, np.ndarray],
    coordinates: tuple[str, str, str] = ("x", "y", "z"),
    *,
    viewpoint: np.ndarray | None = None,
    format: str,
    variant: str = "",
    comments: tuple[str, ...] = (),
    details: Mapping[str, Any] | None = None,
) -> PointCloud:
    """Cloud from the columns of a file, in file order; `coordinates` names the three that are x, y, z."""
    dtype = np.result_type(*(columns[name].dtype for name in coordinates))
    points = np.stack([columns[name].astype(np.float64) for name in coordinates], axis=1)
    attributes = {name: np.ascontiguousarray(values) for name, values in columns.items() if name not in coordinates}
    layout = Layout(
        format=format,
        variant=variant,
        fields=tuple(columns),
        coordinates=coordinates,
        coordinate_dtype=dtype,
        coordinate_step=rounding_step(points, dtype),
        count=len(points),
        comments=comments,
        details=details or {},
    )
    return PointCloud(points, attributes, viewpoint=viewpoint, layout=layout)


def columns_from_cloud(cloud: PointCloud) -> dict[str, np.ndarray]:
    """All columns in file order, coordinates in `storage_dtype`; attributes the file did not have come last."""
    layout = cloud.layout
    dtype = storage_dtype(cloud)
    columns: dict[str, np.ndarray] = {}
    names = [*layout.fields, *(name for name in cloud.attributes if name not in layout.fields)]
    for name in names:
        if name in layout.coordinates:
            columns[name] = cloud.points[:, layout.coordinates.index(name)].astype(dtype)
        elif name in cloud.attributes:
            columns[name] = np.asarray(cloud.attributes[name])
    return columns


def storage_dtype(cloud: PointCloud) -> np.dtype[Any]:
    """Dtype in which the coordinates lose no more than they already had in the file.

    The file's dtype stays unless its rounding step at the cloud's present position is larger both than the step in
    the file and than `NEGLIGIBLE_STEP` times the extent; then the next wider float. Integer coordinates stay
    integers only while every value still is one.
    """
    dtype = cloud.layout.coordinate_dtype
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        whole = np.all((cloud.points == np.rint(cloud.points)) & (np.abs(cloud.points) < 2.0**53))
        fits = whole and np.all((cloud.points >= limits.min) & (cloud.points <= limits.max))
        return dtype if fits else np.dtype(np.float64)
    finite = cloud.points[np.isfinite(cloud.points).all(axis=1)]
    extent = float(np.ptp(finite, axis=0).max()) if len(finite) else 0.0
    allowed = max(cloud.layout.coordinate_step, NEGLIGIBLE_STEP * extent)
    for candidate in (dtype, np.dtype(np.float32)):
        if candidate.itemsize >= dtype.itemsize and rounding_step(finite, candidate) <= allowed:
            return candidate
    return np.dtype(np.float64)


def rounding_step(points: np.ndarray, dtype: np.dtype[Any]) -> float:
    """Distance between neighbouring numbers of `dtype` at the largest finite coordinate; inf when it overflows."""
    if dtype.kind != "f":
        return 1.0
    largest = np.max(np.abs(points), initial=0.0, where=np.isfinite(points))
    with np.errstate(over="ignore", invalid="ignore"):
        step = float(np.spacing(dtype.type(largest)))
    return step if np.isfinite(step) else np.inf


def normal_columns(attributes: Mapping[str, np.ndarray]) -> tuple[str, str, str] | str | None:
    """Names of the three normal columns, or the name of one (N, 3) column, or None."""
    return triple(attributes, NORMAL_NAMES, ("normals", "normal"))


def triple(
    attributes: Mapping[str, np.ndarray], names: tuple[tuple[str, str, str], ...], whole: tuple[str, ...]
) -> tuple[str, str, str] | str | None:
    """Names of three numeric columns, or of one numeric (N, 3) column; compared without regard to case."""
    numeric = {name.lower(): name for name, values in attributes.items() if values.dtype.kind in "iuf"}
    for first, second, third in names:
        if first in numeric and second in numeric and third in numeric:
            found = numeric[first], numeric[second], numeric[third]
            if all(attributes[name].ndim == 1 for name in found):
                return found
    for name in whole:
        if name in numeric and attributes[numeric[name]].shape[1:] == (3,):
            return numeric[name]
    return None


def unit_columns(values: np.ndarray) -> bool:
    """True when the rows of (N, 3) are unit vectors, which unnamed columns only are when they hold normals."""
    finite = values[np.isfinite(values).all(axis=1)]
    # Rows of zeros are how writers mark a missing normal.
    lengths = np.linalg.norm(finite[np.any(finite != 0, axis=1)], axis=1)
    return len(lengths) > 0 and bool(np.all(np.abs(lengths - 1) < 1e-2))


def unnamed_columns(values: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of an (N, C >= 3) table without names: x y z, then nx ny nz if they are unit vectors, else column_k."""
    names = ["x", "y", "z", *(f"column_{index}" for index in range(3, values.shape[1]))]
    if values.shape[1] >= 6 and values.dtype.kind == "f" and unit_columns(values[:, 3:6].astype(np.float64)):
        names[3:6] = ["nx", "ny", "nz"]
    return {name: values[:, index] for index, name in enumerate(names)}


def packed_color(columns: Mapping[str, np.ndarray]) -> tuple[str, np.ndarray] | None:
    """Name and (N,) uint32 of the 0xAARRGGBB column that PCL calls `rgb` or `rgba`, or None."""
    for name, values in columns.items():
        if name.lower() in ("rgb", "rgba") and values.ndim == 1 and values.dtype.str[1:] in ("f4", "u4", "i4"):
            return name, np.ascontiguousarray(values).view(np.uint32)
    return None


def _stack(attributes: Mapping[str, np.ndarray], names: tuple[str, str, str] | str) -> np.ndarray:
    return attributes[names] if isinstance(names, str) else np.stack([attributes[name] for name in names], axis=1)


def _rotation_of(T: np.ndarray) -> np.ndarray:
    """(3, 3) rotation of a rigid or similarity transform."""
    if T.shape != (4, 4) or not np.isfinite(T).all() or not np.allclose(T[3], [0, 0, 0, 1], rtol=0, atol=1e-9):
        raise ValueError(f"T: expected a finite (4, 4) transform with last row 0 0 0 1, got shape {T.shape}")
    determinant = float(np.linalg.det(T[:3, :3]))
    rotation = T[:3, :3] / np.cbrt(determinant) if determinant > 0 else np.zeros((3, 3))
    if not np.allclose(rotation @ rotation.T, np.eye(3), rtol=0, atol=1e-4):
        raise ValueError(f"T: expected a rotation, or a rotation times a scale, got determinant {determinant:.6g}")
    return rotation


def _rotated_quaternion(rotation: np.ndarray, quat_wxyz: tuple[float, ...]) -> tuple[float, ...]:
    from scipy.spatial.transform import Rotation

    w, x, y, z = quat_wxyz
    turned = (Rotation.from_matrix(rotation) * Rotation.from_quat([x, y, z, w])).as_quat()
    return (float(turned[3]), float(turned[0]), float(turned[1]), float(turned[2]))
