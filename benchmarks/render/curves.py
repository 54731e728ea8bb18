"""The report of `bench_curves.py`: how everything grows, the fitted exponents beside the theory's, and the pictures."""

import json
import math
from pathlib import Path
from typing import Any

from common.conditions import ROOT
from common.plot import Points, exponent, plot
from common.timing import median, shown
from common.verdicts import table

Row = dict[str, Any]
DOCS = ROOT / "docs"
FITTED_FROM = 512  # below it, starting a kernel takes longer than what it does

# Powers of the width w that an ordinary step, a refresh and the state grow with, of a w x w matrix with rank w / 4.
THEORY = {
    "AdamW, fused": (2, None, 2),
    "adamw": (2, None, 2),
    "lion": (2, None, 2),
    "adafactor": (2, None, 2),
    "hfac": (2, None, 1),
    "galore": (3, 3, 2),
    "osd": (3, None, 2),
    "adadiag": (3, 3, 2),
    "soap": (3, 3, 2),
    # Blocks of 512: as many as there are weights, each of the same cost.
    "shampoo": (2, 2, 2),
}
SPECTRUM_POWER = 3
PICTURED = ("adamw", "lion", "galore", "osd", "adadiag", "soap", "shampoo")


def write(path: Path, pictures: Path) -> Path:
    """Render a result file as Markdown beside it, and its pictures; return where the report is."""
    result = json.loads(path.read_text(encoding="utf-8"))
    report = path.with_suffix(".md")
    report.write_text(render(result), encoding="utf-8")
    device = path.stem.split("_")[1]
    for what, drawn in drawings(result).items():
        suffix = "" if device == "cpu" else f"-{device}"
        (pictures / f"performance-{what}{suffix}.svg").write_text(drawn, encoding="utf-8")
    for name, ordinary, _, _ in fits(result["widths"], "width"):
        print(f"  {name}: ordinary step grows as width^{ordinary:.2f}")
    return report


def render(result: Row) -> str:
    """The report as Markdown."""
    conditions = ", ".join(f"{name} {value}" for name, value in result["conditions"].items())
    return "\n".join([
        "# How the costs grow",
        "",
        "Written by `benchmarks/bench_curves.py`; every single time is in the `.json` beside this file. Float32, "
        "rank a quarter of the side; medians in ms of contenders that took turns. A method that would take more "
        "than a minute at the next width is not taken there.",
        "",
        "## Against width: one square matrix",
        "",
        *growth_table(result["widths"], "width", "ordinary_ms", "Ordinary steps"),
        *growth_table(result["widths"], "width", "refresh_ms", "Steps with a refresh"),
        *growth_table(result["widths"], "width", "state_bytes", "State, MiB"),
        *spectrum_table(result["widths"]),
        f"Exponents, fitted from {FITTED_FROM} on, and the theory's:",
        "",
        *exponents(result["widths"]),
        "## Against depth: layers of LLaMA 60m",
        "",
        *growth_table(result["depths"], "layers", "ordinary_ms", "Ordinary steps"),
        "Exponents; the theory says 1:",
        "",
        *depth_exponents(result["depths"]),
        f"`{result['command']}`: {conditions}.",
        "",
    ])


def value_of(step: Row, what: str) -> float | None:
    """One number of a row: a median time, or MiB of state."""
    return step[what] / 2**20 if what == "state_bytes" else median(step[what])


def curve(rows: list[Row], axis: str, name: str, what: str) -> list[tuple[float, float]]:
    """What was measured of a method, point by point."""
    found = []
    for row in rows:
        for step in row["steps"]:
            value = value_of(step, what) if step["name"] == name else None
            if value is not None:
                found.append((row[axis], value))
    return found


def names(rows: list[Row]) -> list[str]:
    """The methods, in the order they were measured."""
    return list(dict.fromkeys(step["name"] for row in rows for step in row["steps"]))


def growth_table(rows: list[Row], axis: str, what: str, title: str) -> list[str]:
    """Values by method and point."""
    cells = []
    for name in names(rows):
        by_point = dict(curve(rows, axis, name, what))
        if by_point:
            cells.append([name, *(shown(by_point.get(row[axis])) for row in rows)])
    header = (f"{title}, {axis}", *(str(row[axis]) for row in rows))
    return table(header, cells) if cells else []


def spectrum_curves(rows: list[Row]) -> dict[str, Points]:
    """Times of a gradient's spectra by width."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for name, times in row["spectra"].items():
            found.setdefault(name, []).append((row["width"], median(times) or math.nan))
    return dict(found)


def spectrum_table(rows: list[Row]) -> list[str]:
    """What the profile spends on one gradient."""
    cells = [
        [name, *(shown(ms) for _, ms in found)] for name, found in spectrum_curves(rows).items()
    ]
    return table(("Profile of one gradient, width", *(str(row["width"]) for row in rows)), cells)


def wide_enough(points: Points) -> Points:
    """The points that exponents are fitted to."""
    return [point for point in points if point[0] >= FITTED_FROM]


def fits(rows: list[Row], axis: str) -> list[tuple[str, float, float, float]]:
    """For each method the exponents of step, refresh and state."""
    return [
        (
            name,
            *(
                exponent(wide_enough(curve(rows, axis, name, what)))
                for what in ("ordinary_ms", "refresh_ms", "state_bytes")
            ),
        )
        for name in names(rows)
    ]


def exponents(rows: list[Row]) -> list[str]:
    """Fitted and expected powers of the width."""
    cells = []
    for name, *fitted in fits(rows, "width"):
        expected = THEORY.get(name, (None, None, None))
        pairs = zip(fitted, expected, strict=True)
        cells.append([
            name,
            *(text for fit, theory in pairs for text in (power(fit), power(theory))),
        ])
    for name, found in spectrum_curves(rows).items():
        cells.append([name, power(exponent(wide_enough(found))), power(SPECTRUM_POWER), *["–"] * 4])
    header = ("method", "step", "theory", "refresh", "theory", "state", "theory")
    return table(header, cells)


def power(value: float | None) -> str:
    """An exponent, whole as the theory's are or fitted, or a dash."""
    if value is None or math.isnan(value):
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.2f}"


def depth_exponents(rows: list[Row]) -> list[str]:
    """Fitted powers of the number of layers."""
    cells = [
        [
            name,
            *(
                power(exponent(curve(rows, "layers", name, what)))
                for what in ("ordinary_ms", "refresh_ms", "state_bytes")
            ),
        ]
        for name in names(rows)
    ]
    return table(("method", "step", "refresh", "state"), cells)


def drawings(result: Row) -> dict[str, str]:
    """The pictures, by what is on them; none of what was not measured."""
    widths, depths = result["widths"], result["depths"]
    refreshes = curves(widths, "width", "refresh_ms") | spectrum_curves(widths)
    plans = {
        "width": (
            f"Ordinary step of a square matrix, and its exponent from {FITTED_FROM} on",
            "width",
            curves(widths, "width"),
            FITTED_FROM,
        ),
        "refresh": (
            f"Step with a refresh; spectrum of a gradient; exponents from {FITTED_FROM} on",
            "width",
            refreshes,
            FITTED_FROM,
        ),
        "depth": (
            "Ordinary step, and its exponent",
            "layers of LLaMA 60m",
            curves(depths, "layers"),
            0,
        ),
    }
    return {
        what: plot(title, axis, "ms", found, fitted_from)
        for what, (title, axis, found, fitted_from) in plans.items()
        if found
    }


def curves(rows: list[Row], axis: str, what: str = "ordinary_ms") -> dict[str, Points]:
    """What was measured of the methods that are pictured."""
    return {name: found for name in PICTURED if (found := curve(rows, axis, name, what))}
