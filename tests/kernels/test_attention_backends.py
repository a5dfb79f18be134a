"""Every CPU backend of neighborhood attention against float64 autograd of the definition."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from attention_cases import ALL, LAYOUTS, NAMES, Case, Layout, assert_near, build, check, make_case

from rotaware.kernels import numba_attention, reference, torch_attention

MODULES = ("torch_attention", "numba_attention")
# More queries than one chunk of a backend.
LARGE = Layout(1500, 1400, 3, 12, 24, 16, pair=13, bias=True)
# What float64 is tested on in every backend: numba compiles for each dtype and head width, which takes seconds.
LAYOUTS_FLOAT64 = [
    name for name, layout in LAYOUTS.items() if layout.width in (16, 24) and layout.width == layout.value_width
]


@pytest.fixture(params=MODULES)
def module(request: pytest.FixtureRequest) -> ModuleType:
    """One backend after another."""
    return importlib.import_module(f"rotaware.kernels.{request.param}")


@pytest.fixture
def unwritten_is_nan() -> Iterator[None]:
    """Memory that torch hands out uninitialized holds NaN, so an entry that a backend forgets to write shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", LAYOUTS)
def test_results_are_those_of_the_definition(
    module: ModuleType, name: str, dtype: torch.dtype, unwritten_is_nan: None
) -> None:
    check(module, make_case(name, dtype))


@pytest.mark.parametrize("name", LAYOUTS)
def test_double_precision_is_kept(module: ModuleType, name: str, unwritten_is_nan: None) -> None:
    if module is not torch_attention and name not in LAYOUTS_FLOAT64:
        pytest.skip("each head width is compiled anew; float32 covers them")
    check(module, make_case(name, torch.float64))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_many_queries(module: ModuleType, dtype: torch.dtype, unwritten_is_nan: None) -> None:
    check(module, build(LARGE, dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_pair_features_and_bias_may_be_wider(module: ModuleType, dtype: torch.dtype) -> None:
    check(module, make_case("pair and bias", dtype, side_dtype=torch.float32))


@pytest.mark.parametrize("name", ["pair and bias", "plain", "hub", "no key"])
def test_only_wanted_gradients_are_computed(module: ModuleType, name: str) -> None:
    case = make_case(name)
    result = case.forward(module)
    everything = case.backward(module, result)
    masks = [[turn == place for turn in range(6)] for place in range(6)] + [[False] * 6, [True, False] * 3]
    for wanted in masks:
        found = case.backward(module, result, wanted)
        for one, asked, full, given in zip(found, wanted, everything, case.has(), strict=True):
            assert torch.equal(one, full) if asked and given else one.shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_two_runs_are_equal_bit_for_bit(
    module: ModuleType, dtype: torch.dtype, threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = build(LARGE, dtype)
    # So that a problem of this size is split.
    monkeypatch.setattr(numba_attention, "PRODUCTS_PER_PIECE", 1)

    def run(number: int) -> list[torch.Tensor]:
        threads(number)
        result = case.forward(module)
        return [*result, *case.backward(module, result)]

    first = run(1)
    for number in (1, 2, 2):
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(run(number), first, strict=True))


def test_the_order_of_the_slots_does_not_matter(module: ModuleType) -> None:
    case = make_case("pair and bias", torch.float64)
    order = torch.rand(case.idx.shape, generator=torch.Generator().manual_seed(3)).argsort(1)
    moved = in_order(case, order)
    result, moved_result = case.forward(module), moved.forward(module)
    for name, ours, theirs in zip(("out", "z", "lse"), moved_result, result, strict=True):
        assert_near(ours, theirs, 1e-12, name)
    for name, ours, theirs in zip(
        NAMES, moved.backward(module, moved_result), case.backward(module, result), strict=True
    ):
        expected = rows_in_order(theirs, order) if name in ("y", "bias") else theirs
        assert_near(ours, expected, 1e-12, name)


def in_order(case: Case, order: torch.Tensor) -> Case:
    """The same problem with the slots of each row in another order."""
    idx = case.idx.gather(1, order)
    assert case.y is not None and case.bias is not None
    sides = {"y": rows_in_order(case.y, order), "bias": rows_in_order(case.bias, order)}
    edge = torch.where(idx < 0, len(case.k), idx).flatten().argsort(stable=True).int()
    return replace(case, idx=idx, edge=edge, **sides)


def rows_in_order(table: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """(M, K, c) rows of each query in another order."""
    return table.gather(1, order[..., None].expand_as(table))


def test_large_logits_neither_overflow_nor_vanish(module: ModuleType) -> None:
    case = make_case("pair and bias")
    assert case.u is not None and case.bias is not None
    # A logit of 1000 is known to 1e-4 in float32.
    check(module, replace(case, q=case.q * 300, u=case.u * 300), (1e-2, 1e-2))
    check(module, replace(case, bias=case.bias + 1000), (1e-3, 1e-3))
    check(module, replace(case, bias=case.bias - 1000), (1e-3, 1e-3))


def test_a_masked_neighbor_counts_as_absent(module: ModuleType) -> None:
    case = make_case("bias")
    masked = case.bias.clone()
    masked[:, 3] = -torch.inf
    without = replace(case, idx=case.idx.clone(), bias=case.bias.clone())
    without.idx[:, 3] = -1
    rows = (without.idx >= 0).any(1)
    for ours, theirs in zip(replace(case, bias=masked).forward(module), without.forward(module), strict=True):
        torch.testing.assert_close(ours[rows], theirs[rows], rtol=1e-6, atol=1e-6)


def test_without_gradients_of_keys_no_inverse_list_is_read(module: ModuleType) -> None:
    case = make_case("pair and bias")
    result = case.forward(module)
    wanted = [True, False, False, True, True, True]
    without = replace(case, ptr=None, edge=None)
    for ours, theirs in zip(
        without.backward(module, result, wanted), case.backward(module, result, wanted), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_longer_edge_numbers(module: ModuleType) -> None:
    case = make_case("pair and bias")
    result = case.forward(module)
    longer = replace(case, edge=case.edge.long())
    for ours, theirs in zip(longer.backward(module, result), case.backward(module, result), strict=True):
        assert torch.equal(ours, theirs)


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [make_case(name, torch.float64) for name in ("pair and bias", "hub", "small cloud", "plain")]
    for size in (1, 20_000):
        monkeypatch.setattr(torch_attention, "CPU_BYTES", size)
        for case in cases:
            check(torch_attention, case)


def test_the_gather_buffer_is_bounded() -> None:
    case = build(Layout(4000, 50, 4, 32, 64, 64, lists="full"), torch.float32)
    problem = torch_attention.Problem(case.q, case.k, case.v, case.idx, None, None, None, 1.0)
    assert problem.buffer.numel() * 4 <= torch_attention.CPU_BYTES
    assert max(chunk.stop - chunk.start for chunk in problem.chunks()) < 4000


def test_the_check_sees_errors() -> None:
    """Each gradient scaled by a thousandth fails the check, and so does an output that leaks a NaN."""
    case = make_case("pair and bias", torch.float64)

    class Wrong:
        forward = staticmethod(torch_attention.forward)
        place = 0

        @classmethod
        def backward(cls, *arguments: object) -> list[torch.Tensor]:
            gradients = torch_attention.backward(*arguments)  # type: ignore[arg-type]
            gradients[cls.place] *= 1.001
            return gradients

    for Wrong.place, name in enumerate(NAMES):
        with pytest.raises(AssertionError, match=f"gradient of {name}: error"):
            check(Wrong, case)

    class Leaking(Wrong):
        @staticmethod
        def forward(*arguments: object) -> tuple[torch.Tensor, ...]:
            return reference.attend(*arguments[:3], arguments[3].clamp(min=0), *arguments[4:])  # type: ignore

    with pytest.raises(AssertionError, match="not finite"):
        check(Leaking, case)


def test_the_table_holds_what_the_specification_asks_for() -> None:
    layouts = list(LAYOUTS.values())
    assert {1, 8, 16, 24, 48, 64} <= {layout.width for layout in layouts}
    assert {0, 1, 3, 8, 12, 16, 33} <= {layout.slots for layout in layouts}
    assert {0, 3, 4, 13} <= {layout.pair for layout in layouts} and len(ALL) == len(NAMES)
    assert {1, 3, 4} <= {layout.heads for layout in layouts}
    case = make_case("pair and bias")
    assert (case.idx[0] == -1).all() and (case.idx[1] == case.idx[1, 0]).all()
    assert case.k.isnan().any() and case.y.isnan().any() and case.bias.isnan().any()
