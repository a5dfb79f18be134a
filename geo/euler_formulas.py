"""Component formulas of Euler angles, one for all 24 conventions.

Relabelling the axes turns every sequence of three different axes into turns about x, y and z: the entries of the
matrix change places, and the angles their sign if the relabelling is odd. An extrinsic sequence is the transposed
matrix of the intrinsic one with negated angles. A sequence whose third axis is its first becomes x, y, z as well, by a
quarter turn about y: Rx(a) Ry(b) Rx(c) = Rx(a) Ry(b - pi / 2) Rz(-c) Ry(pi / 2). So the formulas below know

    R = Rx(a) Ry(b) Rz(c)

and two cases of it: `tait` is 1 where the axes differ, and 0 where the third is the first and the components are those
of R Ry(-pi / 2). What places the components stand in is up to the caller. `fa`, `fb`, `fc` are factors, 1 or -1 times
the unit, between the user's angles and a, b and c. What a formula may contain is said in `scalar.py`.
"""
# Formulas take numbers or tensors, many of them: types would say nothing.
# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs

from __future__ import annotations

from .scalar import absolute, arc_tangent, constant, formula, larger, select, sine_cosine, square_root
from .vectors import LONGEST, SHORTEST, body_gradient, inverse_size, largest4, live


@formula
def matrix_of_euler(a, b, c, fa, fb, fc, tait):
    """Rotation of three angles."""
    s1, c1, s2, c2, s3, c3 = _sines(a, b, c, fa, fb, fc, tait)
    m11, m12, m13, m21, m22, m23, m31, m32, m33 = _product(s1, c1, s2, c2, s3, c3)
    last = 2 * tait - 1
    return m11, m12, last * m13, m21, m22, last * m23, m31, m32, last * m33


@formula
def matrix_of_euler_derivative(a, b, c, g11, g12, g13, g21, g22, g23, g31, g32, g33, fa, fb, fc, tait):
    s1, c1, s2, c2, s3, c3 = _sines(a, b, c, fa, fb, fc, tait)
    last = 2 * tait - 1
    x, y, z = body_gradient(
        *_product(s1, c1, s2, c2, s3, c3), g11, g12, last * g13, g21, g22, last * g23, g31, g32, last * g33
    )
    # The three axes in the frame of the body.
    return (
        _inside(a) * fa * (c2 * (c3 * x - s3 * y) + s2 * z),
        _inside(b) * fb * (s3 * x + c3 * y),
        _inside(c) * fc * z,
    )


@formula
def _sines(a, b, c, fa, fb, fc, tait):
    """Sine and cosine of each angle, NaN in the second pair if any angle is NaN: that pair is in every entry."""
    a, b, c = fa * _bounded(a), fb * _bounded(b), fc * _bounded(c)
    s1, c1 = sine_cosine(a)
    sine, cosine = sine_cosine(b)
    s3, c3 = sine_cosine(c)
    nothing = 0.0 * (a + c)
    s2 = tait * sine - (1 - tait) * cosine + nothing
    c2 = tait * cosine + (1 - tait) * sine + nothing
    return s1, c1, s2, c2, s3, c3


@formula
def _bounded(angle):
    """The angle, or 0 where it is too large to mean anything. NaN and infinity become NaN."""
    return select(absolute(angle) < LONGEST, angle, 0.0 * angle)


@formula
def _inside(angle):
    """1 where the angle is not too large to mean anything, else 0."""
    return select(absolute(angle) < LONGEST, 1.0, 0.0)


@formula
def _product(s1, c1, s2, c2, s3, c3):
    """Rx(a) Ry(b) Rz(c)."""
    ss, cs = s1 * s2, c1 * s2
    return (
        c2 * c3,
        -c2 * s3,
        s2,
        c1 * s3 + ss * c3,
        c1 * c3 - ss * s3,
        -s1 * c2,
        s1 * s3 - cs * c3,
        s1 * c3 + cs * s3,
        c1 * c2,
    )


@formula
def quaternion_of_euler(a, b, c, fa, fb, fc, tait, parity):
    """Unit quaternion of three angles; `parity` 1 or -1 goes with the order the vector components are stored in."""
    w, x, y, z, _, _, _, _, _, _ = _half_turns(a, b, c, fa, fb, fc, tait)
    return w, parity * x, parity * y, parity * z


@formula
def quaternion_of_euler_derivative(a, b, c, gw, gx, gy, gz, fa, fb, fc, tait, parity):
    gx, gy, gz = parity * gx, parity * gy, parity * gz
    w, x, y, z, s1, c1, rw, rx, ry, rz = _half_turns(a, b, c, fa, fb, fc, tait)
    # The gradient of the product of the second and the third turn.
    hw, hx, hy, hz = c1 * gw + s1 * gx, c1 * gx - s1 * gw, c1 * gy + s1 * gz, c1 * gz - s1 * gy
    # Turned further by a small angle, a quaternion changes by half of that angle times its product with the axis.
    about_z = hz * rw - hw * rz + hx * ry - hy * rx
    about_x = hx * rw - hw * rx + hy * rz - hz * ry
    return (
        _inside(a) * fa / 2 * (gx * w - gw * x + gz * y - gy * z),
        _inside(b) * fb / 2 * (hy * rw - hw * ry + hx * rz - hz * rx),
        _inside(c) * fc / 2 * (tait * about_z - (1 - tait) * about_x),
    )


@formula
def _half_turns(a, b, c, fa, fb, fc, tait):
    """Product of the three turns as quaternions, the first of them, and the product of the last two."""
    s1, c1 = sine_cosine(0.5 * fa * _bounded(a))
    s2, c2 = sine_cosine(0.5 * fb * _bounded(b))
    s3, c3 = sine_cosine(0.5 * fc * _bounded(c))
    # The third axis is z, or -x.
    w, x, y, z = c2 * c3, (tait * s2 - (1 - tait) * c2) * s3, s2 * c3, (tait * c2 + (1 - tait) * s2) * s3
    return c1 * w - s1 * x, c1 * x + s1 * w, c1 * y - s1 * z, c1 * z + s1 * y, s1, c1, w, x, y, z


@formula
def euler_of_matrix(m11, m12, m13, m21, m22, m23, m31, m32, m33, fa, fb, fc, tait, first, lock, damping):
    """Three angles of a rotation.

    `first`, 1 or -1, multiplies the first two entries of the first row. `lock` and `damping` are squares: where cos(b)
    squared is below `lock` it counts as 0, and 1 / cos(b) in the gradient becomes cos(b) / (cos(b)**2 + damping).
    """
    size = _size(m11, m12, m13, m21, m22, m31, m32)
    scale = 1 / size
    nothing = 0.0 * (scale * m13 + scale * m21 + scale * m22 + scale * m23 + scale * m31 + scale * m32 + scale * m33)
    # The first row is (cos b cos c, -cos b sin c, sin b).
    m11, m12, m13 = scale * m11, scale * m12, scale * m13
    square = m11 * m11 + m12 * m12
    locked = square <= lock
    free = select(locked, 1.0, square)
    weight = constant(first / square_root(free))
    damp = constant(free / (free + damping))
    u, v = select(locked, 1.0, weight * _damped(m11, damp)), select(locked, 0.0, -weight * _damped(m12, damp))
    c = arc_tangent(v, u)
    # R Rz(-c) = Rx(a) Ry(b), whose second column is (0, cos a, sin a). Close to the lock c is off by what rounding left
    # of its entries, and a makes up for it. At the lock c is 0.
    y, x = scale * (v * m31 + u * m32), scale * (v * m21 + u * m22)
    unknown = y * y + x * x <= lock
    a = arc_tangent(select(unknown, 0.0, y), select(unknown, 1.0, x))
    cosine = select(locked, square_root(constant(square)), square_root(free))
    sine = select(locked, constant(m13), m13)
    unknown = square + m13 * m13 <= lock
    cosine, sine = select(unknown, tait, cosine), select(unknown, 1 - tait, sine)
    b = arc_tangent(tait * sine + (1 - tait) * cosine, tait * cosine + (1 - tait) * sine)
    # Adding 0 once more leaves no negative zeros.
    return fa * a + nothing + 0.0, fb * b + nothing + 0.0, fc * c + nothing + 0.0


@formula
def euler_of_matrix_derivative(
    m11, m12, m13, m21, m22, m23, m31, m32, m33, ga, gb, gc, fa, fb, fc, tait, first, lock, damping
):
    size = _size(m11, m12, m13, m21, m22, m31, m32)
    scale = 1 / size
    m11, m12, m13, m21, m22, m31, m32 = (
        scale * m11, scale * m12, scale * m13, scale * m21, scale * m22, scale * m31, scale * m32,
    )  # fmt: skip
    square = m11 * m11 + m12 * m12
    locked = square <= lock
    free = select(locked, 1.0, square)
    cosine = square_root(free)
    weight = first / cosine
    u, v = select(locked, 1.0, weight * m11), select(locked, 0.0, -weight * m12)
    y, x = v * m31 + u * m32, v * m21 + u * m22
    total = y * y + x * x
    unknown = total <= lock
    ga = select(unknown, 0.0, scale * fa * ga) / select(unknown, 1.0, total)
    gy, gx = ga * x, -ga * y
    # Gradient in c: of c itself, and through c of a.
    gc = scale * fc * gc + gy * (u * m31 - v * m32) + gx * (u * m21 - v * m22)
    gc = select(locked, 0.0, gc) / (free + damping)
    row = square + m13 * m13
    gb = select(locked, 0.0, scale * (2 * tait - 1) * fb * gb) / select(locked, 1.0, row)
    along = gb * m13 / cosine
    none = 0.0 * gb
    return (
        gc * m12 - along * m11, -gc * m11 - along * m12, gb * cosine,
        gx * v, gx * u, none, gy * v, gy * u, none,
    )  # fmt: skip


@formula
def _size(m11, m12, m13, m21, m22, m31, m32):
    """Largest magnitude of seven numbers, without gradient; 1 where they are too small to have a direction."""
    upper = larger(larger(absolute(m11), absolute(m12)), absolute(m13))
    lower = larger(larger(absolute(m21), absolute(m22)), larger(absolute(m31), absolute(m32)))
    size = constant(larger(upper, lower))
    return select(size <= SHORTEST, 1.0, size)


@formula
def _damped(value, factor):
    """`value` with its gradient multiplied by `factor`."""
    return constant(value) + factor * (value - constant(value))


@formula
def euler_of_quaternion(w, x, y, z, fa, fb, fc, tait, px, pyz, lock, damping):
    """Three angles of a quaternion of any length; 0 gives those of the identity.

    `px` and `pyz`, 1 or -1, multiply x, and y and z. `lock` and `damping` are as in `euler_of_matrix`.
    """
    size = largest4(w, x, y, z)
    w, x, y, z = live(w, size) / size, live(x, size) / size, live(y, size) / size, live(z, size) / size
    p, q, r, s, high, low = _pairs(w, x, y, z, tait, px, pyz)
    total = high + low
    # p + iq and r + is are, up to length, cos(b / 2) exp(i (a + c) / 2) and sin(b / 2) exp(i (a - c) / 2), where the
    # third axis is the first; the turn from one form to the other is what `_pairs` does. This c is the negative one.
    upper = high >= low
    product = high * low
    locked = 4 * product <= lock * total * total
    free = select(locked, 1.0, product)
    sine = select(locked, square_root(constant(product)), square_root(free))
    whole = constant(select(total == 0.0, 1.0, total))
    part = 4 * free / (whole * whole)
    damp, weight = constant(part / (part + damping)), constant(1 / square_root(free))
    # exp(i c), the quotient of the two; at the lock c is 0.
    u = select(locked, 1.0, weight * _damped(p * r + q * s, damp))
    v = select(locked, 0.0, weight * _damped(q * r - p * s, damp))
    c = arc_tangent(v, u)
    # exp(i a) is the square of the longer pair over, or times, exp(i c).
    g, h = select(upper, p, r), select(upper, q, s)
    square, twice = g * g - h * h, 2 * g * h
    v = select(upper, -v, v)
    none = total == 0.0
    a = arc_tangent(select(none, 0.0, twice * u + square * v), select(none, 1.0, square * u - twice * v))
    difference = select(locked, constant(high - low), high - low)
    difference, sine = select(none, 1 - tait, difference), select(none, tait, 2 * sine)
    b = arc_tangent((1 - tait) * sine - tait * difference, tait * sine + (1 - tait) * difference)
    # Adding 0 leaves no negative zeros.
    return fa * a + 0.0, fb * b + 0.0, -fc * c + 0.0


@formula
def euler_of_quaternion_derivative(w, x, y, z, ga, gb, gc, fa, fb, fc, tait, px, pyz, lock, damping):
    size = largest4(w, x, y, z)
    w, x, y, z = w / size, x / size, y / size, z / size
    p, q, r, s, high, low = _pairs(w, x, y, z, tait, px, pyz)
    total = high + low
    upper = high >= low
    locked = 4 * high * low <= lock * total * total
    none = total == 0.0
    whole = select(none, 1.0, total)
    part = select(locked, 1.0, 4 * high * low / (whole * whole))
    scale = select(none, 0.0, inverse_size(size))
    ga, gb, gc = scale * fa * ga, scale * fb * gb, -scale * fc * gc
    # Gradients in the angles of the two pairs, h+ and h-: c = h+ - h-, and a is 2 h+ - c or 2 h- + c.
    gc = select(locked, 0.0, gc - select(upper, ga, -ga)) * part / (part + damping)
    # Where a pair is too short to have an angle, nothing below depends on it.
    high_or_one, low_or_one = select(4 * high <= lock * total, 1.0, high), select(4 * low <= lock * total, 1.0, low)
    plus = (gc + select(upper, 2 * ga, 0.0)) / high_or_one
    minus = (select(upper, 0.0, 2 * ga) - gc) / low_or_one
    # b, or b + pi / 2, is twice the arc tangent of the quotient of their lengths.
    sine = square_root(select(locked, 1.0, high * low))
    gb = 2 * select(locked, 0.0, gb) * sine / whole
    along, across = gb / high_or_one, gb / low_or_one
    p, q, r, s = -plus * q - along * p, plus * p - along * q, across * r - minus * s, across * s + minus * r
    return p + tait * r, px * (q + tait * s), pyz * (r - tait * p), pyz * (s - tait * q)


@formula
def _pairs(w, x, y, z, tait, px, pyz):
    """The two complex numbers whose angles and lengths the three angles are read from, and their squared lengths."""
    x, y, z = px * x, pyz * y, pyz * z
    p, q, r, s = w - tait * y, x - tait * z, y + tait * w, z + tait * x
    return p, q, r, s, p * p + q * q, r * r + s * s
