"""Layers measured in groups: the same numbers whatever the memory allowed."""

import pytest
import torch
from torch import nn

from subopt.profilers import layers
from subopt.profilers.diagonality import measure_diagonality
from subopt.profilers.layers import layer_groups, measure_layers
from subopt.profilers.spectrum import SpectrumAccumulator
from subopt.profilers.svd_time import full_svd_flops_per_s, is_svd_quick

RANKS = {"0.weight": 2, "3.weight": 1}


def model_and_batches():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Dropout(0.3), nn.Linear(5, 4))
    return model, [torch.randn(8, 6) for _ in range(5)]


def loss_of(model, batch):
    return model(batch).square().mean()


@pytest.mark.parametrize(("group_bytes", "passes"), [(10**9, 1), (1, 2)])
def test_every_layer_gets_the_numbers_of_its_own_gradients(group_bytes, passes):
    model, batches = model_and_batches()
    plain: dict[str, list[torch.Tensor]] = {name: [] for name in RANKS}
    torch.manual_seed(9)
    for batch in batches:
        model.zero_grad()
        loss_of(model, batch).backward()
        for name in RANKS:
            plain[name].append(model.get_parameter(name).grad.clone())
    model.zero_grad()
    torch.manual_seed(9)
    ticks = []
    measured = list(
        measure_layers(
            model,
            loss_of,
            batches,
            RANKS,
            group_bytes=group_bytes,
            on_batch=lambda done, total: ticks.append((done, total)),
        )
    )
    assert [layer.name for layer in measured] == list(RANKS)
    for layer in measured:
        spectrum = SpectrumAccumulator()
        for G in plain[layer.name]:
            spectrum.add(G)
        assert layer.spectrum == spectrum.result()
        assert layer.diagonality == measure_diagonality(plain[layer.name], RANKS[layer.name])
    assert ticks[0] == (0, 5 * passes)
    assert ticks[-1] == (5 * passes, 5 * passes)


def test_a_layer_without_gradient_has_neither():
    model, batches = model_and_batches()
    model.append(nn.Linear(4, 3))
    (layer,) = measure_layers(model, lambda m, x: m[:4](x).sum(), batches, {"4.weight": 1})
    assert layer.spectrum is None
    assert layer.diagonality is None


def test_groups_fill_the_memory_in_order_and_a_large_layer_is_alone():
    sizes = {"a": 4, "b": 5, "c": 2, "d": 30, "e": 1}
    assert layer_groups(sizes, 10) == [["a", "b"], ["c"], ["d"], ["e"]]
    assert layer_groups({}, 10) == []


def test_a_layer_whose_full_decomposition_takes_too_long_has_no_two_sided_number(monkeypatch):
    model, batches = model_and_batches()
    # 5 x 6 and 4 x 5: 4 n^2 m + 8 n m^2 + 9 m^3
    flops = {"0.weight": 720 + 1200 + 1125, "3.weight": 400 + 640 + 576}
    devices = []
    monkeypatch.setattr(layers, "is_svd_quick", lambda shape: False)
    monkeypatch.setattr(
        layers, "full_svd_flops_per_s", lambda device: devices.append(device.type) or 100.0
    )
    between = (flops["3.weight"] + 1) / 100.0
    limited = list(measure_layers(model, loss_of, batches, RANKS, two_sided_limit_s=between))
    whole = list(measure_layers(model, loss_of, batches, RANKS, two_sided_limit_s=1e9))
    assert devices == ["cpu", "cpu"]  # timed once for all layers
    wide, narrow = limited
    assert wide.diagonality.two_sided is None
    assert not any("two_sided" in key for key in wide.diagonality.white_noise)
    for basis in ("raw", "one_sided", "low_rank"):
        expected = getattr(whole[0].diagonality, basis).ratio
        assert getattr(wide.diagonality, basis).ratio == pytest.approx(expected, rel=1e-5)
    assert narrow == whole[1]
    assert narrow.diagonality.two_sided is not None


def test_the_rate_of_a_device_is_measured_and_small_layers_need_none():
    assert full_svd_flops_per_s(torch.device("cpu")) > 1e6
    assert is_svd_quick((256, 256))
    assert not is_svd_quick((256, 257))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_numbers_and_keeps_its_random_state():
    model, batches = model_and_batches()
    model[2].p = 0.0
    on_cpu = list(measure_layers(model, loss_of, batches, RANKS))
    model.cuda()
    state = torch.cuda.get_rng_state()
    on_gpu = list(measure_layers(model, loss_of, [batch.cuda() for batch in batches], RANKS))
    assert torch.equal(torch.cuda.get_rng_state(), state)
    for cpu, gpu in zip(on_cpu, on_gpu, strict=True):
        assert gpu.spectrum.stable_rank.mean == pytest.approx(
            cpu.spectrum.stable_rank.mean, rel=1e-4
        )
        for basis in ("raw", "one_sided", "two_sided", "low_rank"):
            expected = getattr(cpu.diagonality, basis).ratio
            assert getattr(gpu.diagonality, basis).ratio == pytest.approx(expected, rel=1e-3)
