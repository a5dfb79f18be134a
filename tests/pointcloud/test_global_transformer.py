"""The global transformer against its definition, written out literally in float64."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from roitr_cases import pose, random
from torch import Tensor, nn

from rotaware.geo import transform_points
from rotaware.pointcloud import node_geometry
from rotaware.pointcloud.global_transformer import CrossLayer, EmbeddedPairs, FeedForward, GlobalTransformer, SelfLayer
from rotaware.pointcloud.node_geometry import GeometricEmbedding, NodeGeometry, sinusoids

HEADS = 4


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def angle(one: list[float], other: list[float]) -> float:
    """Between two vectors; 0 if one of them is zero."""
    cross = [one[i - 2] * other[i - 1] - one[i - 1] * other[i - 2] for i in range(3)]
    return math.atan2(math.hypot(*cross), sum(a * b for a, b in zip(one, other, strict=True)))


def literal_geometry(nodes: Tensor, neighbors: int) -> NodeGeometry:
    """Pair by pair."""
    points = nodes.tolist()
    count = len(points)
    distances = [[math.dist(p, q) for q in points] for p in points]
    angles = []
    for i, row in enumerate(distances):
        nearest = sorted((j for j in range(count) if j != i), key=lambda j, row=row: row[j])[:neighbors]
        sides = [[a - b for a, b in zip(points[j], points[i], strict=True)] for j in range(count)]
        angles.append([[angle(sides[n], sides[j]) for n in nearest] for j in range(count)])
    shape = (count, count, min(neighbors, count - 1))
    return NodeGeometry(
        torch.tensor(distances, dtype=torch.float64), torch.tensor(angles, dtype=torch.float64).reshape(shape)
    )


@pytest.mark.parametrize("neighbors", [3, 5])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 25])
def test_geometry(count: int, neighbors: int) -> None:
    nodes = random(count, 3)
    found, expected = NodeGeometry.of(nodes, neighbors=neighbors), literal_geometry(nodes, neighbors)
    assert found.angle.shape == (count, count, min(neighbors, count - 1))
    torch.testing.assert_close(found.distance, expected.distance)
    torch.testing.assert_close(found.angle, expected.angle, rtol=0, atol=1e-12)
    assert not found.angle.diagonal().any()
    assert not found.distance.diagonal().any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_geometry_does_not_change_with_the_pose(dtype: torch.dtype) -> None:
    nodes = random(40, 3).to(dtype) * 3
    found, expected = NodeGeometry.of(transform_points(pose(0).to(dtype), nodes)), NodeGeometry.of(nodes)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(found.distance, expected.distance, rtol=0, atol=tolerance)
    # Of two vectors almost in line the angle is known to the square root of the precision, were it not for atan2.
    torch.testing.assert_close(found.angle, expected.angle, rtol=0, atol=tolerance)


def test_geometry_of_coincident_superpoints() -> None:
    geometry = NodeGeometry.of(torch.zeros(5, 3))
    assert not geometry.distance.any()
    assert not geometry.angle.any()


def test_geometry_has_no_gradient() -> None:
    assert not NodeGeometry.of(random(5, 3).requires_grad_()).angle.requires_grad


def test_sinusoids_by_the_formula() -> None:
    numbers = torch.tensor([0.0, 0.3, 7.0, 200.0])
    found = sinusoids(numbers, 10)
    for row, x in zip(found.tolist(), numbers.tolist(), strict=True):
        for k in range(5):
            phase = x * 10_000.0 ** (-2 * k / 10)
            assert row[2 * k : 2 * k + 2] == pytest.approx([math.sin(phase), math.cos(phase)], abs=2e-5)
    with pytest.raises(ValueError, match="channels: expected an even number, got 5"):
        sinusoids(numbers, 5)


def embeddings(channels: int = 24) -> tuple[GeometricEmbedding, GeometricEmbedding]:
    """By tables and exactly, of the same weights."""
    tabulated = GeometricEmbedding(channels)
    exact = GeometricEmbedding(channels, tabulated=False)
    exact.load_state_dict(tabulated.state_dict())
    return tabulated, exact


def literal_embedding(module: GeometricEmbedding, geometry: NodeGeometry) -> Tensor:
    """Section 6.1 of the specification in float64."""
    channels = module.channels
    frequency = 10_000.0 ** (-torch.arange(0, channels, 2).double() / channels)

    def embedded(proj: nn.Linear, numbers: Tensor) -> Tensor:
        phase = numbers.double()[..., None] * frequency
        waves = torch.stack([phase.sin(), phase.cos()], -1).flatten(-2)
        return waves @ proj.weight.double().T + proj.bias.double()

    found = embedded(module.proj_d, geometry.distance / 0.2)
    if geometry.angle.shape[2]:
        found = found + embedded(module.proj_a, geometry.angle * 180 / math.pi / 15).max(2).values
    return found


def gradients(module: nn.Module, output: Tensor) -> list[Tensor]:
    """Of a weighted sum of an output by all parameters."""
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output.dtype)
    found = torch.autograd.grad(output, list(module.parameters()), weights, allow_unused=True)
    return [torch.zeros(()) if each is None else each for each in found]


def assert_near(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Equal within a share of the largest value."""
    assert (found.double() - expected.double()).abs().max() <= tolerance * expected.abs().max().clamp(min=1e-12)


@pytest.mark.parametrize("tabulated", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 60])
def test_embedding(count: int, tabulated: bool) -> None:
    geometry = NodeGeometry.of(random(count, 3).float() * 3)
    module = embeddings()[0 if tabulated else 1]
    found, expected = module(geometry), literal_embedding(module, geometry)
    assert_near(found, expected, 2e-5)
    for one, other in zip(gradients(module, found), gradients(module, expected.float()), strict=True):
        # Where two angles are embedded almost alike, either may be the larger.
        assert_near(one, other, 1e-4 if count < 60 else 1e-3)


@pytest.mark.parametrize("neighbors", [0, 1, 2, 3, 4, 7])
def test_compiled_reading_agrees_with_its_definition(neighbors: int) -> None:
    geometry = NodeGeometry.of(random(30, 3).float() * 3, neighbors=neighbors)
    angles = geometry.angle[..., :neighbors]
    places = [part.clamp(max=50.0) for part in (geometry.distance * 20, angles * 10)]
    tables = [torch.randn(int(part.max()) + 2 if part.numel() else 2, 11) for part in places]
    weights = torch.randn(30, 30, 11)
    results = []
    for read in (node_geometry.ReadTables.apply, node_geometry.read_tables):
        leaves = [table.clone().requires_grad_() for table in tables]
        found = read(*places, *leaves)
        grads = torch.autograd.grad(found, leaves, weights, allow_unused=True)
        results.append((found, *(torch.zeros_like(x) if g is None else g for g, x in zip(grads, leaves, strict=True))))
    for one, other in zip(*results, strict=True):
        assert_near(one, other, 1e-5)


def test_places_beyond_the_tables() -> None:
    module, _ = embeddings()
    far, farther = (NodeGeometry(torch.tensor([[0.0, size]] * 2), torch.zeros(2, 2, 1)) for size in (51.2, 1e6))
    assert torch.equal(module(far), module(farther))
    assert module(farther).isfinite().all()


@pytest.mark.parametrize("count", [3, 61])
def test_tables_are_equal_to_the_bit_on_any_number_of_threads(count: int, threads: Callable[[int], None]) -> None:
    geometry = NodeGeometry.of(random(count, 3).float() * 3)
    module, _ = embeddings()
    results = []
    for number in (1, 2, 2):
        threads(number)
        found = module(geometry)
        results.append([found, *gradients(module, found)])
    assert all(torch.equal(one, other) for again in results[1:] for one, other in zip(again, results[0], strict=True))


# Layers, one pair of superpoints after the other.


def literal_self_layer(layer: SelfLayer, features: Tensor, embedded: Tensor) -> tuple[Tensor, Tensor]:
    """Section 6.2."""
    count, channels = features.shape
    width = channels // HEADS
    q, k, v = layer.proj_q(features), layer.proj_k(features), layer.proj_v(features)
    r, u = layer.proj_p(embedded), layer.proj_vp(embedded)
    attended, place = torch.zeros_like(features), torch.zeros_like(features)
    for h in range(HEADS):
        part = slice(h * width, (h + 1) * width)
        for i in range(count):
            logits = torch.stack(
                [(q[i, part] @ k[j, part] + q[i, part] @ r[i, j, part]) / math.sqrt(width) for j in range(count)]
            )
            share = logits.softmax(0)
            attended[i, part] = sum(share[j] * v[j, part] for j in range(count))
            others = [j for j in range(count) if j != i]
            if others:
                share = logits[others].softmax(0)
                place[i, part] = sum(share[n] * u[i, j, part] for n, j in enumerate(others))
            else:
                # Nothing to be gathered: the bias alone.
                place[i, part] = layer.proj_vp.bias[part]
    x = layer.norm(features + layer.linear(attended))
    s = layer.place_norm(layer.place_linear(place))
    return fed_forward(layer.output, x), fed_forward(layer.place_output, s)


def literal_cross_layer(
    layer: CrossLayer, features: Tensor, others: Tensor, place: Tensor, others_place: Tensor
) -> Tensor:
    """Section 6.3."""
    width = features.shape[1] // HEADS
    q, k, v = layer.proj_q(features + place), layer.proj_k(others + others_place), layer.proj_v(others)
    attended = torch.zeros_like(features)
    for h in range(HEADS):
        part = slice(h * width, (h + 1) * width)
        for i in range(len(features)):
            share = torch.stack([q[i, part] @ row[part] / math.sqrt(width) for row in k]).softmax(0)
            attended[i, part] = share @ v[:, part]
    return fed_forward(layer.output, layer.norm(features + layer.linear(attended)))


def fed_forward(layer: FeedForward, x: Tensor) -> Tensor:
    return layer.norm(x + layer.squeeze(torch.relu(layer.expand(x))))


def literal_transformer(model: GlobalTransformer, features: list[Tensor], geometry: list[NodeGeometry]) -> list[Tensor]:
    """Section 6, and its order: self, cross, self, cross, and the source first."""
    embedded = [literal_embedding(model.embedding, each) for each in geometry]
    source, target = (model.in_proj(each) for each in features)
    for own, across in zip(model.self_layers, model.cross_layers, strict=True):
        source, source_place = literal_self_layer(own, source, embedded[0])
        target, target_place = literal_self_layer(own, target, embedded[1])
        source = literal_cross_layer(across, source, target, source_place, target_place)
        target = literal_cross_layer(across, target, source, target_place, source_place)
    return [model.out_proj(source), model.out_proj(target)]


@pytest.mark.parametrize("counts", [(9, 7), (1, 1), (1, 5), (2, 3), (3, 2)])
def test_transformer(counts: tuple[int, int]) -> None:
    model = GlobalTransformer(16, heads=HEADS, layers=2)
    for each in model.parameters():
        # Biases count, and attention is far from even.
        each.data += 0.3 * torch.randn(each.shape)
    features = [random(count, 16, seed=seed).float() * 4 - 2 for seed, count in enumerate(counts)]
    geometry = [NodeGeometry.of(random(count, 3, seed=seed).float() * 2) for seed, count in enumerate(counts)]
    leaves = [each.clone().requires_grad_() for each in features]
    found = torch.cat(model(leaves, geometry))
    exact = copy.deepcopy(model).double()
    exact_leaves = [each.double().requires_grad_() for each in features]
    expected = torch.cat(literal_transformer(exact, exact_leaves, geometry))
    assert_near(found, expected, 1e-4)
    weights = random(*found.shape, seed=9)
    theirs = torch.autograd.grad(expected, [*exact_leaves, *exact.parameters()], weights, allow_unused=True)
    ours = torch.autograd.grad(found, [*leaves, *model.parameters()], weights.float(), allow_unused=True)
    largest = max(float(each.abs().max()) for each in theirs if each is not None)
    names = ["source", "target", *(name for name, _ in model.named_parameters())]
    for name, one, other in zip(names, ours, theirs, strict=True):
        if other is None:
            # No angle, or no place: what is missing may be zero.
            assert one is None or not one.any(), name
            continue
        assert one is not None, name
        gap = (one - other).abs().max()
        assert gap <= 1e-3 * other.abs().max() + 1e-5 * largest, name


def test_pairs_that_are_read_several_times() -> None:
    """Values and gradients of plain products, in every order of backward passes over parts of one graph."""
    vectors = random(6, 6, 4, seed=1).requires_grad_()
    queries, weights = (random(6, 2, size, seed=size).requires_grad_() for size in (4, 6))
    pairs = EmbeddedPairs(vectors)
    found = pairs.products(queries), pairs.sums(weights), pairs.products(2 * queries)
    expected = queries @ vectors.transpose(1, 2), weights @ vectors, 2 * queries @ vectors.transpose(1, 2)
    leaves = [vectors, queries, weights]
    for asked, read in (([1], [0, 2]), ([0], [1]), ([0, 1, 2], [0, 1, 2]), ([2], [1]), ([0], [2]), ([0, 1], [0, 2])):
        wanted = [leaves[k] for k in asked]
        ours, theirs = (
            torch.autograd.grad(sum((each[k] ** 2).sum() for k in read), wanted, retain_graph=True)
            for each in (found, expected)
        )
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other)


def test_every_parameter_gets_a_gradient_however_few_superpoints() -> None:
    """Parallel training waits for each."""
    for counts in ((1, 1), (1, 2), (2, 2), (5, 4)):
        model = GlobalTransformer(8, layers=1)
        geometry = [NodeGeometry.of(random(count, 3).float()) for count in counts]
        output = torch.cat(model([torch.randn(count, 8) for count in counts], geometry))
        (output * torch.randn(output.shape)).sum().backward()
        for name, each in model.named_parameters():
            assert each.grad is not None and each.grad.isfinite().all(), (counts, name)


def test_the_definition_of_the_reading_serves_the_whole_transformer(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU."""
    model = GlobalTransformer(16, layers=1)
    geometry = [NodeGeometry.of(random(count, 3, seed=count).float()) for count in (9, 7)]
    features = [random(count, 16, seed=count).float() for count in (9, 7)]
    expected = model(features, geometry)
    monkeypatch.setattr(node_geometry.ReadTables, "apply", node_geometry.read_tables)
    for one, other in zip(model(features, geometry), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_published_size() -> None:
    with torch.device("meta"):
        model = GlobalTransformer(256)
    assert sum(each.numel() for each in model.parameters()) == 4_809_728


def test_half_precision_under_autocast() -> None:
    model = GlobalTransformer(16, layers=2)
    geometry = [NodeGeometry.of(random(count, 3, seed=count).float()) for count in (9, 7)]
    features = [random(count, 16, seed=count).float() for count in (9, 7)]
    expected = torch.cat(model(features, geometry))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch.cat(model(features, geometry))
    found.float().sum().backward()
    assert (found - expected).norm() < 0.05 * expected.norm()


def test_another_unit_of_length_is_another_scale() -> None:
    module, _ = embeddings()
    other = GeometricEmbedding(24, distance_scale=20.0)
    other.load_state_dict(module.state_dict())
    geometry = NodeGeometry.of(random(9, 3).float())
    larger = replace(geometry, distance=geometry.distance * 100)
    torch.testing.assert_close(other(larger), module(geometry), rtol=1e-5, atol=1e-5)
