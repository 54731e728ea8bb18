"""The papers' comparison: its plan, and what its report may claim."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from subopt.optimizers import get_method

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the script as a module; it finds its neighbours as it does when it is run."""
    monkeypatch.syspath_prepend(FOLDER)
    for name in ("common.conditions", "common.sweep", "render.tiny_llama", "bench_tiny_llama"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in ("render.paper_methods", "bench_paper_methods"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import bench_paper_methods

    return bench_paper_methods


def row(run, loss, state=2**20):
    return {
        "problem": run.problem,
        "method": run.method,
        "options": run.options,
        "resolved": run.resolved(),
        "lr": run.lr,
        "seed": run.seed,
        "steps": run.steps,
        "steps_done": run.steps if loss is not None else 3,
        "held_out_loss": loss,
        "train_loss": loss,
        "wall_seconds": 50.0,
        "step_ms": 1.0,
        "max_step_ms": 2.0,
        "state_bytes": state,
        "weight_bytes": 2**20,
        "load_average": 0.5,
        "conditions": {"cpu": "a cpu", "threads": 1, "source": "abc"},
    }


def test_every_run_of_the_plan_is_valid_and_planned_once(bench):
    runs = [run for _, run in bench.plan([], ["autoencoder", "llama"])]
    assert all(run.resolved() for run in runs)
    keys = {(run.problem, run.method, run.lr, str(run.options)) for run in runs}
    assert len(keys) == len(runs)
    thresholds = {run.options["tau"] for run in runs if run.method == "dlrt"}
    assert len(thresholds) == 3


def test_a_second_seed_waits_for_all_rates_and_repeats_the_best(bench):
    adam = bench.CONTENDERS[0]
    runs = adam.runs("autoencoder")
    rows = [row(run, 0.3 + 0.01 * i) for i, run in enumerate(runs[:-1])]
    assert bench.second_seed(adam, "autoencoder", rows) is None
    rows.append(row(runs[-1], None))
    again = bench.second_seed(adam, "autoencoder", rows)
    assert (again.lr, again.seed, again.problem) == (runs[0].lr, 1, "autoencoder")


def report(bench, losses):
    """Render a report in which each contender has these first- and second-seed losses, milliseconds and state."""
    rows = []
    for contender in bench.CONTENDERS:
        if contender.label in losses:
            first, second, _, state = losses[contender.label]
            run = contender.runs("autoencoder")[0]
            rows += [row(each, first, state) for each in contender.runs("autoencoder")]
            again = bench.Run(run.method, run.lr, 1, run.options, run.steps, "autoencoder")
            rows.append(row(again, second, state))
    ms = {label: values[2] for label, values in losses.items()}
    return bench.render(bench.entries(rows), {"autoencoder": ms})


def test_ratios_and_claims_come_from_the_rows(bench):
    text = report(
        bench,
        {
            "Adam": (0.30, 0.31, 40.0, 2**20),
            "shared basis, k = 32": (0.25, 0.26, 60.0, 2**20),
            "Shampoo, large blocks": (0.305, 0.30, 180.0, 3 * 2**20),
        },
    )
    assert "Below Adam by more than that: shared basis, k = 32." in text
    assert "Not told apart from Adam: Shampoo, large blocks." in text
    assert "Shampoo takes 3.00 times its time" in text
    assert "optimizer state 3.00 times less" in text
    assert (
        "| Shampoo, large blocks | 0.001 | 0.305 / 0.300 | 0.3025 | 180 | 54 | 4.50 | 3.00 | 1.00 | 2.00 |"
        in text
    )


def test_without_second_seeds_nothing_is_claimed(bench):
    adam = bench.CONTENDERS[0]
    rows = [row(run, 0.3) for run in adam.runs("autoencoder")]
    assert "Too little is measured yet" in bench.render(bench.entries(rows), {})
    assert "Nothing is measured yet." in bench.render(bench.entries([]), {})


def test_a_refresh_keeps_its_share_of_a_period_and_a_slow_minute_does_not(bench):
    times = [10.0] * 30
    times[0] = times[10] = times[20] = 110.0
    assert bench.mean_over_a_period(times) == 20.0
    times[5] = 9_999.0
    assert bench.mean_over_a_period(times) == 20.0


def test_dlrt_is_driven_through_its_closure(bench):
    assert "needs_closure" in get_method("dlrt").capabilities
