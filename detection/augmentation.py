"""Augmentation: flips, turns, scale and place of the crop as one change of the frame, drawn from a generator.

Images are sampled once, whatever is combined; flips and quarter turns at the original scale move whole pixels and
change no value. Objects are moved as quads, so that no rectangle is fitted before the end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from rotaware.geo.checks import require_choice
from rotaware.geo.polygons import quad_iou

# What lies outside the image: the mean of ImageNet, as the splitting tools pad (specification 4.2).
FILL = (124, 116, 104)
_EXACT = 1e-9


@dataclass(frozen=True)
class Sample:
    """An image with its objects, in continuous pixel coordinates."""

    image: Tensor  # (3, H, W) uint8
    quads: Tensor  # (n, 4, 2) float64
    labels: Tensor  # (n,) int64
    name: str = ""


@dataclass(frozen=True)
class Augmentation:
    """How training images are changed.

    Args:
        size: edge of the square that comes out, in pixels.
        horizontal_flip, vertical_flip: probabilities, independent of each other.
        turn: probability of a turn.
        angles: "any" angle, or multiples of a "right" one.
        right_only: labels of objects whose images are only turned by right angles, such as round ones whose boxes have
            no direction.
        scale: factors of the scale, drawn evenly on its logarithm.
        keep: share of an object that must be inside.
        least_side: objects whose shorter side is below so many pixels are dropped.
    """

    size: int
    horizontal_flip: float = 0.5
    vertical_flip: float = 0.5
    turn: float = 0.0
    angles: str = "any"
    right_only: tuple[int, ...] = ()
    scale: tuple[float, float] = (1.0, 1.0)
    keep: float = 0.7
    least_side: float = 2.0

    def __post_init__(self) -> None:
        require_choice("angles", self.angles, ("any", "right"))
        if not 0.0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale: expected two rising positive factors, got {self.scale}")
        if self.size < 1:
            raise ValueError(f"size: expected a positive number of pixels, got {self.size}")

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        """An image of `size` with the objects that are left in it."""
        flip_x, flip_y, turned, angle, zoom, x, y = torch.rand(7, generator=generator, dtype=torch.float64).tolist()
        right = self.angles == "right" or bool(set(sample.labels.tolist()) & set(self.right_only))
        turn = (math.floor(4 * angle) * math.pi / 2 if right else 2 * math.pi * angle) if turned < self.turn else 0.0
        low, high = self.scale
        mirrored = (flip_x < self.horizontal_flip, flip_y < self.vertical_flip)
        height, width = sample.image.shape[1:]
        to_crop = crop_map(
            (height, width), self.size, mirrored=mirrored, turn=turn, scale=low * (high / low) ** zoom, place=(x, y)
        )
        return cropped(sample, to_crop, self.size, keep=self.keep, least_side=self.least_side)


def crop_map(
    shape: tuple[int, int],
    size: int,
    *,
    mirrored: tuple[bool, bool] = (False, False),
    turn: float = 0.0,
    scale: float = 1.0,
    place: tuple[float, float] = (0.5, 0.5),
) -> Tensor:
    """The affine map from the pixels of an image to those of a square crop of it.

    Args:
        shape: height and width of the image.
        size: edge of the crop.
        mirrored: in x, in y; before the turn.
        turn: radians, clockwise on the screen.
        scale: after the turn.
        place: in [0, 1]: which crop along x and y, from the first to the last; of a smaller image, where in the crop.
    Returns:
        (2, 3) float64.

    >>> crop_map((4, 4), 4, mirrored=(True, False)).tolist()
    [[-1.0, 0.0, 4.0], [0.0, 1.0, 0.0]]
    """
    # Sines of right angles are not quite whole.
    cos, sin = (
        round(value) if abs(value - round(value)) < _EXACT else value for value in (math.cos(turn), math.sin(turn))
    )
    linear = scale * torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
    linear = linear * torch.tensor([-1.0 if each else 1.0 for each in mirrored], dtype=torch.float64)
    extent = torch.tensor([shape[1], shape[0]], dtype=torch.float64)
    # What the image becomes is this large, and begins here.
    first = linear @ (extent / 2) - linear.abs() @ extent / 2
    slack = (linear.abs() @ extent - size) * torch.tensor(place, dtype=torch.float64)
    # Whole pixels, so that nothing is blurred that need not be.
    shift = -first - (slack.round() if scale == 1.0 else slack)
    # Without negative zeros.
    return torch.cat([linear, shift[:, None]], dim=1) + 0.0


def cropped(sample: Sample, to_crop: Tensor, size: int, *, keep: float = 0.7, least_side: float = 2.0) -> Sample:
    """The crop that a map leads to, and the objects that are in it.

    Args:
        to_crop: (2, 3) of `crop_map`.
        size: edge of the crop.
        keep: share of an object that must be inside; it is not cut.
        least_side: objects whose shorter side is below so many pixels of the crop are dropped.
    """
    quads = sample.quads @ to_crop[:, :2].T + to_crop[:, 2]
    if torch.linalg.det(to_crop[:, :2]) < 0:
        # Clockwise again, from the same corner.
        quads = quads[:, [0, 3, 2, 1]]
    corners = [[0.0, 0.0], [size, 0.0], [size, size], [0.0, size]]
    canvas = torch.tensor([corners], dtype=torch.float64)
    inside = quad_iou(quads, canvas, mode="iof")[:, 0] >= keep
    sides = (quads - quads.roll(-1, dims=1)).norm(dim=2)
    large = torch.minimum(sides[:, 0] + sides[:, 2], sides[:, 1] + sides[:, 3]) >= 2 * least_side
    kept = inside & large
    return replace(sample, image=_sampled(sample.image, to_crop, size), quads=quads[kept], labels=sample.labels[kept])


def _sampled(image: Tensor, to_crop: Tensor, size: int) -> Tensor:
    """(3, size, size) uint8; bilinear unless whole pixels are moved."""
    linear, shift = to_crop[:, :2], to_crop[:, 2]
    inverse = torch.linalg.inv(linear)
    centres = torch.arange(size, dtype=torch.float64) + 0.5
    grid = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), dim=-1)
    found = (grid - shift) @ inverse.T  # (size, size, 2), in pixels of the image
    height, width = image.shape[1:]
    fill = torch.tensor(FILL, dtype=torch.uint8)[:, None, None]
    if bool((linear.abs().sort(dim=1).values == torch.tensor([0.0, 1.0])).all()) and bool(
        (shift == shift.round()).all()
    ):
        x, y = found.floor().long().unbind(-1)
        outside = (x < 0) | (x >= width) | (y < 0) | (y >= height)
        moved = image[:, y.clamp(0, height - 1), x.clamp(0, width - 1)]
        return torch.where(outside, fill, moved)
    pixels = image[None].float()
    zoom = float(torch.linalg.det(linear).abs().sqrt())
    if zoom < 1.0:
        # Averaged first: bilinear weights reach one pixel and would skip some.
        smaller = (max(1, round(height * zoom)), max(1, round(width * zoom)))
        pixels = functional.interpolate(pixels, smaller, mode="bilinear", antialias=True, align_corners=False)
    normalised = (2 * found / torch.tensor([width, height], dtype=torch.float64) - 1).float()[None]
    sampled = functional.grid_sample(pixels, normalised, mode="bilinear", padding_mode="border", align_corners=False)[0]
    outside = (normalised.abs() > 1).any(dim=-1)
    return torch.where(outside, fill, sampled.round().clamp(0, 255).to(torch.uint8))
