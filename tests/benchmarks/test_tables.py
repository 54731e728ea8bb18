"""The benchmarks' bookkeeping: which runs are done, and what the report may claim from them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the script as a module; it finds its neighbours as it does when it is run."""
    monkeypatch.syspath_prepend(FOLDER)
    for name in ("common.conditions", "common.sweep", "render.tiny_llama", "bench_tiny_llama"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import bench_tiny_llama

    return bench_tiny_llama


def row(bench, method, lr, loss, *, seed=0, options=None):
    run = bench.Run(method, lr, seed, options or bench.RANKS.get(method, {}))
    return {
        "method": method,
        "options": run.options,
        "resolved": run.resolved(),
        "lr": lr,
        "seed": seed,
        "steps": bench.STEPS,
        "steps_done": bench.STEPS if loss is not None else 7,
        "held_out_loss": loss,
        "wall_seconds": 90.0,
        "step_ms": 12.5,
        "max_step_ms": 40.0,
        "state_bytes": 3 * 2**20,
        "load_average": 0.5,
        "conditions": {"cpu": "a cpu", "threads": 1, "source": "abc"},
    }


def measured(bench, losses, repeats):
    """Rows of every learning rate of each method in `losses`, and of the second seeds."""
    rows = [
        row(bench, method, lr, loss)
        for method, by_rate in losses.items()
        for lr, loss in by_rate.items()
    ]
    return rows + [row(bench, method, lr, loss, seed=1) for method, (lr, loss) in repeats.items()]


def test_a_run_is_done_when_all_its_options_are_those_of_a_row(bench):
    rows = [row(bench, "adadiag", 1e-3, 2.0, options={"period": 10})]
    assert bench.Run("adadiag", 1e-3, options={"period": 10}).result(rows) is rows[0]
    assert bench.Run("adadiag", 1e-3, options={"period": 11}).result(rows) is None
    assert bench.Run("adadiag", 3e-3, options={"period": 10}).result(rows) is None
    assert bench.Run("adadiag", 1e-3, seed=1, options={"period": 10}).result(rows) is None
    assert bench.Run("adadiag", 1e-3, options={"period": 10}, steps=3).result(rows) is None
    assert bench.Run("adadiag++", 1e-3, options={"period": 10}).result(rows) is None


def test_a_default_given_by_name_is_the_same_run(bench):
    rows = [row(bench, "adadiag", 1e-3, 2.0)]
    period = rows[0]["resolved"]["period"]
    assert bench.Run("adadiag", 1e-3, options={"period": period}).result(rows) is rows[0]


def test_an_option_that_came_later_leaves_a_row_valid_and_a_changed_default_does_not(bench):
    rows = [row(bench, "adadiag", 1e-3, 2.0)]
    del rows[0]["resolved"]["scale"]
    assert bench.Run("adadiag", 1e-3).result(rows) is rows[0]
    rows[0]["resolved"]["period"] += 1
    assert bench.Run("adadiag", 1e-3).result(rows) is None


def test_results_survive_the_file(bench, tmp_path):
    from common import sweep

    run = bench.Run("galore", 1e-2, options={"rank": 0.25})
    path = tmp_path / "results" / "runs.jsonl"
    assert bench.read_results(path) == []
    for loss in (2.5, 2.25):
        sweep.append_result(path, run, {"held_out_loss": loss})
    rows = bench.read_results(path)
    assert len(rows) == 2
    assert run.result(rows)["held_out_loss"] == 2.25  # the latest


def test_second_seeds_wait_for_every_learning_rate_and_repeat_the_best(bench):
    rates = bench.LEARNING_RATES["adamw"]
    rows = [row(bench, "adamw", lr, 2.0 + i / 10) for i, lr in enumerate(rates[:-1])]
    assert list(bench.seed_runs(bench.STEPS, rows)) == []
    rows.append(row(bench, "adamw", rates[-1], 1.9))
    assert list(bench.seed_runs(bench.STEPS, rows)) == [bench.Run("adamw", rates[-1], seed=1)]


def test_a_diverged_learning_rate_is_never_the_best(bench):
    losses = dict.fromkeys(bench.LEARNING_RATES["adamw"], None)
    assert list(bench.seed_runs(bench.STEPS, measured(bench, {"adamw": losses}, {}))) == []
    losses[3e-3] = 2.4
    (run,) = bench.seed_runs(bench.STEPS, measured(bench, {"adamw": losses}, {}))
    assert run.lr == 3e-3


def test_the_plan_names_valid_methods_and_options_once_each(bench):
    runs = [run for section, run in bench.plan(bench.STEPS, []) if section == "methods"]
    assert len({(run.method, run.lr) for run in runs}) == len(runs)
    assert all(run.resolved() for _, run in bench.plan(bench.STEPS, []))
    rates = {run.lr for run in runs if run.method == "lion"}
    assert {3e-4, 1e-3, 3e-3, 1e-4} == rates


def test_the_schedule_warms_up_and_ends_at_a_tenth(bench):
    from common.sweep import warmup_then_cosine

    factors = [warmup_then_cosine(step, 300, 30) for step in range(300)]
    assert factors[0] == pytest.approx(1 / 30)
    assert max(factors) == factors[29] == factors[30] == 1.0
    assert factors[165] == pytest.approx(0.55)
    assert factors[-1] == pytest.approx(0.1, abs=1e-4)


def report(bench, rows):
    from render import tiny_llama as render_tiny_llama

    return render_tiny_llama.render(bench.cells(bench.STEPS, rows))


def test_a_difference_below_the_seed_spread_is_not_called_a_win(bench):
    losses = {
        "adamw": {1e-3: 2.00, 3e-4: 2.2, 3e-3: 2.1},
        "adadiag": {1e-3: 1.97, 3e-4: 2.2, 3e-3: 2.1},
        "adadiag++": {1e-3: 1.80, 3e-4: 2.2, 3e-3: 2.1, 1e-2: 2.4},
        "hfacdiag": {1e-3: 2.30, 3e-4: 2.5, 3e-3: None},
    }
    repeats = {
        "adamw": (1e-3, 2.05),
        "adadiag": (1e-3, 2.01),
        "adadiag++": (1e-3, 1.81),
        "hfacdiag": (1e-3, 2.31),
    }
    text = report(bench, measured(bench, losses, repeats))
    assert "two seeds of one method is 0.050 nat" in text
    assert "Below `adamw` by more than that: `adadiag++`." in text
    assert "Above `adamw` by more than that: `hfacdiag`." in text
    assert "Not told apart from `adamw`: `adadiag`." in text
    assert "| `hfacdiag` | – | 2.500 | **2.300** | diverged at step 7 | – |" in text
    best = (
        "| `adamw` | 0.001 | 2.000 / 2.050 | 2.025 | 0.050 | +0.000 | 90 / 90 | 12.5 | 40 | 3.00 |"
    )
    assert best in text


def test_without_second_seeds_nothing_is_claimed(bench):
    losses = {"adamw": {1e-3: 2.0}, "adadiag": {1e-3: 1.5}}
    text = report(bench, measured(bench, losses, {}))
    assert "Too little is measured yet" in text
    assert "more than that" not in text


def test_an_empty_report_says_so(bench):
    assert "Nothing is measured yet." in report(bench, [])


@pytest.fixture
def profiling(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the report of what profiling costs, as a module."""
    monkeypatch.syspath_prepend(FOLDER)
    for name in ("common.conditions", "render.profile"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    from render import profile as render_profile

    return render_profile


def cost_row(section, case, result, **more):
    return {
        "case": {"section": section, "case": case, **more},
        "result": result,
        "conditions": {"cpu": "a cpu", "threads": 2},
    }


PLAIN = cost_row(
    "ratios",
    "plain",
    {
        "pass_s": [2.0, 2.2, 9.0],
        "pass_peak_bytes": 1000 * 2**20,
        "training_peak_bytes": 1250 * 2**20,
    },
    size="60m",
)
STANDARD = cost_row(
    "ratios",
    "standard",
    {
        "total_s": 264.0,
        # 25 passes of 2 s, of which 20 measured something: 40 s, and 30 s beside them
        "spent": {"forward and backward": 50.0, "spectra": 10.0, "subspaces": 20.0, "memory": 90.0},
        "passes": 25,
        "stages": [
            {"stage": "memory", "begin_s": 0.0, "total": 3, "peak_bytes": 5000 * 2**20},
            {"stage": "subspaces", "begin_s": 1.0, "total": 4, "peak_bytes": 1400 * 2**20},
            {"stage": "gradients", "begin_s": 2.0, "total": 16, "peak_bytes": 1100 * 2**20},
        ],
    },
    size="60m",
)


def test_profiling_is_weighed_against_the_passes_it_measured_on(profiling):
    assert profiling.measuring(STANDARD["result"]) == (20, 2.0, 30.0)
    text = profiling.render([PLAIN, STANDARD])
    # (40 + 30) / 40, then by plain passes of 2.2 s; the whole command by all of its passes
    assert "| `standard` | 20 | 2.00 | 30 | **1.75** | 1.59 | 3 | 264 | 4.80 |" in text
    assert "| `standard`, subspaces | 1400 | **1.40** | 1.12 | 1.25 |" in text
    assert "| `standard`, gradients | 1100 | **1.10** | 0.88 | 1.25 |" in text


def test_growth_is_a_slope_in_double_logarithms(profiling):
    assert profiling.exponent([(2, 8.0), (4, 64.0), (8, 512.0)]) == pytest.approx(3)
    rows = [
        cost_row(
            "depth",
            "standard",
            {
                "hidden": 192,
                "blocks": blocks,
                "matrices": 7 * blocks,
                "passes": 2,
                "seconds": {"forward and backward": 9.0**blocks, "spectra": 0.5 * blocks},
            },
            size="tiny",
            layers=blocks,
        )
        for blocks in (2, 4, 8)
    ]
    text = profiling.render(rows)
    assert "| tiny, 4 x 192 wide | 28 | 2.00 | 2.00 | 71 |" in text
    assert "In all: blocks^1.00; the theory says 1." in text


def test_the_picture_of_growth_is_well_formed(profiling):
    import xml.etree.ElementTree as ET

    rows = [
        cost_row(
            "width",
            "standard",
            {"hidden": width, "matrices": 14, "seconds": {"spectra": width**2 / 1e5}},
            size="tiny",
            layers=2,
        )
        for width in (192, 512, 1024)
    ]
    drawn = ET.fromstring(profiling.picture(rows))
    circles = drawn.findall("{http://www.w3.org/2000/svg}circle")
    heights = [float(circle.attrib["cy"]) for circle in circles]
    assert len(heights) == 3
    assert heights == sorted(heights, reverse=True)
    assert all(0 < height < 310 for height in heights)


def test_a_measured_case_is_not_run_again(profiling, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "bench_profile", raising=False)
    import bench_profile

    ran = []
    monkeypatch.setattr(
        bench_profile, "in_child", lambda case, threads: ran.append(case["case"]) or {"seconds": {}}
    )
    path = tmp_path / "results" / "rows.jsonl"
    for _ in range(2):
        bench_profile.run_missing(path, ["ratios"], "tiny", 1)
    assert ran.count("standard") == 1
    assert ran.count("plain") == 3
    rows = bench_profile.read_rows(path)
    assert len(rows) == len(ran) == 5
    assert not any(
        bench_profile.is_done(case, rows) for case in bench_profile.cases("ratios", "60m")
    )
