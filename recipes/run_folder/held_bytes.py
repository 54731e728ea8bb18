"""The bytes that a model and an optimizer hold, counted on the live objects."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from subopt.optimizers import stored_bytes


def model_bytes(model: nn.Module) -> int:
    """Return the bytes of a model's parameters and buffers."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def actual_state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of the tensors an optimizer holds."""
    return sum(
        stored_bytes(value)
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    )
