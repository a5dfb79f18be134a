"""Distances between rotations, the losses made of them, and the summary of errors that papers report.

With a the angle between two rotations, the geodesic distance is a, the chordal one 2 sqrt(2) sin(a / 2), and that of
quaternions 2 sin(a / 4). Which to train with: the squared chordal distance is smooth, but its gradient vanishes at
a = pi; the geodesic distance pulls equally hard everywhere and has a kink at 0, which `GeodesicLoss(delta=...)` rounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from .checks import (
    require_broadcastable,
    require_choice,
    require_floating,
    require_same_device,
    require_same_dtype,
    require_shape,
)
from .numerics import largest_component, safe_norm, upcast
from .so3 import QuaternionOrder, axis_angle_to_quaternion, geodesic_distance, rotation_angle
from .symmetry import symmetric_geodesic_distance, symmetry_group
from .vectors import SHORTEST

Reduction = Literal["mean", "sum", "none"]
QuaternionDistance = Literal["geodesic", "chordal", "cosine", "squared_sine"]

so3_relative_angle = geodesic_distance
so3_rotation_angle = rotation_angle


def chordal_distance(rotation: Tensor, other: Tensor, *, squared: bool = False) -> Tensor:
    """Distance of two rotations as matrices: the Frobenius norm of their difference.

    For rotations of space at an angle a it is 2 sqrt(2) sin(a / 2), squared 8 sin(a / 2)**2.

    Args:
        rotation: (..., n, n), any matrix.
        other: (..., n, n), dtype of `rotation`; leading axes broadcast.
        squared: leave out the square root: smooth everywhere. As a loss it is nine times (for n = 3) the mean squared
            error over the entries.
    Returns:
        (...). The gradient is 0 at distance 0, where the distance that is not squared has a kink.
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, two dtypes or devices, or leading axes that do not broadcast.

    >>> chordal_distance(torch.eye(3), torch.diag(torch.tensor([1.0, -1.0, -1.0])), squared=True)
    tensor(8.)
    """
    require_floating("rotation", rotation)
    require_shape("rotation", rotation, ..., "n", "n")
    require_floating("other", other)
    require_shape("other", other, ..., rotation.shape[-1], rotation.shape[-1])
    tensors = {"rotation": rotation, "other": other}
    require_same_dtype(tensors)
    require_same_device(tensors)
    require_broadcastable(tensors, trailing=2)
    difference = (upcast(rotation) - upcast(other)).flatten(-2)
    distance = difference.square().sum(-1) if squared else safe_norm(difference)
    return distance.to(rotation.dtype)


def quaternion_distance(
    quat: Tensor, other: Tensor, kind: QuaternionDistance = "geodesic", order: QuaternionOrder = "wxyz"
) -> Tensor:
    """Distance of the rotations of two quaternions, the same for q and -q.

    For an angle a between the rotations, and d the scalar product of the normalised quaternions:

    - "geodesic": a;
    - "chordal": the smaller of |q - p| and |q + p|, 2 sin(a / 4);
    - "cosine": 1 - |d|, which is 1 - cos(a / 2);
    - "squared_sine": 1 - d**2, which is sin(a / 2)**2: smooth, and an eighth of the squared chordal distance.

    All are accurate to rounding for small angles too, where 1 - |d| itself would cancel. Up to "squared_sine" they have
    a kink at a = pi, where the gradient is that of one side; "geodesic" and "chordal" also at 0, with gradient 0.

    Args:
        quat: (..., 4), of any nonzero length; 0 counts as the identity, with gradient 0.
        other: (..., 4), the same, dtype of `quat`; leading axes broadcast.
        kind: "geodesic", "chordal", "cosine" or "squared_sine".
        order: "wxyz" (real part first) or "xyzw", of both.
    Returns:
        (...); radians for "geodesic".
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, two dtypes or devices, leading axes that do not broadcast, unknown kind or order.

    >>> half_turn = torch.tensor([0.0, 1.0, 0.0, 0.0])
    >>> quaternion_distance(torch.tensor([1.0, 0.0, 0.0, 0.0]), half_turn, kind="squared_sine")
    tensor(1.)
    """
    require_choice("kind", kind, get_args(QuaternionDistance))
    require_choice("order", order, ("wxyz", "xyzw"))
    tensors = {"quat": quat, "other": other}
    for name, value in tensors.items():
        require_floating(name, value)
        require_shape(name, value, ..., 4)
    require_same_dtype(tensors)
    require_same_device(tensors)
    require_broadcastable(tensors, trailing=1)
    q, p = torch.broadcast_tensors(*(_unit_quaternion(upcast(value), order) for value in tensors.values()))
    scalar = (q * p).sum(-1)
    p = torch.where((scalar < 0).unsqueeze(-1), -p, p)
    # Exact for nearby quaternions: no cancellation below, and exactly 0 for equal ones.
    difference = p - q
    if kind == "chordal":
        distance = safe_norm(difference)
    elif kind == "cosine":
        distance = difference.square().sum(-1) / 2
    elif kind == "squared_sine":
        # Both signs enter alike, so it is smooth where the nearer one changes.
        distance = difference.square().sum(-1) * (p + q).square().sum(-1) / 4
    else:
        w, v = q[..., :1], q[..., 1:]
        # The vector part of conjugate(q) p, of length sin(a / 2); that of conjugate(q) q is 0.
        sine = w * difference[..., 1:] - difference[..., :1] * v - torch.linalg.cross(v, difference[..., 1:], dim=-1)
        distance = 2 * torch.atan2(safe_norm(sine), (q * p).sum(-1))
    return distance.to(quat.dtype)


def quaternion_geodesic_distance(quat: Tensor, other: Tensor, order: QuaternionOrder = "wxyz") -> Tensor:
    """Angle between the rotations of two quaternions: `quaternion_distance` of kind "geodesic".

    Args:
        quat: (..., 4), of any nonzero length.
        other: (..., 4), dtype of `quat`; leading axes broadcast.
        order: "wxyz" (real part first) or "xyzw", of both.
    Returns:
        (...), radians in [0, pi].
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, two dtypes or devices, leading axes that do not broadcast, or unknown order.

    >>> quaternion_geodesic_distance(torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.tensor([1.0, 0.0, 0.0, 1.0]))
    tensor(1.5708)
    """
    return quaternion_distance(quat, other, "geodesic", order)


def axis_angle_geodesic_distance(axis_angle: Tensor, other: Tensor) -> Tensor:
    """Angle between the rotations of two axis-angle vectors.

    Args:
        axis_angle: (..., 3), axis times angle in radians, of any length.
        other: (..., 3), the same, dtype of `axis_angle`; leading axes broadcast.
    Returns:
        (...), radians in [0, pi].
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, two dtypes or devices, or leading axes that do not broadcast.

    >>> axis_angle_geodesic_distance(torch.tensor([0.0, 0.0, 3.0]), torch.tensor([0.0, 0.0, -3.0]))
    tensor(0.2832)
    """
    tensors = {"axis_angle": axis_angle, "other": other}
    for name, value in tensors.items():
        require_floating(name, value)
        require_shape(name, value, ..., 3)
    require_same_dtype(tensors)
    require_same_device(tensors)
    require_broadcastable(tensors, trailing=1)
    quat, other_quat = (axis_angle_to_quaternion(upcast(value)) for value in tensors.values())
    return quaternion_distance(quat, other_quat).to(axis_angle.dtype)


class GeodesicLoss(nn.Module):
    """Angle between predicted and true rotation matrices, or the Huber function of it.

    Args:
        delta: radians; below it the loss is angle**2 / 2, above it delta * (angle - delta / 2). By default the angle.
        reduction: "mean", "sum" or "none".
    Raises:
        ValueError: `delta` is not positive, or unknown reduction.

    >>> GeodesicLoss()(torch.eye(3), torch.diag(torch.tensor([-1.0, -1.0, 1.0])))
    tensor(3.1416)
    """

    def __init__(self, delta: float | None = None, *, reduction: Reduction = "mean") -> None:
        super().__init__()
        if delta is not None and not delta > 0:
            raise ValueError(f"delta: expected a positive number of radians or None, got {delta}")
        require_choice("reduction", reduction, get_args(Reduction))
        self.delta = delta
        self.reduction = reduction

    def forward(self, rotation: Tensor, target: Tensor) -> Tensor:
        """Loss of (..., 3, 3) and (..., 3, 3): a scalar, or (...) without reduction."""
        return _reduced(_huber(geodesic_distance(rotation, target), self.delta), self.reduction)

    def extra_repr(self) -> str:
        """The options, for printing."""
        return f"delta={self.delta}, reduction={self.reduction!r}"


class ChordalLoss(nn.Module):
    """Squared Frobenius norm of the difference of predicted and true matrices, or the norm itself.

    The squared one is the L2 loss of the papers (nine times the mean squared error over the entries), and takes
    matrices that are not rotations, such as the nine raw numbers of a network.

    Args:
        squared: False for the norm itself.
        reduction: "mean", "sum" or "none".
    Raises:
        ValueError: unknown reduction.

    >>> ChordalLoss()(torch.eye(3), torch.zeros(3, 3))
    tensor(3.)
    """

    def __init__(self, *, squared: bool = True, reduction: Reduction = "mean") -> None:
        super().__init__()
        require_choice("reduction", reduction, get_args(Reduction))
        self.squared = squared
        self.reduction = reduction

    def forward(self, rotation: Tensor, target: Tensor) -> Tensor:
        """Loss of (..., n, n) and (..., n, n): a scalar, or (...) without reduction."""
        return _reduced(chordal_distance(rotation, target, squared=self.squared), self.reduction)

    def extra_repr(self) -> str:
        """The options, for printing."""
        return f"squared={self.squared}, reduction={self.reduction!r}"


class QuaternionLoss(nn.Module):
    """Distance of predicted and true quaternions that does not see their signs, see `quaternion_distance`.

    Args:
        kind: "squared_sine" (smooth), "geodesic", "chordal" or "cosine".
        order: "wxyz" (real part first) or "xyzw".
        reduction: "mean", "sum" or "none".
    Raises:
        ValueError: unknown kind, order or reduction.

    >>> QuaternionLoss()(torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.tensor([-2.0, 0.0, 0.0, 0.0]))
    tensor(0.)
    """

    def __init__(
        self,
        kind: QuaternionDistance = "squared_sine",
        *,
        order: QuaternionOrder = "wxyz",
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        require_choice("kind", kind, get_args(QuaternionDistance))
        require_choice("order", order, ("wxyz", "xyzw"))
        require_choice("reduction", reduction, get_args(Reduction))
        self.kind = kind
        self.order = order
        self.reduction = reduction

    def forward(self, quat: Tensor, target: Tensor) -> Tensor:
        """Loss of (..., 4) and (..., 4): a scalar, or (...) without reduction."""
        return _reduced(quaternion_distance(quat, target, self.kind, self.order), self.reduction)

    def extra_repr(self) -> str:
        """The options, for printing."""
        return f"kind={self.kind!r}, order={self.order!r}, reduction={self.reduction!r}"


class SymmetricLoss(nn.Module):
    """Angle to the nearest of the equivalent poses of a symmetric object, or the Huber function of it.

    Args:
        group: the symmetries in the object's own frame, (k, 3, 3), or a name for `symmetry_group`.
        delta: as in `GeodesicLoss`.
        reduction: "mean", "sum" or "none".
    Raises:
        TypeError: `group` is neither a name nor a floating point tensor.
        ValueError: unknown name or wrong shape of `group`, `delta` not positive, or unknown reduction.

    >>> SymmetricLoss("C2")(torch.eye(3), torch.diag(torch.tensor([-1.0, -1.0, 1.0])))
    tensor(0.)
    """

    group: Tensor

    def __init__(self, group: Tensor | str, delta: float | None = None, *, reduction: Reduction = "mean") -> None:
        super().__init__()
        if isinstance(group, str):
            group = symmetry_group(group)
        require_floating("group", group)
        require_shape("group", group, "k", 3, 3)
        if delta is not None and not delta > 0:
            raise ValueError(f"delta: expected a positive number of radians or None, got {delta}")
        require_choice("reduction", reduction, get_args(Reduction))
        # Not part of the state: it is an argument of the constructor.
        self.register_buffer("group", group, persistent=False)
        self.delta = delta
        self.reduction = reduction

    def forward(self, rotation: Tensor, target: Tensor) -> Tensor:
        """Loss of (..., 3, 3) and (..., 3, 3): a scalar, or (...) without reduction."""
        return _reduced(_huber(symmetric_geodesic_distance(rotation, target, self.group), self.delta), self.reduction)

    def extra_repr(self) -> str:
        """The options, for printing."""
        return f"order={len(self.group)}, delta={self.delta}, reduction={self.reduction!r}"


@dataclass(frozen=True)
class RotationErrorSummary:
    """What is reported of a set of rotation errors. All angles in degrees."""

    count: int
    mean_deg: float
    median_deg: float
    max_deg: float
    std_deg: float
    """Standard deviation around the mean, over the count (not the count less one)."""
    percentiles_deg: dict[float, float]
    """Percent to the error that so many are at or below, interpolated."""
    accuracy: dict[float, float]
    """Degrees to the fraction, in [0, 1], of errors below it."""


def rotation_error_summary(
    angles: Tensor,
    *,
    thresholds_deg: Sequence[float] = (5.0, 10.0, 15.0, 30.0),
    percentiles: Sequence[float] = (50.0, 90.0, 95.0, 99.0),
) -> RotationErrorSummary:
    """Mean, median, maximum and the like of rotation errors. Reads values: it waits for the device.

    Args:
        angles: (...), errors in radians, at least one, as from `geodesic_distance`. One NaN makes every statistic but
            the accuracies NaN; there it counts as a miss.
        thresholds_deg: degrees to give the accuracy at.
        percentiles: percents in [0, 100].
    Returns:
        `RotationErrorSummary`, in degrees.
    Raises:
        TypeError: `angles` is not a floating point tensor.
        ValueError: no angles, or a percentile outside [0, 100].

    >>> rotation_error_summary(torch.tensor([0.0, 0.1, 3.0])).accuracy[10.0]
    0.6666666666666666
    """
    require_floating("angles", angles)
    if angles.numel() == 0:
        raise ValueError(f"angles: expected at least one, got shape {tuple(angles.shape)}")
    if not all(0 <= percent <= 100 for percent in percentiles):
        raise ValueError(f"percentiles: expected numbers in [0, 100], got {tuple(percentiles)}")
    degrees = torch.rad2deg(angles.detach().flatten().cpu().double())
    # torch.quantile has a limit on the number of values.
    ordered = degrees.sort().values
    whole = math.nan if bool(ordered.isnan().any()) else 1.0

    def percentile(percent: float) -> float:
        place = percent / 100 * (len(ordered) - 1)
        below = int(place)
        low, high = ordered[below], ordered[min(below + 1, len(ordered) - 1)]
        return whole * float(torch.lerp(low, high, place - below))

    return RotationErrorSummary(
        count=len(degrees),
        mean_deg=float(degrees.mean()),
        median_deg=percentile(50),
        max_deg=float(degrees.max()),
        std_deg=float(degrees.std(correction=0)),
        percentiles_deg={percent: percentile(percent) for percent in percentiles},
        accuracy={threshold: float((degrees < threshold).double().mean()) for threshold in thresholds_deg},
    )


def _unit_quaternion(quat: Tensor, order: QuaternionOrder) -> Tensor:
    """Real-first unit quaternion; the identity for 0; without gradient for one shorter than 1e-18."""
    q = quat if order == "wxyz" else quat.roll(1, -1)
    size = largest_component(q)
    q = torch.where(size > SHORTEST, q, q.detach()) / size
    identity = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=q.dtype, device=q.device)
    q = torch.where((q == 0).all(-1, keepdim=True), identity, q)
    return q / q.square().sum(-1, keepdim=True).sqrt()


def _huber(angle: Tensor, delta: float | None) -> Tensor:
    """The Huber function of an angle, or the angle."""
    if delta is None:
        return angle
    return torch.where(angle <= delta, angle.square() / 2, delta * (angle - delta / 2))


def _reduced(values: Tensor, reduction: Reduction) -> Tensor:
    """Mean or sum of all values, or the values."""
    if reduction == "none":
        return values
    return values.mean() if reduction == "mean" else values.sum()
