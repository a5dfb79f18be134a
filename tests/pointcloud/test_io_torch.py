"""PyTorch files: what torch saved comes back, in both of its file formats, and no pickle is ever run."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from rotaware.pointcloud.errors import InputError, UnreadableFileError
from rotaware.pointcloud.io import PointCloud, read_point_cloud, write_point_cloud

POINTS = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<i2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_numpy_arrays(tmp_path: Path, zipped: bool, dtype: str, order: str) -> None:
    array = np.asarray(POINTS * 100, dtype=dtype, order=order)
    torch.save(array, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    cloud = read_point_cloud(tmp_path / "a.pth")
    assert np.array_equal(cloud.points, array.astype(np.float64))
    write_point_cloud(tmp_path / "b.pth", cloud)
    again = torch.load(tmp_path / "b.pth", weights_only=False)
    # NumPy itself unpickles into native byte order.
    assert (
        isinstance(again, np.ndarray) and again.dtype == array.dtype.newbyteorder("=") and np.array_equal(again, array)
    )


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.int64, torch.bfloat16])
def test_tensors(tmp_path: Path, zipped: bool, dtype: torch.dtype) -> None:
    # A view with strides, that needs a gradient where it can.
    tensor = (torch.from_numpy(POINTS) * 10).to(dtype).repeat(1, 2)[::2, :3].requires_grad_(dtype.is_floating_point)
    torch.save(tensor, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    cloud = read_point_cloud(tmp_path / "a.pt")
    assert np.array_equal(cloud.points, tensor.detach().double().numpy())
    write_point_cloud(tmp_path / "b.pt", cloud)
    again = torch.load(tmp_path / "b.pt", weights_only=True)
    assert again.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)
    assert torch.equal(again.double(), tensor.detach().double())


def test_old_numpy_names(tmp_path: Path) -> None:
    torch.save(POINTS, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    data = (tmp_path / "a.pth").read_bytes()
    assert b"cnumpy._core.multiarray\n" in data
    (tmp_path / "b.pth").write_bytes(data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    assert np.array_equal(read_point_cloud(tmp_path / "b.pth").points, POINTS.astype(np.float64))


def test_dict_keeps_every_entry(tmp_path: Path) -> None:
    content = OrderedDict(
        name="kitchen", pose=torch.eye(4), coord=torch.from_numpy(POINTS), color=np.zeros((20, 3), np.uint8),
        label=torch.arange(20), nested={"a": [np.ones(2), 1.5]}, scale=np.float64(2.0),
    )  # fmt: skip
    torch.save(content, tmp_path / "a.pth")
    cloud = read_point_cloud(tmp_path / "a.pth")
    assert list(cloud.attributes) == ["color", "label"] and cloud.attributes["label"].dtype == np.int64
    T = np.eye(4)
    T[:3, 3] = 1.0
    write_point_cloud(tmp_path / "b.pth", cloud.transformed(T))
    again = torch.load(tmp_path / "b.pth", weights_only=False)
    assert list(again) == list(content) and again["name"] == "kitchen" and again["scale"] == 2.0
    assert torch.equal(again["pose"], content["pose"]) and torch.equal(again["label"], content["label"])
    assert np.array_equal(again["color"], content["color"]) and np.array_equal(again["nested"]["a"][0], np.ones(2))
    torch.testing.assert_close(again["coord"], content["coord"] + 1.0)
    assert read_point_cloud(tmp_path / "b.pth").attributes.keys() == cloud.attributes.keys()


def test_tuple_like_scannet(tmp_path: Path) -> None:
    torch.save((POINTS, np.zeros((20, 3), np.float32), np.arange(20)), tmp_path / "a.pth")
    cloud = read_point_cloud(tmp_path / "a.pth")
    assert np.array_equal(cloud.points, POINTS.astype(np.float64)) and list(cloud.attributes) == ["item_1", "item_2"]
    write_point_cloud(tmp_path / "b.pth", cloud)
    again = torch.load(tmp_path / "b.pth", weights_only=False)
    assert isinstance(again, tuple) and np.array_equal(again[0], POINTS) and np.array_equal(again[2], np.arange(20))


def test_cloud_from_elsewhere_becomes_a_dict_of_tensors(tmp_path: Path) -> None:
    write_point_cloud(tmp_path / "a.pt", PointCloud(POINTS, {"label": np.arange(20)}))
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    assert torch.equal(content["points"], torch.from_numpy(POINTS).double())
    assert torch.equal(content["label"], torch.arange(20))
    with pytest.raises(InputError, match="a PyTorch file cannot store the column 'name'"):
        write_point_cloud(tmp_path / "b.pt", PointCloud(POINTS, {"name": np.array(["a"] * 20)}))


class Trap:
    """Its unpickling would leave a file behind."""

    def __reduce__(self) -> tuple[object, ...]:
        return (open, ("trapped", "w"))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "wrap", [lambda trap: trap, lambda trap: {"points": POINTS, "extra": trap}, lambda trap: [trap]]
)
def test_malicious_pickles_are_refused_without_being_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool, wrap: object
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(wrap(Trap()), tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)  # type: ignore[operator]
    with pytest.raises(UnreadableFileError, match=r"holds '.*open'; only tensors and numeric arrays are loaded"):
        read_point_cloud(tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(wrap(Trap())))  # type: ignore[operator]
    with pytest.raises(UnreadableFileError):
        read_point_cloud(tmp_path / "b.pth")
    torch.save(np.array([[Trap(), 1, 2]], dtype=object), tmp_path / "c.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnreadableFileError):
        read_point_cloud(tmp_path / "c.pth")
    assert not (tmp_path / "trapped").exists()


def test_reading_leaves_torchs_list_of_safe_names_alone(tmp_path: Path) -> None:
    torch.save(POINTS, tmp_path / "a.pth")
    before = set(torch.serialization.get_safe_globals())
    read_point_cloud(tmp_path / "a.pth")
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "a.pth", weights_only=True)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (torch.zeros(3, 2), InputError, r"expected an array of shape \(N, 3\) or wider, got \(3, 2\); transpose"),
        (torch.zeros(2, 3, dtype=torch.complex64), InputError, "expected real numbers"),
        (torch.zeros(2, 3).to_sparse(), InputError, "expected an array or tensor"),
        ({"a": 1}, InputError, "expected one array named 'points'"),
        ([], InputError, "holds no arrays"),
        ("hello", InputError, "expected an array or tensor of shape .* got str"),
        (np.array(["a"]), UnreadableFileError, "cannot be read as a PyTorch file"),
        (np.zeros(2, [("x", "f4")]), UnreadableFileError, "cannot be read as a PyTorch file"),
    ],
)
def test_other_content(tmp_path: Path, content: object, error: type[Exception], message: str) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(error, match=message) as caught:
        read_point_cloud(tmp_path / "a.pth")
    assert "\n" not in str(caught.value) and "a.pth'" in str(caught.value)
