"""Weights on disk: the package's own format, and the files the authors of RoITr publish."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from rotaware.geo.files import write_whole

from .roitr_config import RoITrConfig

WEIGHTS, CONFIG = "model.safetensors", "config.json"

# Published name -> ours, first match wins. `{0}` stands for the first number in the name, and so on.
_LOCAL = r"((?:in_proj|out_proj|embedding\.proj|transformer)\..*)"
_RULES: tuple[tuple[str, str], ...] = (
    (rf"backbone\.enc(\d)\.0\.transformer\.{_LOCAL}", "backbone.encoder.{0-1}.down.{1}"),
    (
        rf"backbone\.enc(\d)\.(\d)\.transformer\.transformer\.{_LOCAL}",
        "backbone.encoder.{0-1}.blocks.{1-1}.attention.{2}",
    ),
    (r"backbone\.enc(\d)\.(\d)\.bn2\.(\w+)", "backbone.encoder.{0-1}.blocks.{1-1}.norm.{2}"),
    (r"backbone\.dec4\.0\.linear1\.([01])\.(\w+)", "backbone.top.merge.{0}.{1}"),
    (r"backbone\.dec4\.0\.linear2\.0\.(\w+)", "backbone.top.summary.0.{0}"),
    (rf"backbone\.dec4\.1\.transformer\.transformer\.{_LOCAL}", "backbone.top.block.attention.{0}"),
    (r"backbone\.dec4\.1\.bn2\.(\w+)", "backbone.top.block.norm.{0}"),
    (r"backbone\.dec(\d)\.0\.linear1\.([01])\.(\w+)", "backbone.decoder.{0-1}.skip.{1}.{2}"),
    (r"backbone\.dec(\d)\.0\.linear2\.([01])\.(\w+)", "backbone.decoder.{0-1}.up.{1}.{2}"),
    (rf"backbone\.dec(\d)\.1\.transformer\.transformer\.{_LOCAL}", "backbone.decoder.{0-1}.block.attention.{1}"),
    (r"backbone\.dec(\d)\.1\.bn2\.(\w+)", "backbone.decoder.{0-1}.block.norm.{1}"),
    (r"backbone\.global_transformer\.embedding\.(proj_[da])\.(\w+)", "global_transformer.embedding.{0}.{1}"),
    (r"backbone\.global_transformer\.(in_proj|out_proj)\.(\w+)", "global_transformer.{0}.{1}"),
    (r"backbone\.global_transformer\.transformer\.layers\.([024])\.(.*)", "global_transformer.self_layers.{0/2}.{1}"),
    (r"backbone\.global_transformer\.transformer\.layers\.([135])\.(.*)", "global_transformer.cross_layers.{0/2}.{1}"),
    (r"coarse_proj\.(\w+)", "node_head.{0}"),
    (r"fine_proj\.(\w+)", "point_head.{0}"),
    (r"optimal_transport\.alpha", "slack"),
)
_LAYER_PARTS = (
    (r"attention\.attention\.", ""),
    (r"attention\.pos_(linear|norm)\.", r"place_\1."),
    (r"attention\.", ""),
    (r"pos_proj\.", "place_output."),
)
# Constants, and what the published network has and never uses.
_DEAD = re.compile(r".*\.div_term|backbone\.occ_proj\.(weight|bias)|OT\.alpha")


def our_name(published: str) -> str | None:
    """Our name of a published tensor, None for one that the network does not use.

    Raises:
        KeyError: no tensor of a published network.

    >>> our_name("backbone.enc2.1.bn2.weight"), our_name("OT.alpha")
    ('backbone.encoder.1.blocks.0.norm.weight', None)
    """
    if _DEAD.fullmatch(published):
        return None
    for pattern, ours in _RULES:
        found = re.fullmatch(pattern, published)
        if found is None:
            continue
        name = re.sub(r"\{(\d)([-/]\d)?\}", partial(_filled, found.groups()), ours)
        if "_layers." in name:
            head, _, tail = name.partition("_layers.")
            number, _, tail = tail.partition(".")
            for part, replacement in _LAYER_PARTS:
                tail, changed = re.subn(f"^{part}", replacement, tail)
                if changed:
                    break
            name = f"{head}_layers.{number}.{tail}"
        return name
    raise KeyError(published)


def _filled(groups: tuple[str, ...], hole: re.Match[str]) -> str:
    text, change = groups[int(hole[1])], hole[2]
    if change is None:
        return text
    return str(int(text) - int(change[1:]) if change[0] == "-" else int(text) // int(change[1:]))


def load_published(weights: str | PathLike[str] | Mapping[str, Tensor]) -> tuple[dict[str, Tensor], RoITrConfig]:
    """Tensors of a published checkpoint by our names, and the published network they fit.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint, or tensors of an unknown name, all of them listed.
    """
    tensors = _read_published(weights) if isinstance(weights, (str, PathLike)) else weights
    renamed: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in tensors.items():
        try:
            ours = our_name(name.removeprefix("module."))
        except KeyError:
            unknown.append(f"{name} {tuple(tensor.shape)}")
            continue
        if ours is not None:
            renamed[ours] = tensor
    if unknown:
        raise ValueError(
            f"checkpoint: expected tensors of RoITr, got also {len(unknown)} others:\n  " + "\n  ".join(unknown)
        )
    head = renamed.get("node_head.weight")
    wide = head is not None and head.ndim == 2 and len(head) == RoITrConfig.nonrigid().widths[-1]
    return renamed, RoITrConfig.nonrigid() if wide else RoITrConfig.rigid()


def _read_published(path: str | PathLike[str]) -> Mapping[str, Tensor]:
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such checkpoint") from None
    try:
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # A damaged file makes the reader raise nearly anything.
        raise ValueError(f"{path}: expected a checkpoint that torch wrote, got {_first_line(error)}") from error
    for key in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not found or not all(isinstance(each, Tensor) for each in found.values()):
        raise ValueError(f"{path}: expected a state dict of tensors, got {type(found).__name__}")
    return found


def save_pretrained(
    path: str | PathLike[str],
    tensors: Mapping[str, Tensor],
    config: RoITrConfig,
    *,
    dtype: torch.dtype = torch.float32,
    notes: dict[str, Any] | None = None,
) -> None:
    """Write a folder of `config.json`, which holds the hash of the weights, and `model.safetensors`."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    weights = save({name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in tensors.items()})
    described = {
        "model": "RoITr",
        "config": json.loads(config.to_json()),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "notes": notes or {},
    }
    # The configuration last: a folder whose two files do not belong together is refused by the hash.
    write_whole(folder / WEIGHTS, weights)
    write_whole(folder / CONFIG, (json.dumps(described, indent=2) + "\n").encode())


def load_pretrained(path: str | PathLike[str]) -> tuple[dict[str, Tensor], RoITrConfig]:
    """What `save_pretrained` wrote, tensors in float32.

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: a damaged file, or weights that are not those the configuration was written with.
    """
    folder = Path(path)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: no such file; expected a folder with {CONFIG} and {WEIGHTS}")
    described = read_config(folder)
    config = RoITrConfig.from_json(json.dumps(described["config"]))
    weights = (folder / WEIGHTS).read_bytes()
    found = hashlib.sha256(weights).hexdigest()
    if found != described["sha256"]:
        raise ValueError(
            f"{folder / WEIGHTS}: expected the sha256 {described['sha256'][:12]}... of {CONFIG}, got {found[:12]}... "
            f"({len(weights)} bytes): truncated or of another checkpoint"
        )
    try:
        tensors = load(weights)
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS}: expected safetensors, got {_first_line(error)}") from error
    return {name: tensor.float() for name, tensor in tensors.items()}, config


def read_config(path: str | PathLike[str]) -> dict[str, Any]:
    """The `config.json` of a checkpoint: configuration, hash and notes.

    Raises:
        ValueError: not such a file.
    """
    file = Path(path) / CONFIG
    try:
        described = json.loads(file.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: expected JSON, got {error}") from error
    if not isinstance(described, dict) or "config" not in described or not isinstance(described.get("sha256"), str):
        raise ValueError(f"{file}: expected an object with config and sha256")
    return described


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
