"""The command: wiring, and the one place where errors become a message and an exit status."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer

from ._version import __version__
from .commands import (
    compare,
    doctor,
    export,
    lr,
    methods,
    profile,
    race,
    recommend,
    report,
    schema,
    train,
)
from .errors import AdjustedWarning, RenamedWarning, SuboptError

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

# Newer versions of Typer carry their own copy of click, so the base class of its errors is reached
# through a name that all versions export: BadParameter < UsageError < ClickException.
_CommandLineError = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="subopt",
    help="Measure your model, find the optimizer that suits it on this GPU, and train with it.",
    epilog="In order: subopt profile model.py; subopt recommend --gpu-mem 24G; subopt train recipe.yaml",
    rich_markup_mode=None,  # plain help loads fast and stays readable in a narrow terminal
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("profile")(profile.profile)
app.command("recommend")(recommend.recommend)
app.command("lr")(lr.lr)
app.command("race")(race.race)
app.command("train")(train.train)
app.command("report")(report.report)
app.command("compare")(compare.compare)
app.command("export")(export.export)
app.command("methods")(methods.methods)
app.command("schema")(schema.schema)
app.command("doctor")(doctor.doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"subopt {__version__}\n")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and stop."
        ),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    0 done; 1 the user's code or ours failed, or the disk is full; 2 usage or bad input; 3 does not fit; 4 the
    loss became non-finite; 130 interrupted, and training 143 by SIGTERM and 129 by SIGHUP. A traceback is shown
    only where `--debug` asks for it.

    Args:
        arguments: The words after the command's name; the process's own by default.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with _our_warnings_in_one_line():
            status = app(words, prog_name="subopt", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        return _report(error, debug="--debug" in words)
    return status if isinstance(status, int) else 0


@contextlib.contextmanager
def _our_warnings_in_one_line() -> Iterator[None]:
    """Print our own warnings without the place in our code that gives them."""
    others = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, (AdjustedWarning, RenamedWarning)):
            sys.stderr.write(f"warning: {message}\n")
        else:
            others(message, category, *where, **more)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = others


def _report(error: BaseException, *, debug: bool) -> int:
    """Say what went wrong on stderr, and return the exit status."""
    if isinstance(error, typer.Abort):  # Typer's wrapping of an interrupt, or of an EOFError
        error = error.__cause__ or KeyboardInterrupt()
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    if isinstance(error, BrokenPipeError):
        # Whoever read our output has gone; without this Python complains once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE

    from .terminal.output import Output

    output = Output()
    if debug:
        output.note("".join(traceback.format_exception(error)).rstrip())
    if isinstance(error, SuboptError):
        output.error(error.message, error.hint)
        return error.exit_status
    if isinstance(error, _CommandLineError):
        output.error(_usage_message(error), _usage_hint(error))
        return EXIT_USAGE
    first_line = (str(error).strip() or "no message").splitlines()[0]
    output.error(
        f"subopt failed: {type(error).__name__}: {first_line}",
        None if debug else "--debug shows the traceback",
    )
    return EXIT_FAILURE


def _usage_message(error: BaseException) -> str:
    format_message = getattr(error, "format_message", error.__str__)
    return " ".join(str(format_message()).split()).rstrip(".")


def _usage_hint(error: BaseException) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "subopt"
    return f"{command} --help lists what there is"
