"""The decomposition kernels do what their names say; rows and notes follow from the measured times."""

import itertools

import pytest
import torch

from subopt.optimizers.online_pca import pca_gradient
from subopt.profilers import decompositions
from subopt.profilers.decompositions import (
    KERNELS,
    ONLINE_PCA,
    Periods,
    Problem,
    device_label,
    make_problem,
    pca_autograd,
    qr_power_step,
    time_shape,
)

CPU = torch.device("cpu")


def doubled(problem):
    return Problem(problem.G.double(), problem.P.double(), problem.B.double())


def test_the_problem_is_orthonormal_reproducible_and_of_the_rank_asked_for():
    problem, again = make_problem(8, 12, 0.25, CPU), make_problem(8, 12, 2, CPU)
    assert torch.equal(problem.G, again.G)
    assert problem.B.shape == (8, 2)
    torch.testing.assert_close(problem.P.T @ problem.P, torch.eye(8))
    torch.testing.assert_close(problem.B, problem.P[:, :2])
    assert problem.B.is_contiguous()


def test_autograd_of_the_loss_equals_finite_differences_and_the_closed_form():
    problem = doubled(make_problem(4, 5, 2, CPU))
    B, G = problem.B + 0.1, problem.G / problem.G.norm()

    def loss(B):
        excess = B.T @ B - torch.eye(2, dtype=torch.float64)
        return (B @ B.T @ G - G).square().sum() + 0.1 * excess.square().sum()

    found = pca_autograd(Problem(problem.G, problem.P, B))
    for i in range(4):
        for j in range(2):
            step = torch.zeros_like(B)
            step[i, j] = 1e-6
            assert float(found[i, j]) == pytest.approx(
                float(loss(B + step) - loss(B - step)) / 2e-6, abs=1e-7
            )
    torch.testing.assert_close(found, pca_gradient(B, problem.G, 0.1), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found, ONLINE_PCA.run(Problem(problem.G, problem.P, B)))


def test_repeated_power_steps_reach_the_singular_vectors():
    problem = doubled(make_problem(5, 9, 2, CPU))
    P = problem.P
    for _ in range(300):
        P = qr_power_step(Problem(problem.G, P, problem.B))
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


@pytest.fixture
def pretend(monkeypatch):
    """Let a function of the kernel stand in for the clock."""

    def install(milliseconds):
        monkeypatch.setattr(decompositions, "_timer", lambda kernel, problem: kernel)
        monkeypatch.setattr(decompositions, "_sample_ms", milliseconds)

    return install


def test_rows_follow_from_the_times(pretend):
    pretend(lambda kernel: 10.0 * (KERNELS.index(kernel) + 1))
    times = time_shape((12, 8), 3, 0.25, Periods(refresh=50, power=5), CPU, budget_s=1e9)
    assert times.skipped == []
    rows = {row.kernel: row for row in times.rows}
    assert list(rows) == [kernel.name for kernel in KERNELS]
    assert rows["svd, thin"].median_ms == pytest.approx(10)
    assert rows["svd, thin"].times_online_pca == pytest.approx(1 / 7)
    assert rows["svd, thin"].ms_per_training_step == pytest.approx(3 * 10 / 50)
    assert rows["QR power step"].ms_per_training_step == pytest.approx(3 * 40 / 5)
    assert rows["online PCA, closed form"].ms_per_training_step == pytest.approx(3 * 70)
    assert {(tuple(row.shape), row.rank) for row in times.rows} == {((8, 12), 2)}
    assert {row.iqr_ms for row in times.rows} == {0}
    assert {row.device for row in times.rows} == {device_label(CPU)}


def test_kernels_are_repeated_in_turns_and_summarised_by_median_and_quartiles(pretend):
    calls = []

    def clock(kernel):
        calls.append(kernel)
        return 1.0 + len(calls) % 5

    pretend(clock)
    rows = time_shape((4, 4), 1, 1, Periods(), CPU, budget_s=1e9).rows
    assert calls == list(KERNELS) * (1 + decompositions.MOST_REPEATS)
    # Ten rounds of the cycle 1..5: quartiles 2 and 4 around the median 3.
    assert {row.median_ms for row in rows} == {3}
    assert {row.iqr_ms for row in rows} == {2}


def test_a_used_up_budget_ends_the_rounds_but_not_before_three(pretend, monkeypatch):
    seconds = itertools.count(step=100.0)
    monkeypatch.setattr(decompositions.time, "perf_counter", lambda: next(seconds))
    calls = []

    def clock(kernel):
        calls.append(kernel)
        return 1e-6

    pretend(clock)
    time_shape((4, 4), 1, 1, Periods(), CPU, budget_s=50)
    assert calls == list(KERNELS) * (1 + decompositions.LEAST_REPEATS)


def test_kernels_beyond_the_budget_are_named_and_the_cheap_ones_kept(pretend):
    pretend(lambda kernel: 1e3 if kernel in KERNELS[:2] else 1e-3)
    times = time_shape((16, 16), 1, 4, Periods(), CPU, budget_s=10)
    assert {row.kernel for row in times.rows} == {kernel.name for kernel in KERNELS[2:]}
    (note,) = times.skipped
    assert note == (
        "left out at 16 x 16 to stay within 10 s: svd, thin (64.0 s a run), svd, full (64.0 s a run)"
    )


def test_the_budget_is_shared_by_the_kernels(pretend):
    # A quarter of the shape takes 1 ms, so a run takes 64 ms, and three repeats of two runs 0.384 s: two fit in 1 s.
    pretend(lambda kernel: 1.0 if kernel is not ONLINE_PCA else 0.1)
    times = time_shape((16, 16), 1, 4, Periods(), CPU, budget_s=1)
    assert len(times.rows) == 3
    (note,) = times.skipped
    assert [kernel.name in note for kernel in KERNELS].count(True) == len(KERNELS) - 3


def test_no_rows_where_even_online_pca_costs_too_much():
    times = time_shape((16, 16), 1, 4, Periods(), CPU, budget_s=0)
    assert times.rows == []
    (note,) = times.skipped
    assert all(kernel.name in note for kernel in KERNELS)


@pytest.mark.parametrize(("threads", "label"), [(1, "cpu, 1 thread"), (3, "cpu, 3 threads")])
def test_the_device_is_named_with_its_threads(monkeypatch, threads, label):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert device_label(CPU) == label


def test_real_times_are_positive_and_relative_to_online_pca(monkeypatch):
    monkeypatch.setattr(decompositions, "MOST_REPEATS", decompositions.LEAST_REPEATS)
    times = time_shape((8, 16), 2, 2, Periods(), CPU, budget_s=1e9)
    assert times.skipped == []
    assert [row.kernel for row in times.rows] == [kernel.name for kernel in KERNELS]
    assert {tuple(row.shape) for row in times.rows} == {(8, 16)}
    assert all(row.median_ms > 0 and row.iqr_ms >= 0 for row in times.rows)
    reference = [row for row in times.rows if row.kernel == ONLINE_PCA.name]
    assert [row.times_online_pca for row in reference] == [1]
