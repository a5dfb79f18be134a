"""The evaluation against one that is written only here, on published detections; and laws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely

from rotaware.detection.detection_files import ClassDetections, read_detections
from rotaware.detection.evaluation import Annotations, evaluate_detections
from rotaware.detection.merging import PatchOrigin, merge_patches, patch_origin


@pytest.fixture(scope="module")
def published(shared_data: Path) -> Path:
    folder = shared_data / "dota" / "merge_and_eval"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder


def labels(folder: Path) -> dict[str, Annotations]:
    found = {}
    for file in folder.glob("*.txt"):
        rows = [line.split() for line in file.read_text().splitlines() if len(line.split()) >= 9]
        quads = np.array([row[:8] for row in rows], dtype=float).reshape(-1, 4, 2)
        difficult = np.array([row[9:10] not in ([], ["0"]) for row in rows], dtype=bool)
        found[file.stem] = Annotations(quads, tuple(row[8] for row in rows), difficult)
    return found


def independently(
    detections: ClassDetections,
    annotations: dict[str, Annotations],
    name: str,
    threshold: float,
    spared: bool,
) -> float | None:
    """One class, detection by detection, with shapely."""
    taken: set[tuple[str, int]] = set()
    objects = {
        image: [
            (shapely.polygons(quad), bool(hard) and spared)
            for quad, label, hard in zip(each.quads, each.labels, each.difficult, strict=True)
            if label == name
        ]
        for image, each in annotations.items()
    }
    total = sum(not hard for each in objects.values() for _, hard in each)
    if total == 0:
        return None
    outcomes = []
    for row in sorted(range(len(detections)), key=lambda row: (-detections.scores[row], row)):
        image, polygon = detections.images[row], shapely.polygons(detections.quads[row])
        best, number = 0.0, -1
        for index, (other, _) in enumerate(objects[image]):
            iou = polygon.intersection(other).area / polygon.union(other).area
            if iou > best:
                best, number = iou, index
        if best > threshold:
            if objects[image][number][1]:
                continue
            outcomes.append((image, number) not in taken)
            taken.add((image, number))
        else:
            outcomes.append(False)
    points = []
    for count in range(1, len(outcomes) + 1):
        hits = sum(outcomes[:count])
        points.append((hits / total, hits / count))
    return sum(max([p for r, p in points if r >= k / 10 - 1e-9], default=0.0) for k in range(11)) / 11


def test_published_merge_is_reproduced(published: Path) -> None:
    patches, reference = (read_detections(published / name) for name in ("dota_dets", "merged_dets"))
    assert sum(map(len, patches.values())) == 1632
    merged = merge_patches(patches, threshold=0.3)
    assert {name: len(each) for name, each in merged.items()} == {name: len(each) for name, each in reference.items()}
    assert sum(map(len, merged.values())) == 857
    # Box for box, but for patches that tie in score, where the published tool takes the other one.
    ours, theirs = (
        {(image, round(score, 3), tuple(quad.ravel().round(1))) for each in found.values()
         for image, score, quad in zip(each.images, each.scores.tolist(), each.quads, strict=True)}
        for found in (merged, reference)
    )  # fmt: skip
    assert len(ours & theirs) > 0.93 * 857
    counts = [sorted((score, image) for image, score, _ in found) for found in (ours, theirs)]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("version", ["1.0", "1.5"])
def test_published_files_score_as_independently(published: Path, version: str) -> None:
    annotations = labels(published / "labelTxt")
    detections = merge_patches(read_detections(published / "dota_dets"))
    result = evaluate_detections(detections, annotations, sorted(detections), version=version)
    for name, each in result.classes.items():
        for threshold, value in ((0.5, each.ap50), (0.75, each.ap75)):
            expected = independently(detections[name], annotations, name, threshold, version == "1.0")
            assert value == (None if expected is None else pytest.approx(expected, abs=1e-6)), (name, threshold)
    assert result.without_objects == ("basketball-court",)
    known = [each.ap50 for each in result.classes.values() if each.objects]
    assert result.mean("ap50") == pytest.approx(np.mean(known))


def of_rows(rows: list[tuple[str, float, np.ndarray]]) -> ClassDetections:
    images, scores, quads = zip(*rows, strict=True)
    return ClassDetections(images, np.array(scores), np.array(quads))


def scene(seed: int = 0) -> tuple[dict[str, Annotations], dict[str, ClassDetections]]:
    """Images of rectangles, and detections near them and elsewhere."""
    generator = np.random.default_rng(seed)
    annotations, rows = {}, {"ship": [], "plane": []}  # type: ignore[var-annotated]
    for number in range(4):
        quads, names = [], []
        for _ in range(12):
            x, y, w, h = *generator.uniform(0, 500, 2), *generator.uniform(10, 130, 2)
            quad = np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]])
            name = str(generator.choice(["ship", "plane"]))
            quads.append(quad)
            names.append(name)
            for _ in range(generator.integers(0, 3)):
                shift = generator.normal(scale=0.1, size=(4, 2)) * [w, h]
                rows[name].append((f"P{number}", generator.uniform(), quad + shift))
            if generator.uniform() < 0.4:
                rows[name].append((f"P{number}", generator.uniform(), quad + 400.0))
        difficult = generator.uniform(size=12) < 0.2
        annotations[f"P{number}"] = Annotations(np.array(quads), tuple(names), difficult)
    detections = {name: of_rows(each) for name, each in rows.items()}
    return annotations, detections


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_generated_scenes_score_as_independently(version: str) -> None:
    for seed in range(5):
        annotations, detections = scene(seed)
        result = evaluate_detections(detections, annotations, ("ship", "plane"), version=version)
        for name, each in result.classes.items():
            for threshold, value in ((0.5, each.ap50), (0.75, each.ap75)):
                expected = independently(detections[name], annotations, name, threshold, version == "1.0")
                assert value == pytest.approx(expected, abs=1e-9)


def test_order_of_images_and_lines_does_not_matter() -> None:
    annotations, detections = scene()
    before = evaluate_detections(detections, annotations, ("ship", "plane"))
    shuffled = {name: each.rows(np.random.default_rng(1).permutation(len(each))) for name, each in detections.items()}
    turned = dict(reversed(list(annotations.items())))
    assert evaluate_detections(shuffled, turned, ("ship", "plane")) == before


def test_the_truth_scores_one_and_more_errors_score_less() -> None:
    annotations, _ = scene()
    truth = {}
    for name in ("ship", "plane"):
        truth[name] = of_rows(
            [
                (image, 1.0, quad)
                for image, each in annotations.items()
                for quad, label in zip(each.quads, each.labels, strict=True)
                if label == name
            ]
        )
    for version in ("1.0", "1.5"):
        result = evaluate_detections(truth, annotations, ("ship", "plane"), version=version)
        for name in ("ap50", "ap75", "ap50_95", "ap50_voc12"):
            assert result.mean(name) == pytest.approx(1.0)
        every = [*result.classes["ship"].by_size.values(), *result.classes["ship"].by_aspect.values()]
        assert all(value is None or value == pytest.approx(1.0) for value in every)
    away = truth | {"plane": replace(truth["plane"], quads=truth["plane"].quads + 1e4)}
    assert evaluate_detections(away, annotations, ("ship", "plane")).mean("ap50") == pytest.approx(0.5)


def test_difficult_objects_count_neither_way() -> None:
    quads = np.array([[[0.0, 0], [10, 0], [10, 10], [0, 10]], [[50, 50], [60, 50], [60, 60], [50, 60]]])
    annotations = {"P1": Annotations(quads, ("ship", "ship"), np.array([False, True]))}
    found = {"ship": ClassDetections(("P1", "P1"), np.array([0.9, 0.8]), quads[::-1])}
    assert evaluate_detections(found, annotations, ("ship",)).mean("ap50") == 1.0
    only = {"ship": ClassDetections(("P1",), np.array([0.8]), quads[:1])}
    assert evaluate_detections(only, annotations, ("ship",)).mean("ap50") == 1.0
    assert evaluate_detections(only, annotations, ("ship",), version="1.5").mean("ap50") == pytest.approx(6 / 11)


def test_patches_are_refused_unless_wanted() -> None:
    quads = np.zeros((1, 4, 2))
    annotations = {"P1__1.0__0___824": Annotations(quads, ("ship",), np.array([False]))}
    with pytest.raises(ValueError, match="expected whole images, got a patch"):
        evaluate_detections({}, annotations, ("ship",))
    assert evaluate_detections({}, annotations, ("ship",), patches=True).mean("ap50") == 0.0
    whole = {"P1": annotations["P1__1.0__0___824"]}
    lost = {"ship": ClassDetections(("P2",), np.ones(1), quads)}
    with pytest.raises(ValueError, match="images with annotations, got 'P2'"):
        evaluate_detections(lost, whole, ("ship",))
    with pytest.raises(ValueError, match="expected classes among ship, got boat"):
        evaluate_detections({"boat": lost["ship"]}, whole, ("ship",))


def test_names_of_patches() -> None:
    assert patch_origin("P1234__1.0__2400___0") == PatchOrigin("P1234", 2400, 0, 1.0)
    # The devkit cuts the image after scaling it.
    assert patch_origin("P1__0.5__600___1200") == PatchOrigin("P1", 1200, 2400, 0.5)
    assert patch_origin("a__b__1024__824___0") == PatchOrigin("a__b", 824, 0, 1.0, 1024)
    assert patch_origin("P1__1__0___824") == PatchOrigin("P1", 0, 824, 1.0)
    assert patch_origin("P1234") is None and patch_origin("P1__x__1___2") is None


def test_patches_are_put_where_they_were() -> None:
    quad = np.array([[10.0, 10], [30, 10], [30, 20], [10, 20]])
    images = ("P1__0.5__100___200", "P1__1__220___420", "P2__1__220___420")
    given = {"ship": ClassDetections(images, np.array([0.6, 0.9, 0.5]), np.stack([quad, 2 * quad - 20, quad]))}
    merged = merge_patches(given)["ship"]
    # The first two are one object: 2 (quad + (100, 200)) at half the scale.
    assert merged.images == ("P1", "P2") and merged.scores.tolist() == [0.9, 0.5]
    np.testing.assert_allclose(merged.quads[0], 2 * (quad + np.array([100, 200])))
    named = merge_patches(
        {"ship": ClassDetections(("a",), np.ones(1), quad[None])}, origins={"a": PatchOrigin("b", 7, 8, 2.0)}
    )
    np.testing.assert_allclose(named["ship"].quads[0], np.array([7, 8]) + quad / 2)
    with pytest.raises(ValueError, match="patch 'P9': expected one whose place"):
        merge_patches({"ship": ClassDetections(("P9",), np.ones(1), quad[None])})
