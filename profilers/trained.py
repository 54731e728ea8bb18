"""Which of a model's parameters a target trains, and how."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from subopt.optimizers import Treatment, treatments

from .target import LoadedTarget


def trained_treatments(model: nn.Module, target: LoadedTarget) -> list[Treatment]:
    """Return the treatment of every parameter; those that the user's groups leave out are not trained."""
    groups = target.param_groups(model)
    found = treatments(model)
    if groups is None:
        return found
    trained = {id(parameter) for parameter in _parameters(groups)}
    return [
        item
        if id(item.parameter) in trained or item.treatment == "frozen"
        else dataclasses.replace(item, treatment="frozen", reason="not in param_groups(model)")
        for item in found
    ]


def _parameters(groups: list[dict[str, Any]]) -> Iterator[Tensor]:
    for group in groups:
        params = group["params"]
        for entry in [params] if isinstance(params, Tensor) else params:
            yield entry[1] if isinstance(entry, tuple) else entry
