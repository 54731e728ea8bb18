"""Hostile checkpoints and run folders: refused by name, no code runs, and what they lead to stays as it is."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from subopt.recipes.recipe.load import load_recipe, with_settings
from subopt.recipes.run_folder.checkpoint import MANIFEST
from subopt.recipes.training.trainer import train

from ..conftest import MODEL, RECIPE
from ..hostile import CANARY, check_no_canary, check_refused, ends

BIG = 2**40


class Code:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, (f"touch {CANARY}",)


def crc_of(file: Path) -> dict[str, int]:
    content = file.read_bytes()
    return {"bytes": len(content), "crc32": zlib.crc32(content)}


def sign(step: Path) -> None:
    """Make the manifest agree with whatever the files are now."""
    path = step / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["files"] = {name: crc_of(step / name) for name in manifest["files"]}
    path.write_text(json.dumps(manifest))


def torch_file(name: str, content: Callable[[dict], object]):
    """Replace what a torch file of the checkpoint holds."""

    def change(step: Path) -> None:
        old = torch.load(step / name, weights_only=True)
        torch.save(content(old), step / name)

    return change


def file_of(name: str, content: bytes):
    return lambda step: (step / name).write_bytes(content)


def trainer_with(**changes: object):
    return torch_file("trainer.pt", lambda old: old | changes)


def progress_with(**changes: object):
    return torch_file("trainer.pt", lambda old: old | {"progress": old["progress"] | changes})


def data_with(**changes: object):
    return torch_file("trainer.pt", lambda old: old | {"data": old["data"] | changes})


def rng_with(**changes: object):
    return torch_file("trainer.pt", lambda old: old | {"rng": old["rng"] | changes})


def state_with(change: Callable[[dict], object]):
    """Replace the optimizer's state of every parameter."""

    def changed(old: dict) -> dict:
        return old | {"state": {key: change(value) for key, value in old["state"].items()}}

    return torch_file("optimizer.pt", changed)


def doubled(depth: int) -> list:
    value: list = [0]
    for _ in range(depth):
        value = [value, value]
    return value


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


def squeeze(step: Path) -> None:
    """An archive that unpacks to a thousand times its size."""
    with zipfile.ZipFile(step / "optimizer.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("archive/version", "3\n")
        for part in range(4):
            archive.writestr(f"archive/data/{part}", bytes(16 * 2**20))


def safetensors_of(header: bytes, data: bytes = b"", *, length: int | None = None):
    size = struct.pack("<Q", len(header) if length is None else length)
    return file_of("model.safetensors", size + header + data)


def header_of(**entries: object) -> bytes:
    return json.dumps(entries).encode()


def entry(dtype: str = "F32", shape: list[int] | None = None, offsets: list[int] | None = None):
    return {"dtype": dtype, "shape": shape or [2], "data_offsets": offsets or [0, 8]}


def cut(name: str):
    return lambda step: (step / name).write_bytes((step / name).read_bytes()[:-20])


def manifest_with(**changes: object):
    def change(step: Path) -> None:
        path = step / MANIFEST
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def names_in_manifest(*names: str):
    def change(step: Path) -> None:
        manifest = json.loads((step / MANIFEST).read_text())
        outside = {name: crc_of(step / name) for name in names}
        (step / MANIFEST).write_text(json.dumps(manifest | {"files": manifest["files"] | outside}))

    return change


# name: (what is done to the checkpoint, whether the manifest is made to agree, what the message must say)
HOSTILE = {
    # code
    "pickled code as optimizer": (file_of("optimizer.pt", pickle.dumps(Code())), True, "optimizer.pt"),
    "code in an archive": (lambda step: torch.save({"state": Code()}, step / "optimizer.pt"), True, "optimizer.pt"),
    "code as the weights": (file_of("model.safetensors", pickle.dumps(Code())), True, "model.safetensors"),
    # size
    "zip bomb": (squeeze, True, "unpacks"),
    "list that doubles, as state": (state_with(lambda old: old | {"exp_avg": doubled(60)}), True, "optimizer.pt"),
    "nested lists": (trainer_with(extra=nested(400)), True, "trainer.pt"),
    "one number as a terabyte": (
        state_with(lambda old: old | {"exp_avg": torch.zeros(1).expand(2**38)}), True, "optimizer.pt",
    ),
    "header of gigabytes": (safetensors_of(b"{}", length=2**60), True, "model.safetensors"),
    "header that is deep": (safetensors_of(b"[" * 10**5), True, "model.safetensors"),
    "tensor of a terabyte": (
        safetensors_of(header_of(w=entry(shape=[2**38], offsets=[0, BIG]))), True, "model.safetensors",
    ),
    "alias of nothing": (
        safetensors_of(header_of(__metadata__={"alias:x": "y"})), True, "model.safetensors",
    ),
    "manifest that is deep": (file_of(MANIFEST, b"[" * 10**5), False, MANIFEST),
    "manifest of megabytes": (file_of(MANIFEST, b"[" + b"1," * 6 * 10**6 + b"1]"), False, MANIFEST),
    "manifest with a long number": (file_of(MANIFEST, b'{"format": ' + b"1" * 10**4 + b"}"), False, MANIFEST),
    # damage
    "truncated weights": (cut("model.safetensors"), True, "model.safetensors"),
    "wrong size": (cut("trainer.pt"), False, "bytes instead of"),
    "wrong checksum": (trainer_with(extra=1), False, "trainer.pt"),
    "other weights": (
        safetensors_of(header_of(w=entry()), bytes(8)), True, "does not fit this model",
    ),
    # paths
    "manifest names a file outside": (names_in_manifest("../../../secret"), False, MANIFEST),
    "manifest names a device": (names_in_manifest("/dev/null"), False, MANIFEST),
    "manifest forgets a file": (manifest_with(files={}), False, MANIFEST),
    "manifest as a list": (file_of(MANIFEST, b"[]"), False, MANIFEST),
    "manifest of another step": (manifest_with(step=10**9), False, MANIFEST),
    "future format": (manifest_with(format=99), False, "reads 1"),
    # wrong content
    "trainer as a list": (torch_file("trainer.pt", lambda old: [old]), True, "trainer.pt"),
    "no progress": (torch_file("trainer.pt", lambda old: {"data": {}}), True, "trainer.pt"),
    "unknown progress": (progress_with(pwned=1), True, "trainer.pt"),
    "another step": (progress_with(step=10**12), True, "trainer.pt"),
    "step as text": (progress_with(step="2"), True, "trainer.pt"),
    "loss as a list": (progress_with(loss=[1]), True, "trainer.pt"),
    "far position": (data_with(position=10**15), True, "trainer.pt"),
    "negative position": (data_with(position=-1), True, "trainer.pt"),
    "generator of another kind": (rng_with(torch=torch.zeros(3)), True, "trainer.pt"),
    "no generators": (trainer_with(rng={}), True, "trainer.pt"),
    "state as a list": (torch_file("optimizer.pt", lambda old: [1, 2]), True, "optimizer.pt"),
    "no groups": (torch_file("optimizer.pt", lambda old: {"state": {}}), True, "optimizer.pt"),
    "state of other shapes": (
        state_with(lambda old: old | {"exp_avg": torch.zeros(3, 5, 7)}), True, "optimizer.pt",
    ),
    "state as numbers": (state_with(lambda old: old | {"exp_avg": 1.0}), True, "optimizer.pt"),
    "state of nobody": (
        torch_file("optimizer.pt", lambda old: old | {"state": {99: {"x": torch.zeros(1)}}}), True, "optimizer.pt",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two steps, made once; its files as they were."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "model.py").write_text(MODEL)
    (folder / "recipe.yaml").write_text(RECIPE)
    path = folder / "recipe.yaml"
    recipe = with_settings(load_recipe(path), ["schedule.steps=4", "checkpoint.every=2"])
    train(recipe, recipe_path=path, output=folder / "run", device="cpu")
    return folder


@pytest.fixture
def killed(trained, tmp_path, monkeypatch):
    """A copy of the run as a kill after step 2 would have left it; its checkpoint."""
    folder = tmp_path / "project"
    shutil.copytree(trained, folder)
    monkeypatch.chdir(folder)
    (folder / "secret").write_text("mine")
    run = folder / "run"
    for name in ("result.json", "model.safetensors"):
        (run / name).unlink()
    shutil.rmtree(run / "checkpoints" / "step-4")
    return run / "checkpoints" / "step-2"


WORDS = ["train", "run/recipe.yaml", "--output", "run", "--resume", "--device", "cpu"]


def test_the_checkpoint_itself_is_good(killed, capsys):
    status, _, lines = ends(capsys, WORDS)
    assert status == 0, lines


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_checkpoint_is_refused(killed, capsys, name):
    change, signed, says = HOSTILE[name]
    change(killed)
    if signed:
        sign(killed)
    folder = killed.parents[2]
    before = sorted(path for path in folder.rglob("*") if path.name != "__pycache__")
    check_refused(ends(capsys, WORDS), folder, says)
    after = sorted(path for path in folder.rglob("*") if path.name != "__pycache__")
    assert [path for path in after if "__pycache__" not in path.parts] == [
        path for path in before if "__pycache__" not in path.parts
    ]
    assert (folder / "secret").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (".step-9.partial", WORDS),
        (".step-9.deleted", WORDS),
        ("step-1", WORDS),
        ("step-1", [*WORDS[:4], "--force", "--device", "cpu"]),
    ],
)
def test_what_a_link_in_the_folder_leads_to_stays(killed, capsys, tmp_path, name, words):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "photo").write_text("mine")
    (killed.parent / name).symlink_to(precious, target_is_directory=True)
    status, _, lines = ends(capsys, [*words, "checkpoint.keep=1"])
    assert status == 0, lines
    assert (precious / "photo").read_text() == "mine"
    assert not (killed.parent / name).is_symlink()


RESULTS = {
    "deep": b"[" * 10**5,
    "code": pickle.dumps(Code()),
    "numbers as text": json.dumps({"step": "4", "steps": 4}).encode(),
    "NaN": b'{"step": NaN}',
    "list": b"[1]",
    "empty": b"",
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_hostile_result_is_refused(killed, capsys, name):
    run = killed.parents[1]
    (run / "result.json").write_bytes(RESULTS[name])
    check_refused(ends(capsys, WORDS), run, "result.json is damaged")


METRICS = {
    "deep": b"[" * 10**5,
    "binary": bytes(range(256)),
    "long": b'"' + b"x" * 10**7,
    "text for numbers": b'{"step": 1, "step_ms": "soon"}\n{"step": 2, "step_ms": {}}',
    "NaN": b'{"step": 1, "step_ms": NaN}\n{"step": 2, "step_ms": NaN}',
    "steps of a nation": b'{"step": 1e400}\n{"step": ' + b"9" * 4000 + b"}\n",
}


@pytest.mark.parametrize("name", METRICS)
def test_hostile_metrics_are_skipped(killed, capsys, name):
    """What was logged is not what is trained from: damaged lines are left out."""
    run = killed.parents[1]
    (run / "metrics.jsonl").write_bytes(METRICS[name])
    status, _, lines = ends(capsys, WORDS)
    assert status == 0, lines
    check_no_canary(run)
    assert (run / "result.json").exists()


def test_pickles_of_code_would_have_run(tmp_path, monkeypatch):
    """The canary is a real one."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Code()))
    assert (tmp_path / CANARY).exists()
    (tmp_path / CANARY).unlink()
    assert sys.getrecursionlimit() < 10**5
