"""The report of `bench_kernels.py`: what holds of the goal, the times of every kernel, and how good the bases are."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.timing import median, ratio, shown
from common.verdicts import Verdict, at_least, at_most, table, verdict_table

Row = dict[str, Any]

CLOSED, AUTOGRAD, PRODUCTS = (
    "online PCA, closed form",
    "online PCA, autograd",
    "online PCA, its products",
)
EXACT_RANKED, WARM_RANKED = "left_basis, rank r", "refined_basis, rank r"
EXACT_FULL, WARM_FULL = "left_basis, full", "one power step, full"


def write(path: Path) -> Path:
    """Render a result file as Markdown beside it; return where."""
    result = json.loads(path.read_text(encoding="utf-8"))
    report = path.with_suffix(".md")
    report.write_text(render(result), encoding="utf-8")
    for verdict in verdicts(result["shapes"], result["trained"]):
        print(f"  {verdict.line}: {verdict.measured} ({verdict.wanted}) -> {verdict.holds}")
    return report


def render(result: Row) -> str:
    """The report as Markdown."""
    shapes = result["shapes"]
    conditions = ", ".join(f"{name} {value}" for name, value in result["conditions"].items())
    return "\n".join([
        "# Kernels: online PCA and refreshed bases beside torch's decompositions",
        "",
        "Written by `benchmarks/bench_kernels.py`; every single time is in the `.json` beside this file. One float32 "
        "gradient of every shape, a decaying signal of rank 32 with a tenth of noise; kernels took turns; medians in "
        "ms. Rank r is a quarter of the short side. A warm start begins at the basis of a gradient with the same "
        "signal and other noise.",
        "",
        "## What was wanted of the kernels",
        "",
        *verdict_table(verdicts(shapes, result["trained"])),
        "## Times",
        "",
        *times(shapes),
        "## Online PCA",
        "",
        *online_pca(shapes),
        "## Bases",
        "",
        "*energy*: of the gradient in a basis of rank r, by that in its best one. *orthonormality error*: largest "
        "entry of |P^T P - I|. *diagonality* of a full basis: ||diag(P^T G G^T P)|| / ||P^T G G^T P||, 1 for singular "
        "vectors.",
        "",
        *bases(shapes),
        "## Bases in training",
        "",
        "The seven matrices of the second layer of a 60m-wide byte LLaMA, trained by AdamW for 40 steps; warm starts "
        "begin at the bases of its gradients 20 steps before. Milliseconds are sums of medians; energy and "
        "diagonality the least and the median over the matrices.",
        "",
        *in_training(result["trained"]),
        f"`{result['command']}`: {conditions}.",
        "",
    ])


def verdicts(shapes: list[Row], trained: list[Row]) -> Iterator[Verdict]:
    """Every line of the goal that this benchmark can judge."""
    for row in shapes:
        name = "{} x {}".format(*row["shape"])
        to_bound = ratio(time_of(row, CLOSED), time_of(row, PRODUCTS))
        yield at_most(f"online PCA, {name}: closed form / its products", 1.15, to_bound)
        faster = ratio(time_of(row, AUTOGRAD), time_of(row, CLOSED))
        least = 3.3 if row["shape"] == [512, 512] else 3.8
        yield at_least(f"online PCA, {name}: autograd / closed form", least, faster)
    yield from bases_of_a_layer(trained)


def bases_of_a_layer(trained: list[Row]) -> Iterator[Verdict]:
    """GaLore's and AdaDiag's bases, summed over the seven matrices of a layer in training."""
    for method, svd, exact, warm, limits in (
        ("GaLore", "svd, thin", EXACT_RANKED, WARM_RANKED, (3.0, 6.0)),
        ("AdaDiag", "svd, full", EXACT_FULL, WARM_FULL, (2.4, 3.5)),
    ):
        reference = layer_sum(trained, svd)
        for kernel, limit in zip((exact, warm), limits, strict=True):
            faster = ratio(reference, layer_sum(trained, kernel))
            yield at_least(f"{method}, bases of a layer: {svd} / {kernel}", limit, faster)
    energies = [row["bases"][WARM_RANKED]["energy"] for row in trained]
    yield at_least(f"{WARM_RANKED}: energy, of the SVD's", 0.999, min(energies, default=None), "")
    for kernel in (EXACT_FULL, WARM_FULL):
        errors = [row["bases"][kernel]["orthonormality_error"] for row in trained]
        yield at_most(f"{kernel}: orthonormality error", 1e-5, max(errors, default=None), "")


def layer_sum(trained: list[Row], kernel: str) -> float | None:
    """Milliseconds of a kernel on all matrices of the layer."""
    return sum(time_of(row, kernel) or 0.0 for row in trained) if trained else None


def time_of(row: Row, kernel: str) -> float | None:
    """Median milliseconds of a kernel on one shape."""
    return median(row["ms"].get(kernel, []))


def named(row: Row) -> str:
    """The shape as a table shows it."""
    return "{} x {}".format(*row["shape"])


def in_training(trained: list[Row]) -> list[str]:
    """Times of a layer's bases, and how good they are."""
    cells = []
    for kernel, found in trained[0]["bases"].items() if trained else ():
        what = "energy" if "energy" in found else "diagonality"
        values = [row["bases"][kernel][what] for row in trained]
        errors = [row["bases"][kernel]["orthonormality_error"] for row in trained]
        total = layer_sum(trained, kernel)
        svd = layer_sum(trained, "svd, thin" if what == "energy" else "svd, full")
        cells.append([
            kernel,
            shown(total, 1),
            shown(ratio(svd, total), 1),
            what,
            f"{min(values):.5f}",
            f"{median(values):.5f}",
            f"{max(errors):.0e}",
        ])
    header = (
        "basis", "ms, all matrices", "times faster than the svd", "quality", "least", "median", "orthonormality error",
    )  # fmt: skip
    return table(header, cells)


def times(shapes: list[Row]) -> list[str]:
    """Milliseconds: kernels by shapes."""
    kernels = list(dict.fromkeys(kernel for row in shapes for kernel in row["ms"]))
    cells = [[kernel, *(shown(time_of(row, kernel), 1) for row in shapes)] for kernel in kernels]
    rounds = ["rounds", *(str(row["rounds"]) for row in shapes)]
    return table(("kernel", *(named(row) for row in shapes)), [*cells, rounds])


def online_pca(shapes: list[Row]) -> list[str]:
    """The closed form against its products, autograd and the SVD."""
    cells = []
    for row in shapes:
        (m, n), r, closed = row["shape"], row["rank"], time_of(row, CLOSED)
        flops = 4 * m * n * r + 8 * m * r * r
        products = time_of(row, PRODUCTS)
        cells.append([
            named(row),
            shown(flops / 1e9),
            shown(ratio(flops / 1e6, products), 0),
            shown(ratio(closed, products)),
            shown(ratio(time_of(row, AUTOGRAD), closed)),
            shown(ratio(time_of(row, "svd, thin"), closed), 1),
            f"{row['pca_error']:.0e}",
        ])
    header = (
        "shape", "GFLOP", "GFLOP/s of the products", "closed / products", "autograd / closed", "svd / closed",
        "difference from autograd",
    )  # fmt: skip
    return table(header, cells)


def bases(shapes: list[Row]) -> list[str]:
    """How good every basis is, and how much faster than the decomposition it stands for."""
    cells = []
    for row in shapes:
        for name, found in row["bases"].items():
            reference = "svd, thin" if "energy" in found else "svd, full"
            quality = found.get("energy", found.get("diagonality"))
            cells.append([
                named(row),
                name,
                shown(ratio(time_of(row, reference), time_of(row, name)), 1),
                "energy" if "energy" in found else "diagonality",
                f"{quality:.5f}",
                f"{found['orthonormality_error']:.0e}",
            ])
    header = (
        "shape",
        "basis",
        "times faster than the svd",
        "quality",
        "value",
        "orthonormality error",
    )
    return table(header, cells, left=2)
