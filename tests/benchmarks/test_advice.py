"""The check of the advice: how rates are searched, and what the report may say."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the script as a module; it finds its neighbours as it does when it is run."""
    monkeypatch.syspath_prepend(FOLDER)
    for name in (
        "common.conditions",
        "common.sweep",
        "render.tiny_llama",
        "render.advice",
        "bench_advice",
    ):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import bench_advice

    return bench_advice


def walk(bench, loss):
    losses = dict.fromkeys(bench.LADDER)
    while (lr := bench.next_rate(losses)) is not None:
        losses[lr] = loss(lr)
    return losses


@pytest.mark.parametrize("best", [1e-5, 3e-4, 1e-3, 3e-2, 1.0])
def test_the_search_walks_to_the_best_rate_and_tries_both_its_neighbours(bench, best):
    losses = walk(bench, lambda lr: abs(math.log10(lr) - math.log10(best)))
    assert bench.best_rate(losses) == best
    at = bench.LADDER.index(best)
    around = bench.LADDER[max(at - 1, 0) : at + 2]
    assert all(losses[lr] is not None for lr in around)


def test_a_search_that_diverges_goes_down_and_one_that_always_does_has_no_best_rate(bench):
    losses = walk(bench, lambda lr: math.inf if lr > 1e-4 else 1.0 + lr)
    assert bench.best_rate(losses) == 1e-5
    assert losses[3e-3] is None
    assert bench.best_rate(walk(bench, lambda lr: math.inf)) is None


def test_a_method_gets_the_steps_that_fit_into_the_same_seconds(bench):
    pace_ms = {"llama": {"adamw": 100.0, "soap": 250.0}}
    horizon_ms = 1e3 * bench.HORIZON_S["llama"]
    assert bench.steps_of(pace_ms, "llama", "adamw") == int(horizon_ms / 100)
    assert bench.steps_of(pace_ms, "llama", "soap") == int(horizon_ms / 250)


def row(method, lr, loss, seed=0):
    return {
        "problem": "p",
        "method": method,
        "lr": lr,
        "seed": seed,
        "steps": 9,
        "held_out_loss": loss,
    }


def test_the_report_ranks_by_the_first_seed_and_says_how_far_behind_the_best_a_choice_is(bench):
    rows = [
        row("adamw", 1e-3, 2.0), row("adamw", 1e-2, None), row("adamw", 1e-3, 2.5, seed=1),
        row("soap", 1e-3, 1.75), row("soap", 3e-3, 1.5), row("soap", 1e-3, 9.0, seed=1),
        row("lion", 1e-3, None),
    ]  # fmt: skip
    from render.advice import method_results, verdict_row, widest_spread

    found = method_results(rows, "p")
    assert [(one.method, one.lr, one.losses, one.tried) for one in found] == [
        ("soap", 3e-3, (1.5,), 2),
        ("adamw", 1e-3, (2.0, 2.5), 2),
    ]
    assert widest_spread(found) == 0.5
    assert verdict_row("P", found, "kind", "adamw")[3:] == (
        "2.0000",
        "2 of 2",
        "`soap` 1.5000",
        "0.5000 (AdamW: 0.5000)",
    )
    assert verdict_row("P", found, "kind", "lion")[3] == "diverged"
    assert "| `soap` | 0.003 of 2 | 9 | 1.5000 | -0.5000 |" in bench.render(
        rows, {"p": "P"}, {"p": {"kind": "adamw"}}, "Notes.\n"
    )
