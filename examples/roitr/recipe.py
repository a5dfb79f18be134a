"""The recipe of a training run, and the command line that chooses one."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rotaware.pointcloud import RoITrConfig

CHOICES = {
    "optimizer": ("adam", "adamw"),
    "schedule": ("cosine", "epoch"),
    "rotations": ("uniform", "published"),
    "criterion": ("ir", "pir", "fmr", "total"),
}


@dataclass(frozen=True)
class Options:
    """The recipe. Lengths of the losses are in the network's unit, those of the augmentation in the scans'."""

    seed: int = 0
    # Steps of the optimiser; or passes over the data, unless 0.
    steps: int = 12_000
    epochs: int = 0
    # Pairs per process and step; their gradients are averaged, with those of the other processes.
    batch: int = 1
    # Pairs of one forward pass, a divisor of `batch`. More may be faster on a GPU; with 1, processes and pairs per
    # process can be exchanged bit for bit, as far as the sum of their gradients does not depend on its order.
    packed: int = 1
    optimizer: str = "adam"
    learning_rate: float = 4e-4
    # "cosine" ends here; "epoch" multiplies by 0.95 after every pass over the data instead.
    final_learning_rate: float = 2e-5
    schedule: str = "cosine"
    warmup: int = 200
    weight_decay: float = 1e-6
    # Largest norm of the gradient, 0 for any.
    clip: float = 1.0
    # Decay of the averaged weights, 0 for none: validation then judges the weights themselves.
    average: float = 0.998
    radius: float = 0.05
    patch_pairs: int = 64
    masked: bool = True
    # Both scans, uniform over rotations; "published": one of them, by three uniform angles.
    rotations: str = "uniform"
    # Full width per coordinate.
    noise: float = 0.005
    # A random subset of so many points is kept, 0 for all; in validation too.
    most_points: int = 0
    # Edge of the voxels that scans are thinned with where the network takes metres, 0 to take scans as they are.
    thin: float = 0.0
    # Voxels of the larger cloud, from ... to, where the unit of the network is the voxel.
    occupied: tuple[int, int] = (4000, 8000)
    # Largest share of a scan that is cut away behind a random plane.
    crop: float = 0.0
    # Standard deviation per coordinate by which the sensor, which normals are to face, is mistaken.
    sensor_shift: float = 0.0
    # Share of normals turned around.
    flips: float = 0.0
    # Pairs with less or more overlap are left out; validation has no upper limit.
    least_overlap: float = 0.1
    most_overlap: float = 1.0
    validate_every: int = 1000
    validation_pairs: int = 24
    # What the best weights are the best in.
    criterion: str = "ir"
    # Steps between measurements of PIR and IR on training pairs.
    measure_every: int = 20
    save_every: int = 200

    def __post_init__(self) -> None:
        for field in fields(self):
            value, default = getattr(self, field.name), field.default
            if isinstance(default, tuple):
                fits = isinstance(value, tuple) and len(value) == 2 and all(type(each) is int for each in value)
            else:
                fits = type(value) is type(default) or (type(default) is float and type(value) is int)
            if not fits:
                raise ValueError(f"{field.name}: expected {type(default).__name__} like {default!r}, got {value!r}")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {getattr(self, name)!r}")
        counts = ("steps", "batch", "packed", "validate_every", "validation_pairs", "measure_every", "save_every")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.batch % self.packed:
            raise ValueError(f"packed: expected a divisor of batch = {self.batch}, got {self.packed}")
        if not 0 < self.occupied[0] <= self.occupied[1]:
            raise ValueError(f"occupied: expected two rising positive numbers, got {self.occupied}")

    def changes(self, earlier: dict[str, Any]) -> list[str]:
        """Options that give another result than `earlier` ones; an option that is younger had its default."""
        free = {"batch", "packed", "validate_every", "validation_pairs", "criterion", "measure_every", "save_every"}
        before = {field.name: field.default for field in fields(self)}
        before |= {name: tuple(value) if isinstance(value, list) else value for name, value in earlier.items()}
        return sorted(name for name, value in asdict(self).items() if name not in free and before[name] != value)


# Shows that everything runs; learns nothing.
QUICK: dict[str, Any] = {
    "network": {"widths": [32, 32, 32, 32], "point_channels": 16, "patch_points": 24, "patch_pairs": 16, "voxel": 0.04},
    "recipe": {"steps": 4, "occupied": [600, 800], "patch_pairs": 8, "validation_pairs": 2, "measure_every": 2},
}


def parse(
    description: str | None, arguments: Sequence[str] | None = None
) -> tuple[argparse.Namespace, RoITrConfig, Options]:
    """Command line, network and recipe; options on the command line go over those of the file."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="JSON with `network` and `recipe`")
    parser.add_argument("--data", help="folder of scans with a list of pairs, or of 4DMatch")
    parser.add_argument("--validation", help="the same, for validation")
    parser.add_argument("--pairs", default="pairs.pkl", help="name of the list of pairs in the folder of --data")
    parser.add_argument("--validation-list", metavar="NAME", help="the same for --validation (default: --pairs)")
    parser.add_argument("--output", help="folder for checkpoints, log and curves; for several nodes a shared one")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint, if there is one")
    parser.add_argument("--start", metavar="FOLDER", help="begin with these weights, written by `save_pretrained`")
    parser.add_argument("--quick", action="store_true", help="seconds, on generated data: shows that everything runs")
    parser.add_argument("--accelerator", default="auto", choices=("auto", "cpu", "gpu"))
    parser.add_argument("--devices", type=int, default=1, help="per node")
    parser.add_argument("--num-nodes", type=int, default=1)
    parser.add_argument("--precision", default="32-true", choices=("32-true", "bf16-mixed"))
    parser.add_argument("--workers", type=int, default=1, help="processes that prepare data, per device")
    parser.add_argument(
        "--threads", type=int, default=1, help="of torch, per process; the rounding of sums depends on it"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    recipe = parser.add_argument_group("recipe", "instead of what the file says")
    for field in fields(Options):
        flag, default = f"--{field.name.replace('_', '-')}", field.default
        if isinstance(default, bool):
            recipe.add_argument(flag, action=argparse.BooleanOptionalAction, default=None)
        elif isinstance(default, tuple):
            recipe.add_argument(flag, type=int, nargs=2, metavar="N")
        else:
            known = CHOICES.get(field.name)
            recipe.add_argument(flag, type=type(default), choices=known, metavar=None if known else "N")
    args = parser.parse_args(arguments)
    needed = () if args.quick else ("config", "data", "output")
    missing = [f"--{name}" for name in needed if getattr(args, name) is None]
    if missing:
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    try:
        network, options = _read(args.config)
        options |= {name: value for name, value in vars(args).items() if name in KNOWN and value is not None}
        options = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
        return args, RoITrConfig.from_json(json.dumps(network)), Options(**options)
    except (OSError, ValueError, TypeError) as error:
        parser.error(str(error))


KNOWN = frozenset(field.name for field in fields(Options))


def _read(path: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Network and recipe of a file; `about` is for readers."""
    given = QUICK if path is None else json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(given, dict) or not {"network"} <= set(given) <= {"about", "network", "recipe"}:
        raise ValueError(f"{path}: expected an object of `network`, `recipe` and `about`")
    recipe = given.get("recipe", {})
    unknown = sorted(set(recipe) - KNOWN)
    if unknown:
        raise ValueError(f"{path}: unknown names in `recipe`: {', '.join(unknown)}")
    return given["network"], dict(recipe)
