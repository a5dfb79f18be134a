"""Backbones: the published counts, public checkpoints, and what is frozen stays."""

from __future__ import annotations

import copy
import re

import pytest
import torch

from rotaware.detection.resnet import ResNet, ResNetConfig, load_resnet
from rotaware.geo.arc import ARCConv2d

COUNTS = {
    50: {0: 23_508_032, 1: 23_554_637, 2: 34_768_474, 4: 57_196_148, 6: 79_623_822, 8: 102_051_496},
    101: {0: 42_500_160, 1: 42_603_358, 2: 63_852_924, 4: 106_352_056, 6: 148_851_188, 8: 191_350_320},
}


@pytest.mark.parametrize("depth", COUNTS)
@pytest.mark.parametrize("kernels", [0, 1, 2, 4, 6, 8])
def test_parameter_counts_of_the_specification(depth: int, kernels: int) -> None:
    config = ResNetConfig(depth, arc_stages=(2, 3, 4), arc_kernels=kernels) if kernels else ResNetConfig(depth)
    with torch.device("meta"):
        model = ResNet(config)
    assert sum(each.numel() for each in model.parameters()) == COUNTS[depth][kernels]
    layers = [name for name, module in model.named_modules() if isinstance(module, ARCConv2d)]
    if kernels:
        assert len(layers) == {50: 13, 101: 30}[depth]
        assert all(re.fullmatch(r"layer[234]\.\d+\.conv2", name) for name in layers)


def small(**options: object) -> ResNetConfig:
    return ResNetConfig(**{"depth": 18, "width": 8, **options})  # type: ignore[arg-type]


def public_state(config: ResNetConfig) -> dict[str, torch.Tensor]:
    """As public checkpoints come: with a classifier, statistics that mean something, no counts of batches."""
    model = ResNet(config)
    state = {name: value.clone() for name, value in model.state_dict().items() if "num_batches" not in name}
    for name, value in state.items():
        if name.endswith(("bn2.weight", "bn3.weight")):
            value.uniform_(0.5, 1.0)
        elif name.endswith("running_mean"):
            value.uniform_(-0.1, 0.1)
    return state | {"fc.weight": torch.zeros(1000, 8), "fc.bias": torch.zeros(1000)}


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_names_are_those_of_public_checkpoints(depth: int) -> None:
    with torch.device("meta"):
        names = {name for name in ResNet(ResNetConfig(depth)).state_dict() if "num_batches" not in name}
    parts = r"(conv[123]\.weight|bn[123]\.(weight|bias|running_mean|running_var)|downsample\.(0\.weight|1\.\w+))"
    assert all(re.fullmatch(rf"(layer[1-4]\.\d+\.)?{parts}", name) for name in names)
    blocks = {18: 8, 34: 16, 50: 16, 101: 33}[depth]
    convolutions = 1 + blocks * (2 if depth < 50 else 3)
    # Basic blocks of the first stage need no projection.
    projections = 3 if depth < 50 else 4
    assert len(names) == 5 * (convolutions + projections)


def test_arc_starts_as_the_public_weights() -> None:
    torch.manual_seed(0)
    state = public_state(small())
    plain, arc = ResNet(small()).eval(), ResNet(small(arc_stages=(2, 3, 4), arc_kernels=3)).eval()
    load_resnet(plain, state)
    load_resnet(arc, state, noise=0.0)
    images = torch.randn(2, 3, 64, 64)
    for expected, found in zip(plain(images), arc(images), strict=True):
        assert (found - expected).std() < 0.1 * expected.std()
    # And its own checkpoints load as they are.
    again = ResNet(small(arc_stages=(2, 3, 4), arc_kernels=3)).eval()
    load_resnet(again, arc.state_dict())
    for expected, found in zip(arc(images), again(images), strict=True):
        assert torch.equal(expected, found)


def test_wrong_checkpoints_are_refused_whole() -> None:
    model = ResNet(small())
    before = copy.deepcopy(model.state_dict())
    state = public_state(small())
    del state["layer2.1.bn1.bias"]
    state["layer3.0.conv1.weight"] = torch.zeros(3, 3)
    state["extra"] = torch.zeros(1)
    with pytest.raises(ValueError) as found:
        load_resnet(model, state)
    for part in (
        "missing layer2.1.bn1.bias",
        "unexpected extra",
        "layer3.0.conv1.weight: expected shape (32, 16, 3, 3)",
    ):
        assert part in str(found.value)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match=r"layer2\.0\.conv1\.weight"):
        load_resnet(ResNet(small(arc_stages=(2,))), public_state(small(width=4)))


@pytest.mark.parametrize("depth", [18, 50])
def test_frozen_parts_do_not_change(depth: int) -> None:
    torch.manual_seed(0)
    model = ResNet(small(depth=depth, arc_stages=(2, 3, 4), frozen_stages=1, frozen_norms=True)).train()
    for name, parameter in model.named_parameters():
        if name.endswith(("bn2.weight", "bn3.weight")):
            # Blocks begin as their shortcuts, and nothing inside would learn in the first step.
            torch.nn.init.ones_(parameter)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.1)
    sum(level.square().mean() for level in model(torch.randn(2, 3, 64, 64))).backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and not any(name.startswith(("conv1", "bn1", "layer1")) for name in changed)
    assert not any("running" in name for name in changed)
    assert any("routing" in name for name in changed)
    free = ResNet(small(arc_stages=(1, 2, 3), frozen_stages=2)).train()
    # Dropout of the routing as well as statistics.
    assert not any(module.training for stage in (1, 2) for module in free.stage(stage).modules())
    assert all(module.training for stage in (3, 4) for module in free.stage(stage).modules())


def test_recomputed_blocks_give_the_same_gradients() -> None:
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = ResNet(small(arc_stages=(3,), arc_dropout=0.0, frozen_norms=True, checkpointing=checkpointing))
        images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        sum(level.square().sum() for level in model.train()(images)).backward()
        found.append([each.grad for each in model.parameters()])
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second)


def test_errors() -> None:
    for message, options in (
        ("depth: expected one of 18, 34, 50, 101", {"depth": 20}),
        ("arc_stages", {"arc_stages": (0,)}),
        ("frozen_stages", {"frozen_stages": 5}),
        ("arc_kernels", {"arc_kernels": 0}),
    ):
        with pytest.raises(ValueError, match=message):
            ResNetConfig(**options)  # type: ignore[arg-type]
