"""Hostile recipes: each is refused with one line, runs nothing, and costs neither time nor memory."""

from __future__ import annotations

import os
import subprocess

import pytest

from .conftest import MODEL
from .hostile import CANARY, check_refused, ends

GOOD = """\
model: {target: model.py}
data: {batch_size: 8}
optimizer: {method: adamw, lr: 1e-2}
schedule: {steps: 2}
"""
RUN = f"touch {CANARY}"


def with_model(model: str) -> str:
    return GOOD.replace("{target: model.py}", model)


def with_optimizer(rest: str) -> str:
    return GOOD.replace("lr: 1e-2}", f"lr: 1e-2, {rest}}}")


def with_files(files: str) -> str:
    return GOOD.replace("{batch_size: 8}", f"{{batch_size: 8, files: {files}}}")


def nested(depth: int) -> str:
    return GOOD + "eval: " + "{a: " * depth + "1" + "}" * depth + "\n"


LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + k)}: &{chr(98 + k)} [*{chr(97 + k)}, *{chr(97 + k)}]\n" for k in range(20)
)

# name: (the file, what the message must say)
HOSTILE: dict[str, tuple[str | bytes, str]] = {
    # code in YAML
    "os.system by tag": (f"!!python/object/apply:os.system ['{RUN}']\n", "tags"),
    "name by tag": (with_model("{target: !!python/name:os.system }"), "tags"),
    "key by tag": ("!!python/object/apply:os.system [x]: 1\n", "tags"),
    "local tag": (GOOD + "seed: !env HOME\n", "tags"),
    "tag by its address": (GOOD + "seed: !<tag:yaml.org,2002:python/name:os.system> x\n", "tags"),
    "tag by a handle": ("%TAG ! tag:yaml.org,2002:python/\n---\na: !name:os.system x\n", "tags"),
    "merge key": ("<<: {seed: 1}\n" + GOOD, "unknown key '<<'"),
    # size
    "billion laughs": (LAUGHS, "anchors"),
    "nested lists": ("a: " + "[" * 100_000, "nested"),
    "nested blocks": ("".join(f"{' ' * k}a:\n" for k in range(900)), "nested"),
    "ten megabytes": ("# " + "x" * 10_000_000, "too large"),
    "many keys": ("".join(f"k{k}: 1\n" for k in range(400)), "unknown key"),
    "a long list": (with_optimizer("options: {betas: [" + "0.5, " * 1_000 + "0.5]}"), "betas"),
    # numbers
    "gigantic whole number": (GOOD.replace("steps: 2", "steps: " + "9" * 5_000), "schedule.steps"),
    "gigantic steps": (GOOD.replace("steps: 2", f"steps: {10**30}"), "schedule.steps"),
    "gigantic exponent": (GOOD.replace("1e-2", "1e999999999"), "optimizer.lr"),
    "gigantic base 60": (GOOD.replace("steps: 2", "steps: " + ":".join(["59"] * 5_000)), "steps"),
    "infinity": (GOOD.replace("1e-2", ".inf"), "optimizer.lr"),
    "not a number in an option": (with_optimizer("options: {eps: .nan}"), "eps"),
    "negative steps": (GOOD.replace("steps: 2", "steps: -5"), "schedule.steps"),
    "zero batch": (GOOD.replace("batch_size: 8", "batch_size: 0"), "data.batch_size"),
    "negative seed": (GOOD + "seed: -1\n", "seed"),
    "seed of many bits": (GOOD + f"seed: {2**80}\n", "seed"),
    # types and keys
    "steps as text": (GOOD.replace("steps: 2", "steps: '2'"), "schedule.steps"),
    "method as a list": (GOOD.replace("method: adamw", "method: [adamw]"), "optimizer.method"),
    "options as text": (with_optimizer("options: rank"), "options"),
    "overrides as a mapping": (with_optimizer("overrides: {a: 1}"), "overrides"),
    "key given twice": (GOOD + "seed: 1\nseed: 2\n", "given twice"),
    "a list as key": ("? [a, b]\n: 1\n", "a key must be a word"),
    "two documents": (GOOD + "---\n" + GOOD, "second document"),
    "escape in a key": (GOOD + '"\\x1b]0;pwned\\x07": 1\n', "unknown key"),
    "line break in a method": (GOOD.replace("adamw", '"adamw\\nerror: all is lost"'), "method"),
    # bytes
    "NUL": (GOOD.encode() + b"seed: \x00\n", "not YAML"),
    "UTF-16": (GOOD.encode("utf-16"), "not UTF-8"),
    "escaped surrogate": (GOOD + 'precision: "\\uD800"\n', "precision"),
    "nothing": (b"", "empty"),
    "a byte order mark alone": (b"\xef\xbb\xbf", "empty"),
    # what a target may name
    "standard library": (with_model(f'{{target: "os:system", kwargs: {{command: {RUN}}}}}'), "os"),
    "installed module": (with_model('{target: "torch.hub:load"}'), "torch"),
    "standard library by file": (with_model(f'{{target: "{subprocess.__file__}:run"}}'), "subprocess"),
    "our own module": (with_model('{target: "subopt.app:main"}'), "subopt"),
    "parent folder": (with_model("{target: ../outside.py}"), "outside.py"),
    "a device": (with_model("{target: /dev/zero}"), "/dev/zero"),
    "a folder": (with_model("{target: .}"), "error: "),
    "a name of a megabyte": (with_model("{target: " + "a" * 500_000 + "}"), "error: "),
    "NUL in the name": (with_model('{target: "model\\0.py"}'), "error: "),
    "no attribute": (with_model('{target: "model.py:"}'), "error: "),
    "attribute of an attribute": (with_model('{target: "model.py:torch.hub.load"}'), "error: "),
    "imported by the model": (with_model('{target: "model.py:nn"}'), "error: "),
    "private function": (with_model('{target: "model.py:__builtins__"}'), "error: "),
    "unknown argument": (with_model("{target: model.py, kwargs: {__class__: 1}}"), "__class__"),
    # patterns
    "pattern that hangs": (with_optimizer("overrides: [{pattern: '(a+)+$', lr: 0.1}]"), "pattern"),
    "pattern without end": (with_optimizer("overrides: [{pattern: '" + "(" * 5000 + "'}]"), "pattern"),
    "pattern of gigabytes": (with_optimizer("overrides: [{pattern: 'a{4000000000}'}]"), "override"),
    # data files
    "files outside by pattern": (with_files("{train: ['../../*.txt']}"), "error: "),
    "a secret": (with_files("{train: [nowhere.txt], tokenizer: /etc/passwd}"), "error: "),
    "a device as data": (with_files("{train: [/dev/zero]}"), "error: "),
    "no files": (with_files("{train: []}"), "error: "),
    "a pattern for everything": (with_files("{train: ['/proc/*/mem']}"), "error: "),
    "gigantic windows": (
        with_files("{train: [model.py], format: text, sequence_length: 999999999999}"), "error: ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_recipe_is_refused(tmp_path, monkeypatch, capsys, name):
    content, says = HOSTILE[name]
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "model.py").write_text(MODEL)
    path = folder / "recipe.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    check_refused(ends(capsys, ["train", "recipe.yaml", "--device", "cpu"]), folder, says)
    assert not (folder / "runs").exists()


def test_a_fifo_is_refused_or_never_opened(tmp_path, monkeypatch, capsys):
    """A recipe that is no plain file must not make the command wait for ever."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo(tmp_path / "recipe.yaml")
    check_refused(ends(capsys, ["train", "recipe.yaml"]), tmp_path, "not a file")


@pytest.mark.parametrize("override", ["seed=!!python/name:os.system", "seed=&a [*a]", "a.b.c=1",
                                      "model.__class__=1", "schedule.steps=1e400", "data.files.train.0=x"])  # fmt: skip
def test_a_hostile_override_is_refused(recipe_path, monkeypatch, capsys, override):
    folder = recipe_path.parent
    monkeypatch.chdir(folder)
    check_refused(ends(capsys, ["train", "recipe.yaml", override]), folder, "error: ")
