"""The text files of 3DMatch: the published ones, what is written and read again, and files that are damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from rotaware.datasets.benchmark_logs import (
    LogEntry,
    read_info,
    read_log,
    read_overlap_log,
    write_info,
    write_log,
    write_overlap_log,
)


def entries(rows: int, count: int = 5) -> list[LogEntry]:
    generator = np.random.default_rng(rows)
    found = []
    for k in range(count):
        matrix = generator.normal(scale=1e3, size=(rows, rows))
        if rows == 4:
            matrix = np.eye(4)
            matrix[:3, :3] = Rotation.random(random_state=generator).as_matrix()
            matrix[:3, 3] = generator.normal(size=3)
        found.append(LogEntry(k, k + 2, 60, matrix))
    return found


@pytest.mark.parametrize(("rows", "read", "write"), [(4, read_log, write_log), (6, read_info, write_info)])
def test_what_is_written_is_read(tmp_path: Path, rows: int, read: object, write: object) -> None:
    path = tmp_path / "some.log"
    write(path, entries(rows))  # type: ignore[operator]
    found = read(path)  # type: ignore[operator]
    assert [entry[:3] for entry in found] == [entry[:3] for entry in entries(rows)]
    for ours, theirs in zip(found, entries(rows), strict=True):
        np.testing.assert_allclose(ours.matrix, theirs.matrix, rtol=0, atol=1e-12)
    assert list(tmp_path.iterdir()) == [path]


def test_the_layout_of_est_log(tmp_path: Path) -> None:
    write_log(tmp_path / "est.log", [LogEntry(0, 12, 60, np.diag([1.0, -1, -1, 1]))])
    assert (tmp_path / "est.log").read_text() == (
        "0\t12\t60\n"
        "1.000000000000\t0.000000000000\t0.000000000000\t0.000000000000\n"
        "0.000000000000\t-1.000000000000\t0.000000000000\t0.000000000000\n"
        "0.000000000000\t0.000000000000\t-1.000000000000\t0.000000000000\n"
        "0.000000000000\t0.000000000000\t0.000000000000\t1.000000000000\n"
    )


def test_overlaps(tmp_path: Path) -> None:
    overlaps = {(0, 1): 0.8017, (0, 2): 0.0, (3, 17): 1.0}
    write_overlap_log(tmp_path / "gt_overlap.log", overlaps)
    assert (tmp_path / "gt_overlap.log").read_text().splitlines()[0] == "0,1,0.8017"
    assert read_overlap_log(tmp_path / "gt_overlap.log") == overlaps


@pytest.mark.parametrize(("benchmark", "count", "of_kitchen"), [("3DMatch", 1623, 506), ("3DLoMatch", 1781, 525)])
def test_published_logs(shared_data: Path, tmp_path: Path, benchmark: str, count: int, of_kitchen: int) -> None:
    folders = sorted((shared_data / "3dmatch" / "benchmark" / benchmark).iterdir())
    poses = {folder.name: read_log(folder / "gt.log") for folder in folders}
    assert sum(len(found) for found in poses.values()) == count
    assert len(poses["7-scenes-redkitchen"]) == of_kitchen
    for folder in folders:
        matrices = read_info(folder / "gt.info")
        assert [entry[:2] for entry in matrices] == [entry[:2] for entry in poses[folder.name]]
        # Count times identity in the upper left.
        assert all(np.array_equal(m[:3, :3], m[0, 0] * np.eye(3)) for *_, m in matrices)
        overlaps = read_overlap_log(folder / "gt_overlap.log")
        assert all(entry[:2] in overlaps for entry in poses[folder.name])
    first = poses["7-scenes-redkitchen"][0]
    assert first[:3] == (0, 1 if benchmark == "3DMatch" else 7, 60)
    row = (folders[0] / "gt.log").read_text().splitlines()[1]
    assert first.matrix[0].tolist() == [float(word) for word in row.split()]
    write_log(tmp_path / "again.log", poses["7-scenes-redkitchen"])
    again = read_log(tmp_path / "again.log")
    np.testing.assert_allclose([e.matrix for e in again], [e.matrix for e in poses["7-scenes-redkitchen"]], atol=1e-12)


def test_published_estimates_are_written_as_they_were(shared_data: Path, tmp_path: Path) -> None:
    for path in (shared_data / "3dmatch" / "benchmark" / "est_ngenet").rglob("est.log"):
        write_log(tmp_path / "est.log", read_log(path))
        assert (tmp_path / "est.log").read_text().split() == path.read_text().split()


BLOCK = "0\t1\t60\n" + "\n".join("\t".join(row) for row in np.eye(4, dtype=int).astype(str)) + "\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected blocks .*, got an empty file"),
        (BLOCK[:-5], "block 0: expected a line 'i j n' and 4 rows of 4 finite numbers"),
        (BLOCK + BLOCK[: len(BLOCK) // 2], "block 1: expected a line"),
        (BLOCK + "0 1\n", r"block 1: expected a line .* got '0 1'"),
        (BLOCK.replace("60", "many"), "block 0: expected a line"),
        (BLOCK.replace("1\t0\t0\t0", "1\t0\t0\tnan", 1), "block 0: expected a line"),
        (BLOCK.replace("1\t0\t0\t0", "1\t0\t0\t0\t0", 1), "block 0: expected a line"),
        (BLOCK.replace("0\t1\t60", "-1\t1\t60"), "block 0: expected a line"),
        (BLOCK.replace("1\t0\t0\t0", "2\t0\t0\t0", 1), "block 0: expected a rotation, got a matrix whose columns"),
        (BLOCK.replace("1\t0\t0\t0", "-1\t0\t0\t0", 1), "block 0: expected a rotation, got a reflection"),
        (BLOCK.replace("0\t0\t0\t1", "0\t0\t1\t1"), "block 0: expected 0 0 0 1 as the last row"),
        ("caf\xe9", "expected text"),
    ],
)
def test_damaged_logs_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "gt.log"
    path.write_bytes(text.encode("latin1"))
    with pytest.raises(ValueError, match=message) as caught:
        read_log(path)
    assert str(caught.value).startswith(str(path))


def test_damaged_overlaps_are_named(tmp_path: Path) -> None:
    path = tmp_path / "gt_overlap.log"
    for text in ("0,1,0.5\n0,2", "0,1,0.5\n0,2,much", "0,1,0.5\n0 2 0.1"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"gt_overlap\.log, line 2: expected i,j,overlap"):
            read_overlap_log(path)


def test_a_log_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "est.log"
    write_log(path, entries(4))
    before = path.read_bytes()
    for matrix in (np.full((4, 4), np.nan), np.eye(3)):
        with pytest.raises(ValueError, match="block 5: expected a finite 4x4 matrix"):
            write_log(path, [*entries(4), LogEntry(0, 1, 2, matrix)])
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    write_log(tmp_path / "new" / "est.log", entries(4))
    assert (tmp_path / "new" / "est.log").read_bytes() == before
