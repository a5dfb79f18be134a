"""What every map of the room promises, whatever it computes: batches, dtypes, derivatives, no need of data."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from map_cases import (
    Case,
    close,
    every_differentiable_map,
    every_map,
    gradient,
    maps,
)
from torch import Tensor
from torch._subclasses import FakeTensorMode

# PyTorch scripts its forward derivatives the first time one is asked for, and warns that scripts are no longer made.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


class TestBatches:
    @every_map
    def test_any_leading_axes(self, one: Case, dtype: torch.dtype) -> None:
        arguments = one.sample((6,), dtype)
        result = one.function(*arguments)
        assert result.dtype == dtype and result.shape[0] == 6
        single = one.function(*(x[0] for x in arguments))
        assert close(single, result[0], 1e-5 if dtype == torch.float32 else 1e-11)
        folded = one.function(*(x.unflatten(0, (2, 1, 3)) for x in arguments))
        assert close(folded.flatten(0, 2), result, 1e-5 if dtype == torch.float32 else 1e-11)
        for empty in ((0,), (2, 0)):
            nothing = one.function(*(x[:1].expand(*empty, *x.shape[1:]) for x in arguments))
            assert nothing.shape == (*empty, *result.shape[1:]) and nothing.dtype == dtype

    @every_differentiable_map
    def test_gradient_of_nothing_is_empty(self, one: Case) -> None:
        arguments = [x[:0].requires_grad_() for x in one.sample((1,))]
        gradients = torch.autograd.grad(one.function(*arguments).sum(), arguments, allow_unused=True)
        assert all(g is None or g.shape == x.shape for g, x in zip(gradients, arguments, strict=True))

    @every_differentiable_map
    def test_strides_do_not_matter(self, one: Case) -> None:
        arguments = one.sample((4,))
        spread = [torch.stack([x, x], -1)[..., 0] for x in arguments]  # every second number of memory
        expanded = [x[0].expand_as(x) for x in arguments]
        assert close(one.function(*spread), one.function(*arguments))
        assert close(one.function(*expanded), one.function(*(x.contiguous() for x in expanded)))
        gradients = [gradient(one, values) for values in (spread, arguments)]
        assert all(close(a, b) for a, b in zip(*gradients, strict=True))

    @every_map
    def test_nan_stays_where_it_is(self, one: Case) -> None:
        arguments = one.sample((3,))
        clean = one.function(*arguments)
        poisoned = [x.clone() for x in arguments]
        poisoned[0][1] = torch.nan
        result = one.function(*poisoned)
        assert result[1].isnan().any()
        assert close(result[::2], clean[::2])

    @every_map
    def test_the_argument_is_not_changed(self, one: Case) -> None:
        arguments = one.sample((3,))
        before = [x.clone() for x in arguments]
        one.function(*arguments)
        assert all(torch.equal(x, y) for x, y in zip(arguments, before, strict=True))

    @every_map
    def test_writing_into_the_result_does_not_reach_the_argument(self, one: Case) -> None:
        if one.name == "rotation_inverse":
            pytest.skip("a view, as its documentation says")
        arguments = one.sample((3,))
        before = [x.clone() for x in arguments]
        one.function(*arguments).zero_()
        assert all(torch.equal(x, y) for x, y in zip(arguments, before, strict=True))


class TestPrecision:
    @every_map
    @pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
    def test_half_is_the_rounded_float32_result(self, one: Case, half: torch.dtype) -> None:
        arguments = one.sample((5,), half)
        result = one.function(*arguments)
        expected = one.function(*(x.float() for x in arguments)).to(half)
        assert result.dtype == half
        # One unit of the half type, for maps of several steps.
        assert ((result - expected).abs() <= torch.finfo(half).eps * expected.abs()).all()

    @every_map
    def test_autocast_changes_nothing(self, one: Case) -> None:
        arguments = one.sample((5,), torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            inside = one.function(*arguments)
        assert inside.dtype == torch.float32
        assert torch.equal(inside, one.function(*arguments))

    @maps("axis_angle_to_matrix", "matrix_to_quaternion", "rotation_6d_to_matrix", "special_procrustes")
    def test_threads_change_nothing(self, one: Case, threads: Callable[[int], None]) -> None:
        arguments = [x.expand(40_000, *x.shape[1:]) * 1.0 for x in one.sample((1,), torch.float32)]
        arguments[0] += torch.linspace(0, 1e-3, 40_000).reshape(-1, *[1] * (arguments[0].ndim - 1))
        results = []
        for number in (1, 2):
            threads(number)
            results.append((one.function(*arguments), *gradient(one, arguments)))
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


class TestDerivatives:
    @every_differentiable_map
    def test_function_transforms_agree(self, one: Case) -> None:
        arguments = tuple(one.sample((3,)))
        every = tuple(range(len(arguments)))
        result = one.function(*arguments)
        assert close(torch.vmap(one.function)(*arguments), result)

        backward = torch.vmap(torch.func.jacrev(one.function, argnums=every))(*arguments)
        forward = torch.vmap(torch.func.jacfwd(one.function, argnums=every))(*arguments)
        tangents = one.sample((3,), seed=1)
        tangent = torch.func.jvp(one.function, arguments, tuple(tangents))[1]
        product = torch.zeros_like(result)
        for jacobian, direction in zip(backward, tangents, strict=True):
            product = product + (jacobian.reshape(*result.shape, -1) * flat(direction, result)).sum(-1)
        assert all(close(a, b) for a, b in zip(forward, backward, strict=True))
        assert close(tangent, product)

        leaves = [x.clone().requires_grad_() for x in arguments]
        output = one.function(*leaves)
        weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        eager = torch.autograd.grad((weights * output).sum(), leaves, allow_unused=True, materialize_grads=True)
        traced = torch.func.grad(lambda *x: (weights * one.function(*x)).sum(), argnums=every)(*arguments)
        assert all(close(a, b) for a, b in zip(eager, traced, strict=True))

    @every_differentiable_map
    def test_batched_gradients(self, one: Case) -> None:
        leaves = [x.requires_grad_() for x in one.sample((2,))]
        output = one.function(*leaves)
        directions = torch.randn(3, *output.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
        together = torch.autograd.grad(output, leaves, directions, is_grads_batched=True, **options)
        for i, direction in enumerate(directions):
            single = torch.autograd.grad(output, leaves, direction, **options)
            assert all(close(a[i], b) for a, b in zip(together, single, strict=True))

    @every_differentiable_map
    def test_second_derivatives(self, one: Case) -> None:
        arguments = one.sample(())

        def loss(first: Tensor) -> Tensor:
            return one.function(first, *arguments[1:]).square().cos().sum()

        leaf = arguments[0].clone().requires_grad_()
        first = torch.autograd.grad(loss(leaf), leaf, create_graph=True)[0]
        assert first.requires_grad
        rows = [torch.autograd.grad(entry, leaf, retain_graph=True)[0] for entry in first.reshape(-1)]
        twice = torch.stack(rows).reshape(leaf.shape + leaf.shape)
        assert twice.isfinite().all()
        # Through the formulas of iterated maps themselves, eight digits are left.
        assert close(torch.func.hessian(loss)(arguments[0]), twice, 1e-8)

    @every_differentiable_map
    def test_inference_and_inner_nodes(self, one: Case) -> None:
        arguments = one.sample((2,))
        with torch.inference_mode():
            inferred = one.function(*arguments)
        leaf = arguments[0].clone().requires_grad_()
        inner = one.function(leaf * 1.0, *arguments[1:])
        assert torch.equal(inferred, inner) or close(inferred, inner)
        inner.sum().backward()
        assert leaf.grad is not None
        frozen = one.function(*arguments)
        assert not frozen.requires_grad


def flat(direction: Tensor, result: Tensor) -> Tensor:
    """(batch, 1, ..., m): the tangent of an argument against the axes of a Jacobian."""
    return direction.reshape(direction.shape[0], *[1] * (result.ndim - 1), -1)


class TestWithoutData:
    @every_map
    def test_meta_and_fake_tensors(self, one: Case) -> None:
        arguments = one.sample((3,), torch.float32)
        result = one.function(*arguments)
        meta = one.function(*(x.to("meta") for x in arguments))
        assert (meta.shape, meta.dtype, meta.device.type) == (result.shape, result.dtype, "meta")
        with FakeTensorMode() as mode:
            fake = one.function(*(mode.from_tensor(x) for x in arguments))
        assert (fake.shape, fake.dtype, fake.device) == (result.shape, result.dtype, result.device)
