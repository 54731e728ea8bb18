"""What DLRT keeps and what passes: predicted bytes are the real ones."""

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from subopt.optimizers.low_rank.integrator import orth
from subopt.optimizers.low_rank.linear import FACTORS, LowRankLinear
from subopt.optimizers.low_rank.optimizer import DLRT
from subopt.optimizers.methods.low_rank import DLRT_METHOD
from subopt.optimizers.state.storage_tracker import StorageTracker

from .problem import batch, closure_of, make, network, state_tensors, train


def held(tensors):
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", DLRT_METHOD.test_inputs, ids=str)
@pytest.mark.parametrize("state_dtype", [None, "fp32"])
def test_predicted_bytes_are_the_real_ones(options, dtype, state_dtype):
    options = {**options, "state_dtype": state_dtype}
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 20, 3, padding=1, bias=False), nn.Flatten())
    model = nn.Sequential(*model, nn.Linear(20 * 9, 24, bias=False)).to(dtype)
    shapes = {"0": (20, 4, 3, 3), "2": (24, 180)}
    optimizer = make(model, 0.01, ["0.weight", "2.weight"], **options)

    def compare(allowed, predicted):
        for name, shape in shapes.items():
            layer = model[int(name)]
            factors = [getattr(layer, factor) for factor in FACTORS]
            kept = [v for p in factors for v in optimizer.state.get(p, {}).values()]
            at = {"rank": layer.rank}
            assert held(factors) == DLRT_METHOD.weight_bytes(shape, dtype, options, **at)
            if allowed:
                assert held(kept) == DLRT_METHOD.state_bytes(shape, dtype, options, **at)
            assert held(factors) <= DLRT_METHOD.weight_bytes(shape, dtype, options)
        assert held(state_tensors(optimizer)) <= predicted

    predicted = sum(DLRT_METHOD.state_bytes(shape, dtype, options) for shape in shapes.values())
    assert optimizer.planned_state_bytes() == predicted
    compare(False, predicted)
    x, y = torch.randn(8, 4, 3, 3).to(dtype), torch.randn(8, 24).to(dtype)
    for _ in range(3):
        train(model, optimizer, 1, x, y)
        compare(True, predicted)
    if options.get("rank_mode") == "fixed":
        assert held(state_tensors(optimizer)) == predicted


def test_by_default_the_layer_is_smaller_than_the_dense_one_whatever_its_shape():
    for shape in [(2, 3), (10, 784), (64, 64), (768, 3072), (64, 3, 3, 3)]:
        assert DLRT_METHOD.weight_bytes(shape) <= 4 * int(np.prod(shape))
    full = DLRT_METHOD.weight_bytes((64, 64), options={"max_rank": 1.0})
    assert full == 3 * 4 * 64 * 64
    assert DLRT_METHOD.weight_bytes((64, 32), torch.bfloat16, rank=5) == 2 * (5 * 96 + 25)


def test_nothing_of_augmented_size_survives_a_step():
    model, dtype = network(torch.float32), torch.float32
    optimizer = make(model, rank=3, max_rank=3)
    x, y = batch(dtype)
    losses = train(model, optimizer, 2)
    factors = list(model.parameters())
    before = held([*factors, *state_tensors(optimizer)])
    with StorageTracker() as tracker:
        tracker.file([*factors, *state_tensors(optimizer), x, y], "held")
        losses.append(optimizer.step(closure_of(model, optimizer, x, y)).detach())
        kept = [*model.parameters(), *state_tensors(optimizer)]
        tracker.file([*kept, x, y, losses[-1]], "kept")
        biases = [model[0].bias.grad]
        live = {name: size for name, size in tracker.live_bytes.items() if size}
    assert held(kept) == before
    assert live == {"kept": held([*kept, x, y, losses[-1]]), "other": held(biases)}
    assert all(
        p.grad is None for layer in (model[0], model[2]) for p in (layer.U, layer.S, layer.V)
    )


def test_no_dense_tensor_is_made_in_a_step():
    torch.manual_seed(0)
    layer = LowRankLinear(orth(torch.randn(150, 2)), torch.eye(2), orth(torch.randn(140, 2)))
    options = DLRT_METHOD.resolve({"rank": 2, "max_rank": 2})
    optimizer = DLRT(layer.parameters(), layer, **options)
    x, largest = torch.randn(4, 140), []

    class Sizes(StorageTracker):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = super().__torch_dispatch__(func, types, args, kwargs)
            leaves = torch.utils._pytree.tree_leaves(result)
            largest.extend(leaf.numel() for leaf in leaves if isinstance(leaf, torch.Tensor))
            return result

    def closure():
        optimizer.zero_grad()
        layer(x).square().sum().backward()

    with Sizes():
        optimizer.step(closure)
    assert max(largest) <= 4 * 150  # twice the rank: [U | N]


def test_transient_bytes_are_those_of_augmented_bases_and_their_gradients():
    (m, n), options = (256, 512), {"integrator": "sgd", "rank": 8, "max_rank": 8}
    adaptive = DLRT_METHOD.transient_bytes((m, n), options=options)
    fixed = DLRT_METHOD.transient_bytes((m, n), options={**options, "rank_mode": "fixed"})
    # K's and L's gradients, their steps, and [U | N] with its Q: between 3 and 8 times the bases
    assert 3 * 4 * 8 * (m + n) < adaptive < 8 * 4 * 8 * (m + n)
    assert fixed < adaptive
    assert DLRT_METHOD.transient_bytes((m, n), options={**options, "rank_mode": "frozen"}) < fixed


@pytest.mark.parametrize("options", DLRT_METHOD.test_inputs, ids=str)
def test_under_fake_tensors_it_is_simulated_at_its_largest_rank(options):
    with FakeTensorMode():
        model = network(torch.float32)
        x, y = torch.empty(4, 10), torch.empty(4, 8)
        optimizer = make(model, **options)
        for _ in range(2):
            optimizer.step(closure_of(model, optimizer, x, y))
        factors = [p for layer in (model[0], model[2]) for p in layer.factors]
        predicted = [DLRT_METHOD.weight_bytes(s, options=options) for s in [(12, 10), (8, 12)]]
        size = sum(p.numel() * p.element_size() for p in factors)
        states = [optimizer.state.get(getattr(layer, name), {}) for layer in (model[0], model[2])
                  for name in FACTORS]  # fmt: skip
        kept = sum(v.numel() * v.element_size() for state in states for v in state.values())
    assert size == sum(predicted)
    expected = [DLRT_METHOD.state_bytes(s, options=options) for s in [(12, 10), (8, 12)]]
    assert kept == sum(expected)
