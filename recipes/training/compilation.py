"""`torch.compile` for a run, tried on a batch before the first step, where a fault costs nothing yet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from subopt.errors import PreflightError, SuboptError, first_line
from subopt.profilers.gradients.stream import left_as_found
from subopt.profilers.target.training_data import TrainingData

if TYPE_CHECKING:
    from accelerate import Accelerator

BACKEND = "inductor"
_COMPILERS = ("torch._dynamo", "torch._inductor", "torch._functorch", "triton")


def compiled(
    data: TrainingData, model: nn.Module, batch: Any, accelerator: Accelerator
) -> nn.Module:
    """Return what stands for the model in the user's loss: the same parameters, called through compiled code.

    It is compiled now, forward and backward, on a batch that is on the model's device.
    The model itself stays as it is, so its state dict keeps its names. Compiled arithmetic rounds differently, and
    draws dropout's masks from a generator of its own: a compiled run is not the uncompiled one bit for bit.

    Raises:
        PreflightError: There is no C++ compiler, or torch cannot compile the model.
        UserCodeError: The user's code raised.
    """
    stand_in = cast(nn.Module, torch.compile(model, backend=BACKEND))
    try:
        with left_as_found(model):
            with accelerator.autocast():
                loss = data.loss(stand_in, batch)
            with data.code.running("backward()"):
                loss.backward()
    except SuboptError as error:  # the user's code called the compiler
        found = next((e for e in _chain(error) if type(e).__module__.startswith(_COMPILERS)), None)
        if found is None:
            raise
        raise _cannot_compile(found) from error
    return stand_in


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what led to it, the innermost first."""
    if error is not None:
        yield from _chain(error.__cause__ or error.__context__)
        yield error


def _cannot_compile(error: BaseException) -> PreflightError:
    if type(error).__name__ == "InvalidCxxCompiler":
        return PreflightError(
            "compile: true needs a C++ compiler for the CPU, and there is none on this machine",
            "install one, such as g++, or name it in CXX; or train with compile: false",
        )
    return PreflightError(
        f"torch.compile cannot compile this model: {first_line(error)}",
        "train with compile: false; --debug shows the whole traceback",
    )
