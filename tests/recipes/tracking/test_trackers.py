"""Trackers on request: what wandb and trackio are told, and that none of them can stop a run."""

import importlib.machinery
import json
import sqlite3
import sys
import types

import pytest

from subopt.app import main
from subopt.errors import UsageError
from subopt.recipes.tracking.listener import Tracking
from subopt.recipes.tracking.trackers import parse_trackers
from subopt.recipes.training import events


@pytest.fixture
def train(recipe_path, monkeypatch):
    monkeypatch.chdir(recipe_path.parent)
    return lambda *words: main(["train", "recipe.yaml", "--device", "cpu", *words])


class FakeRun:
    def __init__(self, keys):
        self.keys, self.logged, self.is_finished = keys, [], False

    def log(self, scalars, step):
        self.logged.append((step, scalars))

    def finish(self):
        self.is_finished = True


@pytest.fixture
def wandb(monkeypatch):
    """Stands for the wandb package: records every run."""
    module = types.ModuleType("wandb")
    module.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    module.runs = []

    def init(**keys):
        module.runs.append(FakeRun(keys))
        return module.runs[-1]

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    for name in ("WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    return module


def entries(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_wandb_gets_the_metrics_offline_and_the_recipe(train, wandb, tmp_path):
    assert train("--track", "wandb", "eval.every=3") == 0
    (run,) = wandb.runs
    assert run.is_finished
    assert run.keys["mode"] == "offline"
    assert run.keys["project"] == "subopt"
    assert run.keys["name"] == "recipe"
    assert run.keys["config"]["optimizer"]["lr"] == 0.01
    steps = [e for e in entries(tmp_path / "runs" / "recipe") if "loss" in e]
    logged = [
        (step, scalars["train/loss"]) for step, scalars in run.logged if "train/loss" in scalars
    ]
    assert logged == [(e["step"], e["loss"]) for e in steps]
    assert [step for step, scalars in run.logged if "eval/loss" in scalars] == [3, 6]


def test_wandb_goes_online_only_where_the_user_says_so(train, wandb, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    assert train("--track", "wandb") == 0
    assert (wandb.runs[0].keys["mode"], wandb.runs[0].keys["project"]) == ("online", "mine")


def test_a_resumed_run_keeps_its_wandb_id_and_a_new_one_gets_another(train, wandb, tmp_path):
    assert train("--track", "wandb", "schedule.steps=4") == 0
    assert train("--track", "wandb", "--resume", "--force") == 0
    assert train("--track", "wandb", "--force") == 0
    first, resumed, new = (run.keys["id"] for run in wandb.runs)
    assert first == resumed != new
    assert wandb.runs[1].logged[0][0] == 5


def test_trackio_stores_the_run_on_this_machine(train, monkeypatch, tmp_path):
    pytest.importorskip("trackio")
    import trackio.sqlite_storage as storage
    import trackio.utils

    for module in (trackio, storage, trackio.utils):
        if hasattr(module, "TRACKIO_DIR"):
            monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "store")
    assert train("--track", "trackio", "schedule.steps=4") == 0
    assert train("--track", "trackio", "--resume", "--force") == 0
    (file,) = (tmp_path / "store").glob("*.db")
    with sqlite3.connect(file) as store:
        rows = store.execute("select run_name, step, metrics from metrics order by id").fetchall()
    store.close()
    assert {name for name, _, _ in rows} == {"recipe"}
    losses = {
        step: json.loads(text)["train/loss"] for _, step, text in rows if b"train/loss" in text
    }
    steps = [e for e in entries(tmp_path / "runs" / "recipe") if "loss" in e]
    assert losses == {e["step"]: pytest.approx(e["loss"]) for e in steps}


def test_several_trackers_at_once_and_the_old_option(train, wandb, tmp_path):
    assert train("--track", "wandb", "--tensorboard") == 0
    assert len(wandb.runs[0].logged) > 0
    assert list((tmp_path / "runs" / "recipe" / "tensorboard").glob("events.out.tfevents.*"))


@pytest.mark.parametrize("when", ["init", "log", "finish"])
def test_a_tracker_that_fails_is_left_alone_and_told_once(train, wandb, when, monkeypatch, capsys):
    def fail(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(wandb if when == "init" else FakeRun, when, fail)
    assert train("--track", "wandb") == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "wandb failed" in line]
    assert len(told) == 1
    assert "No space left on device" in told[0]
    assert "metrics.jsonl" in told[0]


def test_nothing_is_asked_of_a_tracker_whose_run_never_started(tmp_path):
    asked, told = [], []

    class Listening:
        name = "listening"

        def __getattr__(self, name):
            asked.append(name)
            return lambda *_: None

    with Tracking(Listening(), tmp_path, {}, told.append) as tracking:
        tracking(events.Warned("before the start"))
        tracking(events.Saved(0, tmp_path))
    assert (asked, told) == ([], [])


@pytest.mark.parametrize("package", ["wandb", "trackio"])
def test_a_missing_package_is_told_before_anything_is_done(
    train, package, monkeypatch, capsys, tmp_path
):
    monkeypatch.setitem(sys.modules, package, None)
    assert train("--track", package) == 2
    error = capsys.readouterr().err
    assert f"{package}, which is not installed" in error
    assert f"pip install {package}" in error
    assert not (tmp_path / "runs").exists()


def test_names_are_checked():
    assert parse_trackers("wandb, tensorboard,wandb,") == ["wandb", "tensorboard"]
    with pytest.raises(UsageError, match="did you mean 'wandb'") as caught:
        parse_trackers("wandbb")
    assert "trackio" in caught.value.hint
