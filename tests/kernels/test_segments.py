"""Segment reductions against loops over the segments, with gradients of every order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from rotaware.kernels.inverse import Inverse
from rotaware.kernels.neighborhood import Neighborhood
from rotaware.kernels.segments import (
    Segments,
    group_rows,
    segment_argmax,
    segment_max,
    segment_mean,
    segment_min,
    segment_repeat,
    segment_softmax,
    segment_sum,
)

REDUCTIONS = {"sum": segment_sum, "mean": segment_mean, "max": segment_max, "min": segment_min}
# Runs of rows with an empty one at either end and inside, two rows of no segment; scattered rows likewise.
PTR = torch.tensor([0, 0, 3, 4, 4, 9, 9])
INDEX = torch.tensor([4, 1, 1, -1, 2, 4, 1, 4, -1, 4, 4])
SEGMENTS: dict[str, Segments] = {"runs": PTR, "int32 runs": PTR.int(), "groups": group_rows(INDEX, 6)}
ROWS, COUNT = 11, 6


def members(segments: Segments) -> list[list[int]]:
    """The rows of each segment."""
    if isinstance(segments, Inverse):
        return [[row for row, segment in enumerate(INDEX.tolist()) if segment == number] for number in range(COUNT)]
    return [list(range(*segments[number : number + 2].tolist())) for number in range(COUNT)]


def naive(name: str, values: Tensor, segments: Segments) -> Tensor:
    """The definition."""
    of = {"sum": torch.sum, "mean": torch.mean, "max": lambda x, _: x.max(0)[0], "min": lambda x, _: x.min(0)[0]}[name]
    zero = torch.zeros_like(values[0])
    return torch.stack([of(values[rows], 0) if rows else zero for rows in members(segments)])  # type: ignore[operator]


def naive_softmax(values: Tensor, segments: Segments) -> Tensor:
    """The definition."""
    out = torch.zeros_like(values)
    for rows in members(segments):
        if rows:
            out = out.index_put((torch.tensor(rows),), values[rows].softmax(0))
    return out


def draw(*tail: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(ROWS, *tail, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@pytest.fixture(params=SEGMENTS)
def segments(request: pytest.FixtureRequest) -> Segments:
    return SEGMENTS[request.param]


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("tail", [(), (5,), (2, 3)])
def test_reductions_are_the_definition(name: str, tail: tuple[int, ...], segments: Segments) -> None:
    values = draw(*tail)
    found = REDUCTIONS[name](values, segments)
    torch.testing.assert_close(found, naive(name, values, segments), rtol=0, atol=1e-14)


@pytest.mark.parametrize("function", [*REDUCTIONS.values(), segment_softmax])
def test_gradients_of_first_and_second_order(
    function: Callable[[Tensor, Segments], Tensor], segments: Segments
) -> None:
    values = draw(2).requires_grad_()
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda x: function(x, segments), values)


def test_softmax_and_repeat_are_the_definition(segments: Segments) -> None:
    values = draw(2, 3)
    torch.testing.assert_close(segment_softmax(values, segments), naive_softmax(values, segments), rtol=0, atol=1e-14)
    small = torch.randn(COUNT, 3, dtype=torch.float64, requires_grad=True)
    repeated = segment_repeat(small, segments, num_rows=ROWS)
    expected = torch.zeros(ROWS, 3, dtype=torch.float64)
    for number, rows in enumerate(members(segments)):
        expected[rows] = small[number].detach()
    assert torch.equal(repeated, expected)
    # Transposes of each other.
    other = draw(3)
    torch.testing.assert_close((repeated * other).sum(), (small * segment_sum(other, segments)).sum())
    assert torch.autograd.gradcheck(lambda x: segment_repeat(x, segments, num_rows=ROWS), small)
    assert len(segment_repeat(small, segments)) == (ROWS if isinstance(segments, Inverse) else 9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_strides(dtype: torch.dtype, segments: Segments) -> None:
    values = draw(4, dtype=dtype)
    for view in (torch.empty(4, ROWS, 2, dtype=dtype)[..., 0].T.copy_(values), draw(1, dtype=dtype).expand(-1, 4)):
        for function in (*REDUCTIONS.values(), segment_argmax, segment_softmax):
            torch.testing.assert_close(function(view, segments), function(view.contiguous(), segments))


def test_ties_go_to_the_lowest_row_and_so_does_the_gradient(segments: Segments) -> None:
    values = torch.zeros(ROWS, 2, dtype=torch.float64, requires_grad=True)
    lowest = torch.tensor([min(rows, default=-1) for rows in members(segments)])
    assert torch.equal(segment_argmax(values, segments), lowest[:, None].expand(-1, 2))
    for function in (segment_max, segment_min):
        (gradient,) = torch.autograd.grad(function(values, segments).sum(), values)
        assert gradient[:, 0].nonzero()[:, 0].tolist() == sorted(lowest[lowest >= 0].tolist())
    assert segment_max(values, segments, fill=-7.0)[0].tolist() == [-7, -7]
    assert segment_min(values, segments, fill=-7.0)[0].tolist() == [-7, -7]


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_numbers_that_are_not_finite() -> None:
    inf, nan = torch.inf, torch.nan
    values = torch.tensor([[1, -inf, nan], [nan, -inf, nan], [3, 2, 1], [800, -900, 1e4], [-inf, 0, inf]])
    ptr = torch.tensor([0, 2, 5])
    assert segment_argmax(values, ptr).tolist() == [[1, 0, 0], [3, 2, 4]]
    torch.testing.assert_close(
        segment_max(values, ptr), torch.tensor([[nan, -inf, nan], [800, 2, inf]]), equal_nan=True
    )
    # The form for other devices and for transforms.
    for function in (segment_max, segment_min, segment_softmax):
        plain = torch.func.vmap(lambda x, function=function: function(x, ptr))(values[None])[0]
        torch.testing.assert_close(plain, function(values, ptr), equal_nan=True)
    shares = segment_softmax(values, ptr)
    torch.testing.assert_close(shares[2:, :2], values[2:, :2].softmax(0))
    assert shares[:2, 1].tolist() == [0, 0]
    assert shares[:2, [0, 2]].isnan().all()
    assert shares[:, 2].isnan().all()
    # What belongs to no segment is not read.
    assert segment_sum(values[:, 0], torch.tensor([0, 1])).tolist() == [1]
    assert segment_max(values[:, 0], torch.tensor([0, 1])).tolist() == [1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_types_lose_their_own_rounding_only(dtype: torch.dtype) -> None:
    values = torch.rand(5000, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    ptr = torch.tensor([0, 4000, 5000])
    wide = values.double()
    expected = {
        segment_sum: torch.stack([wide[:4000].sum(0), wide[4000:].sum(0)]),
        segment_mean: torch.stack([wide[:4000].mean(0), wide[4000:].mean(0)]),
        segment_softmax: torch.cat([wide[:4000].softmax(0), wide[4000:].softmax(0)]),
        segment_max: torch.stack([wide[:4000].amax(0), wide[4000:].amax(0)]),
    }
    epsilon = torch.finfo(dtype).eps
    for function, right in expected.items():
        found = function(values, ptr)
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), right, rtol=max(2 * epsilon, 2e-6), atol=1e-7)
    # The sum, 120 000, is too large for float16, the mean is not.
    assert segment_mean(torch.full((4000,), 30.0, dtype=dtype), torch.tensor([0, 4000])).tolist() == [30]


def test_large_segments_on_several_threads(threads: Callable[[int], None]) -> None:
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(-1, 300, (60_000,), generator=generator)
    values = torch.randn(60_000, 16, generator=generator)
    groups, order = group_rows(index, 300), index.argsort(stable=True)
    kept = order[index[order] >= 0]
    ptr = torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(index[kept], minlength=300).cumsum(0)])
    found = []
    for number in (1, 2):
        threads(number)
        leaf = values.clone().requires_grad_()
        outs = [function(leaf, groups) for function in (*REDUCTIONS.values(), segment_softmax)]
        found.append([*outs, *torch.autograd.grad(sum((out * out).sum() for out in outs), leaf)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    for name, function in REDUCTIONS.items():
        torch.testing.assert_close(function(values, groups), function(values[kept], ptr), msg=name)
    expected = torch.full((300, 16), -torch.inf).scatter_reduce(
        0, index[kept, None].expand(-1, 16), values[kept], "amax"
    )
    assert torch.equal(segment_max(values, groups), expected)
    torch.testing.assert_close(segment_softmax(values, groups)[kept], segment_softmax(values[kept], ptr))


def test_a_neighborhoods_inverse_reduces_over_the_queries_of_a_key() -> None:
    idx = torch.tensor([[0, 1], [1, -1], [1, 0]])
    values = torch.tensor([1.0, 2, 4, 8, 16, 32])
    assert segment_sum(values, Neighborhood.from_index(idx, 3).inverse()).tolist() == [33, 22, 0]


@pytest.mark.parametrize("function", [*REDUCTIONS.values(), segment_argmax])
def test_nothing_of_something(function: Callable[[Tensor, Segments], Tensor]) -> None:
    for values, ptr in (
        (torch.empty(0, 2), torch.tensor([0])),
        (torch.empty(0, 2), torch.tensor([0, 0, 0])),
        (torch.ones(3, 0), torch.tensor([0, 2])),
        (torch.ones(3, 2), torch.tensor([0])),
    ):
        assert function(values, ptr).shape == (len(ptr) - 1, values.shape[1])
        assert segment_softmax(values, ptr).shape == values.shape
        if function is not segment_argmax:
            (gradient,) = torch.autograd.grad(function(values.requires_grad_(), ptr).sum(), values)
            assert gradient.shape == values.shape


@pytest.mark.parametrize("groups", [False, True])
def test_the_operators_keep_the_rules(groups: bool) -> None:
    parts = SEGMENTS["groups"] if groups else (PTR, None)
    values, small = draw(2).requires_grad_(), torch.randn(COUNT, 2).requires_grad_()
    torch.library.opcheck(torch.ops.rotaware.segment_sum, (values, *parts))
    torch.library.opcheck(torch.ops.rotaware.segment_repeat, (small, *parts, ROWS))
    torch.library.opcheck(torch.ops.rotaware.segment_softmax, (values, *parts))
    torch.library.opcheck(torch.ops.rotaware.segment_argmax, (values.detach(), *parts))


def test_compiled_whole_and_once_for_all_sizes() -> None:
    counter = CompileCounterWithBackend("aot_eager")

    def loss(values: Tensor, segments: Tensor, groups: Inverse) -> Tensor:
        outs = segment_mean(values, segments), segment_max(values, groups), segment_softmax(values, groups)
        return sum(out.square().sum() for out in outs)  # type: ignore[return-value]

    compiled = torch.compile(loss, backend=counter, fullgraph=True, dynamic=True)
    for rows, count in ((11, 4), (20, 7), (33, 5)):
        generator = torch.Generator().manual_seed(rows)
        values = torch.randn(rows, 3, generator=generator, requires_grad=True)
        index = torch.randint(0, count, (rows,), generator=generator)
        groups = group_rows(index, count)
        (found,) = torch.autograd.grad(compiled(values, groups.ptr, groups), values)
        (expected,) = torch.autograd.grad(loss(values, groups.ptr, groups), values)
        torch.testing.assert_close(found, expected)
    assert counter.frame_count == 1


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_transforms_see_through(segments: Segments) -> None:
    values, direction = draw(2), torch.randn(ROWS, 2, dtype=torch.float64)
    for function in (*REDUCTIONS.values(), segment_softmax):
        of = lambda x, function=function: function(x, segments)  # noqa: E731
        primal, tangent = torch.func.jvp(of, (values,), (direction,))
        plain = torch.autograd.functional.jacobian(of, values)
        torch.testing.assert_close(primal, of(values), rtol=0, atol=1e-14)
        torch.testing.assert_close(tangent, (plain * direction).sum((-1, -2)))
        torch.testing.assert_close(torch.autograd.functional.jacobian(of, values, vectorize=True), plain)
        torch.testing.assert_close(torch.func.vmap(of)(torch.stack([values])), of(values)[None], rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("error", "message", "values", "segments"),
    [
        (TypeError, "values: expected a floating point tensor", torch.ones(3, dtype=torch.int64), torch.tensor([0, 3])),
        (TypeError, "segments: expected an integer tensor", torch.ones(3), torch.tensor([0.0, 3])),
        (ValueError, r"segments: expected shape \(S \+ 1,\)", torch.ones(3), torch.tensor([[0, 3]])),
        (ValueError, "segments: expected at least one border", torch.ones(3), torch.tensor([], dtype=torch.int64)),
        (ValueError, "segments: expected borders that ascend from 0 to at most 3", torch.ones(3), torch.tensor([0, 4])),
        (ValueError, "segments: expected borders that ascend", torch.ones(3), torch.tensor([0, 2, 1, 3])),
        (ValueError, "segments: expected borders that ascend", torch.ones(3), torch.tensor([1, 3])),
        (ValueError, r"segments.edge: expected shape \(4,\)", torch.ones(4), group_rows(torch.tensor([0, 1]), 2)),
        (ValueError, r"values: expected shape \(E, ...\)", torch.tensor(1.0), torch.tensor([0, 1])),
    ],
)
def test_misuse_is_named(error: type[Exception], message: str, values: Tensor, segments: Segments) -> None:
    for function in (*REDUCTIONS.values(), segment_argmax, segment_softmax):
        with pytest.raises(error, match=message):
            function(values, segments)


def test_misuse_of_groups_and_repetition_is_named() -> None:
    with pytest.raises(TypeError, match="index: expected an integer tensor"):
        group_rows(torch.ones(3), 2)
    with pytest.raises(ValueError, match="expected names below 2"):
        group_rows(torch.tensor([0, 2]), 2)
    with pytest.raises(ValueError, match=r"values: expected shape \(2, 4\), got \(3, 4\)"):
        segment_repeat(torch.ones(3, 4), torch.tensor([0, 1, 2]))
