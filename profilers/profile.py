"""The whole profile, stage by stage. A stage that is interrupted leaves what was complete, and the profile says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from subopt.optimizers import METHODS, ParameterRole, get_method, matrix_shape
from subopt.optimizers.updates.basis import resolve_rank

from .costs.formula import unusable, weights_of
from .device import environment, quick_release
from .effort import EFFORTS, OnProgress, Progress
from .gradients.measure_layers import (
    LEAST_GROUP_BYTES,
    PASSES,
    TWO_SIDED_LIMIT_S,
    LayerMeasures,
    default_group_bytes,
    measure_layers,
)
from .history.calibration import calibration, widened
from .memory.simulation import fake_model
from .method_table import MethodTable
from .preflight import Check, preflight
from .record.profile import Decomposition, Layer, Losses, Profile, Settings, Spent
from .subspaces.follow import SubspaceRun
from .subspaces.short_run import ShortRun
from .target.batches import tokens_in
from .target.loaded import LoadedTarget
from .target.random_state import RandomStream
from .target.session import Session
from .target.trained_parameters import refuse_sparse_gradients, trained_roles
from .target.watched_outputs import WatchedOutputs
from .timing.data_and_clip import time_data_and_clip
from .timing.decompositions import time_shape
from .timing.step import time_forward_backward
from .timing.stopwatch import Stopwatch

OnStage = Callable[[str, Profile], None]

# Batches that a plain forward and backward pass is timed on.
_TIMED_BATCHES = 5


def run_profile(
    target: LoadedTarget,
    settings: Settings,
    *,
    methods: Sequence[str] | None = None,
    progress: OnProgress = lambda _: None,
    on_preflight: Callable[[list[Check]], None] = lambda _: None,
    on_stage: OnStage = lambda name, profile: None,
) -> Profile:
    """Measure a model and what every method would cost on it.

    Args:
        target: The user's model file.
        settings: What to measure, on which device, in which precision.
        methods: Method ids; None means all.
        progress: Called as stages advance.
        on_preflight: Called with the checks made before anything long.
        on_stage: Called after each stage with its name and the profile as far as it is. After "memory" it holds what
            every method takes, after "gradients" the spectra, after "optimizer steps" all that a first answer needs.

    Returns:
        The profile. After Ctrl-C it holds what was complete, `missing` names the rest, `interrupted` is true.

    Raises:
        PreflightError: The model cannot be measured.
        UserCodeError: The user's code raised.
        KeyboardInterrupt: Interrupted before there was anything to keep.
    """
    names = list(METHODS) if methods is None else [get_method(name).name for name in methods]
    with RandomStream(settings.seed).active():
        run = _Run(Session(target, settings), names, progress)
        run.prepare(on_preflight)
        with quick_release():
            run.find_costs()
            run.go(on_stage)
        return run.profile()


class _Run:
    """A profile in the making: every stage adds to it, and it can be closed after any of them."""

    def __init__(self, session: Session, methods: list[str], progress: OnProgress) -> None:
        self._session = session
        self._settings = session.settings
        self._effort = EFFORTS[session.settings.detail]
        self._watch = Stopwatch(session.device)
        self._report = progress
        self._batches = session.batches()
        self._methods = methods
        self._subspaces = SubspaceRun({}, {}, [])
        self._gradients: dict[str, LayerMeasures] = {}
        self._decompositions: list[Decomposition] = []
        self._times_ms: dict[str, Any] = {}
        self._losses: Losses | None = None
        self._missing: list[str] = []
        self._interrupted = False

    def prepare(self, on_preflight: Callable[[list[Check]], None]) -> None:
        """Build the model and check it."""
        self._report(Progress("loading", 0, 1, "batches"))
        session = self._session
        self._first_batch = next(self._batches)
        self._report(Progress("loading", 0, 1, "model"))
        if self._settings.simulate:
            self._model = fake_model(session.build_model)
        else:
            self._model = session.build_on_device()
            with WatchedOutputs(self._model) as watched:
                checks = preflight(
                    session.target.data, self._model, session.place(self._first_batch)
                )
            on_preflight(checks)
            first = next(check.value for check in checks if check.value is not None)
            self._losses = Losses(first=first, outputs=watched.size)
        self._roles = trained_roles(self._model, session.target)
        refuse_sparse_gradients(self._model, self._roles)
        self._report(Progress("loading", 1, 1))

    def find_costs(self) -> None:
        """Fill in what shapes alone say."""
        weights = weights_of(self._roles)
        reasons = {name: unusable(get_method(name), weights) for name in self._methods}
        self._methods = [name for name, reason in reasons.items() if reason is None]
        self._missing += [f"{name}: {reason}" for name, reason in reasons.items() if reason]
        tokens = tokens_in(self._first_batch)
        self._settings = self._settings.model_copy(update={"tokens_per_batch": tokens})
        self._table = MethodTable(
            self._session, weights, self._methods, self._report, tokens=tokens
        )

    def go(self, on_stage: OnStage) -> None:
        """Run the stages in order, telling after each what there is; on Ctrl-C, note what is not there."""
        stages = list(self._stages())
        for index, (name, stage) in enumerate(stages):
            try:
                with self._watch.span(name):
                    stage()
            except KeyboardInterrupt:
                self._interrupted = True
                self._missing += [f"{name}: interrupted" for name, _ in stages[index:]]
                return
            on_stage(name, self.profile())

    def _stages(self) -> Iterator[tuple[str, Callable[[], None]]]:
        # After the check's real pass: a table that the user's code caches is then cached with real values.
        yield "memory", partial(self._table.find_memory, self._model, self._first_batch)
        if self._settings.simulate:
            return
        if self._settings.warmup_steps or self._settings.steps:
            yield "short run", self._train
        yield "gradients", self._measure_gradients
        if self._effort.refreshes:
            yield "optimizer steps", self._time_steps
            yield "decompositions", self._time_decompositions

    def _train(self) -> None:
        run = ShortRun(self._session, self._model, self._batches, self._watch, self._report)
        try:
            run.warm_up(self._settings.warmup_steps)
            if self._settings.steps:
                self._subspaces = run.follow(self._ranks(), self._settings.steps, self._cap_bytes())
                self._missing += self._subspaces.missing
        finally:  # after an interrupt the steps that were taken have a loss too
            if self._losses is not None:
                self._losses = self._losses.model_copy(update={"run": run.losses})

    def _measure_gradients(self) -> None:
        session, count = self._session, self._settings.batches
        self._placed = [session.place(next(self._batches)) for _ in range(count)]
        measuring = measure_layers(
            self._model,
            session.loss,
            self._placed,
            self._ranks(),
            detail=self._settings.detail,
            group_bytes=self._cap_bytes(),
            stale=self._subspaces.stale,
            watch=self._watch,
            inputs_first={item.name for item in self._roles if item.inputs_first},
            on_batch=partial(self._note_batch, "gradients"),
        )
        try:
            for layer in measuring:
                self._gradients[layer.name] = layer
                self._report(replace(self._latest, item=layer.name))
        finally:  # after an interrupt the layers that are done need their notes too
            self._note_one_sided()
            self._note_without_gradient()

    def _note_batch(self, stage: str, done: int, total: int) -> None:
        self._latest = Progress(stage, done, total)
        self._report(self._latest)

    def _note_one_sided(self) -> None:
        found = [layer.measures.diagonality for layer in self._gradients.values() if layer.measures]
        one_sided = sum(item.two_sided is None for item in found)
        if one_sided:
            self._missing.append(
                f"two-sided and covariance bases of {one_sided} of {len(found)} layers: "
                f"those of one layer would take more than {TWO_SIDED_LIMIT_S:g} s"
            )

    def _note_without_gradient(self) -> None:
        silent = [
            item.shown_name
            for item in self._matrices()
            if item.name in self._gradients and self._gradients[item.name].spectrum is None
        ]
        if silent:
            more = f" and {len(silent) - 1} more" if len(silent) > 1 else ""
            self._missing.append(
                f"quantities of {silent[0]}{more}: no finite gradient other than zero in the batches looked at "
                "(unused experts, adapters that start at zero)"
            )

    def _time_steps(self) -> None:
        timed = self._placed[-_TIMED_BATCHES:]
        with self._watch.span(PASSES):
            self._times_ms["forward_backward_ms"] = time_forward_backward(
                self._session.forward_backward,
                self._model,
                timed,
                lambda done: self._note_batch(PASSES, done, len(timed)),
            )
        self._note_batch(PASSES, len(timed), len(timed))
        self._watch.passes += len(timed)
        others = time_data_and_clip(self._model, self._batches, self._session.place)
        self._times_ms |= vars(others)
        budget_s = self._effort.timing_budget_s(self._watch.seconds[PASSES])
        self._table.time_steps(
            self._model, timed[-1], rounds=self._effort.refreshes, budget_s=budget_s
        )
        self._model.zero_grad(set_to_none=True)

    def _time_decompositions(self) -> None:
        counts = Counter(matrix_shape(item.shape) for item in self._matrices())
        for done, (shape, count) in enumerate(counts.items()):
            progress = Progress("decompositions", done, len(counts), f"{shape[0]} x {shape[1]}")
            self._report(progress)
            times = time_shape(
                shape,
                count,
                self._settings.rank,
                self._session.device,
                budget_s=self._effort.shape_s,
                repeat_s=self._effort.repeat_s,
                on_kernel=partial(self._note_kernel, progress),
            )
            self._decompositions += times.rows
            self._missing += times.skipped
        self._report(Progress("decompositions", len(counts), len(counts)))

    def _note_kernel(self, progress: Progress, kernel: str) -> None:
        self._report(replace(progress, item=f"{progress.item} {kernel}".rstrip()))

    def _matrices(self) -> list[ParameterRole]:
        return [item for item in self._roles if item.role == "matrix"]

    def _ranks(self) -> dict[str, int]:
        return {
            item.name: resolve_rank(self._settings.rank, matrix_shape(item.shape)[0]) or 1
            for item in self._matrices()
        }

    def _cap_bytes(self) -> int:
        """Return the memory that gradients and bases may take beside the model's own passes."""
        if self._settings.max_memory_bytes is not None:
            return self._settings.max_memory_bytes
        peak_bytes = self._table.passes_peak_bytes
        if peak_bytes is None:
            return LEAST_GROUP_BYTES
        largest = max((item.parameter.nbytes for item in self._matrices()), default=0)
        return default_group_bytes(peak_bytes, largest)

    def profile(self) -> Profile:
        """Return everything found so far."""
        spent = sorted(self._watch.seconds.items(), key=lambda item: -item[1])
        device = torch.device(self._settings.device)
        earlier = calibration(device, self._settings.dtype)
        peak_ratios = earlier.peak if earlier else None
        return Profile(
            target=self._session.target.record,
            environment=environment(device),
            settings=self._settings,
            layers=[self._layer(item) for item in self._roles],
            memory=self._table.memory,
            methods=[
                row.model_copy(update={"peak": widened(row.peak, peak_ratios)})
                for row in self._table.rows(self._methods)
            ],
            decompositions=self._decompositions,
            spent=[Spent(on=name, seconds=seconds) for name, seconds in spent],
            passes=self._watch.passes,
            missing=[*self._table.missing, *self._missing],
            losses=self._losses,
            interrupted=self._interrupted,
            calibration=earlier,
            **self._times_ms,
        )

    def _layer(self, item: ParameterRole) -> Layer:
        found = self._gradients.get(item.name)
        held = vars(found.measures) if found and found.measures else {}
        return Layer(
            name=item.shown_name,
            shape=list(item.shape),
            module_type=item.module_type,
            layer_type=item.layer_type,
            role=item.role,
            reason=item.reason,
            spectrum=found.spectrum if found else None,
            subspace=self._subspaces.lives.get(item.name),
            activations=found.activations if found else None,
            **held,
        )
