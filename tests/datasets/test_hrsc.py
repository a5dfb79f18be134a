"""HRSC2016: the layout of its files, and what its angles mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rotaware.datasets import HRSC2016, read_hrsc_labels
from rotaware.geo import quads_to_boxes

# The example of the specification: a ship that points up to the right, but its bow is down to the left.
SHIP = {"mbox_cx": 341.2143, "mbox_cy": 443.3325, "mbox_w": 778.4297, "mbox_h": 178.2595, "mbox_ang": -1.122944,
        "header_x": 143, "header_y": 776, "difficult": 0}  # fmt: skip


def xml(*objects: dict[str, object]) -> str:
    inside = "".join(
        f"<HRSC_Object>{''.join(f'<{key}>{value}</{key}>' for key, value in each.items())}</HRSC_Object>"
        for each in objects
    )
    return f"<HRSC_Image><Img_ID>1</Img_ID><HRSC_Objects>{inside}</HRSC_Objects></HRSC_Image>"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two images, one of them without ships."""
    for folder in ("FullDataSet/AllImages", "FullDataSet/Annotations", "ImageSets"):
        (tmp_path / folder).mkdir(parents=True)
    for name, objects in (("100000001", [SHIP]), ("100000002", [])):
        Image.fromarray(np.full((816, 1172, 3), 90, np.uint8)).save(tmp_path / f"FullDataSet/AllImages/{name}.bmp")
        (tmp_path / f"FullDataSet/Annotations/{name}.xml").write_text(xml(*objects))
    (tmp_path / "ImageSets/train.txt").write_text("100000001\n100000002\n")
    (tmp_path / "ImageSets/test.txt").write_text("100000003\n")
    return tmp_path


def test_images_with_and_without_ships(root: Path) -> None:
    data = HRSC2016(root, "train")
    assert len(data) == 2 and data.classes == ("ship",)
    first, second = data[0], data[1]
    assert (first.name, first.image.shape, first.labels.tolist()) == ("100000001", (816, 1172, 3), [0])
    assert second.quads.shape == (0, 4, 2) and second.image.shape == (816, 1172, 3)


def test_boxes_keep_their_numbers_and_begin_at_the_bow(root: Path) -> None:
    quads = HRSC2016(root, "train").objects(0).quads
    box = quads_to_boxes(torch.from_numpy(quads))[0]
    np.testing.assert_allclose(box, [341.2143, 443.3325, 778.4297, 178.2595, -1.122944], atol=1e-6)
    first = quads[0, 0] + quads[0, 1]
    # The middle of the first edge is where the header is, to within what was clicked.
    assert np.linalg.norm(first / 2 - [143, 776]) < 40
    assert np.linalg.norm(quads[0, 0] - quads[0, 1]) == pytest.approx(178.2595)


def test_the_other_end(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text(xml(SHIP | {"header_x": 510, "header_y": 90}, {**SHIP, "header_x": "", "difficult": 1}))
    found = read_hrsc_labels(path)
    assert np.linalg.norm((found.quads[0, 0] + found.quads[0, 1]) / 2 - [510, 90]) < 40
    assert found.difficult.tolist() == [False, True]


def test_damage_is_counted_or_named(root: Path) -> None:
    path = root / "FullDataSet/Annotations/100000001.xml"
    path.write_text(xml(SHIP | {"mbox_ang": "nan"}, SHIP | {"mbox_w": 0}, {"mbox_cx": 3}, SHIP))
    found = HRSC2016(root, "train").objects(0)
    assert len(found.quads) == 1 and dict(found.problems) == {"not numbers": 2, "no area": 1}
    path.write_text("<HRSC_Image>")
    with pytest.raises(ValueError, match=r"100000001\.xml: expected XML"):
        HRSC2016(root, "train")[0]
    path.unlink()
    with pytest.raises(FileNotFoundError, match="no such annotation"):
        HRSC2016(root, "train").objects(0)


def test_missing_files(root: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected ids of images .* got .*100000003"):
        HRSC2016(root, "test")
    with pytest.raises(FileNotFoundError, match=r"expected ImageSets/val.txt and FullDataSet/AllImages"):
        HRSC2016(root, "val")
