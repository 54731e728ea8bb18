"""The held-out loss, taken without leaving a trace in the training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from subopt.errors import PreflightError

from .device_memory import told_out_of_memory
from .rng import preserved_rng, seed_everything
from .session import Session

_END = object()


def held_out_loss(session: Session) -> tuple[float, int]:
    """Return the mean loss over the first `eval.batches` held-out batches, and how many there were.

    The same batches every time; a shorter held-out set is gone through once. Generators, and which parts of the
    model are in training mode, are left as they were.

    Raises:
        PreflightError: The held-out data has no batches.
    """
    losses = []
    with (
        told_out_of_memory("the evaluation"),
        preserved_rng(),
        _evaluating(session.model),
        torch.no_grad(),
    ):
        seed_everything(session.recipe.seed)
        for batch in _held_out_batches(session):
            with session.accelerator.autocast():
                loss = session.target.loss(session.model, session.batch(batch))
            losses.append(loss.float())
    if not losses:
        raise PreflightError(
            f"eval_batches({session.recipe.data.batch_size}) gives no batches",
            "give it held-out data, or leave it out of the model file",
        )
    return float(torch.stack(losses).mean()), len(losses)


def _held_out_batches(session: Session) -> Iterator[Any]:
    target, recipe = session.target, session.recipe
    iterable = target.eval_batches(recipe.data.batch_size)
    with target.user_code("iterating eval_batches"):
        iterator = iter(iterable or ())
    for _ in range(recipe.eval.batches):
        with target.user_code("iterating eval_batches"):
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
