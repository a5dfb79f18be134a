"""Tables of an evaluation: Markdown and LaTeX to read, JSON and CSV to work with."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rotaware.geo.files import write_whole

from .evaluation_measures import Unit
from .evaluation_records import MATCH_COUNTS, Record, ScanPair
from .evaluation_summary import Figure, Interval, MethodSummary, Share, Summary

# Factor, decimals and sign of a unit.
_SHOWN: Mapping[Unit, tuple[float, int, str]] = {
    "share": (100.0, 1, "%"),
    "degrees": (1.0, 2, "deg"),
    "metres": (1.0, 3, "m"),
}
_NOTHING = "-"
_MOST_FAILURES = 20
# Measures that have tables of their own.
_BY_COUNT = tuple(f"{short}_{count}" for short in ("ir", "fmr") for count in MATCH_COUNTS)
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Text in rows, the first column on the left, all others on the right."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """With its title as a heading.

        >>> Table("Two", ("a", "b"), (("x", "1"),)).markdown().splitlines()[2:]
        ['| a | b |', '| --- | ---: |', '| x | 1 |']
        """
        lines = [self.header, ["---", *["---:"] * (len(self.header) - 1)], *self.rows]
        body = ("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        return f"### {self.title}\n\n" + "\n".join(body)

    def latex(self) -> str:
        """As a floating table, with the rules of booktabs."""
        head, *body = (" & ".join(map(latex_escaped, line)) + r" \\" for line in (self.header, *self.rows))
        return "\n".join(
            [
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{latex_escaped(self.title)}}}",
                rf"\begin{{tabular}}{{l{'r' * (len(self.header) - 1)}}}",
                r"\toprule",
                head,
                r"\midrule",
                *body,
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table}",
            ]
        )


def latex_escaped(text: str) -> str:
    r"""Text that LaTeX prints as it is.

    >>> print(latex_escaped("50 % of a_b"))
    50 \% of a\_b
    """
    return "".join(_LATEX.get(letter, letter) for letter in text)


def summary_tables(summary: Summary) -> list[Table]:
    """What is worth a look at once: figures, verdicts, overlap, gaps, cost, failures."""
    parts = (_correspondences, _verdicts, _by_overlap, _gaps, _cost, _failures)
    figures = [_figures(summary, condition) for condition in _conditions(summary)]
    return [*figures, *(table for part in parts for table in part(summary))]


def scene_tables(summary: Summary) -> list[Table]:
    """Recall and errors of each scene to five digits, a table per method and condition."""
    return [_scenes(summary, each) for each in summary.methods if "rr_pose" in each.figures]


def write_report(
    summary: Summary,
    pairs: Sequence[ScanPair],
    records: Sequence[Record],
    folder: Path,
    *,
    settings: Mapping[str, Mapping[str, Any]],
) -> None:
    """`report.md`, `report.tex`, `summary.json` and `pairs.csv`, each whole or not at all.

    Args:
        summary: of the records.
        pairs: of the benchmark.
        records: a row of the CSV each.
        folder: made if it does not exist.
        settings: of each method, for the JSON.
    """
    tables = [*summary_tables(summary), *scene_tables(summary)]
    meanings = [f"- {column.label}: {column.meaning}." for column in summary.columns.values()]
    text = [f"## {summary.benchmark}", *(table.markdown() for table in tables), "### Measures", "\n".join(meanings)]
    write_whole(folder / "report.md", "\n\n".join([*text, _READING]) + "\n")
    latex = ["% \\usepackage{booktabs}", *(table.latex() for table in tables)]
    write_whole(folder / "report.tex", "\n\n".join(latex) + "\n")
    code = sorted({record.code for record in records})
    document = {"schema_version": 1, **asdict(summary), "settings": settings, "code": code}
    write_whole(folder / "summary.json", json.dumps(_plain(document), indent=1, allow_nan=False) + "\n")
    write_whole(folder / "pairs.csv", _csv(pairs, records))


_READING = (
    "Means are over scenes, each counted once; `over pairs` counts each pair once. In brackets: 95 %, of figures by "
    "1000 bootstrap samples of the pairs within scenes, of counts by Wilson. A pair that failed counts as not "
    "registered. Seconds are medians from points to answer on one thread; memory is the highest of the process."
)


def _conditions(summary: Summary) -> list[str]:
    return list(dict.fromkeys(each.condition for each in summary.methods))


def _of_condition(summary: Summary, condition: str) -> list[MethodSummary]:
    return [each for each in summary.methods if each.condition == condition]


def _figures(summary: Summary, condition: str) -> Table:
    methods = _of_condition(summary, condition)
    header = ["measure", *(name for each in methods for name in (each.method, "over pairs", "pairs"))]
    rows = []
    for name, column in summary.columns.items():
        cells = [cell for each in methods for cell in _cells(each.figures.get(name), column.unit)]
        if name not in _BY_COUNT and any(cell != _NOTHING for cell in cells):
            rows.append((f"{column.label} [{_SHOWN[column.unit][2]}]", *cells))
    counts = methods[0]
    apart = f" and {counts.disjoint} that do not overlap" if counts.disjoint else ""
    title = f"{summary.benchmark}, {condition}: {counts.pairs} pairs that overlap{apart}"
    return Table(title, tuple(header), tuple(rows))


def _cells(figure: Figure | None, unit: Unit) -> list[str]:
    if figure is None:
        return [_NOTHING] * 3
    return [_of_all_scenes(figure, unit), _number(figure.pair_mean, unit), str(figure.pairs)]


def _of_all_scenes(figure: Figure, unit: Unit) -> str:
    return f"{_number(figure.mean, unit)} {_range(figure.mean_interval, unit)}"


def _correspondences(summary: Summary) -> Iterable[Table]:
    """Inlier ratio and feature matching recall by the number of correspondences, where they were measured so."""
    for short, title in (("ir", "Inlier ratio (IR)"), ("fmr", "Feature matching recall (FMR)")):
        columns = [name for name in _BY_COUNT if name.startswith(short) and name in summary.columns]
        rows = [
            (_title(each), *(_of_all_scenes(each.figures[name], "share") for name in columns))
            for each in summary.methods
            if columns and columns[0] in each.figures
        ]
        if rows:
            counts = (name.removeprefix(f"{short}_") for name in columns)
            yield Table(f"{title} by number of correspondences, %", ("method", *counts), tuple(rows))


def _scenes(summary: Summary, each: MethodSummary) -> Table:
    chosen = {
        name: each.figures[name] for name in summary.columns if name.startswith(("rr", "rte")) and name in each.figures
    }
    labels = [summary.columns[name].label for name in chosen]
    scenes = list(dict.fromkeys(scene for figure in chosen.values() for scene in figure.scenes))

    def row(
        title: str, value: Callable[[Figure], float | None], count: Callable[[Figure], int | None]
    ) -> tuple[str, ...]:
        cells = [cell for figure in chosen.values() for cell in (_digits(value(figure)), str(count(figure) or 0))]
        return (title, *cells)

    def of_scene(scene: str) -> tuple[str, ...]:
        return row(scene, lambda figure: figure.scenes.get(scene), lambda figure: figure.counts.get(scene))

    rows = [
        *map(of_scene, scenes),
        row("mean of scenes", lambda figure: figure.mean, lambda figure: figure.pairs),
        row("mean of pairs", lambda figure: figure.pair_mean, lambda figure: figure.pairs),
    ]
    header = ("scene", *(name for label in labels for name in (label, "pairs")))
    return Table(f"{each.method}, {each.condition}, by scene", header, tuple(rows))


def _verdicts(summary: Summary) -> Iterable[Table]:
    rows = []
    for each in summary.methods:
        if (found := each.verdicts) is not None:
            shares = (found.accepted, found.accepted_right, found.right_accepted, found.false_accepts)
            error = found.calibration_error
            rows.append((_title(each), *map(_share, shares), _NOTHING if math.isnan(error) else f"{error:.3f}"))
    if rows:
        bounds = summary.bounds
        title = f"Verdicts; right: within {bounds.rotation_deg:g} deg and {bounds.translation_m:g} m"
        header = ("method", "accepted", "accepted that are right", "right that are accepted",
                  "false accepts, no overlap", "calibration error")  # fmt: skip
        yield Table(title, header, tuple(rows))


def _by_overlap(summary: Summary) -> Iterable[Table]:
    ranges = sorted({name for each in summary.methods for name in each.by_overlap})
    if ranges:
        rows = [
            (_title(each), *(_share(each.by_overlap.get(name, Share(0, 0))) for name in ranges))
            for each in summary.methods
        ]
        bounds = summary.bounds
        title = f"Poses within {bounds.rotation_deg:g} deg and {bounds.translation_m:g} m, by overlap"
        yield Table(title, ("method", *ranges), tuple(rows))


def _gaps(summary: Summary) -> Iterable[Table]:
    if not summary.gaps:
        return
    first, *others = _conditions(summary)
    methods = list(dict.fromkeys(gap.method for gap in summary.gaps))
    by_place = {(gap.measure, gap.method): gap for gap in summary.gaps}
    rows = []
    for name, column in summary.columns.items():
        gaps = [by_place.get((name, method)) for method in methods]
        if any(gaps):
            cells = (
                _NOTHING if gap is None else f"{100 * gap.mean:+.1f} {_range(gap.mean_interval, 'share')}"
                for gap in gaps
            )
            rows.append((column.label, *cells))
    title = f"{first} minus {'the mean of ' if len(others) > 1 else ''}{', '.join(others)}, percentage points"
    yield Table(title, ("measure", *methods), tuple(rows))


def _cost(summary: Summary) -> Iterable[Table]:
    rows = [
        (_title(each), f"{1000 * each.cost['seconds']:.0f}", f"{1000 * each.cost['cpu_seconds']:.0f}",
         f"{each.cost['peak_mb']:.0f}" if "peak_mb" in each.cost else _NOTHING)
        for each in summary.methods if each.cost
    ]  # fmt: skip
    if rows:
        yield Table("Cost of a pair", ("method", "ms", "ms of the processor", "peak MB"), tuple(rows))


def _failures(summary: Summary) -> Iterable[Table]:
    rows = [
        (failure.pair, _title(each), failure.fault, failure.reason)
        for each in summary.methods
        for failure in each.failures
    ]
    if len(rows) > _MOST_FAILURES:
        rows = [*rows[:_MOST_FAILURES], (f"and {len(rows) - _MOST_FAILURES} more, see pairs.csv", "", "", "")]
    if rows:
        yield Table("Failed", ("pair", "method", "fault of", "reason"), tuple(rows))


def _title(each: MethodSummary) -> str:
    return f"{each.method}, {each.condition}"


def _number(value: float, unit: Unit) -> str:
    factor, decimals, _ = _SHOWN[unit]
    return f"{factor * value:.{decimals}f}"


def _range(interval: Interval, unit: Unit) -> str:
    return f"[{_number(interval.low, unit)}, {_number(interval.high, unit)}]"


def _share(share: Share) -> str:
    if not share.total:
        return _NOTHING
    return f"{_number(share.value, 'share')} {_range(share.interval, 'share')} ({share.count}/{share.total})"


def _digits(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.5f}"


def _csv(pairs: Sequence[ScanPair], records: Sequence[Record]) -> str:
    by_name = {pair.name: pair for pair in pairs}
    scores = list(dict.fromkeys(key for record in records for key in record.scores))
    costs = list(dict.fromkeys(key for record in records for key in record.cost))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ("pair", "scene", "target_id", "source_id", "overlap", "condition", "method", "accepted", "confidence")
    writer.writerow([*head, *scores, "failure", "fault", *costs])
    for record in records:
        pair = by_name[record.pair]
        writer.writerow(
            [pair.name, pair.scene, pair.target_id, pair.source_id, pair.overlap]
            + [record.condition, record.method, record.accepted, record.confidence]
            + [record.scores.get(key) for key in scores]
            + [record.failure, record.fault]
            + [record.cost.get(key) for key in costs]
        )
    return text.getvalue()


def _plain(value: Any) -> Any:
    """Without what JSON has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
