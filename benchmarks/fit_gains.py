"""What `recipes/prior/gains.yaml` may promise of small models: gains on the dev half of the advice benchmark.

    python benchmarks/fit_gains.py

A method's gain on a task is the share of tuned AdamW's loss measure (perplexity of language models, else loss) that it
takes away at its own best rate in the same time, and after equally many steps, by what twice the steps are worth to
AdamW on that task (`advice/lengths.py`): the rule takes off what slower steps cost elsewhere. The mean of the tasks
trained from scratch is what is promised; its error is that of promising one task the mean of the others.
"""

import argparse
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from advice.lengths import gains_by_doubling
from advice.rows import loss_of, read_rows
from common.conditions import RESULTS

from subopt.profilers.record.cost import BASELINE
from subopt.recipes.evidence.raced import gain_from_losses

RUNS = RESULTS / "advice_cpu_202612.jsonl"
SHORTER = RESULTS / "advice_cpu_202612_shorter.jsonl"
# A loss twice as large is a failure, however much larger: it is not to rule the mean.
LEAST = -1.0


def gains(
    runs: Path, worth: Mapping[str, float], *, fine_tunes: bool
) -> dict[str, dict[str, float]]:
    """Return the gain after equally many steps by method and task; of the dev half alone.

    Args:
        runs: The file of runs.
        worth: What twice the steps are worth, by task.
        fine_tunes: Whether of the fine-tuning or of the others.
    """
    best: dict[tuple[str, str], float] = defaultdict(lambda: math.inf)
    kinds, ratios = {}, {}
    for row in read_rows(runs):
        if row["half"] != "dev" or row["seed"] or row["fine_tunes"] != fine_tunes:
            continue
        key = row["task"], row["method"]
        kinds[row["task"]], ratios[key] = row["kind"], row["step_ms_ratio"]
        best[key] = min(best[key], loss_of(row))
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for (task, method), loss in best.items():
        gain = gain_from_losses(loss, best[task, BASELINE], kinds[task])
        if method != BASELINE and gain is not None:
            left = (1 - worth[task]) ** math.log2(ratios[task, method])
            found[method][task] = max(1 - (1 - gain) * left, LEAST)
    return found


def left_out_error(values: list[float]) -> float:
    """The root mean square of how far each value is from the mean of the others."""
    others = [(sum(values) - value) / (len(values) - 1) for value in values]
    errors = [value - mean for value, mean in zip(values, others, strict=True)]
    return math.sqrt(statistics.mean(error**2 for error in errors))


def main() -> None:
    """Print the mean gains and their errors."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=RUNS)
    runs = parser.parse_args().runs
    lengths: dict[str, list[float]] = defaultdict(list)
    print("twice the steps of AdamW are worth")
    for row, gain in gains_by_doubling(runs, SHORTER):
        lengths[row["task"]].append(gain)
        print(f"{row['task']:16} {row['kind']:12} from {row['steps']:4} steps {gain:+6.2f}")
    worth = {task: statistics.mean(found) for task, found in lengths.items()}
    for title, fine_tunes in (("from scratch", False), ("fine-tuning", True)):
        print(f"\n{title:14} tasks   mean median  error  least")
        for method, by_task in gains(runs, worth, fine_tunes=fine_tunes).items():
            values = list(by_task.values())
            error = left_out_error(values) if len(values) > 1 else math.nan
            print(
                f"{method:14} {len(values):5} {statistics.mean(values):+6.2f} "
                f"{statistics.median(values):+6.2f} {error:6.2f} {min(values):+6.2f}"
            )


if __name__ == "__main__":
    main()
