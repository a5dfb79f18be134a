"""Meshes (obj, stl, off) as point clouds: sampled by area with a seed; a file without faces gives its vertices."""

from __future__ import annotations

import io
import logging
from typing import Any

import numpy as np

from .cloud import PointCloud, cloud_from_columns
from .columns import one_line
from .errors import InputError, UnreadableFileError


def read_mesh(name: str, data: bytes, *, kind: str, samples: int, seed: int) -> PointCloud:
    """Cloud of `samples` points spread evenly over the surface, or the vertices when there are no faces.

    Args:
        name: what messages call the file.
        data: the file's bytes.
        kind: "obj", "stl" or "off".
        samples: number of points to draw.
        seed: equal seeds give equal points.
    Raises:
        UnreadableFileError: trimesh cannot parse the file.
        InputError: faces without area, or neither faces nor vertices.
    """
    import trimesh

    # trimesh reports damaged faces through its logger and carries on; the checks below decide instead.
    logger = logging.getLogger("trimesh")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        options: dict[str, Any] = {"skip_materials": True} if kind == "obj" else {}
        with np.errstate(all="ignore"):
            loaded = trimesh.load(io.BytesIO(data), file_type=kind, process=False, **options)
            geometry: Any = loaded.to_mesh() if isinstance(loaded, trimesh.Scene) else loaded
    # A foreign parser fed with damaged bytes may raise anything.
    except Exception as error:
        raise UnreadableFileError(f"{name} cannot be read as {kind.upper()}: {one_line(error)}") from None
    finally:
        logger.setLevel(level)
    vertices = np.asarray(getattr(geometry, "vertices", ()), dtype=np.float64)
    faces = np.asarray(getattr(geometry, "faces", ()), dtype=np.int64)
    if vertices.ndim != 2 or vertices.shape[1] != 3 or len(vertices) == 0:
        raise InputError(f"{name} holds no vertices; is it a whole {kind.upper()} file?")
    if len(faces) == 0:
        return _cloud(vertices, kind)
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise UnreadableFileError(f"{name}: a face refers to a vertex that does not exist")
    with np.errstate(all="ignore"):
        area = float(geometry.area)
    if not np.isfinite(area) or area <= 0:
        raise InputError(f"{name}: the faces have no finite area to sample from (area {area})")
    points, _ = trimesh.sample.sample_surface(geometry, samples, seed=seed)
    return _cloud(np.asarray(points, dtype=np.float64), kind)


def _cloud(points: np.ndarray, kind: str) -> PointCloud:
    return cloud_from_columns(dict(zip(("x", "y", "z"), points.T, strict=True)), format=kind)
