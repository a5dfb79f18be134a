"""Angle coders: the values of the specification, round trips, no jump at the border, and squares."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rotaware.detection.angle_coders import AngleCoder, CircularSmoothLabel, PhaseShiftCoder, VectorAngleCoder
from rotaware.geo.planar import angle_difference

CODERS: dict[str, AngleCoder] = {
    "csl": CircularSmoothLabel(size=180),
    "csl_retinanet": CircularSmoothLabel(),
    "psc": PhaseShiftCoder(dual=False),
    "psc_five_steps": PhaseShiftCoder(dual=False, steps=5),
    "psc_dual": PhaseShiftCoder(),
    "vector": VectorAngleCoder(),
}


@pytest.fixture(params=CODERS)
def coder(request: pytest.FixtureRequest) -> AngleCoder:
    return CODERS[request.param]


def resolution(coder: AngleCoder) -> float:
    return math.pi / coder.size / 2 + 1e-6 if isinstance(coder, CircularSmoothLabel) else 1e-5


def all_angles(dtype: torch.dtype = torch.float32) -> Tensor:
    """Over the range and beyond, with its borders and quarter turns."""
    special = torch.tensor([-math.pi / 2, -math.pi / 4, 0.0, math.pi / 4, math.pi / 2, math.pi], dtype=dtype)
    return torch.cat([torch.linspace(-5, 5, 1001, dtype=dtype), special, special + 1e-6, special - 1e-6])


def apart(angles: Tensor, others: Tensor, period: float = math.pi) -> Tensor:
    return angle_difference(angles, others, period).abs()


def as_raw(coder: AngleCoder, codes: Tensor) -> Tensor:
    """What a network would have to put out."""
    if isinstance(coder, CircularSmoothLabel):
        return torch.logit(codes, eps=1e-4)
    return torch.logit((codes + 1) / 2, eps=1e-6) if isinstance(coder, PhaseShiftCoder) else codes


def test_values_of_the_specification() -> None:
    found = PhaseShiftCoder().encode(torch.tensor(0.5))
    expected = torch.tensor([0.540302, -0.998886, 0.458584, -0.416147, -0.579401, 0.995548])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    # Classes of 4 degrees from -90 on, a Gaussian window of radius 3 about the class of the angle.
    found = CircularSmoothLabel().encode(torch.deg2rad(torch.tensor(-89.0)))
    assert found[0] == 1 and found[[3, 42]].tolist() == pytest.approx([math.exp(-0.5)] * 2)
    assert found[[22, 23]].tolist() == pytest.approx([math.exp(-(22**2) / 18)] * 2)
    assert math.degrees(CircularSmoothLabel().decode(found)) == pytest.approx(-88)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_round_trip(coder: AngleCoder, dtype: torch.dtype) -> None:
    angles = all_angles(dtype)
    codes = coder.encode(angles)
    assert codes.shape == (*angles.shape, coder.size) and codes.dtype == dtype
    for found in (coder.decode(codes), coder.decode(coder.codes(as_raw(coder, codes)))):
        assert apart(found, angles).max() <= resolution(coder) + 1e-3 * (dtype == torch.float32)
        assert (found >= torch.tensor(-math.pi / 2, dtype=dtype)).all()
        assert (found < torch.tensor(math.pi / 2, dtype=dtype)).all()
    assert apart(coder.decode(codes), angles).max() <= resolution(coder)


def test_no_jump_at_the_border(coder: AngleCoder) -> None:
    below, above = torch.tensor(math.pi / 2 - 1e-4), torch.tensor(-math.pi / 2 + 1e-4)
    # A window moved by one class, a thousandth for numbers.
    step = 0.2 if isinstance(coder, CircularSmoothLabel) else 1e-3
    assert (coder.encode(below) - coder.encode(above)).abs().max() < step
    torch.testing.assert_close(coder.encode(below + math.pi), coder.encode(below), atol=1e-5, rtol=0)
    raw = as_raw(coder, coder.encode(below))
    crossed, far = coder.loss(raw, above), coder.loss(raw, torch.tensor(0.0))
    assert crossed < 0.5 * far


def test_loss_grows_with_the_angle(coder: AngleCoder) -> None:
    raw = as_raw(coder, coder.encode(torch.tensor(1.4, dtype=torch.float64)))
    turns = torch.tensor([0.0, 0.2, 0.5, 1.0, 1.5], dtype=torch.float64)
    losses = [coder.loss(raw.expand(5, -1), 1.4 + sign * turns) for sign in (1, -1)]
    if not isinstance(coder, PhaseShiftCoder) or not coder.dual:  # the second frequency has the period of squares
        assert all((each.diff() > -1e-3).all() for each in losses)
    assert all(each.argmin() == 0 for each in losses)
    # The mirror image is as wrong, to the width of a class.
    if not isinstance(coder, PhaseShiftCoder):  # three cosines do not treat all directions alike
        torch.testing.assert_close(losses[0], losses[1], atol=0.35, rtol=0.05)


def test_vector_loss_does_not_depend_on_the_axes() -> None:
    coder, raw = VectorAngleCoder(), torch.randn(20, 2, dtype=torch.float64)
    angles = torch.linspace(-1, 1, 20, dtype=torch.float64)
    cos, sin = math.cos(0.8), math.sin(0.8)
    turned = raw @ torch.tensor([[cos, sin], [-sin, cos]], dtype=torch.float64)
    torch.testing.assert_close(coder.loss(turned, angles + 0.4), coder.loss(raw, angles))
    torch.testing.assert_close(coder.decode(3 * raw), coder.decode(raw))


def test_squares() -> None:
    # Half of the squares were labelled a quarter turn on: what a network learns is the mean of both codes.
    angles = torch.linspace(-0.7, 0.7, 15)
    for coder in (PhaseShiftCoder(dual=False), VectorAngleCoder()):
        mean = (coder.encode(angles) + coder.encode(angles + math.pi / 2)) / 2
        assert mean.abs().max() < 1e-6, "a rectangle without a long side has no direction"
    assert PhaseShiftCoder(dual=False).decode(torch.zeros(3)) == 0
    assert VectorAngleCoder().decode(torch.zeros(2)) == 0
    dual = PhaseShiftCoder()
    mean = (dual.encode(angles) + dual.encode(angles + math.pi / 2)) / 2
    assert mean[:, :3].abs().max() < 1e-6
    assert apart(dual.decode(mean), angles, math.pi / 2).max() < 1e-5, "known up to the symmetry of a square"
    assert dual.decode(torch.zeros(6)) == 0


def test_objects_without_a_direction_get_the_angle_0() -> None:
    coder = PhaseShiftCoder(dual=False)
    codes = coder.encode(torch.tensor(0.5))
    # Of 2.25 in all, 0.47 is where the codes are 0.457 of their size.
    assert coder.decode(0.45 * codes) == 0
    assert coder.decode(0.46 * codes).item() == pytest.approx(0.5)


def test_gradients(coder: AngleCoder) -> None:
    angles = torch.tensor([-1.5, 0.1, 1.1], dtype=torch.float64)
    raw = torch.randn(3, coder.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda each: coder.loss(each, angles), raw.requires_grad_())
    if isinstance(coder, CircularSmoothLabel):
        return
    codes = (0.9 * coder.encode(angles)).requires_grad_()
    assert torch.autograd.gradcheck(coder.decode, codes)


def test_nothing_and_too_much_have_finite_gradients(coder: AngleCoder) -> None:
    for value in (0.0, 1e4, -1e4):
        raw = torch.full((2, coder.size), value, requires_grad=True)
        loss = coder.loss(raw, torch.tensor([0.0, 1.0]))
        (loss.sum() + coder.decode(coder.codes(raw)).sum()).backward()
        assert loss.isfinite().all() and raw.grad is not None and raw.grad.isfinite().all()


def test_half_precision_is_storage_only(coder: AngleCoder) -> None:
    angles = torch.linspace(-1.5, 1.5, 9).half()
    codes = coder.encode(angles)
    assert codes.dtype == torch.float16
    torch.testing.assert_close(codes, coder.encode(angles.float()).half())
    assert apart(coder.decode(codes), angles).max() < resolution(coder) + 3e-3
    assert coder.loss(as_raw(coder, codes.float()).half(), angles).isfinite().all()


def test_errors(coder: AngleCoder) -> None:
    with pytest.raises(ValueError, match="codes: expected shape"):
        coder.decode(torch.zeros(3, coder.size + 1))
    with pytest.raises(ValueError, match="raw: expected shape"):
        coder.loss(torch.zeros(3, coder.size + 1), torch.zeros(3))
    with pytest.raises(ValueError, match=r"angles: expected shape \(3,\)"):
        coder.loss(torch.zeros(3, coder.size), torch.zeros(1))
    with pytest.raises(TypeError, match="angle"):
        coder.encode(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="at least 3"):
        PhaseShiftCoder(steps=2)
    with pytest.raises(ValueError, match="at least 2 classes"):
        CircularSmoothLabel(size=1)
    with pytest.raises(ValueError, match="positive radius"):
        CircularSmoothLabel(radius=0.0)
