"""Optimizers to be timed: how each is made, when it refreshes a basis, and what it holds."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from common.timing import elapsed_ms
from torch import Tensor, nn

from subopt.optimizers import METHODS, Composed
from subopt.optimizers.state.low_bit import parts

LR = 1e-3
# Steps between refreshes while timing: the same work at a refresh, and more of them to time. An implementation's own
# period enters where a mean over it is taken.
PERIOD = 5

Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Entry:
    """One implementation of a method.

    Attributes:
        name: As the report shows it.
        source: The package it is from.
        make: Builds the optimizer; an exception of its makes a row that says so.
        own_period: Steps between refreshes by its own defaults; None where nothing is refreshed.
        refreshes_at: Which step, from 0, refreshes when made with PERIOD. None: the optimizer's state counts its
            refreshes. "slow": not known beforehand; steps of 1.5 times the median are taken for refreshes.
    """

    name: str
    source: str
    make: Make
    own_period: int | None = None
    refreshes_at: Callable[[int], bool] | str | None = None


def ours(name: str, label: str = "", **options: Any) -> Entry:
    """One of our methods, its defaults but for these options."""
    method = METHODS[name]
    refreshes = "refreshes" in method.capabilities

    def make(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        timed: dict[str, Any] = dict(options)
        if refreshes:
            timed = {"period": PERIOD, **options}
            if "early_refresh" in method.tunable:
                timed.setdefault("early_refresh", False)
        return Composed([{"params": parameters, **method.resolve(timed)}], lr=LR)

    own = method.defaults["period"] if refreshes else None
    return Entry(label or name, "subopt", make, options.get("period", own))


@dataclass
class Contender:
    """An entry with its own copy of the weights, and the times of its steps so far.

    Attributes:
        entry: What it is.
        parameters: The weights that it moves.
        optimizer: What is timed.
        first_ms: Its first step, which allocates, fits first bases and compiles what is compiled.
        ordinary_ms: Steps without a refresh.
        refresh_ms: Steps with one.
    """

    entry: Entry
    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    first_ms: float | None = None
    ordinary_ms: list[float] = field(default_factory=list)
    refresh_ms: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, entry: Entry, weights: Sequence[Tensor]) -> "Contender":
        """Build it on copies of these weights."""
        parameters = [nn.Parameter(weight.clone()) for weight in weights]
        return cls(entry, parameters, entry.make(parameters))

    def step(self, gradients: Sequence[Tensor], index: int) -> None:
        """Take one step on copies of these gradients; only the step is timed."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        before = self._refreshes()
        taken_ms = elapsed_ms(self.optimizer.step, self.parameters[0].device)
        for parameter in self.parameters:
            parameter.grad = None  # so that gradients are held by one contender at a time
        if index == 0:
            self.first_ms = taken_ms
        elif self._refreshed(before, index):
            self.refresh_ms.append(taken_ms)
        else:
            self.ordinary_ms.append(taken_ms)

    def _refreshes(self) -> int:
        if self.entry.own_period is None or self.entry.refreshes_at is not None:
            return 0
        return sum(int(state.get("refreshes", 0)) for state in self.optimizer.state.values())

    def _refreshed(self, before: int, index: int) -> bool:
        at = self.entry.refreshes_at
        return at(index) if callable(at) else self._refreshes() > before

    def row(self) -> dict[str, Any]:
        """Return everything that was measured."""
        ordinary, refresh = self.ordinary_ms, self.refresh_ms
        if self.entry.refreshes_at == "slow" and ordinary:
            limit = 1.5 * sorted(ordinary)[len(ordinary) // 2]
            refresh = [value for value in ordinary if value > limit]
            ordinary = [value for value in ordinary if value <= limit]
        return {
            "name": self.entry.name,
            "source": self.entry.source,
            "own_period": self.entry.own_period,
            "first_ms": self.first_ms,
            "ordinary_ms": ordinary,
            "refresh_ms": refresh,
            "state_bytes": held_bytes(self.optimizer, self.parameters),
        }


def held_bytes(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> int:
    """Bytes of the distinct storages an optimizer keeps alive, the parameters' own aside.

    A storage counts as a whole, even where all that is kept is a view of a part of it.
    """
    known = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    total = 0
    for tensor in _tensors(optimizer.state, set()):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            known.add(storage.data_ptr())
            total += storage.nbytes()
    return total


def _tensors(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """Every tensor that can be reached: in containers, in attributes of objects, in wrappers of tensors."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield from parts(value)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item, seen)
    elif isinstance(value, (list, tuple, set)):
        for item in value:
            yield from _tensors(item, seen)
    elif hasattr(value, "__dict__") and not callable(value):
        yield from _tensors(vars(value), seen)
