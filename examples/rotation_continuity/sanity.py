"""Can a network learn the identity on SO(3)? Only where the representation of its output is continuous.

The paper's sanity test: a small network sees the nine entries of a random rotation matrix and has to give the same
rotation back, through the representation under test. The error of the continuous ones stays small for every rotation.
The others have rotations near which the numbers jump; there the network, which is continuous, answers with anything
between the two sides, and the error reaches 180 degrees.

Settings: four linear layers of width 128, batches of 64, mean squared difference of matrix entries, 100,000 test
rotations. By default 20,000 steps of Adam with a learning rate that falls from 1e-3 to 0, about 20 seconds for each
head; with --full the paper's 500,000 steps at 1e-5, then 1e-6. Rotations are uniform (Haar) as in the released code;
--law uniform draws the angle uniformly, as in the paper's text.

Run: python examples/rotation_continuity/sanity.py [--heads LIST] [--full]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
import torch
from command import checkpoint_interval, parser_of, run
from published import HEADS, TITLES, Row, row_of
from report import report
from torch import Tensor, nn
from training import Batch, Checkpoints, Rate, cosine, perceptron, steps, train

from rotaware.geo import RotationHead, geodesic_distance, random_rotations


@dataclass(frozen=True)
class Settings:
    """Length and schedule of a run."""

    iterations: int
    schedule: Literal["cosine from 1e-3", "1e-5, then 1e-6"]
    law: Literal["haar", "uniform"] = "haar"
    loss: Literal["chordal", "geodesic"] = "chordal"
    batch: int = 64
    width: int = 128
    test_rotations: int = 100_000

    def rate(self) -> Rate:
        """Learning rate by iteration."""
        return cosine(1e-3, self.iterations) if self.schedule.startswith("cosine") else steps((0, 1e-5), (10_000, 1e-6))


SHORT = Settings(20_000, "cosine from 1e-3")
FULL = Settings(500_000, "1e-5, then 1e-6")
QUICK = replace(SHORT, iterations=100, test_rotations=2_000)


class AutoEncoder(nn.Module):
    """From a rotation to the numbers of a representation."""

    def __init__(self, head: RotationHead, width: int) -> None:
        super().__init__()
        self.layers = perceptron([9, width, width, width, head.dim])
        self.head = head

    def forward(self, rotation: Tensor) -> Tensor:
        """(B, 3, 3) -> (B, dim)."""
        return self.layers(rotation.flatten(-2))


def learn(name: str, settings: Settings, options: argparse.Namespace) -> tuple[Row, np.ndarray]:
    """Train and test one head; its row of the table and its errors in degrees."""
    torch.manual_seed(options.seed)
    generator = torch.Generator(options.device).manual_seed(options.seed)
    model = AutoEncoder(RotationHead(name), settings.width).to(options.device)

    def draw(count: int) -> Iterable[Batch]:
        rotations = random_rotations((count, settings.batch), angle_law=settings.law, generator=generator)
        return ((rotation,) for rotation in rotations)

    trained = train(
        model,
        draw,
        lambda rotation: model.head.loss(model(rotation), rotation, kind=settings.loss),
        iterations=settings.iterations,
        rate=settings.rate(),
        generator=generator,
        checkpoints=Checkpoints(
            options.out / "checkpoints" / f"sanity_{name}.pt",
            checkpoint_interval(options),
            options.resume,
            {"head": name, "seed": options.seed, **asdict(settings)},
        ),
        title=TITLES[name],
    )
    model.eval()
    # A seed of its own, so that every head is tested on the same rotations whatever training drew.
    generator = torch.Generator(options.device).manual_seed(options.seed + 1)
    errors = []
    with torch.no_grad():
        for count in chunks(settings.test_rotations, 10_000):
            rotation = random_rotations(count, angle_law=settings.law, generator=generator)
            errors.append(geodesic_distance(model.head(model(rotation)), rotation).cpu())
    degrees = np.degrees(torch.cat(errors).double().numpy())
    row = row_of(name, TITLES[name], model.head.dim, degrees, trained.ms_per_iteration, trained.loss)
    return row, degrees


def chunks(total: int, size: int) -> list[int]:
    """`total` in portions of at most `size`."""
    return [min(size, total - start) for start in range(0, total, size)]


def main(arguments: list[str] | None = None) -> list[Row]:
    """Train every head, print the table, draw the curves."""
    parser = parser_of(__doc__ or "", HEADS, HEADS)
    parser.add_argument("--law", choices=("haar", "uniform"), default="haar", help="how random rotations are drawn")
    parser.add_argument(
        "--loss", choices=("chordal", "geodesic"), default="chordal", help="difference of matrices, or angle"
    )
    options = parser.parse_args(arguments)
    if options.loss == "geodesic" and "raw_9d" in options.heads:
        parser.error("--loss geodesic: raw matrices have no angle to learn from; leave raw_9d out of --heads")
    torch.set_num_threads(options.threads)
    settings = FULL if options.full else QUICK if options.quick else SHORT
    settings = replace(settings, law=options.law, loss=options.loss)
    settings = replace(settings, iterations=options.iterations or settings.iterations)
    rows, errors = [], {}
    for name in options.heads:
        row, degrees = learn(name, settings, options)
        rows.append(row)
        errors[row.title] = degrees
        print(f"{row.title}: mean {row.mean:.2f}, max {row.max:.2f} deg", flush=True)
    constant = math.degrees(math.pi / 2 + 2 / math.pi) if settings.law == "haar" else 90.0
    print(f"\nAuto-encoder on SO(3), error in degrees; always answering the identity scores {constant:.1f}\n")
    report(
        "sanity",
        rows,
        {f"auto-encoder on SO(3), {settings.iterations} iterations": errors},
        options=options,
        settings=asdict(settings),
        unit="deg",
        low=0.01,
        high=180.0,
    )
    return rows


if __name__ == "__main__":
    run(main)
