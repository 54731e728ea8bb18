"""What PyTorch asks of saving and loading an optimizer, for every bundled method."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch.nn import Parameter
from torch.testing._internal.common_device_type import instantiate_device_type_tests
from torch.testing._internal.common_optimizers import optims
from torch.testing._internal.common_utils import TestCase

from subopt.optimizers.optimizer import EARLIER_OPTIONS
from subopt.optimizers.state import low_bit

from .infos import INFOS, inputs, is_low_bit, shapes
from .problems import advance, assert_same, copies, parameters


def trained(optim_info, device, dtype, steps=2, **kwargs):
    """Parameters and their optimizer after some steps."""
    params = parameters(device, dtype, shapes(optim_info))
    optimizer = optim_info.optim_cls(params, **kwargs)
    advance(optimizer, params, range(steps))
    return params, optimizer


class TestStateDicts(TestCase):
    @optims(INFOS)
    def test_there_is_a_state(self, device, dtype, optim_info):
        """Before a step there is no state; after it all parameters have some: tensors only, in 8 bits where due."""
        for chosen in inputs(optim_info, device):
            params, optimizer = trained(optim_info, device, dtype, steps=0, **chosen.kwargs)
            assert optimizer.state_dict()["state"] == {}
            advance(optimizer, params, range(1))
            state = optimizer.state_dict()["state"]
            assert list(state) == list(range(len(params)))
            for values in state.values():
                assert values
                assert all(isinstance(value, torch.Tensor) for value in values.values())
            if chosen.desc == "default":
                assert any(map(low_bit.in_blocks, state[0].values())) == is_low_bit(optim_info)

    @optims(INFOS)
    def test_a_loaded_optimizer_goes_on_alike(self, device, dtype, optim_info):
        """State dict into a new optimizer of equal parameters: equal to the last bit from then on, for every input."""
        for chosen in inputs(optim_info, device):
            params, optimizer = trained(optim_info, device, dtype, **chosen.kwargs)
            saved = copy.deepcopy(optimizer.state_dict())
            before = copy.deepcopy(saved)
            # Other hyperparameters, which the saved ones replace.
            theirs = copies(params)
            loaded = optim_info.optim_cls(theirs, **{**chosen.kwargs, "lr": 0.5})
            loaded.load_state_dict(saved)
            assert_same(saved, before, chosen.desc)
            assert_same(loaded.state_dict(), optimizer.state_dict(), chosen.desc)
            advance(optimizer, params, range(2, 4))
            advance(loaded, theirs, range(2, 4))
            assert_same(theirs, params, chosen.desc)
            assert_same(loaded.state_dict(), optimizer.state_dict(), chosen.desc)

    @optims(INFOS)
    def test_groups_may_change_after_loading(self, device, dtype, optim_info):
        """Two groups with own settings are saved and loaded; changes to them afterwards act as they did before."""
        params = [parameters(device, dtype, shapes(optim_info)) for _ in "ab"]
        groups = [{"params": params[0], "lr": 0.1}, {"params": params[1], "weight_decay": 0.5}]
        optimizer = optim_info.optim_cls(groups)
        advance(optimizer, [*params[0], *params[1]], range(2))
        theirs = [copies(each) for each in params]
        loaded = optim_info.optim_cls([{"params": each} for each in theirs])
        loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for each, own in ((optimizer, params), (loaded, theirs)):
            each.param_groups[0]["lr"] = 0.01
            each.param_groups[1]["maximize"] = True
            late = parameters(device, dtype, shapes(optim_info))
            each.add_param_group({"params": late, "lr": 0.2})
            own.append(late)
            advance(each, [parameter for group in own for parameter in group], range(2, 4))
        assert_same(theirs, params)
        assert_same(loaded.state_dict(), optimizer.state_dict())

    @optims(INFOS)
    def test_save_and_load_weights_only(self, device, dtype, optim_info):
        """torch.save, then torch.load(weights_only=True), brings back the same state dict, which loads."""
        for chosen in inputs(optim_info, device):
            params, optimizer = trained(optim_info, device, dtype, steps=1, **chosen.kwargs)
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
            file.seek(0)
            saved = torch.load(file, weights_only=True)
            assert_same(saved, optimizer.state_dict(), chosen.desc)
            loaded = optim_info.optim_cls(copies(params), **chosen.kwargs)
            loaded.load_state_dict(saved)
            assert_same(loaded.state_dict(), optimizer.state_dict(), chosen.desc)

    @optims(INFOS)
    def test_the_given_dict_is_left_alone(self, device, dtype, optim_info):
        """Loading, hooks that replace top-level entries, and later changes of groups leave the given dict as it was."""
        _, optimizer = trained(optim_info, device, dtype)
        saved = optimizer.state_dict()
        shallow, before = copy.copy(saved), copy.deepcopy(saved)
        _, loaded = trained(optim_info, device, dtype, steps=0)

        def replace(_, given):
            given["param_groups"] = [{**group, "lr": 0.7} for group in given["param_groups"]]

        loaded.register_load_state_dict_pre_hook(replace)
        loaded.load_state_dict(shallow)
        assert loaded.param_groups[0]["lr"] == 0.7
        loaded.param_groups[0]["weight_decay"] = 0.3
        loaded.state.clear()
        assert_same(shallow, before)
        assert_same(saved, before)

    @optims(INFOS)
    def test_groups_carry_what_is_no_tensor(self, device, dtype, optim_info):
        """Entries of a group that are no options of ours come back as they were: strings, None, nested containers."""
        params, optimizer = trained(optim_info, device, dtype)
        extras = {"name": "decoder", "note": None, "plan": {"warmup": [1, 2.5]}, "initial_lr": 0.1}
        optimizer.param_groups[0].update(copy.deepcopy(extras))
        theirs = copies(params)
        loaded = optim_info.optim_cls(theirs)
        loaded.load_state_dict(optimizer.state_dict())
        group = loaded.state_dict()["param_groups"][0]
        assert {key: group[key] for key in extras} == extras
        advance(loaded, theirs, [2])

    @optims(INFOS)
    def test_an_older_state_dict_loads(self, device, dtype, optim_info):
        """Options that a saved group lacks, since they are newer than it, are what they did before they were options.

        Else they keep the loading optimizer's values.
        """
        params, optimizer = trained(optim_info, device, dtype)
        saved = copy.deepcopy(optimizer.state_dict())
        saved["param_groups"] = [{"params": saved["param_groups"][0]["params"], "lr": 0.3}]
        theirs = copies(params)
        loaded = optim_info.optim_cls(theirs)
        loaded.load_state_dict(saved)
        group = optimizer.param_groups[0]
        group |= {"lr": 0.3} | {
            key: EARLIER_OPTIONS[key] for key in EARLIER_OPTIONS if key in group
        }
        assert_same(loaded.state_dict(), optimizer.state_dict())
        advance(optimizer, params, [2])
        advance(loaded, theirs, [2])
        assert_same(theirs, params)

    @optims(INFOS)
    def test_named_and_unnamed_state_dicts_mix(self, device, dtype, optim_info):
        """A state saved with parameter names loads without and the other way round; saved names win."""
        for saving, loading in ((True, True), (True, False), (False, True)):
            params = parameters(device, dtype, shapes(optim_info))
            named = [(f"saved.{index}", p) for index, p in enumerate(params)]
            optimizer = optim_info.optim_cls(named if saving else params)
            advance(optimizer, params, range(1))
            theirs = copies(params)
            own = [(f"own.{index}", p) for index, p in enumerate(theirs)]
            loaded = optim_info.optim_cls(own if loading else theirs)
            loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            names = [name for name, _ in (named if saving else own)]
            assert loaded.param_groups[0]["param_names"] == names
            advance(optimizer, params, [1])
            advance(loaded, theirs, [1])
            assert_same(theirs, params)

    @optims(INFOS)
    def test_state_dict_hooks(self, device, dtype, optim_info):
        """Hooks around state_dict run in order; one before may change the optimizer, one after the dict."""
        _, optimizer = trained(optim_info, device, dtype)
        calls = []
        optimizer.register_state_dict_pre_hook(lambda o: calls.append("before"))
        optimizer.register_state_dict_pre_hook(lambda o: calls.append("first"), prepend=True)
        optimizer.register_state_dict_post_hook(lambda o, saved: {**saved, "extra": "kept"})
        handle = optimizer.register_state_dict_post_hook(lambda o, saved: calls.append("after"))
        saved = optimizer.state_dict()
        assert calls == ["first", "before", "after"]
        assert saved["extra"] == "kept"
        handle.remove()
        optimizer.state_dict()
        assert calls == ["first", "before", "after", "first", "before"]
        optimizer.load_state_dict(saved)

    @optims(INFOS)
    def test_load_hooks(self, device, dtype, optim_info):
        """A pre-hook may hand over another state, which then is the one loaded; a post-hook sees it in place."""
        params, optimizer = trained(optim_info, device, dtype)
        other = copy.deepcopy(optimizer.state_dict())
        advance(optimizer, params, [2])
        theirs = copies(params)
        loaded = optim_info.optim_cls(theirs)
        calls, seen = [], []

        def bring_other(_, given):
            calls.append("bring")
            return other

        def note(_, given):
            calls.append("first")

        loaded.register_load_state_dict_pre_hook(bring_other)
        loaded.register_load_state_dict_pre_hook(note, prepend=True)
        loaded.register_load_state_dict_post_hook(
            lambda o: seen.append(copy.deepcopy(o.state_dict()))
        )
        for _ in range(2):  # hooks stay
            loaded.load_state_dict(optimizer.state_dict())
        assert calls == ["first", "bring"] * 2
        assert_same(loaded.state_dict(), other)
        assert_same(seen, [other, other])

    @optims(INFOS)
    def test_a_state_of_other_groups_is_refused(self, device, dtype, optim_info):
        """Another number of groups or of parameters is refused, and leaves the optimizer and its hooks as they were."""
        params, optimizer = trained(optim_info, device, dtype)
        before = copy.deepcopy(optimizer.state_dict())
        spare = Parameter(torch.ones(2, 2, device=device, dtype=dtype))
        for groups, pattern in (
            (
                [{"params": copies(params)}, {"params": [spare]}],
                "different number of parameter groups",
            ),
            ([{"params": [*copies(params), spare]}], "doesn't match the size"),
            ([{"params": copies(params)[:1]}], "size|is not this optimizer's"),
        ):
            wrong = optim_info.optim_cls(groups).state_dict()
            wrong["state"] = before["state"]
            with pytest.raises(ValueError, match=pattern):
                optimizer.load_state_dict(wrong)
            assert_same(optimizer.state_dict(), before)
        optimizer.load_state_dict(before)

    @optims(INFOS)
    def test_a_state_that_is_no_tensor_is_refused(self, device, dtype, optim_info):
        """No version of ours wrote a step count as a number: it is refused by name, not at some later step."""
        _, optimizer = trained(optim_info, device, dtype)
        saved = copy.deepcopy(optimizer.state_dict())
        saved["state"][0]["step"] = 2
        with pytest.raises(ValueError, match=r"parameter 0 is not this optimizer's: step differ"):
            optimizer.load_state_dict(saved)

    @optims(INFOS)
    def test_steps_can_be_taken_back(self, device, dtype, optim_info):
        """Loading a copy of an earlier state into the same optimizer undoes the steps since."""
        params, optimizer = trained(optim_info, device, dtype)
        values, saved = copies(params), copy.deepcopy(optimizer.state_dict())
        advance(optimizer, params, range(2, 4))
        once = copies(params)
        with torch.no_grad():
            for parameter, value in zip(params, values, strict=True):
                parameter.copy_(value)
        optimizer.load_state_dict(saved)
        advance(optimizer, params, range(2, 4))
        assert_same(params, once)

    @optims(INFOS, dtypes=[torch.bfloat16])
    def test_nothing_is_cast_by_loading(self, device, dtype, optim_info):
        """Under bfloat16 parameters every tensor keeps its dtype and values, where PyTorch casts them."""
        for chosen in inputs(optim_info, device):
            params, optimizer = trained(optim_info, device, dtype, steps=1, **chosen.kwargs)
            loaded = optim_info.optim_cls(copies(params), **chosen.kwargs)
            loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            assert_same(loaded.state_dict(), optimizer.state_dict(), chosen.desc)


instantiate_device_type_tests(TestStateDicts, globals(), only_for=("cpu", "cuda"))
