"""ResNet backbones, plain and with adaptive rotated convolutions.

He et al., CVPR 2016, the variant whose 3x3 convolutions carry the stride; parameters are named as in the common public
checkpoints, so that those load strictly. With ARC (Pu et al., ICCV 2023), the 3x3 convolution of every bottleneck in
the chosen stages is an `ARCConv2d`; of a basic block, both are, since neither is more central than the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from rotaware.geo.arc import MAX_ANGLE, ARCConv2d
from rotaware.geo.checks import require_state

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


@dataclass(frozen=True)
class ResNetConfig:
    """A backbone.

    Args:
        depth: 18, 34 (basic blocks), 50 or 101 (bottlenecks).
        width: channels of the first stage; 64 as published.
        arc_stages: stages, 1 to 4, with adaptive rotated convolutions; (2, 3, 4) as published, () for none.
        arc_kernels, arc_max_angle, arc_dropout: of `ARCConv2d`; the angle in radians.
        frozen_stages: 1 freezes the stem and the first stage, and so on; 0 nothing.
        frozen_norms: batch normalisation uses its running statistics in training as well, as with pretrained weights.
        checkpointing: recompute each block in the backward pass instead of keeping its activations.
    """

    depth: int = 50
    width: int = 64
    arc_stages: tuple[int, ...] = ()
    arc_kernels: int = 4
    arc_max_angle: float = MAX_ANGLE
    arc_dropout: float = 0.2
    frozen_stages: int = 0
    frozen_norms: bool = False
    checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.depth not in BLOCKS:
            raise ValueError(f"depth: expected one of {', '.join(map(str, BLOCKS))}, got {self.depth}")
        if not set(self.arc_stages) <= {1, 2, 3, 4}:
            raise ValueError(f"arc_stages: expected stages from 1 to 4, got {self.arc_stages}")
        if not 0 <= self.frozen_stages <= 4:
            raise ValueError(f"frozen_stages: expected 0 to 4, got {self.frozen_stages}")
        if self.width < 1 or self.arc_kernels < 1:
            raise ValueError(f"width, arc_kernels: expected at least 1, got {self.width} and {self.arc_kernels}")


class _Block(nn.Module):
    """What basic blocks and bottlenecks share."""

    downsample: nn.Sequential | None

    def shortcut(self, x: Tensor) -> Tensor:
        return x if self.downsample is None else cast(Tensor, self.downsample(x))


class BasicBlock(_Block):
    """Two 3x3 convolutions."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int, arc: Mapping[str, Any] | None) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv3x3(channels, width, stride, arc), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv3x3(width, width, 1, arc), nn.BatchNorm2d(width)
        self.downsample = _downsample(channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H / stride, W / stride)."""
        out = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        return functional.relu(self.bn2(self.conv2(out)) + self.shortcut(x), inplace=True)


class Bottleneck(_Block):
    """1x1, 3x3 with the stride, 1x1."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int, arc: Mapping[str, Any] | None) -> None:
        super().__init__()
        out = width * self.expansion
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv3x3(width, width, stride, arc), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out)
        self.downsample = _downsample(channels, out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 4 width, H / stride, W / stride)."""
        out = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        out = functional.relu(self.bn2(self.conv2(out)), inplace=True)
        return functional.relu(self.bn3(self.conv3(out)) + self.shortcut(x), inplace=True)


def _conv3x3(channels: int, width: int, stride: int, arc: Mapping[str, Any] | None) -> nn.Module:
    if arc is None:
        return nn.Conv2d(channels, width, 3, stride, 1, bias=False)
    return ARCConv2d(channels, width, 3, stride, 1, **arc)


def _downsample(channels: int, out: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and channels == out:
        return None
    return nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))


class ResNet(nn.Module):
    """Features of four stages, C2 to C5, at strides 4, 8, 16 and 32.

    `channels` holds their numbers of channels.

    >>> from rotaware.detection.resnet import ResNet, ResNetConfig
    >>> backbone = ResNet(ResNetConfig(18, arc_stages=(2, 3, 4))).eval()
    >>> [tuple(level.shape) for level in backbone(torch.zeros(1, 3, 64, 96))]
    [(1, 64, 16, 24), (1, 128, 8, 12), (1, 256, 4, 6), (1, 512, 2, 3)]
    """

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        kind = BasicBlock if config.depth < 50 else Bottleneck
        arc = {"kernels": config.arc_kernels, "max_angle": config.arc_max_angle, "dropout": config.arc_dropout}
        self.conv1 = nn.Conv2d(3, config.width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(config.width)
        channels = config.width
        for stage, count in enumerate(BLOCKS[config.depth], start=1):
            width = config.width * 2 ** (stage - 1)
            options = arc if stage in config.arc_stages else None
            blocks = []
            for number in range(count):
                stride = 2 if number == 0 and stage > 1 else 1
                blocks.append(kind(channels, width, stride, options))
                channels = width * kind.expansion
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.channels = tuple(config.width * 2**stage * kind.expansion for stage in range(4))
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.groups == 1:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, _Block):
                # A block begins as its shortcut (Goyal et al., 2017).
                last = module.bn3 if isinstance(module, Bottleneck) else module.bn2
                nn.init.zeros_(cast(nn.BatchNorm2d, last).weight)
        self._freeze()

    def stage(self, number: int) -> nn.Sequential:
        """Blocks of a stage, 1 to 4."""
        return cast(nn.Sequential, getattr(self, f"layer{number}"))

    def forward(self, images: Tensor) -> list[Tensor]:
        """C2 to C5 of images (B, 3, H, W), normalised."""
        x = functional.relu(self.bn1(self.conv1(images)), inplace=True)
        x = functional.max_pool2d(x, 3, 2, 1)
        levels = []
        for number in range(1, 5):
            for block in self.stage(number):
                keeps = not self.config.checkpointing or not torch.is_grad_enabled()
                x = block(x) if keeps else cast(Tensor, checkpoint(block, x, use_reentrant=False))
            levels.append(x)
        return levels

    def train(self, mode: bool = True) -> ResNet:
        """Training mode, but for what is frozen."""
        super().train(mode)
        if mode:
            for part in self._frozen():
                part.eval()
            for module in self.modules() if self.config.frozen_norms else ():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def _frozen(self) -> list[nn.Module]:
        """Parts that are not trained."""
        if self.config.frozen_stages == 0:
            return []
        return [self.conv1, self.bn1, *(self.stage(number) for number in range(1, self.config.frozen_stages + 1))]

    def _freeze(self) -> None:
        for part in self._frozen():
            part.requires_grad_(False)


def load_resnet(model: ResNet, state: Mapping[str, Tensor], *, noise: float = 0.01) -> None:
    """Load a public ResNet checkpoint, all of it or nothing.

    The classifier `fc` is left out. Where `model` has an adaptive rotated convolution and the checkpoint a plain one,
    the layer begins as that convolution (`ARCConv2d.from_conv`); a checkpoint with such layers loads as it is.

    Args:
        model: to fill.
        state: tensors by the names of the common public checkpoints, such as `layer1.0.conv1.weight`.
        noise: of `ARCConv2d.from_conv`.
    Raises:
        ValueError: names every tensor that is missing, unexpected or of another shape; the model stays as it was.
    """
    given = {name: value for name, value in state.items() if not name.startswith("fc.")}
    converted = dict(given)
    for name, module in model.named_modules():
        if isinstance(module, ARCConv2d) and f"{name}.routing.gate.weight" not in given and f"{name}.weight" in given:
            weight = given[f"{name}.weight"]
            if weight.shape != module.weight.shape[1:]:
                continue
            conv = nn.Conv2d(
                module.in_channels, module.out_channels, module.kernel_size, module.stride, module.padding,
                module.dilation, module.groups, bias=False,
            )  # fmt: skip
            conv.weight = nn.Parameter(weight.detach().clone())
            routing = module.routing
            layer = ARCConv2d.from_conv(conv, kernels=module.kernels, max_angle=routing.max_angle, noise=noise)
            converted |= {f"{name}.{key}": value for key, value in layer.state_dict().items()}
    expected = model.state_dict()
    # Checkpoints from before 2017 do not count batches.
    for name, value in expected.items():
        if name.endswith("num_batches_tracked"):
            converted.setdefault(name, value)
    require_state("state", converted, expected)
    model.load_state_dict(converted)
