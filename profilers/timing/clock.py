"""The clock behind every measured time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import torch
from torch import nn


def now_s(devices: Iterable[torch.device]) -> float:
    """Return the time in seconds, once the GPUs among these devices have done all they were given."""
    for device in devices:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return time.perf_counter()


def timed_ms(run: Callable[[], object], devices: Iterable[torch.device]) -> float:
    """Return the time of one call in ms, waiting for the GPUs it uses."""
    begin_s = now_s(devices)
    run()
    return (now_s(devices) - begin_s) * 1e3


def devices_of(model: nn.Module) -> set[torch.device]:
    """Return the devices that a model's parameters are on."""
    return {parameter.device for parameter in model.parameters()}
