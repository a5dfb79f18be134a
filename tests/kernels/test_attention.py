"""The public operator: its derivatives of every kind, under the compiler, under autocast, and what it refuses."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from attention_cases import LAYOUTS, NAMES, TOLERANCES, Case, Layout, assert_near, build, expect, make_case
from torch import Tensor
from torch.autograd import forward_ad

from rotaware.kernels.attention import available_backends, neighborhood_attention
from rotaware.kernels.neighborhood import Neighborhood

BACKENDS = ("numba", "torch", "reference")
OPAQUE = ("numba", "torch")
# Small enough for numerical derivatives; head widths that numba has compiled for the other tests.
TINY = {
    "plain": Layout(4, 5, 1, 3, 16, 16),
    "pair and bias": Layout(3, 4, 1, 2, 16, 16, pair=4, bias=True),
}
# Raised by torch's own modules as they are first imported.
OF_TORCH = pytest.mark.filterwarnings("ignore:.torch.jit.script.* is deprecated:DeprecationWarning")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def table(case: Case) -> Neighborhood:
    """The neighborhood of a case."""
    return Neighborhood.from_index(case.idx, len(case.k))


def present(case: Case) -> dict[str, Tensor]:
    """The inputs that the case has."""
    return {name: getattr(case, name) for name in NAMES if getattr(case, name) is not None}


def leaves(case: Case) -> dict[str, Tensor]:
    """The inputs that the case has, with gradient."""
    return {name: x.clone().requires_grad_() for name, x in present(case).items()}


def attend(inputs: dict[str, Tensor], neighborhood: Neighborhood, backend: Any = "auto") -> tuple[Tensor, ...]:
    """The operator on inputs by name; always a tuple."""
    pair = (inputs["u"], inputs["y"]) if "u" in inputs else None
    found = neighborhood_attention(
        inputs["q"],
        inputs["k"],
        inputs["v"],
        neighborhood,
        pair=pair,
        bias=inputs.get("bias"),
        backend=backend,
    )
    return found if isinstance(found, tuple) else (found,)


def of_tensors(case: Case, backend: Any = "auto") -> Callable[..., tuple[Tensor, ...]]:
    """The operator as a function of the tensors of a case, in the order of `NAMES`."""
    names, neighborhood = list(present(case)), table(case)
    return lambda *tensors: attend(dict(zip(names, tensors, strict=True)), neighborhood, backend)


def product(case: Case, outputs: Sequence[Tensor]) -> Tensor:
    """The number whose gradients `expect` gives."""
    return sum((x * grad).sum() for x, grad in zip(outputs, (case.grad_out, case.grad_z), strict=False))


@pytest.mark.parametrize("backend", [*BACKENDS, "auto"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_results_and_gradients_are_those_of_the_definition(name: str, backend: str) -> None:
    case = make_case(name)
    (out, z, _), gradients = expect(case)
    output_tolerance, gradient_tolerance = TOLERANCES[case.q.dtype]
    inputs = leaves(case)
    outputs = attend(inputs, table(case), backend)
    for one, exact in zip(outputs, (out, z), strict=False):
        assert_near(one.detach(), exact, output_tolerance, "output")
    assert len(outputs) == (1 if case.u is None else 2)
    product(case, outputs).backward()
    for key, exact_gradient in zip(NAMES, gradients, strict=True):
        if exact_gradient is not None:
            # Of a tensor without entries, no gradient is a gradient.
            found = inputs[key].grad if inputs[key].numel() else torch.zeros_like(inputs[key])
            assert found is not None and found.dtype == inputs[key].dtype
            assert_near(found, exact_gradient, gradient_tolerance, f"gradient of {key}")


@OF_TORCH
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", TINY)
def test_numerical_derivatives(name: str, backend: str) -> None:
    case = build(TINY[name], torch.float64)
    tensors = tuple(leaves(case).values())
    assert torch.autograd.gradcheck(of_tensors(case, backend), tensors)
    assert torch.autograd.gradcheck(of_tensors(case, backend), tensors, check_forward_ad=True, fast_mode=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", TINY)
def test_numerical_second_derivatives(name: str, backend: str) -> None:
    case = build(TINY[name], torch.float64)
    tensors = tuple(leaves(case).values())
    assert torch.autograd.gradgradcheck(of_tensors(case, backend), tensors, fast_mode=name != "plain")


@pytest.mark.parametrize("backend", OPAQUE)
def test_second_derivatives_where_only_some_inputs_have_gradients(backend: str) -> None:
    case = build(TINY["pair and bias"], torch.float64)
    for names in (["q"], ["v"], ["k", "bias"], ["u"], ["y"]):
        chosen = [present(case)[name].clone().requires_grad_() for name in names]

        def function(*tensors: Tensor, names: list[str] = names) -> tuple[Tensor, ...]:
            return attend({**present(case), **dict(zip(names, tensors, strict=True))}, table(case), backend)

        assert torch.autograd.gradcheck(function, chosen, fast_mode=True)
        assert torch.autograd.gradgradcheck(function, chosen, fast_mode=True)


def test_derivatives_of_derivatives_of_a_curved_loss() -> None:
    """Where the gradient of the output depends on the inputs too, which `gradgradcheck` does not try."""
    case = build(TINY["plain"], torch.float64)
    found = []
    for backend in BACKENDS:
        q = case.q.clone().requires_grad_()
        value = attend({**present(case), "q": q}, table(case), backend)[0].square().sum()
        for _ in range(3):
            (grad,) = torch.autograd.grad(value, q, create_graph=True)
            value = grad.square().sum()
            found.append(value.detach())
    torch.testing.assert_close(found, found[-3:] * len(BACKENDS))


@pytest.mark.parametrize("backend", OPAQUE)
@pytest.mark.parametrize("name", ["bias", "pair and bias", "no query"])
def test_the_operators_keep_the_promises_of_custom_operators(name: str, backend: str) -> None:
    case = make_case(name, torch.float32, seed=1)
    # The checks compare by value, in which NaN differs from itself.
    case = case.map(lambda tensor: torch.nan_to_num(tensor) if tensor.is_floating_point() else tensor)
    inputs = [case.q, case.k, case.v, case.idx, case.u, case.y, case.bias]
    grown = [x.clone().requires_grad_() if x is not None and x.is_floating_point() else x for x in inputs]
    operators = torch.ops.rotaware
    inverse = table(case).inverse()
    torch.library.opcheck(operators.neighborhood_attention.default, (*grown, *inverse, case.scale, [], backend))
    results = operators.neighborhood_attention(*inputs, *inverse, case.scale, [], backend)
    arguments = (*results, *inverse, case.scale, [], backend, case.has())
    torch.library.opcheck(
        operators.neighborhood_attention_backward.default,
        (case.grad_out.clone().requires_grad_(), case.grad_z.clone().requires_grad_(), *grown, *arguments),
        # What is differentiable in the results of the forward pass is differentiated through its inputs.
        rtol=1e-3,
        atol=1e-5,
    )


@pytest.mark.parametrize("backend", OPAQUE)
def test_compiled_once_for_all_sizes(backend: str) -> None:
    torch.compiler.reset()
    graphs = []

    def count(module: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(module)
        return module

    compiled = torch.compile(attend, fullgraph=True, dynamic=True, backend=count)
    for keys in (17, 23, 40, 31):
        case = build(Layout(keys, keys, 4, 16, 16, 16, pair=4, bias=True), torch.float32)
        inputs = leaves(case)
        outputs = compiled(inputs, table(case), backend)
        product(case, outputs).backward()
        own = leaves(case)
        expected = attend(own, table(case), backend)
        product(case, expected).backward()
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(outputs, expected, strict=True))
        assert all(torch.equal(inputs[name].grad, own[name].grad) for name in own)
    assert len(graphs) == 1


@OF_TORCH
@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_gradients(compiler: str) -> None:
    torch.compiler.reset()

    def layer(inputs: dict[str, Tensor], neighborhood: Neighborhood) -> Tensor:
        out, z = attend({**inputs, "q": inputs["q"] * 2}, neighborhood)
        return torch.relu(out).sum() + z.square().sum()

    compiled = torch.compile(layer, fullgraph=True, backend=compiler)
    for keys in (17, 23, 40):
        case = build(Layout(keys, keys, 4, 16, 16, 16, pair=4, bias=True), torch.float32)
        inputs, own = leaves(case), leaves(case)
        found, expected = compiled(inputs, table(case)), layer(own, table(case))
        found.backward()
        expected.backward()
        torch.testing.assert_close(found, expected)
        for name in own:
            torch.testing.assert_close(inputs[name].grad, own[name].grad)


@OF_TORCH
@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_forward_mode_is_never_silently_zero(backend: str) -> None:
    case = make_case("pair and bias", torch.float64)
    tensors = tuple(present(case).values())
    tangents = tuple(
        torch.randn(x.shape, generator=torch.Generator().manual_seed(place), dtype=x.dtype)
        for place, x in enumerate(tensors)
    )
    function = of_tensors(case, backend)
    expected, expected_tangents = torch.func.jvp(of_tensors(case, "reference"), tensors, tangents)
    # Equal to the derivative along the tangents by reverse mode.
    names = leaves(case)
    product(case, attend(names, table(case), "numba")).backward()
    along = sum((x.grad * tangent).sum() for x, tangent in zip(names.values(), tangents, strict=True))
    torch.testing.assert_close(product(case, expected_tangents), along)
    outputs, output_tangents = torch.func.jvp(function, tensors, tangents)
    torch.testing.assert_close((outputs, output_tangents), (expected, expected_tangents))
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(x, tangent) for x, tangent in zip(tensors, tangents, strict=True)]
        for found, tangent in zip(function(*duals), expected_tangents, strict=True):
            torch.testing.assert_close(forward_ad.unpack_dual(found).tangent, tangent)
        # One input alone carries a tangent.
        single = function(*tensors[:-1], duals[-1])
        assert forward_ad.unpack_dual(single[0]).tangent.abs().max() > 0


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_function_transforms(backend: str) -> None:
    case = make_case("pair and bias", torch.float64)
    tensors = tuple(present(case).values())
    function = of_tensors(case, backend)
    everything = tuple(range(len(tensors)))
    gradients = torch.func.grad(lambda *inputs: product(case, function(*inputs)), argnums=everything)(*tensors)
    for name, found, exact in zip(NAMES, gradients, expect(case)[1], strict=True):
        assert exact is not None
        assert_near(found, exact, 1e-12, f"gradient of {name}")
    batch = torch.stack([case.q, 2 * case.q, -case.q])
    found = torch.func.vmap(lambda q: function(q, *tensors[1:])[0])(batch)
    torch.testing.assert_close(found, torch.stack([function(q, *tensors[1:])[0] for q in batch]))
    per_sample = torch.func.vmap(torch.func.grad(lambda q: product(case, function(q, *tensors[1:]))))(batch)
    torch.testing.assert_close(per_sample[0], gradients[0])


@pytest.mark.parametrize("backend", OPAQUE)
def test_a_batch_of_gradients_at_once(backend: str) -> None:
    case = make_case("pair and bias", torch.float64)
    inputs = leaves(case)
    out, _ = attend(inputs, table(case), backend)
    seeds = torch.stack([case.grad_out, -2 * case.grad_out])
    batched = torch.autograd.grad(out, inputs["q"], seeds, is_grads_batched=True, retain_graph=True)[0]
    single = torch.autograd.grad(out, inputs["q"], case.grad_out)[0]
    torch.testing.assert_close(batched, torch.stack([single, -2 * single]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_computes_in_its_dtype(backend: str) -> None:
    case = make_case("pair and bias")
    inputs = leaves(case)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = attend(inputs, table(case), backend)
    assert [x.dtype for x in outputs] == [torch.bfloat16] * 2
    product(case, [x.float() for x in outputs]).backward()
    (out, z, _), gradients = expect(case)
    for found, exact in zip(outputs, (out, z), strict=True):
        assert_near(found.detach(), exact, 2e-2, "output")
    for name, exact_gradient in zip(NAMES, gradients, strict=True):
        found = inputs[name].grad
        assert exact_gradient is not None and found is not None and found.dtype == torch.float32
        assert_near(found, exact_gradient, 2e-2, name)
    with torch.autocast("cpu", torch.bfloat16):
        assert attend(present(make_case("pair", torch.float64)), table(make_case("pair")))[0].dtype == torch.float64


@pytest.mark.parametrize("backend", OPAQUE)
def test_any_memory_layout_gives_the_same_bits(backend: str) -> None:
    case = make_case("pair and bias")
    inputs, own = leaves(case), leaves(case)
    strided = {
        name: x.detach().movedim(0, -1).contiguous().movedim(-1, 0).requires_grad_() for name, x in inputs.items()
    }
    assert not any(x.is_contiguous() for x in strided.values())
    idx = case.idx.t().contiguous().t()
    outputs = attend(strided, Neighborhood.from_index(idx, len(case.k)), backend)
    expected = attend(own, table(case), backend)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(outputs, expected, strict=True))
    # A sum gives a gradient with stride zero.
    sum(x.sum() for x in outputs).backward()
    sum(x.sum() for x in expected).backward()
    assert all(torch.equal(strided[name].grad, own[name].grad) for name in own)


@pytest.mark.parametrize("backend", OPAQUE)
def test_the_order_of_the_points_does_not_matter(backend: str) -> None:
    case = build(Layout(31, 31, 4, 16, 16, 16, pair=4, bias=True), torch.float64)
    order = torch.randperm(31, generator=torch.Generator().manual_seed(5))
    inputs, moved = leaves(case), {name: x[order].requires_grad_() for name, x in present(case).items()}
    outputs = attend(inputs, table(case), backend)
    moved_outputs = attend(moved, table(case).permute(order), backend)
    for ours, theirs in zip(moved_outputs, outputs, strict=True):
        torch.testing.assert_close(ours, theirs[order])
    product(case, outputs).backward()
    sum((x * grad[order]).sum() for x, grad in zip(moved_outputs, (case.grad_out, case.grad_z), strict=True)).backward()
    for name, x in inputs.items():
        assert x.grad is not None
        torch.testing.assert_close(moved[name].grad, x.grad[order])


def test_the_scale_is_one_over_the_root_of_the_width_unless_given() -> None:
    case = make_case("plain")
    arguments = (case.q, case.k, case.v, table(case))
    assert torch.equal(neighborhood_attention(*arguments), neighborhood_attention(*arguments, scale=0.25))
    flat = neighborhood_attention(*arguments, scale=0.0)
    names = case.idx[2][case.idx[2] >= 0].long()
    torch.testing.assert_close(flat[2], case.v[names].mean(0))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_grid_is_a_table_like_any_other(backend: str) -> None:
    grid = Neighborhood.grid((5, 6), 3)
    q, k, v = torch.randn(3, 30, 4, 16, generator=torch.Generator().manual_seed(0)).unbind()
    found = neighborhood_attention(q, k, v, grid, backend=backend)  # type: ignore[arg-type]
    expected = neighborhood_attention(q, k, v, Neighborhood.from_index(grid.idx, 30), backend="reference")
    torch.testing.assert_close(found, expected)


def test_the_inverse_list_is_built_for_gradients_of_keys_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Neighborhood) -> None:
        raise AssertionError("the inverse list was asked for")

    monkeypatch.setattr(Neighborhood, "inverse", refuse)
    case = make_case("pair and bias")
    with torch.no_grad():
        attend(leaves(case), table(case))
    inputs = {**present(case), "q": case.q.clone().requires_grad_()}
    product(case, attend(inputs, table(case))).backward()
    assert inputs["q"].grad is not None
    with pytest.raises(AssertionError, match="inverse list"):
        attend(leaves(case), table(case))


def test_what_runs_here_is_told() -> None:
    statuses = {status.name: status for status in available_backends()}
    assert list(statuses) == ["numba", "triton", "torch", "reference"]
    assert all("cpu" in statuses[name].devices for name in BACKENDS)
    assert all(statuses[name].reason is None for name in BACKENDS)
    if not torch.cuda.is_available():
        assert statuses["triton"].reason
        assert "cuda" not in statuses["triton"].devices


@pytest.mark.skipif(INTERPRETED, reason="the interpreter runs on the CPU")
def test_a_named_backend_that_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case("plain")
    with pytest.raises(RuntimeError, match=r"'triton' cannot run on cpu: .+"):
        neighborhood_attention(case.q, case.k, case.v, table(case), backend="triton")
    elsewhere = case.to("meta")
    assert neighborhood_attention(elsewhere.q, elsewhere.k, elsewhere.v, table(elsewhere)).shape == (37, 1, 16)
    with pytest.raises(RuntimeError, match="on the CPU for 'numba', got meta"):
        neighborhood_attention(elsewhere.q, elsewhere.k, elsewhere.v, table(elsewhere), backend="numba")
    monkeypatch.setenv("ROTAWARE_ATTENTION_BACKEND", "triton")
    with pytest.raises(RuntimeError, match=r"'triton' cannot run on cpu: .+"):
        neighborhood_attention(case.q, case.k, case.v, table(case))


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case("pair and bias")
    chunked = attend(present(case), table(case), "torch")
    monkeypatch.setenv("ROTAWARE_ATTENTION_BACKEND", "torch")
    assert torch.equal(attend(present(case), table(case))[0], chunked[0])
    monkeypatch.setenv("ROTAWARE_ATTENTION_BACKEND", "cuda")
    with pytest.raises(ValueError, match="ROTAWARE_ATTENTION_BACKEND: expected one of 'auto', 'numba'"):
        attend(present(case), table(case))


def test_on_request_the_table_is_checked() -> None:
    case = make_case("plain")
    for entry in (-2, len(case.k)):
        idx = case.idx.clone()
        idx[4, 2] = entry
        with pytest.raises(ValueError, match=rf"idx: expected entries from -1 to 28, got {entry} in row 4, slot 2"):
            wrong = Neighborhood.from_index(idx, len(case.k))
            neighborhood_attention(case.q, case.k, case.v, wrong, validate=True)


@pytest.mark.parametrize(
    ("error", "message", "changes"),
    [
        (TypeError, "neighborhood: expected a Neighborhood, got Tensor", {"neighborhood": torch.zeros(4, 2).int()}),
        (TypeError, "q: expected a floating point tensor", {"q": torch.zeros(4, 2, 8, dtype=torch.int64)}),
        (TypeError, "v: expected a torch.Tensor, got list", {"v": [1.0]}),
        (ValueError, r"q: expected shape \(4, H, d\), got \(5, 2, 8\)", {"q": torch.zeros(5, 2, 8)}),
        (ValueError, r"q: expected shape \(4, H, d\), got \(4, 16\)", {"q": torch.zeros(4, 16)}),
        (ValueError, r"k: expected shape \(3, 2, 8\), got \(3, 2, 4\)", {"k": torch.zeros(3, 2, 4)}),
        (ValueError, r"k: expected shape \(3, 2, 8\), got \(3, 1, 8\)", {"k": torch.zeros(3, 1, 8)}),
        (ValueError, r"v: expected shape \(3, 2, dv\), got \(4, 2, 8\)", {"v": torch.zeros(4, 2, 8)}),
        (ValueError, r"bias: expected shape \(4, 2, 2\), got \(4, 2\)", {"bias": torch.zeros(4, 2)}),
        (TypeError, "bias: expected a floating", {"bias": torch.zeros(4, 2, 2, dtype=torch.bool)}),
        (ValueError, "q, k, v.*: expected one dtype", {"k": torch.zeros(3, 2, 8, dtype=torch.float64)}),
        (ValueError, "one device", {"q": torch.zeros(4, 2, 8, device="meta")}),
        (ValueError, "one device", {"bias": torch.zeros(4, 2, 2, device="meta")}),
        (ValueError, r"pair\[0\]: expected shape", {"pair": (torch.zeros(4, 1, 3), torch.zeros(4, 2, 3))}),
        (ValueError, r"pair\[1\]: expected shape", {"pair": (torch.zeros(4, 2, 3), torch.zeros(4, 2, 4))}),
        (ValueError, r"pair\[1\]: expected shape", {"pair": (torch.zeros(4, 2, 3), torch.zeros(4, 3, 3))}),
        (TypeError, r"pair\[1\]: expected a torch.Tensor", {"pair": (torch.zeros(4, 2, 3), None)}),
        (TypeError, r"pair\[0\]: expected a torch.Tensor", {"pair": (None, torch.zeros(4, 2, 3))}),
        (TypeError, "pair: expected", {"pair": torch.zeros(4, 2, 3)}),
        (ValueError, "backend: expected one of 'auto', 'numba'", {"backend": "cuda"}),
    ],
)
def test_misuse_is_named(error: type[Exception], message: str, changes: dict[str, Any]) -> None:
    right = {
        "q": torch.zeros(4, 2, 8),
        "k": torch.zeros(3, 2, 8),
        "v": torch.zeros(3, 2, 8),
        "neighborhood": Neighborhood.from_index(torch.zeros(4, 2, dtype=torch.int32), 3),
    }
    with pytest.raises(error, match=message):
        neighborhood_attention(**{**right, **changes})


def test_a_table_of_floats_is_refused() -> None:
    with pytest.raises(TypeError, match="idx: expected an integer tensor"):
        Neighborhood.from_index(torch.zeros(4, 2))
