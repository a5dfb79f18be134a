"""Oriented boxes as Gaussians, and how far two of them are apart.

A box becomes the normal distribution with its centre as mean and R diag(w^2 / 4, h^2 / 4) R^T as covariance: the same
for all names of the box, continuous where its angle jumps, and without an angle for a square. Distances of such
Gaussians have gradients where boxes do not meet.

Everything is written in standard deviations and the angle between the long axes, as sums of terms that are not
negative: nothing cancels, equal boxes are at exactly 0. Inside it is float64 (float32 where a device has none), and
sides are taken as at least 1e-7 and at most 1e7, beyond which they get no gradient.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .checks import (
    require_broadcastable,
    require_floating,
    require_same_device,
    require_same_dtype,
    require_shape,
)
from .numerics import safe_sqrt
from .planar import box_to_gaussian, gaussian_to_box

SHORTEST_SIDE, LONGEST_SIDE = 1e-7, 1e7
# Standard deviation of a side of length 1: half of it, and that of a uniform distribution.
HALF, UNIFORM = 0.5, 1 / math.sqrt(12)


class BoxGaussians(NamedTuple):
    """Normal distributions in the plane."""

    mean: Tensor  # (..., 2)
    covariance: Tensor  # (..., 2, 2)


def boxes_to_gaussians(boxes: Tensor) -> BoxGaussians:
    """Gaussians of oriented boxes (..., 5).

    Reference: Yang et al., "Rethinking Rotated Object Detection with Gaussian Wasserstein Distance Loss", ICML 2021.

    >>> boxes_to_gaussians(torch.tensor([5.0, 6.0, 4.0, 2.0, 0.0])).covariance
    tensor([[4., 0.],
            [0., 1.]])
    """
    require_floating("boxes", boxes)
    require_shape("boxes", boxes, ..., 5)
    return BoxGaussians(boxes[..., :2], box_to_gaussian(*boxes[..., 2:].unbind(-1)))


def gaussians_to_boxes(mean: Tensor, covariance: Tensor) -> Tensor:
    """Boxes (..., 5), le90, of Gaussians: the inverse of `boxes_to_gaussians`. A square gets the angle 0.

    Args:
        mean: (..., 2).
        covariance: (..., 2, 2), symmetric.

    >>> gaussians_to_boxes(*boxes_to_gaussians(torch.tensor([5.0, 6.0, 4.0, 2.0, 0.0]))).tolist()
    [5.0, 6.0, 4.0, 2.0, 0.0]
    """
    require_floating("mean", mean)
    require_shape("mean", mean, ..., 2)
    return torch.cat([mean, torch.stack(gaussian_to_box(covariance), dim=-1)], dim=-1)


def gaussian_wasserstein_distance(boxes: Tensor, others: Tensor, *, normalized: bool = False) -> Tensor:
    """2-Wasserstein distance of the Gaussians of oriented boxes, in pixels.

    Args:
        boxes: (..., 5) (cx, cy, w, h, theta).
        others: (..., 5), the same dtype; leading axes broadcast, here and in all functions below.
        normalized: divide by twice the geometric mean of the four standard deviations, which makes it a number that
            does not change with the scale of the image.
    Returns:
        (...). Gradients to both; 0 where they are equal.
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, two dtypes or devices, or leading axes that do not broadcast.
    Reference: Yang et al., ICML 2021, equation 4.

    >>> box = torch.tensor([5.0, 6.0, 4.0, 2.0, 0.0])
    >>> gaussian_wasserstein_distance(box, box + torch.tensor([3.0, 4.0, 0.0, 0.0, 0.0])).item()
    5.0
    """
    pair = _pair(boxes, others, HALF)
    p, q, r, s = pair.deviations
    straight, crossed = p * r + q * s, p * s + q * r
    # The root of tr(A B) + 2 sqrt(det A det B); its difference from `straight` is the last term below.
    root = (pair.cos2 * straight.square() + pair.sin2 * crossed.square()).sqrt()
    turn = 2 * pair.sin2 * (p - q) * (p + q) * (r - s) * (r + s) / (straight + root)
    apart = pair.first.x.square() + pair.first.y.square()
    distance = safe_sqrt(apart + (p - r).square() + (q - s).square() + turn)
    if normalized:
        distance = distance / (2 * torch.exp((p.log() + q.log() + r.log() + s.log()) / 4))
    return distance.to(boxes.dtype)


def gaussian_kl_divergence(boxes: Tensor, others: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the Gaussians of oriented boxes, KL(others || boxes): `boxes` are inverted.

    Args, Raises: as `gaussian_wasserstein_distance`.
    Returns:
        (...), at least 0; it does not change with the scale of the image.
    Reference: Yang et al., "Learning High-Precision Bounding Box for Rotated Object Detection via Kullback-Leibler
        Divergence", NeurIPS 2021.

    >>> box = torch.tensor([5.0, 6.0, 4.0, 2.0, 0.0])
    >>> gaussian_kl_divergence(box, box + torch.tensor([2.0, 0.0, 0.0, 0.0, 0.0])).item()
    0.5
    """
    return _kl(_pair(boxes, others, HALF)).to(boxes.dtype)


def gaussian_jeffreys_divergence(boxes: Tensor, others: Tensor) -> Tensor:
    """Mean of the Kullback-Leibler divergences both ways: symmetric.

    Args, Returns, Raises: as `gaussian_kl_divergence`.

    >>> box = torch.tensor([5.0, 6.0, 4.0, 2.0, 0.0])
    >>> gaussian_jeffreys_divergence(box, box + torch.tensor([2.0, 0.0, 0.0, 0.0, 0.0])).item()
    0.5
    """
    pair = _pair(boxes, others, HALF)
    return ((_kl(pair) + _kl(pair.exchanged())) / 2).to(boxes.dtype)


def gaussian_bhattacharyya_distance(boxes: Tensor, others: Tensor) -> Tensor:
    """Bhattacharyya distance of the Gaussians of oriented boxes: symmetric.

    Args, Returns, Raises: as `gaussian_kl_divergence`.

    >>> box = torch.tensor([5.0, 6.0, 4.0, 2.0, 0.0])
    >>> gaussian_bhattacharyya_distance(box, box + torch.tensor([2.0, 0.0, 0.0, 0.0, 0.0])).item()
    0.125
    """
    return _bhattacharyya(_pair(boxes, others, HALF)).to(boxes.dtype)


def kfiou(boxes: Tensor, others: Tensor) -> Tensor:
    """Overlap of the Gaussians of oriented boxes as a Kalman filter fuses them; blind to the centres.

    Args, Raises: as `gaussian_wasserstein_distance`.
    Returns:
        (...) in (0, 1/3], 1/3 for boxes of one size and direction.
    Reference: Yang et al., "The KFIoU Loss for Rotated Object Detection", ICLR 2023.

    >>> box = torch.tensor([5.0, 6.0, 4.0, 2.0, 0.0])
    >>> round(kfiou(box, box).item(), 6)
    0.333333
    """
    pair = _pair(boxes, others, HALF)
    p, q, r, s = pair.deviations
    area, other = p * q, r * s
    # The areas over that of the fused Gaussian, area * other / sqrt(det).
    return (1 / (_determinant(pair)[0].sqrt() * (1 / area + 1 / other) - 1)).to(boxes.dtype)


def probiou(boxes: Tensor, others: Tensor) -> Tensor:
    """Similarity of oriented boxes as Gaussians with the variance of a filled box: 1 less the Hellinger distance.

    More lenient than the overlap of the boxes themselves where these are thin.

    Args, Raises: as `gaussian_wasserstein_distance`.
    Returns:
        (...) in [0, 1], exactly 1 for equal boxes.
    Reference: Llerena et al., "Gaussian Bounding Boxes and Probabilistic Intersection-over-Union for Object
        Detection", 2021.

    >>> box = torch.tensor([5.0, 6.0, 4.0, 2.0, 0.0])
    >>> probiou(box, box).item()
    1.0
    """
    distance = _bhattacharyya(_pair(boxes, others, UNIFORM))
    return (1 - safe_sqrt(-torch.expm1(-distance))).to(boxes.dtype)


class _Gaussian(NamedTuple):
    """Standard deviations, and the other centre as seen from this one, along both axes."""

    long: Tensor
    short: Tensor
    x: Tensor
    y: Tensor


class _Pair(NamedTuple):
    """Two Gaussians and the squares of cosine and sine of the angle between their long axes."""

    first: _Gaussian
    second: _Gaussian
    cos2: Tensor
    sin2: Tensor

    @property
    def deviations(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.first.long, self.first.short, self.second.long, self.second.short

    def exchanged(self) -> _Pair:
        return _Pair(self.second, self.first, self.cos2, self.sin2)


def _pair(boxes: Tensor, others: Tensor, per_side: float) -> _Pair:
    tensors = {"boxes": boxes, "others": others}
    for name, value in tensors.items():
        require_floating(name, value)
        require_shape(name, value, ..., 5)
    require_same_dtype(tensors)
    require_same_device(tensors)
    require_broadcastable(tensors, trailing=1)
    dtype = torch.float32 if boxes.device.type == "mps" else torch.float64
    first, second = torch.broadcast_tensors(boxes.to(dtype), others.to(dtype))
    away = second[..., :2] - first[..., :2]
    one, angle = _seen(first, away, per_side)
    two, other_angle = _seen(second, away, per_side)
    turn = angle - other_angle
    return _Pair(one, two, turn.cos().square(), turn.sin().square())


def _seen(boxes: Tensor, away: Tensor, per_side: float) -> tuple[_Gaussian, Tensor]:
    """The Gaussian of a box, and the angle of its long axis."""
    w, h, theta = boxes[..., 2:].unbind(-1)
    w, h = (per_side * side.clamp(SHORTEST_SIDE, LONGEST_SIDE) for side in (w, h))
    # Not the larger and the smaller: of a square, each side has a gradient of its own.
    swapped = w < h
    theta = torch.where(swapped, theta + math.pi / 2, theta)
    cos, sin = theta.cos(), theta.sin()
    x, y = cos * away[..., 0] + sin * away[..., 1], cos * away[..., 1] - sin * away[..., 0]
    return _Gaussian(torch.where(swapped, h, w), torch.where(swapped, w, h), x, y), theta


def _kl(pair: _Pair) -> Tensor:
    """The second from the first."""
    p, q, r, s = pair.deviations
    size = (_above_logarithm(r, p) + _above_logarithm(s, q)) / 2
    turn = pair.sin2 * (r - s) * (r + s) * (p - q) * (p + q) / (p * q).square() / 2
    return size + turn + ((pair.first.x / p).square() + (pair.first.y / q).square()) / 2


def _above_logarithm(a: Tensor, b: Tensor) -> Tensor:
    """x - 1 - ln x of x = (a / b)^2, at least 0 and exact near 1."""
    twice = 2 * (a / b).log()
    return (torch.expm1(twice) - twice).clamp_min(0.0)


def _determinant(pair: _Pair) -> tuple[Tensor, Tensor]:
    """Of the sum of both covariances, and by how much it is above the least it can be for these areas."""
    p, q, r, s = pair.deviations
    above = (p * q - r * s).square() + pair.cos2 * (p * s - q * r).square() + pair.sin2 * (p * r - q * s).square()
    return above + 4 * p * q * r * s, above


def _bhattacharyya(pair: _Pair) -> Tensor:
    p, q, r, s = pair.deviations
    first, second = pair.first, pair.second
    whole, above = _determinant(pair)
    adjugate = (p * first.y).square() + (q * first.x).square() + (r * second.y).square() + (s * second.x).square()
    return torch.log1p(above / (4 * p * q * r * s)) / 2 + adjugate / whole / 4
