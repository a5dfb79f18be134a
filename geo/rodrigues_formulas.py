"""Component formulas of `rodrigues.py` and their derivatives: modified Rodrigues parameters and Gibbs vectors.

Each formula is followed by its derivative, from the arguments and the gradient of the result to the gradients of the
arguments. Vectors may be of any length: they are divided by their largest component, i = 1 / that, where it exceeds 1.
Quaternions are real first, matrices row by row. What a formula may contain is said in `scalar.py`.
"""
# Formulas take numbers or tensors, many of them: types would say nothing, and mypy cannot count what `*r` holds.
# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs, disable-error-code="call-arg"

from __future__ import annotations

from .quaternion_formulas import canonical_sign, has_direction
from .scalar import constant, formula, select, square_root
from .so3_formulas import homogeneous, quaternion_of_matrix, quaternion_of_matrix_derivative
from .vectors import SHORTEST, body_gradient, cross, dot, largest3, largest4


@formula
def _unit_scale(x, y, z):
    """Divisor that brings a vector into the unit cube, at least 1, without gradient."""
    size = largest3(x, y, z)
    return select(size > 1.0, size, 1.0)


@formula
def quaternion_of_mrp(x, y, z):
    """(1 - |p|**2, 2 p) / (1 + |p|**2)."""
    i = 1 / _unit_scale(x, y, z)
    x, y, z = i * x, i * y, i * z
    square = dot(x, y, z, x, y, z)
    total = i * i + square
    factor = 2 * i / total
    return (i * i - square) / total, factor * x, factor * y, factor * z


@formula
def quaternion_of_mrp_derivative(x, y, z, gw, gx, gy, gz):
    i = 1 / _unit_scale(x, y, z)
    x, y, z = i * x, i * y, i * z
    factor = 2 * (i * i) / (i * i + dot(x, y, z, x, y, z))
    along = 2 * (i * gw + dot(x, y, z, gx, gy, gz)) / (i * i + dot(x, y, z, x, y, z))
    return factor * (gx - along * x), factor * (gy - along * y), factor * (gz - along * z)


@formula
def matrix_of_mrp(x, y, z):
    """Rotation of modified Rodrigues parameters."""
    i = 1 / _unit_scale(x, y, z)
    x, y, z = i * x, i * y, i * z
    square = dot(x, y, z, x, y, z)
    total = i * i + square
    return homogeneous(i * i - square, 2 * i * x, 2 * i * y, 2 * i * z, 2 / (total * total))


@formula
def matrix_of_mrp_derivative(x, y, z, g11, g12, g13, g21, g22, g23, g31, g32, g33):
    i = 1 / _unit_scale(x, y, z)
    x, y, z = i * x, i * y, i * z
    square = dot(x, y, z, x, y, z)
    total = i * i + square
    w = i * i - square
    factor = 2 / (total * total)
    r = homogeneous(w, 2 * i * x, 2 * i * y, 2 * i * z, factor)
    ax, ay, az = body_gradient(*r, g11, g12, g13, g21, g22, g23, g31, g32, g33)
    # 4 / (1 + |p|**2)**2 ((1 - |p|**2) a + 2 p x a + 2 p (p . a)).
    bx, by, bz = cross(x, y, z, ax, ay, az)
    along = 2 * dot(x, y, z, ax, ay, az)
    factor = 2 * factor * (i * i)
    return (
        factor * (w * ax + 2 * i * bx + along * x),
        factor * (w * ay + 2 * i * by + along * y),
        factor * (w * az + 2 * i * bz + along * z),
    )


@formula
def mrp_of_quaternion(w, x, y, z):
    """q_v / (|q| + w) of the quaternion whose first nonzero component is positive."""
    size = largest4(w, x, y, z)
    alive = has_direction(w, x, y, z)
    w, x, y, z = (
        select(alive, w, constant(w)) / size,
        select(alive, x, constant(x)) / size,
        select(alive, y, constant(y)) / size,
        select(alive, z, constant(z)) / size,
    )
    sign = canonical_sign(w, x, y, z)
    square = w * w + dot(x, y, z, x, y, z)
    factor = sign / (square_root(select(square == 0.0, 1.0, square)) + sign * w)
    return factor * x, factor * y, factor * z


@formula
def mrp_of_quaternion_derivative(w, x, y, z, gx, gy, gz):
    size = largest4(w, x, y, z)
    sign = canonical_sign(w, x, y, z)
    factor = sign * select(has_direction(w, x, y, z), 1.0, 0.0) / size
    w, x, y, z = sign * w / size, sign * x / size, sign * y / size, sign * z / size
    square = w * w + dot(x, y, z, x, y, z)
    length = square_root(select(square == 0.0, 1.0, square))
    factor = factor / (length + w)
    # The real part and, through the length, the vector part: along / |q| is what both have in common.
    along = dot(x, y, z, gx, gy, gz) / length
    slope = along / (length + w)
    return -factor * along, factor * (gx - slope * x), factor * (gy - slope * y), factor * (gz - slope * z)


@formula
def mrp_of_matrix(r11, r12, r13, r21, r22, r23, r31, r32, r33):
    """Modified Rodrigues parameters of a rotation."""
    w, x, y, z = quaternion_of_matrix(r11, r12, r13, r21, r22, r23, r31, r32, r33, 1.0)
    return mrp_of_quaternion(w, x, y, z)


@formula
def mrp_of_matrix_derivative(r11, r12, r13, r21, r22, r23, r31, r32, r33, gx, gy, gz):
    w, x, y, z = quaternion_of_matrix(r11, r12, r13, r21, r22, r23, r31, r32, r33, 1.0)
    g = mrp_of_quaternion_derivative(w, x, y, z, gx, gy, gz)
    return quaternion_of_matrix_derivative(r11, r12, r13, r21, r22, r23, r31, r32, r33, *g, 1.0)


@formula
def quaternion_of_gibbs(x, y, z):
    """(1, c) / sqrt(1 + |c|**2)."""
    i = 1 / _unit_scale(x, y, z)
    x, y, z = i * x, i * y, i * z
    length = square_root(i * i + dot(x, y, z, x, y, z))
    return i / length, x / length, y / length, z / length


@formula
def quaternion_of_gibbs_derivative(x, y, z, gw, gx, gy, gz):
    i = 1 / _unit_scale(x, y, z)
    x, y, z = i * x, i * y, i * z
    square = i * i + dot(x, y, z, x, y, z)
    factor = i / square_root(square)
    along = (i * gw + dot(x, y, z, gx, gy, gz)) / square
    return factor * (gx - along * x), factor * (gy - along * y), factor * (gz - along * z)


@formula
def matrix_of_gibbs(x, y, z):
    """Rotation of a Gibbs vector."""
    i = 1 / _unit_scale(x, y, z)
    x, y, z = i * x, i * y, i * z
    return homogeneous(i, x, y, z, 2 / (i * i + dot(x, y, z, x, y, z)))


@formula
def matrix_of_gibbs_derivative(x, y, z, g11, g12, g13, g21, g22, g23, g31, g32, g33):
    i = 1 / _unit_scale(x, y, z)
    x, y, z = i * x, i * y, i * z
    factor = 2 / (i * i + dot(x, y, z, x, y, z))
    r = homogeneous(i, x, y, z, factor)
    ax, ay, az = body_gradient(*r, g11, g12, g13, g21, g22, g23, g31, g32, g33)
    # 2 / (1 + |c|**2) (a + c x a).
    bx, by, bz = cross(x, y, z, ax, ay, az)
    factor = i * factor
    return factor * (i * ax + bx), factor * (i * ay + by), factor * (i * az + bz)


@formula
def gibbs_of_quaternion(w, x, y, z, limit):
    """q_v / w, no component beyond `limit`."""
    w, x, y, z, _, alive = _gibbs_terms(w, x, y, z, limit)
    w = select(alive, w, constant(w))
    return (
        select(alive, x, constant(x)) / w,
        select(alive, y, constant(y)) / w,
        select(alive, z, constant(z)) / w,
    )


@formula
def gibbs_of_quaternion_derivative(w, x, y, z, gx, gy, gz, limit):
    size = largest4(w, x, y, z)
    w, x, y, z, sign, alive = _gibbs_terms(w, x, y, z, limit)
    factor = sign * select(alive, 1.0, 0.0) / size / w
    return -factor * dot(x / w, y / w, z / w, gx, gy, gz), factor * gx, factor * gy, factor * gz


@formula
def _gibbs_terms(w, x, y, z, limit):
    """Quaternion with w > 0 and no component of q_v / w beyond `limit`, its sign, and whether it has a gradient."""
    size = largest4(w, x, y, z)
    sign = canonical_sign(w, x, y, z)
    w, x, y, z = sign * w / size, sign * x / size, sign * y / size, sign * z / size
    floor = largest3(x, y, z) / limit
    # The second derivative is of the size of the inverse of this, |q|**2 (w / |q|)**3.
    alive = (w > floor) & ((size * w) * (size * w) * w > SHORTEST * SHORTEST)
    # A NaN of any component shows in all.
    return select(w <= floor, floor, w) + 0 * (x + y + z), x, y, z, sign, alive


@formula
def gibbs_of_matrix(r11, r12, r13, r21, r22, r23, r31, r32, r33, limit):
    """Gibbs vector of a rotation."""
    w, x, y, z = quaternion_of_matrix(r11, r12, r13, r21, r22, r23, r31, r32, r33, 1.0)
    return gibbs_of_quaternion(w, x, y, z, limit)


@formula
def gibbs_of_matrix_derivative(r11, r12, r13, r21, r22, r23, r31, r32, r33, gx, gy, gz, limit):
    w, x, y, z = quaternion_of_matrix(r11, r12, r13, r21, r22, r23, r31, r32, r33, 1.0)
    g = gibbs_of_quaternion_derivative(w, x, y, z, gx, gy, gz, limit)
    return quaternion_of_matrix_derivative(r11, r12, r13, r21, r22, r23, r31, r32, r33, *g, 1.0)
