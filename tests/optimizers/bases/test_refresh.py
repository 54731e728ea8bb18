"""Refreshes: the float32 way and the power steps against the exact basis, and layers that take turns."""

import io

import pytest
import torch
from torch import nn

from subopt.errors import OptionError
from subopt.optimizers import METHODS, Composed, FusedBackward, create
from subopt.optimizers.bases import decompositions
from subopt.optimizers.bases.decompositions import gram_basis, left_basis, refined_basis
from subopt.optimizers.updates.basis import phase_of

SIDE, WIDE, RANK = 160, 240, 40  # large enough that float32 is considered


def spectrum(ratio, seed=0, shape=(SIDE, WIDE)):
    """A float32 matrix whose singular values fall from 1 to `ratio`, evenly on a logarithmic scale."""
    generator = torch.Generator().manual_seed(seed)
    U, V = (
        torch.linalg.qr(torch.randn(n, shape[0], generator=generator, dtype=torch.float64))[0]
        for n in shape
    )
    values = torch.logspace(0, torch.tensor(float(ratio)).log10(), shape[0], dtype=torch.float64)
    return ((U * values) @ V.mT).float()


def noise(seed, shape=(SIDE, WIDE)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def exact(G, rank=None):
    wide = G.double()
    return gram_basis(wide @ wide.mT, rank)


def held(P, G):
    return (P.double().mT @ G.double()).square().sum(1)


def assert_orthonormal(P, atol):
    identity = torch.eye(P.shape[1], dtype=torch.float64)
    torch.testing.assert_close(P.double().mT @ P.double(), identity, rtol=0, atol=atol)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("ratio", "in_float32"), [(0.1, True), (1e-6, False)])
@pytest.mark.parametrize("rank", [RANK, None])
def test_small_energies_are_as_exact_as_the_large_ones(
    ratio, in_float32, rank, transposed, monkeypatch
):
    G = spectrum(ratio)
    G = G.mT.contiguous().mT if transposed else G
    solved = []
    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda C: solved.append(C.dtype) or eigh(C))
    P = left_basis(G, rank)
    assert solved == [torch.float32 if in_float32 else torch.float64]
    # What float32 rounds G itself by is 1e-7 of the first singular value.
    torch.testing.assert_close(held(P, G), held(exact(G, rank), G), rtol=1e-3, atol=1e-13)
    assert_orthonormal(P, 1e-5 if in_float32 else 1e-12)


def test_float32_alone_would_lose_small_directions(monkeypatch):
    """What the check is there for: without it the smallest kept energies are off by more than their own size."""
    G = spectrum(1e-6)
    monkeypatch.setattr(decompositions, "_float32_suffices", lambda C, rank: True)
    energies, true = held(left_basis(G), G), held(exact(G), G)
    assert ((energies - true).abs() > true).any()


def test_a_gradient_with_dead_rows_is_solved_in_float64():
    G = spectrum(0.1)
    G[:RANK] = 0
    P = left_basis(G, RANK)
    torch.testing.assert_close(held(P, G), held(exact(G, RANK), G), rtol=1e-9, atol=0)


@pytest.mark.parametrize("ratio", [1e-7, 1e-10])
def test_a_power_step_finds_a_steep_gradients_energy_from_any_basis(ratio, monkeypatch):
    monkeypatch.setattr(decompositions, "left_basis", _unless_anew(SIDE))
    G = spectrum(ratio)
    start, _ = torch.linalg.qr(noise(3, (SIDE, RANK)))
    assert held(start, G).sum() < 0.5 * held(exact(G, RANK), G).sum()
    P = refined_basis(G, start)
    assert P.dtype == torch.float32
    assert_orthonormal(P, 1e-5)
    energies = held(P, G)
    assert energies.sum() >= 0.999 * held(exact(G, RANK), G).sum()
    assert (energies.diff() <= 1e-6 * energies[0]).all()  # in order


def _unless_anew(rows):
    """`left_basis` that fails on a whole gradient: what is left is the eigenvectors of r rows."""

    def checked(G, rank=None):
        assert len(G) < rows, "decomposed anew"
        return left_basis(G, rank)

    return checked


def test_a_basis_that_has_settled_is_kept_under_noise(monkeypatch):
    monkeypatch.setattr(decompositions, "left_basis", _unless_anew(SIDE))
    signal = noise(0, (SIDE, RANK)) @ noise(1, (RANK, WIDE))
    G = signal + 0.1 * signal.std() * noise(2)
    P = refined_basis(G, exact(signal, RANK).float())
    assert held(P, G).sum() >= 0.999 * held(exact(G, RANK), G).sum()


def test_white_noise_is_decomposed_anew():
    G = noise(0)
    P = refined_basis(G, exact(noise(1), RANK).float())
    torch.testing.assert_close(held(P, G), held(exact(G, RANK), G), rtol=1e-4, atol=0)


@pytest.mark.parametrize("source", ["gradient", "momentum"])
def test_galore_follows_by_power_steps_what_exact_refreshes_find(source):
    """Gradients of one fixed column space: either way the basis holds all of it."""
    left = noise(0, (SIDE, RANK))
    options = {"rank": RANK, "period": 2, "early_refresh": False, "source": source}
    for solver in ("power", "exact"):
        parameter = nn.Parameter(torch.zeros(SIDE, WIDE))
        resolved = METHODS["galore"].resolve({**options, "solver": solver})
        optimizer = Composed([parameter], 1e-2, **resolved)
        for seed in range(5):
            parameter.grad = left @ noise(seed + 1, (RANK, WIDE))
            optimizer.step()
        state = optimizer.state[parameter]
        assert int(state["refreshes"]) == 3
        energies = held(state["basis_left"], parameter.grad)
        assert energies.sum() == pytest.approx(float(parameter.grad.square().sum()), rel=1e-4)


def test_a_power_step_of_all_directions_diagonalises_more_than_the_basis_it_starts_from():
    def off_diagonal(P, G):
        C = P.double().mT @ G.double()
        C = C @ C.mT
        return float((C.square().sum() - C.diagonal().square().sum()) / C.square().sum())

    first, second = spectrum(1e-3), spectrum(1e-3)
    second = second + 0.02 * spectrum(1e-3, 1)
    options = {"period": 1, "early_refresh": False, "solver": "power"}
    parameter = nn.Parameter(torch.zeros(SIDE, WIDE))
    optimizer = Composed([parameter], 1e-2, **METHODS["adadiag"].resolve(options))
    parameter.grad = first
    optimizer.step()
    before = optimizer.state[parameter]["basis_left"].clone()
    parameter.grad = second
    optimizer.step()
    after = optimizer.state[parameter]["basis_left"]
    assert_orthonormal(after, 1e-5)
    assert off_diagonal(after, second) < 0.5 * off_diagonal(before, second)


def test_power_steps_of_two_sided_gradients_are_refused():
    with pytest.raises(OptionError, match="of one side"):
        METHODS["adadiag++"].resolve({"solver": "power"})


def refreshed_at(optimizer, parameters, steps, first=1):
    """The steps at which each parameter's basis changed."""
    found = [[] for _ in parameters]
    for t in range(first, first + steps):
        for index, parameter in enumerate(parameters):
            parameter.grad = noise(100 * t + index, parameter.shape)
        before = [int(s.get("refreshes", 0)) for s in map(optimizer.state.get, parameters) if s]
        optimizer.step()
        after = [int(optimizer.state[p].get("refreshes", 0)) for p in parameters]
        for index, count in enumerate(after):
            if count > (before[index] if before else 0):
                found[index].append(t)
    return found


def test_layers_take_turns_within_a_period():
    parameters = [nn.Parameter(torch.ones(6, 10)) for _ in range(4)]
    optimizer = Composed(
        parameters, **METHODS["galore"].resolve({"period": 8, "stagger": True, "rank": 2})
    )
    assert refreshed_at(optimizer, parameters, 26) == [
        [1, 9, 17, 25],
        [1, 3, 11, 19],
        [1, 5, 13, 21],
        [1, 7, 15, 23],
    ]


@pytest.mark.parametrize("name", ["soap", "adadiag", "adadiag++"])
def test_a_period_shorter_than_the_model_is_shared_evenly(name):
    parameters = [nn.Parameter(torch.ones(4, 5)) for _ in range(7)]
    optimizer = Composed(parameters, **METHODS[name].resolve({"period": 3, "stagger": True}))
    steps = refreshed_at(optimizer, parameters, 13)
    at_once = [sum(t in each for each in steps) for t in range(5, 14)]
    assert set(at_once) == {2, 3}
    assert sum(at_once) == 3 * 7


def test_one_parameter_refreshes_as_without_turns():
    trajectories = []
    for stagger in (False, True):
        parameter = nn.Parameter(torch.ones(6, 10))
        options = {"period": 3, "early_refresh": False, "stagger": stagger}
        optimizer = Composed([parameter], 1e-2, **METHODS["adadiag"].resolve(options))
        assert refreshed_at(optimizer, [parameter], 8) == [[1, 4, 7]]
        trajectories.append(parameter.detach())
    assert torch.equal(*trajectories)


def test_turns_count_the_matrices_of_all_groups_that_take_them():
    a, b, c, d = (nn.Parameter(torch.ones(4, 5)) for _ in range(4))
    vector = nn.Parameter(torch.ones(5))
    groups = [
        {"params": [a, vector, b], "period": 30, "stagger": True},
        {"params": [c], "period": 30, "stagger": False},
        {"params": [d], "period": 12, "stagger": True},
    ]
    assert [phase_of(p, groups) for p in (a, b, d)] == [0, 10, 8]
    with pytest.raises(ValueError, match="no group that staggers"):
        phase_of(c, groups)


def model_of_turns():
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))


def trained(model, optimizer, first, last):
    for t in range(first, last):
        model(noise(t, (5, 8))).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", ["galore", "soap"])
def test_turns_survive_a_checkpoint_and_updates_in_the_backward_pass(name):
    def fresh():
        model = model_of_turns()
        return model, create(name, model, lr=1e-2, period=5, stagger=True)

    whole, optimizer = fresh()
    trained(whole, optimizer, 0, 12)
    half, optimizer = fresh()
    trained(half, optimizer, 0, 4)
    saved = io.BytesIO()
    torch.save([half.state_dict(), optimizer.state_dict()], saved)
    saved.seek(0)
    resumed, optimizer = fresh()
    weights, state = torch.load(saved, weights_only=True)
    resumed.load_state_dict(weights)
    optimizer.load_state_dict(state)
    trained(resumed, optimizer, 4, 12)
    fused, optimizer = fresh()
    FusedBackward(optimizer).attach()
    trained(fused, optimizer, 0, 12)
    phases = [int(s["phase"]) for s in optimizer.state.values() if "phase" in s]
    assert sorted(phases) == [0, 1, 2, 3]
    for other in (resumed, fused):
        for mine, theirs in zip(whole.parameters(), other.parameters(), strict=True):
            assert torch.equal(mine, theirs)


def test_a_phase_is_a_counter_of_four_bytes():
    plain, turns = (
        METHODS["galore"].state_bytes((6, 10), options={"stagger": stagger})
        for stagger in (False, True)
    )
    assert turns - plain == 4
