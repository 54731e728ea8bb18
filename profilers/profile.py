"""The whole profile, stage by stage. A stage that is interrupted leaves what was complete, and the profile says so."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from subopt.errors import UsageError
from subopt.optimizers import METHODS, Treatment, create, get_method, matrix_shape, treatments
from subopt.optimizers.bases import resolve_rank
from subopt.optimizers.options import OPTIONS

from .costs import forward_backward_flops, method_costs, weights_of
from .data import tokens_in
from .decompositions import Periods, time_shape
from .device import environment
from .gradients import stream_gradients
from .layers import LayerGradients, measure_layers
from .memory import (
    Footprint,
    measured_footprints,
    memory_by_formula,
    peak_by_formula,
    simulated_footprints,
)
from .preflight import Preflight, preflight
from .randomness import RandomStream
from .schema import Decomposition, Layer, Profile, Settings
from .session import Session
from .simulated import SimulatedModel, SimulationError, fake_model
from .spectrum import SpectrumAccumulator
from .target import LoadedTarget
from .timing import time_forward_backward, time_step

# The method whose step and state everything is compared with.
BASELINE = "adamw"
_WARMUP_LR = 1e-3
# Rounds of timed refreshes, and seconds spent on one method's steps and on one shape's decompositions.
_EFFORT = {"standard": (2, 3.0, 10.0), "full": (6, 30.0, 60.0)}


@dataclass(frozen=True)
class Progress:
    """How far a stage is."""

    stage: str
    done: int
    total: int


OnProgress = Callable[[Progress], None]


def run_profile(
    target: LoadedTarget,
    settings: Settings,
    *,
    methods: Sequence[str] | None = None,
    progress: OnProgress = lambda _: None,
    on_preflight: Callable[[Preflight], None] = lambda _: None,
) -> Profile:
    """Measure a model and what every method would cost on it.

    Args:
        target: The user's model file.
        settings: What to measure, on which device, in which precision.
        methods: Method ids; None means all.
        progress: Called as stages advance.
        on_preflight: Called with the checks made before anything long.

    Returns:
        The profile. After Ctrl-C it holds what was complete, `missing` names the rest, `interrupted` is true.

    Raises:
        UsageError: Something was asked for that is not measured yet.
        PreflightError: The model cannot be measured.
        UserCodeError: The user's code raised.
        KeyboardInterrupt: Interrupted before there was anything to keep.
    """
    if settings.steps > 0:
        raise UsageError(
            "following subspaces over training steps is not measured yet",
            "leave out --steps; --warmup-steps trains before measuring",
        )
    names = list(METHODS) if methods is None else [get_method(name).name for name in methods]
    with RandomStream(settings.seed).active():
        run = _Run(Session(target, settings), names, progress)
        run.prepare(on_preflight)
        run.go()
        return run.profile()


class _Run:
    """A profile in the making: every stage adds to it, and it can be closed after any of them."""

    def __init__(self, session: Session, methods: list[str], progress: OnProgress) -> None:
        self._session = session
        self._settings = session.settings
        self._report = progress
        self._batches = session.batches()
        self._methods = methods
        self._gradients: dict[str, LayerGradients] = {}
        self._decompositions: list[Decomposition] = []
        self._forward_backward_ms: float | None = None
        self._missing: list[str] = []
        self._interrupted = False

    def prepare(self, on_preflight: Callable[[Preflight], None]) -> None:
        """Build the model, check it, and fill in what shapes alone say."""
        self._report(Progress("loading", 0, 1))
        session = self._session
        self._first_batch = next(self._batches)
        if self._settings.simulate:
            self._model = fake_model(session.build_model)
        else:
            self._model = session.build_on_device()
            on_preflight(preflight(session.target, self._model, session.place(self._first_batch)))
        self._treatments = _treatments(self._model, session.target)
        self._weights = weights_of(self._treatments)
        self._settings = self._settings.model_copy(
            update={"tokens_per_batch": tokens_in(self._first_batch)}
        )
        self._fill_in_by_formula()

    def _fill_in_by_formula(self) -> None:
        rows = method_costs(
            self._weights,
            dict.fromkeys([BASELINE, *self._methods]),
            {"rank": self._settings.rank},
            tokens=self._settings.tokens_per_batch,
        )
        self._memory = memory_by_formula(self._weights, rows[0].state_bytes)
        self._costs = {
            row.method: row.model_copy(update={"peak": peak_by_formula(self._memory, row)})
            for row in rows
        }

    def go(self) -> None:
        """Run the stages in order; on Ctrl-C, note what is not there."""
        stages = list(self._stages())
        for index, (_, stage) in enumerate(stages):
            try:
                stage()
            except KeyboardInterrupt:
                self._interrupted = True
                self._missing += [f"{name}: interrupted" for name, _ in stages[index:]]
                return

    def _stages(self) -> Iterator[tuple[str, Callable[[], None]]]:
        if self._settings.simulate:
            yield "memory", self._find_memory
            return
        if self._settings.warmup_steps:
            yield "warm-up", self._warm_up
        yield "gradients", self._measure_gradients
        # After the real passes: a table that the user's code caches is then cached with real values.
        yield "memory", self._find_memory
        if self._settings.detail != "quick":
            yield "optimizer steps", self._time_steps
            yield "decompositions", self._time_decompositions

    def _warm_up(self) -> None:
        session, total = self._session, self._settings.warmup_steps
        groups = session.target.param_groups(self._model)
        optimizer = create(BASELINE, self._model, lr=_WARMUP_LR, groups=groups)
        for done in range(total):
            self._report(Progress("warm-up", done, total))
            session.forward_backward(self._model, session.place(next(self._batches)))
            optimizer.step()
        self._model.zero_grad(set_to_none=True)

    def _measure_gradients(self) -> None:
        session, count = self._session, self._settings.batches
        self._placed = [session.place(next(self._batches)) for _ in range(count)]
        if self._settings.detail == "quick":
            self._measure_spectra()
            return
        ranks = {
            item.name: resolve_rank(self._settings.rank, matrix_shape(item.shape)[0]) or 1
            for item in self._matrices()
        }
        measuring = measure_layers(
            self._model,
            session.loss,
            self._placed,
            ranks,
            on_batch=lambda done, total: self._report(Progress("gradients", done, total)),
        )
        for layer in measuring:
            self._gradients[layer.name] = layer

    def _measure_spectra(self) -> None:
        spectra = {item.name: SpectrumAccumulator() for item in self._matrices()}

        def add(name: str, G: Tensor, k: int) -> None:
            self._report(Progress("gradients", k, len(self._placed)))
            spectra[name].add(G)

        stream_gradients(self._model, self._session.loss, self._placed, list(spectra), add)
        for name, spectrum in spectra.items():
            self._gradients[name] = LayerGradients(name, spectrum.result(), None)

    def _find_memory(self) -> None:
        self._report(Progress("memory", 0, len(self._costs)))
        if self._session.device.type == "cuda":
            self._measure_memory()
        left = [
            row for row in self._costs.values() if row.peak is None or row.peak.source == "formula"
        ]
        session = self._session
        try:
            simulated = SimulatedModel(
                session.build_model, session.place(self._first_batch), session.loss
            )
        except SimulationError as error:
            if left:
                self._missing.append(
                    f"activations, temporaries and peaks: without data the model fails with {error}; "
                    "memory is weights, gradients and state by formula"
                )
            return
        self._relate_flops(simulated.positions)
        for footprint in simulated_footprints(simulated, session.target.param_groups, left):
            self._record(footprint)

    def _measure_memory(self) -> None:
        self._model.to("cpu")  # the child process needs the room
        torch.cuda.empty_cache()
        costs = list(self._costs.values())
        for footprint in measured_footprints(self._session, costs, self._missing):
            self._record(footprint)
        self._model.to(self._session.device)

    def _relate_flops(self, positions: Mapping[str, int]) -> None:
        tokens = self._settings.tokens_per_batch or 1
        yardstick = forward_backward_flops(self._weights, tokens, positions)
        if yardstick == 0:  # no matrix is trained
            return
        self._costs = {
            name: row.model_copy(update={"relative_flops": row.step_flops / yardstick})
            for name, row in self._costs.items()
        }

    def _record(self, footprint: Footprint) -> None:
        row = self._costs[footprint.method]
        self._costs[footprint.method] = row.model_copy(update={"peak": footprint.peak})
        if footprint.method == BASELINE:
            self._memory = footprint.memory
        done = sum(
            row.peak is not None and row.peak.source != "formula" for row in self._costs.values()
        )
        self._report(Progress("memory", done, len(self._costs)))

    def _time_steps(self) -> None:
        rounds, budget_s, _ = _EFFORT[self._settings.detail]
        session = self._session
        self._forward_backward_ms = time_forward_backward(
            session.forward_backward, self._model, self._placed
        )
        groups = session.target.param_groups(self._model)
        baseline_ms = 0.0
        for done, (name, row) in enumerate(self._costs.items()):
            self._report(Progress("optimizer steps", done, len(self._costs)))
            # Every overhead is a difference to the baseline, so its time is taken with more care.
            taken = time_step(
                self._model,
                name,
                row.options,
                groups=groups,
                rounds=3 * rounds if name == BASELINE else rounds,
                budget_s=budget_s,
            )
            if name == BASELINE:
                baseline_ms = taken.step_ms
            self._costs[name] = row.model_copy(
                update={
                    "step_ms": taken.step_ms,
                    "overhead_ms": taken.step_ms - baseline_ms,
                    "step_ms_source": "measured",
                }
            )
        self._model.zero_grad(set_to_none=True)

    def _time_decompositions(self) -> None:
        _, _, budget_s = _EFFORT[self._settings.detail]
        counts = Counter(matrix_shape(item.shape) for item in self._matrices())
        for done, (shape, count) in enumerate(counts.items()):
            self._report(Progress("decompositions", done, len(counts)))
            times = time_shape(
                shape,
                count,
                self._settings.rank,
                Periods(refresh=OPTIONS["period"].default),
                self._session.device,
                budget_s=budget_s,
            )
            self._decompositions += times.rows
            self._missing += times.skipped

    def _matrices(self) -> list[Treatment]:
        return [item for item in self._treatments if item.treatment == "matrix"]

    def profile(self) -> Profile:
        """Return everything found so far."""
        return Profile(
            target=self._session.target.record,
            environment=environment(torch.device(self._settings.device)),
            settings=self._settings,
            layers=[self._layer(item) for item in self._treatments],
            memory=self._memory,
            methods=[self._costs[name] for name in self._methods],
            decompositions=self._decompositions,
            forward_backward_ms=self._forward_backward_ms,
            missing=self._missing,
            interrupted=self._interrupted,
        )

    def _layer(self, item: Treatment) -> Layer:
        found = self._gradients.get(item.name)
        return Layer(
            name=item.name,
            shape=list(item.shape),
            kind=item.kind,
            treatment=item.treatment,
            reason=item.reason,
            spectrum=found.spectrum if found else None,
            diagonality=found.diagonality if found else None,
        )


def _treatments(model: nn.Module, target: LoadedTarget) -> list[Treatment]:
    """Return the treatment of every parameter; those that the user's groups leave out are not trained."""
    groups = target.param_groups(model)
    found = treatments(model)
    if groups is None:
        return found
    trained = {id(parameter) for parameter in _parameters(groups)}
    return [
        item
        if id(item.parameter) in trained or item.treatment == "frozen"
        else dataclasses.replace(item, treatment="frozen", reason="not in param_groups(model)")
        for item in found
    ]


def _parameters(groups: list[dict[str, Any]]) -> Iterator[Tensor]:
    for group in groups:
        params = group["params"]
        for entry in [params] if isinstance(params, Tensor) else params:
            yield entry[1] if isinstance(entry, tuple) else entry
