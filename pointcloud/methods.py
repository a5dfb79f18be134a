"""Methods that a benchmark compares, by name: ours, a network alone, and classical baselines where they are installed.

Each takes two scans in one unit and gives an `Answer`. All are plain data: they can be sent to another process, and
`settings` lists whatever their answers depend on.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import small_gicp
import torch

from rotaware.geo.checks import require_choice

from .canonical import apply
from .checkpoints import read_config
from .errors import InputError, UnreadableFileError
from .learned import BUNDLED, bundled_roitr
from .matching import sample_matches
from .pairs import CloudPair, PairBatch
from .preparation import network_pair
from .registration import register
from .robust import local_to_global_registration, ransac
from .roitr import RoITr

# Points that the released code of RoITr keeps of a scan.
MOST_POINTS = 30_000
# RANSAC as in the tables of 3DMatch: correspondences, inlier distance in the network's unit, iterations.
RANSAC_MATCHES, RANSAC_RADIUS, RANSAC_ITERATIONS = 5000, 0.05, 50_000
# Baselines: metres, for scans of rooms.
VOXEL_M = 0.05
GICP_VOXEL_M, GICP_GATE_M = 0.025, 0.10
# The rule of KISS-Matcher's own example for "it worked".
KISS_INLIERS = 5
_LIBRARIES = ("rotaware", "numba", "numpy", "scipy", "small_gicp", "torch")


class MatchedPoints(NamedTuple):
    """Points that a method takes for the same places, in the frames of the scans."""

    source: np.ndarray  # (M, 3)
    target: np.ndarray  # (M, 3)
    confidence: np.ndarray  # (M,) not negative


@dataclass(frozen=True)
class Answer:
    """What a method says about a pair of scans."""

    T_target_source: np.ndarray | None  # (4, 4), its best guess; None if it has none
    accepted: bool | None = None  # whether it vouches for the pose; None if it gives no verdict
    confidence: float | None = None  # in [0, 1], that the pose is right
    matches: MatchedPoints | None = None
    evidence: Mapping[str, float] | None = None  # what the confidence was calculated from


class Method(Protocol):
    """Anything that registers two scans. Instances must be picklable."""

    def settings(self) -> Mapping[str, Any]:
        """What the answers depend on, for JSON: options, hashes of weights, versions."""

    def __call__(self, source: np.ndarray, target: np.ndarray) -> Answer:
        """An answer for scans (N, 3) and (M, 3); an exception counts as a failure of the pair."""


@dataclass(frozen=True)
class Registering:
    """`rotaware.pointcloud.register` with its defaults.

    >>> from rotaware.datasets import indoor_pair
    >>> scans = indoor_pair(0)
    >>> Registering("classic")(scans.source, scans.target).accepted
    True
    """

    method: Literal["auto", "roitr", "classic"] = "auto"
    network: str | None = None  # folder of a RoITr; None is the bundled one

    def settings(self) -> Mapping[str, Any]:
        """Engine, weights and versions."""
        weights = None if self.method == "classic" else _weights(self.network)
        return {"register": self.method, "weights": weights, "versions": _versions()}

    def __call__(self, source: np.ndarray, target: np.ndarray) -> Answer:
        """The pose with its verdict, and the correspondences it was chosen by."""
        network = None if self.method == "classic" else _network(self.network)
        result = register(source, target, method=self.method, network=network)
        found = result.correspondences
        matches = MatchedPoints(source[found.source_index], target[found.target_index], found.confidence)
        return Answer(result.T_target_source, result.ok, result.confidence, matches, result.evidence)


@dataclass(frozen=True)
class MatchingNetwork:
    """Correspondences of a RoITr and one estimator, nothing else: how such networks are compared in papers.

    Scans are taken to be seen from their origins. A network with `config.voxel` gets thinned clouds in its unit; one
    for metres gets them as they are, at most 30 000 points of each.
    """

    network: str | None = None  # folder of a RoITr; None is the bundled one
    estimator: Literal["lgr", "ransac"] = "lgr"

    def settings(self) -> Mapping[str, Any]:
        """Estimator, weights and versions."""
        return {"matches and": self.estimator, "weights": _weights(self.network), "versions": _versions()}

    def __call__(self, source: np.ndarray, target: np.ndarray) -> Answer:
        """All correspondences, and a pose if there are three."""
        network = _network(self.network)
        pair, unit = _prepared(source, target, network)
        found = network.match(PairBatch.build([pair], network.config, inverse=False))[0]
        ours, theirs = (
            cloud[rows].double().numpy() for cloud, rows in ((pair.source, found.source), (pair.target, found.target))
        )
        matches = MatchedPoints(ours / unit, theirs / unit, found.confidence.double().numpy())
        if len(ours) < 3:
            return Answer(None, matches=matches)
        if self.estimator == "lgr":
            estimate = local_to_global_registration(ours, theirs, matches.confidence, found.patch.numpy())
        else:
            chosen = sample_matches(found.confidence, RANSAC_MATCHES, torch.Generator().manual_seed(0)).numpy()
            estimate = ransac(ours[chosen], theirs[chosen], radius=RANSAC_RADIUS, iterations=RANSAC_ITERATIONS)
        pose = estimate.T_target_source.copy()
        pose[:3, 3] /= unit
        return Answer(pose, matches=matches)


@dataclass(frozen=True)
class Open3DRansac:
    """FPFH and RANSAC with the ratios of Open3D's tutorial on global registration, then GICP; metres."""

    iterations: int = 100_000
    threads: int = 1  # of GICP

    def settings(self) -> Mapping[str, Any]:
        """Iterations and versions."""
        return {"open3d ransac": self.iterations, "versions": _versions("open3d", "small_gicp")}

    def __call__(self, source: np.ndarray, target: np.ndarray) -> Answer:
        """A pose without a verdict."""
        import open3d

        open3d.utility.random.seed(0)
        pipeline = open3d.pipelines.registration
        search = open3d.geometry.KDTreeSearchParamHybrid
        clouds, features = [], []
        for points in (source, target):
            vectors = open3d.utility.Vector3dVector(points.astype(np.float64))
            cloud = open3d.geometry.PointCloud(vectors).voxel_down_sample(VOXEL_M)
            cloud.estimate_normals(search(radius=2 * VOXEL_M, max_nn=30))
            clouds.append(cloud)
            features.append(pipeline.compute_fpfh_feature(cloud, search(radius=5 * VOXEL_M, max_nn=100)))
        gate = 1.5 * VOXEL_M
        result = pipeline.registration_ransac_based_on_feature_matching(
            *clouds,
            *features,
            True,
            gate,
            pipeline.TransformationEstimationPointToPoint(False),
            3,
            [
                pipeline.CorrespondenceCheckerBasedOnEdgeLength(0.9),
                pipeline.CorrespondenceCheckerBasedOnDistance(gate),
            ],
            pipeline.RANSACConvergenceCriteria(self.iterations, 0.999),
        )
        return Answer(_gicp(source, target, np.asarray(result.transformation), self.threads))


@dataclass(frozen=True)
class KissMatcher:
    """KISS-Matcher with its own settings at 5 cm, then GICP; metres.

    It adds in the order in which its threads finish: its poses repeat to about a micrometre, not to the last bit.
    """

    threads: int = 1  # of GICP

    def settings(self) -> Mapping[str, Any]:
        """Resolution and versions."""
        return {"kiss-matcher voxel": VOXEL_M, "versions": _versions("kiss_matcher", "small_gicp")}

    def __call__(self, source: np.ndarray, target: np.ndarray) -> Answer:
        """A pose, accepted by the rule of KISS-Matcher's example: five final inliers."""
        import kiss_matcher

        matcher = kiss_matcher.KISSMatcher(kiss_matcher.KISSMatcherConfig(VOXEL_M))
        solution = matcher.estimate(source.astype(np.float32), target.astype(np.float32))
        pose = np.eye(4)
        pose[:3, :3] = solution.rotation
        pose[:3, 3] = np.ravel(solution.translation)
        accepted = matcher.get_num_final_inliers() >= KISS_INLIERS
        return Answer(_gicp(source, target, pose, self.threads), accepted)


METHODS = ("auto", "roitr", "classic", "network", "network-ransac", "open3d-fpfh-ransac", "kiss-matcher")


def named_method(name: str, *, network: str | None = None) -> Method:
    """One of `METHODS`, ready to run.

    Args:
        name: of the method.
        network: folder of a RoITr, for the methods that use one; None is the bundled one.
    Raises:
        ValueError: an unknown name.
        ImportError: a baseline that is not installed.
        FileNotFoundError, UnreadableFileError: no such network, or a damaged one.
        InputError: a network for metres where `register` needs one for voxels.

    >>> named_method("auto")
    Registering(method='auto', network=None)
    """
    require_choice("method", name, METHODS)
    if name == "classic":
        return Registering("classic")
    if name in ("auto", "roitr"):
        if _network(network).config.voxel is None:
            raise InputError(
                f"network {network}: method {name} needs one with the voxel as its unit (config.voxel), got one for "
                "metres; method network takes it"
            )
        return Registering("auto" if name == "auto" else "roitr", network)
    if name in ("network", "network-ransac"):
        _network(network)
        return MatchingNetwork(network, "ransac" if name == "network-ransac" else "lgr")
    package = "open3d" if name == "open3d-fpfh-ransac" else "kiss_matcher"
    if importlib.util.find_spec(package) is None:
        raise ImportError(f"method {name}: {package} is not installed; pip install 'rotaware[bench]'")
    return Open3DRansac() if package == "open3d" else KissMatcher()


@cache
def _network(folder: str | None) -> RoITr:
    if folder is None:
        return bundled_roitr()
    try:
        return RoITr.from_pretrained(folder).eval().requires_grad_(False)
    except ValueError as error:
        raise UnreadableFileError(f"network {folder}: {error}") from error


def _weights(folder: str | None) -> dict[str, Any]:
    described = read_config(BUNDLED if folder is None else folder)
    return {"sha256": described["sha256"], "config": described["config"]}


def _versions(*packages: str) -> dict[str, str]:
    return {name: version(name) for name in (*_LIBRARIES, *packages)}


def _prepared(source: np.ndarray, target: np.ndarray, network: RoITr) -> tuple[CloudPair, float]:
    """The scans as `network` takes them, and what a length of 1 has become."""
    if network.config.voxel is None:
        source, target = (_thinned(cloud) for cloud in (source, target))
    # Poses are scaled as the scans are.
    ruler = np.eye(4) + np.eye(4, k=3)
    pair = network_pair(source, target, network.config, transform=ruler)
    assert pair.transform is not None
    return pair, float(pair.transform[0, 3])


def _thinned(cloud: np.ndarray) -> np.ndarray:
    if len(cloud) <= MOST_POINTS:
        return cloud
    return cloud[np.random.default_rng(0).permutation(len(cloud))[:MOST_POINTS]]


def _gicp(source: np.ndarray, target: np.ndarray, pose: np.ndarray, threads: int) -> np.ndarray:
    """`pose` after generalised ICP."""
    # Moved onto the target first: far from the origin the optimiser is badly conditioned.
    step = small_gicp.align(
        target.astype(np.float64),
        apply(pose, source.astype(np.float64)),
        downsampling_resolution=GICP_VOXEL_M,
        max_correspondence_distance=GICP_GATE_M,
        num_threads=threads,
    )
    return np.asarray(step.T_target_source @ pose)
