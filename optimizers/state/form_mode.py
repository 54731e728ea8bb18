"""Fake tensors for following updates: quick where the result of an operation follows from the form of its arguments.

Torch's own mode asks a kernel's description for every new shape, about half a millisecond, and loops over a matrix'
rows have a new shape each time. Most of an update's operations need no description: one in place returns its argument,
a view is cheap to make, and an elementwise one has the shape of its arguments and a dtype that depends on theirs alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import (
    FakeTensor,
    FakeTensorMode,
    in_kernel_invocation_manager,
)

Kind = Literal["in place", "view", "elementwise", "other"]
_VIEWS = frozenset(
    f"aten::{name}"
    for name in (
        "as_strided", "diagonal", "expand", "permute", "select", "slice", "squeeze", "t", "transpose", "unsqueeze",
        "view",
    )
)  # fmt: skip
_FAKE = frozenset({FakeTensor, torch.nn.Parameter})
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class FormMode(FakeTensorMode):
    """A fake tensor mode whose results are those of torch's."""

    # The dtypes of elementwise results, by operation and what decides them.
    _dtypes: ClassVar[dict[tuple[Any, ...], torch.dtype]] = {}

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] = _NOTHING
    ) -> Any:
        kwargs = kwargs or _NOTHING
        made = None
        match _kind(func):
            case "in place":
                made = kwargs.get("out", args[0])
                made = made if _has_only_a_form(made) and made.numel() else None
            case "view" if _has_only_a_form(args[0]):
                made = self._view(func, args, kwargs)
            case "elementwise" if not kwargs:
                made = self._elementwise(func, args)
        return super().__torch_dispatch__(func, types, args, kwargs) if made is None else made

    def _view(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> FakeTensor:
        with in_kernel_invocation_manager(self):
            view = func(*args, **kwargs)
        return FakeTensor(self, view, args[0].fake_device)

    def _elementwise(self, func: Any, args: Any) -> FakeTensor | None:
        """Return a contiguous result; None where arguments lie in memory otherwise, or their numbers may matter."""
        tensors = [argument for argument in args if isinstance(argument, Tensor)]
        if not tensors or not all(_has_only_a_form(x) and _is_in_order(x) for x in tensors):
            return None
        key = (func, *(_decides_dtype(argument) for argument in args))
        if key not in self._dtypes:
            made: Any = super().__torch_dispatch__(func, (), args, {})
            self._dtypes[key] = made.dtype
            return made  # type: ignore[no-any-return]
        shapes = {x.shape for x in tensors}
        shape = shapes.pop() if len(shapes) == 1 else torch.broadcast_shapes(*shapes)
        with in_kernel_invocation_manager(self):
            form = torch.empty(shape, dtype=self._dtypes[key], device="meta")
        return FakeTensor(self, form, tensors[0].fake_device)  # type: ignore[attr-defined]


@cache
def _kind(func: Any) -> Kind:
    if not isinstance(func, OpOverload):
        return "other"
    returned, tags = func._schema.returns, func.tags
    if len(returned) != 1 or not isinstance(returned[0].type, torch.TensorType):
        return "other"
    alias = returned[0].alias_info
    if alias is None:
        return "elementwise" if torch.Tag.pointwise in tags else "other"
    if alias.is_write:
        return "other" if torch.Tag.inplace_view in tags else "in place"
    return "view" if func._schema.name in _VIEWS else "other"


def _has_only_a_form(tensor: Any) -> bool:
    """Whether a tensor is a fake one whose numbers nobody knows."""
    return type(tensor) in _FAKE and tensor.constant is None


def _is_in_order(tensor: Tensor) -> bool:
    """Whether neighbours in memory are so in the tensor, row by row: an elementwise result is then contiguous."""
    strides = [s for size, s in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]
    return 0 not in strides and strides == sorted(strides, reverse=True)


def _decides_dtype(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return argument.dtype, argument.dim() == 0
    return type(argument) if isinstance(argument, (int, float, bool)) else argument
