"""Verdict: more evidence never makes it worse, and every word follows from its rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from rotaware.pointcloud.estimators import Matches
from rotaware.pointcloud.search import Candidate, Putative
from rotaware.pointcloud.verdict import THRESHOLDS, Verdict, certainty_for, confidence_of, judge, normalised, rivals
from rotaware.pointcloud.verify import Evidence, Observability

CENTRE = np.array([5.0, 0.0, 0.0])
NO_MATCHES = Putative(
    Matches(*(np.zeros((0, 3)) for _ in range(4)), np.zeros(0)),
    np.zeros(0, dtype=np.int64),
    np.zeros(0, dtype=np.int64),
    turned=False,
)


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
) -> Candidate:
    """A pose that so many places agree on, each with one match unless `support` tells otherwise."""
    matched = np.arange(1000) < overlap * 1000
    near = round(2 * matched.sum() / coherence)
    evidence = Evidence(matched, matched, np.zeros(1000, dtype=np.int64), near, conflicts)
    support = places if support is None else support
    return Candidate(pose() if at is None else at, support, places, evidence, NO_MATCHES)


def firm(free: int = 0) -> Observability:
    return Observability(np.eye(6), np.zeros(3), 1.0, tuple(np.eye(6)[:free]), 0.0 if free else 0.1, np.zeros(1))


def verdict(*candidates: Candidate, free: int = 0, accept: str = "balanced") -> Verdict:
    return judge(list(candidates), firm(free), CENTRE, accept)  # type: ignore[arg-type]


ENOUGH = 2.0 * certainty_for(THRESHOLDS["strict"])


def test_confidence_rises_from_zero_to_one() -> None:
    confidences = [confidence_of(certainty) for certainty in np.geomspace(1e-3, 1e4, 200)]
    assert (np.diff(confidences) >= 0).all()
    assert confidences[0] < 0.01
    assert confidences[-1] > 0.99
    assert 0.0 <= confidence_of(0.0) < 0.01


@pytest.mark.parametrize("confidence", [0.05, 0.5, 0.8, 0.95])
def test_certainty_for_is_the_inverse_of_confidence(confidence: float) -> None:
    assert confidence_of(certainty_for(confidence)) == pytest.approx(confidence)


def test_stricter_needs_more() -> None:
    assert (
        certainty_for(THRESHOLDS["strict"]) > certainty_for(THRESHOLDS["balanced"]) > certainty_for(THRESHOLDS["loose"])
    )


def test_more_evidence_never_withdraws_a_verdict() -> None:
    for accept in THRESHOLDS:
        words = [verdict(candidate(places), accept=accept).status for places in np.geomspace(0.1, 10 * ENOUGH, 60)]
        switch = words.index("registered")
        assert switch > 0
        assert set(words[:switch]) == {"not_registered"}
        assert set(words[switch:]) == {"registered"}


def test_what_strict_accepts_balanced_and_loose_accept_too() -> None:
    accepted = []
    for places in np.geomspace(0.1, 10 * ENOUGH, 60):
        words = [verdict(candidate(places), accept=accept).status for accept in ("strict", "balanced", "loose")]
        row = [word == "registered" for word in words]
        assert row == sorted(row)
        accepted.append(sum(row))
    # Each of them decides somewhere on its own.
    assert set(accepted) == {0, 1, 2, 3}


def test_registered_passes_all_checks() -> None:
    found = verdict(candidate(ENOUGH))
    assert found.status == "registered"
    assert found.confidence > THRESHOLDS["strict"]
    assert [check.name for check in found.checks] == ["certainty", "free_space", "observability", "runner_up"]
    assert all(check.passed for check in found.checks)
    assert found.runner_up == 0.0
    assert found.symmetry is None


def test_weak_pose_is_refused_with_the_check_that_failed() -> None:
    found = verdict(candidate(0.1 * certainty_for(THRESHOLDS["loose"])))
    assert found.status == "not_registered"
    failed = [check for check in found.checks if not check.passed]
    assert [check.name for check in failed] == ["certainty"]
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
    assert verdict(candidate(0.1), free=1).status == "not_registered"


def test_no_overlap_is_refused() -> None:
    assert judge([candidate(0.0, overlap=0.0)], None, CENTRE, "loose").status == "not_registered"
    assert judge([candidate(0.0, overlap=0.0)], None, CENTRE, "loose").confidence < 0.01


def test_equal_rival_makes_it_ambiguous_and_is_counted() -> None:
    twins = [candidate(ENOUGH), candidate(0.99 * ENOUGH, at=pose(180)), candidate(0.98 * ENOUGH, at=pose(90))]
    found = verdict(*twins)
    assert found.status == "ambiguous"
    assert found.runner_up == pytest.approx(0.99, abs=0.02)
    assert found.symmetry == "3 equivalent poses"
    assert "3 poses" in found.reason


def test_weaker_rival_is_only_reported() -> None:
    found = verdict(candidate(ENOUGH), candidate(0.2 * ENOUGH, at=pose(90), overlap=0.05))
    assert found.status == "registered"
    assert 0.1 < found.runner_up < 0.5


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


def test_two_looks_are_surer_than_one() -> None:
    weak = candidate(certainty_for(0.7))
    alone, confirmed = (judge([weak], firm(), CENTRE, "balanced", earlier=earlier) for earlier in (0.0, 0.7))
    assert (alone.status, confirmed.status) == ("not_registered", "registered")
    assert alone.confidence < confirmed.confidence < 1.0
    assert all(check.passed for check in confirmed.checks)


def test_more_points_need_more_places() -> None:
    # Chance agreements grow with the number of points.
    found = [
        judge([candidate(25.0)], firm(), CENTRE, "balanced", keypoints=count) for count in (100, 6000, 12_000, 24_000)
    ]
    values, confidences = ([each.checks[0].value for each in found], [each.confidence for each in found])
    assert confidences[0] == confidences[1] > confidences[2] > confidences[3]
    np.testing.assert_allclose(values, 25.0 / np.array([1.0, 1.0, 2.0, 4.0]) ** 0.5, rtol=1e-6)
    assert [normalised(25.0, count) for count in (100, 24_000)] == [25.0, 12.5]


def test_certainty_is_what_it_says() -> None:
    # Twice the places, twice the certainty; surfaces that cross and free space count against it.
    assert candidate(7.0).certainty == pytest.approx(7.0)
    assert candidate(14.0).certainty == pytest.approx(14.0)
    assert candidate(7.0, coherence=0.5).certainty == pytest.approx(7.0 / 4, rel=1e-3)
    # 800 matched points against 10 times 80 conflicts.
    assert candidate(7.0, conflicts=80).certainty == pytest.approx(7.0 / 2)


def test_many_matches_at_one_place_make_nothing_surer() -> None:
    weak = certainty_for(0.9 * THRESHOLDS["loose"])
    few, many = (verdict(candidate(weak, support=support), accept="loose") for support in (weak, 1000.0 * weak))
    assert few.confidence == many.confidence < THRESHOLDS["loose"]
    assert few.status == many.status == "not_registered"


def test_surfaces_that_cross_instead_of_coincide_are_refused() -> None:
    found = [verdict(candidate(ENOUGH, coherence=coherence)) for coherence in (1.0, 0.7, 0.5, 0.2)]
    assert (np.diff([each.confidence for each in found]) < 0).all()
    assert (found[0].status, found[-1].status) == ("registered", "not_registered")
    assert [check.name for check in found[-1].checks if not check.passed] == ["certainty"]


def test_rivals_are_compared_by_certainty_and_surfaces() -> None:
    best, turned = candidate(ENOUGH), pose(90)
    # As many matches, but at few places; or as many places, but on little surface: whichever says less.
    clustered = candidate(0.1 * ENOUGH, support=ENOUGH, at=turned)
    crossing = candidate(ENOUGH, coherence=0.5, at=turned)
    narrow = candidate(ENOUGH, overlap=0.1, at=turned)
    for other, share in ((clustered, 0.1), (crossing, 0.25), (narrow, 0.25)):
        assert verdict(best, other).runner_up == pytest.approx(share, abs=0.01)
        assert verdict(best, other).status == "registered"
    # Many places decide even if each has but one match.
    scattered = candidate(0.9 * ENOUGH, at=turned)
    many = candidate(ENOUGH, support=5.0 * ENOUGH)
    assert verdict(many, scattered).runner_up == pytest.approx(0.9, abs=0.01)
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
    for places in np.geomspace(0.1, 10 * ENOUGH, 40):
        for conflicts in (0, 30, 300):
            for free in (0, 1):
                found = verdict(candidate(places, conflicts=conflicts), free=free)
                assert (found.status == "registered") == all(check.passed for check in found.checks)


@pytest.mark.parametrize("accept", THRESHOLDS)
def test_confidence_does_not_depend_on_how_sure_to_be(accept: str) -> None:
    assert verdict(candidate(20.0), accept=accept).confidence == verdict(candidate(20.0)).confidence
