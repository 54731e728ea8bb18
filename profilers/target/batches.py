"""The user's batches as one endless, repeatable, resumable stream."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from subopt.errors import PreflightError

from .random_state import RandomStream
from .training_data import TrainingData

_END = object()


class BatchStream:
    """Endless training batches, in an order that depends on the seed and the position alone.

    The user's data code draws from generators of its own, seeded before `batches` is called, so dropout in the model
    cannot change the data. A finite iterable is started again at its end, with its generators running on, so a
    shuffled one comes in a new order.

    Args:
        data: Where the batches come from.
        batch_size: Handed to the user's function.
        seed: Seeds Python's, NumPy's and torch's CPU generators.
    """

    def __init__(self, data: TrainingData, batch_size: int, *, seed: int) -> None:
        self._data, self._batch_size, self._seed = data, batch_size, seed
        self._iterator: Iterator[Any] | None = None
        self._is_state_checked = False
        self._begin()

    def _begin(self) -> None:
        self.position = 0
        self._random = RandomStream(self._seed)
        self._iterator = None
        with self._random.active():
            self._iterable: Any = self._data.batches(self._batch_size)

    def __iter__(self) -> BatchStream:
        return self

    def __next__(self) -> Any:
        """Return the next batch.

        Raises:
            PreflightError: The iterable has no batches.
        """
        with self._random.active(), self._data.code.running("iterating batches"):
            if self._iterator is None:
                self._iterator = iter(self._iterable)
            batch = next(self._iterator, _END)
            if batch is _END:
                if self._iterator is self._iterable:  # a generator, which is used up
                    self._iterable = self._data.batches(self._batch_size)
                self._iterator = iter(self._iterable)
                batch = next(self._iterator, _END)
        if batch is _END:
            again = "after its first pass " if self.position else ""
            raise PreflightError(
                f"batches({self._batch_size}) gives no batches {again}".strip(),
                "return a list, a DataLoader or a fresh generator with at least one batch",
            )
        self.position += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Return the position, and the iterable's own state with the generators' where it has one.

        It reads back with `torch.load(weights_only=True)`.

        Raises:
            PreflightError: The iterable's own state does not read back that way.
        """
        state: dict[str, Any] = {"position": self.position}
        if _is_stateful(self._iterable):
            with self._data.code.running("state_dict() of batches"):
                state["iterable"] = self._iterable.state_dict()
            if not self._is_state_checked:
                _check_reads_back(state["iterable"])
                self._is_state_checked = True
            state["random"] = self._random.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where a saved stream stopped: by the iterable's own state, else by skipping what it had given."""
        self._begin()
        if "iterable" in state and _is_stateful(self._iterable):
            with self._data.code.running("load_state_dict() of batches"):
                self._iterable.load_state_dict(state["iterable"])
            self._random.load_state_dict(state["random"])
            self.position = int(state["position"])
            return
        for _ in range(int(state["position"])):
            next(self)


def move_to(batch: Any, device: torch.device) -> Any:
    """Return a batch with every tensor in it on a device; containers keep their types, other values stay."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        moved = {key: move_to(value, device) for key, value in batch.items()}
        return moved if type(batch) is dict else type(batch)(moved)  # type: ignore[call-arg]
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(move_to(value, device) for value in batch))
    if isinstance(batch, (tuple, list)):
        return type(batch)(move_to(value, device) for value in batch)
    return batch.to(device) if hasattr(batch, "to") else batch


def placed(batch: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Return a batch on a device, its floating point tensors in bf16 where the parameters are."""
    moved = move_to(batch, device)
    if dtype is not torch.bfloat16:
        return moved
    return tree_map_only(torch.Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, moved)


def tokens_in(batch: Any) -> int:
    """Return how many tokens a batch holds: the elements of its first integer tensor, else its examples.

    Raises:
        PreflightError: The batch holds no tensor.
    """
    tensors = list(_tensors(batch))
    if not tensors:
        raise PreflightError("a batch holds no tensor", "yield tensors, or dicts or tuples of them")
    for tensor in tensors:
        if not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype is torch.bool):
            return tensor.numel()
    return tensors[0].shape[0] if tensors[0].dim() else 1


def _tensors(batch: Any) -> Iterator[torch.Tensor]:
    if isinstance(batch, torch.Tensor):
        yield batch
    elif isinstance(batch, (Mapping, tuple, list)):
        for value in batch.values() if isinstance(batch, Mapping) else batch:
            yield from _tensors(value)


def _is_stateful(iterable: object) -> bool:
    return hasattr(iterable, "state_dict") and hasattr(iterable, "load_state_dict")


def _check_reads_back(state: object) -> None:
    buffer = io.BytesIO()
    try:
        torch.save(state, buffer)
        buffer.seek(0)
        torch.load(buffer, weights_only=True)
    # what pickle raises for what it cannot write
    except (pickle.PickleError, AttributeError, TypeError):
        raise PreflightError(
            "state_dict() of batches holds objects that a checkpoint cannot hold safely",
            "return only tensors, numbers, text, and lists and dicts of them",
        ) from None
