"""Maps under `torch.compile`, `torch.export` and ONNX."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from map_cases import Case, close, gradient, maps
from torch import Tensor


class TestCompilers:
    @maps(
        "matrix_to_quaternion", "matrix_to_axis_angle", "geodesic_distance", "rotation_6d_to_matrix",
        "special_procrustes_4", "quaternion_apply", "matrix_to_euler",
        slow=[
            "quaternion_to_matrix", "rotation_5d_to_matrix", "rotation_10d_to_matrix", "special_procrustes",
            "matrix_to_mrp", "so_n_to_matrix", "quaternion_slerp", "so3_left_jacobian", "kabsch",
        ],
    )  # fmt: skip
    def test_one_graph_forward_and_backward(self, one: Case) -> None:
        torch.compiler.reset()
        arguments = one.sample((3,))
        compiled = torch.compile(one.function, fullgraph=True, backend="aot_eager")
        inside = Case(one.name, compiled, one.arguments)
        assert close(compiled(*arguments), one.function(*arguments))
        assert all(close(a, b) for a, b in zip(gradient(inside, arguments), gradient(one, arguments), strict=True))

    @maps(
        "matrix_to_quaternion", "axis_angle_to_matrix", "rotation_6d_to_matrix", slow=["special_procrustes", "kabsch"]
    )
    def test_export_with_any_batch(self, one: Case) -> None:
        program = torch.export.export(
            Module(one.function), tuple(one.sample((4,))), dynamic_shapes=any_batch(one), strict=False
        )
        for rows in (2, 7):
            arguments = one.sample((rows,), seed=rows)
            assert close(program.module()(*arguments), one.function(*arguments))

    @pytest.mark.filterwarnings("ignore")
    @maps(
        "quaternion_to_matrix", "matrix_to_quaternion", "axis_angle_to_matrix", "matrix_to_axis_angle",
        "rotation_6d_to_matrix", "euler_to_matrix", "geodesic_distance",
        slow=["special_procrustes", "rotation_10d_to_matrix"],
    )  # fmt: skip
    def test_onnx(self, one: Case) -> None:
        runtime = pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
        program = torch.onnx.export(
            Module(one.function), tuple(one.sample((4,), torch.float32)),
            dynamic_shapes=any_batch(one), dynamo=True, verbose=False,
        )  # fmt: skip
        session = runtime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
        arguments = one.sample((7,), torch.float32, seed=1)
        feeds = {entry.name: x.numpy() for entry, x in zip(session.get_inputs(), arguments, strict=True)}
        assert close(torch.from_numpy(session.run(None, feeds)[0]), one.function(*arguments), 3e-6)


class Module(torch.nn.Module):
    """A function as the exporters want it."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *arguments: Tensor) -> Tensor:
        return self.function(*arguments)


def any_batch(one: Case) -> tuple[tuple[dict[int, torch.export.Dim], ...]]:
    """The first axis of every argument is open; one more tuple since the arguments are variadic."""
    batch = torch.export.Dim("batch", min=2, max=1024)
    return (tuple({0: batch} for _ in one.arguments),)
