"""`subopt race`: its answer in text and JSON, what it refuses with status 2, and how it joins the profile."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from subopt.findings.race import race_summary
from subopt.profilers.record.profile import Profile, Race
from subopt.profilers.target.load import load_target
from subopt.recipes.race import race as race_module
from subopt.recipes.race import running
from subopt.recipes.race.joining import joined
from subopt.recipes.race.step_time import CandidateStepTime
from subopt.report.charts.race import race_parts
from subopt.terminal.race import race_report

from .full_race import made_up_race


def shown(race: Race, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, markup=False, highlight=False)
    for part in race_report(race):
        console.print(part)
    return console.file.getvalue()


@pytest.fixture
def quick(monkeypatch):
    """A race that takes no time: an invented pace, and a clock that stands."""

    def step_times(field, candidates, **_):
        return {
            candidate.method: CandidateStepTime(ordinary_ms=1000.0) for candidate in candidates
        }, []

    monkeypatch.setattr(race_module, "measure_step_times", step_times)
    for module in (race_module, running):
        monkeypatch.setattr(module, "monotonic", lambda: 0.0)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_answer_fits_the_terminal(width):
    text = shown(made_up_race(), width)
    assert max(map(len, text.splitlines())) <= width
    for name in ("lion", "adamw", "muon", "soap", "galore", "dlrt"):
        assert f"\n{name}" in text
    for verdict in ("better", "baseline", "inside the spread", "one seed only", "diverged"):
        assert verdict in text
    assert "1.05" in text  # lion's mean loss
    assert "-0.97" in text  # and its difference to AdamW


def test_the_sentences_sell_nothing_inside_the_spread():
    race = made_up_race()
    said = " ".join(race_summary(race))
    assert said.startswith(
        "lion had the lowest loss of those that beat AdamW: 0.97 below AdamW's (spread 0.05)"
    )
    assert "muon" not in said.partition("Everybody had")[0]
    beaten = [
        c.model_copy(update={"verdict": "inside the spread"}) if c.method == "lion" else c
        for c in race.contestants
    ]
    said = " ".join(race_summary(race.model_copy(update={"contestants": beaten})))
    assert "No method was better than AdamW by more than the spread" in said
    assert "beat AdamW" not in said
    once = [
        c.model_copy(update={"losses": c.losses[:1], "verdict": "one seed only"})
        for c in race.contestants
    ]
    said = " ".join(race_summary(race.model_copy(update={"contestants": once, "seeds": [0]})))
    assert "no winner" in said


def test_curves_can_be_read_without_blocks():
    class Ascii(Console):
        @property
        def encoding(self):
            return "ascii"

    console = Ascii(file=io.StringIO(), width=80)
    console.print(race_report(made_up_race())[1])
    assert console.file.getvalue().isascii()


def test_a_race_joins_its_own_models_profile_alone(profile, tmp_path):
    race = made_up_race()
    mine = profile.model_copy(
        update={"target": profile.target.model_copy(update={"sha256": "ab" * 32})}
    )
    of_mine = race.model_copy(update={"target_sha256": "ab" * 32})
    both = joined(mine, of_mine)
    assert both.race == of_mine
    both.save(tmp_path / "p.json")
    assert Profile.load(tmp_path / "p.json") == both
    assert joined(mine, race) is None
    assert joined(mine, of_mine.model_copy(update={"contestants": race.contestants[:1]})) is None


def test_the_report_draws_it_against_seconds_steps_and_tokens(profile):
    sentences, chart = race_parts(profile.model_copy(update={"race": made_up_race()}))
    assert sentences.sentences == race_summary(made_up_race())
    names = [trace["name"] for trace in chart.traces]
    assert names == ["lion", "adamw", "muon", "galore"]
    assert chart.traces[0]["x"][-1] == pytest.approx(2.0)
    assert chart.traces[0]["y"][-1] == pytest.approx(1.05 + 0.3)
    assert chart.picker.options == ["seconds of training", "steps", "tokens"]
    assert [view[0]["x"][-1] for view in chart.picker.views] == [100, 6400]
    assert race_parts(profile) == []


def test_from_profile_to_race_and_back(subopt, folder, quick, profile):
    target = load_target("model.py", base=folder).record
    profile.model_copy(update={"target": target}).save(folder / "profile.json")
    words = ["race", "profile.json", "--methods", "lion", "--minutes", "1.2", "--seeds", "1"]
    ended = subopt(*words, "--device", "cpu", "--json")
    assert ended.status == 0, ended.err
    race = Race.model_validate(json.loads(ended.out))
    assert Profile.load(folder / "profile.json").race == race
    assert Race.model_validate_json((folder / "runs/race-profile/race.json").read_text()) == race
    assert {contestant.method for contestant in race.contestants} == {"adamw", "lion"}
    assert "the result is in profile.json" in ended.err
    again = subopt(*words)
    assert again.status == 2
    assert "--resume" in again.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["none.yaml"], "none.yaml"),
        (["none.json"], "there is no profile at none.json"),
        (["recipe.yaml", "--methods", "lino"], "unknown method 'lino'; did you mean 'lion'?"),
        (["recipe.yaml", "--methods", ","], "--methods names no method"),
        (["recipe.yaml", "--minutes", "0"], "0 minutes make no race"),
        (["recipe.yaml", "--minutes", "x"], "--minutes"),
        (["recipe.yaml", "--gpu-mem", "24G"], "--gpu-mem goes by a profile's memory"),
        (["recipe.yaml", "--resume"], "holds no race to resume"),
        (["recipe.yaml", "--device", "tpu"], "tpu"),
        (["recipe.yaml", "--seeds", "0"], "at least one finalist and one seed"),
        (["recipe.yaml", "--output", "model.py"], "is a file"),
        (["recipe.yaml", "--minutes", "0.01", "--methods", "lion"], "minutes are too few"),
    ],
)  # fmt: skip
def test_what_is_refused(subopt, folder, quick, words, says):
    ended = subopt("race", *words)
    assert ended.status == 2
    assert says in ended.err
    assert ended.out == ""
    said = [line for line in ended.lines if not line.startswith(("warning", "timing"))]
    assert len(said) <= 2
    assert "Traceback" not in ended.err
    assert not (folder / "runs").exists()


def test_a_model_without_batches(subopt, folder, quick):
    text = (folder / "model.py").read_text().replace("def batches", "def no_batches")
    (folder / "model.py").write_text(text)
    ended = subopt("race", "recipe.yaml")
    assert ended.status == 2
    assert "has no batches(batch_size)" in ended.err
