"""The network as an engine of `register`: what it proposes, and that evidence decides."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from rotaware.datasets import RegistrationPair, indoor_pair
from rotaware.pointcloud import InputError, RoITr, RoITrConfig, UnreadableFileError, register
from rotaware.pointcloud.canonical import apply, automatic_voxel, canonical_frame
from rotaware.pointcloud.learned import BUNDLED, bundled_roitr, learned_matches
from rotaware.pointcloud.view import View, view_of

# A checkpoint that comes with a package must stay small.
MOST_BYTES = 12 * 2**20


@pytest.fixture(scope="module")
def pair() -> RegistrationPair:
    return indoor_pair(2, overlap=(0.4, 0.7))


def views(pair: RegistrationPair, turn: np.ndarray) -> tuple[View, View, np.ndarray]:
    """Views of both scans, the source turned first, and the true pose between the views in voxels."""
    clouds = [pair.source.astype(np.float64) @ turn.T, pair.target.astype(np.float64)]
    frames = [canonical_frame(cloud) for cloud in clouds]
    inside = [apply(frame, cloud) for frame, cloud in zip(frames, clouds, strict=True)]
    voxel = max(automatic_voxel([cloud], 4000) for cloud in inside)
    back = np.eye(4)
    back[:3, :3] = turn.T
    truth = frames[1] @ pair.T_target_source @ back @ np.linalg.inv(frames[0])
    truth[:3, 3] /= voxel
    found = [view_of(cloud, voxel, frame[:3, 3]) for cloud, frame in zip(inside, frames, strict=True)]
    return found[0], found[1], truth


def test_the_bundled_checkpoint_is_small_and_described() -> None:
    assert sum(file.stat().st_size for file in BUNDLED.iterdir()) < MOST_BYTES
    network = bundled_roitr()
    assert network is bundled_roitr()
    assert network.config.voxel is not None
    # Mirror images differ to it.
    assert network.config.pair_features == "signed_ppf"
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("seed", [0, 1])
def test_many_matches_are_right_in_any_pose(pair: RegistrationPair, seed: int) -> None:
    source, target, truth = views(pair, Rotation.random(random_state=seed).as_matrix())
    rows, partners, confidence = learned_matches(source, target, bundled_roitr())
    gap = np.linalg.norm(apply(truth, source.points[rows]) - target.points[partners], axis=1)
    # By chance one in some hundreds would be within 2.5 voxels.
    assert (gap < 2.5).mean() > 0.1
    assert ((confidence > 0) & (confidence <= 1)).all()
    assert len(set(zip(rows.tolist(), partners.tolist(), strict=True))) == len(rows)


def test_threads_change_nothing(pair: RegistrationPair) -> None:
    source, target, _ = views(pair, np.eye(3))
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(learned_matches(source, target, bundled_roitr()))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for first, second in zip(*found, strict=True):
        np.testing.assert_array_equal(first, second)


def test_the_network_alone_registers(pair: RegistrationPair) -> None:
    found = register(pair.source, pair.target, method="roitr")
    assert found.engine == "roitr"
    assert found.parameters["network"] is None
    error = np.linalg.inv(pair.T_target_source) @ found.T_target_source
    assert np.degrees(Rotation.from_matrix(error[:3, :3]).magnitude()) < 5.0
    assert np.linalg.norm(error[:3, 3]) < 0.15


def test_a_network_that_knows_nothing_does_no_harm(pair: RegistrationPair) -> None:
    """Its poses lose against those of the other engine; it cannot agree with them, so the verdict is more careful."""
    torch.manual_seed(0)
    config = RoITrConfig(widths=(16, 16, 32, 32), strides=(1, 4, 4, 2), point_channels=16, patch_pairs=64, voxel=0.04)
    found = register(pair.source, pair.target, network=RoITr(config))
    assert found.confidence < register(pair.source, pair.target).confidence
    error = np.linalg.inv(pair.T_target_source) @ found.T_target_source
    assert np.degrees(Rotation.from_matrix(error[:3, :3]).magnitude()) < 5.0


def test_a_network_for_metres_is_refused(tmp_path: Path, pair: RegistrationPair) -> None:
    config = RoITrConfig(widths=(8, 8), strides=(1, 4), neighbors=(4, 4), blocks=(0, 0), point_channels=8)
    with pytest.raises(InputError, match=r"network: expected one trained with the voxel as its unit"):
        register(pair.source, pair.target, network=RoITr(config))
    RoITr(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"config\.voxel"):
        register(pair.source, pair.target, network=tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path, pair: RegistrationPair) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere.config\.json: no such file"):
        register(pair.source, pair.target, network=tmp_path / "nowhere")


@pytest.mark.parametrize("damaged", ["config.json", "model.safetensors"])
def test_a_damaged_folder_is_named(tmp_path: Path, pair: RegistrationPair, damaged: str) -> None:
    bundled_roitr().save_pretrained(tmp_path)
    (tmp_path / damaged).write_bytes((tmp_path / damaged).read_bytes()[:100])
    with pytest.raises(UnreadableFileError, match=rf"network .*{re.escape(damaged)}: expected"):
        register(pair.source, pair.target, network=tmp_path)
