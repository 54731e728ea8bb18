"""The fit of the rates: a power law through the best ones, moved to where being off costs least."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def fit(monkeypatch: pytest.MonkeyPatch):
    """Return the script as a module."""
    monkeypatch.syspath_prepend(FOLDER)
    for name in [name for name in sys.modules if name.partition(".")[0] in {"advice", "common"}]:
        monkeypatch.delitem(sys.modules, name)
    import fit_rates

    return fit_rates


def curve(fit, slope_below, slope_above, *, best=1e-2, task="table"):
    """Losses that are 1 at the best rate and grow by these slopes, as log loss by decade, to either side."""
    losses = {
        best * 10**step: math.exp(max(-slope_below * step, slope_above * step))
        for step in (-1, -0.5, 0, 0.5, 1)
    }
    return fit.Curve(task, "soap", fit.Setting(256, 1000), losses, untrained=math.e**4)


def test_regret_follows_the_curve_and_what_was_not_tried_is_worse(fit):
    found = curve(fit, 1.0, 2.0)
    assert found.regret(-2) == pytest.approx(0)
    assert found.regret(-2.25) == pytest.approx(0.25)
    assert found.regret(-1.5) == pytest.approx(1.0)
    assert found.regret(-4) == pytest.approx(2.0)  # beyond, the last slope goes on
    assert found.regret(9) == pytest.approx(4.0)  # no more than nothing is lost


def law(fit, curves):
    points = [fit.Point(str(one), "soap", fit.Setting(256, 1000), -2.0, 50.0) for one in range(9)]
    return fit.Law(points, curves)


def test_the_constant_moves_to_where_being_off_costs_least(fit):
    setting = fit.Setting(256, 1000)
    wide = [curve(fit, 3.0, 0.5, best=best) for best in (3e-3, 1e-2, 3e-2)]
    assert law(fit, []).chosen("soap", setting) == pytest.approx(-2, abs=0.05)
    too_low_costs = law(fit, wide).chosen("soap", setting)
    assert too_low_costs == pytest.approx(math.log10(3e-2), abs=0.1)
    wide = [curve(fit, 0.5, 3.0, best=best) for best in (3e-3, 1e-2, 3e-2)]
    assert law(fit, wide).chosen("soap", setting) == pytest.approx(math.log10(3e-3), abs=0.1)


def test_a_method_without_curves_moves_as_all_do(fit):
    found = law(fit, [curve(fit, 3.0, 0.5, best=best) for best in (1e-2, 3e-2)])
    assert found.moves["soap"] == found.moves["sketchy"] > 0
