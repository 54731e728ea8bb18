"""A whole race: that everyone is treated alike, that it can be cut anywhere and go on, and what it leaves behind."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter, defaultdict

import pytest
import torch

from subopt.errors import DoesNotFitError, UsageError
from subopt.profilers.record.profile import Race
from subopt.recipes.race import events, running
from subopt.recipes.race import race as race_module
from subopt.recipes.race import trial as trial_module
from subopt.recipes.race.source import RaceSource
from subopt.recipes.recipe.load import parse_recipe
from subopt.recipes.training.trainable import Trainable

from .conftest import MINUTES, MODEL, RECIPE, SHORT, Races


def searched(race, method):
    return [trial for trial in race.trials if trial.method == method and trial.role == "search"]


def test_everyone_has_the_same_search(whole):
    _, race = whole
    counts = Counter(trial.method for trial in race.trials if trial.role == "search")
    assert counts == {"adamw": 4, "galore": 4, "lion": 4}
    assert not race.interrupted
    first = {method: [trial.lr for trial in searched(race, method)[:3]] for method in counts}
    for rates in first.values():
        assert [rate / rates[0] for rate in rates] == pytest.approx([1, 1 / 3, 3])
    horizons = {trial.method: trial.seconds for trial in race.trials if trial.status == "done"}
    assert all(seconds <= race.horizon_seconds for seconds in horizons.values())


def test_the_finalists_and_adamw_repeat_their_best_setting(whole):
    _, race = whole
    finals = [trial for trial in race.trials if trial.role == "final"]
    assert sorted((trial.method, trial.seed) for trial in finals) == [
        (method, 1) for method in ("adamw", "galore", "lion")
    ]
    for contestant in race.contestants:
        best = min(
            (trial for trial in searched(race, contestant.method) if trial.status == "done"),
            key=lambda trial: trial.loss,
        )
        assert (contestant.lr, contestant.options) == (best.lr, best.options)
        again = {t.seed: t.loss for t in finals if t.method == contestant.method}
        assert contestant.losses == [best.loss, again[1]]
    means = [sum(contestant.losses) / 2 for contestant in race.contestants]
    assert means == sorted(means)


def test_what_methods_leave_alone_has_adamws_best_rate(races, monkeypatch):
    recipes = defaultdict(list)

    def watching(recipe, target, device):
        recipes[recipe.optimizer.method].append(recipe)
        return original(recipe, target, device)

    original = trial_module.make_trainable
    monkeypatch.setattr(trial_module, "make_trainable", watching)
    race = races(seeds=1, minutes=1.7)
    best = min((t for t in searched(race, "adamw") if t.loss is not None), key=lambda t: t.loss)
    assert race.fallback_lr == best.lr
    assert {recipe.optimizer.fallback.lr for recipe in recipes["galore"]} == {best.lr}
    assert {recipe.optimizer.fallback.lr for recipe in recipes["lion"]} == {best.lr}
    assert {recipe.optimizer.fallback.lr for recipe in recipes["adamw"]} == {None}
    for recipe in (recipe for made in recipes.values() for recipe in made):
        assert recipe.clip_norm == 1.0
        shape = recipe.schedule
        assert shape.warmup_steps == round(shape.steps * 2 / 12)
    # galore's refreshes take half a second more, so it has fewer steps in the same time
    assert recipes["galore"][0].schedule.steps < recipes["lion"][0].schedule.steps


def test_weights_and_batches_are_the_same_at_a_seed(races, monkeypatch):
    weights, batches = defaultdict(set), defaultdict(list)

    def watching(recipe, target, device):
        trainable = original(recipe, target, device)
        tensors = [value for _, value in sorted(trainable.model.state_dict().items())]
        weights[recipe.seed].add(digest(*tensors))
        batches[recipe.seed].append([])
        return trainable

    def batch(self, batch):
        if self.model.training:
            batches[self.recipe.seed][-1].append(digest(batch))
        return batch

    def digest(*tensors):
        return hashlib.sha256(b"".join(t.numpy().tobytes() for t in tensors)).hexdigest()

    original = trial_module.make_trainable
    monkeypatch.setattr(trial_module, "make_trainable", watching)
    monkeypatch.setattr(Trainable, "batch", batch)
    races(minutes=1.9, methods=["galore"])
    assert {seed: len(found) for seed, found in weights.items()} == {0: 1, 1: 1}
    assert weights[0] != weights[1]
    for seed in (0, 1):
        longest = max(batches[seed], key=len)
        assert len(longest) == 12
        assert all(seen == longest[: len(seen)] for seen in batches[seed])
    assert batches[0][0] != batches[1][0]


def test_trials_are_stopped_at_rungs_only(whole):
    _, race = whole
    stopped = [trial for trial in race.trials if trial.status == "stopped"]
    assert stopped
    assert {len(trial.curve) for trial in stopped} <= {2, 6}
    for trial in stopped:
        rung = len(trial.curve) - 1
        earlier = searched(race, trial.method)
        earlier = earlier[: earlier.index(trial)]
        before = [t.curve[rung].loss for t in earlier if len(t.curve) > rung]
        assert trial.curve[rung].loss > min(before)
    assert {trial.status for trial in race.trials if trial.role == "final"} == {"done"}


@pytest.mark.parametrize("stop_after", [1, 90])
def test_a_race_that_was_cut_goes_on_bit_for_bit(whole, races, stop_after):
    _, expected = whole
    cut = races(stop_after=stop_after)
    assert cut.interrupted
    assert len(cut.trials) < len(expected.trials)
    assert Race.model_validate_json((races.folder / "race/race.json").read_text()) == cut
    resumed = races(resume=True)
    assert resumed.trials == expected.trials
    assert resumed.contestants == expected.contestants
    assert not resumed.interrupted


def test_resuming_a_finished_race_trains_nothing(whole):
    runner, expected = whole
    again = runner(resume=True)
    assert runner.of(events.TrialStarted) == []
    assert again.contestants == expected.contestants


def test_a_kill_in_the_middle_of_a_line_loses_that_trial_alone(races, whole):
    _, expected = whole
    races(stop_after=60)
    file = races.folder / "race/trials.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines) + lines[0][: len(lines[0]) // 2])
    assert races(resume=True).trials == expected.trials
    assert len(file.read_text().splitlines()) == len(expected.trials)


def test_without_held_out_data_the_last_tenth_of_training_counts(tmp_path, fixed_step_times):
    model = MODEL.replace("def eval_batches", "def other_batches")
    race = Races(tmp_path, model=model)(seeds=1, methods=["lion"], minutes=SHORT)
    assert race.metric == "training loss"
    trial = race.trials[0]
    assert [point.step for point in trial.curve][-2:] == [11, 12]
    recipe = trial_module.RaceSetup(
        parse_recipe(RECIPE), _target(tmp_path), torch.device("cpu")
    ).recipe_of("adamw", {}, trial.lr, steps=12, seed=0, fallback_lr=None)
    trainable = trial_module.make_trainable(recipe, _target(tmp_path), torch.device("cpu"))
    stepper = trial_module.Stepper(trainable, trainable.begin())
    losses = [stepper.take(step).loss for step in range(1, 13)]
    assert trial.curve[0].loss == pytest.approx(losses[0])
    assert trial.curve[2].step == 4
    assert trial.curve[2].loss == pytest.approx(sum(losses[2:4]) / 2, rel=1e-6)
    assert trial.loss == pytest.approx(losses[-1])


def _target(folder):
    from subopt.profilers.target.load import load_target

    return load_target("model.py", base=folder)


def test_diverging_trials_are_recorded_and_lose(tmp_path, fixed_step_times):
    model = MODEL.replace(
        "def loss(model, batch):", "def loss(model, batch):\n    _check(model)"
    ) + (
        "\n\ndef _check(model):\n"
        "    if model.inner.weight.abs().max() > 0.6:\n"
        "        model.inner.weight.data.fill_(float('nan'))\n"
    )
    race = Races(tmp_path, model=model)(methods=["momentum"], seeds=1, minutes=1.2)
    diverged = [trial for trial in race.trials if trial.status == "diverged"]
    assert diverged
    assert {trial.loss for trial in diverged} == {None}
    assert all(trial.lr != race.fallback_lr for trial in diverged if trial.method == "adamw")


def test_a_method_out_of_memory_leaves_the_race(races, monkeypatch):
    def running_out(recipe, target, device):
        if recipe.optimizer.method == "galore":
            raise DoesNotFitError("out of memory at step 1: CUDA out of memory")
        return original(recipe, target, device)

    original = trial_module.make_trainable
    monkeypatch.setattr(trial_module, "make_trainable", running_out)
    race = races(seeds=1, minutes=0.7)
    assert [(item.method, item.reason) for item in race.left_out] == [
        ("galore", "out of memory at step 1: CUDA out of memory")
    ]
    assert sorted(c.method for c in race.contestants) == ["adamw", "lion"]
    assert len(races.of(events.Dropped)) == 1
    monkeypatch.setattr(trial_module, "make_trainable", original)
    resumed = races(seeds=1, minutes=0.7, resume=True)  # what has left stays out
    assert resumed.left_out == race.left_out
    assert resumed.trials == race.trials


def test_out_of_time_it_ends_with_what_is_complete(races, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(race_module, "monotonic", lambda: now[0])
    monkeypatch.setattr(running, "monotonic", lambda: now[0])

    def passing(self, step):
        now[0] += 3.0  # the machine is three times as slow as it was
        return original(self, step)

    original = trial_module.Stepper.take
    monkeypatch.setattr(trial_module.Stepper, "take", passing)
    race = races()
    assert race.interrupted
    assert len(races.of(events.TimeUp)) == 1
    assert now[0] < 60 * MINUTES + 10
    counts = {c.method: c.trials for c in race.contestants}
    assert len(set(counts.values())) == 1  # the same number counts for everybody


def test_a_recipes_own_method_starts_from_its_rate_and_options(tmp_path, fixed_step_times):
    recipe = RECIPE.replace(
        "{method: adamw, lr: 1e-2}", "{method: galore, lr: 0.5, options: {rank: 2, period: 3}}"
    )
    race = Races(tmp_path, recipe=recipe)(methods=["galore"], minutes=1.2, seeds=1)
    trials = searched(race, "galore")
    assert trials[0].lr == 0.5
    assert trials[0].options == {"rank": 2, "period": 3}
    assert all(trial.options["rank"] == 2 for trial in trials)
    assert searched(race, "adamw")[0].lr != 0.5


def test_overrides_apply_to_whom_they_can(tmp_path, fixed_step_times, monkeypatch):
    recipe = (
        RECIPE
        + "optimizer: {method: galore, lr: 0.1, overrides: "
        + "[{pattern: inner, options: {rank: 1}}, {pattern: outer, lr: 0.01}]}\n"
    )
    recipe = recipe.replace("optimizer: {method: adamw, lr: 1e-2}\n", "")
    overrides = {}

    def watching(recipe, target, device):
        overrides[recipe.optimizer.method] = [
            override.pattern for override in recipe.optimizer.overrides
        ]
        return original(recipe, target, device)

    original = trial_module.make_trainable
    monkeypatch.setattr(trial_module, "make_trainable", watching)
    Races(tmp_path, recipe=recipe)(methods=["galore", "lion"], minutes=0.7, seeds=1)
    assert overrides == {"adamw": ["outer"], "lion": ["outer"], "galore": ["inner", "outer"]}


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"minutes": 0.01}, "minutes are too few"),
        ({"minutes": float("nan")}, "make no race"),
        ({"minutes": -1}, "make no race"),
        ({"seeds": 0}, "at least one finalist and one seed"),
        ({"methods": ["adamw"]}, "nothing to race adamw against"),
        ({"methods": ["galor"]}, "unknown method 'galor'; did you mean 'galore'"),
        ({"resume": True}, "holds no race to resume"),
    ],
)
def test_what_makes_no_race(races, keys, says):
    with pytest.raises(Exception, match=says):
        races("other", **keys)
    assert not (races.folder / "other").exists()


def test_too_few_minutes_says_how_many_it_takes(races):
    with pytest.raises(UsageError) as caught:
        races(minutes=0.2, methods=["lion"])
    needed = float(caught.value.hint.partition("--minutes ")[2].partition(";")[0])
    assert races(minutes=needed, methods=["lion"]).contestants
    with pytest.raises(UsageError, match="too few"):
        races("other", minutes=needed - 0.1, methods=["lion"])


def test_synthetic_data_is_refused(tmp_path, fixed_step_times, monkeypatch):
    runner = Races(tmp_path)
    target = race_module.training_target(runner.source.recipe, tmp_path)
    data = dataclasses.replace(target.data, is_synthetic=True)
    random = dataclasses.replace(target, data=data)
    monkeypatch.setattr(race_module, "training_target", lambda recipe, base: random)
    with pytest.raises(UsageError, match="SYNTHETIC"):
        runner()


def test_optuna_is_asked_for_by_name(races, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(UsageError, match="optuna") as caught:
        races()
    assert "subopt[race]" in caught.value.hint


def test_a_changed_model_needs_force(races):
    sha = "0" * 64
    model = races.source.recipe.model.model_copy(update={"sha256": sha})
    changed = RaceSource(races.source.recipe.model_copy(update={"model": model}), races.recipe_path)
    with pytest.raises(Exception, match="has changed since"):
        races(source=changed)
    assert races(source=changed, force=True, methods=["lion"], seeds=1, minutes=SHORT).contestants
