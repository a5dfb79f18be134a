"""Continuous representations of rotations, orthogonal matrices and similarities in any number of dimensions.

A rotation of n dimensions is encoded by its first n - 1 columns, n**2 - n numbers, or by n**2 - 2 n + 2 numbers after
stereographic projections; Gram-Schmidt decodes any such numbers, so that a network can be trained on them. For n = 3
these are the 6D and, up to constant factors, the 5D representation. Exponential and Cayley maps are in `skew`.

Reference: Zhou et al., "On the continuity of rotation representations in neural networks", CVPR 2019, section 4.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from .checks import require_floating, require_shape
from .numerics import largest_component, matmul, safe_norm, upcast
from .polar import require_square
from .so3 import ROTATION_TOLERANCE
from .vectors import SHORTEST

# A column whose part outside the span of the columns before it is smaller than this times eps is noise.
_NOISE = 32
# Shortest and longest stereographic vector that still moves the scalar it encodes; the square of either fits float32.
_NEAREST_POLE, _FARTHEST_POLE = 1e-9, 1e18


def gram_schmidt(vectors: Tensor) -> Tensor:
    """Orthonormal columns with the same growing spans: column i depends on columns up to i, and has their orientation.

    Continuous and smooth while the columns are linearly independent. A column that is 0, or within rounding of the span
    of those before it, is replaced by the coordinate axis least represented in that span, made orthogonal to it; the
    column itself then gets gradient 0. Columns of any length are decoded, but get gradient 0 below length 1e-18.

    Args:
        vectors: (..., n, k), k <= n columns.
    Returns:
        (..., n, k), orthonormal to rounding for every finite input.
    Raises:
        TypeError: `vectors` is not a floating point tensor.
        ValueError: more columns than rows, n < 2, or no column.
    Reference: Giraud, Langou, Rozloznik, "The loss of orthogonality in the Gram-Schmidt orthogonalization process",
    2005: projecting twice is enough.

    >>> gram_schmidt(torch.tensor([[3.0, 1.0], [0.0, 1.0], [0.0, 0.0]]))
    tensor([[1., 0.],
            [0., 1.],
            [0., 0.]])
    """
    require_floating("vectors", vectors)
    require_shape("vectors", vectors, ..., "n", "k")
    n, k = vectors.shape[-2:]
    if not 1 <= k <= n or n < 2:
        raise ValueError(f"vectors: expected shape (..., n, k) with n >= 2 and 1 <= k <= n, got {tuple(vectors.shape)}")
    return _orthonormal(upcast(vectors)).to(vectors.dtype)


def generalized_cross(vectors: Tensor) -> Tensor:
    """The vector orthogonal to n - 1 others, as long as the volume they span: det [v_1 ... v_(n-1) x] = cross . x.

    It turns (x, y) to (-y, x), and is the cross product for n = 3. A polynomial, smooth everywhere, 0 where the vectors
    are linearly dependent. It holds 2**n numbers in memory, so n should not go much beyond 12.

    Args:
        vectors: (..., n, n - 1) columns.
    Returns:
        (..., n), of the size of the product of the lengths, which must fit the dtype.
    Raises:
        TypeError: `vectors` is not a floating point tensor.
        ValueError: wrong shape, or n < 2.
    Reference: Zhou et al., CVPR 2019, equation 16; the cofactors of the missing column.

    >>> generalized_cross(torch.tensor([[3.0], [4.0]]))
    tensor([-4.,  3.])
    """
    require_floating("vectors", vectors)
    if vectors.ndim < 2 or vectors.shape[-2] < 2 or vectors.shape[-1] != vectors.shape[-2] - 1:
        raise ValueError(f"vectors: expected shape (..., n, n - 1) with n >= 2, got {tuple(vectors.shape)}")
    v = upcast(vectors)
    n = v.shape[-2]
    # Minors of the first j columns for every set of j rows, by expansion along column j.
    minors = torch.ones_like(v[..., 0, :1])
    for j in range(1, n):
        smaller = {rows: i for i, rows in enumerate(itertools.combinations(range(n), j - 1))}
        larger = list(itertools.combinations(range(n), j))
        rest = [[smaller[rows[:i] + rows[i + 1 :]] for i in range(j)] for rows in larger]
        signs = torch.tensor([(-1.0) ** (i + j - 1) for i in range(j)], dtype=v.dtype, device=v.device)
        rest_index, row_index = torch.tensor(rest, device=v.device), torch.tensor(larger, device=v.device)
        minors = (signs * v[..., j - 1][..., row_index] * minors[..., rest_index]).sum(-1)
    # Sets of n - 1 rows in lexicographic order leave out the last row first.
    signs = torch.tensor([(-1.0) ** (n - 1 - i) for i in range(n)], dtype=v.dtype, device=v.device)
    return (signs * minors.flip(-1)).to(vectors.dtype)


def so_n_to_matrix(x: Tensor, n: int, *, reduced: bool = False) -> Tensor:
    """Rotation of n dimensions from n**2 - n or n**2 - 2 n + 2 numbers, by Gram-Schmidt.

    Degenerate, but decoded to a rotation, where the columns are linearly dependent (see `gram_schmidt`). The reduced
    form also loses its gradient, of size 1 / length**2, where one of its vectors is shorter than 1e-9.

    Args:
        x: (..., n**2 - n), the first n - 1 columns one after the other, of any length; for n = 3 the 6D representation.
            Reduced: (..., n**2 - 2 n + 2), see `matrix_to_so_n`; for n = 3 the 5D representation without its constant
            factors k, so that this function of (a, b, k c) is the 5D map of (a, b, c).
        n: at least 2.
        reduced: which of the two forms.
    Returns:
        (..., n, n).
    Raises:
        TypeError: `x` is not a floating point tensor.
        ValueError: wrong number of components for n, or n < 2.
    Reference: Zhou et al., CVPR 2019, section 4.1 and 4.2.

    >>> so_n_to_matrix(torch.tensor([0.0, 2.0]), 2)
    tensor([[ 0., -1.],
            [ 1., -0.]])
    """
    _require_components("x", x, n, _dimension(n, reduced))
    return _decoded(upcast(x), n, reduced).to(x.dtype)


def matrix_to_so_n(matrix: Tensor, *, reduced: bool = False) -> Tensor:
    """The continuous encoding of a rotation of n dimensions that `so_n_to_matrix` inverts.

    Args:
        matrix: (..., n, n), a rotation.
        reduced: project stereographically. Column j = 2 ... n - 1 takes up the entry z of the first column in row
            n + 2 - j: it becomes column * (z + sqrt(1 + z**2)), and the entry is left out.
    Returns:
        (..., n**2 - n), the first n - 1 columns one after the other; or (..., n**2 - 2 n + 2), the first two entries
        of the first column, then the n - 2 projected columns. Scaled by no constants, unlike the 5D representation.
    Raises:
        TypeError: `matrix` is not a floating point tensor.
        ValueError: not square, or n < 2.
    Reference: Zhou et al., CVPR 2019, section 4.1 and 4.2.

    >>> matrix_to_so_n(torch.eye(3))
    tensor([1., 0., 0., 0., 1., 0.])
    """
    n = require_square("matrix", matrix)
    if not reduced:
        return matrix[..., : n - 1].mT.flatten(-2)
    m = upcast(matrix)
    z = m[..., 2:, 0].flip(-1)[..., None, :]
    projected = m[..., 1 : n - 1] * (z + (1 + z.square()).sqrt())
    return torch.cat([m[..., :2, 0], projected.mT.flatten(-2)], -1).to(matrix.dtype)


def o_n_to_matrix(x: Tensor, n: int, *, reduced: bool = False) -> Tensor:
    """Orthogonal matrix of n dimensions, reflections included: a rotation and a sign.

    Args:
        x: (..., n**2 - n + 1) or, reduced, (..., n**2 - 2 n + 3): the numbers of `so_n_to_matrix`, then one whose sign
            is that of the determinant; 0 counts as positive. It gets gradient 0, as O(n) falls into two parts.
        n: at least 2.
        reduced: which of the two forms.
    Returns:
        (..., n, n), the rotation with its last column times the sign.
    Raises:
        TypeError: `x` is not a floating point tensor.
        ValueError: wrong number of components for n, or n < 2.
    Reference: Zhou et al., CVPR 2019, section 4.

    >>> o_n_to_matrix(torch.tensor([1.0, 0.0, -0.3]), 2)
    tensor([[ 1., -0.],
            [ 0., -1.]])
    """
    _require_components("x", x, n, _dimension(n, reduced) + 1)
    wide = upcast(x)
    rotation = _decoded(wide[..., :-1], n, reduced)
    sign = _sign(wide[..., -1])[..., None, None]
    return torch.cat([rotation[..., :-1], sign * rotation[..., -1:]], -1).to(x.dtype)


def matrix_to_o_n(matrix: Tensor, *, reduced: bool = False) -> Tensor:
    """The encoding of an orthogonal matrix of n dimensions that `o_n_to_matrix` inverts, continuous on each part.

    Args:
        matrix: (..., n, n), orthogonal.
        reduced: which of the two forms of `matrix_to_so_n`.
    Returns:
        (..., n**2 - n + 1) or (..., n**2 - 2 n + 3): the numbers of `matrix_to_so_n`, then 1 or -1, the determinant.
    Raises:
        TypeError: `matrix` is not a floating point tensor.
        ValueError: not square, or n < 2.
    Reference: Zhou et al., CVPR 2019, section 4.

    >>> matrix_to_o_n(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
    tensor([ 1.,  0., -1.])
    """
    encoded = matrix_to_so_n(matrix, reduced=reduced)
    sign = _sign(torch.linalg.det(upcast(matrix.detach())))
    return torch.cat([encoded, sign[..., None].to(matrix.dtype)], -1)


def similarity_to_matrix(x: Tensor, n: int) -> Tensor:
    """Scale times rotation of n dimensions, from as many numbers as the rotation alone takes.

    Args:
        x: (..., n**2 - n), n - 1 columns one after the other. The length of the first is the scale; Gram-Schmidt turns
            all into the rotation, so that the lengths of the others do not matter.
        n: at least 2.
    Returns:
        (..., n, n), s R with s >= 0. Where the first column is 0 so is the result.
    Raises:
        TypeError: `x` is not a floating point tensor.
        ValueError: wrong number of components for n, or n < 2.
    Reference: Zhou et al., CVPR 2019, appendix; for n = 3 the 6D representation, scaled.

    >>> similarity_to_matrix(torch.tensor([0.0, 2.0]), 2)
    tensor([[ 0., -2.],
            [ 2., -0.]])
    """
    _require_components("x", x, n, n * n - n)
    wide = upcast(x)
    scale = safe_norm(wide[..., :n])[..., None, None]
    return (scale * _decoded(wide, n, reduced=False)).to(x.dtype)


def matrix_to_similarity(matrix: Tensor) -> Tensor:
    """The continuous encoding of scale times rotation that `similarity_to_matrix` inverts.

    Args:
        matrix: (..., n, n), s R with s > 0.
    Returns:
        (..., n**2 - n), the first n - 1 columns one after the other.
    Raises:
        TypeError: `matrix` is not a floating point tensor.
        ValueError: not square, or n < 2.
    Reference: Zhou et al., CVPR 2019, appendix.

    >>> matrix_to_similarity(2 * torch.eye(2))
    tensor([2., 0.])
    """
    return matrix_to_so_n(matrix)


def is_orthogonal(matrix: Tensor, *, tolerance: float | None = None) -> Tensor:
    """Whether the columns of each matrix are orthonormal, of any size and either determinant.

    Args:
        matrix: (..., n, n).
        tolerance: largest allowed entry of |R^T R - I|; by default what rounding a rotation to the dtype explains, for
            n up to 3: 1e-14 (float64), 3e-6 (float32), 4e-3 (float16), 3e-2 (bfloat16). It grows like n beyond.
    Returns:
        (...), bool; False where the matrix holds NaN.
    Raises:
        TypeError: `matrix` is not a floating point tensor.
        ValueError: not square, or n < 2.

    >>> is_orthogonal(torch.stack([torch.eye(4), -torch.eye(4), 2 * torch.eye(4)]))
    tensor([ True,  True, False])
    """
    n = require_square("matrix", matrix)
    limit = ROTATION_TOLERANCE[matrix.dtype] * max(1, n / 3) if tolerance is None else tolerance
    m = upcast(matrix.detach())
    deviation = (matmul(m.mT, m) - torch.eye(n, dtype=m.dtype, device=m.device)).abs().amax((-2, -1))
    return deviation <= limit


def _dimension(n: int, reduced: bool) -> int:
    """How many numbers `so_n_to_matrix` takes."""
    return n * n - 2 * n + 2 if reduced else n * n - n


def _require_components(name: str, value: Tensor, n: int, components: int) -> None:
    """Check a floating point tensor (..., components) that stands for a matrix of n dimensions."""
    if n < 2:
        raise ValueError(f"n: expected at least 2, got {n}")
    require_floating(name, value)
    require_shape(name, value, ..., components)


def _decoded(x: Tensor, n: int, reduced: bool) -> Tensor:
    """Rotation (..., n, n) from the numbers of `so_n_to_matrix`, in their precision."""
    if not reduced:
        return _completed(_orthonormal(x.unflatten(-1, (n - 1, n)).mT))
    projected = x[..., 2:].unflatten(-1, (n - 2, n))  # (..., n - 2, n), one column of the rotation a row
    # Clamping stops the gradient where 1 / length**2 would overflow, and keeps NaN.
    length = safe_norm(projected).clamp(_NEAREST_POLE, _FARTHEST_POLE)
    z = (length - 1 / length) / 2
    first = torch.cat([x[..., :2], z.flip(-1)], -1)
    return _completed(_orthonormal(torch.cat([first[..., None], projected.mT], -1)))


def _orthonormal(vectors: Tensor) -> Tensor:
    """Gram-Schmidt of the columns of (..., n, k), in their precision."""
    n, k = vectors.shape[-2:]
    limit = max(_NOISE, 4 * n) * torch.finfo(vectors.dtype).eps
    # A column's length does not matter, so it can be divided by a constant.
    size = largest_component(vectors.mT).mT
    scaled = torch.where(size > SHORTEST, vectors, vectors.detach()) / size
    basis = scaled[..., :0]
    for i in range(k):
        column = scaled[..., i : i + 1]
        residual = _rejected(column, basis)
        dependent = _length(residual.detach()) <= limit * _length(column.detach())
        chosen = torch.where(dependent, _least_represented(basis), residual)
        chosen = _rejected(chosen, basis)
        basis = torch.cat([basis, chosen / _length(chosen)], -1)
    return basis


def _completed(basis: Tensor) -> Tensor:
    """The rotation whose first n - 1 columns are the orthonormal (..., n, n - 1)."""
    # For orthonormal columns the generalised cross product is, up to its sign, the direction of any vector outside of
    # their span; the coordinate axis farthest from the span is at least 1 / sqrt(n) away from it.
    last = _rejected(_rejected(_least_represented(basis), basis), basis)
    last = last / _length(last)
    determinant = torch.linalg.det(torch.cat([basis, last], -1).detach())
    return torch.cat([basis, _sign(determinant)[..., None, None] * last], -1)


def _rejected(column: Tensor, basis: Tensor) -> Tensor:
    """Part of (..., n, 1) orthogonal to orthonormal columns."""
    return column - matmul(basis, matmul(basis.mT, column))


def _length(column: Tensor) -> Tensor:
    """Norm of a column (..., n, 1) whose square neither overflows nor vanishes, (..., 1, 1)."""
    return column.square().sum(-2, keepdim=True).sqrt()


def _least_represented(basis: Tensor) -> Tensor:
    """Coordinate axis (..., n, 1) farthest from the span of orthonormal columns; the first of several."""
    index = basis.detach().square().sum(-1).argmin(-1)
    return (torch.arange(basis.shape[-2], device=basis.device) == index[..., None]).to(basis.dtype)[..., None]


def _sign(value: Tensor) -> Tensor:
    """-1 for negative numbers, else 1, without gradient; NaN stays."""
    value = value.detach()
    return torch.where(value < 0, -1.0, torch.where(value.isnan(), torch.nan, 1.0)).to(value.dtype)
