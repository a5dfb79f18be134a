"""Benchmarks in every layout: poses that map scan to scan, what is known beside them, and what is refused."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark_cases import (
    PAIRS,
    SCENES,
    CreatesFile,
    as_columns,
    as_geotransformer,
    information,
    overlap,
    pose,
    records,
    scan,
    write_clouds,
    write_logs,
    write_ply,
    write_predator,
)

from rotaware.datasets.benchmark_pairs import Benchmark, BenchmarkPair, disjoint_pairs
from rotaware.datasets.benchmarks import open_benchmark
from rotaware.datasets.indoor_rooms import write_indoor_rooms
from rotaware.datasets.indoor_scenes import RegistrationPair

REPOSITORY = [(scene, i, j) for scene in SCENES for i, j in PAIRS]


def read_ply(path: Path) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: none")
    return np.loadtxt(path, skiprows=7)


def require_right(benchmark: Benchmark, *, logs: bool, read: Any = None) -> None:
    """All six pairs, in the order of the list, with poses that map row to row."""
    assert [(pair.scene, pair.target_id, pair.source_id) for pair in benchmark.pairs] == REPOSITORY
    assert benchmark.scenes == SCENES
    assert benchmark.fragments == {scene: 9 if logs else 4 for scene in SCENES}
    for pair, (scene, i, j) in zip(benchmark.pairs, REPOSITORY, strict=True):
        loaded = pair.load(read)
        assert isinstance(loaded, RegistrationPair) and loaded.T_target_source is not None
        np.testing.assert_allclose(loaded.source, scan(scene, j), atol=1e-6)
        R, t = loaded.T_target_source[:3, :3], loaded.T_target_source[:3, 3]
        np.testing.assert_allclose(loaded.source @ R.T + t, loaded.target, atol=1e-5)
        assert pair.overlap == loaded.overlap == overlap(i, j)
        assert loaded.name == pair.name == f"{scene}_{i}_{j}"
        if logs:
            np.testing.assert_array_equal(pair.information, information(i, j))
        else:
            assert pair.information is None


def move_into(root: Path, folders: dict[str, str]) -> None:
    for old, new in folders.items():
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        (root / old).rename(root / new)


@pytest.mark.parametrize(
    "schema", [as_columns, list, as_geotransformer, lambda pairs: as_columns(as_geotransformer(pairs))]
)
def test_both_schemas_of_lists(tmp_path: Path, schema: Callable[[Any], Any]) -> None:
    write_predator(tmp_path, content=schema(records()))
    benchmark = open_benchmark(tmp_path)
    assert (benchmark.name, benchmark.root) == ("3DMatch", tmp_path)
    require_right(benchmark, logs=False)


@pytest.mark.parametrize(
    ("clouds", "listed", "logs"),
    [
        ("test", "3DMatch.pkl", "benchmarks"),
        ("data/test", "metadata/3DMatch.pkl", "metadata/benchmarks"),  # GeoTransformer
        ("data/indoor/test", "configs/indoor/3DMatch.pkl", "configs/benchmarks"),  # OverlapPredator
        ("data/indoor/test", "configs/tdmatch/3DMatch.pkl", "configs/benchmarks"),  # RoITr
        ("test", "3DMatch.pkl", "../benchmarks"),
    ],
)
def test_checkouts_of_the_projects(tmp_path: Path, clouds: str, listed: str, logs: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    write_predator(root)
    move_into(root, {"test": clouds, "3DMatch.pkl": listed} if clouds != "test" else {})
    for scene in SCENES:
        write_logs(root / logs / "3DMatch" / scene, scene)
    require_right(open_benchmark(root, "3dmatch"), logs=True)


@pytest.mark.parametrize("suffix", [".ply", ".pth", ".npy"])
@pytest.mark.parametrize(
    ("clouds", "logs", "name"),
    [
        (".", "{}-evaluation", "3DMatch"),  # 3DMatch
        ("fragments", "gt_result/{}-evaluation", "3DMatch"),  # D3Feat, PointDSC
        (".", "{}", "rooms"),
        ("fragments", "fragments/{}", "fragments"),
        ("test", "benchmarks/3DLoMatch/{}", "3DLoMatch"),
        ("test", "benchmarks/mine/{}", "mine"),
    ],
)
def test_fragments_with_logs(tmp_path: Path, clouds: str, logs: str, name: str, suffix: str) -> None:
    root = tmp_path / "rooms"
    for scene in reversed(SCENES):
        write_clouds(root / clouds, scene, suffix)
        (root / clouds / scene / "cloud_bin_0.info.txt").write_text("from 3DMatch")
        write_logs(root / logs.format(scene), scene)
    read = read_ply if suffix == ".ply" else None
    for asked in (None, name, name.upper()):
        benchmark = open_benchmark(root, asked)
        assert benchmark.name == name
    require_right(benchmark, logs=True, read=read)
    assert benchmark.pairs[0].source.suffix == suffix
    if name in ("rooms", "fragments", "mine"):
        assert open_benchmark(root, "3dlomatch").name == name
    else:
        other = "3DMatch" if name == "3DLoMatch" else "3DLoMatch"
        with pytest.raises(FileNotFoundError, match=f"no benchmark '{other}', found {name}"):
            open_benchmark(root, other)


def test_fragments_in_a_folder_of_the_scene(tmp_path: Path) -> None:
    for scene in SCENES:
        write_clouds(tmp_path, scene, ".npy")
        write_logs(tmp_path / scene, scene)
        (tmp_path / scene / "fragments").mkdir()
        for path in list((tmp_path / scene).glob("*.npy")):
            path.rename(path.parent / "fragments" / path.name)
    require_right(open_benchmark(tmp_path), logs=True)


def test_generated_rooms(tmp_path: Path) -> None:
    write_indoor_rooms(tmp_path, [100005], 3, frames=2)
    benchmark = open_benchmark(tmp_path, "3dmatch")
    assert benchmark.name == "pairs" and benchmark.scenes == ("room100005",)
    loaded = benchmark.pairs[0].load()
    assert isinstance(loaded, RegistrationPair) and len(loaded.source) > 3000


def test_the_file_of_a_list(tmp_path: Path) -> None:
    path = write_predator(tmp_path)
    require_right(open_benchmark(path), logs=False)
    require_right(open_benchmark(tmp_path, "3DMatch.pkl"), logs=False)
    path.rename(tmp_path / "test" / "elsewhere.pkl")
    require_right(open_benchmark(tmp_path, str(tmp_path / "test" / "elsewhere.pkl")), logs=False)


def test_published_logs(shared_data: Path) -> None:
    benchmark = open_benchmark(shared_data / "3dmatch", "3dlomatch")
    assert (benchmark.name, len(benchmark.pairs), len(benchmark.scenes)) == ("3DLoMatch", 1781, 8)
    assert list(benchmark.scenes) == sorted(benchmark.scenes)
    assert benchmark.fragments["sun3d-mit_76_studyroom-76-1studyroom2"] == 66
    assert len({pair.name for pair in benchmark.pairs}) == 1781
    zero = [pair.name for pair in benchmark.pairs if pair.information is not None and not pair.information.any()]
    assert zero == ["sun3d-home_md-home_md_scan9_2012_sep_30_23_25"]


def test_poses_of_published_scans(shared_data: Path, tmp_path: Path) -> None:
    """Three real fragments and their log: the pose brings as much together as was measured."""
    from scipy.spatial import cKDTree

    scene = "7-scenes-redkitchen"
    (tmp_path / scene).symlink_to(shared_data / "3dmatch" / "benchmark" / "3DMatch" / scene)
    (tmp_path / "fragments" / scene).mkdir(parents=True)
    for number in (0, 4, 5, 21):
        cloud = shared_data / "3dmatch" / "clouds" / f"{scene}__cloud_bin_{number}.npy"
        (tmp_path / "fragments" / scene / f"cloud_bin_{number}.npy").symlink_to(cloud)
    pair = next(p for p in open_benchmark(tmp_path).pairs if (p.target_id, p.source_id) == (0, 5))
    loaded = pair.load()
    assert isinstance(loaded, RegistrationPair) and loaded.T_target_source is not None
    R, t = loaded.T_target_source[:3, :3], loaded.T_target_source[:3, 3]
    gap, _ = cKDTree(loaded.target).query(loaded.source @ R.T + t, distance_upper_bound=0.0375)
    assert np.isfinite(gap).mean() == pytest.approx(0.442, abs=0.002)
    assert np.abs(R @ R.T - np.eye(3)).max() < 1e-12 and pair.T_target_source is not None
    assert np.abs(pair.T_target_source[:3, :3] @ R.T - np.eye(3)).max() > 1e-6


# What is refused


def test_what_was_looked_for_and_found_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none: no such folder"):
        open_benchmark(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"no benchmark; looked for lists \*\.pkl in \., metadata"):
        open_benchmark(tmp_path)
    path = write_predator(tmp_path)
    (tmp_path / "train.pkl").write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match="holds several benchmarks: name one of 3DMatch, train"):
        open_benchmark(tmp_path)
    for name in ("3DLoMatch", "KITTI"):
        with pytest.raises(FileNotFoundError, match=f"no benchmark '{name}', found 3DMatch, train"):
            open_benchmark(tmp_path, name)
    for name in ("none.csv", "none.pkl"):
        with pytest.raises(FileNotFoundError, match=rf"{name}: no such list of pairs"):
            open_benchmark(tmp_path, name)


OUTSIDE = [
    "../secret.pth",
    "test/../../secret.pth",
    "/etc/secret.pth",
    "..\\secret.pth",
    "test\\..\\..\\secret.pth",
    "C:\\secret.pth",
    "C:secret.pth",
    "\\\\server\\share\\secret.pth",
    "//server/share/secret.pth",
]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("side", ["src", "tgt"])
@pytest.mark.parametrize("relative", [False, True])
def test_lists_stay_inside_their_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, side: str, relative: bool
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    write_predator(root, content=[*records(), {**records()[0], side: name}])
    np.save(tmp_path / "secret.pth", np.zeros((3, 3)))
    monkeypatch.chdir(root)
    with pytest.raises(ValueError, match=r"3DMatch\.pkl.*: expected a file inside "):
        open_benchmark("." if relative else root)


@pytest.mark.parametrize(
    "name",
    [
        "test\\hall\\cloud_bin_0.pth",
        "./test/kitchen/../hall//cloud_bin_0.pth",
        "test/hall/kitchen/../cloud_bin_0.pth",
    ],
)
def test_other_ways_to_write_a_name_are_understood(tmp_path: Path, name: str) -> None:
    write_predator(tmp_path, content=[{**records()[1], "src": name, "tgt": name}])
    pair = open_benchmark(tmp_path).pairs[0]
    assert pair.source == pair.target == tmp_path / "test" / "hall" / "cloud_bin_0.pth"
    assert (pair.scene, pair.source_id, pair.target_id) == ("hall", 0, 0)


def test_links_of_the_owner_are_followed(tmp_path: Path) -> None:
    write_predator(tmp_path / "disk")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "3DMatch.pkl").symlink_to(tmp_path / "disk" / "3DMatch.pkl")
    (tmp_path / "root" / "test").symlink_to(tmp_path / "disk" / "test")
    require_right(open_benchmark(tmp_path / "root"), logs=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rot": np.diag([1.0, 1, -1])}, "pair 6: expected a rotation, got a reflection"),
        (
            {"rot": 1.05 * np.eye(3)},
            "pair 6: expected a rotation, got a matrix whose columns are off orthonormal by 0.1",
        ),
        ({"trans": [0, 0, np.inf]}, "pair 6: expected a finite 3x3 rotation and 3 numbers"),
        ({"src": 5}, "pair 6: expected the name of a cloud, got 5"),
        ({"tgt": "a\0b"}, "pair 6: expected the name of a cloud"),
        ({"src": ""}, "pair 6: expected the name of a cloud, got ''"),
        ({}, "pairs 0 and 6 are both hall_0_2"),
    ],
)
def test_bad_entries_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write_predator(tmp_path, content=[*records(), {**records()[0], **change}])
    with pytest.raises(ValueError, match=message):
        open_benchmark(tmp_path)


def test_a_list_against_its_log(tmp_path: Path) -> None:
    """The pose of the log is taken; one that is another altogether is refused."""
    write_predator(tmp_path)
    for scene in SCENES:
        write_logs(tmp_path / "benchmarks" / "3DMatch" / scene, scene)
    inexact = [{**record, "rot": record["rot"] + 1e-3} for record in records()]
    write_predator(tmp_path, content=inexact)
    found = open_benchmark(tmp_path).pairs[0].T_target_source
    np.testing.assert_allclose(found, pose("hall", 0, 2), atol=1e-12)
    write_predator(tmp_path, content=[{**record, "rot": record["rot"].T} for record in records()])
    with pytest.raises(ValueError, match=r"pair 0: expected the pose of gt\.log, which maps 2 to 0, got another"):
        open_benchmark(tmp_path)


def test_logs_that_do_not_fit(tmp_path: Path) -> None:
    write_clouds(tmp_path, "hall")
    write_logs(tmp_path / "hall", "hall")
    info = tmp_path / "hall" / "gt.info"
    lines = info.read_text().splitlines(keepends=True)
    info.write_text("".join(lines[:14]))
    with pytest.raises(ValueError, match=r"gt\.info: expected the pairs of gt\.log, got others"):
        open_benchmark(tmp_path)
    info.write_text("".join(lines[:-1]))
    with pytest.raises(ValueError, match=r"gt\.info, block 2: expected a line"):
        open_benchmark(tmp_path)
    info.unlink()
    (tmp_path / "hall" / "gt_overlap.log").unlink()
    pair = open_benchmark(tmp_path).pairs[0]
    assert pair.information is None and pair.overlap is None
    assert np.isnan(pair.load().overlap)


def test_a_missing_scene_is_found_out_when_it_is_read(tmp_path: Path) -> None:
    write_predator(tmp_path)
    for path in (tmp_path / "test" / "kitchen").iterdir():
        path.unlink()
    (tmp_path / "test" / "kitchen").rmdir()
    benchmark = open_benchmark(tmp_path)
    assert len(benchmark.pairs) == 6
    benchmark.pairs[0].load()
    with pytest.raises(FileNotFoundError, match=r"kitchen/cloud_bin_2\.pth: no such cloud"):
        benchmark.pairs[3].load()


def test_other_formats_need_a_reader(tmp_path: Path) -> None:
    for name in ("a.ply", "b.ply"):
        write_ply(tmp_path / name, scan("hall", 0))
    pair = BenchmarkPair("hall", tmp_path / "a.ply", tmp_path / "b.ply", 1, 0, np.eye(4), None)
    with pytest.raises(
        ValueError, match=r"a\.ply: expected an array of points, got a \.ply file, which needs a reader"
    ):
        pair.load()
    assert pair.load(read_ply).source.dtype == np.float64


def test_names_are_fit_for_files() -> None:
    pair = BenchmarkPair("../a b/\u00e9:*", Path("a"), Path("b"), 1, 0, None, 0.0)
    assert pair.name == "_a_b_\u00e9__0_1" and os.sep not in pair.name


def test_scenes_are_names_of_folders() -> None:
    for scene in ("", "..", "a/b", "a\\b"):
        pair = BenchmarkPair(scene, Path("a"), Path("b"), 1, 0, None, 0.0)
        with pytest.raises(ValueError, match="mine, pair 0: expected the name of a folder as scene"):
            Benchmark("mine", Path("."), (pair,))


def test_no_code_of_a_list_runs(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    for content in (
        CreatesFile(trap),
        [*records(), CreatesFile(trap)],
        {**as_columns(records()), "rot": CreatesFile(trap)},
    ):
        write_predator(tmp_path, content=content)
        with pytest.raises(ValueError, match=r"3DMatch\.pkl: expected a pickled list of pairs, got refused _?io\.open"):
            open_benchmark(tmp_path)
    assert not trap.exists()


# Disjoint pairs


def scans_of(scenes: int, scans: int) -> Benchmark:
    pairs = [
        BenchmarkPair(f"s{s}", Path(f"s{s}/{k}.npy"), Path(f"s{s}/0.npy"), k, 0, np.eye(4), 0.5)
        for s in range(scenes)
        for k in range(1, scans)
    ]
    return Benchmark("mine", Path("."), tuple(pairs))


def test_disjoint_pairs_are_of_different_scenes_and_all_different() -> None:
    benchmark = scans_of(3, 4)
    for count in (0, 1, 50, 96):
        pairs = disjoint_pairs(benchmark, count, seed=3)
        assert len({(pair.source, pair.target) for pair in pairs}) == len({pair.name for pair in pairs}) == count
        for pair in pairs:
            assert pair.source.parent != pair.target.parent
            assert pair.T_target_source is None and pair.overlap == 0 and pair.information is None
            assert (f"{pair.source_id}.npy", f"{pair.target_id}.npy") == (pair.source.name, pair.target.name)
            assert pair.scene == f"{pair.target.parent}+{pair.source.parent}"
    Benchmark("disjoint", benchmark.root, pairs)


def test_disjoint_pairs_follow_the_seed_alone() -> None:
    benchmark = scans_of(4, 5)
    shuffled = Benchmark("mine", benchmark.root, benchmark.pairs[::-1])
    names = [pair.name for pair in disjoint_pairs(benchmark, 30, seed=1)]
    assert names == [pair.name for pair in disjoint_pairs(shuffled, 30, seed=1)]
    assert names[:10] == [pair.name for pair in disjoint_pairs(benchmark, 10, seed=1)]
    assert names != [pair.name for pair in disjoint_pairs(benchmark, 30, seed=2)]


def test_too_many_disjoint_pairs_are_refused() -> None:
    for benchmark, possible in ((scans_of(3, 4), 96), (scans_of(1, 9), 0)):
        with pytest.raises(ValueError, match=f"count: expected at most {possible}, the pairs of"):
            disjoint_pairs(benchmark, possible + 1)
    with pytest.raises(ValueError, match="count: expected at most"):
        disjoint_pairs(scans_of(3, 4), -1)
    deforming = BenchmarkPair("bear", Path("a.npz"), Path("a.npz"), 0, 0, np.eye(4), None, deforming=True)
    with pytest.raises(ValueError, match="4DMatch: expected scans that are rigid"):
        disjoint_pairs(Benchmark("4DMatch", Path("."), (deforming,)), 1)


def test_pairs_travel_to_other_processes(tmp_path: Path) -> None:
    write_predator(tmp_path)
    require_right(pickle.loads(pickle.dumps(open_benchmark(tmp_path))), logs=False)
