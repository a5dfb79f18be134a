"""`rotaware detect train`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .detect_data import TrainingImages, add_data_options, annotations_of, detector_in, labelled_images
from .messages import ExitCode, Fault, faults, format_count
from .options import count

if TYPE_CHECKING:
    from lightning.fabric import Fabric

    from rotaware.detection import Detector, Recipe

SUMMARY = "train a detector on labelled images"

# As `rotaware.detection`, which would be slow to import for --help.
KINDS = ("oriented_rcnn", "rotated_faster_rcnn", "rotated_retinanet", "s2anet")
BACKBONES = tuple(f"{prefix}resnet{depth}" for depth in (18, 34, 50, 101) for prefix in ("", "arc-"))
_SECONDS_PER_LINE = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `rotaware detect train`."""
    parser.add_argument("root", metavar="ROOT", help="folder with images/ and labelTxt/ as DOTA's, or HRSC2016")
    add_data_options(parser)
    parser.add_argument("-o", "--out", required=True, metavar="DIR", help="folder of the run")
    parser.add_argument("--validation", metavar="ROOT", help="labelled images of which none is trained on")
    parser.add_argument("--validation-split", metavar="NAME", help="of that folder")
    parser.add_argument("--detector", choices=KINDS, default="oriented_rcnn", metavar="NAME",
                        help=f"{', '.join(KINDS)} (default oriented_rcnn)")  # fmt: skip
    parser.add_argument("--backbone", choices=BACKBONES, metavar="NAME",
                        help="resnet18, 34, 50, 101, or arc-resnet18, ... with adaptive rotated convolutions "
                        "(default arc-resnet50, with --small arc-resnet18)")  # fmt: skip
    parser.add_argument("--small", action="store_true",
                        help="a small detector with a schedule from random weights, for a laptop")  # fmt: skip
    parser.add_argument("--weights", metavar="FILE", help="state dict of a ResNet of the common public kind")
    parser.add_argument("--start", metavar="DIR", help="begin with the weights of this detector")
    parser.add_argument("--epochs", type=count(1), metavar="N", help="times every image is seen (default 12)")
    parser.add_argument("--steps", type=count(1), metavar="N", help="instead of epochs (default with --small 4000)")
    parser.add_argument("--size", type=count(32), metavar="PX", help="edge of the crops (default 1024; small 192)")
    parser.add_argument("--rotate", action="store_true", help="turn images by any angle, half of the time")
    parser.add_argument("--seed", type=count(0), default=0, metavar="N", help="of all that is drawn (default 0)")
    parser.add_argument("--config", metavar="FILE", help="JSON with values to change in the recipe; see recipe.json")
    parser.add_argument("--resume", action="store_true", help="go on with the run in the folder")
    parser.add_argument("--workers", type=count(0), default=2, metavar="N", help="processes for images (default 2)")
    parser.add_argument("--save-every", type=count(1), default=500, metavar="N", help="steps (default 500)")
    parser.add_argument("--validate-every", type=count(1), default=1000, metavar="N", help="steps (default 1000)")
    parser.add_argument("--accelerator", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    parser.add_argument("--devices", type=count(1), default=1, metavar="N", help="GPUs or processes (default 1)")
    parser.add_argument("--precision", default="32-true", metavar="NAME", help="such as bf16-mixed, on GPUs")


def run(options: argparse.Namespace) -> int:
    """Train; exit 0 at the end, 130 if it was stopped before."""
    from rotaware.detection.training import NonFiniteError, ResumeError, train_detector
    from rotaware.geo.files import write_whole
    from rotaware.geo.training_runs import keep_freed_memory

    keep_freed_memory()
    images = labelled_images(options.root, options)
    source = TrainingImages(images)
    if not len(source):
        raise Fault(f"{options.root}: expected images with objects, got {len(images)} images without any")
    for kind, number in source.problems.items():
        print(f"note: labels left out or repaired: {kind} ({number})", file=sys.stderr)
    with faults():
        recipe = _recipe(options, images.classes, len(source))
    fabric = _fabric(options)
    detector = _first(recipe, options)
    output = Path(options.out)
    said = (
        f"{recipe.detector.kind} on {format_count(len(source))} images, {format_count(recipe.training.steps)} steps, "
        f"{format_count(sum(each.numel() for each in detector.parameters()))} parameters"
    )
    if fabric.global_rank == 0:
        print(said, file=sys.stderr)
        write_whole(output / "recipe.json", json.dumps(recipe.to_dict(), indent=1) + "\n")
    with _progress(recipe.training.steps, silent=fabric.global_rank > 0) as on_step:
        try:
            ended = train_detector(
                detector,
                source,
                recipe.augmentation,
                recipe.training,
                output,
                fabric=fabric,
                resume=options.resume,
                workers=options.workers,
                save_every=options.save_every,
                validate=_validation(options, images.classes, recipe.augmentation.size),
                validate_every=options.validate_every,
                on_step=on_step,
            )
        except (ResumeError, NonFiniteError) as error:
            raise Fault(str(error)) from error
    if fabric.global_rank == 0:
        print(f"the detector is in {output / 'final'}" if ended else "stopped; --resume goes on from the last step")
    return int(ExitCode.REGISTERED if ended else ExitCode.INTERRUPTED)


def _recipe(options: argparse.Namespace, classes: tuple[str, ...], images: int) -> Recipe:
    from rotaware.detection import published_recipe, small_recipe

    if options.small:
        backbone = options.backbone or "arc-resnet18"
        recipe = small_recipe(options.detector, classes, backbone=backbone, rotated=options.rotate)
    else:
        recipe = published_recipe(
            options.detector, classes, images, backbone=options.backbone or "arc-resnet50",
            pretrained=bool(options.weights or options.start), rotated=options.rotate,
        )  # fmt: skip
    training: dict[str, Any] = {"seed": options.seed}
    if options.steps or options.epochs:
        training["steps"] = options.steps or max(1, -(-images * options.epochs // recipe.training.batch))
    changes: dict[str, Any] = {"training": training}
    if options.size:
        changes["augmentation"] = {"size": options.size}
    recipe = recipe.changed(changes)
    if options.config is None:
        return recipe
    try:
        given = json.loads(Path(options.config).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise Fault(f"{options.config}: expected JSON, got {error}", ExitCode.UNREADABLE_FILE) from error
    if not isinstance(given, Mapping):
        raise Fault(f"{options.config}: expected an object, got {type(given).__name__}")
    return recipe.changed(given)


def _first(recipe: Recipe, options: argparse.Namespace) -> Detector:
    """The detector with its first weights."""
    import torch

    from rotaware.detection import build_detector, load_detector, load_resnet

    torch.manual_seed(recipe.training.seed)
    detector = build_detector(recipe.detector)
    if options.start:
        folder = detector_in(options.start)
        with faults(ExitCode.UNREADABLE_FILE):
            start = load_detector(folder)
        if start.config != recipe.detector:
            raise Fault(f"--start: expected a detector with the configuration of the recipe, got another in {folder}")
        return start
    if options.weights:
        with faults(ExitCode.UNREADABLE_FILE):
            load_resnet(detector.backbone, _state_dict(Path(options.weights)))
    return detector


def _state_dict(path: Path) -> Mapping[str, Any]:
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path}: expected a state dict, got {error}") from error
    if not isinstance(found, Mapping):
        raise ValueError(f"{path}: expected a state dict, got {type(found).__name__}")
    return found.get("state_dict", found)


def _fabric(options: argparse.Namespace) -> Fabric:
    try:
        from lightning.fabric import Fabric
    except ImportError as error:
        raise Fault("training needs lightning: pip install 'rotaware[train]'") from error
    fabric = Fabric(accelerator=options.accelerator, devices=options.devices, precision=options.precision)
    fabric.launch()
    return fabric


def _validation(
    options: argparse.Namespace, classes: tuple[str, ...], size: int
) -> Callable[[Detector], Mapping[str, float]] | None:
    """Average precision on whole images."""
    if options.validation is None:
        return None
    from rotaware.detection import Tiling, by_class, detect_images, evaluate_detections

    given = argparse.Namespace(**{**vars(options), "split": options.validation_split})
    images = labelled_images(options.validation, given, classes=classes)
    annotations = annotations_of(images)
    tiling = Tiling(size=size, overlap=size // 5)

    def measured(detector: Detector) -> dict[str, float]:
        pixels = ((images.name(number), images[number].image) for number in range(len(images)))
        found = by_class(detect_images(detector, pixels, tiling), classes)
        # What is small is often a set of patches.
        result = evaluate_detections(found, annotations, classes, version=options.data_version, patches=True)
        return {name: result.mean(name) or 0.0 for name in ("ap50", "ap75", "ap50_95")}

    return measured


@contextmanager
def _progress(steps: int, *, silent: bool) -> Iterator[Callable[[Mapping[str, float]], None] | None]:
    """A bar on a terminal, a line now and then elsewhere."""
    if silent:
        yield None
        return
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns: tuple[Any, ...] = (
            BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}")
        )  # fmt: skip
        with Progress(*columns, console=Console(stderr=True)) as bars:
            task = bars.add_task("", total=steps)
            yield lambda record: bars.update(task, completed=record["step"], description=_said(record))
        return
    said = time.monotonic()

    def on_step(record: Mapping[str, float]) -> None:
        nonlocal said
        validated = any(name.startswith("validation") for name in record)
        if validated or record["step"] == steps or time.monotonic() - said > _SECONDS_PER_LINE:
            said = time.monotonic()
            print(f"step {record['step']} of {steps}   {_said(record)}", file=sys.stderr, flush=True)

    yield on_step


def _said(record: Mapping[str, float]) -> str:
    measured = [
        f"{name.removeprefix('validation_').upper()} {value:.3f}"
        for name, value in record.items()
        if name.startswith("validation")
    ]
    return "  ".join([f"loss {record['total']:.3f}", *measured])
