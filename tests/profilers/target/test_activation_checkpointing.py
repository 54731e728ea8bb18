"""Blocks computed again in the backward pass: same numbers, less memory, everything else as it was."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from torch import nn

from subopt.errors import UsageError
from subopt.optimizers.state.storage_tracker import StorageTracker
from subopt.profilers.target.activation_checkpointing import recompute_blocks


class Block(nn.Module):
    """Dropout, a norm with running statistics, and a keyword argument."""

    def __init__(self, width=8):
        super().__init__()
        self.inner = nn.Linear(width, 4 * width)
        self.norm = nn.BatchNorm1d(4 * width)
        self.drop = nn.Dropout(0.3)
        self.outer = nn.Linear(4 * width, width)

    def forward(self, x, *, scale=1.0):
        return x + scale * self.outer(self.drop(torch.relu(self.norm(self.inner(x)))))


class Net(nn.Module):
    def __init__(self, layers=3):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.layers = nn.ModuleList(Block() for _ in range(layers))
        self.head = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 11, bias=False))
        self.head[2].weight = self.embed.weight

    def forward(self, ids):
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x, scale=0.5)
        return self.head(x)


IDS = torch.arange(64) % 11


def gradients_after(model, steps=2):
    torch.manual_seed(5)
    for _ in range(steps):
        model.zero_grad()
        nn.functional.cross_entropy(model(IDS), IDS).backward()
    return [p.grad for p in model.parameters()]


def test_gradients_buffers_and_state_dict_are_the_plain_model_s_bit_for_bit():
    torch.manual_seed(0)
    plain = Net()
    wrapped = copy.deepcopy(plain)
    assert recompute_blocks(wrapped) == ["layers.0", "layers.1", "layers.2"]
    pairs = zip(gradients_after(plain), gradients_after(wrapped), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    before, after = plain.state_dict(), wrapped.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert after["layers.0.norm.num_batches_tracked"] == 2


def test_every_block_is_computed_twice_in_training_and_once_without_gradients():
    model = Net()
    recompute_blocks(model)
    recompute_blocks(model)  # a second time changes nothing
    calls = Counter()
    for layer in model.layers:
        layer.inner.register_forward_hook(lambda *_: calls.update(["inner"]))
    model(IDS).sum().backward()
    assert calls["inner"] == 6
    with torch.no_grad():
        model(IDS)
    assert calls["inner"] == 9


def test_less_is_kept_for_the_backward_pass():
    def kept(model):
        with StorageTracker() as tracker:
            tracker.category = "activation"
            loss = model(IDS).sum()
            size = tracker.live_bytes["activation"]
            del loss
        return size

    plain, wrapped = Net(6), Net(6)
    recompute_blocks(wrapped)
    assert kept(wrapped) < kept(plain) / 3


def test_a_copy_runs_its_own_weights():
    model = Net()
    recompute_blocks(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.layers.parameters():
            parameter.zero_()
    other(IDS).sum().backward()
    assert all(p.grad is None for p in model.parameters())
    assert all(p.grad is not None for p in other.parameters())


class Shared(nn.Module):
    """One block used three times, itself made of repeated parts."""

    def __init__(self):
        super().__init__()
        self.stack = nn.ModuleList([nn.Sequential(Block(), Block())] * 3)

    def forward(self, x):
        for part in self.stack:
            x = part(x)
        return x


def test_the_outermost_blocks_are_wrapped_and_a_shared_one_once():
    assert recompute_blocks(Shared()) == ["stack.0"]


def test_lists_inside_lists_are_looked_into():
    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.ModuleList([Block(), Block()]) for _ in range(2))

    assert recompute_blocks(Nested()) == [f"layers.{i}.{j}" for i in range(2) for j in range(2)]


@pytest.mark.parametrize(
    "model",
    [nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))],
    ids=["one layer", "layers without parts"],
)
def test_a_model_without_repeated_blocks_is_refused(model):
    with pytest.raises(UsageError, match="has no repeated blocks"):
        recompute_blocks(model)


def test_a_hugging_face_model_s_cache_of_keys_is_off():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=32, n_positions=16, n_embd=16, n_layer=2, n_head=2, use_cache=True
    )
    torch.manual_seed(0)
    plain = transformers.GPT2LMHeadModel(config).train()
    wrapped = copy.deepcopy(plain)
    assert recompute_blocks(wrapped) == ["transformer.h.0", "transformer.h.1"]
    ids = torch.arange(16)[None]
    for model in (plain, wrapped):
        torch.manual_seed(1)
        model(input_ids=ids, labels=ids).loss.backward()
    for one, other in zip(plain.parameters(), wrapped.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
