"""Training: decided by the seed alone, goes on where it was stopped, and says what went wrong with which image."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rotaware.detection import (
    Augmentation,
    Detector,
    DetectorConfig,
    ResNetConfig,
    RetinaHeadOptions,
    RPNOptions,
    Sample,
    TrainingOptions,
    build_detector,
    load_detector,
    train_detector,
)
from rotaware.detection.training import NonFiniteError, ResumeError
from rotaware.detection.training_samples import Schedule, TrainingSamples

pytest.importorskip("lightning.fabric", reason="training is an extra")
STILL = Augmentation(64, horizontal_flip=0.0, vertical_flip=0.0)


class Squares:
    """Images whose colour is their number, with one square each; some files are damaged."""

    def __init__(self, count: int, damaged: tuple[int, ...] = ()) -> None:
        self.count, self.damaged = count, damaged

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int, /) -> Sample:
        if number in self.damaged:
            raise ValueError(f"/data/{number}.png: expected an image, got rubbish")
        image = torch.full((3, 64, 64), 10 * number, dtype=torch.uint8)
        image[:, 20:40, 16:48] = 255 - 10 * number
        quad = torch.tensor([[[16.0, 20], [48, 20], [48, 40], [16, 40]]], dtype=torch.float64)
        return Sample(image, quad, torch.zeros(1, dtype=torch.int64), f"image{number}")


def tiny(seed: int = 0, kind: str = "rotated_retinanet") -> Detector:
    torch.manual_seed(seed)
    backbone = ResNetConfig(18, width=8, arc_stages=(4,))
    config = DetectorConfig(
        kind, ("square",), backbone, channels=16, rpn=RPNOptions(before=50, after=20),  # type: ignore[arg-type]
        retina_head=RetinaHeadOptions(convolutions=1),
    )  # fmt: skip
    return build_detector(config)


def options(steps: int, **changes: object) -> TrainingOptions:
    given = {"optimizer": "adamw", "learning_rate": 1e-3, "warmup": 2, "schedule": "cosine", "average": 0.9}
    return TrainingOptions(steps, **(given | changes))  # type: ignore[arg-type]


def weights(detector: Detector) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in detector.state_dict().items()}


@pytest.mark.parametrize("kind", ["rotated_retinanet", "oriented_rcnn"])
def test_a_run_that_was_stopped_ends_with_the_same_weights(tmp_path: Path, kind: str) -> None:
    whole = tiny(kind=kind)
    assert train_detector(whole, Squares(5), Augmentation(64, turn=0.5), options(6), tmp_path / "whole")

    def stop_at_three(record: Mapping[str, float]) -> None:
        if record["step"] == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    parts = tiny(kind=kind)
    augmentation, output = Augmentation(64, turn=0.5), tmp_path / "parts"
    assert not train_detector(parts, Squares(5), augmentation, options(6), output, on_step=stop_at_three)
    assert signal.getsignal(signal.SIGTERM) == before
    again = tiny(seed=7, kind=kind)
    assert train_detector(again, Squares(5), augmentation, options(6), output, resume=True)
    for name, value in weights(whole).items():
        torch.testing.assert_close(value, again.state_dict()[name], rtol=0, atol=0, msg=name)
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("whole", "parts")]
    losses = [[json.loads(line)["total"] for line in lines] for lines in logs]
    assert len(losses[0]) == 6 and losses[0] == losses[1]
    averaged = [load_detector(tmp_path / name / "final").state_dict() for name in ("whole", "parts")]
    assert all(torch.equal(averaged[0][name], averaged[1][name]) for name in averaged[0])
    assert not all(torch.equal(averaged[0][name], value) for name, value in weights(whole).items())


def test_another_run_is_not_overwritten_nor_gone_on_with(tmp_path: Path) -> None:
    train_detector(tiny(), Squares(3), STILL, options(1), tmp_path)
    before = (tmp_path / "last.ckpt").read_bytes()
    with pytest.raises(ResumeError, match="expected a folder without a run"):
        train_detector(tiny(), Squares(3), STILL, options(1), tmp_path)
    with pytest.raises(ResumeError, match="same options, images"):
        train_detector(tiny(), Squares(4), STILL, options(2), tmp_path, resume=True)
    assert (tmp_path / "last.ckpt").read_bytes() == before


def test_damaged_images_are_named_and_do_no_harm(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"left out: /data/1\.png: expected an image"):
        assert train_detector(tiny(), Squares(3, damaged=(1,)), STILL, options(4), tmp_path)
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert last["damaged_images"] == 1 and math.isfinite(last["total"])


def test_a_loss_that_is_not_finite_names_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Detector.losses

    def wrong(self: Detector, images: Tensor, *args: object, **more: object) -> dict[str, Tensor]:
        losses = right(self, images, *args, **more)  # type: ignore[arg-type]
        # Whatever image 2 is in, the loss of the classes is not a number.
        if bool((images[:, 0, 0, 0] == 20).any()):
            losses["class"] = losses["class"] * math.nan
        return losses

    monkeypatch.setattr(Detector, "losses", wrong)
    detector = tiny()
    with pytest.warns(UserWarning, match="skipped: loss class not finite on image2$"):
        assert train_detector(detector, Squares(4), STILL, options(4), tmp_path)
    assert all(bool(torch.isfinite(value).all()) for value in detector.state_dict().values())


def test_a_run_that_stays_infinite_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Detector, "losses", lambda self, *_, **__: {"class": self.head.classify.weight.sum() * math.nan}
    )
    with (
        pytest.warns(UserWarning, match="skipped"),
        pytest.raises(NonFiniteError, match="20 steps in a row, the last: loss class not finite on image"),
    ):
        train_detector(tiny(), Squares(4), STILL, options(30), tmp_path)


def test_every_image_once_before_any_comes_again() -> None:
    samples = TrainingSamples(Squares(5), STILL, seed=3)
    seen = [name for step in range(5) for name in samples[[2 * step, 2 * step + 1]].names]
    assert sorted(seen[:5]) == sorted(seen[5:]) == [f"image{number}" for number in range(5)]
    assert seen[:5] != seen[5:]


def test_processes_share_the_samples_of_a_step() -> None:
    parts = [iter(Schedule(2, 3, rank, 2)) for rank in range(2)]
    assert [next(part) for part in parts] == [[12, 13], [14, 15]]
    assert [next(part) for part in parts] == [[16, 17], [18, 19]]


def test_validation_keeps_the_best(tmp_path: Path) -> None:
    values = iter([0.2, 0.7, 0.1])
    train_detector(
        tiny(), Squares(3), STILL, options(3), tmp_path, validate=lambda _: {"ap50": next(values)}, validate_every=1
    )
    notes = json.loads((tmp_path / "best" / "config.json").read_text())["notes"]
    assert notes["step"] == 2 and notes["ap50"] == 0.7


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "expected positive numbers, got 0"),
        ({"optimizer": "lion"}, "optimizer"),
        ({"average": 1.0}, r"average: expected a decay in \[0, 1\), got 1.0"),
    ],
)
def test_wrong_options(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingOptions(**({"steps": 1} | wrong))  # type: ignore[arg-type]
