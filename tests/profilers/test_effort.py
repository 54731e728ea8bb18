"""What a level of detail spends, and what the passes' own memory leaves for gradients and bases."""

from __future__ import annotations

import pytest

from subopt.profilers.effort import EFFORTS
from subopt.profilers.method_table import BASELINE, MethodTable
from subopt.profilers.record.profile import MethodCost, Peak, PhasePeaks


@pytest.mark.parametrize(("passes_s", "budget_s"), [(0.5, 15.0), (20.0, 20.0), (900.0, 30.0)])
def test_timing_methods_takes_about_as_long_as_the_passes_did(passes_s, budget_s):
    assert EFFORTS["standard"].timing_budget_s(passes_s) == budget_s


@pytest.mark.parametrize(
    ("source", "expected"), [("simulated", 70), ("measured", 70), ("formula", None)]
)
def test_the_passes_peak_is_without_the_optimizers_state(source, expected):
    phases = PhasePeaks(forward=80, backward=100, step=500)
    peak = Peak(
        bytes=500, low_bytes=500, high_bytes=500, phase="step", by_phase=phases, source=source
    )
    row = MethodCost(
        method=BASELINE, state_bytes=30, transient_bytes=0, peak=peak, step_flops=0, bound_flops=0
    )
    table = MethodTable.__new__(MethodTable)
    table._rows = {BASELINE: row}
    assert table.passes_peak_bytes == expected
