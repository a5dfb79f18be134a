"""The angle of a box as numbers that do not jump where the angle does: what a head may predict in its place.

Angles are radians, clockwise, and mean the same half a turn on. A code is what `encode` makes of an angle; what a
network puts out is `raw`, and `codes` maps it to the range of codes. Angles come back in [-pi/2, pi/2), as those of
"le90".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rotaware.geo.checks import require_floating, require_shape
from rotaware.geo.numerics import safe_norm, upcast
from rotaware.geo.planar import angle_to_vector, vector_to_angle

from .losses import sigmoid_focal_loss


class AngleCoder(Protocol):
    """Angles as codes, and back."""

    @property
    def size(self) -> int:
        """How many numbers stand for an angle."""

    def encode(self, angles: Tensor) -> Tensor:
        """Codes (..., size) of angles (...)."""

    def codes(self, raw: Tensor) -> Tensor:
        """Codes (..., size) of what a network puts out (..., size)."""

    def decode(self, codes: Tensor) -> Tensor:
        """Angles (...) in [-pi/2, pi/2) of codes (..., size)."""

    def loss(self, raw: Tensor, angles: Tensor) -> Tensor:
        """(...) of what a network puts out (..., size), for the angles (...) that are wanted."""


@dataclass(frozen=True)
class CircularSmoothLabel:
    """Angles as classes whose neighbors count as nearly right, all the way round.

    Yang and Yan, "Arbitrary-Oriented Object Detection with Circular Smooth Label", ECCV 2020. An angle comes back as
    the middle of its class. The loss is the focal loss of soft labels; published with weight 0.8.

    Args:
        size: number of classes in half a turn: 180, or 45 for RetinaNet.
        radius: standard deviation of the Gaussian window, in classes.

    >>> coder = CircularSmoothLabel(size=180)
    >>> round(coder.decode(coder.encode(torch.tensor(0.5))).item(), 4)
    0.4974
    """

    size: int = 45
    radius: float = 3.0

    def __post_init__(self) -> None:
        if self.size < 2 or not self.radius > 0:
            raise ValueError(
                f"size, radius: expected at least 2 classes and a positive radius, got {self.size} and {self.radius}"
            )

    def encode(self, angles: Tensor) -> Tensor:
        """(..., size) in (0, 1], 1 at the class of the angle."""
        require_floating("angles", angles)
        wide = upcast(angles)
        own = ((wide + math.pi / 2) * (self.size / math.pi)).floor()
        steps = (torch.arange(self.size, device=angles.device) - own[..., None]).remainder(self.size)
        apart = torch.minimum(steps, self.size - steps)
        return torch.exp(-apart.square() / (2 * self.radius**2)).to(angles.dtype)

    def codes(self, raw: Tensor) -> Tensor:
        """Sigmoid: the classes are independent."""
        return raw.sigmoid()

    def decode(self, codes: Tensor) -> Tensor:
        """The middle of the highest class; of equals, the first. No gradient."""
        _require_codes(codes, self.size)
        best = codes.detach().argmax(dim=-1)
        return ((best.to(upcast(codes[..., 0]).dtype) + 0.5) * (math.pi / self.size) - math.pi / 2).to(codes.dtype)

    def loss(self, raw: Tensor, angles: Tensor) -> Tensor:
        """Focal loss with gamma 2 and alpha 0.25, summed over the classes."""
        _require_pairs(raw, angles, self.size)
        return sigmoid_focal_loss(upcast(raw), self.encode(upcast(angles))).sum(dim=-1).to(raw.dtype)


@dataclass(frozen=True)
class PhaseShiftCoder:
    """Angles as samples of a cosine at shifted phases; with a second, doubled frequency for squares.

    Yu and Da, "Phase-Shifting Coder: Predicting Accurate Orientation in Oriented Object Detection", CVPR 2023. The
    second frequency knows the angle up to a quarter turn, all there is to a square, and the first one decides between
    the two; a square may leave the first one empty. The loss is L1; published with weight 0.2 beside a box loss of 0.5
    in RetinaNet, and 0.1 in FCOS.

    Args:
        dual: whether there is the second frequency.
        steps: samples per frequency, at least 3.
        least_modulation: squared length, of (steps / 2)^2, below which an object has no direction and the angle is 0.

    >>> coder = PhaseShiftCoder(dual=False)
    >>> coder.encode(torch.tensor(0.5)).round(decimals=4)
    tensor([ 0.5403, -0.9989,  0.4586])
    """

    dual: bool = True
    steps: int = 3
    least_modulation: float = 0.47

    def __post_init__(self) -> None:
        if self.steps < 3:
            raise ValueError(f"steps: expected at least 3, got {self.steps}")

    @property
    def size(self) -> int:
        """Samples of all frequencies."""
        return self.steps * (2 if self.dual else 1)

    def encode(self, angles: Tensor) -> Tensor:
        """(..., size) in [-1, 1]: cos(2 theta + 2 pi k / steps), then the same of 4 theta."""
        require_floating("angles", angles)
        wide = upcast(angles)[..., None]
        frequencies = (2, 4) if self.dual else (2,)
        return torch.cat([(each * wide + self._shifts(wide)).cos() for each in frequencies], dim=-1).to(angles.dtype)

    def codes(self, raw: Tensor) -> Tensor:
        """Twice the sigmoid less 1."""
        return 2 * raw.sigmoid() - 1

    def decode(self, codes: Tensor) -> Tensor:
        """The phase; its gradient is 0 where there is none."""
        _require_codes(codes, self.size)
        vector = self._vector(upcast(codes[..., : self.steps]))
        phase = vector_to_angle(vector)
        if self.dual:
            fine = self._vector(upcast(codes[..., self.steps :]))
            half = vector_to_angle(fine) / 2
            # Of the two phases half a turn apart that the second frequency allows, the one nearer to the first.
            opposite = (phase - half).detach().cos() < 0
            vector, phase = fine, torch.where(opposite, half + math.pi, half)
        directed = vector.detach().square().sum(dim=-1) >= self.least_modulation
        return _as_le90(torch.where(directed, phase, 0) / 2).to(codes.dtype)

    def loss(self, raw: Tensor, angles: Tensor) -> Tensor:
        """L1 of the codes, summed."""
        _require_pairs(raw, angles, self.size)
        return (self.codes(upcast(raw)) - self.encode(upcast(angles))).abs().sum(dim=-1).to(raw.dtype)

    def _shifts(self, like: Tensor) -> Tensor:
        return torch.arange(self.steps, device=like.device, dtype=like.dtype) * (2 * math.pi / self.steps)

    def _vector(self, samples: Tensor) -> Tensor:
        """(..., 2): cosine and sine of the phase, times steps / 2."""
        shifts = self._shifts(samples)
        return torch.stack([(samples * shifts.cos()).sum(dim=-1), -(samples * shifts.sin()).sum(dim=-1)], dim=-1)


@dataclass(frozen=True)
class VectorAngleCoder:
    """Angles as the vector (cos 2 theta, sin 2 theta): the continuous representation of the plane of `geo.planar`.

    The least numbers for which there is no jump, and any vector but 0 is an angle. The loss is the distance in the
    plane of the vectors: it treats all directions alike, and does not change when image and boxes are turned.

    >>> round(VectorAngleCoder().decode(torch.tensor([0.0, 7.0])).item(), 4)
    0.7854
    """

    @property
    def size(self) -> int:
        """Two, whatever the angle."""
        return 2

    def encode(self, angles: Tensor) -> Tensor:
        """(..., 2), of length 1."""
        return angle_to_vector(angles, math.pi)

    def codes(self, raw: Tensor) -> Tensor:
        """As they are."""
        return raw

    def decode(self, codes: Tensor) -> Tensor:
        """Half the direction; 0, without a gradient, of the vector 0."""
        _require_codes(codes, 2)
        return _as_le90(vector_to_angle(upcast(codes), math.pi)).to(codes.dtype)

    def loss(self, raw: Tensor, angles: Tensor) -> Tensor:
        """Distance of the vectors."""
        _require_pairs(raw, angles, 2)
        return safe_norm(upcast(raw) - self.encode(upcast(angles))).to(raw.dtype)


def _require_codes(codes: Tensor, size: int) -> None:
    require_floating("codes", codes)
    require_shape("codes", codes, ..., size)


def _require_pairs(raw: Tensor, angles: Tensor, size: int) -> None:
    require_floating("raw", raw)
    require_shape("raw", raw, ..., size)
    require_floating("angles", angles)
    require_shape("angles", angles, *raw.shape[:-1])


def _as_le90(angles: Tensor) -> Tensor:
    """In [-pi/2, pi/2), of angles in [-pi/2, 3 pi/2)."""
    return torch.where(angles >= math.pi / 2, angles - math.pi, angles)
