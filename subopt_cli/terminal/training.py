"""What a training run says: its plan, its steps, and what came of it against what was predicted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Group, RenderableType
from rich.text import Text

from ..findings.advice import words
from ..text import DASH, beside, count, facts, plural, section
from ..units import format_bytes, format_ms
from .table import Columns, FittingTable, TerminalColumn, noted

if TYPE_CHECKING:
    from subopt.profilers.preflight import Check
    from subopt.profilers.record.profile import Target
    from subopt.recipes.run_folder.result import Result
    from subopt.recipes.training.events import Evaluated, RunPlan, Stepped

Number = TypeVar("Number", int, float)


def plan_facts(plan: RunPlan) -> RenderableType:
    """Return what a run is about to do, and the checks that passed."""
    batch = plural(plan.batch_size, "example")
    if plan.accumulate > 1:
        batch += f" x {plan.accumulate} accumulated"
    pairs = [
        ("model", plan.target),
        (
            "method",
            f"{plan.method} for {count(plan.matrix_parameters)} of {count(plan.parameters)} parameters",
        ),
        *_overrides(plan),
        ("run", f"{plural(plan.steps, 'step')} of {batch}, {plan.precision} on {plan.device}"),
        *([("with", ", ".join(plan.switches))] if plan.switches else []),
        ("folder", str(plan.output)),
        ("memory", _predicted_memory(plan)),
    ]
    if plan.wall_time_s is not None:
        pairs.append(("time", f"about {format_ms(1000 * plan.wall_time_s)}"))
    if not plan.has_eval:
        pairs.append((
            "held-out",
            "no eval_batches in the model file and no data.files.eval: no held-out loss",
        ))
    checks = [(name, detail, True) for name, detail in plan.checks]
    if plan.heavy_decay is not None:
        checks.append(("weight decay", words(plan.heavy_decay), False))
    return Group(facts(pairs), check_list(checks))


def _overrides(plan: RunPlan) -> list[tuple[str, str]]:
    """Return what each override gets, and last what is left for the method and its fallback."""
    return [
        (
            "rest" if use.pattern is None else "override",
            f"{plural(use.tensors, 'tensor')}, {count(use.parameters)} parameters"
            + (f": {use.method or 'other settings'}, by {use.pattern}" if use.pattern else ""),
        )
        for use in plan.overrides
    ]


def _predicted_memory(plan: RunPlan) -> str:
    text = f"{format_bytes(plan.predicted_state_bytes)} of optimizer state"
    if plan.predicted_peak_bytes is not None:
        text += f", {format_bytes(plan.predicted_peak_bytes)} predicted at the peak"
    if plan.free_bytes is not None:
        text += f", {format_bytes(plan.free_bytes)} free"
    return text


def step_line(event: Stepped, width: int, *, with_step: bool = True) -> str:
    """Return one step in one line of at most `width` characters, the least important parts left out.

    Args:
        event: The step.
        width: Characters there is room for.
        with_step: Whether to begin with the step's number and end with the time left, which a bar shows itself.
    """
    parts = [
        f"loss {event.loss:.4g}",
        f"lr {event.lr:.2g}",
        f"{count(event.tokens_per_s)} tokens/s",
    ]
    if event.memory_bytes is not None:
        parts.append(format_bytes(event.memory_bytes))
    if with_step:
        parts.insert(0, f"step {event.step}/{event.steps}")
        if event.step < event.steps:
            parts.insert(2, f"{format_ms(1000 * event.time_left_s)} left")
    line = parts[0]
    for part in parts[1:]:
        if len(line) + 2 + len(part) > width:
            break
        line += f"  {part}"
    return line


def evaluation_line(event: Evaluated) -> str:
    """Return a held-out loss in one line."""
    return f"step {event.step}: held-out loss {event.loss:.4f} over {plural(event.batches, 'batch', 'batches')}"


def result_report(result: Result) -> list[RenderableType]:
    """Return what a run came to: losses, files, and memory and time against their predictions."""
    return [
        section("Interrupted" if result.interrupted else "Trained", _result_facts(result)),
        section("Predicted against actual", _comparison(result)),
    ]


def _result_facts(result: Result) -> RenderableType:
    done = f"{result.step} of {plural(result.steps, 'step')}, {count(result.tokens)} tokens"
    pairs = [("run", f"{result.method}, {done}, {format_ms(1000 * result.wall_s)}")]
    if result.loss is not None:
        pairs.append(("loss", f"{result.loss:.4f} at the last step"))
    if result.eval_loss is not None:
        pairs.append(("held-out", f"{result.eval_loss:.4f}"))
    if result.best_eval_loss is not None:
        pairs.append((
            "best",
            f"{result.best_eval_loss:.4f} after step {result.best_step}: {result.best}",
        ))
    if result.weights is not None:
        pairs += [
            ("weights", result.weights),
            ("load", f'safetensors.torch.load_model(model, "{result.weights}")'),
        ]
    if result.checkpoint is not None:
        pairs.append(("checkpoint", result.checkpoint))
    if result.history is not None:
        pairs.append(("stored", f"predicted and actual, for later profiles: {result.history}"))
    if result.interrupted:
        pairs.append(("go on", "the same command with --resume"))
    return facts(pairs)


def _comparison(result: Result) -> RenderableType:
    predicted, actual = result.predicted, result.actual
    rows = [
        ["optimizer state", *_both(format_bytes, predicted.state_bytes, actual.state_bytes)],
        ["peak of tensors", *_both(format_bytes, predicted.peak_bytes, result.tensor_peak_bytes)],
        ["a step (median)", *_both(format_ms, predicted.step_ms, actual.step_ms)],
    ]
    if result.peak_source == "process" and actual.peak_bytes is not None:
        rows.append(["growth of the process", *_both(format_bytes, None, actual.peak_bytes)])
    columns: Columns[Any] = (
        TerminalColumn("", is_text=True),
        TerminalColumn("predicted"),
        TerminalColumn("actual"),
        TerminalColumn("difference", priority=1),
    )
    note = (
        "A CPU does not count the memory of its tensors. The process grows by what libraries take and keep, too, and "
        "reuses what it had freed: it is no measure of the prediction."
    )
    return noted(FittingTable(columns, rows), note if result.peak_source == "process" else None)


def _both(
    text_of: Callable[[Number | None], str], predicted: Number | None, actual: Number | None
) -> list[str]:
    return [text_of(predicted), text_of(actual), relative_text(predicted, actual)]


def relative_text(predicted: float | None, actual: float | None) -> str:
    """Return how far the actual value is from the predicted one, such as `+3.1%`, or `exact`."""
    if not predicted or actual is None:
        return DASH
    if actual == predicted:
        return "exact"
    return f"{100 * (actual / predicted - 1):+.1f}%"


def preflight_report(target: Target, checks: Iterable[Check]) -> RenderableType:
    """Return what was picked as the model, and every check with what it found."""
    line = "" if target.line is None else f" at line {target.line}"
    picked = Text(f"{target.spec}: {target.picked}{line}")
    return Group(picked, check_list((c.name, c.detail, c.ok) for c in checks))


def check_list(checks: Iterable[tuple[str, str, bool]]) -> RenderableType:
    """Return checks as (name, detail, ok), one to a line; one that needs a look is marked."""
    marks = {True: Text("ok", "green"), False: Text("look", "bold yellow")}
    return beside((marks[ok], Text(f"{name}: {detail}")) for name, detail, ok in checks)
