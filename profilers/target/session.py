"""A target under the settings of one profile: its model, data and loss in the asked precision, on the asked device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..record.profile import Settings
from .batches import BatchStream, placed
from .loaded import LoadedTarget


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Build modules in a dtype: unlike casting them afterwards, this works under fake tensors too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class Session:
    """What every measurement needs of a target, the same for all of them.

    Attributes:
        target: The model and its data.
        settings: What was asked for.
        device: Where to run; the CPU where nothing is run.
        dtype: Dtype of parameters and of floating point inputs.
    """

    def __init__(self, target: LoadedTarget, settings: Settings) -> None:
        self.target = target
        self.settings = settings
        self.device = torch.device("cpu" if settings.simulate else settings.device)
        self.dtype = torch.bfloat16 if settings.dtype == "bf16" else torch.float32

    def build_model(self) -> nn.Module:
        """Return a fresh model in training mode, where the user's code puts it: on the CPU, or fake."""
        with default_dtype(self.dtype):
            return self.target.build_model().train()

    def build_on_device(self) -> nn.Module:
        """Return a fresh model on the device."""
        return self.build_model().to(self.device)

    def batches(self) -> BatchStream:
        """Return the training batches from the first one on, as the user's code makes them."""
        return BatchStream(self.target.data, self.settings.batch_size, seed=self.settings.seed)

    def batch_of_size(self, batch_size: int) -> Any:
        """Return the first training batch of another size, placed."""
        return self.place(next(BatchStream(self.target.data, batch_size, seed=self.settings.seed)))

    def place(self, batch: Any) -> Any:
        """Return a batch on the device, its floating point tensors in the parameters' dtype."""
        return placed(batch, self.device, self.dtype)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the loss in the asked precision."""
        if self.settings.dtype != "bf16-mixed":
            return self.target.data.loss(model, batch)
        device_type = next(model.parameters()).device.type
        with torch.autocast(device_type, torch.bfloat16):
            return self.target.data.loss(model, batch)

    def forward_backward(self, model: nn.Module, batch: Any) -> Tensor:
        """Leave a batch's gradients in the model and return its loss."""
        model.zero_grad(set_to_none=True)
        loss = self.loss(model, batch)
        with self.target.code.running("backward()"):
            loss.backward()
        return loss.detach()
