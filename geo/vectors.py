"""Pieces that several component formulas share: products of vectors, scales, and the coefficients of the exponential.

Vectors are three components in a row, matrices nine, row by row. See `scalar.py` for what a formula may contain.
"""

from __future__ import annotations

from .scalar import Component, absolute, constant, formula, larger, select, sine_cosine, square_root

Vector = tuple[Component, Component, Component]

# Arguments shorter than this get gradient 0: that of a function of their direction alone grows like 1 / length, its
# derivative like 1 / length**2, and both have to stay inside the range of float32.
SHORTEST = 1e-18
# Angles longer than this count as 0: float32 no longer holds the square of the square, which derivatives need.
LONGEST = 1e12


@formula
def largest3(x: Component, y: Component, z: Component) -> Component:
    """Largest magnitude of three numbers, without gradient; `SHORTEST` where all are 0."""
    size = constant(larger(larger(absolute(x), absolute(y)), absolute(z)))
    return select(size == 0.0, SHORTEST, size)


@formula
def largest4(w: Component, x: Component, y: Component, z: Component) -> Component:
    """Largest magnitude of four numbers, without gradient; `SHORTEST` where all are 0."""
    size = constant(larger(larger(absolute(w), absolute(x)), larger(absolute(y), absolute(z))))
    return select(size == 0.0, SHORTEST, size)


@formula
def live(value: Component, size: Component) -> Component:
    """`value`, without gradient where it is part of a vector too short to have one."""
    return select(size > SHORTEST, value, constant(value))


@formula
def inverse_size(size: Component) -> Component:
    """1 / size, or 0 where a vector of that size is too short to have a gradient."""
    return select(size > SHORTEST, 1.0, 0.0) / size


@formula
def dot(ax: Component, ay: Component, az: Component, bx: Component, by: Component, bz: Component) -> Component:
    """Scalar product."""
    return ax * bx + ay * by + az * bz


@formula
def cross(ax: Component, ay: Component, az: Component, bx: Component, by: Component, bz: Component) -> Vector:
    """Vector product."""
    return ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx


@formula
def body_gradient(  # type: ignore[no-untyped-def]
    r11, r12, r13, r21, r22, r23, r31, r32, r33, g11, g12, g13, g21, g22, g23, g31, g32, g33
):
    """Gradient with respect to a small turn in the frame of the body, from that of the nine entries.

    With dR = R [w]x the loss changes by a . w, a = axial(R^T G). Whatever a rotation was made from, its derivative
    needs no more than these three numbers.
    """
    return (
        dot(r13, r23, r33, g12, g22, g32) - dot(r12, r22, r32, g13, g23, g33),
        dot(r11, r21, r31, g13, g23, g33) - dot(r13, r23, r33, g11, g21, g31),
        dot(r12, r22, r32, g11, g21, g31) - dot(r11, r21, r31, g12, g22, g32),
    )


@formula
def exponential_coefficients(square: Component) -> Vector:
    """sin(x) / x, (1 - cos(x)) / x**2 and (x - sin(x)) / x**3 as smooth functions of x**2.

    No square root is differentiated at 0. Both arms are computed at arguments that are safe for them.
    """
    small = square < 1.0
    t = select(small, square, 0.0)
    # Alternating series sum_k (-t)**k / (2 k + m)!, m = 1, 2, 3, by Horner's rule; good to float64 for t < 1.
    a = 1 - t / 6 * (1 - t / 20 * (1 - t / 42 * (1 - t / 72 * (1 - t / 110 * _tail(t, 156.0, 210.0, 272.0)))))
    b = (1 - t / 12 * (1 - t / 30 * (1 - t / 56 * (1 - t / 90 * (1 - t / 132 * _tail(t, 182.0, 240.0, 306.0)))))) / 2
    c = (1 - t / 20 * (1 - t / 42 * (1 - t / 72 * (1 - t / 110 * (1 - t / 156 * _tail(t, 210.0, 272.0, 342.0)))))) / 6
    large = select(small, 1.0, square)
    x = square_root(large)
    # The half angle: 1 - cos(x) itself would cancel near whole turns.
    sine, cosine = sine_cosine(0.5 * x)
    sinc = 2 * sine * cosine / x
    return (
        select(small, a, sinc),
        select(small, b, 2 * sine * sine / large),
        select(small, c, (1 - sinc) / large),
    )


@formula
def _tail(t: Component, first: float, second: float, third: float) -> Component:
    """The last terms of a series by Horner's rule."""
    return 1 - t / first * (1 - t / second * (1 - t / third))
