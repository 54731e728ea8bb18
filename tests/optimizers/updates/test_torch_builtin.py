"""The baselines from torch.optim: the same trajectories to the bit, the same bytes, and what ours add."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from subopt.errors import OptionError
from subopt.optimizers import METHODS, Composed
from subopt.optimizers.state.storage_tracker import StorageTracker
from subopt.optimizers.updates.torch_builtin import TORCH_UPDATES

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
MATRICES = [(6, 10), (10, 6), (7, 7)]
SHAPES = [*MATRICES, (1, 6), (6, 1), (5,), (), (4, 3, 2, 2), (3, 4, 5)]
MUON = [
    ({}, {}),
    ({"betas": (0.8, 0.0)}, {"momentum": 0.8}),
    ({"nesterov": False, "ns_steps": 3, "eps": 1e-3}, {"nesterov": False, "ns_steps": 3, "eps": 1e-3}),
    ({"adjust_lr": "match_rms_adamw"}, {"adjust_lr_fn": "match_rms_adamw"}),
]  # fmt: skip
ADAFACTOR = [
    ({}, {}),
    ({"eps": 1e-4, "eps2": 0.1}, {"eps": (1e-4, 0.1)}),
    ({"beta2_decay": -0.3, "clip_threshold": 2.0}, {"beta2_decay": -0.3, "d": 2.0}),
]


def noise(shape, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def compare(ours, torchs, steps=20):
    """Give both optimizers the same gradients and compare every step to the bit."""
    parameters = [
        [p for group in optimizer.param_groups for p in group["params"]]
        for optimizer in (ours, torchs)
    ]
    start = [p.detach().clone() for p in parameters[0]]
    for step in range(steps):
        for index, pair in enumerate(zip(*parameters, strict=True)):
            for p in pair:
                p.grad = noise(p.shape, 100 * step + index, p.dtype)
        ours.step()
        torchs.step()
        for mine, theirs in zip(*parameters, strict=True):
            assert torch.equal(mine, theirs)
    assert not any(torch.equal(p, s) for p, s in zip(parameters[0], start, strict=True))


def copies(shapes, dtype):
    starts = [noise(shape, seed, dtype) for seed, shape in enumerate(shapes)]
    return [[torch.nn.Parameter(value.clone()) for value in starts] for _ in range(2)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("options", "torchs"), MUON, ids=str)
def test_muon_is_torchs_bit_for_bit_over_20_steps(options, torchs, dtype):
    mine, theirs = copies(MATRICES, dtype)
    compare(
        Composed(mine, 0.02, weight_decay=0.1, **METHODS["muon"].resolve(options)),
        torch.optim.Muon(theirs, 0.02, weight_decay=0.1, **torchs),
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("options", "torchs"), ADAFACTOR, ids=str)
def test_adafactor_is_torchs_bit_for_bit_over_20_steps(options, torchs, dtype):
    mine, theirs = copies(SHAPES, dtype)
    compare(
        Composed(mine, 0.05, weight_decay=0.1, **METHODS["adafactor-torch"].resolve(options)),
        torch.optim.Adafactor(theirs, 0.05, weight_decay=0.1, foreach=False, **torchs),
    )


@pytest.mark.parametrize(
    ("name", "make"),
    [("muon", torch.optim.Muon), ("adafactor-torch", torch.optim.Adafactor)],
)
def test_a_tensor_learning_rate_under_a_schedule_is_torchs(name, make):
    mine, theirs = copies(MATRICES, torch.float32)
    settings = {"weight_decay": 0.1}
    ours = Composed(mine, torch.tensor(0.02), **settings, **METHODS[name].resolve())
    torchs = make(theirs, torch.tensor(0.02), **settings)
    for factor in (1.0, 0.5, 0.25):
        for optimizer in (ours, torchs):
            optimizer.param_groups[0]["lr"].fill_(0.02 * factor)
        compare(ours, torchs, steps=2)


def test_maximize_is_torchs_where_torch_has_it_and_the_mirrored_step_where_not():
    mine, theirs = copies(SHAPES, torch.float32)
    compare(
        Composed(mine, 0.05, maximize=True, **METHODS["adafactor-torch"].resolve()),
        torch.optim.Adafactor(theirs, 0.05, maximize=True, foreach=False),
        steps=3,
    )
    up, down = copies([(6, 10)], torch.float32)
    for (parameter,), sign in ((up, 1), (down, -1)):
        optimizer = Composed([parameter], 0.02, maximize=sign > 0, **METHODS["muon"].resolve())
        parameter.grad = sign * noise((6, 10), 5, torch.float32)
        optimizer.step()
    assert torch.equal(up[0], down[0])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_muon_takes_a_convolution_as_its_out_by_in_kernel_matrix(memory_format):
    start, gradient = noise((6, 4, 3, 3), 0, torch.float32), noise((6, 4, 3, 3), 1, torch.float32)
    convolution = torch.nn.Parameter(start.contiguous(memory_format=memory_format))
    matrix = torch.nn.Parameter(start.reshape(6, 36))
    options = METHODS["muon"].resolve()
    ours, torchs = Composed([convolution], 0.02, **options), torch.optim.Muon([matrix], 0.02, 0.0)
    for _ in range(3):
        convolution.grad = gradient.contiguous(memory_format=memory_format)
        matrix.grad = gradient.reshape(6, 36)
        ours.step()
        torchs.step()
    torch.testing.assert_close(
        convolution.detach().reshape(6, 36), matrix.detach(), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("name", TORCH_UPDATES)
def test_views_of_something_larger_are_stepped_where_they_lie(name):
    """Neither their neighbours move, nor is a copy stepped in their place."""
    whole = noise((6, 4, 3, 6), 0, torch.float32)
    window = torch.nn.Parameter(whole[..., ::2])
    before, untouched = window.detach().clone(), whole[..., 1::2].clone()
    optimizer = Composed([window], 0.02, **METHODS[name].resolve())
    window.grad = noise(window.shape, 1, torch.float32)
    optimizer.step()
    assert (window.detach() - before).abs().min() > 0
    assert torch.equal(whole[..., ::2], window.detach())
    assert torch.equal(whole[..., 1::2], untouched)


def test_vectors_without_a_matrix_get_adam_from_muon():
    mine, theirs = copies([(5,), (), (1, 6), (6, 1)], torch.float64)
    ours = Composed(mine, 0.02, weight_decay=0.1, **METHODS["muon"].resolve())
    torchs = torch.optim.AdamW(theirs, 0.02, weight_decay=0.1)
    for step in range(5):
        for index, pair in enumerate(zip(mine, theirs, strict=True)):
            for p in pair:
                p.grad = noise(p.shape, 10 * step + index)
        ours.step()
        torchs.step()
    for left, right in zip(mine, theirs, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


def torch_state_bytes(optimizer):
    """Bytes of torch's own state, its step count left out."""
    return sum(
        value.nbytes
        for state in optimizer.state.values()
        for name, value in state.items()
        if name != "step"
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("name", "make", "shape"),
    [("muon", torch.optim.Muon, shape) for shape in MATRICES]
    + [("adafactor-torch", torch.optim.Adafactor, shape) for shape in SHAPES],
    ids=str,
)
def test_predicted_bytes_are_those_of_torchs_own_state(name, make, shape, dtype):
    parameter = torch.nn.Parameter(noise(shape, 0, dtype))
    parameter.grad = noise(shape, 1, dtype)
    theirs = make([parameter], 0.01)
    theirs.step()
    expected = torch_state_bytes(theirs)
    assert METHODS[name].state_bytes(shape, dtype, counters=False) == expected


@pytest.mark.parametrize("shape", [(64, 96), (96, 64), (8, 4, 3, 3), (64,)], ids=str)
@pytest.mark.parametrize("name", TORCH_UPDATES)
def test_predicted_temporaries_are_those_of_a_real_step(name, shape):
    """Fake tensors have no numbers for torch's Adafactor to read, so they get an answer that must not matter."""
    method = METHODS[name]
    parameter = torch.nn.Parameter(noise(shape, 0, torch.float32))
    optimizer = Composed([parameter], 0.01, **method.resolve())
    parameter.grad = noise(shape, 1, torch.float32)
    optimizer.step()
    held = [parameter, parameter.grad, *optimizer.state[parameter].values()]
    with StorageTracker() as tracker:
        tracker.file(held, "held")
        optimizer.step()
    real = tracker.peak_bytes[tracker.category]
    assert method.transient_bytes(shape) == real > 0


@pytest.mark.parametrize("name", TORCH_UPDATES)
def test_a_state_dtype_is_refused_rather_than_ignored(name):
    parameter = torch.nn.Parameter(torch.ones(6, 10))
    with pytest.raises(OptionError, match=f"update '{name}' has no option 'state_dtype'"):
        Composed([parameter], **(METHODS[name].resolve() | {"state_dtype": "bf16"}))


@pytest.mark.parametrize("name", TORCH_UPDATES)
def test_a_basis_is_refused(name):
    with pytest.raises(OptionError, match=f"update '{name}' has no option 'basis'"):
        Composed([torch.nn.Parameter(torch.ones(6, 10))], update=name, basis="one-sided")


def test_muons_bound_is_its_newton_schulz_products():
    m, n, steps = 12, 20, 5
    parameter = torch.nn.Parameter(torch.ones(m, n))
    parameter.grad = noise((m, n), 0, torch.float32)
    optimizer = Composed([parameter], 0.02, **METHODS["muon"].resolve({"ns_steps": steps}))
    with FlopCounterMode(display=False) as counter:
        optimizer.step()
    bound = METHODS["muon"].bound_flops((m, n), {"ns_steps": steps})
    assert counter.get_total_flops() == bound == steps * (4 * m * m * n + 2 * m**3)
    assert METHODS["muon"].step_flops((m, n)) > bound
    assert METHODS["adafactor-torch"].bound_flops((m, n)) == 0
