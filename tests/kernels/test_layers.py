"""The layers: folded against literal, published against ours, grids against dense attention and naive loops."""

from __future__ import annotations

import copy
import importlib.util
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rotaware.geo import point_pair_features, random_rotation
from rotaware.kernels import knn, layers
from rotaware.kernels.layers import GridNeighborhoodAttention, NeighborhoodAttention, PPFAttention
from rotaware.kernels.literal import LiteralPPFAttention
from rotaware.kernels.neighborhood import Neighborhood

DIV_TERM = "embedding.embedding.div_term"


@pytest.fixture(scope="module")
def fixture_folder(checkout: Path) -> Path:
    """Reference outputs of the authors' network, not part of the project."""
    folder = Path(os.environ.get("ROTAWARE_SHARED", checkout.parent / "shared")) / "fixtures" / "roitr"
    if not folder.is_dir():
        pytest.skip(f"no reference outputs at {folder}; point ROTAWARE_SHARED to the folder that holds fixtures/")
    return folder


def shapes_below(folder: Path, prefix: str) -> dict[str, list[int]]:
    """Names and shapes of a part of the published checkpoint."""
    shapes = json.loads((folder / "roitr_state_dict_keys.json").read_text())
    return {name: shape for name, shape in shapes.items() if name.startswith(prefix)}


def fill_module(folder: Path) -> ModuleType:
    """`fill.py` of the reference outputs."""
    spec = importlib.util.spec_from_file_location("roitr_fill", folder / "fill.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def scene(count: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points in a cube and unit normals, float64."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(count, 3, generator=generator, dtype=torch.float64)
    normals = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return points, nn.functional.normalize(normals, dim=1)


def pairs(points: Tensor, normals: Tensor, rows: Tensor, index: Tensor) -> Tensor:
    """Point pair features (M, K, 4) of the centers `rows` and their neighbors."""
    return point_pair_features(points[rows, None], normals[rows, None], points[index], normals[index])


Case = tuple[Tensor, Neighborhood, Tensor, Tensor | None]


def case(channels: int, *, points: int = 60, k: int = 7, sampled: bool = False, seed: int = 0) -> Case:
    """Features, neighborhood with empty slots and an empty row, pair features and query rows, float64."""
    generator = torch.Generator().manual_seed(seed)
    where, normals = scene(points, seed=seed)
    rows = torch.arange(0, points, 4 if sampled else 1)
    index = knn(where, k, queries=where[rows]).index
    index[torch.rand(index.shape, generator=generator) < 0.2] = -1
    index[3] = -1
    features = torch.randn(points, channels, generator=generator, dtype=torch.float64)
    around = Neighborhood.from_index(index, points)
    return features, around, pairs(where, normals, rows, index.clamp(min=0).long()), rows if sampled else None


def to_float(values: Case) -> Case:
    """The same in float32."""
    features, around, pair_features, rows = values
    return features.float(), around, pair_features.float(), rows


def run(layer: nn.Module, values: Case) -> tuple[Tensor, dict[str, Tensor]]:
    """Output, and the gradients of all parameters and the features of a weighted sum of it."""
    features, around, pair_features, rows = values
    features = features.clone().requires_grad_()
    output = layer(features, around, pair_features, query_rows=rows)
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output.dtype)
    (output * weight).sum().backward()
    gradients = {name: parameter.grad for name, parameter in layer.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    return output.detach(), {**gradients, "features": features.grad}


def both(
    dtype: torch.dtype, in_channels: int = 12, out_channels: int = 32, **options: int
) -> tuple[PPFAttention, LiteralPPFAttention]:
    """A folded and a literal layer with the same parameters."""
    torch.manual_seed(0)
    folded = PPFAttention(in_channels, out_channels, **options).to(dtype)
    literal = LiteralPPFAttention(in_channels, out_channels, **options).to(dtype)
    assert str(literal.load_state_dict(folded.state_dict(), strict=True)) == "<All keys matched successfully>"
    assert str(folded.load_state_dict(literal.state_dict(), strict=True)) == "<All keys matched successfully>"
    return folded, literal


def relative(value: Tensor, expected: Tensor) -> float:
    """Largest difference by the largest value."""
    return float((value - expected).detach().abs().max() / expected.detach().abs().max())


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize(
    ("dtype", "output_error", "gradient_error"), [(torch.float64, 1e-12, 1e-12), (torch.float32, 2e-6, 2e-5)]
)
@pytest.mark.parametrize(
    "options", [{}, {"hidden_channels": 24, "num_heads": 3}, {"hidden_channels": 8, "num_heads": 1}]
)
def test_folded_is_literal(
    dtype: torch.dtype, output_error: float, gradient_error: float, sampled: bool, options: dict[str, int]
) -> None:
    folded, literal = both(dtype, **options)
    values = case(12, sampled=sampled)
    if dtype == torch.float32:
        values = to_float(values)
    output, gradients = run(folded, values)
    expected, expected_gradients = run(literal, values)
    assert relative(output, expected) < output_error
    assert (gradients["transformer.attention.proj_p.bias"] == 0).all()
    # These cancel in the softmax, so what stands in their gradients is rounding.
    for name in ("transformer.attention.proj_p.bias", "transformer.attention.proj_k.bias"):
        noise = torch.stack([gradients.pop(name), expected_gradients.pop(name)]).abs().max()
        assert noise < gradient_error * gradients["transformer.attention.proj_q.bias"].abs().max()
    for name, gradient in gradients.items():
        assert relative(gradient, expected_gradients[name]) < gradient_error, name


def test_an_empty_row_keeps_the_residual_path() -> None:
    layer, literal = both(torch.float64)
    features, around, pair_features, _ = case(12)
    assert (around.idx[3] == -1).all()
    hidden = layer.in_proj(features[3])
    expected = layer.out_proj(layer.transformer.norm(layer.transformer.linear.bias + hidden))
    for form in (layer, literal):
        torch.testing.assert_close(form(features, around, pair_features)[3], expected, rtol=0, atol=1e-12)


def test_what_nobody_names_does_not_leak() -> None:
    layer, _ = both(torch.float64)
    features, around, pair_features, _ = case(12)
    index = around.idx.masked_fill(around.idx == 5, -1)
    around = Neighborhood.from_index(index, 60)
    clean = layer(features, around, pair_features)
    poisoned = layer(
        torch.where(torch.arange(60)[:, None] == 5, torch.nan, features),
        around,
        torch.where((index < 0)[..., None], torch.nan, pair_features),
    )
    rows = torch.arange(60) != 5
    assert torch.equal(poisoned[rows], clean[rows])


def test_no_points() -> None:
    layer = PPFAttention(2, 8)
    around = Neighborhood.from_index(torch.empty(0, 5, dtype=torch.int32), 0)
    assert layer(torch.empty(0, 2), around, torch.empty(0, 5, 4)).shape == (0, 8)


def test_width_of_the_attention() -> None:
    assert PPFAttention(128, 256).hidden_channels == 256
    assert PPFAttention(128, 512).hidden_channels == 256
    assert PPFAttention(128, 512, width_factor=2).hidden_channels == 512
    assert PPFAttention(128, 64, hidden_channels=32).hidden_channels == 32


def test_a_layer_turns_with_the_scene() -> None:
    points, normals = scene(80)
    rotation = random_rotation(dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    layer, _ = both(torch.float64)
    features = case(12, points=80)[0]
    outputs = []
    for where, across in ((points, normals), (points @ rotation.T + 3, normals @ rotation.T)):
        index = knn(where, 9, exclude_self=True).index
        pair_features = pairs(where, across, torch.arange(80), index.long())
        outputs.append(layer(features, Neighborhood.from_index(index), pair_features))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-12)
    # And sees the pairs at all.
    assert relative(layer(features, Neighborhood.from_index(index), pair_features * 0), outputs[0]) > 1e-3


def test_parameters_have_the_published_names(fixture_folder: Path) -> None:
    for level, inside, sizes in (("enc1.0", "", (1, 64)), ("enc2.1", "transformer.", (128, 128))):
        prefix = f"backbone.{level}.transformer.{inside}"
        published = {name.removeprefix(prefix): tuple(s) for name, s in shapes_below(fixture_folder, prefix).items()}
        state = PPFAttention(*sizes).state_dict()
        assert published.pop(DIV_TERM)
        assert {name: tuple(value.shape) for name, value in state.items()} == published


def test_the_published_constant_is_ignored_and_nothing_else() -> None:
    layer = PPFAttention(4, 8)
    nested = nn.ModuleDict({"transformer": layer})
    state = {**layer.state_dict(), DIV_TERM: torch.zeros(4)}
    layer.load_state_dict(state, strict=True)
    assert DIV_TERM in state
    nested.load_state_dict({f"transformer.{name}": value for name, value in state.items()}, strict=True)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        layer.load_state_dict({**state, "embedding.embedding.other": torch.zeros(4)})
    state.pop("transformer.attention.proj_p.bias")
    with pytest.raises(RuntimeError, match=r"Missing key.*proj_p.bias"):
        layer.load_state_dict(state)


@pytest.mark.parametrize("form", [PPFAttention, LiteralPPFAttention])
def test_first_level_of_the_published_network(fixture_folder: Path, form: type[PPFAttention]) -> None:
    reference = np.load(fixture_folder / "roitr_rigid_a.npz")
    shapes = shapes_below(fixture_folder, "backbone.enc1.")
    weights = fill_module(fixture_folder).filled_state_dict(shapes)

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}

    down, block, norm = form(1, 64), form(64, 64), nn.LayerNorm(64)
    down.load_state_dict(part("backbone.enc1.0.transformer."))
    block.load_state_dict(part("backbone.enc1.1.transformer.transformer."))
    norm.load_state_dict(part("backbone.enc1.1.bn2."))
    points, normals = torch.from_numpy(reference["src"]), torch.from_numpy(reference["src_normals"])
    index = knn(points, 9).index[:, 1:]
    pair_features = pairs(points, normals, torch.arange(len(points)), index.long())
    around = Neighborhood.from_index(index)
    x = down(torch.ones(len(points), 1), around, pair_features)
    features = torch.relu(norm(block(x, around, pair_features)) + x)
    assert relative(features[::16], torch.from_numpy(reference["enc1_feats"])) < 1e-3


def test_bfloat16_by_autocast() -> None:
    layer, _ = both(torch.float32)
    values = to_float(case(12, sampled=True))
    expected, _ = run(layer, values)
    layer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = run(layer, values)
    assert output.dtype == torch.bfloat16
    assert relative(output.float(), expected) < 3e-2


def test_compiled_in_one_graph() -> None:
    layer, _ = both(torch.float32)
    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="aot_eager")
    for points in (60, 44):
        values = to_float(case(12, points=points, sampled=True))
        layer.zero_grad()
        compiled.zero_grad()
        output, gradients = run(layer, values)
        expected, expected_gradients = run(compiled, values)
        torch.testing.assert_close(output, expected)
        for (name, gradient), other in zip(gradients.items(), expected_gradients.values(), strict=True):
            assert torch.allclose(gradient, other, rtol=1e-4, atol=1e-4), name


@pytest.mark.parametrize(
    ("message", "change"),
    [
        (r"features: expected shape \(60, 12\), got \(60, 11\)", {"features": torch.zeros(60, 11)}),
        (r"features: expected shape \(60, 12\), got \(59, 12\)", {"features": torch.zeros(59, 12)}),
        (r"pair_features: expected shape \(15, 7, 4\)", {"pair_features": torch.zeros(60, 7, 4)}),
        ("query_rows: expected the rows of 15 centers among 60 points, got None", {"query_rows": None}),
        (r"query_rows: expected shape \(15,\), got \(60,\)", {"query_rows": torch.arange(60)}),
        ("query_rows: expected an integer tensor", {"query_rows": torch.zeros(15)}),
        ("features: expected a floating point tensor", {"features": torch.zeros(60, 12, dtype=torch.int64)}),
    ],
)
def test_wrong_input(message: str, change: dict[str, Tensor | None]) -> None:
    features, around, pair_features, rows = to_float(case(12, sampled=True))
    given = {"features": features, "pair_features": pair_features, "query_rows": rows, **change}
    with pytest.raises((TypeError, ValueError), match=message):
        PPFAttention(12, 8)(neighborhood=around, **given)


@pytest.mark.parametrize(
    ("message", "make"),
    [
        ("num_heads: expected a divisor of the width 10, got 4", lambda: PPFAttention(3, 10)),
        ("num_heads: expected a divisor of the width 8, got 0", lambda: NeighborhoodAttention(8, 0)),
        ("pair_hidden: expected None without pair_channels", lambda: NeighborhoodAttention(8, 2, pair_hidden=4)),
        (
            "pair_activation: expected one of 'relu', 'gelu'",
            lambda: NeighborhoodAttention(8, 2, pair_channels=3, pair_hidden=4, pair_activation="tanh"),
        ),
        ("window: expected one number per axis", lambda: GridNeighborhoodAttention(8, 2, 3)),
        ("stride: expected at most the window", lambda: GridNeighborhoodAttention(8, 2, (3, 3), stride=4)),
        ("dilation: expected 2 entries", lambda: GridNeighborhoodAttention(8, 2, (3, 3), dilation=(1, 2, 3))),
    ],
)
def test_wrong_options(message: str, make: Callable[[], nn.Module]) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def unfolded(
    layer: NeighborhoodAttention, features: Tensor, around: Neighborhood, y: Tensor | None, queries: Tensor
) -> Tensor:
    """The general layer with everything written out, query by query."""
    rows = []
    width = layer.channels // layer.num_heads
    for query, names, numbers in zip(queries, around.idx, [None] * len(queries) if y is None else y, strict=True):
        kept = names >= 0
        neighbors = features[names[kept].long()]
        q, k, v = layer.proj_q(query), layer.proj_k(neighbors), layer.proj_v(neighbors)
        pair_key, pair_value = torch.zeros_like(k), torch.zeros_like(v)
        if numbers is not None:
            numbers = layer.pair_mlp(numbers[kept])
            pair_key, pair_value = layer.pair_key(numbers), layer.pair_value(numbers)
        heads = []
        for head in range(layer.num_heads):
            part = slice(head * width, (head + 1) * width)
            logits = k[:, part] @ q[part] / width**0.5
            logits = logits + pair_key[:, part] @ q[part] / (width**0.5 if layer.pair_scaled else 1)
            heads.append(torch.softmax(logits, 0) @ (v[:, part] + pair_value[:, part]))
        rows.append(layer.proj_out(torch.cat(heads)))
    return torch.stack(rows)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pair_channels": 4},
        {"pair_channels": 4, "pair_scaled": False, "bias": False},
        {"pair_channels": 3, "pair_hidden": 4},
        {"pair_channels": 3, "pair_hidden": 4, "pair_activation": "gelu", "pair_scaled": False},
    ],
)
@pytest.mark.parametrize("separate", [False, True])
def test_general_layer_is_its_formula(options: dict[str, object], separate: bool) -> None:
    torch.manual_seed(0)
    widths = {"key_channels": 10, "query_channels": 7} if separate else {}
    layer = NeighborhoodAttention(24, 3, **widths, **options).double()
    features, around, pair_features, rows = case(10 if separate else 24, points=30, sampled=separate)
    queries = torch.randn(len(rows), 7, dtype=torch.float64) if rows is not None else None
    y = pair_features[..., : layer.pair_channels] if layer.pair_channels else None
    output = layer(features, around, y, queries=queries)
    expected = unfolded(layer, features, around, y, features if queries is None else queries)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
    parameters = list(layer.parameters())
    weight = torch.randn(output.shape, dtype=torch.float64)
    found = torch.autograd.grad((output * weight).sum(), parameters)
    sought = torch.autograd.grad((expected * weight).sum(), parameters, materialize_grads=True)
    for gradient, other in zip(found, sought, strict=True):
        torch.testing.assert_close(gradient, other, rtol=0, atol=1e-11)
    if y is not None:
        # Empty slots may hold anything, in the gradients too.
        poisoned = torch.where((around.idx < 0)[..., None], torch.nan, y)
        again = layer(features, around, poisoned, queries=queries)
        assert torch.equal(again, output)
        for gradient, other in zip(torch.autograd.grad((again * weight).sum(), parameters), found, strict=True):
            assert torch.equal(gradient, other)


def test_general_layer_wants_pairs_or_none() -> None:
    features, around, pair_features, _ = to_float(case(8))
    with pytest.raises(ValueError, match="pair_features: expected None without pair_channels, got a tensor"):
        NeighborhoodAttention(8, 2)(features, around, pair_features)
    with pytest.raises(ValueError, match="pair_features: expected 4 numbers per pair, got None"):
        NeighborhoodAttention(8, 2, pair_channels=4)(features, around)
    with pytest.raises(ValueError, match=r"queries: expected shape \(60, 8\), got \(5, 8\)"):
        NeighborhoodAttention(8, 2)(features, around, queries=features[:5])


def test_general_layer_compiled_and_by_autocast() -> None:
    torch.manual_seed(0)
    layer = NeighborhoodAttention(16, 2, pair_channels=4, pair_hidden=4)
    features, around, pair_features, _ = to_float(case(16))
    expected = layer(features, around, pair_features)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(features, around, pair_features), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert relative(layer(features, around, pair_features).float(), expected) < 3e-2


def grid_layer(axes: int, window: int | tuple[int, ...], **options: object) -> GridNeighborhoodAttention:
    """Two heads of eight channels, float64, with a position bias that counts."""
    torch.manual_seed(0)
    windows = (window,) * axes if isinstance(window, int) else window
    layer = GridNeighborhoodAttention(16, 2, windows, relative_position_bias=True, **options).double()
    assert layer.rpb is not None
    nn.init.normal_(layer.rpb)
    return layer


def split_heads(layer: GridNeighborhoodAttention, x: Tensor) -> Tensor:
    """q, k, v (3, heads, cells, channels per head) of one grid."""
    return layer.qkv(x.flatten(0, -2)).unflatten(1, (3, layer.num_heads, -1)).permute(1, 2, 0, 3)


def test_a_window_over_the_whole_grid_is_dense_attention() -> None:
    for shape in ((5,), (3, 4), (2, 3, 2)):
        torch.manual_seed(0)
        layer = GridNeighborhoodAttention(16, 2, shape).double()
        assert layer.rpb is None
        x = torch.randn(2, *shape, 16, dtype=torch.float64)
        dense = [nn.functional.scaled_dot_product_attention(*split_heads(layer, grid)) for grid in x]
        expected = layer.proj(torch.stack(dense).transpose(1, 2).reshape(x.shape))
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "window", "options"),
    [
        ((9,), 4, {}),
        ((7, 6), 3, {"dilation": 2}),
        ((6, 8), (3, 4), {"dilation": (1, 2), "stride": (2, 3)}),
        ((5, 6), 3, {"causal": (True, False)}),
        ((8,), 3, {"causal": True, "stride": 3, "dilation": 2}),
        ((3, 4, 4), 2, {"stride": 2}),
    ],
)
def test_position_bias_of_a_naive_loop(
    shape: tuple[int, ...], window: int | tuple[int, ...], options: dict[str, object]
) -> None:
    layer = grid_layer(len(shape), window, **options)
    x = torch.randn(2, *shape, 16, dtype=torch.float64)
    cells = list(itertools.product(*map(range, shape)))
    index = layer.neighborhood(shape).idx
    expected = torch.empty_like(x)
    for batch, grid in enumerate(x):
        q, k, v = split_heads(layer, grid)
        for row, cell in enumerate(cells):
            names = [name for name in index[row].tolist() if name >= 0]
            logits = torch.einsum("hc,hnc->hn", q[:, row], k[:, names]) / 8**0.5
            for place, name in enumerate(names):
                offset = [
                    (theirs - ours) // gap + width - 1
                    for ours, theirs, gap, width in zip(cell, cells[name], layer.dilation, layer.window, strict=True)
                ]
                logits[:, place] += layer.rpb[(slice(None), *offset)]
            attended = torch.einsum("hn,hnc->hc", logits.softmax(1), v[:, names])
            expected[(batch, *cell)] = layer.proj(attended.flatten())
    output = layer(x)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
    weight = torch.randn(x.shape, dtype=torch.float64)
    found = torch.autograd.grad((output * weight).sum(), list(layer.parameters()))
    sought = torch.autograd.grad((expected * weight).sum(), list(layer.parameters()))
    for gradient, other in zip(found, sought, strict=True):
        torch.testing.assert_close(gradient, other, rtol=0, atol=1e-11)


@pytest.mark.parametrize("dilation", [1, 2])
def test_inside_a_grid_the_layer_moves_with_the_image(dilation: int) -> None:
    layer = grid_layer(2, 3, dilation=dilation)
    wide = torch.randn(1, 14, 15, 16, dtype=torch.float64)
    still, moved = layer(wide[:, :12, :12]), layer(wide[:, 2:, 3:])
    # As far as the border of neither image is seen.
    inside = still[:, 2 + dilation : 12 - dilation, 3 + dilation : 12 - dilation]
    torch.testing.assert_close(moved[:, dilation : 10 - dilation, dilation : 9 - dilation], inside, rtol=0, atol=1e-12)


def test_grids_are_built_once_and_not_kept_forever() -> None:
    layer = GridNeighborhoodAttention(8, 2, (3, 3))
    first = layer.neighborhood((4, 5), 2)
    assert GridNeighborhoodAttention(16, 4, (3, 3)).neighborhood((4, 5), 2) is first
    assert GridNeighborhoodAttention(8, 2, (3, 3), causal=True).neighborhood((4, 5), 2) is not first
    for length in range(6, 6 + layers.GRIDS_KEPT):
        layer.neighborhood((4, length))
    assert layer.neighborhood((4, 5), 2) is not first


def test_grid_layer_compiled_and_by_autocast() -> None:
    layer = grid_layer(2, 3).float()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    known, new = torch.randn(1, 5, 6, 16), torch.randn(2, 7, 4, 16)
    expected = layer(known)
    torch.testing.assert_close(compiled(known), expected)
    # The windows of another shape are built in the graph.
    found = compiled(new)
    torch.testing.assert_close(found, layer(new))
    with torch.autocast("cpu", torch.bfloat16):
        assert relative(layer(known).float(), expected) < 3e-2


def test_a_grid_seen_in_inference_mode_first_can_be_trained_on() -> None:
    layer = GridNeighborhoodAttention(16, 2, (3,))
    x = torch.randn(1, 17, 16)
    with torch.inference_mode():
        expected = layer(x)
    output = layer(x)
    torch.testing.assert_close(output, expected)
    output.sum().backward()


def test_grid_layer_wants_its_shape() -> None:
    layer = GridNeighborhoodAttention(8, 2, (3, 3))
    with pytest.raises(ValueError, match=r"x: expected shape \(B, L0, L1, 8\), got \(2, 8, 8\)"):
        layer(torch.zeros(2, 8, 8))
    with pytest.raises(ValueError, match="window: expected window \\* dilation of at most the shape"):
        layer(torch.zeros(1, 2, 8, 8))
