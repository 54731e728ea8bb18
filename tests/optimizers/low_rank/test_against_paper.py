"""DLRT against its paper, and in its limit cases."""

import copy
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from subopt.optimizers.low_rank.convert import ranks

from .problem import FULL, batch, closure_of, make, network, train, weights

_spec = importlib.util.spec_from_file_location(
    "reference_dlrt", Path(__file__).parents[2] / "reference" / "dlrt.py"
)
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

INTEGRATORS = {
    "sgd": reference.Sgd,
    "momentum": reference.UnifiedMomentum,
    "adam": reference.Adam,
}


@pytest.mark.parametrize("mode", ["adaptive", "fixed"])
@pytest.mark.parametrize("integrator", INTEGRATORS)
@pytest.mark.parametrize(("rank", "tau"), [(2, 0.03), (6, 0.25)], ids=["grows", "shrinks"])
def test_trajectories_are_the_references(integrator, mode, rank, tau):
    x, y = batch()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 8, bias=False, dtype=torch.float64), nn.Tanh())
    lr = 0.05 if integrator == "adam" else 0.5
    optimizer = make(
        model, lr, ["0.weight"], integrator=integrator, rank_mode=mode, rank=rank, tau=tau,
        max_rank=7, **({"nesterov_weight": 0.7} if integrator == "momentum" else {}),
    )  # fmt: skip

    def gradient(W):
        out = np.tanh(x.numpy() @ W.T)
        return (2 / out.size * (out - y.numpy()) * (1 - out**2)).T @ x.numpy()

    start = [factor.numpy().copy() for factor in model[0].factors]
    expected = reference.Dlrt(*start, INTEGRATORS[integrator], lr, mode == "adaptive", tau, 7)
    seen = set()
    for _ in range(12):
        train(model, optimizer, 1, x, y)
        expected.step(gradient)
        seen.add(model[0].rank)
        assert model[0].rank == len(expected.S)
        np.testing.assert_allclose(model[0].weight, expected.W, rtol=1e-9, atol=1e-9)
    assert (len(seen) > 1) == (mode == "adaptive")
    if mode == "adaptive":
        assert (max(seen) > rank) if rank == 2 else (min(seen) < rank)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_augmented_at_full_rank_with_sgd_and_tau_0_it_is_dense_sgd(decay):
    x, y = batch()
    dense, model = network(), network()
    plain = torch.optim.SGD(dense.parameters(), 0.3)
    optimizer = make(model, 0.3, **FULL, integrator="sgd", weight_decay=decay)
    for _ in range(8):
        plain.zero_grad()
        (dense(x) - y).square().mean().backward()
        with torch.no_grad():
            for parameter in dense.parameters():
                parameter.mul_(1 - 0.3 * decay)
        plain.step()
        train(model, optimizer, 1)
    assert ranks(model) == {"0": 10, "2": 8}
    for left, right in zip(weights(model), dense.state_dict().values(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10)


def test_a_convolution_at_full_rank_with_sgd_is_dense_sgd_too():
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Tanh()).double()
    model, x = copy.deepcopy(dense), torch.randn(4, 3, 7, 7).double()
    y = torch.randn(4, 8, 4, 4).double()
    plain = torch.optim.SGD(dense.parameters(), 0.3)
    optimizer = make(model, 0.3, ["0.weight"], **FULL, integrator="sgd")
    for _ in range(4):
        plain.zero_grad()
        (dense(x) - y).square().mean().backward()
        plain.step()
        train(model, optimizer, 1, x, y)
    for left, right in zip(weights(model), dense.state_dict().values(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("mode", ["adaptive", "fixed"])
def test_it_converges_to_its_fine_step_limit_at_order_1(mode):
    """The explicit Euler integrator: halving the step halves the error, whatever the singular values."""

    def after(steps, time=1.0):
        model = network()
        # an adaptive rank that may not change: what is cut is the limit's doing, not tau's
        options = {"rank": 3, "max_rank": 3, "tau": 0.0, "integrator": "sgd", "rank_mode": mode}
        train(model, make(model, time / steps, **options), steps)
        return torch.cat([value.flatten() for value in weights(model)])

    coarse, half, quarter, fine = (after(steps) for steps in (8, 16, 32, 256))
    errors = [torch.linalg.vector_norm(value - fine) for value in (coarse, half, quarter)]
    # against a limit of its own step h/32: (1 - 1/32) / (1/2 - 1/32) = 2.07, then 2.14
    assert 1.8 < errors[0] / errors[1] < 2.4
    assert 1.8 < errors[1] / errors[2] < 2.4


@pytest.mark.parametrize("nesterov", [False, True])
def test_s_fine_tuning_is_torchs_momentum_under_a_schedule(nesterov):
    x, y = batch()
    model = network()
    optimizer = make(
        model, 0.3, rank=4, rank_mode="frozen", integrator="momentum", nesterov_weight=float(nesterov),
        rest={"moments": "sgd"}, weight_decay=0.0,
    )  # fmt: skip
    twin = copy.deepcopy(model)
    for layer in (twin[0], twin[2]):
        layer.U.requires_grad_(False)
        layer.V.requires_grad_(False)
    cores = [twin[0].S, twin[2].S]
    plain = torch.optim.SGD(
        [{"params": cores, "momentum": 0.9, "nesterov": nesterov}, {"params": [twin[0].bias]}], 0.3
    )
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(each, lambda t: (1.0, 0.4, 2.0)[t % 3])
        for each in (optimizer, plain)
    ]
    bases = [model[0].U.detach().clone(), model[2].V.detach().clone()]
    for _ in range(9):
        train(model, optimizer, 1)
        plain.zero_grad()
        (twin(x) - y).square().mean().backward()
        plain.step()
        for schedule in schedules:
            schedule.step()
    for left, right in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)
    assert torch.equal(bases[0], model[0].U)
    assert torch.equal(bases[1], model[2].V)


def test_a_step_sees_one_point_twice_and_one_evaluation_is_enough_for_the_core():
    x, y = batch()
    for mode, evaluations in (("adaptive", 2), ("fixed", 2), ("frozen", 1)):
        model, seen = network(), []
        optimizer = make(model, rank=3, rank_mode=mode)
        q = model[0].rank
        optimizer.step(closure_of(model, optimizer, x, y, seen))
        assert len(seen) == evaluations
        a = 2 * q if mode == "adaptive" else q
        assert seen[-1]["0.S"].shape == (a, min(a, 10))
        if evaluations == 2:
            assert {name for name in seen[0] if name.startswith("0")} == {"0.U", "0.V", "0.bias"}
            assert seen[0]["0.U"].shape == (12, q)
            if mode == "adaptive":
                torch.testing.assert_close(seen[0]["0.bias"], seen[1]["0.bias"])


def test_momentum_turns_the_bases_as_fast_at_an_adaptive_rank_as_at_a_fixed_one():
    """Guards `augmented_moments`: without K's and L's moments the S-step would move them by plain gradient descent."""
    final = {}
    for mode in ("adaptive", "fixed"):
        model = network()
        optimizer = make(
            model, 0.1, rank=3, max_rank=3, rank_mode=mode, integrator="momentum", tau=0.0
        )
        final[mode] = train(model, optimizer, 40)[-1]
    assert abs(final["adaptive"] - final["fixed"]) < 0.02 * final["fixed"]
