"""Rotation formulas as most PyTorch projects write them, for comparison by `rotations.py`; nothing to run here.

Eager PyTorch on (..., 3), (..., 4) and (..., 3, 3) with components on the last axis, unbound, combined and stacked
again: the manner of PyTorch3D's `transforms`, with its names, conventions (quaternions real first, w >= 0 where it says
so, 6D as two rows) and its known limits, such as an angle by arc cosine that is extrapolated at both ends. Written from
the textbook formulas. Where PyTorch3D has no such function, the same manner is applied to the published formula.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad


def quaternion_to_matrix(quat: Tensor) -> Tensor:
    """(..., 4), any length but 0, to (..., 3, 3)."""
    w, x, y, z = quat.unbind(-1)
    s = 2.0 / (quat * quat).sum(-1)
    entries = (
        1 - s * (y * y + z * z), s * (x * y - w * z), s * (x * z + w * y),
        s * (x * y + w * z), 1 - s * (x * x + z * z), s * (y * z - w * x),
        s * (x * z - w * y), s * (y * z + w * x), 1 - s * (x * x + y * y),
    )  # fmt: skip
    return torch.stack(entries, -1).reshape(*quat.shape[:-1], 3, 3)


def standardize_quaternion(quat: Tensor) -> Tensor:
    """The sign with w >= 0."""
    return torch.where(quat[..., :1] < 0, -quat, quat)


def matrix_to_quaternion(matrix: Tensor) -> Tensor:
    """Of the four rows of 4 q q^T, the one with the largest diagonal entry, divided by its root."""
    a, b, c, d, e, f, g, h, i = matrix.flatten(-2).unbind(-1)
    squares = torch.stack((1 + a + e + i, 1 + a - e - i, 1 - a + e - i, 1 - a - e + i), -1)
    # The root of zero has no derivative.
    positive = squares > 0
    doubled = torch.where(positive, squares.where(positive, torch.ones_like(squares)).sqrt(), torch.zeros_like(squares))
    rows = torch.stack(
        (
            torch.stack((doubled[..., 0] ** 2, h - f, c - g, d - b), -1),
            torch.stack((h - f, doubled[..., 1] ** 2, d + b, c + g), -1),
            torch.stack((c - g, d + b, doubled[..., 2] ** 2, f + h), -1),
            torch.stack((d - b, g + c, h + f, doubled[..., 3] ** 2), -1),
        ),
        -2,
    )
    candidates = rows / (2 * doubled[..., None].clamp(min=0.1))
    largest = doubled.argmax(-1, keepdim=True)
    chosen = candidates.gather(-2, largest[..., None].expand(*largest.shape, 4)).squeeze(-2)
    return standardize_quaternion(chosen)


def axis_angle_to_quaternion(axis_angle: Tensor) -> Tensor:
    """(..., 3) to (..., 4)."""
    half = 0.5 * torch.linalg.vector_norm(axis_angle, dim=-1, keepdim=True)
    return torch.cat((half.cos(), 0.5 * torch.sinc(half / math.pi) * axis_angle), -1)


def quaternion_to_axis_angle(quat: Tensor) -> Tensor:
    """(..., 4) to (..., 3), of length up to 2 pi where w < 0."""
    length = torch.linalg.vector_norm(quat[..., 1:], dim=-1, keepdim=True)
    half = torch.atan2(length, quat[..., :1])
    return quat[..., 1:] / (0.5 * torch.sinc(half / math.pi))


def axis_angle_to_matrix(axis_angle: Tensor) -> Tensor:
    """By way of the quaternion."""
    return quaternion_to_matrix(axis_angle_to_quaternion(axis_angle))


def matrix_to_axis_angle(matrix: Tensor) -> Tensor:
    """By way of the quaternion."""
    return quaternion_to_axis_angle(matrix_to_quaternion(matrix))


def rotation_6d_to_matrix(rows: Tensor) -> Tensor:
    """(..., 6), two rows of the matrix one after the other, to (..., 3, 3)."""
    first, second = rows[..., :3], rows[..., 3:]
    x = normalize(first, dim=-1)
    y = normalize(second - (x * second).sum(-1, keepdim=True) * x, dim=-1)
    return torch.stack((x, y, torch.cross(x, y, dim=-1)), -2)


def two_vectors_to_matrix(columns: Tensor) -> Tensor:
    """(..., 6), two vectors treated alike, by the bisector of the two and the line across it."""
    first, second = normalize(columns[..., :3], dim=-1), normalize(columns[..., 3:], dim=-1)
    along, across = normalize(first + second, dim=-1), normalize(first - second, dim=-1)
    half = math.sqrt(0.5)
    return torch.stack((half * (along + across), half * (along - across), torch.cross(across, along, dim=-1)), -1)


def rotation_5d_to_matrix(vector: Tensor) -> Tensor:
    """(..., 5), three of the numbers a stereographic projection, to (..., 3, 3)."""
    scale = vector.new_tensor([math.sqrt(2) + 1, math.sqrt(2) + 1, math.sqrt(2)])
    point = vector[..., 2:] * scale
    length = torch.linalg.vector_norm(point, dim=-1, keepdim=True)
    first = torch.cat((vector[..., :2], 0.5 * (length - 1 / length)), -1)
    return rotation_6d_to_matrix(torch.cat((first, point / length), -1)).mT


def special_procrustes(matrix: Tensor) -> Tensor:
    """Nearest rotation (..., n, n) by the singular value decomposition and its derivative."""
    u, _, vh = torch.linalg.svd(matrix)
    sign = torch.det(u @ vh)
    last = torch.cat((u[..., :-1], u[..., -1:] * sign[..., None, None]), -1)
    return last @ vh


def rotation_10d_to_matrix(vector: Tensor) -> Tensor:
    """(..., 10), lower triangle of a symmetric matrix column by column: its eigenvector of least eigenvalue."""
    column, row = torch.triu_indices(4, 4, device=vector.device)
    symmetric = vector.new_zeros(*vector.shape[:-1], 4, 4)
    symmetric[..., row, column] = vector
    symmetric[..., column, row] = vector
    return quaternion_to_matrix(torch.linalg.eigh(symmetric).eigenvectors[..., 0])


def gram_schmidt_to_matrix(columns: Tensor, n: int) -> Tensor:
    """(..., n^2 - n), all columns but the last, to (..., n, n): a loop of projections, then the cofactors."""
    basis: list[Tensor] = []
    for vector in columns.unflatten(-1, (n - 1, n)).unbind(-2):
        for direction in basis:
            vector = vector - (direction * vector).sum(-1, keepdim=True) * direction
        basis.append(normalize(vector, dim=-1))
    block = torch.stack(basis, -1)
    cofactors = []
    for row in range(n):
        minor = torch.cat((block[..., :row, :], block[..., row + 1 :, :]), -2)
        cofactors.append((-1) ** (row + n - 1) * torch.det(minor))
    return torch.cat((block, torch.stack(cofactors, -1)[..., None]), -1)


def _axis_rotation(axis: str, angle: Tensor) -> Tensor:
    c, s, one, zero = angle.cos(), angle.sin(), torch.ones_like(angle), torch.zeros_like(angle)
    entries = {
        "X": (one, zero, zero, zero, c, -s, zero, s, c),
        "Y": (c, zero, s, zero, one, zero, -s, zero, c),
        "Z": (c, -s, zero, s, c, zero, zero, zero, one),
    }[axis]
    return torch.stack(entries, -1).reshape(*angle.shape, 3, 3)


def euler_angles_to_matrix(angles: Tensor, convention: str) -> Tensor:
    """Product of three rotations about (turned) coordinate axes."""
    turns = [_axis_rotation(axis, angles[..., place]) for place, axis in enumerate(convention)]
    return turns[0] @ turns[1] @ turns[2]


def matrix_to_euler_angles(matrix: Tensor, convention: str) -> Tensor:
    """Middle angle by arc sine or arc cosine of one entry, the other two as arc tangents of its row and its column.

    With i, j, k the axes, R_ik is sin(middle) of one sign or the other for three different axes; for i = k, R_ii is
    cos(middle) and the row and the column are read at j and at the third axis.
    """
    i, j, k = ("XYZ".index(axis) for axis in convention)
    proper = i == k
    other = 3 - i - j if proper else k
    sign = 1.0 if (j - i) % 3 == 1 else -1.0
    if proper:
        middle = matrix[..., i, i].acos()
        first = torch.atan2(matrix[..., j, i], -sign * matrix[..., other, i])
        third = torch.atan2(matrix[..., i, j], sign * matrix[..., i, other])
    else:
        middle = (sign * matrix[..., i, k]).asin()
        first = torch.atan2(-sign * matrix[..., j, k], matrix[..., k, k])
        third = torch.atan2(-sign * matrix[..., i, j], matrix[..., i, i])
    return torch.stack((first, middle, third), -1)


def quaternion_raw_multiply(a: Tensor, b: Tensor) -> Tensor:
    """Hamilton product."""
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    parts = (
        aw * bw - ax * bx - ay * by - az * bz,
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
    )
    return torch.stack(parts, -1)


def quaternion_multiply(a: Tensor, b: Tensor) -> Tensor:
    """Hamilton product, w >= 0."""
    return standardize_quaternion(quaternion_raw_multiply(a, b))


def quaternion_apply(quat: Tensor, points: Tensor) -> Tensor:
    """q p q* of a unit quaternion."""
    conjugate = quat * quat.new_tensor([1, -1, -1, -1])
    return quaternion_raw_multiply(quaternion_raw_multiply(quat, pad(points, (1, 0))), conjugate)[..., 1:]


def mrp_to_matrix(mrp: Tensor) -> Tensor:
    """Modified Rodrigues parameters (..., 3) to (..., 3, 3)."""
    return quaternion_to_matrix(torch.cat((1 - (mrp * mrp).sum(-1, keepdim=True), 2 * mrp), -1))


def matrix_to_mrp(matrix: Tensor) -> Tensor:
    """The one of length up to 1."""
    quat = matrix_to_quaternion(matrix)
    return quat[..., 1:] / (1 + quat[..., :1])


def so3_relative_angle(a: Tensor, b: Tensor) -> Tensor:
    """Arc cosine of the trace, continued as a straight line from 1e-4 before its ends."""
    cosine = 0.5 * ((a @ b.mT).diagonal(dim1=-2, dim2=-1).sum(-1) - 1)
    bound = 1 - 1e-4
    inner = cosine.clamp(-bound, bound)
    return inner.acos() - (cosine - inner) / math.sqrt(1 - bound * bound)


def quaternion_slerp(start: Tensor, end: Tensor, t: float) -> Tensor:
    """The shorter arc; straight where the two nearly agree."""
    cosine = (start * end).sum(-1, keepdim=True)
    end = torch.where(cosine < 0, -end, end)
    angle = cosine.abs().clamp(max=1 - 1e-7).acos()
    near = angle < 1e-3
    sine = torch.where(near, torch.ones_like(angle), angle.sin())
    a = torch.where(near, torch.full_like(angle, 1 - t), ((1 - t) * angle).sin() / sine)
    b = torch.where(near, torch.full_like(angle, t), (t * angle).sin() / sine)
    return normalize(a * start + b * end, dim=-1)


def align_points(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Rotation (..., 3, 3) and translation (..., 3) of paired points (..., N, 3), by the singular values."""
    source_mean, target_mean = source.mean(-2, keepdim=True), target.mean(-2, keepdim=True)
    rotation = special_procrustes((target - target_mean).mT @ (source - source_mean))
    return rotation, (target_mean - source_mean @ rotation.mT).squeeze(-2)


def rotation_mean(matrix: Tensor) -> Tensor:
    """Nearest rotation of the average over the last batch axis."""
    return special_procrustes(matrix.mean(-3))


def random_rotations(number: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Uniform: (number, 3, 3)."""
    normal = torch.randn(number, 4, dtype=dtype, device=device)
    length = torch.linalg.vector_norm(normal, dim=-1, keepdim=True)
    return quaternion_to_matrix(torch.where(normal[..., :1] < 0, -normal, normal) / length)
