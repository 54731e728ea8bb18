"""Run PyTorch's optimizer properties over every method, write the outcome: python docs/torch_harness_report.py."""

import re
import runpy
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
HARNESS = ROOT / "tests" / "optimizers" / "torch_harness"
PAGE = ROOT / "docs" / "torch-optimizer-tests.md"

Outcomes = Mapping[tuple[str, str], str]  # (test, method's id) -> "passed", or why it was skipped

INTRODUCTION = """\
# PyTorch's own optimizer tests, over every bundled method

Written by `python docs/torch_harness_report.py` from a run on torch {torch}, CPU; a test holds it to the method table.

PyTorch tests its optimizers by describing each to `torch.testing._internal.common_optimizers` (valid and invalid
constructor inputs, what it supports) and running one body per property over all descriptions. We describe ours from
the method table ([infos.py](../tests/optimizers/torch_harness/infos.py)) and run bodies of our own for the same
properties, since PyTorch's are not in its wheel. Most compare to the last bit where PyTorch's allow a tolerance. The
same tests are made for CUDA where torch sees a GPU; no GPU has run them yet.

**{passed} passed, {skipped} skipped, {properties} properties, {methods} methods.**
"""


def run(report: Path) -> None:
    """Run the harness and write its outcomes.

    Raises:
        CalledProcessError: A test failed.
    """
    options = [f"--junit-xml={report}", f"--ignore={HARNESS / 'test_report.py'}"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    subprocess.run([*command, str(HARNESS)], cwd=ROOT, check=True)


def read(report: Path) -> dict[tuple[str, str], str]:
    """Return the outcome of every test over methods in a JUnit report."""
    outcomes = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name, skipped = split(str(case.get("name"))), case.find("skipped")
        if name is not None:
            outcomes[name] = "passed" if skipped is None else str(skipped.get("message"))
    return outcomes


def split(test: str) -> tuple[str, str] | None:
    """Return a test's name as property and method's id; None for one that is not over methods."""
    by_identifier = {catalogue["identifier"](name): name for name in every_method()}
    longest_first = sorted(by_identifier, key=len, reverse=True)
    found = re.fullmatch(rf"(\w+?)_({'|'.join(longest_first)})_cpu_\w+", test)
    if found:
        return found[1], by_identifier[found[2]]
    found = re.fullmatch(r"(\w+)\[([^\]]+)\]", test)
    return (found[1], found[2]) if found else None


def every_method() -> list[str]:
    """Return the ids of all methods."""
    return [*catalogue["DRIVEN"], *catalogue["OVER_MODELS"]]


def table(file: str, outcomes: Outcomes) -> str:
    """Return what the tests of one file came to, a line each."""
    lines = ["| property | test | passed | skipped |", "|---|---|---:|---:|"]
    for test, says in catalogue["properties"](file).items():
        results = [result for (name, _), result in outcomes.items() if name == test]
        passed = results.count("passed")
        lines.append(f"| {says} | `{test}` | {passed} | {len(results) - passed} |")
    return "\n".join(lines)


def page(outcomes: Outcomes) -> str:
    """Return the page for these outcomes."""
    counts = Counter(outcomes.values())
    passed = counts.pop("passed", 0)
    driven = ", ".join(f"`{name}`" for name in catalogue["DRIVEN"])
    over_models = ", ".join(f"`{name}`" for name in catalogue["OVER_MODELS"])
    parts = [
        INTRODUCTION.format(
            torch=torch.__version__.partition("+")[0],
            passed=passed,
            skipped=sum(counts.values()),
            properties=len({test for test, _ in outcomes}),
            methods=len(every_method()),
        )
    ]
    if counts:
        parts.append(
            "Skipped, and why:\n\n" + "".join(f"- {n}: {why}\n" for why, n in counts.items())
        )
    parts.append(f"## Over parameters\n\n{driven}.\n")
    parts += [
        f"### {title}\n\n{table(file, outcomes)}\n" for file, title in catalogue["FILES"].items()
    ]
    parts.append(
        "## Over a model\n\nMethods that put layers of their own into the model cannot be handed bare parameters. "
        f"The same properties over a small model and its closure: {over_models}.\n\n"
        f"{table(catalogue['MODEL_FILE'], outcomes)}\n"
    )
    parts.append(f"## PyTorch's tests, one by one\n\n{pytorchs()}\n")
    return "\n".join(parts)


def pytorchs() -> str:
    """Return where each of PyTorch's tests went."""
    same, none = catalogue["COUNTERPARTS"], catalogue["WITHOUT"]
    lines = [
        f"Of the {len(same) + len(none)} tests that we know of in the class `TestOptimRenewed` of PyTorch's "
        f"`test/test_optim.py`, {len(same)} have a counterpart here and {len(none)} have none, for these reasons.\n",
        "| PyTorch's | here |",
        "|---|---|",
    ]
    for test, ours in same.items():
        lines.append(f"| `{test}` | {', '.join(f'`{name}`' for name in ours)} |")
    lines += [f"| `{test}` | none: {reason} |" for test, reason in none.items()]
    return "\n".join([*lines, "", catalogue["BESIDE"]])


catalogue: dict[str, Any] = runpy.run_path(str(HARNESS / "catalogue.py"))

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "report.xml"
        run(results)
        PAGE.write_text(page(read(results)), encoding="utf-8")
