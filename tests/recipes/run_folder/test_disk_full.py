"""A full disk: one clear error, the old checkpoint kept, nothing half-written, and a run that goes on afterwards."""

import errno
import resource
import shutil
import subprocess
from collections import namedtuple

import pytest

from subopt.app import main
from subopt.errors import DiskFullError
from subopt.recipes.run_folder import disk
from subopt.recipes.run_folder.checkpoint import checkpoints_in
from subopt.recipes.training import metrics

from ..running import Run, same_weights

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def run(recipe_path):
    return Run(recipe_path)


class Disk:
    """A disk on which every file ends at so many bytes, as the kernel enforces it with EFBIG."""

    def __init__(self):
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(self, size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, self.before[1]))

    def free(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


@pytest.fixture
def limited():
    limited = Disk()
    yield limited
    limited.free()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def fill_at(run, step, action):
    """Call `action` after a step of the run."""
    original = run.events

    class Watching(list):
        def append(self, event):
            super().append(event)
            if getattr(event, "step", None) == step and type(event).__name__ == "Stepped":
                action()

    run.events = Watching(original)


# Bytes at which a checkpoint's files are cut: in the model's, in the optimizer's, in the trainer's.
@pytest.mark.parametrize("size", [300, 3000, 6000])
def test_a_full_disk_in_a_checkpoint_keeps_the_old_one_and_the_run_goes_on(
    run, limited, tmp_path, size
):
    whole = run("whole")
    fill_at(run, 5, lambda: limited.limit(size))
    with pytest.raises(
        DiskFullError, match=r"full: no space for the (checkpoint|metrics)"
    ) as caught:
        run("run", "checkpoint.every=2")
    limited.free()
    assert "--resume" in caught.value.hint
    assert caught.value.exit_status == 1
    folder = tmp_path / "run"
    assert names(folder / "checkpoints") == ["step-2", "step-4"]
    assert names(folder) == ["checkpoints", "metrics.jsonl", "recipe.yaml"]
    run.events = []
    resumed = run("run", "checkpoint.every=2", resume=True)
    assert resumed.resumed_from == 4
    assert same_weights(whole, resumed)


def test_what_does_not_fit_is_known_before_it_is_written(run, monkeypatch, tmp_path):
    free = [10**9]
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: Usage(10**12, 0, free[0]))
    fill_at(run, 5, lambda: free.__setitem__(0, 5000))
    with pytest.raises(
        DiskFullError, match=r"of step 6 in .*checkpoints \(it takes 1\d\d KiB, 4.88 KiB free\)"
    ):
        run("run", "checkpoint.every=3")
    assert names(tmp_path / "run" / "checkpoints") == ["step-3"]
    free[0] = 10**9
    run.events = []
    assert run("run", "checkpoint.every=3", resume=True).resumed_from == 3


def test_room_is_made_of_checkpoints_that_would_be_deleted_anyway(run, monkeypatch, tmp_path):
    """With keep: 2, the oldest of two goes before the third is written instead of after; the newest never does."""
    folder = tmp_path / "run" / "checkpoints"

    def usage(path):
        return Usage(10**12, 0, 10**9 if len(checkpoints_in(folder)) < 2 else 5000)

    monkeypatch.setattr(disk.shutil, "disk_usage", usage)
    assert run("run", "checkpoint.every=1").step == 6
    assert len(names(folder)) == 2


def test_the_only_checkpoint_never_makes_room(run, monkeypatch, tmp_path):
    folder = tmp_path / "run" / "checkpoints"

    def usage(path):
        return Usage(10**12, 0, 5000 if checkpoints_in(folder) else 10**9)

    monkeypatch.setattr(disk.shutil, "disk_usage", usage)
    with pytest.raises(DiskFullError, match="of step 2"):
        run("run", "checkpoint.every=1", "checkpoint.keep=1")
    assert names(folder) == ["step-1"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_quota_in_the_metrics_ends_with_the_checkpoint_before(run, monkeypatch, tmp_path, number):
    real = metrics.MetricsLog.evaluated

    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, line):
            raise OSError(number, "full")

        def __getattr__(self, name):
            return getattr(self.file, name)

    def evaluated(self, event):
        self._file = Full(self._file)
        return real(self, event)

    monkeypatch.setattr(metrics.MetricsLog, "evaluated", evaluated)
    with pytest.raises(DiskFullError, match="no space for the metrics"):
        run("run", "checkpoint.every=2", "eval.every=5")
    assert names(tmp_path / "run" / "checkpoints") == ["step-2", "step-4"]


def test_a_file_system_that_tells_no_sizes_refuses_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: Usage(0, 0, 0))
    assert disk.free_disk_bytes(tmp_path / "not" / "yet") is None


def test_other_errors_of_the_disk_are_not_called_full(tmp_path):
    with pytest.raises(PermissionError), disk.disk_full_as_error("it", tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(RuntimeError, match="shape"), disk.disk_full_as_error("it", tmp_path):
        raise RuntimeError("a shape (os error 2)")


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 256 KiB, where the tests may mount one."""
    place = tmp_path / "small"
    place.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("needs mount")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)],
        capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        pytest.skip("may not mount a small disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.process
def test_the_command_on_a_real_full_disk(run, small_disk, monkeypatch, capsys):
    monkeypatch.chdir(run.recipe_path.parent)
    words = ["train", "recipe.yaml", "--device", "cpu", "--output", str(small_disk / "run")]
    words += ["checkpoint.every=2"]
    monkeypatch.setattr(
        "subopt.recipes.run_folder.checkpoint._OVERHEAD_BYTES", 0
    )  # let the kernel refuse
    (small_disk / "ballast").write_bytes(bytes(210 << 10))
    assert main(words) == 1
    error = capsys.readouterr().err
    assert "the disk is full" in error
    assert "--resume" in error
    assert not list((small_disk / "run").rglob("*partial*"))
    (small_disk / "ballast").unlink()
    assert main([*words, "--resume"]) == 0
    assert (small_disk / "run" / "result.json").exists()
