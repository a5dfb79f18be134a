"""`rotaware detect`: rotated object detectors, from training to the files of the evaluation server."""

from __future__ import annotations

from . import detect_evaluate, detect_export, detect_predict, detect_train

SUMMARY = "train, run and evaluate detectors of oriented objects in aerial images"
ACTIONS = {"train": detect_train, "predict": detect_predict, "evaluate": detect_evaluate, "export": detect_export}
