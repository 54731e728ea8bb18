"""A loaded model with the data that trains it: what the rest of the program may ask of the user's code."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from subopt.errors import TargetError

from ..record.profile import Target
from .builder import Picked, a_type
from .loaded_weights import LoadedWeights
from .training_data import TrainingData
from .user_code import CodeRunner


@dataclass(frozen=True)
class LoadedTarget:
    """A user's model, loaded, and the data that trains it.

    What the user's code raises in any of these comes out as a UserCodeError with their frames only.

    Attributes:
        data: The batches and their loss.
        code: Runs the user's code.
    """

    data: TrainingData
    code: CodeRunner
    _model: Target
    _base: Path
    _picked: Picked
    _make_groups: Callable[[nn.Module], Any] | None = None
    _weights: LoadedWeights = field(default_factory=LoadedWeights)

    @property
    def record(self) -> Target:
        """What was loaded, precisely enough to load it again."""
        data = self.data
        kwargs = {**self._model.kwargs, **data.arguments}
        changes = {
            "kwargs": kwargs,
            "synthetic_data": data.is_synthetic,
            "files": data.files,
            "loads_weights": self._weights.found,
        }
        return self._model.model_copy(update=changes)

    def load_arguments(self) -> dict[str, Any]:
        """Return plain values for which `load_target(**values)` loads this target again in another process.

        Where the data is of files, it makes random batches of their shapes.
        """
        record = self.record
        return {
            "spec": record.spec,
            "kwargs": record.kwargs,
            "inputs": self.data.inputs,
            "base": self._base,
        }

    def build_model(self) -> nn.Module:
        """Return a fresh model. Works under `FakeTensorMode`: nothing is then allocated.

        Raises:
            TargetError: The builder returned something that is not a module.
        """
        kwargs, builder = self._model.kwargs, self._picked.builder
        arguments = ", ".join(f"{key}={value!r}" for key, value in kwargs.items())
        call = f"{self._picked.name}({arguments})"
        with self.code.running(call), _initialised_without_data(), self._weights.noticing():
            model: object = (
                fresh_copy(builder) if isinstance(builder, nn.Module) else builder(**kwargs)
            )
        if not isinstance(model, nn.Module):
            raise TargetError(
                f"{call} returned {a_type(model)}, not a torch.nn.Module",
                "return the model itself from it",
            )
        return model

    def param_groups(self, model: nn.Module) -> list[dict[str, Any]] | None:
        """Return the user's parameter groups, or None where they leave the grouping to us.

        Raises:
            TargetError: The result is not a list of dicts with `params`.
        """
        if self._make_groups is None:
            return None
        with self.code.running("param_groups(model)"):
            groups = self._make_groups(model)
        if not isinstance(groups, list) or not all(
            isinstance(group, dict) and "params" in group for group in groups
        ):
            raise TargetError(
                "param_groups(model) must return a list of dicts, each with 'params'",
                "return what a torch optimizer takes as its first argument",
            )
        return groups

    def batches(self, batch_size: int) -> Iterable[Any]:
        """Return `data.batches`: scripts of earlier versions ask the target."""
        return self.data.batches(batch_size)

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """Return `data.loss`: scripts of earlier versions ask the target."""
        return self.data.loss(model, batch)


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
