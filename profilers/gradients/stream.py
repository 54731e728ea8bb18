"""Gradients of real batches, handed over one at a time and freed at once.

Autograd calls a hook on a parameter as soon as its gradient is complete. The hook passes the gradient on and drops it
before the next layer's is made, so that measuring a model needs its weights, its activations and one layer's working
set. A layer's weight and bias get theirs together; that of a parameter used several times grows until its first use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..shape_classes import without_gradients
from ..target.random_state import cpu_state, set_cpu_state


def stream_gradients(
    model: nn.Module,
    loss_of: Callable[[nn.Module, Any], Tensor],
    batches: Iterable[Any],
    names: Sequence[str],
    on_gradient: Callable[[str, Tensor, int], None],
) -> None:
    """Run forward and backward over every batch and hand over each named parameter's gradient.

    The model runs in train mode, as it would in training. Its parameters, buffers, modes, gradients and the random
    generators are afterwards as they were found, so a second pass over the same batches sees the same dropout masks.

    Args:
        model: The model; each of its gradients is made and dropped, none is kept.
        loss_of: Gives the scalar loss of a batch.
        batches: The batches, already on the model's device.
        names: Parameters to hand over, by the names of `model.named_parameters(remove_duplicate=False)`, each with two
            or more dimensions. A tied parameter has one gradient, handed over once, complete, under the first of its
            names given here.
        on_gradient: Called as `on_gradient(name, G, k)` with the gradient of batch k = 0, 1, ... as a matrix: rows are
            the first dimension, columns all others (a convolution is out x in*k*k). G is freed when the call returns
            unless the callee keeps it. Not called where a batch gives a parameter no gradient.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    name_of = {parameters[name]: name for name in reversed(names)}
    k = 0

    def hand_over(parameter: Tensor) -> None:
        gradient, parameter.grad = parameter.grad, None
        name = name_of.get(parameter)  # type: ignore[call-overload]
        if name is not None and gradient is not None:
            on_gradient(name, gradient.detach().flatten(1), k)

    with left_as_found(model), ExitStack() as hooks:
        # The unmeasured parameters are hooked too: their gradients would pile up otherwise.
        for parameter in model.parameters():
            if parameter.requires_grad:
                hooks.enter_context(parameter.register_post_accumulate_grad_hook(hand_over))
        for k, batch in enumerate(batches):  # noqa: B007 (hand_over reads k)
            loss_of(model, batch).backward()


@contextmanager
def left_as_found(model: nn.Module) -> Iterator[None]:
    """Put the model in train mode without gradients; afterwards undo that and everything a forward pass may change.

    A model that is in train mode already stays as it is, parts in evaluation mode included: they train that way too.
    Restored: the mode of every module, gradients, buffers (values, identity, and none more or fewer), and the random
    generators of Python, NumPy, torch's CPU and the model's GPUs. Parameters are not copied: nothing here moves them.
    """
    modes = [(module, module.training) for module in model.modules()]
    tables = [(module._buffers, dict(module._buffers)) for module in model.modules()]
    values = [(buffer, buffer.clone()) for buffer in model.buffers()]
    gpus = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    outside = cpu_state()
    try:
        with torch.random.fork_rng(devices=sorted(gpus)), without_gradients(model.parameters()):
            if not model.training:
                model.train()
            yield
    finally:
        set_cpu_state(outside)
        for module, mode in modes:
            module.training = mode
        for table, found in tables:
            table.clear()
            table.update(found)
        with torch.no_grad():
            for buffer, value in values:
                buffer.copy_(value)
