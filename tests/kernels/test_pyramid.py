"""Pyramids: every table is what direct calls give, whatever the order of rows."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lattice_cases import choices, same_in_given_order
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.data import DataLoader

from rotaware.geo import point_pair_features, random_rotations, signed_point_pair_features
from rotaware.kernels import farthest_point_sampling, interpolate, interpolation_weights, knn
from rotaware.kernels.attention import neighborhood_attention
from rotaware.kernels.neighborhood import Neighborhood
from rotaware.kernels.pyramid import Level, Pyramid

STRIDES, KS = (1, 4, 3), (5, 8, 6)
LENGTHS = [300, 0, 150]


def scan(rows: int = sum(LENGTHS), *, seed: int = 0, lattice: bool = False) -> tuple[Tensor, Tensor]:
    """Points on three planes, on demand in multiples of 1/8 so that distances tie, and unit normals."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(rows, 3, generator=generator, dtype=torch.float64)
    points[torch.arange(rows), torch.randint(0, 3, (rows,), generator=generator)] = 0.5
    normals = torch.nn.functional.normalize(torch.randn(rows, 3, generator=generator, dtype=torch.float64))
    return (points * 8).round() / 8 if lattice else points, normals


def build(**options: Any) -> Pyramid:
    points, normals = scan(lattice=options.pop("lattice", False))
    return Pyramid.build(points, normals, **{"strides": STRIDES, "ks": KS, "lengths": LENGTHS, **options})


@pytest.mark.parametrize("order", [True, False])
@pytest.mark.parametrize("lattice", [True, False])
@pytest.mark.parametrize("drop_first", [True, False])
def test_tables_are_those_of_direct_calls(order: bool, lattice: bool, drop_first: bool) -> None:
    pyramid = build(order=order, lattice=lattice, drop_first=drop_first)
    points, normals = scan(lattice=lattice)
    finer_points, finer_normals, finer_lengths, finer_order = points, normals, torch.tensor(LENGTHS), pyramid.order
    assert torch.equal(pyramid.restore(pyramid.points), points)
    assert (pyramid.order is not None) == order
    for level, stride, k in zip(pyramid.levels, STRIDES, KS, strict=True):
        rows, lengths = torch.arange(len(finer_points)), finer_lengths
        if stride > 1:
            lengths = finer_lengths // stride
            rows = farthest_point_sampling(finer_points, lengths, lengths=finer_lengths)
        points, normals = finer_points[rows], finer_normals[rows]
        if level.order is not None:
            assert sorted(level.order.tolist()) == list(range(len(points)))
            assert torch.equal(level.points, points[level.order])
            assert torch.equal(level.normals, normals[level.order])
        assert level.lengths == tuple(lengths.tolist())
        assert level.ptr.tolist() == [0, *lengths.cumsum(0).tolist()]
        if level.rows is not None:
            assert level.rows.dtype == torch.int32
            known = level.rows if finer_order is None else finer_order[level.rows]
            assert torch.equal(known.long(), rows if level.order is None else rows[level.order])
        if drop_first:
            around = knn(points, k + 1, lengths=lengths).index[:, 1:]
        else:
            around = knn(points, k, lengths=lengths, exclude_self=True).index
        assert torch.equal(same_in_given_order(level.neighborhood, level.order, level.order), around)
        if drop_first:
            down = knn(finer_points, k + 1, queries=points, lengths=finer_lengths, query_lengths=lengths).index[:, 1:]
        else:
            down = knn(finer_points, k, lengths=finer_lengths, exclude_self=True).index[rows]
        assert torch.equal(same_in_given_order(level.down, level.order, finer_order), down)
        if stride == 1:
            assert (level.rows, level.up, level.up_weights) == (None, None, None)
            assert level.down is level.neighborhood
        else:
            index, weights = interpolation_weights(finer_points, points, lengths=lengths, query_lengths=finer_lengths)
            assert level.up is not None
            assert torch.equal(same_in_given_order(level.up, finer_order, level.order), index)
            assert torch.equal(weights if finer_order is None else weights[finer_order], level.up_weights)
        for features, names, keys, key_normals in (
            (level.pair_features, around, points, normals),
            (level.down_pair_features, down, finer_points, finer_normals),
        ):
            expected = point_pair_features(points[:, None], normals[:, None], keys[names], key_normals[names])
            expected = expected * (names >= 0)[..., None]
            torch.testing.assert_close(features, expected if level.order is None else expected[level.order])
        finer_points, finer_normals, finer_lengths, finer_order = points, normals, lengths, level.order


def test_reordering_keeps_neighbors_close() -> None:
    def spread(pyramid: Pyramid) -> float:
        idx = pyramid.levels[1].down.idx.double()
        return float((idx.max(1)[0] - idx.min(1)[0]).mean())

    assert spread(build()) < spread(build(order=False)) / 2
    rows = build().levels[1].rows
    assert rows is not None
    assert (rows.diff() > 0).all()


def test_arrange_and_restore_undo_each_other() -> None:
    for order in (True, False):
        pyramid = build(order=order)
        for rows in (torch.arange(450), torch.rand(450, 3, requires_grad=True)):
            assert torch.equal(pyramid.restore(pyramid.arrange(rows)), rows)
            assert torch.equal(pyramid.arrange(pyramid.restore(rows)), rows)
        (gradient,) = torch.autograd.grad(pyramid.restore(rows).square().sum(), rows)
        torch.testing.assert_close(gradient, 2 * rows)
        level = pyramid.levels[1]
        given = (
            level.points
            if level.order is None
            else torch.empty_like(level.points).index_copy_(0, level.order.long(), level.points)
        )
        assert torch.equal(pyramid.restore(level.points, 1), given)
        with pytest.raises(ValueError, match=r"rows: expected shape \(450, 2\), got \(449, 2\)"):
            pyramid.restore(torch.zeros(449, 2))


def test_clouds_of_a_batch_are_as_alone() -> None:
    points, normals = scan()
    batch = build()
    parts = [
        Pyramid.build(p, n, strides=STRIDES, ks=KS)
        for p, n in zip(points.split(LENGTHS), normals.split(LENGTHS), strict=True)
    ]
    for number, level in enumerate(batch.levels):
        alone = [part.levels[number] for part in parts]
        finer = [part.levels[number - 1] if number else part for part in parts]
        assert torch.equal(level.points, torch.cat([part.points for part in alone]))
        for name, keys in (("neighborhood", alone), ("down", finer), ("up", alone)):
            tables = [getattr(part, name) for part in alone]
            if tables[0] is None:
                continue
            shift, rows = 0, []
            for table, key in zip(tables, keys, strict=True):
                rows.append(torch.where(table.idx >= 0, table.idx + shift, -1))
                shift += len(key.points)
            assert torch.equal(getattr(level, name).idx, torch.cat(rows))
        torch.testing.assert_close(level.pair_features, torch.cat([part.pair_features for part in alone]))


def network(pyramid: Pyramid, features: Tensor) -> Tensor:
    """A U-Net without parameters: attention in every layer of every level, and back up."""

    def attend(queries: Tensor, keys: Tensor, table: Neighborhood, pairs: Tensor | None) -> Tensor:
        q, k = queries[:, None], keys[:, None]
        assert pairs is not None
        u = queries[:, None, : pairs.shape[2]]
        out, z = neighborhood_attention(q, k, k.cos(), table, pair=(u, pairs))
        return torch.cat([out[:, 0, :-4], z[:, 0]], 1)

    x, skips = pyramid.arrange(features), []
    for level in pyramid.levels:
        centers = x if level.rows is None else x[level.rows]
        x = attend(centers, x, level.down, level.down_pair_features)
        x = x + attend(x, x, level.neighborhood, level.pair_features)
        skips.append(x)
    for level, skip in zip(reversed(pyramid.levels[1:]), reversed(skips[:-1]), strict=True):
        x = skip + level.upsample(x)
    return pyramid.restore(x)


def test_a_network_does_not_see_the_order() -> None:
    features = torch.randn(450, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    found = []
    for order in (True, False):
        out = network(build(order=order), features)
        found.append((out, *torch.autograd.grad(out.square().sum(), features)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-11)


def test_a_compiled_network_takes_pyramids_of_any_size() -> None:
    def there_and_back(pyramid: Pyramid, features: Tensor) -> Tensor:
        (level,) = pyramid.levels
        x = pyramid.arrange(features)
        q, k = x[level.rows][:, None], x[:, None]
        return pyramid.restore(level.upsample(neighborhood_attention(q, k, k, level.down)[:, 0]))

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(there_and_back, backend=counter, fullgraph=True, dynamic=True)
    for rows in (90, 150, 201):
        pyramid = Pyramid.build(scan(rows)[0], strides=(2,), ks=(4,))
        features = torch.rand(rows, 8, dtype=torch.float64, requires_grad=True)
        found, expected = (
            torch.autograd.grad(function(pyramid, features).square().sum(), features)
            for function in (compiled, there_and_back)
        )
        torch.testing.assert_close(found, expected)
    assert counter.frame_count == 1


@pytest.mark.parametrize("drop_first", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 2, 5])
def test_small_clouds(rows: int, drop_first: bool) -> None:
    points, normals = scan(rows)
    pyramid = Pyramid.build(points, normals, strides=(1, 4, 4), ks=(3, 4, 4), drop_first=drop_first)
    assert [len(level.points) for level in pyramid.levels] == [rows, *[min(rows, 1)] * 2]
    for level in pyramid.levels:
        assert level.neighborhood.idx.shape == (len(level.points), level.neighborhood.k)
        others = len(level.points) - 1
        assert ((level.neighborhood.idx >= 0).sum(1) == min(others, level.neighborhood.k)).all()
        assert (level.pair_features[level.neighborhood.idx < 0] == 0).all()
        assert level.upsample(torch.ones(len(level.points), 2)).sum() == (
            2 * len(level.points) if level.up is None else 2 * level.up.num_queries
        )
    assert network(pyramid, torch.ones(rows, 8, dtype=torch.float64)).isfinite().all()


def test_more_duplicates_than_neighbors() -> None:
    points = torch.zeros(9, 3)
    ours = Pyramid.build(points, strides=(1, 2), ks=(3, 3))
    published = Pyramid.build(points, strides=(1, 2), ks=(3, 3), drop_first=True)
    for level in ours.levels:
        assert not (level.neighborhood.idx == torch.arange(len(level.points))[:, None]).any()
        if level.rows is not None:
            assert not (level.down.idx == level.rows[:, None]).any()
        assert (level.down.idx >= 0).all()
    # The nearest of equals is the lowest row, which is another one than the point's own.
    assert published.levels[0].neighborhood.idx[8].tolist() == [1, 2, 3]
    assert (published.levels[0].neighborhood.idx[1] == 1).any()


@pytest.mark.parametrize("order", [True, False])
@pytest.mark.parametrize("drop_first", [True, False])
def test_a_lattice_has_the_same_tables_in_every_pose(
    lattice_scan: Tensor, poses: list[Tensor], order: bool, drop_first: bool
) -> None:
    options: dict[str, Any] = {"strides": (1, 4, 4), "ks": (8, 8, 8), "order": order, "drop_first": drop_first}
    expected = choices(Pyramid.build((lattice_scan * 500).round(), **options))
    for pose in (lattice_scan.float(), *poses):
        found = choices(Pyramid.build(pose, **options, tie_tolerance=2e-6))
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(expected, found, strict=True))
        # Which is why there is a tolerance.
        plain = choices(Pyramid.build(pose, **options))
        assert not any(torch.equal(ours, theirs) for ours, theirs in zip(expected[:5], plain[:5], strict=True))


def test_a_scan_has_the_same_tables_in_every_pose(shared_data: Path) -> None:
    scan = np.load(shared_data / "3dmatch/clouds/7-scenes-redkitchen__cloud_bin_21.npy").astype(np.float64)
    points = torch.from_numpy(scan)
    generator = torch.Generator().manual_seed(0)
    turns = [torch.eye(3, dtype=torch.float64), *random_rotations(2, generator=generator, dtype=torch.float64)]
    found = [
        choices(Pyramid.build((points @ turn.T).float(), strides=(1, 4, 4, 4), ks=(8, 16, 16, 16), tie_tolerance=2e-6))
        for turn in turns
    ]
    for other in found[1:]:
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(found[0], other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_pair_features_are_those_of_torch(dtype: torch.dtype) -> None:
    def uncompiled(*rows: Tensor) -> Tensor:
        return point_pair_features(*rows)

    points, normals = (rows.to(dtype) for rows in scan(lattice=True))
    # Coincident points, no normal, parallel and opposite ones, and a cloud with fewer points than neighbors.
    points[5:9] = points[4]
    normals[3], normals[6], normals[7] = 0, normals[5], -normals[5]
    options: dict[str, Any] = {"strides": STRIDES, "ks": KS, "lengths": [300, 147, 3]}
    ours = Pyramid.build(points, normals, **options)
    theirs = Pyramid.build(points.double(), normals.double(), **options, pair_features=uncompiled)
    for found, expected in zip(ours.levels, theirs.levels, strict=True):
        assert torch.equal(found.down.idx, expected.down.idx)
        for name in ("pair_features", "down_pair_features"):
            assert getattr(found, name).dtype == dtype
            tolerance = 1e-6 if dtype == torch.float32 else 1e-13
            torch.testing.assert_close(getattr(found, name).double(), getattr(expected, name), rtol=0, atol=tolerance)
    assert (ours.levels[0].neighborhood.idx < 0).any()


def test_a_first_level_may_be_sampled() -> None:
    points, _ = scan()
    pyramid = Pyramid.build(points, strides=(2,), ks=(4,), lengths=LENGTHS)
    (level,) = pyramid.levels
    assert level.rows is not None
    assert torch.equal(pyramid.points[level.rows], level.points)
    assert level.down.num_keys == 450
    assert level.upsample(torch.ones(225, 1)).shape == (450, 1)
    assert torch.equal(pyramid.restore(pyramid.points), points)
    assert level.normals is None
    assert level.pair_features is level.down_pair_features is None


def tensors(pyramid: Pyramid) -> list[Tensor]:
    found = [x for x in (pyramid.points, pyramid.normals, pyramid.order) if x is not None]
    for level in pyramid.levels:
        parts = [getattr(level, name) for name in Level.__dataclass_fields__]
        found += [x for x in parts if isinstance(x, Tensor)]
        for table in (x for x in parts if isinstance(x, Neighborhood)):
            found += [table.idx, *table.inverse()]
    return found


def test_pickled_whole_with_what_is_shared() -> None:
    pyramid = build()
    assert pyramid.points is pyramid.levels[0].points
    copy = pickle.loads(pickle.dumps(pyramid))
    assert all(torch.equal(a, b) for a, b in zip(tensors(pyramid), tensors(copy), strict=True))
    assert copy.levels[0].down is copy.levels[0].neighborhood
    assert repr(copy) == repr(pyramid) == "Pyramid(450 points, levels of 450, 112, 37)"
    stream = io.BytesIO()
    torch.save(pyramid, stream)
    stream.seek(0)
    assert torch.equal(torch.load(stream, weights_only=False).levels[2].down.idx, pyramid.levels[2].down.idx)


def test_moved_whole_with_what_is_shared() -> None:
    pyramid = build()
    moved = pyramid.to("meta")
    assert {x.device.type for x in tensors(moved)} == {"meta"}
    assert [x.shape for x in tensors(moved)] == [x.shape for x in tensors(pyramid)]
    assert moved.levels[0].down is moved.levels[0].neighborhood
    assert moved.points is moved.levels[0].points
    assert all(x is y for x, y in zip(tensors(pyramid.to("cpu")), tensors(pyramid), strict=True))


class Clouds:
    """A data set whose samples are pyramids."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, number: int) -> Pyramid:
        points, normals = scan(60, seed=number)
        return Pyramid.build(points, normals, strides=(1, 4), ks=(4, 4))


def test_built_in_a_worker() -> None:
    loader = DataLoader(Clouds(), batch_size=None, num_workers=1)  # type: ignore[arg-type]
    for number, pyramid in enumerate(loader):
        expected = Clouds()[number]
        assert all(torch.equal(a, b) for a, b in zip(tensors(pyramid), tensors(expected), strict=True))


def test_options() -> None:
    points, normals = scan()
    lazy = build(inverse=False)
    assert lazy.levels[1].down._inverse is None
    assert build().levels[1].down._inverse is not None
    assert build(pair_features=signed_point_pair_features).levels[1].down_pair_features.shape == (112, 8, 5)
    assert build(sources=2).levels[1].up_weights.shape == (450, 2)
    torch_made = build(backend="torch")
    for theirs, ours in zip(tensors(torch_made), tensors(build()), strict=True):
        # Tables and weights are equal to the bit, pair features up to rounding.
        torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-14 if ours.shape[-1:] == (4,) else 0)
    for tensor in (points, normals):
        tensor.requires_grad_()
    pyramid = Pyramid.build(points, normals, strides=(1, 2), ks=(4, 4))
    assert not any(tensor.requires_grad for tensor in tensors(pyramid))
    single = Pyramid.build(points.detach().float(), strides=(1, 2), ks=(4, 4))
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        assert single.levels[1].upsample(torch.ones(225, 2, dtype=dtype)).dtype == dtype
    up = build().levels[1]
    features = torch.rand(112, 3, dtype=torch.float64)
    assert torch.equal(up.upsample(features), interpolate(features, up.up, up.up_weights))


@pytest.mark.parametrize(
    ("error", "message", "options"),
    [
        (ValueError, "ks: expected one number per stride, at least one, got 2 for 3", {"ks": (4, 4)}),
        (ValueError, "ks: expected one number per stride, at least one, got 0 for 0", {"ks": (), "strides": ()}),
        (ValueError, "strides: expected at least 1, got 0", {"strides": (1, 0, 4)}),
        (ValueError, "ks: expected at least 1, got 0", {"ks": (0, 4, 4)}),
        (ValueError, "sources: expected at least 1, got 0", {"sources": 0}),
        (ValueError, "lengths: expected a sum of 450", {"lengths": [449]}),
        (ValueError, r"points: expected shape \(N, 3\)", {"points": torch.zeros(450, 2)}),
        (TypeError, "points: expected a floating point tensor", {"points": torch.zeros(450, 3, dtype=torch.int32)}),
        (ValueError, r"normals: expected shape \(450, 3\)", {"normals": torch.zeros(4, 3)}),
        (ValueError, "points, normals: expected one dtype", {"normals": torch.zeros(450, 3)}),
    ],
)
def test_misuse_is_named(error: type[Exception], message: str, options: dict[str, Any]) -> None:
    points, normals = scan()
    right = {"points": points, "normals": normals, "strides": STRIDES, "ks": KS, "lengths": LENGTHS}
    with pytest.raises(error, match=message):
        Pyramid.build(**{**right, **options})
