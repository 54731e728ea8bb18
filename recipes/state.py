"""Whether an optimizer's loaded state is the state its options ask for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from subopt.errors import FileFormatError
from subopt.optimizers import Composed
from subopt.optimizers.cell import Cell
from subopt.optimizers.slots import Dtypes


def check_state(optimizer: Composed, path: Path) -> None:
    """Compare every state tensor with the layout that its group's options give.

    Options decide which tensors there are, their shapes and their dtypes: `rank`, `moments`, `source`, `state_dtype`
    and others. A state saved under other options loads without complaint and breaks in the next step, or goes
    unnoticed.

    Args:
        optimizer: The optimizer, its state loaded and its options those of the recipe.
        path: Where the state came from, for the message.

    Raises:
        FileFormatError: The first state that does not match, with its parameter.
    """
    for group in optimizer.param_groups:
        names = group.get("param_names", range(len(group["params"])))
        for name, parameter in zip(names, group["params"], strict=True):
            state = optimizer.state.get(parameter)
            if not state:  # it has had no gradient yet
                continue
            difference = next(_differences(parameter, state, group), None)
            if difference is not None:
                raise FileFormatError(
                    f"{path} does not fit the recipe's optimizer: {name} {difference}",
                    "resume with the method and options it was saved under, or start over with --force alone",
                )


def _differences(
    parameter: Tensor, state: Mapping[str, Tensor], group: Mapping[str, Any]
) -> Iterator[str]:
    """Yield what is wrong with the state of one parameter, as what follows its name."""
    dtypes = Dtypes.of(parameter.dtype, group["state_dtype"], group["basis_dtype"])
    layout = Cell.of(group, parameter.shape).layout(parameter.shape)
    for key, slot in layout.items():
        wanted = _described(slot.shape, dtypes.slot(slot.kind))
        if key not in state:
            yield f"has no state '{key}' ({wanted})"
        elif (found := _described(state[key].shape, state[key].dtype)) != wanted:
            yield f"has a state '{key}' of {found}, which must be {wanted}"
    for key in state.keys() - layout.keys():
        yield f"has a state '{key}' that these options have no use for"


def _described(shape: tuple[int, ...], dtype: object) -> str:
    """Return a tensor's shape and dtype such as `4x8 float32`."""
    size = "x".join(map(str, shape)) or "scalar"
    return f"{size} {str(dtype).removeprefix('torch.')}"
