"""Recipes: what is refused, what a continued run may change, and the published ones."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rotaware.pointcloud import RoITr, RoITrConfig

CONFIGS = Path(__file__).resolve().parents[2] / "examples" / "roitr" / "configs"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"steps": 0}, "steps: expected at least 1"),
        ({"steps": 1.5}, "steps: expected int"),
        ({"masked": 1}, "masked: expected bool"),
        ({"learning_rate": "1e-3"}, "learning_rate: expected float"),
        ({"occupied": (1,)}, "occupied: expected tuple"),
        ({"occupied": (9, 8)}, "occupied: expected two rising"),
        ({"schedule": "linear"}, "schedule: expected one of cosine, epoch"),
        ({"batch": 3, "packed": 2}, "packed: expected a divisor of batch = 3"),
    ],
)
def test_bad_options(parts: SimpleNamespace, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parts.recipe.Options(**changes)


def parsed(parts: SimpleNamespace, config: Path, *arguments: str) -> Any:
    return parts.recipe.parse("", ["--config", str(config), "--data", "d", "--output", "o", *arguments])


def test_command_line_goes_over_the_file(parts: SimpleNamespace, config: Path) -> None:
    words = ["--steps", "9", "--no-masked", "--clip", "0.5", "--occupied", "10", "20"]
    args, network, options = parsed(parts, config, *words)
    assert (options.steps, options.masked, options.clip, options.occupied) == (9, False, 0.5, (10, 20))
    assert (options.learning_rate, network.patch_points, args.devices) == (1e-3, 24, 1)


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "Expecting"),
        ("[]", "expected an object of `network`"),
        ('{"network": {}, "recipes": {}}', "expected an object of `network`"),
        ('{"network": {}, "recipe": {"step": 1}}', "unknown names in `recipe`: step"),
        ('{"network": {"width": 1}}', "got also"),
        ('{"network": {}, "recipe": {"steps": "many"}}', "steps: expected int"),
    ],
)
def test_bad_files(
    parts: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    file = tmp_path / "bad.json"
    file.write_text(content)
    with pytest.raises(SystemExit, match="2"):
        parsed(parts, file)
    assert message in capsys.readouterr().err


def test_required_options(parts: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parts.recipe.parse("", [])
    assert "--config, --data, --output" in capsys.readouterr().err
    assert parts.recipe.parse("", ["--quick"])[2].steps == 4


def test_what_a_continued_run_may_change(parts: SimpleNamespace) -> None:
    options = parts.recipe.Options(batch=2, save_every=7)
    assert options.changes({"steps": options.steps, "occupied": list(options.occupied), "batch": 1}) == []
    assert options.changes({"seed": 1, "masked": False}) == ["masked", "seed"]


@pytest.mark.parametrize(
    "name, network, parameters",
    [
        ("published_3dmatch", RoITrConfig.rigid(tie_tolerance=0.0), 10_102_273),
        ("published_4dmatch", RoITrConfig.nonrigid(tie_tolerance=0.0), 40_258_561),
    ],
)
def test_published_recipes(parts: SimpleNamespace, name: str, network: RoITrConfig, parameters: int) -> None:
    _, config, options = parsed(parts, CONFIGS / f"{name}.json")
    assert config == network
    with torch.device("meta"):
        assert sum(weights.numel() for weights in RoITr(config).parameters()) == parameters
    assert (options.seed, options.schedule, options.learning_rate, options.epochs) == (42, "epoch", 1e-4, 150)
    assert (options.noise, options.radius, options.patch_pairs, options.most_points) == (0.005, 0.05, 128, 30_000)
    assert (options.warmup, options.clip, options.average, options.masked) == (0, 0, 0, False)


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.json")), ids=lambda path: path.stem)
def test_recipes_that_come_along(parts: SimpleNamespace, file: Path) -> None:
    assert set(json.loads(file.read_text())) <= {"about", "network", "recipe"}
    parsed(parts, file)
