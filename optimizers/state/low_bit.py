"""Optimizer state in blocks of 8-bit codes: torchao's tensor, converted piece by piece.

Up to 256 consecutive values share a float32 scale, their largest magnitude; of each the nearest of 256 levels is kept.
Levels lie closer together towards zero, 7 decades down; first moments need signed ones, from second moments' unsigned
ones there are twice as many. About 1.02 bytes a value. Source: Dettmers et al. 2022, 8-bit Optimizers via Block-wise
Quantization, section 2.

Differs from the paper and from torchao in one thing: a second moment that is not zero is not stored as zero. The least
level is 3e-7 of a block's largest value, so where one gradient is 2,500 times another's the smaller one's second moment
would be lost and its first not, and Adam's next step there M / eps: in the coordinates of a two-sided basis, where that
is usual, training diverged. Rounded up to the least level it only shortens the step.

torchao is imported when a state is made or `require` is called, which also lets `torch.load(weights_only=True)` read
one. Values are converted in pieces and by table: the same codes as torchao's, 20 times faster on a CPU, and without
30 bytes of temporaries for every value. Scales below 1e-12 are kept, not raised to it.
"""

from __future__ import annotations

import importlib.util
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import (
    _disable_current_modes,
    is_traceable_wrapper_subclass,
)

from subopt.errors import OptionError

STATE_DTYPE = "8bit"
EXTRA = "lowbit"  # of subopt: what installs torchao
# Stands for such a state where dtypes are compared.
CODES = torch.uint8

# A block is the largest divisor of the number of values from here...
BLOCK = 256
# ...to here: below, scales would take more than a sixteenth of the codes.
MIN_BLOCK = 64
# The other 8-bit optimizers leave smaller tensors alone as well: there is little to save.
MIN_ELEMENTS = 4096
_LEVELS = 256
_FLOAT32 = torch.finfo(torch.float32)
# Values converted at a time: temporaries of 10 MB, and few kernels for a GPU to start.
_PIECE = 1 << 19
# A float32's sign, exponent and first 7 bits of mantissa: fine enough for at most one step between levels in a cell.
_CELL_BITS = 16


def is_asked_for(options: Mapping[str, Any]) -> bool:
    """Return whether options keep moments in 8-bit blocks."""
    return options.get("state_dtype") == STATE_DTYPE


def is_installed() -> bool:
    """Return whether torchao is there, without importing it."""
    return importlib.util.find_spec("torchao") is not None


@cache
def require() -> Any:
    """Import torchao and return its module of 8-bit optimizer state.

    Raises:
        OptionError: torchao is not installed.
    """
    # It computes its levels once: under fake tensors, or in another default dtype, they would be wrong.
    with _unaffected(), _quiet():
        try:
            from torchao.optim import subclass_8bit as torchao
        except ImportError:
            raise OptionError(
                f"state_dtype '{STATE_DTYPE}' needs the package torchao",
                f"pip install 'subopt[{EXTRA}]'",
            ) from None
        torchao.get_qmap_signed()
        torchao.get_qmap_unsigned()
    # Missing in torchao 0.18; deepcopy needs it.
    torchao.OptimState8bit.implements(torch.ops.aten.clone.default)(_clone)
    return torchao


@cache
def block_size(elements: int) -> int | None:
    """Return how many values share a scale, or None where no size from MIN_BLOCK to BLOCK makes whole blocks."""
    sizes = range(BLOCK, MIN_BLOCK - 1, -1)
    return next((size for size in sizes if elements % size == 0), None)


def suits(shape: Sequence[int]) -> bool:
    """Return whether a tensor of this shape is kept in blocks: it is large enough and makes whole ones."""
    elements = math.prod(shape)
    return elements >= MIN_ELEMENTS and block_size(elements) is not None


def blocked_bytes(shape: Sequence[int]) -> int:
    """Return the bytes of such a tensor: codes, a scale for each block, and its own copy of the levels.

    Raises:
        ValueError: The tensor makes no whole blocks.
    """
    elements = math.prod(shape)
    return elements + 4 * (elements // _whole_blocks(elements)) + 4 * _LEVELS


def _whole_blocks(elements: int) -> int:
    size = block_size(elements)
    if size is None:
        raise ValueError(f"{elements} values make no whole blocks")
    return size


def zeros(shape: Sequence[int], device: torch.device, *, signed: bool) -> Tensor:
    """Return a state of zeros in blocks.

    Raises:
        ValueError: A tensor of this shape makes no whole blocks.
    """
    blocks = require().OptimState8bit
    codes = torch.zeros(shape, dtype=CODES, device=device)
    scales = torch.zeros(
        codes.numel() // _whole_blocks(codes.numel()), dtype=torch.float32, device=device
    )
    levels = _levels(signed, device)
    return cast(Tensor, blocks(codes, scales, levels, signed, dtype=torch.float32))


def in_blocks(tensor: Tensor) -> bool:
    """Return whether a tensor is such a state."""
    return is_traceable_wrapper_subclass(tensor)


def parts(tensor: Tensor) -> Iterator[Tensor]:
    """Yield the plain tensors that a tensor is made of: itself, or a wrapper's codes, scales and levels."""
    if is_traceable_wrapper_subclass(tensor):
        for name in tensor.__tensor_flatten__()[0]:
            yield from parts(getattr(tensor, name))
    else:
        yield tensor


def stored_bytes(tensor: Tensor) -> int:
    """Return the bytes that a tensor's values really take."""
    return sum(part.numel() * part.element_size() for part in parts(tensor))


def stored_dtype(tensor: Tensor) -> torch.dtype:
    """Return what a tensor's values are kept as; `CODES` for one in blocks, which says float32 of itself."""
    return CODES if in_blocks(tensor) else tensor.dtype


def read(buffer: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a state's values in a dtype: the state itself where nothing changes, as `Tensor.to` does."""
    if not in_blocks(buffer):
        return buffer.to(dtype)
    blocks = cast(Any, buffer)
    codes, scales = blocks.codes.view(-1), blocks.scale
    result = torch.empty(buffer.shape, dtype=dtype, device=buffer.device)
    values = result.view(-1)
    size = blocks.block_size
    for piece in _pieces(codes, size):
        levels = blocks.qmap.index_select(0, codes[piece].int())
        levels.view(-1, size).mul_(_scales_of(scales, piece, size)[:, None])
        values[piece].copy_(levels)
    return result


def write(buffer: Tensor, values: Tensor) -> None:
    """Put values into a state, rounded to what it can hold."""
    if not in_blocks(buffer):
        buffer.copy_(values)
        return
    blocks = cast(Any, buffer)
    codes, scales = blocks.codes.view(-1), blocks.scale
    nearest = _nearest(blocks)
    flat = values.reshape(-1)
    if flat.dtype == torch.float64:  # a scale's range is float32's
        flat = flat.clamp(-_FLOAT32.max, _FLOAT32.max)
    size = blocks.block_size
    for piece in _pieces(codes, size):
        rows = flat[piece].to(torch.float32).view(-1, size)
        low, high = torch.aminmax(rows, dim=1)
        scale = torch.maximum(-low, high).clamp_min_(_FLOAT32.tiny)
        _scales_of(scales, piece, size).copy_(scale)
        codes[piece].copy_(nearest.codes((rows / scale[:, None]).view(-1)))


def clear(buffer: Tensor) -> None:
    """Set a state to zero."""
    if in_blocks(buffer):
        write(buffer, torch.zeros(buffer.shape, device=buffer.device))
    else:
        buffer.zero_()


@dataclass(frozen=True)
class _Nearest:
    """The nearest level of a value from -1 to 1 by two look-ups.

    Attributes:
        first: For the upper half of a float32's bits, the code of the smallest such value, shape (65536,).
        bounds: For each code, the smallest value that is nearer to the next level, shape (256,).
    """

    first: Tensor
    bounds: Tensor

    def codes(self, values: Tensor) -> Tensor:
        cell = values.view(torch.int32).bitwise_right_shift(32 - _CELL_BITS)
        code = self.first.index_select(0, cell.bitwise_and_((1 << _CELL_BITS) - 1))
        return code.add_(values >= self.bounds.index_select(0, code.int()))


def _nearest(blocks: Any) -> _Nearest:
    device = blocks.codes.device
    if isinstance(blocks.codes, FakeTensor):
        first = torch.empty(1 << _CELL_BITS, dtype=CODES, device=device)
        return _Nearest(first, torch.empty(_LEVELS, device=device))
    return _tables(blocks.signed, device)


@cache
def _tables(signed: bool, device: torch.device) -> _Nearest:
    with _unaffected():
        bounds = _bounds(_levels(signed, torch.device("cpu")))
        bounds = torch.cat([bounds, torch.tensor([math.inf])])
        if not signed:
            bounds[0] = _FLOAT32.tiny  # whatever is above zero gets the next level
        cells = torch.arange(1 << _CELL_BITS, dtype=torch.int32)
        # Of a negative cell the smallest value has all the lower bits set.
        lower = torch.where(cells < (1 << (_CELL_BITS - 1)), 0, (1 << (32 - _CELL_BITS)) - 1).int()
        smallest = (cells << (32 - _CELL_BITS) | lower).view(torch.float32).nan_to_num()
        first = torch.bucketize(smallest, bounds[:-1], right=True).to(CODES)
    return _Nearest(first.to(device), bounds.to(device))


def _levels(signed: bool, device: torch.device) -> Tensor:
    torchao = require()
    levels = torchao.get_qmap_signed() if signed else torchao.get_qmap_unsigned()
    return torch.tensor(levels, dtype=torch.float32, device=device)


def _bounds(levels: Tensor) -> Tensor:
    """Return for each level but the last the smallest float32 that torchao gives the next one: half the way to it."""
    down, half = levels[:-1], levels.diff() * 0.5
    value = down + half
    below, above = torch.tensor(-2.0), torch.tensor(2.0)
    while bool((is_up := value - down >= half).any()):
        value = torch.where(is_up, value.nextafter(below), value)
    return value.nextafter(above)


def _pieces(codes: Tensor, size: int) -> Iterator[slice]:
    """Yield which blocks' values to convert together; of fake tensors the first: its temporaries are those of all."""
    step = _PIECE // size * size
    starts = range(0, codes.numel(), step)
    for start in starts[:1] if isinstance(codes, FakeTensor) else starts:
        yield slice(start, start + step)


def _scales_of(scales: Tensor, piece: slice, size: int) -> Tensor:
    return scales[piece.start // size : piece.stop // size]


def _clone(func: Any, types: Any, args: Any, kwargs: Any) -> Any:
    names, context = args[0].__tensor_flatten__()
    copies = {name: getattr(args[0], name).clone() for name in names}
    return type(args[0]).__tensor_unflatten__(copies, context)


@contextmanager
def _unaffected() -> Iterator[None]:
    """Compute on the CPU in float32, whatever modes and defaults there are around."""
    before = torch.get_default_dtype()
    with _disable_current_modes(), torch.device("cpu"):
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what torchao's import logs about kernels and registrations that have no part in this."""
    loggers = [logging.getLogger(name) for name in ("torchao", "torch.utils._pytree")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
