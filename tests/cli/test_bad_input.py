"""Bad input ends in one or two clear lines on stderr, nothing on stdout, the promised status, and no traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

NET = """
import torch
from torch import nn

def build_model(width: int = 8):
    return nn.Sequential(nn.Linear(6, width), nn.Linear(width, 6))
"""
BATCHES = """
def batches(batch_size):
    for _ in range(4):
        yield torch.ones(batch_size, 6)
"""


def loss_of(expression: str) -> str:
    return f"{NET}{BATCHES}\ndef loss(model, batch):\n    return {expression}\n"


TWO_CLASSES = """
from torch import nn

class Encoder(nn.Module):
    pass

class Decoder(nn.Module):
    pass
"""
VECTORS_ONLY = f"""
import torch
from torch import nn

def build_model():
    return nn.LayerNorm(6)
{BATCHES}
def loss(model, batch):
    return model(batch).square().sum()
"""
RAISES = f"""
import torch
{BATCHES}
def build_model():
    raise ValueError("the width must be even")
"""

# name: (model.py, words, status, what the message must say)
BAD_MODELS = {
    "missing file": (NET, ["profile", "nowhere.py"], 2, "nowhere.py"),
    "not a python file": (NET, ["profile", "recipe.yaml"], 2, "recipe.yaml"),
    "syntax error": ("def build_model(:\n", ["profile", "model.py"], 2, "line 1"),
    "no model": ("x = 1\n", ["profile", "model.py"], 2, "model.py"),
    "ambiguous model": (TWO_CLASSES, ["profile", "model.py"], 2, "Encoder"),
    "wrong key": (NET + BATCHES, ["profile", "model.py", "widht=3"], 2, "did you mean 'width'"),
    "wrong value": (NET + BATCHES, ["profile", "model.py", "width=wide"], 2, "width=wide"),
    "not key=value": (NET + BATCHES, ["profile", "model.py", "3"], 2, "key=value"),
    "loss not scalar": (loss_of("model(batch)"), ["profile", "model.py"], 2, "not a scalar"),
    "NaN loss": (
        loss_of("model(batch).sum() * float('nan')"), ["profile", "model.py"], 2, "nan",
    ),
    "loss without grad": (
        loss_of("model(batch).sum().detach()"), ["profile", "model.py"], 2, "gradient",
    ),
    "no matrices": (VECTORS_ONLY, ["profile", "model.py"], 2, "matrix"),
    "no batches": (NET, ["profile", "model.py"], 2, "batches"),
    "empty batches": (
        NET + "\ndef batches(batch_size):\n    return []\n", ["profile", "model.py"], 2, "no batches",
    ),
    "misspelt option": (NET, ["profile", "model.py", "--batchsize", "4"], 2, "--batchsize"),
    "option out of range": (NET, ["profile", "model.py", "--batches", "0"], 2, "--batches"),
    "unreadable rank": (NET, ["profile", "model.py", "--rank", "half"], 2, "half"),
    "unreadable memory": (NET, ["profile", "model.py", "--gpu-mem", "lots"], 2, "lots"),
    "unreadable limit": (NET, ["profile", "model.py", "--max-memory", "auto"], 2, "auto"),
    "no such device": (NET, ["profile", "model.py", "--device", "abacus"], 2, "abacus"),
    "unknown command": (NET, ["profiel", "model.py"], 2, "profiel"),
    "missing argument": (NET, ["profile"], 2, "target"),
    "unknown architecture": (NET, ["methods", "--arch", "llama-2b"], 2, "llama-2b"),
    "unreadable shape": (NET, ["methods", "--shape", "12"], 2, "1024x4096"),
    "unknown method": (NET, ["methods", "--methods", "adadaig"], 2, "did you mean 'adadiag'"),
    "schema of nothing": (NET, ["schema", "profle"], 2, "profle"),
}  # fmt: skip


def check(ended, status: int, says: str, most_lines: int = 2) -> None:
    assert ended.status == status, ended.err
    assert ended.out == ""
    assert says in ended.err
    assert "Traceback" not in ended.err
    assert ended.lines[0].startswith("error: ")
    assert 1 <= len(ended.lines) <= most_lines, ended.err


@pytest.mark.parametrize("name", BAD_MODELS)
def test_bad_model_or_option(subopt, folder, name):
    model, words, status, says = BAD_MODELS[name]
    (folder / "model.py").write_text(model)
    check(subopt(*words), status, says)


def test_what_the_users_code_raises_comes_with_their_lines_only(subopt, folder):
    (folder / "model.py").write_text(RAISES)
    ended = subopt("profile", "model.py")
    check(ended, 1, "the width must be even", most_lines=3)
    assert "model.py:9 in build_model" in ended.err
    assert "profilers" not in ended.err


def test_debug_shows_the_traceback(subopt, folder):
    (folder / "model.py").write_text(RAISES)
    ended = subopt("profile", "model.py", "--debug")
    assert ended.status == 1
    assert "Traceback" in ended.err
    assert ended.out == ""


# name: (text of the profile, words, status, what the message must say); None: a good profile
BAD_ADVICE = {
    "unknown method": (None, ["--gpu-mem", "24G", "--methods", "adadaig"], 2, "did you mean 'adadiag'"),
    "no method": (None, ["--gpu-mem", "24G", "--methods", ","], 2, "--methods"),
    "unreadable budget": (None, ["--gpu-mem", "24Q"], 2, "24Q"),
    "unreadable batch size": (None, ["--gpu-mem", "24G", "--batch-size", "x"], 2, "batch size"),
    "damaged JSON": ("{broken", ["--gpu-mem", "24G"], 2, "profile.json"),
    "JSON of another version": ('{"schema_version": 99}', ["--gpu-mem", "24G"], 2, "schema_version"),
    "unknown objective": (None, ["--gpu-mem", "24G", "--objective", "fun"], 2, "fun"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_ADVICE)
def test_bad_profile_or_budget(subopt, folder, profile, name):
    text, words, status, says = BAD_ADVICE[name]
    path = folder / "profile.json"
    profile.save(path) if text is None else path.write_text(text)
    check(subopt("recommend", "--profile", str(path), "-o", "new.yaml", *words), status, says)
    assert not (folder / "new.yaml").exists()


def test_when_nothing_fits_the_table_and_the_way_out_come_before_the_error(subopt, folder, profile):
    profile.save(folder / "profile.json")
    words = ["--profile", "profile.json", "--gpu-mem", "1G", "-o", "new.yaml"]
    ended = subopt("recommend", *words)
    assert ended.status == 3
    assert "ANSWER nothing fits" in ended.out.splitlines()[0]
    assert all(cost.method in ended.out for cost in profile.methods)
    assert "\n  change " in ended.out
    assert [line.partition(":")[0] for line in ended.lines] == ["error", "hint"]
    assert "nothing fits" in ended.lines[0]
    assert not (folder / "new.yaml").exists()


# name: (where -o points, what the message must say)
BAD_OUTPUTS = {
    "a folder": (".", "is a folder"),
    "below a file": ("model.py/out", "cannot be written"),
    "an unwritable folder": ("/proc/out", "cannot be written"),
}


@pytest.mark.parametrize("name", BAD_OUTPUTS)
@pytest.mark.parametrize("command", ["profile", "recommend"])
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder nobody can write to")
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    subopt, folder, profile, command, name
):
    where, says = BAD_OUTPUTS[name]
    (folder / "model.py").write_text(NET + "raise SystemExit('the model was loaded')\n")
    profile.save(folder / "profile.json")
    words = {
        "profile": ["model.py"],
        "recommend": ["--profile", "profile.json", "--gpu-mem", "24G", "--force"],
    }[command]
    before = sorted(folder.iterdir())
    check(subopt(command, *words, "-o", where), 2, says)
    assert sorted(folder.iterdir()) == before


def test_missing_profile(subopt):
    check(subopt("recommend", "--gpu-mem", "24G", "-o", "new.yaml"), 2, "there is no profile")


def test_a_recipe_we_did_not_write_is_kept(subopt, folder, profile):
    profile.save(folder / "profile.json")
    before = (folder / "recipe.yaml").read_text()
    words = ["recommend", "--profile", "profile.json", "--gpu-mem", "24G"]
    check(subopt(*words), 2, "was not written by subopt")
    assert (folder / "recipe.yaml").read_text() == before
    assert subopt(*words, "--force").status == 0


def test_a_recipe_of_ours_is_replaced_until_it_is_edited(subopt, folder, profile):
    profile.save(folder / "profile.json")
    words = ["recommend", "--profile", "profile.json", "--gpu-mem", "24G", "-o", "own.yaml"]
    assert subopt(*words).status == 0
    assert subopt(*words).status == 0
    own = folder / "own.yaml"
    own.write_text(own.read_text() + "# mine\n")
    check(subopt(*words), 2, "was edited")


# name: (old text, new text of the recipe, words, status, what the message must say)
BAD_RECIPES = {
    "tab": ("data: {batch_size: 2}", "data:\n\tbatch_size: 2", [], 2, "recipe.yaml:4"),
    "unknown key": ("batch_size", "batchsize", [], 2, "did you mean 'batch_size'"),
    "wrong type": ("steps: 3", "steps: many", [], 2, "recipe.yaml:5"),
    "out of range": ("lr: 0.001", "lr: -1.0", [], 2, "lr"),
    "unknown method": ("adamw", "adamv", [], 2, "did you mean 'adamw'"),
    "wrong override": ("", "", ["schedule.stepps=3"], 2, "did you mean 'steps'"),
    "not an override": ("", "", ["three"], 2, "key=value"),
    "missing model": ("model.py", "nowhere.py", [], 2, "nowhere.py"),
    "does not fit": (
        "schedule:", "why: {predicted_peak_bytes: 1000000000000000}\nschedule:", [], 3, "GiB",
    ),
    "model changed": ("model.py", "model.py, sha256: abc", [], 2, "--force"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_RECIPES)
def test_bad_recipe(subopt, folder, name):
    old, new, words, status, says = BAD_RECIPES[name]
    path = folder / "recipe.yaml"
    path.write_text(path.read_text().replace(old, new, 1))
    check(subopt("train", "recipe.yaml", *words), status, says)
    assert not (folder / "runs").exists()


# name: (target, kwargs) of a recipe that tries to run something of its own choice
HOSTILE_RECIPES = {
    "os.system": ("os:system", "{command: touch PWNED}"),
    "shutil.rmtree": ("shutil:rmtree", "{path: precious}"),
    "subprocess.getoutput": ("subprocess:getoutput", "{cmd: touch PWNED}"),
    "by its file": (f"{subprocess.__file__}:getoutput", "{cmd: touch PWNED}"),
    "imported by the model": ("helper.py:getoutput", "{cmd: touch PWNED}"),
    "imported, by module": ("helper:getoutput", "{cmd: touch PWNED}"),
}


@pytest.mark.parametrize("name", HOSTILE_RECIPES)
@pytest.mark.parametrize("words", [[], ["--dry-run"]])
def test_a_recipe_runs_nothing_but_the_model_file(subopt, folder, name, words):
    target, kwargs = HOSTILE_RECIPES[name]
    (folder / "precious").mkdir()
    (folder / "helper.py").write_text("from subprocess import getoutput\n" + NET)
    path = folder / "recipe.yaml"
    model = f'model: {{target: "{target}", kwargs: {kwargs}}}'
    path.write_text(path.read_text().replace("model: {target: model.py}", model))
    before = sorted(folder.iterdir())
    check(subopt("train", "recipe.yaml", *words), 2, target.rpartition(":")[0].split("/")[-1])
    assert [p for p in sorted(folder.iterdir()) if p.name != "__pycache__"] == before


def test_missing_recipe(subopt):
    check(subopt("train", "other.yaml"), 2, "other.yaml")


def test_run_folder_that_exists(subopt, folder):
    (folder / "runs" / "recipe").mkdir(parents=True)
    (folder / "runs" / "recipe" / "notes.txt").write_text("mine")
    check(subopt("train", "recipe.yaml"), 2, "already exists")


def test_unreadable_checkpoint(subopt, folder):
    assert subopt("train", "recipe.yaml").status == 0
    (folder / "runs" / "recipe" / "result.json").unlink()  # as if it had been killed before the end
    for path in (folder / "runs" / "recipe" / "checkpoints").glob("step-*/*"):
        path.write_bytes(b"damaged")
    ended = subopt("train", "recipe.yaml", "schedule.steps=3", "--resume")
    check(ended, 2, "checkpoint")


def test_loss_that_becomes_infinite(subopt, folder):
    model = loss_of("model(batch).sum() * (1.0 if next(calls) < 2 else float('inf'))")
    (folder / "model.py").write_text("from itertools import count\ncalls = count()\n" + model)
    ended = subopt("train", "recipe.yaml", "schedule.steps=9")
    assert ended.status == 4
    assert ended.out == ""
    assert ended.lines[-2].startswith("error: ")
    assert ended.lines[-1].startswith("hint: ")
    assert "Traceback" not in ended.err


def test_our_own_failure_is_one_line(subopt, monkeypatch):
    from subopt.profilers import device

    def fail(index=0):
        raise RuntimeError("unexpected\nin two lines")

    monkeypatch.setattr(device, "gpu_status", fail)
    ended = subopt("doctor")
    check(ended, 1, "RuntimeError: unexpected")
    assert "in two lines" not in ended.err
    assert "--debug" in ended.lines[1]


def test_interrupt(subopt, monkeypatch):
    from subopt.profilers import device

    def interrupt(index=0):
        raise KeyboardInterrupt

    monkeypatch.setattr(device, "gpu_status", interrupt)
    ended = subopt("doctor")
    assert (ended.status, ended.out) == (130, "")


@pytest.mark.process
def test_in_a_process_of_its_own(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "subopt", "profile", "nowhere.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_json_stays_one_document_when_nothing_fits(subopt, folder, profile):
    profile.save(folder / "profile.json")
    ended = subopt(
        "recommend", "--profile", "profile.json", "--gpu-mem", "1G", "-o", "x.yaml", "--json"
    )
    assert ended.status == 3
    document = json.loads(ended.out)
    assert document["chosen"] is None
    assert document["changes"]
