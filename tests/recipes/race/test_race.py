"""A whole race: that everyone is treated alike, and what it leaves behind."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import pytest

from subopt.errors import DoesNotFitError, NonFiniteLossError, UsageError
from subopt.profilers.record.profile import Race
from subopt.recipes.race import events, planning, running
from subopt.recipes.race import race as race_module
from subopt.recipes.race.budget import RaceBudget
from subopt.recipes.race.design import rung_step
from subopt.recipes.race.folder import RaceFolder
from subopt.recipes.race.race import plan_race
from subopt.recipes.race.rate_grid import half_decades_from
from subopt.recipes.race.source import RaceSource
from subopt.recipes.race.standing import Standing
from subopt.recipes.recipe.load import load_recipe, parse_recipe
from subopt.recipes.training.events import Warned
from subopt.recipes.training.trainer import train

from .conftest import MODEL, RECIPE, SHARE, STEP_MS, Races, weights_of
from .test_step_time import counted


def plan_in(runner):
    folder = RaceFolder(runner.path("."))
    return folder.load_plan({})


def test_everyone_has_the_same_rates_to_begin_with(whole):
    _, race = whole
    own = {trial.lr for trial in race.trials if trial.method == "lion"}
    assert {1e-2, 3e-2} <= own  # the recipe's own and the next higher
    for method in ("lion", "adamw"):
        rates = sorted(trial.lr for trial in race.trials if trial.method == method)
        assert 3 <= len(rates) <= 4  # of two rates one is always at an end
        assert all(2.9 < high / low < 3.4 for low, high in pairwise(rates))
    assert not race.interrupted
    assert race.share == 0.3


def best_at(points, method, share):
    """The rate of the lowest loss of those that a method was compared with first."""
    came = [p for p in points if (p.method, p.share) == (method, share)]
    return min(came[:3], key=lambda p: p.loss).lr


def test_the_best_at_every_rung_goes_on_half_a_decade_lower(whole):
    runner, race = whole
    folder = RaceFolder(runner.path("."))
    plan = plan_in(runner)
    points = [entry.point for entry in folder.load_entries(plan)]
    for method in ("lion", "adamw"):
        went_on = [p.lr for p in points if (p.method, p.share) == (method, 0.3)]
        assert went_on == [half_decades_from(best_at(points, method, 1 / 40), -1)]
    last = min((p for p in points if p.share == 0.3), key=lambda p: p.loss)
    assert (race.winner.method, race.winner.lr) == (last.method, last.lr)
    assert race.winner.loss == last.loss
    assert [trial.status for trial in race.trials].count("going on") == 1


def test_the_cost_is_that_of_the_runs_that_stopped(whole):
    runner, race = whole
    plan = plan_in(runner)
    steps = {candidate.method: candidate.steps for candidate in plan.candidates}
    stopped = [trial for trial in race.trials if trial.status != "going on"]
    for trial in race.trials:
        rung = trial.curve[-1].share
        assert trial.steps == rung_step(rung, steps[trial.method])
    assert race.cost_runs == pytest.approx(sum(trial.curve[-1].share for trial in stopped))
    assert race.cost_runs <= plan.design.cost_runs + 1e-9
    assert plan.design.cost_runs <= SHARE


def test_whole_runs_take_equal_time(whole):
    runner, race = whole
    plan = plan_in(runner)
    assert plan.run_seconds == 400.0
    steps = {candidate.method: candidate.steps for candidate in plan.candidates}
    assert steps == {"lion": 400, "adamw": 800}
    for contestant in race.contestants:
        assert contestant.steps * STEP_MS[contestant.method] / 1000 == plan.run_seconds
        assert contestant.steps * contestant.step_ms / 1000 == pytest.approx(race.horizon_seconds)
    for trial in race.trials:
        recipe = load_recipe(runner.path(f"runs/{trial.method}-{trial.lr:g}/recipe.yaml"))
        assert recipe.schedule.steps == steps[trial.method]
        # the same shape, over its own steps
        assert recipe.schedule.warmup_steps == 4 * steps[trial.method] // 400


def test_a_plan_counts_refreshes_where_they_come_and_writes_nothing(races):
    plan = plan_race(races.source, budget=RaceBudget(share=3), methods=["galore"], device="cpu")
    steps = {candidate.method: candidate.steps for candidate in plan.candidates}
    assert steps == {"lion": 400, "galore": counted(400.0, plan.step_times["galore"], "galore", {})}
    assert steps["galore"] < 400
    assert not races.path(".").exists()


def test_a_slow_method_that_breaks_the_budget_stays_out(tmp_path, fixed_step_times, monkeypatch):
    """Over its few steps no rung lies early, so that the race of two would cost more than was given."""
    monkeypatch.setitem(STEP_MS, "adamw", 10_000.0)
    runner = Races(tmp_path)
    plan = plan_race(runner.source, budget=RaceBudget(share=1.3), device="cpu")
    assert plan.design.cost_runs <= 1.3
    assert [one.method for one in plan.candidates] == ["lion"]
    assert ("adamw", "the budget buys no more methods") in [
        (i.method, i.reason) for i in plan.left_out
    ]
    asked = plan_race(runner.source, budget=RaceBudget(share=0.5), methods=["adamw"], device="cpu")
    assert len(asked.candidates) == 2  # who is asked for takes part


@pytest.mark.parametrize(
    ("budget", "count"),
    [
        (RaceBudget(share=0.5, least_methods=2), 2),  # what `subopt race` has where nobody says
        (RaceBudget(share=0.5), 1),  # rates before methods
        (RaceBudget(share=0.1, least_methods=1), 1),
    ],
)
def test_how_many_methods_a_budget_brings_in(tmp_path, fixed_step_times, budget, count):
    plan = plan_race(Races(tmp_path).source, budget=budget, device="cpu")
    assert len(plan.candidates) == plan.design.methods == count


def test_the_difference_is_paired_over_held_out_batches(whole):
    runner, race = whole
    folder = RaceFolder(runner.path("."))
    points = {
        (p.method, p.lr, p.share): p
        for p in (entry.point for entry in folder.load_entries(plan_in(runner)))
    }
    found = {contestant.method: contestant for contestant in race.contestants}
    own = points["lion", found["lion"].lr, 0.3]
    base = points["adamw", found["adamw"].lr, 0.3]
    assert len(own.batch_losses) == 3
    differences = [a - b for a, b in zip(own.batch_losses, base.batch_losses, strict=True)]
    mean = sum(differences) / 3
    error = math.sqrt(sum((d - mean) ** 2 for d in differences) / 2) / math.sqrt(3)
    assert found["lion"].difference == pytest.approx(own.loss - base.loss)
    assert found["lion"].difference_error == pytest.approx(error)
    assert found["adamw"].verdict == "baseline"
    assert found["adamw"].difference is None
    losses = [contestant.losses[0] for contestant in race.contestants]
    assert losses == sorted(losses)


def test_the_record_is_on_disk_and_the_stopped_take_no_room(whole):
    runner, race = whole
    assert Race.model_validate_json(runner.path("race.json").read_text()) == race
    for trial in race.trials:
        has_checkpoint = runner.path(f"runs/{trial.method}-{trial.lr:g}/checkpoints").exists()
        assert has_checkpoint == (trial.status == "going on")
    assert [event.total_runs for event in runner.of(events.Stood)][-1] >= runner.of(events.Stood)[
        -1
    ].done_runs


def test_the_events_tell_who_trains_and_who_has_stopped(whole):
    runner, race = whole
    stood = runner.of(events.Stood)
    states = {row.state for event in stood for row in event.rows}
    assert {"waiting", "training", "going on", "stopped"} <= states
    assert all(sum(row.state == "training" for row in event.rows) <= 1 for event in stood)
    last = {(row.method, row.lr): row.state for row in stood[-1].rows}
    expected = {(t.method, t.lr): t.status for t in race.trials}
    assert last == expected
    (decided,) = runner.of(events.Decided)
    assert (decided.method, decided.lr, decided.step) == (
        race.winner.method, race.winner.lr, race.winner.steps,
    )  # fmt: skip


def test_rates_alone(races):
    race = races(methods=["lion"], budget=RaceBudget(share=0.1))
    assert {trial.method for trial in race.trials} == {"lion"}
    assert race.share == 1 / 40
    assert race.cost_runs <= 0.1
    (contestant,) = race.contestants
    tried = {trial.lr: trial.curve[0].loss for trial in race.trials}
    assert contestant.lr == race.winner.lr == half_decades_from(min(tried, key=tried.get), -1)
    assert race.baseline == "lion"


def test_without_held_out_data_the_training_loss_decides(tmp_path, fixed_step_times):
    runner = Races(tmp_path, model=MODEL.replace("def eval_batches", "def other_batches"))
    race = runner(methods=["lion"], budget=RaceBudget(share=0.1))
    assert race.metric == "training loss"
    assert any("no held-out data" in event.message for event in runner.of(Warned))
    stepped = [e for e in runner.of(events.RunStepped) if e.lr == 1e-2]
    late = [event.loss for event in stepped if 5 < event.step <= 10]
    trial = next(t for t in race.trials if t.lr == 1e-2)
    assert trial.curve[0].loss == pytest.approx(sum(late) / 5)
    assert race.contestants[0].difference_error is None


# A model that breaks when a weight has moved too far.
CHECKED = MODEL.replace(
    "def loss(model, batch):", "def loss(model, batch):\n    _check(model)"
).replace(
    "        self.drop =",
    '        self.register_buffer("first", self.inner.bias.detach().clone())\n        self.drop =',
) + (
    "\n\ndef _check(model):\n"
    "    if (model.inner.bias - model.first).abs().max() > LIMIT:\n"
    "        model.inner.weight.data.fill_(float('nan'))\n"
)


def test_a_rate_that_diverges_loses(tmp_path, fixed_step_times):
    runner = Races(tmp_path, model=CHECKED.replace("LIMIT", "0.15"))
    race = runner(methods=["lion"], budget=RaceBudget(share=0.1))
    status = {trial.lr: trial.status for trial in race.trials}
    assert status[3e-2] == "diverged"
    assert race.winner.lr < 3e-2
    trial = next(t for t in race.trials if t.lr == 3e-2)
    assert (trial.loss, trial.curve) == (None, [])


def test_where_everything_diverges_it_says_so(tmp_path, fixed_step_times):
    runner = Races(tmp_path, model=CHECKED.replace("LIMIT", "0"))
    with pytest.raises(NonFiniteLossError, match=r"every run .* down to a learning rate of 0\.01$"):
        runner(methods=["lion"], budget=RaceBudget(share=0.1))
    record = Race.model_validate_json(runner.path("race.json").read_text())
    assert record.winner is None
    assert {trial.status for trial in record.trials} == {"diverged"}
    assert [one.verdict for one in record.contestants] == ["diverged"]


def test_a_method_that_cannot_run_is_left_out(races, monkeypatch):
    def running_out(recipe, **keys):
        if recipe.optimizer.method == "adamw":
            raise DoesNotFitError("out of memory at step 1")
        return original(recipe, **keys)

    original = running.train
    monkeypatch.setattr(running, "train", running_out)
    race = races()
    assert [(item.method, item.reason) for item in race.left_out] == [
        ("adamw", "out of memory at step 1")
    ]
    assert [one.method for one in race.contestants] == ["lion"]
    assert race.winner.method == "lion"
    assert len(races.of(events.Dropped)) == 1
    monkeypatch.setattr(running, "train", original)
    resumed = races(resume=True)  # what has left stays out
    assert (resumed.left_out, resumed.trials) == (race.left_out, race.trials)


def test_a_single_method_that_cannot_run_is_an_error(races, monkeypatch):
    def running_out(recipe, **keys):
        raise DoesNotFitError("out of memory at step 1")

    monkeypatch.setattr(running, "train", running_out)
    with pytest.raises(DoesNotFitError):
        races(methods=["lion"], budget=RaceBudget(share=0.1))


class Clock:
    """A clock that moves by a step's invented time with every step, or by a multiple of it."""

    def __init__(self, monkeypatch, slower):
        self.now_s = 0.0
        for module in (race_module, planning, running):
            monkeypatch.setattr(module, "monotonic", lambda: self.now_s)
        original = running.train

        def training(recipe, *, on_event, **keys):
            ms = STEP_MS.get(recipe.optimizer.method, 1000.0)

            def hearing(event):
                self.now_s += slower * ms / 1000 * (type(event).__name__ == "Stepped")
                on_event(event)

            return original(recipe, on_event=hearing, **keys)

        monkeypatch.setattr(running, "train", training)


# A run takes 400 s at the invented step times. Both methods and the winner's part take at most 0.75 runs.
MINUTES = 7


def test_minutes_that_are_enough_are_not_cut(races, monkeypatch):
    clock = Clock(monkeypatch, slower=1.0)
    race = races(budget=RaceBudget(minutes=MINUTES))
    assert not race.interrupted
    assert races.of(events.TimeUp) == []
    assert clock.now_s <= 60 * MINUTES
    assert {one.method for one in race.contestants} == {"lion", "adamw"}


def test_cut_by_the_clock_the_best_that_is_known_wins(races, monkeypatch):
    Clock(monkeypatch, slower=2.5)  # the machine has become slower
    race = races(budget=RaceBudget(minutes=MINUTES))
    assert race.interrupted
    assert len(races.of(events.TimeUp)) == 1
    folder = RaceFolder(races.path("."))
    plan = plan_in(races)
    points = [entry.point for entry in folder.load_entries(plan)]
    assert not Standing(plan, folder.load_entries(plan)).is_decided
    losses = {(p.method, p.lr): p.loss for p in points if p.share == race.share}
    assert {method for method, _ in losses} == {"lion", "adamw"}
    lowered = [
        (method, half_decades_from(best_at(points, method, race.share), -1))
        for method in ("lion", "adamw")
    ]
    assert (race.winner.method, race.winner.lr) == min(lowered, key=losses.get)
    assert len(race.trials) == len({(p.method, p.lr) for p in points})
    monkeypatch.undo()
    resumed = races(budget=RaceBudget(minutes=20), resume=True)
    assert not resumed.interrupted
    assert resumed.share == 0.3


def test_what_another_method_leaves_alone_begins_in_proportion_to_it(tmp_path, fixed_step_times):
    plan = plan_race(
        Races(tmp_path).source, budget=RaceBudget(share=2.0), methods=["galore"], device="cpu"
    )
    other = next(one for one in plan.candidates if one.method == "galore")
    assert other.fallback_lr == pytest.approx(0.3 * other.start_lr)


# Of so high rates the lowest is the best, and half a decade below it nobody has begun.
HIGH = RECIPE.replace("lr: 1e-2", "lr: 3")
ALONE = {"methods": ["lion"], "budget": RaceBudget(share=0.1)}


def test_a_lowered_rate_that_is_new_begins_at_the_beginning(tmp_path, fixed_step_times):
    runner = Races(tmp_path, recipe=HIGH)
    race = runner(**ALONE)
    order = [lr for lr in (3, 10, 30, 1) for _ in range(10)]
    assert [e.lr for e in runner.of(events.RunStepped)] == order
    assert race.winner.lr == race.contestants[0].lr == 1
    assert race.cost_runs == pytest.approx(3 / 40)
    assert race.cost_runs <= plan_in(runner).design.cost_runs + 1e-9
    assert weights_of(runner.path("runs/lion-1"))
    assert not runner.path("runs/lion-3/checkpoints").exists()
    states = [{row.lr: row.state for row in stood.rows} for stood in runner.of(events.Stood)]
    rest = {10: "stopped", 30: "stopped"}
    assert {1: "training", 3: "going on", **rest} in states
    assert states[-1] == {1: "going on", 3: "stopped", **rest}


def test_the_best_waits_until_the_lowered_rate_is_known(tmp_path, fixed_step_times, monkeypatch):
    """Where that diverges, or the time is over before it is known, the best goes on from its checkpoint."""

    def diverging(recipe, **keys):
        if recipe.optimizer.lr == 1:
            raise NonFiniteLossError("the loss is NaN at step 3")
        return original(recipe, **keys)

    original = running.train
    monkeypatch.setattr(running, "train", diverging)
    runner = Races(tmp_path, recipe=HIGH)
    race = runner(**ALONE)
    assert {t.lr: t.status for t in race.trials} == {
        1: "diverged", 3: "going on", 10: "stopped", 30: "stopped",
    }  # fmt: skip
    assert not race.interrupted
    assert race.cost_runs <= plan_in(runner).design.cost_runs + 1e-9
    assert weights_of(runner.path("runs/lion-3"))


def test_cut_before_the_lowered_rate_is_known_the_best_of_the_rest_wins(
    tmp_path, fixed_step_times, monkeypatch
):
    Clock(monkeypatch, slower=3.0)
    runner = Races(tmp_path, recipe=HIGH)
    race = runner(methods=["lion"], budget=RaceBudget(minutes=1.6))
    assert race.interrupted
    assert {t.lr: t.status for t in race.trials} == {3: "going on", 10: "stopped", 30: "stopped"}
    assert weights_of(runner.path("runs/lion-3"))
    monkeypatch.undo()
    resumed = runner(methods=["lion"], budget=RaceBudget(minutes=1.6), resume=True)
    assert not resumed.interrupted
    assert resumed.winner.lr == 1


def test_a_recipes_own_method_keeps_its_options_and_decay(tmp_path, fixed_step_times):
    recipe = RECIPE.replace(
        "{method: lion, lr: 1e-2}",
        "{method: galore, lr: 0.1, weight_decay: 0.03, options: {rank: 2}, fallback: {lr: 0.01}}",
    )
    runner = Races(tmp_path, recipe=recipe)
    plan = plan_race(runner.source, budget=RaceBudget(share=0.1), methods=["galore"], device="cpu")
    (own,) = plan.candidates
    assert (own.options, own.start_lr, own.weight_decay, own.fallback_lr) == (
        {"rank": 2},
        0.1,
        0.03,
        0.01,
    )
    same, higher = own.setting(0.1), own.setting(0.3)
    assert (same.weight_decay, same.fallback_lr) == (0.03, 0.01)
    assert higher.lr * higher.weight_decay == pytest.approx(same.lr * same.weight_decay)
    assert higher.fallback_lr == pytest.approx(0.03)
    assert own.setting(100.0).fallback_lr == pytest.approx(10.0)


def test_rates_at_the_limit_of_what_a_recipe_takes(tmp_path, fixed_step_times):
    recipe = RECIPE.replace("lr: 1e-2", "lr: 100")
    race = Races(tmp_path, recipe=recipe)(methods=["lion"], budget=RaceBudget(share=0.1))
    assert max(trial.lr for trial in race.trials) == 100


def test_overrides_apply_to_whom_they_can(tmp_path, fixed_step_times):
    recipe = RECIPE.replace(
        "{method: lion, lr: 1e-2}",
        "{method: galore, lr: 0.1, overrides: [{pattern: inner, options: {rank: 1}}, {pattern: outer, lr: 0.01}]}",
    )
    runner = Races(tmp_path, recipe=recipe)
    runner(methods=["lion"], budget=RaceBudget(share=0.5))
    patterns = {}
    for path in runner.path("runs").glob("*/recipe.yaml"):
        made = load_recipe(path).optimizer
        patterns[made.method] = [override.pattern for override in made.overrides]
    assert patterns == {"galore": ["inner", "outer"], "lion": ["outer"]}


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"budget": RaceBudget(share=0.01)}, r"1\.00% of a run is too little"),
        ({"budget": RaceBudget(share=0.4)}, "a race of 2 methods takes"),
        ({"budget": RaceBudget(minutes=0.01)}, "minutes are too few"),
        ({"methods": ["galor"]}, "unknown method 'galor'; did you mean 'galore'"),
        ({"resume": True}, "holds no race to resume"),
    ],
)
def test_what_makes_no_race(races, keys, says):
    with pytest.raises(Exception, match=says):
        races("other", **keys)
    assert not (races.folder / "other").exists()


@pytest.mark.parametrize(
    "given", [{"share": 0}, {"share": math.nan}, {"minutes": -1}, {"minutes": math.inf}, {}]
)
def test_what_makes_no_budget(given):
    with pytest.raises(UsageError, match="budget above 0"):
        RaceBudget(**given)


def test_too_small_a_budget_says_what_it_takes(races):
    for budget, word, make in (
        (
            RaceBudget(share=0.02),
            "--share ",
            lambda text: RaceBudget(share=float(text.rstrip("%")) / 100),
        ),
        (RaceBudget(minutes=0.1), "--minutes ", lambda text: RaceBudget(minutes=float(text))),
    ):
        with pytest.raises(UsageError) as caught:
            races(word.strip(), methods=["lion"], budget=budget)
        needed = caught.value.hint.partition(word)[2].partition(";")[0]
        assert races(word.strip(), methods=["lion"], budget=make(needed)).winner


def test_synthetic_data_is_refused(tmp_path, fixed_step_times, monkeypatch):
    runner = Races(tmp_path)
    target = race_module.training_target(runner.source.recipe, tmp_path)
    data = dataclasses.replace(target.data, is_synthetic=True)
    random = dataclasses.replace(target, data=data)
    monkeypatch.setattr(race_module, "training_target", lambda recipe, base: random)
    with pytest.raises(UsageError, match="SYNTHETIC"):
        runner()


def test_a_changed_model_needs_force(races):
    model = races.source.recipe.model.model_copy(update={"sha256": "0" * 64})
    changed = RaceSource(races.source.recipe.model_copy(update={"model": model}), races.recipe_path)
    keys = {"source": changed, "methods": ["lion"], "budget": RaceBudget(share=0.1)}
    with pytest.raises(Exception, match="has changed since"):
        races(**keys)
    assert races(**keys, force=True).contestants


def test_a_run_that_went_on_alone_is_not_compared(races):
    races(stop_at=140)
    folder = RaceFolder(races.path("."))
    plan = plan_in(races)
    following, _ = Standing(plan, folder.load_entries(plan)).next()
    run = folder.run_of(following.candidate.setting(following.lr)).path
    train(
        load_recipe(run / "recipe.yaml"),
        recipe_path=run / "recipe.yaml",
        output=run,
        resume=True,
        device="cpu",
    )
    with pytest.raises(UsageError, match="has been trained beyond step"):
        races(resume=True)


def test_what_it_is_known_again_by(races):
    recipe = parse_recipe(RECIPE.replace("batch_size: 8", "batch_size: 4"))
    races(methods=["lion"], stop_at=1)
    with pytest.raises(UsageError, match="was started with data"):
        races(methods=["lion"], resume=True, source=RaceSource(recipe, races.recipe_path))
