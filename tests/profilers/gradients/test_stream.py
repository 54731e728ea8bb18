"""Gradients handed over by hooks: complete, one at a time, and the model left as found."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from subopt.profilers.gradients.stream import left_as_found, stream_gradients


class Small(nn.Module):
    """A convolution, a batch norm, dropout, and one linear layer used twice under two names."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(dropout)
        self.first = nn.Linear(12, 12, bias=False)
        self.second = self.first
        self.head = nn.Linear(12, 4)
        self.norm.eval()  # a mode that differs from the rest and must come back
        self.register_buffer("lazy", None)

    def forward(self, x):
        if self.lazy is None:
            self.lazy = torch.ones(3)
            self.register_buffer("fresh", torch.ones(3))
        hidden = self.norm(self.conv(x)).flatten(1)
        hidden = self.second(torch.tanh(self.first(self.drop(hidden))))
        return self.head(hidden)


def loss_of(model, batch):
    return model(batch).square().mean()


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(5, 2, 4, 4, generator=generator) for _ in range(3)]


NAMES = ["conv.weight", "first.weight", "head.weight"]


def collected(model, batches, names=NAMES):
    seen = []
    stream_gradients(
        model, loss_of, batches, names, lambda name, G, k: seen.append((name, k, G.clone()))
    )
    return seen


def test_equals_plain_autograd_for_tied_and_convolution_weights(batches):
    torch.manual_seed(0)
    model = Small()
    seen = {(name, k): G for name, k, G in collected(model, batches)}
    assert set(seen) == {(name, k) for name in NAMES for k in range(3)}
    for k, batch in enumerate(batches):
        model.zero_grad()
        loss_of(model, batch).backward()
        for name in NAMES:
            expected = model.get_parameter(name).grad
            torch.testing.assert_close(
                seen[name, k], expected.reshape(expected.shape[0], -1), rtol=0, atol=0
            )


def test_a_convolution_is_seen_as_out_by_everything_else(batches):
    shapes = {name: G.shape for name, _, G in collected(Small(), batches[:1])}
    assert shapes["conv.weight"] == (3, 2 * 3 * 3)


def test_a_tied_parameter_is_handed_over_once_under_the_first_name_given(batches):
    both = collected(Small(), batches[:1], ["second.weight", "first.weight"])
    assert [(name, k) for name, k, _ in both] == [("second.weight", 0)]


def test_only_the_gradient_in_hand_is_alive(batches):
    model = Small()
    handed: list[StorageWeakRef] = []

    def check(name, G, k):
        assert all(storage.expired() for storage in handed)
        assert all(parameter.grad is None for parameter in model.parameters())
        handed.append(StorageWeakRef(G.untyped_storage()))

    stream_gradients(model, loss_of, batches, NAMES, check)
    assert len(handed) == 9
    assert all(storage.expired() for storage in handed)


class GradientsAlive(TorchDispatchMode):
    """Which parameters' gradients are alive after each operation, found by their shapes, all different."""

    def __init__(self, model):
        super().__init__()
        self.names = {tuple(p.shape): name for name, p in model.named_parameters()}
        self.own = {p.untyped_storage()._cdata for p in model.parameters()}
        self.made = {}
        self.history = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            name = self.names.get(tuple(tensor.shape)) if isinstance(tensor, torch.Tensor) else None
            if name is not None and tensor.untyped_storage()._cdata not in self.own:
                storage = StorageWeakRef(tensor.untyped_storage())
                self.made[storage.cdata] = name, storage
        self.history.append({name for name, storage in self.made.values() if not storage.expired()})
        return result


def test_no_two_layers_gradients_are_alive_at_once_measured_or_not():
    linear = [layer for i in range(5) for layer in (nn.Linear(7 + i, 8 + i), nn.Tanh())]
    model = nn.Sequential(*linear, nn.Unflatten(1, (1, 12)), nn.Conv1d(1, 2, 3))
    with GradientsAlive(model) as alive:
        stream_gradients(
            model,
            loss_of,
            [torch.randn(3, 7) for _ in range(2)],
            ["2.weight", "6.weight"],
            lambda name, G, k: None,
        )
    layers = [{name.partition(".")[0] for name in names} for names in alive.history]
    assert max(map(len, layers)) == 1
    assert set().union(*alive.history) == set(alive.names.values())
    assert alive.history[-1] == set()


def test_the_model_is_left_as_found(batches):
    model = Small(dropout=0.5).train()
    model.norm.eval()
    model.head.weight.grad = kept = torch.full_like(model.head.weight, 7.0)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    running_mean = model.norm.running_mean
    collected(model, batches)
    assert model.norm.running_mean is running_mean
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert model.lazy is None
    assert [module.training for module in model.modules()] == modes
    assert model.head.weight.grad is kept
    assert torch.equal(kept, torch.full_like(kept, 7.0))
    assert all(p.grad is None for name, p in model.named_parameters() if name != "head.weight")
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


def test_it_measures_in_train_mode(batches):
    model = Small().eval()
    modes = []

    def spy(model, batch):
        modes.extend(module.training for module in model.modules())
        return loss_of(model, batch)

    stream_gradients(model, spy, batches[:1], NAMES, lambda name, G, k: None)
    assert modes
    assert all(modes)


def test_a_part_that_trains_in_evaluation_mode_is_measured_in_it(batches):
    model = Small()
    before = model.norm.running_mean.clone()
    with left_as_found(model):
        assert model.training
        assert not model.norm.training
        loss_of(model, batches[0])
        assert torch.equal(model.norm.running_mean, before)


def test_random_generators_are_left_as_found_so_that_passes_repeat(batches):
    model = Small(dropout=0.5)
    torch.manual_seed(1)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    first = collected(model, batches)
    second = collected(model, batches)
    assert torch.equal(torch.get_rng_state(), states[0])
    for (_, _, a), (_, _, b) in zip(first, second, strict=True):
        assert torch.equal(a, b)
    with left_as_found(model):
        random.random()
        np.random.rand()  # noqa: NPY002
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]  # noqa: NPY002


def test_an_error_while_measuring_still_leaves_the_model_as_found(batches):
    model = Small().eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}

    def fail(name, G, k):
        raise ZeroDivisionError("from the callee")

    with pytest.raises(ZeroDivisionError, match="from the callee"):
        stream_gradients(model, loss_of, batches, NAMES, fail)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


def test_a_frozen_parameter_and_one_without_gradient_are_passed_over(batches):
    model = Small()
    model.conv.weight.requires_grad_(False)
    model.unused = nn.Linear(3, 3)
    seen = collected(model, batches[:1], [*NAMES, "unused.weight"])
    assert [name for name, _, _ in seen] == ["head.weight", "first.weight"]
