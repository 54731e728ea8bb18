"""Every command of the README and of the guide runs, in order, in a folder with the examples.

The words are the page's. Only sizes are cut: by what is appended to a command (later options and overrides win), by
fewer methods in a profile, and the copied example's `tiny` model is tinier.
"""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from subopt.app import main
from subopt.optimizers import METHODS

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs" / "site"))
sys.path.insert(0, str(ROOT / "docs"))
from console_blocks import console_blocks  # noqa: E402
from guide_outputs import environment, shown  # noqa: E402

del sys.path[:2]

# What is appended to the commands that begin like this, so that they take seconds.
CUT = {
    "subopt profile": "--detail quick --batches 1",
    "subopt lr": "--share 300% --steps 30",
    "subopt race": "--share 300% --steps 30 --methods adadiag",
    "subopt train": "schedule.steps=3 schedule.warmup_steps=1 eval.batches=1",
    "python train.py": "--steps 1",
}
# In the place of all methods, each of which is followed through a step.
PROFILED = ("adamw", "adafactor", "lion", "galore", "adadiag", "dlrt")
SKIPPED = {
    r"^make ": "needs the repository, and makes a .venv: what CI begins with",
    r"^pip install": "needs a network",
}
TINY = ("Size(192, 512, 6, 4)", "Size(16, 24, 2, 1)")
MODEL = """
import torch
from torch import nn


def build_model(width: int = 32):
    return nn.Sequential(nn.Linear(8, width // 32), nn.Tanh(), nn.Linear(width // 32, 8))


def loss(model, batch):
    return (model(batch) - batch).square().mean()


def batches(batch_size):
    while True:
        yield torch.randn(batch_size, 8)


def eval_batches(batch_size):
    yield torch.ones(batch_size, 8)
"""


def commands_of(page):
    """A page's commands, in order: of its console blocks, or lines of its indented and plain blocks."""
    text = (ROOT / page).read_text(encoding="utf-8")
    console = [command for block in console_blocks(text) for command in block.commands]
    lines = re.findall(r"^(?:    )?((?:subopt|make|pip|python) [^\n]*)$", text, re.MULTILINE)
    return console or [re.sub(r"\s+#.*", "", line) for line in lines]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder as a reader of the pages has it."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    example = tmp_path / "examples" / "llama_bytes.py"
    text = example.read_text(encoding="utf-8")
    assert text.count(TINY[0]) == 1
    example.write_text(text.replace(*TINY), encoding="utf-8")
    (tmp_path / "model.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "96")
    table = {name: METHODS[name] for name in PROFILED}
    monkeypatch.setattr("subopt.profilers.profile.METHODS", table)
    return tmp_path


def shortened(command):
    command, pipe, rest = command.partition(" | ")
    for start, appended in CUT.items():
        if command.startswith(start):
            command = f"{command} {appended}"
    return command + pipe + rest


def run(command, folder):
    """Run a command, `subopt` in this process, for its import of torch takes longer than what it does."""
    if command.startswith("subopt ") and "|" not in command:
        return main(shlex.split(command)[1:])
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment(folder), check=False
    ).returncode


def run_all(page, folder, capfd):
    ran = 0
    for command in commands_of(page):
        if any(re.match(pattern, command) for pattern in SKIPPED):
            continue
        if command == "subopt compare before.json after.json" and not Path("after.json").exists():
            for name in ("before", "after"):
                shutil.copy(".subopt/profile.json", f"{name}.json")
        status = run(shortened(command), folder)
        printed = capfd.readouterr()
        enough = re.search(r"at least --minutes ([\d.]+)", printed.err)
        if enough:  # on a slow machine
            status = run(f"{shortened(command)} --minutes {2 * float(enough[1])}", folder)
            printed = capfd.readouterr()
        assert status == 0, f"{command}\n{printed.err}"
        assert printed.out or printed.err
        ran += 1
    return ran


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore"
)  # a command runs as a user runs it, with warnings as torch gives them
def test_the_commands_of_the_guide_run(folder, capfd):
    assert run_all("docs/guide.md", folder, capfd) > 12
    assert (folder / "runs" / "guide" / "model.safetensors").exists()
    assert (folder / "report.html").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_commands_of_the_readme_run(folder, capfd):
    assert run_all("README.md", folder, capfd) > 5
    assert (folder / "runs" / "recipe" / "model.safetensors").exists()


def test_what_is_skipped_is_on_a_page():
    """No reason stays behind when its command goes, and no page has a command that nothing runs."""
    all_commands = [
        c for page in ("README.md", "docs/guide.md", "docs/index.md") for c in commands_of(page)
    ]
    for pattern in SKIPPED:
        assert any(re.match(pattern, command) for command in all_commands), pattern
    for start in CUT:
        assert any(command.startswith(start) for command in all_commands), start


def test_the_outputs_of_the_guide_are_there():
    """Each block shows what its commands printed; `python docs/guide_outputs.py` renews them."""
    blocks = list(console_blocks((ROOT / "docs" / "guide.md").read_text(encoding="utf-8")))
    assert len(blocks) > 10
    for block in blocks:
        assert len(block.text.splitlines()) > len("\n".join(block.commands).splitlines()), (
            block.text
        )


def test_a_report_is_cut_to_its_wanted_parts():
    report = "one\nline\n\nIn short\n1. yes\n\nlast\n\nmore\n"
    assert shown(report, ("In short",)) == ["...", "In short", "1. yes", "..."]
    assert shown(report, ()) == report.splitlines()
