"""The folder of a race: what is refused, and that nothing of somebody else's is touched."""

from __future__ import annotations

import json

import pytest

from subopt.errors import FileFormatError, UsageError

from .conftest import SHORT

DEEP = "[" * 5000 + "]" * 5000


def test_another_race_is_refused(half, races):
    with pytest.raises(UsageError, match="already exists"):
        races()
    with pytest.raises(UsageError, match="started with methods galore,lion, not lion"):
        races(resume=True, methods=["lion"])
    with pytest.raises(UsageError, match="started with seeds 2, not 3"):
        races(resume=True, seeds=3)
    changed = races.folder / "model.py"
    changed.write_text(changed.read_text() + "\n# other\n")
    with pytest.raises(UsageError, match="started with model"):
        races(resume=True)


def test_with_force_it_starts_over_and_leaves_other_files_alone(half, races):
    (half / "notes.txt").write_text("mine")
    before = (half / "trials.jsonl").read_text()
    races(force=True, methods=["lion"], seeds=1, minutes=SHORT)
    assert (half / "notes.txt").read_text() == "mine"
    assert before not in (half / "trials.jsonl").read_text()


def test_a_file_in_the_place_of_the_folder(races):
    (races.folder / "race").write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        races()


@pytest.mark.parametrize(
    "line",
    [
        "{}", "null", "[]", "not json", '{"trial": null, "wall_seconds": 1}', DEEP, '"\\ud800"',
        '{"trial": {"method": "adamw"}, "wall_seconds": 1}', '{"wall_seconds": NaN}', "\x00",
        '{"left_out": {"method": "soap", "reason": "x"}, "wall_seconds": 1}',
        '{"left_out": {"method": "lion", "reason": "x", "more": 1}, "wall_seconds": 1}',
    ],
)  # fmt: skip
def test_a_line_that_is_no_trial(half, races, line):
    with (half / "trials.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(FileFormatError, match=r"trials\.jsonl:"):
        races(resume=True)


@pytest.mark.parametrize(
    "change",
    [
        {"lr": float("nan")}, {"lr": 1e999}, {"loss": "inf"}, {"status": "won"}, {"seed": -1},
        {"method": "soap"}, {"options": {"betas": [1, "x"]}}, {"steps": 10**40}, {"lr": 0.0}, {"options": {"scale": 2}},
        {"lr": 101.0},
    ],
)  # fmt: skip
def test_a_trial_with_impossible_values(half, races, change):
    file = half / "trials.jsonl"
    lines = file.read_text().splitlines()
    entry = json.loads(lines[0])
    entry["trial"] |= change
    file.write_text("\n".join([json.dumps(entry), *lines[1:]]) + "\n")
    with pytest.raises(FileFormatError, match=r"trials\.jsonl:1"):
        races(resume=True)


@pytest.mark.parametrize(
    "change",
    [
        {"contestants": []}, {"step times": {}}, {"seeds": []}, {"horizon_seconds": -1}, {"more": 1},
        {"trials": "many"}, {"step times": {"adamw": {"ordinary_ms": 0}}}, {"schema_version": 2},
        {"contestants": [{"method": "adamw", "start_lr": -1}]},
        {"contestants": [{"method": "none", "start_lr": 1}], "step times": {"none": {"ordinary_ms": 1}}},
        {
            "contestants": [{"method": "soap", "start_lr": 1, "options": {"period": 0}}],
            "step times": {"soap": {"ordinary_ms": 1}},
        },
    ],
)  # fmt: skip
def test_a_plan_that_makes_no_sense(half, races, change):
    file = half / "plan.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(FileFormatError, match=r"plan\.json"):
        races(resume=True)


@pytest.mark.parametrize("text", ["", "null", DEEP, "{", "\x80", "- yaml"])
def test_a_plan_that_is_none(half, races, text):
    (half / "plan.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(FileFormatError, match=r"plan\.json"):
        races(resume=True)
