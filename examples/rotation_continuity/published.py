"""The published figures, and our results printed beside them.

The figures are those of Zhou, Barnes, Lu, Yang and Li, "On the Continuity of Rotation Representations in Neural
Networks" (CVPR 2019, arXiv 1812.07035v4), as far as its text states them, and of the papers named in `LATER`. A star
marks a figure recalled from the paper's plots and not checked against them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# In the order of the tables: continuous maps first. Keys are the names of `rotaware.geo.RotationHead`.
TITLES = {
    "10d": "10D symmetric matrix",
    "9d": "9D special Procrustes",
    "raw_9d": "raw 9D, projected at test",
    "two_vector": "2-vec",
    "6d": "6D Gram-Schmidt",
    "5d": "5D stereographic",
    "axis_angle": "rotation vector",
    "quaternion": "quaternion",
    "mrp": "modified Rodrigues",
    "euler_sincos": "Euler as (cos, sin)",
    "euler": "Euler XZY",
    "axis_angle_4d": "axis-angle, 4 numbers",
    "gibbs": "Gibbs / Cayley",
}
HEADS = tuple(TITLES)

# mean, max, standard deviation
PAPER = {
    "sanity": {
        "6d": ("0.49", "1.98*", "0.27*"),
        "5d": ("0.49", "1.99*", "0.27*"),
        "quaternion": ("3.32", "179.93*", "5.97*"),
        "axis_angle_4d": ("3.69*", "179.22*", "5.99*"),
        "euler": ("6.98", "179.95*", "17.31*"),
    },
    "point_cloud": {
        "6d": ("2.85", "179.83*", "9.16*"),
        "raw_9d": ("4.21", "180.0*", "9.14*"),
        "5d": ("4.78", "179.87*", "12.25*"),
        "quaternion": ("9.03*", "179.66*", "16.33*"),
        "axis_angle_4d": ("11.93*", "179.7*", "21.35*"),
        "euler": ("14.13*", "179.67*", "23.8*"),
    },
    "inverse_kinematics": {
        "6d": ("1.9", "28.7*", "1.2*"),
        "5d": ("2.0", "33.3*", "1.4*"),
        "euler": ("2.7", "48.7*", "2.1*"),
        "axis_angle_4d": ("3.0", "120.0*", "2.3*"),
        "quaternion": ("3.3", "261.1*", "3.1*"),
        "raw_9d": ("22.9", "53.6*", "4.0*"),
    },
}

# mean
LATER = {
    "sanity": {"raw_9d": "0.37 [3]"},
    "point_cloud": {"9d": "1.63 [1]", "6d": "2.24 [1]", "raw_9d": "2.64 [1]"},
    "inverse_kinematics": {
        "9d": "1.55 [2]",
        "10d": "1.51 [2]",
        "two_vector": "1.57 [2]",
        "6d": "1.63 [2]",
        "quaternion": "2.95 [2]",
        "euler": "2.65 [2]",
    },
}
SOURCES = {
    "[1]": "Levinson et al. 2020 (Haar rotations)",
    "[2]": 'Chandrasekhar, "Special Unitary Parameterized Estimators of Rotation" (arXiv 2411.13109)',
    "[3]": "Gu et al. 2023 (PRoM)",
}


@dataclass(frozen=True)
class Row:
    """Errors of one head on the test set, in the unit of the experiment (degrees or centimetres)."""

    head: str
    title: str
    dim: int
    mean: float
    median: float
    p99: float
    max: float
    std: float
    ms_per_iteration: float
    training_loss: float


def row_of(head: str, title: str, dim: int, errors: np.ndarray, ms_per_iteration: float, training_loss: float) -> Row:
    """Summary of the errors (N,) of a head."""
    median, p99 = (float(value) for value in np.percentile(errors, [50, 99]))
    return Row(
        head,
        title,
        dim,
        mean=float(errors.mean()),
        median=median,
        p99=p99,
        max=float(errors.max()),
        std=float(errors.std()),
        ms_per_iteration=ms_per_iteration,
        training_loss=training_loss,
    )


def table(experiment: str, rows: Sequence[Row], unit: str) -> str:
    """Our figures, then the paper's and later ones, with what the marks mean below."""
    paper, later = PAPER.get(experiment, {}), LATER.get(experiment, {})
    header = ["representation", "dim", f"mean {unit}", "median", "p99", "max", "std", "ms/iteration"]
    lines = [
        [row.title, str(row.dim)]
        + [f"{value:.2f}" for value in (row.mean, row.median, row.p99, row.max, row.std)]
        + [f"{row.ms_per_iteration:.2f}"]
        for row in rows
    ]
    if paper:
        header += ["paper: mean", "max", "std", "later: mean"]
        lines = [
            line + list(paper.get(row.head, ("-", "-", "-"))) + [later.get(row.head, "-")]
            for line, row in zip(lines, rows, strict=True)
        ]
    text = markdown(header, lines)
    cells = " ".join(" ".join(line) for line in lines)
    notes = [f"{mark} {source}" for mark, source in SOURCES.items() if mark in cells]
    if paper:
        notes = [
            "paper: Zhou et al. 2019, arXiv 1812.07035v4, on its data after its training; a short run compares ranks",
            *notes,
        ]
    if "*" in cells:
        notes.append("* recalled from the paper's plots, not checked again: do not cite")
    return "\n".join([text, *([""] if notes else []), *notes])


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table that is aligned in a terminal too: first column to the left, the others to the right."""
    widths = [max(len(line[column]) for line in [header, *lines]) for column in range(len(header))]

    def written(line: Sequence[str]) -> str:
        cells = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        return "| " + " | ".join(cells) + " |"

    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([written(header), "| " + " | ".join(rule) + " |", *map(written, lines)])
