"""Convolutional blocks of the equivariant neural renderer, for images and volumes alike."""

from __future__ import annotations

from torch import Tensor, nn

_SLOPE = 0.2


def normalised(channels: int) -> nn.GroupNorm:
    """Groups of eight channels; fewer channels are one group."""
    return nn.GroupNorm(max(1, channels // 8), channels)


def convolution(
    dim: int, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, *, up: bool = False
) -> nn.Sequential:
    """Norm, leaky ReLU and a convolution with bias, or a transposed one; kernels of 4 halve or double the sides.

    Args:
        dim: 2 for images, 3 for volumes.
        inputs, outputs: channels.
        kernel, stride: of the convolution; a kernel above 1 is padded by 1.
        up: transposed.
    """
    kinds = {(2, False): nn.Conv2d, (2, True): nn.ConvTranspose2d, (3, False): nn.Conv3d, (3, True): nn.ConvTranspose3d}
    layer = kinds[dim, up](inputs, outputs, kernel, stride, padding=0 if kernel == 1 else 1)
    return nn.Sequential(normalised(inputs), nn.LeakyReLU(_SLOPE), layer)


class Residual(nn.Module):
    """x + 1x1, 3x3 and 1x1 convolutions without biases, each after norm and leaky ReLU.

    Args:
        dim: 2 for images, 3 for volumes.
        channels: in, between and out.
    """

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        kind = nn.Conv2d if dim == 2 else nn.Conv3d
        layers: list[nn.Module] = []
        for kernel in (1, 3, 1):
            layers += [
                normalised(channels), nn.LeakyReLU(_SLOPE), kind(channels, channels, kernel, padding=kernel // 2,
                                                                 bias=False),
            ]  # fmt: skip
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Of the same shape."""
        result: Tensor = x + self.layers(x)
        return result


def residuals(dim: int, channels: int, count: int) -> list[nn.Module]:
    """Several `Residual`s in a row."""
    return [Residual(dim, channels) for _ in range(count)]
