"""How an experiment ends: the table on standard output, the JSON and the curves in the folder of results."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import curves
import numpy as np
from command import environment
from published import Row, table

from rotaware.geo.files import write_whole


def report(
    experiment: str,
    rows: Sequence[Row],
    panels: Mapping[str, Mapping[str, np.ndarray]],
    *,
    options: argparse.Namespace,
    settings: Mapping[str, Any],
    unit: str,
    low: float,
    high: float,
) -> None:
    """Print the table of `rows`; write `experiment`.json and .png to the folder of results.

    `panels` holds the errors of every curve, title -> label -> (N,); `low` and `high` bound the axis of errors.
    """
    drawn = {title: {label: curves.curve(errors) for label, errors in panel.items()} for title, panel in panels.items()}
    found = {
        "experiment": experiment,
        **environment(options),
        "seed": options.seed,
        "settings": dict(settings),
        "unit": unit,
        "rows": [asdict(row) for row in rows],
        "errors_at_400_percentiles": drawn,
    }
    print(table(experiment, rows, unit))
    path = options.out / f"{experiment}.json"
    text = json.dumps(found, indent=1)
    # A curve on one line, not on 400.
    text = re.sub(r"\[[-+.e\d,\s]+\]", lambda numbers: " ".join(numbers[0].split()), text)
    write_whole(path, text + "\n")
    print(f"\nresults: {path}")
    if curves.can_draw():
        curves.draw(path.with_suffix(".png"), drawn, unit=unit, low=low, high=high)
        print(f"curves: {path.with_suffix('.png')}")
