"""Node overlaps and point labels against their definition, real scans and the published network's own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rotaware.geo import axis_angle_to_matrix, make_transform, transform_points
from rotaware.kernels import farthest_point_sampling
from rotaware.pointcloud.patches import Patches, patches_of
from rotaware.pointcloud.supervision import (
    NodeOverlaps,
    moved,
    moved_patches,
    node_flow,
    node_overlaps,
    point_labels,
    sample_node_pairs,
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pose(seed: int = 0) -> Tensor:
    numbers = random(2, 3, seed=seed) * 4 - 2
    return make_transform(axis_angle_to_matrix(numbers[0]), numbers[1])


def nodes_of(points: Tensor, strides: tuple[int, ...] = (4, 4, 4)) -> Tensor:
    for stride in strides:
        points = points[farthest_point_sampling(points, len(points) // stride)]
    return points


def patches(points: Tensor, count: int, max_points: int = 64) -> Patches:
    return patches_of(points, points[farthest_point_sampling(points, count)], max_points=max_points)


def members(cloud: Patches) -> list[Tensor]:
    return [cloud.points[rows[kept]].double() for rows, kept in zip(cloud.index, cloud.mask, strict=True)]


def naive(target: Patches, source: Patches, transform: Tensor, radius: float) -> dict[tuple[int, int], float]:
    """The definition, pair by pair, without any candidate test."""
    found = {}
    for i, ours in enumerate(members(target)):
        for j, theirs in enumerate(members(source)):
            close = (ours[:, None] - transform_points(transform.double(), theirs)).norm(dim=2) < radius
            if close.any():
                shares = [float(close.any(axis).double().mean()) for axis in (1, 0)]
                found[i, j] = sum(shares) / 2
    return found


def as_dict(overlaps: NodeOverlaps) -> dict[tuple[int, int], float]:
    return {(int(i), int(j)): float(share) for i, j, share in zip(*overlaps, strict=True)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("sizes", "counts", "max_points", "radius"),
    [
        ((300, 250), (12, 9), 64, 0.1),
        ((400, 400), (8, 20), 8, 0.05),
        ((40, 30), (40, 1), 1, 0.6),
        ((1, 5), (1, 2), 4, 1.5),
    ],
)
def test_overlaps_are_the_naive_ones(
    sizes: tuple[int, int], counts: tuple[int, int], max_points: int, radius: float, dtype: torch.dtype
) -> None:
    truth = pose(3)
    target = patches(random(sizes[0], 3, seed=1).to(dtype), counts[0], max_points)
    elsewhere = transform_points(torch.linalg.inv(truth), random(sizes[1], 3, seed=2) + 0.2).to(dtype)
    source = patches(elsewhere, counts[1], max_points)
    found = node_overlaps(target, source, truth, radius=radius)
    expected = naive(target, source, truth, radius)
    assert expected
    assert as_dict(found) == pytest.approx(expected, abs=1e-6)
    assert list(as_dict(found)) == sorted(expected)
    assert (found.target.dtype, found.overlap.dtype) == (torch.int64, torch.float32)


def test_the_other_way_round_the_pairs_are_the_same() -> None:
    target, source = patches(random(300, 3, seed=1), 10), patches(random(300, 3, seed=2), 12)
    there = as_dict(node_overlaps(target, source, pose(), radius=0.1))
    back = as_dict(node_overlaps(source, target, torch.linalg.inv(pose()), radius=0.1))
    assert {(j, i): share for (i, j), share in back.items()} == pytest.approx(there)


def test_a_cloud_covers_itself_and_a_distant_one_nothing() -> None:
    cloud = patches(random(200, 3), 10)
    dense = node_overlaps(cloud, cloud, torch.eye(4)).matrix(10, 10)
    assert torch.equal(dense.diagonal(), torch.ones(10))
    away = make_transform(torch.eye(3), torch.tensor([5.0, 0, 0]))
    found = node_overlaps(cloud, cloud, away)
    assert [len(part) for part in found] == [0, 0, 0]
    assert not found.matrix(10, 10).any()


def test_a_point_at_the_radius_is_not_covered() -> None:
    here, there = torch.zeros(1, 3), torch.tensor([[0.5, 0, 0]])
    target, source = patches_of(here, here), patches_of(there, there)
    assert len(node_overlaps(target, source, torch.eye(4), radius=0.5).overlap) == 0
    assert node_overlaps(target, source, torch.eye(4), radius=0.5000001).overlap.tolist() == [1.0]


def test_empty_patches_overlap_with_nothing() -> None:
    points = random(50, 3)
    # Of two nodes at one place the first takes all points; a far one gets none.
    nodes = torch.cat([points[:1], points[:1], points[:1] + 100, points[5:6]])
    cloud = patches_of(points, nodes)
    assert cloud.node_mask.tolist() == [True, False, False, True]
    found = as_dict(node_overlaps(cloud, cloud, torch.eye(4), radius=0.1))
    assert {index for pair in found for index in pair} == {0, 3}
    none = patches_of(points, points[:0])
    assert len(node_overlaps(none, cloud, torch.eye(4)).overlap) == 0
    assert len(node_overlaps(cloud, none, torch.eye(4)).overlap) == 0


def test_duplicate_points_count_each() -> None:
    target = patches_of(torch.tensor([[0.0, 0, 0], [0, 0, 0], [0, 0, 0], [1, 0, 0]]), torch.zeros(1, 3))
    source = patches_of(torch.zeros(1, 3), torch.zeros(1, 3))
    assert node_overlaps(target, source, torch.eye(4)).overlap.tolist() == [0.875]
    same = patches_of(torch.zeros(100, 3), torch.zeros(3, 3))
    assert as_dict(node_overlaps(same, same, torch.eye(4))) == {(0, 0): 1.0}


def test_a_rigid_flow_is_a_transform() -> None:
    target, source, truth = patches(random(300, 3, seed=1), 10), patches(random(280, 3, seed=2), 12), pose(5)
    flow = transform_points(truth, source.points) - source.points
    expected = as_dict(node_overlaps(target, source, pose(6) @ truth, radius=0.1))
    assert as_dict(node_overlaps(target, source, pose(6), radius=0.1, flow=flow)) == pytest.approx(expected)
    shifted = moved_patches(source, pose(6), flow)
    assert torch.equal(shifted.nodes, shifted.points[farthest_point_sampling(source.points, 12)])


def test_patches_of_deformed_points_need_no_flow() -> None:
    target, truth = patches(random(300, 3, seed=1), 10), pose(1)
    points = transform_points(torch.linalg.inv(truth), random(300, 3, seed=2))
    flow = 0.3 * torch.sin(5 * points)
    nodes = points[farthest_point_sampling(points, 12)]
    deformed = patches_of(points + flow, nodes + node_flow(nodes, points, flow))
    found = as_dict(node_overlaps(target, deformed, truth, radius=0.1))
    assert found == pytest.approx(naive(target, deformed, truth, 0.1), abs=1e-6)
    # Another partition than that of the points at rest.
    assert found != as_dict(node_overlaps(target, patches_of(points, nodes), truth, radius=0.1, flow=flow))


def test_points_are_moved_in_full_precision_under_autocast() -> None:
    points, flow = random(50, 3).float() * 10, random(50, 3, seed=1).float()
    expected = (points + flow).double() @ pose()[:3, :3].T + pose()[:3, 3]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = moved(points, pose(), flow)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


def test_patch_points_are_zero_where_there_is_none() -> None:
    cloud = patches_of(torch.ones(3, 3), torch.ones(2, 3), max_points=4)
    assert cloud.patch_points().sum(2).tolist() == [[3, 3, 3, 0], [0, 0, 0, 0]]


def kitchen(folder: Path) -> tuple[Patches, Patches, Tensor]:
    """Fragments 0 and 5, and the pose of the second in the first."""
    clouds = [np.load(folder / f"clouds/7-scenes-redkitchen__cloud_bin_{number}.npy") for number in (0, 5)]
    pairs = json.loads((folder / "pairs.json").read_text())["pairs"]
    truth = next(each for each in pairs if each["name"] == "3DMatch/7-scenes-redkitchen/0_5")
    target, source = (patches_of(points, nodes_of(points)) for points in map(torch.from_numpy, clouds))
    return target, source, torch.tensor(truth["T_target_from_source"], dtype=torch.float64)


def test_kitchen_overlaps_as_the_published_code(shared_data: Path) -> None:
    target, source, truth = kitchen(shared_data / "3dmatch")
    assert (len(target.nodes), len(source.nodes)) == (296, 298)
    found = node_overlaps(target, source, truth)
    assert int((found.overlap > 0.1).sum()) == 428
    # The published code found 543. Two points of the 2 mm lattice, both at the square root of 10 476 mm^2 from node
    # 224, compete for the last of its 64 places. Distances by its float32 products let the later one in, exact ones
    # the earlier, which is 49.98 mm from a point of node 241.
    assert len(found.overlap) == 544
    assert as_dict(found)[224, 241] == 1 / 64
    place = (target.index[224] == 13272).nonzero()[0]
    assert 14075 not in target.index[224]
    other = target.index.clone()
    other[224, place] = 14075
    as_published = as_dict(node_overlaps(target._replace(index=other), source, truth))
    assert set(as_dict(found)) - set(as_published) == {(224, 241)}
    assert len(as_published) == 543
    assert sum(share > 0.1 for share in as_published.values()) == 428


@pytest.mark.parametrize("name", ["rigid", "nonrigid"])
def test_overlaps_are_those_of_the_published_network(shared_data: Path, name: str) -> None:
    path = shared_data.parent / "fixtures" / "roitr" / f"roitr_{name}_a.npz"
    if not path.exists():
        pytest.skip(f"no reference outputs at {path}")
    with np.load(path) as arrays:
        reference = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    target = patches_of(reference["tgt"], reference["tgt_nodes"])
    source = patches_of(reference["src"], reference["src_nodes"])
    found = as_dict(node_overlaps(target, source, make_transform(reference["rot"], reference["trans"])))
    pairs = [(int(i), int(j)) for i, j in reference["gt_node_corr_indices"]]
    assert found == pytest.approx(dict(zip(pairs, reference["gt_node_corr_overlaps"].tolist(), strict=True)), abs=1e-6)


def test_training_pairs_are_a_random_choice_of_the_good_ones() -> None:
    overlaps = NodeOverlaps(torch.arange(300), torch.arange(300).flip(0), torch.linspace(0.05, 1, 300))
    good = {(int(i), int(j)) for i, j, share in zip(*overlaps, strict=True) if share > 0.1}
    draws = [sample_node_pairs(overlaps, count=50, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    chosen = [as_dict(draw) for draw in draws]
    assert all(len(each) == 50 and set(each) <= good for each in chosen)
    assert chosen[0] == chosen[1] != chosen[2]
    assert as_dict(sample_node_pairs(overlaps, count=300)).keys() == good
    assert len(sample_node_pairs(overlaps, least=1.0).target) == 0


def test_point_labels_are_the_naive_ones() -> None:
    target, source = random(4, 9, 3, seed=1), random(4, 7, 3, seed=2)
    target_mask, source_mask = random(4, 9, seed=3) > 0.3, random(4, 7, seed=4) > 0.3
    source_mask[2] = False
    labels = point_labels(target, source, target_mask, source_mask, radius=0.4)
    for p in range(4):
        for i in range(9):
            for j in range(7):
                close = (target[p, i] - source[p, j]).norm() < 0.4
                assert labels.match[p, i, j] == bool(close and target_mask[p, i] and source_mask[p, j])
    assert torch.equal(labels.row_slack, target_mask & (labels.match.sum(2) == 0))
    assert torch.equal(labels.column_slack, source_mask & (labels.match.sum(1) == 0))
    assert labels.match.any()
    assert torch.equal(labels.row_slack[2], target_mask[2])
    assert not labels.column_slack[2].any()


def test_what_does_not_fit_is_named() -> None:
    cloud = patches(random(20, 3), 2)
    with pytest.raises(ValueError, match=r"transform: expected shape \(4, 4\), got \(3, 4\)"):
        node_overlaps(cloud, cloud, torch.eye(4)[:3])
    with pytest.raises(ValueError, match=r"flow: expected shape \(20, 3\), got \(1, 3\)"):
        node_overlaps(cloud, cloud, torch.eye(4), flow=torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"radius: expected a positive distance, got 0"):
        node_overlaps(cloud, cloud, torch.eye(4), radius=0)
    with pytest.raises(ValueError, match=r"points: expected shape \(N, 3\), got \(3,\)"):
        moved(torch.zeros(3), torch.eye(4))
    exists = torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"source_points: expected shape \(1, C, 3\), got \(2, 2, 3\)"):
        point_labels(torch.zeros(1, 2, 3), torch.zeros(2, 2, 3), exists, exists)
    with pytest.raises(ValueError, match=r"source_mask: expected shape \(1, 3\), got \(1, 2\)"):
        point_labels(torch.zeros(1, 2, 3), torch.zeros(1, 3, 3), exists, exists)
    with pytest.raises(TypeError, match=r"target_points: expected a floating point tensor, got torch.int64"):
        point_labels(torch.zeros(1, 2, 3, dtype=torch.int64), torch.zeros(1, 2, 3), exists, exists)
