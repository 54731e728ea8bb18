"""How many numbers a model puts out for each prediction: for a language model, its vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from torch import Tensor, nn


class WatchedOutputs:
    """Watches a model while it runs, as a context.

    Attributes:
        size: The last dimension of the first tensor that it returned, or of its `logits`; None where it returned
            nothing of the kind, or was not called as a whole.
    """

    def __init__(self, model: nn.Module) -> None:
        self.size: int | None = None
        self._model = model

    def __enter__(self) -> WatchedOutputs:
        """Begin to watch."""
        self._hook = self._model.register_forward_hook(self._see)
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the model as it was."""
        self._hook.remove()

    def _see(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        logits = _logits(output)
        if self.size is None and logits is not None and logits.dim() > 0:
            self.size = logits.shape[-1]


def _logits(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(found, Tensor):
        return found
    return _logits(output[0]) if isinstance(output, tuple | list) and output else None
