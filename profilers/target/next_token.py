"""The loss of a plain language model: of one that takes tokens, gives scores, and computes no loss of its own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from subopt.errors import PreflightError

from .builder import a_type

TOKENS, LABELS = "input_ids", "labels"


def needs_next_token_loss(model: nn.Module, batch: Mapping[str, Any]) -> bool:
    """Whether a batch is tokens with labels, and the model's forward has no argument for labels."""
    if set(batch) != {TOKENS, LABELS}:
        return False
    inner: nn.Module = getattr(model, "_orig_mod", model)  # what torch.compile wrapped
    parameters = inspect.signature(inner.forward).parameters.values()
    takes_any = any(item.kind is item.VAR_KEYWORD for item in parameters)
    return not takes_any and all(item.name != LABELS for item in parameters)


def next_token_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the mean cross-entropy, in nats, of every label but the first, given the tokens before it.

    Args:
        model: Takes int64 tokens of shape (batch, length) and gives scores of shape (batch, length, vocabulary).
        batch: `input_ids` and `labels`, of which the labels are the same tokens, not shifted.

    Raises:
        PreflightError: It gives something else.
    """
    labels = batch[LABELS]
    scores: object = model(batch[TOKENS])
    if not isinstance(scores, Tensor) or scores.dim() != 3 or scores.shape[:2] != labels.shape:
        found = list(scores.shape) if isinstance(scores, Tensor) else a_type(scores)
        raise PreflightError(
            f"{type(model).__name__} gives {found} for {list(labels.shape)} tokens, not scores of every next token",
            "write loss(model, batch) in the model's file; its batch is a dict of input_ids and labels",
        )
    return F.cross_entropy(scores[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
