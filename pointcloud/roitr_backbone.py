"""RoITr's encoder and decoder over the levels of a `Pyramid`, on neighborhood attention with point pair features."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from rotaware.kernels import Level, PPFAttention, Pyramid, segment_mean, segment_repeat

from .roitr_config import RoITrConfig


class Block(nn.Module):
    """Attention within a level, a norm, a residual."""

    def __init__(self, channels: int, heads: int, pair_channels: int) -> None:
        super().__init__()
        self.attention = PPFAttention(
            channels, channels, hidden_channels=channels, num_heads=heads, pair_channels=pair_channels
        )
        self.norm = nn.LayerNorm(channels)

    def forward(self, features: Tensor, level: Level) -> Tensor:
        """(N, channels) of (N, channels), the points of the level."""
        return (self.norm(self.attention(features, level.neighborhood, level.pair_features)) + features).relu()


class EncoderLevel(nn.Module):
    """Attention from the finer level to the points of this one, then blocks within."""

    def __init__(self, in_channels: int, channels: int, blocks: int, heads: int, pair_channels: int) -> None:
        super().__init__()
        self.down = PPFAttention(
            in_channels, channels, hidden_channels=channels, num_heads=heads, pair_channels=pair_channels
        )
        self.blocks = nn.ModuleList(Block(channels, heads, pair_channels) for _ in range(blocks))

    def forward(self, features: Tensor, level: Level) -> Tensor:
        """(M, channels) of features (N, in_channels) of the finer level."""
        if level.rows is None:
            features = self.down(features, level.neighborhood, level.pair_features)
        else:
            features = self.down(features, level.down, level.down_pair_features, query_rows=level.rows)
        for block in self.blocks:
            features = block(features, level)
        return features


class DecoderTop(nn.Module):
    """The coarsest level, told the mean of its cloud."""

    def __init__(self, channels: int, heads: int, pair_channels: int) -> None:
        super().__init__()
        self.merge = nn.Sequential(nn.Linear(2 * channels, channels), nn.LayerNorm(channels), nn.ReLU())
        self.summary = nn.Sequential(nn.Linear(channels, channels), nn.ReLU())
        self.block = Block(channels, heads, pair_channels)

    def forward(self, features: Tensor, level: Level) -> Tensor:
        """(N, channels) of (N, channels)."""
        summary = self.summary(segment_mean(features, level.ptr))
        merged = self.merge(torch.cat([features, segment_repeat(summary, level.ptr)], dim=1))
        return self.block(merged, level)


class DecoderLevel(nn.Module):
    """A finer level, joined by what the coarser one knows."""

    def __init__(self, channels: int, coarser_channels: int, heads: int, pair_channels: int) -> None:
        super().__init__()
        self.skip = nn.Sequential(nn.Linear(channels, channels), nn.LayerNorm(channels), nn.ReLU())
        self.up = nn.Sequential(nn.Linear(coarser_channels, channels), nn.LayerNorm(channels), nn.ReLU())
        self.block = Block(channels, heads, pair_channels)

    def forward(self, skip: Tensor, coarser: Tensor, level: Level, coarser_level: Level) -> Tensor:
        """(N, channels) of the encoder's features (N, channels) and of the coarser level (M, coarser_channels)."""
        return self.block(self.skip(skip) + coarser_level.upsample(self.up(coarser)), level)


class Backbone(nn.Module):
    """Point features that know their own cloud, and the superpoint features below them."""

    def __init__(self, config: RoITrConfig) -> None:
        super().__init__()
        widths, heads, pair_channels = config.widths, config.heads, config.pair_channels
        self.encoder = nn.ModuleList(
            EncoderLevel(before, width, blocks, heads, pair_channels)
            for before, width, blocks in zip((1, *widths[:-1]), widths, config.blocks, strict=True)
        )
        self.top = DecoderTop(widths[-1], heads, pair_channels)
        self.decoder = nn.ModuleList(
            DecoderLevel(width, coarser, heads, pair_channels) for width, coarser in pairwise(widths)
        )

    def forward(self, pyramid: Pyramid) -> tuple[Tensor, Tensor]:
        """Features of the superpoints (S, widths[-1]) and of the points (N, widths[0]), in the pyramid's order."""
        weight = self.top.block.norm.weight
        features = torch.ones(len(pyramid.points), 1, device=weight.device, dtype=weight.dtype)
        encoded = []
        for stage, level in zip(self.encoder, pyramid.levels, strict=True):
            features = stage(features, level)
            encoded.append(features)
        decoded = self.top(encoded[-1], pyramid.levels[-1])
        for i in range(len(self.decoder) - 1, -1, -1):
            decoded = self.decoder[i](encoded[i], decoded, pyramid.levels[i], pyramid.levels[i + 1])
        return encoded[-1], decoded
