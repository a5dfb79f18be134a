"""DOTA: labels as they are found in the wild, images of every kind, windows as specified."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rotaware.datasets.aerial_images import image_size, read_image
from rotaware.datasets.dota import DOTA, DOTA_CLASSES, read_labels, write_labels
from rotaware.datasets.dota_split import SplitOptions, shares_inside, starts, windows

SQUARE = "10 10 30 10 30 20 10 20"


def labels_of(tmp_path: Path, text: str | bytes) -> dict[str, object]:
    file = tmp_path / "P0001.txt"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    found = read_labels(file, DOTA_CLASSES["1.0"])
    return {"count": len(found.quads), "problems": found.problems, "found": found}


def test_classes() -> None:
    assert [len(each) for each in DOTA_CLASSES.values()] == [15, 16, 18]
    assert DOTA_CLASSES["1.5"][-1] == "container-crane" and DOTA_CLASSES["2.0"][-1] == "helipad"


def test_labels_in_the_wild(tmp_path: Path) -> None:
    text = (
        "\ufeffimagesource:GoogleEarth\r\ngsd:null\r\n"
        f"{SQUARE} ship 0\r\n{SQUARE} plane 1\r\n{SQUARE}  large-vehicle  2\r\n{SQUARE} harbor\r\n\r\n"
        "1.5 2 9 2.5 9 6.25 1 6 bridge 0\r\n"
    )
    each = labels_of(tmp_path, text)
    found = each["found"]
    assert each["count"] == 5 and each["problems"] == {}
    assert found.difficult.tolist() == [False, True, True, False, False]  # type: ignore[attr-defined]
    names = [DOTA_CLASSES["1.0"][label] for label in found.labels]  # type: ignore[attr-defined]
    assert names == ["ship", "plane", "large-vehicle", "harbor", "bridge"]
    assert found.quads[0].tolist() == [[10, 10], [30, 10], [30, 20], [10, 20]]  # type: ignore[attr-defined]


def test_damage_is_counted_by_kind(tmp_path: Path) -> None:
    text = (
        f"{SQUARE} yacht 0\n{SQUARE} yacht 0\n10 10 30 ship 0\n10 10 nan 10 30 20 10 20 ship 0\n"
        f"10 ten 30 10 30 20 10 20 ship 0\n5 5 5 5 5 5 5 5 ship 0\n0 0 1 1 2 2 3 3 ship 0\n"
        f"0 0 10 10 10 0 0 10 ship 0\n{SQUARE} ship 0\n-500 3 -400 3 -400 9 -500 9 ship 0\n"
    )
    each = labels_of(tmp_path, text)
    assert each["problems"] == {
        "no area": 2, "not numbers": 2, "short": 1, "unknown class yacht": 2, "untangled": 1,
    }  # fmt: skip
    assert each["count"] == 3
    assert labels_of(tmp_path, "")["count"] == 0
    assert labels_of(tmp_path, "imagesource:x\ngsd:1\n")["count"] == 0
    with pytest.raises(ValueError, match="expected text"):
        labels_of(tmp_path, b"\xff\xfe\x00\x81garbage")
    with pytest.raises(FileNotFoundError, match="no such labels"):
        read_labels(tmp_path / "P0002.txt", ("ship",))


def test_written_labels_are_read(tmp_path: Path) -> None:
    quads = np.random.default_rng(0).uniform(0, 500, (1, 4, 2)).round(1)
    quads = np.array([[[0, 0], [10.5, 1], [9, 12], [1, 8]], [[3, 3], [5, 3], [5, 9], [3, 9]]]) + quads[:, :1]
    text = write_labels(quads, ["ship", "plane"], [0, 1])
    found = labels_of(tmp_path, text)["found"]
    np.testing.assert_allclose(found.quads, quads, atol=0.051)  # type: ignore[attr-defined]
    assert found.difficult.tolist() == [False, True]  # type: ignore[attr-defined]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16", "CMYK"])
def test_every_kind_of_image_is_rgb_of_eight_bits(tmp_path: Path, mode: str) -> None:
    generator = np.random.default_rng(0)
    grey = generator.integers(0, 256, (9, 7), dtype=np.uint8)
    file = tmp_path / f"image.{'tif' if mode == 'CMYK' else 'png'}"
    if mode == "I;16":
        Image.fromarray(grey.astype(np.uint16) * 257).save(file)
    else:
        Image.fromarray(np.repeat(grey[:, :, None], 3, axis=2)).convert(mode).save(file)
    found = read_image(file)
    assert found.shape == (9, 7, 3) and found.dtype == np.uint8 and found.flags["C_CONTIGUOUS"]
    if mode not in ("P", "1", "CMYK"):
        np.testing.assert_array_equal(found, np.repeat(grey[:, :, None], 3, axis=2))
    assert image_size(file) == (7, 9)


def test_transparent_pixels_keep_their_colours(tmp_path: Path) -> None:
    pixels = np.array([[[10, 20, 30, 0], [200, 100, 50, 255]]], dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").tolist() == [[[10, 20, 30], [200, 100, 50]]]


def test_damaged_images_are_named(tmp_path: Path) -> None:
    file = tmp_path / "P1.png"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(file)
    whole = file.read_bytes()
    for content in (b"", b"no image", whole[: len(whole) // 2], whole[:40]):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"P1\.png: expected an image"):
            read_image(file)
    with pytest.raises(FileNotFoundError, match="no such image"):
        read_image(tmp_path / "P2.png")


def test_turning_in_exif_is_ignored(tmp_path: Path) -> None:
    picture = Image.fromarray(np.zeros((4, 8, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (4, 8, 3)


@pytest.mark.parametrize("labels", ["labelTxt", "labelTxt-v1.5", "labelTxt-v1.5/labelTxt"])
def test_layouts(tmp_path: Path, labels: str) -> None:
    for folder in ("train/images", f"train/{labels}"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("P0002", "P0001"):
        Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(tmp_path / "train" / "images" / f"{name}.png")
    (tmp_path / "train" / labels / "P0002.txt").write_text(f"{SQUARE} container-crane 0\n")
    dataset = DOTA(tmp_path, "train", version="1.5")
    assert [dataset[number].name for number in range(len(dataset))] == ["P0001", "P0002"]
    assert len(dataset[0].quads) == 0 and dataset[1].labels.tolist() == [15]
    assert dataset[1].image.shape == (6, 8, 3)
    with pytest.raises(FileNotFoundError, match="expected a folder images"):
        DOTA(tmp_path, "val")
    with pytest.raises(ValueError, match="version"):
        DOTA(tmp_path, "train", version="3.0")


def test_windows_of_the_specification() -> None:
    for size, count in (((800, 800), 1), ((1024, 1024), 1), ((1025, 600), 2), ((1700, 300), 2), ((2304, 1792), 6),
                        ((4000, 4000), 25)):  # fmt: skip
        assert len(windows(*size)) == count
    assert starts(1700, 1024, 824) == [0, 676] and starts(1792, 1024, 824) == [0, 768]
    several = windows(3000, 2000, SplitOptions(overlap=500, rates=(0.5, 1.0, 1.5)))
    assert sorted({(each.size, each.rate) for each in several}) == [(682, 1.5), (1024, 1.0), (2048, 0.5)]
    by_rate = [[each for each in several if each.rate == rate] for rate in (0.5, 1.0, 1.5)]
    assert [len(each) for each in by_rate] == [2, 20, 63] or all(by_rate)
    with pytest.raises(ValueError, match="overlap"):
        SplitOptions(overlap=1024)


def test_windows_cover_the_image_and_no_small_object_is_lost() -> None:
    generator = np.random.default_rng(0)
    for _ in range(30):
        width, height = (int(value) for value in generator.integers(200, 5000, 2))
        chosen = windows(width, height)
        centre = generator.uniform(0, [width, height], (50, 2))
        radius = generator.uniform(5, 100, (50, 1, 1))
        angle = generator.uniform(0, 7, (50, 1)) + np.arange(4) * np.pi / 2
        quads = centre[:, None] + radius * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        quads = quads[((quads >= 0) & (quads <= [width, height])).all(axis=(1, 2))]
        # Windows overlap by 200, these are at most that wide.
        assert (shares_inside(quads, chosen).max(axis=1, initial=0) > 0.999).all()
        assert all(0 <= each.left <= max(0, width - each.size) for each in chosen)


def test_no_real_object_is_lost_from_every_window(shared_data: Path) -> None:
    folder = shared_data / "dota"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    dataset = DOTA(folder)
    total = 0
    for number in range(len(dataset)):
        found = dataset.objects(number)
        chosen = windows(*image_size(dataset.images[number]))
        assert (shares_inside(found.quads, chosen).max(axis=1) >= SplitOptions().inside).all()
        total += len(found.quads)
        assert found.problems == {}
    assert total > 500
    for part in ("1.x/dota", "main"):
        odd = DOTA(folder / "format_samples" / part)
        assert odd[0].image.shape[2] == 3 and len(odd[0].quads) > 0
