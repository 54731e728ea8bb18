"""The energies of a gradient, which the profile takes from its Gram matrix, beside torch's singular values."""

import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch
from common.timing import elapsed_ms
from common.verdicts import Verdict, at_least, at_most, table, verdict_table
from torch import Tensor

from subopt.profilers.gradients.spectrum import energies

# A layer of the 1b size, and square matrices.
SINGULAR_SHAPES = [(2048, 5461), (1024, 1024), (2048, 2048)]
WANTED = {"energies, float64": (2.5, 1e-6), "energies, float32": (5.0, 1e-4)}
SVD, EXACT = "svdvals, float32", "svdvals, float64"
Row = dict[str, Any]


def decaying(m: int, n: int, generator: torch.Generator) -> Tensor:
    """A gradient whose energy falls by e every m / 16 directions, down to a floor of 1e-4 of the first."""
    decay = torch.arange(m).div(-m / 8).exp() + 1e-2
    return decay[:, None] * torch.randn(m, n, generator=generator)


def shares(energy: Tensor) -> Tensor:
    """The share of the energy in the leading 1, 2, ... directions."""
    wide = energy.to(torch.float64)
    return wide.cumsum(0) / wide.sum()


def measure_singular_values(case: Row) -> Row:
    """Time energies and singular values of one float32 gradient, in both precisions, in turns; their differences."""
    G = decaying(*case["shape"], torch.Generator().manual_seed(0))
    wide = G.to(torch.float64)
    contenders: dict[str, Callable[[], Tensor]] = {
        "energies, float64": lambda: energies(G),
        "energies, float32": lambda: energies(G, torch.float32),
        SVD: lambda: torch.linalg.svdvals(G).square(),
        EXACT: lambda: torch.linalg.svdvals(wide).square(),
    }
    found = {name: run() for name, run in contenders.items()}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(5 if min(case["shape"]) < 1500 else 3):
        for name, run in contenders.items():
            times[name].append(elapsed_ms(run, G.device))
    errors = {
        name: float((shares(energy) - shares(found[EXACT])).abs().max())
        for name, energy in found.items()
    }
    return {"ms": times, "share_error": errors}


def report(rows: list[Row]) -> list[str]:
    """The section of the profile's report."""
    names = [*WANTED, SVD, EXACT]
    cells = []
    for row in rows:
        times = medians(row)
        cells.append([
            "{} x {}".format(*row["case"]["shape"]),
            *(f"{times[name]:.0f}" for name in names),
            *(f"{times[SVD] / times[name]:.2f}" for name in WANTED),
            *(f"{row['result']['share_error'][name]:.0e}" for name in names[:3]),
        ])
    header = (
        "shape",
        *(f"{name}, ms" for name in names),
        *(f"{SVD} / {name}" for name in WANTED),
        *(f"error of {name}" for name in names[:3]),
    )
    return [
        "## Spectrum against singular values",
        "",
        "Of float32 gradients; float64 is the default. All took turns. *error*: the largest difference in any number "
        f"of leading directions' share of the energy from {EXACT}.",
        "",
        *verdict_table(verdicts(rows)),
        *table(header, cells),
    ]


def medians(row: Row) -> dict[str, float]:
    """Median milliseconds by contender."""
    return {name: statistics.median(times) for name, times in row["result"]["ms"].items()}


def verdicts(rows: list[Row]) -> Iterator[Verdict]:
    """What was wanted of a 2048 x 5461 layer."""
    for row in rows:
        if row["case"]["shape"] == [2048, 5461]:
            times, errors = medians(row), row["result"]["share_error"]
            for name, (faster, error) in WANTED.items():
                yield at_least(f"2048 x 5461: {SVD} / {name}", faster, times[SVD] / times[name])
                yield at_most(f"2048 x 5461: error of {name}", error, errors[name], "")
