"""The rows of the method table in the making: by formula first, then with memory, FLOPs and times as they are found."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from .costs.architectures import WeightShape
from .costs.formula import forward_backward_flops, method_costs, relative_to
from .device import release_memory
from .effort import OnProgress, Progress
from .memory.batch_curve import batch_curve
from .memory.footprint import (
    Footprint,
    constants_of,
    explained,
    measured_footprints,
    memory_by_formula,
    peak_by_formula,
    simulated_footprints,
)
from .memory.simulation import SimulatedModel, SimulationError, needs_closure
from .record.cost import BASELINE
from .record.profile import Memory, MethodCost
from .target.session import Session
from .timing import clock
from .timing.step import StepTime, disturbed, time_step, time_whole_step

# Passes as short as these are made before every timed step: such a model and its state are no larger than the
# processor's caches, and a step that follows another one finds there what it does not find in training.
_SHORT_PASSES_MS = 30.0


class MethodTable:
    """What every method costs on one model.

    Attributes:
        memory: What training with the baseline takes.
        missing: A line for everything that could not be found out.
    """

    def __init__(
        self,
        session: Session,
        weights: Sequence[WeightShape],
        methods: Sequence[str],
        report: OnProgress,
        *,
        tokens: int,
    ) -> None:
        """Fill in what shapes alone say, for batches of so many tokens; the baseline has a row in any case."""
        self._session, self._weights, self._report = session, weights, report
        self._tokens = tokens
        self.missing: list[str] = []
        rows = self._costs(list(dict.fromkeys([BASELINE, *methods])))
        device = constants_of(session)
        self.memory: Memory = memory_by_formula(weights, rows[0].state_bytes)
        self._rows = {
            row.method: row.model_copy(update={"peak": peak_by_formula(self.memory, row, device)})
            for row in rows
        }

    def _costs(self, methods: Sequence[str]) -> list[MethodCost]:
        """Return the rows of these methods by formula; the first updates of each are followed for it."""
        wishes, rows = {"rank": self._session.settings.rank}, []
        for done, name in enumerate(methods):
            self._report(Progress("costs", done, len(methods), name))
            rows += method_costs(self._weights, [name], wishes, tokens=self._tokens)
        self._report(Progress("costs", len(methods), len(methods)))
        return rows

    @property
    def passes_peak_bytes(self) -> int | None:
        """Highest memory of a forward and backward pass without optimizer state, or None where none was followed."""
        row = self._rows[BASELINE]
        if row.peak is None or not _is_followed(row):
            return None
        phases = row.peak.by_phase
        return max(phases.forward or 0, phases.backward or 0) - row.state_bytes

    def rows(self, methods: Sequence[str]) -> list[MethodCost]:
        """Return the rows of the named methods as they are now."""
        return [self._rows[name] for name in methods]

    def find_memory(self, model: nn.Module, batch: Any) -> None:
        """Measure memory where there is a GPU, for which the model makes room; follow it where there is none."""
        session = self._session
        self._report_memory(0, "forward and backward")
        if session.device.type == "cuda":
            self._measure_memory(model)
        left = [row for row in self._rows.values() if not _is_followed(row)]
        try:
            simulated = SimulatedModel(session.build_model, session.place(batch), session.loss)
        except SimulationError as error:
            if left:
                self.missing.append(
                    f"activations, temporaries and peaks: without data the model fails with {error}; "
                    "memory is weights, gradients and state by formula"
                )
            return
        self._relate_flops(simulated.positions)
        groups_of, baseline = session.target.param_groups, self._rows[BASELINE]
        followed = simulated_footprints(
            simulated, groups_of, left, self.missing, constants_of(session)
        )
        step = None
        for footprint in followed:
            self._record(footprint)
            step = footprint.step if footprint.method == BASELINE else step
        if step is None:  # the baseline was measured
            step = simulated.step_peaks(BASELINE, baseline.options, groups_of)
        self.memory = explained(self.memory, simulated, step)
        self._report_memory(len(self._rows), "other batch sizes")
        points = batch_curve(
            simulated, session.settings.batch_size, session.batch_of_size, self.missing
        )
        self.memory = self.memory.model_copy(update={"by_batch": points})

    def _measure_memory(self, model: nn.Module) -> None:
        model.to("cpu")  # the child process needs the room
        release_memory()
        for footprint in measured_footprints(
            self._session, list(self._rows.values()), self.missing
        ):
            self._record(footprint)
        model.to(self._session.device)

    def _relate_flops(self, positions: Mapping[str, int]) -> None:
        """Relate FLOPs to those of a forward and backward pass in which each weight's inputs were counted."""
        whole_flops = forward_backward_flops(self._weights, self._tokens, positions)
        self._rows = {name: relative_to(whole_flops, row) for name, row in self._rows.items()}

    def _record(self, footprint: Footprint) -> None:
        row = self._rows[footprint.method]
        self._rows[footprint.method] = row.model_copy(update={"peak": footprint.peak})
        if footprint.method == BASELINE:
            self.memory = footprint.memory
        self._report_memory(sum(map(_is_followed, self._rows.values())), footprint.method)

    def _report_memory(self, done: int, item: str) -> None:
        self._report(Progress("memory", done, len(self._rows), item))

    def time_steps(self, model: nn.Module, batch: Any, *, rounds: int, budget_s: float) -> None:
        """Time every method's steps interleaved with the baseline's.

        What was timed while the machine was busy with something else is timed once more, where time is left.

        Args:
            model: The model, with the batch's gradients in place.
            batch: A batch on the device.
            rounds: Timed refreshes.
            budget_s: Seconds for all methods together, more only where single parameters' steps are long. Each gets an
                equal share of what the ones before it have left.
        """
        begin_s = time.perf_counter()
        passes = partial(self._session.forward_backward, model, batch)
        self._passes_ms = clock.timed_ms(passes, clock.devices_of(model))
        found: dict[str, StepTime] = {}
        try:
            for done, (name, row) in enumerate(self._rows.items()):
                self._report(Progress("optimizer steps", done, len(self._rows), name))
                left_s = budget_s - (time.perf_counter() - begin_s)
                share_s = max(0.0, left_s) / (len(self._rows) - done)
                time_method = self._time_whole_step if needs_closure(name) else self._time_step
                with contextlib.suppress(torch.OutOfMemoryError):  # other methods may well fit
                    found[name] = time_method(model, batch, row, rounds=rounds, budget_s=share_s)
                if name not in found:
                    self.missing.append(f"step time of {name}: it ran out of GPU memory")
                    passes()  # one that was cut short left no gradients
                    continue
                self._take_in(name, found[name])
            self._report(Progress("optimizer steps", len(self._rows), len(self._rows), "again"))
            interleaved = {name: taken for name, taken in found.items() if not needs_closure(name)}
            for name in disturbed(interleaved):
                left_s = budget_s - (time.perf_counter() - begin_s)
                if left_s <= 0:
                    break
                row = self._rows[name]
                again = self._time_step(model, batch, row, rounds=rounds, budget_s=left_s)
                if again.counted is None and again.baseline_ms < found[name].baseline_ms:
                    self._take_in(name, again)
        finally:  # after an interrupt the rows that are there need their notes too
            self.missing += _counted_notes(found)

    def _take_in(self, name: str, taken: StepTime) -> None:
        fields = ("step_ms", "overhead_ms", "ordinary_ms", "refresh_ms", "staggered_ms")
        update = {field: getattr(taken, field) for field in fields}
        self._rows[name] = self._rows[name].model_copy(
            update={**update, "step_ms_source": "measured"}
        )

    def _time_step(self, model: nn.Module, batch: Any, row: MethodCost, **effort: Any) -> StepTime:
        groups = self._session.target.param_groups(model)
        is_short = self._passes_ms <= _SHORT_PASSES_MS
        passes = partial(self._session.forward_backward, model, batch) if is_short else None
        return time_step(
            model,
            row.method,
            row.options,
            baseline=BASELINE,
            groups=groups,
            between=passes,
            **effort,
        )

    def _time_whole_step(
        self, model: nn.Module, batch: Any, row: MethodCost, **effort: Any
    ) -> StepTime:
        session = self._session
        return time_whole_step(
            (session.build_on_device(), model),
            row.method,
            row.options,
            lambda of: session.forward_backward(of, batch),
            baseline=BASELINE,
            groups_of=session.target.param_groups,
            **effort,
        )


def _is_followed(row: MethodCost) -> bool:
    return row.peak is not None and row.peak.source != "formula"


def _counted_notes(found: Mapping[str, StepTime]) -> list[str]:
    """Return a line for each thing that was timed on single layers, with the methods that it was timed so for."""
    counted: dict[str, list[str]] = {}
    for name, taken in found.items():
        if taken.counted is not None:
            counted.setdefault(taken.counted, []).append(name)
    return [_counted_note(what, names) for what, names in counted.items()]


def _counted_note(what: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return (
        f"{what} of all layers at once, with {', '.join(names[:2])}{more}: too long for the time allowed, "
        "so one layer of each shape was timed and counted as often as the model has it"
    )
