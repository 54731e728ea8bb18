"""Reads `sources/`, result tables and learning rates of papers as data, into frozen records.

A file is one source: who wrote it, whether they are the authors of a method in it (`independent`), which of its methods
the gains are against (`baseline`, AdamW where it does not say), its tables and learning rates, every value as printed.
`kind` of a table: language (causal language models), vision (image classifiers), finetune, tagging. `parameters` of the
named architecture are counted with embedding and head, and serve to find the nearest size. Tables that could not be
read with certainty are left out, and nothing is passed on from one method to another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

import yaml

from subopt.profilers.record.cost import BASELINE

from ..prior.gains import GAIN_PER_DOUBLING


@dataclass(frozen=True, slots=True)
class Paper:
    """A publication the numbers come from."""

    id: str
    title: str
    authors: str
    year: int
    address: str | None = None


@dataclass(frozen=True, slots=True)
class PublishedResult:
    """One printed number and the baseline's number beside it, in the same column; None where the table has no baseline.

    A metric for which `higher` is better is a percentage wherever there is a baseline to compare with; without one it
    may be a share. `fewer` is tokens or steps to the same loss. The method may be one the papers alone have.
    `is_independent`: not printed by authors of a method in the table.
    """

    method: str
    value: float
    baseline: str
    baseline_value: float | None
    metric: str
    better: Literal["lower", "higher", "fewer"]
    paper: Paper
    is_independent: bool
    place: str
    kind: str
    task: str
    model: str
    parameters: int
    tokens_per_step: int | None

    @property
    def gain(self) -> float | None:
        """The share of the baseline's loss that the method removes; negative where it is worse.

        1 - x / x_baseline, with x the perplexity, or the percentage of wrong answers (100 - accuracy); for tokens to
        the same loss what the tokens saved are worth, 0.10 log2(x_baseline / x).
        """
        if self.baseline_value is None:
            return None
        if self.better == "fewer":
            return GAIN_PER_DOUBLING * math.log2(self.baseline_value / self.value)
        if self.better == "lower":
            return 1 - self.value / self.baseline_value
        return 1 - (100 - self.value) / (100 - self.baseline_value)


@dataclass(frozen=True, slots=True)
class PublishedRate:
    """A learning rate some authors trained a model with."""

    methods: frozenset[str]
    kind: str
    model: str
    parameters: int
    lr: float
    weight_decay: float | None
    tokens_per_step: int | None
    paper: Paper
    place: str


@dataclass(frozen=True, slots=True)
class RelativeRate:
    """A learning rate published as a multiple of the baseline's."""

    factor: float
    source: str


@dataclass(frozen=True, slots=True)
class PublishedEvidence:
    """Everything in the data files."""

    baseline: str
    other_methods: dict[str, str]
    papers: dict[str, Paper]
    results: tuple[PublishedResult, ...]
    rates: tuple[PublishedRate, ...]
    relative_rates: dict[str, RelativeRate]


@cache
def load_evidence() -> PublishedEvidence:
    """Return the bundled evidence, read once."""
    folder = resources.files(__package__)
    named = _read(folder.joinpath("methods.yaml").read_text(encoding="utf-8"))
    files = sorted(folder.joinpath("sources").iterdir(), key=lambda file: file.name)
    sources = {
        file.name.removesuffix(".yaml"): _read(file.read_text(encoding="utf-8")) for file in files
    }
    papers = {name: _paper(name, source) for name, source in sources.items()}
    return PublishedEvidence(
        baseline=BASELINE,
        other_methods=named["other_methods"],
        papers=papers,
        results=tuple(
            result
            for name, source in sources.items()
            for result in _results_of(source, papers[name])
        ),
        rates=tuple(
            rate for name, source in sources.items() for rate in _rates_of(source, papers[name])
        ),
        relative_rates={
            method: RelativeRate(**fields)
            for method, fields in named["relative_learning_rates"].items()
        },
    )


def _read(text: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(text)
    return content


def _paper(name: str, source: dict[str, Any]) -> Paper:
    fields = {key: source[key] for key in ("title", "authors", "year")}
    return Paper(name, address=source.get("address"), **fields)


def _results_of(source: dict[str, Any], paper: Paper) -> Iterator[PublishedResult]:
    baseline = source.get("baseline", BASELINE)
    for table in source["tables"]:
        for column in table["models"]:
            for method, value in column["values"].items():
                yield PublishedResult(
                    method=method,
                    value=float(value),
                    baseline=baseline,
                    baseline_value=column["values"].get(baseline),
                    paper=paper,
                    is_independent=source["independent"],
                    place=table.get("place") or f"table {table['table']}",
                    model=column["model"],
                    parameters=column["parameters"],
                    tokens_per_step=table.get("tokens_per_step"),
                    **{name: table[name] for name in ("metric", "better", "kind", "task")},
                )


def _rates_of(source: dict[str, Any], paper: Paper) -> Iterator[PublishedRate]:
    for group in source.get("learning_rates", []):
        for column in group["models"]:
            yield PublishedRate(
                methods=frozenset(group["methods"]),
                kind=group["kind"],
                model=column["model"],
                parameters=column["parameters"],
                lr=column["lr"],
                weight_decay=group.get("weight_decay"),
                tokens_per_step=group.get("tokens_per_step"),
                paper=paper,
                place=group["place"],
            )
