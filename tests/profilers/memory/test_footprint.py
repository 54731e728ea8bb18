"""Memory of a training step: followed under fake tensors, against torch's own tracker on real ones."""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from subopt.optimizers import METHODS, create, parameter_roles
from subopt.optimizers.state.storage_tracker import StorageTracker
from subopt.profilers.costs.architectures import WeightShape
from subopt.profilers.costs.formula import method_cost, state_bytes, weights_of
from subopt.profilers.memory import cuda_child as measured
from subopt.profilers.memory.footprint import (
    memory_by_formula,
    peak_by_formula,
    simulated_footprints,
)
from subopt.profilers.memory.phases import (
    HIGH_FACTOR,
    LOW_FACTOR,
    ModelPeaks,
    StepPeaks,
    simulated_memory,
    simulated_peak,
)
from subopt.profilers.memory.simulation import SimulatedModel, SimulationError, at_its_largest
from subopt.profilers.record.profile import Settings
from subopt.profilers.target.load import load_target
from subopt.profilers.target.session import Session


class Net(nn.Module):
    """Two layers of each shape, an embedding, a norm with a buffer, and activations as large as asked."""

    def __init__(self, width=24):
        super().__init__()
        self.embed = nn.Embedding(30, width)
        self.inner = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.norm = nn.BatchNorm1d(width)
        self.out = nn.Linear(width, 2 * width)

    def forward(self, tokens):
        x = self.embed(tokens)
        for layer in self.inner:
            x = torch.tanh(layer(x))
        return self.out(self.norm(x))


def loss(model, tokens):
    return model(tokens).square().mean()


SMALL = torch.randint(30, (2,))
LARGE = torch.randint(30, (3000,))


def tracked_on_real_tensors(method, batch):
    """The peak that torch's own tracker sees over three real training steps."""
    model = Net()
    optimizer = create(method, model, **at_its_largest(method, {}))
    tracker = MemTracker()
    tracker.track_external(model, batch)
    with tracker:
        for _ in range(3):
            loss(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
            tracker.reset_mod_stats()
    return tracker.get_tracker_snapshot("peak")[torch.device("cpu")]


@pytest.mark.parametrize("batch", [SMALL, LARGE], ids=["step dominates", "activations dominate"])
@pytest.mark.parametrize("method", ["adamw", "hfac", "galore", "osd", "adadiag", "adadiag++"])
def test_the_simulated_peak_is_that_of_real_tensors(method, batch):
    real = tracked_on_real_tensors(method, batch)
    simulated = SimulatedModel(Net, batch, loss)
    peak = simulated_peak(simulated.peaks, simulated.step_peaks(method, {}), 0)
    assert peak.bytes == pytest.approx(real["Total"], rel=0.02)
    # Adam's step has no temporaries beside its state, so it never dominates.
    passes_dominate = batch is LARGE or method == "adamw"
    assert peak.phase in ({"forward", "backward"} if passes_dominate else {"step", "refresh"})


# One of each kind of state; the others' states are compared with the table beside the optimizers.
KINDS = ["adafactor", "muon", "galore", "osd-two-sided", "soap", "shampoo", "shared-basis", "dlrt"]


@pytest.mark.parametrize("method", KINDS)
def test_simulated_state_is_what_the_method_table_says(method):
    simulated = SimulatedModel(Net, SMALL, loss)
    weights = weights_of(parameter_roles(simulated.model))
    for options in METHODS[method].test_inputs[:2]:
        step = simulated.step_peaks(method, options)
        assert step.state_bytes == state_bytes(weights, METHODS[method], options)


@pytest.mark.parametrize("method", ["adamw-8bit", "galore-8bit", "osd-8bit"])
def test_simulated_state_in_blocks_of_codes_is_what_the_method_table_says(method):
    simulated = SimulatedModel(lambda: Net(width=128), SMALL, loss)
    weights = weights_of(parameter_roles(simulated.model))
    held = state_bytes(weights, METHODS[method])
    assert simulated.step_peaks(method, {}).state_bytes == held
    assert held < state_bytes(weights, METHODS[method.removesuffix("-8bit")])


@pytest.mark.parametrize("method", ["adamw", "adadiag++"])
def test_following_one_parameter_of_each_kind_equals_following_all(method):
    simulated = SimulatedModel(Net, SMALL, loss)
    step = simulated.step_peaks(method, {})
    tracker = StorageTracker()
    mode = FakeTensorMode()
    with mode:
        model = Net()
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)
        tracker.file([*model.parameters(), *model.buffers()], "parameter")
        tracker.file([parameter.grad for parameter in model.parameters()], "gradient")
        optimizer = create(method, model, **at_its_largest(method, {}))
        totals = []
        with tracker:
            for _ in range(3):
                tracker.reset_peak()
                optimizer.step()
                totals.append(tracker.peak_bytes.total())
    batch_bytes = SMALL.nbytes
    assert step.step.total() - batch_bytes == totals[1]
    if step.refresh is not None:
        assert step.refresh.total() - batch_bytes == totals[2]


def test_phases_of_a_method_with_and_without_decompositions():
    simulated = SimulatedModel(Net, SMALL, loss)
    plain = simulated_peak(simulated.peaks, simulated.step_peaks("lion", {}), 0)
    rotated = simulated_peak(simulated.peaks, simulated.step_peaks("adadiag", {}), 0)
    assert plain.by_phase.refresh is None
    assert rotated.by_phase.refresh > rotated.by_phase.step
    assert rotated.phase == "refresh"


def test_the_categories_of_the_model():
    simulated = SimulatedModel(Net, LARGE, loss)
    model = Net()
    parameters = sum(p.nbytes for p in model.parameters())
    buffers = sum(b.nbytes for b in model.buffers())
    assert simulated.peaks.parameter_bytes == parameters + buffers
    assert simulated.peaks.gradient_bytes == parameters
    assert simulated.peaks.activation_bytes > LARGE.nbytes + 5 * 3000 * 24 * 4
    step = simulated.step_peaks("adamw", {})
    table = simulated_memory(simulated.peaks, step)
    assert table.peak_bytes == simulated_peak(simulated.peaks, step, 0).bytes
    assert table.optimizer_state_bytes == step.state_bytes
    assert table.source == "simulated"


def test_one_method_leaves_nothing_behind_for_the_next():
    simulated = SimulatedModel(Net, SMALL, loss)
    alone = simulated.step_peaks("lion", {})
    simulated.step_peaks("adadiag++", {})
    assert simulated.step_peaks("lion", {}) == alone


def test_nothing_is_allocated_for_a_model_larger_than_any_machine():
    def build():
        return nn.Sequential(nn.Linear(2**20, 2**20, bias=False), nn.Linear(2**20, 2, bias=False))

    simulated = SimulatedModel(build, torch.zeros(1, 2**20), lambda m, x: m(x).mean())
    assert all(isinstance(p, FakeTensor) for p in simulated.model.parameters())
    step = simulated.step_peaks("adadiag", {})
    assert step.state_bytes > 3 * 4 * 2**40


def test_a_model_made_earlier_is_copied_not_changed():
    model = Net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    simulated = SimulatedModel(lambda: model, SMALL, loss)
    assert simulated.peaks.parameter_bytes == SimulatedModel(Net, SMALL, loss).peaks.parameter_bytes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and not isinstance(p, FakeTensor) for p in model.parameters())


def test_a_method_that_cannot_be_followed_is_noted_and_the_others_go_on(monkeypatch):
    simulated = SimulatedModel(Net, SMALL, loss)
    weights = weights_of(parameter_roles(simulated.model))
    costs = [method_cost(weights, METHODS[name]) for name in ("dlrt", "lion")]

    def failing(model, batch):
        raise RuntimeError("needs a value\nfor this")

    monkeypatch.setattr(simulated, "_loss_of", failing)
    notes = []
    found = list(simulated_footprints(simulated, lambda model: None, costs, notes))
    assert [footprint.method for footprint in found] == ["lion"]
    assert notes == ["peak of dlrt: without data it fails with RuntimeError: needs a value"]


def test_replacing_layers_leaves_the_followed_model_as_it_was():
    simulated = SimulatedModel(Net, SMALL, loss)
    before = simulated.step_peaks("lion", {})
    step = simulated.step_peaks("dlrt", {"rank": 1, "max_rank": 8})  # it takes steps to grow so far
    weights = weights_of(parameter_roles(simulated.model))
    cost = method_cost(weights, METHODS["dlrt"], {"rank": 1, "max_rank": 8})
    assert step.state_bytes == cost.state_bytes
    assert simulated.step_peaks("lion", {}) == before


def test_only_the_users_groups_are_trained():
    simulated = SimulatedModel(Net, SMALL, loss)
    step = simulated.step_peaks("adamw", {}, lambda model: [{"params": [model.out.weight]}])
    assert step.state_bytes == METHODS["adamw"].state_bytes((48, 24))


def test_a_branch_on_a_value_cannot_be_followed():
    def branching(model, batch):
        result = loss(model, batch)
        return 2 * result if result.item() > 0 else result

    with pytest.raises(SimulationError, match="DataDependentOutput"):
        SimulatedModel(Net, SMALL, branching)


def test_the_tracker_counts_storages_once_and_forgets_the_dead():
    tracker = StorageTracker()
    with tracker:
        tracker.category = "a"
        x = torch.zeros(100)
        view = x[:10]
        tracker.category = "b"
        y = x + 1
        assert tracker.live_bytes == Counter(a=400, b=400)
        del x
        assert tracker.live_bytes["a"] == 400
        del view
        assert +tracker.live_bytes == Counter(b=400)
        assert tracker.peak_bytes == Counter(a=400, b=400)
        tracker.reset_peak()
        tracker.file([y], "c")
    assert +tracker.peak_bytes == Counter(b=400)
    assert +tracker.live_bytes == Counter(c=400)


def by_hand():
    model = ModelPeaks(
        parameter_bytes=100,
        gradient_bytes=90,
        activation_bytes=50,
        forward=Counter(parameter=100, activation=60),
        backward=Counter(parameter=100, gradient=30, activation=40, temporary=20),
    )
    step = StepPeaks(
        state_bytes=200,
        step=Counter(parameter=100, gradient=90, state=200, temporary=5),
        refresh=Counter(parameter=100, gradient=90, state=200, temporary=70),
    )
    return model, step


def test_the_peak_is_the_highest_phase_with_an_interval_that_leans_upwards():
    peak = simulated_peak(*by_hand(), transient_bytes=1000)
    assert peak.by_phase.model_dump() == {
        "forward": 360,
        "backward": 390,
        "step": 395,
        "refresh": 460,
    }
    assert (peak.bytes, peak.phase) == (460, "refresh")
    assert peak.low_bytes == int(LOW_FACTOR * 460)
    assert peak.high_bytes == int(HIGH_FACTOR * 460) + 1000
    assert HIGH_FACTOR - 1 > 1 - LOW_FACTOR


def test_the_memory_table_takes_temporaries_at_the_highest_instant():
    model, step = by_hand()
    table = simulated_memory(model, step)
    assert (table.peak_bytes, table.temporary_bytes) == (460, 70)
    forward_highest = StepPeaks(200, Counter(parameter=100), None)
    assert simulated_memory(model, forward_highest).temporary_bytes == 390 - 100 - 30 - 200 - 40


def test_by_formula_only_shapes_are_known():
    weights = [
        WeightShape("a", (6, 10), "matrix"),
        WeightShape("b", (6,), "fallback", torch.bfloat16),
        WeightShape("c", (50,), "frozen"),
    ]
    memory = memory_by_formula(weights, 480)
    assert (memory.parameter_bytes, memory.gradient_bytes) == (240 + 12 + 200, 240 + 12)
    assert memory.activation_bytes is None
    assert memory.peak_bytes is None
    cost = method_cost(weights, METHODS["lion"])
    peak = peak_by_formula(memory, cost)
    assert peak.bytes == 452 + 252 + cost.state_bytes + cost.transient_bytes
    low_rank = method_cost(weights, METHODS["dlrt"], {"rank": 1, "rank_mode": "fixed"})
    own = low_rank.state_bytes + low_rank.transient_bytes
    saved = 4 * (60 - (1 * 16 + 1))
    assert peak_by_formula(memory, low_rank).bytes == 452 + 252 - 2 * saved + own
    assert (peak.phase, peak.source) == ("step", "formula")
    assert peak.by_phase.forward is None


MEASURED = measured.MeasuredPeaks(
    parameter_bytes=100,
    gradient_bytes=90,
    activation_bytes=50,
    state_bytes=200,
    phases={"forward": 360, "backward": 400, "step": 395},
    reserved_bytes=512,
)


def test_a_measured_peak_lies_between_allocated_and_reserved():
    peak = measured.measured_peak(MEASURED)
    assert (peak.low_bytes, peak.bytes, peak.high_bytes) == (400, 400, 512)
    assert (peak.phase, peak.source, peak.by_phase.refresh) == ("backward", "measured", None)
    assert measured.measured_memory(MEASURED).temporary_bytes == 400 - 100 - 200 - 50


MODEL_FILE = """
import torch
from torch import nn

def build_model():
    return nn.Sequential(nn.Linear(256, 512), nn.Tanh(), nn.Linear(512, 256))

def batches(batch_size):
    while True:
        yield torch.randn(batch_size, 256)

def loss(model, batch):
    return model(batch).square().mean()
"""


@pytest.fixture
def target(tmp_path):
    (tmp_path / "model.py").write_text(MODEL_FILE)
    return load_target("model.py", base=tmp_path)


@pytest.mark.process
def test_a_child_that_fails_says_why(target):
    request = measured.PeakRequest(
        target=target.load_arguments(),
        settings=Settings(batch_size=2, batches=1, device="cuda").model_dump(),
        methods=[("no-such-method", {})],
    )
    with pytest.raises(measured.MeasurementError, match=r"no-such-method|CUDA"):
        measured.measure_in_child(request)


@pytest.mark.process
def test_the_users_folder_does_not_take_the_standard_librarys_place_in_the_child(monkeypatch):
    folder = Path(__file__).parents[2] / "assets" / "owns_a_library_name"
    monkeypatch.chdir(folder)
    request = measured.PeakRequest(
        target=load_target("model.py", base=folder).load_arguments(),
        settings=Settings(batch_size=2, batches=1).model_dump(),
        methods=[],  # the child starts, imports what it needs, and loads the model
    )
    assert measured.measure_in_child(request) == {}


NOISE = """
import atexit, os, sys
print("a line", flush=True)
os.write(1, b"\\xff bytes\\n")
os.write(2, b"\\xff bytes\\n")
answered = sys.stdin.read()
atexit.register(print, "last words", file=sys.stderr)
"""
# The child's side with a measurement that needs no GPU; the target in the request is a real file, and noisy.
FAKE_CHILD = """
import sys
from subopt.profilers.memory import cuda_child as measured
def measure(session, method, options):
    print("measuring", method, flush=True)
    session.build_model()
    if method == "osd":
        raise ValueError("no such luck\\nin two lines")
    return measured.MeasuredPeaks(1, 2, 3, len(options), {"step": 4}, 5)
measured.measure = measure
measured.main(sys.argv[1:])
"""


@pytest.fixture
def ask_noisy(target, tmp_path):
    """Asks a child that runs the real protocol on a model file that prints all it can."""
    noisy = MODEL_FILE.replace(
        "    return nn.Sequential", "    print('building')\n    return nn.Sequential"
    )
    (tmp_path / "model.py").write_text(NOISE + noisy)

    def asked(*methods):
        folder = tmp_path / "files"
        folder.mkdir()
        request = measured.PeakRequest(
            target=target.load_arguments(),
            settings=Settings(batch_size=2, batches=1).model_dump(),
            methods=[(name, {}) for name in methods],
        )
        question = folder / "request.json"
        question.write_text(json.dumps(dataclasses.asdict(request), default=str))
        return measured.ask([sys.executable, "-c", FAKE_CHILD, str(question)], folder)

    return asked


@pytest.mark.process
def test_what_the_users_code_prints_in_the_child_goes_nowhere(ask_noisy, capfd):
    rows = ask_noisy("adamw", "lion")
    assert list(rows) == ["adamw", "lion"]
    assert measured.MeasuredPeaks(**rows["lion"]).phases == {"step": 4}
    assert capfd.readouterr() == ("", "")


@pytest.mark.process
def test_a_child_that_fails_gives_its_own_reason_and_not_the_users_last_words(ask_noisy, capfd):
    with pytest.raises(measured.MeasurementError) as caught:
        ask_noisy("osd")
    assert str(caught.value) == "ValueError: no such luck"
    assert capfd.readouterr() == ("", "")


@pytest.mark.process
def test_a_child_that_dies_is_told_with_its_status(tmp_path):
    killed = "import os, sys; os.write(2, b'\\xff half\\n'); os._exit(7)"
    with pytest.raises(measured.MeasurementError, match=r"status 7: . half"):
        measured.ask([sys.executable, "-c", killed], tmp_path)


@pytest.mark.parametrize("method", ["adadiag", "dlrt"])
def test_measuring_reads_the_allocator_at_the_right_moments(target, monkeypatch, method):
    """On the CPU, with the allocator's counters played by the tracker: the phases must be the simulated ones."""
    torch.manual_seed(0)  # weights and data decide how far ranks are cut, and that the bytes
    tracker = StorageTracker()
    counters = {
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda device: tracker.reset_peak(),
        "memory_allocated": lambda device: tracker.live_bytes.total(),
        "max_memory_allocated": lambda device: tracker.peak_bytes.total(),
        "max_memory_reserved": lambda device: 10**9,
    }
    for name, function in counters.items():
        monkeypatch.setattr(torch.cuda, name, function)
    session = Session(target, Settings(batch_size=64, batches=1))
    simulated = SimulatedModel(session.build_model, next(session.batches()), session.loss)
    step = simulated.step_peaks(method, {})
    with tracker:
        row = measured.measure(session, method, {})
    expected = simulated_peak(simulated.peaks, step, 0).by_phase.model_dump()
    for phase, count in expected.items():
        assert row.phases[phase] == pytest.approx(count, rel=0.02), phase
    assert row.state_bytes == step.state_bytes
    weights = weights_of(parameter_roles(simulated.model))
    saved = method_cost(weights, METHODS[method]).weight_bytes_saved
    assert row.parameter_bytes == simulated.peaks.parameter_bytes - saved
    assert row.reserved_bytes == 10**9
    if METHODS[method].layers:
        assert saved > 0
        return
    assert row.gradient_bytes == simulated.peaks.gradient_bytes
    # On a GPU the batch is copied there in the forward phase; here it was there before.
    without_batch = simulated.peaks.activation_bytes - 64 * 256 * 4
    assert row.activation_bytes == pytest.approx(without_batch, rel=0.02)


@pytest.mark.gpu
@pytest.mark.slow
def test_measured_and_simulated_peaks_agree(target):
    settings = Settings(batch_size=4096, batches=1, device="cuda")
    request = measured.PeakRequest(
        target=target.load_arguments(),
        settings=settings.model_dump(),
        methods=[("adamw", {}), ("adadiag", {})],
    )
    rows = measured.measure_in_child(request)
    session = Session(target, Settings(batch_size=4096, batches=1))
    simulated = SimulatedModel(session.build_model, next(session.batches()), session.loss)
    for name, row in rows.items():
        step = simulated.step_peaks(name, {})
        guess = simulated_peak(simulated.peaks, step, METHODS[name].transient_bytes((512, 256)))
        assert row.state_bytes == pytest.approx(step.state_bytes, abs=4096)
        assert guess.low_bytes <= measured.measured_peak(row).bytes <= guess.high_bytes


def test_copied_and_recurrent_layers_are_simulated_without_a_word(recwarn):
    simulated = SimulatedModel(
        lambda: copy.deepcopy(nn.LSTM(8, 8, batch_first=True)),
        torch.randn(2, 5, 8),
        lambda model, batch: model(batch)[0].square().mean(),
    )
    assert simulated.peaks.parameter_bytes == 4 * (2 * 32 * 8 + 2 * 32)
    assert [str(warning.message) for warning in recwarn] == []
