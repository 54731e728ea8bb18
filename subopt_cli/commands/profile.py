"""`subopt profile`: measure a model."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ..errors import UsageError
from ..units import parse_size
from ._advice import own_advice, recommend_command
from ._options import (
    DEFAULT_PROFILE,
    GPU_MEMORY_HELP,
    Debug,
    Details,
    Device,
    Json,
    Rank,
    check_can_write,
    check_may_replace,
    parse_rank,
    read_memory_limit,
)

if TYPE_CHECKING:
    from pydantic import BaseModel

    from subopt.profilers.record.profile import Files, Profile, Settings

    from ..terminal.output import Output

EXIT_INTERRUPTED = 130
Asked = TypeVar("Asked", bound="BaseModel")


class Precision(str, Enum):
    """Precision of training."""

    fp32 = "fp32"
    bf16 = "bf16"
    bf16_mixed = "bf16-mixed"


class Detail(str, Enum):
    """How much is measured."""

    quick = "quick"
    standard = "standard"
    full = "full"


def profile(
    target: Annotated[
        str,
        typer.Argument(
            help="path/model.py, path/model.py:attr, package.module:attr or hf:PATH_OR_NAME"
        ),
    ],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Arguments of build_model, or fields of the config.",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples in a batch.")] = 8,
    batches: Annotated[int, typer.Option(min=1, help="Batches whose gradients are measured.")] = 8,
    steps: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Training steps over which subspaces are followed.  [default: 0, 20 or 100, by --detail]",
        ),
    ] = None,
    warmup_steps: Annotated[
        int, typer.Option(min=0, help="Training steps to take before measuring.")
    ] = 0,
    rank: Rank = "0.25",
    dtype: Annotated[Precision, typer.Option(help="Precision of training.")] = Precision.fp32,
    device: Device = None,
    detail: Annotated[
        Detail, typer.Option(help="How much to measure; quick: spectra and memory alone.")
    ] = Detail.standard,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="From shapes alone: allocate and run nothing.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and data.")] = 0,
    gpu_mem: Annotated[str | None, typer.Option(help=GPU_MEMORY_HELP)] = None,
    max_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory for gradients held at once, such as 4G; less means more passes.  "
            "[default: by the model's peak]",
        ),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", help='Made-up data instead of batches: "ids=int64[8,256]<32000".'),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="FILES",
            help="Real text instead: 'texts/*.txt' in quotes, .jsonl, .parquet, or a data set.",
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of --data: a tokenizer.json, a folder with one, or hf:NAME.  [default: bytes]",
        ),
    ] = None,
    field: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of --data: where the text is.  [default: text]"),
    ] = None,
    sequence_length: Annotated[
        int | None,
        typer.Option(min=2, help="Of --data: tokens of an example.  [default: 256]"),
    ] = None,
    to: Annotated[
        Path, typer.Option("--output", "-o", help="The file to write.")
    ] = DEFAULT_PROFILE,
    details: Details = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure a model, and what every optimizer costs on it.

    TARGET is plain Python with build_model() and batches(batch_size). The result goes to a JSON file
    that `subopt recommend` reads.
    """
    from subopt.profilers.device import resolve_device
    from subopt.profilers.effort import EFFORTS
    from subopt.profilers.record.profile import Settings

    from ..terminal.details.profile import profile_report
    from ..terminal.output import Output
    from ..terminal.profile import profile_screen

    output = Output(as_json=as_json)
    check_can_write(to)
    check_may_replace(to, '"schema_version"', "a profile", "name another file with -o")
    pairs = split_pairs(arguments or [])
    if data and target.startswith("hf:"):
        sequence_length = _one_length(pairs, sequence_length)
    options = {"tokenizer": tokenizer, "field": field, "sequence_length": sequence_length}
    files = _files(data, inputs, options)
    settings = _checked(
        Settings,
        batch_size=batch_size,
        batches=batches,
        steps=EFFORTS[detail.value].steps if steps is None else steps,
        warmup_steps=warmup_steps,
        rank=parse_rank(rank),
        dtype=dtype.value,
        device=str(resolve_device(device)),
        detail=detail.value,
        simulate=simulate,
        seed=seed,
        gpu_mem_bytes=None if gpu_mem is None else read_memory_limit(gpu_mem).total_bytes,
        max_memory_bytes=None if max_memory is None else parse_size(max_memory),
    )
    found = _measured(output, target, pairs, inputs or [], files, settings)
    found.save(to)
    output.note(f"wrote {to}")
    output.document(found.model_dump(mode="json"))
    advice, command = own_advice(found), recommend_command(to, gpu_mem)
    output.show(*profile_screen(found, advice, command))
    if details:
        usable_bytes = None if advice is None else advice.budget.usable_bytes
        output.show("", *profile_report(found, usable_bytes=usable_bytes))
    if found.interrupted:
        output.warning("interrupted: the profile holds what was complete")
        raise typer.Exit(EXIT_INTERRUPTED)


def _measured(
    output: Output,
    target: str,
    pairs: dict[str, str],
    inputs: list[str],
    files: Files | None,
    settings: Settings,
) -> Profile:
    """Load the model and its batches, and measure them while the stages are shown."""
    from subopt.profilers.profile import run_profile
    from subopt.profilers.target.load import load_target

    from ..terminal.progress import StageProgress
    from ..terminal.training import preflight_report

    with output.guarded_stdout():
        loaded = load_target(target, pairs, inputs=inputs)
        if files is not None:
            from subopt.recipes.data import with_files

            loaded = with_files(loaded, files, Path.cwd())
        with StageProgress(output) as progress:
            return run_profile(
                loaded,
                settings,
                progress=progress,
                on_preflight=lambda checks: output.aside(preflight_report(loaded.record, checks)),
            )


def _one_length(pairs: dict[str, str], sequence_length: int | None) -> int | None:
    """Give the files' examples and the made-up batches of an `hf:` model one length, whichever was given."""
    if sequence_length is not None:
        pairs["sequence_length"] = str(sequence_length)
        return sequence_length
    given = pairs.get("sequence_length", "")
    return int(given) if given.isdecimal() else None


def _checked(record: type[Asked], **values: Any) -> Asked:
    """Return what was asked for as a record.

    Raises:
        UsageError: A number is beyond all bounds.
    """
    from pydantic import ValidationError

    try:
        return record.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).removesuffix("_bytes").replace("_", "-")
        raise UsageError(f"--{option}: {first['msg']}", "give a smaller number") from None


def _files(
    data: list[str] | None, inputs: list[str] | None, options: dict[str, str | int | None]
) -> Files | None:
    """Return the files of `--data` and how to read them, or None without it.

    Raises:
        UsageError: `--input` as well, an option that needs `--data`, or a value that is out of range.
    """
    from subopt.profilers.record.profile import Files

    given = {name: value for name, value in options.items() if value is not None}
    if not data:
        if given:
            option = next(iter(given)).replace("_", "-")
            raise UsageError(
                f"--{option} says how to read files", "name them: --data 'texts/*.txt'"
            )
        return None
    if inputs:
        raise UsageError("--input and --data are two kinds of data", "give one of them")
    return _checked(Files, train=data, **given)


def split_pairs(words: list[str]) -> dict[str, str]:
    """Return `key=value` words as a dict."""
    pairs = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UsageError(f"'{word}' is not key=value", "write arguments like size=60m")
        pairs[key] = value
    return pairs
