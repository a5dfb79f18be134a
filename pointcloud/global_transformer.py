"""RoITr's global transformer: superpoints of two clouds attend to their own cloud and to the other.

Of the vectors that belong to a pair of superpoints only one is ever held, the geometric embedding g. The key and value
maps of g are applied on the other side: `q . (W g) = (W^T q) . g` and `sum_j b_j W g_j = W sum_j b_j g_j`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .node_geometry import GeometricEmbedding, NodeGeometry


class GlobalTransformer(nn.Module):
    """Self and cross attention in turn, with a rotation-invariant code of place that crosses between the frames.

    >>> transformer = GlobalTransformer(64, heads=4, layers=2)
    >>> clouds = [NodeGeometry.of(torch.rand(n, 3)) for n in (10, 12)]
    >>> source, target = transformer([torch.rand(10, 64), torch.rand(12, 64)], clouds)
    >>> source.shape, target.shape
    (torch.Size([10, 64]), torch.Size([12, 64]))

    Source: Yu et al., RoITr, CVPR 2023, section 3.2, as in its released code.
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int = 4,
        layers: int = 3,
        distance_scale: float = 0.2,
        angle_scale: float = 15.0,
        tabulated: bool = True,
    ) -> None:
        """`layers` pairs of a self layer and a cross layer."""
        super().__init__()
        self.embedding = GeometricEmbedding(
            channels, distance_scale=distance_scale, angle_scale=angle_scale, tabulated=tabulated
        )
        self.in_proj = nn.Linear(channels, channels)
        self.self_layers = nn.ModuleList(SelfLayer(channels, heads) for _ in range(layers))
        self.cross_layers = nn.ModuleList(CrossLayer(channels, heads) for _ in range(layers))
        self.out_proj = nn.Linear(channels, channels)

    def forward(self, features: Sequence[Tensor], geometry: Sequence[NodeGeometry]) -> list[Tensor]:
        """Features (S, channels) of the superpoints of source and target, knowing both clouds."""
        embedded = [EmbeddedPairs(self.embedding(each)) for each in geometry]
        source, target = (self.in_proj(each) for each in features)
        for own, across in zip(self.self_layers, self.cross_layers, strict=True):
            source, source_place = own(source, embedded[0])
            target, target_place = own(target, embedded[1])
            source = across(source, target, source_place, target_place)
            # The target attends to the source as it has become.
            target = across(target, source, target_place, source_place)
        return [self.out_proj(source), self.out_proj(target)]


class EmbeddedPairs:
    """The vectors (S, S, channels) of all pairs of superpoints, as the self layers read them.

    Each reading has a gradient of that size, an outer product of two small matrices per superpoint. The factors are
    kept until all readings have theirs, and multiplied once: one pass over memory instead of one, and a sum, each.

    >>> pairs = EmbeddedPairs(torch.rand(5, 5, 8))
    >>> pairs.products(torch.rand(5, 2, 8)).shape, pairs.sums(torch.rand(5, 2, 5)).shape
    (torch.Size([5, 2, 5]), torch.Size([5, 2, 8]))
    """

    def __init__(self, vectors: Tensor) -> None:
        self._factors: list[tuple[Tensor, Tensor]] = []
        self._vectors = vectors.detach()
        self._ticket: Tensor = _Ticket.apply(vectors, self._factors)

    def products(self, queries: Tensor) -> Tensor:
        """(S, heads, S) inner products of the vectors of superpoint i with its queries (S, heads, channels)."""
        return self._read(_Products, queries)

    def sums(self, weights: Tensor) -> Tensor:
        """(S, heads, channels) sums of the vectors of superpoint i with its weights (S, heads, S)."""
        return self._read(_Sums, weights)

    def _read(self, reading: type[torch.autograd.Function], operand: Tensor) -> Tensor:
        # Under autocast they may come in different precisions.
        operand = operand.to(self._vectors.dtype)
        found: Tensor = reading.apply(operand, self._vectors, self._ticket, self._factors)
        return found


class _Ticket(torch.autograd.Function):
    """Stands for the vectors in every reading: its gradient counts those that left their factors in this pass."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, factors: list[tuple[Tensor, Tensor]]) -> Tensor:
        ctx.factors = factors
        return vectors.new_zeros((), dtype=torch.float32)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, readings: Tensor) -> tuple[Tensor, None]:
        # The last ones: an earlier pass that needed no gradient of the vectors has left some, too.
        of_pairs, of_channels = (torch.cat(each, 1) for each in zip(*ctx.factors[-int(readings) :], strict=True))
        ctx.factors.clear()
        return torch.bmm(of_pairs.transpose(1, 2), of_channels), None


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, vectors: Tensor, ticket: Tensor, factors: list[tuple[Tensor, Tensor]]
    ) -> Tensor:
        ctx.factors = factors
        ctx.save_for_backward(queries, vectors, ticket)
        return torch.bmm(queries, vectors.transpose(1, 2))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, None]:
        queries, vectors, ticket = ctx.saved_tensors
        grad = grad.to(vectors.dtype)  # of a product under autocast
        if ctx.needs_input_grad[2]:
            ctx.factors.append((grad, queries))
        return torch.bmm(grad, vectors), None, torch.ones_like(ticket), None


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weights: Tensor, vectors: Tensor, ticket: Tensor, factors: list[tuple[Tensor, Tensor]]
    ) -> Tensor:
        ctx.factors = factors
        ctx.save_for_backward(weights, vectors, ticket)
        return torch.bmm(weights, vectors)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, None]:
        weights, vectors, ticket = ctx.saved_tensors
        grad = grad.to(vectors.dtype)
        if ctx.needs_input_grad[2]:
            ctx.factors.append((weights, grad))
        return torch.bmm(grad, vectors.transpose(1, 2)), None, torch.ones_like(ticket), None


class FeedForward(nn.Module):
    """Two maps with a ReLU between, a residual and a norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand = nn.Linear(channels, 2 * channels)
        self.squeeze = nn.Linear(2 * channels, channels)
        self.norm = nn.LayerNorm(channels)

    def forward(self, features: Tensor) -> Tensor:
        """(S, channels) of (S, channels)."""
        return self.norm(features + self.squeeze(self.expand(features).relu()))


class SelfLayer(nn.Module):
    """Attention within a cloud, with two outputs: features, and where each superpoint is in its own cloud."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.proj_q = nn.Linear(channels, channels)
        self.proj_k = nn.Linear(channels, channels)
        self.proj_v = nn.Linear(channels, channels)
        self.proj_p = nn.Linear(channels, channels)
        self.proj_vp = nn.Linear(channels, channels)
        self.linear = nn.Linear(channels, channels)
        self.norm = nn.LayerNorm(channels)
        self.place_linear = nn.Linear(channels, channels)
        self.place_norm = nn.LayerNorm(channels)
        self.output = FeedForward(channels)
        self.place_output = FeedForward(channels)

    def forward(self, features: Tensor, embedded: EmbeddedPairs) -> tuple[Tensor, Tensor]:
        """Features and places, (S, channels) each, of features (S, channels) and embedded pairs (S, S, channels)."""
        heads = self.heads
        q, k, v = (proj(features).unflatten(1, (heads, -1)) for proj in (self.proj_q, self.proj_k, self.proj_v))
        p_weight = self.proj_p.weight.unflatten(0, (heads, -1))
        p_bias = self.proj_p.bias.unflatten(0, (heads, -1))
        folded = torch.einsum("nhd,hdc->nhc", q, p_weight)
        # The bias shifts all logits of a row alike and cancels; parallel training wants a gradient of it all the same.
        constant = torch.einsum("nhd,hd->nh", q, p_bias)[..., None]
        logits = torch.einsum("nhd,mhd->nhm", q, k) + embedded.products(folded) + constant
        logits = logits / math.sqrt(q.shape[2])
        attended = torch.einsum("nhm,mhd->nhd", logits.softmax(-1), v).flatten(1)
        features = self.output(self.norm(features + self.linear(attended)))

        diagonal = torch.eye(len(features), dtype=torch.bool, device=features.device)[:, None]
        # A lone superpoint has no place among others.
        others = logits.masked_fill(diagonal, -torch.inf).softmax(-1) if len(features) > 1 else 0 * logits
        gathered = embedded.sums(others)
        vp_weight = self.proj_vp.weight.unflatten(0, (heads, -1))
        place = torch.einsum("nhc,hdc->nhd", gathered, vp_weight).flatten(1) + self.proj_vp.bias
        return features, self.place_output(self.place_norm(self.place_linear(place)))


class CrossLayer(nn.Module):
    """Attention from one cloud to the other; places help to find, features are what is read."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.proj_q = nn.Linear(channels, channels)
        self.proj_k = nn.Linear(channels, channels)
        self.proj_v = nn.Linear(channels, channels)
        self.linear = nn.Linear(channels, channels)
        self.norm = nn.LayerNorm(channels)
        self.output = FeedForward(channels)

    def forward(self, features: Tensor, others: Tensor, place: Tensor, others_place: Tensor) -> Tensor:
        """New features (S, channels); the other cloud's features and places are (T, channels)."""
        q = self.proj_q(features + place).unflatten(1, (self.heads, -1))
        k = self.proj_k(others + others_place).unflatten(1, (self.heads, -1))
        v = self.proj_v(others).unflatten(1, (self.heads, -1))
        logits = torch.einsum("nhd,mhd->nhm", q, k) / math.sqrt(q.shape[2])
        attended = torch.einsum("nhm,mhd->nhd", logits.softmax(-1), v).flatten(1)
        return self.output(self.norm(features + self.linear(attended)))
