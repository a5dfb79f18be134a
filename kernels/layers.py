"""Layers on neighborhood attention: RoITr's local layer with its published parameters, a general one, and grids.

A pair term (a vector per query and neighbor on the key side and on the value side, both linear in a few numbers) is
folded: the maps act once per query instead of once per pair, and nothing of shape (M, K, channels) exists.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from rotaware.geo.checks import require_choice, require_floating, require_integer, require_shape

from .attention import AttentionBackend, neighborhood_attention
from .grid import axis_neighbors, grid_window
from .neighborhood import Neighborhood

Activation = Literal["relu", "gelu"]

# Neighborhoods of grids are kept, the latest of them, for all layers of all networks together.
GRIDS_KEPT = 8


class PPFAttention(nn.Module):
    """RoITr's local attention (PAM): neighbors weighted and read with the point pair features of each pair.

    With x = in_proj(features), e = embedding(pair features) and n the neighbors of a center c, per head:
    `logits_n = q(x_c) . (k(x_n) + p(e_n)) / sqrt(d)`, `attended = sum_n softmax(logits)_n (v(x_n) + vp(e_n))`; then
    `out_proj(norm(linear(attended) + x_c))`. Invariant to everything that the pair features are invariant to.

    The parameters are named and shaped as in the published checkpoints below one `...transformer.`, and
    `load_state_dict` takes such a part as it is; the constant `embedding.embedding.div_term` in it is ignored.
    `proj_p.bias` cancels in the softmax: its gradient is exactly zero.

    Args:
        in_channels: width of the features.
        out_channels: width of the output.
        hidden_channels: width of the attention, by default min(out_channels, 256 * width_factor).
        num_heads: heads, a divisor of the width of the attention.
        pair_channels: numbers per pair.
        width_factor: 1 in the published network for rigid scenes (3DMatch), 2 in that for deforming ones (4DMatch).
    Raises:
        ValueError: the number of heads does not divide the width of the attention.
    Reference: Yu et al., "Rotation-Invariant Transformer for Point Cloud Matching", CVPR 2023, section 3.1.

    >>> layer = PPFAttention(1, 64)
    >>> around = Neighborhood.from_index(torch.tensor([[1, 2], [0, 2], [-1, -1]], dtype=torch.int32), 3)
    >>> layer(torch.ones(3, 1), around, torch.rand(3, 2, 4)).shape
    torch.Size([3, 64])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        hidden_channels: int | None = None,
        num_heads: int = 4,
        pair_channels: int = 4,
        width_factor: int = 1,
    ) -> None:
        super().__init__()
        hidden = min(out_channels, 256 * width_factor) if hidden_channels is None else hidden_channels
        _require_heads(hidden, num_heads)
        self.in_channels, self.out_channels, self.hidden_channels = in_channels, out_channels, hidden
        self.num_heads, self.pair_channels = num_heads, pair_channels
        self.in_proj = nn.Linear(in_channels, hidden)
        self.embedding = PairEmbedding(pair_channels, hidden)
        self.transformer = PairTransformer(hidden)
        self.out_proj = nn.Linear(hidden, out_channels)

    def forward(
        self,
        features: Tensor,
        neighborhood: Neighborhood,
        pair_features: Tensor,
        *,
        query_rows: Tensor | None = None,
        backend: AttentionBackend = "auto",
    ) -> Tensor:
        """New features of the centers.

        Args:
            features: (N, in_channels).
            neighborhood: M centers among N points.
            pair_features: (M, K, pair_channels), such as `rotaware.geo.point_pair_features` of center and neighbor.
            query_rows: (M,) integers, the rows of the centers in `features`; None where all N points are centers, in
                order.
            backend: as in `neighborhood_attention`.
        Returns:
            (M, out_channels). A center without neighbors keeps the residual path alone.
        Raises:
            TypeError: features that are not floating point, rows that are not integers.
            ValueError: a shape that does not fit.
            RuntimeError: the backend cannot run.
        """
        hidden, centers = self.project_input(features, neighborhood, pair_features, query_rows)
        attention = self.transformer.attention
        heads = (self.num_heads, -1)
        q = attention.proj_q(centers)
        embed, linear = self.embedding.proj, self.transformer.linear
        pair_keys = block_columns(attention.proj_p.weight @ embed.weight, self.num_heads)
        pair_values = block_columns(attention.proj_vp.weight @ embed.weight, self.num_heads)
        attended, pair_attended = neighborhood_attention(
            q.unflatten(1, heads),
            attention.proj_k(hidden).unflatten(1, heads),
            attention.proj_v(hidden).unflatten(1, heads),
            neighborhood,
            pair=((q @ pair_keys).unflatten(1, heads), pair_features),
            backend=backend,
        )
        # The constant part of the pair values, for centers that have a neighbor. The vanishing term gives the bias that
        # cancels its gradient: parallel training wants one of every parameter.
        constant = attention.proj_vp.weight @ embed.bias + attention.proj_vp.bias + 0 * attention.proj_p.bias.sum()
        occupied = (neighborhood.idx >= 0).any(1, keepdim=True).to(pair_attended.dtype)
        small = torch.cat([pair_attended.flatten(1), occupied], 1)
        folded = linear.weight @ torch.cat([pair_values, constant[:, None]], 1)
        mixed = torch.addmm(linear(attended.flatten(1)), small, folded.T)
        return self.out_proj(self.transformer.norm(mixed + centers))

    def project_input(
        self, features: Tensor, neighborhood: Neighborhood, pair_features: Tensor, query_rows: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Features in the width of the attention, of the points (N, hidden) and of the centers (M, hidden).

        Raises:
            TypeError, ValueError: as `forward`.
        """
        centers, slots = neighborhood.idx.shape
        require_floating("features", features)
        require_shape("features", features, neighborhood.num_keys, self.in_channels)
        require_floating("pair_features", pair_features)
        require_shape("pair_features", pair_features, centers, slots, self.pair_channels)
        hidden = self.in_proj(features)
        if query_rows is None:
            if centers != neighborhood.num_keys:
                raise ValueError(
                    f"query_rows: expected the rows of {centers} centers among {neighborhood.num_keys} points, got None"
                )
            return hidden, hidden
        require_integer("query_rows", query_rows)
        require_shape("query_rows", query_rows, centers)
        return hidden, hidden[query_rows.to(torch.int64)]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Drop the constant that the published layer keeps and never reads."""
        state_dict.pop(prefix + "embedding.embedding.div_term", None)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """The options, for printing."""
        return (
            f"{self.in_channels}, {self.out_channels}, hidden_channels={self.hidden_channels}, "
            f"num_heads={self.num_heads}, pair_channels={self.pair_channels}"
        )


class PairEmbedding(nn.Module):
    """The first map of the pair features, named as published.

    >>> PairEmbedding(4, 64)(torch.zeros(5, 8, 4)).shape
    torch.Size([5, 8, 64])
    """

    def __init__(self, pair_channels: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(pair_channels, channels)

    def forward(self, pair_features: Tensor) -> Tensor:
        """(..., channels) of (..., pair_channels)."""
        return self.proj(pair_features)


class PairProjections(nn.Module):
    """The five maps of the attention, named as published: q, k, v of features, p (key) and vp (value) of pairs.

    >>> sorted(name for name, _ in PairProjections(8).named_children())
    ['proj_k', 'proj_p', 'proj_q', 'proj_v', 'proj_vp']
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj_q = nn.Linear(channels, channels)
        self.proj_k = nn.Linear(channels, channels)
        self.proj_v = nn.Linear(channels, channels)
        self.proj_p = nn.Linear(channels, channels)
        self.proj_vp = nn.Linear(channels, channels)


class PairTransformer(nn.Module):
    """Attention, the map of its output and the norm, named as published.

    >>> sorted(name for name, _ in PairTransformer(8).named_children())
    ['attention', 'linear', 'norm']
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attention = PairProjections(channels)
        self.linear = nn.Linear(channels, channels)
        self.norm = nn.LayerNorm(channels)


class NeighborhoodAttention(nn.Module):
    """Attention of queries over their neighbors, with an optional pair term.

    Per head `logits_n = s q . k_n + s' q . (A y_n)` and `out = sum_n softmax(logits)_n (v_n + B y_n)`, s = 1 / sqrt(d);
    then a map of all heads. y are the pair features, or one hidden layer of them. k, A and B have no bias: on the key
    side it would cancel in the softmax, on the value side of the pairs it would be a second bias of the output.

    Args:
        channels: width of q, k, v and the output.
        num_heads: heads, a divisor of the width.
        key_channels: width of the features, by default `channels`.
        query_channels: width of separate queries, by default `key_channels`.
        pair_channels: numbers per pair, 0 for no pair term.
        pair_hidden: width of the hidden layer of the pair features, None for none. The attention holds (M, K,
            pair_hidden) numbers.
        pair_activation: of the hidden layer, "relu" or "gelu".
        pair_scaled: whether s' is s (RoITr) or 1.
        bias: whether q, v and the output have a bias.
    Raises:
        ValueError: the number of heads does not divide the width, a hidden layer without pair features, or an unknown
            activation.
    Reference: Vaswani et al., "Attention Is All You Need", NeurIPS 2017; for the pair term Yu et al., RoITr, CVPR 2023.

    >>> layer = NeighborhoodAttention(32, 4, pair_channels=3, pair_hidden=16)
    >>> points = torch.rand(50, 3)
    >>> around = Neighborhood.knn(points, 8)
    >>> offsets = points[around.idx] - points[:, None]
    >>> layer(torch.rand(50, 32), around, offsets).shape
    torch.Size([50, 32])
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        *,
        key_channels: int | None = None,
        query_channels: int | None = None,
        pair_channels: int = 0,
        pair_hidden: int | None = None,
        pair_activation: Activation = "relu",
        pair_scaled: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__()
        _require_heads(channels, num_heads)
        require_choice("pair_activation", pair_activation, get_args(Activation))
        if pair_hidden is not None and not pair_channels:
            raise ValueError(f"pair_hidden: expected None without pair_channels, got {pair_hidden}")
        self.channels, self.num_heads, self.pair_scaled = channels, num_heads, pair_scaled
        self.key_channels = channels if key_channels is None else key_channels
        self.query_channels = self.key_channels if query_channels is None else query_channels
        self.pair_channels, self.pair_hidden = pair_channels, pair_hidden
        self.proj_q = nn.Linear(self.query_channels, channels, bias)
        self.proj_k = nn.Linear(self.key_channels, channels, bias=False)
        self.proj_v = nn.Linear(self.key_channels, channels, bias)
        self.proj_out = nn.Linear(channels, channels, bias)
        self.pair_mlp = nn.Sequential()
        if pair_hidden is not None:
            activation = nn.ReLU() if pair_activation == "relu" else nn.GELU()
            self.pair_mlp = nn.Sequential(nn.Linear(pair_channels, pair_hidden), activation)
        if pair_channels:
            self.pair_key = nn.Linear(pair_hidden or pair_channels, channels, bias=False)
            self.pair_value = nn.Linear(pair_hidden or pair_channels, channels, bias=False)

    def forward(
        self,
        features: Tensor,
        neighborhood: Neighborhood,
        pair_features: Tensor | None = None,
        *,
        queries: Tensor | None = None,
        backend: AttentionBackend = "auto",
    ) -> Tensor:
        """Attended features of the queries.

        Args:
            features: (N, key_channels).
            neighborhood: M queries among N points.
            pair_features: (M, K, pair_channels); None without a pair term.
            queries: (M, query_channels), such as the points of another level; None for the features themselves, M = N.
            backend: as in `neighborhood_attention`.
        Returns:
            (M, channels). A query without neighbors gets the bias of the output.
        Raises:
            TypeError: not floating point tensors.
            ValueError: a shape that does not fit, pair features that are missing or not expected.
            RuntimeError: the backend cannot run.
        """
        require_floating("features", features)
        require_shape("features", features, neighborhood.num_keys, self.key_channels)
        asking, name = (features, "features") if queries is None else (queries, "queries")
        require_floating(name, asking)
        require_shape(name, asking, len(neighborhood.idx), self.query_channels)
        if (pair_features is None) != (not self.pair_channels):
            expected = f"{self.pair_channels} numbers per pair" if self.pair_channels else "None without pair_channels"
            raise ValueError(
                f"pair_features: expected {expected}, got {'None' if pair_features is None else 'a tensor'}"
            )
        heads = (self.num_heads, -1)
        q = self.proj_q(asking)
        k, v = self.proj_k(features).unflatten(1, heads), self.proj_v(features).unflatten(1, heads)
        if pair_features is None:
            attended = neighborhood_attention(q.unflatten(1, heads), k, v, neighborhood, backend=backend)
            return self.proj_out(attended.flatten(1))
        require_floating("pair_features", pair_features)
        require_shape("pair_features", pair_features, *neighborhood.idx.shape, self.pair_channels)
        u = q @ block_columns(self.pair_key.weight, self.num_heads)
        if not self.pair_scaled:
            u = u * math.sqrt(self.channels // self.num_heads)
        if self.pair_hidden is not None:
            # What lies in empty slots may be NaN, which the gradients of the hidden layer would take up.
            pair_features = torch.where((neighborhood.idx >= 0)[..., None], pair_features, 0)
        pair = (u.unflatten(1, heads), self.pair_mlp(pair_features))
        attended, pair_attended = neighborhood_attention(
            q.unflatten(1, heads), k, v, neighborhood, pair=pair, backend=backend
        )
        folded = self.proj_out.weight @ block_columns(self.pair_value.weight, self.num_heads)
        return torch.addmm(self.proj_out(attended.flatten(1)), pair_attended.flatten(1), folded.T)

    def extra_repr(self) -> str:
        """The options, for printing."""
        return f"{self.channels}, num_heads={self.num_heads}, pair_scaled={self.pair_scaled}"


class GridNeighborhoodAttention(nn.Module):
    """Neighborhood attention of a sequence, an image or a volume: each cell sees a window of cells around it.

    At borders the window moves inwards, so that every cell sees as many others. Dilation takes every t-th cell, a
    stride g lets g consecutive cells share a window, and causal axes show only what is not later.

    Args:
        channels: width of input and output.
        num_heads: heads, a divisor of the width.
        window: cells per axis, one number for each axis of the grid.
        dilation, stride, causal: one for all axes, or one per axis.
        relative_position_bias: add a learned number per head and offset between cells (in units of the dilation).
        qkv_bias: whether q, k and v have a bias.
    Attributes:
        qkv, proj, rpb: parameters as NATTEN names them; rpb is (heads, 2 w - 1 for each axis) or None.
    Raises:
        TypeError: `window` is not a sequence, or an option is no whole number.
        ValueError: the number of heads does not divide the width, not as many options as axes, or a stride beyond the
            window.
    Reference: Hassani et al., "Neighborhood Attention Transformer", CVPR 2023; Hassani and Shi, "Dilated Neighborhood
        Attention Transformer", 2022; Hassani et al., "Generalized Neighborhood Attention", 2025, for strides.

    >>> layer = GridNeighborhoodAttention(16, 2, (3, 3), relative_position_bias=True)
    >>> layer(torch.rand(1, 6, 7, 16)).shape, layer.rpb.shape
    (torch.Size([1, 6, 7, 16]), torch.Size([2, 5, 5]))
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        window: Sequence[int],
        *,
        dilation: int | Sequence[int] = 1,
        stride: int | Sequence[int] = 1,
        causal: bool | Sequence[bool] = False,
        relative_position_bias: bool = False,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        _require_heads(channels, num_heads)
        if not isinstance(window, Sequence):
            raise TypeError(f"window: expected one number per axis, such as (7, 7), got {window!r}")
        # Checked on a grid that is large enough.
        widest = max(dilation) if isinstance(dilation, Sequence) else dilation
        options = grid_window([width * widest for width in window], window, dilation, stride, causal)
        self.channels, self.num_heads, self.window = channels, num_heads, options.window
        self.dilation, self.stride, self.causal = options.dilation, options.stride, options.causal
        self.qkv = nn.Linear(channels, 3 * channels, qkv_bias)
        self.proj = nn.Linear(channels, channels)
        self.rpb: nn.Parameter | None = None
        if relative_position_bias:
            self.rpb = nn.Parameter(torch.empty(num_heads, *(2 * width - 1 for width in self.window)))
            nn.init.trunc_normal_(self.rpb, std=0.02)

    def forward(self, x: Tensor, *, backend: AttentionBackend = "auto") -> Tensor:
        """Attended features of the cells.

        Args:
            x: (B, *grid, channels), at least window * dilation cells along each axis.
            backend: as in `neighborhood_attention`.
        Returns:
            As `x`.
        Raises:
            TypeError: not a floating point tensor.
            ValueError: a shape that does not fit.
            RuntimeError: the backend cannot run.
        """
        require_floating("x", x)
        require_shape("x", x, "B", *(f"L{axis}" for axis in range(len(self.window))), self.channels)
        around = self.neighborhood(x.shape[1:-1], x.shape[0], x.device)
        q, k, v = self.qkv(x).reshape(-1, 3, self.num_heads, self.channels // self.num_heads).unbind(1)
        bias = None if self.rpb is None else self._bias(self.rpb, x)
        attended = neighborhood_attention(q, k, v, around, bias=bias, backend=backend)
        return self.proj(attended.reshape(x.shape))

    def neighborhood(self, shape: Sequence[int], batch: int = 1, device: torch.device | None = None) -> Neighborhood:
        """The windows of `batch` grids of this shape; the same object for the same arguments, while it is kept.

        A compiled layer builds its own in every run, unless the shape has been seen before it was compiled.

        >>> GridNeighborhoodAttention(4, 1, (3,)).neighborhood((5,)).idx[0]
        tensor([0, 1, 2], dtype=torch.int32)
        """
        device = torch.get_default_device() if device is None else device
        key = (tuple(shape), self.window, self.dilation, self.stride, self.causal, batch, device)
        if key in _grids:
            return _grids[key]
        if torch.compiler.is_compiling():
            # What a compiled graph makes may be overwritten by its next run (CUDA graphs): nothing of it is kept.
            return _grid(*key)
        # What inference mode makes could not be used in training.
        with torch.inference_mode(False):
            _grids[key] = _grid(*key)
        while len(_grids) > GRIDS_KEPT:
            _grids.pop(next(iter(_grids)))
        return _grids[key]

    def _bias(self, table: Tensor, x: Tensor) -> Tensor:
        """The table (heads, 2 w - 1 for each axis) by query and slot, (M, K, heads).

        It is spread along one axis after another by matrices of zeros and ones. The gradient is then a matrix product,
        the same in every run, which that of an indexed table is not.
        """
        axes, shape = len(self.window), x.shape[1:-1]
        options = zip(shape, self.window, self.dilation, self.stride, self.causal, strict=True)
        for length, width, gap, stride, causal in options:
            query = torch.arange(length, device=x.device)[:, None]
            offset = axis_neighbors(length, width, gap, stride, causal, x.device) - query
            offset = offset // gap + width - 1
            # A slot without a key may show anything, the attention does not look at it.
            shown = nn.functional.one_hot(offset.clamp(min=0).flatten(), 2 * width - 1).to(table.dtype)
            # The axis that is done moves to the end, so the next one is in its place.
            table = torch.tensordot(table, shown, ([1], [1]))
        sizes = [size for pair in zip(shape, self.window, strict=True) for size in pair]
        spread = table.reshape(-1, *sizes).permute(*range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), 0)
        return spread.expand(x.shape[0], *spread.shape).reshape(-1, math.prod(self.window), self.num_heads)

    def extra_repr(self) -> str:
        """The options, for printing."""
        return (
            f"{self.channels}, num_heads={self.num_heads}, window={self.window}, dilation={self.dilation}, "
            f"stride={self.stride}, causal={self.causal}"
        )


def block_columns(weight: Tensor, blocks: int) -> Tensor:
    """The blocks of rows of a matrix side by side, each in its own rows, zeros elsewhere.

    A product with it is that of every head with its own matrix, as one matrix product, which is quicker by far.

    >>> block_columns(torch.tensor([[1.0], [2.0], [3.0], [4.0]]), 2)
    tensor([[1., 0.],
            [2., 0.],
            [0., 3.],
            [0., 4.]])
    """
    return torch.block_diag(*weight.chunk(blocks))


def _require_heads(channels: int, num_heads: int) -> None:
    """Raise unless the heads share the width evenly."""
    if num_heads < 1 or channels < 1 or channels % num_heads:
        raise ValueError(f"num_heads: expected a divisor of the width {channels}, got {num_heads}")


def _grid(
    shape: tuple[int, ...],
    window: tuple[int, ...],
    dilation: tuple[int, ...],
    stride: tuple[int, ...],
    causal: tuple[bool, ...],
    batch: int,
    device: torch.device,
) -> Neighborhood:
    """`Neighborhood.grid` by position."""
    return Neighborhood.grid(shape, window, dilation=dilation, stride=stride, causal=causal, batch=batch, device=device)


_grids: dict[tuple[Any, ...], Neighborhood] = {}
