"""Records of neighborhood attention benchmarks as Markdown: times with roofline shares, peak memory, verdicts.

A record names its layer, dtype, threads, order of points, pass and way, and holds times, peak memory or why there are
none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from attention_cases import CHUNKED, LITERAL, OURS, OURS_TORCH
from protocol import markdown_table

Record = dict[str, Any]
TITLE = ("layer", "dtype", "threads", "order")


def number(value: float) -> str:
    """Three digits, no more."""
    return f"{value:#.3g}".rstrip(".") if value < 1000 else f"{value:.0f}"


def unique(values: Iterable[Any]) -> list[Any]:
    """Each value once, in order."""
    return list(dict.fromkeys(values))


def group_of(record: Record) -> tuple[Any, ...]:
    """What records must share to be compared."""
    return tuple(record.get(name) for name in (*TITLE, "backward"))


def times_by_group(records: list[Record]) -> dict[tuple[Any, ...], dict[str, float]]:
    """Fastest call of every way, by group."""
    times: dict[tuple[Any, ...], dict[str, float]] = {}
    for record in records:
        if "min_ms" in record:
            times.setdefault(group_of(record), {})[record["way"]] = record["min_ms"]
    return times


def cell(records: list[Record], show: Callable[[Record], str]) -> str:
    """Both passes of one way."""
    texts = {record["backward"]: show(record) for record in records}
    return " / ".join(texts.get(backward, "-") for backward in (False, True)) if texts else "-"


def time_and_share(record: Record) -> str:
    """Milliseconds, and the bytes that must move over the measured copy bandwidth, as a share of them."""
    if "min_ms" not in record:
        return "no memory" if "needs" in record else "failed"
    share = record.get("share")
    return number(record["min_ms"]) + ("" if share is None else f" ({100 * share:.0f} %)")


def peak(record: Record) -> str:
    """Megabytes beyond the operands."""
    if "peak_bytes" not in record:
        return "no memory" if "needs" in record else "failed"
    return number(record["peak_bytes"] / 1e6)


def table(records: list[Record], first: str, show: Callable[[Record], str], wanted: str) -> str:
    """One row per layer, one column per way; `wanted` is what a record must hold to count."""
    records = [record for record in records if wanted in record or "failure" in record or "needs" in record]
    ways = unique(record["way"] for record in records)
    times = times_by_group(records)
    rows: list[list[str]] = []
    for section in unique(tuple(record.get(name) for name in TITLE[1:]) for record in records):
        inside = [record for record in records if tuple(record.get(name) for name in TITLE[1:]) == section]
        dtype, threads, order = section
        heading = ", ".join(filter(None, [dtype, threads and f"{threads} thread(s)", order]))
        rows.append([f"**{heading}**", *[""] * (len(ways) + 1)])
        for layer in unique(record["layer"] for record in inside):
            mine = [record for record in inside if record["layer"] == layer]
            ratios = []
            for backward in (False, True):
                found = times.get((layer, *section, backward), {})
                others = [time for way, time in found.items() if not way.startswith(OURS)]
                ratios.append(number(min(others) / found[OURS]) if OURS in found and others else "-")
            cells = [cell([record for record in mine if record["way"] == way], show) for way in ways]
            rows.append([layer, *cells, " / ".join(ratios) if wanted == "min_ms" else edge_tensor(mine)])
    last = "best of others / ours" if wanted == "min_ms" else "one (M, K, C) tensor"
    return markdown_table([first, *ways, last], rows)


def edge_tensor(records: list[Record]) -> str:
    """Megabytes of the tensor that must not exist."""
    sizes = unique(record["edge_bytes"] for record in records if "edge_bytes" in record)
    return number(sizes[0] / 1e6) if sizes else "-"


def time_table(records: list[Record]) -> str:
    """Milliseconds with roofline shares."""
    return table(records, "milliseconds (share of roofline), forward / forward + backward", time_and_share, "min_ms")


def memory_table(records: list[Record]) -> str:
    """Peak memory."""
    return table(records, "peak megabytes, forward / forward + backward", peak, "peak_bytes")


def ratios(records: list[Record], other: str, wanted: Callable[[Record], bool]) -> dict[tuple[Any, ...], float]:
    """How many times as long as ours another way takes, by group, for the records that `wanted` chooses."""
    groups = {group_of(record) for record in records if wanted(record)}
    return {
        group: times[other] / times[OURS]
        for group, times in times_by_group(records).items()
        if group in groups and OURS in times and other in times
    }


def verdict(label: str, found: dict[tuple[Any, ...], float], least: float) -> str:
    """Whether all of some ratios or shares reach a bound, and the smallest of them."""
    if not found:
        return f"- {label}: not measured"
    group, worst = min(found.items(), key=lambda item: item[1])
    where = ", ".join(str(part) for part in group[:-1] if part is not None) + (", with backward" if group[-1] else "")
    passed = "yes" if worst >= least else "**no**"
    return f"- {label}: {passed}, {len(found)} cases, the least {worst:.2f} (bound {least:g}; {where})"


def cpu_verdicts(records: list[Record]) -> list[str]:
    """The acceptance of the CPU path."""

    def at_20k(record: Record) -> bool:
        usual = record["dtype"] == "float32" and record["order"] == "Morton"
        return usual and record["backward"] and record["layer"].startswith("20k")

    def anywhere(record: Record) -> bool:
        return record["dtype"] == "float32" and record["order"] == "Morton"

    def memory(record: Record) -> bool:
        return record["way"] == OURS and "peak_bytes" in record

    return [
        verdict("20k, forward + backward over literal", ratios(records, LITERAL, at_20k), 10),
        verdict("20k, forward + backward over chunked bmm", ratios(records, CHUNKED, at_20k), 3),
        verdict("every size over chunked bmm", ratios(records, CHUNKED, anywhere), 1),
        verdict("every size over our chunked torch backend", ratios(records, OURS_TORCH, anywhere), 1),
        verdict(
            "one (M, K, C) tensor over our peak memory",
            {group_of(r): r["edge_bytes"] / max(1, r["peak_bytes"]) for r in records if memory(r)},
            1,
        ),
    ]


def gpu_verdicts(records: list[Record]) -> list[str]:
    """The acceptance of the GPU path."""

    def large(record: Record) -> bool:
        forward = record["way"] == OURS and not record["backward"] and record["order"] == "Morton"
        return forward and "share" in record and record["layer"].startswith(("200k", "1M"))

    def roitr(backward: bool) -> Callable[[Record], bool]:
        return lambda r: r["layer"].startswith("RoITr") and r["order"] == "Morton" and r["backward"] == backward

    shares = {group_of(record): record["share"] for record in records if large(record)}
    return [
        verdict("200k and 1M, forward: share of copy bandwidth", shares, 0.6),
        verdict("RoITr's sizes, forward over literal", ratios(records, LITERAL, roitr(False)), 5),
        verdict("RoITr's sizes, forward + backward over literal", ratios(records, LITERAL, roitr(True)), 8),
    ]
