"""Ranks that follow the loss, and evaluations of one point, seen twice."""

import copy

import pytest
import torch
from torch import nn

from subopt.optimizers.low_rank.convert import ranks
from subopt.optimizers.low_rank.integrator import orth

from .problem import FULL, batch, closure_of, make, network, train, weights


def target_of_rank(rank, start):
    """Inputs and outputs of a linear map of this rank, and a layer to fit it, starting at rank `start`."""
    torch.manual_seed(0)
    x = torch.randn(64, 12).double()
    W = 2 * orth(torch.randn(10, rank).double()) @ orth(torch.randn(12, rank).double()).mT
    model = nn.Sequential(nn.Linear(12, 10, bias=False).double())
    optimizer = make(model, 1.0, ["0.weight"], integrator="sgd", rank=start, max_rank=1.0, tau=0.02)
    return model, optimizer, x, x @ W.mT


@pytest.mark.parametrize(("rank", "start"), [(2, 8), (5, 1)], ids=["down", "up"])
def test_the_rank_finds_that_of_the_target(rank, start):
    model, optimizer, x, y = target_of_rank(rank, start)
    losses = train(model, optimizer, 60, x, y)
    assert model[0].rank == rank
    assert losses[-1] < 1e-3 * losses[0]


def test_the_rank_may_double_in_a_step_and_stops_at_its_limit():
    for limit, expected in ((1.0, 4), (3, 3)):
        model = network()
        optimizer = make(model, 0.5, rank=2, max_rank=limit, tau=0.0, integrator="sgd")
        train(model, optimizer, 1)
        assert ranks(model) == {"0": expected, "2": expected}


def test_a_zero_gradient_changes_neither_weights_nor_ranks():
    model = network()
    optimizer = make(model, rank=3, max_rank=1.0, tau=0.0, integrator="sgd")
    before = weights(model)

    def closure():
        optimizer.zero_grad()
        (0 * model(batch()[0]).sum()).backward()

    optimizer.step(closure)
    assert ranks(model) == {"0": 3, "2": 3}
    for left, right in zip(before, weights(model), strict=True):
        torch.testing.assert_close(left, right)


def test_bases_stay_orthonormal_and_s_diagonal():
    model = network()
    optimizer = make(model, 0.3, rank=4, integrator="momentum")
    train(model, optimizer, 50)
    for layer in (model[0], model[2]):
        for basis in (layer.U, layer.V):
            identity = torch.eye(layer.rank).double()
            torch.testing.assert_close((basis.mT @ basis).detach(), identity, rtol=0, atol=1e-13)
        S = layer.S.detach()
        assert torch.equal(S, torch.diag(S.diagonal()))
        assert (S.diagonal().diff() <= 0).all()
    found = optimizer.diagnostics()
    assert found["max_orthonormality_error"] < 1e-12
    assert (found["min_rank"], found["mean_rank"], found["max_rank"]) == (4, 4, 4)


def test_only_the_cores_train_once_the_ranks_have_settled():
    x, y = batch()
    model, seen = network(), []
    optimizer = make(model, rank=3, max_rank=3, settle_steps=4)
    for _ in range(4):
        optimizer.step(closure_of(model, optimizer, x, y, seen))
    assert len(seen) == 8
    bases = model[0].U.detach().clone()
    assert optimizer.state[model[0].U]
    core = optimizer.state[model[0].S]["exp_avg"].clone()
    for _ in range(3):
        optimizer.step(closure_of(model, optimizer, x, y, seen))
    assert len(seen) == 11
    assert torch.equal(model[0].U, bases)
    assert not optimizer.state.get(model[0].U)
    assert not optimizer.state.get(model[0].V)
    assert not torch.equal(optimizer.state[model[0].S]["exp_avg"], core)
    before = float((model(x) - y).square().mean().detach())
    assert train(model, optimizer, 20)[-1] < before
    optimizer.param_groups[0]["settle_steps"] = 0  # and back, if the user says so
    train(model, optimizer, 1)
    assert not torch.equal(model[0].U, bases)


def test_a_rank_that_changes_starts_the_count_anew():
    model, optimizer, x, y = target_of_rank(5, 1)
    optimizer.param_groups[0]["settle_steps"] = 3
    seen, evaluations = [model[0].rank], []
    for _ in range(20):
        optimizer.step(closure_of(model, optimizer, x, y, evaluations))
        seen.append(model[0].rank)
    last = max(t for t in range(1, 21) if seen[t] != seen[t - 1])
    assert 1 < last < 17
    assert len(evaluations) == 20 + last + 3
    assert int(optimizer.state[model[0].S]["unchanged_steps"]) == 3
    assert int(optimizer.state[model[0].S]["step"]) == 20


def test_dropout_draws_the_same_masks_and_the_generator_moves_on_once():
    model = nn.Sequential(nn.Linear(10, 8), nn.Dropout(0.5))
    optimizer, masks = make(model, names=["0.weight"], rank=2), []
    model[1].register_forward_hook(lambda _, inputs, output: masks.append(output == 0))

    def closure():
        optimizer.zero_grad()
        loss = model(batch(torch.float32)[0]).square().sum()
        loss.backward()
        return loss

    torch.manual_seed(3)
    optimizer.step(closure)
    after = torch.rand(1)
    assert torch.equal(masks[0], masks[1])
    torch.manual_seed(3)
    model(batch(torch.float32)[0])
    assert torch.equal(torch.rand(1), after)
    optimizer.step(closure)
    assert not torch.equal(masks[0], masks[3])


def test_batch_statistics_are_updated_once_by_what_the_step_began_with():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 8), nn.BatchNorm1d(8)).double()
    twin, x = copy.deepcopy(model), batch()[0]
    optimizer = make(model, names=["0.weight"], **FULL)
    buffer = model[1].running_mean
    train(model, optimizer, 1, x, batch()[1])
    twin(x)
    assert model[1].running_mean is buffer
    assert int(model[1].num_batches_tracked) == 1
    torch.testing.assert_close(model[1].running_mean, twin[1].running_mean)
    torch.testing.assert_close(model[1].running_var, twin[1].running_var)


def test_buffers_that_a_model_replaces_come_back_too():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(10, 8)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls = self.calls + 1
            return self.layer(x)

    model = Counting()
    optimizer = make(model, names=["layer.weight"], rank=2)
    train(model, optimizer, 3, *batch(torch.float32))
    assert model.calls == 3


@pytest.mark.gpu
def test_dropout_draws_the_same_masks_on_cuda():
    model = nn.Sequential(nn.Linear(10, 8), nn.Dropout(0.5)).cuda()
    optimizer, masks = make(model, names=["0.weight"], rank=2), []
    model[1].register_forward_hook(lambda _, inputs, output: masks.append(output == 0))
    x, y = batch(torch.float32)
    optimizer.step(closure_of(model, optimizer, x.cuda(), y.cuda()))
    assert torch.equal(masks[0], masks[1])
