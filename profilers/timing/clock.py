"""The clock behind every measured time."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn


def timed_ms(run: Callable[[], object], devices: set[torch.device]) -> float:
    """Return the time of one call in ms, waiting for the GPUs it uses."""
    for device in devices:
        torch.cuda.synchronize(device)
    begin_s = time.perf_counter()
    run()
    for device in devices:
        torch.cuda.synchronize(device)
    return (time.perf_counter() - begin_s) * 1e3


def gpus_of(model: nn.Module) -> set[torch.device]:
    """Return the GPUs that a model's parameters are on."""
    return {parameter.device for parameter in model.parameters() if parameter.is_cuda}
