"""What one update takes in memory, found by running the real update on tensors without data.

Every distinct update is followed once: parameters of equal form and options, of whichever method, take the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..composition import OPTION_NAMES
from ..optimizer import Composed
from ..state.form_mode import FormMode
from ..state.storage_tracker import StorageTracker

# With these the first and third update refresh and the second does not, and nothing waits for a later one.
_TELLING = {"period": 2, "early_refresh": False, "start_step": 1}
# What happens from time to time only. An update that has none of these does the same in every step after the first.
_FROM_TIME_TO_TIME = frozenset({"period", "retract_every"})


class Form(NamedTuple):
    """All of a tensor that its update's memory depends on."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: Tensor) -> Form:
        """Return that of a tensor."""
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)

    def empty(self) -> Tensor:
        """Return a tensor of this form."""
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=self.device)


@dataclass(frozen=True)
class UpdateBytes:
    """What one parameter's update takes beside the parameter and its gradient.

    Workspace inside LAPACK or cuSOLVER, which no tensor shows, is not included.

    Attributes:
        state: What stays after the first update.
        first: Most temporaries of the first update, which allocates the state and may fit bases by other means.
        ordinary: Of one without a refresh.
        refresh: Of a later one with a refresh, and of an ordinary one where nothing is refreshed.
    """

    state: int
    first: int
    ordinary: int
    refresh: int


def update_bytes(parameter: Tensor, gradient: Tensor, options: Mapping[str, Any]) -> UpdateBytes:
    """Return what the update of a parameter by a gradient takes; options are those of its group."""
    return _followed(Form.of(parameter), Form.of(gradient), _frozen(options))


def transient_bytes(shape: Sequence[int], dtype: torch.dtype, options: Mapping[str, Any]) -> int:
    """Return the peak bytes of temporaries in the worst step, beyond parameter, gradient and state."""
    form = Form.of(torch.empty(tuple(shape), dtype=dtype, device="meta"))
    form = form._replace(device=torch.device("cpu"))
    found = _followed(form, form, _frozen(options))
    return max(found.first, found.ordinary, found.refresh)


def _frozen(options: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Return the options that memory depends on, as a key; of a rate only whether it is a tensor."""
    kept = {name: options[name] for name in OPTION_NAMES & options.keys()}
    kept |= {name: value for name, value in _TELLING.items() if name in kept}
    if isinstance(options.get("lr"), Tensor):
        kept["lr"] = options["lr"]
    if options.get("weight_decay"):
        kept["weight_decay"] = 1.0
    if options.get("maximize"):
        kept["maximize"] = True
    return tuple(sorted((key, _hashable(value)) for key, value in kept.items()))


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@lru_cache(maxsize=4096)
def _followed(form: Form, gradient: Form, options: tuple[tuple[str, Any], ...]) -> UpdateBytes:
    with FormMode():
        parameter = torch.nn.Parameter(form.empty())
        optimizer = Composed([parameter], **dict(options))
        parameter.grad = gradient.empty()
        with StorageTracker() as tracker:
            tracker.file([parameter, parameter.grad], "retained")
            before = tracker.live_bytes.total()
            temporary = [_temporary_bytes(optimizer, tracker)]
            state = tracker.live_bytes.total() - before
            repeats = _FROM_TIME_TO_TIME.isdisjoint(dict(options))
            temporary += [_temporary_bytes(optimizer, tracker) for _ in range(1 if repeats else 2)]
    return UpdateBytes(state, temporary[0], temporary[1], temporary[-1])


def _temporary_bytes(optimizer: Composed, tracker: StorageTracker) -> int:
    tracker.reset_peak()
    optimizer.step()
    return tracker.peak_bytes.total() - tracker.live_bytes.total()
