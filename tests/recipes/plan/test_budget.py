"""What a budget leaves, and what fits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subopt.errors import UsageError
from subopt.profilers.memory.device_overhead import UNKNOWN_GPU
from subopt.recipes.plan.budget import (
    Fit,
    fit,
    read_budget,
    smallest_budget,
)

GIB = 2**30


def test_cuda_pays_context_and_reserve():
    budget = read_budget(24 * GIB)
    assert budget.context_bytes == UNKNOWN_GPU.context_bytes
    assert budget.reserve_bytes == int(
        (24 * GIB - UNKNOWN_GPU.context_bytes) * UNKNOWN_GPU.reserve_share
    )
    assert budget.usable_bytes == 24 * GIB - budget.context_bytes - budget.reserve_bytes
    assert 21 * GIB < budget.usable_bytes < 22 * GIB


def test_cpu_pays_neither():
    assert read_budget(3 * GIB, "cpu").usable_bytes == 3 * GIB


def test_less_than_the_context_leaves_nothing():
    assert read_budget(UNKNOWN_GPU.context_bytes // 2).usable_bytes == 0


@pytest.mark.parametrize("total", [0, -1])
def test_no_budget_is_an_error(total):
    with pytest.raises(UsageError, match="leaves nothing"):
        read_budget(total)


@pytest.mark.parametrize(
    ("low", "high", "fits"),
    [
        (90, 100, Fit.YES),
        (90, 101, Fit.MAYBE),
        (100, 120, Fit.MAYBE),
        (101, 120, Fit.NO),
        (90, None, Fit.MAYBE),
        (101, None, Fit.NO),
    ],
)
def test_fit_of_an_interval(low, high, fits):
    assert fit(low, high, 100) is fits


@given(peak=st.integers(4, 10**13), device=st.sampled_from(["cuda", "cpu"]))
def test_smallest_budget_is_enough_and_no_more(peak, device):
    needed = smallest_budget(peak, device)
    assert read_budget(needed, device).usable_bytes >= peak
    assert read_budget(needed - 3, device).usable_bytes < peak


@given(total=st.integers(1, 10**13), more=st.integers(0, 10**12))
def test_more_memory_is_never_less_usable(total, more):
    assert read_budget(total + more).usable_bytes >= read_budget(total).usable_bytes
