"""Step hooks, deep copies and pickles of an optimizer, for every bundled method."""

from __future__ import annotations

import copy
import pickle

from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.testing._internal.common_device_type import instantiate_device_type_tests
from torch.testing._internal.common_optimizers import optims
from torch.testing._internal.common_utils import TestCase

from .infos import INFOS, inputs, shapes
from .problems import advance, assert_same, closure_of, copies, least_squares, parameters


class TestHooksAndCopies(TestCase):
    @optims(INFOS)
    def test_step_hooks(self, device, dtype, optim_info):
        """Global and own hooks run around the step in PyTorch's order, with its arguments, until removed."""
        params = parameters(device, dtype, shapes(optim_info))
        optimizer = optim_info.optim_cls(params)
        calls = []

        def hook(name):
            return lambda *given: calls.append((
                name,
                given[0] is optimizer,
                given[1][1:],
                given[2],
            ))

        handles = [
            register_optimizer_step_pre_hook(hook("global before")),
            optimizer.register_step_pre_hook(hook("before")),
            optimizer.register_step_post_hook(hook("after")),
            register_optimizer_step_post_hook(hook("global after")),
        ]
        try:
            advance(optimizer, params, range(1))
        finally:
            for handle in handles:
                handle.remove()
        assert [call[0] for call in calls] == ["global before", "before", "after", "global after"]
        assert all(call[1:] == (True, (), {}) for call in calls)
        advance(optimizer, params, range(1))
        assert len(calls) == 4

    @optims(INFOS)
    def test_a_pre_hook_may_replace_the_arguments(self, device, dtype, optim_info):
        """A pre-hook that returns arguments replaces the step's: here it puts in a closure."""
        params, loss = least_squares(device, dtype)
        optimizer = optim_info.optim_cls(params)

        def put_in(_, args, kwargs):
            return (args[0], closure_of(optimizer, loss)), kwargs

        before = float(loss().detach())
        optimizer.register_step_pre_hook(put_in)
        assert float(optimizer.step().detach()) == before

    @optims(INFOS)
    def test_copies_are_complete_and_independent(self, device, dtype, optim_info):
        """A deep copy or a pickle has all public attributes, goes on alike, takes groups, and shares nothing."""
        for duplicate in (copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))):
            for chosen in inputs(optim_info, device)[:3]:
                params = parameters(device, dtype, shapes(optim_info))
                optimizer = optim_info.optim_cls(params, **chosen.kwargs)
                advance(optimizer, params, range(2))
                twin = duplicate(optimizer)
                assert _public(twin) == _public(optimizer)
                assert twin.defaults == optimizer.defaults
                theirs = twin.param_groups[0]["params"]
                before = copies(params)
                advance(twin, theirs, range(2, 4))
                assert_same(params, before)
                advance(optimizer, params, range(2, 4))
                assert_same(params, theirs)
                assert_same(twin.state_dict(), optimizer.state_dict())
                twin.add_param_group({"params": parameters(device, dtype, shapes(optim_info))})
                assert len(optimizer.param_groups) == 1


def _public(optimizer):
    return {name for name in vars(optimizer) if not name.startswith("_")}


instantiate_device_type_tests(TestHooksAndCopies, globals(), only_for=("cpu", "cuda"))
