"""Peak memory of a training step, by category and phase, followed under fake tensors: nothing is allocated or computed.

The model's forward and backward pass are followed once, without an optimizer. Then every method's real optimizer
updates the fake parameters: its first and third step refresh the bases and the second does not. State is alive in
every phase, so

    forward = forward without state + state,   backward likewise,
    step    = weights + gradients + state + the step's temporaries,   refresh likewise on a refresh step.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

from subopt.errors import UserCodeError
from subopt.optimizers import create, get_method

from .costs import options_for
from .positions import counted_positions
from .schema import Memory, Peak, Phase, PhasePeaks
from .target import fresh_copy
from .tracker import StorageTracker

# The interval around a followed peak. Torch's own tests of this technique accept 10 % either way against CUDA's
# counter; too little memory stops a run and too much only looks worse, so the interval leans upwards.
LOW_FACTOR = 0.95
HIGH_FACTOR = 1.10
# cuBLAS keeps 8 MiB of workspace for a handle and stream, 32 MiB on Hopper.
WORKSPACE_BYTES = 32 * 2**20

# A refresh, an ordinary step, a refresh with everything in place.
WATCHED_STEPS = 3

BuildModel = Callable[[], nn.Module]
LossOf = Callable[[nn.Module, Any], Tensor]
GroupsOf = Callable[[nn.Module], "list[dict[str, Any]] | None"]


class SimulationError(Exception):
    """The user's code cannot be followed under fake tensors, for instance because it branches on a value."""


@dataclass(frozen=True)
class ModelPeaks:
    """What the model itself takes, without any optimizer.

    Attributes:
        parameter_bytes: Parameters and buffers.
        gradient_bytes: The gradients at the end of the backward pass.
        activation_bytes: What the forward pass leaves behind for the backward pass, the batch included.
        forward: Bytes by category at the highest instant of the forward pass.
        backward: The same of the backward pass.
    """

    parameter_bytes: int
    gradient_bytes: int
    activation_bytes: int
    forward: Counter[str]
    backward: Counter[str]


@dataclass(frozen=True)
class StepPeaks:
    """What training with one method takes.

    Attributes:
        state_bytes: Optimizer state after a step.
        step: Bytes by category at the highest instant of an ordinary step.
        refresh: The same of a step that refreshes the bases; None for a method that has none.
    """

    state_bytes: int
    step: Counter[str]
    refresh: Counter[str] | None


class SimulatedModel:
    """A model under fake tensors, after one forward and backward pass, ready to be stepped by any method.

    Attributes:
        model: The model; its tensors have no data.
        peaks: What it takes without an optimizer.
        positions: How many vectors each weight multiplies in a forward pass, by parameter name.
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
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._tracker = StorageTracker()
        try:
            self.model = fake_model(build_model, self._mode)
            self._batch = tree_map_only(Tensor, self._fake, batch)
            self.peaks = self._forward_backward(loss_of)
        except UserCodeError as error:
            cause = error.__cause__
            raise SimulationError(_first_line(cause or error)) from error
        except (RuntimeError, TypeError, ValueError) as error:
            raise SimulationError(_first_line(error)) from error

    def _fake(self, tensor: Tensor) -> FakeTensor:
        return self._mode.from_tensor(tensor.detach().cpu(), static_shapes=True)

    def _forward_backward(self, loss_of: LossOf) -> ModelPeaks:
        tracker, model = self._tracker, self.model
        tracker.file([*model.parameters(), *model.buffers()], "parameter")
        tracker.file(tree_leaves(self._batch), "activation")
        hooks = [
            parameter.register_post_accumulate_grad_hook(
                lambda p: tracker.file([p.grad], "gradient")
            )
            for parameter in model.parameters()
            if parameter.requires_grad
        ]
        with self._mode, tracker:
            tracker.category = "activation"
            tracker.reset_peak()
            with counted_positions(model) as self.positions:
                loss = loss_of(model, self._batch)
            forward = tracker.peak_bytes.copy()
            kept = tracker.live_bytes["activation"]
            tracker.category = "temporary"
            tracker.reset_peak()
            loss.backward()
            backward = tracker.peak_bytes.copy()
        del loss
        for hook in hooks:
            hook.remove()
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
        """Follow a method's real optimizer over three steps of one parameter of each kind.

        Parameters are updated one after another, so the highest instant of a step is everything kept plus the largest
        temporaries of any one update, and equal shapes in one group need following once.

        Args:
            method: Method id.
            options: Its options; period and early refreshes are replaced where it has them.
            groups_of: The user's own parameter groups, if any.
        """
        with self._mode:
            groups = groups_of(self.model) if groups_of else None
            settings = with_short_period(method, options)
            optimizer = create(method, self.model, groups=groups, **settings)
            state_bytes = 0
            most = [0] * WATCHED_STEPS
            for parameter, count in _kinds(optimizer):
                kept, temporary = self._follow_updates(optimizer, parameter)
                state_bytes += count * kept
                most = [max(pair) for pair in zip(most, temporary, strict=True)]
        held = self._held + Counter({"state": state_bytes})
        first, ordinary, last = (held + Counter({"temporary": size}) for size in most)
        refresh = max(first, last, key=Counter.total) if has_decompositions(method) else None
        return StepPeaks(state_bytes, ordinary, refresh)

    def _follow_updates(
        self, optimizer: torch.optim.Optimizer, parameter: Tensor
    ) -> tuple[int, list[int]]:
        """Return the state bytes of one parameter, and the temporary bytes of its first updates."""
        temporary = []
        gradients = {id(p): p.grad for group in optimizer.param_groups for p in group["params"]}
        for p in self.model.parameters():
            p.grad = p.grad if p is parameter else None
        with self._tracker as tracker:
            before = tracker.live_bytes.total()
            tracker.category = "temporary"
            for _ in range(WATCHED_STEPS):
                tracker.reset_peak()
                optimizer.step()
                temporary.append(tracker.peak_bytes.total() - tracker.live_bytes.total())
            kept = tracker.live_bytes.total() - before
        optimizer.state.clear()
        for p in self.model.parameters():
            p.grad = gradients.get(id(p))
        return kept, temporary


def _kinds(optimizer: torch.optim.Optimizer) -> list[tuple[Tensor, int]]:
    """Return a parameter of each group, shape and dtype among those with a gradient, and how many there are."""
    first: dict[tuple[Any, ...], Tensor] = {}
    counts: Counter[tuple[Any, ...]] = Counter()
    for index, group in enumerate(optimizer.param_groups):
        for parameter in group["params"]:
            if parameter.grad is not None:
                kind = (index, parameter.shape, parameter.stride(), parameter.dtype)
                first.setdefault(kind, parameter)
                counts[kind] += 1
    return [(parameter, counts[kind]) for kind, parameter in first.items()]


def with_short_period(method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with which the first and third step refresh the bases and the second does not."""
    short = {"period": WATCHED_STEPS - 1, "early_refresh": False}
    return {**options, **options_for(get_method(method), short)}


def has_decompositions(method: str) -> bool:
    """Return whether some steps of a method, at least the first, decompose a gradient."""
    return not get_method(method).capabilities.isdisjoint({"refreshes", "rank"})


def fake_model(build_model: BuildModel, mode: FakeTensorMode | None = None) -> nn.Module:
    """Build a model whose tensors have shapes and dtypes and no data, however large it is."""
    with mode or FakeTensorMode(allow_non_fake_inputs=True):
        model = build_model()
        tensors = itertools.chain(model.parameters(), model.buffers())
        if all(isinstance(tensor, FakeTensor) for tensor in tensors):
            return model
        return fresh_copy(model)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def training_phases(model: ModelPeaks, step: StepPeaks) -> dict[Phase, Counter[str]]:
    """Return the bytes by category at the highest instant of each phase, once the optimizer's state exists."""
    state = Counter({"state": step.state_bytes})
    phases: dict[Phase, Counter[str]] = {
        "forward": model.forward + state,
        "backward": model.backward + state,
        "step": step.step,
    }
    if step.refresh is not None:
        phases["refresh"] = step.refresh
    return phases


def simulated_peak(model: ModelPeaks, step: StepPeaks, transient_bytes: int) -> Peak:
    """Return the peak over the phases with its interval.

    low = 0.95 x; high = 1.10 x + library workspace, and on a refresh the largest temporary of one parameter once
    more, for what the decomposition routines hold out of sight.

    Args:
        model: The model's own part.
        step: The method's part.
        transient_bytes: The method's largest temporary of one parameter.
    """
    totals = {name: at.total() for name, at in training_phases(model, step).items()}
    phase = max(totals, key=lambda name: totals[name])
    high = {name: int(HIGH_FACTOR * total) + WORKSPACE_BYTES for name, total in totals.items()}
    if "refresh" in high:
        high["refresh"] += transient_bytes
    return Peak(
        bytes=totals[phase],
        low_bytes=int(LOW_FACTOR * totals[phase]),
        high_bytes=max(high.values()),
        phase=phase,
        by_phase=PhasePeaks(**totals),
        source="simulated",
    )


def simulated_memory(model: ModelPeaks, step: StepPeaks) -> Memory:
    """Return the memory table of training with the method whose step is given.

    Temporaries are what is alive at the highest instant beyond weights, gradients, state and kept activations; not
    all of those need be alive at that instant, so the categories sum to the peak or more.
    """
    top = max(training_phases(model, step).values(), key=Counter.total)
    kept = min(top["activation"], model.activation_bytes)
    return Memory(
        parameter_bytes=model.parameter_bytes,
        gradient_bytes=model.gradient_bytes,
        activation_bytes=model.activation_bytes,
        temporary_bytes=top.total() - top["parameter"] - top["gradient"] - top["state"] - kept,
        optimizer_state_bytes=step.state_bytes,
        peak_bytes=top.total(),
        source="simulated",
    )
