"""The data that trains a model: batches to train on, batches held out, and the loss of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from subopt.errors import PreflightError

from ..record.data import Files
from .arguments import Scalar
from .builder import a_type
from .next_token import needs_next_token_loss, next_token_loss
from .user_code import CodeRunner

Loss = Callable[[nn.Module, Any], Any]
MakeBatches = Callable[[int], Iterable[Any]]

# Of a dict that a model gave for its loss, in a message.
_SHOWN_ENTRIES = 6


def default_loss(model: nn.Module, batch: Any) -> Any:
    """Return what the model gives for a batch: the loss where the user's file defines none.

    A model that gives scores for `input_ids`, and takes no labels, is scored on the next token.

    Raises:
        PreflightError: The batch cannot be handed to the model.
    """
    if isinstance(batch, Mapping):
        if needs_next_token_loss(model, batch):
            return next_token_loss(model, batch)
        output = model(**batch)
    elif isinstance(batch, (tuple, list)):
        output = model(*batch)
    elif isinstance(batch, torch.Tensor):
        output = model(batch)
    else:
        raise PreflightError(
            f"a batch is {a_type(batch)}; only dicts, tuples, lists and tensors can be handed to the model",
            "yield one of those, or write loss(model, batch) in the model's file",
        )
    return loss_of_output(output)


def loss_of_output(output: Any) -> Any:
    """Return the loss that a model's output holds as `.loss` or as `["loss"]`, else the output itself."""
    if isinstance(output, Mapping):
        return output.get("loss", output)
    attribute = getattr(output, "loss", None)
    return output if attribute is None else attribute


@dataclass(frozen=True)
class TrainingData:
    """Batches and their loss: the functions of the user's file, random tensors, or data files.

    What the user's code raises in any of them comes out as a UserCodeError with their frames only.

    Attributes:
        spec: The target, for messages.
        code: Runs the user's code.
        compute_loss: `loss(model, batch)`.
        make_batches: `batches(batch_size)`, or None where there is no data.
        make_eval_batches: `eval_batches(batch_size)`, or None where nothing is held out.
        is_synthetic: Whether the batches are random numbers.
        arguments: Those of the target's arguments that shape batches and not the model, such as `sequence_length`.
        inputs: Synthetic inputs of the batches' shapes, where another process is not to make the batches itself.
        files: The data files, by absolute paths, or None.
    """

    spec: str
    code: CodeRunner
    compute_loss: Loss = default_loss
    make_batches: MakeBatches | None = None
    make_eval_batches: MakeBatches | None = None
    is_synthetic: bool = False
    arguments: Mapping[str, Scalar] = field(default_factory=dict)
    inputs: Sequence[str] = ()
    files: Files | None = None

    @property
    def has_eval(self) -> bool:
        """Whether there are held-out batches."""
        return self.make_eval_batches is not None

    def batches(self, batch_size: int) -> Iterable[Any]:
        """Return the training batches. Seed first, or use `BatchStream`.

        Raises:
            PreflightError: There is no data, or it cannot be iterated.
        """
        if self.make_batches is None:
            raise PreflightError(
                f"{self.spec} has no batches(batch_size), so there is no data to measure on",
                'write one, or give random data: --input "ids=int64[8,256]<32000"',
            )
        return self._iterable("batches", self.make_batches, batch_size)

    def eval_batches(self, batch_size: int) -> Iterable[Any]:
        """Return the held-out batches, none where there are none.

        Raises:
            PreflightError: They cannot be iterated.
        """
        if self.make_eval_batches is None:
            return ()
        return self._iterable("eval_batches", self.make_eval_batches, batch_size)

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """Return the loss of one batch.

        Raises:
            PreflightError: The result is no tensor, or the batch cannot be handed to the model.
        """
        with self.code.running("loss(model, batch)"):
            result = self.compute_loss(model, batch)
        if not isinstance(result, torch.Tensor):
            raise PreflightError(
                f"the loss is {a_type(result)}, not a tensor{_entries(result)}",
                "write loss(model, batch) in the model's file, and return a scalar tensor: of several losses their sum",
            )
        return result

    def _iterable(self, name: str, make: MakeBatches, batch_size: int) -> Iterable[Any]:
        with self.code.running(f"{name}({batch_size})"):
            result = make(batch_size)
        if not isinstance(result, Iterable) and not hasattr(result, "__getitem__"):
            raise PreflightError(
                f"{name}({batch_size}) returned {a_type(result)}, which cannot be iterated",
                "return a list, a DataLoader, or make it a generator with yield",
            )
        return result


def _entries(result: object) -> str:
    """Return the names in a dict that a model gave for its loss, to be read after "not a tensor"."""
    names = [str(key) for key in result] if isinstance(result, Mapping) else []
    return f": it has {', '.join(names[:_SHOWN_ENTRIES])}" if names else ""
