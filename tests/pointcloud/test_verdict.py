"""Verdict: more evidence never makes it worse, and every word follows from its rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from rotaware.pointcloud.calibration import TERMS, calibration, confidence_of, evidence_of, model_name
from rotaware.pointcloud.canonical import OCCUPIED_VOXELS
from rotaware.pointcloud.estimators import Matches
from rotaware.pointcloud.search import Candidate, Putative
from rotaware.pointcloud.verdict import THRESHOLDS, Verdict, judge, rivals
from rotaware.pointcloud.verify import Evidence, Observability

CENTRE = np.array([5.0, 0.0, 0.0])
MATCHES = 400
ENOUGH, WEAK = 300.0, 1.0


def pose(degrees: float = 0.0, shift: float = 0.0) -> np.ndarray:
    """A turn about the centre, then a shift."""
    out = np.eye(4)
    out[:3, :3] = Rotation.from_rotvec([0, 0, np.radians(degrees)]).as_matrix()
    out[:3, 3] = CENTRE - out[:3, :3] @ CENTRE + [shift, 0, 0]
    return out


def candidate(
    places: float,
    *,
    support: float | None = None,
    at: np.ndarray | None = None,
    overlap: float = 0.4,
    coherence: float = 1.0,
    conflicts: int = 0,
    engine: str = "classic",
) -> Candidate:
    """A pose that so many places agree on, each with one match, out of `MATCHES`; `support` as given, or as many."""
    matched = np.arange(1000) < overlap * 1000
    near = round(2 * matched.sum() / coherence)
    evidence = Evidence(matched, matched, np.zeros(1000, dtype=np.int64), near, conflicts)
    at = pose() if at is None else at
    source = 10.0 * np.stack(np.unravel_index(np.arange(MATCHES), (8, 8, 8)), axis=1)
    target = source @ at[:3, :3].T + at[:3, 3]
    target[round(places) :] += 50.0
    normals = np.tile([0.0, 0.0, 1.0], (MATCHES, 1))
    rows = np.arange(MATCHES)
    matches = Matches(source, target, normals, normals, np.ones(MATCHES))
    putative = Putative(matches, rows, rows, turned=False, counts={engine: MATCHES})
    return Candidate(at, places if support is None else support, places, evidence, putative)


def firm(free: int = 0) -> Observability:
    return Observability(np.eye(6), np.zeros(3), 1.0, tuple(np.eye(6)[:free]), 0.0 if free else 0.1, np.zeros(1))


def verdict(*candidates: Candidate, free: int = 0, accept: str = "balanced") -> Verdict:
    return judge(list(candidates), firm(free), CENTRE, accept)  # type: ignore[arg-type]


def confidence(found: Candidate, keypoints: int = OCCUPIED_VOXELS) -> float:
    return confidence_of(evidence_of(found, firm(), 0.0, keypoints))


def test_evidence_is_what_it_says() -> None:
    found = evidence_of(candidate(100.0, overlap=0.3, coherence=0.8, conflicts=60), firm(), 0.25, 4 * OCCUPIED_VOXELS)
    assert found == pytest.approx(
        {
            "keypoints": 4.0 * OCCUPIED_VOXELS,
            "classic_places": 100.0 / 2.0,
            "classic_density": (50.0 + 0.2) / (0.3 + 0.03),
            "classic_share": 0.25,
            "overlap": 0.3,
            "coherence": 0.8,
            "agreement": 0.5,
            "hold": 0.1,
            "rival": 0.25,
        },
        rel=1e-6,
    )
    assert evidence_of(candidate(0.0, overlap=0.0), None, 0.0, 1)["hold"] == 0.0


def test_each_engine_is_counted_apart() -> None:
    classic, network = candidate(100.0), candidate(20.0, engine="network")
    both = [
        getattr(classic.putative.matches, name) for name in ("source", "target", "source_normals", "target_normals")
    ]
    others = [
        getattr(network.putative.matches, name) for name in ("source", "target", "source_normals", "target_normals")
    ]
    matches = Matches(*map(np.concatenate, zip(both, others, strict=True)), np.ones(2 * MATCHES))
    rows = np.arange(2 * MATCHES)
    putative = Putative(matches, rows, rows, turned=False, counts={"classic": MATCHES, "network": MATCHES})
    found = evidence_of(replace(classic, putative=putative), firm(), 0.0, OCCUPIED_VOXELS)
    assert (found["classic_share"], found["network_share"]) == (0.25, 0.05)
    assert (found["classic_places"], found["network_places"]) == pytest.approx((100.0, 20.0))


@pytest.mark.parametrize("keypoints", [1000.0, 6000.0])
@pytest.mark.parametrize("engines", ["classic", "network", "classic+network"])
def test_more_evidence_never_lowers_the_confidence(engines: str, keypoints: float) -> None:
    largest = {"places": 40.0, "density": 100.0, "share": 1.0, "coherence": 1.0, "agreement": 1.0}
    names = [f"{engine}_{what}" for engine in engines.split("+") for what in ("places", "density", "share")]
    names += ["coherence", "agreement"]
    of = {"keypoints": keypoints}
    weights = calibration()[model_name(dict.fromkeys(names, 0.0) | of)]["weights"]
    assert set(weights) <= set(names) <= set(TERMS)
    generator = np.random.default_rng(0)
    for _ in range(50):
        evidence = {name: generator.uniform() * largest[name.split("_")[-1]] for name in names}
        for name in names:
            more = evidence | of | {name: evidence[name] + 0.3 * largest[name.split("_")[-1]]}
            assert confidence_of(more) >= confidence_of(evidence | of)
    assert confidence_of({name: largest[name.split("_")[-1]] for name in names} | of) > 0.99
    assert confidence_of(dict.fromkeys(names, 0.0) | of) < 0.01


def test_wide_overlap_with_few_matches_speaks_against_a_pose() -> None:
    found = [confidence(candidate(6.0, overlap=overlap, coherence=0.8)) for overlap in (0.1, 0.3, 0.9)]
    assert found[0] > found[1] > found[2]


def test_more_evidence_never_withdraws_a_verdict() -> None:
    for accept in THRESHOLDS:
        words = [verdict(candidate(places), accept=accept).status for places in np.arange(0.0, MATCHES, 4)]
        switch = words.index("registered")
        assert switch > 0
        assert set(words[:switch]) == {"not_registered"}
        assert set(words[switch:]) == {"registered"}


def test_what_strict_accepts_balanced_and_loose_accept_too() -> None:
    accepted = []
    for places in np.arange(0.0, 60.0):
        words = [
            verdict(candidate(places, coherence=0.7), accept=accept).status
            for accept in ("strict", "balanced", "loose")
        ]
        row = [word == "registered" for word in words]
        assert row == sorted(row)
        accepted.append(sum(row))
    # Each of them decides somewhere on its own.
    assert set(accepted) == {0, 1, 2, 3}


def test_registered_passes_all_checks() -> None:
    found = verdict(candidate(ENOUGH))
    assert found.status == "registered"
    assert found.confidence > THRESHOLDS["strict"]
    assert [check.name for check in found.checks] == ["confidence", "free_space", "observability", "runner_up"]
    assert all(check.passed for check in found.checks)
    assert found.evidence["rival"] == 0.0
    assert found.symmetry is None


def test_weak_pose_is_refused_with_the_check_that_failed() -> None:
    found = verdict(candidate(WEAK))
    assert found.status == "not_registered"
    failed = [check for check in found.checks if not check.passed]
    assert [check.name for check in failed] == ["confidence"]
    assert "correspondences" in failed[0].meaning
    assert "correspondences" in found.reason


def test_conflicts_refuse_a_pose() -> None:
    found = verdict(candidate(ENOUGH, conflicts=5000))
    assert found.status == "not_registered"
    assert not {check.name: check.passed for check in found.checks}["free_space"]
    confidences = [verdict(candidate(ENOUGH, conflicts=count)).confidence for count in (0, 20, 200, 2000)]
    assert (np.diff(confidences) < 0).all()


def test_free_motion_makes_it_ambiguous() -> None:
    found = verdict(candidate(ENOUGH), free=1)
    assert found.status == "ambiguous"
    assert [check.name for check in found.checks if not check.passed] == ["observability"]
    assert verdict(candidate(WEAK), free=1).status == "not_registered"


def test_no_overlap_is_refused() -> None:
    assert judge([candidate(0.0, overlap=0.0)], None, CENTRE, "loose").status == "not_registered"
    assert judge([candidate(0.0, overlap=0.0)], None, CENTRE, "loose").confidence < 0.01


def test_equal_rival_makes_it_ambiguous_and_is_counted() -> None:
    twins = [candidate(ENOUGH), candidate(0.99 * ENOUGH, at=pose(180)), candidate(0.98 * ENOUGH, at=pose(90))]
    found = verdict(*twins)
    assert found.status == "ambiguous"
    assert found.evidence["rival"] == pytest.approx(0.99, abs=0.02)
    assert found.symmetry == "3 equivalent poses"
    assert "3 poses" in found.reason


def test_weaker_rival_is_only_reported() -> None:
    found = verdict(candidate(ENOUGH), candidate(0.2 * ENOUGH, at=pose(90), overlap=0.05))
    assert found.status == "registered"
    assert 0.1 < found.evidence["rival"] < 0.5


def test_neighbor_is_no_rival() -> None:
    best = candidate(ENOUGH)
    near, turned, far = (candidate(ENOUGH, at=at) for at in (pose(2, 1), pose(40), pose(0, 20)))
    assert rivals([best, near], CENTRE) == []
    assert rivals([best, near, turned, far], CENTRE) == [turned, far]
    assert verdict(best, near).status == "registered"


def test_featureless_shapes_that_lie_on_each_other_are_ambiguous() -> None:
    bare = candidate(0.0, overlap=0.95)
    assert verdict(bare, free=3).status == "ambiguous"
    assert verdict(bare, replace(bare, pose=pose(180))).status == "ambiguous"
    # Without freedom and without rival there is still nothing to trust.
    assert verdict(bare).status == "not_registered"
    assert verdict(candidate(0.0, overlap=0.2), free=3).status == "not_registered"
    assert verdict(candidate(0.0, overlap=0.95, conflicts=5000), free=3).status == "not_registered"


def test_more_points_need_more_places() -> None:
    # Chance agreements grow with the number of points.
    found = [confidence(candidate(8.0, coherence=0.7), count) for count in (4000, 6000, 12_000, 24_000)]
    assert found[0] == found[1] > found[2] > found[3]


def test_certainty_is_what_it_says() -> None:
    # Twice the places, twice the certainty; surfaces that cross and free space count against it.
    assert candidate(7.0).certainty == pytest.approx(7.0)
    assert candidate(14.0).certainty == pytest.approx(14.0)
    assert candidate(7.0, coherence=0.5).certainty == pytest.approx(7.0 / 4, rel=1e-3)
    # 800 matched points against 10 times 80 conflicts.
    assert candidate(7.0, conflicts=80).certainty == pytest.approx(7.0 / 2)


def test_many_matches_at_one_place_are_one_place() -> None:
    apart, together = candidate(100.0), candidate(100.0)
    matches = together.putative.matches
    agreeing = np.where(np.arange(MATCHES) < 100, 0, np.arange(MATCHES))
    heap = replace(matches, source=matches.source[agreeing], target=matches.target[agreeing])
    together = replace(together, putative=replace(together.putative, matches=heap))
    found = [evidence_of(each, firm(), 0.0, OCCUPIED_VOXELS) for each in (apart, together)]
    assert [each["classic_places"] for each in found] == pytest.approx([100.0, 1.0])
    assert confidence_of(found[0]) > confidence_of(found[1])


def test_surfaces_that_cross_instead_of_coincide_are_refused() -> None:
    found = [verdict(candidate(12.0, coherence=coherence)) for coherence in (1.0, 0.7, 0.5, 0.2)]
    assert (np.diff([each.confidence for each in found]) < 0).all()
    assert (found[0].status, found[-1].status) == ("registered", "not_registered")
    assert [check.name for check in found[-1].checks if not check.passed] == ["confidence"]


def test_rivals_are_compared_by_certainty_and_surfaces() -> None:
    best, turned = candidate(ENOUGH), pose(90)
    # As many matches, but at few places; or as many places, but on little surface: whichever says less.
    clustered = candidate(0.1 * ENOUGH, support=ENOUGH, at=turned)
    crossing = candidate(ENOUGH, coherence=0.5, at=turned)
    narrow = candidate(ENOUGH, overlap=0.1, at=turned)
    for other, share in ((clustered, 0.1), (crossing, 0.25), (narrow, 0.25)):
        assert verdict(best, other).evidence["rival"] == pytest.approx(share, abs=0.01)
        assert verdict(best, other).status == "registered"
    # Many places decide even if each has but one match.
    scattered = candidate(0.9 * ENOUGH, at=turned)
    many = candidate(ENOUGH, support=5.0 * ENOUGH)
    assert verdict(many, scattered).evidence["rival"] == pytest.approx(0.9, abs=0.01)
    assert verdict(many, scattered).status == "ambiguous"


def test_rank_follows_certainty_then_matches_then_surfaces() -> None:
    order = [
        candidate(9.0, support=9.0),
        candidate(8.0, support=800.0),
        candidate(8.0, support=8.0),
        candidate(0.0, overlap=0.9),
        candidate(0.0, overlap=0.2),
    ]
    ranks = [each.rank for each in order]
    assert (np.diff(ranks) < 0).all()


def test_word_and_checks_agree() -> None:
    for places in np.arange(0.0, MATCHES, 10):
        for conflicts in (0, 30, 300):
            for free in (0, 1):
                found = verdict(candidate(places, conflicts=conflicts), free=free)
                assert (found.status == "registered") == all(check.passed for check in found.checks)


@pytest.mark.parametrize("accept", THRESHOLDS)
def test_confidence_does_not_depend_on_how_sure_to_be(accept: str) -> None:
    assert verdict(candidate(20.0), accept=accept).confidence == verdict(candidate(20.0)).confidence
