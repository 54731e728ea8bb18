"""The errors a user can cause: one family, caught once at the command's edge.

A leaf: imports nothing of ours, so that every layer may raise these.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# Characters of a message that quotes a file.
LONGEST = 1000


class SuboptError(Exception):
    """An error with a message for the user, what to do about it, and an exit status.

    Attributes:
        message: One line that says what is wrong.
        hint: One line that says what to do, or None.
        exit_status: The status the command ends with.
    """

    exit_status = 2

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class RenamedWarning(FutureWarning):
    """A name of an earlier version, which is read as its name now. The message says both."""


class AdjustedWarning(UserWarning):
    """A setting was changed to go with another that was given. The message says both."""


class UsageError(SuboptError):
    """A command, option or value that makes no sense. Exit status 2."""


class TargetError(SuboptError):
    """The user's model file cannot be found, imported or understood. Exit status 2."""


class PreflightError(SuboptError):
    """The model loads but cannot be measured or trained: no batches, NaN loss, no matrices. Exit status 2."""


class FileFormatError(SuboptError):
    """A profile, recipe or checkpoint that cannot be read. Exit status 2.

    The message is one line of bounded length, whatever of the file it quotes.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        line = " ".join(message.splitlines())
        super().__init__(line if len(line) <= LONGEST else line[: LONGEST - 3] + "...", hint)


class OptionError(SuboptError, ValueError):
    """An unknown method or option, or a value out of range. Exit status 2.

    Also a ValueError, because `torch.optim` users expect one from a constructor.
    """


class UserCodeError(SuboptError):
    """The user's own code raised while running. Exit status 1."""

    exit_status = 1


class DiskFullError(SuboptError):
    """A file could not be written because the disk, or the user's share of it, is full. Exit status 1."""

    exit_status = 1


class DoesNotFitError(SuboptError):
    """Nothing fits the memory budget. Exit status 3."""

    exit_status = 3


class NonFiniteLossError(SuboptError):
    """The training loss became NaN or infinite. Exit status 4."""

    exit_status = 4


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text; its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def quoted(value: object, longest: int = 60) -> str:
    """Return a value that stands in a file as it can be shown in a message: in one line, and not much of it."""
    text = str(value)
    shown = text if text.isprintable() else repr(text)
    return shown if len(shown) <= longest else shown[: longest - 3] + "..."


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest known word, or "" where none is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""
