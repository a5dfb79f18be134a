"""Eight float64 numbers at a time: the vector operations of the searches, handed to the compiler as such.

Left to itself it turns short loops into scalar code. No product is fused with a sum, so every lane holds the bits that
scalar code gives. On a CPU without vectors of that width the compiler splits them.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from .simd import primitive

LANES = 8
_INT = ir.IntType(64)
_FLOATS = ir.VectorType(ir.DoubleType(), LANES)
_INTS = ir.VectorType(_INT, LANES)


class _Vectors:
    """Code for vectors of eight 64-bit numbers in C-contiguous arrays."""

    def __init__(self, context: Any, builder: Any, signature: Any, values: Any) -> None:
        self.context, self.builder, self.signature, self.values = context, builder, signature, values

    def vectors(self, argument: int, vector: Any) -> Any:
        """Where vector number `vector` of an array argument starts."""
        return self.address(argument, self.builder.mul(vector, ir.Constant(_INT, LANES)))

    def address(self, argument: int, index: Any) -> Any:
        """Where entry `index` of an array argument lies."""
        array = self.context.make_array(self.signature.args[argument])(
            self.context, self.builder, self.values[argument]
        )
        return self.builder.gep(array.data, [index])

    def load(self, kind: ir.VectorType, address: Any, vector: int = 0) -> Any:
        """Eight numbers, `vector` times eight after the address."""
        place = self.builder.gep(address, [ir.Constant(_INT, LANES * vector)])
        found = self.builder.load(self.builder.bitcast(place, kind.as_pointer()))
        found.align = 8
        return found

    def store(self, value: Any, address: Any) -> None:
        """Write eight numbers."""
        self.builder.store(value, self.builder.bitcast(address, value.type.as_pointer())).align = 8

    def splat(self, scalar: Any) -> Any:
        """One number in all lanes."""
        kind = ir.VectorType(scalar.type, LANES)
        first = self.builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
        return self.shuffle(first, first, [0] * LANES)

    def shuffle(self, first: Any, second: Any, lanes: list[int]) -> Any:
        """Lanes of two vectors."""
        places = ir.Constant(ir.VectorType(ir.IntType(32), LANES), lanes)
        return self.builder.shuffle_vector(first, second, places)

    def moved(self, vector: Any, before: Any) -> Any:
        """The lanes one place on, `before` in the first."""
        return self.shuffle(vector, self.splat(before), [LANES, *range(LANES - 1)])

    def larger(self, first: Any, second: Any) -> Any:
        """The larger in each lane."""
        return self.builder.select(self.builder.fcmp_ordered(">", first, second), first, second)

    def squares(self, offsets: list[Any]) -> Any:
        """x * x + y * y + z * z, in this order."""
        x, y, z = (self.builder.fmul(offset, offset) for offset in offsets)
        return self.builder.fadd(self.builder.fadd(x, y), z)

    def point_distances(self, leaf: Any, point: Any) -> Any:
        """Squared distances of a point to leaf number `leaf` of argument 0, (leaves, 3, 8)."""
        start = self.vectors(0, self.builder.mul(leaf, ir.Constant(_INT, 3)))
        return self.squares(
            [self.builder.fsub(self.load(_FLOATS, start, axis), self.splat(point[axis])) for axis in range(3)]
        )

    def box_distances(self, block: Any, lower: Any, upper: Any) -> Any:
        """Squared distances of a box to those of block number `block` of argument 0, (blocks, 6, 8)."""
        start = self.vectors(0, self.builder.mul(block, ir.Constant(_INT, 6)))
        zero = ir.Constant(_FLOATS, [0.0] * LANES)
        offsets = []
        for axis in range(3):
            before = self.builder.fsub(self.load(_FLOATS, start, axis), self.splat(upper[axis]))
            after = self.builder.fsub(self.splat(lower[axis]), self.load(_FLOATS, start, 3 + axis))
            offsets.append(self.larger(self.larger(before, after), zero))
        return self.squares(offsets)

    def over_lanes(self, combine: Any, vector: Any) -> Any:
        """All lanes combined, in every lane."""
        for step in (4, 2, 1):
            vector = combine(vector, self.shuffle(vector, vector, [(lane + step) % LANES for lane in range(LANES)]))
        return vector

    def bits(self, lanes: Any) -> Any:
        """The lanes that hold true as bits of an integer, the first lane lowest."""
        return self.builder.zext(self.builder.bitcast(lanes, ir.IntType(LANES)), _INT)


def _is_floats(array: types.Type) -> bool:
    return isinstance(array, types.Array) and array.dtype == types.float64 and array.layout == "C"


@primitive
def point_distances(
    typing: Any, points: Any, leaf: Any, x: Any, y: Any, z: Any, limit: Any, out: Any, vector: Any
) -> Any:
    """Squared distances to points[leaf] of (leaves, 3, 8) into out[8 * vector :]; lanes at most `limit` as bits."""
    if not (_is_floats(points) and _is_floats(out)):
        return None

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        lanes = _Vectors(context, builder, signature, values)
        distance = lanes.point_distances(values[1], values[2:5])
        lanes.store(distance, lanes.vectors(6, values[7]))
        return lanes.bits(builder.fcmp_ordered("<=", distance, lanes.splat(values[5])))

    floats = (types.float64,) * 4
    return types.int64(points, types.int64, *floats, out, types.int64), generate


@primitive
def box_distances(
    typing: Any,
    boxes: Any,
    block: Any,
    x_low: Any,
    y_low: Any,
    z_low: Any,
    x_high: Any,
    y_high: Any,
    z_high: Any,
    limit: Any,
    out: Any,
) -> Any:
    """Squared distances of a box to boxes[block] of (blocks, 6, 8) into out[:8]; lanes at most `limit` as bits."""
    if not (_is_floats(boxes) and _is_floats(out)):
        return None

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        lanes = _Vectors(context, builder, signature, values)
        distance = lanes.box_distances(values[1], values[2:5], values[5:8])
        lanes.store(distance, lanes.address(9, ir.Constant(_INT, 0)))
        return lanes.bits(builder.fcmp_ordered("<=", distance, lanes.splat(values[8])))

    floats = (types.float64,) * 7
    return types.int64(boxes, types.int64, *floats, out), generate


@primitive
def closer_boxes(typing: Any, boxes: Any, block: Any, x: Any, y: Any, z: Any, limits: Any) -> Any:
    """Lanes of boxes[block] of (blocks, 6, 8) whose squared distance to a point is below limits[block], as bits."""
    if not (_is_floats(boxes) and _is_floats(limits)):
        return None

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        lanes = _Vectors(context, builder, signature, values)
        distance = lanes.box_distances(values[1], values[2:5], values[2:5])
        return lanes.bits(builder.fcmp_ordered("<", distance, lanes.load(_FLOATS, lanes.vectors(5, values[1]))))

    return types.int64(boxes, types.int64, *(types.float64,) * 3, limits), generate


@primitive
def approach(typing: Any, points: Any, leaf: Any, x: Any, y: Any, z: Any, distances: Any) -> Any:
    """Lower distances[leaf] of (leaves, 8) to the squared distances of a point to points[leaf] of (leaves, 3, 8)."""
    if not (_is_floats(points) and _is_floats(distances)):
        return None

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        lanes = _Vectors(context, builder, signature, values)
        new, place = lanes.point_distances(values[1], values[2:5]), lanes.vectors(5, values[1])
        old = lanes.load(_FLOATS, place)
        lanes.store(builder.select(builder.fcmp_ordered("<", new, old), new, old), place)
        return context.get_dummy_value()

    return types.void(points, types.int64, *(types.float64,) * 3, distances), generate


@primitive
def largest_lanes(typing: Any, numbers: Any, vector: Any) -> Any:
    """Lanes that hold the largest of numbers[8 * vector :][:8] (no NaN), as bits."""
    if not _is_floats(numbers):
        return None

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        lanes = _Vectors(context, builder, signature, values)
        given = lanes.load(_FLOATS, lanes.vectors(0, values[1]))
        largest = lanes.over_lanes(lanes.larger, given)
        return lanes.bits(builder.fcmp_ordered("==", given, largest))

    return types.int64(numbers, types.int64), generate


@primitive
def insert(typing: Any, distances: Any, rows: Any, vectors: Any, distance: Any, row: Any) -> Any:
    """Put a pair into a list sorted by distance, then row, of 8 * vectors pairs; the last falls out."""
    if not (_is_floats(distances) and isinstance(rows, types.Array) and rows.dtype == types.int64):
        return None

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        lanes = _Vectors(context, builder, signature, values)
        new_distance, new_row = lanes.splat(values[3]), lanes.splat(values[4])
        zero, one, bit = ir.Constant(_INT, 0), ir.Constant(_INT, 1), ir.IntType(1)
        all_but_first = ir.Constant(ir.VectorType(bit, LANES), [0] + [1] * (LANES - 1))

        def comes_after(distance: Any, row: Any) -> Any:
            tied = builder.fcmp_ordered("==", distance, new_distance)
            later = builder.and_(tied, builder.icmp_signed(">", row, new_row))
            return builder.or_(builder.fcmp_ordered(">", distance, new_distance), later)

        # From the last vector to the first, so that the entry before a vector is still the old one.
        with cgutils.for_range(builder, values[2], intp=_INT) as loop:
            vector = builder.sub(builder.sub(values[2], loop.index), one)
            start = builder.mul(vector, ir.Constant(_INT, LANES))
            is_first = builder.icmp_signed("==", vector, zero)
            before = builder.select(is_first, zero, builder.sub(start, one))
            at_distance, at_row = lanes.address(0, start), lanes.address(1, start)
            old_distance, old_row = lanes.load(_FLOATS, at_distance), lanes.load(_INTS, at_row)
            moved_distance = lanes.moved(old_distance, builder.load(lanes.address(0, before)))
            moved_row = lanes.moved(old_row, builder.load(lanes.address(1, before)))
            replaced = comes_after(old_distance, old_row)
            has_before = builder.or_(lanes.splat(builder.not_(is_first)), all_but_first)
            pushed = builder.and_(comes_after(moved_distance, moved_row), has_before)
            distance = builder.select(pushed, moved_distance, new_distance)
            lanes.store(builder.select(replaced, distance, old_distance), at_distance)
            row = builder.select(pushed, moved_row, new_row)
            lanes.store(builder.select(replaced, row, old_row), at_row)
        return context.get_dummy_value()

    return types.void(distances, rows, types.int64, types.float64, types.int64), generate


def _bit_operation(builder: Any, name: str, *values: Any) -> Any:
    """Call of an operation of the compiler that gives a 64-bit integer."""
    kind = ir.FunctionType(_INT, [value.type for value in values])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), values)


@primitive
def first_lane(typing: Any, mask: Any) -> Any:
    """Number of the lowest set bit; some bit must be set."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return _bit_operation(builder, "llvm.cttz.i64", values[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), generate


@primitive
def lane_count(typing: Any, mask: Any) -> Any:
    """Number of set bits."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return _bit_operation(builder, "llvm.ctpop.i64", values[0])

    return types.int64(types.int64), generate


@primitive
def count_at_most(typing: Any, distances: Any, vectors: Any, limit: Any) -> Any:
    """How many of distances[:8 * vectors] are at most `limit`."""
    if not _is_floats(distances):
        return None

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        lanes = _Vectors(context, builder, signature, values)
        limit = lanes.splat(values[2])
        total = cgutils.alloca_once_value(builder, ir.Constant(_INTS, [0] * LANES))
        with cgutils.for_range(builder, values[1], intp=_INT) as loop:
            distance = lanes.load(_FLOATS, lanes.vectors(0, loop.index))
            inside = builder.zext(builder.fcmp_ordered("<=", distance, limit), _INTS)
            builder.store(builder.add(builder.load(total), inside), total)
        return builder.extract_element(lanes.over_lanes(builder.add, builder.load(total)), ir.Constant(_INT, 0))

    return types.int64(distances, types.int64, types.float64), generate


@primitive
def count_smaller(typing: Any, distances: Any, count: Any, vectors: Any, out: Any) -> Any:
    """For each of distances[:8 * vectors] how many of distances[:count] are smaller, into `out`."""
    if not _is_floats(distances):
        return None

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        lanes = _Vectors(context, builder, signature, values)
        with cgutils.for_range(builder, values[2], intp=_INT) as loop:
            own = lanes.load(_FLOATS, lanes.vectors(0, loop.index))
            total = cgutils.alloca_once_value(builder, ir.Constant(_INTS, [0] * LANES))
            builder.store(ir.Constant(_INTS, [0] * LANES), total)
            with cgutils.for_range(builder, values[1], intp=_INT) as inner:
                other = lanes.splat(builder.load(lanes.address(0, inner.index)))
                smaller = builder.zext(builder.fcmp_ordered("<", other, own), _INTS)
                builder.store(builder.add(builder.load(total), smaller), total)
            lanes.store(builder.load(total), lanes.vectors(3, loop.index))
        return context.get_dummy_value()

    return types.void(distances, types.int64, types.int64, out), generate
