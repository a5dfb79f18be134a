"""Checkpoints: what comes back is what went in, and everything that is wrong with a file is said."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from roitr_cases import fixtures, network, published_tensors
from safetensors.torch import save
from torch import Tensor

from rotaware.pointcloud.checkpoints import load_published, our_name, read_config
from rotaware.pointcloud.roitr import RoITr
from rotaware.pointcloud.roitr_config import RoITrConfig

CONFIG = RoITrConfig(
    widths=(8, 8), strides=(1, 4), neighbors=(4, 4), blocks=(1, 1), global_layers=1, point_channels=8, voxel=0.04
)


@pytest.fixture
def model() -> RoITr:
    return network(CONFIG)


@pytest.fixture
def saved(model: RoITr, tmp_path: Path) -> Path:
    """A folder with a checkpoint."""
    folder = tmp_path / "deep" / "down"
    model.save_pretrained(folder, notes={"rooms": 3})
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_round_trip(model: RoITr, tmp_path: Path, dtype: torch.dtype) -> None:
    model.save_pretrained(tmp_path, dtype=dtype)
    again = RoITr.from_pretrained(str(tmp_path))
    assert again.config == model.config
    expected = {name: tensor.to(dtype).float() for name, tensor in model.state_dict().items()}
    assert again.state_dict().keys() == expected.keys()
    for name, tensor in again.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, expected[name]), name
    again.save_pretrained(tmp_path / "again", dtype=dtype)
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_half_the_size_in_half_precision(model: RoITr, tmp_path: Path) -> None:
    sizes = []
    for dtype in (torch.float32, torch.float16):
        model.save_pretrained(tmp_path, dtype=dtype)
        sizes.append((tmp_path / "model.safetensors").stat().st_size)
    weights = sum(each.numel() for each in model.parameters())
    assert sizes[0] - sizes[1] == pytest.approx(2 * weights, abs=2000)


def test_what_is_beside_the_weights(saved: Path) -> None:
    described = read_config(saved)
    assert described["notes"] == {"rooms": 3}
    assert described["sha256"] == hashlib.sha256((saved / "model.safetensors").read_bytes()).hexdigest()
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]


def test_writing_that_fails_leaves_the_old_files(saved: Path, model: RoITr, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    model.slack.data.zero_()

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        model.save_pretrained(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_between_its_two_files_a_checkpoint_is_refused(
    saved: Path, model: RoITr, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.slack.data.zero_()
    replace = os.replace

    def until_the_power_fails(unfinished: Path, path: Path) -> None:
        if path.suffix == ".json":
            raise KeyboardInterrupt
        replace(unfinished, path)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", until_the_power_fails)
        model.save_pretrained(saved)
    with pytest.raises(ValueError, match=r"expected the sha256 \w{12}\.\.\. of config\.json, got \w{12}\.\.\."):
        RoITr.from_pretrained(saved)


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_truncated(saved: Path, kept: int) -> None:
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(ValueError, match="truncated or of another checkpoint"):
        RoITr.from_pretrained(saved)


def rewrite(folder: Path, weights: bytes | None = None, **changes: Any) -> None:
    """Change a checkpoint so that its hash is right."""
    file = folder / "model.safetensors"
    if weights is not None:
        file.write_bytes(weights)
    described = read_config(folder) | {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()} | changes
    (folder / "config.json").write_text(json.dumps(described))


def test_no_safetensors(saved: Path) -> None:
    rewrite(saved, b"\x80\x02}q\x00.")
    with pytest.raises(ValueError, match=r"model\.safetensors: expected safetensors, got"):
        RoITr.from_pretrained(saved)


def test_every_tensor_that_does_not_fit_is_listed(saved: Path, model: RoITr) -> None:
    tensors = dict(model.state_dict())
    del tensors["slack"], tensors["node_head.weight"]
    tensors["point_head.bias"] = torch.zeros(9)
    tensors["node_head.bias"] = torch.zeros(8, 1)
    tensors["other.weight"] = torch.zeros(2, 3)
    rewrite(saved, save(tensors))
    with pytest.raises(ValueError) as caught:
        RoITr.from_pretrained(saved)
    assert str(caught.value).splitlines()[0] == "checkpoint: 5 tensors do not fit:"
    assert {line.strip() for line in str(caught.value).splitlines()[1:]} == {
        "missing slack ()",
        "missing node_head.weight (8, 8)",
        "unexpected other.weight (2, 3)",
        "point_head.bias: expected shape (8,), got (9,)",
        "node_head.bias: expected shape (8,), got (8, 1)",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "config.json: expected JSON"),
        ("\xff", "config.json: expected JSON"),
        ("[]", "config.json: expected an object with config and sha256"),
        ('{"config": {}}', "config.json: expected an object with config and sha256"),
        ('{"config": {"width": 3}, "sha256": ""}', r"got also \['width'\]"),
        ('{"config": 5, "sha256": ""}', "expected a JSON object, got int"),
        ('{"config": {"heads": 3}, "sha256": ""}', "heads: expected a divisor"),
        ('{"config": {"widths": 3}, "sha256": ""}', "widths: expected"),
        ('{"config": {"heads": "4"}, "sha256": ""}', "heads: expected"),
        ('{"config": {"heads": 0}, "sha256": ""}', "heads: expected"),
        ('{"config": {}, "sha256": 5}', "sha256"),
    ],
)
def test_configurations_that_do_not_fit(saved: Path, text: str, message: str) -> None:
    (saved / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=message):
        RoITr.from_pretrained(saved)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "."])
def test_missing_files(saved: Path, name: str, tmp_path: Path) -> None:
    if name == ".":
        saved = tmp_path / "nowhere"
    else:
        (saved / name).unlink()
    with pytest.raises(FileNotFoundError, match="no such file; expected a folder with config"):
        RoITr.from_pretrained(saved)


# The files of the authors.


@pytest.fixture(params=["rigid", "nonrigid"])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def on_meta(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Shapes without numbers."""
    return {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}


@pytest.fixture
def theirs(shared_data: Path, name: str) -> dict[str, Tensor]:
    """Published names, and shapes without numbers."""
    return on_meta(published_tensors(fixtures(shared_data), name))


def test_every_published_tensor_has_its_place(theirs: dict[str, Tensor], name: str) -> None:
    renamed, config = load_published(theirs)
    assert config == (RoITrConfig.rigid() if name == "rigid" else RoITrConfig.nonrigid())
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in RoITr(config).state_dict().items()}
    assert {name: tensor.shape for name, tensor in renamed.items()} == shapes
    dead = {each for each in theirs if our_name(each) is None}
    assert dead == {"backbone.occ_proj.weight", "backbone.occ_proj.bias", "OT.alpha"}
    assert len(renamed) == len(theirs) - len(dead)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
def test_published_files(shared_data: Path, tmp_path: Path, prefix: str, wrap: str | None) -> None:
    tensors = published_tensors(fixtures(shared_data), "rigid")
    named: Any = {prefix + name: tensor for name, tensor in tensors.items()}
    # What a file of theirs has besides: constants, and what a training needs to go on.
    named[f"{prefix}backbone.global_transformer.embedding.embedding.div_term"] = torch.zeros(128)
    content = named if wrap is None else {"epoch": 149, "optimizer": {"lr": 1e-4}, wrap: named}
    path = tmp_path / "model_best_loss.pth"
    torch.save(content, path)
    model = RoITr.from_published(path)
    assert model.config == RoITrConfig.rigid()
    found = model.state_dict()
    expected, _ = load_published(tensors)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert model.slack == -2


def test_unknown_names_are_all_listed(theirs: dict[str, Tensor]) -> None:
    theirs |= {"backbone.enc9.conv.weight": torch.zeros(3, 4), "head.bias": torch.zeros(2)}
    with pytest.raises(ValueError) as caught:
        load_published(theirs)
    assert str(caught.value).splitlines() == [
        "checkpoint: expected tensors of RoITr, got also 2 others:",
        "  backbone.enc9.conv.weight (3, 4)",
        "  head.bias (2,)",
    ]


def test_published_tensors_that_do_not_fit(theirs: dict[str, Tensor]) -> None:
    wide = theirs["coarse_proj.weight"].shape[0]
    del theirs["fine_proj.bias"]
    theirs["coarse_proj.bias"] = torch.zeros(7, device="meta")
    message = r"2 tensors do not fit:\s+missing point_head\.bias .*\s+node_head\.bias: expected shape \(" + str(wide)
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        RoITr.from_published(theirs)


def test_another_configuration_than_the_published_one(theirs: dict[str, Tensor], name: str) -> None:
    with torch.device("meta"):
        other = RoITrConfig.nonrigid() if name == "rigid" else RoITrConfig.rigid()
        with pytest.raises(ValueError, match="tensors do not fit"):
            RoITr.from_published(theirs, other)


class Malice:
    """Runs code when it is unpickled without care."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit('code of a checkpoint ran')",)


def test_no_code_of_a_file_runs(tmp_path: Path) -> None:
    torch.save({"slack": Malice()}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"model\.pth: expected a checkpoint that torch wrote, got"):
        RoITr.from_published(tmp_path / "model.pth")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 not a zip", b"\x80\x02}q\x00X"])
def test_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        RoITr.from_published(path)


@pytest.mark.parametrize("content", [[1, 2], {}, {"slack": 3}, torch.zeros(3), {"state_dict": {"a": "b"}}])
def test_no_state_dict(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"model\.pth: expected a state dict of tensors"):
        RoITr.from_published(tmp_path / "model.pth")


def test_a_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"slack": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match=re.escape(str(path))):
        RoITr.from_published(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"model\.pth: no such checkpoint"):
        RoITr.from_published(tmp_path / "model.pth")
