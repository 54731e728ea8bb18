"""The ways to find a basis anew or to follow one: what each runs, which library's routine that is, and whom it serves.

Legend: G m x n with m <= n, r rank, P m x m and B m x r orthonormal.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from subopt.optimizers import METHODS
from subopt.optimizers.bases.decompositions import left_basis
from subopt.optimizers.bases.online_pca import pca_gradient
from subopt.optimizers.updates.basis import resolve_rank

_ORTHO_WEIGHT = 0.1
# By the name of torch's build, which says BLAS_INFO=mkl and the like.
_CPU_LIBRARIES = {"mkl": "MKL", "open": "OpenBLAS", "accelerate": "Accelerate"}


@dataclass(frozen=True)
class KernelInputs:
    """The inputs of every kernel at one shape: a Gaussian gradient and random orthonormal bases."""

    G: Tensor
    P: Tensor
    B: Tensor


@dataclass(frozen=True)
class Kernel:
    """One way to find or follow a basis.

    Attributes:
        name: As the table prints it.
        run: Does it once; a kernel with `drivers` takes one of them, or None for torch's own choice.
        routines: What torch calls on a CPU, by LAPACK's names and BLAS's, without the letter of the type.
        serves: Whether it can provide the bases of a method with these options.
        every_step: Whether it runs at every training step, and not once in a period.
        drivers: What `torch.linalg.svd` may be told to use on an NVIDIA GPU.
    """

    name: str
    run: Callable[..., object]
    routines: str
    serves: Callable[[Mapping[str, Any]], bool]
    every_step: bool = False
    drivers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Use:
    """Who uses a kernel, and how often: the methods with the shortest period among those that it serves."""

    period: int
    methods: tuple[str, ...]


def make_problem(m: int, n: int, rank: int | float, device: torch.device) -> KernelInputs:
    """Draw a float32 Gaussian gradient and orthonormal bases, always the same for a shape."""
    generator = torch.Generator(device).manual_seed(0)
    draw = partial(torch.randn, generator=generator, device=device, dtype=torch.float32)
    G = draw(m, n)
    P = torch.linalg.qr(draw(m, m))[0]
    r = resolve_rank(rank, m) or m
    return KernelInputs(G, P, P[:, :r].clone(memory_format=torch.contiguous_format))


def qr_power_step(problem: KernelInputs) -> Tensor:
    """One power step from an old full basis: the orthonormal factor of (G G^T) P."""
    Q: Tensor = torch.linalg.qr(problem.G @ problem.G.T @ problem.P)[0]
    return Q


def pca_autograd(problem: KernelInputs) -> Tensor:
    """Gradient of ||B B^T Gn - Gn||^2 + lambda ||B^T B - I||^2 in B, Gn = G / ||G||, by autograd.

    The product B B^T is formed first, as in the released code of Liang et al. 2024 (eq. 6, figure 2).
    """
    G = problem.G / problem.G.norm()
    B = problem.B.detach().requires_grad_()
    residual = B @ B.T @ G - G
    excess = B.T @ B - torch.eye(B.shape[1], device=B.device, dtype=B.dtype)
    loss = residual.square().sum() + _ORTHO_WEIGHT * excess.square().sum()
    return torch.autograd.grad(loss, B)[0]


def _is_refitted(options: Mapping[str, Any], *bases: str) -> bool:
    """Whether one of these bases is decomposed anew from a matrix of the gradient's shape."""
    return options.get("basis") in bases and options["source"] != "covariance"


def _takes_power_steps(options: Mapping[str, Any]) -> bool:
    return bool(options.get("source") == "covariance" and options["solver"] == "power")


def _is_followed(options: Mapping[str, Any]) -> bool:
    return options.get("basis") in {"online-pca", "online-pca-two-sided"}


ONLINE_PCA = Kernel(
    "online PCA, closed form",
    lambda p: pca_gradient(p.B, p.G, _ORTHO_WEIGHT),
    "gemm, dot",
    _is_followed,
    every_step=True,
)
# The approximate gesvda has no complete bases to offer.
KERNELS = (
    Kernel(
        "svd, thin",
        lambda p, driver=None: torch.linalg.svd(p.G, full_matrices=False, driver=driver),
        "gesdd",
        lambda options: _is_refitted(options, "one-sided"),
        drivers=("gesvdj", "gesvd", "gesvda"),
    ),
    Kernel(
        "svd, full",
        lambda p, driver=None: torch.linalg.svd(p.G, full_matrices=True, driver=driver),
        "gesdd",
        lambda options: _is_refitted(options, "two-sided"),
        drivers=("gesvdj", "gesvd"),
    ),
    Kernel(
        "eigh of the Gram matrix",
        lambda p: left_basis(p.G),
        "gemm, syevd",
        lambda options: _is_refitted(options, "one-sided"),
    ),
    Kernel("QR power step", qr_power_step, "gemm, geqrf, orgqr", _takes_power_steps),
    Kernel(
        "randomized svd",
        lambda p: torch.svd_lowrank(p.G, q=p.B.shape[1]),
        "gemm, geqrf, orgqr, gesdd",
        lambda options: (
            _is_refitted(options, "one-sided", "two-sided") and options["rank"] is not None
        ),
    ),
    Kernel("online PCA, autograd", pca_autograd, "gemm", _is_followed, every_step=True),
    ONLINE_PCA,
)


def use_of(kernel: Kernel) -> Use:
    """Return how often training runs a kernel: the shortest period, by default options, of the methods it serves.

    Methods that keep the statistics of blocks (Shampoo, Sketchy) are not among them: their matrices have other shapes.
    """
    served = {name: method.resolve() for name, method in METHODS.items()}
    periods = {
        name: 1 if kernel.every_step else options["period"]
        for name, options in served.items()
        if kernel.serves(options)
    }
    shortest = min(periods.values())
    return Use(shortest, tuple(name for name, period in periods.items() if period == shortest))


def accepted_drivers(kernel: Kernel, problem: KernelInputs) -> list[str]:
    """Return the drivers that work for a kernel on this problem: they run, and the product of what they return is G.

    None where torch has no choice of drivers: on a CPU, under ROCm, or where MAGMA is preferred to cuSOLVER.
    """
    if problem.G.device.type != "cuda" or torch.version.hip is not None:
        return []
    return [driver for driver in kernel.drivers if is_accurate(kernel, problem, driver)]


def is_accurate(kernel: Kernel, problem: KernelInputs, driver: str) -> bool:
    """Return whether the decomposition under a driver gives back G, to 1e-3 of its norm (float32, a Jacobi method)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a driver that does not converge: the product tells
        try:
            U, S, Vh = cast("tuple[Tensor, Tensor, Tensor]", kernel.run(problem, driver))
        except RuntimeError:
            return False
    k = len(S)
    error = torch.linalg.matrix_norm((U[:, :k] * S) @ Vh[:k] - problem.G)
    return bool(error <= 1e-3 * torch.linalg.matrix_norm(problem.G))


def library_routine(kernel: Kernel, device: torch.device, driver: str | None = None) -> str | None:
    """Name what a kernel runs: library and routines; None on devices whose libraries torch does not tell.

    On a CPU torch calls LAPACK and BLAS; its build says whose. On an NVIDIA GPU it calls cuBLAS and cuSOLVER, with
    LAPACK's names but for the singular value decomposition, by default a Jacobi method (gesvdj) that gives way to gesvd
    where it does not converge. Where torch follows a preference for MAGMA, nothing is named.

    Source: torch.linalg.svd in torch's documentation, 2.13; aten/src/ATen/native/cuda/linalg; for CPUs, MKL_VERBOSE=1.
    """
    if device.type == "cpu":
        return f"{kernel.routines} ({cpu_library()})"
    if device.type != "cuda" or torch.version.hip is not None or not _is_cusolver_used(device):
        return None
    routines = kernel.routines.replace("gesdd", driver or "gesvdj")
    is_blas_only = set(routines.split(", ")) <= {"gemm", "dot"}
    return f"{routines} ({'cuBLAS' if is_blas_only else 'cuSOLVER'})"


def cpu_library() -> str:
    """Name the library behind BLAS and LAPACK on the CPU, as torch's build tells it."""
    found = re.search(r"\b(?:LAPACK|BLAS)_INFO=(\w+)", torch.__config__.show())
    name = found.group(1) if found else "LAPACK"
    return _CPU_LIBRARIES.get(name, name)


def _is_cusolver_used(device: torch.device) -> bool:
    """Whether decompositions go to cuSOLVER: torch takes a driver only then."""
    try:
        torch.linalg.svd(torch.eye(2, device=device), driver="gesvd")
    except RuntimeError:
        return False
    return True
