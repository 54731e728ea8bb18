"""Small problems, fixed gradients, and exact comparison, for whatever optimizer a test is handed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils._pytree import tree_flatten

SHAPES = ((6, 10), (5,))


def parameters(
    device: Any, dtype: torch.dtype = torch.float32, shapes: Sequence[tuple[int, ...]] = SHAPES
) -> list[Parameter]:
    """The same parameters every time, on any device: a matrix and a vector."""
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=generator) for shape in shapes]
    return [Parameter(value.to(device, dtype)) for value in values]


def copies(originals: Iterable[Tensor]) -> list[Parameter]:
    """New parameters of the same values."""
    return [Parameter(original.detach().clone()) for original in originals]


def set_gradients(params: Iterable[Tensor], step: int) -> None:
    """Give every parameter the gradient of this step: the same in every run, whatever its values are."""
    for index, parameter in enumerate(params):
        generator = torch.Generator().manual_seed(1000 * step + index)
        gradient = torch.randn(parameter.shape, generator=generator)
        parameter.grad = gradient.to(parameter.device, parameter.dtype)


def advance(
    optimizer: torch.optim.Optimizer, params: Sequence[Tensor], steps: Iterable[int]
) -> None:
    """Take these steps, each with its own gradients."""
    for step in steps:
        set_gradients(params, step)
        optimizer.step()


def least_squares(device: Any, dtype: torch.dtype, *, contiguous: bool = True) -> Any:
    """A weight, a bias, and their loss |W x + b|^2 for a fixed x."""
    generator = torch.Generator().manual_seed(0)
    weight, bias = (
        torch.randn(10, 5, 2, generator=generator),
        torch.randn(10, 2, generator=generator),
    )
    x = torch.randn(5, generator=generator).to(device, dtype)
    views = [value.to(device, dtype)[..., 0] for value in (weight, bias)]
    params = [Parameter(view.contiguous() if contiguous else view) for view in views]

    def loss() -> Tensor:
        return (params[0] @ x + params[1]).square().sum()

    return params, loss


def closure_of(optimizer: torch.optim.Optimizer, loss: Any) -> Any:
    """What `step` calls to evaluate the loss and its gradients."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    return closure


def plain(value: Any) -> Any:
    """A structure with every tensor that is made of others, such as 8-bit state, replaced by those."""
    if isinstance(value, dict):
        return {key: plain(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Tensor) and hasattr(value, "__tensor_flatten__"):
        names, _ = value.__tensor_flatten__()
        return {name: getattr(value, name) for name in names}
    return value.detach() if isinstance(value, Tensor) else value


def assert_same(left: Any, right: Any, message: str = "") -> None:
    """Equal to the last bit, in structure, dtype and device."""
    ours, structure = tree_flatten(plain(left))
    theirs, other = tree_flatten(plain(right))
    assert structure == other, message
    for a, b in zip(ours, theirs, strict=True):
        if isinstance(a, Tensor):
            # torch's words for how they differ, after ours.
            torch.testing.assert_close(a, b, rtol=0, atol=0, msg=lambda text: f"{message}\n{text}")
        else:
            assert a == b, message
