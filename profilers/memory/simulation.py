"""A training step followed under fake tensors: nothing is allocated or computed.

The model's forward and backward pass are followed once, without an optimizer. Then every method's real optimizer
updates the fake parameters: its first and third step refresh the bases and the second does not. A method that evaluates
the loss itself is followed through a whole training step of a model of its own, whose layers are as large as they can
come to be.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

from subopt.errors import UserCodeError
from subopt.optimizers import create, get_method, stored_bytes
from subopt.optimizers.methods.transient import update_bytes
from subopt.optimizers.state.storage_tracker import StorageTracker

from ..record.base import Phase
from ..target.loaded import fresh_copy, without_address_warnings
from .module_scopes import module_scopes
from .phases import ModelPeaks, StepPeaks
from .positions import counted_positions
from .step_peak import WATCHED_STEPS, watched_step
from .timeline import BATCH, Timeline

BuildModel = Callable[[], nn.Module]
LossOf = Callable[[nn.Module, Any], Tensor]
GroupsOf = Callable[[nn.Module], "list[dict[str, Any]] | None"]


class SimulationError(Exception):
    """The user's code cannot be followed under fake tensors, for instance because it branches on a value."""


class SimulatedModel:
    """A model under fake tensors, after one forward and backward pass, ready to be stepped by any method.

    Attributes:
        model: The model; its tensors have no data.
        peaks: What it takes without an optimizer.
        positions: How many vectors each weight multiplies in a forward pass, by parameter name.
        batch: The batch, its tensors fake.
        mode: What its fake tensors belong to.
        timeline: Every storage of the two passes as it came and went, and who made it.
    """

    def __init__(self, build_model: BuildModel, batch: Any, loss_of: LossOf) -> None:
        """Build the model under fake tensors and follow one forward and backward pass.

        Args:
            build_model: Makes the model in training mode; one made earlier is copied into fake tensors.
            batch: A real batch; only shapes and dtypes are used.
            loss_of: Scalar loss from model and batch.

        Raises:
            SimulationError: The code cannot be followed without values.
        """
        self.mode = FollowMode()
        self._tracker = StorageTracker()
        self._build_model, self._loss_of = build_model, loss_of
        with followed():
            self.model = fake_model(build_model, self.mode)
            self.batch = self.without_data(batch)
            self.peaks = self._forward_backward(loss_of)

    def without_data(self, batch: Any) -> Any:
        """Return a batch with fake tensors in the place of real ones."""

        def fake(tensor: Tensor) -> FakeTensor:
            return self.mode.from_tensor(tensor.detach().cpu(), static_shapes=True)

        return tree_map_only(Tensor, fake, batch)

    def followed_loss(self, batch: Any) -> Tensor:
        """Return the loss of a fake batch, to be called under `mode`."""
        return self._loss_of(self.model, batch)

    def _forward_backward(self, loss_of: LossOf) -> ModelPeaks:
        tracker, model = self._tracker, self.model
        events = tracker.events = []
        tracker.file([*model.parameters(), *model.buffers()], "parameter")
        tracker.scope = BATCH
        tracker.file(tree_leaves(self.batch), "activation")
        scopes = module_scopes(model, partial(setattr, tracker, "scope"))
        with filed_gradients(model, tracker), self.mode, tracker, scopes as passes:
            tracker.category = "activation"
            tracker.reset_peak()
            with counted_positions(model) as self.positions:
                loss = loss_of(model, self.batch)
            forward = tracker.peak_bytes.copy()
            kept = tracker.live_bytes["activation"]
            tracker.category = "temporary"
            backward_start = len(events)
            tracker.reset_peak()
            loss.backward()
            backward = tracker.peak_bytes.copy()
        self.timeline = Timeline(model, events, backward_start, passes, self.batch)
        tracker.events = None
        del loss
        self._held = +tracker.live_bytes  # weights, gradients and the batch are alive in every step
        return ModelPeaks(
            parameter_bytes=tracker.live_bytes["parameter"],
            gradient_bytes=tracker.live_bytes["gradient"],
            activation_bytes=kept,
            forward=forward,
            backward=backward,
        )

    def step_peaks(
        self, method: str, options: Mapping[str, Any], groups_of: GroupsOf | None = None
    ) -> StepPeaks:
        """Follow a method's real optimizer over three steps of one parameter of each shape class.

        Parameters are updated one after another, so the highest instant of a step is everything kept plus the largest
        temporaries of any one update.

        Args:
            method: Method id.
            options: Its options; what would keep it from its largest is replaced where it has that.
            groups_of: The user's own parameter groups, if any.

        Raises:
            SimulationError: The method evaluates the loss itself, and that cannot be followed.
        """
        settings = at_its_largest(method, options)
        if needs_closure(method):
            with followed():
                return self._whole_step_peaks(method, settings, groups_of)
        with self.mode:
            groups = groups_of(self.model) if groups_of else None
            optimizer = create(method, self.model, groups=groups, **settings)
        found = [
            update_bytes(parameter, parameter.grad, group)
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        state_bytes = sum(each.state for each in found)
        held = self._held + Counter({"state": state_bytes})
        ordinary = max((each.ordinary for each in found), default=0)
        refresh = max((max(each.first, each.refresh) for each in found), default=0)
        return StepPeaks(
            state_bytes,
            held + Counter({"temporary": ordinary}),
            held + Counter({"temporary": refresh}) if has_decompositions(method) else None,
        )

    def _whole_step_peaks(
        self, method: str, settings: Mapping[str, Any], groups_of: GroupsOf | None
    ) -> StepPeaks:
        """Follow a whole training step of a model of its own, which the method may change, at its largest."""
        model = fake_model(self._build_model, self.mode)
        trained = {name for name, p in self.model.named_parameters() if p.grad is not None}
        tracker = StorageTracker()
        with self.mode:
            groups = groups_of(model) if groups_of else None
            optimizer = create(method, model, groups=groups, **settings)
            others = [p for name, p in model.named_parameters() if name in trained]
            optimizer.take_largest_form(others)  # type: ignore[attr-defined]
            meter = _Meter(tracker, model)
            for kept in optimizer.state.values():
                tracker.file(kept.values(), "state")
            tracker.file(tree_leaves(self.batch), "activation")
            loss_of = partial(self._loss_of, model, self.batch)
            with filed_gradients(model, tracker), tracker:
                row = watched_step(model, optimizer, loss_of, meter, needs_closure=True)
            tracker.file(model.parameters(), "parameter")
        state_bytes = sum(
            stored_bytes(value) for kept in optimizer.state.values() for value in kept.values()
        )
        # New factors and moments are made before the old ones go: there is as much of either at every instant.
        held = {"state": state_bytes, "parameter": tracker.live_bytes["parameter"]}
        peaks = {phase: _with_at_least(held, at) for phase, at in row.peaks.items()}
        step = peaks["step"]
        refresh = step if has_decompositions(method) else None
        return StepPeaks(state_bytes, step, refresh, (peaks["forward"], peaks["backward"]))


def at_its_largest(method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with which three steps show all that a method ever needs.

    The first and third step refresh the bases and the second does not, nothing waits for a later step, no rank is cut
    that could be kept, and no basis is frozen for having settled.
    """
    largest = {
        "period": WATCHED_STEPS - 1,
        "early_refresh": False,
        "start_step": 1,
        "tau": 0.0,
        "settle_steps": 0,
    }
    return {**options, **get_method(method).among(largest)}


def needs_closure(method: str) -> bool:
    """Return whether a method evaluates the loss itself."""
    return "needs_closure" in get_method(method).capabilities


def has_decompositions(method: str) -> bool:
    """Return whether some steps of a method, at least the first, decompose a gradient."""
    return not get_method(method).capabilities.isdisjoint({"refreshes", "rank"})


def fake_model(build_model: BuildModel, mode: FollowMode | None = None) -> nn.Module:
    """Build a model whose tensors have shapes and dtypes and no data, however large it is."""
    with mode or FollowMode(), without_address_warnings():
        model = build_model()
        tensors = itertools.chain(model.parameters(), model.buffers())
        if all(isinstance(tensor, FakeTensor) for tensor in tensors):
            return model
        return fresh_copy(model)


@contextmanager
def followed() -> Iterator[None]:
    """Turn what user code raises under fake tensors into an error of the simulation."""
    try:
        with without_address_warnings():
            yield
    except UserCodeError as error:
        cause = error.__cause__
        raise SimulationError(_first_line(cause or error)) from error
    except (RuntimeError, TypeError, ValueError) as error:
        raise SimulationError(_first_line(error)) from error


@contextmanager
def filed_gradients(model: nn.Module, tracker: StorageTracker) -> Iterator[None]:
    """File each gradient as one as soon as it is whole."""

    def file(parameter: Tensor) -> None:
        tracker.file([parameter.grad], "gradient")

    with ExitStack() as hooks:
        for parameter in model.parameters():
            if parameter.requires_grad:
                hooks.enter_context(parameter.register_post_accumulate_grad_hook(file))
        yield


def _with_at_least(held: Mapping[str, int], at: Counter[str]) -> Counter[str]:
    """Return the same total with so much in these categories at least, taken from the temporaries."""
    filed = at.copy()
    for category, size in held.items():
        missing = min(max(0, size - filed[category]), filed["temporary"])
        filed[category] += missing
        filed["temporary"] -= missing
    return filed


# What a phase makes, until it is known to be something else.
_MADE_IN = {"forward": "activation", "backward": "temporary", "step": "temporary"}


@dataclass(frozen=True)
class _Meter:
    """A tracker's categories; the model's parameters, which a method may replace, are filed anew in every phase."""

    tracker: StorageTracker
    model: nn.Module

    def live_bytes(self) -> int:
        return self.tracker.live_bytes.total()

    def peak_bytes(self) -> Counter[str]:
        return self.tracker.peak_bytes.copy()

    def begin(self, phase: Phase) -> None:
        self.tracker.category = _MADE_IN[phase]
        self.tracker.file([*self.model.parameters(), *self.model.buffers()], "parameter")
        self.tracker.reset_peak()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


class FollowMode(FakeTensorMode):
    """A fake tensor mode that user code may build and copy models under; it is shared by the copies, never copied.

    A fake tensor refers to its mode, so `copy.deepcopy` of a module (`nn.TransformerEncoder` copies its layer) copies
    torch's own mode with all its tables. Those hold weak references to storages by address (`StorageWeakRef`, one for
    each constant such as batch normalisation's counter); a copy of one frees the same reference a second time, and
    that corrupts the process' memory.
    """

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)

    def __deepcopy__(self, memo: dict[int, Any]) -> FollowMode:
        return self
