"""Detectors come back from disk as they were, and damage is named."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from rotaware.detection.checkpoints import load_detector, save_detector
from rotaware.detection.detectors import Detector, DetectorConfig, build_detector
from rotaware.detection.resnet import ResNetConfig
from rotaware.detection.roi_head import RoIHeadOptions


def small() -> Detector:
    torch.manual_seed(0)
    backbone = ResNetConfig(18, width=4, arc_stages=(2, 3))
    return build_detector(
        DetectorConfig("oriented_rcnn", ("ship", "plane"), backbone, channels=8, roi_head=RoIHeadOptions(hidden=16))
    ).eval()


def test_round_trip(tmp_path: Path) -> None:
    detector = small()
    save_detector(detector, tmp_path / "a", notes={"steps": 3})
    again = load_detector(tmp_path / "a")
    assert again.config == detector.config and again.classes == ("ship", "plane") and not again.training
    images = torch.rand(1, 3, 64, 64) * 255
    for level, other in zip(detector.levels(images), again.levels(images), strict=True):
        assert torch.equal(level, other)
    assert json.loads((tmp_path / "a" / "config.json").read_text())["notes"] == {"steps": 3}


def rewritten(folder: Path, change: object) -> None:
    """Other tensors under a matching hash."""
    state = load_file(folder / "model.safetensors")
    change(state)  # type: ignore[operator]
    content = save(state)
    (folder / "model.safetensors").write_bytes(content)
    described = json.loads((folder / "config.json").read_text())
    described["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "config.json").write_text(json.dumps(described))


def test_damage_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"found no config\.json"):
        load_detector(tmp_path)
    save_detector(small(), tmp_path)

    def change(state: dict[str, torch.Tensor]) -> None:
        del state["rpn.objectness.bias"]
        state["extra"] = torch.zeros(1)
        state["backbone.conv1.weight"] = torch.zeros(2, 2)

    rewritten(tmp_path, change)
    with pytest.raises(ValueError) as found:
        load_detector(tmp_path)
    for part in (
        "missing rpn.objectness.bias",
        "unexpected extra",
        "backbone.conv1.weight: expected shape (4, 3, 7, 7)",
    ):
        assert part in str(found.value)
    save_detector(small(), tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:1000])
    with pytest.raises(ValueError, match="expected the weights of"):
        load_detector(tmp_path)
    (tmp_path / "config.json").write_text('{"config": {}}')
    with pytest.raises(ValueError, match="expected a detector's configuration"):
        load_detector(tmp_path)
