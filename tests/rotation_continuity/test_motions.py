"""Motion files, skeletons and kinematics of the experiments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "rotation_continuity"


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
