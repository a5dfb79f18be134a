"""Rotated kernels against the published tables and an independent sampler; the layer against its definition."""

from __future__ import annotations

import io
import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rotaware.geo.arc import ARCConv2d, ARCRouting, kernel_rotation_map, rotate_kernel

TL, T, TR, L, C, R, BL, B, BR = range(9)


def published(angle: float) -> np.ndarray:
    """The closed form of the specification, 1.4, for size 3 and |angle| <= 45 degrees."""
    c, s = math.cos(angle), abs(math.sin(angle))
    corner, edge = (c - s, 1 - c + s), (c * (1 - s), c * s, (1 - c) * (1 - s), s * (1 - c))
    if angle >= 0:
        rows = [{TL: corner[0], T: corner[1]}, {T: edge[0], TR: edge[1], C: edge[2], R: edge[3]},
                {TR: corner[0], R: corner[1]}, {TL: edge[1], T: edge[3], L: edge[0], C: edge[2]}, {C: 1.0},
                {C: edge[2], R: edge[0], B: edge[3], BR: edge[1]}, {L: corner[1], BL: corner[0]},
                {L: edge[3], C: edge[2], BL: edge[1], B: edge[0]}, {B: corner[1], BR: corner[0]}]  # fmt: skip
    else:
        rows = [{TL: corner[0], L: corner[1]}, {TL: edge[1], T: edge[0], L: edge[3], C: edge[2]},
                {T: corner[1], TR: corner[0]}, {L: edge[0], C: edge[2], BL: edge[1], B: edge[3]}, {C: 1.0},
                {T: edge[3], TR: edge[1], C: edge[2], R: edge[0]}, {BL: corner[0], B: corner[1]},
                {C: edge[2], R: edge[3], B: edge[0], BR: edge[1]}, {R: corner[1], BR: corner[0]}]  # fmt: skip
    table = np.zeros((9, 9))
    for row, entries in enumerate(rows):
        for column, value in entries.items():
            table[row, column] = value
    return table


def angle_of(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def test_vectors_of_the_specification() -> None:
    kernel = torch.arange(1.0, 10.0, dtype=torch.float64)
    for degrees, expected in (
        (30, [[1.633975, 2.901924, 4.901924], [2.633975, 5, 7.366025], [5.098076, 7.098076, 8.366025]]),
        (-30, [[2.901924, 1.901924, 2.366025], [5.633975, 5, 4.366025], [7.633975, 8.098076, 7.098076]]),
        (40, [[1.876743, 3.344654, 5.630229], [2.305593, 5, 7.694407], [4.369771, 6.655346, 8.123257]]),
        (45, [[2, 3.585786, 6], [2.171573, 5, 7.828427], [4, 6.414214, 8]]),
    ):
        found = kernel_rotation_map(angle_of(math.radians(degrees)), 3) @ kernel
        np.testing.assert_allclose(found.view(3, 3), expected, atol=1e-6)


@pytest.mark.parametrize("degrees", [*range(-45, 46, 9), 0.01, -0.01])
def test_equals_the_published_closed_form(degrees: float) -> None:
    angle = math.radians(degrees)
    np.testing.assert_allclose(kernel_rotation_map(angle_of(angle), 3), published(angle), atol=1e-14)


@pytest.mark.parametrize("size", [3, 5, 7])
@pytest.mark.parametrize("degrees", [0, 17, -33, 60, 90, 123.4, 180, -200, 359])
def test_equals_sampling_with_a_clamped_border(size: int, degrees: float) -> None:
    angle = math.radians(degrees)
    kernel = torch.randn(2, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(size))
    turn = torch.tensor([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0]]).double()
    grid = functional.affine_grid(turn[None], [1, 1, size, size], align_corners=True)
    expected = functional.grid_sample(kernel[None], grid, padding_mode="border", align_corners=True)[0]
    found = rotate_kernel(kernel, angle_of(angle))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    rows = kernel_rotation_map(angle_of(angle), size)
    torch.testing.assert_close(rows.sum(-1), torch.ones(size**2, dtype=torch.float64))
    assert (rows >= 0).all()


def test_one_cell_has_nowhere_to_turn() -> None:
    assert kernel_rotation_map(torch.tensor([0.3, 2.0]), 1).tolist() == [[[1.0]], [[1.0]]]


def test_right_angles_permute_cells() -> None:
    kernel = torch.randn(3, 5, 5, dtype=torch.float64)
    for quarter in range(4):
        turned = rotate_kernel(kernel, angle_of(quarter * math.pi / 2))
        # Sampling clockwise turns the pattern counter-clockwise.
        torch.testing.assert_close(turned, torch.rot90(kernel, quarter, (1, 2)))


def test_gradients_of_the_map() -> None:
    angles = torch.tensor([0.3, -0.7, 1.0, 2.5, -3.0], dtype=torch.float64, requires_grad=True)
    for size in (3, 5):
        assert torch.autograd.gradcheck(lambda each, size=size: kernel_rotation_map(each, size), angles)
    start = torch.zeros((), dtype=torch.float64, requires_grad=True)
    kernel_rotation_map(start, 3)[T].square().sum().backward()
    kernel_rotation_map(start, 3)[T, R].backward()
    assert start.grad is not None and start.grad.isfinite()


def layer_and_input(**options: object) -> tuple[ARCConv2d, Tensor]:
    torch.manual_seed(0)
    layer = ARCConv2d(8, 6, 3, **options).double().eval()  # type: ignore[arg-type]
    with torch.no_grad():
        layer.routing.angle.weight.mul_(200)
        layer.routing.gate.weight.mul_(50)
    return layer, torch.randn(3, 8, 11, 9, dtype=torch.float64)


OPTIONS = [{"padding": 1}, {"padding": (2, 1), "dilation": (2, 1), "stride": (2, 1), "groups": 2, "bias": True}]


@pytest.mark.parametrize("options", OPTIONS)
def test_turning_kernels_equals_adding_turned_convolutions(options: dict[str, object]) -> None:
    layer, x = layer_and_input(**options)
    angles, gates = layer.routing(x)
    assert angles.std() > 0.02 and gates.std() > 0.02
    expected = []
    for image, its_angles, its_gates in zip(x, angles, gates, strict=True):
        total = torch.zeros(())
        for weight, angle, gate in zip(layer.weight, its_angles, its_gates, strict=True):
            turned = rotate_kernel(weight, angle.expand(len(weight)))
            total = total + gate * functional.conv2d(
                image[None], turned, None, layer.stride, layer.padding, layer.dilation, layer.groups
            )
        expected.append(total if layer.bias is None else total + layer.bias[:, None, None])
    torch.testing.assert_close(layer(x), torch.cat(expected))


@pytest.mark.parametrize("options", OPTIONS)
def test_every_form_of_the_convolution_is_the_same(options: dict[str, object]) -> None:
    layer, x = layer_and_input(**options)
    x.requires_grad_()
    kernel = layer.mixed(*layer.routing(x))
    groups = len(x) * layer.groups
    joined = functional.conv2d(
        x.reshape(1, -1, *x.shape[2:]), kernel.reshape(-1, *kernel.shape[2:]),
        None if layer.bias is None else layer.bias.repeat(len(x)), layer.stride, layer.padding, layer.dilation, groups,
    )  # fmt: skip
    ours = layer.convolve(x, kernel)
    torch.testing.assert_close(ours, joined.view(ours.shape))
    gradients = []
    for found in (ours, layer.by_products(x, kernel)):
        torch.testing.assert_close(found, ours)
        loss = found.mul(torch.linspace(0, 1, found.numel(), dtype=found.dtype).view(found.shape)).sum()
        gradients.append(torch.autograd.grad(loss, [x, *layer.parameters()], retain_graph=True))
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second)


def test_gradients_of_the_layer() -> None:
    layer, x = layer_and_input(padding=1)
    x = x[:2, :, :5, :4].clone().requires_grad_()
    # By finite differences, through routing and all.
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, *layer.parameters()), atol=1e-4)


def test_no_images_give_no_outputs() -> None:
    layer, x = layer_and_input(**OPTIONS[1])
    assert layer(x[:0]).shape == (0, *layer(x).shape[1:])


def turned_bilinearly(image: Tensor, angle: float) -> Tensor:
    """(C, S, S) turned clockwise on the screen."""
    cos, sin = math.cos(-angle), math.sin(-angle)
    turn = torch.tensor([[[cos, -sin, 0], [sin, cos, 0]]], dtype=image.dtype)
    grid = functional.affine_grid(turn, [1, *image.shape], align_corners=False)
    return functional.grid_sample(image[None], grid, align_corners=False)[0]


def smooth(size: int) -> Tensor:
    noise = torch.randn(8, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    blur = torch.ones(8, 1, 9, 9, dtype=torch.float64) / 81
    for _ in range(3):
        noise = functional.conv2d(noise[None], blur, padding=4, groups=8)[0]
    return noise / noise.std()


@pytest.mark.parametrize("quarter", range(4))
def test_turning_kernel_and_image_alike_turns_the_output(quarter: int) -> None:
    layer, _ = layer_and_input(padding=1)
    image, gates = smooth(21), torch.tensor([[0.3, 0.9, 0.2, 0.6]], dtype=torch.float64)
    upright = layer.convolve(image[None], layer.mixed(torch.zeros_like(gates), gates))[0]
    angles = torch.full_like(gates, quarter * math.pi / 2)
    found = layer.convolve(torch.rot90(image, quarter, (1, 2))[None], layer.mixed(angles, gates))[0]
    torch.testing.assert_close(found, torch.rot90(upright, quarter, (1, 2)))


@pytest.mark.parametrize("degrees", [20, -35, 65])
def test_other_angles_within_the_error_of_interpolation(degrees: float) -> None:
    layer, _ = layer_and_input(padding=1)
    image, gates, angle = smooth(61), torch.full((1, 4), 0.5, dtype=torch.float64), math.radians(degrees)
    # Slopes in every direction: what bilinear weights turn exactly, but for the clamped corners.
    line = torch.arange(-1.0, 2.0, dtype=torch.float64)
    slopes = torch.stack([line.expand(3, 3), line[:, None].expand(3, 3)])
    with torch.no_grad():
        layer.weight.copy_(torch.einsum("noca,ahw->nochw", torch.randn(*layer.weight.shape[:3], 2).double(), slopes))
    upright = layer.convolve(image[None], layer.mixed(torch.zeros_like(gates), gates))[0]
    # The pattern of the kernel turns counter-clockwise for positive angles, so the image does.
    image = turned_bilinearly(image, -angle)
    found = layer.convolve(image[None], layer.mixed(torch.full_like(gates, angle), gates))[0]
    middle = (slice(None), slice(18, 43), slice(18, 43))
    error = (found - turned_bilinearly(upright, -angle))[middle].std()
    unturned = layer.convolve(image[None], layer.mixed(torch.zeros_like(gates), gates))[0]
    without = (unturned - turned_bilinearly(upright, -angle))[middle].std()
    assert error < 0.5 * without and error < 0.2 * upright[middle].std()


def test_routing_is_that_of_the_paper() -> None:
    routing = ARCRouting(16, 4)
    count = sum(each.numel() for each in routing.parameters())
    assert count == 11 * 16 + 2 * 16 * 4 + 4
    x = torch.randn(5, 16, 7, 6)
    with torch.no_grad():
        for weight in (routing.gate.weight, routing.angle.weight):
            weight.mul_(1000)
        angles, gates = routing.eval()(x)
        seen = functional.conv2d(x, routing.depthwise.weight, padding=1, groups=16)
        normed = functional.layer_norm(seen.permute(0, 2, 3, 1), (16,), routing.norm.weight, routing.norm.bias)
        pooled = normed.relu().mean((1, 2))
        z = pooled @ routing.angle.weight.T
    torch.testing.assert_close(angles, math.radians(40) * z / (1 + z.abs()))
    torch.testing.assert_close(gates, (pooled @ routing.gate.weight.T + routing.gate.bias).sigmoid())
    assert angles.abs().max() < math.radians(40) and angles.abs().max() > math.radians(30)
    # Two independent dropouts; none without training.
    torch.manual_seed(0)
    trained = [routing.train()(x) for _ in range(2)]
    assert not torch.equal(trained[0][0], trained[1][0])


@pytest.mark.parametrize("init", ["each", "published"])
def test_initial_variance(init: str) -> None:
    layer = ARCConv2d(128, 128, 3, kernels=4, init=init)  # type: ignore[arg-type]
    expected = 0.0417 if init == "each" else 0.0208
    assert layer.weight.std().item() == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("kernels", [1, 4])
def test_starts_as_the_convolution_it_replaces(kernels: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 12, 3, stride=2, padding=1, groups=4)
    x = torch.randn(2, 16, 9, 9)
    layer = ARCConv2d.from_conv(conv, kernels=kernels).eval()
    expected = conv(x)
    assert (layer(x) - expected).std() < 0.1 * expected.std()
    exact = ARCConv2d.from_conv(conv, kernels=kernels, noise=0.0, max_angle=0.0).eval()
    nn.init.zeros_(exact.routing.gate.weight)
    torch.testing.assert_close(exact(x), expected)


def test_half_precision_keeps_the_kernel_in_single() -> None:
    layer, x = layer_and_input(padding=1)
    layer, x = layer.float(), x.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        angles, gates = layer.routing(x)
        kernel = layer.mixed(angles, gates)
        found = layer(x)
    assert angles.dtype == gates.dtype == kernel.dtype == torch.float32 and found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), layer(x), atol=0.1, rtol=0.1)


def test_state_has_the_published_shapes_and_round_trips() -> None:
    layer, x = layer_and_input(padding=1)
    assert layer.state_dict()["weight"].shape == (4, 6, 8, 3, 3)
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    other = ARCConv2d(8, 6, 3, padding=1).double().eval()
    other.load_state_dict(torch.load(buffer, weights_only=True))
    torch.testing.assert_close(other(x), layer(x))
    # Contiguous weights, as of other writers, too.
    other.weight = nn.Parameter(layer.weight.detach().contiguous())
    torch.testing.assert_close(other(x), layer(x))


def test_exported_graph_takes_any_number_of_images(tmp_path: object) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    layer, x = layer_and_input(**OPTIONS[1])
    layer, x = layer.float(), x.float()
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            layer, (x,), dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False
        )
    assert program is not None
    program.save(buffer)
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    for images in (x, x[:1], torch.cat([x, x])):
        (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        np.testing.assert_allclose(found, layer(images).detach().numpy(), atol=1e-4)


def test_errors() -> None:
    for message, options in (
        ("kernel_size: expected an odd square", {"kernel_size": 2}),
        ("kernel_size: expected an odd square", {"kernel_size": (3, 5)}),
        ("kernel_size: expected an odd square", {"kernel_size": 1}),
        ("padding: expected numbers, got 'same'", {"padding": "same"}),
        ("kernels: expected at least 1", {"kernels": 0}),
        ("groups: expected a divisor", {"groups": 3}),
        ("init: expected", {"init": "ours"}),
    ):
        with pytest.raises(ValueError, match=message):
            ARCConv2d(8, 8, **{"kernel_size": 3, **options})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="odd number"):
        kernel_rotation_map(torch.zeros(2), 4)
    with pytest.raises(ValueError, match="zero padding"):
        ARCConv2d.from_conv(nn.Conv2d(8, 8, 3, padding="same"))
