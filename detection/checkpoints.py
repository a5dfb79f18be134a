"""Detectors on disk: a folder with `config.json` and `model.safetensors`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from rotaware.geo.checks import require_state
from rotaware.geo.files import write_whole

from .detectors import Detector, DetectorConfig, build_detector

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def save_detector(detector: Detector, folder: str | PathLike[str], *, notes: Mapping[str, Any] | None = None) -> None:
    """Write configuration, class names and weights.

    Args:
        detector: of any device.
        folder: made if it does not exist.
        notes: for JSON, such as how it was trained.
    """
    folder = Path(folder)
    weights = save({name: value.detach().cpu().contiguous() for name, value in detector.state_dict().items()})
    described = {
        "model": "rotaware.detection",
        "config": detector.config.to_dict(),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "notes": dict(notes or {}),
    }
    write_whole(folder / WEIGHTS, weights)
    write_whole(folder / CONFIG, json.dumps(described, indent=1) + "\n")


def load_detector(folder: str | PathLike[str]) -> Detector:
    """The detector in a folder, in evaluation mode.

    Raises:
        FileNotFoundError: the folder or one of its files is missing.
        ValueError: a damaged file, weights that are not those of the configuration, or tensors that are missing,
            unexpected or of another shape, all of them named.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder}: expected {CONFIG} and {WEIGHTS}, found no {name}")
    try:
        described = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        given, digest = described["config"], described["sha256"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / CONFIG}: expected a detector's configuration, got {error!r}") from error
    detector = build_detector(DetectorConfig.from_dict(given))
    content = (folder / WEIGHTS).read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"{folder / WEIGHTS}: expected the weights of {CONFIG} (sha256 {digest}), got others")
    try:
        state = load(content)
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS}: expected safetensors, got {error}") from error
    require_state(str(folder / WEIGHTS), state, detector.state_dict())
    detector.load_state_dict(state)
    return detector.eval()
