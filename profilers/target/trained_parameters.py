"""Which of a model's parameters a target trains, and how, and which it cannot train."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from subopt.errors import PreflightError
from subopt.optimizers import ParameterRole, parameter_roles, shown_name

from .loaded import LoadedTarget


def trained_roles(model: nn.Module, target: LoadedTarget) -> list[ParameterRole]:
    """Return the role of every parameter; those that the user's groups leave out are not trained."""
    groups = target.param_groups(model)
    found = parameter_roles(model)
    if groups is None:
        return found
    trained = {id(parameter) for parameter in _parameters(groups)}
    return [
        item
        if id(item.parameter) in trained or item.role == "frozen"
        else dataclasses.replace(item, role="frozen", reason="not in param_groups(model)")
        for item in found
    ]


def refuse_sparse_gradients(model: nn.Module, found: Iterable[ParameterRole]) -> None:
    """Check that no embedding that is trained has sparse gradients: no optimizer here takes those.

    One whose weight another module uses too has dense ones: the sum with the other's.

    Raises:
        PreflightError: One has.
    """
    weights = [id(weight) for module in model.modules() for weight in module._parameters.values()]
    trained = {id(item.parameter) for item in found if item.role != "frozen"}
    for name, module in model.named_modules():
        is_table = isinstance(module, (nn.Embedding, nn.EmbeddingBag))
        if not is_table or not module.sparse or weights.count(id(module.weight)) > 1:
            continue
        if id(module.weight) in trained:
            raise PreflightError(
                f"{shown_name(name)} has sparse gradients, which no method here trains",
                "build it with sparse=False",
            )


def _parameters(groups: list[dict[str, Any]]) -> Iterator[Tensor]:
    for group in groups:
        params = group["params"]
        for entry in [params] if isinstance(params, Tensor) else params:
            yield entry[1] if isinstance(entry, tuple) else entry
