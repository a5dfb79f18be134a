"""Poses as they are published: checked, and made exact."""

from __future__ import annotations

from typing import Any

import numpy as np

from .solids import Array

# The published rotations are off by up to 1.2e-3; a scale, a shear or a transposed matrix is off by more.
_NOT_A_ROTATION = 0.02


def published_pose(rotation: Any, translation: Any, where: str) -> Array:
    """(4, 4) of a rotation and a translation, as they are.

    Raises:
        ValueError: not a rotation (within 0.02) and three finite numbers; the message starts with `where`.

    >>> published_pose(np.eye(3), [[1.0], [2.0], [3.0]], "pair 0")[:3, 3].tolist()
    [1.0, 2.0, 3.0]
    """
    try:
        matrix, shift = np.asarray(rotation, dtype=np.float64), np.asarray(translation, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: expected a finite 3x3 rotation and 3 numbers, got {error}") from None
    if matrix.shape != (3, 3) or shift.shape != (3,) or not (np.isfinite(matrix).all() and np.isfinite(shift).all()):
        raise ValueError(f"{where}: expected a finite 3x3 rotation and 3 numbers, got {matrix.shape}, {shift.shape}")
    off = rotation_defect(matrix)
    if off > _NOT_A_ROTATION or np.linalg.det(matrix) < 0:
        kind = "a reflection" if off <= _NOT_A_ROTATION else f"a matrix whose columns are off orthonormal by {off:.2g}"
        raise ValueError(f"{where}: expected a rotation, got {kind}")
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = matrix, shift
    return pose


def rotation_defect(rotation: Array) -> float:
    """Largest entry of R^T R - 1: how far the columns of (3, 3) are from orthonormal.

    >>> round(rotation_defect(1.001 * np.eye(3)), 6)
    0.002001
    """
    return float(np.abs(rotation.T @ rotation - np.eye(3)).max())


def nearest_pose(pose: Array) -> Array:
    """(4, 4) with the nearest rotation in place of a published one.

    >>> nearest_pose(np.diag([1.001, 1.001, 1.001, 1.0])).round(9).diagonal().tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    left, _, right = np.linalg.svd(pose[:3, :3])
    exact = pose.copy()
    exact[:3, :3] = left @ np.diag([1.0, 1.0, np.linalg.det(left @ right)]) @ right
    return exact


def exact_pose(rotation: Any, translation: Any, where: str) -> Array:
    """(4, 4) of a published rotation, made exact, and a translation.

    Raises:
        ValueError: as `published_pose`.

    >>> exact_pose(1.001 * np.eye(3), [1.0, 2.0, 3.0], "pair 0")[:3, :3].round(9).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    return nearest_pose(published_pose(rotation, translation, where))
