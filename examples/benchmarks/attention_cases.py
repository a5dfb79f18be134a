"""What the benchmarks of neighborhood attention share: clouds, layers, every way to compute them, and memory floors.

A layer is the attention of a network over neighbors in a cloud. With a pair term it is RoITr's: an embedding of four
numbers per pair and two maps of it, one added to the keys and one to the values. Each way takes the same operands, and
its result and gradients are compared with ours before it is timed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from rotaware.kernels import morton_order, reference
from rotaware.kernels.attention import AttentionBackend, neighborhood_attention
from rotaware.kernels.layers import PPFAttention, block_columns
from rotaware.kernels.literal import LiteralPPFAttention
from rotaware.kernels.neighborhood import Neighborhood

HEADS = 4
PAIR_CHANNELS = 4
# Relative to the norm of what we compute, for results and gradients.
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 4e-2, torch.float16: 1e-2}
# A masked product of all queries with all keys is only for small clouds.
MOST_DENSE = 4096

OURS, OURS_TORCH = "rotaware", "rotaware torch"
LITERAL, CHUNKED, COMPILED, DENSE = "literal", "chunked bmm", "compiled", "SDPA dense"


@dataclass(frozen=True)
class Layer:
    """Sizes of an attention: queries among keys, with so many neighbors each."""

    name: str
    keys: int
    queries: int
    slots: int
    channels: int
    pair: bool

    @property
    def title(self) -> str:
        """Name and sizes."""
        rows = f"{self.keys:,}" if self.keys == self.queries else f"{self.keys:,} to {self.queries:,}"
        return f"{self.name}: {rows}, k = {self.slots}, C = {self.channels}{', pair term' if self.pair else ''}"

    def edge_bytes(self, itemsize: int) -> int:
        """Bytes of one tensor of shape (queries, neighbors, channels), E in the specification."""
        return self.queries * self.slots * self.channels * itemsize


ROITR = (
    Layer("RoITr level 1", 30_000, 30_000, 8, 64, True),
    Layer("RoITr down to 2", 30_000, 7_500, 16, 128, True),
    Layer("RoITr level 2", 7_500, 7_500, 16, 128, True),
    Layer("RoITr level 3", 1_875, 1_875, 16, 256, True),
    Layer("RoITr level 4", 468, 468, 16, 256, True),
)
SMALL = tuple(Layer("small", count, count, 16, 64, False) for count in (256, 1_000, 4_000))
MEDIUM = tuple(Layer("20k", 20_000, 20_000, 32, width, pair) for width in (64, 256) for pair in (False, True))
LARGE = (
    Layer("200k", 200_000, 200_000, 16, 128, False),
    Layer("200k", 200_000, 200_000, 16, 128, True),
    Layer("1M", 1_000_000, 1_000_000, 16, 64, False),
    Layer("1M", 1_000_000, 1_000_000, 16, 64, True),
)
TINY = (Layer("tiny", 60, 60, 4, 64, False), Layer("tiny", 60, 20, 8, 64, True))


def surface_cloud(count: int, seed: int = 0) -> Tensor:
    """A wavy sheet of 4 m by 4 m with 2 mm of noise, in Morton order: (count, 3) float32, metres."""
    generator = torch.Generator().manual_seed(seed)
    flat = 4 * torch.rand(count, 2, generator=generator)
    height = 0.5 * torch.sin(2 * flat[:, :1]) * torch.cos(1.5 * flat[:, 1:])
    points = torch.cat([flat, height], 1) + 0.002 * torch.randn(count, 3, generator=generator)
    return points[morton_order(points)]


def neighbors_of(layer: Layer, device: torch.device | str = "cpu", *, shuffled: bool = False) -> Neighborhood:
    """The nearest points of a cloud in Morton order, or of the same cloud in random order.

    Fewer queries than keys are evenly spaced along the order, as a sample whose indices were sorted.
    """
    around = _sorted_neighbors(layer.keys, layer.queries, layer.slots)
    if shuffled:
        generator = torch.Generator().manual_seed(1)
        order = torch.randperm(layer.queries, generator=generator)
        same = layer.queries == layer.keys
        around = around.permute(order, order if same else torch.randperm(layer.keys, generator=generator))
    return around.to(device)


@cache
def _sorted_neighbors(keys: int, queries: int, slots: int) -> Neighborhood:
    points = surface_cloud(keys)
    rows = torch.arange(queries) * keys // queries
    return Neighborhood.knn(points, slots, queries=None if queries == keys else points[rows])


@dataclass(frozen=True)
class Operands:
    """What every way takes. Tensors are leaves with gradients, except `y`, which depends on coordinates only."""

    layer: Layer
    neighborhood: Neighborhood
    q: Tensor  # (M, H, d)
    k: Tensor  # (N, H, d)
    v: Tensor  # (N, H, d)
    y: Tensor | None  # (M, K, P)
    embed: Tensor | None  # (C, P), then
    to_keys: Tensor | None  # (C, C) and
    to_values: Tensor | None  # (C, C)
    grad: Tensor  # (M, H, d), of the result
    dense: Tensor | None = None  # (M, N) bool, who sees whom, where that is asked for

    @property
    def leaves(self) -> list[Tensor]:
        """What gets a gradient."""
        return [x for x in (self.q, self.k, self.v, self.embed, self.to_keys, self.to_values) if x is not None]

    def chunk(self, start: int, stop: int) -> Operands:
        """Some of the queries."""
        around = Neighborhood(self.neighborhood.idx[start:stop], self.neighborhood.num_keys)
        y = None if self.y is None else self.y[start:stop]
        return replace(self, neighborhood=around, q=self.q[start:stop], y=y)


def make_operands(
    layer: Layer, around: Neighborhood, dtype: torch.dtype = torch.float32, *, dense: bool = False, seed: int = 0
) -> Operands:
    """Unit normal numbers, on the device of the neighborhood."""
    device = around.idx.device
    generator = torch.Generator(device).manual_seed(seed)

    def draw(*shape: int, size: float = 1.0) -> Tensor:
        return (size * torch.randn(*shape, generator=generator, device=device)).to(dtype)

    heads, width = (HEADS, layer.channels // HEADS), layer.channels
    q, k, v = draw(layer.queries, *heads), draw(layer.keys, *heads), draw(layer.keys, *heads)
    grad, y = draw(layer.queries, *heads), None
    maps: list[Tensor | None] = [None] * 3
    if layer.pair:
        y = draw(layer.queries, layer.slots, PAIR_CHANNELS)
        maps = [draw(width, PAIR_CHANNELS, size=0.5), *(draw(width, width, size=width**-0.5) for _ in range(2))]
    mask = None
    if dense:
        mask = torch.zeros(layer.queries, layer.keys, dtype=torch.bool, device=device)
        mask.scatter_(1, around.idx.long(), True)
    leaves = [None if x is None else x.requires_grad_() for x in (q, k, v, *maps)]
    assert leaves[0] is not None and leaves[1] is not None and leaves[2] is not None
    return Operands(layer, around, leaves[0], leaves[1], leaves[2], y, leaves[3], leaves[4], leaves[5], grad, mask)


def fused(o: Operands, backend: AttentionBackend = "auto") -> Tensor:
    """Our operator; a pair term is folded into four numbers per query and head."""
    if o.y is None or o.embed is None or o.to_keys is None or o.to_values is None:
        result = neighborhood_attention(o.q, o.k, o.v, o.neighborhood, backend=backend)
        assert isinstance(result, Tensor)
        return result
    u = (o.q.flatten(1) @ block_columns(o.to_keys @ o.embed, HEADS)).unflatten(1, (HEADS, -1))
    out, z = neighborhood_attention(o.q, o.k, o.v, o.neighborhood, pair=(u, o.y), backend=backend)
    values = block_columns(o.to_values @ o.embed, HEADS)
    return torch.addmm(out.flatten(1), z.flatten(1), values.T).unflatten(1, (HEADS, -1))


def literal(o: Operands) -> Tensor:
    """The published steps: gather, embed, two maps, softmax; every step a tensor (M, K, C)."""
    rows = o.neighborhood.idx.clamp(min=0).long()
    keys, values = (table.index_select(0, rows.flatten()).unflatten(0, rows.shape) for table in (o.k, o.v))
    logits = torch.einsum("mhc,mkhc->mkh", o.q, keys)
    if o.y is not None and o.embed is not None and o.to_keys is not None and o.to_values is not None:
        embedded = linear(o.y, o.embed)
        logits = logits + torch.einsum("mhc,mkhc->mkh", o.q, linear(embedded, o.to_keys).unflatten(2, (HEADS, -1)))
        values = values + linear(embedded, o.to_values).unflatten(2, (HEADS, -1))
    logits = (logits * o.q.shape[2] ** -0.5).masked_fill((o.neighborhood.idx < 0)[..., None], -torch.inf)
    return torch.einsum("mkh,mkhc->mhc", logits.softmax(1), values)


def chunked(o: Operands) -> Tensor:
    """A loop over chunks of queries with `bmm`, as a user writes it who wants the gradient from autograd.

    Chunks are small where no gradient is asked for. Each one's gradient of the keys is a whole table, so with gradients
    there are at most 32 of them.
    """
    small = 256 if o.q.is_cpu else 1 << 15
    step = max(4 * small, math.ceil(len(o.q) / 32)) if torch.is_grad_enabled() else small
    parts = [o.chunk(start, start + step) for start in range(0, len(o.q), step)]
    return torch.cat([_one_chunk(part) for part in parts])


def _one_chunk(o: Operands) -> Tensor:
    rows = o.neighborhood.idx.clamp(min=0).long()
    keys, values = (table.index_select(0, rows.flatten()).unflatten(0, rows.shape) for table in (o.k, o.v))
    if o.y is not None and o.embed is not None and o.to_keys is not None and o.to_values is not None:
        embedded = linear(o.y, o.embed)
        keys = keys + linear(embedded, o.to_keys).unflatten(2, (HEADS, -1))
        values = values + linear(embedded, o.to_values).unflatten(2, (HEADS, -1))
    edges, width = len(rows) * HEADS, o.q.shape[2]
    logits = torch.bmm(o.q.reshape(edges, 1, width), keys.permute(0, 2, 3, 1).reshape(edges, width, -1))
    absent = (o.neighborhood.idx < 0).repeat_interleave(HEADS, 0)[:, None]
    weights = (logits * width**-0.5).masked_fill(absent, -torch.inf).softmax(2)
    return torch.bmm(weights, values.transpose(1, 2).reshape(edges, -1, width)).view(o.q.shape)


def multiply_and_sum(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    idx: Tensor,
    y: Tensor | None,
    embed: Tensor | None,
    to_keys: Tensor | None,
    to_values: Tensor | None,
) -> Tensor:
    """The definition without matrix products over neighbors, which the compiler fuses; a pair term folded as ours."""
    scale = q.shape[2] ** -0.5
    if y is None or embed is None or to_keys is None or to_values is None:
        return reference.attend(q, k, v, idx, None, None, None, scale)[0]
    u = torch.einsum("mhc,hcp->mhp", q, (to_keys @ embed).unflatten(0, (HEADS, -1)))
    out, z, _ = reference.attend(q, k, v, idx, u, y, None, scale)
    return out + torch.einsum("mhp,hcp->mhc", z, (to_values @ embed).unflatten(0, (HEADS, -1)))


def compiled_way() -> Callable[[Operands], Tensor]:
    """`multiply_and_sum` under `torch.compile`, freshly compiled for any number of points."""
    torch.compiler.reset()
    compiled = torch.compile(multiply_and_sum)

    def run(o: Operands) -> Tensor:
        for x in (o.q, o.k, o.v, o.neighborhood.idx, o.y):
            if x is not None and len(x) > 1:
                torch._dynamo.maybe_mark_dynamic(x, 0)
        return compiled(o.q, o.k, o.v, o.neighborhood.idx, o.y, o.embed, o.to_keys, o.to_values)

    return run


def dense(o: Operands) -> Tensor:
    """All queries with all keys and a mask: what a fast dense attention costs."""
    q, k, v = (x.transpose(0, 1)[None] for x in (o.q, o.k, o.v))
    return scaled_dot_product_attention(q, k, v, attn_mask=o.dense)[0].transpose(0, 1)


class Way(NamedTuple):
    """How to compute a layer, and roughly what that needs."""

    run: Callable[[Operands], Tensor]
    # Tensors (M, K, C) held at once: forward and with backward, without a pair term and with it.
    edges: tuple[float, float, float, float]


WAYS = {
    OURS: Way(fused, (0, 0.5, 0, 0.5)),
    OURS_TORCH: Way(lambda o: fused(o, "torch"), (0, 0.5, 0, 0.5)),
    LITERAL: Way(literal, (4, 7, 7, 13)),
    CHUNKED: Way(chunked, (0.2, 6, 0.5, 12)),
    DENSE: Way(dense, (0, 0, 0, 0)),
}
# Held while compiled code runs: what a partly fused graph keeps.
COMPILED_EDGES = (2.0, 5.0, 2.0, 5.0)


def ways_for(layer: Layer) -> dict[str, Way]:
    """Every way that can compute a layer, without compiling anything."""
    ways = dict(WAYS)
    if layer.pair or layer.keys > MOST_DENSE:
        del ways[DENSE]
    return ways


def bytes_needed(way: Way, layer: Layer, itemsize: int, backward: bool) -> float:
    """Rough estimate of what a way allocates."""
    tables = (6 * layer.keys + 6 * layer.queries) * layer.channels * itemsize
    return tables + way.edges[2 * layer.pair + backward] * layer.edge_bytes(itemsize)


def forward_call(way: Way, o: Operands) -> Callable[[], Tensor]:
    """The result alone, without a graph."""

    def call() -> Tensor:
        with torch.no_grad():
            return way.run(o)

    return call


def backward_call(way: Way, o: Operands) -> Callable[[], tuple[Tensor, ...]]:
    """The result and the gradients of all leaves."""
    return lambda: torch.autograd.grad(way.run(o), o.leaves, o.grad)


def difference(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference, relative to that of what is expected; NaN is infinitely far."""
    error = float((found.detach().double() - expected.detach().double()).norm())
    return error / max(float(expected.detach().double().norm()), 1e-30) if math.isfinite(error) else math.inf


def disagreement(way: Way, o: Operands, expected: list[Tensor]) -> float:
    """Largest relative difference of result and gradients from the expected ones (`everything` of another way)."""
    return max(map(difference, everything(way, o), expected))


def everything(way: Way, o: Operands) -> list[Tensor]:
    """The result and the gradients of all leaves."""
    out = way.run(o)
    return [out.detach(), *torch.autograd.grad(out, o.leaves, o.grad)]


def definition_error(layer: Layer, dtype: torch.dtype, device: torch.device | str = "cpu") -> float:
    """Largest relative difference of our result and gradients from float64 autograd of the definition.

    On a cloud of at most 500 points with the widths of the layer.
    """
    few = replace(layer, keys=min(500, layer.keys), queries=min(500, layer.queries))
    o = make_operands(few, neighbors_of(few, device), dtype)
    y = None if o.y is None else o.y.double()
    leaves = [x.detach().double().requires_grad_() for x in o.leaves]
    maps: list[Tensor | None] = [*leaves[3:]] or [None] * 3
    out = multiply_and_sum(leaves[0], leaves[1], leaves[2], o.neighborhood.idx, y, maps[0], maps[1], maps[2])
    return disagreement(WAYS[OURS], o, [out.detach(), *torch.autograd.grad(out, leaves, o.grad.double())])


class Floor(NamedTuple):
    """Bytes that must move."""

    compulsory: int  # every tensor once per kernel (F0 of the specification)
    uncached: int  # no row that several queries share is read from a cache (F1)


def floor_of(layer: Layer, itemsize: int, backward: bool) -> Floor:
    """Bytes of a fused forward kernel, with `backward` also those of a query side and a key side."""
    queries, keys = (count * layer.channels * itemsize for count in (layer.queries, layer.keys))
    pairs = PAIR_CHANNELS * itemsize if layer.pair else 0
    # Numbers of neighbors with their pair features, and u or z; logarithms of sums.
    table, small, sums = layer.queries * layer.slots * (4 + pairs), layer.queries * HEADS * pairs, layer.queries * 16
    gathered = 2 * layer.edge_bytes(itemsize)
    own, shared = 2 * queries + table + 2 * small + sums, 2 * keys
    compulsory, uncached = own + shared, own + gathered
    if backward:
        query_side = 4 * queries + table + 4 * small + 2 * sums
        key_side = 4 * keys + table + 2 * small + 2 * sums
        compulsory += query_side + 2 * keys + key_side + 2 * queries
        uncached += query_side + gathered + key_side + gathered
    return Floor(compulsory, uncached)


class Module(NamedTuple):
    """RoITr's whole layer, folded and literal, with the same parameters."""

    run: dict[str, Callable[[], Tensor]]
    leaves: list[Tensor]
    grad: Tensor


def make_module(layer: Layer, around: Neighborhood, dtype: torch.dtype = torch.float32) -> Module:
    """The layer as its network calls it, on random features; queries are rows of the features."""
    device, width = around.idx.device, layer.channels
    torch.manual_seed(0)
    folded, spelled = PPFAttention(width, width), LiteralPPFAttention(width, width)
    for name, child in folded.to(device, dtype).named_children():
        setattr(spelled, name, child)
    features = torch.randn(layer.keys, width, device=device).to(dtype).requires_grad_()
    pairs = 3 * torch.rand(layer.queries, layer.slots, PAIR_CHANNELS, device=device).to(dtype)
    rows = torch.arange(layer.queries, device=device) * layer.keys // layer.queries
    grad = torch.randn(layer.queries, width, device=device).to(dtype)
    # The biases of both kinds of keys cancel in the softmax: their gradients are rounding errors.
    trained = [x for name, x in folded.named_parameters() if not name.endswith(("proj_k.bias", "proj_p.bias"))]
    run = {
        OURS: lambda: folded(features, around, pairs, query_rows=rows),
        LITERAL: lambda: spelled(features, around, pairs, query_rows=rows),
    }
    return Module(run, [features, *trained], grad)


def chosen(layers: tuple[Layer, ...], texts: list[str] | None) -> Iterator[Layer]:
    """Layers whose title contains one of the texts, all without texts."""
    yield from (layer for layer in layers if not texts or any(text in layer.title for text in texts))
