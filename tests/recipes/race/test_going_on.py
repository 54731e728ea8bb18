"""A race that is interrupted anywhere goes on as if it had not been; its winner is the run it would have been alone."""

from __future__ import annotations

import json
import shutil
import signal

import pytest
import torch

from subopt.errors import UsageError
from subopt.profilers.record.profile import Race
from subopt.recipes.race import events
from subopt.recipes.race.budget import RaceBudget
from subopt.recipes.race.folder import RaceFolder
from subopt.recipes.race.going_on import move_winner, winner_folder
from subopt.recipes.recipe.load import load_recipe
from subopt.recipes.training.trainer import train

from .conftest import weights_of

# In the middle of a piece, at its last step, at the next one's first, in the last piece but one, and before the end.
STOPS = [1, 10, 11, 45, 140, 410]


def points_in(folder):
    race = RaceFolder(folder)
    return [entry.point for entry in race.load_entries(race.load_plan({}))]


def same_weights(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("stop_at", STOPS)
def test_interrupted_at_any_step_it_goes_on_bit_for_bit(whole, races, stop_at):
    runner, expected = whole
    cut = races(stop_at=stop_at)
    assert cut.interrupted
    assert cut.winner is None
    assert Race.model_validate_json(races.path("race.json").read_text()) == cut
    resumed = races(resume=True)
    assert resumed == expected
    assert points_in(races.path(".")) == points_in(runner.path("."))
    own, other = (winner_folder(r.path("."), expected.winner) for r in (races, runner))
    same_weights(weights_of(own.path), weights_of(other.path))


def test_the_race_has_the_steps_that_the_stops_are_in(whole):
    runner, expected = whole
    steps = runner.of(events.RunStepped)
    assert len(steps) == sum(trial.steps for trial in expected.trials) > max(STOPS)
    assert [event.step for event in steps[:11]] == [*range(1, 11), 1]


class KilledError(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("kill_at", [10, 55, 300])
def test_killed_at_any_step_it_goes_on_bit_for_bit(whole, races, monkeypatch, kill_at):
    """As by a signal that nothing can be done about: no checkpoint, no line, no result."""
    _, expected = whole
    steps = 0

    def dying(event):
        nonlocal steps
        steps += isinstance(event, events.RunStepped)
        if isinstance(event, events.RunStepped) and steps == kill_at:
            raise KilledError

    from subopt.recipes.race.race import race

    asked = {"methods": ["adamw"], "budget": RaceBudget(share=0.5), "device": "cpu"}
    with pytest.raises(KilledError):
        race(races.source, output=races.path("."), on_event=dying, **asked)
    assert not races.path("race.json").exists()
    assert races(resume=True) == expected


def test_killed_after_a_piece_and_before_its_line(whole, races):
    """The run is paused at its rung, and nobody has written down with what loss."""
    runner, expected = whole
    races(stop_at=65)
    file = races.path("points.jsonl")
    lines = file.read_text().splitlines(keepends=True)
    assert json.loads(lines[-1])["point"]["step"] == 20  # where the recipe evaluates anyway
    file.write_text("".join(lines[:-1]))
    assert races(resume=True) == expected
    assert points_in(races.path(".")) == points_in(runner.path("."))


def test_a_line_that_a_kill_cut_short_is_done_again(whole, races):
    _, expected = whole
    races(stop_at=45)
    file = races.path("points.jsonl")
    text = file.read_text()
    file.write_text(text[: len(text) - 7])
    assert races(resume=True) == expected
    assert all(json.loads(line) for line in file.read_text().splitlines())


def test_a_decided_race_trains_nothing_more(whole, races):
    runner, expected = whole
    shutil.copytree(runner.path("."), races.path("."))  # another session would clear its events
    assert races(resume=True) == expected
    assert races.of(events.RunStepped) == []


@pytest.fixture(scope="module")
def alone(whole, tmp_path_factory):
    """The winner's recipe, trained without a race."""
    runner, race = whole
    folder = winner_folder(runner.path("."), race.winner)
    output = tmp_path_factory.mktemp("alone") / "run"
    result = train(
        load_recipe(folder.recipe), recipe_path=folder.recipe, output=output, device="cpu"
    )
    return output, result


def losses_of(folder):
    entries = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {entry["step"]: entry["loss"] for entry in entries if "loss" in entry}


def test_the_winners_run_is_what_it_would_have_been_alone(whole, alone, tmp_path):
    runner, race = whole
    shutil.copytree(runner.folder, tmp_path, dirs_exist_ok=True)
    output = tmp_path / "run"
    recipe = move_winner(tmp_path / "race", race.winner, output)
    assert recipe == output / "recipe.yaml"
    result = train(
        load_recipe(recipe), recipe_path=recipe, output=output, resume=True, device="cpu"
    )
    other_output, other = alone
    assert result.resumed_from == race.winner.steps
    assert (result.step, result.loss, result.eval_loss) == (other.step, other.loss, other.eval_loss)
    same_weights(weights_of(output), weights_of(other_output))
    assert losses_of(output) == losses_of(other_output)
    assert (output / "model.safetensors").read_bytes() == (
        other_output / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_moving_goes_on_wherever_it_was_killed(whole, tmp_path, monkeypatch, moved):
    runner, race = whole
    shutil.copytree(runner.folder, tmp_path, dirs_exist_ok=True)
    folder, output = tmp_path / "race", tmp_path / "run"
    path_type, count = type(folder), 0
    replace = path_type.replace

    def dying(self, target):
        nonlocal count
        if "race/runs" in str(self):
            if count == moved:
                raise KilledError
            count += 1
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(path_type, "replace", dying)
        with pytest.raises(KilledError):
            move_winner(folder, race.winner, output)
    recipe = move_winner(folder, race.winner, output)
    move_winner(folder, race.winner, output)  # once more changes nothing
    assert losses_of(output).keys() == set(range(1, race.winner.steps + 1))
    same_weights(weights_of(output), weights_of(winner_folder(runner.path("."), race.winner).path))
    assert load_recipe(recipe).optimizer.lr == race.winner.lr


def test_moving_takes_the_place_of_an_older_run(whole, tmp_path):
    runner, race = whole
    shutil.copytree(runner.folder, tmp_path, dirs_exist_ok=True)
    output = tmp_path / "run"
    train(
        runner.source.recipe.model_copy(
            update={"schedule": runner.source.recipe.schedule.over(30)}
        ),
        recipe_path=tmp_path / "recipe.yaml", output=output, device="cpu",
    )  # fmt: skip
    (output / "notes.txt").write_text("mine")
    move_winner(tmp_path / "race", race.winner, output)
    assert not (output / "result.json").exists()
    assert losses_of(output).keys() == set(range(1, race.winner.steps + 1))
    assert (output / "notes.txt").read_text() == "mine"


def test_two_races_in_one_folder(races):
    def second(event):
        if isinstance(event, events.RunStepped):
            with pytest.raises(UsageError, match="is in use"):
                race(
                    races.source,
                    output=races.path("."),
                    resume=True,
                    on_event=lambda e: None,
                    **asked,
                )
            signal.raise_signal(signal.SIGINT)

    from subopt.recipes.race.race import race

    asked = {"methods": ["lion"], "budget": RaceBudget(share=0.1), "device": "cpu"}
    assert race(races.source, output=races.path("."), on_event=second, **asked).interrupted
