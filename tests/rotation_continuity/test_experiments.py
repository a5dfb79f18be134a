"""Clouds, training, tables, curves and commands of the experiments."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "rotation_continuity"


def test_generated_airplanes(parts: SimpleNamespace) -> None:
    planes = [parts.shapes.airplanes(3, 200, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert planes[0].shape == (3, 200, 3)
    assert planes[0].isfinite().all()
    assert planes[0].abs().max() < 0.8
    assert torch.equal(planes[0], planes[1])
    assert not torch.equal(planes[0], planes[2])


def test_folder_of_clouds(parts: SimpleNamespace, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    clouds = [rng.normal(size=(40 + index, 3)) for index in range(8)]
    for index, cloud in enumerate(clouds):
        np.savetxt(tmp_path / f"{index}.xyz", cloud)
    training, held_out = parts.shapes.folder_of_clouds(tmp_path, None)
    assert training.shape == (7, 24, 3)
    assert held_out.shape == (1, 24, 3)
    half = clouds[0][:20]
    half = half - (half.min(0) + half.max(0)) / 2
    assert np.allclose(training[0, :20], half / (2 * np.abs(half).max()), atol=1e-6)
    assert torch.equal(training[0, 20:], training[0, :4]), "points again, which a maximum does not notice"
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        np.savetxt(tmp_path / part / "a.xyz", clouds[0])
    assert parts.shapes.folder_of_clouds(tmp_path, 5)[1].shape == (1, 5, 3)


def test_folder_of_bad_clouds(parts: SimpleNamespace, file: Callable[[str, str], Path], tmp_path: Path) -> None:
    with pytest.raises(parts.command.BadData, match="expected a folder of point clouds"):
        parts.shapes.folder_of_clouds(tmp_path / "nowhere", None)
    with pytest.raises(parts.command.BadData, match="got none"):
        parts.shapes.folder_of_clouds(tmp_path, None)
    file("a.xyz", "1 2 3\n" * 20)
    with pytest.raises(parts.command.BadData, match="at least two clouds"):
        parts.shapes.folder_of_clouds(tmp_path, None)
    file("b.xyz", "1 2 3\n" * 20)
    with pytest.raises(parts.command.BadData, match="not all the same"):
        parts.shapes.folder_of_clouds(tmp_path, None)
    file("a.xyz", "1 2\nthree\n")
    with pytest.raises(parts.command.BadData, match=r"a\.xyz"):
        parts.shapes.folder_of_clouds(tmp_path, None)


def test_airplanes_of_the_paper(parts: SimpleNamespace, shared_data: Path) -> None:
    folder = shared_data / "rotations" / "airplanes"
    if not folder.is_dir():
        pytest.skip(f"no airplanes at {folder}")
    training, held_out = parts.shapes.folder_of_clouds(folder, 64)
    assert (len(training), len(held_out)) == (34, 6)
    assert float(training.abs().amax((1, 2)).max()) == pytest.approx(0.5)


def fitted(parts: SimpleNamespace, path: Path, iterations: int, every: int = 0, resume: bool = False, **change):
    """A small regression, trained; its weights and the message of `train`."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.LeakyReLU(), nn.Linear(8, 3))
    generator = torch.Generator().manual_seed(0)
    parts.training.train(
        model,
        lambda count: ((batch,) for batch in torch.randn(count, 16, 3, generator=generator)),
        change.get("loss_of", lambda batch: (model(batch) - batch).square().mean()),
        iterations=iterations,
        rate=parts.training.cosine(1e-2, 200),
        generator=generator,
        checkpoints=parts.training.Checkpoints(path, every, resume, {"seed": change.get("seed", 0)}),
        title="test",
    )
    return torch.cat([weights.detach().flatten() for weights in model.parameters()])


def test_training_continues_exactly(parts: SimpleNamespace, tmp_path: Path) -> None:
    whole = fitted(parts, tmp_path / "none.pt", 200)
    assert not (tmp_path / "none.pt").exists()
    fitted(parts, tmp_path / "a.pt", 100, every=100)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"], "no unfinished file is left"
    assert torch.equal(fitted(parts, tmp_path / "a.pt", 200, every=50, resume=True), whole)
    assert torch.equal(fitted(parts, tmp_path / "a.pt", 200, resume=True), whole), "nothing left to do"


def test_checkpoints_of_other_runs_are_refused(parts: SimpleNamespace, tmp_path: Path) -> None:
    fitted(parts, tmp_path / "a.pt", 100, every=100)
    with pytest.raises(parts.command.BadData, match="was made with other settings"):
        fitted(parts, tmp_path / "a.pt", 200, resume=True, seed=1)
    with pytest.raises(parts.command.BadData, match="at iteration 100, past the 50 asked for"):
        fitted(parts, tmp_path / "a.pt", 50, resume=True)
    (tmp_path / "a.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(parts.command.BadData, match="is not a checkpoint of this experiment"):
        fitted(parts, tmp_path / "a.pt", 200, resume=True)


def test_training_of_another_model_is_refused(parts: SimpleNamespace, tmp_path: Path) -> None:
    other = nn.Linear(3, 3)
    with pytest.raises(RuntimeError, match=r"training does not change 0\.weight"):
        fitted(parts, tmp_path / "a.pt", 50, loss_of=lambda batch: (other(batch) - batch).square().mean())
    with pytest.raises(RuntimeError, match="the loss became nan by iteration 50"):
        fitted(parts, tmp_path / "a.pt", 50, loss_of=lambda batch: other(batch).sum() * float("nan"))


def test_learning_rates(parts: SimpleNamespace) -> None:
    cosine, steps = parts.training.cosine(1e-3, 100), parts.training.steps((0, 1e-5), (10_000, 1e-6))
    assert [cosine(0), cosine(50)] == pytest.approx([1e-3, 5e-4])
    assert 0 < cosine(99) < 1e-6
    assert [steps(0), steps(9_999), steps(10_000)] == [1e-5, 1e-5, 1e-6]


def test_table(parts: SimpleNamespace) -> None:
    errors = np.arange(101.0)
    rows = [parts.published.row_of(name, name, 6, errors, 1.25, 0.5) for name in ("6d", "9d")]
    assert (rows[0].mean, rows[0].median, rows[0].p99, rows[0].max) == (50.0, 50.0, 99.0, 100.0)
    text = parts.published.table("sanity", rows, "deg")
    lines = text.splitlines()
    assert len({len(line) for line in lines[:4]}) == 1, "aligned"
    assert "0.49" in lines[2]
    assert "0.49" not in lines[3]
    assert "* recalled from the paper's plots, not checked again" in text
    assert "paper" not in parts.published.table("so_n", rows, "deg")


def test_every_published_name_is_a_head(parts: SimpleNamespace) -> None:
    for figures in (*parts.published.PAPER.values(), *parts.published.LATER.values()):
        assert set(figures) <= set(parts.published.HEADS)


def test_curves(parts: SimpleNamespace, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    curve = parts.curves.curve(np.linspace(0, 100, 10_001))
    assert curve == pytest.approx(np.linspace(0, 100, 400), abs=1e-2)
    panels = {f"SO({n})": {"a": curve, "b": curve[::-1]} for n in range(2, 7)}
    for count in (1, 5):
        some = dict(list(panels.items())[:count])
        parts.curves.draw(tmp_path / "a.png", some, unit="deg", low=0.1, high=180.0)
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("script", "options", "message"),
    [
        ("sanity", ["--heads", "7d"], "expected 'all' or some of 10d, .* got '7d'"),
        ("sanity", ["--iterations", "0"], "expected a number above 0, got 0"),
        ("sanity", ["--seed", "one"], "--seed: invalid int value: 'one'"),
        ("sanity", ["--device", "abacus"], "--device: 'abacus' cannot be used here"),
        ("sanity", ["--full", "--quick"], "not allowed with argument --full"),
        ("sanity", ["--loss", "geodesic"], "raw matrices have no angle to learn from"),
        ("inverse_kinematics", ["--unit", "nan"], "--unit: expected metres above 0, got nan"),
        ("inverse_kinematics", ["--rig", "a.bvh"], "--rig: only with --data"),
        ("so_n", ["--n", "1,2"], "expected numbers from 2 to 16 such as 2,3,4; got '1,2'"),
    ],
)
def test_misuse_is_said(
    parts: SimpleNamespace, capsys: pytest.CaptureFixture[str], script: str, options: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        getattr(parts, script).main(options)
    assert re.search(message, " ".join(capsys.readouterr().err.split()))


@pytest.mark.parametrize(
    ("script", "message"),
    [("point_cloud.py", "expected point clouds"), ("inverse_kinematics.py", "expected .bvh files")],
)
def test_empty_folder_is_said(script: str, message: str, tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / script), "--data", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert re.fullmatch(f"error: .*{message}.*", done.stderr.strip()), done.stderr


def test_experiments_learn_and_are_recorded(parts: SimpleNamespace, tmp_path: Path) -> None:
    """The heart of the matter in a few hundred steps: a continuous head is right everywhere, a quaternion is not."""
    continuous, discontinuous = parts.sanity.main(
        ["--iterations", "400", "--heads", "9d,quaternion", "--out", str(tmp_path)]
    )
    assert continuous.mean < 3
    assert continuous.max < 15
    assert discontinuous.max > 90
    found = json.loads((tmp_path / "sanity.json").read_text(encoding="utf-8"))
    assert [row["head"] for row in found["rows"]] == ["9d", "quaternion"]
    assert found["rows"][0]["mean"] == continuous.mean
    assert found["settings"]["iterations"] == 400
    assert found["versions"]["torch"] == torch.__version__
    (curves,) = found["errors_at_400_percentiles"].values()
    assert len(curves["quaternion"]) == 400
    assert curves["quaternion"][-1] == pytest.approx(discontinuous.max, rel=1e-4)
