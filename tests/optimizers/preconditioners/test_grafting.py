"""One method's direction at another's length: every kind of graft, its state, and what momentum adds."""

import pytest
import torch

from subopt.optimizers import Composed
from subopt.optimizers.flops import Flops
from subopt.optimizers.preconditioners.grafting import (
    GRAFTS,
    GraftedOptions,
    at_length,
    graft_step,
    grafted,
)
from subopt.optimizers.preconditioners.preconditioned import Preconditioned

KINDS = [kind for kind in GRAFTS if kind != "none"]
SHAPE = (4, 7)


class Mirror:
    """A preconditioner that turns G around, twice as long, and counts what it is asked for."""

    def __init__(self):
        self.accumulated, self.preconditioned = [], []

    def layout(self, shape, options):
        return {}

    def flops(self, shape, options):
        return Flops(1.0, 2.0, 3.0)

    def accumulate(self, G, state, t, hyper):
        self.accumulated.append(t)

    def precondition(self, G, state, t, hyper):
        self.preconditioned.append(t)
        return -2 * G


def mirror():
    return Preconditioned(name="mirror", options=GraftedOptions, preconditioner=Mirror())


def hyper_of(**options):
    general = {"graft": "rmsprop", "betas": (0.0, 0.9), "start_step": 1}
    return {**general, **options}


def run(rule, gradients, **options):
    """Return the steps a rule takes, in float64."""
    hyper = hyper_of(**options)
    state = {
        name: torch.zeros(slot.shape, dtype=torch.float64)
        for name, slot in rule.slots(SHAPE, hyper).items()
    }
    return [rule.step(G, state, t, hyper).clone() for t, G in enumerate(gradients, start=1)]


def gradients(count=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(count)]


def own_steps(kind, sequence):
    """Return the steps of the grafted method itself, written out."""
    steps, V = [], 0
    for t, G in enumerate(sequence, start=1):
        if kind == "sgd":
            steps.append(G)
            continue
        g = G / G.norm() if kind == "rmsprop-normalized" else G
        V = 0.9 * V + 0.1 * g**2
        steps.append(g / ((V / (1 - 0.9**t)).sqrt() + 1e-10))
    return steps


@pytest.mark.parametrize("kind", KINDS)
def test_before_the_start_step_the_grafted_method_runs_alone(kind):
    rule, sequence = mirror(), gradients()
    steps = run(rule, sequence, graft=kind, start_step=6)
    for step, expected in zip(steps, own_steps(kind, sequence), strict=True):
        torch.testing.assert_close(step, expected, rtol=1e-12, atol=1e-12)
    assert rule.preconditioner.accumulated == [1, 2, 3, 4, 5]
    assert rule.preconditioner.preconditioned == []


@pytest.mark.parametrize("kind", KINDS)
def test_from_the_start_step_on_the_direction_has_the_grafts_length(kind):
    rule, sequence = mirror(), gradients()
    steps = run(rule, sequence, graft=kind, start_step=3)
    assert rule.preconditioner.preconditioned == [3, 4, 5]
    for G, step, own in zip(sequence[2:], steps[2:], own_steps(kind, sequence)[2:], strict=True):
        torch.testing.assert_close(step, -G / G.norm() * own.norm(), rtol=1e-12, atol=1e-12)


def test_without_a_graft_the_direction_is_the_step_from_the_first_on():
    sequence = gradients()
    steps = run(mirror(), sequence, graft="none", start_step=100)
    assert all(torch.equal(step, -2 * G) for step, G in zip(steps, sequence, strict=True))


def test_momentum_is_the_bias_corrected_average_of_grafted_steps():
    rule, sequence = mirror(), gradients()
    plain = run(rule, sequence, graft="rmsprop-normalized", start_step=3)
    averaged = run(rule, sequence, graft="rmsprop-normalized", start_step=3, betas=(0.8, 0.9))
    weights = torch.tensor([0.8 ** (5 - s) for s in range(1, 6)], dtype=torch.float64)
    expected = (weights[:, None, None] * torch.stack(plain)).sum(0) / weights.sum()
    torch.testing.assert_close(averaged[-1], expected, rtol=1e-12, atol=1e-12)


def test_the_normalised_graft_forgets_the_scale_of_every_single_gradient():
    sequence = gradients()
    rescaled = [G * 10.0**power for G, power in zip(sequence, (3, -20, 0, 12, -7), strict=True)]
    rule = mirror()
    steps, others = (run(rule, s, graft="rmsprop-normalized") for s in (sequence, rescaled))
    for step, other in zip(steps, others, strict=True):
        torch.testing.assert_close(step, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", GRAFTS)
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.999)])
def test_only_what_is_used_is_kept(kind, betas):
    layout = mirror().slots((4, 7), hyper_of(graft=kind, betas=betas))
    expected = {"graft_sq"} if kind.startswith("rmsprop") else set()
    expected |= {"exp_avg"} if betas[0] else set()
    assert set(layout) == expected
    assert all((slot.shape, slot.slot_type) == ((4, 7), "moment") for slot in layout.values())


def test_work_is_the_preconditioners_the_grafts_and_momentum():
    rule = mirror()
    assert rule.work((4, 7), hyper_of(graft="none")) == Flops(1.0, 2.0, 3.0)
    with_sgd = rule.work((4, 7), hyper_of(graft="sgd", betas=(0.9, 0.9)))
    assert with_sgd == Flops(1.0 + 5 * 28 + 3 * 28, 2.0, 3.0)


@pytest.mark.parametrize("size", [1e-38, 1e-20, 1.0, 1e18, 1e30])
def test_lengths_survive_squares_that_float32_cannot_hold(size):
    direction = torch.tensor([[3.0, -4.0], [0.0, 12.0]]) * size
    result = at_length(direction, 2.0)
    expected = 2.0 * torch.tensor([[3.0, -4.0], [0.0, 12.0]]) / 13.0
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=0)


def test_a_zero_direction_and_a_zero_graft_stay_zero():
    zero, some = torch.zeros(3, 4), torch.ones(3, 4)
    assert torch.equal(grafted(zero, some), zero)
    assert torch.equal(grafted(some, zero), zero)
    for kind in KINDS:
        state = {"graft_sq": torch.zeros(3, 4)}
        assert torch.equal(graft_step(zero, state, 1, hyper_of(graft=kind)), zero)


@pytest.mark.parametrize("state_dtype", ["bf16", "fp32"])
def test_grafted_squares_are_kept_in_the_state_dtype(state_dtype):
    parameter = torch.nn.Parameter(torch.ones(4, 7))
    optimizer = Composed([parameter], 1e-2, update="shampoo", state_dtype=state_dtype)
    parameter.grad = torch.randn(4, 7)
    optimizer.step()
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[state_dtype]
    assert optimizer.state[parameter]["graft_sq"].dtype == dtype
    assert optimizer.state[parameter]["exp_avg"].dtype == dtype
