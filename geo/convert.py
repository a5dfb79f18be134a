"""One function between any two representations of a rotation, by name, and the table of maps behind it.

The functions named `<from>_to_<to>` say at the point of use what they read; `convert` is for code that learns the names
from a configuration or a file.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .checks import require_choice, require_floating, require_shape
from .continuous import (
    matrix_to_rotation_5d,
    matrix_to_rotation_6d,
    matrix_to_rotation_9d,
    matrix_to_rotation_10d,
    rotation_5d_to_matrix,
    rotation_6d_to_matrix,
    rotation_9d_to_matrix,
    rotation_10d_to_matrix,
)
from .euler import euler_to_matrix, euler_to_quaternion, matrix_to_euler, quaternion_to_euler
from .numerics import upcast
from .planar import angle_to_vector, vector_to_angle
from .quaternion import (
    quaternion_normalize,
    quaternion_standardize,
    quaternion_wxyz_to_xyzw,
    quaternion_xyzw_to_wxyz,
)
from .rodrigues import (
    axis_angle4_to_matrix,
    gibbs_to_matrix,
    gibbs_to_quaternion,
    matrix_to_axis_angle4,
    matrix_to_gibbs,
    matrix_to_mrp,
    mrp_to_matrix,
    mrp_to_quaternion,
    quaternion_to_gibbs,
    quaternion_to_mrp,
)
from .so3 import (
    QuaternionOrder,
    axis_angle_to_matrix,
    axis_angle_to_quaternion,
    matrix_to_axis_angle,
    matrix_to_quaternion,
    quaternion_to_axis_angle,
    quaternion_to_matrix,
)


@dataclass(frozen=True)
class Maps:
    """The maps of one representation to and from the two hubs, and the names of the options they take."""

    # Not "-> Tensor": some can be asked to return a mask or a dispersion beside it.
    to_matrix: Callable[..., Any]
    from_matrix: Callable[..., Any]
    # Absent where the way leads through the matrix anyway. The quaternion is real first, from_quaternion takes either
    # sign and both directions take the options of the matrix.
    to_quaternion: Callable[..., Any] | None = None
    from_quaternion: Callable[..., Any] | None = None
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    required: tuple[str, ...] = ()


def convert(x: Tensor, src: str, dst: str, **options: Any) -> Tensor:
    """A rotation in another representation.

    The names are "matrix" (..., 3, 3), "quaternion", "axis_angle", "euler", "6d", "two_vector", "5d", "9d", "10d",
    "mrp", "gibbs", "axis_angle_4d", "euler_sincos", and their aliases (`representations`). The answer depends on the
    rotation only: it is the canonical one that `matrix_to_<dst>` would give, for a quaternion that with w >= 0, also
    where `src` and `dst` are the same.

    Args:
        x: in the representation `src`; what that has no rotation for is replaced as its own function says.
        src: what `x` is.
        dst: what is wanted.
        options: those of the two ends: order ("quaternion"), convention ("euler", "euler_sincos", no default), degrees
            ("euler"), layout ("6d", "two_vector"), method ("6d", of `src` only). One that both ends take needs a
            prefix, as in src_order="xyzw", dst_order="wxyz"; one that a single end takes may have it.
    Returns:
        (..., n) or (..., 3, 3), dtype of `x`; a Gibbs vector too long for a half precision is shortened to fit.
    Raises:
        TypeError: `x` is not a floating point tensor; an option that neither end takes, a missing one, or one that
            needs a prefix.
        ValueError: wrong shape, unknown representation or unknown value of an option.

    >>> convert(torch.tensor([0.0, 0.0, torch.pi / 2]), "axis_angle", "quaternion", order="xyzw")
    tensor([0.0000, 0.0000, 0.7071, 0.7071])
    >>> convert(torch.tensor([0.0, 0.0, 0.0, 1.0]), "quaternion", "quaternion", src_order="xyzw", dst_order="wxyz")
    tensor([1., 0., 0., 0.])
    >>> convert(torch.eye(3), "matrix", "euler", convention="ZYX", degree=True)
    Traceback (most recent call last):
    TypeError: degree: expected an option of "matrix" -> "euler" (convention, degrees), did you mean 'degrees'?
    """
    source, target = maps_of("src", src), maps_of("dst", dst)
    reading, writing = _sorted_out(options, src, dst, source, target)
    require_floating("x", x)
    wide = upcast(x)
    if source.to_quaternion is not None and target.from_quaternion is not None:
        result = target.from_quaternion(source.to_quaternion(wide, **reading), **writing)
    else:
        result = target.from_matrix(source.to_matrix(wide, **reading), **writing)
    return result if result.dtype == x.dtype else _narrowed(result, x.dtype)


def maps_of(argument: str, name: str) -> Maps:
    """The maps of a representation by name or alias; `argument` is who asks, for the message."""
    key = ALIASES.get(name, name) if isinstance(name, str) else name
    if key not in MAPS:
        raise ValueError(f"{argument}: expected one of {', '.join(map(repr, MAPS))}, got {name!r}{guess(name, MAPS)}")
    return MAPS[key]


def guess(name: object, known: Collection[str]) -> str:
    """The end of a message about an unknown name: the one that was probably meant, if any."""
    near = difflib.get_close_matches(str(name).lower(), list(known), n=1)
    return f", did you mean {near[0]!r}?" if near else ""


def _sorted_out(
    options: Mapping[str, Any], src: str, dst: str, source: Maps, target: Maps
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the source and of the target."""
    reading: dict[str, Any] = {}
    writing: dict[str, Any] = {}
    for name, value in options.items():
        if name in source.reads and name in target.writes:
            raise TypeError(f"{name}: expected src_{name} or dst_{name}, since both {src!r} and {dst!r} take it")
        if name in source.reads or (name.startswith("src_") and name[4:] in source.reads):
            reading[name.removeprefix("src_")] = value
        elif name in target.writes or (name.startswith("dst_") and name[4:] in target.writes):
            writing[name.removeprefix("dst_")] = value
        else:
            known = sorted({*source.reads, *target.writes})
            listed = ", ".join(known) or "none"
            raise TypeError(f'{name}: expected an option of "{src}" -> "{dst}" ({listed}){guess(name, known)}')
    for end, maps, given in (("src", source, reading), ("dst", target, writing)):
        for name in maps.required:
            if name not in given:
                raise TypeError(
                    f"{end}_{name}: expected a value, since {src if end == 'src' else dst!r} has no default"
                )
    return reading, writing


def _narrowed(result: Tensor, dtype: torch.dtype) -> Tensor:
    """`result` in half precision, rows that would overflow shortened: the Gibbs vectors of half turns."""
    largest = result.detach().abs().amax(-1, keepdim=True)
    return (result * (torch.finfo(dtype).max / 2 / largest).clamp(max=1)).to(dtype)


def _matrix(matrix: Tensor) -> Tensor:
    require_shape("x", matrix, ..., 3, 3)
    return matrix


def _quaternion_to_hub(quat: Tensor, order: QuaternionOrder = "wxyz") -> Tensor:
    quat = quaternion_normalize(quat, order)
    return quaternion_xyzw_to_wxyz(quat) if order == "xyzw" else quat


def _hub_to_quaternion(quat: Tensor, order: QuaternionOrder = "wxyz") -> Tensor:
    require_choice("order", order, ("wxyz", "xyzw"))
    standard = quaternion_standardize(quat)
    return quaternion_wxyz_to_xyzw(standard) if order == "xyzw" else standard


def _pairs_to_angles(pairs: Tensor) -> Tensor:
    """Euler angles of (cos a, sin a, cos b, sin b, cos c, sin c), in at least float32."""
    require_floating("pairs", pairs)
    require_shape("pairs", pairs, ..., 6)
    return vector_to_angle(upcast(pairs).unflatten(-1, (3, 2)))


def _pairs_to_matrix(pairs: Tensor, convention: str) -> Tensor:
    return euler_to_matrix(_pairs_to_angles(pairs), convention).to(pairs.dtype)


def _pairs_to_quaternion(pairs: Tensor, convention: str) -> Tensor:
    return euler_to_quaternion(_pairs_to_angles(pairs), convention).to(pairs.dtype)


def _matrix_to_pairs(matrix: Tensor, convention: str) -> Tensor:
    require_floating("matrix", matrix)
    return angle_to_vector(matrix_to_euler(upcast(matrix), convention)).flatten(-2).to(matrix.dtype)


def _quaternion_to_pairs(quat: Tensor, convention: str) -> Tensor:
    return angle_to_vector(quaternion_to_euler(quat, convention)).flatten(-2)


_NINE = Maps(rotation_9d_to_matrix, matrix_to_rotation_9d)

MAPS: dict[str, Maps] = {
    "matrix": Maps(_matrix, _matrix),
    "quaternion": Maps(
        quaternion_to_matrix, matrix_to_quaternion, _quaternion_to_hub, _hub_to_quaternion, ("order",), ("order",)
    ),
    "axis_angle": Maps(axis_angle_to_matrix, matrix_to_axis_angle, axis_angle_to_quaternion, quaternion_to_axis_angle),
    "euler": Maps(
        euler_to_matrix,
        matrix_to_euler,
        euler_to_quaternion,
        quaternion_to_euler,
        reads=("convention", "degrees"),
        writes=("convention", "degrees"),
        required=("convention",),
    ),
    "euler_sincos": Maps(
        _pairs_to_matrix,
        _matrix_to_pairs,
        _pairs_to_quaternion,
        _quaternion_to_pairs,
        reads=("convention",),
        writes=("convention",),
        required=("convention",),
    ),
    "mrp": Maps(mrp_to_matrix, matrix_to_mrp, mrp_to_quaternion, quaternion_to_mrp),
    "gibbs": Maps(gibbs_to_matrix, matrix_to_gibbs, gibbs_to_quaternion, quaternion_to_gibbs),
    "axis_angle_4d": Maps(axis_angle4_to_matrix, matrix_to_axis_angle4),
    "6d": Maps(rotation_6d_to_matrix, matrix_to_rotation_6d, reads=("layout", "method"), writes=("layout",)),
    "two_vector": Maps(
        partial(rotation_6d_to_matrix, method="two_vector"),
        matrix_to_rotation_6d,
        reads=("layout",),
        writes=("layout",),
    ),
    "5d": Maps(rotation_5d_to_matrix, matrix_to_rotation_5d),
    "9d": _NINE,
    "raw_9d": _NINE,
    "10d": Maps(rotation_10d_to_matrix, matrix_to_rotation_10d),
}

# Other words for the same numbers: the tokens of the function names, and those of other libraries.
ALIASES = {
    "rotation_6d": "6d",
    "rotation_5d": "5d",
    "rotation_9d": "9d",
    "rotation_10d": "10d",
    "quat": "quaternion",
    "rotation_vector": "axis_angle",
    "rotvec": "axis_angle",
    "axis_angle4": "axis_angle_4d",
    "euler_angles": "euler",
}
