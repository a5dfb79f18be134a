"""Windows on grids against the closed form, written out token by token, and the laws they are used for."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rotaware.kernels.grid import GridWindow, axis_neighbors, grid_index, grid_window


class Axis(NamedTuple):
    """The options of one axis."""

    length: int
    window: int
    dilation: int
    stride: int
    causal: bool


@st.composite
def axes(draw: st.DrawFn, longest: int = 13) -> Axis:
    """An axis with a window that fits."""
    length = draw(st.integers(1, longest))
    dilation = draw(st.integers(1, length))
    window = draw(st.integers(1, length // dilation))
    return Axis(length, window, dilation, draw(st.integers(1, window)), draw(st.booleans()))


def naive_axis(token: int, axis: Axis) -> list[int]:
    """The coordinates that a token sees along one axis, literally as specified."""
    length, window, dilation, stride, causal = axis
    residue, place = token % dilation, token // dilation
    group = math.ceil((length - residue) / dilation)
    if causal:
        leader = min((place // stride) * stride + stride - 1, group - 1)
        slots = range(leader - window + 1, leader + 1)
        return [slot * dilation + residue if 0 <= slot <= place else -1 for slot in slots]
    leader = min((place // stride) * stride + stride // 2, group - 1)
    left, right = window // 2, window // 2 + window % 2 - 1
    center = leader
    if center < left:
        center = left
    if center > group - 1 - right:
        center = group - 1 - right
    return [slot * dilation + residue for slot in range(center - left, center + right + 1)]


def naive_index(window: GridWindow) -> list[list[int]]:
    """The names that each token of a packed batch sees."""
    options = [Axis(*values) for values in zip(*window[:5], strict=True)]
    rows = []
    for number in range(window.batch):
        for token in itertools.product(*map(range, window.shape)):
            row = []
            for key in itertools.product(*map(naive_axis, token, options)):
                name = 0
                for coordinate, length in zip(key, window.shape, strict=True):
                    name = name * length + coordinate
                row.append(-1 if min(key) < 0 else name + number * math.prod(window.shape))
            rows.append(row)
    return rows


def windows_of(options: list[Axis], batch: int = 1) -> GridWindow:
    """The checked window of some axes."""
    return grid_window(*map(tuple, zip(*options, strict=True)), batch=batch)


@given(axes())
def test_an_axis_is_the_closed_form(axis: Axis) -> None:
    assert axis_neighbors(*axis).tolist() == [naive_axis(token, axis) for token in range(axis.length)]


@settings(max_examples=60)
@given(st.lists(axes(longest=6), min_size=1, max_size=3), st.integers(0, 2))
def test_a_grid_is_the_closed_form(options: list[Axis], batch: int) -> None:
    window = windows_of(options, batch)
    index = grid_index(window)
    assert index.dtype == torch.int32
    assert index.is_contiguous()
    assert index.shape == (window.tokens, window.slots)
    assert index.tolist() == naive_index(window)


def test_four_axes() -> None:
    window = grid_window((3, 4, 2, 3), (3, 2, 1, 2), stride=(2, 1, 1, 1), causal=(False, True, False, False), batch=2)
    assert grid_index(window).tolist() == naive_index(window)


@given(axes())
def test_a_window_holds_its_query_and_distinct_keys_of_one_residue(axis: Axis) -> None:
    for token, row in enumerate(axis_neighbors(*axis).tolist()):
        seen = [key for key in row if key >= 0]
        assert len(set(seen)) == len(seen)
        assert all(key < axis.length and key % axis.dilation == token % axis.dilation for key in seen)
        assert token in seen
        if axis.causal:
            assert max(seen) == token
        else:
            assert len(seen) == axis.window


@pytest.mark.parametrize("window", [1, 3, 5])
def test_an_odd_window_is_centered_away_from_the_border(window: int) -> None:
    half = window // 2
    inside = axis_neighbors(11, window)[half : 11 - half]
    assert torch.equal(inside, torch.arange(half, 11 - half)[:, None] + torch.arange(-half, half + 1))


def test_an_even_window_sees_one_token_more_on_the_left() -> None:
    assert axis_neighbors(9, 4)[4].tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize("window", [2, 3, 4])
def test_stride_as_long_as_the_window_gives_blocks(window: int) -> None:
    keys = axis_neighbors(window * 4, window, stride=window)
    blocks = torch.arange(window * 4).view(4, window)
    assert torch.equal(keys, blocks.repeat_interleave(window, 0))


def test_blocks_of_a_plane() -> None:
    index = grid_index(grid_window((4, 6), (2, 3), stride=(2, 3)))
    token = torch.arange(24)
    block = token // 6 // 2 * 2 + token % 6 // 3
    assert torch.equal(block[index], block[:, None].expand(-1, 6))


def test_grids_of_a_batch_stay_apart() -> None:
    one = grid_index(grid_window((5, 4), 3, causal=(True, False)))
    three = grid_index(grid_window((5, 4), 3, causal=(True, False), batch=3)).view(3, *one.shape)
    for number, found in enumerate(three):
        assert torch.equal(found, torch.where(one < 0, one, one + 20 * number))


def test_a_causal_product_has_no_key_where_one_axis_has_none() -> None:
    index: Tensor = grid_index(grid_window((3, 3), 2, causal=True))
    assert index[0].tolist() == [-1, -1, -1, 0]
    assert index[1].tolist() == [-1, -1, 0, 1]
    assert index[4].tolist() == [0, 1, 3, 4]


def test_numbers_hold_for_every_axis() -> None:
    window = grid_window([6, 8], 3, 2, causal=True)
    assert window == GridWindow((6, 8), (3, 3), (2, 2), (1, 1), (True, True), 1)
    assert grid_window(6, 3).shape == (6,)
    assert (window.tokens, window.slots) == (48, 9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((), 3), r"shape: expected at least one axis, got \(\)"),
        (((4, 0), 1), r"shape: expected numbers of at least 1, got \(4, 0\)"),
        (((4, 4), 0), r"window: expected numbers of at least 1, got \(0, 0\)"),
        (((4, 4), (3, 3, 3)), r"window: expected 2 entries \(one per axis\), got \(3, 3, 3\)"),
        (((4, 4), 5), r"window: expected window \* dilation of at most the shape \(4, 4\), got window \(5, 5\)"),
        (((4, 9), 3, (1, 4)), r"window: expected window \* dilation .* and dilation \(1, 4\)"),
        (((4, 4), 2, 0), r"dilation: expected numbers of at least 1, got \(0, 0\)"),
        (((4, 4), 2, 1, 3), r"stride: expected at most the window \(2, 2\), got \(3, 3\)"),
        (((4, 4), 2, 1, -1), r"stride: expected numbers of at least 1, got \(-1, -1\)"),
        (((4, 4), 2, 1, 1, [True]), r"causal: expected 2 entries"),
        (((4, 4), 2, 1, 1, False, -1), r"batch: expected from 0 to less than 2\^31 tokens, got -1 grids"),
        (((1 << 16, 1 << 15), 2), r"batch: expected from 0 to less than 2\^31 tokens, got 1 grids"),
    ],
)
def test_windows_that_do_not_fit_are_named(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grid_window(*arguments)


@pytest.mark.parametrize("window", [2.0, (2, 2.5), "22", None])
def test_windows_that_are_no_numbers_are_named(window: object) -> None:
    with pytest.raises(TypeError, match="window: expected whole numbers, got"):
        grid_window((4, 4), window)
