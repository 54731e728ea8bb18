"""Training data from a recipe's files, for a loaded model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from subopt.errors import PreflightError, UserCodeError
from subopt.profilers.record.data import Files
from subopt.profilers.target.loaded import LoadedTarget
from subopt.profilers.target.next_token import LABELS, TOKENS
from subopt.profilers.target.training_data import Loss, TrainingData

from .batches import OpenFiles
from .paths import absolute


def with_files(target: LoadedTarget, files: Files, base: Path) -> LoadedTarget:
    """Return the model with batches of files in the place of its own, and held-out ones where there are any.

    A `loss` of the user's gets dicts of `input_ids` and `labels`; without one the model is called with both, or with
    the tokens alone where it takes no labels.

    Args:
        target: The model; of its own data only the loss is used.
        files: Which files.
        base: The folder that relative paths start from.

    Raises:
        UsageError: Nothing matches a pattern, there is no such tokenizer, or a package is missing.
        FileFormatError: A file is not of its format.
        PreflightError: There is nothing to train on.
    """
    opened = OpenFiles(files, base)
    length, vocabulary = files.sequence_length, opened.tokenizer.vocabulary
    data = TrainingData(
        target.data.spec,
        target.code,
        _CheckedLoss(target.data.loss, opened, is_hf=target.record.is_hf),
        opened.batches,
        None if opened.held_out is None else opened.eval_batches,
        inputs=tuple(f"{name}=int64[1,{length}]<{vocabulary}" for name in (TOKENS, LABELS)),
        files=absolute(files, base),
    )
    return replace(target, data=data)


class _CheckedLoss:
    """A loss whose first call makes sure that model and tokens go together, and says what a batch is where they do not.

    It calls `loss`, which raises UserCodeError for what the user's code raises. A Hugging Face architecture's own loss
    has to be that of the next token.
    """

    def __init__(self, loss: Loss, opened: OpenFiles, *, is_hf: bool) -> None:
        self._loss, self._opened, self._is_hf = loss, opened, is_hf
        self._is_checked = False

    def __call__(self, model: nn.Module, batch: Any) -> Any:
        if self._is_checked:
            return self._loss(model, batch)
        self._check(getattr(model, "_orig_mod", model))  # what torch.compile wrapped
        try:
            loss = self._loss(model, batch)
        except UserCodeError as error:
            length = self._opened.files.sequence_length
            raise PreflightError(
                error.message,
                f"a batch of data.files is a dict of {TOKENS} and {LABELS}, both int64 of shape (batch, {length}): "
                "loss(model, batch) in the model's file must take that",
            ) from error
        self._is_checked = True
        return loss

    def _check(self, model: nn.Module) -> None:
        if self._is_hf:
            _check_is_causal(model)
        rows, tokenizer = _embedded(model), self._opened.files.tokenizer
        vocabulary = self._opened.tokenizer.vocabulary
        if rows is not None and vocabulary > rows:
            raise PreflightError(
                f"the tokenizer {tokenizer} has {vocabulary} tokens and the model's embedding {rows}",
                "give the model as many, with an argument such as vocab_size=... if it has one; "
                "or take the tokenizer that belongs to it",
            )
        config = getattr(model, "config", None)
        positions = getattr(config, "max_position_embeddings", None)
        length = self._opened.files.sequence_length
        if isinstance(positions, int) and 0 < positions < length:
            raise PreflightError(
                f"data.files.sequence_length is {length} and the model has {positions} positions",
                f"set data.files.sequence_length to {positions} or less",
            )


def _check_is_causal(model: nn.Module) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    name = type(model).__name__
    if not any(
        name == known or (isinstance(known, tuple) and name in known) for known in CAUSAL.values()
    ):
        raise PreflightError(
            f"{name} is not trained on the next token, and data.files gives nothing else",
            "write a model.py with build_model() and a batches(batch_size) of its task",
        )


def _embedded(model: nn.Module) -> int | None:
    """Return how many tokens the model knows, or where only its embeddings tell, how many rows the largest has."""
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    get_table = getattr(model, "get_input_embeddings", None)
    if get_table is not None and isinstance(table := get_table(), nn.Embedding):
        tables = [table]
    return max((table.num_embeddings for table in tables), default=None)
