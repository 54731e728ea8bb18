"""What the end of a run stores, and what later profiles and recipes make of it."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from subopt.profilers.history.runs import past_runs
from subopt.profilers.profile import run_profile
from subopt.profilers.record.profile import Calibration, Ratios, Settings
from subopt.profilers.target.load import load_target
from subopt.recipes.advice.advisor import recommend, to_recipe
from subopt.recipes.advice.calibrated import (
    EarlierRuns,
    StepCorrection,
    step_correction,
)
from subopt.recipes.advice.proposal import recipe_reasons
from subopt.recipes.plan.step_time import relative_step_time, whole_step_ms
from subopt.recipes.recipe.load import load_recipe, with_settings
from subopt.recipes.training.events import Warned
from subopt.recipes.training.metrics import median_step_ms
from subopt.recipes.training.trainer import train

GIB = 2**30


def trained(recipe_path, name, *overrides, **keys):
    said = []
    recipe = with_settings(load_recipe(recipe_path), overrides)
    folder = recipe_path.parent / name
    result = train(
        recipe, recipe_path=recipe_path, output=folder, device="cpu", on_event=said.append, **keys
    )
    return result, [event for event in said if isinstance(event, Warned)]


def test_a_finished_run_is_stored_without_the_users_names(recipe_path):
    result, warnings = trained(recipe_path, "run", "why.predicted_step_ms=4.0")
    assert warnings == []
    (run,) = past_runs()
    assert (
        run.target_sha256
        == hashlib.sha256((recipe_path.parent / "model.py").read_bytes()).hexdigest()
    )
    assert (run.method, run.precision, run.batch_size, run.steps) == ("adamw", "fp32", 8, 6)
    assert run.actual.state_bytes == run.predicted.state_bytes == result.actual.state_bytes
    assert run.actual.step_ms == result.actual.step_ms
    assert run.predicted.step_ms == 4.0
    assert run.peak_source == result.peak_source
    assert result.history is not None
    text = Path(result.history).read_text()
    for name in ("model.py", "recipe", str(recipe_path.parent)):
        assert name not in text
    written = json.loads((recipe_path.parent / "run" / "result.json").read_text())
    assert written["history"] == result.history


def test_the_prediction_is_stored_without_its_correction(recipe_path):
    trained(recipe_path, "run", "why.predicted_step_ms=6.0", "why.step_factor=1.5")
    assert past_runs()[0].predicted.step_ms == pytest.approx(4.0)


def test_a_run_that_only_looks_is_not_stored_again(recipe_path):
    trained(recipe_path, "run")
    result, warnings = trained(recipe_path, "run", resume=True)
    assert "already complete" in warnings[0].message
    assert len(past_runs()) == 1
    assert result.step == 6


def test_an_unwritable_history_is_a_warning(recipe_path, monkeypatch):
    monkeypatch.setenv("SUBOPT_STATE", str(recipe_path / "below-a-file"))
    result, warnings = trained(recipe_path, "run")
    assert result.step == 6
    assert result.history is None
    (warning,) = warnings
    assert "could not be stored" in warning.message
    assert "SUBOPT_STATE=off" in warning.hint


def test_turned_off_nothing_is_stored(recipe_path, monkeypatch):
    monkeypatch.setenv("SUBOPT_STATE", "off")
    result, warnings = trained(recipe_path, "run")
    assert (result.history, warnings) == (None, [])


@pytest.fixture
def profile(recipe_path, monkeypatch):
    monkeypatch.chdir(recipe_path.parent)
    settings = Settings(batch_size=8, batches=2, detail="quick")
    return run_profile(load_target("model.py"), settings, methods=["adamw", "adadiag"])


def calibrated(profile, runs, **changes):
    ratios = Ratios(runs=runs, median=1.5, least=1.2, largest=1.8)
    found = Calibration(peak=None, step_ms=ratios)
    return profile.model_copy(update={"calibration": found} | changes)


def timed(profile):
    rows = [row.model_copy(update={"step_ms": 1.0}) for row in profile.methods]
    return profile.model_copy(update={"methods": rows, "forward_backward_ms": 3.0})


def recipe_of(profile, folder):
    advice = recommend(profile, budget_bytes=GIB, methods=["adamw"], device="cpu")
    return advice, to_recipe(advice, profile, recipe_path=folder / "new.yaml")


def test_a_recipe_corrects_the_time_once_and_says_so(profile, tmp_path):
    raw = timed(profile)
    _, plain = recipe_of(raw, tmp_path)
    assert plain.why.step_factor is None
    _, few = recipe_of(calibrated(raw, 2), tmp_path)
    assert (few.why.step_factor, few.why.predicted_step_ms) == (None, plain.why.predicted_step_ms)
    advice, corrected = recipe_of(calibrated(raw, 3), tmp_path)
    assert corrected.why.step_factor == 1.5
    assert corrected.why.predicted_step_ms == pytest.approx(1.5 * plain.why.predicted_step_ms)
    assert StepCorrection(1.5, 3) in list(recipe_reasons(advice, calibrated(raw, 3)))
    assert EarlierRuns("step time", 3, 1.2, 1.8) in advice.reasons
    # an untimed profile has nothing to correct
    _, untimed = recipe_of(calibrated(profile, 3), tmp_path)
    assert (untimed.why.predicted_step_ms, untimed.why.step_factor) == (None, None)


def test_runs_of_the_recommended_recipe_calibrate_the_next_profile(profile, recipe_path, tmp_path):
    _, recipe = recipe_of(timed(profile), tmp_path)
    assert profile.calibration is None
    path = tmp_path / "recommended.yaml"
    for number in range(3):
        short = recipe.model_copy(
            update={"schedule": recipe.schedule.model_copy(update={"steps": 21, "warmup_steps": 2})}
        )
        train(short, recipe_path=path, output=tmp_path / f"run-{number}", device="cpu")
    settings = Settings(batch_size=8, batches=2, detail="quick")
    later = run_profile(load_target("model.py"), settings, methods=["adamw"])
    found = later.calibration
    assert found.step_ms.runs == 3
    assert found.step_ms.least <= found.step_ms.median <= found.step_ms.largest
    assert found.peak is None  # a CPU's peaks are those of the whole process
    assert step_correction(later).factor == found.step_ms.median
    assert torch.__version__.startswith(past_runs()[0].torch[:4])


def test_a_new_profiles_peaks_may_lie_as_far_off_as_earlier_ones(profile, monkeypatch):
    from subopt.profilers import profile as module

    wide = Calibration(peak=Ratios(runs=1, median=1.1, least=0.5, largest=3.0))
    monkeypatch.setattr(module, "calibration", lambda device, precision: wide)
    settings = Settings(batch_size=8, batches=2, detail="quick")
    later = run_profile(load_target("model.py"), settings, methods=["adamw"])
    peak, before = later.methods[0].peak, profile.methods[0].peak
    assert peak.bytes == before.bytes
    assert (peak.low_bytes, peak.high_bytes) == (peak.bytes // 2, 3 * peak.bytes)
    assert later.calibration == wide


def test_an_average_step_has_its_share_of_refreshes(tmp_path):
    path = tmp_path / "metrics.jsonl"
    steps = [{"step": n, "step_ms": 41.0 if n % 4 == 1 else 1.0} for n in range(1, 14)]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in steps))
    assert median_step_ms(path) == 1.0
    assert median_step_ms(path, period=4) == 11.0
    assert median_step_ms(path, period=7) == 1.0  # not two whole periods


def test_the_rest_of_a_step_counts_to_its_time_and_dilutes_overhead(profile):
    slow = timed(profile)
    adadiag = slow.methods[1].model_copy(update={"step_ms": 4.0, "overhead_ms": 3.0})
    assert whole_step_ms(slow, adadiag, 16) == pytest.approx(3.0 * 2 + 4.0)
    assert relative_step_time(slow, adadiag, 8) == pytest.approx(3.0 / 4.0)
    fuller = slow.model_copy(update={"batch_ms": 1.0, "clip_ms": 2.0})
    assert whole_step_ms(fuller, adadiag, 16) == pytest.approx((3.0 + 1.0) * 2 + 2.0 + 4.0)
    assert relative_step_time(fuller, adadiag, 8) == pytest.approx(3.0 / 7.0)
    assert whole_step_ms(profile, adadiag, 8) is None


def test_times_and_overheads_are_of_one_step_of_the_baseline(profile):
    slow = timed(profile)
    adamw, adadiag = slow.methods[:2]
    # timed while the machine was busy: its step is long, its overhead over AdamW's steps beside it is not
    busy = adadiag.model_copy(update={"step_ms": 40.0, "overhead_ms": 3.0})
    ours, baseline = whole_step_ms(slow, busy, 8), whole_step_ms(slow, adamw, 8)
    assert ours == pytest.approx(baseline + 3.0)
    assert relative_step_time(slow, busy, 8) == pytest.approx(ours / baseline - 1)
