"""Evaluating a model twice at one point: random numbers and buffers as they were, so that nothing is seen twice."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SamePoint:
    """Remembers torch's random state and a model's buffers, to `restore` them before a second evaluation.

    Dropout draws the same masks again, and running statistics such as batch normalisation's are updated once in all.
    Not covered: random numbers of Python's own and NumPy's generators.

    Memory: a copy of the model's buffers.
    """

    def __init__(self, model: nn.Module) -> None:
        self._cpu = torch.get_rng_state()
        devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
        self._cuda = {device: torch.cuda.get_rng_state(device) for device in devices}
        self._buffers: list[tuple[nn.Module, str, Tensor, Tensor]] = [
            (module, name, buffer, buffer.clone())
            for module in model.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]

    def restore(self) -> None:
        """Put everything back, into the buffers that the model had."""
        torch.set_rng_state(self._cpu)
        for device, state in self._cuda.items():
            torch.cuda.set_rng_state(state, device)
        with torch.no_grad():
            for module, name, buffer, value in self._buffers:
                module._buffers[name] = buffer
                buffer.copy_(value)
