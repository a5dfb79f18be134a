"""Overlaps and suppression of oriented boxes on a CPU, beside shapely, OpenCV and supervision where they are installed.

All find the same overlaps to 1e-3 and keep the same boxes, or nothing is reported; but for OpenCV, which counts a box
within another as the same box and so keeps fewer: what share is alike is reported. Times are the median and the range
of repeated calls after a warm-up, in milliseconds; shapely, the slowest, is called fewer times. The JSON goes to
standard output, or to a file with `--output`; a table goes with it to a `.md` of the same name.

    python examples/benchmarks/boxes.py --output examples/benchmarks/results/boxes.json
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from protocol import environment, put_out, timed
from torch import Tensor

from rotaware.geo import box_iou_rotated, boxes_to_quads, nms_rotated, normalize_boxes
from rotaware.geo.files import write_whole

VERSIONS_OF = ("rotaware", "numba", "numpy", "torch", "shapely", "opencv-python-headless", "supervision")
THRESHOLD = 0.1
Overlaps = Callable[[Tensor, Tensor], np.ndarray]
Kept = Callable[[Tensor, Tensor], np.ndarray]


def patch(count: int, seed: int) -> Tensor:
    """(count, 5) boxes as in a patch of DOTA: 1024 pixels, sides from 8 to 120, in heaps as a detector leaves them."""
    generator = torch.Generator().manual_seed(seed)
    objects = torch.rand(max(1, count // 8), 5, generator=generator, dtype=torch.float64)
    longer = 12 * 10 ** objects[:, 2]
    boxes = torch.stack(
        [1024 * objects[:, 0], 1024 * objects[:, 1], longer, longer * (0.2 + 0.6 * objects[:, 3]),
         torch.pi * objects[:, 4]], dim=1,
    )  # fmt: skip
    chosen = boxes[torch.randint(len(boxes), (count,), generator=generator)]
    noise = torch.randn(count, 5, generator=generator, dtype=torch.float64)
    scale = torch.stack([0.1 * chosen[:, 3]] * 4 + [torch.full((count,), 0.05, dtype=torch.float64)], dim=1)
    moved = chosen + noise * scale
    moved[:, 2:4] = moved[:, 2:4].clamp(min=4.0)
    return normalize_boxes(moved)


def rotaware_iou(a: Tensor, b: Tensor) -> np.ndarray:
    """Ours."""
    return box_iou_rotated(a, b).numpy()


def shapely_iou(a: Tensor, b: Tensor) -> np.ndarray:
    """All pairs that a tree of their hulls finds, intersected at once."""
    import shapely

    first, second = (shapely.polygons(boxes_to_quads(each).numpy()) for each in (a, b))
    rows, columns = shapely.STRtree(second).query(first, predicate="intersects")
    shared = shapely.area(shapely.intersection(first[rows], second[columns]))
    found = np.zeros((len(a), len(b)))
    found[rows, columns] = shared / (shapely.area(first[rows]) + shapely.area(second[columns]) - shared)
    return found


def supervision_iou(a: Tensor, b: Tensor) -> np.ndarray:
    """OpenCV's intersection of convex polygons, for pairs whose hulls overlap."""
    from supervision import oriented_box_iou_batch

    return np.asarray(oriented_box_iou_batch(boxes_to_quads(a).numpy(), boxes_to_quads(b).numpy()))


def rotaware_nms(boxes: Tensor, scores: Tensor) -> np.ndarray:
    """Ours."""
    return nms_rotated(boxes, scores, THRESHOLD).numpy()


def shapely_nms(boxes: Tensor, scores: Tensor) -> np.ndarray:
    """Greedy, over overlaps of shapely."""
    overlaps, order = shapely_iou(boxes, boxes) > THRESHOLD, np.argsort(-scores.numpy(), kind="stable")
    gone, kept = np.zeros(len(boxes), dtype=bool), []
    for row in order:
        if not gone[row]:
            kept.append(row)
            gone |= overlaps[row]
    return np.array(kept)


def supervision_nms(boxes: Tensor, scores: Tensor) -> np.ndarray:
    """Its suppression of oriented boxes."""
    from supervision import oriented_box_non_max_suppression

    quads = boxes_to_quads(boxes).numpy()
    predictions = np.column_stack([quads.min(axis=1), quads.max(axis=1), scores.numpy(), np.zeros(len(boxes))])
    kept = np.flatnonzero(oriented_box_non_max_suppression(predictions, quads, iou_threshold=THRESHOLD))
    return kept[np.argsort(-scores.numpy()[kept], kind="stable")]


def opencv_nms(boxes: Tensor, scores: Tensor) -> np.ndarray:
    """Its suppression of rotated rectangles."""
    import cv2

    given = [((x, y), (w, h), float(np.degrees(theta))) for x, y, w, h, theta in boxes.tolist()]
    return np.asarray(cv2.dnn.NMSBoxesRotated(given, scores.tolist(), 0.0, THRESHOLD)).ravel()


# With the package each needs, ours first.
OVERLAPS: dict[str, tuple[str, Overlaps]] = {
    "rotaware": ("rotaware", rotaware_iou),
    "supervision": ("supervision", supervision_iou),
    "shapely": ("shapely", shapely_iou),
}
SUPPRESSIONS: dict[str, tuple[str, Kept]] = {
    "rotaware": ("rotaware", rotaware_nms),
    "opencv": ("cv2", opencv_nms),
    "supervision": ("supervision", supervision_nms),
    "shapely": ("shapely", shapely_nms),
}


def installed(methods: dict[str, tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Those whose package is there."""
    return ((name, call) for name, (package, call) in methods.items() if find_spec(package) is not None)


def agreement(kept: np.ndarray, ours: np.ndarray) -> float:
    """Share of boxes that either keeps and both keep."""
    return len(np.intersect1d(kept, ours)) / len(np.union1d(kept, ours))


def measure(count: int, repeats: int) -> list[dict[str, Any]]:
    """Records of one number of boxes."""
    a, b = patch(count, 0), patch(count, 1)
    scores = torch.rand(count, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    records: list[dict[str, Any]] = []
    ours = rotaware_iou(a, b)
    for name, iou in installed(OVERLAPS):
        worst = float(np.abs(iou(a, b) - ours).max())
        if worst > 1e-3:
            raise SystemExit(f"overlaps of {name} differ from ours by {worst}: nothing is reported")
        times = timed(lambda iou=iou: iou(a, b), min(repeats, 3) if name == "shapely" else repeats)  # type: ignore[misc]
        records.append({"task": "iou", "boxes": count, "method": name, "difference": worst} | times)
    kept = rotaware_nms(a, scores)
    for name, nms in installed(SUPPRESSIONS):
        same = agreement(nms(a, scores), kept)
        if same < 0.98 and name != "opencv":
            raise SystemExit(f"{name} keeps other boxes than we do, {same:.1%} alike: nothing is reported")
        times = timed(lambda nms=nms: nms(a, scores), min(repeats, 3) if name == "shapely" else repeats)  # type: ignore[misc]
        records.append({"task": "nms", "boxes": count, "method": name, "kept_alike": same} | times)
    return records


def table(report: dict[str, Any]) -> str:
    """Markdown: a row per task and number of boxes, our factor beside each other time."""
    methods = list(dict.fromkeys([*OVERLAPS, *SUPPRESSIONS]))
    lines = [
        f"Oriented boxes, {report['threads']} threads, milliseconds (median); in brackets how many times ours.",
        "",
        "| task | boxes | " + " | ".join(methods) + " |",
        "|---|---|" + "---|" * len(methods),
    ]
    for task, count in dict.fromkeys((each["task"], each["boxes"]) for each in report["results"]):
        of = {each["method"]: each["median_ms"] for each in report["results"]
              if (each["task"], each["boxes"]) == (task, count)}  # fmt: skip
        cells = [f"{of[name]:.1f} ({of[name] / of['rotaware']:.0f})" if name in of else "-" for name in methods]
        lines.append(f"| {task} | {count} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Check, time, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few boxes: a test of this script")
    parser.add_argument("--output", type=Path, help="file for the JSON, replaced when the run is complete")
    options = parser.parse_args(arguments)
    report: dict[str, Any] = environment(VERSIONS_OF) | {"threads": torch.get_num_threads()}
    report["results"] = []
    for count in (100,) if options.quick else (500, 2000):
        report["results"] += measure(count, 2 if options.quick else 9)
    put_out(report, options.output)
    if options.output is not None:
        write_whole(options.output.with_suffix(".md"), table(report))
    return report


if __name__ == "__main__":
    main()
