"""Component formulas of `quaternion.py` and their derivatives.

Each formula is followed by its derivative, from the arguments and the gradient of the result to the gradients of the
arguments. Quaternions are real first. What a formula may contain is said in `scalar.py`.
"""
# Formulas take numbers or tensors, many of them: types would say nothing.
# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs

from __future__ import annotations

from math import pi

from .scalar import absolute, arc_tangent, constant, formula, larger, select, square_root
from .vectors import (
    LONGEST,
    SHORTEST,
    cross,
    dot,
    exponential_coefficients,
    inverse_size,
    largest3,
    largest4,
    live,
)

# atan(x) / x is a series in x**2 up to here; 14 terms reach float64 precision (0.05**14 = 6e-19).
_ATAN_SWITCH = 0.05
# The gradient of 1 / q grows like 1 / length**2, its derivative like 1 / length**3: shorter ones get gradient 0.
_SHORTEST_INVERTED = 1e-12
# Below this |q_v|**2 / |q|**2 a quaternion beside -1 has no axis.
_NO_AXIS = 1e-34


@formula
def raw_product(aw, ax, ay, az, bw, bx, by, bz):
    """Hamilton's product."""
    return (
        aw * bw - ax * bx - ay * by - az * bz,
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
    )


@formula
def raw_product_derivative(aw, ax, ay, az, bw, bx, by, bz, gw, gx, gy, gz):
    # g conj(b) and conj(a) g: multiplication by a unit quaternion is a turn, its adjoint the turn back.
    pw, px, py, pz = raw_product(gw, gx, gy, gz, bw, -bx, -by, -bz)
    qw, qx, qy, qz = raw_product(aw, -ax, -ay, -az, gw, gx, gy, gz)
    return pw, px, py, pz, qw, qx, qy, qz


@formula
def canonical_sign(w, x, y, z):
    """-1 where the first nonzero component is negative, else 1."""
    leading = select(w != 0.0, w, select(x != 0.0, x, select(y != 0.0, y, z)))
    return select(leading < 0.0, -1.0, 1.0)


@formula
def product(aw, ax, ay, az, bw, bx, by, bz):
    """Hamilton's product, or its negative: the one whose first nonzero component is positive."""
    w, x, y, z = raw_product(aw, ax, ay, az, bw, bx, by, bz)
    sign = canonical_sign(w, x, y, z)
    return sign * w, sign * x, sign * y, sign * z


@formula
def product_derivative(aw, ax, ay, az, bw, bx, by, bz, gw, gx, gy, gz):
    w, x, y, z = raw_product(aw, ax, ay, az, bw, bx, by, bz)
    sign = canonical_sign(w, x, y, z)
    return raw_product_derivative(aw, ax, ay, az, bw, bx, by, bz, sign * gw, sign * gx, sign * gy, sign * gz)


@formula
def rotated(w, x, y, z, px, py, pz):
    """A vector turned by a quaternion of any length; 0 turns nothing."""
    size = largest4(w, x, y, z)
    w, x, y, z = live(w, size) / size, live(x, size) / size, live(y, size) / size, live(z, size) / size
    square = w * w + dot(x, y, z, x, y, z)
    return _turned(w, x, y, z, 2 / select(square == 0.0, 1.0, square), px, py, pz)


@formula
def rotated_derivative(w, x, y, z, px, py, pz, gx, gy, gz):
    size = largest4(w, x, y, z)
    w, x, y, z = live(w, size) / size, live(x, size) / size, live(y, size) / size, live(z, size) / size
    square = w * w + dot(x, y, z, x, y, z)
    factor = 2 / select(square == 0.0, 1.0, square)
    # The gradient in the frame of the body is that of the vector; its moment is that of a small turn.
    bx, by, bz = _turned(w, -x, -y, -z, factor, gx, gy, gz)
    ax, ay, az = cross(px, py, pz, bx, by, bz)
    vx, vy, vz = cross(x, y, z, ax, ay, az)
    factor = factor * inverse_size(size)
    return (
        -factor * dot(x, y, z, ax, ay, az),
        factor * (w * ax + vx),
        factor * (w * ay + vy),
        factor * (w * az + vz),
        bx,
        by,
        bz,
    )


@formula
def _turned(w, x, y, z, s, px, py, pz):
    """p + t w + v x t with t = s v x p and s = 2 / |q|**2."""
    tx, ty, tz = cross(s * x, s * y, s * z, px, py, pz)
    ux, uy, uz = cross(x, y, z, tx, ty, tz)
    return px + (w * tx + ux), py + (w * ty + uy), pz + (w * tz + uz)


@formula
def has_direction(w, x, y, z):
    """False for 0 and for what is too short to have a gradient."""
    return larger(larger(absolute(w), absolute(x)), larger(absolute(y), absolute(z))) > SHORTEST


@formula
def normalized(w, x, y, z):
    """Unit quaternion of the same direction; 0 gives 1."""
    size = largest4(w, x, y, z)
    alive = has_direction(w, x, y, z)
    w, x, y, z = (
        select(alive, w, constant(w)) / size,
        select(alive, x, constant(x)) / size,
        select(alive, y, constant(y)) / size,
        select(alive, z, constant(z)) / size,
    )
    square = w * w + dot(x, y, z, x, y, z)
    none = square == 0.0
    length = square_root(select(none, 1.0, square))
    return w / length + select(none, 1.0, 0.0), x / length, y / length, z / length


@formula
def normalized_derivative(w, x, y, z, gw, gx, gy, gz):
    size = largest4(w, x, y, z)
    alive = has_direction(w, x, y, z)
    w, x, y, z = w / size, x / size, y / size, z / size
    square = w * w + dot(x, y, z, x, y, z)
    square = select(square == 0.0, 1.0, square)
    along = (w * gw + dot(x, y, z, gx, gy, gz)) / square
    factor = select(alive, 1.0, 0.0) / size / square_root(square)
    return factor * (gw - along * w), factor * (gx - along * x), factor * (gy - along * y), factor * (gz - along * z)


@formula
def inverted(w, x, y, z, shortest):
    """1 / q; 0 where no component exceeds `shortest`."""
    size = larger(larger(absolute(w), absolute(x)), larger(absolute(y), absolute(z)))
    nothing = constant(size) <= shortest
    alive = size > _SHORTEST_INVERTED
    size = select(nothing, 1.0, constant(size))
    w, x, y, z = (
        select(alive, w, constant(w)) / size,
        select(alive, x, constant(x)) / size,
        select(alive, y, constant(y)) / size,
        select(alive, z, constant(z)) / size,
    )
    factor = select(nothing, 0.0, 1.0) / size / select(nothing, 1.0, w * w + dot(x, y, z, x, y, z))
    return factor * w, -factor * x, -factor * y, -factor * z


@formula
def inverted_derivative(w, x, y, z, gw, gx, gy, gz, shortest):
    size = constant(larger(larger(absolute(w), absolute(x)), larger(absolute(y), absolute(z))))
    dead = (size <= _SHORTEST_INVERTED) | (size <= shortest)
    size = select(dead, 1.0, size)
    w, x, y, z = w / size, x / size, y / size, z / size
    square = select(dead, 1.0, w * w + dot(x, y, z, x, y, z))
    factor = select(dead, 0.0, 1.0) / size / size / square
    along = 2 * (w * gw - dot(x, y, z, gx, gy, gz)) / square
    return (
        factor * (gw - along * w),
        factor * (-gx - along * x),
        factor * (-gy - along * y),
        factor * (-gz - along * z),
    )


@formula
def standard(w, x, y, z):
    """q or -q: the one whose first nonzero component is positive."""
    sign = canonical_sign(w, x, y, z)
    return sign * w, sign * x, sign * y, sign * z


@formula
def standard_derivative(w, x, y, z, gw, gx, gy, gz):
    sign = canonical_sign(w, x, y, z)
    return sign * gw, sign * gx, sign * gy, sign * gz


@formula
def aligned(w, x, y, z, rw, rx, ry, rz):
    """q or -q: the one nearer to a reference."""
    sign = _nearer_sign(w, x, y, z, rw, rx, ry, rz)
    return sign * w, sign * x, sign * y, sign * z


@formula
def aligned_derivative(w, x, y, z, rw, rx, ry, rz, gw, gx, gy, gz):
    sign = _nearer_sign(w, x, y, z, rw, rx, ry, rz)
    return sign * gw, sign * gx, sign * gy, sign * gz, 0.0 * gw, 0.0 * gx, 0.0 * gy, 0.0 * gz


@formula
def _nearer_sign(w, x, y, z, rw, rx, ry, rz):
    """-1 where two quaternions form an obtuse angle, else 1."""
    p, r = largest4(w, x, y, z), largest4(rw, rx, ry, rz)
    along = w / p * (rw / r) + x / p * (rx / r) + y / p * (ry / r) + z / p * (rz / r)
    return select(along < 0.0, -1.0, 1.0)


@formula
def exponential(w, x, y, z):
    """cos|v| + v sin|v| / |v|; the real part has no influence."""
    x, y, z = _bounded(x, y, z)
    square = dot(x, y, z, x, y, z)
    a, b, _ = exponential_coefficients(square)
    # Of w only a NaN must show.
    nothing = 0.0 * w
    return 1 - square * b + nothing, a * x + nothing, a * y + nothing, a * z + nothing


@formula
def exponential_derivative(w, x, y, z, gw, gx, gy, gz):
    vx, vy, vz = _bounded(x, y, z)
    a, b, c = exponential_coefficients(dot(vx, vy, vz, vx, vy, vz))
    # The derivative of sin(u) / u with respect to u**2 is half of C - B.
    along = (c - b) * dot(vx, vy, vz, gx, gy, gz) - a * gw
    inside = select(largest3(x, y, z) < LONGEST, 1.0, 0.0)
    return 0.0 * w, inside * (a * gx + along * vx), inside * (a * gy + along * vy), inside * (a * gz + along * vz)


@formula
def _bounded(x, y, z):
    """The vector, or 0 where it is too long for its angle to mean anything. NaN and infinity become NaN."""
    inside = largest3(x, y, z) < LONGEST
    return select(inside, x, 0.0 * x), select(inside, y, 0.0 * y), select(inside, z, 0.0 * z)


@formula
def logarithm(w, x, y, z):
    """Pure quaternion, of length at most pi, whose exponential is the quaternion divided by its length."""
    size = largest4(w, x, y, z)
    alive = _has_logarithm_gradient(w, x, y, z, size)
    w, x, y, z = (
        select(alive, w, constant(w)) / size,
        select(alive, x, constant(x)) / size,
        select(alive, y, constant(y)) / size,
        select(alive, z, constant(z)) / size,
    )
    factor, x, y, z, half_turn, _, _, _ = _logarithm_terms(w, x, y, z)
    # The real part is 0, or NaN where anything is.
    return 0.0 * factor, factor * x + half_turn, factor * y, factor * z


@formula
def logarithm_derivative(w, x, y, z, gw, gx, gy, gz):
    size = largest4(w, x, y, z)
    alive = _has_logarithm_gradient(w, x, y, z, size)
    w, x, y, z = _logarithm_gradient(w / size, x / size, y / size, z / size, gx, gy, gz)
    scale = select(alive, 1.0, 0.0) / size
    return scale * w, scale * x, scale * y, scale * z


@formula
def _has_logarithm_gradient(w, x, y, z, size):
    """False for 0 and for -1, around which the gradient grows without bound."""
    # The second derivative grows like the inverse of this square, which must stay inside the range of float32.
    return (size > SHORTEST) & ((w > 0.0) | (dot(x, y, z, x, y, z) > _NO_AXIS))


@formula
def _logarithm_gradient(w, x, y, z, gx, gy, gz):
    factor, px, py, pz, _, length, slope, unit = _logarithm_terms(w, x, y, z)
    along = dot(x, y, z, gx, gy, gz)
    total = w * w + dot(x, y, z, x, y, z)
    factor = factor / length
    px, py, pz = unit * px, unit * py, unit * pz
    slope = slope * dot(px, py, pz, gx, gy, gz)
    return (
        -along / select(total == 0.0, 1.0, total),
        factor * gx + slope * px,
        factor * gy + slope * py,
        factor * gz + slope * pz,
    )


@formula
def _logarithm_terms(w, x, y, z):
    """Parts of the logarithm f p + h e_x of the quaternion with the vector part v, where p = v / l.

    Returns f, p, h, l, and s and u of the derivative: f / l dv + s (u p) (u p . dv) at constant w. Beside -1 there is
    no axis: f = 0, and h = pi chooses the first one.
    """
    square = dot(x, y, z, x, y, z)
    # Near the identity l = 1, f = (1 - r / 3 + r**2 / 5 - ...) / w with r = (|v| / w)**2, free of 1 / |v|.
    small = (square < _ATAN_SWITCH * w * w) & (w > 0.0)
    near = select(small, w, 1.0)
    r = select(small, square, 0.0) / (near * near)
    f = 1 / 19 - r * (1 / 21 - r * (1 / 23 - r * (1 / 25 - r / 27)))
    f = 1 / 9 - r * (1 / 11 - r * (1 / 13 - r * (1 / 15 - r * (1 / 17 - r * f))))
    f = (1 - r * (1 / 3 - r * (1 / 5 - r * (1 / 7 - r * f)))) / near
    s = 18 / 19 - r * (20 / 21 - r * (22 / 23 - r * (24 / 25 - r * 26 / 27)))
    s = 8 / 9 - r * (10 / 11 - r * (12 / 13 - r * (14 / 15 - r * (16 / 17 - r * s))))
    s = -(2 / 3 - r * (4 / 5 - r * (6 / 7 - r * s))) / near
    # Elsewhere f is the angle and l = |v|. Beside -1 the second derivative grows like 1 / |v|**2. It fits the type, but
    # 1 / |v|**3 would not: it does not occur as v is divided by a constant of its size before its length is taken.
    none = (square < _NO_AXIS) & (w <= 0.0)
    short = small | none
    size = select(short, 1.0, largest3(x, y, z))
    x, y, z = x / size, y / size, z / size
    length = square_root(select(short, 1.0, dot(x, y, z, x, y, z)))
    x, y, z = x / length, y / length, z / length
    length = size * length
    exists = select(none, 0.0, 1.0)
    angle = exists * arc_tangent(length, select(small, 1.0, w))
    t = exists * w / (w * w + length * length) - angle / length
    half_turn = select(none & (w < 0.0), 1.0, 0.0) * pi
    return select(small, f, angle), x, y, z, half_turn, length, select(small, s, t), select(small, 1 / near, 1.0)


@formula
def power(w, x, y, z, exponent):
    """The rotation's `exponent`-fold, along the short arc; 0 counts as 1."""
    size = largest4(w, x, y, z)
    w, x, y, z = live(w, size) / size, live(x, size) / size, live(y, size) / size, live(z, size) / size
    sign = canonical_sign(w, x, y, z)
    factor, x, y, z, _, _, _, _ = _logarithm_terms(sign * w, x, y, z)
    factor = exponent * sign * factor
    return exponential(0.0 * w, factor * x, factor * y, factor * z)


@formula
def power_derivative(w, x, y, z, exponent, gw, gx, gy, gz):
    size = largest4(w, x, y, z)
    sign = canonical_sign(w, x, y, z)
    inverse = sign * inverse_size(size)
    w, x, y, z = live(w, size) / size, live(x, size) / size, live(y, size) / size, live(z, size) / size
    w, x, y, z = sign * w, sign * x, sign * y, sign * z
    factor, lx, ly, lz, _, _, _, _ = _logarithm_terms(w, x, y, z)
    lx, ly, lz = factor * lx, factor * ly, factor * lz
    _, ex, ey, ez = exponential_derivative(0.0 * w, exponent * lx, exponent * ly, exponent * lz, gw, gx, gy, gz)
    dw, dx, dy, dz = _logarithm_gradient(w, x, y, z, exponent * ex, exponent * ey, exponent * ez)
    return inverse * dw, inverse * dx, inverse * dy, inverse * dz, dot(lx, ly, lz, ex, ey, ez)
