"""Feature pyramid networks (Lin et al., CVPR 2017), as two-stage detectors and as RetinaNet use them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional


class FPN(nn.Module):
    """Levels of one number of channels, each with what the coarser ones have seen.

    Args:
        in_channels: of C2 to C5.
        out_channels: of all levels.
        extra: "pool" for two-stage detectors: P2 to P5, and P6, every second pixel of P5. "convolution" for RetinaNet:
            P3 to P5; P6, a strided convolution of C5; and P7, one of P6.

    >>> import torch
    >>> levels = [torch.zeros(1, 8 * 2**k, 32 // 2**k, 32 // 2**k) for k in range(4)]
    >>> [tuple(level.shape[2:]) for level in FPN((8, 16, 32, 64), 16)(levels)]
    [(32, 32), (16, 16), (8, 8), (4, 4), (2, 2)]
    >>> [tuple(level.shape[2:]) for level in FPN((8, 16, 32, 64), 16, extra="convolution")(levels)]
    [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]
    """

    def __init__(
        self, in_channels: Sequence[int], out_channels: int = 256, *, extra: Literal["pool", "convolution"] = "pool"
    ) -> None:
        super().__init__()
        if extra not in ("pool", "convolution"):
            raise ValueError(f"extra: expected 'pool' or 'convolution', got {extra!r}")
        if len(in_channels) != 4:
            raise ValueError(f"in_channels: expected those of four stages, got {len(in_channels)}")
        self.first = 0 if extra == "pool" else 1
        used = in_channels[self.first :]
        self.lateral = nn.ModuleList(nn.Conv2d(channels, out_channels, 1) for channels in used)
        self.output = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in used)
        coarser = (in_channels[-1], out_channels) if extra == "convolution" else ()
        self.coarser = nn.ModuleList(nn.Conv2d(channels, out_channels, 3, 2, 1) for channels in coarser)
        self.strides = tuple(4 * 2**level for level in range(self.first, self.first + 5))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Five levels, at `strides`, of C2 to C5."""
        used = features[self.first :]
        levels = [lateral(each) for lateral, each in zip(self.lateral, used, strict=True)]
        for number in range(len(levels) - 1, 0, -1):
            size = levels[number - 1].shape[2:]
            levels[number - 1] = levels[number - 1] + functional.interpolate(levels[number], size, mode="nearest")
        levels = [output(each) for output, each in zip(self.output, levels, strict=True)]
        if not self.coarser:
            return [*levels, functional.max_pool2d(levels[-1], 1, 2)]
        coarse = features[-1]
        for convolution in self.coarser:
            coarse = convolution(coarse)
            levels.append(coarse)
        return levels
