"""From a volume to what can be said about the object in it: nine moves, one after the other.

Khazoum et al., arXiv 2512.13517, module II: a vision transformer on patches of the volume and a decoder that reads its
tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from rotaware.geo.checks import require_shape

from .agent import DIRECTIONS, MOVES

# The token before the first move.
_START = DIRECTIONS


@dataclass(frozen=True)
class VisionConfig:
    """A vision symbolic model; the defaults are those of the paper: 19.15 million parameters.

    Args:
        volume: edge of the volumes.
        channels: of them.
        patch: edge of the patches.
        stem: channels of a 3x3x3 convolution before the patches; None makes patches of each channel by itself.
        width: of the tokens.
        heads: of attention.
        layers, decoder_layers: of the encoder and the decoder.
        decoder_hidden: width within the layers of the decoder.
        dropout, decoder_dropout: of both.
    """

    volume: int = 32
    channels: int = 64
    patch: int = 8
    stem: int | None = None
    width: int = 384
    heads: int = 6
    layers: int = 6
    decoder_layers: int = 3
    decoder_hidden: int = 2048
    dropout: float = 0.3
    decoder_dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.volume % self.patch or self.width % self.heads or (self.stem is None and self.width % self.channels):
            raise ValueError(
                "volume, width: expected multiples of patch, and of heads and (without a stem) of channels, got "
                f"{self.volume} for {self.patch} and {self.width} for {self.heads} and {self.channels}"
            )

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Self:
        """From plain data, as `to_dict` gives it."""
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


class _Block(nn.Module):
    """Attention and two layers, each after a norm and beside a shortcut."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.width
        self.heads, self.dropout = config.heads, config.dropout
        self.norm, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Sequential(nn.Linear(width, width), nn.Dropout(config.dropout))
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(4 * width, width),
            nn.Dropout(config.dropout),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        seen = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return cast(Tensor, x + self.mlp(self.norm2(x)))


class VolumeTransformer(nn.Module):
    """Tokens (B, 1 + patches, width) of volumes (B, C, N, N, N)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        patch, width = config.patch, config.width
        if config.stem is None:
            self.patches: nn.Module = nn.Conv3d(config.channels, width, patch, patch, groups=config.channels)
        else:
            self.patches = nn.Sequential(
                nn.Conv3d(config.channels, config.stem, 3, padding=1), nn.GELU(),
                nn.Conv3d(config.stem, width, patch, patch),
            )  # fmt: skip
        count = (config.volume // patch) ** 3
        self.first = nn.Parameter(torch.randn(1, 1, width))
        self.places = nn.Parameter(torch.randn(1, 1 + count, width))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.Sequential(*(_Block(config) for _ in range(config.layers)))
        self.norm = nn.LayerNorm(width)

    def forward(self, volumes: Tensor) -> Tensor:
        config = self.config
        require_shape("volumes", volumes, "B", config.channels, config.volume, config.volume, config.volume)
        patches = self.patches(volumes).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.first.expand(len(volumes), -1, -1), patches], dim=1) + self.places
        return cast(Tensor, self.norm(self.blocks(self.dropout(tokens))))


class VisionSymbolicModel(nn.Module):
    """Scores of nine moves of six directions, read off a volume.

    >>> small = VisionConfig(volume=8, channels=2, patch=4, width=16, heads=2, layers=1, decoder_layers=1)
    >>> model = VisionSymbolicModel(small).eval()
    >>> model.describe(torch.rand(3, 2, 8, 8, 8)).shape
    torch.Size([3, 9, 6])
    """

    def __init__(self, config: VisionConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or VisionConfig()
        self.encoder = VolumeTransformer(config)
        layer = nn.TransformerDecoderLayer(
            config.width, config.heads, config.decoder_hidden, config.decoder_dropout, batch_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, config.decoder_layers)
        self.moves = nn.Embedding(DIRECTIONS + 1, config.width)
        self.places = nn.Parameter(torch.randn(1, MOVES, config.width))
        self.out = nn.Linear(config.width, DIRECTIONS)

    def read(self, tokens: Tensor, before: Tensor) -> Tensor:
        """Scores (B, n, 6) of the moves after those of `before` (B, n), which begins with the start token."""
        count = before.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(count, device=tokens.device, dtype=tokens.dtype)
        x = self.moves(before) + self.places[:, :count]
        return cast(Tensor, self.out(self.decoder(x, tokens, tgt_mask=mask, tgt_is_causal=True)))

    def forward(self, volumes: Tensor, moves: Tensor) -> Tensor:
        """Scores (B, 9, 6), each given the right moves (B, 9) before it: what training compares with those."""
        require_shape("moves", moves, len(volumes), MOVES)
        start = moves.new_full((len(moves), 1), _START)
        return self.read(self.encoder(volumes), torch.cat([start, moves[:, :-1]], dim=1))

    def loss(self, volumes: Tensor, moves: Tensor) -> Tensor:
        """Cross entropy over all moves."""
        return functional.cross_entropy(self(volumes, moves).flatten(0, 1), moves.flatten())

    @torch.no_grad()
    def describe(self, volumes: Tensor) -> Tensor:
        """Scores (B, 9, 6), each given the likeliest moves before it; call it in evaluation mode."""
        tokens = self.encoder(volumes)
        before = torch.full((len(volumes), 1), _START, device=tokens.device)
        for _ in range(MOVES):
            scores = self.read(tokens, before)
            before = torch.cat([before, scores[:, -1:].argmax(dim=2)], dim=1)
        return scores
