"""The same run on every machine: what the data leave undetermined of a basis does not depend on the kernel.

Other processors, thread counts and layouts of memory round otherwise. Here kernels are made to: their input is off by
one unit in the last place, another LAPACK routine answers, strides and threads differ.
"""

from contextlib import contextmanager

import pytest
import torch
from torch import nn

from subopt.optimizers import METHODS, Composed, create
from subopt.optimizers.bases.completion import completed, orthonormal_factor
from subopt.optimizers.bases.decompositions import (
    canonical_signs,
    gram_basis,
    left_basis,
    matched_signs,
    two_sided_bases,
)
from subopt.profilers.gradients.rotated import covariance_bases, right_basis

LR, STEPS = 0.01, 7
# A step divides coordinates by their size: rounding, eps of a gradient's norm, is sqrt(eps) of a coordinate as small as
# sqrt(eps) of it, and of random gradients none is smaller. Bases turn by kappa^2 times their rounding, kappa <= 4 here.
TOLERANCE = {
    dtype: STEPS * 16 * torch.finfo(dtype).eps ** 0.5 for dtype in (torch.float64, torch.float32)
}

# Whatever decomposes a matrix in coordinates or statistics of its own; 8-bit moments are those of small tensors here.
DECOMPOSING = {"refreshes", "rank", "whitens", "shares_basis"}
CASES = [
    (name, {**options, **({} if options.get("stagger") or "period" not in method.tunable else {"period": 2})})
    for name, method in METHODS.items()
    if DECOMPOSING & method.capabilities and not method.layers and "state_dtype" not in method.fixed
    for options in method.test_inputs
]  # fmt: skip


def normal(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def orthonormal(rows, columns, seed):
    return torch.linalg.qr(normal(rows, columns, seed=seed)).Q


def of_rank(m, n, rank, seed):
    """A matrix whose singular values lie between 1 and 0.3, as far apart as they can be."""
    values = torch.linspace(1, 0.3, rank, dtype=torch.float64)
    return orthonormal(m, rank, seed) * values @ orthonormal(n, rank, seed + 1).mT


def _full(t):
    return of_rank(5, 8, 5, 10 * t)


def _tall_of_rank_one(t):
    return of_rank(8, 5, 1, 10 * t)


def _square_with_zeros(t):
    G = of_rank(5, 5, 5, 10 * t)
    G[1] = G[:, 2] = 0
    return G


def _always_in_one_plane(t):
    return orthonormal(5, 2, 1) @ of_rank(2, 2, 2, 10 * t) @ orthonormal(8, 2, 2).mT


def _in_other_rows_later(t):
    G = torch.zeros(5, 8, dtype=torch.float64)
    rows = slice(0, 2) if t < 3 else slice(2, 5)
    G[rows] = of_rank(len(G[rows]), 8, len(G[rows]), 10 * t)
    return G


def _of_equal_rows(t):
    """Singular vectors with entries of equal size."""
    return torch.ones(8, 1, dtype=torch.float64) @ normal(1, 5, seed=t)


STREAMS = (
    _full,
    _tall_of_rank_one,
    _square_with_zeros,
    _always_in_one_plane,
    _in_other_rows_later,
    _of_equal_rows,
)


def run(name, options, stream, dtype, laid_out=torch.clone, steps=STEPS):
    """The parameter after every step, in units of the learning rate."""
    gradients = [laid_out((G / G.norm()).to(dtype)) for G in map(stream, range(steps))]
    parameter = nn.Parameter(laid_out(torch.ones_like(gradients[0])))
    optimizer = Composed([parameter], lr=LR, **METHODS[name].resolve(options))
    path = []
    for gradient in gradients:
        parameter.grad = gradient
        optimizer.step()
        path.append(parameter.detach().clone(memory_format=torch.contiguous_format) / LR)
    return torch.stack(path)


def strided(value):
    """The same values, transposed and spread out in memory."""
    return torch.stack([value.mT, value.mT], dim=-1)[..., 0].mT


@contextmanager
def off_by_an_ulp():
    """Every decomposition finds its input off by one unit in the last place of every entry, up or down."""
    generator = torch.Generator().manual_seed(0)

    def moved(kernel):
        def call(A, *args, **kwargs):
            signs = (torch.rand(A.shape, generator=generator) < 0.5).to(A) * 2 - 1
            return kernel(A * (1 + torch.finfo(A.dtype).eps * signs), *args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("eigh", "svd", "qr"):
            patch.setattr(torch.linalg, name, moved(getattr(torch.linalg, name)))
        patch.setattr(torch, "geqrf", moved(torch.geqrf))
        yield


@contextmanager
def other_drivers():
    """Eigenvectors from LAPACK's QR iteration and singular vectors from gesvd: torch on a CPU takes syevd and gesdd."""
    linalg = pytest.importorskip("scipy.linalg")

    def eigh(C):
        found = [
            linalg.eigh(matrix.numpy(), driver="ev") for matrix in C.reshape(-1, *C.shape[-2:])
        ]
        values, vectors = (
            torch.stack([torch.from_numpy(part) for part in parts])
            for parts in zip(*found, strict=True)
        )
        return torch.return_types.linalg_eigh((
            values.reshape(C.shape[:-1]),
            vectors.reshape(C.shape),
        ))

    def svd(A, full_matrices=True):
        parts = linalg.svd(A.numpy(), full_matrices=full_matrices, lapack_driver="gesvd")
        return torch.return_types.linalg_svd(tuple(map(torch.from_numpy, parts)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.linalg, "eigh", eigh)
        patch.setattr(torch.linalg, "svd", svd)
        yield


@contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_a_run_does_not_depend_on_the_kernel(name, options, stream, dtype):
    expected = run(name, options, stream, dtype)
    others = {"strided": run(name, options, stream, dtype, strided)}
    for changed in (off_by_an_ulp, other_drivers):
        with changed():
            others[changed.__name__] = run(name, options, stream, dtype)
    for what, found in others.items():
        torch.testing.assert_close(
            found,
            expected,
            rtol=0,
            atol=TOLERANCE[dtype],
            msg=lambda text, what=what: f"{what}: {text}",
        )


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", dict(CASES))
def test_a_run_does_not_depend_on_threads(name, dtype):
    paths = []
    for count in (1, 2):
        with threads(count):
            paths.append(run(name, {}, lambda t: of_rank(130, 140, 3, 10 * t), dtype, steps=3))
    torch.testing.assert_close(paths[1], paths[0], rtol=0, atol=TOLERANCE[dtype])


# Adam's first step is a matrix of signs: its columns tie, and what it adds to a basis hangs on eps.
LOW_RANK = [
    o for o in METHODS["dlrt"].test_inputs if METHODS["dlrt"].resolve(o)["integrator"] != "adam"
]


@pytest.mark.parametrize("options", LOW_RANK, ids=str)
def test_low_rank_layers_do_not_depend_on_the_kernel(options):
    """Weights of rank one have one pair of singular vectors; two rows of data span two of ten inputs."""

    def weights():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(10, 12, bias=False), nn.Linear(12, 8, bias=False)).double()
        model[0].weight.data = of_rank(12, 10, 1, seed=3)
        optimizer = create("dlrt", model, lr=0.05, **options)
        x, y = normal(2, 10, seed=1), normal(2, 8, seed=2)

        def closure():
            optimizer.zero_grad()
            loss = (model(x) - y).square().mean()
            loss.backward()
            return loss

        for _ in range(STEPS):
            optimizer.step(closure)
        return list(METHODS["dlrt"].dense_state_dict(model).values())

    expected = weights()
    for changed in (off_by_an_ulp, other_drivers):
        with changed():
            torch.testing.assert_close(weights(), expected, rtol=0, atol=TOLERANCE[torch.float64])


# Rows that are zero, columns of equal entries, and an axis: where comparing sizes would be left to rounding.
SPANS = {
    "random": orthonormal(8, 3, seed=0),
    "axes": torch.eye(8, dtype=torch.float64)[:, [5, 2]],
    "equal": torch.ones(8, 1, dtype=torch.float64) / 8**0.5,
    "pairs": torch.eye(4, dtype=torch.float64).repeat_interleave(2, 0)[:, :3] / 2**0.5,
    "all but one": orthonormal(8, 7, seed=0),
    "nothing": torch.zeros(8, 0, dtype=torch.float64),
}


@pytest.mark.parametrize("P", SPANS.values(), ids=SPANS)
def test_completed_is_orthonormal_and_does_not_see_rounding(P):
    n, k = P.shape
    whole = completed(P, n)
    torch.testing.assert_close(whole[:, :k], P, rtol=0, atol=0)
    torch.testing.assert_close(whole.mT @ whole, torch.eye(n, dtype=P.dtype), rtol=0, atol=1e-14)
    assert torch.equal(completed(P, (n + k) // 2), whole[:, : (n + k) // 2])
    for seed in range(20):
        off = P + torch.finfo(P.dtype).eps * normal(n, k, seed=seed)
        torch.testing.assert_close(completed(off, n)[:, k:], whole[:, k:], rtol=0, atol=1e-13)


def test_completed_keeps_the_axes_of_zero_rows():
    P = torch.zeros(8, 2, dtype=torch.float64)
    P[[1, 4, 6]] = orthonormal(3, 2, seed=0)
    rest = completed(P, 8)[:, 2:]
    axes = torch.eye(8, dtype=torch.float64)[:, [0, 2, 3, 5, 7]]
    assert all((rest == axis[:, None]).all(0).any() for axis in axes.mT)


def test_completed_directions_lack_the_gradient_however_uneven_its_singular_values():
    G = (
        orthonormal(6, 2, 0)
        * torch.tensor([1, 1e-4], dtype=torch.float64)
        @ orthonormal(9, 2, 1).mT
    )
    for basis in (left_basis(G), left_basis(G, 4), two_sided_bases(G)[0]):
        assert (basis[:, 2:].mT @ G).abs().max() < 64 * torch.finfo(G.dtype).eps


@pytest.mark.parametrize("changed", [off_by_an_ulp, other_drivers])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("stream", STREAMS)
def test_bases_do_not_depend_on_the_kernel(stream, dtype, changed):
    """The optimizers' and the profile's, up to signs of what is determined."""

    def bases():
        G = stream(1).to(dtype)
        G = G if G.shape[0] <= G.shape[1] else G.mT
        P = left_basis(G)
        found = [
            P,
            gram_basis(G @ G.mT),
            *two_sided_bases(G),
            right_basis(G, P),
            *covariance_bases([G]),
        ]
        return [canonical_signs(basis) for basis in found]

    expected = bases()
    with changed():
        found = bases()
    for basis, other in zip(found, expected, strict=True):
        identity = torch.eye(basis.shape[1], dtype=basis.dtype)
        torch.testing.assert_close(
            basis.mT @ basis, identity, rtol=0, atol=64 * torch.finfo(basis.dtype).eps
        )
        torch.testing.assert_close(basis, other, rtol=0, atol=1000 * torch.finfo(dtype).eps)


def test_a_dependent_column_leaves_the_others_as_they_are():
    A = orthonormal(6, 3, seed=0)
    A = torch.stack([A[:, 0], 3 * A[:, 0], A[:, 0] + A[:, 1], A[:, 2]], dim=1)
    Q = orthonormal_factor(A, torch.tensor(1e-12, dtype=A.dtype))
    independent = orthonormal_factor(A[:, [0, 2, 3]], torch.tensor(1e-12, dtype=A.dtype))
    torch.testing.assert_close(Q[:, [0, 2, 3]], independent)
    torch.testing.assert_close(Q[:, 1], completed(independent, 4)[:, 3])


def test_signs_do_not_hang_on_rounding():
    tied = torch.tensor([[1.0, 1.0], [-1.0, 1.0]], dtype=torch.float64) / 2**0.5
    orthogonal = torch.eye(2, dtype=torch.float64).flip(0)
    for seed in range(20):
        off = torch.finfo(tied.dtype).eps * normal(2, 2, seed=seed)
        torch.testing.assert_close(canonical_signs(-tied + off), tied)
        identity = torch.eye(2, dtype=torch.float64)
        torch.testing.assert_close(matched_signs(-orthogonal + off, identity), orthogonal)
