"""What detectors have learnt of generated aerial scenes, with and without ARC: accuracy on unseen ones, quarter turns.

    rotaware dota scenes scenes/train --count 4000 --seed 1
    rotaware dota scenes scenes/val --count 100 --seed 900
    rotaware dota scenes scenes/test --count 300 --seed 901
    for seed in 0 1 2; do for backbone in arc-resnet18 resnet18; do
        rotaware detect train scenes/train --small --detector oriented_rcnn --backbone $backbone --steps 3000 \
            --seed $seed --validation scenes/val -o runs/oriented_rcnn-$backbone-$seed
    done; done
    python examples/detection/learning.py --test scenes/test --output examples/detection/results/learning.json runs/*

Of a run, the weights at its end are scored, not those that did best on the validation set. Quarter turns: images are
also seen turned by 90 degrees; of detections with a score above 0.5, the share that is found again within one pixel,
by the centre and by every corner, once by the detector as it is and once with `--turns`, which sees each tile in four
directions. Both ways: what is found upright must be found turned, and the other way round. The JSON goes to a file with
`--output`, a table beside it as .md and to standard output.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rotaware.datasets import DOTA, AerialScenes, write_dota
from rotaware.detection import (
    Annotations,
    Detections,
    Detector,
    Sample,
    Tiling,
    build_detector,
    by_class,
    detect_images,
    evaluate_detections,
    load_detector,
    small_recipe,
    train_detector,
)
from rotaware.geo import boxes_to_quads
from rotaware.geo.files import write_whole
from rotaware.geo.training_runs import read_log

CONFIDENT = 0.5
WITHIN = 1.0
MEASURES = ("ap50", "ap75", "ap50_95")


def scores(detector: Detector, test: DOTA) -> dict[str, float]:
    """Average precision on whole images."""
    images = ((test.name(number), test[number].image) for number in range(len(test)))
    found = by_class(detect_images(detector, images), test.classes)
    truth = {}
    for number in range(len(test)):
        each = test.objects(number)
        labels = tuple(test.classes[label] for label in each.labels)
        truth[test.name(number)] = Annotations(each.quads, labels, each.difficult)
    result = evaluate_detections(found, truth, test.classes)
    by_name = {f"ap50_{name}": each.ap50 or 0.0 for name, each in result.classes.items()}
    return {name: result.mean(name) or 0.0 for name in MEASURES} | by_name


def found_again(some: Detections, others: Detections) -> tuple[int, int, int]:
    """How many confident detections are there too, of the same class, by the centre and by every corner; and how many
    there are."""
    confident = some.scores > CONFIDENT
    boxes = some.boxes[confident].double()
    same = some.labels[confident][:, None] == others.labels
    if not bool(same.any()):
        return 0, 0, len(boxes)
    centres = (boxes[:, None, :2] - others.boxes[:, :2].double()).norm(dim=-1)
    # From whichever corner a box begins.
    shifted = torch.stack([boxes_to_quads(others.boxes.double()).roll(shift, dims=1) for shift in range(4)])
    corners = (boxes_to_quads(boxes)[:, None] - shifted[:, None]).norm(dim=-1).amax(dim=-1).amin(dim=0)
    by_centre, by_corners = (int(((apart <= WITHIN) & same).any(dim=1).sum()) for apart in (centres, corners))
    return by_centre, by_corners, len(boxes)


def turned_back(found: Detections, height: int) -> Detections:
    """Detections in an image that was turned clockwise by 90 degrees, in the image as it was, `height` pixels high."""
    x, y, w, h, theta = found.boxes.unbind(1)
    boxes = torch.stack([y, height - x, w, h, theta - torch.pi / 2], dim=1)
    return Detections(boxes, found.scores, found.labels)


def quarter_turns(detector: Detector, test: DOTA, turns: bool, images: int) -> tuple[float, float]:
    """Shares of confident detections that are found again, by the centre and by every corner, in both directions."""
    tiling, counts = Tiling(turns=turns), np.zeros(3)
    for number in range(min(images, len(test))):
        pixels = test[number].image
        pair = [("upright", pixels), ("turned", np.ascontiguousarray(np.rot90(pixels, -1)))]
        (_, upright), (_, turned) = detect_images(detector, pair, tiling)
        back = turned_back(turned, len(pixels))
        counts += np.array([found_again(upright, back), found_again(back, upright)]).sum(axis=0)
    by_centre, by_corners, _ = counts / max(1.0, counts[2])
    return float(by_centre), float(by_corners)


def scored(run: Path, root: Path, images: int) -> dict[str, Any]:
    """One record."""
    detector, log = load_detector(run / "final"), read_log(run / "log.jsonl")
    config, test = detector.config, DOTA(root, classes=detector.classes)
    plain, turns = (quarter_turns(detector, test, turns, images) for turns in (False, True))
    return {
        "detector": config.kind,
        "arc": bool(config.backbone.arc_stages),
        "run": run.name,
        "parameters": sum(each.numel() for each in detector.parameters()),
        "steps": len(log),
        "minutes": sum(record["seconds"] + record["waited"] for record in log) / 60,
        **scores(detector, test),
        "turned": {"centre": plain[0], "corners": plain[1]},
        "turned_with_turns": {"centre": turns[0], "corners": turns[1]},
    }


def spread(values: Iterable[float]) -> str:
    """Mean, and the range where there are several."""
    values = list(values)
    mean = f"{100 * statistics.fmean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({100 * min(values):.1f} to {100 * max(values):.1f})"


def table(records: list[dict[str, Any]]) -> str:
    """Markdown: a row per detector and backbone, over the seeds."""
    lines = [
        "| detector | backbone | runs | AP50 | AP75 | AP50:95 | turned: centre, corners | with --turns | minutes |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for kind, arc in dict.fromkeys((record["detector"], record["arc"]) for record in records):
        group = [record for record in records if (record["detector"], record["arc"]) == (kind, arc)]
        cells = [spread(record[name] for record in group) for name in MEASURES]
        for name in ("turned", "turned_with_turns"):
            shares = (statistics.fmean(record[name][point] for record in group) for point in ("centre", "corners"))
            cells.append(", ".join(f"{100 * share:.1f}" for share in shares))
        minutes = statistics.fmean(record["minutes"] for record in group)
        backbone = "ARC-ResNet-18" if arc else "ResNet-18"
        lines.append(f"| {kind} | {backbone} | {len(group)} | {' | '.join(cells)} | {minutes:.0f} |")
    return "\n".join(lines) + "\n"


class Images:
    """Scenes as `train_detector` takes them."""

    def __init__(self, scenes: DOTA) -> None:
        self.scenes = scenes

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, number: int, /) -> Sample:
        """One of them."""
        each = self.scenes[number]
        pixels = torch.from_numpy(each.image).permute(2, 0, 1)
        return Sample(pixels, torch.from_numpy(each.quads), torch.from_numpy(each.labels), each.name)


def tiny_run(folder: Path) -> tuple[Path, Path]:
    """Scenes and a run of two steps: a test of this script."""
    scenes = AerialScenes(4, size=64)
    write_dota(folder / "test", (scenes[number] for number in range(4)), scenes.classes)
    recipe = small_recipe("oriented_rcnn", scenes.classes, steps=2, size=64)
    recipe = recipe.changed({"detector": {"backbone": {"width": 8}, "channels": 16}})
    train_detector(
        build_detector(recipe.detector), Images(DOTA(folder / "test")), recipe.augmentation, recipe.training,
        folder / "run",
    )  # fmt: skip
    return folder / "test", folder / "run"


def main(arguments: list[str] | None = None) -> None:
    """Score every run, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folders of `rotaware detect train`")
    parser.add_argument("--test", type=Path, metavar="ROOT", help="scenes that no run has seen")
    parser.add_argument("--turned-images", type=int, default=100, metavar="N", help="images for quarter turns")
    parser.add_argument("--output", type=Path, help="file for the JSON, replaced when all is done")
    parser.add_argument("--quick", action="store_true", help="a tiny run of its own: a test of this script")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        if options.quick:
            options.test, run = tiny_run(Path(folder))
            options.runs = [run]
        if not options.runs or options.test is None:
            parser.error("expected runs and --test")
        records = [scored(run, options.test, options.turned_images) for run in options.runs]
        images = len(DOTA(options.test))
    print(table(records))
    if options.output is not None:
        report = {"test_images": images, "torch": torch.__version__, "runs": records}
        write_whole(options.output, json.dumps(report, indent=1) + "\n")
        write_whole(options.output.with_suffix(".md"), table(records))


if __name__ == "__main__":
    main()
