"""Adaptive rotated convolution: kernels turned and mixed for every image before one convolution.

Pu et al., "Adaptive Rotated Convolution for Rotated Object Detection", ICCV 2023. A small routing network looks at the
input of the layer and gives an angle and a gate for each of n kernels; the turned kernels, weighted by their gates, add
up to one. By linearity that equals n convolutions, at the price of one.
"""

from __future__ import annotations

import math
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from .checks import require_floating, require_shape

Pair = int | tuple[int, ...]
# 40 degrees, as published.
MAX_ANGLE = math.radians(40.0)


def kernel_rotation_map(angles: Tensor, size: int) -> Tensor:
    """What turned kernels are made of: each cell bilinearly from the cells it falls between.

    Cell (u, v), u to the right and v down from the middle, takes the value at R(angle) (u, v), each coordinate clamped
    to the kernel: sampling turns clockwise on the screen, so the pattern turns counter-clockwise. Right angles permute
    the cells up to rounding. Up to 45 degrees and for size 3 this is the closed form of the paper's code.

    Args:
        angles: (...), radians.
        size: odd edge of the kernel.
    Returns:
        (..., size^2, size^2), rows are the new cells, columns the old ones, both row by row; rows sum to 1.

    >>> kernel = torch.arange(1.0, 10.0)
    >>> (kernel_rotation_map(torch.tensor(math.pi / 2), 3) @ kernel).view(3, 3).round().tolist()
    [[3.0, 6.0, 9.0], [2.0, 5.0, 8.0], [1.0, 4.0, 7.0]]
    """
    require_floating("angles", angles)
    if size < 1 or size % 2 == 0:
        raise ValueError(f"size: expected an odd number of cells, got {size}")
    reach = size // 2
    line = torch.arange(-reach, reach + 1, dtype=angles.dtype, device=angles.device)
    v, u = (each.flatten() for each in torch.meshgrid(line, line, indexing="ij"))
    cos, sin = angles.cos()[..., None], angles.sin()[..., None]
    columns = _between((cos * u - sin * v).clamp(-reach, reach), line)
    rows = _between((sin * u + cos * v).clamp(-reach, reach), line)
    return (rows[..., :, None] * columns[..., None, :]).flatten(-2)


def _between(place: Tensor, line: Tensor) -> Tensor:
    """(..., size): linear weights of the cells of a line for a place on it, with a slope also where it is whole."""
    if len(line) == 1:
        return torch.ones_like(place)[..., None]
    first = place.detach().floor().clamp(line[0].item(), line[-1].item() - 1)
    share = (place - first)[..., None]
    first = first[..., None]
    return (line == first) * (1 - share) + (line == first + 1) * share


def rotate_kernel(weight: Tensor, angles: Tensor) -> Tensor:
    """Kernels (..., C, k, k) turned by angles (...), all channels of one alike; see `kernel_rotation_map`.

    >>> rotate_kernel(torch.eye(3)[None], torch.tensor(math.pi / 2))[0].round().tolist()
    [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    """
    size = weight.shape[-1]
    require_shape("weight", weight, ..., "C", size, size)
    turned = weight.flatten(-2) @ kernel_rotation_map(angles, size).mT
    return turned.unflatten(-1, (size, size))


class ARCRouting(nn.Module):
    """Angle and gate of each kernel, from the input of the layer: the routing function of the paper.

    Args:
        channels: C, of the input.
        kernels: n.
        max_angle: angles are in (-max_angle, max_angle), radians; 0 leaves kernels unturned.
        dropout: probability, for angles and gates on their own.
    """

    def __init__(self, channels: int, kernels: int, *, max_angle: float = MAX_ANGLE, dropout: float = 0.2) -> None:
        super().__init__()
        self.max_angle = max_angle
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm = nn.LayerNorm(channels)
        self.gate_dropout, self.angle_dropout = nn.Dropout(dropout), nn.Dropout(dropout)
        self.gate = nn.Linear(channels, kernels)
        self.angle = nn.Linear(channels, kernels, bias=False)
        for weight in (self.depthwise.weight, self.gate.weight, self.angle.weight):
            nn.init.trunc_normal_(weight, std=0.02)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Angles (B, n) in radians and gates (B, n) in (0, 1) of x (B, C, H, W)."""
        seen = self.depthwise(x).permute(0, 2, 3, 1)
        pooled = functional.relu(self.norm(seen)).mean(dim=(1, 2))
        with torch.autocast(x.device.type, enabled=False):
            pooled = pooled.float() if pooled.dtype in (torch.float16, torch.bfloat16) else pooled
            gates = self.gate(self.gate_dropout(pooled)).sigmoid()
            angles = functional.softsign(self.angle(self.angle_dropout(pooled))) * self.max_angle
        return angles, gates


class ARCConv2d(nn.Module):
    """Adaptive rotated convolution, in place of `nn.Conv2d`: same arguments, input (B, C, H, W) and output.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias: as of `nn.Conv2d`; the kernel
            is square with an odd edge above 1, for 1x1 kernels look the same from all sides.
        kernels: n, kernels that are turned and mixed.
        max_angle: largest turn, radians.
        dropout: of the routing function.
        init: "each" gives every kernel the variance of an ordinary one (Kaiming, fan-out, ReLU), "published" that of
            the released code, which takes n for the number of outputs: a quarter for n = 4 and as many in as out.

    Shapes of the parameters: `weight` (n, out, in / groups, k, k), `bias` (out,).

    >>> layer = ARCConv2d(8, 16, 3, padding=1, stride=2)
    >>> layer(torch.zeros(2, 8, 10, 12)).shape
    torch.Size([2, 16, 5, 6])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair = 3,
        stride: Pair = 1,
        padding: Pair | str = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = False,
        *,
        kernels: int = 4,
        max_angle: float = MAX_ANGLE,
        dropout: float = 0.2,
        init: Literal["each", "published"] = "each",
    ) -> None:
        super().__init__()
        edge = _pair(kernel_size)
        if edge[0] != edge[1] or edge[0] % 2 == 0 or edge[0] == 1:
            raise ValueError(f"kernel_size: expected an odd square above 1, got {kernel_size}")
        if isinstance(padding, str):
            raise ValueError(f"padding: expected numbers, got {padding!r}")
        if kernels < 1:
            raise ValueError(f"kernels: expected at least 1, got {kernels}")
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"groups: expected a divisor of {in_channels} and {out_channels}, got {groups}")
        if init not in ("each", "published"):
            raise ValueError(f"init: expected 'each' or 'published', got {init!r}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = edge[0]
        self.stride, self.padding, self.dilation = _pair(stride), _pair(padding), _pair(dilation)
        self.kernels = kernels
        self.routing = ARCRouting(in_channels, kernels, max_angle=max_angle, dropout=dropout)
        # In memory (out, n, k, k, in): a view of it is what one product mixes, see `mixed`.
        empty = torch.empty(out_channels, kernels, *edge, in_channels // groups)
        self.weight = nn.Parameter(empty.permute(1, 0, 4, 2, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        fan = self.weight[0, 0, 0].numel() * (out_channels // groups if init == "each" else kernels * in_channels)
        nn.init.normal_(self.weight, std=math.sqrt(2.0 / fan))

    @classmethod
    def from_conv(
        cls,
        conv: nn.Conv2d,
        *,
        kernels: int = 4,
        max_angle: float = MAX_ANGLE,
        dropout: float = 0.2,
        noise: float = 0.01,
    ) -> Self:
        """A layer that begins as `conv`: with angles near 0 and gates near 1/2, each kernel is 2 / n of the given one.

        Args:
            conv: a convolution with zero padding.
            kernels, max_angle, dropout: as of the class.
            noise: standard deviation, relative to that of the weights, that tells the kernels apart.
        Raises:
            ValueError: a convolution that cannot be turned.
        """
        if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            raise ValueError(f"conv: expected zero padding in numbers, got {conv.padding_mode} {conv.padding!r}")
        layer = cls(
            conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation,
            conv.groups, conv.bias is not None, kernels=kernels, max_angle=max_angle, dropout=dropout,
        ).to(conv.weight)  # fmt: skip
        with torch.no_grad():
            spread = noise * conv.weight.std() if conv.weight.numel() > 1 else 0.0
            layer.weight.copy_((conv.weight + spread * torch.randn_like(layer.weight)) * (2.0 / kernels))
            nn.init.zeros_(layer.routing.gate.bias)
            if layer.bias is not None and conv.bias is not None:
                layer.bias.copy_(conv.bias)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """(B, out, H', W') of x (B, C, H, W)."""
        angles, gates = self.routing(x)
        return self.convolve(x, self.mixed(angles, gates))

    def mixed(self, angles: Tensor, gates: Tensor) -> Tensor:
        """The one kernel (B, out, in / groups, k, k) of each image, from angles and gates (B, n)."""
        n, out, channels, k, _ = self.weight.shape
        with torch.autocast(self.weight.device.type, enabled=False):
            turn = kernel_rotation_map(angles.to(self.weight.dtype), k) * gates.to(self.weight.dtype)[..., None, None]
            rows = turn.transpose(1, 2).reshape(-1, n * k * k)  # (image and new cell, kernel and old cell)
            # Turns and adds up at once; `matmul` would copy the weights where they need gradients.
            weight = self.weight.permute(1, 0, 3, 4, 2).reshape(out, n * k * k, channels)
            kernel = torch.bmm(rows.expand(out, -1, -1), weight)
        return kernel.view(out, -1, k, k, channels).permute(1, 0, 4, 2, 3)

    def convolve(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Each image with its own kernel."""
        device = x.device.type
        kernel = kernel.to(torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype)
        if torch.compiler.is_exporting() or len(x) == 0:
            return self.by_products(x, kernel)
        shape = self.stride, self.padding, self.dilation
        if x.is_cpu:
            # Convolutions with many groups are slow there.
            each = [
                functional.conv2d(one[None], weight, self.bias, *shape, self.groups)
                for one, weight in zip(x, kernel, strict=True)
            ]
            return torch.cat(each)
        # One convolution, whose groups are the images.
        batch, channels, height, width = x.shape
        bias = None if self.bias is None else self.bias.repeat(batch)
        joined = functional.conv2d(
            x.reshape(1, batch * channels, height, width),
            kernel.reshape(-1, *kernel.shape[2:]),
            bias,
            *shape,
            batch * self.groups,
        )
        return joined.view(batch, self.out_channels, *joined.shape[2:])

    def by_products(self, x: Tensor, kernel: Tensor) -> Tensor:
        """The same as matrix products, one per cell: it leaves the number of images open in an exported graph."""
        k = self.kernel_size
        padded = functional.pad(x, (self.padding[1], self.padding[1], self.padding[0], self.padding[0]))
        reach = [each * (k - 1) for each in self.dilation]
        height = (padded.shape[2] - reach[0] - 1) // self.stride[0] + 1
        width = (padded.shape[3] - reach[1] - 1) // self.stride[1] + 1
        total: Tensor | None = None
        for row in range(k):
            for column in range(k):
                top, left = row * self.dilation[0], column * self.dilation[1]
                seen = padded[
                    :,
                    :,
                    top : top + self.stride[0] * (height - 1) + 1 : self.stride[0],
                    left : left + self.stride[1] * (width - 1) + 1 : self.stride[1],
                ]
                seen = seen.reshape(x.shape[0], self.groups, self.in_channels // self.groups, height * width)
                weight = kernel[..., row, column].reshape(
                    x.shape[0], self.groups, self.out_channels // self.groups, self.in_channels // self.groups
                )
                product = weight @ seen
                total = product if total is None else total + product
        assert total is not None
        found = total.reshape(x.shape[0], self.out_channels, height, width)
        return found if self.bias is None else found + self.bias[:, None, None]

    def extra_repr(self) -> str:
        """Arguments, as `nn.Conv2d` shows them."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, kernels={self.kernels}, max_angle={self.routing.max_angle:.4g}"
        )


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
