"""Pairs as the network takes them: the same tables in every pose, at every scale, and wherever the scans lie."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from lattice_cases import choices, wavy_sheet
from roitr_cases import SMALL, network, pair, pose, random
from torch import Tensor

from rotaware.geo import transform_points
from rotaware.pointcloud.pairs import CloudPair, PairBatch
from rotaware.pointcloud.preparation import network_pair
from rotaware.pointcloud.roitr_config import RoITrConfig


def tables(pair: CloudPair, config: RoITrConfig = SMALL) -> list[Tensor]:
    """Everything that is chosen by distance, in terms of given rows."""
    batch = PairBatch.build([pair], config)
    return [*choices(batch.pyramid), batch.groups.index, batch.groups.node_of_point]


def same(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def halves() -> tuple[Tensor, Tensor]:
    """Two scans on a lattice that share a part."""
    sheet = wavy_sheet()
    return sheet[:1200], sheet[600:]


def facing(source: Tensor, target: Tensor) -> CloudPair:
    """The clouds with some normals, which no table depends on."""
    up = torch.tensor([0, 0, 1], dtype=source.dtype)
    return CloudPair(source, up.expand_as(source), target, up.expand_as(target))


@pytest.mark.parametrize(("scale", "voxel"), [(1.0, None), (1.0, 0.04), (1000.0, 40.0), (25.0, 1.0)])
def test_a_lattice_has_the_same_tables_in_every_pose_and_unit(scale: float, voxel: float | None) -> None:
    clouds = halves()
    expected = tables(facing(*clouds))
    for seed in range(3):
        moved = [scale * transform_points(pose(2 * seed + side), cloud) for side, cloud in enumerate(clouds)]
        assert same(tables(facing(*(cloud.float() for cloud in moved)), replace(SMALL, voxel=voxel)), expected)


def test_where_scans_lie_does_not_count() -> None:
    scans = [cloud.numpy() for cloud in halves()]
    shifts = [np.eye(4), np.eye(4)]
    shifts[0][:3, 3], shifts[1][:3, 3] = 1e4, [-3e4, 1e4, 2e4]
    here = network_pair(scans[0], scans[1], SMALL, transform=np.eye(4))
    expected = tables(here)
    moved = network_pair(scans[0], scans[1], SMALL, frames=(shifts[0], shifts[1]), transform=np.eye(4))
    torch.testing.assert_close(moved.source_normals, here.source_normals, rtol=0, atol=1e-6)
    torch.testing.assert_close(moved.target_normals, here.target_normals, rtol=0, atol=1e-6)
    there = scans[0] + shifts[0][:3, 3], scans[1] + shifts[1][:3, 3]
    for far in (moved, network_pair(there[0], there[1], SMALL, transform=shifts[1] @ np.linalg.inv(shifts[0]))):
        assert same(tables(far), expected)
        assert far.transform is not None
        common = transform_points(far.transform, far.source)[600:]
        torch.testing.assert_close(common, far.target[:600], rtol=0, atol=1e-9)
        # Single precision has lost the lattice there.
        assert not same(tables(facing(far.source.float(), far.target.float())), expected)


def test_clouds_in_float64_have_the_same_tables_in_every_pose_without_a_lattice() -> None:
    clouds = random(900, 3), random(700, 3, seed=1)
    expected = tables(facing(*clouds))
    for seed in range(3):
        moved = [transform_points(pose(2 * seed + side), cloud) for side, cloud in enumerate(clouds)]
        assert same(tables(facing(*moved)), expected)


def test_the_network_takes_single_precision() -> None:
    given = pair()
    parts = (given.source, given.source_normals, given.target, given.target_normals, given.transform, given.source)
    exact = CloudPair(*(part.double() for part in parts if part is not None))
    single, batch = PairBatch.build([replace(given, flow=given.source)], SMALL), PairBatch.build([exact], SMALL)
    assert batch.transforms is not None and batch.flow is not None
    found = [batch.points, batch.nodes, batch.transforms, batch.flow, *(part.distance for part in batch.geometry)]
    assert {part.dtype for part in found} == {torch.float32}
    with torch.no_grad():
        for one, other in zip(network()(batch), network()(single), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_tolerance_of_a_configuration() -> None:
    assert RoITrConfig(voxel=0.04).tied == pytest.approx(RoITrConfig().tied)
    # What is written down stays, whatever the unit.
    assert RoITrConfig(voxel=40.0, tie_tolerance=1e-6).tied == 1e-6
    assert RoITrConfig.from_json(RoITrConfig(voxel=2.0).to_json()).tied == 1e-4
    for wrong in (-1e-6, float("nan"), "small"):
        with pytest.raises(ValueError, match="tie_tolerance: expected a number of at least 0"):
            RoITrConfig(tie_tolerance=wrong)  # type: ignore[arg-type]
