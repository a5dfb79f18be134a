"""The layout of 3DMatch: both kinds of list, every kind of array, and files that are damaged or mean harm."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rotaware.datasets import ThreeDMatch
from rotaware.datasets.solids import rotation
from rotaware.datasets.threedmatch import NOT_FOR_TRAINING

RECORDS: list[dict[str, Any]] = [
    {
        "src": f"train/kitchen/cloud_bin_{k + 1}.pth",
        "tgt": "train/kitchen/cloud_bin_0.pth",
        "rot": rotation(0.1 * k, 0.2, 0.3),
        "trans": np.array([[1.0], [2.0], [0.5 * k]]),
        "overlap": 0.1 * (k + 1),
    }
    for k in range(3)
]


def cloud(k: int) -> np.ndarray:
    return np.random.default_rng(k).normal(size=(50 + k, 3))


def as_columns(records: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [record[name] for record in records] for name in RECORDS[0]}


def write(root: Path, pairs: Any, protocol: int = 4) -> Path:
    (root / "pairs.pkl").write_bytes(pickle.dumps(pairs, protocol))
    return root / "pairs.pkl"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four clouds, and a list of three pairs."""
    folder = tmp_path / "train" / "kitchen"
    folder.mkdir(parents=True)
    for k in range(4):
        torch.save(cloud(k), folder / f"cloud_bin_{k}.pth")
    write(tmp_path, as_columns(RECORDS))
    return tmp_path


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("records", [False, True])
def test_both_kinds_of_list(root: Path, records: bool, protocol: int) -> None:
    write(root, RECORDS if records else as_columns(RECORDS), protocol)
    pairs = ThreeDMatch(root, "pairs.pkl")
    assert len(pairs) == 3
    for k, record in enumerate(RECORDS):
        pair = pairs[k]
        np.testing.assert_array_equal(pair.source, cloud(k + 1).astype(np.float32))
        np.testing.assert_array_equal(pair.target, cloud(0).astype(np.float32))
        assert pair.source.dtype == np.float32
        assert pair.T_target_source is not None
        np.testing.assert_allclose(pair.T_target_source[:3, :3], record["rot"], atol=1e-12)
        np.testing.assert_array_equal(pair.T_target_source[:3, 3], record["trans"][:, 0])
        assert pair.overlap == record["overlap"]
        assert pair.name == f"train/kitchen/cloud_bin_{k + 1} to train/kitchen/cloud_bin_0"
    assert pairs[-1].name == pairs[2].name
    for index in (3, -4):
        with pytest.raises(IndexError, match=rf"index: expected a value in \[-3, 3\), got {index}"):
            pairs[index]


def test_the_list_may_lie_anywhere(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = write(tmp_path_factory.mktemp("lists"), RECORDS)
    assert len(ThreeDMatch(str(root), str(elsewhere))) == 3


def test_overlap_is_above_the_lowest_and_up_to_the_highest(root: Path) -> None:
    write(root, [{**record, "overlap": 0.25 * (k + 1)} for k, record in enumerate(RECORDS)])
    for bounds, kept in (
        ((0.0, 1.0), [0.25, 0.5, 0.75]),
        ((0.25, 0.75), [0.5, 0.75]),
        ((0.1, 0.3), [0.25]),
        ((0.8, 1), []),
    ):
        assert ThreeDMatch(root, "pairs.pkl", overlap=bounds).overlaps == kept


def test_numbers_may_be_of_numpy(root: Path) -> None:
    write(
        root,
        {
            "src": np.array([record["src"] for record in RECORDS]),
            "tgt": [record["tgt"] for record in RECORDS],
            "rot": np.stack([record["rot"] for record in RECORDS]).astype(np.float32),
            "trans": [record["trans"].ravel().tolist() for record in RECORDS],
            "overlap": [np.float64(record["overlap"]) for record in RECORDS],
        },
    )
    pairs = ThreeDMatch(root, "pairs.pkl")
    assert pairs.overlaps == [record["overlap"] for record in RECORDS]
    assert pairs[1].name.startswith("train/kitchen/cloud_bin_2")
    np.testing.assert_allclose(pairs.poses[2][:3, :3], RECORDS[2]["rot"], atol=1e-6)


def test_inexact_rotations_become_exact(root: Path) -> None:
    generator = np.random.default_rng(0)
    inexact = [{**record, "rot": record["rot"] + generator.uniform(-1e-3, 1e-3, (3, 3))} for record in RECORDS]
    write(root, inexact)
    for pose, record in zip(ThreeDMatch(root, "pairs.pkl").poses, inexact, strict=True):
        R = pose[:3, :3]
        np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-14)
        assert np.linalg.det(R) > 0
        assert np.linalg.norm(R - record["rot"]) < 3e-3
        # No other rotation is nearer.
        for axis in np.eye(3) * 1e-3:
            assert np.linalg.norm(rotation(*axis) @ R - record["rot"]) > np.linalg.norm(R - record["rot"])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["array", "tensor", "npy", "with colours", "in columns"])
def test_kinds_of_clouds(root: Path, kind: str, dtype: type) -> None:
    points = cloud(1).astype(dtype)
    path = root / RECORDS[0]["src"]
    if kind == "npy":
        path.unlink()
        path = path.with_suffix(".npy")
        np.save(path, points)
        write(root, [{**RECORDS[0], "src": str(path.relative_to(root))}])
    else:
        content: Any = {
            "array": points,
            "tensor": torch.from_numpy(points),
            "with colours": np.hstack([points, points]),
            "in columns": np.asfortranarray(points),
        }[kind]
        torch.save(content, path)
    found = ThreeDMatch(root, "pairs.pkl")[0].source
    np.testing.assert_array_equal(found, points.astype(np.float32))
    assert found.flags.c_contiguous


def test_clouds_written_with_numpy_1(root: Path) -> None:
    """As the published ones were: the same file, but for the name of a module."""
    path = root / RECORDS[0]["src"]
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            renamed = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            assert name.endswith("data.pkl") == (renamed != content)
            archive.writestr(name, renamed)
    np.testing.assert_array_equal(ThreeDMatch(root, "pairs.pkl")[0].source, cloud(1).astype(np.float32))


class Malice:
    """Runs code when it is unpickled without care."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit('code of a file ran')",)


def test_no_code_of_a_list_runs(root: Path) -> None:
    write(root, {**as_columns(RECORDS), "more": [Malice()]})
    with pytest.raises(ValueError, match=r"pairs\.pkl: expected a pickled list of pairs, got refused builtins\.exec"):
        ThreeDMatch(root, "pairs.pkl")


def test_no_code_of_a_cloud_runs(root: Path) -> None:
    for content in (Malice(), np.array([Malice()], dtype=object)):
        torch.save(content, root / RECORDS[0]["src"])
        with pytest.raises(ValueError, match=r"cloud_bin_1\.pth: expected an array of points"):
            ThreeDMatch(root, "pairs.pkl")[0]
    path = (root / RECORDS[0]["src"]).with_suffix(".npy")
    np.save(path, np.array([Malice()], dtype=object), allow_pickle=True)
    write(root, [{**RECORDS[0], "src": str(path)}])
    with pytest.raises(ValueError, match=r"cloud_bin_1\.npy: expected an array of points"):
        ThreeDMatch(root, "pairs.pkl")[0]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.99])
def test_truncated_lists(root: Path, share: float) -> None:
    path = root / "pairs.pkl"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=re.escape(f"{path}: expected a pickled list of pairs, got ")):
        ThreeDMatch(root, "pairs.pkl")


@pytest.mark.parametrize("suffix", [".pth", ".npy"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.99])
def test_truncated_clouds(root: Path, share: float, suffix: str) -> None:
    path = (root / RECORDS[0]["src"]).with_suffix(suffix)
    if suffix == ".npy":
        np.save(path, cloud(1))
        write(root, [{**RECORDS[0], "src": str(path)}])
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=re.escape(f"{path}: expected an array of points, got ")):
        ThreeDMatch(root, "pairs.pkl")[0]


@pytest.mark.parametrize(
    "content", [np.zeros(3), np.zeros((4, 2)), np.zeros((4, 3), dtype=int), {"points": torch.zeros(4, 3)}, [1.0], None]
)
def test_clouds_of_another_kind(root: Path, content: Any) -> None:
    torch.save(content, root / RECORDS[0]["src"])
    with pytest.raises(ValueError, match=r"cloud_bin_1\.pth: expected"):
        ThreeDMatch(root, "pairs.pkl")[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (5, "expected a dict of lists or a list of dicts, got int"),
        ([1, 2], "expected a dict of lists or a list of dicts, got list"),
        ({"src": [], "tgt": []}, "rot, trans, overlap missing"),
        ([{"src": "a"}], "tgt, rot, trans, overlap missing"),
        ([*RECORDS, {"src": "a"}], "tgt, rot, trans, overlap missing"),
        ({**as_columns(RECORDS), "rot": as_columns(RECORDS)["rot"][:1]}, "expected columns of one length"),
        ({**as_columns(RECORDS), "rot": 5}, "expected columns of one length"),
        ([{**RECORDS[0], "rot": np.eye(4)}], r"pair 0: expected a finite 3x3 rotation and 3 numbers, got \(4, 4\)"),
        ([{**RECORDS[0], "rot": np.full((3, 3), np.nan)}], "pair 0: expected a finite 3x3 rotation"),
        ([{**RECORDS[0], "trans": [1.0, 2.0]}], r"pair 0: expected .* got \(3, 3\), \(2,\)"),
        ([{**RECORDS[0], "trans": ["a", "b", "c"]}], "pair 0: expected"),
        ([{**RECORDS[0], "overlap": "much"}], "pair 0: expected a number as overlap, got 'much'"),
        ([{**RECORDS[0], "overlap": None}], "pair 0: expected"),
    ],
)
def test_lists_of_another_kind(root: Path, content: Any, message: str) -> None:
    path = write(root, content)
    with pytest.raises(ValueError, match=message) as caught:
        ThreeDMatch(root, "pairs.pkl")
    assert str(caught.value).startswith(str(path))


def test_missing_files(root: Path) -> None:
    (root / RECORDS[1]["src"]).unlink()
    with pytest.raises(FileNotFoundError, match=r"cloud_bin_2\.pth: no such cloud"):
        ThreeDMatch(root, "pairs.pkl")[1]
    for name in ("other.pkl", "train"):
        with pytest.raises(FileNotFoundError, match=f"{name}: no such list of pairs"):
            ThreeDMatch(root, name)


def test_an_empty_list(root: Path) -> None:
    write(root, {name: [] for name in RECORDS[0]})
    assert len(ThreeDMatch(root, "pairs.pkl")) == 0


def test_pairs_with_a_bad_name_are_left_out(root: Path) -> None:
    names = [
        "7-scenes-fire/cloud_bin_1",
        "7-scenes-fire/cloud_bin_19",
        "analysis-by-synthesis-apt2-kitchen/cloud_bin_9",
    ]
    scans = [f"train/{name}.pth" for name in [*names, "7-scenes-fire/cloud_bin_190"]]
    write(root, [{**RECORDS[0], "src": source, "tgt": target} for source in scans for target in scans])
    pairs = ThreeDMatch(root, "pairs.pkl", without=NOT_FOR_TRAINING)
    assert len(ThreeDMatch(root, "pairs.pkl")) == 16
    assert pairs.sources == [scans[0], scans[0], scans[3], scans[3]]
    assert pairs.targets == [scans[0], scans[3], scans[0], scans[3]]
