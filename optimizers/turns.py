"""Turns: which steps of a period a parameter's basis is fitted at, so that a model's layers do not all wait for one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .matrices import matrix_shape


def phase_of(parameter: Tensor, groups: Sequence[Mapping[str, Any]]) -> int:
    """Return floor(i T / N), the steps by which the i-th of N parameters refreshes after the first of them.

    Parameters count in the order of the groups, whichever is updated first, so that updates in the backward pass take
    the same turns. A period shorter than N steps is shared evenly: each step gets N / T of them, neighbours together.

    Args:
        parameter: A matrix of a group that staggers.
        groups: An optimizer's parameter groups. Matrices of those that stagger take turns, each within the period T of
            its own group.
    """
    turns = 0
    found = None
    for group in groups:
        for other in group["params"] if group["stagger"] else ():
            if other is parameter:
                found = turns, group["period"]
            turns += matrix_shape(other.shape)[0] >= 2
    if found is None:
        raise ValueError("the parameter is in no group that staggers")
    index, period = found
    return int(index * period // turns)
