"""Files that somebody else wrote, and files that must not be lost: every command that reads or writes a profile."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .full_profile import full_profile

READERS = {
    "report": ["report", "p.json"],
    "compare": ["compare", "p.json", "p.json"],
    "export": ["export", "p.json", "-o", "tables"],
    "recommend": ["recommend", "--profile", "p.json", "--gpu-mem", "24G", "-o", "new.yaml"],
}
ABSURD = 10**400


def matrix(document):
    return next(layer for layer in document["layers"] if layer["spectrum"])


def life(document):
    return next(iter(matrix(document)["subspace"].values()))


# What is wrong with a profile that is JSON and has every key.
DAMAGES = {
    "no numbers in a measured layer": lambda d: matrix(d).update(shape=[0, 64]),
    "a negative side": lambda d: matrix(d).update(shape=[-4, 64]),
    "an absurd side": lambda d: matrix(d).update(shape=[ABSURD, 64]),
    "many sides": lambda d: matrix(d).update(shape=[2**40] * 40),
    "a rank that is no number": lambda d: matrix(d)["spectrum"]["energy_at_rank"].update(
        x=dict.fromkeys(("mean", "min", "max"), 0.5)
    ),
    "an energy that is no number": lambda d: matrix(d)["spectrum"]["rank_at_energy"].update(
        most=dict.fromkeys(("mean", "min", "max"), 1.0)
    ),
    "absurd bytes": lambda d: d["memory"].update(peak_bytes=ABSURD),
    "more bytes than 64 bits hold": lambda d: d["methods"][0].update(state_bytes=2**63),
    "negative bytes": lambda d: d["methods"][0].update(state_bytes=-1),
    "an absurd rank": lambda d: d["settings"].update(rank=ABSURD),
    "an absurd batch size": lambda d: d["settings"].update(batch_size=ABSURD),
    "a short curve": lambda d: life(d)["frozen"].pop(),
    "a short histogram": lambda d: matrix(d)["off_diagonal"]["absolute"]["raw"].pop(),
    "an absurd bin": lambda d: matrix(d)["off_diagonal"].update(
        edges=[1e300 for _ in matrix(d)["off_diagonal"]["edges"]]
    ),
    "inputs of no width": lambda d: matrix(d)["activations"].update(width=0),
    "an age that is no number": lambda d: matrix(d)["diagonality"]["stale"].update(
        old={"ratio": 0.5, "unbiased": 0.5}
    ),
    "a time in words": lambda d: d.update(forward_backward_ms="soon"),
    "a key of a later version": lambda d: d.update(more=1),
    "another version": lambda d: d.update(schema_version=2),
}


def check(ended, says: str) -> None:
    assert ended.status == 2, ended.err
    assert ended.out == ""
    assert says in ended.lines[0]
    assert "Traceback" not in ended.err
    assert 1 <= len(ended.lines) <= 2, ended.err


@pytest.fixture(scope="module")
def document() -> str:
    return full_profile(2).model_dump_json()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_profile_is_refused_when_it_is_read(subopt, folder, document, damage):
    damaged = json.loads(document)
    DAMAGES[damage](damaged)
    (folder / "p.json").write_text(json.dumps(damaged))
    before = sorted(folder.iterdir())
    for words in READERS.values():
        check(subopt(*words), "p.json is not a profile: ")
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "is not a profile"),
        (b"\xff\xfe\x00", "is not a profile"),
        (b"", "is not a profile"),
        (b"[1, 2]", "is not a profile"),
        (b"[" * 100_000, "is not a profile"),
        (b"1" * 10_000, "is not a profile"),
    ],
    ids=["a folder", "no text", "empty", "a list", "deep", "a number"],
)
@pytest.mark.parametrize("command", READERS)
def test_what_is_no_profile_at_all_is_refused(subopt, folder, command, content, says):
    if content is None:
        (folder / "p.json").mkdir()
        says = "p.json cannot be read: Is a directory"
    else:
        (folder / "p.json").write_bytes(content)
    check(subopt(*READERS[command]), says)


def test_a_name_cannot_command_the_terminal(subopt, folder):
    name = "\x1b]0;owned\x07\x1b[2J\x9b31mlayer\x7f"
    found = full_profile(2)
    layers = [
        layer.model_copy(update={"name": f"{i}{name}"}) for i, layer in enumerate(found.layers)
    ]
    target = found.target.model_copy(update={"spec": name})
    hostile = found.model_copy(update={"layers": layers, "target": target, "missing": [name]})
    hostile.save(folder / "a.json")
    found.save(folder / "p.json")
    ended = [
        subopt("compare", "a.json", "p.json"),
        subopt("recommend", "--profile", "a.json", "--gpu-mem", "24G", "-o", "new.yaml"),
        subopt("compare", "a\x1b[2J.json", "p.json"),
    ]
    for one in ended:
        shown = one.out + one.err
        assert [c for c in shown if (ord(c) < 32 and c != "\n") or 127 <= ord(c) < 160] == []
    assert "]0;owned" in ended[0].out  # the rest of it is shown


def test_a_profile_does_not_take_the_place_of_another_file(subopt, folder, two_methods):
    before = (folder / "model.py").read_text()
    check(subopt("profile", "model.py", "-o", "model.py"), "model.py exists and is not a profile")
    assert (folder / "model.py").read_text() == before
    words = ["profile", "model.py", "--simulate", "-o", "own.json"]
    (folder / "own.json").touch()  # as mktemp makes one
    assert subopt(*words).status == 0
    assert subopt(*words).status == 0


@pytest.mark.parametrize("command", ["profile", "report", "recommend"])
def test_a_device_is_not_replaced_by_a_file(subopt, folder, command):
    full_profile(2).save(folder / "p.json")
    words = {"profile": ["profile", "model.py", "--simulate"]} | READERS
    ended = subopt(
        *[word for word in words[command] if word not in {"-o", "new.yaml"}], "-o", "/dev/null"
    )
    check(ended, "/dev/null is no ordinary file")
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize("option", ["--rank", "--batch-size", "--batches", "--steps", "--seed"])
def test_an_absurd_number_is_named_with_its_option(subopt, folder, option):
    check(subopt("profile", "model.py", option, str(10**30)), f"{option}: ")


@pytest.mark.parametrize("command", ["profile", "report", "export", "recommend"])
def test_a_name_too_long_for_a_file_is_refused(subopt, folder, command):
    full_profile(2).save(folder / "p.json")
    words = {"profile": ["profile", "model.py", "--simulate"]} | READERS
    check(subopt(*words[command], "-o", "a" * 300), "cannot be written: File name too long")


def test_a_folder_of_a_tables_name_is_not_replaced(subopt, folder):
    full_profile(2).save(folder / "p.json")
    (folder / "tables" / "methods.csv").mkdir(parents=True)
    check(subopt(*READERS["export"]), "tables/methods.csv is a folder")
    assert [path.name for path in (folder / "tables").iterdir()] == ["methods.csv"]


NINES = 5000 * "9"


@pytest.mark.parametrize(
    "words",
    [
        ["profile", "a" * 5000],
        ["profile", "a" * 300 + ".py"],
        ["profile", "model.py", "--input", f"float32[2,{NINES}]"],
        ["profile", "model.py", "--input", f"int64[2,3]<{NINES}"],
        ["profile", "model.py", f"width={400 * '9'}"],
        ["recommend", "--profile", "p.json", "--gpu-mem", "24G", "--batch-size", NINES],
        ["recommend", "--profile", "p.json", "--gpu-mem", "24G", "--batch-size", str(10**30)],
    ],
    ids=["target", "file", "input", "bound", "argument", "digits", "batch size"],
)
def test_an_absurdly_long_word_is_refused(subopt, folder, words):
    full_profile(2).save(folder / "p.json")
    check(subopt(*words), "error: ")
