"""What a torch.optim.Optimizer must honour, for DLRT."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from torch import nn

from subopt.errors import OptionError
from subopt.optimizers.low_rank.convert import ranks, replace_layers, to_dense
from subopt.optimizers.low_rank.optimizer import DLRT
from subopt.optimizers.methods.low_rank import DLRT_METHOD

from .problem import batch, closure_of, make, network, state_tensors, train, weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", DLRT_METHOD.test_inputs, ids=str)
def test_the_loss_falls(options, dtype):
    model = network(dtype)
    lr = 0.3 if options.get("integrator") else 0.02
    losses = train(model, make(model, lr, **options), 40)
    assert losses[-1] < 0.95 * losses[0]
    assert all(p.dtype == dtype for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {"rank": 6, "max_rank": 1.0, "tau": 0.25},
        {"rank": 2, "max_rank": 1.0, "tau": 0.003, "integrator": "momentum"},
        {"rank": 3, "max_rank": 3, "settle_steps": 4},
        {"rank": 3, "rank_mode": "fixed", "integrator": "momentum"},
        {"rank": 3, "rank_mode": "frozen"},
    ],
    ids=str,
)
def test_a_checkpoint_resumes_bit_for_bit_across_a_rank_change(options, dtype):
    def fresh():
        model = network(dtype)
        return model, make(model, 0.05, rest={"moments": "adam"}, weight_decay=0.1, **options)

    whole, optimizer = fresh()
    train(whole, optimizer, 10)
    half, optimizer = fresh()
    start = ranks(half)
    train(half, optimizer, 5)
    changed = ranks(half) != start
    saved = io.BytesIO()
    torch.save({"model": half.state_dict(), "optimizer": optimizer.state_dict()}, saved)
    saved.seek(0)
    loaded = torch.load(saved, weights_only=True)
    resumed, optimizer = fresh()
    resumed.load_state_dict(loaded["model"])
    optimizer.load_state_dict(loaded["optimizer"])
    train(resumed, optimizer, 5)
    assert ranks(resumed) == ranks(whole)
    for left, right in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(left, right)
    if "max_rank" in options and options["max_rank"] == 1.0:
        assert changed


def test_a_state_of_another_rank_than_the_models_is_refused():
    model, other = network(), network()
    optimizer = make(model, rank=4)
    train(model, optimizer, 1)
    with pytest.raises(ValueError, match="is not this optimizer's"):
        make(other, rank=2).load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["copy", "pickle"]
)
def test_copies_take_their_model_along_and_go_on_alike(duplicate):
    model = network()
    optimizer = make(model, rank=3)
    train(model, optimizer, 2)
    twin = duplicate(optimizer)
    train(model, optimizer, 3)
    train(twin.model, twin, 3)
    for left, right in zip(model.parameters(), twin.model.parameters(), strict=True):
        assert torch.equal(left, right)
        assert left is not right


def test_a_step_without_a_closure_says_what_it_needs():
    model = network()
    with pytest.raises(
        RuntimeError, match=r"evaluates the loss twice a step: call step\(closure\)"
    ):
        make(model).step()


def test_gradients_are_on_in_the_closure_and_the_first_loss_comes_back():
    model, values = network(), []
    optimizer = make(model, rank_mode="fixed", rank=2)

    def closure():
        assert torch.is_grad_enabled()
        values.append(closure_of(model, optimizer, *batch())())
        return values[-1]

    loss = optimizer.step(closure)
    assert loss is values[0]
    assert len(values) == 2


def test_maximize_ascends_by_the_mirrored_step():
    x, y = batch()
    up, down = network(), network()
    optimizers = [make(up, maximize=True, rank=3), make(down, rank=3)]

    def negated():
        optimizers[1].zero_grad()
        (-(down(x) - y).square().mean()).backward()

    for _ in range(3):
        train(up, optimizers[0], 1)
        optimizers[1].step(negated)
    for left, right in zip(weights(up), weights(down), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)


def test_a_tensor_learning_rate_is_the_same_number():
    results = []
    for lr in (0.05, torch.tensor(0.05, dtype=torch.float64)):
        model = network()
        train(model, make(model, lr, rank=3, weight_decay=0.1), 3)
        results.append(weights(model))
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)


def test_a_learning_rate_of_zero_moves_nothing():
    model = network()
    optimizer = make(model, 0.0, rank=3, max_rank=1.0, tau=0.0)
    before = weights(model)
    train(model, optimizer, 2)
    assert ranks(model) == {"0": 3, "2": 3}
    for left, right in zip(before, weights(model), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", ["adaptive", "fixed", "frozen"])
@pytest.mark.parametrize("when", ["first", "second"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e200])
def test_a_layer_with_a_broken_gradient_stays_and_counts_and_the_others_move(mode, when, bad):
    model = network()
    optimizer = make(model, rank=3, rank_mode=mode, rest={"moments": "adam"})
    train(model, optimizer, 2)
    before, rank = weights(model), ranks(model)
    core = {k: v.clone() for k, v in optimizer.state[model[0].S].items()}
    calls = []

    def closure():
        closure_of(model, optimizer, *batch())()
        calls.append(1)
        broken = len(calls) == (1 if when == "first" or mode == "frozen" else 2)
        for factor in (model[0].U, model[0].S) if broken else ():
            if factor.grad is not None:
                factor.grad[0, 0] = bad

    optimizer.step(closure)
    after = weights(model)
    torch.testing.assert_close(after[0], before[0], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(after[1], before[1])  # the bias
    assert not torch.allclose(after[2], before[2])
    assert ranks(model)["0"] == rank["0"]
    assert optimizer.diagnostics()["nonfinite_gradients"] == 1
    if mode != "frozen":
        assert torch.equal(optimizer.state[model[0].S]["exp_avg"], core["exp_avg"])
    train(model, optimizer, 2)
    assert all(torch.isfinite(value).all() for value in weights(model))


def test_a_truncation_that_fails_keeps_the_layer_and_counts(monkeypatch):
    model = network()
    optimizer = make(model, rank=3)
    train(model, optimizer, 1)
    before = weights(model)

    def failing(*_, **__):
        raise torch.linalg.LinAlgError("did not converge")

    with monkeypatch.context() as patch:
        patch.setattr(torch.linalg, "svd", failing)
        with pytest.warns(UserWarning, match="a layer kept its factors"):
            train(model, optimizer, 1)
    for index in (0, 2):
        torch.testing.assert_close(weights(model)[index], before[index], rtol=1e-12, atol=1e-12)
    assert optimizer.diagnostics()["kept_bases"] == 2
    train(model, optimizer, 1)
    assert not torch.allclose(weights(model)[0], before[0])


@pytest.mark.parametrize("mode", ["adaptive", "fixed"])
def test_an_error_in_the_second_evaluation_leaves_the_model_as_it_was(mode):
    model = network()
    optimizer = make(model, rank=3, rank_mode=mode)
    before, shapes, calls = weights(model), ranks(model), []

    def closure():
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return closure_of(model, optimizer, *batch())()

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert ranks(model) == shapes
    for left, right in zip(before, weights(model), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


def test_layers_without_a_gradient_are_left_alone_and_an_uneven_closure_is_refused():
    model = network()
    optimizer = make(model, rank=3)
    before, x = weights(model), batch()[0]

    def first_only():
        optimizer.zero_grad()
        model[1](model[0](x)).square().mean().backward()

    optimizer.step(first_only)
    after = weights(model)
    assert torch.equal(after[2], before[2])
    assert not torch.equal(after[0], before[0])
    calls = []

    def uneven():
        calls.append(1)
        return first_only() if len(calls) == 2 else closure_of(model, optimizer, x, batch()[1])()

    before, shapes = weights(model)[2], ranks(model)
    with pytest.raises(RuntimeError, match="the closure must compute the same loss each time"):
        optimizer.step(uneven)
    assert ranks(model) == shapes
    torch.testing.assert_close(weights(model)[2], before, rtol=1e-12, atol=1e-12)


def test_a_layer_with_a_gradient_in_the_second_evaluation_only_is_left_alone():
    model = network()
    optimizer, calls, before = make(model, rank=3), [], weights(model)

    def closure():
        calls.append(1)
        optimizer.zero_grad()
        (model if len(calls) == 2 else model[:2])(batch()[0]).square().mean().backward()

    optimizer.step(closure)
    assert torch.equal(weights(model)[2], before[2])
    assert not torch.equal(weights(model)[0], before[0])
    assert model[2].S.grad is None


def test_frozen_layers_stay_and_groups_may_differ():
    model = network()
    resolved = [DLRT_METHOD.resolve({"rank": 2, "rank_mode": mode}) for mode in ("frozen", "fixed")]
    successors = replace_layers(model, dict(zip(["0.weight", "2.weight"], resolved, strict=True)))
    groups = [
        {"params": pairs, **options, "lr": 0.1}
        for pairs, options in zip(successors.values(), resolved, strict=True)
    ]
    optimizer = DLRT(groups, model)
    bases = [layer.U.detach().clone() for layer in (model[0], model[2])]
    cores = [layer.S.detach().clone() for layer in (model[0], model[2])]
    bias = model[0].bias.detach().clone()
    train(model, optimizer, 2)
    assert torch.equal(model[0].U, bases[0])
    assert not torch.equal(model[2].U, bases[1])
    assert not torch.equal(model[0].S, cores[0])
    assert not torch.equal(model[2].S, cores[1])
    assert torch.equal(model[0].bias, bias)  # no group holds it
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    core = model[0].S.clone()
    train(model, optimizer, 1)
    assert torch.equal(model[0].S, core)


def test_a_model_with_an_empty_parameter_and_no_low_rank_layer_takes_ordinary_steps():
    model = nn.Sequential(nn.Linear(10, 8).double())
    model.register_parameter("empty", nn.Parameter(torch.empty(0, 3).double()))
    optimizer, (x, y) = DLRT(model.parameters(), model, 0.1, moments="sgd"), batch()
    before, calls = model[0].weight.detach().clone(), []

    def closure():
        calls.append(1)
        optimizer.zero_grad()
        ((model(x) - y).square().mean() + model.empty.sum()).backward()

    optimizer.step(closure)
    assert calls == [1]
    torch.testing.assert_close(model[0].weight.detach(), before - 0.1 * model[0].weight.grad)


def test_under_autocast_it_trains_float32_weights():
    model = network(torch.float32)
    optimizer, (x, y) = make(model, 0.02, rank=4), batch(torch.float32)

    def closure():
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = (model(x) - y).square().mean()
        loss.backward()
        return loss

    losses = [float(optimizer.step(closure).detach()) for _ in range(30)]
    assert losses[-1] < 0.95 * losses[0]
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_state_holds_tensors_only_and_exports_train_no_further():
    model = network()
    optimizer = make(model, rank=3)
    train(model, optimizer, 2)
    assert all(isinstance(value, torch.Tensor) for value in state_tensors(optimizer))
    exported = to_dense(copy.deepcopy(model))
    torch.testing.assert_close(exported(batch()[0]), model(batch()[0]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("options", "pattern"), DLRT_METHOD.error_inputs, ids=str)
def test_error_inputs_are_refused(options, pattern):
    with pytest.raises(OptionError, match=pattern):
        DLRT_METHOD.resolve(options)


@pytest.mark.gpu
@pytest.mark.parametrize("options", DLRT_METHOD.test_inputs, ids=str)
def test_cuda_steps_like_the_cpu(options):
    results = []
    for device in ("cpu", "cuda"):
        model = network().to(device)
        optimizer = make(model, 0.02, **options)
        x, y = (value.to(device) for value in batch())
        train(model, optimizer, 3, x, y)
        results.append([value.cpu() for value in weights(model)])
        counts = optimizer.state[model[0].S]
        assert counts["step"].device.type == "cpu"
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["fixed", "frozen"])
def test_a_cuda_step_at_a_fixed_rank_never_waits_for_the_device(mode):
    model = network(torch.float32).cuda()
    optimizer, (x, y) = make(model, rank=3, rank_mode=mode), batch(torch.float32)
    closure = closure_of(model, optimizer, x.cuda(), y.cuda())
    for _ in range(2):
        optimizer.step(closure)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.step(closure)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.isfinite(value).all() for value in weights(model))
