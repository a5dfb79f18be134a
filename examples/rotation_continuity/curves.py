"""Error against percentile, the way the paper draws it; the only file that imports matplotlib."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rotaware.geo.files import write_whole

PERCENTILES = np.linspace(0, 100, 400)


def curve(errors: np.ndarray) -> list[float]:
    """The error (N,) at each of 400 evenly spaced percentiles, with five digits."""
    return [float(f"{value:.5g}") for value in np.percentile(errors, PERCENTILES)]


def can_draw() -> bool:
    """Whether curves can be drawn here; says what to install where they cannot."""
    if importlib.util.find_spec("matplotlib") is not None:
        return True
    print("no curves will be drawn: they need matplotlib (pip install matplotlib)", file=sys.stderr)
    return False


def draw(
    path: Path, panels: Mapping[str, Mapping[str, Sequence[float]]], *, unit: str, low: float, high: float
) -> None:
    """Write a PNG of one panel per entry: title -> label -> error at `PERCENTILES`.

    The axis of errors is logarithmic, from `low` to `high`. Curves keep the order and colours of the table.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    columns = min(len(panels), 4)
    lines = math.ceil(len(panels) / columns)
    size = (8.0, 5.5) if len(panels) == 1 else (3.6 * columns, 3.2 * lines + 0.6)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True)
    decades = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    ticks = [10.0**decade for decade in decades]
    # The end of the scale is worth a tick where the last power of ten is not beside it.
    if high / ticks[-1] > 1.2:
        ticks.append(high)
    labels = list(dict.fromkeys(label for panel in panels.values() for label in panel))
    styles = {label: (f"C{place % 10}", "-" if place < 10 else "--") for place, label in enumerate(labels)}
    for axis, (title, panel) in zip(axes.flat, panels.items(), strict=False):
        for label, errors in panel.items():
            colour, style = styles[label]
            axis.plot(PERCENTILES, np.maximum(errors, low), color=colour, linestyle=style, label=label)
        axis.set_yscale("log")
        axis.set_ylim(low, high)
        axis.set_xlim(0, 100)
        axis.yaxis.set_major_locator(FixedLocator(ticks))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.grid(color="0.85")
        axis.set_title(title, fontsize=10)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_visible(False)
    # The lowest panel of each column.
    for axis in list(axes.flat)[max(0, len(panels) - columns) : len(panels)]:
        axis.set_xlabel("percentile of the test set")
    for axis in axes[:, 0]:
        axis.set_ylabel(f"error [{unit}]")
    handles = [axes[0, 0].plot([], [], color=styles[label][0], linestyle=styles[label][1])[0] for label in labels]
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)
    write_whole(path, lambda unfinished: figure.savefig(unfinished, format="png"))
