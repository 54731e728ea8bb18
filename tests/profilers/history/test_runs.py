"""The machine's history of runs: what goes in comes out, whatever else happens to the file."""

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from subopt.profilers.history import runs as history
from subopt.profilers.history.accuracy import history_summary
from subopt.profilers.history.calibration import calibration, ratios_of, widened
from subopt.profilers.history.runs import (
    MOST_RUNS,
    Numbers,
    PastRun,
    device_name,
    history_file,
    history_folder,
    past_runs,
    record_run,
)
from subopt.profilers.record.profile import Peak, PhasePeaks, Ratios

CPU = torch.device("cpu")


def run_of(number=0, *, predicted=(100, 1000, 10.0), actual=(100, 1000, 10.0), **changes):
    told = {
        "when": f"2026-11-22T00:00:00+00:00 {number}",
        "subopt": "0.1",
        "torch": torch.__version__,
        "device": device_name(CPU),
        "method": "adamw",
        "options": {"betas": [0.9, 0.999], "bias": True, "rank": 4},
        "precision": "fp32",
        "batch_size": 8,
        "steps": 100,
        "predicted": Numbers(
            state_bytes=predicted[0], peak_bytes=predicted[1], step_ms=predicted[2]
        ),
        "actual": Numbers(state_bytes=actual[0], peak_bytes=actual[1], step_ms=actual[2]),
        "peak_source": "allocator",
    }
    return PastRun(**(told | changes))


def test_runs_come_back_in_order():
    runs = [run_of(number) for number in range(3)]
    assert [record_run(run) for run in runs] == [history_file()] * 3
    assert past_runs() == runs


def test_no_history_is_no_runs():
    assert past_runs() == []
    assert calibration(CPU, "fp32") is None


def test_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert history_folder({}) == tmp_path / ".local" / "state" / "subopt"
    assert history_folder({"XDG_STATE_HOME": "/x"}) == tmp_path.__class__("/x/subopt")
    assert history_folder({"XDG_STATE_HOME": "x"}) == history_folder({})
    assert history_folder({"SUBOPT_STATE": "/y", "XDG_STATE_HOME": "/x"}) == tmp_path.__class__(
        "/y"
    )
    assert history_folder({"SUBOPT_STATE": "~/s"}) == tmp_path / "s"
    assert history_folder({"SUBOPT_STATE": " OFF "}) is None


def test_turned_off_it_stores_and_reads_nothing(tmp_path, monkeypatch):
    record_run(run_of())
    monkeypatch.setenv("SUBOPT_STATE", "off")
    monkeypatch.chdir(tmp_path)
    assert record_run(run_of()) is None
    assert past_runs() == []
    assert history_summary().file is None
    assert list(tmp_path.iterdir()) == []


def test_others_cannot_read_it():
    path = record_run(run_of())
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


DAMAGE = {
    "cut short": b'{"when": "2026',
    "no object": b"[1, 2]",
    "no JSON": b"\x00\xff\xfe",
    "NaN": b'{"steps": NaN}',
    "deep": b"[" * 10_000,
    "huge": b'"' + b"x" * 100_000 + b'"',
    "blank": b"",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_line_costs_no_other(damage):
    path = record_run(run_of(1))
    with path.open("ab") as file:
        file.write(DAMAGE[damage])  # and no end of line, as a kill leaves it
    record_run(run_of(2))
    assert past_runs() == [run_of(1), run_of(2)]


def test_a_newer_version_may_say_more():
    path = record_run(run_of(1))
    entry = json.loads(path.read_text())
    path.write_text(json.dumps(entry | {"mood": "good"}) + "\n")
    assert past_runs() == [run_of(1)]


def test_it_keeps_the_newest_and_stays_small(monkeypatch):
    monkeypatch.setattr(history, "MOST_RUNS", 10)
    monkeypatch.setattr(history, "_CUT_AT", 12)
    for number in range(40):
        path = record_run(run_of(number))
        assert len(path.read_bytes().splitlines()) <= 12
    assert past_runs() == [run_of(number) for number in range(30, 40)]
    assert MOST_RUNS == 1000


def test_a_file_of_gigabytes_is_read_from_its_end():
    path = record_run(run_of(1))
    with path.open("r+b") as file:
        file.truncate(50 << 30)  # a hole: it takes no room on the disk
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + run_of(2).model_dump_json().encode() + b"\n")
    assert past_runs() == [run_of(2)]
    record_run(run_of(3))
    assert past_runs() == [run_of(2), run_of(3)]
    assert path.stat().st_size < 1 << 20


def _record_many(start):
    for number in range(start, start + 25):
        record_run(run_of(number))


def test_runs_that_end_together_are_all_stored(monkeypatch):
    monkeypatch.setattr(history, "_CUT_AT", 30)  # cut back while others write
    monkeypatch.setattr(history, "MOST_RUNS", 29)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(_record_many, range(0, 400, 100)))
    found = past_runs()
    assert len(found) == 29
    assert len({run.when for run in found}) == 29


def test_a_folder_that_cannot_be_written_is_an_os_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SUBOPT_STATE", str(tmp_path / "file" / "state"))
    with pytest.raises(OSError, match="file"):
        record_run(run_of())
    assert past_runs() == []


def values_of(ratios):
    return ratios.runs, ratios.median, ratios.least, ratios.largest


def test_only_like_runs_are_compared():
    record_run(run_of(actual=(100, 1100, 12.0)))
    for unlike in (
        {"device": "another"},
        {"torch": "1.0.0"},
        {"precision": "bf16"},
    ):
        record_run(run_of(actual=(100, 9000, 90.0), **unlike))
    record_run(run_of(actual=(100, 9000, 11.0), peak_source="process"))
    record_run(run_of(actual=(100, 1050, 90.0), compile=True))
    record_run(run_of(actual=(100, None, 90.0), steps=19))
    record_run(run_of(predicted=(None, None, None)))
    found = calibration(CPU, "fp32")
    assert values_of(found.peak) == pytest.approx((2, 1.075, 1.05, 1.1))
    assert values_of(found.step_ms) == pytest.approx((2, 1.15, 1.1, 1.2))
    shown = {(row.device, row.precision): row for row in history_summary().accuracy}
    assert shown[device_name(CPU), "fp32"].process_peak.largest == 9.0


def test_extremes_leave_out_what_is_far_from_ten_runs_and_more():
    near = [0.96, 0.97, 0.98, 0.99, 1.0, 1.01, 1.02, 1.03, 1.04]
    assert ratios_of([*near[:8], 5.0]).largest == 5.0  # nine: every one counts
    found = ratios_of([*near, 5.0])
    assert (found.runs, found.least, found.largest) == (10, 0.96, 1.04)
    # runs that agree to the last digit do not make one 1 % off an outlier
    assert ratios_of([1.0] * 11 + [1.01]).largest == 1.01
    assert ratios_of([]) is None
    assert ratios_of([0.0, 1e9, 1e-9]) is None


def test_an_interval_is_widened_and_never_narrowed():
    peak = Peak(
        bytes=1000, low_bytes=950, high_bytes=1100, phase="step", by_phase=PhasePeaks(), source="simulated",
    )  # fmt: skip

    def within(least, largest):
        found = widened(peak, Ratios(runs=5, median=1.0, least=least, largest=largest))
        assert found.bytes == 1000
        return found.low_bytes, found.high_bytes

    assert within(0.99, 1.01) == (950, 1100)
    assert within(0.9, 1.25) == (900, 1250)
    assert within(1.2, 1.25) == (950, 1250)
    assert within(0.8, 0.9) == (800, 1100)
    assert widened(peak, None) is peak
    formula = peak.model_copy(update={"source": "formula"})
    assert widened(formula, Ratios(runs=1, median=2, least=2, largest=2)) is formula
