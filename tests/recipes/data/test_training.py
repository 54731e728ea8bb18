"""From text files to trained weights: runs that are interrupted, killed and resumed end with the same ones."""

import json
import os
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from subopt.errors import FileFormatError, UsageError
from subopt.recipes.data import windows
from subopt.recipes.recipe.load import load_recipe
from subopt.recipes.training import events
from subopt.recipes.training.trainer import train

from .test_source import LLAMA

RECIPE = """
model: {target: hf:config.json}
data:
  batch_size: 4
  accumulate: 2
  files: {train: ["texts/*.py"], eval: ["texts/json.py"], sequence_length: 32}
optimizer: {method: galore, lr: 1e-2, options: {rank: 4, period: 3}}
schedule: {steps: 12, warmup_steps: 2}
eval: {every: 5, batches: 2}
checkpoint: {every: 1}
"""
KILLS = Path(__file__).parents[1] / "kill_run.py"


@pytest.fixture
def recipe_path(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    library = Path(sysconfig.get_path("stdlib"))
    for name in ("abc", "bisect", "copy", "glob", "heapq"):
        (folder / f"{name}.py").write_bytes((library / f"{name}.py").read_bytes())
    (folder / "json.py").write_bytes((library / "json" / "decoder.py").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path / "recipe.yaml"


def run(recipe_path, name, *, interrupt_at=None, resume=False, force=False):
    def on_event(event):
        if isinstance(event, events.Stepped) and event.step == interrupt_at:
            signal.raise_signal(signal.SIGINT)

    output = recipe_path.parent / name
    recipe = load_recipe(recipe_path)
    return train(
        recipe,
        recipe_path=recipe_path,
        output=output,
        resume=resume,
        force=force,
        device="cpu",
        on_event=on_event,
    )


def weights(output):
    return load_file(output / "model.safetensors")


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_interrupted_at_any_step_the_run_ends_the_same(recipe_path, monkeypatch):
    monkeypatch.setattr(windows, "BLOCK_TOKENS", 2048)  # many blocks, so that some end mid-run
    whole = run(recipe_path, "whole")
    assert whole.eval_loss < 5.5  # ln 256 at the beginning
    for step in (1, 5, 9):
        run(recipe_path, f"part-{step}", interrupt_at=step)
        resumed = run(recipe_path, f"part-{step}", resume=True)
        assert resumed.resumed_from == step
        assert resumed.eval_loss == whole.eval_loss
        assert_same(
            weights(recipe_path.parent / f"part-{step}"), weights(recipe_path.parent / "whole")
        )


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_runs_end_the_same(recipe_path):
    recipe_path.write_text(RECIPE.replace("steps: 12", "steps: 60"))
    command = [sys.executable, str(KILLS), str(recipe_path), "5", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[0]) >= 5


def test_the_recipe_in_the_run_folder_names_the_same_files(recipe_path, tmp_path):
    run(recipe_path, "runs/one")
    kept = load_recipe(tmp_path / "runs/one/recipe.yaml")
    assert kept.model.target == "hf:../../config.json"
    assert kept.data.files.train == ["../../texts/*.py"]
    assert kept.data.files.eval == ["../../texts/json.py"]
    assert kept.data.files.tokenizer == "bytes"
    again = train(
        kept, recipe_path=tmp_path / "runs/one/recipe.yaml", output=tmp_path / "two", device="cpu"
    )
    assert again.eval_loss is not None
    assert_same(weights(tmp_path / "two"), weights(tmp_path / "runs/one"))


def test_other_files_are_not_resumed_with(recipe_path, tmp_path):
    run(recipe_path, "run", interrupt_at=3)
    recipe_path.write_text(RECIPE.replace("texts/*.py", "texts/a*.py"))
    with pytest.raises(UsageError, match=r"was started with data\.files\.train"):
        run(recipe_path, "run", resume=True)
    recipe_path.write_text(RECIPE)
    (tmp_path / "texts" / "copy.py").write_text("nothing like it was\n" * 40)
    with pytest.raises(FileFormatError, match=r"copy\.py changed since the checkpoint"):
        run(recipe_path, "run", resume=True)


def test_a_file_that_is_read_as_another_format_is_not_resumed_with(recipe_path, tmp_path):
    rows = [json.dumps({"text": f"row {number} of many " * 4}) for number in range(60)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    plain = RECIPE.replace("texts/*.py", "rows.jsonl")
    recipe_path.write_text(plain)
    run(recipe_path, "run", interrupt_at=3)
    recipe_path.write_text(plain.replace("files: {", "files: {format: text, "))
    with pytest.raises(FileFormatError, match=r"read with format text, and were with jsonl when"):
        run(recipe_path, "run", resume=True, force=True)
    recipe_path.write_text(plain)
    assert run(recipe_path, "run", resume=True, force=True).step == 12
