"""Detectors on a GPU, for `gpu.py`: whether they find what they find on the CPU, then images per second and memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from rotaware.detection import Detector, DetectorConfig, ResNetConfig, RPNOptions, Targets, build_detector
from rotaware.geo import ARCConv2d, box_iou_rotated, nms_rotated, normalize_boxes, quad_iou
from rotaware.geo.boxes import boxes_to_quads
from rotaware.kernels import pool_rois

CLASSES = tuple(f"class{number}" for number in range(15))
REPEATS = 10


def objects(count: int, extent: float, seed: int) -> torch.Tensor:
    """(count, 5) boxes."""
    draw = torch.rand(count, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    sides = extent * (0.01 + 0.1 * draw[:, 2:4])
    return normalize_boxes(torch.cat([extent * draw[:, :2], sides, torch.pi * draw[:, 4:]], dim=1))


def oriented_rcnn(tiny: bool, arc: bool) -> Detector:
    """As published, or a small one for the test of the script."""
    stages = (2, 3, 4) if arc else ()
    torch.manual_seed(0)
    if not tiny:
        backbone = ResNetConfig(50, arc_stages=stages, frozen_stages=1, frozen_norms=True)
        return build_detector(DetectorConfig("oriented_rcnn", CLASSES, backbone))
    options = RPNOptions(before=50, after=20)
    return build_detector(
        DetectorConfig("oriented_rcnn", CLASSES, ResNetConfig(18, width=8, arc_stages=stages), channels=16, rpn=options)
    )


def check_detection(device: str, tiny: bool) -> list[dict[str, Any]]:
    """Records like those of `gpu_checks.run_check`: each operator on the device against the compiled one on the CPU."""
    count = 60 if tiny else 600
    a, b = objects(count, 512, 0), objects(count, 512, 1)
    scores = torch.rand(count, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    levels = [torch.randn(1, 8, 128 // 2**k, 128 // 2**k, generator=torch.Generator().manual_seed(k)) for k in range(4)]
    rois = torch.cat([torch.zeros(count, 1), a.float()], dim=1)
    torch.manual_seed(0)
    layer, images = ARCConv2d(16, 16, 3, padding=1).eval(), torch.randn(3, 16, 20, 20)
    detector, picture = oriented_rcnn(True, True).eval(), torch.rand(2, 3, 96, 128) * 255
    cases: dict[str, Callable[[str], torch.Tensor]] = {
        "box_iou_rotated": lambda on: box_iou_rotated(a.to(on), b.to(on)),
        "quad_iou": lambda on: quad_iou(boxes_to_quads(a).to(on), boxes_to_quads(b).to(on)),
        "nms_rotated": lambda on: nms_rotated(a.to(on), scores.to(on), 0.1).double(),
        "pool_rois": lambda on: pool_rois([each.to(on) for each in levels], rois.to(on), 7, (4, 8, 16, 32)),
        "ARCConv2d": lambda on: layer.to(on)(images.to(on)),
        "levels of a detector": lambda on: detector.to(on).levels(picture.to(on))[0],
    }
    records = []
    with torch.no_grad():
        for name, call in cases.items():
            wanted, found, again = call("cpu"), call(device).cpu(), call(device).cpu()
            same = wanted.shape == found.shape
            close = same and torch.allclose(wanted, found, rtol=1e-3, atol=1e-4)
            records.append({
                "kernel": name, "case": f"{count} boxes", "dtype": str(wanted.dtype).removeprefix("torch."),
                "passed": bool(close and torch.equal(found, again)), "wrong": [] if close else ["output"],
            })  # fmt: skip
    return records


def time_detection(device: torch.device, tiny: bool) -> list[dict[str, Any]]:
    """Images per second and peak memory of Oriented R-CNN, plain and ARC, for inference and a step of training."""
    size, records = 96 if tiny else 1024, []
    for arc in (False, True):
        detector = oriented_rcnn(tiny, arc).to(device)
        optimizer = torch.optim.SGD([each for each in detector.parameters() if each.requires_grad], lr=0.0)
        for dtype in ("float32",) if tiny else ("float32", "bfloat16"):
            for training, batch in ((False, 1), (True, 2)) if tiny else ((False, 1), (False, 8), (True, 2)):
                images = torch.rand(batch, 3, size, size, device=device) * 255
                targets = [
                    Targets(
                        objects(40, size, number).float().to(device), torch.arange(40, device=device) % len(CLASSES)
                    )
                    for number in range(batch)
                ]

                def step(training: bool = training, images: Any = images, targets: Any = targets) -> None:
                    with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16"):  # noqa: B023
                        if not training:
                            detector(images)  # noqa: B023
                            return
                        generator = torch.Generator().manual_seed(0)
                        losses = detector.losses(images, targets, generator=generator)  # noqa: B023
                    optimizer.zero_grad()  # noqa: B023
                    torch.stack(list(losses.values())).sum().backward()
                    optimizer.step()  # noqa: B023

                detector.train(training)
                seconds, megabytes = timed(step, device, 1 if tiny else REPEATS)
                records.append({
                    "detector": "oriented_rcnn", "arc": arc, "dtype": dtype, "training": training, "batch": batch,
                    "pixels": size, "seconds": seconds, "images_per_second": batch / seconds,
                    "peak_megabytes": megabytes,
                })  # fmt: skip
    return records


def timed(step: Callable[[], None], device: torch.device, repeats: int) -> tuple[float, float | None]:
    """Median seconds of a call that is waited for, and the most memory held, megabytes."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    step()
    wait()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        wait()
        times.append(time.perf_counter() - start)
    megabytes = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    return statistics.median(times), megabytes


def detection_table(records: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| backbone | precision | pass | batch | images/s | peak MB |", "|---|---|---|---:|---:|---:|"]
    for each in records:
        megabytes = "-" if each["peak_megabytes"] is None else f"{each['peak_megabytes']:.0f}"
        backbone, what = "ARC-ResNet" if each["arc"] else "ResNet", "training" if each["training"] else "inference"
        cells = (backbone, each["dtype"], what, each["batch"], f"{each['images_per_second']:.1f}", megabytes)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)
