"""Reads `published.yaml`, the papers' result tables and learning rates as data, into frozen records."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml


@dataclass(frozen=True, slots=True)
class Paper:
    """A publication the numbers come from."""

    id: str
    title: str
    authors: str
    year: int


@dataclass(frozen=True, slots=True)
class PublishedResult:
    """One printed number and the baseline's number beside it, in the same column; None where the table has no baseline.

    A metric for which higher is better is a percentage wherever there is a baseline to compare with; without one it may
    be a share. `kind` is `language`, `vision`, `finetune` or `tagging`. The method may be one the papers alone have.
    """

    method: str
    value: float
    baseline_value: float | None
    metric: str
    lower_is_better: bool
    paper: Paper
    table: int
    kind: str
    task: str
    model: str
    parameters: int
    tokens_per_step: int | None

    @property
    def gain(self) -> float | None:
        """The share of the baseline's loss that the method removes; negative where it is worse.

        1 - x / x_baseline, with x the perplexity, or the percentage of wrong answers (100 - accuracy).
        """
        if self.baseline_value is None:
            return None
        if self.lower_is_better:
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
    """Everything in the data file."""

    baseline: str
    other_methods: dict[str, str]
    papers: dict[str, Paper]
    results: tuple[PublishedResult, ...]
    rates: tuple[PublishedRate, ...]
    relative_rates: dict[str, RelativeRate]


@cache
def load_evidence() -> PublishedEvidence:
    """Return the bundled evidence, read once."""
    text = resources.files(__package__).joinpath("published.yaml").read_text(encoding="utf-8")
    raw = yaml.safe_load(text)
    papers = {key: Paper(key, **fields) for key, fields in raw["papers"].items()}
    return PublishedEvidence(
        baseline=raw["baseline"],
        other_methods=raw["other_methods"],
        papers=papers,
        results=tuple(
            result
            for table in raw["tables"]
            for result in _results_of(table, papers[table["paper"]], raw["baseline"])
        ),
        rates=tuple(rate for group in raw["learning_rates"] for rate in _rates_of(group, papers)),
        relative_rates={
            method: RelativeRate(**fields)
            for method, fields in raw["relative_learning_rates"].items()
        },
    )


def _results_of(table: dict[str, Any], paper: Paper, baseline: str) -> list[PublishedResult]:
    return [
        PublishedResult(
            method=method,
            value=float(value),
            baseline_value=column["values"].get(baseline),
            lower_is_better=table["better"] == "lower",
            paper=paper,
            model=column["model"],
            parameters=column["parameters"],
            tokens_per_step=table.get("tokens_per_step"),
            **{name: table[name] for name in ("metric", "table", "kind", "task")},
        )
        for column in table["models"]
        for method, value in column["values"].items()
    ]


def _rates_of(group: dict[str, Any], papers: dict[str, Paper]) -> list[PublishedRate]:
    return [
        PublishedRate(
            methods=frozenset(group["methods"]),
            kind=group["kind"],
            model=column["model"],
            parameters=column["parameters"],
            lr=column["lr"],
            weight_decay=group.get("weight_decay"),
            tokens_per_step=group.get("tokens_per_step"),
            paper=papers[group["paper"]],
            place=group["place"],
        )
        for column in group["models"]
    ]
