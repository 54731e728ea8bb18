"""A loaded model with its data: what the rest of the program may ask of the user's code."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from subopt.errors import PreflightError, TargetError

from ..record.data import Files
from ..record.profile import Target
from .builder import Picked, a_type
from .next_token import needs_next_token_loss, next_token_loss
from .synthetic import SyntheticBatches
from .user_code import (
    CodeRunner,
)

Loss = Callable[[nn.Module, Any], Any]


# Of a dict that a model gave for its loss, in a message.
_SHOWN_ENTRIES = 6


@dataclass(frozen=True)
class LoadedTarget:
    """A user's model, loaded: everything the rest of the program may ask of it.

    What the user's code raises in any of these comes out as a UserCodeError with their frames only.

    Attributes:
        record: What was loaded, precisely enough to load it again.
        file: The Python file, or the config.json.
    """

    record: Target
    file: Path
    _load_arguments: Mapping[str, Any]
    _code: CodeRunner
    _picked: Picked
    _functions: Mapping[str, Callable[..., Any]]
    _synthetic: SyntheticBatches | None

    @property
    def has_batches(self) -> bool:
        """Whether there is training data: the user's, or described by `--input`."""
        return "batches" in self._functions or self._synthetic is not None

    @property
    def has_eval(self) -> bool:
        """Whether the user provides held-out batches."""
        return "eval_batches" in self._functions and self._synthetic is None

    @property
    def input_batch_size(self) -> int | None:
        """The batch size written in the `--input` options, or None where the data is the user's."""
        return None if self._synthetic is None else self._synthetic.batch_size

    def load_arguments(self) -> dict[str, Any]:
        """Return plain values for which `load_target(**values)` loads this target again in another process."""
        return dict(self._load_arguments)

    def with_data(
        self,
        files: Files,
        batches: Callable[[int], Iterable[Any]],
        eval_batches: Callable[[int], Iterable[Any]] | None,
        around_loss: Callable[[Loss], Loss],
        inputs: Sequence[str],
    ) -> LoadedTarget:
        """Return the same model with other data: of files instead of the user's or synthetic batches.

        Args:
            files: Where the data comes from, for the record; by absolute paths.
            batches: Takes the place of the user's.
            eval_batches: Takes the place of the user's; None leaves nothing held out.
            around_loss: Gets the loss there is and returns the one to take.
            inputs: Synthetic inputs of the same shapes: what loads this target again knows nothing of the files.
        """
        functions: dict[str, Callable[..., Any]] = {**self._functions, "batches": batches}
        functions["loss"] = around_loss(self._functions.get("loss", _default_loss))
        functions.pop("eval_batches", None)
        if eval_batches is not None:
            functions["eval_batches"] = eval_batches
        kwargs = dict(self.record.kwargs)
        if self.record.is_hf:
            kwargs.pop("sequence_length", None)  # it was of the synthetic batches
        record = self.record.model_copy(
            update={"kwargs": kwargs, "synthetic_data": False, "files": files}
        )
        return replace(
            self,
            record=record,
            _load_arguments={**self._load_arguments, "inputs": tuple(inputs)},
            _functions=functions,
            _synthetic=None,
        )

    def user_code(self, doing: str) -> AbstractContextManager[None]:
        """Return a context in which the user's code may run; `doing` starts the message of its errors."""
        return self._code.running(doing)

    def build_model(self) -> nn.Module:
        """Return a fresh model. Works under `FakeTensorMode`: nothing is then allocated.

        Raises:
            TargetError: The builder returned something that is not a module.
        """
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.record.kwargs.items())
        call = f"{self._picked.name}({arguments})"
        with self.user_code(call), _initialised_without_data():
            if isinstance(self._picked.builder, nn.Module):
                return fresh_copy(self._picked.builder)
            model: object = self._picked.builder(**self.record.kwargs)
        if not isinstance(model, nn.Module):
            raise TargetError(
                f"{call} returned {a_type(model)}, not a torch.nn.Module",
                "return the model itself from it",
            )
        return model

    def batches(self, batch_size: int) -> Iterable[Any]:
        """Return the training batches, synthetic where `--input` was given. Seed first, or use `BatchStream`.

        Raises:
            PreflightError: There is no data, or it cannot be iterated.
        """
        if self._synthetic is not None:
            return self._synthetic.batches(batch_size)
        if "batches" not in self._functions:
            raise PreflightError(
                f"{self.record.spec} has no batches(batch_size), so there is no data to measure on",
                'write one, or give random data: --input "ids=int64[8,256]<32000"',
            )
        return self._iterable("batches", batch_size)

    def eval_batches(self, batch_size: int) -> Iterable[Any] | None:
        """Return the held-out batches, or None where the user provides none."""
        return self._iterable("eval_batches", batch_size) if self.has_eval else None

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """Return the loss of one batch, by the user's `loss` or by calling the model on the batch.

        A model that gives scores for `input_ids`, and takes no labels, is scored on the next token.

        Raises:
            PreflightError: The result is no tensor, or the batch cannot be handed to the model.
        """
        compute: Callable[..., Any] = self._functions.get("loss", _default_loss)
        with self.user_code("loss(model, batch)"):
            result = compute(model, batch)
        if not isinstance(result, torch.Tensor):
            raise PreflightError(
                f"the loss is {a_type(result)}, not a tensor{_entries(result)}",
                "write loss(model, batch) in the model's file, and return a scalar tensor: of several losses their sum",
            )
        return result

    def param_groups(self, model: nn.Module) -> list[dict[str, Any]] | None:
        """Return the user's parameter groups, or None where they leave the grouping to us.

        Raises:
            TargetError: The result is not a list of dicts with `params`.
        """
        if "param_groups" not in self._functions:
            return None
        with self.user_code("param_groups(model)"):
            groups = self._functions["param_groups"](model)
        if not isinstance(groups, list) or not all(
            isinstance(group, dict) and "params" in group for group in groups
        ):
            raise TargetError(
                "param_groups(model) must return a list of dicts, each with 'params'",
                "return what a torch optimizer takes as its first argument",
            )
        return groups

    def _iterable(self, name: str, batch_size: int) -> Iterable[Any]:
        with self.user_code(f"{name}({batch_size})"):
            result: Iterable[Any] = self._functions[name](batch_size)
        if not isinstance(result, Iterable) and not hasattr(result, "__getitem__"):
            raise PreflightError(
                f"{name}({batch_size}) returned {a_type(result)}, which cannot be iterated",
                "return a list, a DataLoader, or make it a generator with yield",
            )
        return result


def fresh_copy(model: nn.Module) -> nn.Module:
    """Return a deep copy that shares no tensor; under `FakeTensorMode` its tensors are fake ones.

    Tensors inside a module's lists or dicts stay real ones, copied.
    """
    mode = torch._guards.detect_fake_mode()
    memo: dict[int, Any] = {}
    if mode is not None:
        plain = (value for module in model.modules() for value in vars(module).values())
        for value in itertools.chain(model.parameters(), model.buffers(), plain):
            if isinstance(value, torch.Tensor):
                memo[id(value)] = mode.from_tensor(value)
    with unset_fake_temporarily(), without_address_warnings():
        return copy.deepcopy(model, memo)


@contextmanager
def without_address_warnings() -> Iterator[None]:
    """Copies and recurrent layers ask a fake tensor for its address; torch's advice on that is not for our user."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        yield


def _default_loss(model: nn.Module, batch: Any) -> Any:
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


def _entries(result: object) -> str:
    """Return the names in a dict that a model gave for its loss, to be read after "not a tensor"."""
    names = [str(key) for key in result] if isinstance(result, Mapping) else []
    return f": it has {', '.join(names[:_SHOWN_ENTRIES])}" if names else ""


def loss_of_output(output: Any) -> Any:
    """Return the loss that a model's output holds as `.loss` or as `["loss"]`, else the output itself."""
    if isinstance(output, Mapping):
        return output.get("loss", output)
    attribute = getattr(output, "loss", None)
    return output if attribute is None else attribute


def _initialised_without_data() -> AbstractContextManager[Any]:
    """Let torch's truncated normal leave fake tensors alone: it draws again until the values are in range."""
    if torch._guards.detect_fake_mode() is None:
        return nullcontext()
    return replaced(nn.init, "_no_grad_trunc_normal_", lambda tensor, *_, **__: tensor)


@contextmanager
def replaced(module: ModuleType, name: str, value: object) -> Iterator[None]:
    """Put a value in a module's place of that name, for what runs inside."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
