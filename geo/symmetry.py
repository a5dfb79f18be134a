"""Rotations that leave an object as it is, and the distance between poses of such an object.

A pose R of an object with the symmetry s looks the same as R s, so a distance, or a loss, must not tell them apart:
the difference of a cube from itself after a quarter turn is 0. Groups are tensors (k, 3, 3), in the object's own frame.
"""

from __future__ import annotations

import itertools
import math
import re
from functools import cache

import torch
from torch import Tensor

from .checks import (
    require_broadcastable,
    require_floating,
    require_same_device,
    require_same_dtype,
    require_shape,
)
from .numerics import largest_component, matmul, safe_norm, upcast
from .so3 import geodesic_distance

_Matrix = tuple[tuple[float, ...], ...]

_GOLDEN = (1 + math.sqrt(5)) / 2
# What the entries of the icosahedral group can be, up to sign.
_ICOSAHEDRAL_ENTRIES = (0.0, 1 / (2 * _GOLDEN), 0.5, _GOLDEN / 2, 1.0)


def symmetry_group(
    name: str, *, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None
) -> Tensor:
    """All rotations of a point group; entries 0, 1/2 and 1 are exact, the others within a unit of rounding.

    Args:
        name: "C" and a number n: turns about z by multiples of 1 / n turn (a propeller; "C1" is no symmetry).
            "D" and a number n: those and the half turns about n axes of the xy plane, x among them (a prism).
            "T", "O", "I": the 12, 24 and 60 rotations of the tetrahedron with corners at (1, 1, 1), (1, -1, -1) and
            so on, of the cube along the axes, and of the icosahedron with corners at (0, +-1, +-golden ratio) and
            cyclic permutations of it.
        dtype: of the result.
        device: of the result.
    Returns:
        (k, 3, 3), the identity first.
    Raises:
        TypeError: `name` is not a string, or `dtype` not a floating point type.
        ValueError: unknown name.

    >>> symmetry_group("C4")[1]
    tensor([[ 0., -1.,  0.],
            [ 1.,  0.,  0.],
            [ 0.,  0.,  1.]], dtype=torch.float64)
    """
    if not isinstance(name, str):
        raise TypeError(f"name: expected a string, got {type(name).__name__}")
    if not dtype.is_floating_point:
        raise TypeError(f"dtype: expected a floating point type, got {dtype}")
    return torch.tensor(_group(name), dtype=dtype, device=device)


def symmetric_geodesic_distance(rotation: Tensor, other: Tensor, group: Tensor | str) -> Tensor:
    """Angle between two poses of a symmetric object: the smallest one over its symmetries.

    Args:
        rotation: (..., 3, 3), a rotation.
        other: (..., 3, 3), a rotation, dtype of `rotation`; leading axes broadcast.
        group: (k, 3, 3), the symmetries in the object's own frame, of any floating point dtype; or a name for
            `symmetry_group`.
    Returns:
        (...), radians in [0, pi]: the minimum over s of `geodesic_distance(rotation @ s, other)`. The gradient is that
        for the nearest s, and for the first of them where several are equally near.
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, two dtypes or devices, leading axes that do not broadcast, or unknown name.

    >>> quarter_turn = symmetry_group("C4")[1]
    >>> symmetric_geodesic_distance(torch.eye(3, dtype=torch.float64), quarter_turn, "C4")
    tensor(0., dtype=torch.float64)
    """
    _require_pair(rotation, other)
    if isinstance(group, str):
        group = symmetry_group(group, device=rotation.device)
    require_floating("group", group)
    require_shape("group", group, "k", 3, 3)
    require_same_device({"rotation": rotation, "group": group})
    if len(group) == 0:
        raise ValueError("group: expected at least one rotation, got shape (0, 3, 3)")
    a, b = torch.broadcast_tensors(upcast(rotation), upcast(other))
    group = group.to(a.dtype)
    # The nearest s has the largest trace(s^T a^T b): k numbers for a pose, instead of k matrices.
    relative = matmul(a.detach().mT, b.detach())
    nearest = matmul(relative.flatten(-2), group.flatten(1).mT).argmax(-1)
    return geodesic_distance(matmul(a, group[nearest]), b).to(rotation.dtype)


def axis_distance(rotation: Tensor, other: Tensor, axis: Tensor) -> Tensor:
    """Angle between two poses of a surface of revolution: the one between the directions of its axis.

    Args:
        rotation: (..., 3, 3), a rotation.
        other: (..., 3, 3), a rotation, dtype of `rotation`; leading axes broadcast.
        axis: (..., 3), the axis of revolution in the object's own frame, of any length, dtype of `rotation`. For 0 the
            distance is 0.
    Returns:
        (...), radians in [0, pi]. The gradient is 0 at angle 0 and at pi, where the distance has a kink.
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, several dtypes or devices, or leading axes that do not broadcast.

    >>> turns = symmetry_group("D4", dtype=torch.float32)
    >>> axis_distance(turns[0], turns, torch.tensor([0.0, 0.0, 1.0]))
    tensor([0.0000, 0.0000, 0.0000, 0.0000, 3.1416, 3.1416, 3.1416, 3.1416])
    """
    _require_pair(rotation, other)
    require_floating("axis", axis)
    require_shape("axis", axis, ..., 3)
    tensors = {"rotation": rotation, "other": other, "axis": axis.unsqueeze(-1)}
    require_same_dtype(tensors)
    require_same_device(tensors)
    require_broadcastable(tensors, trailing=2)
    # The distance does not depend on the length of the axis, so the axis gets the gradient of its direction.
    direction = upcast(axis)
    direction = direction / largest_component(direction)
    column = direction.unsqueeze(-2)
    p, q = (upcast(rotation) * column).sum(-1), (upcast(other) * column).sum(-1)
    # q - p is exact for nearby directions: no cancellation, and exactly 0 for equal ones.
    p, difference = torch.broadcast_tensors(p, q - p)
    sine, cosine = safe_norm(torch.linalg.cross(p, difference, dim=-1)), (p * q).sum(-1)
    # atan2(0, 0) has no gradient.
    cosine = torch.where((sine == 0) & (cosine == 0), 1, cosine)
    return torch.atan2(sine, cosine).to(rotation.dtype)


def _require_pair(rotation: Tensor, other: Tensor) -> None:
    """Check two batches of 3 x 3 matrices that will be compared."""
    tensors = {"rotation": rotation, "other": other}
    for name, value in tensors.items():
        require_floating(name, value)
        require_shape(name, value, ..., 3, 3)
    require_same_dtype(tensors)
    require_same_device(tensors)
    require_broadcastable(tensors, trailing=2)


@cache
def _group(name: str) -> tuple[_Matrix, ...]:
    """The rotations of a point group as nested tuples."""
    match = re.fullmatch("([CD])([1-9][0-9]*)|[TOI]", name)
    if match is None:
        raise ValueError(f"name: expected C or D and a number from 1 on, T, O or I, got {name!r}")
    if match[1]:
        n = int(match[2])
        turns = tuple(_about_z(k, n) for k in range(n))
        # The half turn about the axis at angle k pi / n is diag(1, -1, -1) followed by k / n of a turn.
        half_turns = tuple(tuple((row[0], 0.0 - row[1], 0.0 - row[2]) for row in turn) for turn in turns)
        return turns if match[1] == "C" else turns + half_turns
    cube = _signed_permutations()
    tetrahedron = tuple(m for m in cube if _is_even(m))
    return {"T": tetrahedron, "O": cube}[name] if name != "I" else _icosahedral(tetrahedron)


def _about_z(k: int, n: int) -> _Matrix:
    """k / n of a turn about z."""
    c, s = _cosine(k, n), _cosine(4 * k - n, 4 * n)
    return ((c, 0.0 - s, 0.0), (s, c, 0.0), (0.0, 0.0, 1.0))


def _cosine(k: int, n: int) -> float:
    """Cosine of k / n of a turn, exact where it is 0, 1/2 or 1 up to sign."""
    k = abs(k) % n
    k = min(k, n - k)
    if 4 * k > n:
        return 0.0 - _cosine(n - 2 * k, 2 * n)
    if 6 * k == n:
        return 0.5
    return 0.0 if 4 * k == n else math.cos(2 * math.pi * k / n)


def _signed_permutations() -> tuple[_Matrix, ...]:
    """The 24 rotations of the cube, the identity first."""
    return tuple(
        tuple(tuple(signs[row] if column == order[row] else 0.0 for column in range(3)) for row in range(3))
        for order in itertools.permutations(range(3))
        for signs in itertools.product((1.0, -1.0), repeat=3)
        if math.prod(signs) == _parity(order)
    )


def _parity(order: tuple[int, ...]) -> int:
    """1 for an even permutation of 0, 1, 2 and -1 for an odd one."""
    return 1 if order in ((0, 1, 2), (1, 2, 0), (2, 0, 1)) else -1


def _is_even(matrix: _Matrix) -> bool:
    """Whether a signed permutation matrix permutes cyclically: what the tetrahedron keeps of the cube."""
    return _parity(tuple([abs(entry) for entry in row].index(1.0) for row in matrix)) == 1


def _icosahedral(tetrahedron: tuple[_Matrix, ...]) -> tuple[_Matrix, ...]:
    """The 60 rotations: the powers of one fifth of a turn times the rotations of the tetrahedron inside."""
    a, b = _GOLDEN / 2, 1 / (2 * _GOLDEN)
    # About the corner (0, 1, golden ratio).
    fifth: _Matrix = ((b, -a, 0.5), (a, 0.5, b), (-0.5, b, a))
    power = tetrahedron[0]
    group: list[_Matrix] = []
    for _ in range(5):
        group += [_snapped(_product(power, m)) for m in tetrahedron]
        power = _snapped(_product(power, fifth))
    return tuple(group)


def _product(left: _Matrix, right: _Matrix) -> _Matrix:
    """Matrix product."""
    columns = list(zip(*right, strict=True))
    return tuple(tuple(sum(a * b for a, b in zip(row, c, strict=True)) for c in columns) for row in left)


def _snapped(matrix: _Matrix) -> _Matrix:
    """Every entry replaced by the number it stands for: no rounding adds up."""

    def exact(entry: float) -> float:
        return math.copysign(min(_ICOSAHEDRAL_ENTRIES, key=lambda value: abs(value - abs(entry))), entry)

    return tuple(tuple(exact(entry) + 0.0 for entry in row) for row in matrix)
