"""Random rotations, uniform in the sense of Haar measure: no direction and no axis is preferred."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .checks import require_choice
from .numerics import safe_norm
from .so3 import QuaternionOrder, quaternion_to_matrix


def random_quaternions(
    size: int | Sequence[int] = (),
    *,
    order: QuaternionOrder = "wxyz",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Unit quaternions of uniformly random rotations, with a real part that is not negative.

    Args:
        size: leading axes of the result.
        order: "wxyz" (real part first) or "xyzw".
        dtype: of the result.
        device: of the result; that of `generator` by default.
        generator: source of every draw; the global one by default.
    Returns:
        (*size, 4).
    Raises:
        TypeError: `dtype` is not a floating point type.
        ValueError: unknown order.

    >>> random_quaternions((2, 3)).shape
    torch.Size([2, 3, 4])
    """
    require_choice("order", order, ("wxyz", "xyzw"))
    if not dtype.is_floating_point:
        raise TypeError(f"dtype: expected a floating point type, got {dtype}")
    shape = (size,) if isinstance(size, int) else tuple(size)
    if device is None and generator is not None:
        device = generator.device
    draw_dtype = torch.promote_types(dtype, torch.float32)
    normal = torch.randn(*shape, 4, dtype=draw_dtype, device=device, generator=generator)
    # The direction of a normal vector is uniform on the sphere, and the double cover of SO(3) carries its measure.
    length = safe_norm(normal).unsqueeze(-1)
    identity = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=draw_dtype, device=normal.device)
    quat = torch.where(length > 0, normal / torch.where(length > 0, length, 1), identity)
    quat = torch.where(quat[..., :1] < 0, -quat, quat)
    return (quat if order == "wxyz" else quat.roll(-1, -1)).to(dtype)


def random_rotations(
    size: int | Sequence[int] = (),
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Uniformly random rotation matrices.

    Their angle has mean pi / 2 + 2 / pi, about 126.5 degrees: large turns are more common than small ones.

    Args:
        size: leading axes of the result.
        dtype: of the result.
        device: of the result; that of `generator` by default.
        generator: source of every draw; the global one by default.
    Returns:
        (*size, 3, 3).
    Raises:
        TypeError: `dtype` is not a floating point type.

    >>> random_rotations(5, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([5, 3, 3])
    """
    return quaternion_to_matrix(random_quaternions(size, dtype=dtype, device=device, generator=generator))
