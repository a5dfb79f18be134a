"""Generated rooms on disk: decided by their seeds, whole or not there, and no different for an interruption."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from rotaware.datasets import DepthCamera, ThreeDMatch, indoor_rooms, write_indoor_rooms
from rotaware.datasets.indoor_rooms import overlaps_among, room_fragments, write_pair_list, write_room
from rotaware.datasets.indoor_scenes import OVERLAP_DISTANCE, Fragment

TINY: dict[str, Any] = {"camera": DepthCamera().scaled(0.75), "frames": 2}
SEEDS = (100_006, 100_007)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rooms of three scans each."""
    folder = tmp_path_factory.mktemp("rooms")
    write_indoor_rooms(folder, SEEDS, 3, **TINY)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def listed(root: Path) -> dict[str, list[Any]]:
    return pickle.loads((root / "pairs.pkl").read_bytes())  # type: ignore[no-any-return]


def test_scans_are_decided_by_the_seed() -> None:
    one, again, other = (room_fragments(seed, 2, **TINY) for seed in (SEEDS[1], SEEDS[1], SEEDS[1] + 1))
    assert len(one) == 2
    for a, b in zip(one, again, strict=True):
        np.testing.assert_array_equal(a.points, b.points)
        np.testing.assert_array_equal(a.T_world_camera, b.T_world_camera)
    assert not np.array_equal(one[0].T_world_camera, other[0].T_world_camera)
    assert one[0].points.dtype == np.float32
    # More scans are more of the same.
    np.testing.assert_array_equal(room_fragments(SEEDS[1], 1, **TINY)[0].points, one[0].points)


def test_overlaps_by_brute_force() -> None:
    generator = np.random.default_rng(0)
    fragments = []
    for k in range(3):
        T = np.eye(4)
        T[:3, 3] = [0.3 * k, 0.1, 0]
        points = generator.uniform(size=(1600, 3)).astype(np.float32) * [1, 1, 0.1]
        fragments.append(Fragment(points.astype(np.float32), T, str(k)))
    found = overlaps_among(fragments)
    for i, one in enumerate(fragments):
        for j, other in enumerate(fragments):
            world = [each.points + each.T_world_camera[:3, 3] for each in (one, other)]
            gap = np.linalg.norm(world[0][::8, None] - world[1][None], axis=2).min(1)
            assert found[i, j] == pytest.approx(np.mean(gap < OVERLAP_DISTANCE), abs=1e-6)
    assert 0.3 < found[0, 1] < 0.9


def test_what_is_on_disk(root: Path) -> None:
    names = sorted(contents(root))
    scans = [f"room{seed}/cloud_bin_{k}.pth" for seed in SEEDS for k in range(3)]
    assert names == sorted([*scans, *(f"room{seed}/pairs.json" for seed in SEEDS), "pairs.pkl"])
    for seed in SEEDS:
        for k, fragment in enumerate(room_fragments(seed, 3, **TINY)):
            stored = torch.load(root / f"room{seed}/cloud_bin_{k}.pth", weights_only=False)
            np.testing.assert_array_equal(stored, fragment.points)
        records = json.loads((root / f"room{seed}/pairs.json").read_text())
        assert [(each["source"], each["target"]) for each in records] == [(1, 0), (2, 0), (2, 1)]


def test_poses_lay_the_source_onto_the_target(root: Path) -> None:
    pairs = ThreeDMatch(root, "pairs.pkl")
    assert len(pairs) == len(listed(root)["src"]) >= 2
    for pair in (pairs[index] for index in range(len(pairs))):
        assert pair.T_target_source is not None
        moved = pair.source @ pair.T_target_source[:3, :3].T + pair.T_target_source[:3, 3]
        gap, _ = cKDTree(pair.target).query(moved)
        # The list holds an estimate on every eighth point.
        assert np.mean(gap < OVERLAP_DISTANCE) == pytest.approx(pair.overlap, abs=0.06)
        assert pair.overlap > 0.1


def test_resuming_gives_the_same_files(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan, calls = indoor_rooms.scan, []

    def until_the_power_fails(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return scan(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(indoor_rooms, "scan", until_the_power_fails)
        with pytest.raises(KeyboardInterrupt):
            write_indoor_rooms(tmp_path, SEEDS, 3, **TINY)
    assert [path.name for path in tmp_path.iterdir()] == [f"room{SEEDS[0]}"]
    before = (tmp_path / f"room{SEEDS[0]}/pairs.json").stat().st_mtime_ns
    seen: list[Path | None] = []
    assert write_indoor_rooms(tmp_path, SEEDS, 3, on_room=seen.append, **TINY) == len(listed(root)["src"])
    assert seen == [tmp_path / f"room{seed}" for seed in SEEDS]
    assert (tmp_path / f"room{SEEDS[0]}/pairs.json").stat().st_mtime_ns == before
    assert contents(tmp_path) == contents(root)


def test_nothing_is_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, calls = torch.save, []

    def until_the_disk_is_full(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError("no space left on device")
        save(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", until_the_disk_is_full)
        with pytest.raises(OSError, match="no space left"):
            write_room(tmp_path, SEEDS[1], 2, **TINY)
    assert list(tmp_path.iterdir()) == []
    # What a killed process leaves is no room, and in nobody's way.
    (tmp_path / f".room{SEEDS[1]}.1").mkdir()
    (tmp_path / f".room{SEEDS[1]}.1" / "pairs.json").write_text("[")
    with pytest.raises(FileNotFoundError, match=r"expected folders room<seed> with pairs\.json, found none"):
        write_pair_list(tmp_path)
    assert write_room(tmp_path, SEEDS[1], 2, **TINY) == tmp_path / f"room{SEEDS[1]}"
    assert write_pair_list(tmp_path) == 1


def test_a_list_that_cannot_be_written_leaves_the_old_one(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_room(tmp_path, SEEDS[1], 2, **TINY)
    assert write_pair_list(tmp_path) == 1
    before = (tmp_path / "pairs.pkl").read_bytes()

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space left"):
        write_pair_list(tmp_path, least_overlap=0.9)
    assert (tmp_path / "pairs.pkl").read_bytes() == before


def test_a_room_without_a_good_view_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(*_: object) -> None:
        raise RuntimeError("no camera position")

    monkeypatch.setattr(indoor_rooms, "first_pose", nowhere)
    assert write_room(tmp_path, SEEDS[1], 2, **TINY) is None
    assert list(tmp_path.iterdir()) == []


def test_the_list_takes_pairs_above_the_least_overlap(root: Path, tmp_path: Path) -> None:
    everything = [record for seed in SEEDS for record in json.loads((root / f"room{seed}/pairs.json").read_text())]
    for seed in SEEDS:
        (tmp_path / f"room{seed}").mkdir()
        (tmp_path / f"room{seed}/pairs.json").write_text((root / f"room{seed}/pairs.json").read_text())
    middle = sorted(record["overlap"] for record in everything)[2]
    assert write_pair_list(tmp_path, least_overlap=middle) == 3
    assert min(listed(tmp_path)["overlap"]) > middle


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((-1,), {}, "room_seed: expected"),
        ((0, 0), {}, "count: expected a positive integer, got 0"),
        ((0, 1.5), {}, "count: expected a positive integer, got 1.5"),
        ((0,), {"frames": 0}, "frames: expected"),
        ((0,), {"voxel": 0.0}, "voxel: expected"),
    ],
)
def test_what_does_not_fit(arguments: tuple[Any, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        room_fragments(*arguments, **options)
