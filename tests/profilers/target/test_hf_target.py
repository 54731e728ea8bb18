"""Targets that start with `hf:`, from config.json files made here: seven architectures, and every way to be refused."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from subopt.app import main
from subopt.errors import PreflightError, TargetError, UsageError, UserCodeError
from subopt.profilers.profile import run_profile
from subopt.profilers.record.profile import Profile, Settings
from subopt.profilers.target import hf_files, hf_target
from subopt.profilers.target.load import load_target
from subopt.profilers.timing import decompositions
from subopt.recipes.advice.proposal import relative_target

MODELS = Path(__file__).parents[2] / "assets/other_models"
ATTENTION = {"num_attention_heads": 2, "num_hidden_layers": 1, "hidden_size": 16}
TEXT = {**ATTENTION, "intermediate_size": 24, "vocab_size": 40, "max_position_embeddings": 20}
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **TEXT}
CONFIGS = {
    "llama": LLAMA,
    "gpt2": {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_embd": 16,
        "n_layer": 1,
        "n_head": 2,
        "n_positions": 20,
        "vocab_size": 40,
    },
    "roberta": {"model_type": "roberta", "architectures": ["RobertaForMaskedLM"], **TEXT},
    "vit": {
        "model_type": "vit",
        "architectures": ["ViTForImageClassification"],
        **ATTENTION,
        "intermediate_size": 24,
        "image_size": 8,
        "patch_size": 4,
        "num_labels": 5,
    },
    "resnet": {
        "model_type": "resnet",
        "architectures": ["ResNetForImageClassification"],
        "embedding_size": 4,
        "hidden_sizes": [8, 8],
        "depths": [1, 1],
    },
    "t5": {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "d_model": 16,
        "d_kv": 8,
        "d_ff": 24,
        "num_layers": 1,
        "num_heads": 2,
        "vocab_size": 40,
    },
    "mixtral": {
        "model_type": "mixtral",
        "architectures": ["MixtralForCausalLM"],
        **TEXT,
        "num_key_value_heads": 2,
        "num_local_experts": 4,
        "num_experts_per_tok": 1,
    },
}
# Beside the config: what keeps a batch small where the config does not.
ARGUMENTS = {"resnet": {"image_size": "16"}}
TEXT_ARGUMENTS = {"sequence_length": "6"}

MATRIX, VECTOR = ("matrix", "a matrix"), ("fallback", "a vector")
HEAD = ("fallback", "an output head onto the vocabulary")
INPUTS_FIRST = ("matrix", "a matrix, inputs first")
EMBEDDING = ("fallback", "an embedding")
# What is not a vector or a plain matrix of a linear layer, and what shows how a name is found.
REASONS = {
    "llama": {
        "model.embed_tokens.weight": EMBEDDING,
        "model.layers.0.self_attn.k_proj.weight": MATRIX,
        "model.layers.0.mlp.down_proj.weight": MATRIX,
        "lm_head.weight": HEAD,
    },
    "gpt2": {
        "transformer.wte.weight": ("fallback", "an embedding, tied to lm_head.weight"),
        "transformer.wpe.weight": EMBEDDING,
        "transformer.h.0.attn.c_attn.weight": INPUTS_FIRST,
        "transformer.h.0.attn.c_proj.weight": INPUTS_FIRST,
        "transformer.h.0.mlp.c_fc.weight": INPUTS_FIRST,
        "transformer.h.0.mlp.c_proj.weight": INPUTS_FIRST,
    },
    "roberta": {
        "roberta.embeddings.word_embeddings.weight": (
            "fallback",
            "an embedding, tied to lm_head.decoder.weight",
        ),
        "roberta.embeddings.token_type_embeddings.weight": EMBEDDING,
        "roberta.embeddings.position_embeddings.weight": EMBEDDING,
        "roberta.encoder.layer.0.attention.self.query.weight": MATRIX,
        "lm_head.dense.weight": MATRIX,
    },
    "vit": {
        "vit.embeddings.cls_token": ("fallback", "viewed as a matrix with one row or column"),
        "vit.embeddings.position_embeddings": (
            "fallback",
            "viewed as a matrix with one row or column",
        ),
        "vit.embeddings.patch_embeddings.projection.weight": (
            "matrix",
            "a convolution, viewed as 16 x 48",
        ),
        "classifier.weight": MATRIX,
    },
    "resnet": {
        "resnet.embedder.embedder.convolution.weight": (
            "matrix",
            "a convolution, viewed as 4 x 147",
        ),
        "classifier.1.weight": MATRIX,
    },
    "t5": {
        "shared.weight": ("fallback", "an embedding, tied to encoder.embed_tokens.weight"),
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": EMBEDDING,
        "decoder.block.0.layer.1.EncDecAttention.k.weight": MATRIX,
    },
    "mixtral": {
        "model.layers.0.mlp.gate.weight": MATRIX,
        "model.layers.0.mlp.experts.gate_up_proj": (
            "matrix",
            "4 matrices of 48 x 16, viewed as one of 4 x 768",
        ),
        "model.layers.0.mlp.experts.down_proj": (
            "matrix",
            "4 matrices of 16 x 24, viewed as one of 4 x 384",
        ),
        "lm_head.weight": HEAD,
    },
}


@pytest.fixture(autouse=True)
def few_repeats(monkeypatch):
    """Spend little time on the decompositions: they have tests of their own."""
    monkeypatch.setattr(decompositions, "MOST_REPEATS", decompositions.LEAST_REPEATS)


@pytest.fixture
def load(tmp_path):
    """Return a function that writes a config.json and loads it."""

    def loaded(content=LLAMA, inputs=(), **kwargs):
        (tmp_path / "tiny").mkdir(exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / "tiny/config.json").write_text(text)
        return load_target("hf:tiny", kwargs, inputs=inputs, base=tmp_path)

    return loaded


def architecture(load, name):
    is_text = name not in {"vit", "resnet"}
    return load(CONFIGS[name], **(TEXT_ARGUMENTS if is_text else ARGUMENTS.get(name, {})))


def settings(**changes):
    return Settings(**{"batch_size": 4, "batches": 2, "detail": "quick", **changes})


# -- seven architectures -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_an_architecture_is_profiled_and_every_parameter_has_its_reason(load, name):
    checks = []
    target = architecture(load, name)
    found = run_profile(
        target, settings(), methods=["adamw", "galore", "adadiag"], on_preflight=checks.append
    )
    assert found.target.synthetic_data
    listed = {layer.name: (layer.role, layer.reason) for layer in found.layers}
    expected = REASONS[name]
    assert {key: listed[key] for key in expected} == expected
    rest = {how for key, how in listed.items() if key not in expected}
    assert rest <= {MATRIX, VECTOR, EMBEDDING} | {
        ("matrix", f"a convolution, viewed as {a} x {b}")
        for a in (1, 2, 8) for b in (2, 4, 8, 18)
    }  # fmt: skip
    for layer in found.layers:
        assert (layer.spectrum is not None) == (layer.role == "matrix"), layer.name
    assert found.missing == []
    assert {row.peak.source for row in found.methods} == {"simulated"}
    details = {check.name: check.detail for check in checks[0]}
    assert details["gradients"] == "every trainable parameter"
    assert details["data-dependent operations"] == "none"


@pytest.mark.parametrize("name", ["mixtral", "vit"])
def test_an_architecture_is_followed_without_allocating_it(load, name):
    target = architecture(load, name)
    found = run_profile(target, settings(simulate=True), methods=["adamw", "galore"])
    assert found.missing == []
    assert found.memory.source == "simulated"
    assert found.memory.activation_bytes > 0


def test_a_standard_profile_measures_the_layers_of_gpt2(load):
    found = run_profile(
        architecture(load, "gpt2"), settings(detail="standard"), methods=["adamw", "galore"]
    )
    matrices = [layer for layer in found.layers if layer.role == "matrix"]
    assert len(matrices) == 4
    for layer in matrices:
        assert layer.module_type == "Conv1D"
        assert layer.layer_type is None  # no method's own layer could take its place
        assert layer.activations is not None
        assert layer.activations.width == layer.shape[0]  # of the inputs, which come first
        inputs, outputs = layer.shape
        chance = (inputs + 3) / (inputs * outputs + 3)  # of white noise, with two batches
        assert layer.blocks.by_output_noise == pytest.approx(chance)


def test_batches_have_the_shapes_and_values_of_the_config(load):
    batch = next(iter(load(CONFIGS["t5"], sequence_length=7).data.batches(3)))
    assert {name: tuple(value.shape) for name, value in batch.items()} == dict.fromkeys(
        ("input_ids", "decoder_input_ids", "labels"), (3, 7)
    )
    many = next(iter(load({**LLAMA, "pad_token_id": 5}, sequence_length=20).data.batches(500)))
    assert set(many["labels"].unique().tolist()) == set(range(40)) - {5}
    images = next(iter(load(CONFIGS["vit"], image_size=4).data.batches(200)))
    assert images["pixel_values"].shape == (200, 3, 4, 4)
    assert set(images["labels"].tolist()) == set(range(5))
    regression = next(iter(load({**CONFIGS["vit"], "num_labels": 1}).data.batches(3)))
    assert regression["labels"].is_floating_point()


def test_the_default_length_leaves_room_for_what_roberta_counts_first(load):
    lengths = {
        name: load(CONFIGS[name]).data.batches(1).__next__()["input_ids"].shape[1]
        for name in ("llama", "roberta", "t5")
    }
    assert lengths == {"llama": 20, "roberta": 18, "t5": 256}


def test_inputs_of_ones_own_replace_the_made_up_ones(load):
    inputs = ["input_ids=int64[2,5]<40", "labels=int64[2,5]<40"]
    target = load(inputs=inputs)
    batch = next(iter(target.data.batches(3)))
    assert batch["labels"].shape == (3, 5)
    assert target.data.loss(target.build_model(), batch).dim() == 0
    unlabelled = load(inputs=inputs[:1])
    with pytest.raises(PreflightError, match="LlamaForCausalLM computes its loss from them"):
        unlabelled.data.loss(unlabelled.build_model(), next(iter(unlabelled.data.batches(3))))


def test_a_bare_model_gets_the_head_of_its_task(load):
    bare = {**CONFIGS["roberta"], "architectures": ["RobertaModel"]}
    assert "RobertaForMaskedLM (masked language model" in load(bare).record.picked
    unnamed = {key: value for key, value in LLAMA.items() if key != "architectures"}
    assert "LlamaForCausalLM (causal language model" in load(unnamed).record.picked
    for value in ("LlamaForCausalLM", 5):
        odd = load({**LLAMA, "architectures": value})
        assert "LlamaForCausalLM (causal language model" in odd.record.picked


def test_adapters_by_peft_are_what_is_trained():
    target = load_target("adapted_by_peft.py", base=MODELS)
    found = run_profile(target, settings(warmup_steps=1), methods=["adamw", "galore"])
    listed = {layer.name: layer for layer in found.layers}
    place = "base_model.model.first"
    for adapter in ("lora_A", "lora_B"):
        layer = listed.pop(f"{place}.{adapter}.default.weight")
        assert (layer.role, layer.reason) == MATRIX
        assert layer.spectrum is not None
    frozen = {(layer.role, layer.reason) for layer in listed.values()}
    assert frozen == {("frozen", "does not require a gradient")}


# -- loading ------------------------------------------------------------------------------------------------------


def test_a_file_and_its_folder_are_the_same_target_and_load_again(load, tmp_path):
    target = load(num_hidden_layers="2", sequence_length="4")
    by_file = load_target("hf:tiny/config.json", target.record.kwargs, base=tmp_path)
    assert by_file.record.file == target.record.file == str(tmp_path / "tiny/config.json")
    assert by_file.record.sha256 == target.record.sha256
    assert target.record.kwargs == {"num_hidden_layers": 2, "sequence_length": 4}
    again = load_target(**pickle.loads(pickle.dumps(target.load_arguments())))
    assert again.record == target.record
    assert len(again.build_model().model.layers) == 2


def test_the_default_dtype_decides_and_not_the_config(load):
    target = load({**LLAMA, "dtype": "float16", "torch_dtype": "bfloat16"})
    assert {p.dtype for p in target.build_model().parameters()} == {torch.float32}


def test_building_under_fake_tensors_allocates_nothing(load):
    target = load({**LLAMA, "hidden_size": 2**20, "vocab_size": 2**30})
    with FakeTensorMode():
        model = target.build_model()
    assert all(isinstance(parameter, FakeTensor) for parameter in model.parameters())


def test_a_list_with_an_entry_for_every_layer_follows_their_number(load):
    listed = {**LLAMA, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
    listed |= {"num_hidden_layers": 2, "layer_types": ["full_attention"] * 2}
    for count in (1, 3):
        assert len(load(listed, num_hidden_layers=count).build_model().model.layers) == count


def test_other_names_of_a_field_reach_it(load):
    model = load(CONFIGS["gpt2"], hidden_size="8", num_labels="3").build_model()
    assert model.transformer.wte.weight.shape == (40, 8)
    assert model.config.num_labels == 3


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"hiden_size": "8"}, r"config.json has no field 'hiden_size'; did you mean 'hidden_size'"),
        ({"sequence_lenght": "8"}, r"did you mean 'sequence_length'\?"),
        ({"hidden_size": "wide"}, r"hidden_size=wide: config.json takes int or float"),
        ({"weights": "maybe"}, r"config.json takes bool for 'weights'"),
        ({"sequence_length": "0"}, "sequence_length=0 is no size"),
        ({"sequence_length": "21"}, "sequence_length=21 is more than the 20 positions"),
        ({"architectures": "GPT2LMHeadModel"}, "no field 'architectures'"),
        ({"attn_implementation": "someone/kernel"}, "no field 'attn_implementation'"),
        ({"hidden_size": "1" + 400 * "0"}, "takes int or float for 'hidden_size'"),
        ({"rope_parameters": "1"}, "'rope_parameters' of config.json is no single value"),
    ],
)
def test_an_argument_that_makes_no_sense_is_refused(load, kwargs, message):
    with pytest.raises(UsageError, match=message):
        load(**kwargs)


def test_without_transformers_the_extra_is_named(load, monkeypatch):
    monkeypatch.setattr(hf_target.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TargetError, match="transformers package") as caught:
        load()
    assert caught.value.hint == "pip install 'subopt[hf]'"


# -- the hub ------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub, and no network; returns the folder of a snapshot that a test may fill."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub/models--someone--tiny/snapshots" / ("0" * 40)


def test_a_model_of_the_hub_that_is_nowhere_is_one_clear_line(tmp_path, cache, capsys):
    status = main(["profile", "hf:someone/tiny", "-o", str(tmp_path / "profile.json")])
    lines = capsys.readouterr().err.splitlines()
    assert status == 2
    assert lines[0].startswith(
        "error: someone/tiny is neither a folder nor in the Hugging Face cache, and cannot be downloaded: "
    )
    assert lines[1].endswith("and name its folder: hf:PATH")
    assert len(lines) == 2


def test_a_model_of_the_hub_is_taken_from_the_cache_and_keeps_its_name(tmp_path, cache):
    cache.mkdir(parents=True)
    (cache / "config.json").write_text(json.dumps(LLAMA))
    refs = cache.parent.parent / "refs"
    refs.mkdir()
    (refs / "main").write_text(cache.name)
    target = load_target("hf:someone/tiny", base=tmp_path)
    assert Path(target.record.file).parent.name == cache.name
    profile = Profile.model_construct(target=target.record)
    assert relative_target(profile, tmp_path / "recipe.yaml") == "hf:someone/tiny"


@pytest.mark.parametrize(
    "place",
    ["", "../etc/passwd", "a/b/c", "nowhere/config.json", "x/../y", "~nobody-here/x", "a/" * 3000],
)
def test_what_is_neither_a_path_nor_a_name_asks_nobody(place, tmp_path, monkeypatch):
    monkeypatch.setattr(hf_files, "_from_hub", None)  # would fail if it were called
    with pytest.raises(TargetError, match="there is no"):
        load_target(f"hf:{place}", base=tmp_path)


@pytest.mark.parametrize("name", ["a--b", "someone/tiny-", "a" * 200])
def test_what_no_model_of_the_hub_can_be_called_is_one_clear_line(name, tmp_path, cache):
    with pytest.raises(TargetError, match="cannot be downloaded: "):
        load_target(f"hf:{name}", base=tmp_path)


def test_a_folder_without_a_config_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(TargetError, match=r"the folder empty has no config\.json"):
        load_target("hf:empty", base=tmp_path)


# -- hostile configs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("[1]", "holds no JSON object"),
        ('{"model_type": "llama", "hidden_size": NaN}', "NaN is no number"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 900 + "1" + "}" * 900, "nested too deeply|no model_type"),
        ("\x00\x01", "is not valid JSON"),
        ({}, "has no model_type"),
        ({"model_type": "lama"}, r"model_type 'lama', .* did you mean 'llama'\?"),
        ({"model_type": ["llama"]}, "knows no such model"),
        ({**LLAMA, "auto_map": {"AutoModelForCausalLM": "code.Model"}}, "code of its own"),
        ({**LLAMA, "nested": [{"auto_map": {"AutoModel": "a--b.C"}}]}, "code of its own"),
        ({**LLAMA, "use_pretrained_backbone": True}, "wants weights of another model"),
        ({**LLAMA, "hidden_size": "wide"}, "not a config that transformers accepts"),
        ({**LLAMA, "hidden_size": [16]}, "not a config that transformers accepts"),
        ({**LLAMA, "num_hidden_layers": 10**12}, "num_hidden_layers=1e.12, which no model has"),
        (
            {**LLAMA, "num_hidden_layers": 10**400},
            "num_hidden_layers=1e400 or more, which no model has",
        ),
        ({"model_type": "timm_wrapper", "label_names": ["a"]}, "another library would load"),
        (
            {**LLAMA, "backbone_config": {"model_type": "timm_backbone"}},
            "another library would load",
        ),
        ({**LLAMA, "backbone": "someone/model"}, "another library would load"),
        (
            {**LLAMA, "vision": {"model_args": {"checkpoint_path": "x.pt"}}},
            "another library would load",
        ),
        ({"model_type": "musicgen"}, "no single part of the model that reads text"),
        (
            {**LLAMA, "text_config": {"vocab_size": 3}},
            "no single part of the model that reads text",
        ),
        ({**LLAMA, "num_labels": 10**12}, "num_labels=1e.12, which no model has"),
        ({**LLAMA, "max_position_embeddings": 10**12}, "which no model has"),
        ({**LLAMA, "architectures": ["LlamaForSequenceClassification"]}, "is none of those"),
        ({"model_type": "owlvit"}, "model type owlvit is none of those"),
    ],
)
def test_a_config_that_is_wrong_or_hostile_is_one_clear_line(load, content, message):
    with pytest.raises(TargetError, match=message) as caught:
        load(content)
    assert len(caught.value.message.splitlines()) == 1


@pytest.mark.parametrize(
    "sizes",
    [
        {"hidden_size": 10**12},
        {"hidden_size": 10**30},
        {"hidden_size": -16},
        {"hidden_size": 0},
        {"vocab_size": -1},
        {"num_attention_heads": 0},
        {"num_attention_heads": 3},
        {"intermediate_size": 10**19},
    ],
)
@pytest.mark.parametrize("is_simulated", [False, True])
def test_sizes_that_make_no_model_allocate_nothing_and_are_one_line(load, sizes, is_simulated):
    with pytest.raises((TargetError, UserCodeError)) as caught:
        run_profile(load({**LLAMA, **sizes}), settings(simulate=is_simulated), methods=["adamw"])
    assert len(caught.value.message.splitlines()) == 1


def test_lists_are_not_made_as_long_as_an_absurd_number_of_layers(load):
    listed = {**LLAMA, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
    listed |= {"num_hidden_layers": 2, "layer_types": ["full_attention"] * 2}
    with pytest.raises(TargetError, match=r"num_hidden_layers=1e.18, which no model has"):
        load(listed, num_hidden_layers=str(10**18))


def test_more_parameters_than_any_model_has_are_not_built(load, monkeypatch):
    monkeypatch.setattr(hf_target, "_MOST_PARAMETERS", 20)
    with pytest.raises(TargetError, match="more than 20 parameter tensors"):
        load(num_hidden_layers=3).build_model()


def test_a_batch_of_absurd_size_is_refused_before_it_is_made(load):
    target = load({**LLAMA, "max_position_embeddings": 2**24}, sequence_length=2**24)
    with pytest.raises(TargetError, match="one synthetic batch of 1000 would take 250 GiB"):
        next(iter(target.data.batches(1000)))


def test_a_model_larger_than_the_machine_is_refused_where_it_would_be_allocated(load, monkeypatch):
    monkeypatch.setattr(hf_target, "_machine_bytes", lambda: 2**12)
    with pytest.raises(TargetError, match=r"take more than the .* of this machine") as caught:
        load().build_model()
    assert "--simulate" in caught.value.hint


def test_what_a_config_says_of_kernels_and_quantization_is_left_out(load):
    target = load({
        **LLAMA,
        "attn_implementation": "someone/kernel",
        "_attn_implementation_internal": "someone/kernel",
        "quantization_config": {"quant_method": "gptq", "bits": 4},
    })
    config = target.build_model().config
    assert config._attn_implementation == "sdpa"
    assert not hasattr(config, "quantization_config")


def test_code_beside_a_config_is_not_run(load, tmp_path):
    load()
    (tmp_path / "tiny/modeling_tiny.py").write_text("raise SystemExit('ran')\n")
    (tmp_path / "tiny/regex.py").write_text("raise SystemExit('ran')\n")
    target = load()
    target.data.loss(target.build_model(), next(iter(target.data.batches(2))))
    assert str(tmp_path / "tiny") not in sys.path


# -- weights ------------------------------------------------------------------------------------------------------


def test_weights_are_read_on_request_and_only_then(load, tmp_path):
    first = load().build_model()
    first.save_pretrained(tmp_path / "tiny")
    loaded = load(weights="true")
    again = loaded.build_model()
    assert "weights of its folder" in loaded.record.picked
    for (name, mine), theirs in zip(again.named_parameters(), first.parameters(), strict=True):
        assert torch.equal(mine, theirs), name
    fresh = load().build_model()
    assert not torch.equal(fresh.lm_head.weight, first.lm_head.weight)


def test_pickled_weights_are_never_read(load, tmp_path):
    load()

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    (tmp_path / "tiny/pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(TargetError, match=r"pytorch_model\.bin is a pickle, .* never read"):
        load(weights="true")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "model.safetensors.index.json",
            '{"weight_map": {"a": "../../x.safetensors"}}',
            "no weight",
        ),
        ("model.safetensors.index.json", '{"weight_map": {"a": "model.bin"}}', "no weight file"),
        ("model.safetensors.index.json", '{"weight_map": 3}', "is not an index of weights"),
        ("adapter_config.json", "{}", "holds an adapter"),
        ("README.md", "", "has no model.safetensors"),
    ],
)
def test_weights_of_another_kind_are_refused(load, tmp_path, file, content, message):
    load()
    (tmp_path / "tiny" / file).write_text(content)
    with pytest.raises(TargetError, match=message):
        load(weights="true")


def test_a_config_cannot_name_other_weights_than_those_looked_at(load, tmp_path):
    load().build_model().save_pretrained(tmp_path / "tiny")
    other = tmp_path / "tiny/other.safetensors.index.json"
    other.write_text(
        '{"metadata": {}, "weight_map": {"lm_head.weight": "../../elsewhere.safetensors"}}'
    )
    target = load({**LLAMA, "transformers_weights": other.name}, weights="true")
    assert not hasattr(target.build_model().config, "transformers_weights")


@pytest.mark.parametrize("content", [b"", b"\xff" * 64])
def test_broken_weights_are_one_clear_line(load, tmp_path, content):
    load()
    (tmp_path / "tiny/model.safetensors").write_bytes(content)
    with pytest.raises(TargetError, match="describes no LlamaForCausalLM that can be built"):
        load(weights="true").build_model()


# -- from profile to training -------------------------------------------------------------------------------------


def test_profile_recommend_and_train(load, tmp_path, monkeypatch, capsys):
    load()
    monkeypatch.chdir(tmp_path)
    target = load_target("hf:tiny", {"sequence_length": "6"})
    found = run_profile(target, settings(batch_size=2), methods=["adamw", "galore"])
    found.save(tmp_path / "profile.json")
    (tmp_path / "made").mkdir()
    assert main([
        *("recommend", "--gpu-mem", "8G", "--profile", "profile.json"),
        *("--methods", "adamw,galore", "-o", "made/recipe.yaml"),
    ]) == 0  # fmt: skip
    recipe = (tmp_path / "made/recipe.yaml").read_text()
    assert "target: hf:../tiny/config.json" in recipe
    assert "write a model.py whose build_model() returns this model" in recipe
    overrides = ["schedule.steps=3", "schedule.warmup_steps=1"]
    capsys.readouterr()
    assert main(["train", "made/recipe.yaml", *overrides, "--output", "run"]) == 0
    assert "the data is SYNTHETIC" in capsys.readouterr().err
    assert (tmp_path / "run/model.safetensors").is_file()
    load({**LLAMA, "hidden_size": 8})
    assert main(["train", "made/recipe.yaml", *overrides, "--output", "other"]) == 2
    assert "config.json has changed since the recipe was made" in capsys.readouterr().err
