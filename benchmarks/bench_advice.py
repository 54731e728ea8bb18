"""Is the advice right? Policies judged on runs of every method at every rate, half of the tasks held out.

    python benchmarks/bench_advice.py train --time-limit 60   # runs what is not yet known; goes on by the same command
    python benchmarks/bench_advice.py profile                 # a quick profile of each task, which recommend reads
    python benchmarks/bench_advice.py recommended             # runs what recommend writes where nobody has
    python benchmarks/bench_advice.py render                  # policies against the rows: seconds
"""

import argparse

from advice.runs import train, wanted
from common.conditions import RESULTS

NAME = "advice_cpu_202612"
ROWS = RESULTS / f"{NAME}.jsonl"
STEP_TIMES = RESULTS / f"{NAME}_step_times.json"


def main() -> None:
    """Do one stage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("stage", choices=("train",))
    parser.add_argument("--time-limit", type=float, default=60.0, help="minutes")
    arguments = parser.parse_args()
    train(ROWS, STEP_TIMES, wanted, arguments.time_limit)


if __name__ == "__main__":
    main()
