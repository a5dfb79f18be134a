"""Rodrigues parameters, modified and classical, and the four-number axis-angle: small vectors that stand for rotations.

Modified Rodrigues parameters are p = tan(angle / 4) axis, the Gibbs vector (also Cayley's or Rodrigues' parameters) is
c = tan(angle / 2) axis. The maps from them to rotations are smooth everywhere. The maps back are not continuous, as
those to fewer than five numbers never are: they jump or run to infinity where the angle passes pi. Both are good
encodings of turns that stay well below pi, and poor things for a network to predict.

Quaternions are real first, (w, x, y, z), unless `order` says otherwise. What holds for all functions of `so3.py` holds
here: any leading axes, dtype and device kept, no branch on data, finite derivatives, NaN in gives NaN out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import rodrigues_formulas as formulas
from .checks import require_choice, require_floating, require_shape
from .fused import Columns, Map
from .numerics import largest_component, safe_norm, upcast
from .so3 import QuaternionOrder, axis_angle_to_matrix, matrix_to_axis_angle
from .vectors import SHORTEST

_MATRIX, _QUATERNION, _VECTOR = (3, 3), (4,), (3,)
_MRP_TO_QUATERNION = Map(
    formulas.quaternion_of_mrp, formulas.quaternion_of_mrp_derivative,
    inputs={"mrp": _VECTOR}, output=_QUATERNION,
)  # fmt: skip
_QUATERNION_TO_MRP = Map(
    formulas.mrp_of_quaternion, formulas.mrp_of_quaternion_derivative,
    inputs={"quat": _QUATERNION}, output=_VECTOR,
)  # fmt: skip
_MRP_TO_MATRIX = Map(
    formulas.matrix_of_mrp, formulas.matrix_of_mrp_derivative, inputs={"mrp": _VECTOR}, output=_MATRIX
)  # fmt: skip
_MATRIX_TO_MRP = Map(
    formulas.mrp_of_matrix, formulas.mrp_of_matrix_derivative, inputs={"matrix": _MATRIX}, output=_VECTOR
)  # fmt: skip
_GIBBS_TO_QUATERNION = Map(
    formulas.quaternion_of_gibbs, formulas.quaternion_of_gibbs_derivative,
    inputs={"gibbs": _VECTOR}, output=_QUATERNION,
)  # fmt: skip
_QUATERNION_TO_GIBBS = Map(
    formulas.gibbs_of_quaternion, formulas.gibbs_of_quaternion_derivative,
    inputs={"quat": _QUATERNION}, output=_VECTOR,
)  # fmt: skip
_GIBBS_TO_MATRIX = Map(
    formulas.matrix_of_gibbs, formulas.matrix_of_gibbs_derivative, inputs={"gibbs": _VECTOR}, output=_MATRIX
)  # fmt: skip
_MATRIX_TO_GIBBS = Map(
    formulas.gibbs_of_matrix, formulas.gibbs_of_matrix_derivative, inputs={"matrix": _MATRIX}, output=_VECTOR
)  # fmt: skip

# Largest component of a Gibbs vector. Its inverse is the error of a half turn, below rounding; the derivatives of
# longer ones would not fit the type.
_LONGEST_GIBBS = {torch.float16: 2.0**15, torch.bfloat16: 1e12, torch.float32: 1e12, torch.float64: 1e18}


def mrp_to_quaternion(mrp: Tensor, order: QuaternionOrder = "wxyz") -> Tensor:
    """Unit quaternion (1 - |p|^2, 2 p) / (1 + |p|^2) of modified Rodrigues parameters.

    Continuity: smooth everywhere. p and its shadow -p / |p|^2, beyond the unit sphere, are the same rotation with
    opposite quaternions; the real part is negative for |p| > 1, and p = infinity, which is not reached, is -1.

    Args:
        mrp: (..., 3), of any length.
        order: "wxyz" (real part first) or "xyzw".
    Returns:
        (..., 4).
    Raises:
        TypeError: `mrp` is not a floating point tensor.
        ValueError: wrong shape or unknown order.
    Reference: Schaub and Junkins, "Stereographic orientation parameters for attitude dynamics", 1996.

    >>> mrp_to_quaternion(torch.tensor([1.0, 0.0, 0.0]))
    tensor([0., 1., 0., 0.])
    """
    return _MRP_TO_QUATERNION(mrp, store=_columns(order))


def quaternion_to_mrp(quat: Tensor, order: QuaternionOrder = "wxyz") -> Tensor:
    """Modified Rodrigues parameters of a quaternion of any nonzero length: those of the two sets with |p| <= 1.

    Continuity: p jumps to its shadow, -p, where the angle passes pi; at a half turn the first nonzero component is
    positive. There is no other singularity.

    Args:
        quat: (..., 4). q and -q give the same answer; 0 gives 0, with gradient 0.
        order: "wxyz" (real part first) or "xyzw".
    Returns:
        (..., 3), tan(angle / 4) times the axis.
    Raises:
        TypeError: `quat` is not a floating point tensor.
        ValueError: wrong shape or unknown order.

    >>> quaternion_to_mrp(torch.tensor([0.0, 0.0, 2.0, 0.0]))
    tensor([0., 1., 0.])
    """
    return _QUATERNION_TO_MRP(quat, load=(_columns(order),))


def mrp_to_matrix(mrp: Tensor) -> Tensor:
    """Rotation matrix of modified Rodrigues parameters.

    Continuity: smooth everywhere; two vectors, p and -p / |p|^2, give each rotation, 0 and infinity the identity. The
    gradient falls like 1 / |p|^2 far from 0.

    Args:
        mrp: (..., 3), of any length.
    Returns:
        (..., 3, 3).
    Raises:
        TypeError: `mrp` is not a floating point tensor.
        ValueError: wrong shape.

    >>> mrp_to_matrix(torch.tensor([0.0, 0.0, 1.0])).diagonal()
    tensor([-1., -1.,  1.])
    """
    return _MRP_TO_MATRIX(mrp)


def matrix_to_mrp(matrix: Tensor) -> Tensor:
    """Modified Rodrigues parameters of a rotation matrix: those of the two sets with |p| <= 1.

    Continuity: p jumps to its shadow, -p, where the angle passes pi; at a half turn the first nonzero component is
    positive. There is no other singularity.

    Args:
        matrix: (..., 3, 3), a rotation.
    Returns:
        (..., 3), tan(angle / 4) times the axis.
    Raises:
        TypeError: `matrix` is not a floating point tensor.
        ValueError: wrong shape.

    >>> matrix_to_mrp(torch.diag(torch.tensor([-1.0, -1.0, 1.0])))
    tensor([0., 0., 1.])
    """
    return _MATRIX_TO_MRP(matrix)


def gibbs_to_quaternion(gibbs: Tensor, order: QuaternionOrder = "wxyz") -> Tensor:
    """Unit quaternion (1, c) / sqrt(1 + |c|^2) of a Gibbs vector.

    Continuity: smooth everywhere. A half turn is reached only in the limit of infinite length.

    Args:
        gibbs: (..., 3), of any length.
        order: "wxyz" (real part first) or "xyzw".
    Returns:
        (..., 4), real part positive.
    Raises:
        TypeError: `gibbs` is not a floating point tensor.
        ValueError: wrong shape or unknown order.

    >>> gibbs_to_quaternion(torch.tensor([0.0, 0.75, 0.0]))
    tensor([0.8000, 0.0000, 0.6000, 0.0000])
    """
    return _GIBBS_TO_QUATERNION(gibbs, store=_columns(order))


def quaternion_to_gibbs(quat: Tensor, order: QuaternionOrder = "wxyz") -> Tensor:
    """Gibbs vector q_v / w of a quaternion of any nonzero length.

    Continuity: unbounded; it runs to infinity and comes back from the other side where the angle passes pi. Instead of
    infinity, a half turn gives a vector whose largest component is 1e12 in size (float64: 1e18, float16: 2^15), so that
    the way back is exact to rounding; the first nonzero component of w, x, y, z counts as positive. The gradient grows
    like 1 / w^2; it is 0 on what was limited and within 1e-12 of a half turn (of a unit quaternion).

    Args:
        quat: (..., 4). q and -q give the same answer; 0 gives 0, with gradient 0.
        order: "wxyz" (real part first) or "xyzw".
    Returns:
        (..., 3), tan(angle / 2) times the axis.
    Raises:
        TypeError: `quat` is not a floating point tensor.
        ValueError: wrong shape or unknown order.

    >>> quaternion_to_gibbs(torch.tensor([2.0, 0.0, 1.0, 0.0]))
    tensor([0.0000, 0.5000, 0.0000])
    """
    return _QUATERNION_TO_GIBBS(quat, load=(_columns(order),), parameters=_gibbs_limit(quat))


def gibbs_to_matrix(gibbs: Tensor) -> Tensor:
    """Rotation matrix of a Gibbs vector: Cayley's transform (I - [c]x)^-1 (I + [c]x).

    Continuity: smooth everywhere and one to one; half turns are reached only in the limit of infinite length. The
    gradient falls like 1 / |c| far from 0.

    Args:
        gibbs: (..., 3), of any length.
    Returns:
        (..., 3, 3).
    Raises:
        TypeError: `gibbs` is not a floating point tensor.
        ValueError: wrong shape.

    >>> gibbs_to_matrix(torch.tensor([0.0, 0.0, 1.0]))
    tensor([[ 0., -1.,  0.],
            [ 1.,  0.,  0.],
            [ 0.,  0.,  1.]])
    """
    return _GIBBS_TO_MATRIX(gibbs)


def matrix_to_gibbs(matrix: Tensor) -> Tensor:
    """Gibbs vector of a rotation matrix, [c]x = (R - I) (R + I)^-1.

    Continuity: unbounded; it runs to infinity and comes back from the other side where the angle passes pi. Instead of
    infinity, a half turn gives a vector whose largest component is 1e12 in size (float64: 1e18, float16: 2^15), so that
    the way back is exact to rounding; the first nonzero component of the axis counts as positive. The gradient grows
    like 1 / cos(angle / 2)^2; it is 0 on what was limited and where the cosine is below 1e-12.

    Args:
        matrix: (..., 3, 3), a rotation.
    Returns:
        (..., 3), tan(angle / 2) times the axis.
    Raises:
        TypeError: `matrix` is not a floating point tensor.
        ValueError: wrong shape.

    >>> matrix_to_gibbs(torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    tensor([0., 0., 1.])
    """
    return _MATRIX_TO_GIBBS(matrix, parameters=_gibbs_limit(matrix))


def axis_angle4_to_matrix(vector: Tensor) -> Tensor:
    """Rotation matrix of four numbers, an angle and an axis of any length: angle pi tanh(a), axis (x, y, z).

    Continuity: smooth but where the axis is 0, which gives the identity, with gradient 0. At angle 0 the axis has no
    gradient; half turns are reached only in the limit. It is here to reproduce the paper, not to be predicted.

    Args:
        vector: (..., 4), as a, x, y, z.
    Returns:
        (..., 3, 3).
    Raises:
        TypeError: `vector` is not a floating point tensor.
        ValueError: wrong shape.
    Reference: Zhou et al., "On the Continuity of Rotation Representations in Neural Networks", CVPR 2019, code.

    >>> axis_angle4_to_matrix(torch.tensor([0.0, 0.0, 0.0, 5.0])).diagonal()
    tensor([1., 1., 1.])
    """
    require_floating("vector", vector)
    require_shape("vector", vector, ..., 4)
    wide = upcast(vector)
    _, axis = _length_and_direction(wide[..., 1:])
    return axis_angle_to_matrix(torch.pi * wide[..., :1].tanh() * axis).to(vector.dtype)


def matrix_to_axis_angle4(matrix: Tensor) -> Tensor:
    """Four numbers of a rotation matrix: artanh(angle / pi) and the unit axis, the inverse of `axis_angle4_to_matrix`.

    Continuity: the axis jumps where the angle passes pi and has no limit at angle 0. The identity gets the first axis,
    with gradient 0. A half turn, whose first number would be infinite, gets that of the next smaller fraction of pi
    (8.3 in float32, 18.4 in float64), with gradient 0, so that the way back is exact to rounding.

    Args:
        matrix: (..., 3, 3), a rotation.
    Returns:
        (..., 4), as a, x, y, z, with a >= 0.
    Raises:
        TypeError: `matrix` is not a floating point tensor.
        ValueError: wrong shape.

    >>> matrix_to_axis_angle4(torch.eye(3))
    tensor([0., 1., 0., 0.])
    """
    require_floating("matrix", matrix)
    require_shape("matrix", matrix, ..., 3, 3)
    angle, axis = _length_and_direction(matrix_to_axis_angle(upcast(matrix)))
    fraction = angle / torch.pi
    largest = 1 - torch.finfo(fraction.dtype).eps
    size = torch.where(fraction > largest, largest, fraction).atanh()
    first = torch.cat([torch.ones_like(fraction), torch.zeros_like(axis[..., 1:])], -1)
    return torch.cat([size, torch.where(fraction == 0, first, axis)], -1).to(matrix.dtype)


def _length_and_direction(vector: Tensor) -> tuple[Tensor, Tensor]:
    """(..., 1) and (..., n), without gradient where the vector is too short to have one; 0 has direction 0."""
    largest = largest_component(vector)
    scaled = torch.where(largest > SHORTEST, vector, vector.detach()) / largest
    length = safe_norm(scaled)[..., None]
    return length * largest, scaled / torch.where(length == 0, 1, length)


def _gibbs_limit(tensor: Tensor) -> tuple[float, ...]:
    """Largest component of a Gibbs vector of the dtype; what is no float is refused by the map."""
    return (_LONGEST_GIBBS.get(getattr(tensor, "dtype", torch.float32), 1.0),)


def _columns(order: str) -> Columns | None:
    """Where the components w, x, y, z stand."""
    require_choice("order", order, ("wxyz", "xyzw"))
    return None if order == "wxyz" else (3, 0, 1, 2)
