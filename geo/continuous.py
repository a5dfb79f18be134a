"""Continuous representations of SO(3) for networks to predict: 6D, two vectors, 5D, 9D and 10D.

A representation is continuous if some continuous map takes rotations to it; for rotations in space that needs five
numbers or more (Zhou et al., "On the Continuity of Rotation Representations in Neural Networks", CVPR 2019). All maps
here accept any vector a network may put out. Where a map is not defined, they return the nearest sensible rotation,
always a proper one, and a finite gradient; `return_valid` says where that happened.
"""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from . import continuous_formulas as formulas
from . import procrustes_formulas
from .checks import require_choice, require_floating, require_shape
from .fused import Map
from .numerics import largest_component, upcast
from .procrustes import DAMPING, special_procrustes
from .so3 import QuaternionOrder, check_rotation, matrix_to_quaternion

SixLayout = Literal["columns", "rows", "interleaved"]
SixMethod = Literal["gram_schmidt", "two_vector"]

# Where the components of the first and of the second vector stand.
_SIX_COLUMNS = {"columns": None, "rows": None, "interleaved": (0, 2, 4, 1, 3, 5)}
# "rows" holds rows of the matrix in place of its columns: the same six numbers for the transposed matrix.
_TRANSPOSED = (0, 3, 6, 1, 4, 7, 2, 5, 8)
# Lower triangle of a symmetric 4x4 matrix, column by column.
_TRIANGLE_ROWS = (0, 1, 2, 3, 1, 2, 3, 2, 3, 3)
_TRIANGLE_COLUMNS = (0, 0, 0, 0, 1, 1, 1, 2, 2, 3)

_SIX = {
    "gram_schmidt": Map(
        formulas.gram_schmidt, formulas.gram_schmidt_derivative, inputs={"vectors": (6,)}, output=(3, 3)
    ),
    "two_vector": Map(formulas.two_vector, formulas.two_vector_derivative, inputs={"vectors": (6,)}, output=(3, 3)),
}
_FIVE = Map(formulas.five, formulas.five_derivative, inputs={"vector": (5,)}, output=(3, 3))
_FIVE_OF_MATRIX = Map(
    formulas.five_of_matrix, formulas.five_of_matrix_derivative, inputs={"matrix": (3, 3)}, output=(5,)
)
_TEN = Map(
    procrustes_formulas.nearest_rotation_of_ten,
    procrustes_formulas.nearest_rotation_of_ten_derivative,
    inputs={"vector": (10,)},
    output=(3, 3),
    double=True,
)


@overload
def rotation_6d_to_matrix(
    vectors: Tensor, layout: SixLayout = ..., method: SixMethod = ..., *, return_valid: Literal[False] = ...
) -> Tensor: ...


@overload
def rotation_6d_to_matrix(
    vectors: Tensor, layout: SixLayout = ..., method: SixMethod = ..., *, return_valid: Literal[True]
) -> tuple[Tensor, Tensor]: ...


def rotation_6d_to_matrix(
    vectors: Tensor, layout: SixLayout = "columns", method: SixMethod = "gram_schmidt", *, return_valid: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """Rotation matrix of two vectors in space, made orthonormal: the 6D representation.

    "gram_schmidt" is the published map: the first column along the first vector, the second in the half plane of the
    second. "two_vector" treats both alike: it bisects them, which is the nearest rotation to the two directions, and
    passes on less of the noise in them (5 against 6 times its variance).

    Continuous: `matrix_to_rotation_6d` is. Preimages are convex cones. Degenerate where a vector is 0 or the two are
    parallel up to 8 units of rounding: a zero vector is replaced by (1, 0, 0) (by (0, 1, 0), if it is the second one of
    "two_vector"), a parallel one by the coordinate axis farthest from the first. What was replaced gets gradient 0,
    as do vectors shorter than 1e-18; for "two_vector" both do where they are parallel. Otherwise the gradient grows
    like 1 / length and, near parallel, like 1 / sin(angle).

    Args:
        vectors: (..., 6), of any lengths.
        layout: "columns" is (r1, r2) of the paper; "rows", of PyTorch3D and many policies, the first two rows;
            "interleaved", of SPIN and the SMPL world, the first two columns read row by row. A vector in one layout
            decodes to a wrong rotation in another.
        method: "gram_schmidt" or "two_vector".
        return_valid: also tell where the vectors were not degenerate.
    Returns:
        (..., 3, 3), orthonormal to rounding; and a bool tensor (...) if `return_valid`.
    Raises:
        TypeError: `vectors` is not a floating point tensor.
        ValueError: wrong shape, unknown layout or method.
    Reference: Zhou et al., CVPR 2019, equation 15; Chandrasekhar, arXiv 2411.13109 (two vectors).

    >>> rotation_6d_to_matrix(torch.tensor([2.0, 0.0, 0.0, 1.0, 3.0, 0.0]))
    tensor([[1., 0., 0.],
            [0., 1., 0.],
            [0., 0., 1.]])
    """
    require_choice("layout", layout, tuple(_SIX_COLUMNS))
    require_choice("method", method, tuple(_SIX))
    eps = _rounding(vectors)
    store = _TRANSPOSED if layout == "rows" else None
    matrix = _SIX[method](vectors, load=(_SIX_COLUMNS[layout],), store=store, parameters=(eps,))
    if not return_valid:
        return matrix
    first, second = _two_vectors(upcast(vectors.detach()), layout)
    nonzero = (first != 0).any(-1) & (second != 0).any(-1)
    first, second = (v / largest_component(v) for v in (first, second))
    first, second = (v / v.square().sum(-1, keepdim=True).sqrt() for v in (first, second))
    return matrix, nonzero & (torch.linalg.cross(first, second, dim=-1).square().sum(-1) > (8 * eps) ** 2)


def matrix_to_rotation_6d(matrix: Tensor, layout: SixLayout = "columns", *, validate: bool = False) -> Tensor:
    """The 6D representation of a rotation: two of its columns, or rows.

    Args:
        matrix: (..., 3, 3).
        layout: as in `rotation_6d_to_matrix`.
        validate: raise unless every matrix is a rotation, see `check_rotation`.
    Returns:
        (..., 6).
    Raises:
        TypeError: `matrix` is not a floating point tensor.
        ValueError: wrong shape or unknown layout.

    >>> matrix_to_rotation_6d(torch.eye(3))
    tensor([1., 0., 0., 0., 1., 0.])
    """
    require_floating("matrix", matrix)
    require_shape("matrix", matrix, ..., 3, 3)
    require_choice("layout", layout, tuple(_SIX_COLUMNS))
    if validate:
        check_rotation(matrix)
    if layout == "rows":
        # A copy like the others, so that writing into it leaves the matrix alone.
        return matrix[..., :2, :].flatten(-2).clone()
    columns = matrix[..., :2]
    return columns.flatten(-2) if layout == "interleaved" else columns.mT.flatten(-2)


def rotation_5d_to_matrix(vector: Tensor) -> Tensor:
    """Rotation matrix of a 5D vector: the 6D map after a stereographic unprojection.

    Five numbers are the fewest a continuous representation can have. The price is distortion: the gradient grows like
    1 / p^2 for short last three components p, and in the paper 5D is never better than 6D.

    Continuous: `matrix_to_rotation_5d` is. Degenerate where the last three components are 0 (below 1e-12 only their
    direction counts and their gradient is 0, as above 1e12), and where the two columns they stand for are, as in 6D.

    Args:
        vector: (..., 5): two entries of the first column, then the second column scaled by a function of the third
            entry; each component of an encoded rotation spans [-1, 1].
    Returns:
        (..., 3, 3), orthonormal to rounding.
    Raises:
        TypeError: `vector` is not a floating point tensor.
        ValueError: wrong shape.
    Reference: Zhou et al., CVPR 2019, section 4.2; the scale constants are those of the released code.

    >>> rotation_5d_to_matrix(matrix_to_rotation_5d(torch.eye(3))).diagonal()
    tensor([1., 1., 1.])
    """
    return _FIVE(vector, parameters=(_rounding(vector),))


def matrix_to_rotation_5d(matrix: Tensor, *, validate: bool = False) -> Tensor:
    """The 5D representation of a rotation.

    Args:
        matrix: (..., 3, 3), a rotation.
        validate: raise unless every matrix is a rotation, see `check_rotation`.
    Returns:
        (..., 5), components in [-1, 1].
    Raises:
        TypeError: `matrix` is not a floating point tensor.
        ValueError: wrong shape.

    >>> matrix_to_rotation_5d(torch.eye(3))
    tensor([1.0000, 0.0000, 0.0000, 0.4142, 0.0000])
    """
    return _FIVE_OF_MATRIX(check_rotation(matrix) if validate else matrix)


def rotation_9d_to_matrix(vector: Tensor, *, regularization: float = 0.0, gradient_eps: float | None = None) -> Tensor:
    """Rotation nearest to nine numbers read as a matrix: `special_procrustes` as a representation.

    Continuous, with convex preimages; the most accurate choice in most published comparisons. Degenerate where the two
    smallest signed singular values add up to 0, see `special_procrustes`.

    Args:
        vector: (..., 9), row by row.
        regularization: as in `special_procrustes`.
        gradient_eps: as in `special_procrustes`.
    Returns:
        (..., 3, 3).
    Raises:
        TypeError: `vector` is not a floating point tensor.
        ValueError: wrong shape.
    Reference: Levinson et al., "An Analysis of SVD for Deep Rotation Estimation", NeurIPS 2020.

    >>> rotation_9d_to_matrix(torch.tensor([2.0, 0, 0, 0, 2, 0, 0, 0, 2])).diagonal()
    tensor([1., 1., 1.])
    """
    require_floating("vector", vector)
    require_shape("vector", vector, ..., 9)
    return special_procrustes(vector.unflatten(-1, (3, 3)), regularization, gradient_eps)


def matrix_to_rotation_9d(matrix: Tensor) -> Tensor:
    """The nine entries of a rotation, row by row.

    Args:
        matrix: (..., 3, 3).
    Returns:
        (..., 9).
    Raises:
        TypeError: `matrix` is not a floating point tensor.
        ValueError: wrong shape.

    >>> matrix_to_rotation_9d(torch.eye(3))
    tensor([1., 0., 0., 0., 1., 0., 0., 0., 1.])
    """
    require_floating("matrix", matrix)
    require_shape("matrix", matrix, ..., 3, 3)
    return matrix.flatten(-2).clone()


@overload
def rotation_10d_to_matrix(
    vector: Tensor, *, gradient_eps: float | None = ..., return_dispersion: Literal[False] = ...
) -> Tensor: ...


@overload
def rotation_10d_to_matrix(
    vector: Tensor, *, gradient_eps: float | None = ..., return_dispersion: Literal[True]
) -> tuple[Tensor, Tensor]: ...


def rotation_10d_to_matrix(
    vector: Tensor, *, gradient_eps: float | None = None, return_dispersion: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """Rotation whose quaternion is the eigenvector of the smallest eigenvalue of a symmetric 4x4 matrix.

    The matrix A is a belief over rotations, the Bingham density exp(-q^T A q), and its dispersion says how certain the
    belief is. As a map it is special Procrustes of a fixed linear image of A, and one of the ten numbers does nothing.

    Continuous, with convex preimages. Degenerate where the two smallest eigenvalues are equal: then an optimal rotation
    with a bounded gradient, as in `special_procrustes`.

    Args:
        vector: (..., 10), the lower triangle of A column by column, quaternions real first:
            A00, A10, A20, A30, A11, A21, A31, A22, A32, A33.
        gradient_eps: as in `special_procrustes`.
        return_dispersion: also return 3 l1 - l2 - l3 - l4 of the eigenvalues in ascending order, without gradient;
            the more negative, the more certain.
    Returns:
        (..., 3, 3), and the dispersion (...) if asked for.
    Raises:
        TypeError: `vector` is not a floating point tensor.
        ValueError: wrong shape.
    Reference: Peretroukhin et al., "A Smooth Representation of Belief over SO(3)", RSS 2020.

    >>> rotation_10d_to_matrix(torch.tensor([-1.0, 0, 0, 0, 0, 0, 0, 0, 0, 0])).diagonal()
    tensor([1., 1., 1.])
    """
    matrix = _TEN(vector, parameters=(DAMPING if gradient_eps is None else gradient_eps,))
    if not return_dispersion:
        return matrix
    # The rotation's quaternion gives the smallest eigenvalue, and the eigenvalues add up to the trace.
    belief = symmetric_from_10d(upcast(vector.detach()))
    quat = matrix_to_quaternion(upcast(matrix.detach()))
    smallest = (quat[..., :, None] * belief * quat[..., None, :]).sum((-2, -1))
    return matrix, (4 * smallest - belief.diagonal(dim1=-2, dim2=-1).sum(-1)).to(vector.dtype)


def rotation_10d_to_quaternion(vector: Tensor, order: QuaternionOrder = "wxyz") -> Tensor:
    """Unit quaternion of a 10D vector, real part not negative: `rotation_10d_to_matrix` as a quaternion.

    Args:
        vector: (..., 10).
        order: "wxyz" (real part first) or "xyzw".
    Returns:
        (..., 4).
    Raises:
        TypeError: `vector` is not a floating point tensor.
        ValueError: wrong shape or unknown order.

    >>> rotation_10d_to_quaternion(torch.tensor([-1.0, 0, 0, 0, 0, 0, 0, 0, 0, 0]))
    tensor([1., 0., 0., 0.])
    """
    require_floating("vector", vector)
    matrix = _TEN(upcast(vector), parameters=(DAMPING,))
    return matrix_to_quaternion(matrix, order).to(vector.dtype)


def matrix_to_rotation_10d(matrix: Tensor) -> Tensor:
    """The 10D representation of a rotation: minus q q^T, which does not see the sign of the quaternion.

    Args:
        matrix: (..., 3, 3), a rotation.
    Returns:
        (..., 10).
    Raises:
        TypeError: `matrix` is not a floating point tensor.
        ValueError: wrong shape.

    >>> matrix_to_rotation_10d(torch.eye(3))[0]
    tensor(-1.)
    """
    quat = matrix_to_quaternion(matrix, canonical=False)
    return -(quat[..., _TRIANGLE_ROWS] * quat[..., _TRIANGLE_COLUMNS])


def symmetric_from_10d(vector: Tensor) -> Tensor:
    """The symmetric 4x4 matrix of a 10D vector.

    Args:
        vector: (..., 10).
    Returns:
        (..., 4, 4).
    Raises:
        TypeError: `vector` is not a floating point tensor.
        ValueError: wrong shape.

    >>> symmetric_from_10d(torch.arange(10.0))[0]
    tensor([0., 1., 2., 3.])
    """
    require_floating("vector", vector)
    require_shape("vector", vector, ..., 10)
    return vector[..., (0, 1, 2, 3, 1, 4, 5, 6, 2, 5, 7, 8, 3, 6, 8, 9)].unflatten(-1, (4, 4))


def _two_vectors(vectors: Tensor, layout: SixLayout) -> tuple[Tensor, Tensor]:
    """The two vectors (..., 3) of a checked 6D vector."""
    if layout == "interleaved":
        first, second = vectors.unflatten(-1, (3, 2)).unbind(-1)
    else:
        first, second = vectors.unflatten(-1, (2, 3)).unbind(-2)
    return first, second


def _rounding(vector: Tensor) -> float:
    """Rounding unit of what is computed with: float32 for half precision."""
    return torch.finfo(torch.float64 if vector.dtype == torch.float64 else torch.float32).eps
