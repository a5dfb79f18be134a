"""Vector attention against loops over queries, pairs and channels, and the laws of its two layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck

from rotaware.kernels.neighborhood import Neighborhood
from rotaware.kernels.vector_attention import (
    GroupedVectorAttention,
    VectorAttention,
    attend_vector,
    vector_attention,
)

MAPS = ["interleaved", "contiguous"]
# Every test has 8 channels per group and 3 pair features, as the published first version: compiled code is per width.
# An empty row, a full one, a key named twice, a key that nobody names.
TABLE = torch.tensor([[0, 1, 2, 4], [-1, -1, -1, -1], [3, -1, 0, -1], [2, 2, 1, -1], [-1, 4, -1, -1]])
KEYS = 6
# One point has no neighbors, and two are nobody's.
POINT_TABLE = torch.tensor([[0, 1, 2], [1, 0, -1], [2, 3, 3], [-1, -1, -1], [4, 2, -1], [-1, 0, 4], [1, 2, 4]])


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Normal float64 numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def group_of(channel: int, channels: int, groups: int, channel_map: str) -> int:
    """The group whose weights a channel takes."""
    return channel % groups if channel_map == "interleaved" else channel // (channels // groups)


def naive_sum(logits: list[Tensor], values: list[Tensor], channel_map: str, masked: list[bool] | None = None) -> Tensor:
    """(C,) from the logits (G,) and values (C,) of one query's pairs; masked pairs count in the softmax only."""
    channels, groups = len(values[0]), len(logits[0])
    chosen = [group_of(c, channels, groups, channel_map) for c in range(channels)]
    total, top = torch.zeros_like(values[0]), torch.zeros_like(values[0])
    for j, (row, value) in enumerate(zip(logits, values, strict=True)):
        terms = torch.exp(row[chosen])
        total = total + terms
        if masked is None or not masked[j]:
            top = top + terms * value
    return top / total


def naive_vector_attention(logits: Tensor, v: Tensor, idx: Tensor, pair: Tensor | None, channel_map: str) -> Tensor:
    """Query by query."""
    rows = []
    for i in range(len(idx)):
        slots = [j for j in range(idx.shape[1]) if idx[i, j] >= 0]
        values = [v[idx[i, j]] + (0 if pair is None else pair[i, j]) for j in slots]
        rows.append(naive_sum([logits[i, j] for j in slots], values, channel_map) if slots else v.new_zeros(v.shape[1]))
    return torch.stack(rows)


def through(layers: nn.Module | None, x: Tensor) -> Tensor:
    """What a sequence of layers computes, norms written out."""
    for layer in layers.modules():
        if isinstance(layer, nn.Linear):
            x = x @ layer.weight.T + (0 if layer.bias is None else layer.bias)
        elif isinstance(layer, nn.BatchNorm1d):
            mean, variance = layer.running_mean, layer.running_var
            if layer.training:
                mean, variance = x.mean(0), ((x - x.mean(0)) ** 2).mean(0)
            x = (x - mean) / torch.sqrt(variance + layer.eps) * layer.weight + layer.bias
        elif isinstance(layer, nn.LayerNorm):
            centered = x - x.mean(1, keepdim=True)
            x = centered / torch.sqrt((centered**2).mean(1, keepdim=True) + layer.eps) * layer.weight + layer.bias
        elif isinstance(layer, nn.ReLU):
            x = torch.where(x > 0, x, 0)
    return x


def naive_layer(layer: nn.Module, features: Tensor, points: Tensor, idx: Tensor) -> Tensor:
    """Both layers as published, pair by pair; with `legacy_mask` an empty slot is a pair with a row of zeros."""
    pairs = [(i, n) for i, row in enumerate(idx.tolist()) for n in row if n >= 0 or layer.legacy_mask]
    q, k, v = (through(x, features) for x in (layer.linear_q, layer.linear_k, layer.linear_v))
    offset = torch.stack([points[n] - points[i] if n >= 0 else 0 * points[i] for i, n in pairs])
    relation = torch.stack([(k[n] if n >= 0 else 0 * q[i]) - q[i] for i, n in pairs])
    value = torch.stack([v[n] if n >= 0 else 0 * q[i] for i, n in pairs])
    first = isinstance(layer, VectorAttention)
    if not first and layer.linear_p_multiplier is not None:
        relation = relation * through(layer.linear_p_multiplier, offset)
    delta = layer.linear_p if first else layer.linear_p_bias
    if delta is not None:
        relation, value = relation + through(delta, offset), value + through(delta, offset)
    logits = through(layer.linear_w if first else layer.weight_encoding, relation)
    rows = []
    for i in range(len(points)):
        mine = [e for e, pair in enumerate(pairs) if pair[0] == i]
        masked = None if first else [pairs[e][1] < 0 for e in mine]
        channel_map = "interleaved" if first else "contiguous"
        empty = features.new_zeros(layer.channels)
        rows.append(
            naive_sum([logits[e] for e in mine], [value[e] for e in mine], channel_map, masked) if mine else empty
        )
    return torch.stack(rows)


def build(version: int, **options: Any) -> nn.Module:
    """A layer of 16 channels in float64 whose parameters and running statistics are all different from the default."""
    layer = VectorAttention(16, **options) if version == 1 else GroupedVectorAttention(16, 2, **options)
    layer = layer.double()
    state = layer.state_dict()
    for seed, name in enumerate(state):
        if state[name].is_floating_point():
            state[name] = numbers(*state[name].shape, seed=seed) * 0.5 + name.endswith("norm.weight")
        if name.endswith("running_var"):
            state[name] = state[name].abs() + 0.5
    layer.load_state_dict(state)
    return layer


def inputs(rows: int = len(POINT_TABLE)) -> tuple[Tensor, Tensor]:
    """Features and points."""
    return numbers(rows, 16, seed=1), numbers(rows, 3, seed=2)


LAYERS = {
    "v1": (1, {}),
    "v1 layer norm": (1, {"norm": "layer"}),
    "v1 legacy": (1, {"legacy_mask": True}),
    "v2": (2, {}),
    "v2 layer norm": (2, {"norm": "layer", "qkv_bias": False}),
    "v2 multiplier": (2, {"pe_multiplier": True}),
    "v2 multiplier alone": (2, {"pe_multiplier": True, "pe_bias": False}),
    "v2 without offsets": (2, {"pe_bias": False}),
    "v2 legacy": (2, {"legacy_mask": True}),
    "v2 legacy multiplier": (2, {"legacy_mask": True, "pe_multiplier": True}),
    "v2 legacy without offsets": (2, {"legacy_mask": True, "pe_bias": False}),
}


@pytest.fixture(params=LAYERS)
def layer(request: pytest.FixtureRequest) -> nn.Module:
    """Every variant of both layers."""
    version, options = LAYERS[request.param]
    return build(version, **options)


@pytest.mark.parametrize("channel_map", MAPS)
@pytest.mark.parametrize("kind", ["none", "table", "low rank"])
def test_values_and_gradients_are_the_naive_ones(channel_map: str, kind: str) -> None:
    logits, v, y, weight = numbers(5, 4, 2), numbers(KEYS, 16, seed=1), numbers(5, 4, 3, seed=2), numbers(16, 3, seed=3)
    empty = (TABLE < 0)[..., None]
    # What lies where nobody looks must not show, nor must its gradient.
    poisoned = [x.masked_fill(empty, torch.nan) for x in (logits, y, y @ weight.T)]
    v[5] = torch.nan
    leaves = [x.requires_grad_() for x in (poisoned[0], v, poisoned[1], weight, poisoned[2])]
    pair = {"none": None, "table": leaves[4], "low rank": (leaves[2], leaves[3])}[kind]
    expected_pair = leaves[2] @ weight.T if kind == "low rank" else pair
    expected = naive_vector_attention(leaves[0], v, TABLE, expected_pair, channel_map)
    near = Neighborhood.from_index(TABLE, KEYS)
    found = vector_attention(leaves[0], v, near, pair_values=pair, channel_groups=channel_map)
    plain = attend_vector(leaves[0], v, TABLE, pair, channel_map)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(plain, expected, rtol=1e-12, atol=1e-12)
    assert not found[1].any()
    used = {"none": leaves[:2], "table": [*leaves[:2], leaves[4]], "low rank": leaves[:4]}[kind]
    toward = numbers(5, 16, seed=4)
    gradients = torch.autograd.grad(found, used, toward)
    for ours, theirs in zip(gradients, torch.autograd.grad(plain, used, toward), strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    assert not gradients[0][TABLE < 0].any()
    assert not gradients[1][5].any()


@pytest.mark.parametrize("channel_map", MAPS)
@pytest.mark.parametrize("kind", ["table", "low rank"])
def test_gradcheck(channel_map: str, kind: str) -> None:
    near = Neighborhood.from_index(TABLE[:4, :3], KEYS)
    pair = [numbers(4, 3, 16, seed=2)] if kind == "table" else [numbers(4, 3, 3, seed=2), numbers(16, 3, seed=3)]

    def call(logits: Tensor, v: Tensor, *pair: Tensor) -> Tensor:
        values = pair[0] if len(pair) == 1 else (pair[0], pair[1])
        return vector_attention(logits, v, near, pair_values=values, channel_groups=channel_map)

    leaves = [x.requires_grad_() for x in (numbers(4, 3, 2), numbers(KEYS, 16, seed=1), *pair)]
    assert gradcheck(call, leaves)


def test_no_block_of_all_pairs_and_channels_is_kept() -> None:
    rows, slots, channels = 50, 8, 64
    near = Neighborhood.from_index(torch.randint(0, rows, (rows, slots), generator=torch.Generator().manual_seed(0)))
    logits, v = numbers(rows, slots, 8).requires_grad_(), numbers(rows, channels).requires_grad_()
    y, weight = numbers(rows, slots, 3).requires_grad_(), numbers(channels, 3).requires_grad_()
    sizes: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        vector_attention(logits, v, near, pair_values=(y, weight), channel_groups="interleaved")
    assert sizes
    assert max(sizes) <= max(logits.numel(), v.numel())


@pytest.mark.parametrize("shape", [(0, 3, 4), (5, 0, 4), (5, 3, 0)], ids=["no queries", "no slots", "no keys"])
def test_nothing_to_sum(shape: tuple[int, int, int]) -> None:
    rows, slots, keys = shape
    near = Neighborhood.from_index(torch.full((rows, slots), -1), keys)
    logits, v = numbers(rows, slots, 2).requires_grad_(), numbers(keys, 16).requires_grad_()
    for pair in (None, numbers(rows, slots, 16), (numbers(rows, slots, 3), numbers(16, 3))):
        found = vector_attention(logits, v, near, pair_values=pair)
        assert torch.equal(found, torch.zeros(rows, 16, dtype=torch.float64))
        assert not any(x.any() for x in torch.autograd.grad(found.sum(), [logits, v], materialize_grads=True))


def test_dropped_weights_scale_the_others_up() -> None:
    near = Neighborhood.from_index(torch.zeros(2000, 4, dtype=torch.int32), 1)
    torch.manual_seed(0)
    sums = vector_attention(torch.zeros(2000, 4, 1), torch.ones(1, 1), near, dropout=0.5)[:, 0]
    assert sorted(set(sums.tolist())) == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert abs(float(sums.mean()) - 1) < 0.05


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_layers_are_the_published_formulas(layer: nn.Module, training: bool) -> None:
    layer.train(training)
    features, points = (x.requires_grad_() for x in inputs())
    near = Neighborhood.from_index(POINT_TABLE)
    # A branch that is not there has no parameters; key and query offsets cancel in some, and get zeros.
    leaves = [features, points, *layer.parameters()]
    expected = naive_layer(layer, features, points, POINT_TABLE)
    found = layer(features, points, near)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    toward = numbers(*found.shape, seed=4)
    ours = torch.autograd.grad(found, leaves, toward, allow_unused=True)
    theirs = torch.autograd.grad(expected, leaves, toward, allow_unused=True)
    for mine, theirs_ in zip(ours, theirs, strict=True):
        assert (mine is None) == (theirs_ is None)
        if mine is not None:
            assert mine.isfinite().all()
            torch.testing.assert_close(mine, theirs_, rtol=1e-7, atol=1e-9)


def test_a_point_without_neighbors_gets_zeros(layer: nn.Module) -> None:
    found = layer(*inputs(), Neighborhood.from_index(POINT_TABLE))
    # The published first version lets the row of zeros speak for the empty slots.
    assert found[3].any() == (isinstance(layer, VectorAttention) and layer.legacy_mask)


def test_empty_slots_change_no_statistics(layer: nn.Module) -> None:
    wide = torch.cat([POINT_TABLE, torch.full((len(POINT_TABLE), 2), -1)], 1)
    found, statistics = [], []
    for table in (POINT_TABLE, wide):
        state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
        found.append(layer(*inputs(), Neighborhood.from_index(table)))
        statistics.append(
            [
                tensor.clone()
                for name, tensor in layer.state_dict().items()
                if "running" in name and "linear_q" not in name
            ]
        )
        layer.load_state_dict(state)
    same = [torch.allclose(a, b, rtol=1e-12, atol=0) for a, b in zip(*statistics, strict=True)]
    assert torch.allclose(*found, rtol=1e-11, atol=1e-11) == (not layer.legacy_mask)
    # Norms over the points alone, those of the keys, see no slots in either case.
    pairwise = sum("linear_k" not in n for n in layer.state_dict() if "running" in n and "linear_q" not in n)
    assert same.count(False) == (pairwise if layer.legacy_mask else 0)


def test_weights_add_up_to_one_unless_the_mask_is_the_published_one() -> None:
    missing = (POINT_TABLE < 0).any(1)
    for legacy in (False, True):
        layer = build(2, legacy_mask=legacy).eval()
        for linear, value in ((layer.linear_v, 1.0), (layer.linear_p_bias[3], 0.0)):
            nn.init.zeros_(linear.weight)
            nn.init.constant_(linear.bias, value)
        sums = layer(*inputs(), Neighborhood.from_index(POINT_TABLE)).detach()
        whole = ((sums - 1).abs() < 1e-12).all(1)
        expected = ~missing if legacy else (POINT_TABLE >= 0).any(1)
        assert torch.equal(whole, expected)
        assert (sums[~expected] < 1 - 1e-9).all()


def test_evaluation_needs_no_company_and_changes_nothing(layer: nn.Module) -> None:
    layer.eval()
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    features, points = inputs()
    together = layer(features, points, Neighborhood.from_index(POINT_TABLE))
    alone = layer(
        features, points, Neighborhood.from_index(torch.where(torch.arange(7)[:, None] == 2, POINT_TABLE, -1))
    )
    torch.testing.assert_close(alone[2], together[2])
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())


def test_no_pairs_at_all(layer: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    # Empty slots of points that exist are pairs in the published versions.
    for rows in (0,) if layer.legacy_mask else (0, 4):
        features, points = (x.requires_grad_() for x in inputs(rows))
        found = layer(features, points, Neighborhood.from_index(torch.full((rows, 3), -1)))
        assert torch.equal(found, torch.zeros_like(found))
        found.sum().backward()
        assert not features.grad.any()
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())


def test_moved_points_and_another_order(layer: nn.Module) -> None:
    features, points = inputs()
    near = Neighborhood.from_index(POINT_TABLE)
    found = layer(features, points, near)
    torch.testing.assert_close(layer(features, points + 7.0, near), found, rtol=1e-9, atol=1e-9)
    order = torch.tensor([4, 6, 0, 2, 5, 1, 3])
    permuted = layer(features[order], points[order], near.permute(order))
    torch.testing.assert_close(permuted, found[order], rtol=1e-9, atol=1e-9)


def test_gradients_are_the_same_bits_in_every_run() -> None:
    points = torch.rand(1500, 3, generator=torch.Generator().manual_seed(0))
    near, features = Neighborhood.knn(points, 8), torch.rand(1500, 16, generator=torch.Generator().manual_seed(1))
    for layer in (VectorAttention(16), GroupedVectorAttention(16, 2)):
        runs = []
        for _ in range(2):
            leaf = features.clone().requires_grad_()
            runs.append(torch.autograd.grad(layer(leaf, points, near).square().sum(), [leaf, *layer.parameters()]))
        assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_dropped_weights_while_training_only() -> None:
    features, points = inputs()
    near = Neighborhood.from_index(POINT_TABLE)
    for options in ({}, {"pe_bias": False}, {"legacy_mask": True}):
        always, sometimes = build(2, **options), build(2, attn_drop=0.5, **options)
        assert torch.equal(always.eval()(features, points, near), sometimes.eval()(features, points, near))
        torch.manual_seed(0)
        first, second = (sometimes.train()(features, points, near) for _ in range(2))
        assert not torch.allclose(first, second)
        torch.manual_seed(0)
        assert torch.equal(sometimes(features, points, near), first)


def test_names_and_shapes_of_the_first_version() -> None:
    state = VectorAttention(32, 64).state_dict()
    shapes = {
        "linear_q.weight": (64, 32),
        "linear_q.bias": (64,),
        "linear_k.weight": (64, 32),
        "linear_k.bias": (64,),
        "linear_v.weight": (64, 32),
        "linear_v.bias": (64,),
        "linear_p.0.weight": (3, 3),
        "linear_p.0.bias": (3,),
        "linear_p.1.weight": (3,),
        "linear_p.1.bias": (3,),
        "linear_p.1.running_mean": (3,),
        "linear_p.1.running_var": (3,),
        "linear_p.1.num_batches_tracked": (),
        "linear_p.3.weight": (64, 3),
        "linear_p.3.bias": (64,),
        "linear_w.0.weight": (64,),
        "linear_w.0.bias": (64,),
        "linear_w.0.running_mean": (64,),
        "linear_w.0.running_var": (64,),
        "linear_w.0.num_batches_tracked": (),
        "linear_w.2.weight": (8, 64),
        "linear_w.2.bias": (8,),
        "linear_w.3.weight": (8,),
        "linear_w.3.bias": (8,),
        "linear_w.3.running_mean": (8,),
        "linear_w.3.running_var": (8,),
        "linear_w.3.num_batches_tracked": (),
        "linear_w.5.weight": (8, 8),
        "linear_w.5.bias": (8,),
    }
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == shapes
    # Three projections, 12 + 6 + 256 of the offsets, 128 + 520 + 16 + 72 of the weights.
    assert sum(p.numel() for p in VectorAttention(32, 64).parameters()) == 3 * 64 * 33 + 274 + 736
    VectorAttention(32, 64).load_state_dict({name: torch.ones(shape) for name, shape in shapes.items()}, strict=True)


def test_names_and_shapes_of_the_second_version() -> None:
    shapes: dict[str, tuple[int, ...]] = {"linear_v.weight": (48, 48), "linear_v.bias": (48,)}

    def norm(place: str, width: int) -> None:
        for field in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{place}.norm.{field}"] = (width,)
        shapes[f"{place}.norm.num_batches_tracked"] = ()

    for place in ("linear_q", "linear_k"):
        shapes |= {f"{place}.0.weight": (48, 48), f"{place}.0.bias": (48,)}
        norm(f"{place}.1", 48)
    for place in ("linear_p_multiplier", "linear_p_bias"):
        shapes |= {f"{place}.0.weight": (48, 3), f"{place}.0.bias": (48,)}
        shapes |= {f"{place}.3.weight": (48, 48), f"{place}.3.bias": (48,)}
        norm(f"{place}.1", 48)
    shapes |= {"weight_encoding.0.weight": (6, 48), "weight_encoding.0.bias": (6,)}
    shapes |= {"weight_encoding.3.weight": (6, 6), "weight_encoding.3.bias": (6,)}
    norm("weight_encoding.1", 6)
    layer = GroupedVectorAttention(48, 6, pe_multiplier=True)
    assert {name: tuple(tensor.shape) for name, tensor in layer.state_dict().items()} == shapes
    projections, offsets, weights = 3 * 48 * 49 + 2 * 96, 2 * (48 * 4 + 96 + 48 * 49), 6 * 49 + 12 + 6 * 7
    assert sum(p.numel() for p in layer.parameters()) == projections + offsets + weights
    layer.load_state_dict({name: torch.ones(shape) for name, shape in shapes.items()}, strict=True)
    without = {name: torch.ones(shape) for name, shape in shapes.items() if "multiplier" not in name}
    GroupedVectorAttention(48, 6).load_state_dict(without, strict=True)
    unbiased = [name for name in without if name not in ("linear_q.0.bias", "linear_k.0.bias", "linear_v.bias")]
    assert set(GroupedVectorAttention(48, 6, qkv_bias=False).state_dict()) == set(unbiased)


def test_float32_and_bfloat16() -> None:
    layer = build(2)
    features, points = inputs()
    near = Neighborhood.from_index(POINT_TABLE)
    exact = layer(features, points, near).detach()
    found = layer.float()(features.float(), points.float(), near)
    assert found.dtype == torch.float32
    assert (found - exact).norm() < 1e-5 * exact.norm()
    far = layer(features.float(), points + 4.5e5, near)
    assert far.dtype == torch.float32
    assert (far - exact).norm() < 1e-5 * exact.norm()
    with torch.autocast("cpu", torch.bfloat16):
        for module in (layer, build(1).float()):
            mixed = module(features.float(), points.float(), near)
            assert mixed.dtype == torch.bfloat16
            assert all(x.isfinite().all() for x in torch.autograd.grad(mixed.float().sum(), list(module.parameters())))
    logits, v = numbers(5, 4, 2), numbers(KEYS, 16, seed=1)
    table = Neighborhood.from_index(TABLE, KEYS)
    half = vector_attention(logits.float(), v.bfloat16(), table)
    assert half.dtype == torch.bfloat16
    exact = vector_attention(logits, v, table)
    assert (half.double() - exact).norm() < 2e-2 * exact.norm()


def test_wrong_arguments_are_named() -> None:
    near = Neighborhood.from_index(TABLE, KEYS)
    logits, v = torch.zeros(5, 4, 3), torch.zeros(KEYS, 12)
    cases: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
        ((logits[:, :3], v, near), {}, ValueError, "logits: expected shape"),
        ((logits.long(), v, near), {}, TypeError, "logits: expected a floating point"),
        ((logits, v[:5], near), {}, ValueError, "v: expected shape"),
        (
            (logits, v[:, :8], near),
            {},
            ValueError,
            "v: expected a positive multiple of the groups of logits = 3, got 8",
        ),
        ((logits, v, near), {"channel_groups": "striped"}, ValueError, "channel_groups: expected one of"),
        ((logits, v, near), {"dropout": 1.0}, ValueError, "dropout: expected a probability"),
        ((logits, v, near), {"pair_values": torch.zeros(5, 4, 3)}, ValueError, "pair_values: expected shape"),
        ((logits, v, near), {"pair_values": (torch.zeros(5, 4, 2), torch.zeros(2, 12))}, ValueError, "pair_values"),
    ]
    for arguments, options, error, message in cases:
        with pytest.raises(error, match=message):
            vector_attention(*arguments, **options)
    with pytest.raises(ValueError, match="channels: expected a positive multiple of share = 8, got 12"):
        VectorAttention(12)
    with pytest.raises(ValueError, match="channels: expected a positive multiple of groups = 5, got 12"):
        GroupedVectorAttention(12, 5)
    with pytest.raises(ValueError, match="norm: expected one of"):
        VectorAttention(16, norm="instance")
    with pytest.raises(ValueError, match="attn_drop: expected a probability"):
        GroupedVectorAttention(12, 6, attn_drop=1.5)
    with pytest.raises(ValueError, match="neighborhood: expected 5 queries and 5 keys, got 5 queries and 6 keys"):
        VectorAttention(16)(torch.zeros(5, 16), torch.zeros(5, 3), near)
    with pytest.raises(ValueError, match="points: expected shape"):
        GroupedVectorAttention(16, 2)(torch.zeros(5, 16), torch.zeros(6, 3), near)
