"""Shape classes: parameters that an optimizer treats alike, one of which stands for the others.

Parameters are updated one after another, and equal shapes of one group take the same time and temporary memory. A model
with a hundred layers has a handful of shape classes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def shape_classes(optimizer: torch.optim.Optimizer) -> list[list[Tensor]]:
    """Return the parameters that have a gradient, by group, shape, strides, dtype and device.

    Classes, and parameters within them, are in the order of the optimizer's groups.
    """
    found: defaultdict[tuple[Any, ...], list[Tensor]] = defaultdict(list)
    for index, group in enumerate(optimizer.param_groups):
        for p in group["params"]:
            if p.grad is not None:
                found[index, p.shape, p.stride(), p.dtype, p.device].append(p)
    return list(found.values())


@contextmanager
def only_gradient_of(parameter: Tensor, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Take the gradients of all other parameters away for a while, so that a step updates this one alone."""
    others = [p for group in optimizer.param_groups for p in group["params"] if p is not parameter]
    gradients = [p.grad for p in others]
    for other in others:
        other.grad = None
    try:
        yield
    finally:
        for other, gradient in zip(others, gradients, strict=True):
            other.grad = gradient
