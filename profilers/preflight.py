"""The checks before anything long: does one batch give a loss that can be trained on, and what is unusual."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
)
from torch.utils import _pytree as pytree

from subopt.errors import PreflightError, UserCodeError
from subopt.optimizers import parameter_roles, shown_name
from subopt.units import format_bytes

from .gradients.stream import left_as_found
from .memory.simulation import FollowMode
from .target.loaded import fresh_copy, without_address_warnings
from .target.training_data import TrainingData

_SHOWN_NAMES = 4


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, and what was found, in one line; not `ok` where the user should read that first.

    `value` is the number that was found, where it is one: the first batch's loss.
    """

    name: str
    ok: bool
    detail: str
    value: float | None = None


def preflight(data: TrainingData, model: nn.Module, batch: Any) -> list[Check]:
    """Run one batch forward and backward and look at the model.

    The model runs in train mode. It and the generators are left as they were; a gradient is dropped as soon as it is
    complete.

    Returns:
        All checks, in the order they were made; what makes a run impossible raises and is not among them.

    Raises:
        PreflightError: No matrix to treat, or a loss that is not scalar, not finite, or needs no gradient.
        UserCodeError: The model or the loss raised.
    """
    matrices = _check_roles(data, model)
    with left_as_found(model):
        loss = data.loss(model, batch)
        loss_check = _check_loss(loss)
        gradients = _check_gradients(data, model, loss)
        simulation = _check_simulation(data, model, batch)
    tied, buffers = _check_tied(model), _check_buffers(model)
    return [matrices, loss_check, *gradients, tied, buffers, simulation]


def _check_roles(data: TrainingData, model: nn.Module) -> Check:
    found = parameter_roles(model)
    counts = {kind: sum(t.role == kind for t in found) for kind in ("matrix", "fallback", "frozen")}
    if counts["matrix"] == 0:
        frozen = f"; {counts['frozen']} are frozen" if counts["frozen"] else ""
        raise PreflightError(
            f"none of the {len(found)} parameters of {data.spec} is a matrix that a method can treat{frozen}",
            "every optimizer here works on the weights of linear and convolutional layers that require grad",
        )
    detail = f"{counts['matrix']} matrices, {counts['fallback']} left to the fallback, {counts['frozen']} frozen"
    return Check("parameters", True, detail)


def _check_loss(loss: torch.Tensor) -> Check:
    if loss.dim() != 0:
        raise PreflightError(
            f"the loss is not a scalar: it has shape {tuple(loss.shape)}",
            "return one number per batch from loss(model, batch), such as the mean",
        )
    if loss.is_complex() or not loss.is_floating_point():
        raise PreflightError(f"the loss has dtype {loss.dtype}", "return a floating point scalar")
    value = float(loss.detach())
    if not torch.isfinite(loss.detach()):
        raise PreflightError(
            f"the loss of the first batch is {value}",
            "check the data and the initial weights; try fp32",
        )
    if not loss.requires_grad:
        raise PreflightError(
            "the loss needs no gradient: it does not depend on any trainable parameter",
            "look for torch.no_grad(), detach() or .data between the model and the loss",
        )
    return Check("loss", True, f"{value:.4g}: a scalar, finite, needs grad", value)


def _check_gradients(data: TrainingData, model: nn.Module, loss: torch.Tensor) -> list[Check]:
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    finite: dict[torch.Tensor, bool] = {}

    def look_and_drop(parameter: torch.Tensor) -> None:
        if parameter.grad is not None:
            finite[parameter] = bool(torch.isfinite(_values(parameter.grad)).all())
            parameter.grad = None

    with data.code.running("backward()"), ExitStack() as hooks:
        for parameter in trainable.values():
            hooks.enter_context(parameter.register_post_accumulate_grad_hook(look_and_drop))
        loss.backward()
    if not finite:
        raise PreflightError(
            "no parameter of the model gets a gradient from the loss",
            "compute the loss with the model it is given",
        )
    without = [name for name, p in trainable.items() if p not in finite]
    broken = [name for name, p in trainable.items() if not finite.get(p, True)]
    checks = [
        Check(
            "gradients",
            not without,
            f"none for {_listed(without)}" if without else "every trainable parameter",
        )
    ]
    if broken:
        checks.append(Check("finite gradients", False, f"NaN or infinity in {_listed(broken)}"))
    return checks


def _check_tied(model: nn.Module) -> Check:
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    tied = [" = ".join(shared) for shared in names.values() if len(shared) > 1]
    return Check("tied parameters", True, _listed(tied) if tied else "none")


def _check_buffers(model: nn.Module) -> Check:
    buffers = list(model.buffers())
    total_bytes = sum(buffer.numel() * buffer.element_size() for buffer in buffers)
    return Check(
        "buffers", True, f"{len(buffers)}, {format_bytes(total_bytes)}" if buffers else "none"
    )


def _check_simulation(data: TrainingData, model: nn.Module, batch: Any) -> Check:
    """Try the forward pass on tensors without data: what needs the data cannot be simulated.

    It comes after the real forward pass, so that a table the user's code caches is cached with real values.
    """
    # A cached table, or a tensor in a list, stays real.
    mode = FollowMode()
    name = "data-dependent operations"
    try:
        with data.code.running("the forward pass without data"), _quiet_simulation(), mode:
            fake_model = fresh_copy(model)
            fake_batch = pytree.tree_map_only(torch.Tensor, mode.from_tensor, batch)
            data.loss(fake_model, fake_batch)
    except (UserCodeError, PreflightError) as error:
        where = error.message.splitlines()[-1].strip()
        if isinstance(error.__cause__, (DataDependentOutputException, DynamicOutputShapeException)):
            return Check(
                name, False, f"{error.__cause__.func} at {where}: memory cannot be simulated"
            )
        return Check(name, False, f"could not be looked for: {where}")
    return Check(name, True, "none")


@contextmanager
def _quiet_simulation() -> Iterator[None]:
    """Keep torch from logging the traceback of an operation it cannot simulate: the check says so in one line."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        with without_address_warnings():
            yield
    finally:
        logger.disabled = before


def _values(gradient: torch.Tensor) -> torch.Tensor:
    return gradient.coalesce().values() if gradient.is_sparse else gradient


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN_NAMES
    return ", ".join(map(shown_name, names[:_SHOWN_NAMES])) + (
        f" and {more} more" if more > 0 else ""
    )
