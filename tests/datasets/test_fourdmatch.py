"""The files of 4DMatch: what is read, how rows fit together, and files that are damaged or mean harm."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from rotaware.datasets.fourdmatch import FourDMatch

ROTATION = Rotation.from_euler("xyz", [0.3, -0.2, 1.1]).as_matrix()


def arrays(seed: int = 0, count: int = 60) -> dict[str, np.ndarray]:
    """A cloud, what became of it, and rows that belong together."""
    generator = np.random.default_rng(seed)
    source = generator.uniform(size=(count, 3)).astype(np.float32)
    flow = (0.1 * np.sin(5 * source)).astype(np.float32)
    trans = generator.uniform(size=(3, 1))
    order = generator.permutation(count)[: count // 2]
    target = ((source + flow) @ ROTATION.T + trans[:, 0])[order].astype(np.float32)
    return {
        "s_pc": source,
        "t_pc": target,
        "rot": ROTATION + generator.uniform(-1e-4, 1e-4, (3, 3)),
        "trans": trans,
        "s2t_flow": flow,
        "correspondences": np.column_stack([order, np.arange(len(order))]),
        "metric_index": generator.permutation(count)[:7][None],
    }


def write(root: Path, name: str = "bear/cam1_0001_cam2_0009.npz", *, packed: bool = True, **changes: Any) -> Path:
    """A file with some arrays changed, or left out where None."""
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {key: value for key, value in {**arrays(), **changes}.items() if value is not None}
    (np.savez_compressed if packed else np.savez)(file, **content)
    return file


def test_a_pair(tmp_path: Path) -> None:
    write(tmp_path)
    pair, given = FourDMatch(tmp_path)[0], arrays()
    np.testing.assert_array_equal(pair.source, given["s_pc"])
    np.testing.assert_array_equal(pair.target, given["t_pc"])
    np.testing.assert_array_equal(pair.flow, given["s2t_flow"])
    np.testing.assert_array_equal(pair.correspondences, given["correspondences"])
    assert pair.metric_index is not None
    np.testing.assert_array_equal(pair.metric_index, given["metric_index"][0])
    assert pair.name == "bear/cam1_0001_cam2_0009"
    assert {pair.source.dtype, pair.target.dtype, pair.flow.dtype} == {np.dtype("f4")}
    R = pair.T_target_source[:3, :3]
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-14)
    np.testing.assert_allclose(R, ROTATION, atol=3e-4)


def test_the_flow_comes_before_the_pose(tmp_path: Path) -> None:
    write(tmp_path, rot=ROTATION)
    pair = FourDMatch(tmp_path)[0]
    T = pair.T_target_source
    moved = (pair.source + pair.flow) @ T[:3, :3].T + T[:3, 3]
    source, target = pair.correspondences.T
    np.testing.assert_allclose(moved[source], pair.target[target], atol=1e-5)
    still = pair.source @ T[:3, :3].T + T[:3, 3]
    assert cKDTree(still).query(pair.target)[0].mean() > 0.02


def test_pairs_come_in_the_order_of_their_paths(tmp_path: Path) -> None:
    for name in ("b/2.npz", "a-b/1.npz", "b/10.npz", "a/3.npz"):
        write(tmp_path, name)
    pairs = FourDMatch(str(tmp_path))
    names = [pairs[index].name for index in range(len(pairs))]
    assert names == ["a-b/1", "a/3", "b/10", "b/2"]
    assert [pair.name for pair in pairs] == names
    assert pairs[-1].name == "b/2"
    for index in (4, -5):
        with pytest.raises(IndexError, match=rf"index: expected a value in \[-4, 4\), got {index}"):
            pairs[index]


def test_overlap_counts_a_source_point_once(tmp_path: Path) -> None:
    for rows, expected in (([[0, 1], [0, 2], [7, 3]], 2 / 60), ([], 0.0), (arrays()["correspondences"], 0.5)):
        write(tmp_path, correspondences=np.array(rows, np.int32).reshape(-1, 2))
        pair = FourDMatch(tmp_path)[0]
        assert pair.overlap == pytest.approx(expected)
        assert pair.correspondences.dtype == np.int64


def test_the_training_set_has_no_points_to_judge_by(tmp_path: Path) -> None:
    write(tmp_path, metric_index=None, trans=arrays()["trans"][:, 0])
    pair = FourDMatch(tmp_path)[0]
    assert pair.metric_index is None
    np.testing.assert_array_equal(pair.T_target_source[:3, 3], arrays()["trans"][:, 0])


@pytest.mark.parametrize("name", ["s_pc", "t_pc", "rot", "trans", "s2t_flow", "correspondences"])
def test_missing_arrays_are_named(tmp_path: Path, name: str) -> None:
    file = write(tmp_path, **{name: None})
    with pytest.raises(ValueError, match=rf"{re.escape(str(file))}: .*expected the arrays .*; {name} missing"):
        FourDMatch(tmp_path)[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"s2t_flow": np.zeros((59, 3))}, "s2t_flow: expected a row for each of the 60 of s_pc, got 59"),
        ({"t_pc": np.zeros((5, 2))}, r"t_pc: expected finite numbers of shape \(N, 3\), got float64 \(5, 2\)"),
        ({"s_pc": np.zeros((60, 3), int)}, "s_pc: expected .* got int64"),
        ({"s_pc": np.full((60, 3), np.nan)}, "s_pc: expected finite numbers"),
        ({"rot": np.eye(4)}, r"rot, trans: expected a finite 3x3 rotation .* got \(4, 4\)"),
        ({"correspondences": np.zeros((3, 3), int)}, r"correspondences: expected shape \(C, 2\), got \(3, 3\)"),
        ({"correspondences": np.array([[0, 30]])}, "correspondences: expected rows of a cloud of 30 points"),
        ({"correspondences": np.array([[-1, 0]])}, "correspondences: expected rows of a cloud of 60 points"),
        ({"correspondences": np.array([[0.5, 0.0]])}, "correspondences: expected rows of a cloud of 60 points"),
        ({"metric_index": np.array([60])}, "metric_index: expected rows of a cloud of 60 points"),
        ({"metric_index": np.array(["a"])}, "metric_index: expected rows"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    file = write(tmp_path, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        FourDMatch(tmp_path)[0]
    assert str(caught.value).startswith(f"{file}: ")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("packed", [False, True])
def test_files_cut_short_are_named(tmp_path: Path, packed: bool, share: float) -> None:
    file = write(tmp_path, packed=packed)
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=re.escape(f"{file}: ")):
        FourDMatch(tmp_path)[0]


def test_the_damaged_array_is_named(tmp_path: Path) -> None:
    file = write(tmp_path)
    with zipfile.ZipFile(file) as archive:
        entry = archive.getinfo("s2t_flow.npy")
    content = bytearray(file.read_bytes())
    content[entry.header_offset + 100 + entry.compress_size // 2] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{file}: s2t_flow: ")):
        FourDMatch(tmp_path)[0]


class Malice:
    """Runs code when it is unpickled without care."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit('code of a file ran')",)


def test_no_code_of_a_file_runs(tmp_path: Path) -> None:
    file = write(tmp_path, s_pc=np.array([Malice()], dtype=object))
    with pytest.raises(ValueError, match=re.escape(f"{file}: s_pc: ")):
        FourDMatch(tmp_path)[0]
    with file.open("wb") as stream:
        np.save(stream, np.array([Malice()], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=re.escape(f"{file}: ")):
        FourDMatch(tmp_path)[0]


def test_what_is_no_archive(tmp_path: Path) -> None:
    with (tmp_path / "a.npz").open("wb") as stream:
        np.save(stream, np.eye(3))
    with pytest.raises(ValueError, match=r"a\.npz: the file: expected named arrays, got one without a name"):
        FourDMatch(tmp_path)[0]


def test_missing_files(tmp_path: Path) -> None:
    file = write(tmp_path / "full")
    pairs = FourDMatch(tmp_path / "full")
    file.unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(f"{file}: no such file")):
        pairs[0]
    for name in ("full", "nowhere"):
        with pytest.raises(FileNotFoundError, match=rf"{name}: expected \.npz files of 4DMatch, found none"):
            FourDMatch(tmp_path / name)
