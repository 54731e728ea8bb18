"""The held-out loss, taken without leaving a trace in the training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from subopt.errors import PreflightError
from subopt.profilers.target.batches import tokens_in
from subopt.profilers.target.training_data import TrainingData

from ..placement import prepare_batch
from ..rng import preserved_rng, seed_everything
from ..schema import Recipe
from .device_memory import oom_as_error

if TYPE_CHECKING:
    from accelerate import Accelerator

_END = object()


@dataclass(frozen=True, slots=True)
class HeldOutLoss:
    """The mean loss over the batches, each weighted by its tokens (`tokens_in`), their number, and each one's loss."""

    loss: float
    batches: int
    tokens: int
    batch_losses: tuple[float, ...]


def held_out_loss(
    recipe: Recipe,
    data: TrainingData,
    model: nn.Module,
    accelerator: Accelerator,
    *,
    batches: int,
    seed: int,
) -> HeldOutLoss:
    """Return the mean loss over the first held-out batches.

        loss = sum_k w_k loss_k / sum_k w_k,   w_k = `tokens_in` batch k

    so that a last batch of few examples counts as those few. The same batches every time; a shorter held-out set is
    gone through once. Generators, and which parts of the model are in training mode, are left as they were; `seed`
    decides what random batches are.

    Raises:
        PreflightError: The held-out data has no batches, or a batch has nothing to count.
        DoesNotFitError: The device ran out of memory.
        UserCodeError: The user's code raised.
    """
    losses, tokens = [], []
    with (
        oom_as_error("the evaluation", recipe),
        preserved_rng(),
        _evaluating(model),
        torch.no_grad(),
    ):
        seed_everything(seed)
        for batch in _held_out_batches(data, recipe.data.batch_size, batches):
            placed = prepare_batch(batch, accelerator.device, recipe.precision)
            with accelerator.autocast():
                loss = data.loss(model, placed)
            losses.append(loss.float())
            tokens.append(tokens_in(batch))
    if not losses:
        raise PreflightError(
            f"eval_batches({recipe.data.batch_size}) gives no batches",
            "give it held-out data, or leave it out of the model file",
        )
    # A batch without a token has no loss either: it counts nothing, unless there is no other.
    weights = torch.tensor(tokens, dtype=torch.float64)
    if not sum(tokens):
        weights.fill_(1)
    means = torch.stack(losses).cpu().double()
    counted = weights > 0
    loss = means[counted] @ weights[counted] / weights.sum()
    return HeldOutLoss(float(loss), len(losses), sum(tokens), tuple(means.tolist()))


def _held_out_batches(data: TrainingData, batch_size: int, most: int) -> Iterator[Any]:
    iterable = data.eval_batches(batch_size)
    with data.code.running("iterating eval_batches"):
        iterator = iter(iterable)
    for _ in range(most):
        with data.code.running("iterating eval_batches"):
            batch = next(iterator, _END)
        if batch is _END:
            return
        yield batch


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
