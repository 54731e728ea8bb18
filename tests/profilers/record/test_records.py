"""The profile file: what is written reads back the same, and what is not a profile is refused in one line."""

from __future__ import annotations

import json

import pytest

from subopt.errors import FileFormatError
from subopt.profilers.record.profile import (
    Environment,
    Layer,
    Memory,
    MethodCost,
    Peak,
    PhasePeaks,
    Profile,
    Settings,
    Spectrum,
    Spread,
    Target,
)

SPREAD = Spread(mean=1.5, min=1.0, max=2.0)


@pytest.fixture
def profile():
    return Profile(
        target=Target(spec="model.py", picked="build_model", kwargs={"size": "tiny", "layers": 2}),
        environment=Environment(
            subopt="0", torch="2", python="3", platform="x", device="cpu", threads=1
        ),
        settings=Settings(batch_size=8, batches=8, rank=4),
        layers=[
            Layer(
                name="w",
                shape=[4, 8],
                kind="Linear",
                role="matrix",
                reason="a matrix",
                spectrum=Spectrum(
                    stable_rank=SPREAD,
                    effective_rank=SPREAD,
                    rank_at_energy={"0.90": SPREAD},
                    energy_at_rank={"2": SPREAD},
                ),
            )
        ],
        memory=Memory(
            parameter_bytes=1, gradient_bytes=1, optimizer_state_bytes=2, source="formula"
        ),
        methods=[
            MethodCost(
                method="lion",
                options={"betas": [0.9, 0.99], "state_dtype": None, "clip": True},
                state_bytes=1,
                transient_bytes=1,
                peak=Peak(
                    bytes=5,
                    low_bytes=4,
                    high_bytes=6,
                    phase="step",
                    by_phase=PhasePeaks(step=5),
                    source="formula",
                ),
                step_flops=1.0,
                bound_flops=0.0,
                step_ms=1.0,
                overhead_ms=-0.5,
                step_ms_source="measured",
            )
        ],
        missing=["memory: interrupted"],
        interrupted=True,
    )


def test_a_profile_reads_back_the_same(profile, tmp_path):
    path = tmp_path / "folder" / "profile.json"
    profile.save(path)
    assert Profile.load(path) == profile
    assert [file.name for file in path.parent.iterdir()] == ["profile.json"]


def test_a_rank_stays_a_count_or_a_share(profile, tmp_path):
    for rank in (1, 1.0, 0.25):
        settings = profile.settings.model_copy(update={"rank": rank})
        path = tmp_path / "profile.json"
        profile.model_copy(update={"settings": settings}).save(path)
        read = Profile.load(path).settings.rank
        assert (read, type(read)) == (rank, type(rank))


def test_saving_over_a_profile_replaces_it(profile, tmp_path):
    path = tmp_path / "profile.json"
    profile.save(path)
    profile.model_copy(update={"missing": []}).save(path)
    assert Profile.load(path).missing == []


def damaged(profile, change):
    document = json.loads(profile.model_dump_json())
    change(document)
    return json.dumps(document)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda d: d.update(extra=1), "extra"),
        (lambda d: d.update(schema_version=2), "schema_version"),
        (lambda d: d["memory"].update(parameter_bytes=-1), "memory.parameter_bytes"),
        (lambda d: d["methods"][0].pop("state_bytes"), "methods.0.state_bytes"),
        (lambda d: d["settings"].update(dtype="fp8"), "settings.dtype"),
    ],
)
def test_a_wrong_document_is_refused_with_the_place(profile, tmp_path, change, where):
    path = tmp_path / "profile.json"
    path.write_text(damaged(profile, change))
    with pytest.raises(FileFormatError, match=where) as caught:
        Profile.load(path)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("content", [b"{", b"", b"[1, 2]", b"\xff\xfe\x00"])
def test_what_is_not_a_profile_is_refused(tmp_path, content):
    path = tmp_path / "profile.json"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"profile\.json"):
        Profile.load(path)


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(FileFormatError) as caught:
        Profile.load(tmp_path / "profile.json")
    assert "subopt profile" in caught.value.hint
