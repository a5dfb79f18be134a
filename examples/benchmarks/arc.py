"""Adaptive rotated convolution beside ordinary convolution: whole backbones, inference and a step of training.

The layer is compared with its definition, a sum of convolutions with turned kernels, before anything is timed. Plain
and ARC backbones (stages 2 to 4, four kernels) take turns within each repetition; reported are the median time of each
in milliseconds and the median, least and greatest of their quotients. A step of training is forward and backward.

The table goes to standard output; with `--output` the JSON goes to that file and the table beside it as .md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from protocol import core_count, described, environment, markdown_table
from torch import Tensor
from torch.nn import functional

from rotaware.detection import ResNet, ResNetConfig
from rotaware.geo import ARCConv2d, rotate_kernel
from rotaware.geo.files import write_whole

VERSIONS_OF = ("rotaware", "torch")
ARC_STAGES = (2, 3, 4)


@dataclass(frozen=True)
class Case:
    """What is timed: a backbone on a batch of square images."""

    depth: int
    pixels: int
    batch: int
    training: bool = False


CASES = (
    Case(50, 512, 1), Case(50, 512, 2), Case(50, 1024, 1), Case(18, 256, 4), Case(18, 256, 4, training=True),
    Case(50, 512, 2, training=True),
)  # fmt: skip
QUICK = (Case(18, 64, 2), Case(18, 64, 2, training=True))


@torch.no_grad()
def check() -> None:
    """End the run where the layer is not the sum of convolutions with turned kernels."""
    torch.manual_seed(0)
    layer = ARCConv2d(32, 24, 3, stride=2, padding=1).eval()
    layer.routing.angle.weight.mul_(100)
    images = torch.randn(3, 32, 20, 20)
    for image, found, angles, gates in zip(images, layer(images), *layer.routing(images), strict=True):
        terms = [
            gate * functional.conv2d(image, rotate_kernel(weight, angle.expand(len(weight))), stride=2, padding=1)
            for weight, angle, gate in zip(layer.weight, angles, gates, strict=True)
        ]
        if not torch.allclose(found, torch.stack(terms).sum(0), atol=1e-4):
            raise SystemExit("the layer differs from its definition, nothing is reported")


def call_of(model: ResNet, images: Tensor, training: bool) -> Callable[[], None]:
    """One inference, or one forward and backward pass."""

    def infer() -> None:
        with torch.inference_mode():
            model(images)

    def step() -> None:
        sum(level.square().mean() for level in model(images)).backward()
        model.zero_grad()

    return step if training else infer


def timed(case: Case, threads: int, repeats: int) -> dict[str, Any]:
    """Times of both backbones and their quotients, ARC over plain."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    images = torch.randn(case.batch, 3, case.pixels, case.pixels)
    configs = {"plain": ResNetConfig(case.depth), "arc": ResNetConfig(case.depth, arc_stages=ARC_STAGES)}
    calls = {
        name: call_of(ResNet(config).train(case.training), images, case.training) for name, config in configs.items()
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repetition in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            # The first one warms up.
            if repetition:
                times[name].append(1e3 * (time.perf_counter() - start))
    quotients = [arc / plain for plain, arc in zip(times["plain"], times["arc"], strict=True)]
    return asdict(case) | {
        "threads": threads,
        "repeats": repeats,
        "plain_ms": statistics.median(times["plain"]),
        "arc_ms": statistics.median(times["arc"]),
        "quotient": statistics.median(quotients),
        "quotient_min": min(quotients),
        "quotient_max": max(quotients),
    }


def row_of(record: dict[str, Any]) -> list[str]:
    """Cells of the table."""
    return [
        f"ResNet-{record['depth']}, {'training' if record['training'] else 'inference'}",
        *(str(record[name]) for name in ("pixels", "batch", "threads")),
        f"{record['plain_ms']:.0f}",
        f"{record['arc_ms']:.0f}",
        f"{record['quotient']:.2f} ({record['quotient_min']:.2f} to {record['quotient_max']:.2f})",
    ]


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Check, time, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small images and few repeats: a test of this script")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=core_count())
    parser.add_argument("--output", type=Path, help="file for the JSON, replaced when the run is complete")
    options = parser.parse_args(arguments)
    report: dict[str, Any] = environment(VERSIONS_OF)
    check()
    cases, repeats = (QUICK, 2) if options.quick else (CASES, options.repeats)
    report["results"] = [timed(case, options.threads, repeats) for case in cases]
    header = ("backbone", "pixels", "batch", "threads", "plain, ms", "ARC, ms", "ARC / plain (range)")
    table = markdown_table(header, [row_of(record) for record in report["results"]])
    print(f"{table}\n\n{described(report)}")
    if options.output is not None:
        write_whole(options.output, json.dumps(report, indent=1) + "\n")
        write_whole(options.output.with_suffix(".md"), f"{table}\n\n{described(report)}\n")
    return report


if __name__ == "__main__":
    main()
