"""Kernels on single gradient matrices, in turns: online PCA and refreshed bases beside torch's decompositions.

    make bench-kernels                                # the layers of 60m, 130m and 350m
    make bench-kernels ARGS=--large                   # and one layer each of 1b and 7b, once: minutes
    python benchmarks/bench_kernels.py --shape 512x512 --rounds 3
    python benchmarks/bench_kernels.py --device cuda --large

Beside every basis: the share of the energy of the r best directions that it holds, how far it is from orthonormal, and
for a full basis how diagonal it makes G G^T. A warm start comes from the gradient before: the same signal, other noise.
How good warm starts are is also measured on gradients of a model in training.
"""

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from common.bounds import pca, wide
from common.conditions import RESULTS, conditions
from common.llama import gradients, layer_shapes
from common.timing import elapsed_ms
from common.trained import trained_gradients
from render import kernels as render_kernels
from torch import Tensor

from subopt.optimizers.bases.covariance import refit
from subopt.optimizers.bases.decompositions import left_basis, refined_basis, two_sided_bases
from subopt.optimizers.bases.online_pca import pca_gradient

SIZES, LARGE = ("60m", "130m", "350m"), ("1b", "7b")
# A full right basis of the widest layers takes minutes and gigabytes.
WIDEST_FULL = 8192
ORTHO_WEIGHT = 0.1
Kernels = dict[str, Callable[[], Any]]


def shapes_of(sizes: Sequence[str]) -> list[tuple[int, int]]:
    """The different matrices of these sizes, short side first."""
    found = [tuple(sorted(shape)) for size in sizes for shape in layer_shapes(size)]
    return list(dict.fromkeys(found))


def autograd_pca(P: Tensor, G: Tensor) -> Tensor:
    """The gradient of eq. 6 as the authors take it: by autograd, of the loss as it is written."""
    P = P.detach().clone().requires_grad_()
    scaled = G / torch.linalg.vector_norm(G)
    excess = P.mT @ P - torch.eye(P.shape[1], device=P.device)
    loss = (P @ P.mT @ scaled - scaled).square().sum() + ORTHO_WEIGHT * excess.square().sum()
    (gradient,) = torch.autograd.grad(loss, P)
    return gradient


def kernels(G: Tensor, before: Tensor, r: int) -> tuple[Kernels, Kernels, Kernels]:
    """What is timed: bases of r directions, full bases, and what gives no basis.

    Args:
        G: The gradient, m x n with m <= n.
        before: The one before it, whose bases are where warm starts begin.
        r: Rank.
    """
    P, P_full = (left_basis(before, rank).to(G.dtype) for rank in (r, None))
    full_right = G.shape[1] <= WIDEST_FULL
    ranked: Kernels = {
        "svd, thin": lambda: torch.linalg.svd(G, full_matrices=False)[0][:, :r],
        "svd_lowrank, 2 iterations": lambda: torch.svd_lowrank(G, q=r, niter=2)[0],
        "left_basis, rank r": lambda: left_basis(G, r),
        "refined_basis, rank r": lambda: refined_basis(G, P),
    }
    full: Kernels = {
        "svd, full": lambda: torch.linalg.svd(G, full_matrices=full_right)[0],
        "left_basis, full": lambda: left_basis(G),
        "one power step, full": lambda: power_step(G, P_full),
    }
    rest: Kernels = {
        "svdvals": lambda: torch.linalg.svdvals(G),
        "Gram matrix": lambda: G @ G.mT,
        "online PCA, closed form": lambda: pca_gradient(P, G, ORTHO_WEIGHT),
        "online PCA, autograd": lambda: autograd_pca(P, G),
        "online PCA, its products": products(G, r),
    }
    if full_right:
        rest["two_sided_bases, full"] = lambda: two_sided_bases(G)
    return ranked, full, rest


def power_step(G: Tensor, P: Tensor) -> Tensor:
    """One warm-started power step of all directions on G G^T."""
    return refit(G @ G.mT, P, "power").basis


def products(G: Tensor, r: int) -> Callable[[], None]:
    """The products that an online-PCA step cannot avoid, alone."""
    found = list(pca(G, r))

    def multiply() -> None:
        for left, right, product in found:
            torch.mm(left, right, out=product)

    return multiply


def measure_shape(shape: tuple[int, int], rounds: int, device: torch.device) -> dict[str, Any]:
    """Time every kernel on one matrix, in turns, and look at the bases it gave."""
    (before,), (G,) = gradients([shape], sets=2)
    before, G = before.to(device), G.to(device)
    r = shape[0] // 4
    ranked, full, rest = kernels(G, before, r)
    for run in rest.values() if rounds > 1 else ():
        run()
    found = measure_bases(ranked, full, G, rounds)
    for name, run in rest.items():
        found["ms"][name] = [elapsed_ms(run, device) for _ in range(rounds)]
    return {
        "shape": shape,
        "rank": r,
        "rounds": rounds,
        **found,
        "pca_error": pca_error(G, before, r),
    }


def trained_layer(device: str) -> list[dict[str, Tensor]]:
    """Gradients of the second layer of a 60m model at two steps of its training."""
    return [
        {name: G.to(device) for name, G in kept.items() if name.startswith("layers.1.")}
        for kept in trained_gradients("60m", layers=2, sets=2, warm_up=20, gap=20)
    ]


def measure_trained(
    before: dict[str, Tensor], now: dict[str, Tensor], rounds: int
) -> list[dict[str, Any]]:
    """Time what refreshes the bases of a training's gradients, in turns, and look at what it finds."""
    rows = []
    for name, gradient in now.items():
        G = wide(gradient)
        ranked, full, _ = kernels(G, wide(before[name]), G.shape[0] // 4)
        row = measure_bases(ranked, full, G, rounds)
        rows.append({"name": name, "shape": tuple(G.shape), **row})
    return rows


def measure_bases(ranked: Kernels, full: Kernels, G: Tensor, rounds: int) -> dict[str, Any]:
    """Time kernels that give bases, in turns, and look at those."""
    times: dict[str, list[float]] = {name: [] for name in {**ranked, **full}}
    bases: dict[str, Tensor] = {}
    for _ in range(rounds):
        for name, run in {**ranked, **full}.items():
            kept: list[Tensor] = []
            times[name].append(elapsed_ms(lambda run=run, kept=kept: kept.append(run()), G.device))
            bases[name] = kept[0]
    gram = G.to(torch.float64) @ G.to(torch.float64).mT
    best = bases["svd, thin"]
    found = {name: quality(P, gram, best if name in ranked else None) for name, P in bases.items()}
    return {"ms": times, "bases": found}


def quality(P: Tensor, gram: Tensor, best: Tensor | None) -> dict[str, float]:
    """How good a basis is.

    Returns:
        orthonormality_error: The largest entry of |P^T P - I|.
        energy: Of G in P, by that in the best basis of its rank, where that is given.
        diagonality: ||diag(P^T G G^T P)|| / ||P^T G G^T P||, 1 for singular vectors, where it is not.
    """
    wide = P.to(torch.float64)
    identity = torch.eye(wide.shape[1], dtype=torch.float64, device=wide.device)
    found = {"orthonormality_error": float((wide.mT @ wide - identity).abs().max())}
    inner = wide.mT @ gram @ wide
    if best is None:
        norm = torch.linalg.vector_norm
        return found | {"diagonality": float(norm(inner.diagonal()) / norm(inner))}
    held = best.to(torch.float64)
    return found | {"energy": float(inner.trace() / (held.mT @ gram @ held).trace())}


def pca_error(G: Tensor, before: Tensor, r: int) -> float:
    """Largest difference of closed form and autograd, by the largest entry."""
    P = left_basis(before, r).to(G.dtype)
    wanted = autograd_pca(P, G)
    return float((pca_gradient(P, G, ORTHO_WEIGHT) - wanted).abs().max() / wanted.abs().max())


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure every shape."""
    device = torch.device(arguments.device)
    plan = [(shape, arguments.rounds) for shape in arguments.shape or shapes_of(SIZES)]
    if arguments.large:
        plan += [(shape, 1) for shape in shapes_of(LARGE)]
    rows = []
    for shape, rounds in plan:
        begin_s = time.perf_counter()
        rows.append(measure_shape(shape, rounds, device))
        print(f"{shape[0]} x {shape[1]}: {time.perf_counter() - begin_s:.0f} s", flush=True)
    return rows


def shape_of(text: str) -> tuple[int, int]:
    """Read 512x1376."""
    short, long = sorted(int(side) for side in text.split("x"))
    return short, long


def main(command_line: Sequence[str]) -> None:
    """Measure and render, or render alone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--shape", action="append", type=shape_of, help="in the place of the sizes'"
    )
    parser.add_argument(
        "--large", action="store_true", help="one layer each of 1b and 7b too, once"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="the .json; the report goes beside it")
    parser.add_argument("--render", action="store_true", help="write the report, measure nothing")
    arguments = parser.parse_args(command_line)
    torch.set_num_threads(arguments.threads)
    path = arguments.output or RESULTS / f"kernels_{arguments.device}_202611.json"
    if not arguments.render:
        result = {
            "command": shlex.join(["python", "benchmarks/bench_kernels.py", *command_line]),
            "shapes": measure(arguments),
            "trained": measure_trained(*trained_layer(arguments.device), min(5, arguments.rounds)),
            "conditions": {**conditions(), "load": os.getloadavg()[0]},
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result) + "\n", encoding="utf-8")
    print(render_kernels.write(path))


if __name__ == "__main__":
    main(sys.argv[1:])
