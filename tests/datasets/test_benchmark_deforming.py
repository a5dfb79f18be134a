"""4DMatch as a benchmark: one file per pair, in any of the folders it is kept in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmark_cases import pose

from rotaware.datasets.benchmarks import open_benchmark
from rotaware.datasets.fourdmatch import DeformingPair, FourDMatch

FILES = ("bear/cam1_0001_cam2_0009.npz", "bear/cam1_0002_cam2_0010.npz", "fox/cam1_0001_cam1_0030.npz")


def write(folder: Path) -> None:
    for number, name in enumerate(FILES):
        source = np.random.default_rng(number).uniform(size=(20, 3)).astype(np.float32)
        flow = 0.1 * np.sin(5 * source)
        T = pose("hall", 0, number)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            folder / name,
            s_pc=source,
            t_pc=((source + flow) @ T[:3, :3].T + T[:3, 3]).astype(np.float32),
            rot=T[:3, :3],
            trans=T[:3, 3:],
            s2t_flow=flow,
            correspondences=np.column_stack([np.arange(20), np.arange(20)]),
            metric_index=np.arange(5)[None],
        )


@pytest.mark.parametrize("below", ["4DMatch", "split/4DMatch"])
def test_both_lists(tmp_path: Path, below: str) -> None:
    write(tmp_path / below)
    write((tmp_path / below).with_name("4DLoMatch"))
    for root, asked, name in (
        (tmp_path, "4dmatch", "4DMatch"),
        (tmp_path, "4DLoMatch", "4DLoMatch"),
        (tmp_path / below, None, "4DMatch"),
    ):
        benchmark = open_benchmark(root, asked)
        assert (benchmark.name, benchmark.scenes) == (name, ("bear", "fox"))
        assert [pair.name for pair in benchmark.pairs] == ["bear_0_0", "bear_1_1", "fox_2_2"]
        expected = FourDMatch(benchmark.root)
        for number, pair in enumerate(benchmark.pairs):
            loaded = pair.load()
            assert pair.deforming and isinstance(loaded, DeformingPair) and pair.T_target_source is not None
            np.testing.assert_array_equal(loaded.source, expected[number].source)
            R, t = pair.T_target_source[:3, :3], pair.T_target_source[:3, 3]
            np.testing.assert_allclose((loaded.source + loaded.flow) @ R.T + t, loaded.target, atol=1e-5)


def test_a_damaged_file_leaves_the_others(tmp_path: Path) -> None:
    write(tmp_path / "4DMatch")
    path = tmp_path / "4DMatch" / FILES[1]
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"", content[:-30]):
        path.write_bytes(damaged)
        pairs = open_benchmark(tmp_path).pairs
        pairs[0].load(), pairs[2].load()
        with pytest.raises(ValueError, match=r"bear/cam1_0002_cam2_0010\.npz: "):
            pairs[1].load()


def test_a_folder_without_files(tmp_path: Path) -> None:
    (tmp_path / "4DMatch").mkdir()
    with pytest.raises(FileNotFoundError, match=r"4DMatch: expected \.npz files of 4DMatch, found none"):
        open_benchmark(tmp_path)
