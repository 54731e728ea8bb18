"""Running the command on a hostile file: how it must end, and that nothing of the file ran."""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from subopt.app import main
from subopt.recipes.training.device_memory import PeakMemory

# What the hostile files try to make.
CANARY = "CANARY"
# Far more than any of them needs; a bomb that goes off takes gigabytes, or for ever.
MOST_BYTES = 400 * 2**20
HANGS_S = 60


class HangsError(BaseException):
    """The command was still busy after a minute."""


def ends(capsys, words: Sequence[str]) -> tuple[int, str, list[str]]:
    """Run the command; return its status, stdout and the lines of stderr, and check that it took little memory."""
    gc.collect()
    memory = PeakMemory(torch.device("cpu"), model_bytes=0)
    capsys.readouterr()
    status = bounded(lambda: main(list(words)))
    taken = memory.bytes()
    told = capsys.readouterr()
    assert taken is None or taken < MOST_BYTES, f"{taken:,} bytes"
    return status, told.out, told.err.splitlines()


def bounded(run: Callable[[], int]) -> int:
    """Call something that must not hang."""

    def stop(*_: object) -> None:
        raise HangsError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(HANGS_S)
    try:
        return run()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def check_refused(ended: tuple[int, str, list[str]], folder: Path, says: str) -> None:
    """Exit status 2, an error of one line, at most a hint, no traceback, no control characters, no canary."""
    status, out, lines = ended
    err = "\n".join(lines)
    assert status == 2, err
    assert out == ""
    told = [line for line in lines if not line.startswith("warning: ")]
    assert 1 <= len(told) <= 2, err
    assert told[0].startswith("error: ")
    assert all(line.startswith("hint: ") for line in told[1:])
    assert says in err
    assert len(err) < 2000, err[:4000]
    assert "Traceback" not in err
    assert "\x1b" not in err
    check_no_canary(folder)


def check_no_canary(folder: Path) -> None:
    """Nothing of the hostile file ran."""
    for place in (folder, folder.parent, Path.cwd(), Path.home(), Path("/tmp")):
        assert not (place / CANARY).exists()
