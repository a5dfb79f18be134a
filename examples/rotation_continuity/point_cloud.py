"""By which rotation was this point cloud turned? A network sees a cloud and its turned copy.

The paper's second experiment. Both clouds pass through the same point-wise layers and a maximum over the points; three
linear layers then give the numbers of the representation under test. Loss: squared difference of matrices. Angles of
the test are uniform in 0..180 degrees, axes uniform, as in the paper; --law haar draws rotations uniformly, as later
papers do.

By default generated airplanes and a smaller network, minutes in all; with --full the published sizes, 2.6 million
steps of one cloud and ten rotations at a learning rate of 1e-5. --data takes a folder of point files. In the short run
5D, the slowest of the continuous ones to learn, is behind the quaternion and raw matrices are ahead of 6D; the others
rank as published.

Run: python examples/rotation_continuity/point_cloud.py [--data FOLDER] [--full]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from command import checkpoint_interval, parser_of, run
from published import HEADS, TITLES, Row, row_of
from report import report
from shapes import airplanes, folder_of_clouds
from torch import Tensor, nn
from training import Batch, Checkpoints, cosine, perceptron, steps, train

from rotaware.geo import RotationHead, geodesic_distance, random_rotations

DEFAULT_HEADS = ("9d", "two_vector", "6d", "5d", "raw_9d", "quaternion", "euler", "axis_angle_4d")


@dataclass(frozen=True)
class Settings:
    """Sizes and length of a run."""

    iterations: int
    points: int | None  # of a cloud; None: the whole first half of a file
    clouds: int  # in a batch
    rotations: int  # of each of them
    encoder: tuple[int, ...]
    hidden: tuple[int, ...]
    test_rotations: int  # of each held-out cloud
    peak_rate: float | None  # falling to 0; None: 1e-5 throughout
    law: Literal["haar", "uniform"] = "uniform"
    generated: tuple[int, int] = (200, 40)  # training and held-out airplanes, where there is no data


SHORT = Settings(5_000, 64, 16, 4, (32, 128), (256, 256), 25, 1e-3)
FULL = Settings(2_600_000, None, 1, 10, (64, 128, 1024), (512, 512), 100, None, generated=(2290, 400))
QUICK = replace(SHORT, iterations=20, test_rotations=4, generated=(20, 5))
# The size of a half file of the paper's data.
GENERATED_POINTS = 1300


class PoseNetwork(nn.Module):
    """From two clouds to the numbers of a representation."""

    def __init__(self, head: RotationHead, settings: Settings) -> None:
        super().__init__()
        self.encoder = perceptron([3, *settings.encoder])
        self.regressor = perceptron([2 * settings.encoder[-1], *settings.hidden, head.dim])
        self.head = head

    def forward(self, clouds: Tensor, rotations: Tensor) -> Tensor:
        """(C, P, 3) and (C, R, 3, 3) -> (C, R, dim)."""
        turned = torch.einsum("crij,cpj->crpi", rotations, clouds)
        code = self.encoder(clouds).amax(-2).unsqueeze(1)  # (C, 1, F)
        turned_code = self.encoder(turned).amax(-2)  # (C, R, F)
        return self.regressor(torch.cat([code.expand_as(turned_code), turned_code], -1))


def learn(
    name: str, settings: Settings, options: argparse.Namespace, training: Tensor, held_out: Tensor
) -> tuple[Row, np.ndarray]:
    """Train and test one head; its row of the table and its errors in degrees."""
    torch.manual_seed(options.seed)
    generator = torch.Generator(options.device).manual_seed(options.seed)
    model = PoseNetwork(RotationHead(name), settings).to(options.device)

    def draw(count: int) -> Iterable[Batch]:
        chosen = torch.randint(len(training), (count, settings.clouds), generator=generator, device=options.device)
        size = (count, settings.clouds, settings.rotations)
        turns = random_rotations(size, angle_law=settings.law, generator=generator)
        return ((training[clouds], turn) for clouds, turn in zip(chosen, turns, strict=True))

    trained = train(
        model,
        draw,
        lambda clouds, turns: model.head.loss(model(clouds, turns), turns),
        iterations=settings.iterations,
        rate=steps((0, 1e-5)) if settings.peak_rate is None else cosine(settings.peak_rate, settings.iterations),
        generator=generator,
        checkpoints=Checkpoints(
            options.out / "checkpoints" / f"point_cloud_{name}.pt",
            checkpoint_interval(options),
            options.resume,
            {"head": name, "seed": options.seed, "data": str(options.data), **asdict(settings)},
        ),
        title=TITLES[name],
    )
    model.eval()
    generator = torch.Generator(options.device).manual_seed(options.seed + 1)
    errors = []
    with torch.no_grad():
        for cloud in held_out.split(1):
            turns = random_rotations((1, settings.test_rotations), angle_law=settings.law, generator=generator)
            # Few at a time: the features of a hundred full clouds fill half a gigabyte.
            for some in turns.split(25, dim=1):
                errors.append(geodesic_distance(model.head(model(cloud, some)), some)[0].cpu())
    degrees = np.degrees(torch.cat(errors).double().numpy())
    row = row_of(name, TITLES[name], model.head.dim, degrees, trained.ms_per_iteration, trained.loss)
    return row, degrees


def clouds_of(settings: Settings, options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Training and held-out clouds, each (clouds, points, 3)."""
    if options.data is not None:
        return folder_of_clouds(options.data, settings.points)
    generator = torch.Generator().manual_seed(options.seed)
    together = airplanes(sum(settings.generated), settings.points or GENERATED_POINTS, generator)
    return together[: settings.generated[0]], together[settings.generated[0] :]


def main(arguments: list[str] | None = None) -> list[Row]:
    """Train every head, print the table, draw the curves."""
    parser = parser_of(__doc__ or "", HEADS, DEFAULT_HEADS)
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="point files; without it airplanes are generated")
    parser.add_argument("--law", choices=("haar", "uniform"), default="uniform", help="how random rotations are drawn")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    settings = FULL if options.full else QUICK if options.quick else SHORT
    settings = replace(settings, law=options.law, iterations=options.iterations or settings.iterations)
    training, held_out = (clouds.to(options.device) for clouds in clouds_of(settings, options))
    source = options.data or "generated airplanes"
    print(f"{source}: {len(training)} clouds to train on, {len(held_out)} held out, {training.shape[1]} points each")
    rows, errors = [], {}
    for name in options.heads:
        row, degrees = learn(name, settings, options, training, held_out)
        rows.append(row)
        errors[row.title] = degrees
        print(f"{row.title}: mean {row.mean:.2f}, max {row.max:.2f} deg", flush=True)
    kind = "point clouds" if options.data else "generated airplanes"
    print("\nRotation between two point clouds, error in degrees\n")
    report(
        "point_cloud",
        rows,
        {f"pose of {kind}, {settings.iterations} iterations": errors},
        options=options,
        settings={**asdict(settings), "data": str(source), "clouds_found": [len(training), len(held_out)]},
        unit="deg",
        low=0.1,
        high=180.0,
    )
    return rows


if __name__ == "__main__":
    run(main)
