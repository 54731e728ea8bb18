"""The report of `bench_steps.py`: what holds of the goal, then every group of contenders as a table."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.peers import (
    BNB_LION,
    FOREACH,
    FUSED,
    GALORE_TORCH,
    HEAVYBALL_SOAP,
    PO_ADAFACTOR,
    PO_ADAFACTOR_NOMOM,
    PO_GALORE,
    PO_LION,
    PO_SOAP,
)
from common.timing import median, ratio, shown, shown_ms
from common.verdicts import Verdict, at_least, at_most, table, verdict_table

Row = dict[str, Any]
MEBIBYTE = 2**20
SPIKE = 1.5


class Group:
    """A measured group, asked by the names of its rows; None for what it does not have."""

    def __init__(self, measured: Row) -> None:
        self.measured = measured
        self._rows = {row["name"]: row for row in measured.get("rows", [])}
        self._bounds = {row["of"]: row for row in measured.get("bounds", [])}

    def ordinary(self, name: str) -> float | None:
        """Median of the steps without a refresh."""
        return median(self._rows.get(name, {}).get("ordinary_ms", []))

    def refresh(self, name: str) -> float | None:
        """Median of the steps with one."""
        return median(self._rows.get(name, {}).get("refresh_ms", []))

    def mean(self, name: str) -> float | None:
        """Mean over a period of the implementation's own length."""
        ordinary, refresh = self.ordinary(name), self.refresh(name)
        period = self._rows.get(name, {}).get("own_period")
        if ordinary is None or refresh is None or not period:
            return ordinary
        return ordinary + (refresh - ordinary) / period

    def products(self, of: str) -> float | None:
        """Median of the products that the method cannot avoid."""
        return median(self._bounds.get(of, {}).get("products_ms", []))

    def adam(self, of: str) -> float | None:
        """Median of torch's fused Adam on what the method's Adam moves."""
        return median(self._bounds.get(of, {}).get("adam_ms", []))

    def to(self, name: str, *others: str) -> float | None:
        """Ordinary step, by the fastest of others that were measured."""
        found = [value for other in others if (value := self.ordinary(other)) is not None]
        return ratio(self.ordinary(name), min(found, default=None))

    def beyond_adam(self, name: str) -> float | None:
        """Ordinary step less its Adam, by its unavoidable products."""
        step, adam = self.ordinary(name), self.adam(name)
        return None if step is None or adam is None else ratio(step - adam, self.products(name))


def write(path: Path) -> Path:
    """Render a result file as Markdown beside it; return where."""
    result = json.loads(path.read_text(encoding="utf-8"))
    report = path.with_suffix(".md")
    report.write_text(render(result), encoding="utf-8")
    for size, measured in result["sizes"].items():
        print(f"\n{size}:")
        for verdict in verdicts(measured):
            print(f"  {verdict.line}: {verdict.measured} ({verdict.wanted}) -> {verdict.holds}")
    return report


def render(result: Row) -> str:
    """The report as Markdown."""
    lines = [
        "# Optimizer steps beside other implementations and beside what cannot be avoided",
        "",
        "Written by `benchmarks/bench_steps.py`; every single time is in the `.json` beside this file. Float32; "
        "gradients of a byte LLaMA's first steps of training, for the paper's matrices a low-rank signal with noise; "
        "all contenders of a table took turns, step by step. Times are medians in ms, "
        "quartiles in brackets. *refresh* is a whole step that refreshes bases; *mean* spreads it over the "
        "implementation's own period. *bound*: the products that the method cannot avoid, on the same shapes, alone "
        "in the same run. *Adam*: torch's fused Adam on what the method's Adam moves, alone. State: distinct storages "
        "that the optimizer keeps alive.",
        "",
    ]
    for size, measured in result["sizes"].items():
        lines += [f"## LLaMA {size}", "", f"### What was wanted, {size}", ""]
        lines += verdict_table(verdicts(measured))
        for group in measured["groups"]:
            lines += group_lines(group, size)
        lines += spike_lines(measured.get("spikes"))
    return "\n".join(lines)


def verdicts(measured: Row) -> Iterator[Verdict]:
    """Every line of the goal that this benchmark can judge."""
    found = {group["name"]: Group(group) for group in measured["groups"]}
    fast, slow, autoencoder, transformer = (
        found.get(name, Group({})) for name in ("fast", "slow", "autoencoder", "transformer")
    )
    yield from element_wise(fast)
    yield from low_rank(fast)
    yield at_most("adadiag, ordinary: (step - Adam) / bound", 1.2, fast.beyond_adam("adadiag"))
    yield at_most(
        "soap, ordinary: step / bound", 1.2, ratio(slow.ordinary("soap"), slow.products("soap"))
    )
    yield at_most(
        "soap, ordinary: step / the fastest peer's", 0.75, slow.to("soap", PO_SOAP, HEAVYBALL_SOAP)
    )
    for group, limit, where in (
        (autoencoder, 3.2, "autoencoder"),
        (transformer, 3.5, "transformer"),
    ):
        yield at_least(
            f"shared-basis: Shampoo's mean step / its own, {where}",
            limit,
            ratio(group.mean("shampoo"), group.mean("shared-basis")),
        )
    steps = measured.get("spikes", {}).get("steps_ms", [])
    longest = ratio(max(steps, default=None), median(steps))
    yield at_most("galore, staggered: longest step / median step", SPIKE, longest)


def element_wise(fast: Group) -> Iterator[Verdict]:
    """The methods in the weights' own coordinates."""
    yield at_most("adamw: step / torch's fused", 1.05, fast.to("adamw", FUSED))
    yield at_most("lion: step / the best of the peers", 1.05, fast.to("lion", PO_LION, BNB_LION))
    yield at_most("adafactor: step / the best peer's", 1.05, fast.to("adafactor", PO_ADAFACTOR))
    yield at_most(
        "adafactor-nomom: step / the best of torch and the peers",
        1.05,
        fast.to("adafactor-nomom", "Adafactor", PO_ADAFACTOR_NOMOM),
    )
    must = fast.products("hfac")
    yield at_most(
        "hfac: step / reading and writing what it must", 1.3, ratio(fast.ordinary("hfac"), must)
    )


def low_rank(fast: Group) -> Iterator[Verdict]:
    """GaLore and Online Subspace Descent."""
    yield at_most(
        "galore, ordinary: (step - low-rank Adam) / bound", 1.2, fast.beyond_adam("galore")
    )
    yield at_most(
        "galore, ordinary: step / the faster GaLore peer's",
        1.0,
        fast.to("galore", GALORE_TORCH, PO_GALORE),
    )
    for name, limit in (("galore", 3.0), ("galore, warm-started", 6.0)):
        faster = ratio(fast.refresh(GALORE_TORCH), fast.refresh(name))
        yield at_least(f"{name}: galore-torch's refresh / its own", limit, faster)
    yield at_most("osd: step / foreach AdamW", 2.4, fast.to("osd", FOREACH))


def group_lines(measured: Row, size: str) -> list[str]:
    """A group as a table, with what was missing and the conditions."""
    group = Group(measured)
    adam_bytes = sum(8 * rows * columns for rows, columns in measured["shapes"])
    cells = []
    for row in measured["rows"]:
        name = row["name"]
        products, adam = group.products(name), group.adam(name)
        cells.append([
            name,
            row["source"],
            shown_ms(row["ordinary_ms"]),
            shown_ms(row["refresh_ms"]),
            shown(group.mean(name), 1),
            shown(group.to(name, FOREACH)),
            shown(group.to(name, FUSED), 1),
            shown(products, 1),
            shown(adam or None, 1),
            shown(ratio(group.ordinary(name), products)),
            f"{row['state_bytes'] / MEBIBYTE:.1f}",
            shown(row["state_bytes"] / adam_bytes),
        ])
    header = (
        "implementation", "from", "ordinary", "refresh", "mean", "x foreach", "x fused", "bound", "Adam",
        "ordinary / bound", "state MiB", "/ Adam's",
    )  # fmt: skip
    of_what = "" if measured.get("layers") is None else f", {measured['layers']} layers of {size}"
    lines = [
        f"### {measured['title']}{of_what}",
        "",
        f"{measured['rounds']} rounds.",
        "",
        *table(header, cells, left=2),
    ]
    rates = [
        f"{row['of']} {row['gflop'] / median(row['products_ms']) * 1e3:.0f}"
        for row in measured["bounds"]
        if row["gflop"]
    ]
    if rates:
        lines += [f"Rates of the bounds' products, GFLOP/s: {', '.join(rates)}.", ""]
    lines += [
        f"- {item['name']} is missing: {one_line(item['why'])}" for item in measured["missing"]
    ]
    return [*lines, *([""] if measured["missing"] else []), *about(measured)]


def spike_lines(measured: Row | None) -> list[str]:
    """How even the steps are with staggered refreshes."""
    if measured is None:
        return []
    if "why" in measured:
        return ["### Staggered refreshes", "", f"Not measured: {one_line(measured['why'])}", ""]
    steps = measured["steps_ms"]
    middle = median(steps) or 0.0
    above = sum(value > SPIKE * middle for value in steps)
    return [
        "### Staggered refreshes",
        "",
        f"{len(steps)} steps of {measured['name']} after the first, of each the shortest of three: median "
        f"{middle:.0f} ms, longest {max(steps):.0f} ms, {above} above {SPIKE:g} times the median; the "
        f"first, which fits every basis, {measured['first_ms']:.0f} ms.",
        "",
        *about(measured),
    ]


def one_line(text: str) -> str:
    """A message as one short line."""
    return " ".join(text.split())[:200]


def about(measured: Row) -> list[str]:
    """The conditions of a measurement."""
    if "command" not in measured:
        return []
    found = ", ".join(f"{name} {value}" for name, value in measured["conditions"].items())
    return [f"`{measured['command']}`: {found}.", ""]
