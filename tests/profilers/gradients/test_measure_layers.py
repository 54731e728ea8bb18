"""Layers measured in groups: the same numbers whatever the memory allowed."""

import weakref

import pytest
import torch
from torch import nn

from subopt.profilers import device as freed_memory
from subopt.profilers.gradients import basis_cost as basis_time
from subopt.profilers.gradients import measure_layers as layers
from subopt.profilers.gradients.basis_cost import affordable_bases, are_quick, bases_flops_per_s
from subopt.profilers.gradients.measure_layers import (
    default_group_bytes,
    layer_groups,
    measure_layers,
)
from subopt.profilers.gradients.second_moment import HeldGradients
from subopt.profilers.gradients.spectrum import SpectrumAccumulator
from subopt.profilers.timing.stopwatch import Stopwatch

RANKS = {"0.weight": 2, "3.weight": 1}
COUNT = 5


def model_and_batches():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Dropout(0.3), nn.Linear(5, 4))
    return model, [torch.randn(8, 6) for _ in range(COUNT)]


def loss_of(model, batch):
    return model(batch).square().mean()


def measured(model, batches, ranks=RANKS, *, loss=loss_of, watch=None, **options):
    options = {"detail": "standard", "group_bytes": 10**9, "stale": {}} | options
    return list(measure_layers(model, loss, batches, ranks, watch=watch or Stopwatch(), **options))


def plain_gradients(model, batches):
    """Every named layer's gradients by plain autograd, from the same random state."""
    state = torch.get_rng_state()
    found = {name: [] for name in RANKS}
    for batch in batches:
        model.zero_grad()
        loss_of(model, batch).backward()
        for name in RANKS:
            found[name].append(model.get_parameter(name).grad.clone())
    model.zero_grad()
    torch.set_rng_state(state)
    return found


def spectrum_of(gradients):
    accumulator = SpectrumAccumulator()
    for G in gradients:
        accumulator.add(G)
    return accumulator.result()


@pytest.mark.parametrize("detail", ["standard", "full"])
@pytest.mark.parametrize(("group_bytes", "groups"), [(10**9, 1), (1, 2)])
def test_every_layer_gets_the_numbers_of_its_own_gradients(detail, group_bytes, groups):
    model, batches = model_and_batches()
    stale = {"3.weight": {4: torch.linalg.qr(torch.randn(4, 4)).Q}}
    plain = plain_gradients(model, batches)
    ticks, watch = [], Stopwatch()
    found = measured(
        model,
        batches,
        watch=watch,
        detail=detail,
        group_bytes=group_bytes,
        stale=stale,
        on_batch=lambda done, total: ticks.append((done, total)),
    )
    assert [layer.name for layer in found] == list(RANKS)
    for layer in found:
        held = HeldGradients(RANKS[layer.name], stale=stale.get(layer.name), watch=Stopwatch())
        for G in plain[layer.name]:
            held.add(G)
        assert layer.spectrum == spectrum_of(plain[layer.name])
        assert layer.measures == held.result()
        assert layer.activations.positions == 8 * (COUNT if detail == "full" else 1)
    assert list(found[1].measures.diagonality.stale) == ["4"]
    assert ticks[0] == (0, COUNT * groups)
    assert ticks[-1] == (COUNT * groups, COUNT * groups)
    assert watch.passes == COUNT * groups


def test_quick_takes_each_spectrum_on_every_fourth_batch_in_turn():
    model, batches = model_and_batches()
    plain, watch = plain_gradients(model, batches), Stopwatch()
    first, second = measured(model, batches, detail="quick", group_bytes=1, watch=watch)
    assert first.spectrum == spectrum_of([plain["0.weight"][k] for k in (0, 4)])
    assert second.spectrum == spectrum_of([plain["3.weight"][3]])
    for layer in (first, second):
        assert layer.measures is None
        assert layer.activations is None
    assert watch.passes == COUNT


@pytest.mark.parametrize("count", [1, 2, 3])
def test_quick_leaves_no_layer_out_however_few_the_batches(count):
    model, batches = model_and_batches()
    found = measured(model, batches[:count], detail="quick")
    assert all(layer.spectrum is not None for layer in found)


def test_the_time_of_the_hooks_is_not_that_of_the_passes(monkeypatch):
    model, batches = model_and_batches()
    clock = iter(range(10**6))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    watch = Stopwatch()
    measured(model, batches, watch=watch)
    # Every look at the clock takes a second: two looks to a span, the second of which is the span's own time.
    assert watch.seconds["spectra"] == COUNT * len(RANKS)
    # Free memory is given back after every batch too.
    assert watch.seconds["holding gradients"] == COUNT * len(RANKS) + COUNT
    assert {"forward and backward", "activations", "diagonality"} <= watch.seconds.keys()
    assert sum(watch.seconds.values()) < float(next(clock))


def test_a_layer_without_gradient_has_neither_spectrum_nor_measures():
    model, batches = model_and_batches()
    model.append(nn.Linear(4, 3))
    (layer,) = measured(
        model, batches, {"4.weight": 1}, loss=lambda model, batch: model[:4](batch).sum()
    )
    assert layer.spectrum is None
    assert layer.measures is None
    assert layer.activations is None


def test_an_error_in_the_model_leaves_no_hook_behind():
    model, batches = model_and_batches()

    def fail(model, batch):
        model(batch)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:  # its traceback keeps the frames alive
        measured(model, batches, loss=fail)
    assert caught.traceback
    hooks = [module._forward_hooks or module._forward_pre_hooks for module in model.modules()]
    assert not any(hooks)


def test_groups_fill_the_memory_in_order_and_a_large_layer_is_alone():
    sizes = {"a": 4, "b": 5, "c": 2, "d": 30, "e": 1}
    assert layer_groups(sizes, 10) == [["a", "b"], ["c"], ["d"], ["e"]]
    assert layer_groups({}, 10) == []


@pytest.mark.parametrize(("stale_rows", "groups"), [(0, 1), (8, 1), (12, 2), (100, 2)])
def test_stale_bases_leave_less_room_for_gradients_but_half_in_any_case(stale_rows, groups):
    model, batches = model_and_batches()
    # Five gradients of 5 x 6 and of 4 x 5, float32, and of each the inputs' Gram matrix: 600 and 400 bytes.
    stale = {"other": {1: torch.zeros(stale_rows, 4)}} if stale_rows else {}
    watch = Stopwatch()
    measured(model, batches, group_bytes=1150, stale=stale, watch=watch)
    assert watch.passes == groups * COUNT


@pytest.mark.parametrize(
    ("detail", "shape", "expected"),
    [
        ("standard", (6, 5), 8 * 120),  # the held gradients
        ("standard", (2, 50), 400 + 8 * 50**2),  # the inputs' Gram matrix, beside one gradient
        ("full", (2, 50), 8 * 400 + 8 * 50**2),
        ("full", (2, 5, 2, 5), 8 * 400 + 8 * 50**2),
    ],
)
def test_a_layer_is_counted_with_its_gradients_and_the_gram_matrix_of_its_inputs(
    detail, shape, expected
):
    assert layers._held_bytes(torch.zeros(shape), 8, detail) == expected


def test_the_inputs_of_a_layer_that_holds_them_first_are_counted_by_its_first_dimension():
    weight = torch.zeros(50, 2)
    assert layers._held_bytes(weight, 8, "standard", inputs_first=True) == 400 + 8 * 50**2
    assert layers._held_bytes(weight, 8, "standard") == 8 * 400


def test_what_is_held_may_add_three_tenths_to_the_tensors_of_the_passes():
    mebibyte = 2**20
    assert default_group_bytes(1200 * mebibyte, 3 * mebibyte) == (360 - 18) * mebibyte
    assert default_group_bytes(40 * mebibyte, 3 * mebibyte) == 64 * mebibyte
    assert default_group_bytes(0, 0) == 64 * mebibyte


def test_bases_that_take_too_long_are_left_out(monkeypatch):
    weights = {"wide": torch.zeros(5, 6), "narrow": torch.zeros(4, 5)}
    # 9 n^3 + 9 m^3 + 4 n^2 m
    flops = {"wide": 1944 + 1125 + 720, "narrow": 1125 + 576 + 400}
    devices = []
    monkeypatch.setattr(basis_time, "are_quick", lambda shape: False)
    monkeypatch.setattr(
        basis_time, "bases_flops_per_s", lambda device: devices.append(device.type) or 100.0
    )
    assert affordable_bases(weights, (flops["narrow"] + 1) / 100.0) == {"narrow"}
    assert devices == ["cpu"]  # timed once for all layers
    assert affordable_bases(weights, 1e9) == set(weights)


def test_a_layer_whose_bases_take_too_long_has_no_two_sided_number(monkeypatch):
    model, batches = model_and_batches()
    monkeypatch.setattr(layers, "affordable_bases", lambda weights, limit_s: {"3.weight"})
    wide, narrow = measured(model, batches)
    monkeypatch.undo()
    whole = measured(model, batches)
    assert wide.measures.diagonality.two_sided is None
    assert wide.measures.diagonality.covariance is None
    for basis in ("raw", "one_sided", "low_rank"):
        expected = getattr(whole[0].measures.diagonality, basis).ratio
        assert getattr(wide.measures.diagonality, basis).ratio == pytest.approx(expected, rel=1e-5)
    assert narrow == whole[1]
    assert narrow.measures.diagonality.two_sided is not None


def test_the_rate_of_a_device_is_measured_and_small_layers_need_none():
    assert bases_flops_per_s(torch.device("cpu")) > 1e6
    assert are_quick((512, 512))
    assert not are_quick((512, 513))


def test_memory_in_cycles_is_freed_and_another_c_library_is_no_error(monkeypatch):
    class Cycle:
        pass

    for library in (freed_memory.ctypes.CDLL, lambda name: object()):
        monkeypatch.setattr(freed_memory.ctypes, "CDLL", library)
        first, second = Cycle(), Cycle()
        first.other, second.other = second, first
        alive = weakref.ref(first)
        del first, second
        freed_memory.release_memory()
        assert alive() is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_numbers_and_keeps_its_random_state():
    model, batches = model_and_batches()
    model[2].p = 0.0
    on_cpu = measured(model, batches)
    model.cuda()
    state = torch.cuda.get_rng_state()
    on_gpu = measured(model, [batch.cuda() for batch in batches])
    assert torch.equal(torch.cuda.get_rng_state(), state)
    for cpu, gpu in zip(on_cpu, on_gpu, strict=True):
        assert gpu.spectrum.stable_rank.mean == pytest.approx(
            cpu.spectrum.stable_rank.mean, rel=1e-4
        )
        for basis in ("raw", "one_sided", "two_sided", "low_rank"):
            expected = getattr(cpu.measures.diagonality, basis).ratio
            assert getattr(gpu.measures.diagonality, basis).ratio == pytest.approx(
                expected, rel=1e-3
            )
