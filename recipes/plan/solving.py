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

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from subopt.errors import UsageError
from subopt.profilers.memory.batch_curve import LARGEST_BATCH
from subopt.profilers.record.profile import MethodCost, Profile

from .budget import Fit
from .method_options import leaner_options, with_options
from .passes import PassConfig, can_recompute, is_followed, largest_size
from .peaks import PeakAt, peak_at

# Share of a forward and backward pass that recomputing adds: the forward pass once more, half the backward pass' work.
RECOMPUTE_SHARE = 1 / 3

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
    """

    batch_size: int | Literal["auto"] | None = None
    accumulate: int | None = None
    examples_per_step: int | None = None
    recompute: Choice = "auto"
    fused_backward: Choice = "auto"

    def __post_init__(self) -> None:
        """Check the numbers against one another.

        Raises:
            UsageError: A number below 1, or numbers that contradict each other.
        """
        size = self.batch_size
        if isinstance(size, int) and size < 1:
            raise UsageError(f"a batch size of {size} trains nothing", "give 1 or more")
        for name in ("accumulate", "examples_per_step"):
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
            raise UsageError(
                "a fused backward pass has used up each gradient before the next micro-batch could add to it",
                "leave out one of the two",
            )


@dataclass(frozen=True, slots=True)
class Solved:
    """A plan for one method.

    Attributes:
        batch_size: Examples of one micro-batch.
        accumulate: Micro-batches of a step.
        peak: Its peak.
        options: The method's options that were changed for it.
        recompute: Whether the repeated blocks' activations are computed again.
        fused_backward: Whether weights are updated in the backward pass.
        is_largest: Whether the micro-batch is the largest that the profile says anything about.
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
    recompute, fused = request.recompute is True, request.fused_backward is True
    if not _is_known(profile, cost, recompute=recompute, fused=fused):
        return None
    if fused and whole != size:
        raise UsageError(
            "a fused backward pass has used up each gradient before the next micro-batch could add to it",
            "leave out --examples-per-step, or take --fused-backward off",
        )
    if request.batch_size is None and request.accumulate is None and not fused:
        size = _largest_part(size, _most(profile, cost, recompute=recompute))
    config = PassConfig(accumulating=whole > size, recomputed=recompute, fused=fused)
    peak = peak_at(profile, cost, size, config)
    return Solved(size, whole // size, peak, recompute=recompute, fused_backward=fused)


def _largest_part(whole: int, most: int) -> int:
    """Return the largest divisor of `whole` up to `most`; `whole` itself where nothing smaller is known either."""
    if whole <= most or most < 1:
        return whole
    return max(part for part in range(1, most + 1) if whole % part == 0)


def _most(profile: Profile, cost: MethodCost, *, recompute: bool) -> int:
    """Return the largest micro-batch that the profile says anything about."""
    if profile.memory.activation_bytes is None:
        return profile.settings.batch_size
    if not is_followed(profile, cost):
        return LARGEST_BATCH
    return largest_size(profile, recomputed=recompute) or 0


def solve(
    profile: Profile, cost: MethodCost, usable_bytes: int, request: PlanRequest
) -> Solved | None:
    """Return the plan with the smallest change that fits, or None where none does.

    Args:
        profile: The profile.
        cost: The method's row in it.
        usable_bytes: What tensors can use of the budget.
        request: What is fixed and what may be changed.

    Raises:
        UsageError: The profile has no activations to scale, so that nothing can be said of another batch size.
    """
    for changed in ({}, *leaner_options(cost)):
        search = _Search(profile, with_options(profile, cost, changed), usable_bytes, request)
        for recompute, fused in _ways(profile, cost, request):
            found = search.largest(recompute=recompute, fused=fused)
            if found is not None:
                return replace(found, options=changed)
    return None


def least(profile: Profile, cost: MethodCost, request: PlanRequest) -> Solved | None:
    """Return the plan that needs the least of all that `solve` would look at; None where there is none."""
    plans = []
    for changed in ({}, *leaner_options(cost)):
        search = _Search(profile, with_options(profile, cost, changed), 0, request)
        for recompute, fused in _ways(profile, cost, request):
            found = search.plans(recompute=recompute, fused=fused)
            plans += [replace(plan, options=changed) for plan in found]
    return min(plans, key=lambda plan: plan.needed_bytes, default=None)


@dataclass(frozen=True, slots=True)
class _Search:
    """The micro-batches of one method run in different ways."""

    profile: Profile
    cost: MethodCost
    usable_bytes: int
    request: PlanRequest

    def largest(self, *, recompute: bool, fused: bool) -> Solved | None:
        """Return the plan with the largest allowed micro-batch that fits."""
        request = self.request
        if request.batch_size == "auto" and request.examples_per_step is None:
            count = request.accumulate or 1
            if fused and count > 1:
                return None

            def fitting(size: int) -> Solved | None:
                plan = self._plan(size, count, recompute=recompute, fused=fused)
                return plan if self._fits(plan) else None

            return _bisected(fitting, _most(self.profile, self.cost, recompute=recompute))
        return next(filter(self._fits, self.plans(recompute=recompute, fused=fused)), None)

    def plans(self, *, recompute: bool, fused: bool) -> Iterator[Solved]:
        """Yield the plans with the allowed micro-batches, the largest first; of `auto` a single example alone."""
        most = _most(self.profile, self.cost, recompute=recompute)
        for size, accumulate in self._divided(fused=fused):
            if size <= most:
                yield self._plan(size, accumulate, recompute=recompute, fused=fused)

    def _plan(self, size: int, accumulate: int, *, recompute: bool, fused: bool) -> Solved:
        config = PassConfig(accumulating=accumulate > 1, recomputed=recompute, fused=fused)
        peak = peak_at(self.profile, self.cost, size, config)
        return Solved(size, accumulate, peak, recompute=recompute, fused_backward=fused)

    def _fits(self, plan: Solved) -> bool:
        return plan.peak.fits(self.usable_bytes) is Fit.YES

    def _divided(self, *, fused: bool) -> Iterator[tuple[int, int]]:
        """Yield the allowed micro-batches and how many make a step, the largest first."""
        request = self.request
        if request.batch_size == "auto" and request.examples_per_step is None:
            yield 1, request.accumulate or 1
            return
        whole, size = asked_sizes(self.profile, request)
        if request.accumulate is not None or fused:
            if not fused or whole == size:
                yield size, whole // size
            return
        for accumulate in range(whole // size, whole + 1):
            if whole % accumulate == 0:
                yield whole // accumulate, accumulate


def can_run(profile: Profile, cost: MethodCost, request: PlanRequest) -> bool:
    """Return whether a method can run in one of the ways asked for, and the profile knows what that takes."""
    return next(_ways(profile, cost, request), None) is not None


def asked_sizes(profile: Profile, request: PlanRequest) -> tuple[int, int]:
    """Return the examples of a step and of a micro-batch as they are asked for."""
    size, whole, count = request.batch_size, request.examples_per_step, request.accumulate
    if whole is None:
        own = profile.settings.batch_size
        size = size if isinstance(size, int) else own
        return size * (count or 1), size
    if isinstance(size, int):
        return whole, size
    return whole, whole // (count or 1)


def _ways(profile: Profile, cost: MethodCost, request: PlanRequest) -> Iterator[tuple[bool, bool]]:
    """Yield whether activations are recomputed and the backward pass is fused, the cheapest first."""
    for fused in _choices(request.fused_backward):
        for recompute in _choices(request.recompute):
            if _is_known(profile, cost, recompute=recompute, fused=fused):
                yield recompute, fused


def _choices(choice: Choice) -> tuple[bool, ...]:
    return (False, True) if choice == "auto" else (choice,)


def _is_known(profile: Profile, cost: MethodCost, *, recompute: bool, fused: bool) -> bool:
    """Return whether a method can run this way and the profile knows what that takes."""
    if recompute and not can_recompute(profile, cost):
        return False
    return not fused or is_followed(profile, cost)


def _bisected(plan: Callable[[int], Solved | None], most: int) -> Solved | None:
    """Return the plan with the largest micro-batch up to `most` that fits, given that all smaller ones do too."""
    best = plan(1) if most else None
    if best is None:
        return None
    low, high = 1, most + 1  # what fits, and what does not or is not known
    while high - low > 1:
        middle = (low + high) // 2
        found = plan(middle)
        if found is None:
            high = middle
        else:
            low, best = middle, found
    return replace(best, is_largest=best.batch_size == most)
