"""Component formulas of `so3.py` and their derivatives: quaternion, matrix, axis-angle and angle.

Each formula is followed by its derivative, from the arguments and the gradient of the result to the gradients of the
arguments. Quaternions are real first, matrices row by row. What a formula may contain is said in `scalar.py`.
"""
# Formulas take numbers or tensors, many of them: types would say nothing.
# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs

from __future__ import annotations

from .scalar import arc_tangent, constant, formula, larger, select, square_root
from .vectors import (
    LONGEST,
    body_gradient,
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
# A number whose inverse float32 can hold.
_SMALLEST = 1e-37


@formula
def matrix_of_quaternion(w, x, y, z):
    """Rotation of a quaternion of any length; 0 gives the identity."""
    size = largest4(w, x, y, z)
    w, x, y, z = live(w, size) / size, live(x, size) / size, live(y, size) / size, live(z, size) / size
    square = w * w + dot(x, y, z, x, y, z)
    return homogeneous(w, x, y, z, 2 / select(square == 0.0, 1.0, square))


@formula
def matrix_of_quaternion_derivative(w, x, y, z, g11, g12, g13, g21, g22, g23, g31, g32, g33):
    size = largest4(w, x, y, z)
    w, x, y, z = w / size, x / size, y / size, z / size
    square = w * w + dot(x, y, z, x, y, z)
    factor = 2 / select(square == 0.0, 1.0, square)
    r = homogeneous(w, x, y, z, factor)
    ax, ay, az = body_gradient(*r, g11, g12, g13, g21, g22, g23, g31, g32, g33)
    vx, vy, vz = cross(x, y, z, ax, ay, az)
    factor = factor * inverse_size(size)
    return (
        -factor * dot(x, y, z, ax, ay, az),
        factor * (w * ax + vx),
        factor * (w * ay + vy),
        factor * (w * az + vz),
    )


@formula
def homogeneous(w, x, y, z, s):
    """Rotation of a quaternion, s = 2 / |q|**2."""
    sw, sx, sy, sz = s * w, s * x, s * y, s * z
    return (
        1 - (sy * y + sz * z),
        sx * y - sw * z,
        sx * z + sw * y,
        sx * y + sw * z,
        1 - (sx * x + sz * z),
        sy * z - sw * x,
        sx * z - sw * y,
        sy * z + sw * x,
        1 - (sx * x + sy * y),
    )


@formula
def quaternion_of_matrix(r11, r12, r13, r21, r22, r23, r31, r32, r33, canonical):
    """Unit quaternion of a rotation; `canonical` 1 makes the first nonzero component positive, 0 leaves the sign."""
    # The four rows of 4 q q^T. Their diagonal entries add up to 4, so the row with the largest one is well
    # conditioned; normalising it, rather than dividing by its diagonal, also absorbs rounding of the matrix.
    w, x, y, z, _, _, _, _ = _largest_row(r11, r12, r13, r21, r22, r23, r31, r32, r33)
    size = largest4(w, x, y, z)
    w, x, y, z = w / size, x / size, y / size, z / size
    factor = _canonical_sign(w, x, y, z, canonical) / square_root(w * w + dot(x, y, z, x, y, z))
    return factor * w, factor * x, factor * y, factor * z


@formula
def quaternion_of_matrix_derivative(r11, r12, r13, r21, r22, r23, r31, r32, r33, gw, gx, gy, gz, canonical):
    w, x, y, z, is_w, is_x, is_y, is_z = _largest_row(r11, r12, r13, r21, r22, r23, r31, r32, r33)
    size = largest4(w, x, y, z)
    w, x, y, z = w / size, x / size, y / size, z / size
    length = square_root(w * w + dot(x, y, z, x, y, z))
    w, x, y, z = w / length, x / length, y / length, z / length
    factor = _canonical_sign(w, x, y, z, canonical) / (length * size)
    along = w * gw + dot(x, y, z, gx, gy, gz)
    dw, dx, dy, dz = (
        factor * (gw - along * w),
        factor * (gx - along * x),
        factor * (gy - along * y),
        factor * (gz - along * z),
    )
    # The entries of 4 q q^T that the row was taken from, back to the entries of the matrix they are sums of.
    ww, xx, yy, zz = is_w * dw, is_x * dx, is_y * dy, is_z * dz
    wx, wy, wz = is_w * dx + is_x * dw, is_w * dy + is_y * dw, is_w * dz + is_z * dw
    xy, xz, yz = is_x * dy + is_y * dx, is_x * dz + is_z * dx, is_y * dz + is_z * dy
    return (
        ww + xx - yy - zz,
        xy - wz,
        xz + wy,
        xy + wz,
        ww - xx + yy - zz,
        yz - wx,
        xz - wy,
        yz + wx,
        ww - xx - yy + zz,
    )


@formula
def _largest_row(r11, r12, r13, r21, r22, r23, r31, r32, r33):
    """The row of 4 q q^T with the largest diagonal entry, and which of the four it is as ones and zeros."""
    wx, wy, wz = r32 - r23, r13 - r31, r21 - r12
    xy, xz, yz = r21 + r12, r13 + r31, r32 + r23
    ww = 1 + r11 + r22 + r33
    xx = 1 + r11 - r22 - r33
    yy = 1 - r11 + r22 - r33
    zz = 1 - r11 - r22 + r33
    first, second = ww >= xx, yy >= zz
    high, low = select(first, ww, xx), select(second, yy, zz)
    upper = high >= low
    w = select(upper, select(first, ww, wx), select(second, wy, wz))
    x = select(upper, select(first, wx, xx), select(second, xy, xz))
    y = select(upper, select(first, wy, xy), select(second, yy, yz))
    z = select(upper, select(first, wz, xz), select(second, yz, zz))
    a, b, c = select(first, 1.0, 0.0), select(second, 1.0, 0.0), select(upper, 1.0, 0.0)
    return w, x, y, z, a * c, (1 - a) * c, b * (1 - c), (1 - b) * (1 - c)


@formula
def _canonical_sign(w, x, y, z, canonical):
    """-1 where the first nonzero component is negative, else 1."""
    leading = select(w != 0.0, w, select(x != 0.0, x, select(y != 0.0, y, z)))
    return select(canonical * leading < 0.0, -1.0, 1.0)


@formula
def matrix_of_axis_angle(x, y, z):
    """The exponential of so(3)."""
    x, y, z = _bounded(x, y, z)
    a, b, _ = exponential_coefficients(dot(x, y, z, x, y, z))
    return _exponential(x, y, z, a, b)


@formula
def matrix_of_axis_angle_derivative(x, y, z, g11, g12, g13, g21, g22, g23, g31, g32, g33):
    vx, vy, vz = _bounded(x, y, z)
    a, b, c = exponential_coefficients(dot(vx, vy, vz, vx, vy, vz))
    r = _exponential(vx, vy, vz, a, b)
    ax, ay, az = body_gradient(*r, g11, g12, g13, g21, g22, g23, g31, g32, g33)
    # The transposed right Jacobian: a + B v x a + C v x (v x a).
    bx, by, bz = cross(vx, vy, vz, ax, ay, az)
    cx, cy, cz = cross(vx, vy, vz, bx, by, bz)
    inside = select(largest3(x, y, z) < LONGEST, 1.0, 0.0)
    return inside * (ax + b * bx + c * cx), inside * (ay + b * by + c * cy), inside * (az + b * bz + c * cz)


@formula
def _exponential(x, y, z, a, b):
    bx, by, bz = b * x, b * y, b * z
    ax, ay, az = a * x, a * y, a * z
    return (
        1 - (by * y + bz * z),
        bx * y - az,
        bx * z + ay,
        bx * y + az,
        1 - (bx * x + bz * z),
        by * z - ax,
        bx * z - ay,
        by * z + ax,
        1 - (bx * x + by * y),
    )


@formula
def _bounded(x, y, z):
    """The vector, or 0 where it is too long for its angle to mean anything. NaN and infinity become NaN."""
    inside = largest3(x, y, z) < LONGEST
    return select(inside, x, 0.0 * x), select(inside, y, 0.0 * y), select(inside, z, 0.0 * z)


@formula
def quaternion_of_axis_angle(x, y, z):
    """Unit quaternion whose real part is not negative."""
    x, y, z = _bounded(x, y, z)
    square = dot(x, y, z, x, y, z) / 4
    a, b, _ = exponential_coefficients(square)
    w, s = 1 - square * b, a / 2
    sign = _canonical_sign(w, s * x, s * y, s * z, 1.0)
    return sign * w, sign * s * x, sign * s * y, sign * s * z


@formula
def quaternion_of_axis_angle_derivative(x, y, z, gw, gx, gy, gz):
    vx, vy, vz = _bounded(x, y, z)
    square = dot(vx, vy, vz, vx, vy, vz) / 4
    a, b, c = exponential_coefficients(square)
    w, s = 1 - square * b, a / 2
    inside = select(largest3(x, y, z) < LONGEST, 1.0, 0.0)
    sign = inside * _canonical_sign(w, s * vx, s * vy, s * vz, 1.0)
    # The derivative of sin(u) / u with respect to u**2 is half of C - B.
    along = (c - b) / 8 * dot(vx, vy, vz, gx, gy, gz) - s / 2 * gw
    return sign * (s * gx + along * vx), sign * (s * gy + along * vy), sign * (s * gz + along * vz)


@formula
def axis_angle_of_quaternion(w, x, y, z, shortest):
    """Axis times angle of a quaternion of any length; `shortest` 0 keeps angles beyond pi."""
    size = largest4(w, x, y, z)
    w, x, y, z = live(w, size) / size, live(x, size) / size, live(y, size) / size, live(z, size) / size
    sign = _canonical_sign(w, x, y, z, shortest)
    square = dot(x, y, z, x, y, z)
    turn = _is_whole_turn(sign * w, square)
    w, square = select(turn, constant(w), w), select(turn, constant(square), square)
    x, y, z = select(turn, constant(x), x), select(turn, constant(y), y), select(turn, constant(z), z)
    factor, _ = _logarithm_factors(sign * w, square)
    factor = sign * factor
    return factor * x, factor * y, factor * z


@formula
def axis_angle_of_quaternion_derivative(w, x, y, z, gx, gy, gz, shortest):
    size = largest4(w, x, y, z)
    scale = inverse_size(size)
    w, x, y, z = w / size, x / size, y / size, z / size
    sign = _canonical_sign(w, x, y, z, shortest)
    square = dot(x, y, z, x, y, z)
    turn = _is_whole_turn(sign * w, square)
    scale = select(turn, 0.0, scale)
    square = select(turn, 1.0, square)
    total = w * w + square
    factor, slope = _logarithm_factors(sign * w, square)
    along = dot(x, y, z, gx, gy, gz)
    return (
        # The real part enters as sign * w, the vector as sign * v, so one of the signs drops out here.
        -2 * scale * along / total,
        scale * sign * (factor * gx + slope * along * x),
        scale * sign * (factor * gy + slope * along * y),
        scale * sign * (factor * gz + slope * along * z),
    )


@formula
def _is_whole_turn(w, square):
    """Whether a quaternion is -1 up to 1e-8: there its axis and the gradient are lost, as the angle is 2 pi."""
    return (w <= 0.0) & (square <= 1e-16)


@formula
def _logarithm_factors(w, square):
    """f and h of v = f q_v with df = h q_v . dq_v, where f = 2 atan2(|q_v|, w) / |q_v| and square = |q_v|**2."""
    # Near the identity f = 2 / w (1 - r / 3 + r**2 / 5 - ...) with r = (|q_v| / w)**2, free of 1 / |q_v|.
    small = (square < _ATAN_SWITCH * w * w) & (w > 0.0)
    near = select(small, w, 1.0)
    r = select(small, square, 0.0) / (near * near)
    f = 1 / 19 - r * (1 / 21 - r * (1 / 23 - r * (1 / 25 - r / 27)))
    f = 1 / 9 - r * (1 / 11 - r * (1 / 13 - r * (1 / 15 - r * (1 / 17 - r * f))))
    f = 2 / near * (1 - r * (1 / 3 - r * (1 / 5 - r * (1 / 7 - r * f))))
    h = 18 / 19 - r * (20 / 21 - r * (22 / 23 - r * (24 / 25 - r * 26 / 27)))
    h = 8 / 9 - r * (10 / 11 - r * (12 / 13 - r * (14 / 15 - r * (16 / 17 - r * h))))
    h = -2 / (near * near * near) * (2 / 3 - r * (4 / 5 - r * (6 / 7 - r * h)))
    # Without a vector part and with w <= 0 there is no axis to speak of: f = 0.
    none = square == 0.0
    far = select(small | none, 1.0, square)
    length = square_root(far)
    angle = 2 * arc_tangent(length, select(small, 1.0, w)) * select(none, 0.0, 1.0)
    g = angle / length
    k = (2 * w / (w * w + far) * select(none, 0.0, 1.0) - g) / far
    return select(small, f, g), select(small, h, k)


@formula
def axis_angle_of_matrix(r11, r12, r13, r21, r22, r23, r31, r32, r33):
    """The logarithm of SO(3)."""
    w, x, y, z = quaternion_of_matrix(r11, r12, r13, r21, r22, r23, r31, r32, r33, 1.0)
    factor, _ = _logarithm_factors(w, dot(x, y, z, x, y, z))
    return factor * x, factor * y, factor * z


@formula
def axis_angle_of_matrix_derivative(r11, r12, r13, r21, r22, r23, r31, r32, r33, gx, gy, gz):
    w, x, y, z = quaternion_of_matrix(r11, r12, r13, r21, r22, r23, r31, r32, r33, 1.0)
    square = dot(x, y, z, x, y, z)
    factor, slope = _logarithm_factors(w, square)
    along = dot(x, y, z, gx, gy, gz)
    slope = slope * along
    return quaternion_of_matrix_derivative(
        r11, r12, r13, r21, r22, r23, r31, r32, r33,
        -2 * along / (w * w + square), factor * gx + slope * x, factor * gy + slope * y, factor * gz + slope * z, 1.0,
    )  # fmt: skip


@formula
def distance(a11, a12, a13, a21, a22, a23, a31, a32, a33, b11, b12, b13, b21, b22, b23, b31, b32, b33):
    """Angle between two rotations."""
    x, y, z = _relative_axis(a11, a12, a13, a21, a22, a23, a31, a32, a33, b11, b12, b13, b21, b22, b23, b31, b32, b33)
    trace = dot(a11, a12, a13, b11, b12, b13) + dot(a21, a22, a23, b21, b22, b23) + dot(a31, a32, a33, b31, b32, b33)
    return (_angle(x, y, z, trace - 1),)


@formula
def distance_derivative(a11, a12, a13, a21, a22, a23, a31, a32, a33, b11, b12, b13, b21, b22, b23, b31, b32, b33, g):
    x, y, z = _relative_axis(a11, a12, a13, a21, a22, a23, a31, a32, a33, b11, b12, b13, b21, b22, b23, b31, b32, b33)
    trace = dot(a11, a12, a13, b11, b12, b13) + dot(a21, a22, a23, b21, b22, b23) + dot(a31, a32, a33, b31, b32, b33)
    x, y, z, d = _angle_derivative(x, y, z, trace - 1, g)
    p1, p2, p3 = cross(b11, b12, b13, x, y, z)
    p4, p5, p6 = cross(b21, b22, b23, x, y, z)
    p7, p8, p9 = cross(b31, b32, b33, x, y, z)
    q1, q2, q3 = cross(x, y, z, a11, a12, a13)
    q4, q5, q6 = cross(x, y, z, a21, a22, a23)
    q7, q8, q9 = cross(x, y, z, a31, a32, a33)
    return (
        p1 + d * b11, p2 + d * b12, p3 + d * b13, p4 + d * b21, p5 + d * b22, p6 + d * b23,
        p7 + d * b31, p8 + d * b32, p9 + d * b33,
        q1 + d * a11, q2 + d * a12, q3 + d * a13, q4 + d * a21, q5 + d * a22, q6 + d * a23,
        q7 + d * a31, q8 + d * a32, q9 + d * a33,
    )  # fmt: skip


@formula
def _relative_axis(a11, a12, a13, a21, a22, a23, a31, a32, a33, b11, b12, b13, b21, b22, b23, b31, b32, b33):
    """Minus the axial vector of A^T B: the sum over rows of a_k x b_k."""
    # As A^T A is symmetric, b may be replaced by b - a, which is exact for nearby rotations: no cancellation, and
    # exactly 0 for equal ones.
    x1, y1, z1 = cross(a11, a12, a13, b11 - a11, b12 - a12, b13 - a13)
    x2, y2, z2 = cross(a21, a22, a23, b21 - a21, b22 - a22, b23 - a23)
    x3, y3, z3 = cross(a31, a32, a33, b31 - a31, b32 - a32, b33 - a33)
    return x1 + x2 + x3, y1 + y2 + y3, z1 + z2 + z3


@formula
def angle(r11, r12, r13, r21, r22, r23, r31, r32, r33):
    """Angle of a rotation."""
    return (_angle(r32 - r23, r13 - r31, r21 - r12, r11 + r22 + r33 - 1),)


@formula
def angle_derivative(r11, r12, r13, r21, r22, r23, r31, r32, r33, g):
    x, y, z, d = _angle_derivative(r32 - r23, r13 - r31, r21 - r12, r11 + r22 + r33 - 1, g)
    return d, -z, y, z, d, -x, -y, x, d


@formula
def _angle(x, y, z, cosine):
    """atan2(2 sin, 2 cos) from the axial vector, of length 2 sin, and trace - 1, which is 2 cos."""
    sine, _, _ = _length(x, y, z)
    # atan2(0, 0) has no gradient; no rotation gets there.
    nothing = (sine == 0.0) & (cosine == 0.0)
    return arc_tangent(sine, select(nothing, 1.0, cosine))


@formula
def _angle_derivative(x, y, z, cosine, g):
    """Gradient of `_angle` in the axial vector and in the cosine; 0 where the vector is 0, at the kinks."""
    sine, inverse, positive = _length(x, y, z)
    total = sine * sine + cosine * cosine
    scale = select(positive, g, 0.0) / select(total == 0.0, 1.0, total)
    along = scale * cosine * inverse
    return along * x, along * y, along * z, -scale * sine


@formula
def _length(x, y, z):
    """Length of a vector, its inverse, and whether it is more than 0; without gradient where it is not."""
    # One division in place of three, by a size whose inverse is finite.
    size = larger(largest3(x, y, z), _SMALLEST)
    scale = 1 / size
    x, y, z = scale * x, scale * y, scale * z
    square = dot(x, y, z, x, y, z)
    positive = square > 0.0
    length = square_root(select(positive, square, 1.0))
    return select(positive, size * length, 0.0 * square), scale / length, positive
