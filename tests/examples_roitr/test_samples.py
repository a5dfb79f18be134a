"""What a training sample is: decided by its number alone, and true to its pose under every augmentation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from rotaware.datasets import RegistrationPair, ThreeDMatch
from rotaware.datasets.fourdmatch import DeformingPair
from rotaware.geo import random_rotations, transform_points
from rotaware.pointcloud import RoITrConfig

NOISE = 0.005
AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "uniform": {},
    "published": {"rotations": "published"},
    "cap": {"most_points": 300},
    "crop": {"crop": 0.4},
    "sensor": {"sensor_shift": 0.3},
    "flips": {"flips": 0.2},
    "all": {"rotations": "published", "most_points": 300, "crop": 0.4, "sensor_shift": 0.3, "flips": 0.2},
}


def wavy_scans(seed: int, *, deforming: bool = False) -> RegistrationPair | DeformingPair:
    """Two samplings of one wavy surface in front of the sensor, in frames of their own."""
    generator = np.random.default_rng(seed)
    grid = generator.uniform(-1, 1, (900, 2))
    surface = np.column_stack([grid, 2 + 0.2 * np.sin(3 * grid).sum(1)])
    T = np.eye(4)
    T[:3, :3] = random_rotations((), max_angle=0.5, generator=torch.Generator().manual_seed(seed)).double().numpy()
    T[:3, 3] = generator.uniform(-0.3, 0.3, 3)
    flow = 0.1 * np.sin(surface[:, [1, 2, 0]]) if deforming else np.zeros_like(surface)
    order = generator.permutation(len(surface))
    target = ((surface + flow) @ T[:3, :3].T + T[:3, 3])[order]
    clouds = surface.astype(np.float32), target.astype(np.float32)
    if not deforming:
        return RegistrationPair(*clouds, T, 1.0, "a pair")
    return DeformingPair(*clouds, T, flow.astype(np.float32), np.zeros((0, 2), np.int64), None, 1.0, "a pair")


def samples_of(parts: SimpleNamespace, pairs: list[Any], config: RoITrConfig, **changes: Any) -> Any:
    return parts.samples.Samples(pairs, config, parts.recipe.Options(noise=NOISE, **changes), augmented=True)


def gaps(pair: Any) -> np.ndarray:
    """From each source point, moved by the truth, to the nearest target point."""
    source = pair.source if pair.flow is None else pair.source + pair.flow
    return cKDTree(pair.target.numpy()).query(transform_points(pair.transform, source).numpy())[0]


@pytest.mark.parametrize("changes", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_the_pose_stays_true_in_metres(parts: SimpleNamespace, changes: dict[str, Any]) -> None:
    """Both scans are the same points: moved by the truth, they coincide up to twice the noise, where both are kept."""
    samples = samples_of(parts, [wavy_scans(0)], RoITrConfig(), **changes)
    for number in range(4):
        pair = samples.sample(number)
        assert ("most_points" in changes) == (len(pair.source) <= 300)
        near = gaps(pair) < np.sqrt(3) * NOISE
        kept = 1.0 if not {"most_points", "crop"} & set(changes) else 0.1
        assert near.mean() >= kept
        assert pair.source.isfinite().all() and np.allclose(pair.target_normals.norm(dim=1), 1.0)


def test_the_pose_stays_true_in_voxels(parts: SimpleNamespace) -> None:
    samples = samples_of(parts, [wavy_scans(0)], RoITrConfig(voxel=0.04), occupied=(300, 400), sensor_shift=0.1)
    pair = samples.sample(3)
    assert 200 < len(pair.source) < 600
    # In the unit of the network, in which a voxel measures 0.04.
    assert np.median(gaps(pair)) < 0.04


@pytest.mark.parametrize("changes", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_flow_moves_along(parts: SimpleNamespace, changes: dict[str, Any]) -> None:
    scans = wavy_scans(1, deforming=True)
    samples = samples_of(parts, [scans], RoITrConfig(), **changes)
    for number in range(4):
        pair = samples.sample(number)
        least = 1.0 if not {"most_points", "crop"} & set(changes) else 0.1
        assert (gaps(pair) < np.sqrt(3) * NOISE).mean() >= least
        still = (gaps(replace(pair, flow=None)) < np.sqrt(3) * NOISE).mean()
        assert still < 0.5 * least, "the flow is needed"


def test_flow_needs_the_points_as_they_are(parts: SimpleNamespace) -> None:
    samples = samples_of(parts, [wavy_scans(1, deforming=True)], RoITrConfig(voxel=0.04))
    with pytest.raises(ValueError, match=r"network\.voxel: expected null"):
        samples.sample(0)


def test_normals_face_the_sensor_unless_it_is_mistaken_or_they_are_flipped(parts: SimpleNamespace) -> None:
    def outward(**changes: Any) -> float:
        """Share of the normals that face away from where the sensor was."""
        pair = samples_of(parts, [wavy_scans(2)], RoITrConfig(), rotations="published", **changes).sample(0)
        return float(((pair.source * pair.source_normals).sum(1) > 0).float().mean())

    assert outward() == 0
    assert 0.15 < outward(flips=0.25) < 0.35
    shares = []
    for number in range(6):
        mistaken = [
            samples_of(parts, [wavy_scans(2)], RoITrConfig(), rotations="published", sensor_shift=shift).sample(number)
            for shift in (0.0, 2.0)
        ]
        agree = (mistaken[0].source_normals * mistaken[1].source_normals).sum(1) > 0
        shares.append(float(agree.float().mean()))
    assert any(0 < share < 1 for share in shares)
    # It is one motion for the whole scan: distances stay.
    assert torch.allclose(*(torch.cdist(pair.source[:9], pair.source[:9]) for pair in mistaken), atol=1e-5)


def test_a_sample_depends_on_its_number_and_the_seed_alone(parts: SimpleNamespace) -> None:
    pairs = [wavy_scans(seed) for seed in range(3)]
    samples = samples_of(parts, pairs, RoITrConfig(), **AUGMENTATIONS["all"])
    first = samples.sample(5)
    torch.rand(3), np.random.rand(3), samples.sample(6)
    again = samples_of(parts, pairs, RoITrConfig(), **AUGMENTATIONS["all"]).sample(5)
    assert torch.equal(first.source, again.source) and torch.equal(first.target_normals, again.target_normals)
    other = samples_of(parts, pairs, RoITrConfig(), **AUGMENTATIONS["all"], seed=1).sample(5)
    assert first.source.shape != other.source.shape or not torch.equal(first.source, other.source)


def test_one_augmentation_does_not_disturb_another(parts: SimpleNamespace) -> None:
    """So that an option can be judged on the same samples."""
    plain, flipped = (samples_of(parts, [wavy_scans(0)], RoITrConfig(), flips=share).sample(7) for share in (0.0, 0.5))
    assert torch.equal(plain.source, flipped.source)
    assert torch.equal(plain.source_normals.abs(), flipped.source_normals.abs())
    assert not torch.equal(plain.source_normals, flipped.source_normals)


def test_every_pass_takes_each_pair_once_in_another_order(parts: SimpleNamespace) -> None:
    samples = samples_of(parts, [wavy_scans(0)] * 10, RoITrConfig())
    passes = [[samples.row(number) for number in range(start, start + 10)] for start in (0, 10)]
    assert [sorted(rows) for rows in passes] == [list(range(10))] * 2
    assert passes[0] != passes[1]


@pytest.mark.parametrize("batch, packed, world", [(4, 1, 1), (4, 2, 1), (4, 4, 1), (2, 1, 2), (1, 1, 4), (2, 2, 2)])
def test_any_split_of_a_step_holds_the_same_samples(
    parts: SimpleNamespace, batch: int, packed: int, world: int
) -> None:
    options = parts.recipe.Options(steps=5, batch=batch, packed=packed)
    passes = batch // packed
    ranks = [list(parts.samples.Schedule(options, 2, rank, world)) for rank in range(world)]
    assert {len(each) for each in ranks} == {len(parts.samples.Schedule(options, 2, 0, world))} == {3 * passes}
    for step in range(3):
        numbers = [n for rank in ranks for part in rank[step * passes : (step + 1) * passes] for n in part]
        assert numbers == list(range(4 * (step + 2), 4 * (step + 3)))


def test_what_is_in_a_folder_is_read(parts: SimpleNamespace, rooms: Path, tmp_path: Path) -> None:
    assert len(parts.samples.pairs_below(str(rooms), "pairs.pkl", 0.0)) >= 2
    assert len(parts.samples.pairs_below(str(rooms), "pairs.pkl", 0.99)) == 0
    assert len(parts.samples.pairs_below(str(rooms), "pairs.pkl", 0.0, 0.01)) == 0
    with pytest.raises(FileNotFoundError, match="no such list of pairs"):
        parts.samples.pairs_below(str(tmp_path), "pairs.pkl", 0.0)
    here = wavy_scans(0, deforming=True)
    arrays = {"s_pc": here.source, "t_pc": here.target, "rot": np.eye(3), "trans": np.zeros((3, 1))}
    arrays |= {"s2t_flow": here.flow, "correspondences": np.zeros((0, 2), int)}
    (tmp_path / "sequence").mkdir()
    np.savez(tmp_path / "sequence" / "0.npz", **arrays)
    pairs = parts.samples.pairs_below(str(tmp_path), "pairs.pkl", 0.0)
    minibatch = parts.samples.Samples(pairs, RoITrConfig(), parts.recipe.Options(), augmented=True)[[0]]
    assert minibatch.pairs.flow is not None and minibatch.pairs.names == ("sequence/0",)


def test_samples_of_real_files(parts: SimpleNamespace, rooms: Path) -> None:
    pairs = ThreeDMatch(rooms, "pairs.pkl")
    options = parts.recipe.Options(occupied=(500, 700), validation_pairs=2)
    minibatch = parts.samples.Samples(pairs, RoITrConfig(voxel=0.04), options, augmented=False)[[0, 1]]
    assert minibatch.numbers == [0, 1] and len(minibatch.pairs) == 2
    assert minibatch.pairs.names[0] != minibatch.pairs.names[1]
    assert all(200 < length < 1000 for length in minibatch.pairs.lengths)
