"""A run as TensorBoard scalars, for those who ask for them; `metrics.jsonl` holds the same and more."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from subopt.errors import UsageError

from .events import Evaluated, Event, Saved, Started, Stepped

if TYPE_CHECKING:
    from typing_extensions import Self


class TensorBoard:
    """An event listener that writes loss, learning rate, gradient norm and held-out loss.

    Args:
        folder: Where the event files go; nothing is written before the run starts.

    Raises:
        UsageError: The tensorboard package is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UsageError(
                "TensorBoard output needs the package tensorboard, which is not installed",
                "install it with: pip install 'subopt[track]'",
            ) from None
        self._open = SummaryWriter
        self._folder = folder
        self._writer: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def __call__(self, event: Event) -> None:
        """Write what an event holds."""
        match event:
            case Started(plan):
                # what a killed run wrote after its last checkpoint comes again, and is hidden
                self._writer = self._open(str(self._folder), purge_step=plan.start_step + 1)
            case Stepped():
                self._add(event.step, "train/loss", event.loss)
                self._add(event.step, "train/lr", event.lr)
                self._add(event.step, "train/grad_norm", event.grad_norm)
            case Evaluated():
                self._add(event.step, "eval/loss", event.loss)
            case Saved():
                if self._writer is not None:
                    self._writer.flush()

    def _add(self, step: int, name: str, value: float | None) -> None:
        if self._writer is not None and value is not None:
            self._writer.add_scalar(name, value, step)
