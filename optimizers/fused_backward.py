"""The optimizer's step inside the backward pass: each weight moves as soon as its gradient is complete."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from subopt.errors import OptionError, PreflightError

from .optimizer import Composed


class FusedBackward:
    """Updates every parameter of an optimizer in the backward pass, and frees its gradient at once.

    The gradient of a parameter is complete once everything that used it has been gone back through; a tied weight's
    therefore once, after its last use. Each update is the one `optimizer.step()` would have made, in another order, and
    no update reads another parameter: the trajectory is the same bit for bit, and so are state and checkpoints.

    A training loop stays as it is, apart from `attach()` before it: set the learning rate before the backward pass, and
    call `optimizer.step()` after it, which finds no gradients and ends the step.

        fused = FusedBackward(optimizer)
        fused.attach()
        loss.backward()       # moves the weights
        fused.gradient_norm() # of all gradients of this step, where it is wanted
        optimizer.step()      # ends the step

    What it cannot do, because a gradient is gone before the last one is there: several backward passes to a step,
    clipping by the norm of all gradients, loss scaling, and methods that evaluate the loss themselves. Under
    `torch.compile`, which makes all gradients of a graph at once, it is right and saves nothing. Weights that the loss
    also reads outside of the graph (`weight.detach()`, reentrant checkpointing) may have moved when read again.

    Memory: one parameter's gradient instead of all; where autograd makes several at once, such as a layer's weight and
    bias, those.

    Source: Lv et al. 2023, Full Parameter Fine-tuning for Large Language Models with Limited Resources, section 3.1;
    torch's tutorial on optimizer steps in backward.

    Args:
        optimizer: The optimizer; what is loaded into it and added to it later is followed too.

    Raises:
        OptionError: The optimizer's step is more than an update of each parameter alone.
        PreflightError: In a backward pass: a gradient is sparse, or a parameter's comes a second time within one step.
    """

    def __init__(self, optimizer: Composed) -> None:
        if not optimizer.updates_each_alone:
            raise OptionError(
                f"{type(optimizer).__name__} evaluates the loss in its step, which cannot happen in a backward pass",
                "take a method without closure, or update after the backward pass: fused_backward: false",
            )
        self._optimizer = optimizer
        self._groups: dict[Tensor, dict[str, Any]] = {}
        self._norms: dict[Tensor, Tensor] = {}
        self._handles: list[RemovableHandle] = []

    def attach(self) -> None:
        """Begin to update in backward passes. Attached once, whatever the number of calls."""
        if self._handles:
            return
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        self._handles = [
            p.register_post_accumulate_grad_hook(self._take) for p in parameters if p.requires_grad
        ]
        self._handles.append(self._optimizer.register_step_post_hook(self._end_step))

    def detach(self) -> None:
        """Leave updates to `optimizer.step()` again."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._end_step()

    def gradient_norm(self) -> Tensor:
        """Return the Euclidean norm of all gradients since the last step ended, a 0-d tensor."""
        if not self._norms:
            return torch.zeros(())
        norms = list(self._norms.values())
        together = torch.stack([norm.to(norms[0].device) for norm in norms])
        norm: Tensor = torch.linalg.vector_norm(together)
        return norm

    @torch.no_grad()
    def _take(self, parameter: Tensor) -> None:
        """Update a parameter whose gradient is complete."""
        if parameter in self._norms:
            raise PreflightError(
                "a parameter got a second gradient in one step, after the first had moved it: from a second backward "
                "pass, or from reentrant checkpointing of a weight that is used several times",
                "train with fused_backward: false",
            )
        if parameter.grad is None or parameter.numel() == 0:
            return
        if parameter.grad.is_sparse:
            raise PreflightError(
                "the model has sparse gradients, which no method here trains",
                "build its embeddings with sparse=False",
            )
        group = self._group_of(parameter)
        self._norms[parameter] = torch.linalg.vector_norm(parameter.grad)
        self._optimizer.update(parameter, group)
        parameter.grad = None

    def _group_of(self, parameter: Tensor) -> dict[str, Any]:
        if not self._groups:  # looked up anew each step: loading a state puts other groups in place
            self._groups = {
                p: group for group in self._optimizer.param_groups for p in group["params"]
            }
        return self._groups[parameter]

    def _end_step(self, *_: Any) -> None:
        self._groups.clear()
        self._norms.clear()
