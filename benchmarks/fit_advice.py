"""How far off the gains are that `subopt profile`'s measurements promise, and which constants would do better.

    subopt profile examples/autoencoder_digits.py --batch-size 100 -o PROFILES/autoencoder.json    # and so on
    python benchmarks/fit_advice.py PROFILES

Reads what `bench_advice.py` trained: for each example and method the loss after equal time, each at its own best rate.
Each example in turn is left out, the constants are fitted to the other two on a coarse grid, and judged on the one left
out. The constants in use are round numbers near the best of all three; they are not fitted any closer.
"""

import argparse
import itertools
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench_advice import NAME, PROBLEMS, read_paces
from common.conditions import RESULTS

from subopt.profilers.record.profile import Layer, MethodCost, Profile
from subopt.recipes.evidence.layer_findings import LayerFindings, layer_findings
from subopt.recipes.evidence.predicted import (
    AGREEMENT_WORTH,
    DIAGONALITY_WORTH,
    ENERGY_WORTH,
    MOST_DECADES,
    predicted_gain,
)
from subopt.recipes.evidence.raced import gain_from_losses
from subopt.recipes.prior.traits import model_kind
from subopt.recipes.ranking.rule import time_price

Constants = tuple[float, float, float, float]
IN_USE: Constants = (DIAGONALITY_WORTH, MOST_DECADES, AGREEMENT_WORTH, ENERGY_WORTH)
NOTHING: Constants = (0.0, 1.0, 0.0, 0.0)
GRID: list[Constants] = list(
    itertools.product(
        (0.0, 0.02, 0.04, 0.06, 0.08, 0.10, 0.12),
        (1.0, 2.0, 9.0),
        (0.0, 0.1, 0.2),
        (0.1, 0.2, 0.3, 0.4, 0.5),
    )
)
# A loss of half or more is a failure, however large: it is not to rule the fit.
LARGEST = 0.5


@dataclass(frozen=True)
class Case:
    """One method on one example: its gain after equal time, and what its measurements say before any constant."""

    example: str
    method: str
    gain: float
    time: float
    certainty: float
    findings: Sequence[tuple[int, LayerFindings]]

    def expected(self, constants: Constants) -> float:
        """The gain at equal time that the rule promises with these constants."""
        worth, most, agreement, energy = constants
        total = sum(size for size, _ in self.findings)
        promised = sum(
            size
            * (
                worth * min(found.decades or 0.0, most)
                + agreement * (found.agreement or 0.0)
                - energy * (0.0 if found.kept is None else 1 - found.kept)
            )
            for size, found in self.findings
        )
        return self.certainty * promised / total - self.time

    def error(self, constants: Constants) -> float:
        """How far off that is, both within half of the loss."""
        return abs(_clipped(self.gain) - _clipped(self.expected(constants)))


def _clipped(gain: float) -> float:
    return max(-LARGEST, min(LARGEST, gain))


def losses() -> dict[tuple[str, str], float]:
    """The mean loss over seeds at the learning rate that was best with the first seed, by example and method."""
    found: dict[tuple[str, str], dict[float, dict[int, float]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for line in (RESULTS / f"{NAME}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["held_out_loss"] is not None:
            key = row["problem"], row["method"]
            found[key][row["lr"]][row["seed"]] = row["held_out_loss"]
    best = {key: min(rates.values(), key=_first_seed) for key, rates in found.items()}
    return {key: statistics.mean(seeds.values()) for key, seeds in best.items()}


def _first_seed(seeds: dict[int, float]) -> float:
    return seeds.get(0, math.inf)


def cases(profiles: Path) -> list[Case]:
    """Every method and example about which the measurements say something."""
    loss, pace_ms = losses(), read_paces(RESULTS / f"{NAME}_pace.json")
    found = []
    for example in PROBLEMS:
        profile = Profile.load(profiles / f"{example}.json")
        for cost in profile.methods:
            says = predicted_gain(profile, cost)
            if says is None or (example, cost.method) not in loss:
                continue
            gain = gain_from_losses(
                loss[example, cost.method], loss[example, "adamw"], model_kind(profile)
            )
            slower = pace_ms[example][cost.method] / pace_ms[example]["adamw"] - 1
            if gain is not None:
                findings = _findings(profile.layers, cost)
                found.append(
                    Case(example, cost.method, gain, time_price(slower), says.certainty, findings)
                )
    return found


def _findings(layers: Sequence[Layer], cost: MethodCost) -> list[tuple[int, LayerFindings]]:
    known = [(math.prod(layer.shape), layer_findings(layer, cost)) for layer in layers]
    return [(size, found) for size, found in known if found is not None and found.speaks]


def mean_error(some: Sequence[Case], constants: Constants) -> float:
    """The mean over examples of the mean error of their methods."""
    by_example = defaultdict(list)
    for case in some:
        by_example[case.example].append(case.error(constants))
    return statistics.mean(statistics.mean(errors) for errors in by_example.values())


def best_constants(some: Sequence[Case]) -> Constants:
    """The grid's constants with the least mean error."""
    error: Callable[[Constants], float] = lambda constants: mean_error(some, constants)  # noqa: E731
    return min(GRID, key=error)


def main() -> None:
    """Print both tables as Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("profiles", type=Path, help="folder with a profile of each example")
    every = cases(parser.parse_args().profiles)
    print("| example | methods | constants in use | fitted without it | time alone |")
    print("|---|---:|---:|---:|---:|")
    for example in dict.fromkeys(case.example for case in every):
        own = [case for case in every if case.example == example]
        fitted = best_constants([case for case in every if case.example != example])
        numbers = [mean_error(own, constants) for constants in (IN_USE, fitted, NOTHING)]
        print(f"| {example} | {len(own)} | {' | '.join(f'{n:.2f}' for n in numbers)} |")
    print("\n| example | method | expected | found |\n|---|---|---:|---:|")
    for case in every:
        expected = case.expected(IN_USE)
        print(f"| {case.example} | {case.method} | {expected:+.2f} | {case.gain:+.2f} |")


if __name__ == "__main__":
    main()
