"""Detectors as ONNX graphs, for runtimes without PyTorch."""

from __future__ import annotations

import json
import warnings
from importlib.util import find_spec
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from rotaware.geo.files import write_whole

from .detectors import Detector

# onnxruntime reads it since 1.17.
OPSET = 20


class RawDetector(nn.Module):
    """A detector whose forward is `Detector.raw`."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (B, P, 5) and scores (B, P, classes)."""
        return self.detector.raw(images)


def export_onnx(
    detector: Detector, path: str | PathLike[str], *, size: tuple[int, int] = (1024, 1024), batch: int = 1
) -> None:
    """Write `Detector.raw` as an ONNX graph for images of one size; what it returns goes to `Detector.suppress`.

    Input `images` (batch, 3, height, width), float32, RGB in [0, 255]; outputs `boxes` (batch, P, 5) and `scores`
    (batch, P, classes). The metadata of the model hold `classes`, a JSON list of their names. Needs `onnxscript`.

    Args:
        detector: on the CPU; it is exported as in evaluation.
        path: of the file.
        size: height and width.
        batch: number of images.
    Raises:
        ImportError: `onnxscript` is not installed.
    """
    if find_spec("onnxscript") is None:
        raise ImportError("export to ONNX needs onnxscript: pip install onnxscript")
    training = detector.training
    images = torch.zeros(batch, 3, *size)
    try:
        with warnings.catch_warnings():
            # The exporter warns about its own parts.
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                RawDetector(detector.eval()),
                (images,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["images"],
                output_names=["boxes", "scores"],
                verbose=False,
            )
    finally:
        detector.train(training)
    assert program is not None
    program.model.metadata_props["classes"] = json.dumps(detector.classes)
    write_whole(Path(path), program.save)
