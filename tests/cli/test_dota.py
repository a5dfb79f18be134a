"""`rotaware dota`: generate, check, cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def test_scenes_then_check_then_split(cli: Any) -> None:
    run = cli(["dota", "scenes", "made", "--count", 3, "--size", 128, "--seed", 5])
    assert (run.code, run.err) == (0, "")
    assert run.out == "3 images in made: plane, ship, small-vehicle, large-vehicle, storage-tank\n"
    run = cli(["dota", "check", "made", "--draw", "pictures"])
    assert run.code == 0 and run.out.endswith("every file can be used\n")
    assert len(list(Path("pictures").iterdir())) == 3
    checked = json.loads(cli(["dota", "check", "made", "--json"]).out)
    assert checked["ok"] and checked["images"] == 3
    run = cli(["dota", "split", "made", "cut", "--size", 64, "--overlap", 24, "--json"])
    split = json.loads(run.out)
    assert run.code == 0 and split["objects"] == sum(checked["objects"].values())
    assert split["patches"] == len(list(Path("cut/images").iterdir()))
    run = cli(["dota", "split", "made", "cut"])
    assert run.code == 4 and "expected a folder without images" in run.err


def test_damage(cli: Any) -> None:
    cli(["dota", "scenes", "made", "--count", 2, "--size", 64])
    Path("made/images/S000_000000.png").write_bytes(b"rubbish")
    run = cli(["dota", "check", "made", "--draw", "pictures"])
    assert run.code == 5 and "damaged: made/images/S000_000000.png: expected an image" in run.out
    assert "1 problem found" in run.out and "not drawn: made/images/S000_000000.png" in run.err
    run = cli(["dota", "split", "made", "cut", "--keep-empty"])
    assert (
        run.code == 5 and run.err.startswith("error: made/images/S000_000000.png") and Path("cut/index.json").is_file()
    )
    Path("made/images/S000_000000.png").unlink()
    run = cli(["dota", "check", "made"])
    assert run.code == 4 and "missing: made/labelTxt/S000_000000.txt: expected an image of this name" in run.out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["split", "nowhere", "out"], 4, "nowhere: expected a folder images in it"),
        (["check", "nowhere"], 4, "nowhere: expected a folder images in it"),
        (["split", "made", "out", "--size", "64", "--overlap", "64"], 4, "overlap: expected 0 to 63, got 64"),
        (["split", "made", "out", "--rates", "0,1"], 64, "expected positive numbers"),
        (["scenes", "out", "--metres-per-pixel", "0.2"], 64, "expected two numbers LEAST,MOST"),
        (["scenes", "out", "--metres-per-pixel", "0.4,0.2"], 4, "expected two rising positive numbers"),
        (["cut", "made", "out"], 64, "unknown command 'dota cut'"),
    ],
)
def test_bad_input(cli: Any, arguments: list[str], code: int, message: str) -> None:
    cli(["dota", "scenes", "made", "--count", 1, "--size", 64])
    run = cli(["dota", *arguments])
    assert run.code == code and len(run.error_lines) == 1 and message in run.err, run.err
    assert not Path("out").exists()
