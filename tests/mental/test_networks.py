"""The networks of the paper: their sizes, what turning does to a volume, and that they learn."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from rotaware.datasets import enumerate_objects, parse_path, posed_paths, render, voxelise
from rotaware.geo import ball_mask, cube_rotations, rotate_volume
from rotaware.mental import (
    EquivariantRenderer,
    RendererConfig,
    VisionConfig,
    VisionSymbolicModel,
    tilt,
    turned_by,
    view_change,
)

SMALL = RendererConfig(image=32, image_channels=1, width=16, latent_channels=8, lift_channels=8, volume_width=16)
TINY = VisionConfig(volume=16, channels=1, patch=4, stem=8, width=32, heads=2, layers=1, decoder_layers=1,
                    decoder_hidden=64, dropout=0.0, decoder_dropout=0.0)  # fmt: skip


def parameters(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


def test_published_sizes() -> None:
    with torch.device("meta"):
        renderer, vision = EquivariantRenderer(), VisionSymbolicModel()
    parts = (renderer.encode.image, renderer.encode.lift, renderer.encode.volume, renderer.decode.volume,
             renderer.decode.project, renderer.decode.image)  # fmt: skip
    assert [round(parameters(part) / 1e6, 2) for part in parts] == [2.98, 0.69, 2.04, 2.04, 0.69, 2.98]
    assert parameters(renderer) == 11_422_691
    assert parameters(vision.encoder) == 10_862_976 and parameters(vision) == 19_152_390


def test_volumes_are_turned_as_the_camera_moves() -> None:
    paths = posed_paths(enumerate_objects()[::60])
    azimuths = torch.linspace(0, 300, len(paths)).tolist()
    before = torch.from_numpy(voxelise(paths, azimuths, size=32))
    for degrees in (30.0, 90.0, 180.0):
        after = torch.from_numpy(voxelise(paths, [azimuth + degrees for azimuth in azimuths], size=32))
        turned = turned_by(before[:, None], degrees, 25.0)[:, 0]
        wrong = turned_by(before[:, None], -degrees, 25.0)[:, 0]
        near = float((turned - after).norm() / after.norm())
        assert near < 0.35 and (degrees == 180 or near < 0.5 * float((wrong - after).norm() / after.norm()))


def test_upright_volumes_are_those_of_a_level_camera_and_turn_by_whole_voxels() -> None:
    paths = posed_paths(enumerate_objects()[::60])
    seen, level = (torch.from_numpy(voxelise(paths, 10.0, elevation, size=32)) for elevation in (25.0, 0.0))
    upright = rotate_volume(seen, tilt(25.0).float())
    assert float((upright - level).norm() / level.norm()) < 0.35
    rotation = view_change((13.0, 25.0), (103.0, 25.0), gravity=True)
    assert float((cube_rotations() - rotation).abs().amax(dim=(1, 2)).min()) < 1e-12
    four_times = seen[:, None]
    for _ in range(4):
        four_times = turned_by(four_times, 90.0)
    assert torch.equal(four_times[:, 0], seen)


@pytest.mark.parametrize("gravity", [None, 25.0])
def test_encoders_fill_a_ball_and_quarter_turns_of_upright_volumes_are_exact(gravity: float | None) -> None:
    torch.manual_seed(0)
    renderer = EquivariantRenderer(RendererConfig(**(SMALL.to_dict() | {"gravity": gravity}))).eval()
    images = torch.from_numpy(render(posed_paths(enumerate_objects()[:1])[:3], 40.0, size=32)).float() / 255
    with torch.no_grad():
        volumes = renderer.encode(images)
        assert volumes.shape == (3, 8, 8, 8, 8)
        if gravity is None:
            assert not volumes[:, :, ~ball_mask(8)].any()
        back = turned_by(turned_by(volumes, 90.0), -90.0)
        assert torch.equal(back, volumes)
        assert renderer.decode(volumes).shape == images.shape


def test_a_renderer_learns_two_views() -> None:
    torch.manual_seed(0)
    renderer = EquivariantRenderer(SMALL)
    path = parse_path("UUUBBRRFF")
    images = torch.from_numpy(render([path] * 2, [10.0, 80.0], size=32, style="shaded")).float() / 255
    there, back = view_change((10.0, 25.0), (80.0, 25.0)), view_change((80.0, 25.0), (10.0, 25.0))
    rotations, optimizer = torch.stack([there, back]), torch.optim.Adam(renderer.parameters(), lr=3e-3)
    history = []
    for _ in range(60):
        loss = (renderer(images, rotations) - images.flip(0)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.25 * history[0]


def test_descriptions_are_learnt_and_read_again_without_help() -> None:
    torch.manual_seed(0)
    paths = posed_paths(enumerate_objects()[:2])[:8]
    volumes, moves = torch.from_numpy(voxelise(paths, 0.0, size=16))[:, None], torch.tensor(paths)
    model = VisionSymbolicModel(TINY)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    first = model.loss(volumes, moves).item()
    assert first == pytest.approx(math.log(6), abs=0.8)
    for _ in range(120):
        loss = model.loss(volumes, moves)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    assert torch.equal(model.describe(volumes).argmax(dim=2), moves)


def test_no_move_sees_those_after_it() -> None:
    torch.manual_seed(0)
    model, volumes = VisionSymbolicModel(TINY).eval(), torch.rand(1, 1, 16, 16, 16)
    one, other = torch.randint(0, 6, (2, 1, 9))
    other[:, :5] = one[:, :5]
    with torch.no_grad():
        apart = (model(volumes, one) - model(volumes, other)).abs().amax(dim=2)[0]
    assert apart[:6].max() < 1e-6 and (apart[6:] > 1e-6).all()


def test_wrong_input() -> None:
    renderer, vision = EquivariantRenderer(SMALL), VisionSymbolicModel(TINY)
    with pytest.raises(ValueError, match="images"):
        renderer.encode(torch.zeros(1, 1, 32, 40))
    with pytest.raises(ValueError, match="volumes"):
        renderer.decode(torch.zeros(1, 8, 8, 8, 9))
    with pytest.raises(ValueError, match="volumes"):
        vision.describe(torch.zeros(1, 2, 16, 16, 16))
    with pytest.raises(ValueError, match="moves"):
        vision(torch.zeros(1, 1, 16, 16, 16), torch.zeros(1, 8, dtype=torch.int64))
    with pytest.raises(ValueError, match="expected multiples of 16, and of 8, got 40"):
        RendererConfig(image=40)
    with pytest.raises(ValueError, match="expected multiples of patch"):
        VisionConfig(volume=30)
