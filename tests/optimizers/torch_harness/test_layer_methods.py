"""What PyTorch asks of optimizers, for methods that put their own layers into a model: over one, by its closure."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from subopt.errors import OptionError
from subopt.optimizers import METHODS

from .catalogue import OVER_MODELS
from .infos import SCHEDULERS
from .models import Run
from .problems import assert_same

every_method = pytest.mark.parametrize("name", OVER_MODELS)


@every_method
def test_model_errors(name):
    """Invalid options are refused when the optimizer is made, and a step without a closure says what it needs."""
    for options, pattern in METHODS[name].error_inputs:
        with pytest.raises(OptionError, match=pattern):
            Run(name, **options)
    run = Run(name)
    before = run.everything()
    with pytest.raises(RuntimeError, match="closure"):
        run.optimizer.step()
    assert_same(run.everything(), before)


@every_method
def test_model_goes_in_the_right_direction(name):
    """The loss falls, or rises with maximize, over 8 steps, for every test input."""
    for options in METHODS[name].test_inputs:
        for maximize in (False, True):
            run = Run(name, **options)
            for group in run.optimizer.param_groups:
                group["maximize"] = maximize
            before = run.value()
            after = run.advance(8).value()
            assert (after > before) if maximize else (after < before), options


@every_method
def test_model_maximize_is_descent_on_the_negative(name):
    """With maximize a loss is trained as its negative is without."""
    up, down = Run(name), Run(name, sign=-1.0)
    for group in up.optimizer.param_groups:
        group["maximize"] = True
    assert_same(up.advance(3).model.state_dict(), down.advance(3).model.state_dict())


@every_method
def test_model_closures(name):
    """The closure runs with gradients on whatever the caller's mode; the loss of its first call is returned."""
    run, modes, losses = Run(name), [], []

    def closure():
        modes.append(torch.is_grad_enabled())
        losses.append(run.closure())
        return losses[-1]

    for grad_mode in (torch.enable_grad, torch.no_grad):
        losses.clear()
        with grad_mode():
            before = torch.is_grad_enabled()
            assert run.optimizer.step(closure) is losses[0]
            assert torch.is_grad_enabled() == before
    assert all(modes)
    assert_same(run.model.state_dict(), Run(name).advance(2).model.state_dict())


@every_method
def test_model_a_closure_that_fails_changes_nothing(name):
    """An error in the first evaluation leaves all as it was, one in a later evaluation what the model computes."""
    evaluations = []
    counting = Run(name).advance(1)
    counting.optimizer.step(lambda: evaluations.append(None) or counting.closure())
    for failing in range(len(evaluations)):
        run = Run(name).advance(1)
        before, calls = run.everything(), []

        def closure(run=run, calls=calls, failing=failing):
            calls.append(None)
            if len(calls) > failing:
                raise KeyError("no batch")
            return run.closure()

        outputs = run.model(run.x)
        with pytest.raises(KeyError, match="no batch"):
            run.optimizer.step(closure)
        if failing == 0:
            assert_same(run.everything(), before)
        # After the first evaluation bases have moved, and moving them back rounds.
        torch.testing.assert_close(run.model(run.x), outputs, rtol=1e-5, atol=1e-6)


@every_method
def test_model_is_noop_without_gradients(name):
    """A closure that computes no gradients moves nothing; what state it makes is zero."""
    run = Run(name)
    before = copy.deepcopy(run.model.state_dict())
    run.optimizer.step(run.value)
    assert_same(run.model.state_dict(), before)
    for values in run.optimizer.state.values():
        assert not any(value.any() for value in values.values())


@every_method
def test_model_is_noop_for_zero_gradients(name):
    """Gradients of zero leave the weights as they are, but for the rounding of their factors."""
    run = Run(name)
    before = run.optimizer.model(run.x)
    run.sign = 0.0
    run.advance(2)
    torch.testing.assert_close(run.model(run.x), before, rtol=1e-5, atol=1e-6)


@every_method
def test_model_schedulers_act_by_learning_rate_and_betas_alone(name):
    """Under each scheduler the model is trained as if lr and betas were set by hand."""
    for make_schedulers in SCHEDULERS:
        scheduled, by_hand = Run(name), Run(name)
        schedulers = [make(scheduled.optimizer) for make in make_schedulers]
        for _ in range(2):
            pairs = zip(
                by_hand.optimizer.param_groups, scheduled.optimizer.param_groups, strict=True
            )
            for group, seen in pairs:
                group.update(lr=seen["lr"], betas=seen["betas"])
            scheduled.advance(1)
            by_hand.advance(1)
            for scheduler in schedulers:
                plateau = isinstance(scheduler, lr_scheduler.ReduceLROnPlateau)
                scheduler.step(*((1.0,) if plateau else ()))
        assert_same(scheduled.model.state_dict(), by_hand.model.state_dict())


@every_method
def test_model_tensor_lr(name):
    """A learning rate in a tensor is the same number, and is read anew at every step."""
    lr = torch.tensor(0.01, dtype=torch.float64)
    by_number, by_tensor = (Run(name, lr=each, dtype=torch.float64) for each in (0.01, lr))
    for number in (0.01, 0.002):
        lr.fill_(number)
        for group in by_number.optimizer.param_groups:
            group["lr"] = number
        left, right = (run.advance(2).model(run.x) for run in (by_number, by_tensor))
        torch.testing.assert_close(right, left, rtol=1e-9, atol=1e-9)


@every_method
def test_model_a_loaded_optimizer_goes_on_alike(name):
    """State dict into an optimizer of an equal model: equal to the last bit from then on, for every test input."""
    for options in METHODS[name].test_inputs:
        run = Run(name, weight_decay=0.1, **options).advance(2)
        saved = copy.deepcopy(run.optimizer.state_dict())
        before = copy.deepcopy(saved)
        other = run.successor(saved)
        assert_same(saved, before)
        assert_same(other.everything(), run.everything())
        assert_same(other.advance(2).everything(), run.advance(2).everything(), str(options))


@every_method
def test_model_save_and_load_weights_only(name):
    """torch.save, then torch.load(weights_only=True), brings back the same state dict, which loads."""
    for options in METHODS[name].test_inputs:
        run = Run(name, **options).advance(1)
        file = io.BytesIO()
        torch.save(run.optimizer.state_dict(), file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        assert_same(saved, run.optimizer.state_dict(), str(options))
        assert_same(run.successor(saved).everything(), run.everything(), str(options))


@every_method
def test_model_an_older_state_dict_loads(name):
    """Options that saved groups lack, since they are newer than them, keep the loading optimizer's values."""
    run = Run(name).advance(2)
    saved = copy.deepcopy(run.optimizer.state_dict())
    kept = ("params", "lr", "method")
    saved["param_groups"] = [{key: group[key] for key in kept} for group in saved["param_groups"]]
    other = run.successor(saved)
    assert_same(other.everything(), run.everything())
    assert_same(other.advance(1).everything(), run.advance(1).everything())


@every_method
def test_model_load_hooks(name):
    """A pre-hook may hand over another state, which then is the one loaded; a post-hook sees it in place."""
    run = Run(name).advance(2)
    right, seen = copy.deepcopy(run.optimizer.state_dict()), []
    wrong = copy.deepcopy(right)
    for values in wrong["state"].values():
        for value in values.values():
            value.fill_(7)
    run.optimizer.register_load_state_dict_pre_hook(lambda _, given: right)
    run.optimizer.register_load_state_dict_post_hook(
        lambda optimizer: seen.append(copy.deepcopy(optimizer.state_dict()))
    )
    run.optimizer.load_state_dict(wrong)
    assert_same(run.optimizer.state_dict(), right)
    assert_same(seen, [right])


@every_method
def test_model_step_hooks(name):
    """Hooks run once around a step, however many evaluations it has, until removed."""
    run, calls = Run(name), []
    handles = [
        run.optimizer.register_step_pre_hook(lambda *given: calls.append("before")),
        run.optimizer.register_step_post_hook(lambda *given: calls.append("after")),
    ]
    run.advance(1)
    for handle in handles:
        handle.remove()
    run.advance(1)
    assert calls == ["before", "after"]


@every_method
def test_model_copies_are_complete_and_independent(name):
    """A deep copy or a pickle holds the model too, goes on alike, takes groups, and shares nothing."""
    for duplicate in (copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))):
        run = Run(name).advance(2)
        twin = copy.copy(run)
        twin.optimizer = duplicate(run.optimizer)
        twin.model = twin.optimizer.model
        assert _public(twin.optimizer) == _public(run.optimizer)
        assert twin.optimizer.defaults == run.optimizer.defaults
        before = run.everything()
        twin.advance(2)
        assert_same(run.everything(), before)
        assert_same(run.advance(2).everything(), twin.everything())
        spare = nn.Parameter(torch.ones(3))
        twin.optimizer.add_param_group({"params": [("spare", spare)]})
        assert len(twin.optimizer.param_groups) == len(run.optimizer.param_groups) + 1


@every_method
def test_model_groups_have_their_own_learning_rates(name):
    """A group at a learning rate of 0 stays while others move, and changing a group leaves the defaults."""
    run = Run(name)
    before, defaults = copy.deepcopy(run.model.state_dict()), copy.deepcopy(run.optimizer.defaults)
    *_, last = run.optimizer.param_groups
    last["lr"] = 0.0
    run.advance(2)
    after = run.model.state_dict()
    for key in last["param_names"]:
        assert torch.equal(after[key], before[key])
    assert not all(
        torch.equal(after[key], before[key])
        for key in after
        if after[key].shape == before[key].shape
    )
    assert run.optimizer.defaults == defaults


@every_method
def test_model_can_be_printed(name):
    """repr names the method and every option of every group."""
    optimizer = Run(name).optimizer
    assert f"Parameter Group 0: {name}, " in repr(optimizer)
    for key in optimizer.param_groups[0].keys() - {"params", "param_names", "method"}:
        assert f"    {key}: " in repr(optimizer)


@every_method
def test_model_the_default_dtype_does_not_matter(name):
    """Under any torch default dtype, steps and the dtypes of the state are the same."""
    runs = [Run(name) for _ in range(3)]
    before = torch.get_default_dtype()
    for run, default in zip(runs, (torch.float32, torch.float64, torch.bfloat16), strict=True):
        torch.set_default_dtype(default)
        try:
            run.advance(3)
        finally:
            torch.set_default_dtype(before)
    assert_same(runs[1].everything(), runs[0].everything())
    assert_same(runs[2].everything(), runs[0].everything())


def _public(optimizer):
    return {name for name in vars(optimizer) if not name.startswith("_")}
