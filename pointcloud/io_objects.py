"""Point clouds that other libraries hold in memory: arrays, tensors, Open3D objects. Nothing is imported for them."""

from __future__ import annotations

from typing import Any

import numpy as np

from .cloud import Layout, PointCloud, rounding_step
from .errors import InputError


def cloud_from_object(obj: Any) -> PointCloud:
    """Cloud from an (N, 3) array, sequence or tensor, or from an object with `.points`; see `io.as_point_cloud`.

    Raises:
        TypeError: neither.
        InputError: wrong shape or type of numbers.
    """
    # Open3D's tensor clouds know how to become its usual ones.
    if hasattr(obj, "to_legacy"):
        obj = obj.to_legacy()
    if isinstance(obj, (np.ndarray, list, tuple)) or hasattr(obj, "detach"):
        return _cloud(_array("points", obj), {})
    if not hasattr(obj, "points"):
        raise TypeError(
            "points: expected a path, an (N, 3) array or tensor, a PointCloud or an object with .points, "
            f"got {type(obj).__name__}"
        )
    points = _array("points", obj.points)
    attributes: dict[str, np.ndarray] = {}
    for key, names in (("normals", ("nx", "ny", "nz")), ("colors", ("red", "green", "blue"))):
        values = np.asarray(getattr(obj, key, ()))
        if values.shape != points.shape or len(points) == 0:
            continue
        if key == "colors" and values.dtype.kind == "f":
            # The rounding of Open3D's own writers.
            values = np.rint(np.clip(np.nan_to_num(values), 0.0, 1.0) * 255.0).astype(np.uint8)
        attributes.update({name: values[:, axis].copy() for axis, name in enumerate(names)})
    return _cloud(points, attributes)


def _cloud(points: np.ndarray, attributes: dict[str, np.ndarray]) -> PointCloud:
    values = points.astype(np.float64)
    layout = Layout(coordinate_dtype=points.dtype, coordinate_step=rounding_step(values, points.dtype))
    return PointCloud(values, attributes, layout=layout)


def _array(name: str, obj: Any) -> np.ndarray:
    """(N, 3) real array in native byte order; it may share memory with `obj`."""
    if hasattr(obj, "detach"):
        tensor = obj.detach().cpu()
        obj = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    try:
        array = np.asarray(obj)
    # Rows of unequal length.
    except ValueError:
        raise InputError(f"{name}: expected real numbers of shape (N, 3), got rows of unequal length") from None
    if array.ndim != 2 or array.shape[1] != 3 or array.dtype.kind not in "iuf":
        raise InputError(f"{name}: expected real numbers of shape (N, 3), got {array.dtype} {array.shape}")
    return array.astype(array.dtype.newbyteorder("="), copy=False)
