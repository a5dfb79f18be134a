"""What the matches of a network are worth on scans that are turned, mirrored or scaled, or whose normals are wrong.

A part of `options.py`. Conditions: "plain", in a random pose; "given", in the pose of the scans; "flips", a tenth of
the normals turned around; "sensor", normals that face a sensor mistaken by half a metre; "mirrored", with the mirror
image of the source; and those of `FACTORS`, all lengths multiplied.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from recipe import Options
from samples import flipped, thinned_pair, uniform_frames

from rotaware.geo import random_rotations
from rotaware.kernels import Pyramid
from rotaware.pointcloud import (
    CloudPair,
    PairBatch,
    PointMatches,
    RoITr,
    RoITrConfig,
    RoITrObjective,
    inlier_ratio,
    is_registered,
    merge_matches,
    patch_inlier_ratio,
)
from rotaware.pointcloud.estimators import Matches, hypotheses
from rotaware.pointcloud.preparation import common_voxel

FLIPS, SENSOR_METRES = 0.1, 0.5
FACTORS = {"half": 0.5, "double": 2.0, "millimetres": 1000.0}
INLIER_METRES = 0.2
LOW_OVERLAP = 0.3
# Consensus looks at all pairs of matches.
MOST_MATCHES = 1000
# Edge of the lattice of scans whose ties are looked at, as a share of the voxel: 2 mm of 2.5 cm, as in 3DMatch. And the
# poses of each scan.
LATTICE, TURNS = 0.08, 4
SEED_OF_POSES = 7

Rows = set[tuple[int, int]]


class Case(NamedTuple):
    """A pair of scans under a condition."""

    seen: CloudPair  # by the network
    clean: CloudPair  # the same rows without the condition
    voxel: float  # in the unit of the network
    metre: float  # likewise
    frames: list[np.ndarray]  # out of the scans' own frames, in metres
    truth: np.ndarray  # between the scans' own frames, in metres


def case_of(scans: Any, number: int, condition: str, config: RoITrConfig, options: Options) -> Case:
    """Pair `number`, in metres, as a network takes it; the random pose depends on the number alone."""
    generator = np.random.default_rng([SEED_OF_POSES, number])
    frames = [np.eye(4), np.eye(4)] if condition == "given" else uniform_frames(generator)
    factor = FACTORS.get(condition, 1.0)
    clouds = [factor * np.asarray(cloud, dtype=np.float64) for cloud in (scans.source, scans.target)]
    voxel = factor * options.thin if config.voxel is None else common_voxel(clouds, sum(options.occupied) // 2)
    unit = config.voxel or voxel
    metre = factor * unit / voxel
    source_frame, target_frame, truth = (lengthened(T, factor) for T in (*frames, scans.T_target_source))
    clean = seen = thinned_pair(clouds, [source_frame, target_frame], truth, voxel=voxel, unit=unit)
    if condition == "flips":
        seen = flipped(clean, FLIPS, generator)
    elif condition == "sensor":
        steps = generator.normal(size=(2, 3))
        steps *= SENSOR_METRES / np.linalg.norm(steps, axis=1, keepdims=True)
        seen = facing(clean, [metre * (frame[:3, 3] + step) for frame, step in zip(frames, steps, strict=True)])
    elif condition == "mirrored":
        seen = mirrored(clean)
    return Case(seen, clean, unit, metre, frames, scans.T_target_source)


def lengthened(T: np.ndarray, factor: float) -> np.ndarray:
    """A rigid motion in a unit that is smaller by `factor`."""
    return T * np.array([[1, 1, 1, factor]] * 3 + [[1, 1, 1, 1]])


def facing(pair: CloudPair, sensors: Sequence[np.ndarray]) -> CloudPair:
    """Normals turned to face the sensors of source and target, which are in the frames and the unit of the pair."""
    clouds = ((pair.source, pair.source_normals), (pair.target, pair.target_normals))
    normals = []
    for (points, given), sensor in zip(clouds, sensors, strict=True):
        away = ((torch.from_numpy(sensor).to(points) - points) * given).sum(1) < 0
        normals.append(torch.where(away[:, None], -given, given))
    return replace(pair, source_normals=normals[0], target_normals=normals[1])


def mirrored(pair: CloudPair) -> CloudPair:
    """The source reflected; its transform, which still brings it onto the target, is a reflection as well."""
    assert pair.transform is not None
    mirror = torch.tensor([-1.0, 1.0, 1.0, 1.0])
    source, normals = pair.source * mirror[:3], pair.source_normals * mirror[:3]
    return replace(pair, source=source, source_normals=normals, transform=pair.transform * mirror)


def judged(network: RoITr, case: Case, options: Options) -> tuple[dict[str, float], Rows]:
    """What the matches of a network are worth, and which they are."""
    batch = PairBatch.build([case.seen], network.config, inverse=False)
    found = network.match(batch)[0]
    # The radius of the recipe is for points as far apart as in training.
    radius = options.radius * case.voxel / (network.config.voxel or options.thin)
    overlaps, target, source = RoITrObjective(network, radius=radius).truth(batch, 0)
    # The source is in the frame of the target already.
    near = INLIER_METRES * case.metre
    inliers = inlier_ratio(source.points[found.source], target.points[found.target], np.eye(4), radius=near)
    pose = estimated(case, found)
    values = {
        "pir": patch_inlier_ratio(found.nodes.target, found.nodes.source, overlaps),
        "ir": inliers,
        "fmr": float(inliers > 0.05),
        "registered": float(pose is not None and is_registered(pose, case.truth)),
        "matches": float(len(found.source)),
        "in_patches": float(source.mask.sum() + target.mask.sum()) / len(batch.points),
    }
    return values, rows_of(found)


def rows_of(found: PointMatches) -> Rows:
    """Pairs of rows, without repetition."""
    return set(zip(found.source.tolist(), found.target.tolist(), strict=True))


def estimated(case: Case, found: PointMatches) -> np.ndarray | None:
    """(4, 4) between the scans' own frames in metres, from the matches alone; None for too few of them."""
    merged = merge_matches(found.source, found.target, found.confidence, found.patch, combine="max")
    best = merged.confidence.argsort(descending=True, stable=True)[:MOST_MATCHES]
    source, target = merged.source[best], merged.target[best]
    # The estimator gets the true normals: the network is judged.
    points = case.seen.source[source] / case.voxel, case.seen.target[target] / case.voxel
    normals = case.clean.source_normals[source], case.clean.target_normals[target]
    poses, _ = hypotheses(Matches(*(each.double().numpy() for each in (*points, *normals, merged.confidence[best]))), 1)
    if not len(poses):
        return None
    pose = lengthened(poses[0], case.voxel / case.metre)
    estimate: np.ndarray = np.linalg.inv(case.frames[1]) @ pose @ case.frames[0]
    return estimate


def evaluated(
    network: RoITr, scans: Any, options: Options, conditions: Sequence[str], count: int
) -> dict[str, dict[str, float]]:
    """Means over `count` pairs, evenly spread, for each condition; the first is "plain"."""
    records: dict[str, list[dict[str, float]]] = {condition: [] for condition in conditions}
    for number in range(count):
        pair = scans[number * len(scans) // count]
        plain: Rows = set()
        for condition in conditions:
            values, rows = judged(network, case_of(pair, number, condition, network.config, options), options)
            if condition == "plain":
                plain = rows
                if pair.overlap < LOW_OVERLAP:
                    values["low_overlap_ir"] = values["ir"]
            elif condition == "mirrored" and plain:
                values["kept"] = len(plain & rows) / len(plain)
            records[condition].append(values)
    return {condition: means(values) for condition, values in records.items()}


def means(records: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of every quantity, over the records that have it."""
    names = dict.fromkeys(name for record in records for name in record)
    return {name: statistics.fmean(record[name] for record in records if name in record) for name in names}


def changed_by_turning(network: RoITr, scans: Any, options: Options, count: int) -> dict[str, float]:
    """Shares of the entries of all tables, and of the matches, that differ when scans on a lattice are turned."""
    config, generator = network.config, torch.Generator().manual_seed(SEED_OF_POSES)
    turns = [torch.eye(3).double(), *random_rotations(TURNS, generator=generator, dtype=torch.float64)]
    records = []
    for number in range(count):
        case = case_of(scans[number * len(scans) // count], number, "given", config, options)
        pair, edge = case.clean, LATTICE * case.voxel
        clouds = [(points / edge).round() * edge for points in (pair.source, pair.target)]
        arrays = (clouds[0], pair.source_normals, clouds[1], pair.target_normals)
        seen = []
        for turn in turns:
            # In single precision, as scans are stored.
            source, source_normals, target, target_normals = ((each @ turn.T).float() for each in arrays)
            turned = CloudPair(source, source_normals, target, target_normals)
            matches = rows_of(network.match(PairBatch.build([turned], config, inverse=False))[0])
            seen.append((torch.cat([tables_of(source, config), tables_of(target, config)]), matches))
        tables, matches = seen[0]
        for others, found in seen[1:]:
            changed = 1 - len(matches & found) / max(len(matches | found), 1)
            records.append({"entries": float((tables != others).double().mean()), "changed": changed})
    return means(records)


def tables_of(points: torch.Tensor, config: RoITrConfig) -> torch.Tensor:
    """All samples, neighbors and sources of interpolation of one cloud, in one row."""
    pyramid = Pyramid.build(
        points,
        strides=config.strides,
        ks=config.neighbors,
        order=False,
        drop_first=True,
        inverse=False,
        tie_tolerance=config.tied,
    )
    tables = []
    for level in pyramid.levels:
        tables.append(level.neighborhood.idx)
        if level.rows is not None and level.up is not None:
            tables += [level.rows, level.down.idx, level.up.idx]
    return torch.cat([table.flatten().long() for table in tables])
