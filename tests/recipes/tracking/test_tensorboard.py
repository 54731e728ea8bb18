"""TensorBoard on request: what is written where, and what is told where the package is missing."""

from __future__ import annotations

import json
import sys
import types

import pytest

from subopt.app import main
from subopt.errors import UsageError
from subopt.recipes.tracking.listener import Tracking
from subopt.recipes.tracking.trackers import TRACKERS, installed_trackers
from subopt.recipes.training import events


class FakeWriter:
    """Stands for torch.utils.tensorboard.SummaryWriter: a file of the same name pattern, and what was written."""

    made: list = []  # noqa: RUF012

    def __init__(self, log_dir, purge_step=None):
        from pathlib import Path

        self.log_dir, self.purge_step = Path(log_dir), purge_step
        self.scalars, self.flushed_at, self.is_closed = {}, [], False
        self.log_dir.mkdir(exist_ok=True)
        number = len(self.made)
        (self.log_dir / f"events.out.tfevents.{number}").write_text("")
        self.made.append(self)

    def add_scalar(self, name, value, global_step):
        assert not self.is_closed
        self.scalars.setdefault(name, []).append((global_step, value))

    def flush(self):
        self.flushed_at.append(self.scalars["train/loss"][-1][0])

    def close(self):
        self.is_closed = True


@pytest.fixture
def writers(monkeypatch):
    monkeypatch.setattr(FakeWriter, "made", [])
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = FakeWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return FakeWriter.made


@pytest.fixture
def train(recipe_path, monkeypatch):
    monkeypatch.chdir(recipe_path.parent)
    return lambda *words: main(["train", "recipe.yaml", "--device", "cpu", *words])


def test_the_scalars_are_those_of_the_metrics_file(train, writers, tmp_path):
    assert train("--tensorboard", "eval.every=3", "checkpoint.every=2") == 0
    (writer,) = writers
    assert writer.log_dir == tmp_path.joinpath("runs", "recipe", "tensorboard").relative_to(
        tmp_path
    )
    assert writer.is_closed
    assert {2, 4, 6} <= set(writer.flushed_at)  # at a checkpoint all up to it is in the file
    lines = (tmp_path / "runs" / "recipe" / "metrics.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    for key in ("loss", "lr", "grad_norm"):
        expected = [(entry["step"], entry[key]) for entry in entries if key in entry]
        assert writer.scalars[f"train/{key}"] == expected
        assert len(expected) == 6
    held_out = [(entry["step"], entry["eval_loss"]) for entry in entries if "eval_loss" in entry]
    assert writer.scalars["eval/loss"] == held_out
    assert [step for step, _ in held_out] == [3, 6]


def test_it_is_only_written_on_request(train, writers, tmp_path):
    assert train() == 0
    assert writers == []
    assert not (tmp_path / "runs" / "recipe" / "tensorboard").exists()


def test_a_dry_run_writes_none(train, writers, tmp_path):
    assert train("--tensorboard", "--dry-run") == 0
    assert writers == []
    assert not (tmp_path / "runs").exists()


def test_a_new_run_replaces_the_old_files_and_a_resumed_one_adds_to_them(train, writers, tmp_path):
    files = tmp_path / "runs" / "recipe" / "tensorboard"
    assert train("--tensorboard") == 0
    (files / "mine.txt").write_text("keep")
    assert train("--tensorboard", "--force", "schedule.steps=4") == 0
    assert {path.name for path in files.iterdir()} == {"mine.txt", "events.out.tfevents.1"}
    assert train("--tensorboard", "--resume", "--force") == 0
    assert {path.name for path in files.iterdir()} == {
        "mine.txt", "events.out.tfevents.1", "events.out.tfevents.2"
    }  # fmt: skip
    assert [writer.purge_step for writer in writers] == [1, 1, 5]
    assert [step for step, _ in writers[2].scalars["train/loss"]] == [5, 6]


def test_a_gradient_norm_that_is_not_finite_is_left_out(writers, tmp_path):
    step = events.Stepped(
        step=1, steps=2, loss=2.0, lr=0.1, grad_norm=None, tokens=1, tokens_per_s=1.0, step_ms=1.0,
        memory_bytes=None, time_left_s=1.0,
    )  # fmt: skip
    with Tracking(TRACKERS["tensorboard"], tmp_path, {}, events.ignore) as board:
        board(events.Started(types.SimpleNamespace(start_step=0)))
        board(step)
    assert writers[0].scalars == {
        "train/loss": [(1, 2.0)], "train/lr": [(1, 0.1)], "train/tokens_per_s": [(1, 1.0)]
    }  # fmt: skip
    assert writers[0].is_closed


def test_a_missing_package_is_told_before_anything_is_done(train, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match="tensorboard, which is not installed"):
        installed_trackers(["tensorboard"])
    assert train("--tensorboard") == 2
    assert "subopt[track]" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
