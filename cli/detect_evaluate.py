"""`rotaware detect evaluate`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .detect_data import add_data_options, annotations_of, labelled_images
from .messages import ExitCode, Fault, faults
from .options import share

if TYPE_CHECKING:
    from rotaware.detection import Annotations, ClassDetections, DetectionResult

SUMMARY = "score detections of whole images by the rules of DOTA"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `rotaware detect evaluate`."""
    parser.add_argument("detections", metavar="DETECTIONS", help="folder or zip with Task1_<class>.txt")
    parser.add_argument(
        "root", metavar="ROOT", help="labelled images as DOTA's or HRSC2016, or a folder of label files"
    )
    add_data_options(parser)
    parser.add_argument("--merge", action="store_true", help="detections are of patches: merge them into images first")
    parser.add_argument("--index", metavar="FILE", help="where the patches come from, if their names do not say it")
    parser.add_argument("--nms", type=share, default=0.1, metavar="IOU", help="of merging (default 0.1)")
    parser.add_argument("--patches", action="store_true", help="score patches as they are; not comparable with images")
    parser.add_argument("-o", "--out", metavar="FILE", help="write the JSON there too")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(options: argparse.Namespace) -> int:
    """Score and print."""
    from rotaware.detection import evaluate_detections, merge_patches, read_detections, read_patch_index
    from rotaware.geo.files import write_whole

    with faults(ExitCode.UNREADABLE_FILE):
        detections = read_detections(_task1(options.detections))
        origins = None if options.index is None else read_patch_index(options.index)
    annotations, classes = _labelled(options)
    unknown = sorted(set(detections) - set(classes))
    if unknown:
        raise Fault(f"{options.detections}: expected classes among {', '.join(classes)}, got {', '.join(unknown)}; "
                    "name others with --classes")  # fmt: skip
    with faults():
        if options.merge:
            detections = merge_patches(detections, threshold=options.nms, origins=origins)
        result = evaluate_detections(
            detections, annotations, classes, version=options.data_version, patches=options.patches
        )
    described = _described(result, options, detections, annotations)
    text = json.dumps(described, indent=1) + "\n"
    if options.out:
        write_whole(options.out, text)
    print(text if options.json else _table(result, described), end="")
    return int(ExitCode.REGISTERED)


def _task1(given: str) -> Path:
    """The folder of the files: the one given, or Task1 in it as `detect predict` writes it."""
    inside = Path(given) / "Task1"
    return inside if inside.is_dir() else Path(given)


def _labelled(options: argparse.Namespace) -> tuple[dict[str, Annotations], tuple[str, ...]]:
    """Objects by image, and the names of the classes; of label files alone, if there are no images."""
    from rotaware.datasets import DOTA_CLASSES, read_labels
    from rotaware.detection import Annotations

    root = Path(options.root)
    files = sorted(root.glob("*.txt")) if root.is_dir() and not (root / "images").is_dir() else []
    if not files or options.split is not None:
        images = labelled_images(options.root, options)
        return annotations_of(images), images.classes
    names = DOTA_CLASSES[options.data_version]
    if options.classes is not None:
        names = tuple(part.strip() for part in options.classes.split(",") if part.strip())
    found = {}
    with faults(ExitCode.UNREADABLE_FILE):
        for path in files:
            each = read_labels(path, names)
            found[path.stem] = Annotations(each.quads, tuple(names[label] for label in each.labels), each.difficult)
    return found, names


def _described(
    result: DetectionResult,
    options: argparse.Namespace,
    detections: Mapping[str, ClassDetections],
    annotations: Mapping[str, Annotations],
) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "version": result.version,
        "patches": options.patches,
        "merged": options.merge,
        "images": len(annotations),
        "detections": sum(map(len, detections.values())),
        "mean": {name: result.mean(name) for name in ("ap50", "ap50_voc12", "ap75", "ap50_95")},
        "without_objects": list(result.without_objects),
        "classes": {name: asdict(each) for name, each in result.classes.items()},
    }


def _table(result: DetectionResult, described: Mapping[str, Any]) -> str:
    from rotaware.detection.evaluation import ASPECTS, SIZES

    head = ["class", "objects", "detections", "AP50", "VOC12", "AP75", "AP50:95", *SIZES, *ASPECTS]
    rows = []
    for name, each in result.classes.items():
        if each.ap50 is not None:
            values = [each.ap50, each.ap50_voc12, each.ap75, each.ap50_95]
            values += [each.by_size[key] for key in SIZES] + [each.by_aspect[key] for key in ASPECTS]
            rows.append([name, str(each.objects), str(each.detections), *map(_percent, values)])
    means = [_percent(result.mean(name)) for name in ("ap50", "ap50_voc12", "ap75", "ap50_95")]
    rows.append(["mean", "", "", *means, *[""] * (len(SIZES) + len(ASPECTS))])
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in [head, *rows]
    ]
    what = "patches, not comparable with whole images" if described["patches"] else "whole images"
    lines.append(f"{described['images']} {what}, DOTA {result.version} rules; sizes and aspects: AP50 of those alone")
    if result.without_objects:
        lines.append(f"no objects, so not in the mean: {', '.join(result.without_objects)}")
    return "\n".join(lines) + "\n"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
