"""Activation checkpointing of a model's repeated blocks: what a block computes is computed again in the backward pass.

Only what enters a block is kept from the forward pass. That costs one more forward pass of the blocks, about a third of
a step's time, and leaves the numbers alone: random states are put back for the second computation, and running
statistics are updated by the first one only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from subopt.errors import UsageError

# Containers that are never called, so that there is nothing of theirs to compute again.
_NEVER_CALLED = (nn.ModuleList, nn.ModuleDict)


def recompute_blocks(model: nn.Module) -> list[str]:
    """Have every repeated block of a model computed again in the backward pass, in place.

    A repeated block has parts of its own, sits in an `nn.ModuleList`, `nn.ModuleDict` or `nn.Sequential`, and another
    of its class sits there too; of blocks inside one another it is the outermost, such as the layers of a transformer.
    Their `forward` is replaced, so the state dict keeps its keys. Gradients are the plain model's bit for bit, where a
    block computes the same both times; one that carries state from call to call (other than running statistics of
    norms) does not. `use_cache` of Hugging Face configs is turned off: a cache of keys would be filled twice.

    Args:
        model: The model; what was wrapped before stays wrapped once.

    Returns:
        The names of the blocks.

    Raises:
        UsageError: The model has no repeated blocks.
    """
    blocks = repeated_blocks(model)
    if not blocks:
        raise UsageError(
            f"{type(model).__name__} has no repeated blocks, so no activations can be computed again block by block",
            "train without recompute, or put the blocks into an nn.ModuleList or nn.Sequential",
        )
    for block in blocks.values():
        if not isinstance(block.forward, _Recomputed):
            block.forward = _Recomputed(block, block.forward)
    for module in model.modules():
        if getattr(getattr(module, "config", None), "use_cache", False):
            module.config.use_cache = False  # type: ignore[union-attr]
    return list(blocks)


@contextmanager
def blocks_recomputed(model: nn.Module) -> Iterator[None]:
    """Have the repeated blocks computed again in the backward passes inside, and as before outside.

    Raises:
        UsageError: The model has no repeated blocks.
    """
    before = {name: vars(block).get("forward") for name, block in repeated_blocks(model).items()}
    recompute_blocks(model)
    try:
        yield
    finally:
        for name, forward in before.items():
            block = model.get_submodule(name)
            del block.forward
            if forward is not None:
                block.forward = forward


def repeated_blocks(model: nn.Module) -> Mapping[str, nn.Module]:
    """Return the outermost repeated blocks by name, each module once."""
    names = {id(module): name for name, module in model.named_modules()}
    return {names[id(block)]: block for block in _outermost(model)}


def _outermost(module: nn.Module) -> Iterator[nn.Module]:
    repeated = set()
    if isinstance(module, (nn.ModuleList, nn.ModuleDict, nn.Sequential)):
        # Not `children()`, which names a block that is used several times once.
        counts = Counter(type(child) for child in module._modules.values() if _is_block(child))
        repeated = {block_class for block_class, count in counts.items() if count > 1}
    for child in module.children():
        if type(child) in repeated and _is_block(child):
            yield child
        else:
            yield from _outermost(child)


def _is_block(module: nn.Module | None) -> bool:
    if module is None or isinstance(module, _NEVER_CALLED):
        return False
    has_parts = next(module.children(), None) is not None
    return has_parts and next(module.parameters(), None) is not None


class _Recomputed:
    """A block's `forward` under activation checkpointing; a copy of the block gets one that runs the copy."""

    def __init__(self, block: nn.Module, forward: Callable[..., Any]) -> None:
        self._block, self._forward = block, forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._forward(*args, **kwargs)
        return checkpoint(
            _Twice(self._block, self._forward),
            *args,
            use_reentrant=False,
            # Under fake tensors there is no random state to keep, and no tensor to keep it in.
            preserve_rng_state=torch._guards.detect_fake_mode() is None,
            **kwargs,
        )


class _Twice:
    """One forward pass of a block: the second call computes it again and leaves running statistics alone."""

    def __init__(self, block: nn.Module, forward: Callable[..., Any]) -> None:
        self._block, self._forward = block, forward
        self._has_run = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._has_run:
            self._has_run = True
            return self._forward(*args, **kwargs)
        with _statistics_preserved(self._block):
            return self._forward(*args, **kwargs)


@contextmanager
def _statistics_preserved(block: nn.Module) -> Iterator[None]:
    """Let norms in training update copies of their running statistics."""
    norms = [
        module
        for module in block.modules()
        if isinstance(module, _NormBase) and module.training and module.track_running_stats
    ]
    saved = [dict(norm._buffers) for norm in norms]
    for norm, buffers in zip(norms, saved, strict=True):
        norm._buffers.update({
            name: None if buffer is None else buffer.clone() for name, buffer in buffers.items()
        })
    try:
        yield
    finally:
        for norm, buffers in zip(norms, saved, strict=True):
            norm._buffers.update(buffers)
