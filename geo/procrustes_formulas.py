"""Component formulas of special Procrustes in space: the rotation nearest to a 3x3 matrix, and what follows from it.

The rotation that maximises tr(R^T M) is, as a quaternion, the eigenvector of the largest eigenvalue of a symmetric
traceless 4x4 matrix N(M) (Horn, JOSA A 1987). Its eigenvalue is the root of a quartic, found in closed form; the vector
is a column of an adjugate; one step of Rayleigh quotient iteration takes the rounding away. Where singular values are
nearly opposite to each other, two more closed forms keep the digits that an SVD would have. No branch, no loop.
What a formula may contain is said in `scalar.py`.
"""
# Formulas take numbers or tensors, many of them: types would say nothing.
# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs

from __future__ import annotations

from math import pi

from .scalar import absolute, arc_tangent, constant, formula, larger, select, sine_cosine, square_root
from .so3_formulas import homogeneous
from .vectors import SHORTEST, body_gradient, cross, dot, inverse_size, largest3, live

# Where the derivative of the quartic is smaller than this, the largest eigenvalue may be a double one: the root found
# is good to about 1e-8 only ...
_DOUBLE = 1e-4
# ... and is shifted by more than that. The adjugate then spans the eigenspace of both; which vector of it is best is
# settled afterwards, as the turn about an axis.
_SHIFT = 1e-7
# A Hessian with a determinant below the first is damped in each direction by the second: open directions get no
# gradient and leave the others alone. It is not smaller, so that its fourth power stays above the rounding of its
# square.
_FLAT, _FLAT_DAMPING = 1e-9, 1e-6


@formula
def nearest_rotation(m11, m12, m13, m21, m22, m23, m31, m32, m33, damping):
    """Rotation R that maximises tr(R^T M)."""
    m, _ = _normalised(m11, m12, m13, m21, m22, m23, m31, m32, m33)
    return _improved(*_start(*m), *m, damping)


@formula
def nearest_rotation_derivative(
    m11, m12, m13, m21, m22, m23, m31, m32, m33, g11, g12, g13, g21, g22, g23, g31, g32, g33, damping
):
    m, inverse = _normalised(m11, m12, m13, m21, m22, m23, m31, m32, m33)
    r = _improved(*_start(*m), *m, damping)
    ax, ay, az = body_gradient(*r, g11, g12, g13, g21, g22, g23, g31, g32, g33)
    x, y, z = _solved(*_body_frame(*r, *m), ax, ay, az, damping)
    x, y, z = inverse * x, inverse * y, inverse * z
    r11, r12, r13, r21, r22, r23, r31, r32, r33 = r
    # grad M = R [w]x.
    return (
        r12 * z - r13 * y, r13 * x - r11 * z, r11 * y - r12 * x,
        r22 * z - r23 * y, r23 * x - r21 * z, r21 * y - r22 * x,
        r32 * z - r33 * y, r33 * x - r31 * z, r31 * y - r32 * x,
    )  # fmt: skip


@formula
def conditioning(m11, m12, m13, m21, m22, m23, m31, m32, m33, damping):
    """(s2 + s3) / s1 of the signed singular values: 0 where the nearest rotation is not unique, 2 for a rotation."""
    m, _ = _normalised(m11, m12, m13, m21, m22, m23, m31, m32, m33)
    r = _improved(*_start(*m), *m, damping)
    s11, s12, s13, s21, s22, s23, s31, s32, s33 = _body_frame(*r, *m)
    trace = s11 + s22 + s33
    det, (c11, _, _, c22, _, c33) = _hessian(s11, s12, s13, s21, s22, s23, s31, s32, s33)
    # The smallest root of the Hessian's characteristic polynomial, to the rounding of its coefficients: one step of
    # Newton's method from the root as the singular values give it, unless that is a multiple one, which is large.
    first = _largest_singular_value(*m)
    low = trace - first
    minors = c11 + c22 + c33
    slope = 3 * low * low - 4 * trace * low + minors
    value = ((low - 2 * trace) * low + minors) * low - det
    low = low - select(slope > 0.1 * minors, value, 0.0) / select(slope > 0.1 * minors, slope, 1.0)
    # The zero matrix has trace 0.
    return (select(low > 0.0, low, 0.0 * low) / select(first == 0.0, 1.0, trace - low),)


@formula
def nearest_rotation_of_ten(a00, a10, a20, a30, a11, a21, a31, a22, a32, a33, damping):
    """Rotation of the eigenvector of the smallest eigenvalue of a symmetric 4x4 matrix, by its lower triangle."""
    return nearest_rotation(*_matrix_of_ten(a00, a10, a20, a30, a11, a21, a31, a22, a32, a33), damping)


@formula
def nearest_rotation_of_ten_derivative(
    a00, a10, a20, a30, a11, a21, a31, a22, a32, a33, g11, g12, g13, g21, g22, g23, g31, g32, g33, damping
):
    h11, h12, h13, h21, h22, h23, h31, h32, h33 = nearest_rotation_derivative(
        *_matrix_of_ten(a00, a10, a20, a30, a11, a21, a31, a22, a32, a33),
        g11, g12, g13, g21, g22, g23, g31, g32, g33, damping,
    )  # fmt: skip
    # The transpose of `_matrix_of_ten`.
    return (
        -(h11 + h22 + h33) / 4,
        -(h32 - h23) / 2, -(h13 - h31) / 2, -(h21 - h12) / 2,
        -(h11 - h22 - h33) / 4,
        -(h21 + h12) / 2, -(h13 + h31) / 2,
        -(h22 - h11 - h33) / 4,
        -(h32 + h23) / 2,
        -(h33 - h11 - h22) / 4,
    )  # fmt: skip


@formula
def _matrix_of_ten(a00, a10, a20, a30, a11, a21, a31, a22, a32, a33):
    """The 3x3 matrix M with N(M) = -A up to a multiple of the identity."""
    return (
        (a22 + a33 - a00 - a11) / 4, (a30 - a21) / 2, -(a20 + a31) / 2,
        -(a30 + a21) / 2, (a11 + a33 - a00 - a22) / 4, (a10 - a32) / 2,
        (a20 - a31) / 2, -(a10 + a32) / 2, (a11 + a22 - a00 - a33) / 4,
    )  # fmt: skip


@formula
def _normalised(m11, m12, m13, m21, m22, m23, m31, m32, m33):
    """M divided by its Frobenius norm, or 0, and the inverse norm for gradients."""
    size = larger(
        larger(
            larger(larger(absolute(m11), absolute(m12)), larger(absolute(m13), absolute(m21))),
            larger(larger(absolute(m22), absolute(m23)), larger(absolute(m31), absolute(m32))),
        ),
        absolute(m33),
    )
    size = constant(select(size == 0.0, SHORTEST, size))
    m11, m12, m13 = live(m11, size) / size, live(m12, size) / size, live(m13, size) / size
    m21, m22, m23 = live(m21, size) / size, live(m22, size) / size, live(m23, size) / size
    m31, m32, m33 = live(m31, size) / size, live(m32, size) / size, live(m33, size) / size
    square = dot(m11, m12, m13, m11, m12, m13) + dot(m21, m22, m23, m21, m22, m23) + dot(m31, m32, m33, m31, m32, m33)
    norm = square_root(constant(select(square == 0.0, 1.0, square)))
    m = (
        m11 / norm, m12 / norm, m13 / norm, m21 / norm, m22 / norm, m23 / norm, m31 / norm, m32 / norm, m33 / norm,
    )  # fmt: skip
    return m, inverse_size(size) / norm


@formula
def _start(m11, m12, m13, m21, m22, m23, m31, m32, m33):
    """An optimal rotation up to rounding, without gradient, for |M| = 1 or 0."""
    m11, m12, m13 = constant(m11), constant(m12), constant(m13)
    m21, m22, m23 = constant(m21), constant(m22), constant(m23)
    m31, m32, m33 = constant(m31), constant(m32), constant(m33)
    # Of a matrix with negative determinant first minus the nearest reflection, which is the nearest rotation of -M and
    # never close to being ambiguous in two directions at once; the half turn about the direction that matters least
    # makes it the nearest rotation of M.
    det, _ = _invariants(m11, m12, m13, m21, m22, m23, m31, m32, m33)
    mirrored = det < 0.0
    sign = select(mirrored, -1.0, 1.0)
    n = (
        sign * m11, sign * m12, sign * m13, sign * m21, sign * m22, sign * m23, sign * m31, sign * m32, sign * m33,
    )  # fmt: skip
    r = _horn(*n)
    x, y, z = _least_direction(*_body_frame(*r, *n))
    # 2 v v^T - I, or the identity.
    factor, diagonal = select(mirrored, 2.0, 0.0), sign
    r = _product(
        *r,
        factor * x * x + diagonal, factor * x * y, factor * x * z,
        factor * x * y, factor * y * y + diagonal, factor * y * z,
        factor * x * z, factor * y * z, factor * z * z + diagonal,
    )  # fmt: skip
    return _turned(*r, m11, m12, m13, m21, m22, m23, m31, m32, m33)


@formula
def _least_direction(s11, s12, s13, s21, s22, s23, s31, s32, s33):
    """Unit eigenvector of the smallest eigenvalue of the symmetric part of S; one of them where it is multiple."""
    mean = (s11 + s22 + s33) / 3
    e11, e22, e33 = s11 - mean, s22 - mean, s33 - mean
    e12, e13, e23 = (s12 + s21) / 2, (s13 + s31) / 2, (s23 + s32) / 2
    # The part without trace, scaled so that its eigenvalues are 2 cos of three angles.
    square = (e11 * e11 + e22 * e22 + e33 * e33 + 2 * (e12 * e12 + e13 * e13 + e23 * e23)) / 6
    scale = 1 / square_root(select(square == 0.0, 1.0, square))
    e11, e22, e33, e12, e13, e23 = scale * e11, scale * e22, scale * e33, scale * e12, scale * e13, scale * e23
    half = (e11 * (e22 * e33 - e23 * e23) - e12 * (e12 * e33 - e23 * e13) + e13 * (e12 * e23 - e22 * e13)) / 2
    rest = 1 - half * half
    angle = arc_tangent(square_root(select(rest > 0.0, rest, 0.0)), half)
    _, cosine = sine_cosine(angle / 3 + 2 * pi / 3)
    value = 2 * cosine - _SHIFT
    e11, e22, e33 = e11 - value, e22 - value, e33 - value
    return _unit_column(
        e22 * e33 - e23 * e23, e13 * e23 - e12 * e33, e12 * e23 - e13 * e22,
        e11 * e33 - e13 * e13, e12 * e13 - e11 * e23, e11 * e22 - e12 * e12,
    )  # fmt: skip


@formula
def _unit_column(c11, c12, c13, c22, c23, c33):
    """The column of a symmetric matrix with the largest diagonal entry, as a unit vector; (1, 0, 0) for 0."""
    a, b, c = absolute(c11), absolute(c22), absolute(c33)
    first, second = (a >= b) & (a >= c), b >= c
    x = select(first, c11, select(second, c12, c13))
    y = select(first, c12, select(second, c22, c23))
    z = select(first, c13, select(second, c23, c33))
    size = largest3(x, y, z)
    x, y, z = x / size, y / size, z / size
    square = dot(x, y, z, x, y, z)
    none = square == 0.0
    scale = 1 / square_root(select(none, 1.0, square))
    return select(none, 1.0, scale * x), scale * y, scale * z


@formula
def _turned(r11, r12, r13, r21, r22, r23, r31, r32, r33, m11, m12, m13, m21, m22, m23, m31, m32, m33):
    """The best of the rotations that differ by a turn about the axis that matters least.

    Exact for any angle, so that the direction of a nearly ambiguous optimum comes out as well as the matrix has it.
    """
    r = (r11, r12, r13, r21, r22, r23, r31, r32, r33)
    s = _body_frame(*r, m11, m12, m13, m21, m22, m23, m31, m32, m33)
    s11, s12, s13, s21, s22, s23, s31, s32, s33 = s
    _, cofactors = _hessian(*s)
    x, y, z = _unit_column(*cofactors)
    sine = dot(x, y, z, s32 - s23, s13 - s31, s21 - s12)
    # tr(S) - u^T S u, summed so that the small eigenvalue is not lost in the large ones.
    k12, k13, k23 = -(s12 + s21), -(s13 + s31), -(s23 + s32)
    cosine = (s22 + s33) * x * x + (s11 + s33) * y * y + (s11 + s22) * z * z + k12 * x * y + k13 * x * z + k23 * y * z
    size = larger(absolute(sine), absolute(cosine))
    none = size == 0.0
    size = select(none, 1.0, size)
    sine, cosine = sine / size, select(none, 1.0, cosine / size)
    length = square_root(sine * sine + cosine * cosine)
    sine, cosine = sine / length, cosine / length
    rest = 1 - cosine
    return _product(
        *r,
        cosine + rest * x * x, rest * x * y - sine * z, rest * x * z + sine * y,
        rest * x * y + sine * z, cosine + rest * y * y, rest * y * z - sine * x,
        rest * x * z - sine * y, rest * y * z + sine * x, cosine + rest * z * z,
    )  # fmt: skip


@formula
def _product(a11, a12, a13, a21, a22, a23, a31, a32, a33, b11, b12, b13, b21, b22, b23, b31, b32, b33):
    """A B."""
    return (
        dot(a11, a12, a13, b11, b21, b31), dot(a11, a12, a13, b12, b22, b32), dot(a11, a12, a13, b13, b23, b33),
        dot(a21, a22, a23, b11, b21, b31), dot(a21, a22, a23, b12, b22, b32), dot(a21, a22, a23, b13, b23, b33),
        dot(a31, a32, a33, b11, b21, b31), dot(a31, a32, a33, b12, b22, b32), dot(a31, a32, a33, b13, b23, b33),
    )  # fmt: skip


@formula
def _horn(m11, m12, m13, m21, m22, m23, m31, m32, m33):
    """Rotation of the eigenvector of the largest eigenvalue of N(M), for |M| = 1 or 0 and det M >= 0."""
    value = _largest_eigenvalue(m11, m12, m13, m21, m22, m23, m31, m32, m33)
    # N(M) - value I by its upper triangle; its adjugate is a multiple of q q^T.
    n00, n11 = m11 + m22 + m33 - value, m11 - m22 - m33 - value
    n22, n33 = m22 - m11 - m33 - value, m33 - m11 - m22 - value
    n01, n02, n03 = m32 - m23, m13 - m31, m21 - m12
    n12, n13, n23 = m12 + m21, m13 + m31, m23 + m32
    # Determinants of two rows: of rows 0, 1 (a) and of rows 2, 3 (b), named by their columns.
    a01, a02, a03 = n00 * n11 - n01 * n01, n00 * n12 - n02 * n01, n00 * n13 - n03 * n01
    a12, a13, a23 = n01 * n12 - n02 * n11, n01 * n13 - n03 * n11, n02 * n13 - n03 * n12
    b02, b03 = n02 * n23 - n22 * n03, n02 * n33 - n23 * n03
    b12, b13, b23 = n12 * n23 - n22 * n13, n12 * n33 - n23 * n13, n22 * n33 - n23 * n23
    d0 = n11 * b23 - n12 * b13 + n13 * b12
    d1 = n00 * b23 - n02 * b03 + n03 * b02
    d2 = n03 * a13 - n13 * a03 + n33 * a01
    d3 = n02 * a12 - n12 * a02 + n22 * a01
    c01 = -(n01 * b23 - n02 * b13 + n03 * b12)
    c02 = n13 * a23 - n23 * a13 + n33 * a12
    c03 = -(n12 * a23 - n22 * a13 + n23 * a12)
    c12 = -(n03 * a23 - n23 * a03 + n33 * a02)
    c13 = n02 * a23 - n22 * a03 + n23 * a02
    c23 = -(n02 * a13 - n12 * a03 + n23 * a01)
    # The column with the largest diagonal entry.
    s0, s1, s2, s3 = absolute(d0), absolute(d1), absolute(d2), absolute(d3)
    first, second = s0 >= s1, s2 >= s3
    upper = select(first, s0, s1) >= select(second, s2, s3)
    w = select(upper, select(first, d0, c01), select(second, c02, c03))
    x = select(upper, select(first, c01, d1), select(second, c12, c13))
    y = select(upper, select(first, c02, c12), select(second, d2, c23))
    z = select(upper, select(first, c03, c13), select(second, c23, d3))
    return homogeneous(w, x, y, z, 2 / (w * w + dot(x, y, z, x, y, z)))


@formula
def _largest_eigenvalue(m11, m12, m13, m21, m22, m23, m31, m32, m33):
    """Largest eigenvalue of N(M) for |M| = 1 or 0, a little more where it is a multiple one."""
    det, cofactors = _invariants(m11, m12, m13, m21, m22, m23, m31, m32, m33)
    s1 = _largest_singular_value(m11, m12, m13, m21, m22, m23, m31, m32, m33)
    # The eigenvalue is s1 + s2 + s3 in signed singular values, and (s2 + s3)**2 = s2**2 + s3**2 + 2 det / s1.
    rest = 1 - s1 * s1 + 2 * det / s1
    value = s1 + square_root(select(rest > 0.0, rest, 0.0))
    polynomial = (value * value - 2) * value * value - 8 * det * value + 1 - 4 * cofactors
    slope = 4 * (value * value - 1) * value - 8 * det
    single = slope > _DOUBLE
    return select(single, value - polynomial / select(single, slope, 1.0), value + _SHIFT)


@formula
def _largest_singular_value(m11, m12, m13, m21, m22, m23, m31, m32, m33):
    """Largest singular value for |M| = 1, by the trigonometric solution of the cubic of M^T M, whose trace is 1."""
    det, cofactors = _invariants(m11, m12, m13, m21, m22, m23, m31, m32, m33)
    p = (1 - 3 * cofactors) / 9
    p = select(p > 0.0, p, 0.0)
    r = (2 - 9 * cofactors + 27 * det * det) / 54
    q = p * p * p - r * r
    q = square_root(select(q > 0.0, q, 0.0))
    _, cosine = sine_cosine(arc_tangent(q, select((q == 0.0) & (r == 0.0), 1.0, r)) / 3)
    return square_root(1 / 3 + 2 * square_root(p) * cosine)


@formula
def _invariants(m11, m12, m13, m21, m22, m23, m31, m32, m33):
    """Determinant and the sum of the squared cofactors."""
    c1, c2, c3 = cross(m21, m22, m23, m31, m32, m33)
    c4, c5, c6 = cross(m31, m32, m33, m11, m12, m13)
    c7, c8, c9 = cross(m11, m12, m13, m21, m22, m23)
    cofactors = dot(c1, c2, c3, c1, c2, c3) + dot(c4, c5, c6, c4, c5, c6) + dot(c7, c8, c9, c7, c8, c9)
    return dot(m11, m12, m13, c1, c2, c3), cofactors


@formula
def _improved(r11, r12, r13, r21, r22, r23, r31, r32, r33, m11, m12, m13, m21, m22, m23, m31, m32, m33, damping):
    """A rotation nearer to the optimum, from one close to it.

    The error becomes cubic in what it was. As the start carries no gradient, the first and the second derivative of
    the optimum are exactly those of this step.
    """
    s = _body_frame(r11, r12, r13, r21, r22, r23, r31, r32, r33, m11, m12, m13, m21, m22, m23, m31, m32, m33)
    _, s12, s13, s21, _, s23, s31, s32, _ = s
    x, y, z = _solved(*s, s32 - s23, s13 - s31, s21 - s12, damping)
    x, y, z = x / 2, y / 2, z / 2
    t11, t12, t13, t21, t22, t23, t31, t32, t33 = homogeneous(1.0, x, y, z, 2 / (1 + dot(x, y, z, x, y, z)))
    return _product(r11, r12, r13, r21, r22, r23, r31, r32, r33, t11, t12, t13, t21, t22, t23, t31, t32, t33)


@formula
def _body_frame(r11, r12, r13, r21, r22, r23, r31, r32, r33, m11, m12, m13, m21, m22, m23, m31, m32, m33):
    """R^T M."""
    return (
        dot(r11, r21, r31, m11, m21, m31), dot(r11, r21, r31, m12, m22, m32), dot(r11, r21, r31, m13, m23, m33),
        dot(r12, r22, r32, m11, m21, m31), dot(r12, r22, r32, m12, m22, m32), dot(r12, r22, r32, m13, m23, m33),
        dot(r13, r23, r33, m11, m21, m31), dot(r13, r23, r33, m12, m22, m32), dot(r13, r23, r33, m13, m23, m33),
    )  # fmt: skip


@formula
def _solved(s11, s12, s13, s21, s22, s23, s31, s32, s33, ax, ay, az, damping):
    """Solution w of H w = a for the Hessian H, damped in the directions in which it is singular."""
    det, (c11, c12, c13, c22, c23, c33) = _hessian(s11, s12, s13, s21, s22, s23, s31, s32, s33)
    regular = det > _FLAT
    inverse = det / select(regular, det * det + damping * damping, 1.0)
    x = inverse * dot(c11, c12, c13, ax, ay, az)
    y = inverse * dot(c12, c22, c23, ax, ay, az)
    z = inverse * dot(c13, c23, c33, ax, ay, az)
    # H (H^2 + e^2)^-1 a: 1 / h for a large eigenvalue h, h / e^2 for a small one.
    k11, k22, k33 = s22 + s33, s11 + s33, s11 + s22
    k12, k13, k23 = -(s12 + s21) / 2, -(s13 + s31) / 2, -(s23 + s32) / 2
    shift = _FLAT_DAMPING * _FLAT_DAMPING + damping * damping
    q11, q12, q13 = (
        dot(k11, k12, k13, k11, k12, k13) + shift,
        dot(k11, k12, k13, k12, k22, k23),
        dot(k11, k12, k13, k13, k23, k33),
    )
    q22, q23 = dot(k12, k22, k23, k12, k22, k23) + shift, dot(k12, k22, k23, k13, k23, k33)
    q33 = dot(k13, k23, k33, k13, k23, k33) + shift
    c11, c12, c13 = q22 * q33 - q23 * q23, q13 * q23 - q12 * q33, q12 * q23 - q13 * q22
    c22, c23, c33 = q11 * q33 - q13 * q13, q12 * q13 - q11 * q23, q11 * q22 - q12 * q12
    det = select(regular, 1.0, dot(q11, q12, q13, c11, c12, c13))
    px = dot(c11, c12, c13, ax, ay, az) / det
    py = dot(c12, c22, c23, ax, ay, az) / det
    pz = dot(c13, c23, c33, ax, ay, az) / det
    return (
        select(regular, x, dot(k11, k12, k13, px, py, pz)),
        select(regular, y, dot(k12, k22, k23, px, py, pz)),
        select(regular, z, dot(k13, k23, k33, px, py, pz)),
    )


@formula
def _hessian(s11, s12, s13, s21, s22, s23, s31, s32, s33):
    """Determinant and cofactors (upper triangle) of tr(S) I - S for the symmetric part of S = R^T M.

    Its eigenvalues are the sums of two signed singular values of M.
    """
    k11, k22, k33 = s22 + s33, s11 + s33, s11 + s22
    k12, k13, k23 = -(s12 + s21) / 2, -(s13 + s31) / 2, -(s23 + s32) / 2
    c11, c12, c13 = k22 * k33 - k23 * k23, k13 * k23 - k12 * k33, k12 * k23 - k13 * k22
    c22, c23, c33 = k11 * k33 - k13 * k13, k12 * k13 - k11 * k23, k11 * k22 - k12 * k12
    return dot(k11, k12, k13, c11, c12, c13), (c11, c12, c13, c22, c23, c33)
