"""Draw the training curve of one or several runs: losses, and what the matches are worth.

Run: python examples/roitr/curve.py runs/small/log.jsonl [other/log.jsonl ...] --output curve.png
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rotaware.geo.training_runs import Log, read_log

# Panels, with the curves of each and how they are called.
PANELS: dict[str, dict[str, str]] = {
    "coarse loss": {"coarse": "training", "validation_coarse": "validation"},
    "fine loss": {"fine": "training", "validation_fine": "validation"},
    "patch inlier ratio": {"pir": "training", "validation_pir": "validation"},
    "inlier ratio": {"ir": "training", "validation_ir": "validation"},
}
# Points of a smoothed curve at most, and values that each is the mean of at least.
BINS, LEAST = 100, 8


def curve_of(log: Log, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one quantity, averaged over equal stretches where there are many."""
    steps = np.array([record["step"] for record in log if name in record], dtype=float)
    values = np.array([record[name] for record in log if name in record], dtype=float)
    if len(steps) <= BINS:
        return steps, values
    parts = np.array_split(np.arange(len(steps)), min(BINS, len(steps) // LEAST))
    return (
        np.array([steps[part].mean() for part in parts]),
        np.array([values[part].mean() for part in parts]),
    )


def can_draw() -> bool:
    """Whether curves can be drawn here; says what to install where they cannot."""
    if importlib.util.find_spec("matplotlib") is not None:
        return True
    print("no curve is drawn: it needs matplotlib (pip install matplotlib)", file=sys.stderr)
    return False


def draw_log(log: Log, path: Path) -> None:
    """Write a PNG of one run."""
    draw({"": log}, path)


def draw(logs: Mapping[str, Log], path: Path) -> None:
    """Write a PNG of several runs by their titles."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 6.0), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (title, curves) in zip(figure.subplots(2, 2).flat, PANELS.items(), strict=True):
        for place, (run, log) in enumerate(logs.items()):
            for name, label in curves.items():
                steps, values = curve_of(log, name)
                if len(steps):
                    is_validation = name.startswith("validation")
                    axis.plot(
                        steps,
                        values,
                        color=f"C{place}" if len(logs) > 1 else f"C{int(is_validation)}",
                        linestyle="-" if is_validation or len(logs) == 1 else ":",
                        marker="." if is_validation else None,
                        label=f"{run} {label}".strip(),
                    )
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.grid(color="0.9")
        if axis.lines:
            axis.legend(fontsize=8, frameon=False)
    unfinished = path.with_name(f".{path.name}.unfinished")
    figure.savefig(unfinished, format="png")
    unfinished.replace(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", nargs="+", type=Path, help="log.jsonl of runs")
    parser.add_argument("--output", type=Path, default=Path("curve.png"))
    args = parser.parse_args(arguments)
    if not can_draw():
        raise SystemExit(1)
    # One run needs no name.
    names = [path.parent.name if len(args.logs) > 1 else "" for path in args.logs]
    draw({name: read_log(path) for name, path in zip(names, args.logs, strict=True)}, args.output)
    print(f"{args.output} written")


if __name__ == "__main__":
    main()
