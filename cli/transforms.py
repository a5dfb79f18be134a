"""Reading 4x4 transforms from files, for `--init` and `rotaware apply`."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from rotaware.pointcloud import InputError, UnreadableFileError

# Largest deviation of R^T R / s^2 from the identity: files with six decimals must pass, a shear must not.
_ORTHOGONALITY_TOLERANCE = 1e-3


def read_transform(path: str | Path) -> np.ndarray:
    """The (4, 4) float64 matrix in a result.json of ours, a .json or text matrix, or a .npy file.

    Text holds 16 numbers (or the first 12) row by row, separated by blanks or commas. JSON holds our result, a nested
    list, or an object with the key `matrix`.

    Raises:
        FileNotFoundError: no such file.
        UnreadableFileError: the content is not numbers of that form.
        InputError: the numbers are not a proper rotation (with one scale) and a translation, or the result in the
            file was not registered.
    """
    file = Path(path)
    if not file.exists():
        raise FileNotFoundError(f"cannot open {str(path)!r}: no such file")
    if file.is_dir():
        raise InputError(f"{str(path)!r} is a folder; expected a transform: .json, .txt or .npy")
    try:
        if file.suffix.lower() == ".npy":
            values = np.load(file, allow_pickle=False)
        elif file.suffix.lower() == ".json":
            values = _values_of_json(json.loads(file.read_text(encoding="utf-8")), path)
        else:
            values = np.array(file.read_text(encoding="utf-8").replace(",", " ").split(), dtype=np.float64)
        values = np.asarray(values, dtype=np.float64)
    except InputError:
        raise
    except (ValueError, TypeError, EOFError) as error:
        raise UnreadableFileError(f"{str(path)!r} does not hold a 4x4 transform ({error})") from error
    if values.size not in (12, 16):
        raise UnreadableFileError(f"{str(path)!r} holds {values.size} numbers; a transform has 16 (or the first 12)")
    matrix = np.eye(4)
    matrix[: values.size // 4] = values.reshape(-1, 4)
    _require_similarity(matrix, path)
    return matrix


def scale_of(matrix: np.ndarray) -> float:
    """Scale factor s of a (4, 4) similarity with blocks s R and t.

    >>> float(round(scale_of(np.diag([2.0, 2.0, 2.0, 1.0])), 12))
    2.0
    """
    return float(np.cbrt(np.linalg.det(matrix[:3, :3])))


def rotation_degrees(matrix: np.ndarray) -> float:
    """Rotation angle in [0, 180] of a (4, 4) similarity.

    >>> rotation_degrees(np.diag([-1.0, -1.0, 1.0, 1.0]))
    180.0
    """
    rotation = matrix[:3, :3] / scale_of(matrix)
    skew = rotation - rotation.T
    sine = math.hypot(skew[2, 1], skew[0, 2], skew[1, 0]) / 2
    return math.degrees(math.atan2(sine, (np.trace(rotation) - 1) / 2))


def pose_error(matrix: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Angle in degrees and distance of translations between two (4, 4) transforms.

    >>> pose_error(np.eye(4), np.eye(4))
    (0.0, 0.0)
    """
    return rotation_degrees(matrix @ inverse(truth)), float(np.linalg.norm((matrix - truth)[:3, 3]))


def inverse(matrix: np.ndarray) -> np.ndarray:
    """Inverse of a (4, 4) similarity, exact in its last row.

    >>> inverse(np.array([[1, 0, 0, 2.0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))[0]
    array([ 1.,  0.,  0., -2.])
    """
    result = np.eye(4)
    result[:3, :3] = matrix[:3, :3].T / scale_of(matrix) ** 2
    result[:3, 3] = -result[:3, :3] @ matrix[:3, 3]
    return result


def _values_of_json(content: object, path: str | Path) -> object:
    if isinstance(content, dict) and "transform" in content:
        transform = content["transform"]
        if transform is None:
            status = str(content.get("status", "not registered")).replace("_", " ")
            raise InputError(f"{str(path)!r} holds no transform: its status is '{status}'")
        content = transform
    return content["matrix"] if isinstance(content, dict) and "matrix" in content else content


def _require_similarity(matrix: np.ndarray, path: str | Path) -> None:
    if not np.isfinite(matrix).all():
        raise InputError(f"{str(path)!r} holds NaN or infinite numbers")
    if not np.allclose(matrix[3], (0, 0, 0, 1), atol=1e-9):
        raise InputError(f"{str(path)!r}: the last row must be 0 0 0 1; is the matrix transposed?")
    determinant = np.linalg.det(matrix[:3, :3])
    if determinant <= 0:
        raise InputError(f"{str(path)!r}: the 3x3 block mirrors or flattens (determinant {determinant:.3g})")
    gram = matrix[:3, :3].T @ matrix[:3, :3] / scale_of(matrix) ** 2
    if np.abs(gram - np.eye(3)).max() > _ORTHOGONALITY_TOLERANCE:
        raise InputError(f"{str(path)!r}: the 3x3 block is not a rotation (with one common scale)")
