"""Following a training step without data: models of other people against real tensors, and what used to crash."""

from __future__ import annotations

import copy
import importlib.util
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils._pytree import tree_leaves

from subopt.optimizers import METHODS, create
from subopt.optimizers.preconditioners.matrix_roots import chunks, enough
from subopt.profilers.memory.device_overhead import CPU, UNKNOWN_GPU, gpu_constants
from subopt.profilers.memory.module_scopes import module_of, module_scopes
from subopt.profilers.memory.phases import ModelPeaks, StepPeaks, simulated_peak
from subopt.profilers.memory.simulation import FollowMode, SimulatedModel
from subopt.profilers.target.loaded import without_address_warnings

EXAMPLES = Path(__file__).parents[3] / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(f"followed_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def an_example(name, batch_size, **arguments):
    file = example(name)
    loss = getattr(file, "loss", lambda model, batch: model(batch))
    return lambda: file.build_model(**arguments), next(iter(file.batches(batch_size))), loss


def a_language_model(name, **sizes):
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{name}Config")(
        vocab_size=100, bos_token_id=0, eos_token_id=0, **sizes
    )
    kind = {"GPT2": "GPT2LMHeadModel", "Llama": "LlamaForCausalLM"}[name]
    tokens = torch.arange(2 * 16).reshape(2, 16) % 100

    def loss(model, tokens):
        logits = model(input_ids=tokens).logits
        return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())

    return lambda: getattr(transformers, kind)(config).train(), tokens, loss


MODELS = {
    "autoencoder": lambda: an_example("autoencoder_digits", 32),
    "convnet": lambda: an_example("convnet_digits", 16, width=4),
    "llama_bytes": lambda: an_example("llama_bytes", 1),
    "GPT2": lambda: a_language_model("GPT2", n_positions=16, n_embd=16, n_layer=2, n_head=2),
    "Llama": lambda: a_language_model(
        "Llama",
        hidden_size=16,
        intermediate_size=44,
        num_hidden_layers=2,
        num_attention_heads=2,
    ),
}


def tracked_by_phase(build, batch, loss_of):
    """Peaks of the phases of a second AdamW step by torch's tracker, on real tensors."""
    model, device = build(), torch.device("cpu")
    optimizer = create("adamw", model)
    tracker = MemTracker()
    tracker.track_external(model, *tree_leaves(batch))
    peaks = {}

    def take(phase, work):
        tracker._peak_mem[device] = 0
        result = work()
        peaks[phase] = tracker._peak_mem[device]
        return result

    with tracker:
        for _ in range(2):
            loss = take("forward", lambda: loss_of(model, batch))
            take("backward", loss.backward)
            del loss
            take("step", optimizer.step)
            optimizer.zero_grad()
            tracker.reset_mod_stats()
    return peaks


@pytest.mark.parametrize("name", MODELS)
def test_every_phase_is_that_of_real_tensors_by_torchs_tracker(name):
    build, batch, loss = MODELS[name]()
    simulated = SimulatedModel(build, batch, loss)
    peak = simulated_peak(simulated.peaks, simulated.step_peaks("adamw", {}), 0)
    for phase, size in tracked_by_phase(build, batch, loss).items():
        assert getattr(peak.by_phase, phase) == pytest.approx(size, rel=0.02), phase


# A constant under the mode (the norm's counter), then copies of fake tensors (the encoder's layers): with torch's own
# mode the constant's storage reference is freed twice, and the process dies some models later.
CRASHED = """
import torch
from torch import nn
from subopt.profilers.memory.simulation import FollowMode
from subopt.profilers.target.loaded import without_address_warnings

class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.embed = nn.Embedding(20, 8)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x):
        return self.norm(self.encoder(self.embed(x)).transpose(1, 2)).square().mean()

mode = FollowMode()
with mode, without_address_warnings():
    for _ in range(8):
        model = Tagger()
        for _ in range(3):
            model(torch.zeros(2, 3, dtype=torch.long))
print("alive")
"""


@pytest.mark.process
def test_models_with_copied_layers_and_constants_can_be_followed_again_and_again():
    done = subprocess.run([sys.executable, "-c", CRASHED], capture_output=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, b"alive"), done.stderr[-2000:]


def test_a_copy_under_the_mode_is_in_the_same_mode():
    with FollowMode() as mode, without_address_warnings():
        layer = nn.Linear(3, 3)
        assert copy.deepcopy(layer).weight.fake_mode is mode
    assert copy.deepcopy(mode) is mode


def test_owners_name_the_innermost_module_and_the_loss():
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Tanh()))
    told = []
    with module_scopes(model, told.append) as passes:
        loss = model(torch.ones(2, 4)).square().sum()
        forward = [name for name in told if module_of(name)]
        told.clear()
        loss.backward()
    assert forward == ["0", "1|0", "1.0", "1|1.0", "1.1", "1|1.1"]
    assert passes.head == "1.1"
    assert passes.head_output_bytes == 2 * 4 * 4
    assert [module_of(name) for name in told][-2:] == ["1.0", "0"]
    assert passes.is_loss("|1.1")
    assert not passes.is_loss("1|1.0")
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("name", ["shared-basis", "block-adam", "shampoo", "sketchy"])
def test_two_pieces_of_work_show_the_memory_of_all(name, monkeypatch):
    import subopt.optimizers.preconditioners.matrix_roots as roots
    import subopt.optimizers.preconditioners.shared_basis as shared
    import subopt.optimizers.preconditioners.tridiagonal as tridiagonal
    from subopt.optimizers.methods import transient

    monkeypatch.setattr(transient, "_followed", transient._followed.__wrapped__)
    monkeypatch.setattr(roots, "CHUNK_BYTES", 2**14)
    monkeypatch.setattr(shared, "CHUNK_NUMBERS", 2**9)
    options = METHODS[name].test_inputs[0]

    def worst():
        return METHODS[name].transient_bytes((60, 90), torch.float32, options)

    short = worst()
    for module in (roots, shared, tridiagonal):
        monkeypatch.setattr(module, "enough", lambda pieces: pieces)
    assert worst() == short


def test_all_pieces_are_done_where_there_is_data():
    assert len(list(enough(slice(i, i + 1) for i in range(5)))) == 5
    assert len(list(chunks(10**7, 8))) > 2
    with FollowMode():
        assert len(list(chunks(10**7, 8))) == 2


def by_hand():
    held = {"parameter": 1000, "gradient": 1000, "state": 2000}
    model = ModelPeaks(1000, 1000, 500, Counter(parameter=1000), Counter(parameter=1000))
    step = StepPeaks(2000, Counter(held), Counter({**held, "temporary": 600}))
    return model, step


def test_workspaces_widen_the_interval_on_a_gpu_and_not_on_a_cpu():
    model, step = by_hand()
    on_cpu = simulated_peak(model, step, 100)
    on_gpu = simulated_peak(model, step, 100, UNKNOWN_GPU)
    assert (on_cpu.bytes, on_cpu.low_bytes, on_cpu.high_bytes) == (4600, 4370, 5160)
    assert on_gpu.high_bytes - on_cpu.high_bytes == (32 + 2) * 2**20
    assert (on_gpu.bytes, on_gpu.low_bytes) == (on_cpu.bytes, on_cpu.low_bytes)
    assert CPU.non_tensor_bytes == CPU.context_bytes == 0


@pytest.mark.parametrize(
    ("name", "context_mib", "workspace_bytes"),
    [
        ("NVIDIA A100-SXM4-80GB", 1268, 8_519_680),
        ("NVIDIA H100 80GB HBM3", 1268, 32 * 2**20),
        ("NVIDIA H200", 1268, 32 * 2**20),
        ("NVIDIA L4", 694, 8_519_680),
        ("NVIDIA L40S", 1268, 32 * 2**20),
        (None, 1268, 32 * 2**20),
    ],
)
def test_a_gpus_constants_by_its_name(name, context_mib, workspace_bytes):
    constants = gpu_constants(name)
    assert constants.context_bytes == context_mib * 2**20
    assert constants.workspace_bytes == workspace_bytes


def test_what_is_not_known_is_never_less_than_what_is():
    known = [gpu_constants(name) for name in ("A100", "H100", "L4")]
    assert UNKNOWN_GPU.context_bytes == max(item.context_bytes for item in known)
    assert UNKNOWN_GPU.workspace_bytes == max(item.workspace_bytes for item in known)
