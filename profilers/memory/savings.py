"""What would lower the peak of training beside another optimizer, and by how much at least.

Every change is applied to the timeline of the two passes: some storages become smaller or go, and the highest instant
of each phase is found anew, so that a change never frees more than down to the next highest instant of any phase.
Nothing is counted that the passes do not show, and what a change itself needs is added.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from subopt.optimizers.state.storage_tracker import Stored

from ..record.profile import Saving
from .phases import ModelPeaks, StepPeaks, training_phases
from .timeline import Timeline

# Below this share of the peak a change is not worth a line.
_LEAST_SHARE = 0.02
# The loss in pieces: of so many parts of the tokens, one has its logits at a time.
_PIECES = 8


def savings(timeline: Timeline, model: ModelPeaks, step: StepPeaks) -> list[Saving]:
    """Return the changes that lower the peak by more than 2 %, the largest first.

    Args:
        timeline: The model's own passes.
        model: What they take.
        step: The method's part.
    """
    phases = training_phases(model, step)
    peak = max(at.total() for at in phases.values())
    update = max(at.total() for name, at in phases.items() if name in {"step", "refresh"})
    training = _Training(timeline, model, step, update)
    found = [Saving(change=text, bytes=max(0, peak - after)) for text, after in training.changes()]
    worth = [saving for saving in found if saving.bytes > _LEAST_SHARE * peak]
    return sorted(worth, key=lambda saving: -saving.bytes)


@dataclass(frozen=True)
class _Training:
    """Training before a change.

    Attributes:
        timeline: The model's own passes.
        model: What they take.
        step: The method's part.
        update_bytes: The highest instant of its step.
    """

    timeline: Timeline
    model: ModelPeaks
    step: StepPeaks
    update_bytes: int

    def changes(self) -> Iterator[tuple[str, int]]:
        """Yield what could be changed, with the peak after it."""
        timeline = self.timeline
        pieces = f"compute the loss in {_PIECES} pieces (chunked cross-entropy), never all logits at once"
        yield pieces, self._loss_in_pieces()
        if timeline.blocks:
            first, last = timeline.blocks[0], timeline.blocks[-1].rpartition(".")[2]
            again = f"compute the activations of {first}-{last} again in the backward pass (checkpointing)"
            yield again, self._checkpointed()
        if timeline.batch_size > 1:
            halved = "half the batch, with gradients accumulated over two"
            yield halved, self._accumulated()
        if timeline.has_float32_products:
            yield "bfloat16 activations (autocast)", self._autocast()
        freed = "update each parameter as soon as its gradient is there, and free that gradient"
        yield freed, self._updated_at_once()

    def _peak(self, passes_bytes: int, update_bytes: int | None = None) -> int:
        update = self.update_bytes if update_bytes is None else update_bytes
        return max(passes_bytes + self.step.state_bytes, update)

    def _loss_in_pieces(self) -> int:
        logits = self.timeline.is_logits
        passes = self.timeline.peak_bytes(lambda s: 1 / _PIECES if logits(s) else 1.0)
        return self._peak(passes + self.timeline.piece_bytes)

    def _accumulated(self) -> int:
        """Activations halve; the first half's gradients are there throughout the second's passes."""

        def weigh(stored: Stored) -> float:
            if stored.category == "gradient":
                return 0.0
            is_fixed = (
                stored.category == "parameter" or stored.bytes in self.timeline.parameter_sizes
            )
            return 1.0 if is_fixed else 0.5

        return self._peak(self.timeline.peak_bytes(weigh) + self.model.gradient_bytes)

    def _autocast(self) -> int:
        """The outputs of linear and convolution layers halve; copies of their weights are added, for both passes."""
        halved, copies = self.timeline.float32_products, self.timeline.product_weight_bytes // 2

        def weigh(stored: Stored) -> float:
            is_output = stored.category == "activation" and stored.scope in halved
            return 0.5 if is_output and stored.element_bytes == 4 else 1.0

        return self._peak(self.timeline.peak_bytes(weigh) + copies)

    def _updated_at_once(self) -> int:
        """One gradient at a time, and the update's temporaries in the backward pass."""
        largest = max(self.timeline.parameter_sizes, default=0)
        temporary = self.step.step["temporary"]
        passes = self.timeline.peak_bytes(lambda s: 0.0 if s.category == "gradient" else 1.0)
        update = self.update_bytes - max(0, self.model.gradient_bytes - largest)
        return self._peak(passes + largest + temporary, update)

    def _checkpointed(self) -> int:
        """Of a block only its output stays, but for the one that is running; its forward pass runs a second time.

        The second forward pass may need more than the block keeps: the most of that is added to the whole backward
        pass.
        """
        timeline = self.timeline
        outputs = [timeline.passes.output_bytes.get(name, 0) for name in timeline.blocks]
        alive: Counter[int] = Counter()
        most: Counter[int] = Counter()
        others = kept = highest = 0
        running: int | None = None
        again = 0
        for index, (sign, stored) in enumerate(timeline.events):
            if index == timeline.backward_start:
                again = max((most[block] - alive[block] for block in most), default=0)
            block = timeline.block_of_made(stored)
            if block is None:
                others += sign * stored.bytes
            else:
                kept -= min(alive[block], outputs[block])
                alive[block] += sign * stored.bytes
                kept += min(alive[block], outputs[block])
            if sign > 0:
                running = block
            if block is not None and index < timeline.backward_start:
                most[block] = max(most[block], alive[block])
            whole = 0
            if running is not None:
                whole = alive[running] - min(alive[running], outputs[running])
            highest = max(highest, others + kept + whole + again)
        return self._peak(highest)
