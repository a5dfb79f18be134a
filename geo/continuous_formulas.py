"""Component formulas of the 6D, 5D and two-vector maps to rotations, and their derivatives.

Every map returns nine entries, row by row. `eps` is the rounding unit of the arguments: below a few of it, relative to
their lengths, two vectors count as parallel. What a formula may contain is said in `scalar.py`.
"""
# Formulas take numbers or tensors, many of them: types would say nothing.
# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs

from __future__ import annotations

from .scalar import absolute, constant, formula, select, square_root
from .vectors import body_gradient, cross, dot, inverse_size, largest3, live

# Components 1, 2 and 3 to 5 of the 5D vector are these factors times smaller, which makes each span [-1, 1].
FIVE_SCALE = (1 + 2**0.5, 1 + 2**0.5, 2**0.5)
# A folded vector of the 5D map is not shorter than this and not longer than its inverse; those of rotations are
# between 0.41 and 2.41 long.
FIVE_SHORTEST = 1e-12
# Parallel up to so many units of rounding.
_PARALLEL = 8.0


@formula
def gram_schmidt(a1, a2, a3, c1, c2, c3, eps):
    """Rotation whose first column is along `a` and whose second lies in the half plane of `c`."""
    x, y, _ = _frame(a1, a2, a3, c1, c2, c3, eps)
    return _columns(*x, *y, *cross(*x, *y))


@formula
def gram_schmidt_derivative(a1, a2, a3, c1, c2, c3, g11, g12, g13, g21, g22, g23, g31, g32, g33, eps):
    x, y, (shape, inverse, ok) = _frame(a1, a2, a3, c1, c2, c3, eps)
    z = cross(*x, *y)
    ax, ay, az = body_gradient(*_columns(*x, *y, *z), g11, g12, g13, g21, g22, g23, g31, g32, g33)
    size = largest3(a1, a2, a3)
    a1, a2, a3 = a1 / size, a2 / size, a3 / size
    square = dot(a1, a2, a3, a1, a2, a3)
    first = inverse_size(size) * select(square == 0.0, 0.0, 1.0) / square_root(select(square == 0.0, 1.0, square))
    # The turn about x moves y; a1 also turns about it, by the slope of the second vector.
    along_y, along_z = first * az, -first * (ay + ax * shape)
    second = ax * inverse * ok * inverse_size(largest3(c1, c2, c3))
    return (
        along_y * y[0] + along_z * z[0],
        along_y * y[1] + along_z * z[1],
        along_y * y[2] + along_z * z[2],
        second * z[0],
        second * z[1],
        second * z[2],
    )


@formula
def _frame(a1, a2, a3, c1, c2, c3, eps):
    """First two axes; then x . c / n, 1 / n and whether `c` counted, n the length of the part of `c` across x."""
    size = largest3(a1, a2, a3)
    a1, a2, a3 = live(a1, size) / size, live(a2, size) / size, live(a3, size) / size
    square = dot(a1, a2, a3, a1, a2, a3)
    none = square == 0.0
    length = square_root(select(none, 1.0, square))
    x1, x2, x3 = select(none, 1.0, a1 / length), a2 / length, a3 / length
    size = largest3(c1, c2, c3)
    c1, c2, c3 = live(c1, size) / size, live(c2, size) / size, live(c3, size) / size
    r1, r2, r3 = _across(c1, c2, c3, x1, x2, x3)
    # c is not longer than sqrt(3) after scaling, and 0 or not shorter than 1.
    across = dot(r1, r2, r3, r1, r2, r3)
    parallel = across <= (_PARALLEL * eps) * (_PARALLEL * eps)
    e1, e2, e3 = _least_aligned(x1, x2, x3)
    c1, c2, c3 = select(parallel, e1, c1), select(parallel, e2, c2), select(parallel, e3, c3)
    r1, r2, r3 = _across(c1, c2, c3, x1, x2, x3)
    along = dot(c1, c2, c3, x1, x2, x3)
    length = square_root(dot(r1, r2, r3, r1, r2, r3))
    # Twice is enough: one pass leaves the rounding of the part along x, divided by a length that may be small.
    y1, y2, y3 = _across(r1 / length, r2 / length, r3 / length, x1, x2, x3)
    again = square_root(dot(y1, y2, y3, y1, y2, y3))
    y = (y1 / again, y2 / again, y3 / again)
    return (x1, x2, x3), y, (along / length, 1 / length, select(parallel, 0.0, 1.0))


@formula
def _across(c1, c2, c3, x1, x2, x3):
    """The part of c orthogonal to the unit vector x."""
    along = dot(c1, c2, c3, x1, x2, x3)
    return c1 - along * x1, c2 - along * x2, c3 - along * x3


@formula
def _least_aligned(x1, x2, x3):
    """Coordinate axis farthest from the direction of x; the first one of equals."""
    x1, x2, x3 = absolute(constant(x1)), absolute(constant(x2)), absolute(constant(x3))
    first = select((x1 <= x2) & (x1 <= x3), 1.0, 0.0)
    second = (1 - first) * select(x2 <= x3, 1.0, 0.0)
    return first, second, 1 - first - second


@formula
def _columns(x1, x2, x3, y1, y2, y3, z1, z2, z3):
    """Nine entries of the matrix with columns x, y, z."""
    return x1, y1, z1, x2, y2, z2, x3, y3, z3


@formula
def two_vector(a1, a2, a3, c1, c2, c3, eps):
    """Rotation whose first two columns are together nearest to the directions of `a` and `c`."""
    u, v, parallel = _directions(a1, a2, a3, c1, c2, c3, eps)
    u = (
        select(parallel, constant(u[0]), u[0]), select(parallel, constant(u[1]), u[1]),
        select(parallel, constant(u[2]), u[2]),
    )  # fmt: skip
    v = (
        select(parallel, constant(v[0]), v[0]), select(parallel, constant(v[1]), v[1]),
        select(parallel, constant(v[2]), v[2]),
    )  # fmt: skip
    x, y = _bisected(*u, *v, parallel)
    return _columns(*x, *y, *cross(*x, *y))


@formula
def two_vector_derivative(a1, a2, a3, c1, c2, c3, g11, g12, g13, g21, g22, g23, g31, g32, g33, eps):
    u, v, parallel = _directions(a1, a2, a3, c1, c2, c3, eps)
    x, y = _bisected(*u, *v, parallel)
    z = cross(*x, *y)
    ax, ay, az = body_gradient(*_columns(*x, *y, *z), g11, g12, g13, g21, g22, g23, g31, g32, g33)
    # Both vectors lie in the plane of x and y, at the same angle from their column: c its cosine, s its sine.
    c = (dot(*u, *x) + dot(*v, *y)) / 2
    s = (dot(*u, *y) + dot(*v, *x)) / 2
    # c**2 - s**2 is the sine of the angle between them; this form does not cancel.
    n1, n2, n3 = cross(*u, *v)
    sine = square_root(select(parallel, 1.0, dot(n1, n2, n3, n1, n2, n3)))
    counts = select(parallel, 0.0, 1.0)
    first, second = counts * _inverse_length(a1, a2, a3), counts * _inverse_length(c1, c2, c3)
    px, py, pz = -s * az / 2, c * az / 2, -(s * ax + c * ay) / sine
    qx, qy, qz = -c * az / 2, s * az / 2, (c * ax + s * ay) / sine
    return (
        first * (px * x[0] + py * y[0] + pz * z[0]),
        first * (px * x[1] + py * y[1] + pz * z[1]),
        first * (px * x[2] + py * y[2] + pz * z[2]),
        second * (qx * x[0] + qy * y[0] + qz * z[0]),
        second * (qx * x[1] + qy * y[1] + qz * z[1]),
        second * (qx * x[2] + qy * y[2] + qz * z[2]),
    )


@formula
def _directions(a1, a2, a3, c1, c2, c3, eps):
    """Unit vectors along a and c, (1, 0, 0) and (0, 1, 0) where they are 0, and whether they are parallel."""
    size = largest3(a1, a2, a3)
    a1, a2, a3 = live(a1, size) / size, live(a2, size) / size, live(a3, size) / size
    square = dot(a1, a2, a3, a1, a2, a3)
    none = square == 0.0
    length = square_root(select(none, 1.0, square))
    u = (select(none, 1.0, a1 / length), a2 / length, a3 / length)
    size = largest3(c1, c2, c3)
    c1, c2, c3 = live(c1, size) / size, live(c2, size) / size, live(c3, size) / size
    square = dot(c1, c2, c3, c1, c2, c3)
    none = square == 0.0
    length = square_root(select(none, 1.0, square))
    v = (c1 / length, select(none, 1.0, c2 / length), c3 / length)
    n1, n2, n3 = cross(*u, *v)
    return u, v, dot(n1, n2, n3, n1, n2, n3) <= (_PARALLEL * eps) * (_PARALLEL * eps)


@formula
def _bisected(u1, u2, u3, v1, v2, v3, parallel):
    """The orthonormal pair whose diagonals are the sum and the difference of two unit vectors."""
    p1, p2, p3, m1, m2, m3 = u1 + v1, u2 + v2, u3 + v3, u1 - v1, u2 - v2, u3 - v3
    acute = dot(u1, u2, u3, v1, v2, v3) >= 0.0
    # The longer one keeps its direction. The other is orthogonal to it by construction, up to rounding that matters
    # when it is short; if it is nothing but rounding, any direction across will do.
    b1, b2, b3 = select(acute, p1, m1), select(acute, p2, m2), select(acute, p3, m3)
    s1, s2, s3 = select(acute, m1, p1), select(acute, m2, p2), select(acute, m3, p3)
    length = square_root(dot(b1, b2, b3, b1, b2, b3))
    b1, b2, b3 = b1 / length, b2 / length, b3 / length
    e1, e2, e3 = _least_aligned(b1, b2, b3)
    s1, s2, s3 = select(parallel, e1, s1), select(parallel, e2, s2), select(parallel, e3, s3)
    length = square_root(dot(s1, s2, s3, s1, s2, s3))
    s1, s2, s3 = _across(s1 / length, s2 / length, s3 / length, b1, b2, b3)
    length = square_root(2 * dot(s1, s2, s3, s1, s2, s3))
    s1, s2, s3 = s1 / length, s2 / length, s3 / length
    half = 0.5**0.5
    b1, b2, b3 = half * b1, half * b2, half * b3
    # x = (plus + minus) / sqrt(2), y = (plus - minus) / sqrt(2).
    sign = select(acute, 1.0, -1.0)
    return (b1 + s1, b2 + s2, b3 + s3), (sign * (b1 - s1), sign * (b2 - s2), sign * (b3 - s3))


@formula
def _inverse_length(a1, a2, a3):
    """1 / length, 0 for a vector too short to have a gradient."""
    size = largest3(a1, a2, a3)
    a1, a2, a3 = a1 / size, a2 / size, a3 / size
    square = dot(a1, a2, a3, a1, a2, a3)
    return inverse_size(size) * select(square == 0.0, 0.0, 1.0) / square_root(select(square == 0.0, 1.0, square))


@formula
def five(a1, a2, p1, p2, p3, eps):
    """Rotation of a 5D vector: the last three components fold the second column and one entry of the first."""
    c1, c2, c3, z, _, _ = _unfolded(p1, p2, p3)
    return gram_schmidt(a1, a2, z, c1, c2, c3, eps)


@formula
def five_derivative(a1, a2, p1, p2, p3, g11, g12, g13, g21, g22, g23, g31, g32, g33, eps):
    c1, c2, c3, z, n, counts = _unfolded(p1, p2, p3)
    d1, d2, dz, e1, e2, e3 = gram_schmidt_derivative(
        a1, a2, z, c1, c2, c3, g11, g12, g13, g21, g22, g23, g31, g32, g33, eps
    )
    # In radial direction the folded entry moves, across it the column.
    radial = counts * dz * (1 + 1 / (n * n)) / 2
    along = dot(c1, c2, c3, e1, e2, e3)
    across = counts / n
    k1, k2, k3 = FIVE_SCALE
    return (
        d1,
        d2,
        k1 * (across * (e1 - along * c1) + radial * c1),
        k2 * (across * (e2 - along * c2) + radial * c2),
        k3 * (across * (e3 - along * c3) + radial * c3),
    )


@formula
def _unfolded(p1, p2, p3):
    """Unit vector, folded entry, length and whether it has a gradient, of the last three components."""
    k1, k2, k3 = FIVE_SCALE
    size = largest3(p1, p2, p3)
    outside = (size <= FIVE_SHORTEST) | (size >= 1 / FIVE_SHORTEST)
    p1, p2, p3 = select(outside, constant(p1), p1), select(outside, constant(p2), p2), select(outside, constant(p3), p3)
    p1, p2, p3 = k1 * (p1 / size), k2 * (p2 / size), k3 * (p3 / size)
    square = dot(p1, p2, p3, p1, p2, p3)
    none = square == 0.0
    length = square_root(select(none, 1.0, square))
    bounded = select(size > FIVE_SHORTEST, size, FIVE_SHORTEST)
    bounded = select(bounded < 1 / FIVE_SHORTEST, bounded, 1 / FIVE_SHORTEST)
    n = select(none, FIVE_SHORTEST, bounded * length)
    counts = select(outside | none, 0.0, 1.0)
    return select(none, 1.0, p1 / length), p2 / length, p3 / length, (n - 1 / n) / 2, n, counts


@formula
def five_of_matrix(r11, r12, r13, r21, r22, r23, r31, r32, r33):
    """5D vector of a rotation."""
    k1, k2, k3 = FIVE_SCALE
    n = r31 + square_root(1 + r31 * r31)
    return r11, r21, r12 * n / k1, r22 * n / k2, r32 * n / k3


@formula
def five_of_matrix_derivative(r11, r12, r13, r21, r22, r23, r31, r32, r33, g1, g2, g3, g4, g5):
    k1, k2, k3 = FIVE_SCALE
    root = square_root(1 + r31 * r31)
    n = r31 + root
    g3, g4, g5 = g3 / k1, g4 / k2, g5 / k3
    zero = 0.0 * g1
    slope = (1 + r31 / root) * dot(r12, r22, r32, g3, g4, g5)
    return g1, n * g3, zero, g2, n * g4, zero, slope, n * g5, zero
