"""The rest of the plan: micro-batch, accumulation, recomputing, fused backward and leaner options, so that it fits.

What was asked for is changed only as far as it must be, the smallest change to the mathematics first:

1. a smaller micro-batch, its gradients accumulated to the same examples per step: the same mathematics;
2. activations of the repeated blocks computed again in the backward pass: the same mathematics in about a third more
   time;
3. each weight updated as soon as its gradient is complete, which then goes: no accumulation and no clipping with it;
4. optimizer state in bf16, then a lower rank (`method_options.leaner_options`), each with all of the above.

`auto` takes the largest micro-batch that fits. Whatever the user fixed stays fixed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, Literal

from subopt.errors import UsageError
from subopt.profilers.memory.batch_curve import LARGEST_BATCH
from subopt.profilers.record.profile import MethodCost, Profile

from ..schedule import DEFAULT_STEPS
from .budget import Fit
from .method_options import leaner_options, with_options
from .passes import PassConfig, can_recompute, is_followed, largest_size
from .peaks import PeakAt, peak_at

# Share of a forward and backward pass that recomputing adds: the forward pass once more, half the backward pass' work.
RECOMPUTE_SHARE = 1 / 3

_USED_UP = (
    "a fused backward pass has used up each gradient before the next micro-batch could add to it"
)

Choice = bool | Literal["auto"]


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What is asked of a plan.

    Attributes:
        batch_size: Examples of one micro-batch; `auto`: the most that fits; None: the profile's, or as many as go into
            `examples_per_step`.
        accumulate: Micro-batches of a step; None: as many as it takes.
        examples_per_step: Examples of a step; None: the micro-batch as asked times `accumulate`.
        recompute: Whether activations are computed again; `auto`: where nothing fits without.
        fused_backward: Whether weights are updated in the backward pass; `auto`: where nothing fits without.
        steps: Optimizer steps of the run.
        fine_tunes: Whether it is fine-tuning; None: where the model loads its weights from a checkpoint.
    """

    batch_size: int | Literal["auto"] | None = None
    accumulate: int | None = None
    examples_per_step: int | None = None
    recompute: Choice = "auto"
    fused_backward: Choice = "auto"
    steps: int = DEFAULT_STEPS
    fine_tunes: bool | None = None

    @property
    def is_open(self) -> bool:
        """Whether a step may have any number of examples."""
        return self.batch_size == "auto" and self.examples_per_step is None

    def __post_init__(self) -> None:
        """Check the numbers against one another.

        Raises:
            UsageError: A number below 1, or numbers that contradict each other.
        """
        size = self.batch_size
        if isinstance(size, int) and size < 1:
            raise UsageError(f"a batch size of {size} trains nothing", "give 1 or more")
        for name in ("accumulate", "examples_per_step", "steps"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UsageError(f"{name} of {value} trains nothing", "give 1 or more")
        whole, parts = self.examples_per_step, self.accumulate
        if whole is not None and whole % (parts or 1):
            raise UsageError(
                f"{whole} examples per step cannot be cut into {parts} equal micro-batches"
            )
        if whole is not None and isinstance(size, int) and whole % size:
            raise UsageError(f"{whole} examples per step are no multiple of the batch size {size}")
        if None not in (whole, parts) and isinstance(size, int) and size * (parts or 1) != whole:
            raise UsageError(
                f"{parts} micro-batches of {size} examples are not {whole} examples per step",
                "give two of the three numbers",
            )
        if self.fused_backward is True and (parts or 1) > 1:
            raise UsageError(_USED_UP, "leave out one of the two")


@dataclass(frozen=True, slots=True)
class Solved:
    """A plan for one method, in the terms of `PlanRequest`, with its peak.

    `options` are those of the method that were changed for it; `is_largest` says that the micro-batch is the largest
    that the profile says anything about.
    """

    batch_size: int
    accumulate: int
    peak: PeakAt
    options: Mapping[str, Any] = field(default_factory=dict)
    recompute: bool = False
    fused_backward: bool = False
    is_largest: bool = False

    @property
    def examples_per_step(self) -> int:
        """Examples of a step."""
        return self.batch_size * self.accumulate

    @property
    def needed_bytes(self) -> int:
        """What has to be usable for it."""
        return self.peak.bytes + self.peak.overhead_bytes

    def fits(self, usable_bytes: int) -> bool:
        """Return whether all of its peak's interval fits what tensors can use."""
        return self.peak.fits(usable_bytes) is Fit.YES


def as_asked(profile: Profile, cost: MethodCost, request: PlanRequest) -> Solved | None:
    """Return the plan with nothing changed, whether it fits or not.

    Where only the examples of a step are given, a micro-batch is all of them, or the largest equal part of them that
    the profile knows the memory of.

    Returns:
        The plan; None where the method cannot run this way, or the profile does not know what it takes.

    Raises:
        UsageError: The profile does not know batches of that size.
    """
    whole, size = asked_sizes(profile, request)
    fused = request.fused_backward is True
    config = PassConfig(recomputed=request.recompute is True, fused=fused)
    if not _is_known(profile, cost, config):
        return None
    if fused and whole != size:
        raise UsageError(_USED_UP, "leave out --examples-per-step, or take --fused-backward off")
    most = _most(profile, cost, config)
    if request.batch_size is None and request.accumulate is None and 1 <= most < size and not fused:
        size = max(part for part in range(1, most + 1) if whole % part == 0)
    return _plan(profile, cost, size, whole // size, config)


def solve(
    profile: Profile, cost: MethodCost, usable_bytes: int, request: PlanRequest
) -> Solved | None:
    """Return the plan with the smallest change that fits, or None where none does.

    Raises:
        UsageError: The profile has no activations to scale, so that nothing can be said of another batch size.
    """
    for options, leaner, config in _variants(profile, cost, request):
        plans = _plans(profile, leaner, request, config)
        found = next((plan for plan in plans if plan.fits(usable_bytes)), None)
        if found is not None and request.is_open:
            found = _largest(profile, leaner, usable_bytes, found.accumulate, config)
        if found is not None:
            return replace(found, options=options)
    return None


def least(profile: Profile, cost: MethodCost, request: PlanRequest) -> Solved | None:
    """Return the plan that needs the least of all that `solve` would look at; None where there is none."""
    plans = (
        replace(plan, options=options)
        for options, leaner, config in _variants(profile, cost, request)
        for plan in _plans(profile, leaner, request, config)
    )
    return min(plans, key=lambda plan: plan.needed_bytes, default=None)


def can_run(profile: Profile, cost: MethodCost, request: PlanRequest) -> bool:
    """Return whether a method can run in one of the ways asked for, and the profile knows what that takes."""
    return any(_configs(profile, cost, request))


def asked_sizes(profile: Profile, request: PlanRequest) -> tuple[int, int]:
    """Return the examples of a step and of a micro-batch as they are asked for."""
    size, whole, count = request.batch_size, request.examples_per_step, request.accumulate or 1
    if whole is None:
        size = size if isinstance(size, int) else profile.settings.batch_size
        return size * count, size
    return whole, size if isinstance(size, int) else whole // count


def _variants(
    profile: Profile, cost: MethodCost, request: PlanRequest
) -> Iterator[tuple[Mapping[str, Any], MethodCost, PassConfig]]:
    """Yield a method's options, its row with these, and how the passes run: the smallest change first."""
    for options in ({}, *leaner_options(cost)):
        leaner = with_options(profile, cost, options)
        for config in _configs(profile, cost, request):
            yield options, leaner, config


def _configs(profile: Profile, cost: MethodCost, request: PlanRequest) -> Iterator[PassConfig]:
    """Yield how the passes may run, of what was asked for and is known, the cheapest first."""
    for fused, recomputed in product(*map(_choices, (request.fused_backward, request.recompute))):
        config = PassConfig(recomputed=recomputed, fused=fused)
        if _is_known(profile, cost, config):
            yield config


def _choices(choice: Choice) -> tuple[bool, ...]:
    return (False, True) if choice == "auto" else (choice,)


def _is_known(profile: Profile, cost: MethodCost, config: PassConfig) -> bool:
    """Return whether a method can run this way and the profile knows what that takes."""
    if config.recomputed and not can_recompute(profile, cost):
        return False
    return not config.fused or is_followed(profile, cost)


def _plans(
    profile: Profile, cost: MethodCost, request: PlanRequest, config: PassConfig
) -> Iterator[Solved]:
    """Yield the plans with the allowed micro-batches, the largest first; of an open step a single example alone."""
    whole, size = asked_sizes(profile, request)
    if request.is_open:
        whole, size = request.accumulate or 1, 1
    is_fixed = request.is_open or request.accumulate is not None or config.fused
    largest, most = whole // size, _most(profile, cost, config)
    for accumulate in range(largest, largest + 1 if is_fixed else whole + 1):
        part, rest = divmod(whole, accumulate)
        if rest == 0 and part <= most and not (config.fused and accumulate > 1):
            yield _plan(profile, cost, part, accumulate, config)


def _largest(
    profile: Profile, cost: MethodCost, usable_bytes: int, accumulate: int, config: PassConfig
) -> Solved:
    """Return the plan with the largest micro-batch that fits, given that all smaller ones do too."""

    def plan(size: int) -> Solved:
        return _plan(profile, cost, size, accumulate, config)

    most = _most(profile, cost, config)
    size = bisect_left(range(1, most + 1), True, key=lambda size: not plan(size).fits(usable_bytes))
    return replace(plan(size), is_largest=size == most)


def _most(profile: Profile, cost: MethodCost, config: PassConfig) -> int:
    """Return the largest micro-batch that the profile says anything about."""
    if profile.memory.activation_bytes is None:
        return profile.settings.batch_size
    if not is_followed(profile, cost):
        return LARGEST_BATCH
    return largest_size(profile, recomputed=config.recomputed) or 0


def _plan(
    profile: Profile, cost: MethodCost, size: int, accumulate: int, config: PassConfig
) -> Solved:
    peak = peak_at(profile, cost, size, replace(config, accumulating=accumulate > 1))
    recompute, fused = config.recomputed, config.fused
    return Solved(size, accumulate, peak, recompute=recompute, fused_backward=fused)
