"""`rotaware detect predict`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .detect_data import detector_in
from .messages import ExitCode, Fault, UsageError, faults
from .options import count, numbers, share

if TYPE_CHECKING:
    import numpy as np

    from rotaware.detection import Detections, Detector

SUMMARY = "find objects in images of any size: drawn, as JSON, and as files of the DOTA server"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `rotaware detect predict`."""
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="files, or folders of them")
    parser.add_argument("--model", required=True, metavar="DIR", help="a detector, or the run that trained it")
    parser.add_argument("-o", "--out", default="detections", metavar="DIR", help="output folder (default detections)")
    parser.add_argument("--size", type=count(32), metavar="PX",
                        help="edge of the tiles (default: that of the crops it was trained on)")  # fmt: skip
    parser.add_argument("--overlap", type=count(0), metavar="PX", help="of the tiles (default a fifth of them)")
    parser.add_argument("--rates", type=numbers, default=(1.0,), metavar="R,...",
                        help="scales at which the image is seen, such as 0.5,1 (default 1)")  # fmt: skip
    parser.add_argument("--turns", action="store_true",
                        help="see everything turned by 0, 90, 180 and 270 degrees, and merge")  # fmt: skip
    parser.add_argument("--nms", type=share, default=0.1, metavar="IOU",
                        help="overlap above which the worse of a class goes (default 0.1)")  # fmt: skip
    parser.add_argument("--score", type=share, metavar="S", help="least score of what is written (default 0.05)")
    parser.add_argument("--draw-score", type=share, default=0.3, metavar="S", help="and of what is drawn (default 0.3)")
    parser.add_argument("--no-draw", action="store_true", help="without pictures")
    parser.add_argument("--device", default="auto", metavar="NAME", help="cpu, cuda, cuda:1 (default: a GPU if any)")
    parser.add_argument("--json", action="store_true", help="print what detections.json holds")


def run(options: argparse.Namespace) -> int:
    """Detect in every image; exit 0 if all could be read, 5 if some could not, 4 if there were none."""
    from rotaware.datasets import draw_objects
    from rotaware.detection import Tiling, by_class, detect_images, write_detections
    from rotaware.geo.boxes import boxes_to_quads
    from rotaware.geo.files import write_whole

    paths = _images(options.images)
    detector, notes = _detector(options)
    size = options.size or notes.get("augmentation", {}).get("size", 1024)
    with faults():
        overlap = size // 5 if options.overlap is None else options.overlap
        tiling = Tiling(size, overlap, options.rates, turns=options.turns, threshold=options.nms)
    least = detector.config.detections.score if options.score is None else options.score
    output, unreadable = Path(options.out), list[str]()
    found: list[tuple[str, Detections]] = []
    described = []
    for path, pixels in _read(paths, unreadable):
        [(name, each)] = detect_images(detector, [(path.stem, pixels)], tiling)
        found.append((name, each))
        quads, rows = boxes_to_quads(each.boxes.double()), each.scores >= least
        objects = _objects(each, quads, least, detector.classes)
        height, width = pixels.shape[:2]
        described.append({"image": str(path), "width": width, "height": height, "objects": objects})
        shown = each.scores >= options.draw_score
        if not options.no_draw:
            drawn = draw_objects(
                pixels, quads[shown].numpy(), each.labels[shown].numpy(), detector.classes, each.scores[shown].numpy()
            )
            _save(drawn, output / "drawn" / f"{name}.png")
        if not options.json:
            print(f"{path}: {_counted(each.labels[rows], detector.classes)}")
    result = {"schema_version": 1, "model": options.model, "classes": list(detector.classes), "images": described,
              "unreadable": unreadable}  # fmt: skip
    if found:
        write_detections(output / "Task1", by_class(found, detector.classes, least=least))
        write_whole(output / "detections.json", json.dumps(result, indent=1) + "\n")
    if options.json:
        print(json.dumps(result, indent=1))
    for text in unreadable:
        print(f"error: {text}", file=sys.stderr)
    if found and not options.json:
        drawn_too = "" if options.no_draw else ", drawn/"
        print(f"written to {output}: detections.json, Task1/{drawn_too}")
    return int(ExitCode.UNREADABLE_FILE if unreadable else ExitCode.REGISTERED)


def _images(given: list[str]) -> list[Path]:
    from rotaware.datasets import IMAGE_ENDINGS

    paths: list[Path] = []
    for each in map(Path, given):
        if each.is_dir():
            inside = sorted(path for path in each.iterdir() if path.suffix.lower() in IMAGE_ENDINGS)
            if not inside:
                raise Fault(f"{each}: expected images ({', '.join(IMAGE_ENDINGS)}) in the folder, found none")
            paths += inside
        elif each.is_file():
            paths.append(each)
        else:
            raise FileNotFoundError(f"{each}: no such image or folder")
    names: dict[str, Path] = {}
    for path in dict.fromkeys(paths):
        if path.stem in names:
            raise Fault(f"{names[path.stem]} and {path}: expected images whose names differ")
        if any(mark in path.stem for mark in " \t\n"):
            raise Fault(f"{path}: expected a name without blanks, which files of the server cannot hold")
        names[path.stem] = path
    return list(names.values())


def _detector(options: argparse.Namespace) -> tuple[Detector, dict[str, Any]]:
    import torch

    from rotaware.detection import load_detector

    folder = detector_in(options.model)
    with faults(ExitCode.UNREADABLE_FILE):
        detector = load_detector(folder)
    name = options.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        detector.to(name)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name}: {str(error).splitlines()[0]}") from error
    return detector, json.loads((folder / "config.json").read_text(encoding="utf-8"))["notes"]


def _read(paths: list[Path], unreadable: list[str]) -> Iterator[tuple[Path, np.ndarray]]:
    from rotaware.datasets import read_image

    for path in paths:
        try:
            yield path, read_image(path)
        except ValueError as error:
            unreadable.append(str(error))


def _objects(each: Detections, quads: Any, least: float, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    return [
        {
            "class": classes[label],
            "score": round(score, 5),
            "box": [round(value, 4) for value in box],
            "quad": [[round(x, 2), round(y, 2)] for x, y in quad],
        }
        for label, score, box, quad in zip(
            each.labels.tolist(), each.scores.tolist(), each.boxes.tolist(), quads.tolist(), strict=True
        )
        if score >= least
    ]


def _save(pixels: np.ndarray, path: Path) -> None:
    from PIL import Image

    from rotaware.geo.files import write_whole

    write_whole(path, partial(Image.fromarray(pixels).save, format="PNG"))


def _counted(labels: Any, classes: tuple[str, ...]) -> str:
    counts = labels.bincount(minlength=len(classes)).tolist()
    parts = [f"{count} {name}" for name, count in zip(classes, counts, strict=True) if count]
    return ", ".join(parts) or "nothing found"
