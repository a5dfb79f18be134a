"""Exported graphs give what the detectors give, and suppression outside finishes them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rotaware.detection import export
from rotaware.detection.detectors import DetectorConfig, Kind, build_detector
from rotaware.detection.export import export_onnx
from rotaware.detection.resnet import ResNetConfig
from rotaware.detection.roi_head import RoIHeadOptions
from rotaware.detection.rpn import RPNOptions


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["oriented_rcnn", "rotated_retinanet", "s2anet"])
def test_onnxruntime_agrees(kind: Kind, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    backbone = ResNetConfig(18, width=8, arc_stages=(4,) if kind == "rotated_retinanet" else ())
    config = DetectorConfig(
        kind, ("ship", "plane"), backbone, channels=16,
        rpn=RPNOptions(before=60, after=60), roi_head=RoIHeadOptions(hidden=32, enlarge=(1.2, 1.4)),
    )  # fmt: skip
    detector = build_detector(config).train()
    with torch.no_grad():
        for module in detector.modules():
            # Scores that differ, so that their order is one.
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d) and module.weight.std() < 0.02:
                module.weight.mul_(5)
    path = tmp_path / "detector.onnx"
    export_onnx(detector, path, size=(64, 96))
    assert detector.training
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == ["ship", "plane"]
    images = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1)) * 255
    boxes, scores = (torch.from_numpy(each) for each in session.run(["boxes", "scores"], {"images": images.numpy()}))
    detector.eval()
    with torch.no_grad():
        expected_boxes, expected_scores = detector.raw(images)
    # In any order: equal scores may change places.
    for found, expected in ((boxes, expected_boxes), (scores, expected_scores)):
        rows = (each[0].double().numpy() for each in (found, expected))
        ordered = [each[np.lexsort(np.round(each, 2).T)] for each in rows]
        np.testing.assert_allclose(*ordered, atol=2e-2)
    (found,), (expected,) = detector.suppress(boxes, scores), detector(images)
    assert len(found) == len(expected)
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=1e-4)


def test_without_the_exporter_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "find_spec", lambda _: None)
    detector = build_detector(DetectorConfig("s2anet", ("ship",), ResNetConfig(18, width=8), channels=8))
    with pytest.raises(ImportError, match="needs onnxscript"):
        export_onnx(detector, tmp_path / "detector.onnx")
    assert not list(tmp_path.iterdir())
