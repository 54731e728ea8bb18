"""A training that is killed twenty times ends with the weights of one that never was."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "kill_run.py"


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_twenty_kills_change_nothing(recipe_path):
    text = recipe_path.read_text()
    text = text.replace("method: adamw", "method: adadiag, options: {period: 7}")
    text = text.replace("steps: 6", "steps: 80") + "checkpoint: {every: 1}\n"
    recipe_path.write_text(text)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(recipe_path), "20", "1"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[0]) >= 20
