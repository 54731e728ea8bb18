"""State dicts of versions whose groups held the options of every method, 48 keys, go on where they stopped.

`data/checkpoints_of_48_keys.pt.gz` was written by such a version: for each method its options, and a model and its
optimizer after 4 steps and the model after 5 more.
"""

import copy
import gzip
from pathlib import Path

import pytest
import torch
from torch import nn

from subopt.optimizers import METHODS, create
from subopt.optimizers.optimizer import EARLIER_OPTIONS

FILE = Path(__file__).parent / "data" / "checkpoints_of_48_keys.pt.gz"
with gzip.open(FILE) as stream:
    SAVED = torch.load(stream, weights_only=True)


def fresh(name):
    """A model as it was saved, and an optimizer that has nothing of its state yet, nor of its settings."""
    saved = copy.deepcopy(SAVED[name])
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
    optimizer = create(name, model, lr=0.5, **saved["options"])
    model.load_state_dict(saved["model"])
    return model, optimizer, saved


def advance(model, optimizer, steps=5):
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(16, 6, generator=generator), torch.randn(16, 4, generator=generator)

    def closure():
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize("name", SAVED)
def test_training_goes_on_bit_for_bit_from_the_saved_state(name):
    model, optimizer, saved = fresh(name)
    assert all(len(group) > 40 for group in saved["optimizer"]["param_groups"])
    optimizer.load_state_dict(saved["optimizer"])
    resumed = advance(model, optimizer)

    twin, other, saved = fresh(name)
    for group in other.param_groups:
        group |= {"lr": 1e-2, "weight_decay": 0.1}
        group |= {key: value for key, value in EARLIER_OPTIONS.items() if key in group}
    keys = [key for group in saved["optimizer"]["param_groups"] for key in group["params"]]
    own = [parameter for group in other.param_groups for parameter in group["params"]]
    for key, parameter in zip(keys, own, strict=True):
        other.state[parameter] = saved["optimizer"]["state"].get(key, {})
    for left, right in zip(resumed, advance(twin, other), strict=True):
        assert torch.equal(left, right)
    # Another machine multiplies in another order.
    later = saved["later"]
    for (key, value), expected in zip(model.state_dict().items(), later.values(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-4, msg=key)


@pytest.mark.parametrize("name", SAVED)
def test_what_is_loaded_has_the_keys_of_a_new_optimizer(name):
    _, optimizer, saved = fresh(name)
    before = [set(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(saved["optimizer"])
    assert [set(group) for group in optimizer.param_groups] == before
    options = METHODS[name].resolve(saved["options"])
    options |= {key: value for key, value in EARLIER_OPTIONS.items() if key in options}
    matrices = optimizer.param_groups[0]
    assert {key: matrices[key] for key in options} == options
    assert (matrices["lr"], matrices["weight_decay"]) == (1e-2, 0.1)


def test_saved_moments_win_over_the_loading_optimizers_as_they_did():
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
    optimizer = create("galore", model, period=3, moments="momentum")  # keeps what lion keeps
    optimizer.load_state_dict(copy.deepcopy(SAVED["galore"]["optimizer"]))
    assert optimizer.param_groups[0]["moments"] == "lion"
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.99)
