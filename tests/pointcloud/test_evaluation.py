"""The engine that runs methods over a benchmark: same results however it is run, and nothing lost, reused or hidden."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from evaluation_cases import QuarterTurns, RowByRow, moved, random_pose, scan_pair, scan_pairs

from rotaware.datasets.benchmark_pairs import BenchmarkPair
from rotaware.pointcloud.errors import InputError
from rotaware.pointcloud.evaluation import Progress, evaluate
from rotaware.pointcloud.evaluation_records import Record

CONDITIONS = {"original": None, "turned": QuarterTurns()}


def without_cost(records: Sequence[Record]) -> list[Record]:
    # Others may edit the checkout while the tests run.
    return [replace(record, cost={}, code="") for record in records]


def calls(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_every_method_on_every_pair_under_every_condition(tmp_path: Path) -> None:
    pairs = scan_pairs(tmp_path)
    methods = {"exact": RowByRow(), "off": RowByRow(shift=0.1, wrong=0.25)}
    records = evaluate(pairs, methods, tmp_path / "out", conditions=CONDITIONS, workers=0)
    assert [(r.pair, r.condition, r.method) for r in records] == [
        (pair.name, condition, method) for pair in pairs for condition in CONDITIONS for method in methods
    ]
    for record, pair in zip(records, np.repeat(np.array(pairs, dtype=object), 4), strict=True):
        assert record.failure is None and record.confidence == 0.75 and record.cost["seconds"] > 0
        if pair.T_target_source is None:
            assert record.scores == {}
            continue
        # Whatever was turned, pose and errors are in the published frames.
        shift = 0.0 if record.method == "exact" else 0.1
        scores = record.scores
        assert scores["rotation_deg"] == pytest.approx(0, abs=1e-5)
        for key in ("translation_m", "displacement_m", "rmse_overlap_m", "rmse_official_m", "rmse_corrected_m"):
            assert scores[key] == pytest.approx(shift, abs=1e-6)
        assert scores["matches"] == 200
        assert scores["ir"] == scores["ir_5000"] == scores["ir_250"] == (1.0 if record.method == "exact" else 0.75)
        if record.method == "exact":
            np.testing.assert_allclose(record.T_target_source, pair.T_target_source, atol=1e-9)


def test_fewer_correspondences_are_drawn_by_confidence(tmp_path: Path) -> None:
    pair = scan_pair(tmp_path, "den", 0, 2, points=1000)
    scores = evaluate([pair], {"rows": RowByRow(wrong=0.5)}, tmp_path / "out", workers=0)[0].scores
    # Confidence rises along the rows, the wrong half is the first.
    assert scores["ir"] == scores["ir_1000"] == 0.5
    assert scores["ir_250"] > 0.65 and scores["ir_500"] > 0.6


def test_two_workers_equal_one_bit_for_bit(tmp_path: Path) -> None:
    """Also where a scan is damaged, and where a method raises or ends its process."""
    pairs = [
        *scan_pairs(tmp_path),
        scan_pair(tmp_path, "den", 5, 7, points=201),
        scan_pair(tmp_path, "den", 5, 8, points=202),
        scan_pair(tmp_path, "den", 5, 9),
    ]
    pairs[-1].source.write_bytes(pairs[-1].source.read_bytes()[:300])
    methods = {"rows": RowByRow(dies_of=201, raises_at=202), "off": RowByRow(shift=0.3)}
    found = []
    for workers in (1, 2):
        out = tmp_path / f"out{workers}"
        records = without_cost(evaluate(pairs, methods, out, conditions=CONDITIONS, workers=workers))
        assert [list(out.rglob("*.json"))] and len(list(out.rglob("*.json"))) == len(records)
        found.append(records)
    assert found[0] == found[1]
    failures = {(r.pair, r.method): (r.fault, r.failure) for r in found[0] if r.failure is not None}
    damaged = ("den_5_9", "rows")
    assert failures["den_5_7", "rows"] == ("method", "crashed with exit code 7")
    assert failures["den_5_8", "rows"] == ("method", "ValueError: 202 points are too many")
    assert failures[damaged][0] == "scan" and "5_9_source.npy" in failures[damaged][1]
    assert set(failures) == {damaged, ("den_5_9", "off"), ("den_5_7", "rows"), ("den_5_8", "rows")}
    assert without_cost(evaluate(pairs[:6], methods, tmp_path / "out0", conditions=CONDITIONS, workers=0)) == [
        record for record in found[0] if record.pair in {pair.name for pair in pairs[:6]}
    ]


def test_resuming_keeps_what_succeeded_and_tries_again_what_failed(tmp_path: Path) -> None:
    pairs, out, log = scan_pairs(tmp_path), tmp_path / "out", tmp_path / "log"
    content = pairs[1].target.read_bytes()
    pairs[1].target.unlink()
    method = RowByRow(log=log)
    first = evaluate(pairs, {"rows": method}, out, workers=0)
    assert [r.pair for r in first if r.fault == "scan"] == [pairs[1].name] and calls(log) == 5
    with pytest.raises(InputError, match=r"out holds 6 of the 6 results; resume \(--resume\), or name"):
        evaluate(pairs, {"rows": method}, out, workers=0)
    pairs[1].target.write_bytes(content)
    seen: list[Progress] = []
    again = evaluate(pairs, {"rows": method}, out, workers=0, resume=True, on_progress=seen.append)
    assert calls(log) == 6 and all(r.failure is None for r in again)
    assert [(p.total, p.done, p.reused, p.other_settings) for p in seen] == [(6, 5, 5, 1), (6, 6, 5, 1)]
    assert again[0] == first[0]


def test_a_method_that_raised_is_tried_again(tmp_path: Path) -> None:
    pairs, out = scan_pairs(tmp_path)[:2], tmp_path / "out"
    broken = evaluate(pairs, {"rows": RowByRow(raises_at=200)}, out, workers=0)
    assert [record.fault for record in broken] == ["method", "method"]
    assert [r.fault for r in evaluate(pairs, {"rows": RowByRow()}, out, workers=0, resume=True)] == [None, None]


def test_other_settings_and_other_scans_are_not_taken_for_these(tmp_path: Path) -> None:
    pairs, out, log = scan_pairs(tmp_path), tmp_path / "out", tmp_path / "log"
    evaluate(pairs, {"rows": RowByRow(log=log)}, out, workers=0)
    seen: list[Progress] = []
    changed = evaluate(pairs, {"rows": RowByRow(shift=1.0, log=log)}, out, workers=0, on_progress=seen.append)
    assert calls(log) == 12 and changed[0].scores["translation_m"] == pytest.approx(1.0)
    assert seen[0].reused == 0 and seen[0].other_settings == 6
    np.save(pairs[0].source, np.load(pairs[0].source)[:-1])
    np.save(pairs[0].target, np.load(pairs[0].target)[:-1])
    evaluate(pairs, {"rows": RowByRow(log=log)}, out, workers=0, resume=True, on_progress=seen.append)
    assert calls(log) == 13
    # The first results are all still there.
    assert evaluate(pairs[1:], {"rows": RowByRow()}, out, workers=0, resume=True)[0].scores["ir"] == 1.0


def test_results_of_other_code_are_kept_and_told(tmp_path: Path) -> None:
    pairs, out = scan_pairs(tmp_path)[:2], tmp_path / "out"
    evaluate(pairs, {"rows": RowByRow()}, out, workers=0)
    file = next(out.rglob(f"{pairs[0].name}.*.json"))
    text = file.read_text()
    code = evaluate(pairs, {"rows": RowByRow()}, out, workers=0, resume=True)[0].code
    file.write_text(text.replace(code, "0" * 16))
    seen: list[Progress] = []
    evaluate(pairs, {"rows": RowByRow()}, out, workers=0, resume=True, on_progress=seen.append)
    assert (seen[0].reused, seen[0].other_code) == (2, 1)


def test_an_interrupted_run_leaves_whole_results(tmp_path: Path) -> None:
    pairs = [*scan_pairs(tmp_path)[:3], scan_pair(tmp_path, "den", 7, 9, points=201)]
    out, log = tmp_path / "out", tmp_path / "log"
    with pytest.raises(KeyboardInterrupt):
        evaluate(pairs, {"rows": RowByRow(interrupts_at=201)}, out, workers=0)
    assert len(list(out.rglob("*.json"))) == 3
    assert not [path for path in out.rglob("*") if path.is_file() and path.suffix != ".json"]
    evaluate(pairs, {"rows": RowByRow(log=log)}, out, workers=0, resume=True)
    assert calls(log) == 1


def test_a_damaged_result_is_made_again(tmp_path: Path) -> None:
    pairs, out, log = scan_pairs(tmp_path)[:2], tmp_path / "out", tmp_path / "log"
    whole = evaluate(pairs, {"rows": RowByRow(log=log)}, out, workers=0)
    next(out.rglob(f"{pairs[0].name}.*.json")).write_text("{")
    assert without_cost(evaluate(pairs, {"rows": RowByRow(log=log)}, out, workers=0, resume=True)) == without_cost(
        whole
    )
    assert calls(log) == 3


def test_a_limit_takes_a_part_of_any_larger_one_and_all_disjoint_pairs(tmp_path: Path) -> None:
    *_, posed, apart = scan_pairs(tmp_path)
    pairs = [*(replace(posed, source_id=k) for k in range(12)), apart]
    chosen = []
    for limit in (1, 4, 8, 12, 99):
        records = evaluate(pairs, {"rows": RowByRow()}, tmp_path / "out", limit=limit, workers=0, resume=True)
        chosen.append([record.pair for record in records])
    assert [len(each) for each in chosen] == [2, 5, 9, 13, 13]
    assert all(set(less) <= set(more) for less, more in pairwise(chosen))
    order = [pair.name for pair in pairs]
    assert all(each == sorted(each, key=order.index) and each[-1] == apart.name for each in chosen)
    # Not only the first scenes of a list.
    assert chosen[1][:4] != order[:4]


def test_a_method_without_a_pose_and_one_whose_pose_is_no_number(tmp_path: Path) -> None:
    pair = scan_pair(tmp_path, "den", 0, 2)
    silent = evaluate([pair], {"silent": RowByRow(silent_at=200)}, tmp_path / "a", workers=0)[0]
    nan = evaluate([pair], {"nan": RowByRow(shift=float("nan"))}, tmp_path / "b", workers=0)[0]
    for record in (silent, nan):
        assert record.failure is None and record.T_target_source is None
        assert record.scores["rotation_deg"] is None and record.scores["rmse_overlap_m"] is None
    assert silent.accepted is False and nan.scores["ir"] == 1.0


def test_deforming_pairs(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    truth, source = random_pose(generator), generator.uniform(-1, 1, (200, 3))
    flow = 0.2 * np.sin(3 * source)
    rows = np.arange(200)
    np.savez(
        tmp_path / "deer.npz",
        s_pc=source,
        t_pc=moved(truth, source + flow),
        rot=truth[:3, :3],
        trans=truth[:3, 3:],
        s2t_flow=flow,
        correspondences=np.stack([rows, rows], 1),
        metric_index=rows[::2],
    )
    file = tmp_path / "deer.npz"
    pair = BenchmarkPair("deer", file, file, 0, 0, truth, None, deforming=True)
    methods = {"rows": RowByRow(), "half": RowByRow(wrong=0.5)}
    records = evaluate([pair], methods, tmp_path / "out", conditions=CONDITIONS, workers=0)
    for record in records:
        assert set(record.scores) == {"matches", "ir", "nfmr"}
        assert record.scores["ir"] == (1.0 if record.method == "rows" else 0.5)
        assert record.scores["nfmr"] == (1.0 if record.method == "rows" else pytest.approx(0.5, abs=0.15))


def test_ranks_share_the_pairs_and_see_all_results(tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(
        "import sys; from pathlib import Path\n"
        "from evaluation_cases import RowByRow, scan_pairs\n"
        "from rotaware.pointcloud.evaluation import evaluate\n"
        "folder = Path(sys.argv[1])\n"
        "seen = []\n"
        "records = evaluate(scan_pairs(folder), {'rows': RowByRow()}, folder / 'out', workers=0,\n"
        "                   on_progress=seen.append)\n"
        "print(seen[0].total, len(records), sum(r.failure is None for r in records))\n"
    )
    scan_pairs(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    support = str(Path(__file__).parents[1] / "support")
    running = []
    for rank in (0, 1):
        environment = os.environ | {
            "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            "PYTHONPATH": support, "GLOO_SOCKET_IFNAME": "lo",
        }  # fmt: skip
        command = [sys.executable, str(script), str(tmp_path)]
        running.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    said = [process.communicate(timeout=120)[0].split() for process in running]
    assert said == [["3", "6", "6"], ["3", "6", "6"]]
    alone = evaluate(scan_pairs(tmp_path), {"rows": RowByRow()}, tmp_path / "alone", workers=0)
    shared = evaluate(scan_pairs(tmp_path), {"rows": RowByRow()}, tmp_path / "out", workers=0, resume=True)
    assert without_cost(alone) == without_cost(shared)


def test_what_cannot_be_run_is_refused(tmp_path: Path) -> None:
    pairs, methods = scan_pairs(tmp_path), {"rows": RowByRow()}
    with pytest.raises(ValueError, match="pairs: expected unique names, got 12 pairs with 6 names"):
        evaluate([*pairs, *pairs], methods, tmp_path / "out", workers=0)
    with pytest.raises(ValueError, match=r"methods: expected at least one, with names fit for files, got \['a/b'\]"):
        evaluate(pairs, {"a/b": RowByRow()}, tmp_path / "out", workers=0)
    with pytest.raises(ValueError, match="pairs: expected at least one"):
        evaluate([], methods, tmp_path / "out", workers=0)
    with pytest.raises(ValueError, match="limit: expected at least 1, got 0"):
        evaluate(pairs, methods, tmp_path / "out", workers=0, limit=0)
    with pytest.raises(ValueError, match="workers: expected at least 0, got -1"):
        evaluate(pairs, methods, tmp_path / "out", workers=-1)
    assert not (tmp_path / "out").exists()
