"""Moments in blocks of 8-bit codes: what they hold, what they take, and that everything works on them."""

import copy
import importlib.util
import io
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses import FakeTensorMode

from subopt.errors import OptionError
from subopt.optimizers import METHODS, Composed, create, stored_bytes
from subopt.optimizers.state import low_bit
from subopt.optimizers.state.storage_tracker import StorageTracker
from subopt.optimizers.updates.averages import average, average_square

_spec = importlib.util.spec_from_file_location(
    "reference_block_codes", Path(__file__).parents[2] / "reference" / "block_codes.py"
)
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

CPU = torch.device("cpu")
LOW_BIT = ["adamw-8bit", "galore-8bit", "osd-8bit"]
# Every option set that tests try of every method that can keep its moments in 8 bits.
CASES = [
    (name, {**options, **({} if "state_dtype" in method.fixed else {"state_dtype": "8bit"})})
    for name, method in METHODS.items()
    if "state_dtype" in {*method.tunable, *method.fixed} and not method.layers
    for options in method.test_inputs
]
FIRST = list({name: (name, options) for name, options in reversed(CASES)}.values())
# Whole blocks, tall, a convolution, a vector; then too small, and no whole number of blocks.
SHAPES = [(128, 64), (16, 16, 4, 4), (4096,), (32, 32), (60, 100)]


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def spread(*shape, signed=True, seed=0):
    """Values over eight decades, some of them zero."""
    exponents = -8 * torch.rand(shape, generator=torch.Generator().manual_seed(seed + 1))
    values = normal(*shape, seed=seed) * 10**exponents
    values.view(-1)[::17] = 0.0
    return values if signed else values.square()


def run(name, sequence, options=None, dtype=torch.float32, **rest):
    """Train a parameter of zeros on gradients; return it and its optimizer."""
    sequence = list(sequence)
    parameter = torch.nn.Parameter(torch.zeros(sequence[0].shape, dtype=dtype))
    optimizer = Composed([parameter], 1e-2, **METHODS[name].resolve(options), **rest)
    for gradient in sequence:
        parameter.grad = gradient.to(dtype)
        optimizer.step()
    return parameter.detach(), optimizer


def gradients(shape, count, seed=0):
    return [normal(*shape, seed=seed + step) for step in range(count)]


def only_state(optimizer):
    return next(iter(optimizer.state.values()))


# What a state holds


@pytest.mark.parametrize("signed", [True, False])
def test_what_is_written_is_the_nearest_level_of_the_blocks_largest(signed):
    values = spread(32, 256, signed=signed)
    buffer = low_bit.zeros((32, 256), CPU, signed=signed)
    low_bit.write(buffer, values)
    kept = low_bit.read(buffer, torch.float64).numpy()
    expected = reference.stored(values.double().numpy(), signed)
    largest = np.abs(values.numpy()).max(1, keepdims=True)
    np.testing.assert_allclose(kept / largest, expected / largest, rtol=0, atol=2e-7)


@pytest.mark.parametrize("signed", [True, False])
def test_no_error_exceeds_half_the_widest_gap_between_levels(signed):
    values = normal(64, 256) if signed else normal(64, 256).square()
    buffer = low_bit.zeros((64, 256), CPU, signed=signed)
    low_bit.write(buffer, values)
    error = (low_bit.read(buffer, torch.float32) - values).abs()
    # [0.1, 1] is cut into 64 levels on either side of zero, or into 128.
    half = 0.9 / (128 if signed else 256)
    bound = half * values.abs().amax(1, keepdim=True)
    assert (error <= bound * (1 + 1e-5)).all()
    assert (error > 0.9 * bound).any()


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_codes_are_torchaos_whatever_the_pieces(signed, dtype, monkeypatch):
    monkeypatch.setattr(low_bit, "_PIECE", 3 * low_bit.BLOCK)
    values = spread(64, 256, signed=signed).to(dtype)
    # Every boundary between two codes, and its neighbours, in blocks whose largest is 1.
    bounds = low_bit._bounds(low_bit.zeros((256,), CPU, signed=signed).qmap)
    for row, offset in enumerate((-torch.inf, 0, torch.inf)):
        near = bounds if offset == 0 else bounds.nextafter(torch.tensor(offset))
        values[row, :255], values[row, 255] = near.to(dtype), 1.0
    ours, theirs = (low_bit.zeros(values.shape, CPU, signed=signed) for _ in range(2))
    low_bit.write(ours, values)
    theirs.copy_(values.float())
    if not signed:
        lost = (values > 0) & (theirs.codes == 0)
        assert lost.any()
        theirs.codes[lost] = 1
    assert torch.equal(ours.codes, theirs.codes)
    assert torch.equal(ours.scale, theirs.scale)
    assert torch.equal(low_bit.read(ours, torch.float32), theirs.dequantize())


def test_adam_does_not_leap_where_a_block_spans_many_decades():
    # Gradients of 1e-6 to 1, then none: the second moments of the small ones are below the least level.
    sequence = [torch.logspace(-6, 0, 4096).view(64, 64)] + [torch.zeros(64, 64)] * 5
    low, _ = run("adamw-8bit", sequence)
    full, _ = run("adamw", sequence)
    assert low.abs().max() <= 1.05 * full.abs().max()


def test_transposed_values_are_written_where_they_belong():
    values = normal(128, 64)
    straight, turned = (low_bit.zeros((64, 128), CPU, signed=True) for _ in range(2))
    low_bit.write(straight, values.mT.contiguous())
    low_bit.write(turned, values.mT)
    assert torch.equal(straight.codes, turned.codes)


@pytest.mark.parametrize("magnitude", [0.0, 1e-38, 1e-20, 1e18])
def test_blocks_of_any_magnitude_are_kept_and_finite(magnitude):
    values = normal(16, 256) * magnitude
    buffer = low_bit.zeros((16, 256), CPU, signed=True)
    low_bit.write(buffer, values)
    kept = low_bit.read(buffer, torch.float32)
    assert torch.isfinite(kept).all()
    torch.testing.assert_close(kept, values, rtol=0, atol=0.0071 * values.abs().max().item())


def test_float64_moments_beyond_float32_are_cut_and_not_lost():
    buffer = low_bit.zeros((16, 256), CPU, signed=True)
    low_bit.write(buffer, normal(16, 256).double() * 1e60)
    kept = low_bit.read(buffer, torch.float64)
    assert torch.isfinite(kept).all()
    assert (kept.abs() > 3e38).any()


@pytest.mark.parametrize(
    ("shape", "size"),
    [((16, 256), 256), ((500, 1000), 250), ((7, 9, 65), 195), ((4099, 1), None), ((16, 255), None)],
    ids=str,
)
def test_blocks_are_the_largest_that_divide_a_tensor(shape, size, monkeypatch):
    elements = torch.Size(shape).numel()
    assert low_bit.suits(shape) == (size is not None and elements >= 4096)
    if not low_bit.suits(shape):
        return
    monkeypatch.setattr(low_bit, "_PIECE", 1000)
    buffer = low_bit.zeros(shape, CPU, signed=True)
    assert buffer.block_size == size
    assert stored_bytes(buffer) == elements + 4 * (elements // size) + 1024
    values = normal(*shape)
    low_bit.write(buffer, values)
    theirs = low_bit.zeros(shape, CPU, signed=True)
    theirs.copy_(values)
    assert torch.equal(buffer.codes, theirs.codes)
    assert torch.equal(low_bit.read(buffer, torch.float32), theirs.dequantize())
    largest = values.reshape(-1, size).abs().amax(1).repeat_interleave(size).view(shape)
    assert ((low_bit.read(buffer, torch.float32) - values).abs() <= 0.0071 * largest).all()


def test_a_cleared_state_is_that_of_the_start():
    buffer = low_bit.zeros((16, 256), CPU, signed=True)
    low_bit.write(buffer, normal(16, 256))
    low_bit.clear(buffer)
    assert torch.equal(low_bit.read(buffer, torch.float32), torch.zeros(16, 256))


@pytest.mark.parametrize("default", [torch.bfloat16, torch.float64], ids=str)
def test_levels_do_not_depend_on_where_torchao_is_first_needed(default):
    low_bit.require()
    subclass_8bit = sys.modules["torchao.optim.subclass_8bit"]
    before = [subclass_8bit.get_qmap_signed(), subclass_8bit.get_qmap_unsigned()]
    for cached in (low_bit.require, subclass_8bit.get_qmap_signed, subclass_8bit.get_qmap_unsigned):
        cached.cache_clear()
    torch.set_default_dtype(default)
    try:
        with FakeTensorMode(), torch.device("meta"):
            low_bit.require()
        low_bit._tables.cache_clear()
        buffer = low_bit.zeros((16, 256), CPU, signed=True)
        low_bit.write(buffer, normal(16, 256))
    finally:
        torch.set_default_dtype(torch.float32)
    assert stored_bytes(buffer) == low_bit.blocked_bytes((16, 256))
    other = low_bit.zeros((16, 256), CPU, signed=True)
    other.copy_(normal(16, 256))
    assert torch.equal(buffer.codes, other.codes)
    assert [subclass_8bit.get_qmap_signed(), subclass_8bit.get_qmap_unsigned()] == before


# The same as in full precision, and as torchao's


@pytest.mark.parametrize("name", ["adamw", "adafactor", "lion", "momentum"])
def test_with_exact_codes_it_is_full_precision_bit_for_bit(name):
    # A block holds one positive value or zero, a new one at each step: the codes of 1 and 0. Adafactor, whose step is a
    # row's times a column's, gets a value for each row.
    heights = [0.5 + normal(64, 1, seed=step).abs() for step in range(20)]
    sequence = [height.expand(64, 256) for height in heights]
    if name != "adafactor":
        sequence = [gradient * (normal(64, 256, seed=99) > 0) for gradient in sequence]
    low, optimizer = run(name, sequence, {"state_dtype": "8bit"}, weight_decay=0.1)
    full, _ = run(name, sequence, weight_decay=0.1)
    assert low_bit.stored_dtype(only_state(optimizer)["exp_avg"]) == low_bit.CODES
    assert torch.equal(low, full)
    assert not torch.equal(full, torch.zeros_like(full))


@pytest.mark.parametrize("name", ["adamw", "lion", "momentum"])
def test_every_signed_code_is_exact_at_a_steady_gradient(name):
    # Powers of two times levels. After a first step without memory the averages are where they will stay; Adam's second
    # moment is this step's alone.
    levels = low_bit.zeros((256,), CPU, signed=True).qmap
    scales = 2.0 ** torch.arange(-8, 8)[:, None]
    gradient = levels[torch.randperm(256, generator=torch.Generator().manual_seed(0))] * scales
    results = []
    for state_dtype in ("8bit", "fp32"):
        parameter, optimizer = fresh_zeros(name, gradient, state_dtype)
        for step in range(10):
            optimizer.param_groups[0]["betas"] = AFTERWARDS[name] if step else (0.0, 0.0)
            parameter.grad = gradient.clone()
            optimizer.step()
        results.append(parameter.detach())
        momentum = low_bit.read(optimizer.state[parameter]["exp_avg"], torch.float32)
        assert torch.equal(momentum, gradient)
        assert momentum.unique().numel() > 256
    assert torch.equal(*results)


AFTERWARDS = {"adamw": (0.9, 0.0), "lion": (0.9, 0.99), "momentum": (0.9, 0.0)}


def fresh_zeros(name, like, state_dtype):
    parameter = torch.nn.Parameter(torch.zeros_like(like))
    options = METHODS[name].resolve({"state_dtype": state_dtype})
    return parameter, Composed([parameter], 1e-2, **options)


def test_adam_follows_the_reference():
    oracle, W = reference.Adam((16, 256)), np.zeros((16, 256))
    sequence = [g * torch.logspace(-3, 0, 256) for g in gradients((16, 256), 8)]
    for gradient in sequence:
        W -= 0.01 * oracle.step(gradient.double().numpy())
    parameter, optimizer = run("adamw-8bit", sequence, dtype=torch.float64)
    # Levels and scales are float32.
    np.testing.assert_allclose(parameter.numpy(), W, rtol=0, atol=1e-7)
    kept = low_bit.read(only_state(optimizer)["exp_avg_sq"], torch.float64).numpy()
    np.testing.assert_allclose(kept * (1 - 0.999**8), oracle.V, rtol=1e-5, atol=1e-12)


def test_adam_follows_torchaos():
    from torchao.optim.adam import single_param_adam  # the step of its AdamW8bit, not compiled

    M, V = (low_bit.zeros((64, 256), CPU, signed=signed) for signed in (True, False))
    sequence = [g * torch.logspace(-2, 0, 64)[:, None] for g in gradients((64, 256), 30)]
    theirs = torch.zeros(64, 256)
    for step, gradient in enumerate(sequence, start=1):
        single_param_adam(
            theirs, gradient, torch.tensor(float(step)), M, V, None, torch.tensor(1e-2),
            0.9, 0.999, 0.1, 1e-8, IS_ADAMW=True, BF16_STOCHASTIC_ROUND=False,
        )  # fmt: skip
    ours, optimizer = run("adamw-8bit", sequence, weight_decay=0.1)
    # Theirs corrects the bias after the average, ours within it: equal up to float32 rounding, which near the middle of
    # two levels can change a code now and then. A changed code of M moves a weight by lr / 100.
    state = only_state(optimizer)
    for mine, other in ((state["exp_avg"], M), (state["exp_avg_sq"], V)):
        assert (mine.codes != other.codes).sum() <= 3
    error = (ours - theirs).abs()
    assert (error > 1e-5).sum() <= 10
    assert error.max() < 2e-3


# What is kept, and its bytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", LOW_BIT)
def test_large_moments_are_codes_small_ones_and_bases_are_not(name, dtype):
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    for shape, in_codes in (((128, 256), True), ((16, 16), False)):
        _, optimizer = run(name, gradients(shape, 3), dtype=dtype)
        state = only_state(optimizer)
        kinds = {key: low_bit.stored_dtype(value) for key, value in state.items()}
        moments = {key for key in kinds if "exp_avg" in key}
        assert {kinds[key] for key in moments} == {low_bit.CODES if in_codes else compute}
        assert kinds.get("basis_left", compute) == compute
        if in_codes:
            assert {key for key in moments if not state[key].signed} == {
                key for key in moments if key.endswith("_sq")
            }


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [(name, options, (64, 128)) for name, options in CASES]
    + [(name, options, shape) for name, options in FIRST for shape in SHAPES],
    ids=str,
)
def test_predicted_bytes_are_the_real_ones(name, options, shape):
    method = METHODS[name]
    _, optimizer = run(name, gradients(shape, 3), options)
    parts = [part for value in only_state(optimizer).values() for part in low_bit.parts(value)]
    storages = {part.untyped_storage()._cdata: part.untyped_storage().nbytes() for part in parts}
    assert sum(storages.values()) == method.state_bytes(shape, options=options)
    assert sum(storages.values()) == sum(map(stored_bytes, only_state(optimizer).values()))


@pytest.mark.parametrize(
    ("name", "quantised", "whole"),
    [
        ("adamw-8bit", [1024 * 2048] * 2, 0),
        ("galore-8bit", [256 * 2048] * 2, 1024 * 256),
        ("osd-8bit", [256 * 2048] * 2 + [1024 * 256] * 2, 1024 * 256),
    ],
)
def test_bytes_are_codes_scales_and_levels(name, quantised, whole):
    expected = 4 * whole + sum(n + 4 * n // 256 + 1024 for n in quantised)
    assert METHODS[name].state_bytes((1024, 2048), counters=False) == expected


def test_the_fallback_keeps_large_tensors_in_codes_too():
    method = METHODS["galore-8bit"]
    n = 512 * 64
    assert method.fallback_state_bytes((512, 64), counters=False) == 2 * (n + n // 64 + 1024)
    assert method.fallback_state_bytes((64,), torch.bfloat16, counters=False) == 2 * 64 * 4


def test_a_rule_keeps_embeddings_in_full_precision():
    model = torch.nn.Sequential(torch.nn.Embedding(512, 64), torch.nn.Linear(64, 64))
    for name in LOW_BIT:
        rule = {"pattern": "0.weight", "options": {"state_dtype": "fp32"}}
        optimizer = create(name, model, overrides=[rule])
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        table, matrix = (optimizer.state[layer.weight] for layer in model)
        assert low_bit.stored_dtype(table["exp_avg"]) == torch.float32
        assert low_bit.stored_dtype(matrix["exp_avg"]) == (
            low_bit.CODES if name == "adamw-8bit" else torch.float32
        )


# Checkpoints, copies, refusals


def advance(name, parameters, optimizer, first, last):
    for step in range(first, last):
        for index, parameter in enumerate(parameters):
            parameter.grad = normal(*parameter.shape, seed=10 * step + index).to(parameter.dtype)
        optimizer.step()


def fresh(name, options=None, dtype=torch.float32):
    shapes = [(128, 64), (64, 128), (6, 10), (5,)]
    values = [normal(*shape, seed=index).to(dtype) for index, shape in enumerate(shapes)]
    parameters = [torch.nn.Parameter(value) for value in values]
    return parameters, Composed(parameters, 1e-2, **METHODS[name].resolve(options))


def saved_and_loaded(content):
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    ("name", "options", "dtype"),
    [(name, options, torch.float32) for name, options in FIRST]
    + [(name, {}, dtype) for name in LOW_BIT for dtype in (torch.bfloat16, torch.float64)],
    ids=str,
)
def test_a_checkpoint_resumes_bit_for_bit(name, options, dtype):
    whole, optimizer = fresh(name, options, dtype)
    advance(name, whole, optimizer, 0, 4)
    held = [parameter.detach().clone() for parameter in whole]
    loaded = saved_and_loaded(optimizer.state_dict())
    advance(name, whole, optimizer, 4, 6)
    resumed, optimizer = fresh(name, options, dtype)
    for parameter, value in zip(resumed, held, strict=True):
        parameter.data.copy_(value)
    optimizer.load_state_dict(loaded)
    advance(name, resumed, optimizer, 4, 6)
    for left, right in zip(whole, resumed, strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
@pytest.mark.parametrize("name", LOW_BIT)
def test_copies_go_on_alike_and_share_nothing(name, duplicate):
    parameters, optimizer = fresh(name)
    advance(name, parameters, optimizer, 0, 3)
    twin = duplicate(optimizer)
    others = twin.param_groups[0]["params"]
    advance(name, parameters, optimizer, 3, 5)
    for key, value in only_state(twin).items():
        assert type(value) is type(only_state(optimizer)[key])
    advance(name, others, twin, 3, 5)
    for left, right in zip(parameters, others, strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize(("saved", "loading"), [("adamw", "adamw-8bit"), ("adamw-8bit", "adamw")])
def test_a_state_in_another_storage_is_refused(saved, loading):
    parameters, first = fresh(saved)
    advance(saved, parameters, first, 0, 1)
    _, second = fresh(loading)
    with pytest.raises(ValueError, match="exp_avg, exp_avg_sq differ"):
        second.load_state_dict(first.state_dict())


def test_a_state_moves_to_the_parameters_device():
    parameters, optimizer = fresh("adamw-8bit")
    advance("adamw-8bit", parameters, optimizer, 0, 1)
    elsewhere = [torch.nn.Parameter(torch.empty_like(p, device="meta")) for p in parameters]
    moved = Composed(elsewhere, 1e-2, **METHODS["adamw-8bit"].resolve())
    moved.load_state_dict(optimizer.state_dict())
    buffer = moved.state[elsewhere[0]]["exp_avg"]
    assert low_bit.stored_dtype(buffer) == low_bit.CODES
    assert {part.device.type for part in low_bit.parts(buffer)} == {"meta"}


def test_without_torchao_the_message_says_what_to_install(monkeypatch):
    low_bit.require.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "torchao"]:
        monkeypatch.setitem(sys.modules, name, None)
    parameter = torch.nn.Parameter(torch.zeros(4, 4))
    with pytest.raises(OptionError, match="needs the package torchao") as caught:
        Composed([parameter], 1e-2, state_dtype="8bit")
    assert "pip install 'subopt[lowbit]'" in str(caught.value.hint)
    assert METHODS["adamw-8bit"].state_bytes((64, 64)) < METHODS["adamw"].state_bytes((64, 64))
    Composed([parameter], 1e-2)  # everything else works


# Everything else works on it


@pytest.mark.parametrize("on_refresh", ["rotate", "reset"])
def test_moments_are_carried_across_a_refresh(on_refresh):
    options = {"period": 2, "on_refresh": on_refresh, "early_refresh": False}
    sequence = gradients((64, 256), 5)
    low, optimizer = run("galore-8bit", sequence, options)
    full, _ = run("galore", sequence, options)
    assert int(only_state(optimizer)["refreshes"]) == 3
    assert ((low - full).norm() / full.norm()) < 0.02


def test_a_basis_can_be_fitted_to_a_momentum_in_codes():
    options = {"source": "momentum", "period": 2}
    strong = torch.linalg.qr(normal(64, 16)).Q @ (20 * normal(16, 256))
    sequence = [strong + 0.3 * g for g in gradients((64, 256), 5, seed=1)]
    spans = []
    for name in ("galore-8bit", "galore"):
        state = only_state(run(name, sequence, options)[1])
        assert int(state["refreshes"]) == 3
        spans.append(state["basis_left"] @ state["basis_left"].mT)
    assert torch.linalg.matrix_norm(spans[0] - spans[1], 2) < 0.01


@pytest.mark.parametrize(
    ("name", "options", "dtype"),
    [
        (name, {}, dtype)
        for name in LOW_BIT
        for dtype in (torch.float32, torch.bfloat16, torch.float64)
    ]
    + [
        (name, {"state_dtype": "8bit"}, torch.float32)
        for name in ("adafactor", "lion", "momentum", "adadiag", "adadiag++", "soap")
    ],
    ids=str,
)
def test_training_reaches_the_loss_of_full_precision(name, options, dtype):
    losses = {}
    for storage in ("8bit", "fp32"):
        base = METHODS[name.removesuffix("-8bit")] if storage == "fp32" else METHODS[name]
        wanted = {**options, "state_dtype": storage} if "state_dtype" in options else options
        torch.manual_seed(0)
        x, W = torch.randn(64, 96), torch.randn(96, 64) / 10
        parameter = torch.nn.Parameter(torch.zeros(96, 64, dtype=dtype))
        optimizer = Composed([parameter], 1e-2, **base.resolve(wanted))
        for _ in range(25):
            optimizer.zero_grad()
            loss = (x.to(dtype) @ parameter - (x @ W).to(dtype)).square().mean()
            loss.backward()
            optimizer.step()
        losses[storage] = loss.item()
    assert losses["8bit"] == pytest.approx(losses["fp32"], rel=0.03)


@pytest.mark.parametrize("name", LOW_BIT)
def test_fake_tensors_take_the_same_state_and_name_the_temporaries(name):
    shape, method = (128, 256), METHODS[name]
    with FakeTensorMode():
        parameter = torch.nn.Parameter(torch.empty(shape))
        optimizer = Composed([parameter], **method.resolve())
        for _ in range(3):
            parameter.grad = torch.empty(shape)
            optimizer.step()
        held = sum(map(stored_bytes, optimizer.state[parameter].values()))
    assert held == method.state_bytes(shape)
    assert method.transient_bytes(shape) > 0


def test_temporaries_of_a_large_tensor_are_those_of_full_precision_and_the_moments_read():
    small, large = (METHODS["adamw-8bit"].transient_bytes((side, 4096)) for side in (1024, 2048))
    # M and V: 8 bytes a value. Pieces are the same for both.
    assert large - small == 8 * 1024 * 4096


def test_the_tracker_counts_what_a_wrapper_is_made_of():
    tracker = StorageTracker()
    with tracker:
        buffer = low_bit.zeros((64, 256), CPU, signed=True)
        assert tracker.live_bytes["other"] == low_bit.blocked_bytes((64, 256))
        tracker.file([buffer], "state")
        tracker.category, tracker.live_bytes["other"] = "temporary", 0
        tracker.reset_peak()
        buffer.copy_(torch.zeros(64, 256))  # its own conversion: the operations inside are seen
        assert tracker.peak_bytes["temporary"] > 8 * 64 * 256
    assert tracker.live_bytes["state"] == low_bit.blocked_bytes((64, 256))
    del buffer
    assert tracker.live_bytes["state"] == 0


def test_averages_return_what_was_not_rounded():
    buffer = low_bit.zeros((16, 256), CPU, signed=False)
    value = normal(16, 256)
    result = average_square(buffer, value, 0.0)
    torch.testing.assert_close(result, value.square(), rtol=0, atol=0)
    assert not torch.equal(low_bit.read(buffer, torch.float32), result)
    assert average(buffer, result, 0.5).dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.parametrize("name", LOW_BIT)
def test_a_cuda_step_never_waits_for_the_device_and_is_the_cpus(name):
    sequence, results = gradients((128, 256), 12), []
    for device in ("cpu", "cuda"):
        parameter = torch.nn.Parameter(torch.zeros(128, 256, device=device))
        optimizer = Composed([parameter], 1e-2, **METHODS[name].resolve())
        for step, gradient in enumerate(sequence):
            parameter.grad = gradient.to(device)
            torch.cuda.set_sync_debug_mode("error" if step > 8 else "default")
            try:
                optimizer.step()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        results.append(parameter.detach().cpu())
    assert ((results[0] - results[1]).abs() > 1e-3).float().mean() < 0.01
