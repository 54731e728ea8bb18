"""One training per run folder, a lock that no crash leaves behind, and signals that end a run in order."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from subopt.app import main
from subopt.errors import UsageError
from subopt.recipes.recipe.load import load_recipe
from subopt.recipes.run_folder.lock import check_unlocked, locked
from subopt.recipes.training import events
from subopt.recipes.training.trainer import plan

from ..running import Run, same_weights

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs flock")

HOLD = """
import sys, time
from pathlib import Path
from subopt.recipes.run_folder.lock import locked
with locked(Path(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def hangup_means_something():
    """As in a terminal: under nohup, which the tests may run in, SIGHUP is ignored."""
    former = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, former)


@pytest.fixture
def holder(tmp_path):
    """Another process that trains in the folder `run`."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "held\n"
    yield child
    child.kill()
    child.wait()
    child.stdout.close()


def never(why):
    raise AssertionError(why)


@pytest.mark.process
def test_a_second_training_is_refused_in_one_line_and_a_killed_one_blocks_nothing(
    recipe_path, holder, tmp_path
):
    run = Run(recipe_path)
    for keys in ({}, {"resume": True}, {"force": True}):
        with pytest.raises(UsageError, match=rf"in use: process {holder.pid} on \S+") as caught:
            run("run", **keys)
        assert "\n" not in caught.value.message
        assert "--output" in caught.value.hint
    recipe = load_recipe(recipe_path)
    with pytest.raises(UsageError, match="in use"):
        plan(recipe, recipe_path=recipe_path, output=tmp_path / "run", device="cpu")
    holder.kill()
    holder.wait()
    assert (tmp_path / "run" / ".lock").exists()
    assert run("run").step == 6
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_refused_start_leaves_no_folder_behind(recipe_path, tmp_path):
    run = Run(recipe_path)
    with pytest.raises(UsageError, match="is a file"):
        run("model.py")
    run.edit_model("def batches", "def no_batches")
    with contextlib.suppress(Exception):
        run("deep/er/run")
    assert not (tmp_path / "deep").exists()


def test_the_lock_is_held_once_and_given_back(tmp_path):
    folder = tmp_path / "a" / "run"
    with locked(folder, never):
        assert folder.is_dir()
        with pytest.raises(UsageError, match=f"process {os.getpid()}"):
            check_unlocked(folder)
        with pytest.raises(UsageError, match="in use"), locked(folder, never):
            pass
        (folder / "recipe.yaml").write_text("")
    check_unlocked(folder)
    assert [path.name for path in folder.iterdir()] == ["recipe.yaml"]
    with locked(folder, never):
        pass


def test_a_lock_that_was_removed_and_made_anew_is_not_shared(tmp_path, monkeypatch):
    """A starts while B ends: A opened the file that B then removes, so what A locks is no longer the folder's."""
    real, raced = pytest.importorskip("fcntl").flock, []

    def flock(file, how):
        if not raced:
            raced.append(file)
            (tmp_path / ".lock").unlink()  # B ends between A's opening and A's locking
        return real(file, how)

    monkeypatch.setattr("fcntl.flock", flock)
    with locked(tmp_path, never), pytest.raises(UsageError, match="in use"):
        check_unlocked(tmp_path)


def test_a_folder_that_is_only_looked_at_keeps_what_a_killed_process_left(tmp_path):
    (tmp_path / ".lock").write_text("process 1 on nowhere\n")
    check_unlocked(tmp_path)
    assert (tmp_path / ".lock").read_text() == "process 1 on nowhere\n"


def test_a_lock_that_is_a_link_writes_nothing_to_its_target(tmp_path):
    (tmp_path / "notes").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "notes")
    check_unlocked(tmp_path / "run")
    with pytest.raises(UsageError, match="cannot be written to"), locked(tmp_path / "run", never):
        pass
    assert (tmp_path / "notes").read_text() == "mine"


def test_a_lock_that_is_a_pipe_or_a_folder_is_refused_at_once(tmp_path):
    for make in (os.mkfifo, os.mkdir):
        folder = tmp_path / make.__name__
        folder.mkdir()
        make(folder / ".lock")
        check_unlocked(folder)
        with pytest.raises(UsageError, match="cannot be written to"), locked(folder, never):
            pass


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_that_leaves_the_block_lets_go_of_nothing(tmp_path):
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom subopt.recipes.run_folder.lock import locked\n"
        "with locked(Path(sys.argv[1]), print):\n    child = os.fork()\n"
        "    if child:\n        os.waitpid(child, 0)\n        print('alone', flush=True)\n        input()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], **pipes) as parent:
        assert parent.stdout.readline() == "alone\n"
        with pytest.raises(UsageError, match=f"in use: process {parent.pid} on"):
            check_unlocked(tmp_path)
        parent.communicate("\n")
    check_unlocked(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    """As workers that load data do, which outlive a killed parent for a while."""
    script = (
        "import os, sys, time\nfrom pathlib import Path\nfrom subopt.recipes.run_folder.lock import locked\n"
        "with locked(Path(sys.argv[1]), print):\n"
        "    end, far_end = os.pipe()\n"
        "    if os.fork() == 0:\n        os.write(far_end, b'.')\n        time.sleep(30)\n        os._exit(0)\n"
        "    os.read(end, 1)\n    os.kill(os.getpid(), 9)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], process_group=0, text=True
    )
    assert child.wait() == -signal.SIGKILL
    try:
        with locked(tmp_path, never):
            pass
    finally:
        os.killpg(child.pid, signal.SIGKILL)


def test_a_file_system_without_locks_is_a_warning(recipe_path, monkeypatch):
    def flock(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", flock)
    run = Run(recipe_path)
    assert run("run").step == 6
    told = run.of(events.Warned)
    (warning,) = (event for event in told if "second training" in event.message)
    assert "cannot be locked (Operation not supported)" in warning.message


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_ends_the_run_after_its_step_and_it_can_go_on(recipe_path, name, status):
    run = Run(recipe_path)
    number = getattr(signal, name)
    before = signal.getsignal(number)
    whole = run("whole")
    stopped = run("parts", interrupt_at=3, by=number)
    assert (stopped.interrupted, stopped.step, stopped.exit_status) == (True, 3, status)
    assert run.of(events.Interrupting) == [events.Interrupting(name)]
    assert signal.getsignal(number) is before
    assert same_weights(whole, run("parts", resume=True))


TERMINAL = """
import os, pty, signal, sys, time
from subopt.recipes.training.interrupt import interruptible

child, terminal = pty.fork()
if child == 0:
    with interruptible(lambda number: None) as interrupt:
        print("ready", flush=True)
        while not interrupt.requested:
            time.sleep(0.01)
        print("a closed terminal takes nothing, and that is no error", flush=True)
        signal.raise_signal(signal.SIGHUP)  # a closing terminal may send it twice
    os._exit(interrupt.exit_status)
seen = b""
while b"ready" not in seen:
    seen += os.read(terminal, 100)
os.close(terminal)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.process
def test_a_closed_terminal_is_one_signal_and_its_words_go_nowhere():
    done = subprocess.run([sys.executable, "-c", TERMINAL], timeout=300, check=False)
    assert done.returncode == 129


def test_a_signal_that_is_ignored_stays_ignored(recipe_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        result = Run(recipe_path)("run", interrupt_at=3, by=signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert not result.interrupted


STOP_AT_3 = """

calls = [0]


def loss(model, batch):
    calls[0] += 1
    if calls[0] == 5:
        import os, signal
        for _ in range(TIMES):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
    return nn"""


@pytest.mark.parametrize("times", [1, 2])
def test_sigterm_ends_the_command_with_143(recipe_path, monkeypatch, times, capsys):
    run = Run(recipe_path)
    run.edit_model(
        "def loss(model, batch):\n    return nn", STOP_AT_3.strip().replace("TIMES", str(times))
    )
    run.edit_model("import torch\n", "import time\n\nimport torch\n")
    monkeypatch.chdir(recipe_path.parent)
    handler = signal.getsignal(signal.SIGTERM)
    assert main(["train", "recipe.yaml", "--device", "cpu"]) == 143
    assert signal.getsignal(signal.SIGTERM) is handler
    error = capsys.readouterr().err
    assert "interrupted by SIGTERM: finishing this step" in error
    saved = list((recipe_path.parent / "runs" / "recipe" / "checkpoints").glob("step-*"))
    assert len(saved) == (1 if times == 1 else 0)
