"""Turn the measured runs of the papers' methods into the report; computes means and ratios, runs nothing."""

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from render.tiny_llama import Row, conditions_text, loss_text, table

BASELINE = "Adam"


class Entry(NamedTuple):
    """One planned run and, once measured, its row of the results file."""

    problem: str
    label: str
    lr: float
    seed: int
    row: Row | None


class Best(NamedTuple):
    """A contender at its best learning rate: the runs of all its seeds."""

    label: str
    lr: float
    rows: list[Row]

    def mean(self, name: str) -> float:
        """Mean of a loss over the seeds that have one."""
        return statistics.fmean(row[name] for row in self.rows if row[name] is not None)

    @property
    def spread(self) -> float | None:
        """Largest minus smallest held-out loss; None with fewer than two."""
        losses = [row["held_out_loss"] for row in self.rows if row["held_out_loss"] is not None]
        return max(losses) - min(losses) if len(losses) > 1 else None


def best_of(entries: Sequence[Entry], problem: str) -> list[Best]:
    """Every contender with a finished first seed, lowest held-out loss first."""
    found = []
    mine = [entry for entry in entries if entry.problem == problem and entry.row]
    for label in dict.fromkeys(entry.label for entry in mine):
        first = [e for e in mine if e.label == label and e.seed == 0 and finished(e.row)]
        if first:
            best = min(first, key=lambda entry: entry.row["held_out_loss"])
            again = [
                e.row for e in mine if (e.label, e.lr) == (label, best.lr) and e.seed and e.row
            ]
            found.append(Best(label, best.lr, [best.row, *again]))
    return sorted(found, key=lambda each: each.mean("held_out_loss"))


def finished(row: Row | None) -> bool:
    """Whether a run reached its end with a finite loss."""
    return row is not None and row["held_out_loss"] is not None


def comparison(best: Sequence[Best], ms: Mapping[str, float]) -> str:
    """Loss, time and bytes of every contender, with ratios to Adam; `ms` is the time of an iteration."""
    adam = next((each for each in best if each.label == BASELINE), None)
    rows = []
    for each in best:
        row = each.rows[0]
        kept = row["state_bytes"] + row["weight_bytes"]
        reference = adam.rows[0]["state_bytes"] + adam.rows[0]["weight_bytes"] if adam else None
        rows.append([
            each.label,
            f"{each.lr:g}",
            " / ".join(loss_text(row) for row in each.rows),
            f"{each.mean('train_loss'):.4f}",
            f"{ms[each.label]:.0f}" if each.label in ms else "–",
            f"{ms[each.label] * row['steps'] / 1e3:.0f}" if each.label in ms else "–",
            f"{ms[each.label] / ms[BASELINE]:.2f}" if each.label in ms else "–",
            f"{row['state_bytes'] / 2**20:.2f}",
            f"{row['weight_bytes'] / 2**20:.2f}",
            f"{kept / reference:.2f}" if reference else "–",
        ])
    header = "method|best lr|held-out, seed 0 / 1|train|ms a step|seconds|time / Adam's|state MiB|weights MiB"
    return table([*header.split("|"), "state + weights / Adam's"], rows)


def rate_table(entries: Sequence[Entry], problem: str) -> str:
    """First-seed held-out loss of every contender at every learning rate."""
    chosen = [entry for entry in entries if entry.problem == problem and entry.seed == 0]
    rates = sorted({entry.lr for entry in chosen})
    rows = []
    for label in dict.fromkeys(entry.label for entry in chosen):
        by_rate = {entry.lr: entry.row for entry in chosen if entry.label == label}
        rows.append([label, *(loss_text(by_rate.get(lr)) for lr in rates)])
    return table(["method", *(f"lr {lr:g}" for lr in rates)], rows)


def reading(best: Sequence[Best]) -> str:
    """What the spread of two seeds allows one to say."""
    spreads = [each.spread for each in best if each.spread is not None]
    adam = next((each for each in best if each.label == BASELINE), None)
    if not spreads or adam is None or adam.spread is None:
        return "Too little is measured yet to compare: Adam or the second seeds are missing."
    spread = max(spreads)
    gains = {
        each.label: adam.mean("held_out_loss") - each.mean("held_out_loss")
        for each in best
        if each is not adam and each.spread is not None
    }
    better = [label for label, gain in gains.items() if gain > spread]
    worse = [label for label, gain in gains.items() if gain < -spread]
    same = [label for label, gain in gains.items() if abs(gain) <= spread]
    return "\n".join([
        f"- The widest spread between two seeds of one method is {spread:.4f} nat; a smaller "
        "difference is not a win.",
        f"- Below Adam by more than that: {'; '.join(better) or 'none'}.",
        f"- Above Adam by more than that: {'; '.join(worse) or 'none'}.",
        f"- Not told apart from Adam: {'; '.join(same) or 'none'}.",
    ])


REPORT = """# The papers' methods side by side on a CPU: {done} runs

This file is generated: `python benchmarks/bench_paper_methods.py --render`; the raw rows are in the `.jsonl` file
beside it, {missing} of {planned} planned runs are missing. Every method starts from the same weights and sees the same
batches; gradients are clipped at norm 1; what a method leaves alone is trained by AdamW at one learning rate under
every method. Times are means over a period of ten steps, refresh included, of iterations (forward, backward and step)
that the methods took in turns on one thread, the first thirty of a training; Shampoo and Sketchy precondition from the
first step there. *train* is the mean loss of the last 50 steps. The learning rate is chosen on the held-out loss that
is then reported, from a grid of one to three.

## Autoencoder on digits, 300 steps of 250 images

`examples/autoencoder_digits.py`: the layers of the paper's benchmark on scikit-learn's 8 x 8 digits. Loss: binary
cross-entropy in nats per pixel. Block sizes 10 (Block Adam), 250 and 1000 (Shampoo), Sketchy's rank 256 in blocks of
1024, as in "Block Low-Rank Preconditioner with Shared Basis", section 3.1.

{autoencoder}

{autoencoder_reading}

{autoencoder_rates}

## Byte LLaMA, 300 steps of 2,048 bytes

`examples/llama_bytes.py` at size `tiny`; nats per byte. Blocks of 8 (Block Adam), 128 and 512 (Shampoo); Sketchy's
rank is 64.

{llama}

One seed each, and one learning rate for most. On this problem two seeds of one method differ by up to 0.082 nat
([all seeds of other methods](tiny_llama_cpu_202611.md)): only differences above that mean anything.

{llama_rates}

{claims}

## Conditions

{conditions}
"""


def render(entries: Sequence[Entry], ms: Mapping[str, Mapping[str, float]]) -> str:
    """The whole report as Markdown, from the runs and the times of an iteration."""
    rows = [entry.row for entry in entries if entry.row]
    if not rows:
        return "# The papers' methods side by side\n\nNothing is measured yet.\n"
    best = {problem: best_of(entries, problem) for problem in ("autoencoder", "llama")}
    return REPORT.format(
        done=len(rows),
        missing=len(entries) - len(rows),
        planned=len(entries),
        autoencoder=comparison(best["autoencoder"], ms.get("autoencoder", {})),
        autoencoder_reading=reading(best["autoencoder"]),
        autoencoder_rates=rate_table(entries, "autoencoder"),
        llama=comparison(best["llama"], ms.get("llama", {})),
        llama_rates=rate_table(entries, "llama"),
        claims=claims(best["autoencoder"], ms.get("autoencoder", {})),
        conditions=conditions_text(rows),
    )


def claims(autoencoder: Sequence[Best], ms: Mapping[str, float]) -> str:
    """The paper's claims beside what was found here."""
    by_label = {each.label: each for each in autoencoder}
    names = ("shared basis, k = 32", "Shampoo, large blocks")
    if any(name not in by_label or name not in ms for name in names):
        return ""
    ours, shampoo = (by_label[name] for name in names)
    order = "; ".join(
        each.label for each in sorted(autoencoder, key=lambda each: each.mean("train_loss"))
    )
    ratio = ms[names[1]] / ms[names[0]]
    kept = [each.rows[0]["state_bytes"] for each in (shampoo, ours)]
    return f"""## Beside the paper's own claims

| claim ("Block Low-Rank Preconditioner with Shared Basis", section 3) | here |
| :--- | :--- |
| autoencoder: training loss of the shared basis below all but Shampoo(1000)'s | lowest first: {order} |
| 3.2 times less time than Shampoo(1000) | Shampoo takes {ratio:.2f} times its time |
| 1.5 times less memory than Shampoo(1000) (whole process) | optimizer state {kept[0] / kept[1]:.2f} times less |

Where these differ, the settings do too. The paper searches learning rate, momentum and smoothing by 180 random trials a
method and trains 100 epochs on MNIST; here every option is a default, the grid has one to three rates, and 300 steps
are 52 epochs of 1,437 small images. On its GPU a thousand inverse roots of 32 x 32 matrices are one cheap batch beside
one of 1000 x 1000; on one CPU thread they are dearer, and come at every step, where Shampoo decomposes at every tenth.
The shared basis adds up its statistics, as AdaGrad does, where the others average. Memory there is that of the process,
here the optimizer's state alone. For dynamical low-rank training its paper prints no table to compare with."""
