"""Beyond three dimensions: auto-encoding rotations of R^n, n = 2 to 8.

The paper constructs continuous representations of SO(n) for every n, but reports no experiment above n = 3, so there is
nothing published to stand beside these figures. A network sees the n^2 entries of a random rotation and gives it back
through n^2 numbers (special Procrustes), n^2 - n (Gram-Schmidt), n^2 - 2n + 2 (Gram-Schmidt after stereographic
projections), or the n (n - 1) / 2 of a skew-symmetric matrix, by the exponential or the Cayley map. The last two are as
few as possible and, as every representation so small must be, discontinuous.

Settings: four linear layers of width 128, batches of 64, Haar rotations, 10,000 test rotations; the error is the
geodesic distance, the root of the summed squares of the angles of R1^T R2. By default 3,000 steps of Adam with a
learning rate that falls from 1e-3 to 0; with --full 500,000 steps at 1e-5, then 1e-6, as in the paper's test on SO(3).

Run: python examples/rotation_continuity/so_n.py [--n 2,3,4] [--full]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from command import checkpoint_interval, parser_of, run
from published import Row, row_of
from report import report
from torch import Tensor, nn
from training import Batch, Checkpoints, Rate, cosine, perceptron, steps, train

from rotaware.geo import cayley, hat_n, random_so_n, so_n_to_matrix, son_exp, special_procrustes

DIMENSIONS = (2, 3, 4, 5, 6, 7, 8)


@dataclass(frozen=True)
class Settings:
    """Length and schedule of a run."""

    iterations: int
    published_schedule: bool = False
    batch: int = 64
    width: int = 128
    test_rotations: int = 10_000

    def rate(self) -> Rate:
        """Learning rate by iteration."""
        return steps((0, 1e-5), (10_000, 1e-6)) if self.published_schedule else cosine(1e-3, self.iterations)


SHORT = Settings(3_000)
FULL = Settings(500_000, published_schedule=True, test_rotations=100_000)
QUICK = replace(SHORT, iterations=20, test_rotations=500)


@dataclass(frozen=True)
class Map:
    """From numbers to SO(n)."""

    title: str
    dim: Callable[[int], int]
    decode: Callable[[Tensor, int], Tensor]


MAPS = {
    "procrustes": Map(
        "n^2, special Procrustes", lambda n: n * n, lambda x, n: special_procrustes(x.unflatten(-1, (n, n)))
    ),
    "gram_schmidt": Map("n^2 - n, Gram-Schmidt", lambda n: n * n - n, so_n_to_matrix),
    "reduced": Map(
        "n^2 - 2n + 2, stereographic", lambda n: n * n - 2 * n + 2, lambda x, n: so_n_to_matrix(x, n, reduced=True)
    ),
    "exp": Map("n(n-1)/2, exponential", lambda n: n * (n - 1) // 2, lambda x, n: son_exp(hat_n(x))),
    "cayley": Map("n(n-1)/2, Cayley", lambda n: n * (n - 1) // 2, lambda x, n: cayley(hat_n(x))),
}


class AutoEncoder(nn.Module):
    """From a rotation (B, n, n) to a rotation, through the numbers of a map."""

    def __init__(self, n: int, mapping: Map, width: int) -> None:
        super().__init__()
        sizes = [n * n, width, width, width, mapping.dim(n)]
        self.layers = perceptron(sizes)
        self.n, self.decode = n, mapping.decode

    def forward(self, rotation: Tensor) -> Tensor:
        """(B, n, n) -> (B, n, n)."""
        return self.decode(self.layers(rotation.flatten(-2)), self.n)


def geodesic_degrees(first: Tensor, second: Tensor) -> np.ndarray:
    """(B,) root of the summed squares of the angles of R1^T R2, from its eigenvalues, which have no branch to cross."""
    angles = torch.linalg.eigvals(first.double().mT @ second.double()).angle()
    # Every angle is there twice, as conjugates.
    return np.degrees((angles.square().sum(-1) / 2).sqrt().cpu().numpy())


def learn(n: int, name: str, settings: Settings, options: argparse.Namespace) -> tuple[Row, np.ndarray]:
    """Train and test one map; its row of the table and its errors in degrees."""
    mapping = MAPS[name]
    title = f"SO({n}): {mapping.title}"
    torch.manual_seed(options.seed)
    generator = torch.Generator(options.device).manual_seed(options.seed)
    model = AutoEncoder(n, mapping, settings.width).to(options.device)

    def draw(count: int) -> Iterable[Batch]:
        return ((rotation,) for rotation in random_so_n(n, (count, settings.batch), generator=generator))

    trained = train(
        model,
        draw,
        lambda rotation: (model(rotation) - rotation).square().mean(),
        iterations=settings.iterations,
        rate=settings.rate(),
        generator=generator,
        checkpoints=Checkpoints(
            options.out / "checkpoints" / f"so_{n}_{name}.pt",
            checkpoint_interval(options),
            options.resume,
            {"n": n, "map": name, "seed": options.seed, **asdict(settings)},
        ),
        title=title,
    )
    model.eval()
    generator = torch.Generator(options.device).manual_seed(options.seed + 1)
    with torch.no_grad():
        rotation = random_so_n(n, settings.test_rotations, generator=generator)
        degrees = geodesic_degrees(model(rotation), rotation)
    return row_of(name, title, mapping.dim(n), degrees, trained.ms_per_iteration, trained.loss), degrees


def dimensions(text: str) -> list[int]:
    """Numbers separated by commas, each at least 2."""
    numbers = text.split(",")
    for number in numbers:
        if not number.isdecimal() or not 2 <= int(number) <= 16:
            raise argparse.ArgumentTypeError(f"expected numbers from 2 to 16 such as 2,3,4; got {text!r}")
    return [int(number) for number in dict.fromkeys(numbers)]


def main(arguments: list[str] | None = None) -> list[Row]:
    """Train every map for every n, print the table, draw the curves."""
    parser = parser_of(__doc__ or "", tuple(MAPS), tuple(MAPS))
    parser.add_argument("--n", type=dimensions, default=list(DIMENSIONS), metavar="LIST", help="default: 2,3,4,5,6,7,8")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    settings = FULL if options.full else QUICK if options.quick else SHORT
    settings = replace(settings, iterations=options.iterations or settings.iterations)
    rows: list[Row] = []
    panels: dict[str, dict[str, np.ndarray]] = {}
    for n in options.n:
        panel = panels.setdefault(f"SO({n})", {})
        for name in options.heads:
            row, panel[MAPS[name].title] = learn(n, name, settings, options)
            rows.append(row)
            print(f"{row.title}: mean {row.mean:.2f}, max {row.max:.2f} deg", flush=True)
    print("\nAuto-encoder on SO(n), geodesic error in degrees\n")
    report(
        "so_n",
        rows,
        panels,
        options=options,
        settings=asdict(settings),
        unit="deg",
        low=0.01,
        high=float(180 * max(n // 2 for n in options.n) ** 0.5),
    )
    return rows


if __name__ == "__main__":
    run(main)
