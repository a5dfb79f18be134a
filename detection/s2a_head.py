"""The head of S2A-Net: boxes are found coarsely, features are aligned with them, and the boxes are found again.

Han et al., "Align Deep Features for Oriented Object Detection", TGRS 2021.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from .box_coders import RotatedCoder
from .retina_head import RetinaHead, RetinaHeadOptions
from .structures import Targets

ORIENTATIONS = 8
# Cells of a 3x3 kernel around the middle one, clockwise; an eighth of a turn moves each to the next.
RING = (0, 1, 2, 5, 8, 7, 6, 3)


class AlignConv(nn.Module):
    """A 3x3 convolution whose cells lie on the box that the place has found, instead of on the grid.

    Args:
        channels: in and out.

    >>> AlignConv(4)(torch.zeros(2, 4, 5, 6), torch.ones(2, 30, 5), stride=8).shape
    torch.Size([2, 4, 5, 6])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3))
        nn.init.normal_(self.weight, std=0.01)

    def forward(self, features: Tensor, boxes: Tensor, stride: int) -> Tensor:
        """(B, C, H, W) of features (B, C, H, W) and boxes (B, H W, 5), in pixels of the image, row by row.

        A box on its anchor, of three strides, gives the ordinary convolution. What lies outside is 0. No gradient to
        the boxes.
        """
        batch, _, height, width = features.shape
        cx, cy, w, h, theta = boxes.detach().float().view(batch, height, 1, width, 1, 5).unbind(-1)
        step = torch.arange(-1.0, 2.0, device=boxes.device)
        along, across = step * w / 3, step[:, None, None] * h / 3  # (B, H, 1, W, 3), (B, H, 3, W, 1)
        cos, sin = theta.cos(), theta.sin()
        places = torch.stack([cx + along * cos - across * sin, cy + along * sin + across * cos], dim=-1) / stride
        # Anchors are centred at whole multiples of the stride: there, a place counts pixels from the first one.
        grid = (2 * places + 1) / places.new_tensor([width, height]) - 1
        grid = grid.view(batch, 3 * height, 3 * width, 2).to(features.dtype)
        sampled = functional.grid_sample(features, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return functional.conv2d(sampled, self.weight, stride=3)


class ActiveRotatingConv(nn.Module):
    """A 3x3 convolution with each filter in eight orientations (Zhou et al., CVPR 2017).

    Args:
        channels: of the input.
        filters: the output has eight times as many channels; the orientations of a filter lie side by side.

    >>> ActiveRotatingConv(4, 2)(torch.zeros(1, 4, 5, 6)).shape
    torch.Size([1, 16, 5, 6])
    """

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(filters, channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(filters))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        cells = torch.full((ORIENTATIONS, 9), 4)
        for turn in range(ORIENTATIONS):
            cells[turn, list(RING)] = torch.tensor(RING).roll(turn)
        self.register_buffer("cells", cells, persistent=False)
        self.cells: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(B, 8 filters, H, W) of x (B, C, H, W)."""
        turned = self.weight.flatten(2)[:, :, self.cells].transpose(1, 2).reshape(-1, self.weight.shape[1], 3, 3)
        return functional.conv2d(x, turned, self.bias.repeat_interleave(ORIENTATIONS), padding=1)


class S2AHead(nn.Module):
    """A first head on one square anchor per cell, and a second one that starts from its boxes.

    Between them, features are sampled on the boxes (`AlignConv`) and seen by filters in eight orientations
    (`ActiveRotatingConv`): boxes are read from all of them, classes from the strongest.

    Args:
        channels: of the levels, a multiple of 8.
        classes: number of classes.
        strides: of the levels.
        convolutions, options: of both heads, see `RetinaHead`.
    """

    def __init__(
        self, channels: int, classes: int, strides: Sequence[int], convolutions: int, options: RetinaHeadOptions
    ) -> None:
        super().__init__()
        if channels % ORIENTATIONS:
            raise ValueError(f"channels: expected a multiple of {ORIENTATIONS}, got {channels}")
        self.strides = tuple(strides)
        self.first = RetinaHead(channels, classes, 1, convolutions, 1 / 9, options)
        self.align = AlignConv(channels)
        self.turn = ActiveRotatingConv(channels, channels // ORIENTATIONS)
        self.second = RetinaHead(
            channels, classes, 1, convolutions, 1 / 9, options, class_channels=channels // ORIENTATIONS
        )

    def forward(
        self, levels: Sequence[Tensor], references: Sequence[Tensor]
    ) -> tuple[tuple[list[Tensor], list[Tensor]], list[Tensor], tuple[list[Tensor], list[Tensor]]]:
        """Logits and offsets of the first head, boxes (B, A, 5) per level that it leads to, those of the second."""
        logits, corrections = self.first(levels)
        boxes, seen = [], []
        for level, reference, offsets, stride in zip(levels, references, corrections, self.strides, strict=True):
            found = RotatedCoder().decode_in_frame(reference.flatten(0, 1), offsets.detach().flatten(0, 1))
            boxes.append(found.view_as(offsets))
            aligned = functional.relu(self.align(level, boxes[-1], stride), inplace=True)
            seen.append(self.turn(aligned))
        strongest = [each.unflatten(1, (-1, ORIENTATIONS)).amax(dim=2) for each in seen]
        return (logits, corrections), boxes, self.second(seen, strongest)

    def losses(
        self, levels: Sequence[Tensor], references: Sequence[Tensor], targets: Sequence[Targets]
    ) -> dict[str, Tensor]:
        """Of both heads."""
        (logits, offsets), boxes, (second_logits, second_offsets) = self(levels, references)
        coarse = self.first.losses(references, logits, offsets, targets)
        fine = self.second.losses(boxes, second_logits, second_offsets, targets)
        return {f"first_{name}": value for name, value in coarse.items()} | fine

    def candidates(self, levels: Sequence[Tensor], references: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Boxes (B, P, 5) and scores (B, P, classes) of the second head, see `RetinaHead.candidates`."""
        _, boxes, second = self(levels, references)
        return self.second.candidates(boxes, *second)
