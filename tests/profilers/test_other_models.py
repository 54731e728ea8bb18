"""Models as people write them, each profiled for real: what becomes of every parameter, and why."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from subopt.errors import PreflightError
from subopt.optimizers import create, parameter_roles
from subopt.profilers.profile import run_profile
from subopt.profilers.record.profile import Settings
from subopt.profilers.target.load import load_target
from subopt.profilers.timing import decompositions

MODELS = Path(__file__).parent.parent / "assets/other_models"
METHODS = ["adamw", "galore", "adadiag"]

FROZEN = ("frozen", "does not require a gradient")
LEFT_OUT = ("frozen", "not in param_groups(model)")
MATRIX = ("matrix", "a matrix")
VECTOR = ("fallback", "a vector")
ONE_ROW = ("fallback", "a matrix with one row or column")


def linear(name, weight=MATRIX, bias=VECTOR):
    return {f"{name}.weight": weight, f"{name}.bias": bias}


def norm(name):
    return linear(name, VECTOR)


EXPECTED = {
    "text_convolutions": {
        "position": ("fallback", "viewed as a matrix with one row or column"),
        "embed.weight": ("fallback", "an embedding"),
        **linear("convolve", ("matrix", "a convolution, viewed as 6 x 24")),
        **linear("decide"),
    },
    "images": {
        **linear("0", ("matrix", "a convolution, viewed as 4 x 27")),
        **norm("1"),
        **linear("3", ("matrix", "a convolution, viewed as 4 x 9")),
        **linear("4", ("matrix", "a convolution, viewed as 8 x 4")),
        **linear("5", ("matrix", "a convolution, viewed as 8 x 12, inputs first")),
    },
    "tied": {
        "embed.weight": ("fallback", "an embedding, tied to head.weight"),
        "blocks.0.mix.weight": ("matrix", "a matrix, shared with blocks.1.mix.weight"),
        **norm("blocks.0.norm"),
        **norm("blocks.1.norm"),
    },
    "heads": {
        **dict.fromkeys(
            ("query", "key", "value"),
            ("matrix", "4 matrices of 16 x 4, viewed as one of 4 x 64"),
        ),
        "mixing": ("matrix", "a 4-D parameter, viewed as a matrix of 2 x 256"),
        "temperature": ("fallback", "a scalar"),
    },
    "frozen_parts": {
        **linear("trunk.0", FROZEN, FROZEN),
        **linear("norm", LEFT_OUT, LEFT_OUT),
        **linear("head"),
    },
    "lora": {
        f"{layer}.{name}": how
        for layer in (0, 2)
        for name, how in {
            "lora_A": MATRIX,
            "lora_B": MATRIX,
            **linear("layer", FROZEN, FROZEN),
        }.items()
    },
    "compiled": {
        "embed.weight": ("fallback", "an embedding"),
        **linear("body.0"),
        **linear("lm_head"),
    },
    "several_losses": {
        **linear("body"),
        **linear("main"),
        **linear("auxiliary", ONE_ROW),
    },
    "encoder": {
        **norm("norm"),
        "encoder.layers.0.self_attn.in_proj_weight": MATRIX,
        "encoder.layers.0.self_attn.in_proj_bias": VECTOR,
        **linear("encoder.layers.0.self_attn.out_proj"),
        **linear("encoder.layers.0.linear1"),
        **linear("encoder.layers.0.linear2"),
        **norm("encoder.layers.0.norm1"),
        **norm("encoder.layers.0.norm2"),
        **linear("last"),
    },
    "experts": {
        name: how
        for layer in ("experts.0", "experts.1", "experts.2", "never", "out")
        for name, how in linear(layer).items()
    },
}
# Where a quick profile might look at a layer on the very batches that give it no gradient.
DETAIL = {"experts": "standard"}
# Which parameters that are matrices have no gradient other than zero in the batches that are measured, and why.
WITHOUT_GRADIENT = {
    "lora": {"0.lora_A", "2.lora_A"},  # the factor behind it is zero at first
    "experts": {"experts.2.weight", "never.weight"},  # no batch is routed there
}


@pytest.fixture(autouse=True)
def few_repeats(monkeypatch):
    """Spend little time on the decompositions: they have tests of their own."""
    monkeypatch.setattr(decompositions, "MOST_REPEATS", decompositions.LEAST_REPEATS)


def profiled(name, **changes):
    settings = Settings(**{"batch_size": 4, "batches": 3, "detail": "quick", **changes})
    checks = []
    target = load_target(f"{name}.py", base=MODELS)
    found = run_profile(target, settings, methods=METHODS, on_preflight=checks.append)
    return found, checks


@pytest.mark.parametrize("name", EXPECTED)
def test_every_parameter_has_its_treatment_and_what_is_trained_is_measured(name):
    found, _ = profiled(name, detail=DETAIL.get(name, "quick"))
    listed = {layer.name: (layer.role, layer.reason) for layer in found.layers}
    assert listed == EXPECTED[name]
    without = {
        layer.name for layer in found.layers if layer.role == "matrix" and layer.spectrum is None
    }
    assert without == WITHOUT_GRADIENT.get(name, set())
    assert [row.method for row in found.methods] == METHODS
    assert {row.peak.source for row in found.methods} == {"simulated"}
    if without:
        (line,) = found.missing
        assert line.startswith(f"quantities of {min(without)} and 1 more: no finite gradient")
    else:
        assert found.missing == []


@pytest.mark.parametrize("name", ["compiled", "encoder", "experts", "heads"])
def test_it_can_be_followed_without_allocating_anything(name):
    found, _ = profiled(name, simulate=True)
    assert {layer.name for layer in found.layers} == set(EXPECTED[name])
    assert found.memory.source == "simulated"
    assert found.memory.activation_bytes > 0


def test_a_standard_profile_has_every_quantity_of_every_kind_of_layer():
    found, _ = profiled("images", detail="standard")
    layers = {layer.name: layer for layer in found.layers if layer.role == "matrix"}
    for layer in layers.values():
        assert layer.diagonality is not None
        assert layer.blocks is not None
    # What goes into a transposed convolution is not looked at.
    assert [name for name, layer in layers.items() if layer.activations is None] == ["5.weight"]


def test_an_expert_that_some_batches_leave_out_is_measured_on_the_others():
    found, checks = profiled("experts", batches=6, detail="standard")
    spectra = {layer.name: layer.noise for layer in found.layers}
    assert spectra["experts.0.weight"] is not None
    assert spectra["experts.2.weight"] is None
    (gradients,) = [check for check in checks[0] if check.name == "gradients"]
    assert not gradients.ok
    assert gradients.detail.startswith("none for experts.1.weight")


def test_a_dict_of_losses_without_a_sum_is_told_in_one_line():
    with pytest.raises(
        PreflightError, match=r"a dict, not a tensor: it has square, absolute$"
    ) as e:
        profiled("no_sum")
    assert "of several losses their sum" in e.value.hint


def test_names_of_a_compiled_model_are_its_authors_everywhere():
    target = load_target("compiled.py", base=MODELS)
    model = target.build_model()
    assert any("_orig_mod" in name for name, _ in model.named_parameters())
    found = {item.shown_name: item for item in parameter_roles(model, exclude=[r"^body\.0"])}
    assert found["body.0.weight"].reason == r"its name matches '^body\.0'"
    optimizer = create("galore", model, overrides=[{"pattern": r"^body\.0", "method": "adamw"}])
    methods = {group["method"] for group in optimizer.param_groups}
    assert methods == {"galore", "adamw"}


def test_a_compiled_model_trains_with_a_method_that_has_a_basis():
    target = load_target("compiled.py", base=MODELS)
    torch.manual_seed(0)
    model = target.build_model()
    optimizer = create("galore", model, lr=1e-2)
    batch = next(iter(target.data.batches(8)))
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = target.data.loss(model, batch)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
