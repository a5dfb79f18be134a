"""The comparison of options: what a network is shown under each condition, how it is judged, and the tables."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from rotaware.datasets import RegistrationPair, indoor_pair
from rotaware.geo import transform_points
from rotaware.pointcloud import NodeMatches, PointMatches, RoITr, RoITrConfig, is_registered, network_pair
from rotaware.pointcloud.preparation import common_voxel

VOXEL = 0.1
SMALL: dict[str, Any] = {
    "widths": (16, 16, 16, 16),
    "point_channels": 16,
    "patch_pairs": 16,
    "sinkhorn_iterations": 5,
    "tie_tolerance": 0.0,
}
EMBEDDING = {
    "superpoints": 9,
    "difference": 1e-5,
    "literal": {"seconds": 2.0, "megabytes": 900.0},
    "tabulated": {"seconds": 0.5, "megabytes": 90.0},
}
METRES, VOXELS = RoITrConfig(**SMALL), RoITrConfig(**SMALL, voxel=VOXEL)


@pytest.fixture(autouse=True)
def state_of_torch() -> Iterator[None]:
    """Threads and random numbers as they were: the script has processes of its own for them."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng():
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tools(parts: SimpleNamespace) -> Iterator[SimpleNamespace]:
    """The two modules, and recipes for clouds in metres and in voxels."""
    names = ("options", "conditions")
    modules = {name: importlib.import_module(name) for name in names}
    metres = parts.recipe.Options(thin=VOXEL, radius=0.15)
    voxels = parts.recipe.Options(occupied=(700, 900), radius=0.15)
    yield SimpleNamespace(**modules, metres=metres, voxels=voxels, samples=parts.samples)
    for name in names:
        del sys.modules[name]


@pytest.fixture(scope="module")
def scans() -> RegistrationPair:
    return indoor_pair(3, frames=3, overlap=(0.4, 0.9))


def shares_near(pair: Any, radius: float) -> float:
    """Share of the source that the truth brings near the target."""
    moved = transform_points(pair.transform, pair.source)
    return float((cKDTree(pair.target.numpy()).query(moved.numpy())[0] < radius).mean())


def test_thinning_is_that_of_the_library(tools: SimpleNamespace, scans: RegistrationPair) -> None:
    """With the voxel that `network_pair` chooses."""
    frames = tools.samples.uniform_frames(np.random.default_rng(0))
    clouds = [np.asarray(cloud, dtype=np.float64) for cloud in (scans.source, scans.target)]
    T = scans.T_target_source
    expected = network_pair(*clouds, VOXELS, frames=(frames[0], frames[1]), transform=T, occupied=800)
    voxel = common_voxel([cloud @ F[:3, :3].T + F[:3, 3] for cloud, F in zip(clouds, frames, strict=True)], 800)
    found = tools.samples.thinned_pair(clouds, frames, T, voxel=voxel, unit=VOXEL)
    for name in ("source", "source_normals", "target", "target_normals", "transform"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=1e-6)


def test_training_thins_to_the_wanted_spacing(tools: SimpleNamespace, scans: RegistrationPair) -> None:
    samples = tools.samples.Samples([scans], METRES, tools.metres, augmented=True)
    pair = samples.sample(0)
    nearest = cKDTree(pair.source.numpy()).query(pair.source.numpy(), 2)[0][:, 1]
    assert 0.5 * VOXEL < np.median(nearest) < VOXEL
    assert shares_near(pair, VOXEL) > 0.3
    with pytest.raises(ValueError, match=r"thin: expected 0 for scenes that deform or with network\.voxel, got 0.1"):
        tools.samples.Samples([scans], VOXELS, tools.metres, augmented=True).sample(0)


@pytest.mark.parametrize("config", [METRES, VOXELS], ids=["metres", "voxels"])
@pytest.mark.parametrize("condition", ["plain", "given", "flips", "sensor", "mirrored", "half", "millimetres"])
def test_conditions(tools: SimpleNamespace, scans: RegistrationPair, config: RoITrConfig, condition: str) -> None:
    options = tools.metres if config.voxel is None else tools.voxels
    case, plain = (tools.conditions.case_of(scans, 5, name, config, options) for name in (condition, "plain"))
    seen, clean, factor = case.seen, case.clean, tools.conditions.FACTORS.get(condition, 1.0)
    # Whatever is done, the transform of what is seen is the truth.
    assert shares_near(seen, case.voxel) == pytest.approx(shares_near(plain.seen, plain.voxel), abs=0.05)
    if condition == "given":
        assert torch.equal(seen.transform[:3, :3], torch.from_numpy(scans.T_target_source[:3, :3]))
        return
    if config.voxel is None:
        assert (case.voxel, case.metre) == (factor * VOXEL, factor)
        torch.testing.assert_close(clean.source, factor * plain.clean.source)
    else:
        assert case.voxel == VOXEL and case.metre == pytest.approx(plain.metre, rel=1e-3)
        torch.testing.assert_close(clean.source, plain.clean.source, rtol=0, atol=0.02)
    torch.testing.assert_close(clean.source_normals, plain.clean.source_normals, rtol=0, atol=1e-2)
    if condition == "mirrored":
        distances = [torch.cdist(points[:50], points[:50]) for points in (seen.source, clean.source)]
        torch.testing.assert_close(*distances)
        assert torch.linalg.det(seen.transform[:3, :3]) == pytest.approx(-1)
        return
    assert torch.equal(seen.source, clean.source) and torch.equal(seen.target, clean.target)
    turned = ((seen.target_normals * clean.target_normals).sum(1) < 0).double().mean()
    if condition == "flips":
        assert 0.05 < turned < 0.15
    elif condition == "sensor":
        assert 0 < turned < 0.3
    else:
        assert turned == 0


def test_a_mistaken_sensor_is_where_it_should_be(tools: SimpleNamespace, scans: RegistrationPair) -> None:
    """Facing the true sensors again undoes it; and these are half a metre from the mistaken ones."""
    case = tools.conditions.case_of(scans, 1, "sensor", METRES, tools.metres)
    again = tools.conditions.facing(case.seen, [frame[:3, 3] for frame in case.frames])
    assert torch.equal(again.source_normals, case.clean.source_normals)
    assert not torch.equal(case.seen.source_normals, case.clean.source_normals)
    turned = (case.seen.source_normals != case.clean.source_normals).any(1)
    # The planes of the turned ones separate the two sensors.
    gap = ((case.clean.source - torch.from_numpy(case.frames[0][:3, 3])) * case.clean.source_normals).sum(1)
    assert gap[turned].abs().max() < tools.conditions.SENSOR_METRES


@pytest.mark.parametrize("condition", ["plain", "half", "millimetres", "flips"])
@pytest.mark.parametrize("config", [METRES, VOXELS], ids=["metres", "voxels"])
def test_true_matches_register(
    tools: SimpleNamespace, scans: RegistrationPair, config: RoITrConfig, condition: str
) -> None:
    options = tools.metres if config.voxel is None else tools.voxels
    case = tools.conditions.case_of(scans, 2, condition, config, options)
    moved = transform_points(case.seen.transform, case.seen.source)
    distance, nearest = cKDTree(case.seen.target.numpy()).query(moved.numpy())
    source = torch.from_numpy(np.flatnonzero(distance < 0.5 * case.voxel))
    count = len(source)
    nodes = NodeMatches(torch.zeros(0).long(), torch.zeros(0).long(), torch.zeros(0))
    found = PointMatches(source, torch.from_numpy(nearest)[source], torch.ones(count), torch.zeros(count).long(), nodes)
    pose = tools.conditions.estimated(case, found)
    assert is_registered(pose, scans.T_target_source, rotation_deg=2.0, translation=0.1)
    none = PointMatches(source[:0], source[:0], torch.zeros(0), source[:0], nodes)
    assert tools.conditions.estimated(case, none) is None


def network(config: RoITrConfig) -> RoITr:
    torch.manual_seed(0)
    return RoITr(config).eval().requires_grad_(False)


def test_unsigned_features_keep_all_matches_in_a_mirror(tools: SimpleNamespace, scans: RegistrationPair) -> None:
    kept = {}
    for kind in ("ppf", "signed_ppf"):
        model = network(RoITrConfig(**SMALL, pair_features=kind, threshold=0.0))
        found = tools.conditions.evaluated(model, [scans], tools.metres, ["plain", "mirrored"], 1)
        kept[kind] = found["mirrored"]["kept"]
        if kind == "ppf":
            assert found["mirrored"]["ir"] == pytest.approx(found["plain"]["ir"], abs=0.01)
    assert kept["ppf"] > 0.99 > 0.9 > kept["signed_ppf"]


def test_voxels_know_no_unit(tools: SimpleNamespace, scans: RegistrationPair) -> None:
    conditions = ["plain", "half", "millimetres"]
    found = tools.conditions.evaluated(network(VOXELS), [scans], tools.voxels, conditions, 1)
    values = [[found[each][name] for each in conditions] for name in ("ir", "pir", "matches")]
    assert all(others == pytest.approx([first] * 2, rel=0.05) for first, *others in values)


def test_ties(tools: SimpleNamespace, scans: RegistrationPair) -> None:
    options = replace(tools.metres, thin=0.06)
    broken, kept = (
        tools.conditions.changed_by_turning(network(config), [scans], options, 1)
        # Untrained, it is sure of nothing.
        for config in (replace(METRES, threshold=0.01), replace(METRES, threshold=0.01, tie_tolerance=None))
    )
    assert kept["entries"] == 0 and broken["entries"] > 0.1
    assert 0 <= kept["changed"] <= broken["changed"]


def test_embeddings_agree(tools: SimpleNamespace) -> None:
    nodes = np.random.default_rng(0).uniform(size=(40, 3)) * 3
    exact, ours = (tools.options.embedding_of(nodes, tabulated, 1) for tabulated in (False, True))
    assert 0 < np.abs(exact["values"] - ours["values"]).max() < 1e-4 * np.abs(exact["values"]).max()
    assert exact["seconds"] > 0 <= ours["megabytes"]


def test_rows_change_one_thing(tools: SimpleNamespace, parts: SimpleNamespace) -> None:
    """And everything they name exists."""
    for name, row in tools.options.ROWS.items():
        RoITrConfig(**{**tools.options.NETWORK, **row.network})
        recipe = {**tools.options.RECIPE, **row.recipe}
        parts.recipe.Options(**{key: tuple(each) if isinstance(each, list) else each for key, each in recipe.items()})
        # What is measured in voxels is thinned by another rule.
        assert len(row.network) + len(row.recipe) == {"published": 0, "voxels": 3}.get(name, 1)
        assert all(purpose.condition in tools.options.conditions_of("published") for purpose in row.purposes)


def result(ir: float, seconds: float | None = None, **more: dict[str, float]) -> dict[str, Any]:
    plain = {"pir": 0.5, "ir": ir, "fmr": 1.0, "registered": 0.25, "in_patches": 0.9, "matches": 100.0}
    cost = {} if seconds is None else {"cost": {"data_seconds": 0.1, "step_seconds": seconds, "megabytes": 700.0}}
    return {"found": {"plain": plain, **more}, **cost}


def test_tables(tools: SimpleNamespace) -> None:
    report = {
        "setting": {"steps": 10, "training_pairs": 20, "pairs": 5},
        "environment": "torch",
        "embedding": EMBEDDING,
        "rows": {
            "published": {"0": result(0.1, 0.2, mirrored={"kept": 1.0}), "1": result(0.2, 0.2, mirrored={"kept": 1.0})},
            # The second seed is still to come.
            "signed": {"0": result(0.3, 0.4, mirrored={"kept": 0.25})},
            "adaptive": {"0": result(0.1)},
        },
    }
    lines = tools.options.markdown(report).splitlines()
    rows = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines if "|" in line
    }
    assert rows["published behaviour"] == [
        "50.0 ± 0.0",
        "15.0 ± 5.0",
        "100.0 ± 0.0",
        "25.0 ± 0.0",
        "0.100",
        "0.200",
        "700",
    ]
    assert (
        "| signed pair features | 50.0 (+0.0) | 30.0 (+20.0) | 100.0 (+0.0) | 25.0 (+0.0) | 0.100 | 0.400 | 700 |"
        in lines
    )
    assert "| signed pair features | matches that stay when the source is mirrored, % | 100.0 | 25.0 |" in lines
    assert "| as many pairs of patches as look alike | matches | 100 | 100 |" in lines
    assert rows["geometric embedding from tables, 9 superpoints"] == ["MB, forward and backward", "900", "90"]


def test_what_is_finished_is_kept(
    tools: SimpleNamespace, rooms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(tools.options, "NETWORK", {**tools.options.NETWORK, **tools.options.QUICK_NETWORK})
    monkeypatch.setattr(tools.options, "RECIPE", {**tools.options.RECIPE, **tools.options.QUICK_RECIPE})
    monkeypatch.setattr(tools.options, "compared_embeddings", lambda *_: EMBEDDING)
    runs = []
    start = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **more: runs.append(command) or start(command, **more))
    words = ["--data", str(rooms), "--validation", str(rooms), "--output", str(tmp_path), "--rows", "ties"]
    words += ["--seeds", "1", "--pairs", "1", "--workers", "0", "--steps", "2"]
    tools.options.main(words)
    first = capsys.readouterr().out
    assert len(runs) == 1, "ties need no training of their own"
    tools.options.main(words)
    assert len(runs) == 1 and capsys.readouterr().out == first
    assert (tmp_path / "options.md").read_text().strip() == first.strip()
    report = json.loads((tmp_path / "options.json").read_text())
    assert set(report["rows"]) == {"published", "ties"}
    assert report["rows"]["ties"]["0"]["found"]["turned"]["entries"] == 0
    # Another recipe is another result: training refuses to go on with the network of this one.
    with pytest.raises(SystemExit, match=r"published-0: training ended with 1"):
        tools.options.main([*words[:-1], "3"])
    with pytest.raises(SystemExit, match="2"):
        tools.options.main([])
    assert "--data, --validation, --output" in capsys.readouterr().err
