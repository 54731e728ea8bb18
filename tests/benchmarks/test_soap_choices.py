"""The SOAP study's bookkeeping: what its plan compares, and what its report says of rows that are in."""

import sys
from pathlib import Path

import pytest

from subopt.optimizers import METHODS

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    """Return the script as a module; it finds its neighbours as it does when it is run."""
    monkeypatch.syspath_prepend(FOLDER)
    for name in ("common.conditions", "common.sweep", "bench_soap_choices"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import bench_soap_choices

    return bench_soap_choices


def row(run, loss):
    """A result as the sweep writes it."""
    return {
        **{name: getattr(run, name) for name in ("method", "lr", "seed", "steps", "options")},
        "resolved": run.resolved(),
        "held_out_loss": loss,
        "step_ms": 12.5,
    }


def measured(bench):
    """Every run of the plan: seed 1 is 0.01 worse than seed 0, no skipped step 0.5 worse than the base."""
    rows = []
    while waiting := bench.left(rows):
        run = waiting[0]
        unskipped = run.options.get("skip_first") is False
        rows.append(row(run, 2.0 + abs(run.lr - 1e-2) + 0.01 * run.seed + 0.5 * unskipped))
    return rows


def test_each_row_changes_options_of_the_base_and_nothing_else(bench):
    for change, _ in bench.CHANGES:
        assert set(change) <= set(bench.BASE) <= set(METHODS["soap"].tunable)
        assert all(bench.BASE[name] != value for name, value in change.items())
        METHODS["soap"].resolve(bench.BASE | change)
    assert len({str(change) for change, _ in bench.CHANGES}) == len(bench.CHANGES)


def test_the_table_waits_for_the_learning_rates_and_takes_the_best(bench):
    assert bench.best_rate("soap", []) is None
    assert len(bench.left([])) == sum(map(len, bench.LEARNING_RATES.values()))
    rows = measured(bench)
    assert bench.best_rate("soap", rows) == 1e-2
    assert {row["lr"] for row in rows if row["seed"] == 1} == {1e-2}
    assert bench.left(rows) == []


def test_the_report_compares_with_the_base_seed_by_seed(bench):
    report = bench.render(measured(bench))
    assert "| base | the authors' code | 2.000 / 2.010 | 2.005 | +0.000 / +0.000 | 12.5 |" in report
    assert (
        "| `skip_first: False` | no skipped step | 2.500 / 2.510 | 2.505 | +0.500 / +0.500 |"
        in report
    )
    assert "difference between two seeds of one row is 0.010 nat" in report
