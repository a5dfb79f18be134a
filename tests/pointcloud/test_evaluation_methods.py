"""Methods by name: each finds a pose, says what it depends on, and refuses what it cannot use."""

from __future__ import annotations

import importlib.util
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from rotaware.datasets import RegistrationPair, indoor_pair
from rotaware.pointcloud import RoITr, RoITrConfig, inlier_ratio, is_registered
from rotaware.pointcloud.errors import InputError, UnreadableFileError
from rotaware.pointcloud.methods import METHODS, MOST_POINTS, KissMatcher, MatchingNetwork, Open3DRansac, named_method

TINY = {"widths": (8, 8), "strides": (1, 4), "neighbors": (4, 4), "blocks": (0, 0), "point_channels": 8}


@pytest.fixture(scope="module")
def scans() -> RegistrationPair:
    return indoor_pair(0, overlap=(0.5, 0.8))


def saved(folder: Path, *, seed: int = 0, voxel: float | None) -> str:
    torch.manual_seed(seed)
    RoITr(RoITrConfig(**TINY, voxel=voxel)).save_pretrained(folder)  # type: ignore[arg-type]
    return str(folder)


@pytest.mark.parametrize("name", METHODS)
def test_settings_tell_methods_apart_and_are_json(name: str) -> None:
    package = {"open3d-fpfh-ransac": "open3d", "kiss-matcher": "kiss_matcher"}.get(name)
    if package is not None and importlib.util.find_spec(package) is None:
        with pytest.raises(ImportError, match=f"method {name}: {package} is not installed"):
            named_method(name)
        return
    method = named_method(name)
    assert pickle.loads(pickle.dumps(method)) == method
    settings = json.loads(json.dumps(method.settings()))
    assert "rotaware" in settings["versions"] and package in (None, *settings["versions"])
    others = [named_method(other).settings() for other in ("auto", "classic", "network") if other != name]
    assert settings not in others


def test_settings_follow_the_weights(tmp_path: Path) -> None:
    first, second = (saved(tmp_path / str(seed), seed=seed, voxel=0.04) for seed in (0, 1))
    for name in ("auto", "roitr", "network"):
        assert named_method(name, network=first).settings() != named_method(name, network=second).settings()
    assert named_method("classic", network=first).settings() == named_method("classic").settings()


def test_the_network_alone(scans: RegistrationPair) -> None:
    assert scans.T_target_source is not None
    for name in ("network", "network-ransac"):
        answer = named_method(name)(scans.source, scans.target)
        assert answer.matches is not None and answer.T_target_source is not None
        assert is_registered(answer.T_target_source, scans.T_target_source)
        assert answer.accepted is None and answer.confidence is None
        # In the unit and the frames of the scans.
        assert inlier_ratio(answer.matches.source, answer.matches.target, scans.T_target_source) > 0.1
        assert np.abs(answer.matches.source).max() < np.abs(scans.source).max() + 0.1
        assert answer.matches.confidence.min() > 0


def test_the_network_alone_is_the_same_in_every_unit(scans: RegistrationPair) -> None:
    metres = named_method("network")(scans.source, scans.target)
    millimetres = named_method("network")(1000.0 * scans.source, 1000.0 * scans.target)
    assert metres.T_target_source is not None and millimetres.T_target_source is not None
    np.testing.assert_allclose(millimetres.T_target_source[:3, :3], metres.T_target_source[:3, :3], atol=0.02)
    np.testing.assert_allclose(millimetres.T_target_source[:3, 3] / 1000, metres.T_target_source[:3, 3], atol=0.02)


def test_a_network_for_metres_gets_the_scans_as_they_are(tmp_path: Path) -> None:
    method = named_method("network", network=saved(tmp_path / "net", voxel=None))
    generator = np.random.default_rng(0)
    cloud = generator.uniform(-1, 1, (300, 3))
    turn = Rotation.random(random_state=0).as_matrix()
    answer = method(cloud, cloud @ turn.T)
    if answer.matches is not None and len(answer.matches.source):
        for ours, theirs in ((answer.matches.source, cloud), (answer.matches.target, cloud @ turn.T)):
            nearest = np.abs(ours[:, None] - theirs[None]).max(axis=2).min(axis=1)
            assert nearest.max() < 1e-6
    with pytest.raises(InputError, match="method auto needs one with the voxel as its unit"):
        named_method("auto", network=str(tmp_path / "net"))


def test_large_scans_are_thinned_for_a_network_for_metres(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def remember(source: np.ndarray, target: np.ndarray, *args: object, **kwargs: object) -> None:
        seen.append((len(source), len(target)))
        raise StopIteration

    monkeypatch.setattr("rotaware.pointcloud.methods.network_pair", remember)
    for voxel in (None, 0.04):
        method = MatchingNetwork(saved(tmp_path / f"net{voxel}", voxel=voxel))
        with pytest.raises(StopIteration):
            method(np.zeros((MOST_POINTS + 5, 3)), np.zeros((MOST_POINTS, 3)))
    assert seen == [(MOST_POINTS, MOST_POINTS), (MOST_POINTS + 5, MOST_POINTS)]


@pytest.mark.parametrize(("package", "method"), [("open3d", Open3DRansac()), ("kiss_matcher", KissMatcher())])
def test_baselines(package: str, method: Open3DRansac | KissMatcher, scans: RegistrationPair) -> None:
    pytest.importorskip(package)
    assert scans.T_target_source is not None
    first, again = (method(scans.source, scans.target) for _ in range(2))
    assert first.T_target_source is not None and again.T_target_source is not None
    assert is_registered(first.T_target_source, scans.T_target_source)
    # KISS-Matcher adds in the order in which its threads finish.
    np.testing.assert_allclose(again.T_target_source, first.T_target_source, rtol=0, atol=1e-4)
    assert first.matches is None and (first.accepted is None) == (package == "open3d")


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"method: expected one of 'auto', 'roitr', .*, got 'magic'"):
        named_method("magic")
    with pytest.raises(FileNotFoundError, match=r"config\.json: no such file"):
        named_method("network", network=str(tmp_path / "none"))
    folder = tmp_path / "net"
    saved(folder, voxel=0.04)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(UnreadableFileError, match=r"network .*net: .*truncated or of another checkpoint"):
        named_method("roitr", network=str(folder))
