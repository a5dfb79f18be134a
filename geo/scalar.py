"""The functions that component formulas are written with: one meaning on tensors, one on compiled numbers.

A formula of this room is a plain function of the components of its arguments (six numbers in, nine out). Called with
tensors it is PyTorch: differentiable, on any device, under any transform. The same source compiled by numba is the fast
path of the CPU (`fused.py`). Only arithmetic, comparisons and the functions below may occur in it, and no branches.

The compiled versions of sine, cosine and arc tangent are written out here because a loop that calls the C library is
not vectorised: as polynomials they cost a quarter of it. Sine and cosine are good to one unit of rounding of float64,
the arc tangent to two.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from numba.extending import overload, register_jitable

from . import compile_cache as _compile_cache  # noqa: F401  before the first function that numba caches

F = TypeVar("F", bound=Callable[..., Any])

# Number or tensor: what a component is. Formulas see both, so no static type describes them better.
Component = Any

# "contract" lets a * b + c become one instruction. Nothing else of fast math: sums keep their order, NaN its meaning.
# Without forced inlining a long formula is called row by row and the loop around it is not vectorised.
JIT_OPTIONS: dict[str, Any] = {"fastmath": {"contract"}, "error_model": "numpy", "forceinline": True}

# x + _ROUND - _ROUND is x rounded to an integer, for |x| < 2**51.
_ROUND = 6755399441055744.0
# Pi / 2 in three parts, the first two with trailing zeros, so that multiples of them are exact (Cody and Waite).
_HALF_PI = (1.5707963267341256, 6.077100506303966e-11, 2.0222662487959506e-21)
_TAN_EIGHTH = math.sqrt(2) - 1


def formula(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a function of components as compilable; on tensors it stays what it is."""
    return register_jitable(**JIT_OPTIONS)(function)


def select(condition: Component, chosen: Component, other: Component) -> Component:
    """`chosen` where `condition` holds, else `other`. Both are always computed, so both must be safe."""
    return torch.where(condition, chosen, other)


def constant(value: Component) -> Component:
    """`value` without its gradient."""
    return value.detach()


def square_root(value: Component) -> Component:
    """Square root; the argument must not be 0 where a gradient is wanted."""
    return value.sqrt()


def absolute(value: Component) -> Component:
    """Magnitude."""
    return value.abs()


def larger(value: Component, other: Component) -> Component:
    """The larger of two; NaN may lose."""
    return torch.where(value > other, value, other)


def sine_cosine(angle: Component) -> tuple[Component, Component]:
    """Sine and cosine of an angle in radians."""
    return angle.sin(), angle.cos()


def arc_tangent(y: Component, x: Component) -> Component:
    """Angle of the vector (x, y), radians in [-pi, pi]; not both 0 where a gradient is wanted."""
    if torch.onnx.is_in_onnx_export():
        # ONNX Runtime has it in float32 only. What is computed in float64 on purpose starts an iteration from it.
        return torch.atan2(y.float(), x.float()).to(y.dtype)
    return torch.atan2(y, x)


def _compiled(function: Callable[..., Any]) -> Callable[[F], F]:
    """Give `function` its meaning on numbers: the decorated one, written in numba's Python."""

    def register(implementation: F) -> F:
        # numba wants a function of the argument types that returns the implementation.
        names = ", ".join(implementation.__code__.co_varnames[: implementation.__code__.co_argcount])
        chooser = eval(f"lambda {names}: implementation", {"implementation": implementation})
        overload(function, jit_options=cast(Any, JIT_OPTIONS))(chooser)
        return implementation

    return register


@_compiled(select)
def _select(condition, chosen, other):  # type: ignore[no-untyped-def]
    return chosen if condition else other


@_compiled(constant)
def _constant(value):  # type: ignore[no-untyped-def]
    return value


@_compiled(square_root)
def _square_root(value):  # type: ignore[no-untyped-def]
    return math.sqrt(value)


@_compiled(absolute)
def _absolute(value):  # type: ignore[no-untyped-def]
    return math.fabs(value)


@_compiled(larger)
def _larger(value, other):  # type: ignore[no-untyped-def]
    return value if value > other else other


@_compiled(sine_cosine)
def _sine_cosine(angle):  # type: ignore[no-untyped-def]
    # angle = k pi / 2 + r with |r| <= pi / 4; Taylor polynomials of r; then the quadrant k mod 4, in {-2 ... 2}.
    # Beyond this no float64 resolves a turn, and the rounding trick below would fail.
    angle = angle if math.fabs(angle) < 1e15 else 0.0 * angle
    k = (angle * (2 / math.pi) + _ROUND) - _ROUND
    r = ((angle - k * _HALF_PI[0]) - k * _HALF_PI[1]) - k * _HALF_PI[2]
    z = r * r
    s = 1 / 6227020800 - z / 1307674368000
    s = 1 / 362880 + z * (-1 / 39916800 + z * s)
    s = r + r * z * (-1 / 6 + z * (1 / 120 + z * (-1 / 5040 + z * s)))
    c = -1 / 87178291200 + z / 20922789888000
    c = -1 / 3628800 + z * (1 / 479001600 + z * c)
    c = 1 + z * (-1 / 2 + z * (1 / 24 + z * (-1 / 720 + z * (1 / 40320 + z * c))))
    quarter = k * 0.25
    quadrant = 4 * (quarter - ((quarter + _ROUND) - _ROUND))
    size = math.fabs(quadrant)
    swapped = size == 1.0
    # The signs by arithmetic: 1, 1, -1, -1 and 1, -1, -1, 1 over the quadrants. Chained conditions on one value would
    # be turned into jumps, which are not vectorised.
    even, odd = 1 - size, quadrant * (2 - size)
    return (c if swapped else s) * (even + odd), (s if swapped else c) * (even - odd)


@_compiled(arc_tangent)
def _arc_tangent(y, x):  # type: ignore[no-untyped-def]
    high, low = math.fabs(x), math.fabs(y)
    steep = low > high
    high, low = (low, high) if steep else (high, low)
    # atan(low / high) in [0, pi / 4], folded once more to [-tan(pi / 8), tan(pi / 8)].
    folded = low > _TAN_EIGHTH * high
    numerator, denominator = (low - high, low + high) if folded else (low, high)
    t = numerator / (1.0 if denominator == 0.0 else denominator)
    z = t * t
    p = 1 / 29 + z * (-1 / 31 + z * (1 / 33 - z / 35))
    p = 1 / 21 + z * (-1 / 23 + z * (1 / 25 + z * (-1 / 27 + z * p)))
    p = 1 / 13 + z * (-1 / 15 + z * (1 / 17 + z * (-1 / 19 + z * p)))
    p = 1 / 5 + z * (-1 / 7 + z * (1 / 9 + z * (-1 / 11 + z * p)))
    angle = t + t * z * (-1 / 3 + z * p)
    angle = angle + (math.pi / 4 if folded else 0.0)
    angle = math.pi / 2 - angle if steep else angle
    angle = math.pi - angle if x < 0.0 else angle
    return math.copysign(angle, y)
