"""The whole profile, stage by stage. A stage that is interrupted leaves what was complete, and the profile says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from subopt.errors import UsageError
from subopt.optimizers import METHODS, Treatment, create, get_method, matrix_shape
from subopt.optimizers.bases import resolve_rank
from subopt.optimizers.options import OPTIONS

from .costs import unusable, weights_of
from .data import tokens_in
from .decompositions import Periods, time_shape
from .device import environment
from .gradients import stream_gradients
from .layers import DEFAULT_GROUP_BYTES, TWO_SIDED_LIMIT_S, LayerGradients, measure_layers
from .method_table import BASELINE, MethodTable
from .preflight import Preflight, preflight
from .progress import OnProgress, Progress
from .randomness import RandomStream
from .schema import Decomposition, Layer, Profile, Settings
from .session import Session
from .simulated import fake_model
from .spectrum import SpectrumAccumulator
from .target import LoadedTarget
from .timing import time_forward_backward
from .trained import trained_treatments

__all__ = ["BASELINE", "OnProgress", "Progress", "run_profile"]

_WARMUP_LR = 1e-3
# Rounds of timed refreshes, and seconds spent on all methods' steps, the baseline's beside them included, and on one
# shape's decompositions.
_EFFORT = {"standard": (2, 30.0, 10.0), "full": (6, 600.0, 60.0)}


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
        self._treatments = trained_treatments(self._model, session.target)
        weights = weights_of(self._treatments)
        reasons = {name: unusable(get_method(name), weights) for name in self._methods}
        self._methods = [name for name, reason in reasons.items() if reason is None]
        self._missing += [f"{name}: {reason}" for name, reason in reasons.items() if reason]
        tokens = tokens_in(self._first_batch)
        self._settings = self._settings.model_copy(update={"tokens_per_batch": tokens})
        self._table = MethodTable(session, weights, self._methods, self._report, tokens=tokens)

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
            group_bytes=self._settings.max_memory_bytes or DEFAULT_GROUP_BYTES,
            on_batch=lambda done, total: self._report(Progress("gradients", done, total)),
        )
        one_sided = 0
        for layer in measuring:
            self._gradients[layer.name] = layer
            one_sided += layer.diagonality is not None and layer.diagonality.two_sided is None
        if one_sided:
            self._missing.append(
                f"two-sided diagonality of {one_sided} of {len(ranks)} layers: "
                f"a full decomposition of one would take more than {TWO_SIDED_LIMIT_S:g} s"
            )

    def _measure_spectra(self) -> None:
        spectra = {item.name: SpectrumAccumulator() for item in self._matrices()}

        def add(name: str, G: Tensor, k: int) -> None:
            self._report(Progress("gradients", k, len(self._placed)))
            spectra[name].add(G)

        stream_gradients(self._model, self._session.loss, self._placed, list(spectra), add)
        for name, spectrum in spectra.items():
            self._gradients[name] = LayerGradients(name, spectrum.result(), None)

    def _find_memory(self) -> None:
        self._table.find_memory(self._model, self._first_batch)

    def _time_steps(self) -> None:
        rounds, budget_s, _ = _EFFORT[self._settings.detail]
        self._forward_backward_ms = time_forward_backward(
            self._session.forward_backward, self._model, self._placed
        )
        self._table.time_steps(self._model, self._placed[-1], rounds=rounds, budget_s=budget_s)
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
            memory=self._table.memory,
            methods=self._table.rows(self._methods),
            decompositions=self._decompositions,
            forward_backward_ms=self._forward_backward_ms,
            missing=[*self._table.missing, *self._missing],
            interrupted=self._interrupted,
        )

    def _layer(self, item: Treatment) -> Layer:
        found = self._gradients.get(item.name)
        return Layer(
            name=item.name,
            shape=list(item.shape),
            kind=item.kind,
            layer_kind=item.layer_kind,
            treatment=item.treatment,
            reason=item.reason,
            spectrum=found.spectrum if found else None,
            diagonality=found.diagonality if found else None,
        )
