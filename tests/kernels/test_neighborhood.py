"""Tables of neighbors: how they are built, inverted, moved, reordered and compiled."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses import FakeTensorMode

from rotaware.kernels import knn, radius_search
from rotaware.kernels.grid import grid_index, grid_window
from rotaware.kernels.inverse import Inverse, inverse_by_counting, inverse_by_sorting, inverse_neighbors
from rotaware.kernels.neighborhood import Neighborhood
from rotaware.kernels.reference import attend

INVERSES = [inverse_neighbors, inverse_by_counting, inverse_by_sorting]
SIZES = {
    "square": (30, 5, 30),
    "more queries": (50, 4, 7),
    "more keys": (6, 3, 90),
    "one": (1, 1, 1),
    "no queries": (0, 4, 5),
    "no slots": (5, 0, 5),
    "no keys": (3, 4, 0),
    "nothing": (0, 0, 0),
}


def table(queries: int, slots: int, keys: int, *, seed: int = 0) -> Tensor:
    """Random names with duplicates, a fifth of them -1, and a row without neighbors."""
    generator = torch.Generator().manual_seed(seed)
    idx = torch.randint(0, max(keys, 1), (queries, slots), generator=generator, dtype=torch.int32)
    idx[torch.rand(queries, slots, generator=generator) < (0.2 if keys else 2.0)] = -1
    idx[queries // 2 : queries // 2 + (queries > 1)] = -1
    return idx


def naive_inverse(idx: Tensor, keys: int) -> tuple[list[int], list[int]]:
    """The definition."""
    names = idx.flatten().tolist()
    lists = [[edge for edge, name in enumerate(names) if name == key] for key in range(keys)]
    empty = [edge for edge, name in enumerate(names) if name < 0]
    ptr = [sum(map(len, lists[:key])) for key in range(keys + 1)]
    return ptr, [edge for edges in (*lists, empty) for edge in edges]


@pytest.mark.parametrize("function", INVERSES)
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_inverse_is_the_definition(
    function: Callable[[Tensor, int], tuple[Tensor, Tensor]], sizes: tuple[int, int, int], dtype: torch.dtype
) -> None:
    idx = table(*sizes).to(dtype)
    ptr, edge = function(idx, sizes[2])
    assert (ptr.dtype, edge.dtype) == (torch.int64, torch.int32)
    assert (ptr.tolist(), edge.tolist()) == naive_inverse(idx, sizes[2])


def test_inverse_of_a_view() -> None:
    idx = table(12, 10, 9)[::2, 1::3]
    for function in INVERSES:
        ptr, edge = function(idx, 9)
        assert (ptr.tolist(), edge.tolist()) == naive_inverse(idx, 9)


def test_edges_beyond_32_bits_are_64_bits_wide() -> None:
    with FakeTensorMode():
        narrow = inverse_neighbors(torch.empty(2**27, 15, dtype=torch.int32), 5)
        wide = inverse_neighbors(torch.empty(2**27, 16, dtype=torch.int32), 5)
    assert (narrow.edge.dtype, wide.edge.dtype) == (torch.int32, torch.int64)
    assert wide.edge.shape == (2**31,)


def test_a_name_out_of_range_is_no_memory_error() -> None:
    idx = torch.tensor([[0, 1], [-7, 2**31 - 1], [3, 1]], dtype=torch.int32)
    with pytest.raises(ValueError, match=r"idx: expected names below 3 .*, got 2147483647 in row 1, slot 1"):
        inverse_neighbors(idx, 3)
    with pytest.raises(ValueError, match="got 3 in row 0, slot 0"):
        inverse_neighbors(idx[2:], 3)
    ptr, edge = inverse_by_sorting(idx, 3)
    assert ptr.tolist() == [0, 1, 3, 3]
    assert edge.tolist() == [0, 1, 5, 2, 3, 4]


@pytest.mark.parametrize("sizes", [(30, 5, 30), (6, 3, 90), (0, 4, 5)])
def test_the_operator_keeps_the_rules(sizes: tuple[int, int, int]) -> None:
    torch.library.opcheck(torch.ops.rotaware.inverse_neighbors, (table(*sizes), sizes[2]))


def test_inverse_is_built_once_and_serves_training_after_inference() -> None:
    neighborhood = Neighborhood.from_index(table(30, 5, 30))
    with torch.inference_mode():
        inverse = neighborhood.inverse()
    assert neighborhood.inverse() is inverse
    assert not inverse.ptr.is_inference()
    assert not inverse.edge.is_inference()


def test_from_index_keeps_or_converts() -> None:
    idx = table(8, 3, 8)
    assert Neighborhood.from_index(idx).idx is idx
    for other in (idx.long(), idx.T.contiguous().T, idx.to(torch.int8)):
        found = Neighborhood.from_index(other, 20)
        assert (found.num_queries, found.k, found.num_keys, found.window) == (8, 3, 20, None)
        assert found.idx.dtype == torch.int32
        assert found.idx.is_contiguous()
        assert torch.equal(found.idx, idx)


def test_from_index_names_what_is_wrong() -> None:
    idx = table(8, 3, 8)
    for wrong in (idx.float(), idx > 0, idx.tolist()):
        with pytest.raises(TypeError, match="idx: expected"):
            Neighborhood.from_index(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"idx: expected shape \(M, K\), got \(24,\)"):
        Neighborhood.from_index(idx.flatten())
    with pytest.raises(ValueError, match="num_keys: expected at least 0, got -1"):
        Neighborhood.from_index(idx, -1)
    with pytest.raises(TypeError, match="num_keys: expected an integer, got float"):
        Neighborhood.from_index(idx, 8.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [8, -2, 2**32])
def test_validation_names_the_first_wrong_entry(name: int) -> None:
    idx = table(8, 3, 8).long()
    Neighborhood.from_index(idx, validate=True)
    idx[5, 2] = idx[6, 0] = name
    with pytest.raises(ValueError, match=rf"idx: expected entries from -1 to 7, got {name} in row 5, slot 2"):
        Neighborhood.from_index(idx, validate=True)
    if name < 2**31:
        Neighborhood.from_index(idx)


def test_knn_is_the_search(backend: str) -> None:
    points = torch.rand(40, 3, generator=torch.Generator().manual_seed(0))
    for options in ({"exclude_self": True, "lengths": [30, 10]}, {"queries": points[::3] + 0.01, "max_radius": 0.3}):
        found = Neighborhood.knn(points, 12, backend=backend, **options)
        assert torch.equal(found.idx, knn(points, 12, backend=backend, **options).index)
        assert found.num_keys == 40


def test_radius_is_the_search(cloud: Tensor, backend: str) -> None:
    for options in ({"exclude_self": True}, {"queries": cloud[::3] + 0.01}):
        index, offsets = (getattr(radius_search(cloud, 0.2, **options), name) for name in ("index", "offsets"))
        rows = [index[start:stop].tolist() for start, stop in itertools.pairwise(offsets)]
        for limit in (None, 1, 4):
            found = Neighborhood.radius(cloud, 0.2, max_neighbors=limit, backend=backend, **options)
            width = max(map(len, rows)) if limit is None else limit
            assert found.idx.tolist() == [(row + [-1] * width)[:width] for row in rows]
            assert found.num_keys == len(cloud)


def test_radius_without_points_or_room() -> None:
    assert Neighborhood.radius(torch.zeros(0, 3), 1.0).idx.shape == (0, 0)
    assert Neighborhood.radius(torch.zeros(1, 3), 1.0, exclude_self=True).idx.shape == (1, 0)
    with pytest.raises(ValueError, match="max_neighbors: expected at least 1, got 0"):
        Neighborhood.radius(torch.zeros(1, 3), 1.0, max_neighbors=0)


def test_grid_knows_its_windows() -> None:
    found = Neighborhood.grid((5, 6), 3, dilation=(1, 2), stride=2, causal=(False, True), batch=2)
    window = grid_window((5, 6), 3, (1, 2), 2, (False, True), 2)
    assert found.window == window
    assert torch.equal(found.idx, grid_index(window))
    assert found.num_keys == found.num_queries == 60


def features(neighborhood: Neighborhood, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Random q, k and v of two heads."""
    generator = torch.Generator().manual_seed(seed)
    rows = neighborhood.num_queries, neighborhood.num_keys, neighborhood.num_keys
    q, k, v = (torch.randn(count, 2, 8, generator=generator) for count in rows)
    return q, k, v


def attention(q: Tensor, k: Tensor, v: Tensor, neighborhood: Neighborhood) -> Tensor:
    """The reference without a pair term."""
    return attend(q, k, v, neighborhood.idx, None, None, None, 0.5)[0]


def test_attention_over_permuted_points_is_permuted_attention() -> None:
    neighborhood = Neighborhood.from_index(table(30, 5, 30))
    q, k, v = features(neighborhood)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    found = attention(q[order], k[order], v[order], neighborhood.permute(order))
    assert torch.equal(found, attention(q, k, v, neighborhood)[order])


def test_queries_and_keys_may_be_permuted_apart() -> None:
    neighborhood = Neighborhood.from_index(table(20, 5, 30), 30)
    q, k, v = features(neighborhood)
    generator = torch.Generator().manual_seed(1)
    order, key_order = torch.randperm(20, generator=generator).int(), torch.randperm(30, generator=generator)
    expected = attention(q, k, v, neighborhood)[order]
    assert torch.equal(attention(q[order], k, v, neighborhood.permute(order)), expected)
    both = neighborhood.permute(order, key_order)
    assert torch.equal(attention(q[order], k[key_order], v[key_order], both), expected)
    assert (both.idx.dtype, both.idx.is_contiguous(), both.num_keys) == (torch.int32, True, 30)


def test_permuting_back_restores_the_table() -> None:
    neighborhood = Neighborhood.grid((5, 6), 3)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    there = neighborhood.permute(order)
    assert there.window is None
    assert not torch.equal(there.idx, neighborhood.idx)
    assert torch.equal(there.permute(order.argsort()).idx, neighborhood.idx)


def test_an_order_that_does_not_fit_is_named() -> None:
    neighborhood = Neighborhood.from_index(table(20, 5, 30), 30)
    order = torch.arange(20)
    with pytest.raises(ValueError, match=r"order: expected shape \(20,\), got \(19,\)"):
        neighborhood.permute(order[:19])
    with pytest.raises(ValueError, match=r"key_order: expected shape \(30,\), got \(20,\)"):
        neighborhood.permute(order, order)
    with pytest.raises(TypeError, match="order: expected an integer tensor"):
        neighborhood.permute(order.float())
    with pytest.raises(TypeError, match="key_order: expected an integer tensor"):
        neighborhood.permute(order, torch.arange(30.0))


def assert_same(found: Neighborhood, expected: Neighborhood) -> None:
    """Equal in everything, the kept inverse included."""
    assert (found.num_keys, found.window) == (expected.num_keys, expected.window)
    assert torch.equal(found.idx, expected.idx)
    assert (found._inverse is None) == (expected._inverse is None)
    for ours, theirs in zip(found._inverse or (), expected._inverse or (), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("inverted", [False, True])
def test_copies_are_whole(inverted: bool) -> None:
    neighborhood = Neighborhood.grid((5, 6), 3)
    if inverted:
        neighborhood.inverse()
    for found in (copy.copy(neighborhood), copy.deepcopy(neighborhood), pickle.loads(pickle.dumps(neighborhood))):
        assert_same(found, neighborhood)


def test_a_move_takes_the_inverse_along() -> None:
    neighborhood = Neighborhood.grid((5, 6), 3)
    assert neighborhood.to("cpu") is neighborhood
    assert neighborhood.to("meta")._inverse is None
    inverse = neighborhood.inverse()
    moved = neighborhood.to(torch.device("meta"), non_blocking=True)
    assert (moved.num_keys, moved.window, moved.idx.device.type) == (30, neighborhood.window, "meta")
    assert isinstance(moved.inverse(), Inverse)
    assert [tensor.device.type for tensor in moved.inverse()] == ["meta", "meta"]
    assert [tensor.shape for tensor in moved.inverse()] == [tensor.shape for tensor in inverse]


@pytest.mark.gpu
def test_an_accelerator_finds_the_same_inverse() -> None:
    pinned = Neighborhood.from_index(table(500, 9, 300), 300).pin_memory()
    assert pinned.idx.is_pinned()
    found = pinned.to("cuda", non_blocking=True)
    assert all(map(torch.equal, (tensor.cpu() for tensor in found.inverse()), pinned.inverse()))


class Tables(torch.utils.data.Dataset[Neighborhood]):
    """A data set of neighborhoods with their inverses."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, item: int) -> Neighborhood:
        points = torch.rand(300, 3, generator=torch.Generator().manual_seed(item))
        neighborhood = Neighborhood.knn(points, 4)
        neighborhood.inverse()
        return neighborhood


def test_a_forked_data_loader_builds_neighborhoods() -> None:
    data = Tables()
    loader = torch.utils.data.DataLoader(data, batch_size=None, num_workers=1, multiprocessing_context="fork")
    for found, expected in zip(loader, (data[0], data[1]), strict=True):
        assert_same(found, expected)


def test_repr_tells_the_sizes() -> None:
    expected = "Neighborhood(num_queries=6, k=3, num_keys=90, device=cpu)"
    assert repr(Neighborhood.from_index(table(6, 3, 90), 90)) == expected


# Between ten and twenty sizes, more than the compiler would recompile for.
CHANGING = (20, 31, 7, 50, 64, 33, 99, 101, 16, 77, 2, 300)


def uses_everything(
    q: Tensor, k: Tensor, v: Tensor, neighborhood: Neighborhood
) -> tuple[Tensor, Tensor, Tensor, int, int]:
    """Attention, the kept inverse and the numbers."""
    out = attention(q, k, v, neighborhood)
    ptr, edge = neighborhood.inverse()
    return out, ptr.diff(), edge + 1, neighborhood.num_keys, neighborhood.num_queries + neighborhood.k


@pytest.mark.parametrize("kind", ["lists", "grids"])
def test_compiled_once_for_all_sizes(kind: str) -> None:
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(uses_everything, fullgraph=True, backend=counter)
    for number, keys in enumerate(CHANGING):
        queries = keys + 3 * (number % 2)
        if kind == "lists":
            neighborhood = Neighborhood.from_index(table(queries, 4, keys), keys)
        else:
            neighborhood = Neighborhood.grid((keys, 3 + number), 2)
        q, k, v = features(neighborhood)
        found = compiled(q, k, v, neighborhood)
        # Also what the compiled function leaves on its argument.
        ptr, edge = neighborhood._inverse or ()
        fresh = Neighborhood(neighborhood.idx, neighborhood.num_keys)
        expected = uses_everything(q, k, v, fresh)
        torch.testing.assert_close(found[0], expected[0])
        assert torch.equal(found[1], expected[1])
        assert torch.equal(found[2], expected[2])
        assert found[3:] == expected[3:]
        assert torch.equal(ptr, fresh.inverse().ptr)
        assert torch.equal(edge, fresh.inverse().edge)
    assert counter.frame_count <= 2
    # A second call finds the inverse and is compiled for that.
    for _ in range(3):
        torch.testing.assert_close(compiled(q, k, v, neighborhood)[0], expected[0])
    assert counter.frame_count <= 3


def test_a_compiled_function_may_build_its_neighborhood() -> None:
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")

    @torch.compile(fullgraph=True, backend=counter)
    def build(q: Tensor, k: Tensor, v: Tensor, idx: Tensor) -> tuple[Tensor, Tensor]:
        neighborhood = Neighborhood.from_index(idx, len(k))
        return attention(q, k, v, neighborhood), neighborhood.inverse().edge

    for keys in CHANGING:
        neighborhood = Neighborhood.from_index(table(keys + 1, 4, keys), keys)
        q, k, v = features(neighborhood)
        out, edge = build(q, k, v, neighborhood.idx.long())
        torch.testing.assert_close(out, attention(q, k, v, neighborhood))
        assert torch.equal(edge, neighborhood.inverse().edge)
    assert counter.frame_count <= 3
