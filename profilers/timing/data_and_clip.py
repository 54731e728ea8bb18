"""What a training step does besides its passes and the optimizer's update: it fetches batches and clips gradients."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from . import clock

_ROUNDS = 5


@dataclass(frozen=True)
class DataAndClipTime:
    """Medians.

    Attributes:
        batch_ms: Fetching one batch from the user's code and placing it on the device.
        clip_ms: The norm of all gradients together, scaling them by it, and reading the loss and the norm.
    """

    batch_ms: float
    clip_ms: float


def time_data_and_clip(
    model: nn.Module, batches: Iterator[Any], place: Callable[[Any], Any]
) -> DataAndClipTime:
    """Time both on a model whose gradients are in place; their values stay as they are."""
    devices = clock.devices_of(model)
    parameters = [p for p in model.parameters() if p.grad is not None]
    clip = functools.partial(_clip, parameters)
    return DataAndClipTime(
        batch_ms=_median_ms(lambda: place(next(batches)), devices),
        clip_ms=_median_ms(clip, devices) if parameters else 0.0,
    )


def _clip(parameters: list[nn.Parameter]) -> None:
    """Clip as training does, at a norm that changes nothing."""
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    usable = torch.where(torch.isfinite(norm), norm, 0.0)
    # the factor is limited to 1: every gradient is multiplied by exactly that
    torch.nn.utils.clip_grads_with_norm_(parameters, torch.finfo(norm.dtype).max, usable)
    norm.item()


def _median_ms(run: Callable[[], object], devices: set[torch.device]) -> float:
    run()
    return statistics.median(clock.timed_ms(run, devices) for _ in range(_ROUNDS))
