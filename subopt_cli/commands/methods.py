"""`subopt methods`: the method table, from shapes alone."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from ._options import Debug, Json, Rank, parse_rank, split_names

if TYPE_CHECKING:
    from subopt.profilers.costs.architectures import WeightShape

    from ..terminal.output import Output


class ParameterDtype(str, Enum):
    """What the parameters are stored in."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


def methods(
    shape: Annotated[
        str | None, typer.Option(help="Cost of one matrix of this shape, such as 1024x4096.")
    ] = None,
    arch: Annotated[
        str | None, typer.Option(help="Cost on a LLaMA: llama-60m, 130m, 350m, 1b or 7b.")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a training step, for the FLOP columns.")
    ] = None,
    dtype: Annotated[
        ParameterDtype, typer.Option(help="What the parameters are stored in.")
    ] = ParameterDtype.fp32,
    rank: Rank = "0.25",
    names: Annotated[
        str | None, typer.Option("--methods", help="Only these, separated by commas.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the optimizers, or what they cost on given shapes.

    With --arch, state is counted as the papers' tables do: every number in --dtype, step counters left out.
    With --shape it is counted as subopt keeps it, bases in float32 and counters included.
    """
    from ..terminal.output import Output

    if shape and arch:
        raise UsageError("--shape and --arch exclude each other", "give one of the two")
    output, chosen = Output(as_json=as_json), split_names(names)
    if shape or arch:
        wishes = {"rank": parse_rank(rank)}
        _show_costs(output, _weights(shape, arch, dtype), chosen, wishes, tokens)
    else:
        _show_list(output, chosen)


def _show_list(output: Output, names: list[str] | None) -> None:
    from subopt.optimizers import METHODS, get_method

    from ..terminal.methods import method_list

    records = [get_method(name) for name in names] if names else list(METHODS.values())
    keys = ("name", "summary", "paper", "section", "state_formula", "fallback")
    listed = [
        {key: getattr(record, key) for key in keys} | {"missing_extra": record.missing_extra()}
        for record in records
    ]
    output.document({"methods": listed})
    output.show(method_list(records))


def _weights(shape: str | None, arch: str | None, dtype: ParameterDtype) -> list[WeightShape]:
    import torch

    from subopt.profilers.costs.architectures import WeightShape, llama_shapes

    stored = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype.value]
    if arch:
        return llama_shapes(arch, stored)
    return [WeightShape("weight", _parse_shape(shape or ""), "matrix", stored)]


def _parse_shape(text: str) -> tuple[int, ...]:
    parts = text.lower().split("x")
    if len(parts) < 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"'{text}' is not the shape of a matrix", "write it like 1024x4096")
    return tuple(map(int, parts))


def _show_costs(
    output: Output,
    weights: list[WeightShape],
    names: list[str] | None,
    wishes: dict[str, Any],
    tokens: int | None,
) -> None:
    from subopt.optimizers import METHODS
    from subopt.profilers.costs.formula import PUBLISHED_TABLE_REMARKS, method_costs

    from ..terminal.methods import method_legend, method_table, missing_extras
    from ..text import facts, section

    is_model = len(weights) > 1
    if names is None:
        names = [name for name, record in METHODS.items() if record.missing_extra() is None]
    costs = method_costs(weights, names, wishes, tokens=tokens, as_published=is_model)
    output.document({"methods": [cost.model_dump(mode="json") for cost in costs]})
    counted = {"counted": "as in the papers' tables: no step counters, every number in --dtype"}
    legend = (counted if is_model else {}) | method_legend(costs)
    output.show(
        method_table(costs, remarks=PUBLISHED_TABLE_REMARKS if is_model else {}),
        *missing_extras(METHODS.values()),
        section("How to read this", facts(legend.items())),
    )
