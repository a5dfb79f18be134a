"""Vector attention: weights of its own for each group of channels, from a small network on pairs of points.

`vector_attention` sums the values once the logits are known; `attend_vector` is its definition in plain torch. The two
modules are the layers of Point Transformer and Point Transformer V2, with the parameter names, the signs and the
channel maps of their published implementation (Pointcept), so that its checkpoints load.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from rotaware.geo.checks import require_choice, require_floating, require_same_device, require_shape

from .attention import AttentionBackend, neighborhood_attention
from .neighborhood import Neighborhood
from .reference import gather_rows

ChannelGroups = Literal["interleaved", "contiguous"]
Norm = Literal["batch", "layer"]
PairValues = Tensor | tuple[Tensor, Tensor]


def vector_attention(
    logits: Tensor,
    v: Tensor,
    neighborhood: Neighborhood,
    *,
    pair_values: PairValues | None = None,
    channel_groups: ChannelGroups = "contiguous",
    dropout: float = 0.0,
    backend: AttentionBackend = "auto",
) -> Tensor:
    """Sums of the neighbors' values with one softmax for each group of channels.

    With n = idx[i, j] and g the group of channel c:
    `out_ic = sum_j softmax_j(logits_ijg) (v_nc + pair_ijc)`, over the slots that hold a neighbor.

    Args:
        logits: (M, K, G) floating point; what stands in an empty slot is not read.
        v: (N, C) floating point, C a multiple of G.
        neighborhood: M queries with K slots over N keys.
        pair_values: what a pair adds to the value: (M, K, C), or `(y, weight)` of shapes (M, K, P) and (C, P) for
            `y @ weight.T`, which is summed before it is multiplied and so never takes M K C numbers.
        channel_groups: "contiguous" gives channel c the group `c // (C / G)` (Point Transformer V2), "interleaved"
            the group `c % G` (Point Transformer).
        dropout: probability with which a weight is dropped (and the others scaled up); above 0 the plain form answers.
        backend: as in `neighborhood_attention`.
    Returns:
        (M, C) in the dtype of `v`, with gradients to the logits, `v` and the pair values. A query without neighbors
        gets zeros.
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: shapes or devices that do not fit, G that does not divide C, an unknown map, a probability outside
            [0, 1).
        RuntimeError: a backend that cannot run.
    Reference: Zhao et al., Point Transformer, ICCV 2021, equation 3; Wu et al., Point Transformer V2, NeurIPS 2022,
        section 3.2.

    >>> near = Neighborhood.from_index(torch.tensor([[0, 1], [1, -1]]), 2)
    >>> vector_attention(torch.zeros(2, 2, 1), torch.tensor([[1.0, 10.0], [3.0, 30.0]]), near)
    tensor([[ 2., 20.],
            [ 3., 30.]])
    """
    idx = neighborhood.idx
    _require_arguments(logits, v, neighborhood, pair_values)
    require_choice("channel_groups", channel_groups, ("interleaved", "contiguous"))
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout: expected a probability in [0, 1), got {dropout}")
    if dropout > 0:
        return attend_vector(logits, v, idx, pair_values, channel_groups, dropout)
    if isinstance(pair_values, Tensor):
        # The value of an edge is the value of a key that its own query alone sees.
        v = _gather(v, idx.clamp(min=0).flatten()) + pair_values.flatten(0, 1)
        neighborhood = _slots(idx)
    groups = logits.shape[2]
    values = _split(v, groups, channel_groups)
    # Attention with products of zero: the logits are the bias alone.
    q, k = v.new_zeros(len(idx), groups, 1), v.new_zeros(len(v), groups, 1)
    pair = None
    if isinstance(pair_values, tuple):
        y, weight = pair_values
        pair = (v.new_zeros(len(idx), groups, y.shape[2]), y)
    found = neighborhood_attention(q, k, values, neighborhood, pair=pair, bias=logits, scale=1.0, backend=backend)
    if isinstance(found, tuple):
        out, z = found
        out = out + torch.einsum("mgp,pgc->mgc", z, _split(weight.to(z.dtype).T, groups, channel_groups))
    else:
        out = found
    return (out.transpose(1, 2) if channel_groups == "interleaved" else out).flatten(1)


def attend_vector(
    logits: Tensor,
    v: Tensor,
    idx: Tensor,
    pair_values: PairValues | None,
    channel_groups: ChannelGroups,
    dropout: float = 0.0,
) -> Tensor:
    """The definition of `vector_attention` in plain torch; arguments as there and not checked.

    It holds the values of all pairs, (M, K, C), and is differentiable to any order.

    Returns:
        (M, C).

    >>> attend_vector(torch.zeros(1, 2, 1), torch.tensor([[1.0], [3.0]]), torch.tensor([[0, 1]]), None, "contiguous")
    tensor([[2.]])
    """
    present = (idx >= 0)[..., None]
    values = gather_rows(v, idx.clamp(min=0).to(torch.int64))
    if isinstance(pair_values, tuple):
        y, weight = pair_values
        values = values + torch.where(present, y, 0) @ weight.T
    elif pair_values is not None:
        values = values + pair_values
    # What lies in an empty slot may be NaN: it is replaced, not multiplied by zero.
    values = torch.where(present, values, 0)
    logits = torch.where(present, logits, torch.finfo(logits.dtype).min)
    weights = functional.dropout(torch.softmax(logits, 1) * present, dropout)
    share = v.shape[1] // logits.shape[2]
    spread = weights.repeat(1, 1, share) if channel_groups == "interleaved" else weights.repeat_interleave(share, 2)
    return (spread * values).sum(1).to(v.dtype)


class VectorAttention(nn.Module):
    """The attention layer of Point Transformer.

    `relation_ij = k_n - q_i + delta(p_n - p_i)`, `out_i = sum_j softmax_j(gamma(relation_ij)) (v_n + delta(p_n - p_i))`
    with n = idx[i, j]. The published code subtracts the query from the key, the paper the key from the query.

    Args:
        in_channels: channels of the features.
        channels: channels C of the result, a multiple of `share`; as many as come in by default.
        share: how many channels share a weight: channel c uses weight `c % (C / share)`.
        norm: "batch" normalizes each channel over all pairs that exist, as published; "layer" each pair over its
            channels.
        legacy_mask: True reproduces the published treatment of empty slots, which knows no mask: they count as a
            neighbor with key and value zero at the query's own place, in the softmax, the sum and the statistics.
            It matters only where a cloud has fewer points than slots.
    Attributes:
        linear_q, linear_k, linear_v, linear_p, linear_w: the parameters, under the names of Pointcept.
    Raises:
        ValueError: `share` does not divide `channels`, or an unknown norm.
    Reference: Zhao et al., Point Transformer, ICCV 2021, section 3.2; weights shared by channels as in Pointcept.

    >>> layer = VectorAttention(16).eval()
    >>> points = torch.rand(50, 3)
    >>> layer(torch.rand(50, 16), points, Neighborhood.knn(points, 8)).shape
    torch.Size([50, 16])
    """

    def __init__(
        self,
        in_channels: int,
        channels: int | None = None,
        *,
        share: int = 8,
        norm: Norm = "batch",
        legacy_mask: bool = False,
    ) -> None:
        super().__init__()
        channels = in_channels if channels is None else channels
        _require_division("channels", channels, "share", share)
        self.in_channels, self.channels, self.groups, self.legacy_mask = (
            in_channels,
            channels,
            channels // share,
            legacy_mask,
        )
        self.linear_q = nn.Linear(in_channels, channels)
        self.linear_k = nn.Linear(in_channels, channels)
        self.linear_v = nn.Linear(in_channels, channels)
        self.linear_p = nn.Sequential(nn.Linear(3, 3), _norm(norm, 3), nn.ReLU(inplace=True), nn.Linear(3, channels))
        self.linear_w = nn.Sequential(
            _norm(norm, channels),
            nn.ReLU(inplace=True),
            nn.Linear(channels, self.groups),
            _norm(norm, self.groups),
            nn.ReLU(inplace=True),
            nn.Linear(self.groups, self.groups),
        )

    def forward(self, features: Tensor, points: Tensor, neighborhood: Neighborhood) -> Tensor:
        """New features of each point from its neighbors.

        Args:
            features: (N, in_channels) floating point.
            points: (N, 3), any unit; float64 beside float32 features keeps the offsets of far coordinates exact.
            neighborhood: N queries over N keys.
        Returns:
            (N, channels), with gradients to the features, the points and the parameters. A point without neighbors
            gets zeros.
        Raises:
            TypeError, ValueError: wrong types, shapes or devices; ValueError also while training batch norms on a
                single pair.
        """
        _require_inputs(features, points, neighborhood, self.in_channels)
        edges = _edges(points, neighborhood, features.dtype, self.legacy_mask)
        v = self.linear_v(features)
        if not len(edges.slot):
            return _nothing(v, neighborhood, self.groups)
        hidden = self.linear_p[:3](edges.offset)
        last = _linear(self.linear_p, 3)
        # In place, and the sign turned before the gather: each of these is a block of (edges, channels).
        relation = last(hidden)
        relation += _gather(edges.extend(self.linear_k(features)), edges.key)
        relation += _gather(-self.linear_q(features), edges.query)
        logits = self.linear_w(relation)
        # delta's last layer acts on the sum of its three inputs; its offset is the same for every key.
        return vector_attention(
            edges.table(logits),
            edges.extend(v) + last.bias,
            edges.neighborhood,
            pair_values=(edges.table(hidden), last.weight),
            channel_groups="interleaved",
        )

    def extra_repr(self) -> str:
        """Number of groups and options, for printing."""
        return f"groups={self.groups}, legacy_mask={self.legacy_mask}"


class GroupedVectorAttention(nn.Module):
    """The attention layer of Point Transformer V2 (the "m2" of Pointcept, whose weight encoding is a plain layer).

    `relation_ij = (k_n - q_i) * multiplier(p_n - p_i) + bias(p_n - p_i)`,
    `out_i = sum_j softmax_j(omega(relation_ij)) (v_n + bias(p_n - p_i))` with n = idx[i, j].

    Args:
        channels: channels C of the features and of the result, a multiple of `groups`.
        groups: number of weights per pair: channel c uses weight `c // (C / groups)`.
        attn_drop: probability with which a weight is dropped while training; above 0, training runs in plain torch.
        qkv_bias: whether the projections of the features have an offset.
        pe_multiplier: whether the offset of a pair scales the difference of key and query; without it that difference
            is projected to the groups before it is gathered.
        pe_bias: whether the offset of a pair adds to the relation and to the value.
        norm: as in `VectorAttention`, and for the norms of queries and keys over the points.
        legacy_mask: True reproduces the published mask, which comes after the softmax: an empty slot counts as a
            neighbor with key zero at the query's own place, in the softmax and the statistics, and adds nothing to
            the sum. The weights of a row with empty slots then add up to less than one.
    Attributes:
        linear_q, linear_k, linear_v, linear_p_multiplier, linear_p_bias, weight_encoding: the parameters, under the
            names of Pointcept; a multiplier or bias that was not asked for is None.
    Raises:
        ValueError: `groups` does not divide `channels`, an unknown norm, or a probability outside [0, 1).
    Reference: Wu et al., Point Transformer V2, NeurIPS 2022, sections 3.2 and 3.3.

    >>> layer = GroupedVectorAttention(24, 6).eval()
    >>> points = torch.rand(50, 3)
    >>> layer(torch.rand(50, 24), points, Neighborhood.knn(points, 8)).shape
    torch.Size([50, 24])
    """

    def __init__(
        self,
        channels: int,
        groups: int,
        *,
        attn_drop: float = 0.0,
        qkv_bias: bool = True,
        pe_multiplier: bool = False,
        pe_bias: bool = True,
        norm: Norm = "batch",
        legacy_mask: bool = False,
    ) -> None:
        super().__init__()
        _require_division("channels", channels, "groups", groups)
        if not 0 <= attn_drop < 1:
            raise ValueError(f"attn_drop: expected a probability in [0, 1), got {attn_drop}")
        self.channels, self.groups, self.attn_drop, self.legacy_mask = channels, groups, attn_drop, legacy_mask

        def projection() -> nn.Sequential:
            return nn.Sequential(
                nn.Linear(channels, channels, bias=qkv_bias), _named_norm(norm, channels), nn.ReLU(inplace=True)
            )

        def perceptron(width: int, out: int, last: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Linear(width, out), _named_norm(norm, out), nn.ReLU(inplace=True), nn.Linear(out, last)
            )

        self.linear_q, self.linear_k = projection(), projection()
        self.linear_v = nn.Linear(channels, channels, bias=qkv_bias)
        self.linear_p_multiplier = perceptron(3, channels, channels) if pe_multiplier else None
        self.linear_p_bias = perceptron(3, channels, channels) if pe_bias else None
        self.weight_encoding = perceptron(channels, groups, groups)

    def forward(self, features: Tensor, points: Tensor, neighborhood: Neighborhood) -> Tensor:
        """New features of each point from its neighbors.

        Args:
            features: (N, channels) floating point.
            points: (N, 3), any unit; float64 beside float32 features keeps the offsets of far coordinates exact.
            neighborhood: N queries over N keys.
        Returns:
            (N, channels), with gradients to the features, the points and the parameters. A point without neighbors
            gets zeros.
        Raises:
            TypeError, ValueError: wrong types, shapes or devices; ValueError also while training batch norms on a
                single pair or point.
        """
        _require_inputs(features, points, neighborhood, self.channels)
        edges = _edges(points, neighborhood, features.dtype, self.legacy_mask)
        v = self.linear_v(features)
        if not len(edges.slot):
            return _nothing(v, neighborhood, self.groups)
        bias = self.linear_p_bias
        hidden = None if bias is None else bias[:3](edges.offset)
        logits = self._logits(self.linear_q(features), self.linear_k(features), hidden, edges)
        dropout = self.attn_drop if self.training else 0.0
        if bias is None:
            return vector_attention(edges.table(logits), edges.extend(v), edges.neighborhood, dropout=dropout)
        values = bias[3](hidden)
        values += _gather(edges.extend(v), edges.key)
        if self.legacy_mask:
            values = torch.where((edges.key < len(v))[:, None], values, 0)
        # Each edge has a value of its own: the edges are the keys.
        position = torch.full_like(neighborhood.idx, -1).flatten()
        position[edges.slot] = torch.arange(len(edges.slot), dtype=position.dtype, device=position.device)
        own = Neighborhood.from_index(position.view_as(neighborhood.idx), len(edges.slot))
        return vector_attention(edges.table(logits), values, own, dropout=dropout)

    def extra_repr(self) -> str:
        """Number of groups and options, for printing."""
        return f"groups={self.groups}, attn_drop={self.attn_drop}, legacy_mask={self.legacy_mask}"

    def _logits(self, q: Tensor, k: Tensor, hidden: Tensor | None, edges: _Edges) -> Tensor:
        """(edges, groups) from projected queries and keys (N, C) and the inner layer of the bias (edges, C)."""
        first, rest = _linear(self.weight_encoding, 0), self.weight_encoding[1:]
        bias = None if self.linear_p_bias is None else _linear(self.linear_p_bias, 3)
        if self.linear_p_multiplier is not None:
            relation = _gather(edges.extend(k), edges.key) + _gather(-q, edges.query)
            relation = relation * self.linear_p_multiplier(edges.offset)
            return rest(first(relation if bias is None else relation + bias(hidden)))
        # The first layer is linear in key, query and bias: it acts on each, and `groups` numbers are gathered per edge.
        key, query = functional.linear(k, first.weight), functional.linear(-q, first.weight, first.bias)
        if bias is not None:
            query = query + first.weight @ bias.bias
        encoded = _gather(edges.extend(key), edges.key) + _gather(query, edges.query)
        if bias is not None and hidden is not None:
            encoded = encoded + functional.linear(hidden, first.weight @ bias.weight)
        return rest(encoded)


class _Edges(NamedTuple):
    """The pairs that a network on pairs sees; E of them."""

    query: Tensor  # (E,) rows of the queries
    key: Tensor  # (E,) rows of the keys
    slot: Tensor  # (E,) int64, where the pair stands in the flattened table (M * K)
    offset: Tensor  # (E, 3), key minus query
    neighborhood: Neighborhood  # the pairs as a table
    padded: bool  # whether an empty slot counts as a pair with key N, a row of zeros

    def table(self, values: Tensor) -> Tensor:
        """(E, F) as (M, K, F), zeros in the slots without a pair."""
        rows, slots = self.neighborhood.idx.shape
        if self.padded:
            return values.view(rows, slots, -1)
        return values.new_zeros(rows * slots, values.shape[1]).index_copy(0, self.slot, values).view(rows, slots, -1)

    def extend(self, rows: Tensor) -> Tensor:
        """(N, F) of the keys, with the row of zeros where empty slots need it."""
        return torch.cat([rows, rows.new_zeros(1, rows.shape[1])]) if self.padded else rows


def _edges(points: Tensor, neighborhood: Neighborhood, dtype: torch.dtype, padded: bool) -> _Edges:
    """Pairs that exist, or with `padded` all slots."""
    idx = neighborhood.idx
    if padded:
        idx = torch.where(idx >= 0, idx, len(points))
        neighborhood = Neighborhood.from_index(idx, len(points) + 1)
        slot = torch.arange(idx.numel(), device=idx.device)
    else:
        slot = (idx.flatten() >= 0).nonzero()[:, 0]
    query, key = slot // max(idx.shape[1], 1), idx.flatten()[slot]
    # An empty slot has the offset zero: its key is where the query is.
    place = torch.where(key < len(points), key, query) if padded else key
    offset = _gather(points, place) - _gather(points, query)
    return _Edges(query, key, slot, offset.to(dtype), neighborhood, padded)


def _gather(rows: Tensor, index: Tensor) -> Tensor:
    """`rows[index]` whose gradient is summed in a fixed order: `rows[index]` itself adds atomically, on the CPU too."""
    # A table without rows is asked for by empty slots only.
    return functional.embedding(index, rows) if len(rows) else rows.new_zeros(len(index), rows.shape[1])


def _nothing(v: Tensor, neighborhood: Neighborhood, groups: int) -> Tensor:
    """Zeros for every query, of a neighborhood without pairs: no norm may see an empty batch."""
    return vector_attention(v.new_zeros(*neighborhood.idx.shape, groups), v, neighborhood)


def _slots(idx: Tensor) -> Neighborhood:
    """Each pair with a key of its own, numbered by its place in the table."""
    number = torch.arange(idx.numel(), dtype=idx.dtype, device=idx.device).view_as(idx)
    return Neighborhood.from_index(torch.where(idx >= 0, number, -1), idx.numel())


def _split(rows: Tensor, groups: int, channel_groups: ChannelGroups) -> Tensor:
    """(N, C) as (N, G, C / G)."""
    if channel_groups == "contiguous":
        return rows.unflatten(1, (groups, -1))
    return rows.unflatten(1, (-1, groups)).transpose(1, 2)


def _norm(kind: Norm, width: int) -> nn.Module:
    """A norm of rows of the given width."""
    require_choice("norm", kind, ("batch", "layer"))
    return nn.BatchNorm1d(width) if kind == "batch" else nn.LayerNorm(width)


def _named_norm(kind: Norm, width: int) -> nn.Module:
    """The same, one level deeper under the name `norm`, where the checkpoints of Point Transformer V2 have it."""
    return nn.Sequential(OrderedDict(norm=_norm(kind, width)))


def _linear(layers: nn.Sequential, place: int) -> nn.Linear:
    """A layer whose matrix is used by itself."""
    layer = layers[place]
    assert isinstance(layer, nn.Linear)
    return layer


def _require_division(name: str, value: int, divisor_name: str, divisor: int) -> None:
    """Raise unless `divisor` divides `value` and both are at least 1."""
    if value < 1 or divisor < 1 or value % divisor:
        raise ValueError(f"{name}: expected a positive multiple of {divisor_name} = {divisor}, got {value}")


def _require_inputs(features: Tensor, points: Tensor, neighborhood: Neighborhood, channels: int) -> None:
    """Checks of both modules' `forward`."""
    require_floating("features", features)
    require_shape("features", features, "N", channels)
    require_floating("points", points)
    require_shape("points", points, len(features), 3)
    require_same_device({"features": features, "points": points, "neighborhood": neighborhood.idx})
    _require_table(neighborhood, len(features), len(features))


def _require_table(neighborhood: Neighborhood, queries: int, keys: int) -> None:
    """Raise unless the neighborhood is between so many queries and keys."""
    found = (len(neighborhood.idx), neighborhood.num_keys)
    if found != (queries, keys):
        raise ValueError(
            f"neighborhood: expected {queries} queries and {keys} keys, got {found[0]} queries and {found[1]} keys"
        )


def _require_arguments(logits: Tensor, v: Tensor, neighborhood: Neighborhood, pair_values: PairValues | None) -> None:
    """Checks of `vector_attention`."""
    rows, slots = neighborhood.idx.shape
    require_floating("logits", logits)
    require_shape("logits", logits, rows, slots, "G")
    require_floating("v", v)
    require_shape("v", v, neighborhood.num_keys, "C")
    _require_division("v", v.shape[1], "the groups of logits", logits.shape[2])
    named = {"logits": logits, "v": v, "neighborhood": neighborhood.idx}
    if isinstance(pair_values, tuple):
        y, weight = pair_values
        require_floating("pair_values[0]", y)
        require_shape("pair_values[0]", y, rows, slots, "P")
        require_floating("pair_values[1]", weight)
        require_shape("pair_values[1]", weight, v.shape[1], y.shape[2])
        named |= {"pair_values[0]": y, "pair_values[1]": weight}
    elif pair_values is not None:
        require_floating("pair_values", pair_values)
        require_shape("pair_values", pair_values, rows, slots, v.shape[1])
        named |= {"pair_values": pair_values}
    require_same_device(named)
