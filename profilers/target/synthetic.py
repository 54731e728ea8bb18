"""Synthetic batches from a description such as `ids=int64[8,256]<32000`, for a model that comes without data."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from subopt.errors import UsageError, suggestion

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float32, torch.float64, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}
_FORM = re.compile(
    r"\s*(?:(?P<name>[A-Za-z_]\w*)\s*=)?\s*(?P<dtype>\w+)\s*\[(?P<shape>[\d\s,]*)\]\s*(?:<\s*(?P<bound>\d{1,20}))?\s*"
)
_EXAMPLE = 'write it like "ids=int64[8,256]<32000" or "float32[8,3,32,32]"'


@dataclass(frozen=True)
class SyntheticInput:
    """One random tensor: normal for floats, uniform in [0, bound) for integers, fair coins for bool."""

    name: str | None
    dtype: torch.dtype
    shape: tuple[int, ...]
    bound: int | None

    def draw(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Return a fresh tensor of the given shape from torch's global CPU generator."""
        if self.dtype.is_floating_point:
            return torch.randn(shape).to(self.dtype)
        return torch.randint(self.bound or 2, shape).to(self.dtype)


@dataclass(frozen=True)
class SyntheticBatches:
    """Endless batches of random tensors: a dict where the inputs are named, else one tensor or a tuple of them."""

    inputs: tuple[SyntheticInput, ...]

    @property
    def batch_size(self) -> int:
        """The first dimension of the first input, which is the batch as it was written."""
        return self.inputs[0].shape[0]

    def batches(
        self, batch_size: int
    ) -> Iterator[dict[str, torch.Tensor] | tuple[torch.Tensor, ...] | torch.Tensor]:
        """Yield batches with the written batch dimension replaced by `batch_size`, in every input that has it."""
        written = self.batch_size
        while True:
            drawn = [
                item.draw((batch_size, *item.shape[1:]) if item.shape[0] == written else item.shape)
                for item in self.inputs
            ]
            names = [item.name for item in self.inputs if item.name is not None]
            if names:
                yield dict(zip(names, drawn, strict=True))
            else:
                yield drawn[0] if len(drawn) == 1 else tuple(drawn)


def parse_inputs(texts: Sequence[str]) -> SyntheticBatches | None:
    """Return the batches that `--input` options describe, or None without any.

    Raises:
        UsageError: A text that is no description, or named and unnamed ones together.
    """
    if not texts:
        return None
    inputs = tuple(_parse_input(text) for text in texts)
    names = [item.name for item in inputs if item.name is not None]
    if names and len(names) != len(inputs):
        raise UsageError("some inputs have a name and some have none", "name all of them or none")
    if len(set(names)) != len(names):
        raise UsageError("two inputs have the same name", "give each input its own name")
    return SyntheticBatches(inputs)


def _parse_input(text: str) -> SyntheticInput:
    match = _FORM.fullmatch(text)
    if match is None:
        raise UsageError(f"'{text}' does not describe an input", _EXAMPLE)
    if match["dtype"] not in _DTYPES:
        raise UsageError(
            f"'{text}': there is no dtype '{match['dtype']}'{suggestion(match['dtype'], _DTYPES)}",
            f"one of {', '.join(_DTYPES)}",
        )
    dtype = _DTYPES[match["dtype"]]
    sizes = [size.strip() for size in match["shape"].split(",")]
    if not all(size.isdecimal() and len(size) < 19 and int(size) > 0 for size in sizes):
        raise UsageError(f"'{text}': the shape needs positive sizes, the batch first", _EXAMPLE)
    is_integer = not dtype.is_floating_point and dtype is not torch.bool
    bound = None if match["bound"] is None else int(match["bound"])
    if is_integer and bound is None:
        raise UsageError(f"'{text}': integers need an upper bound, such as <32000", _EXAMPLE)
    if bound is not None and not is_integer:
        raise UsageError(f"'{text}': only integers take an upper bound", _EXAMPLE)
    if bound is not None and not 0 < bound <= torch.iinfo(dtype).max + 1:
        raise UsageError(
            f"'{text}': the upper bound must be 1 or more and fit {match['dtype']}", _EXAMPLE
        )
    return SyntheticInput(match["name"], dtype, tuple(map(int, sizes)), bound)
