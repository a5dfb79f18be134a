"""The parts of `examples/rotation_continuity`: motion files, kinematics, clouds, training, tables, curves."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import nn

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "rotation_continuity"
PARTS = ("command", "textlines", "skeleton", "bvh", "acclaim", "motions", "shapes", "training", "published", "curves")
MODULES = (*PARTS, "report", "sanity", "point_cloud", "inverse_kinematics", "so_n")


@pytest.fixture(scope="module")
def parts() -> Iterator[SimpleNamespace]:
    """The modules beside the experiments, imported as the scripts do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
        torch.set_num_threads(threads)
        for name in MODULES:
            del sys.modules[name]


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str, str], Path]:
    """Writes a text file."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="module")
def cmu(shared_data: Path) -> Path:
    folder = shared_data / "rotations" / "cmu"
    if not folder.is_dir():
        pytest.skip(f"no motion capture at {folder}")
    return folder


BVH = """HIERARCHY
ROOT hip
{
  OFFSET 0 0 0
  CHANNELS 6 Xposition Yposition Zposition Zrotation Yrotation Xrotation
  JOINT thigh
  {
    OFFSET 10 -6 0
    CHANNELS 3 Zrotation Xrotation Yrotation
    End Site
    {
      OFFSET 0 -40 0
    }
  }
}
MOTION
Frames: 2
Frame Time: 0.01
1 2 3 0 0 0 0 0 0
4 5 6 0 90 0 90 90 0
"""

ASF = """# a comment
:version 1.10
:units
  mass 1.0
  length 0.45
  angle deg
:documentation
  two bones
:root
  order TX TY TZ RX RY RZ
  axis XYZ
  position 0 0 0
  orientation 0 0 0
:bonedata
  begin
    id 1
    name upper
    direction 0 1 0
    length 2
    axis 0 0 20 XYZ
    dof rx ry rz
    limits (-20 45)
           (-30 30)
           (-30 30)
  end
  begin
    id 2
    name lower
    direction 1 0 0
    length 3
    axis 10 0 0 ZYX
    dof rz
  end
:hierarchy
  begin
    root upper
    upper lower
  end
"""

AMC = """#!OML:ASF
:FULLY-SPECIFIED
:DEGREES
1
root 1 2 3 10 20 30
upper 5 6 7
lower 40
2
root 0 0 0 0 0 0
upper 0 0 0
lower 0
"""


def positions_one_by_one(parents: list[int], offsets: np.ndarray, rotations: np.ndarray) -> np.ndarray:
    """(N, 3) node after node, float64: the definition of forward kinematics."""
    turns, places = [], []
    for node, parent in enumerate(parents):
        turn = turns[parent] if parent >= 0 else np.eye(3)
        places.append(places[parent] + turn @ offsets[node] if parent >= 0 else np.zeros(3))
        turns.append(turn @ rotations[node])
    return np.stack(places)


def write_bvh(path: Path, names: list[str], parents: list[int], offsets: np.ndarray, orders: list[str], values) -> None:
    """A BVH file; `orders` holds the axes of each joint's channels, `values` (T, 3 + 3 N) its columns."""
    lines = ["HIERARCHY"]

    def node(index: int, indent: str) -> None:
        root = parents[index] < 0
        lines.extend([f"{indent}{'ROOT' if root else 'JOINT'} {names[index]}", f"{indent}{{"])
        lines.append(f"{indent}  OFFSET {' '.join(repr(float(value)) for value in offsets[index])}")
        channels = [f"{axis}rotation" for axis in orders[index]]
        channels = ["Xposition", "Yposition", "Zposition", *channels] if root else channels
        lines.append(f"{indent}  CHANNELS {len(channels)} {' '.join(channels)}")
        children = [child for child, parent in enumerate(parents) if parent == index]
        for child in children:
            node(child, indent + "  ")
        if not children:
            lines.extend([f"{indent}  End Site", f"{indent}  {{", f"{indent}    OFFSET 0 1 0", f"{indent}  }}"])
        lines.append(f"{indent}}}")

    node(0, "")
    lines += ["MOTION", f"Frames: {len(values)}", "Frame Time: 0.02"]
    lines += [" ".join(repr(float(value)) for value in row) for row in values]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_written_bvh_is_read_back(parts: SimpleNamespace, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    # Depth first, as the file lists them; every Tait-Bryan order.
    parents, orders = [-1, 0, 1, 1, 0, 4], ["ZYX", "ZXY", "XYZ", "YXZ", "XZY", "YZX"]
    names = [f"joint {index}" for index in range(6)]
    offsets, values = 10 * rng.normal(size=(6, 3)), rng.uniform(-180, 180, size=(5, 21))
    write_bvh(tmp_path / "a.bvh", names, parents, offsets, orders, values)
    motion = parts.bvh.read_bvh(tmp_path / "a.bvh", 0.01)
    joints = [motion.skeleton.names.index(name) for name in names]
    rotations = np.stack(
        [
            Rotation.from_euler(order, values[:, 3 + 3 * joint : 6 + 3 * joint], degrees=True).as_matrix()
            for joint, order in enumerate(orders)
        ],
        1,
    )
    assert np.abs(motion.rotations[:, joints].numpy() - rotations).max() < 1e-6
    assert np.allclose(motion.hip, 0.01 * values[:, :3], atol=1e-6)
    assert motion.frame_time == 0.02
    expected = np.stack([positions_one_by_one(parents, 0.01 * offsets, frame) for frame in rotations])
    kinematics = parts.skeleton.ForwardKinematics(motion.skeleton.parents)
    found = kinematics(motion.rotations, motion.skeleton.offsets)
    assert np.abs(found[:, joints].numpy() - expected).max() < 1e-6


def test_channels_turn_in_their_order(parts: SimpleNamespace, file: Callable[[str, str], Path]) -> None:
    motion = parts.bvh.read_bvh(file("a.bvh", BVH), 0.01)
    assert motion.skeleton.names == ("hip", "thigh", "thigh_end")
    # 90 degrees about z, then about the new x: y goes to z, then stays; z goes to -y, which z turns into x.
    about_z_then_x = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert torch.allclose(motion.rotations[1, 1], about_z_then_x, atol=1e-7)
    assert torch.allclose(motion.rotations[1, 0] @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 0, -1]), atol=1e-7)


def test_rest_pose_is_the_sum_of_the_offsets(parts: SimpleNamespace, file: Callable[[str, str], Path]) -> None:
    motion = parts.bvh.read_bvh(file("a.bvh", BVH), 0.01)
    found = parts.skeleton.ForwardKinematics(motion.skeleton.parents)(motion.rotations[0], motion.skeleton.offsets)
    assert torch.allclose(found, torch.tensor([[0, 0, 0], [0.1, -0.06, 0], [0.1, -0.46, 0]]), atol=1e-7)


def test_kinematics_of_batches_and_gradients(parts: SimpleNamespace, generator: torch.Generator) -> None:
    parents = [-1, 0, 1, 0, 3, 3, 2]
    kinematics = parts.skeleton.ForwardKinematics(parents)
    rotations = torch.randn(2, 3, 7, 3, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    offsets = torch.randn(2, 3, 7, 3, dtype=torch.float64, generator=generator)
    found = kinematics(rotations, offsets)
    for place in np.ndindex(2, 3):
        expected = positions_one_by_one(parents, offsets[place].numpy(), rotations[place].detach().numpy())
        assert np.abs(found[place].detach().numpy() - expected).max() < 1e-12
    assert torch.autograd.gradcheck(kinematics, (rotations[0, :1], offsets[0, :1]))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("HIERARCHY", "", "expected 'HIERARCHY', got 'ROOT'"),
        (BVH, "", "expected 'HIERARCHY', got the end of the file"),
        ("ROOT hip", "ROOT", "line 3: expected the name of a joint before '{'|name of a joint"),
        ("OFFSET 10 -6 0", "OFFSET 10 -6", "line 9: expected three numbers after OFFSET, got 'CHANNELS'"),
        ("OFFSET 10 -6 0", "OFFSET 10 nan 0", "finite, got 'nan'"),
        ("CHANNELS 3 Zrotation", "CHANNELS 3 Wrotation", "line 9: expected 'Xposition' or .*, got 'Wrotation'"),
        ("CHANNELS 3 Zrotation", "CHANNELS 3 Zposition", "expected rotation channels only below the root"),
        ("CHANNELS 3", "CHANNELS 2", "expected 'JOINT' or 'End' or '}', got 'Yrotation'"),
        ("End Site", "End", "expected 'Site', got '{'"),
        ("MOTION\n", "", "expected 'MOTION', got 'Frames:'"),
        ("MOTION", "ROOT two", "files with one root"),
        ("Frames: 2", "Frames: two", "expected the number of frames, got 'two'"),
        ("Frames: 2", "Frames: 3", "the end of the file: frame 3 of 3: expected 9 numbers, got 0"),
        ("Frames: 2", "Frames: 1", "line 20: expected the end of the file after 1 frames, got '4'"),
        ("4 5 6 0", "4 5 6", "line 20: frame 2 of 2: expected 9 numbers, got 8"),
        ("4 5 6 0", "4 5 x 0", "line 20: frame 2 of 2: could not convert string to float: 'x'"),
        ("4 5 6 0", "4 5 inf 0", "frame 2 holds numbers that are not finite"),
    ],
)
def test_bad_bvh(parts: SimpleNamespace, file: Callable[[str, str], Path], old: str, new: str, message: str) -> None:
    assert old in BVH
    with pytest.raises(parts.command.BadData, match=message):
        parts.bvh.read_bvh(file("a.bvh", BVH.replace(old, new, 1)), 0.01)


def test_binary_file_is_not_bvh(parts: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "a.bvh").write_bytes(bytes(range(256)))
    with pytest.raises(parts.command.BadData, match="expected 'HIERARCHY'"):
        parts.bvh.read_bvh(tmp_path / "a.bvh", 0.01)


def test_acclaim(parts: SimpleNamespace, file: Callable[[str, str], Path]) -> None:
    acclaim = parts.acclaim.read_asf(file("1.asf", ASF))
    motion = parts.acclaim.read_amc(file("1_1.amc", AMC), acclaim)
    skeleton, unit = motion.skeleton, 0.0254 / 0.45
    assert skeleton.names == ("root", "upper", "lower", "lower_end")
    assert skeleton.parents == (-1, 0, 1, 2)
    lengths = torch.tensor([[0.0, 0, 0], [0, 0, 0], [0, 2, 0], [3, 0, 0]])
    assert torch.allclose(skeleton.offsets, unit * lengths)
    assert skeleton.next_to_hip() == [2]
    root = Rotation.from_euler("xyz", [10, 20, 30], degrees=True).as_matrix()
    frame = Rotation.from_euler("xyz", [0, 0, 20], degrees=True).as_matrix()
    upper = frame @ Rotation.from_euler("xyz", [5, 6, 7], degrees=True).as_matrix() @ frame.T
    frame = Rotation.from_euler("zyx", [10, 0, 0], degrees=True).as_matrix()
    lower = frame @ Rotation.from_euler("z", 40, degrees=True).as_matrix() @ frame.T
    assert np.abs(motion.rotations[0].numpy() - np.stack([root, upper, lower, np.eye(3)])).max() < 1e-6
    assert torch.allclose(motion.hip[0], unit * torch.tensor([1.0, 2, 3]))
    assert torch.allclose(motion.rotations[1], torch.eye(3).expand(4, 3, 3), atol=1e-6)


def test_acclaim_in_radians(parts: SimpleNamespace, file: Callable[[str, str], Path]) -> None:
    degrees = parts.acclaim.read_amc(file("a.amc", AMC), parts.acclaim.read_asf(file("a.asf", ASF)))
    text = ASF.replace("angle deg", "angle rad").replace("axis 0 0 20", f"axis 0 0 {np.radians(20)}")
    text = text.replace("axis 10 0 0", f"axis {np.radians(10)} 0 0")
    rows = [
        line if " " not in line else " ".join([line.split()[0], *(repr(number) for number in numbers)])
        for line in AMC.replace(":DEGREES\n", "").splitlines()
        for numbers in [[float(word) for word in line.split()[1:]] if not line.startswith((":", "#")) else []]
        for numbers in [
            [*numbers[:3], *np.radians(numbers[3:]).tolist()]
            if line.startswith("root")
            else np.radians(numbers).tolist()
        ]
    ]
    radians = parts.acclaim.read_amc(file("b.amc", "\n".join(rows)), parts.acclaim.read_asf(file("b.asf", text)))
    assert torch.allclose(radians.rotations, degrees.rotations, atol=1e-6)
    assert torch.allclose(radians.hip, degrees.hip)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (ASF, "", "expected the sections ':root', ':bonedata' and ':hierarchy'"),
        (ASF, "HIERARCHY", "expected a section such as ':root', got 'HIERARCHY'"),
        ("    upper lower\n", "", "bones without a place in the hierarchy: lower"),
        ("root upper", "root uper", "line 36: expected the name of a bone, got 'uper'"),
        ("name lower", "name upper", "bone 'upper' is there twice"),
        ("length 2", "", "name, direction and length of the bone 'upper'"),
        ("length 2", "length two", "line 19: expected the length of the bone, got 'two'"),
        ("length 0.45", "length 0", "expected a unit of length above 0, got 0.0"),
        ("0 0 20 XYZ", "0 0 20 XYY", "expected an order of axes such as 'XYZ', got 'XYY'"),
        ("dof rz", "dof tx", "expected rotations among the degrees of freedom, got 'tx'"),
        (
            "    root upper\n    upper lower",
            "    upper lower\n    lower upper",
            "does not reach lower, upper from the root",
        ),
    ],
)
def test_bad_asf(parts: SimpleNamespace, file: Callable[[str, str], Path], old: str, new: str, message: str) -> None:
    assert old in ASF
    with pytest.raises(parts.command.BadData, match=message):
        parts.acclaim.read_asf(file("a.asf", ASF.replace(old, new, 1)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (AMC, "", "expected the number of a frame, got the end of the file"),
        ("lower 40\n", "", "frame of line 4: no values for lower"),
        ("lower 40", "tail 40", "line 7: expected a bone of the skeleton that can turn, got 'tail'"),
        ("lower 40", "lower 40\nlower 40", "line 8: expected each bone once in the frame of line 4, got 'lower'"),
        ("upper 5 6 7", "upper 5 6", "line 6: expected 3 numbers, not 2, after this name, got 'upper'"),
        ("upper 5 6 7", "upper 5 6 nan", "line 6: expected finite numbers, got '5'"),
    ],
)
def test_bad_amc(parts: SimpleNamespace, file: Callable[[str, str], Path], old: str, new: str, message: str) -> None:
    assert old in AMC
    acclaim = parts.acclaim.read_asf(file("a.asf", ASF))
    with pytest.raises(parts.command.BadData, match=message):
        parts.acclaim.read_amc(file("a.amc", AMC.replace(old, new, 1)), acclaim)


def test_acclaim_and_bvh_of_one_clip_agree(parts: SimpleNamespace, cmu: Path) -> None:
    acclaim = parts.acclaim.read_asf(cmu / "01.asf")
    motion = parts.acclaim.read_amc(cmu / "01_01.amc", acclaim)
    # The converter put the rest pose before the clip and kept the unit of the ASF file.
    converted = parts.bvh.read_bvh(cmu / "01_01.bvh", acclaim.metres)
    assert len(converted.rotations) == len(motion.rotations) + 1
    assert converted.skeleton.parents == motion.skeleton.parents
    assert (motion.hip - converted.hip[1:]).abs().max() < 1e-5
    # It also lost the offsets of joints that share their parent: neck and shoulders, hand and thumb.
    parents = motion.skeleton.parents
    shared = [node for node, parent in enumerate(parents) if parents.count(parent) > 1]
    offsets = motion.skeleton.offsets.clone()
    offsets[shared] = 0
    assert (offsets - converted.skeleton.offsets).abs().max() < 1e-6
    kinematics = parts.skeleton.ForwardKinematics(parents)
    ours = kinematics(motion.rotations, offsets)
    assert (ours - kinematics(converted.rotations[1:], offsets)).abs().max() < 1e-5


def test_skeleton_of_the_paper(parts: SimpleNamespace, cmu: Path) -> None:
    rest = parts.bvh.read_bvh(cmu / "standard.bvh", 0.01)
    assert len(rest.skeleton.names) == 57
    assert sum(name.endswith("_end") for name in rest.skeleton.names) == 14
    assert rest.skeleton.next_to_hip() == [1, 47, 52]
    kinematics = parts.skeleton.ForwardKinematics(rest.skeleton.parents)
    pose = kinematics(torch.eye(3).expand(57, 3, 3), rest.skeleton.offsets)
    size = pose.amax(0) - pose.amin(0)
    assert 1.4 < size[0] < 1.6, "arms to the sides"
    assert 1.4 < size[1] < 1.7, "upright along y"
    clip = parts.bvh.read_bvh(cmu / "rotcont_0000000_gt.bvh", 0.01)
    assert clip.skeleton.rig == rest.skeleton.rig


def test_folder_of_motions(parts: SimpleNamespace, cmu: Path) -> None:
    motions, left_out = parts.motions.folder_of_motions(cmu, None, 0.01)
    assert [motion.name for motion in motions] == ["01_01.amc", "11_01.amc"]
    assert any(line.startswith("standard.bvh: 3 frames") for line in left_out)
    motions, _ = parts.motions.folder_of_motions(cmu, cmu / "standard.bvh", 0.01)
    assert [motion.name for motion in motions] == ["rotcont_0000000_gt.bvh"]
    training, held_out = parts.motions.split(motions)
    assert len(training[0].rotations) == 38
    assert len(held_out[0].rotations) == 10
    frames = parts.motions.frames_of(training)
    assert frames.positions.shape == (38, 57, 3)
    assert frames.clips == ((0, 38),)


def test_folder_without_motions(parts: SimpleNamespace, file: Callable[[str, str], Path], tmp_path: Path) -> None:
    with pytest.raises(parts.command.BadData, match="expected a folder of motion files"):
        parts.motions.folder_of_motions(tmp_path / "nowhere", None, 0.01)
    with pytest.raises(parts.command.BadData, match="frames or more, got none"):
        parts.motions.folder_of_motions(tmp_path, None, 0.01)
    file("1_1.amc", AMC)
    with pytest.raises(parts.command.BadData, match=r"expected a \.asf file beside it"):
        parts.motions.folder_of_motions(tmp_path, None, 0.01)


def test_generated_motions_are_rotations(parts: SimpleNamespace, generator: torch.Generator) -> None:
    motions = parts.motions.generated_motions(9, 20, generator)
    skeleton = motions[0].skeleton
    assert [skeleton.names[node] for node in skeleton.next_to_hip()] == ["abdomen", "l_thigh", "r_thigh"]
    for motion in motions:
        assert (motion.rotations.mT @ motion.rotations - torch.eye(3)).abs().max() < 1e-5
        assert (motion.rotations[1:] - motion.rotations[:-1]).abs().max() < 0.5, "no jumps"
    training, held_out = parts.motions.split(motions)
    assert [motion.name for motion in held_out] == ["generated 7"]
    assert len(training) == 8


def test_generated_airplanes(parts: SimpleNamespace) -> None:
    planes = [parts.shapes.airplanes(3, 200, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert planes[0].shape == (3, 200, 3)
    assert planes[0].isfinite().all()
    assert planes[0].abs().max() < 0.8
    assert torch.equal(planes[0], planes[1])
    assert not torch.equal(planes[0], planes[2])


def test_folder_of_clouds(parts: SimpleNamespace, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    clouds = [rng.normal(size=(40 + index, 3)) for index in range(8)]
    for index, cloud in enumerate(clouds):
        np.savetxt(tmp_path / f"{index}.xyz", cloud)
    training, held_out = parts.shapes.folder_of_clouds(tmp_path, None)
    assert training.shape == (7, 24, 3)
    assert held_out.shape == (1, 24, 3)
    half = clouds[0][:20]
    half = half - (half.min(0) + half.max(0)) / 2
    assert np.allclose(training[0, :20], half / (2 * np.abs(half).max()), atol=1e-6)
    assert torch.equal(training[0, 20:], training[0, :4]), "points again, which a maximum does not notice"
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        np.savetxt(tmp_path / part / "a.xyz", clouds[0])
    assert parts.shapes.folder_of_clouds(tmp_path, 5)[1].shape == (1, 5, 3)


def test_folder_of_bad_clouds(parts: SimpleNamespace, file: Callable[[str, str], Path], tmp_path: Path) -> None:
    with pytest.raises(parts.command.BadData, match="expected a folder of point clouds"):
        parts.shapes.folder_of_clouds(tmp_path / "nowhere", None)
    with pytest.raises(parts.command.BadData, match="got none"):
        parts.shapes.folder_of_clouds(tmp_path, None)
    file("a.xyz", "1 2 3\n" * 20)
    with pytest.raises(parts.command.BadData, match="at least two clouds"):
        parts.shapes.folder_of_clouds(tmp_path, None)
    file("b.xyz", "1 2 3\n" * 20)
    with pytest.raises(parts.command.BadData, match="not all the same"):
        parts.shapes.folder_of_clouds(tmp_path, None)
    file("a.xyz", "1 2\nthree\n")
    with pytest.raises(parts.command.BadData, match=r"a\.xyz"):
        parts.shapes.folder_of_clouds(tmp_path, None)


def test_airplanes_of_the_paper(parts: SimpleNamespace, shared_data: Path) -> None:
    folder = shared_data / "rotations" / "airplanes"
    if not folder.is_dir():
        pytest.skip(f"no airplanes at {folder}")
    training, held_out = parts.shapes.folder_of_clouds(folder, 64)
    assert (len(training), len(held_out)) == (34, 6)
    assert float(training.abs().amax((1, 2)).max()) == pytest.approx(0.5)


def fitted(parts: SimpleNamespace, path: Path, iterations: int, every: int = 0, resume: bool = False, **change):
    """A small regression, trained; its weights and the message of `train`."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.LeakyReLU(), nn.Linear(8, 3))
    generator = torch.Generator().manual_seed(0)
    parts.training.train(
        model,
        lambda count: ((batch,) for batch in torch.randn(count, 16, 3, generator=generator)),
        change.get("loss_of", lambda batch: (model(batch) - batch).square().mean()),
        iterations=iterations,
        rate=parts.training.cosine(1e-2, 200),
        generator=generator,
        checkpoints=parts.training.Checkpoints(path, every, resume, {"seed": change.get("seed", 0)}),
        title="test",
    )
    return torch.cat([weights.detach().flatten() for weights in model.parameters()])


def test_training_continues_exactly(parts: SimpleNamespace, tmp_path: Path) -> None:
    whole = fitted(parts, tmp_path / "none.pt", 200)
    assert not (tmp_path / "none.pt").exists()
    fitted(parts, tmp_path / "a.pt", 100, every=100)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"], "no unfinished file is left"
    assert torch.equal(fitted(parts, tmp_path / "a.pt", 200, every=50, resume=True), whole)
    assert torch.equal(fitted(parts, tmp_path / "a.pt", 200, resume=True), whole), "nothing left to do"


def test_checkpoints_of_other_runs_are_refused(parts: SimpleNamespace, tmp_path: Path) -> None:
    fitted(parts, tmp_path / "a.pt", 100, every=100)
    with pytest.raises(parts.command.BadData, match="was made with other settings"):
        fitted(parts, tmp_path / "a.pt", 200, resume=True, seed=1)
    with pytest.raises(parts.command.BadData, match="at iteration 100, past the 50 asked for"):
        fitted(parts, tmp_path / "a.pt", 50, resume=True)
    (tmp_path / "a.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(parts.command.BadData, match="is not a checkpoint of this experiment"):
        fitted(parts, tmp_path / "a.pt", 200, resume=True)


def test_training_of_another_model_is_refused(parts: SimpleNamespace, tmp_path: Path) -> None:
    other = nn.Linear(3, 3)
    with pytest.raises(RuntimeError, match=r"training does not change 0\.weight"):
        fitted(parts, tmp_path / "a.pt", 50, loss_of=lambda batch: (other(batch) - batch).square().mean())
    with pytest.raises(RuntimeError, match="the loss became nan by iteration 50"):
        fitted(parts, tmp_path / "a.pt", 50, loss_of=lambda batch: other(batch).sum() * float("nan"))


def test_learning_rates(parts: SimpleNamespace) -> None:
    cosine, steps = parts.training.cosine(1e-3, 100), parts.training.steps((0, 1e-5), (10_000, 1e-6))
    assert [cosine(0), cosine(50)] == pytest.approx([1e-3, 5e-4])
    assert 0 < cosine(99) < 1e-6
    assert [steps(0), steps(9_999), steps(10_000)] == [1e-5, 1e-5, 1e-6]


def test_table(parts: SimpleNamespace) -> None:
    errors = np.arange(101.0)
    rows = [parts.published.row_of(name, name, 6, errors, 1.25, 0.5) for name in ("6d", "9d")]
    assert (rows[0].mean, rows[0].median, rows[0].p99, rows[0].max) == (50.0, 50.0, 99.0, 100.0)
    text = parts.published.table("sanity", rows, "deg")
    lines = text.splitlines()
    assert len({len(line) for line in lines[:4]}) == 1, "aligned"
    assert "0.49" in lines[2]
    assert "0.49" not in lines[3]
    assert "* recalled from the paper's plots, not checked again" in text
    assert "paper" not in parts.published.table("so_n", rows, "deg")


def test_every_published_name_is_a_head(parts: SimpleNamespace) -> None:
    for figures in (*parts.published.PAPER.values(), *parts.published.LATER.values()):
        assert set(figures) <= set(parts.published.HEADS)


def test_curves(parts: SimpleNamespace, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    curve = parts.curves.curve(np.linspace(0, 100, 10_001))
    assert curve == pytest.approx(np.linspace(0, 100, 400), abs=1e-2)
    panels = {f"SO({n})": {"a": curve, "b": curve[::-1]} for n in range(2, 7)}
    for count in (1, 5):
        some = dict(list(panels.items())[:count])
        parts.curves.draw(tmp_path / "a.png", some, unit="deg", low=0.1, high=180.0)
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("script", "options", "message"),
    [
        ("sanity", ["--heads", "7d"], "expected 'all' or some of 10d, .* got '7d'"),
        ("sanity", ["--iterations", "0"], "expected a number above 0, got 0"),
        ("sanity", ["--seed", "one"], "--seed: invalid int value: 'one'"),
        ("sanity", ["--device", "abacus"], "--device: 'abacus' cannot be used here"),
        ("sanity", ["--full", "--quick"], "not allowed with argument --full"),
        ("sanity", ["--loss", "geodesic"], "raw matrices have no angle to learn from"),
        ("inverse_kinematics", ["--unit", "nan"], "--unit: expected metres above 0, got nan"),
        ("inverse_kinematics", ["--rig", "a.bvh"], "--rig: only with --data"),
        ("so_n", ["--n", "1,2"], "expected numbers from 2 to 16 such as 2,3,4; got '1,2'"),
    ],
)
def test_misuse_is_said(
    parts: SimpleNamespace, capsys: pytest.CaptureFixture[str], script: str, options: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        getattr(parts, script).main(options)
    assert re.search(message, " ".join(capsys.readouterr().err.split()))


@pytest.mark.parametrize(
    ("script", "message"),
    [("point_cloud.py", "expected point clouds"), ("inverse_kinematics.py", "expected .bvh files")],
)
def test_empty_folder_is_said(script: str, message: str, tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / script), "--data", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert re.fullmatch(f"error: .*{message}.*", done.stderr.strip()), done.stderr


def test_experiments_learn_and_are_recorded(parts: SimpleNamespace, tmp_path: Path) -> None:
    """The heart of the matter in a few hundred steps: a continuous head is right everywhere, a quaternion is not."""
    continuous, discontinuous = parts.sanity.main(
        ["--iterations", "400", "--heads", "9d,quaternion", "--out", str(tmp_path)]
    )
    assert continuous.mean < 3
    assert continuous.max < 15
    assert discontinuous.max > 90
    found = json.loads((tmp_path / "sanity.json").read_text(encoding="utf-8"))
    assert [row["head"] for row in found["rows"]] == ["9d", "quaternion"]
    assert found["rows"][0]["mean"] == continuous.mean
    assert found["settings"]["iterations"] == 400
    assert found["versions"]["torch"] == torch.__version__
    (curves,) = found["errors_at_400_percentiles"].values()
    assert len(curves["quaternion"]) == 400
    assert curves["quaternion"][-1] == pytest.approx(discontinuous.max, rel=1e-4)
