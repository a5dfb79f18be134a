"""Anchors: the references that dense detectors start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Anchors:
    """Axis-aligned anchors on every cell of every level, without a turn.

    Args:
        strides: of the levels, pixels.
        scales: edges of square anchors, in strides.
        ratios: height over width, at equal area.

    >>> rpn = Anchors((4, 8, 16, 32, 64), (8.0,), (0.5, 1.0, 2.0))
    >>> sum(len(level) for level in rpn([(1024 // s, 1024 // s) for s in rpn.strides]))
    261888
    """

    strides: tuple[int, ...]
    scales: tuple[float, ...]
    ratios: tuple[float, ...]

    @property
    def per_cell(self) -> int:
        """Anchors of one cell."""
        return len(self.scales) * len(self.ratios)

    def __call__(
        self, shapes: Sequence[tuple[int, int]], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> list[Tensor]:
        """Per level (H W per_cell, 4) x1 y1 x2 y2, cells row by row, for levels of shapes (H, W).

        Centres are at whole multiples of the stride.
        """
        if len(shapes) != len(self.strides):
            raise ValueError(f"shapes: expected one per stride, {len(self.strides)}, got {len(shapes)}")
        return [self._level(stride, shape, device, dtype) for stride, shape in zip(self.strides, shapes, strict=True)]

    def _level(self, stride: int, shape: tuple[int, int], device: torch.device | str, dtype: torch.dtype) -> Tensor:
        root = torch.tensor(self.ratios, dtype=torch.float64).sqrt()
        edge = stride * torch.tensor(self.scales, dtype=torch.float64)
        sides = torch.stack([edge / root[:, None], edge * root[:, None]], dim=-1).flatten(0, 1).to(device, dtype)
        y, x = torch.meshgrid(
            *(torch.arange(count, device=device, dtype=dtype) * stride for count in shape), indexing="ij"
        )
        centres = torch.stack([x, y], dim=-1).reshape(-1, 1, 2)
        return torch.cat([centres - sides / 2, centres + sides / 2], dim=-1).flatten(0, 1)


RPN_ANCHORS = Anchors((4, 8, 16, 32, 64), (8.0,), (0.5, 1.0, 2.0))
RETINA_ANCHORS = Anchors((8, 16, 32, 64, 128), tuple(4 * 2 ** (k / 3) for k in range(3)), (1.0, 0.5, 2.0))
