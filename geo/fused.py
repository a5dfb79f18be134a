"""Running a component formula over a batch: one compiled pass on the CPU, plain PyTorch everywhere else.

A `Map` holds a formula and the formula of its derivative. On CPU tensors it runs both compiled: one pass over memory
with float64 arithmetic inside, whatever the dtype of the tensors, split over threads for large batches. On another
device it runs the same source on tensors. Under `torch.func` transforms, forward-mode differentiation, export and
tracing it is a plain expression of PyTorch that they can see through; under `torch.compile` as well, but for CPU
tensors outside of transforms: there the compiled pass, as an opaque operator, is faster than what the compiler makes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from itertools import accumulate, pairwise
from math import prod
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from .checks import require_broadcastable, require_floating, require_same_device, require_same_dtype, require_shape
from .scalar import JIT_OPTIONS
from .threads import run_in_pieces

Columns = tuple[int, ...]
Formula = Callable[..., tuple[Any, ...]]

# Rows that are turned from rows into columns at a time; a few kilobytes, so that they stay in the first cache.
_BLOCK = 64
# Rows below which a second thread does not pay.
_ROWS_PER_PIECE = 16384


# What the opaque operators know a map by.
_MAPS: dict[str, Map] = {}


class Map:
    """A function of the trailing axes of its arguments, by components.

    Args:
        forward: components of all arguments, then the parameters, to the components of the result.
        backward: components of all arguments, those of the gradient of the result, then the parameters, to the
            components of the gradients of all arguments; None for a map that is never differentiated.
        inputs: argument name to trailing shape, in order.
        output: trailing shape of the result.
        double: whether plain PyTorch, too, must compute in float64 where the device has it.
    """

    def __init__(
        self,
        forward: Formula,
        backward: Formula | None,
        *,
        inputs: dict[str, tuple[int, ...]],
        output: tuple[int, ...],
        double: bool = False,
    ) -> None:
        self.forward, self.backward = forward, backward
        self.name = f"{forward.__module__}.{forward.__name__}"
        if self.name in _MAPS:
            raise ValueError(f"forward: expected a formula without a map, got {self.name}, which has one")
        _MAPS[self.name] = self
        self.output, self.double = output, double
        self.names, self.tails = tuple(inputs), tuple(inputs.values())
        self.widths = [prod(shape) for shape in self.tails]
        self.width = prod(output)

    def __call__(
        self,
        *arguments: Tensor,
        load: Sequence[Columns | None] | None = None,
        store: Columns | None = None,
        parameters: tuple[float, ...] = (),
    ) -> Tensor:
        """The map of a batch.

        Args:
            arguments: (..., *inputs), checked here; leading axes broadcast.
            load: for each argument the columns its components are read from, all of them once; in order by default.
            store: the columns the components of the result are written to, all of them once; in order by default.
            parameters: numbers passed on to the formulas.
        Returns:
            (..., *output), in the dtype of the arguments; half precision is computed in float32.
        Raises:
            TypeError: an argument is not a floating point tensor.
            ValueError: wrong shape, several dtypes or devices, or leading axes that do not broadcast.
        """
        for name, tail, argument in zip(self.names, self.tails, arguments, strict=True):
            # The whole check words an error; this one is cheap enough for a single rotation.
            if not (isinstance(argument, Tensor) and argument.is_floating_point() and _ends(argument.shape, tail)):
                require_floating(name, argument)
                require_shape(name, argument, ..., *tail)
        if len(arguments) > 1:
            arguments = self._together(arguments)
        natural = store is None and (load is None or all(columns is None for columns in load))
        layout = NATURAL if natural else Layout(load, store)
        dtype = arguments[0].dtype
        if dtype is torch.float32 or dtype is torch.float64:
            return self._mapped(arguments, layout, parameters)
        wide = tuple(argument.to(torch.float32) for argument in arguments)
        return self._mapped(wide, layout, parameters).to(dtype)

    def expression(self, arguments: Sequence[Tensor], layout: Layout, parameters: tuple[float, ...]) -> Tensor:
        """The map in plain PyTorch: its definition, which the compiled one is tested against."""
        components = self._components(arguments, layout)
        results = self.forward(*components, *parameters)
        return _joined(results, layout.store, arguments[0].dtype, self.output)

    def evaluate(self, arguments: Sequence[Tensor], layout: Layout, parameters: tuple[float, ...]) -> Tensor:
        """The map without a graph, compiled where possible."""
        first = arguments[0]
        if not first.is_cpu:
            with torch.no_grad():
                return self.expression(arguments, layout, parameters)
        result = first.new_empty((*_batch(first, self.tails[0]), *self.output))
        arrays = [_rows(argument, width) for argument, width in zip(arguments, self.widths, strict=True)]
        arrays.append(_rows(result, self.width))
        if layout is NATURAL:
            _run(self._forward_kernel, arrays, parameters)
        else:
            _run(self._placed_forward_kernel, [*arrays, *_column_arrays(self._all_columns(layout))], parameters)
        return result

    def derivative(
        self, arguments: Sequence[Tensor], gradient: Tensor, layout: Layout, parameters: tuple[float, ...]
    ) -> list[Tensor]:
        """Gradients of all arguments from that of the result; differentiable itself where gradients are enabled."""
        assert self.backward is not None
        loads = self._loads(layout)
        if not gradient.is_cpu or torch.is_grad_enabled() or is_traced((*arguments, gradient)):
            upstream = _split(gradient, self.output, layout.store, self._working_dtype(gradient))
            results = self.backward(*self._components(arguments, layout), *upstream, *parameters)
            parts, start = [], 0
            for tail, width, load in zip(self.tails, self.widths, loads, strict=True):
                parts.append(_joined(results[start : start + width], load, gradient.dtype, tail))
                start += width
            return parts
        gradients = [torch.empty_like(argument, memory_format=torch.contiguous_format) for argument in arguments]
        arrays = [_rows(argument, width) for argument, width in zip(arguments, self.widths, strict=True)]
        arrays.append(_rows(gradient, self.width))
        arrays += [_rows(one, width) for one, width in zip(gradients, self.widths, strict=True)]
        if layout is NATURAL:
            _run(self._backward_kernel, arrays, parameters)
        else:
            columns = self._all_columns(layout)
            _run(self._placed_backward_kernel, [*arrays, *_column_arrays((*columns, *columns[:-1]))], parameters)
        return gradients

    def _mapped(self, arguments: Sequence[Tensor], layout: Layout, parameters: tuple[float, ...]) -> Tensor:
        if torch.compiler.is_compiling():
            if arguments[0].is_cpu and is_plain_compilation():
                return _rows_operator(list(arguments), self._key(layout, parameters))
            return self.expression(arguments, layout, parameters)
        if is_traced(arguments):
            return self.expression(arguments, layout, parameters)
        if torch.is_grad_enabled() and any([argument.requires_grad for argument in arguments]):
            return _Differentiable.apply(self, layout, parameters, *arguments)
        return self.evaluate(arguments, layout, parameters)

    def _key(self, layout: Layout, parameters: tuple[float, ...]) -> str:
        """What an operator has to know beside the arguments, as one string: `_Call.parse` is its inverse."""
        columns = "" if layout is NATURAL else ",".join([str(c) for part in self._all_columns(layout) for c in part])
        return ";".join([self.name, columns, ",".join(map(str, parameters))])

    def _all_columns(self, layout: Layout) -> tuple[Columns, ...]:
        """The columns of all arguments and of the result, also where they are in order."""
        parts = zip((*self._loads(layout), layout.store), (*self.widths, self.width), strict=True)
        return tuple([tuple(range(width)) if columns is None else tuple(columns) for columns, width in parts])

    def _together(self, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Arguments of one dtype and device with one batch shape."""
        first = arguments[0]
        batch = _batch(first, self.tails[0])
        same = True
        for argument, tail in zip(arguments, self.tails, strict=True):
            if argument.dtype is not first.dtype or argument.device != first.device:
                named = dict(zip(self.names, arguments, strict=True))
                require_same_dtype(named)
                require_same_device(named)
            same = same and _batch(argument, tail) == batch
        if same:
            return arguments
        flat = {
            name: argument.flatten(argument.ndim - len(tail)) if tail else argument.unsqueeze(-1)
            for name, tail, argument in zip(self.names, self.tails, arguments, strict=True)
        }
        require_broadcastable(flat, trailing=1)
        batch = torch.broadcast_shapes(*(value.shape[:-1] for value in flat.values()))
        return tuple(argument.expand(*batch, *tail) for tail, argument in zip(self.tails, arguments, strict=True))

    def _components(self, arguments: Sequence[Tensor], layout: Layout) -> list[Tensor]:
        components: list[Tensor] = []
        for argument, tail, load in zip(arguments, self.tails, self._loads(layout), strict=True):
            components += _split(argument, tail, load, self._working_dtype(argument))
        return components

    def _working_dtype(self, tensor: Tensor) -> torch.dtype:
        return torch.float64 if self.double and tensor.device.type != "mps" else tensor.dtype

    def _loads(self, layout: Layout) -> Sequence[Columns | None]:
        return layout.load or (None,) * len(self.widths)

    @cached_property
    def _forward_kernel(self) -> Callable[..., None]:
        return _kernel(self.forward, self.widths, [self.width], placed=False)

    @cached_property
    def _placed_forward_kernel(self) -> Callable[..., None]:
        return _kernel(self.forward, self.widths, [self.width], placed=True)

    @cached_property
    def _backward_kernel(self) -> Callable[..., None]:
        assert self.backward is not None
        return _kernel(self.backward, [*self.widths, self.width], self.widths, placed=False)

    @cached_property
    def _placed_backward_kernel(self) -> Callable[..., None]:
        assert self.backward is not None
        return _kernel(self.backward, [*self.widths, self.width], self.widths, placed=True)


class Layout(NamedTuple):
    """Where the components of the arguments and of the result stand in memory."""

    load: Sequence[Columns | None] | None = None
    store: Columns | None = None


NATURAL = Layout()


class _Differentiable(torch.autograd.Function):
    """A map with its own derivative; a second derivative goes through the formula of the first."""

    @staticmethod
    def forward(ctx: Any, function: Map, layout: Layout, parameters: tuple[float, ...], *arguments: Tensor) -> Tensor:
        ctx.function, ctx.layout, ctx.parameters = function, layout, parameters
        ctx.save_for_backward(*arguments)
        return function.evaluate(arguments, layout, parameters)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.function.derivative(ctx.saved_tensors, gradient, ctx.layout, ctx.parameters)
        return None, None, None, *gradients


class _Call(NamedTuple):
    """What an operator does."""

    function: Map
    layout: Layout
    parameters: tuple[float, ...]

    @staticmethod
    @cache
    def parse(key: str) -> _Call:
        name, columns, parameters = key.split(";")
        function = _MAPS[name]
        values = tuple(float(value) for value in parameters.split(",") if value)
        if not columns:
            return _Call(function, NATURAL, values)
        numbers = [int(column) for column in columns.split(",")]
        borders = list(accumulate((*function.widths, function.width), initial=0))
        parts = [tuple(numbers[start:stop]) for start, stop in pairwise(borders)]
        return _Call(function, Layout(tuple(parts[:-1]), parts[-1]), values)


@torch.library.custom_op("rotaware::rows", mutates_args=(), schema="(Tensor[] arguments, str key) -> Tensor")
def _rows_operator(arguments: Sequence[Tensor], key: str) -> Tensor:
    """A map without a graph, opaque to the compiler."""
    call = _Call.parse(key)
    return call.function.evaluate(arguments, call.layout, call.parameters)


@torch.library.custom_op(
    "rotaware::rows_derivative",
    mutates_args=(),
    schema="(Tensor[] arguments, Tensor gradient, str key) -> Tensor[]",
)
def _derivative_operator(arguments: Sequence[Tensor], gradient: Tensor, key: str) -> list[Tensor]:
    """The derivative of a map, opaque to the compiler."""
    call = _Call.parse(key)
    with torch.no_grad():
        return call.function.derivative(arguments, gradient, call.layout, call.parameters)


@_rows_operator.register_fake
def _(arguments: Sequence[Tensor], key: str) -> Tensor:
    function = _Call.parse(key).function
    return arguments[0].new_empty((*_batch(arguments[0], function.tails[0]), *function.output))


@_derivative_operator.register_fake
def _(arguments: Sequence[Tensor], gradient: Tensor, key: str) -> list[Tensor]:
    return [torch.empty_like(argument, memory_format=torch.contiguous_format) for argument in arguments]


def _remember(ctx: Any, inputs: tuple[list[Tensor], str], output: Tensor) -> None:
    arguments, ctx.key = inputs
    ctx.save_for_backward(*arguments)


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[list[Tensor], None]:
    return _derivative_operator(list(ctx.saved_tensors), gradient, ctx.key), None


_rows_operator.register_autograd(_differentiate, setup_context=_remember)


def constant_while_tracing(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: `torch.compile` calls the function while it traces, and keeps the answer.

    Sets the mark of `torch.compiler.assume_constant_result`, which itself imports the whole compiler, and that takes
    as long as the rest of PyTorch.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant_while_tracing
def is_plain_compilation() -> bool:
    """Whether the compiler may meet an opaque operator: not inside of a transform, which it has no rule for."""
    is_exporting = getattr(torch.compiler, "is_exporting", None)
    return (
        is_exporting is not None
        and not is_exporting()
        and torch._C._functorch.peek_interpreter_stack() is None
        and forward_ad._current_level < 0
    )


def is_traced(tensors: Sequence[Tensor]) -> bool:
    """Whether something wants to see through the computation, or the tensors hold no plain memory."""
    # First, since the compiler cannot see through the other questions.
    if torch.compiler.is_compiling():
        return True
    if any(type(tensor) is not Tensor and type(tensor) is not torch.nn.Parameter for tensor in tensors):
        return True
    return is_transformed(tensors) or torch._C._len_torch_dispatch_stack() > 0


def is_transformed(tensors: Sequence[Tensor]) -> bool:
    """Whether a transform or a tracer is at work that custom operators have no rule for; outside of `torch.compile`.

    Forward-mode differentiation is the dangerous one: through a custom operator it gives zeros without an error.
    """
    return (
        torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None
        or any(torch._C._functorch.is_legacy_batchedtensor(tensor) for tensor in tensors)
    )


def _batch(tensor: Tensor, tail: tuple[int, ...]) -> torch.Size:
    """Leading axes."""
    return tensor.shape[: -len(tail)] if tail else tensor.shape


def _ends(shape: torch.Size, tail: tuple[int, ...]) -> bool:
    return not tail or shape[-len(tail) :] == tail


def _split(tensor: Tensor, shape: tuple[int, ...], load: Columns | None, dtype: torch.dtype) -> list[Tensor]:
    """Components of the trailing axes."""
    if not shape:
        return [tensor.to(dtype)]
    # Not `flatten` and `unflatten`: the older vmap, behind `is_grads_batched`, does not know them.
    parts = tensor.to(dtype).reshape(*tensor.shape[: tensor.ndim - len(shape)], prod(shape)).unbind(-1)
    return [parts[column] for column in load] if load else list(parts)


def _joined(parts: Sequence[Any], store: Columns | None, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Components as the trailing axes of one tensor."""
    if not shape:
        return parts[0].to(dtype)
    if store:
        parts = [parts[store.index(column)] for column in range(len(parts))]
    joined = torch.stack(tuple(parts), -1)
    return joined.reshape(*joined.shape[:-1], *shape).to(dtype)


def _rows(tensor: Tensor, width: int) -> np.ndarray:
    """(rows, width) view of a tensor, or of a copy if it is not contiguous."""
    if not tensor.is_contiguous() or tensor.is_neg():
        tensor = tensor.contiguous().resolve_neg()
    return (tensor.detach() if tensor.requires_grad else tensor).numpy().reshape(-1, width)


def _run(kernel: Callable[..., None], arrays: list[np.ndarray], parameters: tuple[float, ...]) -> None:
    """Run a kernel over all rows, in pieces on several threads when there are many."""
    count = len(arrays[0])
    if count < 2 * _ROWS_PER_PIECE:
        kernel(*arrays, *parameters, 0, count)
    else:
        run_in_pieces(lambda start, stop: kernel(*arrays, *parameters, start, stop), count, smallest=_ROWS_PER_PIECE)


@cache
def _column_arrays(columns: tuple[Columns, ...]) -> list[np.ndarray]:
    return [np.array(part) for part in columns]


def _kernel(formula: Formula, reads: Sequence[int], writes: Sequence[int], *, placed: bool) -> Callable[..., None]:
    """A compiled loop that applies `formula` to the rows of arrays.

    Its arguments are the arrays, then their columns if `placed` (else they are in order, which is a little faster), the
    parameters of the formula, first row and last row. Rows are turned into columns in blocks, which makes the loop over
    the formula a loop over contiguous numbers. The source is generated since the number of components is part of it; it
    names the file of the formula as its own, so that numba keeps the compiled code beside it and compiles anew when
    that file changes.
    """
    count = len(inspect.signature(formula).parameters) - sum(reads)
    parameters = [f"p{k}" for k in range(count)]
    inputs, outputs = [f"x{k}" for k in range(len(reads))], [f"y{k}" for k in range(len(writes))]
    columns = [f"{array}_columns" for array in (*inputs, *outputs)] if placed else []
    name = f"{formula.__name__}_{'placed_' if placed else ''}rows"
    a = [f"a[{c}, j]" for c in range(sum(reads))]
    b = [f"b[{c}, j]" for c in range(sum(writes))]

    def entries(arrays: list[str], widths: Sequence[int]) -> list[str]:
        place = "{array}[first + j, {array}_columns[{c}]]" if placed else "{array}[first + j, {c}]"
        return [place.format(array=x, c=c) for x, width in zip(arrays, widths, strict=True) for c in range(width)]

    lines = [
        f"def {name}({', '.join([*inputs, *outputs, *columns, *parameters, 'start', 'stop'])}):",
        f"    a, b = empty(({len(a)}, {_BLOCK})), empty(({len(b)}, {_BLOCK}))",
        f"    for first in range(start, stop, {_BLOCK}):",
        f"        n = min({_BLOCK}, stop - first)",
        "        for j in range(n):",
        *(f"            {into} = {value}" for into, value in zip(a, entries(inputs, reads), strict=True)),
        "        for j in range(n):",
        f"            {', '.join(b)}, = formula({', '.join([*a, *parameters])})",
        "        for j in range(n):",
        *(f"            {into} = {value}" for into, value in zip(entries(outputs, writes), b, strict=True)),
    ]
    namespace: dict[str, Any] = {"__name__": __name__, "empty": np.empty, "formula": formula}
    exec(compile("\n".join(lines), inspect.getfile(formula), "exec"), namespace)
    options = {key: value for key, value in JIT_OPTIONS.items() if key != "forceinline"}
    return numba.njit(cache=True, nogil=True, **options)(namespace[name])
