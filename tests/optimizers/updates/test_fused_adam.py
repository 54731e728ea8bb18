"""Adam by torch's fused kernel: the same step as the formula, on every layout, dtype and learning rate."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from subopt.optimizers import METHODS
from subopt.optimizers.finite import finite_gradient
from subopt.optimizers.optimizer import Composed
from subopt.optimizers.updates import fused_adam
from subopt.optimizers.updates.averages import debiased

HYPER = {"betas": (0.9, 0.99), "eps": 1e-3, "lr": 0.1, "weight_decay": 0.2}


def noise(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def empty_state(shape, dtype=torch.float64):
    return {name: torch.zeros(shape, dtype=dtype) for name in ("exp_avg", "exp_avg_sq")}


def by_the_formula(W, gradients, hyper):
    """Kingma and Ba's two averages, corrected, and Loshchilov and Hutter's decay, element by element."""
    W, M, V = W.clone(), torch.zeros_like(W), torch.zeros_like(W)
    for t, G in enumerate(gradients, 1):
        M = hyper["betas"][0] * M + (1 - hyper["betas"][0]) * G
        V = hyper["betas"][1] * V + (1 - hyper["betas"][1]) * G**2
        step = M / (1 - hyper["betas"][0] ** t)
        step = step / ((V / (1 - hyper["betas"][1] ** t)).sqrt() + hyper["eps"])
        W = (1 - hyper["lr"] * hyper["weight_decay"]) * W - hyper["lr"] * step
    return W


@pytest.mark.parametrize(
    "lr", [0.1, torch.tensor(0.1, dtype=torch.float64)], ids=["number", "tensor"]
)
def test_twenty_steps_are_those_of_the_formula(lr):
    W, state = noise(7, 5), empty_state((7, 5))
    gradients = [noise(7, 5, seed=seed) for seed in range(1, 21)]
    expected = by_the_formula(W, gradients, HYPER)
    for t, G in enumerate(gradients, 1):
        assert fused_adam.descend(W, G, state, t, {**HYPER, "lr": lr})
    torch.testing.assert_close(W, expected, rtol=1e-12, atol=1e-12)


def test_its_averages_are_the_corrected_ones():
    state, value = empty_state((3, 4)), torch.zeros(3, 4, dtype=torch.float64)
    for t in range(1, 5):
        G = noise(3, 4, seed=t)
        value = torch.lerp(value, G, 1 - debiased(0.9, t))
        fused_adam.descend(torch.zeros(3, 4, dtype=torch.float64), G, state, t, HYPER)
    torch.testing.assert_close(state["exp_avg"], value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"W": noise(5, 7).mT},  # on a CPU the kernel would pair the wrong elements
        {"G": noise(5, 7).mT},
        {"G": noise(7, 5).to(torch.bfloat16)},
        {"W": noise(7, 5).to(torch.bfloat16)},
    ],
    ids=["strided W", "strided G", "bf16 G", "bf16 W"],
)
def test_what_the_kernel_cannot_take_is_left_alone(wrong):
    given = {"W": noise(7, 5), "G": noise(7, 5, seed=1)} | wrong
    state, before = empty_state((7, 5)), given["W"].clone()
    assert not fused_adam.descend(given["W"], given["G"], state, 1, HYPER)
    assert torch.equal(given["W"], before)
    assert not state["exp_avg"].any()


@pytest.mark.parametrize("layout", ["transposed", "channels last"])
def test_other_layouts_of_a_parameter_take_the_same_steps(layout):
    shape = (4, 6) if layout == "transposed" else (4, 3, 2, 2)
    start = noise(*shape)
    strided = start.mT.contiguous().mT if layout == "transposed" else start.to(
        memory_format=torch.channels_last
    )  # fmt: skip
    assert not strided.is_contiguous()
    ends = []
    for value in (start, strided):
        parameter = torch.nn.Parameter(value.clone())
        optimizer = Composed([parameter], 0.1, weight_decay=0.1)
        for seed in range(3):
            parameter.grad = noise(*shape, seed=seed)
            optimizer.step()
        ends.append(parameter.detach())
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-12, atol=1e-12)


def test_a_simulation_leaves_nothing_fake_behind():
    fused_adam._endless.cache_clear()
    with FakeTensorMode():
        W = torch.empty(3, 4)
        lr = torch.empty(()) * 2
        state = empty_state((3, 4), torch.float32)
        assert fused_adam.descend(W, torch.empty(3, 4), state, 2, {**HYPER, "lr": lr})
    real, state = noise(3, 4), empty_state((3, 4))
    assert fused_adam.descend(real, noise(3, 4, seed=1), state, 1, HYPER)
    assert type(real) is torch.Tensor


@pytest.mark.parametrize("name", METHODS)
def test_a_step_leaves_the_gradient_as_it_was(name):
    if "needs_closure" in METHODS[name].capabilities:
        pytest.skip("its closure makes the gradients")
    parameter = torch.nn.Parameter(noise(64, 96, dtype=torch.float32))
    optimizer = Composed([parameter], 1e-2, maximize=True, **METHODS[name].resolve())
    for seed in range(3):
        given = noise(64, 96, seed=seed, dtype=torch.float32)
        parameter.grad = given.clone()
        optimizer.step()
        assert torch.equal(parameter.grad, given)


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1e15, 1e18, 1e20, float("inf"), float("nan")])
def test_one_look_and_a_closer_one_agree_on_what_is_usable(size):
    G = torch.ones(16, 16)
    G[3, 5] = size
    strided = G.mT.contiguous().mT  # no sum of squares over its memory: the closer look
    looks = [finite_gradient(x, torch.float32) for x in (G, strided)]
    assert (
        bool(looks[0][1])
        == bool(looks[1][1])
        == bool(abs(size) < (torch.finfo(torch.float32).max / 256) ** 0.5)
    )
    assert torch.equal(looks[0][0], looks[1][0])


def test_a_gradient_of_a_sum_shares_one_number_and_is_left_alone():
    shared = torch.tensor(float("nan")).expand(3, 4)
    gradient, finite, usable = finite_gradient(shared, torch.float32)
    assert not gradient.any()
    assert not finite
    assert not usable
