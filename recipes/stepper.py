"""One optimizer step: micro-batches, clipping, learning rate, update."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from subopt.errors import PreflightError
from subopt.profilers.data import BatchStream, tokens_in

from .device_memory import told_out_of_memory
from .schedule import LearningRate
from .session import Session


@dataclass(frozen=True, slots=True)
class Step:
    """What one step came to; `loss` and `grad_norm` may be NaN or infinite."""

    loss: float
    grad_norm: float
    lr: float
    tokens: int


class Stepper:
    """Takes the steps of a session.

    Args:
        session: Model, optimizer and settings.
        stream: The training batches.
    """

    def __init__(self, session: Session, stream: BatchStream) -> None:
        self._session = session
        self._stream = stream
        self._optimizer = session.accelerator.prepare_optimizer(session.optimizer)
        self._learning_rate = LearningRate(session.recipe.schedule, session.optimizer)
        self._parameters = [p for group in session.optimizer.param_groups for p in group["params"]]

    def take(self, step: int) -> Step:
        """Take a step, counted from 1, and wait for it once, for its loss and its gradient norm.

        Raises:
            DoesNotFitError: The device ran out of memory.
            PreflightError: A gradient is sparse.
            UserCodeError: The user's code raised.
        """
        factor = self._learning_rate.set_for(step - 1)
        with told_out_of_memory(f"step {step}"):
            loss, tokens = self._accumulate()
            norm = self._clip()
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        loss_value, grad_norm = torch.stack([loss, norm.to(loss)]).tolist()
        return Step(loss_value, grad_norm, self._session.recipe.optimizer.lr * factor, tokens)

    def _accumulate(self) -> tuple[torch.Tensor, int]:
        """Add up the gradients of the step's micro-batches; return their mean loss and their tokens."""
        accelerator, target = self._session.accelerator, self._session.target
        model = self._session.model
        losses, tokens = [], 0
        for _ in range(self._session.recipe.data.accumulate):
            batch = self._session.batch(next(self._stream))
            tokens += tokens_in(batch)
            with accelerator.accumulate(model):
                with accelerator.autocast():
                    loss = target.loss(model, batch)
                with target.user_code("backward()"):
                    accelerator.backward(loss)
            losses.append(loss.detach().float())
        return torch.stack(losses).mean(), tokens

    def _clip(self) -> torch.Tensor:
        """Shorten the gradient to `clip_norm` at most and return its norm before that.

        A norm that is not finite clips nothing: it would turn every parameter's gradient into NaN, where the
        optimizer leaves out the ones that are broken.
        """
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        if any(gradient.is_sparse for gradient in gradients):
            raise PreflightError(
                "the model has sparse gradients, which no method here trains",
                "build its embeddings with sparse=False",
            )
        norm = torch.nn.utils.get_total_norm(gradients)
        clip_norm = self._session.recipe.clip_norm
        if clip_norm is not None:
            usable = torch.where(torch.isfinite(norm), norm, 0.0)
            torch.nn.utils.clip_grads_with_norm_(self._parameters, clip_norm, usable)
        return norm
