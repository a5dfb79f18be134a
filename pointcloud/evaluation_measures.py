"""What a benchmark reports: each measure with its name, its meaning, and the pairs it counts.

There are several registration recalls in the field, which differ in what they measure and in which pairs they count.
Each has a name of its own here, and none is shown under the name of another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from .evaluation_records import MATCH_COUNTS, Record, ScanPair
from .metrics import (
    MATCH_INLIER_RATIO,
    REGISTRATION_RMSE,
    SUCCESS_ROTATION_DEG,
    SUCCESS_TRANSLATION,
    scored_pairs,
)

Unit = Literal["share", "degrees", "metres"]
# The recalls that 3DMatch's information matrices serve for, the official one first.
OFFICIAL, NONE_LOST, CORRECTED = "rr_3dmatch", "rr_3dmatch_all", "rr_corrected"


@dataclass(frozen=True)
class Bounds:
    """Largest errors of a pose that counts as right."""

    rotation_deg: float = SUCCESS_ROTATION_DEG
    translation_m: float = SUCCESS_TRANSLATION

    def right(self, record: Record) -> bool:
        """Whether a pose was found that is within both.

        >>> Bounds().right(Record("a", "original", "auto", "", "", scores={"rotation_deg": 3.0, "translation_m": 0.1}))
        True
        """
        rotation, translation = record.scores.get("rotation_deg"), record.scores.get("translation_m")
        if rotation is None or translation is None:
            return False
        return rotation <= self.rotation_deg and translation <= self.translation_m


# Choy et al., "Deep Global Registration", CVPR 2020, and all tables of KITTI since.
KITTI_BOUNDS = Bounds(5.0, 2.0)


@dataclass(frozen=True)
class Measure:
    """One column of the tables."""

    name: str
    label: str
    meaning: str
    unit: Unit
    statistic: Literal["mean", "median"]
    # Names of the pairs that it counts.
    pairs: frozenset[str]
    # Of a record of such a pair; None leaves the pair out.
    value: Callable[[Record], float | None]
    # A score without which a method says nothing about it.
    needs: str | None = None


def measures_of(pairs: Sequence[ScanPair], records: Sequence[Record], bounds: Bounds) -> list[Measure]:
    """The measures that a benchmark allows: those whose scores are among `records`."""
    known = {key for record in records for key in record.scores}
    truth = frozenset(pair.name for pair in pairs if pair.T_target_source is not None or pair.deforming)
    if any(pair.deforming for pair in pairs):
        return [*_match_measures(truth, known)]
    counted = _counted(pairs)
    within = f"{REGISTRATION_RMSE:g} m"
    found: list[Measure] = []

    def recall(name: str, label: str, meaning: str, counts: frozenset[str], right: Callable[[Record], bool]) -> None:
        if counts:
            found.append(Measure(name, label, meaning, "share", "mean", counts, lambda record: float(right(record))))

    official = _at_most("rmse_official_m", REGISTRATION_RMSE)
    recall(
        OFFICIAL,
        "RR 3DMatch",
        f"official registration recall: RMSE by the information matrix at most {within}; fragments that are not "
        "consecutive, without the first pair of a scene, which the official scorer loses",
        counted[OFFICIAL],
        official,
    )
    recall(
        NONE_LOST,
        "RR 3DMatch, none lost",
        "the same formula with the pairs that the official scorer loses",
        counted[NONE_LOST],
        official,
    )
    recall(
        CORRECTED,
        "RR corrected",
        "the same with the error in the frame of the information matrix and the whole rotation vector, without pairs "
        "whose matrix is zero",
        counted[CORRECTED],
        _at_most("rmse_corrected_m", REGISTRATION_RMSE),
    )
    if "rmse_overlap_m" in known:
        overlapping = frozenset(record.pair for record in records if "rmse_overlap_m" in record.scores)
        failed = frozenset(record.pair for record in records if record.failure is not None)
        recall(
            "rr_overlap",
            "RR overlap",
            f"RMSE over the points that truly overlap at most {within}; all pairs",
            truth & (overlapping | failed),
            _at_most("rmse_overlap_m", REGISTRATION_RMSE),
        )
    if "displacement_m" in known:
        recall(
            "rr_rotated",
            "RR Rotated 3DMatch",
            f"recall of the rotated benchmarks: mean displacement of all points of the source below {within}; all "
            "pairs",
            truth,
            _below("displacement_m", REGISTRATION_RMSE),
        )
    recall(
        "rr_pose",
        f"RR {bounds.rotation_deg:g} deg, {bounds.translation_m:g} m",
        f"rotation error at most {bounds.rotation_deg:g} degrees and translation error at most "
        f"{bounds.translation_m:g} m; all pairs",
        truth,
        bounds.right,
    )
    right: Callable[[Record], bool] = bounds.right
    counts, what = truth, found[-1].label
    if counted[OFFICIAL]:
        counts, right, what = counted[OFFICIAL], official, found[0].label
    over = f"error, median over pairs right by {what}"
    turn, shift = _where(right, "rotation_deg"), _where(right, "translation_m")
    found.append(Measure("rre", "RRE", f"rotation {over}", "degrees", "median", counts, turn))
    found.append(Measure("rte", "RTE", f"translation {over}", "metres", "median", counts, shift))
    return [*found, *_match_measures(truth, known)]


def _match_measures(truth: frozenset[str], known: set[str]) -> list[Measure]:
    found = []
    wanted = [("", "all correspondences"), *((f"_{n}", f"at most {n} correspondences") for n in MATCH_COUNTS)]
    for end, which in wanted:
        key = f"ir{end}"
        if key not in known:
            continue
        short = end.removeprefix("_") or "all"
        inliers = f"share of correspondences that the true motion explains; {which}"
        found.append(Measure(key, f"IR {short}", inliers, "share", "mean", truth, _score(key), key))
        if "nfmr" not in known:
            matched = f"share of pairs with an IR above {MATCH_INLIER_RATIO:g}; {which}"
            value = _exceeds(key, MATCH_INLIER_RATIO)
            found.append(Measure(f"fmr{end}", f"FMR {short}", matched, "share", "mean", truth, value, key))
    if "nfmr" in known:
        meaning = "share of points whose motion the correspondences nearby tell within 4 cm"
        found.append(Measure("nfmr", "NFMR", meaning, "share", "mean", truth, _score("nfmr"), "nfmr"))
    return found


def _counted(pairs: Sequence[ScanPair]) -> Mapping[str, frozenset[str]]:
    """Names of the pairs that each recall by information matrices counts."""
    scenes: dict[str, list[ScanPair]] = {}
    for pair in pairs:
        if pair.T_target_source is not None:
            scenes.setdefault(pair.scene, []).append(pair)
    names: dict[str, set[str]] = {OFFICIAL: set(), NONE_LOST: set(), CORRECTED: set()}
    for of_scene in scenes.values():
        numbers = [(pair.target_id, pair.source_id) for pair in of_scene]
        for measure, official in ((OFFICIAL, True), (NONE_LOST, False)):
            counts = zip(of_scene, scored_pairs(numbers, official=official), strict=True)
            names[measure] |= {pair.name for pair, yes in counts if yes and pair.information is not None}
        known = {pair.name for pair in of_scene if pair.information is not None and pair.information[0, 0] > 0}
        names[CORRECTED] |= known & names[NONE_LOST]
    return {measure: frozenset(each) for measure, each in names.items()}


def _score(key: str) -> Callable[[Record], float | None]:
    """The score, 0 for a pair that failed."""
    return lambda record: record.scores.get(key) or 0.0


def _at_most(key: str, bound: float) -> Callable[[Record], bool]:
    return lambda record: (value := record.scores.get(key)) is not None and value <= bound


def _below(key: str, bound: float) -> Callable[[Record], bool]:
    return lambda record: (value := record.scores.get(key)) is not None and value < bound


def _exceeds(key: str, bound: float) -> Callable[[Record], float | None]:
    return lambda record: float((record.scores.get(key) or 0.0) > bound)


def _where(right: Callable[[Record], bool], key: str) -> Callable[[Record], float | None]:
    return lambda record: record.scores.get(key) if right(record) else None
