"""What would lower the peak of training beside another optimizer, and by how much at least.

Every change is applied to the timeline of the two passes: some storages become smaller or go, and the highest instant
of each phase is found anew, so that a change never frees more than down to the next highest instant of any phase.
Nothing is counted that the passes do not show, and what a change itself needs is added.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from subopt.optimizers.state.storage_tracker import Stored

from ..record.profile import Saving
from .phases import ModelPeaks, StepPeaks, training_phases
from .timeline import Timeline

# Below this share of the peak a change is not worth a line.
_LEAST_SHARE = 0.02
# The loss in pieces: of so many parts of the tokens, one has its logits at a time.
_PIECES = 8


def savings(timeline: Timeline, model: ModelPeaks, step: StepPeaks) -> list[Saving]:
    """Return the changes that lower the peak by more than 2 %, the largest first."""
    phases = training_phases(model, step)
    peak = max(at.total() for at in phases.values())
    update = max(at.total() for name, at in phases.items() if name in {"step", "refresh"})
    found = [
        Saving(change=text, bytes=max(0, peak - max(passes + step.state_bytes, step_bytes)))
        for text, passes, step_bytes in _changes(timeline, model, step, update)
    ]
    worth = [saving for saving in found if saving.bytes > _LEAST_SHARE * peak]
    return sorted(worth, key=lambda saving: -saving.bytes)


def _changes(
    timeline: Timeline, model: ModelPeaks, step: StepPeaks, update_bytes: int
) -> Iterator[tuple[str, int, int]]:
    """Yield what could be changed, with the highest instant of the passes and of the step after it.

    `update_bytes` is the step's before.
    """
    pieces = (
        f"compute the loss in {_PIECES} pieces (chunked cross-entropy), never all logits at once"
    )
    passes = timeline.peak_bytes(lambda s: 1 / _PIECES if timeline.is_logits(s) else 1.0)
    yield pieces, passes + timeline.piece_bytes, update_bytes
    if timeline.blocks:
        first, last = timeline.blocks[0], timeline.blocks[-1].rpartition(".")[2]
        again = (
            f"compute the activations of {first}-{last} again in the backward pass (checkpointing)"
        )
        yield again, _checkpointed(timeline), update_bytes
    if timeline.batch_size > 1:
        halved = "half the batch, with gradients accumulated over two"
        yield halved, _accumulated(timeline) + model.gradient_bytes, update_bytes
    if timeline.has_float32_products:
        yield "bfloat16 activations (autocast)", _autocast(timeline), update_bytes
    freed = "update each parameter as soon as its gradient is there, and free that gradient"
    # One gradient at a time, and the update's temporaries in the backward pass.
    largest = max(timeline.parameter_sizes, default=0)
    passes = timeline.peak_bytes(lambda s: 0.0 if s.category == "gradient" else 1.0)
    update_bytes -= max(0, model.gradient_bytes - largest)
    yield freed, passes + largest + step.step["temporary"], update_bytes


def _accumulated(timeline: Timeline) -> int:
    """Activations halve; the first half's gradients are there throughout the second's passes, and not in this."""

    def weigh(stored: Stored) -> float:
        if stored.category == "gradient":
            return 0.0
        is_fixed = stored.category == "parameter" or stored.bytes in timeline.parameter_sizes
        return 1.0 if is_fixed else 0.5

    return timeline.peak_bytes(weigh)


def _autocast(timeline: Timeline) -> int:
    """The outputs of linear and convolution layers halve; copies of their weights are added, for both passes."""

    def weigh(stored: Stored) -> float:
        is_output = stored.category == "activation" and stored.scope in timeline.float32_products
        return 0.5 if is_output and stored.element_bytes == 4 else 1.0

    return timeline.peak_bytes(weigh) + timeline.product_weight_bytes // 2


def _checkpointed(timeline: Timeline) -> int:
    """Of a block only its output stays, but for the one that is running; its forward pass runs a second time.

    The second forward pass may need more than the block keeps: the most of that is added to the whole backward pass.
    """
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
    return highest
