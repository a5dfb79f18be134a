"""Tables as files: what is in them, that they are whole, and that what they hold cannot break them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from rotaware.datasets.benchmark_pairs import BenchmarkPair
from rotaware.pointcloud.evaluation_records import Record, read_record, write_record
from rotaware.pointcloud.evaluation_report import Table, latex_escaped, scene_tables, summary_tables, write_report
from rotaware.pointcloud.evaluation_summary import summarise

NOWHERE = Path("nowhere")
GOOD: dict[str, Any] = {"rotation_deg": 1.5, "translation_m": 0.0204, "ir": 0.5, "ir_250": 0.75}
BAD: dict[str, Any] = {"rotation_deg": None, "translation_m": None, "ir": 0.0, "ir_250": 0.0}
SPEED = {"seconds": 0.25, "cpu_seconds": 0.2, "peak_mb": None}


def case() -> tuple[list[BenchmarkPair], list[Record]]:
    """Two scenes, two conditions, a failure and a pair that does not overlap."""
    pairs = [
        BenchmarkPair("den_1", NOWHERE, NOWHERE, 2, 0, np.eye(4), 0.25),
        BenchmarkPair("hall", NOWHERE, NOWHERE, 3, 1, np.eye(4), None),
        BenchmarkPair("den_1+hall", NOWHERE, NOWHERE, 0, 0, None, 0.0),
    ]
    records = []
    for condition, scores in (("original", GOOD), ("rotated-0", BAD)):
        values: dict[str, Any] = {"accepted": True, "confidence": 0.9, "cost": SPEED}
        records.append(Record(pairs[0].name, condition, "auto", "k", "c", np.eye(4).tolist(), scores=scores, **values))
        broken = "OSError: |5 % of {it}|, gone"
        records.append(Record(pairs[1].name, condition, "auto", "k", "c", failure=broken, fault="scan"))
        records.append(Record(pairs[2].name, condition, "auto", "k", "c", accepted=False, confidence=0.2, cost=SPEED))
    return pairs, records


def strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_all_files_are_written_and_agree(tmp_path: Path) -> None:
    pairs, records = case()
    summary = summarise("3D_Match", pairs, records)
    write_report(summary, pairs, records, tmp_path / "new", settings={"auto": {"register": "auto"}})
    files = {path.name: path.read_text() for path in (tmp_path / "new").iterdir()}
    assert set(files) == {"report.md", "report.tex", "summary.json", "pairs.csv"}
    document = strict(files["summary.json"])
    assert document["benchmark"] == "3D_Match" and document["settings"] == {"auto": {"register": "auto"}}
    figure = document["methods"][0]["figures"]["rr_pose"]
    assert figure["mean"] == 0.5 and figure["counts"] == {"den_1": 1, "hall": 1}
    assert document["methods"][0]["verdicts"]["false_accepts"] == {"count": 0, "total": 1}
    rows = list(csv.DictReader(files["pairs.csv"].splitlines()))
    assert len(rows) == len(records)
    assert (rows[0]["pair"], rows[0]["scene"], rows[0]["target_id"], rows[0]["source_id"]) == (
        "den_1_0_2",
        "den_1",
        "0",
        "2",
    )
    assert float(rows[0]["translation_m"]) == 0.0204 and rows[1]["failure"] == records[1].failure
    # No number is shown as one where there is none.
    assert rows[3]["rotation_deg"] == rows[1]["seconds"] == rows[0]["peak_mb"] == ""
    assert all(table.markdown() in files["report.md"] for table in (*summary_tables(summary), *scene_tables(summary)))
    assert all(column.meaning in files["report.md"] for column in summary.columns.values())


def test_tables_say_what_was_found() -> None:
    tables = {table.title: table for table in summary_tables(summarise("3DMatch", *case()))}
    figures = tables["3DMatch, original: 2 pairs that overlap and 1 that do not overlap"]
    rows = {row[0]: row[1:] for row in figures.rows}
    assert rows["RR 15 deg, 0.3 m [%]"] == ("50.0 [50.0, 50.0]", "50.0", "2")
    assert rows["RRE [deg]"] == ("1.50 [1.50, 1.50]", "1.50", "1")
    assert rows["RTE [m]"] == ("0.020 [0.020, 0.020]", "0.020", "1")
    by_count = tables["Inlier ratio (IR) by number of correspondences, %"]
    assert by_count.header == ("method", "250") and by_count.rows[0] == ("auto, original", "37.5 [37.5, 37.5]")
    verdicts = tables["Verdicts; right: within 15 deg and 0.3 m"]
    assert verdicts.rows[0][1] == "50.0 [9.5, 90.5] (1/2)" and verdicts.rows[0][4] == "0.0 [0.0, 79.3] (0/1)"
    gap = tables["original minus rotated-0, percentage points"]
    assert gap.rows[0] == ("RR 15 deg, 0.3 m", "+50.0 [50.0, 50.0]")
    assert tables["Cost of a pair"].rows[0] == ("auto, original", "250", "200", "-")
    assert tables["Failed"].rows[0][2:] == ("scan", "OSError: |5 % of {it}|, gone")
    assert tables["Poses within 15 deg and 0.3 m, by overlap"].header == ("method", "0.2 to 0.3")


def test_means_are_shown_with_their_own_intervals() -> None:
    places = [("a", 1), *(("b", k) for k in range(1, 6))]
    pairs = [BenchmarkPair(scene, NOWHERE, NOWHERE, k, 0, np.eye(4), None) for scene, k in places]
    outcomes = [GOOD, GOOD, BAD, BAD, BAD, BAD]
    records = [
        Record(pair.name, "original", "auto", "", "", scores=scores)
        for pair, scores in zip(pairs, outcomes, strict=True)
    ]
    summary = summarise("b", pairs, records)
    figure = summary.methods[0].figures["rr_pose"]
    assert figure.mean_interval != figure.pair_interval
    low, high = figure.mean_interval
    row = next(row for row in summary_tables(summary)[0].rows if row[0].startswith("RR"))
    assert row[1:] == (f"60.0 [{100 * low:.1f}, {100 * high:.1f}]", "33.3", "6")


def test_scenes_are_shown_to_five_digits() -> None:
    first = scene_tables(summarise("3DMatch", *case()))[0]
    assert first.title == "auto, original, by scene"
    assert first.rows[0][:3] == ("den_1", "1.00000", "1") and first.rows[1][:3] == ("hall", "0.00000", "1")
    assert first.rows[2][:3] == ("mean of scenes", "0.50000", "2")
    # A scene without a right pose has no error.
    assert first.rows[1][3:5] == ("-", "0")


def test_thousands_of_failures_do_not_fill_the_page() -> None:
    pairs = [BenchmarkPair("den", NOWHERE, NOWHERE, k, 0, np.eye(4), None) for k in range(1, 51)]
    records = [Record(pair.name, "original", "auto", "", "", failure="x", fault="scan") for pair in pairs]
    failed = next(table for table in summary_tables(summarise("b", pairs, records)) if table.title == "Failed")
    assert len(failed.rows) == 21 and failed.rows[-1][0] == "and 30 more, see pairs.csv"


def test_markdown_and_latex_hold_any_text() -> None:
    table = Table("50 % of a_b", ("name", "x"), (("a|b", "1 & 2 $^~#{}\\"),))
    assert table.markdown().splitlines()[-1] == "| a\\|b | 1 & 2 $^~#{}\\ |"
    latex = table.latex()
    assert r"\caption{50 \% of a\_b}" in latex and r"\begin{tabular}{lr}" in latex
    row = r"a\textbar{}b & 1 \& 2 \$\textasciicircum{}\textasciitilde{}\#\{\}\textbackslash{} \\"
    assert latex.splitlines()[latex.splitlines().index(r"\midrule") + 1] == row
    assert latex_escaped("<5") == r"\textless{}5"


def test_records_survive_their_file_to_the_last_bit(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    record = Record("p", "original", "auto", "k", "c", generator.normal(size=(4, 4)).tolist(), True, 0.1 + 0.2,
                    {"ir": 1 / 3, "rotation_deg": None}, cost={"seconds": 1e-9})  # fmt: skip
    write_record(tmp_path / "r.json", record)
    assert read_record(tmp_path / "r.json") == record
    assert read_record(tmp_path / "none.json") is None
    for content in ("", "[]", '{"pair": 1}', '{"unknown": 1}'):
        (tmp_path / "r.json").write_text(content)
        assert read_record(tmp_path / "r.json") is None
