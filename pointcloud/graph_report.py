"""The page of a graph of scans: one self-contained HTML file that opens from disk and needs no script."""

from __future__ import annotations

import base64
import colorsys
import os
import re
from collections.abc import Sequence
from html import escape
from importlib import resources
from io import BytesIO

import numpy as np
from PIL import Image

from rotaware.geo.files import write_whole

from .canonical import apply
from .multiway import MultiwayResult, Role, TriedPair
from .rasteriser import RAMP, Color, best_view, colors_from_values, fit_camera, look_from, render
from .report_scene import format_length

# Okabe and Ito's colours, told apart by every kind of colour vision; yellow is left out, which fades on white.
_COLORS: tuple[Color, ...] = (
    (0, 114, 178), (224, 118, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (190, 60, 30), (120, 110, 60),
)  # fmt: skip
_GOLDEN = 0.618034
_PICTURE = (900, 620)
_PICTURE_POINTS = 250_000
_MOST_PICTURES = 6
_CANVAS, _RADIUS = (760, 500), 190
_ROLES: dict[Role, str] = {
    "used": "in use",
    "confirmed": "in use: too weak alone, confirmed by others",
    "contradicted": "left out: contradicts its group",
    "outweighed": "left out: not sure enough to join two groups",
    "none": "not registered",
}
_REASON = "Reason"
_LEFT_OUT: tuple[Role, ...] = ("contradicted", "outweighed")
_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")


def scan_color(number: int) -> Color:
    """Colour of scan `number`, from 0, in pictures and merged clouds.

    >>> scan_color(0)
    (0, 114, 178)
    """
    if number < len(_COLORS):
        return _COLORS[number]
    red, green, blue = colorsys.hls_to_rgb(number * _GOLDEN % 1.0, (0.36, 0.5, 0.62)[number % 3], 0.65)
    return round(255 * red), round(255 * green), round(255 * blue)


def write_graph_html(
    path: str | os.PathLike[str],
    result: MultiwayResult,
    points: Sequence[np.ndarray],
    *,
    names: Sequence[str],
    unit: str,
) -> None:
    """Writes the page of a result: the graph, the groups, pictures of the merged clouds, all pairs and cycles.

    The file appears whole or not at all; same input, same bytes.

    Args:
        path: of the HTML file.
        result: what to show.
        points: per scan (N, 3), a sample of a few ten thousand is enough; its own frame.
        names: per scan, shown as given.
        unit: of all lengths.
    """
    used = [pair for pair in result.pairs if pair.role in ("used", "confirmed")]
    left_out = [pair for pair in result.pairs if pair.role in _LEFT_OUT]
    tiles = [
        ("Scans", len(names)),
        ("Groups", len(result.groups)),
        ("Pairs tried", len(result.pairs)),
        ("Edges in use", len(used)),
        ("Edges left out", len(left_out)),
    ]
    verdict = "ONE GROUP" if result.connected else f"{len(result.groups)} GROUPS"
    parts = {
        "title": escape(f"{verdict}: {len(names)} scans"),
        "status": "connected" if result.connected else "apart",
        "verdict": verdict,
        "reason": escape(_reason(result, names)),
        "ramp": ", ".join(map(_css, RAMP)),
        "tiles": "".join(f"<div><dd>{value}</dd><dt>{name}</dt></div>" for name, value in tiles),
        "graph": _graph(result, names),
        "scans": _scans_table(result, names, used, unit),
        "pictures": _pictures(result, points, unit),
        "pairs": _pairs_table(result.pairs, names, unit),
        "cycles": _cycles_table(result, names, unit),
    }
    template = resources.files("rotaware.pointcloud").joinpath("graph.html").read_text(encoding="utf-8")
    # One pass over the template: what is filled in is never searched for placeholders again.
    page = _PLACEHOLDER.sub(lambda match: parts[match[1]], template)
    # File names may hold bytes that are no text; they arrive as lone surrogates.
    write_whole(path, page.encode("utf-8", errors="replace"))


def _reason(result: MultiwayResult, names: Sequence[str]) -> str:
    if result.connected:
        return "Every scan has a pose in the frame of the first one."
    rest = [", ".join(names[scan] for scan in group) for group in result.groups[1:]]
    return (
        f"Nothing joins these surely enough to the largest group: {'; '.join(rest)}. "
        "Each group has a frame of its own, that of its first scan."
    )


def _graph(result: MultiwayResult, names: Sequence[str]) -> str:
    """Scans on a circle, group by group; edges in the colour of their confidence, those left out dashed."""
    gap = len(result.groups) > 1
    slots: dict[int, int] = {}
    for number, group in enumerate(result.groups):
        slots |= {scan: len(slots) + gap * number + k for k, scan in enumerate(group)}
    count = len(slots) + gap * len(result.groups)
    angles = {scan: 2 * np.pi * slot / count - np.pi / 2 for scan, slot in slots.items()}
    parts = []
    for group in result.groups:
        if gap and len(group) > 1:
            (x0, y0), (x1, y1) = (_place(angles[scan], 14) for scan in (group[0], group[-1]))
            turn = angles[group[-1]] - angles[group[0]]
            arc = f"M{x0},{y0}A{_RADIUS + 14},{_RADIUS + 14} 0 {int(turn > np.pi)} 1 {x1},{y1}"
            parts.append(f'<path d="{arc}" fill="none" stroke="var(--line)" stroke-width="12" stroke-linecap="round"/>')
    shown = [pair for pair in result.pairs if pair.role != "none"]
    for pair in sorted(shown, key=lambda pair: (pair.role in _LEFT_OUT, pair.confidence)):
        (x0, y0), (x1, y1) = _place(angles[pair.source]), _place(angles[pair.target])
        color = "" if pair.role in _LEFT_OUT else f' stroke="{_css(_confidence_color(pair.confidence))}"'
        title = f"{names[pair.source]} to {names[pair.target]}: {_ROLES[pair.role]}, confidence {pair.confidence:.2f}"
        parts.append(
            f'<path class="edge {pair.role}"{color} d="M{x0},{y0}L{x1},{y1}"><title>{escape(title)}</title></path>'
        )
    for scan, angle in angles.items():
        (x, y), (text_x, text_y) = _place(angle), _place(angle, 24)
        anchor = "middle" if abs(np.cos(angle)) < 0.2 else "start" if np.cos(angle) > 0 else "end"
        parts.append(
            f'<circle cx="{x}" cy="{y}" r="9" fill="{_css(scan_color(scan))}"/>'
            f'<text x="{text_x}" y="{text_y + 4}" text-anchor="{anchor}">{escape(_short(names[scan]))}</text>'
        )
    return f'<svg viewBox="0 0 {_CANVAS[0]} {_CANVAS[1]}" role="img" aria-label="graph">{"".join(parts)}</svg>'


def _place(angle: float, beyond: float = 0.0) -> tuple[float, float]:
    radius = _RADIUS + beyond
    return (
        round(_CANVAS[0] / 2 + radius * float(np.cos(angle)), 1),
        round(_CANVAS[1] / 2 + radius * float(np.sin(angle)), 1),
    )


def _confidence_color(confidence: float) -> Color:
    red, green, blue = colors_from_values(np.array([2.0 * confidence - 1.0]))[0]
    return int(red), int(green), int(blue)


def _pictures(result: MultiwayResult, points: Sequence[np.ndarray], unit: str) -> str:
    """Two views of the largest groups: from where much can be seen, and along their thinnest direction."""
    figures = []
    for number, group in enumerate(result.groups[:_MOST_PICTURES], start=1):
        if len(group) < 2:
            continue
        budget = _PICTURE_POINTS // len(group)
        clouds = []
        for scan in group:
            finite = points[scan][np.isfinite(points[scan]).all(axis=1)]
            # In random order, the same on every run; strides would alias with scan lines.
            kept = np.random.default_rng(0).permutation(len(finite))[:budget]
            clouds.append((apply(result.T_world_scan[scan], finite[kept]), scan_color(scan)))
        everything = np.concatenate([cloud for cloud, _ in clouds])
        # Rooms are wider than high: what is thin is taken for upright, and the longest side lies across the picture.
        thin, middle = np.linalg.eigh(np.cov(everything.T))[1][:, :2].T
        for direction, up, note in (
            (best_view(everything, thin), thin, "oblique view"),
            (thin, middle, "along the thinnest direction"),
        ):
            camera = fit_camera(everything, look_from(direction, up), _PICTURE)
            buffer = BytesIO()
            Image.fromarray(render(clouds, camera, _PICTURE)).save(buffer, format="PNG", optimize=True)
            width = format_length(_PICTURE[0] / camera.scale, unit)
            caption = f"Group {number}, {note}; the picture is {width} wide"
            image = base64.b64encode(buffer.getvalue()).decode("ascii")
            figures.append(
                f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{image}">'
                f"<figcaption>{escape(caption)}</figcaption></figure>"
            )
    return "".join(figures) or '<p class="empty">No two scans could be joined.</p>'


def _scans_table(result: MultiwayResult, names: Sequence[str], used: Sequence[TriedPair], unit: str) -> str:
    rows = []
    for number, group in enumerate(result.groups, start=1):
        for scan in group:
            edges = sum(scan in (pair.source, pair.target) for pair in used)
            if scan == group[0]:
                deviation = ["reference" if len(group) > 1 else "", ""]
            else:
                turn, shift = result.turn_deviation_deg[scan], result.shift_deviation[scan]
                deviation = [f"{turn:.2f}&deg;", escape(format_length(float(shift), unit))]
            dot = f'<span class="dot" style="background:{_css(scan_color(scan))}"></span>'
            rows.append(
                f'<tr><td class="name">{dot}{escape(names[scan])}</td>'
                f'<td class="num">{number}</td><td class="num">{edges}</td>'
                f'<td class="num">{deviation[0]}</td><td class="num">{deviation[1]}</td></tr>'
            )
    return _table(("Scan", "Group", "Edges in use", "Deviation, angle", "place"), 1, rows)


def _pairs_table(pairs: Sequence[TriedPair], names: Sequence[str], unit: str) -> str:
    """Edges, those left out first; pairs that gave none are folded away, with the reason."""
    heads = ("Source", "Target", "", "Confidence", "Overlap", "Off by, angle", "place")
    order = sorted(pairs, key=lambda pair: (pair.role not in _LEFT_OUT, -pair.confidence))
    edges = _table(heads, 3, [f"{_pair_row(pair, names, unit)}</tr>" for pair in order if pair.role != "none"])
    rest = [
        f"{_pair_row(pair, names, unit)}<td>{escape(pair.reason)}</td></tr>" for pair in order if pair.role == "none"
    ]
    if not rest:
        return edges
    summary = f"{len(rest)} pair{'s' if len(rest) > 1 else ''} without an edge"
    return f"{edges}<details><summary>{summary}</summary>{_table((*heads, _REASON), 3, rest)}</details>"


def _pair_row(pair: TriedPair, names: Sequence[str], unit: str) -> str:
    """The cells of a row that is still open."""
    off = ("", "")
    if np.isfinite(pair.shift):
        off = (f"{pair.turn_deg:.2f}&deg;", escape(format_length(pair.shift, unit)))
    return (
        f'<tr class="{pair.role}"><td>{escape(names[pair.source])}</td><td>{escape(names[pair.target])}</td>'
        f'<td>{_ROLES[pair.role]}</td><td class="num">{pair.confidence:.3f}</td>'
        f'<td class="num">{100 * pair.overlap:.0f} %</td><td class="num">{off[0]}</td><td class="num">{off[1]}</td>'
    )


def _cycles_table(result: MultiwayResult, names: Sequence[str], unit: str) -> str:
    rows = []
    for cycle in sorted(result.cycles, key=lambda cycle: -cycle.turn):
        pair = result.pairs[cycle.edge]
        way = " &rarr; ".join(escape(names[scan]) for scan in cycle.scans)
        rows.append(
            f'<tr class="{pair.role}"><td>{way}</td><td>{_ROLES[pair.role]}</td>'
            f'<td class="num">{np.degrees(cycle.turn):.2f}&deg;</td>'
            f'<td class="num">{escape(format_length(cycle.shift, unit))}</td></tr>'
        )
    return _table(("Scans", "Edge between the ends", "Angle", "Distance"), 2, rows)


def _table(heads: Sequence[str], first_number: int, rows: Sequence[str]) -> str:
    """A table whose columns from `first_number` on, but for one of words at the end, are headed as numbers."""
    if not rows:
        return '<p class="empty">None.</p>'
    numeric = range(first_number, len(heads) - (heads[-1] == _REASON))
    head = "".join(
        f'<th scope="col"{" class=num" if k in numeric else ""}>{escape(name)}</th>' for k, name in enumerate(heads)
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _short(name: str, most: int = 20) -> str:
    """Both ends of a file's name tell it apart."""
    return name if len(name) <= most else f"{name[: most // 2 - 1]}\u2026{name[-(most // 2 - 1) :]}"


def _css(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
