"""What an update promises to whoever calls it: one whole tensor, its gradient and its state are all that it needs.

Three callers that are not our optimizer: an owner of a matrix whose pieces lie on many devices, an optimizer class of
somebody else's behind our interface, and a batch of matrices stacked in one tensor.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from subopt.optimizers import METHODS, Composed
from subopt.optimizers.composition import update_for
from subopt.optimizers.finite import finite_gradient
from subopt.optimizers.options import PartOptions
from subopt.optimizers.state.layout import Dtypes, Slot, allocate
from subopt.optimizers.updates.update import COUNTERS, Update, count_nonfinite

CPU = torch.device("cpu")
COMMON = {"lr": 1e-2, "weight_decay": 0.1, "maximize": False}
CASES = [
    (name, options)
    for name, method in METHODS.items()
    if not method.layers
    for options in method.test_inputs
]
STEPS = 6


def noise(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gradients(*shape, seed=100):
    return [noise(*shape, seed=seed + t) for t in range(STEPS)]


def started(name, options, shape):
    """An update, the options it reads, and a state of its own, for a tensor of this shape."""
    update, group = update_for({**METHODS[name].resolve(options), **COMMON}, shape)
    dtypes = Dtypes.under(torch.float32, group)
    return update, group, allocate(update.layout(shape, group), dtypes, CPU)


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (4, 3, 2, 2), (5,)], ids=str)
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_an_owner_steps_a_gathered_matrix_as_the_optimizer_would(name, options, shape):
    """Its rows lie in two pieces: gathered, updated with state that only the owner has, and given back."""
    parameter = nn.Parameter(noise(*shape, seed=0))
    optimizer = Composed([parameter], 1e-2, weight_decay=0.1, **METHODS[name].resolve(options))
    pieces = [piece.clone() for piece in parameter.detach().split(3)]
    update, group, state = started(name, options, shape)
    for t, gradient in enumerate(gradients(*shape), start=1):
        parameter.grad = gradient.clone()
        optimizer.step()
        gathered = torch.cat(pieces)
        update.apply(gathered, torch.cat(gradient.split(3)), state, t, group)
        pieces = [piece.clone() for piece in gathered.split(3)]
        assert torch.equal(gathered, parameter.detach())
    own = optimizer.state[parameter]
    assert state.keys() == own.keys()
    assert all(torch.equal(state[key], own[key]) for key in own.keys() - {"step"})


@pytest.mark.parametrize("name", [name for name, options in CASES if not options])
def test_an_update_counts_what_is_not_finite_in_the_state_that_it_is_given(name):
    W = noise(6, 10, seed=0)
    update, group, state = started(name, {}, (6, 10))
    for t, gradient in enumerate(gradients(6, 10), start=1):
        update.apply(W, gradient, state, t, group)
    bad = noise(6, 10, seed=9)
    bad[0, 0] = float("inf")
    update.apply(W, bad, state, STEPS + 1, group)
    assert int(state["nonfinite_gradients"]) == 1
    assert torch.isfinite(W).all()


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_a_batch_of_matrices_is_as_many_separate_steps(name, options):
    """E x a x b weights of experts with a state of E slots: each matrix sees its own through views, nothing else."""
    experts, shape = 3, (8, 16)
    alone = [noise(*shape, seed=e) for e in range(experts)]
    stack = torch.stack(alone)
    starts = [started(name, options, shape) for _ in range(experts)]
    stacked = {key: torch.stack([state[key] for *_, state in starts]) for key in starts[0][2]}
    sequence = [gradients(*shape, seed=50 * e) for e in range(experts)]
    for t in range(1, STEPS + 1):
        for e, (update, group, state) in enumerate(starts):
            views = {key: value[e] for key, value in stacked.items()}
            update.apply(stack[e], sequence[e][t - 1], views, t, group)
            update.apply(alone[e], sequence[e][t - 1], state, t, group)
    assert torch.equal(stack, torch.stack(alone))
    for e, (_, _, state) in enumerate(starts):
        assert all(torch.equal(stacked[key][e], value) for key, value in state.items())


@dataclass(frozen=True, kw_only=True)
class Foreign(Update):
    """An optimizer class of torch's, or of anyone who follows it: one tensor, its state in our slots.

    A class makes its state in its first step, so `layout` lets one take a step; its own count of steps is t - 1.
    """

    make: Callable[..., torch.optim.Optimizer]
    options: type[PartOptions] = PartOptions

    def layout(self, shape, options):
        parameter = nn.Parameter(torch.zeros(shape))
        parameter.grad = torch.zeros(shape)
        optimizer = self._optimizer(parameter, options)
        optimizer.step()
        kept = optimizer.state[parameter]
        return COUNTERS | {
            name: Slot(tuple(value.shape), "moment")
            for name, value in kept.items()
            if name != "step" and isinstance(value, torch.Tensor)
        }

    def apply(self, parameter, gradient, state, t, group):
        gradient, finite, _ = finite_gradient(gradient, parameter.dtype)
        held = nn.Parameter(parameter.detach())
        held.grad = gradient
        optimizer = self._optimizer(held, group)
        if t > 1:
            kept = {name: value for name, value in state.items() if name not in COUNTERS}
            optimizer.state[held] = {**kept, "step": torch.tensor(t - 1.0)}
        optimizer.step()
        for name, value in optimizer.state[held].items():
            if name != "step" and isinstance(value, torch.Tensor) and value is not state[name]:
                state[name].copy_(value)
        count_nonfinite(state, finite)

    def _optimizer(self, parameter, options):
        known = inspect.signature(self.make).parameters
        return self.make([parameter], **{k: v for k, v in options.items() if k in known})


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.5}),
        (torch.optim.AdamW, {"betas": (0.8, 0.9), "amsgrad": True}),
        (torch.optim.RMSprop, {"momentum": 0.9, "centered": True}),
        (torch.optim.Adagrad, {}),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(6, 10), (5,)], ids=str)
def test_a_foreign_optimizer_class_stands_behind_the_protocol(make, options, shape):
    update, group = Foreign(name="foreign", make=make), {**COMMON, **options}
    parameter = nn.Parameter(noise(*shape, seed=0))
    by_itself = make([parameter], lr=1e-2, weight_decay=0.1, **options)
    W = parameter.detach().clone()
    dtypes = Dtypes.under(torch.float32, group)
    state = allocate(update.layout(shape, group), dtypes, CPU)
    kept = dict(state)
    for t, gradient in enumerate(gradients(*shape), start=1):
        parameter.grad = gradient.clone()
        by_itself.step()
        update.apply(W, gradient, state, t, group)
        assert torch.equal(W, parameter.detach())
    assert all(state[name] is value for name, value in kept.items())
    theirs = by_itself.state[parameter]
    assert all(torch.equal(state[name], theirs[name]) for name in state if name not in COUNTERS)
