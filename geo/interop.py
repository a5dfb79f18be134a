"""To and from other libraries: NumPy, SciPy, PyTorch3D, roma, Open3D and trimesh.

What needs no converter, and what does:

- NumPy arrays: `to_numpy`, `from_numpy`.
- Open3D and trimesh hold transforms as we do, x' = R x + t, but as float64 arrays: `transform_to_numpy`,
  `numpy_to_transform`. Their quaternions are real first, as ours.
- SciPy's `Rotation` is an object of its own: `matrix_to_scipy`, `quaternion_to_scipy` and back. Axis-angle, Euler
  angles and modified Rodrigues parameters are the same numbers in both.
- PyTorch3D's conversion functions have our conventions, except that its 6D is `layout="rows"`. Its `Transform3d` and
  cameras multiply rows from the right, x' = x R + t: `transform_to_pytorch3d`, `matrix_to_pytorch3d`,
  `transform_to_pytorch3d_camera` and back.
- roma's matrices and vectors are ours, its quaternions are `order="xyzw"`; its 6D is a (3, 2) matrix and its 10D
  follows the xyzw order: `rotation_6d_to_roma`, `rotation_10d_to_roma` and back.

None of these libraries is imported before it is asked for. What takes and returns tensors is differentiable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .checks import require_choice, require_floating, require_shape
from .quaternion import quaternion_wxyz_to_xyzw, quaternion_xyzw_to_wxyz
from .rigid import make_transform
from .so3 import QuaternionOrder, matrix_to_quaternion, quaternion_to_matrix

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from scipy.spatial.transform import Rotation

# Where the entries of roma's symmetric matrix, for quaternions (x, y, z, w), stand in ours, for (w, x, y, z), and the
# reverse; both list the lower triangle column by column.
_TEN_TO_ROMA = (4, 5, 6, 1, 7, 8, 2, 9, 3, 0)
_TEN_FROM_ROMA = (9, 3, 6, 8, 0, 1, 2, 4, 5, 7)

# Largest deviation of the last row from (0, 0, 0, 1) that the rounding of somebody's inverse explains.
_LAST_ROW_TOLERANCE = 1e-6


def to_numpy(value: Tensor) -> NDArray[np.floating]:
    """Copy of a tensor as an array, without gradient, from any device.

    Args:
        value: (...).
    Returns:
        (...), of the same dtype; bfloat16, which NumPy lacks, becomes float32.
    Raises:
        TypeError: `value` is not a floating point tensor.

    >>> to_numpy(torch.eye(2, requires_grad=True))
    array([[1., 0.],
           [0., 1.]], dtype=float32)
    """
    require_floating("value", value)
    detached = value.detach().to(torch.float32 if value.dtype == torch.bfloat16 else value.dtype)
    return np.array(detached.cpu().resolve_neg().numpy(), order="C")


def from_numpy(
    array: ArrayLike, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Tensor:
    """Copy of an array as a tensor; read-only, reversed and byte-swapped arrays are welcome.

    Args:
        array: (...), or nested lists of numbers.
        dtype: of the result; that of `array` by default.
        device: of the result.
    Returns:
        (...).
    Raises:
        TypeError: `array` does not hold floating point numbers, or `dtype` is not a floating point type.

    >>> from_numpy(np.eye(2))
    tensor([[1., 0.],
            [0., 1.]], dtype=torch.float64)
    """
    values = np.asarray(array)
    if not np.issubdtype(values.dtype, np.floating):
        raise TypeError(f"array: expected floating point numbers, got {values.dtype}")
    _require_float_type(dtype)
    # PyTorch has no long double.
    native = np.float64 if values.dtype.itemsize > 8 else values.dtype.newbyteorder("=")
    return torch.from_numpy(np.array(values, dtype=native, order="C")).to(device=device, dtype=dtype)


def transform_to_numpy(transform: Tensor) -> NDArray[np.float64]:
    """Transforms as Open3D and trimesh take them: float64 arrays that act on columns.

    Args:
        transform: (..., 4, 4), named `T_target_source` by convention.
    Returns:
        (..., 4, 4), a copy without gradient.
    Raises:
        TypeError: `transform` is not a floating point tensor.
        ValueError: wrong shape.

    >>> transform_to_numpy(torch.eye(4))[3]
    array([0., 0., 0., 1.])
    """
    require_floating("transform", transform)
    require_shape("transform", transform, ..., 4, 4)
    return to_numpy(transform).astype(np.float64, copy=False)


def numpy_to_transform(
    array: ArrayLike, *, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None
) -> Tensor:
    """Transforms from Open3D, trimesh or a file: arrays that act on columns.

    Args:
        array: (..., 4, 4), last row (0, 0, 0, 1) up to 1e-6. Integers are welcome.
        dtype: of the result.
        device: of the result.
    Returns:
        (..., 4, 4).
    Raises:
        TypeError: `array` does not hold real numbers, or `dtype` is not a floating point type.
        ValueError: wrong shape, or another last row: the matrix acts on rows, then, or is a projection.

    >>> numpy_to_transform(np.eye(4))[3]
    tensor([0., 0., 0., 1.], dtype=torch.float64)
    """
    values = np.asarray(array)
    if not (np.issubdtype(values.dtype, np.floating) or np.issubdtype(values.dtype, np.integer)):
        raise TypeError(f"array: expected real numbers, got {values.dtype}")
    if values.shape[-2:] != (4, 4):
        raise ValueError(f"array: expected shape (..., 4, 4), got {values.shape}")
    deviation = np.abs(values[..., 3, :] - np.array([0.0, 0.0, 0.0, 1.0])).max(-1)
    # A row with NaN belongs to a transform that is not known, which is the caller's business.
    wrong = values[..., 3, :][deviation > _LAST_ROW_TOLERANCE]
    if len(wrong):
        raise ValueError(f"array: expected last rows (0, 0, 0, 1), got {tuple(wrong[0].tolist())}")
    return from_numpy(values.astype(np.float64), dtype=dtype, device=device)


def matrix_to_scipy(matrix: Tensor) -> Rotation:
    """SciPy's `Rotation` of rotation matrices.

    Goes through the quaternion in float64, which is what `Rotation` stores, and faster than `Rotation.from_matrix`.

    Args:
        matrix: (..., 3, 3), rotations. Before SciPy 1.17 a `Rotation` has at most one leading axis.
    Returns:
        `scipy.spatial.transform.Rotation` of shape (...), without gradient.
    Raises:
        TypeError: `matrix` is not a floating point tensor.
        ValueError: wrong shape.

    >>> float(matrix_to_scipy(torch.eye(3)).magnitude())
    0.0
    """
    require_floating("matrix", matrix)
    require_shape("matrix", matrix, ..., 3, 3)
    return quaternion_to_scipy(matrix_to_quaternion(matrix.detach().double()))


def scipy_to_matrix(
    rotation: Rotation, *, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None
) -> Tensor:
    """Rotation matrices of SciPy's `Rotation`.

    Args:
        rotation: `scipy.spatial.transform.Rotation` of shape (...).
        dtype: of the result.
        device: of the result.
    Returns:
        (..., 3, 3).
    Raises:
        TypeError: `rotation` is not a `Rotation`, or `dtype` is not a floating point type.

    >>> from scipy.spatial.transform import Rotation
    >>> scipy_to_matrix(Rotation.identity()).diagonal()
    tensor([1., 1., 1.], dtype=torch.float64)
    """
    _require_float_type(dtype)
    return quaternion_to_matrix(scipy_to_quaternion(rotation)).to(device=device, dtype=dtype)


def quaternion_to_scipy(quat: Tensor, order: QuaternionOrder = "wxyz") -> Rotation:
    """SciPy's `Rotation` of quaternions; their signs are kept.

    Args:
        quat: (..., 4), of any nonzero length. Before SciPy 1.17 a `Rotation` has at most one leading axis.
        order: "wxyz" (real part first) or "xyzw", of `quat`.
    Returns:
        `scipy.spatial.transform.Rotation` of shape (...), without gradient.
    Raises:
        TypeError: `quat` is not a floating point tensor.
        ValueError: wrong shape or unknown order; by SciPy, for a quaternion 0.

    >>> float(quaternion_to_scipy(torch.tensor([1.0, 0.0, 0.0, 0.0])).magnitude())
    0.0
    """
    from scipy.spatial.transform import Rotation

    require_floating("quat", quat)
    require_shape("quat", quat, ..., 4)
    return Rotation.from_quat(to_numpy(_reordered(quat.detach().double(), order, "xyzw")))


def scipy_to_quaternion(
    rotation: Rotation,
    order: QuaternionOrder = "wxyz",
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> Tensor:
    """Unit quaternions of SciPy's `Rotation`, with the signs they have there.

    Args:
        rotation: `scipy.spatial.transform.Rotation` of shape (...).
        order: "wxyz" (real part first) or "xyzw", of the result.
        dtype: of the result.
        device: of the result.
    Returns:
        (..., 4).
    Raises:
        TypeError: `rotation` is not a `Rotation`, or `dtype` is not a floating point type.
        ValueError: unknown order.

    >>> from scipy.spatial.transform import Rotation
    >>> scipy_to_quaternion(Rotation.identity())
    tensor([1., 0., 0., 0.], dtype=torch.float64)
    """
    from scipy.spatial.transform import Rotation

    if not isinstance(rotation, Rotation):
        raise TypeError(f"rotation: expected a scipy Rotation, got {type(rotation).__name__}")
    _require_float_type(dtype)
    quat = from_numpy(rotation.as_quat())
    return _reordered(quat, "xyzw", order).to(device=device, dtype=dtype)


def matrix_to_pytorch3d(matrix: Tensor) -> Tensor:
    """The matrix that PyTorch3D's cameras and `Rotate` take for a rotation: it acts on rows, x' = x R.

    Args:
        matrix: (..., 3, 3), acting on columns.
    Returns:
        (..., 3, 3), the transpose, as a view.
    Raises:
        TypeError: `matrix` is not a floating point tensor.
        ValueError: wrong shape.

    >>> matrix_to_pytorch3d(torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))[0]
    tensor([0., 1., 0.])
    """
    require_floating("matrix", matrix)
    require_shape("matrix", matrix, ..., 3, 3)
    return matrix.mT


def pytorch3d_to_matrix(rows: Tensor) -> Tensor:
    """The rotation matrix of the `R` of PyTorch3D's cameras, `look_at_rotation` and `Rotate`.

    Not for the results of its conversion functions, such as `quaternion_to_matrix`: those act on columns already.

    Args:
        rows: (..., 3, 3), acting on rows.
    Returns:
        (..., 3, 3), the transpose, as a view.
    Raises:
        TypeError: `rows` is not a floating point tensor.
        ValueError: wrong shape.

    >>> pytorch3d_to_matrix(torch.eye(3)).diagonal()
    tensor([1., 1., 1.])
    """
    require_floating("rows", rows)
    require_shape("rows", rows, ..., 3, 3)
    return rows.mT


def transform_to_pytorch3d(transform: Tensor) -> Tensor:
    """The matrix of PyTorch3D's `Transform3d`: it acts on rows, (x', 1) = (x, 1) M, the translation in its last row.

    Compositions turn around as well: what is `a @ b` for us is `Transform3d(b).compose(Transform3d(a))` there.

    Args:
        transform: (..., 4, 4), acting on columns.
    Returns:
        (..., 4, 4), the transpose, as a view. `Transform3d(matrix=...)` takes (4, 4) or (N, 4, 4).
    Raises:
        TypeError: `transform` is not a floating point tensor.
        ValueError: wrong shape.

    >>> shift = make_transform(torch.eye(3), torch.tensor([1.0, 2.0, 3.0]))
    >>> transform_to_pytorch3d(shift)[3]
    tensor([1., 2., 3., 1.])
    """
    require_floating("transform", transform)
    require_shape("transform", transform, ..., 4, 4)
    return transform.mT


def pytorch3d_to_transform(rows: Tensor) -> Tensor:
    """The transform of `Transform3d.get_matrix()`.

    Args:
        rows: (..., 4, 4), acting on rows.
    Returns:
        (..., 4, 4), the transpose, as a view.
    Raises:
        TypeError: `rows` is not a floating point tensor.
        ValueError: wrong shape.

    >>> pytorch3d_to_transform(torch.eye(4)).diagonal()
    tensor([1., 1., 1., 1.])
    """
    require_floating("rows", rows)
    require_shape("rows", rows, ..., 4, 4)
    return rows.mT


def transform_to_pytorch3d_camera(transform: Tensor) -> tuple[Tensor, Tensor]:
    """`R` and `T` of a PyTorch3D camera: x_camera = x_world R + T.

    Args:
        transform: (..., 4, 4), T_camera_world, rigid. The axes of the camera stay as they are: PyTorch3D's point left,
            up and forward, those of OpenCV right, down and forward.
    Returns:
        R (..., 3, 3) and T (..., 3), as views.
    Raises:
        TypeError: `transform` is not a floating point tensor.
        ValueError: wrong shape.

    >>> transform_to_pytorch3d_camera(make_transform(torch.eye(3), torch.tensor([1.0, 2.0, 3.0])))[1]
    tensor([1., 2., 3.])
    """
    require_floating("transform", transform)
    require_shape("transform", transform, ..., 4, 4)
    return transform[..., :3, :3].mT, transform[..., :3, 3]


def pytorch3d_camera_to_transform(rows: Tensor, translation: Tensor) -> Tensor:
    """T_camera_world of the `R` and `T` of a PyTorch3D camera.

    Args:
        rows: (..., 3, 3), `R`.
        translation: (..., 3), `T`, dtype of `rows`; leading axes broadcast.
    Returns:
        (..., 4, 4). The axes of the camera stay as they are.
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, two dtypes or devices, or leading axes that do not broadcast.

    >>> pytorch3d_camera_to_transform(torch.eye(3), torch.tensor([1.0, 2.0, 3.0]))[:, 3]
    tensor([1., 2., 3., 1.])
    """
    return make_transform(pytorch3d_to_matrix(rows), translation)


def rotation_6d_to_roma(vectors: Tensor) -> Tensor:
    """The 6D vector as the matrix that roma's `special_gramschmidt` takes, two vectors as columns.

    Args:
        vectors: (..., 6), layout "columns".
    Returns:
        (..., 3, 2), as a view.
    Raises:
        TypeError: `vectors` is not a floating point tensor.
        ValueError: wrong shape.

    >>> rotation_6d_to_roma(torch.arange(6.0))
    tensor([[0., 3.],
            [1., 4.],
            [2., 5.]])
    """
    require_floating("vectors", vectors)
    require_shape("vectors", vectors, ..., 6)
    return vectors.unflatten(-1, (2, 3)).mT


def roma_to_rotation_6d(columns: Tensor) -> Tensor:
    """The 6D vector, layout "columns", of the matrix that roma's `special_gramschmidt` takes.

    Args:
        columns: (..., 3, 2).
    Returns:
        (..., 6).
    Raises:
        TypeError: `columns` is not a floating point tensor.
        ValueError: wrong shape.

    >>> roma_to_rotation_6d(torch.tensor([[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]))
    tensor([0., 1., 2., 3., 4., 5.])
    """
    require_floating("columns", columns)
    require_shape("columns", columns, ..., 3, 2)
    return columns.mT.flatten(-2)


def rotation_10d_to_roma(vector: Tensor) -> Tensor:
    """The 10D vector as roma's `symmatrixvec_to_unitquat` takes it: the same matrix for quaternions (x, y, z, w).

    Args:
        vector: (..., 10), lower triangle for quaternions (w, x, y, z).
    Returns:
        (..., 10), lower triangle for quaternions (x, y, z, w).
    Raises:
        TypeError: `vector` is not a floating point tensor.
        ValueError: wrong shape.

    >>> rotation_10d_to_roma(torch.arange(10.0))
    tensor([4., 5., 6., 1., 7., 8., 2., 9., 3., 0.])
    """
    require_floating("vector", vector)
    require_shape("vector", vector, ..., 10)
    return vector[..., _TEN_TO_ROMA]


def roma_to_rotation_10d(vector: Tensor) -> Tensor:
    """The 10D vector of roma's: the same symmetric matrix for quaternions (w, x, y, z).

    Args:
        vector: (..., 10), lower triangle for quaternions (x, y, z, w).
    Returns:
        (..., 10), lower triangle for quaternions (w, x, y, z).
    Raises:
        TypeError: `vector` is not a floating point tensor.
        ValueError: wrong shape.

    >>> roma_to_rotation_10d(torch.arange(10.0))
    tensor([9., 3., 6., 8., 0., 1., 2., 4., 5., 7.])
    """
    require_floating("vector", vector)
    require_shape("vector", vector, ..., 10)
    return vector[..., _TEN_FROM_ROMA]


def _reordered(quat: Tensor, order: QuaternionOrder, wanted: QuaternionOrder) -> Tensor:
    """Quaternions of one order in the other."""
    for value in (order, wanted):
        require_choice("order", value, ("wxyz", "xyzw"))
    if order == wanted:
        return quat
    return quaternion_wxyz_to_xyzw(quat) if order == "wxyz" else quaternion_xyzw_to_wxyz(quat)


def _require_float_type(dtype: torch.dtype | None) -> None:
    if dtype is not None and not dtype.is_floating_point:
        raise TypeError(f"dtype: expected a floating point type, got {dtype}")
