"""The equivariant neural renderer: an image becomes a volume that can be turned, and the volume an image.

Dupont et al., "Equivariant Neural Rendering", ICML 2020, in the form of Khazoum et al., arXiv 2512.13517, module I.
That turning the volume is turning the object is learnt; only the turning itself is geometry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from rotaware.geo.checks import require_shape
from rotaware.geo.volumes import ball_mask, orbit_rotation, rotate_volume

from .blocks import convolution, normalised, residuals

# From the camera's (right, up, toward) to the volume's (toward, down, right).
_AXES = ((0.0, 0.0, 1.0), (0.0, -1.0, 0.0), (1.0, 0.0, 0.0))


@dataclass(frozen=True)
class RendererConfig:
    """A renderer; the defaults are those of the paper: 11.42 million parameters.

    Args:
        image: edge of the images in pixels, four times that of the volume.
        image_channels: 3, or 1 for grey ones.
        width: channels of the image part, half as many at its outer end and twice as many at its inner one.
        latent_channels: of the volume.
        lift_channels: of what the image becomes before the volume is worked on.
        volume_width: channels of the middle of the volume part.
        gravity: degrees by which the camera is above. If given, volumes stand upright instead of being tilted as the
            camera sees them, so that quarter turns about the vertical move whole voxels.
    """

    image: int = 128
    image_channels: int = 3
    width: int = 128
    latent_channels: int = 64
    lift_channels: int = 32
    volume_width: int = 128
    gravity: float | None = None

    def __post_init__(self) -> None:
        widths = self.width, self.latent_channels, self.lift_channels, self.volume_width
        if self.image < 16 or self.image % 16 or min(widths) < 8 or any(width % 8 for width in widths):
            raise ValueError(
                "image, width, latent_channels, lift_channels, volume_width: expected multiples of 16, and of 8, got "
                f"{self.image} and {', '.join(map(str, widths))}"
            )

    @property
    def latent(self) -> int:
        """Edge of the volume."""
        return self.image // 4

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Self:
        """From plain data, as `to_dict` gives it."""
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


class Encoder(nn.Module):
    """From images (B, C, S, S) in [0, 1] to volumes (B, latent_channels, S/4, S/4, S/4), zero outside of a ball."""

    def __init__(self, config: RendererConfig) -> None:
        super().__init__()
        self.config = config
        half, width, twice = config.width // 2, config.width, 2 * config.width
        size, lifted, middle = config.latent, config.lift_channels, config.volume_width
        self.image = nn.Sequential(
            nn.Conv2d(config.image_channels, half, 1), normalised(half), nn.LeakyReLU(0.2),
            *residuals(2, half, 2),
            convolution(2, half, width, 4, 2), *residuals(2, width, 1),
            convolution(2, width, width, 4, 2), *residuals(2, width, 1),
            convolution(2, width, twice, 4, 2), *residuals(2, twice, 1),
            convolution(2, twice, width, 4, 2, up=True), *residuals(2, width, 2),
        )  # fmt: skip
        self.lift = nn.Sequential(
            convolution(2, width, twice), convolution(2, twice, 2 * twice), convolution(2, 2 * twice, lifted * size)
        )
        self.volume = nn.Sequential(
            convolution(3, lifted, lifted), *residuals(3, lifted, 2),
            convolution(3, lifted, middle, 4, 2), *residuals(3, middle, 2),
            convolution(3, middle, config.latent_channels, 4, 2, up=True),
            *residuals(3, config.latent_channels, 2),
        )  # fmt: skip
        self.register_buffer("mask", ball_mask(size), persistent=False)
        self.mask: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """The volumes, upright if the configuration says so."""
        config = self.config
        require_shape("images", images, "B", config.image_channels, config.image, config.image)
        lifted = self.lift(self.image(images))
        volume: Tensor = self.volume(lifted.unflatten(1, (config.lift_channels, config.latent))) * self.mask
        return volume if config.gravity is None else rotate_volume(volume, tilt(config.gravity).to(volume))


class Decoder(nn.Module):
    """From volumes to images, the encoder the other way round."""

    def __init__(self, config: RendererConfig) -> None:
        super().__init__()
        self.config = config
        half, width, twice = config.width // 2, config.width, 2 * config.width
        size, lifted, middle = config.latent, config.lift_channels, config.volume_width
        self.volume = nn.Sequential(
            *residuals(3, config.latent_channels, 2),
            convolution(3, config.latent_channels, middle, 4, 2), *residuals(3, middle, 2),
            convolution(3, middle, lifted, 4, 2, up=True), *residuals(3, lifted, 2),
            convolution(3, lifted, lifted),
        )  # fmt: skip
        self.project = nn.Sequential(
            convolution(2, lifted * size, 2 * twice), convolution(2, 2 * twice, twice), convolution(2, twice, width)
        )
        self.image = nn.Sequential(
            *residuals(2, width, 2),
            convolution(2, width, twice, 4, 2), *residuals(2, twice, 1),
            convolution(2, twice, width, 4, 2, up=True), *residuals(2, width, 1),
            convolution(2, width, width, 4, 2, up=True), *residuals(2, width, 1),
            convolution(2, width, half, 4, 2, up=True), *residuals(2, half, 2),
            nn.Conv2d(half, config.image_channels, 1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, volumes: Tensor) -> Tensor:
        """The images in [0, 1]."""
        config = self.config
        require_shape("volumes", volumes, "B", config.latent_channels, *[config.latent] * 3)
        if config.gravity is not None:
            volumes = rotate_volume(volumes, tilt(config.gravity).T.to(volumes))
        images: Tensor = self.image(self.project(self.volume(volumes).flatten(1, 2)))
        return images


class EquivariantRenderer(nn.Module):
    """Encoder and decoder.

    >>> small = RendererConfig(image=32, width=16, latent_channels=8, lift_channels=8, volume_width=16)
    >>> renderer = EquivariantRenderer(small)
    >>> volume = renderer.encode(torch.rand(2, 3, 32, 32))
    >>> volume.shape, renderer.decode(turned_by(volume, 90.0)).shape
    (torch.Size([2, 8, 8, 8, 8]), torch.Size([2, 3, 32, 32]))
    """

    def __init__(self, config: RendererConfig | None = None) -> None:
        super().__init__()
        self.config = config or RendererConfig()
        self.encode, self.decode = Encoder(self.config), Decoder(self.config)

    def forward(self, images: Tensor, rotations: Tensor) -> Tensor:
        """Images (B, C, S, S) as they look when the objects are turned by (B, 3, 3), on the axes of the volume."""
        volumes: Tensor = self.encode(images)
        found: Tensor = self.decode(rotate_volume(volumes, rotations.to(volumes), "trilinear"))
        return found


def view_change(before: tuple[float, float], after: tuple[float, float], *, gravity: bool = False) -> Tensor:
    """(3, 3) float64: how a volume turns when the camera moves, both places as azimuth and elevation in degrees.

    Args:
        before, after: where the camera was and is.
        gravity: of upright volumes, which only azimuth turns.

    >>> view_change((20.0, 25.0), (110.0, 25.0), gravity=True).round().tolist()
    [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]]
    """
    if gravity:
        before, after = (before[0], 0.0), (after[0], 0.0)
    axes = torch.tensor(_AXES, dtype=torch.float64)
    return axes @ orbit_rotation(*after) @ orbit_rotation(*before).T @ axes.T


def tilt(elevation: float) -> Tensor:
    """(3, 3) float64: makes a volume upright that was seen from above by so many degrees.

    >>> tilt(0.0).tolist() == torch.eye(3).tolist()
    True
    """
    return view_change((0.0, elevation), (0.0, 0.0))


def turned_by(volumes: Tensor, degrees: float, elevation: float | None = None) -> Tensor:
    """Volumes as they are when the camera goes around the object by `degrees`.

    Args:
        volumes: (B, C, N, N, N).
        degrees: of azimuth; for upright volumes, multiples of 90 move whole voxels.
        elevation: of the camera above the object for volumes as it sees them; None for upright ones.
    """
    before, after = (0.0, elevation or 0.0), (degrees, elevation or 0.0)
    return rotate_volume(volumes, view_change(before, after).to(volumes))
