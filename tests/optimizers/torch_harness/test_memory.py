"""The memory of a step, which PyTorch tests for its foreach implementations, for every bundled method."""

from __future__ import annotations

from torch.testing._internal.common_device_type import instantiate_device_type_tests
from torch.testing._internal.common_optimizers import optims
from torch.testing._internal.common_utils import TestCase

from subopt.optimizers.state.storage_tracker import StorageTracker

from .infos import BY_IDENTIFIER, INFOS, inputs, is_low_bit, shapes
from .problems import advance, parameters, set_gradients

# Look-up tables of 8-bit codes, 65,536 codes and 256 float32: a process makes them once, a prediction counts them.
TABLE_BYTES = 65536 + 4 * 256


def step_peak_bytes(optimizer, params):
    """The most that a step's own tensors take at once, beside parameters, gradients and state."""
    is_first = not optimizer.state
    held = [value for parameter in params for value in optimizer.state[parameter].values()]
    with StorageTracker() as tracker:
        tracker.file([*params, *(parameter.grad for parameter in params), *held], "held")
        optimizer.step()
        peak = tracker.peak_bytes[tracker.category]
    return peak - (optimizer.planned_state_bytes() if is_first else 0)


class TestMemory(TestCase):
    @optims(INFOS)
    def test_no_step_takes_more_memory_than_predicted(self, device, dtype, optim_info):
        """The worst step, the first or another, peaks as predicted to the byte, but for tables of 8-bit codes."""
        method, shape = BY_IDENTIFIER[optim_info.name], shapes(optim_info)[0]
        for options in method.test_inputs[:1] + method.test_inputs[1:][-1:]:
            params = parameters(device, dtype, [shape])
            optimizer = optim_info.optim_cls(params, **options)
            peaks = []
            for step in range(2):
                set_gradients(params, step)
                peaks.append(step_peak_bytes(optimizer, params))
            for group in optimizer.param_groups:  # everything that happens from time to time, now
                group.update(period=1, start_step=1)
            peaks.append(step_peak_bytes(optimizer, params))
            tables = TABLE_BYTES if is_low_bit(optim_info) else 0
            predicted = method.transient_bytes(shape, dtype, options)
            assert predicted - tables <= max(peaks) <= predicted, options

    @optims(INFOS)
    def test_parameters_are_updated_one_after_another(self, device, dtype, optim_info):
        """Four parameters peak where one does: no implementation here takes temporaries for all at once."""
        peaks = []
        for count in (1, 4):
            params = parameters(device, dtype, shapes(optim_info)[:1] * count)
            optimizer = optim_info.optim_cls(params)
            advance(optimizer, params, range(2))
            set_gradients(params, 2)
            peaks.append(step_peak_bytes(optimizer, params))
        assert peaks[1] == peaks[0]

    @optims(INFOS)
    def test_steps_leave_nothing_behind(self, device, dtype, optim_info):
        """After a first step, more steps keep no more than it did: the state is allocated once and updated in place."""
        for chosen in inputs(optim_info, device):
            params = parameters(device, dtype, shapes(optim_info))
            optimizer = optim_info.optim_cls(params, **chosen.kwargs)
            advance(optimizer, params, [0])
            before = {
                key: list(map(id, values.values())) for key, values in optimizer.state.items()
            }
            advance(optimizer, params, [1, 2])
            after = {key: list(map(id, values.values())) for key, values in optimizer.state.items()}
            assert after == before, chosen.desc


instantiate_device_type_tests(TestMemory, globals(), only_for=("cpu", "cuda"))
