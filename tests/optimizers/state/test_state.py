"""What is kept: predicted bytes equal real bytes, and checkpoints that resume bit for bit."""

import copy
import io

import pytest
import torch

from subopt.optimizers import METHODS as ALL_METHODS
from subopt.optimizers import Composed, matrix_shape
from subopt.optimizers.methods.transient import transient_bytes
from subopt.optimizers.state.layout import DTYPES
from subopt.optimizers.state.low_bit import parts

SHAPES = [(7, 7), (4, 9), (9, 4), (1, 6), (6, 1), (6, 3, 2, 2), (5,), (), (2, 2)]
# One that replaces a model's layers is no optimizer of given parameters: test_dlrt_optimizer.py and others hold it.
METHODS = {name: method for name, method in ALL_METHODS.items() if not method.layers}
CASES = [(name, options) for name, method in METHODS.items() for options in method.test_inputs]


def held_bytes(state):
    """Bytes of the distinct storages behind a state: a view of something larger would show."""
    kept = [part.untyped_storage() for value in state.values() for part in parts(value)]
    storages = {storage._cdata: storage for storage in kept}
    return sum(storage.nbytes() for storage in storages.values())


def steps(optimizer, parameter, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        optimizer.step()


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_predicted_bytes_are_the_real_ones_after_a_refresh(name, options):
    method, first = METHODS[name], CASES.index((name, options))
    # Every shape in one dtype or the other; the next option set takes the other one.
    for index, shape in enumerate(SHAPES, start=first):
        dtype = (torch.float32, torch.bfloat16)[index % 2]
        parameter = torch.nn.Parameter(torch.ones(shape, dtype=dtype))
        optimizer = Composed([parameter], 1e-2, **method.resolve(options))
        steps(optimizer, parameter, 4)
        state = optimizer.state[parameter]
        assert held_bytes(state) == method.state_bytes(shape, dtype, options), (shape, dtype)
        if "refreshes" in state:
            assert int(state["refreshes"]) >= 2


@pytest.mark.parametrize("state_dtype", DTYPES)
@pytest.mark.parametrize("basis_dtype", ["fp32", "bf16"])
def test_chosen_dtypes_are_kept_counted_and_usable(state_dtype, basis_dtype):
    options = {"state_dtype": state_dtype, "basis_dtype": basis_dtype, "period": 2}
    parameter = torch.nn.Parameter(torch.ones(6, 10))
    optimizer = Composed([parameter], 1e-2, **METHODS["adadiag"].resolve(options))
    steps(optimizer, parameter, 4)
    state = optimizer.state[parameter]
    assert state["exp_avg"].dtype == DTYPES[state_dtype]
    assert state["basis_left"].dtype == DTYPES[basis_dtype]
    assert held_bytes(state) == METHODS["adadiag"].state_bytes((6, 10), options=options)
    assert torch.isfinite(parameter).all()


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_fallback_bytes_are_the_real_ones(name, options):
    method = METHODS[name]
    parameter = torch.nn.Parameter(torch.ones(12, 5))
    optimizer = Composed([parameter], 1e-2, **method.fallback_options(options))
    steps(optimizer, parameter, 2)
    assert held_bytes(optimizer.state[parameter]) == method.fallback_state_bytes(
        (12, 5), options=options
    )


@pytest.mark.parametrize(
    ("name", "elements"),
    [
        ("adamw", lambda m, n, r: 2 * m * n),
        ("adafactor", lambda m, n, r: m * n + m + n),
        ("adafactor-nomom", lambda m, n, r: m + n),
        ("lion", lambda m, n, r: m * n),
        ("momentum", lambda m, n, r: m * n),
        ("hfac", lambda m, n, r: 2 * (m + n)),
        ("galore", lambda m, n, r: m * r + 2 * n * r),
        ("osd", lambda m, n, r: m * r + 2 * n * r + 2 * m * r),
        ("osd-two-sided", lambda m, n, r: 2 * r**2 + (m + n) * r + 2 * (m + n) * r),
        ("adadiag", lambda m, n, r: m**2 + 2 * m * n),
        ("adadiag++", lambda m, n, r: m**2 + n**2 + 2 * m * n),
        ("adafacdiag", lambda m, n, r: m**2 + m * n + m + n),
        ("adafacdiag-nomom", lambda m, n, r: m**2 + m + n),
        ("adafacdiag++", lambda m, n, r: m**2 + n**2 + m * n + m + n),
        ("adafacdiag++-nomom", lambda m, n, r: m**2 + n**2 + m + n),
        ("hfacdiag", lambda m, n, r: m**2 + 2 * (m + n)),
    ],
)
def test_state_is_what_the_papers_count(name, elements):
    options = {"source": "gradient"} if "source" in METHODS[name].tunable else {}
    for shape in [(16, 40), (40, 16), (24, 24), (16, 5, 2, 2)]:
        m, n = matrix_shape(shape)
        expected = 4 * elements(m, n, round(0.25 * m))
        assert METHODS[name].state_bytes(shape, options=options, counters=False) == expected


# In float32, with every option set, it is a test of torch_harness/.
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_a_checkpoint_resumes_bit_for_bit_across_a_refresh(name, options):
    dtype = torch.bfloat16

    def fresh():
        torch.manual_seed(0)
        parameters = [torch.nn.Parameter(torch.randn(s).to(dtype)) for s in [(6, 10), (9, 4), (5,)]]
        return parameters, Composed(
            parameters, 1e-2, weight_decay=0.1, **METHODS[name].resolve(options)
        )

    def advance(parameters, optimizer, first, last):
        for step in range(first, last):
            generator = torch.Generator().manual_seed(step)
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, generator=generator).to(dtype)
            optimizer.step()

    whole, optimizer = fresh()
    advance(whole, optimizer, 0, 9)
    half, optimizer = fresh()
    advance(half, optimizer, 0, 4)
    saved = io.BytesIO()
    torch.save(
        {"parameters": [p.detach() for p in half], "optimizer": optimizer.state_dict()}, saved
    )
    before = {key: value.dtype for key, value in optimizer.state[half[0]].items()}
    saved.seek(0)
    loaded = torch.load(saved, weights_only=True)
    resumed, optimizer = fresh()
    for parameter, value in zip(resumed, loaded["parameters"], strict=True):
        parameter.data.copy_(value)
    optimizer.load_state_dict(loaded["optimizer"])
    assert {key: value.dtype for key, value in optimizer.state[resumed[0]].items()} == before
    advance(resumed, optimizer, 4, 9)
    for left, right in zip(whole, resumed, strict=True):
        assert torch.equal(left, right)


def test_bases_stay_float32_under_bfloat16_parameters_through_a_checkpoint():
    parameter = torch.nn.Parameter(torch.randn(6, 10).bfloat16())
    make = METHODS["adadiag"].resolve({"source": "covariance"})
    optimizer = Composed([parameter], 1e-2, **make)
    steps(optimizer, parameter, 3)
    reloaded = Composed([parameter], 1e-2, **make)
    reloaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for name in ("basis_left", "covariance_left"):
        value = reloaded.state[parameter][name]
        assert value.dtype == torch.float32
        assert torch.equal(value, optimizer.state[parameter][name])


@pytest.mark.parametrize(
    ("saved", "loading"),
    [
        (("adamw", {}), ("adadiag", {})),
        (("galore", {"rank": 2}), ("galore", {"rank": 4})),
        (("adamw", {"state_dtype": "bf16"}), ("adamw", {})),
    ],
    ids=str,
)
def test_a_state_of_another_method_or_rank_is_refused(saved, loading):
    parameter = torch.nn.Parameter(torch.randn(6, 10))
    first = Composed([parameter], 1e-2, **METHODS[saved[0]].resolve(saved[1]))
    steps(first, parameter, 2)
    second = Composed([parameter], 1e-2, **METHODS[loading[0]].resolve(loading[1]))
    with pytest.raises(ValueError, match="is not this optimizer's"):
        second.load_state_dict(first.state_dict())


def test_counts_stay_on_the_cpu_and_the_rest_goes_to_the_parameters_device():
    parameter = torch.nn.Parameter(torch.ones(6, 10))
    options = METHODS["adadiag"].resolve({"on_refresh": "reset"})
    optimizer = Composed([parameter], 1e-2, **options)
    steps(optimizer, parameter, 2)
    elsewhere = torch.nn.Parameter(torch.empty(6, 10, device="meta"))
    moved = Composed([elsewhere], 1e-2, **options)
    moved.load_state_dict(optimizer.state_dict())
    on_cpu = {name for name, value in moved.state[elsewhere].items() if value.device.type == "cpu"}
    assert on_cpu == {"step", "refreshes", "kept_bases", "restart"}


def test_step_counter_of_bfloat16_parameters_passes_256():
    parameter = torch.nn.Parameter(torch.ones(2, 2).bfloat16())
    optimizer = Composed([parameter], 1e-3)
    steps(optimizer, parameter, 260)
    reloaded = Composed([parameter], 1e-3)
    reloaded.load_state_dict(optimizer.state_dict())
    assert int(reloaded.state[parameter]["step"]) == 260


@pytest.mark.parametrize(
    ("dtype", "copies"),
    [
        (torch.float32, 0),  # the kernel has no temporaries
        (torch.bfloat16, 4),  # float32: the gradient, M and V, and the step
    ],
)
def test_transient_bytes_of_adam_are_what_its_dtype_makes_it_convert(dtype, copies):
    resolved = METHODS["adamw"].resolve()
    small, large = (transient_bytes((side, 64), dtype, resolved) for side in (64, 128))
    assert large - small == copies * 64 * 64 * 4


def test_transient_bytes_grow_with_the_decomposition():
    full = METHODS["adadiag"].transient_bytes((64, 64))
    assert full > METHODS["adamw"].transient_bytes((64, 64))
    assert METHODS["adadiag++"].transient_bytes((64, 256)) > METHODS["adadiag"].transient_bytes((
        64,
        256,
    ))
