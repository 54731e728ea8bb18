"""The decomposition kernels do what their names say; rows and notes follow from the measured times."""

import dataclasses
import itertools
import re

import pytest
import torch

from subopt.optimizers import METHODS
from subopt.optimizers.bases.online_pca import pca_gradient
from subopt.profilers.target.session import default_dtype
from subopt.profilers.timing import decompositions, kernels
from subopt.profilers.timing.decompositions import Block, device_label, fastest, time_shape
from subopt.profilers.timing.kernels import (
    KERNELS,
    ONLINE_PCA,
    Kernel,
    KernelInputs,
    accepted_drivers,
    is_accurate,
    library_routine,
    make_problem,
    pca_autograd,
    qr_power_step,
    use_of,
)

CPU = torch.device("cpu")


def doubled(problem):
    return KernelInputs(problem.G.double(), problem.P.double(), problem.B.double())


def test_the_problem_is_orthonormal_reproducible_and_of_the_rank_asked_for():
    problem, again = make_problem(8, 12, 0.25, CPU), make_problem(8, 12, 2, CPU)
    assert torch.equal(problem.G, again.G)
    assert problem.B.shape == (8, 2)
    torch.testing.assert_close(problem.P.T @ problem.P, torch.eye(8))
    torch.testing.assert_close(problem.B, problem.P[:, :2])
    assert problem.B.is_contiguous()


def test_the_problem_is_float32_whatever_the_default_dtype():
    with default_dtype(torch.float64):
        problem = make_problem(4, 6, 2, CPU)
    assert {problem.G.dtype, problem.P.dtype, problem.B.dtype} == {torch.float32}


def test_autograd_of_the_loss_equals_finite_differences_and_the_closed_form():
    problem = doubled(make_problem(4, 5, 2, CPU))
    B, G = problem.B + 0.1, problem.G / problem.G.norm()

    def loss(B):
        excess = B.T @ B - torch.eye(2, dtype=torch.float64)
        return (B @ B.T @ G - G).square().sum() + 0.1 * excess.square().sum()

    found = pca_autograd(KernelInputs(problem.G, problem.P, B))
    for i in range(4):
        for j in range(2):
            step = torch.zeros_like(B)
            step[i, j] = 1e-6
            assert float(found[i, j]) == pytest.approx(
                float(loss(B + step) - loss(B - step)) / 2e-6, abs=1e-7
            )
    torch.testing.assert_close(found, pca_gradient(B, problem.G, 0.1), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found, ONLINE_PCA.run(KernelInputs(problem.G, problem.P, B)))


def test_repeated_power_steps_reach_the_singular_vectors():
    problem = doubled(make_problem(5, 9, 2, CPU))
    P = problem.P
    for _ in range(300):
        P = qr_power_step(KernelInputs(problem.G, P, problem.B))
    torch.testing.assert_close(P.T @ P, torch.eye(5, dtype=torch.float64))
    C = P.T @ problem.G @ problem.G.T @ P
    torch.testing.assert_close(C.diag(), torch.linalg.svdvals(problem.G).square())


def test_decomposing_kernels_return_what_their_names_say():
    problem = make_problem(6, 10, 3, CPU)
    run = {kernel.name: kernel.run(problem) for kernel in KERNELS}
    assert [part.shape for part in run["svd, thin"]] == [(6, 6), (6,), (6, 10)]
    assert [part.shape for part in run["svd, full"]] == [(6, 6), (6,), (10, 10)]
    assert [part.shape for part in run["randomized svd"]] == [(6, 3), (3,), (10, 3)]
    P = run["eigh of the Gram matrix"].to(torch.float32)
    C = P.T @ problem.G @ problem.G.T @ P
    torch.testing.assert_close(C, C.diag().diag(), rtol=0, atol=1e-4)


BY_NAME = {kernel.name: kernel for kernel in KERNELS}


def test_a_kernel_counts_at_the_period_of_the_methods_whose_bases_it_provides():
    galore, soap = METHODS["galore"].defaults["period"], METHODS["soap"].defaults["period"]
    assert galore != soap
    for name in ("svd, thin", "eigh of the Gram matrix", "randomized svd"):
        assert use_of(BY_NAME[name]).period == galore
        assert "galore" in use_of(BY_NAME[name]).methods
    assert set(use_of(BY_NAME["svd, full"]).methods) == {
        name for name in METHODS if name.startswith(("adadiag++", "adafacdiag++"))
    }
    assert use_of(BY_NAME["QR power step"]) == kernels.Use(soap, ("soap", "soap-one-sided"))
    for name in ("online PCA, autograd", "online PCA, closed form"):
        assert use_of(BY_NAME[name]) == kernels.Use(1, ("osd", "osd-two-sided", "osd-8bit"))


def test_of_different_periods_the_shortest_counts_and_its_methods_are_named(monkeypatch):
    galore = METHODS["galore"]
    quick = dataclasses.replace(galore, options={**galore.options, "period": 7})
    monkeypatch.setitem(METHODS, "galore", quick)
    assert use_of(BY_NAME["svd, thin"]) == kernels.Use(7, ("galore",))


@pytest.mark.parametrize(
    ("kernel", "routines"),
    [
        ("svd, thin", {"gesdd"}),
        ("svd, full", {"gesdd"}),
        ("eigh of the Gram matrix", {"gemm", "syevd"}),
        ("QR power step", {"gemm", "geqrf", "orgqr"}),
        ("randomized svd", {"gemm", "geqrf", "orgqr", "gesdd"}),
        ("online PCA, autograd", {"gemm"}),
        ("online PCA, closed form", {"gemm", "dot"}),
    ],
)
@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="only MKL tells what it ran")
def test_the_named_routines_are_those_that_mkl_says_it_ran(kernel, routines, capfd):
    problem = make_problem(64, 96, 16, CPU)
    with torch.backends.mkl.verbose(torch.backends.mkl.VERBOSE_ON):
        BY_NAME[kernel].run(problem)
    calls = re.findall(r"^MKL_VERBOSE [SD](\w+)\(", capfd.readouterr().out, re.MULTILINE)
    assert {call.lower() for call in calls} == routines
    named, library = library_routine(BY_NAME[kernel], CPU)[:-1].split(" (")
    assert (set(named.split(", ")), library) == (routines, "MKL")


@pytest.mark.parametrize(
    ("build", "library"),
    [
        ("a, LAPACK_INFO=open, b", "OpenBLAS"),
        ("a, BLAS_INFO=accelerate, b", "Accelerate"),
        ("LAPACK_INFO=flexi", "flexi"),
        ("", "LAPACK"),
    ],
)
def test_the_library_is_named_as_the_build_tells_it(monkeypatch, build, library):
    monkeypatch.setattr(torch.__config__, "show", lambda: build)
    assert library_routine(BY_NAME["svd, thin"], CPU) == f"gesdd ({library})"


def test_an_nvidia_gpu_is_named_by_the_driver_chosen_and_other_devices_not_at_all(monkeypatch):
    cuda = torch.device("cuda")
    monkeypatch.setattr(kernels, "_is_cusolver_used", lambda device: True)
    monkeypatch.setattr(torch.version, "hip", None)
    assert library_routine(BY_NAME["svd, thin"], cuda, "gesvda") == "gesvda (cuSOLVER)"
    assert library_routine(BY_NAME["svd, thin"], cuda) == "gesvdj (cuSOLVER)"
    assert library_routine(BY_NAME["eigh of the Gram matrix"], cuda) == "gemm, syevd (cuSOLVER)"
    assert library_routine(ONLINE_PCA, cuda) == "gemm, dot (cuBLAS)"
    monkeypatch.setattr(kernels, "_is_cusolver_used", lambda device: False)  # MAGMA is preferred
    assert library_routine(BY_NAME["svd, thin"], cuda) is None
    assert library_routine(BY_NAME["svd, thin"], torch.device("mps")) is None
    monkeypatch.setattr(kernels, "_is_cusolver_used", lambda device: True)
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert library_routine(BY_NAME["svd, thin"], cuda) is None


def test_a_cpu_takes_no_driver_and_that_is_seen():
    problem = make_problem(4, 6, 2, CPU)
    assert accepted_drivers(BY_NAME["svd, thin"], problem) == []
    assert not is_accurate(BY_NAME["svd, thin"], problem, "gesvd")
    assert not kernels._is_cusolver_used(CPU)


def test_a_driver_is_accurate_where_the_product_of_its_factors_is_the_matrix():
    problem = make_problem(4, 6, 2, CPU)
    noise = {"good": 0.0, "sloppy": 1e-4, "bad": 1e-2}

    for full in (False, True):

        def run(problem, driver, full=full):
            U, S, Vh = torch.linalg.svd(problem.G, full_matrices=full)
            return U, S * (1 + noise[driver]), Vh

        kernel = Kernel("k", run, "gesdd", lambda options: True)
        assert [is_accurate(kernel, problem, driver) for driver in noise] == [True, True, False]


def test_the_fastest_driver_is_kept(monkeypatch):
    taken_ms = {"gesvdj": 3.0, "gesvd": 2.0, "gesvda": 5.0}
    problem = make_problem(4, 6, 2, CPU)
    monkeypatch.setattr(decompositions, "accepted_drivers", lambda kernel, problem: list(taken_ms))
    monkeypatch.setattr(
        decompositions,
        "warmed_up",
        lambda run, device: (Block(run, 1, device), taken_ms[run.args[1]]),
    )
    chosen = fastest(BY_NAME["svd, thin"], problem)
    assert (chosen.driver, chosen.times_ms) == ("gesvd", [2.0])
    assert chosen.block.run.args == (problem, "gesvd")


@pytest.fixture
def clock(monkeypatch):
    """A clock on which a run of a kernel takes as long as the test says, at the shape and at a quarter of it."""

    def install(run_ms, small_ms=None, elapsed=lambda: 0.0):
        def kernel_of(run):
            return next(kernel for kernel in KERNELS if kernel.run is run.func)

        def taken_ms(run):
            is_small = small_ms is not None and run.args[0].G.shape[0] <= SMALL
            return (small_ms if is_small else run_ms)(kernel_of(run))

        monkeypatch.setattr(Block, "sample_ms", lambda self: taken_ms(self.run))
        monkeypatch.setattr(
            decompositions, "warmed_up", lambda run, device: (Block(run, 1, device), taken_ms(run))
        )
        monkeypatch.setattr(decompositions.time, "perf_counter", elapsed)

    return install


SMALL = 4  # a quarter of the 16 x 16 problems below


def test_rows_follow_from_the_times(clock):
    clock(lambda kernel: 10.0 * (KERNELS.index(kernel) + 1))
    times = time_shape((12, 8), 3, 0.25, CPU, budget_s=1e9)
    assert times.skipped == []
    rows = {row.kernel: row for row in times.rows}
    assert list(rows) == list(BY_NAME)
    assert rows["svd, thin"].median_ms == pytest.approx(10)
    assert rows["svd, thin"].times_online_pca == pytest.approx(1 / 7)
    assert rows["svd, thin"].period == METHODS["galore"].defaults["period"]
    assert rows["svd, thin"].ms_per_training_step == pytest.approx(3 * 10 / 200)
    assert rows["svd, thin"].used_by.startswith("galore, galore-8bit, adadiag")
    assert rows["svd, thin"].driver == f"gesdd ({kernels.cpu_library()})"
    assert rows["QR power step"].ms_per_training_step == pytest.approx(3 * 40 / 10)
    assert rows["online PCA, closed form"].ms_per_training_step == pytest.approx(3 * 70)
    assert {(tuple(row.shape), row.rank) for row in times.rows} == {((8, 12), 2)}
    assert {row.iqr_ms for row in times.rows} == {0}
    assert {row.device for row in times.rows} == {device_label(CPU)}


def test_kernels_are_repeated_in_turns_and_summarised_by_median_and_quartiles(clock):
    calls = []

    def milliseconds(kernel):
        calls.append(kernel)
        return 1.0 + calls.count(kernel) % 5

    clock(milliseconds, small_ms=KERNELS.index)
    rows = time_shape((16, 16), 1, 1, CPU, budget_s=1e9).rows
    assert calls == list(KERNELS) * decompositions.MOST_REPEATS
    # Ten rounds of the cycle 1..5: quartiles 2 and 4 around the median 3.
    assert {row.median_ms for row in rows} == {3}
    assert {row.iqr_ms for row in rows} == {2}


def test_a_used_up_budget_ends_the_rounds_but_not_before_three(clock):
    looks = itertools.count()
    # Beginning, then one look before each kernel; after those every look is far beyond the budget.
    late = len(KERNELS) + 1
    calls = []
    clock(
        lambda kernel: calls.append(kernel) or 1e-6,
        small_ms=lambda kernel: 1e-6,
        elapsed=lambda: 0.0 if next(looks) < late else 1e6,
    )
    time_shape((16, 16), 1, 1, CPU, budget_s=50)
    assert len(calls) == len(KERNELS) * decompositions.LEAST_REPEATS


def test_kernels_beyond_the_budget_are_named_and_the_cheap_ones_kept(clock):
    # 64 times the work of a quarter of the shape: 64 s a run, and four are the least.
    clock(lambda kernel: 1e-3, small_ms=lambda kernel: 1e3 if kernel in KERNELS[:2] else 1e-3)
    times = time_shape((16, 16), 1, 4, CPU, budget_s=100)
    assert {row.kernel for row in times.rows} == {kernel.name for kernel in KERNELS[2:]}
    (note,) = times.skipped
    assert note == (
        "left out at 16 x 16 to stay within 100 s: svd, thin (64.0 s a run), svd, full (64.0 s a run)"
    )


def test_what_a_first_run_shows_decides_about_the_next_kernel(clock):
    # Predicted: 64 ms a run, four of which fit in 1 s even after all others. But a run takes 0.2 s, so three later
    # rounds reserve 0.4 s each: two kernels leave 0.2 s, in which no third one's four runs fit.
    clock(lambda kernel: 200.0, small_ms=lambda kernel: 1.0)
    times = time_shape((16, 16), 1, 4, CPU, budget_s=1)
    assert times.rows == []  # the closed form is the last of equals
    (note,) = times.skipped
    assert [name in note for name in BY_NAME] == [False, False, *[True] * 5]


def test_no_rows_where_even_online_pca_costs_too_much():
    times = time_shape((16, 16), 1, 4, CPU, budget_s=0)
    assert times.rows == []
    (note,) = times.skipped
    assert all(kernel.name in note for kernel in KERNELS)


def test_a_block_times_all_its_runs_and_tells_the_time_of_one(monkeypatch):
    ran = []
    monkeypatch.setattr(decompositions, "timed_ms", lambda run, devices: run() or 12.0)
    assert Block(lambda: ran.append(1), 3, CPU).sample_ms() == 4.0
    assert len(ran) == 3


@pytest.mark.parametrize(("threads", "label"), [(1, "cpu, 1 thread"), (3, "cpu, 3 threads")])
def test_the_device_is_named_with_its_threads(monkeypatch, threads, label):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert device_label(CPU) == label


def test_real_times_are_positive_and_relative_to_online_pca(monkeypatch):
    monkeypatch.setattr(decompositions, "MOST_REPEATS", decompositions.LEAST_REPEATS)
    times = time_shape((8, 16), 2, 2, CPU, budget_s=1e9)
    assert times.skipped == []
    assert [row.kernel for row in times.rows] == [kernel.name for kernel in KERNELS]
    assert {tuple(row.shape) for row in times.rows} == {(8, 16)}
    assert all(row.median_ms > 0 and row.iqr_ms >= 0 for row in times.rows)
    reference = [row for row in times.rows if row.kernel == ONLINE_PCA.name]
    assert [row.times_online_pca for row in reference] == [1]
