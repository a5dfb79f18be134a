"""Loops over table rows in explicit SIMD, for use inside numba functions: dot products and weighted sums.

Numba's loops over a head's 16 to 64 channels spend most of their time on horizontal sums and on accumulators that go
through memory; these intrinsics write LLVM vectors instead and run five to eight times faster. LLVM turns the
vectors into whatever the processor has (AVX-512, AVX2, NEON). Nothing here knows about attention.

A `Width` is a number that compiled code knows: numba compiles, and caches, one version for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models, register_default
from numba.extending import NativeValue, intrinsic, typeof_impl, unbox

# Rows that `row_dots` reads at a time; arrays of row numbers and of results are padded to a multiple.
BATCH = 16
VECTOR_BYTES = 64
SEGMENT_BYTES = 16
# Accumulators held in registers at once, and the number that hides the latency of the multiply-add unit.
MOST_ACCUMULATORS = 8
FEWEST_ACCUMULATORS = 4
# Multiplication and addition may become one instruction; NaN and infinity keep their meaning.
CONTRACT = ("contract",)
I64 = ir.IntType(64)
I32 = ir.IntType(32)


def primitive(function: Callable[..., Any]) -> Any:
    """`numba.extending.intrinsic`, whose result type checkers cannot call."""
    return intrinsic(function)


class Width:
    """Number of channels of a head, as a type.

    >>> Width(16).value
    16
    """

    def __init__(self, value: int) -> None:
        self.value = value


class WidthType(types.Opaque):
    """Numba's type of `Width(value)`."""

    def __init__(self, value: int) -> None:
        self.value = value
        super().__init__(f"Width({value})")


register_default(WidthType)(models.OpaqueModel)


@typeof_impl.register(Width)
def _type_of_width(width: Width, context: Any) -> WidthType:
    return WidthType(width.value)


@unbox(WidthType)
def _unbox_width(numba_type: WidthType, width: Any, context: Any) -> NativeValue:
    return NativeValue(context.context.get_dummy_value())


@primitive
def row_dots(
    typing: Any,
    width: Any,
    x: Any,
    x_start: Any,
    table: Any,
    columns: Any,
    column: Any,
    rows: Any,
    first: Any,
    out: Any,
    out_start: Any,
) -> tuple[Any, Callable[..., Any]]:
    """For the 16 rows `r = rows[first + t]`: `out[out_start + t] = x[x_start:] . table[r * columns + column:]`.

    `x`, `table` and `out` are flat arrays of one floating type; the products go over `width` channels.
    """
    i64 = types.int64
    signature = types.void(width, x, i64, table, i64, i64, rows, i64, out, i64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, x_array, x_start, table_array, columns, column, row_array, first, out_array, out_start = arguments
        vector = _vector(x.dtype, width.value)
        per_segment = SEGMENT_BYTES * 8 // x.dtype.bitwidth
        x_pointer = _address(context, builder, x, x_array, x_start)
        row_pointer = _address(context, builder, rows, row_array, first)
        out_pointer = _address(context, builder, out, out_array, out_start)
        for group in range(0, BATCH, vector.count):
            products = []
            for place in range(group, group + vector.count):
                row = builder.sext(builder.load(_offset(builder, row_pointer, place)), I64)
                start = builder.add(builder.mul(row, columns), column)
                table_pointer = _address(context, builder, table, table_array, start)
                total = None
                for channel, valid in _blocks(width.value, vector.count):
                    ours = _load(builder, _offset(builder, x_pointer, channel), vector, valid)
                    theirs = _load(builder, _offset(builder, table_pointer, channel), vector, valid)
                    product = builder.fmul(ours, theirs, flags=CONTRACT)
                    total = product if total is None else builder.fadd(total, product, flags=CONTRACT)
                products.append(total)
            sums = _sums_of_lanes(builder, products, per_segment)
            _store(builder, sums, _offset(builder, out_pointer, group), vector.count)
        return context.get_dummy_value()

    return signature, generate


@primitive
def row_sums(
    typing: Any,
    width: Any,
    heads: Any,
    weights: Any,
    weights_start: Any,
    places: Any,
    head_stride: Any,
    table: Any,
    columns: Any,
    head_columns: Any,
    rows: Any,
    count: Any,
    out: Any,
    out_start: Any,
) -> tuple[Any, Callable[..., Any]]:
    """Weighted sums of `count` rows for every head: channel c of head h, `out[out_start + h * width + c]`, becomes

    `sum_j weights[weights_start + places[j] + h * head_stride] * table[rows[j] * columns + h * head_columns + c]`.

    `weights`, `table` and `out` are flat arrays of one floating type. The order of additions depends on nothing but
    `count` and `width`.
    """
    i64 = types.int64
    signature = types.void(width, i64, weights, i64, places, i64, table, i64, i64, rows, i64, out, i64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, heads, weight_array, weights_start, place_array, head_stride, *others = arguments
        table_array, columns, head_columns, row_array, count, out_array, out_start = others
        vector = _vector(table.dtype, width.value)

        def add_row(place: Any, head: Any, blocks: list[tuple[int, int, int]], totals: list[Any]) -> None:
            """Add row `place` to the accumulators of some heads, the first of which is `head`."""
            row = builder.sext(builder.load(_address(context, builder, rows, row_array, place)), I64)
            at = builder.load(_address(context, builder, places, place_array, place))
            at = builder.add(builder.add(at, weights_start), builder.mul(head, head_stride))
            start = builder.add(builder.mul(row, columns), builder.mul(head, head_columns))
            splats: dict[int, Any] = {}
            for (part, channel, valid), total in zip(blocks, totals, strict=True):
                if part not in splats:
                    weight_at = builder.add(at, builder.mul(head_stride, ir.Constant(I64, part)))
                    weight = builder.load(_address(context, builder, weights, weight_array, weight_at))
                    splats[part] = _splat(builder, weight, vector.count)
                value_at = builder.add(start, builder.mul(head_columns, ir.Constant(I64, part)))
                pointer = _address(
                    context, builder, table, table_array, builder.add(value_at, ir.Constant(I64, channel))
                )
                product = builder.fmul(splats[part], _load(builder, pointer, vector, valid), flags=CONTRACT)
                builder.store(builder.fadd(builder.load(total), product, flags=CONTRACT), total)

        def sum_heads(head: Any, together: int) -> None:
            """All rows, for `together` heads from `head` on."""
            blocks = [
                (part, channel, valid)
                for part in range(together)
                for channel, valid in _blocks(width.value, vector.count)
            ]
            start = builder.add(out_start, builder.mul(head, ir.Constant(I64, width.value)))
            out_pointer = _address(context, builder, out, out_array, start)
            for begin in range(0, len(blocks), MOST_ACCUMULATORS):
                some = blocks[begin : begin + MOST_ACCUMULATORS]
                copies = -(-FEWEST_ACCUMULATORS // len(some))
                totals = [[cgutils.alloca_once(builder, vector) for _ in some] for _ in range(copies)]
                for copy in range(copies):
                    for total in totals[copy]:
                        builder.store(ir.Constant(vector, [0.0] * vector.count), total)
                step = ir.Constant(I64, copies)
                whole = builder.sdiv(count, step)
                with cgutils.for_range(builder, whole, intp=I64) as loop:
                    base = builder.mul(loop.index, step)
                    for copy in range(copies):
                        add_row(builder.add(base, ir.Constant(I64, copy)), head, some, totals[copy])
                if copies > 1:
                    rest = builder.mul(whole, step)
                    with cgutils.for_range_slice(builder, rest, count, ir.Constant(I64, 1), intp=I64) as (place, _):
                        add_row(place, head, some, totals[0])
                for number, (part, channel, valid) in enumerate(some):
                    result = builder.load(totals[0][number])
                    for copy in range(1, copies):
                        result = builder.fadd(result, builder.load(totals[copy][number]))
                    _store(builder, result, _offset(builder, out_pointer, part * width.value + channel), valid)

        # Narrow heads are summed several at a time: each row is then read once, and enough accumulators are at work.
        together = max(1, FEWEST_ACCUMULATORS * vector.count // width.value)
        groups = builder.sdiv(heads, ir.Constant(I64, together))
        with cgutils.for_range(builder, groups, intp=I64) as loop:
            sum_heads(builder.mul(loop.index, ir.Constant(I64, together)), together)
        if together > 1:
            done = builder.mul(groups, ir.Constant(I64, together))
            with cgutils.for_range_slice(builder, done, heads, ir.Constant(I64, 1), intp=I64) as (head, _):
                sum_heads(head, 1)
        return context.get_dummy_value()

    return signature, generate


@primitive
def largest_of_batches(typing: Any, values: Any, start: Any, stop: Any) -> tuple[Any, Callable[..., Any]]:
    """Maximum of `values[start:stop]`, which are whole batches; with a NaN among them any of them."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, start, stop = arguments
        vector = _vector(values.dtype, BATCH)
        best = cgutils.alloca_once(builder, vector)
        builder.store(ir.Constant(vector, [float("-inf")] * vector.count), best)

        def larger(left: Any, right: Any) -> Any:
            return builder.select(builder.fcmp_ordered(">", left, right), left, right)

        with cgutils.for_range_slice(builder, start, stop, ir.Constant(I64, vector.count), intp=I64) as (place, _):
            loaded = _load(builder, _address(context, builder, values, array, place), vector, vector.count)
            builder.store(larger(loaded, builder.load(best)), best)
        result, distance = builder.load(best), vector.count // 2
        while distance:
            turned = [(lane + distance) % vector.count for lane in range(vector.count)]
            result, distance = larger(_shuffle(builder, result, result, turned), result), distance // 2
        return builder.extract_element(result, ir.Constant(I32, 0))

    return values.dtype(values, types.int64, types.int64), generate


@primitive
def float_of_bits(typing: Any, bits: Any) -> tuple[Any, Callable[..., Any]]:
    """The float32 whose bits are the int32 `bits`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@primitive
def bits_of_float(typing: Any, value: Any) -> tuple[Any, Callable[..., Any]]:
    """The bits of a float32 as an int32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], I32)

    return types.int32(types.float32), generate


def _vector(dtype: Any, width: int) -> ir.VectorType:
    """The widest vector that divides the width evenly, else the shortest that holds it or is full."""
    most = VECTOR_BYTES * 8 // dtype.bitwidth
    lanes = next((lanes for lanes in (most, most // 2, most // 4) if width % lanes == 0), 0)
    if not lanes:
        lanes = min(most, 1 << (width - 1).bit_length())
    return ir.VectorType(ir.FloatType() if dtype == types.float32 else ir.DoubleType(), lanes)


def _blocks(width: int, lanes: int) -> Iterator[tuple[int, int]]:
    """First channel and number of channels of each vector of a row."""
    for start in range(0, width, lanes):
        yield start, min(lanes, width - start)


def _sums_of_lanes(builder: Any, vectors: list[Any], per_segment: int) -> Any:
    """A vector whose lane t is the sum over all lanes of `vectors[t]`; as many vectors as lanes.

    Pairs of vectors are folded into one: first neighbors inside 128-bit segments, then whole segments, because
    processors shuffle inside segments fastest.
    """
    lanes = len(vectors)
    segment = min(per_segment, lanes)
    folded = 1
    while len(vectors) > 1:
        unit, span = (1, segment) if folded < segment else (segment, lanes)
        even = [
            base + start + place + lane
            for start in range(0, lanes, span)
            for base in (0, lanes)
            for place in range(0, span, 2 * unit)
            for lane in range(unit)
        ]
        odd = [lane + unit for lane in even]
        vectors = [
            builder.fadd(_shuffle(builder, left, right, even), _shuffle(builder, left, right, odd))
            for left, right in zip(vectors[::2], vectors[1::2], strict=True)
        ]
        folded *= 2
    return vectors[0]


def _address(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    """Pointer to an element of a flat array."""
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index])


def _offset(builder: Any, pointer: Any, elements: int) -> Any:
    return builder.gep(pointer, [ir.Constant(I64, elements)])


def _item_bytes(vector: ir.VectorType) -> int:
    return 4 if isinstance(vector.element, ir.FloatType) else 8


def _mask(lanes: int, valid: int) -> ir.Constant:
    return ir.Constant(ir.VectorType(ir.IntType(1), lanes), [1] * valid + [0] * (lanes - valid))


def _load(builder: Any, pointer: Any, vector: ir.VectorType, valid: int) -> Any:
    """The first `valid` lanes from memory, zero in the others, which are not touched."""
    pointer = builder.bitcast(pointer, vector.as_pointer())
    if valid == vector.count:
        loaded = builder.load(pointer)
        loaded.align = _item_bytes(vector)
        return loaded
    mask = _mask(vector.count, valid)
    name = f"llvm.masked.load.v{vector.count}f{8 * _item_bytes(vector)}.p0"
    kind = ir.FunctionType(vector, [vector.as_pointer(), I32, mask.type, vector])
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    zeros = ir.Constant(vector, [0.0] * vector.count)
    return builder.call(function, [pointer, ir.Constant(I32, _item_bytes(vector)), mask, zeros])


def _store(builder: Any, value: Any, pointer: Any, valid: int) -> None:
    """The first `valid` lanes to memory."""
    vector = value.type
    pointer = builder.bitcast(pointer, vector.as_pointer())
    if valid == vector.count:
        builder.store(value, pointer).align = _item_bytes(vector)
        return
    mask = _mask(vector.count, valid)
    name = f"llvm.masked.store.v{vector.count}f{8 * _item_bytes(vector)}.p0"
    kind = ir.FunctionType(ir.VoidType(), [vector, vector.as_pointer(), I32, mask.type])
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    builder.call(function, [value, pointer, ir.Constant(I32, _item_bytes(vector)), mask])


def _shuffle(builder: Any, left: Any, right: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(left, right, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))


def _splat(builder: Any, scalar: Any, lanes: int) -> Any:
    """A vector of equal lanes."""
    vector = ir.VectorType(scalar.type, lanes)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(I32, 0))
    return _shuffle(builder, first, first, [0] * lanes)
