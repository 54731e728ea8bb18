"""Hostile profiles: refused with one line where they are no profiles, and shown as plain text where they are."""

from __future__ import annotations

import copy
import json
import os
import pickle
from collections.abc import Callable

import pytest

from subopt.profilers.history.runs import history_file
from subopt.profilers.record.profile import Profile

from ..cli.full_profile import full_profile
from .hostile import check_no_canary, check_refused, ends
from .run_folder.test_hostile_checkpoints import Code

ESCAPES = "\x1b[2J\x1b]0;pwned\x07\x9b31m\u202e"
HTML = "<script>document.title='pwned'</script><img src=x onerror=alert(1)>"
GIGANTIC = 10**400


@pytest.fixture(scope="module")
def good() -> dict:
    return json.loads(full_profile(4).model_dump_json())


def at(document: dict, path: str):
    """Return the container of a dotted path and its last key."""
    *parts, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in parts:
        document = document[part]
    return document, last


def put(path: str, value: object) -> Callable[[dict], object]:
    def change(document: dict) -> str:
        inside, key = at(document, path)
        inside[key] = value
        return json.dumps(document)

    return change


def raw(path: str, text: str) -> Callable[[dict], object]:
    """Put JSON text in that `json.dumps` would not write."""

    def change(document: dict) -> str:
        return put(path, "@@@")(document).replace('"@@@"', text)

    return change


def without(path: str) -> Callable[[dict], object]:
    def change(document: dict) -> str:
        inside, key = at(document, path)
        del inside[key]
        return json.dumps(document)

    return change


def race(**changes: object) -> dict:
    return {
        "baseline": "adamw", "metric": "held-out loss", "minutes": 1.0, "spent_seconds": 1.0, "horizon_seconds": 1.0,
        "device": "cpu", "precision": "fp32", "batch_size": 8, "seeds": [0], "fallback_lr": 0.001, "contestants": [],
        "trials": [],
    } | changes  # fmt: skip


# name: what to do to a good profile's document; the result is the file's text or bytes
HOSTILE: dict[str, Callable[[dict], object]] = {
    "nothing": lambda d: "",
    "a pickle of code": lambda d: pickle.dumps(Code()),
    "UTF-16": lambda d: json.dumps(d).encode("utf-16"),
    "cut short": lambda d: json.dumps(d)[:-100],
    "two documents": lambda d: json.dumps(d) * 2,
    "deep lists": lambda d: "[" * 10**5,
    "deep in a field": raw("target.kwargs", '{"a":' * 10**5 + "1" + "}" * 10**5),
    "a list": lambda d: json.dumps([d]),
    "NaN": raw("forward_backward_ms", "NaN"),
    "an exponent beyond all": raw("forward_backward_ms", "1e999"),
    "negative time": put("forward_backward_ms", -1.0),
    "bytes of a hundred digits": put("memory.peak_bytes", GIGANTIC),
    "bytes beyond 64 bits": put("memory.parameter_bytes", 2**63),
    "negative bytes": put("memory.parameter_bytes", -1),
    "half a byte": put("memory.parameter_bytes", 0.5),
    "shape of many numbers": put("layers.0.shape", [1] * 10**6),
    "shape beyond all": put("layers.0.shape", [2**60, 2**60]),
    "negative shape": put("layers.0.shape", [-1, 4]),
    "another version": put("schema_version", 2),
    "version as text": put("schema_version", "1"),
    "no layers": without("layers"),
    "unknown key": put("__class__", "x"),
    "unknown role": put("layers.0.role", "eval"),
    "phases as a list": put("methods.0.peak.by_phase", [1, 2]),
    "batch of negative size": put("settings.batch_size", -8),
    "gigantic batch": put("settings.batch_size", GIGANTIC),
    "rank of zero": put("settings.rank", 0),
    "rank beyond all": put("settings.rank", 2**60),
    "a race with a loss of NaN": raw(
        "race",
        json.dumps(race(trials=[{
            "method": "adamw", "lr": 1.0, "seed": 0, "role": "search", "status": "done", "steps": 1, "seconds": 1.0,
            "tokens": 1, "loss": "@",
        }])).replace('"@"', "NaN"),
    ),
    "a race without seeds": put("race", {key: value for key, value in race().items() if key != "seeds"}),
    "calibration of nothing": put("calibration", {"peak": {"runs": 1, "median": 0, "least": 0, "largest": 0}}),
}  # fmt: skip

ADVICE = ["recommend", "--profile", "profile.json", "--gpu-mem", "24G", "-o", "new.yaml"]
REPORT = ["report", "profile.json", "-o", "report.html"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_profile_is_refused(good, tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    content = HOSTILE[name](copy.deepcopy(good))
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "profile.json").write_bytes(data)
    check_refused(ends(capsys, ADVICE), tmp_path, "profile.json")
    assert {path.name for path in tmp_path.iterdir()} == {"profile.json"}


def test_a_report_refuses_what_the_advice_does(good, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "profile.json").write_text(HOSTILE["deep in a field"](copy.deepcopy(good)))
    check_refused(ends(capsys, REPORT), tmp_path, "profile.json")
    assert {path.name for path in tmp_path.iterdir()} == {"profile.json"}


def test_a_pipe_is_no_profile(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    os.mkfifo(tmp_path / "profile.json")
    check_refused(ends(capsys, ADVICE), tmp_path, "not a file")


def test_a_key_given_twice_counts_once(good, tmp_path, monkeypatch, capsys):
    """JSON leaves open what that means: the last one counts, and it is checked like any other."""
    monkeypatch.chdir(tmp_path)
    text = json.dumps(good)[:-1] + ', "schema_version": 2}'
    (tmp_path / "profile.json").write_text(text)
    check_refused(ends(capsys, ADVICE), tmp_path, "schema_version")


# dotted paths of texts that are shown
TEXTS = [
    "target.spec", "target.picked", "environment.platform", "layers.0.name", "layers.0.reason",
    "layers.0.module_type", "missing.0", "decompositions.0.kernel", "spent.0.on", "memory.contents.0.name",
]  # fmt: skip


@pytest.mark.parametrize(
    "words", [ADVICE, [*ADVICE, "--explain"], REPORT, ["export", "profile.json"]]
)
def test_names_are_shown_and_not_obeyed(good, tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    document = copy.deepcopy(good)
    for path in TEXTS:
        inside, key = at(document, path)
        inside[key] = f"{inside[key]}{ESCAPES}{HTML}"
    (tmp_path / "profile.json").write_text(json.dumps(document))
    status, out, lines = ends(capsys, words)
    assert status in {0, 2}, lines
    shown = out + "\n".join(lines)
    assert not {"\x1b", "\x07", "\x9b"} & set(shown)
    for file in tmp_path.glob("*.html"):
        page = file.read_text()
        assert "<script>document.title" not in page
        assert "<img src=x" not in page
    check_no_canary(tmp_path)


def test_numbers_within_all_bounds_are_reckoned_with(good, tmp_path, monkeypatch, capsys):
    """The largest numbers that a profile may hold make nothing overflow and nothing large."""
    monkeypatch.chdir(tmp_path)
    document = copy.deepcopy(good)
    for cost in document["methods"]:
        cost["state_bytes"] = cost["peak"]["bytes"] = cost["peak"]["high_bytes"] = 2**63 - 1
    for layer in document["layers"]:
        layer["shape"] = [2**48, 2**48]
    document["forward_backward_ms"] = 1e18
    Profile.model_validate_json(json.dumps(document))
    (tmp_path / "profile.json").write_text(json.dumps(document))
    status, _, lines = ends(capsys, ADVICE)
    assert status in {0, 3}, lines
    assert not any("failed" in line for line in lines)


HISTORIES = {
    "deep": b"[" * 10**5,
    "binary": bytes(range(256)) * 100,
    "a pickle of code": pickle.dumps(Code()),
    "no line breaks": b"x" * 2 * 10**7,
    "lines": b"{}\n" * 10**5,
}


@pytest.mark.parametrize("name", HISTORIES)
def test_a_hostile_history_is_skipped(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    history_file().parent.mkdir(parents=True)
    history_file().write_bytes(HISTORIES[name])
    status, out, lines = ends(capsys, ["doctor", "--device", "cpu"])
    assert status == 0, lines
    assert "none yet" in out
    check_no_canary(tmp_path)
