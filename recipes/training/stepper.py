"""One optimizer step: micro-batches, clipping, learning rate, update."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from subopt.errors import PreflightError
from subopt.optimizers import FusedBackward, get_method
from subopt.profilers.target.batches import BatchStream, tokens_in

from ..schedule import LrSchedule
from .device_memory import oom_as_error
from .trainable import Trainable


@dataclass(frozen=True, slots=True)
class Step:
    """What one step came to; `loss` and `grad_norm` may be NaN or infinite."""

    loss: float
    grad_norm: float
    lr: float
    tokens: int


@dataclass(frozen=True, slots=True)
class _Evaluation:
    """The micro-batches of a step gone through once: mean loss, gradient norm before clipping, tokens."""

    loss: torch.Tensor
    norm: torch.Tensor
    tokens: int


class Stepper:
    """Takes the steps of a trainable model, on the batches of a stream."""

    def __init__(self, trainable: Trainable, stream: BatchStream) -> None:
        self._trainable = trainable
        self._stream = stream
        self._optimizer = trainable.accelerator.prepare_optimizer(trainable.optimizer)
        self._learning_rate = LrSchedule(trainable.recipe.schedule, trainable.optimizer)
        method = get_method(trainable.recipe.optimizer.method)
        self._needs_closure = "needs_closure" in method.capabilities
        self._fused: FusedBackward | None = None
        if trainable.recipe.fused_backward:
            self._fused = FusedBackward(trainable.optimizer)
            self._fused.attach()

    def take(self, step: int) -> Step:
        """Take a step, counted from 1, and wait for it once, for its loss and its gradient norm.

        Raises:
            DoesNotFitError: The device ran out of memory.
            PreflightError: A gradient is sparse.
            UserCodeError: The user's code raised.
        """
        factor = self._learning_rate.set_for(step - 1)
        with oom_as_error(f"step {step}", self._trainable.recipe):
            if self._needs_closure:
                done = self._step_with_closure()
            else:
                done = self._evaluate(self._micro_batches())
                self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        loss, grad_norm = torch.stack([done.loss, done.norm.to(done.loss)]).tolist()
        return Step(loss, grad_norm, self._trainable.recipe.optimizer.lr * factor, done.tokens)

    def _step_with_closure(self) -> _Evaluation:
        """Let the optimizer evaluate the same batches as often as it likes; return the first evaluation.

        That one is of the weights the step began with, so its loss is the one to report, as every other method's is.
        """
        batches = list(self._micro_batches())
        evaluations: list[_Evaluation] = []

        def closure() -> torch.Tensor:
            self._trainable.optimizer.zero_grad(set_to_none=True)
            evaluations.append(self._evaluate(batches))
            return evaluations[-1].loss

        self._optimizer.step(closure)
        return evaluations[0]

    def _micro_batches(self) -> Iterator[Any]:
        for _ in range(self._trainable.recipe.data.accumulate):
            yield self._trainable.batch(next(self._stream))

    def _evaluate(self, batches: Iterable[Any]) -> _Evaluation:
        """Leave the clipped gradients of the micro-batches in the model."""
        accelerator, data = self._trainable.accelerator, self._trainable.target.data
        model = self._trainable.model
        losses, tokens = [], 0
        for batch in batches:
            tokens += tokens_in(batch)
            with accelerator.accumulate(model):
                with accelerator.autocast():
                    loss = data.loss(self._trainable.called, batch)
                with data.code.running("backward()"):
                    accelerator.backward(loss)
            losses.append(loss.detach().float())
        return _Evaluation(torch.stack(losses).mean(), self._clip(), tokens)

    def _clip(self) -> torch.Tensor:
        """Shorten the gradient to `clip_norm` at most and return its norm before that.

        A norm that is not finite clips nothing: it would turn every parameter's gradient into NaN, where the
        optimizer leaves out the ones that are broken.
        """
        if self._fused is not None:  # and clip_norm is null: the gradients are gone
            return self._fused.gradient_norm()
        # Asked for anew each time: an optimizer that replaces layers may have other parameters after a step.
        groups = self._trainable.optimizer.param_groups
        parameters = [parameter for group in groups for parameter in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        if any(gradient.is_sparse for gradient in gradients):
            raise PreflightError(
                "the model has sparse gradients, which no method here trains",
                "build its embeddings with sparse=False",
            )
        norm = torch.nn.utils.get_total_norm(gradients)
        clip_norm = self._trainable.recipe.clip_norm
        if clip_norm is not None:
            usable = torch.where(torch.isfinite(norm), norm, 0.0)
            torch.nn.utils.clip_grads_with_norm_(parameters, clip_norm, usable)
        return norm
