"""`subopt race`, `lr` and `train --race`: their answers, what they refuse, and how they join the profile."""

from __future__ import annotations

import io
import json
import signal

import pytest
from rich.console import Console

from subopt.commands._racing import METHODS_SHARE, RATES_SHARE, parse_share, read_budget, with_adamw
from subopt.errors import UsageError
from subopt.findings.race import plan_sentence, race_summary
from subopt.profilers.record.profile import Profile, Race
from subopt.profilers.target.load import load_target
from subopt.recipes.race import events, planning, running
from subopt.recipes.race import race as race_module
from subopt.recipes.race.design import designs
from subopt.recipes.race.folder import RacePlan
from subopt.recipes.race.joining import joined
from subopt.recipes.race.step_time import CandidateStepTime
from subopt.recipes.recipe.load import load_recipe
from subopt.report.charts.race import race_parts
from subopt.terminal.lr import RatePlot, lr_report
from subopt.terminal.output import Output
from subopt.terminal.progress_race import RaceProgress
from subopt.terminal.race import race_report

from .full_race import made_up_race, seeded_race

NEXT = "subopt train runs/race-recipe/runs/soap-0.03/recipe.yaml --resume"


class Ascii(Console):
    @property
    def encoding(self):
        return "ascii"


def shown(parts, width=80, kind=Console) -> str:
    console = kind(file=io.StringIO(), width=width, markup=False, highlight=False)
    for part in parts:
        console.print(part)
    return console.file.getvalue()


def with_losses(race: Race, soap: float, share: float = 0.3) -> Race:
    """The race with another loss of its winner, decided elsewhere."""
    first, base, *others = race.contestants
    changed = first.model_copy(update={"losses": [soap], "difference": soap - base.losses[0]})
    return race.model_copy(update={"contestants": [changed, base, *others], "share": share})


@pytest.fixture
def quick(monkeypatch):
    """Invented step times, and a clock that stands."""

    def step_times(setup, candidates, **_):
        return {
            candidate.method: CandidateStepTime(ordinary_ms=1000.0) for candidate in candidates
        }, []

    monkeypatch.setattr(planning, "measure_step_times", step_times)
    for module in (race_module, planning, running):
        monkeypatch.setattr(module, "monotonic", lambda: 0.0)


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("race", [made_up_race(), seeded_race()])
def test_the_answer_fits_the_terminal(width, race):
    lines = shown(race_report(race, NEXT), width).splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for name in ("soap", "adamw", "lion", "dlrt"):
        assert f"\n{name}" in text
    assert "soap-0.03" in text
    if width == 80:
        assert len(lines) <= 40


def test_the_verdict_comes_first_and_says_what_it_is_worth():
    said = race_summary(made_up_race())
    assert said[0] == "soap at 0.03 goes on: held-out loss 1.5 at 30% of its run."
    assert said[1] == (
        "-0.3 against adamw at its best rate, 0.003 (17% of the loss); +- 0.02 over the held-out batches, which tells "
        "nothing of other seeds."
    )
    assert said[2] == "Decided at 30% of the run, by 17%: a difference this large mostly stays."
    assert "took 48% of a run" in " ".join(said)
    assert "Of equal time: soap 1,000, adamw 1,000, lion 1,000." in said


def test_small_differences_and_early_ones_are_called_so():
    said = race_summary(with_losses(made_up_race(), 1.75))[2]
    assert "by 2.8%: a difference of a few per cent says little" in said
    said = race_summary(with_losses(made_up_race(), 1.0, share=0.1))[2]
    assert "cannot be told apart before about 30%: this is a guess" in said


def test_where_adamw_wins_the_next_one_is_compared_with_it():
    race = made_up_race()
    soap, base, *others = race.contestants
    soap = soap.model_copy(update={"losses": [2.0], "difference": 0.2})
    said = race_summary(race.model_copy(update={"contestants": [base, soap, *others]}))
    assert said[0].startswith("adamw at 0.003 goes on")
    assert said[1].startswith("-0.2 against soap at its best rate, 0.03 (10% of the loss); +- 0.02")


def test_what_is_not_decided_is_not_called_decided():
    race = made_up_race()
    open_trials = [
        trial.model_copy(update={"status": "stopped"}) for trial in race.trials if trial.curve
    ]
    cut = race.model_copy(update={"interrupted": True, "trials": open_trials})
    said = race_summary(cut)
    assert said[0].startswith("Not decided yet. So far soap at 0.03 leads")
    assert not any("mostly stays" in text for text in said)
    assert "the same command with --resume" in shown(race_report(cut, None))
    said = race_summary(race.model_copy(update={"interrupted": True}))
    assert said[0].startswith("The minutes ended before it was decided; the best so far: soap")
    nothing = race.model_copy(update={"contestants": [], "trials": [], "interrupted": True})
    assert race_summary(nothing)[0].startswith("Nothing is known yet")
    assert shown(race_report(nothing, None))


def test_the_runs_are_sorted_by_state_and_loss():
    text = shown(race_report(made_up_race(), NEXT))
    rows = [
        line.split() for line in text.splitlines() if line.startswith(("soap", "adamw", "lion"))
    ]
    assert [row[:2] for row in rows] == [
        ["soap", "0.03"], ["adamw", "0.003"], ["soap", "0.01"], ["adamw", "0.01"], ["soap", "0.003"],
        ["adamw", "0.001"], ["soap", "0.1"], ["lion", "0.001"], ["lion", "0.003"],
    ]  # fmt: skip
    assert rows[0][2:] == ["going", "on", "300", "2.7", "2.2", "1.5", "period=5"]
    assert rows[-1][2:4] == ["diverged", "20"]


def test_a_best_rate_at_an_end_is_said():
    race = made_up_race()
    assert not any("At an end" in text for text in race_summary(race))
    fewer = [t for t in race.trials if (t.method, t.lr) != ("adamw", 0.001)]
    said = race_summary(race.model_copy(update={"trials": fewer}))
    assert (
        "At an end of those tried: adamw's 0.003 (lowest). A better one may lie further out."
        in said
    )


def plan_of(design) -> RacePlan:
    names = ["adamw", "soap"][: design.methods]
    candidates = [{"method": name, "start_lr": 0.01, "steps": 1000} for name in names]
    return RacePlan(settings={}, design=design, candidates=candidates, run_seconds=100.0)


@pytest.mark.parametrize(
    ("design", "says"),
    [
        (
            designs(1)[0],
            "adamw: 3 rates, compared at 2% of the run, half a decade below the best goes on; those that stop take "
            "at most 6% of a run, 6.0 s",
        ),
        (
            designs(2)[0],
            "adamw, soap: 3 rates each, compared at 2% of the run, half a decade below each method's best goes on; all "
            "at 30%, the best goes on; those that stop take at most 42% of a run, 42.0 s",
        ),
        (
            designs(2)[1],
            "adamw, soap: 3 rates each and up to 1 further out, compared at 10% of the run, each method's best 2 go "
            "on; all at 30%, the best goes on; those that stop take at most 130% of a run, 2 min",
        ),
    ],
)
def test_a_plan_says_what_happens_at_every_rung(design, says):
    assert plan_sentence(plan_of(design)) == says


def lowered_race() -> Race:
    """Two of soap's rates and one further out, compared at 2 %, where the highest had the lowest loss."""
    race = made_up_race()
    runs = {trial.lr: trial for trial in race.trials if trial.method == "soap"}
    losses = {0.01: 2.8, 0.03: 2.7, 0.1: 2.6}
    trials = [
        runs[lr].model_copy(
            update={
                "status": "going on" if lr == 0.03 else "stopped",
                "loss": loss,
                "curve": [runs[0.03].curve[0].model_copy(update={"loss": loss})],
            }
        )
        for lr, loss in losses.items()
    ]
    one = race.contestants[0].model_copy(update={"losses": [2.7], "difference": None, "trials": 3})
    return race.model_copy(update={"trials": trials, "contestants": [one], "share": 0.02})


def test_a_lowered_rate_is_explained():
    said = race_summary(lowered_race())
    assert said[0] == "soap at 0.03 goes on: held-out loss 2.7 at 2% of its run."
    assert (
        "soap's 0.1 looked best within the warm-up. What looks best there is too high for a whole run, so half a "
        "decade below it goes on."
    ) in said
    assert not any("At an end" in text for text in said)
    text = shown(lr_report(lowered_race(), NEXT))
    rows = {line.split()[0]: line for line in text.splitlines() if line.strip().startswith("0.")}
    assert "chosen" in rows["0.03"]
    assert "stopped" in rows["0.1"]


def test_a_higher_rate_that_was_ahead_and_fell_behind_is_not_called_lowered():
    race = made_up_race()
    ahead = [
        trial.model_copy(
            update={"curve": [trial.curve[0].model_copy(update={"loss": 2.9}), *trial.curve[1:]]}
        )
        if (trial.method, trial.lr) == ("adamw", 0.01)
        else trial
        for trial in race.trials
    ]
    for trials in (race.trials, ahead):
        said = race_summary(race.model_copy(update={"trials": trials}))
        assert not any("looked best within the warm-up" in text for text in said)


def test_the_sentences_of_an_old_race_sell_nothing_inside_the_spread():
    race = seeded_race()
    said = " ".join(race_summary(race))
    assert said.startswith(
        "lion had the lowest loss of those that beat AdamW: 0.97 below AdamW's (spread 0.05)"
    )
    assert "muon" not in said.partition("Everybody had")[0]


def rates_of(method):
    race = made_up_race()
    own = [trial for trial in race.trials if trial.method == method]
    one = [c for c in race.contestants if c.method == method]
    return race.model_copy(update={"trials": own, "contestants": one})


def test_the_rates_are_plotted():
    text = shown(lr_report(rates_of("soap"), NEXT))
    rows = {line.split()[0]: line for line in text.splitlines() if line.strip().startswith("0.")}
    assert list(rows) == ["0.003", "0.01", "0.03", "0.1"]
    bars = [row.count("█") for row in rows.values()]
    assert bars[0] == 30 > bars[1] > bars[2] == 0
    assert "chosen" in rows["0.03"]
    assert "diverged" in rows["0.1"]
    assert "2.2" in rows["0.03"]
    assert max(map(len, text.splitlines())) <= 80
    assert "Decided at 30%" in text


def test_the_plot_needs_no_blocks():
    text = shown([RatePlot(rates_of("soap").trials)], kind=Ascii)
    assert text.isascii()
    assert [line.count("#") for line in text.splitlines()[2:]] == [30, 15, 1, 0]


def test_a_rate_that_all_but_diverges_does_not_flatten_the_others():
    race = rates_of("adamw")
    worst = race.trials[0].curve[0].model_copy(update={"loss": 1e6})
    trials = [race.trials[0].model_copy(update={"curve": [worst]}), *race.trials[1:]]
    lines = shown([RatePlot(trials)]).splitlines()[2:]
    assert lines[0].rstrip().endswith(">")
    assert lines[2].count("█") >= 10


def test_the_live_table_tells_every_run():
    output = Output()
    output.notes = Console(file=io.StringIO(), width=80, force_terminal=True, _environ={})
    rows = (
        events.RunRow("soap", 0.01, 20, 1000, 2.5, "training"),
        events.RunRow("adamw", 0.003, 20, 1000, 3.5, "stopped"),
        events.RunRow("adamw", 0.01, 0, 1000, None, "waiting"),
        events.RunRow("lion", 0.01, 20, 1000, None, "diverged"),
    )
    progress = RaceProgress(output)
    progress(events.Stood(rows, 0.04, 0.8))
    progress(events.RunStepped("soap", 0.01, 40, 1000, 2.4))
    text = shown([progress._drawn()])
    for words in (
        "soap 0.01 40 1,000 2.5 training",
        "adamw 0.003 20 1,000 3.5 stopped",
        "lion 0.01 20 1,000 - diverged",
    ):
        assert words.split() in [line.split() for line in text.splitlines()]
    assert "10%" in text  # 0.08 of 0.8 runs
    many = tuple(events.RunRow("soap", float(k), 20, 1000, 2.5, "stopped") for k in range(1, 40))
    progress(events.Stood((*many, rows[0]), 0.04, 0.8))
    lines = shown([progress._drawn()]).splitlines()
    assert len(lines) < 24
    assert any("training" in line for line in lines)


@pytest.mark.parametrize(
    ("text", "share"), [("10%", 0.1), ("0.1", 0.1), (" 2.5 % ", 0.025), ("150%", 1.5), ("1", 1.0)]
)
def test_a_share(text, share):
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "x", "0", "-5%", "nan", "inf%", "10", "%", "1e400%"])
def test_no_share(text):
    with pytest.raises(UsageError, match="is no share of a run"):
        parse_share(text)


def test_a_default_budget_may_grow_and_one_that_was_asked_for_may_not():
    assert read_budget(None, None, RATES_SHARE).least_methods == 1
    assert read_budget(None, None, METHODS_SHARE).least_methods == 2
    assert read_budget("10%", None, METHODS_SHARE).least_methods is None
    assert read_budget(None, 3.0, METHODS_SHARE).minutes == 3.0


def test_adamw_is_in_every_race_of_methods():
    assert with_adamw(None) is None
    assert with_adamw(["galore", "soap"]) == ["galore", "soap", "adamw"]
    assert with_adamw(["adamw", "soap"]) == ["adamw", "soap"]


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
    assert joined(mine, of_mine.model_copy(update={"trials": race.trials[:1]})) is None


def test_the_report_draws_every_run_and_the_rates(profile):
    race = made_up_race()
    sentences, curves, rates = race_parts(profile.model_copy(update={"race": race}))
    assert sentences.sentences == race_summary(race)
    assert len(curves.traces) == 6  # those that were ever compared
    first = curves.traces[0]
    assert (first["name"], first["x"], first["y"]) == (
        "soap",
        pytest.approx([2.0, 5.0, 30.0]),
        [2.7, 2.2, 1.5],
    )
    widths = [trace["line"]["width"] for trace in curves.traces]
    assert widths[0] > max(widths[1:])
    assert [trace["name"] for trace in curves.traces if trace["showlegend"]] == ["soap", "adamw"]
    drawn = {
        trace["name"]: dict(zip(trace["x"], trace["y"], strict=True)) for trace in rates.traces
    }
    assert drawn["soap at 2%"] == {0.003: 3.0, 0.01: 2.8, 0.03: 2.7}
    assert drawn["soap at 5%"] == {0.01: 2.4, 0.03: 2.2}
    assert drawn["adamw at 30%"] == {0.003: 1.8}
    assert race_parts(profile) == []
    old = race_parts(profile.model_copy(update={"race": seeded_race()}))
    assert len(old) == 2


def profile_here(folder, profile):
    target = load_target("model.py", base=folder).record
    profile.model_copy(update={"target": target}).save(folder / "profile.json")


def test_from_profile_to_race_and_back(subopt, folder, quick, profile):
    profile_here(folder, profile)
    words = ["race", "profile.json", "--methods", "lion", "--steps", "30", "--gpu-mem", "24G"]
    ended = subopt(*words, "--device", "cpu", "--json")
    assert ended.status == 0, ended.err
    race = Race.model_validate(json.loads(ended.out))
    assert Profile.load(folder / "profile.json").race == race
    assert Race.model_validate_json((folder / "runs/race-profile/race.json").read_text()) == race
    assert "lion" in {contestant.method for contestant in race.contestants}
    assert {contestant.steps for contestant in race.contestants} == {30}
    assert "the result is in profile.json" in ended.err
    again = subopt(*words)
    assert again.status == 2
    assert "--resume" in again.err


def test_the_rate_joins_the_profile_and_the_next_recipe(subopt, folder, quick, profile):
    profile_here(folder, profile)
    ended = subopt("lr", "profile.json", "--steps", "30", "--gpu-mem", "24G", "--device", "cpu")
    assert ended.status == 0, ended.err
    race = Profile.load(folder / "profile.json").race
    (contestant,) = race.contestants
    assert f"Learning rate of {contestant.method}" in ended.out
    following = next(line for line in ended.out.splitlines() if line.startswith("next"))
    command = following.split()[1:]
    assert command[:2] == ["subopt", "train"]
    assert subopt(*command[1:], "--device", "cpu").status == 0
    assert (
        folder / f"runs/lr-profile/runs/{contestant.method}-{contestant.lr:g}/model.safetensors"
    ).exists()
    words = ["--profile", "profile.json", "--gpu-mem", "24G", "--steps", "30"]
    advised = subopt("recommend", *words, "--output", "next.yaml", "--force")
    assert advised.status == 0, advised.err
    assert "(predicted, not raced)" in advised.out
    assert f"rate       {contestant.lr:.2g}, the best of {contestant.trials} runs" in advised.out
    recipe = load_recipe(folder / "next.yaml")
    assert (recipe.optimizer.method, recipe.optimizer.lr) == (contestant.method, contestant.lr)


def test_lr_takes_another_method(subopt, folder, quick):
    ended = subopt(
        "lr", "recipe.yaml", "optimizer.method=lion", "schedule.steps=20", "--device", "cpu"
    )
    assert ended.status == 0, ended.err
    assert "Learning rate of lion" in ended.out


def test_train_begins_with_a_race_and_goes_on_with_its_winner(subopt, folder, quick):
    words = ["train", "recipe.yaml", "schedule.steps=30", "--race", "--device", "cpu"]
    dry = subopt(*words, "--dry-run")
    assert dry.status == 0, dry.err
    assert "3 rates, compared at 33% of the run, the best goes on;" in " ".join(dry.out.split())
    assert not (folder / "runs").exists()
    ended = subopt(*words)
    assert ended.status == 0, ended.err
    race = Race.model_validate_json((folder / "runs/recipe/race/race.json").read_text())
    result = json.loads((folder / "runs/recipe/result.json").read_text())
    assert (result["step"], result["resumed_from"]) == (30, race.winner.steps)
    assert f"lr: {race.winner.lr}" in (folder / "runs/recipe/recipe.yaml").read_text()
    again = subopt(*words, "--resume")
    assert again.status == 0
    assert "already complete" in again.err
    refused = subopt(*words)
    assert refused.status == 2
    assert "runs/recipe already exists" in refused.err


@pytest.mark.parametrize("stop_at", [1, 15, 45])
def test_train_with_a_race_resumes_wherever_it_was(subopt, folder, quick, monkeypatch, stop_at):
    """In the first run of the race, in another one, and in the run that goes on."""
    from subopt.recipes.training import trainer

    words = ["train", "recipe.yaml", "schedule.steps=30", "--race", "--device", "cpu"]
    assert subopt(*words, "--output", "whole").status == 0
    steps, original = 0, trainer._Training._step

    def stopping(self):
        nonlocal steps
        original(self)
        steps += 1
        if steps == stop_at:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(trainer._Training, "_step", stopping)
    cut = subopt(*words)
    assert cut.status == 130
    assert "--resume" in cut.err + cut.out
    ended = subopt(*words, "--resume")
    assert ended.status == 0, ended.err
    for name in ("model.safetensors", "recipe.yaml"):
        assert (folder / "runs/recipe" / name).read_bytes()
    weights = [folder / at / "model.safetensors" for at in ("whole", "runs/recipe")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["race", "none.yaml"], "none.yaml"),
        (["race", "none.json"], "there is no profile at none.json"),
        (["race", "recipe.yaml", "--methods", "lino"], "unknown method 'lino'; did you mean 'lion'?"),
        (["race", "recipe.yaml", "--methods", ","], "--methods names no method"),
        (["race", "recipe.yaml", "--minutes", "0"], "a race needs a budget above 0"),
        (["race", "recipe.yaml", "--minutes", "x"], "--minutes"),
        (["race", "recipe.yaml", "--share", "ten"], "'ten' is no share of a run"),
        (["race", "recipe.yaml", "--share", "10%", "--minutes", "3"], "are two budgets"),
        (["race", "recipe.yaml", "--steps", "0"], "--steps"),
        (["race", "recipe.yaml", "--gpu-mem", "24G"], "--gpu-mem goes by a profile's memory"),
        (["race", "recipe.yaml", "--resume"], "holds no race to resume"),
        (["race", "recipe.yaml", "--device", "tpu"], "tpu"),
        (["race", "recipe.yaml", "--output", "model.py"], "is a file"),
        (["race", "recipe.yaml", "--minutes", "0.001", "--methods", "lion"], "minutes are too few"),
        (["race", "recipe.yaml", "--share", "1%"], "of a run is too little"),
        (["lr", "recipe.yaml", "optimizer.lr=fast"], "optimizer.lr"),
        (["lr", "recipe.yaml", "--share", "-1"], "'-1' is no share of a run"),
        (["train", "recipe.yaml", "--share", "10%"], "are a race's"),
        (["train", "recipe.yaml", "--race", "--share", "x"], "'x' is no share of a run"),
        (["train", "recipe.yaml", "--race", "--resume"], "holds no race to resume"),
    ],
)  # fmt: skip
def test_what_is_refused(subopt, folder, quick, words, says):
    ended = subopt(*words)
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
