"""The folder of a race: what is refused, and that nothing of somebody else's is touched."""

from __future__ import annotations

import json

import pytest

from subopt.errors import FileFormatError, UsageError
from subopt.recipes.race.budget import RaceBudget
from subopt.recipes.race.folder import RaceFolder

DEEP = "[" * 5000 + "]" * 5000


def test_another_race_is_refused(half, races):
    with pytest.raises(UsageError, match="already exists"):
        races()
    with pytest.raises(UsageError, match="started with methods adamw, not lion"):
        races(resume=True, methods=["lion"])
    with pytest.raises(UsageError, match=r"started with share 0\.5, not 0\.9"):
        races(resume=True, budget=RaceBudget(share=0.9))
    changed = races.folder / "model.py"
    changed.write_text(changed.read_text() + "\n# other\n")
    with pytest.raises(UsageError, match="started with model"):
        races(resume=True)


def test_with_force_it_starts_over_and_leaves_other_files_alone(half, races):
    (half / "notes.txt").write_text("mine")
    assert (half / "runs/adamw-0.003").exists() or (half / "runs/lion-0.01").exists()
    races(force=True, methods=["lion"], budget=RaceBudget(share=0.1))
    assert (half / "notes.txt").read_text() == "mine"
    assert not list((half / "runs").glob("adamw-*"))
    lines = (half / "points.jsonl").read_text().splitlines()
    assert {json.loads(line)["point"]["method"] for line in lines} == {"lion"}


def test_a_file_in_the_place_of_the_folder(races):
    (races.folder / "race").write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        races()


@pytest.mark.parametrize(
    "line",
    [
        "{}", "null", "[]", "not json", '{"point": null, "wall_seconds": 1}', DEEP, '"\\ud800"',
        '{"point": {"method": "adamw"}, "wall_seconds": 1}', '{"wall_seconds": NaN}', "\x00",
        '{"left_out": {"method": "soap", "reason": "x"}, "wall_seconds": 1}',
        '{"left_out": {"method": "lion", "reason": "x", "more": 1}, "wall_seconds": 1}',
    ],
)  # fmt: skip
def test_a_line_that_is_no_point(half, races, line):
    with (half / "points.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(FileFormatError, match=r"points\.jsonl:"):
        races(resume=True)


@pytest.mark.parametrize(
    "change",
    [
        {"lr": float("nan")}, {"lr": 1e999}, {"loss": "inf"}, {"method": "soap"}, {"step": -1}, {"step": 10**40},
        {"lr": 0.0}, {"lr": 101.0}, {"share": float("nan")}, {"share": -1.0}, {"share": 1e300}, {"tokens": -1},
        {"batch_losses": [1, "x"]}, {"batch_losses": [float("nan")]}, {"more": 1},
    ],
)  # fmt: skip
def test_a_point_with_impossible_values(half, races, change):
    file = half / "points.jsonl"
    lines = file.read_text().splitlines()
    entry = json.loads(lines[0])
    entry["point"] |= change
    file.write_text("\n".join([json.dumps(entry), *lines[1:]]) + "\n")
    with pytest.raises(FileFormatError, match=r"points\.jsonl:1"):
        races(resume=True)


CANDIDATE = {"method": "lion", "start_lr": 0.1, "steps": 400}


@pytest.mark.parametrize(
    "change",
    [
        {"candidates": []}, {"step_times": {"lion": {"ordinary_ms": 1}}}, {"run_seconds": -1}, {"more": 1},
        {"step_times": {"adamw": {"ordinary_ms": 0}}}, {"schema_version": 1}, {"spent_seconds": 1e300},
        {"design": {}},
        {"design": {"methods": 1, "rates": 10**12, "moves": 0, "rate_rungs": [{"share": 0.1, "keep": 1}]}},
        {"design": {"methods": 1, "rates": 3, "moves": 0, "rate_rungs": []}},
        {"candidates": [CANDIDATE, CANDIDATE], "step_times": {}},
        {"candidates": [CANDIDATE | {"start_lr": -1}], "step_times": {}},
        {"candidates": [CANDIDATE | {"start_lr": 1e-300}], "step_times": {}},
        {"candidates": [CANDIDATE | {"steps": 10**30}], "step_times": {}},
        {"candidates": [CANDIDATE | {"weight_decay": 1e300}], "step_times": {}},
        {"candidates": [CANDIDATE | {"steps": 0}], "step_times": {}},
        {"candidates": [CANDIDATE | {"method": "none"}], "step_times": {}},
        {"candidates": [CANDIDATE | {"method": "soap", "options": {"period": 0}}], "step_times": {}},
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


@pytest.mark.parametrize("text", ["", "null", DEEP, "{}"])
def test_a_result_that_is_none(tmp_path, text):
    (tmp_path / "race.json").write_text(text)
    with pytest.raises(FileFormatError, match=r"race\.json"):
        RaceFolder(tmp_path).load_result()
    assert RaceFolder(tmp_path / "other").load_result() is None
