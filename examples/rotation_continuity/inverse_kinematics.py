"""From the positions of a person's joints to the rotations of the joints.

The paper's third experiment. A network sees the positions of all nodes of a skeleton, hip at the origin, and gives the
numbers of a representation for every joint; forward kinematics with the known bones turns the rotations back into
positions. No rotation is ever shown to it: loss is the squared distance of positions, ten times that for the nodes
next to the hip. Every frame is turned about the vertical by a random angle.

Most joints turn little, so the discontinuous representations suffer less than in the other experiments, and unprojected
matrices suffer most: in training their bones stretch.

By default a generated person and a smaller network, minutes in all; with --full the published sizes, 1.96 million steps
of one window of 16 to 64 frames at a learning rate of 1e-5. --data takes a folder of BVH or of ASF and AMC files; clips
of one rig are used, that of --rig or the one with most frames.

Run: python examples/rotation_continuity/inverse_kinematics.py [--data FOLDER [--rig FILE] [--unit METRES]] [--full]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from command import checkpoint_interval, parser_of, run
from motions import LONGEST_WINDOW, SHORTEST_WINDOW, Frames, folder_of_motions, frames_of, generated_motions, split
from published import HEADS, TITLES, Row, row_of
from report import report
from skeleton import ForwardKinematics, Skeleton
from torch import Tensor, nn
from training import Batch, Checkpoints, cosine, perceptron, steps, train

from rotaware.geo import RotationHead, axis_angle_to_matrix

DEFAULT_HEADS = ("10d", "9d", "two_vector", "6d", "5d", "euler", "axis_angle_4d", "quaternion", "raw_9d")
# Weight of the nodes next to the hip, on top of their share in the mean over all nodes.
HIP_WEIGHT = 10.0


@dataclass(frozen=True)
class Settings:
    """Sizes and length of a run."""

    iterations: int
    width: int
    frames: int | None  # of a batch, from anywhere; None: a window of 16 to 64 frames of one clip
    peak_rate: float | None  # falling to 0; None: 1e-5 throughout
    generated: tuple[int, int] = (64, 120)  # clips and their frames, where there is no data


SHORT = Settings(4_000, 256, 64, 1e-3)
FULL = Settings(1_960_000, 1024, None, None, generated=(400, 600))
QUICK = replace(SHORT, iterations=20, generated=(8, 20))


class PoseNetwork(nn.Module):
    """From positions (B, N, 3) and bones (B, N, 3) to positions, through a rotation of every node."""

    def __init__(self, head: RotationHead, skeleton: Skeleton, width: int) -> None:
        super().__init__()
        nodes = len(skeleton.parents)
        sizes = [3 * nodes, width, width, width, head.dim * nodes]
        self.layers = perceptron(sizes)
        self.head = head
        self.kinematics = ForwardKinematics(skeleton.parents)
        self.shape = (nodes, head.dim)

    def forward(self, positions: Tensor, offsets: Tensor) -> Tensor:
        """(B, N, 3)."""
        rotations = self.head(self.layers(positions.flatten(-2)).unflatten(-1, self.shape))
        return self.kinematics(rotations, offsets)


def turned(positions: Tensor, degrees: Tensor) -> Tensor:
    """Positions (B, N, 3) turned about the vertical y by whole degrees (B,)."""
    vectors = torch.zeros(len(degrees), 3, device=degrees.device)
    vectors[:, 1] = math.radians(1) * degrees
    return positions @ axis_angle_to_matrix(vectors).mT


def learn(
    name: str, settings: Settings, options: argparse.Namespace, skeleton: Skeleton, training: Frames, held_out: Frames
) -> tuple[Row, np.ndarray]:
    """Train and test one head; its row of the table and its errors in centimetres, one per held-out frame."""
    torch.manual_seed(options.seed)
    generator = torch.Generator(options.device).manual_seed(options.seed)
    model = PoseNetwork(RotationHead(name), skeleton, settings.width).to(options.device)
    near = skeleton.next_to_hip()

    def integers(high: int, *size: int) -> Tensor:
        return torch.randint(high, size, generator=generator, device=options.device)

    def draw(count: int) -> Iterable[Batch]:
        if settings.frames is not None:
            chosen = integers(len(training.positions), count, settings.frames)
            return zip(chosen, integers(360, count, settings.frames), strict=True)
        return (window() for _ in range(count))

    def window() -> Batch:
        start, end = training.clips[int(integers(len(training.clips), 1))]
        length = SHORTEST_WINDOW + int(integers(min(LONGEST_WINDOW, end - start) - SHORTEST_WINDOW + 1, 1))
        first = start + int(integers(end - start - length + 1, 1))
        return torch.arange(first, first + length, device=options.device), integers(360, 1).expand(length)

    def loss_of(chosen: Tensor, degrees: Tensor) -> Tensor:
        target = turned(training.positions[chosen], degrees)
        square = (model(target, training.offsets[chosen]) - target).square()
        return square.mean() + HIP_WEIGHT * square[:, near].mean()

    trained = train(
        model,
        draw,
        loss_of,
        iterations=settings.iterations,
        rate=steps((0, 1e-5)) if settings.peak_rate is None else cosine(settings.peak_rate, settings.iterations),
        generator=generator,
        checkpoints=Checkpoints(
            options.out / "checkpoints" / f"inverse_kinematics_{name}.pt",
            checkpoint_interval(options),
            options.resume,
            {
                "head": name,
                "seed": options.seed,
                "data": str(options.data),
                "rig": str(options.rig),
                **asdict(settings),
            },
        ),
        title=TITLES[name],
    )
    model.eval()
    generator.manual_seed(options.seed + 1)
    degrees = integers(360, len(held_out.positions))
    errors = []
    with torch.no_grad():
        for chosen in torch.arange(len(degrees), device=options.device).split(1000):
            target = turned(held_out.positions[chosen], degrees[chosen])
            distance = (model(target, held_out.offsets[chosen]) - target).norm(dim=-1)
            errors.append(100 * distance.mean(-1).cpu())
    centimetres = torch.cat(errors).double().numpy()
    row = row_of(name, TITLES[name], model.head.dim, centimetres, trained.ms_per_iteration, trained.loss)
    return row, centimetres


def main(arguments: list[str] | None = None) -> list[Row]:
    """Train every head, print the table, draw the curves."""
    parser = parser_of(__doc__ or "", HEADS, DEFAULT_HEADS)
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="motion files; without it a person is generated")
    parser.add_argument(
        "--rig", type=Path, metavar="FILE", help="BVH or ASF file whose rig is used (default: commonest)"
    )
    parser.add_argument("--unit", type=float, default=0.01, metavar="METRES", help="of BVH files (default: 0.01)")
    options = parser.parse_args(arguments)
    if not 0 < options.unit < math.inf:
        parser.error(f"--unit: expected metres above 0, got {options.unit}")
    if options.rig is not None and options.data is None:
        parser.error("--rig: only with --data")
    torch.set_num_threads(options.threads)
    settings = FULL if options.full else QUICK if options.quick else SHORT
    settings = replace(settings, iterations=options.iterations or settings.iterations)
    if options.data is None:
        motions = generated_motions(*settings.generated, torch.Generator().manual_seed(options.seed))
    else:
        motions, left_out = folder_of_motions(options.data, options.rig, options.unit)
        print(
            "\n".join(
                [f"clips: {', '.join(motion.name for motion in motions)}", *(f"left out: {line}" for line in left_out)]
            )
        )
    skeleton = motions[0].skeleton
    training, held_out = (frames_of(part).to(options.device) for part in split(motions))
    counts = [len(training.positions), len(held_out.positions)]
    source = options.data or "a generated person"
    print(f"{source}: {len(skeleton.names)} nodes, {counts[0]} frames to train on, {counts[1]} held out")
    rows, errors = [], {}
    for name in options.heads:
        row, centimetres = learn(name, settings, options, skeleton, training, held_out)
        rows.append(row)
        errors[row.title] = centimetres
        print(f"{row.title}: mean {row.mean:.2f}, max {row.max:.2f} cm", flush=True)
    print("\nInverse kinematics, mean distance of the joints of a frame in centimetres\n")
    report(
        "inverse_kinematics",
        rows,
        {f"inverse kinematics, {settings.iterations} iterations": errors},
        options=options,
        settings={**asdict(settings), "data": str(source), "frames_found": counts, "nodes": len(skeleton.names)},
        unit="cm",
        low=0.1,
        high=100.0,
    )
    return rows


if __name__ == "__main__":
    run(main)
