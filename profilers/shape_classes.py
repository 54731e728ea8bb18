"""Shape classes: parameters that an optimizer treats alike, one of which stands for the others.

Parameters are updated one after another, and equal shapes of one group take the same time and temporary memory. A model
with a hundred layers has a handful of shape classes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
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
def without_gradients(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Take gradients away for a while, and put them back."""
    taken = [(p, p.grad) for p in parameters]
    for p, _ in taken:
        p.grad = None
    try:
        yield
    finally:
        for p, gradient in taken:
            p.grad = gradient


def only_gradient_of(
    parameter: Tensor, optimizer: torch.optim.Optimizer
) -> AbstractContextManager[None]:
    """Take the gradients of all other parameters away for a while, so that a step updates this one alone."""
    return without_gradients([
        p for group in optimizer.param_groups for p in group["params"] if p is not parameter
    ])
