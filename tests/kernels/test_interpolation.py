"""Interpolation against its formula, and the gradient it must carry."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from rotaware.kernels import interpolate, interpolation_weights
from rotaware.kernels.neighborhood import Neighborhood


def test_weights_are_inverse_distances(backend: str) -> None:
    generator = torch.Generator().manual_seed(0)
    queries, sources = torch.rand(40, 3, generator=generator).double(), torch.rand(25, 3, generator=generator).double()
    distance, index = torch.cdist(queries, sources, compute_mode="donot_use_mm_for_euclid_dist").sort(1)
    expected = 1 / (distance[:, :3] + 1e-8)
    found = interpolation_weights(queries, sources, backend=backend)
    assert torch.equal(found.index.long(), index[:, :3])
    torch.testing.assert_close(found.weights, expected / expected.sum(1, keepdim=True))
    features = torch.rand(25, 7, generator=generator).double()
    torch.testing.assert_close(
        interpolate(features, *found), (features[index[:, :3]] * found.weights[..., None]).sum(1)
    )


def test_a_constant_is_reproduced(cloud: Tensor) -> None:
    queries = cloud + 0.01
    features = torch.full((len(cloud), 2), 3.5, dtype=cloud.dtype)
    torch.testing.assert_close(interpolate(features, *interpolation_weights(queries, cloud)), features)


def test_a_query_on_a_source_takes_its_feature() -> None:
    sources = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
    features = torch.rand(20, 4, generator=torch.Generator().manual_seed(1))
    found = interpolate(features, *interpolation_weights(sources, sources))
    torch.testing.assert_close(found, features, rtol=0, atol=2e-6)


def test_weights_on_a_lattice_do_not_change_with_its_pose(
    lattice_scan: Tensor, poses: list[Tensor], backend: str
) -> None:
    plain, tied = (
        [
            interpolation_weights(pose, pose[::4], tie_tolerance=tolerance, backend=backend)
            for pose in (lattice_scan.float(), *poses)
        ]
        for tolerance in (0.0, 2e-6)
    )
    for other in tied[1:]:
        assert torch.equal(tied[0].index, other.index)
        torch.testing.assert_close(tied[0].weights, other.weights, rtol=1e-3, atol=1e-6)
    assert not any(torch.equal(plain[0].index, other.index) for other in plain[1:])
    lattice = (lattice_scan * 500).round()
    assert torch.equal(interpolation_weights(lattice, lattice[::4]).index, tied[0].index)


def test_missing_sources_weigh_nothing(backend: str) -> None:
    queries, sources = torch.zeros(3, 3), torch.tensor([[0.0, 0, 1], [0, 0, 3]])
    found = interpolation_weights(queries, sources, lengths=[0, 2], query_lengths=torch.tensor([1, 2]), backend=backend)
    assert found.index.tolist() == [[-1, -1, -1], [0, 1, -1], [0, 1, -1]]
    torch.testing.assert_close(found.weights, torch.tensor([[0.0, 0, 0], [0.75, 0.25, 0], [0.75, 0.25, 0]]))
    features = torch.tensor([[4.0], [8.0]])
    torch.testing.assert_close(interpolate(features, *found), torch.tensor([[0.0], [5], [5]]))


def test_an_empty_slot_reads_no_foreign_feature() -> None:
    features = torch.tensor([[torch.inf], [2.0]])
    assert interpolate(features, torch.tensor([[1, -1]]), torch.tensor([[1.0, 0.0]])).tolist() == [[2.0]]


def test_without_any_source_there_are_zeros() -> None:
    nothing = torch.empty(0, 3)
    found = interpolation_weights(torch.zeros(2, 3), nothing)
    assert interpolate(torch.empty(0, 5), *found).tolist() == [[0.0] * 5] * 2
    assert interpolate(torch.ones(2, 5), *interpolation_weights(nothing, torch.zeros(2, 3))).shape == (0, 5)


def test_the_gradient_reaches_the_features_only() -> None:
    generator = torch.Generator().manual_seed(0)
    sources = torch.rand(6, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    found = interpolation_weights(torch.rand(9, 3, generator=generator, dtype=torch.float64), sources)
    assert not found.weights.requires_grad
    features = torch.rand(6, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: interpolate(values, *found), features)


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, r"weights: expected shape \(2, 3\)", {"weights": torch.zeros(2, 2)}),
        (ValueError, "features, weights: expected one dtype", {"weights": torch.zeros(2, 3, dtype=torch.float64)}),
        (TypeError, "index: expected an integer tensor", {"index": torch.zeros(2, 3)}),
        (ValueError, r"features: expected shape \(N, C\)", {"features": torch.zeros(4)}),
    ],
)
def test_misuse_is_named(error: type[Exception], message: str, arguments: dict[str, Tensor]) -> None:
    right = {"features": torch.zeros(4, 1), "index": torch.zeros(2, 3, dtype=torch.int32), "weights": torch.zeros(2, 3)}
    with pytest.raises(error, match=message):
        interpolate(**{**right, **arguments})


def case(dtype: torch.dtype = torch.float64, queries: int = 11, sources: int = 7, slots: int = 3, columns: int = 5):  # type: ignore[no-untyped-def]
    """Features, index, weights with names twice in a row, empty slots, a query without sources, a source unnamed."""
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(0, max(1, sources - 1), (queries, slots), generator=generator, dtype=torch.int32)
    index[torch.rand(queries, slots, generator=generator) < 0.2] = -1
    index[0] = index[0, 0].clamp(min=0)
    index[queries // 2] = -1
    features = torch.randn(sources, columns, generator=generator, dtype=torch.float64).to(dtype)
    return features, index, torch.rand(queries, slots, generator=generator, dtype=torch.float64).to(dtype)


def definition(features: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Loops."""
    rows = []
    for names, shares in zip(index.tolist(), weights, strict=True):
        found = [share * features[name] for name, share in zip(names, shares, strict=True) if name >= 0]
        rows.append(sum(found, torch.zeros_like(features[0])))
    return torch.stack(rows)


def as_table(index: Tensor, sources: int) -> Tensor | Neighborhood:
    """The other way to give the sources."""
    return Neighborhood.from_index(index, sources)


@pytest.mark.parametrize("give", [lambda index, _: index, lambda index, _: index.long(), as_table])
def test_sums_and_gradients_of_every_order(give: Callable[[Tensor, int], Tensor | Neighborhood]) -> None:
    features, index, weights = case()
    torch.testing.assert_close(
        interpolate(features, give(index, 7), weights), definition(features, index, weights), rtol=0, atol=1e-14
    )
    inputs = (features.requires_grad_(), weights.requires_grad_())
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda x, w: interpolate(x, give(index, 7), w), inputs)
    third = torch.autograd.functional.hessian(
        lambda x: (
            torch.autograd.grad(interpolate(x, index, weights).pow(3).sum(), x, create_graph=True)[0].pow(2).sum()
        ),
        features,
    )
    expected = torch.autograd.functional.hessian(
        lambda x: torch.autograd.grad(definition(x, index, weights).pow(3).sum(), x, create_graph=True)[0].pow(2).sum(),
        features,
    )
    torch.testing.assert_close(third, expected)


@pytest.mark.parametrize(
    ("dtype", "weight_dtype", "tolerance"),
    [
        (torch.float32, torch.float32, 2e-6),
        (torch.float16, torch.float16, 2e-3),
        (torch.bfloat16, torch.bfloat16, 2e-2),
        (torch.float16, torch.float32, 1e-3),
        (torch.bfloat16, torch.float32, 8e-3),
    ],
)
def test_narrow_types(dtype: torch.dtype, weight_dtype: torch.dtype, tolerance: float) -> None:
    features, index, weights = case(torch.float32, queries=300, sources=40, columns=67)
    features, weights = features.to(dtype).requires_grad_(), weights.to(weight_dtype).requires_grad_()
    grad = torch.randn(300, 67, generator=torch.Generator().manual_seed(1)).to(dtype)
    out = interpolate(features, index, weights)
    found = (out, *torch.autograd.grad(out, (features, weights), grad))
    wide = features.detach().double().requires_grad_(), weights.detach().double().requires_grad_()
    expected = definition(wide[0], index, wide[1])
    expected = (expected, *torch.autograd.grad(expected, wide, grad.double()))
    for ours, theirs, like in zip(found, expected, (features, features, weights), strict=True):
        assert ours.dtype == like.dtype
        assert (ours.double() - theirs).norm() <= tolerance * theirs.norm()


def test_gradients_are_the_same_in_every_run_and_for_any_number_of_threads(threads: Callable[[int], None]) -> None:
    features, index, weights = case(torch.float32, queries=4000, sources=90, columns=96)
    features.requires_grad_(), weights.requires_grad_()
    found = []
    for number in (1, 2, 2):
        threads(number)
        out = interpolate(features, index, weights)
        found.append((out, *torch.autograd.grad((out * out).sum(), (features, weights))))
    for others in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], others, strict=True))


def test_what_nobody_names_does_not_leak() -> None:
    features, index, weights = case()
    expected = interpolate(features, index, weights)
    features[6], weights[index < 0] = torch.nan, torch.nan
    features.requires_grad_(), weights.requires_grad_()
    out = interpolate(features, index, weights)
    assert torch.equal(out, expected)
    # The gradient of a query without sources is not looked at.
    grad = torch.ones_like(out)
    grad[5] = torch.nan
    first = torch.autograd.grad(out, (features, weights), grad)
    assert all(gradient.isfinite().all() for gradient in first)
    assert first[0][6].eq(0).all()
    assert first[1][index < 0].eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_strides(dtype: torch.dtype) -> None:
    features, index, weights = case(dtype, queries=12)
    expected = interpolate(features, index, weights)
    spread = [torch.empty(*x.shape[::-1], 2, dtype=x.dtype)[..., 0].T.copy_(x) for x in (features, index, weights)]
    assert not any(x.is_contiguous() for x in spread)
    torch.testing.assert_close(interpolate(*spread), expected)
    leaves = features.requires_grad_(), weights.requires_grad_()
    found = torch.autograd.grad(interpolate(features, index, weights).sum(), leaves)
    ones = torch.autograd.grad(interpolate(features, index, weights), leaves, torch.ones_like(expected))
    torch.testing.assert_close(found, ones)


def test_an_index_out_of_range_is_no_memory_error() -> None:
    for wrong in (7, 2**31 - 1):
        with pytest.raises(RuntimeError, match=f"takes value {wrong}"):
            interpolate(torch.ones(7, 2), torch.tensor([[0, wrong]]), torch.ones(1, 2))


@pytest.mark.parametrize(
    ("queries", "sources", "slots", "columns"), [(0, 4, 3, 2), (5, 0, 3, 2), (5, 4, 0, 2), (5, 4, 3, 0)]
)
def test_nothing_of_something(queries: int, sources: int, slots: int, columns: int) -> None:
    index = torch.zeros(queries, slots, dtype=torch.int32) - int(sources == 0)
    features = torch.ones(sources, columns, dtype=torch.float64, requires_grad=True)
    weights = torch.ones(queries, slots, dtype=torch.float64, requires_grad=True)
    out = interpolate(features, index, weights)
    assert out.shape == (queries, columns)
    gradients = torch.autograd.grad(out.sum(), (features, weights), create_graph=True)
    assert [gradient.shape for gradient in gradients] == [features.shape, weights.shape]
    assert all(gradient.eq(0).all() for gradient in gradients)


def test_the_inverse_is_shared_and_built_for_a_backward_pass_only(monkeypatch: pytest.MonkeyPatch) -> None:
    features, index, weights = case()
    table = Neighborhood.from_index(index, 7)
    calls = []
    inverse = table.inverse
    monkeypatch.setattr(table, "inverse", lambda: calls.append(1) or inverse())
    interpolate(features, table, weights)
    with torch.no_grad():
        interpolate(features.requires_grad_(), table, weights)
    assert not calls
    interpolate(features, table, weights)
    assert calls


def test_fixed_weights_keep_no_features_in_memory() -> None:
    features, index, weights = case()
    out = interpolate(features.requires_grad_() * 1, index, weights)
    assert out.grad_fn is not None
    assert features.shape not in [saved.shape for saved in out.grad_fn.saved_tensors if saved is not None]


def test_the_operators_keep_the_rules() -> None:
    features, index, weights = case()
    rows = torch.randn(11, 5, dtype=torch.float64)
    ptr, edge = Neighborhood.from_index(index, 7).inverse()
    for tensor in (features, weights, rows):
        tensor.requires_grad_()
    operators = torch.ops.rotaware
    for inverse in ((ptr, edge), (None, None)):
        torch.library.opcheck(operators.interpolate, (features, index, weights, *inverse))
        torch.library.opcheck(operators.interpolate_products, (rows, features, index, *inverse))
    torch.library.opcheck(operators.interpolate_transposed, (rows, index, weights, ptr, edge))


@pytest.mark.parametrize("tables", [False, True])
def test_compiled_whole_and_once_for_all_sizes(tables: bool) -> None:
    counter = CompileCounterWithBackend("aot_eager")

    def loss(features: Tensor, index: Tensor | Neighborhood, weights: Tensor) -> Tensor:
        return interpolate(features * 2, index, weights).square().sum()

    compiled = torch.compile(loss, backend=counter, fullgraph=True, dynamic=True)
    for queries, sources in ((11, 7), (23, 9), (40, 30)):
        features, index, weights = case(torch.float32, queries, sources)
        given = as_table(index, sources) if tables else index
        leaves = features.requires_grad_(), weights.requires_grad_()
        found = torch.autograd.grad(compiled(features, given, weights), leaves)
        expected = torch.autograd.grad(loss(features, given, weights), leaves)
        torch.testing.assert_close(found, expected)
    assert counter.frame_count == 1


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_transforms_see_through() -> None:
    features, index, weights = case()
    direction, other = torch.randn_like(features), torch.randn_like(weights)
    expected = definition(direction, index, weights) + definition(features, index, other)
    for index_ in (index, as_table(index, 7)):
        primal, tangent = torch.func.jvp(
            lambda x, w, i=index_: interpolate(x, i, w), (features, weights), (direction, other)
        )
        torch.testing.assert_close(primal, definition(features, index, weights))
        torch.testing.assert_close(tangent, expected)
    stacked = torch.stack([features, direction])
    found = torch.func.vmap(lambda x: interpolate(x, index, weights))(stacked)
    torch.testing.assert_close(found, torch.stack([definition(x, index, weights) for x in stacked]))
    plain = torch.autograd.functional.jacobian(lambda x: interpolate(x, index, weights), features)
    fast = torch.autograd.functional.jacobian(lambda x: interpolate(x, index, weights), features, vectorize=True)
    reverse = torch.func.jacrev(lambda x: interpolate(x, index, weights))(features)
    torch.testing.assert_close(plain, fast)
    torch.testing.assert_close(plain, reverse)
