"""What the profile file holds of costs: memory by phase and category, methods, decompositions, its own time."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from .base import MOST, Bytes, Category, Count, Milliseconds, Phase, Record, Shape, Source

BASELINE = "adamw"  # the method that overheads are beyond, and whose training `Memory` describes


class Content(Record):
    """Something that is alive at the highest instant of training, such as the logits of the loss."""

    name: str
    category: Category
    bytes: Bytes


class Saving(Record):
    """A change beside the optimizer that would free memory at the highest instant, and how much at least."""

    change: str
    bytes: Bytes


class BatchPoint(Record):
    """What the two passes take at another batch size, simulated: highest bytes beyond weights and optimizer state.

    `recomputed`: the repeated blocks' activations are computed again in the backward pass (activation checkpointing).
    `forward_bytes` is without gradients, `backward_bytes` with each gradient from when it is complete.
    `without_gradients_bytes` is the backward pass less the complete gradients: with all of them it is that of a pass
    that accumulates. `update_bytes` is the highest moment at which a gradient is complete, that gradient included and
    the other complete ones not: with one weight's update it is that of a pass that updates each weight at once.
    `retained_bytes` is still there after the passes beside the gradients: the batch.
    """

    renamed: ClassVar = {"kept_bytes": "retained_bytes"}

    batch_size: Count
    recomputed: bool = False
    forward_bytes: Bytes
    backward_bytes: Bytes
    without_gradients_bytes: Bytes
    update_bytes: Bytes
    retained_bytes: Bytes


class Memory(Record):
    """What plain AdamW training of this model takes, by category, and where the numbers come from.

    The categories' own fields say what there is of each over a whole step, which is never all alive at once: all
    gradients, everything the forward pass leaves behind. `at_peak` splits the highest instant and sums to `peak_bytes`;
    empty where that instant was not followed.
    `contents` lists the largest things alive at the peak, `savings` what would free more, both the largest first.
    `by_batch` has several batch sizes, plain and recomputed, each smallest first; empty where they were not followed.
    """

    parameter_bytes: Bytes
    gradient_bytes: Bytes
    activation_bytes: Bytes | None = None
    temporary_bytes: Bytes | None = None
    optimizer_state_bytes: Bytes
    peak_bytes: Bytes | None = None
    at_peak: dict[Category, Bytes] = {}
    source: Source
    contents: list[Content] = []
    savings: list[Saving] = []
    by_batch: list[BatchPoint] = []


class PhasePeaks(Record):
    """Peak bytes of each phase of a training step."""

    forward: Bytes | None = None
    backward: Bytes | None = None
    step: Bytes | None = None
    refresh: Bytes | None = None


class Peak(Record):
    """The highest memory of a training step, as an interval, and the phase that sets it.

    `categories` splits the highest instant of every phase; empty where it was not followed. What libraries and the
    allocator take on a GPU is in `high_bytes` alone; the driver's context is in neither, but taken off the budget.
    """

    bytes: Bytes
    low_bytes: Bytes
    high_bytes: Bytes
    phase: Phase
    by_phase: PhasePeaks
    categories: dict[Phase, dict[Category, Bytes]] = {}
    source: Source


class MethodCost(Record):
    """What one optimizer method costs on this model; FLOPs are relative to a forward and backward pass."""

    method: str
    options: dict[str, str | int | float | bool | list[float] | None] = {}
    state_bytes: Bytes
    transient_bytes: Bytes
    # where the method holds weights in another form; negative: it needs more
    weight_bytes_saved: Annotated[int, Field(ge=-MOST, le=MOST)] = 0
    peak: Peak | None = None
    step_flops: float
    bound_flops: float
    relative_flops: float | None = None
    bound_relative: float | None = None  # bound_flops in the unit of relative_flops
    step_ms: float | None = (
        None  # beyond one forward and backward pass; negative where replaced layers make those faster
    )
    overhead_ms: float | None = (
        None  # beyond AdamW's step, timed in turn with this one; negative where it is faster
    )
    ordinary_ms: float | None = None  # a step without a refresh
    refresh_ms: Milliseconds | None = None  # a step that refreshes every layer at once
    staggered_ms: Milliseconds | None = (
        None  # estimate: the longest step if layers took turns to refresh
    )
    step_ms_source: Source | None = None


class Decomposition(Record):
    """Time of one way to find or follow a basis, at one of the model's shapes.

    `driver` names the library routine that ran. `used_by` names the methods whose bases this kernel can provide, those
    with the shortest `period`, in training steps between two runs: `ms_per_training_step` is for that period and for
    all layers of the shape.
    """

    shape: Shape
    rank: Count
    kernel: str
    driver: str | None = None
    period: Count | None = None
    used_by: str | None = None
    median_ms: Milliseconds
    iqr_ms: Milliseconds
    times_online_pca: float
    ms_per_training_step: Milliseconds
    device: str


class Spent(Record):
    """Seconds that the profile itself spent on one quantity."""

    on: str
    seconds: Annotated[float, Field(ge=0, le=1e15)]


class Ratios(Record):
    """Actual over predicted in earlier runs: median, least and largest."""

    runs: Count
    median: Annotated[float, Field(gt=0, le=1e6)]
    least: Annotated[float, Field(gt=0, le=1e6)]
    largest: Annotated[float, Field(gt=0, le=1e6)]


class Calibration(Record):
    """How earlier runs on this machine compared with their predictions; None where no run had the number."""

    peak: Ratios | None = None
    step_ms: Ratios | None = None
