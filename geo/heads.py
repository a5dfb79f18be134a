"""The last layer of a network that predicts a rotation, chosen by name.

A `RotationHead` turns the numbers a network puts out into a rotation matrix, encodes a rotation as such numbers, and
compares the two. `representations` tells what there is to choose from. Which one: for arbitrary rotations a continuous
one, "9d" first, "two_vector" or "6d" where numbers are dear; where angles stay well below pi also "axis_angle" with
`max_angle`, or "quaternion". Never "euler", "axis_angle_4d" and "gibbs", which are here to be compared with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from .checks import require_broadcastable, require_choice, require_floating, require_same_device, require_shape
from .continuous import SixLayout, SixMethod
from .convert import ALIASES, MAPS, guess
from .euler import euler_to_matrix
from .losses import Reduction, chordal_distance
from .numerics import safe_norm, upcast
from .so3 import QuaternionOrder, geodesic_distance

LossKind = Literal["chordal", "geodesic", "raw"]
Projection = Literal["train", "inference"]


@dataclass(frozen=True)
class Representation:
    """What a representation of rotations in space is like, for choosing one.

    Attributes:
        name: the name `RotationHead` and `convert` know it by.
        dim: how many numbers.
        continuous: whether the numbers of a rotation depend continuously on it (whether `encode` is continuous).
        degenerate: the numbers that stand for no rotation of their own, and where the gradient is poor.
        preimage: the set of all numbers that stand for one rotation.
        options: the options of the head with their defaults.
        aliases: other names.
        no_raw_loss: why the distance to `encode(target)` is no loss; empty where it is one.
    """

    name: str
    dim: int
    continuous: bool
    degenerate: str
    preimage: str
    options: tuple[tuple[str, Any], ...] = ()
    aliases: tuple[str, ...] = ()
    no_raw_loss: str = ""


def representations() -> dict[str, Representation]:
    """What is known about each representation, by name; continuous ones first.

    >>> [r.name for r in representations().values() if r.continuous]
    ['9d', 'raw_9d', '10d', 'two_vector', '6d', '5d']
    >>> representations()["quaternion"].preimage
    'a line through 0 without 0'
    """
    return dict(_known())


class RotationHead(nn.Module):
    """From a network's numbers to a rotation matrix; no parameters, no state.

    Args:
        rep: a name or an alias of `representations`.
        project: for "9d", "inference" leaves the nine numbers as they are while training (`module.training`) and
            projects them in evaluation; "raw_9d" is short for that. "train", the default, always projects. May be
            changed between epochs through the attribute: a start on raw numbers has much smaller gradients.
        options: "6d" and "two_vector" take layout ("columns"), "6d" method ("gram_schmidt"), as
            `rotation_6d_to_matrix`; "quaternion" order ("wxyz") and half_space (False): a promise that all targets
            stay well below an angle of pi, which makes the raw loss meaningful; "euler" and "euler_sincos" convention
            ("XZY"); "axis_angle" max_angle (None): radians in (0, pi], bounds the angle by
            max_angle tanh(length / max_angle).
    Attributes:
        name: canonical name.
        dim: how many numbers `forward` takes.
        continuous: whether `encode` is continuous.
        project, options: as given, defaults filled in.
    Raises:
        TypeError: an option that the representation does not take.
        ValueError: unknown name or value.
    Reference: Zhou et al., "On the Continuity of Rotation Representations in Neural Networks", CVPR 2019; for
        `project` Levinson et al., NeurIPS 2020, and Gu et al., PRoM, 2023.

    >>> head = RotationHead("6d")
    >>> network = nn.Sequential(nn.Linear(8, head.dim), head)
    >>> network(torch.zeros(5, 8)).shape, head
    (torch.Size([5, 3, 3]), RotationHead('6d', dim=6, layout='columns', method='gram_schmidt'))
    """

    def __init__(self, rep: str, *, project: Projection | None = None, **options: Any) -> None:
        super().__init__()
        record = _record(rep)
        known = dict(record.options)
        for name in options:
            if name not in known:
                listed = ", ".join(known) or "none"
                raise TypeError(f"{name}: expected an option of {record.name!r} ({listed}){guess(name, known)}")
        self.name, self.dim, self.continuous = record.name, record.dim, record.continuous
        self._project = _projection(record.name, project)
        self.options = {**known, **options}
        maps = MAPS[record.name]
        self._reads = {name: value for name, value in self.options.items() if name in maps.reads}
        self._writes = {name: value for name, value in self.options.items() if name in maps.writes}
        _require_options(self.options)

    def forward(self, raw: Tensor) -> Tensor:
        """Rotation matrices of a network's output.

        Args:
            raw: (..., dim), any finite numbers.
        Returns:
            (..., 3, 3), rotations; while training with project="inference" the raw numbers as a matrix.
        Raises:
            TypeError: `raw` is not a floating point tensor.
            ValueError: wrong shape.
        """
        require_floating("raw", raw)
        require_shape("raw", raw, ..., self.dim)
        if self._is_raw:
            return raw.unflatten(-1, (3, 3))
        to_matrix, bound = MAPS[self.name].to_matrix, self.options.get("max_angle")
        if bound is None:
            return to_matrix(raw, **self._reads)
        return to_matrix(_bounded(upcast(raw), bound)).to(raw.dtype)

    def encode(self, matrix: Tensor) -> Tensor:
        """The numbers that the head would like to see for a rotation: `forward(encode(R))` is R.

        Args:
            matrix: (..., 3, 3), rotations.
        Returns:
            (..., dim). With `max_angle` an angle at or beyond it becomes the largest below it that has a finite code,
            with gradient 0 along the axis.
        Raises:
            TypeError: `matrix` is not a floating point tensor.
            ValueError: wrong shape.
        """
        from_matrix, bound = MAPS[self.name].from_matrix, self.options.get("max_angle")
        if bound is None:
            return from_matrix(matrix, **self._writes)
        require_floating("matrix", matrix)
        return _unbounded(from_matrix(upcast(matrix)), bound).to(matrix.dtype)

    def loss(self, raw: Tensor, target: Tensor, kind: LossKind = "chordal", reduction: Reduction = "mean") -> Tensor:
        """How far a network's output is from rotations, in one number.

        "chordal" is the squared Frobenius norm of the difference of the matrices, 8 sin(angle / 2)^2: nine times what
        `nn.MSELoss` of the entries gives, so a learning rate for the one is nine times too large for the other. It is
        smooth, and flat near an angle of pi. "geodesic" is the angle in radians, which pulls equally hard everywhere.
        "raw" is the mean squared difference of the numbers from `encode(target)`; it does not see that different
        numbers may stand for one rotation, so it is refused where no choice of them is right: for "quaternion" (of
        both signs) without half_space, for Euler angles, "axis_angle_4d" and "gibbs". For "axis_angle" and "mrp" it is
        good for angles below about pi / 2.

        Args:
            raw: (..., dim), of a dtype that may differ from that of `target`: the wider one counts.
            target: (..., 3, 3), rotations; leading axes broadcast.
            kind: "chordal", "geodesic" or "raw".
            reduction: "mean" or "sum" over all rotations, or "none".
        Returns:
            A scalar, or (...) without reduction.
        Raises:
            TypeError: an argument is not a floating point tensor.
            ValueError: wrong shape, two devices, leading axes that do not broadcast, unknown kind or reduction, a kind
                that has no meaning for the representation, or "geodesic" of raw matrices.
        """
        require_choice("kind", kind, ("chordal", "geodesic", "raw"))
        require_choice("reduction", reduction, ("mean", "sum", "none"))
        require_floating("raw", raw)
        require_shape("raw", raw, ..., self.dim)
        require_floating("target", target)
        require_shape("target", target, ..., 3, 3)
        dtype = torch.promote_types(raw.dtype, target.dtype)
        raw, target = (upcast(x.to(dtype)) for x in (raw, target))
        if kind == "raw":
            values = self._raw_distance(raw, target)
        elif kind == "chordal":
            values = chordal_distance(self.forward(raw), target, squared=True)
        elif self._is_raw:
            raise ValueError("kind: expected 'chordal' or 'raw' while training raw matrices, got 'geodesic'")
        else:
            values = geodesic_distance(self.forward(raw), target)
        if reduction != "none":
            values = values.mean() if reduction == "mean" else values.sum()
        return values.to(dtype)

    def extra_repr(self) -> str:
        """Name, dimension and options, for printing."""
        parts = [repr(self.name), f"dim={self.dim}"]
        if self.project != "train":
            parts.append(f"project={self.project!r}")
        return ", ".join(parts + [f"{name}={value!r}" for name, value in self.options.items()])

    @property
    def project(self) -> Projection:
        """Whether "9d" projects in training too, or in evaluation only."""
        return self._project

    @project.setter
    def project(self, project: Projection) -> None:
        self._project = _projection(self.name, project)

    @property
    def _is_raw(self) -> bool:
        """Whether the numbers stay what they are."""
        return self.training and self.project == "inference"

    def _raw_distance(self, raw: Tensor, target: Tensor) -> Tensor:
        reason = _known()[self.name].no_raw_loss
        if reason and not self.options.get("half_space"):
            raise ValueError(f"kind: expected 'chordal' or 'geodesic' for {self.name!r}, got 'raw': {reason}")
        goal = self.encode(target)
        tensors = {"raw": raw, "target": goal}
        require_same_device(tensors)
        require_broadcastable(tensors, trailing=1)
        return (raw - goal).square().mean(-1)


def _record(rep: str) -> Representation:
    name = ALIASES.get(rep, rep) if isinstance(rep, str) else rep
    if name not in _known():
        known = _known()
        raise ValueError(f"rep: expected one of {', '.join(map(repr, known))}, got {rep!r}{guess(rep, known)}")
    return _known()[name]


def _projection(name: str, project: Projection | None) -> Projection:
    if project is None:
        return "inference" if name == "raw_9d" else "train"
    require_choice("project", project, ("train", "inference"))
    if name == "raw_9d" and project == "train":
        raise ValueError("project: expected 'inference' for 'raw_9d' ('9d' projects in training), got 'train'")
    if project == "inference" and name not in ("9d", "raw_9d"):
        raise ValueError(f"project: expected 'train' for {name!r}, whose numbers are no matrix, got 'inference'")
    return project


def _require_options(options: dict[str, Any]) -> None:
    """Check the values of options: better here than in the first step of training."""
    for name, choices in (("layout", SixLayout), ("method", SixMethod), ("order", QuaternionOrder)):
        if name in options:
            require_choice(name, options[name], get_args(choices))
    if "convention" in options:
        # No list of the conventions is kept anywhere; who reads them refuses what is none.
        euler_to_matrix(torch.zeros(0, 3), options["convention"])
    if not isinstance(options.get("half_space", False), bool):
        raise TypeError(f"half_space: expected a bool, got {options['half_space']!r}")
    bound = options.get("max_angle")
    if bound is not None and not (isinstance(bound, int | float) and 0 < bound <= math.pi):
        raise ValueError(f"max_angle: expected None or radians in (0, pi], got {bound!r}")


def _bounded(vector: Tensor, bound: float) -> Tensor:
    """Vectors (..., 3) with their length x made bound tanh(x / bound), which is x for short ones."""
    ratio = safe_norm(vector) / bound
    short = ratio < _SHORT
    square = torch.where(short[..., None], vector / bound, 0).square().sum(-1)
    # tanh(x) / x in powers of x^2, so that the derivatives at 0 need no length.
    series = _polynomial(square, _TANH_SERIES)
    long = torch.where(short, 1, ratio)
    return vector * torch.where(short, series, long.tanh() / long)[..., None]


def _unbounded(vector: Tensor, bound: float) -> Tensor:
    """The inverse of `_bounded`; lengths from `bound` on become that of the largest number below 1."""
    ratio = safe_norm(vector) / bound
    short = ratio < _SHORT
    square = torch.where(short[..., None], vector / bound, 0).square().sum(-1)
    series = _polynomial(square, _ARTANH_SERIES)
    long = torch.where(short, 0.5, ratio)
    largest = 1 - torch.finfo(vector.dtype).eps
    factor = torch.where(long > largest, largest, long).atanh() / long
    return vector * torch.where(short, series, factor)[..., None]


def _polynomial(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """Horner's rule, constant term first."""
    total = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total


# Below this length the series are exact to rounding in float64; above it nothing cancels.
_SHORT = 0.1
_TANH_SERIES = (1.0, -1 / 3, 2 / 15, -17 / 315, 62 / 2835, -1382 / 155925, 21844 / 6081075, -929569 / 638512875)
_ARTANH_SERIES = tuple(1 / (2 * k + 1) for k in range(8))

_PARALLEL = "a vector is 0 or the two are parallel"
_SIGN = "q and -q are one rotation; half_space=True allows it where all angles stay well below pi"
_ANGLES = "angles that differ by a whole turn are one rotation"


@cache
def _known() -> dict[str, Representation]:
    """The table, each record with the aliases of its name."""
    records = [
        Representation(
            "9d", 9, True, "the two smallest signed singular values add up to 0",
            "convex: R S with S symmetric, the sum of its two smallest eigenvalues positive"
        ),
        Representation("raw_9d", 9, True, "none while training, then as 9d", "a point while training, then as 9d"),
        Representation("10d", 10, True, "the two smallest eigenvalues are equal", "convex"),
        Representation("two_vector", 6, True, _PARALLEL, "a connected cone", (("layout", "columns"),)),
        Representation(
            "6d", 6, True, _PARALLEL, "convex: a r1, b r2 + c r1 with a, b > 0",
            (("layout", "columns"), ("method", "gram_schmidt")),
        ),
        Representation("5d", 5, True, "the last three numbers are 0, or as 6d", "connected"),
        Representation(
            "quaternion", 4, False, "0", "a line through 0 without 0", (("order", "wxyz"), ("half_space", False)),
            no_raw_loss=_SIGN,
        ),
        Representation(
            "axis_angle", 3, False, "none; no gradient for part of the directions at lengths 2 pi, 4 pi, ...",
            "points 2 pi apart on a line, for the identity shells; one point with max_angle", (("max_angle", None),),
        ),
        Representation("mrp", 3, False, "none; gradients fade far from 0", "two points"),
        Representation(
            "gibbs", 3, False, "none; half turns at infinity only, gradients fade far from 0", "a point",
            no_raw_loss="the numbers run to infinity as the angle nears pi",
        ),
        Representation(
            "axis_angle_4d", 4, False, "axis 0; the axis has no gradient at angle 0", "two half lines",
            no_raw_loss="the axis is undefined at angle 0 and jumps at pi",
        ),
        Representation(
            "euler_sincos", 6, False, "a pair is 0; gimbal lock, where a direction has no gradient",
            "two products of half lines; at gimbal lock a product with a circle", (("convention", "XZY"),),
            no_raw_loss="two triples of angles are one rotation",
        ),
        Representation(
            "euler", 3, False, "none; gimbal lock, where a direction has no gradient",
            "a grid of points; at gimbal lock lines",
            (("convention", "XZY"),), no_raw_loss=_ANGLES,
        ),
    ]  # fmt: skip
    aliases: dict[str, tuple[str, ...]] = {record.name: () for record in records}
    for alias, name in ALIASES.items():
        aliases[name] += (alias,)
    return {record.name: replace(record, aliases=aliases[record.name]) for record in records}
