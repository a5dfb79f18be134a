"""Operators of our own that PyTorch's compiler takes as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rotaware.geo.fused import is_plain_compilation, is_transformed

LIBRARY = torch.library.Library("rotaware", "FRAGMENT")


def define_operator(
    name: str,
    schema: str,
    *,
    run: Callable[..., Any],
    fake: Callable[..., Any],
    backward: Callable[..., Any] | None = None,
    setup_context: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """An operator `rotaware::name`, opaque to `torch.compile`.

    The same as `torch.library.custom_op`, whose wrapper imports the whole compiler at the first call, also in programs
    that never compile anything, and that takes longer than the rest of PyTorch.

    Args:
        schema: arguments and results, as in `(Tensor x, int n) -> Tensor`.
        run: the computation, on any device; must not return an argument or a view of one.
        fake: shapes and dtypes of the results, from tensors without values.
        backward, setup_context: as for `torch.library.register_autograd`; without them there is no gradient.
    Returns:
        The operator.

    >>> twice = define_operator("doctest_twice", "(Tensor x) -> Tensor", run=lambda x: 2 * x, fake=torch.empty_like)
    >>> twice(torch.ones(2))
    tensor([2., 2.])
    """
    LIBRARY.define(name + schema, tags=torch.Tag.pt2_compliant_tag)
    LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"rotaware::{name}", fake, lib=LIBRARY)
    if backward is not None:
        torch.library.register_autograd(f"rotaware::{name}", backward, setup_context=setup_context, lib=LIBRARY)
    return getattr(torch.ops.rotaware, name).default


def sees_through(*tensors: Tensor | None) -> bool:
    """Whether something at work has no rule for a custom operator: a transform, or another tracer than Dynamo.

    >>> sees_through(torch.ones(2)), torch.func.vmap(lambda x: x * sees_through(x))(torch.ones(2))
    (False, tensor([1., 1.]))
    """
    if torch.compiler.is_compiling():
        return not is_plain_compilation()
    return is_transformed([tensor for tensor in tensors if tensor is not None])
