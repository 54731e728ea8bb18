"""A disk full at any one write of a checkpoint: a clear error, the old one kept, nothing in the way of the next."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from subopt.errors import DiskFullError
from subopt.optimizers import create
from subopt.recipes.run_folder import checkpoint, weights
from subopt.recipes.run_folder.checkpoint import (
    RunProgress,
    checkpoints_in,
    load_checkpoint,
    save_checkpoint,
)

# More than a checkpoint has; a test below sees to that.
MOST_WRITES = 24


def stepped() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 6))
    optimizer = create("adamw", model, lr=0.01)
    model(torch.randn(8, 6)).square().mean().backward()
    optimizer.step()
    return model, optimizer


def save(folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> Path:
    return save_checkpoint(folder, model, optimizer, {"position": step}, RunProgress(step), keep=1)


def failure(write: Callable[[], object]) -> DiskFullError | None:
    """Return the error of a full disk, or None where everything was written."""
    try:
        write()
    except DiskFullError as error:
        return error
    return None


class Disk:
    """Counts what is written, and is full at one write, or from it on until there is space again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, full_at: range = range(0)) -> None:
        self.writes, self.full_at = 0, full_at
        places = (
            (checkpoint.torch, "save"), (weights, "save_file"), (Path, "mkdir"), (Path, "write_text"),
            (Path, "rename"), (Path, "replace"), (os, "fsync"),
        )  # fmt: skip
        for place, name in places:
            monkeypatch.setattr(place, name, self.watched(getattr(place, name)))

    def watched(self, write):
        def wrapper(*args, **keys):
            self.writes += 1
            if self.writes in self.full_at:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(*args, **keys)

        return wrapper


@pytest.mark.parametrize("lasting", [True, False])
@pytest.mark.parametrize("write", range(1, MOST_WRITES + 1))
def test_the_old_checkpoint_outlives_a_full_disk(tmp_path, monkeypatch, write, lasting):
    model, optimizer = stepped()
    save(tmp_path, 2, model, optimizer)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        model[0].weight.add_(1)
    after = {name: value.clone() for name, value in model.state_dict().items()}
    disk = Disk(monkeypatch, range(write, 1000 if lasting else write + 1))
    error = failure(lambda: save(tmp_path, 3, model, optimizer))
    failed = error is not None
    if error is not None:
        assert "the disk is full: no space for the checkpoint of step 3" in error.message
        assert "--resume" in error.hint
    assert failed == (disk.writes >= write)
    disk.full_at = range(0)

    newest = checkpoints_in(tmp_path)[-1]
    assert newest.name in {"step-2", "step-3"}
    load_checkpoint(newest, model, optimizer)
    expected = before if newest.name == "step-2" else after
    assert all(torch.equal(expected[name], value) for name, value in model.state_dict().items())
    # with space again the same checkpoint, or the next, is saved and nothing else stays
    step = 3 if newest.name == "step-2" else 4
    assert save(tmp_path, step, model, optimizer).name == f"step-{step}"
    assert [path.name for path in tmp_path.iterdir()] == [f"step-{step}"]


def test_the_writes_above_cover_the_whole_checkpoint(tmp_path, monkeypatch):
    model, optimizer = stepped()
    save(tmp_path, 2, model, optimizer)
    disk = Disk(monkeypatch)
    save(tmp_path, 3, model, optimizer)
    assert 10 < disk.writes < MOST_WRITES
