"""KITTI odometry: which frames are paired, poses in the frame of the scanner, and files that are damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmark_cases import place, scan

from rotaware.datasets.benchmarks import open_benchmark
from rotaware.datasets.indoor_scenes import RegistrationPair
from rotaware.datasets.kitti import frame_pairs, read_calibration, read_poses

# T_camera_velodyne: the axes of a camera, a little turned, and an offset.
CALIBRATION = np.eye(4)
CALIBRATION[:3, :3] = np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]]) @ place("calibration", 0)[:3, :3]
CALIBRATION[:3, 3] = [0.01, -0.07, -0.27]


def drive(frames: int, step: float = 1.3, seed: int = 0) -> np.ndarray:
    """(F, 4, 4) T_world_camera of a car that turns and stops now and then."""
    generator = np.random.default_rng(seed)
    heading = np.cumsum(generator.normal(scale=0.05, size=frames))
    speed = np.where(generator.uniform(size=frames) < 0.1, 0, generator.uniform(0.5 * step, step, frames))
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, 0, 3] = np.cumsum(speed * np.sin(heading))
    poses[:, 2, 3] = np.cumsum(speed * np.cos(heading))
    poses[:, 0, 0] = poses[:, 2, 2] = np.cos(heading)
    poses[:, 0, 2], poses[:, 2, 0] = np.sin(heading), -np.sin(heading)
    return poses


def row(T: np.ndarray) -> str:
    return " ".join(f"{value:.15e}" for value in T[:3].ravel())


def write_sequence(root: Path, name: str, poses: np.ndarray) -> None:
    """Poses and calibration, and the scans of the frames that are paired."""
    (root / "poses").mkdir(parents=True, exist_ok=True)
    (root / "poses" / f"{name}.txt").write_text("".join(row(T) + "\n" for T in poses))
    folder = root / "sequences" / name
    (folder / "velodyne").mkdir(parents=True)
    (folder / "calib.txt").write_text(f"P0: {row(np.eye(4))}\nTr: {row(CALIBRATION)}\n")
    for frame in {frame for pair in frame_pairs(poses, name) for frame in pair}:
        points = np.column_stack([scan(name, 0, poses[frame] @ CALIBRATION), np.full(40, 0.5)])
        points.astype("<f4").tofile(folder / "velodyne" / f"{frame:06d}.bin")


def by_the_released_code(poses: np.ndarray, sequence: int) -> list[tuple[int, int]]:
    """The rule as FCGF words it: over all distances at once, with names of files."""
    places = poses[:, :3, 3]
    far = np.sqrt(((places[None] - places[:, None]) ** 2).sum(-1)) > 10
    names, pairs, now = list(range(len(poses))), [], 0
    while now in names:
        ahead = np.where(far[now][now : now + 100])[0]
        if len(ahead) == 0:
            now += 1
            continue
        then = ahead[0] + now - 1
        pairs.append((sequence, now, int(then)))
        now = int(then) + 1
    return [pair[1:] for pair in pairs if pair != (8, 15, 58)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("step", [0.09, 0.4, 1.3, 8.0])
def test_frames_are_paired_as_in_the_published_tables(seed: int, step: float) -> None:
    poses = drive(700, step, seed)
    pairs = frame_pairs(poses, "09")
    assert pairs == by_the_released_code(poses, 9)
    places = poses[:, :3, 3]
    for source, target in pairs:
        assert (
            np.linalg.norm(places[target] - places[source]) <= 10 < np.linalg.norm(places[target + 1] - places[source])
        )


def test_one_pair_of_sequence_8_is_left_out() -> None:
    poses = np.tile(np.eye(4), (120, 1, 1))
    # Stands still, jumps over 10 m after frame 14 and then after frame 58.
    poses[:, 0, 3] = np.searchsorted([15, 59], np.arange(120), side="right") * 11.0
    assert frame_pairs(poses, "09") == [(0, 14), (15, 58)]
    assert frame_pairs(poses, "08") == [(0, 14)]


@pytest.mark.parametrize("below", ["", "dataset"])
def test_poses_map_scan_to_scan(tmp_path: Path, below: str) -> None:
    drives = {name: drive(60, seed=seed) for seed, name in enumerate(("08", "09", "10"))}
    for name, poses in {"07": drive(60, seed=9), **drives}.items():
        write_sequence(tmp_path / below, name, poses)
    benchmark = open_benchmark(tmp_path, "kitti")
    assert benchmark.name == "KITTI" and benchmark.scenes == ("08", "09", "10")
    assert dict(benchmark.fragments) == {name: 60 for name in drives}
    expected = [(name, *pair) for name, poses in drives.items() for pair in frame_pairs(poses, name)]
    assert [(pair.scene, pair.source_id, pair.target_id) for pair in benchmark.pairs] == expected and len(expected) > 9
    for pair in benchmark.pairs:
        loaded = pair.load()
        assert isinstance(loaded, RegistrationPair) and loaded.T_target_source is not None
        assert loaded.source.shape == (40, 3) and loaded.source.dtype == np.float32 and np.isnan(loaded.overlap)
        R, t = loaded.T_target_source[:3, :3], loaded.T_target_source[:3, 3]
        np.testing.assert_allclose(loaded.source @ R.T + t, loaded.target, atol=1e-4)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    write_sequence(tmp_path, "08", drive(60))
    pair = open_benchmark(tmp_path).pairs[0]
    content = pair.source.read_bytes()
    for size in (100, len(content) - 1):
        pair.source.write_bytes(content[:size])
        with pytest.raises(
            ValueError, match=r"000000\.bin: expected an array of points, got \d+ bytes, which is no whole"
        ):
            pair.load()
    poses, calibration = tmp_path / "poses" / "08.txt", tmp_path / "sequences" / "08" / "calib.txt"
    for path, read, text, message in (
        (poses, read_poses, poses.read_text()[:-5].rsplit(" ", 1)[0], r"08\.txt, line 60: expected 12 numbers, got"),
        (poses, read_poses, "", r"08\.txt: expected lines of 12 numbers, found none"),
        (poses, read_poses, row(np.diag([1.0, 1, 2, 1])), r"08\.txt, line 1: expected a rotation"),
        (poses, read_poses, "\xff", r"08\.txt: expected text"),
        (calibration, read_calibration, "P0: 1", r"calib\.txt: expected a line 'Tr: '"),
        (calibration, read_calibration, "Tr: 1 2", r"calib\.txt, Tr: expected 12 numbers, got '1 2'"),
    ):
        sound = path.read_text()
        path.write_text(text, encoding="latin1")
        with pytest.raises(ValueError, match=message):
            read(path)
        with pytest.raises(ValueError, match=message):
            open_benchmark(tmp_path)
        path.write_text(sound)
    poses.unlink()
    with pytest.raises(FileNotFoundError, match=r"poses: expected 08\.txt, 09\.txt or 10\.txt, found none"):
        open_benchmark(tmp_path)
