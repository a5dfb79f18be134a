"""Antisymmetric matrices of any size and the rotations they stand for: exponential, logarithm and Cayley maps of SO(n).

The antisymmetric matrices are the tangent space of the rotations at the identity: n (n - 1) / 2 numbers, the least a
rotation of n dimensions takes. No such encoding is continuous where an angle of the rotation passes pi.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import require_floating
from .numerics import matmul, safe_norm
from .polar import reorthogonalised, require_square, svd_procrustes, widened
from .so3 import axis_angle_to_matrix, matrix_to_axis_angle, matrix_to_quaternion, quaternion_to_matrix

# Larger antisymmetric matrices count as 0: their angles are many turns that float64 hardly resolves.
_LARGEST = 1e12
# Newton-Schulz steps that make the exponential or Cayley transform of the largest matrix orthogonal to rounding.
_POLISHING = 3
# How far, in radians, a rotation is turned before its planes are told apart: far enough to split equal half turns, yet
# not so far as to mix planes that differ. The best of the answers counts.
_TILTS = (0.0, 1e-11, 1e-9)


def hat_n(vector: Tensor) -> Tensor:
    """Antisymmetric matrix of n (n - 1) / 2 numbers: the angle for n = 2, the cross product matrix for n = 3.

    Args:
        vector: (..., n (n - 1) / 2). The numbers fill the lower triangle from its last entry to its first, row by row,
            with the sign (-1)**(row + column + 1): for n = 3, (x, y, z) become entries (3, 2), -(3, 1) and (2, 1).
    Returns:
        (..., n, n).
    Raises:
        TypeError: `vector` is not a floating point tensor.
        ValueError: the last axis is not n (n - 1) / 2 for any n of at least 2.

    >>> hat_n(torch.tensor([1.0, 2.0, 3.0]))
    tensor([[ 0., -3.,  2.],
            [ 3.,  0., -1.],
            [-2.,  1.,  0.]])
    """
    require_floating("vector", vector)
    count = vector.shape[-1] if vector.ndim else 0
    n = round((1 + (1 + 8 * count) ** 0.5) / 2)
    if count < 1 or n * (n - 1) // 2 != count:
        raise ValueError(f"vector: expected shape (..., n (n - 1) / 2) with n >= 2, got {tuple(vector.shape)}")
    rows, columns, signs = _triangle(n, vector)
    # Entry (i, j) of the matrix is component `index` of the vector, 0 on the diagonal.
    index = torch.zeros(n, n, dtype=torch.long, device=vector.device)
    factor = torch.zeros(n, n, dtype=vector.dtype, device=vector.device)
    order = torch.arange(count, device=vector.device)
    index[rows, columns] = order
    index[columns, rows] = order
    factor[rows, columns] = signs
    factor[columns, rows] = -signs
    return torch.where(factor == 0, 0, vector[..., index] * factor)


def vee_n(matrix: Tensor) -> Tensor:
    """The n (n - 1) / 2 numbers of the antisymmetric part of a matrix; inverse of `hat_n`.

    Args:
        matrix: (..., n, n).
    Returns:
        (..., n (n - 1) / 2).
    Raises:
        TypeError: `matrix` is not a floating point tensor.
        ValueError: not square, or n < 2.

    >>> vee_n(hat_n(torch.tensor([1.0, 2.0, 3.0])))
    tensor([1., 2., 3.])
    """
    n = require_square("matrix", matrix)
    rows, columns, signs = _triangle(n, matrix)
    return signs * (matrix[..., rows, columns] - matrix[..., columns, rows]) / 2


def son_exp(skew: Tensor) -> Tensor:
    """Rotation exp(K) of an antisymmetric matrix K of any size: the exponential map of so(n).

    Args:
        skew: (..., n, n); only its antisymmetric part counts. Beyond n = 3, matrices of norm above 1e12 count as 0.
    Returns:
        (..., n, n), a rotation to rounding. Continuous; derivatives of all orders are exact.
    Raises:
        TypeError: `skew` is not a floating point tensor.
        ValueError: not square, or n < 2.

    >>> son_exp(hat_n(torch.tensor([torch.pi / 2])))
    tensor([[-4.3711e-08, -1.0000e+00],
            [ 1.0000e+00, -4.3711e-08]])
    """
    n = require_square("skew", skew)
    if n <= 3:
        return axis_angle_to_matrix(_spatial_vector(skew))[..., :n, :n]
    return _exponential(_resolved(widened(skew))).to(skew.dtype)


def son_log(matrix: Tensor) -> Tensor:
    """Antisymmetric matrix K of angles up to pi with exp(K) = R, of a rotation of any size: the logarithm of SO(n).

    Accurate at all angles, 0 and pi included. K is unique and smooth in R unless R turns a plane by pi, where it jumps:
    up to n = 3 it takes the sign of `matrix_to_axis_angle`, beyond, one of the possible planes and directions, with a
    bounded gradient. Angles within 1e-9 of pi may then come out as much above pi.

    Args:
        matrix: (..., n, n), a rotation. Beyond n = 3 the rotation nearest to `matrix` is used.
    Returns:
        (..., n, n), antisymmetric.
    Raises:
        TypeError: `matrix` is not a floating point tensor.
        ValueError: not square, or n < 2.
    First and second derivatives are exact, beyond n = 3 not higher ones.

    >>> son_log(torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
    tensor([[ 0.0000, -1.5708],
            [ 1.5708,  0.0000]])
    """
    n = require_square("matrix", matrix)
    if n <= 3:
        return _skew_of(matrix_to_axis_angle(_spatial_matrix(matrix)), n)
    return _logarithm(svd_procrustes(widened(matrix), special=True)[0]).to(matrix.dtype)


def cayley(skew: Tensor) -> Tensor:
    """Rotation (I - K)^-1 (I + K) of an antisymmetric matrix K of any size.

    A rational map: its angles are 2 atan(k), with k those of K. It misses the rotations that turn a plane by pi, which
    it approaches as K grows. Smooth; the gradient vanishes like 1 / k**2.

    Args:
        skew: (..., n, n); only its antisymmetric part counts. Beyond n = 3, matrices of norm above 1e12 count as 0.
    Returns:
        (..., n, n), a rotation to rounding.
    Raises:
        TypeError: `skew` is not a floating point tensor.
        ValueError: not square, or n < 2.

    >>> cayley(hat_n(torch.tensor([1.0])))
    tensor([[ 0., -1.],
            [ 1.,  0.]])
    """
    n = require_square("skew", skew)
    if n <= 3:
        vector = _spatial_vector(skew)
        return quaternion_to_matrix(torch.cat([torch.ones_like(vector[..., :1]), vector], -1))[..., :n, :n]
    k = _resolved(widened(skew))
    eye = _identity(k)
    # Not `solve`: under vmap, PyTorch 2.13 gets its forward derivative wrong.
    rotation = matmul(torch.linalg.inv(eye - k), eye + k)
    for _ in range(_POLISHING):
        rotation = reorthogonalised(rotation)
    return rotation.to(skew.dtype)


def inverse_cayley(matrix: Tensor) -> Tensor:
    """Antisymmetric matrix (R - I) (R + I)^-1 of a rotation of any size: inverse of `cayley`.

    It grows without bound where R turns a plane by an angle near pi. At pi itself it is finite, but as large as 1 / eps
    of the dtype: up to n = 3 `cayley` takes it back to the same half turn, beyond, its part in that plane is arbitrary.

    Args:
        matrix: (..., n, n), a rotation.
    Returns:
        (..., n, n), antisymmetric. Discontinuous at half turns.
    Raises:
        TypeError: `matrix` is not a floating point tensor.
        ValueError: not square, or n < 2.
    First and second derivatives are exact, beyond n = 3 not higher ones.

    >>> inverse_cayley(torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
    tensor([[ 0., -1.],
            [ 1.,  0.]])
    """
    n = require_square("matrix", matrix)
    smallest = torch.finfo(matrix.dtype).eps
    if n <= 3:
        quat = matrix_to_quaternion(_spatial_matrix(matrix))
        return _skew_of(quat[..., 1:] / quat[..., :1].clamp(min=smallest), n)
    wide = widened(matrix)
    finite = wide.isfinite().all((-2, -1), keepdim=True)
    m = torch.where(finite, wide, 0)
    constant = m.detach()
    # K is the antisymmetric part of I - 2 (R + I)^-1. The inverse at a constant comes from an SVD, which never fails,
    # and the two further terms of its series, which are zero in value, carry the first two derivatives.
    u, values, vt = torch.linalg.svd(constant + _identity(m))
    inverse = matmul(vt.mT / values.clamp(min=smallest)[..., None, :], u.mT)
    change = matmul(inverse, m - constant)
    inverse = inverse - matmul(change, inverse) + matmul(change, matmul(change, inverse))
    return torch.where(finite, inverse.mT - inverse, torch.nan).to(matrix.dtype)


def _exponential(skew: Tensor) -> Tensor:
    """exp of an antisymmetric matrix of any size."""
    rotation = torch.linalg.matrix_exp(skew)
    for _ in range(_POLISHING):
        rotation = reorthogonalised(rotation)
    return rotation


def _logarithm(rotation: Tensor) -> Tensor:
    """Logarithm of matrices that are orthogonal to rounding with determinant 1, or NaN."""
    valid = rotation.isfinite().all((-2, -1), keepdim=True)
    eye = _identity(rotation)
    r = torch.where(valid, rotation, eye)
    vectors, angles = _spectrum(r.detach())
    start = matmul(vectors * torch.complex(torch.zeros_like(angles), angles)[..., None, :], vectors.mH)
    # The derivative of exp, diagonal in this basis but for a phase, has these entries; they are 0 only for two half
    # turns, whose planes are then arbitrary.
    half = (angles[..., :, None] - angles[..., None, :]) / 2
    sinc = torch.sinc(half / torch.pi)
    damped = sinc / (sinc.square() + torch.finfo(r.dtype).eps)
    inverse = torch.polar(torch.ones_like(half), half) * damped
    # Newton's method with that constant derivative. The first step takes the value to rounding; each of the others
    # removes one order of the error in a change of r, so that the first and the second derivative are exact.
    constant = r.detach()[..., None, :, :]
    log = _newton_step(_antisymmetric(start.real), constant, vectors, inverse)
    error = (matmul(_exponential(log).mT, constant) - eye).square().sum((-2, -1), keepdim=True)
    best = error.argmin(-3, keepdim=True)
    log, vectors, inverse = (torch.take_along_dim(x, best, -3).squeeze(-3) for x in (log, vectors, inverse))
    for _ in range(2):
        log = _newton_step(log, r, vectors, inverse)
    return torch.where(valid, log, torch.nan)


def _newton_step(log: Tensor, rotation: Tensor, vectors: Tensor, inverse: Tensor) -> Tensor:
    """A better logarithm of `rotation`; `inverse` is the inverse derivative of exp in the basis of the eigenvectors."""
    error = _antisymmetric(matmul(_exponential(log).mT, rotation))
    error = matmul(matmul(vectors.mH, error.to(vectors.dtype)), vectors)
    return log + _antisymmetric(matmul(matmul(vectors, inverse * error), vectors.mH).real)


def _spectrum(rotation: Tensor) -> tuple[Tensor, Tensor]:
    """Complex eigenvectors (..., k, n, n), as columns, and angles (..., k, n) of k rotations near each given one."""
    n = rotation.shape[-1]
    eye = _identity(rotation)
    # Turned a little by fixed irregular amounts, so that equal half turns become pairs of opposite angles below pi.
    generic = torch.sin(torch.arange(1, n * n + 1, dtype=rotation.dtype, device=rotation.device).square()).view(n, n)
    tilts = rotation.new_tensor(_TILTS)[:, None, None] * _antisymmetric(generic)
    r = matmul(rotation[..., None, :, :], eye + tilts + matmul(tilts, tilts) / 2)
    # The angles, plus and minus the arc cosines of these, leave a gap on the circle. Seen from its middle, a Cayley
    # transform is a Hermitian matrix of moderate size whose eigenvalues are as far apart as the angles.
    cosines = torch.linalg.eigvalsh((r + r.mT) / 2)
    arcs = cosines.clamp(-1, 1).acos().flip(-1)
    ends = torch.cat([-arcs[..., :1], arcs, 2 * torch.pi - arcs[..., -1:]], -1)
    widths = ends.diff(dim=-1)
    middle = (ends[..., :-1] + widths / 2).gather(-1, widths.argmax(-1, keepdim=True))[..., None]
    turned = torch.polar(torch.ones_like(middle), -middle) * r
    hermitian = 1j * torch.linalg.solve(turned - eye, turned + eye)
    _, vectors = torch.linalg.eigh((hermitian + hermitian.mH) / 2)
    rayleigh = (vectors.conj() * matmul(r.to(vectors.dtype), vectors)).sum(-2)
    return vectors, torch.atan2(rayleigh.imag, rayleigh.real)


def _resolved(skew: Tensor) -> Tensor:
    """Antisymmetric part, or 0 with gradient 0 where it is too large to tell the angles."""
    part = _antisymmetric(skew)
    return torch.where(safe_norm(part.detach().flatten(-2))[..., None, None] > _LARGEST, 0, part)


def _antisymmetric(matrix: Tensor) -> Tensor:
    """Antisymmetric part of a matrix; halved first, so that it does not overflow."""
    return matrix / 2 - matrix.mT / 2


def _spatial_vector(skew: Tensor) -> Tensor:
    """(..., 3) axial vector of an antisymmetric matrix of two or three dimensions, two in the plane of x and y."""
    vector = vee_n(skew)
    return vector if skew.shape[-1] == 3 else torch.nn.functional.pad(vector, (2, 0))


def _spatial_matrix(matrix: Tensor) -> Tensor:
    """(..., 3, 3) rotation about z, if need be, of a rotation of two or three dimensions."""
    if matrix.shape[-1] == 3:
        return matrix
    last = torch.tensor([0.0, 0.0, 1.0], dtype=matrix.dtype, device=matrix.device)
    return torch.nn.functional.pad(matrix, (0, 1, 0, 1)) + torch.diag(last)


def _skew_of(vector: Tensor, n: int) -> Tensor:
    """Antisymmetric matrix (..., n, n), n = 2 or 3, of a vector (..., 3)."""
    return hat_n(vector if n == 3 else vector[..., 2:])


def _triangle(n: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns and signs of the entries below the diagonal in the order of `hat_n`."""
    rows, columns = torch.tril_indices(n, n, offset=-1, device=like.device).flip(-1)
    return rows, columns, 1.0 - 2.0 * ((rows + columns + 1) % 2).to(like.dtype)


def _identity(like: Tensor) -> Tensor:
    """(n, n) identity of the dtype and on the device of a matrix."""
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
