"""The network against the outputs of the authors' own, and against what must not change it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from roitr_cases import (
    PUBLISHED,
    SMALL,
    fixtures,
    network,
    pair,
    pose,
    published_tensors,
    random,
    rearranged,
    reference,
)
from torch import Tensor
from torch.nn.functional import normalize

from rotaware.geo import transform_points
from rotaware.pointcloud.matching import NodeMatches
from rotaware.pointcloud.pairs import CloudPair, PairBatch
from rotaware.pointcloud.roitr import PointMatches, RoITr, RoITrOutput
from rotaware.pointcloud.roitr_config import RoITrConfig


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Published(NamedTuple):
    network: RoITr
    batch: PairBatch
    output: RoITrOutput
    reference: dict[str, Tensor]


@pytest.fixture(scope="module", params=["rigid", "nonrigid"])
def published(request: pytest.FixtureRequest, shared_data: Path) -> Published:
    """A published network, what it makes of the reference's clouds, and the reference."""
    folder = fixtures(shared_data)
    expected = reference(folder, request.param)
    model = RoITr.from_published(published_tensors(folder, request.param), PUBLISHED[request.param]).eval()
    clouds = CloudPair(*(expected[name].float() for name in ("src", "src_normals", "tgt", "tgt_normals")))
    batch = PairBatch.build([clouds], model.config)
    with torch.no_grad():
        return Published(model, batch, model(batch), expected)


def assert_near(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Equal within a share of the largest value."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def test_published_features(published: Published) -> None:
    batch, output, expected = published.batch, published.output, published.reference
    for side, name in (("source", "src"), ("target", "tgt")):
        nodes = batch.node_rows(0, side)  # type: ignore[arg-type]
        assert torch.equal(batch.nodes[nodes], expected[f"{name}_nodes"])
        assert_near(output.node_features[nodes], expected[f"{name}_node_feats"], 2e-5)
        points = output.point_features[batch.rows(0, side)][::16]  # type: ignore[arg-type]
        assert_near(points, expected[f"{name}_point_feats"], 2e-5)


def test_published_features_of_the_first_level(published: Published) -> None:
    batch = published.batch
    with torch.no_grad():
        features = published.network.backbone.encoder[0](torch.ones(len(batch.points), 1), batch.pyramid.levels[0])
    source = batch.pyramid.restore(features)[batch.rows(0, "source")]
    assert_near(source[::16], published.reference["enc1_feats"], 2e-5)


def theirs(published: Published) -> tuple[Tensor, Tensor]:
    """Superpoints of target and source that the reference has matched."""
    indices = [published.reference[f"{name}_node_corr_indices"].long() for name in ("tgt", "src")]
    return indices[0], indices[1]


def test_published_patch_pairs(published: Published) -> None:
    model, batch, output, _ = published
    target, source = theirs(published)
    found = model.match_superpoints(batch, output, 0)
    ours, expected = (
        set(zip(*(each.tolist() for each in pairs), strict=True)) for pairs in (found[:2], (target, source))
    )
    assert len(found.target) == len(target)
    # Of almost equal scores one or the other may be the last that is chosen.
    model.config, config = replace(model.config, patch_pairs=10**6, node_distance=3.0), model.config
    everything = model.match_superpoints(batch, output, 0)
    model.config = config
    scores = dict(zip(zip(*(each.tolist() for each in everything[:2]), strict=True), everything.score, strict=True))
    assert len(ours ^ expected) <= 4
    assert all(abs(scores[pair] / found.score[-1] - 1) < 1e-4 for pair in ours ^ expected)


def test_published_transport_plans(published: Published) -> None:
    model, batch, output, expected = published
    target, source = theirs(published)
    with torch.no_grad():
        plan = model.transport(batch, output, 0, target[:8], source[:8])
    # The reference leaves something around -1e6 where there is nothing.
    exists = expected["matching_scores"] > -1e5
    assert torch.equal(plan > -1e5, exists)
    assert_near(plan[exists], expected["matching_scores"][exists], 2e-5)


def test_published_correspondences(published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch, output, expected = published
    target, source = theirs(published)
    nodes = NodeMatches(target, source, torch.ones(len(target)))
    monkeypatch.setattr(model, "match_superpoints", lambda *_: nodes)
    (matches,) = model.match(batch, output)
    ours = batch.points[batch.rows(0, "source")][matches.source], batch.points[batch.rows(0, "target")][matches.target]
    # The same two points may match in several patches, more or less surely.
    found: list[dict[tuple[float, ...], list[float]]] = [{}, {}]
    for confidences, (*points, confidence) in zip(
        found,
        (
            (*ours, matches.confidence),
            (expected["src_corr_points"], expected["tgt_corr_points"], expected["corr_scores"]),
        ),
        strict=True,
    ):
        for row, value in zip(torch.cat(points, 1).tolist(), confidence.tolist(), strict=True):
            confidences.setdefault(tuple(row), []).append(value)
    assert len(found[1]) > 300
    # Of almost equal confidences one or the other is among the best three, and rounding depends on the threads.
    differing = {
        key for key in found[0].keys() | found[1].keys() if len(found[0].get(key, [])) != len(found[1].get(key, []))
    }
    assert len(differing) <= 4
    for key in found[0].keys() & found[1].keys() - differing:
        # Scores reach 860 with these weights, so that rounding of a score moves a confidence by up to 1e-4.
        np.testing.assert_allclose(sorted(found[0][key]), sorted(found[1][key]), rtol=0, atol=5e-4)


@pytest.mark.parametrize(("config", "count"), [(RoITrConfig.rigid(), 10_102_273), (RoITrConfig.nonrigid(), 40_258_561)])
def test_parameters(config: RoITrConfig, count: int) -> None:
    with torch.device("meta"):
        model = RoITr(config)
    assert sum(each.numel() for each in model.parameters()) == count
    assert not list(model.buffers())


def test_level_sizes() -> None:
    clouds = [random(count, 3).float() for count in (19_084, 30_000)]
    up = [torch.tensor([0.0, 0, 1]).expand(len(cloud), 3) for cloud in clouds]
    batch = PairBatch.build([CloudPair(clouds[0], up[0], clouds[1], up[1])], RoITrConfig(), inverse=False)
    assert [level.lengths for level in batch.pyramid.levels] == [
        (19_084, 30_000),
        (4_771, 7_500),
        (1_192, 1_875),
        (298, 468),
    ]


def as_set(matches: PointMatches) -> set[tuple[int, int, int, int]]:
    """Matched rows, and the superpoints they were found in."""
    nodes = matches.nodes.source[matches.patch], matches.nodes.target[matches.patch]
    return set(zip(*(each.tolist() for each in (matches.source, matches.target, *nodes)), strict=True))


class Seen(NamedTuple):
    """What a network makes of one pair."""

    nodes: tuple[Tensor, Tensor]
    points: tuple[Tensor, Tensor]
    matches: PointMatches


@torch.no_grad()
def seen(model: RoITr, *pairs: CloudPair) -> list[Seen]:
    """Descriptors of the superpoints and points of source and target, and matches, of each pair of a batch."""
    batch = PairBatch.build(pairs, model.config)
    output = model(batch)
    matches = model.match(batch, output)
    found = []
    for number in range(len(pairs)):
        nodes = [output.node_features[batch.node_rows(number, side)] for side in ("source", "target")]
        points = [output.point_features[batch.rows(number, side)] for side in ("source", "target")]
        found.append(Seen((nodes[0], nodes[1]), (points[0], points[1]), matches[number]))
    return found


def assert_same(found: Seen, expected: Seen, tolerance: float) -> None:
    for one, other in zip((*found.nodes, *found.points), (*expected.nodes, *expected.points), strict=True):
        assert_near(one, other, tolerance)
    assert as_set(found.matches) == as_set(expected.matches)
    assert len(found.matches.source) == len(expected.matches.source) > 50
    # Matches come in the order of their patches, which are sorted by scores.
    order, other = (each.matches.confidence.sort().values for each in (found, expected))
    torch.testing.assert_close(order, other, rtol=0, atol=10 * tolerance)


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, pair_features="signed_ppf", node_matching="adaptive")])
def test_neither_pose_counts(config: RoITrConfig) -> None:
    model, here = network(config), pair()
    moves = pose(1), pose(2)
    there = CloudPair(
        transform_points(moves[0].float(), here.source),
        here.source_normals @ moves[0][:3, :3].float().T,
        transform_points(moves[1].float(), here.target),
        here.target_normals @ moves[1][:3, :3].float().T,
    )
    (expected,), (found,) = seen(model, here), seen(model, there)
    assert_same(found, expected, 1e-4)


def test_a_mirror_image_is_seen_by_signed_features_alone() -> None:
    flip = torch.tensor([-1.0, 1, 1])
    here = pair()
    there = CloudPair(here.source * flip, here.source_normals * flip, here.target, here.target_normals)
    gaps = []
    for kind in ("ppf", "signed_ppf"):
        model = network(replace(SMALL, pair_features=kind))
        points = [seen(model, each)[0].points[0] for each in (here, there)]
        gaps.append(float((points[0] - points[1]).norm() / points[0].norm()))
    assert gaps[0] < 1e-5 < 1e-3 < gaps[1]


def test_pairs_of_a_batch_do_not_see_each_other() -> None:
    model = network()
    pairs = [pair(400, 380), pair(300, 500, seed=1), pair(60, 70, seed=2)]
    together = seen(model, *pairs)
    for found, each in zip(together[:2], pairs[:2], strict=True):
        assert_same(found, seen(model, each)[0], 1e-5)
    assert torch.equal(seen(model, pairs[2])[0].matches.source, together[2].matches.source)


def test_source_and_target_are_not_alike() -> None:
    """The target attends to a source that has attended to it already."""
    model, here = network(), pair()
    there = CloudPair(here.target, here.target_normals, here.source, here.source_normals)
    found, expected = seen(model, there)[0], seen(model, here)[0]
    assert_near(found.points[0], expected.points[1], 1e-5)
    assert not torch.allclose(found.nodes[0], expected.nodes[1], atol=1e-3)


def test_the_order_of_points_does_not_count() -> None:
    """But for the first, from which the others are sampled."""
    model, here = network(), pair()
    orders = []
    for count, seed in ((len(here.source), 1), (len(here.target), 2)):
        order = torch.randperm(count - 1, generator=torch.Generator().manual_seed(seed)) + 1
        orders.append(torch.cat([torch.tensor([0]), order]))
    found, expected = seen(model, rearranged(here, *orders))[0], seen(model, here)[0]
    back = found.matches._replace(source=orders[0][found.matches.source], target=orders[1][found.matches.target])
    points = [each[order.argsort()] for each, order in zip(found.points, orders, strict=True)]
    assert_same(Seen(found.nodes, (points[0], points[1]), back), expected, 1e-5)


HARD = {
    "50 points": (random(50, 3), random(50, 3, seed=1)),
    "one point": (random(1, 3), random(50, 3, seed=1)),
    "two single points": (random(1, 3), random(1, 3, seed=1)),
    "five points": (random(5, 3), random(300, 3, seed=1)),
    "duplicates": (random(40, 3).repeat(5, 1), random(40, 3).repeat(5, 1)),
    "coincident": (torch.full((200, 3), 0.25), random(200, 3)),
    "collinear": (torch.arange(200.0)[:, None] * torch.tensor([0.01, 0, 0]), random(200, 3)),
    "lattice": (torch.cartesian_prod(*[torch.arange(6.0)] * 3) / 8, torch.cartesian_prod(*[torch.arange(6.0)] * 3) / 8),
    "far": (random(200, 3) + 1000, random(200, 3)),
    "large": (random(200, 3) * 1000, random(200, 3)),
}


@pytest.mark.parametrize("normals", ["random", "zero"])
@pytest.mark.parametrize("name", HARD)
def test_hard_clouds(name: str, normals: str) -> None:
    source, target = (cloud.float() for cloud in HARD[name])
    up = [
        normalize(random(len(cloud), 3, seed=5).float() - 0.5, dim=1) * (normals == "random")
        for cloud in (source, target)
    ]
    batch = PairBatch.build([CloudPair(source, up[0], target, up[1])], SMALL)
    model = network()
    output = model(batch)
    assert all(part.isfinite().all() for part in output)
    torch.testing.assert_close(output.node_features.norm(dim=1), torch.ones(len(batch.nodes)))
    (matches,) = model.match(batch, output)
    for rows, cloud in ((matches.source, source), (matches.target, target)):
        assert ((rows >= 0) & (rows < len(cloud))).all()
    assert ((matches.confidence > model.config.threshold) & (matches.confidence <= 1)).all()
    (output.node_features.sum() + output.point_features.square().sum()).backward()
    assert all(each.grad is None or each.grad.isfinite().all() for each in model.parameters())


def test_empty_patches_match_nothing() -> None:
    """Superpoints at one place: the first takes all points."""
    source = torch.cat([torch.full((155, 3), 0.25), random(5, 3).float()])
    up = torch.tensor([0.0, 0, 1]).expand(160, 3)
    model = network()
    batch = PairBatch.build([CloudPair(source, up, source, up)], SMALL)
    patches = batch.patches(0, "source")
    assert 0 < int(patches.node_mask.sum()) < len(patches.nodes)
    (matches,) = model.match(batch)
    assert patches.node_mask[matches.nodes.source].all()
    assert batch.patches(0, "target").node_mask[matches.nodes.target].all()
    found = patches.index[matches.nodes.source[matches.patch]]
    assert (found == matches.source[:, None]).any(1).all()


def test_gradients_reach_every_parameter() -> None:
    model = network().train()
    batch = PairBatch.build([pair(), pair(seed=1)], SMALL)
    output = model(batch)
    nodes = torch.arange(6)
    plan = model.transport(batch, output, 1, nodes, nodes)
    weights = torch.randn(output.node_features.shape, generator=torch.Generator().manual_seed(0))
    ((output.node_features * weights).sum() + plan[plan > -1e5].square().mean()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any() or name.endswith("bias"), name


def test_inference_equals_training() -> None:
    model = network()
    batch = PairBatch.build([pair()], SMALL)
    with torch.no_grad():
        expected = model(batch)
    found = model.train()(batch)
    assert all(torch.equal(one.detach(), other) for one, other in zip(found, expected, strict=True))
    lean = PairBatch.build([pair()], SMALL, inverse=False)
    with torch.no_grad():
        assert all(torch.equal(one, other) for one, other in zip(model(lean), expected, strict=True))


def test_plans_are_exact_under_autocast() -> None:
    model, batch = network(), PairBatch.build([pair()], SMALL)
    nodes = torch.arange(6)
    with torch.no_grad():
        output = model(batch)
        expected = model.transport(batch, output, 0, nodes, nodes)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model.transport(batch, output, 0, nodes, nodes)
            assert torch.equal(found, expected)
            # Descriptors of half precision are half precision no further.
            half = model(batch)
            assert half.point_features.dtype == torch.bfloat16
            assert model.transport(batch, half, 0, nodes, nodes).dtype == torch.float32


def test_matches_obey_the_configuration() -> None:
    batch = PairBatch.build([pair()], SMALL)
    model = network()
    (plain,) = model.match(batch)
    assert len(plain.nodes.target) == SMALL.patch_pairs
    model.config = replace(SMALL, threshold=0.1)
    (sure,) = model.match(batch)
    assert 0 < len(sure.source) < len(plain.source)
    assert sorted(sure.confidence.tolist()) == sorted(plain.confidence[plain.confidence > 0.1].tolist())
    model.config = replace(SMALL, top_k=1, node_matching="adaptive", node_distance=3.0)
    (adaptive,) = model.match(batch)
    lengths = [int(batch.patches(0, side).node_mask.sum()) for side in ("source", "target")]  # type: ignore[arg-type]
    assert len(adaptive.nodes.target) == lengths[0] * lengths[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source_normals": torch.zeros(5, 3)}, r"source_normals: expected shape \(400, 3\), got \(5, 3\)"),
        ({"target": torch.zeros(0, 3), "target_normals": torch.zeros(0, 3)}, "target: expected at least one point"),
        ({"transform": torch.eye(3)}, r"transform: expected shape \(4, 4\), got \(3, 3\)"),
        ({"flow": torch.zeros(3, 3)}, r"flow: expected shape \(400, 3\), got \(3, 3\)"),
    ],
)
def test_pairs_that_do_not_fit(changes: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(pair(), **changes)  # type: ignore[arg-type]


def test_a_batch_wants_a_pair() -> None:
    with pytest.raises(ValueError, match="pairs: expected at least one, got none"):
        PairBatch.build([], SMALL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strides": (1, 4)}, "strides: expected one number for each of two or more levels, got 2 for 4 widths"),
        ({"neighbors": (8, 16, 16, 0)}, "neighbors: expected integers of at least 1"),
        ({"blocks": (0.5, 1, 1, 1)}, "blocks: expected integers of at least 0"),
        ({"heads": 3}, "heads: expected a divisor of the widths"),
        ({"pair_features": "fpfh"}, "pair_features: expected"),
        ({"node_matching": "best"}, "node_matching: expected"),
    ],
)
def test_configurations_that_do_not_fit(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RoITrConfig(**changes)  # type: ignore[arg-type]


def test_configurations_as_text() -> None:
    for config in (*PUBLISHED.values(), SMALL, RoITrConfig(voxel=0.04)):
        assert RoITrConfig.from_json(config.to_json()) == config
    with pytest.raises(ValueError, match=r"got also \['depth', 'width'\]"):
        RoITrConfig.from_json('{"width": 3, "depth": 4, "heads": 2}')
    with pytest.raises(ValueError, match="expected JSON"):
        RoITrConfig.from_json("{")
    with pytest.raises(ValueError, match="expected a JSON object, got list"):
        RoITrConfig.from_json("[]")
