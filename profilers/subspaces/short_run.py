"""The short real training run of a profile: first to move past the beginning, then to watch subspaces on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from subopt.optimizers import create

from ..effort import OnProgress, Progress
from ..gradients.measure_layers import PASSES
from ..record.cost import BASELINE
from ..target.session import Session
from ..timing.stopwatch import Stopwatch
from .follow import SubspaceRun, follow_subspaces

_LR = 1e-3


class ShortRun:
    """AdamW training steps on the user's batches, one after another across all stages that take some.

    The weights move; the gradients are gone after each stage.

    Memory: AdamW's state, freed with this object.
    """

    def __init__(
        self,
        session: Session,
        model: nn.Module,
        batches: Iterator[Any],
        watch: Stopwatch,
        report: OnProgress,
    ) -> None:
        self._session, self._model, self._batches = session, model, batches
        self._watch, self._report = watch, report
        groups = session.target.param_groups(model)
        self._optimizer = create(BASELINE, model, lr=_LR, groups=groups)
        self._losses: list[Tensor] = []

    @property
    def losses(self) -> list[float]:
        """The loss of every step so far."""
        return [float(loss) for loss in self._losses]

    def warm_up(self, steps: int) -> None:
        """Take steps and look at nothing."""
        for done in range(steps):
            self._report(Progress("warm-up", done, steps))
            self._forward_backward()
            self._optimizer.step()
        self._model.zero_grad(set_to_none=True)

    def follow(self, ranks: Mapping[str, int], steps: int, cap_bytes: int) -> SubspaceRun:
        """Take steps and watch how long the named layers' subspaces last: see `follow_subspaces`."""
        found = follow_subspaces(
            self._model,
            ranks,
            self._forward_backward,
            self._optimizer,
            steps=steps,
            cap_bytes=cap_bytes,
            watch=self._watch,
            on_step=lambda done, total: self._report(Progress("subspaces", done, total)),
        )
        self._model.zero_grad(set_to_none=True)
        return found

    def _forward_backward(self) -> None:
        batch = self._session.place(next(self._batches))
        with self._watch.span(PASSES):
            self._losses.append(self._session.forward_backward(self._model, batch))
        self._watch.passes += 1
