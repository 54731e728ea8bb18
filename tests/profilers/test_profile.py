"""The whole profile on a small model: every stage, its interruption, and what it refuses."""

from __future__ import annotations

import dataclasses
import itertools
import time

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

from subopt.errors import PreflightError, UserCodeError
from subopt.optimizers import METHODS
from subopt.optimizers.state import low_bit
from subopt.profilers import method_table
from subopt.profilers import profile as module
from subopt.profilers.gradients import basis_cost as basis_time
from subopt.profilers.profile import run_profile
from subopt.profilers.record.profile import Profile, Settings
from subopt.profilers.target.load import load_target
from subopt.profilers.target.session import Session
from subopt.profilers.timing import clock, decompositions

MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.embed = nn.Embedding(20, width)
        self.drop = nn.Dropout(0.1)
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, 2 * width)
        self.head = nn.Linear(2 * width, 20)

    def forward(self, tokens):
        x = torch.tanh(self.first(self.drop(self.embed(tokens))))
        return self.head(torch.tanh(self.second(x)))

def build_model(width: int = 16):
    return Net(width)

def batches(batch_size):
    while True:
        yield torch.randint(20, (batch_size, 7))

def loss(model, batch):
    return nn.functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1).float(), batch[:, 1:].flatten())
"""
BRANCHING = MODEL.replace(
    "return nn.functional",
    "if batch.float().mean().item() > 99:\n        return None\n    return nn.functional",
)
GROUPS = MODEL + "\ndef param_groups(model):\n    return [{'params': model.second.parameters()}]\n"
METHOD_NAMES = ["adamw", "galore", "adadiag"]
NO_TIMES = {"forward_backward_ms": None, "decompositions": []}


@pytest.fixture
def load(tmp_path):
    def loaded(source=MODEL, **kwargs):
        (tmp_path / "model.py").write_text(source)
        return load_target("model.py", kwargs, base=tmp_path)

    return loaded


def settings(**changes):
    return Settings(**{"batch_size": 4, "batches": 3, **changes})


@pytest.fixture(autouse=True)
def quick_kernels(monkeypatch):
    """Spend no time on the decompositions: they have tests of their own, and `standard` times them."""
    original = module.time_shape

    def time_shape(*arguments, **options):
        return original(*arguments, **{**options, "budget_s": 0.0})

    monkeypatch.setattr(module, "time_shape", time_shape)


@pytest.fixture(scope="module")
def standard(tmp_path_factory):
    """A complete standard profile with the events of its making."""
    folder = tmp_path_factory.mktemp("target")
    (folder / "model.py").write_text(MODEL)
    events, checks = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decompositions, "MOST_REPEATS", decompositions.LEAST_REPEATS)
        found = run_profile(
            load_target("model.py", base=folder),
            settings(steps=3),
            methods=METHOD_NAMES,
            progress=events.append,
            on_preflight=checks.append,
        )
    return found, events, checks


def test_everything_is_there(standard):
    found, _, checks = standard
    assert found.missing == []
    assert not found.interrupted
    assert [layer.role for layer in found.layers].count("matrix") == 3
    for layer in found.layers:
        measured = layer.role == "matrix"
        assert (layer.spectrum is not None) == measured
        for quantity in ("diagonality", "off_diagonal", "agreement", "blocks", "noise", "subspace"):
            assert (getattr(layer, quantity) is not None) == measured, quantity
        assert (layer.activations is not None) == measured
    assert [row.method for row in found.methods] == METHOD_NAMES
    assert {row.peak.source for row in found.methods} == {"simulated"}
    assert found.memory.source == "simulated"
    assert found.forward_backward_ms > 0
    assert {tuple(row.shape) for row in found.decompositions} == {(16, 16), (16, 32), (20, 32)}
    assert found.settings.tokens_per_batch == 28
    assert [check.name for check in checks[0]][:2] == ["parameters", "loss"]


def test_it_survives_its_own_file(standard, tmp_path):
    found, _, _ = standard
    found.save(tmp_path / "profile.json")
    assert Profile.load(tmp_path / "profile.json") == found


def test_overheads_are_against_adamw(standard):
    found, _, _ = standard
    rows = {row.method: row for row in found.methods}
    assert rows["adamw"].overhead_ms == 0
    for row in found.methods:
        assert row.overhead_ms <= row.step_ms
        assert row.step_ms_source == "measured"


def test_a_load_that_grows_while_timing_is_no_overhead(load, monkeypatch):
    """Every timed call takes 1 ms longer than the one before, whatever it runs."""
    calls = itertools.count(1)

    def timed(run, devices):
        run()
        return float(next(calls))

    monkeypatch.setattr(clock, "timed_ms", timed)
    found = run_profile(load(), settings(), methods=["adamw", "lion", "momentum"])
    adamw, *others = found.methods
    for row in others:
        assert row.step_ms > adamw.step_ms + 5
        assert row.overhead_ms == -1  # AdamW's step is the call after


def test_the_peak_of_adamw_is_that_of_the_memory_table(standard):
    found, _, _ = standard
    adamw = found.methods[0]
    assert found.memory.peak_bytes == adamw.peak.bytes
    assert found.memory.optimizer_state_bytes == adamw.state_bytes


def test_progress_goes_through_the_stages_in_order(standard):
    found, events, _ = standard
    stages = list(dict.fromkeys(event.stage for event in events))
    assert stages == [
        "loading",
        "costs",
        "memory",
        "subspaces",
        "gradients",
        "forward and backward",
        "optimizer steps",
        "decompositions",
    ]
    assert all(0 <= event.done <= event.total for event in events)
    last = {event.stage: event for event in events}
    assert all(event.done == event.total for event in last.values())
    named = {event.stage: {e.item for e in events if e.stage == event.stage} for event in events}
    for stage in ("costs", "memory", "optimizer steps"):
        assert named[stage] >= set(METHOD_NAMES), stage
    assert named["gradients"] >= {
        layer.name for layer in found.layers if layer.spectrum is not None
    }


def test_no_stage_is_silent_for_more_than_two_passes(load, monkeypatch):
    clock_s, heard_s, events = [0.0], [0.0], []
    gaps_s: dict[str, float] = {}
    loss = Session.loss

    def slow(self, model, batch):
        if not isinstance(model.head.weight, FakeTensor):
            clock_s[0] += 2.5  # as if a pass took so long; nothing else takes any time
        return loss(self, model, batch)

    def heard(event):
        gap_s, heard_s[0] = clock_s[0] - heard_s[0], clock_s[0]
        stage = events[-1].stage if events else "start"
        gaps_s[stage] = max(gaps_s.get(stage, 0.0), gap_s)
        events.append(event)

    monkeypatch.setattr(Session, "loss", slow)
    monkeypatch.setattr(method_table, "_SHORT_PASSES_MS", 0.0)  # no passes between timed steps
    run_profile(load(), settings(steps=4), methods=["adamw", "lion"], progress=heard)
    assert clock_s[0] >= 2.5 * (4 + 3 + 3)  # of the short run, the gradients, the timed passes
    assert max(gaps_s.values()) <= 5.0, gaps_s
    assert gaps_s["subspaces"] == gaps_s["gradients"] == gaps_s["forward and backward"] == 2.5


def test_a_partial_profile_is_told_after_every_stage(load):
    told = {}
    chosen = settings(steps=2)
    found = run_profile(
        load(), chosen, methods=["adamw", "lion"], on_stage=lambda *event: told.update([event])
    )
    assert list(told) == ["memory", "short run", "gradients", "optimizer steps", "decompositions"]
    assert told["memory"].memory.source == "simulated"
    assert {row.peak.source for row in told["memory"].methods} == {"simulated"}
    assert told["memory"].layers[1].spectrum is None
    assert told["gradients"].layers[1].spectrum is not None
    assert told["gradients"].methods[1].step_ms is None
    assert told["optimizer steps"].methods[1].step_ms is not None
    assert told["optimizer steps"].decompositions == []
    assert told["decompositions"].decompositions == found.decompositions
    assert Profile.model_validate_json(told["memory"].model_dump_json()) == told["memory"]


def test_quick_leaves_out_what_takes_long(load):
    found = run_profile(load(), settings(detail="quick"), methods=["adamw"])
    assert all(layer.diagonality is None for layer in found.layers)
    assert any(layer.spectrum is not None for layer in found.layers)
    assert {key: getattr(found, key) for key in NO_TIMES} == NO_TIMES
    assert found.methods[0].step_ms is None
    assert found.memory.source == "simulated"


def test_quick_measures_some_of_the_gradients_that_standard_does(load, standard):
    quick = run_profile(load(), settings(detail="quick", steps=3), methods=["adamw"])
    for some, every in zip(quick.layers, standard[0].layers, strict=True):
        assert (some.spectrum is None) == (every.spectrum is None)
        if every.spectrum:
            assert (some.spectrum.batches, every.spectrum.batches) == (1, 3)
            mean, spread = some.spectrum.stable_rank.mean, every.spectrum.stable_rank
            assert spread.min <= mean <= spread.max


def test_the_seed_decides_weights_data_and_dropout(load):
    first, again, other = (
        run_profile(load(), settings(detail="quick", seed=seed), methods=["adamw"])
        for seed in (1, 1, 2)
    )
    assert first.layers == again.layers
    assert first.layers != other.layers


def test_the_generators_are_left_alone(load):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    run_profile(load(), settings(detail="quick"), methods=["adamw"])
    assert torch.equal(torch.rand(2), expected)


def test_simulating_runs_nothing_however_large(load):
    found = run_profile(load(width="200000"), settings(simulate=True), methods=["adamw", "adadiag"])
    assert found.memory.parameter_bytes > 3 * 4 * 200_000**2
    assert {row.peak.source for row in found.methods} == {"simulated"}
    assert found.methods[1].relative_flops > 0
    assert all(layer.spectrum is None for layer in found.layers)
    assert {key: getattr(found, key) for key in NO_TIMES} == NO_TIMES
    assert found.missing == []


def test_simulated_and_full_profiles_agree_on_memory(load, standard):
    """But for the upper end of the interval: where nothing is run, some unknown GPU's workspaces may come on top."""
    found = run_profile(load(), settings(simulate=True), methods=METHOD_NAMES)
    assert found.memory == standard[0].memory
    for simulated, beside in zip(found.methods, standard[0].methods, strict=True):
        assert simulated.peak.high_bytes >= beside.peak.high_bytes
        same = {"high_bytes": beside.peak.high_bytes}
        assert simulated.peak.model_copy(update=same) == beside.peak


@pytest.mark.parametrize("simulate", [False, True])
def test_what_cannot_be_simulated_is_said(load, simulate):
    chosen = settings(detail="quick", simulate=simulate)
    found = run_profile(load(BRANCHING), chosen, methods=["adamw", "adadiag"])
    assert found.memory.source == "formula"
    assert found.memory.activation_bytes is None
    assert {row.peak.source for row in found.methods} == {"formula"}
    assert len(found.missing) == 1
    assert "activations" in found.missing[0]
    assert "DataDependentOutput" in found.missing[0]
    assert any(layer.spectrum is not None for layer in found.layers) != simulate


@pytest.mark.parametrize(
    ("stage", "lost"),
    [
        ("memory", ["memory", "short run", "gradients", "optimizer steps", "decompositions"]),
        ("warm-up", ["short run", "gradients", "optimizer steps", "decompositions"]),
        ("subspaces", ["short run", "gradients", "optimizer steps", "decompositions"]),
        ("gradients", ["gradients", "optimizer steps", "decompositions"]),
        ("optimizer steps", ["optimizer steps", "decompositions"]),
        ("decompositions", ["decompositions"]),
    ],
)
def test_an_interrupt_keeps_what_was_complete(load, stage, lost):
    def interrupt(event):
        if event.stage == stage:
            raise KeyboardInterrupt

    found = run_profile(
        load(),
        settings(warmup_steps=1, steps=2),
        methods=["adamw", "lion"],
        progress=interrupt,
    )
    assert found.interrupted
    assert found.missing == [f"{name}: interrupted" for name in lost]
    assert (found.layers[1].spectrum is None) == ("gradients" in lost)
    assert (found.layers[1].subspace is None) == ("short run" in lost)
    assert found.memory.source == ("formula" if "memory" in lost else "simulated")
    assert (found.methods[0].step_ms is None) == ("optimizer steps" in lost)


def test_an_interrupt_before_there_is_anything_is_not_swallowed(load):
    def interrupt(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_profile(load(), settings(), progress=interrupt)


def test_warm_up_moves_the_weights_before_measuring(load):
    cold = run_profile(load(), settings(detail="quick"), methods=["adamw"])
    warm = run_profile(load(), settings(detail="quick", warmup_steps=3), methods=["adamw"])
    assert cold.layers != warm.layers
    assert cold.memory == warm.memory


def test_parameters_outside_the_users_groups_are_frozen(load):
    found = run_profile(load(GROUPS), settings(detail="quick"), methods=["adamw"])
    parameter_roles = {layer.name: (layer.role, layer.reason) for layer in found.layers}
    assert parameter_roles["first.weight"] == ("frozen", "not in param_groups(model)")
    assert parameter_roles["second.weight"][0] == "matrix"
    numbers = 16 * 32 + 32
    assert 0 <= found.methods[0].state_bytes - 2 * 4 * numbers <= 64
    assert found.memory.optimizer_state_bytes == found.methods[0].state_bytes


@pytest.mark.parametrize(("dtype", "size"), [("fp32", 4), ("bf16", 2), ("bf16-mixed", 4)])
def test_the_precision_decides_the_bytes(load, dtype, size):
    found = run_profile(load(), settings(detail="quick", dtype=dtype), methods=["lion"])
    numbers = 20 * 16 + 16 * 16 + 16 + 32 * 16 + 32 + 20 * 32 + 20
    assert found.memory.parameter_bytes == size * numbers
    assert found.layers[1].spectrum is not None


def test_the_baseline_is_measured_even_if_not_asked_for(load):
    found = run_profile(load(), settings(), methods=["lion"])
    assert [row.method for row in found.methods] == ["lion"]
    assert found.methods[0].overhead_ms is not None
    assert found.memory.optimizer_state_bytes > found.methods[0].state_bytes


def test_every_method_of_the_table_is_the_default(load, monkeypatch):
    table = {name: METHODS[name] for name in ("hfac", "momentum")}
    monkeypatch.setattr(module, "METHODS", table)
    found = run_profile(load(), settings(simulate=True))
    assert [row.method for row in found.methods] == list(table)


def test_a_model_without_trained_matrices_can_be_simulated(load):
    source = MODEL + "\ndef param_groups(model):\n    return [{'params': [model.first.bias]}]\n"
    found = run_profile(load(source), settings(simulate=True), methods=["adadiag"])
    assert found.methods[0].relative_flops is None
    assert found.memory.source == "simulated"


@pytest.mark.parametrize("detail", ["quick", "standard"])
def test_a_model_without_trained_matrices_is_profiled(load, detail):
    source = MODEL + "\ndef param_groups(model):\n    return [{'params': [model.first.bias]}]\n"
    found = run_profile(load(source), settings(detail=detail, steps=2), methods=["adamw"])
    assert all(layer.spectrum is None for layer in found.layers)
    assert found.memory.source == "simulated"
    assert found.missing == []


def test_flops_are_related_to_the_tokens_that_meet_the_weights(standard):
    found, _, _ = standard
    numbers = 16 * 16 + 16 * 32 + 32 * 20
    # 7 tokens of 4 examples, of which the loss feeds 6 to the model.
    for row in found.methods:
        assert row.relative_flops == pytest.approx(row.step_flops / (6 * 24 * numbers), rel=1e-12)
        assert row.bound_relative == pytest.approx(row.bound_flops / (6 * 24 * numbers), rel=1e-12)


def test_gradients_are_measured_where_the_short_run_has_led(load):
    """Training while subspaces are watched is the same training as a warm-up of as many steps."""
    warmed, followed = (
        run_profile(load(), settings(batches=2, **steps), methods=["adamw"])
        for steps in ({"warmup_steps": 3}, {"steps": 3})
    )
    assert [layer.spectrum for layer in warmed.layers] == [
        layer.spectrum for layer in followed.layers
    ]
    assert all(layer.subspace is None for layer in warmed.layers)


def test_the_time_of_the_profile_itself_is_accounted_for(load):
    begin_s = time.perf_counter()
    found = run_profile(load(), settings(steps=2), methods=["adamw"])
    whole_s = time.perf_counter() - begin_s
    seconds = {item.on: item.seconds for item in found.spent}
    assert {"forward and backward", "spectra", "diagonality", "blocks", "memory"} <= set(seconds)
    assert list(seconds.values()) == sorted(seconds.values(), reverse=True)
    assert min(seconds.values()) >= 0
    # Loading and the check before anything long belong to no quantity.
    assert sum(seconds.values()) <= whole_s
    assert found.passes == 2 + 3 + 3


def test_a_model_that_cannot_be_measured_is_refused(load):
    with pytest.raises(PreflightError, match="scalar"):
        run_profile(load(MODEL.replace(".flatten())", ".flatten(), reduction='none')")), settings())
    with pytest.raises(UserCodeError):
        run_profile(load(MODEL.replace("self.second(x)", "self.second(x, x)")), settings())


@pytest.mark.parametrize("simulate", [False, True])
def test_sparse_gradients_are_refused_unless_they_are_not_trained(load, simulate):
    sparse = MODEL.replace("nn.Embedding(20, width)", "nn.Embedding(20, width, sparse=True)")
    chosen = settings(detail="quick", simulate=simulate)
    with pytest.raises(PreflightError, match="embed has sparse gradients"):
        run_profile(load(sparse), chosen, methods=["adamw"])
    groups = GROUPS.removeprefix(MODEL)
    found = run_profile(load(sparse + groups), chosen, methods=["adamw"])
    assert found.memory.source == "simulated"
    tied = "self.head = nn.Linear(2 * width, 20)"
    tied += "; self.to_tokens = nn.Linear(width, 20); self.to_tokens.weight = self.embed.weight"
    source = sparse.replace("self.head = nn.Linear(2 * width, 20)", tied)
    source = source.replace(
        "return self.head(torch.tanh(self.second(x)))", "return self.to_tokens(x)"
    )
    assert run_profile(load(source), chosen, methods=["adamw"]).memory.source == "simulated"


def test_progress_events_are_plain_data():
    event = module.Progress("memory", 1, 2)
    assert dataclasses.asdict(event) == {"stage": "memory", "done": 1, "total": 2, "item": ""}


def stop_after_gradients(seen):
    """Return a progress callback that collects what the gradients' stage says and ends the profile after it."""

    def report(progress):
        if progress.stage == "gradients":
            seen.append(progress)
        elif seen:
            raise KeyboardInterrupt

    return report


@pytest.mark.parametrize(("max_memory_bytes", "passes"), [(None, 1), (2**20, 1), (1, 3)])
def test_the_memory_allowed_decides_how_often_the_batches_are_gone_through(
    load, max_memory_bytes, passes
):
    seen = []
    found = run_profile(
        load(),
        settings(max_memory_bytes=max_memory_bytes),
        methods=["adamw"],
        progress=stop_after_gradients(seen),
    )
    measured = [layer for layer in found.layers if layer.diagonality is not None]
    assert len(measured) == 3
    assert {progress.total for progress in seen} == {3 * passes}


def test_layers_without_a_two_sided_number_are_counted_among_what_is_missing(load, monkeypatch):
    monkeypatch.setattr(basis_time, "are_quick", lambda shape: shape == (16, 16))
    monkeypatch.setattr(basis_time, "bases_flops_per_s", lambda device: 1.0)
    found = run_profile(load(), settings(), methods=["adamw"], progress=stop_after_gradients([]))
    (line,) = [line for line in found.missing if "two-sided" in line]
    assert "2 of 3 layers" in line
    assert "10 s" in line
    assert Profile.model_validate_json(found.model_dump_json()) == found


def test_layers_measured_before_an_interrupt_have_their_notes(load, monkeypatch):
    monkeypatch.setattr(basis_time, "are_quick", lambda shape: False)
    monkeypatch.setattr(basis_time, "bases_flops_per_s", lambda device: 1.0)

    def interrupt(progress):
        if progress.stage == "gradients" and progress.done > 3:  # of the second layer
            raise KeyboardInterrupt

    chosen = settings(max_memory_bytes=1)
    found = run_profile(load(), chosen, methods=["adamw"], progress=interrupt)
    assert sum(layer.diagonality is not None for layer in found.layers) == 1
    assert "1 of 1 layers" in found.missing[0]
    assert found.missing[1] == "gradients: interrupted"


SUBCLASSED = MODEL.replace("nn.Linear(", "Mine(").replace(
    "class Net", "class Mine(nn.Linear):\n    pass\n\nclass Net"
)


def test_a_method_with_layers_of_its_own_is_measured_like_any_other(load):
    found = run_profile(load(), settings(), methods=["adamw", "dlrt"])
    row = next(row for row in found.methods if row.method == "dlrt")
    assert row.peak.source == "simulated"
    assert {"forward", "backward", "step"} <= {k for k, v in row.peak.by_phase if v}
    assert row.weight_bytes_saved != 0
    assert row.step_ms_source == "measured"
    assert row.overhead_ms is not None
    assert {layer.name: layer.layer_type for layer in found.layers if layer.layer_type} == {
        f"{name}.weight": "linear" for name in ("first", "second", "head")
    }
    assert not any("dlrt" in line for line in found.missing)


def test_what_cannot_be_used_here_is_missing_with_the_reason(load, monkeypatch):
    monkeypatch.setattr(low_bit, "is_installed", lambda: False)
    names = ["adamw", "adamw-8bit", "dlrt"]
    found = run_profile(load(SUBCLASSED), settings(detail="quick"), methods=names)
    assert [row.method for row in found.methods] == ["adamw"]
    assert any("adamw-8bit" in line and "subopt[lowbit]" in line for line in found.missing)
    assert any("dlrt" in line and "no plain torch layer" in line for line in found.missing)
