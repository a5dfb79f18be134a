"""Objects, descriptions and trials: counts that follow from the definition, and what turning and mirroring must do."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from rotaware.datasets import (
    RELATIONS,
    DescribedViews,
    MentalTrials,
    canonical_path,
    describe,
    describe_source,
    enumerate_objects,
    mental_trial,
    mirrored_path,
    parse_path,
    path_text,
    posed_paths,
    quadrant,
    relation,
    split_objects,
)
from rotaware.datasets.object_symbols import ACTIONS
from rotaware.datasets.shepard_metzler import positions, reversed_path, rotated_path
from rotaware.geo import cube_rotations

# Quadrant q to q + 1: left becomes back, back right, right front, front left.
NEXT = {0: 2, 2: 3, 3: 5, 5: 0, 1: 1, 4: 4}


def test_counts_of_the_family() -> None:
    assert len(enumerate_objects()) == 294
    assert len(enumerate_objects(achiral=True)) == 363
    every = enumerate_objects(touching=True, achiral=True)
    planar = [path for path in every if len({code % 3 for code in path}) == 2]
    achiral = [path for path in every if canonical_path(mirrored_path(path)) == path]
    assert len(every) == 438 and len(planar) == 102 and planar == achiral


def test_members_are_different_objects_of_ten_cubes_that_do_not_touch() -> None:
    for path in enumerate_objects():
        assert canonical_path(path) == path == canonical_path(reversed_path(path))
        places = positions(path)
        apart = np.abs(places[:, None] - places).sum(axis=2)
        assert (np.triu(apart == 1, 1).sum(), len(places)) == (9, 10) and (apart + np.eye(10) > 0).all()
        assert parse_path(path_text(path)) == path
    turned = rotated_path(enumerate_objects()[5], cube_rotations()[17].numpy())
    assert canonical_path(turned) == enumerate_objects()[5]


def test_parts_share_neither_objects_nor_mirror_images() -> None:
    split = split_objects(3)
    parts = [set(split.train), set(split.validation), set(split.test)]
    assert [len(part) for part in parts] == [220, 16, 58] and len(set.union(*parts)) == 294
    for part in parts:
        assert {canonical_path(mirrored_path(path)) for path in part} == part
    assert split_objects(3) == split and split_objects(4) != split
    with pytest.raises(ValueError, match="pairs: expected at most 147 in all"):
        split_objects(pairs=(147, 1, 0))


def test_every_view_has_a_description_of_its_own() -> None:
    paths = posed_paths(enumerate_objects())
    assert len(set(paths)) == 294 * 6
    assert len({describe(path, quarter) for path in paths for quarter in range(4)}) == 7056


def test_descriptions_follow_the_camera_and_the_mirror() -> None:
    for path in posed_paths(enumerate_objects()[::7]):
        for quarter in range(4):
            seen = describe(path, quarter)
            following = tuple(NEXT[code] for code in seen)
            assert describe(path, (quarter + 1) % 4) in (following, reversed_path(following))
            assert describe_source(path, quarter, True) == mirrored_path(seen)
            # From whichever end the path is written.
            assert describe(reversed_path(path), quarter) == seen


def test_each_pair_of_descriptions_has_one_relation() -> None:
    relations: dict[tuple[tuple[int, ...], tuple[int, ...]], set[int]] = defaultdict(set)
    for path in posed_paths(enumerate_objects()):
        for target in range(4):
            for source in range(4):
                for mirror in (False, True):
                    pair = describe(path, target), describe_source(path, source, mirror)
                    relations[pair].add(relation(target, source, mirror))
    assert len(relations) == 56448 and all(len(each) == 1 for each in relations.values())


def test_shares_of_the_relations_and_the_ideal_agent() -> None:
    trials = MentalTrials(posed_paths(enumerate_objects()[:40]), seed=5)
    found = [trials[number] for number in range(len(trials))]
    counts = Counter(RELATIONS[each.relation] for each in found)
    for name, share in (("same", 1 / 6), ("mirror", 1 / 6), ("+90", 1 / 6), ("-90", 1 / 6), ("180", 1 / 3)):
        assert counts[name] / len(found) == pytest.approx(share, abs=0.015)
    for disparity, actions in ((0, 0.0), (60, 2 / 3), (120, 1.0), (180, 1.0)):
        turned = [each.relation in ACTIONS for each in found if each.disparity == disparity]
        assert np.mean(turned) == pytest.approx(actions, abs=0.03 if disparity == 60 else 0.0)
    assert np.mean([each.mirror for each in found]) == 0.5


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("clockwise", [False, True])
def test_the_right_action_brings_the_source_into_the_quadrant_of_the_target(mirror: bool, clockwise: bool) -> None:
    path = posed_paths(enumerate_objects()[10:11])[3]
    for azimuth in np.arange(1.5, 360.0, 7.0):  # none on a border
        for disparity in (0, 60, 120, 180):
            trial = mental_trial(path, float(azimuth), disparity, mirror=mirror, clockwise=clockwise)
            turned = trial.source_azimuth + ACTIONS.get(trial.relation, 0)
            symbols = describe(trial.source, quadrant(turned))
            wanted = mirrored_path(trial.target_symbols) if mirror else trial.target_symbols
            assert symbols == wanted
            assert describe(trial.source, quadrant(trial.source_azimuth)) == trial.source_symbols


def test_items_depend_on_seed_and_number_alone() -> None:
    paths = posed_paths(enumerate_objects()[:2])
    one, same, other = MentalTrials(paths, seed=1), MentalTrials(paths, seed=1), MentalTrials(paths, seed=2)
    assert one[77] == same[77] != other[77]
    views = DescribedViews(paths, seed=1, per_quadrant=3)
    assert len(views) == 12 * 4 * 3 and views[50] == DescribedViews(paths, seed=1, per_quadrant=3)[50]
    counts = Counter((view.path, view.quadrant) for view in map(views.__getitem__, range(len(views))))
    assert set(counts.values()) == {3} and len(counts) == 48


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("UUUBBRRF", "expected 9 letters of LDBRUF"),
        ("UUUBBRRFX", "expected 9 letters of LDBRUF"),
        ("UUUDBRRFF", "expected no move back, got UD"),
        ("URDLUUUUU", "expected 10 cubes apart"),
        ("UUUUUUUUU", "expected 4 straight arms, got 1"),
        ("UBUBUBUBU", "expected 4 straight arms, got 9"),
    ],
)
def test_impossible_paths(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_path(text)


def test_numbers_beyond_the_end() -> None:
    trials = MentalTrials(enumerate_objects()[:1])
    with pytest.raises(IndexError, match="expected 0 to 31, got 32"):
        trials[32]
    with pytest.raises(ValueError, match="expected some"):
        MentalTrials(())
