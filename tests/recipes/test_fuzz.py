"""Fuzzed files: whatever is done to a valid one, reading it gives a valid object or one of our errors, nothing else.

SUBOPT_FUZZ=10000 pytest tests/recipes/test_fuzz.py tries that many of each kind.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from subopt.errors import SuboptError
from subopt.profilers.history import runs as history
from subopt.profilers.record.profile import Profile
from subopt.recipes.race.design import designs
from subopt.recipes.race.folder import Entry, Point, RaceFolder, RacePlan
from subopt.recipes.race.standing import Standing
from subopt.recipes.recipe.load import dump_recipe, load_recipe, parse_recipe
from subopt.recipes.run_folder import checkpoint
from subopt.recipes.run_folder.result import Figures, Result
from subopt.recipes.training.metrics import median_step_ms, read_metrics

from ..cli.full_profile import full_profile
from ..profilers.history.test_runs import run_of

EXAMPLES = int(os.environ.get("SUBOPT_FUZZ", "60"))

RECIPE = """
model: {target: model.py, kwargs: {width: 8, name: x}}
data: {batch_size: 8, files: {train: [a.txt], tokenizer: bytes}}
optimizer:
  method: galore
  lr: 0.01
  options: {rank: 4, betas: [0.9, 0.99]}
  overrides: [{pattern: 'inner.*', lr: 0.1}, {pattern: head, method: soap, options: {period: 4}}]
schedule: {steps: 6, warmup_steps: 2}
why: {evidence: ["it was there"], predicted_step_ms: 1.5}
"""
RESULT = Result(
    target="m", method="adamw", device="cpu", precision="fp32", steps=4, step=4, resumed_from=0, interrupted=False,
    tokens=9, loss=1.0, eval_loss=None, wall_s=1.0, predicted=Figures(1, 2, 3.0), actual=Figures(1, None, 3.0),
    peak_source="process", output="run", checkpoint=None, weights="w", diagnostics={"refreshes": 1.0},
)  # fmt: skip
METRICS = [{"step": step, "loss": 1.0, "step_ms": 2.0, "eval_loss": None} for step in range(1, 6)]
MANIFEST = {
    "format": 1, "step": 2, "torch": "2",
    "files": {name: {"bytes": 0, "crc32": 0} for name in sorted(checkpoint._FILES)},
}  # fmt: skip
PLAN = RacePlan(
    settings={"share": "0.1"}, design=designs(1)[0], run_seconds=1.0,
    candidates=[{"method": "adamw", "start_lr": 0.1, "fallback_lr": 0.1, "weight_decay": 0.1, "steps": 1000}],
    step_times={"adamw": {"ordinary_ms": 1.0, "state_bytes": 8}}, left_out=[], spent_seconds=0.0,
)  # fmt: skip
ENTRY = Entry(
    point=Point(method="adamw", lr=0.1, share=0.02, step=20, tokens=160, loss=1.0, batch_losses=[1.0, 1.0]),
    wall_seconds=1.0,
)  # fmt: skip


def small_profile() -> str:
    whole = full_profile(1)
    return whole.model_copy(update={"methods": whole.methods[:2]}).model_dump_json()


def read_race(path: Path) -> None:
    folder = RaceFolder(path.parent)
    if path == folder.plan:
        plan, entries = folder.load_plan(PLAN.settings), []
    else:
        plan, entries = PLAN, folder.load_entries(PLAN)
    standing = Standing(plan, entries)
    for run in standing.runs():
        run.candidate.setting(run.lr)
    standing.next()
    standing.leaders()


def read_history(path: Path) -> None:
    os.environ[history.VARIABLE] = str(path.parent)
    history.past_runs()


def read_log(path: Path) -> None:
    list(read_metrics(path))
    median_step_ms(path)


def lines(*documents: str) -> str:
    return "".join(f"{text}\n" for text in documents)


# name: (the file, a valid content, what reads it)
FILES: dict[str, tuple[str, Callable[[], str], Callable[[Path], object]]] = {
    "recipe": ("recipe.yaml", lambda: dump_recipe(parse_recipe(RECIPE)), load_recipe),
    "recipe as JSON": ("recipe.yaml", lambda: json.dumps(yaml.safe_load(RECIPE)), load_recipe),
    "profile": ("profile.json", small_profile, Profile.load),
    "result": ("result.json", lambda: json.dumps(_plain(RESULT)), Result.load),
    "metrics": ("metrics.jsonl", lambda: lines(*map(json.dumps, METRICS)), read_log),
    "history": ("runs.jsonl", lambda: lines(*(run_of(k).model_dump_json() for k in range(3))), read_history),
    "manifest": ("step-2/checkpoint.json", lambda: json.dumps(MANIFEST), lambda p: checkpoint._verify(p.parent)),
    "race plan": ("plan.json", PLAN.model_dump_json, read_race),
    "race points": ("points.jsonl", lambda: lines(*[ENTRY.model_dump_json()] * 3), read_race),
}  # fmt: skip

NASTY = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**30, 0.5, -0.0, 1e308, 5e-324, "", "x", "\x00",
    "\x1b[2J", "\ud800", "a" * 3000, "../../x", "nan", "1", [], {}, [[]], {"": {}}, [None], {"a": {"b": []}},
    "adamw", "same", "(a+)+$", "(", "*",
]  # fmt: skip
TOKENS = [
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"null", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80",
    b"!!python/name:os.system ", b"&a ", b"*a", b"<<: ", b"---\n", b"%YAML 9.9\n", b"\t", b"\r", b"\xe2\x80\xa8",
    b"|\n",     b">-\n", b"? ", b"{", b"[", b"]", b"}", b":", b",", b'"', b"'", b"\\", b"#", b"[" * 3000,
    b'{"a":' * 3000,
    b"9" * 5000, b"0x" + b"f" * 600, b"59:" * 700 + b"59", b"2026-13-45", b"=", b"~",
]  # fmt: skip


def _plain(result: Result) -> dict:
    from dataclasses import asdict

    return asdict(result)


def places_in(value: object, path: tuple = ()) -> list[tuple]:
    """Return the path of everything inside a document."""
    inside = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    found = [path] if path else []
    for key, item in inside:
        found += places_in(item, (*path, key))
    return found


def change_value(document: object, rng: Random) -> None:
    """Replace, move, remove or double something inside a document."""
    places = places_in(document)
    if not places:
        return
    *parts, last = rng.choice(places)
    inside = document
    for part in parts:
        inside = inside[part]
    action = rng.randrange(5)
    if action == 0:
        del inside[last]
    elif action == 1 and isinstance(inside, dict):
        inside[rng.choice([str(last) + "x", "__class__", "", "1", *map(str, inside)])] = inside.pop(
            last
        )
    elif action == 2:
        *others, end = rng.choice(places)
        other = document
        for part in others:
            other = other[part] if isinstance(other, dict | list) else other
        try:
            inside[last] = json.loads(json.dumps(other[end]))
        except (KeyError, IndexError, TypeError):
            inside[last] = None
    else:
        inside[last] = rng.choice(NASTY)


def change_bytes(data: bytes, rng: Random) -> bytes:
    """Flip, cut, repeat or insert bytes."""
    at, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    action = rng.randrange(6)
    if action == 0 and data:
        at = rng.randrange(len(data))
        return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    if action == 1:
        return data[:at]
    if action == 2:
        return data[:at] + data[min(end, at + 40) :]
    if action == 3:
        return data[:end] + data[at:end][:200] + data[end:]
    if action == 4:
        return data[:at] + bytes(rng.randrange(256) for _ in range(rng.randrange(1, 5))) + data[at:]
    return data[:at] + rng.choice(TOKENS) + data[at:]


def mutated(text: str, rng: Random, *, is_yaml: bool) -> bytes:
    """Return a file that was valid before this."""
    if rng.random() < 0.5:
        documents = (
            [yaml.safe_load(text)] if is_yaml else [json.loads(line) for line in text.splitlines()]
        )
        for _ in range(rng.randrange(1, 4)):
            change_value(rng.choice(documents), rng)
        write = yaml.safe_dump if is_yaml and rng.random() < 0.5 else json.dumps
        text = "\n".join(map(write, documents)) + "\n"
    data = text.encode("utf-8", "surrogatepass")
    for _ in range(rng.randrange(0, 4)):
        data = change_bytes(data, rng)
    return data


def refusal(read: Callable[[Path], object], path: Path) -> SuboptError | None:
    """Return our error where a file is refused, None where it is read; anything else that it raises goes on."""
    try:
        read(path)
    except SuboptError as error:
        return error
    return None


class Valid(dict):
    """Valid contents by name."""

    def __repr__(self):  # hypothesis shows a test's arguments, and warns where they are long
        return "Valid(...)"


@pytest.fixture(scope="module")
def valid() -> Valid:
    return Valid({name: make() for name, (_, make, _) in FILES.items()})


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**48))
def test_a_fuzzed_file_is_read_or_refused(name, seed, valid, tmp_path_factory):
    file, _, read = FILES[name]
    folder = tmp_path_factory.getbasetemp() / "fuzz" / name.replace(" ", "-")
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(mutated(valid[name], Random(seed), is_yaml=name.startswith("recipe")))
    error = refusal(read, path)
    if error is not None:
        assert error.exit_status == 2
        assert "\n" not in error.message
        assert len(error.message) < 1500


@pytest.mark.parametrize("name", FILES)
def test_what_is_fuzzed_is_valid_before(name, valid, tmp_path):
    file, _, read = FILES[name]
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(valid[name])
    for part in checkpoint._FILES:
        (path.parent / part).touch()
    read(path)
