"""`rotaware detect`: from labelled images to a detector, its detections, and what they are worth."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rotaware.datasets import AERIAL_CLASSES, AerialScenes, write_dota
from rotaware.detection import DetectorConfig, ResNetConfig, RetinaHeadOptions, build_detector, save_detector
from rotaware.geo import training_runs

CLASSES = ["--classes", ",".join(AERIAL_CLASSES)]
TINY = {
    "detector": {
        "backbone": {"width": 8, "arc_stages": [4]},
        "channels": 16,
        "rpn": {"before": 50, "after": 20},
        "roi_head": {"hidden": 16, "batch": 16},
    }
}


@pytest.fixture(autouse=True)
def memory_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a training run does to the allocator would stay with all tests of this process."""
    monkeypatch.setattr(training_runs, "keep_freed_memory", lambda: None)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six small images in the layout of DOTA."""
    root = tmp_path_factory.mktemp("scenes")
    images = AerialScenes(6, size=96, seed=3)
    write_dota(root, (images[number] for number in range(6)), images.classes)
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector that has learnt nothing, but is sure that there are objects."""
    torch.manual_seed(0)
    config = DetectorConfig(
        "rotated_retinanet", AERIAL_CLASSES, ResNetConfig(18, width=8), channels=16,
        retina_head=RetinaHeadOptions(convolutions=1),
    )  # fmt: skip
    detector = build_detector(config)
    torch.nn.init.constant_(detector.head.classify.bias, 0.5)  # type: ignore[union-attr,arg-type]
    folder = tmp_path_factory.mktemp("model")
    save_detector(detector, folder, notes={"augmentation": {"size": 96}})
    return folder


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(TINY))
    return path


def test_train_then_predict_then_evaluate(cli: Any, scenes: Path, tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("lightning.fabric", reason="training is an extra")
    train = ["detect", "train", scenes, *CLASSES, "--small", "--steps", 2, "--size", 96, "--config", tiny, "-o", "run",
             "--validation", scenes, "--validate-every", 1, "--workers", 0]  # fmt: skip
    run = cli(train)
    assert run.code == 0, run.err
    assert run.out == "the detector is in run/final\n" and "AP50" in run.err
    recipe = json.loads((tmp_path / "run/recipe.json").read_text())
    assert recipe["detector"]["channels"] == 16 and recipe["training"]["steps"] == 2
    again = cli(train)
    assert again.code == 4 and "expected a folder without a run" in again.err
    assert cli([*train, "--resume"]).code == 0

    run = cli(["detect", "predict", scenes / "images", "--model", "run", "-o", "found", "--score", 0])
    assert run.code == 0 and run.out.splitlines()[-1] == "written to found: detections.json, Task1/, drawn/"
    found = json.loads(Path("found/detections.json").read_text())
    assert found["classes"] == list(AERIAL_CLASSES) and len(found["images"]) == 6
    assert sorted(path.name for path in Path("found/Task1").iterdir()) == sorted(
        f"Task1_{name}.txt" for name in AERIAL_CLASSES
    )
    assert len(list(Path("found/drawn").iterdir())) == 6

    run = cli(["detect", "evaluate", "found", scenes, *CLASSES, "-o", "scores.json"])
    assert run.code == 0 and "6 whole images, DOTA 1.0 rules" in run.out
    scores = json.loads(Path("scores.json").read_text())
    assert scores["images"] == 6 and 0 <= scores["mean"]["ap50"] <= 1


def test_json_holds_what_the_files_hold(cli: Any, scenes: Path, model: Path) -> None:
    image = scenes / "images" / "S003_000001.png"
    run = cli(["detect", "predict", image, "--model", model, "--score", 0.5, "--no-draw", "--json"])
    assert (run.code, run.err) == (0, "")
    [described] = json.loads(run.out)["images"]
    assert (described["width"], described["height"]) == (96, 96) and described["objects"]
    written = [line for path in Path("detections/Task1").iterdir() for line in path.read_text().splitlines()]
    assert len(written) == len(described["objects"]) and not Path("detections/drawn").exists()
    best = described["objects"][0]
    x, y, w, h, theta = best["box"]
    along = np.array([np.cos(theta), np.sin(theta)]) * w / 2
    across = np.array([-np.sin(theta), np.cos(theta)]) * h / 2
    assert w >= h and best["score"] >= 0.5
    np.testing.assert_allclose(best["quad"][0], np.array([x, y]) - along - across, atol=0.02)


def test_perfect_detections_score_one(cli: Any, scenes: Path, tmp_path: Path) -> None:
    lines: dict[str, list[str]] = {name: [] for name in AERIAL_CLASSES}
    for path in sorted((scenes / "labelTxt").iterdir()):
        for line in path.read_text().splitlines():
            *corners, name, _ = line.split()
            lines[name].append(f"{path.stem} 0.9 {' '.join(corners)}\n")
    with zipfile.ZipFile(tmp_path / "found.zip", "w") as archive:
        for name, each in lines.items():
            archive.writestr(f"Task1_{name}.txt", "".join(each))
    for root in (scenes, scenes / "labelTxt"):
        run = cli(["detect", "evaluate", "found.zip", root, *CLASSES, "--json"])
        assert run.code == 0
        assert set(json.loads(run.out)["mean"].values()) == {1.0}


def test_patches_are_refused_unless_merged(cli: Any, tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "P1.txt").write_text("100 100 140 100 140 120 100 120 ship 0\n")
    found = tmp_path / "found"
    found.mkdir()
    (found / "Task1_ship.txt").write_text("P1__1__50___50 0.9 50 50 90 50 90 70 50 70\n")
    run = cli(["detect", "evaluate", found, labels])
    assert run.code == 4 and "expected whole images, got a patch" in run.err
    run = cli(["detect", "evaluate", found, labels, "--merge"])
    assert run.code == 0 and re.search(r"^ship +1 +1 +100\.00", run.out, re.M)
    assert "no objects, so not in the mean: plane" in run.out


def test_unreadable_images_are_named_and_the_others_done(cli: Any, scenes: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes((scenes / "images" / "S003_000000.png").read_bytes()[:500])
    good = scenes / "images" / "S003_000001.png"
    run = cli(["detect", "predict", tmp_path / "broken.png", good, "--model", model])
    assert run.code == 5 and run.err.startswith(f"error: {tmp_path}/broken.png: expected an image")
    assert len(json.loads(Path("detections/detections.json").read_text())["images"]) == 1
    run = cli(["detect", "predict", tmp_path / "broken.png", "--model", model, "-o", "nothing"])
    assert run.code == 5 and not Path("nothing").exists()


def test_images_of_odd_kinds(cli: Any, model: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    grey = generator.integers(0, 256, (40, 50), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 200).save(tmp_path / "deep.png")
    Image.fromarray(np.dstack([grey] * 4)).save(tmp_path / "clear.png")
    Image.fromarray(grey).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(grey[:1, :1]).save(tmp_path / "dot.png")
    run = cli(["detect", "predict", tmp_path, "--model", model])
    assert (run.code, run.err) == (0, "") and len(
        json.loads(Path("detections/detections.json").read_text())["images"]
    ) == 5


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["predict", "none.png", "--model", "{model}"], 4, "error: none.png: no such image or folder"),
        (["predict", ".", "--model", "{model}"], 4, "expected images"),
        (["predict", "{scenes}/images", "--model", "nowhere"], 4, "nowhere: expected a detector"),
        (
            ["predict", "{scenes}/images", "--model", "{model}", "--overlap", "96"],
            4,
            "overlap: expected 0 to 95, got 96",
        ),
        (["predict", "{scenes}/images", "--model", "{model}", "--device", "warp"], 64, "--device warp"),
        (["predict", "{scenes}/images", "--model", "{model}", "--score", "2"], 64, "expected a number from 0 to 1"),
        (["evaluate", "{scenes}", "{scenes}"], 4, "expected files Task1_<class>.txt, found none"),
        (["evaluate", "nowhere", "{scenes}"], 4, "nowhere: expected a folder or a zip"),
        (["train", "nowhere", "-o", "run"], 4, "nowhere: expected a folder images in it"),
        (["train", "{scenes}", "--classes", "tram", "-o", "run"], 4, "expected images with objects, got 6 images"),
        (["train", "{scenes}", "--classes", "a,a", "-o", "run"], 4, "--classes: expected names that differ"),
        (["train", "{scenes}", "-o", "run", "--config", "nowhere.json"], 4, "nowhere.json"),
        (["train", "{scenes}", "-o", "run", "--weights", "nowhere.pth"], 4, "nowhere.pth: no such file"),
        (["export", "nowhere", "a.onnx"], 4, "nowhere: expected a detector"),
    ],
)
def test_bad_input(cli: Any, scenes: Path, model: Path, arguments: list[str], code: int, message: str) -> None:
    run = cli(["detect", *(each.format(scenes=scenes, model=model) for each in arguments)])
    assert run.code == code and len(run.error_lines) <= 2 and message in run.err, run.err
    assert not Path("run").exists() and not Path("detections").exists() and not Path("a.onnx").exists()


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("{", 5, "expected JSON"),
        ("[1]", 4, "expected an object, got list"),
        ('{"detectr": {}}', 4, "recipe: expected keys among augmentation, detector, training, got detectr"),
        ('{"training": {"steps": 0}}', 4, "expected positive numbers, got 0"),
        ('{"detector": {"backbone": {"depth": 19}}}', 4, "depth: expected one of"),
    ],
)
def test_bad_recipes(cli: Any, scenes: Path, tmp_path: Path, text: str, code: int, message: str) -> None:
    (tmp_path / "recipe.json").write_text(text)
    run = cli(["detect", "train", scenes, *CLASSES, "--small", "--config", "recipe.json", "-o", "run"])
    assert run.code == code and message in run.err
    assert not Path("run").exists()


def test_damaged_models_are_unreadable(cli: Any, scenes: Path, model: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in model.iterdir():
        (damaged / path.name).write_bytes(path.read_bytes()[:-10])
    run = cli(["detect", "predict", scenes / "images", "--model", damaged])
    assert run.code == 5 and "config.json: expected a detector's configuration" in run.err


def test_pretrained_backbones_load_by_their_common_names(cli: Any, scenes: Path, tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("lightning.fabric", reason="training is an extra")
    from rotaware.detection import ResNet

    torch.manual_seed(1)
    torch.save(ResNet(ResNetConfig(18, width=8)).state_dict(), tmp_path / "r18.pth")
    arguments = ["detect", "train", scenes, *CLASSES, "--small", "--steps", 1, "--size", 96, "--config", tiny,
                 "--workers", 0]  # fmt: skip
    assert cli([*arguments, "--weights", "r18.pth", "-o", "run"]).code == 0
    torch.save({"layer9.weight": torch.zeros(3)}, tmp_path / "odd.pth")
    run = cli([*arguments, "--weights", "odd.pth", "-o", "other"])
    assert run.code == 5 and "layer9.weight" in run.err and not Path("other").exists()


def test_actions_are_guessed(cli: Any) -> None:
    run = cli(["detect", "predct"])
    assert (run.code, run.err) == (64, "error: unknown command 'detect predct'; did you mean 'detect predict'?\n")
    run = cli(["detect", "train", "--stepz", "3"])
    assert run.code == 64 and "did you mean '--steps'" in run.err
