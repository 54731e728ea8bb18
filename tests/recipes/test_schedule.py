"""The learning rate over a run."""

import math

import pytest
import torch

from subopt.recipes.schedule import LrSchedule, lr_factor
from subopt.recipes.schema import Schedule


def factors(**keys):
    schedule = Schedule(**keys)
    return [lr_factor(schedule, step) for step in range(schedule.steps)]


def test_constant_with_warm_up_rises_in_equal_steps_and_stays():
    assert factors(name="constant", warmup_steps=4, steps=6) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_linear_ends_exactly_at_the_final_share():
    assert factors(name="linear", steps=5, final_ratio=0.2) == pytest.approx([
        1,
        0.8,
        0.6,
        0.4,
        0.2,
    ])


def test_cosine_is_half_a_wave_between_peak_and_final_share():
    found = factors(name="cosine", warmup_steps=1, steps=10, final_ratio=0.1)
    expected = [1] + [0.1 + 0.45 * (1 + math.cos(math.pi * k / 8)) for k in range(9)]
    assert found == pytest.approx(expected)
    assert found[-1] == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
@pytest.mark.parametrize(("warmup", "steps"), [(0, 1), (1, 2), (9, 10), (3, 50)])
def test_no_step_is_wasted_and_none_is_above_the_peak(name, warmup, steps):
    found = factors(name=name, warmup_steps=warmup, steps=steps, final_ratio=0.1)
    assert all(0 < factor <= 1 for factor in found)
    decay = found[warmup:]
    assert decay == sorted(decay, reverse=True)
    assert decay[0] == 1


def test_it_stays_at_the_end_past_the_end():
    schedule = Schedule(name="cosine", steps=5, final_ratio=0.25)
    assert lr_factor(schedule, 400) == pytest.approx(0.25)


def test_every_group_moves_relative_to_its_own_peak():
    parameters = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    groups = [{"params": [parameters[0]], "lr": 0.5}, {"params": [parameters[1]], "lr": 0.1}]
    optimizer = torch.optim.SGD(groups)
    schedule = LrSchedule(Schedule(name="linear", steps=5, final_ratio=0.0), optimizer)
    assert schedule.set_for(3) == pytest.approx(0.25)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.125, 0.025])
    # the peak is remembered, not compounded
    schedule.set_for(0)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.5, 0.1])
