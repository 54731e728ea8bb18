"""Turn the measured runs of the tiny LLaMA into the report; computes means, runs nothing."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

Row = dict[str, Any]


class Cell(NamedTuple):
    """One planned run and, once measured, its row of the results file."""

    section: str
    method: str
    lr: float
    seed: int
    options: dict[str, Any]
    row: Row | None


class Repeats(NamedTuple):
    """One method at its best learning rate: the runs of all its seeds."""

    method: str
    lr: float
    rows: list[Row]

    @property
    def losses(self) -> list[float]:
        """Held-out losses, in nats, of the runs that did not diverge."""
        return [row["held_out_loss"] for row in self.rows if row["held_out_loss"] is not None]

    @property
    def spread(self) -> float | None:
        """Largest minus smallest loss; None with fewer than two."""
        return max(self.losses) - min(self.losses) if len(self.losses) > 1 else None


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, first column left-aligned and the others right."""
    rule = [":---", *("---:" for _ in header[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))


def loss_text(row: Row | None) -> str:
    """A held-out loss, why there is none, or a dash where nothing was run."""
    if row is None:
        return "–"
    if row["held_out_loss"] is None:
        return f"diverged at step {row['steps_done']}"
    return f"{row['held_out_loss']:.3f}"


def best_runs(cells: Sequence[Cell]) -> list[Repeats]:
    """Each method at the learning rate with the lowest first-seed loss, best method first."""
    found = []
    for method in dict.fromkeys(cell.method for cell in cells if cell.section == "methods"):
        measured = [
            cell.row
            for cell in cells
            if cell.section == "methods" and cell.method == method and cell.row
        ]
        finished = [row for row in measured if row["held_out_loss"] is not None]
        if finished:
            best = min(finished, key=lambda row: row["held_out_loss"])
            repeats = [
                cell.row
                for cell in cells
                if cell.section == "seeds" and cell.method == method and cell.row
            ]
            found.append(Repeats(method, best["lr"], [best, *repeats]))
    return sorted(found, key=lambda repeats: statistics.fmean(repeats.losses))


def largest_spread(best: Sequence[Repeats]) -> float | None:
    """The yardstick for every difference in the report, in nats; None before any second seed."""
    return max((each.spread for each in best if each.spread is not None), default=None)


def learning_rate_table(cells: Sequence[Cell]) -> str:
    """First-seed held-out loss of every method at every learning rate, the row's best in bold."""
    chosen = [cell for cell in cells if cell.section == "methods"]
    rates = sorted({cell.lr for cell in chosen})
    best = {each.method: each.lr for each in best_runs(cells)}
    rows = []
    for method in dict.fromkeys(cell.method for cell in chosen):
        by_rate = {cell.lr: cell.row for cell in chosen if cell.method == method}
        texts = [loss_text(by_rate.get(lr)) for lr in rates]
        rows.append(
            [f"`{method}`"]
            + [
                f"**{text}**" if best.get(method) == lr else text
                for lr, text in zip(rates, texts, strict=True)
            ]
        )
    return table(["method", *(f"lr {lr:g}" for lr in rates)], rows)


def best_table(best: Sequence[Repeats]) -> str:
    """Each method at its best learning rate: both seeds, time and state."""
    reference = next((each for each in best if each.method == "adamw"), None)
    rows = []
    for each in best:
        mean = statistics.fmean(each.losses)
        against = mean - statistics.fmean(reference.losses) if reference else None
        rows.append([
            f"`{each.method}`",
            f"{each.lr:g}",
            " / ".join(loss_text(row) for row in each.rows),
            f"{mean:.3f}",
            f"{each.spread:.3f}" if each.spread is not None else "–",
            f"{against:+.3f}" if against is not None else "–",
            " / ".join(f"{row['wall_seconds']:.0f}" for row in each.rows),
            f"{statistics.median(row['step_ms'] for row in each.rows):.1f}",
            f"{max(row['max_step_ms'] for row in each.rows):.0f}",
            f"{each.rows[0]['state_bytes'] / 2**20:.2f}",
        ])
    header = "method|best lr|held-out, seed 0 / 1|mean|spread|against `adamw`|wall s"
    return table([*header.split("|"), "step ms", "slowest step ms", "state MiB"], rows)


def ablation_table(cells: Sequence[Cell]) -> str:
    """The basis options against each other, by method and learning rate, lowest loss first."""
    measured = [(cell, cell.row) for cell in cells if cell.section == "ablation" and cell.row]
    rows = [
        [
            f"`{cell.method}`",
            f"{cell.lr:g}",
            *(str(cell.options[name]) for name in ("source", "period", "on_refresh")),
            loss_text(row),
            f"{row['wall_seconds']:.0f}",
            f"{row['step_ms']:.1f}",
            f"{row['max_step_ms']:.0f}",
            f"{row['state_bytes'] / 2**20:.2f}",
        ]
        for cell, row in sorted(
            measured,
            key=lambda pair: (
                pair[0].method,
                pair[0].lr,
                pair[1]["held_out_loss"] or float("inf"),
            ),
        )
    ]
    header = "method|lr|source|period|on_refresh|held-out|wall s|step ms|slowest step ms|state MiB"
    return table(header.split("|"), rows)


def reading(best: Sequence[Repeats]) -> str:
    """What the numbers allow one to say, and what they do not."""
    spread = largest_spread(best)
    reference = next((each for each in best if each.method == "adamw"), None)
    if spread is None or reference is None:
        return (
            "Too little is measured yet to compare methods: AdamW or the second seeds are missing."
        )
    gains = {
        each.method: statistics.fmean(reference.losses) - statistics.fmean(each.losses)
        for each in best
        if each.method != "adamw" and each.spread is not None
    }
    better = [f"`{method}`" for method, gain in gains.items() if gain > spread]
    worse = [f"`{method}`" for method, gain in gains.items() if gain < -spread]
    same = [f"`{method}`" for method, gain in gains.items() if abs(gain) <= spread]
    return "\n".join([
        f"- The widest spread between two seeds of one method is {spread:.3f} nat. A smaller "
        "difference between two methods is not a win for either.",
        f"- Below `adamw` by more than that: {', '.join(better) or 'none'}.",
        f"- Above `adamw` by more than that: {', '.join(worse) or 'none'}.",
        f"- Not told apart from `adamw`: {', '.join(same) or 'none'}.",
    ])


def conditions_text(rows: Sequence[Row]) -> str:
    """Where and with what the runs were made; several lines when they differ."""
    kinds = dict.fromkeys(
        tuple((name, value) for name, value in row["conditions"].items() if name != "source")
        for row in rows
    )
    lines = [
        "- " + ", ".join(f"{name} {value}" for name, value in conditions) for conditions in kinds
    ]
    loads = [row["load_average"] for row in rows]
    sources = dict.fromkeys(str(row["conditions"]["source"]) for row in rows)
    return "\n".join([
        *lines,
        f"- source: {', '.join(sources)}",
        f"- load average at the end of a run: {min(loads):.1f} to {max(loads):.1f}. Where it "
        "is above the number of threads other work shared the machine, and times are upper "
        "bounds; losses do not depend on it.",
    ])


REPORT = """# Tiny LLaMA on real bytes: {count} runs on a CPU

{done} of {count} planned runs are in. This file is generated: `python benchmarks/bench_tiny_llama.py
--render`; the raw rows are in the `.jsonl` file beside it.

The model is `examples/llama_bytes.py` at size `tiny` (1.9M parameters) on the source of Python's
standard library. {steps} steps of 2,048 bytes, the first 30 of them warm-up, then a cosine to 10 %; gradients
clipped at norm 1, no weight decay. Every method starts from the same weights and sees the same
batches in the same order. Embedding, head and norms are trained by AdamW at learning rate 3e-3
under every method, plain `adamw` included; the learning rates below are those of the matrices.
Losses are nats per byte on the same 32 held-out batches of 8 windows, from files never trained on.

## At the best learning rate of each method

{best}

{reading}

Learning rates are chosen on the held-out loss that is then reported, from a grid of three or four:
a best value at the edge of its row may have a better one outside. {steps} steps show how fast a
method starts, not where a long training ends. *step ms* is the median optimizer step,
*slowest step* the dearest, which is one with a refresh for the methods that decompose.

## Every learning rate, seed 0

{rates}

`galore` and `osd` at rank 0.25 (48 of 192), each with its default scale; all other options are
the defaults.

## Where the basis comes from, seed 0

{ablation}

One seed: differences below the spread above say nothing.

## Conditions

{conditions}
"""


def render(cells: Sequence[Cell]) -> str:
    """The whole report as Markdown."""
    # A run can stand in two sections (a default is also a cell of the ablation): count it once.
    rows = list({id(cell.row): cell.row for cell in cells if cell.row}.values())
    best = best_runs(cells)
    if not rows:
        return "# Tiny LLaMA on real bytes\n\nNothing is measured yet.\n"
    missing = sum(cell.row is None for cell in cells)
    return REPORT.format(
        done=len(rows),
        count=len(rows) + missing,
        steps=rows[0]["steps"],
        best=best_table(best),
        reading=reading(best),
        rates=learning_rate_table(cells),
        ablation=ablation_table(cells),
        conditions=conditions_text(rows),
    )
