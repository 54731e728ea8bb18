"""What a torch.optim.Optimizer must honour, for every method, beside what PyTorch's own tests ask (torch_harness/)."""

import itertools

import pytest
import torch

from subopt.errors import OptionError
from subopt.optimizers import METHODS as ALL_METHODS
from subopt.optimizers import Composed, stored_bytes

# One that replaces a model's layers is no optimizer of given parameters: test_dlrt_optimizer.py and others hold it.
METHODS = {name: method for name, method in ALL_METHODS.items() if not method.layers}
CASES = [(name, options) for name, method in METHODS.items() for options in method.test_inputs]


def problem(dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(6, 10), torch.nn.Tanh(), torch.nn.Linear(10, 4))
    x, y = torch.randn(32, 6), torch.randn(32, 4)
    return model.to(dtype), lambda: (model(x.to(dtype)) - y.to(dtype)).square().mean()


def make(name, model, lr=1e-2, options=None, **rest):
    return Composed(model.parameters(), lr, **METHODS[name].resolve(options), **rest)


def determined(name):
    """Options under which rounding decides nothing: the long sides' averages of so few gradients have null spaces."""
    return {"max_dim": 6} if "max_dim" in METHODS[name].tunable else {}


def train(model, loss, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


def equal(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


# In float32, with every option set, it is a test of torch_harness/.
@pytest.mark.parametrize(
    ("name", "options", "dtype"),
    [(name, options, torch.bfloat16) for name, options in CASES]
    + [(name, {}, torch.float64) for name in METHODS],
    ids=str,
)
def test_the_loss_falls(name, options, dtype):
    if "clip_momentum" in METHODS[name].tunable:
        options = {**options, "clip_momentum": True}  # as published, Hfac need not descend
    model, loss = problem(dtype)
    before = loss().item()
    train(model, loss, make(name, model, 3e-2, options), 30)
    assert loss().item() < 0.95 * before


def schedules(method):
    """Option sets in which a method refreshes at different steps."""
    if "period" not in method.tunable:
        return [{}]
    choices = {"period": (1, 2, 9), "early_refresh": (True, False), "stagger": (False, True)}
    choices |= {"skip_first": (False, True), "use_current_gradient": (False, True)}
    own = [key for key in choices if key in method.tunable]
    sets = [dict(zip(own, x, strict=True)) for x in itertools.product(*map(choices.get, own))]
    return [one | ({"start_step": 1} if "start_step" in method.tunable else {}) for one in sets]


@pytest.mark.parametrize("name", METHODS)
def test_the_record_says_which_steps_refresh(name):
    method = METHODS[name]
    for options in schedules(method):
        weight = torch.nn.Parameter(torch.ones(6, 4))
        optimizer = Composed([weight], **method.resolve(options))
        for t in range(1, 22):
            weight.grad = torch.randn(6, 4)
            optimizer.step()
            if "refreshes" in method.capabilities:  # others count every step as one, or none
                counted = int(optimizer.state[weight]["refreshes"])
                assert method.refreshes_by(t, options) == counted, (options, t)
            else:
                assert not method.refreshes_in(t, options)


@pytest.mark.parametrize("shape", [(6, 4), (5,)], ids=str)
@pytest.mark.parametrize(
    "name", [n for n, m in METHODS.items() if "eps" in m.tunable and not m.layers]
)
def test_without_eps_nothing_divided_by_nothing_is_no_step(name, shape):
    method = METHODS[name]
    if method.missing_extra() is not None:
        pytest.skip(method.missing_extra())
    weight = torch.nn.Parameter(torch.ones(shape))
    optimizer = Composed([weight], 1e-2, **method.resolve({"eps": 0.0}))
    for _ in range(2):
        weight.grad = torch.zeros(shape)
        optimizer.step()
        assert torch.equal(weight.detach(), torch.ones(shape))
    torch.manual_seed(0)
    for _ in range(3):
        weight.grad = torch.randn(shape)
        weight.grad[0] = 0
        optimizer.step()
    assert torch.isfinite(weight).all()
    assert not torch.equal(weight[1:].detach(), torch.ones_like(weight[1:]))
    if name in {"adamw", "momentum", "lion"}:
        assert torch.equal(weight[0].detach(), torch.ones_like(weight[0]))


@pytest.mark.parametrize("name", METHODS)
def test_half_precision_parameters_move_and_stay_finite(name):
    model, _ = problem(torch.float16)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = make(name, model)
    for _ in range(3):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape).half()
        optimizer.step()
    assert all(torch.isfinite(p).all() and p.dtype == torch.float16 for p in model.parameters())
    assert not equal(before, model.parameters())


def test_one_element_learning_rates_and_empty_parameters_are_fine():
    scalar, empty = torch.nn.Parameter(torch.tensor(1.0)), torch.nn.Parameter(torch.empty(0, 3))
    lr = torch.tensor([0.5])
    optimizer = Composed([scalar, empty], lr, weight_decay=0.1)
    scalar.grad, empty.grad = torch.tensor(2.0), torch.empty(0, 3)
    optimizer.step()
    torch.testing.assert_close(scalar.detach(), torch.tensor(0.95 - 0.5))
    lr.fill_(0.0)
    optimizer.step()
    torch.testing.assert_close(scalar.detach(), torch.tensor(0.95 - 0.5))
    with pytest.raises(OptionError, match="Invalid lr"):
        Composed([scalar], torch.tensor(-1.0))


@pytest.mark.parametrize("kind", ["CyclicLR", "OneCycleLR"])
def test_groups_that_a_scheduler_marked_can_be_used_again(kind):
    optimizer = Composed([torch.nn.Parameter(torch.ones(4, 6))], 1e-2)
    if kind == "OneCycleLR":
        torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-1, total_steps=5, cycle_momentum=False)
    else:
        torch.optim.lr_scheduler.CyclicLR(optimizer, 1e-3, 1e-1, cycle_momentum=False)
    again = Composed(optimizer.param_groups)
    assert again.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


def test_groups_can_be_added_with_their_own_options():
    first, second = torch.nn.Parameter(torch.ones(4, 6)), torch.nn.Parameter(torch.ones(4, 6))
    optimizer = Composed([first], 1e-2)
    optimizer.add_param_group({"params": [second], "lr": 1.0, "moments": "lion"})
    group = optimizer.param_groups[1]
    assert (group["lr"], group["moments"], group["betas"]) == (1.0, "lion", (0.9, 0.99))
    first.grad = second.grad = torch.ones(4, 6)
    optimizer.step()
    torch.testing.assert_close(second.detach(), torch.zeros(4, 6))
    torch.testing.assert_close(first.detach(), torch.full((4, 6), 0.99))
    third = torch.nn.Parameter(torch.ones(2))
    for key, pattern in (("state_dtpe", "did you mean 'state_dtype'"), ("period", "has no option")):
        with pytest.raises(OptionError, match=pattern):
            optimizer.add_param_group({"params": [third], key: 3})


def test_an_online_pca_basis_follows_the_schedule():
    parameter = torch.nn.Parameter(torch.zeros(6, 10))
    options = METHODS["osd"].resolve({"basis_optimizer": "sgd", "rank": 2})
    optimizer = Composed([parameter], 1e-2, **options)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: [1, 0, 1][step])
    bases = []
    for _ in range(3):
        parameter.grad = torch.randn(6, 10)
        optimizer.step()
        bases.append(optimizer.state[parameter]["basis_left"].clone())
        if len(bases) < 3:
            schedule.step()
    assert torch.equal(bases[0], bases[1])
    assert not torch.equal(bases[1], bases[2])


@pytest.mark.parametrize("name", METHODS)
def test_a_grad_scaler_skips_the_step_it_found_infinite(name):
    model, loss = problem()
    optimizer = make(name, model)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    scaler.scale(loss()).backward()
    next(iter(model.parameters())).grad[0, 0] = float("inf")
    scaler.step(optimizer)
    scaler.update()
    assert equal(before, model.parameters())
    optimizer.zero_grad()
    scaler.scale(loss()).backward()
    scaler.step(optimizer)
    assert not equal(before, model.parameters())
    assert optimizer.diagnostics()["nonfinite_gradients"] == 0


@pytest.mark.parametrize("name", METHODS)
def test_every_method_runs_under_fake_tensors(name):
    with torch._subclasses.FakeTensorMode():
        parameter = torch.nn.Parameter(torch.empty(6, 10))
        optimizer = Composed([parameter], **METHODS[name].resolve())
        for _ in range(3):
            parameter.grad = torch.empty(6, 10)
            optimizer.step()
        held = sum(stored_bytes(v) for v in optimizer.state[parameter].values())
    assert held == METHODS[name].state_bytes((6, 10))


@pytest.mark.gpu
@pytest.mark.parametrize(
    "name", [n for n, m in METHODS.items() if "waits_for_device" not in m.capabilities]
)
def test_an_ordinary_cuda_step_never_waits_for_the_device(name):
    parameter = torch.nn.Parameter(torch.randn(6, 10, device="cuda"))
    optimizer = Composed([parameter], 1e-2, **METHODS[name].resolve())
    for step in range(12):
        parameter.grad = torch.randn(6, 10, device="cuda")
        is_ordinary = step > 8
        torch.cuda.set_sync_debug_mode("error" if is_ordinary else "default")
        try:
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(parameter).all()


@pytest.mark.gpu
@pytest.mark.parametrize("name", METHODS)
def test_cuda_steps_like_the_cpu(name):
    results = []
    for device in ("cpu", "cuda"):
        model, _ = problem()
        model.to(device)
        optimizer = make(name, model, options={"eps": 1e-2} if "++" in name else determined(name))
        generator = torch.Generator().manual_seed(0)
        for _ in range(3):
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator).to(device)
            optimizer.step()
        results.append([parameter.detach().cpu() for parameter in model.parameters()])
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)
