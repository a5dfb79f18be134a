"""Component formulas of `interpolation.py` and their derivatives: the geodesic on quaternions and on matrices.

Each formula is followed by its derivative, from the arguments and the gradient of the result to the gradients of the
arguments. Quaternions are real first, matrices row by row. What a formula may contain is said in `scalar.py`.
"""
# Formulas take numbers or tensors, many of them: types would say nothing.
# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs

from __future__ import annotations

from .quaternion_formulas import raw_product
from .scalar import constant, formula, select, square_root
from .so3_formulas import (
    axis_angle_of_matrix,
    axis_angle_of_matrix_derivative,
    axis_angle_of_quaternion,
    axis_angle_of_quaternion_derivative,
    matrix_of_axis_angle,
    matrix_of_axis_angle_derivative,
)
from .vectors import (
    LONGEST,
    dot,
    exponential_coefficients,
    inverse_size,
    largest3,
    largest4,
    live,
)

# Quaternions within 1e-6 radian (squared) of being opposite have no gradient of the way between them: it grows like
# 1 / distance, the intermediate results of its derivative like 1 / distance**5, which must stay in range of float32.
_OPPOSITE = 1e-12


@formula
def slerp(w0, x0, y0, z0, w1, x1, y1, z1, t, shortest):
    """q0 (q0^-1 q1)^t of the unit quaternions along both arguments; `shortest` 1 may use -q1 in place of q1."""
    w0, x0, y0, z0, _ = _unit(w0, x0, y0, z0)
    w1, x1, y1, z1, _ = _unit(w1, x1, y1, z1)
    w, x, y, z, _, lost = _relative(w0, x0, y0, z0, w1, x1, y1, z1, shortest)
    w, x, y, z = (
        select(lost, constant(w), w), select(lost, constant(x), x),
        select(lost, constant(y), y), select(lost, constant(z), z),
    )  # fmt: skip
    vx, vy, vz = axis_angle_of_quaternion(w, x, y, z, 0.0)
    w, x, y, z, _, _, _, _, _ = _turn(vx, vy, vz, t)
    return raw_product(w0, x0, y0, z0, w, x, y, z)


@formula
def slerp_derivative(w0, x0, y0, z0, w1, x1, y1, z1, t, gw, gx, gy, gz, shortest):
    w0, x0, y0, z0, inverse0 = _unit(w0, x0, y0, z0)
    w1, x1, y1, z1, inverse1 = _unit(w1, x1, y1, z1)
    rw, rx, ry, rz, sign, lost = _relative(w0, x0, y0, z0, w1, x1, y1, z1, shortest)
    vx, vy, vz = axis_angle_of_quaternion(
        select(lost, constant(rw), rw), select(lost, constant(rx), rx),
        select(lost, constant(ry), ry), select(lost, constant(rz), rz), 0.0,
    )  # fmt: skip
    w, x, y, z, hx, hy, hz, a, bend = _turn(vx, vy, vz, t)
    # Through the last product, whose factors are q0 and the turn.
    ew, ex, ey, ez = raw_product(w0, -x0, -y0, -z0, gw, gx, gy, gz)
    aw, ax, ay, az = raw_product(gw, gx, gy, gz, w, -x, -y, -z)
    along = bend * dot(hx, hy, hz, ex, ey, ez) - a * ew
    ex, ey, ez = (a * ex + along * hx) / 2, (a * ey + along * hy) / 2, (a * ez + along * hz) / 2
    # Through the logarithm of the first product.
    rw, rx, ry, rz = select(lost, 1.0, rw), select(lost, 0.0, rx), select(lost, 0.0, ry), select(lost, 0.0, rz)
    rw, rx, ry, rz = axis_angle_of_quaternion_derivative(rw, rx, ry, rz, t * ex, t * ey, t * ez, 0.0)
    sign = select(lost, 0.0, sign)
    rw, rx, ry, rz = sign * rw, sign * rx, sign * ry, sign * rz
    bw, bx, by, bz = raw_product(w0, x0, y0, z0, rw, rx, ry, rz)
    cw, cx, cy, cz = raw_product(w1, x1, y1, z1, rw, -rx, -ry, -rz)
    aw, ax, ay, az = _unit_derivative(w0, x0, y0, z0, inverse0, aw + cw, ax + cx, ay + cy, az + cz)
    bw, bx, by, bz = _unit_derivative(w1, x1, y1, z1, inverse1, bw, bx, by, bz)
    return aw, ax, ay, az, bw, bx, by, bz, dot(vx, vy, vz, ex, ey, ez)


@formula
def nlerp(w0, x0, y0, z0, w1, x1, y1, z1, t, shortest):
    """(1 - t) q0 + t q1 along the unit quaternions of both, scaled to length 1; q0 where that is 0."""
    w0, x0, y0, z0, _ = _unit(w0, x0, y0, z0)
    w1, x1, y1, z1, _ = _unit(w1, x1, y1, z1)
    u = t * select(shortest * (w0 * w1 + dot(x0, y0, z0, x1, y1, z1)) < 0.0, -1.0, 1.0)
    w, x, y, z = (1 - t) * w0 + u * w1, (1 - t) * x0 + u * x1, (1 - t) * y0 + u * y1, (1 - t) * z0 + u * z1
    none = (w * w + dot(x, y, z, x, y, z)) == 0.0
    w, x, y, z, _ = _unit(w, x, y, z)
    return select(none, w0, w), select(none, x0, x), select(none, y0, y), select(none, z0, z)


@formula
def nlerp_derivative(w0, x0, y0, z0, w1, x1, y1, z1, t, gw, gx, gy, gz, shortest):
    w0, x0, y0, z0, inverse0 = _unit(w0, x0, y0, z0)
    w1, x1, y1, z1, inverse1 = _unit(w1, x1, y1, z1)
    sign = select(shortest * (w0 * w1 + dot(x0, y0, z0, x1, y1, z1)) < 0.0, -1.0, 1.0)
    u = t * sign
    w, x, y, z = (1 - t) * w0 + u * w1, (1 - t) * x0 + u * x1, (1 - t) * y0 + u * y1, (1 - t) * z0 + u * z1
    w, x, y, z, inverse = _unit(w, x, y, z)
    gw, gx, gy, gz = _unit_derivative(w, x, y, z, inverse, gw, gx, gy, gz)
    pace = sign * (w1 * gw + dot(x1, y1, z1, gx, gy, gz)) - (w0 * gw + dot(x0, y0, z0, gx, gy, gz))
    s = 1 - t
    aw, ax, ay, az = _unit_derivative(w0, x0, y0, z0, inverse0, s * gw, s * gx, s * gy, s * gz)
    bw, bx, by, bz = _unit_derivative(w1, x1, y1, z1, inverse1, u * gw, u * gx, u * gy, u * gz)
    return aw, ax, ay, az, bw, bx, by, bz, pace


@formula
def matrix_geodesic(
    a11, a12, a13, a21, a22, a23, a31, a32, a33, b11, b12, b13, b21, b22, b23, b31, b32, b33, t
):  # fmt: skip
    """A exp(t log(A^T B))."""
    a = a11, a12, a13, a21, a22, a23, a31, a32, a33
    columns = a11, a21, a31, a12, a22, a32, a13, a23, a33
    x, y, z = axis_angle_of_matrix(*matrix_product(*columns, b11, b12, b13, b21, b22, b23, b31, b32, b33))
    return matrix_product(*a, *matrix_of_axis_angle(t * x, t * y, t * z))


@formula
def matrix_geodesic_derivative(
    a11, a12, a13, a21, a22, a23, a31, a32, a33, b11, b12, b13, b21, b22, b23, b31, b32, b33, t,
    g11, g12, g13, g21, g22, g23, g31, g32, g33,
):  # fmt: skip
    a = a11, a12, a13, a21, a22, a23, a31, a32, a33
    b = b11, b12, b13, b21, b22, b23, b31, b32, b33
    g = g11, g12, g13, g21, g22, g23, g31, g32, g33
    columns = a11, a21, a31, a12, a22, a32, a13, a23, a33
    r11, r12, r13, r21, r22, r23, r31, r32, r33 = matrix_product(*columns, *b)
    x, y, z = axis_angle_of_matrix(r11, r12, r13, r21, r22, r23, r31, r32, r33)
    e11, e12, e13, e21, e22, e23, e31, e32, e33 = matrix_of_axis_angle(t * x, t * y, t * z)
    # Through the last product, A times the turn.
    p11, p12, p13, p21, p22, p23, p31, p32, p33 = matrix_product(*g, e11, e21, e31, e12, e22, e32, e13, e23, e33)
    vx, vy, vz = matrix_of_axis_angle_derivative(t * x, t * y, t * z, *matrix_product(*columns, *g))
    # Through the logarithm of the first product, A^T B.
    r11, r12, r13, r21, r22, r23, r31, r32, r33 = axis_angle_of_matrix_derivative(
        r11, r12, r13, r21, r22, r23, r31, r32, r33, t * vx, t * vy, t * vz
    )
    q11, q12, q13, q21, q22, q23, q31, q32, q33 = matrix_product(*b, r11, r21, r31, r12, r22, r32, r13, r23, r33)
    s11, s12, s13, s21, s22, s23, s31, s32, s33 = matrix_product(*a, r11, r12, r13, r21, r22, r23, r31, r32, r33)
    return (
        p11 + q11, p12 + q12, p13 + q13, p21 + q21, p22 + q22, p23 + q23, p31 + q31, p32 + q32, p33 + q33,
        s11, s12, s13, s21, s22, s23, s31, s32, s33,
        dot(x, y, z, vx, vy, vz),
    )  # fmt: skip


@formula
def matrix_product(a11, a12, a13, a21, a22, a23, a31, a32, a33, b11, b12, b13, b21, b22, b23, b31, b32, b33):
    """Product of two matrices."""
    return (
        dot(a11, a12, a13, b11, b21, b31),
        dot(a11, a12, a13, b12, b22, b32),
        dot(a11, a12, a13, b13, b23, b33),
        dot(a21, a22, a23, b11, b21, b31),
        dot(a21, a22, a23, b12, b22, b32),
        dot(a21, a22, a23, b13, b23, b33),
        dot(a31, a32, a33, b11, b21, b31),
        dot(a31, a32, a33, b12, b22, b32),
        dot(a31, a32, a33, b13, b23, b33),
    )


@formula
def _unit(w, x, y, z):
    """The quaternion scaled to length 1, and the inverse of its length; 0 becomes 1 and its inverse length 0."""
    size = largest4(w, x, y, z)
    w, x, y, z = live(w, size) / size, live(x, size) / size, live(y, size) / size, live(z, size) / size
    square = w * w + dot(x, y, z, x, y, z)
    none = square == 0.0
    length = square_root(select(none, 1.0, square))
    inverse = select(none, 0.0, inverse_size(size)) / length
    return select(none, 1.0, w / length), x / length, y / length, z / length, inverse


@formula
def _unit_derivative(w, x, y, z, inverse, gw, gx, gy, gz):
    """Gradient through `_unit`, from its results."""
    along = w * gw + dot(x, y, z, gx, gy, gz)
    return (
        inverse * (gw - along * w),
        inverse * (gx - along * x),
        inverse * (gy - along * y),
        inverse * (gz - along * z),
    )


@formula
def _relative(w0, x0, y0, z0, w1, x1, y1, z1, shortest):
    """q0^-1 q1 of unit quaternions, or its negative; which of them; and whether it is too near to -1 for a gradient."""
    w = w0 * w1 + dot(x0, y0, z0, x1, y1, z1)
    # As q0^-1 q0 has no vector part, q1 may be replaced by q1 - q0 or q1 + q0, which is exact where these are close.
    side = select(w < 0.0, -1.0, 1.0)
    _, x, y, z = raw_product(w0, -x0, -y0, -z0, w1 - side * w0, x1 - side * x0, y1 - side * y0, z1 - side * z0)
    sign = select(shortest * w < 0.0, -1.0, 1.0)
    lost = (sign * w < 0.0) & (dot(x, y, z, x, y, z) < _OPPOSITE)
    return sign * w, sign * x, sign * y, sign * z, sign, lost


@formula
def _turn(vx, vy, vz, t):
    """Quaternion of the turn t v, then h = t v / 2, sin|h| / |h|, and what its derivative has along h."""
    hx, hy, hz = t * vx / 2, t * vy / 2, t * vz / 2
    inside = largest3(hx, hy, hz) < LONGEST
    hx, hy, hz = select(inside, hx, 0.0 * hx), select(inside, hy, 0.0 * hy), select(inside, hz, 0.0 * hz)
    square = dot(hx, hy, hz, hx, hy, hz)
    a, b, c = exponential_coefficients(square)
    return 1 - square * b, a * hx, a * hy, a * hz, hx, hy, hz, a, c - b
